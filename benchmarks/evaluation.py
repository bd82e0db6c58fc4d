"""(b) Joint policy evaluation: Q of N coupled agents with 4 states and 2 actions each.

Local kernels have two successors, so that the sparse peers meet sparse matrices; the policy is any
joint one, drawn at random. Every way starts from the local kernels and the policy's table and ends
with Q on all 8^N joint pairs. "Matrix-free" is what somebody who knows Kronecker products would
write in NumPy around SciPy's GMRES.
"""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, gmres

import jaxent
from benchmarks.race import OURS, Row, race

TITLE = "Joint policy evaluation, N agents of 8 pairs, discount 0.95"
DISCOUNT, STATES, ACTIONS = 0.95, 4, 2
DENSE, SPARSE = 6, 7  # the most agents whose matrix is formed, dense or sparse


class Config(NamedTuple):
    """Numbers of agents."""

    agents: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    rounds: int = 9


QUICK = Config(agents=(2, 3), rounds=3)


class Problem(NamedTuple):
    """Local kernels `[S, A, S]` and rewards `[S, A]`, and the policy `[S_0.., A_0..]`."""

    kernels: list[np.ndarray]
    rewards: list[np.ndarray]
    policy: np.ndarray


def draw(rng: np.random.Generator, number: int) -> Problem:
    """A random problem."""
    kernels = np.zeros((number, STATES, ACTIONS, STATES))
    s = np.arange(STATES)
    stay = rng.uniform(0.2, 0.8, (number, STATES, ACTIONS))
    kernels[:, s, :, s] = stay.transpose(1, 0, 2)
    for a, step in enumerate((1, STATES - 1)):
        kernels[:, s, a, (s + step) % STATES] = 1 - stay[:, :, a]
    policy = rng.dirichlet(np.ones(ACTIONS**number), STATES**number)
    shape = (STATES,) * number + (ACTIONS,) * number
    return Problem(
        list(kernels), list(rng.normal(size=(number, STATES, ACTIONS))), policy.reshape(shape)
    )


@jax.jit
def evaluate(kernels, rewards, policy):
    """Q `[8^N]` by jaxent, and whether it converged."""
    agents = tuple(jaxent.MDP(P, r) for P, r in zip(kernels, rewards, strict=True))
    chain = jaxent.pair_chain(jaxent.WeaklyCoupledMDP(agents, DISCOUNT), policy)
    return jaxent.solve_q(chain, rewards, discount=DISCOUNT).value


def pair_reward(problem: Problem) -> np.ndarray:
    """Sum of local rewards, `[8^N]`."""
    return reduce(lambda f, g: np.add.outer(f, g).ravel(), [r.ravel() for r in problem.rewards])


def ahead(problem: Problem, V: np.ndarray) -> np.ndarray:
    """K V by pair, `[8^N]`, one tensordot an agent."""
    x = V.reshape((STATES,) * len(problem.kernels))
    for kernel in problem.kernels:
        x = np.tensordot(x, kernel.reshape(-1, STATES), axes=(0, 1))
    return x.reshape(-1)


def mean_of(problem: Problem, f: np.ndarray) -> np.ndarray:
    """Mean over actions by state, `[8^N]` to `[4^N]`."""
    n = len(problem.kernels)
    f = f.reshape((STATES, ACTIONS) * n).transpose([*range(0, 2 * n, 2), *range(1, 2 * n, 2)])
    return (problem.policy * f).reshape(STATES**n, -1).sum(1)


def finish(problem: Problem, V: np.ndarray) -> np.ndarray:
    """Q = r + discount K V."""
    return pair_reward(problem) + DISCOUNT * ahead(problem, V)


def state_matrix(problem: Problem, kron: Any, weigh: Any) -> Any:
    """The chain on joint states: a Kronecker product for each joint action, weighted by state."""
    n = len(problem.kernels)
    policy = problem.policy.reshape(STATES**n, -1)
    total: Any = 0
    for column, actions in enumerate(np.ndindex(*(ACTIONS,) * n)):
        moved = reduce(kron, [P[:, a] for P, a in zip(problem.kernels, actions, strict=True)])
        total = total + weigh(policy[:, column], moved)
    return total


def by_numpy(problem: Problem) -> np.ndarray:
    """LAPACK on the dense matrix of joint states."""
    P = state_matrix(problem, np.kron, lambda w, M: w[:, None] * M)
    r = mean_of(problem, pair_reward(problem))
    return finish(problem, np.linalg.solve(np.eye(len(P)) - DISCOUNT * P, r))


def by_quantecon(problem: Problem) -> np.ndarray:
    """QuantEcon's policy evaluation, the stochastic policy being made the only action."""
    from quantecon.markov import DiscreteDP

    P = state_matrix(problem, np.kron, lambda w, M: w[:, None] * M)
    r = mean_of(problem, pair_reward(problem))
    model = DiscreteDP(r[:, None], P[:, None], DISCOUNT)
    return finish(problem, model.evaluate_policy(np.zeros(len(P), int)))


def by_sparse(problem: Problem) -> np.ndarray:
    """SciPy's GMRES on the sparse matrix of joint states."""
    P = state_matrix(
        problem,
        lambda A, B: sparse.kron(sparse.coo_array(A), B, format="csr"),
        lambda w, M: sparse.diags_array(w) @ sparse.csr_array(M),
    )
    r = mean_of(problem, pair_reward(problem))
    return finish(problem, _gmres(sparse.eye_array(len(r), format="csr") - DISCOUNT * P, r))


def by_operator(problem: Problem) -> np.ndarray:
    """SciPy's GMRES, the matrix being applied factor by factor."""
    r = mean_of(problem, pair_reward(problem))

    def apply(V: np.ndarray) -> np.ndarray:
        return V - DISCOUNT * mean_of(problem, ahead(problem, V))

    return finish(problem, _gmres(LinearOperator((len(r), len(r)), matvec=apply, dtype=float), r))


def _gmres(A: Any, b: np.ndarray) -> np.ndarray:
    V, info = gmres(A, b, rtol=1e-12, restart=30, maxiter=100)
    assert info == 0, f"SciPy's GMRES stopped with {info}"
    return V


def run(config: Config, seed: int) -> list[Row]:
    """One row a number of agents."""
    rng = np.random.default_rng(seed)
    rows, last = [], {}  # seconds of every peer at the size before
    for number in config.agents:
        problem = draw(rng, number)
        arrays = jax.tree.map(jnp.asarray, tuple(problem))
        every = {
            OURS: lambda arrays=arrays: evaluate(*arrays),
            "NumPy dense": lambda problem=problem: by_numpy(problem),
            "QuantEcon": lambda problem=problem: by_quantecon(problem),
            "SciPy sparse GMRES": lambda problem=problem: by_sparse(problem),
            "SciPy GMRES, matrix-free": lambda problem=problem: by_operator(problem),
        }
        absent = {}
        for who, most, entries, growth in (
            ("NumPy dense", DENSE, 8 * 16**number, 64),
            ("QuantEcon", DENSE, 8 * 16**number, 64),
            ("SciPy sparse GMRES", SPARSE, 12 * 12**number, 12),
        ):
            if number > most:
                absent[who] = f"n/a: matrix {entries / 2**30:.2g} GiB"
                if who in last:
                    last[who] *= growth
                    absent[who] += f", about {last[who]:.0f} s"
        rows.append(
            race(
                f"N = {number}",
                {who: way for who, way in every.items() if who not in absent},
                apart=lambda a, b: float(np.abs(np.asarray(a) - b).max()),
                within=1e-8,
                rounds=config.rounds,
                compiled=() if rows else ("QuantEcon",),
                absent=absent,
            )
        )
        last |= rows[-1].seconds
    return rows
