"""Entanglement from logs of agents that see numbers: below the truth, 0 where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import logs_of_chains as games
from .test_observations import continuous, embedding, seen_as

KEY = jax.random.key(0)


def acting(seed, num_steps, coupling):
    """Two places with noise; agent 0 acts by its own place, or by that of agent 1 now and then."""
    rng = np.random.default_rng(seed)
    z, actions = np.zeros((num_steps, 2)), np.zeros((num_steps, 2), int)
    for t in range(num_steps):
        if t:
            z[t] = 0.7 * z[t - 1] + 0.5 * (actions[t - 1] - 0.5) + 0.6 * rng.normal(size=2)
        own = 1 / (1 + np.exp(0.5 - 0.8 * z[t, 0] ** 2)), 1 / (1 + np.exp(-z[t, 1]))
        chance = np.array([(1 - coupling) * own[0] + coupling * (z[t, 1] > 0), own[1]])
        actions[t] = rng.random(2) < chance
    return je.Trajectory.from_arrays(None, actions, z, observations=z[:, :, None])


def test_who_acts_by_the_other():
    """Agent 0 is moved by agent 1 and not the other way round; no law is further off than 0.15."""
    found = je.entanglement_from_logs(KEY, acting(0, 5_000, 0.3))
    assert found.p_value[0] == 0.01
    assert found.lower[0] > 0.03
    assert found.value[0] < 0.15
    assert found.p_value[1] > 0.05
    assert found.lower[1] < 0
    assert (np.abs(np.asarray(found.placebo)) < 0.03).all()
    np.testing.assert_allclose(np.asarray(found.batches).mean(1), found.value, atol=1e-3)
    np.testing.assert_allclose(np.asarray(found.minimizer).sum(-1), 1)
    assert found.minimizer.shape == (2, 2, 2)
    assert (np.asarray(found.share) == 1).all()


def test_one_agent_by_itself_is_as_among_all():
    log = acting(0, 2_000, 0.3)
    both = je.entanglement_from_logs(KEY, log, num_permutations=9)
    alone = je.entanglement_from_logs(KEY, log, agents=[0], num_permutations=9)
    assert both.value.shape == (2,)
    np.testing.assert_allclose(alone.value[0], both.value[0], atol=0.05)  # other waves


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 6))]
)
def test_below_the_exact_value_of_a_tabulated_game(monkeypatch, seed):
    """Eq. (7) of the exact chain is above, for states seen as points in R^3; so it is as states."""
    game = games.dense(seed)
    chain = je.PairChain.from_matrix(jnp.asarray(game.P), sizes=(4, 4))
    log = seen_as(game.log(game.paths(seed, 8_000, 1)[:, 0]), embedding(seed, 2, 4))
    exact = np.array(
        [je.entanglement_mu_atv_upper(chain, jnp.asarray(game.mu), agent=i).value for i in (0, 1)]
    )
    table = je.entanglement_from_logs(KEY, log)
    assert np.isnan(table.placebo).all()
    continuous(monkeypatch)
    found = je.entanglement_from_logs(KEY, log)
    for estimate in (table, found):
        assert (np.asarray(estimate.lower) < exact).all()
        assert (np.asarray(estimate.lower) > 0).all()
        assert (np.asarray(estimate.p_value) == 0.01).all()
    assert (np.asarray(found.value) < exact + 3 * np.asarray(found.standard_error)).all()
    assert (np.asarray(found.value) > 0.3 * exact).all()


def test_independent_agents_of_a_tabulated_game(monkeypatch):
    continuous(monkeypatch)
    game = games.separable()
    log = seen_as(game.log(game.paths(0, 5_000, 1)[:, 0]), embedding(0, 2, 4))
    found = je.entanglement_from_logs(KEY, log)
    assert (np.asarray(found.lower) < 0).all()
    assert (np.asarray(found.p_value) > 0.01).all()


def test_features_of_ones_own():
    """What is given in the place of the others' observations; noise tells nothing."""
    log = acting(0, 5_000, 0.6)
    noise = np.random.default_rng(1).normal(size=(5_000, 2, 1))
    told = je.entanglement_from_logs(KEY, log, features=np.asarray(log.observations)[:, ::-1])
    blind = je.entanglement_from_logs(KEY, log, features=noise)
    assert told.lower[0] > 0.05
    assert blind.lower[0] < 0.0


def test_actions_that_are_rare_are_left_out():
    log = acting(0, 2_000, 0.3)
    actions = np.asarray(log.actions).copy()
    actions[:10, 0] = 2
    rare = je.Trajectory.from_arrays(
        None, actions, log.rewards, observations=np.asarray(log.observations)
    )
    found = je.entanglement_from_logs(KEY, rare, num_permutations=9)
    np.testing.assert_array_equal(found.enough[0], [True, True, False])
    assert found.visits[0, 2] == 10
    nothing = je.entanglement_from_logs(KEY, rare, min_visits=5_000, num_permutations=9)
    assert np.isnan(nothing.value).all()


@pytest.mark.slow
def test_level_and_power():
    """Of 100 logs at most 1 in 10 is called entangled where none is, and 9 in 10 where one is."""
    options = {"num_permutations": 49}
    p = np.array(
        [
            je.entanglement_from_logs(jax.random.key(s), acting(s, 3_000, 0.2), **options).p_value
            for s in range(100)
        ]
    )
    print((p <= 0.04).mean(0))
    assert (p[:, 0] <= 0.04).mean() > 0.9
    assert (p[:, 1] <= 0.04).mean() <= 0.1
