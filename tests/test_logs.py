"""Entanglement from logs alone: a lower estimate on held-out data, and a test with a level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.data import log_entanglement as logs
from jaxent.data.chain_log import _sample_path
from jaxent.data.pair_blocks import pair_blocks
from tests.reference import cases
from tests.test_estimators import nearest_law
from tests.tolerances import EXACT, STANDARD_ERRORS

STEPS, RUNS = 2_000, 12


def entangled(case=1):
    """The reference's second weakly coupled model: E_0 is 0.079 by Eq. (7)."""
    case = cases("weakly_coupled")[case]
    kernels = np.array(case["transitions"]).transpose(0, 2, 1, 3)
    rewards = np.array(case["rewards"])
    agents = tuple(jaxent.MDP(jnp.array(P), jnp.array(r)) for P, r in zip(kernels, rewards))
    mdp = jaxent.WeaklyCoupledMDP(agents, case["gamma"])
    return jaxent.pair_chain(mdp, jnp.array(case["policy"])), case


def separable():
    mdp, policy = jaxent.example_1(3, 1)
    return jaxent.pair_chain(mdp, policy)


def paths(chain, num_runs, seed):
    """Agent 0's pairs and the states of the others counted, in many runs: `[R, T]`, `[R, T, S]`."""
    P, mu, sizes = chain.matrix(), jaxent.stationary_distribution(chain), chain.sizes
    num_states = sizes[0] // 2

    @jax.jit
    @jax.vmap
    def one(key):
        x = jnp.stack(jnp.unravel_index(_sample_path(key, P, mu, STEPS), sizes), 1)
        others = (x[:, 1:, None] // 2 == jnp.arange(num_states)[None, None]).sum(1)
        return x[:, 0], others[:-1].astype(float)

    return one(jax.random.split(jax.random.key(seed), num_runs))


def p_values(chain, num_runs, seed, num_permutations=99):
    size = chain.sizes[0]

    @jax.jit
    def all_runs(keys, x, f):
        def one(data):
            key, x, f = data
            weight = jnp.ones(STEPS - 1)
            flow = jnp.zeros((size, size)).at[x[:-1], x[1:]].add(1.0)
            g = logs._standard(pair_blocks(x[:-1], size), f, weight)
            return logs._permutation_test(key, g, x[:-1], x[1:], weight, flow, num_permutations)

        return jax.lax.map(one, (keys, x, f))

    return all_runs(
        jax.random.split(jax.random.key(seed + 1), num_runs), *paths(chain, num_runs, seed)
    )


def estimates(chain, data, seed, min_visits=20):
    x, f = data
    num_runs = len(x)
    keys = jax.random.split(jax.random.key(seed + 1), num_runs)
    return logs.estimate_paths(
        keys,
        x[:, :-1],
        x[:, 1:],
        f,
        jnp.ones((num_runs, STEPS - 1)),
        num_pairs=chain.sizes[0],
        num_folds=2,
        min_visits=min_visits,
        num_permutations=39,
        quantile=2.09,
    )


@pytest.fixture(scope="module")
def seen():
    chain, case = entangled()
    data = tuple(np.asarray(a) for a in paths(chain, RUNS, 0))
    return estimates(chain, data, 0), case["mu_atv_eq7"][0], data


def relative_to_counts(chain):
    """Eq. (7) with P(x_0' | x_0, s_1) in the place of P(x_0' | joint pair), by linear programs."""
    P, mu, size = np.array(chain.matrix()), np.array(jaxent.stationary_distribution(chain)), 6
    ahead = P.reshape(-1, size, size).sum(2)  # [J, X]
    weight = mu.reshape(size, 3, 2)
    laws = (weight.reshape(-1, 1) * ahead).reshape(size, 3, 2, size).sum(2)
    weight = weight.sum(2)
    laws = laws / weight[..., None]
    return sum(nearest_law(laws[x], weight[x])[0] for x in range(size))


def test_estimate_is_below_and_not_far(seen):
    found, exact, _ = seen
    target = relative_to_counts(entangled()[0])
    assert 0.5 * exact < target < exact
    value = np.asarray(found.value)
    error = value.std(ddof=1) / np.sqrt(RUNS)
    assert value.mean() <= target + STANDARD_ERRORS * error
    assert value.mean() > 0.6 * target
    assert np.mean(found.plug_in) > exact  # what overfitting does
    assert value.std(ddof=1) < 1.5 * np.mean(found.standard_error)
    np.testing.assert_allclose(found.minimizer.sum(-1), 1, atol=1e-9)


def test_power(seen):
    assert np.mean(np.asarray(seen[0].p_value) <= 0.05) > 0.9


@pytest.mark.slow
def test_level_and_power():
    """1000 runs of a separable chain: rejected in 5% (+-2%). 300 of an entangled one: above 90%."""
    level = np.mean(np.asarray(p_values(separable(), 1000, 10)) <= 0.05)
    power = np.mean(np.asarray(p_values(entangled()[0], 300, 20)) <= 0.05)
    print(f"level {level:.3f}, power {power:.3f}")
    assert abs(level - 0.05) <= 0.02
    assert power > 0.9


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is():
    found = estimates(separable(), paths(separable(), 200, 30), 30)
    value = np.asarray(found.value)
    assert abs(value.mean()) <= STANDARD_ERRORS * value.std(ddof=1) / np.sqrt(200)
    covered = np.asarray(found.value - 2.09 * found.standard_error) <= 0
    assert covered.mean() > 0.95


def test_statistic_and_permutations_by_hand():
    """The two ways to sum, and the p-value against permutations made by NumPy."""
    rng = np.random.default_rng(0)
    T, X = 300, 3
    x, y = rng.integers(0, X, (2, T))
    f = rng.normal(size=(T, 2)) + 0.15 * y[:, None]
    weight = (rng.random(T) < 0.9).astype(float)
    flow = np.zeros((X, X))
    np.add.at(flow, (x, y), weight)
    blocks = pair_blocks(jnp.array(x), X)
    g = np.asarray(logs._standard(blocks, jnp.array(f), jnp.array(weight)))
    for k in range(X):
        here = g[(x == k) & (weight > 0)]
        np.testing.assert_allclose(here.mean(0), 0, atol=EXACT)
        np.testing.assert_allclose(here.T @ here / len(here), np.eye(2), atol=1e-9)

    def statistic(y):
        total = np.zeros((X, X, 2))
        np.add.at(total, (x, y), g * weight[:, None])
        return (total**2 / flow[..., None]).sum()

    data, more, count = statistic(y), 0, 2000
    for _ in range(count):
        permuted = y.copy()
        for k in range(X):
            where = np.flatnonzero((x == k) & (weight > 0))
            permuted[where] = y[rng.permutation(where)]
        more += statistic(permuted) >= data
    wanted = (1 + more) / (1 + count)
    test = jax.jit(logs._permutation_test, static_argnums=6)
    args = (jax.random.key(0), *map(jnp.array, (g, x, y, weight, flow)), 999)
    found = float(test(*args))
    assert 0.002 < wanted < 0.5
    assert abs(found - wanted) <= STANDARD_ERRORS * np.sqrt(wanted * (1 - wanted) / 999)


def test_rare_pairs_are_left_out(seen):
    """A pair below the minimum is left out; with none left there is no estimate."""
    every, _, data = seen
    chain, _ = entangled()
    visits = np.asarray(every.visits[0]).astype(int)
    limit = int(sorted(visits)[1])  # all but the rarest
    found = estimates(chain, data, 0, min_visits=limit)
    np.testing.assert_array_equal(found.visits, every.visits)
    np.testing.assert_array_equal(found.enough[0], visits >= limit)
    np.testing.assert_allclose(found.share[0], 1 - visits.min() / (STEPS - 1), atol=EXACT)
    assert found.value[0] != every.value[0]
    none = estimates(chain, data, 0, min_visits=STEPS)
    assert np.isnan(none.value).all()
    assert np.isnan(none.p_value).all()


def test_counts_of_the_others():
    states, actions = np.array([[0, 1, 1], [1, 1, 0]]), np.array([[1, 0, 1], [0, 0, 0]])
    run = jaxent.Trajectory.from_arrays(states, actions, 0.0 * states)
    np.testing.assert_array_equal(jaxent.state_counts(run)[0], [[0, 2], [1, 1], [1, 1]])
    np.testing.assert_array_equal(jaxent.pair_counts(run)[0, 0], [0, 0, 1, 1])


RUN = jaxent.Trajectory.from_arrays(*np.zeros((2, 30, 2), int), np.zeros((30, 2)))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("run", "options", "match"),
    [
        (RUN, {"num_folds": 1}, "num_folds: 1 is outside"),
        (RUN, {"min_visits": 0}, "min_visits"),
        (RUN, {"features": np.zeros((30, 1, 2))}, "features: wanted shape"),
        (RUN, {"confidence": 0.0}, "confidence"),
        (
            jaxent.Trajectory.from_arrays(*np.zeros((2, 30, 1), int), np.zeros((30, 1))),
            {},
            "has one agent",
        ),
        (
            jaxent.Trajectory.from_arrays(*np.zeros((2, 20, 2), int), np.zeros((20, 2))),
            {},
            "20 epochs are too few",
        ),
    ],
)
def test_bad_input(run, options, match):
    with pytest.raises(ValueError, match=match):
        jaxent.entanglement_from_logs(KEY, run, **options)
