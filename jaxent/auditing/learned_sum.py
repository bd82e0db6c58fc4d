r"""What a log has taught: local values, their sum along the log, and how far sampling moves it.

With $\hat Q_i$ of least squares (LSTD), every transition t of agent i leaves a TD error
$\delta_t = r_t + \gamma \hat Q_i(x_{t+1}) - \hat Q_i(x_t)$. They sum to 0 in each local pair, and
to first order what the log is short of moves the values by

    (I - \gamma \hat P_i)^{-1} h,    h(x) = sum of \delta_t over the visits of x, over their number.

Batches of consecutive epochs have their own h. How much these vary says how far the values, and
their sum over agents, are from those of an endless log: agents err together, and so their batches
are added before they are compared.
"""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..data.estimators import student
from ..data.linear_values import LinearQ
from ..data.local_learning import lstd_local_q
from ..data.trajectory import Trajectory

BATCHES = 20
# Epochs taken together.
_AT_ONCE = 2**16
# Flows from pair to pair, of agents learned together; values take ten times as many numbers.
_CELLS = 2**22
# Rewards of an agent that differ by less than this many rounding errors are one constant.
_ROUNDING = 1024


class LearnedSum(NamedTuple):
    """Local values of N agents with X pairs, and their sum along the log.

    Attributes:
        q_local: learned local values, `[N, X]`.
        apart: the same less the value of the agent's mean reward, `[N, X]`: adding a constant to
            rewards leaves it as it is.
        occupancy: share of each local pair in each agent's transitions, `[N, X]`.
        scale: mean |sum| over the log.
        spread: mean |sum - its mean| over the log.
        level: mean of the sum over the log.
        level_error: half of the 95% interval of the level that sampling leaves.
        sampling: the same of what the sum differs by from its level, mean over the log.
        linear: the values less those of mean rewards, of agents that see numbers; the above are
            means by action then. None for tables.
    """

    q_local: np.ndarray
    apart: np.ndarray
    occupancy: np.ndarray
    scale: float
    spread: float
    level: float
    level_error: float
    sampling: float
    linear: LinearQ | None = None

    def spans(self, known: np.ndarray) -> np.ndarray:
        """Largest less smallest local value of each agent, `[N]`.

        Args:
            known: local pairs that count, `[N, X]`.
        """
        if self.linear is not None:
            return np.ptp(self.linear.value, axis=0)
        high = np.where(known, self.apart, -np.inf).max(1)
        low = np.where(known, self.apart, np.inf).min(1)
        return np.where(known.any(1), high - low, 0)


def learned_sum(trajectory: Trajectory, discount: float) -> LearnedSum:
    """Local values by LSTD, and their sum.

    Args:
        trajectory: with a reward of every agent.
        discount: in [0, 1).
    """
    present = np.asarray(trajectory.present)
    rewards, mean = centered(np.asarray(trajectory.rewards), np.asarray(trajectory.paid))
    apart, occupancy = _learned(trajectory, rewards, discount)
    constant = mean / (1 - discount)  # [N]
    moves = _moves(trajectory, rewards, apart, discount)  # [N, X, K]
    share = _share(trajectory)  # [N, X]
    quantile = student(0.95, BATCHES)
    by_batch = np.einsum("nx,nxk->k", share, moves)
    pairs, agent = np.asarray(trajectory.pairs), np.arange(trajectory.num_agents)
    level = float((share * apart).sum())
    total = {"scale": 0.0, "spread": 0.0, "sampling": 0.0}
    for start in range(0, len(pairs), _AT_ONCE):
        here, x = present[start : start + _AT_ONCE], pairs[start : start + _AT_ONCE]
        sums = np.where(here, apart[agent, x], 0).sum(1)  # [t]
        full = np.where(here, apart[agent, x] + constant, 0).sum(1)
        moved = sum(here[:, i, None] * moves[i, x[:, i]] for i in agent) - by_batch  # [t, K]
        total["scale"] += np.abs(full).sum()
        total["spread"] += np.abs(sums - level).sum()
        total["sampling"] += quantile * deviation(moved).sum()
    return LearnedSum(
        apart + constant[:, None],
        apart,
        occupancy,
        level=level + float(share.sum(1) @ constant),
        level_error=quantile * float(deviation(by_batch)),
        scale=float(total["scale"]) / len(pairs),
        spread=float(total["spread"]) / len(pairs),
        sampling=float(total["sampling"]) / len(pairs),
    )


def _learned(
    trajectory: Trajectory, rewards: np.ndarray, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values and occupancy, `[N, X]`; as many agents at a time as memory should hold."""
    agents = np.arange(trajectory.num_agents)
    some = min(max(_CELLS // trajectory.num_pairs**2, 1), len(agents))
    parts, last_seen = [], trajectory.last_seen
    for start in range(0, len(agents), some):
        group = np.resize(agents[start : start + some], some)  # of one size, compiled once
        seen = replace(
            trajectory,
            states=np.asarray(trajectory.states)[:, group],
            actions=np.asarray(trajectory.actions)[:, group],
            present=np.asarray(trajectory.present)[:, group],
            last_seen=last_seen if last_seen is None else np.asarray(last_seen)[:, group],
            # In JAX's default float, so that nothing is learned in more than it computes.
            rewards=jnp.asarray(rewards[:, group], float),
            labels=trajectory.labels._replace(agents=tuple(group.tolist())),
        )
        parts.append([np.asarray(x, float) for x in lstd_local_q(seen, discount=discount)])
    value, occupancy = (np.concatenate(x)[: len(agents)] for x in zip(*parts, strict=True))
    return value, occupancy


def centered(rewards: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rewards less their mean over the epochs of the agent, `[T, N]`, and the means, `[N]`."""
    eps = np.finfo(rewards.dtype if rewards.dtype.kind == "f" else float).eps
    rewards = np.where(present, rewards, 0).astype(float)
    mean = rewards.sum(0) / np.maximum(present.sum(0), 1)
    apart = np.where(present, rewards - mean, 0)
    same = np.abs(apart).max(0) <= _ROUNDING * eps * np.abs(rewards).max(0)
    return np.where(same, 0, apart), mean


def _share(trajectory: Trajectory) -> np.ndarray:
    """How often each agent is in each pair, per epoch of the log, `[N, X]`."""
    present, pairs = np.asarray(trajectory.present), np.asarray(trajectory.pairs)
    counts = [
        np.bincount(pairs[here, i], minlength=trajectory.num_pairs)
        for i, here in enumerate(present.T)
    ]
    return np.stack(counts) / len(pairs)


def _moves(
    trajectory: Trajectory, rewards: np.ndarray, q: np.ndarray, discount: float
) -> np.ndarray:
    """How far each batch of epochs moves the values, `[N, X, K]`."""
    follows, pairs = np.asarray(trajectory.follows), np.asarray(trajectory.pairs)
    batch = np.arange(len(follows)) * BATCHES // len(follows)
    size = trajectory.num_pairs
    moves = np.zeros((trajectory.num_agents, size, BATCHES))
    for i, here in enumerate(follows.T):
        x, y, r = pairs[:-1][here, i], pairs[1:][here, i], rewards[:-1][here, i]
        flow = np.bincount(x * size + y, minlength=size**2).reshape(size, size)
        visits = flow.sum(1)
        one = 1 / np.maximum(visits, 1)
        wrong = r + discount * q[i, y] - q[i, x]
        cell = x * BATCHES + batch[here]
        h = np.bincount(cell, wrong, minlength=size * BATCHES).reshape(size, BATCHES)
        moves[i] = np.linalg.solve(np.eye(size) - discount * one[:, None] * flow, one[:, None] * h)
    return moves


def deviation(parts: np.ndarray) -> np.ndarray:
    """Standard error of a sum from its K parts, `[..., K]`, which are nearly independent."""
    apart = parts - parts.mean(-1, keepdims=True)
    return np.sqrt((apart**2).sum(-1) * BATCHES / (BATCHES - 1))
