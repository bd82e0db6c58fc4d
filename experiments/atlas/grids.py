"""Teams on grids."""

import jax.numpy as jnp
import numpy as np

from .rules import Problem, Rules

# Stay, up, down, left, right.
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


def towards(place, goal):
    """The move of each agent that brings it nearer to its goal, rows first, `[N]`."""
    aim = goal - place
    rows = jnp.where(aim[..., 0] < 0, 1, 2)
    columns = jnp.where(aim[..., 1] < 0, 3, jnp.where(aim[..., 1] > 0, 4, 0))
    return jnp.where(aim[..., 0] != 0, rows, columns)


def walk(size: int = 3) -> Rules:
    """Two agents walk to their own corner, never on one cell; one move in ten fails for both, and
    one epoch in twenty they are put back."""
    goals = np.array([[size - 1, size - 1], [0, 0]])

    def outcomes(place, actions):
        to = jnp.clip(place + jnp.asarray(MOVES)[actions], 0, size - 1)
        blocked = (to[0] == to[1]).all() | (to == place[::-1]).all()
        to = jnp.where(blocked, place, to)
        paid = (place == jnp.asarray(goals)).all(1).astype(float)
        start = jnp.asarray(goals[::-1].copy())
        return jnp.stack([to, place, start]), jnp.array([0.855, 0.095, 0.05]), paid

    return Rules(
        goals[::-1].copy(),
        outcomes,
        lambda place: place,
        (5, 5),
        lambda place: towards(place, jnp.asarray(goals)),
    )


def corridor(length: int = 5) -> Rules:
    """Two change places in a corridor with one bay in the middle: stay, left, right, into the bay.

    A cell is 0 to `length` - 1, the bay `length`. A bump costs a little; at the goal they wait.
    """
    bay, middle = length, length // 2
    goals = np.array([length - 1, 0])

    def outcomes(place, actions):
        inside = place == bay
        at = jnp.where(inside, middle, place)
        to = jnp.clip(at + jnp.array([0, -1, 1, 0])[actions], 0, length - 1)
        to = jnp.where(inside & (actions != 3), middle, to)
        to = jnp.where((actions == 3) & (at == middle), bay, to)
        to = jnp.where(actions == 0, place, to)
        bumped = (to[0] == to[1]) | (to == place[::-1]).all()
        after = jnp.where(bumped, place, to)
        there = after == jnp.asarray(goals)
        paid = 10.0 * there.all() - 0.2 - 0.3 * bumped
        return after[None], jnp.ones(1), paid, there.all()[None]

    def rule(place):  # the second waits in the bay until the first is past it
        first, second = place
        passed = (first > middle) & (first != bay)
        free = passed | (second == bay) | (first < middle - 1)
        leaves = jnp.where(second == middle, jnp.where(passed, 1, 3), 1)
        leaves = jnp.where((second == bay) & ~passed, 0, leaves)
        return jnp.stack([jnp.where(free, 2, 0), leaves])

    return Rules(goals[::-1].copy(), outcomes, lambda place: (place, place), (4, 4), rule)


def coins(rows: int = 2, columns: int = 3) -> Rules:
    """A coin of one of two colors on a torus: whoever takes it is paid 1, and the agent whose color
    it is loses 2 if the other takes it. Each sees itself and the coin, not the other."""
    cells = np.array(list(np.ndindex(rows, columns)))
    every = len(cells)
    sizes = np.array([rows, columns])

    def outcomes(state, actions):
        to = (state["place"] + jnp.asarray(MOVES)[actions + 1]) % sizes
        takes = (to == state["coin"]).all(1)
        own = jnp.arange(2) == state["color"]
        paid = takes - 2.0 * own * (takes & ~own).any()
        fresh = {
            "place": jnp.broadcast_to(to, (2 * every, 2, 2)),
            "coin": jnp.tile(jnp.asarray(cells), (2, 1)),
            "color": jnp.repeat(jnp.arange(2), every),
        }
        stays = (fresh["coin"] == state["coin"]).all(1) & (fresh["color"] == state["color"])
        law = jnp.where(takes.any(), 1 / (2 * every), stays.astype(float))
        return fresh, law, paid

    def see(state):
        return tuple((place, state["coin"], state["color"]) for place in state["place"])

    def rule(state):
        return jnp.maximum(towards(state["place"], state["coin"]) - 1, 0)

    first = {"place": cells[[0, -1]], "coin": np.array([0, 1]), "color": 0}
    return Rules(first, outcomes, see, (4, 4), rule)


def pursuit(penalty: float, rows: int = 2, columns: int = 3) -> Rules:
    """Two hunt a prey that walks at random: caught (5) together it pays 1, alone it costs.

    A prey can be caught from its cell and from those beside. Each sees itself and the prey.
    """
    cells = np.array(list(np.ndindex(rows, columns)))
    last = cells[-1]

    def outcomes(state, actions):
        step = jnp.asarray(np.vstack([MOVES, [[0, 0]]]))[actions]
        to = jnp.clip(state["place"] + step, 0, last)
        near = jnp.abs(state["place"] - state["prey"]).sum(1) <= 1
        tries = (actions == 5) & near
        caught, alone = tries.all(), tries.sum() == 1
        runs = jnp.clip(state["prey"] + jnp.asarray(MOVES), 0, last)
        run = (runs[:, None] == jnp.asarray(cells)).all(2).mean(0, dtype=float)  # [C]
        law = jnp.where(caught, 1 / len(cells), run)
        following = {
            "place": jnp.broadcast_to(to, (len(cells), 2, 2)),
            "prey": jnp.asarray(cells),
        }
        return following, law, caught * 1.0 - penalty * alone

    def see(state):
        return tuple((place, state["prey"]) for place in state["place"])

    def rule(state):
        near = jnp.abs(state["place"] - state["prey"]).sum(1) <= 1
        return jnp.where(near, 5, towards(state["place"], state["prey"]))

    first = {"place": cells[[0, -1]], "prey": cells[columns - 1]}
    return Rules(first, outcomes, see, (6, 6), rule)


def forage(size: int, agents: int, food: np.ndarray, levels: np.ndarray) -> Rules:
    """Level-based foraging: enough agents beside a food must load it (5) together."""
    corners = np.array([[0, 0], [0, size - 1], [size - 1, 0]])[:agents]

    def outcomes(state, actions):
        step = jnp.asarray(np.vstack([MOVES, [[0, 0]]]))[actions]
        to = jnp.clip(state["place"] + step, 0, size - 1)
        near = jnp.abs(to[:, None] - jnp.asarray(food)[None]).sum(-1) == 1
        load = (actions == 5)[:, None] & near  # [N, F]
        got = (load.sum(0) >= jnp.asarray(levels)) & ~state["eaten"]
        share = got * jnp.asarray(levels) / jnp.maximum(load.sum(0), 1)
        eaten = state["eaten"] | got
        following = {"place": to[None], "eaten": eaten[None]}
        return following, jnp.ones(1), (load * share[None]).sum(1), eaten.all()[None]

    def see(state):
        return tuple((place, state["eaten"]) for place in state["place"])

    def rule(state):
        left = jnp.argmin(state["eaten"])
        goal = jnp.asarray(food)[left]
        near = jnp.abs(state["place"] - goal).sum(1) == 1
        return jnp.where(near, 5, towards(state["place"], goal))

    first = {"place": corners, "eaten": np.zeros(len(food), bool)}
    return Rules(first, outcomes, see, (6,) * agents, rule)


ALBRECHT = "Albrecht and Ramamoorthy, 2013; Christianos et al., 2020"
FOODS = np.array([[1, 1], [2, 2]])
BOHMER = "after Böhmer, Kurin and Whiteson, Deep coordination graphs, 2020"
LERER = "Lerer and Peysakhovich, 2017; JaxMARL's coin_game"

GRIDS = (
    Problem("walk", "grid", "two agents on 3 x 3 cells", walk),
    Problem("corridor", "grid", "made here", corridor),
    Problem("coins", "grid", LERER + ", 2 x 3", coins),
    Problem("pursuit", "grid", BOHMER + ", 2 x 3", lambda: pursuit(0.5)),
    Problem("pursuit_free", "grid", "the same, no penalty", lambda: pursuit(0.0)),
    Problem(
        "forage_two",
        "grid",
        ALBRECHT + ", 3 x 3",
        lambda: forage(3, 2, FOODS[:1], np.array([2])),
    ),
    Problem(
        "forage_three",
        "grid",
        ALBRECHT + ", 4 x 4",
        lambda: forage(4, 3, FOODS, np.array([2, 3])),
        large=True,
    ),
)
