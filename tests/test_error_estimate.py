"""The error of an approximation from a log alone: what it is, and how often its interval holds."""

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.data import local_limit, team_features
from jaxent.numerics import memory

from . import logs_of_chains as games
from .reference import cases
from .tolerances import EXACT, SOLVE

KEY = jax.random.key(0)
DISCOUNT = 0.9
DENSE = games.dense()


def tables(value):
    return je.LocalQ(value, np.ones_like(value))


def inside(number, truth):
    return number.lower <= truth <= number.upper


def in_order(found):
    return all(
        x.lower <= x.value <= x.upper and x.standard_error >= 0
        for x in (found, found.centered, found.bias, found.placebo)
    )


@pytest.fixture(scope="module")
def seen():
    """A log of two entangled agents, the tables that it teaches, and their error by the log."""
    path = DENSE.paths(0, 4_000, 1)[:, 0]
    learned = DENSE.learned(path, DISCOUNT)
    log = DENSE.log(path)
    found = je.estimate_approximation_error(KEY, log, tables(learned), discount=DISCOUNT)
    return path, log, learned, found


def test_holds_the_truth(seen):
    """Of the tables at hand, of their limit, and of the mean; and says so."""
    *_, learned, found = seen
    at_hand = DENSE.error(DENSE.lift(learned), DISCOUNT)
    limit = DENSE.error(DENSE.lift(DENSE.limit(DISCOUNT)), DISCOUNT)
    assert in_order(found)
    assert inside(found, DENSE.mu @ abs(at_hand))
    assert inside(found.centered, DENSE.mu @ abs(limit))
    assert inside(found.bias, DENSE.mu @ at_hand)
    assert found.lower > 0
    assert found.placebo.lower == 0
    assert found.ceiling > DENSE.mu @ abs(at_hand)
    assert (found.num_features, found.num_steps) == (16, 3_999)
    for line in ("mean |error|", "less its mean", "mean error", "of the spread"):
        assert line in str(found)


def test_a_table_along_the_log_is_one_more_critic(seen):
    """Only `centered` and `by_pair` speak of the limit; given along the log there is none."""
    path, log, learned, found = seen
    along = DENSE.lift(learned)[path]
    critic = je.estimate_approximation_error(KEY, log, along, discount=DISCOUNT)
    for name in ("value", "lower", "upper", "bias", "ceiling", "scale", "spread", "placebo"):
        np.testing.assert_allclose(getattr(critic, name), getattr(found, name), rtol=SOLVE)
    assert critic.centered != found.centered


def test_unit_and_level(seen):
    """In other units all is that many times as much; a level changes the scale and nothing else."""
    _, log, learned, found = seen
    labels = log.labels

    def again(times, level):
        paid = times * (log.rewards + level)
        moved = je.Trajectory.from_arrays(log.states, log.actions, paid, labels=labels)
        value = times * (learned + level / (1 - DISCOUNT))
        return je.estimate_approximation_error(KEY, moved, tables(value), discount=DISCOUNT)

    for times in (1e-12, 1e12):
        scaled = again(times, 0)
        for a, b in zip(jax.tree.leaves(scaled)[:-2], jax.tree.leaves(found)[:-2], strict=True):
            np.testing.assert_allclose(a / times, b, rtol=1e-6, atol=1e-9)
    moved = again(1, 50)
    for name in ("value", "lower", "upper", "spread", "ceiling", "by_pair"):
        np.testing.assert_allclose(getattr(moved, name), getattr(found, name), rtol=1e-6)
    np.testing.assert_allclose(moved.centered, found.centered, rtol=1e-6)
    assert moved.scale > 100 * found.scale


def test_nothing_to_be_wrong_about():
    log = je.Trajectory.from_arrays(*(np.zeros((400, 2), int) for _ in range(3)))
    found = je.estimate_approximation_error(KEY, log, np.zeros(400), discount=0.99)
    numbers = jax.tree.leaves(found._replace(ceiling=0, num_features=0, num_steps=0))
    assert all((np.asarray(x) == 0).all() for x in numbers)
    assert "0" in str(found)


def test_the_seed_moves_the_placebo_alone(seen):
    _, log, learned, found = seen
    same, other = (
        je.estimate_approximation_error(jax.random.key(k), log, tables(learned), discount=DISCOUNT)
        for k in (0, 1)
    )
    for a, b in zip(same, found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.placebo != found.placebo
    for a, b in zip(other._replace(placebo=0), found._replace(placebo=0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_where_it_is_wrong_adds_up(seen):
    _, log, _, found = seen
    pairs = np.asarray(log.pairs)[:-1]
    for i in range(2):
        share = np.bincount(pairs[:, i], minlength=4) / len(pairs)
        np.testing.assert_allclose(share @ found.by_pair[i], found.centered.value, rtol=SOLVE)


def test_the_ceiling_is_a_mean_of_sums(seen):
    path, log, learned, found = seen
    f = DENSE.lift(learned)[path]
    delta = np.sum(log.rewards, 1)[:-1] + DISCOUNT * f[1:] - f[:-1]
    far = int(np.ceil(np.log(0.01) / np.log(DISCOUNT)))
    sums = [delta[t:] @ DISCOUNT ** np.arange(len(delta) - t) for t in range(len(delta) - far + 1)]
    np.testing.assert_allclose(found.ceiling, np.mean(np.abs(sums)), rtol=SOLVE)


def taught(steps, without=None):
    """What all steps teach, or those from one on, as `LocalSteps` learns it."""
    first, otherwise = (0, np.zeros(steps.shape)) if without is None else without
    return steps.learn(steps.moments(slice(first, len(steps.follows))), otherwise).weights


def test_learned_tables_are_those_of_lstd(seen):
    """And their noise is what one more coin at one step does to the sum, exactly."""
    _, log, learned, _ = seen
    steps = local_limit.local_steps(log, DISCOUNT, None)
    starts = np.arange(log.num_epochs - 1)
    limit = local_limit.learned_limit(steps, starts, [slice(0, 800)])
    value = taught(steps)
    np.testing.assert_allclose(value, learned, rtol=SOLVE)
    np.testing.assert_allclose(
        value, je.lstd_local_q(log, discount=DISCOUNT).value, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(limit.errors.sum(0), 0, atol=SOLVE)
    without = taught(steps, (800, value))
    np.testing.assert_allclose(limit.deltas[1], steps.errors(without).sum(1), rtol=SOLVE)
    later = je.Trajectory.from_arrays(log.states[800:], log.actions[800:], log.rewards[800:])
    again = local_limit.local_steps(later, DISCOUNT, None)
    np.testing.assert_allclose(without, taught(again, (0, value)), rtol=SOLVE)
    one_more_coin(steps, limit, starts)


def one_more_coin(steps, limit, starts):
    signs = np.sign(np.random.default_rng(0).normal(size=len(starts)))
    at, agent, coin = 1_234, 1, 0.7
    paid = steps.paid.copy()
    paid[at, agent] += coin
    moved = steps.values(taught(steps._replace(paid=paid)) - taught(steps))[:-1].sum(1)
    only = np.zeros_like(limit.errors)
    only[at, agent] = coin
    np.testing.assert_allclose(
        limit._replace(errors=only).noise(signs).sum(), signs @ moved, rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0.8, 1.1])
def test_a_critic_of_any_kind(scale):
    """A table of joint pairs that is off in slope and at random, at two horizons."""
    game = games.weakly_coupled(101)
    path = game.paths(3, 6_000, 1)[:, 0]
    for discount in (0.9, 0.99):
        rng = np.random.default_rng(1)
        Q = game.error(0, discount)
        f = scale * Q + 0.1 * rng.normal(size=len(Q))
        found = je.estimate_approximation_error(KEY, game.log(path), f[path], discount=discount)
        e = game.error(f, discount)
        assert in_order(found)
        assert inside(found, game.mu @ abs(e))
        assert inside(found.centered, game.mu @ abs(e - game.mu @ e))
        assert inside(found.bias, game.mu @ e)


def trained(game, path, mixture, seed=0, num_steps=6_000):
    """A critic by Q-learning of the policy's values with replay: tables, added up or mixed.

    VDN: Q_tot = sum_i Q_i. QMIX in a table: Q_tot = sum_i w_i(z) Q_i + c(z), w >= 0, where z is
    what agent 0 is at.
    """
    rng = np.random.default_rng(seed)
    codes = np.stack(game.views, 1)
    reward = game.lift(game.rewards)
    size = codes.max() + 1
    Q = np.zeros((codes.shape[1], size))
    weight, level = np.ones((size, codes.shape[1])), np.zeros(size)
    agents = np.arange(codes.shape[1])

    def total(x):
        own, z = Q[agents, codes[x]], codes[x][..., 0]
        return (weight[z] * own).sum(-1) + level[z]

    for k in range(num_steps):
        t = rng.integers(len(path) - 1)
        x, rate = path[t], 0.5 / (1 + k / 500)
        miss = reward[x] + DISCOUNT * total(path[t + 1]) - total(x)
        z, own = codes[x][0], Q[agents, codes[x]]
        if mixture:
            level[z] += rate / 2 * miss
            weight[z] = np.maximum(weight[z] + rate / 50 * miss * own, 0)
        Q[agents, codes[x]] += rate / len(agents) * weight[z] * miss
    return total(np.arange(len(codes)))


@pytest.mark.parametrize("mixture", [False, True], ids=["VDN", "QMIX"])
@pytest.mark.parametrize("kind", [games.dense, games.weakly_coupled, games.exogenous])
def test_a_trained_critic(kind, mixture):
    """Of whatever quality training left it in."""
    game = kind()
    path = game.paths(2, 5_000, 1)[:, 0]
    f = trained(game, path, mixture)
    found = je.estimate_approximation_error(KEY, game.log(path), f[path], discount=DISCOUNT)
    e = game.error(f, DISCOUNT)
    assert inside(found, game.mu @ abs(e))
    assert inside(found.centered, game.mu @ abs(e - game.mu @ e))
    assert found.upper < found.ceiling


def test_values_of_states():
    """The true V has no error; asked as if it were Q, what actions add counts as one."""
    game = games.weakly_coupled(101, num_agents=2)
    path = game.paths(4, 6_000, 1)[:, 0]
    pairs = np.stack([view[path] for view in game.views], 1)
    paid = np.stack([r[x] for r, x in zip(game.rewards, pairs.T)], 1)
    log = je.Trajectory.from_arrays(pairs // 2, pairs % 2, paid)
    state = np.stack(game.views, 1) // 2 @ [2, 1]
    one = np.eye(4)[state]
    Q = game.error(0, DISCOUNT)
    V = one @ ((one.T @ (game.mu * Q)) / (one.T @ game.mu))
    right, wrong = (
        je.estimate_approximation_error(KEY, log, V[path], discount=DISCOUNT, of_states=of_states)
        for of_states in (True, False)
    )
    assert right.num_features == 4
    assert right.centered.lower == 0
    assert inside(right.bias, 0)
    assert inside(wrong.centered, game.mu @ abs(Q - V))
    assert wrong.centered.lower > right.centered.upper


def test_features_in_place_of_a_table(seen):
    """Columns with the span of the table say the same, but for the ridge; fewer see less."""
    path, log, learned, found = seen
    columns = np.eye(16)[path][:, 1:]
    spanned = je.estimate_approximation_error(
        KEY, log, tables(learned), discount=DISCOUNT, features=columns
    )
    assert spanned.num_features == 16
    np.testing.assert_allclose(spanned[:4], found[:4], rtol=0.02)
    np.testing.assert_allclose(spanned.centered, found.centered, rtol=0.02)
    blind = np.random.default_rng(0).normal(size=(len(path), 2))
    missed = je.estimate_approximation_error(
        KEY, log, tables(learned), discount=DISCOUNT, features=blind
    )
    assert missed.centered.upper < found.centered.lower


def drifting(seed, num_steps, memory=0.8):
    """Two agents at independent places, z' = memory z + noise, and a critic that misses z_0 z_1.

    The team is paid z_0 + z_1 + z_0 z_1. The true value is linear in these, so the error of a
    critic without the product is z_0 z_1 / (1 - discount memory^2), mean size 2 / pi of that.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_steps, 2))
    z = np.empty((num_steps, 2))
    z[0] = noise[0]
    for t in range(1, num_steps):
        z[t] = memory * z[t - 1] + (1 - memory**2) ** 0.5 * noise[t]
    still = np.zeros((num_steps, 2), int)
    paid = z.sum(1) + z.prod(1)
    critic = z.sum(1) / (1 - DISCOUNT * memory)
    truth = 2 / np.pi / (1 - DISCOUNT * memory**2)
    return je.Trajectory.from_arrays(still, still, paid), z, critic, truth


def test_continuous_states():
    """Waves of what was observed show a product that the columns themselves do not."""
    log, z, critic, truth = drifting(0, 10_000)
    waves = je.learning.fourier_features(KEY, z, num_features=60)
    found, flat = (
        je.estimate_approximation_error(KEY, log, critic, discount=DISCOUNT, features=given)
        for given in (waves, z)
    )
    assert in_order(found)
    assert inside(found.centered, truth)
    assert inside(found.bias, 0)
    assert found.centered.upper < 1.4 * truth
    assert found.centered.lower > 0.7 * truth
    assert found.placebo.lower == 0
    assert flat.centered.lower == 0
    assert flat.centered.upper < found.centered.lower


def test_units_of_observations_do_not_matter():
    """Nor where they begin; a column that is constant adds nothing, and wider waves turn less."""
    z = np.random.default_rng(0).normal(size=(300, 2))
    one = je.learning.fourier_features(KEY, z, num_features=7)
    assert one.shape == (300, 7)
    moved = je.learning.fourier_features(KEY, 1e6 * z + [0, 1e7], num_features=7)
    np.testing.assert_allclose(moved, one, atol=1e-6)
    flat = je.learning.fourier_features(KEY, z, num_features=7, bandwidth=1e6)
    np.testing.assert_allclose(flat, flat[:1] + 0 * flat, atol=1e-5)


def test_waves_tend_to_the_gaussian_kernel():
    z = np.random.default_rng(1).normal(size=(40, 3))
    z = (z - z.mean(0)) / z.std(0)
    waves = np.asarray(je.learning.fourier_features(KEY, z, num_features=20_000, bandwidth=1.5))
    distance = ((z[:, None] - z[None]) ** 2).sum(-1)
    # Each product is a mean of 20,000 numbers in [-2, 2] of variance 1 at most.
    np.testing.assert_allclose(waves @ waves.T, np.exp(-distance / 4.5), atol=5 / 20_000**0.5)


@pytest.mark.parametrize(
    ("observations", "options", "message"),
    [
        (np.zeros(9), {}, r"observations: wanted shape \[any, any\], got \[9\]"),
        (np.zeros((9, 2)), {}, "observations: are all alike"),
        (np.full((9, 2), np.nan), {}, r"observations\[0, 0\] is nan"),
        (np.eye(9), {"num_features": 0}, "num_features: 0 is not an integer of at least 1"),
        (np.eye(9), {"bandwidth": 0.0}, "bandwidth: 0 is not a finite number above 0"),
    ],
)
def test_observations_that_will_not_do(observations, options, message):
    with pytest.raises(ValueError, match=message):
        je.learning.fourier_features(KEY, observations, **options)


def test_many_agents_are_counted():
    """8^20 joint pairs: counts stand for them, and agents may share a table."""
    exact = next(case for case in cases("circulant") if case["n_agents"] == 20)
    log = games.circulant_log(1, 5_000, 20)
    types = np.zeros(20, int)
    shared = tables(np.reshape(exact["q_local"], (1, 8)))
    found = je.estimate_approximation_error(KEY, log, shared, discount=0.5, types=types)
    assert in_order(found)
    assert found.num_features < 100
    assert inside(found.centered, exact["mu_error"])
    assert inside(found, exact["mu_error"])
    assert inside(found.bias, 0)
    assert found.lower > 0


def test_the_learned_sum_of_independent_agents_is_not_exact():
    """Nothing is entangled, and yet a short log's sum is far off: the mean is not known."""
    game = games.separable()
    for seed in range(4):
        path = game.paths(seed, 1_000, 1)[:, 0]
        learned = game.learned(path, 0.99)
        found = je.estimate_approximation_error(KEY, game.log(path), tables(learned), discount=0.99)
        truth = game.mu @ abs(game.error(game.lift(learned), 0.99))
        assert found.centered.lower == 0
        assert inside(found, truth)
        assert found.value > found.spread
        assert truth / 3 < found.value < 3 * truth


def test_episodes_and_agents_that_come_and_go():
    """Ends are not bridged; steps at which the team changes are left out, whatever they hold."""
    path = DENSE.paths(5, 20, 200).T.ravel()
    log = DENSE.log(path, episode=np.repeat(np.arange(200), 20))
    learned = je.lstd_local_q(log, discount=DISCOUNT)
    found = je.estimate_approximation_error(KEY, log, learned, discount=DISCOUNT)
    e = DENSE.error(DENSE.lift(np.asarray(learned.value)), DISCOUNT)
    assert found.num_steps == 200 * 19
    assert found.ceiling == np.inf
    assert inside(found, DENSE.mu @ abs(e))

    present = np.ones((len(path), 2), bool)
    present[100:110, 1] = False
    states = np.where(present, log.states, 0)

    def gone(paid):
        rewards = np.where(present, log.rewards, paid)
        run = je.Trajectory(
            states, log.actions, rewards, log.signal, log.episode, log.time, present, log.labels
        )
        return je.estimate_approximation_error(KEY, run, learned, discount=DISCOUNT)

    absent, same = gone(0.0), gone(1e6)
    assert absent.num_steps == found.num_steps - 1  # epochs 100 and 120 begin episodes
    for a, b in zip(absent, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rhythm_is_found_by_the_placebo():
    """States and rewards go by the time of day, so those of another day seem to matter as well."""
    rng = np.random.default_rng(0)
    day = 0.5 + 0.4 * np.sin(np.arange(4_000) * 2 * np.pi / 400)
    states = (rng.random((4_000, 2)) < day[:, None]).astype(int)
    paid = np.stack([day, day], 1) + 0.1 * rng.normal(size=(4_000, 2))
    log = je.Trajectory.from_arrays(states, np.zeros_like(states), paid)
    found = je.estimate_approximation_error(jax.random.key(1), log, np.zeros(4_000), discount=0.9)
    assert found.placebo.lower > 0
    assert "another time" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approximation": np.zeros(7)}, r"approximation: wanted shape \[400\], got \[7\]"),
        ({"approximation": ["a"] * 400}, "approximation: wanted an array of numbers"),
        ({"features": [[1.0], [2.0, 3.0]]}, "features: wanted an array of numbers"),
        ({"approximation": np.full(400, np.nan)}, r"approximation\[0\] is nan"),
        (
            {"approximation": tables(np.zeros((3, 4)))},
            r"approximation.value: wanted shape \[2, 4\]",
        ),
        ({"approximation": tables(np.full((2, 4), np.inf))}, r"approximation.value\[0, 0\] is inf"),
        ({"approximation": tables(np.zeros((2, 4))), "of_states": True}, "of_states: local tables"),
        ({"types": [0, 0]}, "types: are of local tables"),
        ({"features": np.ones((400, 1))}, r"features\[:, 0\] is constant"),
        ({"features": np.zeros((400, 21))}, "features: 21 columns; wanted 1 to 20"),
        ({"features": np.zeros((399, 2))}, r"features: wanted shape \[400, any\]"),
        ({"features": np.full((400, 2), np.inf)}, r"features\[0, 0\] is inf"),
        ({"num_folds": 500}, r"num_folds: 500 is outside 2..399"),
        ({"num_folds": 1}, r"num_folds: 1 is outside"),
        ({"num_batches": 1}, r"num_batches: 1 is outside"),
        ({"num_batches": 50}, "trajectory: 399 steps .* wanted at least 500"),
        ({"confidence": 1.0}, "confidence: 1.0 is outside"),
        ({"discount": 1.0}, "discount: 1 is outside"),
        ({"key": 0}, "key: wanted one of jax.random.key"),
    ],
)
def test_says_what_is_wrong(options, message):
    log = DENSE.log(DENSE.paths(0, 400, 1)[:, 0])
    given = {"key": KEY, "approximation": np.zeros(400), "discount": 0.9, **options}
    key, approximation = given.pop("key"), given.pop("approximation")
    with pytest.raises(ValueError, match=message) as told:
        je.estimate_approximation_error(key, log, approximation, **given)
    assert "\n" not in str(told.value)


def test_says_what_length_would_do():
    game = games.weakly_coupled(101)
    log = game.log(game.paths(0, 210, 1)[:, 0])
    with pytest.raises(ValueError, match=r"210 epochs are too few .* wanted about 300"):
        je.estimate_approximation_error(KEY, log, np.zeros(210), discount=0.9)


def test_more_features_than_memory_holds(monkeypatch):
    log = DENSE.log(DENSE.paths(0, 400, 1)[:, 0])
    given = np.random.default_rng(0).random((400, 20))
    monkeypatch.setattr(memory, "host_memory", lambda: 2**16)
    with pytest.raises(ValueError, match=r"features: 20 numbers at 400 epochs take about .* fewer"):
        je.estimate_approximation_error(KEY, log, np.zeros(400), discount=0.9, features=given)


def test_long_logs_have_fewer_features_unasked(monkeypatch):
    """As many as memory should hold, and no fewer than counts of local pairs."""
    log = games.circulant_log(1, 2_000, 20)
    most = je.estimate_approximation_error(KEY, log, np.zeros(2_000), discount=0.5).num_features
    monkeypatch.setattr(team_features, "_MOST_NUMBERS", 2_000)
    found = je.estimate_approximation_error(KEY, log, np.zeros(2_000), discount=0.5)
    assert found.num_features < most
    assert found.num_features <= 8 + 2


def test_a_log_is_not_traced():
    log = DENSE.log(DENSE.paths(0, 400, 1)[:, 0])
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda f: je.estimate_approximation_error(KEY, log, f, discount=0.9))(np.zeros(400))


GAMES = {
    "dense": games.dense,
    "weakly coupled": games.weakly_coupled,
    "exogenous": games.exogenous,
    "two independent": games.separable,
    "three independent": lambda: games.separable(304, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("discount", [0.9, 0.99])
@pytest.mark.parametrize("name", GAMES)
def test_coverage(name, discount):
    """Of 200 logs of 5000 epochs each; where nothing is entangled the interval holds 0."""
    game = GAMES[name]()
    limit = game.mu @ abs(game.error(game.lift(game.limit(discount)), discount))
    limit = 0 if limit < EXACT / (1 - discount) ** 2 else limit
    held = []
    for path in game.paths(1, 5_000, 200).T:
        learned = game.learned(path, discount)
        found = je.estimate_approximation_error(
            KEY, game.log(path), tables(learned), discount=discount
        )
        e = game.error(game.lift(learned), discount)
        held.append(
            (
                inside(found.centered, limit),
                inside(found, game.mu @ abs(e)),
                inside(found.bias, game.mu @ e),
            )
        )
    centered, value, bias = np.mean(held, 0)
    print(f"{name}, {discount}: centered {centered:.1%}, value {value:.1%}, bias {bias:.1%}")
    assert centered >= (0.9 if limit > 0 else 0.93)
    assert value >= 0.9
    assert bias >= 0.9


@pytest.mark.slow
def test_coverage_by_counts():
    """Twenty agents: the decomposition error, of 100 logs of 5000 epochs."""
    f, held = tables(np.zeros((20, 8))), []
    bandits = [je.circulant_bandit(20)._replace(discount=discount) for discount in (0.9, 0.99)]
    truths = [float(je.ground_truth(b, je.CIRCULANT_PRIORITY).mu_error) for b in bandits]
    for seed in range(100):
        log = games.circulant_log(seed, 5_000, 20)
        found = (je.estimate_approximation_error(KEY, log, f, discount=b.discount) for b in bandits)
        held.append([inside(x.centered, truth) for x, truth in zip(found, truths)])
    print(f"centered {np.mean(held, 0)}")
    assert np.mean(held, 0).min() >= 0.9
