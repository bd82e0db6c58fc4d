"""How time and memory of each core job grow, and the largest size that fits.

    python -m benchmarks.growth [--quick] [--out DIR] [--write-readme]

Every point is a process of its own: `seconds` is the median of a few calls once compiled, `peak`
what the process held at most beyond what it held before the job (so compilation counts), `planned`
what the compiled program asks for (`memory_analysis`) where the job is one program. Exponents are
least squares on logarithms over the upper half of the sizes, where fixed costs have faded. Writes
`growth.json`, and `growth.png` and `.pdf`.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jaxent
from benchmarks.__main__ import versions, write_between
from experiments import command
from jaxent import plotting

GIB = 2**30
MEMORIES = (4, 16, 80)
SAMPLES = 3


class Job(NamedTuple):
    """One core job against one size.

    Attributes:
        title: what is computed.
        axis: what grows.
        sizes: how far, and toy sizes.
        build: size to (function, arguments): a jitted function where it is one program.
        volume: size to what time is fitted against, named by `unit`.
        unit: of the volume.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    build: Callable[[int], tuple[Callable, tuple]]
    volume: Callable[[int], float] = float
    unit: str = ""


def bandit(num_states: int, num_agents: int) -> jaxent.RestlessBandit:
    """A random bandit, a fifth of whose agents act."""
    rng = np.random.default_rng(0)
    idle, active = rng.dirichlet(np.ones(num_states), (2, num_states))
    reward = rng.normal(size=(num_states, 2))
    return jaxent.RestlessBandit(idle, active, reward, num_agents, num_agents // 5, 0.9)


def simulation(model: jaxent.RestlessBandit, runs: int = 16) -> tuple[Callable, tuple]:
    """Independent runs of 2000 epochs."""
    order = np.arange(model.num_states)

    @jax.jit
    @jax.vmap
    def simulate(key):
        return jaxent.simulate_counts(key, model, order, num_steps=2000).counts

    return simulate, (jax.random.split(jax.random.key(0), runs),)


def sharded(devices: int) -> tuple[Callable, tuple]:
    """The same, 64 runs spread over devices."""
    simulate, (keys,) = simulation(jaxent.circulant_bandit(1000), 64)
    mesh = jax.make_mesh((devices,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))
    return simulate, (jax.device_put(keys, spread),)


def exact(model: jaxent.RestlessBandit) -> tuple[Callable, tuple]:
    """Exact law, values, error and entanglement of a priority rule."""
    return lambda: jaxent.ground_truth(model, np.arange(model.num_states)), ()


def coupled(number: int, states: int) -> tuple[jaxent.WeaklyCoupledMDP, jax.Array]:
    """Coupled agents with two actions, under any joint policy."""
    rng = np.random.default_rng(0)
    agents = tuple(
        jaxent.MDP(
            jnp.asarray(rng.dirichlet(np.ones(states), (states, 2))),
            jnp.asarray(rng.normal(size=(states, 2))),
        )
        for _ in range(number)
    )
    policy = rng.dirichlet(np.ones(2**number), states**number)
    policy = jnp.asarray(policy.reshape((states,) * number + (2,) * number))
    return jaxent.WeaklyCoupledMDP(agents, 0.9), policy


def joint(number: int, states: int) -> tuple[Callable, tuple]:
    """Joint Q-values of coupled agents with two actions."""

    @jax.jit
    def evaluate(mdp, policy):
        chain = jaxent.pair_chain(mdp, policy)
        return jaxent.solve_q(chain, mdp.rewards, discount=0.9).value

    return evaluate, coupled(number, states)


def joint_error(number: int, states: int) -> tuple[Callable, tuple]:
    """The chain, its law, local values, and a bracket of 1% of the error of their sum."""

    def evaluate(mdp, policy):
        chain = jaxent.pair_chain(mdp, policy)
        mu = jaxent.stationary_distribution(chain)
        local = jaxent.local_q_values(chain, mdp.rewards, discount=0.9, mu=mu)
        found = jaxent.approximation_error(chain, mdp.rewards, local, discount=0.9, mu=mu)
        assert found.upper <= 1.01 * found.lower
        return found

    return evaluate, coupled(number, states)


def measure(pairs: int) -> tuple[Callable, tuple]:
    """The certified TV measure of a random chain of two agents."""
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.dirichlet(np.ones(pairs**2), pairs**2))
    chain = jaxent.PairChain.from_matrix(matrix, sizes=(pairs, pairs))
    return jax.jit(lambda chain: jaxent.entanglement_tv(chain).value), (chain,)


def soft(model: jaxent.RestlessBandit) -> tuple[Callable, tuple]:
    """Gradient of the exact mu-error in the index of a soft policy."""

    def error(index):
        return jaxent.soft_ground_truth(model, jaxent.SoftIndex(index, 0.1)).mu_error

    return jax.jit(jax.grad(error)), (jnp.linspace(1.0, 0.0, model.num_states),)


def gradients(policies: int) -> tuple[Callable, tuple]:
    """Gradients of the decomposition error of many policies, two agents of 8 pairs each."""
    mdp, _ = coupled(2, 4)

    def error(logits):
        chain = jaxent.pair_chain(mdp, jaxent.softmax_policy(logits))
        return jaxent.decomposition_error(chain, mdp.rewards, discount=0.9)

    logits = np.random.default_rng(0).normal(size=(policies, 4, 4, 2, 2))
    return jax.jit(jax.vmap(jax.grad(error))), (jnp.asarray(logits),)


def configurations(agents: int, states: int) -> float:
    """Number of configurations."""
    return float(np.prod([(agents + k) / k for k in range(1, states)]))


JOBS: dict[str, Job] = {
    "counts_N": Job(
        "counts simulation, 16 runs",
        "N",
        (100, 400, 1600, 6400, 25600),
        (10, 20),
        lambda n: simulation(jaxent.circulant_bandit(n // 5 * 5)),
    ),
    "counts_S": Job(
        "counts simulation, N = 1000, 16 runs",
        "S",
        (2, 4, 8, 16, 32),
        (2, 3),
        lambda s: simulation(bandit(s, 1000)),
    ),
    "exact_N": Job(
        "exact ground truth, S = 4",
        "N",
        (10, 20, 30, 40),
        (5, 10),
        lambda n: exact(jaxent.circulant_bandit(n)),
        lambda n: configurations(n, 4),
        "configurations",
    ),
    "exact_S": Job(
        "exact ground truth, N = 10",
        "S",
        (2, 3, 4, 5),
        (2, 3),
        lambda s: exact(bandit(s, 10)),
        lambda s: configurations(10, s),
        "configurations",
    ),
    "joint_N": Job(
        "joint values, 8 pairs an agent",
        "N",
        (4, 5, 6, 7, 8, 9),
        (2, 3),
        lambda n: joint(n, 4),
        lambda n: 8.0**n,
        "joint pairs",
    ),
    "error_N": Job(
        "bracket of the error, law and local values too, 8 pairs an agent",
        "N",
        (4, 5, 6, 7, 8, 9),
        (2, 3),
        lambda n: joint_error(n, 4),
        lambda n: 8.0**n,
        "joint pairs",
    ),
    "joint_S": Job(
        "joint values, 4 agents of 2 S pairs",
        "S",
        (4, 6, 8, 12, 16),
        (2, 3),
        lambda s: joint(4, s),
        lambda s: (2.0 * s) ** 4,
        "joint pairs",
    ),
    "tv_X": Job(
        "TV measure, X pairs an agent",
        "X",
        (4, 6, 8, 12, 16),
        (2, 3),
        measure,
    ),
    "soft_N": Job(
        "soft chain, gradient, S = 4",
        "N",
        (5, 10, 15, 20),
        (5, 10),
        lambda n: soft(jaxent.circulant_bandit(n)),
        lambda n: configurations(n, 4),
        "configurations",
    ),
    "soft_S": Job(
        "soft chain, gradient, N = 10",
        "S",
        (2, 3, 4),
        (2, 3),
        lambda s: soft(bandit(s, 10)),
        lambda s: configurations(10, s),
        "configurations",
    ),
    "policies": Job(
        "gradients of the error, 8 x 8 pairs",
        "policies",
        (16, 64, 256, 1024),
        (2, 4),
        gradients,
    ),
    "devices": Job(
        "counts simulation, N = 1000, 64 runs",
        "devices",
        (1, 2, 4, 8),
        (1, 2),
        sharded,
    ),
}


def rss() -> int:
    """The most bytes this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # where `getrusage` would go on from the parent's, which exec inherits
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_point(name: str, size: int) -> dict[str, Any]:
    """Time and memory of one job at one size, in this process."""
    jax.config.update("jax_enable_x64", True)
    job = JOBS[name]
    function, arguments = job.build(size)
    jax.block_until_ready(arguments)
    before, start = rss(), time.perf_counter()
    planned = None
    if hasattr(function, "lower"):
        function = function.lower(*arguments).compile()
        plan = function.memory_analysis()
        if plan is not None:
            parts = ("argument", "output", "temp")
            planned = sum(getattr(plan, f"{part}_size_in_bytes") for part in parts)
    jax.block_until_ready(function(*arguments))
    first, times = time.perf_counter() - start, []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
        if sum(times) > 10:
            break
    seconds = statistics.median(times)
    return {
        "size": size,
        "volume": job.volume(size),
        "seconds": seconds,
        "compile": max(first - seconds, 0.0),
        "peak": rss() - before,
        "planned": planned,
    }


def in_process(name: str, size: int, limit: float) -> dict[str, Any] | None:
    """The same in a process of its own, or None if it fails or takes longer than `limit`."""
    devices = size if JOBS[name].axis == "devices" else 1
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    run = [sys.executable, "-m", "benchmarks.growth", "--point", name, str(size)]
    try:
        done = subprocess.run(
            run,
            capture_output=True,
            text=True,
            timeout=limit,
            check=True,
            env=os.environ | {"XLA_FLAGS": flags},
        )
    except subprocess.TimeoutExpired:
        print(f"{name} {size}: longer than {limit:.0f} s, left out", file=sys.stderr)
        return None
    except subprocess.CalledProcessError as error:
        print(f"{name} {size}: failed\n{error.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def exponent(points: list[dict], key: str) -> float:
    """Slope on logarithms over the upper half of the sizes; NaN with less than two."""
    points = [p for p in points if p[key]][-max(2, (len(points) + 1) // 2) :]
    if len(points) < 2:
        return float("nan")
    x, y = (np.log([p[k] for p in points]) for k in ("volume", key))
    return float(np.polyfit(x, y, 1)[0])


def fits() -> list[tuple[str, str, list[str]]]:
    """What fits in each memory, from the checks that refuse before anything is allocated."""
    asked: list[tuple[str, str, Callable[[int], Any]]] = []
    for states in (2, 3, 4, 5, 6):
        model, order = bandit(states, 10**7), np.arange(states)
        policy = jaxent.SoftIndex(np.linspace(1, 0, states), 0.1)
        for function, rule in (
            (jaxent.ground_truth, order),
            (jaxent.exchangeable_chain, order),
            (jaxent.ground_truth, policy),
        ):
            ask = partial(_ask, function, model, rule)
            under = ", soft index" if rule is policy else ""
            asked.append((f"`{function.__name__}`{under}", f"N, S = {states}", ask))
    rows = []
    for name, what, ask in sorted(asked, key=lambda row: row[0]):
        cells = []
        for gib in MEMORIES:
            try:
                ask(gib * GIB)
                cells.append("more than 10,000,000")
            except ValueError as refusal:
                found = re.search(r"fits is (\d+)", str(refusal))
                cells.append(f"{int(found[1]):,}" if found else "-")
        rows.append((name, what, cells))
    return rows


def _ask(function: Callable, model: jaxent.RestlessBandit, rule: Any, memory: int) -> Any:
    return function(model, rule, memory=memory)


def extrapolate(points: list[dict], gib: int) -> str:
    """The volume that fits, from the plan's bytes at the largest size and their growth."""
    known = [p for p in points if p["planned"]]
    power = exponent(points, "planned")
    if not known or not power > 0.1:
        return "-"
    return f"{known[-1]['volume'] * (gib * GIB / known[-1]['planned']) ** (1 / power):.2g}"


def markdown(results: dict[str, list[dict]], fitting: list) -> str:
    """Both tables."""
    lines = [
        "| job | against | from, to | seconds | peak, MiB | exponent of time | of memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, points in results.items():
        job = JOBS[name]
        if not points:
            continue
        ends = (points[0], points[-1])
        memory = "planned" if points[-1]["planned"] else "peak"
        lines.append(
            f"| {job.title} | {job.unit or job.axis} | "
            + ", ".join(f"{p['volume']:.3g}" for p in ends)
            + " | "
            + ", ".join(f"{p['seconds']:.2g}" for p in ends)
            + " | "
            + ", ".join(f"{p[memory] / 2**20:.3g}" for p in ends)
            + f" | {exponent(points, 'seconds'):.2f} | {exponent(points, memory):.2f} |"
        )
    lines += ["", "| largest that fits | | " + " | ".join(f"{g} GiB" for g in MEMORIES) + " |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {name} | {what} | {' | '.join(cells)} |" for name, what, cells in fitting]
    for name in ("joint_N", "policies"):
        if results.get(name):
            cells = [extrapolate(results[name], gib) for gib in MEMORIES]
            unit = JOBS[name].unit or JOBS[name].axis
            lines.append(f"| {JOBS[name].title} | {unit}, extrapolated | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(results: dict[str, list[dict]], out: Path) -> list[Path]:
    """Time and memory, one column for each thing that grows, one color for each kind of job."""
    axes = list(dict.fromkeys(JOBS[name].axis for name in results))
    kinds = list(dict.fromkeys(JOBS[name].title.split(",")[0] for name in results))
    with plotting.style():
        drawn = Figure(figsize=(2.1 * len(axes), 4.2), layout="constrained")
        panels = drawn.subplots(2, len(axes), squeeze=False, sharey="row", sharex="col")
        for name, points in results.items():
            column, kind = axes.index(JOBS[name].axis), JOBS[name].title.split(",")[0]
            memory = "planned" if points and points[-1]["planned"] else "peak"
            for row, (key, unit) in enumerate((("seconds", 1), (memory, 2**20))):
                panels[row, column].plot(
                    [p["size"] for p in points],
                    [p[key] / unit for p in points],
                    "o-",
                    lw=1,
                    color=f"C{kinds.index(kind)}",
                )
        for column, axis in enumerate(axes):
            sizes = {p["size"] for n, ps in results.items() if JOBS[n].axis == axis for p in ps}
            ticks: list[int] = []
            for size in sorted(sizes):  # no closer than can be read
                if not ticks or size >= ticks[-1] * (max(sizes) / min(sizes)) ** 0.19:
                    ticks.append(size)
            for panel in panels[:, column]:
                panel.set(xscale="log", yscale="log")
                panel.minorticks_off()
                panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panels[1, column].set_xlabel(axis)
        panels[0, 0].set_ylabel("seconds a call")
        panels[1, 0].set_ylabel("memory, MiB")
        colors = [Line2D([], [], color=f"C{k}", marker="o", lw=1) for k in range(len(kinds))]
        drawn.legend(colors, kinds, loc="outside lower center", ncols=len(kinds), frameon=False)
        return command.save_figure(drawn, out / "growth")


def main(argv: list[str] | None = None) -> int:
    """Run every job, draw, print the tables."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=about)
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that all works")
    parser.add_argument("--only", nargs="+", choices=tuple(JOBS), default=tuple(JOBS))
    parser.add_argument("--out", type=Path, default=Path("results") / "benchmarks")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one point")
    parser.add_argument("--write-readme", action="store_true", help="put the tables in the README")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.point:
        print(json.dumps(measure_point(options.point[0], int(options.point[1]))))
        return 0
    command.open_folder(options.out)
    results: dict[str, list[dict]] = {}
    for name in options.only:
        results[name] = []
        for size in JOBS[name].quick if options.quick else JOBS[name].sizes:
            point = in_process(name, size, options.limit)
            if point is None:
                break
            results[name].append(point)
            print(
                f"{name} {size}: {point['seconds']:.3g} s, {point['peak'] / 2**20:.3g} MiB",
                flush=True,
            )
        stored = {"versions": versions(), "quick": options.quick, "points": results}
        command.save_json(options.out / "growth.json", stored)
    fitting = fits()
    text = markdown(results, fitting)
    command.save_json(options.out / "growth.json", stored | {"fits": fitting})
    paths = figure(results, options.out)
    print("\n" + text + "\n\n" + "\n".join(map(str, paths)))
    if options.write_readme:
        write_between(text, "growth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
