r"""What a log shows of the whole team at an epoch, as features in which its values are linear.

Where few joint pairs occur, and each often, every joint pair has an indicator of its own: a table.
Where there are more, numbers that say much in few columns take its place: how many agents are in
each local pair, who is in which, products of these. Where agents observe numbers, all that
they observe and do stands for the team, and random waves of that. A column is centered and what
several columns say twice is said once, so that the features have mean 0, variance 1 and no
correlation.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import scipy
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape
from ..numerics.memory import check_memory
from .observed import (
    actions_taken,
    as_many,
    beside,
    numbers_seen,
    squares,
    times,
    waves_of,
    whitened,
)
from .trajectory import Trajectory

# A joint pair has to come this often, on average, to have an indicator; features as well.
_VISITS = 50
# Rows for each column that a user brings, at least.
_ROWS = 20
# Joint pairs that have an indicator, at most: a system of so many equations is solved.
_MOST_JOINT = 1000
# Features that are made unasked, at most, and how many numbers these are over all epochs.
_MOST, _MOST_NUMBERS = 500, 2**25
# How often features are held at a time: whitened, at the step and the next, those of the placebo.
_COPIES = 9

Array = jax.Array

# An array, or a sparse one of SciPy's, whose types are not declared.
Matrix = Any


def team_features(
    key: Array, trajectory: Trajectory, approximation: np.ndarray, *, of_states: bool
) -> Matrix:
    """Indicators of joint pairs if these are few, else numbers that stand for them, `[T, d]`.

    Their span holds the constant.

    Args:
        key: of `jax.random.key`, for the waves of observations.
        trajectory: T epochs of N agents.
        approximation: one of the numbers, for an error often grows with it, `[T]`.
        of_states: whether actions are left out.
    """
    num_epochs = trajectory.num_epochs
    if trajectory.observations is not None:
        return _of_observations(key, trajectory, approximation, of_states=of_states)
    present = np.asarray(trajectory.present)
    local, num_local = trajectory.pairs, trajectory.num_pairs
    if of_states:
        num_local = trajectory.num_states * trajectory.num_signals
        local = trajectory.states * trajectory.num_signals + trajectory.signal[:, None]
    rows = np.ascontiguousarray(np.where(present, np.asarray(local), -1))
    # Rows as one item each: a sort of columns one by one takes N times as long.
    words = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    seen, joint = np.unique(words, return_inverse=True)
    if len(seen) <= min(num_epochs // _VISITS, _MOST_JOINT):
        return _indicators(joint, len(seen))
    least = min(num_local, trajectory.num_states) + 2
    left = min(_MOST, num_epochs // _VISITS)
    if least > left:
        raise ValueError(_too_few(num_epochs, least, len(seen)))
    left = max(least, min(left, _MOST_NUMBERS // num_epochs))
    _check_room(num_epochs, left)
    left -= 2  # the constant and the approximation
    columns, _ = as_many(_blocks(trajectory, rows, num_local), left)
    return _whitened(np.concatenate([approximation[:, None], *columns], axis=1))


def _of_observations(
    key: Array, trajectory: Trajectory, approximation: np.ndarray, *, of_states: bool
) -> np.ndarray:
    """What all observe and do, squares, what each does where, and waves, as many as T carries."""
    num_epochs = trajectory.num_epochs
    left = min(_MOST, num_epochs // _VISITS, max(_MOST_NUMBERS // num_epochs, 1))
    _check_room(num_epochs, left)
    left -= 2  # the constant and the approximation
    seen, taken = numbers_seen(trajectory), actions_taken(trajectory)[..., 1:]
    plain = whitened(seen.reshape(num_epochs, -1))
    if of_states:
        taken = taken[..., :0]
    flat = whitened(np.concatenate([plain, taken.reshape(num_epochs, -1)], axis=1))
    if flat.shape[1] > left:
        raise ValueError(
            f"trajectory: {num_epochs} epochs are too few for the {flat.shape[1]} numbers that "
            f"agents observe and do; wanted about {_VISITS * (flat.shape[1] + 2)}, or give features"
        )
    acted = [
        times(whitened(own), did)
        for own, did in zip(seen.swapaxes(0, 1), taken.swapaxes(0, 1), strict=True)
    ]
    columns, left = as_many(
        [
            (plain.shape[1] * (plain.shape[1] + 1) // 2, lambda: squares(plain)),
            (sum(x.shape[1] for x in acted), lambda: np.concatenate(acted, axis=1)),
        ],
        left - flat.shape[1],
    )
    one_key, other_key = jax.random.split(key)
    columns += [waves_of(one_key, plain, left - left // 2), waves_of(other_key, flat, left // 2)]
    more = beside(flat, columns)
    return _whitened(np.concatenate([approximation[:, None], flat, more], axis=1))


def _check_room(num_epochs: int, num_features: int) -> None:
    check_memory(
        f"features: {num_features} numbers at {num_epochs} epochs",
        8.0 * _COPIES * num_epochs * num_features,
        "give fewer features or fewer epochs",
    )


def _too_few(num_epochs: int, least: int, joint: int) -> str:
    if least > _MOST:
        return (
            f"trajectory: {least - 2} local states are too many to count; put them into bins, "
            "or give features"
        )
    wanted = _VISITS * min(least, joint)
    return (
        f"trajectory: {num_epochs} epochs are too few for {joint} joint pairs or counts of "
        f"{least - 2} states; wanted about {wanted}, or give features"
    )


def _blocks(
    trajectory: Trajectory, rows: np.ndarray, num_local: int
) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Groups of columns, by what they add: how many, and what makes them."""
    num_states, num_agents = trajectory.num_states, trajectory.num_agents

    def counts(codes: np.ndarray, size: int) -> np.ndarray:
        number = np.zeros((len(codes), size))
        for column in codes.T:
            number += column[:, None] == np.arange(size)
        return number

    def pairs():
        return (rows[:, :, None] == np.arange(num_local)).reshape(len(rows), -1).astype(float)

    def states():
        here = np.where(np.asarray(trajectory.present), np.asarray(trajectory.states), -1)
        return counts(here, num_states)

    def squares():
        number = states()
        first, second = np.triu_indices(num_states)
        return number[:, first] * number[:, second]

    def products():
        one = pairs().reshape(len(rows), num_agents, num_local)
        first, second = np.triu_indices(num_agents, 1)
        both = one[:, first, :, None] * one[:, second, None, :]
        return both.reshape(len(rows), -1)

    yield num_local, lambda: counts(rows, num_local)
    yield num_states, states
    yield num_states * (num_states + 1) // 2, squares
    yield num_agents * num_local, pairs
    yield num_agents * (num_agents - 1) // 2 * num_local**2, products


def given_features(features: ArrayLike, num_epochs: int) -> Matrix:
    """Features of the user, `[T, d]`, and the constant.

    Raises:
        ValueError: for another shape, a number that is not finite, a column that is constant, or
            more than T/20 columns.
    """
    values = as_numbers("features", features)
    check_shape("features", values, (num_epochs, None))
    check_finite("features", values)
    most = num_epochs // _ROWS
    if not 1 <= values.shape[1] <= most:
        raise ValueError(
            f"features: {values.shape[1]} columns; wanted 1 to {most}, "
            f"one for {_ROWS} of the {num_epochs} epochs"
        )
    _check_room(*values.shape)
    constant = np.flatnonzero((values == values[:1]).all(0))
    if len(constant):
        raise ValueError(
            f"features[:, {constant[0]}] is constant; leave it out, a constant is always there"
        )
    return _whitened(values)


def as_numbers(name: str, values: ArrayLike) -> np.ndarray:
    """In double precision."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: wanted an array of numbers") from None


def _indicators(codes: np.ndarray, size: int) -> "scipy.sparse.csr_matrix":
    number = len(codes)
    return scipy.sparse.csr_matrix((np.ones(number), codes, np.arange(number + 1)), (number, size))


def _whitened(columns: np.ndarray) -> np.ndarray:
    """The constant, and uncorrelated columns of mean 0 and variance 1 with the same span."""
    return np.concatenate([np.ones((len(columns), 1)), whitened(columns)], axis=1)
