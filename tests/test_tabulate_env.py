"""Environments that only sample as models, by the methods of three packages and on these."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import games
from .test_environments import THEIRS, Broken, Relay, Walk, foreign, part  # noqa: F401  a fixture
from .tolerances import EXACT, FD, by_precision

KEY = jax.random.key(0)
NUM_KEYS = 200


@cache
def sampled():
    return je.tabulate_env(games.Riddle(), KEY, num_keys=NUM_KEYS, discount=0.9, shared_reward=True)


@cache
def exact():
    return je.tabulate(
        games.riddle_start(), games.riddle, games.riddle_seen, num_actions=(3, 3, 3), discount=0.9
    )


def names(mdp):
    """What tells a state of the riddle apart, for each state."""
    fields = [np.asarray(mdp.states[k]).reshape(mdp.num_states, -1) for k in sorted(mdp.states)]
    return [tuple(row) for row in np.concatenate(fields, 1).astype(int).tolist()]


def dense(mdp):
    """P(s' | s, a), `[S, A, S]`, ends followed by the law of the start."""
    kernel = je.pair_chain(mdp, mdp.join([jnp.full((3, 3), 1 / 3)] * 3)).kernel
    return np.asarray(kernel.matrix()).reshape(mdp.num_states, -1, mdp.num_states)


def test_sampled_against_exact():
    """The same 183 states; steps that are sure exact, others within 4 standard errors."""
    ours, truth = sampled(), exact()
    assert ours.estimated
    assert "estimated: 2538 of 4941 pairs from 200 keys each, the start from 200 keys" in str(ours)
    assert sorted(names(ours)) == sorted(names(truth))
    order = [names(ours).index(s) for s in names(truth)]
    P, mine = dense(truth), dense(ours)[order][:, :, order]
    samples = np.asarray(ours.samples).reshape(183, 27)[order]
    ends = np.asarray(truth.transition[0] == 183).all(-1).reshape(183, 27)
    np.testing.assert_array_equal(samples, np.where(ends, 0, NUM_KEYS))
    apart = np.abs(mine - P) / np.sqrt(np.where((P > 0) & (P < 1), P * (1 - P), 1) / NUM_KEYS)
    assert apart.max() < 5  # the largest of 8000
    assert (apart > 4).mean() < 1e-4
    np.testing.assert_allclose(mine.sum(-1), 1, atol=EXACT)
    paid = np.asarray(ours.rewards).reshape(183, 27)[order]
    np.testing.assert_array_equal(paid, np.asarray(truth.rewards).reshape(183, 27))


def value_of_sum(mdp):
    """The return of a fixed policy, and how wrong VDN's sum is for it."""
    tables = [jnp.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])] * 3
    chain = je.pair_chain(mdp, mdp.join(tables))
    mu = je.stationary_distribution(chain)
    fit = je.fit_additive(chain, mdp.rewards, discount=0.9, mu=mu)
    found = je.approximation_error(chain, mdp.rewards, fit.q_local, discount=0.9, mu=mu)
    return jnp.stack([mu @ fit.q_joint, found.value])


def test_what_sampling_leaves_open_of_an_error():
    """Return and error of the sampled model lie within 4 standard errors of the exact ones."""
    ours, truth = sampled(), value_of_sum(exact())
    for k in range(2):
        found = je.sampling_error(ours, lambda mdp, k=k: value_of_sum(mdp)[k])
        np.testing.assert_allclose(found.value, value_of_sum(ours)[k], rtol=1e-9)
        assert 0 < found.standard_error < 0.2 * abs(float(truth[k])) + 0.1
        assert abs(found.value - truth[k]) < 4 * found.standard_error
        assert "standard error" in str(found)
    assert je.sampling_error(exact(), lambda mdp: value_of_sum(mdp)[0]).standard_error == 0
    with pytest.raises(ValueError, match=r"statistic: gives shape \[2\], wanted one number"):
        je.sampling_error(ours, value_of_sum)


def noisy(num_keys):
    """Two agents with a bit each that flips by chances of their actions; rewards are noisy."""

    class Bits:
        agents = ("a", "b")

        def action_space(self, agent):
            return SimpleNamespace(n=2)

        def see(self, state):
            return {"a": state[0], "b": state[1]}

        def reset(self, key):
            state = jax.random.bernoulli(key, 0.4, (2,)).astype(int)
            return self.see(state), state

        def step(self, key, state, actions):
            flip_key, pay_key, end_key = jax.random.split(key, 3)
            act = jnp.stack([actions["a"], actions["b"]])
            flips = jax.random.bernoulli(flip_key, 0.2 + 0.5 * act[::-1] * state, (2,))
            state = jnp.where(flips, 1 - state, state)
            paid = jax.random.bernoulli(pay_key, 0.3, (2,)) + 2.0 * state
            over = jax.random.bernoulli(end_key, 0.1)
            _, first = self.reset(end_key)
            state = jnp.where(over, first, state)
            rewards = dict(zip(self.agents, paid))
            return self.see(state), state, rewards, {"__all__": over}, {}

    return je.tabulate_env(Bits(), KEY, num_keys=num_keys, discount=0.8)


def mean_reward(mdp, chances, start):
    """Of uniform play, by NumPy; an end leads to the law of the start."""
    S, K = len(start), chances.shape[-1]
    to, chances = np.asarray(mdp.transition[0]).reshape(S, 4, K), chances.reshape(S, 4, K)
    P = np.zeros((S, S + 1))
    np.add.at(P, (np.arange(S)[:, None, None], to), chances / 4)
    P = P[:, :S] + P[:, S:] * start
    r = (np.asarray(mdp.paid).sum(-1).reshape(S, 4, -1) * chances).sum((1, 2)) / 4
    return np.linalg.solve(np.eye(S) - P.T + 1, np.ones(S)) @ r


def test_standard_error_of_the_delta_method():
    """Slopes by differences of a dense solution, and the variance of multinomials, in NumPy."""
    mdp, number, h = noisy(60), 60, 1e-6
    laws = [np.asarray(mdp.transition[1], float), np.asarray(mdp.start, float)]
    assert mdp.start_samples == number
    np.testing.assert_array_equal(mdp.samples, number)
    variance = 0
    for which, law in enumerate(laws):
        slope = np.zeros(law.shape)
        for place in np.ndindex(law.shape):
            ends = []
            for step in (h, -h):
                moved = [x.copy() for x in laws]
                moved[which][place] += step
                ends.append(mean_reward(mdp, *moved))
            slope[place] = (ends[0] - ends[1]) / (2 * h)
        mean = (law * slope).sum(-1)
        variance += ((law * slope**2).sum(-1) - mean**2).sum() / (number - 1)
    uniform = mdp.join([jnp.full((2, 2), 0.5)] * 2)

    def statistic(model):
        return je.average_reward(je.pair_chain(model, uniform), model.rewards)

    found = je.sampling_error(mdp, statistic)
    np.testing.assert_allclose(found.value, mean_reward(mdp, *laws), rtol=1e-9)
    np.testing.assert_allclose(found.standard_error, np.sqrt(variance), rtol=by_precision(1e-6, FD))
    assert "standard error" in str(found)
    sure = replace(mdp, samples=jnp.zeros_like(mdp.samples), start_samples=0)
    assert je.sampling_error(sure, statistic).standard_error == 0
    with pytest.raises(ValueError, match=r"statistic: gives shape \[2\], wanted one number"):
        je.sampling_error(mdp, lambda model: jnp.zeros(2))


def test_the_delta_method_covers():
    """Of 400 models redrawn by the law of the sampling: how many intervals hold the truth."""
    model, number, repeats = noisy(4000), 60, 400
    chances, start = (np.asarray(x, float) for x in (model.transition[1], model.start))
    chances = chances / chances.sum(-1, keepdims=True)
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(number, chances, (repeats, *chances.shape[:-1])) / number
    begun = rng.multinomial(number, start, repeats) / number
    few = replace(model, samples=jnp.full(model.samples.shape, number), start_samples=number)

    def statistic(mdp):
        chain = je.pair_chain(mdp, mdp.join([jnp.array([[0.7, 0.3], [0.4, 0.6]])] * 2))
        mu = je.stationary_distribution(chain)
        rewards = mdp.mean_rewards(mu)
        error = je.decomposition_error(chain, rewards, discount=0.8, shared=mdp.rewards, mu=mu)
        return jnp.stack([je.average_reward(chain, mdp.rewards, mu=mu), error])

    def both(chances, start):
        mdp = few.with_chances(chances, start)
        return [je.sampling_error(mdp, lambda m, k=k: statistic(m)[k]) for k in range(2)]

    truth = statistic(model)
    found = jax.jit(lambda c, s: jax.lax.map(lambda x: both(*x), (c, s), batch_size=50))(
        drawn, begun
    )
    # Of the return as promised; an error, a mean of absolute values, is too large in the mean by up
    # to its standard error.
    least = (0.95 - 4 * (0.95 * 0.05 / repeats) ** 0.5, 0.85)
    for k, (value, error) in enumerate(found):
        held = np.abs(value - truth[k]) < 1.96 * error
        assert held.mean() > least[k]
        np.testing.assert_allclose(np.mean(error), np.std(value), rtol=0.2)
        assert -0.2 < (np.mean(value) - truth[k]) / np.std(value) < (0.2, 1.2)[k]


def test_sure_steps_are_exact():
    """The relay of test_environments: nothing is random, so nothing is estimated."""
    mdp = je.tabulate_env(KEY, Relay(), num_keys=2)  # the key may stand first
    assert not mdp.estimated
    # By field and holder: one starts with the baton, and it changes hands with each step.
    assert mdp.num_states == 3
    assert mdp.transition[0][..., 0].tolist() == [
        [[0, 0], [1, 1]],
        [[1, 2], [1, 2]],
        [[2, 2], [0, 0]],
    ]
    assert mdp.num_actions == (2, 2)
    assert np.argwhere(np.asarray(mdp.paid).sum((-1, -2)) > 0).tolist() == [[2, 1, 0], [2, 1, 1]]
    shared = je.tabulate_env(Relay(), KEY, num_keys=2, shared_reward=True)
    np.testing.assert_array_equal(2 * shared.rewards, np.asarray(mdp.paid).sum((-1, -2)))


@pytest.mark.parametrize("flags", [1, 2])
def test_one_agent(flags):
    mdp = je.tabulate_env(Walk(flags), KEY, num_keys=3, discount=0.5)
    assert mdp.transition[0][..., 0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 0]]
    assert mdp.rewards[0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


class Seen(NamedTuple):
    place: jax.Array
    step: jax.Array


class Specified:
    """Two agents in Jumanji's words: each is on a place of three and may go on, where ice lets it;
    the state holds the key and a clock."""

    def __init__(self, ice=0.5, key_of=lambda key: key, num_values=(2, 2)):
        self.ice, self.key_of = ice, key_of
        self.action_spec = SimpleNamespace(num_values=num_values)

    def timed(self, state, reward, last):
        seen = Seen(state["place"], state["clock"])
        return state, SimpleNamespace(observation=seen, reward=reward, last=lambda: last)

    def reset(self, key):
        state = {"place": jnp.zeros(2, int), "clock": jnp.zeros((), int), "key": self.key_of(key)}
        return self.timed(state, jnp.zeros(2), jnp.array(False))

    def step(self, state, action):
        key = state["key"] if self.key_of(KEY) is KEY else jax.random.wrap_key_data(state["key"])
        key, slip = jax.random.split(key)
        goes = action * jax.random.bernoulli(slip, 1 - self.ice, (2,))
        place = (state["place"] + goes) % 3
        state = {"place": place, "clock": state["clock"] + 1, "key": self.key_of(key)}
        return self.timed(state, (place == 0).astype(float), (place == 2).all())


@pytest.mark.parametrize("key_of", [lambda key: key, jax.random.key_data])
def test_keys_in_a_state(key_of):
    """They are what is random, and no part of the state; clocks are dropped by strip and encode."""
    env = Specified(key_of=key_of) if key_of is jax.random.key_data else Specified()
    options = {"encode": lambda seen: seen.place, "strip": lambda state: state["place"]}
    mdp = je.tabulate_env(env, KEY, num_keys=50, **options)
    assert mdp.num_states == 8  # (2, 2) is where it ends
    assert mdp.num_observations == (3, 3)
    chance = np.asarray(mdp.transition[1])
    np.testing.assert_array_equal(chance[:, 0, 0].max(-1), 1)
    assert (mdp.samples[:, 0, 0] == 0).all()
    assert (mdp.samples[:, 1, 1] == 50).all()
    assert abs(chance[0, 1, 0].max() - 0.5) < 0.3


def test_a_clock_is_named_where_there_are_too_many_states():
    with pytest.raises(ValueError, match=r"max_states: .* \[0\]\['clock'\] takes \d+"):
        je.tabulate_env(Specified(0.0), KEY, num_keys=2, max_states=30)


@pytest.mark.parametrize(
    ("env", "options", "match"),
    [
        (object(), {}, "env: object has neither `agents`"),
        (games.Riddle(), {"num_keys": 1}, "num_keys: 1 key cannot tell"),
        (games.Riddle(), {"num_keys": 0}, "num_keys: 0 is not"),
        (Relay(pay_apart=True), {"shared_reward": True}, r"shared_reward: in state 2 .* \['ann'"),
        (Relay(space=SimpleNamespace(shape=(2,))), {}, "actions of agent ann are no finite set"),
        (Specified(num_values=None), {}, "no finite set"),
        (Relay(noise=1.0), {"max_states": 20}, "max_states: .* states met after"),
        (
            Broken("step", part(2, lambda x: dict.fromkeys(x, np.nan))),
            {},
            "pays a reward that is not",
        ),
        (Walk(1), {"strip": lambda s: (), "encode": lambda o: ()}, "strip, encode: leave nothing"),
        (Relay(noise=np.nan), {}, r"initial\[0\] has a NaN in \[1\]\[0\]\['field'\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(env, options, match):
    with pytest.raises(ValueError, match=match) as raised:
        je.tabulate_env(env, KEY, **{"num_keys": 2, **options})
    assert "\n" not in str(raised.value)


def test_a_step_of_another_form_is_named():
    class Growing(Walk):
        def step(self, key, state, action, params):
            state, _, *rest = super().step(key, state, action, params)
            return jnp.stack([state, state]), state, *rest

    with pytest.raises(ValueError, match=r"reset gives observations with .* int\d+\[\], but step"):
        je.tabulate_env(Growing(1), KEY, num_keys=2)


@THEIRS
@pytest.mark.parametrize("foreign", ["jaxmarl"], indirect=True)
def test_switch_riddle_of_the_package(foreign):  # noqa: F811
    env = foreign.make("switch_riddle")
    mdp = je.tabulate_env(env, KEY, num_keys=30, shared_reward=True)
    assert mdp.num_states == 183
    assert mdp.num_observations == (3, 3, 3)
    by_hand = exact()
    assert sorted(np.unique(mdp.rewards)) == [-1, 0, 1]
    np.testing.assert_allclose(mdp.rewards.sum(), by_hand.rewards.sum())


@THEIRS
@pytest.mark.parametrize("foreign", ["gymnax"], indirect=True)
def test_catch_of_the_package(foreign):  # noqa: F811
    env, _ = foreign.make("Catch-bsuite")
    mdp = je.tabulate_env(env, KEY, num_keys=30)
    assert mdp.start_samples == 30  # a ball may fall in any of five columns
    assert not np.any(mdp.samples)
    assert 150 < mdp.num_states < 250


@THEIRS
@pytest.mark.parametrize("foreign", ["jumanji"], indirect=True)
def test_foraging_of_the_package(foreign):  # noqa: F811
    from jumanji.environments import LevelBasedForaging
    from jumanji.environments.routing.lbf.generator import RandomGenerator

    generator = RandomGenerator(grid_size=5, fov=5, num_agents=2, num_food=1, force_coop=True)
    env = LevelBasedForaging(generator=generator, time_limit=10**6)
    one = SimpleNamespace(
        action_spec=env.action_spec, reset=lambda key: env.reset(KEY), step=env.step
    )
    mdp = je.tabulate_env(
        one,
        KEY,
        num_keys=2,
        encode=lambda seen: seen.agents_view,
        strip=lambda state: (state.agents, state.food_items),
    )
    assert not mdp.estimated
    assert mdp.num_actions == (6, 6)
    np.testing.assert_allclose(np.asarray(mdp.paid).sum(-1).max(), 1)  # the food, shared
