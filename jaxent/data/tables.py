r"""Trajectories from tables: one row for every agent and epoch.

Columns t, agent, state, action, reward; episode and signal where there are such. A table is a
pandas frame, a text file with a delimiter, or a Parquet file (`pip install jaxent[data]`). Whatever
is wrong is reported by row and column: for a text file the line that an editor shows (the heading
is line 1), else the position from 0. Nothing is dropped without being named.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from .._reads import reads
from .log_columns import read_labels, read_numbers, read_step, read_times, show_step, show_time
from .log_reading import open_table
from .log_table import OBSERVED, Table, printable, quoted
from .trajectory import Labels, Trajectory, check_trajectory

if TYPE_CHECKING:
    import pandas as pd

# The first 1000 gaps are named one by one, the others counted.
_NAMED = 1000
# A table this large is made of agents and epochs only where at least one row in so many is there.
_LARGE, _SPARSE = 2**24, 32
# Agents whose epochs without rows are counted in a message.
_COUNTED = 5


@reads("{0.trajectory.states.shape[0]} epochs of {0.trajectory.states.shape[1]} agents")
class Log(NamedTuple):
    """A trajectory as read.

    Attributes:
        trajectory: with labels as in the table.
        gaps: one line for each stretch of epochs that an agent has no rows for.
    """

    trajectory: Trajectory
    gaps: tuple[str, ...]


def read_log(
    table: "pd.DataFrame | Path | str | Log | Trajectory",
    *,
    known: Mapping[str, Sequence[Hashable]] | None = None,
    allow_gaps: bool = False,
    shared_reward: bool = False,
    columns: Mapping[str, str] | None = None,
    step: float | str | None = None,
    sep: str | None = None,
    encoding: str = "utf-8",
    observations: Sequence[str] = (),
) -> Log:
    """Read a table of agents, epochs, states, actions and rewards.

    Labels of a text file are text as written: `1` and `01` are different, `NA` is a label, and only
    an empty cell is empty. Parquet files and frames have the labels of their types, and lists
    become tuples.

    Times are integers, or timestamps (ISO 8601), which become nanoseconds since 1970. Epochs are a
    step apart: the largest that all differences within an episode are multiples of, if not given.

    Args:
        table: a pandas frame; the path of a file that ends in .csv or .tsv (maybe .gz), .parquet or
            .pq, or of another text file with `sep`; or what has been read already, as it is.
        known: labels that may occur in a column (agent, state, action, signal), in the order of
            their codes; in a column not named, whatever occurs, sorted. A label that is no text
            stands for the text that it is written as, so `known={"state": (0, 1)}` makes integers
            of the cells of a text file.
        allow_gaps: whether agents may come and go. Epochs without a row are then marked in
            `Trajectory.present` and listed in `Log.gaps`; they are an error otherwise.
        shared_reward: whether the reward is one for all agents, equal in all rows of an epoch.
        columns: other headings, as `{"t": "time", "agent": "id"}`.
        step: of t between epochs, in seconds for timestamps.
        sep: the delimiter of a text file; a comma, or a tab for .tsv, if not given.
        encoding: of a text file.
        observations: headings of columns of numbers that agents see, which are kept as
            `Trajectory.observations`; a column of states may then be missing.

    Raises:
        ValueError: naming the file, the row and the column, for a missing column or value, a time
            that is no integer or negative, an unknown label, a reward that is no finite number, two
            rows of one agent and epoch, signals of one epoch that differ, and gaps; for a row with
            more or fewer cells than the heading, and a heading that is there twice.
    """
    if isinstance(table, (Log, Trajectory)):
        given = (known, allow_gaps, shared_reward, columns, step, sep, observations)
        if any(given):
            raise ValueError("table: has been read already; give the options where it is read")
        return table if isinstance(table, Log) else Log(table, _gaps(table, None, None))
    may = dict(known or {})
    other = [name for name in may if name not in ("agent", "state", "action", "signal")]
    if other:
        raise ValueError(f"known: {printable(other[0])} is none of agent, state, action, signal")
    wanted = _headings(observations)
    rows = open_table(
        table, columns=dict(columns or {}), sep=sep, encoding=encoding, observations=wanted
    )
    if not rows.num_rows:
        raise ValueError(f"{rows.name}: has no rows")
    time, unit = read_times(rows)
    reward = read_numbers(rows, "reward")
    numbers = [read_numbers(rows, f"{OBSERVED}{k}") for k in range(len(wanted))]
    (agent, agents), (state, states), (action, actions), (signal, signals) = (
        read_labels(rows, column, may.get(column))
        for column in ("agent", "state", "action", "signal")
    )
    part, _ = read_labels(rows, "episode", None)

    # Epochs of all episodes, in order.
    clock, tick = np.unique(time, return_inverse=True)
    when, epoch = np.unique(part.astype(np.int64) * len(clock) + tick, return_inverse=True)
    episode, at = when // len(clock), clock[when % len(clock)]
    num_cells = len(when) * len(agents)
    if num_cells > max(_LARGE, _SPARSE * rows.num_rows):
        raise ValueError(
            f"{rows.name}: column agent: {len(agents)} agents and {len(when)} epochs, but only "
            f"{rows.num_rows} rows; is each column what its heading says?"
        )

    def spread(values: np.ndarray, nothing: int = 0) -> np.ndarray:
        out = np.full((len(when), len(agents)), nothing, values.dtype)
        out[epoch, agent] = values
        return out

    seen_at = spread(np.arange(rows.num_rows), -1)  # the row of each epoch and agent
    if (seen_at[epoch, agent] != np.arange(rows.num_rows)).any():
        _fail_twice(epoch * len(agents) + agent, [show_time(t, unit) for t in time], agents, rows)
    trajectory = Trajectory(
        states=spread(state),
        actions=spread(action),
        signal=_one_an_epoch("signal", signal, epoch, rows),
        rewards=_one_an_epoch("reward", reward, epoch, rows) if shared_reward else spread(reward),
        episode=episode.astype(np.int32),
        time=_small(at),
        present=seen_at >= 0,
        labels=Labels(agents, states, actions, signals),
        step=_step(step, episode, at, unit, seen_at, rows),
        unit=unit,
        observations=np.stack([spread(x) for x in numbers], axis=2) if numbers else None,
    )
    gaps = _gaps(trajectory, seen_at, rows)
    if gaps and not allow_gaps:
        raise ValueError(
            f"{rows.name}: {gaps[0]}; epochs without rows: {count_gaps(trajectory)}; fill "
            "the rows, give the step of t (step=, --step), or allow gaps (allow_gaps=True, "
            "--allow-gaps)"
        )
    return Log(trajectory, gaps)


def _headings(observations: Sequence[str]) -> tuple[str, ...]:
    """Of the columns of observations, each once."""
    if isinstance(observations, str):
        raise ValueError(f"observations: wanted a list of headings, got {quoted(observations)}")
    made = tuple(observations)
    twice = next((h for k, h in enumerate(made) if h in made[:k]), None)
    if twice is not None:
        raise ValueError(f"observations: {quoted(twice)} is there twice")
    return made


def to_frame(trajectory: Trajectory) -> "pd.DataFrame":
    """The trajectory as a pandas frame, with the labels, one row for each agent and epoch.

    Observations are columns `observation_0`, `observation_1`, ...
    """
    check_trajectory(trajectory)
    import pandas as pd

    labels = trajectory.labels
    present = np.asarray(trajectory.paid)  # a table has no word for a row without a reward
    epoch, agent = np.nonzero(present)
    rewards = np.asarray(trajectory.rewards)
    time = np.asarray(trajectory.time)[epoch]
    columns = {
        "episode": np.asarray(trajectory.episode)[epoch],
        "t": time.astype("datetime64[ns]") if trajectory.unit else time,
        "agent": [labels.agents[i] for i in agent],
        "state": [labels.states[i] for i in np.asarray(trajectory.states)[present]],
        "action": [labels.actions[i] for i in np.asarray(trajectory.actions)[present]],
        "reward": rewards[epoch] if trajectory.shares_reward else rewards[present],
    }
    if trajectory.num_signals > 1:
        columns["signal"] = [labels.signals[i] for i in np.asarray(trajectory.signal)[epoch]]
    if trajectory.observations is not None:
        seen = np.asarray(trajectory.observations)[present]
        columns |= {f"observation_{k}": x for k, x in enumerate(seen.T)}
    return pd.DataFrame(columns)


def count_gaps(trajectory: Trajectory) -> str:
    """How many epochs lack a row, agent by agent, the most first; "" where none does."""
    lacking = (~np.asarray(trajectory.present)).sum(0).astype(object)  # Python's integers
    lacking = lacking + int((_ahead(trajectory)[1] // trajectory.step - 1).clip(0).sum())
    order = np.argsort(-lacking, kind="stable")
    order = order[lacking[order] > 0]
    agents = trajectory.labels.agents
    told = ", ".join(f"{printable(agents[i])} lacks {lacking[i]}" for i in order[:_COUNTED])
    return told + (
        f", and {len(order) - _COUNTED} more agents some" if len(order) > _COUNTED else ""
    )


def _ahead(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Where an epoch is of the same episode as the one before, and the times between these."""
    episode = np.asarray(trajectory.episode)
    time = np.asarray(trajectory.time).astype(np.int64)
    after = np.flatnonzero(episode[1:] == episode[:-1]) + 1
    return after, time[after] - time[after - 1]


def _small(values: np.ndarray) -> np.ndarray:
    """As int32 where that holds them."""
    fits = np.iinfo(np.int32)
    if len(values) and fits.min <= values.min() and values.max() <= fits.max:
        return values.astype(np.int32)
    return values


def _step(
    given: float | str | None,
    episode: np.ndarray,
    time: np.ndarray,
    unit: str,
    seen_at: np.ndarray,
    rows: Table,
) -> int:
    """The step between epochs, as given or the largest that fits."""
    after = np.flatnonzero(episode[1:] == episode[:-1]) + 1
    ahead = time[after] - time[after - 1]
    if (ahead < 0).any():  # in 64 bits: they are in order
        row = int(seen_at[after[int((ahead < 0).argmax())]].max())
        rows.fail(row, "t", "is more than 2^63 nanoseconds after the epoch before")
    if given is None:
        return int(np.gcd.reduce(ahead)) if len(ahead) else 1
    step = read_step(given, unit)
    off = ahead % step != 0
    if off.any():
        k = int(off.argmax())
        rows.fail(
            int(seen_at[after[k]].max()),
            "t",
            f"{show_time(int(time[after[k]]), unit)} is {show_step(int(ahead[k]), unit)} after the "
            f"epoch before, no multiple of the step {show_step(step, unit)}",
        )
    return step


def _fail_twice(
    cell: np.ndarray, time: Sequence[str], agents: tuple[Hashable, ...], rows: Table
) -> NoReturn:
    """Name the first row whose cell, epoch * N + agent, an earlier row has taken."""
    _, first, which = np.unique(cell, return_index=True, return_inverse=True)
    row = int((first[which] < np.arange(len(cell))).argmax())
    rows.fail(
        row,
        "agent",
        f"{printable(agents[cell[row] % len(agents)])} has a row for t = {time[row]} already, "
        f"row {rows.number(int(first[which[row]]))}",
    )


def _one_an_epoch(column: str, values: np.ndarray, epoch: np.ndarray, rows: Table) -> np.ndarray:
    """The value that all rows of an epoch have."""
    one = np.zeros(epoch.max() + 1, values.dtype)
    one[epoch] = values
    if (one[epoch] != values).any():
        row = int((one[epoch] != values).argmax())
        found = rows.columns[column]
        value = printable(found.values[found.codes[row]])
        rows.fail(row, column, f"{value} differs from that of another agent at the same t")
    return one


def _gaps(
    trajectory: Trajectory, seen_at: np.ndarray | None, rows: Table | None
) -> tuple[str, ...]:
    """One line for each jump in time and each stretch of epochs without rows of an agent."""
    labels, present = trajectory.labels, np.asarray(trajectory.present)
    time, episode = np.asarray(trajectory.time), np.asarray(trajectory.episode)

    def place(epoch: int, agent: int | None, column: str) -> str:
        if seen_at is None or rows is None:
            return f"epoch {epoch}"
        row = seen_at[epoch].max() if agent is None else seen_at[epoch, agent]
        return rows.place(int(row), column)

    def at(epoch: int) -> str:
        return show_time(time[epoch], trajectory.unit)

    after, ahead = _ahead(trajectory)
    jumps = after[ahead > trajectory.step]
    lines = [
        f"{place(k, None, 't')}: no rows between {at(k - 1)} and {at(k)}, a step being "
        f"{show_step(trajectory.step, trajectory.unit)}"
        for k in jumps[:_NAMED].tolist()
    ]
    padded = np.vstack([present[:1] | True, present, present[:1] | True])
    agent, start = np.nonzero((padded[:-1] & ~padded[1:]).T)
    _, stop = np.nonzero((~padded[:-1] & padded[1:]).T)
    for k in range(min(len(agent), _NAMED - len(lines))):
        i, a, b = int(agent[k]), int(start[k]), int(stop[k])
        if b - a == len(present):
            lines.append(f"column agent: {printable(labels.agents[i])} has no rows")
            continue
        near, side = (a - 1, "after") if a else (b, "before")
        lines.append(
            f"{place(near, i, 'agent')}: {printable(labels.agents[i])} has no rows {side} this one "
            f"from t = {at(a)} (episode {episode[a]}) to t = {at(b - 1)} (episode {episode[b - 1]})"
        )
    more = len(jumps) + len(agent) - len(lines)
    return (*lines, f"and {more} more stretches without rows") if more else tuple(lines)
