r"""Logs in text files: cells divided by a delimiter, each as it was written.

Nothing is guessed: every cell is text, and only an empty cell is empty. So `1.10` and `1.1`, `01`
and `1`, `NA` and `None` are different, whatever stands in other rows.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .log_table import (
    Table,
    first_line,
    import_for_tables,
    printable,
    quoted,
    without_empty,
)


def check_delimiter(sep: str) -> str:
    """The delimiter that was asked for."""
    sep = {"\\t": "\t", "tab": "\t"}.get(sep, sep)
    if len(sep) != 1 or not sep.isascii() or sep.isalnum() or sep in '"\r\n.-+_\0':
        raise ValueError(
            f"sep: wanted one character such as ';', '|' or a tab (\\t), got {quoted(sep)}"
        )
    return sep


# The columns to read, by what a table calls them, from a file's name, heading and delimiter.
Choose = Callable[[str, list[str], str | None], dict[str, int]]


def read_text(path: Path, sep: str, encoding: str, choose: Choose) -> Table:
    """A text file, by pyarrow, which knows how many cells a row must have but not its line."""
    arrow, arrow_csv = import_for_tables("pyarrow"), import_for_tables("pyarrow.csv")
    name = printable(path, 1000)
    text = _decode(name, _bytes_of(path, name), encoding)
    heading = _heading(name, text, sep)
    places = choose(name, heading, sep)

    @cache
    def starts() -> np.ndarray:
        return _line_starts(name, text, sep, len(heading))

    if '"' in text:
        starts()  # pyarrow overlooks what stands behind a closing quote
    every = [f"f{k}" for k in range(len(heading))]
    try:
        read = arrow_csv.read_csv(
            arrow.BufferReader(text.encode()),
            read_options=arrow_csv.ReadOptions(autogenerate_column_names=True),
            parse_options=arrow_csv.ParseOptions(delimiter=sep, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(every, arrow.large_string()),
                include_columns=[every[k] for k in sorted(set(places.values()))],
            ),
        )
    except arrow.ArrowInvalid as error:
        starts()  # names the line, if a line is at fault
        raise ValueError(f"{name}: cannot be read ({first_line(error)})") from None
    found = {}
    for column, k in places.items():
        cells = read[every[k]].slice(1).combine_chunks().dictionary_encode()
        codes, values = np.asarray(cells.indices), cells.dictionary.to_pylist()
        found[column] = without_empty(heading[k], codes, values)

    def line(row: int) -> int:
        return int(starts()[row + 1])

    return Table(name, found, read.num_rows - 1, line)


def _bytes_of(path: Path, name: str) -> bytes:
    """What the file holds, uncompressed."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{name}: cannot be read ({first_line(error)})") from None


def _decode(name: str, data: bytes, encoding: str) -> str:
    try:
        known = codecs.lookup(encoding).name
        return data.decode("utf-8-sig" if known == "utf-8" else known).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(known, "replace")
        line = len(before.splitlines() or [""])
        raise ValueError(
            f"{name}: row {line}: is not text in {known} ({error.reason}); name another encoding "
            "by encoding= (--encoding), such as latin-1 or utf-16"
        ) from None
    except (LookupError, ValueError):
        raise ValueError(
            f"encoding: {quoted(encoding)} is no encoding of text that Python knows, such as "
            "utf-8, latin-1 or utf-16"
        ) from None


def _records(text: str, sep: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)


def _heading(name: str, text: str, sep: str) -> list[str]:
    try:
        heading = next((record for record in _records(text, sep) if record), None)
    except csv.Error as error:
        raise ValueError(f"{name}: row 1: {error}") from None
    if heading is None:
        raise ValueError(f"{name}: is empty; wanted a heading and rows")
    return heading


def _line_starts(name: str, text: str, sep: str, width: int) -> np.ndarray:
    """The line, from 1, where each record starts, the heading first; blank lines are none."""
    reader = _records(text, sep)
    starts: list[int] = []
    end = 0
    try:
        for record in reader:
            if record:
                starts.append(end + 1)
                if len(record) != width:
                    raise ValueError(
                        f"{name}: row {end + 1}: has {len(record)} cells where the heading has "
                        f"{width}; quote a cell that holds the delimiter"
                    )
            end = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{name}: row {end + 1}: cannot be read ({error})") from None
    return np.array(starts)
