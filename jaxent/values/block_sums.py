r"""Sums of functions of few agents each: Q ≈ Σ_A Q_A(x_A) over blocks A of agents.

One agent a block is the sum that local learning makes; two are pairwise values, on chosen pairs a
coordination graph; N are Q itself.

| function | Q_A |
|---|---|
| `fit_blocks` | the best sum in hindsight: least squares under the stationary law |
| `block_values` | Meta Algorithm 1 on blocks: each learns alone, overlaps are counted once |
| `fit_additive` on `with_views(chain, blocks)` | VDN on blocks: fitted on the Bellman error |

The space of sums grows with the blocks, so the error of the best one in L2(mu) never grows, and no
sum is better than it there. The two that learn have no such order; for each, `error` brackets what
is left. Blocks are NumPy's work, outside jit.
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_positive_int, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import known_law
from ..chains.views import transition_of_view, view_code
from ..models.contracts import ArrayLike, Scalar
from ..models.layouts import FactorLayout, MapLayout, map_view
from ..numerics.elimination import discounted_solve
from .agent_blocks import merge_rewards
from .approximation_error import approximation_error
from .bellman import Rewards, check_locals, joint_reward, q_values
from .error_bracket import ErrorBracket

Array = jax.Array
Block = tuple[int, ...]

# Entries of a least squares problem that is written down.
_WRITTEN = 2**23
# Sets of pairs of which the best is found by trying them all.
_ALL_TRIED = 256


@reads("off by {0.error.value:.4g} in the mean, {0.l2_error:.4g} in the root mean square")
class BlockSum(NamedTuple):
    r"""A sum of functions of blocks, and how far it is from the joint value.

    Attributes:
        blocks: the agents of each function. One of none is a constant.
        q_blocks: Q_A of each block, `[X_A]`, `[1]` of none.
        q_total: their sum on joint pairs, `[J]`.
        l2_error: $(\sum \mu (Q - q_{total})^2)^{1/2}$, by `error.error` where Q is not solved.
        error: brackets of the mean and the largest error.
    """

    blocks: tuple[Block, ...]
    q_blocks: tuple[Array, ...]
    q_total: Array
    l2_error: Array
    error: ErrorBracket


@reads("the pairs of agents that lower the error most, the first first")
class Graph(NamedTuple):
    r"""Which pairs of agents to give a function of their own.

    Attributes:
        pairs: the pairs, the one that lowers the error most first.
        errors: $(\sum \mu (Q - q_{total})^2)^{1/2}$ of the best sum over single agents and the
            first 0, 1, .. of the pairs, `[num_pairs + 1]`.
        exact: whether no other set of as many pairs has a smaller error; otherwise each pair is the
            best beside those before it.
        fit: the best sum over single agents and these pairs.
    """

    pairs: tuple[Block, ...]
    errors: np.ndarray
    exact: bool
    fit: BlockSum


def fit_blocks(
    chain: PairChain,
    rewards: Rewards,
    blocks: int | Sequence[Sequence[int]],
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
) -> BlockSum:
    r"""The sum of functions of blocks that is nearest to Q in L2(mu), in hindsight.

    It minimizes Σ_x μ(x) (Q(x) - Σ_A Q_A(x_A))². With more or larger blocks its `l2_error` is no
    larger; where the blocks see all it is 0. Of all Q_A with the same sum the smallest is taken.

    Args:
        chain: any unichain with views of agents.
        rewards: as for `q_values`.
        blocks: k for all blocks of k agents, or a list of blocks, which may overlap; an agent in
            none is a block of its own.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: for agents that there are not, a traced chain, and as `q_values` and
            `stationary_distribution` do.

    Examples:
        Three agents are paid by the parity of their pairs, which no two of them know:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jnp.full((8, 8), 1 / 8), sizes=(2, 2, 2))
        >>> parity = jnp.array([1.0, -1, -1, 1, -1, 1, 1, -1])
        >>> for k in (1, 2, 3):
        ...     found = jaxent.fit_blocks(chain, parity, k, discount=0.9)
        ...     print(k, f"{found.l2_error:.3f}")
        1 1.000
        2 1.000
        3 0.000
    """
    reward, law = _known(chain, rewards, discount, mu)
    chosen = _cover(chain, blocks)
    q = np.asarray(q_values(chain, reward, discount=discount), np.float64)
    codes = {block: view_code(chain.view(block)) for block in chosen}
    found = _least_squares(q, np.asarray(law, np.float64), codes)
    return _sum_of(chain, reward, discount, law, found, q)


def block_values(
    chain: PairChain,
    rewards: Rewards,
    blocks: int | Sequence[Sequence[int]],
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
) -> BlockSum:
    r"""Each block learns by itself (Eq. 2), and what overlaps is counted once.

    F_A = (I - discount P_A)^-1 R_A with P_A the transition of Eq. (2) of the block as one view. To
    the blocks come all their intersections, and Q_A = c_A F_A with counting numbers

        c_A = 1 - Σ_{B ⊋ A} c_B,

    so that each agent is counted once: inclusion and exclusion. For all blocks of k < N agents they
    are (-1)^(k - j) C(N - j - 1, k - j) for j agents; k = 1 is Meta Algorithm 1, k = N is Q. R_A is
    the sum of the rewards of the block's agents, or the mean of a joint reward given the block's
    pair. The error may grow with k.

    Args:
        chain: any unichain with views of agents.
        rewards: as for `q_values`.
        blocks: as for `fit_blocks`.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: as `fit_blocks` does.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.three_agents(), sizes=(2, 2, 2))
        >>> rewards = [jnp.array([0.0, 1.0])] * 3
        >>> found = jaxent.block_values(chain, rewards, [(0, 1), (1, 2)], discount=0.9)
        >>> found.blocks, f"{found.l2_error:.3f}"
        (((0, 1), (1, 2), (1,)), '0.000')
    """
    reward, law = _known(chain, rewards, discount, mu)
    local = None
    if isinstance(rewards, (list, tuple)) and any(np.ndim(r) for r in rewards):
        local = check_locals(chain, rewards)
    weights = np.asarray(law, np.float64)
    found = {}
    for block, count in counting_numbers(_cover(chain, blocks)).items():
        view = chain.view(block) if block else None
        code = np.zeros(chain.num_pairs, int) if view is None else view_code(view)
        size = 1 if view is None else view.size
        if local is None:
            sums = np.bincount(code, weights * np.asarray(reward, np.float64), size)
            total = np.bincount(code, weights, size)
            paid = jnp.asarray(sums / np.where(total > 0, total, 1), chain.dtype)
        elif block:
            (paid,) = merge_rewards(chain, local, [block])
        else:
            continue  # nobody is paid
        # As a map, so that all blocks of a size are one program.
        P = transition_of_view(chain, law, map_view(code, size))
        found[block] = count * np.asarray(discounted_solve(P, paid, discount), np.float64)
    return _sum_of(chain, reward, discount, law, found)


def spread_rewards(
    chain: PairChain, rewards: Sequence[ArrayLike], blocks: Sequence[Sequence[int]]
) -> tuple[Array, ...]:
    """Rewards of blocks that may overlap, `[X_A]` each: each agent's, in equal shares.

    They add up to the agents' rewards, so that bounds of `with_views(chain, blocks)` with these
    rewards hold for the values of these.

    Args:
        chain: with the views of agents.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`.
        blocks: every agent in at least one. Static.

    Raises:
        ValueError: if an agent is in no block.
    """
    flat = check_locals(chain, rewards)
    held = [sum(i in block for block in blocks) for i in range(len(flat))]
    if 0 in held:
        raise ValueError(f"blocks: agent {held.index(0)} is in none, so nobody is paid its reward")
    shares = [reward / number for reward, number in zip(flat, held, strict=True)]
    return merge_rewards(chain, shares, blocks)


def best_graph(
    chain: PairChain,
    rewards: Rewards,
    *,
    num_pairs: int,
    discount: Scalar,
    mu: ArrayLike | None = None,
) -> Graph:
    r"""The few pairs of agents whose functions lower the error of the best sum most.

    Up to 256 sets of pairs are all tried; of more, pairs are added one by one, each the best beside
    those before it.

    Args:
        chain: any unichain with views of two agents or more.
        rewards: as for `q_values`.
        num_pairs: the budget, at most N (N - 1) / 2.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: for a budget that there are not as many pairs for, and as `fit_blocks` does.

    Examples:
        Agents 0 and 2 are paid for being alike:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jnp.full((8, 8), 1 / 8), sizes=(2, 2, 2))
        >>> alike = jnp.array([1.0, 0, 1, 0, 0, 1, 0, 1])
        >>> found = jaxent.best_graph(chain, alike, num_pairs=1, discount=0.9)
        >>> print(found.pairs, found.errors.round(3))
        ((0, 2),) [0.5 0. ]
    """
    reward, law = _known(chain, rewards, discount, mu)
    n = len(chain.views)
    every: list[Block] = list(combinations(range(n), 2))
    check_positive_int("num_pairs", num_pairs)
    if num_pairs > len(every):
        raise ValueError(f"num_pairs: {num_pairs} is more than the {len(every)} of {n} agents")
    q = np.asarray(q_values(chain, reward, discount=discount), np.float64)
    weights = np.asarray(law, np.float64)
    codes = {(i,): view_code(chain.view(i)) for i in range(n)}
    paired = {pair: view_code(chain.view(pair)) for pair in every}

    def left(pairs: Sequence[Block]) -> float:
        chosen = codes | {pair: paired[pair] for pair in pairs}
        fit = _least_squares(q, weights, chosen)
        rest = q - sum(fit[block][code] for block, code in chosen.items())
        return float(np.sqrt(weights @ rest**2))

    exact = comb(len(every), num_pairs) <= _ALL_TRIED
    open_pairs = list(every)
    if exact:
        open_pairs = list(min(combinations(every, num_pairs), key=left))
    pairs: list[Block] = []
    errors = [left(())]
    for _ in range(num_pairs):
        trials = {pair: left([*pairs, pair]) for pair in open_pairs}
        best = min(trials, key=lambda pair: trials[pair])
        open_pairs.remove(best)
        pairs.append(best)
        errors.append(trials[best])
    fit = _least_squares(q, weights, codes | {pair: paired[pair] for pair in pairs})
    whole = _sum_of(chain, reward, discount, law, fit, q)
    return Graph(tuple(pairs), np.array(errors), exact or num_pairs == 1, whole)


def counting_numbers(blocks: Sequence[Block]) -> dict[Block, int]:
    """How often each block and intersection of blocks is counted, those of 0 left out."""
    family = {frozenset(block) for block in blocks}
    while True:
        more = {a & b for a in family for b in family} - family
        if not more:
            break
        family |= more
    counts: dict[frozenset[int], int] = {}
    for a in sorted(family, key=lambda a: (-len(a), sorted(a))):
        counts[a] = 1 - sum(count for b, count in counts.items() if a < b)
    return {tuple(sorted(a)): count for a, count in counts.items() if count}


def _known(
    chain: PairChain, rewards: Rewards, discount: Scalar, mu: ArrayLike | None
) -> tuple[Array, Array]:
    """The joint reward and the law, of a chain that blocks of agents can be made of."""
    check_chain(chain)
    if not isinstance(chain.layout, (FactorLayout, MapLayout)):
        raise ValueError("chain: agents known only by their counts make no blocks")
    reward = joint_reward(chain, rewards)
    if not concrete(chain, reward, discount, mu):
        raise ValueError("chain: sums over blocks are made outside jit; something is traced")
    check_discount(discount)
    return reward, known_law(chain, mu)


def _cover(chain: PairChain, blocks: int | Sequence[Sequence[int]]) -> list[Block]:
    """The blocks, none inside another, and agents in none of them alone."""
    n = len(chain.views)
    if isinstance(blocks, (int, np.integer)):
        if not 1 <= blocks <= n:
            raise ValueError(f"blocks: {blocks} is not a number of agents, 1..{n}")
        return list(combinations(range(n), int(blocks)))
    given = []
    for k, block in enumerate(blocks):
        if not isinstance(block, Sequence) or not all(i in range(n) for i in block):
            raise ValueError(f"blocks[{k}]: {block!r} is no block of the agents 0..{n - 1}")
        given.append(tuple(sorted(block)))
    alone = [(i,) for i in range(n)]
    whole = list(dict.fromkeys([*given, *alone]))
    return [a for a in whole if not any(set(a) < set(b) for b in whole)]


def _least_squares(
    q: np.ndarray, weights: np.ndarray, codes: dict[Block, np.ndarray]
) -> dict[Block, np.ndarray]:
    """Functions of blocks whose sum is nearest to q under the weights, the smallest ones."""
    scales, ends = [], [0]
    for code in codes.values():
        total = np.bincount(code, weights)
        # Without this, rare local pairs would be fitted worse than others.
        scales.append(np.where(total > 0, 1 / np.sqrt(np.where(total > 0, total, 1)), 0))
        ends.append(ends[-1] + len(total))
    root = np.sqrt(weights)

    def lift(x: np.ndarray) -> np.ndarray:
        parts = zip(codes.values(), scales, np.split(x, ends[1:-1]), strict=True)
        return root * sum((scale * part)[code] for code, scale, part in parts)

    def sums(f: np.ndarray) -> np.ndarray:
        made = (
            scale * np.bincount(code, root * f, len(scale))
            for code, scale in zip(codes.values(), scales, strict=True)
        )
        return np.concatenate(list(made))

    if len(q) * ends[-1] <= _WRITTEN:
        design = np.zeros((len(q), ends[-1]))
        for code, scale, end in zip(codes.values(), scales, ends[:-1], strict=True):
            design[np.arange(len(q)), end + code] = root * scale[code]
        x = np.linalg.lstsq(design, root * q, rcond=None)[0]
    else:
        from scipy.sparse.linalg import LinearOperator, lsqr

        shape = (len(q), ends[-1])
        make: Any = LinearOperator
        operator = make(shape, matvec=lift, rmatvec=sums, dtype=np.float64)
        x = lsqr(operator, root * q, atol=1e-14, btol=1e-14, iter_lim=10_000)[0]
    parts = zip(codes, scales, np.split(x, ends[1:-1]), strict=True)
    return {block: scale * part for block, scale, part in parts}


def _sum_of(
    chain: PairChain,
    reward: Array,
    discount: Scalar,
    law: Array,
    functions: dict[Block, np.ndarray],
    q: np.ndarray | None = None,
) -> BlockSum:
    """The result that these functions make; Q where it is known."""
    total = np.zeros(chain.num_pairs)
    for block, function in functions.items():
        code = view_code(chain.view(block)) if block else np.zeros(chain.num_pairs, int)
        total = total + function[code]
    q_total = jnp.asarray(total, chain.dtype)
    error = approximation_error(chain, reward, q_total, discount=discount, mu=law)
    rest = error.error if q is None else q - total
    l2_error = jnp.sqrt(law @ jnp.asarray(rest, chain.dtype) ** 2)
    q_blocks = tuple(jnp.asarray(f, chain.dtype) for f in functions.values())
    return BlockSum(tuple(functions), q_blocks, q_total, l2_error, error)
