"""Policies with a memory: against exact chains, plain NumPy agent by agent, and the bound."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.in_turn import agents_of, drawn

from . import oracles_agents as oracles
from .oracles_population import random_population
from .test_population import population_of
from .tolerances import SOLVE, STANDARD_ERRORS

MAKERS = {
    "id": je.id_policy,
    "virtual": je.virtual_advice_policy,
    "two_set": je.two_set_policy,
}


def batch_means(rewards, batches=20):
    """Mean and standard error of a run without its first tenth, or of several."""
    runs = np.atleast_2d(np.asarray(rewards))
    runs = runs[:, runs.shape[1] // 10 :]
    size = runs.shape[1] // batches
    means = runs[:, : size * batches].reshape(-1, size).mean(1)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


def agree(ours, theirs):
    (a, da), (b, db) = ours, theirs
    assert abs(a - b) <= STANDARD_ERRORS * np.hypot(da, db)


def simulated(population, policy, num_steps, seed=0):
    """Rewards of one run, all budgets kept."""
    run = je.simulate_population(jax.random.key(seed), population, policy, num_steps=num_steps)
    assert bool(run.kept)
    return np.asarray(run.reward)


@cache
def two_types(equality=(), counts=(3, 2), seed=4):
    """Two types, S = 3 and 2, A = 2 and 3, two budgets; costs rise with the action."""
    sizes = ((3, 2), (2, 3))
    types, counts, _, discount = random_population(seed, sizes, counts, 2)
    uses = (np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0], [2, 1]]))
    types = [
        (P, r, np.broadcast_to(d.astype(float), (*r.shape, 2)))
        for (P, r, _), d in zip(types, uses, strict=True)
    ]
    budgets = [(3.0, 0 in equality), (2.0, False)]
    kinds = [k for k, n in enumerate(counts) for _ in range(n)]
    rng = np.random.default_rng(seed)
    tables = [rng.dirichlet(np.ones(A), S) for S, A in sizes]
    population = population_of(types, counts, budgets, discount)
    limits = np.array([b for b, _ in budgets])
    exact = tuple(e for _, e in budgets)
    return population, oracles.Case(types, kinds, limits, exact, tables)


def bandit_of(name, number):
    """A bandit, its relaxation, and the same for the oracle."""
    bandit = je.named_bandit(name, number).bandit
    fluid = je.fluid_policy(bandit)
    parts = (np.asarray(x) for x in (bandit.passive, bandit.active, bandit.reward))
    case = oracles.bandit_case(*parts, number, int(bandit.budget), fluid.policy[0])
    return bandit, fluid, case


@pytest.mark.parametrize("equality", [(), (0,)])
def test_served_one_after_another(equality):
    """Who is given what, against a loop over agents, for 200 states, wants and orders."""
    population, case = two_types(equality, (6, 5))
    agents = agents_of(population)
    case = case._replace(kinds=[0] * 6 + [1] * 5)
    given = jax.jit(agents.given)
    rng = np.random.default_rng(0)
    for _ in range(200):
        states = np.array([rng.integers(len(case.types[k][1])) for k in case.kinds])
        wanted = np.array([rng.integers(case.types[k][1].shape[1]) for k in case.kinds])
        order = rng.permutation(11)
        found = given(states.astype(np.int32), wanted.astype(np.int32), order)
        np.testing.assert_array_equal(
            found, oracles.serve(case, states, wanted, order, order[::-1])
        )


def test_impossible_outcomes_are_not_drawn():
    """Laws with zeros whose sums round, at the ends of the unit interval."""
    rows = np.array([[0.0, 0.1, 0.0, 0.9, 0.0], [0.3, 0.7 - 1e-16, 0.0, 0.0, 0.0]])
    for u, want in ((0.0, [1, 0]), (1 - 2**-53, [3, 1]), (0.1, [3, 0])):
        np.testing.assert_array_equal(drawn(jnp.full(2, u), jnp.asarray(rows)), want)


def test_the_exact_chain_of_the_id_policy():
    """Three agents of two types and an order: the joint chain by dense NumPy."""
    population, case = two_types(counts=(2, 1))
    case = case._replace(limits=np.array([1.0, 1.0]), kinds=[0, 0, 1])
    budgets = [je.Budget(1.0), je.Budget(1.0)]
    population = je.WeaklyCoupledPopulation(population.types, (2, 1), budgets, 0.9)
    order = [2, 0, 1]
    P, r = oracles.id_chain(case, order)
    np.testing.assert_allclose(P.sum(1), 1, atol=SOLVE)
    policy = je.id_policy(population, case.tables, order=order)
    mean, error = batch_means(simulated(population, policy, 40_000), 40)
    assert abs(mean - oracles.average(P, r)) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("name", ["healthcare", "two_types"])
def test_the_exact_chain_of_virtual_advice(name):
    """Two agents and their virtual states, ties by all orders; a budget met and two limits."""
    if name == "healthcare":
        bandit = je.named_bandit(name, 5).bandit
        parts = (np.asarray(x) for x in (bandit.passive, bandit.active, bandit.reward))
        table = np.array([[0.4, 0.6], [0.7, 0.3]])
        case = oracles.bandit_case(*parts, 2, 1, table)
        population = je.RestlessBandit(bandit.passive, bandit.active, bandit.reward, 2, 1, 0.9)
    else:
        _, case = two_types()
        types = [case.types[1]] * 2
        case = case._replace(types=types, kinds=[0, 1], tables=[case.tables[1]] * 2)
        case = case._replace(limits=np.array([2.0, 1.0]))
        population = population_of(types, (1, 1), [(2.0, False), (1.0, False)], 0.9)
    P, r = oracles.virtual_chain(case)
    np.testing.assert_allclose(P.sum(1), 1, atol=SOLVE)
    policy = je.virtual_advice_policy(population, case.tables)
    mean, error = batch_means(simulated(population, policy, 40_000), 40)
    assert abs(mean - oracles.average(P, r)) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("name", ["dirichlet", "circulant"])
@pytest.mark.parametrize("policy", ["id", "virtual"])
def test_bandits_against_plain_numpy(policy, name):
    """Averages of 20 arms."""
    bandit, fluid, case = bandit_of(name, 20)
    if policy == "id":
        made = je.id_policy(bandit, fluid, order=range(20))
        theirs = oracles.run_id(case, list(range(20)), 3000, 0)
    else:
        made = je.virtual_advice_policy(bandit, fluid)
        theirs = oracles.run_virtual(case, 3000, 0)
    agree(batch_means(simulated(bandit, made, 20_000)), batch_means(theirs))


@pytest.mark.parametrize("equality", [(), (0,)])
@pytest.mark.parametrize("policy", ["id", "virtual"])
def test_several_types_and_budgets_against_plain_numpy(policy, equality):
    """Averages of two types with three actions, one budget that must be met or none."""
    population, case = two_types(equality, (6, 5))
    order = list(range(10, -1, -1))
    if policy == "id":
        made = je.id_policy(population, case.tables, order=order)
        theirs = oracles.run_id(case, order, 4000, 0)
    else:
        made = je.virtual_advice_policy(population, case.tables)
        theirs = oracles.run_virtual(case, 4000, 0)
    run = je.simulate_population(jax.random.key(0), population, made, num_steps=20_000)
    agree(batch_means(run.reward), batch_means(theirs))
    for n, counts, splits in zip((6, 5), run.counts, run.splits, strict=True):
        np.testing.assert_array_equal(counts.sum(1), n)
        np.testing.assert_array_equal(splits.sum(2), counts[:-1])


@pytest.mark.parametrize(("name", "number"), [("dirichlet", 60), ("circulant", 100)])
def test_two_sets_against_plain_numpy(name, number):
    """Averages, and norm and reach by other means."""
    bandit, fluid, case = bandit_of(name, number)
    policy = je.two_set_policy(bandit, fluid)
    assert policy.stable
    known = oracles.two_sets(case, fluid.occupancy[0] / number)
    np.testing.assert_allclose(policy.norm, known.norm, rtol=1e-6)
    np.testing.assert_allclose(policy.reach, known.reach, rtol=1e-5)
    np.testing.assert_allclose(policy.margin, known.margin, rtol=1e-6)
    rewards, sizes = oracles.run_two_sets(case, known, 1000, 0)
    agree(batch_means(simulated(bandit, policy, 10_000)), batch_means(rewards))
    first, full = _first_sets(bandit, policy, 1000)
    assert full == pytest.approx((sizes == number).mean(), abs=0.1)
    assert first == pytest.approx(sizes.mean() / number, abs=0.1)


def _first_sets(bandit, policy, steps):
    """Mean share of the first set, and how often it is all, in a run of the process itself."""
    from jaxent.restless.agents_process import agents_process

    population = je.WeaklyCoupledPopulation.from_bandit(bandit)
    number = int(bandit.num_agents)
    process = agents_process(population, policy, (number,))

    def step(state, key):
        _, acted = process.act(key, state)
        return process.move(jax.random.fold_in(key, 1), acted), acted[2][0].sum()

    begin = process.begin(jax.random.key(0), jnp.zeros(number, jnp.int32))
    _, sizes = jax.lax.scan(step, begin, jax.random.split(jax.random.key(1), steps))
    return float(sizes.mean()) / number, float((sizes == number).mean())
