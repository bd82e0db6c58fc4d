r"""One pure experiment over a grid of points, on every device there is.

An experiment is a traceable function from a key and one row of the grid to arrays. Where N varies
it is traced and padded, as in `simulate_counts(..., max_agents=...)`, so that one compilation
serves all points.

The grid is cut into pieces of `chunk` rows, and a device evaluates one piece at a time, batched by
`vmap`. The rows of a piece, their places in it and what is done with them are the same whatever
the number of devices or processes and wherever a sweep was cut off; so the results are too, bit for
bit. Two things would break that: a loop over pieces inside the program, which XLA would optimize
together with their number, and sums that are split by the number of threads (see `_SAME_SUMS`).
Another chunk, kind of device or version may round differently; on a GPU, sums and choices among
its kernels are only reproducible with `--xla_gpu_deterministic_ops=true` in XLA_FLAGS.
"""

import hashlib
import json
import pickle
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import check_positive_int
from ..numerics.memory import device_memory, host_memory
from .files import open_folder, save_json, save_npz

Array = jax.Array
Columns = dict[str, np.ndarray]

# Of the files in a folder; raised whenever they change.
_FORMAT = 1
_HEADER, _TABLE = "sweep.json", "sweep.npz"
# A chunk not given leaves work, and of a host's memory a share, for so many devices.
_DEVICES = 8
# Saving takes no more than this share of the time.
_SAVING = 0.1
_AXIS = "points"
# On a CPU, reductions of XLA's library YNNPACK round as the number of threads has it, which is that
# of the cores or of the host devices, whichever is more. So they are left to XLA itself.
_SAME_SUMS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


def product_grid(**axes: Any) -> Columns:
    """Columns of all combinations of the values on some axes, the last axis varying fastest."""
    values = [np.asarray(axis) for axis in axes.values()]
    for name, axis in zip(axes, values, strict=True):
        if axis.ndim != 1:
            raise ValueError(f"{name}: wanted a list of values, got shape {list(axis.shape)}")
    columns = np.meshgrid(*values, indexing="ij")
    return {name: column.ravel() for name, column in zip(axes, columns, strict=True)}


def sweep(
    function: Callable[[Array, dict[str, Array]], Any],
    grid: Mapping[str, Any],
    *,
    key: Array,
    folder: Path | str | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Columns:
    """Evaluate an experiment at every point of a grid; point p has the key `fold_in(key, p)`.

    With several processes (`jax.distributed`) each makes the same call and gets the whole table;
    the first alone reads and writes the folder.

    Args:
        function: pure and traceable, from a key and the entries of one row, `{name: []}`, to a
            pytree of numeric arrays.
        grid: columns of numbers, `[P]` each, as of `product_grid`.
        key: of `jax.random.key`.
        folder: keeps what is finished. If it holds a part of this same sweep, the sweep goes on
            from there; there is nothing else to say to resume.
        chunk: points that a device evaluates at once. If not given, that of the folder, else a
            power of 2, an eighth of the points or as many as fit in the memory.
        memory: bytes that the program may use on a device; what the device has if not given.
        devices: those to use; all, of all processes, if not given.
        progress: called with a number of points whenever so many more are done.

    Returns:
        The columns of the grid, and one, `[P, ...]`, for each array that the function returns,
        named by its place in the pytree: `name`, `name.part`, `0`; `value` for a lone array.

    Raises:
        ValueError: for a grid that is no columns of numbers of one length; a function that returns
            something else than numbers; a program that needs more memory than there is, with the
            chunk that fits; a folder whose files cannot be read as a checkpoint or are of another
            sweep, with what differs. Such files are left as they are.
        OSError: where the folder cannot be written; what it kept stays whole.

    Examples:
        >>> def experiment(key, point):
        ...     return {"square": point["x"] ** 2}
        >>> table = sweep(experiment, product_grid(x=[1, 2], seed=[0, 1]), key=jax.random.key(0))
        >>> {name: column.tolist() for name, column in table.items()}
        {'x': [1, 1, 2, 2], 'seed': [0, 1, 0, 1], 'square': [1, 1, 4, 4]}
    """
    points = _check_grid(grid)
    is_key = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or key.shape:
        raise ValueError("key: wanted one key, of jax.random.key(seed)")
    for name, value in (("chunk", chunk), ("memory", memory)):
        if value is not None:
            check_positive_int(name, value)
    mesh = Mesh(np.array(jax.devices() if devices is None else devices), (_AXIS,))
    work = _Work(
        function,
        str(jax.random.key_impl(key)),
        np.asarray(jax.random.key_data(key)),
        points,
    )
    outline = work.outline()
    state = _blank(outline.out_info, points)
    where = None if folder is None else Path(folder)
    header = _header(work, outline.as_text(), mesh)
    if where is not None:
        chunk, state = _on_first(mesh, partial(_load, where, header, chunk, state))
    if not state.done.all():
        program, chunk = _fit(work, mesh, chunk, memory)
        keep = _nothing
        if where is not None:
            _on_first(mesh, partial(_begin, where, header, chunk, mesh))
            keep = _keeper(where, _identity(header, chunk), state)
        _run(program, work, mesh, chunk, state, keep, progress or _nothing)
    return points | state.table


class _Work(NamedTuple):
    """What is computed, in parts that can be arguments of a jitted function."""

    function: Callable
    impl: str
    key_data: np.ndarray
    points: Columns

    def outline(self) -> Any:
        """A piece of one point, lowered: what it returns, and the program as text."""
        shape = partial(jax.ShapeDtypeStruct, (1,))
        columns = {name: shape(column.dtype) for name, column in self.points.items()}
        key = jax.ShapeDtypeStruct(self.key_data.shape, np.uint32)
        return _piece.lower(self.function, self.impl, key, shape(np.uint32), columns)

    def compile(self, mesh: Mesh, chunk: int) -> tuple[Any, int]:
        """The program of a round, and the bytes that it needs on each device."""
        spread = NamedSharding(mesh, PartitionSpec(_AXIS))
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


class _State(NamedTuple):
    """What is finished: which points, `[P]`, and the table, which has zeros for the others."""

    done: np.ndarray
    table: Columns


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
    each, every = PartitionSpec(_AXIS), PartitionSpec()
    # The check of what varies over devices would refuse loops that start from constants.
    return jax.shard_map(
        partial(_piece, function, impl),
        mesh=mesh,
        in_specs=(every, each, each),
        out_specs=each,
        check_vma=False,
    )(key_data, index, points)


def _named(result: Any) -> dict[str, Array]:
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


def _check_grid(grid: Mapping[str, Any]) -> Columns:
    """The columns as JAX will have them, or a ValueError."""
    if not grid:
        raise ValueError("grid: it has no columns")
    points = {}
    for name, values in grid.items():
        given = np.asarray(values)
        if given.ndim != 1 or given.dtype.kind not in "biuf":
            raise ValueError(
                f"grid: column {name!r} has shape {list(given.shape)} of {given.dtype}; wanted a "
                "list of numbers (for anything else, its number in a table of your own)"
            )
        column = given.astype(jax.dtypes.canonicalize_dtype(given.dtype))
        if given.dtype.kind in "iu" and (column != given).any():
            row = int((column != given).argmax())
            raise ValueError(
                f"grid: {given[row]} in row {row} of column {name!r} does not fit in "
                f"{column.dtype}; take smaller numbers or jax_enable_x64"
            )
        points[name] = column
    lengths = {name: len(column) for name, column in points.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"grid: columns differ in length ({told})")
    if not next(iter(lengths.values())):
        raise ValueError("grid: it has no points")
    return points


def _blank(shapes: Mapping[str, Any], points: Columns) -> _State:
    """Nothing done yet, or a ValueError if the table cannot be held."""
    num_points = len(next(iter(points.values())))
    for name in shapes:
        if name in points:
            raise ValueError(f"function: its output {name!r} has the name of a column of the grid")
    size = sum(x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in shapes.values())
    if num_points * size > host_memory():
        raise ValueError(
            f"grid: the results of {num_points} points need {num_points * size} bytes, of "
            f"{host_memory()}; {host_memory() // size} points fit"
        )
    table = {name: np.zeros((num_points, *x.shape[1:]), x.dtype) for name, x in shapes.items()}
    return _State(np.zeros(num_points, bool), table)


def _fit(work: _Work, mesh: Mesh, chunk: int | None, memory: int | None) -> tuple[Any, int]:
    """The program and its chunk: the one given, or one that leaves room."""
    limit, goal = (memory, memory) if memory else _on_first(mesh, partial(_limits, mesh))
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


def _shrink(work: _Work, mesh: Mesh, chunk: int, limit: int) -> tuple[int, Any, int]:
    """The chunk, or a smaller one that needs no more than `limit` bytes, down to 1."""
    program, needed = work.compile(mesh, chunk)
    while needed > limit and chunk > 1:
        # Needs grow no faster than the chunk, so this many may fit.
        share = max(min(chunk * limit // needed, chunk - 1), 1)
        chunk = 1 << (share.bit_length() - 1)
        program, needed = work.compile(mesh, chunk)
    return chunk, program, needed


def _limits(mesh: Mesh) -> tuple[int, int]:
    """Bytes that a device has, and what a chosen chunk may take of them."""
    limit, here = device_memory(mesh.local_devices[0]), len(mesh.local_devices)
    if mesh.local_devices[0].platform != "cpu":
        return limit, limit
    # Host devices share. The goal does not depend on how many there are, nor do then the results.
    return limit // here, limit // max(here, _DEVICES)


def _run(
    program: Any,
    work: _Work,
    mesh: Mesh,
    chunk: int,
    state: _State,
    keep: Callable[[bool], None],
    progress: Callable[[int], Any],
) -> None:
    """Fill the state, piece by piece, one on each device a round."""
    done, num_points = state.done, len(state.done)
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in ((_AXIS,), ()))
    key = _place(work.key_data, whole)
    by_piece = np.pad(done, (0, -num_points % chunk), constant_values=True).reshape(-1, chunk)
    pieces = np.flatnonzero(~by_piece.all(1))
    progress(int(done.sum()))
    try:
        for first in range(0, len(pieces), mesh.size):
            # Devices without a piece, and places without a point, repeat the last.
            here = pieces[np.minimum(first + np.arange(mesh.size), len(pieces) - 1)]
            index = (here[:, None] * chunk + np.arange(chunk)).ravel()
            row = np.minimum(index, num_points - 1)
            columns = {name: _place(column[row], spread) for name, column in work.points.items()}
            out = _fetch(program(key, _place(row.astype(np.uint32), spread), columns))
            before, real = done.sum(), index < num_points
            for name, values in out.items():
                state.table[name][index[real]] = values[real]
            done[index[real]] = True
            _on_first(mesh, partial(keep, bool(done.all())))
            progress(int(done.sum() - before))
    except KeyboardInterrupt:
        if _is_first(mesh):
            keep(True)
        raise


def _place(values: np.ndarray, sharding: NamedSharding) -> Array:
    """An array over devices of all processes, which all have the values."""
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def _fetch(out: dict[str, Array]) -> Columns:
    """The arrays, on every process."""
    if all(x.is_fully_addressable for x in out.values()):
        return jax.device_get(out)
    return multihost_utils.process_allgather(out, tiled=True)


def _nothing(*_: Any) -> None:
    """In the place of a progress bar or a folder that is not wanted."""


def _is_first(mesh: Mesh) -> bool:
    return jax.process_index() == min(device.process_index for device in mesh.devices.flat)


def _on_first(mesh: Mesh, action: Callable[[], Any]) -> Any:
    """What an action of the first process alone returns or raises, on all that take part."""
    if all(device.process_index == jax.process_index() for device in mesh.devices.flat):
        return action()
    sent = b""
    if _is_first(mesh):
        try:
            sent = pickle.dumps((action(), None))
        except (OSError, ValueError) as problem:
            sent = pickle.dumps((None, problem))
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(sent))))
    # As bytes, which arrive as they are.
    padded = np.frombuffer(sent.ljust(length), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
    result, problem = pickle.loads(received)
    if problem is not None:
        raise problem
    return result


def _header(work: _Work, program: str, mesh: Mesh) -> dict[str, Any]:
    """What a checkpoint must have in common with a sweep that goes on from it."""
    function = work.function
    while isinstance(function, partial):
        function = function.func
    grid = hashlib.sha256()
    for name, column in work.points.items():
        grid.update(f"{name} {column.dtype} ".encode() + column.tobytes())
    return {
        "format": _FORMAT,
        "function": getattr(function, "__qualname__", type(function).__qualname__),
        "program": hashlib.sha256(program.encode()).hexdigest(),
        "key": [work.impl, *work.key_data.ravel().tolist()],
        "columns": list(work.points),
        "points": len(next(iter(work.points.values()))),
        "grid": grid.hexdigest(),
        "float": str(jax.dtypes.canonicalize_dtype(float)),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "device": mesh.devices.flat[0].device_kind,
    }


def _identity(header: dict[str, Any], chunk: int) -> str:
    """What ties a table to its header."""
    text = json.dumps(header | {"chunk": chunk}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _load(
    folder: Path, header: dict[str, Any], chunk: int | None, state: _State
) -> tuple[int | None, _State]:
    """The chunk and what is finished, from a folder that may hold nothing."""
    head, body = folder / _HEADER, folder / _TABLE
    if not head.exists():
        if body.exists():
            raise _left(f"{body} is there without {_HEADER}")
        return chunk, state
    try:
        stored = json.loads(head.read_text())
        earlier, kept = {name: stored[name] for name in header}, int(stored["chunk"])
        wanted = header if chunk is None else header | {"chunk": chunk}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise _left(f"{head} cannot be read as a checkpoint ({problem!r})") from None
    other = [name for name in wanted if stored[name] != wanted[name]]
    if other:
        told = ", ".join(f"{name} {stored[name]} there, {wanted[name]} here" for name in other)
        raise _left(f"{head} is of another sweep ({told})")
    if not body.exists():
        return kept, state
    shapes = {name: (x.shape, x.dtype) for name, x in _arrays(state).items()}
    try:
        # Opened here: NumPy would leave open what it cannot read.
        with body.open("rb") as opened, np.load(opened) as file:
            found = dict(file)
        if str(found.pop("identity")) != _identity(earlier, kept):
            raise ValueError(f"it does not belong to {_HEADER}")
        if {name: (x.shape, x.dtype) for name, x in found.items()} != shapes:
            raise ValueError("other arrays than those of this sweep")
    except Exception as problem:  # whatever a broken file makes NumPy raise
        raise _left(f"{body} cannot be read as a checkpoint ({problem!r})") from None
    done = found.pop("done")
    return kept, _State(done, {name: found[f"out.{name}"] for name in state.table})


def _left(problem: str) -> ValueError:
    return ValueError(f"folder: {problem}; it was left as it is; give another folder")


def _arrays(state: _State) -> Columns:
    return {"done": state.done} | {f"out.{name}": x for name, x in state.table.items()}


def _begin(folder: Path, header: dict[str, Any], chunk: int, mesh: Mesh) -> None:
    """Say in the folder what is being computed, and by what."""
    open_folder(folder)
    head = folder / _HEADER
    runs = json.loads(head.read_text()).get("runs", []) if head.exists() else []
    run = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "devices": mesh.size,
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
    save_json(head, header | {"chunk": chunk, "runs": [*runs, run]})


def _keeper(folder: Path, identity: str, state: _State) -> Callable[[bool], None]:
    """Saves what is finished, now or if that does not take much of the time."""
    due = 0.0

    def keep(now: bool) -> None:
        nonlocal due
        start = time.monotonic()
        if now or start >= due:
            save_npz(folder / _TABLE, {"identity": np.array(identity)} | _arrays(state))
            end = time.monotonic()
            due = end + (end - start) / _SAVING

    return keep
