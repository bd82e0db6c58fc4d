r"""Local values along a log: their sum, the ones that the log itself teaches, and their noise.

A local value is linear in features phi of what its agent sees and does. A table is the case of an
indicator for each local pair. Those of LSTD solve A_k w_k = sum_t phi R over the transitions of the
agents of type k, with A_k = sum_t phi (phi - discount phi')'. Noise in the log moves their values
by phi' A_k^-1 sum_t phi delta, delta the TD errors at their limit.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape
from .team_features import Matrix
from .trajectory import Trajectory, agent_types

# A ridge of one row, so that features which nearly say the same are not taken at their word.
_RIDGE = 1.0


class Moments(NamedTuple):
    """Sums over some steps, by type.

    Attributes:
        systems: A, `[K, d, d]`.
        paid: sum of phi R, `[K, d]`.
        squares: sum of phi^2, `[K, d]`; 0 for a feature that was not seen.
        rows: transitions, `[K]`.
    """

    systems: np.ndarray
    paid: np.ndarray
    squares: np.ndarray
    rows: np.ndarray

    @classmethod
    def added(cls, parts: Sequence["Moments"]) -> "Moments":
        """The sums of several stretches."""
        return cls(*(np.sum(x, axis=0) for x in zip(*parts, strict=True)))


class Learned(NamedTuple):
    """Local values that some steps teach.

    Attributes:
        weights: w, `[K, d]`; for tables the values.
        systems: what was solved for them, `[K, d, d]`.
    """

    weights: np.ndarray
    systems: np.ndarray


class LocalSteps(NamedTuple):
    """What every agent saw from one epoch to the next.

    Attributes:
        features: of every agent, `[T, d]` each; 0 where it is absent.
        kinds: type of every agent, `[N]`.
        paid: its reward, `[T - 1, N]`.
        follows: whether it is in both epochs, `[T - 1, N]`.
        shape: `(K, d)`.
        discount: in [0, 1).
        ridge: rows that a feature is held by; 0 for tables.
    """

    features: list[Matrix]
    kinds: np.ndarray
    paid: np.ndarray
    follows: np.ndarray
    shape: tuple[int, int]
    discount: float
    ridge: float

    def moments(self, steps: slice) -> Moments:
        """Sums over a stretch of steps."""
        number, size = self.shape
        A, b = np.zeros((number, size, size)), np.zeros((number, size))
        squares, rows = np.zeros((number, size)), np.zeros(number)
        first = steps.indices(len(self.follows))[0]
        for i, (kind, phi) in enumerate(zip(self.kinds, self.features, strict=True)):
            told = first + np.flatnonzero(self.follows[steps, i])
            here = phi[told]
            made = here.T @ (here - self.discount * phi[told + 1])
            A[kind] += made.toarray() if scipy.sparse.issparse(made) else made
            b[kind] += here.T @ self.paid[told, i]
            square = here.multiply(here) if scipy.sparse.issparse(here) else here**2
            squares[kind] += np.asarray(square.sum(0)).reshape(-1)
            rows[kind] += len(told)
        return Moments(A, b, squares, rows)

    def learn(self, told: Moments, otherwise: np.ndarray) -> Learned:
        """The local values of LSTD.

        Args:
            told: by the steps to learn from.
            otherwise: weights of features that were not seen there, `[K, d]`.
        """
        ridge = self.ridge * told.squares / np.maximum(told.rows, 1)[:, None]
        pinned = np.where(told.squares > 0, ridge, 1)
        systems = told.systems + pinned[:, :, None] * np.eye(self.shape[1])
        wanted = told.paid + pinned * otherwise
        return Learned(np.linalg.solve(systems, wanted[..., None])[..., 0], systems)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """Local values along the log, `[T, N]`; 0 where an agent is absent."""
        own = zip(self.features, self.kinds, strict=True)
        return np.stack([phi @ weights[kind] for phi, kind in own], axis=1)

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """TD errors, `[T - 1, N]`; 0 where an agent is not in both epochs."""
        value = self.values(weights)
        found = self.paid + self.discount * value[1:] - value[:-1]
        return np.where(self.follows, found, 0)


def local_steps(
    trajectory: Trajectory,
    discount: float,
    types: ArrayLike | None,
    features: np.ndarray | None = None,
) -> LocalSteps:
    """The steps of every agent, by type; of tables, or of values linear in features `[T, N, d]`."""
    kinds, number = agent_types(trajectory, types)
    present = np.asarray(trajectory.present)
    if features is None:
        pairs, size = np.asarray(trajectory.pairs), trajectory.num_pairs
        columns = [_indicators(x, here, size) for x, here in zip(pairs.T, present.T, strict=True)]
    else:
        size = features.shape[2]
        own = zip(features.swapaxes(0, 1), present.T, strict=True)
        columns = [phi if here.all() else np.where(here[:, None], phi, 0) for phi, here in own]
    is_table = features is None or _is_table(features)
    return LocalSteps(
        [scipy.sparse.csr_matrix(x) for x in columns] if is_table else columns,
        np.asarray(kinds),
        np.asarray(trajectory.rewards, np.float64)[:-1],
        np.asarray(trajectory.follows),
        (number, size),
        discount,
        0.0 if is_table else _RIDGE,
    )


def _indicators(codes: np.ndarray, here: np.ndarray, size: int) -> Matrix:
    ends = np.concatenate([[0], np.cumsum(here)])
    return scipy.sparse.csr_matrix((np.ones(ends[-1]), codes[here], ends), (len(codes), size))


def _is_table(features: np.ndarray) -> bool:
    """Whether every row is an indicator, or 0."""
    if not all(((part == 0) | (part == 1)).all() for part in features):
        return False
    return bool((features.sum(2) <= 1).all())


class Limit(NamedTuple):
    """The sum of the local values that a log teaches, and what noise in them does.

    Attributes:
        deltas: TD errors of the sum at n steps: of the values learned from all steps, then of those
            learned from all but each of some parts, `[n]` each.
        errors: TD errors of every agent's value learned from all steps, `[n, N]`.
        learned: from all steps.
        steps: of every agent.
        starts: the epochs of the n steps.
    """

    deltas: list[np.ndarray]
    errors: np.ndarray
    learned: Learned
    steps: LocalSteps
    starts: np.ndarray

    def noise(self, signs: np.ndarray) -> np.ndarray:
        """What noise in the values adds to sum_t g_t e_t, by the step that it comes from, `[n]`.

        Args:
            signs: g, `[n]`.
        """
        steps, total = self.steps, np.zeros(self.steps.shape)
        for kind, phi in zip(steps.kinds, steps.features, strict=True):
            total[kind] += phi[self.starts].T @ signs
        h = np.linalg.solve(self.learned.systems.swapaxes(1, 2), total[..., None])[..., 0]
        return (steps.values(h)[self.starts] * self.errors).sum(1)


def learned_limit(steps: LocalSteps, starts: np.ndarray, parts: list[slice]) -> Limit:
    """What the log teaches, as a whole and without some parts.

    Args:
        steps: of every agent.
        starts: the epochs of the n steps.
        parts: of these, to be left out in turn.
    """
    left_out = [(starts[part][0], starts[part][-1] + 1) for part in parts]
    # Of the steps between any two ends, once each: they are most of the cost.
    ends = np.unique([0, len(steps.follows), *np.ravel(left_out)]).astype(int)
    told = [(a, b, steps.moments(slice(a, b))) for a, b in pairwise(ends)]
    whole = steps.learn(Moments.added([x for *_, x in told]), np.zeros(steps.shape))
    errors = steps.errors(whole.weights)[starts]
    deltas = [errors.sum(1)]
    for first, last in left_out:
        kept = [x for a, b, x in told if b <= first or a >= last]
        without = steps.learn(Moments.added(kept), whole.weights)
        deltas.append(steps.errors(without.weights)[starts].sum(1))
    return Limit(deltas, errors, whole, steps, starts)


def table_sum(trajectory: Trajectory, tables: np.ndarray, types: ArrayLike | None) -> np.ndarray:
    """Local tables `[K, X]`, summed over the agents that are there, `[T]`."""
    kinds, number = agent_types(trajectory, types)
    check_shape("approximation.value", tables, (number, trajectory.num_pairs))
    check_finite("approximation.value", tables)
    values = np.asarray(tables, np.float64)[np.asarray(kinds)[None], np.asarray(trajectory.pairs)]
    return np.where(np.asarray(trajectory.present), values, 0).sum(1)
