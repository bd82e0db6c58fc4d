r"""The programs of a population over a few steps: one for each configuration, whole agents after.

Rows and costs are built once. A configuration is the right-hand side of the rows of step 0. What is
found is remembered by configuration, since runs come back to the same ones.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy

from ..models.population import WeaklyCoupledPopulation
from .fluid import Data, step_rows
from .linear_program import Program, solve_program
from .splits import cheapest, rules_of

# Configurations whose plans are remembered.
_REMEMBERED = 20_000
# An amount this near a whole number, as a share of the agents of the type, is one.
_ROUNDED = 1e-9
# Nodes of an integer program, at most.
_NODES = 10_000


class FirstStep(NamedTuple):
    """A solved program, and what its first step may be rounded to.

    Attributes:
        value: of the program.
        amounts: its first step, `[ΣX_k]`.
        loss: what an agent in a pair loses by the program, `[ΣX_k]`, not negative, at most 1.
        ends: of the intervals of the uniform number that give the same rounding, `[J]`.
        unique: whether no other plan is as good.
    """

    value: float
    amounts: np.ndarray
    loss: np.ndarray
    ends: np.ndarray
    unique: bool


class Programs:
    """The programs of one population: rows and costs are built once, the counts are the right side.

    Args:
        population: checked.
        data: the same in NumPy.
        horizon: H.
        discount: γ, 1 for none.
        terminal: V of each type, `[S_k]`.
    """

    def __init__(
        self,
        population: WeaklyCoupledPopulation,
        data: Data,
        horizon: int,
        discount: float,
        terminal: Sequence[np.ndarray],
    ) -> None:
        """Build what all programs share."""
        self.rules = rules_of(population)
        self.horizon = horizon
        self._agents = np.repeat(data.counts, [S for S, _ in data.sizes])  # [ΣS_k]
        self._of_pair = np.repeat(data.counts, [S * A for S, A in data.sizes])  # [ΣX_k]
        self._actions = np.concatenate([np.full(S, A) for S, A in data.sizes])  # [ΣS_k]
        self._base = cheapest(data.costs, data.sizes, data.limits)
        here, ahead, spent, unit = step_rows(data)
        steps, later = scipy.sparse.eye_array(horizon), scipy.sparse.eye_array(horizon, k=-1)
        flow = scipy.sparse.kron(steps, here) - scipy.sparse.kron(later, ahead)
        rows = scipy.sparse.vstack([flow, scipy.sparse.kron(steps, spent)])
        self._rows = scipy.sparse.csr_array(rows)
        right = np.tile(data.limits / unit, horizon)
        self._right = np.concatenate([np.zeros(flow.shape[0]), right])
        # A constant in the reward or in the values of a type is only paid.
        share = data.counts / data.counts.sum()
        usual = [np.median(r) for r in data.rewards]
        last = [np.median(v) for v in terminal]
        paid = [w * (u - r) for w, u, r in zip(share, usual, data.rewards, strict=True)]
        worth = np.concatenate([w * (u - v) for w, u, v in zip(share, last, terminal, strict=True)])
        step = np.concatenate([*paid, np.zeros(spent.shape[1] - len(self._of_pair))])
        cost = discount ** np.arange(horizon)[:, None] * step
        cost[-1] += discount**horizon * (worth @ ahead)
        self._cost = cost.reshape(-1)
        sums = (discount ** np.arange(horizon)).sum()
        self._certain = data.counts @ usual * sums + discount**horizon * (data.counts @ last)
        self.first_step = lru_cache(_REMEMBERED)(self._first_step)
        self.split = lru_cache(_REMEMBERED)(self._split)

    def __repr__(self) -> str:
        """What they are of, on one line."""
        return f"programs of {self.horizon} steps for {list(self.rules.counts)} agents"

    def drawn(self, counts: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """The split `[ΣX_k]` of counts `[ΣS_k]` at this uniform number."""
        key = key_of(np.asarray(counts))
        ends = self.first_step(key).ends
        j = min(int(np.searchsorted(ends, float(uniform), side="right")), len(ends) - 1)
        return self.split(key, j).astype(np.int32)

    def splits(self, key: bytes) -> tuple[np.ndarray, np.ndarray]:
        """All splits of a configuration `[J, ΣX_k]` and their chances `[J]`."""
        ends = self.first_step(key).ends
        every = np.stack([self.split(key, j) for j in range(len(ends))])
        parts, where = np.unique(every, axis=0, return_inverse=True)
        return parts, np.bincount(where.reshape(-1), np.diff(ends, prepend=0))

    def _first_step(self, key: bytes) -> FirstStep:
        counts = _counts_of(key)
        right = self._right.copy()
        right[: len(counts)] = counts / self._agents
        found = solve_program(self._rows, right, self._cost)
        if found is None:
            raise ValueError(
                f"budgets: no plan of {self.horizon} steps keeps all of them from "
                f"configuration {self._shown(counts)}"
            )
        size = len(self._of_pair)
        amounts = self._tidy(self._of_pair * found.value[:size], counts)
        total = sum(self.rules.counts)
        loss = np.maximum(found.slack[:size], 0) * total / self._of_pair
        loss = loss / loss.max() if loss.max() > 0 else loss
        value = float(self._certain - total * (right @ found.price))
        return FirstStep(value, amounts, loss, self.turns(amounts), self._settled(found))

    def _settled(self, found: Program) -> bool:
        """Whether every pair that is not in use where agents are, at any step, is worse.

        What is used is a vertex, so that nothing can be moved between what is used either.
        """
        doubt = 2 * np.maximum(found.rounding, found.wrong.max())
        worse = (found.slack > doubt).reshape(self.horizon, -1)
        used = (found.value > 0).reshape(self.horizon, -1)
        size = len(self._of_pair)
        states = np.repeat(np.arange(len(self._actions)), self._actions)  # [ΣX_k]
        visited = np.zeros((self.horizon, len(self._actions)), bool)
        for pair, s in enumerate(states):
            visited[:, s] |= used[:, pair]
        limits = used[:, size:] | worse[:, size:]
        pairs = used[:, :size] | worse[:, :size] | ~visited[:, states]
        return bool(limits.all() and pairs.all())

    def _tidy(self, amounts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The amounts, whole where they nearly are, and all agents of each state there."""
        near = np.round(amounts)
        whole = np.abs(amounts - near) <= _ROUNDED * self._of_pair
        amounts = np.where(whole, near, amounts)
        parts = []
        pairs = zip(self.rules.pairs_by_type(amounts), self.rules.by_type(counts), strict=True)
        for part, here in pairs:
            present = part.sum(1)
            missing = here - present
            part = part.copy()
            # Rounding alone: the largest amount of the state takes it.
            part[np.arange(len(part)), part.argmax(1)] += missing
            parts.append(part.reshape(-1))
        return np.concatenate(parts)

    def _edges(self, amounts: np.ndarray) -> list[np.ndarray]:
        """Where the amounts of each state end on one line, `[S_k, A_k + 1]` of each type.

        The cheapest action is the last of its state. A state begins where the other actions of all
        states before it end, so that their whole number is rounded as well as each of them.
        """
        begin, edges = 0.0, []
        for part, base in zip(self.rules.pairs_by_type(amounts), self._base, strict=True):
            S, A = part.shape
            line = np.cumsum(np.take_along_axis(part, _base_last(base, A), 1), axis=1)
            dear = line[:, -2] if A > 1 else np.zeros(S)
            first = begin + np.append(0, np.cumsum(dear)[:-1])
            begin += dear.sum()
            edges.append(np.concatenate([np.zeros((S, 1)), line], axis=1) + first[:, None])
        return edges

    def turns(self, amounts: np.ndarray) -> np.ndarray:
        """The uniform numbers at which the rounding of these amounts changes, and 1, `[J]`."""
        at = np.concatenate([line.reshape(-1) for line in self._edges(amounts)])
        at = np.unique(np.round(-at % 1, 9))
        return np.append(at[(at > 0) & (at < 1)], 1.0)

    def rounded(self, amounts: np.ndarray, uniform: float) -> np.ndarray:
        """The amounts `[ΣX_k]` as whole numbers next to them, with this uniform number."""
        parts = []
        for line, base in zip(self._edges(amounts), self._base, strict=True):
            # From the begin of each state's own line on, lest large counts cost digits.
            within = line - np.floor(line[:, :1] + uniform)
            drawn = np.diff(np.floor(within + uniform), axis=1)
            part = np.empty_like(drawn)
            np.put_along_axis(part, _base_last(base, drawn.shape[1]), drawn, 1)
            parts.append(part.reshape(-1))
        return np.concatenate(parts).astype(np.int64)

    def _split(self, key: bytes, j: int) -> np.ndarray:
        """The j-th rounding of a configuration, `[ΣX_k]`, or the nearest split that is allowed."""
        found = self.first_step(key)
        uniform = (found.ends[j] + (found.ends[j - 1] if j else 0.0)) / 2
        split = self.rounded(found.amounts, uniform)
        if self.rules.allowed(split):
            return split
        return self._nearest(split, found.loss, _counts_of(key))

    def _nearest(self, split: np.ndarray, loss: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The split of fewest changes that keeps the budgets; of several that of least loss."""
        rules = self.rules
        size = len(split)
        states = np.repeat(np.arange(len(counts)), self._actions)
        member = (np.arange(len(counts))[:, None] == states).astype(float)  # [ΣS_k, ΣX_k]
        unit = np.abs(rules.costs).max(0)
        unit = np.where(unit > 0, unit, 1)
        used, limits = rules.costs.T / unit[:, None], (rules.limits - split @ rules.costs) / unit
        slack = rules.slack / unit
        change = np.concatenate([member, used])
        rows = np.concatenate([change, -change], axis=1)  # more, less
        none = np.zeros(len(counts))
        low = np.concatenate([none, np.where(rules.equality, limits - slack, -np.inf)])
        high = np.concatenate([none, limits + slack])
        found = scipy.optimize.milp(
            np.concatenate([1 + loss / 2, 1 - loss / 2]),
            constraints=scipy.optimize.LinearConstraint(rows, low, high),
            integrality=np.ones(2 * size),
            bounds=scipy.optimize.Bounds(0, np.concatenate([counts[states], split])),
            options={"node_limit": _NODES, "mip_rel_gap": 0},
        )
        if found.x is not None:
            whole = np.round(found.x).astype(np.int64)
            moved = split + whole[:size] - whole[size:]
            if (moved >= 0).all() and rules.allowed(moved):
                return moved
        raise ValueError(
            f"budgets: no whole split of configuration {self._shown(counts)} keeps all of them"
            + ("" if found.status == 2 else f", or none was found ({found.message})")
        )

    def _shown(self, counts: np.ndarray) -> list[list[int]]:
        return [part.tolist() for part in self.rules.by_type(counts)]


def _base_last(base: np.ndarray, num_actions: int) -> np.ndarray:
    """The actions of each state, the cheapest last, `[S, A]`."""
    return np.argsort(np.arange(num_actions) == base[:, None], axis=1, kind="stable")


def key_of(counts: np.ndarray) -> bytes:
    """Counts `[ΣS_k]` as what is remembered by."""
    return np.ascontiguousarray(counts, np.int64).tobytes()


def _counts_of(key: bytes) -> np.ndarray:
    return np.frombuffer(key, np.int64)
