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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.interior_point import LinearProgram, Solution, free, solve_program, whole

Array = jax.Array

_PRECISION = lax.Precision.HIGHEST
# The share of `tol` that the weight of all rows left out may have.
_NEGLIGIBLE = 1e-3


class SignPrices(NamedTuple):
    """What certifies a lower bound.

    Attributes:
        force: sum_x v_xac x, `[X, C, m]`; the derivative of E in p is mu / 2 times it.
        lower: the bound, in the unknown p and mu linear through `force`.
    """

    force: Array
    lower: Array


@partial(jax.jit, static_argnames="max_steps")
def sign_center(
    points: Array, weights: Array, signs: Array, *, tol: Any, max_steps: int
) -> Solution:
    """The q that minimizes the largest 1/2 sum_ac mu_ac |(p_ac - q_a) x| over the given signs.

    Args:
        points: p, `[X, C, m]`.
        weights: mu, `[X, C]`.
        signs: x, `[R, m]`.
        tol: stop when the bounds are this close.
        max_steps: at most so many interior-point steps. Static.

    Returns:
        A bracket of the minimum over these signs: q `[X, m]` as primal, `SignPrices` as dual.
    """
    num, _, m = points.shape
    # Rows of next to no weight spoil the factors; the program leaves them out, the bound above not.
    counts = weights > _NEGLIGIBLE * tol / weights.size
    half = jnp.where(counts, weights / 2, 0)  # [X, C]
    reach = _dot(points, signs)  # [R, X, C], p x

    def residual(q):
        return half[None] * (reach - _dot(q, signs)[..., None])  # [R, X, C]

    def linear(x):
        move = half[None] * _dot(x["q"], signs)[..., None]
        d = x["d"]
        return {"plus": d + move, "minus": d - move, "t": x["t"] - d.sum((1, 2)), "q": x["q"]}

    there = jnp.broadcast_to(counts, reach.shape)
    present = {"plus": there, "minus": there, "t": jnp.full(len(signs), True)}
    present["q"] = jnp.full((num, m), True)

    def certify(x, _, z):
        q = jnp.maximum(x["q"], 0)
        q = q / q.sum(-1, keepdims=True)
        apart = jnp.abs(reach - _dot(q, signs)[..., None])  # [R, X, C]
        upper = (weights[None] / 2 * apart).sum((1, 2)).max()
        total = z["t"].sum()
        omega = (z["t"] / jnp.where(total > 0, total, 1))[:, None, None]
        v = (z["plus"] - z["minus"]) / jnp.where(total > 0, total, 1)
        v = jnp.clip(v, -omega, omega)
        force = jnp.einsum("rxc,rm->xcm", v, signs, precision=_PRECISION)
        lower = jnp.sum(half[..., None] * force * points)
        lower -= (half[..., None] * force).sum(1).max(-1).sum()
        return upper, lower, q, SignPrices(force, lower)

    program = LinearProgram(
        linear=linear,
        offset={
            "plus": -half[None] * reach,
            "minus": half[None] * reach,
            "t": jnp.zeros(len(signs), points.dtype),
            "q": jnp.zeros((num, m), points.dtype),
        },
        present=present,
        factor=lambda theta: _factor(theta, half, signs),
        certify=certify,
    )
    total = weights.sum(1)[:, None]
    mean = (weights[..., None] * points).sum(1) / jnp.where(total > 0, total, 1)
    mean = jnp.where(total > 0, mean, 1 / m)
    q = (mean + 1 / m) / 2
    d = jnp.abs(residual(q)) + 0.1 * half[None]
    x = {"q": q, "d": d, "t": 1.1 * d.sum((1, 2)).max() + 0.01}
    omega = jnp.full(len(signs), 1 / len(signs), points.dtype)
    z = {
        "plus": jnp.where(there, omega[:, None, None] / 2, 0),
        "minus": jnp.where(there, omega[:, None, None] / 2, 0),
        "t": omega,
        "q": jnp.full((num, m), 0.1 / num, points.dtype),
    }
    guess = certify({"q": mean}, None, {"t": omega, "plus": 0 * d, "minus": 0 * d})
    guess = (guess[0], jnp.maximum(guess[1], 0), *guess[2:])
    return solve_program(program, x, z, guess, tol=tol, max_steps=max_steps)


def _dot(p: Array, signs: Array) -> Array:
    """p x for every sign vector, `[R, ..]`."""
    return jnp.moveaxis(jnp.matmul(p, signs.T, precision=_PRECISION), -1, 0)


def _factor(theta: dict, half: Array, signs: Array):
    """Solver of dz + theta G dx = pull, G'dz = 0, every d first.

    With u = half q x: sum and difference a, b of the two weights of d leave 4 theta theta' / a of
    u, and what the sign x needs together, f, acts through b / a.
    """
    plus, minus = theta["plus"], theta["minus"]
    a = plus + minus
    there = a > 0
    inverse = jnp.where(there, 1 / jnp.where(there, a, 1), 0)
    tilt = (plus - minus) * inverse  # [R, X, C]
    stiff = 4 * plus * minus * inverse
    slack_t = 1 / theta["t"]
    grip = 1 / (slack_t + inverse.sum((1, 2)))  # [R]
    num, m = theta["q"].shape
    size = num * (m - 1)
    axes = free(signs, -1)  # [R, m - 1]
    block = jnp.einsum(
        "rx,rm,rn->xmn", (half[None] ** 2 * stiff).sum(2), axes, axes, precision=_PRECISION
    )
    block += jax.vmap(lambda row: free(free(jnp.diag(row), -1), -2))(theta["q"])
    every = jnp.arange(num)
    shared = jnp.zeros((num, m - 1, num, m - 1), half.dtype).at[every, :, every].set(block)
    lever = (half[None] * tilt).sum(2)[..., None] * axes[:, None]  # [R, X, m - 1]
    lever = jnp.append(lever.reshape(len(signs), size), jnp.ones((len(signs), 1), half.dtype), 1)
    pulled = jnp.matmul(lever.T, grip[:, None] * lever, precision=_PRECISION)
    factor = inverse_cholesky(pulled.at[:size, :size].add(shared.reshape(size, size)))

    def solve(pull):
        both, apart = pull["plus"] + pull["minus"], pull["plus"] - pull["minus"]
        gap = (both * inverse).sum((1, 2)) + slack_t * pull["t"]  # [R]
        push = (half[None] * (apart - tilt * both)).sum(2)  # [R, X]
        right = jnp.einsum("rx,rm->xm", push, axes, precision=_PRECISION)
        right = right + free(pull["q"], -1)
        right = jnp.append(right.reshape(-1), 0.0) + (grip * gap) @ lever

        def refine(_, found):
            y, f = found
            u = half[None] * _dot(whole(y[:size].reshape(num, m - 1)), signs)[..., None]
            miss_f = f / grip - (y[-1] + (tilt * u).sum((1, 2)) - gap)
            pushed = (half[None] * (stiff * u)).sum(2)
            left = jnp.einsum("rx,rm->xm", pushed, axes, precision=_PRECISION)
            left = left + free(theta["q"] * whole(y[:size].reshape(num, m - 1)), -1)
            miss_y = right - (grip * gap) @ lever - jnp.append(left.reshape(-1), 0.0) - f @ lever
            dy = solve_factored(factor, miss_y + (grip * miss_f) @ lever)
            df = grip * (lever @ dy - miss_f)
            return y + dy, f + df

        y, f = lax.fori_loop(0, 2, refine, (jnp.zeros(size + 1, half.dtype), jnp.zeros_like(grip)))
        q = whole(y[:size].reshape(num, m - 1))
        u = half[None] * _dot(q, signs)[..., None]
        d = inverse * (both + f[:, None, None] - (plus - minus) * u)
        dz = {
            "plus": pull["plus"] - plus * (d + u),
            "minus": pull["minus"] - minus * (d - u),
            "t": -f,
            "q": pull["q"] - theta["q"] * q,
        }
        return {"q": q, "d": d, "t": y[-1]}, dz

    return solve
