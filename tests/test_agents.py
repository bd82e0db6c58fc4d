"""Agents one by one against the brute-force joint chain of three, and against counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.restless.agents import agent_policy
from tests import oracles_counts as oracle
from tests.tolerances import EXACT

STEPS = 30_000


def brute_force(kernel, index, budget):
    """Joint states, law of their actions by listing all rankings, and the joint chain."""
    num_agents, num_states = index.shape
    joint = list(itertools.product(range(num_states), repeat=num_agents))
    policy, P = [], np.zeros((len(joint), len(joint)))
    for i, s in enumerate(joint):
        law = {}
        for order in itertools.permutations(range(num_agents)):
            ranked = sorted(order, key=lambda k: -index[k, s[k]])
            act = tuple(int(k in ranked[:budget]) for k in range(num_agents))
            law[act] = law.get(act, 0) + 1 / np.prod(range(1, num_agents + 1))
        policy.append(law)
        for act, p in law.items():
            rows = [kernel[k, s[k], act[k]] for k in range(num_agents)]
            for j, after in enumerate(joint):
                P[i, j] += p * np.prod([rows[k][after[k]] for k in range(num_agents)])
    return joint, policy, P


@pytest.fixture(scope="module")
def three():
    """Three agents, the last of which has a state less; agents 0 and 1 tie in state 0."""
    rng = np.random.default_rng(0)
    kernel = rng.dirichlet(np.ones(3), (3, 3, 2))
    kernel[2] = np.eye(3)[:, None]
    kernel[2, :2, :, :2] = rng.dirichlet(np.ones(2), (2, 2))
    kernel[2, :2, :, 2] = 0
    index = np.array([[1.0, 0.5, 2.0], [1.0, 3.0, 0.2], [0.7, 1.5, 9.0]])
    run = jaxent.simulate_agents(jax.random.key(1), kernel, index, budget=1, num_steps=STEPS)
    return kernel, index, run, brute_force(kernel, index, 1)


def test_follows_the_joint_chain(three):
    _, _, run, (_, policy, P) = three
    states, actions = np.asarray(run.states), np.asarray(run.actions)
    assert (actions.sum(1) == 1).all()
    assert states[:, 2].max() == 1  # padding is never entered
    place = states @ [9, 3, 1]
    seen = np.zeros_like(P)
    np.add.at(seen, (place[:-1], place[1:]), 1)
    visits = seen.sum(1, keepdims=True)
    spread = np.sqrt(visits * P * (1 - P))
    assert (np.abs(seen - visits * P) <= 5 * spread + 5).all()
    for i, law in enumerate(policy):
        here = actions[place[:-1] == i]
        for act, p in law.items():
            share = (here == act).all(1).sum()
            assert abs(share - len(here) * p) <= 5 * np.sqrt(len(here) * p * (1 - p)) + 1e-9


def test_policy_is_that_of_the_joint_chain(three):
    _, index, run, (_, policy, _) = three
    place = np.asarray(run.states) @ [9, 3, 1]
    want = np.array([np.sum([p * np.array(a) for a, p in law.items()], 0) for law in policy])
    np.testing.assert_allclose(agent_policy(run, index), want[place], atol=EXACT)


def test_entanglement_and_flow(three):
    _, index, run, (joint, policy, P) = three
    law = np.linalg.matrix_power(P, 2**12)[0]
    chance = np.array([np.sum([p * np.array(a) for a, p in x.items()], 0) for x in policy])
    found = jaxent.agent_entanglement(run, index, jnp.arange(3))
    for k in range(3):
        total = 0
        for s in range(3):
            here = np.array([x[k] == s for x in joint])
            total += min(law[here] @ np.abs(chance[here, k] - q) for q in chance[here, k])
        # Between the estimates, one biased low and one high, up to a sampling error.
        noise = 5 * 3 / np.sqrt(STEPS)
        assert found.value[k] - noise <= total <= found.held_out[k] + noise
    flow = jaxent.agent_flow(run, index, jnp.arange(3), num_types=3)
    states, actions = np.asarray(run.states), np.asarray(run.actions)
    active = np.asarray(agent_policy(run, index))
    want = np.zeros((3, 6, 6))
    for k in range(3):
        pair, ahead = 2 * states[:-1, k] + actions[:, k], 2 * states[1:, k]
        np.add.at(want[k], (pair, ahead), 1 - active[1:, k])
        np.add.at(want[k], (pair, ahead + 1), active[1:, k])
    np.testing.assert_allclose(flow, want, atol=1e-6)
    # One type of all three is the sum.
    pooled = jaxent.agent_flow(run, index, jnp.zeros(3, int), num_types=1)
    np.testing.assert_allclose(pooled[0], want.sum(0), atol=1e-6)


def test_equal_agents_follow_the_counts():
    """Counts after 3 steps, and E_1 of the type as from the counts themselves."""
    passive, active, reward, size, budget, _ = oracle.random_bandit(3, 3, 5, 2)
    priority = (2, 0, 1)
    kernel = np.broadcast_to(np.stack([passive, active], 1), (size, 3, 2, 3))
    index = np.array([2.0, 1.0, 3.0])
    rows = np.broadcast_to(index, (size, 3))
    keys = jax.random.split(jax.random.key(0), 4000)
    runs = jax.jit(
        jax.vmap(lambda key: jaxent.simulate_agents(key, kernel, rows, budget=budget, num_steps=3))
    )(keys)
    counts = (np.asarray(runs.states)[:, 3, :, None] == np.arange(3)).sum(1)
    configurations, P, _ = oracle.counts_chain(passive, active, reward, size, budget, priority)
    law = np.linalg.matrix_power(P, 3)[configurations.index((5, 0, 0))]
    for n, p in zip(configurations, law, strict=True):
        seen = (counts == n).all(1).sum()
        assert abs(seen - 4000 * p) <= 5 * np.sqrt(4000 * p * (1 - p)) + 1e-9
    one = jax.tree.map(lambda x: x[0], runs)
    found = jaxent.type_entanglement(one, index[None], jnp.zeros(size, int))
    groups = (np.asarray(one.states)[..., None] == np.arange(3)).sum(1)
    policy = jaxent.restless.action_probabilities(
        jaxent.restless.by_action(jnp.asarray(groups), jnp.array(priority), budget)
    )
    want = jaxent.estimate_entanglement(policy, groups / size)
    np.testing.assert_allclose(found.value[0], want.value, atol=EXACT)


@pytest.mark.slow
def test_ten_thousand_agents():
    """E_1 of 10,000 equal agents is near its limit, and each agent's own run says the same."""
    size = 10_000
    bandit = jaxent.circulant_bandit(size)
    kernel = jnp.broadcast_to(bandit.kernel, (size, 4, 2, 4))
    index = jnp.broadcast_to(jnp.array([2.0, 3.0, 4.0, 1.0]), (size, 4))
    start = jnp.arange(size) % 3
    run = jaxent.simulate_agents(
        jax.random.key(0), kernel, index, budget=size // 5, num_steps=1000, states=start
    )
    late = jax.tree.map(lambda x: x[200:], run)
    types = jnp.zeros(size, int)
    pooled = jaxent.type_entanglement(late, index[:1], types)
    np.testing.assert_allclose(100 * pooled.value[0], 0.2175, rtol=0.15)
    own = jaxent.agent_entanglement(late, index, jnp.arange(size))
    assert np.mean(own.value) <= pooled.value[0] <= np.mean(own.held_out)
    flow = jaxent.agent_flow(late, index, types, num_types=1)[0]
    found = jaxent.lstd_local_q(flow, bandit.reward.reshape(-1), discount=bandit.discount)
    limit = jaxent.mean_field(bandit, jaxent.CIRCULANT_PRIORITY).local_q.reshape(-1)
    seen = np.asarray(found.occupancy) > 1e-3
    np.testing.assert_allclose(found.value[seen], limit[seen], atol=0.01)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"budget": 4}, "budget: 4 is outside"),
        ({"budget": 0}, "budget"),
        ({"num_steps": 0}, "num_steps"),
        ({"index": np.ones((3, 2))}, "index: wanted shape"),
        ({"kernel": np.ones((3, 3, 2, 3))}, "kernel"),
        ({"states": np.array([0, 0, 3])}, "states: some are outside"),
    ],
)
def test_bad_input(three, change, match):
    given = {"kernel": three[0], "index": three[1], "budget": 1, "num_steps": 2} | change
    with pytest.raises(ValueError, match=match):
        jaxent.simulate_agents(jax.random.key(0), **given)
