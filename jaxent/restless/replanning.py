r"""Policies that plan anew in every configuration: the first step of a program of a few steps.

From m agents in each state, let $y_t(s, a)$ be how many are to take action a in state s at step t.
The program over H steps is

$$\max \sum_{t < H} \gamma^t \sum_{s, a} y_t(s, a) r(s, a) + \gamma^H \sum_{s'} m_H(s') V(s'),$$
$$\sum_a y_0(s, a) = m(s), \quad \sum_a y_{t + 1}(s', a) = \sum_{s, a} y_t(s, a) P(s' | s, a),$$

with every budget kept at every step, $m_H$ being who is where at its end. Only its first step is
taken; the next configuration has a program of its own. Agents are not divisible, so the first step
is rounded: with one uniform number for all states each amount becomes one of the two whole numbers
next to it, its mean being the amount. Where that breaks a budget the nearest whole split that keeps
all of them is taken, by an integer program.

With V = 0 these are the policies of the papers. With V what an agent is worth on its own at the
prices of the resources (`fluid_policy`) what is not planned is valued, and a short horizon does.

References:
    Gast, Gaujal and Yan (2024), Reoptimization nearly solves weakly coupled Markov decision
    processes; Gast and Narasimha (2024), Model predictive control is almost optimal for restless
    bandits; Brown and Zhang (2023), Fluid policies, reoptimization, and performance guarantees in
    dynamic resource allocation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_positive_int, check_shape
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from .fluid import Data, best_average, best_values, fluid_policy, known_data
from .plans import Programs, key_of
from .splits import Rules, SplitLaw, all_counts

Array = jax.Array
Values = Sequence[ArrayLike | Sequence[float]]

# The discount that stands for none in the relative values of an agent.
_UNDISCOUNTED = 1 - 1e-5


@reads("a plan worth {0.value:.9g}")
class Plan(NamedTuple):
    """What the program says in one configuration.

    Attributes:
        value: its largest value, with what is left at its end.
        occupancy: its first step: how many agents of each type and state take each action, not
            rounded, `[S_k, A_k]` each.
        unique: whether no other plan is as good: otherwise the first step is one of several.
    """

    value: float
    occupancy: tuple[np.ndarray, ...]
    unique: bool


@reads("the first step of a plan of {0.programs.horizon} steps")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReplanningPolicy:
    """The first step of a program that is solved in every configuration anew.

    Attributes:
        programs: the programs of the population, which differ in the counts alone. Static.
    """

    programs: Programs = field(metadata={"static": True})

    def draw(self, key: Array, counts: Sequence[Array]) -> tuple[Array, ...]:
        """A split of the counts of each type, `[S_k, A_k]` each; solved on the host."""
        rules = self.programs.rules
        at = jnp.concatenate([jnp.asarray(part, jnp.int32) for part in counts])
        split = jax.pure_callback(
            self.programs.drawn,
            jax.ShapeDtypeStruct((len(rules.costs),), np.dtype(np.int32)),
            at,
            jax.random.uniform(key),
            vmap_method="sequential",
        )
        ends = np.cumsum([S * A for S, A in rules.sizes])[:-1]
        parts = zip(jnp.split(split, ends), rules.sizes, strict=True)
        return tuple(part.reshape(size) for part, size in parts)

    def plan(self, counts: Sequence[ArrayLike | Sequence[int]]) -> Plan:
        """The program of counts `[S_k]` of each type, which must be known.

        Raises:
            ValueError: for counts that are not those of the population, or where no plan keeps the
                budgets.
        """
        rules = self.programs.rules
        found = self.programs.first_step(key_of(_check_counts(counts, rules)))
        return Plan(found.value, rules.pairs_by_type(found.amounts), found.unique)

    def law(self, rules: Rules) -> SplitLaw:
        """The law of the split in every configuration, a program each."""
        mine = self.programs.rules
        if rules.sizes != mine.sizes or rules.counts != mine.counts:
            raise ValueError("policy: plans for another population")
        found = [self.programs.splits(key_of(row)) for row in all_counts(rules)]
        most = max(len(weights) for _, weights in found)
        splits = np.zeros((len(found), most, len(rules.costs)), np.int64)
        chances = np.zeros((len(found), most))
        for m, (parts, weights) in enumerate(found):
            splits[m, : len(parts)], chances[m, : len(parts)] = parts, weights
        return SplitLaw(splits, chances)


def _check_counts(counts: Sequence[ArrayLike | Sequence[int]], rules: Rules) -> np.ndarray:
    """Counts as one row, `[ΣS_k]`; a ValueError names bad ones."""
    if len(counts) != len(rules.sizes):
        raise ValueError(f"counts: wanted agents per state of each of {len(rules.sizes)} types")
    parts = []
    for k, (part, n, (S, _)) in enumerate(zip(counts, rules.counts, rules.sizes, strict=True)):
        check_shape(f"counts[{k}]", part, (S,))
        agents = np.asarray(part)
        if (agents < 0).any() or (agents != np.round(agents)).any() or agents.sum() != n:
            raise ValueError(
                f"counts[{k}]: {agents.tolist()} are not whole agents that sum to {n}, as the "
                "population has"
            )
        parts.append(agents.astype(np.int64))
    return np.concatenate(parts)


def lp_update_policy(
    population: RestlessBandit | WeaklyCoupledPopulation,
    *,
    horizon: int = 10,
    terminal: Values | None = None,
) -> ReplanningPolicy:
    r"""Plan a few steps for the discounted reward, act by the first, plan again.

    The program of the module's head with the discount of the population. A step of a simulation
    costs one linear program or two, on the host: 5 to 10 ms for a bandit of 4 states with a horizon
    of 10, 20 ms with 50, half a second for 3 types of 20 states and 3 actions; configurations met
    again cost nothing. An exact chain solves one in every configuration.

    Args:
        population: or a `RestlessBandit`; all its values must be known.
        horizon: H, steps planned, at least 1.
        terminal: V, what an agent of each type and state is worth when the plan ends, `[S_k]` each.
            If not given, its best discounted value on its own at the prices of the relaxation, with
            its share of the budgets' worth: `plan(counts).value` is then an upper bound for every
            policy from there. The papers take 0, which wants a long horizon.

    Returns:
        A policy for `exchangeable_chain` and `simulate_population`. The program may have several
        solutions (`plan(counts).unique`); the solver's is taken, the same one each time.

    Raises:
        ValueError: for a bad population, horizon or terminal. A configuration in which no plan or
            no whole split keeps the budgets is named when it is met.

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> policy = jaxent.lp_update_policy(bandit, horizon=5)
        >>> plan = policy.plan([(2, 1, 1, 1)])
        >>> best = jaxent.optimal_policy(bandit, start=[(2, 1, 1, 1)])
        >>> print(f"{best.value:.4f} <= {plan.value:.4f}")
        -0.1750 <= -0.1000

    References:
        Gast, Gaujal and Yan (2024), Reoptimization nearly solves weakly coupled Markov decision
        processes; Brown and Zhang (2023).
    """
    data, checked = _known(population, horizon)
    discount = data.discount
    if terminal is None:
        # Prices from where the agents are in the long run.
        often = [y.sum(1) for y in fluid_policy(checked).occupancy]
        start = [n * m / m.sum() for n, m in zip(data.counts, often, strict=True)]
        prices = fluid_policy(checked, start=start).prices
        worth = prices @ data.limits / (1 - discount) / data.counts.sum()
        values = [worth + best_values(*alone, discount) for alone in _alone(data, prices)]
    else:
        values = _check_terminal(terminal, data)
    return ReplanningPolicy(Programs(checked, data, horizon, discount, values))


def mpc_policy(
    population: RestlessBandit | WeaklyCoupledPopulation,
    *,
    horizon: int = 10,
    terminal: Values | None = None,
) -> ReplanningPolicy:
    r"""Plan a few steps for the average reward, act by the first, plan again.

    The program of the module's head without a discount. It costs what `lp_update_policy` does.

    Args:
        population: or a `RestlessBandit`; all its values must be known.
        horizon: H, steps planned, at least 1.
        terminal: V, what an agent of each type and state is worth when the plan ends, `[S_k]` each.
            If not given, its relative value on its own at the prices of the relaxation (that of a
            discount of 0.99999). The paper takes 0, which wants a long horizon.

    Returns:
        A policy for `exchangeable_chain` and `simulate_population`, as of `lp_update_policy`.

    Raises:
        ValueError: for a bad population, horizon or terminal. A configuration in which no plan or
            no whole split keeps the budgets is named when it is met.

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> chain = jaxent.exchangeable_chain(bandit, jaxent.mpc_policy(bandit, horizon=4))
        >>> earned = jaxent.stationary_distribution(chain) @ chain.lift([bandit.reward])
        >>> best = jaxent.optimal_policy(bandit)
        >>> bool(0.9 * best.value < earned <= best.value)
        True

    References:
        Gast and Narasimha (2024).
    """
    data, checked = _known(population, horizon)
    if terminal is None:
        values = []
        for kernel, left in _alone(data, fluid_policy(checked).prices):
            values.append(best_values(kernel, left - best_average(kernel, left), _UNDISCOUNTED))
    else:
        values = _check_terminal(terminal, data)
    return ReplanningPolicy(Programs(checked, data, horizon, 1.0, values))


def _known(
    population: RestlessBandit | WeaklyCoupledPopulation, horizon: int
) -> tuple[Data, WeaklyCoupledPopulation]:
    check_positive_int("horizon", horizon)
    return known_data(population), as_population(population)


def _alone(data: Data, prices: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel `[S, A, S]` and reward less what the resources cost `[S, A]`, of each type."""
    pairs = zip(data.kernels, data.rewards, data.costs, data.sizes, strict=True)
    return [(P.reshape(*size, -1), (r - d @ prices).reshape(size)) for P, r, d, size in pairs]


def _check_terminal(terminal: Values, data: Data) -> list[np.ndarray]:
    if len(terminal) != len(data.sizes):
        raise ValueError(
            f"terminal: wanted values of the states of each of {len(data.sizes)} types"
        )
    for k, (S, _) in enumerate(data.sizes):
        check_shape(f"terminal[{k}]", terminal[k], (S,))
        check_finite(f"terminal[{k}]", terminal[k])
    return [np.asarray(values, np.float64) for values in terminal]
