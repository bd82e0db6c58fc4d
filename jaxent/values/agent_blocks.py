r"""The entanglement map: who moves whom, and whom to treat as one.

Entry (i, j) is how much agent j's current pair moves agent i's next pair,

    sum_x mu(x) TV( p_i(.|x), sum_{x_j} mu(x_j | x_-j) p_i(.|x_j, x_-j) ),

zero exactly when, on visited pairs, it does not. `merge_agents` makes blocks of agents one view
each; `best_merge` says which pair of agents to merge.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_shape, check_stochastic
from ..chains.pair_chain import PairChain
from ..chains.views import ProductForm, product_form, view_transition, with_views
from ..models.contracts import ArrayLike, Scalar, View
from ..models.layouts import FactorLayout, FactorView
from ..numerics.arrays import ratio
from ..numerics.simplex import total_variation
from .bellman import check_locals
from .bounds import theorem_6

Array = jax.Array


def entanglement_map(chain: PairChain, mu: ArrayLike) -> Array:
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
    form, views = _moving_alone(chain)
    mu = form.pairs(jnp.asarray(mu).astype(chain.dtype))
    rows = []
    for i in range(len(views)):
        law = form.pairs(view_transition(chain, agent=i))  # [J, X_i]
        rows.append(
            jnp.stack(
                [_influence(v, mu, law) if j != i else 0 * mu[0] for j, v in enumerate(views)]
            )
        )
    return jnp.stack(rows)


def _moving_alone(chain: PairChain) -> tuple[ProductForm, list[View]]:
    """The views of agents that share nothing, on joint pairs in the order of the form."""
    form = product_form(chain)
    if form is not None:
        return form, [FactorView((j,), form.sizes) for j in range(len(form.sizes))]
    if isinstance(chain.layout, FactorLayout):
        factors = [axis for view in chain.views for axis in view]
        if len(set(factors)) == len(factors):
            return ProductForm(chain.sizes, None), [chain.view(j) for j in range(len(chain.views))]
        raise ValueError(f"chain: views {chain.views} share a factor, so no agent moves alone")
    raise ValueError("chain: views do not make up the joint pair, so no agent moves alone")


def _influence(view: View, mu: Array, law: Array) -> Array:
    """How much the pair that this view sees moves a law of the next pair, `[J, X]`."""
    p, w = view.rows(law), view.mass(mu)  # [X_j, C, X_i] and [X_j, C]
    mean = ratio((w[..., None] * p).sum(0), w.sum(0)[:, None])
    return jnp.sum(w * total_variation(p, mean[None]))


def merge_agents(chain: PairChain, blocks: Sequence[Sequence[int]]) -> PairChain:
    """The same chain, with each block of agents one view.

    Args:
        chain: with the views of agents.
        blocks: every agent once, e.g. `((0, 2), (1,))`. Static.

    Raises:
        ValueError: unless every agent is in exactly one block.
    """
    agents = sorted(i for block in blocks for i in block)
    if agents != list(range(len(chain.views))):
        raise ValueError(
            f"blocks: {blocks} must hold each of the agents 0..{len(chain.views) - 1} once"
        )
    return with_views(chain, [tuple(block) for block in blocks])


def merge_rewards(
    chain: PairChain, rewards: Sequence[ArrayLike], blocks: Sequence[Sequence[int]]
) -> tuple[Array, ...]:
    """Rewards of the blocks, each the sum over its agents on the block's pairs."""
    flat = check_locals(chain, rewards)
    merged = []
    for block in blocks:
        joint = jnp.stack([chain.view(i).lift(flat[i]) for i in block]).sum(0)  # [J]
        # The same for all joint pairs of a local one: the first tells.
        merged.append(chain.view(tuple(block)).rows(joint)[:, 0])
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


def best_merge(chain: PairChain, rewards: Sequence[ArrayLike], *, discount: Scalar) -> Merge:
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
