"""Policies of populations side by side: the gap to the bound and the error of a sum of values.

On the problems on which papers compare policies: how far each policy is from the bound of the fluid
program, an agent and step, and how far the sum of the agents' local values is from the team's value
(root mean square), along N: exact for few agents, by simulation for many, and with the limits of
the mean field where there is one. Slopes in log N say whether the error of the sum grows like
sqrt(N), as Theorem 7 has it for index policies of agents of one type with one budget.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import jaxent
from experiments import command
from experiments.policy_measures import (
    POLICIES,
    Entrant,
    best,
    entrants,
    exact_sizes,
    exactly,
    fits,
    limits,
    simulated,
    solvable,
)
from jaxent import plotting


class Config(NamedTuple):
    """What is computed.

    Attributes:
        population: names, of `jaxent.POPULATIONS`.
        policy: names, of `POLICIES`.
        exact: numbers of agents of the exact values.
        sizes: numbers of agents of the simulations.
        runs: independent runs of each simulation.
        steps: epochs of a run that count.
        horizon: epochs of a continuation, for the values.
        branches: continuations from the end of each run.
    """

    population: tuple[str, ...] = ("circulant", "workshop", "supermarket", "three-states")
    policy: tuple[str, ...] = ("priority", "lagrange", "random", "id", "ftva", "two-set", "mpc")
    exact: tuple[int, ...] = (5, 10)
    sizes: tuple[int, ...] = (10, 20, 40, 80, 160, 320, 640)
    runs: int = 120
    steps: int = 40
    horizon: int = 40
    branches: int = 12


QUICK = Config(
    population=("three-states",),
    policy=("priority", "id"),
    exact=(5,),
    sizes=(10, 20, 40),
    runs=24,
    steps=20,
    horizon=20,
    branches=6,
)

HELP = {
    "population": f"which problems, of {', '.join(sorted(jaxent.POPULATIONS))}",
    "policy": "which policies: priority, lagrange, random, id, ftva, two-set, mpc",
    "exact": "numbers of agents of the exact values; a problem takes those that it can have",
    "sizes": "numbers of agents of the simulations; likewise",
    "runs": "independent runs of each simulation",
    "steps": "epochs of a run that count",
    "horizon": "epochs of a continuation, for the values",
    "branches": "continuations from the end of each run",
}


# Gaps and errors below this are rounding.
ROUNDING = 1e-9


def compared(job: command.Job) -> dict[str, dict]:
    """Every problem and policy that is not stored."""
    config = job.config
    done = job.stored.get("populations", {})
    pieces = 0
    for name in config.population:
        result = done.setdefault(name, {})
        if "limits" not in result:
            result["limits"] = limits(name)
            result["optimum"] = [best(name, n) for n in config.exact if solvable(name, n)]
        for number, policy in enumerate(entrants(name, config.policy)):
            if policy in result:
                continue
            entrant = POLICIES[policy]
            few = exact_sizes(name, policy, config.exact)
            many = [n for n in config.sizes if fits(name, n) and n <= entrant.most]
            many = many[:: entrant.stride]
            keys = jax.random.split(jax.random.fold_in(jax.random.key(job.seed), number), len(many))
            result[policy] = command.plain(
                {
                    "exact": [exactly(name, policy, n) for n in few],
                    "simulated": [
                        simulated(key, name, policy, n, config)
                        for key, n in zip(keys, many, strict=True)
                    ],
                }
            )
            pieces += 1
            job.save({"populations": done}, f"{pieces} curves are")
    return done


def slope(result: dict, quantity: str, error: str) -> tuple[float, float]:
    """The slope in logarithms, and half the width of its 95% interval.

    By least squares with the weights of the standard errors, which are widened where the points
    scatter more than they; what is not told from 0 is left out. Over the larger half of the numbers
    of agents where that leaves three. Of exact values, no interval.
    """
    rows = [r for r in result["simulated"] if r[quantity] > max(2 * r[error], ROUNDING)]
    rows = rows[len(rows) // 2 :] if len(rows) >= 5 else rows
    if len(rows) < 3:
        rows = [r for r in result["exact"] if r[quantity] > ROUNDING]
        if len(rows) < 2:
            return float("nan"), float("nan")
        x, y = (np.log([r[k] for r in rows]) for k in ("size", quantity))
        return float(np.polyfit(x, y, 1)[0]), float("nan")
    x, y = (np.log([r[k] for r in rows]) for k in ("size", quantity))
    weight = np.array([(r[quantity] / r[error]) for r in rows])
    design = np.stack([x, np.ones_like(x)], axis=1) * weight[:, None]
    fit, left = np.linalg.lstsq(design, y * weight, rcond=None)[:2]
    inverse = np.linalg.inv(design.T @ design)[0, 0]
    spread = max(float(left[0]) / (len(x) - 2), 1.0) if len(left) else 1.0
    return float(fit[0]), float(1.96 * np.sqrt(inverse * spread))


def told(result: dict, quantity: str, error: str) -> str:
    """A slope with its interval, or what there is instead."""
    if not every(result):
        return "-"
    power, half = slope(result, quantity, error)
    if np.isfinite(half):
        return f"{power:.2f} +- {half:.2f}"
    largest = max((r[quantity] for r in result["exact"]), default=np.nan)
    if np.isnan(power):
        return "0" if largest < ROUNDING else "lost in the noise"
    return f"{power:.2f} (exact)"


def claims(results: dict[str, dict], config: Config) -> list[command.Claim]:
    """What should hold, what came out, and whether it holds."""
    pairs = [(n, p, r[p]) for n, r in results.items() for p in entrants(n, config.policy)]
    rows = [row for _, _, r in pairs for row in r["exact"]]
    lowest = min((row["gap"] for row in rows), default=np.inf)
    best_of = {(n, row["size"]): row["gap"] for n, r in results.items() for row in r["optimum"]}
    over = min(
        (row["gap"] - best_of[n, row["size"]] for n, _, r in pairs for row in r["exact"]),
        default=np.inf,
    )
    apart = []
    for _, _, result in pairs:
        exact = {row["size"]: row for row in result["exact"]}
        for row in result["simulated"]:
            for quantity, error in (("gap", "gap_error"), ("rms_error", "rms_standard_error")):
                known = exact.get(row["size"])
                if known and row[error] > 0 and known[quantity] > ROUNDING:
                    apart.append(abs(row[quantity] - known[quantity]) / row[error])
    shares = []
    for result in results.values():
        constant = result["limits"]["rms_error"]
        if constant and "priority" in result:
            for row in result["priority"]["simulated"]:
                sure = row["rms_error"] - 3 * row["rms_standard_error"]
                shares.append(sure / (constant * row["size"] ** 0.5))
    return [
        command.Claim(
            "bound above the optimum, the optimum above every policy",
            f"gaps of at least {lowest:.3g}, {over:.3g} over the optimum's",
            bool(lowest > 0 and over > -1e-6),
        ),
        command.Claim(
            "simulated as exact where both are (5 s.e.)",
            f"at most {max(apart, default=0):.2g} s.e.",
            max(apart, default=0) < 5,
        ),
        command.Claim(
            "error under the priority below its limit times sqrt(N), where there is one (3 s.e.)",
            f"at most {max(shares, default=0):.3f} times",
            max(shares, default=0) <= 1.05,
        ),
    ]


def figures(results: dict[str, dict], out: Path) -> list[Path]:
    """Gaps above, errors below, a column a problem."""
    with plotting.style():
        wide = max(3.6, 1.85 * len(results))
        figure = Figure(figsize=(wide, 4.4), layout="constrained")
        panels = figure.subplots(2, len(results), squeeze=False, sharex="col")
        shown: dict[str, Any] = {}
        for column, (name, result) in enumerate(results.items()):
            above, below = panels[:, column]
            above.set_title(name, fontsize=9)
            for policy, entrant in POLICIES.items():
                if policy in result:
                    shown[entrant.label] = curve(above, result[policy], entrant, "gap")
                    curve(below, result[policy], entrant, "rms_error")
            rows = result["optimum"]
            if rows:
                (line,) = above.plot(
                    [r["size"] for r in rows], [r["gap"] for r in rows],
                    color=plotting.RED, lw=0, marker="_", ms=8, mew=1.5,
                )  # fmt: skip
                shown["optimum, exact"] = line
            constant = result["limits"]["rms_error"]
            ends = np.array([r["size"] for p in POLICIES if p in result for r in every(result[p])])
            ends = np.array([ends.min(), ends.max()])
            if constant:
                (line,) = below.plot(
                    ends, constant * np.sqrt(ends), color=plotting.GREEN, lw=0.8, ls=":"
                )
                shown["limit of the priority"] = line
            for axes in (above, below):
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.xaxis.set_major_formatter("{x:.0f}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            below.set_xlabel("number of agents $N$")
        panels[0, 0].set_ylabel("gap to the bound\nan agent and step")
        panels[1, 0].set_ylabel("error of the sum of\nlocal values (r.m.s.)")
        figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=min(5, 2 * len(results))
        )
        return command.save_figure(figure, out / "policies")


def every(result: dict) -> list[dict]:
    """Exact and simulated rows."""
    return [*result["exact"], *result["simulated"]]


def curve(axes: Any, result: dict, entrant: Entrant, quantity: str) -> Any:
    """Exact values as a line with open markers, simulated ones with bars of two standard errors."""
    error = {"gap": "gap_error", "rms_error": "rms_standard_error"}[quantity]
    exact = [r for r in result["exact"] if r[quantity] > ROUNDING]
    many = [r for r in result["simulated"] if r[quantity] > max(2 * r[error], ROUNDING)]
    size = 5 if entrant.marker == "*" else 3.5
    look = {"color": entrant.color, "marker": entrant.marker, "ms": size, "lw": 0.9}
    if exact:
        axes.plot(*([r[k] for r in exact] for k in ("size", quantity)), mfc="none", **look)
    points = axes.errorbar(
        [r["size"] for r in many],
        [r[quantity] for r in many],
        [2 * r[error] for r in many],
        elinewidth=0.7, **look,
    )  # fmt: skip
    return points


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    for field, known in (("population", jaxent.POPULATIONS), ("policy", POLICIES)):
        unknown = [name for name in getattr(config, field) if name not in known]
        if unknown:
            raise ValueError(f"{field}: {unknown[0]!r} is not one of {', '.join(sorted(known))}")
    for name in config.population:
        if not any(fits(name, n) for n in config.sizes):
            raise ValueError(f"sizes: {name} takes none of them")
    command.at_least(config, runs=2, steps=2, horizon=2, branches=2)


def work(job: command.Job) -> command.Report:
    """Every curve that is not stored, and the figure."""
    done = compared(job)
    results = {name: done[name] for name in job.config.population}
    table = []
    for name, result in results.items():
        for policy in entrants(name, job.config.policy):
            one = result[policy]
            exact = one["exact"][-1:]
            table.append(
                (
                    name,
                    POLICIES[policy].label,
                    told(one, "gap", "gap_error"),
                    told(one, "rms_error", "rms_standard_error"),
                    f"{exact[0]['entanglement']:.3f} at {exact[0]['size']}" if exact else "-",
                )
            )
    heading = ("population", "policy", "gap an agent", "error of the sum", "E_1, exact")
    return command.Report(
        {"populations": done},
        claims(results, job.config),
        figures(results, job.out),
        heading,
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 unless a claim fails."""
    return command.run(
        "policies", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("population", "policy"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
