"""Binomial draws have the exact law; the words behind them are Threefry's."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxent.restless.sampling import (
    binomial_tables,
    draw_binomial,
    index_bits,
    num_digits,
    random_words,
)
from tests.oracles_counts import binomial_pmf
from tests.tolerances import by_precision


def unpacked_laws(tables, digits):
    """The law of each table, by outcome, from its columns, thresholds and aliases."""
    bits = index_bits(digits)
    packed = np.asarray(tables.columns).reshape(digits, 3, 2**bits)
    threshold = (packed >> bits) / 2.0 ** (32 - bits)
    alias = packed & (2**bits - 1)
    trials = np.arange(1, 4) * 4 ** np.arange(digits)[:, None]
    middle = np.floor(trials * np.asarray(tables.chance)).astype(int)
    first = np.clip(middle - 2**bits // 2, 0, np.maximum(trials + 1 - 2**bits, 0))
    laws = np.zeros((digits, 3, 4**digits + 2**bits))
    for place in range(digits):
        for row in range(3):
            law = laws[place, row, first[place, row] :]
            law[: 2**bits] += threshold[place, row] / 2.0**bits
            np.add.at(law, alias[place, row], (1 - threshold[place, row]) / 2.0**bits)
    return laws[:, :, : 4**digits]


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.5, 0.7, 1 - 1e-9, 1.0])
def test_tables_hold_the_law_to_the_last_bit_of_a_word(p):
    digits = 6
    laws = unpacked_laws(binomial_tables(p, 1800), digits)
    p = float(jnp.asarray(p))  # as it is held
    for place in range(digits):
        for row in range(3):
            n = (row + 1) * 4**place
            exact = np.zeros(4**digits)
            exact[: n + 1] = stats.binom.pmf(np.arange(n + 1), n, p)
            # Each column rounds by half a unit, and a heavy outcome collects many columns.
            assert np.abs(laws[place, row] - exact).sum() * 2 ** by_precision(32, 24) < 4**digits


def test_float32_tables_hold_the_law():
    laws = unpacked_laws(binomial_tables(jnp.float32(0.3), 1800), 6)
    n = 3 * 4**5
    exact = np.zeros(4**6)
    exact[: n + 1] = stats.binom.pmf(np.arange(n + 1), n, np.float64(np.float32(0.3)))
    assert np.abs(laws[-1, -1] - exact).sum() < 1e-5


NUM_DRAWS = 200_000


@jax.jit
def drawn(seed, n, p):
    """So many draws of a binomial, of whatever law: one compilation."""
    digits, tables = num_digits(1800), binomial_tables(p, 1800)
    words = random_words(seed, jnp.uint32(0), NUM_DRAWS * digits).reshape(NUM_DRAWS, digits)
    return jax.vmap(lambda w: draw_binomial(w, n, tables))(words)


@pytest.mark.parametrize("n", [0, 1, 7, 1800])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_draws_pass_chi_square(n, p):
    draws = np.asarray(drawn(np.array([n, int(p * 10)], np.uint32), np.int32(n), p))
    law = stats.binom.pmf(np.arange(n + 1), n, p)
    assert draws.min() >= 0
    assert draws.max() <= n
    seen = np.bincount(draws, minlength=n + 1)
    assert seen[law == 0].sum() == 0
    # One cell for each outcome that expects 20 draws, one for all the others together.
    frequent = law * NUM_DRAWS >= 20
    expected = np.append(law[frequent], law[~frequent].sum()) * NUM_DRAWS
    observed = np.append(seen[frequent], seen[~frequent].sum())
    if expected.max() == NUM_DRAWS:  # a constant: nothing to test beyond this
        np.testing.assert_array_equal(observed, expected)
    else:
        keep = expected >= 1
        scale = observed[keep].sum() / expected[keep].sum()
        assert stats.chisquare(observed[keep], expected[keep] * scale).pvalue > 1e-4


def test_small_law_equals_the_binomial_coefficients():
    laws = unpacked_laws(binomial_tables(0.3, 3), 1)
    for n in (1, 2, 3):
        np.testing.assert_allclose(laws[0, n - 1, : n + 1], binomial_pmf(n, 0.3), atol=1e-8)


def test_words_are_threefry():
    """The oracle is JAX's own implementation of the hash."""
    seed = jnp.array([123, 456], jnp.uint32)
    counters = jnp.stack([jnp.full(9, 5, jnp.uint32), jnp.arange(9, dtype=jnp.uint32)])
    pair = jax.extend.random.threefry_2x32(seed, counters.reshape(-1)).reshape(2, 9)
    np.testing.assert_array_equal(random_words(seed, jnp.uint32(5), 9), pair[0] ^ pair[1])


def test_words_of_different_steps_differ():
    seed = jnp.array([1, 2], jnp.uint32)
    words = jax.vmap(lambda t: random_words(seed, t, 100))(jnp.arange(1000))
    assert len(np.unique(words)) > 99_990  # 1.2 collisions are expected among 1e5 words


def test_too_many_agents_are_refused():
    with pytest.raises(ValueError, match="max_count: 65536 is outside"):
        binomial_tables(0.5, 65536)
    assert num_digits(0) == 1
    assert num_digits(3) == 1
    assert num_digits(4) == 2
