r"""The separable chain nearest to a two-agent chain in total variation (Eq. 4, Defs. 4 and 7).

Two agents are separable exactly when neither one's next pair depends on the other's current pair.
So a separable chain has local transitions q_A, q_B, and its row (a, b) is any joint law with
marginals q_A(.|a), q_B(.|b). The one nearest to p keeps as much of p as the marginals can carry:

    TV = 1 - max { sum w : 0 <= w <= p,  w 1 <= q_A(.|a),  w' 1 <= q_B(.|b) },

a maximum flow; what is left of the marginals is paired in any way. E is therefore the program

    min t  s.t.  t >= 1 - sum w_ab,  0 <= w_ab <= p_ab,  w_ab 1 <= q_A(.|a),  w_ab' 1 <= q_B(.|b),
                 q_A(.|a), q_B(.|b) sum to 1

(or the mu-weighted sum of 1 - sum w_ab in place of t). Every multiplier has a closed form but the
row weights lambda and the prices alpha, beta >= 0 of the marginals, and for *any* of these

    sum_ab lambda_ab - sum_ab <p_ab, (lambda_ab - alpha_ab - beta_ab)_+>
        - sum_a max_k sum_b alpha_ab[k] - sum_b max_l sum_a beta_ab[l]

is a lower bound. The rows of the joint chain only meet in q_A and q_B, so the interior-point step
eliminates the rows, then q_A, and is left with one dense system in q_B and t.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from ...numerics.arrays import block_diagonal, dot, matvec, ratio
from ...numerics.cholesky import inverse_cholesky, inverse_cholesky_laplacian, solve_factored
from ...numerics.interior_point import Bracket, LinearProgram, Solution, Vector, solve_program
from ...numerics.simplex import free, free_form, notable, whole
from .kept_mass import Row, kept_slacks, kept_solver

# Solves of one system: the first, and one of what rounding left of it.
_NUM_SOLVES = 2


class Separable(NamedTuple):
    """A separable two-agent chain, by what it keeps of the given one.

    Attributes:
        local: q_A `[A, K]` and q_B `[B, L]`, row-stochastic.
        kept: w, mass shared with the given chain, `[A, B, K, L]`.
    """

    local: tuple[Array, Array]
    kept: Array

    def chain(self) -> Array:
        """The separable chain `[A * B, K * L]`: w and the rest of the marginals, independent."""
        q_a, q_b = self.local
        rest_a = q_a[:, None] - self.kept.sum(3)  # [A, B, K]
        rest_b = q_b[None] - self.kept.sum(2)  # [A, B, L]
        rest = 1 - self.kept.sum((2, 3))  # [A, B]
        share = rest_b / jnp.where(rest > 0, rest, 1)[..., None]
        joint = self.kept + rest_a[..., None] * share[..., None, :]
        return joint.reshape(q_a.shape[0] * q_b.shape[0], -1)


class Prices(NamedTuple):
    """What certifies a lower bound: row weights `[A, B]` and prices of both marginals."""

    weight: Array
    alpha: Array  # [A, B, K]
    beta: Array  # [A, B, L]


@partial(jax.jit, static_argnames=("minimax", "max_steps"))
def nearest_separable(
    joint: Array, rows: Array, *, minimax: bool, tol: float | Array, max_steps: int
) -> Solution:
    """Nearest separable chain in TV, or in mu-TV.

    Args:
        joint: p, the chain by pairs of pairs, `[A, B, K, L]`.
        rows: which rows count, bool `[A, B]`, for the maximum; mu, `[A, B]`, for the sum.
        minimax: the maximum over rows, or the sum weighted by mu. Static.
        tol: stop when the bounds are this close.
        max_steps: the most interior-point steps. Static.

    Returns:
        A bracket of the minimum with a `Separable` as primal and `Prices` as dual.
    """
    chex.assert_shape(rows, joint.shape[:2])
    counts = rows > 0
    joint = jnp.where(counts[..., None, None], joint, 0)
    weight = counts / jnp.maximum(counts.sum(), 1) if minimax else rows
    weight = weight.astype(joint.dtype)
    program = _program(joint, weight, counts, minimax)
    x = _start(joint, counts, minimax)
    z = _multipliers(weight, joint.shape, program.present)
    # A separable chain is its own answer; and no distance is below 0.
    first = {"kept": joint} | {name: _mean(joint, counts, name) for name in "ab"}
    nothing = {"t": weight, "row": 0 * z["row"], "column": 0 * z["column"]}
    guess = program.certify(first, nothing)
    guess = guess._replace(lower=jnp.maximum(guess.lower, 0))
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps)


def _mean(joint: Array, counts: Array, agent: str) -> Array:
    """Mean next-pair law of an agent over the other's current pairs; uniform where none count."""
    marginal = joint.sum(3) if agent == "a" else jnp.moveaxis(joint.sum(2), 0, 1)  # [A, B, K]
    number = (counts if agent == "a" else counts.T).sum(1)[:, None]
    mean = marginal.sum(1) / jnp.maximum(number, 1)
    return jnp.where(number > 0, mean, 1 / mean.shape[-1])


def _fit(joint: Array, kept: Array, q_a: Array, q_b: Array) -> tuple[Array, Separable]:
    """Shrink `kept` until it satisfies every constraint, and what every row then loses `[A, B]`."""
    kept = jnp.clip(kept, 0, joint)
    rows = kept.sum(3)  # [A, B, K]
    kept = kept * jnp.minimum(1, ratio(q_a[:, None], rows, 1))[..., None]
    columns = kept.sum(2)  # [A, B, L]
    kept = kept * jnp.minimum(1, ratio(q_b[None], columns, 1))[..., None, :]
    # Not 1 - sum(kept): the rest of p keeps its accuracy where the distance is near 0.
    return (joint - kept).sum((2, 3)), Separable((q_a, q_b), kept)


def dual_value(joint: Array, prices: Prices) -> Array:
    """The lower bound of the module's head; any prices >= 0 and weights >= 0 give one."""
    weight, alpha, beta = prices
    excess = _excess(prices)
    carried = jnp.sum(joint * jnp.maximum(excess, 0))
    paid = alpha.sum(1).max(-1).sum() + beta.sum(0).max(-1).sum()
    return weight.sum() - carried - paid


def _excess(prices: Prices) -> Array:
    """lambda - alpha - beta, `[A, B, K, L]`."""
    weight, alpha, beta = prices
    return weight[..., None, None] - alpha[..., None] - beta[..., None, :]


def _start(joint: Array, counts: Array, minimax: bool) -> Vector:
    """A strictly feasible point: marginals near the mean ones, a share of p small enough."""
    q_a, q_b = (_mean(joint, counts, name) for name in "ab")
    q_a = (q_a + 1 / q_a.shape[-1]) / 2
    q_b = (q_b + 1 / q_b.shape[-1]) / 2
    room = jnp.minimum(
        ratio(q_a[:, None], joint.sum(3), 1).min(-1), ratio(q_b[None], joint.sum(2), 1).min(-1)
    )  # [A, B]
    kept = jnp.where(notable(joint), joint, 0) * (0.5 * jnp.minimum(room, 1))[..., None, None]
    x = {"kept": kept, "a": q_a, "b": q_b}
    if minimax:
        x["t"] = 1.1 - jnp.where(counts, kept.sum((2, 3)), 1).min()
    return x


def _multipliers(weight: Array, shape: tuple[int, ...], present: Vector) -> Vector:
    """Positive multipliers with G'z = c."""
    num_a, num_b, k, l = shape
    unit = weight.mean() / 4
    alpha = jnp.broadcast_to(unit, (num_a, num_b, k))
    beta = jnp.broadcast_to(unit, (num_a, num_b, l))
    excess = _excess(Prices(weight, alpha, beta))
    top = jnp.maximum(excess, 0) + unit
    z = {"zero": top - excess, "cap": top, "row": alpha, "column": beta}
    if "t" in present:
        z["t"] = weight
    return {name: jnp.where(present[name], z[name], 0) for name in z}


def _program(joint: Array, weight: Array, counts: Array, minimax: bool) -> LinearProgram:
    num_a, num_b, k, l = joint.shape
    rows = _ROWS | ({"t": _TOTAL} if minimax else {})
    offset = {
        "zero": jnp.zeros_like(joint),
        "cap": joint,
        "row": jnp.zeros((num_a, num_b, k), joint.dtype),
        "column": jnp.zeros((num_a, num_b, l), joint.dtype),
    }
    if minimax:
        offset["t"] = -jnp.ones((num_a, num_b), joint.dtype)
    there = notable(joint)
    present = {name: jnp.full(h.shape, True) for name, h in offset.items()}
    present |= {"zero": there, "cap": there} | ({"t": counts} if minimax else {})

    def certify(x, z):
        q_a, q_b = x["a"], x["b"]
        loss, primal = _fit(
            joint, x["kept"], q_a / q_a.sum(-1, keepdims=True), q_b / q_b.sum(-1, keepdims=True)
        )
        total = z["t"].sum() if minimax else 1
        total = jnp.where(total > 0, total, 1)
        row = z["t"] / total if minimax else weight
        prices = Prices(row, z["row"] / total, z["column"] / total)
        upper = jnp.where(counts, loss, 0).max() if minimax else jnp.sum(weight * loss)
        return Bracket(upper, dual_value(joint, prices), primal, prices)

    return LinearProgram(
        linear=lambda x: kept_slacks(x, rows),
        offset=offset,
        present=present,
        factor=lambda theta: kept_solver(theta, rows, _eliminate, num_solves=_NUM_SOLVES),
        certify=certify,
    )


# Every w has its sums by row and by column, compared with q_A and q_B, and -sum w with t.
_ROWS = {
    "row": Row(
        "a", lambda w: w.sum(3), lambda f: f[..., None], lambda q: q[:, None], lambda f: f.sum(1)
    ),
    "column": Row(
        "b", lambda w: w.sum(2), lambda f: f[..., None, :], lambda q: q[None], lambda f: f.sum(0)
    ),
}
_TOTAL = Row("t", lambda w: -w.sum((2, 3)), lambda f: -f[..., None, None], lambda t: t, jnp.sum)


class _Rows(NamedTuple):
    """N of every row ab of the joint chain, by blocks; without t there is no `total`.

    Attributes:
        aa, ab, bb: `[A, B, K, K]`, `[A, B, K, L]` and `[A, B, L, L]`.
        total: the row of t: `[A, B, K]`, `[A, B, L]` and, on the diagonal, `[A, B]`.
    """

    aa: Array
    ab: Array
    bb: Array
    total: tuple[Array, Array, Array] | None

    def apply(self, f: Vector) -> Vector:
        """N f."""
        row = matvec(self.aa, f["row"]) + matvec(self.ab, f["column"])
        column = matvec(self.ab.mT, f["row"]) + matvec(self.bb, f["column"])
        if self.total is None:
            return {"row": row, "column": column}
        ta, tb, tt = self.total
        row, column = row + ta * f["t"][..., None], column + tb * f["t"][..., None]
        t = (ta * f["row"]).sum(-1) + (tb * f["column"]).sum(-1) + tt * f["t"]
        return {"row": row, "column": column, "t": t}


class _Shared(NamedTuple):
    """The factored system in y = (q_A, q_B, t), q_A eliminated before q_B and t.

    Rows of q sum to 1, so of each the last entry follows from the others.

    Attributes:
        w_a: inverse factor of each q_A(.|a), `[A, K - 1, K - 1]`.
        half: w_a times the block between q_A and the rest, `[A, K - 1, B * (L - 1) (+ 1)]`.
        w_b: inverse factor of what is left of the rest.
    """

    w_a: Array
    half: Array
    w_b: Array

    def solve(self, right: Vector) -> Vector:
        """y, from the right-hand sides of every entry of q_A `[A, K]`, q_B `[B, L]` and t."""
        num_b, l = right["b"].shape
        rest = free(right["b"], -1).reshape(-1)
        if "t" in right:
            rest = jnp.append(rest, right["t"])
        half_a = matvec(self.w_a, free(right["a"], -1))  # [A, K - 1]
        flat = self.half.reshape(half_a.size, self.half.shape[-1])
        y = solve_factored(self.w_b, rest - dot(flat.T, half_a.reshape(-1)))
        q_a = whole(matvec(self.w_a.mT, half_a - matvec(self.half, y[None])))
        q_b = whole(y[: num_b * (l - 1)].reshape(num_b, l - 1))
        return {"a": q_a, "b": q_b} | ({"t": y[-1]} if "t" in right else {})


def _eliminate(v: Array, slack: Vector):
    """N of the rows of the joint chain, and the solver of the system in q_A, q_B and t."""
    rows = _factor_rows(v, slack["row"], slack["column"])
    if "t" in slack:
        rows = _border_by_total(rows, slack)
    return rows.apply, _factor_shared(rows).solve


def _factor_rows(v: Array, slack_a: Array, slack_b: Array) -> _Rows:
    """N without t, the inverse of H = [diag(v 1 + slack_a), v; v', diag(v' 1 + slack_b)].

    H is a Laplacian up to signs, so its inverse needs no subtraction.
    """
    top = v.sum(3) + slack_a  # [A, B, K]
    by_row = v / top[..., None]
    links = dot(by_row.mT, v)  # [A, B, L, L]
    w = inverse_cholesky_laplacian(links, slack_b + matvec(by_row.mT, slack_a))
    bb = dot(w.mT, w)
    ab = -dot(by_row, bb)
    aa = -dot(ab, by_row.mT) + jnp.eye(v.shape[2], dtype=v.dtype)[None, None] / top[..., None]
    return _Rows(aa, ab, bb, None)


def _border_by_total(rows: _Rows, slack: Vector) -> _Rows:
    """N with t, which reads minus the total of w: the border is H^{-1} B v, from sums alone."""
    aa, ab, bb, _ = rows
    ha, hb = -matvec(ab, slack["column"]), -matvec(ab.mT, slack["row"])
    tt = ratio(1, slack["t"] + (slack["row"] * ha).sum(-1))  # 0 where a row does not count
    ta, tb = ha * tt[..., None], hb * tt[..., None]
    aa = aa + ta[..., :, None] * ha[..., None, :]
    ab = ab + ta[..., :, None] * hb[..., None, :]
    bb = bb + tb[..., :, None] * hb[..., None, :]
    return _Rows(aa, ab, bb, (ta, tb, tt))


def _factor_shared(rows: _Rows) -> _Shared:
    """Assemble E'N E, where the rows of the joint chain meet, and factor it."""
    num_a, num_b, k, l = rows.ab.shape
    w_a = inverse_cholesky(free_form(rows.aa.sum(1)))
    cross = jnp.moveaxis(free_form(rows.ab), 2, 1)  # [A, K - 1, B, L - 1]
    cross = cross.reshape(num_a, k - 1, num_b * (l - 1))
    rest = block_diagonal(free_form(rows.bb.sum(0)))
    if rows.total is not None:
        ta, tb, tt = rows.total
        cross = jnp.concatenate([cross, free(ta.sum(1), -1)[..., None]], -1)
        edge = free(tb.sum(0), -1).reshape(-1, 1)
        rest = jnp.block([[rest, edge], [edge.T, tt.sum()[None, None]]])
    half = dot(w_a, cross)
    flat = half.reshape(num_a * (k - 1), half.shape[-1])
    return _Shared(w_a, half, inverse_cholesky(rest - dot(flat.T, flat)))
