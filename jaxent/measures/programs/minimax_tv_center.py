r"""The law whose largest total variation distance to given laws is least.

    min_q max_k TV(p_k, q) = max_w min_q sum_k w_k TV(p_k, q),

a matrix game between q and the weights w of the given laws. As a program, with w_k what p_k and q
share,

    min t  s.t.  t >= 1 - sum_j w_kj,  0 <= w_kj <= p_kj,  w_kj <= q_j,  sum_j q_j = 1.

For any weights on the rows and any prices alpha >= 0 of w_kj <= q_j,

    sum_k weight_k - sum_kj p_kj (weight_k - alpha_kj)_+ - max_j sum_k alpha_kj

is a lower bound. The interior-point step eliminates the rows, each a diagonal and a total.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ...numerics.arrays import dot, ratio
from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.interior_point import Bracket, LinearProgram, Solution, Vector, solve_program
from ...numerics.simplex import free, free_form, notable, total_variation, whole
from .kept_mass import Row, kept_slacks, kept_solver

Array = jax.Array

# Solves of one system: the first, and two of what rounding left of it.
_NUM_SOLVES = 3


class RowPrices(NamedTuple):
    """What certifies a lower bound: weights of the laws `[K]` and prices of q `[K, m]`."""

    weight: Array
    alpha: Array


@partial(jax.jit, static_argnames=("max_steps", "rivals"))
def minimax_center(
    points: Array,
    present: Array,
    *,
    tol: float | Array,
    max_steps: int,
    rivals: str | None = None,
) -> Solution:
    """The law with the least maximal TV distance to those of the given laws that are present.

    Args:
        points: laws, `[K, m]`.
        present: which of them count, bool `[K]`; with none the answer is 0.
        tol: stop when the bounds are this close.
        max_steps: the most interior-point steps. Static.
        rivals: the name of a vmapped axis of which only the largest minimum is wanted. Static.

    Returns:
        A bracket of the minimum, with q `[m]` as primal and `RowPrices` as dual.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (5) and (13).
    """
    chex.assert_shape(present, points.shape[:1])
    program = _program(points, present)
    kept = program.offset["cap"]
    count = jnp.maximum(present.sum(), 1)
    mean = kept.sum(0) / count
    x, z = _start(program, mean), _multipliers(program, count)
    # With one law, or all the same, their mean is the answer, and 0 bounds any distance.
    first = ratio(mean, mean.sum(), 1 / points.shape[1])
    guess = program.certify({"q": first}, {"t": z["t"], "row": 0 * z["row"]})
    guess = guess._replace(lower=jnp.maximum(guess.lower, 0))
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps, rivals=rivals)


def row_dual_value(points: Array, prices: RowPrices) -> Array:
    """The lower bound of the module's head."""
    weight, alpha = prices
    carried = jnp.sum(points * jnp.maximum(weight[:, None] - alpha, 0))
    return weight.sum() - carried - alpha.sum(0).max()


def _program(points: Array, present: Array) -> LinearProgram:
    kept = jnp.where(present[:, None], points, 0)

    def certify(x, z):
        q = x["q"] / x["q"].sum()
        total = z["t"].sum()
        scale = jnp.where(total > 0, total, 1)
        prices = RowPrices(z["t"] / scale, z["row"] / scale)
        upper = jnp.where(present, total_variation(points, q[None]), 0).max()
        return Bracket(upper, row_dual_value(kept, prices), q, prices)

    offset = {"zero": 0 * kept, "cap": kept, "row": 0 * kept, "t": -jnp.ones_like(kept[:, 0])}
    there = notable(kept)
    every = jnp.full(kept.shape, True)
    return LinearProgram(
        linear=lambda x: kept_slacks(x, _ROWS),
        offset=offset,
        present={"zero": there, "cap": there, "row": every, "t": present},
        factor=lambda theta: kept_solver(theta, _ROWS, _eliminate, num_solves=_NUM_SOLVES),
        certify=certify,
    )


def _start(program: LinearProgram, mean: Array) -> Vector:
    """A strictly feasible point: q near the mean law, a share of p small enough."""
    kept, there = program.offset["cap"], program.present
    q = mean / 2 + (1 - mean.sum() / 2) / len(mean)
    room = ratio(q[None], kept, 1).min(1, keepdims=True)
    w = jnp.where(there["cap"], kept, 0) * (0.5 * jnp.minimum(room, 1))
    return {"kept": w, "q": q, "t": 1.1 - jnp.where(there["t"], w.sum(1), 1).min()}


def _multipliers(program: LinearProgram, count: Array) -> Vector:
    """Positive multipliers with G'z = c, the same for all `count` laws that are present."""
    there, dtype = program.present, program.offset["cap"].dtype
    weight = jnp.where(there["t"], 1 / count, 0).astype(dtype)
    alpha = jnp.full(there["row"].shape, 0.25, dtype) / count
    top = jnp.maximum(weight[:, None] - alpha, 0) + alpha
    z = {"zero": top - weight[:, None] + alpha, "cap": top, "row": alpha, "t": weight}
    return {name: jnp.where(there[name], z[name], 0) for name in z}


# Every w_k is compared with q entry by entry, and -sum w_k with t.
_ROWS = {
    "row": Row("q", lambda w: w, lambda f: f, lambda q: q[None], lambda f: f.sum(0)),
    "t": Row("t", lambda w: -w.sum(1), lambda f: -f[:, None], lambda t: t, jnp.sum),
}


def _eliminate(v: Array, slack: Vector):
    """N of every row, [[diag(rows) + tt h h', tt h], [tt h', tt]], and the solver in q and t."""
    rows = 1 / (v + slack["row"])  # [K, m]
    h = v * rows
    tt = ratio(1, slack["t"] + (h * slack["row"]).sum(1))  # [K], 0 where a law does not count
    weighted = tt[:, None] * h

    def apply(f):
        t = (weighted * f["row"]).sum(1) + tt * f["t"]
        return {"row": rows * f["row"] + h * t[:, None], "t": t}

    shared = free_form(jnp.diag(rows.sum(0)) + dot(h.T, weighted))
    edge = free(weighted.sum(0), -1)[:, None]
    factor = inverse_cholesky(jnp.block([[shared, edge], [edge.T, tt.sum()[None, None]]]))

    def settle(right):
        y = solve_factored(factor, jnp.append(free(right["q"], -1), right["t"]))
        return {"q": whole(y[:-1]), "t": y[-1]}

    return apply, settle
