r"""How many local pairs an audit takes, and what is said where a log has more.

A law of the next pair is learned for each local pair, so states and actions must be few and come
again. A column of numbers that hardly ever do is continuous, whatever its size.
"""

import numpy as np

from .log_columns import is_number
from .trajectory import Trajectory

# The permutation test sorts words of 32 bits: two codes of a pair, and at least 12 random bits.
MOST_PAIRS = 1023
# A column is continuous where more than half of its values are different numbers, at least 50.
_DISTINCT, _AT_LEAST = 0.5, 50

_REMEDY = "put them into bins (pandas.cut), or let a few features of them be the {}"


def check_few_pairs(trajectory: Trajectory, *, limited: bool = True) -> None:
    """Raise unless the columns of local pairs are discrete and, if `limited`, the pairs few."""
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
                f"rows; {_REMEDY.format(name)}"
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
