"""Slow dense NumPy answers for restless bandits; they share no code with the package."""

import itertools
from fractions import Fraction

import numpy as np


def all_configurations(num_agents: int, num_states: int) -> list[tuple[int, ...]]:
    """Counts of N agents over S states, in lexicographic order."""
    if num_states == 1:
        return [(num_agents,)]
    return [
        (first, *rest)
        for first in range(num_agents + 1)
        for rest in all_configurations(num_agents - first, num_states - 1)
    ]


def served(counts, budget, priority) -> list[int]:
    """Active agents per state."""
    active = [0] * len(counts)
    for s in priority:
        active[s] = min(counts[s], budget)
        budget -= active[s]
    return active


def next_counts_matrix(kernel, num_agents, budget, priority):
    """The chain of counts by moving one agent after another: configurations, `[M, M]`."""
    num_states = kernel.shape[0]
    configurations = all_configurations(num_agents, num_states)
    place = {n: i for i, n in enumerate(configurations)}
    out = np.zeros((len(configurations), len(configurations)))
    for i, n in enumerate(configurations):
        active = served(n, budget, priority)
        law = {(0,) * num_states: 1.0}
        for s in range(num_states):
            for k in range(n[s]):
                row = kernel[s, int(k < active[s])]
                grown: dict[tuple[int, ...], float] = {}
                for c, p in law.items():
                    for t in range(num_states):
                        d = (*c[:t], c[t] + 1, *c[t + 1 :])
                        grown[d] = grown.get(d, 0.0) + p * row[t]
                law = grown
        for c, p in law.items():
            out[i, place[c]] = p
    return configurations, out


def joint_policy(num_agents, num_states, budget, priority):
    """Ties uniform: `{joint state: {joint action: probability}}` by listing all served sets."""
    policy = {}
    for states in itertools.product(range(num_states), repeat=num_agents):
        counts = [states.count(s) for s in range(num_states)]
        active = served(counts, budget, priority)
        choices = [()]
        for s in range(num_states):
            here = [i for i in range(num_agents) if states[i] == s]
            choices = [
                (*c, *subset) for c in choices for subset in itertools.combinations(here, active[s])
            ]
        policy[states] = {
            tuple(int(i in chosen) for i in range(num_agents)): 1 / len(choices)
            for chosen in choices
        }
    return policy


def joint_chain(kernel, num_agents, budget, priority):
    """Visited joint pairs and their chain: list of `(states, actions)`, `[J, J]`."""
    num_states = kernel.shape[0]
    policy = joint_policy(num_agents, num_states, budget, priority)
    pairs = [(s, a) for s, actions in policy.items() for a in actions]
    out = np.zeros((len(pairs), len(pairs)))
    for i, (s, a) in enumerate(pairs):
        for j, (t, b) in enumerate(pairs):
            move = np.prod([kernel[s[k], a[k], t[k]] for k in range(num_agents)])
            out[i, j] = move * policy[t][b]
    return pairs, out


def joint_state_chain(kernel, num_agents, budget, priority):
    """Joint states of all agents and their chain: list of states, `[S^N, S^N]`."""
    policy = joint_policy(num_agents, kernel.shape[0], budget, priority)
    rows = []
    for s, actions in policy.items():
        row = np.zeros(len(policy))
        for a, chance in actions.items():
            law = np.ones(1)
            for k in range(num_agents):
                law = np.kron(law, kernel[s[k], a[k]])
            row += chance * law
        rows.append(row)
    return list(policy), np.array(rows)


def permuted_classes(kernel, num_agents, budget, priority):
    """Whether each closed class of joint states is the same with agents exchanged; laws of counts.

    Closed classes by reachability; their laws of counts are told apart by the counts they visit.
    """
    states, P = joint_state_chain(kernel, num_agents, budget, priority)
    reach = (P > 0) | np.eye(len(P), dtype=bool)
    for k in range(len(P)):
        reach |= reach[:, k : k + 1] & reach[k : k + 1]
    classes = {
        frozenset(states[j] for j in np.flatnonzero(row))
        for i, row in enumerate(reach)
        if reach[row][:, i].all()
    }
    swaps = [(i, i + 1) for i in range(num_agents - 1)]

    def exchanged(s, i, j):
        t = list(s)
        t[i], t[j] = s[j], s[i]
        return tuple(t)

    keeps = all(exchanged(s, *swap) in found for found in classes for s in found for swap in swaps)
    laws = {frozenset(tuple(sorted(s)) for s in found) for found in classes}
    return keeps, len(laws)


def subsidised_values(bandit, subsidy):
    """Discounted values with a subsidy for resting, by policy iteration, and what acting gains."""
    passive, active, reward = (np.asarray(x) for x in bandit[:3])
    rest = np.zeros(len(passive), bool)
    while True:
        P = np.where(rest[:, None], passive, active)
        r = np.where(rest, reward[:, 0] + subsidy, reward[:, 1])
        V = np.linalg.solve(np.eye(len(P)) - bandit.discount * P, r)
        q0 = reward[:, 0] + subsidy + bandit.discount * passive @ V
        q1 = reward[:, 1] + bandit.discount * active @ V
        better = np.where(np.abs(q0 - q1) < 1e-12 * (1 + np.abs(V).max()), rest, q0 > q1)
        if (better == rest).all():
            return V, q1 - q0
        rest = better


def exact_indices(bandit, discount: Fraction) -> list[float] | None:
    """Least subsidies at which idling is optimal, by fractions and all policies; None if not
    indexable. For kernels and rewards of small fractions."""
    size = len(bandit.reward)
    P = np.array([[[Fraction(float(x)).limit_denominator(1000) for x in row] for row in kernel]
                  for kernel in (bandit.passive, bandit.active)])  # fmt: skip
    R = np.array([[Fraction(float(x)).limit_denominator(1000) for x in r] for r in bandit.reward])
    one, states = (
        np.array([[Fraction(int(i == j)) for j in range(size)] for i in range(size)]),
        range(size),
    )
    lines = []
    for actions in itertools.product((0, 1), repeat=size):
        paid = np.array([[R[s, actions[s]], Fraction(1 - actions[s])] for s in states])
        chain = np.array([P[actions[s], s] for s in states])
        gained = discount * (P[1] - P[0]) @ _solve_fractions(one - discount * chain, paid)
        alpha, beta = R[:, 1] - R[:, 0] + gained[:, 0], 1 - gained[:, 1]
        lines.append((np.array(actions), alpha, beta))
    ends = sorted(
        {a / b for _, alpha, beta in lines for a, b in zip(alpha, beta, strict=True) if b}
    )
    inside = [ends[0] - 1, *((x + y) / 2 for x, y in itertools.pairwise(ends)), ends[-1] + 1]
    idle = []
    for subsidy in inside:
        for actions, alpha, beta in lines:
            advantage = alpha - subsidy * beta
            if (np.where(actions, advantage, -advantage) >= 0).all():
                idle.append(advantage <= 0)
                break
    if any((a & ~b).any() for a, b in itertools.pairwise(idle)):
        return None
    first = np.array(idle).argmax(0)
    return [float(ends[k - 1]) for k in first]


def _solve_fractions(A, B):
    """A^-1 B by Gauss and Jordan."""
    M = np.concatenate([A, B], axis=1)
    for c in range(len(M)):
        p = next(i for i in range(c, len(M)) if M[i, c] != 0)
        M[[c, p]] = M[[p, c]]
        M[c] = M[c] / M[c, c]
        for i in range(len(M)):
            if i != c:
                M[i] = M[i] - M[i, c] * M[c]
    return M[:, len(A) :]
