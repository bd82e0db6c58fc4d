"""What is done to arrays everywhere, each said once: exact products, safe quotients, dtypes.

Arguments that are lists or data frames become arrays by `takes_arrays`, wherever arrays are asked
for.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import isclass, signature
from math import log2
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import concrete

Array = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray
Scalar: TypeAlias = ArrayLike | float | int
_Taker = TypeVar("_Taker", bound=Callable[..., Any])

# So many terms are added one after the other.
_IN_ORDER = 8
# Products that feed a tolerance: an accelerator's fast modes would keep three digits.
HIGHEST = lax.Precision.HIGHEST


def dot(a: Array, b: Array) -> Array:
    """The matrix product a b, in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


def matvec(a: Array, x: Array) -> Array:
    """The products a x of matrices `[..., m, n]` and vectors `[..., n]`, in full precision."""
    return dot(a, x[..., None])[..., 0]


def pairwise_sum(x: Array, num_axes: int) -> Array:
    """The sum over the last axes, halves added to halves, so that n terms err like log2(n) do."""
    x = x.reshape(*x.shape[: x.ndim - num_axes], -1)
    while x.shape[-1] > _IN_ORDER:
        half = -(-x.shape[-1] // 2)
        rest = x[..., half:]
        room = [(0, 0)] * (x.ndim - 1) + [(0, half - rest.shape[-1])]
        x = x[..., :half] + jnp.pad(rest, room)
    return x.sum(-1)


def rounding(dtype: Any, terms: int) -> float:
    """What rounding does to a `pairwise_sum` of so many terms, as a share of their absolute sum.

    Twice the bound of Higham (2002), Sec. 4.2, so that the terms may be a few operations old.
    """
    return (_IN_ORDER + log2(max(terms, 1))) * float(jnp.finfo(dtype).eps)


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


def as_float(array: Any) -> Array:
    """The array in its own float dtype; integers, lists and the like in JAX's default float."""
    dtype = jnp.result_type(jnp.asarray(array))
    return jnp.asarray(
        array, dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    )


def as_array(name: str, value: Any) -> Any:
    """An array of a list, a tuple or a data frame; anything else, named tuples too, as it is.

    Raises:
        ValueError: for rows that differ in length, or an entry that is no number.
    """
    if hasattr(value, "_fields"):
        return value
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if not isinstance(value, (list, tuple)) and getattr(value, "dtype", None) != np.dtype("O"):
        return value
    if not concrete(value):
        return jnp.asarray(value)
    try:
        array = np.asarray(value)
        return array if array.dtype.kind in "biufc" else array.astype(float)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: is no array of numbers; wanted rows of one length, and numbers alone"
        ) from None


def takes_arrays(*names: str, each: Sequence[str] = ()) -> Callable[[_Taker], _Taker]:
    """Take lists and data frames where these arguments, or each entry of those, are arrays.

    For functions, and for classes whose fields are their arguments.
    """

    def convert(name: str, value: Any) -> Any:
        if name in names:
            return as_array(name, value)
        if name in each and isinstance(value, (list, tuple)):
            return tuple(as_array(f"{name}[{i}]", entry) for i, entry in enumerate(value))
        return value

    def decorate(taker: _Taker) -> _Taker:
        order = tuple(signature(taker).parameters)

        def converted(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            known = [convert(name, value) for name, value in zip(order, args, strict=False)]
            rest = {name: convert(name, value) for name, value in kwargs.items()}
            return (*known, *args[len(known) :]), rest

        def wrap(make: Callable[..., Any], skip: int) -> Callable[..., Any]:
            @wraps(make)
            def call(*args: Any, **kwargs: Any) -> Any:
                given, rest = converted(args[skip:], kwargs)
                return make(*args[:skip], *given, **rest)

            return call

        kind: Any = taker
        if not isclass(taker):
            return wrap(kind, 0)  # type: ignore[return-value]
        if hasattr(kind, "_make"):  # a named tuple
            kind.__new__ = wrap(kind.__new__, 1)
            kind._make = classmethod(lambda cls, values: cls(*values))  # as `_replace` does
        else:
            kind.__init__ = wrap(kind.__init__, 1)
        return kind

    return decorate
