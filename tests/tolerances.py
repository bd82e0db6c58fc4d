"""Tolerances by name, each once: what is asked of float64, and of float32 where that is default.

The suite runs in float64. With JAX_ENABLE_X64=0 it runs in float32, and then a name stands for what
single precision can keep. `assert_close` is what `np.testing.assert_allclose` is in that run.
"""

import jax.numpy as jnp
import numpy as np

SINGLE = jnp.result_type(float) == np.float32


def by_precision(double, single):
    """The tolerance of the precision in use."""
    return single if SINGLE else double


EXACT = by_precision(1e-12, 1e-5)  # one formula against another
SOLVE = by_precision(1e-9, 1e-4)  # through a linear solve
FD = by_precision(1e-6, 1e-2)  # against central finite differences
STEP = by_precision(1e-5, 3e-3)  # of those differences, either way
F32 = 1e-5  # float32 against float64
STANDARD_ERRORS = 5.0  # Monte Carlo, at a fixed key

_assert_allclose = np.testing.assert_allclose


def assert_close(actual, desired, rtol=1e-7, atol=0.0, **options):
    """`np.testing.assert_allclose`, but what is float32 need not be nearer than float32 can be.

    That is `SOLVE` of the largest entry. Arrays in float64 are held to what the test asks.
    """
    kinds = {getattr(x, "dtype", None) for x in (actual, desired)}
    if np.dtype(np.float32) in kinds:
        sizes = np.abs(np.asarray(desired, float)).ravel()
        atol = np.maximum(atol, SOLVE * sizes[np.isfinite(sizes)].max(initial=0.0))
    _assert_allclose(actual, desired, rtol=rtol, atol=atol, **options)
