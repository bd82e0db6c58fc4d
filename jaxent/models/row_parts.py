r"""The rows of a kernel or of a policy where the first factors of the joint pair are given.

A chain of many pairs is worked on piece by piece (`chains.pieces`), a piece being the pairs that
begin alike. The kernel and the policy say by `part` what they are there: operators like themselves,
on the other factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..numerics.arrays import dot, einsum
from ..numerics.kron import kron_mv, kron_vm

Array = jax.Array
Scopes = tuple[tuple[int, ...], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KroneckerPart:
    """Rows of a Kronecker product: the first agents' pairs are given, the others' are not.

    Attributes:
        first: laws of the next states of the first agents, `[S_j]` each.
        rest: `[X_i, S_i]` of the others.
    """

    first: tuple[Array, ...]
    rest: tuple[Array, ...]

    def mv(self, v: Array) -> Array:
        """K v at these pairs, `[S]` to `[J']`. What is given is summed over before the rest."""
        for law in self.first:
            v = dot(law, v.reshape(len(law), -1))
        return kron_mv(self.rest, v)

    def vm(self, mu: Array) -> Array:
        """What these pairs add to the law of the next state, `[J']` to `[S]`."""
        total = kron_vm(self.rest, mu)
        for law in reversed(self.first):
            total = (law[:, None] * total[None]).reshape(-1)
        return total

    def flow(self, mu: Array, axes: Sequence[int]) -> Array:
        """The same by where it comes from, `[J']` to `[X_j.., S]`, j over some of the rest.

        A factor that is kept is the matrix `[X_j, X_j S_j]` with each row in a place of its own.
        """
        factors, shape, kept = list(self.rest), [], []
        for j, factor in enumerate(self.rest):
            if j in axes:
                size, states = factor.shape
                each = jnp.arange(size)
                factor = jnp.zeros((size, size, states), factor.dtype).at[each, each].set(factor)
                factors[j] = factor.reshape(size, -1)
                kept.append(len(shape))
                shape += [size, states]
            else:
                shape.append(factor.shape[1])
        total = jnp.moveaxis(kron_vm(factors, mu).reshape(shape), kept, range(len(kept)))
        pairs = total.shape[: len(kept)]
        total = total.reshape(*pairs, -1)
        for law in reversed(self.first):
            law = law.reshape((1,) * len(pairs) + (-1, 1))
            total = (law * total[..., None, :]).reshape(*pairs, -1)
        return total


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredPart:
    """Rows of such a kernel: the first `depth` factors are given, and its tables read the others.

    Attributes:
        tables: `[X_j.., S_i]` of every agent, j over the factors that `scopes[i]` lists.
        scopes: the factors that are read and not given. Static.
        sizes: of all factors. Static.
        depth: how many are given. Static.
    """

    tables: tuple[Array, ...]
    scopes: Scopes = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})
    depth: int = field(metadata={"static": True})

    def mv(self, v: Array) -> Array:
        """K v at these pairs, `[S]` to `[J']`."""
        n = len(self.sizes)
        v = v.reshape([table.shape[-1] for table in self.tables])
        return named_product([(v, range(n, 2 * n)), *self._terms()], range(self.depth, n)).reshape(
            -1
        )

    def vm(self, mu: Array) -> Array:
        """What these pairs add to the law of the next state, `[J']` to `[S]`."""
        n = len(self.sizes)
        given = (mu.reshape(self.sizes[self.depth :]), range(self.depth, n))
        return named_product([given, *self._terms()], range(n, 2 * n)).reshape(-1)

    def flow(self, mu: Array, axes: Sequence[int]) -> Array:
        """The same by where it comes from, `[J']` to `[X_j.., S]`, j over some of the rest."""
        n = len(self.sizes)
        given = (mu.reshape(self.sizes[self.depth :]), range(self.depth, n))
        kept = sorted(self.depth + j for j in axes)
        total = named_product([given, *self._terms()], (*kept, *range(n, 2 * n)))
        return total.reshape(*total.shape[: len(kept)], -1)

    def _terms(self) -> list[tuple[Array, Any]]:
        unread = set(range(self.depth, len(self.sizes))).difference(*self.scopes)
        ones = [(jnp.ones(self.sizes[k], self.tables[0].dtype), (k,)) for k in sorted(unread)]
        return with_axes(self.tables, self.scopes) + ones


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredPolicyPart:
    """Such a policy where the first `depth` agents' states and actions are given.

    Attributes:
        tables: what is left of the table of every agent.
        axes: of each, states k and actions N + k that are not given. Static.
        pair_shape: (S_k, A_k, ...) of the other agents. Static.
        depth: how many are given. Static.
    """

    tables: tuple[Array, ...]
    axes: Scopes = field(metadata={"static": True})
    pair_shape: tuple[int, ...] = field(metadata={"static": True})
    depth: int = field(metadata={"static": True})

    def mv(self, f: Array) -> Array:
        """What these pairs add to the mean over actions, `[J']` to `[S']`."""
        given = (f.reshape(self.pair_shape), self._pairs())
        return named_product([given, *self._terms()], self._pairs()[::2]).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of these pairs, `[S']` to `[J']`."""
        given = (mu.reshape(self.pair_shape[::2]), self._pairs()[::2])
        return named_product([given, *self._terms()], self._pairs()).reshape(-1)

    def _terms(self) -> list[tuple[Array, Any]]:
        return list(zip(self.tables, self.axes, strict=True))

    def _pairs(self) -> list[int]:
        """The axes of states and actions of the others, in the order of pairs."""
        n = len(self.tables)
        return [axis for k in range(self.depth, n) for axis in (k, n + k)]


def row_of(table: Array, k: Array) -> Array:
    """`table[k]`, as a slice that XLA does not copy to look up."""
    return lax.dynamic_index_in_dim(table, k, 0, keepdims=False)


def rows_given(table: Array, axes: Sequence[int], given: dict[int, Array]) -> tuple[Array, Any]:
    """The table where some of its named axes are given, and the axes that are left."""
    for axis in reversed(range(len(axes))):
        if axes[axis] in given:
            table = lax.dynamic_index_in_dim(table, given[axes[axis]], axis, keepdims=False)
    return table, tuple(name for name in axes if name not in given)


def with_axes(tables: Sequence[Array], scopes: Scopes) -> list[tuple[Array, Any]]:
    """Each table with its axes: what it reads, then its own next state or action, axis N + i."""
    pairs = enumerate(zip(tables, scopes, strict=True))
    return [(table, (*scope, len(scopes) + i)) for i, (table, scope) in pairs]


def named_product(terms: Sequence[tuple[Array, Any]], out: Any) -> Array:
    """The product of tables with named axes, summed over the axes that are not in `out`."""
    operands = [part for table, axes in terms for part in (table, list(axes))]
    return einsum(*operands, list(out))
