"""Local values from data: every learner against the limit that theory gives it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.data.chain_log import _sample_path
from tests import oracles
from tests.reference import cases
from tests.tolerances import EXACT, F32, SOLVE, STANDARD_ERRORS

RUNS, STEPS, DISCOUNT = 24, 4_000, 0.7
Trajectory, Labels = jaxent.Trajectory, jaxent.Labels


@pytest.fixture(scope="module")
def system():
    """Two agents of two pairs and a signal of two values, entangled: J = 8."""
    rng = np.random.default_rng(0)
    sizes, views = (2, 2, 2), ((0, 2), (1, 2))
    P = 0.8 * rng.dirichlet(np.ones(8), 8) + 0.2 / 8
    mu = oracles.stationary(P)
    rewards = [rng.normal(size=4), rng.normal(size=4)]
    return P, mu, sizes, views, rewards


@pytest.fixture(scope="module")
def runs(system):
    """Trajectories of the system, stacked."""
    P, mu, sizes, _, rewards = system
    labels = Labels.numbers(agents=2, states=2, actions=1, signals=2)

    def one(key):
        x0, x1, z = jnp.unravel_index(_sample_path(key, jnp.array(P), jnp.array(mu), STEPS), sizes)
        states = jnp.stack([x0, x1], 1)
        paid = jnp.stack([jnp.array(r)[2 * x + z] for r, x in zip(rewards, (x0, x1))], 1)
        still, whole = jnp.zeros(STEPS, jnp.int32), jnp.ones((STEPS, 2), bool)
        time = jnp.arange(STEPS)
        return Trajectory(states, 0 * states, paid, z, still, time, whole, labels)

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), RUNS))


def select(system):
    """0/1 matrices from joint pairs to the views' pairs, `[2, J, X]`."""
    _, _, sizes, views, _ = system
    codes = np.array(list(np.ndindex(sizes)))
    pairs = [codes[:, v[0]] * 2 + codes[:, v[1]] for v in views]
    return np.eye(4)[np.array(pairs)]


def limit(system, trace):
    """Where TD(lambda) goes: Φ'M (I - γλP)^-1 (I - γP) Φ q = Φ'M (I - γλP)^-1 Φ r."""
    P, mu, _, _, rewards = system
    found = []
    for phi, r in zip(select(system), rewards):
        test = phi.T @ np.diag(mu) @ np.linalg.inv(np.eye(8) - DISCOUNT * trace * P)
        found.append(np.linalg.solve(test @ (np.eye(8) - DISCOUNT * P) @ phi, test @ phi @ r))
    return np.array(found)


def assert_within_noise(values, exact):
    """Means over runs within 5 standard errors, which must themselves be small."""
    values = np.asarray(values)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - exact) <= STANDARD_ERRORS * error).all()
    assert (error < 0.03).all()


def test_limits_differ_where_agents_are_entangled(system):
    local, ahead, end = (limit(system, trace) for trace in (0.0, 0.5, 1.0))
    P, mu, _, _, rewards = system
    phi = select(system)
    for i in range(2):
        flow = phi[i].T @ (mu[:, None] * P) @ phi[i]
        transition = flow / flow.sum(1, keepdims=True)
        exact = np.linalg.solve(np.eye(4) - DISCOUNT * transition, rewards[i])
        np.testing.assert_allclose(local[i], exact, atol=SOLVE)
    assert np.abs(local - ahead).max() > 0.01
    assert np.abs(ahead - end).max() > 0.005


def test_lstd_with_a_signal(system, runs):
    learn = jax.jit(jax.vmap(lambda run: jaxent.lstd_local_q(run, discount=DISCOUNT)))
    learned = learn(runs)
    assert_within_noise(learned.value, limit(system, 0.0))
    np.testing.assert_allclose(learned.occupancy.sum(-1), 1, atol=EXACT)


def test_td_with_and_without_traces(system, runs):
    learn = jax.jit(
        jax.vmap(
            lambda run, trace: jaxent.td_local_q(run, discount=DISCOUNT, trace=trace),
            in_axes=(0, None),
        )
    )
    for trace in (0.0, 0.5):
        values = np.asarray(learn(runs, trace).value)
        # The step falls like 1/t, so a bias of order 1/T is left beside the noise.
        error = values.std(0, ddof=1) / np.sqrt(RUNS)
        off = np.abs(values.mean(0) - limit(system, trace))
        assert (off <= STANDARD_ERRORS * error + 10 / STEPS).all()
        assert (error < 0.03).all()


def test_first_visits(system, runs):
    learn = jax.jit(jax.vmap(lambda run: jaxent.monte_carlo_local_q(run, discount=DISCOUNT)))
    learned = learn(runs)
    assert_within_noise(learned.value, limit(system, 1.0))
    spread = np.asarray(learned.value).std(0, ddof=1)
    claimed = np.asarray(learned.standard_error).mean(0)
    assert (spread < 1.6 * claimed).all()
    assert (claimed < 1.6 * spread).all()


def test_first_visits_by_hand():
    states = np.array([[0], [1], [0], [1], [1], [0]])
    rewards = np.array([[1.0], [2], [4], [8], [16], [32]])
    run = Trajectory.from_arrays(states, 0 * states, rewards, episode=[0, 0, 0, 0, 1, 1])
    options = {"discount": 0.5, "ends": True, "segment": 9}
    learned = jaxent.monte_carlo_local_q(run, **options)
    # Episode 0 returns 4, 6, 8, 8 and episode 1 returns 32, 32: pair 0 first at epochs 0 and 5.
    np.testing.assert_allclose(learned.value, [[(4 + 32) / 2, (6 + 32) / 2]], atol=EXACT)
    np.testing.assert_array_equal(learned.visits, [[2, 2]])
    np.testing.assert_allclose(learned.standard_error, [[14, 13]], atol=EXACT)
    shorter = jaxent.monte_carlo_local_q(run, **options | {"segment": 2})
    np.testing.assert_array_equal(shorter.visits, [[3, 3]])
    assert not jaxent.monte_carlo_local_q(run, discount=0.99).visited.any()


def test_flow_by_hand():
    states = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    rewards = np.arange(8.0).reshape(4, 2)
    run = Trajectory.from_arrays(states, 0 * states, rewards, episode=[0, 0, 0, 7])
    each = jaxent.local_flow(run)
    np.testing.assert_array_equal(each.flow, [[[0, 1], [1, 0]], [[0, 0], [1, 1]]])
    np.testing.assert_array_equal(each.reward, [[2, 4], [6, 2]])
    pooled = jaxent.local_flow(run, types=[0, 0])
    np.testing.assert_array_equal(pooled.flow, [[[0, 1], [2, 1]]])
    np.testing.assert_array_equal(pooled.reward, [[(0 + 4 + 5 + 7) / 4, (1 + 2 + 3 + 6) / 4]])


def test_types_pool_exchangeable_agents():
    """A bandit's agents pooled: LSTD, TD and the exact local Q."""
    bandit = jaxent.circulant_bandit(5)
    kernel = np.broadcast_to(bandit.kernel, (5, 4, 2, 4))
    index = np.broadcast_to([2.0, 3.0, 4.0, 1.0], (5, 4))
    reward = jnp.array(np.broadcast_to(bandit.reward, (5, 4, 2)))
    labels = Labels.numbers(agents=5, states=4, actions=2)
    steps = 3_000

    @jax.jit
    @jax.vmap
    def learn(key):
        run = jaxent.simulate_agents(key, kernel, index, budget=1, num_steps=steps)
        states, actions = run.states[:-1], run.actions.astype(jnp.int32)
        paid = reward[jnp.arange(5)[None], states, actions]
        time, whole = jnp.arange(steps), jnp.ones((steps, 5), bool)
        log = Trajectory(states, actions, paid, 0 * time, 0 * time, time, whole, labels)
        types = np.zeros(5, int)
        td = jaxent.td_local_q(log, discount=0.5, types=types)
        return jaxent.lstd_local_q(log, discount=0.5, types=types).value, td.value

    lstd, td = learn(jax.random.split(jax.random.key(3), 12))
    exact = cases("circulant")[0]
    assert exact["n_agents"] == 5
    seen = np.ravel(exact["occupancy"]) > 1e-3
    q = np.ravel(exact["q_local"])[seen]
    assert_within_noise(lstd[:, 0, seen], q)
    error = np.asarray(td[:, 0, seen]).std(0, ddof=1) / np.sqrt(12)
    off = np.abs(np.asarray(td[:, 0, seen]).mean(0) - q)
    assert (off <= STANDARD_ERRORS * error + 10 / steps).all()


def test_features():
    """All features are a table; few are the projected equation; a network finds the table."""
    rng = np.random.default_rng(0)
    flow, reward = rng.random((6, 6)), rng.normal(size=6)
    table = jaxent.lstd_local_q(flow, reward, discount=0.8)
    basis = rng.normal(size=(6, 6))
    full = jaxent.lstd_local_q(flow, reward, discount=0.8, features=basis)
    np.testing.assert_allclose(full.value, table.value, atol=SOLVE)
    phi = basis[:, :2]
    few = jaxent.lstd_local_q(flow, reward, discount=0.8, features=phi)
    residual = flow.sum(1) * (reward - few.value) + 0.8 * flow @ few.value
    np.testing.assert_allclose(phi.T @ residual, 0, atol=SOLVE)
    weight = np.linalg.lstsq(phi, few.value, rcond=None)[0]
    np.testing.assert_allclose(phi @ weight, few.value, atol=SOLVE)
    network = jaxent.network_local_q(jax.random.key(0), flow, reward, discount=0.8)
    np.testing.assert_allclose(network.value, table.value, atol=0.02)


def test_the_key_may_still_come_last():
    key, call = jax.random.key(1), (np.eye(2), np.ones(2))
    options = {"discount": 0.5, "hidden": (4,), "num_steps": 2}
    with pytest.warns(DeprecationWarning, match="network_local_q: the key comes first now"):
        old = jaxent.network_local_q(*call, key=key, **options)
    new = jaxent.network_local_q(key, *call, **options)
    np.testing.assert_array_equal(old.value, new.value)


def shared(states, reward):
    return Trajectory.from_arrays(states, np.zeros_like(states), reward)


def test_shared_reward_is_split():
    """Meta Algorithm 2 against dense least squares, and exact where a split exists."""
    rng = np.random.default_rng(1)
    states = rng.integers(0, 3, (60, 4))
    design = np.eye(3)[states].reshape(60, 12)
    local = rng.normal(size=(4, 3))
    exact = jaxent.fit_local_rewards(shared(states, design @ local.ravel()))
    assert exact.error < SOLVE
    assert exact.converged
    reward = rng.normal(size=60)
    fit = jaxent.fit_local_rewards(shared(states, reward))
    assert fit.converged
    best = design @ np.linalg.lstsq(design, reward, rcond=None)[0]
    np.testing.assert_allclose(design @ fit.reward.ravel(), best, atol=SOLVE)
    np.testing.assert_allclose(fit.error, np.sqrt(np.mean((reward - best) ** 2)), atol=SOLVE)
    # The smallest, weighted by visits.
    visits = np.sqrt(design.sum(0))
    smallest = np.linalg.lstsq(design / visits, reward, rcond=None)[0] / visits
    np.testing.assert_allclose(fit.reward.ravel(), smallest, atol=SOLVE)
    paid = jaxent.with_rewards(shared(states, reward), fit.reward)
    np.testing.assert_allclose(np.sum(paid.rewards, 1), best, atol=SOLVE)
    learned = jaxent.lstd_local_q(paid, discount=0.5)
    assert learned.value.shape == (4, 3)


def test_shared_reward_is_split_in_single_precision():
    """Where agents fix one another (one is in the room) steps would drift along null space."""
    rng = np.random.default_rng(2)
    room = rng.integers(0, 4, 60)
    states = np.where(np.arange(4)[None] == room[:, None], 1 + rng.integers(0, 2, (60, 1)), 0)
    reward = ((room == 1) * (states[:, 1] == 2) + rng.normal(size=60)).astype(np.float32)
    fit = jaxent.fit_local_rewards(shared(states, reward))
    assert fit.reward.dtype == np.float32
    assert fit.converged
    design = np.eye(3)[states].reshape(60, 12)
    best = design @ np.linalg.lstsq(design, reward.astype(float), rcond=None)[0]
    np.testing.assert_allclose(design @ fit.reward.ravel(), best, atol=F32)
    assert np.abs(fit.reward).max() < 10


RUN = shared(np.array([[0, 1], [1, 1], [0, 0]]), np.zeros(3))


@cache
def paid():
    """Made when it is asked for: what a module makes is made by every worker."""
    return jaxent.with_rewards(RUN, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: jaxent.lstd_local_q(RUN, discount=0.5), "share one reward"),
        (lambda: jaxent.lstd_local_q(paid(), np.zeros(2), discount=0.5), "brings its own"),
        (lambda: jaxent.lstd_local_q(np.eye(2), discount=0.5), "a flow needs one"),
        (lambda: jaxent.lstd_local_q(paid(), discount=0.5, features=np.eye(3)), "features"),
        (lambda: jaxent.lstd_local_q(paid(), discount=0.5, types=[0, 2]), r"types: \[0, 2\]"),
        (lambda: jaxent.td_local_q(paid(), discount=0.5, trace=2), "trace: 2 is outside"),
        (
            lambda: jaxent.td_local_q(np.ones((3, 2, 2)), np.ones(2), discount=0.5, trace=0.5),
            "trace: flows do not say",
        ),
        (lambda: jaxent.td_local_q(np.ones((3, 2, 2)), discount=0.5), "flows need one"),
        (lambda: jaxent.monte_carlo_local_q(paid(), discount=0.5, tol=2.0), "tol: 2"),
        (lambda: jaxent.monte_carlo_local_q(paid(), discount=1.0), "discount: 1 is"),
        (lambda: jaxent.fit_local_rewards(paid()), "none to split"),
        (lambda: jaxent.with_rewards(RUN, np.zeros((2, 3))), "reward: wanted shape"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
