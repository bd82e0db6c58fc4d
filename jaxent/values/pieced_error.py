r"""The bracket of an error of values, of a chain that is worked on piece by piece.

The same numbers as of `approximation_error`, in four passes over the pieces and one for each
product with the chain. The Bellman residual b is not held: what a piece needs for its own is two
functions of the joint state, Π (f - level) and Π 1, from which it is made again where it is wanted.
Of arrays over pairs there are the law, the error, and what of r and f is no sum of local functions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..chains.pair_chain import PairChain
from ..chains.pieces import Joint, Piece, on_pairs, on_states, over_pieces
from ..numerics.arrays import nan_unless
from ..numerics.compiled import jit
from .error_bracket import (
    SHOWN,
    ErrorBracket,
    Found,
    Problem,
    bracket_of,
    implicit,
    is_valid,
    largest,
    most,
    residual,
    rounded,
    search,
    unit,
)

Array = jax.Array


def bracket_by_pieces(
    chain: PairChain,
    r: Joint,
    f: Joint,
    mu: Array,
    rate: Array,
    away: Array,
    tol: Array,
    max_matvecs: int,
) -> ErrorBracket:
    """`approximation_error` of what is checked already."""
    problem, known = _problem(chain, r, f, mu, rate, away)
    w, num = search(*lax.stop_gradient((chain, *problem[:4], rate)), tol, max_matvecs)
    return _bracket(chain, r, f, mu, rate, tol, problem, known, w, num)


class _Known(NamedTuple):
    """What a piece needs to make its Bellman residual.

    Attributes:
        level: mean of f.
        rest: Π (f - level), `[S]`.
        ones: Π 1, `[S]`.
        away: 1 - discount.
    """

    level: Array
    rest: Array
    ones: Array
    away: Array


def _residual(piece: Piece, rate: Array, known: _Known, r: Joint, f: Joint) -> Any:
    """Here: b, r, f without its mean, and the sums of P's rows."""
    reward, rest = piece.value(r), piece.value(f) - known.level
    ahead, total = piece.kernel.mv(known.rest), piece.kernel.mv(known.ones)
    b = residual(reward, known.level, rest, ahead, total, rate, known.away)
    return b, reward, rest, total


@jit
def _problem(
    chain: PairChain, r: Joint, f: Joint, mu: Array, rate: Array, away: Array
) -> tuple[Problem, _Known]:
    def begin(piece: Piece, local: Any, mu: Array, whole: Any) -> Any:
        return (), (mu @ piece.value(Joint(local, whole)), piece.kernel.vm(mu)), ()

    (level, law) = over_pieces(chain, begin, f.local, mu, f.whole)[1]

    def average(piece: Piece, given: Any, whole: Any) -> Any:
        local, level = given
        rest = piece.value(Joint(local, whole)) - level
        return (piece.policy.mv(rest), piece.policy.mv(jnp.ones_like(rest))), (), ()

    parts = over_pieces(chain, average, (f.local, level), f.whole)[0]
    rest, ones = (on_states(chain, x) for x in parts)
    known = _Known(level, rest, ones, away)

    def numbers(piece: Piece, given: Any, mu: Array, whole: Any) -> Any:
        local, known, rate = given
        joint = [Joint(*both) for both in zip(local, whole, strict=True)]
        b, reward, rest, total = _residual(piece, rate, known, *joint)
        off = rounded(chain, reward, known.level, rest, rate, known.away)
        sums = tuple(mu @ x for x in (b, jnp.abs(b), off, jnp.abs(rest)))
        return piece.policy.mv(b), sums, (largest(total, mu), largest(off, mu))

    held = mu, (r.whole, f.whole)
    mean, sums, most_of = over_pieces(chain, numbers, ((r.local, f.local), known, rate), *held)
    level_b, size_b, noise, scale = sums
    growth, sup_noise = most_of
    return Problem(
        mean=on_states(chain, mean),
        level=level_b,
        size=size_b,
        law=law,
        growth=growth + unit(chain),
        noise=noise,
        sup_noise=sup_noise,
        scale=scale,
    ), known


@jit
def _bracket(
    chain: PairChain,
    r: Joint,
    f: Joint,
    mu: Array,
    rate: Array,
    tol: Array,
    problem: Problem,
    known: _Known,
    w: Array,
    num_matvecs: Array,
) -> ErrorBracket:
    w = implicit(chain, problem.mean, rate, w)
    valid = is_valid(chain, rate, tol)

    def error(piece: Piece, given: Any, mu: Array, whole: Any) -> Any:
        local, known, rate, w, valid = given
        joint = [Joint(*both) for both in zip(local, whole, strict=True)]
        x = _residual(piece, rate, known, *joint)[0] + rate * piece.kernel.mv(w)
        weighted = mu * jnp.abs(x)
        chosen = most(lax.stop_gradient(weighted), min(SHOWN, len(mu)))
        visited = nan_unless(valid, jnp.where(mu > 0, x, 0))
        kept = visited, piece.policy.mv(x), weighted[chosen], chosen
        return kept, weighted.sum(), largest(x, mu)

    local, whole = (r.local, f.local), (r.whole, f.whole)
    kept, value, sup = over_pieces(chain, error, (local, known, rate, w, valid), mu, whole)
    x, mean, weights, chosen = kept
    size = len(mu) // len(chosen)
    pairs = (chosen + size * jnp.arange(len(chosen))[:, None]).reshape(-1)
    first = lax.top_k(weights.reshape(-1), min(SHOWN, len(mu)))[1]
    made = Found(
        value=nan_unless(valid, value),
        sup=nan_unless(valid, sup),
        w=w,
        missed=on_states(chain, mean) - w,
        error=on_pairs(chain, x),
        where=pairs[first],
    )
    return bracket_of(chain, problem, rate, tol, made, num_matvecs)
