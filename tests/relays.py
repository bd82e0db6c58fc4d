"""One small game by the methods of four packages, and its rules once more in plain Python.

Three agents walk around rings of four fields, by 0 to 1, 0 to 2 and 0 to 1 fields a step. Who comes
to field 3 at an odd time is out. The game ends where the first two meet on field 2, or all are out.
The second may not go by 2 from field 1.
"""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent as je

NAMES = ("a", "b", "c")
SIZES = (2, 3, 2)
KEY = jax.random.key(0)


def move(state, actions):
    """Next state, rewards, whether the game is over for good; state is (place, alive, clock)."""
    place, alive, clock = state
    place = jnp.where(alive, (place + actions) % 4, place)
    clock = clock + 1
    paid = jnp.where(alive, place * jnp.arange(1, 4) - 0.5 * clock, 0)
    alive = alive & ~((place == 3) & (clock % 2 == 1))
    over = ((place[:2] == 2) & alive[:2]).all() | ~alive.any()
    return (place, alive, clock), paid, over


def start():
    return jnp.zeros(3, int), jnp.ones(3, bool), jnp.zeros((), int)


def seen_of(state):
    """The second sees more than the others."""
    place, _, clock = state
    return {
        "a": place[0],
        "b": {"met": place[0] == place[1], "place": place[1]},
        "c": jnp.stack([place[2], clock % 2]),
    }


def masks_of(state):
    may = jnp.ones(3, int).at[2].set(jnp.where(state[0][1] == 1, 0, 1))
    return {"a": jnp.ones(2, int), "b": may, "c": jnp.ones(2, int)}


class RestartingRing:
    """As users of JaxMARL have it: there is only a step that starts anew."""

    agents = NAMES

    def action_space(self, agent):
        return SimpleNamespace(n=SIZES[NAMES.index(agent)])

    def reset(self, key):
        return seen_of(start()), start()

    def get_avail_actions(self, state):
        return masks_of(state)

    def step(self, key, state, actions):
        state, paid, over = move(state, jnp.stack([actions[a] for a in NAMES]))
        ends = dict(zip(NAMES, ~state[1])) | {"__all__": over}
        state = jax.tree.map(lambda x, y: jnp.where(over, x, y), start(), state)
        return seen_of(state), state, dict(zip(NAMES, paid)), ends, {}


class Ring(RestartingRing):
    """As JaxMARL has it."""

    def step_env(self, key, state, actions):
        state, paid, over = move(state, jnp.stack([actions[a] for a in NAMES]))
        ends = dict(zip(NAMES, ~state[1])) | {"__all__": over}
        return seen_of(state), state, dict(zip(NAMES, paid)), ends, {}

    def step(self, key, state, actions):
        raise AssertionError("hides what is seen last")


class Seen(NamedTuple):
    place: jax.Array
    clock: jax.Array
    action_mask: jax.Array


class SpecifiedRing:
    """As Jumanji has it, with a clock that ends it, and a key in the state."""

    action_spec = SimpleNamespace(num_values=SIZES[1:2] * 3)

    def __init__(self, limit):
        self.limit = limit

    def timed(self, state, key, paid, over):
        place, alive, clock = state
        may = jnp.arange(3)[None] < jnp.array(SIZES)[:, None]
        may = may.at[1].set(masks_of(state)["b"] == 1)
        late = clock >= self.limit
        discount = jnp.where(over, 0.0, alive.astype(float))
        seen = Seen(place, clock % 2, may)
        step = SimpleNamespace(
            observation=seen, reward=paid, discount=discount, last=lambda: over | late
        )
        return (state, key), step

    def reset(self, key):
        return self.timed(start(), key, jnp.zeros(3), jnp.array(False))

    def step(self, state, action):
        key, _ = jax.random.split(state[1])
        state, paid, over = move(state[0], action)
        return self.timed(state, key, paid, over)


class Plain:
    """The rules in Python; `limit` is the clock's, whose ends are told from others or not."""

    def __init__(self, limit=None, tells=True):
        self.limit, self.tells = limit, tells

    def reset(self):
        self.place, self.alive, self.clock = [0, 0, 0], [True] * 3, 0

    def masks(self):
        return {"a": [1, 1], "b": [1, 1, self.place[1] != 1], "c": [1, 1]}

    def seen(self):
        """Rows of one width."""
        a, b, c = self.place
        return [[a, 0], [int(a == b), b], [c, self.clock % 2]]

    def step(self, actions):
        """Rewards, whether over for good, whether over by the clock."""
        self.clock += 1
        paid = [0.0] * 3
        for i in range(3):
            if self.alive[i]:
                self.place[i] = (self.place[i] + actions[i]) % 4
                paid[i] = self.place[i] * (i + 1) - 0.5 * self.clock
        for i in range(3):
            if self.place[i] == 3 and self.clock % 2 == 1:
                self.alive[i] = False
        met = self.place[0] == self.place[1] == 2 and self.alive[0] and self.alive[1]
        over = met or not any(self.alive)
        late = self.limit is not None and self.clock >= self.limit
        return (paid, over, late and not over) if self.tells else (paid, over and not late, late)


def replay(actions, limit, separate=False, tells=True):
    """Rows of one environment under these actions, `[T, 3]`: what a log of it is to be.

    Where all are out as the time is up, they are seen once more if it is taken for the clock's end.
    """
    game, rows, episode, closing = Plain(limit, tells), [], 0, False
    game.reset()
    here = [True] * 3
    for chosen in np.asarray(actions).tolist():
        here = here if closing and not any(game.alive) else list(game.alive)
        rows.append([game.seen(), here, [0.0] * 3, episode])
        if closing:
            closing, episode = False, episode + 1
            game.reset()
            continue
        paid, over, late = game.step(chosen)
        rows[-1][2] = paid
        closing = late
        if over:
            episode += separate
            game.reset()
    seen, present, paid, episode = (np.array(x) for x in zip(*rows))
    return seen * present[..., None], present, paid * present, episode


class ParallelRing:
    """As PettingZoo has it, in Python: who is out is no more among `agents`."""

    possible_agents = NAMES

    def __init__(self, limit):
        self.game = Plain(limit)

    def action_space(self, agent):
        return SimpleNamespace(n=SIZES[NAMES.index(agent)])

    def told(self, who):
        masks, rows = self.game.masks(), self.game.seen()
        rows[0] = rows[0][:1]
        seen = {NAMES[i]: np.array(rows[i]) for i in who}
        return seen, {NAMES[i]: {"action_mask": np.array(masks[NAMES[i]], np.int8)} for i in who}

    def reset(self, seed=None):
        self.game.reset()
        self.agents = list(NAMES)
        return self.told(range(3))

    def step(self, actions):
        assert set(actions) == set(self.agents)
        who = [NAMES.index(a) for a in self.agents]
        paid, over, late = self.game.step([actions.get(a, 0) for a in NAMES])
        terminated = {NAMES[i]: over or not self.game.alive[i] for i in who}
        truncated = {NAMES[i]: late for i in who}
        seen, infos = self.told(who)
        self.agents = [a for a in self.agents if not terminated[a] and not truncated[a]]
        return seen, {NAMES[i]: paid[i] for i in who}, terminated, truncated, infos


class Bits:
    """Two agents with a bit each, which flips by chance; each is asked to repeat the last one."""

    agents = ("a", "b")

    def action_space(self, agent):
        return SimpleNamespace(n=2)

    def reset(self, key):
        state = jnp.zeros(2, int)
        return {"a": state[0], "b": state[1]}, state

    def step(self, key, state, actions):
        push = jnp.stack([actions["b"], actions["a"]])
        flips = jax.random.bernoulli(key, 0.2 + 0.5 * push * state, (2,)).astype(int)
        state = jnp.where(flips == 1, 1 - state, state)
        paid = {"a": 1.0 * state[0], "b": 1.0 * state[1]}
        return {"a": state[0], "b": state[1]}, state, paid, {"__all__": jnp.array(False)}, {}


def at_random(key, observations, masks):
    """Uniformly among what the masks allow, and the laws of that."""
    keys = dict(zip(masks, jax.random.split(key, len(masks))))
    laws = {a: masks[a] / masks[a].sum() for a in masks}
    drawn = {a: jax.random.categorical(keys[a], jnp.log(laws[a])) for a in masks}
    return je.Acted(drawn, laws)
