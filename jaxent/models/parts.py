r"""Kernels and policies as linear operators: two of the three parts that make a chain.

The kernel K takes a function of the next state to its expectation at each joint pair, the policy Π
averages a function of the pair over the actions taken in each state. Dense, Kronecker and tables
that each read a few factors: an agent whose next state depends on the pairs in a set Z_i, and on
nothing else given them, makes

    (K v)(x) = Σ_s' Π_i P_i(s_i' | x_{Z_i}) v(s'),

a tensor network whose contraction never forms K: it sums over one agent's next state after another.
A shared signal is one more factor, read by everyone (App. J.1); agents of a factored MDP read their
neighbors (App. J.2); a policy may read the states of a few agents likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from .._checks import stochastic
from ..numerics.arrays import HIGHEST, dot
from ..numerics.kron import kron, kron_mv, kron_vm, num_terms, pair_order
from .contracts import Kernel
from .layouts import FactorLayout, product_layout
from .row_parts import (
    FactoredPart,
    FactoredPolicyPart,
    KroneckerPart,
    Scopes,
    named_product,
    row_of,
    rows_given,
    with_axes,
)

Array = jax.Array
AnyKernel = TypeVar("AnyKernel", bound=Kernel)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseKernel:
    """Any kernel, as its matrix `[J, S]`."""

    table: Array

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        return dot(self.table, v)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        return dot(mu, self.table)

    def matrix(self) -> Array:
        """K itself."""
        return self.table

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.table)

    def spread(self, axes: Sequence[str]) -> "DenseKernel":
        """How the matrix lies on a mesh of devices: its rows along all axes of the mesh."""
        return DenseKernel(PartitionSpec(tuple(axes)))  # type: ignore[arg-type]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KroneckerKernel:
    """Independent agents, K = ⊗ P_i with P_i `[X_i, S_i]`, applied factor by factor."""

    factors: tuple[Array, ...]

    @property
    def num_terms(self) -> int:
        """How many products are added up into an entry of K v: the sums are nested."""
        return num_terms(self.factors)

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        return kron_mv(self.factors, v)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        return kron_vm(self.factors, mu)

    def matrix(self) -> Array:
        """K `[J, S]`, for small chains."""
        return kron(self.factors)

    def stochastic(self) -> Array:
        """Whether every row of every factor is a probability vector."""
        return jnp.stack([stochastic(factor) for factor in self.factors]).all()

    def spread(self, axes: Sequence[str]) -> "KroneckerKernel":
        """How the factors lie on a mesh of devices: every device has them whole."""
        del axes
        return KroneckerKernel(tuple(PartitionSpec() for _ in self.factors))  # type: ignore[arg-type]

    def part(self, pairs: Sequence[Array]) -> KroneckerPart:
        """K of the joint pairs whose first factors are these."""
        first = [row_of(factor, x) for factor, x in zip(self.factors, pairs, strict=False)]
        return KroneckerPart(tuple(first), self.factors[len(first) :])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TablePolicy:
    """A joint policy table, its axes in the order of pairs: `[S_0, A_0, S_1, A_1, ...]`."""

    table: Array

    @property
    def num_states(self) -> int:
        """Number of joint states."""
        return prod(self.table.shape[::2])

    def mv(self, f: Array) -> Array:
        """The mean over actions in each state, Π f, `[J]` to `[S]` or `[J, k]` to `[S, k]`."""
        states, actions = (tuple(range(k, self.table.ndim, 2)) for k in (0, 1))
        mean = lax.dot_general(
            self.table,
            f.reshape(*self.table.shape, *f.shape[1:]),
            ((actions, actions), (states, states)),
            precision=HIGHEST,
        )
        return mean.reshape(-1, *f.shape[1:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair where the state has law mu, `[S]` to `[J]`."""
        shape = [n if axis % 2 == 0 else 1 for axis, n in enumerate(self.table.shape)]
        return (self.table * mu.reshape(shape)).reshape(-1)

    def stochastic(self) -> Array:
        """Whether the actions in every state have probabilities."""
        actions = tuple(range(1, self.table.ndim, 2))
        rows = jnp.moveaxis(self.table, actions, range(-len(actions), 0))
        return stochastic(rows.reshape(self.num_states, -1))

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """(S_0, A_0, S_1, A_1, ...)."""
        return self.table.shape

    def part(self, place: Sequence[Array], start: Sequence[Array | int]) -> "TablePolicy":
        """Π of the pairs whose first states and actions are these, of a table cut off at a start.

        Its rows need not sum to 1: the other actions of the first agents are elsewhere.
        """
        rest = self.table.shape[len(place) :]
        first = [jnp.int32(k - origin) for k, origin in zip(place, start, strict=True)]
        zeros = [jnp.int32(0) for _ in rest]
        sizes = (*(1 for _ in place), *rest)
        return TablePolicy(lax.dynamic_slice(self.table, [*first, *zeros], sizes).reshape(rest))

    def spread(self, axes: Sequence[str]) -> "TablePolicy":
        """How the table lies on a mesh of devices: its first axes along those of the mesh."""
        return TablePolicy(PartitionSpec(*axes))  # type: ignore[arg-type]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoChoice:
    """Π of a chain given as a matrix: the pair is the state."""

    num_states: int = field(metadata={"static": True})

    def mv(self, f: Array) -> Array:
        """The function itself."""
        return f

    def vm(self, mu: Array) -> Array:
        """The law itself."""
        return mu

    def stochastic(self) -> Array:
        """Always."""
        return jnp.array(True)

    def spread(self, axes: Sequence[str]) -> "NoChoice":
        """How it lies on a mesh of devices: there is nothing to lie."""
        del axes
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredKernel:
    """K = Π P_i with P_i `[X_j.., S_i]`, j over the factors that `scopes[i]` lists."""

    tables: tuple[Array, ...]
    scopes: Scopes = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        n = len(self.sizes)
        v = v.reshape([table.shape[-1] for table in self.tables])
        return self._contract([(v, range(n, 2 * n))], range(n))

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        n = len(self.sizes)
        return self._contract([(mu.reshape(self.sizes), range(n))], range(n, 2 * n))

    def matrix(self) -> Array:
        """K `[J, S]`, for small chains."""
        return self._contract([], range(2 * len(self.sizes))).reshape(prod(self.sizes), -1)

    def stochastic(self) -> Array:
        """Whether every row of every table is a probability vector."""
        return jnp.stack([stochastic(table) for table in self.tables]).all()

    def spread(self, axes: Sequence[str]) -> "FactoredKernel":
        """How the tables lie on a mesh of devices: every device has them whole."""
        del axes
        return replace(self, tables=tuple(PartitionSpec() for _ in self.tables))

    def part(self, pairs: Sequence[Array]) -> FactoredPart:
        """K of the joint pairs whose first factors are these."""
        given = dict(enumerate(pairs))
        kept = [
            rows_given(table, (*scope, -1), given)
            for table, scope in zip(self.tables, self.scopes, strict=True)
        ]
        tables, axes = zip(*kept, strict=True)
        scopes = tuple(scope[:-1] for scope in axes)
        return FactoredPart(tables, scopes, self.sizes, len(given))

    def _contract(self, given: list, out: range) -> Array:
        """Axes 0..N-1 are the pairs x_i, axes N..2N-1 the next states."""
        n = len(self.sizes)
        terms = with_axes(self.tables, self.scopes)
        # A factor that nobody reads is still a factor of the pair.
        unread = set(range(n)).difference(*self.scopes)
        terms += [(jnp.ones(self.sizes[k], self.tables[0].dtype), (k,)) for k in sorted(unread)]
        return named_product([*given, *terms], out).reshape(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredPolicy:
    """Π = Π_i π_i with π_i `[S_j.., A_i]`, j over the agents that `scopes[i]` lists."""

    tables: tuple[Array, ...]
    scopes: Scopes = field(metadata={"static": True})
    states: tuple[int, ...] = field(metadata={"static": True})

    @property
    def num_states(self) -> int:
        """Number of joint states."""
        return prod(self.states)

    def mv(self, f: Array) -> Array:
        """The mean over actions in each state, Π f, `[J]` to `[S]` or `[J, k]` to `[S, k]`."""
        pairs, n = self._pairs(), len(self.states)
        sizes = [k for s, table in zip(self.states, self.tables, strict=True)
                 for k in (s, table.shape[-1])]  # fmt: skip
        columns = range(2 * n, 2 * n + f.ndim - 1)
        given = (f.reshape(*sizes, *f.shape[1:]), (*pairs, *columns))
        mean = named_product([given, *with_axes(self.tables, self.scopes)], (*range(n), *columns))
        return mean.reshape(-1, *f.shape[1:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair where the state has law mu, `[S]` to `[J]`."""
        given = (mu.reshape(self.states), range(len(self.states)))
        return named_product([given, *with_axes(self.tables, self.scopes)], self._pairs()).reshape(
            -1
        )

    def stochastic(self) -> Array:
        """Whether the actions of every agent have probabilities everywhere."""
        return jnp.stack([stochastic(table) for table in self.tables]).all()

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """(S_0, A_0, S_1, A_1, ...)."""
        actions = [table.shape[-1] for table in self.tables]
        return tuple(n for pair in zip(self.states, actions, strict=True) for n in pair)

    def part(self, place: Sequence[Array], start: Sequence[Array | int]) -> FactoredPolicyPart:
        """Π of the pairs whose first states and actions are these. No table is ever cut off."""
        del start
        n, depth = len(self.states), len(place) // 2
        given = {k: place[2 * k] for k in range(depth)}
        given |= {n + k: place[2 * k + 1] for k in range(depth)}
        terms = [
            rows_given(table, axes, given) for table, axes in with_axes(self.tables, self.scopes)
        ]
        tables, axes = zip(*terms, strict=True)
        return FactoredPolicyPart(tables, axes, self.pair_shape[2 * depth :], depth)

    def spread(self, axes: Sequence[str]) -> "FactoredPolicy":
        """How the tables lie on a mesh of devices: every device has them whole."""
        del axes
        return replace(self, tables=tuple(PartitionSpec() for _ in self.tables))

    def _pairs(self) -> list[int]:
        """Axes 0..N-1 are the states, axes N..2N-1 the actions; in the order of pairs."""
        n = len(self.states)
        return [axis for i in range(n) for axis in (i, n + i)]


def by_pair(table: Array, num_agents: int) -> Array:
    """The leading axes `[S_0.., A_0.., ..]` in the order of pairs, `[S_0, A_0, S_1, .., ..]`."""
    order = [k for i in range(num_agents) for k in (i, num_agents + i)]
    return table.transpose(*order, *range(2 * num_agents, table.ndim))


def product_parts(kernel: AnyKernel, policy: Array) -> tuple[AnyKernel, TablePolicy, FactorLayout]:
    """The parts of agents with a state and an action each: a policy `[S_0.., A_0..]`, views x_i."""
    table = pair_order(policy)
    sizes = [s * a for s, a in zip(table.shape[::2], table.shape[1::2], strict=True)]
    return kernel, TablePolicy(table), product_layout(sizes)
