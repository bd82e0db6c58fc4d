r"""Who acts how: joint policy tables `[S_0, ..., S_{N-1}, A_0, ..., A_{N-1}]`.

`pi[s_0, .., a_0, ..]` is π(a | s). Action 1 activates an agent and 0 leaves it idle wherever the
paper has two actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from math import comb, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_permutation, check_positive_int, check_shape, check_stochastic, concrete
from .mdp import MDP, ExogenousMDP, FactoredMDP, WeaklyCoupledMDP, check_scopes, feasible_actions

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LocalPolicies:
    r"""Every agent decides on its own from what it reads, $\pi(a|s) = \prod_i \pi_i(a_i|s_{W_i})$.

    Attributes:
        tables: $\pi_i$ of each agent, `[S_j.., A_i]` with j over `scopes[i]` in the order there.
        scopes: $W_i$, the agents whose states agent i reads. Static.
    """

    tables: tuple[Array, ...]
    scopes: tuple[tuple[int, ...], ...] = field(metadata={"static": True})


def product_policy(policies: Sequence[Array]) -> Array:
    """Every agent decides on its own, π(a|s) = Π π_i(a_i|s_i), from tables `[S_i, A_i]`."""
    for i, policy in enumerate(policies):
        check_shape(f"policies[{i}]", policy, (None, None))
        check_stochastic(f"policies[{i}]", policy)
    pairs = reduce(lambda f, g: jnp.tensordot(f, g, axes=0), map(jnp.asarray, policies))
    num_agents = len(policies)
    return pairs.transpose([*range(0, 2 * num_agents, 2), *range(1, 2 * num_agents, 2)])


def shared_randomness(num_states: Sequence[int], num_active: int = 1) -> Array:
    """Example 1: activate `num_active` of the agents, drawn uniformly whatever their states.

    Args:
        num_states: S_i of each agent. Static.
        num_active: M. Static.

    Raises:
        ValueError: if M is not in 0..N.
    """
    num_agents = len(num_states)
    check_budget("num_active", num_active, num_agents)
    active = _action_sums(num_agents) == num_active  # [2, 2, ..]
    return jnp.broadcast_to(
        jnp.asarray(active / active.sum()).reshape((1,) * num_agents + active.shape),
        (*num_states, *active.shape),
    )


def index_policy(priority: Sequence[int], *, num_agents: int, budget: int) -> Array:
    """Activate the M agents that stand first in the priority order, ties uniform (Def. 13).

    Args:
        priority: a permutation of the S states of one agent, the first to be served first.
        num_agents: N homogeneous agents; the table has (2S)^N entries. Static.
        budget: M. Static.

    Raises:
        ValueError: if `priority` is no permutation or M is not in 0..N.

    Examples:
        >>> import jaxent
        >>> policy = jaxent.index_policy((1, 0), num_agents=2, budget=1)
        >>> print(policy[0, 1])  # of agents in states 0 and 1 the second acts
        [[0. 1.]
         [0. 0.]]
        >>> print(policy[1, 1])  # a tie
        [[0.  0.5]
         [0.5 0. ]]
    """
    check_positive_int("num_agents", num_agents)
    check_budget("budget", budget, num_agents)
    num_states = len(priority)
    check_permutation("priority", priority, num_states)
    rank = np.argsort(np.asarray(priority))
    ranks = rank[np.array(list(product(range(num_states), repeat=num_agents)))]  # [S^N, N]
    actions = np.array(list(product(range(2), repeat=num_agents)), bool)  # [2^N, N]
    # The rank of the last agent served: all before it are active, those that share it are drawn.
    last = np.sort(ranks, axis=1)[:, max(budget, 1) - 1 : max(budget, 1)]  # [S^N, 1]
    served = ((ranks < last)[:, None] <= actions) & (actions <= (ranks <= last)[:, None])
    allowed = served.all(-1) & (actions.sum(1) == budget)  # [S^N, 2^N]
    tied = (ranks == last).sum(1)
    drawn = budget - (ranks < last).sum(1)
    ways = np.array([comb(n, m) if m >= 0 else 1 for n, m in zip(tied, drawn, strict=True)])
    table = allowed / ways[:, None]
    return jnp.asarray(table.reshape((num_states,) * num_agents + (2,) * num_agents))


def softmax_policy(logits: Array, *, feasible: Any = True) -> Array:
    """π(a|s) ∝ exp(logits[s, a]) over the feasible joint actions. Differentiable.

    Args:
        logits: `[S_0.., A_0..]`, or with a signal `[S_0.., Z, A_0..]`.
        feasible: bool of the same shape, e.g. `feasible_actions(mdp)`; all of them by default. A
            state with no feasible action gets NaN.
    """
    num_agents = jnp.ndim(logits) // 2
    if not num_agents:
        raise ValueError(f"logits: wanted [S_0.., A_0..], got {jnp.ndim(logits)} axes")
    masked = jnp.where(feasible, logits, -jnp.inf)
    return jax.nn.softmax(masked, axis=tuple(range(-num_agents, 0)))


def check_policy(mdp: Any, policy: Any) -> None:
    """Raise a ValueError unless `policy` is one of the model that respects its couplings.

    It is a joint table `[S_0.., A_0..]`, of an `ExogenousMDP` `[S_0.., Z, A_0..]`; of a
    `FactoredMDP` it may be `LocalPolicies` too. The shape is always checked, values wherever they
    are known (outside a trace).
    """
    if isinstance(policy, LocalPolicies):
        _check_local(mdp, policy)
        return
    if isinstance(mdp, MDP):
        states, actions = (mdp.num_states,), (mdp.num_actions,)
    elif isinstance(mdp, ExogenousMDP):
        states, actions = (*mdp.num_states, mdp.num_signals), mdp.num_actions
    else:
        states, actions = mdp.num_states, mdp.num_actions
    check_shape("policy", policy, (*states, *actions))
    check_stochastic("policy", jnp.reshape(policy, (*states, prod(actions))))
    if not isinstance(mdp, WeaklyCoupledMDP) or not mdp.couplings or not concrete(mdp, policy):
        return
    taken = np.argwhere((np.asarray(policy) > 0) & ~np.asarray(feasible_actions(mdp)))
    if len(taken):
        state, action = taken[0][: len(states)].tolist(), taken[0][len(states) :].tolist()
        raise ValueError(
            f"policy: puts probability {np.asarray(policy)[tuple(taken[0])]:.6g} on action "
            f"{action} in state {state}, which a coupling constraint forbids; see feasible_actions"
        )


def _check_local(mdp: Any, policy: LocalPolicies) -> None:
    if not isinstance(mdp, FactoredMDP):
        raise ValueError("policy: LocalPolicies are for a FactoredMDP; see product_policy")
    states = mdp.num_states
    check_scopes("policy.scopes", policy.scopes, len(states))
    if len(policy.tables) != len(states):
        raise ValueError(
            f"policy.tables: wanted one for each of {len(states)} agents, got {len(policy.tables)}"
        )
    for i, (table, scope) in enumerate(zip(policy.tables, policy.scopes, strict=True)):
        check_shape(f"policy.tables[{i}]", table, (*(states[j] for j in scope), mdp.num_actions[i]))
        check_stochastic(f"policy.tables[{i}]", table)


def check_budget(name: str, budget: int, num_agents: int) -> None:
    """Raise unless so many of the agents can be active."""
    if int(budget) != budget or not 0 <= budget <= num_agents:
        raise ValueError(f"{name}: {budget} is not an integer in 0..{num_agents} (agents)")


def _action_sums(num_agents: int) -> np.ndarray:
    """Number of active agents in each joint action, `[2, 2, ..]`."""
    return np.indices((2,) * num_agents).sum(0)
