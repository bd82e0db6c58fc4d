"""Where an audit is written: a folder with audit.json and audit.png, each whole or not there.

A refusal leaves nothing behind: a folder that was made for the audit goes with it.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from ..auditing.result import Audit, to_dict
from ..data.log_table import first_line, printable
from ..sweeps.files import open_folder, replacing, save_json

JSON, PNG = "audit.json", "audit.png"
_ENDINGS = (".gz", ".csv", ".tsv", ".parquet", ".pq")


def default_folder(file: Path) -> Path:
    """audit-NAME for a log NAME.csv, whatever other points NAME has."""
    name = file.name
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return Path(f"audit-{name}")


@contextmanager
def folder_for_audit(out: Path) -> Iterator[None]:
    """The folder, made where it is missing, and taken away again if what is done inside fails.

    Raises:
        ValueError: where nothing can be written, or a folder stands where a file is to be.
    """
    made: list[Path] = []
    try:
        try:
            made = [folder for folder in (out, *out.parents) if not folder.exists()]
            open_folder(out)
            taken = [name for name in (JSON, PNG) if (out / name).is_dir()]
        except OSError as error:
            raise ValueError(
                f"--out {printable(out, 200)}: cannot write there ({first_line(error)})"
            ) from None
        if taken:
            raise ValueError(f"--out {printable(out, 200)}: {taken[0]} is a folder there")
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # not empty: something else is there
                folder.rmdir()
        raise


def write_audit(found: Audit, file: Path, out: Path) -> None:
    """The numbers first: they are kept if there is no room for the picture.

    Raises:
        ValueError: naming what could not be written, and what was.
    """
    _write(out / JSON, lambda path: save_json(path, {"file": str(file), **to_dict(found)}), "")
    _write(out / PNG, lambda path: _save_png(path, found), f"; {JSON} is written")


def check_html(path: Path) -> None:
    """Refuse, before anything long runs, a report that could not be written.

    Raises:
        ValueError: for a folder in its place, none to lie in, or no jinja2.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ValueError(f"--html {printable(path, 200)}: {what}; wanted a file to be written")
    if find_spec("jinja2") is None:
        raise ValueError("--html: needs jinja2; pip install 'jaxent[audit]'")


def write_html(found: Audit, file: Path, path: Path) -> None:
    """The report, whole or not at all.

    Raises:
        ValueError: where it could not be written; the numbers and the picture are.
    """
    from .html_report import audit_html

    def save(path: Path) -> None:
        with replacing(path, "wb") as page:
            page.write(audit_html(found, source=file.name).encode())

    _write(path, save, f"; {JSON} and {PNG} are written")


def _write(path: Path, save: Callable[[Path], None], rest: str) -> None:
    try:
        save(path)
    except OSError as error:
        raise ValueError(
            f"{printable(path, 200)}: cannot be written ({first_line(error)}){rest}"
        ) from None


def _save_png(path: Path, found: Audit) -> None:
    from ..plotting import plot_audit

    with warnings.catch_warnings(), replacing(path, "wb") as file:
        # A box stands for what the font lacks; the names are in the report.
        warnings.filterwarnings("ignore", message="Glyph")
        plot_audit(found).savefig(file, dpi=150, format="png")
