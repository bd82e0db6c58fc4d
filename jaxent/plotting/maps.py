"""Tables as maps: who moves whom, and in which pairs a sum of local values is wrong."""

from collections.abc import Hashable, Sequence
from typing import Protocol

import matplotlib as mpl
import numpy as np
from jax import Array
from matplotlib.axes import Axes

from ..data.error_estimate import ErrorEstimate
from ..data.log_table import printable
from .looks import BLUE, RED, axes

# No dollar begins a formula, and no underscore an index.
AS_WRITTEN = {"parse_math": False, "usetex": False}
# Letters of a label in a picture; cells of a row whose numbers are written; bars.
_LONGEST, _WRITTEN, _BARS = 24, 12, 20
# Digits behind the point, at most.
_DIGITS = 4


class PairErrors(Protocol):
    """What has an error at every joint pair: a `Decomposition`, an `ErrorBracket`."""

    @property
    def error(self) -> Array:
        """`[J]`."""
        ...


def shown(label: Hashable) -> str:
    """A label as it stands in a picture."""
    return printable(label, _LONGEST)


def plot_entanglement_map(
    table: Array | np.ndarray,
    *,
    agents: Sequence[Hashable] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw `entanglement_map(chain, mu)`: row i is moved by column j.

    Args:
        table: `[N, N]`; its diagonal is not drawn.
        agents: their labels; numbers from 0 on by default.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for a table that is not square, or labels that are more or fewer.
    """
    values = np.array(table, float)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"table: wanted a square matrix, got shape {list(values.shape)}")
    np.fill_diagonal(values, np.nan)
    labels = _labels("agents", agents, len(values))
    return _map(
        values, (labels, labels), "mean total variation", ax,
        xlabel="agent j, whose pair is changed", ylabel="agent i, whose next pair moves",
    )  # fmt: skip


def plot_error_by_pair(
    found: PairErrors | ErrorEstimate,
    *,
    sizes: Sequence[int] = (),
    agents: Sequence[Hashable] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where a sum of local values is wrong.

    A map over both agents' pairs where there are two, the largest errors as bars where there are
    more; of a log, a map of each agent's local pairs. Pairs never visited are blank.

    Args:
        found: of `decompose`, `approximation_error`, or `estimate_approximation_error` of a log.
        sizes: of the agents, X_i each, as `chain.sizes` has them; not asked for a log.
        agents: their labels; numbers from 0 on by default.
        ax: where to draw; a new figure by default.

    Raises:
        ValueError: for something without an error, or sizes that do not fit it.
    """
    if isinstance(found, ErrorEstimate):
        values = np.where(found.by_pair > 0, found.by_pair, np.nan)
        labels = _labels("agents", agents, len(values)), _labels("", None, values.shape[1])
        return _map(
            values, labels, "mean |error|", ax, xlabel="local pair", ylabel="agent"
        )  # fmt: skip
    if not hasattr(found, "error"):
        raise ValueError(
            f"found: {type(found).__name__} has no error by pair; decompose, approximation_error "
            "or estimate_approximation_error gives it"
        )
    values = np.array(found.error, float)
    if values.ndim != 1 or np.prod(sizes, dtype=int) != len(values):
        raise ValueError(
            f"sizes: {tuple(sizes)} do not multiply to the {values.shape} errors; give chain.sizes"
        )
    visited = getattr(found, "visited", None)
    if visited is not None:
        values[~np.asarray(visited)] = np.nan
    if len(sizes) != 2:
        return _bars(values, sizes, ax)
    first, second = (shown(agent) for agent in _labels("agents", agents, 2))
    labels = _labels("", None, sizes[0]), _labels("", None, sizes[1])
    return _map(
        values.reshape(*sizes), labels, "error", ax, signed=True,
        xlabel=f"pair of agent {second}", ylabel=f"pair of agent {first}",
    )  # fmt: skip


def _labels(name: str, labels: Sequence[Hashable] | None, number: int) -> Sequence[Hashable]:
    if labels is None:
        return range(number)
    if len(labels) != number:
        raise ValueError(f"{name}: wanted {number} labels, got {len(labels)}")
    return labels


def _map(
    values: np.ndarray,
    labels: tuple[Sequence[Hashable], Sequence[Hashable]],
    told: str,
    ax: Axes | None,
    *,
    xlabel: str,
    ylabel: str,
    signed: bool = False,
) -> Axes:
    """Numbers as shades, written where there is room."""
    ax = axes(ax)
    most = np.nanmax(np.abs(values), initial=0) or 1.0
    colors = mpl.colormaps["RdBu_r" if signed else "Blues"]
    long = max(values.shape) > 2 * min(values.shape)
    image = ax.imshow(values, cmap=colors, vmin=-most if signed else 0, vmax=most)
    ax.set_aspect("auto" if long else "equal")
    for axis, names in zip((ax.yaxis, ax.xaxis), labels, strict=True):
        if len(names) <= 2 * _WRITTEN:
            axis.set_ticks(range(len(names)), [shown(name) for name in names])
        for label in axis.get_ticklabels():
            label.set(**AS_WRITTEN)
    if max((len(label.get_text()) for label in ax.get_xticklabels()), default=0) > 3:
        ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if max(values.shape) <= _WRITTEN:
        digits = max(1 - int(np.floor(np.log10(most))), 0)  # two of the largest number
        form = f"z.{digits}f" if digits <= _DIGITS else ".0e"
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
                color = "black" if light else "white"
                ax.text(j, i, f"{value:{form}}", ha="center", va="center", color=color, fontsize=7)
    ax.figure.colorbar(image, ax=ax, label=told)
    return ax


def _bars(values: np.ndarray, sizes: Sequence[int], ax: Axes | None) -> Axes:
    """The largest errors and the pairs in which they are."""
    ax = axes(ax)
    size = np.nan_to_num(np.abs(values))
    most = np.argsort(-size, kind="stable")[:_BARS]
    most = most[size[most] > 0]
    place = np.arange(len(most))
    color = [RED if value > 0 else BLUE for value in values[most]]
    ax.barh(place, values[most], color=color)
    pairs = zip(*np.unravel_index(most, tuple(sizes)), strict=True)
    ax.set_yticks(place, [", ".join(map(str, pair)) for pair in pairs])
    ax.invert_yaxis()
    ax.axvline(0, color=mpl.rcParams["axes.edgecolor"], lw=0.5)
    ax.set(xlabel="error of the sum", ylabel="joint pair, agent by agent")
    return ax
