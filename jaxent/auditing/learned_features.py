r"""What a log of agents that see numbers has taught: as learned_sum.py, by features of their own.

The values are linear, phi' w, and to first order what the log is short of moves them by
phi' A^{-1} h, A the system of LSTD and h the sum of phi delta over a batch of epochs. A local pair
is the action alone, and what is told of it is a mean over what is observed.
"""

from dataclasses import replace

import jax
import numpy as np

from ..data.estimators import student
from ..data.linear_values import LinearQ
from ..data.local_limit import local_steps
from ..data.observed import own_features
from ..data.trajectory import Trajectory
from .learned_sum import BATCHES, LearnedSum, centered, deviation
from .preparation import count_visits

Array = jax.Array


def learned_by_features(key: Array, trajectory: Trajectory, discount: float) -> LearnedSum:
    """Local values by LSTD in features of what each agent observes and does, and their sum.

    Args:
        key: of `jax.random.key`, for the waves.
        trajectory: with observations, and a reward of every agent.
        discount: in [0, 1).
    """
    present = np.asarray(trajectory.present)
    rewards, mean = centered(np.asarray(trajectory.rewards), np.asarray(trajectory.paid))
    phi = own_features(key, trajectory)
    steps = local_steps(replace(trajectory, rewards=rewards), discount, None, phi)
    told = steps.moments(slice(0, len(steps.follows)))
    learned = steps.learn(told, np.zeros(steps.shape))
    apart, constant = steps.values(learned.weights), mean / (1 - discount)
    errors = steps.errors(learned.weights)
    batch = np.arange(len(errors)) * BATCHES // len(errors)
    ends = np.searchsorted(batch, np.arange(BATCHES))
    moved = np.zeros((len(present), BATCHES))
    for i, columns in enumerate(steps.features):
        wrong = columns[:-1] * errors[:, i, None] if isinstance(columns, np.ndarray) else (
            columns[:-1].multiply(errors[:, i, None]).toarray()
        )  # fmt: skip
        h = np.add.reduceat(wrong, ends, axis=0)  # [K, d]
        moved += columns @ np.linalg.solve(learned.systems[i], h.T)
    by_batch = moved.mean(0)
    quantile = student(0.95, BATCHES)
    total, full = apart.sum(1), np.where(present, apart + constant, 0).sum(1)
    visits = count_visits(trajectory)
    occupancy = visits / np.maximum(visits.sum(1, keepdims=True), 1)
    by_pair = _by_pair(trajectory, apart)
    return LearnedSum(
        by_pair + constant[:, None],
        by_pair,
        occupancy,
        scale=float(np.abs(full).mean()),
        spread=float(np.abs(total - total.mean()).mean()),
        level=float(full.mean()),
        level_error=quantile * float(deviation(by_batch)),
        sampling=quantile * float(deviation(moved - by_batch).mean()),
        linear=LinearQ(apart, learned.weights, phi),
    )


def _by_pair(trajectory: Trajectory, values: np.ndarray) -> np.ndarray:
    """Mean of each agent's value while it is in local pair x, `[N, X]`; 0 where never."""
    present, size = np.asarray(trajectory.present), trajectory.num_pairs
    cell = (np.arange(trajectory.num_agents) * size + np.asarray(trajectory.pairs))[present]
    number = trajectory.num_agents * size
    total, seen = (np.bincount(cell, w, number) for w in (values[present], None))
    return (total / np.maximum(seen, 1)).reshape(-1, size)
