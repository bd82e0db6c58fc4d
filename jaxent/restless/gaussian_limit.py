r"""The Gaussian limit around a fixed point of the mean field, and the constants that follow.

$\sqrt N (m - m^*)$ tends to a normal law. With K the slope of $\phi$ at m* and $\Gamma$ the
covariance of one step, its covariance solves $\Sigma = K^\top \Sigma K + \Gamma$. Everything else
is the slope of a mean over the agents, $f(m) = \sum_s m_s \sum_a \pi(a \mid s, m) f(s, a)$:

    $\partial_t f = \sum_a \pi(a \mid t) f(t, a)
        + \sum_s m_s \partial_t \pi(1 \mid s) (f(s, 1) - f(s, 0))$,

which for the indicators of the next state is K itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..numerics.arrays import dot, einsum, nan_unless, relative
from ..numerics.elimination import discounted_solve

Array = jax.Array

# Squarings of a matrix: its powers up to 2^48.
_DOUBLINGS = 48


class Moments(NamedTuple):
    r"""A fixed point and the slopes there: what the limit is made of.

    Attributes:
        configuration: $m^*$, `[S]`.
        policy: $\pi(a \mid s)$ at m*, `[S, 2]`.
        moved: $m^*_s\, \partial \pi(1 \mid s) / \partial m_t$, `[S, S]`.
    """

    configuration: Array
    policy: Array
    moved: Array

    @property
    def groups(self) -> Array:
        r"""$m^*_s \pi(a \mid s)$, `[S, 2]`."""
        return self.configuration[:, None] * self.policy

    def slope(self, f: Array) -> Array:
        """Slope in m of the mean of f over the agents, `[S, 2, ...]` to `[S, ...]`."""
        own = einsum("sa,sa...->s...", self.policy, f)
        return own + einsum("st,s...->t...", self.moved, f[:, 1] - f[:, 0])


class GaussianLimit(NamedTuple):
    r"""Covariance, local values, and the limits of `MeanField` of the same names."""

    covariance: Array
    local_q: Array
    entanglement_limit: Array
    mu_error_limit: Array
    relative_error_limit: Array


def gaussian_limit(
    kernel: Array,
    reward: Array,
    discount: Array,
    at: Moments,
    tangent: Array,
    value_weights: Array,
    valid: Array,
) -> GaussianLimit:
    r"""The limit law and its constants; NaN where not `valid`.

    Args:
        kernel: local kernel, `[S, 2, S]`.
        reward: `[S, 2]`.
        discount: in [0, 1).
        at: the fixed point and its slopes.
        tangent: K on the tangent space of the simplex, $K - 1 m^*$, `[S, S]`.
        value_weights: slope of the value in the counts, `[S]`.
        valid: whether there is such a limit.
    """
    noise = jnp.diag(einsum("sa,sai->i", at.groups, kernel))
    noise = noise - einsum("sa,sai,saj->ij", at.groups, kernel, kernel)
    covariance = nan_unless(valid, lyapunov(tangent, noise))
    num_pairs = reward.size
    local = (kernel[..., None] * at.policy[None, None]).reshape(num_pairs, num_pairs)
    local_q = discounted_solve(local, reward.reshape(-1), discount).reshape(reward.shape)
    mu_error = mean_size(covariance, value_weights - at.slope(local_q))
    mu_error = nan_unless(valid, mu_error)
    entanglement = jax.vmap(lambda row: mean_size(covariance, row))(at.moved).sum()
    value = jnp.abs((at.groups * reward).sum()) / (1 - discount)
    return GaussianLimit(
        covariance=covariance,
        local_q=local_q,
        entanglement_limit=nan_unless(valid, entanglement),
        mu_error_limit=mu_error,
        relative_error_limit=relative(mu_error, value),
    )


def deviation(covariance: Array, direction: Array) -> Array:
    """Standard deviation of m along a direction; 0, with derivative 0, where nothing moves."""
    # m sums to 1, so that a constant moves nothing: its square would leave rounding errors behind.
    direction = direction - direction.mean()
    variance = einsum("i,ij,j->", direction, covariance, direction)
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def mean_size(covariance: Array, direction: Array) -> Array:
    """E|d . m| of the centered normal law."""
    return jnp.sqrt(2 / jnp.pi) * deviation(covariance, direction)


def spectral_radius(A: Array) -> Array:
    """lim ||A^k||^(1/k) by repeated squaring, `k = 2^48`; runs on any device, unlike `eigvals`."""

    def square(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log_norm = carry  # A^k = exp(k log_norm) power, up to the last rescaling
        norm = jnp.linalg.norm(power)
        power = power / jnp.where(norm > 0, norm, 1)
        return dot(power, power), log_norm * 2 + 2 * jnp.log(norm)

    power, log_norm = lax.fori_loop(0, _DOUBLINGS, square, (A, jnp.zeros((), A.dtype)))
    total = log_norm + jnp.log(jnp.linalg.norm(power))
    return jnp.exp(total / 2.0**_DOUBLINGS)


def lyapunov(A: Array, noise: Array) -> Array:
    """Sigma = A' Sigma A + noise by doubling; A must have spectral radius below 1."""

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        A, sigma = carry
        return dot(A, A), sigma + dot(A.T, dot(sigma, A))

    return lax.fori_loop(0, _DOUBLINGS, double, (A, noise))[1]


def resolvent(A: Array) -> Array:
    """Σ_k A^k by doubling; A must have spectral radius below 1. Small, and free of LAPACK."""

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, total = carry
        return dot(power, power), total + dot(power, total)

    start = (A, jnp.eye(len(A), dtype=A.dtype))
    return lax.fori_loop(0, _DOUBLINGS, double, start)[1]
