r"""Monte Carlo values of a restless bandit, with a martingale that removes their noise.

The mean of the next counts is known, $E[n_{t+1} \mid n_t] = N \phi(n_t / N)$, so for any h linear in the
counts the differences $h(n_t) - E[h(n_t) \mid n_{t-1}]$ have mean zero and can be taken off the discounted
return. With h the value function itself they are all of its noise; with h the value of the affine piece at
m* (`mean_field(...).value_weights`) they are all of it as long as the run stays in that piece.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_finite, check_positive_int, check_shape
from ..mdp import RestlessBandit
from .activation import by_action
from .mean_field import mean_field
from .sampling import seed_words
from .simulate import prepare, step_counts

Array = jax.Array


class MonteCarloValue(NamedTuple):
    r"""A value estimated from independent runs.

    Attributes:
        value: the estimate.
        standard_error: of `value`, from the spread over runs.
        plain_deviation: standard deviation of one run's return without the control variate, so that
            `plain_deviation / sqrt(R)` is the noise of plain Monte Carlo with R runs.
        truncation: bound of the discounted rewards after the horizon, $\gamma^T N r_{\max} / (1 - \gamma)$.
    """

    value: Array
    standard_error: Array
    plain_deviation: Array
    truncation: Array


def monte_carlo_q(
    key: Array,
    bandit: RestlessBandit,
    priority: Any,
    counts: Any,
    *,
    num_runs: int,
    num_steps: int,
    control: Any = None,
    max_agents: int | None = None,
) -> MonteCarloValue:
    r"""Joint Q-value of a configuration and the actions the index policy takes there.

    $\hat Q = \frac1R \sum_{\text{runs}} \sum_{t < T} \gamma^t r_t
        - \sum_{t=1}^{T} \gamma^t (h \cdot n_t - h \cdot E[n_t \mid n_{t-1}])$.

    Given counts, how many agents of each state are active is determined, so the joint Q-value of all pairs
    with these counts is one number. Write for one configuration and let `vmap` batch.

    Args:
        key: of `jax.random.key`.
        bandit: the model; num_agents and budget may be traced.
        priority: states in the order served, `[S]`.
        counts: agents per state, `[S]`.
        num_runs: R, at least 2. Static.
        num_steps: T. Static; `truncation` says what it leaves out.
        control: weights h of the control variate, `[S]`; those of `mean_field` if not given, 0 for none.
        max_agents: the largest num_agents that will be passed. Static; needed where num_agents is traced.

    Returns:
        `MonteCarloValue` of scalars.

    Raises:
        ValueError: for a bandit, priority, counts or control that is not one, naming the place.

    References:
        Chen and Peng, Appendix K.2 (the protocol); Henderson and Glynn 2002 (approximating martingales).
    """
    check_positive_int("num_steps", num_steps)
    check_positive_int("num_runs - 1", num_runs - 1)
    priority, start, sampler = prepare(bandit, priority, counts, max_agents)
    if control is None:
        control = mean_field(bandit, priority).value_weights
    check_shape("control", control, (bandit.num_states,))
    check_finite("control", control)
    dtype = jnp.result_type(bandit.reward, float)
    h = jnp.asarray(control, dtype)
    kernel = bandit.kernel.astype(dtype)
    reward = jnp.asarray(bandit.reward, dtype)
    discount = jnp.asarray(bandit.discount, dtype)
    expected_h = kernel @ h  # [S, 2]

    def run(key: Array) -> tuple[Array, Array]:
        seed = seed_words(key)

        def step(carry: tuple[Array, ...], t: Array) -> tuple[tuple[Array, ...], None]:
            counts, factor, plain, noise = carry
            groups = by_action(counts, priority, bandit.budget).astype(dtype)
            counts, _ = step_counts(seed, t, counts, bandit, priority, sampler)
            plain = plain + factor * jnp.vdot(groups, reward)
            factor = factor * discount
            surprise = jnp.vdot(counts.astype(dtype), h) - jnp.vdot(groups, expected_h)
            return (counts, factor, plain, noise + factor * surprise), None

        zero = jnp.zeros((), dtype)
        carry = (start, jnp.ones((), dtype), zero, zero)
        (_, _, plain, noise), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
        return plain, plain - noise

    plain, controlled = jax.vmap(run)(jax.random.split(key, num_runs))
    tail = discount**num_steps * bandit.num_agents * jnp.abs(reward).max() / (1 - discount)
    return MonteCarloValue(
        value=controlled.mean(),
        standard_error=controlled.std(ddof=1) / jnp.sqrt(jnp.asarray(num_runs, dtype)),
        plain_deviation=plain.std(ddof=1),
        truncation=tail,
    )
