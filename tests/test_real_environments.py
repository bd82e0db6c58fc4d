"""Rollouts in the environments that people have: JaxMARL, Jumanji, gymnax, PettingZoo, gymnasium.

`.ci/run` has a leg for this file in which all of them are there.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

KEY = jax.random.key(0)


@pytest.fixture
def package(request):
    """An optional package, whose code broadcasts ranks and is written for single precision."""
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield pytest.importorskip(
            request.param,
            reason=f"needs {request.param}, which is optional: pip install 'jaxent[envs]'",
            exc_type=ImportError,
        )


def on(name):
    return pytest.mark.parametrize("package", [name], indirect=True)


def among_allowed(key, observations, masks):
    """Uniformly, with the laws."""
    keys = dict(zip(masks, jax.random.split(key, len(masks))))
    laws = {a: masks[a] / masks[a].sum() for a in masks}
    return je.Acted({a: jax.random.categorical(keys[a], jnp.log(laws[a])) for a in masks}, laws)


@on("jaxmarl")
def test_a_recurrent_policy_in_64_environments_at_once(package):
    """simple_spread of MPE: numbers are kept as seen; its clock of 26 steps is told by the call."""

    def policy(key, observations, carry):
        turn = jnp.sign(carry["mean"][:, 0]).astype(int) + 1
        actions = {a: (carry["count"] + turn[i]) % 5 for i, a in enumerate(observations)}
        new = jnp.stack(list(observations.values()))
        carry = {"count": carry["count"] + 1, "mean": 0.5 * carry["mean"] + 0.5 * new}
        return je.Acted(actions, carry=carry)

    env = package.make("MPE_simple_spread_v3")
    carry = {"count": jnp.zeros((), int), "mean": jnp.zeros((3, 18))}
    options = {"num_steps": 81, "num_envs": 64, "time_limit": 26, "features": True}
    seen = je.rollout(KEY, env, policy, carry=carry, **options)
    assert seen.labels.agents == ("agent_0", "agent_1", "agent_2")
    assert seen.observations.shape == (64 * 81, 3, 18)
    # Three games of each environment, with a row of what is seen last.
    np.testing.assert_array_equal(seen.episode, np.arange(64 * 81) // 27)
    assert (seen.rewards[seen.time == 26] == 0).all()
    assert (seen.rewards[seen.time < 26] < 0).all()
    # The carry again, in NumPy, from what was recorded.
    sights = np.asarray(seen.observations).reshape(-1, 27, 3, 18)
    mean = np.zeros_like(sights)
    for t in range(1, 27):
        mean[:, t] = np.float32(0.5) * mean[:, t - 1] + np.float32(0.5) * sights[:, t - 1]
    turn = np.sign(mean[..., 0]).astype(int) + 1
    wanted = (np.arange(27)[:, None] + turn) % 5
    np.testing.assert_array_equal(seen.actions.reshape(wanted.shape), wanted)
    # A move by a force: positions follow velocities. Noise is none.
    velocity, place = sights[..., :2], sights[..., 2:4]
    np.testing.assert_allclose(place[:, 1:], place[:, :-1] + 0.1 * velocity[:, :-1], atol=1e-5)


@on("jaxmarl")
def test_agents_that_die(package):
    """SMAX, two against two: who is dead is out until the next battle, and chooses nothing."""
    env = package.make("HeuristicEnemySMAX", num_allies=2, num_enemies=2)
    options = {"num_envs": 2, "features": True, "shared_reward": True, "separate_episodes": True}
    seen = je.rollout(KEY, env, among_allowed, num_steps=150, **options)
    assert 0.3 < seen.present.mean() < 0.99
    assert (seen.observations[~seen.present] == 0).all()
    assert (seen.action_laws[~seen.present] == 0).all()
    assert (seen.time[~seen.present.all(1)] > 0).all()
    # Nobody comes back before the end.
    goes_on = np.diff(seen.episode) == 0
    assert not (seen.present[1:] & ~seen.present[:-1])[goes_on].any()
    chosen = np.take_along_axis(seen.action_laws, seen.actions[..., None], 2)[..., 0]
    assert (chosen[seen.present] > 0).all()


@on("jaxmarl")
def test_a_wrapper_that_keeps_a_state_of_its_own(package):
    """What it lends of the inner environment is left alone: there is only its own step."""
    wrappers = pytest.importorskip("jaxmarl.wrappers.baselines")

    def policy(key, observations):
        keys = jax.random.split(key, len(observations))
        return {a: jax.random.randint(k, (), 0, 3) for a, k in zip(observations, keys)}

    env = package.make("switch_riddle")
    seen = je.rollout(KEY, wrappers.LogWrapper(env), policy, num_steps=300)
    plain = je.rollout(KEY, env, policy, num_steps=300)
    np.testing.assert_array_equal(seen.actions, plain.actions)
    np.testing.assert_array_equal(seen.states, plain.states)
    np.testing.assert_array_equal(seen.rewards, plain.rewards)


@on("jumanji")
def test_masks_and_the_clock_of_jumanji(package):
    """Level-based foraging: what the mask allows is done, and its clock is no end for good."""
    from jumanji.environments import LevelBasedForaging
    from jumanji.environments.routing.lbf.generator import RandomGenerator

    generator = RandomGenerator(grid_size=5, fov=5, num_agents=2, num_food=1, force_coop=True)
    env = LevelBasedForaging(generator=generator, time_limit=20)

    def loads(key, observations, masks):
        """Whoever may load does."""
        acted = among_allowed(key, observations, masks)
        return {a: jnp.where(masks[a][5], 5, x) for a, x in acted.actions.items()}

    features = lambda seen: jnp.append(seen.agents_view, seen.step_count)  # noqa: E731
    play = partial(je.rollout, KEY, env, num_steps=1200, features=features)
    seen = play(loads, separate_episodes=True)
    clock = seen.observations[:, :, -1]
    np.testing.assert_array_equal(clock, np.stack([seen.time] * 2, 1))
    _, starts, lengths = np.unique(seen.episode, return_index=True, return_counts=True)
    ends = (starts + lengths - 1)[:-1]
    paid = seen.rewards[ends].sum(1)
    # Either all is eaten, which pays 1 in all, or there is a 21st row; never both.
    eaten = paid > 0.5
    np.testing.assert_allclose(paid[eaten], 1, atol=1e-6)
    assert (clock[ends[~eaten]] == 20).all()
    assert (clock[ends[eaten]] < 20).all()
    assert 0 < eaten.sum() < len(eaten)
    with pytest.raises(ValueError, match="at step 0 agent 0 chooses action 5, which its mask"):
        play(lambda key, observations: dict.fromkeys(observations, 5))


@on("gymnax")
def test_the_two_ends_of_gymnax(package):
    """CartPole: it falls, which starts anew, or time is up, and what is seen then is kept."""
    env, params = package.make("CartPole-v1")
    params = params.replace(max_steps_in_episode=25)

    def policy(key, observations):
        way = jax.random.bernoulli(key, jnp.where(observations[0][2] > 0, 0.8, 0.2))
        return {0: way.astype(int)}

    options = {"num_steps": 600, "features": True, "params": params}
    seen = je.rollout(KEY, env, policy, separate_episodes=True, **options)
    fell = lambda x: (np.abs(x[:, 0]) > 2.4) | (np.abs(x[:, 2]) > 12 * 2 * np.pi / 360)  # noqa: E731
    where = seen.observations[:, 0].astype(float)
    assert not fell(where).any()
    # The next place by the equations of the cart, in NumPy.
    place, speed, angle, turn = where.T
    push = np.where(seen.actions[:, 0] == 1, 10.0, -10.0)
    mass = (push + 0.05 * turn**2 * np.sin(angle)) / 1.1
    tilt = (9.8 * np.sin(angle) - np.cos(angle) * mass) / (
        0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1)
    )
    moved = np.stack(
        [
            place + 0.02 * speed,
            speed + 0.02 * (mass - 0.05 * tilt * np.cos(angle) / 1.1),
            angle + 0.02 * turn,
            turn + 0.02 * tilt,
        ],
        1,
    )
    follows = seen.follows[:, 0]
    np.testing.assert_allclose(where[1:][follows], moved[:-1][follows], atol=1e-5)
    last = np.flatnonzero(~follows)
    # Rows that nothing follows: a fall to come, or the 26th.
    late = seen.time[last] == 25
    assert 0 < late.sum() < len(last)
    np.testing.assert_array_equal(fell(moved[last]), ~late)
    np.testing.assert_array_equal(seen.rewards[last, 0], ~late)
    # By default a fall is followed by the start.
    joined = je.rollout(KEY, env, policy, **options)
    np.testing.assert_array_equal(joined.actions, seen.actions)
    np.testing.assert_array_equal(np.diff(joined.episode)[last], late)


@on("pettingzoo")
def test_a_parallel_environment_of_pettingzoo(package):
    """Rock, paper, scissors with a mask: the last move may not come again; and its own API test."""
    from gymnasium import spaces
    from pettingzoo import ParallelEnv
    from pettingzoo.test import parallel_api_test

    class Game(ParallelEnv):
        metadata = {"name": "rock_paper_scissors"}  # noqa: RUF012
        possible_agents = ["player_0", "player_1"]  # noqa: RUF012

        mask_space = spaces.Box(0, 1, (3,), np.int8)
        sights = spaces.Dict({"observation": spaces.Discrete(4), "action_mask": mask_space})
        moves_space = spaces.Discrete(3)

        def observation_space(self, agent):
            return self.sights

        def action_space(self, agent):
            return self.moves_space

        def seen(self):
            def one(k):
                mask = (np.arange(3) != self.moves[k]).astype(np.int8)
                return {"observation": self.moves[1 - k], "action_mask": mask}

            return {a: one(k) for k, a in enumerate(self.agents)}

        def reset(self, seed=None, options=None):
            self.agents, self.moves, self.left = list(self.possible_agents), [3, 3], 20
            return self.seen(), {a: {} for a in self.agents}

        def step(self, actions):
            self.moves = [int(actions[a]) for a in self.agents]
            self.left -= 1
            won = (self.moves[0] - self.moves[1]) % 3
            paid = [(0.0, 1.0, -1.0)[won], (0.0, -1.0, 1.0)[won]]
            seen, who = self.seen(), self.agents
            if not self.left:
                self.agents = []
            late = dict.fromkeys(who, not self.left)
            return seen, dict(zip(who, paid)), dict.fromkeys(who, False), late, {a: {} for a in who}

    def policy(key, observations, masks):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        laws = {a: m / m.sum() for a, m in masks.items()}
        return je.Acted({a: rng.choice(3, p=law) for a, law in laws.items()}, laws)

    parallel_api_test(Game(), num_cycles=30)
    last_move = lambda seen: int(seen["observation"])  # noqa: E731
    seen = je.rollout(KEY, Game(), policy, num_steps=630, encode=last_move)
    assert seen.labels.agents == ("player_0", "player_1")
    np.testing.assert_array_equal(seen.episode, np.arange(630) // 21)
    follows = seen.follows[:, 0]
    np.testing.assert_array_equal(seen.states[1:][follows], seen.actions[:-1, ::-1][follows])
    assert (seen.actions[1:] != seen.actions[:-1])[follows].all()
    np.testing.assert_array_equal(
        seen.action_laws.max(-1), np.where(seen.time == 0, 1 / 3, 0.5)[:, None] * [1, 1]
    )
    first, second = seen.actions.T
    won = np.array([0, 1, -1])[(first - second) % 3] * (seen.time < 20)
    np.testing.assert_array_equal(seen.rewards, np.stack([won, -won], 1))
    with pytest.raises(
        ValueError, match="at step 1 agent player_0 chooses action 0, which its mask"
    ):
        je.rollout(KEY, Game(), lambda key, seen: dict.fromkeys(seen, 0), num_steps=9)


@on("pettingzoo")
def test_agents_by_turns_are_refused(package):
    from pettingzoo import AECEnv

    class Turns(AECEnv):
        possible_agents = ["x"]  # noqa: RUF012

    with pytest.raises(ValueError, match="env: in Turns agents act by turns; wanted"):
        je.rollout(KEY, Turns(), lambda key, seen: {}, num_steps=9)


@on("gymnasium")
def test_one_agent_of_gymnasium(package):
    """The table game of the blackjack kind that it brings: observations as they are."""
    env = package.make("CartPole-v1", max_episode_steps=15)
    seen = je.rollout(
        KEY, env, lambda key, seen: {0: int(seen[0][2] > 0)}, num_steps=64, features=True
    )
    assert seen.observations.dtype == np.float32
    np.testing.assert_array_equal(seen.episode, np.arange(64) // 16)
    np.testing.assert_array_equal(seen.rewards[:, 0], seen.time < 15)
