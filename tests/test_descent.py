"""Projected gradient descent, held against the certified measures; distances and simplex tools."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain
from jaxent.chains.views import by_view
from jaxent.measures.programs.minimax_tv_center import minimax_center
from jaxent.numerics.simplex import project_simplex, total_variation, tv_center
from tests import oracles_measures as oracles
from tests.tolerances import EXACT


def chain_of(seed, sizes):
    J = int(np.prod(sizes))
    return PairChain.from_matrix(np.random.default_rng(seed).dirichlet(np.ones(J), J), sizes=sizes)


def test_descent_meets_the_exact_minimum():
    chain = chain_of(0, (2, 3))
    mu = jaxent.stationary_distribution(chain)
    rows = by_view(chain, jaxent.view_transition(chain, agent=0), agent=0)
    weights = by_view(chain, mu, agent=0)
    found = jaxent.minimize_entanglement(
        lambda P: jnp.sum(weights * total_variation(rows, P[:, None])), jnp.full((2, 2), 0.5)
    )
    exact = jaxent.entanglement_mu_atv_upper(chain, mu, agent=0)
    assert exact.lower - EXACT <= found.value < exact.upper + 1e-4
    assert found.history.shape == (500,)
    np.testing.assert_allclose(found.history.min(), found.value, atol=EXACT)
    np.testing.assert_allclose(found.minimizer.sum(-1), 1, atol=EXACT)


@pytest.mark.slow
def test_signed_products_bound_three_agents():
    chain = chain_of(1, (2, 2, 2))
    found = jaxent.entanglement_tv_signed(jax.random.key(2), chain, num_steps=300)
    assert found.lower <= found.upper
    assert not found.converged
    nearest = PairChain.from_matrix(found.minimizer.matrix, sizes=(2, 2, 2))
    assert jaxent.is_separable(nearest, tol=1e-9)
    np.testing.assert_allclose(jaxent.tv_distance(chain, nearest), found.value, atol=EXACT)


@pytest.mark.slow
def test_signed_products_bound_two_agents():
    chain = chain_of(3, (2, 2))
    found = jaxent.entanglement_tv_signed(jax.random.key(4), chain, num_steps=1000)
    exact = jaxent.entanglement_tv(chain)
    assert exact.lower <= found.value <= exact.upper + 0.05


def test_signed_products_take_the_key_first_and_still_second():
    chain, key = chain_of(8, (2, 2)), jax.random.key(9)
    found = jaxent.entanglement_tv_signed(key, chain, num_steps=2)
    for old in (lambda f: f(chain, key, num_steps=2), lambda f: f(chain, key=key, num_steps=2)):
        with pytest.warns(DeprecationWarning, match="the key comes first now"):
            before = old(jaxent.entanglement_tv_signed)
        assert before.value == found.value
    assert found.lower <= found.upper


@pytest.mark.parametrize(
    ("number", "m"), [(1, 1), (1, 6), (2, 1), (2, 2), (7, 1), (7, 2), (7, 6), (40, 2)]
)
def test_weighted_centers(number, m):
    """Ties, zero weights and zero entries included."""
    rng = np.random.default_rng(number * m)
    points = rng.multinomial(4, np.ones(m) / m, (40, number)) / 4
    points[::2] = rng.dirichlet(np.ones(m) * 0.1, (20, number))
    weights = rng.random((40, number)) * (rng.random((40, number)) < 0.8)
    found = jax.jit(jax.vmap(tv_center))(jnp.asarray(points), jnp.asarray(weights))
    np.testing.assert_allclose(found.upper, found.lower, atol=EXACT)
    np.testing.assert_allclose(found.point.sum(-1), 1, atol=EXACT)
    assert (found.point >= 0).all()
    for k in range(4):
        wanted = oracles.solve(oracles.agentwise(points[k : k + 1], weights[k : k + 1]))
        np.testing.assert_allclose(found.upper[k], wanted, atol=1e-8)


def test_minimax_center_of_two_is_half_way():
    points = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    found = minimax_center(points, jnp.array([True, True]), tol=1e-9, max_steps=50)
    np.testing.assert_allclose(found.bracket.upper, 0.3, atol=1e-9)
    np.testing.assert_allclose(found.bracket.dual.weight, 0.5, atol=1e-4)


def test_projection_takes_rows_apart():
    rows = np.random.default_rng(5).normal(size=(3, 4, 5))
    project = jax.jit(project_simplex)
    found = np.asarray(project(rows))
    np.testing.assert_allclose(found.sum(-1), 1, atol=EXACT)
    np.testing.assert_allclose(project(rows[1]), found[1], atol=EXACT)
    np.testing.assert_allclose(project(found), found, atol=EXACT)


def test_distances_by_hand_and_order():
    left, right = (chain_of(seed, (2, 3)) for seed in (6, 60))
    mu = jaxent.stationary_distribution(left)
    for i in range(2):
        mu_atv = jaxent.mu_atv_distance(left, right, mu, agent=i)
        assert mu_atv.lower == mu_atv.upper
        assert mu_atv.upper <= jaxent.mu_tv_distance(left, right, mu)
        assert jaxent.atv_distance(left, right, agent=i) <= jaxent.tv_distance(left, right)
    norm = jaxent.mu_inf_norm(left.matrix() - right.matrix(), mu)
    assert mu_atv.upper <= norm.upper / 2 <= jaxent.mu_tv_distance(left, right, mu)
    identity = jaxent.mu_inf_norm(jnp.eye(3), jnp.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(identity.upper, 1, atol=EXACT)


def test_many_columns_are_bracketed():
    matrix, mu = np.random.default_rng(7).normal(size=(30, 20)), np.full(30, 1 / 30)
    wide = jaxent.mu_inf_norm(matrix, mu)
    assert 0 < wide.lower < wide.upper < 2 * wide.lower
    np.testing.assert_allclose(jaxent.mu_norm(matrix @ wide.signs, mu), wide.lower, atol=EXACT)
