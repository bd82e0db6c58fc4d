r"""What each agent sees of a joint pair: views, which are maps `[J] -> {0..X-1}`, and layouts.

Where the joint pair is a product of factors and an agent sees some of them, the map needs no index
array: to lift is to broadcast, to project is to sum over the other factors (`FactorView`). Any
other map is a `MapView`, which holds the code of every joint pair: to lift is to gather, to project
is a segment sum. Several agents together see what each of them sees, which is a view again.

Nothing asks that views determine the pair: what nobody sees is hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete
from .contracts import Agents, ArrayLike, Layout, View

Array = jax.Array
Axes = tuple[int, ...]
Views = tuple[Axes, ...]

# Places of a table of the joint pairs of each local pair: 1 GB.
_MOST_MEMBERS = 2**28


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactorView:
    """Some of the factors of the joint pair.

    Attributes:
        axes: which, in the order in which the local pair lists them. Static.
        sizes: of all factors. Static.
    """

    axes: Axes = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the factors that are seen."""
        return tuple(self.sizes[axis] for axis in self.axes)

    @property
    def size(self) -> int:
        """X."""
        return prod(self.shape)

    def lift(self, function: Array) -> Array:
        """A function of the local pair as one of the joint pair, `[X, ..]` to `[J, ..]`."""
        tail = function.shape[1:]
        order = sorted(range(len(self.axes)), key=lambda k: self.axes[k])
        inner = range(len(order), len(order) + len(tail))
        f = function.reshape(*self.shape, *tail).transpose(*order, *inner)
        f = f.reshape([n if k in self.axes else 1 for k, n in enumerate(self.sizes)] + [*tail])
        return jnp.broadcast_to(f, (*self.sizes, *tail)).reshape(-1, *tail)

    def project(self, measure: Array) -> Array:
        """A measure of joint pairs as one of local pairs, `[J, ..]` to `[X, ..]`."""
        tail = measure.shape[1:]
        kept = measure.reshape(*self.sizes, *tail).sum(self._others())
        order = [sorted(self.axes).index(axis) for axis in self.axes]
        inner = range(len(order), len(order) + len(tail))
        return kept.transpose(*order, *inner).reshape(-1, *tail)

    def rows(self, array: Array) -> Array:
        """What belongs to each local pair, `[J, ..]` to `[X, C, ..]`."""
        split = array.reshape(*self.sizes, *array.shape[1:])
        inner = range(len(self.sizes), split.ndim)
        moved = split.transpose(*self.axes, *self._others(), *inner)
        return moved.reshape(self.size, -1, *array.shape[1:])

    def mass(self, measure: Array) -> Array:
        """The measure of what `rows` holds, `[J]` to `[X, C]`."""
        return self.rows(measure)

    def _others(self) -> Axes:
        return tuple(k for k in range(len(self.sizes)) if k not in self.axes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapView:
    """Any map from joint pairs to local pairs.

    Attributes:
        code: the local pair of each joint pair, int `[J]`.
        members: the joint pairs of each local pair, int `[X, C]` with C the most that any has; J
            stands where there are fewer. `[X, 0]` where that would be too many to hold, and then
            nothing can be sorted by local pair.
    """

    code: Array
    members: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(X,)."""
        return (self.size,)

    @property
    def size(self) -> int:
        """X."""
        return self.members.shape[-2]

    def lift(self, function: Array) -> Array:
        """A function of the local pair as one of the joint pair, `[X, ..]` to `[J, ..]`."""
        return function[self.code]

    def project(self, measure: Array) -> Array:
        """A measure of joint pairs as one of local pairs, `[J, ..]` to `[X, ..]`."""
        return jax.ops.segment_sum(measure, self.code, num_segments=self.size)

    def rows(self, array: Array) -> Array:
        """What belongs to each local pair, `[J, ..]` to `[X, C, ..]`; some row where nothing does.

        That is a row of the array, so that laws stay laws; `mass` gives it no weight.
        """
        self._check_members()
        return array.at[self.members].get(mode="clip")

    def mass(self, measure: Array) -> Array:
        """The measure of what `rows` holds, `[J]` to `[X, C]`; 0 or false in empty places."""
        self._check_members()
        return measure.at[self.members].get(mode="fill", fill_value=0)

    def _check_members(self) -> None:
        if not self.members.shape[-1]:
            raise ValueError(
                f"agent: some of its {self.size} local pairs hold so many of the "
                f"{self.code.shape[-1]} joint pairs, and others so few, that what belongs to each "
                "fits in no table; measures of entanglement need one, values, fits and errors do "
                "not"
            )


def map_view(code: ArrayLike, size: int) -> MapView:
    """The view that gives joint pair j the code `code[j]` in 0..size - 1. Not for traced codes."""
    code = np.asarray(code)
    counts = np.bincount(code, minlength=size)
    if size * counts.max() > _MOST_MEMBERS:
        return MapView(jnp.asarray(code.astype(np.int32)), jnp.zeros((size, 0), jnp.int32))
    order = np.argsort(code, kind="stable")
    place = np.arange(len(code)) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((size, max(1, counts.max())), len(code), np.int32)
    members[code[order], place] = order
    return MapView(jnp.asarray(code.astype(np.int32)), jnp.asarray(members))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactorLayout:
    """A joint pair of factors, of which each agent sees some.

    Attributes:
        sizes: of the factors. Static.
        views: the factors that each agent sees. Static.
    """

    sizes: tuple[int, ...] = field(metadata={"static": True})
    views: tuple[Axes, ...] = field(metadata={"static": True})

    def lift(self, functions: Sequence[Array]) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`."""
        return lift_sum(self, functions)

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of what an agent sees, `[J]` to `[X_i]`."""
        return view_of(self, agent).project(measure)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapLayout:
    """Joint pairs of which each agent sees what a map says.

    Attributes:
        sizes: of the factors of a joint pair, in whose order the maps number it. Static.
        views: one map for each agent.
    """

    sizes: tuple[int, ...] = field(metadata={"static": True})
    views: tuple[MapView, ...]

    def lift(self, functions: Sequence[Array]) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`."""
        return lift_sum(self, functions)

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of what an agent sees, `[J]` to `[X_i]`."""
        return view_of(self, agent).project(measure)


def product_layout(sizes: Sequence[int]) -> FactorLayout:
    """One factor for each agent, which sees that alone."""
    return FactorLayout(tuple(sizes), tuple((i,) for i in range(len(sizes))))


def lift_sum(layout: Layout, functions: Sequence[Array]) -> Array:
    """The joint function Σ_i f_i(view_i), `[J]`."""
    total = jnp.zeros((), jnp.result_type(*functions))
    for i, function in enumerate(functions):
        total = total + view_of(layout, i).lift(function)
    return total


def view_of(layout: Layout, agent: Agents) -> View:
    """The view of one agent, or of a block of agents together. Static in `agent`.

    Raises:
        ValueError: if there is no such agent, or one is named twice.
    """
    agents = tuple(agent) if isinstance(agent, Sequence) else (agent,)
    for i in agents:
        if not isinstance(i, (int, np.integer)):
            raise ValueError(f"agent: {agent!r} is not the number of an agent, nor several")
        if not 0 <= i < len(layout.views):
            raise ValueError(f"agent: {i} is not one of the views 0..{len(layout.views) - 1}")
    if not agents or len(set(agents)) < len(agents):
        raise ValueError(f"agent: {agents} must name at least one agent, and none twice")
    views = [layout.views[i] for i in agents]
    if isinstance(layout.views[0], MapView):
        return views[0] if len(views) == 1 else joint_map(views)
    axes = tuple(dict.fromkeys(axis for view in views for axis in view))
    return FactorView(axes, layout.sizes)


def joint_map(views: Sequence[MapView]) -> MapView:
    """What several agents see together: all their local pairs, the first agent's slowest."""
    if not concrete(views):
        raise ValueError(
            "agent: the view of a block fixes a shape where views are maps, so the chain must be "
            "known here; make the block's view outside the trace with with_views"
        )
    sizes = [view.size for view in views]
    code = np.ravel_multi_index([np.asarray(view.code) for view in views], sizes)
    return map_view(code, prod(sizes))
