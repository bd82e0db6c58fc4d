"""Figures 1, 2 and 3 of the paper: the circulant restless bandit of Appendix K, N up to 1800.

For every N: independent runs of length 6 N, of which the last 5 N are used to estimate the measure
of entanglement (Eq. 15) and to learn local Q-values (Meta Algorithm 1, LSTD), and the mu-weighted
error of their sum against Monte Carlo values. Then Figure 3, how both settle with the length of the
data, and a table of the paper's claims. Beside each curve stands its limit from the mean field.

The mu-error is measured in two levels. On every epoch of every run the value of the affine piece at
m* stands in for the true one; on the test states both are known (the true one by Monte Carlo with
that piece as control variate), and the mean difference is added. So the estimate is that of the
paper, with the noise of the 50 test states removed. Figures 1 and 2 learn local values from
expected moves (the kernel is known); Figure 3, which is about how much data that takes, from the
sampled moves alone.
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
from experiments import command, drawing
from jaxent.restless import by_action

Array = jax.Array

ABOUT = __doc__.split("\n\n")[0] if __doc__ else ""


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
SIZES_AT_ONCE = 6  # one compiled call handles so many N
PRIORITY = jaxent.CIRCULANT_PRIORITY
PAIRS = 8


class SizeResult(NamedTuple):
    """What is measured for one N; `_se` is the standard error.

    Attributes:
        size: N.
        entanglement: E_1, Eq. 15, mean over runs.
        held_out: E_1 with the local policy fitted on the other half of the epochs.
        mu_error: mu-weighted error of the value decomposition.
        relative_error: mu_error over the mu-weighted norm of the value.
        local_q: mean over runs, `[8]`.
        noise: of one test state's true value (root mean square standard error).
        plain_noise: what it would be with plain Monte Carlo and the paper's 3 N runs.
        truncation: what the horizon leaves out of a value, at most.
    """

    size: Any
    entanglement: Any
    entanglement_se: Any
    held_out: Any
    held_out_se: Any
    mu_error: Any
    mu_error_se: Any
    relative_error: Any
    relative_error_se: Any
    local_q: Any
    local_q_se: Any
    noise: Any
    plain_noise: Any
    truncation: Any


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


def mean_and_error(x: Array, axis: int = 0) -> tuple[Array, Array]:
    """Mean over independent samples and its standard error."""
    return x.mean(axis), x.std(axis, ddof=1) / np.sqrt(x.shape[axis])


def _bandit(size: Array) -> jaxent.RestlessBandit:
    return jaxent.circulant_bandit(5)._replace(num_agents=size, budget=size // 5)


def _simulate(key: Array, size: Array, num_steps: int, max_agents: int) -> jaxent.CountsTrajectory:
    zero = jnp.zeros((), size.dtype)
    start = jnp.stack([size // 6, size // 3, size // 2, zero])
    return jaxent.simulate_counts(
        key, _bandit(size), PRIORITY, num_steps=num_steps, counts=start, max_agents=max_agents
    )


def _learn(
    trajectory: jaxent.CountsTrajectory, used: Array, bandit: Any, kernel: Array | None
) -> tuple[Any, Array]:
    """Eq. 15 and local Q-values from the epochs that are `used`, `[T]`."""
    share = trajectory.counts[:-1] * used[:, None] / bandit.num_agents
    entanglement = jaxent.estimate_entanglement(trajectory.policy[:-1], share)
    flow = jaxent.pair_flow(trajectory, used, kernel=kernel)
    q = jaxent.lstd_local_q(flow, bandit.reward.reshape(-1), discount=bandit.discount)
    return entanglement, q.value


def _pair_counts(counts: Array, budget: Array) -> Array:
    """Agents per local pair, `[..., 8]`."""
    groups = by_action(counts, jnp.asarray(PRIORITY), budget)
    return groups.reshape(*groups.shape[:-2], PAIRS).astype(float)


@partial(jax.jit, static_argnames=("config", "max_agents"))
def measure_size(key: Array, size: Array, control: Any, config: Config, max_agents: int) -> Any:
    """Everything of Figures 1 and 2 for one N; N is traced, so one compilation serves all."""
    bandit = _bandit(size)
    weights, constant = control
    key_runs, key_values = jax.random.split(key)
    epoch = jnp.arange(LENGTH * max_agents)
    used = (epoch >= BURN_IN * size) & (epoch < LENGTH * size)

    def run(key: Array) -> tuple[Any, Array, Array]:
        trajectory = _simulate(key, size, len(epoch), max_agents)
        entanglement, q = _learn(trajectory, used, bandit, bandit.kernel)
        return entanglement, q, trajectory.counts[:-1]

    estimates, q, counts = jax.vmap(run)(jax.random.split(key_runs, config.runs))
    entanglement = mean_and_error(estimates.value)
    held_out = mean_and_error(estimates.held_out)
    mean_q, q_error = mean_and_error(q)

    # First level: every epoch, with the affine value in the place of the true one.
    share = used / used.sum()
    pairs = _pair_counts(counts, bandit.budget)  # [runs, T, 8]
    affine = counts @ weights + size * constant  # [runs, T]

    def first_level(q: Array) -> Array:
        return jnp.abs(affine - pairs @ q) @ share  # [runs]

    others = (q.sum(0)[None] - q) / (config.runs - 1)  # leaving one run out, for the jackknife
    left_out = jax.lax.map(first_level, others)  # [left out, runs]
    without = (left_out.sum(1) - jnp.diagonal(left_out)) / (config.runs - 1)
    first = first_level(mean_q).mean()
    first_error = without.std() * jnp.sqrt(config.runs - 1)

    # Second level: on the test states, the true value instead.
    test = jnp.arange(config.test_states)
    per_run = -(-config.test_states // config.runs)
    when = BURN_IN * size + ((LENGTH - BURN_IN) * size * (2 * (test // config.runs) + 1)) // (
        2 * per_run
    )
    states = counts[test % config.runs, when]  # [tests, 4]
    truth = jax.vmap(
        lambda key, counts: jaxent.monte_carlo_q(
            key,
            bandit,
            PRIORITY,
            counts,
            num_runs=config.value_runs,
            num_steps=config.value_steps,
            control=weights,
            max_agents=max_agents,
        )
    )(jax.random.split(key_values, config.test_states), states)
    decomposed = _pair_counts(states, bandit.budget) @ mean_q
    stand_in = states @ weights + size * constant
    step = jnp.abs(truth.value - decomposed) - jnp.abs(stand_in - decomposed)
    second, second_error = mean_and_error(step)
    scale = (jnp.abs(affine) @ share).mean() + (jnp.abs(truth.value) - jnp.abs(stand_in)).mean()
    scale_error = mean_and_error(jnp.abs(affine) @ share)[1]
    mu_error = first + second
    mu_error_se = jnp.hypot(first_error, second_error)
    relative = mu_error / scale
    return SizeResult(
        size=size,
        entanglement=entanglement[0],
        entanglement_se=entanglement[1],
        held_out=held_out[0],
        held_out_se=held_out[1],
        mu_error=mu_error,
        mu_error_se=mu_error_se,
        relative_error=relative,
        relative_error_se=relative * jnp.hypot(mu_error_se / mu_error, scale_error / scale),
        local_q=mean_q,
        local_q_se=q_error,
        noise=jnp.sqrt((truth.standard_error**2).mean()),
        plain_noise=truth.plain_deviation.mean() / jnp.sqrt(3 * size),
        truncation=truth.truncation.max(),
    )


@partial(jax.jit, static_argnames=("config",))
def measure_data(key: Array, control: Any, config: Config) -> DataResult:
    """Figure 3: both errors as functions of the length of the data."""
    size = config.data_size
    weights, constant = control
    bandit = _bandit(jnp.asarray(size))
    epoch = jnp.arange(DATA_LENGTH * size) - BURN_IN * size
    epochs = jnp.asarray(np.unique(np.geomspace(size // 30, 10 * size, DATA_POINTS).astype(int)))

    def run(key: Array) -> tuple[Array, Array]:
        trajectory = _simulate(key, jnp.asarray(size), len(epoch), size)
        late = trajectory.counts[BURN_IN * size : -1]
        pairs = _pair_counts(late, bandit.budget)
        affine = late @ weights + size * constant

        def until(length: Array) -> tuple[Array, Array]:
            used = (epoch >= 0) & (epoch < length)
            entanglement, q = _learn(trajectory, used, bandit, kernel=None)
            return entanglement.value, jnp.abs(affine - pairs @ q).mean()

        return jax.lax.map(until, epochs)

    entanglement, error = jax.vmap(run)(jax.random.split(key, config.runs))
    return DataResult(size, epochs, *mean_and_error(entanglement), *mean_and_error(error))


def control_values() -> tuple[Array, Array]:
    """Weights and constant of the affine value at m*, the same for every N."""
    field = jaxent.mean_field(jaxent.circulant_bandit(30), PRIORITY)
    return field.value_weights, field.value_constant


def run_sizes(key: Array, sizes: list[int], config: Config) -> list[SizeResult]:
    """Measure several N in one compiled call; the result for an N depends on the key and N
    alone."""
    padded = sizes + [sizes[-1]] * (SIZES_AT_ONCE - len(sizes))
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(padded))
    control = control_values()
    over_sizes = jax.vmap(
        lambda key, size: measure_size(key, size, control, config, max(config.sizes))
    )
    results = jax.device_get(over_sizes(keys, jnp.asarray(padded)))
    return [jax.tree.map(lambda x, i=i: x[i], results) for i in range(len(sizes))]


class Claim(NamedTuple):
    """A claim of the paper beside what was measured."""

    claim: str
    measured: str
    holds: bool


def slope(sizes: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Exponent of a power law by weighted least squares on logarithms, and half its 95% interval.

    The interval is widened by the misfit where that exceeds the error bars.
    """
    from scipy import stats

    x, y, sd = np.log(sizes), np.log(values), errors / values
    design = np.stack([x, np.ones_like(x)], axis=1) / sd[:, None]
    coefficients = np.linalg.lstsq(design, y / sd, rcond=None)[0]
    freedom = max(len(x) - 2, 1)
    misfit = float(np.sum((design @ coefficients - y / sd) ** 2)) / freedom
    covariance = np.linalg.inv(design.T @ design) * max(1.0, misfit)
    return float(coefficients[0]), float(stats.t.ppf(0.975, freedom) * np.sqrt(covariance[0, 0]))


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
    with drawing.style():
        for number, left, right in (
            (1, "entanglement", "mu_error"),
            (2, "mu_error", "relative_error"),
        ):
            figure = Figure(figsize=(7.0, 2.9), layout="constrained")
            for axis, name in zip(figure.subplots(1, 2), (left, right), strict=True):
                values, errors, limit, label = panels[name]
                drawing.points(axis, n, values, errors, "simulated")
                drawing.limit(axis, n, limit, r"mean-field limit $N \to \infty$")
                if name == "mu_error":
                    ratio = (column["mu_error"] / column["noise"]).min()
                    plain = "noise of plain Monte Carlo, $3N$ runs\n"
                    plain += f"(noise here: below error / {ratio:.0f})"
                    drawing.floor(axis, n, column["plain_noise"], plain)
                corner = "upper right" if name == "relative_error" else "upper left"
                drawing.logarithmic(axis, "number of agents $N$", label, legend=corner)
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
        drawing.points(axis, epochs, values, errors, "from $T$ epochs")
        axis.axhline(values[-1], color=drawing.RED, ls="--", lw=1, label="true ($T = 10\\,N$)")
        axis.axhline(limit, color=drawing.GREY, ls=":", lw=1.2, label="mean-field limit")
        axis.set(xscale="log", xlabel="epochs of data, $T / N$", ylabel=label, ylim=(0, None))
        axis.legend()
    return figure


def check_config(config: Config) -> None:
    """End with one line if the config cannot be run."""
    for n in (*config.sizes, config.data_size):
        if n < 30 or n % 30:
            command.fail(f"{n} agents: the budget N/5 and the start N/6, N/3, N/2 need 30, 60, ...")
    for name in ("runs", "value_runs", "test_states"):
        if getattr(config, name) < 2:
            command.fail(f"--{name.replace('_', '-')}: at least 2, for a standard error")
    if len(set(config.sizes)) < 2:
        command.fail("--sizes: at least two, for a slope")
    if config.value_steps < 1:
        command.fail("--value-steps: at least 1")


def main(argv: list[str] | None = None) -> int:
    """Run the protocol, draw the figures, print the table; 0 if every claim holds, else 1."""
    options = command.parse("circulant", ABOUT, Config(), QUICK, HELP, argv)
    config = options.config._replace(sizes=tuple(sorted(set(options.config.sizes))))
    check_config(config)
    path = options.out / "results.json"
    done: dict[int, dict] = {}
    if options.resume:
        stored = command.load_results(path, config, options.seed, besides=("sizes",))
        done = {r["size"]: r for r in stored["sizes"]}
    command.open_folder(options.out)
    jax.config.update("jax_enable_x64", True)
    key_sizes, key_data = jax.random.split(jax.random.key(options.seed))

    def results() -> dict[str, Any]:
        rows = [done[n] for n in config.sizes if n in done]
        return command.header(config, options.seed) | {"sizes": rows}

    missing = [n for n in config.sizes if n not in done]
    pieces = [missing[i : i + SIZES_AT_ONCE] for i in range(0, len(missing), SIZES_AT_ONCE)]
    try:
        for piece in command.progress(pieces, "size"):
            for row in run_sizes(key_sizes, piece, config):
                done[int(row.size)] = command.plain(row)
            command.save_json(path, results())
        data = command.plain(measure_data(key_data, control_values(), config))
    except KeyboardInterrupt:
        command.save_json(path, results())
        kept = f"{len(done)} of {len(config.sizes)} sizes are kept in {path}"
        print(f"\nstopped; {kept}; go on with --resume", file=sys.stderr)
        return 130

    rows = results()["sizes"]
    claims = check_claims(rows, data)
    command.save_json(path, results() | {"data": data, "claims": claims})
    paths = figures(rows, data, options.out)
    command.print_table(
        [(c.claim, c.measured, "holds" if c.holds else "DOES NOT HOLD") for c in claims],
        ("claim", "measured", "verdict"),
    )
    print("\n" + "\n".join(str(p) for p in [path, *paths]))
    return 0 if all(c.holds for c in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
