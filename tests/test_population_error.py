"""The error of the sum of local values from runs: exact chains at few agents, limits at many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.population_error import _tv_center

from . import oracles_population as oracles
from .test_population_field import ORDER, pair_of_types, tables
from .tolerances import SOLVE, STANDARD_ERRORS


def exact(population, policy):
    """The law, joint values, the error, local values and E_1 of each type, from the exact chain."""
    chain = je.exchangeable_chain(population, policy)
    mu = np.asarray(je.stationary_distribution(chain))
    rewards = [kind.mdp.reward for kind in population.types]
    found = je.decompose(chain, rewards, discount=population.discount, mu=mu)
    types = len(population.types)
    E = [oracles.type_entanglement(chain.policy.table, mu, k, types) for k in range(types)]
    return mu, np.asarray(found.q_joint), np.asarray(found.error), found.q_local, np.array(E)


# A priority under which agents of both types are in each other's way: a large error.
ENTANGLED = [(0, 0, 2), (1, 0, 1), (1, 1, 1), (0, 0, 1), (0, 1, 1), (0, 1, 2)]


@pytest.mark.parametrize("draws", [False, True])
def test_few_agents_against_the_exact_chain(draws):
    """Error, its share of Q and of Q's spread, E_1 and the L1 bracket, within 5 standard errors."""
    population = pair_of_types(4, seed=46)
    policy = je.randomized_policy(population, tables()) if draws else ENTANGLED
    mu, Q, e, _, E = exact(population, policy)
    num_pairs = 256 if draws else 2048
    found = je.population_error(jax.random.key(0), population, policy, num_pairs=num_pairs)
    assert isinstance(found, je.PopulationError)
    assert found.num_pairs == num_pairs
    noise, square = STANDARD_ERRORS * found.mean_square_error, mu @ e**2
    assert abs(found.mean_square - square) <= noise + 2 * found.truncation * square
    np.testing.assert_allclose(found.q_mean, mu @ Q, rtol=0.05)
    if draws:
        return
    assert found.mean_square > noise
    size, spread = np.sqrt(mu @ Q**2), np.sqrt(mu @ Q**2 - (mu @ Q) ** 2)
    np.testing.assert_allclose(found.error / found.relative_error, size, rtol=0.05)
    np.testing.assert_allclose(found.error / found.share_of_spread, spread, rtol=0.1)
    near = STANDARD_ERRORS * found.standard_error
    assert found.mu_error_lower - near <= mu @ np.abs(e) <= found.mu_error_upper + near
    assert (np.abs(found.entanglement - E) <= STANDARD_ERRORS * found.entanglement_error).all()


def test_local_values_are_those_of_a_tagged_agent():
    """Eight estimates: their mean is the exact local value, though counts and moves are bound up.

    With two agents of a type, the one that moves is half of those it meets.
    """
    population = pair_of_types(4)
    mu, _, _, q, _ = exact(population, ORDER)
    chain = je.exchangeable_chain(population, ORDER)
    found = [
        je.population_error(key, population, ORDER, num_pairs=256).q_local
        for key in jax.random.split(jax.random.key(2), 8)
    ]
    for k, want in enumerate(q):
        some = np.stack([np.ravel(one[k]) for one in found])
        visited = np.asarray(je.marginal(chain, mu, agent=k)) > 0.01
        error = some.std(0, ddof=1) / np.sqrt(8)
        assert (np.abs(some.mean(0) - want) <= STANDARD_ERRORS * error)[visited].all()
        assert error[visited].max() < 0.01


def test_many_agents_against_the_limits():
    """4000 agents: the Gaussian limit of the error, of E_1 and of the local values."""
    population = pair_of_types(4000)
    field = je.mean_field(population, ORDER)
    assert field.limit_holds(4000)
    found = je.population_error(jax.random.key(0), population, ORDER, num_pairs=2048)
    root = np.sqrt(4000)
    want = root * float(field.mu_error_limit)
    near = STANDARD_ERRORS * found.standard_error
    assert found.standard_error < 0.05 * found.error
    assert abs(found.error - np.sqrt(np.pi / 2) * want) <= near
    assert found.mu_error_lower - near <= want <= found.mu_error_upper + near
    assert found.mu_error_upper < 1.3 * found.mu_error_lower
    doubt = STANDARD_ERRORS * found.entanglement_error
    assert (np.abs(found.entanglement - field.entanglement_limit / root) <= doubt).all()
    for q, limit, policy in zip(found.q_local, field.local_q, field.policy, strict=True):
        visited = np.asarray(policy) > 0.05
        np.testing.assert_allclose(q[visited], limit[visited], atol=0.02)


@pytest.mark.slow
def test_agents_that_draw_against_the_limits():
    """The draw of the actions is a part of the error, and none of E_1."""
    population = pair_of_types(4000)
    wanted = [np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]), np.array([[0.2, 0.8], [0.3, 0.7]])]
    policy = je.randomized_policy(population, wanted)
    field = je.mean_field(population, policy)
    assert field.limit_holds(4000)
    found = je.population_error(jax.random.key(0), population, policy, num_pairs=1024, num_runs=256)
    want = np.pi / 2 * 4000 * field.mu_error_limit**2
    assert abs(found.mean_square - want) <= STANDARD_ERRORS * found.mean_square_error
    doubt = STANDARD_ERRORS * found.entanglement_error
    limit = field.entanglement_limit / np.sqrt(4000)
    assert (np.abs(found.entanglement - limit) <= doubt).all()


def test_a_bandit_against_its_ground_truth():
    """Ten agents of the circulant bandit: error, local values and E_1 of the exact chain."""
    bandit = je.circulant_bandit(10)
    want = je.ground_truth(bandit, je.CIRCULANT_PRIORITY)
    chain = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
    exact = je.decompose(chain, [bandit.reward], discount=bandit.discount)
    rms = np.sqrt(exact.mu @ exact.error**2)
    found = je.population_error(
        jax.random.key(0), bandit, je.CIRCULANT_PRIORITY, num_pairs=1024, horizon=60
    )
    noise = STANDARD_ERRORS * found.standard_error + found.truncation * rms
    assert abs(found.error - rms) <= noise
    assert abs(found.entanglement[0] - want.entanglement) <= 5 * found.entanglement_error[0]


def test_independent_agents_have_no_error():
    """Nothing exhausts the budgets: what is found is not told from 0."""
    population = pair_of_types(20)
    loose = [je.Budget(1.0, per_agent=True)] * 2
    free = je.WeaklyCoupledPopulation(population.types, population.counts, loose, 0.8)
    found = je.population_error(jax.random.key(0), free, ORDER, num_pairs=512)
    assert found.error <= STANDARD_ERRORS * found.standard_error
    np.testing.assert_allclose(found.entanglement, 0, atol=SOLVE)


def test_single_precision():
    """float32 gives float32, and the same to its noise."""
    population = pair_of_types(400)
    single = je.WeaklyCoupledPopulation(
        [
            (je.MDP(jnp.float32(kind.mdp.transition), jnp.float32(kind.mdp.reward)), kind.costs)
            for kind in population.types
        ],
        population.counts,
        population.budgets,
        0.8,
    )
    found, want = (
        je.population_error(jax.random.key(i), p, ORDER, num_pairs=512)
        for i, p in enumerate((single, population))
    )
    assert found.error.dtype == jnp.float32
    noise = np.hypot(found.standard_error, want.standard_error)
    assert abs(found.error - want.error) <= STANDARD_ERRORS * noise


def test_the_center_is_that_of_a_linear_program():
    rng = np.random.default_rng(0)
    for A in (2, 3, 4):
        for _ in range(5):
            laws, weights = rng.dirichlet(np.full(A, 0.5), 30), rng.random(30)
            center = _tv_center(laws, weights)
            np.testing.assert_allclose(center.sum(), 1, atol=SOLVE)
            away = weights @ np.abs(laws - center).sum(1) / 2
            np.testing.assert_allclose(away, oracles.tv_center_distance(laws, weights), atol=1e-8)


def test_what_is_refused():
    population, key = pair_of_types(4), jax.random.key(0)
    with pytest.raises(ValueError, match="num_runs: 4 is not at least 16"):
        je.population_error(key, population, ORDER, num_runs=4)
    with pytest.raises(ValueError, match="num_pairs"):
        je.population_error(key, population, ORDER, num_pairs=0)
    with pytest.raises(ValueError, match="horizon"):
        je.population_error(key, population, ORDER, horizon=-1)
    with pytest.raises(ValueError, match=r"order\[0\]: there is no action 3"):
        je.population_error(key, population, [(0, 0, 3)])
