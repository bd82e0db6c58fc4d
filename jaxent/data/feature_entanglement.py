r"""Entanglement from logs of agents that see numbers: laws of the next pair linear in features.

Nobody's next observation comes twice, so its law is looked at through outcomes y, which can only
make distances smaller: the next action, and on which side of its median what cannot be foretold of
the next observation is, in the two directions that the others tell most of. On one part of the log
p(y | own, others) = own part + u' B_y is fitted by least squares, u the features of the others less
what own features tell of them; on the other part it is counted how often

    h_y = 1 where u' B_y is above its median, for the outcome y that came, beside
    sum_y h_y q(y | own),    q the own law, by least squares too.

An h whose mean given the own features is the same for all y gains E[sum_y h_y (P_y - q_y)] <= E_i
whatever q, and where q is right a wrong median does no harm: errors of the two multiply. What is
left of them shows in the placebo, the same with features of another time.

The test multiplies what own features do not foretell of an epoch by a random sign: given all that
was before, it has mean 0 if the others do not matter, and so has its product with u.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from .estimators import student
from .observed import actions_taken, beside, numbers_seen, own_features, waves_of, whitened
from .trajectory import Trajectory

Array = jax.Array

# Directions of the next observation that are looked at, each on two sides.
_DIRECTIONS = 2
# Rows for a feature, at least, and features of the others at most.
_ROWS, _MOST_OWN, _MOST = 50, 200, 150
# Less of a next observation than this is rounding, or what own features do not quite express.
_UNFORETOLD = 1e-4
_BATCHES = 20
# A ridge of one row.
_RIDGE = 1.0


class Rules(NamedTuple):
    """How it is estimated; as for `entanglement_from_logs`."""

    num_folds: int
    min_visits: int
    num_permutations: int
    confidence: float


class Rows(NamedTuple):
    """Transitions of an agent, in order.

    Attributes:
        pair: its local pair, `[n]`.
        own: features of what it sees and does, `[n, d]`.
        others: of what the others do too, `[n, e]`.
        unforetold: what own features do not tell of its next observation and action, `[n, r]`.
        action: the next one, `[n]`.
    """

    pair: np.ndarray
    own: np.ndarray
    others: np.ndarray
    unforetold: np.ndarray
    action: np.ndarray


def estimate_by_features(
    key: Array, trajectory: Trajectory, agent: int, given: np.ndarray | None, rules: Rules
) -> dict[str, Any]:
    """The fields of `LogsEstimate` for one agent.

    Args:
        key: of `jax.random.key`.
        trajectory: with observations.
        agent: which.
        given: features of the others, `[T, N, d]`; what they observe and do if None.
        rules: how.
    """
    own_key, wave_key, draw_key = jax.random.split(key, 3)
    draw = np.random.default_rng(np.asarray(jax.random.key_data(draw_key)))
    follows = np.asarray(trajectory.follows)[:, agent]
    pairs = np.asarray(trajectory.pairs)[:, agent]
    here = np.flatnonzero(follows)
    visits = np.bincount(pairs[here], minlength=trajectory.num_pairs)
    enough = visits >= rules.min_visits
    here = here[enough[pairs[here]]]
    size = trajectory.num_pairs
    flow = np.bincount(pairs[here] * size + pairs[here + 1], minlength=size**2).reshape(size, size)
    seen = flow.sum(1, keepdims=True)
    found = {
        "minimizer": np.where(seen > 0, flow / np.maximum(seen, 1), 1 / size),
        "visits": visits.astype(float),
        "enough": enough,
    }
    if len(here) < 2 * _BATCHES:
        nothing = dict.fromkeys(("value", "standard_error", "lower", "upper", "plug_in"), np.nan)
        return found | nothing | {
            "p_value": np.nan, "placebo": np.nan, "batches": np.zeros(_BATCHES)
        }  # fmt: skip
    rows = _rows(own_key, trajectory, agent, here)
    other = _others(trajectory, agent, given)[here]
    shift = int(draw.integers(len(here) // 4, len(here) - len(here) // 4))
    gains = []
    for seen_then in (other, np.roll(other, shift, axis=0)):
        u = _less_own(wave_key, rows.own, seen_then)
        gains.append(_held_out(rows._replace(others=u), rules.num_folds))
        if len(gains) == 1:
            p_value = _signs_test(draw, u, rows.unforetold, rules.num_permutations)
    (gain, apart), (placebo, _) = gains
    batch = np.arange(len(gain)) * _BATCHES // len(gain)
    means = np.bincount(batch, gain) / np.bincount(batch)
    # What one fold is judged on another learns from, so at worst the errors of folds add up.
    error = (rules.num_folds / _BATCHES) ** 0.5 * means.std(ddof=1)
    away = student(rules.confidence, _BATCHES) * error
    value = gain.mean()
    return found | {
        "value": value,
        "standard_error": error,
        "lower": value - away,
        "upper": value + away,
        "plug_in": apart,
        "p_value": p_value,
        "batches": means,
        "placebo": placebo.mean(),
    }


def _rows(key: Array, trajectory: Trajectory, agent: int, here: np.ndarray) -> Rows:
    """Of one agent, by features of its own as many as the rows carry."""
    alone = _alone(trajectory, agent)
    most = min(max(len(here) // _ROWS, 1), _MOST_OWN)
    own = own_features(key, alone, num_features=most)[here, 0]
    action = np.asarray(trajectory.actions)[here + 1, agent]
    following = np.concatenate(
        [numbers_seen(alone)[here + 1, 0], actions_taken(alone)[here + 1, 0]], axis=1
    )
    size = following.std(0)
    following = following[:, size > 0] / size[size > 0]
    left = _left(own, following)
    unforetold = whitened(left[:, left.std(0) > _UNFORETOLD**0.5], _UNFORETOLD)
    pair = np.asarray(trajectory.pairs)[here, agent]
    return Rows(pair, own, np.zeros((len(here), 0)), unforetold, action)


def _alone(trajectory: Trajectory, agent: int) -> Trajectory:
    """The log of one agent."""
    one = slice(agent, agent + 1)
    rewards = np.zeros((trajectory.num_epochs, 1))
    return replace(
        trajectory,
        states=np.asarray(trajectory.states)[:, one],
        actions=np.asarray(trajectory.actions)[:, one],
        present=np.asarray(trajectory.present)[:, one],
        observations=np.asarray(trajectory.observations)[:, one],
        action_laws=None,
        last_seen=None,
        rewards=rewards,
        labels=trajectory.labels._replace(agents=trajectory.labels.agents[one]),
    )


def _others(trajectory: Trajectory, agent: int, given: np.ndarray | None) -> np.ndarray:
    """What the others observe and do, `[T, e]`, or the features that were given."""
    if given is not None:
        return np.asarray(given, np.float64)[:, agent]
    rest = np.delete(np.arange(trajectory.num_agents), agent)
    parts = [numbers_seen(trajectory)[:, rest], actions_taken(trajectory)[:, rest]]
    return np.concatenate([x.reshape(trajectory.num_epochs, -1) for x in parts], axis=1)


def _less_own(key: Array, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The others' features, with waves of them, less what own features tell of them, `[n, e]`."""
    plain = whitened(other)
    most = min(_MOST, len(own) // _ROWS)
    waves = waves_of(key, plain, most - plain.shape[1])
    made = np.concatenate([plain, beside(plain, [waves])], axis=1) if waves.size else plain
    return whitened(_left(own, made), _UNFORETOLD)


def _fit(columns: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares with a ridge of one row."""
    ridge = _RIDGE * np.diag((columns**2).mean(0) + (columns == 0).all(0))
    return np.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted)


def _left(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What own features leave."""
    return wanted - own @ _fit(own, wanted)


def _held_out(rows: Rows, num_folds: int) -> tuple[np.ndarray, float]:
    """Gain at every row, judged by what the other folds teach, and what these tell of distances."""
    number, u = len(rows.pair), rows.others
    fold = np.arange(number) * num_folds // number
    gain, apart = np.zeros(number), 0.0
    for k in range(num_folds):
        train, judged = fold != k, fold == k
        outcome, num_outcomes = _outcomes(rows, train)
        came = (outcome[:, None] == np.arange(num_outcomes)).astype(float)
        own_law = rows.own @ _fit(rows.own[train], came[train])
        slope = _fit(u[train], (came - own_law)[train])
        moved = u @ slope  # [n, m]
        h = _halves(rows.pair, moved, train)
        gain[judged] = (h * (came - own_law))[judged].sum(1)
        apart += np.abs(moved[judged]).sum() / 2 / number
    return gain, apart


def _outcomes(rows: Rows, train: np.ndarray) -> tuple[np.ndarray, int]:
    """Next action, and sides of what is not foretold, by directions that training rows show."""
    left, u = rows.unforetold, rows.others
    codes = rows.action
    size = int(codes.max()) + 1
    if left.shape[1]:
        _, _, axes = np.linalg.svd(u[train].T @ left[train], full_matrices=False)
        for side in (left @ axes[:_DIRECTIONS].T).T:
            codes = 2 * codes + (side > np.median(side[train]))
            size *= 2
    return codes, size


def _halves(pair: np.ndarray, moved: np.ndarray, train: np.ndarray) -> np.ndarray:
    """1 above the median of the training rows of a local pair, 0 below, and 1/2 on average."""
    h = np.zeros_like(moved)
    same = 1e-5 * np.abs(moved).max(initial=0)
    for x in np.unique(pair):
        here, taught = pair == x, (pair == x) & train
        if not taught.any():
            continue
        middle = np.median(moved[taught], axis=0)
        above = (moved[taught] > middle + same).mean(0)
        at = (np.abs(moved[taught] - middle) <= same).mean(0)
        edge = np.clip((0.5 - above) / np.where(at > 0, at, 1), 0, 1)
        apart = moved[here] - middle
        h[here] = np.where(np.abs(apart) <= same, edge, apart > 0)
    return h


def _signs_test(
    draw: np.random.Generator, u: np.ndarray, left: np.ndarray, num_permutations: int
) -> float:
    """Share of random signs, with the data, whose products are no smaller than the data's own."""
    if not left.size or not u.size:
        return 1.0
    told = ((u.T @ left) ** 2).sum() * (1 - 1e-9)
    more = 0
    for _ in range(num_permutations):
        signs = draw.integers(2, size=len(u)) * 2.0 - 1
        more += ((u.T @ (left * signs[:, None])) ** 2).sum() >= told
    return (1 + more) / (1 + num_permutations)
