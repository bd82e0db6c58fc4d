r"""How wrong an approximation of the team's value is, from a log alone.

Let f be any approximation of the joint value Q: a sum of local values, a trained critic. Along a
log only its TD errors are needed,

    delta_t = R_t + discount f_{t+1} - f_t,    E[delta_t | x_t] = b(x_t),

for b is the Bellman residual of f, and the error is e = Q - f = (I - discount P)^-1 b: *the value
of delta taken as a reward*. So it is evaluated as any policy is, by LSTD: with features phi of the
team and A = sum_t phi_t (phi_t - discount phi_{t+1})' the estimate is ê = phi' A^-1 sum_t phi_t
delta_t. Two numbers are asked for: the mean of |e|, and that of |e - mean of e|, which is what a
comparison of actions or policies feels.

**The mean of e** is that of delta over 1 - discount, so a long horizon magnifies what a log leaves
open of the mean reward. It is known without features, with the standard error of batch means. Where
runs start unlike they go on, their ends are worth more or less than their starts, by what ê says.

**What is centered** is estimated twice. In the sample, the mean of |ê| is too large: noise has no
sign. Held out, it is too small. With g the sign of an ê learned from the other folds of the log,
less its mean, E[g e] <= E|e - E e| however wrong g is, and equality holds for the right signs. It
is estimated by

    psi_t = g_t ê_t + z(x_t) (delta_t + discount ê_{t+1} - ê_t),
    z(x) = E[sum_k discount^k g_{t-k} | x_t = x],

in which the second term makes up for what ê gets wrong. The trace z is found by least squares too,
z = phi' A^-T sum_t phi_t g_t: a sum of past signs as it falls has 1 / (1 - discount) terms, nearly
all of them noise. The point is halfway between the two estimates.

**The interval** is that of batch means, for psi is what one epoch adds to the estimate. Folds are
judged by what the others taught. Where there is no error at all this doubles the variance, since
each pair of folds counts twice; where the error is large it does not matter. So the variance of
the held-out estimate, on which the lower end stands, is doubled, and that of the point raised by
half; at the upper end half the distance of the two estimates counts as one more deviation.

**Tables learned from this log** have errors of their own. `value` is about the tables at hand: f is
fixed, however it came about. `centered` is about their limit, the local values of Eq. (2). There
f^ - f* = sum_i A_i^-1 sum_t 1{x_i} delta_i adds to e, and to psi

    - sum_i h_i(x_i,t) delta_i,t,    h_i = A_i^-T sum_t 1{x_i} g_t:

the TD errors at local pairs, control variates whose sum over the log is 0. A fold is judged by
tables that did not see it: over the whole log their TD errors add up to 0 at every local pair, so
what the other folds teach would be the opposite of what the fold shows. Local values that are
linear in features phi_i of what an agent sees are the same with phi_i for the indicators.

What features do not show is not seen: an interval is relative to them. A ceiling needs none:
E|e| <= E|sum_k discount^k delta_{t+k}| by Jensen's inequality.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy
from numpy.typing import ArrayLike

from .._checks import (
    check_discount,
    check_finite,
    check_positive_int,
    check_shape,
    concrete,
    is_key,
)
from .._reads import NOT_SAID, Frame, frame, noted, reads
from .estimators import student
from .linear_values import LinearQ, check_linear
from .local_learning import LocalQ
from .local_limit import learned_limit, local_steps, table_sum
from .observed import states_of_observations
from .td_error_fit import ErrorInterval, Rules, centered, deviation, fit_folds, with_bias
from .team_features import as_numbers, given_features, team_features
from .trajectory import Trajectory, check_trajectory

Array = jax.Array

# Steps in a batch and in a fold, at least.
_STEPS = 10
# The ceiling takes sums of which less than this share is cut off by the end of a run.
_CUT = 0.01
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@reads("mean |error| {0.value:.4g} in [{0.lower:.4g}, {0.upper:.4g}]", note=NOT_SAID)
class ErrorEstimate(NamedTuple):
    r"""The error e = Q - f of an approximation f of the team's value, from a log.

    Attributes:
        value: mean |e| of the approximation as given, what the log leaves open of its mean
            averaged over.
        lower: end of its interval, not below 0.
        upper: end of its interval.
        standard_error: of `value`.
        centered: mean |e - mean of e|; for local tables that of their limit, the paper's
            decomposition error.
        bias: mean of e. Tables learned from this log have 0 here; the interval tells how far off
            they are.
        ceiling: $E|\sum_k \gamma^k \delta_{t+k}|$, no less than mean |e| whatever the features;
            infinite where no run in the log is long enough.
        scale: mean |f|.
        spread: mean |f - mean of f|, which a constant added to all rewards does not change.
        by_pair: what `centered` is while agent i is in local pair x, `[N, X]`; 0 where never.
        placebo: as `centered` of the approximation as given, with features from another time, which
            show nothing. An interval without 0 says that the log drifts or has a rhythm of its own:
            then the rest means little.
        num_features: d, the constant counted; joint pairs where they are few.
        num_steps: steps at which the team stays the same; others are left out.
    """

    value: np.float64
    lower: np.float64
    upper: np.float64
    standard_error: np.float64
    centered: ErrorInterval
    bias: ErrorInterval
    ceiling: np.float64
    scale: np.float64
    spread: np.float64
    by_pair: np.ndarray
    placebo: ErrorInterval
    num_features: int
    num_steps: int

    def __str__(self) -> str:
        """The intervals, on a few lines."""

        def told(number) -> str:
            value, wide = number.value, number.upper - number.lower
            value = value if abs(value) > 1e-9 * wide else 0.0  # else it is rounding
            return f"{value:.4g} in [{number.lower:.4g}, {number.upper:.4g}]"

        of = ""
        if self.spread > 0:
            of = f" ({self.value / self.spread:.1%} of the spread {self.spread:.4g})"
        lines = [
            f"mean |error| {told(self)}{of}",
            f"less its mean {told(self.centered)}",
            f"mean error {told(self.bias)}",
            f"from {self.num_steps} steps and {self.num_features} features; "
            f"without features at most {self.ceiling:.4g}",
        ]
        if self.placebo.lower > 0:
            lines.append(
                f"features of another time show {told(self.placebo)}: the log drifts or has a "
                "rhythm, which the rest does not tell from an error"
            )
        return "\n".join([*lines, *noted(NOT_SAID)])

    def to_frame(self) -> Frame:
        """What `centered` is by agent and local pair, a row each."""
        agent, pair = np.indices(self.by_pair.shape)
        columns = {"agent": agent, "pair": pair, "error": self.by_pair}
        return frame({name: column.ravel() for name, column in columns.items()})


def estimate_approximation_error(
    key: Array,
    trajectory: Trajectory,
    approximation: LocalQ | LinearQ | ArrayLike,
    *,
    discount: float,
    features: ArrayLike | None = None,
    of_states: bool = False,
    types: ArrayLike | None = None,
    num_folds: int = 5,
    num_batches: int = 20,
    confidence: float = 0.95,
) -> ErrorEstimate:
    r"""How far an approximation of the team's value is from it, from a log alone.

    mean |Q - f| and mean |Q - f - mean of Q - f| over the log, each with an interval: LSTD of the
    TD errors of f, cross-fitted. In NumPy and double precision, whatever JAX's default.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Args:
        key: of `jax.random.key`, for the placebo, and for waves of observations.
        trajectory: T epochs of N agents.
        approximation: f along the log, `[T]`, of any critic. Or local values, to be added up:
            tables, `LocalQ` with a value of `[N, X]` (`[K, X]` for types), or linear ones,
            `LinearQ`; with rewards for each agent `centered` is then about their limit.
        discount: $\gamma$ in [0, 1).
        features: of the team, `[T, d]`, with d at most T/20, in any unit. If not given, indicators
            of the joint pairs if these come 50 times each, else counts of local pairs, their
            squares, indicators and products; of agents that observe numbers these numbers, products
            with actions and random waves of it all; as many as the log carries.
        of_states: whether f is a value V of states, not Q of pairs. What an action adds is then no
            error, and the features are of states.
        types: of every agent, for local tables that are shared, `[N]`; each is its own if not
            given.
        num_folds: blocks of time, judged in turn by what the others teach. Static.
        num_batches: of consecutive steps, whose means tell the standard errors. Static.
        confidence: of the intervals. Static.

    Raises:
        ValueError: for an approximation or features of another length or not finite, constant
            features or more than T/20, too many folds, and a log too short, with the length that
            would do.

    Examples:
        Agent B's next pair is agent A's current one; the sum of local values is off by 0.45:

        >>> import jax, jax.numpy as jnp, jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> key = jax.random.key(0)
        >>> log = jaxent.chain_trajectory(key, chain, rewards, num_steps=5_000)
        >>> tables = jaxent.lstd_local_q(log, discount=0.9)
        >>> found = jaxent.estimate_approximation_error(key, log, tables, discount=0.9)
        >>> print(found.centered.lower < 0.45 < found.centered.upper)
        True

    References:
        Bradtke and Barto 1996 (LSTD); Chernozhukov et al. 2018 (cross-fitting); Asmussen and Glynn
        2007, IV.5 (batch means).
    """
    check_trajectory(trajectory)
    check_discount(discount)
    if not concrete(key, trajectory, approximation, discount, features):
        raise ValueError("trajectory: a log is analyzed outside of jit; nothing may be traced")
    if not is_key(key) or key.shape:
        raise ValueError("key: wanted one of jax.random.key")
    starts = _starts(trajectory, num_folds, num_batches)
    gamma, quantile = float(discount), student(confidence, num_batches)
    if of_states and isinstance(approximation, (LocalQ, LinearQ)):
        raise ValueError("of_states: local tables are of pairs; give their sum along the log")
    f, own = _along(trajectory, approximation, types)
    if features is None:
        waves_key, seen = jax.random.fold_in(key, 1), states_of_observations(trajectory)
        matrix = team_features(waves_key, seen, f, of_states=of_states)
    else:
        matrix = given_features(features, trajectory.num_epochs)
    reward, f_here = _team_reward(trajectory)[starts], f[starts]
    delta = reward + gamma * f[starts + 1] - f_here
    scale = np.abs(f_here).mean()
    rounding = _ROUNDING * (np.abs(reward).mean() + 2 * scale) / (1 - gamma)
    rules = Rules(gamma, num_folds, num_batches, quantile, rounding)

    fits = fit_folds(matrix[starts], matrix[starts + 1], rules)
    same = [delta] * (num_folds + 1)
    found = limit = centered(fits, same, rules)
    if own:
        linear = approximation.features if isinstance(approximation, LinearQ) else None
        steps = local_steps(trajectory, gamma, types, linear)
        learned = learned_limit(steps, starts, [fold.away for fold in fits.folds])
        limit = centered(fits, learned.deltas, rules, learned.noise)
    moved = np.roll(starts, _shift(key, len(starts)))
    placebo = centered(fit_folds(matrix[moved], matrix[moved + 1], rules), same, rules)

    # Of one run the two ends are a part of the interval; starts of many may be unlike the rest.
    breaks = (np.diff(starts) > 1).sum()
    level = delta.mean() / (1 - gamma) + (found.level if breaks else 0.0)
    open_by = deviation(found.error + found.surprise / (1 - gamma), num_batches)
    # Where rewards telescope, what is not known comes from the ends of the runs alone.
    ends = (1 + breaks) ** 0.5 * np.ptp(f_here) / len(starts) / (1 - gamma)
    away = quantile * open_by + ends + rounding
    bias = ErrorInterval(level, level - away, level + away, open_by)
    whole = with_bias(found, bias)
    return ErrorEstimate(
        *whole,
        centered=limit.interval,
        bias=bias,
        ceiling=_ceiling(delta, starts, gamma),
        scale=scale,
        spread=np.abs(f_here - f_here.mean()).mean(),
        by_pair=_by_pair(trajectory, starts, np.abs(limit.resized(limit.interval.value))),
        placebo=placebo.interval,
        num_features=matrix.shape[1],
        num_steps=len(starts),
    )


def _starts(trajectory: Trajectory, num_folds: int, num_batches: int) -> np.ndarray:
    """The epochs that are followed by one with the same team, if these are enough."""
    check_positive_int("num_folds", num_folds)
    check_positive_int("num_batches", num_batches)
    present, follows = np.asarray(trajectory.present), np.asarray(trajectory.follows)
    same = (present[:-1] == follows) & (present[1:] == follows)
    starts = np.flatnonzero(same.all(1) & follows.any(1))
    number, wanted = len(starts), _STEPS * max(num_batches, num_folds)
    for name, parts in (("num_folds", num_folds), ("num_batches", num_batches)):
        if parts < 2 or parts > max(number, 2):
            raise ValueError(f"{name}: {parts} is outside 2..{number} (steps of the log)")
    if number < wanted:
        raise ValueError(
            f"trajectory: {number} steps at which the team stays the same are too few for "
            f"{num_folds} folds and {num_batches} batches; wanted at least {wanted}"
        )
    return starts


def _along(
    trajectory: Trajectory, approximation: LocalQ | LinearQ | ArrayLike, types: ArrayLike | None
) -> tuple[np.ndarray, bool]:
    """The approximation along the log, `[T]`, and whether it is a sum that has a limit."""
    if isinstance(approximation, LinearQ):
        check_linear(trajectory, approximation)
        return approximation.value.sum(1), not trajectory.shares_reward
    if isinstance(approximation, LocalQ):
        value = table_sum(trajectory, np.asarray(approximation.value), types)
        return value, not trajectory.shares_reward
    if types is not None:
        raise ValueError("types: are of local tables; leave them out for a value along the log")
    value = as_numbers("approximation", approximation)
    check_shape("approximation", value, (trajectory.num_epochs,))
    check_finite("approximation", value)
    return value, False


def _team_reward(trajectory: Trajectory) -> np.ndarray:
    """Of all agents that are there, `[T]`."""
    rewards = np.asarray(trajectory.rewards, np.float64)
    if trajectory.shares_reward:
        return rewards
    return np.where(np.asarray(trajectory.present), rewards, 0).sum(1)


def _shift(key: Array, number: int) -> int:
    """By how many steps the features of the placebo are another time's."""
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return int(draw.integers(number // 4, number - number // 4))


def _ceiling(delta: np.ndarray, starts: np.ndarray, discount: float) -> np.float64:
    """Mean |sum_k discount^k delta_{t+k}| where enough steps follow one another, else infinity."""
    number = len(starts)
    last = np.append(np.diff(starts) > 1, True)
    place = np.where(last, np.arange(number), number)
    end = np.minimum.accumulate(place[::-1])[::-1]  # of the run that a step is in
    total = scipy.signal.lfilter([1.0], [1.0, -discount], delta[::-1])[::-1]
    beyond = np.append(total, 0.0)[end + 1]
    left = discount ** (end + 1 - np.arange(number))
    whole = left <= _CUT
    if not whole.any():
        return np.float64(np.inf)
    return np.abs(total - left * beyond)[whole].mean()


def _by_pair(trajectory: Trajectory, starts: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Mean of a number of every step while agent i is in local pair x, `[N, X]`."""
    present = np.asarray(trajectory.present)[starts]
    number, num_pairs = trajectory.num_agents, trajectory.num_pairs
    group = (np.arange(number) * num_pairs + np.asarray(trajectory.pairs)[starts])[present]
    weight = np.broadcast_to(size[:, None], present.shape)[present]
    total, seen = (np.bincount(group, w, number * num_pairs) for w in (weight, None))
    return (total / np.maximum(seen, 1)).reshape(number, num_pairs)
