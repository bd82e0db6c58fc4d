"""Warehouse robots with one shared reward: what is lost when it is split among them.

Robots walk a loop of four stations; the task of the moment, an exogenous signal, waits at one of
them and is worth 1 an epoch while any robot stands there, so two robots there earn no more than
one, and robots at one station get in each other's way. Under `split` each robot serves stations of
its own, under `all` every robot goes for every task, under `nearest` only the nearest goes, ties
drawn. The shared reward is split among views (x_i, z) by Eq. (14), in L1, and by least squares,
exactly and from a simulated run (Meta Algorithm 2).
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
from jaxent import bounds, plotting

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        policy: names, of `POLICIES`.
        congestion: cost of two robots at one station, in percent of a task.
        robots: N.
        epochs: of the simulated run.
    """

    policy: tuple[str, ...] = ("split", "nearest", "all")
    congestion: tuple[int, ...] = (0, 25, 50, 100)
    robots: int = 2
    epochs: int = 100_000


QUICK = Config(policy=("split", "all"), congestion=(0, 100), epochs=10_000)

HELP = {
    "policy": "which policies, of split, nearest and all",
    "congestion": "cost of two robots at one station, in percent of a task",
    "robots": "number of robots, 2 or 3",
    "epochs": "length of the simulated run",
}

STATIONS, DISCOUNT = 4, 0.9
# How often a move comes off, an idle robot drifts on, and a task stays where it is.
MOVES, DRIFTS, STAYS = 0.85, 0.05, 0.8
POLICIES = {"split": plotting.GREEN, "nearest": plotting.BLUE, "all": plotting.RED}


class Row(NamedTuple):
    """One policy at one cost of congestion.

    Attributes:
        policy: its name.
        congestion: percent.
        entanglement: e(r) of Eq. (14), the mean error of the shared reward split in L1.
        gap: between the certified bounds of it.
        squares: the mean error of the reward split by least squares.
        mu_error: of the value decomposition, split in L1.
        squares_error: likewise, by least squares.
        learned_error: likewise, by least squares from the run.
        bound: Prop. 4.
        relative_error: mu_error over the mean |Q|.
    """

    policy: str
    congestion: int
    entanglement: Any
    gap: Any
    squares: Any
    mu_error: Any
    squares_error: Any
    learned_error: Any
    bound: Any
    relative_error: Any


def robot() -> np.ndarray:
    """P(s' | s, a, z), `[S, A, Z, S]`: a = 1 walks on to the next station."""
    stay, step = np.eye(STATIONS), np.roll(np.eye(STATIONS), 1, axis=1)
    kernel = np.stack([(1 - p) * stay + p * step for p in (DRIFTS, MOVES)], 1)  # [S, A, S]
    return np.repeat(kernel[:, :, None], STATIONS, 2)


def tasks() -> np.ndarray:
    """P(z' | z), `[Z, Z]`."""
    return STAYS * np.eye(STATIONS) + (1 - STAYS) / STATIONS


def schedule(policy: str, num_robots: int) -> np.ndarray:
    """π(a | s, z), `[S.., Z, A..]`: who walks on."""
    states = (STATIONS,) * num_robots
    table = np.zeros((*states, STATIONS) + (2,) * num_robots)
    for s in np.ndindex(*states):
        for z in range(STATIONS):
            away = (z - np.array(s)) % STATIONS
            if policy == "all":
                called = [(np.ones(num_robots, bool), 1.0)]
            elif policy == "split":
                called = [(np.arange(num_robots) == z % num_robots, 1.0)]
            else:
                near = np.flatnonzero(away == away.min())
                called = [(np.arange(num_robots) == i, 1 / len(near)) for i in near]
            for who, chance in called:
                table[(*s, z, *(who & (away > 0)).astype(int))] += chance
    return table


def shared_reward(num_robots: int, congestion: float) -> np.ndarray:
    """r by joint pair and task, `[X.., Z]`."""
    pairs = np.indices((2 * STATIONS,) * num_robots + (STATIONS,))
    at, z = pairs[:-1] // 2, pairs[-1]
    done = (at == z).any(0).astype(float)
    meet = sum((at[i] == at[j]).astype(float) for i in range(num_robots) for j in range(i))
    return done - congestion * meet


def least_squares(chain: jaxent.PairChain, reward: Array, mu: Any) -> list[Array]:
    """Local rewards by least squares, weighted by mu (Meta Algorithm 2), `[X_i Z]` each."""
    sizes = [2 * STATIONS * STATIONS] * len(chain.views)
    ends = np.cumsum(sizes)[:-1]
    basis = jnp.eye(sum(sizes))
    lift = np.asarray(jax.vmap(lambda x: chain.lift(jnp.split(x, ends)))(basis)).T
    root, target = np.sqrt(np.asarray(mu)), np.asarray(reward).ravel()
    found = np.linalg.lstsq(root[:, None] * lift, root * target, rcond=None)[0]
    return jnp.split(jnp.asarray(found), ends)


@partial(jax.jit, static_argnames="epochs")
def simulate(key: Array, kernel: Array, signal: Array, policy: Array, *, epochs: int) -> Array:
    """Index of the joint pair at every epoch, `[T]`; `policy` is `[S.., Z, A..]`."""
    n = policy.ndim // 2
    rules = policy.reshape(*policy.shape[: n + 1], -1)

    def step(state, key):
        at, task = state
        act, move, call = jax.random.split(key, 3)
        joint = jax.random.categorical(act, jnp.log(rules[(*at, task)]))
        walks = (joint >> jnp.arange(n - 1, -1, -1)) & 1
        after = jax.random.categorical(move, jnp.log(kernel[at, walks, task]))
        new = jax.random.categorical(call, jnp.log(signal[task]))
        pair = jnp.ravel_multi_index(
            (*(2 * at + walks), task), (2 * STATIONS,) * n + (STATIONS,), mode="clip"
        )
        return (after, new), pair

    start = jnp.zeros(n, jnp.int64), jnp.zeros((), jnp.int64)
    return jax.lax.scan(step, start, jax.random.split(key, epochs))[1]


def measure(key: Array, policy: str, config: Config) -> list[Row]:
    """One policy at every cost."""
    n = config.robots
    kernel, signal, rules = map(jnp.asarray, (robot(), tasks(), schedule(policy, n)))
    nothing = jnp.zeros((STATIONS, 2, STATIONS))
    mdp = jaxent.ExogenousMDP((kernel,) * n, (nothing,) * n, signal, DISCOUNT)
    chain = jaxent.pair_chain(mdp, rules)
    mu = jaxent.stationary_distribution(chain)
    run = simulate(key, kernel, signal, rules, epochs=config.epochs)
    seen = np.bincount(np.asarray(run), minlength=chain.num_pairs) / config.epochs
    measured = [jaxent.entanglement_mu_atv(chain, mu, agent=i) for i in range(n)]
    rows = []
    for percent in config.congestion:
        reward = jnp.asarray(shared_reward(n, percent / 100))
        fit = jaxent.reward_entanglement(chain, reward, mu)
        bound = bounds.proposition_4(chain, reward, discount=DISCOUNT, fit=fit, measured=measured)
        exact = least_squares(chain, reward, mu)
        in_l1, by_squares, learned = (
            jaxent.decompose(chain, split, discount=DISCOUNT, shared=reward)
            for split in (fit.minimizer, exact, least_squares(chain, reward, seen))
        )
        left = mu @ jnp.abs(reward.ravel() - chain.lift(exact))
        rows.append(
            Row(
                policy, percent, fit.value, fit.upper - fit.lower, left, in_l1.mu_error,
                by_squares.mu_error, learned.mu_error, bound, in_l1.relative_error,
            )
        )  # fmt: skip
    return rows


def figures(rows: list[dict], out: Path) -> list[Path]:
    """Error of the reward, and of the value, along the cost of congestion."""
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for policy in dict.fromkeys(row["policy"] for row in rows):
            mine = [row for row in rows if row["policy"] == policy]
            cost = [row["congestion"] for row in mine]
            look = {"color": POLICIES[policy], "marker": "o", "lw": 1}
            for axis, split, squares in (
                (left, "entanglement", "squares"),
                (right, "mu_error", "squares_error"),
            ):
                axis.plot(cost, [row[split] for row in mine], label=policy, **look)
                axis.plot(cost, [row[squares] for row in mine], **look | {"ls": ":"})
        left.set(ylabel="mean error of the reward")
        right.set(ylabel=r"$\mu$-error of the value")
        for axis in (left, right):
            axis.plot([], [], color="black", lw=1, ls=":", label="by least squares")
            axis.set(xlabel="cost of congestion (% of a task)", ylim=(0, None))
            axis.legend(loc="best")
        return command.save_figure(figure, out / "warehouse")


def claims(rows: list[dict]) -> list[Claim]:
    """What should hold, what came out, and whether it holds."""
    gap = max(row["gap"] for row in rows)
    slack = min(row["bound"] / row["mu_error"] for row in rows)
    gain = min(row["squares"] / row["entanglement"] for row in rows)
    far = max(abs(r["learned_error"] / r["squares_error"] - 1) for r in rows)
    return [
        Claim("Eq. (14) is certified", f"to {gap:.1g}", gap < 1e-8),
        Claim("least squares leaves no less of the reward", f"{gain:.3f} times", gain >= 1 - 1e-9),
        Claim("error below Prop. 4", f"at least {slack:.3g} times", slack >= 1 - 1e-9),
        Claim("Meta Algorithm 2 from the run, against its limit", f"to {far:.1%}", far < 0.1),
    ]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if unknown := set(config.policy) - set(POLICIES):
        raise ValueError(f"policy: {sorted(unknown)[0]!r} is not one of {', '.join(POLICIES)}")
    if config.robots not in (2, 3):
        raise ValueError("robots: 2 or 3")
    if min(config.congestion) < 0:
        raise ValueError("congestion: is at least 0")
    command.at_least(config, epochs=1000)


def work(job: command.Job) -> command.Report:
    """Every policy that is not stored, and the figure."""
    config, key = job.config, jax.random.key(job.seed)
    rows = job.stored.get("rows", [])
    done = {row["policy"] for row in rows}
    for k, policy in enumerate(POLICIES):
        if policy in config.policy and policy not in done:
            rows += command.plain(measure(jax.random.fold_in(key, k), policy, config))
            job.save({"rows": rows}, f"{len(rows)} rows are")
    chosen = [row for row in rows if row["policy"] in config.policy]
    table = [
        (
            r["policy"], f"{r['congestion']}%", f"{r['entanglement']:.4f}",
            f"{r['squares']:.4f}", f"{r['mu_error']:.4f}", f"{r['squares_error']:.4f}",
            f"{r['learned_error']:.4f}", f"{r['bound']:.1f}", f"{r['relative_error']:.2%}",
        )
        for r in chosen
    ]  # fmt: skip
    return command.Report(
        {"rows": rows},
        claims(chosen),
        figures(chosen, job.out),
        ("policy", "cost", "e(r)", "squares", "error", "squares", "learned", "Prop. 4", "relative"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run(
        "warehouse", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("policy",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
