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

# Restarts before giving up; and where there is another way, which then costs about as much.
CYCLES, FEW_CYCLES = 100, 4


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
    max_cycles: int = CYCLES,
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

    def step(c: _Search) -> _Search:
        # One product a step, so that A stands in the program once: with the last direction of the
        # space or, where a space has just been left, with the trial that came out of it.
        tried = c.space.size < 0
        product = mv(jnp.where(tried, c.trial, c.space.basis[jnp.maximum(c.space.size, 0)]))
        better = tried & (jnp.linalg.norm(b - product) < jnp.linalg.norm(c.r))
        x, r = jnp.where(better, c.trial, c.x), jnp.where(better, b - product, c.r)
        cycle = c.cycle + tried
        going = ~tried | (better & (jnp.abs(r).max() > target(x)) & (cycle < max_cycles))
        space = grown(c.space, jnp.where(tried, r, product))
        # What is left is in the 2-norm, which bounds the sup-norm from above.
        done = (space.size == restart) | (left_over(space) <= 0.5 * target(x))
        trial = lax.cond(done, lambda: x + correction(space), lambda: c.trial)
        space = space._replace(size=jnp.where(done, -1, space.size))
        return _Search(space, x, r, trial, cycle, c.num_steps + 1, going)

    x, zero = jnp.zeros_like(b), jnp.array(0)
    start = _Search(new_space(b, restart), x, b, x, zero, zero, jnp.abs(b).max() > target(x))
    found = lax.while_loop(lambda c: c.going, step, start)
    residual = jnp.abs(found.r).max()
    return KrylovSolution(found.x, residual, found.num_steps, residual <= target(found.x))


class Space(NamedTuple):
    """A Krylov space of a residual, with the least squares problem on it kept triangular.

    Attributes:
        size: number of its directions that A was applied to; -1 where it is to be made anew.
        basis: orthonormal directions, `[restart + 1, n]`.
        rotation: product of the Givens rotations, `[restart + 1, restart + 1]`.
        triangle: rotated projection of A, `[restart, restart]`; columns to come are those of I.
        norm: 2-norm of the residual.
    """

    size: Array
    basis: Array
    rotation: Array
    triangle: Array
    norm: Array


class _Search(NamedTuple):
    """The space, the best x with its residual r, what is to be tried, and counts."""

    space: Space
    x: Array
    r: Array
    trial: Array
    cycle: Array
    num_steps: Array
    going: Array


def new_space(r: Array, restart: int) -> Space:
    """The space of a residual r before any product, for that many of them."""
    norm = jnp.linalg.norm(r)
    basis = jnp.zeros((restart + 1, len(r)), r.dtype)
    return Space(
        jnp.array(0),
        basis.at[0].set(r / jnp.where(norm > 0, norm, 1)),
        jnp.eye(restart + 1, dtype=r.dtype),
        jnp.eye(restart, dtype=r.dtype),
        norm,
    )


def grown(space: Space, w: Array) -> Space:
    """The space with the product w of its last direction, or made anew from the residual w."""
    size, basis, rotation, triangle, norm = space
    anew, k, index = size < 0, jnp.maximum(size, 0), jnp.arange(len(basis))

    def orthogonalize(_, carry):
        w, h = carry
        overlap = jnp.where(index <= size, dot(basis, w), 0)
        return w - dot(overlap, basis), h + overlap

    # Twice is enough for a basis orthogonal to rounding.
    w, h = lax.fori_loop(0, 2, orthogonalize, (w, jnp.zeros(len(basis), w.dtype)))
    length = jnp.linalg.norm(w)
    basis = basis.at[size + 1].set(w / jnp.where(length > 0, length, 1))

    h = dot(rotation, jnp.where(index == k + 1, length, h))
    corner = jnp.hypot(h[k], h[k + 1])
    c, s = (h[j] / jnp.where(corner > 0, corner, 1) for j in (k, k + 1))
    upper, lower = rotation[k], rotation[k + 1]
    here, below = index[:, None] == k, index[:, None] == k + 1
    rotation = jnp.where(here, (c * upper + s * lower)[None], rotation)
    rotation = jnp.where(below, (c * lower - s * upper)[None], rotation)
    column = jnp.where(index < k, h, jnp.where(index == k, jnp.where(corner > 0, corner, 1), 0))
    triangle = jnp.where(index[None, :-1] == k, column[:-1, None], triangle)
    fresh = [jnp.eye(len(x), dtype=x.dtype) for x in (rotation, triangle)]
    rotation, triangle = (
        jnp.where(anew, one, x) for one, x in zip(fresh, (rotation, triangle), strict=True)
    )
    return Space(size + 1, basis, rotation, triangle, jnp.where(anew, length, norm))


def left_over(space: Space) -> Array:
    """The 2-norm of the residual that the space leaves."""
    return jnp.abs(space.norm * space.rotation[space.size, 0])


def residual_of(space: Space) -> Array:
    """The residual that the space leaves, `[n]`, without a product with A."""
    last = space.rotation[space.size]  # beyond the triangle: orthogonal to all that A can reach
    return space.norm * last[0] * dot(last, space.basis)


def correction(space: Space) -> Array:
    """What the space adds to x: the combination of its directions that leaves the least."""
    used = jnp.arange(len(space.triangle)) < space.size
    y = _substitute_back(space.triangle, jnp.where(used, space.norm * space.rotation[:-1, 0], 0))
    return dot(y, space.basis[:-1])


def _substitute_back(triangle: Array, right: Array) -> Array:
    """The solution y of an upper triangular system, from its last entry to its first."""
    n = len(right)

    def substitute(i, y):
        j = n - 1 - i
        row = jnp.where(jnp.arange(n) > j, triangle[j] * y, 0)
        return y.at[j].set((right[j] - row.sum()) / triangle[j, j])

    return lax.fori_loop(0, n, substitute, jnp.zeros_like(right))
