r"""A reward that agents share, split into local ones: Meta Algorithm 2.

The algorithm's first step is here, the least-squares fit $r \approx \sum_i r_i(x_i)$. Its second is
Meta Algorithm 1 (local_learning.py) on the trajectory that `with_rewards` gives.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from .._checks import check_shape
from .._reads import reads
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from .trajectory import Trajectory, agent_types, check_trajectory

Array = jax.Array

# Conjugate gradients end at a relative residual of 64 machine epsilons, or after 64 steps none of
# which was better than the best before.
_ROUNDING = 64
_PATIENCE = 64


@reads("local rewards miss the shared one by {0.error:.4g} in the mean, of {0.scale:.4g}")
class RewardFit(NamedTuple):
    r"""A shared reward as a sum of local ones.

    Attributes:
        reward: $r_k(x)$, `[K, X]`. Only the sum over agents is determined; of all that attain the
            minimum this is the smallest, weighted by occupancy. 0 for a pair never seen.
        error: root mean square of what the sum leaves unexplained.
        scale: root mean square of the reward itself.
        residual: of the normal equations, relative to their right-hand side.
        converged: whether that is down to rounding; if not, `error` is above the least one.
    """

    reward: Array
    error: Array
    scale: Array
    residual: Array
    converged: Array


def fit_local_rewards(trajectory: Trajectory, *, types: ArrayLike | None = None) -> RewardFit:
    r"""Split a shared reward into local ones (Meta Algorithm 2, its first step).

    $\min_{r} \sum_t (r^t - \sum_i r_i(x_i^t))^2$, by conjugate gradients.

    Args:
        trajectory: with a reward that is shared.
        types: of every agent, whose agents have one $r_k$, `[N]`; each is its own if not given.

    Returns:
        `RewardFit`; `with_rewards(trajectory, fit.reward)` is what Meta Algorithm 1 goes on with.

    References:
        Chen and Peng, Meta Algorithm 2 and Eq. (14).
    """
    check_trajectory(trajectory)
    if not trajectory.shares_reward:
        raise ValueError("trajectory: every agent has a reward of its own; there is none to split")
    types, num_types = agent_types(trajectory, types)
    data = (trajectory.pairs, trajectory.rewards, trajectory.paid, trajectory.present)
    return _fit_rewards(*map(jnp.asarray, data), types, (num_types, trajectory.num_pairs))


@jit(static_argnames="shape")
def _fit_rewards(pairs, rewards, paid, present, types, shape) -> RewardFit:
    one = paid.astype(rewards.dtype)
    # All epochs but those in which nothing is paid.
    share = (paid.any(1) | ~present.any(1)).mean(dtype=rewards.dtype)

    def gather(table: Array) -> Array:
        return (one * table[types[None], pairs]).sum(1)  # [T]

    def scatter(values: Array) -> Array:
        return jnp.zeros(shape, rewards.dtype).at[types[None], pairs].add(one * values[:, None])

    # In units in which the diagonal is 1.
    visits = scatter(jnp.ones_like(rewards))
    scale = ratio(1.0, jnp.sqrt(visits))
    eps = float(jnp.finfo(rewards.dtype).eps)
    solution, left, residual = _least_squares(
        lambda x: gather(scale * x),
        lambda values: scale * scatter(values),
        rewards,
        tol=_ROUNDING * eps,
        max_steps=4 * shape[0] * shape[1] + 100,
    )
    table = scale * solution
    error, size = (jnp.sqrt((x**2).mean() / share) for x in (left, rewards))
    return RewardFit(table, error, size, residual, residual <= 4 * _ROUNDING * eps)


def _least_squares(
    forward: Callable[[Array], Array],
    back: Callable[[Array], Array],
    wanted: Array,
    *,
    tol: float,
    max_steps: int,
) -> tuple[Array, Array, Array]:
    """The smallest x of least |wanted - A x|, by conjugate gradients on the residual itself.

    From 0 the steps stay where the smallest solution is, up to rounding: past the best that the
    precision allows they would drift along the null space, so the best x seen is kept, and steps
    end once none has been better for a while.

    Args:
        forward: A.
        back: its transpose.
        wanted: `[T]`.
        tol: of |A' (wanted - A x)|, relative to |A' wanted|.
        max_steps: steps after which it ends in any case.

    Returns:
        x, what it leaves, and the relative residual of the normal equations.
    """
    start = back(wanted)
    size = (start * start).sum()

    def step(carry):
        x, left, slope, direction, best, best_x, since, steps = carry
        now = (slope * slope).sum()
        moved = forward(direction)
        length = now / (moved * moved).sum()
        x, left = x + length * direction, left - length * moved
        slope = back(left)
        after = (slope * slope).sum()
        better = after < best
        best_x = jnp.where(better, x, best_x)
        since = jnp.where(better, 0, since + 1)
        direction = slope + after / now * direction
        return x, left, slope, direction, jnp.minimum(after, best), best_x, since, steps + 1

    def going(carry):
        best, since, steps = carry[4], carry[6], carry[7]
        return (best > tol**2 * size) & (since < _PATIENCE) & (steps < max_steps)

    zero = jnp.zeros_like(start)
    carry = (zero, wanted, start, start, size, zero, 0, 0)
    x = lax.while_loop(going, step, carry)[5]
    left = wanted - forward(x)
    slope = back(left)
    # Not `ratio`, which would make 0, that is converged, of a NaN.
    return x, left, jnp.sqrt((slope * slope).sum() / jnp.where(size > 0, size, 1))


def with_rewards(
    trajectory: Trajectory, reward: Array | np.ndarray, *, types: ArrayLike | None = None
) -> Trajectory:
    """The trajectory with every agent paid by a table, `[K, X]`, for its local pair.

    Args:
        trajectory: whose rewards are replaced.
        reward: of `fit_local_rewards`, or any other.
        types: as fitted, `[N]`.
    """
    types, num_types = agent_types(trajectory, types)
    check_shape("reward", reward, (num_types, trajectory.num_pairs))
    paid = jnp.asarray(reward)[types[None], jnp.asarray(trajectory.pairs)]
    return replace(trajectory, rewards=paid)
