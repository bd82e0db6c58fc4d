"""One look for all pictures: readable in print, without color too, on light and dark ground."""

import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

# Of each the contrast with both grounds is 3 or more.
BLUE, RED, GRAY, GREEN = "#2f78c4", "#cf4436", "#7d7d7d", "#2e8b57"
LIGHT_GROUND, DARK_GROUND = "#ffffff", "#14181e"

_STYLE: Any = {
    "font.size": 9,
    "font.family": "serif",
    "mathtext.fontset": "cm",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.markersize": 3,
    "pdf.fonttype": 42,
}
_INK = "#e6e6e6"
_DARK: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), DARK_GROUND),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), _INK),
}


def style(*, dark: bool = False) -> AbstractContextManager[None]:
    """Settings for what is drawn inside a `with` block: small, serif, few lines.

    Args:
        dark: light ink on a dark ground, for slides and pages at night.
    """
    return mpl.rc_context(_STYLE | (_DARK if dark else {}))


def axes(ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure."""
    return plt.figure(layout="constrained").add_subplot() if ax is None else ax


def as_svg(draw: Callable[[Axes], object], *, size: tuple[float, float] = (5, 3)) -> bytes:
    """What a function draws, as a vector image: the same bytes for the same drawing.

    Args:
        draw: draws into the axes it is given.
        size: in inches.
    """
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "jaxent", "svg.fonttype": "path"}):
        figure = Figure(size, layout="constrained")
        draw(figure.add_subplot())
        with warnings.catch_warnings():
            # A box stands for what the font lacks.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def check_kind(name: str, found: object, kind: type, door: str) -> None:
    """Raise a ValueError that names what gives such a result, unless this is one."""
    if not isinstance(found, kind):
        raise ValueError(
            f"{name}: {type(found).__name__} is not of {kind.__name__}; {door} gives it"
        )


def ink() -> str:
    """Color of lines and text that stand for no data, as the settings have it."""
    return mpl.rcParams["text.color"]


def legend_above(ax: Axes) -> None:
    """A legend that never lies on data."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)


def draw_points(
    ax: Axes, x: np.ndarray, y: np.ndarray, error: np.ndarray, label: str, *, color: str = BLUE
) -> None:
    """Measured values with bars of two standard errors.

    Args:
        ax: where to draw.
        x: `[n]`.
        y: `[n]`.
        error: standard errors, `[n]`.
        label: for the legend; "(2 s.e.)" is put behind it.
        color: of the points.
    """
    look: dict[str, Any] = {"fmt": "o", "color": color, "lw": 0.8, "capsize": 1.5}
    ax.errorbar(x, y, yerr=2 * error, label=f"{label} (2 s.e.)", **look)


def draw_limit(ax: Axes, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """A curve of the theory.

    Args:
        ax: where to draw.
        x: `[n]`.
        y: `[n]`.
        label: for the legend.
    """
    ax.plot(x, y, color=RED, lw=1, zorder=0, label=label)


def draw_floor(ax: Axes, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """A level of noise, below which a method sees nothing.

    Args:
        ax: where to draw.
        x: `[n]`.
        y: `[n]`.
        label: for the legend.
    """
    ax.plot(x, y, color=GRAY, lw=1, ls=":", label=label)


def set_logarithmic(ax: Axes, xlabel: str, ylabel: str, *, legend: Any = "best") -> None:
    """Both axes logarithmic with plain numbers on the ticks, and a legend.

    Args:
        ax: what to set.
        xlabel: with its unit.
        ylabel: with its unit.
        legend: the corner where it is; none if None.
    """
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for which in (ax.xaxis, ax.yaxis):
        which.set_minor_formatter(NullFormatter())
        which.set_major_locator(LogLocator(subs=(1, 2, 5)))
        which.set_major_formatter(FormatStrFormatter("%g"))
    if legend is not None:
        ax.legend(loc=legend)
