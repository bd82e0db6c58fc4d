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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ...numerics.cholesky import inverse_cholesky, inverse_cholesky_laplacian, solve_factored
from ...numerics.interior_point import LinearProgram, Solution, free, notable, solve_program, whole

# The first solve, and how often its error is solved for again.
_REFINEMENTS = 2
_PRECISION = lax.Precision.HIGHEST


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
    joint: Array, rows: Array, *, minimax: bool, tol: Any, max_steps: int
) -> Solution:
    """Nearest separable chain in TV, or in mu-TV.

    Args:
        joint: p, the chain by pairs of pairs, `[A, B, K, L]`.
        rows: which rows count, bool `[A, B]`, for the maximum; mu, `[A, B]`, for the sum.
        minimax: the maximum over rows, or the sum weighted by mu. Static.
        tol: stop when the bounds are this close.
        max_steps: at most so many interior-point steps. Static.

    Returns:
        A bracket of the minimum with a `Separable` as primal and `Prices` as dual.
    """
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
    upper, lower, primal, dual = program.certify(first, None, nothing)
    guess = (upper, jnp.maximum(lower, 0), primal, dual)
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
    kept = kept * jnp.minimum(1, _ratio(q_a[:, None], rows))[..., None]
    columns = kept.sum(2)  # [A, B, L]
    kept = kept * jnp.minimum(1, _ratio(q_b[None], columns))[..., None, :]
    # Not 1 - sum(kept): the rest of p keeps its accuracy where the distance is near 0.
    return (joint - kept).sum((2, 3)), Separable((q_a, q_b), kept)


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 1)


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


def _start(joint: Array, counts: Array, minimax: bool) -> dict:
    """A strictly feasible point: marginals near the mean ones, a share of p small enough."""
    q_a, q_b = (_mean(joint, counts, name) for name in "ab")
    q_a = (q_a + 1 / q_a.shape[-1]) / 2
    q_b = (q_b + 1 / q_b.shape[-1]) / 2
    room = jnp.minimum(
        _ratio(q_a[:, None], joint.sum(3)).min(-1), _ratio(q_b[None], joint.sum(2)).min(-1)
    )  # [A, B]
    kept = jnp.where(notable(joint), joint, 0) * (0.5 * jnp.minimum(room, 1))[..., None, None]
    x = {"kept": kept, "a": q_a, "b": q_b}
    if minimax:
        x["t"] = 1.1 - jnp.where(counts, kept.sum((2, 3)), 1).min()
    return x


def _multipliers(weight: Array, shape: tuple[int, ...], present: dict) -> dict:
    """Positive multipliers with G'z = c."""
    num_a, num_b, k, l = shape
    unit = weight.mean() / 4
    alpha = jnp.broadcast_to(unit, (num_a, num_b, k))
    beta = jnp.broadcast_to(unit, (num_a, num_b, l))
    excess = _excess(Prices(weight, alpha, beta))
    top = jnp.maximum(excess, 0) + unit
    z = {
        "zero": top - excess,
        "cap": top,
        "row": alpha,
        "column": beta,
    }
    if "t" in present:
        z["t"] = weight
    return {name: jnp.where(present[name], z[name], 0) for name in z}


def _program(joint: Array, weight: Array, counts: Array, minimax: bool) -> LinearProgram:
    num_a, num_b, k, l = joint.shape
    dtype = joint.dtype
    there = notable(joint)

    def linear(x):
        kept = x["kept"]
        out = {
            "zero": kept,
            "cap": -kept,
            "row": x["a"][:, None] - kept.sum(3),
            "column": x["b"][None] - kept.sum(2),
        }
        if minimax:
            out["t"] = kept.sum((2, 3)) + x["t"]
        return out

    offset = {
        "zero": jnp.zeros_like(joint),
        "cap": joint,
        "row": jnp.zeros((num_a, num_b, k), dtype),
        "column": jnp.zeros((num_a, num_b, l), dtype),
    }
    if minimax:
        offset["t"] = -jnp.ones((num_a, num_b), dtype)
    present = {name: jnp.full(h.shape, True) for name, h in offset.items()}
    present |= {"zero": there, "cap": there} | ({"t": counts} if minimax else {})

    def certify(x, _, z):
        q_a, q_b = x["a"], x["b"]
        loss, primal = _fit(
            joint, x["kept"], q_a / q_a.sum(-1, keepdims=True), q_b / q_b.sum(-1, keepdims=True)
        )
        total = z["t"].sum() if minimax else 1
        total = jnp.where(total > 0, total, 1)
        row = z["t"] / total if minimax else weight
        prices = Prices(row, z["row"] / total, z["column"] / total)
        upper = jnp.where(counts, loss, 0).max() if minimax else jnp.sum(weight * loss)
        return upper, dual_value(joint, prices), primal, prices

    return LinearProgram(linear, offset, present, _factor, certify)


def _factor(theta: dict):
    """Solver of G' diag(theta) G dx = rhs: rows of the joint chain first, then q_A, then q_B, t.

    Row ab holds diag(1/v) + B'TB for w, B its sums (rows, columns, and minus the total for t), T
    the weights theta of these. With N = (1/T + B diag(v) B')^{-1}, w = v (rho + B'N(Ey - Bv rho))
    given the shared y = (q_A, q_B, t), and N is what row ab adds to the system in y.
    """
    minimax = "t" in theta
    slack_t = 0 * theta["row"][..., 0]
    diagonal = theta["zero"] + theta["cap"]
    v = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1), 0)
    slack_a, slack_b = 1 / theta["row"], 1 / theta["column"]
    num_a, num_b, k, l = v.shape
    # H = [diag(a) v; v' diag(b)] is a Laplacian up to signs: its inverse needs no subtraction.
    top = v.sum(3) + slack_a  # [A, B, K]
    by_row = v / top[..., None]
    links = _mm(_t(by_row), v)  # [A, B, L, L]
    w = inverse_cholesky_laplacian(links, slack_b + _mv(_t(by_row), slack_a))
    bb = _mm(_t(w), w)
    ab = -_mm(by_row, bb)
    aa = -_mm(ab, _t(by_row)) + jnp.eye(k, dtype=v.dtype)[None, None] / top[..., None]
    if minimax:
        # Border by the total: H^{-1} (B v), again from sums alone.
        ha, hb = -_mv(ab, slack_b), -_mv(_t(ab), slack_a)
        counts = theta["t"] > 0
        slack_t = jnp.where(counts, 1 / jnp.where(counts, theta["t"], 1), 0)
        pivot = jnp.where(counts, slack_t + (slack_a * ha).sum(-1), 1)
        tt = jnp.where(counts, 1 / pivot, 0)
        ta, tb = ha * tt[..., None], hb * tt[..., None]
        aa += ta[..., :, None] * ha[..., None, :]
        ab += ta[..., :, None] * hb[..., None, :]
        bb += tb[..., :, None] * hb[..., None, :]

    def apply(fa, fb, ft):
        """N f for every row of the joint chain."""
        ga = _mv(aa, fa) + _mv(ab, fb)
        gb = _mv(_t(ab), fa) + _mv(bb, fb)
        if not minimax:
            return ga, gb, 0 * ft
        ga, gb = ga + ta * ft[..., None], gb + tb * ft[..., None]
        return ga, gb, (ta * fa).sum(-1) + (tb * fb).sum(-1) + tt * ft

    # Rows of q sum to 1, so of each the last entry follows from the others.
    w_a = inverse_cholesky(free(free(aa.sum(1), -1), -2))  # [A, K - 1, K - 1]
    cross = free(free(ab, -1), -2)  # [A, B, K - 1, L - 1]
    cross = jnp.moveaxis(cross, 2, 1).reshape(num_a, k - 1, num_b * (l - 1))
    shared = jnp.zeros((num_b, l - 1, num_b, l - 1), v.dtype)
    every = jnp.arange(num_b)
    shared = shared.at[every, :, every].add(free(free(bb.sum(0), -1), -2))
    shared = shared.reshape(num_b * (l - 1), num_b * (l - 1))
    if minimax:
        cross = jnp.concatenate([cross, free(ta.sum(1), -1)[..., None]], -1)
        edge = free(tb.sum(0), -1).reshape(-1, 1)
        shared = jnp.block([[shared, edge], [edge.T, tt.sum()[None, None]]])
    half = _mm(w_a, cross)  # [A, K - 1, B * (L - 1) (+ 1)]
    flat = half.reshape(num_a * (k - 1), half.shape[-1])
    w_b = inverse_cholesky(shared - _mm(flat.T, flat))

    def meet(ga, gb, gt, ra, rb, rt):
        """y and f = N(Ey + g) with E'f = r: what is left of the equations once w is gone."""
        na, nb, nt = apply(ga, gb, gt)
        right_a = free(ra - na.sum(1), -1)  # [A, K - 1]
        right_b = free(rb - nb.sum(0), -1).reshape(-1)
        if minimax:
            right_b = jnp.append(right_b, rt - nt.sum())
        half_a = _mv(w_a, right_a)
        y_b = solve_factored(w_b, right_b - _mv(flat.T, half_a.reshape(-1)))
        y_a = whole(_mv(_t(w_a), half_a - _mv(half, y_b[None])))
        y_t = y_b[-1] if minimax else 0 * ga[0, 0, 0]
        y_b = whole(y_b[: num_b * (l - 1)].reshape(num_b, l - 1))
        return y_a, y_b, y_t, *apply(y_a[:, None] + ga, y_b[None] + gb, y_t + gt)

    def solve(pull):
        rho = pull["zero"] - pull["cap"]
        pull_t = pull["t"] if minimax else 0 * v[..., 0, 0]

        def spread(fa, fb, ft):
            return v * (rho + fa[..., None] + fb[..., None, :] - ft[..., None, None])

        def refine(_, found):
            ya, yb, yt, fa, fb, ft = found
            kept = spread(fa, fb, ft)
            change = meet(
                slack_a * (fa + pull["row"]) + kept.sum(3) - ya[:, None],
                slack_b * (fb + pull["column"]) + kept.sum(2) - yb[None],
                slack_t * (ft + pull_t) - kept.sum((2, 3)) - yt,
                -fa.sum(1),
                -fb.sum(0),
                -ft.sum(),
            )
            return jax.tree.map(jnp.subtract, found, change)

        row, column, total = 0 * pull["row"], 0 * pull["column"], 0 * v[..., 0, 0]
        nothing = (row[:, 0], column[0], total[0, 0], row, column, total)
        ya, yb, yt, fa, fb, ft = lax.fori_loop(0, _REFINEMENTS, refine, nothing)
        dx = {"a": ya, "b": yb, "kept": spread(fa, fb, ft)}
        dz = {
            "zero": pull["zero"] - theta["zero"] * dx["kept"],
            "cap": pull["cap"] + theta["cap"] * dx["kept"],
            "row": -fa,
            "column": -fb,
        }
        return (dx | {"t": yt}, dz | {"t": -ft}) if minimax else (dx, dz)

    return solve


def _mm(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_PRECISION)


def _mv(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b[..., None], precision=_PRECISION)[..., 0]


def _t(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)
