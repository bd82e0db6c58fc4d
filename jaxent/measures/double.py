"""Measures of single-precision chains, certified in double precision where that can be had.

Where no argument is traced the program of a measure is small and the host is at hand, so it is
solved there in float64, and its bracket is rounded outward to float32. Under `jit`, `vmap` or a
gradient numbers are float32, the systems of the interior-point steps in pairs of them
(`numerics.twofold`): the bracket is then as wide as what float32 adds up may be off, some 5e-6.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete
from ..numerics.double import SINGLE_EPS, cast, down, is_single, on_the_host, up

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
        if not (concrete(args, kwargs, tol) and is_single(args)):
            return measure(*args, tol=tol, **kwargs)
        with on_the_host():
            wide = cast(np.float64, args)
            found = measure(*wide, tol=float(tol), **cast(np.float64, kwargs))
            size, unit = map(float, units(*wide))
            found = jax.tree.map(np.asarray, found)
        return _outward(found, size, float(tol) * unit)

    return call


def _outward(found: Any, size: float, gap: float) -> Any:
    """The answer in float32, its bracket no narrower than it was, and wider by what was given."""
    slack = size * _GIVEN * SINGLE_EPS
    upper = np.where(found.upper == 0, np.float32(0), up(found.upper + slack))
    lower = down(found.lower - slack)
    narrow = cast(np.float32, found)
    return narrow._replace(
        upper=jnp.asarray(upper),
        lower=jnp.asarray(lower),
        num_steps=jnp.asarray(found.num_steps),
        converged=jnp.asarray(upper - lower <= gap),
    )
