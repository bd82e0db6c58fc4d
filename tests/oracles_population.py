"""Slow, plain NumPy and SciPy answers for populations; they share no code with the package."""

import itertools

import numpy as np
from scipy.optimize import linprog


def random_population(seed, sizes, counts, num_budgets=1, discount=0.8, equality=()):
    """Types as (P, r, d), counts, budgets as (limit, equality), discount.

    Action 0 is free. A limit is a share of what would be used by the dearest actions.
    """
    rng = np.random.default_rng(seed)
    types = []
    for S, A in sizes:
        P = rng.dirichlet(np.ones(S), (S, A))
        d = rng.integers(0, 3, (S, A, num_budgets)).astype(float)
        d[:, 0] = 0
        types.append((P, rng.standard_normal((S, A)), d))
    budgets = []
    for k in range(num_budgets):
        most = sum(n * d[..., k].max() for n, (_, _, d) in zip(counts, types, strict=True))
        budgets.append((float(np.floor(rng.uniform(0.2, 0.6) * most)), k in equality))
    return types, counts, budgets, discount


def fluid_value(types, counts, budgets, discount=None, start=None):
    """The largest reward with budgets on average, all in one plain program over y."""
    g = 1.0 if start is None else discount
    offsets = np.cumsum([0] + [r.size for _, r, _ in types])
    cost = -np.concatenate([r.ravel() for _, r, _ in types])
    eq, right = [], []
    for k, (P, r, _) in enumerate(types):
        S, A = r.shape
        for s in range(S):
            row = np.zeros(offsets[-1])
            for u, a in itertools.product(range(S), range(A)):
                row[offsets[k] + u * A + a] += (u == s) - g * P[u, a, s]
            eq.append(row)
            right.append(0.0 if start is None else (1 - g) * start[k][s])
        if start is None:
            row = np.zeros(offsets[-1])
            row[offsets[k] : offsets[k + 1]] = 1
            eq.append(row)
            right.append(counts[k])
    upper, most = [], []
    for j, (limit, equality) in enumerate(budgets):
        row = np.concatenate([d[..., j].ravel() for _, _, d in types])
        (eq if equality else upper).append(row)
        (right if equality else most).append(limit)
    found = linprog(
        cost,
        A_ub=np.array(upper) if upper else None,
        b_ub=most if upper else None,
        A_eq=np.array(eq),
        b_eq=right,
    )
    if found.status == 2:
        return None
    assert found.status == 0
    return -found.fun / (1 if start is None else 1 - g)
