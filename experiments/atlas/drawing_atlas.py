"""The picture of the atlas: problems by diagnostics, and which of these tells what is lost."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments import command
from jaxent import plotting

from .diagnosing import DIAGNOSTICS, Ranking, regret

# What the columns of the map are: a number of the row under random play, or a loss.
COLUMNS = {
    "entanglement": "$E_i$",
    "reward": "reward",
    "sum_error": "sum",
    "vdn_error": "VDN",
    "qmix_error": "QMIX",
}
LOSSES = {"independent": "gradient", "vdn": "VDN", "qmix": "QMIX"}
QUESTIONS = {
    "before training": (plotting.BLUE, "o"),
    "after training": (plotting.RED, "s"),
    "any policy": (plotting.GRAY, "D"),
}


def figures(found: list[dict[str, Any]], rankings: list[Ranking], out: Path) -> list[Path]:
    """The map of problems on the left, AUCs and two scatters on the right."""
    with plotting.style():
        height = max(5.0, 0.19 * len(found) + 1.6)
        figure = Figure(figsize=(9.6, height), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.25, 1))
        left, right = halves
        _map(left, found)
        upper, lower = right.subfigures(2, 1, height_ratios=(1.15, 1))
        axes = upper.subplots(1, 2, sharey=True)
        for axis, method in zip(axes, ("vdn", "qmix"), strict=True):
            own = [r for r in rankings if r.method == method and r.rows == "exact"]
            _ranks(axis, own, method)
        lines, labels = axes[0].get_legend_handles_labels()
        upper.legend(lines, labels, loc="outside lower center", ncols=3)
        scatter = lower.subplots(1, 2, sharey=True)
        _scatter(scatter[0], found, "uniform", "reward", "reward entanglement,\nrandom play")
        _scatter(scatter[1], found, "vdn", "vdn_error", "error of VDN\nunder its own play")
        scatter[0].set(ylabel="VDN loses")
        return command.save_figure(figure, out / "atlas")


def _map(figure: Any, found: list[dict[str, Any]]) -> None:
    axis = figure.subplots()
    numbers = []
    for each in found:
        row = next(r for r in each["rows"] if r["policy"] == "uniform")
        own = [np.nan if row[k] is None else row[k] for k in COLUMNS]
        numbers.append(own + [regret(each["trained"], kind) for kind in LOSSES])
    values = np.array(numbers, float)
    shown = np.insert(values, len(COLUMNS), np.nan, 1)  # a gap between the two halves
    colors = LinearSegmentedColormap.from_list("lost", ["white", "#f3d9b1", plotting.RED])
    axis.imshow(np.clip(shown, 0, 1), cmap=colors, vmin=0, vmax=1, aspect="auto")
    for (i, j), x in np.ndenumerate(shown):
        if j != len(COLUMNS):
            text = "–" if np.isnan(x) else "0" if x < 5e-4 else f"{x:.2f}" if x < 10 else f"{x:.0f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=6.5,
                      color="white" if x > 0.8 else "black")  # fmt: skip
    names = [
        each["trained"]["problem"].replace("_", " ")
        + ("" if each["trained"]["kind"] == "exact" else " *")
        for each in found
    ]
    axis.set_yticks(range(len(found)), names, fontsize=7.5)
    ticks = [*range(len(COLUMNS)), *range(len(COLUMNS) + 1, shown.shape[1])]
    axis.set_xticks(ticks, [*COLUMNS.values(), *LOSSES.values()], fontsize=7.5)
    axis.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    family = [each["trained"]["family"] for each in found]
    for i in range(1, len(found)):
        if family[i] != family[i - 1]:
            axis.axhline(i - 0.5, color=plotting.GRAY, lw=0.5)
    middles = (len(COLUMNS) - 1) / 2, len(COLUMNS) + (len(LOSSES) + 1) / 2
    heads = ("random play: how far from a sum", "trained: what is lost")
    for x, head in zip(middles, heads, strict=True):
        axis.annotate(head, (x, 1), (0, 20), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", fontsize=8.5)  # fmt: skip


def _ranks(axis: Any, rankings: list[Ranking], method: str) -> None:
    """AUC of each diagnostic, with its interval."""
    names = list(DIAGNOSTICS)
    for k, (question, (color, marker)) in enumerate(QUESTIONS.items()):
        own = {r.diagnostic: r.auc for r in rankings if r.question == question}
        y = np.arange(len(names)) + 0.22 * (k - 1)
        value, low, high = np.array([own[name] for name in names]).T
        axis.errorbar(value, y, xerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
                      fmt=marker, color=color, lw=0.8, capsize=1.5, label=question)  # fmt: skip
    axis.axvline(0.5, color=plotting.GRAY, lw=0.8, ls=":")
    labels = [text.replace("E_i", "$E_i$") for text in DIAGNOSTICS.values()]
    axis.set_yticks(range(len(names)), labels)
    axis.set(xlim=(0, 1), xlabel="AUC of a failure", title=method.upper())
    if not axis.yaxis_inverted():
        axis.invert_yaxis()


def _scatter(axis: Any, found: list[dict[str, Any]], policy: str, which: str, label: str) -> None:
    """What VDN loses along a diagnostic, a point a problem."""
    x, y = [], []
    for each in found:
        row = next((r for r in each["rows"] if r["policy"] == policy), None)
        if row is not None and row[which] is not None:
            x.append(row[which])
            y.append(min(regret(each["trained"], "vdn"), 1.5))
    axis.plot(x, y, "o", color=plotting.BLUE, alpha=0.6, ms=4)
    axis.set(xlabel=label, xlim=(-0.02, None), ylim=(-0.05, 1.6))
    axis.set_yticks([0, 0.5, 1, 1.5], ["0", "0.5", "1", "1.5+"])
