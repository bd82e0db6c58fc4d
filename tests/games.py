"""Small games by their rules, for tests: functions of a state, as `tabulate` takes them."""

import jax
import jax.numpy as jnp

MOVES = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


def walk_on_grid(state, actions, size=3):
    """Two agents on a grid, never on one cell; each move fails with chance 0.1 for both.

    Agent 0 is paid in the last cell, agent 1 in the first.
    """
    place = state["place"]
    to = jnp.clip(place + MOVES[actions], 0, size - 1)
    swapped = (to == place[::-1]).all()
    to = jnp.where(swapped | (to[0] == to[1]).all(), place, to)
    goals = jnp.array([[size - 1, size - 1], [0, 0]])
    paid = (place == goals).all(1).astype(float)
    return {"place": jnp.stack([to, place])}, jnp.array([0.9, 0.1]), paid


def grid_start(size=3):
    """In opposite corners, each far from its goal."""
    return {"place": jnp.array([[0, 0], [size - 1, size - 1]])}


def riddle_start():
    """Somebody is in the room, the light is off: three states, as likely."""
    three = {
        "room": jnp.arange(3),
        "bulb": jnp.zeros(3, bool),
        "been": jnp.zeros((3, 3), int),
        "step": jnp.zeros(3, int),
    }
    return three, jnp.full(3, 1 / 3)


def riddle(state, actions, steps=6):
    """The switch riddle of three prisoners (JaxMARL's switch_riddle), its outcomes by hand."""
    act = actions[state["room"]]
    been = state["been"].at[state["room"]].set(1)
    told = act == 2
    paid = jnp.where(told, jnp.where(been.all(), 1.0, -1.0), 0.0)
    bulb = jnp.where(act == 1, ~state["bulb"], state["bulb"])
    step = state["step"] + 1
    following = {
        "room": jnp.arange(3),
        "bulb": jnp.broadcast_to(bulb, (3,)),
        "been": jnp.broadcast_to(been, (3, 3)),
        "step": jnp.broadcast_to(step, (3,)),
    }
    ended = jnp.broadcast_to(told | (step >= steps), (3,))
    return following, jnp.full(3, 1 / 3), paid, ended


def riddle_seen(state):
    """Whether one is in the room, and if so the light."""
    here = jnp.arange(3) == state["room"]
    return jnp.stack([here, here & state["bulb"]], 1).astype(int)


FOOD, LEVELS = jnp.array([[1, 1], [2, 2]]), jnp.array([2, 3])


def forage(state, actions):
    """Level-based foraging on 4 x 4: enough agents beside a food must load it together."""
    steps = jnp.concatenate([MOVES, jnp.zeros((1, 2), int)])
    to = jnp.clip(state["place"] + steps[actions], 0, 3)
    near = jnp.abs(to[:, None] - FOOD[None]).sum(-1) == 1
    load = (actions == 5)[:, None] & near  # [N, F]
    got = (load.sum(0) >= LEVELS) & ~state["eaten"]
    share = got * LEVELS / jnp.maximum(load.sum(0), 1)
    eaten = state["eaten"] | got
    following = {"place": to[None], "eaten": eaten[None]}
    return following, jnp.ones(1), (load * share[None]).sum(1), eaten.all()[None]


def forage_start():
    """In three corners, nothing eaten."""
    return {"place": jnp.array([[0, 0], [0, 3], [3, 0]]), "eaten": jnp.zeros(2, bool)}


def forage_seen(state):
    """Each its own place, and what is left."""
    return tuple((place, state["eaten"]) for place in state["place"])


class Riddle:
    """The riddle by the methods that JaxMARL's environments have."""

    agents = ("a", "b", "c")

    def action_space(self, agent):
        class Discrete:
            n = 3

        return Discrete()

    def see(self, state):
        return dict(zip(self.agents, riddle_seen(state)))

    def reset(self, key):
        states, _ = riddle_start()
        state = jax.tree.map(lambda x: x[jax.random.randint(key, (), 0, 3)], states)
        return self.see(state), state

    def step(self, key, state, actions):
        following, _, paid, ended = riddle(state, jnp.stack([actions[a] for a in self.agents]))
        step_key, reset_key = jax.random.split(key)
        after = jax.tree.map(lambda x: x[jax.random.randint(step_key, (), 0, 3)], following)
        _, first = self.reset(reset_key)
        after = jax.tree.map(lambda x, y: jnp.where(ended[0], x, y), first, after)
        ends = dict.fromkeys((*self.agents, "__all__"), ended[0])
        return self.see(after), after, dict.fromkeys(self.agents, paid), ends, {}
