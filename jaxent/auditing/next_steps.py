"""What to do next, by rule and from the data.

Each rule looks at what the audit found and at the log, and says one thing in one line: accept, more
data, add a signal, merge two agents, split the reward otherwise, learn a critic, take the sum,
train on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import jax
import numpy as np

from ..data.log_table import printable
from ..data.trajectory import Trajectory
from .missing_signal import missing_signal
from .team_error import TeamError, error_of_critic
from .verdict import TRUSTED, Verdict, more_steps, percent, ranged, shown_number

Array = jax.Array

# With up to so many agents every pair of them is tried.
_TRIED = 4
# Local pairs of two agents together, at most, of which values are learned to see what it gives.
_MOST_PAIRS = 400
# Products of features that a merge may cost; the map of who moves whom stands for more.
_MOST_PRODUCTS = 1e9
# Less than this share of a reward unexplained is no reason to split it otherwise.
_UNSPLIT = 0.1


class Step(NamedTuple):
    """One thing to do.

    Attributes:
        rule: "accept", "more data", "add a signal", "merge", "split otherwise", "learn a critic",
            "take the sum" or "train on".
        text: what, with the numbers that it follows from.
    """

    rule: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What rules look at.

    Attributes:
        trajectory: with the rewards as they were paid.
        discount: in [0, 1).
        verdict: on what is judged.
        error: of what is judged.
        of_sum: error of the sum of local values.
        local: learned local values, each agent's less the value of its mean reward, `[N, X]`.
        moved: agents that are moved by the others, `[N]`.
        entanglement: of every agent, `[N]`; NaN where not known.
        influence: row i is moved by column j, `[N, N]`, or `[0, 0]`.
        visits: transitions from each local pair of each agent, `[N, X]`.
        min_visits: that a pair needs.
        reward_error: share of a shared reward that its split leaves unexplained.
        key: of `jax.random.key`.
    """

    trajectory: Trajectory
    discount: float
    verdict: Verdict
    error: TeamError
    of_sum: TeamError
    local: np.ndarray
    moved: np.ndarray
    entanglement: np.ndarray
    influence: np.ndarray
    visits: np.ndarray
    min_visits: int
    reward_error: float
    key: Array

    @property
    def judges_critic(self) -> bool:
        """Whether it is a critic that is judged."""
        return self.error.name == "critic"


def next_steps(found: Findings) -> tuple[Step, ...]:
    """What to do, the first thing first.

    Args:
        found: by the audit.
    """
    word = found.verdict.word
    if word == "not enough data":
        return (_until_told(found),)
    upper = found.error.of_spread(found.error.differences).upper
    steps = []
    if word in ("trust", "trust with care"):
        use = "the critic" if found.judges_critic else "the sum"
        larger = f", for differences of more than {percent(upper)} of its spread" if upper else ""
        steps.append(Step("accept", use + larger))
    if word == "trust":
        return tuple(steps)
    drifts = bool(found.error.placebo.lower > TRUSTED * found.error.spread)
    signal = missing_signal(found.trajectory, drifts=drifts) if drifts or found.moved.any() else ""
    if signal:
        steps.append(Step("add a signal", signal))
    if word == "undecided" and not drifts:
        steps.append(_more_data(found))
    if found.judges_critic:
        steps += _instead(found)
    else:
        if found.reward_error > _UNSPLIT:
            steps.append(_split(found))
        if found.moved.any() and not signal:
            steps += _merge(found)
    if word == "trust with care" and len(steps) == 1:
        steps += _narrower(found)
    if not steps:
        steps.append(Step("learn a critic", "of the team: no two agents and no signal stand out"))
    return tuple(steps)


def _until_told(found: Findings) -> Step:
    error = found.error
    if not error.is_told:
        if not error.wanted:
            return Step("more data", "or fewer states: " + error.problem)
        return Step("more data", f"about {shown_number(error.wanted)} steps in all")
    # Of each agent the rarest of the commonest pairs that make up half of its transitions.
    most = -np.sort(-found.visits, axis=1)
    half = (np.cumsum(most, 1) < most.sum(1, keepdims=True) / 2).sum(1, keepdims=True)
    rarest = np.take_along_axis(most, np.minimum(half, most.shape[1] - 1), 1)
    times = found.min_visits / max(float(np.median(rarest)), 1.0)
    steps = shown_number(times * error.num_steps)
    return Step(
        "more data",
        f"about {steps} steps, until common pairs are seen {found.min_visits} times, or fewer "
        "states and actions",
    )


def _more_data(found: Findings) -> Step:
    more, have = found.verdict.more_steps, f"{found.error.num_steps:,}"
    if np.isinf(more):
        return Step("more data", f"how much cannot be told from these {have} steps")
    return Step("more data", f"about {shown_number(more)} steps more than these {have}")


def _narrower(found: Findings) -> list[Step]:
    """More data, where that would make the verdict "trust"."""
    share = found.error.of_spread(found.error.differences)
    limit = found.error.of_spread(found.error.limit)
    if limit.value >= TRUSTED or share.value >= TRUSTED:
        return []
    more = more_steps(share, TRUSTED, found.error.num_steps)
    if np.isinf(more):
        return []
    return [Step("more data", f"about {shown_number(more)} steps more, for trust without care")]


def _split(found: Findings) -> Step:
    return Step(
        "split otherwise",
        f"no sum of local rewards explains {percent(found.reward_error)} of the shared reward: "
        "pay groups of agents, or learn a critic of the team",
    )


def _instead(found: Findings) -> list[Step]:
    """Of a critic: the sum of local values where that is better, else more training."""
    own, other = found.error, found.of_sum
    if other.is_told and other.differences.upper < own.differences.value:
        share = ranged(other.of_spread(other.differences))
        return [Step("take the sum", f"of local values, whose differences are off by {share}")]
    if own.differences.lower <= TRUSTED * own.spread:
        return []
    pairs = found.trajectory.num_pairs
    occupied = np.where(found.visits >= found.min_visits, own.by_pair, -np.inf)
    agent, pair = divmod(int(occupied.argmax()), pairs)
    if not np.isfinite(occupied[agent, pair]):
        return [Step("train on", "or with a richer critic")]
    label = ", ".join(map(printable, found.trajectory.pair_label(pair)))
    who = printable(found.trajectory.labels.agents[agent])
    return [Step("train on", f"or with a richer critic: worst while {who} is in ({label})")]


def _merge(found: Findings) -> list[Step]:
    """The two agents that are best learned as one."""
    agents = found.trajectory.labels.agents
    number, numbers = len(agents), found.trajectory.observations is not None
    if number == 2:
        of = "what both observe" if numbers else "their joint pairs"
        return [Step("merge", f"{_both(found, (0, 1))}: learn the values of {of}")]
    cost = found.of_sum.num_steps * found.of_sum.num_features**2
    known = cost <= _MOST_PRODUCTS and not found.trajectory.shares_reward and not numbers
    tried = list(combinations(range(number), 2)) if number <= _TRIED and known else []
    tried = tried or _most_moved(found)
    if not tried:
        if found.verdict.word == "trust with care" or np.isnan(found.entanglement).all():
            return []
        who = printable(agents[int(np.nanargmax(found.entanglement))])
        text = f"{who}, the most entangled, and who moves it"
        if not numbers:
            text += "; an audit of up to 30 agents has a map"
        return [Step("merge", text)]
    left = {pair: merged_error(found, pair) if known else np.nan for pair in tried}
    best = min(tried, key=lambda pair: np.nan_to_num(left[pair], nan=np.inf))
    if np.isnan(left[best]):
        text = f"{_both(found, best)}, of whom one moves the other most"
        return [Step("merge", text)] if len(tried) == 1 else []
    now, spread = found.of_sum.limit.value, found.of_sum.spread
    if left[best] >= now or spread <= 0:
        return []
    what = f"that leaves about {percent(left[best] / spread)} of {percent(now / spread)}"
    return [Step("merge", f"{_both(found, best)}: {what}")]


def _both(found: Findings, pair: Sequence[int]) -> str:
    return " and ".join(printable(found.trajectory.labels.agents[i]) for i in pair)


def _most_moved(found: Findings) -> list[tuple[int, int]]:
    """The two agents of whom one moves the other most, by the map of who moves whom."""
    table = np.nan_to_num(found.influence)
    both = np.triu(table + table.T, 1)
    if not both.any():
        return []
    first, second = divmod(int(both.argmax()), len(both))
    return [(first, second)]


def merged_error(found: Findings, pair: tuple[int, int]) -> float:
    """Differences that the sum misses with two agents learned as one; NaN where not known.

    Args:
        found: by the audit.
        pair: of agents.
    """
    trajectory, agents = found.trajectory, list(pair)
    codes = np.asarray(trajectory.pairs)
    both = codes[:, agents[0]] * trajectory.num_pairs + codes[:, agents[1]]
    seen, state = np.unique(both, return_inverse=True)
    if len(seen) > _MOST_PAIRS:
        return np.nan
    present, follows = np.asarray(trajectory.present), np.asarray(trajectory.follows)
    # Less their means: a constant moves no difference, and costs digits.
    paid = np.where(present, np.asarray(trajectory.rewards, float), 0)
    paid = np.where(present, paid - paid.sum(0) / np.maximum(present.sum(0), 1), 0)
    known = np.asarray(follows[:, agents].all(1))
    joint = _lstd(state, paid[:, agents].sum(1), known, found.discount)
    parts = np.where(present, found.local[np.arange(present.shape[1]), codes], 0)
    rest = np.delete(parts, agents, axis=1).sum(1)
    f = np.where(present[:, agents].all(1), rest + joint[state], parts.sum(1))
    told = error_of_critic(found.key, replace(trajectory, rewards=paid), f, found.discount)
    return float(told.differences.value) if told.is_told else np.nan


def _lstd(state: np.ndarray, paid: np.ndarray, follows: np.ndarray, discount: float) -> np.ndarray:
    """Values of the states of one learner, by LSTD."""
    size = int(state.max()) + 1
    here, ahead = state[:-1][follows], state[1:][follows]
    flow = np.bincount(here * size + ahead, minlength=size**2).reshape(size, size)
    visits = flow.sum(1)
    system = np.diag(np.maximum(visits, 1.0)) - discount * flow
    return np.linalg.solve(system, np.bincount(here, paid[:-1][follows], size))
