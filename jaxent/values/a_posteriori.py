r"""Bounds on the decomposition error once local values are known: nothing is minimized.

The error needs no entanglement at all (`a_posteriori`): it is the value of the residual
b = discount D, D = P Σ_i Q_i - Σ_i P_i Q_i (lifted), that is

    e = b + Σ_{t >= 1} discount^t K T^{t-1} m,    m = Π b,    T = Π K the chain of joint states.

Both b and m have mean 0 under the law, so T^t m shrinks as the chain forgets where it started. In
the mean under the law ν of the joint states, and in the sup-norm,

    ||T^t m||_1   <= min( ||m||_1 τ*^t,  ||m||_2 ρ^t,  span(m) τ^t / 2 ),
    ||T^t m||_sup <= min( ||m||_sup,  span(m) τ^t ),

with τ the Dobrushin coefficient of T, which contracts spans; τ* that of its time reversal
T*(s, t) = ν_t T(t, s) / ν_s, the contraction of T on functions of mean 0 in L1(ν); and
ρ = ||T - 1 ν'|| in L2(ν). A function of mean 0 has mean absolute value at most half its span. The
least of these bounds is taken term by term.

`projection_sup` and `projection_mu` are the paper's own proof with the transition of Eq. (2) in
the place of a minimizer, `information_l2` with transfer entropy in the place of a distance.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_discount
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.pieces import Joint
from ..chains.stationary import known_law
from ..chains.views import local_transitions, next_view
from ..measures.distances import mu_inf_norm
from ..models.contracts import ArrayLike, Scalar, View
from ..numerics.arrays import dot, ratio
from ..numerics.compiled import jit
from ..numerics.simplex import relative_entropy, total_variation
from .bellman import check_locals, local_q_values, shared_reward
from .decomposition import reward_entanglement
from .error_bracket import search

Array = jax.Array

# Coefficients compare all pairs of rows, which takes S^3 steps: up to this many joint states.
_COMPARED = 512
# Where there are more, nothing is known of how fast the chain forgets, so that it is applied.
_MATVECS = 16
# Terms of the series that are bounded one by one; the rest is geometric.
_TERMS = 64
# ρ is found to within n^(2^-13): a thousandth, at 512 states.
_SQUARINGS = 12


@reads("the error is at most {0.mu_bound:.4g} in the mean, {0.sup_bound:.4g} anywhere")
class APosteriori(NamedTuple):
    """Bounds from the Bellman residual of the decomposition.

    Attributes:
        mu_bound: on the mu-norm of the error.
        sup_bound: on the sup-norm of the error.
        residual: D, `[J]`; 0 where not visited.
        dobrushin: τ of the joint states, or 1 where there are too many to compare.
        reversed_dobrushin: τ*, likewise.
        rho: ρ, from above, likewise.
    """

    mu_bound: Array
    sup_bound: Array
    residual: Array
    dobrushin: Array
    reversed_dobrushin: Array
    rho: Array


def a_posteriori(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    *,
    discount: Scalar,
    matvecs: int | None = None,
    mu: ArrayLike | None = None,
) -> APosteriori:
    """Bounds on the decomposition error from D = P dec - lift(P_i Q_i), dec = lift(Q_i).

    No joint value is solved for. `approximation_error` brackets the same error, and that of any
    other approximation.

    Args:
        chain: any unichain.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`.
        discount: in [0, 1).
        matvecs: products with the chain that go into the bound, beside the one of D. By default
            none, or 16 where the joint states are too many (over 512) to compare their rows, which
            then is the only way to see how fast the chain forgets. Static.
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: as `local_q_values` and `stationary_distribution` do; if matvecs < 0.

    Examples:
        This chain repeats itself with period 2, so that nothing is known without products:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> print(f"{jaxent.bounds.a_posteriori(chain, rewards, discount=0.9).mu_bound:.3f}")
        4.500
        >>> after = jaxent.bounds.a_posteriori(chain, rewards, discount=0.9, matvecs=1)
        >>> print(f"{after.mu_bound:.3f}")
        0.450
    """
    check_chain(chain)
    check_discount(discount)
    if matvecs is None:
        matvecs = 0 if chain.num_states <= _COMPARED else _MATVECS
    if int(matvecs) != matvecs or matvecs < 0:
        raise ValueError(f"matvecs: {matvecs} is not an integer of at least 0")
    rewards = check_locals(chain, rewards)
    mu = known_law(chain, mu)
    q_local = local_q_values(chain, rewards, discount=discount, mu=mu)
    rate = jnp.asarray(discount, chain.dtype)
    return _bounds(chain, local_transitions(chain, mu), q_local, mu, rate, int(matvecs))


@jit(static_argnames="matvecs")
def _bounds(
    chain: PairChain,
    local: Sequence[Array],
    q_local: Sequence[Array],
    mu: Array,
    rate: Array,
    matvecs: int,
) -> APosteriori:
    ahead = [dot(P, q) for P, q in zip(local, q_local, strict=True)]
    residual = jnp.where(mu > 0, chain.mv(chain.lift(q_local)) - chain.lift(ahead), 0)
    law = chain.kernel_vm(mu)
    tau, reversed_tau, rho = coefficients(chain, law)
    x, left = jnp.zeros_like(residual), rate * residual
    if matvecs:
        mean = chain.policy_mv(Joint(None, left))
        problem = (chain, mean, mu @ left, mu @ jnp.abs(left), law, rate)
        w, _ = search(*lax.stop_gradient(problem), jnp.zeros_like(rate), matvecs)
        x = left + rate * chain.kernel_mv(w)
        left = rate * chain.kernel_mv(chain.policy_mv(Joint(None, x)) - w)
    m = chain.policy_mv(Joint(None, left))
    level = law @ m  # 0 but for rounding, which would not shrink
    one, size = jnp.ones_like(rate), jnp.abs(m - level)
    mean, span = law @ size, _span(m, law > 0)
    root = jnp.sqrt(law @ size**2)
    level = jnp.abs(level) * rate / (1 - rate)
    mean_tail = _series(rate, [mean, mean, root, span / 2], [one, reversed_tau, rho, tau]) + level
    sup_tail = _series(rate, [jnp.where(law > 0, size, 0).max(), span], [one, tau]) + level
    visited = lambda f: jnp.where(mu > 0, jnp.abs(f), 0)  # noqa: E731
    return APosteriori(
        mu @ (jnp.abs(x) + jnp.abs(left)) + mean_tail,
        visited(x).max() + visited(left).max() + sup_tail,
        residual,
        tau,
        reversed_tau,
        rho,
    )


def _series(rate: Array, sizes: list[Array], shrinks: list[Array]) -> Array:
    """Σ_{t >= 1} rate^t min_k size_k shrink_k^(t-1)."""
    size, shrink = jnp.stack(sizes)[:, None], jnp.stack(shrinks)[:, None]
    t = jnp.arange(_TERMS)[None]
    terms = rate ** (t[0] + 1) * (size * shrink**t).min(0)
    rest = rate ** (_TERMS + 1) * (size * shrink**_TERMS / (1 - rate * shrink)).min()
    return terms.sum() + rest


def _span(x: Array, there: Array) -> Array:
    """Largest less smallest of what is there."""
    return jnp.where(there, x, -jnp.inf).max() - jnp.where(there, x, jnp.inf).min()


def coefficients(chain: PairChain, law: Array) -> tuple[Array, Array, Array]:
    """τ, τ* and an upper bound of ρ of the joint states; 1 where there are too many of these."""
    if chain.num_states > _COMPARED:
        one = jnp.ones((), chain.dtype)
        return one, one, one
    T = chain.state_matrix()
    there = law > 0
    reversal = ratio(law[None] * T.T, law[:, None] + 0 * T)
    root = jnp.sqrt(law)
    apart = ratio(root[:, None] * T, root[None] + 0 * T) - root[:, None] * root[None]
    gram = dot(apart.T, apart)
    eps = jnp.finfo(T.dtype).eps

    def square(_, carry):
        # λ^(2^k) <= trace(gram^(2^k)), whose logarithm is kept apart. The square of a symmetric M
        # is computed to within n eps/2 ||M||_F^2, n eps/2 r of λ^2 with r = (||M||_F / λ)^2, and
        # r <= (trace M / ||M||_F)^2. Twice n eps r is more than can be lost here, the error of
        # the first product included; what is lost at step k weighs 2^-k of that.
        power, log = carry
        size = jnp.trace(power)
        power = power / jnp.where(size > 0, size, 1)
        power = dot(power, power)
        lost = 2 * len(T) * eps * ratio(jnp.ones_like(log), jnp.trace(power))
        return power, 2 * (log + jnp.log(size)) + lost

    power, log = lax.fori_loop(0, _SQUARINGS, square, (gram, jnp.zeros((), T.dtype)))
    log = (log + jnp.log(jnp.trace(power))) / 2 ** (_SQUARINGS + 1)
    # Each sum above rounds the logarithm by eps of itself; `apart` is the difference of matrices
    # of norm 1, each rounded entry by entry.
    rho = jnp.exp(log * jnp.where(log < 0, 1 - 2 * _SQUARINGS * eps, 1)) + 8 * eps
    return dobrushin(T, there), dobrushin(reversal, there), jnp.minimum(rho, 1)


def dobrushin(T: Array, there: Array) -> Array:
    """The largest TV distance between rows `[S, S]` of the states that are there."""

    def farthest(row):
        return jnp.where(there, total_variation(T, row[None]), 0).max()

    return jnp.where(there, lax.map(farthest, T), 0).max()


def projection_sup(
    chain: PairChain, rewards: Sequence[ArrayLike], *, discount: Scalar, mu: ArrayLike | None = None
) -> Array:
    r"""Sup-norm bound from the local transitions of Eq. (2), nothing minimized.

    discount / (1 - discount) Σ_i d_i span(Q_i), d_i = max_x TV(P(x_i' | x), P_i(x_i' | x_i)) over
    visited pairs: the residual of the decomposition is Σ_i (P - P_i) Q_i, and a difference of two
    laws moves the mean of a function by at most their TV distance times its span. d_i is at most
    twice the minimum E_i of `span_sup`, whose 2 E_i stands in its place.
    """
    return _projection(chain, rewards, discount, mu, _farthest)


def projection_mu(
    chain: PairChain, rewards: Sequence[ArrayLike], *, discount: Scalar, mu: ArrayLike | None = None
) -> Array:
    r"""mu-norm bound from the local transitions of Eq. (2), nothing minimized.

    As `projection_sup`, with d_i the mu-ATV distance, half the sup over |y| <= 1 of the mu-norm of
    (P - P_i) y; from above where there are over 16 local pairs.
    """
    return _projection(chain, rewards, discount, mu, _mean_apart)


def information_l2(
    chain: PairChain, rewards: Sequence[ArrayLike], *, discount: Scalar, mu: ArrayLike | None = None
) -> Array:
    r"""Bound on the root mean square error, sqrt(Σ_x mu(x) e(x)^2), from transfer entropies.

    discount / (1 - discount) Σ_i sqrt(I_i / 2) span(Q_i), with I_i = I(X_i'; X | X_i) in nats
    (`transfer_entropy`). By Pinsker's inequality the residual of agent i is at x at most span(Q_i)
    sqrt(KL / 2), whose mean square is I_i / 2, and values are no larger than rewards over
    1 - discount in L2(mu) as they are in L1(mu). The mean error is at most the root mean square, so
    it is bounded too; `projection_mu` is never larger, but says nothing of the mean square.
    """
    return _projection(chain, rewards, discount, mu, _told)


def projection_shared(
    chain: PairChain,
    reward: ArrayLike,
    rewards: Sequence[ArrayLike] | None = None,
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
) -> Array:
    r"""mu-norm bound for one shared reward from the local transitions of Eq. (2) (cf. Prop. 4).

    |r - Σ_i r_i|_mu / (1 - discount) + discount / (1 - discount) Σ_i d_i span(Q_i), d_i as in
    `projection_mu`, for any local rewards r_i: those of least squares (Meta Algorithm 2) too, of
    which Proposition 4 does not hold.

    Args:
        chain: any unichain.
        reward: the shared reward, `[J]` or `[X_0, ..]`.
        rewards: one local reward a view, `[X_i]`; by default those of `reward_entanglement`, for
            which this is at most `proposition_4`.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.
    """
    check_discount(discount)
    reward = shared_reward(chain, reward)
    mu = known_law(chain, mu)
    fit: Any = reward_entanglement(chain, reward, mu).minimizer if rewards is None else rewards
    each = check_locals(chain, fit)
    missed = mu @ jnp.abs(reward - chain.lift(each))
    return missed / (1 - discount) + projection_mu(chain, each, discount=discount, mu=mu)


def _farthest(rows: Array, local: Array, mu: Array) -> Array:
    return jnp.where(mu > 0, total_variation(rows, local), 0).max()


def _mean_apart(rows: Array, local: Array, mu: Array) -> Array:
    return mu_inf_norm(jnp.where(mu[:, None] > 0, rows - local, 0), mu).upper / 2


def _told(rows: Array, local: Array, mu: Array) -> Array:
    information = mu @ jnp.where(mu > 0, relative_entropy(rows, local), 0)
    some = information > 0  # a root has no derivative at 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, information, 1) / 2), 0 * information)


def _projection(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    discount: Scalar,
    mu: ArrayLike | None,
    distance: Callable[[Array, Array, Array], Array],
) -> Array:
    check_discount(discount)
    mu = known_law(chain, mu)
    values = local_q_values(chain, check_locals(chain, rewards), discount=discount, mu=mu)
    local = zip(local_transitions(chain, mu), values, strict=True)
    terms = [
        chain.num_alike[i] * _term(chain, mu, chain.view(i), P, q, distance)
        for i, (P, q) in enumerate(local)
    ]
    return jnp.stack(terms).sum() * (discount / (1 - discount))


@jit(static_argnames="distance")
def _term(
    chain: PairChain,
    mu: Array,
    view: View,
    P: Array,
    q: Array,
    distance: Callable[[Array, Array, Array], Array],
) -> Array:
    """d_i span(Q_i) of one view, over what is visited."""
    apart = distance(next_view(chain, view), view.lift(P), mu)  # of laws `[J, X]`
    return apart * _span(q, view.project(mu) > 0)
