r"""Symmetric positive definite systems in plain JAX.

One function: the inverse of the Cholesky factor, W with W M W' = I, so that M^{-1} b = W' (W b).
Halving recursion turns all but the last few rows into matrix products, and what is left is a short
elimination over the whole batch. It has no LAPACK call in it: it batches under vmap, runs on a GPU,
and two of them in one compiled program cannot wait for each other.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import dot
from .twofold import unit_roundoff

Array = jax.Array

# Below this size elimination row by row is faster than halving.
_BASE = 16
# A pivot below this many rounding errors of its diagonal entry is noise.
_NOISE = 4.0


def inverse_cholesky(matrix: Array) -> Array:
    """Lower triangular W with W M W' = I.

    Args:
        matrix: M, symmetric positive definite, `[..., n, n]`.

    Returns:
        `[..., n, n]`; NaN where M is not positive definite.
    """
    n = matrix.shape[-1]
    if n == 0:
        return matrix  # laws of one outcome have nothing to choose
    if n <= _BASE:
        return _eliminate(matrix)
    half = max(_BASE, (n // 2) // _BASE * _BASE)
    corner = inverse_cholesky(matrix[..., :half, :half])
    below = dot(matrix[..., half:, :half], corner.mT)  # L21
    rest = inverse_cholesky(matrix[..., half:, half:] - dot(below, below.mT))
    left = -dot(dot(rest, below), corner)
    top = jnp.concatenate([corner, jnp.zeros_like(left.mT)], -1)
    return jnp.concatenate([top, jnp.concatenate([left, rest], -1)], -2)


def solve_factored(factor: Array, right: Array) -> Array:
    """M^{-1} b from W = `inverse_cholesky(M)`, `[..., n]`."""
    return dot(factor.mT, dot(factor, right[..., None]))[..., 0]


def inverse_cholesky_laplacian(links: Array, ground: Array) -> Array:
    """W of M = diag(ground + links 1) - links, for links, ground >= 0, without a subtraction.

    Each pivot is the sum of what is left of its row (Grassmann, Taksar and Heyman), so every entry
    of W is nonnegative and accurate relative to itself, however near M is to singular.

    Args:
        links: symmetric and nonnegative, `[..., n, n]`; the diagonal is not read.
        ground: nonnegative, `[..., n]`.

    Returns:
        Lower triangular W with W M W' = I, `[..., n, n]`.
    """
    n = links.shape[-1]
    rows = _index(links)
    later = rows.mT

    def step(k, state):
        left, inverse = state  # [..., n, n + 1], the last column is the ground; [..., n, n]
        pivot = lax.dynamic_slice_in_dim(left, k, 1, axis=-2)  # [..., 1, n + 1]
        beyond = jnp.append(later > k, later[..., :1] >= 0, -1)
        total = jnp.where(beyond, pivot, 0).sum(-1, keepdims=True)  # [..., 1, 1]
        column = lax.dynamic_slice_in_dim(left, k, 1, axis=-1)  # [..., n, 1]
        share = jnp.where(rows > k, column / total, 0)
        row = lax.dynamic_slice_in_dim(inverse, k, 1, axis=-2)
        inverse = jnp.where(rows == k, row / jnp.sqrt(total), inverse + share * row)
        return left + share * pivot, inverse

    identity = jnp.broadcast_to(jnp.eye(n, dtype=links.dtype), links.shape)
    left = jnp.concatenate([links, ground[..., None]], -1)
    return lax.fori_loop(0, n, step, (left, identity))[1]


def _eliminate(matrix: Array) -> Array:
    """W by Gaussian elimination of [M | I], every row scaled by the root of its pivot."""
    n = matrix.shape[-1]
    rows = _index(matrix)
    identity = jnp.broadcast_to(jnp.eye(n, dtype=matrix.dtype), matrix.shape)
    # A pivot that is all rounding is taken for infinite: its unknown becomes 0, not noise.
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)[..., None]  # [..., n, 1]
    smallest = _NOISE * unit_roundoff(matrix) * diagonal

    def step(k, both):
        pivot = lax.dynamic_slice_in_dim(both, k, 1, axis=-2)  # [..., 1, 2n]
        column = lax.dynamic_slice_in_dim(both, k, 1, axis=-1)  # [..., n, 1]
        square = lax.dynamic_slice_in_dim(pivot, k, 1, axis=-1)  # [..., 1, 1]
        least = lax.dynamic_slice_in_dim(smallest, k, 1, axis=-2)
        root = jnp.where(square > least, jnp.sqrt(jnp.where(square > least, square, 1)), jnp.inf)
        pivot = pivot / root
        return jnp.where(rows == k, pivot, jnp.where(rows > k, both - column / root * pivot, both))

    both = lax.fori_loop(0, n, step, jnp.concatenate([matrix, identity], -1))
    return both[..., n:]


def _index(matrix: Array) -> Array:
    """Number of each row, `[..1, n, 1]`."""
    n = matrix.shape[-1]
    return jnp.arange(n).reshape((1,) * (matrix.ndim - 2) + (n, 1))
