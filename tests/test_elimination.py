from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.numerics.elimination import discounted_solve, stationary_distribution

from . import oracles
from .tolerances import EXACT, F32, FD, STEP, by_precision


@pytest.mark.parametrize("n", [1, 2, 7, 65, 150])
def test_equals_dense_solves(n):
    rng = np.random.default_rng(n)
    P, r = oracles.random_stochastic(rng, n, n), rng.normal(size=(n, 2))
    x = discounted_solve(jnp.array(P), jnp.array(r), 0.9)
    np.testing.assert_allclose(x, oracles.q_values(P, r, 0.9), atol=EXACT)
    one = discounted_solve(jnp.array(P), jnp.array(r[:, 0]), 0.9)
    np.testing.assert_allclose(one, x[:, 0], atol=EXACT)
    np.testing.assert_allclose(
        stationary_distribution(jnp.array(P)), oracles.stationary(P), atol=EXACT
    )


@pytest.mark.parametrize("n", [3, 20])
def test_vmap_equals_loop(n):
    rng = np.random.default_rng(n)
    P, r = jnp.array(oracles.random_stochastic(rng, 6, n, n)), jnp.array(rng.normal(size=(6, n)))
    solve = jax.jit(jax.vmap(discounted_solve, in_axes=(0, 0, None)))
    loop = np.stack([discounted_solve(a, b, 0.9) for a, b in zip(P, r, strict=True)])
    np.testing.assert_allclose(solve(P, r, 0.9), loop, atol=EXACT)
    shared = jax.vmap(discounted_solve, in_axes=(None, 0, None))(P[0], r, 0.9)
    np.testing.assert_allclose(shared[0], loop[0], atol=EXACT)
    nested = jax.vmap(jax.vmap(stationary_distribution))(P.reshape(2, 3, n, n))
    laws = np.stack([stationary_distribution(p) for p in P])
    np.testing.assert_allclose(nested.reshape(6, n), laws, atol=EXACT)


@pytest.mark.parametrize(
    ("P", "law"),
    [
        ([[1, 0], [0.5, 0.5]], [1, 0]),  # a transient state after the recurrent one
        ([[0.5, 0.5], [0, 1]], [0, 1]),  # and before it
        ([[0, 1], [1, 0]], [0.5, 0.5]),  # periodic
        ([[0.5, 0.2, 0.3], [0, 0, 1], [0, 1, 0]], [0, 0.5, 0.5]),
        ([[1, 0], [0, 1]], [np.nan] * 2),  # two classes
        ([[1, 0, 0], [0.1, 0.1, 0.8], [0, 0, 1]], [np.nan] * 3),
        ([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], [np.nan] * 4),
    ],
)
def test_classes(P, law):
    np.testing.assert_array_equal(stationary_distribution(jnp.array(P, float)), law)


@pytest.mark.parametrize("n", [7, 150])  # in one panel, in several
def test_transient_states_anywhere(n):
    """What eliminates last to first meets transient states before, in and after the class."""
    rng = np.random.default_rng(n)
    class_ = rng.permutation(n)[: n // 2]
    P = oracles.random_stochastic(rng, n, n)
    P[class_] = 0
    P[np.ix_(class_, class_)] = oracles.random_stochastic(rng, n // 2, n // 2)
    law = np.zeros(n)
    law[class_] = oracles.stationary(P[np.ix_(class_, class_)])
    found = stationary_distribution(jnp.array(P))
    np.testing.assert_allclose(found, law, atol=EXACT)
    np.testing.assert_array_equal(found[law == 0], 0)
    alone = np.setdiff1d(np.arange(n), class_)[n // 4]
    P[alone] = np.eye(n)[alone]
    assert jnp.isnan(stationary_distribution(jnp.array(P))).all()
    r = rng.normal(size=n)
    x = discounted_solve(jnp.array(P), jnp.array(r), 0.9)
    np.testing.assert_allclose(x, oracles.q_values(P, r, 0.9), atol=EXACT)


@pytest.mark.parametrize(
    "bad", [[[0.5, 0.4], [0.5, 0.5]], [[np.nan, 1], [0.5, 0.5]], [[-1, 2], [1, 0]]]
)
def test_what_is_no_chain_gives_nan(bad):
    P = jnp.array(bad, float)
    assert jnp.isnan(jax.jit(stationary_distribution)(P)).all()
    assert jnp.isnan(jax.jit(discounted_solve)(P, jnp.ones(2), 0.9)).all()
    good = jnp.full((2, 2), 0.5)
    for discount in (1.0, -0.1, jnp.nan):
        assert jnp.isnan(discounted_solve(good, jnp.ones(2), discount)).all()
    batch = jax.vmap(stationary_distribution)(jnp.stack([good, P]))
    np.testing.assert_allclose(batch[0], 0.5)
    assert jnp.isnan(batch[1]).all()


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match=r"P: wanted shape \[2, 2\], got \[2, 3\]"):
        stationary_distribution(jnp.ones((2, 3)) / 3)
    with pytest.raises(ValueError, match=r"r: wanted shape \[2\], got \[3\]"):
        discounted_solve(jnp.eye(2), jnp.ones(3), 0.9)


@pytest.mark.parametrize("coupling", [Fraction(1, 100), Fraction(1, 10**12)])
def test_nearly_decomposable_entry_by_entry(coupling):
    rng = np.random.default_rng(1)
    exact = oracles.nearly_decomposable(rng, 3, 3, coupling)
    P = jnp.array([[float(p) for p in row] for row in exact])
    law = np.array([float(p) for p in oracles.exact_law(exact)])
    np.testing.assert_allclose(stationary_distribution(P), law, rtol=1e-10)
    reward = [Fraction(int(k), 16) for k in rng.integers(1, 99, len(exact))]
    for discount in (0.5, 0.99999):
        # As it is held: float32 rounds the distance from 1 by a thousandth.
        held = float(jnp.asarray(discount))
        values = oracles.exact_values(exact, reward, Fraction(held))
        x = discounted_solve(P, jnp.array([float(r) for r in reward]), discount)
        np.testing.assert_allclose(x, [float(v) for v in values], rtol=1e-10)


def test_float32_at_long_horizons():
    rng = np.random.default_rng(2)
    P, r = oracles.random_stochastic(rng, 20, 20).astype(np.float32), rng.random(20, np.float32)
    x = discounted_solve(jnp.array(P), jnp.array(r), jnp.float32(0.9999))
    assert x.dtype == jnp.float32
    wide = P.astype(float)
    off = wide - np.diag(np.diag(wide))
    wide = off + np.diag(1 - off.sum(1))
    exact = oracles.q_values(wide, r.astype(float), float(np.float32(0.9999)))
    np.testing.assert_allclose(x, exact, rtol=F32)


def test_gradients_in_both_modes():
    rng = np.random.default_rng(3)
    P, r, w = oracles.random_stochastic(rng, 5, 5), rng.normal(size=5), rng.normal(size=5)
    d = rng.normal(size=(5, 5)) * 0.01
    P, r, w, d = jnp.array(P), jnp.array(r), jnp.array(w), jnp.array(d - d.mean(1, keepdims=True))

    def value(t):
        return w @ discounted_solve(P + t * d, r * (1 + t), 0.9 + 0.01 * t)

    def law(t):
        return w @ stationary_distribution(P + t * d)

    for f in (value, law, jax.grad(value), jax.grad(law)):  # the last two: second derivatives

        @jax.jit
        def slopes(t, f=f):
            return f(t), jax.grad(f)(t), jax.jvp(f, (t,), (1.0,))[1]

        _, backward, forward = slopes(0.0)
        h = by_precision(1e-4, STEP)
        difference = (slopes(h)[0] - slopes(-h)[0]) / (2 * h)
        np.testing.assert_allclose(backward, difference, atol=FD)
        np.testing.assert_allclose(forward, difference, atol=FD)
    slope = jax.grad(law)
    batched = jax.jit(jax.vmap(slope))(jnp.zeros(3))
    np.testing.assert_allclose(batched, jax.jit(slope)(0.0), atol=EXACT)


def kandori_mailath_rob(num_agents, mistake, threshold=Fraction(1, 3)):
    """How many of N play 1: one at a time looks up and answers the others, or errs.

    Both ends are nearly absorbing. Between them lies a valley of mass mistake^(N/3).
    """
    N = num_agents
    P = [[Fraction(0)] * (N + 1) for _ in range(N + 1)]
    for k in range(N + 1):
        up = lambda others: 1 if others > threshold * (N - 1) else 0  # noqa: E731
        err = mistake / 2
        if k > 0:
            P[k][k - 1] = Fraction(k, N) * (err + (1 - mistake) * (1 - up(k - 1)))
        if k < N:
            P[k][k + 1] = Fraction(N - k, N) * (err + (1 - mistake) * up(k))
        P[k][k] = 1 - sum(P[k])
    return P


@pytest.mark.parametrize("dtype", by_precision([np.float32, np.float64], [np.float32]))
@pytest.mark.parametrize("decades", [1, 2, 6, 12, 20, 30])
def test_a_law_is_right_or_none(dtype, decades):
    """Through a valley that underflows a wrong law has residual 0: it must be refused."""
    exact = kandori_mailath_rob(27, Fraction(1, 10**decades))
    law = np.array([float(x) for x in oracles.exact_law(exact)])
    rng, found = np.random.default_rng(decades), []
    for order in (np.arange(28), np.arange(28)[::-1], *(rng.permutation(28) for _ in range(4))):
        P = np.array([[float(exact[i][j]) for j in order] for i in order]).astype(dtype)
        found.append(np.asarray(stationary_distribution(jnp.array(P / P.sum(1, keepdims=True)))))
        if not np.isnan(found[-1]).any():
            # Only so far as float32 has the chances, which the law takes to the power of 18.
            np.testing.assert_allclose(found[-1], law[order], atol=1e-5)
    known = [not np.isnan(x).any() for x in found]
    if decades == 1 or (dtype == np.float64 and decades <= 12):
        assert all(known)
    if dtype == np.float32 and decades >= 6:
        assert not known[0]
    batch = jax.vmap(stationary_distribution)(jnp.stack([jnp.asarray(P)] * 2))
    assert np.isnan(batch).any() == (not known[-1])


def test_a_law_through_a_valley_is_refused_with_the_remedy():
    P = [[float(x) for x in row] for row in kandori_mailath_rob(27, Fraction(1, 10**6))]
    rows = np.array(P, np.float32)
    chain = jaxent.PairChain.from_matrix(rows / rows.sum(1, keepdims=True), sizes=(28,))
    assert not jaxent.solve_law(chain).converged
    with pytest.raises(ValueError, match="too many decades for elimination in float32, which flo"):
        jaxent.stationary_distribution(chain)
