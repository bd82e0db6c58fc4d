"""Soft index policies: chances, the fixed-size design, exact chains, mean field, gradients."""

from itertools import product
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import jaxent as je

from .reference import cases
from .tolerances import EXACT, FD, SOLVE, by_precision

WHITTLE = np.array([-0.25, 0.25, 0.4, -0.4])  # of the circulant bandit
CASES = [  # counts, budget, temperature
    ((3, 3, 2, 2), 2, 0.1),
    ((3, 3, 2, 2), 5, 1.0),
    ((0, 9, 0, 1), 4, 0.03),
    ((10, 0, 0, 0), 3, 0.1),
    ((1, 2, 3, 4), 9, 0.2),
    ((2, 3, 4, 1), 7, 1e-3),  # the budget runs out between two states
    ((2, 3, 4, 1), 5, 1e-9),
]


@pytest.fixture(scope="module")
def soft():
    """One compilation for chances, roundings and log-probabilities of every case."""

    def answer(index, counts, budget, temperature):
        policy = je.SoftIndex(index, temperature)
        roundings = policy.roundings(counts, budget)
        log = jax.vmap(lambda k: policy.log_probability(counts, k, budget))(roundings.active)
        return policy.chances(counts, budget), roundings, log

    return jax.jit(answer)


def chances_oracle(index, counts, budget, temperature):
    scores = np.asarray(index) / temperature

    def excess(t):
        with np.errstate(over="ignore"):
            return (counts / (1 + np.exp(t - scores))).sum() - budget

    threshold = brentq(excess, scores.min() - 50, scores.max() + 50, xtol=1e-14, rtol=1e-15)
    return 1 / (1 + np.exp(np.minimum(threshold - scores, 700)))


@pytest.mark.parametrize(("counts", "budget", "temperature"), CASES[:5])
def test_chances_are_logistic_and_meet_the_budget(soft, counts, budget, temperature):
    counts = np.array(counts)
    chances, _, _ = soft(WHITTLE, counts, budget, temperature)
    present = counts > 0
    wanted = chances_oracle(WHITTLE[present], counts[present], budget, temperature)
    np.testing.assert_allclose(chances[present], wanted, atol=by_precision(1e-11, 1e-6))
    np.testing.assert_allclose(counts @ chances, budget, rtol=EXACT)


@pytest.mark.parametrize(("counts", "budget", "temperature"), CASES)
def test_roundings_are_a_fixed_size_design(soft, counts, budget, temperature):
    """Exactly M, the right means, sums of neighbors within one of theirs, and one probability."""
    counts = np.array(counts)
    chances, roundings, log = soft(WHITTLE, counts, budget, temperature)
    active, weights = np.asarray(roundings.active), np.asarray(roundings.weights)
    np.testing.assert_array_equal(active.sum(-1), budget)
    assert ((active >= 0) & (active <= counts)).all()
    np.testing.assert_allclose(weights.sum(), 1, atol=EXACT)
    np.testing.assert_allclose(weights @ active, counts * chances, atol=EXACT)
    sums = np.cumsum(np.pad(active, ((0, 0), (1, 0))), axis=-1)
    means = np.cumsum(np.pad(counts * np.asarray(chances), (1, 0)))
    taken = weights > EXACT
    for low, high in product(range(5), repeat=2):
        apart = (sums[:, high] - sums[:, low]) - (means[high] - means[low])
        assert (np.abs(apart[taken]) < 1 + SOLVE).all()
    # Values that occur twice in the list (an empty interval between) count together.
    same = (active[:, None] == active[None]).all(-1)
    np.testing.assert_allclose(np.exp(log)[taken], (same @ weights)[taken], atol=EXACT)


def test_edges_of_the_budget(soft):
    counts = np.array([3, 3, 2, 2])
    for budget in (0, 10):
        chances, roundings, _ = soft(WHITTLE, counts, budget, 0.1)
        np.testing.assert_array_equal(chances, budget / 10)
        np.testing.assert_array_equal(roundings.active[0], counts * budget // 10)
    for budget, temperature in ((11, 0.1), (-1, 0.1), (2, 0.0), (2, -1.0)):
        chances, roundings, _ = soft(WHITTLE, counts, budget, temperature)
        assert np.isnan(chances).all()
        assert np.isnan(roundings.weights).all()


def test_gradient_of_chances_is_implicit():
    counts = jnp.array([3.0, 3.0, 2.0, 2.0])

    @jax.jit
    def chances(index, temperature, counts):
        return je.SoftIndex(index, temperature).chances(counts, 2.0)

    at = (jnp.array(WHITTLE), jnp.array(0.1), counts)
    rng = np.random.default_rng(0)
    direction = (rng.normal(size=4), np.array(0.3), rng.normal(size=4))

    def along(t):
        return chances(*(x + t * d for x, d in zip(at, direction, strict=True)))

    step = by_precision(1e-6, 1e-3)
    _, slope = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,)))(0.0)
    np.testing.assert_allclose(slope, (along(step) - along(-step)) / (2 * step), atol=FD)
    # The budget holds along the way, so the gradient keeps it.
    jacobian = jax.jit(jax.jacobian(chances))
    np.testing.assert_allclose(counts @ jacobian(*at), 0, atol=EXACT)
    curvature = jax.jit(jax.hessian(lambda x: chances(x, *at[1:])[1]))(at[0])
    near = [jacobian(WHITTLE + s * np.eye(4)[2], *at[1:])[1] for s in (step, -step)]
    np.testing.assert_allclose(curvature[2], (near[0] - near[1]) / (2 * step), atol=1e-5)


def test_agents_sampler_has_the_chances_and_the_budget():
    states = jnp.array([0, 1, 1, 2, 3, 3, 1])
    policy = je.SoftIndex(jnp.array(WHITTLE), 0.2)
    draws = 40_000
    keys = jax.random.split(jax.random.key(0), draws)
    active = jax.jit(jax.vmap(lambda key: policy.draw_agents(key, states, 3)))(keys)
    assert (active.sum(-1) == 3).all()
    wanted = np.asarray(policy.chances(jnp.bincount(states, length=4), 3))[states]
    error = np.sqrt(wanted * (1 - wanted) / draws)
    assert (np.abs(active.mean(0) - wanted) < 5 * error).all()


def table_oracle(index, temperature, num_agents, budget, draws=20_001):
    """π by running U over a fine grid: an independent look at the design, to 1 / draws."""
    num_states = len(index)
    table = np.zeros((num_states,) * num_agents + (2,) * num_agents)
    uniform = (np.arange(draws) + 0.5) / draws
    for states in product(range(num_states), repeat=num_agents):
        counts = np.bincount(states, minlength=num_states)
        present = counts > 0
        chances = np.zeros(num_states)
        chances[present] = chances_oracle(index[present], counts[present], budget, temperature)
        served = np.ceil(np.cumsum(counts * chances)[None, :-1] - uniform[:, None]).astype(int)
        served = np.concatenate([np.zeros((draws, 1), int), served, np.full((draws, 1), budget)], 1)
        active, often = np.unique(np.diff(served, axis=1), axis=0, return_counts=True)
        for actions in product(range(2), repeat=num_agents):
            k = np.bincount(np.array(states)[np.array(actions) == 1], minlength=num_states)
            seen = often[(active == k).all(1)].sum() / draws
            ways = np.prod([comb(n, j) for n, j in zip(counts, k, strict=True)])
            table[states + actions] = seen / ways
    return table


def test_joint_table():
    index = np.array([0.3, 0.1, -0.2])
    table = je.soft_index_policy(index, 0.2, num_agents=3, budget=1)
    np.testing.assert_allclose(table.sum((3, 4, 5)), 1, atol=EXACT)
    np.testing.assert_allclose(table, table_oracle(index, 0.2, 3, 1), atol=1e-4)
    hard = je.index_policy((0, 1, 2), num_agents=3, budget=1)
    cold = je.soft_index_policy(index, 1e-4, num_agents=3, budget=1)
    np.testing.assert_allclose(cold, hard, atol=EXACT)


def test_joint_table_of_differing_agents():
    index = (np.array([0.3, -0.1]), np.array([0.0, 0.2, 0.4]))
    table = je.soft_index_policy(index, 0.2, num_agents=2, budget=1)
    assert table.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(table[..., 0, 0] + table[..., 1, 1], 0, atol=0)
    # Of two agents and one place the first has it with probability σ((f_1 - f_2) / (2 τ)).
    gap = (index[0][:, None] - index[1][None]) / 0.4
    np.testing.assert_allclose(table[..., 1, 0], 1 / (1 + np.exp(-gap)), atol=EXACT)


@pytest.fixture(scope="module")
def small():
    """Three agents of three states, their joint model, and a soft policy of both forms."""
    rng = np.random.default_rng(1)
    passive, active = rng.dirichlet(np.ones(3), (2, 3))
    bandit = je.RestlessBandit(passive, active, rng.random((3, 2)), 3, 1, 0.8)
    agent = je.MDP(np.stack([passive, active], 1), bandit.reward)
    return bandit, je.WeaklyCoupledMDP((agent,) * 3, 0.8), je.SoftIndex(rng.normal(size=3), 0.5)


def test_exact_chain_is_the_joint_chain_lumped(small):
    """All N agents by the joint table, against one tagged and the rest counted."""
    bandit, mdp, policy = small

    @jax.jit
    def joint(policy):
        table = je.soft_index_policy(policy.index, policy.temperature, num_agents=3, budget=1)
        chain = je.pair_chain(mdp, table)
        parts = je.decompose(chain, mdp.rewards, discount=0.8)
        local = je.policy_entanglement(mdp, table, parts.mu, agent=0)
        return parts, (parts.mu_error, parts.sup_error, parts.relative_error), local

    @jax.jit
    def tagged(policy):
        chain = je.soft_exchangeable_chain(bandit, policy)
        parts = je.decompose(chain, (bandit.reward,), discount=0.8)
        return parts, (parts.mu_error, parts.sup_error, parts.relative_error), chain

    parts, errors, local = joint(policy)
    tagged_parts, tagged_errors, chain = tagged(policy)
    truth = je.soft_ground_truth(bandit, policy)
    np.testing.assert_allclose(tagged_errors, errors, atol=EXACT)
    np.testing.assert_allclose([truth.mu_error, truth.relative_error], errors[::2], atol=EXACT)
    np.testing.assert_allclose(truth.entanglement, local.value, atol=EXACT)
    for q in (truth.q_local.reshape(-1), tagged_parts.q_local[0]):
        np.testing.assert_allclose(q, parts.q_local[0], atol=EXACT)
    reward = 3 * (np.asarray(parts.mu).reshape(6, -1).sum(1) @ bandit.reward.reshape(-1))
    np.testing.assert_allclose(truth.average_reward, reward, atol=EXACT)
    assert bool(truth.converged)
    # The operator, its transpose and its matrix are one thing.
    rows, weight = np.random.default_rng(2).normal(size=(2, chain.num_pairs))
    matrix = np.asarray(chain.matrix())
    ahead, back = jax.jit(lambda chain: (chain.mv(rows), chain.vm(weight)))(chain)
    np.testing.assert_allclose(ahead, matrix @ rows, atol=EXACT)
    np.testing.assert_allclose(back, weight @ matrix, atol=EXACT)


@pytest.mark.slow
def test_measures_of_the_exact_chain_are_those_of_the_joint_chain(small):
    bandit, mdp, policy = small
    table = je.soft_index_policy(policy.index, policy.temperature, num_agents=3, budget=1)
    chains = je.pair_chain(mdp, table), je.soft_exchangeable_chain(bandit, policy)
    for measure in (je.entanglement_mu_atv_upper, je.entanglement_mu_atv):
        joint, tagged = (
            measure(chain, je.stationary_distribution(chain), agent=0).value for chain in chains
        )
        assert joint > 1e-3
        np.testing.assert_allclose(tagged, joint, atol=2e-6)


@pytest.fixture(scope="module")
def circulant():
    """Value and gradient of everything exact at N = 10, in the index: one compilation."""
    bandit = je.circulant_bandit(10)

    def answer(index, temperature):
        truth = je.soft_ground_truth(bandit, je.SoftIndex(index, temperature))
        return jnp.stack([truth.average_reward, truth.mu_error, truth.entanglement])

    @jax.jit
    def both(index, temperature):
        values, pull = jax.vjp(lambda x: answer(x, temperature), index)
        return values, jax.lax.map(lambda row: pull(row)[0], jnp.eye(3))

    return both


def test_cold_soft_index_is_the_index_policy(circulant):
    """The exact figures of the hard index policy, at N = 10 and temperature 1e-3."""
    values, _ = circulant(WHITTLE, 1e-3)
    np.testing.assert_allclose(values[1:], [0.0725765, 0.0616116], atol=by_precision(1e-7, 1e-5))
    [hard] = [case for case in cases("circulant") if case["n_agents"] == 10]
    reward = 10 * (np.array(hard["occupancy"]) * je.circulant_bandit(10).reward).sum()
    wanted = [reward, hard["mu_error"], hard["entanglement_eq15"]]
    np.testing.assert_allclose(values, wanted, rtol=by_precision(1e-8, 1e-4))


DIFFERENCE, SLOPE = by_precision((1e-5, 1e-5), (1e-3, FD))


def differences(f, index, step=DIFFERENCE):
    moves = step * np.eye(len(index))
    return np.stack([(f(index + m) - f(index - m)) / (2 * step) for m in moves], axis=-1)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_gradients_of_the_exact_chain(circulant, temperature):
    """dJ, d error and dE in the index, N = 10, against central differences to 1e-5."""
    index = WHITTLE + 0.01 * np.arange(4)
    _, gradient = circulant(index, temperature)
    wanted = differences(lambda x: np.asarray(circulant(x, temperature)[0]), index)
    np.testing.assert_allclose(
        gradient, wanted, rtol=by_precision(1e-5, FD), atol=by_precision(1e-7, FD)
    )
    assert np.abs(wanted).max(1).min() > 1e-3  # none of them is trivially flat


@pytest.fixture(scope="module")
def limits():
    """Value and gradient of the mean field's limits, in the index; N and M may be traced."""
    bandit = je.circulant_bandit(10)

    def answer(index, temperature):
        field = je.soft_mean_field(bandit, je.SoftIndex(index, temperature))
        values = jnp.stack(
            [
                field.average_reward,
                field.average_reward_correction,
                field.mu_error_limit,
                field.entanglement_limit,
            ]
        )
        return values, field

    @jax.jit
    def both(index, temperature):
        values, pull, field = jax.vjp(lambda x: answer(x, temperature), index, has_aux=True)
        return values, jax.lax.map(lambda row: pull(row)[0], jnp.eye(4)), field

    return both


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_gradients_of_the_mean_field(limits, temperature):
    _, gradient, field = limits(WHITTLE, temperature)
    assert bool(field.converged)
    wanted = differences(lambda x: np.asarray(limits(x, temperature)[0]), WHITTLE)
    np.testing.assert_allclose(
        gradient, wanted, rtol=by_precision(1e-5, FD), atol=by_precision(1e-8, FD)
    )


def test_mean_field_of_a_cold_soft_index(limits):
    """It has the limits of the index policy's own mean field, found piece by piece."""
    values, _, _ = limits(WHITTLE, 0.01)
    hard = je.mean_field(je.circulant_bandit(10), je.CIRCULANT_PRIORITY)
    np.testing.assert_allclose(values[3], hard.entanglement_limit, rtol=1e-5)
    np.testing.assert_allclose(values[2], hard.mu_error_limit, rtol=1e-5)


def test_refined_mean_field_is_exact_to_second_order(limits, circulant):
    """N^2 (J_N - J - correction / N) stays bounded, while N (J_N - J) tends to the correction."""
    values, _, _ = limits(WHITTLE, 0.3)
    exact, _ = circulant(WHITTLE, 0.3)
    policy = je.SoftIndex(WHITTLE, 0.3)
    five = je.soft_ground_truth(je.circulant_bandit(5), policy).average_reward / 5
    left = [n**2 * (j - values[0] - values[1] / n) for n, j in ((5, five), (10, exact[0] / 10))]
    assert abs(values[1]) > 0.05
    np.testing.assert_allclose(left[0], left[1], rtol=0.05)
    assert abs(left[1]) < 0.2


def test_score_function_estimates_the_gradient():
    """E[f(K) d log P(K)] is the gradient of the exact mean of f, within 5 standard errors."""
    counts, budget, draws = jnp.array([3, 3, 2, 2]), 4, 40_000
    worth = jnp.array([0.1, -0.3, 0.7, 0.2])

    def mean(index):
        roundings = je.SoftIndex(index, 0.3).roundings(counts, budget)
        return roundings.weights @ jnp.sin(roundings.active @ worth)

    @jax.jit
    @jax.vmap
    def score(key):
        active = je.SoftIndex(jnp.array(WHITTLE), 0.3).draw(key, counts, budget)
        log = jax.grad(
            lambda index: je.SoftIndex(index, 0.3).log_probability(counts, active, budget)
        )(jnp.array(WHITTLE))
        return jnp.sin(active @ worth) * log

    terms = score(jax.random.split(jax.random.key(1), draws))
    exact = jax.jit(jax.grad(mean))(jnp.array(WHITTLE))
    error = terms.std(0) / np.sqrt(draws)
    assert (jnp.abs(terms.mean(0) - exact) < 5 * error).all()
    assert jnp.abs(exact).max() > 20 * error.max()


def test_no_gradient_passes_a_sampler_silently():
    bandit = je.circulant_bandit(10)

    def served(index):
        run = je.simulate_counts(jax.random.key(0), bandit, je.SoftIndex(index, 0.1), num_steps=2)
        return run.counts.sum()

    with pytest.raises(TypeError, match="a gradient was asked for through a sampler"):
        jax.grad(lambda x: 1.0 * served(x))(jnp.array(WHITTLE))
    with pytest.raises(TypeError, match="log_probability"):
        jax.grad(
            lambda x: (
                1.0 * je.SoftIndex(x, 0.1).draw(jax.random.key(0), jnp.array([3, 3, 2, 2]), 2)[0]
            )
        )(jnp.array(WHITTLE))


def test_simulation_of_a_soft_policy(circulant):
    """Mean reward of a run against the exact one, by batch means; always M active."""
    bandit, steps = je.circulant_bandit(10), 40_000
    policy = je.SoftIndex(WHITTLE, 0.1)
    run = je.simulate_counts(jax.random.key(3), bandit, policy, num_steps=steps)
    moved = np.asarray(run.flow).sum(-1)  # [T, S, 2]
    assert (moved[..., 1].sum(-1) == 2).all()
    paid = (moved * np.asarray(bandit.reward)).sum((1, 2)).reshape(40, -1).mean(1)
    exact, _ = circulant(WHITTLE, 0.1)
    assert abs(paid.mean() - exact[0]) < 5 * paid.std(ddof=1) / np.sqrt(40)


def test_single_precision():
    policy = je.SoftIndex(WHITTLE.astype(np.float32), np.float32(0.1))
    counts = jnp.array([3, 3, 2, 2])
    with jax.enable_x64(False):
        chances = policy.chances(counts, 2)
        assert chances.dtype == jnp.float32
    double = je.SoftIndex(WHITTLE, 0.1).chances(counts, 2)
    np.testing.assert_allclose(chances, double, atol=1e-5)


def test_bad_input(small):
    bandit, _, policy = small
    index = policy.index
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"temperature: .* is not a finite number above 0"):
            je.soft_index_policy(index, wrong, num_agents=3, budget=1)
        with pytest.raises(ValueError, match="temperature"):
            je.soft_mean_field(bandit, je.SoftIndex(index, wrong))
        with pytest.raises(ValueError, match="temperature"):
            je.soft_index(3, wrong)
    with pytest.raises(ValueError, match=r"index\[1\] is nan"):
        je.soft_ground_truth(bandit, je.SoftIndex(np.array([0.0, np.nan, 1.0]), 0.1))
    with pytest.raises(ValueError, match=r"index: wanted shape \[3\], got \[2\]"):
        je.soft_exchangeable_chain(bandit, je.SoftIndex(np.zeros(2), 0.1))
    with pytest.raises(ValueError, match=r"budget: 4 is not an integer in 0..3"):
        je.soft_index_policy(index, 0.1, num_agents=3, budget=4)
    with pytest.raises(ValueError, match=r"index: wanted one for each of 3 agents, got 2"):
        je.soft_index_policy((index, index), 0.1, num_agents=3, budget=1)
    large = je.circulant_bandit(400)
    with pytest.raises(ValueError, match=r"the largest num_agents that fits is \d+"):
        je.soft_ground_truth(large, je.SoftIndex(WHITTLE, 0.1), memory=2**30)
    with pytest.raises(ValueError, match="features"):
        je.neural_index(np.zeros(3), 0.1)


def test_neural_index():
    """A network of state features: its gradient through the mean field, along one direction."""
    bandit = je.circulant_bandit(10)
    features = np.random.default_rng(0).normal(size=(4, 2))
    family = je.neural_index(features, 0.3, hidden=(5,))
    start = family.init(jax.random.key(0))
    assert [layer["weight"].shape for layer in start] == [(2, 5), (5, 1)]
    direction = family.init(jax.random.key(1))

    @jax.jit
    @jax.value_and_grad
    def reward(t):
        layers = jax.tree.map(lambda x, d: x + t * d, start, direction)
        return je.soft_mean_field(bandit, family.apply(layers)).average_reward

    _, slope = reward(0.0)
    wanted = (reward(1e-5)[0] - reward(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(slope, wanted, rtol=SLOPE)
    assert abs(slope) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft_index", "neural_index"])
def test_gradients_of_families_on_every_chain(small, name):
    """J, error and E of both families on the dense chain, the exact one and the mean field."""
    bandit, mdp, _ = small
    features = np.random.default_rng(0).normal(size=(3, 2))
    family = {
        "soft_index": je.soft_index(3, 0.4),
        "neural_index": je.neural_index(features, 0.4, hidden=(4,)),
    }[name]
    start, direction = (family.init(jax.random.key(k)) for k in (0, 1))

    @jax.jit
    def values(t):
        policy = family.apply(jax.tree.map(lambda x, d: x + t * d, start, direction))
        table = je.soft_index_policy(policy.index, policy.temperature, num_agents=3, budget=1)
        chain = je.pair_chain(mdp, table)
        parts = je.decompose(chain, mdp.rewards, discount=0.8)
        local = je.policy_entanglement(mdp, table, parts.mu, agent=0).value
        exact = je.soft_ground_truth(bandit, policy)
        field = je.soft_mean_field(bandit, policy)
        return jnp.stack(
            [
                *(je.average_reward(chain, mdp.rewards), parts.mu_error, local),
                *(exact.average_reward, exact.mu_error, exact.entanglement),
                *(field.average_reward, field.mu_error_limit, field.entanglement_limit),
            ]
        )

    slopes = jax.jacfwd(values)(0.0)
    wanted = (values(1e-5) - values(-1e-5)) / 2e-5
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5, atol=1e-8)
    assert np.abs(wanted).min() > 1e-5
