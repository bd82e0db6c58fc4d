"""Properties of restless bandits: exact chains, mean fields, simulation, indices, soft policies."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je

from .. import oracles_restless
from .strategies import (
    discounts,
    dtypes,
    eps,
    few,
    finite,
    holds,
    kinds,
    laws,
    numbers,
    scales,
    seeds,
)

# (S, N)
TEAMS = ((3, 3), (1, 2), (2, 1), (2, 4))
colds = st.sampled_from([1e-300, 1e-3, 0.3, 50.0])
portions = st.floats(0, 1)


def bandit_of(rng, kind, team, share, discount=0.9, scale=1.0, dtype=np.float64):
    num_states, num_agents = team
    passive, active = (laws(rng, kind, num_states, num_states, dtype=dtype) for _ in range(2))
    reward = numbers(rng, scale, num_states, 2, dtype=dtype)
    budget = round(share * num_agents)
    return je.RestlessBandit(passive, active, reward, num_agents, budget, dtype(discount))


def looks_exact(found, bandit, dtype):
    """What every exact answer of a team satisfies, or NaN and the flag."""
    N, M = bandit.num_agents, bandit.budget
    found = jax.tree.map(np.asarray, found)
    assert found.error.dtype == found.law.dtype == dtype
    if not found.converged:
        assert np.isnan(found.law).all()
        assert np.isnan(found.mu_error)
        return None
    assert finite(found)
    noise = 1e4 * eps(dtype)
    rate = 1 / (1 - float(bandit.discount))
    largest = float(np.abs(bandit.reward).max())
    size = N * largest * rate
    occupancy = found.occupancy.reshape(-1)
    np.testing.assert_allclose(found.law.sum(), 1, atol=noise)
    assert (found.law >= 0).all()
    np.testing.assert_allclose(occupancy.sum(), 1, atol=noise)
    np.testing.assert_allclose(N * found.occupancy[:, 1].sum(), M, atol=N * noise)
    np.testing.assert_allclose(found.local_transition.sum(1), 1, atol=noise)
    np.testing.assert_allclose(occupancy @ found.local_transition, occupancy, atol=noise)
    np.testing.assert_allclose(
        N * occupancy @ bandit.reward.reshape(-1), found.average_reward, atol=noise * N * largest
    )
    if found.error.ndim == 1:  # a soft policy has an error for each rounding
        # Both mean values are the average reward over 1 - discount.
        np.testing.assert_allclose(found.law @ found.error, 0, atol=noise * size)
        mean = found.law @ np.abs(found.error)
        np.testing.assert_allclose(mean, found.mu_error, atol=noise * size)
    assert -noise <= found.entanglement <= 0.5 + noise
    assert (
        found.mu_error
        <= 4 * N * float(bandit.discount) * rate**2 * largest * found.entanglement
        + noise * size * rate
    )
    assert found.relative_error >= 0
    return found


@pytest.mark.slow
@holds(
    2,
    seed=seeds,
    kind=kinds,
    team=few(*TEAMS),
    share=portions,
    discount=discounts,
    scale=scales,
    dtype=dtypes,
)
def test_ground_truth(seed, kind, team, share, discount, scale, dtype):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share, discount, scale, dtype)
    priority = rng.permutation(team[0])
    found = looks_exact(je.ground_truth(bandit, priority), bandit, dtype)
    if found is not None and dtype == np.float64:
        best = je.fluid_priority(bandit)
        mean = found.average_reward / bandit.num_agents
        assert mean <= best.value + 1e-7 * max(1, scale)
        np.testing.assert_allclose(best.occupancy.sum(), 1, atol=1e-7)
        assert sorted(best.priority) == list(range(team[0]))


@cache
def two_ways(team, budget):
    num_states, num_agents = team
    order = tuple(range(num_states))

    @jax.jit
    def solve(passive, active, reward, discount, policy):
        bandit = je.RestlessBandit(passive, active, reward, num_agents, budget, discount)
        hard = je.exchangeable_chain(bandit, order)
        soft = je.soft_exchangeable_chain(bandit, policy)
        truths = je.ground_truth(bandit, order), je.soft_ground_truth(bandit, policy)
        rows = []
        for chain, truth in zip((hard, soft), truths):
            law = je.solve_law(chain)
            rows.append(
                (
                    law,
                    truth,
                    je.decompose(chain, (reward,), discount=discount),
                    je.local_transition(chain, law.value, agent=0),
                    je.marginal(chain, law.value, agent=0),
                    chain.stochastic(),
                )
            )
        return rows

    return solve


@pytest.mark.slow
@holds(
    seed=seeds,
    kind=kinds,
    team=few((2, 3), (3, 3), (1, 2), (2, 1)),
    budget=few(1, 0, 3),
    discount=discounts,
    cold=colds,
)
def test_tagged_chains_and_counts_agree(seed, kind, team, budget, discount, cold):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, 0, discount)
    budget = min(budget, team[1])
    bandit = bandit._replace(budget=budget)
    policy = je.SoftIndex(numbers(rng, 1, team[0]), cold)
    solve = two_ways(team, budget)
    for row in solve(*bandit[:3], discount, policy):
        law, truth, found, local, occupancy, good = jax.tree.map(np.asarray, row)
        assert good
        looks_exact(truth, bandit, np.float64)
        if not (law.converged and truth.converged):
            continue
        size = team[1] * np.abs(bandit.reward).max() / (1 - discount)
        np.testing.assert_allclose(local, truth.local_transition, atol=1e-9)
        np.testing.assert_allclose(occupancy, truth.occupancy.reshape(-1), atol=1e-11)
        np.testing.assert_allclose(found.mu @ np.abs(found.error), truth.mu_error, atol=1e-9 * size)
        np.testing.assert_allclose(
            np.ravel(found.q_local[0]), truth.q_local.reshape(-1), atol=1e-9 * size
        )


@pytest.mark.slow
@holds(0.3, seed=seeds, kind=kinds, team=few((2, 3), (3, 2), (1, 2)), share=portions)
def test_tagged_measures_are_ordered(seed, kind, team, share):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share)
    priority = rng.permutation(team[0])
    truth = je.ground_truth(bandit, priority)
    if not truth.converged:
        return
    found = je.tagged_entanglement(bandit, priority, truth.law)
    assert isinstance(found, je.TaggedEntanglement)
    assert finite(found)
    for e in found:
        assert -1e-10 <= e.upper - e.lower <= 2e-6
    assert found.mu_atv.lower <= found.mu_atv_upper.upper + 1e-10
    assert found.mu_atv_upper.lower <= truth.entanglement + 1e-10


@pytest.mark.slow
@holds(
    2,
    seed=seeds,
    kind=kinds,
    team=few(*TEAMS),
    share=portions,
    discount=discounts,
    scale=scales,
    dtype=dtypes,
)
def test_mean_field(seed, kind, team, share, discount, scale, dtype):
    """A fixed point on the simplex with a covariance, or NaN and a flag that says why."""
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share, discount, scale, dtype)
    priority = rng.permutation(team[0])
    field = jax.tree.map(np.asarray, je.mean_field(bandit, priority))
    assert isinstance(field, je.MeanField)
    m = field.configuration
    assert m.dtype == field.covariance.dtype == dtype
    noise = 1e5 * eps(dtype)
    if np.isnan(m).any():
        assert not field.unique
        assert np.isnan(field.mu_error_limit)
        return
    np.testing.assert_allclose(field.policy.sum(1), 1, atol=noise)
    if not field.unique:
        assert np.isnan(field.covariance).all()
        return
    np.testing.assert_allclose(m.sum(), 1, atol=noise)
    assert (m >= 0).all()
    if kind == "dense":
        after = je.mean_field_step(bandit, priority, jnp.asarray(m))
        np.testing.assert_allclose(after, m, atol=noise)
    limits = (
        field.entanglement_limit,
        field.mu_atv_limit,
        field.mu_error_limit,
        field.relative_error_limit,
    )
    if not np.isnan(field.covariance).all():
        assert field.nondegenerate
        assert field.spectral_radius < 1
        sigma = field.covariance
        np.testing.assert_allclose(sigma, sigma.T, atol=noise * (1 + np.abs(sigma).max()))
        assert np.linalg.eigvalsh(sigma).min() >= -noise * (1 + np.abs(sigma).max())
        assert all(x >= 0 for x in limits)
    else:
        assert not field.nondegenerate or field.spectral_radius > 1 - noise
        assert np.isnan(limits[0])
        assert np.isnan(field.clearance)


@pytest.mark.slow
@holds(
    seed=seeds,
    kind=kinds,
    team=few((3, 3), (1, 2), (2, 4)),
    share=portions,
    discount=discounts,
    scale=scales,
    cold=colds,
    dtype=dtypes,
)
def test_soft_mean_field(seed, kind, team, share, discount, scale, cold, dtype):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share, discount, scale, dtype)
    policy = je.SoftIndex(numbers(rng, 1, team[0], dtype=dtype), dtype(max(cold, 1e-30)))
    field = jax.tree.map(np.asarray, je.soft_mean_field(bandit, policy))
    assert isinstance(field, je.SoftMeanField)
    assert field.configuration.dtype == dtype
    if not field.converged:
        assert np.isnan(field.configuration).all()
        assert np.isnan(field.mu_error_limit)
        return
    noise = 1e5 * eps(dtype)
    m = field.configuration
    np.testing.assert_allclose(m.sum(), 1, atol=noise)
    assert m.min() >= -noise
    chances = field.policy[:, 1]
    np.testing.assert_allclose(m @ chances, bandit.budget / bandit.num_agents, atol=noise)
    groups = np.stack([m * (1 - chances), m * chances], 1)
    kernel = np.stack([bandit.passive, bandit.active], 1)
    np.testing.assert_allclose(np.einsum("sa,sat->t", groups, kernel), m, atol=noise)
    assert field.entanglement_limit >= 0
    assert field.mu_error_limit >= 0


@cache
def softened(num_states):
    @jax.jit
    def look(index, temperature, counts, budget, key):
        policy = je.SoftIndex(index, temperature)
        listed = policy.roundings(counts, budget)
        logs = jax.vmap(lambda k: policy.log_probability(counts, k, budget))(listed.active)
        return policy.chances(counts, budget), listed, logs, policy.draw(key, counts, budget)

    return look


@holds(
    2,
    seed=seeds,
    team=few((3, 5), (1, 3), (5, 9)),
    share=portions,
    cold=st.sampled_from([1e-300, 1e-8, 1e-3, 0.3, 50.0, 1e9]),
    dtype=dtypes,
)
def test_soft_policies_spend_the_budget(seed, team, share, cold, dtype):
    rng = np.random.default_rng(seed)
    num_states, num_agents = team
    counts = rng.multinomial(num_agents, rng.dirichlet(np.ones(num_states) * 0.5))
    budget = round(share * num_agents)
    index = np.round(numbers(rng, 1, num_states), 1).astype(dtype)  # with ties
    cold = max(cold, 1e-30) if dtype == np.float32 else cold
    key = jax.random.key(seed)
    chances, listed, logs, drawn = softened(num_states)(index, dtype(cold), counts, budget, key)
    assert isinstance(listed, je.Roundings)
    chances, (active, weights), logs, drawn = jax.tree.map(
        np.asarray, (chances, listed, logs, drawn)
    )
    noise = 100 * num_agents * eps(dtype)
    assert chances.dtype == weights.dtype == dtype
    assert (chances >= 0).all()
    assert (chances <= 1).all()
    np.testing.assert_allclose(counts @ chances, budget, atol=noise)
    np.testing.assert_allclose(weights.sum(), 1, atol=noise)
    assert (active.sum(1) == budget).all()
    assert (active >= 0).all()
    assert (active <= counts).all()
    np.testing.assert_allclose(weights @ active, counts * chances, atol=noise)
    assert drawn.sum() == budget
    assert any((drawn == k).all() for k in active[weights > 0])
    # Values that are listed twice share one probability.
    total = {tuple(k): weights[(active == k).all(1)].sum() for k in active}
    for k, log in zip(active, logs):
        np.testing.assert_allclose(np.exp(log), total[tuple(k)], atol=noise)


@cache
def simulated(num_states, max_agents, num_steps):
    @jax.jit
    def run(key, bandit, priority, counts):
        made = je.simulate_counts(
            key, bandit, priority, num_steps=num_steps, counts=counts, max_agents=max_agents
        )
        lipschitz = je.lipschitz_constant(bandit, priority)
        return {
            "run": made,
            "pairs": je.pair_flow(made),
            "expected": je.pair_flow(made, kernel=bandit.kernel),
            "returns": je.discounted_returns(made, bandit, control=jnp.zeros(num_states)),
            "one": je.one_step_deviation(made, bandit, priority),
            "many": je.multi_step_deviation(made, bandit, priority),
            "bound": je.one_step_bound(bandit),
            "lipschitz": lipschitz,
            "ten": je.multi_step_bound(bandit, lipschitz, num_steps=3, delta=0.1),
        }

    return run


@pytest.mark.slow
@holds(
    2, seed=seeds, kind=kinds, team=few((3, 7), (1, 4), (2, 60)), share=portions, discount=discounts
)
def test_simulated_counts(seed, kind, team, share, discount):
    """Agents are neither made nor lost, exactly M act, and nobody goes where nobody can."""
    rng = np.random.default_rng(seed)
    num_states, num_agents = team
    steps = 8
    bandit = bandit_of(rng, kind, team, share, discount)
    priority = rng.permutation(num_states)
    counts = rng.multinomial(num_agents, rng.dirichlet(np.ones(num_states)))
    out = simulated(num_states, num_agents, steps)(jax.random.key(seed), bandit, priority, counts)
    assert isinstance(out["run"], je.CountsTrajectory)
    assert isinstance(out["ten"], je.MultiStepBound)
    out = jax.tree.map(np.asarray, out)
    run = out["run"]
    assert (run.counts >= 0).all()
    assert (run.flow >= 0).all()
    assert (run.counts[0] == counts).all()
    assert (run.counts.sum(1) == num_agents).all()
    assert (run.flow.sum((1, 2)) == run.counts[1:]).all()
    assert (run.flow.sum((2, 3)) == run.counts[:-1]).all()
    assert (run.flow[:, :, 1].sum((1, 2)) == bandit.budget).all()
    kernel = np.stack([bandit.passive, bandit.active], 1)
    assert (run.flow[:, kernel < 1e-200] == 0).all()
    np.testing.assert_allclose(run.policy.sum(-1), 1, atol=1e-13)
    np.testing.assert_allclose(out["pairs"].sum(), steps * num_agents, rtol=1e-12)
    visits = run.flow.sum((0, 3)).reshape(-1)
    np.testing.assert_allclose(out["pairs"].sum(1), visits, atol=1e-9)
    np.testing.assert_allclose(out["expected"].sum(1), visits, atol=1e-9)
    paid = np.einsum("tsan,sa->t", run.flow, bandit.reward)
    np.testing.assert_allclose(out["returns"][0], paid @ discount ** np.arange(steps), atol=1e-9)
    assert (out["one"] <= 2 + 1e-12).all()
    assert out["many"][0] == 0
    assert (out["many"] <= 1 + 1e-12).all()
    np.testing.assert_allclose(out["bound"] ** 2 * num_agents, num_states)
    assert 0 <= out["lipschitz"] <= num_states
    assert out["ten"].radius >= 0.1
    assert out["ten"].probability >= 0


@holds(
    2,
    seed=seeds,
    kind=kinds,
    num_states=st.integers(1, 5),
    discount=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    scale=scales,
)
def test_whittle_indices_make_acting_worth_nothing(seed, kind, num_states, discount, scale):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, (num_states, 2), 0.5, discount, scale)
    found = je.whittle_index(bandit)
    assert isinstance(found, je.WhittleIndex)
    if not found.indexable:
        assert np.isnan(found.index).all()
        assert 0 <= found.state < num_states
        spare = 1e-6 * max(1, abs(found.subsidy))
        _, gain = oracles_restless.subsidised_values(bandit, found.subsidy + spare)
        assert gain[found.state] >= -1e-9 * max(1, scale)
        return
    unit = max(scale, 1e-6)
    for s, subsidy in enumerate(found.index):
        for move in (-1e-5, 0.0, 1e-5):
            _, gain = oracles_restless.subsidised_values(bandit, subsidy + move * unit)
            assert gain[s] * np.sign(-move) >= -1e-8 * unit / (1 - discount)
            if not move:
                np.testing.assert_allclose(gain[s], 0, atol=1e-9 * unit / (1 - discount))
    order = je.index_priority(found.index)
    assert (np.diff(found.index[order]) <= 0).all()
    assert sorted(je.myopic_priority(bandit)) == list(range(num_states))


@holds(0.5, seed=seeds, num_states=st.integers(1, 4))
def test_average_whittle_indices_are_the_limit(seed, num_states):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, "dense", (num_states, 2), 0.5, 0.999999)
    near, limit = je.whittle_index(bandit), je.average_whittle_index(bandit)
    if near.indexable and limit.indexable:
        np.testing.assert_allclose(near.index, limit.index, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@holds(0.3, seed=seeds, kind=kinds, num_states=few(2, 3), share=portions)
def test_verdicts_on_attractors_have_evidence(seed, kind, num_states, share):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, (num_states, 10), share)
    priority = np.asarray(je.random_priority(jax.random.key(seed), num_states))
    found = je.check_attractor(bandit, priority, num_starts=8, num_steps=200, max_itineraries=50)
    assert isinstance(found, je.Attractor)
    if found.verdict == je.Verdict.HOLDS:
        assert found.contraction < 1
    elif found.verdict == je.Verdict.FAILS:
        assert len(found.orbit) or found.spectral_radius > 1
    after = np.asarray(je.mean_field_step(bandit, priority, jnp.asarray(found.configuration)))
    np.testing.assert_allclose(after, found.configuration, atol=1e-8)


@pytest.mark.slow
@holds(0.5, seed=seeds, kind=kinds, team=few((2, 3), (3, 3), (1, 2)), share=portions)
def test_lemma_8(seed, kind, team, share):
    """E_1 is at most the policy distance, that at most S^2 times the deviation."""
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share)
    priority = rng.permutation(team[0])
    truth, field = je.ground_truth(bandit, priority), je.mean_field(bandit, priority)
    if not (truth.converged and field.unique):
        return
    counts = je.configurations(team[1], team[0])
    found = je.deviation_bound(counts, truth.law, bandit, priority, field)
    assert isinstance(found, je.DeviationBound)
    assert isinstance(truth, je.GroundTruth)
    assert truth.entanglement <= found.policy_distance + 1e-9
    assert found.policy_distance <= found.half_distance + 1e-9
    assert found.half_distance <= found.bound + 1e-9
    assert found.policy_distance <= found.bound + 1e-9


@cache
def played(num_states, num_agents):
    @partial(jax.jit, static_argnums=(4, 5))
    def play(key, bandit, priority, counts, runs, steps):
        return je.monte_carlo_q(
            key,
            bandit,
            priority,
            counts,
            num_runs=runs,
            num_steps=steps,
            control=jnp.zeros(num_states),
            max_agents=num_agents,
        )

    return play


@pytest.mark.slow
@holds(
    0.2,
    seed=seeds,
    kind=st.sampled_from(["dense", "sparse", "deterministic", "tiny"]),
    team=few((2, 3), (1, 2)),
    share=portions,
)
def test_monte_carlo_is_near_the_truth(seed, kind, team, share):
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share, 0.5)
    priority = rng.permutation(team[0])
    truth = je.ground_truth(bandit, priority)
    if np.isnan(truth.q_joint).any():
        return
    configurations = np.asarray(je.configurations(team[1], team[0]))
    place = rng.integers(len(configurations))
    found = played(*team)(jax.random.key(seed), bandit, priority, configurations[place], 400, 30)
    assert isinstance(found, je.MonteCarloValue)
    far = abs(found.value - truth.q_joint[place])
    assert far <= 7 * found.standard_error + found.truncation + 1e-9
