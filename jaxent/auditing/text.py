"""An audit in words, on one screen: 40 lines of 100 columns for a dozen agents."""

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from ..data.log_table import escaped, printable
from .team_error import Share, TeamError
from .verdict import footnotes, percent, ranged

if TYPE_CHECKING:
    from .report import Audit

# Columns of the screen, agents that have a line each, notes that are printed, letters of a label.
_WIDTH, _AGENTS, _NOTES, _LABEL = 100, 12, 3, 32


def report(a: "Audit") -> list[str]:
    """The lines of the report.

    Args:
        a: the audit.
    """
    lines = [*_wrapped(a.headline), f"verdict: {a.verdict}", *_wrapped(a.sentence)]
    for step in a.next_steps:
        lines += _wrapped(f"next: {step.rule}: {step.text}", indent="  ")
    for error in a.errors:
        if error.is_told:
            lines += ["", *_error(error)]
    if a.reward_error:
        lines += [f"  the split of the shared reward leaves {percent(a.reward_error)} unexplained"]
    lines += ["", *_agents(a), "", *_worst_case(a)]
    rare = np.isnan(a.q_local) & (a.occupancy > 0)
    if rare.any():
        lines += [
            f"not enough data: {int(rare.sum())} local pairs of "
            f"{int(rare.any(1).sum())} agents were seen, but too seldom",
        ]
    for note in a.notes[:_NOTES]:
        lines += _wrapped(f"note: {escaped(note)}", indent="  ")
    if len(a.notes) > _NOTES:
        lines.append(f"note: {len(a.notes) - _NOTES} more notes, in the JSON")
    return lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    return wrap(
        text, _WIDTH, subsequent_indent=indent, replace_whitespace=False, break_on_hyphens=False
    )


def _error(error: TeamError) -> list[str]:
    """What an approximation misses, number by number."""
    is_sum = error.name != "critic"
    rows = [("as learned from this log" if is_sum else "as given", error.value)]
    if is_sum:
        rows.append(("differences, as learned from this log", error.differences))
        rows.append(("differences, in the limit of data", error.limit))
    else:
        rows.append(("differences", error.differences))
    rows.append(("a constant off (mean error)", error.bias))
    heading = f"error of the {error.name}"
    lines = [f"{heading:<40}{'size':>10}{'of its spread':>26}{'of its mean size':>24}"]
    for what, part in rows:
        spread, size = _short(error.of_spread(part), 26), _short(error.of_scale(part), 24)
        lines.append(f"  {what:<38}{part.value:>10.4g}{spread:>26}{size:>24}".rstrip())
    lines.append(
        f"  its spread {error.spread:.4g}, its mean size {error.scale:.4g}; "
        f"told by {error.num_steps} steps and {error.num_features} features"
    )
    if error.of_spread(error.placebo).lower > _PLACEBO:
        ends = f"{error.placebo.lower:.4g} .. {error.placebo.upper:.4g}"
        lines.append(f"  features of another time show {ends}: the log drifts or has a rhythm")
    return lines


# Of the spread, from which on what the placebo shows is worth a line.
_PLACEBO = 0.01


def _short(share: Share, width: int) -> str:
    """In less than a column; of no size nothing."""
    if not np.isfinite(share).all():
        return ""
    text = ranged(share)
    return text if len(text) < width else f"{share.value:.2g} times"


def _agents(a: "Audit") -> list[str]:
    """Who is entangled, the most first."""
    source = (
        "who is entangled, from logs alone: lower estimates relative to features of the others"
        if a.source == "logs"
        else "who is entangled, from the policy, Eq. (10)"
    )
    lines = [source, f"  {'agent':<16}{'E_i':>9}{'95% interval':>20}{'p':>8}  word"]
    marks = footnotes(a.reasons)
    order = np.argsort(-np.nan_to_num(a.entanglement, nan=-1), kind="stable")
    shown = len(order) if len(order) <= _AGENTS else _AGENTS - 2
    for i in order[:shown]:
        agent = printable(a.agents[i], _LABEL)
        if a.words[i] == "not enough data":
            lines.append(f"  {agent:<16}{'':>37}  not enough data")
            continue
        p = "" if np.isnan(a.p_value[i]) else f"{a.p_value[i]:.3f}"
        interval = f"{a.lower[i]:.4f} .. {a.upper[i]:.4f}"
        lines.append(
            f"  {agent:<16}{a.entanglement[i]:>9.4f}{interval:>20}{p:>8}  {a.words[i]}"
            + marks.get(a.reasons[i], "")
        )
    if shown < len(order):
        lines.append(f"  ... and {len(order) - shown} more, in the JSON")
    counted = [f"{a.words.count(word)} {word}" for word in dict.fromkeys(a.words)]
    lines.append(f"  {', '.join(counted)}")
    for reason, mark in marks.items():
        lines += _wrapped(f"  {mark} {reason}", indent="    ")
    return lines


def _worst_case(a: "Audit") -> list[str]:
    """What the entanglement allows, which is seldom what is."""
    lacking = a.words.count("not enough data")
    if lacking == len(a.agents):
        return ["the worst case that entanglement allows is not known"]
    known = f" (of {len(a.agents) - lacking} agents)" if lacking else ""
    lines = [
        f"the worst case that this entanglement allows{known}, no verdict: {a.bound:.4g}, "
        f"at most {a.bound_upper:.4g}",
        f"  (2 discount / (1 - discount) sum_i E_i span(Q_i)); by Theorem 6 {a.theorem_6:.4g}",
    ]
    if a.reward_error:
        lines.append(f"  and by what the split leaves unexplained at most {a.unexplained:.4g} more")
    return lines
