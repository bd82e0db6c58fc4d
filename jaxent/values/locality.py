r"""The ladder of locality: for how many agents together are values local?

A chain is local of order k if every reward on the pairs of k agents or fewer has a value on the
pairs of the same agents. That is so exactly if every block of k agents or fewer, taken as one view,
has entanglement E = 0 (`docs/theory/ladder.md`). Order 1 is agent-wise separability, order N - 1 is
separability. Blocks are looked at from the small ones up, and no further than the first order that
fails: where all joint pairs are visited, no higher one can hold.

E of each block is bracketed without a program. Of the laws of the block's next pair that share its
current pair, with mean m and two laws p, p' far apart,

    max_x TV(p_x, m) / 2, TV(p, p') / 2 <= E <= max_x TV(p_x, m), max_x TV(p_x, (p + p') / 2).

Rows are found by applying the chain; what is done with them is NumPy.
"""

from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_positive_int, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import solve_law
from ..chains.views import next_view, view_code
from ..measures.distances import mu_inf_norm
from ..measures.entanglement import entanglement_atv, entanglement_mu_atv, visited
from ..measures.row_measures import TOL, Entanglement, check_tolerance
from ..measures.separability import NOISE_EPS
from ..models.contracts import ArrayLike, Scalar
from ..models.layouts import FactorLayout, MapLayout, map_view
from ..numerics.compiled import jit
from .bellman import q_values

Array = jax.Array

_norm = jit(mu_inf_norm)

# Laws of a block's next pair are held together, up to 2^24 numbers.
_MOST_ROWS = 2**24
# Rewards of a block that are tried for the witness: those whose expected next value is least local.
_TRIED = 8


@reads("blocks of {0.order} agents are at most {0.upper:.4g} from moving alone")
class OrderGap(NamedTuple):
    r"""How far blocks of one size are from moving alone, and what shows it.

    Attributes:
        order: k, how many agents are in a block.
        block: the block that is furthest.
        atv: E of the block (Eq. 5), bracketed, `minimizer` `[X, X]`.
        mu_atv: the same in the distance of Def. 8; NaN where the stationary law is not unique.
        upper: E of every block of this size is at most this.
        reward: a reward on the block's pairs, `[X]`, largest entry 1.
        violation: $\min_q \|Q - q\|_2$ over functions q of the block's pair; visited pairs count.
        holds: whether `upper` is within the tolerance: values of such rewards are local.
    """

    order: int
    block: tuple[int, ...]
    atv: Entanglement
    mu_atv: Entanglement
    upper: float
    reward: np.ndarray
    violation: float
    holds: bool


@reads("rewards on up to {0.order} agents have values on the same agents")
class LocalityOrder(NamedTuple):
    """The order of locality, and each order that was looked at.

    Attributes:
        order: the largest k for which rewards on k agents or fewer have values on these; 0 where
            some E_i > 0.
        gaps: one for each order looked at, 1 first, up to the first that fails unless all were
            asked for.
        complete: whether the order is no higher; false where `max_order` or memory ended the walk.
    """

    order: int
    gaps: tuple[OrderGap, ...]
    complete: bool

    def __str__(self) -> str:
        """One line for each order looked at."""
        more = "" if self.complete else " or more"
        lines = [f"local of order {self.order}{more}"]
        for gap in self.gaps:
            said = "holds" if gap.holds else "fails"
            # Rounding is not worth a number.
            if not gap.holds or gap.upper > NOISE_EPS * float(jnp.finfo(gap.atv.upper.dtype).eps):
                said += f": E in [{float(gap.atv.lower):.4g}, {gap.upper:.4g}], "
                said += f"worst block {gap.block}, violation {gap.violation:.4g}"
            lines.append(f"order {gap.order} {said}")
        return "\n".join(lines)


def locality_order(
    chain: PairChain,
    *,
    tol: float | None = None,
    discount: Scalar = 0.9,
    certify: bool = False,
    max_order: int | None = None,
    every: bool = False,
    mu: ArrayLike | None = None,
) -> LocalityOrder:
    r"""The largest k for which every reward on k agents has a value on the same agents.

    Order 1 says that every E_i = 0 (agent-wise separable), order N - 1 that the chain is separable.
    The block of all agents is looked at only where their views hide something of the joint pair.
    Only visited joint pairs count, as in the measures (`is_separable` asks all). Not for jit.

    Args:
        chain: with views of agents, factors or maps, which may overlap. It is applied to the
            functions of a block's pair: J X numbers for a block of X pairs, and no matrix.
        tol: largest E of a block that counts as none; 64 machine epsilons by default.
        discount: in (0, 1), of the value that the witness is for.
        certify: bracket E of the worst block within 1e-6 by `entanglement_atv`, and Def. 8 by
            `entanglement_mu_atv`, which costs seconds of compilation. By default `upper` is at most
            twice `lower`, and often the same (for Def. 8: where a view has up to 16 pairs).
        max_order: no higher order is looked at.
        every: look at the orders beyond the first that fails, too.
        mu: the stationary law, `[J]`, where it is known already.

    Returns:
        `LocalityOrder`. Each order looked at has its worst block, and a reward on it whose value is
        least a function of the block's pair.

    Raises:
        ValueError: for a chain that is traced, that is not stochastic or that knows agents only by
            their counts, tol <= 0, and a discount outside (0, 1).

    Examples:
        No agent's pair moves another agent's next one, yet agent 2's moves those of 0 and 1
        together:

        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.three_agents(), sizes=(2, 2, 2))
        >>> print(jaxent.locality_order(chain))
        local of order 1
        order 1 holds
        order 2 fails: E in [0.5, 0.5], worst block (0, 1), violation 2.546
    """
    check_chain(chain)
    if not isinstance(chain.layout, (FactorLayout, MapLayout)):
        raise ValueError("chain: agents known only by their counts make no blocks")
    if not concrete(chain, mu):
        raise ValueError("chain: its order says what is computed, so it must be known, not traced")
    check_discount(discount)
    if not float(discount) > 0:
        raise ValueError("discount: is 0, so every reward is its own value")
    if not bool(chain.stochastic()):
        raise ValueError("chain: a row of its kernel or of its policy is no probability vector")
    if max_order is not None:
        check_positive_int("max_order", max_order)
    tol = NOISE_EPS * float(jnp.finfo(chain.dtype).eps) if tol is None else float(tol)
    check_tolerance(tol)
    law = solve_law(chain).value if mu is None else jnp.asarray(mu).astype(chain.dtype)
    there = np.asarray(visited(chain, law))
    n = len(chain.views)
    together = view_code(chain.view(tuple(range(n))))[there]
    whole = len(np.unique(together)) == len(together)
    top = max(1, n - 1) if whole else n
    gaps = []
    for order in range(1, 1 + min(top, max_order or top)):
        blocks = list(combinations(range(n), order))
        if max(chain.view(block).size for block in blocks) * chain.num_pairs > _MOST_ROWS:
            break
        gaps.append(_gap(chain, blocks, law, there, tol, discount, certify))
        if not gaps[-1].holds and not every:
            break
    failed = [gap.order for gap in gaps if not gap.holds]
    order = failed[0] - 1 if failed else len(gaps)
    return LocalityOrder(order, tuple(gaps), bool(failed) or len(gaps) == top)


def _gap(
    chain: PairChain,
    blocks: list[tuple[int, ...]],
    law: Array,
    there: np.ndarray,
    tol: float,
    discount: Scalar,
    certify: bool,
) -> OrderGap:
    """The worst of blocks of one size. E is minimized only where it could be the largest."""
    found = {}
    for block in blocks:
        code, rows = _laws(chain, block)
        found[block] = _bracket(rows, code, there)

    def largest(end: str) -> tuple[float, tuple[int, ...]]:
        worst = max(blocks, key=lambda block: float(getattr(found[block], end)))
        return float(getattr(found[worst], end)), worst

    # Rounding alone is not worth a program, nor is it in the reach of one.
    noise = NOISE_EPS * float(jnp.finfo(chain.dtype).eps)
    undecided = largest("lower")[0] <= tol < largest("upper")[0] and tol > noise
    left = set(blocks) if certify or undecided else set()
    while left:
        upper, block = largest("upper")
        if block not in left or upper <= max(largest("lower")[0], noise):
            break
        left.remove(block)
        wanted = min(TOL, tol) if tol > noise else TOL
        found[block] = entanglement_atv(chain, agent=block, mu=law, tol=wanted)
    upper = largest("upper")[0]
    _, block = largest("lower")
    code, rows = _laws(chain, block)
    reward, violation = _witness(chain, rows, code, there, discount)
    if np.isnan(np.asarray(law)).any():
        mu_atv = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), found[block])
        mu_atv = mu_atv._replace(num_steps=jnp.array(0), converged=jnp.array(False))
    elif certify and upper > noise:
        mu_atv = entanglement_mu_atv(chain, law, agent=block)
    else:
        mu_atv = _mu_bracket(rows, code, np.asarray(law))
    return OrderGap(len(block), block, found[block], mu_atv, upper, reward, violation, upper <= tol)


def _laws(chain: PairChain, block: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The pair of a block at each joint pair, `[J]`, and the law of its next one, `[J, X]`."""
    view = chain.view(block)
    code = view_code(view)
    # As a map, so that all blocks of a size are one program.
    return code, np.asarray(next_view(chain, map_view(code, view.size)))


def _bracket(rows: np.ndarray, code: np.ndarray, there: np.ndarray) -> Entanglement:
    """E of a view by its laws `[J, X]`: from their mean, and from the middle of two far apart."""
    size = rows.shape[1]
    center = _means(rows, code, there)

    def apart(points: np.ndarray) -> np.ndarray:
        return np.where(there, np.abs(rows - points[code]).sum(1) / 2, 0)

    def farthest(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The joint pair with the largest distance, of each local pair, and that distance."""
        order = np.lexsort((np.where(there, distance, -1), code))
        last = np.searchsorted(code[order], np.arange(size), side="right") - 1
        pair = order[np.maximum(last, 0)]
        return pair, np.where((code[pair] == np.arange(size)) & there[pair], distance[pair], 0)

    one, upper = farthest(apart(center))
    lower = upper / 2
    for _ in range(2):
        other, distance = farthest(apart(rows[one]))
        middle = (rows[one] + rows[other]) / 2
        reach = farthest(apart(middle))[1]
        better = reach < upper
        center = np.where(better[:, None], middle, center)
        lower, upper = np.maximum(lower, distance / 2), np.minimum(upper, reach)
        one = other
    return _entanglement(lower.max(), upper.max(), center)


def _means(functions: np.ndarray, code: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of functions `[J, m]` at each local pair `[X, m]`; 0 where no weight is."""
    size = code.max() + 1
    total = np.bincount(code, weights, size)
    sums = np.zeros((size, functions.shape[1]), functions.dtype)
    np.add.at(sums, code, functions * np.asarray(weights, functions.dtype)[:, None])
    return sums / np.where(total > 0, total, 1).astype(functions.dtype)[:, None]


def _mu_bracket(rows: np.ndarray, code: np.ndarray, law: np.ndarray) -> Entanglement:
    """Def. 8 of a view: from the mean under the law, and by the signs that are worst for it.

    For given signs s the least that any transition leaves is that of weighted medians of the
    expected next s, and the mean leaves no more than twice that.
    """
    center = _means(rows, code, law)
    norm = _norm(jnp.asarray(rows - center[code]), jnp.asarray(law))
    expected = rows @ np.asarray(norm.signs)
    lower = 0.0
    for x in np.unique(code[law > 0]):
        here = np.flatnonzero((code == x) & (law > 0))
        here = here[np.argsort(expected[here])]
        reached = np.cumsum(law[here])
        middle = expected[here[np.searchsorted(reached, reached[-1] / 2)]]
        lower += law[here] @ np.abs(expected[here] - middle) / 2
    return _entanglement(lower, norm.upper / 2, center)


def _entanglement(lower: Scalar, upper: Scalar, center: np.ndarray) -> Entanglement:
    """A bracket, with a self-loop in the minimizer where nothing is visited."""
    empty = center.sum(1) == 0
    center = np.where(empty[:, None], np.eye(len(center)), center).astype(center.dtype)
    low, high = (np.asarray(x, center.dtype) for x in (lower, upper))
    low = np.minimum(low, high)
    least, most, centers = (jnp.asarray(x) for x in (low, high, center))
    return Entanglement(most, least, most, centers, jnp.array(0), jnp.asarray(high - low <= TOL))


def _witness(
    chain: PairChain, rows: np.ndarray, code: np.ndarray, there: np.ndarray, discount: Scalar
) -> tuple[np.ndarray, float]:
    """A reward on a view's pairs whose value is least a function of these, and by how much.

    It is the worst of a few whose expected next value is least local: of all of them, where no more
    than 8 pairs of the view are visited.
    """
    moved = np.where(there[:, None], rows - _means(rows, code, there)[code], 0)
    seen = np.unique(code[there])
    best = np.linalg.eigh(moved[:, seen].T @ moved[:, seen])[1][:, -_TRIED:]
    tried = np.zeros((rows.shape[1], best.shape[1]), rows.dtype)
    tried[seen] = best
    values = np.stack([q_values(chain, v[code], discount=discount) for v in tried.T], 1)
    left = np.where(there[:, None], values - _means(values, code, there)[code], 0)
    mixture = np.linalg.eigh(left.T @ left)[1][:, -1]
    reward = tried @ mixture
    largest = reward[np.abs(reward).argmax()]
    return reward / largest, float(np.linalg.norm(left @ mixture / largest))
