r"""What agents observe in numbers, as states or as features of each agent's own.

A value that is linear in features is learned as a table is: a table has an indicator for each local
pair. Where observations come again and again they are states, and have indicators. Where they are
continuous the features are the observations themselves, their squares and products, random waves of
them (random_features.py), and products with an indicator of each action, as many as the log
carries.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_positive_int
from ..numerics.memory import check_memory
from .random_features import fourier_features
from .trajectory import Trajectory, agent_types, check_trajectory

Array = jax.Array

# Times that an observation comes, on average, if it is a state; rows for a feature as well.
_VISITS = 50
# Features of an agent that are made unasked, at most, and how many numbers these are over a log.
_MOST, _MOST_NUMBERS = 500, 2**25
# A direction with less than this share of the variance is what others say already. Of waves, which
# nearly span each other, what is left of that size is their tails: a few rows would make it.
_SAME, _TAIL = 1e-9, 1e-4


def numbers_seen(trajectory: Trajectory) -> np.ndarray:
    """Observations of every agent, with its state and the signal where there are several.

    `[T, N, p]`; 0 where an agent is absent.
    """
    present = np.asarray(trajectory.present)
    parts = []
    if trajectory.observations is not None:
        parts.append(np.asarray(trajectory.observations, np.float64))
    if trajectory.num_states > 1:
        parts.append(np.asarray(trajectory.states)[..., None] == np.arange(trajectory.num_states))
    if trajectory.num_signals > 1:
        signal = np.asarray(trajectory.signal)[:, None, None] == np.arange(trajectory.num_signals)
        parts.append(np.broadcast_to(signal, (*present.shape, signal.shape[-1])))
    if not parts:
        return np.zeros((*present.shape, 0))
    return np.where(present[..., None], np.concatenate(parts, axis=2), 0.0)


def actions_taken(trajectory: Trajectory) -> np.ndarray:
    """Indicators of every agent's action, `[T, N, A]`; 0 where it is absent."""
    taken = np.asarray(trajectory.actions)[..., None] == np.arange(trajectory.num_actions)
    return (taken & np.asarray(trajectory.present)[..., None]).astype(float)


def states_of_observations(trajectory: Trajectory) -> Trajectory:
    """The same log with a state for each different observation, where these come 50 times each.

    Else, and where there are none, as it is.
    """
    if trajectory.observations is None:
        return trajectory
    seen = numbers_seen(replace(trajectory, signal=np.zeros_like(trajectory.signal)))
    present = np.asarray(trajectory.present)
    most = _most_states(trajectory)
    some = seen[present][:: max(present.sum() // 1000, 1)]
    if len(np.unique(some[: 2 * most + 2], axis=0)) > most:
        return trajectory  # before all rows are sorted
    table, codes = np.unique(seen[present], axis=0, return_inverse=True)
    if len(table) > most:
        return trajectory
    states = np.zeros(present.shape, np.int32)
    states[present] = codes.reshape(-1)
    labels = tuple(row[0] if len(row) == 1 else tuple(row) for row in table.tolist())
    return replace(
        trajectory,
        states=states,
        observations=None,
        labels=trajectory.labels._replace(states=labels),
    )


def _most_states(trajectory: Trajectory) -> int:
    """Observations that a table has a row for, at most."""
    rows = trajectory.num_epochs
    pairs = min(rows // _VISITS, _MOST_NUMBERS // (rows * trajectory.num_agents))
    return pairs // (trajectory.num_actions * trajectory.num_signals)


def own_features(
    key: Array,
    trajectory: Trajectory,
    *,
    num_features: int | None = None,
    types: ArrayLike | None = None,
) -> np.ndarray:
    r"""Features of each agent's own observation and action, in which its local value is linear.

    An indicator of each action, and $z_i$, $z_i \otimes z_i$, $z_i \otimes 1\{a_i\}$,
    $w(z_i)$ and $w(z_i) \otimes 1\{a_i\}$ as far as d goes, brought to mean 0, variance 1 and
    no correlation; z the observations, and w random waves of them. Observations that come again 50
    times each are states, and a log without observations has states: these have an indicator of
    each local pair.

    Args:
        key: of `jax.random.key`, for the waves.
        trajectory: T epochs of N agents.
        num_features: d at most; one for 50 rows of an agent and no more than 500 if not given.
            Static.
        types: of every agent, `[N]`; agents of a type have the same features. Each is its own if
            not given.

    Returns:
        `[T, N, d]`; 0 where an agent is absent.

    Raises:
        ValueError: for a log too short for the observations as they are, with the length that would
            do.

    References:
        Rahimi and Recht, Random Features for Large-Scale Kernel Machines, 2007.
    """
    check_trajectory(trajectory)
    kinds, number = agent_types(trajectory, types)
    kinds = np.asarray(kinds)
    if num_features is not None:
        check_positive_int("num_features", num_features)
    found = states_of_observations(trajectory)
    present = np.asarray(trajectory.present)
    if found.observations is None:
        _check_room(trajectory, found.num_pairs)
        return ((np.asarray(found.pairs)[..., None] == np.arange(found.num_pairs))
                & present[..., None]).astype(float)  # fmt: skip
    seen, taken = numbers_seen(trajectory), actions_taken(trajectory)
    made = []
    for kind in range(number):
        agents = np.flatnonzero(kinds == kind)
        rows = present[:, agents]
        here = np.argwhere(rows)
        columns = _of_rows(
            jax.random.fold_in(key, kind),
            seen[:, agents][rows],
            taken[:, agents][rows],
            num_features or min(_MOST, len(here) // _VISITS),
        )
        made.append((agents, here, columns))
    width = max((columns.shape[1] for *_, columns in made), default=1)
    _check_room(trajectory, width)
    out = np.zeros((*present.shape, width))
    for agents, here, columns in made:
        out[here[:, 0], agents[here[:, 1]], : columns.shape[1]] = columns
    return out


def _check_room(trajectory: Trajectory, width: int) -> None:
    rows, agents = trajectory.num_epochs, trajectory.num_agents
    check_memory(
        f"features: {width} of {agents} agents at {rows} epochs",
        8.0 * 4 * rows * agents * width,
        "give fewer features (num_features=) or fewer epochs",
    )


def _of_rows(key: Array, seen: np.ndarray, taken: np.ndarray, most: int) -> np.ndarray:
    """Features of the rows of one type, `[n, d]`."""
    plain, num_actions = whitened(seen), taken.shape[1]
    least = plain.shape[1] + num_actions
    if most < least:
        raise ValueError(
            f"trajectory: {len(seen)} rows of an agent are too few for {plain.shape[1]} "
            f"observations and {num_actions} actions; wanted about {_VISITS * least}"
        )
    other = taken[:, 1:]
    columns, left = as_many(
        [
            (plain.shape[1] * (plain.shape[1] + 1) // 2, lambda: squares(plain)),
            (plain.shape[1] * other.shape[1], lambda: times(plain, other)),
        ],
        most - least,
    )
    # Half of what is left turns with the action.
    by_action = left // 2 // max(other.shape[1], 1) if other.shape[1] else 0
    waves = waves_of(key, plain, left - by_action * other.shape[1])
    columns += [waves, times(waves[:, :by_action], other)]
    return np.concatenate([taken, plain, beside(plain, columns)], axis=1)


def as_many(
    blocks: Iterable[tuple[int, Callable[[], np.ndarray]]], left: int
) -> tuple[list[np.ndarray], int]:
    """Those blocks of columns for which there is room, one after another, and the room left.

    Args:
        blocks: how many columns, and what makes them.
        left: columns for which there is room.
    """
    columns = []
    for size, block in blocks:
        if size <= left:
            columns.append(block())
            left -= size
    return columns, left


def times(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Products of each column with each, `[n, p q]`."""
    return (first[:, :, None] * second[:, None]).reshape(len(first), -1)


def squares(columns: np.ndarray) -> np.ndarray:
    """Products of two columns, once each, `[n, p (p + 1) / 2]`."""
    first, second = np.triu_indices(columns.shape[1])
    return columns[:, first] * columns[:, second]


def waves_of(key: Array, columns: np.ndarray, number: int) -> np.ndarray:
    """Random waves, `[T, number]`; none of columns that are all alike."""
    if number < 1 or not (columns != columns[:1]).any():
        return np.zeros((len(columns), 0))
    return np.asarray(fourier_features(key, jnp.asarray(columns), num_features=number), np.float64)


def beside(plain: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """What columns add to plain ones, which are whitened, but for their tails, `[n, q]`."""
    made = np.concatenate(columns, axis=1)
    return whitened(made - plain @ (plain.T @ (made - made.mean(0)) / max(len(plain), 1)), _TAIL)


def whitened(columns: np.ndarray, least: float = _SAME) -> np.ndarray:
    """Uncorrelated columns of mean 0 and variance 1 with the same span, but for constants.

    Args:
        columns: `[n, p]`.
        least: share of the variance below which a direction is left out.
    """
    centered = columns - columns.mean(0)
    size = np.sqrt((centered**2).mean(0))
    kept = size > 1e-12 * np.abs(columns).max(0, initial=0)
    centered = centered[:, kept] / size[kept]
    variance, axes = np.linalg.eigh(centered.T @ centered / max(len(columns), 1))
    # Rounding decides the sign of an axis, and waves turn with it: weights that tie with nothing.
    axes = np.where(np.sqrt(np.arange(len(axes), 0, -1)) @ axes < 0, -axes, axes)
    told = variance > least * max(len(variance), 1)
    return centered @ (axes[:, told] / np.sqrt(variance[told]))
