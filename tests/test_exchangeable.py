"""The exact exchangeable chain against the joint chain, the reference, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxent.bellman import q_values
from jaxent.chain import pair_chain
from jaxent.decomposition import decompose
from jaxent.instances import CIRCULANT_PRIORITY, circulant_bandit
from jaxent.mdp import MDP, RestlessBandit, WeaklyCoupledMDP
from jaxent.policies import index_policy
from jaxent.restless.exchangeable import active_counts, exchangeable_chain
from jaxent.restless.ground_truth import ground_truth
from jaxent.restless.next_counts import configuration_index
from jaxent.stationary import stationary_distribution
from jaxent.views import local_transition
from tests.reference import cases

from . import oracles_restless as oracles
from .tolerances import EXACT, F32, FD, SOLVE


def random_bandit(seed, num_states, num_agents, budget, discount=0.8):
    rng = np.random.default_rng(seed)
    passive, active = rng.dirichlet(np.ones(num_states), (2, num_states))
    reward = rng.standard_normal((num_states, 2))
    priority = tuple(rng.permutation(num_states).tolist())
    return RestlessBandit(passive, active, reward, num_agents, budget, discount), priority


def reference_bandits():
    for case in cases("circulant"):
        yield circulant_bandit(case["n_agents"]), CIRCULANT_PRIORITY, case
    for case in cases("restless"):
        reward = np.repeat(np.array(case["state_reward"])[:, None], 2, axis=1)
        kernels = np.array(case["passive"]), np.array(case["active"])
        sizes = case["n_agents"], case["budget"], case["gamma"]
        yield RestlessBandit(*kernels, reward, *sizes), tuple(case["priority"]), case


def tagged_place(pair, num_states):
    """Where a joint pair falls among (tagged pair, configuration of the others)."""
    states, actions = pair
    others = np.bincount(states[1:], minlength=num_states)
    count = len(oracles.all_configurations(len(states) - 1, num_states))
    return (2 * states[0] + actions[0]) * count + int(configuration_index(others))


SMALL = [(3, 1, 1), (2, 2, 1), (3, 3, 2), (2, 4, 2), (2, 3, 0), (2, 3, 3)]


@pytest.mark.parametrize(("num_states", "num_agents", "budget"), SMALL)
def test_joint_chain_lumps_onto_it(num_states, num_agents, budget):
    bandit, priority = random_bandit(num_agents, num_states, num_agents, budget)
    kernel = np.asarray(bandit.kernel)
    pairs, joint = oracles.joint_chain(kernel, num_agents, budget, priority)
    chain = exchangeable_chain(bandit, priority)
    lumped = np.zeros((len(pairs), chain.num_pairs))
    place = [tagged_place(pair, num_states) for pair in pairs]
    for j, where in enumerate(place):
        lumped[:, where] += joint[:, j]
    np.testing.assert_allclose(chain.matrix()[np.array(place)], lumped, atol=EXACT)
    f = np.random.default_rng(0).standard_normal((num_states, 2))
    total = [sum(f[s, a] for s, a in zip(*pair, strict=True)) for pair in pairs]
    np.testing.assert_allclose(chain.lift([f])[np.array(place)], total, atol=EXACT)
    mu = np.random.default_rng(1).random(chain.num_pairs)
    np.testing.assert_allclose(chain.vm(mu), mu @ chain.matrix(), atol=EXACT)
    np.testing.assert_allclose(chain.mv(mu), chain.matrix() @ mu, atol=EXACT)


@pytest.mark.parametrize(("num_states", "num_agents", "budget"), [(2, 4, 2), (3, 3, 2)])
def test_public_functions_equal_those_of_the_joint_chain(num_states, num_agents, budget):
    bandit, priority = random_bandit(7 + num_agents, num_states, num_agents, budget)
    chain = exchangeable_chain(bandit, priority)
    agent = MDP(bandit.kernel, bandit.reward)
    joint = pair_chain(
        WeaklyCoupledMDP((agent,) * num_agents, bandit.discount),
        index_policy(priority, num_agents=num_agents, budget=budget),
    )
    answer = jax.jit(lambda c, r: decompose(c, r, discount=bandit.discount))
    one = answer(chain, [bandit.reward])
    all_ = answer(joint, [bandit.reward] * num_agents)
    np.testing.assert_allclose(one.q_local[0], all_.q_local[0], atol=SOLVE)
    for name in ("mu_error", "relative_error", "sup_error"):
        np.testing.assert_allclose(getattr(one, name), getattr(all_, name), atol=SOLVE)
    np.testing.assert_allclose(
        local_transition(chain, one.mu, agent=0),
        local_transition(joint, all_.mu, agent=0),
        atol=SOLVE,
    )
    exact = ground_truth(bandit, priority)
    np.testing.assert_allclose(exact.mu_error, all_.mu_error, atol=SOLVE)
    np.testing.assert_allclose(
        exact.local_transition, local_transition(joint, all_.mu, agent=0), atol=SOLVE
    )


@pytest.mark.parametrize("index", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3, 4])
def test_ground_truth_equals_the_reference(index):
    bandit, priority, case = list(reference_bandits())[index]
    exact = ground_truth(bandit, priority)
    assert bool(exact.converged)
    np.testing.assert_allclose(exact.entanglement, case["entanglement_eq15"], atol=SOLVE)
    for name in ("mu_error", "relative_error", "q_local", "occupancy"):
        np.testing.assert_allclose(getattr(exact, name), case[name], atol=SOLVE)


@pytest.mark.parametrize("index", [0, 4])
def test_general_functions_equal_the_reference(index):
    bandit, priority, case = list(reference_bandits())[index]
    chain = exchangeable_chain(bandit, priority)
    answer = jax.jit(lambda c, r: decompose(c, [r], discount=bandit.discount))(chain, bandit.reward)
    np.testing.assert_allclose(answer.mu_error, case["mu_error"], atol=SOLVE)
    np.testing.assert_allclose(answer.relative_error, case["relative_error"], atol=SOLVE)
    np.testing.assert_allclose(answer.q_local[0].reshape(-1, 2), case["q_local"], atol=SOLVE)
    occupancy = answer.mu.reshape(chain.sizes).sum(1).reshape(-1, 2)
    np.testing.assert_allclose(occupancy, case["occupancy"], atol=SOLVE)


def test_ground_truth_at_25_agents():
    exact = ground_truth(circulant_bandit(25), CIRCULANT_PRIORITY)
    np.testing.assert_allclose(exact.entanglement, 0.0418913498, atol=5e-11)
    np.testing.assert_allclose(exact.mu_error, 0.1375648802, atol=5e-11)


@pytest.mark.slow
def test_ground_truth_at_30_agents():
    exact = ground_truth(circulant_bandit(30), CIRCULANT_PRIORITY)
    np.testing.assert_allclose(exact.entanglement, 0.0382233825, atol=5e-11)
    np.testing.assert_allclose(exact.mu_error, 0.1537345058, atol=5e-11)
    np.testing.assert_allclose(exact.relative_error, 0.0128739165, atol=5e-11)


@pytest.mark.slow
def test_ground_truth_at_60_agents_nears_the_mean_field():
    exact = ground_truth(circulant_bandit(60), CIRCULANT_PRIORITY)
    assert bool(exact.converged)
    np.testing.assert_allclose(np.sqrt(60) * exact.entanglement, 0.21747, rtol=0.02)


def test_laws_lift():
    bandit, priority = random_bandit(3, 3, 6, 2)
    exact = ground_truth(bandit, priority)
    chain = exchangeable_chain(bandit, priority)
    mu = jax.jit(stationary_distribution)(chain)
    occupancy = mu.reshape(chain.sizes).sum(1).reshape(-1, 2)
    np.testing.assert_allclose(occupancy, exact.occupancy, atol=SOLVE)
    q = jax.jit(lambda c: q_values(c, [bandit.reward], discount=bandit.discount))(chain)
    np.testing.assert_allclose(mu @ q, exact.law @ exact.q_joint, atol=SOLVE)
    np.testing.assert_allclose(
        exact.law @ exact.q_joint, exact.average_reward / (1 - bandit.discount), atol=SOLVE
    )


def test_gradients_at_10_agents():
    bandit = circulant_bandit(10)
    rng = np.random.default_rng(0)
    toward = rng.dirichlet(np.ones(4), (2, 4))
    shift = rng.standard_normal((4, 2))

    @jax.jit
    def answers(step):
        passive = bandit.passive + step[0] * (toward[0] - bandit.passive)
        active = bandit.active + step[0] * (toward[1] - bandit.active)
        moved = bandit._replace(
            passive=passive, active=active, reward=bandit.reward + step[1] * shift
        )
        exact = ground_truth(moved, CIRCULANT_PRIORITY)
        return jnp.stack([exact.entanglement, exact.average_reward, exact.mu_error])

    # Away from the circulant kernel itself, where some steps would leave the simplex.
    at, h = jnp.array([0.2, 0.1]), 1e-5
    jacobian = jax.jit(jax.jacrev(answers))(at)
    for k in range(2):
        step = h * jnp.eye(2)[k]
        numeric = (answers(at + step) - answers(at - step)) / (2 * h)
        np.testing.assert_allclose(jacobian[:, k], numeric, rtol=FD, atol=FD)


def test_float32():
    bandit, priority = random_bandit(4, 3, 5, 3)
    narrow = bandit._replace(
        **{k: jnp.asarray(getattr(bandit, k), jnp.float32) for k in ("passive", "active", "reward")}
    )
    wide, exact = ground_truth(bandit, priority), ground_truth(narrow, priority)
    assert exact.q_joint.dtype == exact.mu_error.dtype == jnp.float32
    np.testing.assert_allclose(exact.occupancy, wide.occupancy, atol=F32)
    np.testing.assert_allclose(exact.q_local, wide.q_local, atol=10 * F32)
    assert exchangeable_chain(narrow, priority).dtype == jnp.float32


def test_every_agent_or_none_is_active():
    for budget in (0, 4):
        bandit, priority = random_bandit(5, 2, 4, budget)
        exact = ground_truth(bandit, priority)
        # Nobody chooses, so the agents are independent.
        np.testing.assert_allclose([exact.entanglement, exact.mu_error], 0, atol=1e-10)
        idle = bandit.active if budget else bandit.passive
        taken = exact.occupancy[:, int(budget > 0)]
        np.testing.assert_allclose(taken @ idle, taken, atol=SOLVE)


def test_active_counts():
    counts = np.array([[3, 1, 0, 2], [0, 0, 6, 0], [1, 1, 1, 3]])
    want = [oracles.served(n, 3, (2, 1, 0, 3)) for n in counts]
    np.testing.assert_array_equal(active_counts(counts, 3, (2, 1, 0, 3)), want)


def test_refuses_what_does_not_fit():
    bandit = circulant_bandit(400)
    with pytest.raises(ValueError, match=r"10827401 configurations and need \d+ bytes.*fits is \d"):
        exchangeable_chain(bandit, CIRCULANT_PRIORITY, memory=6 * 2**30)
    with pytest.raises(ValueError, match="largest num_agents that fits") as refusal:
        ground_truth(bandit, CIRCULANT_PRIORITY, memory=2**25)
    fits = int(str(refusal.value).rsplit(" ", 1)[1])
    assert bool(ground_truth(circulant_bandit(5), CIRCULANT_PRIORITY, memory=2**25).converged)
    assert 5 <= fits < 40
    with pytest.raises(ValueError, match="configurations"):
        ground_truth(circulant_bandit(5 * 10**11), CIRCULANT_PRIORITY)


@pytest.mark.parametrize(
    ("change", "priority", "match"),
    [
        ({}, (0, 1, 1, 3), "priority: .* is not a permutation"),
        ({}, (0, 1, 2), r"priority: wanted shape \[4\]"),
        ({"budget": 6}, CIRCULANT_PRIORITY, "budget: 6 is outside"),
        ({"passive": np.ones((4, 4))}, CIRCULANT_PRIORITY, "passive"),
        ({"discount": 1.0}, CIRCULANT_PRIORITY, "discount"),
    ],
)
def test_bad_input(change, priority, match):
    with pytest.raises(ValueError, match=match):
        exchangeable_chain(circulant_bandit(5)._replace(**change), priority)


def test_sizes_must_be_known():
    def count(n):
        bandit = circulant_bandit(5)._replace(num_agents=n)
        return exchangeable_chain(bandit, CIRCULANT_PRIORITY).mv(jnp.ones(8))

    with pytest.raises(ValueError, match="num_agents: fixes a shape"):
        jax.jit(count)(5)
