r"""One agent on its own: `MDP`, states 0..S-1, actions 0..A-1, P(s'|s, a) and r(s, a)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_shape, check_stochastic
from .._reads import reads
from ..numerics.arrays import as_float, takes_arrays
from .contracts import ArrayLike
from .layouts import FactorLayout, FactorView
from .parts import DenseKernel, TablePolicy, product_parts
from .policies import check_table

Array = jax.Array


@takes_arrays("transition", "reward")
@reads("{0.reward.shape[0]} states, {0.reward.shape[1]} actions")
class MDP(NamedTuple):
    r"""One agent.

    Attributes:
        transition: $P(s' \mid s, a)$, `[S, A, S]`.
        reward: $r(s, a)$, `[S, A]`.
    """

    transition: Array
    reward: Array

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[-2]

    @property
    def policy_shape(self) -> tuple[int, int]:
        """(S, A)."""
        return self.num_states, self.num_actions

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no MDP."""
        check_agent("", self)

    def check_policy(self, policy: ArrayLike) -> None:
        """Raise a ValueError unless this is a table `[S, A]` of probabilities."""
        check_table(policy, (self.num_states,), (self.num_actions,))

    def parts(self, policy: ArrayLike) -> tuple[DenseKernel, TablePolicy, FactorLayout]:
        """K is the kernel by pair, `[S A, S]`."""
        P = as_float(self.transition)
        return product_parts(DenseKernel(P.reshape(-1, P.shape[-1])), as_float(policy))

    def feasible(self) -> Array:
        """Every action may be taken."""
        return jnp.array(True)

    def local_shapes(self) -> tuple[tuple[int, int], ...]:
        """(S, A) of the one agent."""
        return (self.policy_shape,)

    def join(self, tables: Sequence[Array]) -> Array:
        """The one table."""
        return tables[0]

    def policy_view(self, agent: int) -> FactorView:
        """The state."""
        return FactorView((agent,), (self.num_states,))


def check_agent(prefix: str, mdp: MDP) -> None:
    """Raise unless this is one agent; `prefix` says where it stands."""
    check_shape(f"{prefix}transition", mdp.transition, (None, None, None))
    num_states, num_actions = np.shape(mdp.transition)[:2]
    check_shape(f"{prefix}transition", mdp.transition, (num_states, num_actions, num_states))
    check_shape(f"{prefix}reward", mdp.reward, (num_states, num_actions))
    check_stochastic(f"{prefix}transition", mdp.transition)
    check_finite(f"{prefix}reward", mdp.reward)
