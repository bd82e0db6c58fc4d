r"""Exact binomial draws for counts, without rejection.

Binomial(n, p) is a sum of independent Binomial(d 4^j, p) over the base-4 digits d of n. Each of
these few laws has an alias table (Walker 1977) that turns one 32-bit word into one draw: the high
bits choose a column, the low bits choose between the column and its alias. A draw costs one look-up
per digit of n, whatever n and p are, and there is no loop whose length depends on the draw, so it
vectorizes over any batch. A large law has columns for 9 standard deviations on either side of its
mean; beyond them is less than 1e-19.

Probabilities are exact to the resolution of the word: every outcome of every Binomial(d 4^j, p) has
probability within a few 2^-32 of the true one (plus rounding of the dtype the table is built in).

The words come from Threefry-2x32 in counter mode, the hash behind `jax.random`. Written out here it
fuses with the draws, which `jax.random.bits` inside a scan does not: on a CPU, where JAX lowers the
hash to a rolled loop, that is 3 nanoseconds a word against 20.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..numerics.compiled import jit

Array = jax.Array

_WORD = 32
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_DIGIT_BITS = 2
_MAX_DIGITS = 8
MAX_COUNT = 4**_MAX_DIGITS - 1


@jit
def seed_words(key: Array) -> Array:
    """The two words that start a stream, `[2]` uint32, from a key of any implementation."""
    return jax.random.bits(key, (2,), jnp.uint32)


def random_words(seed: Array, step: Array, num_words: int) -> Array:
    """Independent uniform words of one step of a stream, `[num_words]` uint32.

    Threefry-2x32 (Salmon et al. 2011) of the counter (step, position) under `seed`, its two outputs
    xored: every (step, position) of a stream is a new counter, so no word is ever used twice.

    Args:
        seed: of `seed_words`, `[2]`.
        step: an integer scalar below 2^32.
        num_words: static.
    """
    schedule = (seed[0], seed[1], seed[0] ^ seed[1] ^ jnp.uint32(0x1BD11BDA))
    x = jnp.asarray(step).astype(jnp.uint32) + schedule[0]
    y = jnp.arange(num_words, dtype=jnp.uint32) + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x = x + y
            y = x ^ ((y << rotation) | (y >> (_WORD - rotation)))
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + jnp.uint32(block + 1)
    return x ^ y


def num_digits(max_count: int) -> int:
    """Base-4 digits D of the largest count that is to be drawn, so that every n < 4^D can be.

    Raises:
        ValueError: if `max_count` is outside 0..65535.
    """
    if not 0 <= max_count <= MAX_COUNT:
        raise ValueError(f"max_count: {max_count} is outside 0..{MAX_COUNT}")
    return max(1, -(-int(max_count).bit_length() // _DIGIT_BITS))


def index_bits(digits: int) -> int:
    """Bits that choose one of the columns of a law: all outcomes, or 9 deviations on either side.

    The largest law has n = 3 4^(D - 1) and a deviation of 0.87 2^(D - 1) at most.
    """
    return min(_DIGIT_BITS * digits, digits + 3)


def _window(p: Array, n: Array, digits: int) -> Array:
    """The first outcome of Binomial(n, p) that has a column."""
    num_columns = 2 ** index_bits(digits)
    middle = jnp.floor(n.astype(p.dtype) * p).astype(jnp.int32)
    return jnp.clip(middle - num_columns // 2, 0, jnp.maximum(n + 1 - num_columns, 0))


def _binomial_law(p: Array, n: Array, first: Array, num_columns: int) -> Array:
    """Law of Binomial(n, p) from an outcome on, `[C]`, by ratios outward from the mode: no
    logarithm, no cancellation."""
    k = first.astype(p.dtype) + jnp.arange(num_columns, dtype=p.dtype)
    n = n.astype(p.dtype)
    mode = jnp.clip(jnp.floor((n + 1) * p), 0, n)
    rise = (n - k + 1) / jnp.maximum(k, 1) * (p / jnp.where(p < 1, 1 - p, 1))  # P(k) / P(k - 1)
    fall = (k + 1) / jnp.maximum(n - k, 1) * ((1 - p) / jnp.where(p > 0, p, 1))  # P(k) / P(k + 1)
    above = jnp.cumprod(jnp.where((k > mode) & (k <= n), rise, 1))
    below = jnp.cumprod(jnp.where(k < mode, fall, 1)[::-1])[::-1]
    law = jnp.where(k <= n, above * below, 0)
    return law / law.sum()


def _alias_table(law: Array) -> Array:
    """Packed alias table of one law over C = 2^b columns, `[C]` uint32.

    The sequential sweep (light columns in order are topped up by the current heavy one, until that
    one is itself light and the next takes over) has a closed form in the running deficits and
    surpluses.
    """
    num_columns = law.shape[-1]
    bits = num_columns.bit_length() - 1
    weight = law * num_columns
    light = weight < 1
    column = jnp.arange(num_columns)
    num_light = light.sum()
    order = jnp.argsort(~light, stable=True)  # lights first, then heavies
    gap = jnp.abs(weight - 1)[order]
    is_light = column < num_light
    deficit = jnp.cumsum(jnp.where(is_light, gap, 0))  # inclusive, by position
    surplus = jnp.cumsum(jnp.where(is_light, 0, gap))
    # Position of the heavy that serves each light, and of the light that ends each heavy.
    before = deficit - jnp.where(is_light, gap, 0)
    server = jnp.searchsorted(jnp.where(is_light, -1, surplus), before, side="left")
    server = jnp.clip(server, num_light, num_columns - 1)
    ender = jnp.searchsorted(jnp.where(is_light, deficit, jnp.inf), surplus, side="right")
    ended = ender < num_light
    keep_heavy = jnp.where(ended, 1 + surplus - deficit[jnp.clip(ender, 0, num_columns - 1)], 1)
    keep = jnp.where(is_light, 1 - gap, keep_heavy)
    alias = order[jnp.where(is_light, server, jnp.minimum(column + 1, num_columns - 1))]
    scale = 2.0 ** (_WORD - bits)
    threshold = jnp.clip(jnp.round(keep * scale), 0, scale)
    # A column that is never left is its own alias, so that the threshold fits its bits.
    full = threshold >= scale
    alias = jnp.where(full, order, alias).astype(jnp.uint32)
    threshold = jnp.where(full, 0, threshold).astype(jnp.uint32)
    packed = (threshold << bits) | alias
    return jnp.zeros(num_columns, jnp.uint32).at[order].set(packed)


class BinomialTables(NamedTuple):
    """Alias tables of Binomial(d 4^j, p) for every p, place j < D and digit d = 1, 2, 3.

    Flat, because a flat array has one layout: a loop that gathers from it never copies it.

    Attributes:
        columns: of shape `[.., D, 3, C]` if unrolled, C = 2^`index_bits`, uint32. In each the low
            bits hold the alias, the high bits the threshold (in units of 2^`index_bits` / 2^32)
            under which the column itself is drawn.
        chance: p, `[P]`.
    """

    columns: Array
    chance: Array


@jit(static_argnames=("max_count",))
def binomial_tables(p: Array, max_count: int) -> BinomialTables:
    """Tables to draw binomials from.

    Args:
        p: success probabilities in [0, 1], `[...]`.
        max_count: the largest n to be drawn. Static, at most 65535.

    Returns:
        `BinomialTables`; `table_bytes` for every p.
    """
    digits = num_digits(max_count)
    p = jnp.asarray(p, jnp.result_type(p, float))
    powers = 4 ** jnp.arange(digits, dtype=jnp.int32)
    trials = jnp.outer(powers, jnp.arange(1, 4, dtype=jnp.int32))  # [D, 3]

    def table(p: Array, n: Array) -> Array:
        first = _window(p, n, digits)
        return _alias_table(_binomial_law(p, n, first, 2 ** index_bits(digits)))

    over_trials = jax.vmap(jax.vmap(table, (None, 0)), (None, 0))
    columns = jax.vmap(over_trials, (0, None))(p.reshape(-1), trials)
    return BinomialTables(columns.reshape(-1), p.reshape(-1))


def table_bytes(max_count: int) -> int:
    """What `binomial_tables` takes for one p."""
    digits = num_digits(max_count)
    return 12 * digits * 2 ** index_bits(digits)


def draw_binomial(words: Array, n: Array, tables: BinomialTables, first: Array | int = 0) -> Array:
    """Draws of Binomial(n, p), one for each p of the tables, or of so many from `first` on.

    Args:
        words: independent uniform 32-bit words, `[..., D]` uint32.
        n: number of trials, 0 <= n < 4^D, `[...]` int32.
        tables: of `binomial_tables`, for p of shape `[...]`.
        first: the number of the first p among those of the tables.

    Returns:
        `[...]` int32.
    """
    digits = words.shape[-1]
    bits = index_bits(digits)
    place = jnp.broadcast_to(jnp.arange(digits, dtype=jnp.int32), words.shape)
    digit = (n[..., None] >> (_DIGIT_BITS * place)) & 3  # [..., D]
    column = (words >> (_WORD - bits)).astype(jnp.int32)
    row = jnp.arange(words.size, dtype=jnp.int32).reshape(words.shape) + digits * first
    # What is not needed is looked up where everything else is not: a far address costs time.
    row = jnp.where(digit > 0, 3 * row + digit - 1, 0)
    column = jnp.where(digit > 0, column, 0)
    entry = tables.columns.at[(row << bits) + column].get(mode="promise_in_bounds")
    size = words.size // digits
    chance = lax.dynamic_slice(tables.chance, (jnp.asarray(first, jnp.int32),), (size,))
    chance = jnp.broadcast_to(chance.reshape(*n.shape, 1), words.shape)
    begins = _window(chance, digit << (_DIGIT_BITS * place), digits)
    low = words & (2 ** (_WORD - bits) - 1)
    alias = (entry & (2**bits - 1)).astype(jnp.int32)
    outcome = begins + jnp.where(low < (entry >> bits), column, alias)
    return jnp.sum(jnp.where(digit > 0, outcome, 0), axis=-1, dtype=jnp.int32)
