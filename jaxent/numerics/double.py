"""Double precision on the host for what single precision was given, and the way back.

Where no argument is traced the host is at hand, and a problem of a few thousand numbers is solved
there in float64 as quickly. What is certified of it is rounded outward to float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The machine epsilon of float32.
SINGLE_EPS = float(np.finfo(np.float32).eps)


def is_single(tree: Any) -> bool:
    """Whether the arrays are float32."""
    kinds = {x.dtype for x in jax.tree.leaves(tree) if hasattr(x, "dtype")}
    return np.dtype(np.float32) in kinds and np.dtype(np.float64) not in kinds


@contextmanager
def on_the_host() -> Iterator[None]:
    """Here what is computed is float64, on a CPU where JAX sees one."""
    # Looked up here: which devices there are is not asked for at import.
    with jax.enable_x64(True), jax.default_device(_host()):
        yield


def _host() -> Any:
    """A CPU, or None, the default device, where JAX was told to see none."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def cast(dtype: Any, tree: Any) -> Any:
    """The tree, its float arrays in this dtype."""

    def one(x):
        floating = hasattr(x, "dtype") and np.issubdtype(x.dtype, np.floating)
        return jnp.asarray(np.asarray(x), dtype) if floating else x

    return jax.tree.map(one, tree)


def up(x: Any) -> np.ndarray:
    """A float32 above x, unless x is 0 or not finite."""
    return _away(x, np.inf)


def down(x: Any) -> np.ndarray:
    """A float32 of at least 0 below x >= 0, unless x is 0 or not finite."""
    return np.maximum(_away(x, -np.inf), np.float32(0))


def _away(x: Any, end: float) -> np.ndarray:
    near = np.float32(x)
    moved = np.nextafter(near, np.float32(end))
    return np.where((near == 0) & (np.asarray(x) == 0), near, moved)
