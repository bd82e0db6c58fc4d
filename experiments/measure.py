"""What a simulation says of one bandit at one N: entanglement, local values and the mu-error.

The mu-error is measured in two levels. On every epoch of every run the value of the affine piece at
m* stands in for the true one; on the test states both are known (the true one by Monte Carlo with
that piece as control variate), and the mean difference is added. So the estimate is that of the
paper, with the noise of the few test states removed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.restless.activation import by_action

Array = jax.Array


class Protocol(NamedTuple):
    """How much is simulated.

    Attributes:
        runs: independent runs.
        test_states: states, from the runs, whose true value is estimated.
        value_runs: Monte Carlo runs for each of them.
        value_steps: horizon of these runs.
    """

    runs: int
    test_states: int
    value_runs: int
    value_steps: int


class SizeResult(NamedTuple):
    """What is measured for one N; `_se` is the standard error.

    Attributes:
        size: N.
        entanglement: E_1, Eq. 15, mean over runs.
        held_out: E_1 with the local policy fitted on the other half of the epochs.
        mu_error: mu-weighted error of the value decomposition.
        relative_error: mu_error over the mu-weighted norm of the value.
        local_q: mean over runs, `[X]`.
        noise: of one test state's true value (root mean square standard error).
        plain_noise: what it would be with plain Monte Carlo and the paper's 3 N runs.
        truncation: what the horizon leaves out of a value, at most.
    """

    size: Any
    entanglement: Any
    entanglement_se: Any
    held_out: Any
    held_out_se: Any
    mu_error: Any
    mu_error_se: Any
    relative_error: Any
    relative_error_se: Any
    local_q: Any
    local_q_se: Any
    noise: Any
    plain_noise: Any
    truncation: Any


def mean_and_error(x: Array, axis: int = 0) -> tuple[Array, Array]:
    """Mean over independent samples and its standard error."""
    return x.mean(axis), x.std(axis, ddof=1) / np.sqrt(x.shape[axis])


def control_values(bandit: jaxent.RestlessBandit, priority: Any) -> tuple[Array, Array]:
    """Weights and constant of the affine value at m*, the same for every N."""
    field = jaxent.mean_field(bandit, priority)
    return field.value_weights, field.value_constant


def learn(
    trajectory: jaxent.CountsTrajectory, used: Array, bandit: Any, kernel: Array | None
) -> tuple[Any, Array]:
    """Eq. 15 and local Q-values from the epochs that are `used`, `[T]`."""
    share = trajectory.counts[:-1] * used[:, None] / bandit.num_agents
    entanglement = jaxent.estimate_entanglement(trajectory.policy[:-1], share)
    flow = jaxent.pair_flow(trajectory, used, kernel=kernel)
    q = jaxent.lstd_local_q(flow, bandit.reward.reshape(-1), discount=bandit.discount)
    return entanglement, q.value


def pair_counts(counts: Array, bandit: Any, priority: Any) -> Array:
    """Agents per local pair, `[..., X]`."""
    groups = by_action(counts, jnp.asarray(priority), bandit.budget)
    return groups.reshape(*groups.shape[:-2], 2 * bandit.num_states).astype(float)


def measure_size(
    key: Array,
    bandit: jaxent.RestlessBandit,
    priority: Any,
    start: Array | None,
    window: tuple[Array, Array],
    control: tuple[Array, Array],
    protocol: Protocol,
    *,
    num_steps: int,
    max_agents: int,
) -> SizeResult:
    """Everything of one N; N and the budget may be traced, so one compilation serves many.

    Args:
        key: of `jax.random.key`.
        bandit: the model.
        priority: states in the order served, `[S]`.
        start: counts at epoch 0; as even as can be if None.
        window: first epoch used, and the end of those used.
        control: of `control_values`.
        protocol: how much is simulated. Static.
        num_steps: epochs of a run. Static.
        max_agents: the largest N. Static.
    """
    size = bandit.num_agents
    weights, constant = control
    key_runs, key_values = jax.random.split(key)
    first_epoch, end = window
    epoch = jnp.arange(num_steps)
    used = (epoch >= first_epoch) & (epoch < end)

    def run(key: Array) -> tuple[Any, Array, Array]:
        trajectory = jaxent.simulate_counts(
            key, bandit, priority, num_steps=num_steps, counts=start, max_agents=max_agents
        )
        entanglement, q = learn(trajectory, used, bandit, bandit.kernel)
        return entanglement, q, trajectory.counts[:-1]

    estimates, q, counts = jax.vmap(run)(jax.random.split(key_runs, protocol.runs))
    entanglement = mean_and_error(estimates.value)
    held_out = mean_and_error(estimates.held_out)
    mean_q, q_error = mean_and_error(q)

    # First level: every epoch, with the affine value in the place of the true one.
    share = used / used.sum()
    pairs = pair_counts(counts, bandit, priority)  # [runs, T, X]
    affine = counts @ weights + size * constant  # [runs, T]

    def first_level(q: Array) -> Array:
        return jnp.abs(affine - pairs @ q) @ share  # [runs]

    others = (q.sum(0)[None] - q) / (protocol.runs - 1)  # leaving one run out, for the jackknife
    left_out = jax.lax.map(first_level, others)  # [left out, runs]
    without = (left_out.sum(1) - jnp.diagonal(left_out)) / (protocol.runs - 1)
    first = first_level(mean_q).mean()
    first_error = without.std() * jnp.sqrt(protocol.runs - 1)

    # Second level: on the test states, the true value instead.
    test = jnp.arange(protocol.test_states)
    per_run = -(-protocol.test_states // protocol.runs)
    step = 2 * (test // protocol.runs) + 1
    when = first_epoch + ((end - first_epoch) * step) // (2 * per_run)
    states = counts[test % protocol.runs, when]  # [tests, S]
    truth = jax.vmap(
        lambda key, counts: jaxent.monte_carlo_q(
            key,
            bandit,
            priority,
            counts,
            num_runs=protocol.value_runs,
            num_steps=protocol.value_steps,
            control=weights,
            max_agents=max_agents,
        )
    )(jax.random.split(key_values, protocol.test_states), states)
    decomposed = pair_counts(states, bandit, priority) @ mean_q
    stand_in = states @ weights + size * constant
    gain = jnp.abs(truth.value - decomposed) - jnp.abs(stand_in - decomposed)
    second, second_error = mean_and_error(gain)
    scale = (jnp.abs(affine) @ share).mean() + (jnp.abs(truth.value) - jnp.abs(stand_in)).mean()
    scale_error = mean_and_error(jnp.abs(affine) @ share)[1]
    mu_error = first + second
    mu_error_se = jnp.hypot(first_error, second_error)
    relative = mu_error / scale
    return SizeResult(
        size=size,
        entanglement=entanglement[0],
        entanglement_se=entanglement[1],
        held_out=held_out[0],
        held_out_se=held_out[1],
        mu_error=mu_error,
        mu_error_se=mu_error_se,
        relative_error=relative,
        relative_error_se=relative * jnp.hypot(mu_error_se / mu_error, scale_error / scale),
        local_q=mean_q,
        local_q_se=q_error,
        noise=jnp.sqrt((truth.standard_error**2).mean()),
        plain_noise=truth.plain_deviation.mean() / jnp.sqrt(3 * size),
        truncation=truth.truncation.max(),
    )
