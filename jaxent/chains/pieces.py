r"""A chain of many pairs, worked on piece by piece, on one device or on several.

A piece holds the joint pairs that begin alike: the first `depth` factors are given. Whatever is
asked of the pairs is asked of one piece after another (`over_pieces`): a vector over pairs that is
only passed through is never held whole. What is held whole is the policy's table and what a person
gives or gets, each `[J]`; functions of the joint state, fewer by the number of joint actions, are
held as they are.

On a mesh of devices each has pieces of its own and what belongs to them of every array over pairs,
a block that begins alike as well. Functions of the state are brought to every device for a product
with the chain (an all-gather of `[S]`), what the devices make of them is added up (a sum of `[S]`),
and no array over pairs is ever moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd, prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import ROW_EPS
from ..models.contracts import Kernel, Layout, PolicyPart
from ..models.layouts import FactorLayout, FactorView, view_of
from ..models.row_parts import row_of

Array = jax.Array

# Pairs of a piece, at most: 16 MB in float64, which stay near a core. An accelerator wants more
# work at once.
_PAIRS = {"cpu": 2**21}
_PAIRS_ELSEWHERE = 2**25
# As many pieces make it worth while.
_FEWEST = 4


class Cut(NamedTuple):
    """How the pairs of a chain are cut into pieces.

    Attributes:
        depth: a piece is the joint pairs whose first `depth` factors are given.
        mesh: the devices, in a mesh whose axes lie along the first states and actions; None for
            one device.
    """

    depth: int
    mesh: Mesh | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of the mesh."""
        return () if self.mesh is None else tuple(self.mesh.axis_names)


@runtime_checkable
class Parted(Protocol):
    """A kernel or a policy that knows what it is where the first factors are given."""

    part: Callable[..., Any]


class Joint(NamedTuple):
    """A function of the joint pair: a sum of local ones, never held whole, or an array.

    Attributes:
        local: one `[X_i]` a view; None where it is no such sum.
        whole: `[J]`; None where it is such a sum.
    """

    local: tuple[Array, ...] | None
    whole: Array | None


@dataclass(frozen=True)
class Piece:
    """The chain at one piece.

    Attributes:
        kernel: K of these pairs: `mv` from `[S]` to `[J']`, `vm` back.
        policy: Π of these pairs: `mv` from `[J']` to `[S']`, `vm` back.
        layout: of all pairs.
        pairs: x_j of the first factors.
        states: s_j of the first factors.
        num_first: S_j of the first factors.
        num_states: of the other factors together.
    """

    kernel: Any
    policy: Any
    layout: Layout
    pairs: tuple[Array, ...]
    states: tuple[Array, ...]
    num_first: tuple[int, ...]
    num_states: int

    def value(self, function: Joint) -> Array:
        """A function here, `[J']`; of a whole one what belongs to this piece is there already."""
        return self.lift(function.local) if function.local is not None else _there(function.whole)

    def lift(self, functions: Sequence[Array]) -> Array:
        """Σ_i f_i(view_i) here, `[J']`, of one `[X_i]` a view."""
        depth, sizes = len(self.pairs), self.layout.sizes
        total = jnp.zeros(prod(sizes[depth:]), jnp.result_type(*functions))
        for i, function in enumerate(functions):
            view = view_of(self.layout, i)
            assert isinstance(view, FactorView)
            table = function.reshape(view.shape)
            for axis in reversed(range(len(view.axes))):
                if view.axes[axis] < depth:
                    given = self.pairs[view.axes[axis]]
                    table = lax.dynamic_index_in_dim(table, given, axis, keepdims=False)
            rest = tuple(axis - depth for axis in view.axes if axis >= depth)
            total = total + FactorView(rest, sizes[depth:]).lift(table.reshape(-1))
        return total

    def law(self, states: Array) -> Array:
        """The law of these pairs where the joint state has this law, `[S]` to `[J']`."""
        rest = states.reshape(*self.num_first, -1)
        for state in self.states:
            rest = row_of(rest, state)
        return self.policy.vm(rest)


def _there(array: Array | None) -> Array:
    assert array is not None
    return array


def cut_of(kernel: Kernel, policy: PolicyPart, layout: Layout) -> Cut | None:
    """Pieces for a chain with so many pairs that they should not be passed through whole."""
    if not can_be_cut(kernel, policy, layout):
        return None
    depth = depth_of(layout.sizes, jax.default_backend())
    return Cut(depth) if depth and prod(layout.sizes[:depth]) >= _FEWEST else None


def can_be_cut(kernel: Kernel, policy: PolicyPart, layout: Layout) -> bool:
    """Whether both parts know what they are where the first factors are given."""
    parted = isinstance(kernel, Parted) and isinstance(policy, Parted)
    return parted and len(layout.sizes) > 1


def depth_of(sizes: Sequence[int], platform: str) -> int:
    """How many factors, not all of them, make pieces small enough; 0 where all pairs are."""
    most, depth = _PAIRS.get(platform, _PAIRS_ELSEWHERE), 0
    while depth < len(sizes) - 1 and prod(sizes[depth:]) > most:
        depth += 1
    return depth


def over_pieces(
    chain: Any, function: Callable[..., tuple[Any, Any, Any]], given: Any, *held: Any
) -> tuple[Any, Any, Any]:
    """What a function makes of every piece of a chain that is cut.

    Args:
        chain: with a cut.
        function: of a `Piece`, what is given, and the piece's part of each thing that is held. It
            returns three pytrees: what is kept for each piece, what is added up over pieces, and
            numbers >= 0 of which the largest counts.
        given: a pytree of arrays that every piece gets whole.
        held: pytrees of arrays `[J]`, of which a piece gets its own `[J']`.

    Returns:
        The three: the first with a leading axis of pieces, in their order.
    """
    cut, shape = chain.cut, chain.policy.pair_shape
    first = shape[: 2 * cut.depth]
    if cut.mesh is None:
        inside = partial(_over, function, chain.layout, shape, first)
        return inside((0,) * len(first), chain.kernel, chain.policy, given, held)
    sizes = cut.mesh.devices.shape
    here = tuple(n // m for n, m in zip(first, sizes, strict=False)) + first[len(sizes) :]

    def local(kernel: Any, policy: Any, given: Any, held: Any) -> Any:
        start = [lax.axis_index(axis) * n for axis, n in zip(cut.axes, here, strict=False)]
        start = (*start, *(0 for _ in here[len(start) :]))
        inside = partial(_over, function, chain.layout, shape, here)
        kept, total, most = inside(start, kernel, policy, given, held)
        return kept, lax.psum(total, cut.axes), lax.pmax(lax.stop_gradient(most), cut.axes)

    each, every = PartitionSpec(cut.axes), PartitionSpec()
    return jax.shard_map(
        local,
        mesh=cut.mesh,
        in_specs=(every, chain.policy.spread(cut.axes), every, each),
        out_specs=(each, every, every),
        check_vma=False,  # loops start from constants, which no device has to itself
    )(chain.kernel, chain.policy, given, held)


def _over(
    function: Callable,
    layout: Layout,
    shape: tuple[int, ...],
    here: tuple[int, ...],
    start: tuple[Any, ...],
    kernel: Any,
    policy: Any,
    given: Any,
    held: Any,
) -> Any:
    """The pieces of one device, which begin at a start along each of the first axes."""
    number, depth = prod(here), len(here) // 2

    @jax.checkpoint
    def one(k: Array, held: Any) -> Any:
        own = jnp.unravel_index(k, here)
        place = tuple(origin + j for origin, j in zip(start, own, strict=True))
        states, actions = place[::2], place[1::2]
        pairs = tuple(s * n + a for s, a, n in zip(states, actions, shape[1::2], strict=False))
        piece = Piece(
            kernel.part(pairs),
            policy.part(place, start),
            layout,
            pairs,
            states,
            num_first=shape[: 2 * depth : 2],
            num_states=prod(shape[2 * depth :: 2]),
        )
        return function(piece, given, *held)

    split = jax.tree.map(lambda x: x.reshape(number, -1), held)
    like = jax.eval_shape(one, jnp.int32(0), jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like[1:])

    def step(carry: Any, piece: Any) -> Any:
        kept, total, most = one(*piece)
        total = jax.tree.map(jnp.add, carry[0], total)
        return (total, jax.tree.map(jnp.maximum, carry[1], most)), kept

    (total, most), kept = lax.scan(step, zeros, (jnp.arange(number, dtype=jnp.int32), split))
    return kept, total, most


def on_states(chain: Any, parts: Array) -> Array:
    """The parts of a mean over actions, `[pieces, S']`, added up to a function of states `[S]`."""
    depth, shape = chain.cut.depth, chain.policy.pair_shape
    whole = parts.reshape(*shape[: 2 * depth], -1)
    return _spread(chain, whole.sum(tuple(range(1, 2 * depth, 2))).reshape(-1))


def on_pairs(chain: Any, parts: Array) -> Array:
    """What pieces hold, `[pieces, J']`, as one array over pairs `[J]`."""
    return _spread(chain, parts.reshape(-1))


def _spread(chain: Any, x: Array) -> Array:
    """An array of states or of pairs, spread over the devices if they divide it."""
    mesh = chain.cut.mesh
    if mesh is None or len(x) % mesh.size:
        return x
    spread = NamedSharding(mesh, PartitionSpec(chain.cut.axes))
    return lax.with_sharding_constraint(x, spread)


def everywhere(chain: Any, x: Array) -> Array:
    """A small array, whole on every device."""
    mesh = chain.cut.mesh
    if mesh is None:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def mean(chain: Any, function: Joint) -> Array:
    """Π f, the mean over actions, `[S]`."""

    def inside(piece: Piece, local: Any, whole: Any) -> Any:
        return piece.policy.mv(piece.value(Joint(local, whole))), (), ()

    return on_states(chain, over_pieces(chain, inside, function.local, function.whole)[0])


def states_mv(chain: Any, v: Array) -> Array:
    """Π K v, one step of the chain on joint states, `[S]` to `[S]`."""

    def inside(piece: Piece, v: Array) -> Any:
        return piece.policy.mv(piece.kernel.mv(v)), (), ()

    return on_states(chain, over_pieces(chain, inside, v)[0])


def states_vm(chain: Any, law: Array) -> Array:
    """ν Π K, the law of the next joint state, `[S]` to `[S]`."""

    def inside(piece: Piece, law: Array) -> Any:
        return (), piece.kernel.vm(piece.law(law)), ()

    return _spread(chain, over_pieces(chain, inside, law)[1])


def kernel_mv(chain: Any, v: Array, function: Joint | None = None, rate: Any = 1) -> Array:
    """f + rate K v, `[J]`; K v where there is no f."""

    def inside(piece: Piece, given: Any, whole: Any) -> Any:
        v, rate, local = given
        ahead = rate * piece.kernel.mv(v)
        none = local is None and whole is None
        return ahead if none else piece.value(Joint(local, whole)) + ahead, (), ()

    local, whole = (None, None) if function is None else function
    return on_pairs(chain, over_pieces(chain, inside, (v, rate, local), whole)[0])


def kernel_vm(chain: Any, mu: Array) -> Array:
    """The law of the next joint state, mu K, `[J]` to `[S]`."""

    def inside(piece: Piece, _: Any, mu: Array) -> Any:
        return (), piece.kernel.vm(mu), ()

    return _spread(chain, over_pieces(chain, inside, (), mu)[1])


def policy_vm(chain: Any, law: Array) -> Array:
    """The law of the pair where the state has this law, ν Π, `[S]` to `[J]`."""

    def inside(piece: Piece, law: Array) -> Any:
        return piece.law(law), (), ()

    return on_pairs(chain, over_pieces(chain, inside, law)[0])


def policy_stochastic(chain: Any) -> Array:
    """Whether the actions in every state have probabilities, a flag."""

    def inside(piece: Piece, _: Any) -> Any:
        law = piece.policy.vm(jnp.ones(piece.num_states, chain.dtype))  # the table itself
        negative = (~(law >= 0)).any().astype(law.dtype)
        return piece.policy.mv(jnp.ones_like(law)), (), negative

    parts, _, negative = over_pieces(chain, inside, ())
    total = on_states(chain, parts)
    num_actions = prod(chain.policy.pair_shape[1::2])
    eps = ROW_EPS * float(jnp.finfo(total.dtype).eps) * num_actions
    return (negative == 0) & (jnp.abs(total - 1).max() <= eps)


def lift(chain: Any, functions: Sequence[Array]) -> Array:
    """Σ_i f_i(view_i), `[J]`."""

    def inside(piece: Piece, functions: Any) -> Any:
        return piece.lift(functions), (), ()

    return on_pairs(chain, over_pieces(chain, inside, tuple(functions))[0])


def can_lift(chain: Any) -> bool:
    """Whether the views are factors, of which a piece needs no table."""
    return isinstance(chain.layout, FactorLayout)


def mesh_shape(shape: Sequence[int], number: int) -> tuple[int, ...] | None:
    """How many devices lie along each of the first axes (S_0, A_0, S_1, ...); None if none fit.

    All axes but the last of these are cut into single entries, so that what a device has of an
    array over pairs is one block of it.
    """
    found, left = [], number
    for n in shape:
        if left == 1 and found:
            break
        along = gcd(left, n)
        found.append(along)
        left //= along
        if along < n:
            break
    return tuple(found) if left == 1 else None


def numbers_that_divide(shape: Sequence[int], most: int) -> list[int]:
    """Numbers of devices, up to the most, that these axes can be cut for."""
    return [n for n in range(1, most + 1) if mesh_shape(shape, n) is not None]
