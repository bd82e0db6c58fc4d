r"""Expectations over the next counts of a bandit under a priority rule, exact, without a matrix.

A configuration n counts the N exchangeable agents per state; there are C(N + S - 1, S - 1) of them.
Served in the order of the priority, agent k is active if and only if k <= M, so the configuration
alone fixes who acts, and its agents then move independently. One agent that moves is the operator

    (D_{s,a} f)(c) = Σ_t P_a(s, t) f(c + e_t),

from functions of the counts of m agents to functions of the counts of m - 1, and E[f(n') | n] is
the product of the operators of all N agents, applied to f. The product is walked from both ends.
States are cut into a served-first half and a rest. After the first k agents stands F_m, m = N - k,
one column for each way the first half can hold k agents, grown one agent at a time so that
configurations share their beginnings; the last m agents follow the law G_m, one column for each way
the rest can hold m, made once. Then E[f(n') | n] = G_m' F_m, a matrix product for each m, and the
transpose runs the same walk backwards.

A configuration is indexed through its partial sums b_j = n_0 + ... + n_{j-1} as Σ_j C(b_j+j-1, j),
j < S, which does not depend on the number of agents: one index table serves every m.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from .._checks import stochastic
from ..numerics.arrays import dot

Array = jax.Array

# Walks go through a few loops over m, each with buffers of one size: fewer loops compile faster,
# more loops waste less. A loop may do this factor of the work needed, or this many entries of it.
_WASTE = 1.25
_FREE = 4_000_000


def num_configurations(num_agents: int, num_states: int) -> int:
    """Ways to spread N agents over S states, C(N + S - 1, S - 1); with no state, only N = 0."""
    if num_states == 0:
        return int(num_agents == 0)
    return math.comb(num_agents + num_states - 1, num_states - 1)


def configuration_index(counts: np.ndarray) -> np.ndarray:
    """Place of configurations `[..., S]` in the order of `configurations`, `[...]`."""
    partial = np.cumsum(np.asarray(counts, np.int64), axis=-1)[..., :-1]
    index = np.zeros(partial.shape[:-1], np.int64)
    for j in range(1, partial.shape[-1] + 1):
        rising = np.ones_like(index)  # C(b + j - 1, j), multiplied so that each step is exact
        for i in range(j):
            rising = rising * (partial[..., j - 1] + i) // (i + 1)
        index += rising
    return index


@lru_cache(maxsize=8)
def configurations(num_agents: int, num_states: int) -> np.ndarray:
    """All counts of N agents over S states, int `[C(N + S - 1, S - 1), S]`, read-only.

    Ordered by partial sums, the longest first, so that the configurations whose last count is at
    least one come first, in the order that they have without that agent.
    """
    partial = np.zeros((1, 0), np.int64)
    for j in range(1, num_states):
        blocks = [
            np.insert(partial[: num_configurations(b, j)], j - 1, b, axis=1)
            for b in range(num_agents + 1)
        ]
        partial = np.concatenate(blocks)
    counts = np.diff(partial, axis=1, prepend=0, append=num_agents)
    counts.flags.writeable = False
    return counts


class _Loop(NamedTuple):
    """Stages first <= m <= last, whose buffers have one size."""

    first: int
    last: int
    rows: int  # configurations of the last stage
    columns: int  # of F: ways the first half can hold N - first + 1 agents
    tails: int  # of G: ways the rest can hold the last stage's agents


class _Plan(NamedTuple):
    """Integer tables of a walk, all NumPy."""

    head: tuple[int, ...]  # states of the first half, in the order of the priority
    tail: tuple[int, ...]  # the rest, last served first
    loops: tuple[_Loop, ...]  # m = 1..N, ascending
    up: np.ndarray  # [S - 1, M_N] index of c + e_t (of c + e_{S-1}: that of c)
    down: np.ndarray  # [S - 1, M_N] index of c - e_t, -1 where c_t = 0
    place: np.ndarray  # [M_N] where the walk's output holds a configuration


def _ways(num_agents: int, num_states: int) -> np.ndarray:
    """Spread agents over states; those of a support within the first j states come first."""
    ways = [(0,) * num_states]
    for _ in range(num_agents):
        ways = [
            (*way[:j], way[j] + 1, *way[j + 1 :])
            for j in range(num_states)
            for way in ways
            if not any(way[j + 1 :])
        ]
    return np.array(ways, np.int64).reshape(len(ways), num_states)


def _make_loops(num_agents: int, num_head: int, num_states: int) -> tuple[_Loop, ...]:
    def loop(first: int, last: int) -> _Loop:
        return _Loop(
            first,
            last,
            rows=num_configurations(last, num_states),
            columns=max(1, num_configurations(num_agents - first + 1, num_head)),
            tails=max(1, num_configurations(last, num_states - num_head)),
        )

    def work(part: _Loop) -> int:
        stages = part.last - part.first + 1
        return stages * part.rows * (part.tails + part.columns)

    total = sum(work(loop(m, m)) for m in range(1, num_agents + 1))
    loops, last = [], num_agents
    while last:
        first = last
        needed = work(loop(last, last))
        while first > 1:
            needed += work(loop(first - 1, first - 1))
            wider = work(loop(first - 1, last))
            if wider > _WASTE * needed and wider > max(_FREE, total / 32):
                break
            first -= 1
        loops.append(loop(first, last))
        last = first - 1
    return tuple(reversed(loops))


@lru_cache(maxsize=8)
def _plan(num_agents: int, priority: tuple[int, ...]) -> _Plan:
    num_states = len(priority)
    num_head = (num_states + 1) // 2  # the first half is streamed, the rest is kept
    head, tail = priority[:num_head], priority[num_head:][::-1]
    counts = configurations(num_agents, num_states)
    unit = np.eye(num_states, dtype=np.int64)
    up = [configuration_index(counts + unit[t]) for t in range(num_states - 1)]
    down = [
        np.where(counts[:, t] > 0, configuration_index(np.maximum(counts - unit[t], 0)), -1)
        for t in range(num_states - 1)
    ]
    tables = np.array([up, down], np.int32).reshape(2, num_states - 1, len(counts))

    loops = _make_loops(num_agents, num_head, num_states)
    place = np.full(len(counts), -1, np.int32)
    offset = 0

    def locate(m: int, offset: int, stride: int):
        heads = _ways(num_agents - m, num_head)
        tails = _ways(m, len(tail))
        whole = np.zeros((len(tails), len(heads), num_states), np.int64)
        whole[..., list(head)] = heads
        whole[..., list(tail)] = tails[:, None, :]
        where = offset + np.arange(len(tails))[:, None] * stride + np.arange(len(heads))
        place[configuration_index(whole)] = where

    for part in loops:
        for m in range(part.first, part.last + 1):
            locate(m, offset, part.columns)
            offset += part.tails * part.columns
    locate(0, offset, num_configurations(num_agents, num_head))
    return _Plan(head, tail, loops, tables[0], tables[1], place)


def walk_size(num_agents: int, num_states: int, size: int) -> int:
    """Numbers that `NextCounts` and a walk of `size` functions hold at once, about.

    A bound on the laws of the last m agents, and the widest stage with its copies. Quick for any N.
    """
    num_head = (num_states + 1) // 2
    num_tail = num_states - num_head
    laws = math.comb(num_agents + num_states, num_states) * max(
        1, num_configurations(num_agents, num_tail)
    )
    some = range(0, num_agents + 1, num_agents // 100 + 1)
    stage = max(
        num_configurations(m, num_states) * num_configurations(num_agents - m + 1, num_head)
        for m in some
    )
    return laws * (5 if num_tail < 2 else 4) // 4 + 5 * stage * size


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "tails"],
    meta_fields=["num_agents", "priority"],
)
@dataclass(frozen=True)
class NextCounts:
    r"""The operator T: functions of the next counts to functions of the counts now.

    (T f)(n) = E[f(n') | n] when the M agents that come first in the priority are active.

    Attributes:
        rows: the kernel that each agent in turn moves by, `[N, S, S]`: the active one for the first
            M, the idle one for the rest.
        tails: laws of the last m agents, one array `[stages, rows, tails]` a loop. The largest
            arrays here: 0.3 GB for N = 60, S = 4, in float64.
        num_agents: N. Static.
        priority: states, first served first. Static.
    """

    rows: Array
    tails: tuple[Array, ...]
    num_agents: int
    priority: tuple[int, ...]

    def mv(self, f: Array) -> Array:
        """E[f(n') | n] for functions of configurations `[..., M]`, which a batch shares a walk."""
        plan = _plan(self.num_agents, self.priority)
        batch = f.shape[:-1]
        heads = f.reshape(-1, f.shape[-1]).T  # [M, B]
        size = heads.shape[1]
        out = []
        for part, tails in zip(reversed(plan.loops), reversed(self.tails), strict=True):
            width = part.columns * size
            heads = heads[: part.rows]
            heads = jnp.pad(heads, ((0, 0), (0, width - heads.shape[1])))

            def stage(F, step, part=part, size=size):
                m, tail = step
                emitted = dot(tail.T, F)
                return self._lower(F, m, part, size), emitted

            stages = jnp.arange(part.first, part.last + 1)
            heads, emitted = lax.scan(stage, heads, (stages, tails), reverse=True)
            out.append(emitted[:, : part.tails].reshape(-1, size))
        last = num_configurations(self.num_agents, len(plan.head))
        out = [*reversed(out), heads[:1, : last * size].reshape(-1, size)]
        return jnp.concatenate(out)[plan.place].T.reshape(*batch, -1)

    def vm(self, mu: Array) -> Array:
        """The transpose: `[..., M]` measures of configurations one step on, Σ_n μ(n) P(n' | n)."""
        plan = _plan(self.num_agents, self.priority)
        mu = jnp.asarray(mu)
        batch = mu.shape[:-1]
        mu = mu.reshape(-1, mu.shape[-1]).T  # [M, B]
        size = mu.shape[1]
        last = num_configurations(self.num_agents, len(plan.head))
        ends = np.cumsum([0] + [len(t) * p.tails * p.columns for p, t in self._parts()])
        flat = (
            jnp.zeros((ends[-1] + last, size), mu.dtype).at[plan.place].set(mu, unique_indices=True)
        )
        heads = flat[ends[-1] :].reshape(1, -1)
        for index, (part, tails) in enumerate(self._parts()):
            width = part.columns * size
            emitted = flat[ends[index] : ends[index + 1]].reshape(-1, part.tails, width)
            filled = self.tails[index].shape[-1] - part.tails  # on several devices (`spread`)
            emitted = jnp.pad(emitted, ((0, 0), (0, filled), (0, 0)))
            spare = ((0, part.rows - heads.shape[0]), (0, max(0, width - heads.shape[1])))
            heads = jnp.pad(heads[:, :width], spare)

            def stage(F, step, part=part, size=size):
                m, tail, weight = step
                pushed = dot(tail, weight)
                return pushed + self._raise(F, m, part, size), None

            stages = jnp.arange(part.first, part.last + 1)
            heads, _ = lax.scan(stage, heads, (stages, tails, emitted))
        return heads[:, :size].T.reshape(*batch, -1)

    def matrix(self) -> Array:
        """T itself, `[M, M]`, for few agents."""
        size = num_configurations(self.num_agents, len(self.priority))
        return self.mv(jnp.eye(size, dtype=self.rows.dtype)).T

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.rows)

    def spread(self, axes: Sequence[str], number: int) -> tuple["NextCounts", "NextCounts"]:
        """T with columns of zeros, so many that the devices divide them, and how it lies there."""
        last = [(0, 0)] * (self.tails[0].ndim - 1)
        tails = [jnp.pad(x, (*last, (0, -x.shape[-1] % number))) for x in self.tails]
        columns = PartitionSpec(*(None for _ in last), tuple(axes))
        spec = replace(self, rows=PartitionSpec(), tails=(columns,) * len(tails))
        return replace(self, tails=tuple(tails)), spec

    def _parts(self):
        plan = _plan(self.num_agents, self.priority)
        return list(zip(plan.loops, self.tails, strict=True))

    def _row(self, state: int, m: Array) -> Array:
        """Kernel row of the agent that leaves m - 1 behind it, if it is in this state."""
        return self.rows[self.num_agents - m, state]  # [S]

    def _lower(self, F: Array, m: Array, part: _Loop, size: int) -> Array:
        """One more agent of the first half is served: F_m to F_(m-1)."""
        plan = _plan(self.num_agents, self.priority)
        up = np.minimum(plan.up[:, : part.rows], part.rows - 1)
        grown = jnp.zeros_like(F)
        offset = 0
        for j, state in enumerate(plan.head):
            widest = num_configurations(self.num_agents - part.first, j + 1) * size
            moved = _shift(F[:, :widest], self._row(state, m), up)
            grown = lax.dynamic_update_slice(grown, moved, (0, offset * size))
            offset = offset + _num_ways(self.num_agents - m, j + 1)
        return grown

    def _raise(self, F: Array, m: Array, part: _Loop, size: int) -> Array:
        """Transpose of `_lower`."""
        plan = _plan(self.num_agents, self.priority)
        down = _outside(plan.down[:, : part.rows], part.rows)
        total = jnp.zeros_like(F)
        offset = 0
        for j, state in enumerate(plan.head):
            widest = num_configurations(self.num_agents - part.first, j + 1) * size
            ways = _num_ways(self.num_agents - m, j + 1)
            block = lax.dynamic_slice(F, (0, offset * size), (part.rows, widest))
            block = jnp.where(jnp.arange(widest)[None] < ways * size, block, 0)
            moved = _unshift(block, self._row(state, m), down)
            total = total.at[:, :widest].add(moved)
            offset = offset + ways
        return total


def _num_ways(num_agents: Array, num_states: int) -> Array:
    """`num_configurations` of a traced number of agents."""
    ways = jnp.ones_like(num_agents)
    for i in range(1, num_states):
        ways = ways * (num_agents + i) // i
    return ways


def _outside(down: np.ndarray, rows: int) -> np.ndarray:
    """-1 counts from the end in an index: send it past the end, where a gather fills."""
    return np.where(down < 0, rows, down)


def _shift(f: Array, row: Array, up: np.ndarray) -> Array:
    """D: Σ_t row(t) f(c + e_t), `[rows, columns]`. Rows beyond the stage are not meant."""
    out = row[-1] * f
    for t, index in enumerate(up):
        out = out + row[t] * f.at[index].get(mode="promise_in_bounds")
    return out


def _unshift(g: Array, row: Array, down: np.ndarray) -> Array:
    """D': Σ_t row(t) g(c - e_t), `[rows, columns]`, for g that is 0 beyond its stage."""
    out = row[-1] * g
    for t, index in enumerate(down):
        out = out + row[t] * g.at[index].get(mode="fill", fill_value=0)
    return out


def next_counts(
    kernel: Array, *, num_agents: int, budget: int | Array, priority: tuple[int, ...]
) -> NextCounts:
    """Prepare T for N agents, the M first in the priority active; differentiable in `kernel`.

    Args:
        kernel: local kernel, `[S, 2, S]`.
        num_agents: N >= 1. Static.
        budget: M; may be traced.
        priority: permutation of the states, first served first. Static.
    """
    plan = _plan(num_agents, priority)
    kernel = jnp.asarray(kernel)
    active = (jnp.arange(num_agents) < budget)[:, None, None]
    op = NextCounts(
        jnp.where(active, kernel[None, :, 1], kernel[None, :, 0]), (), num_agents, priority
    )
    law = jnp.ones((1, 1), kernel.dtype)
    tails = []
    for part in plan.loops:
        down = _outside(plan.down[:, : part.rows], part.rows)
        spare = ((0, part.rows - law.shape[0]), (0, part.tails - law.shape[1]))

        def stage(G, m, part=part, down=down):
            grown = jnp.zeros_like(G)
            offset = 0
            for j, state in enumerate(plan.tail):
                widest = num_configurations(part.last - 1, j + 1)
                moved = _unshift(G[:, :widest], op._row(state, m), down)
                grown = lax.dynamic_update_slice(grown, moved, (0, offset))
                offset = offset + _num_ways(m - 1, j + 1)
            return grown, grown

        stages = jnp.arange(part.first, part.last + 1)
        law, laws = lax.scan(stage, jnp.pad(law, spare), stages)
        tails.append(laws)
    return NextCounts(op.rows, tuple(tails), num_agents, priority)
