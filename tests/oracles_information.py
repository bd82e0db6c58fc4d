"""Information by its definition, from tables of joint laws: NumPy alone, no code shared."""

import numpy as np


def conditional_information(joint):
    """I(A; B | C) of a table of their law `[A, B, C]`, as a sum over its positive entries."""
    total = 0.0
    for c in range(joint.shape[2]):
        table = joint[..., c]
        weight = table.sum()
        for a, b in zip(*np.nonzero(table)):
            p = table[a, b]
            total += p * np.log(p * weight / (table[a].sum() * table[:, b].sum()))
    return total


def transfer_entropy(P, mu, own, known):
    """I(X_i'; K | X_i) with `own` and `known` codes of joint pairs, `[J]` each."""
    joint = np.zeros((own.max() + 1, known.max() + 1, own.max() + 1))
    for x in range(len(P)):
        for y in range(len(P)):
            joint[own[y], known[x], own[x]] += mu[x] * P[x, y]
    return conditional_information(joint)


def rows_and_mean(P, mu, own):
    """Laws of the next own pair `[J, X]`, and their mean given the own pair, `[J, X]`."""
    one = np.eye(own.max() + 1)[own]
    rows = P @ one
    flow = one.T @ (mu[:, None] * rows)
    mass = flow.sum(1, keepdims=True)
    return rows, (flow / np.where(mass > 0, mass, 1))[own]


def coin(p):
    """Entropy of a coin, in nats."""
    p = np.asarray(p, float)
    inside = np.where((p > 0) & (p < 1), p, 0.5)
    return np.where(
        (p > 0) & (p < 1), -inside * np.log(inside) - (1 - inside) * np.log1p(-inside), 0
    )


def influence(policy, law):
    """Social influence of two agents, the mean of I(A_0; A_1 | s): `policy` [S, A, A], law [S]."""
    return conditional_information(np.moveaxis(law[:, None, None] * policy, 0, 2))


def history_transfer(own, other, memory):
    """Plug-in transfer entropy along a path, with so many own steps remembered."""
    T = len(own)
    past = np.stack([own[k : T - memory + k] for k in range(memory)], 1)
    _, past = np.unique(past, axis=0, return_inverse=True)
    past = past.reshape(-1)
    joint = np.zeros((own.max() + 1, other.max() + 1, past.max() + 1))
    np.add.at(joint, (own[memory:], other[memory - 1 : -1], past), 1 / (T - memory))
    return conditional_information(joint)
