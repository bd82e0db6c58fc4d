"""The random policy against a list of all orders; the optimal Lagrange policy and what it is."""

import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.splits import counts_place, rules_of, split_law

from .test_population_chain import average_of, case
from .tolerances import EXACT, SOLVE, STANDARD_ERRORS


def law_of_orders(costs, limits, states, fill):
    """Law of the split of agents (type, state): all orders and wants, one agent after another.

    Action 0 is free; no cost is negative, so that what does not fit once never fits.
    """
    law = defaultdict(float)
    orders = list(itertools.permutations(range(len(states))))
    options = [range(costs[k].shape[1]) for k, _ in states]
    if fill:  # a second want of those that got nothing
        options += [range(1, costs[k].shape[1]) for k, _ in states]
    wants = list(itertools.product(*options))
    for order, want in itertools.product(orders, wants):
        done = [0] * len(states)
        left = np.array(limits, float)
        for turn in range(1 + fill):
            for i in order:
                k, s = states[i]
                a = want[turn * len(states) + i]
                if done[i] == 0 and (costs[k][s, a] <= left).all():
                    done[i] = a
                    left = left - costs[k][s, a]
        split = [np.zeros(d.shape[:2], int) for d in costs]
        for (k, s), a in zip(states, done, strict=True):
            split[k][s, a] += 1
        place = tuple(np.concatenate([part.ravel() for part in split]).tolist())
        law[place] += 1 / len(orders) / len(wants)
    return law


def found_law(population, states):
    """What the policy says of the configuration of these agents, and 3000 draws of it."""
    policy = je.random_policy(population)
    rules = rules_of(population)
    law = split_law(rules, policy.law(rules))
    counts = [np.zeros(S, int) for S, _ in rules.sizes]
    for k, s in states:
        counts[k][s] += 1
    m = int(counts_place(rules, np.concatenate(counts)))
    found = {
        tuple(split.tolist()): chance
        for split, chance in zip(law.splits[m], law.weights[m], strict=True)
        if chance > 0
    }
    draws = jax.jit(jax.vmap(policy.draw, (0, None)))
    drawn = draws(jax.random.split(jax.random.key(0), 3000), [jnp.asarray(n) for n in counts])
    return found, np.concatenate([np.asarray(part).reshape(3000, -1) for part in drawn], axis=1)


def same(found, drawn, want):
    assert found.keys() == want.keys()
    for split, chance in want.items():
        np.testing.assert_allclose(found[split], chance, atol=EXACT)
        share = (drawn == np.array(split)).all(1).mean()
        noise = np.sqrt(chance * (1 - chance) / len(drawn))
        assert abs(share - chance) <= STANDARD_ERRORS * noise + EXACT


@pytest.mark.parametrize("states", [((0, 0), (0, 2), (1, 0), (1, 1)), ((0, 0), (0, 0), (1, 1))])
def test_law_and_draws_equal_a_list_of_all_orders(states):
    """Two types, two budgets: every order of the agents and every want of each."""
    counts = tuple(sum(k == one for k, _ in states) for one in (0, 1))
    population, _, plain = case(counts)
    costs, limits = [d for _, _, d in plain[0]], [b for b, _ in plain[2]]
    found, drawn = found_law(population, states)
    same(found, drawn, law_of_orders(costs, limits, states, False))


def test_what_must_be_met_is_met_at_random():
    """Of a bandit any M of the N agents act; the law is that of drawing M without replacement."""
    bandit = je.circulant_bandit(5)._replace(budget=2)
    bandit = je.WeaklyCoupledPopulation.from_bandit(bandit)
    states = ((0, 0), (0, 0), (0, 1), (0, 3), (0, 3))
    found, drawn = found_law(bandit, states)
    costs = [np.broadcast_to([[[0.0], [1]]], (4, 2, 1))]
    want = law_of_orders(costs, [2], states, True)
    same(found, drawn, want)
    rules = rules_of(bandit)
    for split, chance in want.items():
        active = rules.pairs_by_type(np.array(split))[0][:, 1]
        ways = np.prod(
            [[1, n, n * (n - 1) / 2][y] for n, y in zip((2, 1, 0, 2), active, strict=True)]
        )
        np.testing.assert_allclose(chance, ways / 10, atol=EXACT)


def test_agents_of_all_types_are_alike():
    """Types that differ in their rewards alone get the same, whichever stands first."""
    P = np.random.default_rng(0).dirichlet(np.ones(2), (2, 2))
    costs = np.broadcast_to([[[0.0], [1]]], (2, 2, 1))
    kinds = [je.AgentType(je.MDP(P, np.full((2, 2), x)), costs) for x in (0.0, 1.0)]
    population = je.WeaklyCoupledPopulation(kinds, (2, 2), (1.0,), 0.9)
    policy = je.random_policy(population)
    assert isinstance(policy, je.RandomPolicy)
    chain = je.exchangeable_chain(population, policy)
    mu = je.stationary_distribution(chain)
    one, other = (je.marginal(chain, mu, agent=k) for k in (0, 1))
    np.testing.assert_allclose(one, other, atol=SOLVE)


def test_many_agents_are_drawn_at_once():
    """20,000 agents: budgets are kept, types get what their shares are, to 5 standard errors."""
    few, _, _ = case((1, 1))
    counts = (15_000, 5_000)
    population = je.WeaklyCoupledPopulation(few.types, counts, (4000.0, 4000.0), 0.8)
    run = je.simulate_population(
        jax.random.key(0), population, je.random_policy(population), num_steps=3
    )
    assert bool(run.kept)
    assert float(run.spent[:, 0].min()) == 4000
    # Until the first budget is spent an agent of type 0 acts with chance 1/2, of type 1 with 2/3.
    active = [np.asarray(part)[..., 1:].sum((1, 2)) for part in run.splits]
    share = active[0] / (active[0] + active[1])
    want = 15_000 / 2 / (15_000 / 2 + 5_000 * 2 / 3)
    assert np.abs(share - want).max() < STANDARD_ERRORS * np.sqrt(0.25 / 3000)


def test_the_optimal_lagrange_policy_is_randomized_activation_by_the_relaxation():
    """The same law in every configuration, of the average and of the discounted reward."""
    population, _, plain = case((2, 2))
    rules = rules_of(population)
    for start in (None, [np.array([1.0, 1, 0]), np.array([2.0, 0])]):
        policy = je.optimal_lagrange_policy(population, start=start)
        fluid = je.fluid_policy(population, start=start)
        want = je.randomized_policy(population, fluid)
        for one, other in zip(policy.law(rules), want.law(rules), strict=True):
            np.testing.assert_array_equal(one, other)
    policy = je.optimal_lagrange_policy(population)
    earned = average_of(je.exchangeable_chain(population, policy), [r for _, r, _ in plain[0]])
    assert earned <= je.optimal_policy(population).upper + SOLVE


def test_the_optimal_lagrange_policy_follows_the_index():
    """One budget: who is worth acting at the best price acts, in the order of what is gained."""
    bandit = je.named_bandit("machines", 10).bandit
    fluid = je.fluid_policy(bandit)
    policy = je.optimal_lagrange_policy(bandit)
    mixed = (fluid.policy[0] > SOLVE).all(1)
    assert mixed.sum() == 1
    gain = fluid.index[0][:, 1] - fluid.index[0][:, 0]
    sure = ~mixed
    np.testing.assert_array_equal(np.asarray(policy.tables[0])[sure, 1] > 0.5, gain[sure] > 0)


def test_bad_populations_are_refused():
    with pytest.raises(ValueError, match="population: int is neither"):
        je.random_policy(3)
    with pytest.raises(ValueError, match="population: int is neither"):
        je.optimal_lagrange_policy(3)
    with pytest.raises(ValueError, match="must be known here"):
        jax.jit(lambda b: je.optimal_lagrange_policy(b).tables)(je.circulant_bandit(5))
