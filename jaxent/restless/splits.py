r"""Who does what in a population: counts of agents by state, and splits of them by action.

A configuration counts the agents of each type in each state, a split those that take each action
there: `[ΣS_k]` and `[ΣS_k A_k]` with the types one after another, or tuples of `[S_k]` and
`[S_k, A_k]`. A policy of exchangeable agents is a law of the split given the configuration; agents
of one type in one state are told apart by nothing, so who of them takes which action is a fair
draw. A split is allowed if its costs keep the budgets.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from .._checks import concrete
from ..models.population import WeaklyCoupledPopulation
from ..numerics.memory import device_memory
from .next_counts import configuration_index, configurations, num_configurations

Array = jax.Array
Counts = tuple[np.ndarray, ...]
Split = tuple[Any, ...]
# The split of a configuration, or several, each with its chance.
CountsPolicy = Callable[[Counts], Split | Sequence[tuple[float, Split]]]

# A sum of costs may miss a budget by this share: it is rounded.
_ROUNDED = 1e-9


class Rules(NamedTuple):
    """What fixes the configurations and the allowed splits, all known.

    Attributes:
        sizes: (S_k, A_k) of each type.
        counts: agents of each type.
        costs: `[ΣX_k, K]`.
        limits: b, `[K]`.
        equality: which budgets must be spent exactly, bool `[K]`.
        slack: what rounding may miss each budget by, `[K]`.
    """

    sizes: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    costs: np.ndarray
    limits: np.ndarray
    equality: np.ndarray
    slack: np.ndarray

    @property
    def num_counts(self) -> int:
        """Number of configurations, M."""
        return prod(
            num_configurations(n, S) for n, (S, _) in zip(self.counts, self.sizes, strict=True)
        )

    def by_type(self, counts: Any) -> Counts:
        """`[.., ΣS_k]` as a tuple of `[.., S_k]`."""
        ends = np.cumsum([S for S, _ in self.sizes])[:-1]
        return tuple(np.split(counts, ends, axis=-1))

    def pairs_by_type(self, splits: Any) -> tuple[np.ndarray, ...]:
        """`[.., ΣX_k]` as a tuple of `[.., S_k, A_k]`."""
        ends = np.cumsum([S * A for S, A in self.sizes])[:-1]
        parts = np.split(splits, ends, axis=-1)
        return tuple(
            part.reshape(*part.shape[:-1], *size)
            for part, size in zip(parts, self.sizes, strict=True)
        )

    def counted(self, splits: Any) -> np.ndarray:
        """Agents by state of splits, `[.., ΣX_k]` to `[.., ΣS_k]`."""
        return np.concatenate([part.sum(-1) for part in self.pairs_by_type(splits)], axis=-1)

    def allowed(self, splits: np.ndarray) -> Any:
        """Which splits `[.., ΣX_k]` keep the budgets, bool `[..]`."""
        left = self.limits - splits @ self.costs
        kept = left >= -self.slack
        return np.all(kept & (~self.equality | (left <= self.slack)), axis=-1)


def rules_of(population: WeaklyCoupledPopulation) -> Rules:
    """The rules of a checked population; its counts, costs and budgets must be known."""
    costs = [kind.costs for kind in population.types]
    if not concrete(costs, population.counts, population.budgets):
        raise ValueError(
            "population: counts, costs and budgets fix who may do what, so they must be known "
            "here, not traced"
        )
    flat = np.concatenate([np.asarray(c, np.float64).reshape(-1, np.shape(c)[-1]) for c in costs])
    counts = tuple(int(n) for n in population.counts)
    limits = np.array([float(b) for b in population.limits])
    size = np.maximum(np.abs(limits), sum(counts) * np.abs(flat).max(0))
    equality = np.array([budget.equality for budget in population.budgets])
    return Rules(population.sizes, counts, flat, limits, equality, _ROUNDED * size)


def cheapest(
    costs: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], limits: np.ndarray
) -> list[np.ndarray]:
    """The action of each state that uses least, budgets compared by their limits, `[S_k]` each."""
    largest = np.max([np.abs(d).max(0) for d in costs], axis=0)
    unit = np.where(limits > 0, limits, largest)
    unit = np.where(unit > 0, unit, 1)
    pairs = zip(costs, sizes, strict=True)
    return [(d / unit).sum(1).reshape(size).argmin(1) for d, size in pairs]


def all_counts(rules: Rules) -> np.ndarray:
    """Every configuration, `[M, ΣS_k]`, type 0 slowest."""
    return _product(
        [configurations(n, S) for n, (S, _) in zip(rules.counts, rules.sizes, strict=True)]
    )


def all_splits(rules: Rules) -> np.ndarray:
    """Every split of every configuration, allowed or not, `[Y, ΣX_k]`, type 0 slowest."""
    sizes = zip(rules.counts, rules.sizes, strict=True)
    return _product([configurations(n, S * A) for n, (S, A) in sizes])


def _product(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All rows of all parts side by side, the first part slowest."""
    rows = np.zeros((1, 0), np.int64)
    for part in parts:
        left = np.repeat(rows, len(part), axis=0)
        rows = np.concatenate([left, np.tile(part, (len(rows), 1))], axis=1)
    return rows


def counts_place(rules: Rules, counts: np.ndarray) -> np.ndarray:
    """Place of configurations `[.., ΣS_k]` in the order of `all_counts`, `[..]`."""
    place = np.zeros(counts.shape[:-1], np.int64)
    for n, part in zip(rules.counts, rules.by_type(counts), strict=True):
        place = place * num_configurations(n, part.shape[-1]) + configuration_index(part)
    return place


class SplitLaw(NamedTuple):
    """The law of the split in every configuration.

    Attributes:
        splits: `[M, J, ΣX_k]`; J is the most that any configuration has.
        weights: their chances, `[M, J]`.
    """

    splits: np.ndarray
    weights: np.ndarray


def collected(rules: Rules, listed: np.ndarray, chance: np.ndarray) -> SplitLaw:
    """The law of splits `[L, ΣX_k]` with chances `[L]`, listed in any order and several times."""
    group = counts_place(rules, rules.counted(listed))
    both, where = np.unique(
        np.concatenate([group[:, None], listed], axis=1), axis=0, return_inverse=True
    )
    weights = np.bincount(where.reshape(-1), chance)
    begins = np.searchsorted(both[:, 0], np.arange(rules.num_counts))
    number = np.arange(len(both)) - begins[both[:, 0]]
    splits = np.zeros((rules.num_counts, number.max() + 1, listed.shape[1]), np.int64)
    law = np.zeros(splits.shape[:2])
    splits[both[:, 0], number], law[both[:, 0], number] = both[:, 1:], weights
    return SplitLaw(splits, law)


@runtime_checkable
class KnownLaw(Protocol):
    """A policy that says what it does in every configuration: `PriorityPolicy`, .."""

    def law(self, rules: Rules, /) -> SplitLaw:
        """The law of the split in every configuration."""
        ...


def split_law(rules: Rules, policy: CountsPolicy | SplitLaw) -> SplitLaw:
    """The policy in every configuration, in the order of `all_counts`.

    Raises:
        ValueError: for a split that does not split the counts, or breaks a budget, with the place.
    """
    counts = all_counts(rules)
    law = policy if isinstance(policy, SplitLaw) else _asked(rules, policy, counts)
    used = law.weights > 0
    wrong = used & (rules.counted(law.splits) != counts[:, None]).any(-1) | (law.splits < 0).any(-1)
    _refuse(rules, counts, wrong, law, "does not split the agents of each state")
    _refuse(rules, counts, used & ~rules.allowed(law.splits), law, "breaks a budget")
    off = np.abs(law.weights.sum(1) - 1) > _ROUNDED
    _refuse(rules, counts, off[:, None] & used, law, "is one of several whose chances miss 1")
    return law


def _asked(rules: Rules, policy: CountsPolicy, counts: np.ndarray) -> SplitLaw:
    """A function asked in one configuration after another."""
    found = []
    for row in counts:
        given = policy(rules.by_type(row))
        # A split begins with a row of numbers, several of them with a chance.
        several = list(given) if np.ndim(given[0][0]) == 0 else [(1.0, given)]
        parts = [np.concatenate([np.ravel(part) for part in split]) for _, split in several]
        if any(len(part) != len(rules.costs) for part in parts):
            raise ValueError(
                f"policy: wanted splits of shapes {[list(size) for size in rules.sizes]}, one a "
                f"type, in {_shown(rules, row)}"
            )
        found.append((np.stack(parts), np.array([chance for chance, _ in several], float)))
    most = max(len(weights) for _, weights in found)
    splits = np.zeros((len(counts), most, len(rules.costs)), np.int64)
    chances = np.zeros((len(counts), most))
    for m, (parts, weights) in enumerate(found):
        if (parts != np.round(parts)).any():
            raise ValueError(f"policy: splits no whole agents in {_shown(rules, counts[m])}")
        splits[m, : len(parts)], chances[m, : len(parts)] = parts, weights
    return SplitLaw(splits, chances)


def _refuse(rules: Rules, counts: np.ndarray, wrong: np.ndarray, law: SplitLaw, why: str) -> None:
    if wrong.any():
        m, j = np.argwhere(wrong)[0]
        split = [part.tolist() for part in rules.pairs_by_type(law.splits[m, j])]
        raise ValueError(f"policy: in {_shown(rules, counts[m])} the split {split} {why}")


def _shown(rules: Rules, counts: np.ndarray) -> str:
    return f"configuration {[part.tolist() for part in rules.by_type(counts)]}"


def check_fits(rules: Rules, needed: Callable[[Rules], int], memory: int | None, what: str) -> None:
    """Raise before allocation if `needed(rules)` bytes exceed `memory`, with the N that fits."""
    limit = device_memory() if memory is None else memory
    if needed(rules) <= limit:
        return
    total = sum(rules.counts)

    def scaled(num_agents: int) -> Rules:
        return rules._replace(
            counts=tuple(max(1, round(n * num_agents / total)) for n in rules.counts)
        )

    fits, beyond = 0, total
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if needed(scaled(middle)) <= limit else (fits, middle)
    raise ValueError(
        f"counts: {what} of {list(rules.counts)} agents has {rules.num_counts} configurations and "
        f"needs {needed(rules)} bytes, of {limit}; the largest num_agents that fits, types in the "
        f"same shares, is {fits}"
    )
