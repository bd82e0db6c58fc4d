"""From numbers to words: one for each agent, and a verdict on the team.

The words are defined by the numbers below; docs/audit.md says the same to the reader.
"""

from collections.abc import Mapping

import numpy as np

# Of the agents called entangled, the share that is not (Benjamini and Hochberg).
FALSE_DISCOVERY = 0.05
# An entangled agent whose upper end is below this is weakly entangled.
WEAK = 0.05
# A bound up to 0.1 of the value of the team is trusted, one up to 0.5 with care.
TRUSTED, CARE = 0.1, 0.5
# Less than this share of an agent's transitions from well-known pairs is not enough data.
ENOUGH = 0.5


def agent_words(
    found: Mapping[str, np.ndarray], lacking: np.ndarray, *, from_logs: bool
) -> tuple[str, ...]:
    """One word for each agent.

    Args:
        found: `upper`, and `p_value` from logs or `lower` with a policy, `[N]` each.
        lacking: agents without enough data, `[N]`.
        from_logs: whether "no entanglement" was tested, not read off the interval.
    """
    if from_logs:
        p = np.sort(found["p_value"][~lacking])
        # Benjamini and Hochberg: the k-th smallest of n p-values is compared with .05 k / n.
        below = np.flatnonzero(p <= FALSE_DISCOVERY * np.arange(1, len(p) + 1) / max(len(p), 1))
        line = p[below[-1]] if len(below) else -1
        seen = found["p_value"] <= line
    else:
        seen = found["lower"] > 0
    words = np.where(seen, np.where(found["upper"] < WEAK, "weakly entangled", "entangled"), "")
    words = np.where(seen, words, "no entanglement seen")
    return tuple(np.where(lacking, "not enough data", words).tolist())


def relative_bound(bound_upper: float, scale: float) -> float:
    """The bound as a share of the value of the team; infinite where that is 0."""
    return bound_upper / scale if scale > 0 else np.inf


def team_verdict(
    words: tuple[str, ...], bound_upper: float, scale: float, num_agents: int, from_logs: bool
) -> tuple[str, str]:
    """The verdict on the team, and what it means in one sentence."""
    relative = relative_bound(bound_upper, scale)
    entangled = sum(word in ("entangled", "weakly entangled") for word in words)
    far = " as far as the features of the others show" if from_logs else ""
    if words.count("not enough data") > num_agents / 2:
        return "not enough data", (
            f"{words.count('not enough data')} of {num_agents} agents have too few transitions "
            "from most of their pairs."
        )
    if relative <= TRUSTED:
        return "trust", (
            f"A sum of local values is within {relative:.1%} of the value of the team{far}."
        )
    if relative <= CARE:
        return "trust with care", (
            f"A sum of local values is within {relative:.0%} of the value of the team{far}: good "
            "enough to compare policies that differ by more."
        )
    if entangled:
        return "do not trust", (
            f"{entangled} of {num_agents} agents are moved by the others, and the bound on the "
            f"error of a sum of local values is {relative:.0%} of the value of the team."
        )
    return "undecided", (
        "No agent is seen to be moved by the others, but intervals are so wide that the bound on "
        f"the error is {relative:.0%} of the value of the team: more data is needed."
    )
