r"""Who acts how: joint policy tables `[S_0, ..., S_{N-1}, A_0, ..., A_{N-1}]`.

`pi[s_0, .., a_0, ..]` is π(a | s). Action 1 activates an agent and 0 leaves it idle wherever the
paper has two actions.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import comb, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_permutation, check_positive_int, check_shape, check_stochastic, concrete
from .mdp import MDP, JointMDP, WeaklyCoupledMDP, feasible_actions

Array = jax.Array


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
    _check_budget("num_active", num_active, num_agents)
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
    """
    check_positive_int("num_agents", num_agents)
    _check_budget("budget", budget, num_agents)
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
        logits: `[S_0.., A_0..]`.
        feasible: bool of the same shape, e.g. `feasible_actions(mdp)`; all of them by default. A
            state with no feasible action gets NaN.
    """
    num_agents = jnp.ndim(logits) // 2
    if jnp.ndim(logits) != 2 * num_agents or not num_agents:
        raise ValueError(f"logits: wanted [S_0.., A_0..], got {jnp.ndim(logits)} axes")
    masked = jnp.where(feasible, logits, -jnp.inf)
    return jax.nn.softmax(masked, axis=tuple(range(num_agents, 2 * num_agents)))


def check_policy(mdp: MDP | WeaklyCoupledMDP | JointMDP, policy: Any) -> None:
    """Raise a ValueError unless `policy` is a joint table of the model that respects its couplings.

    The shape is always checked, values wherever they are known (outside a trace).
    """
    if isinstance(mdp, MDP):
        states, actions = (mdp.num_states,), (mdp.num_actions,)
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


def _check_budget(name: str, budget: int, num_agents: int) -> None:
    if int(budget) != budget or not 0 <= budget <= num_agents:
        raise ValueError(f"{name}: {budget} is not an integer in 0..{num_agents} (agents)")


def _action_sums(num_agents: int) -> np.ndarray:
    """Number of active agents in each joint action, `[2, 2, ..]`."""
    return np.indices((2,) * num_agents).sum(0)
