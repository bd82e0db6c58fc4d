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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.interior_point import LinearProgram, Solution, free, notable, solve_program, whole
from ...numerics.simplex import total_variation

Array = jax.Array

# The first solve, and how often its error is solved for again.
_REFINEMENTS = 3


class RowPrices(NamedTuple):
    """What certifies a lower bound: weights of the laws `[K]` and prices of q `[K, m]`."""

    weight: Array
    alpha: Array


@partial(jax.jit, static_argnames=("max_steps", "rivals"))
def minimax_center(
    points: Array, present: Array, *, tol: Any, max_steps: int, rivals: str | None = None
) -> Solution:
    """The law with the least maximal TV distance to those of the given laws that are present.

    Args:
        points: laws, `[K, m]`.
        present: which of them count, bool `[K]`; with none the answer is 0.
        tol: stop when the bounds are this close.
        max_steps: at most so many interior-point steps. Static.
        rivals: the name of a vmapped axis of which only the largest minimum is wanted. Static.

    Returns:
        A bracket of the minimum, with q `[m]` as primal and `RowPrices` as dual.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (5) and (13).
    """
    num_points, m = points.shape
    dtype = points.dtype
    kept = jnp.where(present[:, None], points, 0)
    count = jnp.maximum(present.sum(), 1)
    there = {
        "zero": notable(kept),
        "cap": notable(kept),
        "row": jnp.full((num_points, m), True),
        "t": present,
    }

    def linear(x):
        w = x["kept"]
        return {"zero": w, "cap": -w, "row": x["q"][None] - w, "t": w.sum(1) + x["t"]}

    def certify(x, _, z):
        q = x["q"] / x["q"].sum()
        total = z["t"].sum()
        scale = jnp.where(total > 0, total, 1)
        prices = RowPrices(z["t"] / scale, z["row"] / scale)
        upper = jnp.where(present, total_variation(points, q[None]), 0).max()
        return upper, row_dual_value(kept, prices), q, prices

    program = LinearProgram(
        linear=linear,
        offset={
            "zero": jnp.zeros_like(kept),
            "cap": kept,
            "row": jnp.zeros_like(kept),
            "t": -jnp.ones(num_points, dtype),
        },
        present=there,
        factor=_factor,
        certify=certify,
    )
    mean = kept.sum(0) / count
    q = mean / 2 + (1 - mean.sum() / 2) / m
    ratio = jnp.where(kept > 0, q[None] / jnp.where(kept > 0, kept, 1), 1)
    start = jnp.where(notable(kept), kept, 0) * (0.5 * jnp.minimum(ratio.min(1, keepdims=True), 1))
    x = {"kept": start, "q": q, "t": 1.1 - jnp.where(present, start.sum(1), 1).min()}
    weight = jnp.where(present, 1 / count, 0).astype(dtype)
    alpha = jnp.full((num_points, m), 0.25, dtype) / count
    top = jnp.maximum(weight[:, None] - alpha, 0) + alpha
    z = {"zero": top - weight[:, None] + alpha, "cap": top, "row": alpha, "t": weight}
    z = {name: jnp.where(there[name], z[name], 0) for name in z}
    # With one law, or all the same, their mean is the answer, and 0 bounds any distance.
    first = jnp.where(mean.sum() > 0, mean / jnp.where(mean.sum() > 0, mean.sum(), 1), 1 / m)
    guess = certify({"q": first}, None, {"t": weight, "row": 0 * alpha})
    guess = (guess[0], jnp.maximum(guess[1], 0), *guess[2:])
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps, rivals=rivals)


def row_dual_value(points: Array, prices: RowPrices) -> Array:
    """The lower bound of the module's head."""
    weight, alpha = prices
    carried = jnp.sum(points * jnp.maximum(weight[:, None] - alpha, 0))
    return weight.sum() - carried - alpha.sum(0).max()


def _factor(theta: dict):
    """Solver of dz + theta G dx = pull, G'dz = 0, rows first; as in `nearest`, without columns."""
    diagonal = theta["zero"] + theta["cap"]
    v = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1), 0)  # [K, m]
    counts = theta["t"] > 0
    slack = 1 / theta["row"]
    slack_t = jnp.where(counts, 1 / jnp.where(counts, theta["t"], 1), 0)
    rows = 1 / (v + slack)
    h = v * rows
    tt = jnp.where(counts, 1 / jnp.where(counts, slack_t + (h * slack).sum(1), 1), 0)  # [K]
    weighted = tt[:, None] * h
    shared = jnp.diag(rows.sum(0)) + jnp.matmul(h.T, weighted, precision=lax.Precision.HIGHEST)
    shared = free(free(shared, -1), -2)
    edge = free(weighted.sum(0), -1)[:, None]
    factor = inverse_cholesky(jnp.block([[shared, edge], [edge.T, tt.sum()[None, None]]]))

    def apply(gq, gt):
        """N g for every row."""
        total = (weighted * gq).sum(1) + tt * gt
        return rows * gq + h * total[:, None], total

    def meet(gq, gt, rq, rt):
        nq, nt = apply(gq, gt)
        right = jnp.append(free(rq - nq.sum(0), -1), rt - nt.sum())
        y = solve_factored(factor, right)
        q, t = whole(y[:-1]), y[-1]
        return q, t, *apply(q[None] + gq, t + gt)

    def solve(pull):
        rho = pull["zero"] - pull["cap"]

        def refine(_, found):
            q, t, fq, ft = found
            w = v * (rho + fq - ft[:, None])
            change = meet(
                slack * (fq + pull["row"]) + w - q[None],
                slack_t * (ft + pull["t"]) - w.sum(1) - t,
                -fq.sum(0),
                -ft.sum(),
            )
            return jax.tree.map(jnp.subtract, found, change)

        nothing = (0 * rho[0], 0 * tt[0], 0 * rho, 0 * tt)
        found = lax.fori_loop(0, _REFINEMENTS, refine, nothing)
        q, t, fq, ft = found
        w = v * (rho + fq - ft[:, None])
        dz = {
            "zero": pull["zero"] - theta["zero"] * w,
            "cap": pull["cap"] + theta["cap"] * w,
            "row": -fq,
            "t": -ft,
        }
        return {"kept": w, "q": q, "t": t}, dz

    return solve
