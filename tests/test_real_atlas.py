"""An estimated row of the atlas on the real coin game: what is earned, logged and told."""

from functools import partial

import jax
import numpy as np
import pytest

with jax.enable_x64(False):  # its tables are made when it is imported
    pytest.importorskip(
        "jaxmarl", reason="needs jaxmarl, which is optional: pip install 'jaxent[envs,experiments]'"
    )

from experiments.atlas import networks, sampled
from experiments.atlas.environments import SAMPLED
from jaxent.data.environment_samplers import environment_sampler

STEPS = 4_800


@pytest.fixture(scope="module")
def game():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        env = SAMPLED["coin_game"].make()
        return env, networks.Team.of(environment_sampler(env, None, ""), 0.9)


def mean_paid(games):
    """Of a step and an agent where both go to their own coin: dense NumPy, games of ten steps."""
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(games):
        at, coins = rng.integers(0, 3, (2, 2, 2))
        for step in range(10):
            for i in range(2):
                away = (coins[i] - at[i] + 1) % 3 - 1
                axis = 1 if away[1] else 0
                at[i, axis] = (at[i, axis] + away[axis]) % 3
            on = (at[:, None] == coins[None]).all(2).astype(int)  # agent, coin
            paid = on.sum() - 2 * (on[0, 1] + on[1, 0])
            total += 0 if step == 9 else paid / 2  # the last step of a game pays nothing
            for coin in np.flatnonzero(on.any(0)):
                coins[coin] = rng.integers(0, 3, 2)
    return total / games / 10


def test_a_rule_of_thumb_earns_what_a_simulation_of_the_rules_says(game):
    """Within four standard errors, of 32 games of 200 steps and of 4,000 games of ten."""
    _, team = game
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        choose = networks.ruled(SAMPLED["coin_game"].rule)
        earn = jax.jit(partial(networks.earned, team, choose=choose, explored=0.0))
        each = np.asarray(earn(jax.random.key(0), weights=None), float)
    wide = 4 * each.std(ddof=1) * (1 / 32 + 10 / (200 * 32)) ** 0.5
    assert abs(each.mean() - mean_paid(4_000)) < wide


def test_a_row_of_the_atlas(game):
    """A team of VDN, hardly trained: its log, its row, intervals that hold their values."""
    env, team = game
    train_key, log_key, told_key = jax.random.split(jax.random.key(1), 3)
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        weights, choose = sampled._compiled(networks.values, team, False, 3)(train_key)
        log = sampled._played(log_key, env, team, choose, weights, STEPS)
        row = sampled._row(told_key, "coin_game", "vdn", log, team.discount)
    assert log.observations.shape == (STEPS, 2, 36)
    assert not log.shares_reward
    assert row.kind == "estimated"
    assert row.reward is None  # of the reward's spread only a model tells what is no sum
    assert row.vdn_error is row.qmix_error is None
    assert 0 <= row.sum_lower < row.sum_error < row.sum_upper
    assert 0 <= row.entanglement <= row.entanglement_sum <= 2
