"""Agents that see numbers: local values linear in features, and the error of their sum by a log."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.data import local_limit, observed

from . import logs_of_chains as games
from .test_error_estimate import in_order, inside, one_more_coin, taught
from .tolerances import EXACT, SOLVE

KEY = jax.random.key(0)
DISCOUNT = 0.9
learning = je.learning


def seen_as(log, table):
    """The same log of agents that see numbers in the place of their states: `[N, S, d]`."""
    agents = np.arange(log.num_agents)
    numbers = table[agents, np.asarray(log.states)]
    return je.Trajectory.from_arrays(None, log.actions, log.rewards, observations=numbers)


def embedding(seed, num_agents, size):
    """States of every agent as points of R^3: a smooth one-to-one image of points on a line."""
    rng = np.random.default_rng(seed)
    line = np.linspace(-1, 1, size)[None, :, None]
    one, two = rng.normal(size=(2, num_agents, 1, 3))
    return line + 0.3 * np.sin(2 * one * line + two) + two


def one_hot(num_agents, size):
    return np.broadcast_to(np.eye(size), (num_agents, size, size))


@pytest.mark.parametrize("kind", [one_hot, lambda n, s: embedding(0, n, s)], ids=["one-hot", "R^3"])
def test_observations_that_come_again_are_states(kind):
    """The numbers of the table, to rounding, in every field but `by_pair`, which has no states."""
    game = games.dense()
    log = game.log(game.paths(0, 3_000, 1)[:, 0])
    numbers = seen_as(log, kind(2, 4))
    tables = je.LocalQ(game.learned(game.paths(0, 3_000, 1)[:, 0], DISCOUNT), np.ones((2, 4)))
    linear = learning.linear_local_q(KEY, numbers, discount=DISCOUNT)
    agents = np.arange(2)
    np.testing.assert_allclose(linear.value, tables.value[agents, log.states], rtol=SOLVE)
    by_table, by_numbers = (
        je.estimate_approximation_error(KEY, run, values, discount=DISCOUNT)
        for run, values in ((log, tables), (numbers, linear))
    )
    for name in set(by_table._fields) - {"by_pair"}:
        np.testing.assert_allclose(
            getattr(by_numbers, name), getattr(by_table, name), rtol=1e-6, atol=1e-9, err_msg=name
        )


def test_indicators_of_local_pairs_are_a_table():
    """A log without observations has states, and its linear values are those of LSTD."""
    rng = np.random.default_rng(0)
    log = je.Trajectory.from_arrays(
        rng.integers(3, size=(500, 2)), rng.integers(2, size=(500, 2)), rng.normal(size=(500, 2))
    )
    found = learning.linear_local_q(KEY, log, discount=DISCOUNT)
    table = taught(local_limit.local_steps(log, DISCOUNT, None))
    np.testing.assert_allclose(found.weights, table, rtol=SOLVE)
    np.testing.assert_allclose(
        found.value, np.asarray(found.weights)[np.arange(2), np.asarray(log.pairs)], atol=EXACT
    )
    shared = learning.linear_local_q(KEY, log, discount=DISCOUNT, types=[0, 0])
    pooled = taught(local_limit.local_steps(log, DISCOUNT, [0, 0]))
    np.testing.assert_allclose(shared.weights, pooled, rtol=SOLVE)


class Gauss:
    """Two agents, z' = M z + noise of covariance S, paid c_i z_i + d_i z_i^2 each.

    By hand: V = w' z + z' P z + constant with w = (I - g M')^-1 c and P = diag(d) + g M' P M. The
    local law of z_i given z_i has mean m_i z_i, m_i = (M C)_ii / C_ii with C the covariance of z,
    so the local value is c_i z_i / (1 - g m_i) + d_i z_i^2 / (1 - g m_i^2) + constant.
    """

    M = np.array([[0.7, 0.25], [-0.2, 0.6]])
    S = np.array([[0.5, 0.2], [0.2, 0.6]])
    c, d = np.array([1.0, -0.5]), np.array([0.3, 0.4])

    def covariance(self):
        C = np.eye(2)
        for _ in range(500):
            C = self.M @ C @ self.M.T + self.S
        return C

    def values(self, g):
        """Linear and quadratic part of the value of the team, and of the local ones."""
        C = self.covariance()
        w = np.linalg.solve(np.eye(2) - g * self.M.T, self.c)
        P = np.zeros((2, 2))
        for _ in range(2_000):
            P = np.diag(self.d) + g * self.M.T @ P @ self.M
        m = np.diag(self.M @ C) / np.diag(C)
        return w, P, self.c / (1 - g * m), self.d / (1 - g * m**2)

    def error(self, g):
        """Mean |e - mean of e| of the sum of local values, by quadrature."""
        w, P, own, square = self.values(g)
        x, weight = np.polynomial.hermite_e.hermegauss(80)
        z = np.stack(np.meshgrid(x, x), 2).reshape(-1, 2) @ np.linalg.cholesky(self.covariance()).T
        weight = np.outer(weight, weight).ravel() / weight.sum() ** 2
        e = z @ (w - own) + np.einsum("ti,ij,tj->t", z, P - np.diag(square), z)
        return weight @ abs(e - weight @ e)

    def log(self, seed, num_steps):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(num_steps + 50, 2)) @ np.linalg.cholesky(self.S).T
        z = np.zeros_like(noise)
        for t in range(1, len(z)):
            z[t] = self.M @ z[t - 1] + noise[t]
        z = z[50:]
        idle = rng.integers(2, size=z.shape)  # actions that do nothing
        paid = z * self.c + z**2 * self.d
        return je.Trajectory.from_arrays(None, idle, paid, observations=z[:, :, None])


GAUSS = Gauss()


def of_gauss(seed, num_steps):
    log = GAUSS.log(seed, num_steps)
    values = learning.linear_local_q(KEY, log, discount=DISCOUNT)
    return log, values, je.estimate_approximation_error(KEY, log, values, discount=DISCOUNT)


def test_a_linear_gaussian_system():
    """The interval holds the exact error; values of agents that see everything have none."""
    log, values, found = of_gauss(1, 10_000)
    truth = GAUSS.error(DISCOUNT)
    assert in_order(found)
    assert inside(found.centered, truth)
    assert found.centered.lower > 0.7 * truth
    assert found.centered.upper < 1.4 * truth
    assert found.placebo.lower == 0
    *_, own, square = GAUSS.values(DISCOUNT)
    z = log.observations[:, :, 0]
    exact = z * own + z**2 * square
    apart = (values.value - exact) - (values.value - exact).mean(0)
    assert (abs(apart).mean(0) < 0.25 * abs(exact - exact.mean(0)).mean(0)).all()

    shared = learning.joint_features(jax.random.key(5), log)
    everyone = learning.linear_local_q(KEY, log, discount=DISCOUNT, features=shared)
    nothing = je.estimate_approximation_error(KEY, log, everyone, discount=DISCOUNT)
    assert nothing.centered.lower == 0
    assert nothing.centered.upper < found.centered.lower


def continuous(monkeypatch):
    """Observations are taken for continuous however often they come again."""
    monkeypatch.setattr(observed, "_most_states", lambda _: 0)


@pytest.mark.parametrize("seed", range(3))
def test_waves_on_a_tabulated_game(monkeypatch, seed):
    """The exact error of the exact chain is inside, by waves of points in R^3 alone."""
    continuous(monkeypatch)
    game = games.dense()
    log = seen_as(game.log(game.paths(seed, 4_000, 1)[:, 0]), embedding(seed, 2, 4))
    values = learning.linear_local_q(KEY, log, discount=DISCOUNT)
    found = je.estimate_approximation_error(KEY, log, values, discount=DISCOUNT)
    limit = game.mu @ abs(game.error(game.lift(game.limit(DISCOUNT)), DISCOUNT))
    assert found.centered.lower > 0
    assert inside(found.centered, limit)
    assert found.centered.upper < 2 * limit


def test_noise_in_linear_values_is_their_derivative():
    """As of tables: what one more coin at one step does to the sum, exactly."""
    log = GAUSS.log(0, 2_000)
    for types in (None, [0, 0]):
        phi = learning.own_features(KEY, log, num_features=12, types=types)
        steps = local_limit.local_steps(log, DISCOUNT, types, phi)
        starts = np.arange(log.num_epochs - 1)
        limit = local_limit.learned_limit(steps, starts, [slice(0, 400)])
        one_more_coin(steps, limit, starts)
        without = taught(steps, (400, limit.learned.weights))
        np.testing.assert_allclose(limit.deltas[1], steps.errors(without).sum(1), rtol=1e-6)


def test_units_of_observations_and_features_do_not_matter():
    """Nor where they begin."""
    log = GAUSS.log(0, 2_000)
    moved = replace(log, observations=1e6 * log.observations + np.array([3e6]))
    own, other = (learning.linear_local_q(KEY, x, discount=DISCOUNT) for x in (log, moved))
    np.testing.assert_allclose(own.value, other.value, rtol=1e-4, atol=1e-4)
    scaled = learning.linear_local_q(KEY, log, discount=DISCOUNT, features=1e-9 * own.features)
    np.testing.assert_allclose(scaled.value, own.value, rtol=1e-6, atol=1e-9)


def test_agents_that_come_and_go():
    """An absent agent has no features, no value, and what is written there is not read."""
    log = GAUSS.log(0, 2_000)
    present = np.ones((2_000, 2), bool)
    present[100:200, 1] = False

    def gone(number):
        seen = np.where(present[..., None], log.observations, number)
        run = replace(log, present=present, observations=seen)
        return run, learning.linear_local_q(KEY, run, discount=DISCOUNT)

    (run, one), (_, other) = gone(0.0), gone(1e9)
    np.testing.assert_array_equal(one.value, other.value)
    assert (one.value[100:200, 1] == 0).all()
    assert (one.features[100:200, 1] == 0).all()
    found = je.estimate_approximation_error(KEY, run, one, discount=DISCOUNT)
    assert in_order(found)
    assert found.num_steps == 1_999 - 2 - 0


def test_a_signal_is_seen_by_all():
    """Beside observations, by every agent and by the team."""
    rng = np.random.default_rng(0)
    signal = rng.integers(2, size=4_000)
    z = rng.normal(size=(4_000, 2, 1))
    paid = z[..., 0] + 3.0 * signal[:, None]
    idle = np.zeros((4_000, 2), int)
    log = je.Trajectory.from_arrays(None, idle, paid, observations=z, signal=signal)
    values = learning.linear_local_q(KEY, log, discount=0.5).value
    rise = values[signal == 1].mean() - values[signal == 0].mean()
    np.testing.assert_allclose(rise, 3.0, atol=0.2)
    found = je.estimate_approximation_error(
        KEY, log, learning.linear_local_q(KEY, log, discount=0.5), discount=0.5
    )
    assert found.centered.lower == 0


def test_starts_unlike_the_rest():
    """Episodes that begin far out: ends are worth less than starts, and the mean error says so.

    The critic is the local values by hand, without their constants.
    """
    held, g = [], DISCOUNT
    w, P, own, square = GAUSS.values(g)
    constant = g / (1 - g) * np.trace(P @ GAUSS.S)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(200, 25, 2)) @ np.linalg.cholesky(GAUSS.S).T
        z = np.zeros_like(noise)
        z[:, 0] = np.array([2.5, -1.5]) + 0.5 * noise[:, 0]
        for t in range(1, 25):
            z[:, t] = z[:, t - 1] @ GAUSS.M.T + noise[:, t]
        paid = z * GAUSS.c + z**2 * GAUSS.d
        idle = np.zeros(z.shape, int)
        log = je.Trajectory.from_arrays(None, idle, paid, observations=z[..., None])
        critic = (z * own + z**2 * square).sum(2)
        value = z @ w + np.einsum("eti,ij,etj->et", z, P, z) + constant
        e = (value - critic)[:, :-1]
        found = je.estimate_approximation_error(KEY, log, critic.ravel(), discount=g)
        held.append((inside(found, abs(e).mean()), inside(found.bias, e.mean())))
        assert inside(found.centered, abs(e - e.mean()).mean())
    assert np.all(held)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observations": np.zeros((9, 2))}, r"observations: wanted shape \[9, 2, any\]"),
        ({"observations": np.zeros((9, 2, 0))}, "observations: wanted numbers, got float64"),
        ({"observations": np.full((9, 2, 1), "a")}, "observations: wanted numbers, got <U1"),
        ({"observations": np.full((9, 2, 1), np.nan)}, r"observations\[0, 0, 0\] is nan"),
        ({}, "states: leave them out only where observations"),
    ],
)
def test_says_what_is_wrong_with_observations(options, message):
    still = np.zeros((9, 2), int)
    with pytest.raises(ValueError, match=message):
        je.Trajectory.from_arrays(None, still, still, **options)


def test_says_what_is_wrong():
    log = GAUSS.log(0, 400)
    values = learning.linear_local_q(KEY, log, discount=DISCOUNT)
    wide = replace(log, observations=np.random.default_rng(0).normal(size=(400, 2, 9)))
    cases = [
        (lambda: learning.own_features(KEY, wide), "400 rows .* too few .* wanted about 550"),
        (lambda: learning.joint_features(KEY, wide), "400 epochs are too few .* wanted about 1100"),
        (lambda: learning.own_features(KEY, log, num_features=0), "num_features: 0 is not"),
        (
            lambda: learning.linear_local_q(
                KEY, log, discount=DISCOUNT, features=np.zeros((400, 2))
            ),
            r"features: wanted shape \[400, 2, any\]",
        ),
        (
            lambda: learning.linear_local_q(
                KEY, replace(log, rewards=np.zeros(400)), discount=DISCOUNT
            ),
            "agents share one reward",
        ),
        (
            lambda: je.estimate_approximation_error(
                KEY, log, values._replace(value=np.zeros((3, 2))), discount=DISCOUNT
            ),
            r"approximation.value: wanted shape \[400, 2\]",
        ),
        (
            lambda: je.estimate_approximation_error(
                KEY, log, values, discount=DISCOUNT, of_states=True
            ),
            "of_states: local tables",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as told:
            call()
        assert "\n" not in str(told.value)


def test_values_of_one_step():
    """At discount 0 a local value is what is paid, as far as the features go."""
    log = GAUSS.log(0, 2_000)
    found = learning.linear_local_q(KEY, log, discount=0.0)
    apart = abs(found.value - log.rewards)[:-1].mean(0)
    assert (apart < 0.01 * abs(log.rewards - log.rewards.mean(0)).mean(0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("by_waves", [False, True], ids=["as states", "by waves"])
@pytest.mark.parametrize("kind", [games.dense, games.weakly_coupled])
def test_coverage_on_tabulated_games(monkeypatch, kind, by_waves):
    """The exact decomposition error is inside in 90 of 100 logs, seen in R^3."""
    if by_waves:
        continuous(monkeypatch)
    game = kind()
    limit = game.mu @ abs(game.error(game.lift(game.limit(DISCOUNT)), DISCOUNT))
    held = []
    for seed, path in enumerate(game.paths(1, 4_000, 100).T):
        log = seen_as(game.log(path), embedding(seed, len(game.views), 4))
        values = learning.linear_local_q(KEY, log, discount=DISCOUNT)
        found = je.estimate_approximation_error(KEY, log, values, discount=DISCOUNT)
        held.append((inside(found.centered, limit), found.centered.value / limit))
    print(f"held {np.mean(held, 0)}")
    assert np.mean(held, 0)[0] >= 0.9


@pytest.mark.slow
def test_coverage_of_a_linear_gaussian_system():
    """And in 90 of 100 logs of 4,000 steps of the system by hand."""
    truth = GAUSS.error(DISCOUNT)
    found = [of_gauss(seed, 4_000)[2].centered for seed in range(100)]
    print(np.mean([(inside(x, truth), x.value / truth) for x in found], 0))
    assert np.mean([inside(x, truth) for x in found]) >= 0.9
