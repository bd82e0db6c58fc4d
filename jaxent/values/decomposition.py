r"""Local against joint values: how far a joint value is from the sum of local ones.

The decomposition error is Q - Σ_i Q_i, zero for separable chains (Thm 1). Where agents share one
reward, that itself may be no sum of local ones: `reward_entanglement` (Eq. 14) says how far it is
from one, and gives the nearest local rewards. A pair that the policy never visits (occupancy 0)
counts in no norm (the paper's footnote 1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_positive_int, check_shape, check_stochastic
from .._reads import NOT_SAID, Frame, frame, reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import known_law
from ..chains.views import marginal
from ..measures.double import in_double
from ..measures.programs.l1_additive_fit import additive_fit
from ..measures.row_measures import Entanglement, certified, check_tolerance
from ..models.contracts import ArrayLike, Scalar
from ..numerics.arrays import as_float, ratio
from ..numerics.compiled import jit
from .bellman import check_locals, local_q_values, q_values, shared_reward

Array = jax.Array


@reads(
    "the sum of local values is off by {0.mu_error:.4g} in the mean, "
    "{0.relative_error:.2%} of the value, and {0.sup_error:.4g} at most",
    note=NOT_SAID,
)
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

    def to_frame(self) -> Frame:
        """A row a joint pair, by its number."""
        columns = {"mu": self.mu, "q_joint": self.q_joint, "q_sum": self.q_joint - self.error}
        return frame({**columns, "error": self.error, "visited": self.visited})

    @property
    def relative_error(self) -> Array:
        """`mu_error` over the mean |Q| under the stationary law; 0 where Q is 0."""
        scale = self.mu @ jnp.abs(self.q_joint)
        return ratio(self.mu_error, scale, 0 * scale)  # NaN where the scale is


def decompose(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    *,
    discount: Scalar,
    shared: ArrayLike | None = None,
    mu: ArrayLike | None = None,
) -> Decomposition:
    r"""Solve jointly and per view, and compare (Eq. 1). Differentiable.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Args:
        chain: any unichain.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`.
        discount: in [0, 1).
        shared: the joint reward, `[J]` or `[X_0, ..]`, where it is not the sum of the local ones
            (App. J.3).
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do.

    Examples:
        Agent B's next pair is agent A's current one:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> found = jaxent.decompose(chain, rewards, discount=0.9)
        >>> print(found.error.round(3))
        [ 0.45  0.45 -0.45 -0.45]
        >>> print(f"{found.mu_error:.3f}")
        0.450
    """
    return _compared(chain, *_solved(chain, rewards, discount, shared, mu))


_Solved = tuple[Array, tuple[Array, ...], Array]


def _solved(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    discount: Scalar,
    shared: ArrayLike | None,
    mu: ArrayLike | None,
) -> _Solved:
    """Joint values, local values, and the law."""
    rewards = check_locals(chain, rewards)
    reward = rewards if shared is None else shared_reward(chain, shared)
    q_joint = q_values(chain, reward, discount=discount)
    mu = known_law(chain, mu)
    return q_joint, local_q_values(chain, rewards, discount=discount, mu=mu), mu


@jit
def _compared(
    chain: PairChain, q_joint: Array, q_local: tuple[Array, ...], mu: Array
) -> Decomposition:
    visited = mu > 0
    gap = q_joint - chain.lift(q_local)
    # NaN > 0 is false: without the sum a chain with no law would show no error.
    error = jnp.where(visited, gap, 0) + 0 * mu.sum()
    return Decomposition(q_joint, q_local, mu, visited, error)


def decomposition_error(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    *,
    discount: Scalar,
    shared: ArrayLike | None = None,
    mu: ArrayLike | None = None,
) -> Array:
    """Mean |Q - Σ_i Q_i| under the stationary law, a scalar. Differentiable. See `decompose`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> print(f"{jaxent.decomposition_error(chain, rewards, discount=0.9):.3f}")  # separable
        0.000
    """
    return _mean(chain, *_solved(chain, rewards, discount, shared, mu))


@jit
def _mean(chain: PairChain, q_joint: Array, q_local: tuple[Array, ...], mu: Array) -> Array:
    return _compared(chain, q_joint, q_local, mu).mu_error


def reward_entanglement(
    chain: PairChain, reward: ArrayLike, mu: ArrayLike, *, tol: float = 1e-9, max_steps: int = 60
) -> Entanglement:
    r"""How far a shared reward is from a sum of local ones (Eq. 14), for any number of agents.

    e(r) = min over r_i of Σ_x μ(x) |r(x) - Σ_i r_i(x_i)|, a weighted L1 problem, solved as a linear
    program. Differentiable in the reward and in mu.

    Args:
        chain: whose factors and views these are.
        reward: the shared reward, `[J]` or `[X_0, ..]` (`CooperativeGame.pair_reward`).
        mu: law of the joint pair, `[J]`; Eq. (14) has the stationary one.
        tol: gap to certify, as a share of the mean distance of the reward from its mean.
        max_steps: interior-point steps at most.

    Returns:
        The minimum, bracketed, with the local rewards `[X_i]` as minimizer. Of the constants that
        may move from agent to agent, each agent holds the same; a pair never visited has it alone.

    Raises:
        ValueError: for a reward of another shape or that is not finite, if mu is no law on joint
            pairs, or tol <= 0.

    Examples:
        No sum of local rewards is "both or none":

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> found = jaxent.reward_entanglement(chain, jnp.array([1.0, 0.0, 0.0, 1.0]), mu, tol=1e-4)
        >>> print(f"{found.value:.3f}")
        0.333

    References:
        Chen and Peng, Multi-agent Markov Entanglement, App. J.3.
    """
    check_chain(chain)
    check_tolerance(tol)
    check_positive_int("max_steps", max_steps)
    check_shape("mu", mu, (chain.num_pairs,))
    check_stochastic("mu", mu)
    reward = shared_reward(chain, reward)
    mu = jnp.asarray(mu).astype(reward.dtype)
    return _fit_reward(chain, reward, mu, tol=tol, max_steps=max_steps)


def _reward_units(_: PairChain, reward: Array, mu: Array) -> tuple[Array, Array]:
    """What rounding the reward is relative to, and its mean distance from its mean."""
    return mu @ jnp.abs(reward), mu @ jnp.abs(reward - mu @ reward)


@in_double(units=_reward_units)
def _fit_reward(
    chain: PairChain, reward: Array, mu: Array, *, tol: Scalar, max_steps: int
) -> Entanglement:
    fixed, law = jax.lax.stop_gradient((reward, mu))
    bracket, steps, converged = additive_fit(
        chain.layout, chain.view_sizes, fixed, law, tol=tol, max_steps=max_steps
    )
    middle, _ = reward_ranges(chain, law, bracket.primal)
    each = middle.mean()
    locals_ = tuple(
        jnp.where(marginal(chain, law, agent=i) > 0, x - middle[i], 0) + each
        for i, x in enumerate(bracket.primal)
    )
    apart = jnp.abs(fixed - chain.lift(locals_))
    size, unit = _reward_units(chain, fixed, law)
    slopes = (reward, bracket.dual), (mu, apart)
    gap, terms = tol * unit, len(law)
    found = certified(law @ apart, bracket.lower, locals_, steps, gap, terms, *slopes, size=size)
    # In float64 a constant in the reward may round by more than `tol` of what it varies by.
    narrow = converged & (found.converged | (jnp.finfo(reward.dtype).bits > 32))
    return found._replace(converged=narrow)


def reward_ranges(chain: PairChain, mu: Array, rewards: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """Middle and half width of every local reward over the pairs that mu visits, `[N]` each."""
    ranges = [_range(chain, mu, jnp.ravel(as_float(reward)), i) for i, reward in enumerate(rewards)]
    return jnp.stack([middle for middle, _ in ranges]), jnp.stack([half for _, half in ranges])


def _range(chain: PairChain, mu: Array, local: Array, agent: int) -> tuple[Array, Array]:
    seen = marginal(chain, mu, agent=agent) > 0
    high = jnp.where(seen, local, -jnp.inf).max()
    low = jnp.where(seen, local, jnp.inf).min()
    return (high + low) / 2, (high - low) / 2
