"""Checks of arguments: shapes while tracing, values at the edges.

Shapes and static numbers are known while tracing, so a wrong one raises there. Values are known
only outside a trace: `concrete` says whether they are, and a value check of a tracer passes (inside
jit the answer is NaN and a flag, never an exception). Every message names the argument, the place,
and what was wanted.


Arguments that had another name or place before 0.2 are still taken for one release, with a
DeprecationWarning: `renamed` and `key_first`.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# A row of probabilities may miss 1 by rounding: by 64 machine epsilons for each entry.
ROW_EPS = 64.0


def concrete(*arrays: Any) -> bool:
    """Whether every leaf has a value now, that is, none is a tracer."""
    return not any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays))


def _readable(array: Any) -> bool:
    """Whether it has a value that this process can look at; of others' devices it cannot."""
    if not concrete(array):
        return False
    leaves = [x for x in jax.tree.leaves(array) if isinstance(x, jax.Array)]
    return all(x.is_fully_addressable or x.is_fully_replicated for x in leaves)


def check_shape(name: str, array: Any, shape: Sequence[int | None]) -> None:
    """Raise unless `array` has this shape; `None` stands for any length."""
    if concrete(array):
        try:
            given = np.shape(array)
        except ValueError:  # nested, and of several lengths
            fields = ", ".join(getattr(array, "_fields", ()))
            held = f"; it holds {fields}" if fields else ""
            raise ValueError(f"{name}: {type(array).__name__} is not an array{held}") from None
    else:
        given = jnp.asarray(array).shape
    fits = len(given) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, given, strict=True)
    )
    if not fits:
        want = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: wanted shape [{want}], got {list(given)}")


def check_finite(name: str, array: Any) -> None:
    """Raise at the first NaN or infinity, naming its index."""
    if not _readable(array):
        return
    bad = np.argwhere(~np.isfinite(np.asarray(array)))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        value = np.asarray(array)[tuple(bad[0])]
        raise ValueError(f"{name}[{place}] is {value}; every entry must be finite")


def check_stochastic(name: str, array: Any) -> None:
    """Raise unless the last axis holds probabilities that sum to 1, naming the row."""
    check_finite(name, array)
    if not _readable(array):
        return
    rows = np.asarray(array)
    negative = np.argwhere(rows < 0)
    if len(negative):
        place = ", ".join(map(str, negative[0]))
        raise ValueError(
            f"{name}[{place}] = {rows[tuple(negative[0])]:.6g} is negative; "
            "rows must be probabilities"
        )
    # Of the numbers that JAX will hold them in: without x64, what is computed from them is float32.
    held = jnp.result_type(rows) if np.issubdtype(rows.dtype, np.floating) else np.float64
    eps = float(jnp.finfo(held).eps)
    total = rows.sum(-1, dtype=np.float64)
    off = np.argwhere(np.abs(total - 1) > ROW_EPS * eps * max(1, rows.shape[-1]))
    if len(off):
        place = ", ".join(map(str, off[0]))
        row = f"row [{place}]" if place else "it"
        shown = f"{total[tuple(off[0])]:.9g}"
        if f"{total[tuple(off[0])]:.6g}" == "1":  # the difference by itself
            miss = total[tuple(off[0])] - 1
            shown = f"1 {'+' if miss > 0 else '-'} {abs(miss):.3g}"
        raise ValueError(
            f"{name}: {row} sums to {shown}, not 1; {_origin(rows, total)}divide each row by its "
            "sum, x / x.sum(-1, keepdims=True)"
        )


def _origin(rows: np.ndarray, total: np.ndarray) -> str:
    """Says so where the rows did sum to 1 in the coarser numbers that they were once."""
    apart = np.abs(total - 1).max()
    for coarse in (np.float16, np.float32):
        eps = float(np.finfo(coarse).eps)
        rounded = rows.dtype.itemsize > np.dtype(coarse).itemsize and _is_of(coarse, rows)
        if rounded and apart <= ROW_EPS * eps * max(1, rows.shape[-1]):
            return (
                f"its entries were rounded to {np.dtype(coarse).name} before they became "
                f"{rows.dtype.name}: "
            )
    return ""


def _is_of(coarse: type, rows: np.ndarray) -> bool:
    """Whether every entry is a number of this dtype."""
    with np.errstate(over="ignore"):
        return bool((rows.astype(coarse).astype(rows.dtype) == rows).all())


def stochastic(rows: jax.Array) -> jax.Array:
    """Whether every row is a probability vector, as a flag that may be traced."""
    rows = jnp.asarray(rows, jnp.result_type(rows, jnp.float32))
    eps = jnp.finfo(rows.dtype).eps
    # A product with ones and a minimum: the same sums, several times faster on a CPU.
    total = jnp.matmul(rows, jnp.ones_like(rows[(0,) * (rows.ndim - 1)]), precision="highest")
    return (rows.min() >= 0) & (jnp.abs(total - 1).max() <= ROW_EPS * eps * rows.shape[-1])


def check_permutation(name: str, array: Any, size: int) -> None:
    """Raise unless `array` lists 0, ..., size - 1 in some order."""
    check_shape(name, array, (size,))
    if not concrete(array):
        return
    values = np.asarray(array)
    if not np.array_equal(np.sort(values), np.arange(size)):
        raise ValueError(
            f"{name}: {values.tolist()} is not a permutation of 0..{size - 1}; "
            "list every state once, the first to be served first"
        )


def check_discount(discount: Any) -> None:
    """Raise unless 0 <= discount < 1."""
    check_shape("discount", discount, ())
    if concrete(discount) and not 0 <= float(discount) < 1:
        raise ValueError(f"discount: {float(discount):.9g} is outside [0, 1)")


def check_positive_int(name: str, value: Any) -> None:
    """Raise unless `value` is a static integer of at least 1."""
    if not concrete(value):
        raise ValueError(f"{name}: fixes a shape, so it must be a Python int, not a traced value")
    if int(value) != value or int(value) < 1:
        raise ValueError(f"{name}: {value} is not an integer of at least 1")


def check_positive(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number above 0."""
    check_shape(name, value, ())
    if concrete(value) and not 0 < float(value) < float("inf"):
        raise ValueError(f"{name}: {float(value):.9g} is not a finite number above 0")


def refuse_gradient(tree: Any) -> Any:
    """The tree as it is, to be sampled from; differentiating what comes of it is an error.

    A sample is piecewise constant in the law that it is drawn from: JAX would give a gradient of 0,
    silently.
    """
    return jax.tree.map(_sampled, tree)


@jax.custom_jvp
def _sampled(x: Any) -> Any:
    return x


def _refuse(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "a gradient was asked for through a sampler, where it would be 0 whatever the truth; "
        "differentiate the exact chain or the mean field, or use log_probability (score function)"
    )


_sampled.defjvp(_refuse)


def renamed(
    **names: str,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Take keyword arguments by their old names too: `renamed(old="new")`."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            for old, new in names.items():
                if old in kwargs:
                    _deprecated(f"{function.__qualname__}: the argument {old} is now {new}")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def key_first(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Take the key where it stood before: by name after other arguments, or at a later place."""

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        positions: tuple[Any, ...] = args
        place = next((k for k, value in enumerate(positions) if is_key(value)), 0)
        if positions and "key" in kwargs:
            positions = (kwargs.pop("key"), *positions)
        elif place > 0:
            positions = (positions[place], *positions[:place], *positions[place + 1 :])
        else:
            return function(*args, **kwargs)
        _deprecated(f"{function.__name__}: the key comes first now")
        return function(*positions, **kwargs)

    return call


def is_key(value: Any) -> bool:
    """Whether this is a key of `jax.random.key`, or several."""
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _deprecated(message: str) -> None:
    # Three frames up is the call of the user: this function, the wrapper, the call.
    warnings.warn(f"{message}; the old way goes with 0.3", DeprecationWarning, stacklevel=3)
