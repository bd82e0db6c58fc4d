"""The program of a sweep: one piece of the grid on each device, compiled to fit in its memory.

A piece is `chunk` rows of the grid, evaluated together by `vmap`; a round is one piece on each
device of the mesh, by `shard_map`. Row p has the key `fold_in(key, p)`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled, Lowered

from ..numerics.memory import device_memory
from .files import Columns
from .processes import on_first

AXIS = "points"
# A chunk that is not given is chosen as if there were 8 devices: an eighth of the points, in an
# eighth of a host's memory. So it is the same on 1 to 8 devices, and with it the results.
_DEVICES = 8
# On a CPU, XLA's library YNNPACK splits a sum by the number of threads (the cores or the host
# devices, whichever is more), and its rounding with it. So sums are left to XLA itself.
_SAME_SUMS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


class Work(NamedTuple):
    """What is computed, in parts that can be arguments of a jitted function."""

    function: Callable[[Array, dict[str, Array]], object]
    impl: str
    key_data: np.ndarray
    points: Columns

    def outline(self) -> Lowered:
        """A piece of one point, lowered: what it returns, and the program as text."""
        shape = partial(jax.ShapeDtypeStruct, (1,))
        columns = {name: shape(column.dtype) for name, column in self.points.items()}
        key = jax.ShapeDtypeStruct(self.key_data.shape, np.uint32)
        return _piece.lower(self.function, self.impl, key, shape(np.uint32), columns)

    def compile(self, mesh: Mesh, chunk: int) -> tuple[Compiled, int]:
        """The program of a round, and the bytes that it needs on each device."""
        spread = NamedSharding(mesh, PartitionSpec(AXIS))
        shape = partial(jax.ShapeDtypeStruct, (mesh.size * chunk,), sharding=spread)
        columns = {name: shape(column.dtype) for name, column in self.points.items()}
        whole = NamedSharding(mesh, PartitionSpec())
        key = jax.ShapeDtypeStruct(self.key_data.shape, np.uint32, sharding=whole)
        lowered = _round.lower(self.function, self.impl, mesh, key, shape(np.uint32), columns)
        try:
            same_sums = mesh.devices.flat[0].platform == "cpu"
            program = lowered.compile(compiler_options=_SAME_SUMS if same_sums else None)
        except jax.errors.JaxRuntimeError as error:  # a jaxlib before that library
            if "No such compile option" not in str(error):
                raise
            program = lowered.compile()
        size = program.memory_analysis()
        if size is None:  # a backend that does not say
            return program, 0
        kinds = (size.argument_size_in_bytes, size.output_size_in_bytes, size.temp_size_in_bytes)
        return program, sum(kinds)


@partial(jax.jit, static_argnames=("function", "impl"))
def _piece(
    function: Callable, impl: str, key_data: Array, index: Array, points: dict[str, Array]
) -> dict[str, Array]:
    def one(index: Array, point: dict[str, Array]) -> dict[str, Array]:
        key = jax.random.wrap_key_data(key_data, impl=impl)
        return _named(function(jax.random.fold_in(key, index), point))

    return jax.vmap(one)(index, points)


@partial(jax.jit, static_argnames=("function", "impl", "mesh"))
def _round(
    function: Callable,
    impl: str,
    mesh: Mesh,
    key_data: Array,
    index: Array,
    points: dict[str, Array],
) -> dict[str, Array]:
    each, every = PartitionSpec(AXIS), PartitionSpec()
    # The check of what varies over devices would refuse loops that start from constants.
    return jax.shard_map(
        partial(_piece, function, impl),
        mesh=mesh,
        in_specs=(every, each, each),
        out_specs=each,
        check_vma=False,
    )(key_data, index, points)


def _named(result: object) -> dict[str, Array]:
    """The arrays of a pytree by their names."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(result)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        dtype = leaf.dtype if isinstance(leaf, Array) else np.asarray(leaf).dtype
        if getattr(dtype, "kind", None) not in tuple("biufc"):
            raise ValueError(
                f"function: its output {name!r} is {type(leaf).__name__} of {dtype}; wanted arrays "
                "of NumPy's integers, floats, complex numbers or booleans"
            )
        if name in named:
            raise ValueError(f"function: two outputs are called {name!r}")
        named[name] = jnp.asarray(leaf)
    if not named:
        raise ValueError("function: it returns no array")
    return named


def fit(work: Work, mesh: Mesh, chunk: int | None, memory: int | None) -> tuple[Compiled, int]:
    """The program and its chunk: the one given, or one that leaves room."""
    limit, goal = (memory, memory) if memory else on_first(mesh, partial(_limits, mesh))
    wanted = chunk
    if wanted is None:
        eighth = max(len(work.points[next(iter(work.points))]) // _DEVICES, 1)
        wanted, program, needed = _shrink(work, mesh, 1 << (eighth.bit_length() - 1), goal)
    else:
        program, needed = work.compile(mesh, wanted)
    if needed <= limit:
        return program, wanted
    fits, _, least = _shrink(work, mesh, wanted, limit)
    told = f"a chunk of {fits} fits" if least <= limit else "not even one point fits"
    raise ValueError(
        f"chunk: {wanted} points at once need {needed} bytes on a device, of {limit}; {told}, "
        f"needing {least}"
    )


def _shrink(work: Work, mesh: Mesh, chunk: int, limit: int) -> tuple[int, Compiled, int]:
    """The chunk, or a smaller one that needs no more than `limit` bytes, down to 1."""
    program, needed = work.compile(mesh, chunk)
    while needed > limit and chunk > 1:
        # The bytes grow no faster than the chunk, so this share of it may fit.
        share = max(min(chunk * limit // needed, chunk - 1), 1)
        chunk = 1 << (share.bit_length() - 1)
        program, needed = work.compile(mesh, chunk)
    return chunk, program, needed


def _limits(mesh: Mesh) -> tuple[int, int]:
    """Bytes that a device has, and what a chosen chunk may take of them."""
    limit, here = device_memory(mesh.local_devices[0]), len(mesh.local_devices)
    if mesh.local_devices[0].platform != "cpu":
        return limit, limit
    # The devices of a host share its memory. The goal is the same for 1 to 8 of them, so that the
    # chunk and the results are.
    return limit // here, limit // max(here, _DEVICES)
