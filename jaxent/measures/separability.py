r"""Is a chain separable? The test and the decomposition.

Two agents are separable (Def. 1) if P = Σ_j w_j P_A^(j) ⊗ P_B^(j) with stochastic factors and
weights that sum to 1, some perhaps negative. The span of such products is a linear space: neither
agent's next pair depends on the other's current pair (no signaling). For N agents (Def. 10): for
every i, summing out agent i's next pair leaves nothing that depends on agent i's current pair.

Agent-wise separability asks less for N >= 3: the next pair of each agent depends on its own pair
alone. Every E_i is then 0 and the decomposition of values is exact, for every reward.

The tests are plain JAX. Decompositions have as many terms as the chain needs, so they run outside
jit, in float64 NumPy. Everything here but `is_agentwise_separable` forms the matrix of the chain.
"""

from functools import reduce
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from .._checks import renamed
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.views import ProductForm, product_form, rows_by_view
from ..numerics.arrays import ratio
from ..numerics.compiled import jit

Array = jax.Array

# Deviations below 64 machine epsilons count as rounding.
NOISE_EPS = 64


@reads("the chain as a sum of {0.weights.size} products of local transitions")
class SeparableDecomposition(NamedTuple):
    """P = Σ_k `weights[k]` `factors[0][k]` ⊗ `factors[1][k]` ⊗ ...

    Attributes:
        weights: sum to 1 and may be negative, `[K]`.
        factors: one `[K, X_i, X_i]` an agent, row-stochastic.
    """

    weights: np.ndarray
    factors: tuple[np.ndarray, ...]


@renamed(tolerance="tol")
def is_separable(chain: PairChain, *, tol: float | None = None) -> Array:
    r"""Whether P is a weighted sum of products of stochastic matrices (Defs. 1 and 10).

    For every i, Σ_{y_i} P(y | x) must not depend on x_i.

    Args:
        chain: of agents whose pairs make up the joint pair; its matrix is formed.
        tol: largest deviation from the mean over x_i that still counts as none; 64 machine
            epsilons by default. Static.

    Returns:
        A bool, which may be traced.

    Examples:
        >>> import jaxent
        >>> for P in jaxent.pr_box(), jaxent.appendix_e():
        ...     print(jaxent.is_separable(jaxent.PairChain.from_matrix(P, sizes=(2, 2))))
        True
        False
    """
    return _signaling(chain).max() <= _tol(chain, tol)


@renamed(tolerance="tol")
def is_agentwise_separable(chain: PairChain, *, tol: float | None = None) -> Array:
    r"""Whether each agent's next pair depends on its own pair alone: every E_i is 0.

    Enough for exact decomposition. For two agents it is separability; for more it is weaker.

    Args:
        chain: any chain, matrix-free.
        tol: as for `is_separable`.
    """
    check_chain(chain)
    each = jnp.ones(chain.num_pairs, chain.dtype)
    worst = [_spread(*rows_by_view(chain, each, agent=i)) for i in range(len(chain.views))]
    return jnp.stack(worst).max() <= _tol(chain, tol)


@renamed(tolerance="tol")
def separable_decomposition(
    chain: PairChain, *, tol: float | None = None
) -> SeparableDecomposition:
    r"""Weights and stochastic factors whose weighted Kronecker sum is P.

    Two agents: with R[(x_A, y_A), (x_B, y_B)] = P, no signaling makes every column of R a multiple
    of a stochastic matrix. Rank-many independent columns A_j are a basis, R = Σ_j A_j c_j', and a
    multiple of P_B added to each c_j makes it non-negative at the price of one term more, the only
    negative one. So there are r or r + 1 terms, where r is the operator-Schmidt rank and no
    decomposition has fewer than r. More agents: the same for the first against the rest, then again
    for each term.

    Args:
        chain: of agents whose pairs make up the joint pair, concrete.
        tol: as for `is_separable`.

    Raises:
        ValueError: if the chain is not separable, naming the agent that signals.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> print(jaxent.separable_decomposition(chain).weights.round(3))
        [ 0.5  0.5  1.  -1. ]
    """
    deviation = np.asarray(_signaling(chain))
    if not deviation.max() <= _tol(chain, tol):
        agent = int(deviation.argmax())
        raise ValueError(
            f"chain: is not separable; the others' next pairs depend on the pair of agent {agent} "
            f"by up to {deviation[agent]:.3g}"
        )
    form = product_of_agents(chain)
    P = np.asarray(form.matrix(chain), np.float64)
    terms = _split(P, form.sizes, _coarseness(chain))
    weights = np.array([weight for weight, _ in terms])
    factors = tuple(np.stack(f) for f in zip(*(matrices for _, matrices in terms), strict=True))
    # Weights that grow on the way magnify rounding; one correction takes it off again.
    products = np.stack([reduce(np.kron, matrices).ravel() for _, matrices in terms], 1)
    weights = weights + np.linalg.lstsq(products, P.ravel() - products @ weights, rcond=None)[0]
    return SeparableDecomposition(weights, factors)


def product_of_agents(chain: PairChain) -> ProductForm:
    """The joint pair as a tuple of the agents' pairs, or an error where it is none."""
    form = product_form(chain)
    if form is None:
        raise ValueError(
            "chain: wanted agents whose pairs make up the joint pair, each its own factor; got "
            f"views of {chain.view_sizes} local pairs over {chain.num_pairs} joint ones"
        )
    return form


def _tol(chain: PairChain, tol: float | None) -> float:
    return NOISE_EPS * float(jnp.finfo(chain.dtype).eps) if tol is None else tol


def _signaling(chain: PairChain) -> Array:
    """How far the others' next pairs depend on agent i's pair, largest deviation, `[N]`."""
    return _deviations(chain, *product_of_agents(chain)[::-1])


@jit(static_argnums=2)
def _deviations(chain: PairChain, order: Array | None, sizes: tuple[int, ...]) -> Array:
    P = ProductForm(sizes, order).matrix(chain).reshape(*sizes, *sizes)
    deviations = []
    for i in range(len(sizes)):
        others = P.sum(len(sizes) + i)
        deviations.append(jnp.abs(others - others.mean(i, keepdims=True)).max())
    return jnp.stack(deviations)


@jit
def _spread(rows: Array, there: Array) -> Array:
    """How far the next pair depends on anything but the own one, largest deviation."""
    there = there[..., None]  # [X, C, 1]
    mean = ratio((there * rows).sum(1, keepdims=True), there.sum(1, keepdims=True))
    return jnp.abs(there * (rows - mean)).max()


def _coarseness(chain: PairChain) -> float:
    """How much coarser than float64 the entries of the chain are: 1 where they are that."""
    return float(jnp.finfo(chain.dtype).eps) / float(np.finfo(np.float64).eps)


def _split(
    P: np.ndarray, sizes: tuple[int, ...], coarse: float
) -> list[tuple[float, tuple[np.ndarray, ...]]]:
    """Terms (weight, factors) of a stochastic separable matrix, whose entries are so coarse."""
    if len(sizes) == 1:
        return [(1.0, (P / P.sum(-1, keepdims=True),))]
    X, rest = sizes[0], prod(sizes[1:])
    R = P.reshape(X, rest, X, rest).transpose(0, 2, 1, 3).reshape(X * X, rest * rest)
    pivoted = scipy.linalg.qr(R, mode="r", pivoting=True)
    size, order = np.abs(np.diag(np.asarray(pivoted[0]))), np.asarray(pivoted[-1])
    rank = int((size > 8 * coarse * np.finfo(float).eps * max(R.shape) * size[0]).sum())
    basis = R[:, order[:rank]].reshape(X, X, rank)
    basis = (basis / basis.sum(1, keepdims=True)).reshape(X * X, rank)
    parts = np.linalg.lstsq(basis, R, rcond=None)[0].reshape(rank, rest, rest)
    # Parts of a nearly dependent basis err by far more than their sum does: what is no transition
    # of the others is projected away, which is linear and leaves the sum alone.
    laws = _marginals(P, sizes)[1:]
    parts = _project(parts, laws)
    # A law of the rest that is positive wherever a part is not 0: enough of it in each part makes
    # that part non-negative, and comes off again in one last term.
    cover = R.reshape(X, X, rest, rest).sum(1).mean(0)
    cover = (cover / cover.sum(-1, keepdims=True) + reduce(np.kron, laws)) / 2
    parts = np.where(cover > 0, parts, 0)
    needed = np.where(cover > 0, -parts / np.where(cover > 0, cover, 1), 0).max((1, 2))
    shifts = np.where(needed > 1e-13 * coarse, needed, 0)
    factors = [basis[:, j].reshape(X, X) for j in range(rank)]
    pieces = [part + shift * cover for part, shift in zip(parts, shifts, strict=True)]
    if shifts.sum() > 0:
        factors.append((basis @ shifts / shifts.sum()).reshape(X, X))
        pieces.append(-shifts.sum() * cover)
    terms: list[tuple[float, tuple[np.ndarray, ...]]] = []
    for factor, piece in zip(factors, pieces, strict=True):
        weight = piece.sum() / rest
        if np.abs(piece).max() <= 1e-15 * coarse:
            continue  # the shift took the whole part away
        for inner, others in _split(np.maximum(piece / weight, 0), sizes[1:], coarse):
            terms.append((weight * inner, (factor, *others)))
    return terms


def _marginals(P: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Each agent's transition, the mean over the pairs of the others, `[X_i, X_i]`."""
    n = len(sizes)
    grid, others = P.reshape(*sizes, *sizes), [[k for k in range(n) if k != i] for i in range(n)]
    laws = [grid.sum(tuple(n + k for k in rest)).mean(tuple(rest)) for rest in others]
    return [law / law.sum(-1, keepdims=True) for law in laws]


def _project(parts: np.ndarray, laws: list[np.ndarray]) -> np.ndarray:
    """Matrices `[r, J', J']`, projected along these laws on what products of transitions span."""
    n, sizes = len(laws), tuple(map(len, laws))
    grid = parts.reshape(-1, *sizes, *sizes)
    for i, law in enumerate(laws):
        sums = grid.sum(1 + n + i, keepdims=True)
        excess = sums - sums.mean(1 + i, keepdims=True)
        shape = [size if k % n == i else 1 for k, size in enumerate(sizes * 2)]
        grid = grid - excess * law.reshape(shape)
    return grid.reshape(parts.shape)
