r"""A table as columns of distinct values, each as it was written, and how messages name places.

A column is codes of its distinct values, of which there are few (states, actions) or as many as
epochs (times); what the values mean is read off once for each, by log_columns.py.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import numpy as np

NEEDED = ("t", "agent", "state", "action", "reward")
OPTIONAL = ("episode", "signal")
# What columns of observations are called, with their number; no heading of a file.
OBSERVED = "observation "
# Headings of a table that has columns for each agent.
_WIDE = re.compile(r"(state|action|reward)([_.\-:\[ (]|\d)")
# A cell or a label in a message, and names in a list of them.
_LONGEST, _MOST_NAMES = 60, 20


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        name: its heading.
        codes: the place in `values` of every row, `[n]`; -1 where the cell is empty.
        values: distinct ones, in the order of their first rows.
    """

    name: str
    codes: np.ndarray
    values: list[Any]


class Table(NamedTuple):
    """Columns by what they are, and how messages name places.

    Attributes:
        name: of the file, or "table".
        columns: by `t`, `agent`, ...; those that were there.
        num_rows: n.
        number: what a message calls a row: the line that an editor shows, or the position from 0.
    """

    name: str
    columns: dict[str, Column]
    num_rows: int
    number: Callable[[int], int]

    def place(self, row: int, column: str) -> str:
        """A cell, as a message names it."""
        heading = self.columns[column].name if column in self.columns else column
        return f"row {self.number(row)}, column {printable(heading)}"

    def fail(self, row: int, column: str, problem: str) -> NoReturn:
        """Raise a ValueError that names the place."""
        raise ValueError(f"{self.name}: {self.place(row, column)}: {problem}")


def printable(value: object, longest: int = _LONGEST) -> str:
    """A label as part of one line: control characters escaped, the middle of a long one left out.

    >>> printable("up\\n")
    'up\\\\n'
    """
    text = str(value)
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return escaped(text)


def quoted(value: object) -> str:
    """The same in quotes, which show blanks at its ends."""
    return f"'{printable(value)}'"


def escaped(text: str) -> str:
    """The text with escapes for what a terminal would obey or not show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def choose_columns(
    name: str,
    heading: list[str],
    columns: Mapping[str, str],
    sep: str | None = None,
    observations: Sequence[str] = (),
) -> dict[str, int]:
    """Where the columns are, by what they are; observations by `OBSERVED` and their number."""
    twice = next((h for k, h in enumerate(heading) if h in heading[:k]), None)
    if twice is not None:
        raise ValueError(f"{name}: column {quoted(twice)} is there twice; rename one of them")
    # pandas writes its row numbers first, with an empty heading.
    if sep is not None and "" in heading[1:]:
        raise ValueError(
            f"{name}: column {heading.index('', 1) + 1} has no heading; name it, or take away a "
            "delimiter at the end of every row"
        )
    places = {}
    for column in NEEDED + OPTIONAL:
        wanted = columns.get(column, column)
        if wanted in heading:
            places[column] = heading.index(wanted)
        elif column == "state" and observations and column not in columns:
            continue
        elif column in NEEDED or column in columns:
            raise ValueError(
                f"{name}: column {printable(wanted)} is missing; "
                f"{_remedy(column, wanted, heading, sep)}"
            )
    for k, wanted in enumerate(observations):
        if wanted not in heading:
            raise ValueError(
                f"{name}: column {printable(wanted)} of observations is missing; got "
                f"{', '.join(map(printable, heading[:_MOST_NAMES]))}"
            )
        places[f"{OBSERVED}{k}"] = heading.index(wanted)
    return places


def _remedy(column: str, wanted: str, heading: list[str], sep: str | None) -> str:
    """What to do about a column that is missing."""
    if sep is not None:
        other = next((s for s in ";\t|, :" if s != sep and heading[0].count(s) > 2), None)
        if other is not None:
            seen = printable(other)
            return (
                f"the heading is {quoted(heading[0])}: name the delimiter by sep='{seen}' "
                f"(--sep '{seen}')"
            )
    wide = [h for h in heading if _WIDE.match(h)]
    if len(wide) > 2 and wanted == column:
        return (
            f"{printable(wide[0])} and {printable(wide[1])} look like a column for each agent, "
            "where a row for each agent and epoch is wanted: pandas.wide_to_long makes one of the "
            "other"
        )
    shown = ", ".join(printable(h) or "''" for h in heading[:_MOST_NAMES])
    more = f" and {len(heading) - _MOST_NAMES} more" if heading[_MOST_NAMES:] else ""
    return (
        f"wanted {', '.join(NEEDED)} and maybe {' and '.join(OPTIONAL)}, got {shown}{more}; name "
        f"another heading by columns={{{column!r}: HEADING}} (--columns {column}=HEADING)"
    )


def without_empty(name: str, codes: np.ndarray, values: list[Any]) -> Column:
    """The column with -1 for the empty text."""
    if "" in values:
        codes = np.where(codes == values.index(""), -1, codes)
    return Column(name, codes, values)


def import_for_tables(module: str) -> Any:
    """A package that tables need; a ValueError names the one that is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ValueError(f"tables need {missing}: pip install 'jaxent[data]'") from None


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    return printable(reason or type(error).__name__, 200)
