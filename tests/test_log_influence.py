"""Who moves whom, from a log: what counts say, and that memory is asked for beforehand."""

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.auditing import agent_estimates, report
from jaxent.data import local_pairs, log_influence
from jaxent.data.log_influence import influence_from_logs
from jaxent.numerics import memory
from tests.tolerances import by_precision

COPIES = np.array([[0.9, 0.1], [0.3, 0.7]])  # of agent 0, by what agent 1 is at


def followed(num_steps, seed=0, absent=()):
    """Agent 0 follows agent 1, agent 2 is by itself; states are coins."""
    rng = np.random.default_rng(seed)
    states = rng.integers(2, size=(num_steps, 3))
    coin = rng.random(num_steps)
    for t in range(1, num_steps):
        states[t, 0] = coin[t] > COPIES[states[t - 1, 1], 0]
    present = np.ones(states.shape, bool)
    present[list(absent)] = False
    run = je.Trajectory.from_arrays(states, 0 * states, 0.0 * states)
    return je.Trajectory(
        run.states, run.actions, run.rewards, run.signal, run.episode, run.time, present, run.labels
    )


def test_the_one_that_is_followed():
    """Half of the distance of the two laws, for each comes half of the time; the rest is chance."""
    found = influence_from_logs(followed(20_000))
    wanted = np.zeros((3, 3))
    wanted[0, 1] = 0.3  # of TV 0.6
    # Held out, a half of 10,000 steps misses a mean of such signs by 0.005.
    np.testing.assert_allclose(found, wanted, atol=0.025)
    np.testing.assert_array_equal(np.diag(found), 0)
    assert (found >= 0).all()


def test_some_local_pairs_at_a_time(monkeypatch):
    run = followed(3_000, absent=range(700, 800))
    whole = influence_from_logs(run)
    monkeypatch.setattr(log_influence, "_CELLS", 1)
    np.testing.assert_allclose(influence_from_logs(run), whole, atol=1e-6)


def test_it_is_the_held_out_gain():
    """Step by step, where the center is a law that no other equals."""
    run = followed(2_000, seed=1)
    states = np.asarray(run.states)
    x, z, y = states[:-1, 0], states[:-1, 1], states[1:, 0]
    half, total = np.arange(len(x)) * 2 // len(x), 0.0
    for judged in range(2):
        for a in range(2):
            train = (x == a) & (half != judged)
            own = np.bincount(y[train], minlength=2) / train.sum()
            number = np.array([(train & (z == c)).sum() for c in range(2)])
            laws = [
                (np.bincount(y[train & (z == c)], minlength=2) + own) / (number[c] + 1)
                for c in range(2)
            ]
            # The center is the law of the heavier state, and there h may be anything: the one that
            # takes the first order of q out of the gain.
            heavy = int(number[1] > number[0])
            light = 1 - heavy
            apart = laws[light] - laws[heavy]
            h = np.zeros((2, 2))
            h[light] = apart > 0
            slope = np.where(apart > 0, -1, 1) * number[light] / number[heavy] / 2
            h[heavy] = slope + 0.5
            for t in np.flatnonzero((half == judged) & (x == a)):
                total += h[z[t], y[t]] - h[z[t]] @ laws[heavy]
    found = influence_from_logs(run)[0, 1]
    np.testing.assert_allclose(found, total / len(x), atol=1e-5)


def test_an_agent_without_data():
    run = followed(60)
    found = influence_from_logs(run, min_visits=60)
    assert np.isnan(found[~np.eye(3, dtype=bool)]).all()
    np.testing.assert_array_equal(np.diag(found), 0)
    with pytest.raises(ValueError, match="min_visits"):
        influence_from_logs(run, min_visits=0)


def test_more_than_memory_holds_is_refused_first(monkeypatch):
    """Before anything is learned, with what it would take and what to do."""
    run = followed(3_000)
    monkeypatch.setattr(memory, "host_memory", lambda: by_precision(2**18, 2**17))
    monkeypatch.delattr(report, "learned_sum")
    monkeypatch.delattr(agent_estimates, "agents_estimator")
    with pytest.raises(
        ValueError, match=r"trajectory: laws of 2 next .* GiB, .* fewer bins"
    ) as told:
        je.audit(run, discount=0.9)
    assert "\n" not in str(told.value)
    monkeypatch.setattr(memory, "host_memory", lambda: 2**21)
    local_pairs.check_room(run, num_features=1)
    with pytest.raises(ValueError, match="by 400 features, take about"):
        je.entanglement_from_logs(jax.random.key(0), run, features=np.zeros((3_000, 3, 400)))
