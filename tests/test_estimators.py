"""Estimators from data: exact minimizers, LSTD as a linear solve, TD on its way to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from jaxent.numerics.simplex import weighted_median
from tests import oracles_counts as oracle
from tests.reference import cases
from tests.tolerances import EXACT, FD, SOLVE, by_precision

estimate_entanglement = jax.jit(jaxent.estimate_entanglement)


@pytest.mark.parametrize("seed", range(20))
def test_weighted_median_minimizes(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(9), 1)  # with ties
    weights = rng.random(9) * (rng.random(9) < 0.7)
    median = float(weighted_median(jnp.array(values), jnp.array(weights)))
    cost = [weights @ np.abs(values - q) for q in values]
    assert median in np.asarray(jnp.array(values), float)
    assert weights @ np.abs(values - median) <= min(cost) + EXACT


def linear_program(probability, weight):
    """min over q of sum_t w_t |p_t - q|, by HiGHS."""
    T = len(probability)
    cost = np.append(weight, 0)
    above = np.hstack([-np.eye(T), -np.ones((T, 1))])
    below = np.hstack([-np.eye(T), np.ones((T, 1))])
    result = optimize.linprog(
        cost,
        A_ub=np.vstack([above, below]),
        b_ub=np.concatenate([-probability, probability]),
        bounds=[(0, None)] * T + [(0, 1)],
    )
    return result.fun


@pytest.mark.parametrize("seed", range(5))
def test_estimate_equals_the_linear_program(seed):
    rng = np.random.default_rng(seed)
    active, weights = rng.random((30, 3)), rng.random((30, 3))
    weights[::7] = 0
    both = np.stack([1 - active, active], axis=-1)
    estimate = estimate_entanglement(both, weights)
    exact = sum(linear_program(active[:, s], weights[:, s]) for s in range(3)) / weights.sum()
    np.testing.assert_allclose(estimate.value, exact, atol=SOLVE)
    assert estimate.held_out >= estimate.value - EXACT
    np.testing.assert_allclose(estimate.minimizer.sum(-1), 1, atol=EXACT)
    # By hand: halves of the weight, each judged by the other's medians.
    reached = np.cumsum(weights.sum(1))
    early = np.where((reached <= weights.sum() / 2)[:, None], weights, 0)
    late = weights - early
    crossed = 0.0
    for fit, judge in ((early, late), (late, early)):
        for s in range(3):
            q = weighted_median(jnp.array(active[:, s]), jnp.array(fit[:, s]))
            crossed += judge[:, s] @ np.abs(active[:, s] - q)
    np.testing.assert_allclose(estimate.held_out, crossed / weights.sum(), atol=EXACT)


def test_epochs_without_weight_play_no_part():
    rng = np.random.default_rng(0)
    p, w = rng.dirichlet([1, 1], size=(20, 2)), rng.random((20, 2))
    padded_p = np.concatenate([p, np.full((15, 2, 2), 0.5)])
    padded_w = np.concatenate([w, np.zeros((15, 2))])
    plain, padded = estimate_entanglement(p, w), estimate_entanglement(padded_p, padded_w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=EXACT), plain, padded)


def test_an_agent_that_heeds_only_itself_has_no_entanglement():
    p = jnp.broadcast_to(jnp.array([[0.3, 0.7], [1.0, 0.0]]), (50, 2, 2))
    weights = jnp.array(np.random.default_rng(0).random((50, 2)))
    estimate = jaxent.estimate_entanglement(p, weights)
    assert estimate.value == 0
    assert estimate.held_out == 0


def test_gradient_in_the_probabilities():
    rng = np.random.default_rng(3)
    p = jnp.array(rng.dirichlet([1, 1], size=(25, 2)))
    w = jnp.array(rng.random((25, 2)))
    push = rng.normal(size=(25, 2))
    push = jnp.array(np.stack([-push, push], axis=-1))
    f = jax.jit(lambda p: jaxent.estimate_entanglement(p, w).value)
    step = by_precision(1e-7, 1e-3)
    numeric = (f(p + step * push) - f(p - step * push)) / (2 * step)
    np.testing.assert_allclose(np.vdot(jax.jit(jax.grad(f))(p), push), numeric, atol=FD)


@pytest.fixture(scope="module")
def three_actions():
    rng = np.random.default_rng(4)
    weights = rng.random((24, 2)) * (rng.random((24, 2)) < 0.8)
    return rng.dirichlet(np.ones(3), (24, 2)), weights


def nearest_law(laws, weights):
    """min over laws q of sum_t w_t TV(p_t, q), by HiGHS: the value and q."""
    T, m = laws.shape
    cost = np.append(np.repeat(weights / 2, m), np.zeros(m))
    copies = np.tile(np.eye(m), (T, 1))
    apart = np.eye(T * m)
    result = optimize.linprog(
        cost,
        A_ub=np.vstack([np.hstack([-apart, -copies]), np.hstack([-apart, copies])]),
        b_ub=np.concatenate([-laws.ravel(), laws.ravel()]),
        A_eq=np.append(np.zeros(T * m), np.ones(m))[None],
        b_eq=[1],
    )
    return result.fun, result.x[-m:]


def test_more_than_two_actions(three_actions):
    """Value, halves and gradient against linear programs and finite differences."""
    laws, weights = three_actions

    def estimate_with_value(p, w):
        found = jaxent.estimate_entanglement(p, w)
        return found.value, found

    both = jax.jit(jax.value_and_grad(estimate_with_value, has_aux=True))
    (_, estimate), slope = both(laws, weights)
    exact = sum(nearest_law(laws[:, l], weights[:, l])[0] for l in range(2)) / weights.sum()
    np.testing.assert_allclose(estimate.value, exact, atol=SOLVE)
    reached = np.cumsum(weights.sum(1))
    early = np.where((reached <= weights.sum() / 2)[:, None], weights, 0)
    crossed = 0.0
    for fit, judge in ((early, weights - early), (weights - early, early)):
        for l in range(2):
            q = nearest_law(laws[:, l], fit[:, l])[1]
            crossed += judge[:, l] @ np.abs(laws[:, l] - q).sum(1) / 2
    np.testing.assert_allclose(estimate.held_out, crossed / weights.sum(), atol=SOLVE)
    push = np.random.default_rng(5).normal(size=laws.shape)
    push -= push.mean(-1, keepdims=True)
    up, down = (both(laws + h * push, weights)[0][0] for h in (1e-6, -1e-6))
    np.testing.assert_allclose(np.vdot(slope, push), (up - down) / 2e-6, atol=FD)


@pytest.mark.parametrize("case", range(2))
def test_equation_9_with_the_exact_law_is_equation_7(case):
    """Joint pairs as epochs, weighted by their law: the reference's answer, not an estimate."""
    case = cases("two_agent")[case]
    m = len(case["reward_a"])
    chain = jaxent.PairChain.from_matrix(np.array(case["pair_transition"]), sizes=(m, m))
    rows = jaxent.view_transition(chain, agent=0)
    laws, here = jaxent.by_local(rows, np.repeat(np.arange(m), m), num_local=m)
    weights = np.asarray(here) * np.array(case["stationary"])[:, None]
    found = jaxent.estimate_entanglement(laws, weights)
    np.testing.assert_allclose(found.value, case["mu_atv_eq7"][0], atol=SOLVE)


@pytest.mark.parametrize("num_actions", [2, 3])
def test_interval_by_hand(three_actions, num_actions):
    laws, weights = three_actions
    laws = laws[..., :num_actions] / laws[..., :num_actions].sum(-1, keepdims=True)
    found = jaxent.entanglement_interval(laws, weights, num_batches=3, confidence=0.9)
    reached = np.cumsum(weights.sum(1)) - weights.sum(1) / 2
    batch = np.minimum(3 * reached / weights.sum(), 2).astype(int)
    cost, mass = np.zeros(3), np.zeros(3)
    for k in range(3):
        inside = batch == k
        mass[k] = weights[inside].sum()
        for l in range(2):
            q = nearest_law(laws[~inside, l], weights[~inside, l])[1]
            cost[k] += weights[inside, l] @ np.abs(laws[inside, l] - q).sum(1) / 2
    value = cost.sum() / mass.sum()
    error = np.sqrt(np.sum((cost - value * mass) ** 2) / 6) / mass.mean()
    np.testing.assert_allclose(found.value, value, atol=SOLVE)
    np.testing.assert_allclose(found.standard_error, error, atol=SOLVE)
    np.testing.assert_allclose(found.upper, value + 2.919985580 * error, atol=SOLVE)
    np.testing.assert_allclose(
        found.in_sample, jaxent.estimate_entanglement(laws, weights).value, atol=SOLVE
    )
    assert found.in_sample <= value


def random_flow(seed, num_pairs):
    rng = np.random.default_rng(seed)
    return rng.random((num_pairs, num_pairs)) * rng.integers(0, 5, (num_pairs, num_pairs))


def test_lstd_is_a_linear_solve():
    flow, reward = random_flow(0, 6), np.random.default_rng(1).normal(size=6)
    learned = jaxent.lstd_local_q(flow, reward, discount=0.9)
    P = flow / flow.sum(1, keepdims=True)
    np.testing.assert_allclose(
        learned.value, np.linalg.solve(np.eye(6) - 0.9 * P, reward), rtol=SOLVE
    )
    np.testing.assert_allclose(learned.occupancy, flow.sum(1) / flow.sum(), rtol=EXACT)
    assert learned.visited.all()


def test_pairs_never_seen_hold_a_finite_placeholder():
    flow = random_flow(0, 4)
    flow[2, :] = flow[:, 2] = 0
    learned = jaxent.lstd_local_q(flow, np.ones(4), discount=0.5)
    np.testing.assert_allclose(learned.value, 2, rtol=EXACT)
    np.testing.assert_array_equal(learned.visited, [True, True, False, True])


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
def test_td_converges_to_lstd(discount):
    """The same transitions over and over: TD must reach the fixed point that LSTD solves for."""
    flow, reward = random_flow(2, 5) / 10, np.random.default_rng(3).normal(size=5)
    exact = jaxent.lstd_local_q(flow, reward, discount=discount).value
    flows = jnp.broadcast_to(jnp.array(flow), (20_000, 5, 5))
    learned = jaxent.td_local_q(flows, reward, discount=discount)
    np.testing.assert_allclose(learned.value, exact, atol=2e-3 / (1 - discount))


def test_td_and_lstd_agree_on_simulated_counts():
    bandit = RestlessBandit(*oracle.random_bandit(5, 3, 12, 4, discount=0.8))
    trajectory = jaxent.simulate_counts(jax.random.key(0), bandit, (0, 2, 1), num_steps=30_000)
    reward = bandit.reward.reshape(-1)
    one = lambda flow, policy: jnp.einsum("san,nb->sanb", flow.astype(float), policy).reshape(6, 6)  # noqa: E731
    flows = jax.vmap(one)(trajectory.flow, trajectory.policy[1:])
    np.testing.assert_allclose(flows.sum(0), jaxent.pair_flow(trajectory), rtol=SOLVE)
    td = jaxent.td_local_q(flows, reward, discount=0.8)
    lstd = jaxent.lstd_local_q(flows.sum(0), reward, discount=0.8)
    np.testing.assert_allclose(td.value, lstd.value, atol=0.02)
    np.testing.assert_allclose(td.occupancy, lstd.occupancy, rtol=SOLVE)


def interval(**options):
    return jaxent.entanglement_interval(np.ones((4, 2, 2)) / 2, np.ones((4, 2)), **options)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: jaxent.lstd_local_q(np.eye(3), np.zeros(2), discount=0.5), "reward: wanted shape"),
        (lambda: jaxent.lstd_local_q(np.eye(3), np.zeros(3), discount=1.0), "discount: 1 is"),
        (lambda: jaxent.lstd_local_q(np.full((2, 2), np.nan), np.zeros(2), discount=0.5), "flow"),
        (lambda: jaxent.td_local_q(np.eye(3), np.zeros(3), discount=0.5), "flows: wanted shape"),
        (
            lambda: jaxent.estimate_entanglement(np.ones((4, 2, 1)), np.ones((4, 2))),
            "probabilities: of one action",
        ),
        (lambda: jaxent.estimate_entanglement(np.ones((4, 2, 2)), np.ones((4, 3))), "weights"),
        (lambda: interval(num_batches=1), "num_batches: 1 is outside 2..4"),
        (lambda: interval(num_batches=5), "num_batches: 5 is outside 2..4"),
        (lambda: interval(num_batches=2, confidence=1.0), "confidence: 1.0 is outside"),
        (lambda: jaxent.by_local(np.ones((4, 2)), np.zeros(3), num_local=2), "local"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
