"""Chains of a few hundred states are applied first, and eliminated where that falls short."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains.stationary import law_iterative
from jaxent.numerics.elimination import where_needed
from jaxent.values.bellman import solve_iterative

from . import oracles
from .tolerances import SOLVE, by_precision

N = 160
# Of the largest value; float32 holds 1 - 0.9999 to 3e-4 of it.
CLOSE = by_precision(1e-11, 2e-3)
# A gradient against differences of answers that are right to `SOLVE`.
SLOPE = by_precision(1e-6, 2e-2)


def chain_of(P):
    return je.PairChain.from_matrix(jnp.asarray(P), sizes=(len(P),))


def cycle(n):
    """Every product of a vector with it is as large as the vector, for n products."""
    return np.roll(np.eye(n), 1, axis=1)


def test_nothing_is_computed_for_a_batch_that_needs_nothing():
    """One `cond`, on whether any needs it, however deep the batch; `lax.cond` would be a select."""

    def double(x):
        return {"twice": 2 * x}

    def call(needed, x):
        return where_needed(needed, double, x)["twice"]

    x = jnp.arange(6.0).reshape(2, 3)
    needed = jnp.array([[False, True, False], [False, False, False]])
    deep = jax.vmap(jax.vmap(call))
    program = str(jax.make_jaxpr(deep)(needed, x))
    assert "cond[" in program
    assert "select_n" not in program
    np.testing.assert_array_equal(deep(needed, x), 2 * x)  # one needs it, so all have it
    np.testing.assert_array_equal(deep(0 * needed > 0, x), 0 * x)
    some = jax.vmap(call, (0, None))(needed[0], x[0])
    np.testing.assert_array_equal(some, np.tile(2 * x[0], (3, 1)))
    np.testing.assert_array_equal(jax.vmap(call, (None, 0))(needed[0, 1], x), 2 * x)
    assert (jax.grad(lambda x: call(jnp.array(True), x).sum())(x[0]) == 0).all()


def test_values_that_products_do_not_reach():
    """Alone, in a batch beside an easy chain, and their gradient, against dense NumPy."""
    easy = oracles.random_stochastic(np.random.default_rng(0), N, N)
    rng = np.random.default_rng(1)
    r, w = rng.normal(size=N), rng.normal(size=N)
    both = np.stack([cycle(N), easy])

    def value(P, discount):
        found = solve_iterative(chain_of(P), r, discount=discount, rescue=True)
        return w @ found.value, found

    slope = jax.jit(jax.vmap(jax.grad(value, has_aux=True), (0, None)))
    for discount in (0.9, 0.9999):
        slopes, found = slope(both, discount)
        assert found.converged.all()
        alone = solve_iterative(chain_of(cycle(N)), r, discount=discount)
        assert alone.converged == (discount < 0.99)
        for P, one, bent in zip(both, found.value, slopes, strict=True):
            system = np.eye(N) - discount * P
            x, lever = np.linalg.solve(system, r), np.linalg.solve(system.T, w)
            np.testing.assert_allclose(one, x, atol=CLOSE * np.abs(x).max())
            wanted = discount * np.outer(lever, x)  # of w (I - discount P)^-1 r
            np.testing.assert_allclose(bent, wanted, atol=SLOPE * np.abs(wanted).max())


def test_a_law_is_right_in_every_entry():
    """A valley of mass 1e-24 between two hills: GMRES alone has no digit of it."""
    step = np.ones(N - 1) * 0.3
    drift = np.where(np.arange(N - 1) < N // 2, 0.5, 2.0)  # up over down
    P = np.diag(step * drift, 1) + np.diag(step, -1)
    P += np.diag(1 - P.sum(1))
    law = np.cumprod(np.concatenate([[1.0], drift]))
    law /= law.sum()
    found = law_iterative(chain_of(P), True)
    assert found.converged
    np.testing.assert_allclose(found.value, law, rtol=by_precision(1e-10, 1e-4))
    alone = law_iterative(chain_of(P))
    assert not alone.converged or (np.abs(alone.value / law - 1).max() > 1e-3)


def test_laws_in_a_batch_and_their_slope():
    """Two blocks that hardly ever change places beside a chain that mixes; transient states."""
    rng, rare = np.random.default_rng(0), 1e-5
    half = N // 2
    slow = np.zeros((N, N))
    for place in (slice(0, half), slice(half, N)):
        slow[place, place] = oracles.random_stochastic(rng, half, half)
    slow = (1 - rare) * slow + rare * np.roll(np.eye(N), half, axis=1)
    easy = oracles.random_stochastic(rng, N, N)
    gone = easy.copy()
    gone[5:, :5] = 0
    gone /= gone.sum(1, keepdims=True)
    batch = np.stack([slow, easy, gone])
    w = rng.normal(size=N)

    def mean(P):
        found = law_iterative(chain_of(P), True)
        return found.value @ w, found

    slopes, found = jax.jit(jax.vmap(jax.grad(mean, has_aux=True)))(batch)
    assert found.converged.all()
    np.testing.assert_array_equal(found.value[2, :5], 0)
    for slope, law, P in zip(slopes, found.value, batch, strict=True):
        np.testing.assert_allclose(law, oracles.stationary(P), atol=SOLVE)
        centered = np.linalg.lstsq(np.eye(N) - P, w - law @ w, rcond=None)[0]
        wanted = np.outer(law, centered)
        # Rows of a kernel sum to 1: a constant in a row of a slope says nothing.
        slope, wanted = (x - x.mean(1, keepdims=True) for x in (slope, wanted))
        np.testing.assert_allclose(slope, wanted, atol=SLOPE * np.abs(wanted).max())


def test_who_is_asked():
    """300 states are applied; the cycle of 300 is eliminated, two classes are named as ever."""
    rng = np.random.default_rng(0)
    n = 300
    easy, r = oracles.random_stochastic(rng, n, n), rng.normal(size=n)
    assert 0 < je.solve_law(chain_of(easy)).num_steps < 100
    assert 0 < je.solve_q(chain_of(easy), r, discount=0.99).num_steps < 100
    np.testing.assert_allclose(je.stationary_distribution(chain_of(cycle(n))), 1 / n, rtol=SOLVE)
    q = je.q_values(chain_of(cycle(n)), r, discount=0.999)
    exact = np.linalg.solve(np.eye(n) - 0.999 * cycle(n), r)
    np.testing.assert_allclose(q, exact, atol=by_precision(1e-11, 1e-4) * np.abs(exact).max())
    two = np.kron(np.eye(2), oracles.random_stochastic(rng, n // 2, n // 2))
    with pytest.raises(ValueError, match="2 recurrent classes"):
        je.stationary_distribution(chain_of(two))
