"""Slow, plain NumPy answers for restless bandits on counts; they share no code with the package."""

import itertools
from math import comb, factorial

import numpy as np


def random_bandit(seed, num_states, num_agents, budget, discount=0.7, zeros=0.0):
    """Kernels, reward, N, M, discount of a random bandit; `zeros` is the share of missing
    transitions."""
    rng = np.random.default_rng(seed)

    def kernel():
        rows = rng.dirichlet(np.ones(num_states), size=num_states)
        keep = rng.random(rows.shape) >= zeros
        keep[np.arange(num_states), rng.integers(num_states, size=num_states)] = True
        rows = np.where(keep, rows + 1e-3, 0)
        return rows / rows.sum(1, keepdims=True)

    reward = rng.uniform(-1, 1, (num_states, 2))
    return kernel(), kernel(), reward, num_agents, budget, discount


def configurations(num_agents, num_states):
    """All counts that sum to N, as tuples."""
    return [
        c
        for c in itertools.product(range(num_agents + 1), repeat=num_states)
        if sum(c) == num_agents
    ]


def serve(counts, priority, budget):
    """Active agents per state, one agent at a time."""
    active = [0] * len(counts)
    left = budget
    for state in priority:
        while left > 0 and active[state] < counts[state]:
            active[state] += 1
            left -= 1
    return active


def multinomial_law(n, p):
    """Law of Multinomial(n, p) as {counts: probability}."""
    law = {}
    for c in configurations(n, len(p)):
        ways = factorial(n)
        chance = 1.0
        for k, q in zip(c, p, strict=True):
            ways //= factorial(k)
            chance *= q**k
        if chance > 0:
            law[c] = ways * chance
    return law


def next_law(counts, passive, active, priority, budget):
    """Law of the next counts by convolving one multinomial for each (state, action)."""
    served = serve(counts, priority, budget)
    law = {(0,) * len(counts): 1.0}
    for s, n in enumerate(counts):
        for group, row in ((n - served[s], passive[s]), (served[s], active[s])):
            part = multinomial_law(group, row)
            mixed = {}
            for a, pa in law.items():
                for b, pb in part.items():
                    key = tuple(np.add(a, b))
                    mixed[key] = mixed.get(key, 0.0) + pa * pb
            law = mixed
    return law


def counts_chain(passive, active, reward, num_agents, budget, priority):
    """Configurations, transition matrix and reward of the counts chain."""
    states = configurations(num_agents, len(passive))
    index = {c: i for i, c in enumerate(states)}
    P = np.zeros((len(states), len(states)))
    r = np.zeros(len(states))
    for c, i in index.items():
        served = serve(c, priority, budget)
        for s, n in enumerate(c):
            r[i] += (n - served[s]) * reward[s][0] + served[s] * reward[s][1]
        for after, chance in next_law(c, passive, active, priority, budget).items():
            P[i, index[after]] += chance
    return states, P, r


def binomial_pmf(n, p):
    """Law of Binomial(n, p) by exact binomial coefficients."""
    return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
