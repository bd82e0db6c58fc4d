r"""Who is active: priority activation of exchangeable agents (Def. 13).

Given how many agents are in each state, an index policy activates whole states in priority order
until the budget is met; agents in the state where it runs out are chosen uniformly. So an agent in
state s is active with probability (activated agents in s) / (agents in s).
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def activate(counts: Array, priority: Array, budget: Array) -> Array:
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
    queue = counts[..., priority]
    before = jnp.cumsum(queue, axis=-1, dtype=queue.dtype) - queue
    served = jnp.clip(jnp.asarray(budget, queue.dtype) - before, 0, queue)
    return served[..., jnp.argsort(priority)]


def by_action(counts: Array, priority: Array, budget: Array) -> Array:
    """Agents per state and action, `[..., S, 2]`: idle in column 0, active in column 1."""
    active = activate(counts, priority, budget)
    return jnp.stack([counts - active, active], axis=-1)


def action_probabilities(groups: Array) -> Array:
    r"""$\pi(a \mid s, m)$ of one agent from agents per state and action, `[..., S, 2]`.

    A state without agents gets the placeholder (1, 0); its weight is 0.
    """
    groups = jnp.asarray(groups, jnp.result_type(groups, float))
    counts = groups.sum(-1, keepdims=True)
    idle = jnp.array([1.0, 0.0], groups.dtype)
    idle = jnp.broadcast_to(idle, groups.shape)
    counts = jnp.broadcast_to(counts, groups.shape)
    return jnp.where(counts > 0, groups / jnp.where(counts > 0, counts, 1), idle)
