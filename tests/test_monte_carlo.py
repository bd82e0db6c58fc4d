"""Monte Carlo values against the exact value of the counts chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from tests import oracles_counts as oracle
from tests.tolerances import EXACT, STANDARD_ERRORS, by_precision

PRIORITY = (1, 0, 2)
BANDIT = RestlessBandit(*oracle.random_bandit(0, 3, 6, 2))
STATES, P, R = oracle.counts_chain(
    np.asarray(BANDIT.passive), np.asarray(BANDIT.active), BANDIT.reward, 6, 2, PRIORITY
)
VALUE = np.linalg.solve(np.eye(len(STATES)) - BANDIT.discount * P, R)


def estimate(counts, control=None, key=0):
    return jaxent.monte_carlo_q(
        jax.random.key(key), BANDIT, PRIORITY, counts, num_runs=2000, num_steps=60, control=control
    )


@pytest.mark.parametrize("index", [0, 9, 20])
@pytest.mark.parametrize("control", [None, np.zeros(3), np.array([5.0, -2.0, 1.0])])
def test_any_linear_control_leaves_the_mean(index, control):
    result = estimate(STATES[index], control)
    assert abs(result.value - VALUE[index]) < STANDARD_ERRORS * result.standard_error


def test_the_affine_value_removes_most_of_the_noise():
    """At N = 30 the paper's protocol, 3 N runs, has noise 0.22; with the control it has 0.003."""
    bandit = jaxent.circulant_bandit(30)
    counts = np.array([5, 4, 11, 10])
    arguments = {"num_runs": 3000, "num_steps": 30}
    key, priority = jax.random.key(2), jaxent.CIRCULANT_PRIORITY
    result = jaxent.monte_carlo_q(key, bandit, priority, counts, **arguments)
    without = jaxent.monte_carlo_q(key, bandit, priority, counts, **arguments, control=np.zeros(4))
    protocol = np.sqrt(3000 / 90)
    assert result.standard_error * protocol < 0.004
    np.testing.assert_allclose(without.standard_error * protocol, 0.22, atol=0.02)
    np.testing.assert_allclose(without.standard_error, result.plain_deviation / np.sqrt(3000))
    difference = np.hypot(result.standard_error, without.standard_error)
    assert abs(result.value - without.value) < STANDARD_ERRORS * difference


def test_on_the_affine_piece_the_noise_is_gone():
    """At N = 3000 a run of the circulant bandit from m* never leaves the piece."""
    bandit = jaxent.circulant_bandit(3000)
    field = jaxent.mean_field(bandit, jaxent.CIRCULANT_PRIORITY)
    counts = np.round(3000 * np.asarray(field.configuration)).astype(int)
    result = jaxent.monte_carlo_q(
        jax.random.key(1), bandit, jaxent.CIRCULANT_PRIORITY, counts, num_runs=50, num_steps=40
    )
    affine = counts @ field.value_weights + 3000 * field.value_constant
    # What is left is h(n_T) at the horizon, discounted by 2^-40.
    np.testing.assert_allclose(result.value, affine, atol=3000 * 2.0 ** by_precision(-38, -22))
    assert result.standard_error < by_precision(1e-7, 1e-3)
    assert result.plain_deviation > 1


def test_truncation_bounds_what_is_left_out():
    short = jaxent.monte_carlo_q(
        jax.random.key(0), BANDIT, PRIORITY, STATES[9], num_runs=4000, num_steps=5
    )
    np.testing.assert_allclose(
        short.truncation, 0.7**5 * 6 * np.abs(BANDIT.reward).max() / 0.3, rtol=EXACT
    )
    assert abs(short.value - VALUE[9]) < short.truncation + 5 * short.standard_error


def test_batched_over_states():
    keys = jax.random.split(jax.random.key(4), 3)
    starts = jnp.array(STATES[:3])
    run = lambda k, c: jaxent.monte_carlo_q(k, BANDIT, PRIORITY, c, num_runs=64, num_steps=20)  # noqa: E731
    batched = jax.jit(jax.vmap(run))(keys, starts)
    for i in range(3):
        np.testing.assert_allclose(batched.value[i], run(keys[i], starts[i]).value, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_runs": 1}, "num_runs: 1 is not at least 2"),
        ({"num_steps": 0}, "num_steps: 0"),
        ({"control": np.zeros(2)}, r"control: wanted shape \[3\]"),
        ({"control": np.array([0, np.nan, 0])}, r"control\[1\] is nan"),
        ({"counts": [6, 1, 0]}, "counts sum to 7"),
    ],
)
def test_bad_input_is_refused(change, match):
    arguments = {"counts": STATES[0], "num_runs": 4, "num_steps": 3} | change
    counts = arguments.pop("counts")
    with pytest.raises(ValueError, match=match):
        jaxent.monte_carlo_q(jax.random.key(0), BANDIT, PRIORITY, counts, **arguments)
