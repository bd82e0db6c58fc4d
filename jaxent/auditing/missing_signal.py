r"""What a log does not show and yet moves the team: a rhythm, a drift, or a hidden cause.

In a chain of joint pairs the next epoch depends on the present pair alone. Two departures are
looked for. *History*: what remains of the number of agents in each state at t + 1, once the mean
given the joint pair at t is taken off, must not go with what was seen at t - 1. It is a martingale
difference, so the sum of its products with anything known before has the variance of its squares.
*Time*: in what remains there must be no line of the spectrum that stands out from its neighbors.
"""

import numpy as np
import scipy

from ..data.trajectory import Trajectory

# A joint pair has to come this often, on average, for means given it.
_VISITS = 50
# Chances of a false alarm.
_LEVEL, _LINE_LEVEL = 1e-4, 1e-5
# Neighbors of a line of the spectrum on either side, and those nearest that it leaks into.
_NEAR, _LEAK = 12, 2


def missing_signal(trajectory: Trajectory, *, drifts: bool) -> str:
    """What should be given as a signal, in words; "" where nothing is found.

    Args:
        trajectory: of T epochs.
        drifts: whether the placebo of the error was not near 0.
    """
    if trajectory.observations is not None:
        return ""  # what an action alone does not tell is in what is observed
    present, follows = np.asarray(trajectory.present), np.asarray(trajectory.follows)
    same = ((present[:-1] == follows) & (present[1:] == follows)).all(1) & follows.any(1)
    middle = np.flatnonzero(same[1:] & same[:-1]) + 1  # with an epoch before and one after
    if len(middle) < 4 * _VISITS:
        return ""
    joint = _joint(trajectory)
    if joint is not None and _has_history(trajectory, joint, middle):
        period = _period(_left(_counts(trajectory)[middle + 1], joint[middle]))
        return _rhythm(period) or (
            "a cause that the log does not show: what came before tells of the next step, beyond "
            "what the present pairs tell"
        )
    if not drifts:
        return ""
    paid = np.asarray(trajectory.rewards, float)
    if not trajectory.shares_reward:
        paid = np.where(present, paid, 0).sum(1)
    seen = np.concatenate([_counts(trajectory), paid[:, None]], axis=1)[middle]
    return _rhythm(_period(seen - seen.mean(0))) or (
        "the time or the season: the log drifts (or audit shorter pieces of it)"
    )


def _rhythm(period: float) -> str:
    return f"the time of a rhythm of about {period:.3g} steps, in a few bins" if period else ""


def _joint(trajectory: Trajectory) -> np.ndarray | None:
    """The joint pair of every epoch, `[T]`, if these are few; else None."""
    codes = np.where(trajectory.present, np.asarray(trajectory.pairs), -1)
    joint = np.zeros(len(codes), np.int64)
    for column in codes.T:
        joint = np.unique(joint * (trajectory.num_pairs + 1) + column + 1, return_inverse=True)[1]
    return joint if joint.max() < len(joint) // _VISITS else None


def _counts(trajectory: Trajectory) -> np.ndarray:
    """Agents in each state, `[T, S]`."""
    states = np.where(trajectory.present, np.asarray(trajectory.states), -1)
    found = np.zeros((len(states), trajectory.num_states))
    for column in states.T:
        found[np.flatnonzero(column >= 0), column[column >= 0]] += 1
    return found


def _left(values: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """What remains of columns once the mean given the joint pair is taken off."""
    number = np.maximum(np.bincount(joint), 1)
    means = np.stack([np.bincount(joint, v) / number for v in values.T], axis=1)
    return values - means[joint]


def _has_history(trajectory: Trajectory, joint: np.ndarray, middle: np.ndarray) -> bool:
    """Whether the epoch before tells of the next one, given the present joint pair."""
    counts = _counts(trajectory)
    after = _left(counts[middle + 1], joint[middle])
    before = _left(counts[middle - 1], joint[middle])
    chances = []
    for column in after.T:
        score = before.T @ column
        spread = (before * (column**2)[:, None]).T @ before
        power, axes = np.linalg.eigh(spread)
        told = power > 1e-9 * max(power.max(), 1e-300)
        if told.any():
            size = float(((axes.T @ score)[told] ** 2 / power[told]).sum())
            chances.append(scipy.special.gammaincc(told.sum() / 2, size / 2))
    return bool(chances) and min(chances) < _LEVEL / len(chances)


def _period(series: np.ndarray) -> float:
    """The period of a line that stands out from its neighbors in a spectrum; 0 for none."""
    size = np.sqrt((series**2).mean(0))
    kept = size > 1e-9 * max(size.max(initial=0), 1e-300)
    if not kept.any():
        return 0.0
    power = (np.abs(np.fft.rfft(series[:, kept] / size[kept], axis=0)) ** 2).sum(1)[1:]
    best = int(power.argmax())
    around = np.arange(max(best - _NEAR, 0), min(best + _NEAR + 1, len(power)))
    around = power[around[np.abs(around - best) > _LEAK]]
    line = np.log(len(power) / _LINE_LEVEL) * around.mean()
    # Two rounds of it at least: one alone is a drift.
    return len(series) / (best + 1) if power[best] > line and best >= 2 else 0.0
