r"""Subtraction-free elimination: stationary laws and discounted values of a dense chain.

Grassmann, Taksar and Heyman (1985) eliminate the states of a chain one by one, last to first. To
eliminate state k is to watch the chain only while it is elsewhere,

    W[i, j] += W[i, k] W[k, j] / s_k,    s_k = Σ_{j<k} W[k, j] + killing_k,

where the pivot s_k, the chance to leave k downward or to be killed, is summed and never formed as
1 - W[k, k]. A discount is a killing: (I - discount P) x = r is the chain discount P killed with
probability 1 - discount. No step subtracts, so each entry keeps its relative accuracy however
nearly decomposable the chain and however close to 1 the discount (O'Cinneide 1993), and no pivoting
is needed. A pivot of exactly 0 is a state that cannot leave: the root of a recurrent class. There
is one root if and only if the chain is unichain.

All rows and columns are updated, those of eliminated states too (Gauss and Jordan), so W[i, j] ends
as the expected number of later visits to j from i. Then I + W is the inverse of I - discount P: a
solve, a transposed solve and their derivatives are products with it. With discount 1 nothing passes
through the root, and its row is the law up to a factor.

It is plain JAX: it vmaps (the batch goes to the last axis, where it vectorizes), runs on any
device and calls no LAPACK. A row that sums to 1 + δ costs a relative error of order δ, no more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from .._checks import check_shape, stochastic
from .arrays import ArrayLike, Scalar, dot, nan_unless, takes_arrays
from .compiled import jit

Array = jax.Array

# States are eliminated in panels of this many: one by one in the rows of the panel, then one matrix
# product updates all other rows.
_PANEL = 64
# What underflow may cost a law if everything that could be lost were lost, which it never is.
_LOST = 1e-3


class Eliminated(NamedTuple):
    """A chain with all its states eliminated: what its law and its values are made of.

    Attributes:
        visits: expected later visits to each state from each, `[n, n]`; none through a root.
        root: which states never leave those above them and cannot be killed, bool `[n]`.
    """

    visits: Array
    root: Array


def stationary_distribution(P: ArrayLike) -> Array:
    r"""Stationary law of a unichain, μ P = μ, Σ μ = 1.

    Transient states get exactly 0 and periodic chains are fine. The derivative is implicit,
    dμ (I - P) = μ dP with Σ dμ = 0, in both modes.

    Args:
        P: row-stochastic, `[n, n]`.

    Returns:
        `[n]`; NaN if P has several recurrent classes, a NaN, or a row that is no probability.
    """
    frozen = lax.stop_gradient(P)
    found = eliminate(frozen, 1.0)
    return implicit_law(P, law_of(frozen, found), found)


@takes_arrays("P", "r")
def discounted_solve(P: ArrayLike, r: ArrayLike, discount: Scalar) -> Array:
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
    check_shape("r", r, (np.shape(P)[0], None)[: max(1, jnp.ndim(r))])
    P0, r0, rate = lax.stop_gradient((P, r, discount))
    found = eliminate(P0, rate)
    return implicit_values(P, r, discount, values_of(P0, r0, rate, found), found)


# Elimination, law and values are programs of their own, of arguments that no derivative passes
# through: under `jax.grad` outside of `jit` these have values. What has a derivative comes last,
# and of it the numbers are known already.
@jit
def eliminate(P: Array, rate: Scalar) -> Eliminated:
    """Eliminate every state of a chain `[n, n]` that goes on at this rate, else is killed."""
    check_shape("P", P, (None, None))
    check_shape("P", P, (P.shape[0], P.shape[0]))
    dtype = jnp.result_type(P, rate, jnp.float32)
    return Eliminated(*_visits(*(jnp.asarray(x, dtype) for x in (P, rate))))


@jit
def law_of(P: Array, found: Eliminated) -> Array:
    """The law of a chain that was eliminated at rate 1, `[n]`, without a derivative."""
    valid = stochastic(P) & (found.root.sum() == 1) & _sound(found)
    mass = jnp.where(found.root, 1, found.visits[found.root.argmax()])
    return jnp.where(valid, mass / mass.sum(), jnp.nan)


def _sound(found: Eliminated) -> Array:
    """Whether underflow cannot have moved the law by more than a share `_LOST` of it.

    A product below the smallest normal number, `tiny`, is 0, so that entries of W miss up to n tiny
    each. Where all states have mass M and the root 1, the flow into a state misses up to n tiny M,
    and what is carried from the root as much again. Missing flow is missing all the way back to the
    root: the law is off by up to 2 n² tiny times the longest mean time to get there. With a valley
    between two heavy parts that has no mass in this precision, that time is beyond all bounds,
    while the residual of a wrong law is 0.
    """
    n, tiny = len(found.root), float(jnp.finfo(found.visits.dtype).tiny)
    times = jnp.where(found.root[None], 0, found.visits).sum(1)
    return 1 + times.max() <= _LOST / tiny / (2 * n**2)


@jit
def values_of(P: Array, r: Array, discount: Scalar, found: Eliminated) -> Array:
    """Values of a chain that was eliminated at the rate `discount`, without a derivative."""
    valid = stochastic(P) & (discount >= 0) & (discount < 1)
    return jnp.where(valid, r + dot(found.visits, r), jnp.nan)


def where_needed(needed: Array, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) where it is needed, else zeros; a batch in which none needs it is spared it.

    `lax.cond` in a batch would always compute both. No derivative passes through it.
    """

    @custom_vmap
    def call(needed, *args):
        found = jax.eval_shape(function, *args)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)
        return lax.cond(needed, function, lambda *_: nothing, *args)

    @call.def_vmap
    def _batch(axis_size, in_batched, needed, *args):
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched[1:]))
        together = jax.vmap(function, axes, axis_size=axis_size)
        found = where_needed(needed.any(), together, *args)
        return found, jax.tree.map(lambda _: True, found)

    return call(needed, *lax.stop_gradient(args))


def law_system(P: Array, uniform: Array, b: Array) -> tuple[Array, Array]:
    r"""Solutions of y (I - P) + (Σ y) u = b and of its transpose, (I - P) x + (u x) 1 = b.

    Both by elimination, for a law u: with Σ y = Σ b the first is y (I - P) = b - (Σ b) u, up to a
    multiple of the law μ. With μ b = u x so is the second, up to a constant.
    """
    found = eliminate(P, 1.0)
    law, away = law_of(P, found), ~found.root
    pushed = jnp.where(away, b - b.sum() * uniform, 0)
    y = jnp.where(away, pushed + dot(pushed, found.visits), 0)
    asked = jnp.where(away, b - law @ b, 0)
    x = jnp.where(away, asked + dot(found.visits, asked), 0)
    return y + (b.sum() - y.sum()) * law, x + (law @ b - uniform @ x)


@jax.custom_jvp
def implicit_law(P: Array, law: Array, found: Eliminated) -> Array:
    """The law that was found, with the derivative that it has in P."""
    return law


@implicit_law.defjvp
def _law_jvp(primals, tangents):
    P, law, found = primals
    law = implicit_law(P, *lax.stop_gradient((law, found)))
    return law, _law_slope(P, law, lax.stop_gradient(found), tangents[0])


@jit
def _law_slope(P: Array, law: Array, found: Eliminated, dP: Array) -> Array:
    """A y = y (I - P) + (Σ y) root is regular, Σ A y = Σ y, and A dμ = μ dP less its sum."""
    visits, root = found.visits, found.root.astype(law.dtype)
    fixed, away = lax.stop_gradient(law), 1 - root

    def solve(_, b):
        y = away * (b + dot(away * b, visits))
        return y + (b.sum() - y.sum()) * fixed

    def transpose_solve(_, b):
        level = fixed @ b
        return away * (b - level + dot(visits, away * (b - level))) + level

    drift = law @ dP
    return lax.custom_linear_solve(
        lambda y: y - dot(y, P) + y.sum() * root,
        drift - drift.sum() * law,
        solve=solve,
        transpose_solve=transpose_solve,
    )


@jax.custom_jvp
def implicit_values(P: Array, r: Array, discount: Scalar, x: Array, found: Eliminated) -> Array:
    """The values x that were found, with the derivative that they have in P, r and discount."""
    return x


@partial(implicit_values.defjvp, symbolic_zeros=True)
def _values_jvp(primals, tangents):
    P, r, discount, x, found = primals
    moved = [None if isinstance(t, SymbolicZero) else t for t in tangents[:3]]
    x = implicit_values(P, r, discount, *lax.stop_gradient((x, found)))
    return x, _values_slope(P, discount, x, lax.stop_gradient(found), *moved)


@jit
def _values_slope(P: Array, discount: Scalar, x: Array, found: Eliminated, dP, dr, drate) -> Array:
    """(I - discount P) dx = dr + d(discount P) x, of what moves; NaN where x is."""
    terms = [] if dr is None else [dr]
    terms += [] if dP is None else [discount * dot(dP, x)]
    terms += [] if drate is None else [drate * dot(P, x)]
    dx = lax.custom_linear_solve(
        lambda y: y - discount * dot(P, y),
        sum(terms, start=jnp.zeros_like(x)),
        solve=lambda _, b: b + dot(found.visits, b),
        transpose_solve=lambda _, b: b + dot(found.visits.T, b),
    )
    return nan_unless(~jnp.isnan(x).any(), dx)


def _visits(P: Array, rate: Array) -> tuple[Array, Array]:
    """Expected later visits, `[n, n]`, of a chain that goes on at this rate; which are roots."""
    n = len(P)
    size = -(-n // -(-n // _PANEL))  # panels of one size, as few as can be
    fill = -n % size  # states that are killed at once, which nobody visits
    W = jnp.pad(rate * P, (0, fill))
    killing = jnp.pad(jnp.broadcast_to(1 - rate, (n,)), (0, fill), constant_values=1)
    if n == size:
        W, _, root = _eliminate(W, killing, jnp.array(0))
        return W, root

    def panel(i, carry):
        W, killing, root = carry
        first = len(W) - size * (i + 1)
        rows, loss, roots = _eliminate(
            lax.dynamic_slice_in_dim(W, first, size),
            lax.dynamic_slice_in_dim(killing, first, size),
            first,
        )
        own = (jnp.arange(len(W)) // size == first // size)[:, None]
        into = jnp.where(own, 0, lax.dynamic_slice_in_dim(W, first, size, 1))  # [n, p]
        through = jnp.where(roots[:, None], 0, rows)
        W = lax.dynamic_update_slice_in_dim(W + dot(into, through), rows, first, 0)
        killing = lax.dynamic_update_slice_in_dim(killing + dot(into, loss), loss, first, 0)
        return W, killing, lax.dynamic_update_slice_in_dim(root, roots, first, 0)

    start = (W, killing, jnp.zeros(len(W), bool))
    W, _, root = lax.fori_loop(0, len(W) // size, panel, start)
    return W[:n, :n], root[:n]


@custom_vmap
def _eliminate(rows: Array, killing: Array, first: Array) -> tuple[Array, Array, Array]:
    """Eliminate states first, first + 1, .. of one chain, in their own rows `[p, n]`."""
    found = _eliminate_last(rows[..., None], killing[..., None], first)
    return tuple(x[..., 0] for x in found)


@_eliminate.def_vmap
def _eliminate_batch(axis_size, in_batched, rows, killing, first):
    rows, killing = (
        jnp.moveaxis(x, 0, -1) if batched else jnp.broadcast_to(x[..., None], (*x.shape, axis_size))
        for x, batched in zip((rows, killing), in_batched, strict=False)
    )
    found = _eliminate_last(rows, killing, first)
    return tuple(jnp.moveaxis(x, -1, 0) for x in found), (True,) * 3


def _eliminate_last(rows, killing, first):
    """The same for a batch: rows `[p, n, B]`, killing `[p, B]`."""
    size = len(rows)
    column = jnp.arange(rows.shape[1])[:, None]

    def look(rows, killing, k):
        """What eliminating state k needs: its row, its column over the pivot, and its killing."""
        row, killed = (lax.dynamic_index_in_dim(x, k, 0, keepdims=False) for x in (rows, killing))
        pivot = jnp.where(column < first + k, row, 0).sum(0) + killed  # [B]
        root = pivot == 0
        into = lax.dynamic_index_in_dim(rows, first + k, 1, keepdims=False)  # [p, B]
        # Whoever comes to a root stays: nothing passes through it, as if all were killed there.
        moved = into / jnp.where(root, 1, pivot)[None]
        return jnp.where(root, 0, row), moved, jnp.where(root, 1, killed), root

    def step(i, carry):
        # The row and the column are looked up a step ahead. Read here, they would be read while
        # the rows are overwritten, and XLA would copy them all at every step.
        rows, killing, roots, (row, moved, killed, root) = carry
        k = size - 1 - i
        rows = rows + moved[:, None] * row[None]
        killing = killing + moved * killed[None]
        ahead = look(rows, killing, jnp.maximum(k - 1, 0))
        return rows, killing, roots.at[k].set(root), ahead

    start = (rows, killing, jnp.zeros(killing.shape, bool), look(rows, killing, size - 1))
    return lax.fori_loop(0, size, step, start)[:3]
