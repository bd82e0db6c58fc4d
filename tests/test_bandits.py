"""The named bandits are what their docstrings say."""

import numpy as np
import pytest

from jaxent.models.named_bandits import BANDITS, named_bandit
from jaxent.models.restless_bandit import check_bandit
from jaxent.restless.indices import whittle_index

from . import oracles_restless as oracles
from .tolerances import EXACT, SOLVE, by_precision

# What an orbit that has come to rest still moves by, and what no rounding moves it by.
STILL, MOVED = by_precision((1e-10, 1e-6), (1e-6, 1e-4))


def orbit(named, start, num_steps):
    """The mean field, m -> (m - a) P_0 + a P_1, from one start."""
    bandit, priority = named
    share = bandit.budget / bandit.num_agents
    path = [np.asarray(start, float)]
    for _ in range(num_steps):
        m = path[-1]
        active = np.array(oracles.served(m, share, priority))
        path.append((m - active) @ np.asarray(bandit.passive) + active @ np.asarray(bandit.active))
    return np.array(path)


def starts(num_states):
    drawn = np.random.default_rng(0).dirichlet(np.ones(num_states), 20)
    return [*np.eye(num_states), *drawn]


@pytest.mark.parametrize("name", BANDITS)
def test_is_a_bandit(name):
    named = named_bandit(name, 10)
    check_bandit(named.bandit)
    assert sorted(named.priority) == list(range(named.bandit.num_states))
    with pytest.raises(ValueError, match="num_agents: 7 is not a positive multiple of"):
        named_bandit(name, 7)


@pytest.mark.parametrize("name", ["age", "circulant", "healthcare", "machines", "queue"])
def test_priority_is_whittle_order(name):
    named = named_bandit(name, 10)
    result = whittle_index(named.bandit)
    assert result.indexable
    # Ages beyond the cap tie, so the order is compared by index, not by state.
    served = result.index[list(named.priority)]
    np.testing.assert_allclose(served, np.sort(result.index)[::-1], atol=SOLVE)


@pytest.mark.parametrize("name", sorted(set(BANDITS) - {"cyclic"}))
def test_mean_field_has_a_global_attractor(name):
    named = named_bandit(name, 10)
    ends = np.array([orbit(named, m, 2000)[-2:] for m in starts(named.bandit.num_states)])
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0, 0], ends.shape), atol=STILL)


def test_cyclic_bandit_swings():
    named = named_bandit("cyclic", 10)
    swings = 0
    for m in starts(3):
        end = orbit(named, m, 500)[-3:]
        np.testing.assert_allclose(end[2], end[0], atol=STILL)
        if abs(end[1] - end[0]).max() > MOVED:
            np.testing.assert_allclose(abs(end[1] - end[0]).max(), 0.7, atol=MOVED)
            swings += 1
    assert swings > 15


def test_degenerate_bandit_spends_its_budget_on_whole_states():
    named = named_bandit("degenerate", 10)
    end = orbit(named, [0.5, 0.5], 500)[-1]
    np.testing.assert_allclose(end, [0.8, 0.2], atol=EXACT)
    assert named.bandit.budget / named.bandit.num_agents == 0.2


def test_unknown_name():
    with pytest.raises(ValueError, match="name: 'ring' is not one of age, circulant"):
        named_bandit("ring", 10)
