"""The mean field of populations: against today's of bandits, plain NumPy, exact chains and runs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import jaxent as je
from jaxent.restless.population_mean_field import population_mean_field

from . import oracles_population as oracles
from .test_population import population_of
from .test_population_chain import MOVES, SIZES
from .tolerances import EXACT, SOLVE, STANDARD_ERRORS, by_precision

# Two budgets that both run out; all agents of state 0 of type 0 take the dearest action first.
ORDER = [(0, 0, 2), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1), (0, 1, 2)]


def pair_of_types(num_agents, seed=18):
    """Two states each, three and two actions, two budgets that are whole at multiples of 4."""
    rng = np.random.default_rng(seed)
    P, r = rng.dirichlet(np.ones(2), (2, 3)), rng.standard_normal((2, 3))
    Q, q = rng.dirichlet(np.ones(2), (2, 2)), rng.standard_normal((2, 2))
    costs = np.broadcast_to([[0.0, 0], [1, 0], [1, 1]], (2, 3, 2))
    types = [(je.MDP(P, r), costs), (je.MDP(Q, q), costs[:, :2])]
    budgets = [je.Budget(0.5, per_agent=True), je.Budget(0.25, per_agent=True)]
    return je.WeaklyCoupledPopulation(types, [num_agents // 2] * 2, budgets, 0.8)


@pytest.mark.parametrize("name", je.BANDITS)
def test_one_type_of_two_actions_is_a_bandit(name):
    """Every number is that of the bandit's own mean field, which knows all pieces.

    For states that nobody is in, that one holds placeholders; here agents do what the first one
    to come would.
    """
    bandit, order = je.named_bandit(name, 60)
    want = je.mean_field(bandit, order)
    found = je.mean_field(
        je.WeaklyCoupledPopulation.from_bandit(bandit), [(0, s, 1) for s in order]
    )
    assert isinstance(found, je.PopulationMeanField)
    assert bool(found.converged)
    assert found.unique == want.unique
    assert found.nondegenerate == want.nondegenerate
    one = {
        "configuration": found.configuration[0],
        "value_weights": found.value_weights[0],
        "entanglement_limit": found.entanglement_limit[0],
    }
    for field in ("linear", "covariance", "clearance", "mu_error_limit", "relative_error_limit"):
        one[field] = getattr(found, field)
    visited = np.asarray(want.configuration) > EXACT
    np.testing.assert_allclose(found.policy[0][visited], want.policy[visited], atol=1e-10)
    pairs = visited[:, None] & (np.asarray(want.policy) > EXACT)
    np.testing.assert_allclose(found.local_q[0][pairs], want.local_q[pairs], atol=1e-10)
    for field, value in one.items():
        near = by_precision(1e-10, 1e-6)
        np.testing.assert_allclose(value, getattr(want, field), atol=near, err_msg=field)
    # That of a nilpotent map is rounding to the power of one over its size.
    near = by_precision(0.01, 0.05)
    np.testing.assert_allclose(found.spectral_radius, want.spectral_radius, atol=near)
    near = by_precision(1e-10, 1e-5)
    np.testing.assert_allclose(found.value_constant, want.value_constant, atol=near)
    if want.limit_holds_from > 0:
        assert abs(found.limit_holds_from - want.limit_holds_from) <= 1
        assert found.limit_holds(10**7)


@pytest.mark.parametrize("seed", range(8))
def test_fixed_point_slopes_and_law(seed):
    """Against shares served one move after another, differences, and SciPy's Lyapunov solver."""
    rng = np.random.default_rng(seed)
    counts = (30, 20)
    types, _, budgets, discount = oracles.random_population(seed, SIZES, counts, 2)
    population = population_of(types, counts, budgets, discount)
    moves = [MOVES[i] for i in rng.permutation(len(MOVES))]
    found = je.mean_field(population, moves)
    assert bool(found.converged)
    costs, limits = [d for _, _, d in types], [limit / 50 for limit, _ in budgets]

    def step(flat):
        split = oracles.serve_shares(costs, limits, [flat[:3], flat[3:]], moves)
        moved = [np.einsum("sa,sat->t", y, P) for y, (P, _, _) in zip(split, types, strict=True)]
        return split, np.concatenate(moved)

    m = np.concatenate(found.configuration).astype(np.float64)  # for the differences below
    split, after = step(m)
    np.testing.assert_allclose(after, m, atol=by_precision(1e-10, 1e-6))
    np.testing.assert_allclose([m[:3].sum(), m[3:].sum()], [0.6, 0.4], atol=EXACT)
    for y, part, policy in zip(split, found.configuration, found.policy, strict=True):
        taken = np.asarray(part)[:, None] * policy
        np.testing.assert_allclose(taken, y, atol=by_precision(1e-10, 1e-6))
    average = sum((y * r).sum() for y, (_, r, _) in zip(split, types, strict=True))
    np.testing.assert_allclose(found.average_reward, average, atol=by_precision(1e-10, 1e-5))
    np.testing.assert_allclose(found.bound, je.fluid_policy(population).value / 50, atol=SOLVE)
    assert found.gap >= -SOLVE
    if not bool(found.nondegenerate):
        assert np.isnan(found.mu_error_limit)
        return
    # The slope along the simplices, by differences within the piece.
    K, h = np.asarray(found.linear, np.float64), 1e-7
    for _ in range(3):
        v = rng.standard_normal(5)
        v[:3] -= v[:3].mean()
        v[3:] -= v[3:].mean()
        near = (step(m + h * v)[1] - step(m - h * v)[1]) / (2 * h)
        np.testing.assert_allclose(near, v @ K, atol=1e-6)
    w = np.concatenate(found.value_weights)
    reward = np.concatenate([(y * r).sum(1) for y, (_, r, _) in zip(split, types, strict=True)])
    value = m @ w + float(found.value_constant)
    paid = reward.sum() + discount * value
    np.testing.assert_allclose(value, paid, atol=by_precision(1e-8, 1e-5))
    tangent = K.copy()
    tangent[:3, :3] -= m[:3] / 0.6
    tangent[3:, 3:] -= m[3:] / 0.4
    radius = np.abs(np.linalg.eigvals(tangent)).max()
    np.testing.assert_allclose(found.spectral_radius, radius, atol=1e-6)
    if np.isnan(found.mu_error_limit):
        assert radius > 1 - 1e-6 or not bool(found.unique)
        return
    noise = np.zeros((5, 5))
    for first, y, (P, _, _) in zip((0, 3), split, types, strict=True):
        for s, a in np.ndindex(y.shape):
            row = np.zeros(5)
            row[first : first + len(P)] = P[s, a]
            noise += y[s, a] * (np.diag(row) - np.outer(row, row))
    sigma = linalg.solve_discrete_lyapunov(tangent.T, noise)
    np.testing.assert_allclose(found.covariance, sigma, atol=SOLVE)
    # The error's slope: value less local values, by differences of what a split is worth.
    worth, local_q = [], [np.asarray(q, np.float64) for q in found.local_q]
    for sign in (1, -1):
        for i in range(5):
            far = m + sign * h * np.eye(5)[i]
            part = oracles.serve_shares(costs, limits, [far[:3], far[3:]], moves)
            worth.append(sum((y * q).sum() for y, q in zip(part, local_q, strict=True)))
    d = w - (np.array(worth[:5]) - worth[5:]) / (2 * h)
    d[:3] -= d[:3].mean()
    d[3:] -= d[3:].mean()
    want = np.sqrt(2 / np.pi * max(d @ sigma @ d, 0))
    np.testing.assert_allclose(found.mu_error_limit, want, atol=1e-5)


def exact(num_agents, policy):
    """sqrt(N) E_1 of both types, mu-error / sqrt(N), sqrt(N) relative error, reward, local Q."""
    population = pair_of_types(num_agents)
    chain = je.exchangeable_chain(population, policy)
    mu = je.stationary_distribution(chain)
    rewards = [kind.mdp.reward for kind in population.types]
    found = je.decompose(chain, rewards, discount=0.8, mu=mu)
    E = [oracles.type_entanglement(chain.policy.table, mu, k, 2) for k in range(2)]
    root = np.sqrt(num_agents)
    limits = np.array([*(root * np.array(E)), found.mu_error / root, found.relative_error * root])
    return limits, float(mu @ chain.lift(rewards)) / num_agents, np.concatenate(found.q_local)


def test_exact_values_approach_the_limits():
    """Four and sixteen agents: every number is nearer, and the local values are near."""
    field = je.mean_field(pair_of_types(4), ORDER)
    assert bool(field.unique & field.nondegenerate)
    limit = np.array([*field.entanglement_limit, field.mu_error_limit, field.relative_error_limit])
    used = sum(
        np.asarray(m)[:, None] * np.asarray(p) @ np.array([[0, 0], [1, 0], [1, 1]][: p.shape[1]])
        for m, p in zip(field.configuration, field.policy, strict=True)
    )
    np.testing.assert_allclose(used.sum(0), [0.5, 0.25], atol=EXACT)  # both budgets run out
    few, many = exact(4, ORDER), exact(16, ORDER)
    far = [np.abs(got[0] / limit - 1) for got in (few, many)]
    assert (far[1] < far[0] + 0.01).all()
    assert far[1].max() < 0.15
    assert abs(many[1] - field.average_reward) < 0.25 * abs(few[1] - field.average_reward)
    q = np.concatenate([np.ravel(x) for x in field.local_q])
    visited = np.concatenate([np.ravel(p) for p in field.policy]) > 0
    assert np.abs(many[2] - q)[visited].max() < 0.03


@pytest.mark.slow
def test_the_distance_from_the_limits_falls():
    """N = 8, 16, 24: mu-error and E_1 of type 1 go on to their limits, by the rate of 1 / N."""
    field = je.mean_field(pair_of_types(4), ORDER)
    limit = np.array([field.entanglement_limit[1], field.mu_error_limit])
    far = [np.abs(exact(n, ORDER)[0][[1, 2]] / limit - 1) for n in (8, 16, 24)]
    for near, nearer in itertools.pairwise(far):
        assert (nearer < 0.85 * near).all()
    assert far[-1].max() < 0.1


def tables():
    return [np.array([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]), np.array([[0.7, 0.3], [0.6, 0.4]])]


def test_agents_that_draw_their_actions():
    """Mean and covariance of the shares in runs of 4000 agents, the draw of actions included."""
    population = pair_of_types(4000)
    policy = je.randomized_policy(population, tables())
    field = je.mean_field(population, policy)
    assert field.limit_holds(4000)
    run = jax.jit(
        jax.vmap(lambda key: je.simulate_population(key, population, policy, num_steps=250).counts)
    )(jax.random.split(jax.random.key(0), 8))
    m = np.concatenate([np.asarray(part)[:, 51:] for part in run], axis=-1) / 4000  # [R, T, S]
    far = np.sqrt(4000) * (m - np.concatenate(field.configuration))
    products = far[..., :, None] * far[..., None, :]
    blocks = products.reshape(8 * 10, -1, 4, 4).mean(1)  # means of blocks of 20 steps
    error = blocks.std(0, ddof=1) / np.sqrt(len(blocks))
    assert (np.abs(blocks.mean(0) - field.covariance) <= STANDARD_ERRORS * error + 1e-9).all()
    # Had nothing been drawn: too little.
    still = je.mean_field(population, lambda m: spread(m, field.policy))
    assert (np.diag(field.covariance) > np.diag(still.covariance) + 1e-3).all()


def spread(shares, policy):
    return tuple(m[:, None] * jnp.asarray(p) for m, p in zip(shares, policy, strict=True))


def test_independent_agents_have_no_error():
    """Budgets that nothing exhausts: nobody's action depends on others, drawn or not."""
    population = pair_of_types(40)
    loose = [je.Budget(1.0, per_agent=True)] * 2
    free = je.WeaklyCoupledPopulation(population.types, population.counts, loose, 0.8)
    for policy in (ORDER, je.randomized_policy(free, tables())):
        field = je.mean_field(free, policy)
        np.testing.assert_allclose(field.entanglement_limit, 0, atol=SOLVE)
        np.testing.assert_allclose(field.mu_error_limit, 0, atol=1e-6)
        assert np.diag(field.covariance).min() > 0


def test_a_function_of_shares_is_a_soft_index():
    """A smooth policy of a bandit: every number is that of its own mean field."""
    bandit = je.circulant_bandit(30)
    soft = je.SoftIndex(jnp.array([0.5, 1.0, -0.3, -1.0]), 0.3)
    want = je.mean_field(bandit, soft)

    def split(shares):
        active = shares[0] * soft.chances(shares[0], bandit.budget / bandit.num_agents)
        return (jnp.stack([shares[0] - active, active], axis=1),)

    found = je.mean_field(je.WeaklyCoupledPopulation.from_bandit(bandit), split)
    assert bool(found.converged & found.unique)
    for field in ("linear", "covariance", "mu_error_limit", "relative_error_limit"):
        np.testing.assert_allclose(getattr(found, field), getattr(want, field), atol=1e-10)
    np.testing.assert_allclose(found.entanglement_limit[0], want.entanglement_limit, atol=1e-10)
    np.testing.assert_allclose(found.value_weights[0], want.value_weights, atol=1e-9)
    np.testing.assert_allclose(found.average_reward, want.average_reward, atol=1e-10)
    assert np.isnan(found.limit_holds_from)


def test_what_has_no_limit_is_said():
    """A border, a swing, and two fixed points; the point itself is given."""
    bandit, order = je.named_bandit("degenerate", 10)
    border = je.mean_field(bandit, je.priority_policy(bandit, order))
    assert not bool(border.nondegenerate)
    assert np.isnan(border.mu_error_limit)
    assert np.isfinite(border.configuration[0]).all()
    bandit, order = je.named_bandit("cyclic", 10)
    swing = je.mean_field(bandit, je.priority_policy(bandit, order))
    assert swing.spectral_radius > 1
    assert np.isnan(swing.covariance).all()
    # The drawn wants of the relaxation's optimum run out of budget half of the time.
    fluid = je.randomized_policy(je.circulant_bandit(10), je.fluid_policy(je.circulant_bandit(10)))
    kink = je.mean_field(je.circulant_bandit(10), fluid)
    assert not bool(kink.nondegenerate)
    np.testing.assert_allclose(kink.gap, 0, atol=SOLVE)
    # Agents go where most of them are.
    P = np.array([[[0.9, 0.1], [0.1, 0.9]]] * 2)
    mdp, costs = je.MDP(P, np.zeros((2, 2))), np.zeros((2, 2, 1))
    herd = je.WeaklyCoupledPopulation([(mdp, costs)], [10], [1.0], 0.9)

    def follow(shares):
        m = shares[0]
        active = m * jax.nn.sigmoid(12 * (m[1] - 0.5))
        return (jnp.stack([m - active, active], axis=1),)

    two = je.mean_field(herd, follow)
    assert bool(two.converged)
    assert not bool(two.unique)


def test_the_bound_is_reached_by_its_priority():
    """Where the relaxation is not degenerate its priority earns the bound in the limit."""
    population = pair_of_types(4, seed=45)
    fluid = je.fluid_policy(population)
    assert fluid.nondegenerate
    field = je.mean_field(population, fluid.priority)
    np.testing.assert_allclose(field.gap, 0, atol=SOLVE)
    for m, y in zip(field.configuration, fluid.occupancy, strict=True):
        np.testing.assert_allclose(m, y.sum(1) / 4, atol=SOLVE)
    assert je.mean_field(population, ORDER).gap > 0.01


def test_precision_and_transforms():
    """float32 gives float32; a trace of the kernels gives the same, and has no bound."""
    population = pair_of_types(4)
    want = je.mean_field(population, ORDER)
    single = je.WeaklyCoupledPopulation(
        [
            (je.MDP(jnp.float32(kind.mdp.transition), jnp.float32(kind.mdp.reward)), kind.costs)
            for kind in population.types
        ],
        population.counts,
        population.budgets,
        0.8,
    )
    found = je.mean_field(single, ORDER)
    assert found.covariance.dtype == jnp.float32
    np.testing.assert_allclose(found.mu_error_limit, want.mu_error_limit, rtol=1e-4)
    np.testing.assert_allclose(found.entanglement_limit, want.entanglement_limit, rtol=1e-4)

    def traced(reward):
        kinds = [(je.MDP(population.types[0].mdp.transition, reward), population.types[0].costs)]
        kinds = [*kinds, population.types[1]]
        other = je.WeaklyCoupledPopulation(kinds, (2, 2), population.budgets, 0.8)
        return je.mean_field(other, ORDER)

    again = jax.jit(traced)(population.types[0].mdp.reward)
    np.testing.assert_allclose(again.mu_error_limit, want.mu_error_limit, atol=SOLVE)
    assert np.isnan(again.bound)


def test_what_is_refused():
    population = pair_of_types(4)
    with pytest.raises(ValueError, match="policy: OptimalPolicy says nothing of shares"):
        je.mean_field(population, je.optimal_policy(population))
    with pytest.raises(ValueError, match="policy: IDPolicy says nothing of shares"):
        je.mean_field(population, je.id_policy(population, je.fluid_policy(population)))
    bandit = je.circulant_bandit(5)
    with pytest.raises(ValueError, match=r"policy: is for types of sizes .*, not"):
        je.mean_field(population, je.priority_policy(bandit, je.CIRCULANT_PRIORITY))
    with pytest.raises(ValueError, match="population: MDP is neither"):
        population_mean_field(population.types[0].mdp, ORDER)
    with pytest.raises(ValueError, match=r"order\[0\]: there is no action 3"):
        je.mean_field(population, [(0, 0, 3)])
