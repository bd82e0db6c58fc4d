"""Simulation of populations on counts: against exact chains, with N traced, at a million agents."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from .test_population_chain import MOVES, average_of, case
from .tolerances import STANDARD_ERRORS

STEPS = 5000


def test_a_step_has_the_exact_law():
    """The law of the next counts from one configuration, cell by cell, on 4000 keys."""
    population, _, _ = case((2, 2))
    start = [np.array([1, 1, 0]), np.array([1, 1])]
    keys = jax.random.split(jax.random.key(0), 4000)
    one = partial(
        je.simulate_population, population=population, policy=MOVES, num_steps=1, start=start
    )
    run = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
    assert bool(run.kept.all())
    policy = je.priority_policy(population, MOVES)
    for k, (split, kind) in enumerate(zip(policy(start), population.types, strict=True)):
        np.testing.assert_array_equal(run.splits[k][0, 0], split)
        # Agents move on their own: means and second moments of the next counts.
        P = np.asarray(kind.mdp.transition)
        after = np.asarray(run.counts[k][:, 1])  # [keys, S]
        mean = np.einsum("sa,sat->t", split, P)
        second = np.outer(mean, mean) + np.diag(mean) - np.einsum("sa,sat,sau->tu", split, P, P)
        for sample, want in ((after, mean), (after[:, :, None] * after[:, None], second)):
            error = sample.std(0) / np.sqrt(len(keys))
            assert (np.abs(sample.mean(0) - want) <= STANDARD_ERRORS * error + 1e-12).all()


def test_its_average_is_that_of_the_exact_chain():
    """A long run of four agents against the stationary law, by batch means."""
    population, _, plain = case((2, 2))
    chain = je.exchangeable_chain(population, MOVES)
    want = average_of(chain, [r for _, r, _ in plain[0]])
    run = je.simulate_population(jax.random.key(1), population, MOVES, num_steps=20_000)
    batches = np.asarray(run.reward).reshape(100, -1).mean(1)
    assert bool(run.kept)
    assert abs(batches.mean() - want) <= STANDARD_ERRORS * batches.std() / 10


def test_what_a_run_says_of_itself():
    """Counts, splits, reward and what is spent belong together."""
    population, _, plain = case((2, 2))
    run = je.simulate_population(jax.random.key(2), population, MOVES, num_steps=STEPS)
    assert isinstance(run, je.PopulationTrajectory)
    reward, spent = np.zeros(STEPS), np.zeros((STEPS, 2))
    for counts, splits, n, (_, r, d) in zip(run.counts, run.splits, (2, 2), plain[0], strict=True):
        np.testing.assert_array_equal(counts.sum(1), n)
        np.testing.assert_array_equal(splits.sum(2), counts[:-1])
        reward += np.einsum("tsa,sa->t", splits, r)
        spent += np.einsum("tsa,sak->tk", splits, d)
    np.testing.assert_allclose(run.reward, reward)
    np.testing.assert_allclose(run.spent, spent)
    np.testing.assert_array_equal(run.counts[0][0], [1, 1, 0])
    again = je.simulate_population(jax.random.key(2), population, MOVES, num_steps=STEPS)
    np.testing.assert_array_equal(again.counts[0], run.counts[0])


def everyone(counts):
    """A third of each state of two actions acts, rounded down."""
    return tuple(jnp.stack([n - n // 3, n // 3], axis=1) for n in counts)


def test_one_compilation_serves_a_sweep_over_n():
    """A policy that is a function: numbers of agents and limits may be traced."""
    P = np.random.default_rng(0).dirichlet(np.ones(4), (4, 2))
    costs = np.zeros((4, 2, 1))
    costs[:, 1] = 1

    @jax.jit
    def spent(n):
        kind = je.AgentType(je.MDP(P, np.zeros((4, 2))), costs)
        budget = je.Budget(1 / 3, per_agent=True)
        population = je.WeaklyCoupledPopulation((kind,), (n,), (budget,), 0.9)
        run = je.simulate_population(jax.random.key(0), population, everyone, num_steps=3)
        return run.counts[0].sum(1), run.kept

    for n in (7, 1000, 10**6):
        agents, kept = spent(n)
        np.testing.assert_array_equal(agents, n)
        assert bool(kept)
    assert spent._cache_size() == 1


def test_a_broken_budget_is_said():
    """Inside a run a flag says so; budgets that must be met count as well."""
    bandit = je.circulant_bandit(10)
    kept = je.simulate_population(
        jax.random.key(0), bandit, je.lagrange_index(bandit), num_steps=4
    ).kept
    assert bool(kept)

    def by_state(counts):
        """All act, nobody acts, or agents are doubled, by the state in which all are; else 0.2."""
        (n,) = counts
        passive, active = jnp.array([[0, 1, 1], [1, 0, 1]])
        last = jnp.stack([n - n // 5, n // 5], axis=1)
        kinds = jnp.stack([jnp.stack([p * n, a * n], axis=1) for p, a in zip(passive, active)])
        return (jnp.concatenate([kinds, last[None]])[n.argmax()],)

    for state in range(4):
        start = [np.bincount([state], [10], 4)]
        run = je.simulate_population(jax.random.key(0), bandit, by_state, num_steps=1, start=start)
        assert bool(run.kept) == (state == 3)


def test_a_million_agents_of_three_types():
    """The gap to the fluid bound of its own priority is small; in float32 as well."""
    rng = np.random.default_rng(0)
    types = []
    for _ in range(3):
        d = np.zeros((6, 3, 2))
        d[:, 1, 0], d[:, 2] = 1, (1, 2)
        P, r = rng.dirichlet(np.ones(6), (6, 3)), rng.random((6, 3))
        types.append(je.AgentType(je.MDP(P.astype(np.float32), r.astype(np.float32)), d))
    budgets = (je.Budget(0.3, per_agent=True), je.Budget(0.2, per_agent=True))
    population = je.WeaklyCoupledPopulation(types, (300_000, 300_000, 400_000), budgets, 0.9)
    fluid = je.fluid_policy(population)
    run = je.simulate_population(jax.random.key(0), population, fluid, num_steps=40)
    assert bool(run.kept)
    assert run.reward.dtype == jnp.float32
    average = float(run.reward[20:].mean())
    assert 0.95 * fluid.value < average < 1.001 * fluid.value


def test_bad_starts_are_refused():
    population, _, _ = case((2, 2))
    for start, match in (
        ([[1, 1, 0]], "start: wanted agents per state of each of 2 types"),
        ([[1, 1, 0], [1, 0]], r"start\[1\]: .* sum to counts\[1\] = 2"),
        ([[1, 1], [1, 1]], r"start\[0\]: wanted shape \[3\]"),
    ):
        with pytest.raises(ValueError, match=match):
            je.simulate_population(jax.random.key(0), population, MOVES, num_steps=1, start=start)
    with pytest.raises(ValueError, match="num_steps"):
        je.simulate_population(jax.random.key(0), population, MOVES, num_steps=0)


def test_a_bandit_that_is_known_stays_so_in_a_trace():
    """What fixes who may act is read where a run is traced; the run is the same."""
    bandit = je.circulant_bandit(20)
    moves = je.lagrange_index(bandit)

    def reward(key):
        return je.simulate_population(key, bandit, moves, num_steps=20).reward

    key = jax.random.key(5)
    np.testing.assert_array_equal(jax.jit(reward)(key), reward(key))


@pytest.mark.parametrize("wrong", [None, 3, "whittle"])
def test_what_is_no_policy_is_named(wrong):
    """One line for every function that takes a policy of a population."""
    population, _, _ = case((2, 2))
    key, match = jax.random.key(0), rf"^order: {type(wrong).__name__} is no list of moves"
    for call in (
        lambda: je.simulate_population(key, population, wrong, num_steps=3),
        lambda: je.optimality_gap(key, population, wrong, num_steps=20),
        lambda: je.population_error(key, population, wrong),
        lambda: je.exchangeable_chain(population, wrong),
        lambda: je.exact_gap(population, wrong),
        lambda: je.mean_field(population, wrong),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(ValueError, match=r"^fluid: str is not a FluidPolicy"):
        je.optimality_gap(key, population, MOVES, num_steps=20, fluid="best")
    for make in (je.id_policy, je.virtual_advice_policy):
        with pytest.raises(ValueError, match=r"^tables: wanted a FluidPolicy, or one table"):
            make(population, wrong)
