"""From numbers to words: one for each agent, and a verdict on the team.

The words are defined by the numbers below; docs/audit.md says the same to the reader. A verdict
speaks of differences between values, as a comparison of actions or policies needs them: errors are
compared with the spread of the sum of local values, which no constant added to rewards changes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Of the agents called entangled, the share that is not (Benjamini and Hochberg).
FALSE_DISCOVERY = 0.05
# An entangled agent whose upper end is below this is weakly entangled.
WEAK = 0.05
# Errors up to 0.1 of the spread are trusted, up to 0.5 with care.
TRUSTED, CARE = 0.1, 0.5
# Less than this share of an agent's transitions from well-known pairs is not enough data.
ENOUGH = 0.5

_MOVED = ("entangled", "weakly entangled")


class Errors(NamedTuple):
    """Of the sum of local values, as shares of its spread.

    Attributes:
        bound: upper end of what entanglement may do, in the limit of data.
        unsplit: what no split of a shared reward explains may do besides.
        sampling: how far sampling moves the learned sum, beside a constant.
    """

    bound: float
    unsplit: float
    sampling: float

    @classmethod
    def relative(cls, bound: float, unsplit: float, sampling: float, spread: float) -> "Errors":
        """Nothing is 0 of no spread: rewards that are all equal leave no error."""
        parts = (bound, unsplit, sampling)
        return cls(*(x / spread if spread > 0 else np.inf if x > 0 else 0.0 for x in parts))

    @property
    def limit(self) -> float:
        """In the limit of data."""
        return self.bound + self.unsplit


def agent_words(
    found: Mapping[str, np.ndarray], lacking: np.ndarray, *, from_logs: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One word for each agent, and why it is another than its interval suggests, or "".

    Args:
        found: `lower` and `upper`, and from logs `p_value`, `[N]` each.
        lacking: agents without enough data, `[N]`.
        from_logs: whether "no entanglement" was tested, not read off the interval.
    """
    off_zero = found["lower"] > 0
    seen = off_zero
    if from_logs:
        p = np.sort(found["p_value"][~lacking])
        # Benjamini and Hochberg: the k-th smallest of n p-values is compared with .05 k / n.
        below = np.flatnonzero(p <= FALSE_DISCOVERY * np.arange(1, len(p) + 1) / max(len(p), 1))
        line = p[below[-1]] if len(below) else -1
        seen = found["p_value"] <= line
    words = np.where(seen, np.where(found["upper"] < WEAK, "weakly entangled", "entangled"), "")
    words = np.where(seen, words, "no entanglement seen")
    rate = f"at a false discovery rate of {FALSE_DISCOVERY:.0%} over {np.sum(~lacking)} agents"
    reasons = np.where(
        seen,
        f"the interval holds 0, but the permutation test tells it from 0 {rate}",
        f"the interval leaves 0 out, but the permutation test does not tell it from 0 {rate}",
    )
    return (
        tuple(np.where(lacking, "not enough data", words).tolist()),
        tuple(np.where(lacking | (seen == off_zero), "", reasons).tolist()),
    )


def footnotes(reasons: Sequence[str]) -> dict[str, str]:
    """A mark for each reason that occurs."""
    different = [reason for reason in dict.fromkeys(reasons) if reason]
    return dict(zip(different, ("*", "**"), strict=False))


def team_verdict(words: tuple[str, ...], errors: Errors, *, from_logs: bool) -> tuple[str, str]:
    """The verdict on the team, and what it means.

    Args:
        words: of the agents.
        errors: of the sum of local values.
        from_logs: whether entanglement is a lower estimate relative to features.
    """
    limit, sampling, num_agents = errors.limit, errors.sampling, len(words)
    total = limit + sampling
    moved = sum(word in _MOVED for word in words)
    far = " as far as the features of the others show" if from_logs else ""
    parts = f"{limit:.1%} in the limit of data{far}, and {sampling:.1%} by sampling in this log"
    level = "Its level may be off besides: see its interval."
    if words.count("not enough data") > num_agents / 2:
        return "not enough data", (
            f"{words.count('not enough data')} of {num_agents} agents have too few transitions "
            "from most of their pairs."
        )
    if total <= TRUSTED:
        return "trust", (
            f"Differences in the sum of local values are off by at most {total:.1%} of its spread: "
            f"{parts}. {level}"
        )
    if total <= CARE:
        return "trust with care", (
            f"Differences in the sum of local values are off by at most {total:.0%} of its spread: "
            f"{parts}. Good enough to compare what differs by more. {level}"
        )
    if limit > CARE and (moved or errors.unsplit > CARE):
        causes = [f"{moved} of {num_agents} agents are moved by the others"] if moved else []
        if errors.unsplit > TRUSTED:
            causes.append("the shared reward is no sum of local ones")
        return "do not trust", (
            f"{' and '.join(causes)}, and the bound on the error of a sum of local values is "
            f"{limit:.0%} of its spread."
        )
    if limit > CARE:
        return "undecided", (
            "No agent is seen to be moved by the others, but intervals are so wide that the bound "
            f"on the error is {limit:.0%} of the spread of the sum: more data is needed."
        )
    return "undecided", (
        f"Sampling moves the learned sum of local values by up to {sampling:.0%} of its spread, "
        f"where the bound in the limit of data is {limit:.0%}{far}: more data is needed."
    )
