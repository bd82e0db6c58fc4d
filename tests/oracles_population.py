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


def serve_in_order(costs, limits, counts, moves):
    """Split of counts, `[S_k, A_k]` each: moves from action 0 up, one agent after another.

    Action 0 is free. A move is from the last action listed before it that uses no more, or from 0.
    """
    split = [np.zeros(d.shape[:2], int) for d in costs]
    for y, n in zip(split, counts, strict=True):
        y[:, 0] = n
    left = np.array(limits, float)
    for i, (k, s, a) in enumerate(moves):
        before = [b for j, t, b in moves[:i] if (j, t) == (k, s)]
        before = [b for b in before if (costs[k][s, b] <= costs[k][s, a]).all()]
        source = before[-1] if before else 0
        more = costs[k][s, a] - costs[k][s, source]
        while split[k][s, source] > 0 and (more <= left + 1e-9).all():
            split[k][s, source] -= 1
            split[k][s, a] += 1
            left -= more
    return split


def joint_table(sizes, counts, split_of):
    """Joint policy `[S_0.., A_0..]`: fair ties among the agents of a type and state, all listed.

    `split_of(counts)` gives `[(chance, split), ..]`.
    """
    agents = [k for k, n in enumerate(counts) for _ in range(n)]
    states = [sizes[k][0] for k in agents]
    actions = [sizes[k][1] for k in agents]
    table = np.zeros((*states, *actions))
    for s in itertools.product(*map(range, states)):
        now = [np.zeros(S, int) for S, _ in sizes]
        for k, at in zip(agents, s, strict=True):
            now[k][at] += 1
        for chance, split in split_of(now):
            fits = []
            for a in itertools.product(*map(range, actions)):
                did = [np.zeros(size, int) for size in sizes]
                for k, at, how in zip(agents, s, a, strict=True):
                    did[k][at, how] += 1
                if all((x == y).all() for x, y in zip(did, split, strict=True)):
                    fits.append(a)
            for a in fits:
                table[(*s, *a)] += chance / len(fits)
    return table


def joint_optimum(types, counts, budgets, discount, steps=2000):
    """Discounted optimum of the agents one by one, by value iteration on joint states."""
    agents = [k for k, n in enumerate(counts) for _ in range(n)]
    states = list(itertools.product(*(range(types[k][1].shape[0]) for k in agents)))
    options = []
    for s in states:
        rows = []
        for a in itertools.product(*(range(types[k][1].shape[1]) for k in agents)):
            chosen = list(zip(agents, s, a, strict=True))
            used = sum(types[k][2][t, u] for k, t, u in chosen)
            kept = all(
                abs(x - limit) < 1e-9 if equality else x <= limit + 1e-9
                for x, (limit, equality) in zip(used, budgets, strict=True)
            )
            if kept:
                law = np.ones(1)
                for k, t, u in chosen:
                    law = np.kron(law, types[k][0][t, u])
                rows.append((sum(types[k][1][t, u] for k, t, u in chosen), law))
        options.append((np.array([r for r, _ in rows]), np.stack([law for _, law in rows])))
    V = np.zeros(len(states))
    for _ in range(steps):
        V = np.array([(r + discount * law @ V).max() for r, law in options])
    return states, V


def uses_at_price(P, r, d, discount, price):
    """The most and the least that an optimal action uses in each state, by policy iteration."""
    left = r - price * d
    best = left.argmax(1)
    states = np.arange(len(r))
    while True:
        V = np.linalg.solve(np.eye(len(r)) - discount * P[states, best], left[states, best])
        Q = left + discount * P @ V
        better = Q.max(1) > Q[states, best] + 1e-11
        if not better.any():
            break
        best = np.where(better, Q.argmax(1), best)
    optimal = Q.max(1, keepdims=True) - Q < 1e-10
    return np.where(optimal, d, -np.inf).max(1), np.where(optimal, d, np.inf).min(1)


def horizon_program(types, now, budgets, horizon, discount, terminal, first=None):
    """Largest value of a plan of a few steps from the counts `now`, as one plain dense program.

    `first` fixes the first step, `[S_k, A_k]` each. None if there is no plan.
    """
    sizes = [r.shape for _, r, _ in types]
    begins = np.cumsum([0] + [S * A for S, A in sizes])
    width = begins[-1]

    def at(t, k, s, a):
        return t * width + begins[k] + s * sizes[k][1] + a

    cost = np.zeros(horizon * width)
    eq, right, upper, most = [], [], [], []
    for t in range(horizon):
        for k, (P, r, _) in enumerate(types):
            S, A = sizes[k]
            for s, a in itertools.product(range(S), range(A)):
                cost[at(t, k, s, a)] -= discount**t * r[s, a]
                if t == horizon - 1:
                    cost[at(t, k, s, a)] -= discount**horizon * P[s, a] @ terminal[k]
                if t == 0 and first is not None:
                    row = np.zeros(horizon * width)
                    row[at(0, k, s, a)] = 1
                    eq.append(row)
                    right.append(first[k][s, a])
            for s in range(S):
                row = np.zeros(horizon * width)
                for a in range(A):
                    row[at(t, k, s, a)] += 1
                if t:
                    for u, a in itertools.product(range(S), range(A)):
                        row[at(t - 1, k, u, a)] -= P[u, a, s]
                if t or first is None:
                    eq.append(row)
                    right.append(0.0 if t else now[k][s])
        for j, (limit, equality) in enumerate(budgets):
            row = np.zeros(horizon * width)
            row[t * width : (t + 1) * width] = np.concatenate(
                [d[..., j].ravel() for *_, d in types]
            )
            (eq if equality else upper).append(row)
            (right if equality else most).append(limit)
    found = linprog(
        cost,
        A_ub=np.array(upper) if upper else None,
        b_ub=most if upper else None,
        A_eq=np.array(eq),
        b_eq=right,
    )
    return -found.fun if found.status == 0 else None


def joint_average(types, counts, table):
    """Average reward of the agents one by one, by the stationary law of their dense chain."""
    agents = [k for k, n in enumerate(counts) for _ in range(n)]
    states = list(itertools.product(*(range(types[k][1].shape[0]) for k in agents)))
    chain = np.zeros((len(states), len(states)))
    paid = np.zeros(len(states))
    for i, s in enumerate(states):
        for a in itertools.product(*(range(types[k][1].shape[1]) for k in agents)):
            chance = table[(*s, *a)]
            if chance == 0:
                continue
            law = np.ones(1)
            for k, at, how in zip(agents, s, a, strict=True):
                law = np.kron(law, types[k][0][at, how])
                paid[i] += chance * types[k][1][at, how]
            chain[i] += chance * law
    size = len(states)
    system = np.vstack([chain.T - np.eye(size), np.ones(size)])
    return np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0] @ paid


def serve_shares(costs, limits, shares, moves):
    """`serve_in_order` of agents that can be divided: moves end where people or a budget do."""
    split = [np.zeros(d.shape[:2]) for d in costs]
    for y, m in zip(split, shares, strict=True):
        y[:, 0] = m
    left = np.array(limits, float)
    for i, (k, s, a) in enumerate(moves):
        before = [b for j, t, b in moves[:i] if (j, t) == (k, s)]
        before = [b for b in before if (costs[k][s, b] <= costs[k][s, a]).all()]
        source = before[-1] if before else 0
        more = costs[k][s, a] - costs[k][s, source]
        moved = split[k][s, source]
        for b in np.flatnonzero(more > 0):
            moved = min(moved, max(left[b] / more[b], 0))
        split[k][s, source] -= moved
        split[k][s, a] += moved
        left -= moved * more
    return split


def tv_center_distance(laws, weights):
    """min over q of sum_t w_t TV(p_t, q), laws `[T, A]`, as a linear program."""
    kept = weights > 1e-14
    laws, weights = laws[kept], weights[kept]
    T, A = laws.shape
    q = np.tile(np.eye(A), (T, 1))
    found = linprog(
        np.append(np.zeros(A), np.repeat(weights / 2, A)),
        A_ub=np.block([[q, -np.eye(T * A)], [-q, -np.eye(T * A)]]),
        b_ub=np.append(laws.ravel(), -laws.ravel()),
        A_eq=np.append(np.ones(A), np.zeros(T * A))[None],
        b_eq=[1],
    )
    assert found.status == 0
    return found.fun


def type_entanglement(table, mu, k, num_types):
    """E_1 of a tagged agent (Eq. 15), from the chain's tables `[S_0, A_0, .., C, J]`."""
    table, mu = np.asarray(table), np.asarray(mu).reshape(np.shape(table))
    drawn = (*(2 * i + 1 for i in range(num_types)), table.ndim - 1)
    law = mu.sum(drawn)  # [S_0, .., C]
    chances = table.sum(tuple(axis for axis in drawn if axis != 2 * k + 1))
    chances = np.moveaxis(chances, k + 1, -1).reshape(-1, table.shape[2 * k + 1])
    own, law = np.indices(law.shape)[k].reshape(-1), law.reshape(-1)
    return sum(tv_center_distance(chances[own == s], law[own == s]) for s in range(own.max() + 1))
