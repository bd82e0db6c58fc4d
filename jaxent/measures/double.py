"""Measures of single-precision chains, certified in double precision where that can be had.

Interior-point steps in float32 lose their way when the bracket is some 1e-4 wide. Where no argument
is traced the program of a measure is small and the host is at hand, so it is solved there in
float64, and its bracket is rounded outward to float32. Under `jit`, `vmap` or a gradient float32 is
all there is; the bracket then is as wide as its steps and its rounding make it.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete

# What rounding to float32 may have done to the chain and its law, in its machine epsilons: a
# probability may be the product of a few that are rounded each.
_GIVEN = 2.0


def _of_laws(*_: Any) -> tuple[Any, Any]:
    return 1.0, 1.0


def in_double(
    measure: Callable[..., Any] | None = None, *, units: Callable[..., tuple[Any, Any]] = _of_laws
) -> Any:
    """A measure whose known float32 arguments are taken in float64, and its answer rounded outward.

    Args:
        measure: with an argument `tol`, and a result with `value`, `lower`, `upper`, `converged`.
        units: from the measure's other positional arguments to what one unit of rounding of them
            does to the minimum, and what `tol` is a share of.
    """
    if measure is None:
        return partial(in_double, units=units)

    @wraps(measure)
    def call(*args: Any, tol: Any, **kwargs: Any) -> Any:
        if not (concrete(args, kwargs, tol) and _single(args)):
            return measure(*args, tol=tol, **kwargs)
        # Looked up here: which devices there are is not asked for at import.
        with jax.enable_x64(True), jax.default_device(_host()):
            wide = _as(np.float64, args)
            found = measure(*wide, tol=float(tol), **_as(np.float64, kwargs))
            size, unit = map(float, units(*wide))
            found = jax.tree.map(np.asarray, found)
        return _outward(found, size, float(tol) * unit)

    return call


def _single(tree: Any) -> bool:
    """Whether the arrays are float32."""
    kinds = {x.dtype for x in jax.tree.leaves(tree) if hasattr(x, "dtype")}
    return np.dtype(np.float32) in kinds and np.dtype(np.float64) not in kinds


def _host() -> Any:
    """A CPU, or None, the default device, where JAX was told to see none."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def _as(dtype: Any, tree: Any) -> Any:
    """The tree, its float arrays in this dtype."""

    def cast(x):
        floating = hasattr(x, "dtype") and np.issubdtype(x.dtype, np.floating)
        return jnp.asarray(np.asarray(x), dtype) if floating else x

    return jax.tree.map(cast, tree)


def _outward(found: Any, size: float, gap: float) -> Any:
    """The answer in float32, its bracket no narrower than it was, and wider by what was given."""
    slack = size * _GIVEN * float(np.finfo(np.float32).eps)
    upper = np.nextafter(np.float32(found.upper + slack), np.float32(np.inf))
    upper = np.where(found.upper == 0, np.float32(0), upper)
    lower = np.nextafter(np.float32(found.lower - slack), np.float32(-np.inf))
    narrow = _as(np.float32, found)
    lower = np.maximum(lower, np.float32(0))
    return narrow._replace(
        upper=jnp.asarray(upper),
        lower=jnp.asarray(lower),
        num_steps=jnp.asarray(found.num_steps),
        converged=jnp.asarray(upper - lower <= gap),
    )
