r"""Agents with one shared reward (App. J.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite
from .._reads import reads
from ..numerics.arrays import takes_arrays
from ..numerics.kron import pair_order
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import FactorLayout
from .parts import DenseKernel, TablePolicy
from .product_tables import check_kernel, joint_parts

Array = jax.Array


@takes_arrays("transition", "reward")
@reads("one reward for all, discount {0.discount}")
class CooperativeGame(NamedTuple):
    r"""Agents with one shared reward, which need be no sum of local ones (App. J.3).

    Attributes:
        transition: $P(s' \mid s, a)$, `[S_0.., A_0.., S_0..]`.
        reward: $r(s, a)$, `[S_0.., A_0..]`.
        discount: $\gamma$ in [0, 1).
    """

    transition: Array
    reward: Array
    discount: Scalar

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return np.shape(self.reward)[: np.ndim(self.reward) // 2]

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return np.shape(self.reward)[np.ndim(self.reward) // 2 :]

    @property
    def pair_reward(self) -> Array:
        """The shared reward by joint pair, `[J]`."""
        return pair_order(jnp.asarray(self.reward)).reshape(-1)

    policy_shape = product_tables.policy_shape
    check_policy = product_tables.check_policy
    feasible = product_tables.feasible
    local_shapes = product_tables.local_shapes
    join = product_tables.join
    policy_view = product_tables.no_policy_view

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        if not np.ndim(self.reward) or np.ndim(self.reward) % 2:
            raise ValueError(
                "reward: wanted [S_0.., A_0..], two axes for each agent, got shape "
                f"{list(np.shape(self.reward))}"
            )
        check_kernel(self.transition, self.num_states, self.num_actions)
        check_finite("reward", self.reward)
        check_discount(self.discount)

    def parts(self, policy: ArrayLike) -> tuple[DenseKernel, TablePolicy, FactorLayout]:
        """K is the joint kernel by joint pair."""
        return joint_parts(self, policy)
