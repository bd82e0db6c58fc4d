"""Pictures. The only place, with the other modules of this floor, that imports matplotlib."""

from collections.abc import Hashable

import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.log_table import printable
from .report import Audit

# No dollar begins a formula, and no underscore an index.
_AS_WRITTEN = {"parse_math": False, "usetex": False}
# Letters of a label in a picture.
_LONGEST = 24


def _shown(label: Hashable) -> str:
    return printable(label, _LONGEST)


def plot_entanglement_map(table: Array | np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw `entanglement_map(chain, mu)`: row i is moved by column j.

    Args:
        table: `[N, N]`.
        ax: where to draw; a new figure by default.
    """
    values = np.asarray(table)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"table: wanted a square matrix, got shape {list(values.shape)}")
    if ax is None:
        ax = plt.figure(layout="constrained").add_subplot()
    image = ax.imshow(values, cmap="Blues", vmin=0)
    agents = range(len(values))
    ax.set(
        xticks=agents,
        yticks=agents,
        xlabel="agent j, whose pair is changed",
        ylabel="agent i, whose next pair moves",
    )
    if len(values) <= 12:
        for i in agents:
            for j in agents:
                shade = "white" if values[i, j] > values.max() / 2 else "black"
                if i != j:
                    ax.text(j, i, f"{values[i, j]:.2g}", ha="center", va="center", color=shade)
    ax.figure.colorbar(image, ax=ax, label="mean total variation")
    return ax


def plot_audit(found: Audit) -> Figure:
    """Entanglement per agent with intervals, occupancy, and who moves whom where it is known.

    Args:
        found: of `audit`.
    """
    mapped = found.influence.size > 0
    figure = Figure(figsize=(13 if mapped else 9, 3.8), layout="constrained")
    axes = figure.subplots(1, 3 if mapped else 2)
    known = ~np.isnan(found.entanglement)
    order = np.flatnonzero(known)[np.argsort(-found.entanglement[known], kind="stable")]
    value = found.entanglement[order]
    reach = np.maximum([value - found.lower[order], found.upper[order] - value], 0)
    place = np.arange(len(order))
    tested = np.array([found.words[i] in ("entangled", "weakly entangled") for i in order], bool)
    for here, color, mark, label in (
        (tested, "tab:red", "o", "moved by the others"),
        (~tested, "tab:blue", "s", "not seen to be"),
    ):
        if here.any():
            axes[0].errorbar(
                place[here], value[here], reach[:, here], fmt=mark, color=color, ms=3, lw=0.8,
                label=label,
            )  # fmt: skip
            axes[0].legend()
    kind = "lower estimate of E_i" if found.source == "logs" else "E_i by Eq. (10)"
    axes[0].axhline(0, color="black", lw=0.5)
    axes[0].set(xlabel="agents, most entangled first", ylabel=f"{kind}, 95% interval")
    if len(order) <= 12:
        names = [_shown(found.agents[i]) for i in order]
        axes[0].set_xticks(place, names, rotation=45, **_AS_WRITTEN)
    share = found.occupancy.mean(0)
    most = np.argsort(-share, kind="stable")[:20]
    axes[1].barh(np.arange(len(most)), share[most], color="tab:gray")
    names = [", ".join(map(_shown, found.pairs[x])) for x in most]
    axes[1].set_yticks(np.arange(len(most)), names, **_AS_WRITTEN)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="share of the transitions", ylabel="local pair (state, action)")
    if mapped:
        plot_entanglement_map(found.influence, ax=axes[2])
    return figure
