r"""What one learner sees: the projection of a chain on the view of an agent, or of a block of them.

A view is a map from joint pairs to local ones (`models.layouts`). From a joint law come its
marginal, the local transition that local TD learning converges to (Eq. 2), and the rows
P(x_i' | joint pair) that the measures of entanglement compare (Eqs. 5 and 7). `with_views` gives a
chain other views: blocks of agents, overlapping ones, any map.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_shape, concrete
from ..models.contracts import Agents, ArrayLike, View
from ..models.layouts import FactorLayout, FactorView, MapLayout, MapView, map_view
from ..numerics.arrays import ratio, takes_arrays
from ..numerics.compiled import jit
from .pair_chain import PairChain, check_chain
from .pieced_views import flows_of

Array = jax.Array

# A view's X functions of the J pairs are taken together up to 2^22 numbers, else one by one.
_AT_ONCE = 2**22


@takes_arrays("mu")
def marginal(chain: PairChain, mu: ArrayLike, *, agent: Agents) -> Array:
    """Law of a view under the joint law mu `[J]`, `[X_i]`.

    Args:
        chain: whose views these are.
        mu: `[J]`.
        agent: one agent, or a block of them as one. Static.
    """
    check_chain(chain)
    check_shape("mu", mu, (chain.num_pairs,))
    return chain.layout.project(jnp.asarray(mu), agent)


@takes_arrays("mu")
def local_transition(chain: PairChain, mu: ArrayLike, *, agent: Agents) -> Array:
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
    check_chain(chain)
    check_shape("mu", mu, (chain.num_pairs,))
    return transition_of_view(chain, mu, chain.view(agent))


@jit
def local_transitions(chain: PairChain, mu: Array) -> tuple[Array, ...]:
    """`local_transition` of every view, in one program."""
    views = [chain.view(i) for i in range(len(chain.views))]
    factors = [view for view in views if isinstance(view, FactorView)]
    if chain.cut and len(factors) == len(views):
        return tuple(map(flow_rows, flows_of(chain, factors, mu)))
    return tuple(transition_of_view(chain, mu, chain.view(i)) for i in range(len(chain.views)))


@jit
def transition_of_view(chain: PairChain, mu: Array, view: View) -> Array:
    """`local_transition` of a view that is given itself."""
    if chain.cut and isinstance(view, FactorView):
        return flow_rows(flows_of(chain, [view], mu)[0])

    # Of a local pair that is hardly ever visited, the flow would underflow where its law does not.
    # What a row is divided by does not matter, and so has no derivative.
    mass = lax.stop_gradient(view.lift(view.project(mu)))
    given = ratio(mu, mass, jnp.zeros_like(mu))  # law of the joint pair, given the local one

    def flow(indicator):
        return view.project(chain.vm(given * view.lift(indicator)))  # [X_i]

    flows = _over_rows(flow, jnp.eye(view.size, dtype=mu.dtype), chain)  # [X_i, X_i]
    # Or both sums over joint pairs are taken as one, in another order, and rows miss 1.
    flows = lax.optimization_barrier(flows)
    return flow_rows(flows)


def flow_rows(flow: Array) -> Array:
    """The transition of a flow between pairs `[X, X]`: a self-loop where nobody leaves."""
    out = flow.sum(-1, keepdims=True)  # [X, 1], the occupancy
    return ratio(flow, out, jnp.eye(len(flow), dtype=flow.dtype))


def view_transition(chain: PairChain, *, agent: Agents) -> Array:
    """Rows P(x_i' | joint pair), the law of the next view from each joint pair, `[J, X_i]`.

    Args:
        chain: the joint chain; only `mv` is asked of it.
        agent: one agent, or a block of them as one. Static.
    """
    check_chain(chain)
    return next_view(chain, chain.view(agent))


@jit
def next_view(chain: PairChain, view: View) -> Array:
    """`view_transition` of a view that is given itself."""

    def reach(indicator):
        return chain.mv(view.lift(indicator))  # [J]

    return _over_rows(reach, jnp.eye(view.size, dtype=chain.dtype), chain).T


def _over_rows(function: Callable[[Array], Array], rows: Array, chain: PairChain) -> Array:
    """All rows together where that is small, else one by one."""
    if len(rows) * chain.num_pairs <= _AT_ONCE:
        return jax.vmap(function)(rows)
    return lax.map(function, rows)


def rows_by_view(chain: PairChain, measure: Array, *, agent: Agents) -> tuple[Array, Array]:
    """`view_transition` by local pair and the rest, `[X, C, X]`, and a measure of it, `[X, C]`."""
    view = chain.view(agent)
    return _sorted(view, view_transition(chain, agent=agent), measure)


@jit
def _sorted(view: View, rows: Array, measure: Array) -> tuple[Array, Array]:
    return view.rows(rows), view.mass(measure)


def by_view(chain: PairChain, array: Array, *, agent: Agents) -> Array:
    """An array over joint pairs, `[J, ..]`, by local pair and the rest, `[X_i, C, ..]`."""
    return chain.view(agent).rows(array)


def with_views(chain: PairChain, views: Sequence[Agents | ArrayLike]) -> PairChain:
    """The same chain, seen otherwise: its laws and joint values stay, views and local ones change.

    Args:
        chain: with the views of agents.
        views: for each new view an agent of the chain, a block of its agents, or any map from joint
            pairs to local ones, an integer array `[J]` of codes 0..X - 1. Views may overlap, and
            need not cover everything. Static.

    Raises:
        ValueError: if a view names no agent of the chain, or is no map.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.three_agents(), sizes=(2, 2, 2))
        >>> jaxent.with_views(chain, [(0, 1), (1, 2)]).view_sizes  # pairs of agents
        (4, 4)
        >>> parity = jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
        >>> jaxent.with_views(chain, [parity]).view_sizes
        (2,)
    """
    check_chain(chain)
    if not views:
        raise ValueError("views: is empty; a chain has at least one view")
    if not isinstance(chain.layout, (FactorLayout, MapLayout)):
        raise ValueError("chain: agents known only by their counts have no other views")
    made = [_view(chain, view, f"views[{k}]") for k, view in enumerate(views)]
    if all(isinstance(view, FactorView) for view in made):
        axes = tuple(view.axes for view in made if isinstance(view, FactorView))
        return replace(chain, layout=FactorLayout(chain.sizes, axes))
    maps = tuple(v if isinstance(v, MapView) else map_view(view_code(v), v.size) for v in made)
    return replace(chain, layout=MapLayout(chain.sizes, maps))


def _view(chain: PairChain, view: Agents | ArrayLike, name: str) -> View:
    if not isinstance(view, (jax.Array, np.ndarray)):
        return chain.view(view)
    if not concrete(view):
        raise ValueError(f"{name}: fixes a shape, so it must be known here, not a traced value")
    check_shape(name, view, (chain.num_pairs,))
    code = np.asarray(view)
    if not np.issubdtype(code.dtype, np.integer) or code.min() < 0:
        place = "" if not np.issubdtype(code.dtype, np.integer) else f"[{code.argmin()}]"
        value = f"of {code.dtype}" if not place else f"{code.min()}"
        raise ValueError(
            f"{name}{place}: is {value}; a view is a map from joint pairs to codes 0, 1, .., ints"
        )
    return map_view(code, int(code.max()) + 1)


def view_code(view: View) -> np.ndarray:
    """The map that a view is, int `[J]`."""
    if isinstance(view, FactorView):
        pairs = np.unravel_index(np.arange(prod(view.sizes)), view.sizes)
        return np.ravel_multi_index([pairs[axis] for axis in view.axes], view.shape)
    return np.asarray(view.lift(jnp.arange(view.size)))


class ProductForm(NamedTuple):
    """A chain whose joint pair is a product of what the agents see.

    Attributes:
        sizes: X_i of each agent.
        order: the joint pair that each tuple of local pairs stands for, `[J]`; None where it is
            the same.
    """

    sizes: tuple[int, ...]
    order: Array | np.ndarray | None

    def pairs(self, array: Array) -> Array:
        """An array over joint pairs `[J, ..]`, its pairs in the order of the product."""
        return array if self.order is None else array[self.order]

    def matrix(self, chain: PairChain) -> Array:
        """The chain between tuples of local pairs, `[J, J]`."""
        return jnp.swapaxes(self.pairs(jnp.swapaxes(self.pairs(chain.matrix()), 0, 1)), 0, 1)


def product_form(chain: PairChain) -> ProductForm | None:
    """The joint pair as a tuple of local ones; None if views share, hide or leave out anything."""
    check_chain(chain)
    sizes = chain.view_sizes
    if isinstance(chain.layout, FactorLayout):
        if chain.views != tuple((i,) for i in range(len(chain.sizes))):
            return None
        return ProductForm(sizes, None)
    if not isinstance(chain.layout, MapLayout) or np.prod(sizes) != chain.num_pairs:
        return None
    if not concrete(chain.layout):
        raise ValueError("chain: views that are maps must be known here, not traced")
    code = np.ravel_multi_index([np.asarray(view.code) for view in chain.views], sizes)
    order = np.argsort(code)
    return ProductForm(sizes, order) if (code[order] == np.arange(len(code))).all() else None
