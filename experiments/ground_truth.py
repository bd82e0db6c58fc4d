"""Exact, simulated and limit values of restless bandits on one curve, from N = 2 to infinity.

The paper can only simulate. By exchangeability E_1 (Eq. 15), the mu-weighted error of the value
decomposition and its relative error are known exactly up to N = 60, and the mean field gives the
constants they tend to. Each panel is scaled by sqrt(N), so that the limit is a level. The table
says where the three agree.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

import jaxent
from experiments import command, drawing
from experiments.measure import Protocol, SizeResult, control_values, measure_size

Array = jax.Array

ABOUT = __doc__.split("\n\n")[0] if __doc__ else ""


class Config(NamedTuple):
    """What is computed.

    Attributes:
        bandit: names, of `jaxent.BANDITS`.
        exact: N of the exact values; those at which a bandit's budget is no integer are left out.
        simulated: N of the simulated values, likewise.
        runs: independent runs for each simulated N.
        epochs: of each run, after a burn-in of 600.
        test_states: states, from the runs, whose true value is estimated.
        value_runs: Monte Carlo runs for each of them.
        value_steps: horizon of these runs.
    """

    bandit: tuple[str, ...] = ("circulant", "machines", "healthcare", "dirichlet")
    exact: tuple[int, ...] = (2, 4, 5, 6, 10, 15, 20, 30, 40, 50, 60)
    simulated: tuple[int, ...] = (30, 60, 120, 300, 600, 1200, 1800)
    runs: int = 10
    epochs: int = 6000
    test_states: int = 200
    value_runs: int = 64
    value_steps: int = 150


QUICK = Config(
    bandit=("circulant", "healthcare"),
    exact=(5, 10, 20, 30),
    simulated=(30, 60, 120),
    epochs=1500,
    test_states=50,
    value_runs=16,
    value_steps=100,
)

HELP = {
    "bandit": f"which bandits, of {', '.join(sorted(jaxent.BANDITS))}",
    "exact": "numbers of agents of the exact values",
    "simulated": "numbers of agents of the simulated values",
    "runs": "independent runs for each simulated N",
    "epochs": "length of each run",
    "test_states": "states whose true value is estimated, for each simulated N",
    "value_runs": "Monte Carlo runs for each test state",
    "value_steps": "horizon of the Monte Carlo runs",
}

BURN_IN = 600
# Name, power of N that makes it a level, label.
QUANTITIES = (
    ("entanglement", 0.5, r"$\sqrt{N}\,E_1$"),
    ("mu_error", -0.5, r"$\mu$-error$\,/\sqrt{N}$"),
    ("relative_error", 0.5, r"$\sqrt{N}\,\times$ relative error"),
)


class ExactResult(NamedTuple):
    """Exact values for one N; `limit` has those of the mean field.

    Attributes:
        size: N.
        entanglement: E_1, Eq. 15.
        mu_error: mu-weighted error of the value decomposition.
        relative_error: mu_error over the mu-weighted norm of the value.
        deviation_bound: S^2 E||m - m*||_inf, the bound of Lemma 8.
    """

    size: Any
    entanglement: Any
    mu_error: Any
    relative_error: Any
    deviation_bound: Any


class Claim(NamedTuple):
    """What should agree beside what came out."""

    claim: str
    measured: str
    holds: bool


def fitting(name: str, sizes: tuple[int, ...]) -> list[int]:
    """The N at which this bandit's budget is an integer."""
    share = jaxent.named_bandit(name, 60).bandit.budget / 60
    return [n for n in sizes if float(round(share * n, 9)).is_integer()]


def measure_exactly(name: str, size: int) -> ExactResult:
    """Exact values of this bandit with N agents."""
    bandit, priority = jaxent.named_bandit(name, size)
    exact = jaxent.ground_truth(bandit, priority)
    field = jaxent.mean_field(bandit, priority)
    counts = jnp.asarray(jaxent.configurations(size, bandit.num_states))
    bound = jaxent.deviation_bound(counts, exact.law, bandit, priority, field).bound
    numbers = exact.entanglement, exact.mu_error, exact.relative_error
    return ExactResult(size, *numbers, bound)


@partial(jax.jit, static_argnames=("config", "name", "max_agents"))
def _simulate(key: Array, size: Array, config: Config, name: str, max_agents: int) -> SizeResult:
    at_60, priority = jaxent.named_bandit(name, 60)
    bandit = at_60._replace(num_agents=size, budget=size * at_60.budget // 60)
    return measure_size(
        key,
        bandit,
        priority,
        None,
        (jnp.array(BURN_IN), jnp.array(BURN_IN + config.epochs)),
        control_values(at_60, priority),
        Protocol(config.runs, config.test_states, config.value_runs, config.value_steps),
        num_steps=BURN_IN + config.epochs,
        max_agents=max_agents,
    )


def simulate(key: Array, name: str, config: Config) -> list[SizeResult]:
    """Simulated values of one bandit; the result for an N depends on the key, name and N alone."""
    key = jax.random.fold_in(key, sorted(jaxent.BANDITS).index(name))
    sizes = fitting(name, config.simulated)
    top = max(config.simulated)
    return [
        jax.device_get(_simulate(jax.random.fold_in(key, n), jnp.array(n), config, name, top))
        for n in sizes
    ]


def limits(name: str) -> dict[str, float]:
    """What each quantity tends to, scaled by its power of N."""
    field = jaxent.mean_field(*jaxent.named_bandit(name, 60))
    return {name: float(getattr(field, f"{name}_limit")) for name, _, _ in QUANTITIES}


def check_claims(name: str, exact: list[dict], simulated: list[dict]) -> list[Claim]:
    """Where exact, simulated and limit values of one bandit agree."""
    known = {r["size"]: r for r in exact}
    limit = limits(name)
    claims = []
    for row in simulated:
        n = row["size"]
        if n not in known:
            continue
        off = {
            q: (row[q] - known[n][q]) / row[f"{q}_se"]
            for q in ("entanglement", "mu_error", "relative_error")
        }
        measured = ", ".join(f"{z:+.1f}" for z in off.values())
        claims.append(
            Claim(
                f"{name}: E_1, mu-error, relative error simulated at N = {n} (3 s.e.)",
                f"off by {measured} s.e.",
                max(map(abs, off.values())) <= 3,
            )
        )
    last = exact[-1]
    for quantity, power, _ in QUANTITIES:
        off = last[quantity] * last["size"] ** power / limit[quantity] - 1
        close = 0.02 if last["size"] >= 60 else 0.1
        claims.append(
            Claim(
                f"{name}: limit of {quantity} at N = {last['size']} ({close:.0%})",
                f"off by {off:+.2%}",
                abs(off) <= close,
            )
        )
    largest = simulated[-1]
    n = largest["size"]
    off = {q: (largest[q] - limit[q] / n**power) / largest[f"{q}_se"] for q, power, _ in QUANTITIES}
    measured = ", ".join(f"{z:+.1f}" for z in off.values())
    claims.append(
        Claim(
            f"{name}: limits at N = {n}, simulated (3 s.e. and 1%)",
            f"off by {measured} s.e.",
            all(
                abs(z) <= 3 + 0.01 * limit[q] / n**power / largest[f"{q}_se"]
                for (q, power, _), z in zip(QUANTITIES, off.values(), strict=True)
            ),
        )
    )
    below = min(r["deviation_bound"] / r["entanglement"] for r in exact if r["entanglement"] > 0)
    claims.append(
        Claim(f"{name}: E_1 below the bound of Lemma 8", f"{below:.1f} times", below >= 1)
    )
    return claims


def figures(results: dict[str, dict], out: Path) -> list[Path]:
    """One row a bandit, one column a quantity, as PNG and PDF."""
    with drawing.style():
        figure = Figure(figsize=(7.2, 0.5 + 1.85 * len(results)), layout="constrained")
        axes = figure.subplots(len(results), len(QUANTITIES), sharex=True, squeeze=False)
        for row, (name, result) in zip(axes, results.items(), strict=True):
            limit = limits(name)
            for axis, (quantity, power, _) in zip(row, QUANTITIES, strict=True):
                _panel(axis, result, quantity, power, limit[quantity])
            row[0].set_ylabel(name)
        for top, bottom, (_, _, label) in zip(axes[0], axes[-1], QUANTITIES, strict=True):
            top.set_title(label, fontsize=9)
            bottom.set_xlabel("number of agents $N$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        return command.save_figure(figure, out / "ground_truth")


def _panel(axis: Any, result: dict, quantity: str, power: float, limit: float) -> None:
    exact = {k: np.array([r[k] for r in result["exact"]]) for k in ("size", quantity)}
    scaled = exact[quantity] * exact["size"] ** power
    axis.plot(exact["size"], scaled, "-s", color=drawing.GREEN, ms=3.5, lw=1, label="exact")
    simulated = {k: np.array([r[k] for r in result["simulated"]]) for k in result["simulated"][0]}
    n = simulated["size"]
    scale = n**power
    errors = simulated[f"{quantity}_se"] * scale
    drawing.points(axis, n, simulated[quantity] * scale, errors, "simulated")
    axis.axhline(limit, color=drawing.RED, lw=1, ls="--", label=r"limit $N \to \infty$")
    everything = np.concatenate([scaled, simulated[quantity] * scale, [limit]])
    axis.set(xscale="log", ylim=(0, 1.25 * everything.max()))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))


def check_config(config: Config) -> None:
    """End with one line if the config cannot be run."""
    for name in config.bandit:
        if name not in jaxent.BANDITS:
            command.fail(f"--bandit: {name!r} is not one of {', '.join(sorted(jaxent.BANDITS))}")
        for field in ("exact", "simulated"):
            if not fitting(name, tuple(n for n in getattr(config, field) if n > 0)):
                command.fail(f"--{field}: no N makes the budget of {name} an integer")
        if np.isnan(list(limits(name).values())).any():
            command.fail(f"--bandit: {name} has no limit; `theorem7` shows it")
    for field in ("runs", "test_states", "value_runs"):
        if getattr(config, field) < 2:
            command.fail(f"--{field.replace('_', '-')}: at least 2, for a standard error")
    for field in ("epochs", "value_steps"):
        if getattr(config, field) < 1:
            command.fail(f"--{field.replace('_', '-')}: at least 1")


def main(argv: list[str] | None = None) -> int:
    """Compute, draw, print the table; 0 if everything agrees, else 1."""
    options = command.parse("ground_truth", ABOUT, Config(), QUICK, HELP, argv)
    config = options.config._replace(
        exact=tuple(sorted(set(options.config.exact))),
        simulated=tuple(sorted(set(options.config.simulated))),
    )
    check_config(config)
    path = options.out / "results.json"
    done: dict[str, dict] = {}
    if options.resume:
        stored = command.load_results(path, config, options.seed, besides=("bandit", "exact"))
        done = stored["bandits"]
    command.open_folder(options.out)
    jax.config.update("jax_enable_x64", True)
    key = jax.random.key(options.seed)

    def results() -> dict[str, Any]:
        return command.header(config, options.seed) | {"bandits": done}

    try:
        for name in config.bandit:
            found = done.setdefault(name, {"exact": [], "simulated": []})
            kept = {r["size"]: r for r in found["exact"]}
            missing = [[n] for n in fitting(name, config.exact) if n not in kept]
            for (n,) in command.progress(missing, "size"):
                kept[n] = command.plain(measure_exactly(name, n))
                found["exact"] = [kept[n] for n in sorted(kept)]
                command.save_json(path, results())
            if not found["simulated"]:
                found["simulated"] = [command.plain(r) for r in simulate(key, name, config)]
                command.save_json(path, results())
    except KeyboardInterrupt:
        command.save_json(path, results())
        kept = f"{len(done)} of {len(config.bandit)} bandits are begun in {path}"
        print(f"\nstopped; {kept}; go on with --resume", file=sys.stderr)
        return 130

    rows = {name: done[name] for name in config.bandit}
    claims = [c for name, r in rows.items() for c in check_claims(name, r["exact"], r["simulated"])]
    command.save_json(path, results() | {"claims": claims})
    paths = figures(rows, options.out)
    command.print_table(
        [(c.claim, c.measured, "holds" if c.holds else "DOES NOT HOLD") for c in claims],
        ("claim", "measured", "verdict"),
    )
    print("\n" + "\n".join(str(p) for p in [path, *paths]))
    return 0 if all(c.holds for c in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
