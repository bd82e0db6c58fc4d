r"""Agents with transitions of their own, coupled by who may act together (Def. 11).

P(s'|s, a) = Π P_i(s_i'|s_i, a_i), so that the kernel of the chain is a Kronecker product, applied
factor by factor. A joint action must meet Σ_i d_i(s_i, a_i) <= b for every `Coupling`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite, check_shape, concrete
from .._reads import reads
from ..numerics.arrays import as_float, takes_arrays
from ..numerics.kron import kron_sum, state_order
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import FactorLayout, FactorView
from .mdp import MDP, check_agent
from .parts import KroneckerKernel, TablePolicy, product_parts
from .policies import check_table

Array = jax.Array


@takes_arrays(each=("costs",))
@reads("costs that add up to the budget at most")
class Coupling(NamedTuple):
    r"""One constraint on joint actions, $\sum_i d_i(s_i, a_i) \le b$ (Def. 11).

    Attributes:
        costs: $d_i$ of each agent, `[S_i, A_i]` each.
        budget: b, a number.
    """

    costs: tuple[Array, ...]
    budget: Scalar


@reads("agents that share budgets, discount {0.discount}")
class WeaklyCoupledMDP(NamedTuple):
    r"""Agents with transitions of their own, coupled by their actions (Def. 11).

    Attributes:
        agents: one `MDP` each; states, actions, kernels and rewards may differ.
        discount: $\gamma$ in [0, 1).
        couplings: the constraints that a joint action must meet; empty if any may be taken.
    """

    agents: tuple[MDP, ...]
    discount: Scalar
    couplings: tuple[Coupling, ...] = ()

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return tuple(agent.num_states for agent in self.agents)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return tuple(agent.num_actions for agent in self.agents)

    @property
    def rewards(self) -> tuple[Array, ...]:
        """r_i of each agent, `[S_i, A_i]` each."""
        return tuple(agent.reward for agent in self.agents)

    policy_shape = product_tables.policy_shape
    join = product_tables.join

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        if not self.agents:
            raise ValueError("agents: is empty; a model has at least one agent")
        for i, agent in enumerate(self.agents):
            check_agent(f"agents[{i}].", agent)
        for k, coupling in enumerate(self.couplings):
            _check_coupling(f"couplings[{k}]", coupling, self.agents)
        check_discount(self.discount)

    def check_policy(self, policy: ArrayLike) -> None:
        """Raise a ValueError unless it is a table `[S_0.., A_0..]` that respects the couplings."""
        check_table(policy, self.num_states, self.num_actions)
        if not self.couplings or not concrete(self, policy):
            return
        taken = np.argwhere((np.asarray(policy) > 0) & ~np.asarray(feasible_actions(self)))
        if len(taken):
            place, n = taken[0], len(self.agents)
            raise ValueError(
                f"policy: puts probability {np.asarray(policy)[tuple(place)]:.6g} on action "
                f"{place[n:].tolist()} in state {place[:n].tolist()}, which a coupling constraint "
                "forbids; see feasible_actions"
            )

    def parts(self, policy: ArrayLike) -> tuple[KroneckerKernel, TablePolicy, FactorLayout]:
        """K = P_0 ⊗ P_1 ⊗ ..; NaN where a traced policy takes a forbidden action."""
        policy = as_float(policy)
        if self.couplings and not concrete(self, policy):
            allowed = jnp.where(feasible_actions(self), True, policy == 0).all()
            policy = jnp.where(allowed, policy, jnp.nan)
        kernels = [as_float(agent.transition) for agent in self.agents]
        kernel = KroneckerKernel(tuple(P.reshape(-1, P.shape[-1]) for P in kernels))
        return product_parts(kernel, policy)

    def feasible(self) -> Array:
        """Which joint actions meet the couplings."""
        return feasible_actions(self) if self.couplings else jnp.array(True)

    def local_shapes(self) -> tuple[tuple[int, int], ...]:
        """(S_i, A_i) of each agent; agents whose actions are coupled cannot decide alone."""
        if self.couplings:
            raise ValueError(
                "mdp: couples its agents' actions, independent agents would break that"
            )
        return product_tables.local_shapes(self)

    def policy_view(self, agent: int) -> FactorView:
        """An agent's own state (Prop. 1)."""
        return FactorView((agent,), self.num_states)


def feasible_actions(mdp: WeaklyCoupledMDP) -> Array:
    """Which joint actions meet every coupling constraint, bool `[S_0.., A_0..]`."""
    mask = jnp.ones((*mdp.num_states, *mdp.num_actions), bool)
    for coupling in mdp.couplings:
        total = kron_sum([jnp.ravel(jnp.asarray(cost)) for cost in coupling.costs])
        sizes = [n for pair in zip(mdp.num_states, mdp.num_actions, strict=True) for n in pair]
        mask &= state_order(total.reshape(sizes)) <= coupling.budget
    return mask


def _check_coupling(name: str, coupling: Coupling, agents: Sequence[MDP]) -> None:
    if len(coupling.costs) != len(agents):
        raise ValueError(
            f"{name}.costs: wanted one table for each of {len(agents)} agents, "
            f"got {len(coupling.costs)}"
        )
    for i, (cost, agent) in enumerate(zip(coupling.costs, agents, strict=True)):
        check_shape(f"{name}.costs[{i}]", cost, np.shape(agent.reward))
        check_finite(f"{name}.costs[{i}]", cost)
    check_shape(f"{name}.budget", coupling.budget, ())
