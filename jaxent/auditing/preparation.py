"""What is done to a log before anything is learned from it."""

from dataclasses import replace

import jax
import numpy as np

from ..data.observed import own_features
from ..data.reward_split import fit_local_rewards, with_rewards
from ..data.trajectory import Trajectory
from ..numerics.arrays import relative

Array = jax.Array

# Epochs for a feature of all agents, at least, where a shared reward is split by them.
_ROWS = 20


def in_units(trajectory: Trajectory) -> tuple[Trajectory, float]:
    """Rewards of size 1, and the power of 2 that they are in: in float32 1e39 would be infinite."""
    rewards = np.asarray(trajectory.rewards, np.float64)
    paid = rewards if trajectory.shares_reward else np.where(trajectory.present, rewards, 0)
    largest = np.abs(paid).max(initial=0)
    unit = float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest > 0 else 1.0
    return replace(trajectory, rewards=rewards / unit), unit


def own_rewards(
    trajectory: Trajectory, key: Array | None = None
) -> tuple[Trajectory, float, float, tuple[str, ...]]:
    """With a reward for each agent; what a split of a shared one leaves, as it is and relative to
    the reward; a note if the split is rough.

    Args:
        trajectory: T epochs of N agents.
        key: of `jax.random.key`, for waves of observations.
    """
    if not trajectory.shares_reward:
        return trajectory, 0.0, 0.0, ()
    if trajectory.observations is not None:
        return _by_features(jax.random.key(0) if key is None else key, trajectory)
    fit = fit_local_rewards(trajectory)
    rough = f"the split of the shared reward is rough: residual {fit.residual:.2g}"
    notes = () if fit.converged else (rough,)
    share = float(relative(fit.error, fit.scale))
    return with_rewards(trajectory, fit.reward), float(fit.error), share, notes


def _by_features(
    key: Array, trajectory: Trajectory
) -> tuple[Trajectory, float, float, tuple[str, ...]]:
    """Of agents that see numbers: the sum of local rewards, linear in features, that is nearest."""
    paid = np.asarray(trajectory.rewards, np.float64)
    present = np.asarray(trajectory.present)
    phi = own_features(key, trajectory)
    columns = phi.reshape(len(paid), -1)
    if _ROWS * columns.shape[1] > len(paid):
        part = paid / np.maximum(present.sum(1), 1)
        equal = "the shared reward is dealt out in equal parts: too few epochs to split it"
        return replace(trajectory, rewards=np.where(present, part[:, None], 0)), 0.0, 0.0, (equal,)
    ridge = np.diag((columns**2).mean(0) + (columns == 0).all(0))
    told = np.asarray(trajectory.paid).any(axis=1, keepdims=True) * columns
    weights = np.linalg.solve(told.T @ told + ridge, told.T @ paid)
    own = np.where(trajectory.paid, (phi * weights.reshape(phi.shape[1:])).sum(2), 0)
    left, size = (float(np.sqrt((x**2).mean())) for x in (paid - own.sum(1), paid))
    return replace(trajectory, rewards=own), left, left / size if size > 0 else 0.0, ()


def count_visits(trajectory: Trajectory) -> np.ndarray:
    """Transitions from each local pair of each agent, `[N, X]`."""
    agent = np.broadcast_to(np.arange(trajectory.num_agents), trajectory.follows.shape)
    cell = agent * trajectory.num_pairs + np.asarray(trajectory.pairs)[:-1]
    size = trajectory.num_agents * trajectory.num_pairs
    return np.bincount(cell[np.asarray(trajectory.follows)], minlength=size).reshape(
        trajectory.num_agents, -1
    )
