r"""Agent-major indexing and Kronecker products: the two conventions everything rests on.

1. Rows are "from": `P[x, x_next]` is the probability of x -> x_next, rows sum to 1, `P @ v` is an
   expectation and `mu @ P == mu` for a stationary law.
2. Joint indices are agent-major, C order. A pair is `x = s * A + a` and a joint pair
   `j = x_0 * X_1 * ... + x_1 * X_2 * ... + ...`, so `jnp.kron`, `reshape(*sizes)` and the paper's
   r_A ⊗ e agree. Joint tables of states and actions are `[S_0, ..., S_{N-1}, A_0, ..., A_{N-1}]`;
   for pairs the order is (s_0, a_0, s_1, a_1, ...), and `pair_order` turns the one into the other.

A Kronecker product is applied factor by factor and never formed: one matrix product an axis, from
the last to the first, which leaves its axis in front, so that in the end they stand where they
began. Each pass moves the whole vector, so small neighbors (two agents of four states, four of
two) are one factor.
"""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import HIGHEST

Array = jax.Array

# Columns of a packed factor, at most: a wider one costs more arithmetic than the pass it saves.
_COLUMNS = 16


def kron(matrices: Sequence[Array]) -> Array:
    """The product M_0 ⊗ M_1 ⊗ ..., `[Π m_i, Π n_i]`."""
    return reduce(jnp.kron, matrices)


def kron_mv(matrices: Sequence[Array], v: Array) -> Array:
    r"""(M_0 ⊗ M_1 ⊗ ...) v, factor by factor.

    Args:
        matrices: `[m_i, n_i]` each.
        v: `[Π n_i]`.

    Returns:
        `[Π m_i]`.
    """
    for matrix in reversed(_packed(matrices)):
        rows = v.reshape(-1, matrix.shape[1])  # [rest, n_i]
        last = (((1,), (1,)), ((), ()))
        v = lax.dot_general(matrix, rows, last, precision=HIGHEST)  # [m_i, rest]
    return v.reshape(-1)


def _packed(matrices: Sequence[Array]) -> list[Array]:
    """The same product, of fewer matrices: neighbors with few columns between them as one."""
    packed: list[Array] = []
    for matrix in matrices:
        if packed and packed[-1].shape[1] * matrix.shape[1] <= _COLUMNS:
            matrix = jnp.kron(packed.pop(), matrix)
        packed.append(matrix)
    return packed


def num_terms(matrices: Sequence[Array]) -> int:
    """How many products are added up, one factor after another, into an entry of `kron_mv`."""
    widths = [1]
    for matrix in matrices:
        width = matrix.shape[1]
        fits = widths[-1] * width <= _COLUMNS
        widths = [*widths[:-1], widths[-1] * width] if fits else [*widths, width]
    return sum(widths)


def kron_vm(matrices: Sequence[Array], mu: Array) -> Array:
    """Apply from the left, mu (M_0 ⊗ M_1 ⊗ ...): `[Π m_i]` to `[Π n_i]`."""
    return kron_mv([matrix.T for matrix in matrices], mu)


def kron_sum(vectors: Sequence[Array]) -> Array:
    """The sum f_0 ⊗ e ⊗ ... + e ⊗ f_1 ⊗ ... + ..., `[Π n_i]`."""
    return reduce(lambda f, g: (f[:, None] + g[None]).reshape(-1), vectors)


def pair_order(table: Array) -> Array:
    """Joint table `[S_0.., A_0..]` with its axes in the order of pairs, `[S_0, A_0, S_1, A_1, ..]`.

    A scalar field over (states, actions) becomes, raveled, a joint vector `[J]`.
    """
    num_agents = table.ndim // 2
    return table.transpose([k for i in range(num_agents) for k in (i, num_agents + i)])


def state_order(pairs: Array) -> Array:
    """Undo `pair_order`: `[S_0, A_0, S_1, A_1, ..]` to `[S_0.., A_0..]`."""
    return pairs.transpose([*range(0, pairs.ndim, 2), *range(1, pairs.ndim, 2)])
