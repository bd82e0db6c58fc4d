"""One look for all figures: readable in print, without color too."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

BLUE, RED, GRAY, GREEN = "#1f5fa8", "#b8352a", "#6b6b6b", "#2f7d4f"

_STYLE: dict[Any, Any] = {
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


def style() -> AbstractContextManager[None]:
    """Settings for the figures drawn inside a `with` block."""
    return mpl.rc_context(_STYLE)


def points(axis: Any, x: np.ndarray, y: np.ndarray, error: np.ndarray, label: str) -> None:
    """Measured values with bars of two standard errors."""
    axis.errorbar(
        x, y, yerr=2 * error, fmt="o", color=BLUE, lw=0.8, capsize=1.5, label=f"{label} (2 s.e.)"
    )


def limit(axis: Any, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """A curve of the theory."""
    axis.plot(x, y, color=RED, lw=1, zorder=0, label=label)


def floor(axis: Any, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """A level of noise, below which a method sees nothing."""
    axis.plot(x, y, color=GRAY, lw=1, ls=":", label=label)


def logarithmic(axis: Any, xlabel: str, ylabel: str, *, legend: str) -> None:
    """Both axes logarithmic with plain numbers on the ticks, and a legend in this corner."""
    axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for which in (axis.xaxis, axis.yaxis):
        which.set_minor_formatter(NullFormatter())
        which.set_major_locator(LogLocator(subs=(1, 2, 5)))
        which.set_major_formatter(FormatStrFormatter("%g"))
    axis.legend(loc=legend)
