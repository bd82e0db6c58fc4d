"""Measures as linear programs for SciPy, stated directly; no code shared with the library.

Each returns (cost, A_ub, b_ub, A_eq, b_eq) with every unknown nonnegative, `solve` its value.
"""

import numpy as np
from scipy import sparse
from scipy.optimize import linprog


def solve(program, method="highs-ds"):
    cost, a_ub, b_ub, a_eq, b_eq = program
    found = linprog(cost, A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, method=method)
    assert found.status == 0, found.message
    return found.fun


def nearest_separable(joint, mu=None):
    """TV (or mu-TV) to the no-signaling chains Z; joint `[A, B, K, L]`. Z and e = (P - Z)_+."""
    num_a, num_b, k, l = joint.shape
    size = joint.size
    index = np.arange(size).reshape(joint.shape)
    eye = sparse.identity(size, format="csr")
    blocks = [sparse.hstack([-eye, -eye])]  # -Z - e <= -P
    bound = [-joint.ravel()]
    row_sum = sparse.kron(sparse.identity(num_a * num_b), np.ones((1, k * l)), format="csr")
    if mu is None:
        cost = np.zeros(2 * size + 1)
        cost[-1] = 1
        blocks = [sparse.hstack([blocks[0], sparse.csr_matrix((size, 1))])]
        zero = sparse.csr_matrix((num_a * num_b, size))
        blocks.append(sparse.hstack([zero, row_sum, -np.ones((num_a * num_b, 1))]))
        bound.append(np.zeros(num_a * num_b))
    else:
        cost = np.concatenate([np.zeros(size), np.repeat(mu.ravel(), k * l)])
    rows, columns, values, right = [], [], [], []

    def equation(plus, minus, value):
        for sign, part in ((1, plus), (-1, minus)):
            rows.extend([len(right)] * len(part))
            columns.extend(part)
            values.extend([sign] * len(part))
        right.append(value)

    for a in range(num_a):
        for b in range(num_b):
            equation(index[a, b].ravel(), [], 1)
            for x in range(k) if b else ():
                equation(index[a, b, x], index[a, 0, x], 0)
            for y in range(l) if a else ():
                equation(index[a, b, :, y], index[0, b, :, y], 0)
    a_eq = sparse.csr_matrix((values, (rows, columns)), shape=(len(right), len(cost)))
    return cost, sparse.vstack(blocks).tocsr(), np.concatenate(bound), a_eq, np.array(right)


def agentwise(points, mu=None):
    """ATV (Eq. 5), or Eq. (7) where mu is given; points `[X, C, m]`. Unknowns q, e, (t)."""
    num, others, m = points.shape
    laws, size = num * m, points.size
    pick = sparse.kron(sparse.identity(num), sparse.kron(np.ones((others, 1)), sparse.identity(m)))
    parts = [sparse.hstack([-pick, -sparse.identity(size)])]  # -q - e <= -p
    bound = [-points.ravel()]
    a_eq = sparse.hstack(
        [
            sparse.kron(sparse.identity(num), np.ones((1, m))),
            sparse.csr_matrix((num, size + (mu is None))),
        ]
    )
    if mu is None:
        parts[0] = sparse.hstack([parts[0], sparse.csr_matrix((size, 1))])
        sums = sparse.kron(sparse.identity(num * others), np.ones((1, m)))
        empty = sparse.csr_matrix((num * others, laws))
        parts.append(sparse.hstack([empty, sums, -np.ones((num * others, 1))]))
        bound.append(np.zeros(num * others))
        cost = np.zeros(laws + size + 1)
        cost[-1] = 1
    else:
        cost = np.concatenate([np.zeros(laws), np.repeat(mu.ravel(), m)])
    return cost, sparse.vstack(parts).tocsr(), np.concatenate(bound), a_eq.tocsr(), np.ones(num)


def mu_agentwise(points, mu):
    """Def. 8, every sign vector listed; points `[X, C, m]`, mu `[X, C]`. Unknowns q, d, t."""
    num, others, m = points.shape
    signs = np.array(np.meshgrid(*[[1, -1]] * m)).reshape(m, -1).T
    count = num * others
    upper, bound, last = [], [], []
    for r, x in enumerate(signs):
        weight = sparse.diags(mu.ravel() / 2)
        move = weight @ sparse.kron(sparse.identity(num), np.kron(np.ones((others, 1)), x[None]))
        d = sparse.lil_matrix((count, count * len(signs)))
        d[:, r * count : (r + 1) * count] = sparse.identity(count)
        reach = mu.ravel() / 2 * (points @ x).ravel()
        for sign in (1, -1):
            upper.append(sparse.hstack([-sign * move, -d, np.zeros((count, 1))]))
            bound.append(-sign * reach)
        line = np.zeros(num * m + count * len(signs) + 1)
        line[num * m + r * count : num * m + (r + 1) * count] = 1
        line[-1] = -1
        last.append(line)
    a_eq = np.zeros((num, num * m + count * len(signs) + 1))
    for a in range(num):
        a_eq[a, a * m : (a + 1) * m] = 1
    cost = np.zeros(a_eq.shape[1])
    cost[-1] = 1
    a_ub = sparse.vstack([*upper, sparse.csr_matrix(np.array(last))]).tocsr()
    return cost, a_ub, np.concatenate([*bound, np.zeros(len(signs))]), a_eq, np.ones(num)
