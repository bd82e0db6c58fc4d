"""Policies with a memory agent by agent, in plain NumPy loops; they share no code with the package.

A case is types as (P, r, d), the type of each agent, limits, which of them must be met, and tables
π_k(a|s). Action 0 is the cheapest of every state, and actions stand by rising cost.
"""

import itertools
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """Agents one by one."""

    types: list
    kinds: list
    limits: np.ndarray
    equality: tuple
    tables: list


def bandit_case(passive, active, reward, number, budget, table):
    """A bandit: action 1 costs 1, and exactly `budget` act."""
    P = np.stack([passive, active], axis=1)
    d = np.zeros((len(P), 2, 1))
    d[:, 1] = 1
    types = [(P, np.asarray(reward), d)]
    return Case(types, [0] * number, np.array([float(budget)]), (True,), [np.asarray(table)])


def serve(case, states, wanted, order, spare, stop=False):
    """Actions: wants in turn while they fit, then what must be spent, one agent after another."""
    did = [0] * len(states)
    left = case.limits - sum(
        case.types[k][2][s, 0] for k, s in zip(case.kinds, states, strict=True)
    )

    def try_to(i, a):
        costs = case.types[case.kinds[i]][2][states[i]]
        more = costs[a] - costs[did[i]]
        fits = ((more <= left + 1e-9) | (more <= 0)).all()
        if fits:
            did[i] = a
            left[:] -= more
        return fits

    for i in order:
        if wanted[i] != 0 and not try_to(i, wanted[i]) and stop:
            break
    exact = np.flatnonzero(case.equality)
    if len(exact):
        most = max(len(d[0]) for _, _, d in case.types)
        for rank in range(most - 1, 0, -1):
            for i in spare:
                costs = case.types[case.kinds[i]][2][states[i]]
                if rank < len(costs):
                    more = (costs[rank] - costs[did[i]])[exact]
                    if (more >= 0).all() and (more > 0).any():
                        try_to(i, rank)
    return np.array(did)


def pick(rng, law):
    """An outcome of this law."""
    return int(min(np.searchsorted(np.cumsum(law), rng.random(), side="right"), len(law) - 1))


def paid(case, states, actions):
    """What all agents earn."""
    each = zip(case.kinds, states, actions, strict=True)
    return sum(case.types[k][1][s, a] for k, s, a in each)


def moved(rng, case, states, actions):
    """Next states."""
    each = zip(case.kinds, states, actions, strict=True)
    return [pick(rng, case.types[k][0][s, a]) for k, s, a in each]


def run_id(case, order, steps, seed, stop=True):
    """Rewards of the ID policy from state 0."""
    rng = np.random.default_rng(seed)
    states, rewards = [0] * len(case.kinds), []
    for _ in range(steps):
        wanted = [pick(rng, case.tables[k][s]) for k, s in zip(case.kinds, states, strict=True)]
        actions = serve(case, states, wanted, order, order[::-1], stop)
        rewards.append(paid(case, states, actions))
        states = moved(rng, case, states, actions)
    return np.array(rewards)


def run_virtual(case, steps, seed):
    """Rewards when agents follow virtual ones, all of which begin in state 0."""
    rng = np.random.default_rng(seed)
    states = [0] * len(case.kinds)
    virtual, rewards = list(states), []
    for _ in range(steps):
        wanted = [pick(rng, case.tables[k][v]) for k, v in zip(case.kinds, virtual, strict=True)]
        good = [i for i, s in enumerate(states) if s == virtual[i]]
        bad = [i for i, s in enumerate(states) if s != virtual[i]]
        rng.shuffle(good)
        rng.shuffle(bad)
        actions = serve(case, states, wanted, good + bad, bad[::-1] + good[::-1])
        rewards.append(paid(case, states, actions))
        then = moved(rng, case, states, actions)
        for i, k in enumerate(case.kinds):
            if states[i] == virtual[i] and actions[i] == wanted[i]:
                virtual[i] = then[i]
            else:
                virtual[i] = pick(rng, case.types[k][0][virtual[i], wanted[i]])
        states = then
    return np.array(rewards)


def id_chain(case, order, stop):
    """Rows of the joint chain of the ID policy and its mean rewards, all wants being listed."""
    spaces = [range(len(case.types[k][1])) for k in case.kinds]
    joint = list(itertools.product(*spaces))
    P, r = np.zeros((len(joint), len(joint))), np.zeros(len(joint))
    for x, states in enumerate(joint):
        options = [range(case.tables[k].shape[1]) for k in case.kinds]
        for wanted in itertools.product(*options):
            each = list(zip(case.kinds, states, strict=True))
            law = [case.tables[k][s, a] for (k, s), a in zip(each, wanted, strict=True)]
            actions = serve(case, states, wanted, order, order[::-1], stop)
            row = np.ones(1)
            for (k, s), a in zip(each, actions, strict=True):
                row = np.kron(row, case.types[k][0][s, a])
            P[x] += np.prod(law) * row
            r[x] += np.prod(law) * paid(case, states, actions)
    return P, r


def virtual_chain(case):
    """The same where agents follow virtual ones: states are (real, virtual) of every agent."""
    spaces = [range(len(case.types[k][1])) for k in case.kinds]
    joint = list(itertools.product(*spaces, *spaces))
    number = len(case.kinds)
    place = {x: i for i, x in enumerate(joint)}
    P, r = np.zeros((len(joint), len(joint))), np.zeros(len(joint))
    for x, both in enumerate(joint):
        states, virtual = both[:number], both[number:]
        orders = []
        for one in itertools.permutations(range(number)):
            orders.append(sorted(one, key=lambda i: states[i] != virtual[i]))
        options = [range(case.tables[k].shape[1]) for k in case.kinds]
        for wanted in itertools.product(*options):
            each = zip(case.kinds, virtual, wanted, strict=True)
            chance = np.prod([case.tables[k][v, a] for k, v, a in each]) / len(orders)
            for order in orders:
                actions = serve(case, states, wanted, order, order[::-1])
                r[x] += chance * paid(case, states, actions)
                nexts = []
                for i, k in enumerate(case.kinds):
                    rows = case.types[k][0]
                    real, alone = rows[states[i], actions[i]], rows[virtual[i], wanted[i]]
                    pairs = np.outer(real, alone)
                    if states[i] == virtual[i] and actions[i] == wanted[i]:
                        pairs = np.diag(real)
                    nexts.append(pairs)
                for y in itertools.product(*spaces, *spaces):
                    parts = zip(nexts, y[:number], y[number:], strict=True)
                    P[x, place[y]] += chance * np.prod([part[s, v] for part, s, v in parts])
    return P, r


def average(P, r):
    """The stationary mean of r."""
    rows = np.vstack([P.T - np.eye(len(P)), np.ones(len(P))])
    law = np.linalg.lstsq(rows, np.append(np.zeros(len(P)), 1.0), rcond=None)[0]
    return float(law @ r)


class TwoSets(NamedTuple):
    """What the two-set policy knows of a bandit."""

    law: np.ndarray
    norm: np.ndarray
    reach: float
    margin: float
    neutral: int


def two_sets(case, occupancy):
    """The norm by summing its series, the reach by all sets of states that may be empty."""
    P, table, number = case.types[0][0], case.tables[0], len(case.kinds)
    share = case.limits[0] / number
    law = occupancy.sum(1)
    (neutral,) = np.flatnonzero((occupancy > 1e-9).all(1))
    moves = np.einsum("sa,sat->st", table, P)
    swap = P[neutral, 1] - P[neutral, 0]
    step = moves - np.outer(np.ones(len(law)), law) - np.outer(table[:, 1] - share, swap)
    norm, power = np.zeros_like(step), np.eye(len(law))
    for _ in range(4000):
        norm += power @ power.T
        power = step @ power
    reach = min(
        _nearest(norm, law, np.where(np.arange(len(law)) == neutral, 0, table[:, a]), bound)
        for a, bound in ((1, share), (0, 1 - share))
    )
    largest = np.linalg.norm(norm, 2)
    return TwoSets(law, norm, reach, 2 * np.sqrt(2 * largest), int(neutral))


def _nearest(norm, law, weight, bound):
    """Distance to the laws x with weight'x >= bound, by all sets of states that may be empty."""
    best = np.inf
    S = len(law)
    for size in range(1, S + 1):
        for used in itertools.combinations(range(S), size):
            rows = np.stack([np.ones(size), weight[list(used)]])
            if np.linalg.matrix_rank(rows) < 2 and not np.isclose(weight[list(used)], bound).all():
                continue
            U = norm[np.ix_(used, used)]
            system = np.block([[U, rows.T], [rows, np.zeros((2, 2))]])
            right = np.concatenate([norm[list(used)] @ law, [1, bound]])
            x = np.zeros(S)
            x[list(used)] = np.linalg.lstsq(system, right, rcond=None)[0][:size]
            if x.min() > -1e-9 and abs(x.sum() - 1) < 1e-9 and abs(weight @ x - bound) < 1e-9:
                best = min(best, np.sqrt((x - law) @ norm @ (x - law)))
    return best


def run_two_sets(case, known, steps, seed):
    """Rewards of the two-set policy from state 0, and the size of the first set at every step."""
    rng = np.random.default_rng(seed)
    number, budget, table = len(case.kinds), int(case.limits[0]), case.tables[0]
    S = len(known.law)
    states, first, second = [0] * number, [], []
    rewards, sizes = [], []

    def count(members):
        return np.bincount([states[i] for i in members], minlength=S)

    def allowed(z):
        m = z.sum()
        act = sum(z[s] for s in range(S) if s != known.neutral and table[s, 1] == 1)
        if not act * number <= budget * m <= (act + z[known.neutral]) * number:
            return False
        if act > budget * m // number or act + z[known.neutral] < -(-budget * m // number):
            return False
        v = z - m * known.law
        return np.sqrt(v @ known.norm @ v) <= known.reach * m - known.margin

    def largest(low, high):
        if allowed(high):
            return high
        breaks = {j / known.law[s] for s in range(S) for j in range(high[s] + 1)}
        for c in sorted(breaks, reverse=True):
            z = np.clip(np.floor(c * known.law + 1e-9).astype(int), low, high)
            if allowed(z):
                return z
        return low

    for _ in range(steps):
        z = largest(largest(np.zeros(S, int), count(first)), count(range(number)))
        chosen = []
        for s in range(S):
            here = [i for i in first if states[i] == s]
            here += [i for i in range(number) if states[i] == s and i not in first]
            chosen += here[: z[s]]
        first = sorted(chosen)
        target = min(budget, number - budget) * (number - len(first)) // number
        free = [i for i in range(number) if i not in first]
        second = [i for i in second if i in free][:target]
        second = sorted(second + [i for i in free if i not in second][: target - len(second)])
        actions = np.zeros(number, int)
        whole, over = divmod(budget * len(first), number)
        total = whole + (rng.random() * number < over)
        for i in first:
            if states[i] != known.neutral and table[states[i], 1] == 1:
                actions[i] = 1
        spare = [i for i in first if states[i] == known.neutral]
        actions[spare[: total - actions.sum()]] = 1
        for s in range(S):
            here = [i for i in second if states[i] == s]
            mean = len(here) * table[s, 1]
            low = int(np.floor(mean + 1e-9))
            actions[here[: low + (rng.random() < mean - low)]] = 1
        rest = [i for i in free if i not in second]
        wanted = [i for i in rest if rng.random() < table[states[i], 1]]
        actions[wanted[: budget - actions.sum()]] = 1
        idle = [i for i in rest if actions[i] == 0]
        missing = budget - actions.sum()
        actions[idle[len(idle) - missing :]] = 1
        assert actions.sum() == budget
        rewards.append(paid(case, states, actions))
        sizes.append(len(first))
        states = moved(rng, case, states, actions)
    return np.array(rewards), np.array(sizes)
