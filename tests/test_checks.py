"""Bad models are refused before anything is compiled, with the argument and the place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from tests.tolerances import by_precision

GOOD = jaxent.circulant_bandit(30)


def replaced(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"passive": replaced(GOOD.passive, (2, 1), 0.4)}, r"passive: row \[2\] sums to 0.9"),
        ({"active": replaced(GOOD.active, (0, 1), -0.5)}, r"active\[0, 1\] = -0.5 is negative"),
        ({"active": np.eye(3)}, r"active: wanted shape \[4, 4\], got \[3, 3\]"),
        ({"passive": np.ones((4, 3)) / 3}, r"passive: wanted shape \[4, 4\]"),
        ({"reward": np.zeros(4)}, r"reward: wanted shape \[4, 2\], got \[4\]"),
        ({"reward": replaced(GOOD.reward, (3, 1), np.nan)}, r"reward\[3, 1\] is nan"),
        ({"passive": replaced(GOOD.passive, (1, 1), np.nan)}, r"passive\[1, 1\] is nan"),
        ({"budget": 31}, r"budget: 31 is outside 0..30"),
        ({"budget": -1}, r"budget: -1 is outside 0..30"),
        ({"budget": 2.5}, r"budget: 2.5 is not an integer"),
        ({"num_agents": 0, "budget": 0}, r"num_agents: 0 is not at least 1"),
        ({"discount": 1.0}, r"discount: 1 is outside \[0, 1\)"),
        ({"discount": -0.1}, r"discount: -0.1 is outside"),
        ({"discount": float("nan")}, r"discount: nan is outside"),
    ],
)
@pytest.mark.parametrize(
    "entry",
    [
        lambda b: jaxent.check_bandit(b),
        lambda b: jaxent.mean_field(b, (2, 1, 0, 3)),
        lambda b: jaxent.simulate_counts(jax.random.key(0), b, (2, 1, 0, 3), num_steps=3),
    ],
    ids=["check", "mean_field", "simulate"],
)
def test_bad_bandit_is_refused(entry, change, match):
    with pytest.raises(ValueError, match=match):
        entry(GOOD._replace(**change))


@pytest.mark.parametrize("priority", [(0, 1, 2, 2), (1, 2, 3, 4), (0, 1, 2)])
def test_bad_priority_is_refused(priority):
    with pytest.raises(ValueError, match="priority"):
        jaxent.mean_field(GOOD, priority)


@pytest.mark.parametrize("num_agents", [0, -5, 7])
def test_circulant_needs_a_multiple_of_five(num_agents):
    with pytest.raises(ValueError, match="num_agents"):
        jaxent.circulant_bandit(num_agents)


def test_start_needs_a_multiple_of_six():
    np.testing.assert_array_equal(jaxent.circulant_start(60), [10, 20, 30, 0])
    with pytest.raises(ValueError, match="multiple of 6"):
        jaxent.circulant_start(50)


def test_values_are_not_checked_inside_a_trace():
    """Under jit a bad value cannot raise; shapes still do."""

    @jax.jit
    def size(passive):
        jaxent.check_bandit(GOOD._replace(passive=passive))
        return passive.sum()

    size(jnp.full((4, 4), 2.0))
    with pytest.raises(ValueError, match="passive: wanted shape"):
        size(jnp.ones((4, 5)))


def test_a_bandit_is_a_pytree():
    doubled = jax.tree.map(lambda x: x, GOOD)
    assert isinstance(doubled, RestlessBandit)
    assert doubled.num_states == 4
    np.testing.assert_array_equal(GOOD.kernel[:, 1], GOOD.active)


@pytest.mark.needs_x64(reason="float32 rounds rows by more than these miss")
@pytest.mark.parametrize("off", [1e-9, -1e-9, 1e-12])
def test_a_row_that_misses_1_shows_by_how_much(off):
    P = np.array([[0.5, 0.5 - off], [0.2, 0.8]])
    sign = "-" if off > 0 else r"\+"
    wanted = rf"P: row \[0\] sums to 1 {sign} {abs(off):.0e}"
    with pytest.raises(ValueError, match=wanted + r", not 1; divide each row by its sum"):
        jaxent.PairChain.from_matrix(P, sizes=(2,))
    jaxent.PairChain.from_matrix(P / P.sum(1, keepdims=True), sizes=(2,))


@pytest.mark.parametrize("coarse", by_precision([np.float32, np.float16], [np.float16]))
def test_a_kernel_rounded_before_says_so(coarse):
    P = np.random.default_rng(0).dirichlet(np.ones(7), 7).astype(coarse)
    name = np.dtype(coarse).name
    with pytest.raises(ValueError, match=f"rounded to {name} before they became float64: divide"):
        jaxent.PairChain.from_matrix(P.astype(np.float64), sizes=(7,))
