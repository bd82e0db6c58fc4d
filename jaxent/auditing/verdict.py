"""From numbers to words: one for each agent, and a verdict on the team.

The words are defined by the numbers below; docs/audit.md says the same to the reader. A verdict
speaks of differences between values, as a comparison of actions or policies needs them: their error
is compared with the spread of the approximation, which no constant added to rewards changes. It
follows the interval of the error, never a bound.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .team_error import Share, TeamError

# Of the agents called entangled, the share that is not (Benjamini and Hochberg).
FALSE_DISCOVERY = 0.05
# An entangled agent whose upper end is below this is weakly entangled.
WEAK = 0.05
# Errors up to 0.1 of the spread are trusted, up to 0.5 with care.
TRUSTED, CARE = 0.1, 0.5
# Less than this share of an agent's transitions from well-known pairs is not enough data.
ENOUGH = 0.5
# No number of steps is named that is more than so many times those that are there.
MOST_TIMES = 1000.0
# The point of a longer log is not that of this one: it may be off by this much of the reach.
_MARGIN = 1.25

MOVED = ("entangled", "weakly entangled")


class Verdict(NamedTuple):
    """On the team.

    Attributes:
        word: one of five.
        sentence: what it means.
        more_steps: about how many more would decide; 0 where it is decided, infinite where no
            number can be told.
    """

    word: str
    sentence: str
    more_steps: float


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


def team_verdict(words: tuple[str, ...], error: TeamError) -> Verdict:
    """The verdict on the team.

    Args:
        words: of the agents.
        error: of the approximation that is judged.
    """
    num_agents, name = len(words), error.name
    if not error.is_told:
        more = float(error.wanted - error.num_steps) if error.wanted else np.inf
        return Verdict("not enough data", f"{error.problem.capitalize()}.", more)
    if name != "critic" and words.count("not enough data") > num_agents / 2:
        return Verdict(
            "not enough data",
            f"{words.count('not enough data')} of {num_agents} agents have too few transitions "
            "from most of their pairs.",
            np.inf,
        )
    share = error.of_spread(error.differences)
    if np.isinf(share.value):
        return Verdict(
            "do not trust", f"The {name} is the same everywhere, and the true value is not.", 0.0
        )
    level = _level(error)
    seen = "" if error.by_pairs else ", as far as features of the team show"
    off = f"Differences in the {name} are off by {ranged(share)} of its spread{seen}"
    drift = error.of_spread(error.placebo).lower
    if drift > TRUSTED:
        return Verdict(
            "undecided",
            "Features of the team from another time seem to matter as well: the log drifts or has "
            "a rhythm, which cannot be told from an error.",
            np.inf,
        )
    if share.upper <= TRUSTED:
        return Verdict(
            "trust",
            f"Differences in the {name} are off by at most {percent(share.upper)} of its "
            f"spread{seen}.{level}",
            0.0,
        )
    if share.upper <= CARE:
        return Verdict(
            "trust with care", f"{off}: good enough to compare what differs by more.{level}", 0.0
        )
    if share.lower > CARE:
        return Verdict("do not trust", f"{off}.", 0.0)
    more = more_steps(share, CARE, error.num_steps)
    return Verdict("undecided", f"{off}: {_would_decide(more, error.num_steps)}.", more)


def more_steps(share: Share, line: float, num_steps: int) -> float:
    """About how many more steps bring the interval to one side of a line.

    Ends come closer to the point as one over the root of the number of steps. Where the interval
    holds 0, so may the point be noise, and 0 is taken for the truth as well.

    Args:
        share: that has the line inside.
        line: between two words.
        num_steps: of the log.

    Returns:
        Infinite where no number can be told: the point is on the line, or nearly.
    """
    value, lower, upper = share
    reach = _MARGIN * (upper - value if value < line else value - lower)
    apart = abs(line - value)
    times = []
    if lower > 0 or value < line:
        times.append((reach / apart) ** 2 if apart > 0 else np.inf)
    if lower <= 0:
        times.append((_MARGIN * upper / line) ** 2)
    most = max(times)
    return float(np.ceil((most - 1) * num_steps)) if most <= MOST_TIMES else np.inf


def _level(error: TeamError) -> str:
    """What the first line has beside differences, where that is more than they are."""
    low, high = abs(error.bias.lower), abs(error.bias.upper)
    if max(low, high) <= error.differences.upper:
        return ""
    reach = percent(max(low, high) / error.spread)
    return f" Its level, a constant, may be off by up to {reach} of the spread besides."


def _would_decide(more: float, num_steps: int) -> str:
    if np.isinf(more):
        return f"how many more steps would decide cannot be told from these {num_steps:,}"
    return f"about {shown_number(more)} more steps would decide"


def shown_number(number: float) -> str:
    """A number of steps, two digits of it."""
    if number < 100:
        return str(int(np.ceil(number)))
    unit = 10 ** (len(str(int(number))) - 2)
    return f"{int(np.ceil(number / unit)) * unit:,}"


def percent(share: float) -> str:
    """A share in as many digits as a reader needs."""
    if np.isinf(share):
        return "infinitely much"
    text = f"{share:.1%}" if abs(share) < 0.9995 else f"{share:,.0%}"
    return "0.0%" if text == "-0.0%" else text


def ranged(share: Share) -> str:
    """A share with its interval."""
    return f"{percent(share.value)} ({percent(share.lower)} to {percent(share.upper)})"


def headline(error: TeamError) -> str:
    """How far the approximation misses the true value of the team, in one sentence.

    Args:
        error: of it.
    """
    if not error.is_told:
        wanted = f"; about {shown_number(error.wanted)} would do" if error.wanted else ""
        return (
            f"How far the {error.name} misses the true value of the team cannot be told from "
            f"{error.num_steps:,} steps{wanted}"
        )
    misses = f"The {error.name} misses the true value of the team by"
    if error.spread > 0 or error.value.upper == 0:
        return f"{misses} {ranged(error.of_spread(error.value))} of its spread"
    part = error.value
    return f"{misses} {part.value:.4g} ({part.lower:.4g} to {part.upper:.4g}); it has no spread"
