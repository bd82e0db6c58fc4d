"""Results that read: one screen in a terminal or a notebook, and a data frame where it is a table.

`reads` gives the class of a result `__str__` and `_repr_html_`: a sentence that says what was
found, then a line for each field, numbers written out where they are few and told by their shape
and range where they are many. Nothing is computed but that range.
"""

import dataclasses
import html
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jax.core import Tracer

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:  # pandas waits until a table is asked for
    Frame = Any

# One screen: lines, those of them that the sentence may take, and characters a line.
_LINES, _HEAD, _WIDTH = 40, 3, 100
# Numbers written out, items of a list that get a line of their own, and items of one line.
_NUMBERS, _ITEMS, _INLINE = 8, 6, 16

# What an error of values under the play of a policy does not say; every report of one says so.
NOT_SAID = (
    "A small error along this play says nothing about actions that it hardly takes, hence not "
    "whether the policy is good: ask greedy_gap, or audit a log that explores."
)

_Result = TypeVar("_Result")


def reads(sentence: str, *, note: str = "") -> Callable[[type[_Result]], type[_Result]]:
    """Give the class of a result `__str__` and `_repr_html_`; in its `repr` functions have names.

    Args:
        sentence: what the result says, `{0.field:.4g}` where a field is to stand. Where that is
            traced or of a batch there is not one number to tell, and the fields speak alone. A
            result with `converged` says where it is not.
        note: what it does not say, in a sentence below the fields.
    """

    def wrap(cls: Any) -> Any:
        plain = cls.__repr__

        def __str__(self) -> str:
            foot = noted(note)
            head, *rows = _screen(_table(self, sentence), len(foot))
            head = textwrap.wrap(head, _WIDTH, max_lines=_HEAD, placeholder=" ..")
            return "\n".join([*head, *map(_fit, rows), *foot])

        def _repr_html_(self) -> str:
            (name, says), *rows = _table(self, sentence)
            cells = "".join(
                f"<tr><th>{html.escape(name)}</th><td>{html.escape(what)}</td></tr>"
                for name, what in (*rows, *([("not said", note)] if note else []))
            )
            return f"<table><caption>{html.escape(f'{name}: {says}')}</caption>{cells}</table>"

        def __repr__(self) -> str:
            fields = {name: getattr(self, name) for name in _fields(self)}
            if not any(map(_is_function, fields.values())):
                return plain(self)
            inside = ", ".join(f"{name}={_name(value)}" for name, value in fields.items())
            return f"{type(self).__name__}({inside})"

        cls._sentence = sentence
        own = vars(cls)
        for method in (__str__, _repr_html_, __repr__):
            if method is __repr__ or method.__name__ not in own:
                setattr(cls, method.__name__, method)
        return cls

    return wrap


def noted(note: str) -> list[str]:
    """A note in lines of a screen."""
    return textwrap.wrap(note, _WIDTH)


def frame(columns: Mapping[str, Any]) -> Frame:
    """Columns of one length, or numbers that stand in every row, as a pandas data frame."""
    try:
        import pandas as pd
    except ImportError as missing:
        raise ImportError(f"to_frame needs pandas: pip install pandas ({missing})") from None
    return pd.DataFrame({name: np.asarray(column) for name, column in columns.items()})


def _table(result: Any, sentence: str) -> list[tuple[str, str]]:
    """The name and the sentence; then a row a field, and a row an item of a long list."""
    fields = {name: getattr(result, name) for name in _fields(result)}
    try:
        says = sentence.format(result)
        says += "" if bool(fields.get("converged", True)) else "; not converged"
    except (TypeError, ValueError, IndexError):
        says = "traced" if any(isinstance(x, Tracer) for x in fields.values()) else "a batch"
    return [(type(result).__name__, says)] + [
        row for name, value in fields.items() for row in _rows(name, value)
    ]


def _screen(table: list[tuple[str, str]], below: int) -> list[str]:
    (name, says), *rows = table
    most = _LINES - _HEAD - below
    if len(rows) > most:
        rows = [*rows[: most - 1], ("...", f"{len(rows) - most + 1} more")]
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{name}: {says}", *(f"  {label:<{width}}  {what}" for label, what in rows)]


def _rows(name: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        items = [(f"{name}[{key}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and not _fields(value):
        items = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    else:
        return [(name, _what(value))]
    if len(items) <= _INLINE and all(isinstance(item, str | int | float) for _, item in items):
        return [(name, ", ".join(_what(item) for _, item in items) or "none")]
    rows = [(label, _what(item)) for label, item in items[:_ITEMS]]
    return rows + [("...", f"{len(items) - _ITEMS} more of {name}")] * (len(items) > _ITEMS)


def _what(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        return value
    if _is_function(value):
        return _name(value)
    if isinstance(value, Tracer):
        return f"{value.dtype} {list(value.shape)}, traced"
    if _fields(value):
        return f"{type(value).__name__}({', '.join(_fields(value))})"
    if isinstance(value, Sequence):
        return ", ".join(map(_what, value))
    if isinstance(value, float):
        return _number(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or not isinstance(dtype, np.dtype):  # also a random key, which has no numbers
        return str(value) if shape is None else f"{type(value).__name__} {list(shape)}"
    return _array(np.asarray(value))


def _array(x: np.ndarray) -> str:
    if x.ndim == 0:
        return _number(x)
    if 0 < x.size <= _NUMBERS:
        return f"[{' '.join(map(_array, x))}]"
    kind = f"{x.dtype} {list(x.shape)}"
    if not x.size or x.dtype.kind not in "biuf":
        return kind
    if x.dtype == bool:
        return f"{kind}, {x.sum()} of {x.size} true"
    good = x[~np.isnan(x)]
    span = f", {_number(good.min())} .. {_number(good.max())}" if good.size else ""
    return kind + span + (f", {x.size - good.size} NaN" if good.size < x.size else "")


def _number(x: Any) -> str:
    x = np.asarray(x)
    return format(x.item(), ".6g") if x.dtype.kind in "fc" else str(x.item())


def _fields(value: Any) -> Sequence[str]:
    """Those of a NamedTuple or a dataclass; none of anything else."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return getattr(value, "_fields", ())


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not _fields(value)


def _name(value: Any) -> str:
    """A function by its name, without an address; of anything else its repr."""
    if not _is_function(value):
        return repr(value)
    inner = getattr(value, "func", value)
    return getattr(inner, "__qualname__", type(inner).__name__).replace("<locals>.", "")


def _fit(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2] + ".."
