"""What an audit says of actions that a log hardly has, and of the reward where all are tried."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent._reads import NOT_SAID
from jaxent.auditing.result import to_dict

PAY = np.array([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]])


def climbing_log(chance, num_steps=3000):
    """Two agents that climb: both play their last action but for this chance of another."""
    rng = np.random.default_rng(0)
    other = rng.random((num_steps, 2)) < chance
    actions = np.where(other, rng.integers(0, 3, (num_steps, 2)), 2)
    states = np.zeros_like(actions)
    labels = je.Labels.numbers(agents=2, states=1, actions=3)
    return je.Trajectory.from_arrays(
        states, actions, PAY[actions[:, 0], actions[:, 1]], labels=labels
    )


def test_a_log_that_hardly_explores_says_so():
    """The error along its play is small, and the report says what was never seen."""
    found = je.audit(climbing_log(0.02), discount=0.9, num_permutations=9)
    text = str(found)
    assert len(text.split("\n")) <= 40
    assert NOT_SAID in " ".join(text.split())
    assert found.explored.enough == pytest.approx(2 / 6)
    assert "33.3% are seen 50 times or more, 0.0% never" in text
    assert found.explored.covered < 0.9
    assert f"of uniform play this log has {found.explored.covered:.1%}, too little" in text
    content = to_dict(found)
    assert content["not_said"] == NOT_SAID
    assert content["explored"]["enough"] == found.explored.enough


def test_a_log_that_explores_shows_the_interaction():
    """By uniform play the climbing game's pay is mostly no sum; the model says how much."""
    log = climbing_log(0.9)
    found = je.audit(log, discount=0.9, num_permutations=9)
    stay = (np.zeros((1, 3, 3, 1), int), np.ones((1, 3, 3, 1)))
    game = je.StateMDP(stay, ((0,), (0,)), jnp.array(PAY)[None], 0.9)
    truth = float(je.reward_interaction(game).share)
    explored = found.explored
    assert explored.enough == 1
    assert explored.lower <= truth <= explored.upper
    assert f"by uniform play {explored.share:.1%}" in str(found)
    assert "of all in the states" not in str(found)


def test_too_short_a_log_tells_nothing_of_uniform_play():
    found = je.audit(climbing_log(0.5, num_steps=120), discount=0.9, num_permutations=9)
    assert found.explored.source == ""
    assert np.isnan(found.explored.share)
    assert to_dict(found)["explored"]["share"] is None
    assert "by uniform play" not in str(found)


def test_rewards_of_agents_that_are_sums_need_no_line():
    log = climbing_log(0.9)
    rewards = np.asarray(log.actions, float)
    own = je.Trajectory.from_arrays(log.states, log.actions, rewards, labels=log.labels)
    found = je.audit(own, discount=0.9, num_permutations=9)
    assert found.explored.upper < 1e-9
    assert "by uniform play" not in str(found)
