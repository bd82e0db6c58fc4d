"""Where an array lies on a mesh of devices, said inside a program."""

from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array


def lies(x: Array, mesh: Mesh | None, *axes: Any) -> Array:
    """The array, cut along these axes of the mesh: a name, several or None for each of its own."""
    if mesh is None:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))


def everywhere(x: Array, mesh: Mesh | None) -> Array:
    """A small array, whole on every device."""
    return lies(x, mesh)
