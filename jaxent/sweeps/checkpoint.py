"""What a folder keeps of a sweep, so that it goes on after it was cut off.

`sweep.json`, the header, says of which sweep the folder is: the function and its program, the key,
the grid, the chunk, the versions and the kind of device; and when it ran, and on how many devices.
`sweep.npz`, the table, holds which points are done and their results, with a hash of the header
that ties the two files together. A folder that does not fit is refused and left as it is.
One run at a time writes there (lock.py).
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from .files import Columns, save_json, save_npz
from .program import Work

# Version of the layout of the two files; raised whenever it changes.
_FORMAT = 1
NAME = "sweep"
_HEADER, _TABLE = f"{NAME}.json", f"{NAME}.npz"
# Rows are numbered by 32 bits.
_MOST_ROWS = 2**32 - 1
# Saving takes no more than this share of the time.
_SAVING = 0.1


class State(NamedTuple):
    """What is finished: which points, `[P]`, and the table, which has zeros for the others."""

    done: np.ndarray
    table: Columns


def header_of(work: Work, program: str, mesh: Mesh) -> dict[str, Any]:
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


def identity_of(header: dict[str, Any], chunk: int) -> str:
    """What ties a table to its header."""
    text = json.dumps(header | {"chunk": chunk}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(
    folder: Path, header: dict[str, Any], chunk: int | None, state: State
) -> tuple[int | None, State]:
    """The chunk and what is finished, from a folder that may hold nothing."""
    head, body = folder / _HEADER, folder / _TABLE
    # In this order, for another run may be at work: it writes the header before the table.
    table_is_there = body.exists()
    if not head.exists():
        if table_is_there:
            raise _left(f"{body} is there without {_HEADER}")
        return chunk, state
    try:
        stored = json.loads(head.read_text())
        earlier, kept = {name: stored[name] for name in header}, stored["chunk"]
        if type(kept) is not int or not 0 < kept <= _MOST_ROWS:
            raise ValueError(f"a chunk of {kept!r} points")
        if not isinstance(stored.get("runs", []), list):
            raise ValueError("its runs are not a list")
        wanted = header if chunk is None else header | {"chunk": chunk}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
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
        if str(found.pop("identity")) != identity_of(earlier, kept):
            raise ValueError(f"it does not belong to {_HEADER}")
        if {name: (x.shape, x.dtype) for name, x in found.items()} != shapes:
            raise ValueError("other arrays than those of this sweep")
    except Exception as problem:  # whatever a broken file makes NumPy raise
        raise _left(f"{body} cannot be read as a checkpoint ({problem!r})") from None
    done = found.pop("done")
    return kept, State(done, {name: found[f"out.{name}"] for name in state.table})


def _left(problem: str) -> ValueError:
    return ValueError(f"folder: {problem}; it was left as it is; give another folder")


def _arrays(state: State) -> Columns:
    return {"done": state.done} | {f"out.{name}": x for name, x in state.table.items()}


def begin(folder: Path, header: dict[str, Any], chunk: int, mesh: Mesh) -> None:
    """Say in the folder, which is held, what is being computed, and by what."""
    for half_written in folder.glob(f"{NAME}.*.part"):  # by a run that was killed
        half_written.unlink()
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


def keeper(folder: Path, identity: str, state: State) -> Callable[[bool], None]:
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
