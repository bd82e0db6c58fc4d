r"""Who acts how: joint policy tables `[S_0, ..., S_{N-1}, A_0, ..., A_{N-1}]`.

`pi[s_0, .., a_0, ..]` is π(a | s). Action 1 activates an agent and 0 leaves it idle wherever the
paper has two actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from math import comb, prod

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_permutation, check_positive_int, check_shape, check_stochastic
from .._reads import reads
from ..numerics.arrays import takes_arrays
from ..numerics.compiled import jit
from .contracts import ArrayLike, Ranking, known_priority

Array = jax.Array


@takes_arrays(each=("tables",))
@reads("every agent decides from what it reads")
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


@takes_arrays(each=("policies",))
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


def index_policy(
    priority: Sequence[int] | ArrayLike | Ranking, *, num_agents: int, budget: int
) -> Array:
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
    order = known_priority(priority)
    check_shape("priority", order, (None,))
    num_states = len(order)
    check_permutation("priority", order, num_states)
    rank = np.argsort(np.asarray(order))
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


@takes_arrays("logits", "feasible")
def softmax_policy(
    logits: Array, *, num_agents: int | None = None, feasible: ArrayLike | bool = True
) -> Array:
    """π(a|s) ∝ exp(logits[s, a]) over the feasible joint actions. Differentiable.

    Args:
        logits: `[S_0.., A_0..]`, or with a signal `[S_0.., Z, A_0..]`; of any joint state `[S,
            A_0..]`.
        num_agents: N, the last N axes are actions; half of the axes by default. Static.
        feasible: bool of the same shape, e.g. `feasible_actions(mdp)`; all of them by default. A
            state with no feasible action gets NaN.
    """
    num_agents = jnp.ndim(logits) // 2 if num_agents is None else num_agents
    if not 0 < num_agents <= jnp.ndim(logits):
        raise ValueError(f"logits: wanted [S_0.., A_0..], got {jnp.ndim(logits)} axes")
    return _softmax(logits, feasible, num_agents)


@jit(static_argnums=2)
def _softmax(logits: Array, feasible: ArrayLike | bool, num_agents: int) -> Array:
    masked = jnp.where(feasible, logits, -jnp.inf)
    return jax.nn.softmax(masked, axis=tuple(range(-num_agents, 0)))


@takes_arrays("policy")
def check_table(
    policy: ArrayLike | LocalPolicies, states: Sequence[int], actions: Sequence[int]
) -> None:
    """Raise unless this is a joint table `[*states, *actions]` of probabilities in each state."""
    if isinstance(policy, LocalPolicies):
        raise ValueError("policy: LocalPolicies are for a FactoredMDP; see product_policy")
    check_shape("policy", policy, (*states, *actions))
    check_stochastic("policy", jnp.reshape(policy, (*states, prod(actions))))


def check_each(name: str, entries: Sequence[object], num_agents: int) -> None:
    """Raise unless there is a tuple of one entry for each agent."""
    if not isinstance(entries, tuple) or len(entries) != num_agents:
        given = len(entries) if isinstance(entries, tuple) else type(entries).__name__
        raise ValueError(
            f"{name}: wanted a tuple with one entry for each of {num_agents} agents (one table in "
            f"rewards each), got {given}"
        )


def check_scopes(name: str, scopes: Sequence[tuple[int, ...]], num_agents: int) -> None:
    """Raise unless there is one tuple of agents for each agent, none named twice."""
    check_each(name, scopes, num_agents)
    for i, scope in enumerate(scopes):
        if not isinstance(scope, tuple) or not all(isinstance(j, int) for j in scope):
            raise ValueError(f"{name}[{i}]: {scope!r} is not a tuple of ints, which is static")
        wrong = [j for j in scope if not 0 <= j < num_agents]
        if wrong or len(set(scope)) < len(scope):
            raise ValueError(
                f"{name}[{i}]: {scope} must name agents 0..{num_agents - 1}, none of them twice"
            )


def check_budget(name: str, budget: int, num_agents: int) -> None:
    """Raise unless the budget is a whole number of agents, 0 to all of them."""
    if int(budget) != budget or not 0 <= budget <= num_agents:
        raise ValueError(f"{name}: {budget} is not an integer in 0..{num_agents} (agents)")


def _action_sums(num_agents: int) -> np.ndarray:
    """Number of active agents in each joint action, `[2, 2, ..]`."""
    return np.indices((2,) * num_agents).sum(0)
