"""Runs that go on from splits of a population, and what an estimate of its values needs of them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..numerics.compiled import jit
from .population_process import ByType, CountsProcess
from .priority_policy import PriorityPolicy

Array = jax.Array

# Epochs of each run whose splits are kept.
_SEEN = 16
# More draws of a policy that draws, at every epoch.
_DRAWS = 8


class Ahead(NamedTuple):
    """What runs that went on from pairs say, R of them."""

    first: Array  # y_0, [R, X]
    last: Array  # y_H, [R, X]
    returned: Array  # sum of discount^t r_t, [R]
    surprise: Array  # sum of discount^t (n_t - its mean), [R, S]
    drawn: Array  # sum of discount^t (y_t - its mean), [R, X]
    flow: Array  # from pair to next state and action, [R, X, S', A']
    slope: Array  # of the value's slope in the counts, both sides: [S, S], [S]
    pull: Array
    mean: Array  # of the counts, less their center, summed, [S]
    seen: Array  # mean splits now and then, of either half of the draws, [.., R, 2, X]


@partial(jit, static_argnames=("num_steps",))
def go_on(
    key: Array,
    splits: ByType,
    kernel: Array,
    reward: Array,
    discount: Array,
    center: Array,
    *,
    process: CountsProcess,
    num_steps: int,
) -> tuple[ByType, Ahead]:
    """Runs that go on from splits `[R, S_k, A_k]`, and the splits that they end with."""
    sizes, dtype = process.sizes, jnp.result_type(kernel, jnp.float32)
    kernel, reward, discount, center = (
        jnp.asarray(x, dtype) for x in (kernel, reward, discount, center)
    )
    widest, most = (max(size) for size in zip(*sizes, strict=True))
    kind = np.repeat(np.arange(len(sizes)), [S * A for S, A in sizes])
    num_agents = jnp.stack([part[0].sum() for part in splits]).sum().astype(dtype)
    draws = _DRAWS if _draws(process) else 0

    def flat(splits: ByType) -> Array:
        return jnp.concatenate([part.reshape(-1) for part in splits]).astype(dtype)

    def shares(split: Array, counts: Array) -> Array:
        """Of those in each state that take each action, padded, `[S', A']`."""
        table = split / jnp.maximum(counts, 1)[:, None]
        S, A = split.shape
        return jnp.pad(table.astype(dtype), ((0, widest - S), (0, most - A)))

    def run(keys: Array, splits: ByType):
        def step(carry, keys: Array):
            splits, y, factor, out = carry
            flow = process.flow(keys[0], splits)
            counts = process.arrived(flow)
            then, _ = process.act(keys[1], counts)
            after = flat(then)
            halves = jnp.stack([after, after])
            if draws:
                again = jax.vmap(lambda key: flat(process.act(key, counts)[0]))(keys[2:])
                halves = again.reshape(2, draws // 2, -1).mean(1)
            law = jnp.stack([shares(part, n) for part, n in zip(then, counts, strict=True)])
            paid = (y * reward).sum()
            n = jnp.concatenate(counts).astype(dtype)
            now = jnp.concatenate([part.sum(1) for part in splits]).astype(dtype)
            feature = (now - num_agents * center) / jnp.sqrt(num_agents)
            later = (n - num_agents * center) / jnp.sqrt(num_agents)
            surprise = n - (y[:, None] * kernel).sum(0)
            returned, surprises, drawn, flows, slope, pull, mean = out
            out = (
                returned + factor * paid,
                surprises + factor * discount * surprise,
                drawn + factor * discount * (after - halves.mean(0)),
                flows + flow[:, :, None].astype(dtype) * law[kind],
                slope + feature[:, None] * (feature - discount * later)[None, :],
                pull + feature * (paid / num_agents),
                mean + feature,
            )
            return (then, after, factor * discount, out), halves

        y = flat(splits)
        zero = jnp.zeros((), dtype)
        size = len(center)
        out = (
            zero,
            jnp.zeros(size, dtype),
            jnp.zeros_like(y),
            jnp.zeros((len(reward), widest, most), dtype),
            jnp.zeros((size, size), dtype),
            jnp.zeros(size, dtype),
            jnp.zeros(size, dtype),
        )
        (splits, last, _, out), every = lax.scan(step, (splits, y, zero + 1, out), keys)
        return splits, (y, last, *out), every[:: -(-num_steps // _SEEN)]

    keys = jax.random.split(key, (len(splits[0]), num_steps, 2 + draws))
    splits, (*each, slope, pull, mean), seen = jax.vmap(run)(keys, splits)
    slope, pull, mean = (x.sum(0) for x in (slope, pull, mean))
    seen = seen.swapaxes(0, 1)
    return splits, Ahead(*each, slope=slope, pull=pull, mean=mean, seen=seen)


def _draws(process: CountsProcess) -> bool:
    """Whether counts do not say the split."""
    return process.policy is not None and not isinstance(process.policy, PriorityPolicy)
