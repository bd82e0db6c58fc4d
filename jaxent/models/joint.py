r"""Agents with any joint kernel, P(s' | s, a)."""

from typing import NamedTuple

import jax
import numpy as np

from .._checks import check_discount, check_finite, check_shape
from .._reads import reads
from ..numerics.arrays import takes_arrays
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import FactorLayout
from .parts import DenseKernel, TablePolicy
from .product_tables import check_kernel, joint_parts

Array = jax.Array


@takes_arrays("transition", each=("rewards",))
@reads("a joint kernel with local rewards, discount {0.discount}")
class JointMDP(NamedTuple):
    r"""Agents with any joint kernel.

    Attributes:
        transition: $P(s' \mid s, a)$, `[S_0.., A_0.., S_0..]`.
        rewards: $r_i(s_i, a_i)$ of each agent, `[S_i, A_i]` each.
        discount: $\gamma$ in [0, 1).
    """

    transition: Array
    rewards: tuple[Array, ...]
    discount: Scalar

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return self.transition.shape[: len(self.rewards)]

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return self.transition.shape[len(self.rewards) : 2 * len(self.rewards)]

    policy_shape = product_tables.policy_shape
    check_policy = product_tables.check_policy
    feasible = product_tables.feasible
    local_shapes = product_tables.local_shapes
    join = product_tables.join
    policy_view = product_tables.no_policy_view

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        num_agents = len(self.rewards)
        if not num_agents or np.ndim(self.transition) != 3 * num_agents:
            raise ValueError(
                f"transition: wanted 3 axes for each of {num_agents} agents (one table in rewards "
                f"each), got shape {list(np.shape(self.transition))}"
            )
        check_kernel(self.transition, self.num_states, self.num_actions)
        for i, reward in enumerate(self.rewards):
            check_shape(f"rewards[{i}]", reward, (self.num_states[i], self.num_actions[i]))
            check_finite(f"rewards[{i}]", reward)
        check_discount(self.discount)

    def parts(self, policy: ArrayLike) -> tuple[DenseKernel, TablePolicy, FactorLayout]:
        """K is the joint kernel by joint pair."""
        return joint_parts(self, policy)
