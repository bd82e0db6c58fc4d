"""A cluster of servers on a ring: how entangled they are, seen from three servers or from all.

Each server holds up to two jobs and may pass one to the server on its right, so its next queue
reads its own pair and that of the server on its left (App. J.2). Under `own` it decides by its own
queue, under `balance` also by that of the server on its right. Small rings are solved exactly,
matrix-free; a long one is known from the neighbor set of one server, with that set's occupancy
from a simulated run.
"""

import itertools
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
from jaxent import bounds, plotting

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        policy: names, of `POLICIES`.
        sizes: numbers of servers of the rings that are solved exactly.
        sharpness: beta of the decision, the largest is shown along N.
        ring: servers of the long ring.
        epochs: of its simulated run.
    """

    policy: tuple[str, ...] = ("own", "balance")
    sizes: tuple[int, ...] = (3, 4, 5, 6)
    sharpness: tuple[int, ...] = (0, 1, 2, 4)
    ring: int = 100
    epochs: int = 4000


QUICK = Config(sizes=(3, 4), sharpness=(0, 2), epochs=1000)

HELP = {
    "policy": "which policies, of own and balance",
    "sizes": "numbers of servers of the rings that are solved exactly, from 3 to 7",
    "sharpness": "how sharply a server decides; 0 tosses a coin",
    "ring": "servers of the long ring",
    "epochs": "length of its simulated run",
}

JOBS = 3  # 0, 1 or 2
ARRIVAL, SERVICE, DISCOUNT = 0.35, 0.5, 0.9
# What a passed job costs, beside 1 an epoch for every job held.
PASSING = 0.3
COLORS = {"own": plotting.BLUE, "balance": plotting.RED}


class Row(NamedTuple):
    """One ring under one policy.

    Attributes:
        policy: its name.
        sharpness: beta.
        size: N.
        atv: E_1, Eq. (5), from the neighbor set.
        apart: |atv - that of the whole chain|; None for the long ring.
        mu_atv: the right-hand side of Eq. (7).
        relative_error: of the value decomposition; None for the long ring.
        mu_error: likewise.
        bound: Theorem 6 with Eq. (7), all servers alike.
        tight_bound: a posteriori.
        reward: long-run mean for each server.
        reward_error: its standard error, where it is simulated.
    """

    policy: str
    sharpness: int
    size: int
    atv: Any
    apart: Any
    mu_atv: Any
    relative_error: Any
    mu_error: Any
    bound: Any
    tight_bound: Any
    reward: Any
    reward_error: Any


def kernel() -> np.ndarray:
    """P(q' | own queue, left queue, own action, left action), `[3, 3, 2, 2, 3]`."""
    table = np.zeros((JOBS, JOBS, 2, 2, JOBS))
    for own, left, passes, sends in np.ndindex(JOBS, JOBS, 2, 2):
        held = own - (passes and own > 0)
        for served, p in ((0, 1 - SERVICE), (1, SERVICE)):
            for arrived, q in ((0, 1 - ARRIVAL), (1, ARRIVAL)):
                after = max(held - served, 0) + arrived + int(sends and left > 0)
                table[own, left, passes, sends, min(after, JOBS - 1)] += p * q
    return table


def rewards() -> np.ndarray:
    """r(q, a), `[3, 2]`."""
    jobs = np.arange(JOBS)[:, None]
    return -jobs - PASSING * ((jobs > 0) & (np.arange(2) == 1))


def decision(policy: str, sharpness: int) -> np.ndarray:
    """P(pass | queues), `[3, 2]` for own and `[3, 3, 2]`, own and right, for balance."""
    own = np.arange(JOBS)
    lead = own - 1.5 if policy == "own" else own[:, None] - own[None] - 0.5
    passes = 1 / (1 + np.exp(-sharpness * lead))
    return np.stack([1 - passes, passes], -1)


def cluster(
    policy: str, sharpness: int, size: int
) -> tuple[jaxent.FactoredMDP, jaxent.LocalPolicies]:
    """The model and what its servers do."""
    servers = range(size)
    neighbors = tuple((i, (i - 1) % size) for i in servers)
    reads = tuple((i,) if policy == "own" else (i, (i + 1) % size) for i in servers)
    law, reward, rule = map(jnp.asarray, (kernel(), rewards(), decision(policy, sharpness)))
    mdp = jaxent.FactoredMDP((law,) * size, neighbors, (reward,) * size, DISCOUNT)
    return mdp, jaxent.LocalPolicies((rule,) * size, reads)


def measure(policy: str, sharpness: int, size: int) -> Row:
    """A ring that is solved exactly."""
    mdp, local = cluster(policy, sharpness, size)
    chain = jaxent.pair_chain(mdp, local)
    found = jaxent.decompose(chain, mdp.rewards, discount=DISCOUNT)
    whole = jaxent.entanglement_atv(chain, agent=0)
    near = jaxent.entanglement_atv(jaxent.neighborhood(mdp, local, agent=0), agent=0)
    mean = jaxent.entanglement_mu_atv_upper(chain, found.mu, agent=0)
    after = bounds.a_posteriori(chain, mdp.rewards, discount=DISCOUNT)
    largest = np.abs(rewards()).max()
    bound = 4 * DISCOUNT * size * mean.upper * largest / (1 - DISCOUNT) ** 2
    reward = found.mu @ chain.lift(mdp.rewards) / size
    return Row(
        policy, sharpness, size, near.value, abs(near.value - whole.value), mean.value,
        found.relative_error, found.mu_error, bound, after.mu_bound, reward, None,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("size", "epochs"))
def simulate(key: Array, law: Array, choice: Array, *, size: int, epochs: int) -> Array:
    """Pairs of every server at every epoch, `[T, N]`; `choice` is `[3, 3, 2]`."""

    def step(queues, key):
        act, move = jax.random.split(key)
        passes = choice[queues, jnp.roll(queues, -1), 1]
        actions = (jax.random.uniform(act, (size,)) < passes).astype(queues.dtype)
        rows = law[queues, jnp.roll(queues, 1), actions, jnp.roll(actions, 1)]
        draw = jax.random.uniform(move, (size, 1))
        after = (draw > jnp.cumsum(rows, 1)[:, :-1]).sum(1).astype(queues.dtype)
        return after, 2 * queues + actions

    return jax.lax.scan(step, jnp.zeros(size, jnp.int32), jax.random.split(key, epochs))[1]


def measure_long(key: Array, policy: str, sharpness: int, config: Config) -> Row:
    """The long ring: rows from the neighbor set, its occupancy from every server of one run."""
    mdp, local = cluster(policy, sharpness, config.ring)
    choice = decision(policy, sharpness)
    choice = choice if choice.ndim == 3 else np.repeat(choice[:, None], JOBS, 1)
    pairs = np.asarray(
        simulate(key, kernel(), choice, size=config.ring, epochs=config.epochs)
    )[config.epochs // 10 :]  # fmt: skip
    server = config.ring // 2
    near = jaxent.neighborhood(mdp, local, agent=server)
    inside = (-1, 0) if len(near.sizes) == 2 else (-1, 0, 1)  # the servers of the set
    index = np.zeros_like(pairs)
    for k in inside:
        index = 2 * JOBS * index + np.roll(pairs, -k, axis=1)
    mu = np.bincount(index.ravel(), minlength=near.num_pairs) / index.size
    earned = rewards().ravel()[pairs].mean(1)  # [T]
    batches = earned[: len(earned) // 20 * 20].reshape(20, -1).mean(1)
    mean = jaxent.entanglement_mu_atv_upper(near, jnp.asarray(mu), agent=0).value
    atv = jaxent.entanglement_atv(near, agent=0).value
    bound = 4 * DISCOUNT * config.ring * mean * np.abs(rewards()).max() / (1 - DISCOUNT) ** 2
    return Row(
        policy, sharpness, config.ring, atv, None, mean, None, None, bound, None,
        earned.mean(), batches.std(ddof=1) / np.sqrt(len(batches)),
    )  # fmt: skip


def figures(rows: list[dict], out: Path) -> list[Path]:
    """Entanglement along the sharpness, and the relative error along N."""
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        sharpest = max(row["sharpness"] for row in rows)
        for policy in dict.fromkeys(row["policy"] for row in rows):
            mine = [row for row in rows if row["policy"] == policy]
            long = [row for row in mine if row["relative_error"] is None]
            exact = [r for r in mine if r["relative_error"] is not None]
            beta = [row["sharpness"] for row in long]
            look = {"color": COLORS[policy], "marker": "o", "lw": 1}
            left.plot(beta, [row["atv"] for row in long], label=f"{policy}, Eq. (5)", **look)
            look["ls"] = ":"
            left.plot(beta, [row["mu_atv"] for row in long], label=f"{policy}, Eq. (7)", **look)
            for value, ls in ((sharpest, "-"), (0, "--")):
                at = [row for row in exact if row["sharpness"] == value]
                right.plot(
                    [row["size"] for row in at],
                    [100 * row["relative_error"] for row in at],
                    label=rf"{policy}, $\beta = {value}$",
                    **look | {"ls": ls},
                )
        n = rows[-1]["size"]
        left.set(xlabel=r"sharpness $\beta$", ylabel=f"entanglement, ring of {n}", ylim=(0, None))
        right.set(xlabel="number of servers $N$", ylabel="relative error (%)", ylim=(0, None))
        right.set_xticks(sorted({row["size"] for row in rows if row["apart"] is not None}))
        for axis in (left, right):
            axis.legend(loc="best")
        return command.save_figure(figure, out / "servers")


def claims(rows: list[dict]) -> list[Claim]:
    """What should agree, what came out, and whether it holds."""
    exact = [row for row in rows if row["apart"] is not None]
    apart = max(row["apart"] for row in exact)
    slack = min(row["bound"] / row["mu_error"] for row in exact)
    tight = min(row["tight_bound"] / row["mu_error"] for row in exact)
    last = max(row["size"] for row in exact)
    far = 0.0
    for row in rows:
        if row["apart"] is None:
            (near,) = (
                r for r in exact
                if r["size"] == last and all(r[k] == row[k] for k in ("policy", "sharpness"))
            )  # fmt: skip
            far = max(far, abs(row["mu_atv"] - near["mu_atv"]) / near["mu_atv"])
    return [
        Claim("Eq. (5) from the neighbor set is that of the ring", f"to {apart:.1g}", apart < 1e-6),
        Claim("error below Theorem 6", f"at least {slack:.3g} times", slack >= 1),
        Claim("error below the a posteriori bound", f"at least {tight:.3g} times", tight >= 1),
        Claim(f"Eq. (7) of the long ring is that of {last} servers", f"to {far:.1%}", far < 0.05),
    ]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if unknown := set(config.policy) - set(COLORS):
        raise ValueError(f"policy: {sorted(unknown)[0]!r} is not one of {', '.join(COLORS)}")
    if not all(3 <= n <= 7 for n in config.sizes):
        raise ValueError("sizes: from 3 to 7 servers; beyond that only the long ring is known")
    if min(config.sharpness) < 0:
        raise ValueError("sharpness: is at least 0")
    command.at_least(config, ring=4, epochs=100)
    if config.ring in config.sizes:
        raise ValueError(f"ring: {config.ring} is one of the sizes that are solved exactly")


def work(job: command.Job) -> command.Report:
    """Every policy, sharpness and ring that is not stored, and the figure."""
    config, key = job.config, jax.random.key(job.seed)
    rows = job.stored.get("rows", [])
    done = {(row["policy"], row["sharpness"], row["size"]) for row in rows}
    every = itertools.product(
        enumerate(config.policy), config.sharpness, sorted({*config.sizes, config.ring})
    )
    for (k, policy), beta, size in every:
        if (policy, beta, size) in done:
            continue
        if size == config.ring:
            run = jax.random.fold_in(jax.random.fold_in(key, k), beta)
            row = measure_long(run, policy, beta, config)
        else:
            row = measure(policy, beta, size)
        rows.append(command.plain(row))
        job.save({"rows": rows}, f"{len(rows)} rows are")
    shown = lambda value, form: "" if value is None else format(value, form)  # noqa: E731
    table = [
        (
            r["policy"], str(r["sharpness"]), str(r["size"]), f"{r['atv']:.4f}",
            f"{r['mu_atv']:.4f}", shown(r["relative_error"], ".3%"), f"{r['reward']:.4f}",
        )
        for r in rows
    ]  # fmt: skip
    return command.Report(
        {"rows": rows},
        claims(rows),
        figures(rows, job.out),
        ("policy", "beta", "N", "Eq. (5)", "Eq. (7)", "relative error", "mean reward"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("servers", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
