r"""Next counts of two groups of exchangeable agents, one active and one idle, as two matrices.

Once it is settled how many agents of each state are active (k) and idle (u), the groups move
independently, and within a group only its counts matter:

    E[V(n') | k, u] = Σ_c Σ_c' A[k, c] B[u, c'] V(c + c'),

A and B the laws of a group's next counts by its counts now. Two matrix products serve every way to
split every configuration, so that any rule, and any mixture of rules, costs the same. With M of N
agents active A has C(M + S - 1, S - 1) rows and B C(N - M + S - 1, S - 1).
"""

from dataclasses import dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import stochastic
from .next_counts import configuration_index, configurations, num_configurations

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupLaws:
    """Laws of the next counts of an active and an idle group.

    Attributes:
        active: A, rows by counts of the m active agents, `[C_m, C_m]`.
        idle: B, likewise of the l idle ones, `[C_l, C_l]`.
        sizes: (m, l). Static.
        num_states: S. Static.
    """

    active: Array
    idle: Array
    sizes: tuple[int, int] = field(metadata={"static": True})
    num_states: int = field(metadata={"static": True})

    def expect(self, f: Array) -> Array:
        """E[f(next counts of both together)] by (k, u): `[..., C]` to `[..., C_m, C_l]`."""
        joined = f[..., _joined(*self.sizes, self.num_states)]
        ahead = jnp.matmul(joined, self.idle.T, precision=lax.Precision.HIGHEST)
        return jnp.matmul(self.active, ahead, precision=lax.Precision.HIGHEST)

    def push(self, weights: Array) -> Array:
        """The transpose: measures of (k, u) to measures of the counts of both, one step on."""
        moved = jnp.matmul(weights, self.idle, precision=lax.Precision.HIGHEST)
        moved = jnp.matmul(self.active.T, moved, precision=lax.Precision.HIGHEST)
        size = num_configurations(sum(self.sizes), self.num_states)
        zero = jnp.zeros((*weights.shape[:-2], size), moved.dtype)
        return zero.at[..., _joined(*self.sizes, self.num_states)].add(moved)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.active) & stochastic(self.idle)


def group_laws(local: Array, num_active: int, num_idle: int) -> GroupLaws:
    """Laws of the groups, from the local kernel `[S, 2, S]`; differentiable in it."""
    return GroupLaws(
        group_law(local[:, 1], num_active),
        group_law(local[:, 0], num_idle),
        (num_active, num_idle),
        len(local),
    )


def group_law(kernel: Array, num_agents: int) -> Array:
    """Law of the next counts of m agents that move by one kernel `[S, S]`: `[C_m, C_m]`.

    One agent after another joins, so that groups share what they have in common.
    """
    tables = _tables(num_agents, len(kernel))
    size = len(tables.state)
    law = jnp.zeros((size, size), kernel.dtype).at[0, 0].set(1)

    def join(law: Array, fewer: Array) -> tuple[Array, None]:
        # Configurations up to `fewer` have an agent in the last state: it is the one that joins.
        last = jnp.arange(size) < fewer
        state = jnp.where(last, len(kernel) - 1, tables.state)
        before = law[jnp.where(last, jnp.arange(size), tables.parent)]
        rows = kernel[state]  # [C, S]
        grown = rows[:, -1:] * before
        for t, index in enumerate(tables.down):  # static and few
            less = before.at[:, index].get(mode="fill", fill_value=0)
            grown = grown + rows[:, t : t + 1] * less
        return grown, None

    return lax.scan(join, law, jnp.asarray(tables.fewer))[0]


def place(counts: Array, num_agents: int) -> Array:
    """Place of configurations `[..., S]` in the order of `configurations`; may be traced.

    What is no configuration of this many agents gets the place of some other.
    """
    num_states = counts.shape[-1]
    if num_states == 1:
        return jnp.zeros(counts.shape[:-1], int)
    terms = np.zeros((num_agents + 1, num_states - 1), int)  # C(b + j - 1, j)
    for b in range(1, num_agents + 1):
        terms[b] = [num_configurations(b - 1, j + 1) for j in range(1, num_states)]
    sums = jnp.clip(jnp.cumsum(counts, axis=-1)[..., :-1], 0, num_agents)
    sums = lax.cummax(sums, axis=sums.ndim - 1)
    return jnp.asarray(terms)[sums, np.broadcast_to(np.arange(num_states - 1), sums.shape)].sum(-1)


@dataclass(frozen=True)
class _Tables:
    """How configurations of up to m agents, with none in the last state, grow from smaller ones."""

    state: np.ndarray  # [C] the state that the joining agent is in
    parent: np.ndarray  # [C] the configuration without it
    down: np.ndarray  # [S - 1, C] index of c - e_t, out of bounds where c_t = 0
    fewer: np.ndarray  # [m] configurations of one agent fewer, at each step


@lru_cache(maxsize=16)
def _tables(num_agents: int, num_states: int) -> _Tables:
    counts = configurations(num_agents, num_states)
    size = len(counts)
    unit = np.eye(num_states, dtype=np.int64)
    # The index does not read the last count, so that one table serves any number of agents.
    down = [
        np.where(counts[:, t] > 0, configuration_index(np.maximum(counts - unit[t], 0)), size)
        for t in range(num_states - 1)
    ]
    down = np.array(down, np.int64).reshape(num_states - 1, size)
    some = counts[:, :-1] > 0
    state = np.where(some.any(1), some.argmax(1) if num_states > 1 else 0, 0)
    parent = np.where(some.any(1), down[state, np.arange(size)] if num_states > 1 else 0, 0)
    fewer = np.array([num_configurations(m, num_states) for m in range(num_agents)], np.int64)
    return _Tables(state, parent, down, fewer)


@lru_cache(maxsize=16)
def _joined(num_active: int, num_idle: int, num_states: int) -> np.ndarray:
    """Place of the counts of both groups together, `[C_m, C_l]`."""
    active = configurations(num_active, num_states)
    idle = configurations(num_idle, num_states)
    return configuration_index(active[:, None] + idle[None]).astype(np.int32)
