"""Indices of several actions: Whittle's for two, and what an agent does at a price for more."""

import numpy as np
import pytest

import jaxent as je

from . import oracles_population as oracles
from .tolerances import EXACT, by_precision

NEAR = by_precision(1e-10, 1e-5)  # of the largest index


def one_type(P, r, d, discount=0.9):
    kind = je.AgentType(je.MDP(P, r), np.asarray(d, float).reshape(*r.shape, -1))
    return je.WeaklyCoupledPopulation((kind,), (2,), (100,) * kind.costs.shape[-1], discount)


def random_agent(seed, num_states, num_actions):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(num_states, 0.5), (num_states, num_actions))
    costs = np.broadcast_to(np.arange(num_actions), (num_states, num_actions))
    return P, rng.standard_normal((num_states, num_actions)), costs


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_two_actions_have_the_whittle_index(scale):
    """100 arms: indices to 1e-10 of their size, the verdict, and where it is broken."""
    refused = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(1, 7))
        passive, active = rng.dirichlet(np.full(size, (0.05, 1.0)[seed % 2]), (2, size))
        reward = scale * rng.standard_normal((size, 2))
        discount = (0.5, 0.9, 0.999)[seed % 3]
        bandit = je.RestlessBandit(passive, active, reward, 4, 2, discount)
        want, found = je.whittle_index(bandit), je.lagrange_index(bandit)
        assert found.indexable == want.indexable
        if want.indexable:
            largest = np.abs(want.index).max()
            np.testing.assert_allclose(found.index[0][:, 1], want.index, atol=NEAR * largest)
            assert np.isinf(found.index[0][:, 0]).all()
        else:
            refused += 1
            assert found.place == (0, want.state)
            np.testing.assert_allclose(found.price, want.subsidy, rtol=by_precision(1e-9, 1e-5))
            with pytest.raises(ValueError, match="type 0 is not indexable"):
                _ = found.priority
    assert refused


@pytest.mark.parametrize("seed", range(12))
def test_an_index_is_the_price_at_which_less_is_used(seed):
    """Just below it an optimal action uses at least as much, just above none does."""
    P, r, d = random_agent(seed, 3, 3)
    found = je.lagrange_index(one_type(P, r, d))
    prices = np.linspace(-30, 30, 1201)
    uses = np.array([oracles.uses_at_price(P, r, d, 0.9, price)[0] for price in prices])
    assert found.indexable == bool((np.diff(uses, axis=0) <= 0).all())
    if not found.indexable:
        return
    index = found.index[0]
    assert np.isposinf(index[:, 0]).all()
    assert (np.diff(index, axis=1) <= 0).all()
    for s, a in np.argwhere(np.isfinite(index)):
        below, above = (
            oracles.uses_at_price(P, r, d, 0.9, index[s, a] + step)[0][s] for step in (-1e-6, 1e-6)
        )
        assert below >= a > above
        # It is used on an interval, or the next that uses more goes over to less at once.
        assert found.used[0][s, a] == (below == a)


def test_a_type_that_is_not_indexable():
    """The oracle sees a state go back to using more as the price rises, where the index says."""
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        P = rng.dirichlet(np.full(3, 0.1), (3, 3))
        r = rng.standard_normal((3, 3))
        d = np.broadcast_to(np.arange(3.0), (3, 3))
        found = je.lagrange_index(one_type(P, r, d, 0.99))
        if found.indexable:
            continue
        seen += 1
        state, price = found.place[1], found.price
        step = 1e-5 * (1 + abs(price))
        below, above = (oracles.uses_at_price(P, r, d, 0.99, price + h) for h in (-step, step))
        assert above[0][state] > below[1][state]
        assert np.isnan(found.index[0]).all()
        assert np.isnan(found.price) == found.indexable
        if seen == 3:
            break
    assert seen == 3


def test_an_action_twice_changes_nothing():
    """Ties everywhere: a copy of each action has the index of the first."""
    P, r, d = random_agent(3, 4, 2)
    one = je.lagrange_index(one_type(P, r, d))
    twice = je.lagrange_index(
        one_type(np.concatenate([P, P], 1), np.concatenate([r, r], 1), np.concatenate([d, d], 1))
    )
    assert twice.indexable == one.indexable
    np.testing.assert_allclose(twice.index[0][:, :2], one.index[0], atol=EXACT)
    np.testing.assert_allclose(twice.index[0][:, 2:], one.index[0], atol=EXACT)
    assert [move[:2] for move in twice.priority] == [move[:2] for move in one.priority]


def test_prices_of_other_resources_stay():
    """A second resource at a price is a lower reward."""
    P, r, d = random_agent(4, 3, 2)
    other = np.random.default_rng(0).random((3, 2))
    both = one_type(P, r, np.stack([d, other], -1))
    found = je.lagrange_index(both, prices=[7.0, 0.5])
    want = je.lagrange_index(one_type(P, r - 0.5 * other, d))
    np.testing.assert_allclose(found.index[0], want.index[0], atol=EXACT)
    free = je.lagrange_index(both)
    np.testing.assert_allclose(
        free.index[0], je.lagrange_index(one_type(P, r, d)).index[0], atol=EXACT
    )


def test_its_moves_are_the_index_policy():
    """Two actions: the exact chain is that of Whittle's priority. The result is taken as it is."""
    bandit = je.circulant_bandit(5)
    found = je.lagrange_index(bandit)
    assert isinstance(found, je.LagrangeIndex)
    assert [s for _, s, _ in found.priority] == je.whittle_index(bandit).priority.tolist()
    population = je.WeaklyCoupledPopulation.from_bandit(bandit)
    one, other = (je.exchangeable_chain(population, policy) for policy in (found, found.priority))
    want = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
    mu = je.stationary_distribution(want)
    for chain in (one, other):
        np.testing.assert_allclose(je.stationary_distribution(chain), mu, atol=EXACT)


def test_bad_arguments_are_refused():
    P, r, d = random_agent(0, 2, 2)
    with pytest.raises(ValueError, match=r"budget: 1 is not one of the budgets 0\.\.0"):
        je.lagrange_index(one_type(P, r, d), budget=1)
    with pytest.raises(ValueError, match=r"prices: wanted shape \[1\]"):
        je.lagrange_index(one_type(P, r, d), prices=[1, 2])
