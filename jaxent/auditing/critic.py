"""A critic along a log: its value of the team at every epoch, from arrays, a frame or a file.

A file has a row for every epoch of the log, in its order or named by a column t (and episode), and
one column, the team's value, or one for each agent, which are added up. Or it has a row for every
agent and epoch, as the log has, with columns t and agent. Whatever does not match the log's rows is
refused in one line.
"""

from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..data.linear_values import LinearQ, check_linear
from ..data.local_learning import LocalQ
from ..data.local_limit import table_sum
from ..data.log_columns import is_number, read_labels, read_numbers, read_times, show_time
from ..data.log_reading import open_columns
from ..data.log_table import Table, printable, quoted
from ..data.team_features import as_numbers
from ..data.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ("t", "episode", "agent")


def critic_along(
    critic: "LocalQ | LinearQ | ArrayLike | pd.DataFrame | Path",
    trajectory: Trajectory,
    *,
    columns: Mapping[str, str] | None = None,
    sep: str | None = None,
    encoding: str = "utf-8",
) -> np.ndarray:
    """The value that a critic gives the team at every epoch, `[T]`.

    Args:
        critic: `[T]` of the team or `[T, N]` of the agents; a frame or the path of a file with such
            columns; or local values, in tables or linear.
        trajectory: T epochs of N agents.
        columns: other headings of t, episode and agent, as `read_log` has them.
        sep: the delimiter of a text file.
        encoding: of a text file.

    Raises:
        ValueError: naming both counts, or the first row that does not match the log.
    """
    if isinstance(critic, LinearQ):
        check_linear(trajectory, critic)
        return critic.value.sum(1)
    if isinstance(critic, LocalQ):
        return table_sum(trajectory, np.asarray(critic.value), None)
    if type(getattr(critic, "columns", None)).__name__ == "RangeIndex":
        critic = np.asarray(critic)  # a frame whose columns are numbered has no names
    if isinstance(critic, (str, PathLike)) or hasattr(critic, "columns"):
        return _from_table(critic, trajectory, dict(columns or {}), sep, encoding)  # type: ignore
    values = as_numbers("critic", critic)
    number, agents = trajectory.num_epochs, trajectory.num_agents
    if values.shape == (number, 1):
        values = values[:, 0]
    if values.shape not in ((number,), (number, agents)):
        raise ValueError(
            f"critic: wanted shape [{number}] of the team or [{number}, {agents}] of the agents, "
            f"one row for each epoch of the log, got {list(values.shape)}"
        )
    used = np.ones(number, bool) if values.ndim == 1 else np.asarray(trajectory.present)
    bad = np.argwhere(used & ~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise ValueError(f"critic[{place}] is {values[tuple(bad[0])]}; wanted a finite number")
    return values if values.ndim == 1 else np.where(used, values, 0).sum(1)


def _from_table(
    critic: "pd.DataFrame | Path | str",
    trajectory: Trajectory,
    columns: dict[str, str],
    sep: str | None,
    encoding: str,
) -> np.ndarray:
    labels = set(map(str, trajectory.labels.agents))
    headings = {key: columns.get(key, key) for key in _KEYS if key not in labels}

    def choose(name: str, heading: list[str], sep: str | None) -> dict[str, int]:
        # pandas writes its row numbers first, with an empty heading.
        places = {h: k for k, h in enumerate(heading) if h}
        if len(places) < len(heading) - ("" in heading[:1]):
            twice = next((h for k, h in enumerate(heading) if h in heading[:k]), "")
            raise ValueError(f"{name}: column {quoted(twice)} is there twice; rename one of them")
        for key, wanted in headings.items():
            if wanted in places:
                places[key] = places.pop(wanted)
        return places

    table = open_columns(critic, choose, sep=sep, encoding=encoding)
    own = [name for name in table.columns if name not in headings]
    present = np.asarray(trajectory.present)
    total = np.zeros(trajectory.num_epochs)
    if "agent" in table.columns and "agent" in headings:
        value, epoch, agent = _of_agents(table, own, trajectory)
        np.add.at(total, epoch, np.where(present[epoch, agent], value, 0))
        return total
    of_agent = _agents_of(table, own, trajectory)
    epoch = _once(table, trajectory, *_epochs(table, trajectory))
    for name, agent in zip(own, of_agent, strict=True):
        used = np.ones(len(epoch), bool) if agent is None else present[epoch, agent]
        total[epoch] += np.where(used, _numbers(table, name, used), 0)
    return total


def _agents_of(table: Table, own: list[str], trajectory: Trajectory) -> list[int | None]:
    """The agent of each column; None for one column, which is the team's."""
    agents = trajectory.labels.agents
    written: dict[str, int] = {str(label): i for i, label in enumerate(agents)}
    if len(own) == 1 and own[0] not in written:
        return [None]
    known = [name for name in own if name in written]
    lacking = [label for label in agents if str(label) not in own]
    if len(own) == len(agents) and not lacking:
        return [written[name] for name in own]
    if len(own) != len(agents) or known:
        raise ValueError(f"{table.name}: {_wrong_columns(own, known, lacking, agents)}")
    if all(map(is_number, own)):
        raise ValueError(
            f"{table.name}: the first row is the heading, and {quoted(own[0])} is no agent; "
            "name the columns"
        )
    return list(range(len(agents)))


def _wrong_columns(
    own: list[str], known: list[str], lacking: list[Hashable], agents: tuple[Hashable, ...]
) -> str:
    """Why columns are neither the team's nor the agents'."""
    wanted = f"wanted one column of the team or one for each of {len(agents)} agents"
    if not own:
        return f"has no column of values; {wanted}"
    strange = [name for name in own if name not in known]
    if known and strange:
        return f"column {quoted(strange[0])} is no agent of the log; {wanted}"
    if known and lacking:
        return f"agent {printable(lacking[0])} has no column; {wanted}, got {len(own)}"
    return f"{wanted}, got {len(own)}"


def _of_agents(
    table: Table, own: list[str], trajectory: Trajectory
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, epoch and agent of every row, where a row is of one agent."""
    agents, present = trajectory.labels.agents, np.asarray(trajectory.present)
    if len(own) != 1 or "t" not in table.columns:
        raise ValueError(
            f"{table.name}: has a column agent; wanted t and one column of values beside it, "
            f"got {', '.join(map(printable, own)) or 'none'}"
        )
    agent, _ = read_labels(table, "agent", agents)
    epoch, _ = _epochs(table, trajectory)
    cell = epoch * len(agents) + agent
    first, again = _seen_before(cell)
    if again.any():
        row = int(again.argmax())
        table.fail(
            row, "agent", f"{printable(agents[agent[row]])} has a row for this t already, "
            f"row {table.number(int(first[row]))}",
        )  # fmt: skip
    there = np.zeros(present.shape, bool)
    there[epoch, agent] = True
    lacking = np.argwhere(present & ~there)
    if len(lacking):
        t, i = lacking[0]
        raise ValueError(
            f"{table.name}: has no row of {printable(agents[i])} for t = "
            f"{show_time(int(np.asarray(trajectory.time)[t]), trajectory.unit)}; the file has "
            f"{table.num_rows} rows, the log {int(present.sum())}"
        )
    return _numbers(table, own[0], present[epoch, agent]), epoch, agent


def _epochs(table: Table, trajectory: Trajectory) -> tuple[np.ndarray, str]:
    """The epoch of every row, and the counts that a refusal names."""
    number, rows = trajectory.num_epochs, table.num_rows
    log_rows = int(np.asarray(trajectory.present).sum())
    counts = f"the file has {rows} rows, the log {number} epochs ({log_rows} rows)"
    if "t" not in table.columns:
        if rows == number:
            return np.arange(number), counts
        raise ValueError(
            f"{table.name}: {counts}; wanted one row for each epoch, in order or with a column t"
        )
    if not rows:
        raise ValueError(f"{table.name}: {counts}")
    time, unit = read_times(table)
    if unit != trajectory.unit:
        kinds = ("timestamps", "numbers")
        kinds = kinds if unit else kinds[::-1]
        table.fail(0, "t", f"has {kinds[0]}, where the log has {kinds[1]}")
    log_time = np.asarray(trajectory.time).astype(np.int64)
    log_part = np.asarray(trajectory.episode).astype(np.int64)
    part = _parts(table, log_part)
    if part is None:
        if rows == number and (time == log_time).all():
            return np.arange(number), counts
        if len(np.unique(log_time)) < number:
            raise ValueError(
                f"{table.name}: column episode is missing: the log has {log_part.max() + 1} "
                "episodes, and times that are in several"
            )
        part, log_part = np.zeros(rows, np.int64), np.zeros(number, np.int64)
    clock = np.unique(np.concatenate([time, log_time]))
    code = part * len(clock) + np.searchsorted(clock, time)
    log_code = log_part * len(clock) + np.searchsorted(clock, log_time)
    epoch = np.minimum(np.searchsorted(log_code, code), number - 1)  # epochs are in order
    strange = log_code[epoch] != code
    if strange.any():
        row = int(strange.argmax())
        shown = show_time(time[row], trajectory.unit)
        table.fail(row, "t", f"{shown} is no epoch of the log; {counts}")
    return epoch, counts


def _once(table: Table, trajectory: Trajectory, epoch: np.ndarray, counts: str) -> np.ndarray:
    """The epochs of the rows, if each has one."""
    time = np.asarray(trajectory.time)
    first, again = _seen_before(epoch)
    if again.any():
        row = int(again.argmax())
        shown, line = (
            show_time(int(time[epoch[row]]), trajectory.unit),
            table.number(int(first[row])),
        )
        table.fail(row, "t", f"{shown} has a row already, row {line}; {counts}")
    lacking = np.setdiff1d(np.arange(len(time)), epoch)
    if len(lacking):
        shown = show_time(int(time[lacking[0]]), trajectory.unit)
        raise ValueError(f"{table.name}: has no row for t = {shown} of the log; {counts}")
    return epoch


def _seen_before(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row with the code of each, and whether that is an earlier one."""
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    return first[place], first[place] < np.arange(len(codes))


def _parts(table: Table, log_part: np.ndarray) -> np.ndarray | None:
    """The number of the episode of every row, if the file has such a column."""
    if "episode" not in table.columns:
        return None
    part, labels = read_labels(table, "episode", None)
    if len(labels) != log_part.max() + 1:
        raise ValueError(
            f"{table.name}: column episode: has {len(labels)} episodes, and the log "
            f"{log_part.max() + 1}"
        )
    return part.astype(np.int64)


def _numbers(table: Table, name: str, used: np.ndarray) -> np.ndarray:
    """A column of finite numbers, where they are used; another cell may be empty."""
    column = table.columns[name]
    empty = (column.codes < 0) & ~used
    if empty.any():
        codes = np.where(empty, len(column.values), column.codes)
        column = column._replace(codes=codes, values=[*column.values, 0.0])
    return read_numbers(table._replace(columns={name: column}), name)
