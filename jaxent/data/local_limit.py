r"""Local tables along a log: their sum, the tables that the log itself teaches, and their noise.

The tables of LSTD solve A_k Q_k = sum_t 1{x} R over the transitions of the agents of type k, with
A_k = D - discount F, D the visits and F the flow. Noise in the log moves them by
A_k^-1 sum_t 1{x} delta, delta the TD errors at their limit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape
from .trajectory import Trajectory, agent_types


class LocalSteps(NamedTuple):
    """What every agent saw from one epoch to the next, `[T - 1, N]` each.

    Attributes:
        here: k X + x, for an agent of type k in local pair x.
        ahead: the same at the next epoch.
        paid: its reward.
        follows: whether it is in both.
        shape: `(K, X)`.
        discount: in [0, 1).
    """

    here: np.ndarray
    ahead: np.ndarray
    paid: np.ndarray
    follows: np.ndarray
    shape: tuple[int, int]
    discount: float

    def tables(self, counted: np.ndarray, otherwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tables `[K, X]` of LSTD, and their systems A, `[K, X, X]`.

        Args:
            counted: the steps to learn from, `[T - 1]`.
            otherwise: the value of a pair that was not seen there, `[K, X]`.
        """
        number, size = self.shape
        told = self.follows & counted[:, None]
        here, next_pair = self.here[told], self.ahead[told] % size
        flow = np.bincount(here * size + next_pair, minlength=number * size**2)
        flow = flow.reshape(number, size, size)
        paid = np.bincount(here, self.paid[told], number * size).reshape(number, size)
        visits = flow.sum(2)
        diagonal = np.where(visits > 0, visits, 1)
        systems = diagonal[:, :, None] * np.eye(size) - self.discount * flow
        wanted = np.where(visits > 0, paid, otherwise)
        return np.linalg.solve(systems, wanted[..., None])[..., 0], systems

    def errors(self, tables: np.ndarray) -> np.ndarray:
        """TD errors of tables `[K, X]`, `[T - 1, N]`; 0 where an agent is not in both epochs."""
        value = tables.reshape(-1)
        found = self.paid + self.discount * value[self.ahead] - value[self.here]
        return np.where(self.follows, found, 0)


def local_steps(trajectory: Trajectory, discount: float, types: ArrayLike | None) -> LocalSteps:
    """The steps of every agent, by type."""
    kinds, number = agent_types(trajectory, types)
    group = np.asarray(kinds)[None] * trajectory.num_pairs + np.asarray(trajectory.pairs)
    return LocalSteps(
        group[:-1],
        group[1:],
        np.asarray(trajectory.rewards, np.float64)[:-1],
        np.asarray(trajectory.follows),
        (number, trajectory.num_pairs),
        discount,
    )


class Limit(NamedTuple):
    """The sum of the tables that a log teaches, and what noise in them does.

    Attributes:
        deltas: TD errors of the sum at n steps: of the tables learned from all steps, then of those
            learned from all but each of some parts, `[n]` each.
        errors: TD errors of every agent's table learned from all steps, `[n, N]`.
        here: k X + x of every agent, `[n, N]`.
        systems: A, `[K, X, X]`.
    """

    deltas: list[np.ndarray]
    errors: np.ndarray
    here: np.ndarray
    systems: np.ndarray

    def noise(self, signs: np.ndarray) -> np.ndarray:
        """What noise in the tables adds to sum_t g_t e_t, by the step that it comes from, `[n]`.

        Args:
            signs: g, `[n]`.
        """
        number, size = self.systems.shape[:2]
        weight = np.broadcast_to(signs[:, None], self.here.shape)
        total = np.bincount(self.here.ravel(), weight.ravel(), number * size)
        h = np.linalg.solve(self.systems.swapaxes(1, 2), total.reshape(number, size, 1))
        return (h.reshape(-1)[self.here] * self.errors).sum(1)


def learned_limit(steps: LocalSteps, starts: np.ndarray, parts: list[slice]) -> Limit:
    """What the log teaches, as a whole and without some parts.

    Args:
        steps: of every agent.
        starts: the epochs of the n steps.
        parts: of these, to be left out in turn.
    """
    every = np.ones(len(steps.here), bool)
    whole, systems = steps.tables(every, np.zeros(steps.shape))
    errors = steps.errors(whole)[starts]
    deltas = [errors.sum(1)]
    for part in parts:
        out = starts[part]
        counted = every.copy()
        counted[out[0] : out[-1] + 1] = False
        deltas.append(steps.errors(steps.tables(counted, whole)[0])[starts].sum(1))
    return Limit(deltas, errors, steps.here[starts], systems)


def table_sum(trajectory: Trajectory, tables: np.ndarray, types: ArrayLike | None) -> np.ndarray:
    """Local tables `[K, X]`, summed over the agents that are there, `[T]`."""
    kinds, number = agent_types(trajectory, types)
    check_shape("approximation.value", tables, (number, trajectory.num_pairs))
    check_finite("approximation.value", tables)
    values = np.asarray(tables, np.float64)[np.asarray(kinds)[None], np.asarray(trajectory.pairs)]
    return np.where(np.asarray(trajectory.present), values, 0).sum(1)
