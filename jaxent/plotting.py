"""Pictures. The only place, with the other modules of this floor, that imports matplotlib."""

import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib.axes import Axes


def plot_entanglement_map(table: Array, *, ax: Axes | None = None) -> Axes:
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
