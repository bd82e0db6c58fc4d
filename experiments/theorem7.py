"""Theorem 7 where its conditions hold and where they fail: the decomposition error there.

For each bandit the verdict on the uniform global attractor with its evidence, non-degeneracy and
local stability, and along N the exact E_1, the bound of Lemma 8 where it applies, and the relative
error. Where the mean field swings between two points for ever, the bound stays where it is and E_1
falls to a positive number: the theorem does not merely lose its proof there.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command
from jaxent import plotting


class Config(NamedTuple):
    """What is computed.

    Attributes:
        bandit: names, of `jaxent.BANDITS`.
        sizes: numbers of agents.
    """

    bandit: tuple[str, ...] = ("healthcare", "degenerate", "cyclic")
    sizes: tuple[int, ...] = (5, 10, 20, 40, 80, 120, 160)


QUICK = Config(sizes=(5, 10, 20))

HELP = {
    "bandit": f"which bandits, of {', '.join(sorted(jaxent.BANDITS))}",
    "sizes": "numbers of agents at which every budget is an integer, such as multiples of 10",
}

COLORS = (plotting.GREEN, plotting.BLUE, plotting.RED, plotting.GRAY)
MARKERS = "so^D"


class Row(NamedTuple):
    """One bandit at one N.

    Attributes:
        size: N.
        entanglement: E_1, Eq. 15, exact.
        deviation_bound: S^2 E||m - m*||_inf (Lemma 8), m* the one fixed point.
        relative_error: of the value decomposition, exact.
    """

    size: int
    entanglement: Any
    deviation_bound: Any
    relative_error: Any


def measure(name: str, size: int) -> Row:
    """Exact values, and the bound of Lemma 8 under the exact law."""
    bandit, priority = jaxent.named_bandit(name, size)
    exact = jaxent.ground_truth(bandit, priority)
    counts = jnp.asarray(jaxent.configurations(size, bandit.num_states))
    field = jaxent.mean_field(bandit, priority)
    bound = jaxent.deviation_bound(counts, exact.law, bandit, priority, field).bound
    return Row(size, exact.entanglement, bound, exact.relative_error)


def conditions(name: str) -> dict[str, Any]:
    """The conditions of Theorem 7, each with its evidence."""
    bandit, priority = jaxent.named_bandit(name, 10)
    attractor = jaxent.check_attractor(bandit, priority)
    field = jaxent.mean_field(bandit, priority)
    return {
        "attractor": attractor.verdict.name.lower(),
        "contraction": attractor.contraction if np.isfinite(attractor.contraction) else None,
        "orbit": attractor.orbit,
        "spectral_radius": attractor.spectral_radius,
        "nondegenerate": bool(field.nondegenerate),
        "lipschitz_constant": float(jaxent.lipschitz_constant(bandit, priority)),
    }


def exponent(rows: list[dict], quantity: str) -> float:
    """Power of N between the two largest N."""
    first, last = rows[-2:]
    return float(np.log(last[quantity] / first[quantity]) / np.log(last["size"] / first["size"]))


def figures(results: dict[str, dict], out: Path) -> list[Path]:
    """E_1 with its bound, and the relative error, along N."""
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (name, result), color, marker in zip(results.items(), COLORS, MARKERS, strict=False):
            rows = result["rows"]
            n = np.array([r["size"] for r in rows])
            look = {"color": color, "marker": marker, "lw": 1}
            told = f"{name}: attractor {result['attractor']}"
            if not result["nondegenerate"]:
                told += ", degenerate"
            left.plot(n, [r["entanglement"] for r in rows], label=told, **look)
            bound = [r["deviation_bound"] for r in rows]
            left.plot(n, bound, color=color, lw=1, ls=":")
            right.plot(n, [100 * r["relative_error"] for r in rows], label=name, **look)
        left.plot([], [], color="black", lw=1, ls=":", label="bound of Lemma 8")
        plotting.set_logarithmic(left, "number of agents $N$", r"$E_1$", legend="best")
        plotting.set_logarithmic(right, "number of agents $N$", "relative error (%)", legend="best")
        low, high = left.get_ylim()
        left.set_ylim(low, 30 * high)  # room for the legend
        left.legend(loc="upper left")
        return command.save_figure(figure, out / "theorem7")


def claims(results: dict[str, dict]) -> list[command.Claim]:
    """What should hold, what came out, and whether it holds."""
    rows = [row for r in results.values() for row in r["rows"]]
    over = [r["deviation_bound"] / r["entanglement"] for r in rows if r["entanglement"] > 0]
    below = all(row["entanglement"] <= row["deviation_bound"] for row in rows)
    times = f"at least {min(over, default=np.inf):.3g} times"
    return [command.Claim("E_1 below the bound of Lemma 8", times, below)]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if len(config.sizes) < 2:
        raise ValueError("sizes: at least two, for a slope")
    if len(config.bandit) > len(COLORS):
        raise ValueError(f"bandit: at most {len(COLORS)}")
    command.check_bandits(config.bandit, *config.sizes)


def work(job: command.Job) -> command.Report:
    """Every bandit that is not stored, and the figure."""
    config = job.config
    done = job.stored.get("bandits", {})
    for name in config.bandit:
        if name not in done:
            rows = [measure(name, n) for n in config.sizes]
            done[name] = command.plain(conditions(name) | {"rows": rows})
            job.save({"bandits": done}, f"{len(done)} bandits are")
    results = {name: done[name] for name in config.bandit}
    table = [
        (
            name,
            r["attractor"],
            f"{len(r['orbit'])} points" if r["orbit"] else f"contracts, {r['contraction']:.3g}",
            "yes" if r["nondegenerate"] else "no",
            f"{r['spectral_radius']:.3f}",
            f"N^{exponent(r['rows'], 'entanglement'):.2f}",
            f"N^{exponent(r['rows'], 'relative_error'):.2f}",
        )
        for name, r in results.items()
    ]
    return command.Report(
        {"bandits": done},
        claims(results),
        figures(results, job.out),
        ("bandit", "attractor", "evidence", "non-degenerate", "radius", "E_1", "relative error"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 unless E_1 exceeds its bound."""
    return command.run(
        "theorem7", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("bandit",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
