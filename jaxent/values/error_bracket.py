r"""The bracket of an error of values, from whatever solves for it.

What is found on joint states, w, makes x = b + discount K w, and what it misses, ρ = Π x - w,
bounds how far x is from the error (`approximation_error`). Here are the search for w, the numbers
that the bracket is made of, and the bracket.
"""

from math import prod, sqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import concrete
from .._reads import NOT_SAID, Frame, frame, noted, reads
from ..chains.pair_chain import PairChain
from ..models.contracts import Scalar
from ..numerics.compiled import jit
from ..numerics.krylov import correction, gmres, grown, new_space, residual_of

Array = jax.Array

# The joint pairs that `where` names.
SHOWN = 10
_BLOCK = 1024


@reads("mean |error| {0.value:.6g} in [{0.lower:.6g}, {0.upper:.6g}]", note=NOT_SAID)
class ErrorBracket(NamedTuple):
    r"""The error of an approximation f of Q, bracketed; norms are over visited pairs.

    Attributes:
        value: $\|x\|_\mu = \sum \mu |x|$, within the bracket.
        lower: at most $\|Q - f\|_\mu$.
        upper: at least $\|Q - f\|_\mu$.
        sup_lower: at most max |Q - f|.
        sup_upper: at least max |Q - f|.
        error: x, the function that the bracket is made of, near Q - f, `[J]`; 0 where not visited.
        where: the joint pairs with the largest $\mu |x|$, those first, int `[min(10, J)]`.
        scale: $\sum \mu |f - \mu f|$, the spread of the approximation that the error is beside.
        num_matvecs: how often the chain was applied to find x; 0 where it was eliminated.
        converged: upper <= (1 + tol) lower, or the error is less than rounding can tell.
    """

    value: Array
    lower: Array
    upper: Array
    sup_lower: Array
    sup_upper: Array
    error: Array
    where: Array
    scale: Array
    num_matvecs: Array
    converged: Array

    def __str__(self) -> str:
        """The bracket, on a few lines."""
        if jnp.ndim(self.value):
            return f"ErrorBracket of a batch of shape {list(jnp.shape(self.value))}"
        value, lower, upper, scale = (
            float(x) for x in (self.value, self.lower, self.upper, self.scale)
        )
        of = f" ({value / scale:.2%} of the spread {scale:.4g})" if scale > 0 else ""
        told = "" if bool(self.converged) else ", not converged"
        return (
            f"mean |error| {value:.6g} in [{lower:.6g}, {upper:.6g}]{of}\n"
            f"max |error| in [{float(self.sup_lower):.6g}, {float(self.sup_upper):.6g}]\n"
            f"{int(self.num_matvecs)} products with the chain{told}; error: {self.error.shape}\n"
            + "\n".join(noted(NOT_SAID))
        )

    def to_frame(self) -> Frame:
        """The joint pairs where the error is largest, a row each, by their numbers."""
        return frame({"pair": self.where, "error": self.error[self.where]})


class Problem(NamedTuple):
    """The equation e = b + discount P e, and how well rounding lets b and P be known.

    Attributes:
        mean: Π b, `[S]`, with b the Bellman residual of the approximation.
        level: mean of b under the law of the pairs.
        size: mean of |b|.
        law: of the joint states, `[S]`.
        growth: the largest sum of a visited row of P.
        noise: what rounding may have done to b and to P e, in the mu-norm.
        sup_noise: the same in the sup-norm.
        scale: mean distance of the approximation from its mean.
    """

    mean: Array
    level: Array
    size: Array
    law: Array
    growth: Array
    noise: Array
    sup_noise: Array
    scale: Array


class Found(NamedTuple):
    """What a w makes.

    Attributes:
        value: mean of |x|, x = b + discount K w; NaN where the chain is none.
        sup: the largest |x| of a visited pair.
        w: `[S]`.
        missed: Π x - w, `[S]`.
        error: x where visited, else 0, `[J]`.
        where: the pairs with the largest share of `value`.
    """

    value: Array
    sup: Array
    w: Array
    missed: Array
    error: Array
    where: Array


# Roundings of each entry that are not of a sum: of products, differences and what was given.
_FEW = 4.0


def unit(chain: PairChain) -> float:
    """What rounding does to a sum over next states, relative to the sum of the absolute values.

    The chain's own probabilities are rounded too, one for each agent and one for its policy, and
    count as terms. The roundings of n terms add up to n / 2 epsilons at worst, and to sqrt(n) times
    a few halves where they are independent (Higham and Mary 2019). A product of kernels is applied
    one factor after another: its terms are those of the factors, far fewer than the joint states.
    """
    terms = getattr(chain.kernel, "num_terms", chain.num_states)
    terms += chain.num_pairs // chain.num_states + sum(chain.num_alike)
    most = min(_FEW + terms / 2, 2 * _FEW + 2 * sqrt(terms))
    return most * float(jnp.finfo(chain.dtype).eps)


def _summed(chain: PairChain) -> float:
    """What rounding does to a mean over pairs, relative to the mean of the absolute values.

    Not more than to a plain sum, of each piece and of the pieces; it is not multiplied by anything.
    """
    pieces = prod(chain.sizes[: chain.cut.depth]) if chain.cut else 1
    terms = chain.num_pairs // pieces
    roots = 2 * sqrt(terms) + (2 * sqrt(pieces) if pieces > 1 else 0)
    return (2 * _FEW + roots) * float(jnp.finfo(chain.dtype).eps)


def one_less(discount: Scalar, rate: Array) -> Array:
    """1 - discount; of a number that is known, with all the digits that single precision has."""
    return jnp.asarray(1 - float(discount), rate.dtype) if concrete(discount) else 1 - rate


def residual(
    r: Array, level: Array, rest: Array, ahead: Array, total: Array, rate: Array, away: Array
) -> Array:
    """The Bellman residual of f = level + rest, where P makes `ahead` of rest and `total` of 1.

    The mean of f is apart: it would round away the digits that matter, and what it contributes is
    known, `away` = 1 - discount times it. Rows are meant to sum to 1 and are divided by their sums:
    what a row misses in single precision would be multiplied by the mean.
    """
    return r - away * level + rate * ahead / lax.stop_gradient(total) - rest


def rounded(
    chain: PairChain, r: Array, level: Array, rest: Array, rate: Array, away: Array
) -> Array:
    """How far off rounding may have made the residual; P rest is no larger in norm than rest."""
    few = _FEW / 2 * float(jnp.finfo(chain.dtype).eps)
    once = jnp.abs(r) + away * jnp.abs(level) + jnp.abs(rest)
    return few * once + unit(chain) * rate * jnp.abs(rest)


def is_valid(chain: PairChain, rate: Array, tol: Array) -> Array:
    """Whether there is a chain, a discount and a tolerance, as a flag that may be traced."""
    return chain.stochastic() & (rate >= 0) & (rate < 1) & (tol > 0)


def largest(x: Array, mu: Array) -> Array:
    """The largest |x| where mu is not 0."""
    return jnp.where(mu > 0, jnp.abs(x), 0).max()


@jit(static_argnames="max_matvecs")
def search(
    chain: PairChain,
    mean: Array,
    level: Array,
    size: Array,
    law: Array,
    rate: Array,
    tol: Array,
    max_matvecs: int,
) -> tuple[Array, Array]:
    """An approximate w, by GMRES in the inner product of the law ν, and the products it took.

    It needs Π b, `[S]`, the means of b and of |b|, and ν, all under the law of the pairs.

    Its constant is known, level / (1 - discount). The rest is searched for as sqrt(ν) w, in which
    the inner product is the usual one.
    """
    constant = level / (1 - rate)
    root = jnp.sqrt(law)
    inverse = jnp.where(law > 0, 1 / jnp.where(law > 0, root, 1), 0)

    def unfinished(carry):
        return carry[2]

    def step(carry):
        space, _, _ = carry
        last = space.basis[space.size]
        ahead = chain.states_mv(inverse * last)
        space = grown(space, last - rate * root * ahead)
        w, missed = constant + inverse * correction(space), inverse * residual_of(space)
        tail = rate / (1 - rate) * (law @ jnp.abs(missed))
        # The error's norm is at least that of its mean over actions, w + missed.
        reach = jnp.maximum(law @ jnp.abs(w + missed), size - rate * (law @ jnp.abs(w)))
        going = (tail > tol / (2 + tol) * reach) & (space.size < max_matvecs)
        return space, w, going

    space = new_space(root * (mean - level), max_matvecs)
    start = (space, jnp.full_like(law, constant), jnp.array(True))
    space, w, _ = lax.while_loop(unfinished, step, start)
    return w, space.size


def bracket_of(
    chain: PairChain, problem: Problem, rate: Array, tol: Array, found: Found, num_matvecs: Array
) -> ErrorBracket:
    """The bracket that a w makes, `approximation_error`."""
    law, w, missed = problem.law, found.w, found.missed
    each, once = unit(chain), _summed(chain)
    kept = rate * problem.growth
    factor = jnp.where(kept < 1, 1 / (1 - kept), jnp.inf)

    def bounds(size, size_w, size_missed, noise):
        noise = noise + 2 * each * (size + size_w)
        floor = noise * factor + once * size
        tail = (1 + once) * kept * size_missed * factor + floor
        return jnp.maximum(size - tail, 0), size + tail, floor

    sizes = found.value, law @ jnp.abs(w), law @ jnp.abs(missed)
    lower, upper, floor = bounds(*lax.stop_gradient((*sizes, problem.noise)))
    sizes = found.sup, largest(w, law), largest(missed, law)
    sup_lower, sup_upper, _ = bounds(*lax.stop_gradient((*sizes, problem.sup_noise)))
    narrow = upper <= (1 + tol) * lower
    return ErrorBracket(
        value=found.value,
        lower=lower,
        upper=upper,
        sup_lower=sup_lower,
        sup_upper=sup_upper,
        error=found.error,
        where=found.where,
        scale=problem.scale,
        num_matvecs=num_matvecs,
        converged=narrow | (upper <= 4 * floor),
    )


def most(x: Array, number: int) -> Array:
    """Where the largest of x >= 0 are, those first, int `[number]`.

    XLA sorts everything for that on a CPU, so blocks are compared first: the largest entries are in
    the blocks with the largest maxima.
    """
    if len(x) <= number * _BLOCK:
        return lax.top_k(x, number)[1]
    blocks = jnp.pad(x, (0, -len(x) % _BLOCK), constant_values=-1).reshape(-1, _BLOCK)
    chosen = jnp.sort(lax.top_k(blocks.max(1), number)[1])  # in order, as ties are
    place = lax.top_k(blocks[chosen].reshape(-1), number)[1]
    return chosen[place // _BLOCK] * _BLOCK + place % _BLOCK


@jax.custom_jvp
def implicit(chain: PairChain, mean: Array, rate: Array, w: Array) -> Array:
    """The solution w of w = mean + discount Π K w that was found, with the derivative it has."""
    return w


@implicit.defjvp
def _implicit_jvp(primals, tangents):
    chain, mean, rate, w = primals
    w = implicit(chain, mean, rate, lax.stop_gradient(w))

    def ahead(chain, mean, rate):
        return mean + rate * chain.states_mv(w)

    def solve(operator, b):
        return gmres(operator, b, tol=16 * float(jnp.finfo(b.dtype).eps)).value

    _, moved = jax.jvp(ahead, primals[:3], tangents[:3])
    return w, lax.custom_linear_solve(
        lambda v: v - rate * chain.states_mv(v), moved, solve=solve, transpose_solve=solve
    )
