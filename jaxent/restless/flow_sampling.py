r"""Where the agents of each pair go: one binomial after another along the rows of a kernel.

The agents of a pair x, however many, spread over its successors as Multinomial(n_x, P(x, .)): the
first of them takes Binomial(n_x, p), the next a binomial of those that are left, and so on. All
pairs are drawn at once from tables made beforehand (`sampling`).
"""

import dataclasses
import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import concrete
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from .sampling import (
    BinomialTables,
    binomial_tables,
    draw_binomial,
    num_digits,
    random_words,
    table_bytes,
)

Array = jax.Array

# Binomials that are written one after another in a program; where there are more they are a loop.
_UNROLLED = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlowSampler:
    """What a step needs to draw next states: one binomial after another along each kernel row.

    Attributes:
        tables: for each k < K - 1, of the probability of the k-th successor of each pair given none
            before it.
        rank: position of s' among the successors of a pair, K where there is no way, `[.., S]`.
        fan_out: K. Static.
        max_agents: the largest number of agents the tables serve, 4^D - 1. Static.
    """

    tables: BinomialTables
    rank: Array
    fan_out: int = dataclasses.field(metadata={"static": True})
    max_agents: int = dataclasses.field(metadata={"static": True})


def sampler_bytes(kernel: np.ndarray, max_agents: int) -> int:
    """What the tables of a known kernel take."""
    pairs = kernel.size // kernel.shape[-1]
    return pairs * (_fan_out(kernel) - 1) * table_bytes(max_agents)


def flow_sampler(kernel: Array | np.ndarray, max_agents: int) -> FlowSampler:
    """Tables for every row of a kernel, `[.., S]`.

    K is the largest number of successors of any pair where the kernel is known (the tables are then
    made once, while tracing), S where it is traced. Memory: K - 1 times `table_bytes` a pair.
    """
    max_agents = 4 ** num_digits(max_agents) - 1  # teams of as many digits share a program
    if not concrete(kernel):
        return _flow_sampler(jnp.asarray(kernel), kernel.shape[-1], max_agents)
    known = np.asarray(kernel)
    return _known_sampler(known.tobytes(), known.shape, known.dtype, _x64(), max_agents)


def _fan_out(kernel: np.ndarray) -> int:
    return int((kernel > 0).sum(-1).max())


def _x64() -> bool:
    return jnp.asarray(0.0).dtype == jnp.float64


@lru_cache(maxsize=32)
def _known_sampler(
    kernel: bytes, shape: tuple[int, ...], dtype: np.dtype, x64: bool, max_agents: int
) -> FlowSampler:
    # Cached by value: tracing a sweep asks for the same tables several times.
    del x64  # part of the key only
    known = np.frombuffer(kernel, dtype).reshape(shape)
    return _flow_sampler(known, _fan_out(known), max_agents)


@jit(static_argnames=("fan_out", "max_agents"))
def _flow_sampler(kernel: Array, fan_out: int, max_agents: int) -> FlowSampler:
    order = jnp.argsort(kernel <= 0, axis=-1, stable=True)  # successors first
    rank = jnp.minimum(jnp.argsort(order, axis=-1), fan_out)
    law = jnp.take_along_axis(kernel, order, axis=-1)[..., :fan_out]
    remaining = jnp.cumsum(law[..., ::-1], axis=-1)[..., ::-1]
    chance = jnp.minimum(ratio(law, remaining), 1)
    chance = jnp.moveaxis(chance[..., : fan_out - 1], -1, 0)  # [K - 1, ..]
    tables = binomial_tables(chance, max_agents)
    return FlowSampler(tables, rank.astype(jnp.int32), fan_out, max_agents)


def draw_flow(seed: Array, t: Array, groups: Array, sampler: FlowSampler) -> Array:
    """Agents that move from each pair to s', `[.., S]` int32, given `groups` agents a pair."""
    num_draws = sampler.fan_out - 1
    shape = (num_draws, *groups.shape, num_digits(sampler.max_agents))
    words = random_words(seed, t, math.prod(shape)).reshape(shape)  # [K - 1, .., D]

    def draw(left: Array, drawn: tuple[Array, Array]) -> tuple[Array, Array]:
        word, k = drawn
        moved = draw_binomial(word, left, sampler.tables, k * groups.size)
        return left - moved, moved

    left = groups.astype(jnp.int32)
    moved = jnp.zeros((0, *left.shape), jnp.int32)
    if num_draws:
        unroll = num_draws if num_draws <= _UNROLLED else 1
        left, moved = lax.scan(draw, left, (words, jnp.arange(num_draws)), unroll=unroll)
    by_rank = jnp.concatenate([moved, left[None], jnp.zeros_like(left)[None]])  # [K + 1, ..]
    return jnp.take_along_axis(jnp.moveaxis(by_rank, 0, -1), sampler.rank, axis=-1)
