r"""Convex mixtures of products of transitions (P_SEP+, Sec. 3.3): the nearest, and its certificate.

With non-negative weights the products of deterministic transitions are the vertices of a polytope.
Membership is a linear program, whose dual is a Bell inequality. The program is formed in NumPy.
"""

from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
import scipy

from .._checks import renamed
from .._reads import reads
from ..chains.pair_chain import PairChain
from .separability import product_of_agents

# Products of deterministic transitions that a linear program is still formed for.
_MOST_VERTICES = 2**17


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
    form = product_of_agents(chain)
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
