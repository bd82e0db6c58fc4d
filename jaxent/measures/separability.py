r"""Is a chain separable? The test, the decomposition, and the reward that shows it is not.

Two agents are separable (Def. 1) if P = Σ_j w_j P_A^(j) ⊗ P_B^(j) with stochastic factors and
weights that sum to 1, some perhaps negative. The span of such products is a linear space: neither
agent's next pair depends on the other's current pair (no signaling). For N agents (Def. 10): for
every i, summing out agent i's next pair leaves nothing that depends on agent i's current pair.

Agent-wise separability asks less for N >= 3: the next pair of each agent depends on its own pair
alone. Every E_i is then 0 and the decomposition of values is exact, for every reward.

With non-negative weights (P_SEP+, Sec. 3.3) the products of deterministic transitions are the
vertices of a polytope, and membership is a linear program whose dual is a Bell inequality.

The tests are plain JAX. Decompositions have as many terms as the chain needs, so they run outside
jit, in float64 NumPy. Everything here but `is_agentwise_separable` forms the matrix of the chain.
"""

from functools import reduce
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from .._checks import check_discount, renamed
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.views import ProductForm, product_form, rows_by_view
from ..models.contracts import Scalar
from ..models.layouts import FactorView
from ..numerics.arrays import dot, ratio
from ..numerics.compiled import jit
from ..numerics.elimination import discounted_solve

Array = jax.Array

# Deviations below 64 machine epsilons count as rounding.
_NOISE_EPS = 64
# Products of deterministic transitions that a linear program is still formed for.
_MOST_VERTICES = 2**17


@reads("the chain as a sum of {0.weights.size} products of local transitions")
class SeparableDecomposition(NamedTuple):
    """P = Σ_k `weights[k]` `factors[0][k]` ⊗ `factors[1][k]` ⊗ ...

    Attributes:
        weights: sum to 1 and may be negative, `[K]`.
        factors: one `[K, X_i, X_i]` an agent, row-stochastic.
    """

    weights: np.ndarray
    factors: tuple[np.ndarray, ...]


@reads("{0.distance:.4g} from the nearest mixture of independent chains")
class ConvexSeparation(NamedTuple):
    r"""The nearest point of P_SEP+ and the inequality that certifies its distance.

    Attributes:
        distance: least $\sum |P - P'|$ over P' in P_SEP+; 0 if P is in it.
        weights: non-negative, sum to 1, `[K]`: the nearest P' is Σ_k `weights[k]` times the product
            of `factors[i][k]` over i.
        factors: deterministic transitions, one `[K, X_i, X_i]` an agent.
        inequality: $y$ with $\langle y, P' \rangle \le$ bound for every P' in P_SEP+, `[J, J]`.
        bound: the bound; $\langle y, P \rangle$ = bound + distance.
    """

    distance: float
    weights: np.ndarray
    factors: tuple[np.ndarray, ...]
    inequality: np.ndarray
    bound: float


@reads("a reward whose value no local functions give: {0.violation:.4g} is missed")
class Witness(NamedTuple):
    r"""A reward for one agent that no local functions fit (Thm 2).

    Attributes:
        rewards: one `[X_i]` an agent, zero for all agents but one, largest entry 1.
        violation: $\min_q \|Q - q\|_2$ over functions q of that agent's pair.
    """

    rewards: tuple[Array, ...]
    violation: Array


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
    form = _product(chain)
    P = np.asarray(form.matrix(chain), np.float64)
    terms = _split(P, form.sizes)
    weights = np.array([weight for weight, _ in terms])
    factors = tuple(np.stack(f) for f in zip(*(matrices for _, matrices in terms), strict=True))
    # Weights that grow on the way magnify rounding; one correction takes it off again.
    products = np.stack([reduce(np.kron, matrices).ravel() for _, matrices in terms], 1)
    weights = weights + np.linalg.lstsq(products, P.ravel() - products @ weights, rcond=None)[0]
    return SeparableDecomposition(weights, factors)


@renamed(tolerance="tol")
def is_convexly_separable(chain: PairChain, *, tol: float = 1e-8) -> bool:
    """Whether P is a convex combination of products: a point of P_SEP+ (Sec. 3.3).

    Args:
        chain: as for `convex_separation`.
        tol: largest distance from P_SEP+ that still counts as none, as a mean over rows.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> jaxent.is_convexly_separable(chain)
        False
    """
    return convex_separation(chain).distance <= tol * chain.num_pairs


def convex_separation(chain: PairChain) -> ConvexSeparation:
    """Project P on P_SEP+ in the sum of absolute entries: convex weights and a Bell inequality.

    Args:
        chain: of agents whose pairs make up the joint pair, concrete and tiny: Π X_i^X_i products
            of deterministic transitions are written down (16 for two agents of 2 pairs, 65,536 for
            two of 4).

    Raises:
        ValueError: if there are more than 131,072 of them.
    """
    form = _product(chain)
    sizes = form.sizes
    num_vertices = prod(n**n for n in sizes)
    if num_vertices > _MOST_VERTICES:
        raise ValueError(
            f"chain: has {num_vertices} products of deterministic transitions, more than the "
            f"{_MOST_VERTICES} that are searched"
        )
    maps = [np.array(list(product(range(n), repeat=n))) for n in sizes]  # [n^n, n]
    picks = np.stack(np.meshgrid(*(range(len(m)) for m in maps), indexing="ij"), -1)
    picks = picks.reshape(-1, len(sizes))  # [K, N]
    pairs = np.stack(np.unravel_index(np.arange(prod(sizes)), sizes))  # [N, J]
    images = [m[picks[:, i]][:, pairs[i]] for i, m in enumerate(maps)]  # [K, J] each
    target = np.ravel_multi_index(images, sizes)  # [K, J]
    J = prod(sizes)
    sparse = scipy.sparse
    vertices = sparse.csc_array(
        (
            np.ones(target.size),
            (np.arange(J) * J + target).ravel(),
            np.arange(len(target) + 1) * J,
        ),
        shape=(J * J, len(target)),
    )
    P = np.asarray(form.matrix(chain), np.float64).ravel()
    slack = sparse.eye_array(J * J, format="csc")
    total = sparse.csc_array(np.concatenate([np.ones(len(target)), np.zeros(2 * J * J)])[None])
    cost = np.concatenate([np.zeros(len(target)), np.ones(2 * J * J)])
    equations = sparse.vstack([sparse.hstack([vertices, slack, -slack]), total], format="csc")
    solution = scipy.optimize.linprog(cost, A_eq=equations, b_eq=np.append(P, 1.0), method="highs")
    if solution.status != 0:
        raise ValueError(f"chain: the linear program failed, {solution.message}")
    inequality = solution.eqlin.marginals[:-1]
    used = np.flatnonzero(solution.x[: len(target)] > 0)
    weights = solution.x[used] / solution.x[used].sum()
    factors = tuple(
        np.eye(n)[m[picks[used, i]]] for i, (n, m) in enumerate(zip(sizes, maps, strict=True))
    )
    return ConvexSeparation(
        float(solution.fun),
        weights,
        factors,
        inequality.reshape(J, J),
        float((vertices.T @ inequality).max()),
    )


def separability_witness(chain: PairChain, *, discount: Scalar = 0.9) -> Witness:
    r"""The reward of one agent for which Q is least a function of that agent's pair (Thm 2).

    Suppose local functions Q_i(r_i) that see only their own reward fit Q for every reward. With all
    rewards 0 they add up to 0, so each Q_k(0) is a constant. So with a reward v for agent i and 0
    for the others, Q = (I - discount P)^-1 (e ⊗ v ⊗ e) must be a function of x_i alone. The witness
    is the v that violates this most: the largest singular vector of v -> Q - mean of Q given x_i.

    Args:
        chain: of agents whose pairs make up the joint pair; its matrix is formed.
        discount: in (0, 1).

    Returns:
        The rewards, and the 2-norm over joint pairs of what the best fit leaves. It is rounding if
        and only if the chain is agent-wise separable (for two agents: separable).

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> found = jaxent.separability_witness(chain)
        >>> print(f"{found.violation:.3f}")
        1.800
    """
    sizes, order = _product(chain)
    check_discount(discount)
    gaps, grams = _gaps(chain, order, discount, sizes)
    # Right singular vectors by the small Gram matrix, one call of LAPACK in a program.
    return _worst_gap(gaps, [jnp.linalg.eigh(gram)[1][:, -1] for gram in grams])


@jit(static_argnums=3)
def _gaps(
    chain: PairChain, order: Array | None, discount: Scalar, sizes: tuple[int, ...]
) -> tuple[list[Array], list[Array]]:
    """What values of agent i's rewards are beyond functions of x_i, `[J, X_i]`; Gram matrices."""
    P = ProductForm(sizes, order).matrix(chain)
    gaps = []
    for i, size in enumerate(sizes):
        view = FactorView((i,), sizes)
        q = discounted_solve(P, view.lift(jnp.eye(size, dtype=P.dtype)), discount)  # of e ⊗ v ⊗ e
        gaps.append(q - view.lift(view.project(q) * size / len(P)))
    return gaps, [dot(gap.T, gap) for gap in gaps]


@jit
def _worst_gap(gaps: list[Array], vectors: list[Array]) -> Witness:
    witnesses = []
    for i, (gap, v) in enumerate(zip(gaps, vectors, strict=True)):
        v = v / jnp.abs(v).max()
        rewards = tuple(v if k == i else jnp.zeros_like(vectors[k]) for k in range(len(gaps)))
        witnesses.append(Witness(rewards, jnp.linalg.norm(dot(gap, v))))
    worst = jnp.stack([witness.violation for witness in witnesses]).argmax()
    return jax.tree.map(lambda *each: jnp.stack(each)[worst], *witnesses)


def _product(chain: PairChain) -> ProductForm:
    """The joint pair as a tuple of the agents' pairs, or an error where it is none."""
    form = product_form(chain)
    if form is None:
        raise ValueError(
            "chain: wanted agents whose pairs make up the joint pair, each its own factor; got "
            f"views of {chain.view_sizes} local pairs over {chain.num_pairs} joint ones"
        )
    return form


def _tol(chain: PairChain, tol: float | None) -> float:
    return _NOISE_EPS * float(jnp.finfo(chain.dtype).eps) if tol is None else tol


def _signaling(chain: PairChain) -> Array:
    """How far the others' next pairs depend on agent i's pair, largest deviation, `[N]`."""
    return _deviations(chain, *_product(chain)[::-1])


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


def _split(P: np.ndarray, sizes: tuple[int, ...]) -> list[tuple[float, tuple[np.ndarray, ...]]]:
    """Terms (weight, factors) of a stochastic separable matrix."""
    if len(sizes) == 1:
        return [(1.0, (P / P.sum(-1, keepdims=True),))]
    X, rest = sizes[0], prod(sizes[1:])
    R = P.reshape(X, rest, X, rest).transpose(0, 2, 1, 3).reshape(X * X, rest * rest)
    pivoted = scipy.linalg.qr(R, mode="r", pivoting=True)
    size, order = np.abs(np.diag(np.asarray(pivoted[0]))), np.asarray(pivoted[-1])
    rank = int((size > 8 * np.finfo(float).eps * max(R.shape) * size[0]).sum())
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
    shifts = np.where(needed > 1e-13, needed, 0)
    factors = [basis[:, j].reshape(X, X) for j in range(rank)]
    pieces = [part + shift * cover for part, shift in zip(parts, shifts, strict=True)]
    if shifts.sum() > 0:
        factors.append((basis @ shifts / shifts.sum()).reshape(X, X))
        pieces.append(-shifts.sum() * cover)
    terms: list[tuple[float, tuple[np.ndarray, ...]]] = []
    for factor, piece in zip(factors, pieces, strict=True):
        weight = piece.sum() / rest
        if np.abs(piece).max() <= 1e-15:
            continue  # the shift took the whole part away
        for inner, others in _split(np.maximum(piece / weight, 0), sizes[1:]):
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
