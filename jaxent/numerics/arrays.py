"""What is done to arrays everywhere, each said once: exact products, safe quotients, dtypes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

Array = jax.Array

# Products that feed a tolerance: an accelerator's fast modes would keep three digits.
HIGHEST = lax.Precision.HIGHEST


def dot(a: Array, b: Array) -> Array:
    """The matrix product a b, in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


def matvec(a: Array, x: Array) -> Array:
    """The products a x of matrices `[..., m, n]` and vectors `[..., n]`, in full precision."""
    return dot(a, x[..., None])[..., 0]


def einsum(*operands: Array | np.ndarray | str | Sequence[int]) -> Array:
    """`jnp.einsum` in full precision, with a string of indices first or lists of axes between."""
    return jnp.einsum(*operands, precision=HIGHEST)


def block_diagonal(blocks: Array) -> Array:
    """The matrix `[k n, k n]` with these blocks `[k, n, n]` on its diagonal, 0 elsewhere."""
    number, size, _ = blocks.shape
    every = jnp.arange(number)
    matrix = jnp.zeros((number, size, number, size), blocks.dtype).at[every, :, every].set(blocks)
    return matrix.reshape(number * size, number * size)


def ratio(a: Array | float, b: Array, otherwise: Array | float = 0) -> Array:
    """a / b where b > 0, `otherwise` elsewhere; derivatives are finite in both places."""
    there = b > 0
    return jnp.where(there, a / jnp.where(there, b, 1), otherwise)


def both_signs(x: Array) -> Array:
    """x and -x, `[2, ...]`; a product, since XLA on a CPU looks up every entry of what it joins."""
    signs = jnp.array([1, -1], x.dtype)
    return signs.reshape(2, *(1,) * x.ndim) * x[None]


def relative(error: Array, scale: Array) -> Array:
    """Error over scale; 0 where both are 0, as they are where nothing is paid."""
    nothing = (error == 0) & (scale == 0)
    return jnp.where(nothing, 0, error / jnp.where(nothing, 1, scale))


def nan_unless(valid: Array, value: Array) -> Array:
    """The value, or NaN. Multiplied, not selected, so that derivatives are NaN as well."""
    return value * jnp.where(valid, 1.0, jnp.nan).astype(value.dtype)


def as_float(array: ArrayLike) -> Array:
    """The array in its own float dtype; integers, lists and the like in JAX's default float."""
    dtype = jnp.result_type(jnp.asarray(array))
    return jnp.asarray(
        array, dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    )
