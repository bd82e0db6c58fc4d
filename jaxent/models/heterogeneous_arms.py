r"""Arms that all differ and share resources: as many kernels as arms, 100,000 of them and more.

Arm i has $P_i(s' | s, a)$, $r_i(s, a)$ and $d_i(s, a) \in \mathbb{R}^K$, and at every step

$$\sum_i d_i(s_i, a_i) \le b \quad\text{(or } = b\text{)}.$$

It is the population of Def. 11 with one agent a type, as arrays over arms. Arms with fewer states
than S are padded by states that nothing enters, those with fewer actions by copies of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._checks import check_finite, check_shape, check_stochastic, concrete
from .._reads import reads
from ..numerics.arrays import takes_arrays
from .contracts import ArrayLike, Scalar
from .mdp import MDP
from .population import AgentType, Budget, WeaklyCoupledPopulation, as_budget

Array = jax.Array

# A budget may be missed by this share of it: sums of costs are rounded.
_ROUNDING = 1e-9


@takes_arrays("kernel", "reward", "costs")
@reads("{0.num_arms} arms that all differ")
@jax.tree_util.register_dataclass
@dataclass(frozen=True, init=False)
class HeterogeneousArms:
    r"""Arms that all differ and share resources (Chen and Peng, Def. 11).

    Attributes:
        kernel: $P_i(s' | s, a)$, `[N, S, A, S]`.
        reward: $r_i(s, a)$, `[N, S, A]`.
        costs: $d_i(s, a)$, what is used of each resource, `[N, S, A, K]`.
        budgets: K of them, each a `Budget` or a number, which is a limit that may not be exceeded.

    Examples:
        >>> import jaxent
        >>> import numpy as np
        >>> kernel = np.random.default_rng(0).dirichlet(np.ones(3), (5, 3, 2))
        >>> costs = np.stack([np.zeros((5, 3)), np.ones((5, 3))], axis=2)[..., None]
        >>> arms = jaxent.HeterogeneousArms(kernel, costs[..., 0], costs, [jaxent.Budget(2)])
        >>> print(arms.num_arms, jaxent.arms_relaxation(arms).upper)
        5 2.0
    """

    kernel: ArrayLike
    reward: ArrayLike
    costs: ArrayLike
    budgets: tuple[Budget, ...]

    def __init__(
        self,
        kernel: ArrayLike,
        reward: ArrayLike,
        costs: ArrayLike,
        budgets: Sequence[Budget | Scalar],
    ) -> None:
        """Take lists and plain numbers as budgets; what is neither is left to `check`."""
        given: Any = budgets
        if isinstance(given, (list, tuple, np.ndarray)):
            given = tuple(map(as_budget, given))
        values = {"kernel": kernel, "reward": reward, "costs": costs, "budgets": given}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_arms(self) -> int:
        """N."""
        return np.shape(self.kernel)[0]

    @property
    def num_states(self) -> int:
        """S."""
        return np.shape(self.kernel)[1]

    @property
    def num_actions(self) -> int:
        """A."""
        return np.shape(self.kernel)[2]

    @property
    def limits(self) -> tuple[Any, ...]:
        """b, what may be used of each resource at a step by all arms, `[K]`."""
        return tuple(
            budget.limit * self.num_arms if budget.per_agent else budget.limit
            for budget in self.budgets
        )

    def population(self, discount: Scalar) -> WeaklyCoupledPopulation:
        """The same arms as types of one agent each, for few of them."""
        types = [
            AgentType(MDP(P, r), d)
            for P, r, d in zip(self.kernel, self.reward, self.costs, strict=True)
        ]
        return WeaklyCoupledPopulation(types, [1] * len(types), self.budgets, discount)

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model.

        Outside a trace values are looked at too: each budget must be kept, and met where it must
        be, in whatever states the arms are.
        """
        check_shape("kernel", self.kernel, (None, None, None, None))
        N, S, A, _ = np.shape(self.kernel)
        check_shape("kernel", self.kernel, (N, S, A, S))
        if min(N, S, A) == 0:
            raise ValueError(f"kernel: there is nothing in an array of shape {[N, S, A, S]}")
        check_shape("reward", self.reward, (N, S, A))
        if not isinstance(self.budgets, tuple) or not self.budgets:
            raise ValueError("budgets: wanted at least one; costs are [N, S, A, K] for K of them")
        check_shape("costs", self.costs, (N, S, A, len(self.budgets)))
        for k, budget in enumerate(self.budgets):
            if not isinstance(budget, Budget):
                raise ValueError(f"budgets[{k}]: {type(budget).__name__} is no Budget or number")
            check_shape(f"budgets[{k}].limit", budget.limit, ())
            check_finite(f"budgets[{k}].limit", budget.limit)
        check_stochastic("kernel", self.kernel)
        check_finite("reward", self.reward)
        check_finite("costs", self.costs)
        if concrete(self.costs, self.budgets):
            self._check_budgets()

    def _check_budgets(self) -> None:
        """Is the least that must be used in the dearest states within each budget?"""
        for k, (budget, limit) in enumerate(zip(self.budgets, self.limits, strict=True)):
            cost, limit = np.asarray(self.costs, np.float64)[..., k], float(limit)
            slack = _ROUNDING * max(abs(limit), np.abs(cost).max((1, 2)).sum())
            least = cost.min(2).max(1).sum()
            if least > limit + slack:
                raise ValueError(
                    f"budgets[{k}]: {limit:.6g} cannot be kept: in the dearest states the cheapest "
                    f"actions of all arms use {least:.6g}; raise it, or give them a cheaper action"
                )
            most = cost.max(2).min(1).sum()
            if budget.equality and most < limit - slack:
                raise ValueError(
                    f"budgets[{k}]: {limit:.6g} cannot be spent exactly: in the cheapest states "
                    f"the dearest actions of all arms use {most:.6g}; lower it, or let it be a "
                    "limit (equality=False)"
                )
