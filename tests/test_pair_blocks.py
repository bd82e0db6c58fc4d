"""Rows in blocks of a local pair say what a design matrix with a block for each pair says."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxent.data import pair_blocks as blocks

from .tolerances import EXACT, by_precision

T, X, D = 700, 5, 3


def drawn():
    rng = np.random.default_rng(0)
    x = rng.choice(X, T, p=[0.6, 0.3, 0.08, 0.02, 0.0])  # the last one never comes
    f, y = rng.normal(size=(T, D)), rng.integers(X, size=T)
    return x, f, y, (rng.random(T) < 0.7).astype(float)


def test_blocks_hold_every_row_once():
    x, f, *_ = drawn()

    @jax.jit
    def through(x, f):
        made = blocks.pair_blocks(x, X)
        spread = made.spread(f)
        return made.back(spread), made.sums(spread.sum(1)), made.slot, made.pair

    back, sums, slot, pair = through(x, f)
    np.testing.assert_array_equal(back, jnp.asarray(f))
    np.testing.assert_allclose(sums, np.eye(X)[x].T @ f, atol=EXACT)
    assert len(set(np.asarray(slot))) == T
    np.testing.assert_array_equal(np.asarray(pair)[np.asarray(slot) // 32], x)


def test_the_fit_is_that_of_the_whole_design():
    """Adam on the dense design matrix, step by step in NumPy."""
    x, f, y, train = drawn()
    here, target = np.eye(X)[x], np.eye(X)[y]
    count = (here * train[:, None]).T @ target
    design = np.concatenate([here, (here[:, :, None] * f[:, None]).reshape(T, -1)], 1)
    start = np.log((count + 0.5) / (count + 0.5).sum(1, keepdims=True))
    weight = np.concatenate([start, np.zeros((X * D, X))])
    prior = np.repeat([0.0, 1.0], [X, X * D])[:, None] / train.sum()
    first, second = np.zeros_like(weight), np.zeros_like(weight)

    def laws(weight):
        odds = np.exp(design @ weight)
        return odds / odds.sum(1, keepdims=True)

    for k in range(blocks._FIT_STEPS):
        miss = (train / train.sum())[:, None] * (laws(weight) - target)
        slope = design.T @ miss + prior * weight
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = blocks._FIT_RATE * (1 + np.cos(np.pi * k / blocks._FIT_STEPS)) / 2
        step = first / (1 - 0.9 ** (k + 1))
        weight = weight - rate * step / (np.sqrt(second / (1 - 0.999 ** (k + 1))) + 1e-8)

    @jax.jit
    def fit(x, f, y, train, count):
        return blocks.logistic_laws(blocks.pair_blocks(x, X), f, y, train, count)

    found = fit(*map(jnp.asarray, (x, f, y, train, count)))
    np.testing.assert_allclose(found, laws(weight), atol=by_precision(EXACT, 1e-3))
