r"""Local against joint values: how far a joint value is from the sum of local ones.

The decomposition error is Q - Σ_i Q_i, zero for separable chains (Thm 1). A pair that the policy
never visits (occupancy 0) counts in no norm (the paper's footnote 1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .bellman import local_q_values, q_values
from .chain import PairChain
from .stationary import stationary_distribution

Array = jax.Array


class Decomposition(NamedTuple):
    r"""Joint values, local values, and the gap.

    Attributes:
        q_joint: $Q$, `[J]`.
        q_local: $Q_i$ of each view, `[X_i]` each.
        mu: the stationary law, `[J]`.
        visited: `mu > 0`, bool `[J]`.
        error: $Q - \sum_i Q_i$, `[J]`; 0 where not visited.
    """

    q_joint: Array
    q_local: tuple[Array, ...]
    mu: Array
    visited: Array
    error: Array

    @property
    def sup_error(self) -> Array:
        """Largest |error| over visited pairs."""
        return jnp.abs(self.error).max()

    @property
    def mu_error(self) -> Array:
        """Mean |error| under the stationary law."""
        return self.mu @ jnp.abs(self.error)

    @property
    def relative_error(self) -> Array:
        """`mu_error` over the mean |Q| under the stationary law; 0 where Q is 0."""
        scale = self.mu @ jnp.abs(self.q_joint)
        return jnp.where(scale > 0, self.mu_error / jnp.where(scale > 0, scale, 1), 0 * scale)


def decompose(chain: PairChain, rewards: Sequence[Array], *, discount: Any) -> Decomposition:
    r"""Solve jointly and per view, and compare (Eq. 1). Differentiable.

    Args:
        chain: any unichain.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`.
        discount: in [0, 1).

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do.
    """
    mu = stationary_distribution(chain)
    q_joint = q_values(chain, tuple(rewards), discount=discount)
    q_local = local_q_values(chain, rewards, discount=discount, mu=mu)
    visited = mu > 0
    gap = q_joint - chain.lift(q_local)
    # NaN > 0 is false: without the sum a chain with no law would show no error.
    error = jnp.where(visited, gap, 0) + 0 * mu.sum()
    return Decomposition(q_joint, q_local, mu, visited, error)


def decomposition_error(chain: PairChain, rewards: Sequence[Array], *, discount: Any) -> Array:
    """Mean |Q - Σ_i Q_i| under the stationary law, a scalar. Differentiable."""
    return decompose(chain, rewards, discount=discount).mu_error
