"""Pictures of an audit: the errors, the agents, the pairs, and who moves whom."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..auditing.result import Audit
from ..auditing.verdict import CARE, MOVED, TRUSTED
from .looks import BLUE, GRAY, RED, axes, check_kind, ink, legend_above
from .maps import AS_WRITTEN, plot_entanglement_map, shown

# Agents that have their names beside them.
_NAMED = 12


def plot_audit(found: Audit) -> Figure:
    """The errors and entanglement per agent with intervals, occupancy, and who moves whom.

    Args:
        found: of `audit`.
    """
    check_kind("found", found, Audit, "audit")
    mapped = found.influence.size > 0
    figure = Figure(figsize=(18 if mapped else 13.5, 4))
    figure.set_layout_engine("constrained", wspace=0.06)
    row = figure.subplots(1, 4 if mapped else 3)
    plot_audit_errors(found, ax=row[0])
    plot_audit_agents(found, ax=row[1])
    share = found.occupancy.mean(0)
    most = np.argsort(-share, kind="stable")[:20]
    row[2].barh(np.arange(len(most)), share[most], color=GRAY)
    names = [", ".join(map(shown, found.pairs[x])) for x in most]
    row[2].set_yticks(np.arange(len(most)), names, **AS_WRITTEN)
    row[2].invert_yaxis()
    row[2].set(xlabel="share of the transitions", ylabel="local pair (state, action)")
    if mapped:
        plot_entanglement_map(found.influence, agents=found.agents, ax=row[3])
    return figure


def plot_audit_errors(found: Audit, *, ax: Axes | None = None) -> Axes:
    """Draw what the sum of local values misses, and the critic, in percent of their spread.

    Args:
        found: of `audit`.
        ax: where to draw; a new figure by default.
    """
    check_kind("found", found, Audit, "audit")
    ax = axes(ax)
    rows = []
    for error in found.errors:
        parts = [("value", error.value), ("differences", error.differences)]
        if error.name != "critic":
            parts.append(("differences\nin the limit", error.limit))
        told = [(name, error.of_spread(part)) for name, part in parts]
        what = "critic: " if error.name == "critic" else "sum: "
        rows += [(what + name, share) for name, share in told if np.isfinite(share).all()]
    ax.set(xlabel="error, % of the spread, 95% interval", title=f"verdict: {found.verdict}")
    if not rows:
        ax.text(0.5, 0.5, "cannot be told", ha="center", transform=ax.transAxes)
        ax.set_yticks([])
        return ax
    names, shares = zip(*rows, strict=True)
    value, lower, upper = 100 * np.array(shares).T
    reach = np.maximum([value - lower, upper - value], 0)
    ax.errorbar(value, np.arange(len(rows)), xerr=reach, fmt="o", color=RED, ms=4, lw=1)
    for line in (100 * TRUSTED, 100 * CARE):
        ax.axvline(line, color=GRAY, lw=0.6, ls=":")
    ax.set_yticks(np.arange(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(left=0)
    return ax


def plot_audit_agents(found: Audit, *, ax: Axes | None = None) -> Axes:
    """Draw the entanglement of every agent with its interval, the most first.

    Args:
        found: of `audit`.
        ax: where to draw; a new figure by default.
    """
    check_kind("found", found, Audit, "audit")
    ax = axes(ax)
    known = ~np.isnan(found.entanglement)
    order = np.flatnonzero(known)[np.argsort(-found.entanglement[known], kind="stable")]
    value = found.entanglement[order]
    reach = np.maximum([value - found.lower[order], found.upper[order] - value], 0)
    place = np.arange(len(order))
    tested = np.array([found.words[i] in MOVED for i in order], bool)
    for here, color, mark, label in (
        (tested, RED, "o", "moved by the others"),
        (~tested, BLUE, "s", "not seen to be"),
    ):
        if here.any():
            ax.errorbar(
                value[here], place[here], xerr=reach[:, here], fmt=mark, color=color, ms=3, lw=0.8,
                label=label,
            )  # fmt: skip
    if len(order):
        legend_above(ax)
        ax.set_ylim(len(order) - 0.5, -0.5)
    kind = "lower estimate of E_i" if found.source == "logs" else "E_i by Eq. (10)"
    ax.axvline(0, color=ink(), lw=0.5)
    ax.set(xlabel=f"{kind}, 95% interval", ylabel="agents, most entangled first")
    if len(order) <= _NAMED:
        ax.set_yticks(place, [shown(found.agents[i]) for i in order], **AS_WRITTEN)
    return ax
