"""Results on disk: a folder that can be written, and files that are whole or not there."""

import json
import os
import secrets
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
    with replacing(path, "w") as file:
        json.dump(content, file, indent=1)


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays so that the file is the old one or the new one, never half of either."""
    with replacing(path, "wb") as file:
        np.savez(file, **arrays)


@contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO]:
    """A file beside `path` that takes its place once it is written; mode is "w" or "wb".

    It is made as any other file is, so who may read it is the user's choice (umask).
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, mode.replace("w", "x")) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
