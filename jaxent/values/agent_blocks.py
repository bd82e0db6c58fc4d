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
from jax import lax

from .._checks import check_discount, check_shape, check_stochastic
from .._reads import Frame, frame, reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import stationary_distribution
from ..chains.views import (
    ProductForm,
    local_transition,
    product_form,
    rows_by_view,
    view_transition,
    with_views,
)
from ..measures.distances import MAX_ENUMERATED, mu_inf_norm
from ..measures.entanglement import entanglement_mu_atv
from ..measures.row_measures import TOL
from ..models.contracts import Agents, ArrayLike, Scalar, View
from ..models.layouts import FactorLayout, FactorView
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from ..numerics.simplex import total_variation, tv_center
from .bellman import check_locals

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
    check_chain(chain)
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
    check_chain(chain)
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


@reads("merge {0.pair}: Theorem 6 is {0.bound:.4g}, {0.before:.4g} with nobody merged")
class Merge(NamedTuple):
    """Which two agents to treat as one, if any.

    Attributes:
        pair: the two; None where no merge lowers the bound.
        bound: Theorem 6 after merging them; `before` where none is.
        bounds: Theorem 6 for every pair, by pair.
        before: Theorem 6 with nobody merged.
    """

    pair: tuple[int, int] | None
    bound: Array
    bounds: dict[tuple[int, int], Array]
    before: Array

    def __str__(self) -> str:
        """The pair and its bound, beside what it was and what the other pairs give."""
        what = "none" if self.pair is None else f"agents {self.pair[0]} and {self.pair[1]}"
        others = ", ".join(f"{pair}: {float(bound):.4g}" for pair, bound in self.bounds.items())
        return (
            f"merge {what}: Theorem 6 is {float(self.bound):.4g}, "
            f"{float(self.before):.4g} with nobody merged (by pair, {others})"
        )

    def to_frame(self) -> Frame:
        """A row a pair of agents."""
        first, second = zip(*self.bounds, strict=True)
        bounds = [float(bound) for bound in self.bounds.values()]
        return frame({"first": first, "second": second, "bound": bounds})


def best_merge(chain: PairChain, rewards: Sequence[ArrayLike], *, discount: Scalar) -> Merge:
    r"""The pair of agents that, as one view, lowers the bound of Theorem 6 most, if any does.

    A block of agents is one view, on their joint pairs, and is paid their sum. Its E may be more or
    less than that of its agents, and its largest reward is up to their sum, so a merge can as well
    raise 4 discount sum_i E_i r_max_i / (1 - discount)^2. None is named unless it lowers the bound
    by more than what the measures leave open.

    E is that of Def. 8 for views of up to 16 pairs. For larger ones it is the distance of Def. 8
    from a transition that needs no program, the better of Eq. (2)'s and of the one that attains
    Eq. (7): an upper end all the same, within a few percent in what was tried. Not for jit.

    Args:
        chain: with views of two agents or more, each on factors of its own or a map.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`. A reward that agents share is
            split first, by `reward_entanglement` or `split_reward`.
        discount: in [0, 1).

    Returns:
        `Merge`. Learn the pair together with `merge_agents` and `merge_rewards`.

    Raises:
        ValueError: for one agent, wrong rewards or discount, before anything is solved; for a chain
            with no unique stationary law.

    Examples:
        Agents 0 and 1 move as one, agent 2 alone. To merge the first two leaves nothing entangled:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> alone = jnp.array([[0.9, 0.1], [0.2, 0.8]])
        >>> P = jnp.kron(jaxent.appendix_e(), alone)
        >>> chain = jaxent.PairChain.from_matrix(P, sizes=(2, 2, 2))
        >>> rewards = [jnp.array([0.0, 1.0])] * 3
        >>> found = jaxent.best_merge(chain, rewards, discount=0.5)
        >>> print(found.pair, f"{found.before:.2f} -> {found.bound:.2f}")
        (0, 1) 4.00 -> 0.00
        >>> P = jnp.kron(jnp.kron(alone, alone), alone)
        >>> chain = jaxent.PairChain.from_matrix(P, sizes=(2, 2, 2))
        >>> print(jaxent.best_merge(chain, rewards, discount=0.5).pair)  # nothing to gain
        None
    """
    check_chain(chain)
    n = len(chain.views)
    if n < 2:
        raise ValueError("chain: has one agent, so there is none to merge it with")
    flat = check_locals(chain, rewards)
    check_discount(discount)
    mu = stationary_distribution(chain)
    rate = 4 * discount / (1 - discount) ** 2
    paid = [_upper(chain, mu, i) * jnp.abs(r).max() for i, r in enumerate(flat)]
    before = jnp.stack(paid).sum() * rate
    bounds = {}
    for pair in combinations(range(n), 2):
        (reward,) = merge_rewards(chain, flat, (pair,))
        others = [paid[k] for k in range(n) if k not in pair]
        merged = _upper(chain, mu, pair) * jnp.abs(reward).max()
        bounds[pair] = jnp.stack([merged, *others]).sum() * rate
    pair = min(bounds, key=lambda p: float(bounds[p]))
    left_open = float(TOL * sum(float(jnp.abs(r).max()) for r in flat) * rate)
    if not float(bounds[pair]) < float(before) - left_open:
        return Merge(None, before, bounds, before)
    return Merge(pair, bounds[pair], bounds, before)


def _upper(chain: PairChain, mu: Array, agent: Agents) -> Array:
    """An upper end of Def. 8 for a view, which needs no program where the view is large."""
    if chain.view(agent).size <= MAX_ENUMERATED:
        return entanglement_mu_atv(chain, mu, agent=agent).upper
    points, weights = rows_by_view(chain, mu, agent=agent)
    return _near(points, weights, local_transition(chain, mu, agent=agent))


@jit
def _near(points: Array, weights: Array, mean: Array) -> Array:
    """Distance of rows `[X, C, m]` from the better of two transitions, their mean among them."""
    center = jax.vmap(tv_center)(points, weights)

    def distance(q: Array) -> Array:
        apart = (points - q[:, None]).reshape(-1, points.shape[-1])
        return mu_inf_norm(apart, weights.reshape(-1)).upper / 2

    found = lax.map(distance, jnp.stack([mean, center.point]))
    return jnp.minimum(found.min(), center.upper.sum())
