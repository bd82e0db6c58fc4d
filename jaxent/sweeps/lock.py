"""One run at a time in a folder.

A run holds `NAME.lock`, and `NAME.owner` says which process that is. The operating system lets go
of the lock when a process ends, however it ends, so a run that was killed blocks nobody. The file
of the lock stays, empty: to delete it could let in two runs at once.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from .files import open_folder, save_json

# Seconds to wait for another run that only looks, or is about to end.
_PATIENCE = 2.0


def refuse_in_use(folder: Path, name: str) -> None:
    """Raise a BlockingIOError if another run is at work there; leaves no trace in the folder."""
    if (folder / f"{name}.lock").exists():
        with _lock(folder, name):
            pass


@contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Make the folder and keep other runs out of it, or raise an OSError that says why not."""
    open_folder(folder)
    with _lock(folder, name):
        owner = folder / f"{name}.owner"
        try:
            now = time.strftime("%Y-%m-%d %H:%M:%S %z")
            save_json(owner, {"pid": os.getpid(), "host": platform.node(), "since": now})
            yield
        finally:
            owner.unlink(missing_ok=True)


def _lock(folder: Path, name: str) -> AcquireReturnProxy:
    """The lock, taken; to leave its context is to let go of it."""
    try:
        return FileLock(folder / f"{name}.lock").acquire(timeout=_PATIENCE)
    except Timeout:
        raise BlockingIOError(
            f"folder: {folder} is in use by {_owner(folder / f'{name}.owner')}; wait until it has "
            "finished or end it, or give another folder"
        ) from None


def _owner(path: Path) -> str:
    """Which process holds the lock, in words."""
    try:
        told = json.loads(path.read_text())
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or has just ended
        return "another process"
