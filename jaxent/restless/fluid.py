r"""Relaxations of a population: budgets that hold on average bound every policy from above.

Let $y_k(s, a)$ be the mean number of agents of type k in state s that take action a. Whatever the
policy, y is in the polytope of

$$\sum_a y_k(s', a) = \sum_{s, a} y_k(s, a) P_k(s' | s, a), \quad \sum_{s, a} y_k(s, a) = n_k,
  \quad \sum_k \sum_{s, a} d_k(s, a) y_k(s, a) \le b$$

for the average reward; from a start of $m_k$ agents per state, the discounted means obey the first
with $(1 - \gamma) m_k$ and $\gamma P_k$. So the largest $\sum y r$ is an upper bound for every
policy, and asymptotically the best reward an agent. Its multipliers $\lambda$ are the prices of the
resources: at these prices each agent is on its own (Lagrangian), and for any prices that is a
bound too, `lagrangian_bound`.

References:
    Whittle (1988); Hawkins (2003), A Lagrangian decomposition approach to weakly coupled dynamic
    optimization problems; Verloop (2016), Asymptotically optimal priority policies; Gast, Gaujal
    and Yan (2024), Linear program-based policies for restless bandits: necessary and sufficient
    conditions for (exponentially fast) asymptotic optimality.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy

from .._checks import check_finite, check_shape, concrete
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from .linear_program import Program, polished, ranks, solve_program
from .splits import cheapest

Array = jax.Array
Start = Sequence[ArrayLike | Sequence[float]]

# A start may miss the number of agents by this share of it: fractions are rounded.
_ROUNDED = 1e-9


@reads("no policy earns more than {0.value:.9g}")
class FluidPolicy(NamedTuple):
    r"""Solution of the relaxation in which the budgets hold on average.

    Attributes:
        value: its reward, of the whole population: a step on average, or discounted and summed. An
            upper bound for every policy.
        occupancy: $y_k(s, a)$ of each type, `[S_k, A_k]`, a step: the sum is $n_k$.
        prices: $\lambda$, what one more unit of each resource at every step would earn a step,
            `[K]`; not negative for a limit.
        index: $Q_k(s, a) - \max_a Q_k(s, a)$ at these prices, of each type, `[S_k, A_k]`: what is
            lost by an action, at most 0.
        values: $h_k(s)$ of each type at these prices, `[S_k]`: no action gains more than
            $g_k + h_k(s) - \sum_{s'} P_k(s' | s, a) h_k(s') + \lambda \cdot d_k(s, a)$, and
            those in use gain that; relative values, of which a constant is free. From a start h is
            the discounted value of an agent, $\gamma P_k$ stands for $P_k$, and $g_k$ is 0. Where
            nobody ever is they are not determined: any that bound the gains.
        spent: what is used of each resource a step, `[K]`.
        active: whether each budget is met with equality, bool `[K]`.
        randomized: how many more pairs are in use than states: where the actions of a state are
            mixed.
        nondegenerate: whether that is the number of active budgets, so that a small change of the
            shares changes the mixtures and not the pairs in use.
        unique: whether every pair that is not in use, in a state that is visited, is worse than
            those that are, and the mixtures are determined.
        priority: moves (type, state, action) for `priority_policy`, by what they gain over the
            cheapest action at these prices, ties by the share that makes them. Those that lose are
            listed only where a budget must be met.
    """

    value: float
    occupancy: tuple[np.ndarray, ...]
    prices: np.ndarray
    index: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]
    spent: np.ndarray
    active: np.ndarray
    randomized: int
    nondegenerate: bool
    unique: bool
    priority: tuple[tuple[int, int, int], ...]

    @property
    def policy(self) -> tuple[np.ndarray, ...]:
        """π_k(a|s) of each type, `[S_k, A_k]`; the best action where nobody ever is."""
        tables = []
        for y, index in zip(self.occupancy, self.index, strict=True):
            visits = np.broadcast_to(y.sum(1, keepdims=True), y.shape)
            best = np.eye(y.shape[1])[index.argmax(1)]
            tables.append(np.divide(y, visits, where=visits > 0, out=best))
        return tuple(tables)


class Data(NamedTuple):
    """A population in NumPy and float64, all types one after another.

    Attributes:
        kernels: `[X_k, S_k]` of each type, X_k = S_k A_k.
        rewards: `[X_k]` of each type.
        costs: `[X_k, K]` of each type.
        sizes: (S_k, A_k) of each type.
        counts: agents of each type, `[T]`.
        limits: b, `[K]`.
        equality: which budgets must be met, bool `[K]`.
        discount: γ.
    """

    kernels: list[np.ndarray]
    rewards: list[np.ndarray]
    costs: list[np.ndarray]
    sizes: tuple[tuple[int, int], ...]
    counts: np.ndarray
    limits: np.ndarray
    equality: np.ndarray
    discount: float

    @property
    def slack(self) -> np.ndarray:
        """What sums of costs may miss a budget by, through rounding, `[K]`."""
        most = sum(n * np.abs(d).max(0) for n, d in zip(self.counts, self.costs, strict=True))
        return _ROUNDED * np.maximum(np.abs(self.limits), most)


def known_data(model: RestlessBandit | WeaklyCoupledPopulation) -> Data:
    """The population that a model is, checked, in NumPy; refused inside a trace."""
    if not concrete(model):
        raise ValueError("population: its values must be known here, not traced")
    population = as_population(model)
    kinds = population.types
    return Data(
        [_laws(k.mdp.transition) for k in kinds],
        [np.asarray(k.mdp.reward, np.float64).reshape(-1) for k in kinds],
        [np.asarray(k.costs, np.float64).reshape(-1, len(population.budgets)) for k in kinds],
        population.sizes,
        np.array([int(n) for n in population.counts]),
        np.array([float(b) for b in population.limits]),
        np.array([budget.equality for budget in population.budgets]),
        float(population.discount),
    )


def _laws(transition: ArrayLike) -> np.ndarray:
    """Rows `[SA, S]` that sum to 1 in float64, whatever dtype they are held in."""
    rows = np.asarray(transition, np.float64).reshape(-1, np.shape(transition)[-1])
    return rows / rows.sum(1, keepdims=True)


def check_start(start: Start, data: Data) -> list[np.ndarray]:
    """Agents per state of each type, `[S_k]`, fractions too; a ValueError names a bad one."""
    if len(start) != len(data.sizes):
        raise ValueError(f"start: wanted agents per state of each of {len(data.sizes)} types")
    checked = []
    for k, ((num_states, _), n) in enumerate(zip(data.sizes, data.counts, strict=True)):
        name = f"start[{k}]"
        check_shape(name, start[k], (num_states,))
        check_finite(name, start[k])
        agents = np.asarray(start[k], np.float64)
        if agents.min() < 0 or abs(agents.sum() - n) > _ROUNDED * n:
            raise ValueError(
                f"{name}: {agents.tolist()} are not numbers of agents that sum to counts[{k}] = {n}"
            )
        checked.append(agents)
    return checked


def fluid_policy(
    population: RestlessBandit | WeaklyCoupledPopulation, *, start: Start | None = None
) -> FluidPolicy:
    r"""The relaxation in which the budgets hold on average, by a linear program (HiGHS).

    Args:
        population: or a `RestlessBandit`, which is one of one type.
        start: agents per state of each type at step 0, `[S_k]` each, for the discounted reward from
            there; without it the average reward is meant, and the discount does not matter.

    Returns:
        Values, multipliers and indices scale with the rewards. `nondegenerate` and `unique` say
        what is not settled.

    Raises:
        ValueError: for a bad population or start, if no law keeps the budgets on average, or if
            rewards span so many decades that the program cannot be solved for them.

    Examples:
        >>> import jaxent
        >>> found = jaxent.fluid_policy(jaxent.circulant_bandit(5))
        >>> print(round(found.value, 6), found.prices.round(6), found.nondegenerate)
        1.0 [1.] True

    References:
        Verloop (2016); Gast, Gaujal and Yan (2024).
    """
    data = known_data(population)
    agents = None if start is None else check_start(start, data)
    total = data.counts.sum()
    share = data.counts / total
    rows, right, unit = _program(data, agents)
    usual = [np.median(r) for r in data.rewards]  # a constant in a type's reward is only paid
    cost = np.concatenate(
        [w * (u - r) for w, u, r in zip(share, usual, data.rewards, strict=True)]
        + [np.zeros((~data.equality).sum())]
    )
    found = solve_program(rows, right, cost)
    if found is None:
        raise ValueError(
            "budgets: no law of the agents keeps them on average"
            + ("" if agents is None else " from this start")
        )
    found = found._replace(value=polished(rows, right, found.value))
    prices = -total * found.price[len(right) - len(unit) :] / unit
    prices = np.where(data.equality, prices, np.maximum(prices, 0))
    value = total * (share @ usual - right @ found.price)
    ends = np.cumsum([S for S, _ in data.sizes])
    own = np.split(-found.price[: ends[-1]], ends[:-1])  # multipliers of the flow
    values = [h / w for h, w in zip(own, share, strict=True)]
    if agents is not None:
        value = value / (1 - data.discount)
        values = [h + u / (1 - data.discount) for h, u in zip(values, usual, strict=True)]
    return _report(data, found, float(value), prices, tuple(values))


def _program(data: Data, agents: list[np.ndarray] | None):
    """Rows and right-hand side over shares z_k = y_k / n_k and what is left of each limit."""
    out, ahead, spent, unit = step_rows(data)
    if agents is None:
        of_type = np.repeat(np.arange(len(data.sizes)), [S for S, _ in data.sizes])
        member = scipy.sparse.csr_array(np.eye(len(data.sizes))[:, of_type]) @ out
        parts = [out - ahead, member, spent]
        right = [np.zeros(out.shape[0]), np.ones(len(data.sizes))]
    else:
        parts = [out - data.discount * ahead, spent]
        law = [m / n for m, n in zip(agents, data.counts, strict=True)]
        right = [(1 - data.discount) * np.concatenate(law)]
    rows = scipy.sparse.csr_array(scipy.sparse.vstack(parts))
    return rows, np.concatenate([*right, data.limits / unit]), unit


def step_rows(data: Data):
    """One step of shares z_k = y_k / n_k, and of what is left of each limit, `[n]`, sparse.

    Returns:
        Who is in each state, who is there next, both `[ΣS_k, n]`; the budgets `[K, n]`, whose unit
        is the most that could be used; and that unit, `[K]`.
    """
    spent = np.concatenate(
        [n * d.T for n, d in zip(data.counts, data.costs, strict=True)], axis=1
    )  # [K, ΣX_k]
    unit = np.maximum(np.abs(spent).max(1), np.abs(data.limits))
    unit = np.where(unit > 0, unit, 1)
    limits = np.eye(len(unit))[:, ~data.equality]
    here = [np.repeat(np.eye(S), A, axis=0).T for S, A in data.sizes]
    out, ahead = (
        scipy.sparse.block_diag([scipy.sparse.coo_array(block) for block in blocks])
        for blocks in (here, [P.T for P in data.kernels])
    )
    spare = scipy.sparse.csr_array((out.shape[0], limits.shape[1]))
    out, ahead = (
        scipy.sparse.csr_array(scipy.sparse.hstack([block, spare])) for block in (out, ahead)
    )
    budgets = np.concatenate([spent / unit[:, None], limits], axis=1)
    return out, ahead, scipy.sparse.csr_array(budgets), unit


def _report(
    data: Data, found: Program, value: float, prices: np.ndarray, values: tuple[np.ndarray, ...]
) -> FluidPolicy:
    """Occupancies and indices of each type, and how settled the answer is."""
    total = data.counts.sum()
    ends = np.cumsum([0] + [s * a for s, a in data.sizes])
    doubt = np.maximum(found.rounding, found.wrong.max())
    occupancy, index = [], []
    extra, clear = 0, True
    for n, size, first, last in zip(data.counts, data.sizes, ends, ends[1:], strict=False):
        z, slack = (x[first:last].reshape(size) for x in (found.value, found.slack))
        visited = z.sum(1) > 0
        extra += int((z > 0).sum() - visited.sum())
        idle = (z == 0) & visited[:, None]
        clear &= bool((slack > 2 * doubt[first:last].reshape(size))[idle].all())
        occupancy.append(n * z)
        index.append((slack.min(1, keepdims=True) - slack) * total / n)
    spent = np.zeros(len(prices))
    for y, d in zip(occupancy, data.costs, strict=True):
        spent = spent + y.reshape(-1) @ d
    active = np.ones(len(prices), bool)
    active[~data.equality] = found.value[ends[-1] :] == 0
    nondegenerate = extra == active.sum()
    return FluidPolicy(
        value=value,
        occupancy=tuple(occupancy),
        prices=prices,
        index=tuple(index),
        values=values,
        spent=spent,
        active=active,
        randomized=extra,
        nondegenerate=bool(nondegenerate),
        unique=bool(clear and extra <= active.sum()),
        priority=_moves(data, occupancy, index, doubt, ends),
    )


def _moves(data: Data, occupancy, index, doubt: np.ndarray, ends: np.ndarray):
    """Moves from the cheapest action of each state, by gain; gains apart by rounding are equal."""
    base = cheapest(data.costs, data.sizes, data.limits)
    moves, gains, doubts, shares = [], [], [], []
    for k, (S, A) in enumerate(data.sizes):
        unsure = doubt[ends[k] : ends[k + 1]].reshape(S, A) * data.counts.sum() / data.counts[k]
        for s, a in np.ndindex(S, A):
            low = int(base[k][s])
            if a == low:
                continue
            moves.append((k, s, a))
            gains.append(index[k][s, a] - index[k][s, low])
            doubts.append(unsure[s, a] + unsure[s, low])
            here = occupancy[k][s].sum()
            shares.append(occupancy[k][s, a] / here if here > 0 else 0.0)
    order = np.lexsort((-np.array(shares), ranks(np.array(gains), np.array(doubts))))
    every = data.equality.any()
    return tuple(moves[i] for i in order if every or gains[i] >= -doubts[i])


def lagrangian_bound(
    population: RestlessBandit | WeaklyCoupledPopulation,
    prices: ArrayLike | Sequence[float],
    *,
    start: Start | None = None,
) -> float:
    r"""What the agents would earn on their own at these prices: a bound for every policy.

    $\sum_k n_k \max_\pi E_\pi[r_k - \lambda \cdot d_k] + \lambda \cdot b$, a step on average or,
    from a start, discounted and summed. It is least at the prices of `fluid_policy`, and equal to
    its value there.

    Args:
        population: or a `RestlessBandit`.
        prices: λ a unit and step, `[K]`; at least 0 for a limit.
        start: agents per state of each type, as for `fluid_policy`.

    Raises:
        ValueError: for a bad population, start or price.

    References:
        Hawkins (2003); Adelman and Mersereau (2008), Relaxations of weakly coupled stochastic
        dynamic programs.
    """
    data = known_data(population)
    agents = None if start is None else check_start(start, data)
    check_shape("prices", prices, (len(data.limits),))
    check_finite("prices", prices)
    paid = np.asarray(prices, np.float64)
    below = np.flatnonzero((paid < 0) & ~data.equality)
    if len(below):
        raise ValueError(
            f"prices[{below[0]}]: {paid[below[0]]:.6g} is below 0, which bounds nothing: "
            f"budgets[{below[0]}] is a limit"
        )
    bound = paid @ data.limits
    if agents is not None:
        bound = bound / (1 - data.discount)
    for k, (P, size) in enumerate(zip(data.kernels, data.sizes, strict=True)):
        left = (data.rewards[k] - data.costs[k] @ paid).reshape(size)
        kernel = P.reshape(*size, -1)
        if agents is None:
            bound += data.counts[k] * best_average(kernel, left)
        else:
            bound += agents[k] @ best_values(kernel, left, data.discount)
    return float(bound)


def best_values(P: np.ndarray, reward: np.ndarray, discount: float) -> np.ndarray:
    """The largest discounted values of one agent, `[S]`, by policy iteration."""
    states = np.arange(len(reward))
    best = reward.argmax(1)
    while True:
        chain = np.eye(len(states)) - discount * P[states, best]
        values = np.linalg.solve(chain, reward[states, best])
        Q = reward + discount * P @ values  # [S, A]
        noise = 1e-13 * (np.abs(reward).max() + np.abs(values).max())
        better = Q.max(1) > Q[states, best] + noise
        if not better.any():
            return values
        best = np.where(better, Q.argmax(1), best)


def best_average(P: np.ndarray, reward: np.ndarray) -> float:
    """The largest average reward of one agent over all its recurrent classes."""
    num_states, num_actions = reward.shape
    out = np.repeat(np.eye(num_states), num_actions, axis=0) - P.reshape(-1, num_states)
    rows = scipy.sparse.csr_array(np.vstack([out.T, np.ones(len(out))]))
    right = np.append(np.zeros(num_states), 1.0)
    usual = np.median(reward)
    found = solve_program(rows, right, (usual - reward).reshape(-1))
    assert found is not None  # every chain has a stationary law
    return float(usual - right @ found.price)
