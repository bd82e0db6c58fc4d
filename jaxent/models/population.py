r"""Populations of any kind: several types of agents, several actions, several resources (Def. 11).

$n_k$ agents of type k are alike: one `MDP` with states 0..S_k - 1, actions 0..A_k - 1, and what
each action uses of K resources, $d_k(s, a) \in \mathbb{R}^K$. At every step

$$\sum_k \sum_{i \text{ of type } k} d_k(s_i, a_i) \le b \quad\text{(or } = b\text{)}.$$

Agents of a type are exchangeable, so that the counts of each type are all that matters. A
`RestlessBandit` is the case of one type, two actions and one budget that is spent exactly. Inside,
the types stand one after another: a state is a row of all states of all types, `[ΣS_k]`, a pair
one of all pairs, `[ΣS_k A_k]`, so that types of different sizes need no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite, check_shape, concrete
from .._reads import reads
from ..numerics.arrays import takes_arrays
from .contracts import ArrayLike, Scalar
from .mdp import MDP, check_agent
from .restless_bandit import RestlessBandit, check_bandit
from .weakly_coupled import Coupling, WeaklyCoupledMDP

Array = jax.Array

# A budget may be missed by this share of it: sums of costs are rounded.
_ROUNDING = 1e-9
# Corners of the configurations at which several budgets are looked at together.
_CORNERS = 64


@takes_arrays("costs")
@reads("agents that are all alike")
class AgentType(NamedTuple):
    r"""Agents that are all alike.

    Attributes:
        mdp: one of them.
        costs: $d(s, a)$, what action a in state s uses of each resource, `[S, A, K]`.
    """

    mdp: MDP
    costs: ArrayLike


@reads("{0.limit} of one resource at every step")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Budget:
    r"""What there is of one resource at every step.

    Attributes:
        limit: b, in the unit of the costs.
        per_agent: whether `limit` is for each agent of the population: the budget is N times it.
            Static.
        equality: whether it must be spent exactly; otherwise no more than that. Static.
    """

    limit: Scalar
    per_agent: bool = field(default=False, metadata={"static": True})
    equality: bool = field(default=False, metadata={"static": True})


@reads("agents of several types that share resources, discount {0.discount}")
@jax.tree_util.register_dataclass
@dataclass(frozen=True, init=False)
class WeaklyCoupledPopulation:
    r"""Agents of several types that share resources (Chen and Peng, Def. 11).

    Attributes:
        types: one `AgentType` each, or a pair `(mdp, costs)`; states, actions, kernels, rewards
            and costs may differ.
        counts: $n_k$, agents of each type, at least one. They may be traced where only counts are
            simulated.
        budgets: K of them, each a `Budget` or a number, which is a limit that may not be exceeded.
        discount: $\gamma$ in [0, 1).

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> population = jaxent.WeaklyCoupledPopulation.from_bandit(bandit)
        >>> population.counts, population.sizes, population.budgets[0].equality
        ((5,), ((4, 2),), True)
    """

    types: tuple[AgentType, ...]
    counts: tuple[Any, ...]
    budgets: tuple[Budget, ...]
    discount: Scalar

    def __init__(
        self,
        types: Sequence[AgentType | tuple[MDP, ArrayLike]],
        counts: Sequence[Scalar],
        budgets: Sequence[Budget | Scalar],
        discount: Scalar,
    ) -> None:
        """Take lists, pairs and plain numbers; what is none of these is left to `check`."""
        given = {"types": types, "counts": counts, "budgets": budgets, "discount": discount}
        for name, convert in (("types", _as_type), ("counts", _as_number), ("budgets", as_budget)):
            if isinstance(given[name], (list, tuple, np.ndarray)):
                given[name] = tuple(map(convert, given[name]))
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_bandit(cls, bandit: RestlessBandit) -> "WeaklyCoupledPopulation":
        """A restless bandit as a population: acting costs 1, and exactly M act.

        Raises:
            ValueError: for a bad bandit.
        """
        check_bandit(bandit)
        num_states = bandit.num_states
        costs = np.zeros((num_states, 2, 1), jnp.result_type(bandit.kernel))
        costs[:, 1] = 1
        # Costs stay NumPy's: what fixes who may act is known inside a trace as well.
        reward: Any = bandit.reward
        kind = AgentType(MDP(bandit.kernel, reward), costs)
        budget = Budget(bandit.budget, equality=True)
        return cls((kind,), (bandit.num_agents,), (budget,), bandit.discount)

    @property
    def num_agents(self) -> Any:
        """N."""
        return sum(self.counts)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(S_k, A_k) of each type."""
        return tuple((kind.mdp.num_states, kind.mdp.num_actions) for kind in self.types)

    @property
    def limits(self) -> tuple[Any, ...]:
        """b: what may be used of each resource at a step, by the whole population, `[K]`."""
        return tuple(
            budget.limit * self.num_agents if budget.per_agent else budget.limit
            for budget in self.budgets
        )

    def joint(self) -> WeaklyCoupledMDP:
        """The same agents one by one, those of type 0 first; for few of them."""
        agents = [
            kind.mdp for kind, n in zip(self.types, self.counts, strict=True) for _ in range(int(n))
        ]
        couplings = []
        for k, (budget, limit) in enumerate(zip(self.budgets, self.limits, strict=True)):
            costs = tuple(
                jnp.asarray(kind.costs)[..., k]
                for kind, n in zip(self.types, self.counts, strict=True)
                for _ in range(int(n))
            )
            slack = _ROUNDING * abs(limit)
            couplings.append(Coupling(costs, limit + slack))
            if budget.equality:
                couplings.append(Coupling(tuple(-cost for cost in costs), slack - limit))
        return WeaklyCoupledMDP(tuple(agents), self.discount, tuple(couplings))

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such population.

        Values are looked at outside a trace. Budgets must be kept wherever the agents are. For each
        budget alone that is decided; several together are looked at where all agents of a type are
        in one state, as long as there are few such configurations. `optimal_policy` and
        `exchangeable_chain` look at every configuration.
        """
        if not isinstance(self.types, tuple) or not self.types:
            raise ValueError("types: wanted at least one pair (mdp, costs)")
        if not isinstance(self.budgets, tuple) or not self.budgets:
            raise ValueError("budgets: wanted at least one; costs are [S, A, K] for K of them")
        for k, kind in enumerate(self.types):
            if not isinstance(kind, AgentType) or not isinstance(kind.mdp, MDP):
                raise ValueError(f"types[{k}]: {type(kind).__name__} is not a pair (MDP, costs)")
            check_agent(f"types[{k}].mdp.", kind.mdp)
            shape = (*np.shape(kind.mdp.reward), len(self.budgets))
            check_shape(f"types[{k}].costs", kind.costs, shape)
            check_finite(f"types[{k}].costs", kind.costs)
        check_discount(self.discount)
        self._check_counts()
        for k, budget in enumerate(self.budgets):
            check_shape(f"budgets[{k}].limit", budget.limit, ())
            check_finite(f"budgets[{k}].limit", budget.limit)
        if concrete(self):
            _check_each_budget(self)
            _check_budgets_together(self)

    def _check_counts(self) -> None:
        if not isinstance(self.counts, tuple) or len(self.counts) != len(self.types):
            raise ValueError(f"counts: wanted one for each of {len(self.types)} types")
        for k, count in enumerate(self.counts):
            check_shape(f"counts[{k}]", count, ())
            if not concrete(count):
                continue
            if not float(count).is_integer() or count < 0:
                raise ValueError(f"counts[{k}]: {count} is not a whole number of agents")
            if count == 0:
                raise ValueError(f"counts[{k}]: type {k} has no agents; leave it out of types")


def as_population(model: object, name: str = "population") -> WeaklyCoupledPopulation:
    """The population that a model is, checked; a ValueError says what would be one."""
    if isinstance(model, RestlessBandit):
        model = WeaklyCoupledPopulation.from_bandit(model)
    if not isinstance(model, WeaklyCoupledPopulation):
        raise ValueError(
            f"{name}: {type(model).__name__} is neither a WeaklyCoupledPopulation nor a "
            "RestlessBandit"
        )
    model.check()
    return model


def _as_type(given: Any) -> Any:
    if not isinstance(given, tuple) or isinstance(given, (AgentType, MDP)) or len(given) != 2:
        return given
    mdp, costs = given
    return AgentType(mdp, costs)


def _as_number(given: Any) -> Any:
    return given.item() if isinstance(given, np.generic) else given


def as_budget(given: Any) -> Any:
    """A budget of a number, which is a limit; leaves of any kind pass: JAX makes trees of them."""
    return given if isinstance(given, Budget) or given is None else Budget(given)


def _known(population: WeaklyCoupledPopulation) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Costs `[S_k, A_k, K]`, counts `[T]` and limits `[K]` in NumPy."""
    costs = [np.asarray(kind.costs, np.float64) for kind in population.types]
    limits = np.array([float(limit) for limit in population.limits])
    return costs, np.array([int(n) for n in population.counts]), limits


def _check_each_budget(population: WeaklyCoupledPopulation) -> None:
    """Is the least that must be spent in the dearest configuration within each budget?"""
    costs, counts, limits = _known(population)
    for k, (budget, limit) in enumerate(zip(population.budgets, limits, strict=True)):
        least = [cost[..., k].min(1) for cost in costs]  # [S_k]
        most = [cost[..., k].max(1) for cost in costs]
        slack = _ROUNDING * max(abs(limit), counts @ [np.abs(c[..., k]).max() for c in costs])
        spent = counts @ [x.max() for x in least]
        if spent > limit + slack:
            raise ValueError(
                f"budgets[{k}]: {limit:.6g} cannot be kept: with all agents of "
                f"{_where([x.argmax() for x in least])} at least {spent:.6g} is used; raise it, or "
                "give these states a cheaper action"
            )
        spent = counts @ [x.min() for x in most]
        if budget.equality and spent < limit - slack:
            raise ValueError(
                f"budgets[{k}]: {limit:.6g} cannot be spent exactly: with all agents of "
                f"{_where([x.argmin() for x in most])} at most {spent:.6g} is used; lower it, or "
                "let it be a limit (equality=False)"
            )


def _check_budgets_together(population: WeaklyCoupledPopulation) -> None:
    """Can all budgets be kept at once, agents being divisible, wherever the agents are?

    By how much they must be missed is convex in the configuration, so it is largest at a corner:
    all agents of a type in one state.
    """
    costs, counts, limits = _known(population)
    exact = np.array([budget.equality for budget in population.budgets])
    if len(limits) == 1 or prod(len(cost) for cost in costs) > _CORNERS:
        return
    if not exact.any() and all((c == c.min(1, keepdims=True)).all(2).any(1).all() for c in costs):
        return  # one action is the cheapest in all that it uses
    from scipy.optimize import linprog

    unit = np.array([max(np.abs(c[..., k]).max() for c in costs) for k in range(len(limits))])
    unit = np.where(unit > 0, unit, 1) * counts.sum()
    for states in product(*(range(len(cost)) for cost in costs)):
        used = [n * c[s] / unit for n, c, s in zip(counts, costs, states, strict=True)]
        rows = np.concatenate(used).T  # [K, ΣA_k]
        member = np.repeat(np.eye(len(costs)), [len(u) for u in used], axis=1)
        over, right = np.concatenate([rows, -rows[exact]]), limits / unit
        ones, bound = np.ones((len(over), 1)), np.concatenate([right, -right[exact]])
        found = linprog(
            np.append(np.zeros(rows.shape[1]), 1.0),
            A_ub=np.hstack([over, -ones]),
            b_ub=bound,
            A_eq=np.hstack([member, np.zeros((len(costs), 1))]),
            b_eq=np.ones(len(costs)),
        )
        if found.status == 0 and found.fun > 10 * _ROUNDING:
            raise ValueError(
                f"budgets: cannot all be kept at once: not with all agents of {_where(states)}"
            )


def _where(states: Sequence[Any]) -> str:
    return ", ".join(f"type {k} in state {int(s)}" for k, s in enumerate(states))
