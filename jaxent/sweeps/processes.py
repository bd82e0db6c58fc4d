"""Arrays over the devices of all processes, and what the first process does for all of them.

Every process makes the same calls with the same values. Only the first touches the disk.
"""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from .files import Columns

_Result = TypeVar("_Result")


def place(values: np.ndarray, sharding: NamedSharding) -> Array:
    """The values as one array over the devices of all processes."""
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def fetch_all(out: dict[str, Array]) -> Columns:
    """The arrays, on every process."""
    if all(x.is_fully_addressable for x in out.values()):
        return jax.device_get(out)
    return multihost_utils.process_allgather(out, tiled=True)


def is_first(mesh: Mesh) -> bool:
    """Whether this process is the first of those whose devices are in the mesh."""
    return jax.process_index() == min(device.process_index for device in mesh.devices.flat)


def on_first(mesh: Mesh, action: Callable[[], _Result]) -> _Result:
    """What an action of the first process alone returns or raises, on all that take part."""
    if all(device.process_index == jax.process_index() for device in mesh.devices.flat):
        return action()
    sent = b""
    if is_first(mesh):
        try:
            sent = pickle.dumps((action(), None))
        except (OSError, ValueError) as problem:
            sent = pickle.dumps((None, problem))
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(sent))))
    # Sent as bytes: numbers would be converted to the precision that JAX is set to.
    padded = np.frombuffer(sent.ljust(length), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
    result, problem = pickle.loads(received)
    if problem is not None:
        raise problem
    return result
