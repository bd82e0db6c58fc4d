r"""Distances between chains (Defs. 4 to 8).

Each compares two chains P, P' on the same joint pairs. The agent-wise ones look at one view only,
through the rows P(x_i' | joint pair), so the other chain may as well be a local transition. In

    ||M||_{mu, inf} = sup { mu' |M x| : |x_k| <= 1 }

the supremum is attained at a sign vector. Up to 16 columns all are tried; beyond that the answer is
a bracket, a relaxation above and local search below.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_shape
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.views import view_transition
from ..models.contracts import Agents, ArrayLike
from ..numerics.arrays import dot, takes_arrays
from ..numerics.simplex import total_variation

Array = jax.Array

# All sign vectors are tried up to 16 columns.
MAX_ENUMERATED = 16
_AT_ONCE = 2**22
_SEARCHES = 64


@reads("between {0.lower:.9g} and {0.upper:.9g}")
class SignNorm(NamedTuple):
    """A supremum over sign vectors: lower <= sup <= upper, equal where all were tried.

    Attributes:
        upper: an upper bound.
        lower: what `signs` attains.
        signs: the best sign vector found, `[m]`.
    """

    upper: Array
    lower: Array
    signs: Array


@takes_arrays("x", "mu")
def mu_norm(x: Array, mu: Array) -> Array:
    """mu' |x| (Def. 6)."""
    return mu @ jnp.abs(x)


@takes_arrays("matrix", "mu")
def mu_inf_norm(matrix: Array, mu: Array) -> SignNorm:
    """sup of mu' |M x| over |x_k| <= 1, the norm that M has from sup to mu-norm.

    Args:
        matrix: M, `[J, m]`.
        mu: nonnegative, `[J]`.
    """
    check_shape("mu", mu, (matrix.shape[0],))
    matrix = jnp.asarray(matrix)
    m = matrix.shape[1]
    if m <= MAX_ENUMERATED:
        signs = jnp.asarray(sign_vectors(m), matrix.dtype)  # [R, m]

        def attained(x):
            return mu @ jnp.abs(dot(matrix, x))

        batch = max(1, _AT_ONCE // matrix.size)
        values = lax.map(attained, signs, batch_size=min(batch, len(signs)))
        best = values.argmax()
        return SignNorm(values[best], values[best], signs[best])
    return _bracket(matrix, mu)


def sign_vectors(m: int) -> np.ndarray:
    """Every vector of m signs up to a common sign, the first +1, `[2^(m - 1), m]`."""
    bits = (np.arange(2 ** (m - 1))[:, None] >> np.arange(m - 1)) & 1
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2.0 * bits], 1)


def _bracket(matrix: Array, mu: Array) -> SignNorm:
    """Local search from the likeliest sign vectors; Cauchy-Schwarz and entrywise sums above."""
    scaled = mu[:, None] * matrix
    gram = dot(matrix.T, scaled)
    values, vectors = jnp.linalg.eigh(gram)
    m = matrix.shape[1]
    spectral = jnp.sqrt(jnp.maximum(values[-1], 0) * m * mu.sum())
    entrywise = jnp.abs(scaled).sum()
    rows = jnp.abs(matrix).sum(1).argsort()[-_SEARCHES:]
    starts = jnp.concatenate([vectors.T, matrix[rows]])
    starts = jnp.where(starts >= 0, 1.0, -1.0).astype(matrix.dtype)

    def improve(carry):
        x, value, _ = carry
        # For fixed signs of M x the best x is the sign of the gradient.
        new = jnp.where(jnp.sign(matrix @ x) @ scaled >= 0, 1.0, -1.0).astype(matrix.dtype)
        found = mu_norm(matrix @ new, mu)
        return new, found, found > value

    def search(x):
        start = (x, mu_norm(matrix @ x, mu), jnp.array(True))
        x, value, _ = lax.while_loop(lambda carry: carry[2], improve, start)
        return x, value

    found, attained = lax.map(search, starts)
    best = attained.argmax()
    return SignNorm(jnp.minimum(spectral, entrywise), attained[best], found[best])


def tv_distance(chain: PairChain, other: PairChain) -> Array:
    """The largest TV distance between rows (Def. 4)."""
    _check_both(chain, other)
    return total_variation(chain.matrix(), other.matrix()).max()


def mu_tv_distance(chain: PairChain, other: PairChain, mu: ArrayLike) -> Array:
    """The mu-weighted mean of TV distances between rows (Def. 7)."""
    _check_both(chain, other)
    check_shape("mu", mu, (chain.num_pairs,))
    return jnp.asarray(mu) @ total_variation(chain.matrix(), other.matrix())


def atv_distance(chain: PairChain, other: PairChain, *, agent: Agents) -> Array:
    """The largest TV distance between laws of one agent's next pair (Def. 5)."""
    _check_both(chain, other)
    rows = (view_transition(c, agent=agent) for c in (chain, other))
    return total_variation(*rows).max()


def mu_atv_distance(
    chain: PairChain, other: PairChain, mu: ArrayLike, *, agent: Agents
) -> SignNorm:
    """1/2 sup over |x| <= 1 of the mu-norm of (P - P')(x (x) e) (Def. 8)."""
    _check_both(chain, other)
    check_shape("mu", mu, (chain.num_pairs,))
    apart = view_transition(chain, agent=agent) - view_transition(other, agent=agent)
    norm = mu_inf_norm(apart, jnp.asarray(mu))
    return SignNorm(norm.upper / 2, norm.lower / 2, norm.signs)


def _check_both(chain: PairChain, other: PairChain) -> None:
    check_chain(chain)
    check_chain(other, "other")
    if chain.view_sizes != other.view_sizes or chain.sizes != other.sizes:
        raise ValueError(
            f"other: has pairs of sizes {other.sizes} in views of {other.view_sizes}, where chain "
            f"has {chain.sizes} in {chain.view_sizes}; the two must have the same"
        )
