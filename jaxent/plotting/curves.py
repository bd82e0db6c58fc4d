"""Curves: over the number of agents, brackets as they close, bounds, trade-offs, indices."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape
from ..restless.ground_truth import GroundTruth
from ..restless.indices import WhittleIndex
from ..restless.mean_field import MeanField
from ..values.bounds import Report
from ..values.error_bracket import ErrorBracket
from .looks import BLUE, GRAY, GREEN, RED, axes, check_kind, ink, legend_above, set_logarithmic
from .maps import AS_WRITTEN, shown

# What is drawn over N: field of the exact answer, of the limit, and the power of N it goes with.
_OVER_AGENTS = {
    "entanglement": ("entanglement", "entanglement_limit", -0.5, "$E_1$"),
    "error": ("mu_error", "mu_error_limit", 0.5, "mean |error| of the sum"),
    "relative error": ("relative_error", "relative_error_limit", -0.5, "relative error of the sum"),
}


def plot_over_agents(
    quantity: str,
    *,
    exact: Mapping[int, GroundTruth] | None = None,
    simulated: Mapping[int, Any] | None = None,
    limit: MeanField | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a number against the number of agents, with what the limit of many says.

    Args:
        quantity: "entanglement" ($E_1$), "error" (mu-weighted) or "relative error".
        exact: results of `ground_truth`, by N.
        simulated: results with `value`, `lower` and `upper`, as `entanglement_interval` gives; or
            (value, standard error), by N.
        limit: of `mean_field`, drawn as c N^{-1/2}, for the error c N^{1/2}.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for another quantity, nothing to draw, or other results.
    """
    if quantity not in _OVER_AGENTS:
        raise ValueError(f"quantity: {quantity!r} is none of {', '.join(_OVER_AGENTS)}")
    exact, simulated = exact or {}, simulated or {}
    field, of_limit, power, label = _OVER_AGENTS[quantity]
    sizes = np.array(sorted({*exact, *simulated}), float)
    if not len(sizes):
        raise ValueError("exact, simulated: at least one N is wanted")
    for size, one in exact.items():
        check_kind(f"exact[{size}]", one, GroundTruth, "ground_truth")
    if limit is not None:
        check_kind("limit", limit, MeanField, "mean_field")
    ax = axes(ax)
    if limit is not None:
        constant = float(getattr(limit, of_limit))
        ends = np.array([sizes[0], sizes[-1]])
        if np.isfinite(constant):
            told = rf"limit, {constant:.3g} $N^{{{'1/2' if power > 0 else '-1/2'}}}$"
            ax.plot(ends, constant * ends**power, color=RED, lw=1, zorder=0, label=told)
    if exact:
        n = sorted(exact)
        values = [float(getattr(exact[size], field)) for size in n]
        ax.plot(n, values, "s", color=GREEN, ms=4, mfc="none", label="exact")
    if simulated:
        n = sorted(simulated)
        value, lower, upper = np.array([_interval(simulated[size]) for size in n]).T
        reach = np.maximum([value - lower, upper - value], 0)
        ax.errorbar(
            n, value, reach, fmt="o", color=BLUE, ms=3, lw=0.8, capsize=1.5, label="simulated"
        )
    set_logarithmic(ax, "number of agents $N$", label)
    return ax


def _interval(found: Any) -> tuple[float, float, float]:
    if hasattr(found, "lower"):
        return float(found.value), float(found.lower), float(found.upper)
    value, error = (float(x) for x in found)
    return value, value - 2 * error, value + 2 * error


def plot_brackets(found: Sequence[ErrorBracket], *, ax: Axes | None = None) -> Axes:
    """Draw how the bracket of an error closes with products with the chain.

    Args:
        found: of `approximation_error`, each with more `max_matvecs`.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for no bracket, or something else.
    """
    if not found:
        raise ValueError("found: at least one bracket is wanted")
    for k, one in enumerate(found):
        check_kind(f"found[{k}]", one, ErrorBracket, "approximation_error")
    ax = axes(ax)
    order = sorted(found, key=lambda one: int(one.num_matvecs))
    x = [int(one.num_matvecs) for one in order]
    lower, value, upper = (
        [float(getattr(one, name)) for one in order] for name in ("lower", "value", "upper")
    )
    ax.fill_between(x, lower, upper, color=BLUE, alpha=0.25, lw=0, label="certified")
    ax.plot(x, value, "o-", color=BLUE, lw=1, ms=3, label="value")
    ax.set(xlabel="products with the chain", ylabel="mean |error|", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(ax)
    return ax


def plot_bounds(found: Report, *, norm: str = "mu", ax: Axes | None = None) -> Axes:
    """Draw what the theorems bound beside the true error.

    Args:
        found: of `bounds.report`.
        norm: "mu" or "sup".
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for something else than a report, or another norm.
    """
    check_kind("found", found, Report, "bounds.report")
    if norm not in ("mu", "sup"):
        raise ValueError(f"norm: {norm!r} is neither 'mu' nor 'sup'")
    bounds = found.mu_bounds if norm == "mu" else found.sup_bounds
    error = found.mu_error if norm == "mu" else found.sup_error
    ax = axes(ax)
    names = sorted(bounds, key=bounds.__getitem__)
    place = np.arange(1, len(names) + 1)
    values = np.array([bounds[name] for name in names])
    ax.plot(values, place, "o", color=BLUE, ms=5)
    ax.plot([error], [0], "D", color=RED, ms=5)
    ax.axvline(error, color=RED, lw=0.8, ls="--")
    ax.set_yticks(np.arange(len(names) + 1), ["true error", *names])
    if error > 0:
        for at, value in zip(place, values, strict=True):
            ax.annotate(
                f"{value / error:.3g} x", (value, at), (6, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
        ax.set(xscale="log")
    ax.margins(x=0.2)
    ax.set(xlabel="mean |error|" if norm == "mu" else "largest |error|")
    return ax


def plot_front(
    cost: ArrayLike,
    gain: ArrayLike,
    *,
    labels: Sequence[Hashable] | None = None,
    xlabel: str = "error of the sum",
    ylabel: str = "reward a step",
    ax: Axes | None = None,
) -> Axes:
    """Draw what costs and gains: less of x and more of y is wanted, and no point beats the front.

    Args:
        cost: `[n]`.
        gain: `[n]`.
        labels: of the points on the front, by point.
        xlabel: what the cost is.
        ylabel: what the gain is.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for arrays of different length or not finite.
    """
    x, y = np.asarray(cost, float), np.asarray(gain, float)
    check_shape("gain", y, x.shape)
    for name, values in (("cost", x), ("gain", y)):
        check_finite(name, values)
    ax = axes(ax)
    order = np.lexsort((-y, x))
    best = np.maximum.accumulate(y[order])
    front = order[np.r_[True, best[1:] > best[:-1]]]
    behind = np.setdiff1d(order, front)
    ax.plot(x[behind], y[behind], "o", color=GRAY, ms=3, label="one is better")
    ax.plot(x[front], y[front], "o-", color=BLUE, lw=1, ms=4, drawstyle="steps-post", label="front")
    if labels is not None:
        for k in front:
            _name(ax, labels[k], float(x[k]), float(y[k]))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    legend_above(ax)
    return ax


def plot_indices(
    learned: ArrayLike,
    exact: WhittleIndex | ArrayLike,
    *,
    states: Sequence[Hashable] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a learned index against Whittle's: in the same order where the points rise.

    Args:
        learned: `[S]`, in any unit.
        exact: of `whittle_index`, or `[S]`.
        states: their labels; numbers from 0 on by default.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for another length, or where there is no index.
    """
    whittle = np.asarray(exact.index if isinstance(exact, WhittleIndex) else exact, float)
    ours = np.asarray(learned, float)
    check_shape("learned", ours, whittle.shape)
    check_finite("exact", whittle)
    check_finite("learned", ours)
    ax = axes(ax)
    order = np.argsort(whittle, kind="stable")
    ax.plot(whittle[order], ours[order], "o-", color=BLUE, lw=0.6, ms=4)
    for s in range(len(whittle)):
        _name(ax, s if states is None else states[s], float(whittle[s]), float(ours[s]))
    first, second = np.triu_indices(len(whittle), 1)
    apart = whittle[first] != whittle[second]
    same = (np.sign(whittle[first] - whittle[second]) == np.sign(ours[first] - ours[second]))[apart]
    title = f"{same.sum()} of {apart.sum()} pairs of states in the same order"
    ax.set(xlabel="Whittle index", ylabel="learned index")
    ax.set_title(title, fontsize="medium")
    return ax


def _name(ax: Axes, label: Hashable, x: float, y: float) -> None:
    """A label below and beside its point."""
    text = ax.annotate(shown(label), (x, y), (4, -9), textcoords="offset points", fontsize=7)
    text.set(color=ink(), **AS_WRITTEN)
