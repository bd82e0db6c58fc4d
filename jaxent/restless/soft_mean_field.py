r"""The mean field of a restless bandit under a soft index policy.

With m the fraction of agents per state and p(m) the chances to be active, the next mean is

    $\phi(m) = \sum_s m_s [(1 - p_s(m)) P_0(s, \cdot) + p_s(m) P_1(s, \cdot)]$,

which is smooth, in place of the affine pieces of an index policy (`mean_field`). So around the
fixed point m* there is one linear map, $K = d\phi/dm$, and also a curvature, which gives the next
term of everything smooth (Gast and Van Houdt: the refined mean field): with Sigma the covariance of
$\sqrt N (m - m^*)$, $\Sigma = K^\top \Sigma K + \Gamma$,

    $E[m] = m^* + b / N$, $b (I - K) = \tfrac12 D^2\phi : \Sigma$, and
    $E[r(m)] = r(m^*) + (Dr \cdot b + \tfrac12 D^2 r : \Sigma) / N$.

Rounding the budget to whole agents (`SoftIndex.roundings`) moves one agent a state at most, which
is of the next order.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex, check_soft
from ..numerics.arrays import relative
from ..numerics.elimination import discounted_solve
from .mean_field import lyapunov, spectral_radius

Array = jax.Array

_STEPS = 20_000
_NEWTON = 8
_DOUBLINGS = 48


class SoftMeanField(NamedTuple):
    r"""Fixed point, its linear map, and Gaussian limit.

    Attributes:
        configuration: $m^*$, fraction of agents per state, `[S]`.
        policy: $\pi^*(a \mid s)$ at m*, `[S, 2]`.
        slope: $\partial p_s / \partial m_t$ at m*, `[S, S]`.
        linear: $K_{ij} = \partial \phi_j / \partial m_i$ at m*, `[S, S]`, rows "from".
        spectral_radius: of K on the tangent space of the simplex; below 1 is local stability.
        covariance: of the stationary limit of $\sqrt N (m - m^*)$, `[S, S]`.
        bias: b, the limit of $N (E[m] - m^*)$, `[S]`.
        average_reward: of one agent, in the limit.
        average_reward_correction: limit of N (its value at N - `average_reward`).
        value_weights: slope of the value in the counts at m*, `[S]`.
        local_q: limit of the local Q-values, `[S, 2]`.
        entanglement_limit: of $\sqrt N E_1$ (Eq. 15).
        mu_error_limit: of the mu-weighted decomposition error divided by $\sqrt N$.
        relative_error_limit: of $\sqrt N$ times the relative error.
        residual: max |phi(m*) - m*|.
        converged: whether the fixed point was found and is stable; NaN stands where not. That it is
            the only one is not claimed.
    """

    configuration: Array
    policy: Array
    slope: Array
    linear: Array
    spectral_radius: Array
    covariance: Array
    bias: Array
    average_reward: Array
    average_reward_correction: Array
    value_weights: Array
    local_q: Array
    entanglement_limit: Array
    mu_error_limit: Array
    relative_error_limit: Array
    residual: Array
    converged: Array


def soft_mean_field(bandit: RestlessBandit, policy: SoftIndex) -> SoftMeanField:
    r"""Mean field of a soft index policy: fixed point, Gaussian limit and its constants.

    Differentiable in kernels, rewards, discount, budget, index and temperature; the fixed point
    by the implicit function theorem. With g_s the slope of p_s and d that of value minus
    decomposition,

        $\sqrt N E_1 \to \sum_s m^*_s \sqrt{2 g_s \Sigma g_s^\top / \pi}$ and
        $\|Q - \sum_i Q_i\|_\mu / \sqrt N \to \sqrt{2 d \Sigma d^\top / \pi}$.

    Args:
        bandit: the model; only budget / num_agents matters, and they may be traced.
        policy: a `SoftIndex`; may be traced.

    Raises:
        ValueError: for a bandit or policy that is not one; naming the place.

    References:
        Chen and Peng, Appendix I, for index policies; Gast and Van Houdt (2017), A refined mean
        field approximation, for the correction.
    """
    check_bandit(bandit)
    check_soft(policy, bandit.num_states)
    return _soft_mean_field(bandit, policy)


@jax.jit
def _soft_mean_field(bandit: RestlessBandit, policy: SoftIndex) -> SoftMeanField:
    dtype = jnp.result_type(bandit.kernel, bandit.reward, policy.index, float)
    kernel = bandit.kernel.astype(dtype)
    reward = jnp.asarray(bandit.reward, dtype)
    share = jnp.asarray(bandit.budget / bandit.num_agents, dtype)
    discount = jnp.asarray(bandit.discount, dtype)
    num_states = len(kernel)

    def chances(m: Array) -> Array:
        return policy.chances(m, share).astype(dtype)

    def by_action(m: Array) -> Array:
        active = m * chances(m)
        return jnp.stack([m - active, active], axis=-1)  # [S, 2]

    def phi(m: Array) -> Array:
        return _dot("sa,sat->t", by_action(m), kernel)

    def mean_reward(m: Array) -> Array:
        return (by_action(m) * reward).sum()

    m, residual = _fixed_point(phi, num_states, dtype)
    linear = jax.jacfwd(phi)(m).T  # rows "from"
    tangent = linear - m[None, :]  # the same map on the tangent space, and 0 across it
    radius = spectral_radius(lax.stop_gradient(tangent))
    found = residual <= 1e3 * num_states * jnp.finfo(dtype).eps
    converged = found & (radius < 1)
    # Multiplied, not selected, so that derivatives are NaN as well.
    sure = jnp.where(converged, 1.0, jnp.nan).astype(dtype)
    m = m * sure

    groups = by_action(m)
    spread = _dot("sa,sai->i", groups, kernel)
    noise = jnp.diag(spread) - _dot("sa,sai,saj->ij", groups, kernel, kernel)
    covariance = lyapunov(tangent, noise)

    def curve(f):
        return jax.hessian(f)(m)

    drift = _dot("kij,ij->k", curve(phi), covariance) / 2
    bias = _dot("i,ij->j", drift, _resolvent(tangent))
    reward_slope = jax.grad(mean_reward)(m)
    correction = reward_slope @ bias + _dot("ij,ij->", curve(mean_reward), covariance) / 2

    # Values: V(n) = N V(m) with slope w, w = Dr + discount Dphi w.
    weights = _dot("ij,j->i", _resolvent(discount * linear), reward_slope)
    chance = chances(m)
    law = jnp.stack([1 - chance, chance], axis=-1)
    local = (kernel[..., None] * law[None, None]).reshape(2 * num_states, -1)
    q = discounted_solve(local, reward.reshape(-1), discount).reshape(num_states, 2)
    decomposed = jax.grad(lambda m: (by_action(m) * q).sum())(m)
    slope = jax.jacfwd(chances)(m)

    def mean_size(direction: Array) -> Array:
        variance = _dot("i,ij,j->", direction, covariance, direction)
        positive = variance > 0
        return jnp.where(positive, jnp.sqrt(2 / jnp.pi * jnp.where(positive, variance, 1)), 0)

    mu_error = mean_size(weights - decomposed) * sure
    value = mean_reward(m) / (1 - discount)
    return SoftMeanField(
        configuration=m,
        policy=law,
        slope=slope,
        linear=linear,
        spectral_radius=radius,
        covariance=covariance,
        bias=bias,
        average_reward=mean_reward(m),
        average_reward_correction=correction,
        value_weights=weights,
        local_q=q,
        entanglement_limit=(m * jax.vmap(mean_size)(slope)).sum() * sure,
        mu_error_limit=mu_error,
        relative_error_limit=relative(mu_error, jnp.abs(value)),
        residual=residual,
        converged=converged,
    )


def _fixed_point(phi: Any, num_states: int, dtype: Any) -> tuple[Array, Array]:
    """m = phi(m) from the even start: damped steps, then Newton's; differentiable implicitly."""
    tol = num_states * jnp.sqrt(jnp.finfo(dtype).eps)

    def damped(carry):
        m, _, step = carry
        after = phi(m)
        return (m + after) / 2, jnp.abs(after - m).max(), step + 1

    def going(carry):
        _, gap, step = carry
        return (gap > tol) & (step < _STEPS)

    def newton(m: Array) -> Array:
        linear = jax.jacfwd(phi)(m).T
        return m + _dot("i,ij->j", phi(m) - m, _resolvent(linear - m[None, :]))

    start = jnp.full(num_states, 1 / num_states, dtype)
    frozen = lax.while_loop(going, damped, (start, jnp.array(jnp.inf, dtype), 0))[0]
    m = lax.stop_gradient(lax.fori_loop(0, _NEWTON, lambda _, m: newton(m), frozen))
    m = newton(m)  # at the fixed point this has the gradient of the implicit function theorem
    return m, jnp.abs(lax.stop_gradient(phi(m) - m)).max()


def _resolvent(A: Array) -> Array:
    """Σ_k A^k by doubling; A must have spectral radius below 1. Small, and free of LAPACK."""

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, total = carry
        return _dot("ij,jk->ik", power, power), total + _dot("ij,jk->ik", power, total)

    start = (A, jnp.eye(len(A), dtype=A.dtype))
    return lax.fori_loop(0, _DOUBLINGS, double, start)[1]


def _dot(spec: str, *operands: Array) -> Array:
    return jnp.einsum(spec, *operands, precision=lax.Precision.HIGHEST)
