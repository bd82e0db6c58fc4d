"""The small benchmarks of decentralized planning, their rules from the papers.

Where a paper or its usual file leaves a number open, it is ours, and the source says "after".
"""

from itertools import product

import jax.numpy as jnp
import numpy as np

from .grids import MOVES
from .rules import Problem, Rules, chances, dec_pomdp, stacked


def tiger(memory: int = 1) -> Rules:
    """Behind one of two doors is a tiger; each listens (2), or opens the left (0) or right (1)."""
    moves = np.full((2, 3, 3, 2), 0.5)
    moves[:, 2, 2] = np.eye(2)
    pay = np.zeros((2, 3, 3))
    for world, a, b in np.ndindex(2, 3, 3):
        wrong = [x == world for x in (a, b) if x != 2]
        if a != 2 and b != 2:
            pay[world, a, b] = -100 if a != b else (-50 if wrong[0] else 20)
        else:
            pay[world, a, b] = -2 if not wrong else (-101 if wrong[0] else 9)
    hears = np.full((3, 3, 2, 2), 0.5)
    hears[2, 2] = [[0.85, 0.15], [0.15, 0.85]]

    def acts(heard):
        sure = (heard == heard[:, :1]).all(1) & (heard[:, 0] < 2)
        return jnp.where(sure, 1 - heard[:, 0], 2) if memory > 1 else jnp.full(2, 2)

    return dec_pomdp(moves, pay, [hears, hears], np.full(2, 0.5), memory=memory, acts=acts)


def fire(houses: int = 3, levels: int = 3) -> Rules:
    """Two go to houses in a row; fires grow, spread, and go out where both are. One epoch in ten
    is another street, with any fires."""
    worlds = np.array(list(np.ndindex(*(levels,) * houses)))
    moves = np.zeros((len(worlds), houses, houses, len(worlds)))
    for w, a, b in np.ndindex(len(worlds), houses, houses):
        each = []
        for h, level in enumerate(worlds[w]):
            near = any(0 <= k < houses and worlds[w][k] > 0 for k in (h - 1, h + 1))
            present = (a == h) + (b == h)
            law = np.zeros(levels)
            if present == 2:
                law[0] = 1
            elif present == 1:
                falls = 0.6 if near else 1.0
                law[max(level - 1, 0)] += falls
                law[level] += 1 - falls
            else:
                grows = (0.8 if near else 0.4) if level > 0 else (0.8 if near else 0.0)
                law[min(level + 1, levels - 1)] += grows
                law[level] += 1 - grows
            each.append(law)
        moves[w, a, b] = [np.prod([x[v] for x, v in zip(each, u, strict=True)]) for u in worlds]
    pay = -moves @ worlds.sum(1)
    flames = np.array([0.2, 0.5, 0.8])[worlds]  # [W, H]
    hears = np.stack([1 - flames, flames], -1).transpose(1, 0, 2)  # [H, W, 2]
    both = np.broadcast_to(hears[:, None], (houses, houses, *hears.shape[1:]))
    first = np.full(len(worlds), 1 / len(worlds))
    moves = 0.9 * moves + 0.1 * first
    return dec_pomdp(moves, pay, [both, both.transpose(1, 0, 2, 3)], first)


def broadcast() -> Rules:
    """Two send over one channel; who has a message sees it; two at once are lost to both."""
    arrives = (0.9, 0.1)

    def outcomes(full, actions):
        sends = full * actions
        done = (sends.sum() == 1) * sends
        left = full - done
        every, weights = chances(*[[(0, 1 - p), (1, p)] for p in arrives])
        after = stacked([jnp.maximum(left, jnp.array(new)) for new in every])
        return after, weights, done.sum().astype(float)

    return Rules(np.ones(2, int), outcomes, lambda full: full, (2, 2), lambda s: jnp.array([1, 0]))


def recycling() -> Rules:
    """Two robots with batteries: charge (0), a small can alone (1), or a big one together (2)."""
    spent = jnp.array([0.0, 0.3, 0.5])

    def outcomes(full, actions):
        empty = (full == 0) & (actions > 0)  # may die, is carried home, and that costs
        falls = jnp.where(actions > 0, spent[actions], 0.0)
        every = list(product((0, 1), repeat=2))
        after, weights = [], []
        for down in every:
            change = jnp.array(down) == 1
            charged = (actions == 0) | (empty & change)
            after.append(jnp.where(charged, 1, jnp.where(change, 0, full)))
            weights.append(jnp.where(change, falls, 1 - falls).prod())
        paid = 2.0 * (actions == 1).sum() + 5.0 * (actions == 2).all() - 3.0 * (falls * empty).sum()
        return jnp.stack(after), jnp.stack(weights), paid

    def rule(full):
        return jnp.where(full == 1, 2, 0)

    return Rules(np.ones(2, int), outcomes, lambda full: full, (3, 3), rule)


def meeting(size: int = 3) -> Rules:
    """Two meet in one of two corners, seeing their own cell; a step in any other way is as likely
    as a tenth."""
    corners = np.array([[0, 0], [size - 1, size - 1]])
    every = np.array(list(product(range(5), repeat=2)))

    def outcomes(place, actions):
        step = jnp.asarray(MOVES)[every]  # [25, 2, 2]
        weights = jnp.where(jnp.asarray(every) == actions, 0.6, 0.1).prod(1)
        met = (place[0] == place[1]).all()
        there = (place[0] == jnp.asarray(corners)).all(1).any()
        return jnp.clip(place + step, 0, size - 1), weights, (met & there).astype(float)

    def rule(place):  # up, then left
        return jnp.where(place[:, 0] > 0, 1, jnp.where(place[:, 1] > 0, 3, 0))

    return Rules(corners[::-1].copy(), outcomes, lambda place: place, (5, 5), rule)


def boxes() -> Rules:
    """Two in a row of four cells push: a small box each at the ends, or the large one in the middle
    together. Stay, left, right, push; nine in ten steps come off."""

    def outcomes(place, actions):
        step = jnp.array([0, -1, 1, 0])[actions]
        push = actions == 3
        small = (push & (place == jnp.array([0, 3]))).sum()
        middle = (place == 1) | (place == 2)
        large = (push & middle).all() & (place[0] != place[1])
        bumped = (push & middle).any() & ~large
        every, weights = chances([(1, 0.9), (0, 0.1)], [(1, 0.9), (0, 0.1)])
        after = []
        for comes in every:
            to = jnp.clip(place + jnp.array(comes) * step, 0, 3)
            after.append(jnp.where((to[0] == to[1]) | (to == place[::-1]).all(), place, to))
        paid = 10.0 * small + 100.0 * large - 5.0 * bumped - 0.2
        ends = jnp.broadcast_to(large | (small > 0), (4,))
        return jnp.stack(after), weights, paid, ends

    def rule(place):
        middle = (place == 1) | (place == 2)
        return jnp.where(middle, 3, jnp.array([2, 1]))

    return Rules(np.array([0, 3]), outcomes, lambda place: place, (4, 4), rule)


# The drilling sites need two rovers at once, the sampling sites one.
DRILLED = np.array([False, True, True, False])


def rovers() -> Rules:
    """Two rovers at four sites of 2 x 2: sites 1 and 2 are drilled by both, 0 and 3 sampled by one.

    Four moves (the wrong way is to stay), drill, sample. An experiment of the wrong kind spoils the
    site. Each sees where it is and what is done.
    """
    to = np.array([[0, 0, 0, 1], [1, 1, 0, 1], [0, 2, 2, 3], [1, 3, 2, 3]])
    to[0, 1], to[1, 1], to[2, 0], to[3, 0] = 2, 3, 0, 1  # up, down, left, right

    def outcomes(state, actions):
        at, done = state["at"], state["done"]
        works = actions >= 4
        here = at[:, None] == jnp.arange(4)  # [2, 4]
        drill = (here & (actions == 4)[:, None]).sum(0)
        sample = (here & (actions == 5)[:, None]).sum(0)
        need = jnp.asarray(DRILLED)
        right = jnp.where(need, drill == 2, (sample >= 1) & (drill == 0)) & ~done
        tried = (drill + sample > 0) & ~done
        paid = (right * jnp.where(need, 6.0, 2.0) - (tried & ~right) * 1.0).sum() - 0.1
        after = done | tried
        walk = jnp.asarray(to)[at, jnp.minimum(actions, 3)]
        every, weights = chances([(1, 0.9), (0, 0.1)], [(1, 0.9), (0, 0.1)])
        places = jnp.stack([jnp.where(works | (jnp.array(c) == 0), at, walk) for c in every])
        following = {"at": places, "done": jnp.broadcast_to(after, (4, 4))}
        return following, weights, paid, jnp.broadcast_to(after.all(), (4,))

    def see(state):
        return tuple((at, state["done"]) for at in state["at"])

    first = {"at": np.array([0, 3]), "done": np.zeros(4, bool)}
    return Rules(first, outcomes, see, (6, 6))


OLIEHOEK = "Oliehoek, Spaan and Vlassis, JAIR 32, 2008"
AMATO = "Amato, Dibangoye and Zilberstein, ICAPS 2009"

BENCHMARKS = (
    Problem("tiger", "Dec-POMDP", "Nair et al., IJCAI 2003", tiger),
    Problem("tiger_two", "Dec-POMDP", "the same, two observations remembered", lambda: tiger(2)),
    Problem("fire", "Dec-POMDP", OLIEHOEK, fire),
    Problem("broadcast", "Dec-POMDP", "Hansen, Bernstein and Zilberstein, AAAI 2004", broadcast),
    Problem("recycling", "Dec-POMDP", "after Amato, Bernstein and Zilberstein, 2007", recycling),
    Problem("meeting", "Dec-POMDP", AMATO, meeting),
    Problem("boxes", "Dec-POMDP", "after Seuken and Zilberstein, UAI 2007, in a row", boxes),
    Problem("rovers", "Dec-POMDP", "after Amato and Zilberstein, AAMAS 2009", rovers),
)
