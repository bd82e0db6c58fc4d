r"""How far an approximation misses the true value of the team, for a sum that a log has taught or
for a critic.

What is estimated is data/error_estimate.py's: mean |Q - f| with its constant (`value`), and without
it. For the sum of local values two numbers are without: in the limit of data, and for the values
that this log has taught. The latter are off by sampling besides, and a log does not see that in its
own TD errors, which add up to 0 at every local pair; learned_sum.py knows how large it is. Noise of
deviation s and an error that has nothing to do with it come to \sqrt{e^2 + s^2}: so the point takes
the mean size of the noise, and the upper end half of its 95% interval.
"""

import re
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from ..data.error_estimate import ErrorEstimate, estimate_approximation_error
from ..data.estimators import student
from ..data.linear_values import LinearQ
from ..data.local_learning import LocalQ
from ..data.td_error_fit import ErrorInterval
from ..data.trajectory import Trajectory
from .learned_sum import LearnedSum

Array = jax.Array

# Numbers that are this many rounding errors, magnified by the horizon, are 0.
_ROUNDING = 1024 * float(np.finfo(np.float64).eps)
_UNKNOWN = ErrorInterval(*map(np.float64, (np.nan,) * 4))
# How a refusal of a log that is too short begins, and how it names the length that would do.
_SHORT, _WANTED = ("trajectory: ", "num_folds: ", "num_batches: "), re.compile(r"wanted \D*(\d+)")
# Steps that are enough for folds and batches.
_LEAST = 200
# Batches of which learned_sum.py makes its intervals.
_BATCHES = 20


class Share(NamedTuple):
    """An error as a share of something.

    Attributes:
        value: the point.
        lower: end of its interval.
        upper: end of its interval.
    """

    value: float
    lower: float
    upper: float


class TeamError(NamedTuple):
    """How far an approximation f misses the true value Q of the team.

    Attributes:
        name: "sum of local values" or "critic".
        value: mean |Q - f|, its constant included; of the sum as this log has taught it.
        differences: the same less its mean, which is what a comparison of actions or policies
            feels; of the sum as this log has taught it, sampling included.
        limit: `differences` of the sum that an endless log would teach; of a critic as above.
        bias: mean of Q - f, a constant off.
        placebo: as `differences` with features from another time; not near 0 where the log drifts.
        ceiling: at least `value`, whatever the features; infinite where no run is long enough.
        scale: mean |f| over the log.
        spread: mean |f - mean of f| over the log.
        by_pair: what `limit` is while agent i is in local pair x, `[N, X]`.
        num_features: that the team is seen by.
        by_pairs: whether these are its joint pairs; else numbers that stand for them, and what they
            do not show is not seen.
        num_steps: at which the team stays the same.
        wanted: steps that would tell the error, where this log is too short; else 0.
        problem: why the error cannot be told, and everything above but the sizes is NaN; or "".
    """

    name: str
    value: ErrorInterval
    differences: ErrorInterval
    limit: ErrorInterval
    bias: ErrorInterval
    placebo: ErrorInterval
    ceiling: float
    scale: float
    spread: float
    by_pair: np.ndarray
    num_features: int
    by_pairs: bool
    num_steps: int
    wanted: int
    problem: str

    @property
    def is_told(self) -> bool:
        """Whether the log is enough to tell the error."""
        return not self.problem

    def of_spread(self, error: ErrorInterval) -> Share:
        """An error as a share of the spread; infinite where something is wrong and nothing varies.

        Args:
            error: one of the intervals.
        """
        return _share(error, self.spread)

    def of_scale(self, error: ErrorInterval) -> Share:
        """The same as a share of the mean size, which a constant in all rewards moves.

        Args:
            error: one of the intervals.
        """
        return _share(error, self.scale)

    def times(self, unit: float) -> "TeamError":
        """In other units of the reward.

        Args:
            unit: of which it was told.
        """
        made = {
            name: ErrorInterval(*(x * unit for x in part))
            for name, part in self._asdict().items()
            if isinstance(part, ErrorInterval)
        }
        sizes = {name: getattr(self, name) * unit for name in ("ceiling", "scale", "spread")}
        return self._replace(**made, **sizes, by_pair=self.by_pair * unit)


def _share(error: ErrorInterval, size: float) -> Share:
    return Share(*(float(x) / size if size > 0 else np.inf if x > 0 else 0.0 for x in error[:3]))


def error_of_sum(
    key: Array, trajectory: Trajectory, learned: LearnedSum, discount: float
) -> TeamError:
    """Of the sum of local values that a log has taught.

    Args:
        key: of `jax.random.key`, for the placebo.
        trajectory: with the rewards as they were paid, of every agent or shared.
        learned: from it.
        discount: in [0, 1).
    """
    # A constant in the rewards of an agent moves its values by one, and no error.
    constant = (learned.q_local - learned.apart)[:, 0] * (1 - discount)
    level_free = replace(trajectory, rewards=_less(trajectory, constant))
    values = learned.linear
    if values is None:
        values = LocalQ(learned.apart, np.ones_like(learned.apart))  # type: ignore[arg-type]
    found = _estimate(key, level_free, values, discount)
    made = _made("sum of local values", found, learned.scale, learned.spread, trajectory)
    if not made.is_told:
        return made
    limit = made.limit
    # Of a normal variable with 95% within `sampling` the mean size is this share.
    size = float(np.sqrt(2 / np.pi)) / student(0.95, _BATCHES)
    value, upper = (
        float(np.hypot(part, learned.sampling * share))
        for part, share in ((limit.value, size), (limit.upper, 1.0))
    )
    spread = np.hypot(limit.standard_error, learned.sampling / student(0.95, _BATCHES))
    differences = ErrorInterval(*map(np.float64, (value, limit.lower, max(upper, value), spread)))
    return made._replace(differences=differences)


def error_of_critic(
    key: Array, trajectory: Trajectory, critic: np.ndarray, discount: float
) -> TeamError:
    """Of a critic along a log.

    Args:
        key: of `jax.random.key`, for the placebo.
        trajectory: with the rewards as they were paid, of every agent or shared.
        critic: its value of the team at every epoch, `[T]`.
        discount: in [0, 1).
    """
    scale = float(np.abs(critic).mean())
    spread = float(np.abs(critic - critic.mean()).mean())
    found = _estimate(key, trajectory, critic, discount)
    return _made("critic", found, scale, spread, trajectory, discount)


class _Short(NamedTuple):
    """Why a log cannot tell the error, and how many steps would do; 0 where no number would."""

    problem: str
    wanted: int


def _estimate(
    key: Array,
    trajectory: Trajectory,
    approximation: LocalQ | LinearQ | np.ndarray,
    discount: float,
) -> ErrorEstimate | _Short:
    try:
        return estimate_approximation_error(key, trajectory, approximation, discount=discount)
    except ValueError as error:
        said = str(error)
        if not said.startswith(_SHORT):
            raise
    if not said.startswith("trajectory: "):
        return _Short(f"steps are too few; wanted {_LEAST}", _LEAST)
    wanted = _WANTED.search(said)
    # The reader gave a log and no features.
    problem = said.removeprefix("trajectory: ").replace(", or give features", "")
    return _Short(problem, int(wanted[1]) if wanted else 0)


def _made(
    name: str,
    found: ErrorEstimate | _Short,
    scale: float,
    spread: float,
    trajectory: Trajectory,
    discount: float = 0.0,
) -> TeamError:
    """What was found, what rounding may have done to it set to 0."""
    table = (trajectory.num_agents, trajectory.num_pairs)
    if isinstance(found, _Short):
        return TeamError(
            name, *(_UNKNOWN,) * 5, ceiling=np.nan, scale=scale, spread=spread,
            by_pair=np.full(table, np.nan), num_features=0, by_pairs=False,
            num_steps=trajectory.num_epochs - 1, wanted=found.wanted, problem=found.problem,
        )  # fmt: skip
    least = _ROUNDING * scale / (1 - discount) if discount else 0.0

    def cleared(part: ErrorInterval) -> ErrorInterval:
        size = max(abs(part.lower), abs(part.upper))
        return ErrorInterval(*(0 * x for x in part)) if size <= least else part

    return TeamError(
        name,
        value=cleared(ErrorInterval(found.value, found.lower, found.upper, found.standard_error)),
        differences=cleared(found.centered),
        limit=cleared(found.centered),
        bias=cleared(found.bias),
        placebo=cleared(found.placebo),
        ceiling=float(found.ceiling),
        scale=scale,
        spread=spread if spread > least else 0.0,
        by_pair=found.by_pair,
        num_features=found.num_features,
        by_pairs=trajectory.observations is None and found.num_features == _num_joint(trajectory),
        num_steps=found.num_steps,
        wanted=0,
        problem="",
    )


def _num_joint(trajectory: Trajectory) -> int:
    """Joint pairs that occur."""
    rows = np.where(trajectory.present, np.asarray(trajectory.pairs), -1)
    rows = np.ascontiguousarray(rows)
    # Rows as one item each: a sort of columns one by one takes N times as long.
    return len(np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))))


def _less(trajectory: Trajectory, constant: np.ndarray) -> np.ndarray:
    """Rewards less a constant of each agent that is there; 0 where they are one but for rounding.

    Args:
        trajectory: whose rewards they are.
        constant: of every agent, `[N]`.
    """
    present, paid = np.asarray(trajectory.present), np.asarray(trajectory.rewards)
    eps = np.finfo(paid.dtype if paid.dtype.kind == "f" else float).eps
    if trajectory.shares_reward:
        paid, present = paid[:, None], np.ones((len(paid), 1), bool)
        constant = np.where(trajectory.present, constant, 0).sum(1, keepdims=True)
    apart = np.where(present, paid - constant, 0.0)
    largest = np.abs(np.where(present, paid, 0)).max(0)
    same = np.abs(apart).max(0) <= _ROUNDING / np.finfo(np.float64).eps * eps * largest
    found = np.where(same, 0.0, apart)
    return found[:, 0] if trajectory.shares_reward else found
