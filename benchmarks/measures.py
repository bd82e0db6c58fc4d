"""(d) Certified measures against linear programming, on the same chains.

Every row solves one chain (or 64 at once) with jaxent and, as a linear program built beforehand,
with SciPy's HiGHS (simplex, interior point), with Clarabel, and with Clarabel through CVXPY. The
peers' optimum must lie in jaxent's bracket. Slow peers are left out where they take minutes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.race import OURS, Row, race
from jaxent.measures.programs.minimax_tv_center import minimax_center
from jaxent.measures.programs.tv_nearest_separable import nearest_separable
from jaxent.numerics.simplex import tv_center
from tests import oracles_measures as oracles

TITLE = "Measures of entanglement, certified gap 1e-6"
TOL, AGREE = 1e-6, 2e-6  # the gap asked of jaxent, and the peers' own tolerance


class Config(NamedTuple):
    """Local pairs of the chains of each measure; `batch` chains at once for the smallest TV."""

    tv: tuple[int, ...] = (4, 8, 12, 16)
    atv: tuple[int, ...] = (8, 32, 64)
    eq7: tuple[int, ...] = (8, 64)
    batch: int = 64
    rounds: int = 9


QUICK = Config(tv=(3,), atv=(8,), eq7=(8,), batch=4, rounds=3)

# The most local pairs at which HiGHS and CVXPY also run: beyond, they take too long.
SLOW = {"tv": 8, "atv": 32, "eq7": 8}


def clarabel(program: Any) -> float:
    """Optimum of a linear program with nonnegative unknowns."""
    import clarabel as solver

    cost, a_ub, b_ub, a_eq, b_eq = program
    n = len(cost)
    rows = sparse.vstack([a_eq, a_ub, -sparse.identity(n)]).tocsc()
    right = np.concatenate([b_eq, b_ub, np.zeros(n)])
    cones = [solver.ZeroConeT(len(b_eq)), solver.NonnegativeConeT(len(b_ub) + n)]
    settings = solver.DefaultSettings()
    settings.verbose = False
    found = solver.DefaultSolver(
        sparse.csc_matrix((n, n)), np.asarray(cost), rows, right, cones, settings
    ).solve()
    return found.obj_val


def cvxpy_clarabel(program: Any) -> float:
    """The same through CVXPY, its compilation included: what a script would do."""
    import cvxpy

    cost, a_ub, b_ub, a_eq, b_eq = program
    x = cvxpy.Variable(len(cost), nonneg=True)
    found = cvxpy.Problem(cvxpy.Minimize(cost @ x), [a_ub @ x <= b_ub, a_eq @ x == b_eq])
    return float(found.solve(solver=cvxpy.CLARABEL))


PEERS: dict[str, Callable] = {
    "Clarabel": clarabel,
    "HiGHS ipm": lambda program: oracles.solve(program, "highs-ipm"),
    "HiGHS simplex": lambda program: oracles.solve(program, "highs-ds"),
    "CVXPY + Clarabel": cvxpy_clarabel,
}


@jax.jit
def tv_batch(joint):
    """Bracket of the TV measure, batched."""
    rows = jnp.full(joint.shape[1:3], True)
    solve = jax.vmap(lambda p: nearest_separable(p, rows, minimax=True, tol=TOL, max_steps=60))
    bracket = solve(joint).bracket
    return bracket.upper, bracket.lower


@jax.jit
def tv_single(joint):
    """Bracket of the TV measure of one chain."""
    rows = jnp.full(joint.shape[1:3], True)
    bracket = nearest_separable(joint[0], rows, minimax=True, tol=TOL, max_steps=60).bracket
    return bracket.upper[None], bracket.lower[None]


@jax.jit
def atv(points):
    """Bracket of the agent-wise measure of one agent."""
    rows = jnp.full(points.shape[2:3], True)
    solve = jax.vmap(
        lambda p: minimax_center(p, rows, tol=TOL, max_steps=60, rivals="pairs"), axis_name="pairs"
    )
    bracket = solve(points[0]).bracket
    return bracket.upper.max()[None], bracket.lower.max()[None]


@jax.jit
def eq7(problem):
    """Bracket of the right-hand side of Eq. (7)."""
    points, weights = problem
    found = jax.vmap(tv_center)(points[0], weights[0])
    return found.upper.sum()[None], found.lower.sum()[None]


def outside(bracket: Any, optimum: Any) -> float:
    """How far an optimum lies outside jaxent's bracket, or the bracket's own width if it is more
    than was asked."""
    upper, lower = (np.asarray(side) for side in bracket)
    width = (upper - lower).max()
    miss = np.maximum(lower - optimum, optimum - upper).max()
    return max(miss, 0.0 if width <= TOL else width)


def run(config: Config, seed: int) -> list[Row]:
    """One row a measure and size."""
    rng = np.random.default_rng(seed)
    rows = []

    def add(name: str, kind: str, m: int, ours: Callable, problem: Any, programs: list) -> None:
        slow = {} if m <= SLOW[kind] else {"HiGHS simplex": "slow", "CVXPY + Clarabel": "slow"}
        every = {OURS: lambda: ours(problem)} | {
            who: lambda peer=peer: np.array([peer(program) for program in programs])
            for who, peer in PEERS.items()
            if who not in slow
        }
        rows.append(
            race(name, every, apart=outside, within=AGREE, rounds=config.rounds, absent=slow)
        )

    for m, number in ((config.tv[0], config.batch), *((m, 1) for m in config.tv)):
        joint = rng.dirichlet(np.ones(m * m), (number, m * m)).reshape(number, m, m, m, m)
        programs = [oracles.nearest_separable(p) for p in joint]
        ours = tv_single if number == 1 else tv_batch
        name = f"TV {m} x {m}" + (f", {number} at once" if number > 1 else "")
        add(name, "tv", m, ours, jnp.asarray(joint), programs)
    for m in config.atv:
        points = rng.dirichlet(np.ones(m), (1, m, m))
        add(f"ATV {m} x {m}", "atv", m, atv, jnp.asarray(points), [oracles.agentwise(points[0])])
    for m in config.eq7:
        points = rng.dirichlet(np.ones(m), (1, m, m))
        weights = rng.dirichlet(np.ones(m * m)).reshape(1, m, m)
        programs = [oracles.agentwise(points[0], weights[0])]
        problem = (jnp.asarray(points), jnp.asarray(weights))
        add(f"Eq. 7 {m} x {m}", "eq7", m, eq7, problem, programs)
    return rows
