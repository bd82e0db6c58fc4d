"""Randomized activation: the exact law of its splits, its draws, and its gap to the bound."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.splits import counts_place, rules_of, split_law

from .test_population_chain import SIZES, average_of, case
from .tolerances import EXACT, SOLVE, STANDARD_ERRORS

TABLES = (
    np.array([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]]),
    np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]),
)
ORDER = [(1, 0, 2), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 2, 1)]


def law_by_agents(plain, states, counts):
    """Law of the split where agents are in these states: every want of every agent is listed."""
    costs, limits = [d for _, _, d in plain[0]], np.array([b for b, _ in plain[2]])
    agents = [k for k, n in enumerate(counts) for _ in range(n)]
    law = {}
    for wants in itertools.product(*(range(SIZES[k][1]) for k in agents)):
        chance = np.prod([TABLES[k][s, a] for k, s, a in zip(agents, states, wants, strict=True)])
        split = [np.zeros(size, int) for size in SIZES]
        for k, s in zip(agents, states, strict=True):
            split[k][s, 0] += 1
        left = limits.astype(float)
        for k, s, a in ORDER:
            for i, who in enumerate(agents):
                more = costs[k][s, a] - costs[k][s, 0]
                if who == k and states[i] == s and wants[i] == a and (more <= left).all():
                    split[k][s, 0] -= 1
                    split[k][s, a] += 1
                    left = left - more
        place = tuple(np.concatenate([part.ravel() for part in split]).tolist())
        law[place] = law.get(place, 0.0) + chance
    return {place: chance for place, chance in law.items() if chance > 0}


@cache
def randomized():
    """The population, its policy by TABLES, its law, and 2000 draws from given counts."""
    population, _, plain = case((2, 2))
    policy = je.randomized_policy(population, TABLES, order=ORDER)
    rules = rules_of(population)
    law = split_law(rules, policy.law(rules))
    return plain, policy, rules, law, jax.jit(jax.vmap(policy.draw, (0, None)))


@pytest.mark.parametrize("states", [(0, 2, 0, 1), (0, 0, 0, 0), (1, 2, 1, 1)])
def test_law_equals_a_list_of_all_wants(states):
    """Split by split, and the draws of 2000 keys."""
    plain, policy, rules, law, draws = randomized()
    assert isinstance(policy, je.RandomizedPolicy)
    want = law_by_agents(plain, states, (2, 2))
    counts = [np.bincount(states[:2], minlength=3), np.bincount(states[2:], minlength=2)]
    m = int(counts_place(rules, np.concatenate(counts)))
    found = {
        tuple(split.tolist()): chance
        for split, chance in zip(law.splits[m], law.weights[m], strict=True)
        if chance > 0
    }
    assert found.keys() == want.keys()
    for split, chance in want.items():
        np.testing.assert_allclose(found[split], chance, atol=EXACT)
    drawn = draws(jax.random.split(jax.random.key(0), 2000), [jnp.asarray(n) for n in counts])
    flat = np.concatenate([np.asarray(part).reshape(2000, -1) for part in drawn], axis=1)
    for split, chance in want.items():
        share = (flat == np.array(split)).all(1).mean()
        assert abs(share - chance) <= STANDARD_ERRORS * np.sqrt(chance / 2000)


def test_its_chain_and_its_runs_agree():
    """Average reward: exact at four agents and simulated; below the optimum."""
    population, _, plain = case((2, 2))
    policy = je.randomized_policy(population, je.fluid_policy(population))
    chain = je.exchangeable_chain(population, policy)
    exact = average_of(chain, [r for _, r, _ in plain[0]])
    assert exact <= je.optimal_policy(population).upper + SOLVE
    run = je.simulate_population(jax.random.key(0), population, policy, num_steps=20_000)
    batches = np.asarray(run.reward).reshape(100, -1).mean(1)
    assert bool(run.kept)
    assert abs(batches.mean() - exact) <= STANDARD_ERRORS * batches.std() / 10


def test_a_budget_that_must_be_met_is_met():
    """What nobody wants is given away; the gap to the bound falls with N."""
    gaps = []
    for num_agents in (20, 2000):
        bandit = je.named_bandit("circulant", num_agents).bandit
        fluid = je.fluid_policy(bandit)
        policy = je.randomized_policy(bandit, fluid)
        # At 20 agents the gap is 0.003, with a standard error of 0.0006.
        run = je.simulate_population(jax.random.key(1), bandit, policy, num_steps=100_000)
        assert bool(run.kept)
        gaps.append((fluid.value - float(run.reward[100:].mean())) / num_agents)
    assert gaps[0] > 2 * gaps[1] > -0.02


def test_bad_tables_are_refused():
    population, _, _ = case((2, 2))
    with pytest.raises(ValueError, match=r"tables\[0\]: wanted shape \[3, 2\]"):
        je.randomized_policy(population, TABLES[::-1])
    with pytest.raises(ValueError, match="tables: wanted one for each of 2 types"):
        je.randomized_policy(population, TABLES[:1])
    with pytest.raises(ValueError, match=r"tables\[1\]"):
        je.randomized_policy(population, (TABLES[0], 2 * TABLES[1]))
