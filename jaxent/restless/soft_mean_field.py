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

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex, check_soft
from ..numerics.arrays import dot, einsum, nan_unless
from ..numerics.compiled import jit
from .activation import action_law, by_action
from .gaussian_limit import Moments, gaussian_limit, resolvent, spectral_radius

Array = jax.Array

# Damped steps at most, and Newton's steps after them.
_STEPS = 20_000
_NEWTON = 8


@reads("relative error {0.relative_error_limit:.4g} / sqrt(N)")
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


@jit
def _soft_mean_field(bandit: RestlessBandit, policy: SoftIndex) -> SoftMeanField:
    dtype = jnp.result_type(bandit.kernel, bandit.reward, policy.index, float)
    kernel = bandit.kernel.astype(dtype)
    reward, share, discount = (
        jnp.asarray(x, dtype)
        for x in (bandit.reward, bandit.budget / bandit.num_agents, bandit.discount)
    )
    groups = partial(by_action, policy=policy, budget=share)

    def phi(m: Array) -> Array:
        return einsum("sa,sat->t", groups(m).astype(dtype), kernel)

    def mean_reward(m: Array) -> Array:
        return (groups(m).astype(dtype) * reward).sum()

    m, residual = _fixed_point(phi, len(kernel), dtype)
    slope = jax.jacfwd(partial(policy.chances, budget=share))(m).astype(dtype)
    flat, paid = kernel.reshape(-1, len(kernel)), reward.reshape(-1)
    law = action_law(m, policy, share).astype(dtype)
    at = Moments.two_actions(m, law, m[:, None] * slope)
    linear = at.slope(flat)  # rows "from"
    radius = spectral_radius(lax.stop_gradient(linear - m[None, :]))
    found = residual <= 1e3 * len(kernel) * jnp.finfo(dtype).eps
    converged = found & (radius < 1)
    moments = at.configuration, law, slope, linear
    m, law, slope, linear = jax.tree.map(partial(nan_unless, converged), moments)
    at = Moments.two_actions(m, law, m[:, None] * slope)
    tangent = linear - m[None, :]  # the same map on the tangent space, and 0 across it
    # Values: V(n) = N V(m) with slope w, w = Dr + discount Dphi w.
    reward_slope = at.slope(paid)
    weights = dot(resolvent(discount * linear), reward_slope)
    limit = gaussian_limit(flat, paid, discount, at, tangent, weights, converged)

    def curvature(f: Callable[[Array], Array]) -> Array:
        """D^2 f : Sigma / 2."""
        return einsum("...ij,ij->...", jax.hessian(f)(m), limit.covariance) / 2

    bias = dot(curvature(phi), resolvent(tangent))
    return SoftMeanField(
        configuration=m,
        policy=law,
        slope=slope,
        linear=linear,
        spectral_radius=radius,
        bias=bias,
        average_reward=mean_reward(m),
        average_reward_correction=reward_slope @ bias + curvature(mean_reward),
        value_weights=weights,
        residual=residual,
        converged=converged,
        **{
            **limit._asdict(),
            "local_q": limit.local_q.reshape(reward.shape),
            "entanglement_limit": limit.entanglement_limit[0],
        },
    )


def _fixed_point(phi: Callable[[Array], Array], num_states: int, dtype: Any) -> tuple[Array, Array]:
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
        return m + dot(phi(m) - m, resolvent(linear - m[None, :]))

    start = jnp.full(num_states, 1 / num_states, dtype)
    frozen = lax.while_loop(going, damped, (start, jnp.array(jnp.inf, dtype), 0))[0]
    m = lax.stop_gradient(lax.fori_loop(0, _NEWTON, lambda _, m: newton(m), frozen))
    m = newton(m)  # at the fixed point this has the gradient of the implicit function theorem
    return m, jnp.abs(lax.stop_gradient(phi(m) - m)).max()
