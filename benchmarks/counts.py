"""Peers for restless bandits: simulation of counts in NumPy and in numba, of agents in NumPy, and
what is computed from a run. No code is shared with the package.

Runs go side by side: `[R, S]` counts. A trajectory is the counts at epochs 0..T and the agents that
moved, `[T, R, S, 2, S]`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Model(NamedTuple):
    """A bandit in NumPy: kernels `[S, 2, S]`, reward `[S, 2]`, and the rule."""

    kernel: np.ndarray
    reward: np.ndarray
    discount: float
    priority: tuple[int, ...]
    num_agents: int
    budget: int


def split(model: Model, counts: np.ndarray) -> np.ndarray:
    """Agents per state and action, `[..., S]` to `[..., S, 2]`."""
    active = np.zeros_like(counts)
    left = np.full(counts.shape[:-1], model.budget, counts.dtype)
    for s in model.priority:
        active[..., s] = np.minimum(counts[..., s], left)
        left = left - active[..., s]
    return np.stack([counts - active, active], axis=-1)


def step(rng: np.random.Generator, model: Model, groups: np.ndarray) -> np.ndarray:
    """Agents that move, `[R, S, 2]` to `[R, S, 2, S]`, one binomial a successor and group."""
    moved = np.zeros((*groups.shape, len(model.kernel)), np.int64)
    for s, a in np.ndindex(*model.reward.shape):
        law, left, rest = model.kernel[s, a], groups[:, s, a], 1.0
        successors = np.flatnonzero(law)
        for t in successors[:-1]:
            moved[:, s, a, t] = rng.binomial(left, min(law[t] / rest, 1.0))
            left, rest = left - moved[:, s, a, t], rest - law[t]
        moved[:, s, a, successors[-1]] = left
    return moved


def simulate_numpy(rng: np.random.Generator, model: Model, start: np.ndarray, steps: int) -> Any:
    """Counts `[T + 1, R, S]` and moves `[T, R, S, 2, S]`, on counts."""
    counts = np.empty((steps + 1, *start.shape), np.int64)
    moves = np.empty((steps, len(start), *model.kernel.shape), np.int64)
    counts[0] = start
    for t in range(steps):
        moves[t] = step(rng, model, split(model, counts[t]))
        counts[t + 1] = moves[t].sum((1, 2))
    return counts, moves


def simulate_agents(rng: np.random.Generator, model: Model, start: np.ndarray, steps: int) -> Any:
    """The same, agent by agent: every agent has a state, and ties are broken at random."""
    num_runs, num_states = start.shape
    state = np.stack([np.repeat(np.arange(num_states), row) for row in start])  # [R, N]
    place = np.argsort(model.priority)
    beyond = np.cumsum(model.kernel, axis=-1)[..., :-1]  # [S, 2, S - 1]
    size = model.kernel.size
    offset = np.arange(num_runs)[:, None] * size
    counts = np.empty((steps + 1, num_runs, num_states), np.int64)
    moves = np.empty((steps, num_runs, *model.kernel.shape), np.int64)
    counts[0] = start
    for t in range(steps):
        rank = place[state] + rng.random(state.shape)
        action = np.zeros_like(state)
        if model.budget:
            served = np.argpartition(rank, model.budget - 1, axis=1)[:, : model.budget]
            np.put_along_axis(action, served, 1, axis=1)
        ahead = (rng.random(state.shape)[..., None] > beyond[state, action]).sum(-1)
        code = (state * 2 + action) * num_states + ahead + offset
        moves[t] = np.bincount(code.ravel(), minlength=num_runs * size).reshape(moves[t].shape)
        state = ahead
        counts[t + 1] = moves[t].sum((1, 2))
    return counts, moves


def returns(simulator: Any, rng: Any, model: Model, start: np.ndarray, steps: int) -> np.ndarray:
    """Discounted returns `[R]` by one of the two simulators."""
    moves = simulator(rng, model, start, steps)[1]
    rewards = np.einsum("trsan,sa->tr", moves, model.reward)
    return model.discount ** np.arange(steps) @ rewards


@lru_cache(maxsize=1)
def numba_parts() -> Any:
    """Simulation and returns compiled by numba, counts throughout."""
    import numba

    @numba.njit
    def advance(rng, kernel, order, budget, now, moves):  # pragma: no cover
        left = budget
        moves[:] = 0
        for s in order:
            act = min(now[s], left)
            left -= act
            for a in range(2):
                todo, rest = (act if a else now[s] - act), 1.0
                for t in range(len(order)):
                    p = kernel[s, a, t]
                    if todo > 0 and p > 0:
                        drawn = todo if p >= rest - 1e-12 else rng.binomial(todo, p / rest)
                        moves[s, a, t] = drawn
                        todo -= drawn
                        rest -= p
        for t in range(len(order)):
            now[t] = moves[:, :, t].sum()

    @numba.njit
    def trajectories(rng, kernel, order, budget, start, steps):  # pragma: no cover
        runs, states = start.shape
        counts = np.empty((steps + 1, runs, states), np.int64)
        moves = np.empty((steps, runs, states, 2, states), np.int64)
        counts[0] = start
        for run in range(runs):
            now = start[run].copy()
            for t in range(steps):
                advance(rng, kernel, order, budget, now, moves[t, run])
                counts[t + 1, run] = now
        return counts, moves

    @numba.njit
    def values(rng, kernel, order, budget, start, steps, reward, discount):  # pragma: no cover
        runs, states = start.shape
        found = np.zeros(runs)
        moves = np.empty((states, 2, states), np.int64)
        for run in range(runs):
            now, factor = start[run].copy(), 1.0
            for _ in range(steps):
                advance(rng, kernel, order, budget, now, moves)
                paid = 0.0
                for s in range(states):
                    for a in range(2):
                        paid += reward[s, a] * moves[s, a].sum()
                found[run] += factor * paid
                factor *= discount
        return found

    return trajectories, values


def simulate_numba(rng: np.random.Generator, model: Model, start: np.ndarray, steps: int) -> Any:
    """As `simulate_numpy`, by numba."""
    order = np.array(model.priority)
    return numba_parts()[0](rng, model.kernel, order, model.budget, start, steps)


def returns_numba(rng: np.random.Generator, model: Model, start: np.ndarray, steps: int) -> Any:
    """As `returns`, by numba and without a trajectory."""
    order = np.array(model.priority)
    return numba_parts()[1](
        rng, model.kernel, order, model.budget, start, steps, model.reward, model.discount
    )


def chances(model: Model, counts: np.ndarray) -> np.ndarray:
    """Probability to be active, `[..., S]`; 0 in a state without agents."""
    return split(model, counts)[..., 1] / np.maximum(counts, 1)


def entanglement_median(model: Model, counts: np.ndarray) -> float:
    """Eq. (15) from the counts of one run, `[T, S]`, by sorting."""
    share, active, total = counts / model.num_agents / len(counts), chances(model, counts), 0.0
    for s in range(counts.shape[1]):
        order = np.argsort(active[:, s])
        mass = np.cumsum(share[order, s])
        middle = active[order[min(np.searchsorted(mass, mass[-1] / 2), len(order) - 1)], s]
        total += share[:, s] @ np.abs(active[:, s] - middle)
    return float(total)


def entanglement_convex(model: Model, counts: np.ndarray) -> float:
    """Eq. (15) with a convex solver, as in Appendix K."""
    import cvxpy

    share, active = counts / model.num_agents / len(counts), chances(model, counts)
    local = cvxpy.Variable((1, counts.shape[1]))
    gap = cvxpy.abs(active - np.ones((len(counts), 1)) @ local)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.multiply(share, gap))))
    return float(problem.solve(solver=cvxpy.CLARABEL))


def local_q(model: Model, counts: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Local Q-values `[S, 2]` from one run (LSTD): counts `[T + 1, S]`, moves `[T, S, 2, S]`."""
    served = chances(model, counts[1:])
    policy = np.stack([1 - served, served], axis=-1)
    pairs = np.einsum("tsan,tnb->sanb", moves, policy, optimize=True)
    flow = pairs.reshape(model.reward.size, -1)
    total = flow.sum(1, keepdims=True)
    P = np.where(total > 0, flow / np.maximum(total, 1e-300), np.eye(len(flow)))
    solved = np.linalg.solve(np.eye(len(P)) - model.discount * P, model.reward.ravel())
    return solved.reshape(-1, 2)
