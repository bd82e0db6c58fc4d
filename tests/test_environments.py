"""Rollouts: a small game written here by the methods that JaxMARL's have, and two of theirs."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.data.environment_contract import optional_package


class Relay:
    """Two runners on a track of three fields; a baton moves on if its holder runs.

    An agent sees its own field and whether it holds the baton; both are paid for the last field,
    and the game starts anew.
    """

    agents = ("ann", "bob")

    def __init__(self, noise=0.0, pay_apart=False, space=None):
        self.noise, self.pay_apart = noise, pay_apart
        self.space = SimpleNamespace(n=2) if space is None else space

    def action_space(self, agent):
        return self.space

    def see(self, key, state):
        field, holder = state
        noise = self.noise * jax.random.uniform(key) if self.noise else 0
        return {
            a: {"field": field + noise, "baton": holder == i} for i, a in enumerate(self.agents)
        }

    def reset(self, key):
        state = (jnp.zeros((), int), jnp.zeros((), int))
        return self.see(key, state), state

    def step(self, key, state, actions):
        field, holder = state
        runs = jnp.stack([actions[a] for a in self.agents])[holder]
        field, holder = field + runs, jnp.where(runs == 1, 1 - holder, holder)
        done = field == 3
        paid = jnp.where(done, 1.0, 0.0)
        state = tuple(jnp.where(done, 0, x) for x in (field, holder))
        rewards = {a: paid * (1 + i * self.pay_apart) for i, a in enumerate(self.agents)}
        return self.see(key, state), state, rewards, {"__all__": done}, {}


def run_at_random(key, observations):
    keys = jax.random.split(key, len(observations))
    return {a: jax.random.bernoulli(k).astype(int) for a, k in zip(observations, keys)}


def run_always(key, observations):
    return dict.fromkeys(observations, 1)


KEY = jax.random.key(0)


def play(env=None, policy=run_at_random, num_steps=1500, **options):
    return je.from_jaxmarl(KEY, env or Relay(), policy, num_steps=num_steps, **options)


def test_rows_are_the_game():
    seen = play(shared_reward=True, separate_episodes=True)
    assert seen.labels.agents == ("ann", "bob")
    assert seen.labels.actions == (0, 1)
    # By the order of the leaves: whether it holds the baton, then the field.
    assert seen.labels.states == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    states = np.array(seen.labels.states)[seen.states]  # [T, N, 2]
    baton, field = states[..., 0], states[..., 1]
    assert (baton.sum(1) == 1).all()
    assert (field[:, 0] == field[:, 1]).all()
    runs = (baton * seen.actions).sum(1)
    reached = field[:, 0] + runs == 3
    assert 0.1 < reached.mean() < 0.25  # one in six steps
    np.testing.assert_array_equal(seen.rewards, reached)
    np.testing.assert_array_equal(np.diff(seen.episode), reached[:-1])
    np.testing.assert_array_equal(field[1:, 0], np.where(reached, 0, field[:, 0] + runs)[:-1])
    moved = np.where(runs == 1, 1 - baton[:, 0], baton[:, 0])
    np.testing.assert_array_equal(baton[1:, 0], np.where(reached, 1, moved)[:-1])
    assert seen.num_epochs == 1500  # longer than a stretch
    # The same game as one run, each paid on their own.
    joined = play()
    assert (joined.episode == 0).all()
    assert joined.follows.all()
    np.testing.assert_array_equal(joined.states, seen.states)
    np.testing.assert_array_equal(joined.rewards, np.stack([reached, reached], 1))


def test_the_key_may_still_come_third():
    new = play(num_steps=20)
    with pytest.warns(DeprecationWarning, match="from_jaxmarl: the key comes first now"):
        old = je.from_jaxmarl(Relay(), run_at_random, KEY, num_steps=20)
    np.testing.assert_array_equal(old.states, new.states)
    new = je.from_gymnax(KEY, Walk(1), lambda key, seen: 1, num_steps=9)
    with pytest.warns(DeprecationWarning, match="from_gymnax: the key comes first now"):
        old = je.from_gymnax(Walk(1), lambda key, seen: 1, key=KEY, num_steps=9)
    np.testing.assert_array_equal(old.states, new.states)


def test_encode_makes_the_states():
    seen = play(policy=run_always, num_steps=20, encode=lambda o: o["baton"].astype(int) * 5)
    assert seen.labels.states == (0, 5)
    assert (seen.states.sum(1) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"env": Relay(noise=1.0)}, r"40 different ones in 20 steps.* at most 9; pass encode="),
        ({"env": Relay(noise=np.nan)}, r"observations\[0, 0, 1\] is nan"),
        (
            {"env": Relay(pay_apart=True), "shared_reward": True},
            "agent bob is paid 2 and agent ann",
        ),
        (
            {"env": Relay(space=SimpleNamespace(shape=(2,)))},
            r"the actions of agent ann are no finite set \(SimpleNamespace\)",
        ),
        ({"policy": lambda key, seen: {"ann": 0}}, r"policy: wanted a dict .* \['ann', 'bob'\]"),
        ({"policy": lambda key, seen: {"ann": 0, "bob": 2}}, r"actions\[0, 1\] is 2"),
        ({"encode": lambda o: o["field"] * 0.5}, r"encode: wanted one integer .* float(32|64)"),
        ({"encode": lambda o: o["field"] + 0, "max_states": 2}, "let encode= tell fewer apart"),
        ({"num_steps": 0}, "num_steps: 0 is not an integer"),
        ({"max_states": 0}, "max_states: 0 is not an integer"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        play(**{"policy": run_always, "num_steps": 20, "max_states": 9, **arguments})


def test_by_default_there_may_be_as_many_states_as_an_audit_takes():
    """1023 local pairs: 511 states of two actions; more are refused as soon as they are seen."""

    def seen(observation):
        return (observation["field"] * 1e6).astype(int)

    def play_on(num_steps):
        return play(env=Relay(noise=1.0), policy=run_always, num_steps=num_steps, encode=seen)

    with pytest.raises(ValueError, match=r"in 1024 steps, wanted at most 511; .* 1023 pairs"):
        play_on(10**7)
    assert play_on(500).num_states == 500


def test_who_sees_less_than_others_sees_0_beyond():
    class Uneven(Relay):
        def see(self, key, state):
            return {"ann": jnp.ones(2), "bob": jnp.full(3, state[0])}

    seen = play(Uneven(), num_steps=40)
    assert seen.labels.states == ((0, 0, 0), (1, 1, 0), (1, 1, 1), (2, 2, 2))
    assert (seen.states[:, 0] == 1).all()
    assert (seen.states[:, 1] != 1).all()


@pytest.mark.parametrize(
    ("call", "module", "name"),
    [(je.from_jaxmarl, "jaxmarl", "JaxMARL"), (je.from_gymnax, "gymnax", "gymnax")],
)
def test_names_need_the_extra(call, module, name, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {name}: pip install 'jaxent\[envs\]'"):
        call(KEY, "switch_riddle", run_at_random, num_steps=10)


def test_a_package_that_lacks_a_module_of_its_own(monkeypatch, tmp_path):
    """The module that is missing is named, not the package that is there."""
    (tmp_path / "needs_six.py").write_text("import no_such_module.inner\n")
    (tmp_path / "is_broken.py").write_text("from math import no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"lacks the module no_such_module; .*no_such_module"):
        optional_package("needs_six", "gymnax")
    with pytest.raises(
        ImportError, match=r"gymnax is installed, but cannot be imported: .*no_such"
    ):
        optional_package("is_broken", "gymnax")


class Broken(Relay):
    """The relay with one thing of what `reset` or `step` gives changed."""

    def __init__(self, where, change):
        super().__init__()
        self.where, self.change = where, change

    def reset(self, key):
        given = super().reset(key)
        return self.change(given) if self.where == "reset" else given

    def step(self, key, state, actions):
        given = super().step(key, state, actions)
        return self.change(given) if self.where == "step" else given


def part(k, change):
    return lambda given: (*given[:k], change(given[k]), *given[k + 1 :])


def without_bob(named):
    return {"ann": named["ann"]}


def as_floats(named):
    return jax.tree.map(lambda x: jnp.asarray(x, float), named)


def stacked(named):
    return jnp.stack([x["field"] for x in named.values()])


@pytest.mark.parametrize(
    ("where", "change", "match"),
    [
        ("reset", part(0, without_bob), "env: reset gives no observation of agent bob; an agent"),
        ("step", part(0, without_bob), "env: step gives no observation of agent bob; an agent"),
        ("step", part(2, without_bob), "env: step gives no reward of agent bob"),
        (
            "step",
            part(2, lambda paid: jnp.zeros(2)),
            "env: step gives rewards as .*, wanted a dict",
        ),
        ("reset", part(0, stacked), r"env: reset gives observations as .* \[2\], wanted a dict"),
        (
            "step",
            part(3, lambda ends: {"ann": ends["__all__"]}),
            r'done \(ann\), but not "__all__"',
        ),
        ("step", part(3, lambda ends: ends["__all__"]), r'but not "__all__"'),
        (
            "step",
            part(2, lambda paid: {a: jnp.zeros(3) for a in paid}),
            r"ann a reward of shape \[3",
        ),
        ("step", part(0, as_floats), "reset shows agent ann .*int.*, but step float"),
        ("step", part(1, as_floats), "the state that step gives has other shapes or types"),
        ("reset", lambda given: given[0], "env: reset gives dict, wanted two things"),
        ("step", lambda given: given[:4], "env: step gives 4 of them, wanted five things"),
    ],
)
def test_a_broken_contract_is_named(where, change, match):
    with pytest.raises(ValueError, match=match) as raised:
        play(Broken(where, change), policy=run_always, num_steps=5)
    assert "\n" not in str(raised.value)


def test_an_environment_without_agents():
    with pytest.raises(ValueError, match="env: Walk does not list its agents; wanted"):
        play(Walk(1))
    short = Walk(1)
    short.step = lambda *args: (0, 0, 0.0)
    with pytest.raises(ValueError, match="env: step gives 3 of them, wanted five things"):
        je.from_gymnax(KEY, short, lambda key, seen: 1, num_steps=5)
    with pytest.raises(ValueError, match=r"policy: gives agent ann an action of shape \[2\]"):
        play(policy=lambda key, seen: {a: jnp.zeros(2, int) for a in seen}, num_steps=5)


class Walk:
    """One agent on four fields, in gymnax's words; `flags` ways to end."""

    default_params = 4

    def __init__(self, flags):
        self.flags = flags

    def action_space(self, params):
        return SimpleNamespace(n=2)

    def reset(self, key, params):
        return jnp.zeros((), int), jnp.zeros((), int)

    def step(self, key, state, action, params):
        done = state + action == params
        state = jnp.where(done, 0, state + action)
        return state, state, done.astype(float), *([done] + [False] * (self.flags - 1)), {}


@pytest.mark.parametrize("flags", [1, 2])
def test_one_agent(flags):
    always = lambda key, seen: 1  # noqa: E731
    seen = je.from_gymnax(KEY, Walk(flags), always, num_steps=9, separate_episodes=True)
    np.testing.assert_array_equal(seen.states[:, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(seen.episode, [0, 0, 0, 0, 1, 1, 1, 1, 2])
    np.testing.assert_array_equal(seen.rewards[:, 0], [0, 0, 0, 1, 0, 0, 0, 1, 0])
    assert seen.labels.states == (0, 1, 2, 3)


@pytest.fixture
def foreign(request):
    """Other people's code broadcasts ranks, warns, and mixes integers of both widths.

    Some make their tables when they are imported, so that is done in single precision as well.
    """
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield pytest.importorskip(request.param, exc_type=ImportError)


THEIRS = pytest.mark.filterwarnings("ignore")


@THEIRS
@pytest.mark.parametrize("foreign", ["jaxmarl"], indirect=True)
def test_switch_riddle(foreign):
    def policy(key, seen):
        keys = jax.random.split(key, len(seen))
        return {a: jax.random.randint(k, (), 0, 3) for a, k in zip(seen, keys)}

    seen = je.from_jaxmarl(KEY, "switch_riddle", policy, num_steps=3000, shared_reward=True)
    assert seen.labels.agents == ("agent_0", "agent_1", "agent_2")
    assert seen.labels.states == ((0, 0), (1, 0), (1, 1))  # in the room, and sees the light
    inside = seen.states > 0
    assert (inside.sum(1) == 1).all()
    tells = (inside & (seen.actions == 2)).any(1)
    np.testing.assert_array_equal(seen.rewards != 0, tells)
    np.testing.assert_allclose(inside.mean(0), 1 / 3, atol=0.05)


@THEIRS
@pytest.mark.parametrize("foreign", ["jaxmarl"], indirect=True)
def test_coin_game(foreign):
    def policy(key, seen):
        keys = jax.random.split(key, len(seen))
        return {a: jax.random.randint(k, (), 0, 5) for a, k in zip(seen, keys)}

    env = foreign.make("coin_game", egocentric=True)
    with pytest.raises(ValueError, match=r"observations: .* wanted at most 204; pass encode="):
        je.from_jaxmarl(KEY, env, policy, num_steps=1000)
    own_coin = lambda seen: seen.reshape(9, 4)[:, 2].argmax()  # noqa: E731
    seen = je.from_jaxmarl(KEY, env, policy, num_steps=3000, encode=own_coin)
    assert seen.labels.agents == ("0", "1")
    assert (seen.num_states, seen.num_actions) == (9, 5)
    # Each field is stepped on with chance 1/9: 1 for either coin, -2 if the other takes mine.
    np.testing.assert_allclose(seen.rewards.mean(0), 0, atol=0.1)


@THEIRS
@pytest.mark.parametrize("foreign", ["gymnax"], indirect=True)
def test_gymnax(foreign):
    act = lambda key, seen: jax.random.randint(key, (), 0, 3)  # noqa: E731
    seen = je.from_gymnax(KEY, "Catch-bsuite", act, num_steps=2000, max_states=300)
    assert seen.num_agents == 1
    # A ball falls for nine steps, and is caught or not.
    assert abs((seen.rewards[:, 0] != 0).mean() - 1 / 9) < 0.01
