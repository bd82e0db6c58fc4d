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

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from ...numerics.arrays import block_diagonal, dot, matvec, pairwise_sum, ratio
from ...numerics.cholesky import inverse_cholesky, inverse_cholesky_laplacian, solve_factored
from ...numerics.compiled import jit
from ...numerics.interior_point import Bracket, LinearProgram, Solution, Vector, solve_program
from ...numerics.simplex import free, free_form, notable, whole
from ...numerics.twofold import in_twofold
from .kept_mass import Compared, kept_slacks, kept_solver

# Solves of one system: the first, and three of what rounding left of it.
_NUM_SOLVES = 4


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


@jit(static_argnames="minimax")
def nearest_separable(
    joint: Array, rows: Array, *, minimax: bool, tol: float | Array, max_steps: int | Array
) -> Solution:
    """Nearest separable chain in TV, or in mu-TV.

    Args:
        joint: p, the chain by pairs of pairs, `[A, B, K, L]`.
        rows: which rows count, bool `[A, B]`, for the maximum; mu, `[A, B]`, for the sum.
        minimax: the maximum over rows, or the sum weighted by mu. Static.
        tol: stop when the bounds are this close.
        max_steps: the most interior-point steps.

    Returns:
        A bracket of the minimum with a `Separable` as primal and `Prices` as dual.
    """
    assert rows.shape == joint.shape[:2]
    counts = rows > 0
    joint = jnp.where(counts[..., None, None], joint, 0)
    weight = (counts if minimax else rows).astype(joint.dtype)
    weight = weight / jnp.maximum(counts.sum(), 1) if minimax else weight
    num_a, num_b, k, l = joint.shape
    entries = _Entries(num_a, num_b, k, l, minimax)
    program = _program(joint, weight, counts, entries)
    x = _start(joint, counts, entries)
    z = _multipliers(weight, entries, program.present)
    # A separable chain is its own answer; and no distance is below 0.
    mean_a, mean_b = (_mean(joint, counts, name) for name in "ab")
    means = entries.shared(mean_a, mean_b, 0 * weight.sum())
    nothing = entries.rows(0 * joint.sum(3), 0 * joint.sum(2), weight)
    guess = program.certify({"kept": joint, "shared": means}, {"rows": nothing})
    guess = guess._replace(lower=jnp.maximum(guess.lower, 0))
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps)


class _Entries(NamedTuple):
    """What stands where: in y = (q_A, q_B, t), and in the constraints of each row of the chain.

    Those compare the sums of w by its rows with q_A, those by its columns with q_B, and -sum w with
    t; without `total` there is no t.
    """

    num_a: int
    num_b: int
    k: int
    l: int
    total: bool

    def shared(self, q_a: Array, q_b: Array, t: Array) -> Array:
        """y, a vector."""
        return jnp.concatenate([q_a.reshape(-1), q_b.reshape(-1), t[None]][: 2 + self.total])

    def of_shared(self, y: Array) -> tuple[Array, Array, Array]:
        """q_A `[A, K]`, q_B `[B, L]` and t, 0 where there is none."""
        q_a, q_b, t = jnp.split(y, [self.num_a * self.k, self.num_a * self.k + self.num_b * self.l])
        return q_a.reshape(-1, self.k), q_b.reshape(-1, self.l), t.sum()

    def rows(self, by_row: Array, by_column: Array, total: Array) -> Array:
        """`[A, B, K + L (+ 1)]` from `[A, B, K]`, `[A, B, L]` and `[A, B]`."""
        return jnp.concatenate([by_row, by_column, total[..., None]][: 2 + self.total], -1)

    def of_rows(self, f: Array) -> tuple[Array, Array, Array]:
        """What `rows` is made of; 0 for the total where there is none."""
        by_row, by_column, total = jnp.split(f, [self.k, self.k + self.l], -1)
        return by_row, by_column, total.sum(-1)

    def sums(self, w: Array) -> Array:
        """B w."""
        return self.rows(w.sum(3), w.sum(2), -w.sum((2, 3)))

    def spread(self, f: Array) -> Array:
        """B'f."""
        by_row, by_column, total = self.of_rows(f)
        return by_row[..., None] + by_column[..., None, :] - total[..., None, None]

    def copies(self, y: Array) -> Array:
        """E y."""
        q_a, q_b, t = self.of_shared(y)
        each = (self.num_a, self.num_b)
        q_a, q_b = q_a[:, None], q_b[None]
        return self.rows(
            jnp.broadcast_to(q_a, (*each, self.k)),
            jnp.broadcast_to(q_b, (*each, self.l)),
            jnp.broadcast_to(t, each),
        )

    def gather(self, f: Array) -> Array:
        """E'f."""
        by_row, by_column, total = self.of_rows(f)
        return self.shared(by_row.sum(1), by_column.sum(0), total.sum())


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
    return pairwise_sum(joint - kept, 2), Separable((q_a, q_b), kept)


def dual_value(joint: Array, prices: Prices) -> Array:
    """The lower bound of the module's head; any prices >= 0 and weights >= 0 give one."""
    weight, alpha, beta = prices
    excess = _excess(prices)
    carried = pairwise_sum(joint * jnp.maximum(excess, 0), 4)
    paid = alpha.sum(1).max(-1).sum() + beta.sum(0).max(-1).sum()
    return weight.sum() - carried - paid


def _excess(prices: Prices) -> Array:
    """lambda - alpha - beta, `[A, B, K, L]`."""
    weight, alpha, beta = prices
    return weight[..., None, None] - alpha[..., None] - beta[..., None, :]


def _start(joint: Array, counts: Array, entries: _Entries) -> Vector:
    """A strictly feasible point: marginals near the mean ones, a share of p small enough."""
    q_a, q_b = (_mean(joint, counts, name) for name in "ab")
    q_a = (q_a + 1 / q_a.shape[-1]) / 2
    q_b = (q_b + 1 / q_b.shape[-1]) / 2
    room = jnp.minimum(
        ratio(q_a[:, None], joint.sum(3), 1).min(-1), ratio(q_b[None], joint.sum(2), 1).min(-1)
    )  # [A, B]
    kept = jnp.where(notable(joint), joint, 0) * (0.5 * jnp.minimum(room, 1))[..., None, None]
    t = 1.1 - jnp.where(counts, kept.sum((2, 3)), 1).min()
    return {"kept": kept, "shared": entries.shared(q_a, q_b, t)}


def _multipliers(weight: Array, entries: _Entries, present: Vector) -> Vector:
    """Positive multipliers with G'z = c."""
    unit = weight.mean() / 4
    excess = weight - 2 * unit  # lambda - alpha - beta, the same for all entries of a row
    top = jnp.maximum(excess, 0) + unit
    bounds = jnp.stack([top - excess, top])[..., None, None]  # [2, A, B, 1, 1]
    each = jnp.full((*weight.shape, entries.k + entries.l), unit)
    rows = entries.rows(each[..., : entries.k], each[..., entries.k :], weight)
    z = {"bounds": bounds, "rows": rows}
    return {name: jnp.where(present[name], z[name], 0) for name in z}


def _program(joint: Array, weight: Array, counts: Array, entries: _Entries) -> LinearProgram:
    minimax = entries.total

    def certify(x, z):
        # A polished point may be a little outside, and then is nobody's law.
        q_a, q_b = (jnp.maximum(q, 0) for q in entries.of_shared(x["shared"])[:2])
        loss, primal = _fit(
            joint, x["kept"], q_a / q_a.sum(-1, keepdims=True), q_b / q_b.sum(-1, keepdims=True)
        )
        alpha, beta, row = entries.of_rows(z["rows"])
        total = row.sum() if minimax else jnp.ones((), row.dtype)
        total = jnp.where(total > 0, total, 1)
        prices = Prices(row / total if minimax else weight, alpha / total, beta / total)
        upper = jnp.where(counts, loss, 0).max() if minimax else jnp.sum(weight * loss)
        return Bracket(upper, dual_value(joint, prices), primal, prices)

    there = notable(joint)
    zeros = entries.sums(0 * joint)
    compared = Compared(entries.sums, entries.spread, entries.copies, entries.gather)
    by_row, by_column, total = entries.of_rows(zeros)
    return LinearProgram(
        linear=lambda x: kept_slacks(x, compared),
        offset={
            "bounds": jnp.stack([0 * joint, joint]),
            "rows": entries.rows(by_row, by_column, total - 1),
        },
        present={
            "bounds": jnp.stack([there, there]),
            "rows": entries.rows(by_row == 0, by_column == 0, counts),
        },
        factor=in_twofold(
            lambda theta: kept_solver(
                theta, compared, partial(_eliminate, entries), num_solves=_NUM_SOLVES
            )
        ),
        certify=certify,
    )


class _Reduced(NamedTuple):
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

    def solve(self, right: Array, entries: _Entries) -> Array:
        """y, from the right-hand side of every entry of y."""
        on_a, on_b, on_t = entries.of_shared(right)
        rest = free(on_b, -1).reshape(-1)
        if entries.total:
            rest = jnp.append(rest, on_t)
        half_a = matvec(self.w_a, free(on_a, -1))  # [A, K - 1]
        flat = self.half.reshape(half_a.size, self.half.shape[-1])
        y = solve_factored(self.w_b, rest - dot(flat.T, half_a.reshape(-1)))
        q_a = whole(matvec(self.w_a.mT, half_a - matvec(self.half, y[None])))
        size = entries.num_b * (entries.l - 1)
        return entries.shared(q_a, whole(y[:size].reshape(entries.num_b, -1)), y[size:].sum())


def _eliminate(entries: _Entries, v: Array, slack: Array):
    """N of the rows of the joint chain, and the solver of the system in y."""
    n = _factor_rows(entries, v, slack)
    reduced = _factor_shared(entries, n)
    return Partial(matvec, n), Partial(partial(_settle, entries), reduced)


def _settle(entries: _Entries, reduced: _Reduced, right: Array) -> Array:
    return reduced.solve(right, entries)


def _factor_rows(entries: _Entries, v: Array, slack: Array) -> Array:
    """N of every row, `[A, B, K + L (+ 1), K + L (+ 1)]`.

    Without t it is the inverse of H = [diag(v 1 + slack_a), v; v', diag(v' 1 + slack_b)], a
    Laplacian up to signs, so it needs no subtraction. The row of t, minus the total of w, borders
    it by H^{-1} B v, from sums alone.
    """
    slack_a, slack_b, slack_t = entries.of_rows(slack)
    top = v.sum(3) + slack_a  # [A, B, K]
    by_row = v / top[..., None]
    links = dot(by_row.mT, v)  # [A, B, L, L]
    w = inverse_cholesky_laplacian(links, slack_b + matvec(by_row.mT, slack_a))
    half = jnp.concatenate([-dot(by_row, w.mT), w.mT], 2)  # [A, B, K + L, L]
    n = dot(half, half.mT) + _diagonal(jnp.append(1 / top, jnp.zeros_like(slack_b), -1))
    if not entries.total:
        return n
    ab = n[..., : entries.k, entries.k :]
    ha, hb = -matvec(ab, slack_b), -matvec(ab.mT, slack_a)
    tt = ratio(1, slack_t + (slack_a * ha).sum(-1))  # 0 where a row does not count
    h = entries.rows(ha, hb, jnp.ones_like(tt))
    border = tt[..., None, None] * h[..., None] * h[..., None, :]
    return jnp.pad(n, ((0, 0), (0, 0), (0, 1), (0, 1))) + border


def _diagonal(rows: Array) -> Array:
    """Diagonal matrices, `[A, B, n, n]`."""
    return rows[..., None] * jnp.eye(rows.shape[-1], dtype=rows.dtype)[None, None]


def _factor_shared(entries: _Entries, n: Array) -> _Reduced:
    """Assemble E'N E, where the rows of the joint chain meet, and factor it."""
    num_a, num_b, k, l, total = entries
    on_a, on_b = slice(k), slice(k, k + l)
    w_a = inverse_cholesky(free_form(n[..., on_a, on_a].sum(1)))
    cross = jnp.moveaxis(free_form(n[..., on_a, on_b]), 2, 1)  # [A, K - 1, B, L - 1]
    cross = cross.reshape(num_a, k - 1, num_b * (l - 1))
    rest = block_diagonal(free_form(n[..., on_b, on_b].sum(0)))
    if total:
        cross = jnp.append(cross, free(n[..., on_a, -1].sum(1), -1)[..., None], -1)
        edge = free(n[..., on_b, -1].sum(0), -1).reshape(-1, 1)
        rest = jnp.block([[rest, edge], [edge.T, n[..., -1, -1].sum()[None, None]]])
    half = dot(w_a, cross)
    flat = half.reshape(num_a * (k - 1), half.shape[-1])
    return _Reduced(w_a, half, inverse_cholesky(rest - dot(flat.T, flat)))
