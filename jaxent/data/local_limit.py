r"""Local tables along a log: their sum, the tables that the log itself teaches, and their noise.

The tables of LSTD solve A_k Q_k = sum_t 1{x} R over the transitions of the agents of type k, with
A_k = D - discount F, D the visits and F the flow. What noise in the log does to them is
A_k^-1 sum_t 1{x} delta, delta the TD errors at their limit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape
from .trajectory import Trajectory, agent_types


class LocalTables(NamedTuple):
    """Tables that a log taught, and their TD errors along it.

    Attributes:
        errors: of agent i from epoch t to the next; 0 where it is not in both, `[T - 1, N]`.
        pairs: `[T - 1, N]`.
        types: of every agent, `[N]`.
        systems: A_k, `[K, X, X]`.
    """

    errors: np.ndarray
    pairs: np.ndarray
    types: np.ndarray
    systems: np.ndarray

    def at(self, steps: np.ndarray) -> "LocalTables":
        """The same at some steps."""
        return self._replace(errors=self.errors[steps], pairs=self.pairs[steps])

    def noise(self, signs: np.ndarray) -> np.ndarray:
        """What noise in the tables adds to sum_t g_t e_t, by the step that it comes from, `[n]`.

        Args:
            signs: g, `[n]`.
        """
        number, size = self.systems.shape[:2]
        group = self.types[None] * size + self.pairs
        weight = np.broadcast_to(signs[:, None], group.shape)
        total = np.bincount(group.ravel(), weight.ravel(), number * size).reshape(number, size, 1)
        h = np.linalg.solve(self.systems.swapaxes(1, 2), total)
        return (h.reshape(-1)[group] * self.errors).sum(1)


def table_sum(trajectory: Trajectory, tables: np.ndarray, types: ArrayLike | None) -> np.ndarray:
    """Local tables `[K, X]`, summed over the agents that are there, `[T]`."""
    kinds, number = agent_types(trajectory, types)
    check_shape("approximation.value", tables, (number, trajectory.num_pairs))
    check_finite("approximation.value", tables)
    values = np.asarray(tables, np.float64)[np.asarray(kinds)[None], np.asarray(trajectory.pairs)]
    return np.where(np.asarray(trajectory.present), values, 0).sum(1)


def learned_tables(trajectory: Trajectory, discount: float, types: ArrayLike | None) -> LocalTables:
    """LSTD of every agent's own reward, in double precision: `lstd_local_q` says the same."""
    kinds, number = agent_types(trajectory, types)
    kinds, size = np.asarray(kinds), trajectory.num_pairs
    pairs, follows = np.asarray(trajectory.pairs), np.asarray(trajectory.follows)
    present = np.asarray(trajectory.present)
    rewards = np.where(present, np.asarray(trajectory.rewards, np.float64), 0)
    group = kinds[None] * size + pairs

    def total(index, weight, *shape):
        return np.bincount(index.ravel(), weight.ravel(), int(np.prod(shape))).reshape(shape)

    flow = total(group[:-1] * size + pairs[1:], follows, number, size, size)
    seen = total(group, present, number, size)
    reward = total(group, rewards, number, size) / np.maximum(seen, 1)
    visits = flow.sum(2)
    # A pair that nothing followed is taken to stay, as `lstd_local_q` has it.
    diagonal = np.where(visits > 0, visits, 1 - discount)
    systems = diagonal[:, :, None] * np.eye(size) - discount * flow
    paid = np.where(visits > 0, visits, 1) * reward
    tables = np.linalg.solve(systems, paid[..., None])[..., 0]
    value = tables[kinds[None], pairs]
    errors = np.where(follows, rewards[:-1] + discount * value[1:] - value[:-1], 0)
    return LocalTables(errors, pairs[:-1], kinds, systems)
