"""(h) Populations on counts, of several types, actions and a budget: ours, numba and NumPy.

The same priority policy everywhere. What is compared is the mean reward a step of all runs.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

import jaxent
from benchmarks.race import OURS, Row, race

TITLE = "Populations on counts: T steps of a priority policy"


class Problem(NamedTuple):
    """A population: types, states, actions, agents, runs and steps."""

    name: str
    types: int
    states: int
    actions: int
    successors: int
    agents: int
    runs: int
    steps: int


class Config(NamedTuple):
    """What is simulated."""

    problems: tuple[Problem, ...] = (
        Problem("1,000,000 agents, dense kernels", 3, 20, 3, 20, 1_000_000, 1, 100),
        Problem("10,000 agents, 4 successors", 3, 20, 3, 4, 10_000, 4, 1000),
        Problem("1800 agents, one type of 4 states", 1, 4, 2, 3, 1800, 10, 5000),
    )
    rounds: int = 15


QUICK = Config(problems=(Problem("toy", 2, 3, 2, 2, 200, 2, 100),), rounds=2)


def arrays(rng: np.random.Generator, problem: Problem) -> tuple[np.ndarray, ...]:
    """Kernels `[T, S, A, S]`, rewards `[T, S, A]`, counts of agents `[T]`; action a costs a."""
    T, S, A = problem.types, problem.states, problem.actions
    kernel = rng.dirichlet(np.ones(S), (T, S, A))
    drop = np.argsort(rng.random(kernel.shape), axis=-1) >= problem.successors
    kernel = np.where(drop, 0, kernel)
    kernel = kernel / kernel.sum(-1, keepdims=True)
    counts = np.full(T, problem.agents // T)
    counts[0] += problem.agents - counts.sum()
    return kernel, rng.random((T, S, A)), counts


def ours(kernel: np.ndarray, reward: np.ndarray, counts: np.ndarray, problem: Problem) -> Any:
    """The moves in order, and a function that simulates."""
    _, S, A = reward.shape
    costs = np.broadcast_to(np.arange(A, dtype=float)[None, :, None], (S, A, 1))
    population = jaxent.WeaklyCoupledPopulation(
        [(jaxent.MDP(P, r), costs) for P, r in zip(kernel, reward, strict=True)],
        counts.tolist(),
        [jaxent.Budget(float(problem.agents // 2))],
        0.9,
    )
    moves = jaxent.fluid_policy(population).priority
    policy = jaxent.priority_policy(population, moves)
    keys = jax.random.split(jax.random.key(0), problem.runs)

    @jax.jit
    def rewards(keys):
        return jax.vmap(
            lambda key: (
                jaxent.simulate_population(key, population, policy, num_steps=problem.steps).reward
            )
        )(keys)

    return policy, lambda: np.asarray(rewards(keys))


def numba_way(policy: Any, kernel: np.ndarray, reward: np.ndarray, counts: np.ndarray, p: Problem):
    """The same in numba, with NumPy's binomial."""
    import numba

    T, S, A = reward.shape
    flat = kernel.reshape(-1, S)
    paid = reward.ravel()
    cost = np.tile(np.arange(A), T * S)
    base, source, target = (np.asarray(x) for x in (policy.base, policy.source, policy.target))
    start = np.concatenate([n // S + (np.arange(S) < n % S) for n in counts])
    budget = p.agents // 2

    @numba.njit
    def run(rng, steps):  # pragma: no cover
        now, found = start.copy(), np.empty(steps)
        pairs, after = np.empty(len(flat), np.int64), np.empty(T * S, np.int64)
        for t in range(steps):
            pairs[:] = 0
            for s in range(T * S):
                pairs[base[s]] = now[s]
            left = budget
            for m in range(len(source)):
                more = cost[target[m]] - cost[source[m]]
                moved = pairs[source[m]]
                if more > 0:
                    moved = min(moved, left // more)
                pairs[source[m]] -= moved
                pairs[target[m]] += moved
                left -= moved * more
            after[:] = 0
            earned = 0.0
            for x in range(len(flat)):
                earned += paid[x] * pairs[x]
                todo, rest, first = pairs[x], 1.0, x // (S * A) * S
                for u in range(S):
                    q = flat[x, u]
                    if todo > 0 and q > 0:
                        drawn = todo if q >= rest - 1e-12 else rng.binomial(todo, q / rest)
                        after[first + u] += drawn
                        todo -= drawn
                        rest -= q
            found[t] = earned
            now[:] = after
        return found

    rng = np.random.default_rng(1)
    return lambda: np.stack([run(rng, p.steps) for _ in range(p.runs)])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Difference of the mean rewards in standard errors, by batches of a tenth of a run."""
    errors = [np.stack(np.array_split(x, 10, axis=1)[1:]).mean(-1) for x in (a, b)]
    noise = sum(e.var(ddof=1) / e.size for e in errors) ** 0.5
    return float(abs(errors[0].mean() - errors[1].mean()) / noise)


def run(config: Config, seed: int) -> list[Row]:
    """One row a population."""
    rng = np.random.default_rng(seed)
    rows = []
    for problem in config.problems:
        kernel, reward, counts = arrays(rng, problem)
        policy, mine = ours(kernel, reward, counts, problem)
        rows.append(
            race(
                f"{problem.name}, {problem.runs} runs of {problem.steps} steps",
                {OURS: mine, "numba": numba_way(policy, kernel, reward, counts, problem)},
                apart=apart,
                within=6,
                rounds=config.rounds,
                compiled=("numba",),
            )
        )
    return rows
