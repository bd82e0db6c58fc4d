r"""One pure experiment over a grid of points, on every device there is.

An experiment is a traceable function from a key and one row of the grid to arrays. Where N varies
it is traced and padded (`simulate_counts` does so with `max_agents`), so that one compilation
serves all points.

The grid is cut into pieces of `chunk` rows, and a device evaluates one piece at a time, batched by
`vmap`. The rows of a piece, their places in it and what is done with them are the same whatever
the number of devices or processes and wherever a sweep was cut off; so the results are too, bit for
bit. Two things would break that: a loop over pieces inside the program, which XLA would optimize
together with their number, and sums that are split by the number of threads (program.py).
Another chunk, kind of device or version may round differently; on a GPU, sums and choices among
its kernels are only reproducible with `--xla_gpu_deterministic_ops=true` in XLA_FLAGS.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled
from numpy.typing import ArrayLike

from .._checks import check_positive_int, is_key, key_first
from ..numerics.memory import host_memory
from .checkpoint import NAME, State, begin, header_of, identity_of, keeper, load
from .files import Columns
from .lock import hold, refuse_in_use
from .processes import fetch_all, is_first, on_first, place
from .program import AXIS, Work, fit


def product_grid(**axes: ArrayLike) -> Columns:
    """Columns of all combinations of the values on some axes, the last axis varying fastest."""
    values = [np.asarray(axis) for axis in axes.values()]
    for name, axis in zip(axes, values, strict=True):
        if axis.ndim != 1:
            raise ValueError(f"{name}: wanted a list of values, got shape {list(axis.shape)}")
    columns = np.meshgrid(*values, indexing="ij")
    return {name: column.ravel() for name, column in zip(axes, columns, strict=True)}


@key_first
def sweep(
    key: Array,
    function: Callable[[Array, dict[str, Array]], object],
    grid: Mapping[str, ArrayLike],
    *,
    folder: Path | str | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    progress: Callable[[int], object] | None = None,
) -> Columns:
    """Evaluate an experiment at every point of a grid; point p has the key `fold_in(key, p)`.

    With several processes (`jax.distributed`) each makes the same call and gets the whole table;
    the first alone reads and writes the folder.

    Args:
        key: of `jax.random.key`.
        function: pure and traceable, from a key and the entries of one row, `{name: []}`, to a
            pytree of numeric arrays.
        grid: columns of numbers, `[P]` each, as of `product_grid`.
        folder: keeps what is finished. If it holds a part of this same sweep, the sweep goes on
            from there; there is nothing else to say to resume. One run at a time may write there.
        chunk: points that a device evaluates at once. If not given, that of the folder, else a
            power of 2: an eighth of the points, or less where that does not fit in the memory.
        memory: bytes that the program may use on a device; what the device has if not given.
        devices: those to use; all, of all processes, if not given.
        progress: called with the number of points that were finished since its last call.

    Returns:
        The columns of the grid, and one, `[P, ...]`, for each array that the function returns,
        named by its place in the pytree: `name`, `name.part`, `0`; `value` for a lone array.

    Raises:
        ValueError: for a grid that is no columns of numbers of one length; a function that returns
            something else than numbers; a program that needs more memory than there is, with the
            chunk that fits; a folder whose files cannot be read as a checkpoint or are of another
            sweep, with what differs. Such files are left as they are.
        OSError: where the folder cannot be written; what it kept stays whole. A BlockingIOError
            where another run is at work there, with its process and host.

    Examples:
        >>> def experiment(key, point):
        ...     return {"square": point["x"] ** 2}
        >>> table = sweep(jax.random.key(0), experiment, product_grid(x=[1, 2], seed=[0, 1]))
        >>> {name: column.tolist() for name, column in table.items()}
        {'x': [1, 1, 2, 2], 'seed': [0, 1, 0, 1], 'square': [1, 1, 4, 4]}
    """
    points = _check_grid(grid)
    if not is_key(key) or key.shape:
        raise ValueError("key: wanted one key, of jax.random.key(seed)")
    for name, value in (("chunk", chunk), ("memory", memory)):
        if value is not None:
            check_positive_int(name, value)
    mesh = Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
    work = Work(
        function,
        str(jax.random.key_impl(key)),
        np.asarray(jax.random.key_data(key)),
        points,
    )
    outline = work.outline()
    state = _blank(outline.out_info, points)
    where = None if folder is None else Path(folder)
    header = header_of(work, outline.as_text(), mesh)
    if where is not None:
        chunk, state = on_first(mesh, partial(load, where, header, chunk, state))
    if state.done.all():
        return points | state.table
    if where is not None:
        on_first(mesh, partial(refuse_in_use, where, NAME))
    program, chunk = fit(work, mesh, chunk, memory)
    with ExitStack() as held:
        keep = _nothing
        if where is not None:
            on_first(mesh, partial(held.enter_context, hold(where, NAME)))
            # Once more, for what another run has finished in the meantime.
            _, state = on_first(mesh, partial(load, where, header, chunk, state))
            on_first(mesh, partial(begin, where, header, chunk, mesh))
            keep = keeper(where, identity_of(header, chunk), state)
        _run(program, work, mesh, chunk, state, keep, progress or _nothing)
    return points | state.table


def _check_grid(grid: Mapping[str, ArrayLike]) -> Columns:
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


def _blank(shapes: Mapping[str, jax.ShapeDtypeStruct], points: Columns) -> State:
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
    return State(np.zeros(num_points, bool), table)


def _run(
    program: Compiled,
    work: Work,
    mesh: Mesh,
    chunk: int,
    state: State,
    keep: Callable[[bool], None],
    progress: Callable[[int], object],
) -> None:
    """Fill the state, round by round: one piece on each device."""
    done, num_points = state.done, len(state.done)
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in ((AXIS,), ()))
    key = place(work.key_data, whole)
    by_piece = np.pad(done, (0, -num_points % chunk), constant_values=True).reshape(-1, chunk)
    pieces = np.flatnonzero(~by_piece.all(1))
    progress(int(done.sum()))
    try:
        for first in range(0, len(pieces), mesh.size):
            # Devices without a piece, and places without a point, repeat the last.
            here = pieces[np.minimum(first + np.arange(mesh.size), len(pieces) - 1)]
            index = (here[:, None] * chunk + np.arange(chunk)).ravel()
            row = np.minimum(index, num_points - 1)
            columns = {name: place(column[row], spread) for name, column in work.points.items()}
            out = fetch_all(program(key, place(row.astype(np.uint32), spread), columns))
            assert all(values.shape[:1] == index.shape for values in out.values())
            before, real = done.sum(), index < num_points
            for name, values in out.items():
                state.table[name][index[real]] = values[real]
            done[index[real]] = True
            on_first(mesh, partial(keep, bool(done.all())))
            progress(int(done.sum() - before))
    except KeyboardInterrupt:
        if is_first(mesh):
            keep(True)
        raise


def _nothing(_: int) -> None:
    """In the place of a progress bar or a folder that is not wanted."""
