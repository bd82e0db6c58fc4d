"""Slow dense answers in NumPy that share no code with the library."""

import itertools
from fractions import Fraction

import numpy as np


def random_stochastic(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def random_policy(rng, states, actions):
    rows = random_stochastic(rng, *states, int(np.prod(actions)))
    return rows.reshape(*states, *actions)


def either_way(P, mu):
    """A chain of two agents with two pairs each and its law, the agents exchanged and as given.

    So one program measures both: agent 1 of the first is agent 0 of the second.
    """
    xp = P.__array_namespace__()
    swapped = P.reshape((2,) * 4).transpose((1, 0, 3, 2)).reshape(4, 4)
    return xp.stack([swapped, P]), xp.stack([mu.reshape(2, 2).T.reshape(-1), mu])


def weakly_coupled_matrix(kernels, policy):
    """P[(s_0, a_0, ..), (s_0', a_0', ..)] by the definition, one entry at a time."""
    kernels, policy = [np.asarray(k) for k in kernels], np.asarray(policy)
    states = [k.shape[0] for k in kernels]
    actions = [k.shape[1] for k in kernels]
    pairs = [list(itertools.product(range(s), range(a))) for s, a in zip(states, actions)]
    joint = list(itertools.product(*pairs))
    P = np.zeros((len(joint), len(joint)))
    for i, x in enumerate(joint):
        for j, y in enumerate(joint):
            p = policy[tuple(s for s, _ in y) + tuple(a for _, a in y)]
            for kernel, (s, a), (t, _) in zip(kernels, x, y):
                p = p * kernel[s, a, t]
            P[i, j] = p
    return P


def stationary(P):
    n = len(P)
    A = np.vstack([np.eye(n) - P.T, np.ones(n)])
    return np.linalg.lstsq(A, np.append(np.zeros(n), 1), rcond=None)[0]


def local_transition(P, mu, sizes, agent):
    P, mu = np.asarray(P), np.asarray(mu)
    X = sizes[agent]
    joint = list(itertools.product(*map(range, sizes)))
    flow = np.zeros((X, X))
    for i, x in enumerate(joint):
        for j, y in enumerate(joint):
            flow[x[agent], y[agent]] += mu[i] * P[i, j]
    return flow / flow.sum(1, keepdims=True)


def lift(functions):
    functions = [np.asarray(f) for f in functions]
    sizes = [len(f) for f in functions]
    joint = itertools.product(*map(range, sizes))
    return np.array([sum(f[k] for f, k in zip(functions, x)) for x in joint])


def q_values(P, r, discount):
    return np.linalg.solve(np.eye(len(P)) - discount * P, r)


def exact_solve(A, b):
    """Gauss-Jordan elimination over the rationals."""
    n = len(A)
    M = [[*row, value] for row, value in zip(A, b)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if M[i][k] != 0)
        M[k], M[pivot] = M[pivot], M[k]
        M[k] = [entry / M[k][k] for entry in M[k]]
        for i in range(n):
            if i != k and M[i][k] != 0:
                M[i] = [a - M[i][k] * c for a, c in zip(M[i], M[k])]
    return [row[n] for row in M]


def exact_law(P):
    """The stationary law of a rational chain."""
    n = len(P)
    A = [[Fraction(int(i == j)) - P[j][i] for j in range(n)] for i in range(n)]
    A[-1] = [Fraction(1)] * n
    return exact_solve(A, [Fraction(0)] * (n - 1) + [Fraction(1)])


def exact_values(P, r, discount):
    n = len(P)
    A = [[Fraction(int(i == j)) - discount * P[i][j] for j in range(n)] for i in range(n)]
    return exact_solve(A, r)


def nearly_decomposable(rng, blocks, size, coupling):
    """A rational chain of blocks with rare moves between them."""
    n = blocks * size
    P = [[Fraction(0)] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            near = i // size == j // size
            step = Fraction(int(rng.integers(1, 100)), 100 * n)
            P[i][j] = step if near else step * coupling
        P[i][i] = 1 - sum(P[i])
    return P
