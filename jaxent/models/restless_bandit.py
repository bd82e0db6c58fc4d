r"""Homogeneous restless bandits (Def. 12).

N agents with states 0..S-1 and actions 0 (idle) and 1 (active), of which exactly M are active at
every step. Kernels are `[S, S]` with rows "from", rewards `[S, A]`. Its chain is that of a tagged
agent and the counts of the others: see `exchangeable_chain`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite, check_shape, check_stochastic, concrete
from .._reads import reads
from ..numerics.arrays import takes_arrays
from ..numerics.compiled import jit
from .contracts import ArrayLike, Scalar

Array = jax.Array


@takes_arrays("passive", "active", "reward")
@reads("{0.num_agents} agents of {0.reward.shape[0]} states, {0.budget} active at a time")
class RestlessBandit(NamedTuple):
    r"""Homogeneous restless bandit with a budget (Chen and Peng, Def. 12).

    Attributes:
        passive: $P(s' \mid s, a = 0)$, `[S, S]`.
        active: $P(s' \mid s, a = 1)$, `[S, S]`.
        reward: $r(s, a)$ of one agent, `[S, 2]`.
        num_agents: N. May be traced where only counts are simulated.
        budget: M, agents activated per step, 0 <= M <= N. May be traced likewise.
        discount: $\gamma$ in [0, 1).
    """

    passive: ArrayLike
    active: ArrayLike
    reward: ArrayLike
    num_agents: Any
    budget: Any
    discount: Scalar

    @property
    def num_states(self) -> int:
        """S."""
        return self.passive.shape[-1]

    @property
    def kernel(self) -> Array:
        """Both kernels as one local kernel `[S, A, S]`."""
        return _stack(self.passive, self.active)


@jit
def _stack(passive: Array, active: Array) -> Array:
    return jnp.stack([passive, active], axis=1)


def check_bandit(bandit: RestlessBandit) -> None:
    """Raise a ValueError that names the argument and the place if the bandit is not one.

    Shapes are always checked, values wherever they are known (outside a trace).
    """
    if not isinstance(bandit, RestlessBandit):
        raise ValueError(
            f"bandit: {type(bandit).__name__} is not a RestlessBandit; agents alike, each MDP(P, "
            "r) with two actions, are RestlessBandit(P[:, 0], P[:, 1], r, num_agents, budget, "
            "discount), and named_bandit(..).bandit is one; other models have check_mdp and "
            "pair_chain, a WeaklyCoupledPopulation lagrange_index, fluid_policy and "
            "exchangeable_chain"
        )
    check_shape("passive", bandit.passive, (None, None))
    num_states = np.shape(bandit.passive)[0]
    check_shape("passive", bandit.passive, (num_states, num_states))
    check_shape("active", bandit.active, (num_states, num_states))
    check_shape("reward", bandit.reward, (num_states, 2))
    check_stochastic("passive", bandit.passive)
    check_stochastic("active", bandit.active)
    check_finite("reward", bandit.reward)
    check_discount(bandit.discount)
    for name, value in (("num_agents", bandit.num_agents), ("budget", bandit.budget)):
        check_shape(name, value, ())
        if concrete(value) and not float(value).is_integer():
            raise ValueError(f"{name}: {value} is not an integer")
    if concrete(bandit.num_agents) and int(bandit.num_agents) < 1:
        raise ValueError(f"num_agents: {int(bandit.num_agents)} is not at least 1")
    if concrete(bandit.num_agents, bandit.budget) and not (
        0 <= int(bandit.budget) <= int(bandit.num_agents)
    ):
        raise ValueError(
            f"budget: {int(bandit.budget)} is outside 0..{int(bandit.num_agents)} (num_agents)"
        )
