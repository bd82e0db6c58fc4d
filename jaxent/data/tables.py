r"""Trajectories from tables: one row for every agent and epoch.

Columns t, agent, state, action, reward; episode and signal where there are such. A table is a
pandas frame, a CSV file or a Parquet file (`pip install jaxent[data]`). Whatever is wrong is
reported by row and column: for a CSV file the line that an editor shows (the heading is line 1),
else the position from 0. Nothing is dropped without being named.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from .trajectory import Labels, Trajectory

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("t", "agent", "state", "action", "reward")
# The first 1000 gaps are named one by one, the others counted.
_NAMED = 1000


class Log(NamedTuple):
    """A trajectory as read.

    Attributes:
        trajectory: with labels as in the table.
        gaps: one line for each stretch of epochs that an agent has no rows for.
    """

    trajectory: Trajectory
    gaps: tuple[str, ...]


class _Rows(NamedTuple):
    """How messages name places."""

    name: str
    first: int
    word: str

    def fail(self, row: int, column: str, problem: str) -> NoReturn:
        raise ValueError(f"{self.name}: {self.word} {row + self.first}, column {column}: {problem}")


def read_log(
    table: "pd.DataFrame | Path | str",
    *,
    known: Mapping[str, Sequence[Hashable]] | None = None,
    allow_gaps: bool = False,
    shared_reward: bool = False,
) -> Log:
    """Read a table of agents, epochs, states, actions and rewards.

    Args:
        table: a pandas frame, or the path of a file that ends in .csv, .csv.gz, .parquet or .pq.
        known: labels that may occur in a column (agent, state, action, signal), in the order of
            their codes; in a column not named, whatever occurs, sorted.
        allow_gaps: whether agents may come and go. Epochs without a row are then marked in
            `Trajectory.present` and listed in `Log.gaps`; they are an error otherwise.
        shared_reward: whether the reward is one for all agents, equal in all rows of an epoch.

    Raises:
        ValueError: naming the file, the row and the column, for a missing column or value, a time
            that is no integer or negative, an unknown label, a reward that is no finite number, two
            rows of one agent and epoch, signals of one epoch that differ, and gaps.
    """
    frame, rows = _open(table)
    _check_columns(frame, rows)
    reward, time = _numbers(frame, "reward", rows), _times(frame, rows)
    may = dict(known or {})
    (agent, agents), (state, states), (action, actions), (signal, signals) = (
        _codes(frame, column, may.pop(column, None), rows)
        for column in ("agent", "state", "action", "signal")
    )
    if may:
        raise ValueError(f"known: {next(iter(may))} is none of agent, state, action, signal")
    part, _ = _codes(frame, "episode", None, rows)

    # Epochs of all episodes, in order.
    length = int(time.max()) + 1
    when, epoch = np.unique(part.astype(np.int64) * length + time, return_inverse=True)

    def spread(values: np.ndarray, nothing: int = 0) -> np.ndarray:
        out = np.full((len(when), len(agents)), nothing, values.dtype)
        out[epoch, agent] = values
        return out

    seen_at = spread(np.arange(len(frame)), -1)  # the row of each epoch and agent
    if (seen_at[epoch, agent] != np.arange(len(frame))).any():
        _fail_twice(epoch * len(agents) + agent, time, agents, rows)
    trajectory = Trajectory(
        states=spread(state),
        actions=spread(action),
        signal=_one_an_epoch("signal", signal, epoch, rows),
        rewards=_one_an_epoch("reward", reward, epoch, rows) if shared_reward else spread(reward),
        episode=(when // length).astype(np.int32),
        time=(when % length).astype(np.int32),
        present=seen_at >= 0,
        labels=Labels(agents, states, actions, signals),
    )
    gaps = _gaps(trajectory, seen_at, rows)
    if gaps and not allow_gaps:
        more = f" ({len(gaps) - 1} more such)" if gaps[1:] else ""
        raise ValueError(f"{rows.name}: {gaps[0]}{more}; fill the rows or allow gaps")
    return Log(trajectory, gaps)


def to_frame(trajectory: Trajectory) -> "pd.DataFrame":
    """The trajectory as a pandas frame, with the labels, one row for each agent and epoch."""
    import pandas as pd

    labels = trajectory.labels
    present = np.asarray(trajectory.present)
    epoch, agent = np.nonzero(present)
    rewards = np.asarray(trajectory.rewards)
    columns = {
        "episode": np.asarray(trajectory.episode)[epoch],
        "t": np.asarray(trajectory.time)[epoch],
        "agent": [labels.agents[i] for i in agent],
        "state": [labels.states[i] for i in np.asarray(trajectory.states)[present]],
        "action": [labels.actions[i] for i in np.asarray(trajectory.actions)[present]],
        "reward": rewards[epoch] if trajectory.shares_reward else rewards[present],
    }
    if trajectory.num_signals > 1:
        columns["signal"] = [labels.signals[i] for i in np.asarray(trajectory.signal)[epoch]]
    return pd.DataFrame(columns)


def _open(table: "pd.DataFrame | Path | str") -> "tuple[pd.DataFrame, _Rows]":
    """The table as a frame, and how its rows are counted."""
    try:
        import pandas as pd
    except ImportError:
        raise ValueError("tables need pandas: pip install 'jaxent[data]'") from None
    if isinstance(table, pd.DataFrame):
        return table, _Rows("table", 0, "row")
    path = Path(table)
    comma = path.name.lower().endswith((".csv", ".csv.gz"))
    if not comma and path.suffix.lower() not in (".parquet", ".pq"):
        raise ValueError(f"{path}: wanted a file that ends in .csv, .csv.gz, .parquet or .pq")
    try:
        frame = pd.read_csv(path) if comma else pd.read_parquet(path)
    except Exception as error:  # whatever a broken file makes pandas raise
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    return frame, _Rows(str(path), 2 if comma else 0, "row")


def _check_columns(frame: "pd.DataFrame", rows: _Rows) -> None:
    """Raise unless the columns are there, with a row and no empty cell."""
    missing = [c for c in _NEEDED if c not in frame.columns]
    if missing:
        raise ValueError(
            f"{rows.name}: column {missing[0]} is missing; wanted {', '.join(_NEEDED)} and maybe "
            f"episode and signal, got {', '.join(map(str, frame.columns))}"
        )
    if not len(frame):
        raise ValueError(f"{rows.name}: has no rows")
    for column in (*_NEEDED, "episode", "signal"):
        if column in frame.columns:
            empty = frame[column].isna().to_numpy()
            if empty.any():
                rows.fail(int(empty.argmax()), column, "is empty or not a number")


def _numbers(frame: "pd.DataFrame", column: str, rows: _Rows) -> np.ndarray:
    values = frame[column].to_numpy()
    if values.dtype.kind not in "iufb":
        for row, value in enumerate(values):
            try:
                float(value)
            except (TypeError, ValueError):
                rows.fail(row, column, f"{value!r} is not a number")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).argmax())
        rows.fail(row, column, f"{values[row]} is not finite")
    return values


def _times(frame: "pd.DataFrame", rows: _Rows) -> np.ndarray:
    values = _numbers(frame, "t", rows)
    if (values != np.round(values)).any():
        row = int((values != np.round(values)).argmax())
        rows.fail(row, "t", f"{values[row]:g} is not an integer")
    if (values < 0).any():
        row = int((values < 0).argmax())
        rows.fail(row, "t", f"{values[row]:.0f} is negative; count epochs from 0")
    return values.astype(np.int64)


def _fail_twice(
    cell: np.ndarray, time: np.ndarray, agents: tuple[Hashable, ...], rows: _Rows
) -> NoReturn:
    """Name the first row whose cell, epoch * N + agent, an earlier row has taken."""
    _, first, which = np.unique(cell, return_index=True, return_inverse=True)
    row = int((first[which] < np.arange(len(cell))).argmax())
    rows.fail(
        row,
        "agent",
        f"{agents[cell[row] % len(agents)]!s} has a row for t = {time[row]} already, "
        f"{rows.word} {first[which[row]] + rows.first}",
    )


def _codes(
    frame: "pd.DataFrame", column: str, known: Sequence[Hashable] | None, rows: _Rows
) -> tuple[np.ndarray, tuple[Hashable, ...]]:
    """Codes of a column, and the labels that they stand for."""
    import pandas as pd

    if column not in frame.columns:
        return np.zeros(len(frame), np.int32), (0,) if known is None else tuple(known)
    if known is None:
        try:
            codes, found = pd.factorize(frame[column], sort=True)
        except TypeError:  # labels of several types have no order
            codes, found = pd.factorize(frame[column])
        return codes.astype(np.int32), tuple(found.tolist())
    codes = pd.Index(list(known)).get_indexer(pd.Index(frame[column]))
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        value = frame[column].iloc[row]
        rows.fail(row, column, f"{value!s} is none of the {len(known)} labels")
    return codes.astype(np.int32), tuple(known)


def _one_an_epoch(column: str, values: np.ndarray, epoch: np.ndarray, rows: _Rows) -> np.ndarray:
    """The value that all rows of an epoch have."""
    one = np.zeros(epoch.max() + 1, values.dtype)
    one[epoch] = values
    if (one[epoch] != values).any():
        row = int((one[epoch] != values).argmax())
        rows.fail(row, column, f"{values[row]} differs from that of another agent at the same t")
    return one


def _gaps(trajectory: Trajectory, seen_at: np.ndarray, rows: _Rows) -> tuple[str, ...]:
    """One line for each jump in time and each stretch of epochs without rows of an agent."""
    labels, present = trajectory.labels, np.asarray(trajectory.present)
    time, episode = np.asarray(trajectory.time), np.asarray(trajectory.episode)
    lines = []
    jump = (episode[1:] == episode[:-1]) & (time[1:] > time[:-1] + 1)
    for k in np.flatnonzero(jump) + 1:
        row = seen_at[k].max() + rows.first
        lines.append(f"{rows.word} {row}, column t: no rows between {time[k - 1]} and {time[k]}")
    padded = np.vstack([present[:1] | True, present, present[:1] | True])
    agent, start = np.nonzero((padded[:-1] & ~padded[1:]).T)
    _, stop = np.nonzero((~padded[:-1] & padded[1:]).T)
    for i, a, b in zip(agent[:_NAMED], start[:_NAMED], stop[:_NAMED], strict=True):
        before, after = seen_at[a - 1, i] if a else -1, seen_at[b, i] if b < len(present) else -1
        near = before if before >= 0 else after
        lines.append(
            f"{rows.word} {near + rows.first}, column agent: {labels.agents[i]!s} has no rows "
            f"{'after' if before >= 0 else 'before'} this one from t = {time[a]} (episode "
            f"{episode[a]}) to t = {time[b - 1]} (episode {episode[b - 1]})"
        )
    if len(agent) > _NAMED:
        lines.append(f"and {len(agent) - _NAMED} more stretches without rows")
    return tuple(lines)
