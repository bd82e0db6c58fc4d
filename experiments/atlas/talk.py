"""Games of hidden states and of messages."""

import jax.numpy as jnp
import numpy as np

from .grids import MOVES
from .rules import Problem, Rules

# Payoffs by the two cards and the two actions, of the matrix game in the source.
TINY_HANABI = [
    [[[10, 0, 0], [4, 8, 4], [10, 0, 0]], [[0, 0, 10], [4, 8, 4], [0, 0, 10]]],
    [[[0, 0, 10], [4, 8, 4], [0, 0, 0]], [[10, 0, 0], [4, 8, 4], [10, 0, 0]]],
]


def signals(kinds: int = 3) -> Rules:
    """One sees what is the case and says a word; the other hears it and guesses.

    The states are what is the case, the word (`kinds` is none yet) and whose turn it is.
    """
    none = kinds

    def outcomes(state, actions):
        spoken = state["word"] < none
        word = jnp.where(spoken, state["word"], actions[0])
        paid = jnp.where(spoken & (actions[1] == state["case"]), 1.0, 0.0)
        following = {"case": state["case"][None], "word": word[None]}
        return following, jnp.ones(1), paid, spoken[None]

    def see(state):
        spoken = state["word"] < none
        return jnp.where(spoken, none, state["case"]), state["word"]

    first = {"case": np.arange(kinds), "word": np.full(kinds, none)}
    law = np.full(kinds, 1 / kinds)

    def rule(state):
        return jnp.stack([state["case"], state["word"]]) % kinds

    return Rules((first, law), outcomes, see, (kinds, kinds), rule)


def hanabi() -> Rules:
    """Each holds a card that the other does not see; one acts, the other sees it and acts."""
    pay = np.array(TINY_HANABI, float)
    cards = np.array(list(np.ndindex(2, 2)))

    def outcomes(state, actions):
        second = state["said"] < 3
        said = jnp.where(second, state["said"], actions[0])
        own = jnp.asarray(pay)[state["cards"][0], state["cards"][1], state["said"] % 3, actions[1]]
        following = {"cards": state["cards"][None], "said": said[None]}
        return following, jnp.ones(1), jnp.where(second, own, 0.0), second[None]

    def see(state):
        return jnp.stack([state["cards"], jnp.broadcast_to(state["said"], (2,))], 1)

    first = {"cards": cards, "said": np.full(4, 3)}
    return Rules((first, np.full(4, 0.25)), outcomes, see, (3, 3), lambda s: jnp.ones(2, int))


def speaker() -> Rules:
    """A speaker sees which of three cells is meant; a walker on 3 x 3 cells hears its last word."""
    goals = np.array([[0, 0], [0, 2], [2, 2]])

    def outcomes(state, actions):
        to = jnp.clip(state["place"] + jnp.asarray(MOVES)[actions[1]], 0, 2)
        far = jnp.abs(to - jnp.asarray(goals)[state["goal"]]).sum()
        following = {"goal": state["goal"][None], "word": actions[:1], "place": to[None]}
        return following, jnp.ones(1), jnp.where(far == 0, 10.0, -far), (far == 0)[None]

    def see(state):
        return state["goal"], (state["word"], state["place"])

    def rule(state):
        aim = jnp.asarray(goals)[state["word"]] - state["place"]
        down = jnp.where(aim[0] < 0, 1, 2)
        over = jnp.where(aim[1] < 0, 3, 4)
        step = jnp.where(aim[0] != 0, down, jnp.where(aim[1] != 0, over, 0))
        return jnp.stack([state["goal"], step])

    first = {
        "goal": np.arange(3),
        "word": np.zeros(3, int),
        "place": np.ones((3, 2), int),
    }
    return Rules((first, np.full(3, 1 / 3)), outcomes, see, (3, 5), rule)


def riddle(steps: int = 6) -> Rules:
    """Three prisoners and a light: who is in the room may switch it, or tell that all were there.

    Actions: nothing, switch, tell. The states hold the clock.
    """

    def outcomes(state, actions):
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
        return following, jnp.full(3, 1 / 3), paid, jnp.broadcast_to(told | (step >= steps), (3,))

    def see(state):
        here = jnp.arange(3) == state["room"]
        return jnp.stack([here, here & state["bulb"]], 1).astype(int)

    first = {
        "room": np.arange(3),
        "bulb": np.zeros(3, bool),
        "been": np.zeros((3, 3), int),
        "step": np.zeros(3, int),
    }
    return Rules((first, np.full(3, 1 / 3)), outcomes, see, (3, 3, 3))


LEWIS = "Lewis, Convention, 1969"
MORDATCH = "after Lowe et al., MADDPG, 2017 (simple_speaker_listener), on cells"

TALK = (
    Problem("signals", "messages", LEWIS, signals),
    Problem("tiny_hanabi", "messages", "Foerster et al., Bayesian action decoder, 2019", hanabi),
    Problem("speaker", "messages", MORDATCH, speaker),
    Problem("switch_riddle", "messages", "Foerster et al., 2016; JaxMARL's switch_riddle", riddle),
)
