"""Figures 1, 2 and 3 of the paper: the circulant restless bandit of Appendix K, N up to 1800.

For every N: independent runs of length 6 N, of which the last 5 N are used to estimate the measure
of entanglement (Eq. 15) and to learn local Q-values (Meta Algorithm 1, LSTD), and the mu-weighted
error of their sum against Monte Carlo values. Then Figure 3, how both settle with the length of the
data, and a table of the paper's claims. Beside each curve stands its limit from the mean field.

How one N is measured is in `measure`. Figures 1 and 2 learn local values from expected moves (the
kernel is known); Figure 3, which is about how much data that takes, from the sampled moves alone.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command
from experiments.command import Claim
from experiments.measure import (
    Protocol,
    SizeResult,
    control_values,
    learn,
    mean_and_error,
    measure_size,
    pair_counts,
)
from jaxent import plotting
from jaxent.numerics.compiled import jit

Array = jax.Array


class Config(NamedTuple):
    """The protocol of Appendix K.

    Attributes:
        sizes: numbers of agents N, multiples of 30.
        runs: independent runs for each N.
        test_states: states, from the runs, whose true value is estimated.
        value_runs: Monte Carlo runs for each of them.
        value_steps: horizon of these runs.
        data_size: N of Figure 3, a multiple of 30.
    """

    sizes: tuple[int, ...] = tuple(range(60, 1801, 30))
    runs: int = 10
    test_states: int = 50
    value_runs: int = 32
    value_steps: int = 30
    data_size: int = 900


QUICK = Config(sizes=(60, 90, 120, 240, 420, 600))

HELP = {
    "sizes": "numbers of agents, multiples of 30",
    "runs": "independent runs for each N",
    "test_states": "states whose true value is estimated, for each N",
    "value_runs": "Monte Carlo runs for each test state",
    "value_steps": "horizon of the Monte Carlo runs",
    "data_size": "number of agents in Figure 3, a multiple of 30",
}

BURN_IN, LENGTH = 1, 6  # in units of N: T = 6 N epochs, the last 5 N used
DATA_LENGTH = 11  # Figure 3: burn-in, then 10 N
DATA_POINTS = 24
SIZES_AT_ONCE = 6  # how many N one compiled call handles
PRIORITY = jaxent.CIRCULANT_PRIORITY


class DataResult(NamedTuple):
    """Figure 3: estimates from the first T epochs, mean and standard error over runs.

    Attributes:
        size: N.
        epochs: T after burn-in, `[C]`.
        entanglement: E_1 from T epochs, `[C]`.
        mu_error: with local Q-values learned from T epochs of one run, `[C]`.
    """

    size: Any
    epochs: Any
    entanglement: Any
    entanglement_se: Any
    mu_error: Any
    mu_error_se: Any


def _bandit(size: Array) -> jaxent.RestlessBandit:
    return jaxent.circulant_bandit(5)._replace(num_agents=size, budget=size // 5)


def _start(size: Array) -> Array:
    return jnp.stack([size // 6, size // 3, size // 2, jnp.zeros((), size.dtype)])


@jit(static_argnames=("config", "max_agents"))
def measure(key: Array, size: Array, control: Any, config: Config, max_agents: int) -> SizeResult:
    """Everything of Figures 1 and 2 for one N; N is traced, so one compilation serves all."""
    return measure_size(
        key,
        _bandit(size),
        PRIORITY,
        _start(size),
        (BURN_IN * size, LENGTH * size),
        control,
        Protocol(config.runs, config.test_states, config.value_runs, config.value_steps),
        num_steps=LENGTH * max_agents,
        max_agents=max_agents,
    )


@jit(static_argnames="config")
def measure_sizes(keys: Array, sizes: Array, control: Any, config: Config) -> SizeResult:
    """Several N at once, `[B]`."""
    largest = max(config.sizes)
    return jax.vmap(lambda key, size: measure(key, size, control, config, largest))(keys, sizes)


@jit(static_argnames="config")
def measure_data(key: Array, control: Any, config: Config) -> DataResult:
    """Figure 3: both errors as functions of the length of the data."""
    size = config.data_size
    weights, constant = control
    bandit = _bandit(jnp.asarray(size))
    epoch = jnp.arange(DATA_LENGTH * size) - BURN_IN * size
    epochs = jnp.asarray(np.unique(np.geomspace(size // 30, 10 * size, DATA_POINTS).astype(int)))

    def run(key: Array) -> tuple[Array, Array]:
        start = _start(jnp.asarray(size))
        trajectory = jaxent.simulate_counts(
            key, bandit, PRIORITY, num_steps=len(epoch), counts=start, max_agents=size
        )
        late = trajectory.counts[BURN_IN * size : -1]
        pairs = pair_counts(late, bandit, PRIORITY)
        affine = late @ weights + size * constant

        def until(length: Array) -> tuple[Array, Array]:
            used = (epoch >= 0) & (epoch < length)
            entanglement, q = learn(trajectory, used, bandit, kernel=None)
            return entanglement.value, jnp.abs(affine - pairs @ q).mean()

        return jax.lax.map(until, epochs)

    entanglement, error = jax.vmap(run)(jax.random.split(key, config.runs))
    return DataResult(size, epochs, *mean_and_error(entanglement), *mean_and_error(error))


def _control() -> tuple[Array, Array]:
    return control_values(jaxent.circulant_bandit(30), PRIORITY)


def run_sizes(key: Array, sizes: list[int], config: Config) -> list[SizeResult]:
    """Measure several N in one compiled call; the result for an N depends on the key and N
    alone."""
    padded = sizes + [sizes[-1]] * (SIZES_AT_ONCE - len(sizes))
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(padded))
    results = jax.device_get(measure_sizes(keys, jnp.asarray(padded), _control(), config))
    return [jax.tree.map(lambda x, i=i: x[i], results) for i in range(len(sizes))]


def slope(sizes: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Exponent of a power law by weighted least squares on logarithms, and half its 95% interval.

    The interval is widened by the misfit where that exceeds the error bars.
    """
    from scipy.special import stdtrit

    x, y, sd = np.log(sizes), np.log(values), errors / values
    design = np.stack([x, np.ones_like(x)], axis=1) / sd[:, None]
    coefficients = np.linalg.lstsq(design, y / sd, rcond=None)[0]
    freedom = max(len(x) - 2, 1)
    misfit = float(np.sum((design @ coefficients - y / sd) ** 2)) / freedom
    covariance = np.linalg.inv(design.T @ design) * max(1.0, misfit)
    return float(coefficients[0]), float(stdtrit(freedom, 0.975) * np.sqrt(covariance[0, 0]))


def check_claims(sizes: list[dict], data: dict) -> list[Claim]:
    """The paper's claims, and this package's own, against the measurements."""
    column = {k: np.array([r[k] for r in sizes]) for k in sizes[0]}
    n = column["size"]
    field = jaxent.mean_field(jaxent.circulant_bandit(30), PRIORITY)
    claims = []
    for name, values, errors, exponent, margin in (
        ("N E_1", n * column["entanglement"], n * column["entanglement_se"], 0.5, 0.03),
        ("mu-error", column["mu_error"], column["mu_error_se"], 0.5, 0.05),
        ("relative error", column["relative_error"], column["relative_error_se"], -0.5, 0.05),
    ):
        power, half = slope(n, values, errors)
        claims.append(
            Claim(
                f"{name} ~ N^{exponent} (+-{margin})",
                f"N^({power:.3f} +- {half:.3f})",
                abs(power - exponent) <= margin,
            )
        )
    worst = column["relative_error"].max()
    claims.append(Claim("relative error below 3% at every N", f"at most {worst:.2%}", worst < 0.03))
    scaled = np.sqrt(n[-1]) * column["entanglement"][-1]
    scaled_se = np.sqrt(n[-1]) * column["entanglement_se"][-1]
    limit = float(field.entanglement_limit)
    claims.append(
        Claim(
            f"sqrt(N) E_1 at N = {n[-1]} is {limit:.4f}, its limit (3 s.e.)",
            f"{scaled:.4f} +- {scaled_se:.4f}",
            abs(scaled - limit) <= 3 * scaled_se,
        )
    )
    ratio = (column["mu_error"] / column["noise"]).min()
    claims.append(
        Claim("noise of a true value 20 times below the error", f"{ratio:.0f} times", ratio >= 20)
    )
    epochs = np.array(data["epochs"]) / data["size"]
    for label, key, share in (("E_1", "entanglement", 1), ("mu-error", "mu_error", 3)):
        values = np.array(data[key])
        off = np.abs(values[epochs >= share] / values[-1] - 1).max()
        claims.append(
            Claim(f"Figure 3: {label} within 10% from T = {share} N on", f"{off:.1%}", off < 0.1)
        )
    return claims


def figures(sizes: list[dict], data: dict, out: Path) -> list[Path]:
    """Figures 1 to 3 as PNG and PDF."""
    column = {k: np.array([r[k] for r in sizes]) for k in sizes[0]}
    n = column["size"]
    field = jaxent.mean_field(jaxent.circulant_bandit(30), PRIORITY)
    root = np.sqrt(n)
    panels = {
        "entanglement": (
            n * column["entanglement"],
            n * column["entanglement_se"],
            root * float(field.entanglement_limit),
            r"$N\,E_1$",
        ),
        "mu_error": (
            column["mu_error"],
            column["mu_error_se"],
            root * float(field.mu_error_limit),
            r"$\mu$-weighted error",
        ),
        "relative_error": (
            100 * column["relative_error"],
            100 * column["relative_error_se"],
            100 / root * float(field.relative_error_limit),
            "relative error (%)",
        ),
    }
    paths = []
    with plotting.style():
        for number, left, right in (
            (1, "entanglement", "mu_error"),
            (2, "mu_error", "relative_error"),
        ):
            figure = Figure(figsize=(7.0, 2.9), layout="constrained")
            for axis, name in zip(figure.subplots(1, 2), (left, right), strict=True):
                values, errors, limit, label = panels[name]
                plotting.draw_points(axis, n, values, errors, "simulated")
                plotting.draw_limit(axis, n, limit, r"mean-field limit $N \to \infty$")
                if name == "mu_error":
                    ratio = (column["mu_error"] / column["noise"]).min()
                    plain = "noise of plain Monte Carlo, $3N$ runs\n"
                    plain += f"(noise here: below error / {ratio:.0f})"
                    plotting.draw_floor(axis, n, column["plain_noise"], plain)
                corner = "upper right" if name == "relative_error" else "upper left"
                plotting.set_logarithmic(axis, "number of agents $N$", label, legend=corner)
            paths += command.save_figure(figure, out / f"figure{number}")
        paths += command.save_figure(_figure3(data, field), out / "figure3")
    return paths


def _figure3(data: dict, field: jaxent.MeanField) -> Figure:
    size = data["size"]
    epochs = np.array(data["epochs"]) / size
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    for axis, key, label, limit in (
        (
            figure.subplots(1, 2)[0],
            "entanglement",
            rf"$E_1$ at $N = {size}$",
            float(field.entanglement_limit) / np.sqrt(size),
        ),
        (
            figure.axes[1],
            "mu_error",
            rf"$\mu$-weighted error at $N = {size}$",
            float(field.mu_error_limit) * np.sqrt(size),
        ),
    ):
        values, errors = np.array(data[key]), np.array(data[f"{key}_se"])
        plotting.draw_points(axis, epochs, values, errors, "from $T$ epochs")
        axis.axhline(values[-1], color=plotting.RED, ls="--", lw=1, label="true ($T = 10\\,N$)")
        axis.axhline(limit, color=plotting.GRAY, ls=":", lw=1.2, label="mean-field limit")
        axis.set(xscale="log", xlabel="epochs of data, $T / N$", ylabel=label, ylim=(0, None))
        axis.legend()
    return figure


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config can be run."""
    for field, sizes in (("sizes", config.sizes), ("data-size", (config.data_size,))):
        for n in sizes:
            if n < 30 or n % 30:
                told = "agents: the budget N/5 and the start N/6, N/3, N/2 need 30, 60, ..."
                raise ValueError(f"{field}: {n} {told}")
    command.at_least(config, runs=2, value_runs=2, test_states=2, value_steps=1)
    if len(config.sizes) < 2:
        raise ValueError("sizes: at least two, for a slope")


def work(job: command.Job) -> command.Report:
    """Measure the sizes that are not stored, then Figure 3; draw all three."""
    config = job.config
    done = {row["size"]: row for row in job.stored.get("sizes", [])}
    kept = {name: job.stored[name] for name in ("data",) if name in job.stored}
    key_sizes, key_data = jax.random.split(jax.random.key(job.seed))
    missing = [n for n in config.sizes if n not in done]
    pieces = [missing[i : i + SIZES_AT_ONCE] for i in range(0, len(missing), SIZES_AT_ONCE)]
    for piece in command.progress(pieces, "size"):
        done |= {int(row.size): command.plain(row) for row in run_sizes(key_sizes, piece, config)}
        rows = [done[n] for n in config.sizes if n in done]
        job.save(kept | {"sizes": rows}, f"{len(rows)} of {len(config.sizes)} sizes are")
    rows = [done[n] for n in config.sizes]
    data = kept.get("data") or command.plain(measure_data(key_data, _control(), config))
    found = {"sizes": rows, "data": data}
    job.save(found, "every number is")
    return command.Report(found, check_claims(rows, data), figures(rows, data, job.out))


def main(argv: list[str] | None = None) -> int:
    """Run the protocol, draw the figures, print the table; 0 if every claim holds."""
    return command.run(
        "circulant", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("sizes",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
