"""Results on disk: a folder that can be written, and files that are whole or not there."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

Columns = dict[str, np.ndarray]


def open_folder(out: Path) -> None:
    """Make a folder and see that it can be written; an OSError says why not."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def save_json(path: Path, content: object) -> None:
    """Write JSON so that the file is the old one or the new one, never half of either."""
    with _replacing(path, "w") as file:
        json.dump(content, file, indent=1)


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays so that the file is the old one or the new one, never half of either."""
    with _replacing(path, "wb") as file:
        np.savez(file, **arrays)


@contextmanager
def _replacing(path: Path, mode: str) -> Iterator[IO]:
    """A file beside `path` that takes its place once it is written."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, mode) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
