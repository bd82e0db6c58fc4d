"""Rollouts of policies as people have them, in small games whose rules plain Python replays."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.auditing import learned_sum

from .relays import (
    KEY,
    NAMES,
    Bits,
    ParallelRing,
    RestartingRing,
    Ring,
    SpecifiedRing,
    at_random,
    replay,
)
from .tolerances import EXACT, by_precision


def in_numpy(key, observations, masks):
    """The same for NumPy."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    laws = {a: m / m.sum() for a, m in masks.items()}
    return je.Acted({a: rng.choice(len(law), p=law) for a, law in laws.items()}, laws)


def played(seen):
    """What a log holds, by place."""
    labels = np.array([np.atleast_1d(x) for x in seen.labels.states])
    rows = labels[seen.states] * seen.present[..., None]
    return rows, seen.present, seen.rewards, seen.episode


def assert_is_replayed(seen, limit, num_envs=1, separate=False, tells=True):
    """Row for row what plain Python makes of the same actions."""
    runs = np.split(np.asarray(seen.actions), num_envs)
    episode = 0
    for e, actions in enumerate(runs):
        rows = slice(e * len(actions), (e + 1) * len(actions))
        wanted = list(replay(actions, limit, separate, tells))
        wanted[3] = wanted[3] + episode
        episode = wanted[3][-1] + 1
        for ours, theirs in zip(played(seen), wanted):
            np.testing.assert_allclose(ours[rows], theirs, atol=EXACT)


@pytest.mark.parametrize(
    ("limit", "separate", "num_envs"),
    [(None, False, 5), (None, True, 1), (7, False, 1), (7, True, 5)],
)
def test_rows_are_the_game(limit, separate, num_envs):
    """Agents that go out, ends for good and by the clock, masks, and many environments at once."""
    options = {"num_envs": num_envs, "time_limit": limit, "separate_episodes": separate}
    seen = je.rollout(KEY, Ring(), at_random, num_steps=80, **options)
    assert seen.num_epochs == 80 * num_envs
    assert seen.labels.agents == NAMES
    assert_is_replayed(seen, limit, num_envs, separate, tells=False)
    assert not seen.present.all()
    # What follows what: never over an end by the clock, nor from one environment to the next.
    assert (seen.episode.max() > num_envs - 1) == (separate or limit is not None)
    last = np.flatnonzero(np.diff(seen.episode))
    assert not seen.follows[last].any()


def test_each_environment_has_a_key_of_its_own():
    """Environment e of E plays as one alone does with its key."""
    both = je.rollout(KEY, Ring(), at_random, num_steps=30, num_envs=2, time_limit=6)
    alone = je.rollout(jax.random.split(KEY, 2)[1], Ring(), at_random, num_steps=30, time_limit=6)
    np.testing.assert_array_equal(both.actions[30:], alone.actions)


def test_a_game_that_starts_anew_by_itself():
    """The same log; the clock of the call shows what is seen last, unless the game ends then."""
    seen = je.rollout(KEY, RestartingRing(), at_random, num_steps=80)
    assert_is_replayed(seen, None)

    def stays(key, observations, masks):
        return je.Acted(at_random(key, observations, masks).actions | {"a": 0})

    seen = je.rollout(KEY, RestartingRing(), stays, num_steps=80, time_limit=5)
    assert_is_replayed(seen, 5)
    assert seen.episode[-1] == 79 // 6


@pytest.mark.parametrize(("ring", "rows"), [(Ring, 3), (RestartingRing, 2), (ParallelRing, 3)])
def test_an_end_as_the_time_is_up_is_the_clocks(ring, rows):
    """Two meet at step 2. Where that starts anew by itself, the last row is lost, not the end."""

    def meet(key, observations, carry):
        return je.Acted({"a": 1, "b": jnp.where(carry == 0, 2, 0), "c": 0}, carry=carry + 1)

    options = {"num_steps": 60, "carry": 0, "encode": lambda seen: 0}
    ring = ring(99) if ring is ParallelRing else ring()
    seen = je.rollout(KEY, ring, meet, time_limit=2, **options)
    np.testing.assert_array_equal(seen.episode, np.arange(60) // rows)
    anew = je.rollout(KEY, ring, meet, time_limit=3, **options)
    assert (anew.episode == 0).all()
    np.testing.assert_array_equal(anew.actions[:, 1], np.arange(60) % 2 * -2 + 2)


def test_the_words_of_jumanji():
    """Masks in what is seen, agents out by their discounts, its own clock told from an end."""

    def policy(key, observations, masks):
        for i in range(3):
            assert masks[i] is observations[i].action_mask
        return at_random(key, observations, masks)

    keep = lambda agent, seen: jnp.stack([seen.place, seen.clock])  # noqa: E731
    seen = je.rollout(KEY, SpecifiedRing(6), policy, num_steps=120, num_envs=2, features=keep)
    assert seen.labels.agents == (0, 1, 2)
    assert seen.num_states == 1
    for e in range(2):
        rows = slice(120 * e, 120 * (e + 1))
        wanted, present, paid, episode = replay(seen.actions[rows], 6)
        np.testing.assert_array_equal(seen.observations[rows, :, 0], wanted_places(wanted))
        np.testing.assert_array_equal(seen.present[rows], present)
        np.testing.assert_allclose(seen.rewards[rows], paid, atol=EXACT)
        np.testing.assert_array_equal(np.diff(seen.episode[rows]), np.diff(episode))
    assert seen.episode.max() > 10
    assert (seen.observations[..., 1] <= 1).all()


def wanted_places(rows):
    return np.stack([rows[:, 0, 0], rows[:, 1, 1], rows[:, 2, 0]], 1)


@pytest.mark.parametrize("limit", [6, 1000])
def test_the_words_of_pettingzoo(limit):
    """A loop in Python, policies on NumPy; who is out is not asked."""

    def policy(key, observations, masks):
        assert all(isinstance(x, np.ndarray) for x in observations.values())
        assert set(masks) == set(observations)
        return in_numpy(key, observations, masks)

    seen = je.rollout(KEY, ParallelRing(limit), policy, num_steps=150)
    assert_is_replayed(seen, limit)
    np.testing.assert_allclose(seen.action_laws.sum(-1), seen.present, atol=EXACT)
    again = je.rollout(KEY, ParallelRing(limit), policy, num_steps=150)
    np.testing.assert_array_equal(seen.actions, again.actions)


def test_one_agent_whose_clock_is_told():
    """gymnax's words: the two ways to end, and a step that shows what is seen last."""

    class Walk:
        default_params = SimpleNamespace(fields=3, limit=4)

        def action_space(self, params):
            return SimpleNamespace(n=2)

        def reset(self, key, params):
            return jnp.zeros((), int), (jnp.zeros((), int), jnp.zeros((), int))

        def step_env(self, key, state, action, params):
            place, clock = state[0] + action, state[1] + 1
            return place, (place, clock), 1.0 * place, place >= params.fields, {}

        def is_truncated(self, state, params):
            return state[1] >= params.limit

        def step(self, key, state, action, params):
            raise AssertionError("hides what is seen last")

    seen = je.from_gymnax(KEY, Walk(), lambda key, seen: (seen < 1).astype(int), num_steps=10)
    np.testing.assert_array_equal(seen.states[:, 0], [0, 1, 1, 1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(seen.episode, [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(seen.rewards[:, 0], [1, 1, 1, 1, 0] * 2)
    # Three steps lead to the end, which is one of the chain.
    seen = je.rollout(KEY, Walk(), lambda key, seen: {0: 1}, num_steps=9)
    np.testing.assert_array_equal(seen.states[:, 0], [0, 1, 2] * 3)
    assert seen.follows.all()
    short = SimpleNamespace(fields=9, limit=2)
    seen = je.rollout(KEY, Walk(), lambda key, seen: {0: 1}, num_steps=9, params=short)
    np.testing.assert_array_equal(seen.states[:, 0], [0, 1, 2] * 3)
    np.testing.assert_array_equal(seen.episode, np.arange(9) // 3)


class Gym:
    """One agent in gymnasium's words; the fifth step is the clock's."""

    observation_space = None
    action_space = SimpleNamespace(n=3)

    def reset(self, seed=None):
        self.place = 0
        return np.array([0.0]), {"action_mask": np.array([1, 1, 0])}

    def step(self, action):
        self.place += 1
        mask = {"action_mask": np.array([1, 1, self.place == 2])}
        return np.array([self.place / 2]), float(action), False, self.place == 5, mask


def test_one_agent_in_python():
    def policy(key, observations, masks):
        return {0: int(np.flatnonzero(masks[0])[-1])}

    seen = je.rollout(KEY, Gym(), policy, num_steps=12, features=True)
    np.testing.assert_array_equal(seen.observations[:, 0, 0], [0, 0.5, 1, 1.5, 2, 2.5] * 2)
    np.testing.assert_array_equal(seen.actions[:, 0], [1, 1, 2, 1, 1, 1] * 2)
    np.testing.assert_array_equal(seen.rewards[:, 0], [1, 1, 2, 1, 1, 0] * 2)
    np.testing.assert_array_equal(seen.episode, np.arange(12) // 6)


def test_a_truncated_agent_leaves_a_last_row():
    """In PettingZoo one may be truncated while the others go on, and another may come later."""

    class Comes:
        possible_agents = ("x", "y", "z")

        def action_space(self, agent):
            return SimpleNamespace(n=2)

        def reset(self, seed=None):
            self.clock = 0
            return {"x": 0, "y": 0}, {}

        def step(self, actions):
            self.clock += 1
            wanted = {1: {"x", "y"}, 2: {"x", "y"}, 3: {"y", "z"}, 4: {"y", "z"}}
            assert set(actions) == wanted[self.clock]
            who = set(actions) | ({"z"} if self.clock == 2 else set())
            over = self.clock == 4
            # Of x it goes on to tell, as some do.
            seen = dict.fromkeys(who | {"x"}, self.clock)
            late = {a: a == "x" and self.clock >= 2 for a in seen}
            ends = {a: over and a != "x" for a in seen}
            return seen, dict.fromkeys(actions, 1.0), ends, late, {}

    def policy(key, observations):
        return dict.fromkeys(observations, 1)

    seen = je.rollout(KEY, Comes(), policy, num_steps=8, shared_reward=False)
    there = [[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]]
    np.testing.assert_array_equal(seen.present, np.array(there * 2, bool))
    paid = [[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1]]
    np.testing.assert_array_equal(seen.rewards, paid * 2)
    np.testing.assert_array_equal(seen.follows[2], [False, True, True])
    np.testing.assert_array_equal(seen.follows[3], [False, True, False])


def test_a_recurrent_policy_starts_anew_with_each_game():
    """It counts its steps; a carry of several leaves, for each of many environments."""

    def policy(key, observations, carry):
        assert carry["count"].shape == ()
        acts = dict.fromkeys(NAMES, carry["count"] % 2)
        carry = {"count": carry["count"] + 1, "seen": carry["seen"] + observations["c"]}
        return je.Acted(acts, carry=carry)

    carry = {"count": 0, "seen": jnp.zeros(2, int)}
    options = {"carry": carry, "time_limit": 6, "num_envs": 3, "separate_episodes": True}
    seen = je.rollout(KEY, Ring(), policy, num_steps=70, **options)
    np.testing.assert_array_equal(
        seen.actions[:, 0][seen.present[:, 0]], (seen.time % 2)[seen.present[:, 0]]
    )
    assert_is_replayed(seen, 6, 3, True, tells=False)
    assert len(np.unique(seen.episode)) > 12

    def in_python(key, observations, carry):
        return je.Acted(dict.fromkeys(observations, carry % 2), carry=carry + 1)

    seen = je.rollout(KEY, ParallelRing(6), in_python, num_steps=70, carry=0)
    there = seen.present[:, 0]
    np.testing.assert_array_equal(seen.actions[there, 0], seen.time[there] % 2)
    assert_is_replayed(seen, 6)


def test_a_recurrent_policy_against_the_exact_chain():
    """Pairs occur as often as by the law of (bits, memory), within 4 standard errors of 64 runs."""

    def policy(key, observations, carry):
        keys = jax.random.split(key, 2)
        slips = [jax.random.bernoulli(k, 0.1).astype(int) for k in keys]
        acts = {a: carry[i] ^ slips[i] for i, a in enumerate(observations)}
        return je.Acted(acts, carry=jnp.stack(list(observations.values())))

    steps = 60
    seen = je.rollout(KEY, Bits(), policy, num_steps=steps, num_envs=64, carry=jnp.ones(2, int))
    # The chain over (bits, memory, action), each of two: its law at every step, from the start.
    law, mean = np.zeros((2,) * 4), np.zeros((2, 2))
    law[0, 0, 1, 1] = 1
    for _ in range(steps):
        after = np.zeros_like(law)
        for (s, t, m, n), chance in np.ndenumerate(law):
            for a, b in np.ndindex(2, 2):
                p = chance * (0.9 if a == m else 0.1) * (0.9 if b == n else 0.1)
                mean[s, a] += p / steps
                first, second = 0.2 + 0.5 * b * s, 0.2 + 0.5 * a * t
                for x, y in np.ndindex(2, 2):
                    to = p * (first if x != s else 1 - first) * (second if y != t else 1 - second)
                    after[x, y, s, t] += to
        law = after
    pairs = (seen.states[:, 0] * 2 + seen.actions[:, 0]).reshape(64, steps)
    for pair in range(4):
        shares = (pairs == pair).mean(1)
        error = shares.std(ddof=1) / 8
        assert abs(shares.mean() - mean.ravel()[pair]) < 4 * error


def test_recorded_laws_feed_the_audit():
    """Agent a reads the bit of b: by the laws it is entangled, and b is not."""

    def policy(key, observations):
        b = observations["b"]
        laws = {
            "a": jnp.stack([0.9 - 0.6 * b, 0.1 + 0.6 * b]),
            "b": jnp.stack([0.5 + 0.2 * b, 0.5 - 0.2 * b]),
        }
        keys = dict(zip(laws, jax.random.split(key)))
        return je.Acted({k: jax.random.categorical(keys[k], jnp.log(laws[k])) for k in laws}, laws)

    seen = je.rollout(KEY, Bits(), policy, num_steps=2000)
    assert seen.action_laws.shape == (2000, 2, 2)
    np.testing.assert_allclose(seen.action_laws[:, 0, 1], 0.1 + 0.6 * seen.states[:, 1], atol=EXACT)
    report = je.audit(seen, discount=0.9, policy=seen.action_laws)
    # Eq. (10): what of its law the bit of a alone does not tell, weighted by how often it is seen.
    own = seen.states[:, 0]
    spread = 0
    for s in range(2):
        chances = seen.action_laws[own == s, 0, 1]
        spread += np.abs(chances - np.median(chances)).sum() / len(own)
    np.testing.assert_allclose(report.entanglement, [spread, 0], atol=EXACT)


def test_a_team_with_and_without_a_policy_of_the_others():
    """Only the team is recorded; the others play by the policy too, or by their own."""

    def steps(key, observations):
        return dict.fromkeys(observations, 1)

    def stays(key, observations, masks):
        assert set(observations) == set(masks) == {"b"}
        return {"b": 0}

    every = je.rollout(KEY, Ring(), steps, num_steps=40)
    both = je.rollout(KEY, Ring(), steps, num_steps=40, team=("c", "a"))
    assert both.labels.agents == ("c", "a")
    assert both.num_actions == 3
    order = [2, 0]
    np.testing.assert_array_equal(played(both)[0][..., 0], played(every)[0][:, order, 0])
    np.testing.assert_array_equal(both.rewards, every.rewards[:, order])
    np.testing.assert_array_equal(both.present, every.present[:, order])

    def of_two(key, observations):
        assert set(observations) == {"a", "c"}
        return je.Acted({"a": 1, "c": 1}, {a: jnp.array([0.2, 0.8]) for a in observations})

    apart = je.rollout(KEY, Ring(), of_two, num_steps=40, team=("a", "c"), others=stays)
    everybodys = np.stack([apart.actions[:, 0], 0 * apart.actions[:, 0], apart.actions[:, 1]], 1)
    _, present, paid, _ = replay(everybodys, None)
    np.testing.assert_array_equal(apart.present, present[:, ::2])
    np.testing.assert_allclose(apart.rewards, paid[:, ::2], atol=EXACT)
    np.testing.assert_array_equal(apart.action_laws[0, 0], jnp.array([0.2, 0.8, 0]))
    in_python = je.rollout(
        KEY, ParallelRing(99), of_two, num_steps=40, team=("a", "c"), others=stays
    )
    np.testing.assert_array_equal(in_python.rewards, apart.rewards)
    one = je.rollout(KEY, Ring(), steps, num_steps=9, team="a")
    assert one.num_agents == 1


def test_signal_encode_and_features():
    """The clock as a signal; states by name; numbers that are kept beside."""
    options = {
        "signal": lambda state: state[2] % 3,
        "encode": lambda agent, seen: seen + 5 if agent == "a" else jnp.zeros((), int),
        "features": True,
    }
    seen = je.rollout(KEY, Ring(), at_random, num_steps=60, time_limit=9, **options)
    assert seen.labels.signals == (0, 1, 2)
    assert set(seen.labels.states) <= {0, 5, 6, 7, 8}
    wanted, present, _, _ = replay(seen.actions, 9, tells=False)
    np.testing.assert_array_equal(seen.observations, wanted)
    assert seen.observations.dtype == jnp.result_type(float)
    places = np.array(seen.labels.states)[seen.states[:, 0]]
    np.testing.assert_array_equal(places[present[:, 0]], 5 + wanted[present[:, 0], 0, 0])
    own = je.rollout(KEY, Ring(), at_random, num_steps=60, time_limit=9, separate_episodes=True)
    options["features"] = lambda seen: jax.tree.leaves(seen)[0]
    fewer = je.rollout(
        KEY, Ring(), at_random, num_steps=60, time_limit=9, separate_episodes=True, **options
    )
    np.testing.assert_array_equal(fewer.signal, own.time % 3)
    assert fewer.observations.shape == (60, 3, 2)
    in_python = je.rollout(
        KEY,
        ParallelRing(6),
        in_numpy,
        num_steps=40,
        signal=lambda env: env.game.clock % 3,
        encode=lambda seen: seen[0],
        features=lambda agent, seen: seen if agent == "b" else seen[:1] / 2,
    )
    wanted, _, _, _ = replay(in_python.actions, 6)
    np.testing.assert_array_equal(in_python.observations[:, 0], wanted[:, 0] / 2)
    np.testing.assert_array_equal(in_python.observations[:, 1], wanted[:, 1])
    assert set(in_python.labels.signals) == {0, 1, 2}


def test_numbers_that_never_come_again_are_kept_without_a_table():
    """What a table refuses, naming the remedy, is kept as it is; in single precision too."""

    class Noisy(Bits):
        def step(self, key, state, actions):
            seen, *rest = super().step(key, state, actions)
            noise = jax.random.normal(key, (2,), jnp.float32)
            return {"a": seen["a"] + noise[0], "b": seen["b"] + noise[1]}, *rest

        def reset(self, key):
            seen, state = super().reset(key)
            return {a: jnp.asarray(x, jnp.float32) for a, x in seen.items()}, state

    stays = lambda key, seen: dict.fromkeys(seen, 0)  # noqa: E731
    with pytest.raises(ValueError, match=r"in 1024 steps, .*features=True that keeps them"):
        je.rollout(KEY, Noisy(), stays, num_steps=10**8)
    seen = je.rollout(KEY, Noisy(), stays, num_steps=3000, features=True)
    assert seen.observations.shape == (3000, 2, 1)
    assert seen.observations.dtype == np.float32
    assert seen.num_states == 1
    assert len(np.unique(seen.observations)) > 5000


def test_a_reward_that_is_shared():
    """Of those who are there; and where the environment gives one, there is one."""

    class Team(Ring):
        def step_env(self, key, state, actions):
            before = dict(zip(NAMES, state[1]))
            seen, state, _, *rest = super().step_env(key, state, actions)
            return seen, state, {a: jnp.where(before[a], state[2], 7.5) for a in NAMES}, *rest

    with pytest.raises(ValueError, match=r"shared_reward: at step \d+ agent b is paid"):
        je.rollout(KEY, Ring(), at_random, num_steps=50, shared_reward=True)
    options = {"separate_episodes": True, "shared_reward": True}
    seen = je.rollout(KEY, Team(), at_random, num_steps=50, **options)
    assert not seen.present.all()
    np.testing.assert_array_equal(seen.rewards, seen.time + 1)

    class Once(SpecifiedRing):
        def timed(self, state, key, paid, over):
            state, step = super().timed(state, key, paid, over)
            return state, SimpleNamespace(**{**vars(step), "reward": paid.sum()})

    one = je.rollout(KEY, Once(5), at_random, num_steps=50, features=True)
    assert one.shares_reward
    _, _, paid, _ = replay(one.actions, 5)
    np.testing.assert_allclose(one.rewards, paid.sum(1), atol=EXACT)


@pytest.mark.parametrize("ring", [Ring, ParallelRing])
def test_what_is_seen_last_counts_in_no_mean_of_rewards(ring):
    """Where 1 is paid for every step, values are 10 at discount 0.9, however often time is up."""

    def paid(given):
        seen, state, rewards, *rest = given
        return seen, state, dict.fromkeys(rewards, 1.0), *rest

    class Paid(Ring):
        def step_env(self, key, state, actions):
            return paid(super().step_env(key, state, actions))

    class PaidInPython(ParallelRing):
        def step(self, actions):
            seen, rewards, *rest = super().step(actions)
            return seen, dict.fromkeys(rewards, 1.0), *rest

    policy = lambda key, observations: dict.fromkeys(observations, 0)  # noqa: E731
    env = PaidInPython(4) if ring is ParallelRing else Paid()
    options = {"num_steps": 100, "time_limit": 4}
    seen = je.rollout(KEY, env, policy, **options)
    np.testing.assert_array_equal(seen.last_seen, np.stack([seen.time == 4] * 3, 1))
    np.testing.assert_array_equal(seen.paid, ~seen.last_seen)
    back = je.read_log(je.to_frame(seen)).trajectory
    assert back.num_epochs == seen.paid.any(1).sum()
    assert (back.rewards == 1).all()
    found = je.lstd_local_q(seen, discount=0.9)
    np.testing.assert_allclose(found.value[found.occupancy > 0], 10, atol=by_precision(1e-9, 1e-4))
    learned = learned_sum.learned_sum(seen, 0.9)
    np.testing.assert_allclose(learned.scale, 30, atol=1e-9)
    shared = je.rollout(KEY, env, policy, shared_reward=True, **options)
    fit = je.fit_local_rewards(shared)
    np.testing.assert_allclose([fit.error, fit.scale], [0, 1], atol=1e-9)
