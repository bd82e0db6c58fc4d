r"""The Gaussian limit around a fixed point of the mean field, and the constants that follow.

$\sqrt N (m - m^*)$ tends to a normal law. With K the slope of $\phi$ at m* and $\Gamma$ the
covariance of one step, its covariance solves $\Sigma = K^\top \Sigma K + \Gamma$. Everything else
is the slope of a sum over the agents, $f(m) = \sum_x y_x(m) f(x)$ over pairs x = (s, a), $y_x$
being the fraction of the agents that are in s and take a: with $D = \partial y / \partial m$

    $\partial_t f = \sum_x D_{t x} f(x)$,

which for the indicators of the next state is K itself. Agents of several types stand one after
another, states and pairs alike, fractions being of all agents.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
        policy: $\pi(a \mid s)$ at m*, `[X]`.
        moved: $m^*_s\, \partial \pi(a \mid s) / \partial m_t$, `[X, S]`.
        sizes: (states, actions) of each type. Static.
        drawn: covariance of $\sqrt N y$ given m, `[X, X]`, or None where m fixes y.
    """

    configuration: Array
    policy: Array
    moved: Array
    sizes: tuple[tuple[int, int], ...]
    drawn: Array | None = None

    @classmethod
    def two_actions(cls, configuration: Array, policy: Array, moved: Array) -> "Moments":
        """Of one type, from π `[S, 2]` and what moves of π(1|s) alone, `[S, S]`."""
        both = jnp.stack([-moved, moved], axis=1).reshape(-1, len(moved))
        return cls(configuration, policy.reshape(-1), both, ((len(moved), 2),))

    @property
    def state(self) -> np.ndarray:
        """The state of each pair, `[X]`."""
        return states_of_pairs(self.sizes)

    @property
    def groups(self) -> Array:
        r"""$y = m^*_s \pi(a \mid s)$, `[X]`."""
        return self.configuration[self.state] * self.policy

    def slope(self, f: Array) -> Array:
        """Slope in m of the sum of y f, `[X, ...]` to `[S, ...]`."""
        own = einsum("x,x...->x...", self.policy, f)
        zero = jnp.zeros((len(self.configuration), *f.shape[1:]), own.dtype)
        return zero.at[self.state].add(own) + einsum("xt,x...->t...", self.moved, f)


class GaussianLimit(NamedTuple):
    r"""Covariance, local values, and the limits of `MeanField` of the same names.

    Local values stand by pair, `[X]`, limits of $\sqrt N E_1$ by type.
    """

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
        kernel: next states of each pair, `[X, S]`.
        reward: `[X]`.
        discount: in [0, 1).
        at: the fixed point and its slopes.
        tangent: K on the tangent space of the simplices, $K - 1 m^*$ of each type, `[S, S]`.
        value_weights: slope of the value in the counts, `[S]`.
        valid: whether there is such a limit.
    """
    noise = jnp.diag(dot(at.groups, kernel)) - dot(kernel.T, at.groups[:, None] * kernel)
    if at.drawn is not None:
        noise = noise + dot(kernel.T, dot(at.drawn, kernel))
    covariance = nan_unless(valid, lyapunov(tangent, noise))
    local = kernel[:, at.state] * at.policy[None, :]
    local_q = discounted_solve(local, reward, discount)
    states = [S for S, _ in at.sizes]
    error = variance(covariance, value_weights - at.slope(local_q), states)
    if at.drawn is not None:
        own = reward + discount * dot(kernel, value_weights) - local_q
        error = error + jnp.maximum(einsum("x,xy,y->", own, at.drawn, own), 0)
    mu_error = nan_unless(valid, jnp.sqrt(2 / jnp.pi) * root(error))
    sizes = jax.vmap(lambda row: mean_size(covariance, row, states))(at.moved)  # [X]
    types = [at.configuration[part].sum() for part in parts_of(states)]
    entanglement = jnp.stack(
        [
            sizes[part].sum() / 2 / share
            for part, share in zip(parts_of([S * A for S, A in at.sizes]), types, strict=True)
        ]
    )
    value = jnp.abs((at.groups * reward).sum()) / (1 - discount)
    return GaussianLimit(
        covariance=covariance,
        local_q=local_q,
        entanglement_limit=nan_unless(valid, entanglement),
        mu_error_limit=mu_error,
        relative_error_limit=relative(mu_error, value),
    )


def parts_of(sizes: Sequence[int]) -> list[slice]:
    """Where blocks of these sizes stand, one after another."""
    ends = np.cumsum([0, *sizes])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def states_of_pairs(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The state of each pair, types one after another, `[ΣX_k]`."""
    first = np.cumsum([0, *(S for S, _ in sizes)])
    each = [at + np.repeat(np.arange(S), A) for at, (S, A) in zip(first, sizes, strict=False)]
    return np.concatenate(each).astype(np.int32)


def variance(covariance: Array, direction: Array, states: Sequence[int] = ()) -> Array:
    """Of m along a direction, `states` being how many each type has."""
    # Each type's m has a fixed sum, so that a constant moves nothing: its square would leave
    # rounding errors behind.
    parts = parts_of(states or [len(direction)])
    direction = jnp.concatenate([direction[part] - direction[part].mean() for part in parts])
    return einsum("i,ij,j->", direction, covariance, direction)


def root(variance: Array) -> Array:
    """Its square root; 0, with derivative 0, where nothing moves."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def deviation(covariance: Array, direction: Array, states: Sequence[int] = ()) -> Array:
    """Standard deviation of m along a direction."""
    return root(variance(covariance, direction, states))


def mean_size(covariance: Array, direction: Array, states: Sequence[int] = ()) -> Array:
    """E|d . m| of the centered normal law."""
    return jnp.sqrt(2 / jnp.pi) * deviation(covariance, direction, states)


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
