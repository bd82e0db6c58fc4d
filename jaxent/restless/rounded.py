r"""What an index policy does in every configuration, and what a tagged agent sees of it.

In configuration n an index policy takes one of J roundings: K_j(n) active agents per state, with
probability w_j(n). A `SoftIndex` has J = S of them. A priority has J = 1, for it fixes who acts.
With one agent tagged in state s and c the counts of the others, n = c + e_s, the tagged agent is
active in rounding j with probability K_j(n)_s / n_s, and the others hold what is left.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..models.soft_index import SoftIndex
from ..numerics.arrays import einsum
from ..numerics.compiled import jit
from .activation import active_counts
from .next_counts import configuration_index, configurations

Array = jax.Array


class Rounded(NamedTuple):
    """What N agents do in every configuration.

    Attributes:
        chances: p_s(n) to be active, 0 under a priority where no agent is, `[M, S]`.
        split: idle and active agents per state by rounding, int `[M, J, S, 2]`.
        weights: w_j(n), `[M, J]`.
    """

    chances: Array
    split: Array
    weights: Array


class Tagged(NamedTuple):
    """The same as a tagged agent in state s sees it, c being the counts of the others.

    Attributes:
        table: probability of (a, j) in (s, c), `[S, 2, C, J]`.
        chances: to be active in (s, c), whatever the rounding, `[S, C]`.
    """

    table: Array
    chances: Array


def rounded_priority(num_agents: int, budget: int, order: tuple[int, ...], dtype) -> Rounded:
    """One rounding, without a draw."""
    counts = configurations(num_agents, len(order))
    active = active_counts(counts, budget, order)
    return Rounded(
        jnp.asarray(active / np.maximum(counts, 1), dtype),
        jnp.asarray(np.stack([counts - active, active], axis=-1)[:, None]),
        jnp.asarray(np.ones((len(counts), 1)), dtype),
    )


def rounded_soft(num_agents: int, budget: int, policy: SoftIndex) -> Rounded:
    """Those of a `SoftIndex`, differentiable in it."""
    counts = jnp.asarray(configurations(num_agents, jnp.shape(policy.index)[-1]))

    def one(counts: Array) -> Rounded:
        active, weights = policy.roundings(counts, budget)
        split = jnp.stack([counts[None] - active, active], axis=-1)
        return Rounded(policy.chances(counts, budget), split, weights)

    return jax.vmap(one)(counts)


def with_tagged(num_agents: int, num_states: int) -> np.ndarray:
    """Place of c + e_s among the configurations of N agents, `[S, C]`."""
    others = configurations(num_agents - 1, num_states)
    return configuration_index(others[None] + np.eye(num_states, dtype=np.int64)[:, None])


@jit(static_argnums=1)
def tagged(rounded: Rounded, num_agents: int) -> Tagged:
    """What the tagged agent sees of it."""
    num_states = rounded.chances.shape[1]
    where = with_tagged(num_agents, num_states)
    state = np.arange(num_states)[:, None]
    own = rounded.split[where, :, state]  # [S, C, J, 2]
    present = own.sum(-1, keepdims=True)
    table = rounded.weights[where][..., None] * own / present
    return Tagged(jnp.moveaxis(table, -1, 1), rounded.chances[where, state])


def others(rounded: Rounded, num_agents: int) -> Array:
    """Idle and active agents of each state among the others, `[2, S, C, J, S, 2]`.

    The first axis is the tagged agent's action, the second its state. A pair that is never taken
    leaves -1 agents somewhere.
    """
    num_states = rounded.chances.shape[1]
    own = np.einsum("ab,st->astb", np.eye(2, dtype=int), np.eye(num_states, dtype=int))
    everyone = rounded.split[with_tagged(num_agents, num_states)]  # [S, C, J, S, 2]
    return everyone[None] - own[:, :, None, None]


def tagged_law(pairs: Array, rounded: Rounded, num_agents: int) -> Array:
    """Law of the tagged pair, the others' counts and the rounding, `[S, 2, C, J]`.

    Args:
        pairs: law of (n, j), `[M, J]`.
        rounded: what the agents do there.
        num_agents: N. Static.
    """
    num_states = rounded.chances.shape[1]
    weight = pairs[..., None, None] * rounded.split / num_agents  # [M, J, S, 2]
    state = np.arange(num_states)[:, None]
    return jnp.moveaxis(weight[with_tagged(num_agents, num_states), :, state], -1, 1)


def total(split: Array, f: Array) -> Array:
    """Sum over all agents of a function of the pair `[S, 2]`, by (n, j): `[M, J]`."""
    return einsum("mjsa,sa->mj", split.astype(f.dtype), f)
