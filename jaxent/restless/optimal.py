r"""The true optimum of a small population, by dynamic programming on configurations.

Agents of a type are exchangeable, so the best policy needs to know their counts alone: the states
of the program are the configurations n, its actions the splits y of n that keep the budgets,

    V(n) = max_y Σ_x y(x) r(x) + discount E[V(n') | y],

and given y the types move independently: E is a Kronecker product of the laws of each type's next
counts by pair counts. All splits of all configurations are looked at, so it is for few agents; what
simulations compare with, the fluid bound, is above it.

References:
    Puterman (1994), Markov Decision Processes, Secs. 6.4 and 8.5 (policy iteration; relative value
    iteration with its bracket of the gain).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from .fluid import Data, Start, check_start, known_data
from .next_counts import configuration_index, configurations, num_configurations
from .splits import Rules, SplitLaw, all_splits, check_fits, counts_place, rules_of

# Relative value iteration moves by this much of a step, so that a period does no harm.
_DAMPING = 0.9
# Changes of policy that policy iteration may need.
_CHANGES = 1000


@reads("the best policy earns {0.value:.9g}, between {0.lower:.9g} and {0.upper:.9g}")
class OptimalPolicy(NamedTuple):
    """The best policy of a population, which goes by counts; it can be called with them.

    Attributes:
        value: its reward, of the whole population: a step on average, or discounted from the start.
        lower: at most the optimum.
        upper: at least the optimum.
        values: discounted values of the configurations, or relative ones, `[M]`, in the order of
            the product of `configurations` of each type, type 0 slowest.
        splits: how many agents of each type and state take each action, `[M, ΣS_k A_k]`.
        rules: what the splits keep.
        num_steps: of the iteration.
        converged: whether the bracket is as narrow as was asked.
    """

    value: float
    lower: float
    upper: float
    values: np.ndarray
    splits: np.ndarray
    rules: Rules
    num_steps: int
    converged: bool

    def __call__(self, counts: Sequence[ArrayLike | Sequence[int]]) -> tuple[np.ndarray, ...]:
        """The split `[S_k, A_k]` of each type of the counts `[S_k]`."""
        place = counts_place(self.rules, np.concatenate([np.asarray(part) for part in counts]))
        return self.rules.pairs_by_type(self.splits[place])

    def law(self, rules: Rules) -> SplitLaw:
        """The split in every configuration of a population of the same rules."""
        if rules.sizes != self.rules.sizes or rules.counts != self.rules.counts:
            raise ValueError("policy: is the optimal one of another population")
        return SplitLaw(self.splits[:, None], np.ones((len(self.splits), 1)))


class _Choices(NamedTuple):
    """Allowed splits, those of one configuration next to each other.

    Attributes:
        splits: `[Y, ΣX_k]`.
        first: of each configuration, `[M]`.
        group: configuration of each, `[Y]`.
        place: among all splits, `[Y]`.
        reward: `[Y]`.
        laws: of each type's next counts by its pair counts, `[Y_k, C_k]`.
    """

    splits: np.ndarray
    first: np.ndarray
    group: np.ndarray
    place: np.ndarray
    reward: np.ndarray
    laws: list[np.ndarray]

    def ahead(self, values: np.ndarray) -> np.ndarray:
        """E[V(n')] of each split, `[Y]`."""
        V = values.reshape([law.shape[1] for law in self.laws])
        for law in self.laws:
            V = np.tensordot(V, law, axes=(0, 1))  # each axis in turn goes to the end
        return V.reshape(-1)[self.place]

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """The law of the next configuration of some splits, `[m, M]`."""
        of_type = np.unravel_index(self.place[chosen], [len(law) for law in self.laws])
        rows = np.ones((len(chosen), 1))
        for law, index in zip(self.laws, of_type, strict=True):
            rows = (rows[:, :, None] * law[index][:, None]).reshape(len(chosen), -1)
        return rows

    def best(self, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest of each configuration, and where it is, `[M]` each."""
        top = np.maximum.reduceat(Q, self.first)
        at = np.flatnonzero(top[self.group] == Q)
        return top, at[np.unique(self.group[at], return_index=True)[1]]


def optimal_policy(
    population: RestlessBandit | WeaklyCoupledPopulation,
    *,
    start: Start | None = None,
    tol: float = 1e-9,
    max_steps: int = 100_000,
    memory: int | None = None,
) -> OptimalPolicy:
    """The best policy of a small population, exact, and what it earns.

    Args:
        population: or a `RestlessBandit`.
        start: agents per state of each type, whole ones, for the discounted reward from there (by
            policy iteration); without it the average reward is meant (by relative value iteration).
        tol: gap to certify of the average, as a share of the spread of rewards.
        max_steps: of relative value iteration, at most.
        memory: bytes it may take; by default what the device has.

    Returns:
        The optimum with its bracket, and the policy, which `exchangeable_chain` takes as well.
        Without convergence the bracket still holds; a chain that falls into parts with different
        averages has no single one, and does not converge.

    Raises:
        ValueError: for a bad population or start, for a configuration in which no split keeps the
            budgets, naming it, and before anything is allocated if it does not fit.

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> best = jaxent.optimal_policy(bandit)
        >>> print(f"{best.value:.4f} <= {jaxent.fluid_policy(bandit).value:.4f}")
        0.8847 <= 1.0000
        >>> best([(2, 1, 1, 1)])[0][:, 1]  # who is served
        array([0, 0, 1, 0])
    """
    data = known_data(population)
    rules = rules_of(as_population(population))
    agents = None if start is None else check_start(start, data)
    if agents is not None and any((m != np.round(m)).any() for m in agents):
        raise ValueError("start: must be of whole agents here")
    check_fits(rules, _bytes, memory, "the optimum")
    choices = _choices(data, rules)
    if agents is None:
        return _best_average(choices, rules, tol, max_steps)
    place = int(counts_place(rules, np.concatenate(agents).astype(np.int64)))
    return _best_discounted(choices, rules, data.discount, place)


def _best_discounted(choices: _Choices, rules: Rules, discount: float, place: int) -> OptimalPolicy:
    """Policy iteration, from the policy that is best for one step."""
    _, chosen = choices.best(choices.reward)
    largest = np.abs(choices.reward).max()
    eye = np.eye(len(choices.first))
    steps, settled = 0, False
    values = gain = np.zeros(len(eye))
    for _ in range(_CHANGES):
        steps += 1
        values = np.linalg.solve(eye - discount * choices.rows(chosen), choices.reward[chosen])
        Q = choices.reward + discount * choices.ahead(values)
        top, better = choices.best(Q)
        gain = top - Q[chosen]
        settled = bool((gain <= 1e-13 * (largest + np.abs(values).max())).all())
        if settled:
            break
        chosen = np.where(gain > 0, better, chosen)
    above = max(float(gain.max()), 0.0) / (1 - discount)
    value, splits = float(values[place]), choices.splits[chosen]
    return OptimalPolicy(value, value, value + above, values, splits, rules, steps, settled)


def _best_average(choices: _Choices, rules: Rules, tol: float, max_steps: int) -> OptimalPolicy:
    """Relative value iteration: the gain is between the least and the largest change."""
    spread = np.ptp(choices.reward)
    values = np.zeros(len(choices.first))
    low, high, steps, settled = -np.inf, np.inf, 0, False
    chosen = choices.first
    for _ in range(max_steps):
        steps += 1
        top, chosen = choices.best(choices.reward + choices.ahead(values))
        change = top - values
        low, high = max(low, change.min()), min(high, change.max())
        settled = bool(high - low <= tol * spread)
        if settled:
            break
        values = values + _DAMPING * change
        values = values - values[0]
    value = float(low + high) / 2
    splits = choices.splits[chosen]
    return OptimalPolicy(value, float(low), float(high), values, splits, rules, steps, settled)


def _choices(data: Data, rules: Rules) -> _Choices:
    every = all_splits(rules)
    place = np.flatnonzero(rules.allowed(every))
    splits = every[place]
    group = counts_place(rules, rules.counted(splits))
    order = np.argsort(group, kind="stable")
    splits, place, group = splits[order], place[order], group[order]
    there, first = np.unique(group, return_index=True)
    missing = np.setdiff1d(np.arange(rules.num_counts), there)
    if len(missing):
        counts = rules.counted(every)
        at = np.flatnonzero(counts_place(rules, counts) == missing[0])[0]
        shown = [part.tolist() for part in rules.by_type(counts[at])]
        raise ValueError(f"budgets: no split of configuration {shown} keeps all of them")
    laws = [next_laws(P, n) for P, n in zip(data.kernels, rules.counts, strict=True)]
    return _Choices(splits, first, group, place, splits @ np.concatenate(data.rewards), laws)


def next_laws(P: np.ndarray, num_agents: int) -> np.ndarray:
    """Law of the next counts by pair counts, of agents that move by rows of P `[X, S]`."""
    num_pairs, num_states = P.shape
    unit, state = np.eye(num_pairs, dtype=np.int64), np.eye(num_states, dtype=np.int64)
    law = np.ones((1, 1))
    for m in range(1, num_agents + 1):
        pairs, before = configurations(m, num_pairs), configurations(m - 1, num_states)
        joins = (pairs > 0).argmax(1)
        fewer = law[configuration_index(pairs - unit[joins])]
        law = np.zeros((len(pairs), num_configurations(m, num_states)))
        for t in range(num_states):
            law[:, configuration_index(before + state[t])] += P[joins, t][:, None] * fewer
    return law


def _bytes(rules: Rules) -> int:
    """What the program holds, about: all splits, the laws, and a chain on configurations."""
    splits, laws = 1, 0
    for n, (S, A) in zip(rules.counts, rules.sizes, strict=True):
        pairs: Any = num_configurations(n, S * A)
        splits *= pairs
        laws += pairs * num_configurations(n, S)
    return 8 * (splits * (3 * len(rules.costs) + 6) + laws + 4 * rules.num_counts**2)
