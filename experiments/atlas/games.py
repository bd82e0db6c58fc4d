"""Matrix games, and games of a few states."""

import jax.numpy as jnp
import numpy as np

from .rules import Problem, Rules, matrix_game

CLIMBING = [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]
PENALTY = [[10, 0, -50], [0, 2, 0], [-50, 0, 10]]
QTRAN = [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]
QPLEX = [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]]
MONOTONE = [[0, 1], [1, 8]]


def additive() -> Rules:
    """What each does is paid apart."""
    return matrix_game(np.add.outer([0.0, 2, 1], [1.0, 0, 3]), (1, 2))


def parity() -> Rules:
    """Three agents are paid if an odd number of them acts."""
    return matrix_game(np.indices((2, 2, 2)).sum(0) % 2, (1, 0, 0))


def effort() -> Rules:
    """Weakest link: three choose an effort of 0 to 3, the least is paid to all, each pays half."""
    tried = np.indices((4, 4, 4))
    return matrix_game(3 * tried.min(0) - 0.5 * tried.sum(0), (3, 3, 3))


def two_step() -> Rules:
    """First agent 0 alone chooses one of two games: 7 whatever is done, or up to 8 together."""
    pay = np.array([[[0, 0], [0, 0]], [[7, 7], [7, 7]], MONOTONE], float)

    def outcomes(state, actions):
        second = jnp.where(state == 0, 1 + actions[0], 0)
        return second[None], jnp.ones(1), jnp.asarray(pay)[(state, *actions)], (state > 0)[None]

    return Rules(0, outcomes, lambda state: (state, state), (2, 2), lambda s: jnp.array([1, 1]))


def dilemma() -> Rules:
    """The prisoner's dilemma over and over, paid in sum, both know what was played last."""
    pay = np.array([[3.0, 0.0], [5.0, 1.0]])

    def outcomes(state, actions):
        paid = jnp.asarray(pay)[actions[0], actions[1]], jnp.asarray(pay)[actions[1], actions[0]]
        return (1 + 2 * actions[0] + actions[1])[None], jnp.ones(1), jnp.stack(paid)

    return Rules(0, outcomes, lambda state: (state, state), (2, 2), lambda s: jnp.zeros(2, int))


def doors() -> Rules:
    """Two doors: both go through one, and who goes alone is thrown back by a step of three."""

    def outcomes(state, actions):
        same = actions[0] == actions[1]
        paid = jnp.where(state == 2, 1.0 + 3.0 * (same & (actions[0] == 1)), 0.0)
        paid = jnp.where((state == 2) & ~same, -2.0, paid)
        after = jnp.where(same, (state + 1) % 3, jnp.maximum(state - 1, 0))
        return after[None], jnp.ones(1), paid

    return Rules(0, outcomes, lambda state: (state, state), (2, 2), lambda s: jnp.ones(2, int))


CLAUS = "Claus and Boutilier, The dynamics of reinforcement learning in cooperative systems, 1998"
RASHID = "Rashid et al., QMIX, 2018"

GAMES = (
    Problem("climbing", "matrix", CLAUS, lambda: matrix_game(CLIMBING, (0, 0)), quick=True),
    Problem("penalty", "matrix", CLAUS, lambda: matrix_game(PENALTY, (0, 0)), quick=True),
    Problem(
        "stag_hunt",
        "matrix",
        "Rousseau; Skyrms, The stag hunt, 2004",
        lambda: matrix_game([[8, -4], [-4, 4]], (0, 0)),
    ),
    Problem("monotone", "matrix", RASHID + ": state 2B", lambda: matrix_game(MONOTONE, (1, 1))),
    Problem("additive", "matrix", "made here", additive, quick=True),
    Problem("qtran", "matrix", "Son et al., QTRAN, 2019", lambda: matrix_game(QTRAN, (0, 0))),
    Problem("qplex", "matrix", "Wang et al., QPLEX, 2021", lambda: matrix_game(QPLEX, (0, 0))),
    Problem("parity", "matrix", "made here", parity),
    Problem("effort", "matrix", "Van Huyck, Battalio and Beil, 1990, numbers ours", effort),
    Problem("two_step", "few states", RASHID, two_step, quick=True),
    Problem("dilemma", "few states", "Axelrod, The evolution of cooperation, 1984", dilemma),
    Problem("doors", "few states", "made here", doors),
)
