r"""How wrong is an approximation of the joint value? Certified, for a chain of any size.

Let f be any joint function that stands for Q: a sum of local values, a fit, a trained critic. Its
Bellman residual is b = r + discount P f - f, and the error is exactly

    e = Q - f = (I - discount P)^-1 b,

the value of the residual taken as a reward. It is solved on joint states, where P = K Π:
w = Π b + discount Π K w and e = b + discount K w. An approximate w gives x = b + discount K w and
what it misses, ρ = Π x - w, bounds how far x is from e:

    | ||e||_μ - ||x||_μ | <= discount / (1 - discount) ||ρ||_ν,    ||x||_μ = Σ_x μ(x) |x|,

with ν the law of the joint states, and likewise in the sup-norm. So every w gives a bracket of the
error. Small chains are eliminated, and the bracket is as narrow as rounding allows; others apply
the chain, one GMRES step in the inner product of ν after another, until the bracket is narrow
enough. What rounding may have done to each of these numbers is added to the bracket.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_discount, check_positive, check_positive_int
from .._reads import NOT_SAID, Frame, frame, noted, reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import eliminated, law_of_pairs
from ..models.contracts import ArrayLike, Kernel, PolicyPart, Scalar
from ..numerics.arrays import nan_unless
from ..numerics.compiled import jit
from ..numerics.elimination import Eliminated, implicit_values, values_of
from ..numerics.krylov import correction, gmres, grown, new_space, residual_of
from .bellman import joint_function, joint_reward

Array = jax.Array
Functions = ArrayLike | Sequence[ArrayLike]

# How narrow a bracket is unasked, and the products with the chain that it may take.
TOL, MATVECS = 0.01, 50
# The joint pairs that `where` names.
_SHOWN = 10
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


def approximation_error(
    chain: PairChain,
    reward: Functions,
    approximation: Functions,
    *,
    discount: Scalar,
    tol: float = TOL,
    max_matvecs: int = MATVECS,
    mu: ArrayLike | None = None,
    law: ArrayLike | None = None,
) -> ErrorBracket:
    r"""How far an approximation of the joint value is from it, with a certificate.

    ||Q - f||_μ = Σ_x μ(x) |Q(x) - f(x)| and max |Q - f| over visited pairs, each in a bracket that
    holds whether or not it is narrow: Q is never solved for. `value` is differentiable (implicitly)
    in the chain, the reward, the approximation and the discount.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Args:
        chain: any unichain.
        reward: the joint reward, `[J]` or `[X_0, ..]`, or a sequence of local ones, `[X_i]` or
            `[S_i, A_i]` a view.
        approximation: f, the same: a joint function, or a sequence of local ones to be added up.
        discount: in [0, 1).
        tol: the bracket is narrow enough where upper <= (1 + tol) lower.
        max_matvecs: products with a chain too large to eliminate, at most; that many functions of
            the joint state are held. Static.
        mu: the stationary law, `[J]`, where it is known already; norms are under it.
        law: of a team that explores, `[J]`, to weigh errors by instead; then not μ but the sup-norm
            bounds what is missed, for P may stretch this norm.

    Raises:
        ValueError: for functions of another shape or, outside a trace, not finite, a discount
            outside [0, 1), tol <= 0 or max_matvecs < 1, for a chain without a unique law, and for a
            `law` that the policy leaves. Inside a trace there is NaN for these, and `converged` is
            false.

    Examples:
        Agent B's next pair is agent A's current one; the sum of local values is off by 0.45:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> local = jaxent.local_q_values(chain, rewards, discount=0.9)
        >>> found = jaxent.approximation_error(chain, rewards, local, discount=0.9)
        >>> print(f"{found.lower:.3f} {found.upper:.3f} {found.converged}")
        0.450 0.450 True
    """
    check_chain(chain)
    check_discount(discount)
    check_positive("tol", tol)
    check_positive_int("max_matvecs", max_matvecs)
    r = joint_reward(chain, reward)
    f = joint_function(chain, "approximation", approximation)
    weights = law_of_pairs(chain, mu, law)
    found = bracket(chain, r, f, weights, discount, tol, max_matvecs)
    return found if law is None else under_any_law(found, tol)


def under_any_law(found: ErrorBracket, tol: float = TOL) -> ErrorBracket:
    """The bracket where P does not keep the law of the norm: what is missed is at most its sup."""
    missed = found.sup_upper - jnp.abs(found.error).max()
    lower, upper = jnp.maximum(found.value - missed, 0), found.value + missed
    # Small chains are eliminated: what is missed there is rounding.
    narrow = (upper <= (1 + tol) * lower) | ((found.num_matvecs == 0) & found.converged)
    return found._replace(lower=lower, upper=upper, converged=narrow)


def bracket(
    chain: PairChain,
    r: Array,
    f: Array,
    mu: Array,
    discount: Scalar,
    tol: float = TOL,
    max_matvecs: int = MATVECS,
) -> ErrorBracket:
    """`approximation_error` of what is checked already: r and f are `[J]`."""
    rate, wanted = (jnp.asarray(x, chain.dtype) for x in (discount, tol))
    problem = _residual(chain, r, f, mu, rate)
    if chain.is_small:
        frozen = lax.stop_gradient((chain, rate))
        found = eliminated(*frozen)
        w = _eliminate(*lax.stop_gradient((chain, problem.b, rate)), found)
        return _bracket(chain, problem, mu, rate, wanted, w, jnp.array(0), found)
    frozen = lax.stop_gradient((chain, problem.b, problem.law, mu, rate))
    w, num = search(*frozen, wanted, int(max_matvecs))
    return _bracket(chain, problem, mu, rate, wanted, w, num, None)


class _Problem(NamedTuple):
    """The equation e = b + discount P e, and how well rounding lets b and P be known.

    Attributes:
        b: the Bellman residual of the approximation, `[J]`.
        law: of the joint states, `[S]`.
        growth: the largest sum of a visited row of P.
        noise: what rounding may have done to b, in the mu-norm.
        sup_noise: the same in the sup-norm.
        scale: mean distance of the approximation from its mean.
    """

    b: Array
    law: Array
    growth: Array
    noise: Array
    sup_noise: Array
    scale: Array


def _unit(chain: PairChain) -> float:
    """What rounding does to a sum over next states, relative to the sum of the absolute values.

    The roundings of n terms add up to n units at worst and to a few sqrt(n) where they are
    independent (Higham and Mary 2019); sums are taken in blocks, which makes n smaller than here.
    """
    return (8 + 4 * float(chain.num_states) ** 0.5) * float(jnp.finfo(chain.dtype).eps)


@jit
def _residual(chain: PairChain, r: Array, f: Array, mu: Array, rate: Array) -> _Problem:
    # The mean of f is left out: it would round away the digits that matter, and what it
    # contributes is known, (discount - 1) times it.
    level = mu @ f
    rest, r = f - level, r - (1 - rate) * level
    ahead, total = jax.vmap(chain.mv)(jnp.stack([rest, jnp.ones_like(rest)]))
    # Rows are meant to sum to 1; what they miss multiplies the level.
    off = jnp.abs(total - 1) * rate * jnp.abs(level) + _unit(chain) * (
        jnp.abs(r) + 2 * jnp.abs(rest)
    )
    return _Problem(
        b=r + rate * ahead - rest,
        law=chain.kernel.vm(mu),
        growth=_largest(total, mu) + _unit(chain),
        noise=mu @ off,
        sup_noise=_largest(off, mu),
        scale=mu @ jnp.abs(rest),
    )


def _largest(x: Array, mu: Array) -> Array:
    """The largest |x| where mu is not 0."""
    return jnp.where(mu > 0, jnp.abs(x), 0).max()


@jit
def _eliminate(chain: PairChain, b: Array, rate: Array, found: Eliminated) -> Array:
    return values_of(chain.state_matrix(), chain.policy.mv(b), rate, found)


@jit(static_argnames="max_matvecs")
def search(
    chain: PairChain, b: Array, law: Array, mu: Array, rate: Array, tol: Array, max_matvecs: int
) -> tuple[Array, Array]:
    """An approximate w, by GMRES in the inner product of the law ν, and the products it took.

    Its constant is known, mu'b / (1 - discount). The rest is searched for as sqrt(ν) w, in which
    the inner product is the usual one.
    """
    constant = mu @ b / (1 - rate)
    root = jnp.sqrt(law)
    inverse = jnp.where(law > 0, 1 / jnp.where(law > 0, root, 1), 0)
    mean = chain.policy.mv(b)
    size_b = mu @ jnp.abs(b)

    def unfinished(carry):
        return carry[2]

    def step(carry):
        space, _, _ = carry
        last = space.basis[space.size]
        ahead = chain.policy.mv(chain.kernel.mv(inverse * last))
        space = grown(space, last - rate * root * ahead)
        w, missed = constant + inverse * correction(space), inverse * residual_of(space)
        tail = rate / (1 - rate) * (law @ jnp.abs(missed))
        # The error's norm is at least that of its mean over actions, w + missed.
        reach = jnp.maximum(law @ jnp.abs(w + missed), size_b - rate * (law @ jnp.abs(w)))
        going = (tail > tol / (2 + tol) * reach) & (space.size < max_matvecs)
        return space, w, going

    space = new_space(root * (mean - mu @ b), max_matvecs)
    start = (space, jnp.full_like(law, constant), jnp.array(True))
    space, w, _ = lax.while_loop(unfinished, step, start)
    return w, space.size


@jit
def _bracket(
    chain: PairChain,
    problem: _Problem,
    mu: Array,
    rate: Array,
    tol: Array,
    w: Array,
    num_matvecs: Array,
    found: Eliminated | None,
) -> ErrorBracket:
    mean = chain.policy.mv(problem.b)
    if found is None:
        w = _implicit(chain.kernel, chain.policy, mean, rate, w)
    else:
        w = implicit_values(chain.state_matrix(), mean, rate, w, found)
    x = problem.b + rate * chain.kernel.mv(w)
    missed = chain.policy.mv(x) - w
    valid = chain.stochastic() & (rate >= 0) & (rate < 1) & (tol > 0)
    value = nan_unless(valid, mu @ jnp.abs(x))

    unit, law = _unit(chain), problem.law
    kept = rate * problem.growth
    factor = jnp.where(kept < 1, 1 / (1 - kept), jnp.inf)

    def bounds(size, size_w, size_missed, noise):
        noise = noise + 2 * unit * (size + size_w)
        floor = noise * factor + unit * size
        tail = kept * size_missed * factor + floor
        return jnp.maximum(size - tail, 0), size + tail, floor

    sizes = value, law @ jnp.abs(w), law @ jnp.abs(missed)
    lower, upper, floor = bounds(*lax.stop_gradient((*sizes, problem.noise)))
    sup = nan_unless(valid, _largest(x, mu))
    sizes = sup, _largest(w, law), _largest(missed, law)
    sup_lower, sup_upper, _ = bounds(*lax.stop_gradient((*sizes, problem.sup_noise)))
    narrow = upper <= (1 + tol) * lower
    return ErrorBracket(
        value=value,
        lower=lower,
        upper=upper,
        sup_lower=sup_lower,
        sup_upper=sup_upper,
        error=nan_unless(valid, jnp.where(mu > 0, x, 0)),
        where=_most(mu * jnp.abs(x), min(_SHOWN, len(mu))),
        scale=problem.scale,
        num_matvecs=num_matvecs,
        converged=narrow | (upper <= 4 * floor),
    )


def _most(x: Array, number: int) -> Array:
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
def _implicit(kernel: Kernel, policy: PolicyPart, mean: Array, rate: Array, w: Array) -> Array:
    """The solution w of w = mean + discount Π K w that was found, with the derivative it has."""
    return w


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    kernel, policy, mean, rate, w = primals
    w = _implicit(kernel, policy, mean, rate, lax.stop_gradient(w))

    def ahead(kernel, policy, mean, rate):
        return mean + rate * policy.mv(kernel.mv(w))

    def solve(operator, b):
        return gmres(operator, b, tol=16 * float(jnp.finfo(b.dtype).eps)).value

    _, moved = jax.jvp(ahead, primals[:4], tangents[:4])
    return w, lax.custom_linear_solve(
        lambda v: v - rate * policy.mv(kernel.mv(v)), moved, solve=solve, transpose_solve=solve
    )
