r"""How many local pairs an audit takes, and what is said where a log has more.

A law of the next pair is learned for each local pair, so states and actions must be few and come
again. A column of numbers that hardly ever do is continuous, whatever its size.
"""

import jax.numpy as jnp
import numpy as np

from ..numerics.memory import check_memory
from .log_columns import is_number
from .trajectory import Trajectory

# The permutation test sorts words of 32 bits: two codes of a pair, and at least 12 random bits.
MOST_PAIRS = 1023
# A column is continuous where more than half of its values are different numbers, at least 50.
_DISTINCT, _AT_LEAST = 0.5, 50

# What one agent's estimate holds at once, in arrays of the sizes that they have there, each times
# this: laws of T rows (filled up to blocks of 32 for each pair), coefficients of a block, of a
# pair, and with few pairs the test's features by pair.
_LAWS, _BY_BLOCK, _BY_PAIR, _FEW = 2.5, 2, 4, 2
FEW_PAIRS = 20

_REMEDY = "put them into bins (pandas.cut), or let a few features of them be the {}"
_NUMBERS = "; or keep them as numbers that agents see: read_log(observations=), --observations"


def check_few_pairs(trajectory: Trajectory, *, limited: bool = True) -> None:
    """Raise unless the columns of local pairs are discrete and, if `limited`, the pairs few.

    And unless laws of so many next pairs fit into memory, whatever the features.
    """
    present = np.asarray(trajectory.present)
    labels = trajectory.labels
    # The signal is one for all, so its rows are epochs.
    columns = {
        "state": (labels.states, np.asarray(trajectory.states)[present]),
        "action": (labels.actions, np.asarray(trajectory.actions)[present]),
        "signal": (labels.signals, np.asarray(trajectory.signal)[present.any(1)]),
    }
    for name, (known, codes) in columns.items():
        used = np.unique(codes)
        if len(used) > max(_AT_LEAST - 1, _DISTINCT * len(codes)) and all(
            is_number(known[k]) for k in used
        ):
            raise ValueError(
                f"column {name}: is continuous: {len(used)} different numbers in {len(codes)} "
                f"rows; {_REMEDY.format(name)}{_NUMBERS if name == 'state' else ''}"
            )
    if limited and trajectory.num_pairs > MOST_PAIRS:
        name = max(columns, key=lambda c: len(columns[c][0]))
        sizes = f"{trajectory.num_states} states and {trajectory.num_actions} actions"
        if trajectory.num_signals > 1:
            sizes = (
                f"{trajectory.num_states} states, {trajectory.num_actions} actions and "
                f"{trajectory.num_signals} signals"
            )
        raise ValueError(
            f"column {name}: {len(columns[name][0])} labels are too many: {sizes} are "
            f"{trajectory.num_pairs} local pairs, wanted at most {MOST_PAIRS}; "
            f"{_REMEDY.format(name)}"
        )
    if limited:
        check_room(trajectory, num_features=1)


def check_room(trajectory: Trajectory, *, num_features: int, at_once: int = 1) -> None:
    """Raise unless the estimates of so many agents at a time fit into memory."""
    rows, size, width = trajectory.num_epochs, trajectory.num_pairs, num_features + 1
    blocks = rows / 32 + size
    numbers = (
        _LAWS * (rows + 32 * blocks) * size
        + _BY_BLOCK * blocks * width * size
        + _BY_PAIR * size**2 * width
        + (_FEW * rows * width * size if size <= FEW_PAIRS else 0)
    )
    check_memory(
        f"trajectory: laws of {size} next pairs at {rows} epochs, by {num_features} features,",
        at_once * numbers * jnp.zeros(()).dtype.itemsize,
        "put states or actions into fewer bins (pandas.cut), give fewer features or fewer epochs",
    )
