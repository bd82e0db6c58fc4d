"""Control by local values: returns against dense NumPy over all policies, and IGM's witness."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import games
from .tolerances import EXACT, by_precision

NEAR = by_precision(1e-10, 1e-5)
CLIMBING = np.array([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]])


@cache
def climbing():
    """One state, three actions each, one reward of both (Claus and Boutilier 1998)."""
    stay = (np.zeros((1, 3, 3, 1), int), np.ones((1, 3, 3, 1)))
    mdp = je.StateMDP(stay, ((0,), (0,)), jnp.array(CLIMBING)[None], discount=0.9)
    chain = je.pair_chain(mdp, jnp.full((1, 3, 3), 1 / 9))
    return mdp, chain, je.fit_additive(chain, mdp.rewards, discount=0.9)


def test_the_climbing_game():
    """By uniform play actions are worth (-19/3, -17/3, 5/3) and (-19/3, -23/3, 11/3): (2, 2)."""
    mdp, chain, fit = climbing()
    found = je.greedy_gap(mdp, fit)
    np.testing.assert_allclose(found.greedy_return, 50, rtol=EXACT)
    np.testing.assert_allclose(found.joint_return, 110, rtol=EXACT)
    assert found.decentralized_lower == found.decentralized_upper
    np.testing.assert_allclose(found.lost_alone, (60, 60), rtol=EXACT)
    np.testing.assert_allclose(found.lost, 60, rtol=EXACT)
    assert found.converged
    assert found.joint_actions.tolist() == [[0, 0]]
    assert [t.argmax(-1).tolist() for t in found.decentralized_tables] == [[0], [0]]
    assert (found.igm.holds, found.igm.state) == (False, 0)
    assert (found.igm.greedy, found.igm.best) == ((2, 2), (0, 0))
    np.testing.assert_allclose(found.igm.loss, 6, rtol=EXACT)
    assert "IGM fails: in state 0 greedy agents play (2, 2), best is (0, 0)" in str(found)
    alone = je.igm_witness(chain, fit, fit.q_joint)
    np.testing.assert_allclose(alone.losses, [6], rtol=EXACT)


def test_a_separable_team_loses_nothing():
    """Agents that move and earn alone: local Q-values of the best policies are its best values."""
    mdp, _ = je.example_1()
    free = je.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    local = []
    for agent in mdp.agents:
        kernel, reward = np.asarray(agent.transition), np.asarray(agent.reward)
        q = np.zeros_like(reward)
        for _ in range(2000):
            q = reward + float(mdp.discount) * kernel @ q.max(1)
        local.append(jnp.array(q))
    found = je.greedy_gap(free, local)
    np.testing.assert_allclose(found.greedy_return, found.joint_return, rtol=1e-9)
    np.testing.assert_allclose(found.lost_alone, 0, atol=1e-9 * abs(found.joint_return))
    assert found.igm.holds
    assert str(found.igm) == "IGM holds in every state"
    with pytest.raises(ValueError, match="couples its agents' actions"):
        je.greedy_gap(mdp, local)


def hidden(seed):
    """Two agents that see a bit each of a state of six."""
    rng = np.random.default_rng(seed)
    seen = ((0, 0, 1, 1, 0, 1), (0, 1, 0, 1, 1, 0))
    to = rng.integers(0, 6, (6, 2, 3, 2))
    chances = rng.dirichlet(np.ones(2), (6, 2, 3))
    pay = jnp.array(rng.normal(size=(6, 2, 3)))
    return je.StateMDP((to, chances), seen, pay, 0.8, jnp.array(rng.dirichlet(np.ones(6))))


@pytest.mark.parametrize("seed", range(3))
def test_every_policy_by_dense_numpy(seed):
    """All 36 teams and all joint policies by value iteration; local values drawn at random."""
    mdp = hidden(seed)
    to, chances = map(np.asarray, mdp.transition)
    K = np.zeros((6, 6, 6))
    np.add.at(K, (*np.indices((6, 6, 2))[:2], to.reshape(6, 6, 2)), chances.reshape(6, 6, 2))
    pay, start = np.asarray(mdp.rewards).reshape(6, 6), np.asarray(mdp.start)

    def value(actions):
        rows = np.arange(6), actions
        return start @ np.linalg.solve(np.eye(6) - 0.8 * K[rows], pay[rows])

    def team(rules):
        first, second = (np.array(rule)[list(o)] for rule, o in zip(rules, mdp.observations))
        return value(3 * first + second)

    returns = [
        team((f, g)) for f in product(range(2), repeat=2) for g in product(range(3), repeat=2)
    ]
    q = np.zeros((6, 6))
    for _ in range(400):
        q = pay + 0.8 * K @ q.max(1)
    rng = np.random.default_rng(seed + 10)
    local = [jnp.array(rng.normal(size=(2, a))) for a in (2, 3)]
    found = je.greedy_gap(mdp, local)
    greedy = [np.asarray(x).argmax(1) for x in local]
    np.testing.assert_allclose(found.greedy_return, team(greedy), atol=NEAR)
    np.testing.assert_allclose(found.decentralized_lower, max(returns), atol=NEAR)
    best = [np.asarray(t).argmax(1) for t in found.decentralized_tables]
    np.testing.assert_allclose(team(best), max(returns), atol=NEAR)
    np.testing.assert_allclose(found.joint_return, start @ q.max(1), atol=NEAR)
    joint = np.ravel_multi_index(np.asarray(found.joint_actions).T, (2, 3))
    np.testing.assert_allclose(value(joint), found.joint_return, atol=NEAR)
    taken = 3 * greedy[0][list(mdp.observations[0])] + greedy[1][list(mdp.observations[1])]
    losses = q.max(1) - q[np.arange(6), taken]
    np.testing.assert_allclose(found.igm.losses, losses, atol=NEAR)
    assert found.igm.state == losses.argmax()
    # Not all tried: the same from below and above.
    between = je.greedy_gap(mdp, local, max_profiles=1)
    assert between.decentralized_lower <= max(returns) + NEAR
    assert max(returns) <= between.decentralized_upper + NEAR
    assert between.greedy_return <= between.decentralized_lower
    np.testing.assert_allclose(between.greedy_return, found.greedy_return, atol=NEAR)
    assert "in [" in str(between) or between.decentralized_lower == between.decentralized_upper


def test_on_the_grid():
    """VDN of uniform play does nothing useful when greedy; the best team needs no joint policy."""
    mdp = je.tabulate(
        games.grid_start(),
        games.walk_on_grid,
        lambda s: s["place"],
        num_actions=(5, 5),
        discount=0.9,
    )
    chain = je.pair_chain(mdp, mdp.join([jnp.full((9, 5), 0.2)] * 2))
    fit = je.fit_additive(chain, mdp.rewards, discount=0.9)
    found = je.greedy_gap(mdp, fit)
    assert found.converged
    assert found.greedy_return <= found.decentralized_lower <= found.decentralized_upper
    assert found.decentralized_upper <= found.joint_return * (1 + NEAR)
    # Four steps each to the goal, then 1 for each of both: a bound no team can pass.
    assert 0.9 * found.joint_return < found.decentralized_lower
    assert found.joint_return < 2 * 0.9**4 / 0.1
    scaled = je.greedy_gap(
        mdp, [1e9 * q for q in fit.q_local], rewards=[1e9 * r for r in mdp.rewards]
    )
    np.testing.assert_allclose(scaled.lost, 1e9 * found.lost, rtol=by_precision(1e-9, 1e-5))
    np.testing.assert_array_equal(scaled.joint_actions, found.joint_actions)


@pytest.mark.slow
def test_best_responses_find_the_best_rules_of_the_riddle():
    """All 19,683 teams tried, against the bracket by best responses."""
    mdp = je.tabulate(
        games.riddle_start(), games.riddle, games.riddle_seen, num_actions=(3, 3, 3), discount=0.9
    )
    local = [jnp.zeros((3, 3))] * 3
    tried = je.greedy_gap(mdp, local, max_profiles=20_000)
    between = je.greedy_gap(mdp, local)
    np.testing.assert_allclose(between.decentralized_lower, tried.decentralized_lower, rtol=1e-9)
    np.testing.assert_allclose(tried.joint_return, between.decentralized_upper, rtol=1e-9)
    assert tried.decentralized_upper < tried.joint_return


def test_a_product_model_and_a_start():
    """A cooperative game on products of states is the same game on states numbered."""
    rng = np.random.default_rng(0)
    kernel, pay = rng.dirichlet(np.ones(4), (2, 2, 2, 2)), rng.normal(size=(2, 2, 2, 2))
    game = je.CooperativeGame(kernel.reshape((2,) * 6), jnp.array(pay), 0.7)
    outcomes = (np.broadcast_to(np.arange(4), (4, 2, 2, 4)), kernel.reshape(4, 2, 2, 4))
    seen = tuple(np.unravel_index(np.arange(4), (2, 2)))
    flat = je.StateMDP(outcomes, seen, jnp.array(pay.reshape(4, 2, 2)), 0.7)
    local = [jnp.array(rng.normal(size=(2, 2))) for _ in range(2)]
    start = jnp.array([0.1, 0.2, 0.3, 0.4])
    a, b = (je.greedy_gap(mdp, local, start=start) for mdp in (game, flat))
    for name in ("greedy_return", "decentralized_lower", "joint_return"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=NEAR)
    np.testing.assert_array_equal(a.joint_actions, b.joint_actions)
    assert (a.igm.state, a.igm.greedy, a.igm.best) == (b.igm.state, b.igm.greedy, b.igm.best)


def test_single_precision():
    mdp, _, fit = climbing()
    single = je.StateMDP(
        (mdp.transition[0], mdp.transition[1].astype(np.float32)),
        mdp.observations,
        mdp.rewards.astype(np.float32),
        0.9,
    )
    found = je.greedy_gap(single, [q.astype(np.float32) for q in fit.q_local])
    np.testing.assert_allclose(found.lost, 60, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"values": [jnp.zeros((1, 3))]}, "values: wanted one for each of 2 views, got 1"),
        ({"values": [jnp.zeros(3), jnp.zeros(4)]}, r"values\[1\]: wanted 3 values"),
        ({"values": [jnp.zeros(3), jnp.full(3, jnp.nan)]}, r"values\[1\]\[0\] is nan"),
        ({"start": jnp.ones(2)}, r"start: wanted shape \[1\], got \[2\]"),
        ({"start": jnp.full(1, 0.5)}, "start: it sums to 0.5"),
        ({"discount": 1.0}, "discount: 1 is outside"),
        ({"max_profiles": 0}, "max_profiles: 0 is not"),
        ({"num_starts": -1}, "num_starts: -1 is not"),
        ({"rewards": jnp.zeros(3)}, "rewards: wanted a sequence of 2 local rewards"),
        ({"mdp": jnp.zeros(3)}, "mdp"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    mdp, _, fit = climbing()
    arguments = {"mdp": mdp, "values": fit, **change}
    with pytest.raises(ValueError, match=match):
        je.greedy_gap(**arguments)


def test_in_a_trace_and_without_a_policy_table():
    mdp, chain, fit = climbing()
    with pytest.raises(ValueError, match="igm_witness: names a state"):
        jax.jit(lambda c: je.igm_witness(c, fit, fit.q_joint).losses)(chain)
    with pytest.raises(ValueError, match="greedy_gap: searches for policies"):
        jax.jit(lambda r: je.greedy_gap(mdp, fit, rewards=r).lost)(mdp.rewards)
    matrix = je.PairChain.from_matrix(je.pr_box(), sizes=(2, 2))
    with pytest.raises(ValueError, match="chain: has no joint policy table"):
        je.igm_witness(matrix, [jnp.zeros(2)] * 2, jnp.zeros(4))
