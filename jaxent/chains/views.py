r"""What one learner sees: the projection of a chain on the view of an agent, or of a block of them.

The view of agent i is a set of factors of the joint pair. From a joint law come its marginal, the
local transition that local TD learning converges to (Eq. 2), and the rows P(x_i' | joint pair) that
the measures of entanglement compare (Eqs. 5 and 7).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_shape
from .pair_chain import PairChain, broadcast_view, view_axes, view_size

Array = jax.Array

# Above so many numbers the local pairs are taken one after another instead of together.
_AT_ONCE = 2**22


def marginal(chain: PairChain, mu: Array, *, agent: int | Sequence[int]) -> Array:
    """Law of a view under the joint law mu `[J]`, `[X_i]`.

    Args:
        chain: whose factors and views these are.
        mu: `[J]`.
        agent: one agent, or a block of them as one. Static.
    """
    check_shape("mu", mu, (chain.num_pairs,))
    return _sum_to_view(mu, view_axes(chain, agent), chain.sizes)


def local_transition(chain: PairChain, mu: Array, *, agent: int | Sequence[int]) -> Array:
    r"""Local transition of a view under a joint law (Eq. 2).

    P_i(x'|x) = Σ_u Σ_u' μ(u|x) P(u'|u), u over joint pairs with u_i = x, u' with u'_i = x'.

    Args:
        chain: the joint chain; only `vm` is asked of it.
        mu: its stationary law, `[J]`.
        agent: one agent, or a block of them as one. Static.

    Returns:
        `[X_i, X_i]`, row-stochastic. A pair never visited (footnote 1) is a self-loop.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> print(jaxent.local_transition(chain, mu, agent=0).round(3))
        [[0.5 0.5]
         [0.5 0.5]]
    """
    check_shape("mu", mu, (chain.num_pairs,))
    return _project(chain, mu, view_axes(chain, agent))


@partial(jax.jit, static_argnums=2)
def _project(chain: PairChain, mu: Array, axes: tuple[int, ...]) -> Array:
    sizes, size = chain.sizes, view_size(chain, axes)

    def flow(indicator):
        inside = broadcast_view(indicator, axes, sizes).reshape(-1)
        return _sum_to_view(chain.vm(mu * inside), axes, sizes)  # [X_i]

    flows = _over_rows(flow, jnp.eye(size, dtype=mu.dtype), chain)  # [X_i, X_i]
    # Or both sums over joint pairs are taken as one, in another order, and rows miss 1.
    flows = lax.optimization_barrier(flows)
    return flow_rows(flows)


def flow_rows(flow: Array) -> Array:
    """The transition of a flow between pairs `[X, X]`: a self-loop where nobody leaves."""
    out = flow.sum(-1, keepdims=True)  # [X, 1], the occupancy
    return jnp.where(
        out > 0, flow / jnp.where(out > 0, out, 1), jnp.eye(len(flow), dtype=flow.dtype)
    )


def view_transition(chain: PairChain, *, agent: int | Sequence[int]) -> Array:
    """Rows P(x_i' | joint pair), the law of the next view from each joint pair, `[J, X_i]`.

    Args:
        chain: the joint chain; only `mv` is asked of it.
        agent: one agent, or a block of them as one. Static.
    """
    return _next_view(chain, view_axes(chain, agent))


@partial(jax.jit, static_argnums=1)
def _next_view(chain: PairChain, axes: tuple[int, ...]) -> Array:
    def reach(indicator):
        return chain.mv(broadcast_view(indicator, axes, chain.sizes).reshape(-1))  # [J]

    return _over_rows(reach, jnp.eye(view_size(chain, axes), dtype=chain.dtype), chain).T


def _over_rows(function, rows: Array, chain: PairChain) -> Array:
    """All rows together where that is small, else one by one."""
    if len(rows) * chain.num_pairs <= _AT_ONCE:
        return jax.vmap(function)(rows)
    return lax.map(function, rows)


def _sum_to_view(mu: Array, axes: Sequence[int], sizes: Sequence[int]) -> Array:
    others = tuple(k for k in range(len(sizes)) if k not in axes)
    kept = mu.reshape(sizes).sum(others)  # the view's factors, in the order of the chain
    return kept.transpose([sorted(axes).index(axis) for axis in axes]).reshape(-1)
