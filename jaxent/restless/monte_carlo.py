r"""Monte Carlo values of a restless bandit, with a martingale that removes their noise.

The mean of the next counts is known, $E[n_{t+1} \mid n_t] = N \phi(n_t / N)$, so for any h linear
in the counts the differences $h(n_t) - E[h(n_t) \mid n_{t-1}]$ have mean zero and can be taken off
the discounted return. With h the value function itself they are all of its noise; with h the value
of the affine piece at m* (`mean_field(...).value_weights`) they are all of it as long as the run
stays in that piece. Under a `SoftIndex` the mean given n_t is also one over its roundings: rewards
and next counts are expected by the chances, so that the draw of a rounding is part of the noise
that is taken off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_positive_int, check_shape, renamed
from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex
from ..numerics.arrays import einsum
from ..numerics.compiled import jit
from .activation import IndexPolicy, by_action
from .flow_sampling import FlowSampler
from .mean_field import mean_field
from .sampling import seed_words
from .simulate import Counts, CountsTrajectory, prepare, step_counts

Array = jax.Array


@reads("estimates, each with its standard error")
class MonteCarloValue(NamedTuple):
    r"""A value estimated from independent runs.

    Attributes:
        value: the estimate.
        standard_error: of `value`, from the spread over runs.
        plain_deviation: standard deviation of one run's return without the control variate, so that
            `plain_deviation / sqrt(R)` is the noise of plain Monte Carlo with R runs. Under a
            `SoftIndex` its rewards are means over roundings.
        truncation: bound of the discounted rewards after the horizon, $\gamma^T N r_{\max} / (1 -
            \gamma)$.
    """

    value: Array
    standard_error: Array
    plain_deviation: Array
    truncation: Array


@renamed(priority="policy")
def monte_carlo_q(
    key: Array,
    bandit: RestlessBandit,
    policy: IndexPolicy,
    counts: Counts,
    *,
    num_runs: int,
    num_steps: int,
    control: Array | np.ndarray | None = None,
    max_agents: int | None = None,
) -> MonteCarloValue:
    r"""Joint Q-value of a configuration and the actions the index policy takes there.

    $\hat Q = \frac1R \sum_{\text{runs}} \sum_{t < T} \gamma^t r_t
        - \sum_{t=1}^{T} \gamma^t (h \cdot n_t - h \cdot E[n_t \mid n_{t-1}])$.

    Given counts, a priority determines how many agents of each state are active, so the joint
    Q-value of all pairs with these counts is one number. A `SoftIndex` draws it, at t = 0 too: what
    is estimated then is the mean of the joint Q-value over roundings, $\sum_j w_j(n) Q(n, j)$, and
    $r_t$ is the mean reward given the counts, $\sum_s n_s \sum_a \pi(a \mid s, n_t) r(s, a)$. Write
    for one configuration and let `vmap` batch.

    Args:
        key: of `jax.random.key`.
        bandit: the model; num_agents and budget may be traced.
        policy: states in the order served, `[S]`; or a `SoftIndex`, without a gradient.
        counts: agents per state, `[S]`.
        num_runs: R, at least 2. Static.
        num_steps: T. Static; `truncation` says what it leaves out.
        control: weights h of the control variate, `[S]`; those of `mean_field` if not given, 0 for
            none.
        max_agents: the largest num_agents that will be passed. Static; needed where num_agents is
            traced.

    Returns:
        `MonteCarloValue` of scalars.

    Raises:
        ValueError: for a bandit, policy, counts or control that is not one, naming the place.

    References:
        Chen and Peng, Appendix K.2 (the protocol); Henderson and Glynn 2002 (approximating
        martingales).
    """
    check_positive_int("num_steps", num_steps)
    if num_runs < 2:
        raise ValueError(f"num_runs: {num_runs} is not at least 2, which a standard error needs")
    checked, start, sampler = prepare(bandit, policy, counts, max_agents)
    if control is None:
        control = mean_field(bandit, checked).value_weights
    check_shape("control", control, (bandit.num_states,))
    check_finite("control", control)
    h = jnp.asarray(control, jnp.result_type(bandit.reward, float))
    seeds = jax.vmap(seed_words)(jax.random.split(key, num_runs))
    return _monte_carlo_q(seeds, bandit, checked, start, h, sampler, num_steps)


@jit(static_argnames=("num_steps",))
def _monte_carlo_q(
    seeds: Array,
    bandit: RestlessBandit,
    policy: Array | SoftIndex,
    start: Array,
    h: Array,
    sampler: FlowSampler,
    num_steps: int,
) -> MonteCarloValue:
    dtype = h.dtype
    reward = jnp.asarray(bandit.reward, dtype)
    discount = jnp.asarray(bandit.discount, dtype)
    expected_h = bandit.kernel.astype(dtype) @ h  # [S, 2]

    def run(seed: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, ...], t: Array) -> tuple[tuple[Array, ...], None]:
            counts, factor, plain, noise = carry
            groups = by_action(counts, policy, bandit.budget).astype(dtype)
            counts, _ = step_counts(seed, t, counts, bandit, policy, sampler)
            plain = plain + factor * jnp.vdot(groups, reward)
            factor = factor * discount
            surprise = jnp.vdot(counts.astype(dtype), h) - jnp.vdot(groups, expected_h)
            return (counts, factor, plain, noise + factor * surprise), None

        zero = jnp.zeros((), dtype)
        carry = (start, jnp.ones((), dtype), zero, zero)
        (_, _, plain, noise), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
        return plain, plain - noise

    plain, controlled = jax.vmap(run)(seeds)
    tail = discount**num_steps * bandit.num_agents * jnp.abs(reward).max() / (1 - discount)
    return MonteCarloValue(
        value=controlled.mean(),
        standard_error=controlled.std(ddof=1) / jnp.sqrt(jnp.asarray(len(seeds), dtype)),
        plain_deviation=plain.std(ddof=1),
        truncation=tail,
    )


def discounted_returns(
    trajectory: CountsTrajectory, bandit: RestlessBandit, *, control: Array | np.ndarray
) -> Array:
    r"""Discounted return from every epoch of one run, each with the martingale taken off, `[T]`.

    $G_t = r_t + \gamma ( G_{t+1} - h \cdot n_{t+1} + h \cdot E[n_{t+1} \mid n_t] )$, $G_T = 0$.
    Given the counts at t its mean is the joint value, up to $\gamma^{T - t}$ of the value at T:
    leave the last epochs out. For every-visit Monte Carlo: one long run serves every configuration
    it visits.

    Args:
        trajectory: of `simulate_counts`.
        bandit: the model that made it.
        control: weights h, `[S]`, such as those of `mean_field`.
    """
    check_bandit(bandit)
    check_shape("control", control, (bandit.num_states,))
    h = jnp.asarray(control, jnp.result_type(bandit.reward, float))
    groups = trajectory.flow.sum(-1).astype(h.dtype)  # [T, S, 2]
    reward = einsum("tsa,sa->t", groups, jnp.asarray(bandit.reward, h.dtype))
    expected = einsum("tsa,sa->t", groups, bandit.kernel.astype(h.dtype) @ h)
    surprise = trajectory.counts[1:].astype(h.dtype) @ h - expected

    def back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, surprise = now
        value = reward + bandit.discount * (later - surprise)
        return value, value

    return jax.lax.scan(back, jnp.zeros((), h.dtype), (reward, surprise), reverse=True)[1]
