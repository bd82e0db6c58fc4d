r"""Logs as tables: text files, Parquet files and pandas frames.

A text file has labels of text (log_text.py). A Parquet file and a frame have types of their own,
which are kept; lists become tuples.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .log_table import (
    NEEDED,
    OPTIONAL,
    Column,
    Table,
    choose_columns,
    first_line,
    import_for_tables,
    printable,
    without_empty,
)
from .log_text import Choose, check_delimiter, read_text

if TYPE_CHECKING:
    import pandas as pd

# Endings of text files, with the delimiter that goes with each. Each may be compressed.
_TEXT = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")


def open_table(
    table: "pd.DataFrame | Path | str",
    *,
    columns: Mapping[str, str],
    sep: str | None,
    encoding: str,
    observations: Sequence[str] = (),
) -> Table:
    """The columns of a frame, or of a file that is chosen by its ending."""
    unknown = [name for name in columns if name not in NEEDED + OPTIONAL]
    if unknown:
        raise ValueError(
            f"columns: {printable(unknown[0])} is none of {', '.join(NEEDED + OPTIONAL)}"
        )

    def choose(name: str, heading: list[str], sep: str | None) -> dict[str, int]:
        return choose_columns(name, heading, columns, sep, observations)

    return open_columns(table, choose, sep=sep, encoding=encoding)


def open_columns(
    table: "pd.DataFrame | Path | str", choose: Choose, *, sep: str | None, encoding: str
) -> Table:
    """Whichever columns are chosen, of a frame or a file."""
    if isinstance(table, (str, PathLike)):
        path = Path(table)
        delimiter = _TEXT.get(Path(path.name.lower().removesuffix(".gz")).suffix)
        if sep is not None and path.suffix.lower() not in _PARQUET:
            delimiter = check_delimiter(sep)
        if delimiter is not None:
            return read_text(path, delimiter, encoding, choose)
        if path.suffix.lower() in _PARQUET:
            frame, name = _read_parquet(path), printable(path, 1000)
        else:
            raise ValueError(
                f"{printable(path, 1000)}: wanted a file that ends in .csv or .tsv (maybe with "
                ".gz), .parquet or .pq; name the delimiter of another text file by sep= (--sep)"
            )
    else:
        frame, name = table, "table"
        pandas = import_for_tables("pandas")
        if not isinstance(frame, pandas.DataFrame):
            given = f"{type(frame).__module__}.{type(frame).__name__}"
            door = (
                "pass what its to_pandas() gives"
                if hasattr(frame, "to_pandas")
                else "Trajectory.from_arrays takes arrays"
            )
            raise ValueError(
                f"table: wanted a path, a pandas frame, a Log or a Trajectory, got {given}; {door}"
            )
    if sep is not None:
        raise ValueError(f"sep: is for text files, and {name} is none")
    return _from_frame(frame, name, choose)


def _read_parquet(path: Path) -> "pd.DataFrame":
    pandas = import_for_tables("pandas")
    import_for_tables("pyarrow.parquet")
    try:
        return pandas.read_parquet(path)
    except Exception as error:  # whatever a broken file makes pyarrow raise
        raise ValueError(f"{printable(path, 1000)}: cannot be read ({first_line(error)})") from None


def _from_frame(frame: "pd.DataFrame", name: str, choose: Choose) -> Table:
    heading = [str(h) if isinstance(h, (str, int)) else repr(h) for h in frame.columns]
    inside = [h for h in frame.index.names if h is not None and h in NEEDED]
    if inside and inside[0] not in heading:
        raise ValueError(
            f"{name}: {inside[0]} is the index, not a column; pass frame.reset_index()"
        )
    places = choose(name, heading, None)
    table = Table(name, {}, len(frame), int)
    for column, k in places.items():
        table.columns[column] = _from_series(table, heading[k], frame.iloc[:, k])
    return table


def _from_series(table: Table, name: str, series: "pd.Series") -> Column:
    import pandas as pd

    shown = table._replace(columns={name: Column(name, np.zeros(0, int), [])})
    try:
        codes, found = pd.factorize(series)
    except TypeError:  # lists have no hash; tuples have
        series = pd.Series(_tuples(shown, name, series), dtype=object)
        codes, found = pd.factorize(series)
    values = [_plain(value) for value in found.tolist()]
    if series.dtype == object:
        _check_kinds(shown, name, series, codes)
        _check_written(shown, name, codes, values)
    return without_empty(name, codes, values)


def _plain(value: Any) -> Any:
    """What NumPy has as Python has it."""
    if isinstance(value, np.datetime64):
        return import_for_tables("pandas").Timestamp(value)
    return value.item() if isinstance(value, np.generic) else value


def _tuples(table: Table, name: str, series: "pd.Series") -> np.ndarray:
    """Cells with tuples for lists; an error at one that can be no label."""
    cells = np.empty(len(series), object)
    cells[:] = [_tuple(value) for value in series]
    for row, value in enumerate(cells):
        try:
            hash(value)
        except TypeError:
            table.fail(row, name, f"{printable(value)} is no label or number")
    return cells


def _tuple(value: Any) -> Any:
    """A list or an array, of lists maybe, as a tuple."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_tuple, value)) if isinstance(value, (list, tuple)) else value


def _check_kinds(table: Table, name: str, series: "pd.Series", codes: np.ndarray) -> None:
    """Raise where values are equal in Python but not the same: 1, 1.0 and True."""
    kinds = [v.item().__class__ if isinstance(v, np.generic) else v.__class__ for v in series]
    order = {kind: k for k, kind in enumerate(dict.fromkeys(kinds))}
    if len(order) < 2:
        return
    kind = np.array([order[k] for k in kinds])
    first = np.full(codes.max(initial=-1) + 1, -1)
    seen = np.flatnonzero(codes >= 0)[::-1]
    first[codes[seen]] = kind[seen]  # the first row of each comes last, and stays
    mixed = (codes >= 0) & (first[codes] != kind)
    if mixed.any():
        row = int(mixed.argmax())
        earlier = list(order)[first[codes[row]]].__name__
        problem = f"{printable(series.iloc[row])} is of type {kinds[row].__name__}, and its equal "
        table.fail(row, name, f"{problem}in an earlier row {earlier}; make them one type")


def _check_written(table: Table, name: str, codes: np.ndarray, values: list[Any]) -> None:
    """Raise where values of two types are written the same: 1 and "1"; or hold NaN: (NaN, 1)."""
    first: dict[str, Any] = {}
    for k, value in enumerate(values):
        earlier = first.setdefault(str(value), value)
        if type(earlier) is not type(value):
            kinds = f"of type {type(value).__name__} here and {type(earlier).__name__} before"
            remedy = "make them one type (pandas guesses types piece by piece: read with dtype=str)"
            row = int((codes == k).argmax())
            table.fail(row, name, f"{printable(value)} is {kinds}; {remedy}")
        if isinstance(value, tuple) and _holds_nan(value):
            table.fail(int((codes == k).argmax()), name, f"{printable(value)} holds NaN")


def _holds_nan(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_holds_nan, value))
    return isinstance(value, float) and value != value
