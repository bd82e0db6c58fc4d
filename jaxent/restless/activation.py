r"""Who is active: the index policies of exchangeable agents, hard and soft (Def. 13).

Given how many agents are in each state, a priority activates whole states in its order until the
budget is met; agents in the state where it runs out are chosen uniformly. So an agent in state s is
active with probability (activated agents in s) / (agents in s). A `SoftIndex` makes these chances
smooth, and draws the number of active agents in each state: its rounding. A priority is the case in
which every configuration has one rounding.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_permutation
from ..models.contracts import Ranking, known_priority
from ..models.soft_index import SoftIndex, check_soft
from ..numerics.arrays import as_float, ratio

Array = jax.Array

Priority = Sequence[int] | np.ndarray | Array | Ranking
IndexPolicy = Priority | SoftIndex


def check_index_policy(policy: IndexPolicy, num_states: int) -> Array | SoftIndex:
    """The policy, a priority as an array; a ValueError names what is wrong with it."""
    if isinstance(policy, SoftIndex):
        check_soft(policy, num_states)
        return policy
    return jnp.asarray(check_priority(policy, num_states))


def check_priority(priority: Priority, num_states: int) -> Sequence[int] | np.ndarray | Array:
    """The order of the states; a ValueError names what is wrong with it.

    A `FluidPriority` or a `WhittleIndex` has one.
    """
    if isinstance(priority, SoftIndex):
        raise ValueError(
            "priority: a SoftIndex has chances and no order; index_priority(policy.index) ranks by "
            "its index"
        )
    order = known_priority(priority)
    check_permutation("priority", order, num_states)
    return order


def activate(counts: Array, priority: Array, budget: Array | float) -> Array:
    r"""Active agents per state.

    $a_s = \min\{n_s, (M - \sum_{s' \text{ before } s} n_{s'})_+\}$. Counts and budget may also be
    fractions of the agents: the mean field uses the same rule.

    Args:
        counts: $n_s$, agents per state, `[..., S]`.
        priority: states in the order served, the first first, `[S]`.
        budget: M, a scalar in the unit of `counts`.

    Returns:
        $a_s$, `[..., S]`, in the dtype of `counts`.

    References:
        Chen and Peng, Def. 13.
    """
    priority = jnp.asarray(priority)
    queue = jnp.asarray(counts)[..., priority]
    before = jnp.cumsum(queue, axis=-1, dtype=queue.dtype) - queue
    served = jnp.clip(jnp.asarray(budget, queue.dtype) - before, 0, queue)
    return served[..., jnp.argsort(priority)]


def active_counts(counts: np.ndarray, budget: float, priority: Sequence[int]) -> np.ndarray:
    """`activate` of known counts, or shares of the agents, in NumPy: `[..., S]`."""
    counts = np.asarray(counts)
    active = np.zeros_like(counts)
    left = np.full(counts.shape[:-1], budget)
    for s in priority:
        active[..., s] = np.minimum(counts[..., s], left)
        left = left - active[..., s]
    return active


def by_action(counts: Array, policy: Array | SoftIndex, budget: Array | float) -> Array:
    """Agents per state and action, `[..., S, 2]`: idle in column 0, active in column 1.

    Under a `SoftIndex` these are means over its roundings.
    """
    if isinstance(policy, SoftIndex):
        return counts[..., None] * action_law(counts, policy, budget)
    active = activate(counts, policy, budget)
    return jnp.stack([counts - active, active], axis=-1)


def action_law(counts: Array, policy: Array | SoftIndex, budget: Array | float) -> Array:
    r"""$\pi(a \mid s, n)$ of an agent, `[..., S, 2]`.

    Under a priority a state without agents gets the placeholder (1, 0).
    """
    if not isinstance(policy, SoftIndex):
        return action_probabilities(by_action(counts, policy, budget))
    chances = partial(policy.chances, budget=budget)
    active = jnp.vectorize(chances, signature="(s)->(s)")(counts)
    return jnp.stack([1 - active, active], axis=-1)


def action_probabilities(groups: Array) -> Array:
    r"""$\pi(a \mid s, m)$ of one agent from agents per state and action, `[..., S, 2]`.

    A state without agents gets the placeholder (1, 0); its weight is 0.
    """
    groups = as_float(groups)
    counts = jnp.broadcast_to(groups.sum(-1, keepdims=True), groups.shape)
    idle = jnp.broadcast_to(jnp.array([1.0, 0.0], groups.dtype), groups.shape)
    return ratio(groups, counts, idle)
