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
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jaxent
from benchmarks.__main__ import versions, write_between
from benchmarks.growth_jobs import JOBS, bandit
from experiments import command
from jaxent import plotting

GIB = 2**30
MEMORIES = (4, 16, 80)
SAMPLES = 3


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
