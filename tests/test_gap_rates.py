"""How fast the priority of the relaxation comes to its bound: exactly, along the number of agents.

Where the mean field has a global attractor with one mixed state, exponentially; where no state is
mixed there, as one over the root of N (Gast, Gaujal and Yan 2023, 2024).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je


@jax.jit
def average(chain, rewards):
    return je.stationary_distribution(chain) @ chain.lift(rewards)


def gaps(bandits):
    """Bound less what the priority earns, an agent, of each; and what theory asks of them."""
    found = []
    for bandit in bandits:
        fluid = je.fluid_policy(bandit)
        order = tuple(s for _, s, _ in fluid.priority)
        chain = je.exchangeable_chain(bandit, order)
        found.append((fluid.value - float(average(chain, [bandit.reward]))) / bandit.num_agents)
    fluid = je.fluid_policy(bandits[0])
    attractor = je.check_attractor(bandits[0], tuple(s for _, s, _ in fluid.priority))
    return np.array(found), fluid.nondegenerate and fluid.unique, attractor.verdict


def on_the_border(num_agents):
    """The fifth of the agents that act are exactly those in state 1, in the mean field.

    Acting there is worth 1, or 1/2 without, and helps to stay; in state 0 it does nothing.
    """
    idle = np.array([[0.9, 0.1], [0.8, 0.2]])
    active = np.array([[0.9, 0.1], [0.4, 0.6]])
    reward = np.array([[0.0, 0.0], [0.5, 1.0]])
    arrays = (jnp.asarray(x) for x in (idle, active, reward))
    return je.RestlessBandit(*arrays, num_agents, num_agents // 5, 0.9)


def two_types(num_agents):
    """Machines that wear and patients who drift, half each: two budgets, both spent."""
    wear = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
    repair = np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.9, 0.0, 0.1]])
    machine = je.MDP(
        np.stack([wear, repair], axis=1), np.array([[1.0, 0.8], [0.6, 0.4], [0.0, -0.2]])
    )
    drift = np.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]])
    patient = je.MDP(drift, np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    one, other = np.zeros((3, 2, 2)), np.zeros((2, 3, 2))
    one[:, 1, 0] = other[:, 1, 0] = 1
    other[:, 2] = 1
    return je.WeaklyCoupledPopulation(
        [(machine, one), (patient, other)],
        [num_agents // 2, num_agents // 2],
        [je.Budget(0.5, per_agent=True), je.Budget(0.25, per_agent=True)],
        0.9,
    )


@pytest.mark.slow
def test_the_gap_falls_exponentially_with_two_types_and_two_budgets():
    """The relaxation is non-degenerate: what is asked of one type, by the same measure."""
    sizes, found = (4, 8, 16), []
    for num_agents in sizes:
        population = two_types(num_agents)
        fluid = je.fluid_policy(population)
        assert fluid.nondegenerate
        assert fluid.unique
        assert fluid.active.all()
        chain = je.exchangeable_chain(population, fluid.priority)
        earned = float(average(chain, [kind.mdp.reward for kind in population.types]))
        found.append((fluid.value - earned) / num_agents)
    falls_exponentially(np.array(found), sizes)


def falls_exponentially(found, sizes):
    """Each agent more takes off about the same share, as no power of N does."""
    assert (found > 0).all()
    steps = np.diff(np.log(found)) / np.diff(sizes)
    assert (steps < -0.1).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.2)
    # As N is doubled an exponent doubles its power of N, a power law keeps it: nearer to the first.
    powers = np.diff(np.log(found)) / np.diff(np.log(sizes))
    assert powers[1] / powers[0] > np.sqrt(2)


@pytest.mark.parametrize(("name", "sizes"), [("healthcare", (10, 20, 40)), ("cyclic", (5, 10, 20))])
def test_the_gap_falls_exponentially(name, sizes):
    """Each agent more takes off the same share: no power of N does."""
    found, regular, verdict = gaps([je.named_bandit(name, n).bandit for n in sizes])
    assert regular
    assert verdict is je.Verdict.HOLDS
    falls_exponentially(found, sizes)


@pytest.mark.needs_x64(reason="rounding its kernel to float32 takes it off the border")
def test_the_gap_falls_as_the_root_where_the_attractor_is_on_a_border():
    """Fitted power of N: -1/2 to 0.01; the attractor is global all the same."""
    sizes = (80, 320, 1280)
    found, regular, verdict = gaps([on_the_border(n) for n in sizes])
    assert not regular
    assert verdict is je.Verdict.HOLDS
    assert (found > 0).all()
    power = np.polyfit(np.log(sizes), np.log(found), 1)[0]
    assert abs(power + 0.5) < 0.01
