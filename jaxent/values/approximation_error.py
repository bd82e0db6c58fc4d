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

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_discount, check_positive, check_positive_int
from ..chains.pair_chain import PairChain, check_chain
from ..chains.pieces import Joint
from ..chains.stationary import eliminated, law_of_pairs
from ..models.contracts import ArrayLike, Scalar
from ..numerics.arrays import nan_unless
from ..numerics.compiled import jit
from ..numerics.double import cast, on_the_host
from ..numerics.elimination import Eliminated, implicit_values, values_of
from .bellman import function_of_pairs
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
    one_less,
    residual,
    rounded,
    search,
    unit,
)
from .error_in_double import can_be_known, doubled, lost_by, own_law, rounded_outward
from .pieced_error import bracket_by_pieces

Array = jax.Array
Functions = ArrayLike | Sequence[ArrayLike]

# How narrow a bracket is unasked, and the products with the chain that it may take.
TOL, MATVECS = 0.01, 50


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

    Where no argument is traced, a float32 chain of up to 2^18 joint pairs is taken to float64 on
    the host; the bracket, float32 again, has in it what rounding its probabilities may have done.

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
        mu: the stationary law, `[J]`, where it is known already; norms are under it. Of float32 it
            is found anew in float64.
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
    r = function_of_pairs(chain, "rewards", reward)
    f = function_of_pairs(chain, "approximation", approximation)
    weights = law_of_pairs(chain, mu, law)
    found = bracket(chain, r, f, weights, discount, tol, max_matvecs, own=law is None)
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
    r: Joint,
    f: Joint,
    mu: Array,
    discount: Scalar,
    tol: float = TOL,
    max_matvecs: int = MATVECS,
    *,
    own: bool = True,
) -> ErrorBracket:
    """`approximation_error` of what is checked already; `own` where the law is the chain's."""
    if not can_be_known(chain, r, f, mu, discount, tol):
        return _solved(chain, r, f, mu, discount, tol, max_matvecs, None)
    with on_the_host():
        wide = doubled(chain)
        law = own_law(wide, mu) if own else cast(np.float64, mu)
        r, f = cast(np.float64, (r, f))
        found = _solved(wide, r, f, law, discount, float(tol), max_matvecs, lost_by(chain))
    return rounded_outward(found)


def _solved(
    chain: PairChain,
    r: Joint,
    f: Joint,
    mu: Array,
    discount: Scalar,
    tol: float,
    max_matvecs: int,
    lost: float | None,
) -> ErrorBracket:
    rate, wanted = (jnp.asarray(x, chain.dtype) for x in (discount, tol))
    away = one_less(discount, rate)
    if chain.cut:
        return bracket_by_pieces(chain, r, f, mu, rate, away, wanted, int(max_matvecs))
    b, problem = _residual(chain, chain.whole(r), chain.whole(f), mu, rate, away, lost)
    if chain.is_small:
        frozen = lax.stop_gradient((chain, rate))
        found = eliminated(*frozen)
        w = _eliminate(*lax.stop_gradient((chain, b, rate)), found)
        return _bracket(chain, b, problem, mu, rate, wanted, w, jnp.array(0), found, lost)
    frozen = lax.stop_gradient((chain, *problem[:4], rate))
    w, num = search(*frozen, wanted, int(max_matvecs))
    return _bracket(chain, b, problem, mu, rate, wanted, w, num, None, lost)


@jit
def _residual(
    chain: PairChain,
    r: Array,
    f: Array,
    mu: Array,
    rate: Array,
    away: Array,
    lost: float | None,
) -> tuple[Array, Problem]:
    """The Bellman residual of the approximation, `[J]`, and the equation that it makes.

    `lost` is what each probability and reward may be off by, in their own size, of a chain that
    was float32.
    """
    level = mu @ f
    rest = f - level
    ahead, total = jax.vmap(chain.mv)(jnp.stack([rest, jnp.ones_like(rest)]))
    b = residual(r, level, rest, ahead, total, rate, away)
    off = rounded(chain, r, level, rest, rate, away)
    if lost is not None:
        spread = jnp.sqrt(jnp.maximum(chain.mv(rest**2) - ahead**2, 0))
        off = off + lost * (jnp.abs(r) + rate * spread)
    return b, Problem(
        mean=chain.policy.mv(b),
        level=mu @ b,
        size=mu @ jnp.abs(b),
        law=chain.kernel.vm(mu),
        growth=largest(total, mu) + unit(chain),
        noise=mu @ off,
        sup_noise=largest(off, mu),
        scale=mu @ jnp.abs(rest),
    )


@jit
def _eliminate(chain: PairChain, b: Array, rate: Array, found: Eliminated) -> Array:
    return values_of(chain.state_matrix(), chain.policy.mv(b), rate, found)


@jit
def _bracket(
    chain: PairChain,
    b: Array,
    problem: Problem,
    mu: Array,
    rate: Array,
    tol: Array,
    w: Array,
    num_matvecs: Array,
    found: Eliminated | None,
    lost: float | None,
) -> ErrorBracket:
    if found is None:
        w = implicit(chain, problem.mean, rate, w)
    else:
        w = implicit_values(chain.state_matrix(), problem.mean, rate, w, found)
    x = b + rate * chain.kernel.mv(w)
    valid = is_valid(chain, rate, tol)
    made = Found(
        value=nan_unless(valid, mu @ jnp.abs(x)),
        sup=nan_unless(valid, largest(x, mu)),
        w=w,
        missed=chain.policy.mv(x) - w,
        error=nan_unless(valid, jnp.where(mu > 0, x, 0)),
        where=most(mu * jnp.abs(x), min(SHOWN, len(mu))),
    )
    if lost is not None:  # P x is off too
        noise = problem.noise + lost * rate * jnp.sqrt(mu @ x**2)
        problem = problem._replace(
            noise=noise, sup_noise=problem.sup_noise + lost * rate * made.sup
        )
    return bracket_of(chain, problem, rate, tol, made, num_matvecs)
