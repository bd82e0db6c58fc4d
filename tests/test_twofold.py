"""Twofold float32: what it keeps of sums, products, quotients, roots and systems, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxent.numerics.cholesky import inverse_cholesky, solve_factored
from jaxent.numerics.twofold import in_twofold, unit_roundoff

rng = np.random.default_rng(0)
A, B = rng.normal(size=(2, 6, 5)).astype(np.float32)
P = rng.uniform(0.1, 2, size=(6, 5)).astype(np.float32)
ONE = jnp.ones((), np.float32)
# Rounded to float32 last, each of these loses what cancels before that.
FORMULAS = {
    "sum": lambda np, a, b, p: (a + b) - a,
    "product": lambda np, a, b, p: a * b - (a - 1) * (b + 1) - (a - b),
    "quotient": lambda np, a, b, p: (1 / p) * p - 1 + b / 1000,
    "root": lambda np, a, b, p: np.sqrt(p) * np.sqrt(p) - p + b / 1000,
    "total": lambda np, a, b, p: 1e5 * (p.sum(1) - p[:, 0] - p[:, 1:].sum(1)) + b[:, 0],
    "matrix": lambda np, a, b, p: 1000 * (np.matmul((p + 1).T, p) - p.T @ p) - a.T @ b,
    "choice": lambda np, a, b, p: np.where(p + 1e-9 * p > p, a, b),
}


def hold(values):
    """A function that keeps its values as a pytree does."""
    return Partial(lambda values, scale: jax.tree.map(lambda x: scale * x, values), values)


@pytest.mark.parametrize("name", FORMULAS)
def test_what_cancels_is_kept(name):
    """Plain, under jit and under vmap, to a rounding of the answer."""
    formula = FORMULAS[name]
    wanted = formula(np, *map(np.float64, (A, B, P)))

    def twofold(a, b, p):
        return in_twofold(lambda *args: hold(formula(jnp, *args)))(a, b, p)(ONE)

    batch = [jnp.stack([x, -x, x]) if x is not P else jnp.stack([x, x, x]) for x in (A, B, P)]
    for found in (twofold(A, B, P), jax.jit(twofold)(A, B, P), jax.vmap(twofold)(*batch)[2]):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)


def test_a_system_without_a_digit_in_single_precision():
    """Hilbert's matrix of 7 rows has a condition near 5e8: in float32 its factor is noise."""
    n = 7
    scale = np.float32(np.lcm.reduce(np.arange(1, 2 * n)))  # so that its entries are integers
    matrix = np.float32(scale / (1.0 + np.add.outer(np.arange(n), np.arange(n))))
    right = np.float32(matrix @ np.ones(n))
    solver = in_twofold(lambda m: Partial(solve_factored, inverse_cholesky(m)))
    found = jax.jit(lambda m, b: solver(m)(b))(matrix, right)
    wanted = np.linalg.solve(np.float64(matrix), np.float64(right))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    single = solve_factored(inverse_cholesky(jnp.asarray(matrix)), jnp.asarray(right))
    assert not np.allclose(single, wanted, rtol=0.1)


def test_loops_and_shapes():
    """A loop of an unknown number of turns, a scan, nothing to add up, and other dtypes."""

    def newton(p, turns):
        halve = lambda _, x: (x + p / x) / 2  # noqa: E731
        root = jax.lax.fori_loop(0, turns, halve, p)
        rows = jax.lax.map(lambda row: row * row, root)
        empty = jnp.matmul(p[:, :0], p[:, :0].T)
        return hold((rows - p, empty, jnp.where(p > 0, 1, 0)))

    off, empty, there = in_twofold(newton)(jnp.asarray(P), jnp.asarray(9))(ONE)
    assert np.abs(off).max() < 1e-12
    assert empty.shape == (6, 6)
    assert (empty == 0).all()
    assert (there == 1).all()


def test_unit_roundoff():
    """That of the arithmetic it is asked in."""
    x = jnp.ones((), np.float32)
    assert unit_roundoff(x) == np.finfo(np.float32).eps
    assert in_twofold(lambda x: hold(unit_roundoff(x)))(x)(ONE) == 2.0**-44


def test_other_precisions_run_as_they_are():
    """Nothing but float32 is taken apart."""
    assert in_twofold(lambda x: x.sum)(np.ones(3))() == 3


def test_an_operation_without_a_rule():
    """It is named, not done in single precision quietly."""
    with pytest.raises(NotImplementedError, match="sin: there is no rule"):
        in_twofold(lambda x: hold(jnp.sin(x)))(jnp.asarray(P))
