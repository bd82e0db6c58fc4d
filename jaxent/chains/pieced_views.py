r"""Local transitions of a chain that is worked on piece by piece, of all views in two passes.

The flow between the pairs of a view is made of two things that are not large: where mass goes that
starts in a local pair, `[X, S]`, and how the view's own actions are taken there, `[S, A]`, which is
the policy's table with the other agents' actions summed out.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..models.layouts import FactorView
from ..models.row_parts import named_product
from ..numerics.arrays import ratio
from .pair_chain import PairChain
from .pieces import Piece, everywhere, over_pieces

Array = jax.Array


def flows_of(chain: PairChain, views: Sequence[FactorView], mu: Array) -> list[Array]:
    """The flow between the pairs of each view, `[X, X]`, from each the mass 1 if it is visited."""
    depth, shape = _depth(chain), _shape(chain)

    def mass(piece: Piece, _: Any, mu: Array) -> Any:
        return (), [_from(piece, view, _project(mu, view, depth)) for view in views], ()

    masses = lax.stop_gradient(over_pieces(chain, mass, (), mu)[1])

    def move(piece: Piece, masses: Any, mu: Array) -> Any:
        table = piece.policy.vm(jnp.ones(piece.num_states, mu.dtype))
        acts, moved = [], []
        for view, mass in zip(views, masses, strict=True):
            # Of a pair hardly ever visited the flow would underflow, where its law does not.
            here = _here(piece, view, mass)
            given = ratio(mu, FactorView(_rest(view, depth), view.sizes[depth:]).lift(here))
            flow = piece.kernel.flow(given, _rest(view, depth))
            moved.append(_from(piece, view, flow.reshape(len(here), -1)))
            others = [k for k in range(depth, len(view.sizes)) if k not in view.axes]
            split = table.reshape(shape[2 * depth :])
            acts.append(split.sum(tuple(2 * (k - depth) + 1 for k in others)).reshape(-1))
        return acts, moved, ()

    acts, moved, _ = over_pieces(chain, move, masses, mu)
    made = zip(views, acts, moved, strict=True)
    return [everywhere(chain, _flow(chain, *each)) for each in made]


def _depth(chain: PairChain) -> int:
    assert chain.cut is not None
    return chain.cut.depth


def _shape(chain: PairChain) -> tuple[int, ...]:
    """(S_0, A_0, S_1, A_1, ...)."""
    policy: Any = chain.policy
    return policy.pair_shape


def _rest(view: FactorView, depth: int) -> tuple[int, ...]:
    """The factors of a view that are not given in a piece, counted from there, in their order."""
    return tuple(sorted(axis - depth for axis in view.axes if axis >= depth))


def _first(view: FactorView, depth: int) -> tuple[int, ...]:
    return tuple(sorted(axis for axis in view.axes if axis < depth))


def _project(mu: Array, view: FactorView, depth: int) -> Array:
    """What a piece has of each local pair, as far as the piece leaves it open, `[X']`."""
    return FactorView(_rest(view, depth), view.sizes[depth:]).project(mu)


def _from(piece: Piece, view: FactorView, part: Array) -> Array:
    """What a piece has, `[X', ..]`, among what all have, 0 but in its place: `[X, ..]`.

    The factors are in their own order, not in that of the view.
    """
    first = _first(view, len(piece.pairs))
    whole = jnp.zeros((*(view.sizes[axis] for axis in first), *part.shape), part.dtype)
    place = [*(piece.pairs[axis] for axis in first), *(jnp.zeros_like(piece.pairs[0]),) * part.ndim]
    whole = lax.dynamic_update_slice(whole, part[(None,) * len(first)], place)
    return whole.reshape(-1, *part.shape[1:])


def _here(piece: Piece, view: FactorView, mass: Array) -> Array:
    """What a piece has of an array over local pairs, `[X]` to `[X']`."""
    depth = len(piece.pairs)
    table = mass.reshape([view.sizes[axis] for axis in sorted(view.axes)])
    for axis in _first(view, depth):
        table = lax.dynamic_index_in_dim(table, piece.pairs[axis], 0, keepdims=False)
    return table.reshape(-1)


def _flow(chain: PairChain, view: FactorView, acts: Array, moved: Array) -> Array:
    """Where mass goes and how it acts there, as the next pair of the view: `[X, X]`."""
    depth, shape, n = _depth(chain), _shape(chain), len(view.sizes)
    own = sorted(view.axes)
    # [S_0, A_0, .., S_{d-1}, A_{d-1}, S_d, (A_d), ..], an action only where it is the view's own.
    sizes = [m for k in range(n) for m in shape[2 * k : 2 * k + 1 + (k < depth or k in own)]]
    names = [m for k in range(n) for m in ((k, n + k) if k < depth or k in own else (k,))]
    states = shape[::2]
    pairs = [m for k in view.axes for m in (k, n + k)]
    return named_product(
        [
            (moved.reshape([view.sizes[k] for k in own] + list(states)),
             [2 * n + k for k in own] + list(range(n))),
            (acts.reshape(sizes), names),
        ],
        [2 * n + k for k in view.axes] + pairs,
    ).reshape(view.size, view.size)  # fmt: skip
