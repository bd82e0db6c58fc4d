r"""The probability simplex: projection, total variation, and centres.

The weighted centre of laws p_1, ..., p_K minimises a separable convex function on the simplex,

    min_q  sum_k w_k TV(p_k, q) = min_q sum_j f_j(q_j),   f_j(q) = 1/2 sum_k w_k |p_kj - q|,

so all q_j stand at one common slope of their f_j: q_j is a weighted quantile of p_.j, at the one
level at which q sums to 1. Sorting finds that level exactly. The slopes are the dual solution: any
y with |y_kj| <= 1/2 proves that no q does better than sum_k w_k y_k p_k - max_j sum_k w_k y_kj.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


class Centre(NamedTuple):
    """A centre of laws, and the proof that it is one.

    Attributes:
        point: q, `[m]`.
        upper: what q attains.
        lower: what the slopes prove that no law can beat.
        slopes: y, the derivative of the minimum in the laws is w_k y_kj, `[K, m]`.
        weights: w, the derivative of the minimum in the distances TV(p_k, q), `[K]`.
    """

    point: Array
    upper: Array
    lower: Array
    slopes: Array
    weights: Array


def project_simplex(rows: Array) -> Array:
    """Euclidean projection of every row on the simplex, `[..., m]`."""
    # The optax function ravels its argument onto one simplex, and mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        flat = jax.vmap(optax.projections.projection_simplex)(rows.reshape(-1, rows.shape[-1]))
    return flat.reshape(rows.shape).astype(rows.dtype)


def total_variation(p: Array, q: Array) -> Array:
    """TV(p, q) = 1/2 sum_j |p_j - q_j| over the last axis."""
    return jnp.abs(p - q).sum(-1) / 2


def weighted_median(values: Array, weights: Array) -> Array:
    r"""A minimiser of $\sum_k w_k |v_k - q|$ over q: the value at which half the weight is reached.

    Exact, by one sort. Values of weight 0 play no part, but must be finite; if all weights are 0
    the smallest value is returned.

    Args:
        values: `[K]`.
        weights: not negative, `[..., K]`; one sort serves them all.

    Returns:
        `[...]`, each one of the values. Where the minimisers are an interval, its lower end.
    """
    order = jnp.argsort(values)
    reached = jnp.cumsum(weights[..., order], axis=-1)
    below = reached < 0.5 * reached[..., -1:]
    return values[order][below.sum(-1)]


@jax.jit
def tv_centre(points: Array, weights: Array) -> Centre:
    """The law q with the least weighted total variation distance to given laws, exactly.

    Args:
        points: laws, `[K, m]`.
        weights: nonnegative, `[K]`; they need not sum to 1.

    Returns:
        The centre; upper and lower agree up to rounding.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (7), (9), (10) and (15).
    """
    num_points, m = points.shape
    order = jnp.argsort(points, axis=0)
    ranked = jnp.take_along_axis(points, order, axis=0)  # [K, m]
    level = jnp.cumsum(weights[order], axis=0)  # [K, m]
    # Raising the level past level[i, j] lets q_j rise from ranked[i, j] to ranked[i + 1, j].
    jump = jnp.diff(ranked, axis=0).reshape(-1)  # [(K - 1) m]
    event = jnp.argsort(level[:-1].reshape(-1))
    filled = jnp.cumsum(jump[event])
    missing = 1 - ranked[0].sum()
    last = jnp.minimum((filled < missing).sum(), max(jump.size - 1, 0))
    place = jnp.zeros(jump.shape, jnp.int32).at[event].set(jnp.arange(jump.size, dtype=jnp.int32))
    passed = (place < last).reshape(num_points - 1, m).sum(0)  # [m]
    point = jnp.take_along_axis(ranked, passed[None], axis=0)[0]
    if jump.size:
        # The one entry at the critical level takes what is missing, inside its jump.
        j = event[last] % m
        room = jump[event[last]]
        point = point.at[j].add(jnp.clip(1 - point.sum(), 0, room))
        critical = level[:-1].reshape(-1)[event[last]] - weights.sum() / 2
    else:
        critical = jnp.zeros((), points.dtype)
    slopes = _slopes(points, weights, point, critical)
    lower = jnp.sum(weights[:, None] * slopes * points) - (weights @ slopes).max()
    return Centre(point, weights @ total_variation(points, point[None]), lower, slopes, weights)


def _slopes(points: Array, weights: Array, point: Array, level: Array) -> Array:
    """y, with sum_k w_k y_kj = -level wherever p_kj = q_j leaves a choice."""
    apart = points - point[None]
    # The entry that makes q sum to 1 may miss the law it ties with by rounding.
    near = 4 * points.shape[-1] * jnp.finfo(points.dtype).eps
    side = jnp.where(jnp.abs(apart) <= near, 0, jnp.sign(apart) / 2)  # [K, m]
    tied = jnp.where(side == 0, weights[:, None], 0).sum(0)  # [m]
    wanted = (-level - weights @ side) / jnp.where(tied > 0, tied, 1)
    return jnp.where(side == 0, jnp.clip(wanted, -0.5, 0.5)[None], side)
