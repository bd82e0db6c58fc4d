"""MPE simple_spread itself: what agents do not see shows as an error, and not at another time."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxent as je

with jax.enable_x64(False):  # its tables are made when it is imported
    pytest.importorskip(
        "jaxmarl", reason="needs jaxmarl, which is optional: pip install 'jaxent[envs,experiments]'"
    )

from experiments import spread

STEPS = 16_000


@pytest.fixture(scope="module")
def log():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        policy = partial(spread.by_rule, assigned=True)
        return spread.play(jax.random.key(0), spread.make_game(2), policy, STEPS)


def test_a_log_keeps_what_agents_see(log):
    """Own speed and place, landmarks, the others, what they say (nothing), the clock."""
    assert log.observations.shape == (STEPS, 2, 13)
    assert log.num_states == 1
    assert log.num_actions == 5
    assert (np.diff(log.observations[:, 0, -1]) < 0).sum() == (STEPS - 1) // 26
    place, landmark = log.observations[:, 0, 2:4], log.observations[:, 0, 4:6]
    apart = np.diff(place + landmark, axis=0)
    assert (np.abs(apart).max(1) < 1e-5).mean() > 0.95  # landmarks stay where they are in a game


def test_agents_that_do_not_see_each_other(log):
    """Their sum is further off than that of agents that see what is shown, or everything."""
    found = spread.measure(jax.random.key(1), log, "assigned", 0.9)
    blind, shown, everything = (row.error for row in found)
    assert blind[1] > max(shown[2], everything[2])
    assert all(row.placebo[0] < blind[1] for row in found)


def test_an_audit(log):
    """The error with its interval first, of a part of the log; somebody is entangled."""
    parts = (log.actions, log.rewards, log.observations)
    actions, rewards, seen = (np.asarray(x)[:3_000] for x in parts)
    short = je.Trajectory.from_arrays(None, actions, rewards, observations=seen)
    found = je.audit(short, discount=0.9, num_permutations=9)
    assert str(found).startswith("The sum of local values misses the true value of the team by")
    assert found.sum_error.is_told
    assert not found.sum_error.by_pairs
    assert len(found.words) == 2
    assert (found.entanglement > 0).any()
