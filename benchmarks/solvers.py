"""Two ways to solve one chain: eliminating its states, or only applying it (GMRES).

    python -m benchmarks.solvers [--quick] [--out DIR] [--write-readme]

The stationary law and Q-values by both, on chains of 64 to 1024 joint states: coupled agents under
any joint policy, the same where agents seldom move, and one dense kernel; alone and eight at once,
in float32 and in float64. What is written down is how many times faster applying is (below 1 it is
slower), how often it applied the chain, and how far its answer is from that of elimination, as a
share of the largest entry. `PairChain.is_tiny` and `is_small` choose by it.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from benchmarks.__main__ import write_between
from experiments import command
from jaxent.chains.stationary import law_direct, law_iterative
from jaxent.values.bellman import solve_direct, solve_iterative

# Agents by the number of joint states.
SIZES = {64: (4,) * 3, 128: (4,) * 3 + (2,), 256: (4,) * 4, 512: (4,) * 4 + (2,), 1024: (4,) * 5}
KINDS = ("coupled", "slow", "dense")
TASKS = {"law": None, "Q, .9": 0.9, "Q, .999": 0.999}
BATCHES = (1, 8)
# How often a slow agent moves.
SELDOM = 0.01
# A call is repeated for this long, seconds, and three times at least.
LONG = 0.3


class Pair(NamedTuple):
    """One task by both ways.

    Attributes:
        kind: of chain.
        states: how many joint ones.
        task: what was solved.
        dtype: float32 or float64.
        batch: how many chains at once.
        eliminated: seconds.
        applied: seconds.
        steps: how often the chain was applied, the most of the batch.
        converged: whether all of the batch did.
        apart: largest difference, as a share of the largest entry.
    """

    kind: str
    states: int
    task: str
    dtype: str
    batch: int
    eliminated: float
    applied: float
    steps: int
    converged: bool
    apart: float

    @property
    def ratio(self) -> float:
        """How many times faster applying is."""
        return self.eliminated / self.applied


def draw(kind: str, states: int, rng: np.random.Generator, dtype: Any) -> tuple[Any, Any]:
    """A chain of that many joint states and its local rewards."""
    sizes = (states,) if kind == "dense" else SIZES[states]
    agents = []
    for size in sizes:
        kernel = rng.dirichlet(np.ones(size), (size, 2))
        if kind == "slow":
            kernel = SELDOM * kernel + (1 - SELDOM) * np.eye(size)[:, None]
        made = jnp.asarray(kernel, dtype), jnp.asarray(rng.normal(size=(size, 2)), dtype)
        agents.append(jaxent.MDP(*made))
    policy = rng.dirichlet(np.ones(2 ** len(sizes)), sizes).reshape(sizes + (2,) * len(sizes))
    model = agents[0] if kind == "dense" else jaxent.WeaklyCoupledMDP(tuple(agents), 0.9)
    chain = jaxent.pair_chain(model, jnp.asarray(policy, dtype))
    return chain, [agent.reward for agent in agents]


def ways(task: str) -> tuple[Callable, Callable]:
    """Elimination and applying, of one chain and its rewards."""
    rate = TASKS[task]
    if rate is not None:
        return partial(solve_direct, discount=rate), partial(solve_iterative, discount=rate)
    return (lambda chain, _: law_direct(chain)), (lambda chain, _: law_iterative(chain))


def timed(call: Callable[[], Any]) -> float:
    """Median seconds."""
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < LONG:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def compare(kind: str, states: int, task: str, dtype: Any, batch: int, seed: int) -> Pair:
    """One row."""
    rng = np.random.default_rng(seed)
    drawn = [draw(kind, states, rng, dtype) for _ in range(batch)]
    given = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn) if batch > 1 else drawn[0]
    calls = [jax.jit(jax.vmap(way) if batch > 1 else way) for way in ways(task)]
    exact, found = (jax.block_until_ready(call(*given)) for call in calls)
    largest = jnp.abs(exact.value).max()
    eliminated, applied = (timed(partial(call, *given)) for call in calls)
    return Pair(
        kind,
        states,
        task,
        jnp.dtype(dtype).name,
        batch,
        eliminated,
        applied,
        int(found.num_steps.max()),
        bool(found.converged.all()),
        float(jnp.abs(exact.value - found.value).max() / largest),
    )


def table(rows: list[Pair]) -> str:
    """A line a chain and task, a column a precision and batch; times are of one in float64."""
    columns = list(dict.fromkeys((row.dtype, row.batch) for row in rows))
    lines = [["chain", "joint states", "task", "eliminated, ms", "applied, ms"]]
    lines[0] += [f"{dtype}, {batch} at once" for dtype, batch in columns] + ["products", "apart"]
    lines.append(["---"] * len(lines[0]))
    for key, group in itertools.groupby(rows, lambda row: (row.kind, row.states, row.task)):
        mine = {(row.dtype, row.batch): row for row in group}
        one = mine["float64", 1]
        lines.append(
            [*map(str, key), f"{one.eliminated * 1e3:.3g}", f"{one.applied * 1e3:.3g}"]
            + [f"{mine[c].ratio:.2g}" + " (fails)" * (not mine[c].converged) for c in columns]
            + [str(one.steps), f"{one.apart:.0e}"]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers")
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results") / "benchmarks")
    parser.add_argument("--write-readme", action="store_true", help="put the table in the README")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    command.open_folder(options.out)
    sizes = list(SIZES)[:2] if options.quick else list(SIZES)
    rows = []
    for kind, states, task in itertools.product(KINDS, sizes, TASKS):
        for dtype, batch in itertools.product((jnp.float32, jnp.float64), BATCHES):
            rows.append(compare(kind, states, task, dtype, batch, options.seed))
            print(f"{rows[-1].ratio:.2f} of {rows[-1]}", flush=True)
    command.save_json(options.out / "solvers.json", [row._asdict() for row in rows])
    text = table(rows)
    print(text)
    if options.write_readme:
        write_between(text, "solvers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
