r"""The probability simplex: projection, total variation, centers, and changes of laws.

The weighted center of laws p_1, ..., p_K minimizes a separable convex function on the simplex,

    min_q  sum_k w_k TV(p_k, q) = min_q sum_j f_j(q_j),   f_j(q) = 1/2 sum_k w_k |p_kj - q|,

so all q_j stand at one common slope of their f_j: q_j is a weighted quantile of p_.j, at the one
level at which q sums to 1. Sorting finds that level exactly. The slopes are the dual solution: any
y with |y_kj| <= 1/2 proves that no q does better than sum_k w_k y_k p_k - max_j sum_k w_k y_kj.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import takes_arrays
from .compiled import jit

Array = jax.Array


# Rows of 32 to 128 values are sorted by a network of exchanges, which vectorizes: at 64 values four
# times faster than XLA's sort on a CPU. For shorter rows that is not worth the compile time, and
# for longer ones the network itself grows too long.
_NETWORK = range(32, 129)
# Terms of a series whose argument is below 1/16, to the last digit of float64.
_SERIES = 13


class Center(NamedTuple):
    """A center of laws, and the proof that it is one.

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


@takes_arrays("rows")
def project_simplex(rows: Array) -> Array:
    """Euclidean projection of every row on the simplex, `[..., m]`."""
    import optax  # slow to import, and few ask for it

    rows = jnp.asarray(rows)
    # The optax function ravels its argument onto one simplex, and mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        flat = jax.vmap(optax.projections.projection_simplex)(rows.reshape(-1, rows.shape[-1]))
    return flat.reshape(rows.shape).astype(rows.dtype)


@takes_arrays("p", "q")
def total_variation(p: Array, q: Array) -> Array:
    """TV(p, q) = 1/2 sum_j |p_j - q_j| over the last axis."""
    return jnp.abs(p - q).sum(-1) / 2


def relative_entropy(p: Array, q: Array) -> Array:
    """KL(p || q) = sum_j p_j log(p_j / q_j) of laws over the last axis, in nats.

    Relatively accurate where p and q are close: each term is p log(p/q) - p + q >= 0, by its series
    there. Where q underflows to 0 and p does not, the smallest number stands in for q.
    """
    tiny = jnp.finfo(q.dtype).tiny
    q = jnp.where((p > 0) & (q < tiny), tiny, q)
    near = jnp.abs(p - q) < q / 16
    # Each formula is given ones where the other is taken, so that its derivative is finite there.
    far = ~near & (p > 0)
    beside = jnp.where(near, q, 1)
    u = (jnp.where(near, p, 1) - beside) / beside
    # (1 + u) log(1 + u) - u = u^2 sum_k (-u)^k / ((k + 1) (k + 2))
    series = jnp.zeros_like(u)
    for k in reversed(range(_SERIES)):
        series = 1 / ((k + 1) * (k + 2)) - u * series
    logarithm = jnp.log(jnp.where(far, p, 1) / jnp.where(far, q, 1))
    return jnp.where(near, q * u**2 * series, p * logarithm - p + q).sum(-1)


def weighted_median(values: Array, weights: Array) -> Array:
    r"""A minimizer of $\sum_k w_k |v_k - q|$ over q: the value at which half the weight is reached.

    Exact, by one sort. Values of weight 0 play no part, but must be finite; if all weights are 0
    the smallest value is returned.

    Args:
        values: `[K]`.
        weights: not negative, `[..., K]`; one sort serves them all.

    Returns:
        `[...]`, each one of the values. Where the minimizers are an interval, its lower end.
    """
    order = jnp.argsort(values)
    reached = jnp.cumsum(weights[..., order], axis=-1)
    below = reached < 0.5 * reached[..., -1:]
    return values[order][below.sum(-1)]


@takes_arrays("points", "weights")
@jit
def tv_center(points: Array, weights: Array) -> Center:
    """The law q with the least weighted total variation distance to given laws, exactly.

    Args:
        points: laws, `[K, m]`.
        weights: nonnegative, `[K]`; they need not sum to 1.

    Returns:
        The center; upper and lower agree up to rounding.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (7), (9), (10) and (15).
    """
    num_points, m = points.shape
    beside = jnp.broadcast_to(weights[None], (m, num_points))
    ranked, carried = _sort_with(points.T, beside.astype(points.dtype))  # [m, K]
    # Long sums are taken in pieces, whose rounding could put a later level below an earlier one.
    level = lax.cummax(jnp.cumsum(carried, axis=1), axis=1)
    point, critical = ranked[:, 0], jnp.zeros((), points.dtype)
    if num_points > 1:
        # Raising the level past level[j, i] lets q_j rise from ranked[j, i] to ranked[j, i + 1].
        level, jump = level[:, :-1], jnp.diff(ranked)  # [m, K - 1]
        critical = _first_level(level, jump, 1 - point.sum())
        # Of the jumps at the critical level, those that still fit are taken whole.
        tied = jnp.where(level == critical, jump, 0).reshape(-1)
        missing = 1 - point.sum() - jnp.where(level < critical, jump, 0).sum()
        event = jnp.arange(jump.size)
        fits = (jnp.cumsum(tied) < missing) | (level.reshape(-1) != critical)
        turning = jnp.where(fits, jump.size - 1, event).min()
        before = (event < turning).reshape(jump.shape)
        passed = (level < critical) | ((level == critical) & before)
        reached = passed.sum(1)[:, None]  # [m, 1]
        point = jnp.take_along_axis(ranked, reached, axis=1)[:, 0]
        # The one entry at the critical level takes what is missing, inside its jump.
        more = jnp.clip(1 - point.sum(), 0, jump.reshape(-1)[turning])
        point = point.at[turning // (num_points - 1)].add(more)
        critical = critical - weights.sum() / 2
    slopes = _slopes(points, weights, point, critical)
    lower = jnp.sum(weights[:, None] * slopes * points) - (weights @ slopes).max()
    return Center(point, weights @ total_variation(points, point[None]), lower, slopes, weights)


def _sort_with(values: Array, carried: Array) -> tuple[Array, Array]:
    """Sort along the last axis, and what is carried along."""
    number = values.shape[-1]
    if number not in _NETWORK:
        ranked, carried = lax.sort((values, carried), num_keys=1)
        return ranked, carried
    # A bitonic network: compare and exchange at a distance, all ascending, so that the first
    # exchange of every merge is with the mirror image.
    size = 1 << (number - 1).bit_length()
    room = [(0, 0)] * (values.ndim - 1) + [(0, size - number)]
    both = (jnp.pad(values, room, constant_values=jnp.inf), jnp.pad(carried, room))
    merged = 2
    while merged <= size:
        both = _exchange(both, merged // 2, mirror=True)
        distance = merged // 4
        while distance:
            both = _exchange(both, distance, mirror=False)
            distance //= 2
        merged *= 2
    ranked, carried = both
    return ranked[..., :number], carried[..., :number]


def _exchange(both: tuple[Array, Array], distance: int, *, mirror: bool) -> tuple[Array, Array]:
    """Put every value and the one at a distance (or its mirror image) in order."""
    shape = both[0].shape
    halves = [x.reshape(*shape[:-1], -1, 2, distance) for x in both]
    low, high = ([x[..., k, :] for x in halves] for k in range(2))
    if mirror:
        high = [x[..., ::-1] for x in high]
    swap = low[0] > high[0]
    pairs = list(zip(low, high, strict=True))
    low = [jnp.where(swap, b, a) for a, b in pairs]
    high = [jnp.where(swap, a, b) for a, b in pairs]
    if mirror:
        high = [x[..., ::-1] for x in high]
    ordered = (jnp.stack(pair, -2).reshape(shape) for pair in zip(low, high, strict=True))
    return next(ordered), next(ordered)


def _first_level(level: Array, jump: Array, missing: Array) -> Array:
    """The least level at which the jumps so far add up to `missing`, or the last level.

    Bisection over the floats themselves, whose bits are in order: exact, and far cheaper than to
    sort all levels.
    """
    integer = jnp.int64 if level.dtype.itemsize == 8 else jnp.int32
    bits = lax.bitcast_convert_type(level, integer)

    def halve(_, ends):
        low, high = ends  # jumps up to high are enough, up to low they are not
        middle = low + (high - low) // 2
        enough = jnp.where(bits <= middle, jump, 0).sum() >= missing
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = (jnp.full((), -1, integer), bits.max())
    high = lax.fori_loop(0, 8 * level.dtype.itemsize, halve, ends)[1]
    return lax.bitcast_convert_type(jnp.maximum(high, 0), level.dtype)


def _slopes(points: Array, weights: Array, point: Array, level: Array) -> Array:
    """y, with sum_k w_k y_kj = -level wherever p_kj = q_j leaves a choice."""
    apart = points - point[None]
    # The entry that makes q sum to 1 may miss the law it ties with by rounding.
    near = 4 * points.shape[-1] * jnp.finfo(points.dtype).eps
    side = jnp.where(jnp.abs(apart) <= near, 0, jnp.sign(apart) / 2)  # [K, m]
    tied = jnp.where(side == 0, weights[:, None], 0).sum(0)  # [m]
    wanted = (-level - weights @ side) / jnp.where(tied > 0, tied, 1)
    return jnp.where(side == 0, jnp.clip(wanted, -0.5, 0.5)[None], side)


def notable(laws: Array) -> Array:
    """Probabilities that a program keeps a share of; on smaller ones its steps would overflow.

    Certificates count all of them, so what is left out only widens the bracket, by as much.
    """
    return laws > float(jnp.finfo(laws.dtype).eps) ** 2


def free(array: Array, axis: int) -> Array:
    """What acts on changes of a law: entries but the last, less the last, which makes up for them.

    A row of probabilities sums to 1, so n - 1 of its entries are unknowns.
    """
    size = array.shape[axis]
    head = lax.slice_in_dim(array, 0, size - 1, axis=axis)
    return head - lax.slice_in_dim(array, size - 1, size, axis=axis)


def free_form(matrix: Array) -> Array:
    """The same of a quadratic form, `[.., n, n]` to `[.., n - 1, n - 1]`."""
    return free(free(matrix, -1), -2)


def whole(change: Array) -> Array:
    """The change of every entry of a law, `[..., n]`, from that of all but the last."""
    return jnp.concatenate([change, -change.sum(-1, keepdims=True)], -1)
