"""The mean field: published constants, and every formula against another way to the same number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from tests import oracles_counts as oracle
from tests.tolerances import EXACT, SOLVE

CIRCULANT = jaxent.circulant_bandit(30)
PRIORITY = jaxent.CIRCULANT_PRIORITY


def random_cases():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        num_states = int(rng.integers(2, 6))
        bandit = RestlessBandit(
            *oracle.random_bandit(seed, num_states, 20, int(rng.integers(3, 17)))
        )
        yield bandit, tuple(rng.permutation(num_states).tolist())


def test_circulant_constants():
    """m*, pi*(1|2) = 4/7 and sqrt(N) E_1 -> (4/7) sqrt(2/pi) sqrt(.2275) = 0.21747."""
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    np.testing.assert_allclose(field.configuration, [0.15, 0.15, 0.35, 0.35], atol=EXACT)
    np.testing.assert_allclose(field.policy[:, 1], [0, 0, 4 / 7, 0], atol=EXACT)
    np.testing.assert_allclose(field.covariance[2, 2], 0.2275, atol=EXACT)
    limit = 4 / 7 * np.sqrt(2 / np.pi * 0.2275)
    np.testing.assert_allclose(field.entanglement_limit, limit, atol=EXACT)
    assert abs(field.entanglement_limit - 0.21747) < 5e-6
    assert field.pivot == 2
    assert field.nondegenerate
    assert field.unique
    np.testing.assert_allclose(field.spectral_radius, np.sqrt(0.5), atol=EXACT)


def test_circulant_clearance():
    """The nearer border of the pivot's piece, in standard deviations of what is served before."""
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    sigma = np.asarray(field.covariance)
    # Borders of the piece: the budget reaches the pivot, and it lasts beyond the pivot.
    borders = []
    for served in (PRIORITY[: PRIORITY.index(2)], PRIORITY[: PRIORITY.index(2) + 1]):
        u = np.isin(np.arange(4), served).astype(float)
        spread = np.sqrt(max(u @ sigma @ u, 0))
        if spread > 1e-9:
            borders.append(abs(u @ np.asarray(field.configuration) - 0.2) / spread)
    np.testing.assert_allclose(field.clearance, min(borders), atol=EXACT)
    assert 2.4 < np.sqrt(60) * field.clearance < 2.5


def test_the_limit_says_from_which_n_it_holds():
    """Circulant: sqrt(N) clearance is 2 at N = 41, so 40 agents are too few, and it is said."""
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    assert field.limit_holds_from == np.ceil((2 / float(field.clearance)) ** 2) == 41
    assert not field.limit_holds(40)
    assert field.limit_holds(41)
    assert "from N = 41 on" in str(field)
    # Two states: from there on the exact values are within a tenth, and sooner they are not.
    far = []
    for num_agents in (5, 10, 20, 40):
        bandit, priority = jaxent.named_bandit("healthcare", num_agents)
        limit, exact = jaxent.mean_field(bandit, priority), jaxent.ground_truth(bandit, priority)
        apart = abs(exact.entanglement * np.sqrt(num_agents) / limit.entanglement_limit - 1)
        assert bool(limit.limit_holds(num_agents)) == (num_agents >= 9) == (apart < 0.1)
        far.append(float(apart))
    assert sorted(far, reverse=True) == far
    # No limit, no N.
    none = jaxent.mean_field(*jaxent.named_bandit("cyclic", 10))
    assert np.isnan(none.limit_holds_from)
    assert not none.limit_holds(10**6)


def test_the_radius_is_that_of_the_tangent_space():
    """K + 1 c' is the same map of the simplex, whatever c; its own spectrum goes anywhere."""
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    K, m = np.asarray(field.linear), np.asarray(field.configuration)
    rng = np.random.default_rng(0)
    tangent = rng.normal(size=(5, 4))
    tangent -= tangent.mean(1, keepdims=True)
    for size in (0.0, 1.0, 100.0):
        c = size * rng.normal(size=4)
        other, offset = K + c[None], np.asarray(field.offset) - c
        np.testing.assert_allclose(m @ other + offset, m, atol=1e-10)
        np.testing.assert_allclose(tangent @ other, tangent @ K, atol=1e-10)
        basis = np.linalg.svd(np.ones((1, 4)))[2][1:].T  # orthonormal, sums to 0
        radius = np.abs(np.linalg.eigvals(basis.T @ other @ basis)).max()
        np.testing.assert_allclose(radius, field.spectral_radius, atol=1e-8)
    assert np.abs(np.linalg.eigvals(other)).max() > 10 * field.spectral_radius


def test_limit_of_equation_7():
    """It is that of Eq. (15) one step on: with two states, times the contraction of the piece."""
    bandit, priority = jaxent.named_bandit("healthcare", 60)
    field = jaxent.mean_field(bandit, priority)
    np.testing.assert_allclose(field.mu_atv_limit, 0.6 * field.entanglement_limit, atol=EXACT)
    # Circulant: E[n' | n] of the pivot and of those before it, by the kernel's rows.
    field = jaxent.mean_field(CIRCULANT, PRIORITY)
    before = list(PRIORITY[: PRIORITY.index(2)])
    u = np.zeros(4)
    u[before], u[2] = -1, -4 / 7
    u = np.asarray(field.linear) @ u
    limit = np.sqrt(2 / np.pi * (u @ np.asarray(field.covariance) @ u))
    np.testing.assert_allclose(field.mu_atv_limit, limit, atol=EXACT)


def test_step_is_the_mean_of_the_next_counts():
    for bandit, priority in list(random_cases())[:4]:
        small = bandit._replace(num_agents=5, budget=2)
        for counts in oracle.configurations(5, small.num_states)[::7]:
            law = oracle.next_law(counts, small.passive, small.active, priority, 2)
            mean = sum(p * np.array(c) for c, p in law.items()) / 5
            step = jaxent.mean_field_step(small, priority, jnp.array(counts) / 5)
            np.testing.assert_allclose(step, mean, atol=EXACT)


@pytest.mark.parametrize("case", range(12))
def test_fixed_point_piece_and_moments(case):
    bandit, priority = list(random_cases())[case]
    field = jaxent.mean_field(bandit, priority)
    m = np.asarray(field.configuration)
    np.testing.assert_allclose(m.sum(), 1, atol=EXACT)
    np.testing.assert_allclose(jaxent.mean_field_step(bandit, priority, m), m, atol=SOLVE)
    K, b = np.asarray(field.linear), np.asarray(field.offset)
    # The piece is phi on a neighborhood of m*.
    rng = np.random.default_rng(case)
    push = rng.normal(size=len(m))
    push -= push.mean()
    near = m + 1e-6 * push
    np.testing.assert_allclose(
        jaxent.mean_field_step(bandit, priority, near), near @ K + b, atol=EXACT
    )
    eigenvalues = np.linalg.eigvals(K - m[None, :])
    np.testing.assert_allclose(field.spectral_radius, np.abs(eigenvalues).max(), rtol=1e-9)
    assert field.nondegenerate
    # Lyapunov equation, by SciPy.
    policy = np.asarray(field.policy)
    noise = np.zeros_like(K)
    for s in range(len(m)):
        for a, kernel in enumerate((bandit.passive, bandit.active)):
            row = np.asarray(kernel)[s]
            noise += m[s] * policy[s, a] * (np.diag(row) - np.outer(row, row))
    expected = linalg.solve_discrete_lyapunov((K - m[None, :]).T, noise)
    np.testing.assert_allclose(field.covariance, expected, atol=SOLVE)


@pytest.mark.parametrize("case", range(12))
def test_affine_value_solves_bellman_on_the_piece(case):
    """V(n) = w.n + N c satisfies V(n) = r(n) + discount V(N phi(n / N)) for all n of the piece."""
    bandit, priority = list(random_cases())[case]
    field = jaxent.mean_field(bandit, priority)
    N = bandit.num_agents
    rng = np.random.default_rng(case)
    push = rng.normal(size=bandit.num_states)
    m = np.asarray(field.configuration) + 1e-5 * (push - push.mean())

    def value(m):
        return N * (m @ np.asarray(field.value_weights) + field.value_constant)

    groups = jaxent.restless.by_action(jnp.asarray(m), jnp.array(priority), bandit.budget / N)
    reward = N * jnp.vdot(groups, bandit.reward)
    after = np.asarray(jaxent.mean_field_step(bandit, priority, m))
    np.testing.assert_allclose(value(m), reward + bandit.discount * value(after), atol=SOLVE)
    # Local values agree with it at m*, to leading order in N: their sum is exact there.
    star = np.asarray(field.configuration)
    pairs = star[:, None] * np.asarray(field.policy)
    np.testing.assert_allclose(value(star), N * (pairs * field.local_q).sum(), atol=1e-8)


@pytest.mark.parametrize("budget", [0, 20])
def test_degenerate_budget_is_said_so(budget):
    """With nobody or everybody active the agents are independent: no limit law of this kind."""
    bandit = RestlessBandit(*oracle.random_bandit(1, 3, 20, budget))
    field = jaxent.mean_field(bandit, (0, 1, 2))
    assert not field.nondegenerate
    assert np.isnan(field.entanglement_limit)
    assert np.isfinite(field.configuration).all()


def test_only_the_ratio_of_budget_to_agents_matters():
    small = jaxent.mean_field(CIRCULANT, PRIORITY)
    large = jaxent.mean_field(jaxent.circulant_bandit(3000), PRIORITY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=EXACT), small, large)


def test_batched_over_priorities():
    priorities = jnp.array([[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]])
    swept = jax.vmap(lambda p: jaxent.mean_field(CIRCULANT, p).configuration)(priorities)
    for priority, m in zip(priorities, swept, strict=True):
        np.testing.assert_allclose(
            m, jaxent.mean_field(CIRCULANT, priority).configuration, atol=SOLVE
        )


def test_float32():
    single = CIRCULANT._replace(
        passive=jnp.float32(CIRCULANT.passive),
        active=jnp.float32(CIRCULANT.active),
        reward=jnp.float32(CIRCULANT.reward),
    )
    field = jaxent.mean_field(single, PRIORITY)
    assert field.covariance.dtype == jnp.float32
    exact = jaxent.mean_field(CIRCULANT, PRIORITY)
    np.testing.assert_allclose(field.mu_error_limit, exact.mu_error_limit, rtol=1e-5)
