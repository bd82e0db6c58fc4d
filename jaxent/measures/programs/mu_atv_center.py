r"""The local transition nearest in the mu-weighted agent-wise distance of Def. 8, exactly.

    E_i = min_q max_x 1/2 sum_ac mu_ac |(p_ac - q_a) x|,   x over sign vectors,

where a is the local pair, c the rest of the joint pair, p_ac the law of the next local pair. With
the signs listed it is a linear program in q, d and t,

    min t  s.t.  t >= sum_ac d_xac,  d_xac >= |r_xac|,  r_xac = 1/2 mu_ac (p_ac - q_a) x,  q >= 0.

For weights omega on the signs and any v with |v_xac| <= omega_x,

    sum v_xac mu_ac p_ac x / 2 - sum_a max_k sum_xc v_xac mu_ac x_k / 2

is a lower bound. The interior-point step eliminates every d and is left with a system in q and t.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ...numerics.arrays import block_diagonal, both_signs, dot, einsum, pairwise_sum, ratio
from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.compiled import jit
from ...numerics.interior_point import (
    Bracket,
    LinearProgram,
    Solution,
    Solver,
    Vector,
    solve_program,
)
from ...numerics.simplex import free, free_form, whole
from ...numerics.twofold import in_twofold

Array = jax.Array

# The share of `tol` that the weight of all rows left out may have.
_NEGLIGIBLE = 1e-3
# Solves of one system: the first, and one of what rounding left of it.
_NUM_SOLVES = 2


class SignPrices(NamedTuple):
    """What certifies a lower bound.

    Attributes:
        force: sum_x v_xac x, `[X, C, m]`; the derivative of E in p is mu / 2 times it.
        lower: the bound, in the unknown p and mu linear through `force`.
    """

    force: Array
    lower: Array


@jit
def sign_center(
    points: Array, weights: Array, signs: Array, *, tol: float | Array, max_steps: int | Array
) -> Solution:
    """The q that minimizes the largest 1/2 sum_ac mu_ac |(p_ac - q_a) x| over the given signs.

    Args:
        points: p, `[X, C, m]`.
        weights: mu, `[X, C]`.
        signs: x, `[R, m]`.
        tol: stop when the bounds are this close.
        max_steps: the most interior-point steps.

    Returns:
        A bracket of the minimum over these signs: q `[X, m]` as primal, `SignPrices` as dual.
    """
    assert weights.shape == points.shape[:2]
    assert signs.shape[1:] == points.shape[2:]
    # Rows of next to no weight spoil the factors, so the program leaves them out; the upper bound
    # still counts them.
    half = jnp.where(weights > _NEGLIGIBLE * tol / weights.size, weights / 2, 0)  # [X, C]
    program = _program(points, weights, signs, half)
    mean = ratio((weights[..., None] * points).sum(1), weights.sum(1)[:, None], 1 / points.shape[2])
    x, z = _start(program, mean, signs, half), _multipliers(program)
    guess = program.certify({"q": mean}, z | {"sides": 0 * z["sides"]})
    guess = guess._replace(lower=jnp.maximum(guess.lower, 0))
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps)


def _program(points: Array, weights: Array, signs: Array, half: Array) -> LinearProgram:
    reach = _seen(points, signs)  # [R, X, C]

    def linear(x):
        d, move = x["d"], half[None] * _seen(x["q"], signs)[..., None]
        sides = d[None] + both_signs(move)
        return {"sides": sides, "t": x["t"] - d.sum((1, 2)), "q": x["q"]}

    def certify(x, z):
        q = jnp.maximum(x["q"], 0)
        q = q / q.sum(-1, keepdims=True)
        apart = jnp.abs(reach - _seen(q, signs)[..., None])  # [R, X, C]
        upper = pairwise_sum(weights[None] / 2 * apart, 2).max()
        total = z["t"].sum()
        scale = jnp.where(total > 0, total, 1)
        omega = (z["t"] / scale)[:, None, None]
        v = jnp.clip((z["sides"][0] - z["sides"][1]) / scale, -omega, omega)
        force = einsum("rxc,rm->xcm", v, signs)
        paid = half[..., None] * force
        lower = pairwise_sum(paid * points, 3) - paid.sum(1).max(-1).sum()
        return Bracket(upper, lower, q, SignPrices(force, lower))

    offset = {
        "sides": -both_signs(half[None] * reach),
        "t": jnp.zeros(len(signs), points.dtype),
        "q": jnp.zeros_like(points[:, 0]),
    }
    present = {name: jnp.full(h.shape, True) for name, h in offset.items()}
    present["sides"] = jnp.broadcast_to(half > 0, (2, *reach.shape))
    factor = in_twofold(partial(_factor, signs, half))
    return LinearProgram(linear, offset, present, factor, certify)


def _start(program: LinearProgram, mean: Array, signs: Array, half: Array) -> Vector:
    """A strictly feasible point, with q near the mean law."""
    q = (mean + 1 / mean.shape[1]) / 2
    apart = program.offset["sides"][1] - half[None] * _seen(q, signs)[..., None]
    d = jnp.abs(apart) + 0.1 * half[None]
    return {"q": q, "d": d, "t": 1.1 * d.sum((1, 2)).max() + 0.01}


def _multipliers(program: LinearProgram) -> Vector:
    """Positive multipliers with G'z = c, the same for every sign vector."""
    t, q = program.offset["t"], program.offset["q"]
    omega = jnp.full_like(t, 1 / len(t))
    each = jnp.where(program.present["sides"], omega[None, :, None, None] / 2, 0)
    return {"sides": each, "t": omega, "q": jnp.full_like(q, 0.1 / len(q))}


def _seen(p: Array, signs: Array) -> Array:
    """p x for every sign vector, `[R, ..]`."""
    return jnp.moveaxis(dot(p, signs.T), -1, 0)


class _Moduli(NamedTuple):
    """What is left once every d is eliminated, with theta, theta' the two weights of each.

    Attributes:
        inverse: 1 / (theta + theta'), `[R, X, C]`.
        tilt: (theta - theta') / (theta + theta'), `[R, X, C]`.
        stiff: 4 theta theta' / (theta + theta'), the weight of u = 1/2 mu q x, `[R, X, C]`.
        slack: 1 over the weight of t >= sum d, `[R]`.
        grip: the weight of t + sum tilt u, `[R]`.
    """

    inverse: Array
    tilt: Array
    stiff: Array
    slack: Array
    grip: Array


def _eliminate(theta: Vector) -> _Moduli:
    plus, minus = theta["sides"]
    inverse = ratio(1, plus + minus)
    slack = 1 / theta["t"]
    grip = 1 / (slack + inverse.sum((1, 2)))
    return _Moduli(inverse, (plus - minus) * inverse, 4 * plus * minus * inverse, slack, grip)


def _factor_shared(
    theta: Vector, moduli: _Moduli, signs: Array, half: Array
) -> tuple[Array, Array]:
    """How t + sum tilt u depends on y = (q, t), `[R, X (m - 1) + 1]`, and the factored system in y.

    Rows of q sum to 1, so of each the last entry follows from the others.
    """
    axes = free(signs, -1)  # [R, m - 1]
    lever = (half[None] * moduli.tilt).sum(2)[..., None] * axes[:, None]  # [R, X, m - 1]
    lever = jnp.append(lever.reshape(len(signs), -1), jnp.ones((len(signs), 1), half.dtype), 1)
    own = einsum("rx,rm,rn->xmn", (jnp.square(half)[None] * moduli.stiff).sum(2), axes, axes)
    own += jax.vmap(lambda row: free_form(jnp.diag(row)))(theta["q"])
    system = dot(lever.T, moduli.grip[:, None] * lever)
    return lever, inverse_cholesky(system + jnp.pad(block_diagonal(own), (0, 1)))


def _factor(signs: Array, half: Array, theta: Vector) -> Solver:
    """Solver of dz + theta G dx = pull, G'dz = 0: every d first, then f, then y = (q, t)."""
    moduli = _eliminate(theta)
    lever, factor = _factor_shared(theta, moduli, signs, half)
    return Partial(_solve, signs, half, theta, moduli, lever, factor)


def _solve(
    signs: Array,
    half: Array,
    theta: Vector,
    moduli: _Moduli,
    lever: Array,
    factor: Array,
    pull: Vector,
    exact: Array,
) -> tuple[Vector, Vector]:
    """The step; -f is the change of the multipliers of t >= sum d."""
    inverse, tilt, stiff, slack, grip = moduli
    num, m = theta["q"].shape

    def moved(y):
        """q and u = 1/2 mu q x."""
        q = whole(y[:-1].reshape(num, m - 1))
        return q, half[None] * _seen(q, signs)[..., None]

    def gather(push, on_q):
        """What pushes on u and on q do to y; t is not moved."""
        pushed = einsum("rx,rm->xm", (half[None] * push).sum(2), free(signs, -1))
        return jnp.append((pushed + free(on_q, -1)).reshape(-1), 0.0)

    plus, minus = pull["sides"]
    both, apart = plus + minus, plus - minus
    gap = (both * inverse).sum((1, 2)) + slack * pull["t"]  # [R]
    right = gather(apart - tilt * both, pull["q"])

    def correct(_, found):
        y, f = found
        q, u = moved(y)
        miss_f = f / grip - (y[-1] + (tilt * u).sum((1, 2)) - gap)
        miss_y = right - gather(stiff * u, theta["q"] * q) - dot(f, lever)
        dy = solve_factored(factor, miss_y + dot(grip * miss_f, lever))
        return y + dy, f + grip * (dot(lever, dy) - miss_f)

    nothing = (jnp.zeros_like(lever[0]), jnp.zeros_like(grip))
    y, f = lax.fori_loop(0, jnp.where(exact, _NUM_SOLVES, 1), correct, nothing)
    q, u = moved(y)
    d = inverse * (both + f[:, None, None]) - tilt * u
    dz = {
        "sides": pull["sides"] - theta["sides"] * (d[None] + both_signs(u)),
        "t": -f,
        "q": pull["q"] - theta["q"] * q,
    }
    return {"q": q, "d": d, "t": y[-1]}, dz
