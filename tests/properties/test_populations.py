"""Properties of populations of several types: relaxations, indices, exact chains and optima."""

import jax
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import by_precision

from .strategies import discounts, few, holds, kinds, laws, numbers, scales, seeds

NEAR = by_precision(1e-7, 1e-5)  # of a program whose kernels are held so

# (S, A) of each type
SIZES = (((2, 2),), ((3, 2), (2, 3)), ((1, 2), (2, 1)))
sizes = st.sampled_from(SIZES)


def population_of(rng, kind, shapes, num_budgets, discount, scale=1.0, most=3):
    """Action 0 is free, so that every limit can be kept."""
    types = []
    for S, A in shapes:
        costs = rng.integers(0, 3, (S, A, num_budgets)).astype(float)
        costs[:, 0] = 0
        mdp = je.MDP(laws(rng, kind, S, A, S), numbers(rng, scale, S, A))
        types.append(je.AgentType(mdp, costs))
    counts = tuple(int(rng.integers(1, most + 1)) for _ in shapes)
    budgets = [je.Budget(float(rng.integers(0, 2 * sum(counts)))) for _ in range(num_budgets)]
    return je.WeaklyCoupledPopulation(types, counts, budgets, discount)


@holds(seed=seeds, kind=kinds, shapes=sizes, discount=discounts, scale=scales)
def test_relaxations(seed, kind, shapes, discount, scale):
    """Laws that keep the budgets, multipliers that prove the value, more budget is worth more."""
    rng = np.random.default_rng(seed)
    population = population_of(rng, kind, shapes, 2, discount, scale)
    start = [
        n * rng.dirichlet(np.ones(S)) for n, (S, _) in zip(population.counts, shapes, strict=True)
    ]
    size = scale * population.num_agents
    for where, factor in ((None, 1), (start, 1 / (1 - discount))):
        found = je.fluid_policy(population, start=where)
        noise = NEAR * (size * factor + 1e-300)
        bound = je.lagrangian_bound(population, found.prices, start=where)
        assert abs(bound - found.value) <= noise
        assert (found.spent <= np.array(population.limits) + NEAR).all()
        for y, n, index, rows in zip(
            found.occupancy, population.counts, found.index, found.policy, strict=True
        ):
            assert (y >= 0).all()
            assert abs(y.sum() - n) <= NEAR * n
            assert (index <= 0).all()
            np.testing.assert_allclose(rows.sum(1), 1)
        more = [je.Budget(b + 1) for b in population.limits]
        richer = je.WeaklyCoupledPopulation(population.types, population.counts, more, discount)
        assert je.fluid_policy(richer, start=where).value >= found.value - noise


@holds(0.5, seed=seeds, kind=kinds, shapes=few(*SIZES), discount=discounts, scale=scales)
def test_exact_answers(seed, kind, shapes, discount, scale):
    """Rows are laws, all agents are there; the optimum is above a priority, below the bound."""
    rng = np.random.default_rng(seed)
    population = population_of(rng, kind, shapes, 1, min(discount, 0.999), scale, most=2)
    moves = [(k, s, a) for k, (S, A) in enumerate(shapes) for s in range(S) for a in range(1, A)]
    order = [moves[i] for i in rng.permutation(len(moves))]
    policy = je.priority_policy(population, order)
    chain = je.exchangeable_chain(population, policy)
    assert chain.num_alike == population.counts
    assert bool(chain.stochastic())
    ones = [np.ones(S * A) for S, A in shapes]
    np.testing.assert_allclose(chain.lift(ones), population.num_agents)
    start = [
        rng.multinomial(n, np.ones(S) / S)
        for n, (S, _) in zip(population.counts, shapes, strict=True)
    ]
    best = je.optimal_policy(population, start=start)
    assert best.lower <= best.value <= best.upper
    rewards = [kind.mdp.reward for kind in population.types]
    Q = je.q_values(chain, rewards, discount=population.discount)
    values = np.asarray(chain.policy.mv(Q))
    noise = by_precision(1e-9, 1e-5) * scale * population.num_agents / (1 - population.discount)
    assert values.max() <= best.values.max() + noise
    assert best.value <= je.fluid_policy(population, start=start).value + 100 * noise
    assert je.exact_gap(population, policy, start=start) >= -100 * noise


@holds(seed=seeds, kind=kinds, shapes=sizes, discount=discounts, scale=scales)
def test_indices(seed, kind, shapes, discount, scale):
    """An action that uses more is worth less; moves go up in each state, by falling index."""
    population = population_of(np.random.default_rng(seed), kind, shapes, 1, discount, scale)
    found = je.lagrange_index(population)
    if not found.indexable:
        assert found.place[0] >= 0
        assert np.isfinite(found.price)
        return
    for kind_, index in zip(population.types, found.index, strict=True):
        costs = np.asarray(kind_.costs)[..., 0]
        assert not np.isnan(index).any()
        for row, cost in zip(index, costs, strict=True):
            row = row[np.argsort(cost, kind="stable")]
            assert (row[1:] <= row[:-1]).all()
        assert (np.isposinf(index) == (costs == costs.min(1, keepdims=True))).all()
    moves = found.priority
    worth = [found.index[k][s, a] for k, s, a in moves]
    assert worth == sorted(worth, reverse=True)


@holds(0.5, seed=seeds, kind=kinds, discount=discounts)
def test_simulation(seed, kind, discount):
    """Nobody is lost, every budget is kept, whatever the kernel and the order."""
    rng = np.random.default_rng(seed)
    population = population_of(rng, kind, SIZES[1], 2, discount, most=50)
    moves = [(0, s, 1) for s in range(3)] + [(1, s, a) for s in range(2) for a in (2, 1)]
    order = [moves[i] for i in rng.permutation(len(moves))]
    tables = [laws(rng, kind, S, A) for S, A in SIZES[1]]
    for policy in (order, je.randomized_policy(population, tables, order=order[:3])):
        run = je.simulate_population(jax.random.key(seed), population, policy, num_steps=6)
        assert bool(run.kept)
    gap = je.optimality_gap(jax.random.key(seed), population, order, num_steps=6, num_runs=2)
    assert bool(gap.kept)
    assert gap.gap >= -1e-7 * population.num_agents
    error = je.population_error(
        jax.random.key(seed), population, order, num_pairs=16, num_runs=16, horizon=4
    )
    assert error.error >= 0
    assert (np.asarray(error.entanglement) >= 0).all()
    assert all(np.isfinite(q).all() for q in error.q_local)
    for counts, splits, n in zip(run.counts, run.splits, population.counts, strict=True):
        assert (np.asarray(counts).sum(1) == n).all()
        assert (np.asarray(splits).sum(2) == np.asarray(counts)[:-1]).all()
        assert np.asarray(splits).min() >= 0


@holds(0.5, seed=seeds, kind=kinds, shapes=few(*SIZES), discount=discounts)
def test_mean_field(seed, kind, shapes, discount):
    """Shares that stay, a split of them within the budgets, a reward below the bound."""
    rng = np.random.default_rng(seed)
    population = population_of(rng, kind, shapes, 2, min(discount, 0.999), most=30)
    moves = [(k, s, a) for k, (S, A) in enumerate(shapes) for s in range(S) for a in range(1, A)]
    order = [moves[i] for i in rng.permutation(len(moves))]
    field = je.mean_field(population, order)
    if not field.converged:
        assert np.isnan(field.average_reward)
        return
    assert field.gap >= -1e-7
    spent, both = 0.0, zip(field.configuration, field.policy, strict=True)
    total = population.num_agents
    for (m, policy), one, n in zip(both, population.types, population.counts, strict=True):
        y = np.asarray(m)[:, None] * np.asarray(policy)
        np.testing.assert_allclose(y.sum(), n / total)
        np.testing.assert_allclose(np.einsum("sa,sat->t", y, one.mdp.transition), m, atol=1e-9)
        assert y.min() >= -1e-9
        spent = spent + np.einsum("sa,sak->k", y, one.costs)
    assert (spent <= np.array(population.limits) / total + by_precision(1e-9, 1e-6)).all()
    if np.isfinite(field.mu_error_limit):
        assert field.spectral_radius < 1
        np.testing.assert_allclose(field.covariance, np.transpose(field.covariance), atol=1e-7)


@holds(0.5, seed=seeds, kind=kinds, discount=discounts)
def test_policies_that_remember(seed, kind, discount):
    """Budgets are kept and nobody is lost, whatever the kernel and the tables."""
    rng = np.random.default_rng(seed)
    population = population_of(rng, kind, SIZES[1], 2, discount, most=30)
    tables = [laws(rng, kind, S, A) for S, A in SIZES[1]]
    for make in (je.id_policy, je.virtual_advice_policy):
        policy = make(population, tables)
        assert isinstance(policy, je.AgentsPolicy)
        run = je.simulate_population(jax.random.key(seed), population, policy, num_steps=6)
        assert bool(run.kept)
        for counts, splits, n in zip(run.counts, run.splits, population.counts, strict=True):
            assert (np.asarray(counts).sum(1) == n).all()
            assert (np.asarray(splits).sum(2) == np.asarray(counts)[:-1]).all()
            assert np.asarray(splits).min() >= 0


@holds(0.5, seed=seeds, kind=kinds, number=st.sampled_from((1, 2, 9, 40)))
def test_a_budget_that_must_be_spent(seed, kind, number):
    """With costs 0 and 1 it is spent exactly by every policy, from 0 to all arms."""
    rng = np.random.default_rng(seed)
    P = laws(rng, kind, 3, 2, 3)
    budget = int(rng.integers(0, number + 1))
    bandit = je.RestlessBandit(P[:, 0], P[:, 1], numbers(rng, 1.0, 3, 2), number, budget, 0.9)
    if budget == 0:
        return
    fluid = je.fluid_policy(bandit)
    for make in (je.id_policy, je.virtual_advice_policy, je.two_set_policy):
        run = je.simulate_population(jax.random.key(seed), bandit, make(bandit, fluid), num_steps=6)
        assert bool(run.kept)
        assert (np.asarray(run.spent) == budget).all()


@holds(seed=seeds, kind=kinds, scale=scales, number=st.sampled_from((1, 5, 12)))
def test_arms_that_differ(seed, kind, scale, number):
    """The bound is above its law, the law keeps the budgets, and runs keep them too."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 3, (number, 3, 2, 2)).astype(float)
    costs[:, :, 0] = 0
    P, reward = laws(rng, kind, number, 3, 2, 3), numbers(rng, scale, number, 3, 2)
    budgets = [float(rng.integers(0, 2 * number + 1)) for _ in range(2)]
    arms = je.HeterogeneousArms(P, reward, costs, budgets)
    found = je.arms_relaxation(arms)
    size = np.abs(reward).max((1, 2)).sum()
    assert found.gap >= -by_precision(1e-9, 1e-6) * size
    assert (found.occupancy >= 0).all()
    np.testing.assert_allclose(found.occupancy.sum((1, 2)), 1)
    assert (found.spent <= np.array(budgets) + 1e-6 * number).all()
    fluid = je.fluid_policy(arms.population(0.9))
    assert found.upper >= fluid.value - NEAR * size
    for policy in (je.arms_priority(arms, found), je.id_policy(arms, found)):
        assert bool(je.simulate_arms(jax.random.key(seed), arms, policy, num_steps=5).kept)


@holds(0.5, num=st.integers(1, 40))
def test_named_populations(num):
    """Every named population is one, at every number of agents that it takes."""
    for name in sorted(je.POPULATIONS):
        try:
            found = je.named_population(name, num)
        except ValueError as error:
            assert "num_agents" in str(error)  # noqa: PT017
            continue
        found.check()
        assert found.num_agents == num
        assert all(float(limit).is_integer() for limit in found.limits)
