"""Trajectories of small chains that are written down, sampled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_positive_int, check_shape
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import stationary_distribution
from ..models.contracts import View
from ..models.layouts import FactorView, MapLayout
from ..numerics.compiled import jit
from .trajectory import Labels, Trajectory

Array = jax.Array


def chain_trajectory(
    key: Array,
    chain: PairChain,
    rewards: Sequence[Array],
    *,
    num_steps: int,
    num_actions: int = 1,
    start: Array | None = None,
) -> Trajectory:
    r"""Sample a trajectory of a small chain.

    Factors that every agent sees are the signal. A local pair x is split as x = s A + a.

    Args:
        key: of `jax.random.key`.
        chain: whose matrix can be formed.
        rewards: $r_i$ of each view, `[X_i]`, `[S_i, A_i]` or `[X_i, Z]`.
        num_steps: T. Static.
        num_actions: A of every agent, which divides X_i. Static.
        start: law of the first joint pair, `[J]`; the stationary one if not given.

    Raises:
        ValueError: for views that have more than one factor of their own, or sizes that do not fit.
    """
    check_chain(chain)
    check_positive_int("num_steps", num_steps)
    signals, own = _signal_and_own(chain)
    if len(rewards) != len(own):
        raise ValueError(f"rewards: wanted one for each of {len(own)} views, got {len(rewards)}")
    sizes = [view.size for view in own]
    if any(n % num_actions for n in sizes):
        raise ValueError(f"num_actions: {num_actions} does not divide the local pairs {sizes}")
    law = stationary_distribution(chain) if start is None else jnp.asarray(start)
    check_shape("start", law, (chain.num_pairs,))
    path = np.asarray(_sample_path(key, chain.matrix(), law, num_steps))
    signal, *local = (np.asarray(v.lift(jnp.arange(v.size)))[path] for v in (signals, *own))
    local, num_signals = np.stack(local, axis=1), signals.size  # [T, N]
    paid = []
    for i, reward in enumerate(rewards):
        flat = np.ravel(np.asarray(reward))
        check_shape(f"rewards[{i}]", flat, (sizes[i] * num_signals,))
        paid.append(flat[local[:, i] * num_signals + signal])
    labels = Labels.numbers(
        agents=len(own),
        states=max(sizes) // num_actions,
        actions=num_actions,
        signals=num_signals,
    )
    states, actions = np.divmod(local, num_actions)
    return Trajectory.from_arrays(
        states, actions, np.stack(paid, axis=1), signal=signal, labels=labels
    )


def _signal_and_own(chain: PairChain) -> tuple[View, list[View]]:
    """The factors that every agent sees, and what each sees beside them."""
    if isinstance(chain.layout, MapLayout):
        return FactorView((), chain.sizes), list(chain.layout.views)
    views, every = chain.views, range(len(chain.sizes))
    shared = tuple(k for k in every if len(views) > 1 and all(k in view for view in views))
    own = [tuple(k for k in view if k not in shared) for view in views]
    if any(len(axes) != 1 for axes in own):
        raise ValueError(f"chain: views {views} must each have one factor that is not shared")
    return FactorView(shared, chain.sizes), [FactorView(axes, chain.sizes) for axes in own]


def survival(laws: Array) -> Array:
    """P(next > y) for y = 0, ..., m - 2, to draw by inversion: `[..., m]` to `[..., m - 1]`.

    It is 1 up to the first y that has probability, 0 from the last, and falls only where y has:
    rounding in the sums would else draw the impossible.
    """
    last = laws.ndim - 1
    total = jnp.cumsum(laws[..., ::-1], axis=last)
    beyond = lax.cummax(jnp.where(laws[..., ::-1] > 0, total, 0), axis=last)[..., ::-1]
    begun = lax.cummax((laws > 0).astype(laws.dtype), axis=last)
    return jnp.where(begun > 0, jnp.roll(beyond, -1, axis=last), 1)[..., :-1]


@jit(static_argnames="num_steps")
def _sample_path(key: Array, P: Array, law: Array, num_steps: int) -> Array:
    beyond = survival(P)
    first_key, path_key = jax.random.split(key)
    first = jax.random.categorical(first_key, jnp.log(law))

    def step(pair: Array, draw: Array) -> tuple[Array, Array]:
        after = (draw < beyond[pair]).sum(dtype=jnp.int32)
        return after, pair

    draws = jax.random.uniform(path_key, (num_steps,), P.dtype)
    return lax.scan(step, first.astype(jnp.int32), draws)[1]
