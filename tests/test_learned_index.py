"""The climb finds what is best where that is known; the command at toy size; bad options."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from experiments import learned_index


def test_climb_reaches_a_known_maximum_and_leaves_out_steps_that_are_not_finite():
    def objective(index, temperature):
        beyond = 1e-9 * jnp.sqrt(5 - index[0])  # NaN past 5, and so is its gradient
        return beyond - ((index - jnp.array([1.0, -2.0])) ** 2).sum() - temperature

    starts = jnp.array([[0.0, 0.0], [6.0, 0.0]])
    found = learned_index.climb(objective, starts, 200)
    np.testing.assert_allclose(found.index[0], [1.0, -2.0], atol=1e-3)
    np.testing.assert_allclose(found.path[0, -1], -0.02, atol=1e-4)
    np.testing.assert_array_equal(found.index[1], starts[1])


def test_rivals_are_priorities_and_none_where_there_is_no_index():
    bandit, _ = jaxent.named_bandit("circulant", 10)
    named = learned_index.rivals(bandit)
    assert set(named) == {"fluid", "myopic", "Whittle", "Whittle, average"}
    assert named["Whittle"] == list(jaxent.CIRCULANT_PRIORITY)
    assert all(sorted(order) == [0, 1, 2, 3] for order in named.values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--bandit", "nobody"], "--bandit nobody"),
        (["--few", "7"], "not a positive multiple"),
        (["--many", "5000"], "--many: 5000 is more than 2048"),
        (["--runs", "1"], "--runs: at least 2"),
    ],
)
def test_bad_options(options, told, capsys):
    with pytest.raises(SystemExit) as ended:
        learned_index.main(options)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_command(tmp_path):
    sizes = ["--few", "5", "--many", "20", "--starts", "1", "--steps", "60", "--epochs", "2000"]
    common = ["--bandit", "healthcare", *sizes, "--runs", "4", "--out", str(tmp_path)]
    assert learned_index.main(common) == 0
    first = json.loads((tmp_path / "results.json").read_text())
    learned = first["bandits"]["healthcare"]["few"]["priority"]["learned"]
    assert learned == [0, 1]
    # It goes on from what is there, which keeps every number.
    assert learned_index.main([*common, "--resume"]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == first
    assert (tmp_path / "learned_index.pdf").stat().st_size > 10_000
