r"""Rows sorted by local pair, in blocks of one length, and a logistic regression on them.

What has coefficients of its own for every local pair has a block-diagonal design matrix: with rows
in blocks of 32 that share a pair, X times fewer products. Rows that fill up a block weigh nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

_ROWS = 32
# Of Adam, which starts from the law without features; features have variance 1.
_FIT_STEPS, _FIT_RATE = 100, 0.1


class PairBlocks(NamedTuple):
    """Where T rows stand in B blocks.

    Attributes:
        slot: of every row, 32 (its block) + (its place in there), `[T]`.
        pair: local pair of every block, `[B]`; blocks left over are of any.
        num_pairs: X, as an array of that length.
    """

    slot: Array
    pair: Array
    num_pairs: Array

    def spread(self, values: Array) -> Array:
        """`[T, ..]` to `[B, 32, ..]`; 0 in rows that fill up."""
        made = jnp.zeros((len(self.pair) * _ROWS, *values.shape[1:]), values.dtype)
        made = made.at[self.slot].set(values, unique_indices=True)
        return made.reshape(len(self.pair), _ROWS, *values.shape[1:])

    def back(self, blocks: Array) -> Array:
        """`[B, 32, ..]` to `[T, ..]`."""
        return blocks.reshape(-1, *blocks.shape[2:])[self.slot]

    def sums(self, blocks: Array) -> Array:
        """`[B, ..]` to the sums over blocks of a pair, `[X, ..]`."""
        made = jnp.zeros((len(self.num_pairs), *blocks.shape[1:]), blocks.dtype)
        return made.at[self.pair].add(blocks)


def pair_blocks(x: Array, num_pairs: int) -> PairBlocks:
    """Sort rows by their local pair, `[T]`."""
    number = jnp.zeros(num_pairs, jnp.int32).at[x].add(1)
    blocks = (number + _ROWS - 1) // _ROWS
    ended = jnp.cumsum(blocks)
    order = jnp.argsort(x, stable=True)
    place = jnp.zeros(len(x), jnp.int32).at[order].set(jnp.arange(len(x), dtype=jnp.int32))
    within = place - (jnp.cumsum(number) - number)[x]
    most = len(x) // _ROWS + num_pairs
    pair = jnp.cumsum(jnp.zeros(most + 1, jnp.int32).at[ended].add(1))[:most]
    return PairBlocks(
        (ended - blocks)[x] * _ROWS + within,
        jnp.minimum(pair, num_pairs - 1),
        jnp.arange(num_pairs),
    )


def logistic_laws(blocks: PairBlocks, f: Array, y: Array, train: Array, count: Array) -> Array:
    r"""Multinomial logistic regression of y on f, with coefficients of its own for each pair.

    Args:
        blocks: of the T rows.
        f: features, `[T, d]`.
        y: outcomes in 0, .., m - 1, `[T]`.
        train: weights of the rows, `[T]`.
        count: sums of these weights by pair and outcome, `[X, m]`.

    Returns:
        The fitted laws at all rows, `[T, m]`.
    """
    ones = jnp.ones((len(f), 1), f.dtype)
    f = blocks.spread(jnp.concatenate([ones, f], axis=1))  # [B, 32, 1 + d]
    y = blocks.spread(y)[..., None]
    share = blocks.spread(train / jnp.maximum(train.sum(), 1))[..., None]
    outcomes = jnp.arange(count.shape[1])
    start = jnp.log((count + 0.5) / (count + 0.5).sum(1, keepdims=True))
    slopes = jnp.zeros((len(start), f.shape[2] - 1, count.shape[1]), f.dtype)
    weight = jnp.concatenate([start[:, None], slopes], axis=1)  # [X, 1 + d, m]
    # The scale of a prior with variance 1 for every slope.
    ridge = jnp.where(jnp.arange(f.shape[2]) > 0, 1 / jnp.maximum(train.sum(), 1), 0)

    def laws(weight: Array) -> Array:
        return jax.nn.softmax(f @ weight[blocks.pair])

    def slope(weight: Array) -> Array:
        """Of the loss, the mean of -log likelihood and the prior."""
        miss = share * (laws(weight) - (y == outcomes[None, None]))
        return blocks.sums(f.swapaxes(1, 2) @ miss) + ridge[None, :, None] * weight

    import optax  # slow to import, and few ask for it

    optimizer = optax.adam(optax.cosine_decay_schedule(_FIT_RATE, _FIT_STEPS))

    def step(carry, _):
        weight, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope(weight), state)
        return (weight + jnp.asarray(updates), state), None

    (weight, _), _ = lax.scan(step, (weight, optimizer.init(weight)), None, length=_FIT_STEPS)
    return blocks.back(laws(weight))
