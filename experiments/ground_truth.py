"""Exact, simulated and limit values of restless bandits on one curve, from N = 2 to infinity.

The paper can only simulate. By exchangeability E_1 (Eq. 15, and closer Eq. 7 and Def. 8), the
mu-weighted error of the value decomposition and its relative error are known exactly up to N = 60,
and the mean field gives the constants they tend to. Each panel is scaled by sqrt(N), so that the
limit is a level. The tables say where the three agree.

The limits are Gaussian ones, on the piece of the mean field that holds m*. They cannot be good
before the law of the configurations keeps to that piece: sqrt(N) `clearance` says how many standard
deviations lie between m* and its border. So a limit is held against exact values only where these
are at least two, otherwise against the first simulated N where they are three.
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
from experiments import command
from experiments.command import Claim
from experiments.measure import Protocol, SizeResult, control_values, measure_size
from jaxent import plotting

Array = jax.Array


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
    exact=(10, 30),
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
# Power of N that makes each quantity a level.
POWERS = {
    "entanglement": 0.5,
    "mu_atv_upper": 0.5,
    "mu_atv": 0.5,
    "mu_error": -0.5,
    "relative_error": 0.5,
}
SIMULATED = ("entanglement", "mu_error", "relative_error")
# What stands in each panel beside its title: quantity, marker, label.
PANELS = (
    (
        r"$\sqrt{N}\,E_1$",
        (
            ("entanglement", "s", "exact (left: Eq. 15)"),
            ("mu_atv_upper", "^", "exact, Eq. 7"),
            ("mu_atv", "x", "exact, Def. 8"),
        ),
    ),
    (r"$\mu$-error$\,/\sqrt{N}$", (("mu_error", "s", ""),)),
    (r"$\sqrt{N}\,\times$ relative error", (("relative_error", "s", ""),)),
)
TOLERANCE = 1e-6  # to which Def. 8 is minimized
CLOSE = 0.02  # of the limit
CLEAR, FREE = 2, 3  # standard deviations from m* to its border: exact values, simulated ones


class ExactResult(NamedTuple):
    """Exact values for one N; `limit` has those of the mean field.

    Attributes:
        size: N.
        entanglement: E_1, Eq. 15.
        mu_atv_upper: E_1, Eq. 7.
        mu_atv: E_1, Def. 8, what its best local transition attains.
        mu_atv_lower: what is proved that no local transition beats.
        mu_error: mu-weighted error of the value decomposition.
        relative_error: mu_error over the mu-weighted norm of the value.
        deviation_bound: S^2 E||m - m*||_inf, the bound of Lemma 8.
    """

    size: Any
    entanglement: Any
    mu_atv_upper: Any
    mu_atv: Any
    mu_atv_lower: Any
    mu_error: Any
    relative_error: Any
    deviation_bound: Any


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
    near = jaxent.tagged_entanglement(bandit, priority, exact.law, tol=TOLERANCE)
    return ExactResult(
        size=size,
        entanglement=exact.entanglement,
        mu_atv_upper=near.mu_atv_upper.value,
        mu_atv=near.mu_atv.upper,
        mu_atv_lower=near.mu_atv.lower,
        mu_error=exact.mu_error,
        relative_error=exact.relative_error,
        deviation_bound=bound,
    )


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
    return {
        "entanglement": float(field.entanglement_limit),
        "mu_atv_upper": float(field.mu_atv_limit),
        "mu_atv": float(field.mu_atv_limit),
        "mu_error": float(field.mu_error_limit),
        "relative_error": float(field.relative_error_limit),
    }


def clearance(name: str) -> float:
    """Standard deviations between m* and the border of its piece, at N = 1."""
    return float(jaxent.mean_field(*jaxent.named_bandit(name, 60)).clearance)


def check_claims(name: str, exact: list[dict], simulated: list[dict]) -> list[Claim]:
    """Where exact, simulated and limit values of one bandit agree."""
    known = {r["size"]: r for r in exact}
    claims = []
    for row in simulated:
        n = row["size"]
        if n not in known:
            continue
        off = [(row[q] - known[n][q]) / row[f"{q}_se"] for q in SIMULATED]
        claims.append(
            Claim(
                f"{name}: E_1, mu-error, relative error simulated at N = {n} (3 s.e.)",
                f"off by {_signed(off)} s.e.",
                max(map(abs, off)) <= 3,
            )
        )
    claims += _limit_claims(name, exact, simulated)
    ordered = all(
        r["mu_atv"] <= r["mu_atv_upper"] + TOLERANCE and r["mu_atv_upper"] <= r["entanglement"]
        for r in exact
    )
    gap = max(r["mu_atv"] - r["mu_atv_lower"] for r in exact)
    claims.append(
        Claim(f"{name}: Def. 8 <= Eq. 7 <= Eq. 15", f"Def. 8 known to {gap:.0e}", ordered)
    )
    below = min(r["deviation_bound"] / r["entanglement"] for r in exact if r["entanglement"] > 0)
    claims.append(
        Claim(f"{name}: E_1 below the bound of Lemma 8", f"{below:.1f} times", below >= 1)
    )
    return claims


def _limit_claims(name: str, exact: list[dict], simulated: list[dict]) -> list[Claim]:
    limit, apart = limits(name), clearance(name)
    claims = []
    last = exact[-1]
    n = last["size"]
    if np.sqrt(n) * apart >= CLEAR:
        off = [last[q] * n**power / limit[q] - 1 for q, power in POWERS.items()]
        close = CLOSE if n >= 60 else 0.1
        claims.append(
            Claim(
                f"{name}: limits of all five at N = {n}, exact ({close:.0%})",
                f"off by {_signed(off, '.1%')}",
                max(map(abs, off)) <= close,
            )
        )
    else:
        free = [r for r in simulated if np.sqrt(r["size"]) * apart >= FREE]
        for row in free[:1]:
            claims.append(_simulated_claim(name, row, limit, CLOSE))
    return [*claims, _simulated_claim(name, simulated[-1], limit, 0.01)]


def _simulated_claim(name: str, row: dict, limit: dict[str, float], close: float) -> Claim:
    n = row["size"]
    aims = {q: limit[q] / n ** POWERS[q] for q in SIMULATED}
    off = {q: row[q] - aim for q, aim in aims.items()}
    return Claim(
        f"{name}: limits at N = {n}, simulated (3 s.e. and {close:.0%})",
        f"off by {_signed([x / row[f'{q}_se'] for q, x in off.items()])} s.e., "
        f"{_signed([x / aims[q] for q, x in off.items()], '.1%')}",
        all(abs(x) <= 3 * row[f"{q}_se"] + close * aims[q] for q, x in off.items()),
    )


def _signed(values: list[float], form: str = ".1f") -> str:
    return ", ".join(f"{x:+{form}}" for x in values)


def agreement(name: str, exact: list[dict], simulated: list[dict]) -> list[dict[str, str]]:
    """How each quantity nears its limit, and from which N on it is within `CLOSE` of it.

    A simulated value counts as that close if it is so within two standard errors.
    """
    limit, apart = limits(name), clearance(name)
    shown = [r for r in exact if r["size"] in (10, 30, exact[-1]["size"])]
    table = []
    for quantity, power in POWERS.items():
        points = [(r["size"], r[quantity], 0.0) for r in exact]
        if quantity in SIMULATED:
            last = exact[-1]["size"]
            points += [
                (r["size"], r[quantity], 2 * r[f"{quantity}_se"])
                for r in simulated
                if r["size"] > last
            ]
        near = [
            abs(v * n**power - limit[quantity]) <= CLOSE * limit[quantity] + slack * n**power
            for n, v, slack in points
        ]
        first = next((k for k in range(len(near)) if all(near[k:])), None)
        found = "beyond" if first is None else f"N = {points[first][0]}"
        off = {r["size"]: r[quantity] * r["size"] ** power / limit[quantity] - 1 for r in shown}
        table.append(
            {
                "bandit": name,
                "quantity": quantity,
                "exact / limit - 1": ", ".join(f"N = {n}: {x:+.1%}" for n, x in off.items()),
                f"within {CLOSE:.0%} from": found,
                f"m* {CLEAR} s.d. inside from": f"N = {np.ceil((CLEAR / apart) ** 2):.0f}",
            }
        )
    return table


def figures(results: dict[str, dict], out: Path) -> list[Path]:
    """One row a bandit, one column a quantity, as PNG and PDF."""
    with plotting.style():
        figure = Figure(figsize=(7.2, 0.6 + 1.85 * len(results)), layout="constrained")
        axes = figure.subplots(len(results), len(PANELS), sharex=True, squeeze=False)
        for row, (name, result) in zip(axes, results.items(), strict=True):
            for axis, (_, curves) in zip(row, PANELS, strict=True):
                _panel(axis, name, result, curves)
            row[0].set_ylabel(name)
        for top, bottom, (title, _) in zip(axes[0], axes[-1], PANELS, strict=True):
            top.set_title(title, fontsize=9)
            bottom.set_xlabel("number of agents $N$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5)
        return command.save_figure(figure, out / "ground_truth")


def _panel(axis: Any, name: str, result: dict, curves: tuple[tuple[str, str, str], ...]) -> None:
    limit = limits(name)
    top = 0.0
    for quantity, marker, label in curves:
        power = POWERS[quantity]
        n = np.array([r["size"] for r in result["exact"]])
        scaled = np.array([r[quantity] for r in result["exact"]]) * n**power
        look = {"color": plotting.GREEN, "marker": marker, "ms": 3.5, "lw": 1}
        if quantity == "mu_atv":  # on top of Eq. 7 where the two are one
            look |= {"color": "black", "ls": "", "mew": 0.8}
        axis.plot(n, scaled, label=label, **look)
        top = max(top, scaled.max(), limit[quantity])
        if quantity in SIMULATED:
            n = np.array([r["size"] for r in result["simulated"]])
            scaled = np.array([r[quantity] for r in result["simulated"]]) * n**power
            errors = np.array([r[f"{quantity}_se"] for r in result["simulated"]]) * n**power
            plotting.draw_points(axis, n, scaled, errors, "simulated")
            top = max(top, scaled.max())
        told = {"label": r"limit $N \to \infty$"} if quantity == "entanglement" else {}
        if quantity != "mu_atv":  # that of Eq. 7
            axis.axhline(limit[quantity], color=plotting.RED, lw=1, ls="--", **told)
    axis.set(xscale="log", ylim=(0, 1.2 * top))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config can be run."""
    for name in config.bandit:
        if name not in jaxent.BANDITS:
            raise ValueError(f"bandit: {name!r} is not one of {', '.join(sorted(jaxent.BANDITS))}")
        for field in ("exact", "simulated"):
            if not fitting(name, tuple(n for n in getattr(config, field) if n > 0)):
                raise ValueError(f"{field}: no N makes the budget of {name} an integer")
        if np.isnan(list(limits(name).values())).any():
            raise ValueError(f"bandit: {name} has no limit; `theorem7` shows it")
    command.at_least(config, runs=2, test_states=2, value_runs=2, epochs=1, value_steps=1)


def work(job: command.Job) -> command.Report:
    """Every exact N and every bandit's simulation that is not stored, and the figure."""
    config, key = job.config, jax.random.key(job.seed)
    done = job.stored.get("bandits", {})
    for name in config.bandit:
        found = done.setdefault(name, {"exact": [], "simulated": []})
        kept = {r["size"]: r for r in found["exact"]}
        missing = [[n] for n in fitting(name, config.exact) if n not in kept]
        for (n,) in command.progress(missing, "size"):
            kept[n] = command.plain(measure_exactly(name, n))
            found["exact"] = [kept[n] for n in sorted(kept)]
            job.save({"bandits": done}, f"what is finished up to {name}, N = {n}, is")
        if not found["simulated"]:
            found["simulated"] = [command.plain(r) for r in simulate(key, name, config)]
            job.save({"bandits": done}, f"what is finished up to {name}, simulated, is")
    rows = {name: done[name] for name in config.bandit}
    claims = [c for name, r in rows.items() for c in check_claims(name, r["exact"], r["simulated"])]
    agree = [row for name, r in rows.items() for row in agreement(name, r["exact"], r["simulated"])]
    return command.Report(
        {"bandits": done, "agreement": agree},
        claims,
        figures(rows, job.out),
        tuple(agree[0]),
        [tuple(row.values()) for row in agree],
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw, print the table; 0 if everything agrees, else 1."""
    return command.run(
        "ground_truth", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("bandit", "exact"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
