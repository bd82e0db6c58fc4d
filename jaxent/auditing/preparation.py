"""What is done to a log before anything is learned from it."""

from dataclasses import replace

import numpy as np

from ..data.reward_split import fit_local_rewards, with_rewards
from ..data.trajectory import Trajectory
from ..numerics.arrays import relative


def in_units(trajectory: Trajectory) -> tuple[Trajectory, float]:
    """Rewards of size 1, and the power of 2 that they are in: in float32 1e39 would be infinite."""
    rewards = np.asarray(trajectory.rewards, np.float64)
    paid = rewards if trajectory.shares_reward else np.where(trajectory.present, rewards, 0)
    largest = np.abs(paid).max(initial=0)
    unit = float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest > 0 else 1.0
    return replace(trajectory, rewards=rewards / unit), unit


def own_rewards(trajectory: Trajectory) -> tuple[Trajectory, float, float, tuple[str, ...]]:
    """With a reward for each agent; what a split of a shared one leaves, as it is and relative to
    the reward; a note if the split is rough."""
    if not trajectory.shares_reward:
        return trajectory, 0.0, 0.0, ()
    fit = fit_local_rewards(trajectory)
    rough = f"the split of the shared reward is rough: residual {fit.residual:.2g}"
    notes = () if fit.converged else (rough,)
    share = float(relative(fit.error, fit.scale))
    return with_rewards(trajectory, fit.reward), float(fit.error), share, notes


def count_visits(trajectory: Trajectory) -> np.ndarray:
    """Transitions from each local pair of each agent, `[N, X]`."""
    agent = np.broadcast_to(np.arange(trajectory.num_agents), trajectory.follows.shape)
    cell = agent * trajectory.num_pairs + np.asarray(trajectory.pairs)[:-1]
    size = trajectory.num_agents * trajectory.num_pairs
    return np.bincount(cell[np.asarray(trajectory.follows)], minlength=size).reshape(
        trajectory.num_agents, -1
    )
