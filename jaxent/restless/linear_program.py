r"""Linear programs whose answers scale with what is paid: min c'y over rows y = b, y >= 0.

The solver (HiGHS) has absolute tolerances, so a program is brought to size 1, and what its
multipliers leave of the cost is brought to size 1 again, until it is rounding (Gleixner, Steffy and
Wolter 2016, Iterative refinement for linear programming).
"""

from typing import NamedTuple

import numpy as np
import scipy

# A slack this small against the terms that it is summed from is 0.
ROUNDING = 1e-13
# Solves of a program, each on what the one before left of the cost; and the largest of it that a
# later one is shown, in units of its error.
_REFINEMENTS = 8
_FAR = 1e4
# Columns and rows of a system that is solved densely, at most.
_DENSE = 2000
# What the multipliers may be wrong by in the end, against rewards that are paid.
_TOLERATED = 1e-7


class Program(NamedTuple):
    """A solved program: y, the multipliers, what they leave of the cost, and the errors of that."""

    value: np.ndarray
    price: np.ndarray
    slack: np.ndarray
    wrong: np.ndarray
    rounding: np.ndarray


def solve_program(rows, right: np.ndarray, cost: np.ndarray) -> Program | None:
    """min cost'y over rows y = right, y >= 0; None where there is no such y.

    Args:
        rows: sparse, `[m, n]`, of size 1.
        right: `[m]`, of size 1.
        cost: `[n]`, of any size.

    Raises:
        ValueError: if rewards span so many decades that the program cannot be solved for them.
    """
    best = refined_program(rows, right, cost)
    if best is None:
        return None
    paid = best.rounding[best.value > 0].max() / ROUNDING
    if best.wrong.max() > _TOLERATED * paid:
        raise ValueError(
            f"reward: spans too many decades: the program is solved to {best.wrong.max():.3g} "
            f"only, for rewards of {paid:.3g} where the budget goes"
        )
    return best


def refined_program(rows, right: np.ndarray, cost: np.ndarray) -> Program | None:
    """The same, however large the errors of the multipliers are."""
    best = _refined(rows, right, cost, np.zeros(len(right)), np.abs(cost).max())
    if best is None:
        return None
    for _ in range(_REFINEMENTS):
        if (best.wrong <= best.rounding).all():
            break
        finer = _refined(rows, right, cost, best.price, best.wrong.max())
        if finer is None or finer.wrong.max() >= best.wrong.max():
            break
        best = finer
    return best


def _refined(rows, right, cost, price, unit) -> Program | None:
    """The program solved for what these multipliers leave of the cost; None where that fails."""
    left = (cost - price @ rows) / (unit if unit > 0 else 1)
    answer = scipy.optimize.linprog(np.minimum(left, _FAR), A_eq=rows, b_eq=right, method="highs")
    if answer.status != 0:
        return None
    price = price + unit * answer.eqlin.marginals
    slack = cost - price @ rows
    wrong = np.where(answer.x > 0, np.abs(slack), np.maximum(-slack, 0))
    rounding = ROUNDING * (np.abs(cost) + np.abs(price) @ abs(rows))
    return Program(np.maximum(answer.x, 0), price, slack, wrong, rounding)


def ranks(index: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """0 for the largest, and so on; the same for what differs by rounding alone, `[S]`."""
    order = np.argsort(-index, kind="stable")
    apart = -np.diff(index[order]) > doubt[order][1:] + doubt[order][:-1]
    rank = np.empty(len(index), int)
    rank[order] = np.append(0, np.cumsum(apart))
    return rank


def polished(rows, right: np.ndarray, value: np.ndarray) -> np.ndarray:
    """y with the rows met to rounding: the solver meets them to its absolute tolerance alone.

    What is positive is solved for again, and kept where it stays so and misses less.
    """
    used = np.flatnonzero(value > 0)
    if len(used) > _DENSE or rows.shape[0] > _DENSE:
        return value
    again = value.copy()
    again[used] = np.linalg.lstsq(rows[:, used].toarray(), right, rcond=None)[0]
    if again.min() < -ROUNDING * len(used) * np.abs(again).max():
        return value
    again = np.maximum(again, 0)
    missed = [np.abs(rows @ y - right).max() for y in (again, value)]
    return again if missed[0] < missed[1] else value
