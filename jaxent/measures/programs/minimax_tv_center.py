r"""The law whose largest total variation distance to given laws is least.

    min_q max_k TV(p_k, q) = max_w min_q sum_k w_k TV(p_k, q),

a matrix game between q and the weights w of the given laws. As a program, with w_k what p_k and q
share,

    min t  s.t.  t >= 1 - sum_j w_kj,  0 <= w_kj <= p_kj,  w_kj <= q_j,  sum_j q_j = 1.

For any weights on the rows and any prices alpha >= 0 of w_kj <= q_j,

    sum_k weight_k - sum_kj p_kj (weight_k - alpha_kj)_+ - max_j sum_k alpha_kj

is a lower bound. The interior-point step eliminates the rows, each a diagonal and a total.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ...numerics.arrays import dot, pairwise_sum, ratio
from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.compiled import jit
from ...numerics.interior_point import Bracket, LinearProgram, Solution, Vector, solve_program
from ...numerics.simplex import free, free_form, notable, total_variation, whole
from ...numerics.twofold import in_twofold
from .kept_mass import Compared, kept_slacks, kept_solver

Array = jax.Array

# Solves of one system: the first, and one of what rounding left of it.
_NUM_SOLVES = 2


class RowPrices(NamedTuple):
    """What certifies a lower bound: weights of the laws `[K]` and prices of q `[K, m]`."""

    weight: Array
    alpha: Array


@jit(static_argnames="rivals")
def minimax_center(
    points: Array,
    present: Array,
    *,
    tol: float | Array,
    max_steps: int | Array,
    rivals: str | None = None,
) -> Solution:
    """The law with the least maximal TV distance to those of the given laws that are present.

    Args:
        points: laws, `[K, m]`.
        present: which of them count, bool `[K]`; with none the answer is 0.
        tol: stop when the bounds are this close.
        max_steps: the most interior-point steps.
        rivals: the name of a vmapped axis of which only the largest minimum is wanted. Static.

    Returns:
        A bracket of the minimum, with q `[m]` as primal and `RowPrices` as dual.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (5) and (13).
    """
    assert present.shape == points.shape[:1]
    program = _program(points, present)
    kept = program.offset["bounds"][1]
    count = jnp.maximum(present.sum(), 1).astype(points.dtype)
    mean = kept.sum(0) / count
    x, z = _start(program, mean), _multipliers(program, count)
    # With one law, or all the same, their mean is the answer, and 0 bounds any distance.
    first = ratio(mean, mean.sum(), 1 / points.shape[1])
    prices = z["rows"].at[:, :-1].set(0)
    guess = program.certify({"shared": jnp.append(first, 0)}, {"rows": prices})
    guess = guess._replace(lower=jnp.maximum(guess.lower, 0))
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps, rivals=rivals)


def row_dual_value(points: Array, prices: RowPrices) -> Array:
    """The lower bound of the module's head."""
    weight, alpha = prices
    carried = pairwise_sum(points * jnp.maximum(weight[:, None] - alpha, 0), 2)
    return weight.sum() - carried - alpha.sum(0).max()


def _program(points: Array, present: Array) -> LinearProgram:
    kept = jnp.where(present[:, None], points, 0)

    def certify(x, z):
        q, alpha, weight = x["shared"][:-1], z["rows"][:, :-1], z["rows"][:, -1]
        q = jnp.maximum(q, 0)  # a polished point may be a little outside, and then is no law
        q = q / q.sum()
        total = weight.sum()
        scale = jnp.where(total > 0, total, 1)
        prices = RowPrices(weight / scale, alpha / scale)
        upper = jnp.where(present, total_variation(points, q[None]), 0).max()
        return Bracket(upper, row_dual_value(kept, prices), q, prices)

    # Every w_k is compared with q entry by entry, and -sum w_k with t, last.
    compared = Compared(
        sums=lambda w: _append(w, -w.sum(1)),
        spread=lambda f: f[:, :-1] - f[:, -1:],
        copies=lambda y: jnp.broadcast_to(y, (len(points), len(y))),
        gather=lambda f: f.sum(0),
    )
    there = notable(kept)
    return LinearProgram(
        linear=lambda x: kept_slacks(x, compared),
        offset={
            "bounds": jnp.stack([0 * kept, kept]),
            "rows": _append(0 * kept, -jnp.ones_like(kept[:, 0])),
        },
        present={
            "bounds": jnp.stack([there, there]),
            "rows": _append(jnp.full(kept.shape, True), present),
        },
        factor=in_twofold(
            lambda theta: kept_solver(theta, compared, _eliminate, num_solves=_NUM_SOLVES)
        ),
        certify=certify,
    )


def _append(rows: Array, column: Array) -> Array:
    return jnp.concatenate([rows, column[:, None]], 1)


def _start(program: LinearProgram, mean: Array) -> Vector:
    """A strictly feasible point: q near the mean law, a share of p small enough."""
    kept, there = program.offset["bounds"][1], program.present
    q = mean / 2 + (1 - mean.sum() / 2) / len(mean)
    room = ratio(q[None], kept, 1).min(1, keepdims=True)
    w = jnp.where(there["bounds"][1], kept, 0) * (0.5 * jnp.minimum(room, 1))
    t = 1.1 - jnp.where(there["rows"][:, -1], w.sum(1), 1).min()
    return {"kept": w, "shared": jnp.append(q, t)}


def _multipliers(program: LinearProgram, count: Array) -> Vector:
    """Positive multipliers with G'z = c, the same for all `count` laws that are present."""
    there = program.present
    weight = jnp.where(there["rows"][:, -1:], 1 / count, 0)
    alpha = 0.25 / count
    top = jnp.maximum(weight - alpha, 0) + alpha
    bounds = jnp.stack([top - weight + alpha, top])
    rows = jnp.where(there["rows"], alpha, 0).at[:, -1:].set(weight)
    return {"bounds": jnp.where(there["bounds"], bounds, 0), "rows": rows}


def _eliminate(v: Array, slack: Array):
    """N of every law, diag(rows, 0) + tt h h' with h ending in 1, and the solver in y."""
    rows = 1 / (v + slack[:, :-1])  # [K, m]
    h = v * rows
    tt = ratio(1, slack[:, -1] + (h * slack[:, :-1]).sum(1))  # [K], 0 where a law does not count
    rows, h = _append(rows, 0 * tt), _append(h, jnp.ones_like(tt))
    weighted = tt[:, None] * h

    system = jnp.diag(rows.sum(0)) + dot(h.T, weighted)
    edge = free(system[-1, :-1], -1)[:, None]
    factor = inverse_cholesky(
        jnp.block([[free_form(system[:-1, :-1]), edge], [edge.T, system[-1:, -1:]]])
    )
    return Partial(_apply, rows, h, weighted), Partial(_settle, factor)


def _apply(rows: Array, h: Array, weighted: Array, f: Array) -> Array:
    """N f."""
    return rows * f + h * (weighted * f).sum(1, keepdims=True)


def _settle(factor: Array, right: Array) -> Array:
    """y, from the right-hand side of every entry of y."""
    y = solve_factored(factor, jnp.append(free(right[:-1], -1), right[-1]))
    return jnp.append(whole(y[:-1]), y[-1])
