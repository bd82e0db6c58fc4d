r"""The cheapest choices of agents that each choose by what they see.

In joint state s the team pays cost[s, m_0, m_1, ..] where agent i has chosen m_i = c_i(o_i(s)).
Sought are the c_i that make Σ_s cost least: a team decision problem. States that share no
observation have nothing to do with each other, so the parts that hang together are solved one by
one. A part of one state is a minimum; one with few teams is tried through; else agents choose in
turn, from several starts, and the sum of the states' own minima is a bound from below.
"""

from math import prod
from typing import NamedTuple

import numpy as np

# Teams of one part that are tried, and starts where there are more.
_TRIED, _STARTS = 20_000, 32


class Choice(NamedTuple):
    """Choices of a team.

    Attributes:
        by_state: the joint choice in each state, numbered in C order, int `[S]`.
        by_agent: what each agent chooses by what it sees, int `[O_i]`; 0 where it never is.
        cost: Σ_s of what they pay.
        lower: at most that of any team.
    """

    by_state: np.ndarray
    by_agent: tuple[np.ndarray, ...]
    cost: float
    lower: float


def cheapest(
    cost: np.ndarray,
    seen: tuple[np.ndarray, ...],
    sizes: tuple[int, ...],
) -> Choice:
    """The cheapest team, or the best that is found.

    Args:
        cost: `[S, M]`, joint choices in C order; 0 in states that do not matter.
        seen: what each agent sees in each state, int `[S]` each.
        sizes: choices of each agent, with product M.
    """
    num_states = len(cost)
    by_agent = [np.zeros(o.max() + 1, int) for o in seen]
    by_state = np.zeros(num_states, int)
    total = least = 0.0
    for part in _parts(seen):
        table = cost[part]
        local = [np.unique(o[part], return_inverse=True) for o in seen]
        codes = [inverse for _, inverse in local]
        chosen, lower = _of_part(table, codes, sizes)
        for i, choice in enumerate(chosen):
            by_agent[i][local[i][0]] = choice
        by_state[part] = _joint(chosen, codes, sizes)
        total += float(table[np.arange(len(part)), by_state[part]].sum())
        least += lower
    return Choice(by_state, tuple(by_agent), total, min(least, total))


def _parts(seen: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """States that hang together by what somebody sees."""
    label = np.arange(len(seen[0]))
    while True:
        before = label
        for codes in seen:
            least = np.full(codes.max() + 1, len(label))
            np.minimum.at(least, codes, label)
            label = least[codes]
        if np.array_equal(label, before):
            return [np.flatnonzero(label == k) for k in np.unique(label)]


def _joint(chosen: list[np.ndarray], codes: list[np.ndarray], sizes: tuple[int, ...]) -> np.ndarray:
    """The joint choice in each state of a part."""
    each = [choice[code] for choice, code in zip(chosen, codes, strict=True)]
    return np.ravel_multi_index(each, sizes)


def _of_part(
    table: np.ndarray, codes: list[np.ndarray], sizes: tuple[int, ...]
) -> tuple[list[np.ndarray], float]:
    """What each agent chooses by what it sees, and at most the cost of any team."""
    lower = float(table.min(1).sum())
    counts = [int(code.max()) + 1 for code in codes]
    rows = np.arange(len(table))
    if len(table) == 1:
        best = np.unravel_index(int(table[0].argmin()), sizes)
        return [np.array([m]) for m in best], lower
    digits = [n for n, count in zip(sizes, counts, strict=True) for _ in range(count)]
    ends = np.cumsum(counts)[:-1].tolist()
    if prod(digits) <= _TRIED:
        every = np.stack(np.unravel_index(np.arange(prod(digits)), digits))  # [digits, teams]
        each = [part[code] for part, code in zip(np.split(every, ends), codes, strict=True)]
        paid = table[rows[:, None], np.ravel_multi_index(each, sizes)].sum(0)  # [teams]
        team = every[:, int(paid.argmin())]
        return np.split(team, ends), float(paid.min())
    rng = np.random.default_rng(0)  # a search: any starts will do, and always the same ones
    grid = table.reshape(len(table), *sizes)
    best, least = [], np.inf
    for start in range(_STARTS):
        chosen = [rng.integers(n, size=count) for n, count in zip(sizes, counts, strict=True)]
        if start == 0:  # each as if the others chose what is best for it
            for i, (code, count) in enumerate(zip(codes, counts, strict=True)):
                others = tuple(k + 1 for k in range(len(sizes)) if k != i)
                chosen[i] = _summed(grid.min(others), code, count).argmin(1)
        paid = _descend(grid, chosen, codes, counts, sizes)
        if paid < least:
            best, least = [c.copy() for c in chosen], paid
    return best, lower


def _summed(by_state: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    """Rows of the states in which an agent sees the same, added up."""
    total = np.zeros((count, by_state.shape[1]))
    np.add.at(total, code, by_state)
    return total


def _descend(
    grid: np.ndarray,
    chosen: list[np.ndarray],
    codes: list[np.ndarray],
    counts: list[int],
    sizes: tuple[int, ...],
) -> float:
    """Agents choose in turn until none pays less by another choice; `chosen` is changed."""
    rows, paid = np.arange(len(grid)), np.inf
    table = grid.reshape(len(grid), -1)
    while True:
        for i, (code, count) in enumerate(zip(codes, counts, strict=True)):
            others = [chosen[k][codes[k]] for k in range(len(sizes)) if k != i]
            own = np.moveaxis(grid, i + 1, -1)[(rows, *others)]  # [states, M_i]
            chosen[i] = _summed(own, code, count).argmin(1)
        now = float(table[rows, _joint(chosen, codes, sizes)].sum())
        if not now < paid:
            return now
        paid = now
