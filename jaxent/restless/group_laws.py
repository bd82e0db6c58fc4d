r"""Next counts of two groups of exchangeable agents, one active and one idle, as two matrices.

Once it is settled how many agents of each state are active (k) and idle (u), the groups move
independently, and within a group only its counts matter:

    E[V(n') | k, u] = Σ_c Σ_c' A[k, c] B[u, c'] V(c + c'),

A and B the laws of a group's next counts by its counts now. Two matrix products serve every way to
split every configuration, so that any rule, and any mixture of rules, costs the same. With M of N
agents active A has C(M + S - 1, S - 1) rows and B C(N - M + S - 1, S - 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from .._checks import stochastic
from ..numerics.arrays import dot, einsum
from ..numerics.devices import everywhere, lies
from .next_counts import configuration_index, configurations, num_configurations

Array = jax.Array

# Functions of (s, k, u) that a product with a tagged agent's kernel holds at once.
_GRIDS = 5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupLaws:
    """Laws of the next counts of an active and an idle group.

    Attributes:
        active: A, rows by counts of the m active agents, `[C_m, C_m]`.
        idle: B, likewise of the l idle ones, `[C_l, C_l]`.
        sizes: (m, l). Static.
        num_states: S. Static.
        mesh: the devices that the larger law is cut over by rows; None for one. Static.
    """

    active: Array
    idle: Array
    sizes: tuple[int, int] = field(metadata={"static": True})
    num_states: int = field(metadata={"static": True})
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    def expect(self, f: Array) -> Array:
        """E[f(next counts of both together)] by (k, u): `[..., C]` to `[..., C_m, C_l]`."""
        if self.mesh is not None and f.ndim > 1:  # one function's grid is whole at a time
            return self.cut(lax.map(self.expect, f))
        joined = f[..., _joined(*self.sizes, self.num_states)]
        if self._idle_is_larger:
            return dot(self.active, self.cut(dot(joined, self.idle.T)))
        return dot(self.cut(dot(self.active, joined)), self.idle.T)

    def push(self, weights: Array) -> Array:
        """The transpose: measures of (k, u) to measures of the counts of both, one step on."""
        if self.mesh is not None and weights.ndim > 2:
            return lax.map(self.push, self.cut(weights))
        if self._idle_is_larger:
            moved = dot(self.active.T, everywhere(dot(self.cut(weights), self.idle), self.mesh))
        else:
            moved = dot(everywhere(dot(self.active.T, self.cut(weights)), self.mesh), self.idle)
        size = num_configurations(sum(self.sizes), self.num_states)
        zero = jnp.zeros((*weights.shape[:-2], size), moved.dtype)
        return zero.at[..., _joined(*self.sizes, self.num_states)].add(moved)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.active) & stochastic(self.idle)

    def places(self, split: Array) -> tuple[Array, Array]:
        """Rows of A and B that hold the active and the idle counts of `[..., S, 2]`."""
        active, idle = self.sizes
        return place(split[..., 1], active), place(split[..., 0], idle)

    def zeros(self, *shape: int) -> Array:
        """Zeros by (k, u), `[..., C_m, C_l]`."""
        return jnp.zeros((*shape, len(self.active), len(self.idle)), self.active.dtype)

    def filled(self, number: int) -> "GroupLaws":
        """The same, with as many rows in the larger law as this number of devices divides."""
        if self._idle_is_larger:
            return replace(self, idle=filled_rows(self.idle, number))
        return replace(self, active=filled_rows(self.active, number))

    def spread(self, axes: Sequence[str]) -> "GroupLaws":
        """How they lie on a mesh of devices: the larger law cut by rows, the smaller whole."""
        laws: list[Any] = [PartitionSpec(), PartitionSpec(tuple(axes))]
        active, idle = laws if self._idle_is_larger else reversed(laws)
        return replace(self, active=active, idle=idle)

    @property
    def _idle_is_larger(self) -> bool:
        return self.sizes[0] <= self.sizes[1]

    def cut(self, grid: Array, number: int | None = None) -> Array:
        """What is by (k, u), cut as the larger law is, over the first axes of the mesh or all."""
        if self.mesh is None:
            return grid
        names = tuple(self.mesh.axis_names)[:number]
        last = (None, names) if self._idle_is_larger else (names, None)
        return lies(grid, self.mesh, *(None for _ in grid.shape[:-2]), *last)

    def exchanged(self, grid: Array, *, to_states: bool) -> Array:
        """`[S, k, u]` that is cut as the larger law is, cut by the tagged agent's state, or back.

        By way of as many devices as states are cut over: a program that goes there at once would
        bring all of the grid to every device.
        """
        if self.mesh is None:
            return grid
        if not to_states:
            return self.cut(self.cut(lies(grid, self.mesh, self.mesh.axis_names[0]), 1))
        return lies(self.cut(self.cut(grid), 1), self.mesh, self.mesh.axis_names[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RoundedKernel:
    """K: functions of the next configuration, `[M]`, to functions of (n, j), `[M * J]`.

    Attributes:
        groups: laws of the active and the idle agents.
        places: of the active and of the idle counts of (n, j) among theirs, `[M, J]` each.
    """

    groups: GroupLaws
    places: tuple[Array, Array]

    def mv(self, v: Array) -> Array:
        """K v."""
        return self.groups.expect(v)[self.places].reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next configuration, mu K."""
        mu = mu.reshape(self.places[0].shape)
        return self.groups.push(self.groups.zeros().astype(mu.dtype).at[self.places].add(mu))

    def matrix(self) -> Array:
        """K itself, for few agents."""
        size = num_configurations(sum(self.groups.sizes), self.groups.num_states)
        return jax.vmap(self.mv, out_axes=-1)(jnp.eye(size, dtype=self.groups.active.dtype))

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return self.groups.stochastic()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedRoundedKernel:
    """K: functions of the next (s', c'), `[S * C]`, to functions of (s, a, c, j).

    Attributes:
        local: local kernel of the tagged agent, `[S, 2, S]`.
        groups: laws of the others where the tagged agent is idle, and where it is active.
        places: of the others' active and idle counts, `[S, C, J]`, likewise.
    """

    local: Array
    groups: tuple[GroupLaws, GroupLaws]
    places: tuple[tuple[Array, Array], tuple[Array, Array]]

    def mv(self, v: Array) -> Array:
        """K v."""
        v = v.reshape(len(self.local), -1)  # [S, C]
        rows = []
        for action, (groups, places) in enumerate(zip(self.groups, self.places, strict=True)):
            ahead = einsum("st,tkl->skl", self.local[:, action], groups.expect(v))
            ahead = groups.exchanged(ahead, to_states=True)
            rows.append(jax.vmap(lambda f, k, u: f[k, u])(ahead, *places))  # [S, C, J]
        return jnp.stack(rows, axis=1).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next (tagged state, configuration), mu K."""
        mu = mu.reshape(len(self.local), 2, *self.places[0][0].shape[1:])
        laws = []
        for action, (groups, grid) in enumerate(zip(self.groups, self.grids(mu), strict=True)):
            grid = groups.exchanged(grid, to_states=False)
            laws.append(groups.push(einsum("st,skl->tkl", self.local[:, action], grid)))
        return (laws[0] + laws[1]).reshape(-1)

    def grids(self, weights: Array) -> list[Array]:
        """Measures `[S, 2, C, J]` by the tagged state and the others' (k, u), one an action."""
        grids, weights = [], jnp.asarray(weights)
        for action, (groups, places) in enumerate(zip(self.groups, self.places, strict=True)):
            zero = groups.zeros().astype(weights.dtype)
            add = jax.vmap(lambda w, k, u, zero=zero: zero.at[k, u].add(w))
            grids.append(add(weights[:, action], *places))
        return grids

    def ahead(self, f: Array) -> Array:
        """E[f(s', c')] of functions of the others' next counts, `[S', C]` to `[S, 2, C, J, S']`."""
        rows = [
            jnp.moveaxis(groups.expect(f), 0, -1)[places]  # [S, C, J, S']
            for groups, places in zip(self.groups, self.places, strict=True)
        ]
        return jnp.stack(rows, axis=1)

    def mean_ahead(self, weights: Array, f: Array) -> Array:
        """Their sums over (c, j) with weights `[S, 2, C, J]`, `[S, 2, S']`."""
        grids = self.grids(weights)
        rows = [
            einsum("skl,tkl->st", grid, groups.expect(f))
            for grid, groups in zip(grids, self.groups, strict=True)
        ]
        return jnp.stack(rows, axis=1)

    def matrix(self) -> Array:
        """K itself, for few agents."""
        others = sum(self.groups[0].sizes)
        size = len(self.local) * num_configurations(others, len(self.local))
        return jax.vmap(self.mv, out_axes=-1)(jnp.eye(size, dtype=self.local.dtype))

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        groups = self.groups[0].stochastic() & self.groups[1].stochastic()
        return stochastic(self.local) & groups

    def filled(self, number: int) -> "TaggedRoundedKernel":
        """The same, with laws whose rows this number of devices divides."""
        idle, active = (groups.filled(number) for groups in self.groups)
        return replace(self, groups=(idle, active))

    def spread(self, axes: Sequence[str]) -> "TaggedRoundedKernel":
        """How it lies on a mesh along (s, a, c, j): the laws by their rows, places by (s, c, j)."""
        idle, active = (groups.spread(axes) for groups in self.groups)
        whole: Any = PartitionSpec()
        place: Any = PartitionSpec(*axes[:1], *axes[2:])
        return replace(
            self, local=whole, groups=(idle, active), places=((place, place), (place, place))
        )

    def on(self, mesh: Mesh) -> "TaggedRoundedKernel":
        """The same, that works over these devices."""
        idle, active = (replace(groups, mesh=mesh) for groups in self.groups)
        return replace(self, groups=(idle, active))

    def at_work(self, number: int) -> int:
        """Numbers that a product takes on each of so many devices, about."""
        grid = max(len(groups.active) * len(groups.idle) for groups in self.groups)
        return (_GRIDS * len(self.local) // number + 2) * grid  # of one function it is whole


def group_laws(local: Array, num_active: int, num_idle: int) -> GroupLaws:
    """Laws of the groups, from the local kernel `[S, 2, S]`; differentiable in it."""
    return GroupLaws(
        group_law(local[:, 1], num_active),
        group_law(local[:, 0], num_idle),
        (num_active, num_idle),
        len(local),
    )


def rounded_kernel(local: Array, split: Array, num_agents: int, budget: int) -> RoundedKernel:
    """K of N agents, idle and active ones of each state being `split`, `[M, J, S, 2]`."""
    groups = group_laws(local, budget, num_agents - budget)
    return RoundedKernel(groups, groups.places(split))


def tagged_rounded_kernel(
    local: Array, others: Array, num_others: int, left: tuple[int, int]
) -> TaggedRoundedKernel:
    """K with one agent tagged.

    Args:
        local: local kernel, `[S, 2, S]`.
        others: idle and active agents of each state among the others, by the tagged agent's action,
            `[2, S, C, J, S, 2]`.
        num_others: N - 1. Static.
        left: how many of them are active, by that action. Static.
    """
    idle, active = (group_laws(local, m, num_others - m) for m in left)
    return TaggedRoundedKernel(
        local, (idle, active), (idle.places(others[0]), active.places(others[1]))
    )


def group_law(kernel: Array, num_agents: int) -> Array:
    """Law of the next counts of m agents that move by the rows of one kernel: `[C_m, C'_m]`.

    From counts over the rows of `[R, S]` to counts over its columns. One agent after another joins,
    so that groups share what they have in common.
    """
    num_rows, num_columns = kernel.shape
    before_move, after = _tables(num_agents, num_rows), _tables(num_agents, num_columns)
    size = len(before_move.state)
    law = jnp.zeros((size, len(after.state)), kernel.dtype).at[0, 0].set(1)

    def join(law: Array, fewer: Array) -> tuple[Array, None]:
        # Configurations up to `fewer` have an agent in the last row: it is the one that joins.
        last = jnp.arange(size) < fewer
        row = jnp.where(last, num_rows - 1, before_move.state)
        before = law[jnp.where(last, jnp.arange(size), before_move.parent)]
        rows = kernel[row]  # [C, S]
        grown = rows[:, -1:] * before
        for t, index in enumerate(after.down):  # static and few
            less = before.at[:, index].get(mode="fill", fill_value=0)
            grown = grown + rows[:, t : t + 1] * less
        return grown, None

    return lax.scan(join, law, jnp.asarray(before_move.fewer))[0]


def filled_rows(law: Any, number: int) -> Any:
    """A law with copies of its last row, which no pair has, so that a number divides its rows."""
    shape = (len(law) + -len(law) % number, *law.shape[1:])
    if isinstance(law, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, law.dtype)
    return jnp.pad(law, ((0, shape[0] - len(law)), (0, 0)), mode="edge")


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
    """How configurations of up to m agents, with none in the last state, grow from smaller ones.

    All int32: JAX does not compile a program with an array of NumPy of 64 bits that stood in one of
    the other precision before, and these are kept.
    """

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
    return _Tables(*(x.astype(np.int32) for x in (state, parent, down, fewer)))


@lru_cache(maxsize=16)
def _joined(num_active: int, num_idle: int, num_states: int) -> np.ndarray:
    """Place of the counts of both groups together, `[C_m, C_l]`."""
    active = configurations(num_active, num_states)
    idle = configurations(num_idle, num_states)
    return configuration_index(active[:, None] + idle[None]).astype(np.int32)
