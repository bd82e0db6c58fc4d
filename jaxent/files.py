"""Results on disk: a folder that can be written, and files that are whole or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def open_folder(out: Path) -> None:
    """Make a folder and see that it can be written; an OSError says why not."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def save_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is the old one or the new one, never half of either."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
