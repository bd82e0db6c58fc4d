"""The exact exchangeable chain against the joint chain, the reference, and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxent.chains.pair_chain import pair_chain
from jaxent.chains.stationary import stationary_distribution
from jaxent.chains.views import local_transition, view_transition
from jaxent.measures.entanglement import (
    entanglement_atv,
    entanglement_mu_atv,
    entanglement_mu_atv_upper,
    policy_entanglement,
)
from jaxent.models.examples import CIRCULANT_PRIORITY, circulant_bandit
from jaxent.models.mdp import MDP
from jaxent.models.named_bandits import named_bandit
from jaxent.models.policies import index_policy
from jaxent.models.restless_bandit import RestlessBandit
from jaxent.models.weakly_coupled import WeaklyCoupledMDP
from jaxent.restless.activation import active_counts
from jaxent.restless.exchangeable import exchangeable_chain
from jaxent.restless.ground_truth import _solve_joint, ground_truth
from jaxent.restless.mean_field import mean_field
from jaxent.restless.next_counts import configuration_index, configurations
from jaxent.restless.tagged import tagged_entanglement, tagged_rows
from jaxent.values.decomposition import decompose
from tests.reference import cases

from . import oracles_restless as oracles
from .tolerances import EXACT, F32, FD, SOLVE, by_precision


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


MEASURE = 1e-7  # to which the measures are minimized here
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
    f = np.random.default_rng(0).standard_normal((num_states, 2))
    mu = np.random.default_rng(1).random(chain.num_pairs)
    # One compilation for all four.
    matrix, lifted, after, before = jax.jit(
        lambda c, f, mu: (c.matrix(), c.lift([f]), c.vm(mu), c.mv(mu))
    )(chain, f, mu)
    np.testing.assert_allclose(matrix[np.array(place)], lumped, atol=EXACT)
    total = [sum(f[s, a] for s, a in zip(*pair, strict=True)) for pair in pairs]
    np.testing.assert_allclose(lifted[np.array(place)], total, atol=EXACT)
    np.testing.assert_allclose(after, mu @ matrix, atol=EXACT)
    np.testing.assert_allclose(before, matrix @ mu, atol=EXACT)


@partial(jax.jit, static_argnums=2)
def everything(chain, reward, num_views, discount):
    """The general functions in one compilation: the decomposition and a local transition."""
    answer = decompose(chain, [reward] * num_views, discount=discount)
    numbers = {name: getattr(answer, name) for name in ("mu_error", "relative_error", "sup_error")}
    return answer, numbers, local_transition(chain, answer.mu, agent=0)


@jax.jit
def rows_and_upper(chain, mu):
    """The rows P(x_1' | joint pair), and Eq. (7)."""
    upper = entanglement_mu_atv_upper(chain, mu, agent=0).value
    return view_transition(chain, agent=0), upper


@pytest.mark.parametrize(
    ("num_states", "num_agents", "budget"),
    [(3, 3, 2), pytest.param(2, 4, 2, marks=pytest.mark.slow)],
)
def test_public_functions_equal_those_of_the_joint_chain(num_states, num_agents, budget):
    bandit, priority = random_bandit(7 + num_agents, num_states, num_agents, budget)
    agent = MDP(bandit.kernel, bandit.reward)
    joint = pair_chain(
        WeaklyCoupledMDP((agent,) * num_agents, bandit.discount),
        index_policy(priority, num_agents=num_agents, budget=budget),
    )
    chain = exchangeable_chain(bandit, priority)
    one, numbers, transition = everything(chain, bandit.reward, 1, bandit.discount)
    all_, wanted, P_local = everything(joint, bandit.reward, num_agents, bandit.discount)
    np.testing.assert_allclose(one.q_local[0], all_.q_local[0], atol=SOLVE)
    for name, value in wanted.items():
        np.testing.assert_allclose(numbers[name], value, atol=SOLVE)
    np.testing.assert_allclose(transition, P_local, atol=SOLVE)
    exact = ground_truth(bandit, priority)
    np.testing.assert_allclose(exact.mu_error, wanted["mu_error"], atol=SOLVE)
    np.testing.assert_allclose(exact.local_transition, P_local, atol=SOLVE)
    # Its rows and their weights are all that a measure of one agent asks of a chain.
    rows, upper = rows_and_upper(chain, one.mu)
    np.testing.assert_allclose(upper, rows_and_upper(joint, all_.mu)[1], atol=SOLVE)
    tagged = tagged_rows(bandit, priority, exact.law)
    others = configurations(num_agents - 1, num_states)
    place = configuration_index(others[:, priority])  # where `tagged_rows` has them
    weights = one.mu.reshape(chain.sizes)
    np.testing.assert_allclose(tagged.weights[:, place], weights, atol=SOLVE)
    shown = np.asarray(weights) > 0
    points = np.asarray(rows).reshape(*chain.sizes, -1)
    np.testing.assert_allclose(tagged.points[:, place][shown], points[shown], atol=SOLVE)


@jax.jit
def measures(chain, mu):
    """Every measure that asks for a view alone, in one compilation: lower and upper, `[3, 2]`."""
    found = (
        entanglement_atv(chain, agent=0, tol=MEASURE),
        entanglement_mu_atv(chain, mu, agent=0, tol=MEASURE),
        entanglement_mu_atv_upper(chain, mu, agent=0),
    )
    return jnp.stack([jnp.stack([f.lower, f.upper]) for f in found])


@pytest.mark.slow
@pytest.mark.parametrize("num_agents", [2, 3, 4])
def test_measures_equal_those_of_the_joint_chain(num_agents):
    bandit, priority = random_bandit(7 + num_agents, 2, num_agents, num_agents // 2)
    mdp = WeaklyCoupledMDP((MDP(bandit.kernel, bandit.reward),) * num_agents, bandit.discount)
    policy = index_policy(priority, num_agents=num_agents, budget=bandit.budget)
    joint, chain = pair_chain(mdp, policy), exchangeable_chain(bandit, priority)
    mu = stationary_distribution(joint)
    wanted = measures(joint, mu)
    found = measures(chain, stationary_distribution(chain))
    # Each bracket holds the minimum, which is the same for both.
    assert (np.diff(wanted, axis=1) <= MEASURE).all()
    assert (np.asarray(wanted)[:, 1] > 1e-3).all()
    np.testing.assert_allclose(found, wanted, atol=MEASURE)
    exact = ground_truth(bandit, priority)
    local = policy_entanglement(mdp, policy, mu, agent=0).value
    np.testing.assert_allclose(exact.entanglement, local, atol=SOLVE)
    near = tagged_entanglement(bandit, priority, exact.law, tol=MEASURE)
    ours = [[m.lower, m.upper] for m in (near.mu_atv, near.mu_atv_upper)]
    np.testing.assert_allclose(ours, wanted[1:], atol=MEASURE)


@pytest.mark.slow
def test_gradient_of_the_measures():
    """The derivative along a line of kernels, through law and rows, by central differences."""
    bandit, priority = random_bandit(10, 2, 3, 1)
    toward = np.random.default_rng(0).dirichlet(np.ones(2), (2, 2))

    @jax.jit
    def values(step):
        moved = bandit._replace(
            passive=bandit.passive + step * (toward[0] - bandit.passive),
            active=bandit.active + step * (toward[1] - bandit.active),
        )
        law = ground_truth(moved, priority).law
        found = tagged_entanglement(moved, priority, law, tol=1e-10)
        return jnp.stack([found.mu_atv_upper.value, found.mu_atv.value])

    at, h = 0.3, 1e-4
    slope = jax.jacrev(values)(at)
    assert (np.abs(slope) > 1e-3).all()
    np.testing.assert_allclose(slope, (values(at + h) - values(at - h)) / (2 * h), rtol=1e-5)


@pytest.mark.slow
def test_measures_at_60_agents_near_their_limit():
    bandit, priority = named_bandit("healthcare", 60)
    found = tagged_entanglement(bandit, priority, ground_truth(bandit, priority).law, tol=1e-7)
    limit = mean_field(bandit, priority).mu_atv_limit
    for near in found:
        assert bool(near.converged)
        np.testing.assert_allclose(np.sqrt(60) * near.value, limit, rtol=1e-3)


def test_tagged_entanglement_refuses():
    bandit, law = circulant_bandit(5), np.full(56, 1 / 56)
    room = by_precision(2**20, 2**19)  # half the bytes a number
    with pytest.raises(ValueError, match="largest num_agents that fits is 4"):
        tagged_entanglement(bandit, CIRCULANT_PRIORITY, law, memory=room)
    with pytest.raises(ValueError, match=r"mu: wanted shape \[56\]"):
        tagged_entanglement(bandit, CIRCULANT_PRIORITY, law[1:])
    with pytest.raises(ValueError, match="mu"):
        tagged_entanglement(bandit, CIRCULANT_PRIORITY, 2 * law)
    with pytest.raises(ValueError, match="priority"):
        tagged_entanglement(bandit, (0, 1, 1, 2), law)


@pytest.mark.parametrize("index", [0, pytest.param(2, marks=pytest.mark.slow), 3, 4])
def test_ground_truth_equals_the_reference(index):
    bandit, priority, case = list(reference_bandits())[index]
    assert_equals_case(ground_truth(bandit, priority), case)


def assert_equals_case(exact, case):
    assert bool(exact.converged)
    np.testing.assert_allclose(exact.entanglement, case["entanglement_eq15"], atol=SOLVE)
    for name in ("mu_error", "relative_error", "q_local", "occupancy"):
        np.testing.assert_allclose(getattr(exact, name), case[name], atol=SOLVE)


@pytest.mark.parametrize("index", [0, 4])
def test_general_functions_equal_the_reference(index):
    bandit, priority, case = list(reference_bandits())[index]
    chain = exchangeable_chain(bandit, priority)
    answer, numbers, _ = everything(chain, bandit.reward, 1, bandit.discount)
    np.testing.assert_allclose(numbers["mu_error"], case["mu_error"], atol=SOLVE)
    np.testing.assert_allclose(numbers["relative_error"], case["relative_error"], atol=SOLVE)
    np.testing.assert_allclose(answer.q_local[0].reshape(-1, 2), case["q_local"], atol=SOLVE)
    occupancy = answer.mu.reshape(chain.sizes).sum(1).reshape(-1, 2)
    np.testing.assert_allclose(occupancy, case["occupancy"], atol=SOLVE)


@pytest.mark.slow
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
    # The sizes and the priority of a reference case, so that nothing is compiled for it.
    other, priority, _ = list(reference_bandits())[4]
    bandit, _ = random_bandit(3, other.num_states, other.num_agents, other.budget)
    exact = ground_truth(bandit, priority)
    chain = exchangeable_chain(bandit, priority)
    answer, _, _ = everything(chain, bandit.reward, 1, bandit.discount)
    mu, q = answer.mu, answer.q_joint
    occupancy = mu.reshape(chain.sizes).sum(1).reshape(-1, 2)
    np.testing.assert_allclose(occupancy, exact.occupancy, atol=SOLVE)
    np.testing.assert_allclose(mu @ q, exact.law @ exact.q_joint, atol=SOLVE)
    np.testing.assert_allclose(
        exact.law @ exact.q_joint, exact.average_reward / (1 - bandit.discount), atol=SOLVE
    )


@pytest.fixture(scope="module")
def at_10_agents():
    """The circulant bandit between two kernels: answers, and the derivative for a cotangent.

    One compilation for values and gradients, and walks that are not batched.
    """
    bandit = circulant_bandit(10)
    rng = np.random.default_rng(0)
    toward = rng.dirichlet(np.ones(4), (2, 4))
    shift = rng.standard_normal((4, 2))

    def answers(step):
        moved = bandit._replace(
            passive=bandit.passive + step[0] * (toward[0] - bandit.passive),
            active=bandit.active + step[0] * (toward[1] - bandit.active),
            reward=bandit.reward + step[1] * shift,
        )
        exact = ground_truth(moved, CIRCULANT_PRIORITY)
        return jnp.stack([exact.entanglement, exact.average_reward, exact.mu_error]), exact

    @jax.jit
    def pull_back(step, cotangent):
        value, pull, exact = jax.vjp(answers, step, has_aux=True)
        return value, pull(cotangent)[0], exact

    return pull_back


@pytest.mark.slow
def test_ground_truth_equals_the_reference_at_10_agents(at_10_agents):
    exact = at_10_agents(jnp.zeros(2), jnp.zeros(3))[2]
    assert_equals_case(exact, list(reference_bandits())[1][2])


@pytest.mark.slow
def test_gradients_at_10_agents(at_10_agents):
    # Away from the circulant kernel itself, where some steps would leave the simplex.
    at, h = jnp.array([0.2, 0.1]), 1e-5
    jacobian = np.stack([at_10_agents(at, row)[1] for row in jnp.eye(3)])
    for k in range(2):
        step = h * jnp.eye(2)[k]
        up, down = (at_10_agents(at + sign * step, jnp.zeros(3))[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, k], (up - down) / (2 * h), rtol=FD, atol=FD)


def test_float32():
    bandit, priority = random_bandit(4, 4, 5, 3)
    narrow = bandit._replace(
        **{k: jnp.asarray(getattr(bandit, k), jnp.float32) for k in ("passive", "active", "reward")}
    )
    wide, exact = ground_truth(bandit, priority), ground_truth(narrow, priority)
    assert exact.q_joint.dtype == exact.mu_error.dtype == jnp.float32
    np.testing.assert_allclose(exact.occupancy, wide.occupancy, atol=F32)
    np.testing.assert_allclose(exact.q_local, wide.q_local, atol=10 * F32)
    assert exchangeable_chain(narrow, priority).dtype == jnp.float32


def test_every_agent_or_none_is_active():
    for budget in (0, 5):
        bandit, priority = random_bandit(5, 4, 5, budget)
        exact = ground_truth(bandit, priority)
        # Nobody chooses, so the agents are independent.
        np.testing.assert_allclose(
            [exact.entanglement, exact.mu_error], 0, atol=by_precision(1e-10, 1e-5)
        )
        idle = bandit.active if budget else bandit.passive
        taken = exact.occupancy[:, int(budget > 0)]
        np.testing.assert_allclose(taken @ idle, taken, atol=SOLVE)


def test_one_compilation_serves_every_priority():
    compiled = _solve_joint.outermost()
    before = compiled._cache_size()
    for seed, budget in ((5, 1), (6, 4)):
        bandit, priority = random_bandit(seed, 4, 5, budget)
        ground_truth(bandit, priority)
    assert compiled._cache_size() - before <= 1


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
    assert 5 <= fits < by_precision(40, 50)  # numbers of half the bytes
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
