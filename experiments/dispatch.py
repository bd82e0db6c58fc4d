"""Ride-hailing dispatch with exogenous orders: what each driver has to see for values to add up.

Drivers stand in zones around a center; the order of the moment, an exogenous signal, asks for a
ride from one zone to another. Under `zones` every zone has its own driver, who takes its orders
wherever he stands; under `nearest` the nearest driver goes, ties drawn. A share of the orders is
dispatched the one way and the rest the other. Views with the order, (x_i, z), are held against
views without.
"""

import sys
from dataclasses import replace
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
from jaxent import bounds, plotting
from jaxent.models.layouts import FactorLayout

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        drivers: numbers of drivers.
        nearest: percent of the orders that go to the nearest driver.
        epochs: of the simulated run.
    """

    drivers: tuple[int, ...] = (1, 2, 3)
    nearest: tuple[int, ...] = (0, 10, 25, 50, 75, 100)
    epochs: int = 200_000


QUICK = Config(drivers=(1, 2), nearest=(0, 50, 100), epochs=20_000)

HELP = {
    "drivers": "numbers of drivers, from 1 to 4",
    "nearest": "percent of the orders that go to the nearest driver",
    "epochs": "length of the simulated run",
}

# Zones: the center, then three around it.
DISTANCE = np.array([[0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0]])
# Orders (from, to); the first signal is that there is none.
ORDERS = (None, (0, 1), (1, 0), (2, 0), (3, 0))
DISCOUNT, FARE, PICKUP = 0.9, 2.0, 0.8
# How often a quiet epoch, and an order's zone, lasts: rushes come in runs.
LASTING, IDLE_MOVES = 0.5, 0.3
COLORS = (plotting.GRAY, plotting.BLUE, plotting.RED, plotting.GREEN)


class Row(NamedTuple):
    """One number of drivers under one share of nearest dispatch.

    Attributes:
        drivers: N.
        nearest: percent.
        atv: sum over drivers of E_i, Eq. (13).
        policy: the largest bound of Prop. 3.
        sup_error: of the decomposition with views (x_i, z).
        theorem_9: its bound.
        relative_error: of the decomposition with views (x_i, z).
        blind_error: the same with views x_i; the reward of a ride is then its mean over orders.
        reward: long-run mean, exact.
        simulated: the same from a run.
        simulated_error: its standard error.
    """

    drivers: int
    nearest: int
    atv: Any
    policy: Any
    sup_error: Any
    theorem_9: Any
    relative_error: Any
    blind_error: Any
    reward: Any
    simulated: Any
    simulated_error: Any


def orders() -> np.ndarray:
    """P(z' | z), `[Z, Z]`: an order is followed by its like, by none or by any."""
    n = len(ORDERS)
    fresh = np.full(n, 0.6 / (n - 1))
    fresh[0] = 0.4
    return LASTING * np.eye(n) + (1 - LASTING) * fresh


def driver() -> tuple[np.ndarray, np.ndarray]:
    """P(s' | s, a, z) `[S, A, Z, S]` and r(s, a, z) `[S, A, Z]`: a = 1 takes the order, if any."""
    n = len(DISTANCE)
    near = (DISTANCE == 1) / (DISTANCE == 1).sum(1, keepdims=True)
    idle = (1 - IDLE_MOVES) * np.eye(n) + IDLE_MOVES * near
    kernel = np.repeat(np.stack([idle, idle], 1)[:, :, None], len(ORDERS), 2)
    reward = np.zeros(kernel.shape[:3])
    for z, order in enumerate(ORDERS):
        if order is not None:
            start, end = order
            kernel[:, 1, z] = np.eye(n)[end]
            reward[:, 1, z] = FARE - PICKUP * DISTANCE[:, start]
    return kernel, reward


def dispatch(num_drivers: int, share: float) -> np.ndarray:
    """π(a | s, z), `[S.., Z, A..]`, `share` of the orders to the nearest driver."""
    n = len(DISTANCE)
    table = np.zeros((n,) * num_drivers + (len(ORDERS),) + (2,) * num_drivers)
    nobody = (0,) * num_drivers
    for s in np.ndindex(*(n,) * num_drivers):
        table[(*s, 0, *nobody)] = 1
        for z, order in enumerate(ORDERS[1:], 1):
            away = DISTANCE[list(s), order[0]]
            chance = share * (away == away.min()) / (away == away.min()).sum()
            chance[order[0] % num_drivers] += 1 - share  # whose zone it is
            for i in range(num_drivers):
                table[(*s, z, *np.eye(num_drivers, dtype=int)[i])] += chance[i]
    return table


def blind(chain: jaxent.PairChain, mdp: jaxent.ExogenousMDP, mu: Array) -> Array:
    """Relative error where drivers do not see the order, and learn mean rewards."""
    views = tuple((i,) for i in range(len(mdp.rewards)))
    local = replace(chain, layout=FactorLayout(chain.sizes, views))
    means = []
    for i, reward in enumerate(mdp.rewards):
        law = jaxent.marginal(chain, mu, agent=i).reshape(-1, len(ORDERS))  # [X, Z]
        total = law.sum(1)
        mean = (law * reward.reshape(law.shape)).sum(1)
        means.append(jnp.where(total > 0, mean / jnp.where(total > 0, total, 1), 0))
    shared = chain.lift(mdp.rewards)
    return jaxent.decompose(local, means, discount=DISCOUNT, shared=shared).relative_error


@partial(jax.jit, static_argnames="epochs")
def simulate(
    key: Array, kernel: Array, signal: Array, policy: Array, *, epochs: int
) -> tuple[Array, Array, Array]:
    """Zones `[T, N]`, who serves `[T, N]` and orders `[T]`; `policy` is `[S.., Z, A..]`."""
    n = policy.ndim // 2
    rules = policy.reshape(*policy.shape[: n + 1], -1)

    def step(state, key):
        zones, order = state
        act, move, call = jax.random.split(key, 3)
        joint = jax.random.categorical(act, jnp.log(rules[(*zones, order)]))
        serve = (joint >> jnp.arange(n - 1, -1, -1)) & 1
        after = jax.random.categorical(move, jnp.log(kernel[zones, serve, order]))
        new = jax.random.categorical(call, jnp.log(signal[order]))
        return (after, new), (zones, serve, order)

    start = jnp.zeros(n, jnp.int64), jnp.zeros((), jnp.int64)
    return jax.lax.scan(step, start, jax.random.split(key, epochs))[1]


def measure(key: Array, num_drivers: int, nearest: int, epochs: int) -> Row:
    """Exact values, and the mean reward of one run beside its exact value."""
    kernel, reward = map(jnp.asarray, driver())
    policy, signal = jnp.asarray(dispatch(num_drivers, nearest / 100)), jnp.asarray(orders())
    mdp = jaxent.ExogenousMDP((kernel,) * num_drivers, (reward,) * num_drivers, signal, DISCOUNT)
    chain = jaxent.pair_chain(mdp, policy)
    found = jaxent.decompose(chain, mdp.rewards, discount=DISCOUNT)
    drivers = range(num_drivers)
    atv = [jaxent.entanglement_atv(chain, agent=i).upper for i in drivers]
    coupled = [jaxent.policy_entanglement(mdp, policy, found.mu, agent=i).upper for i in drivers]
    bound = bounds.theorem_9(chain, mdp.rewards, discount=DISCOUNT)
    zones, serve, order = simulate(key, kernel, signal, policy, epochs=epochs)
    earned = np.asarray(reward)[
        np.asarray(zones), np.asarray(serve), np.asarray(order)[:, None]
    ].sum(1)
    batches = earned[: len(earned) // 50 * 50].reshape(50, -1).mean(1)
    return Row(
        num_drivers, nearest, sum(atv), max(coupled), found.sup_error, bound,
        found.relative_error, blind(chain, mdp, found.mu), found.mu @ chain.lift(mdp.rewards),
        earned.mean(), batches.std(ddof=1) / np.sqrt(len(batches)),
    )  # fmt: skip


def figures(rows: list[dict], out: Path) -> list[Path]:
    """Relative error with and without the order, and the entanglement, along the share."""
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        sizes = dict.fromkeys(row["drivers"] for row in rows)
        for n, color in zip(sizes, COLORS, strict=False):
            mine = sorted((r for r in rows if r["drivers"] == n), key=lambda r: r["nearest"])
            share = [row["nearest"] for row in mine]
            look = {"color": color, "marker": "o", "lw": 1}
            many = f"{n} driver" + "s" * (n > 1)
            left.plot(share, [100 * row["relative_error"] for row in mine], label=many, **look)
            left.plot(share, [100 * row["blind_error"] for row in mine], **look | {"ls": ":"})
            right.plot(
                share,
                [row["atv"] / n for row in mine],
                label=f"{many}, Eq. (13): worst pair",
                **look,
            )
            right.plot(share, [row["policy"] for row in mine], **look | {"ls": ":"})
        left.plot([], [], color="black", lw=1, ls=":", label="views without the order")
        right.plot([], [], color="black", lw=1, ls=":", label="bound of Prop. 3: mean over pairs")
        left.set(xlabel="orders to the nearest driver (%)", ylabel="relative error (%)")
        right.set(xlabel="orders to the nearest driver (%)", ylabel="entanglement of a driver")
        for axis in (left, right):
            axis.legend(loc="best")
        return command.save_figure(figure, out / "dispatch")


def claims(rows: list[dict]) -> list[Claim]:
    """What should hold, what came out, and whether it holds."""
    apart = [row for row in rows if row["nearest"] == 0]
    worst = max((row["sup_error"] for row in apart), default=0.0)
    over = [r["theorem_9"] / r["sup_error"] for r in rows if r["sup_error"] > 1e-8]
    gain = [r["blind_error"] / max(r["relative_error"], 1e-12) for r in rows]
    z = [(row["simulated"] - row["reward"]) / row["simulated_error"] for row in rows]
    found = [
        Claim("drivers with zones of their own: no error (Prop. 2)", f"{worst:.1g}", worst < 1e-8),
        Claim(
            "error below Theorem 9",
            f"at least {min(over, default=np.inf):.3g} times",
            min(over, default=1) >= 1,
        ),
        Claim("a driver who sees the order is no worse", f"{min(gain):.3g} times", min(gain) >= 1),
        Claim(
            "simulated mean reward (5 s.e.)", f"{max(map(abs, z)):.1f} s.e.", max(map(abs, z)) < 5
        ),
    ]
    return found if apart else found[1:]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if not all(1 <= n <= len(COLORS) for n in config.drivers):
        raise ValueError(f"drivers: from 1 to {len(COLORS)}")
    if not all(0 <= share <= 100 for share in config.nearest):
        raise ValueError("nearest: from 0 to 100 percent")
    command.at_least(config, epochs=100)


def work(job: command.Job) -> command.Report:
    """Every number of drivers under every share that is not stored, and the figure."""
    config, key = job.config, jax.random.key(job.seed)
    rows = job.stored.get("rows", [])
    done = {(row["drivers"], row["nearest"]) for row in rows}
    for n in config.drivers:
        for share in config.nearest:
            if (n, share) not in done:
                run = jax.random.fold_in(jax.random.fold_in(key, n), share)
                rows.append(command.plain(measure(run, n, share, config.epochs)))
                job.save({"rows": rows}, f"{len(rows)} rows are")
    table = [
        (
            str(r["drivers"]), f"{r['nearest']}%", f"{r['atv'] / r['drivers']:.4f}",
            f"{r['policy']:.4f}", f"{r['relative_error']:.3%}", f"{r['blind_error']:.3%}",
            f"{r['reward']:.4f}", f"{r['simulated']:.4f} ± {r['simulated_error']:.4f}",
        )
        for r in rows
    ]  # fmt: skip
    return command.Report(
        {"rows": rows},
        claims(rows),
        figures(rows, job.out),
        ("drivers", "nearest", "Eq. (13)", "Prop. 3", "error", "without z", "reward", "simulated"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("dispatch", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
