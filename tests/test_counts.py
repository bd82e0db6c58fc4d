"""Activation and simulation on counts, against plain NumPy and against the exact law."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from jaxent.restless import simulate
from jaxent.restless.activation import action_probabilities, activate, by_action
from jaxent.restless.simulate import even_start
from tests import oracles_counts as oracle
from tests.tolerances import EXACT


def make(*args, **kwargs):
    return RestlessBandit(*oracle.random_bandit(*args, **kwargs))


@pytest.mark.parametrize("budget", [0, 1, 4, 6, 9])
def test_activation_serves_in_priority_order(budget):
    for priority in itertools.permutations(range(3)):
        for counts in oracle.configurations(9, 3)[::5]:
            served = activate(jnp.array(counts), jnp.array(priority), budget)
            np.testing.assert_array_equal(served, oracle.serve(counts, priority, budget))


def test_activation_of_fractions():
    """At m* of the circulant bandit 4/7 of state 2 is active (paper, Appendix K)."""
    m = jnp.array([0.15, 0.15, 0.35, 0.35])
    groups = by_action(m, jnp.array(jaxent.CIRCULANT_PRIORITY), 0.2)
    np.testing.assert_allclose(groups[:, 1], [0, 0, 0.2, 0], atol=EXACT)
    np.testing.assert_allclose(action_probabilities(groups)[2], [3 / 7, 4 / 7], atol=EXACT)


def test_empty_state_has_a_placeholder_policy():
    probabilities = action_probabilities(jnp.array([[0, 0], [1, 3]]))
    np.testing.assert_allclose(probabilities, [[1, 0], [0.25, 0.75]], atol=EXACT)


CASES = {
    "dense": (make(0, 3, 7, 3), (1, 0, 2)),
    "sparse": (make(1, 4, 6, 2, zeros=0.5), (3, 1, 0, 2)),
    "nobody active": (make(2, 3, 5, 0), (0, 1, 2)),
    "all active": (make(3, 3, 5, 5), (0, 1, 2)),
    "one state": (make(4, 1, 5, 2), (0,)),
    "deterministic": (
        RestlessBandit(np.roll(np.eye(3), 1, 1), np.eye(3), np.zeros((3, 2)), 5, 2, 0.5),
        (2, 0, 1),
    ),
    "circulant": (jaxent.circulant_bandit(10), jaxent.CIRCULANT_PRIORITY),
}


@pytest.mark.parametrize("name", CASES)
def test_flows_conserve_agents(name):
    bandit, priority = CASES[name]
    trajectory = jaxent.simulate_counts(jax.random.key(0), bandit, priority, num_steps=50)
    counts, flow, policy = map(np.asarray, trajectory)
    np.testing.assert_array_equal(counts.sum(1), bandit.num_agents)
    np.testing.assert_array_equal(flow.sum((1, 2)), counts[1:])
    np.testing.assert_array_equal(flow.sum((2, 3)), counts[:-1])
    assert (flow >= 0).all()
    # Nobody takes a way that is not there, and exactly those who are served are active.
    kernel = np.asarray(bandit.kernel)
    assert flow[:, kernel == 0].sum() == 0
    for t in range(50):
        served = oracle.serve(counts[t], priority, bandit.budget)
        np.testing.assert_array_equal(flow[t, :, 1].sum(1), served)
        np.testing.assert_allclose(policy[t, :, 1] * counts[t], served, atol=EXACT)


@pytest.mark.parametrize("name", ["dense", "sparse", "circulant", "deterministic"])
def test_next_counts_have_the_exact_law(name):
    """Chi-square of 40,000 first steps against the convolution of multinomials."""
    bandit, priority = CASES[name]
    start = np.array(even_start(bandit))
    keys = jax.random.split(jax.random.key(7), 40_000)
    step = jax.jit(
        jax.vmap(lambda k: jaxent.simulate_counts(k, bandit, priority, num_steps=1).counts[1])
    )
    reached, seen = np.unique(np.asarray(step(keys)), axis=0, return_counts=True)
    seen = {tuple(c): n for c, n in zip(reached, seen, strict=True)}
    law = oracle.next_law(
        tuple(start), np.asarray(bandit.passive), np.asarray(bandit.active), priority, bandit.budget
    )
    assert set(seen) <= set(law)
    frequent = [c for c in law if law[c] * len(keys) >= 20]
    expected = np.array([law[c] for c in frequent]) * len(keys)
    observed = np.array([seen.get(c, 0) for c in frequent])
    if len(frequent) == 1:
        assert observed[0] == len(keys)
    else:
        expected = np.append(expected, len(keys) - expected.sum() + 1e-9)
        observed = np.append(observed, len(keys) - observed.sum())
        assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_one_compilation_serves_a_sweep_over_the_number_of_agents():
    """Traced N and budget give what each N gives alone."""
    sizes = jnp.array([30, 60, 90])
    base = jaxent.circulant_bandit(30)

    def run(key, size):
        bandit = base._replace(num_agents=size, budget=size // 5)
        start = jnp.stack([size // 6, size // 3, size // 2, 0 * size])
        return jaxent.simulate_counts(
            key, bandit, jaxent.CIRCULANT_PRIORITY, num_steps=20, counts=start, max_agents=90
        ).counts

    keys = jax.random.split(jax.random.key(1), 3)
    swept = jax.jit(jax.vmap(run))(keys, sizes)
    for key, size, counts in zip(keys, sizes, swept, strict=True):
        alone = jaxent.simulate_counts(
            key,
            jaxent.circulant_bandit(int(size)),
            jaxent.CIRCULANT_PRIORITY,
            num_steps=20,
            counts=jaxent.circulant_start(int(size)),
            max_agents=90,
        )
        np.testing.assert_array_equal(counts, alone.counts)


def test_kernels_may_be_traced():
    """With traced kernels sparsity is unknown: more draws, the same law."""
    bandit, priority = CASES["circulant"]

    def mean(passive, keys):
        traced = bandit._replace(passive=passive)
        run = lambda k: jaxent.simulate_counts(k, traced, priority, num_steps=1).counts[1]  # noqa: E731
        return jax.vmap(run)(keys).mean(0)

    keys = jax.random.split(jax.random.key(3), 20_000)
    share = even_start(bandit) / 10
    exact = 10 * jaxent.mean_field_step(bandit, priority, share)
    spread = np.sqrt(10 / 4 / len(keys))  # no count has more variance than Binomial(10, 1/2)
    np.testing.assert_allclose(jax.jit(mean)(bandit.passive, keys), exact, atol=5 * spread)


def test_pair_flow_is_the_mean_over_agents():
    """Against following 7 labeled agents through random draws of who is served."""
    bandit, priority = CASES["dense"]
    trajectory = jaxent.simulate_counts(jax.random.key(5), bandit, priority, num_steps=3)
    counts, flow, _ = map(np.asarray, trajectory)
    rng = np.random.default_rng(0)
    total = np.zeros((6, 6))
    repeats = 4000
    for _ in range(repeats):
        for t in range(3):
            served = oracle.serve(counts[t + 1], priority, bandit.budget)
            for s_next in range(3):
                origin = np.repeat(np.arange(6), flow[t, :, :, s_next].reshape(-1))
                chosen = rng.permutation(len(origin))[: served[s_next]]
                for i, x in enumerate(origin):
                    total[x, 2 * s_next + (i in chosen)] += 1
    estimate = np.asarray(jaxent.pair_flow(trajectory))
    np.testing.assert_allclose(estimate.sum(), 21)
    np.testing.assert_allclose(total / repeats, estimate, atol=5 * np.sqrt(21 / 4 / repeats))
    half = jaxent.pair_flow(trajectory, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(half.sum(), 7)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_steps": 0}, "num_steps: 0 is not"),
        ({"counts": [3, 3, 3]}, r"counts sum to 9, not to num_agents 7"),
        ({"counts": [8, -1, 0]}, r"counts\[1\] = -1"),
        ({"counts": [3.5, 3.5, 0]}, r"counts\[0\] = 3.5"),
        ({"counts": [7, 0]}, r"counts: wanted shape \[3\]"),
        ({"max_agents": 6}, "max_agents: 6 is less than num_agents 7"),
    ],
)
def test_bad_simulations_are_refused(kwargs, match):
    bandit, priority = CASES["dense"]
    with pytest.raises(ValueError, match=match):
        jaxent.simulate_counts(jax.random.key(0), bandit, priority, **({"num_steps": 2} | kwargs))


def test_traced_size_needs_a_largest_one():
    bandit, priority = CASES["dense"]

    def run(size):
        return jaxent.simulate_counts(
            jax.random.key(0), bandit._replace(num_agents=size), priority, num_steps=2
        )

    with pytest.raises(ValueError, match="max_agents: num_agents is traced"):
        jax.jit(run)(7)


def test_teams_of_as_many_base_4_digits_share_a_program():
    """10 and 15 agents are one compilation, and the draws of each are what they were alone."""
    key, priority = jax.random.key(0), jaxent.CIRCULANT_PRIORITY
    run = lambda n: jaxent.simulate_counts(  # noqa: E731
        key, jaxent.circulant_bandit(n), priority, num_steps=7
    )
    first = run(10)
    compiled = simulate._simulate.outermost()._cache_size()
    assert run(15).counts.sum(1).tolist() == [15] * 8
    assert simulate._simulate.outermost()._cache_size() == compiled
    np.testing.assert_array_equal(run(10).flow, first.flow)
