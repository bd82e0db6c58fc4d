"""What a log shows of actions: which are seen, and how the reward is made where all are tried."""

from typing import NamedTuple

import numpy as np

from .._reads import reads
from ..data.log_interaction import reward_interaction_from_log
from ..data.trajectory import Trajectory
from .verdict import percent

# Epochs without which nothing is told of uniform play, and how much of it a log must have, and have
# twice.
_EPOCHS, _ENOUGH = 200, 0.9


@reads("{0.enough:.1%} of the (state, action) pairs are seen often enough, {0.never:.1%} never")
class Exploration(NamedTuple):
    """What a log shows of actions.

    Attributes:
        enough: share of the (state, action) pairs that are seen `min_visits` times or more, of all
            actions in all states where an agent is seen.
        never: share of those that are not seen at all.
        share: of the variance of the team's reward by uniform play, what no sum of local rewards
            explains; NaN where the log cannot tell.
        lower: end of its 95% interval.
        upper: end of its 95% interval.
        covered: share of uniform play that the log has; NaN for less than 200 epochs.
        source: of the weights, as of `InteractionEstimate`; "" where it is not told.
        min_visits: of `enough`.
        shared: whether the reward is one for all.
    """

    enough: float
    never: float
    share: float
    lower: float
    upper: float
    covered: float
    source: str
    min_visits: int
    shared: bool

    def lines(self) -> list[str]:
        """For the report: of uniform play where there is something to see, or a shared reward."""
        told = []
        if self.enough < 1:
            told.append(
                f"actions: of all in the states that occur {percent(self.enough)} are seen "
                f"{self.min_visits} times or more, {percent(self.never)} never"
            )
        if self.source and (self.shared or self.lower > 0):
            told.append(
                f"by uniform play {percent(self.share)} ({percent(self.lower)} to "
                f"{percent(self.upper)}) of the variance of the reward is in no sum of local "
                "rewards"
            )
        elif self.shared and self.covered < _ENOUGH:
            told.append(
                f"of uniform play this log has {percent(self.covered)}, too little to tell how the "
                "reward is made"
            )
        return told


def exploration(trajectory: Trajectory, visits: np.ndarray, min_visits: int) -> Exploration:
    """What a log shows of actions.

    Args:
        trajectory: with the rewards as they were paid.
        visits: transitions from each local pair of each agent, `[N, X]`.
        min_visits: that are enough.
    """
    A, Z = trajectory.num_actions, trajectory.num_signals
    table = visits.reshape(len(visits), -1, A, Z)
    there = np.broadcast_to(table.any(2, keepdims=True), table.shape)
    total = max(1, int(there.sum()))
    enough = float((table >= min_visits).sum() / total)
    never = float((there & (table == 0)).sum() / total)
    share, lower, upper, covered, source = *(np.nan,) * 4, ""
    # Of agents that see numbers no table tells how the reward is made.
    if trajectory.num_epochs >= _EPOCHS and trajectory.observations is None:
        found = reward_interaction_from_log(trajectory)
        covered = float(found.covered)
        if min(covered, found.repeated) >= _ENOUGH:
            share, lower, upper = (float(x) for x in (found.share, found.lower, found.upper))
            source = found.source
    return Exploration(
        enough, never, share, lower, upper, covered, source, min_visits, trajectory.shares_reward
    )
