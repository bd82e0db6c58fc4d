r"""Restarted GMRES for a linear operator that is only applied, never formed.

Saad and Schultz (1986): minimize ||b - A x|| over a Krylov space, Givens rotations keeping the
small triangular system. The sup-norm of the true residual is what is tested and reported. There is
no LAPACK in it, so it vmaps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import dot

Array = jax.Array


class KrylovSolution(NamedTuple):
    """Last iterate, and how good it is.

    Attributes:
        value: x, the best iterate, converged or not.
        residual: max |b - A x|.
        num_steps: how often A was applied.
        converged: whether the residual met `tol`.
    """

    value: Array
    residual: Array
    num_steps: Array
    converged: Array


def gmres(
    mv: Callable[[Array], Array],
    b: Array,
    *,
    tol: float | Array,
    restart: int = 30,
    max_cycles: int = 100,
) -> KrylovSolution:
    r"""Solve A x = b to max |b - A x| <= tol (max |b| + 2 max |x|), or say so if it cannot.

    Args:
        mv: x -> A x.
        b: `[n]`.
        tol: relative; no smaller than a few machine epsilons is reachable.
        restart: dimension of the Krylov space, which costs `[restart + 1, n]` memory. Static.
        max_cycles: restarts before giving up. Static.
    """
    restart = min(restart, len(b))

    def target(x):
        return tol * (jnp.abs(b).max() + 2 * jnp.abs(x).max())

    def unfinished(carry):
        x, r, cycle, _, improving = carry
        return (jnp.abs(r).max() > target(x)) & (cycle < max_cycles) & improving

    def cycle(carry):
        x, r, count, steps, _ = carry
        # The inner estimate is in the 2-norm, which bounds the sup-norm from above.
        dx, inner = _cycle(mv, r, restart, 0.5 * target(x))
        new = x + dx
        r_new = b - mv(new)
        better = jnp.linalg.norm(r_new) < jnp.linalg.norm(r)
        x, r_new = jnp.where(better, new, x), jnp.where(better, r_new, r)
        return x, r_new, count + 1, steps + inner + 1, better

    start = (jnp.zeros_like(b), b, jnp.array(0), jnp.array(0), jnp.array(True))
    x, r, _, steps, _ = lax.while_loop(unfinished, cycle, start)
    residual = jnp.abs(r).max()
    return KrylovSolution(x, residual, steps, residual <= target(x))


def _cycle(mv, r, restart, enough):
    """One Krylov space from the residual r: the correction, and the number of products."""
    norm = jnp.linalg.norm(r)
    basis = jnp.zeros((restart + 1, len(r)), r.dtype).at[0].set(r / jnp.where(norm > 0, norm, 1))
    triangle = jnp.eye(restart, dtype=r.dtype)  # columns beyond the last stay those of I
    rotations = jnp.zeros((restart, 2), r.dtype)
    target = jnp.zeros(restart + 1, r.dtype).at[0].set(norm)

    def unfinished(carry):
        k, _, _, _, target = carry
        return (k < restart) & (jnp.abs(target[k]) > enough)

    def extend(carry):
        k, basis, triangle, rotations, target = carry
        w = mv(basis[k])
        h = jnp.zeros(restart + 1, r.dtype)
        for _ in range(2):  # twice is enough for a basis orthogonal to rounding
            overlap = dot(basis, w)
            w = w - dot(overlap, basis)
            h = h + overlap
        norm = jnp.linalg.norm(w)
        basis = basis.at[k + 1].set(w / jnp.where(norm > 0, norm, 1))
        h = h.at[k + 1].set(norm)

        def rotate(j, h):
            c, s = rotations[j]
            return h.at[j].set(c * h[j] + s * h[j + 1]).at[j + 1].set(c * h[j + 1] - s * h[j])

        h = lax.fori_loop(0, k, rotate, h)
        length = jnp.hypot(h[k], h[k + 1])
        length = jnp.where(length > 0, length, 1)
        c, s = h[k] / length, h[k + 1] / length
        h = h.at[k].set(length).at[k + 1].set(0)
        rotations = rotations.at[k].set(jnp.stack([c, s]))
        target = target.at[k + 1].set(-s * target[k]).at[k].set(c * target[k])
        triangle = triangle.at[:, k].set(h[:restart])
        return k + 1, basis, triangle, rotations, target

    start = (jnp.array(0), basis, triangle, rotations, target)
    k, basis, triangle, _, target = lax.while_loop(unfinished, extend, start)
    used = jnp.arange(restart) < k
    y = _substitute_back(triangle, jnp.where(used, target[:restart], 0))
    return dot(y, basis[:restart]), k


def _substitute_back(triangle: Array, right: Array) -> Array:
    """The solution y of an upper triangular system, from its last entry to its first."""
    n = len(right)

    def substitute(i, y):
        j = n - 1 - i
        row = jnp.where(jnp.arange(n) > j, triangle[j] * y, 0)
        return y.at[j].set((right[j] - row.sum()) / triangle[j, j])

    return lax.fori_loop(0, n, substitute, jnp.zeros_like(right))
