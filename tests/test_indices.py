"""Whittle indices against published values, a peer, and policy iteration; the relaxation by LP."""

from fractions import Fraction
from itertools import pairwise

import jax
import numpy as np
import pytest

from jaxent.models.examples import circulant_bandit
from jaxent.models.named_bandits import named_bandit
from jaxent.models.restless_bandit import RestlessBandit
from jaxent.restless import indices
from jaxent.restless.indices import (
    average_whittle_index,
    fluid_priority,
    index_priority,
    myopic_priority,
    random_priority,
    whittle_index,
)

from . import oracles_restless as oracles
from .tolerances import EXACT, SOLVE


def random_bandit(seed, num_states=None, concentration=1.0, discount=0.9):
    rng = np.random.default_rng(seed)
    num_states = num_states or 3 + seed % 5
    kernels = rng.dirichlet(np.full(num_states, concentration), (2, num_states))
    return RestlessBandit(*kernels, rng.random((num_states, 2)), 10, 3, discount)


def test_circulant_indices_are_the_published_ones():
    bandit = circulant_bandit(10)
    result = whittle_index(bandit)
    assert result.indexable
    assert result.state == -1
    np.testing.assert_allclose(result.index, [-0.25, 0.25, 0.4, -0.4], atol=EXACT)
    assert index_priority(result.index).tolist() == [2, 1, 0, 3]
    # Avrachenkov and Borkar (2022), average reward.
    average = average_whittle_index(bandit).index
    np.testing.assert_allclose(average, [-0.5, 0.5, 1.0, -1.0], atol=EXACT)


@pytest.mark.parametrize("discount", [0.5, 0.95, None])
@np.errstate()  # which the peer changes as it is imported
def test_agrees_with_markovianbandit(discount):
    peer = pytest.importorskip(
        "markovianbandit", reason="the peer is markovianbandit-pkg (with numba), in the dev group"
    )
    compared = 0
    for seed in range(50):
        bandit = random_bandit(seed, concentration=0.3 if seed % 2 else 1.0)
        ours = average_whittle_index if discount is None else whittle_index
        result = ours(bandit._replace(discount=discount or 0.0))
        parts = bandit.passive, bandit.active, bandit.reward[:, 0], bandit.reward[:, 1]
        model = peer.restless_bandit_from_P0P1_R0R1(*parts)
        options = {} if discount is None else {"discount": discount}
        assert model.is_indexable(**options) == result.indexable
        if result.indexable:
            np.testing.assert_allclose(result.index, model.whittle_indices(**options), atol=SOLVE)
            compared += 1
    assert compared >= 45


def test_index_is_where_acting_and_resting_tie():
    bandit = random_bandit(3, num_states=6)
    for s, subsidy in enumerate(whittle_index(bandit).index):
        _, advantage = oracles.subsidised_values(bandit, subsidy)
        np.testing.assert_allclose(advantage[s], 0, atol=SOLVE)


def test_not_indexable_is_a_verdict():
    found = 0
    for seed in range(300):
        bandit = random_bandit(seed, num_states=3 + seed % 2, concentration=0.05)
        result = whittle_index(bandit)
        if result.indexable:
            continue
        found += 1
        assert np.isnan(result.index).all()
        below, above = (
            oracles.subsidised_values(bandit, result.subsidy + step)[1][result.state]
            for step in (-1e-5, 1e-5)
        )
        assert below < 0 < above, "the state must turn from idle to active"
        with pytest.raises(ValueError, match=r"index\[0\] is nan"):
            index_priority(result.index)
    assert found >= 3


def test_verdict_against_a_scan_of_the_subsidy():
    for seed in range(40):
        bandit = random_bandit(100 + seed, num_states=3, concentration=0.1)
        scan = [oracles.subsidised_values(bandit, x)[1] <= 0 for x in np.linspace(-12, 12, 400)]
        shrinks = any((a & ~b).any() for a, b in pairwise(scan))
        if shrinks:  # A scan may miss a narrow gap, never invent one.
            assert not whittle_index(bandit).indexable


def test_500_states(monkeypatch):
    """A row of the inverse at a time: to invert for every state would cost S times as much."""
    made, inverse = [], indices._inverse
    monkeypatch.setattr(indices, "_inverse", lambda *given: made.append(0) or inverse(*given))
    bandit = random_bandit(0, num_states=500)
    result = whittle_index(bandit)
    assert 0 < len(made) < 500 / 50
    assert result.indexable
    s = 123
    _, advantage = oracles.subsidised_values(bandit, result.index[s])
    np.testing.assert_allclose(advantage[s], 0, atol=SOLVE)


def bandit_of_ties(seed):
    """Kernels and rewards of small whole numbers, so that advantages are often exactly 0."""
    rng = np.random.default_rng(seed)
    num_states, kind = int(rng.integers(2, 5)), int(rng.integers(3))
    kernels = rng.integers(0, 2, (2, num_states, num_states)) * (1.0 if kind else 0.0)
    to = rng.integers(num_states, size=(2, num_states))
    kernels[np.arange(2)[:, None], np.arange(num_states), to] += 1
    if kind == 2:
        kernels *= rng.integers(1, 3, kernels.shape)
    kernels /= kernels.sum(-1, keepdims=True)
    return RestlessBandit(*kernels, rng.integers(0, 3, (num_states, 2)).astype(float), 10, 3, 0.9)


def test_ties_against_fractions():
    refused = 0
    for seed in range(120):
        bandit = bandit_of_ties(seed)
        found, exact = whittle_index(bandit), oracles.exact_indices(bandit, Fraction(9, 10))
        assert found.indexable == (exact is not None)
        refused += exact is None
        if exact is not None:
            np.testing.assert_allclose(found.index, exact, atol=SOLVE)
    assert 0 < refused < 20


def test_average_reward_is_the_limit_of_discounts():
    """Also where acting and resting tie on a whole interval, which the average cannot decide."""
    compared = 0
    for seed in range(300):
        bandit = bandit_of_ties(seed)
        try:
            average = average_whittle_index(bandit)
        except ValueError:  # several recurrent classes
            continue
        near = whittle_index(bandit._replace(discount=1 - 1e-6))
        assert average.indexable == near.indexable
        if near.indexable:
            np.testing.assert_allclose(average.index, near.index, atol=1e-4)
            compared += 1
    assert compared > 150


def test_a_tie_that_the_average_reward_leaves_open():
    """State 1 is left at once by either action: acting there pays 1, and no average sees it."""
    passive = np.array([[1.0, 0.0], [1.0, 0.0]])
    active = np.array([[1.0, 0.0], [1.0, 0.0]])
    bandit = RestlessBandit(passive, active, np.array([[0.0, 0.0], [0.0, 1.0]]), 10, 3, 0.9)
    for found in (average_whittle_index(bandit), whittle_index(bandit)):
        np.testing.assert_allclose(found.index, [0, 1], atol=EXACT)


@pytest.mark.parametrize("constant", [0, 1e3])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_verdicts_know_no_unit(scale, constant):
    rng = np.random.default_rng(0)
    for _ in range(21):
        kernels = [rng.dirichlet([0.3] * 3, 3) for _ in range(2)]
        reward = rng.random((3, 2))
    bandit = RestlessBandit(*kernels, scale * (reward + constant), 10, 5, 0.95)
    found, plain = whittle_index(bandit), whittle_index(bandit._replace(reward=reward))
    assert not found.indexable
    assert found.state == plain.state
    np.testing.assert_allclose(found.subsidy / scale, plain.subsidy, rtol=SOLVE)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_the_fluid_program_knows_no_unit(scale):
    machines = named_bandit("machines", 10).bandit
    found = fluid_priority(machines._replace(reward=scale * np.asarray(machines.reward)))
    np.testing.assert_allclose(found.value / scale, 0.72, rtol=EXACT)
    assert found.priority.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("penalty", [-1e4, -1e10, -1e12])
def test_a_forbidden_action(penalty):
    """A reward of -1e10 says "never act here": the other states keep their indices to rounding."""
    rng = np.random.default_rng(0)
    bandit = RestlessBandit(*rng.dirichlet(np.ones(5), (2, 5)), rng.random((5, 2)), 10, 3, 0.9)
    reward = np.array(bandit.reward)
    reward[1, 1] = penalty
    forbidden = bandit._replace(reward=reward)
    # Nobody ever acts in state 1, so that it costs the same where acting there is resting.
    same = reward.copy()
    same[1, 1] = same[1, 0] - 100
    kernel = bandit.active.copy()
    kernel[1] = bandit.passive[1]
    never = bandit._replace(active=kernel, reward=same)
    others = [0, 2, 3, 4]
    for solve in (whittle_index, average_whittle_index, fluid_priority):
        found, wanted = solve(forbidden).index, solve(never).index
        np.testing.assert_allclose(found[others], wanted[others], atol=SOLVE)
        assert found[1] < 0.1 * penalty
    np.testing.assert_allclose(
        fluid_priority(forbidden).value, fluid_priority(never).value, rtol=EXACT
    )


def test_states_that_differ_by_rounding_tie():
    twice = circulant_bandit(5)._replace(
        reward=np.array([[0.1, 0.3], [0, 0.2], [0, 0.2], [0, 0.3]])
    )
    for scale in (1.0, 3.0, 1e-12 / 3):
        assert myopic_priority(twice._replace(reward=scale * twice.reward)).tolist() == [3, 0, 1, 2]


def test_fluid_priority_solves_the_relaxation():
    for seed in range(5):
        bandit = random_bandit(seed)
        fluid = fluid_priority(bandit)
        y = fluid.occupancy
        np.testing.assert_allclose(y.sum(0), [0.7, 0.3], atol=SOLVE)
        flow = y[:, 0] @ bandit.passive + y[:, 1] @ bandit.active
        np.testing.assert_allclose(flow, y.sum(1), atol=SOLVE)
        np.testing.assert_allclose(fluid.value, (y * bandit.reward).sum(), atol=SOLVE)
        assert sorted(fluid.priority) == list(range(len(y)))
        # Always active, then sometimes, then never; a state that is not visited may be anywhere.
        ranked = y[fluid.priority]
        visited = ranked.sum(1) > 1e-9
        acts = (ranked[visited, 1] / ranked[visited].sum(1)).round(9)
        assert (np.diff(acts) <= 0).all()


def test_fluid_value_bounds_the_circulant_bandit():
    fluid = fluid_priority(circulant_bandit(10))
    np.testing.assert_allclose(fluid.value, 0.2, atol=SOLVE)
    assert fluid.priority[0] == 2
    assert fluid.priority[-1] == 0


def test_average_reward_needs_one_recurrent_class():
    bandit = random_bandit(0, num_states=3)._replace(passive=np.eye(3))
    with pytest.raises(ValueError, match="several recurrent classes"):
        average_whittle_index(bandit)


def test_myopic_and_random():
    bandit = circulant_bandit(5)._replace(reward=np.array([[0, 1], [0, 3], [1, 1], [0, 3.0]]))
    assert myopic_priority(bandit).tolist() == [1, 3, 0, 2]
    drawn = random_priority(jax.random.key(0), 6)
    assert sorted(drawn.tolist()) == list(range(6))


def test_bad_input():
    with pytest.raises(ValueError, match="passive"):
        whittle_index(circulant_bandit(5)._replace(passive=np.ones((4, 4))))
    with pytest.raises(ValueError, match="outside a trace"):
        jax.jit(lambda r: whittle_index(circulant_bandit(5)._replace(reward=r)).index)(
            np.zeros((4, 2))
        )
