r"""What the distinct values of a column mean: labels, numbers, times.

Times are integers, exact to 64 bits, or timestamps (ISO 8601 or a column of them), which become
nanoseconds since 1970 in UTC.
"""

import re
from collections.abc import Hashable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .log_table import Column, Table, printable, quoted

_DATE = r"(\d{4}-\d\d-\d\d)"
_CLOCK = r"(\d\d:\d\d)(?:(:\d\d)(?:[.,](\d{1,9}))?)?"
_ISO = re.compile(rf"{_DATE}(?:[T ]{_CLOCK}(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_ALL_DIGITS = re.compile(r"\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9
# Up to here a float64 holds every integer.
_EXACT_FLOAT = 2**53
# More digits than 64 bits have.
_DIGITS = 30


class Times(NamedTuple):
    """The column t.

    Attributes:
        values: of every row, `[n]` int64.
        unit: "ns" for timestamps, which count from 1970; else "".
    """

    values: np.ndarray
    unit: str


def check_filled(table: Table, column: str, word: str = "is empty") -> None:
    """Raise at the first empty cell of a column."""
    empty = table.columns[column].codes < 0
    if empty.any():
        table.fail(int(empty.argmax()), column, word)


def _first_row(column: Column, place: int) -> int:
    return int((column.codes == place).argmax())


def read_labels(
    table: Table, name: str, known: Sequence[Hashable] | None
) -> tuple[np.ndarray, tuple[Hashable, ...]]:
    """Codes of a column, int32, and the labels that they stand for."""
    known = None if known is None else _check_known(name, known)
    if name not in table.columns:
        return np.zeros(table.num_rows, np.int32), (0,) if known is None else known
    check_filled(table, name)
    column = table.columns[name]
    if known is None:
        used = np.unique(column.codes)
        used = used[_order([column.values[k] for k in used])]
        code = np.zeros(len(column.values), np.int32)
        code[used] = np.arange(len(used))
        return code[column.codes], tuple(column.values[k] for k in used)
    places = _match(column.values, known)
    code = np.array([-1 if k is None else k for k in places], np.int32)[column.codes]
    if (code < 0).any():
        row = int((code < 0).argmax())
        value = column.values[column.codes[row]]
        table.fail(row, name, f"{printable(value)} is none of the {len(known)} labels")
    return code, known


def _check_known(name: str, known: Sequence[Hashable]) -> tuple[Hashable, ...]:
    where = f"known[{name!r}]" + (f" (--{name}s)" if name in ("state", "action") else "")
    if isinstance(known, (str, bytes)):
        raise ValueError(f"{where}: wanted a list of labels, got {quoted(known)}")
    labels = tuple(known)
    seen: set[Hashable] = set()
    for label in labels:
        try:
            twice = label in seen
        except TypeError:
            raise ValueError(f"{where}: {printable(label)} is no label") from None
        if twice:
            raise ValueError(f"{where}: {printable(label)} is there twice")
        seen.add(label)
    if not labels:
        raise ValueError(f"{where}: has no labels")
    return labels


def _match(values: Sequence[Any], known: tuple[Hashable, ...]) -> list[int | None]:
    """The label of each value: the one that equals it, else the one that is written the same."""
    equal = {label: k for k, label in enumerate(known)}
    texts = {label: k for label, k in equal.items() if isinstance(label, str)}
    written = {str(label): k for label, k in equal.items() if not isinstance(label, str)}
    numbers = {float(label): k for label, k in texts.items() if _NUMBER.fullmatch(label)}

    def one(value: Any) -> int | None:
        if isinstance(value, str):
            return equal.get(value, written.get(value))
        found = equal.get(value, texts.get(str(value)))
        # A number in a typed column may be written otherwise: 1.0 is 1.
        if found is None and isinstance(value, (int, float)) and not isinstance(value, bool):
            found = numbers.get(value)
        return found

    return [one(value) for value in values]


def _order(values: Sequence[Any]) -> np.ndarray:
    """The order of labels: numbers, also those in text, by size; other text by letter."""
    every = range(len(values))
    if all(isinstance(v, str) for v in values):
        if all(_NUMBER.fullmatch(v) for v in values):
            return np.array(sorted(every, key=lambda k: (float(values[k]), values[k])), int)
        return np.array(sorted(every, key=lambda k: values[k]), int)
    try:
        return np.array(sorted(every, key=lambda k: values[k]), int)
    except TypeError:  # labels of several types have no order
        key = [(type(v).__name__, str(v)) for v in values]
        return np.array(sorted(every, key=lambda k: key[k]), int)


def is_number(label: Hashable) -> bool:
    """Whether a label is a number, or text that is one."""
    if isinstance(label, str):
        return _NUMBER.fullmatch(label) is not None
    return isinstance(label, (int, float)) and not isinstance(label, bool)


def read_numbers(table: Table, name: str) -> np.ndarray:
    """A column of finite numbers, float64."""
    check_filled(table, name, "is empty or not a number")
    column = table.columns[name]
    text = "".join(v for v in column.values if isinstance(v, str))
    try:
        # Python's float also takes 1_000 and digits of other scripts.
        if "_" in text or not text.isascii():
            raise ValueError
        numbers = np.array(list(map(float, column.values)))
    except (OverflowError, TypeError, ValueError):
        numbers = np.array([_number(table, name, k) for k in range(len(column.values))])
    finite = np.isfinite(numbers)
    if not finite.all():
        k = int((~finite).argmax())
        table.fail(_first_row(column, k), name, f"{numbers[k]} is not finite")
    return numbers[column.codes]


def _number(table: Table, name: str, place: int) -> float:
    """One distinct value as a number, or an error at its first row."""
    column = table.columns[name]
    value = column.values[place]
    shown, hint = printable(value), ""
    try:
        if not isinstance(value, str) or ("_" not in value and value.isascii()):
            return float(value)
    except OverflowError:
        return np.inf
    except (TypeError, ValueError):
        pass
    if isinstance(value, str):
        shown = quoted(value)
        if _NUMBER.fullmatch(value.strip().replace(",", ".", 1)):
            hint = "; write decimals with a point"
    table.fail(_first_row(column, place), name, f"{shown} is not a number{hint}")


def read_times(table: Table) -> Times:
    """The column t, every value exact."""
    check_filled(table, "t", "is empty or not a number")
    column = table.columns["t"]
    types = set(map(type, column.values))
    if types == {int} or (types == {str} and _are_digits(column.values)):
        exact = list(map(int, column.values))
        if min(exact) >= 0 and max(exact) < 2**63:
            return Times(np.array(exact, np.int64)[column.codes], "")
    exact, kinds = [], []
    for k, value in enumerate(column.values):
        try:
            number, kind = _time(value)
        except ValueError as error:
            table.fail(_first_row(column, k), "t", str(error))
        if kinds and kind != kinds[0]:
            problem = f"{printable(value)} is {kind}, but earlier rows have {kinds[0]}"
            table.fail(_first_row(column, k), "t", problem)
        if not kind.startswith("a timestamp") and number < 0:
            problem = f"{printable(value)} is negative; count epochs from 0"
            table.fail(_first_row(column, k), "t", problem)
        if not -(2**63) <= number < 2**63:
            table.fail(_first_row(column, k), "t", f"{printable(value)} needs more than 64 bits")
        exact.append(number)
        kinds.append(kind)
    values = np.array(exact, np.int64)[column.codes]
    return Times(values, "ns" if kinds and kinds[0] != "a number" else "")


def _are_digits(values: list[str]) -> bool:
    return max(map(len, values)) < _DIGITS and _ALL_DIGITS.fullmatch("".join(values)) is not None


def _time(value: Any) -> tuple[int, str]:
    """The integer that a cell stands for, and its kind; a ValueError says why not."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    if isinstance(value, int):
        return value, "a number"
    if isinstance(value, (date, datetime)):
        return _timestamp(value.isoformat())
    if isinstance(value, str):
        text = value.strip()
        if _INTEGER.fullmatch(text):
            return int(text), "a number"
        if _ISO.fullmatch(text):
            return _timestamp(text)
        if not _NUMBER.fullmatch(text):
            if text.lower().lstrip("+-") in ("inf", "infinity", "nan"):
                raise ValueError(f"{printable(value)} is not finite")
            raise ValueError(
                f"{quoted(value)} is not a number, nor a timestamp like 2024-05-31T12:00:00"
            )
        return _whole(text), "a number"
    if isinstance(value, (float, Decimal)):
        if not np.isfinite(float(value)):
            raise ValueError(f"{value} is not finite")
        whole = _whole(str(value) if isinstance(value, Decimal) else repr(value))
        if isinstance(value, float) and abs(value) >= _EXACT_FLOAT:
            raise ValueError(
                f"{value:.0f} is more than a float64 holds exactly; make the column integers"
            )
        return whole, "a number"
    raise ValueError(f"{printable(value)} is not a number")


def _whole(text: str) -> int:
    number = Decimal(text)
    if not number:
        return 0
    # The size first: the integer 1e999999999 would fill the memory.
    if number.adjusted() > _DIGITS:
        raise ValueError(f"{printable(text)} needs more than 64 bits")
    if number.adjusted() < 0 or number != int(number):
        raise ValueError(f"{printable(text)} is not an integer")
    return int(number)


def _timestamp(text: str) -> tuple[int, str]:
    match = _ISO.fullmatch(text)
    day, minute, second, fraction, zone = match.groups() if match else (text, "", "", "", "")
    try:
        if match is None:
            raise ValueError
        here = datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ''}")
        zone_of = datetime.fromisoformat(f"1970-01-01T00:00{zone}").tzinfo if zone else UTC
        here = here.replace(tzinfo=zone_of)
    except ValueError:
        raise ValueError(f"{printable(text)} is no time of any day") from None
    since = here - _FIRST
    whole = since.days * 86_400 + since.seconds
    kind = "a timestamp with a time zone" if zone else "a timestamp"
    return whole * _SECOND + int((fraction or "0").ljust(9, "0")), kind


def read_step(step: float | str, unit: str) -> int:
    """The step between epochs in units of the column t; of timestamps it is given in seconds."""
    number = Fraction(0)
    text = str(step).strip()
    if _NUMBER.fullmatch(text) and abs(Decimal(text).adjusted()) <= _DIGITS:
        number = Fraction(text) * (_SECOND if unit else 1)
    if number.denominator != 1 or not 0 < number < 2**63:
        kind = "a number of seconds above 0" if unit else "an integer of at least 1"
        raise ValueError(f"step: {printable(step)} is not {kind}")
    return int(number)


def show_time(value: int, unit: str) -> str:
    """A time as a message has it."""
    if not unit:
        return str(value)
    text = str(np.datetime64(int(value), "ns"))
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_step(step: int, unit: str) -> str:
    """A step as a message has it."""
    if not unit:
        return str(step)
    whole, rest = divmod(step, _SECOND)
    return f"{step} ns" if rest else f"{whole} s"
