"""The square-root law of soft index policies: slopes of entanglement and error along N.

For each bandit and temperature the exact E_1 (Eq. 15) and the exact mu-error of the sum of local
values along N, their slopes in log N with intervals, and the limits that they should come to. At
larger N, E_1 is estimated from runs, with an interval of its own. A cold index on a bandit whose
mean field swings for ever is there for contrast: it has no such law.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from matplotlib.figure import Figure

import jaxent
from experiments import command
from jaxent import plotting


class Config(NamedTuple):
    """What is computed.

    Attributes:
        case: names, of `CASES`.
        sizes: numbers of agents of the exact values.
        large: numbers of agents of the estimates.
        steps: epochs of a run.
        runs: independent runs of each estimate.
    """

    case: tuple[str, ...] = ("healthcare-warm", "healthcare-cold", "degenerate-warm", "cyclic-cold")
    sizes: tuple[int, ...] = (10, 20, 40, 80, 160)
    large: tuple[int, ...] = (100, 200, 400, 800, 1600)
    steps: int = 2000
    runs: int = 8


QUICK = Config(case=("healthcare-warm",), sizes=(10, 20, 40), large=(100, 400), steps=300, runs=4)

HELP = {
    "case": "which bandit, warm or cold: its name, -warm or -cold",
    "sizes": "numbers of agents of the exact values, multiples of 10",
    "large": "numbers of agents of the estimates, multiples of 10",
    "steps": "epochs of a run",
    "runs": "independent runs of each estimate",
}

# In units of the spread of the index, which is 2.
TEMPERATURES = {"warm": 1.0, "cold": 0.02}
NAMES = tuple(f"{n}-{t}" for n in ("healthcare", "degenerate", "cyclic") for t in TEMPERATURES)
# The cyclic bandit has three states: exact values take as many agents' groups as these.
MOST = {"cyclic": 40}
COLORS = (plotting.GREEN, plotting.BLUE, plotting.GRAY, plotting.RED)
MARKERS = "so^D"


def team(name: str, temperature: float, size: int) -> tuple[jaxent.RestlessBandit, Any]:
    """The bandit, and its priority as a soft index from 1 to -1."""
    bandit, priority = jaxent.named_bandit(name, size)
    index = np.zeros(bandit.num_states)
    index[list(priority)] = np.linspace(1, -1, bandit.num_states)
    return bandit, jaxent.SoftIndex(index, temperature)


def measure(name: str, temperature: float, size: int) -> dict[str, Any]:
    """Exact values at one N, and the bound by the distance from m*."""
    bandit, policy = team(name, temperature, size)
    exact = jaxent.ground_truth(bandit, policy)
    counts = jnp.asarray(jaxent.configurations(size, bandit.num_states))
    field = jaxent.mean_field(bandit, policy)
    bound = jaxent.deviation_bound(counts, exact.law, bandit, policy, field)
    return {
        "size": size,
        "entanglement": exact.entanglement,
        "mu_error": exact.mu_error,
        "half_distance": bound.half_distance,
    }


def limits(name: str, temperature: float) -> dict[str, Any]:
    """What the mean field says: sqrt(N) E_1, error / sqrt(N), stability."""
    field = jaxent.mean_field(*team(name, temperature, 10))
    kept = ("entanglement_limit", "mu_error_limit", "spectral_radius", "converged")
    return {key: getattr(field, key).item() for key in kept}


def estimate(key: jax.Array, name: str, temperature: float, size: int, config: Config) -> dict:
    """E_1 from runs: the mean over runs, held out, and half the width of its interval."""
    bandit, policy = team(name, temperature, size)

    def one(key: jax.Array) -> jax.Array:
        run = jaxent.simulate_counts(key, bandit, policy, num_steps=config.steps)
        late = config.steps // 5
        share = run.counts[late:-1] / size
        return jaxent.estimate_entanglement(run.policy[late:-1], share).held_out

    found = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, config.runs)))
    quantile = scipy.stats.t.ppf(0.975, len(found) - 1)
    half = quantile * found.std(ddof=1) / np.sqrt(len(found))
    return {"size": size, "entanglement": found.mean(), "half_width": half}


def slope(sizes: Any, values: Any) -> tuple[float, float]:
    """The slope in logarithms by least squares, and half the width of its 95% interval."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    if len(x) < 3:
        return float(np.polyfit(x, y, 1)[0]), float("nan")
    fit = scipy.stats.linregress(x, y)
    return float(fit.slope), float(scipy.stats.t.ppf(0.975, len(x) - 2) * fit.stderr)


def slopes(result: dict) -> dict[str, tuple[float, float]]:
    """Slopes of the exact values at the larger N, and of the estimates."""
    rows = result["rows"][-3:]
    n = [r["size"] for r in rows]
    large = result["large"]
    return {
        "E_1": slope(n, [r["entanglement"] for r in rows]),
        "error": slope(n, [r["mu_error"] for r in rows]),
        "E_1 at large N": slope([r["size"] for r in large], [r["entanglement"] for r in large]),
    }


def case(name: str, seed: int, config: Config) -> dict:
    """All of one bandit at one temperature."""
    bandit, warmth = name.split("-")
    temperature = TEMPERATURES[warmth]
    exact = [n for n in config.sizes if n <= MOST.get(bandit, n)]
    keys = jax.random.split(jax.random.key(seed), len(config.large))
    pairs = zip(keys, config.large, strict=True)
    return {
        "limits": limits(bandit, temperature),
        "rows": [measure(bandit, temperature, n) for n in exact],
        "large": [estimate(key, bandit, temperature, n, config) for key, n in pairs],
    }


def figures(results: dict[str, dict], out: Path) -> list[Path]:
    """sqrt(N) E_1 with its estimates, and error / sqrt(N), with their limits."""
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (name, result), color, marker in zip(results.items(), COLORS, MARKERS, strict=False):
            rows, large = result["rows"], result["large"]
            n, m = (np.array([r["size"] for r in each]) for each in (rows, large))
            look = {"color": color, "marker": marker, "lw": 1, "ms": 4}
            left.plot(n, np.sqrt(n) * [r["entanglement"] for r in rows], label=name, **look)
            left.errorbar(
                m,
                np.sqrt(m) * [r["entanglement"] for r in large],
                np.sqrt(m) * [r["half_width"] for r in large],
                color=color, lw=1, ls="none", capsize=2,
            )  # fmt: skip
            right.plot(n, [r["mu_error"] for r in rows] / np.sqrt(n), label=name, **look)
            for axes, key in ((left, "entanglement_limit"), (right, "mu_error_limit")):
                if result["limits"]["converged"]:
                    axes.axhline(result["limits"][key], color=color, lw=0.8, ls=":")
        plotting.set_logarithmic(left, "number of agents $N$", r"$\sqrt{N}\,E_1$", legend="best")
        label = r"mean error $/\ \sqrt{N}$"
        plotting.set_logarithmic(right, "number of agents $N$", label, legend="best")
        return command.save_figure(figure, out / "soft_law")


def claims(results: dict[str, dict]) -> list[command.Claim]:
    """Slopes near the law where m* is stable, and the bound by the distance."""
    stable = {name: r for name, r in results.items() if r["limits"]["converged"]}
    found = {name: slopes(r) for name, r in stable.items()}
    told, holds = [], True
    for key, exponent in (("E_1", -0.5), ("error", 0.5)):
        worst = max((abs(s[key][0] - exponent) for s in found.values()), default=0.0)
        told.append(f"{key} within {worst:.3f}")
        holds &= worst < 0.12
    # Beside its interval an estimate may be off by what a finite N still misses of the limit.
    reached, inside = [], True
    for one in stable.values():
        last, limit = one["large"][-1], one["limits"]["entanglement_limit"]
        root = np.sqrt(last["size"])
        apart = abs(root * last["entanglement"] - limit)
        reached.append(apart / limit)
        inside &= bool(apart <= root * last["half_width"] + 0.02 * limit)
    rows = [row for r in results.values() for row in r["rows"]]
    over = [r["half_distance"] / r["entanglement"] for r in stable_rows(stable)]
    below = all(
        not r["half_distance"] < r["entanglement"] * (1 - 1e-9) for r in rows
    )  # NaN where there is no m*
    return [
        command.Claim("slopes -1/2 and 1/2 where m* is stable", ", ".join(told), holds),
        command.Claim(
            "estimates at the largest N near the limit, 2% beside their interval",
            f"within {100 * max(reached, default=0):.2g}%",
            inside,
        ),
        command.Claim(
            "E_1 below half the distance from m*",
            f"{min(over, default=np.inf):.3g} to {max(over, default=np.inf):.3g} times",
            below,
        ),
    ]


def stable_rows(stable: dict[str, dict]) -> list[dict]:
    """The exact rows of the stable cases."""
    return [row for r in stable.values() for row in r["rows"]]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    unknown = [name for name in config.case if name not in NAMES]
    if unknown:
        raise ValueError(f"case: {unknown[0]!r} is not one of {', '.join(NAMES)}")
    if len(config.case) > len(COLORS):
        raise ValueError(f"case: at most {len(COLORS)}")
    for field in ("sizes", "large"):
        if len(getattr(config, field)) < 2 or any(n % 10 or n < 1 for n in getattr(config, field)):
            raise ValueError(f"{field}: at least two, multiples of 10")
    command.at_least(config, steps=10, runs=2)


def work(job: command.Job) -> command.Report:
    """Every case that is not stored, and the figure."""
    done = job.stored.get("cases", {})
    for name in job.config.case:
        if name not in done:
            done[name] = command.plain(case(name, job.seed, job.config))
            job.save({"cases": done}, f"{len(done)} cases are")
    results = {name: done[name] for name in job.config.case}
    table = []
    for name, result in results.items():
        told = [f"{s:.3f} +- {half:.3f}" for s, half in slopes(result).values()]
        table.append((name, f"{result['limits']['spectral_radius'] or np.nan:.3f}", *told))
    heading = ("case", "radius", "E_1", "error", "E_1 at large N")
    return command.Report(
        {"cases": done}, claims(results), figures(results, job.out), heading, table
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 unless a claim fails."""
    return command.run(
        "soft_law", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("case",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
