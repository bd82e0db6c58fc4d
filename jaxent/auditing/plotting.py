"""Pictures. The only place, with the other modules of this floor, that imports matplotlib."""

from collections.abc import Hashable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.log_table import printable
from .result import Audit
from .verdict import CARE, MOVED, TRUSTED

# No dollar begins a formula, and no underscore an index.
_AS_WRITTEN = {"parse_math": False, "usetex": False}
# Letters of a label in a picture.
_LONGEST = 24


def _shown(label: Hashable) -> str:
    return printable(label, _LONGEST)


def plot_entanglement_map(
    table: Array | np.ndarray,
    *,
    agents: Sequence[Hashable] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw `entanglement_map(chain, mu)`: row i is moved by column j.

    Args:
        table: `[N, N]`.
        agents: their labels; numbers from 0 on by default.
        ax: where to draw; a new figure by default.
    """
    values = np.asarray(table)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"table: wanted a square matrix, got shape {list(values.shape)}")
    if ax is None:
        ax = plt.figure(layout="constrained").add_subplot()
    image = ax.imshow(values, cmap="Blues", vmin=0)
    place = range(len(values))
    names = [_shown(agent) for agent in (place if agents is None else agents)]
    ax.set_xticks(place, names, rotation=45 if max(map(len, names), default=0) > 3 else 0)
    ax.set_yticks(place, names)
    for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        label.set(**_AS_WRITTEN)
    ax.set(xlabel="agent j, whose pair is changed", ylabel="agent i, whose next pair moves")
    if len(values) <= 12:
        for i in place:
            for j in place:
                shade = "white" if values[i, j] > values.max() / 2 else "black"
                if i != j:
                    ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=shade)
    ax.figure.colorbar(image, ax=ax, label="mean total variation")
    return ax


def plot_audit(found: Audit) -> Figure:
    """The errors and entanglement per agent with intervals, occupancy, and who moves whom.

    Args:
        found: of `audit`.
    """
    mapped = found.influence.size > 0
    figure = Figure(figsize=(18 if mapped else 13.5, 4))
    figure.set_layout_engine("constrained", wspace=0.06)
    axes = figure.subplots(1, 4 if mapped else 3)
    _plot_errors(found, axes[0])
    _plot_agents(found, axes[1])
    share = found.occupancy.mean(0)
    most = np.argsort(-share, kind="stable")[:20]
    axes[2].barh(np.arange(len(most)), share[most], color="tab:gray")
    names = [", ".join(map(_shown, found.pairs[x])) for x in most]
    axes[2].set_yticks(np.arange(len(most)), names, **_AS_WRITTEN)
    axes[2].invert_yaxis()
    axes[2].set(xlabel="share of the transitions", ylabel="local pair (state, action)")
    if mapped:
        plot_entanglement_map(found.influence, agents=found.agents, ax=axes[3])
    return figure


def _plot_errors(found: Audit, ax: Axes) -> None:
    """What the approximations miss, in percent of their spread."""
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
        return
    names, shares = zip(*rows, strict=True)
    value, lower, upper = 100 * np.array(shares).T
    reach = np.maximum([value - lower, upper - value], 0)
    ax.errorbar(value, np.arange(len(rows)), xerr=reach, fmt="o", color="tab:red", ms=4, lw=1)
    for line in (100 * TRUSTED, 100 * CARE):
        ax.axvline(line, color="tab:gray", lw=0.6, ls=":")
    ax.set_yticks(np.arange(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(left=0)


def _plot_agents(found: Audit, ax: Axes) -> None:
    """Entanglement of every agent, the most first."""
    known = ~np.isnan(found.entanglement)
    order = np.flatnonzero(known)[np.argsort(-found.entanglement[known], kind="stable")]
    value = found.entanglement[order]
    reach = np.maximum([value - found.lower[order], found.upper[order] - value], 0)
    place = np.arange(len(order))
    tested = np.array([found.words[i] in MOVED for i in order], bool)
    for here, color, mark, label in (
        (tested, "tab:red", "o", "moved by the others"),
        (~tested, "tab:blue", "s", "not seen to be"),
    ):
        if here.any():
            ax.errorbar(
                place[here], value[here], reach[:, here], fmt=mark, color=color, ms=3, lw=0.8,
                label=label,
            )  # fmt: skip
    if len(order):  # above the data, never on it
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)
    kind = "lower estimate of E_i" if found.source == "logs" else "E_i by Eq. (10)"
    ax.axhline(0, color="black", lw=0.5)
    ax.set(xlabel="agents, most entangled first", ylabel=f"{kind}, 95% interval")
    if len(order) <= 12:
        names = [_shown(found.agents[i]) for i in order]
        ax.set_xticks(place, names, rotation=45, **_AS_WRITTEN)
