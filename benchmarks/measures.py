"""Certified measures against linear programming, on the same chains in the same run.

    python -m benchmarks.measures [--quick]

Every row solves one chain (or, batched, 64) with jaxent and with SciPy's HiGHS (simplex, interior
point) and Clarabel, alternating between them, and prints medians, the ratio to the best of the
peers, and whether the peers' optimum lies in jaxent's bracket. Compilation is not timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxent.minimax import minimax_centre
from jaxent.nearest import nearest_separable
from jaxent.simplex import tv_centre
from tests import oracles_measures as oracles

TOL = 1e-6
AGREE = 2e-6  # the gap asked of jaxent, and the peers' own tolerance


def clarabel(program) -> float:
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


PEERS: dict[str, Callable] = {
    "HiGHS simplex": lambda program: oracles.solve(program, "highs-ds"),
    "HiGHS ipm": lambda program: oracles.solve(program, "highs-ipm"),
    "Clarabel": clarabel,
}


def ours_tv(joint):
    """Bracket of the TV measure, batched."""
    rows = jnp.full(joint.shape[1:3], True)
    solve = jax.vmap(lambda p: nearest_separable(p, rows, minimax=True, tol=TOL, max_steps=60))
    bracket = solve(joint).bracket
    return bracket.upper, bracket.lower


def ours_tv_single(joint):
    """Bracket of the TV measure of one chain."""
    rows = jnp.full(joint.shape[1:3], True)
    bracket = nearest_separable(joint[0], rows, minimax=True, tol=TOL, max_steps=60).bracket
    return bracket.upper[None], bracket.lower[None]


def ours_atv(points):
    """Bracket of the agent-wise measure of one agent."""
    rows = jnp.full(points.shape[2:3], True)
    solve = jax.vmap(
        lambda p: minimax_centre(p, rows, tol=TOL, max_steps=60, rivals="pairs"), axis_name="pairs"
    )
    bracket = solve(points[0]).bracket
    return bracket.upper.max()[None], bracket.lower.max()[None]


def ours_eq7(problem):
    """Bracket of the right-hand side of Eq. (7)."""
    points, weights = problem
    found = jax.vmap(tv_centre)(points[0], weights[0])
    return found.upper.sum()[None], found.lower.sum()[None]


def compare(name, ours, problem, programs, peers, repeats) -> None:
    """Time one row: ours and every peer in turn, `repeats` times."""
    ours = jax.jit(ours)
    upper, lower = jax.block_until_ready(ours(problem))
    times, values = {"jaxent": []} | {peer: [] for peer in peers}, {}
    for _ in range(repeats):
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(ours(problem))
            times["jaxent"].append(time.perf_counter() - start)
        for peer in peers:
            start = time.perf_counter()
            values[peer] = [PEERS[peer](program) for program in programs]
            times[peer].append(time.perf_counter() - start)
    median = {who: statistics.median(t) for who, t in times.items()}
    best = min(peers, key=lambda peer: median[peer])
    inside = np.all(
        (np.asarray(lower) - AGREE <= values[best]) & (values[best] <= np.asarray(upper) + AGREE)
    )
    gap = float(np.max(np.asarray(upper) - np.asarray(lower)))
    ratio = median[best] / median["jaxent"]
    print(
        f"| {name} | {median['jaxent']:.3g} | {median[best]:.3g} ({best}) | {ratio:.3g} "
        f"| {gap:.1g} | {'yes' if inside else 'NO'} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    every = tuple(PEERS)
    print("| problem | jaxent, s | best peer, s | ratio | gap | agrees |")
    print("|---|---|---|---|---|---|")
    for m, number in ((4, 64), (4, 1), (8, 1), (12, 1), (16, 1)):
        if quick and m > 8:
            continue
        joint = rng.dirichlet(np.ones(m * m), (number, m * m)).reshape(number, m, m, m, m)
        programs = [oracles.nearest_separable(p) for p in joint]
        # The slow ones are left out where they take minutes: HiGHS' simplex was the slowest there.
        peers = every if m <= 8 else every[1:]
        ours = ours_tv_single if number == 1 else ours_tv
        name = f"TV {m} x {m}" + (f", {number} at once" if number > 1 else "")
        compare(name, ours, jnp.asarray(joint), programs, peers, 3 if m <= 8 else 1)
    for m in (8, 32, 64):
        if quick and m > 32:
            continue
        points = rng.dirichlet(np.ones(m), (1, m, m))
        programs = [oracles.agentwise(points[0])]
        peers = every if m <= 32 else every[1:]
        compare(
            f"ATV {m} x {m}", ours_atv, jnp.asarray(points), programs, peers, 3 if m < 64 else 1
        )
    for m in (8, 64):
        if quick and m > 8:
            continue
        points = rng.dirichlet(np.ones(m), (1, m, m))
        weights = rng.dirichlet(np.ones(m * m)).reshape(1, m, m)
        programs = [oracles.agentwise(points[0], weights[0])]
        peers = every if m <= 8 else every[1:]
        problem = (jnp.asarray(points), jnp.asarray(weights))
        compare(f"Eq. 7 {m} x {m}", ours_eq7, problem, programs, peers, 3 if m < 64 else 1)


if __name__ == "__main__":
    main()
