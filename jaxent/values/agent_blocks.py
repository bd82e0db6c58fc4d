r"""The entanglement map: who moves whom, and whom to treat as one.

Entry (i, j) is how much agent j's current pair moves agent i's next pair,

    sum_x mu(x) TV( p_i(.|x), sum_{x_j} mu(x_j | x_-j) p_i(.|x_j, x_-j) ),

zero exactly when, on visited pairs, it does not. `merge_agents` makes blocks of agents one view
each; `best_merge` says which pair of agents to merge.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_shape, check_stochastic
from ..chains.pair_chain import Layout, PairChain, broadcast_view, view_axes
from ..chains.views import view_transition
from ..measures.distances import by_view
from ..numerics.simplex import total_variation
from .bellman import check_locals
from .bounds import theorem_6

Array = jax.Array


def entanglement_map(chain: PairChain, mu: Array) -> Array:
    """How much each agent's pair moves each agent's next pair, `[N, N]`; 0 on the diagonal.

    Args:
        chain: agents that share no factor.
        mu: law of the joint pair, `[J]`.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> print(jaxent.entanglement_map(chain, mu).round(3))  # agent 0 moves agent 1
        [[0.  0. ]
         [0.5 0. ]]
    """
    check_shape("mu", mu, (chain.num_pairs,))
    check_stochastic("mu", mu)
    _check_disjoint(chain)
    agents = range(len(chain.views))
    rows = []
    for i in agents:
        law = view_transition(chain, agent=i)  # [J, X_i]
        rows.append(
            jnp.stack([_influence(chain, mu, law, j) if j != i else 0 * mu[0] for j in agents])
        )
    return jnp.stack(rows)


def _influence(chain: PairChain, mu: Array, law: Array, agent: int) -> Array:
    p = by_view(chain, law, agent=agent)  # [X_j, C, X_i]
    w = by_view(chain, jnp.asarray(mu).astype(law.dtype), agent=agent)  # [X_j, C]
    total = w.sum(0)[:, None]
    mean = (w[..., None] * p).sum(0) / jnp.where(total > 0, total, 1)
    return jnp.sum(w * total_variation(p, mean[None]))


def merge_agents(chain: PairChain, blocks: Sequence[Sequence[int]]) -> PairChain:
    """The same chain, with each block of agents one view.

    Args:
        chain: agents with the plain layout.
        blocks: every agent once, e.g. `((0, 2), (1,))`. Static.

    Raises:
        ValueError: unless every agent is in exactly one block.
    """
    agents = sorted(i for block in blocks for i in block)
    if agents != list(range(len(chain.views))):
        raise ValueError(
            f"blocks: {blocks} must hold each of the agents 0..{len(chain.views) - 1} once"
        )
    if not isinstance(chain.layout, Layout):
        raise ValueError("chain: agents known only by their counts cannot be merged")
    views = tuple(view_axes(chain, tuple(block)) for block in blocks)
    return replace(chain, layout=Layout(chain.sizes, views))


def merge_rewards(
    chain: PairChain, rewards: Sequence[Array], blocks: Sequence[Sequence[int]]
) -> tuple[Array, ...]:
    """Rewards of the blocks, each the sum over its agents on the block's pairs."""
    flat = [jnp.ravel(r) for r in check_locals(chain, rewards)]
    merged = []
    for block in blocks:
        axes = view_axes(chain, tuple(block))
        sizes = tuple(chain.sizes[axis] for axis in axes)
        parts = [
            broadcast_view(flat[i], [axes.index(axis) for axis in chain.views[i]], sizes)
            for i in block
        ]
        merged.append(jnp.stack(parts).sum(0).reshape(-1))
    return tuple(merged)


class Merge(NamedTuple):
    """Which two agents to treat as one.

    Attributes:
        pair: the two.
        bound: Theorem 6 after merging them.
        bounds: Theorem 6 for every pair, by pair.
        before: Theorem 6 with nobody merged.
    """

    pair: tuple[int, int]
    bound: Array
    bounds: dict[tuple[int, int], Array]
    before: Array


def best_merge(chain: PairChain, rewards: Sequence[Array], *, discount: Any) -> Merge:
    """The pair of agents that, as one view, lowers the bound of Theorem 6 most. Not for jit."""
    n = len(chain.views)
    if n < 2:
        raise ValueError("chain: has one agent, so there is none to merge it with")
    before = theorem_6(chain, rewards, discount=discount)
    bounds = {}
    for i, j in combinations(range(n), 2):
        blocks = ((i, j), *((k,) for k in range(n) if k not in (i, j)))
        merged = merge_agents(chain, blocks)
        parts = merge_rewards(chain, rewards, blocks)
        bounds[i, j] = theorem_6(merged, parts, discount=discount)
    pair = min(bounds, key=lambda p: float(bounds[p]))
    return Merge(pair, bounds[pair], bounds, before)


def _check_disjoint(chain: PairChain) -> None:
    factors = [axis for view in chain.views for axis in view]
    if len(set(factors)) < len(factors):
        raise ValueError(f"chain: views {chain.views} share a factor, so no agent moves alone")
