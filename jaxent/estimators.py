r"""Entanglement and local values from data.

What a simulator or a log gives is the same few numbers: for every epoch and local state, how the
agent's next step was distributed and how much weight that local state had (Eqs. 9, 10, 15); and how
often a local pair was followed by another (Meta Algorithm 1). Estimators take just these.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._checks import check_discount, check_finite, check_shape
from .elimination import discounted_solve
from .simplex import weighted_median

Array = jax.Array


class EntanglementEstimate(NamedTuple):
    r"""Weighted distance of what the agent did from what its local state alone explains.

    Attributes:
        value: $\min_q \sum_{t, l} w_{tl} D_{TV}(p_{tl}, q_l) / \sum w$, in sample: biased low.
        held_out: the same with q fitted on one half of the epochs and evaluated on the other, both
            ways: biased high, so the truth lies between, up to noise.
        minimizer: q, `[L, 2]`.
    """

    value: Array
    held_out: Array
    minimizer: Array


class LocalQ(NamedTuple):
    r"""Local Q-values learned from data.

    Attributes:
        value: $Q_i(x)$, `[X]`; a pair never seen holds $r(x) / (1 - \gamma)$ and plays no part.
        occupancy: share of the transitions that start in x, `[X]`.
    """

    value: Array
    occupancy: Array

    @property
    def visited(self) -> Array:
        """Pairs that were seen, `[X]`."""
        return self.occupancy > 0


def estimate_entanglement(probabilities: Array, weights: Array) -> EntanglementEstimate:
    r"""Monte Carlo estimate of the entanglement of one agent with two actions.

    $\min_{\pi'} \sum_{t, l} w_{tl} |\pi(1 \mid l, t) - \pi'(1 \mid l)| / \sum w$ (Eqs. 10, 15).
    Exact: for each local state l the minimiser is a weighted median. The halves of `held_out` are
    the epochs before and after half of the weight, so epochs of weight 0 (burn-in, padding) do no
    harm.

    Args:
        probabilities: of the agent's actions in epoch t were it in local state l, `[T, L, 2]`.
        weights: of local state l in epoch t, not negative, `[T, L]`: an indicator for one agent,
            the share of agents in l for exchangeable ones.

    Returns:
        `EntanglementEstimate`. The derivative is exact where the medians are unique (the median is
        one of the probabilities and moves with it), a subgradient elsewhere.

    References:
        Chen and Peng, Proposition 1, Eqs. (10) and (15).
    """
    check_shape("probabilities", probabilities, (None, None, 2))
    check_shape("weights", weights, jnp.shape(probabilities)[:2])
    check_finite("probabilities", probabilities)
    check_finite("weights", weights)
    active = jnp.asarray(probabilities)[..., 1]  # [T, L]
    weights = jnp.asarray(weights, active.dtype)
    total = weights.sum()
    reached = jnp.cumsum(weights.sum(1))
    early = weights * (reached <= 0.5 * total)[:, None]
    late = weights - early
    medians = jax.vmap(weighted_median, in_axes=(1, 2), out_axes=1)
    fitted, from_early, from_late = medians(active, jnp.stack([weights, early, late]))  # [3, L]

    def distance(fitted: Array, weights: Array) -> Array:
        return jnp.sum(weights * jnp.abs(active - fitted[None])) / total

    return EntanglementEstimate(
        value=distance(fitted, weights),
        held_out=distance(from_early, late) + distance(from_late, early),
        minimizer=jnp.stack([1 - fitted, fitted], axis=-1),
    )


def _check_flow(flow: Array, reward: Array, discount: Array | float) -> None:
    num_pairs = jnp.shape(flow)[-1]
    check_shape("reward", reward, (num_pairs,))
    check_finite("flow", flow)
    check_finite("reward", reward)
    check_discount(discount)


def lstd_local_q(flow: Array, reward: Array, *, discount: Array | float) -> LocalQ:
    r"""Local Q-values by least-squares temporal differences (tabular LSTD).

    $Q = (I - \gamma \hat P)^{-1} r$ with $\hat P(x, x') = F(x, x') / \sum_{x'} F(x, x')$: the
    limit of TD(0) on the same transitions, without a step size.

    Args:
        flow: how many transitions went from pair x to pair x', `[X, X]`; expected numbers will do.
        reward: $r(x)$, `[X]`.
        discount: $\gamma$ in [0, 1).

    Returns:
        `LocalQ`.

    References:
        Chen and Peng, Meta Algorithm 1; Bradtke and Barto 1996.
    """
    check_shape("flow", flow, (None, jnp.shape(flow)[0]))
    _check_flow(flow, reward, discount)
    flow = jnp.asarray(flow, jnp.result_type(flow, reward, float))
    visits = flow.sum(1)
    seen = (visits > 0)[:, None]
    eye = jnp.eye(len(flow), dtype=flow.dtype)
    transition = jnp.where(
        jnp.broadcast_to(seen, flow.shape), flow / jnp.where(seen, visits[:, None], 1), eye
    )
    value = discounted_solve(transition, jnp.asarray(reward, flow.dtype), discount)
    return LocalQ(value, visits / visits.sum())


def td_local_q(flows: Array, reward: Array, *, discount: Array | float) -> LocalQ:
    r"""Local Q-values by tabular TD(0), one update an epoch, as the paper learns them.

    $Q(x) \mathrel{+}= \alpha_t(x) ( r(x) + \gamma \sum_{x'} F_t(x, x') Q(x') / f_t(x) - Q(x) )$

    with $f_t(x) = \sum_{x'} F_t(x, x')$ visits this epoch, $V_t(x)$ until now, and the rescaled
    linear step $\alpha_t = (1 + H) f_t / (H f_t + V_t)$, $H = 1 / (1 - \gamma)$: 1 at the first
    visit, and slow enough later for the error to fall like $t^{-1/2}$. Exchangeable agents are
    pooled in F. Converges to `lstd_local_q` of the summed flow.

    Args:
        flows: transitions in every epoch, `[T, X, X]`.
        reward: $r(x)$, `[X]`.
        discount: $\gamma$ in [0, 1).

    Returns:
        `LocalQ` after the last epoch.

    References:
        Chen and Peng, Meta Algorithm 1; Wainwright 2019 (the step).
    """
    check_shape("flows", flows, (None, None, jnp.shape(flows)[-1]))
    _check_flow(flows, reward, discount)
    flows = jnp.asarray(flows, jnp.result_type(flows, reward, float))
    reward = jnp.asarray(reward, flows.dtype)
    slow = 1 / (1 - jnp.asarray(discount, flows.dtype))

    def update(carry: tuple[Array, Array], flow: Array) -> tuple[tuple[Array, Array], None]:
        q, visits = carry
        now = flow.sum(1)
        seen = now > 0
        visits = visits + now
        target = reward + discount * (flow @ q) / jnp.where(seen, now, 1)
        step = (1 + slow) * now / jnp.where(seen, slow * now + visits, 1)
        return (q + step * (target - q), visits), None

    start = (reward * slow, jnp.zeros_like(reward))
    (value, visits), _ = jax.lax.scan(update, start, flows)
    return LocalQ(value, visits / visits.sum())
