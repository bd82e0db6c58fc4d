r"""Subtraction-free elimination: stationary laws and discounted values of a dense chain.

Grassmann, Taksar and Heyman (1985) eliminate the states of a chain one by one, last to first. To
eliminate state k is to watch the chain only while it is elsewhere,

    W[i, j] += W[i, k] W[k, j] / s_k,    s_k = Σ_{j<k} W[k, j] + killing_k,    i, j < k,

where the pivot s_k, the chance to leave k downward or to be killed, is summed and never formed as
1 - W[k, k]. A discount is a killing: (I - discount P) x = r is the chain discount P killed with
probability 1 - discount. No step subtracts, so each entry keeps its relative accuracy however
nearly decomposable the chain and however close to 1 the discount (O'Cinneide 1993), and no pivoting
is needed. A pivot of exactly 0 is a state that cannot leave: the root of a recurrent class. There
is one root if and only if the chain is unichain.

It is plain JAX: it vmaps (the batch goes to the last axis, where it vectorizes), runs on any
device and calls no LAPACK. The diagonal of P is never read beyond the check that rows sum to 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from .._checks import check_shape, stochastic
from .arrays import dot, nan_unless
from .compiled import jit

Array = jax.Array

# One chain is eliminated in panels of this many states: rank-one updates of the rows and columns of
# the panel, then one matrix product updates all that is left.
_PANEL = 64
# In a batch that product would have to transpose, so rank-one updates reach the whole square. The
# elimination is done in this many phases, each on a square cut down to the states that are left.
_PHASES = 4


class _Factors(NamedTuple):
    """What elimination leaves: the updated entries `[n, n]`, and 1/s `[n]` (0 at a root)."""

    entries: Array
    inverse: Array


@jit  # or each call outside a trace would compile its loops anew
def stationary_distribution(P: Array) -> Array:
    r"""Stationary law of a unichain, μ P = μ, Σ μ = 1.

    Transient states get exactly 0 and periodic chains are fine. The derivative is implicit,
    dμ (I - P) = μ dP with Σ dμ = 0, in both modes.

    Args:
        P: row-stochastic, `[n, n]`.

    Returns:
        `[n]`; NaN if P has several recurrent classes, a NaN, or a row that is no probability.
    """
    _check_square(P)
    valid = stochastic(P)
    law, _, inverse = _law(P)
    unichain = (inverse == 0).sum() == 1
    return nan_unless(valid & unichain, law)


@jit
def discounted_solve(P: Array, r: Array, discount: Array | float) -> Array:
    r"""Solution of (I - discount P) x = r.

    Exact entry by entry where r has one sign; where it has two, the error is a few rounding errors
    of the solution for |r|. The derivative is implicit, in both modes.

    Args:
        P: row-stochastic, `[n, n]`.
        r: right-hand sides, `[n]` or `[n, k]`.
        discount: in [0, 1).

    Returns:
        The shape of r; NaN if P is not stochastic or the discount is outside [0, 1).
    """
    _check_square(P)
    check_shape("r", r, (P.shape[0], None)[: max(1, jnp.ndim(r))])
    dtype = jnp.result_type(P, r, discount, jnp.float32)
    P, r, discount = (jnp.asarray(x, dtype) for x in (P, r, discount))
    valid = stochastic(P) & (discount >= 0) & (discount < 1)
    frozen, rate = lax.stop_gradient((P, discount))
    factors = _factor(frozen, rate)
    columns = r.reshape(len(r), -1)
    x = lax.custom_linear_solve(
        lambda x: x - discount * dot(P, x),
        columns,
        solve=lambda _, b: _solve(*factors, b),
        transpose_solve=lambda _, b: _solve_transposed(*factors, b),
    )
    return nan_unless(valid, x.reshape(r.shape))


def _check_square(P: Array) -> None:
    check_shape("P", P, (None, None))
    check_shape("P", P, (P.shape[0], P.shape[0]))


@jax.custom_jvp
def _law(P: Array) -> tuple[Array, Array, Array]:
    """The law, and the factors that its derivative needs (which count as constants)."""
    factors = _factor(P, jnp.ones((), P.dtype))
    root = (factors.inverse == 0).astype(P.dtype)
    mass = _carry(factors.entries, factors.inverse + root, root[:, None])[:, 0]
    return mass / mass.sum(), *factors


@_law.defjvp
def _law_jvp(primals, tangents):
    (P,), (dP,) = primals, tangents
    law, entries, inverse = _law(P)
    root = lax.stop_gradient((inverse == 0).astype(P.dtype))
    fixed, entries, inverse = lax.stop_gradient((law, entries, inverse))

    # A y = y (I - P) + (Σ y) root is regular, and Σ A y = Σ y.
    def solve(_, b):
        y = _solve_transposed(entries, inverse, b[:, None])[:, 0]
        return y + (b.sum() - y.sum()) * fixed

    def transpose_solve(_, b):
        level = fixed @ b
        return _solve(entries, inverse, (b - level)[:, None])[:, 0] + level

    drift = law @ dP
    dlaw = lax.custom_linear_solve(
        lambda y: y - dot(y, P) + y.sum() * root,
        drift - drift.sum() * law,
        solve=solve,
        transpose_solve=transpose_solve,
    )
    return (law, entries, inverse), (dlaw, jnp.zeros_like(entries), jnp.zeros_like(inverse))


@custom_vmap
def _factor(P: Array, rate: Array) -> _Factors:
    """Eliminate every state of one chain `[n, n]` that goes on at this rate, else is killed."""
    entries, inverse = _factor_last(P[..., None], rate[None])
    return _Factors(entries[..., 0], inverse[..., 0])


@_factor.def_vmap
def _factor_batch(axis_size, in_batched, P, rate):
    arrays = zip((P, rate), in_batched, strict=True)
    factors = _factor_last(*(_last(x, axis_size, batched) for x, batched in arrays))
    factors = _Factors(*(jnp.moveaxis(x, -1, 0) for x in factors))
    return factors, jax.tree.map(lambda _: True, factors)


def _substitution(substitute):
    """The same substitution for one chain and for a batch: `[n, n]`, `[n]` and `[n, k]`."""

    @custom_vmap
    def one(entries, inverse, b):
        return substitute(entries[..., None], inverse[..., None], b[..., None])[..., 0]

    @one.def_vmap
    def many(axis_size, in_batched, *arrays):
        pairs = zip(arrays, in_batched, strict=True)
        x = substitute(*(_last(x, axis_size, batched) for x, batched in pairs))
        return jnp.moveaxis(x, -1, 0), True

    return one


def _last(x: Array, size: int, batched: bool) -> Array:
    """The batch axis moved from first to last, or made there."""
    return jnp.moveaxis(x, 0, -1) if batched else jnp.broadcast_to(x[..., None], (*x.shape, size))


def _factor_last(P: Array, rate: Array) -> tuple[Array, Array]:
    """Eliminate every state: P `[n, n, B]`, rate `[B]`."""
    n, batch = P.shape[1:]
    W = rate[None, None] * P
    killing = jnp.broadcast_to(1 - rate[None], (n, batch))
    inverse = jnp.zeros_like(killing)
    if batch > 1:
        for high, low in _stretches(n, -(-n // _PHASES)):
            _, square, killing, inverse = _eliminate(
                W[:0, :high], W[:high, :high], killing, inverse, high - low
            )
            W = W.at[:high, :high].set(square)
        return W, inverse
    for high, low in _stretches(n, _PANEL):
        upper, rows, killing, inverse = _eliminate(
            W[:low, low:high], W[low:high, :high], killing, inverse, high - low
        )
        W = W.at[:low, low:high].set(upper).at[low:high, :high].set(rows)
        if low:
            gone, rest = (upper * inverse[None, low:high])[..., 0], rows[:, :low, 0]
            W = W.at[:low, :low].add(dot(gone, rest)[..., None])
    return W, inverse


def _stretches(n: int, length: int) -> list[tuple[int, int]]:
    """The states from last to first in stretches, as (end, start)."""
    return [(high, max(high - length, 0)) for high in range(n, 0, -length)]


def _eliminate(upper, rows, killing, inverse, count):
    """Eliminate the last `count` states one by one, by rank-one updates of what is given.

    That is the last p rows `[p, low + p, B]`, and the last p columns `[low, p, B]` above them.
    """
    low, size = upper.shape[:2]
    column = jnp.arange(low + size)[:, None]
    above = jnp.arange(size)[:, None]

    def look(upper, rows, killing, k):
        """What eliminating state k needs: its row, its column, 1/pivot, and where the loss goes."""
        row = jnp.where(column < low + k, _take(rows, k, 0), 0)  # [low + p, B]
        killed = _take(killing, low + k, 0)  # [B]
        pivot = row.sum(0) + killed
        root = pivot == 0
        # Not 1 / pivot where it is 0, or a root would turn what lies below it into NaN.
        inv = jnp.where(root, 0, 1 / jnp.where(root, 1, pivot))
        inside = jnp.where(above < k, _take(rows, low + k, 1), 0)  # [p, B]
        into = jnp.concatenate([_take(upper, k, 1), inside])  # [low + p, B]
        return row, into, inv, jnp.where(root, 1, killed * inv)

    def step(i, carry):
        # The row and the column are looked up a step ahead. Read here, they would be read while
        # the square is overwritten, and XLA would copy the square at every step.
        upper, rows, killing, inverse, (row, into, inv, loss) = carry
        k = size - 1 - i
        moved = into * inv[None]  # [low + p, B]
        upper = upper + moved[:low, None] * row[None, low:]
        rows = rows + moved[low:, None] * row[None]
        killing = killing.at[: low + size].add(into * loss[None])
        inverse = inverse.at[low + k].set(inv)
        return upper, rows, killing, inverse, look(upper, rows, killing, jnp.maximum(k - 1, 0))

    start = (upper, rows, killing, inverse, look(upper, rows, killing, size - 1))
    return lax.fori_loop(0, count, step, start)[:4]


def _backward(W: Array, inverse: Array, b: Array, axis: int) -> Array:
    """Pass b `[n, k, B]` down, along the columns of W (axis 1) or its rows (axis 0)."""
    n = len(W)
    index = jnp.arange(n)[:, None]

    def step(i, b):
        k = n - 1 - i
        line = jnp.where(index < k, _take(W, k, axis) * _take(inverse, k, 0)[None], 0)  # [n, B]
        return b + line[:, None] * _take(b, k, 0)[None]

    return lax.fori_loop(0, n, step, b)


def _forward(W: Array, inverse: Array, b: Array, axis: int) -> Array:
    """Gather the solution upward, along the rows of W (axis 0) or its columns (axis 1)."""
    n = len(W)
    index = jnp.arange(n)[:, None]

    def step(k, x):
        line = jnp.where(index < k, _take(W, k, axis), 0)  # [n, B]
        value = _take(b, k, 0) + (line[:, None] * x).sum(0)  # [k, B]
        return x.at[k].set(value * _take(inverse, k, 0)[None])

    return lax.fori_loop(0, n, step, jnp.zeros_like(b))


# Three substitutions: the solution of the system, 0 at the roots; that of the transposed system;
# and the law, which is only carried upward from the root.
_solve = _substitution(lambda W, d, b: _forward(W, d, _backward(W, d, b, 1), 0))
_solve_transposed = _substitution(lambda W, d, b: _forward(W, d, _backward(W, d, b, 0), 1))
_carry = _substitution(lambda W, d, b: _forward(W, d, b, 1))


def _take(x: Array, k: Array, axis: int) -> Array:
    return lax.dynamic_index_in_dim(x, k, axis, keepdims=False)
