r"""The value of TD errors, centered, and the mean of its absolute value: LSTD, cross-fitted.

What is computed and why stands in error_estimate.py.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy

from .._reads import reads
from .team_features import Matrix

# By how much variances of batch means are raised, for folds that share what they learn from: held
# out, and for the middle of that and what is in the sample.
_HELD_OUT, _MIDDLE = 2.0, 1.5
# A ridge of one visit, so that a joint pair seen once or twice is not taken at its word.
_RIDGE = 1.0
# Points of the quadrature over what the log leaves open of the mean error.
_POINTS = 15


@reads("{0.value:.4g}, with its interval from {0.lower:.4g} to {0.upper:.4g}")
class ErrorInterval(NamedTuple):
    """A number with its interval.

    Attributes:
        value: the point, within the interval.
        lower: end of the interval.
        upper: end of the interval.
        standard_error: by batch means.
    """

    value: np.float64
    lower: np.float64
    upper: np.float64
    standard_error: np.float64


class Rules(NamedTuple):
    """How it is estimated.

    Attributes:
        discount: in [0, 1).
        num_folds: blocks of time, judged in turn.
        num_batches: of the standard errors.
        quantile: of Student's t.
        rounding: what it may have done to an error.
    """

    discount: float
    num_folds: int
    num_batches: int
    quantile: float
    rounding: float


class Fit(NamedTuple):
    """An LSTD system of some steps.

    Attributes:
        judged: the steps that it judges, a slice.
        away: the steps that it does not learn from, `judged` and a gap at either end.
        inverse: of A, `[d, d]`.
    """

    judged: slice
    away: slice
    inverse: np.ndarray


class Fits(NamedTuple):
    """The features of n steps, and what LSTD needs of them.

    Attributes:
        phi: at the step, `[n, d]`.
        ahead: at the next epoch, `[n, d]`.
        whole: learns from all.
        folds: each learns from the others.
    """

    phi: Matrix
    ahead: Matrix
    whole: Fit
    folds: list[Fit]


class Centered(NamedTuple):
    """The mean of |e - mean of e|.

    Attributes:
        interval: of it.
        error: e less its mean by the whole log, `[n]`.
        surprise: what remains of the TD errors, `[n]`.
        level: by how much the mean of e is above that of the TD errors over 1 - discount: what the
            ends of runs are worth beside their starts.
    """

    interval: ErrorInterval
    error: np.ndarray
    surprise: np.ndarray
    level: np.float64

    def resized(self, size: float) -> np.ndarray:
        """The error brought to a mean absolute value."""
        found = np.abs(self.error).mean()
        return self.error * (size / found if found > 0 else 0.0)


def fit_folds(phi: Matrix, ahead: Matrix, rules: Rules) -> Fits:
    """The systems of the whole log and of all but each fold."""
    number = phi.shape[0]
    edges = np.linspace(0, number, rules.num_folds + 1).astype(int)
    # A value looks 1 / (1 - discount) steps ahead; a tenth of a fold at most is given for that.
    gap = min(int(np.ceil(1 / (1 - rules.discount))), number // (10 * rules.num_folds))
    change = phi - rules.discount * ahead

    def moments(rows: slice) -> np.ndarray:
        made = phi[rows].T @ change[rows]
        return made.toarray() if scipy.sparse.issparse(made) else made

    steps = [(slice(a, b), slice(max(a - gap, 0), b + gap)) for a, b in pairwise(edges)]
    # Of the steps between any two ends, once each: they are the whole of the cost.
    ends = np.unique(np.clip([(away.start, away.stop) for _, away in steps], 0, number))
    parts = np.stack([moments(slice(*pair)) for pair in pairwise(ends)])
    every = parts.sum(0)
    ridge = _RIDGE * np.eye(len(every))
    folds = []
    for judged, away in steps:
        left = parts[(ends[:-1] < away.start) | (ends[1:] > away.stop)].sum(0)
        folds.append(Fit(judged, away, np.linalg.inv(left + ridge)))
    whole = Fit(slice(0, number), slice(0, 0), np.linalg.inv(every + ridge))
    return Fits(phi, ahead, whole, folds)


def centered(
    fits: Fits,
    deltas: list[np.ndarray],
    rules: Rules,
    noise: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
) -> Centered:
    """The mean of |e - mean of e|, in the sample and held out.

    Args:
        fits: of `fit_folds`.
        deltas: TD errors `[n]`, to be judged in the sample and then in each fold.
        rules: how.
        noise: what noise in the approximation itself adds at given signs.
    """
    signs, gain, error, surprise, level = _judge(fits, fits.whole, deltas[0], rules)
    inside = gain - noise(signs)
    judged = [_judge(fits, *each, rules)[:2] for each in zip(fits.folds, deltas[1:], strict=True)]
    signs, gain = (np.concatenate(x) for x in zip(*judged, strict=True))
    outside = gain - noise(signs)

    low, high = outside.mean(), inside.mean()
    error_low = (_HELD_OUT**0.5) * deviation(outside, rules.num_batches)
    error_middle = (_MIDDLE**0.5) * deviation((inside + outside) / 2, rules.num_batches)
    value = max((low + high) / 2, 0)
    lower = min(max(low - rules.quantile * error_low - rules.rounding, 0), value)
    upper = value + np.hypot(rules.quantile * error_middle, max(high - low, 0) / 2) + rules.rounding
    interval = ErrorInterval(*map(np.float64, (value, lower, upper, error_middle)))
    return Centered(interval, error, surprise, level)


def _judge(
    fits: Fits, fit: Fit, delta: np.ndarray, rules: Rules
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.float64]:
    """Signs, gain, error and surprise at the steps that a fit judges, and the mean of the error."""
    phi, ahead, rows, away = fits.phi, fits.ahead, fit.judged, fit.away
    delta = delta - delta.mean()
    learned = delta.copy()
    learned[away] = 0
    weights = fit.inverse @ (phi.T @ learned)
    here, there = phi[rows] @ weights, ahead[rows] @ weights
    level = here.mean()
    signs = np.sign(here - level)
    signs = signs - signs.mean()
    # The trace is learned where the weights were.
    wanted = np.sign(phi @ weights - level)
    kept = np.ones(len(wanted), bool)
    kept[away] = False
    wanted = np.where(kept, wanted - wanted[kept].mean(), 0)
    trace = phi[rows] @ (fit.inverse.T @ (phi.T @ wanted))
    surprise = delta[rows] + rules.discount * there - here
    return signs, signs * here + trace * surprise, here - level, surprise, level


def with_bias(found: Centered, bias: ErrorInterval) -> ErrorInterval:
    """The mean of |e|, of what is centered and of the mean of e, each in its interval."""
    # Convex in the bias, so the largest is at an end, and the least where half is above it.
    part = found.interval
    least, most = found.resized(part.lower), found.resized(part.upper)
    at = np.clip(-np.median(least), bias.lower, bias.upper)
    lower = np.abs(least + at).mean()
    upper = max(np.abs(most + end).mean() for end in (bias.lower, bias.upper))
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    middle = found.resized(part.value)
    sizes = [np.abs(middle + bias.value + x * bias.standard_error).mean() for x in points]
    value, square = (np.average(x, weights=weights) for x in (sizes, np.square(sizes)))
    error = np.hypot(np.sqrt(max(square - value**2, 0)), part.standard_error)
    return ErrorInterval(*map(np.float64, (np.clip(value, lower, upper), lower, upper, error)))


def deviation(values: np.ndarray, num_batches: int) -> np.float64:
    """Standard error of a mean over steps, by the means of batches."""
    batch = np.arange(len(values)) * num_batches // len(values)
    means = np.bincount(batch, values) / np.bincount(batch)
    return means.std(ddof=1) / np.sqrt(num_batches)
