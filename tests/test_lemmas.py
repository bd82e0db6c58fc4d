"""The pieces of Theorem 7 against simulation, exact laws, and hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxent
from jaxent import Verdict, check_attractor
from jaxent.restless.lemmas import tangent_norm
from tests import oracles_counts as oracle
from tests import oracles_restless
from tests.tolerances import EXACT, SOLVE, by_precision

CIRCULANT = jaxent.circulant_bandit(30)
PRIORITY = jaxent.CIRCULANT_PRIORITY


@pytest.fixture(scope="module")
def runs():
    """400 runs of 4 steps from one configuration."""
    start = jnp.array([5, 10, 15, 0])
    keys = jax.random.split(jax.random.key(0), 400)
    return jax.jit(
        jax.vmap(
            lambda key: jaxent.simulate_counts(key, CIRCULANT, PRIORITY, num_steps=4, counts=start)
        )
    )(keys)


def test_one_step_concentration(runs):
    apart = jax.jit(jax.vmap(lambda t: jaxent.one_step_deviation(t, CIRCULANT, PRIORITY)))(runs)
    # From one start, by hand: 5, 10, 15 agents, the 6 first of state 2 active.
    m = np.array([5, 10, 15, 0]) / 30
    ahead = np.asarray(jaxent.mean_field_step(CIRCULANT, PRIORITY, jnp.asarray(m)))
    want = np.abs(np.asarray(runs.counts[:, 1]) / 30 - ahead).sum(1)
    np.testing.assert_allclose(apart[:, 0], want, atol=EXACT)
    mean, error = want.mean(), want.std(ddof=1) / np.sqrt(len(want))
    bound = jaxent.one_step_bound(CIRCULANT)
    assert abs(bound - np.sqrt(4 / 30)) <= by_precision(0, 1e-7)
    assert mean + 5 * error < bound


def test_multi_step_concentration(runs):
    apart = jax.jit(jax.vmap(lambda t: jaxent.multi_step_deviation(t, CIRCULANT, PRIORITY)))(runs)
    np.testing.assert_allclose(apart[:, 0], 0, atol=EXACT)
    lipschitz = jaxent.lipschitz_constant(CIRCULANT, PRIORITY)
    for steps in (1, 4):
        delta = np.array([0.05, 0.1, 0.15, 0.2])
        bound = jaxent.multi_step_bound(CIRCULANT, lipschitz, num_steps=steps, delta=delta)
        np.testing.assert_allclose(bound.radius, (steps + 1) * delta)  # K = 1
        share = (np.asarray(apart)[:, steps, None] >= np.asarray(bound.radius)).mean(0)
        assert (share <= np.asarray(bound.probability)).all()
    with pytest.raises(ValueError, match="num_steps"):
        jaxent.multi_step_bound(CIRCULANT, lipschitz, num_steps=0, delta=0.1)


def test_multi_step_concentration_under_the_exact_law():
    """Every tail of ||m_t - Phi_t(m_0)|| of 40 agents, from every start, for t = 1, 2, 3."""
    bandit, order = jaxent.named_bandit("healthcare", 40)
    kernel, order = np.asarray(bandit.kernel), list(order)
    lipschitz = jaxent.lipschitz_constant(bandit, order)
    counts, P = oracles_restless.next_counts_matrix(kernel, 40, bandit.budget, order)
    m = np.array(counts) / 40
    ahead, law = m, np.eye(len(m))
    for steps in (1, 2, 3):
        reached = np.minimum(ahead[:, order].cumsum(1), bandit.budget / 40)
        served = np.diff(reached, prepend=0)[:, np.argsort(order)]
        ahead = (ahead - served) @ kernel[:, 0] + served @ kernel[:, 1]
        law = law @ P
        apart = np.abs(m[None] - ahead[:, None]).max(-1)  # [start, end]
        radius = np.linspace(0.01, 0.9, 90)
        tail = np.array([(law * (apart >= r)).sum(1).max() for r in radius])
        powers = float(lipschitz) ** np.arange(steps + 1)
        bound = jaxent.multi_step_bound(
            bandit, lipschitz, num_steps=steps, delta=radius / powers.sum()
        )
        np.testing.assert_allclose(bound.radius, radius)
        assert (tail <= bound.probability).all()
        # Not for want of chances: there are tails that the bound says something of.
        assert ((np.asarray(bound.probability) < 1) & (tail > 1e-6)).any()


def test_lemma_10_as_printed_follows_from_root_two_on():
    delta = np.geomspace(0.001, 1, 400)
    for steps, lipschitz in ((1, 0.5), (1, 2**0.5), (7, 2**0.5), (7, 3.0), (40, 2**0.5)):
        bound = jaxent.multi_step_bound(CIRCULANT, lipschitz, num_steps=steps, delta=delta)
        printed = steps * 4 * np.exp(-2 * 30 * delta**2)
        below = (np.asarray(bound.probability) <= np.minimum(printed, 1)) | (printed >= 1)
        assert below.all()


def test_lemma_10_is_below_the_bound_that_is_formally_proved():
    """2 t S exp(-N delta^2 / 2), for every K >= 0: rho is at least 1, so that 2 rho^2 > 1 / 2."""
    delta = np.array([0.01, 0.1, 0.3, 1.0])
    for lipschitz in (0.0, 0.3, 1.0, 2.0):
        for steps in (1, 3):
            ours = jaxent.multi_step_bound(CIRCULANT, lipschitz, num_steps=steps, delta=delta)
            proved = 2 * steps * 4 * np.exp(-30 * delta**2 / 2)
            assert (np.asarray(ours.probability) <= proved).all()


def test_lemma_8_under_the_exact_law():
    bandit, priority = jaxent.named_bandit("healthcare", 10)
    kernels = np.asarray(bandit.passive), np.asarray(bandit.active)
    counts, P, _ = oracle.counts_chain(*kernels, bandit.reward, 10, bandit.budget, priority)
    law = np.linalg.matrix_power(P, 2**20)[0]
    law = law / law.sum()  # rows that were rounded miss 1 by a little, many times over
    counts = np.array(counts)
    served = np.array([oracle.serve(n, priority, bandit.budget) for n in counts])
    share = np.divide(served, counts, where=counts > 0, out=np.zeros(counts.shape))
    weight = law[:, None] * counts / 10
    # Eq. 15: a weighted median is one of the values.
    entanglement = sum(
        min((weight[:, s] * np.abs(share[:, s] - q)).sum() for q in share[:, s]) for s in range(2)
    )
    field = jaxent.mean_field(bandit, priority)
    bound = jaxent.deviation_bound(counts, law, bandit, priority, field)
    assert 0 < entanglement <= bound.policy_distance <= bound.bound
    apart = np.abs(counts / 10 - np.asarray(field.configuration)).max(1)
    np.testing.assert_allclose(bound.deviation, law @ apart, atol=EXACT)
    np.testing.assert_allclose(bound.bound, 4 * bound.deviation, atol=EXACT)


def test_the_sharper_lemma_8_is_attained_in_the_limit():
    """E|(m - m*) p*| has the limit of E_1 itself: sqrt(2 p* Sigma p* / pi) / sqrt(N)."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        num_states = int(rng.integers(2, 6))
        budget = int(rng.integers(3, 17))
        bandit = jaxent.RestlessBandit(*oracle.random_bandit(seed, num_states, 20, budget))
        order = rng.permutation(num_states).tolist()
        field = jaxent.mean_field(bandit, order)
        chance = np.zeros(num_states)
        chance[order[: order.index(int(field.pivot))]] = 1
        chance[field.pivot] = field.policy[field.pivot, 1]
        limit = np.sqrt(2 / np.pi * (chance @ np.asarray(field.covariance) @ chance))
        np.testing.assert_allclose(field.entanglement_limit, limit, rtol=1e-9)


def test_lemma_8_at_the_fixed_point():
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    # Weights need not sum to 1.
    star, weight = np.array([[15, 15, 35, 35]]), np.array([3.0])
    hundred = jaxent.circulant_bandit(100)
    bound = jax.jit(lambda field: jaxent.deviation_bound(star, weight, hundred, PRIORITY, field))
    still = bound(field)
    np.testing.assert_allclose(still, 0, atol=EXACT)


def test_tangent_norm_is_a_linear_program():
    K = np.random.default_rng(0).dirichlet(np.ones(5), 5)
    best = [
        -linprog(-K[:, j], A_eq=np.ones((1, 5)), b_eq=[0], bounds=(-1, 1)).fun for j in range(5)
    ]
    np.testing.assert_allclose(tangent_norm(jnp.asarray(K)), max(best), atol=SOLVE)


@pytest.mark.parametrize("name", sorted(set(jaxent.BANDITS) - {"cyclic"}))
def test_global_attractor_is_proved(name):
    found = check_attractor(*jaxent.named_bandit(name, 10))
    assert found.verdict == Verdict.HOLDS
    assert found.contraction < 1
    assert found.gap < 1e-12
    assert found.orbit.shape[0] == 0


def test_cycle_is_shown():
    bandit, priority = jaxent.named_bandit("cyclic", 10)
    found = check_attractor(bandit, priority)
    assert found.verdict == Verdict.FAILS
    np.testing.assert_allclose(np.ptp(found.orbit, axis=0).max(), 0.7, atol=SOLVE)
    for k in range(2):
        ahead = jaxent.mean_field_step(bandit, priority, jnp.asarray(found.orbit[k]))
        np.testing.assert_allclose(ahead, found.orbit[1 - k], atol=SOLVE)
    ahead = jaxent.mean_field_step(bandit, priority, jnp.asarray(found.configuration))
    np.testing.assert_allclose(ahead, found.configuration, atol=SOLVE)
    assert found.spectral_radius > 1


def test_second_fixed_point_is_shown():
    """Both states keep whom they have, whatever is done: every configuration is fixed."""
    eye = np.eye(2)
    still = CIRCULANT._replace(passive=eye, active=eye, reward=np.zeros((2, 2)))
    assert check_attractor(still, (0, 1)).verdict == Verdict.FAILS
    # State 0, served first, keeps its agents if active and loses them to the trap 1 if idle: every
    # m with m_0 at most the budget is fixed.
    bandit = CIRCULANT._replace(
        passive=np.array([[0.0, 1.0], [0.0, 1.0]]),
        active=np.array([[1.0, 0.0], [0.0, 1.0]]),
        reward=np.zeros((2, 2)),
    )
    found = check_attractor(bandit, (0, 1))
    assert found.verdict == Verdict.FAILS
    both = np.stack([found.configuration, found.orbit[0]])
    for m in both:
        ahead = jaxent.mean_field_step(bandit, (0, 1), jnp.asarray(m))
        np.testing.assert_allclose(ahead, m, atol=SOLVE)
    assert np.ptp(both, axis=0).max() > 0.1


def test_undecided_is_said_so():
    bandit, priority = jaxent.named_bandit("queue", 10)
    found = check_attractor(bandit, priority, max_itineraries=3)
    assert found.verdict == Verdict.UNDECIDED
    assert found.contraction == np.inf
    assert found.gap < 1e-12


def test_bad_input():
    with pytest.raises(ValueError, match="priority"):
        check_attractor(CIRCULANT, (0, 1, 1, 3))
    with pytest.raises(ValueError, match="known here"):
        jax.jit(lambda p: check_attractor(CIRCULANT._replace(passive=p), PRIORITY).gap)(
            CIRCULANT.passive
        )
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    with pytest.raises(ValueError, match="weights"):
        jaxent.deviation_bound(np.ones((3, 4)), np.ones(2), CIRCULANT, PRIORITY, field)
