"""Sums over blocks of k agents: how much of the joint value pairs explain, triples, and so on.

For a ring of servers, robots with one shared reward, agents on a budget, three agents paid by
parity and random chains: the root mean square error, over the standard deviation of Q, of the best
sum of functions of k agents each in hindsight, of such a sum fitted to the team's Bellman error
(VDN on blocks), and of blocks that learn by themselves, put together by inclusion and exclusion.
"""

import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command, servers, warehouse
from experiments.command import Claim
from jaxent import plotting

DISCOUNT = 0.9


class Config(NamedTuple):
    """What is computed.

    Attributes:
        case: names, of `CASES`.
        random: number of random chains.
        agents: of a random chain, with two pairs each.
    """

    case: tuple[str, ...] = ("parity", "servers", "budget", "split", "nearest", "random")
    random: int = 10
    agents: int = 4


QUICK = Config(case=("parity", "budget", "random"), random=2, agents=3)

HELP = {
    "case": "which, of parity, servers, budget, split, nearest and random",
    "random": "number of random chains",
    "agents": "agents of a random chain, from 2 to 5",
}

METHODS = {
    "best": ("best in hindsight", "black", ""),
    "joint": ("fitted jointly (VDN on blocks)", plotting.BLUE, "o"),
    "alone": ("blocks alone", plotting.RED, "s"),
}


class Row(NamedTuple):
    """One chain and one size of blocks.

    Attributes:
        case: its name.
        chain: which chain of the case.
        agents: N.
        size: k.
        best: error of the best sum, over the standard deviation of Q.
        joint: of the sum fitted to the Bellman error; that of `best` where k = N, when both are Q.
        alone: of blocks that learn by themselves.
    """

    case: str
    chain: int
    agents: int
    size: int
    best: Any
    joint: Any
    alone: Any


Problem = tuple[jaxent.PairChain, Any]


def parity() -> Problem:
    """Three agents that move alone, paid by the parity of their pairs."""
    own = np.array([[0.5, 0.5], [0.5, 0.5]])
    signs = np.array([1.0, -1.0])
    P = np.kron(np.kron(own, own), own)
    reward = np.kron(np.kron(signs, signs), signs)
    return jaxent.PairChain.from_matrix(jnp.asarray(P), sizes=(2, 2, 2)), jnp.asarray(reward)


def ring() -> Problem:
    """Four servers that balance their queues."""
    mdp, rule = servers.cluster("balance", 4, 4)
    return jaxent.pair_chain(mdp, rule), list(mdp.rewards)


def budget() -> Problem:
    """Three agents of the circulant bandit, of whom one is active."""
    bandit = jaxent.circulant_bandit(5)
    kernel = jnp.stack([jnp.asarray(bandit.passive), jnp.asarray(bandit.active)], 1)
    agents = (jaxent.MDP(kernel, jnp.asarray(bandit.reward)),) * 3
    policy = jaxent.index_policy(jaxent.CIRCULANT_PRIORITY, num_agents=3, budget=1)
    mdp = jaxent.WeaklyCoupledMDP(agents, DISCOUNT)
    return jaxent.pair_chain(mdp, policy), list(mdp.rewards)


def robots(policy: str) -> Problem:
    """Three robots with one reward, a meeting costs a quarter of a task."""
    kernel, signal, rules = map(
        jnp.asarray, (warehouse.robot(), warehouse.tasks(), warehouse.schedule(policy, 3))
    )
    nothing = jnp.zeros((warehouse.STATIONS, 2, warehouse.STATIONS))
    mdp = jaxent.ExogenousMDP((kernel,) * 3, (nothing,) * 3, signal, DISCOUNT)
    return jaxent.pair_chain(mdp, rules), jnp.asarray(warehouse.shared_reward(3, 0.25))


CASES: dict[str, Callable[[], Problem]] = {
    "parity": parity,
    "servers": ring,
    "budget": budget,
    "split": lambda: robots("split"),
    "nearest": lambda: robots("nearest"),
}


def problems(name: str, config: Config, seed: int) -> list[Problem]:
    """The chains of a case, with their rewards."""
    if name != "random":
        return [CASES[name]()]
    found = []
    for number in range(config.random):
        rng = np.random.default_rng([seed, number])
        P = rng.dirichlet(np.ones(2**config.agents), 2**config.agents)
        chain = jaxent.PairChain.from_matrix(jnp.asarray(P), sizes=(2,) * config.agents)
        found.append((chain, [jnp.asarray(rng.normal(size=2)) for _ in range(config.agents)]))
    return found


def measure(name: str, number: int, problem: Problem) -> list[Row]:
    """The errors of every size of blocks."""
    chain, rewards = problem
    n = len(chain.views)
    joint = chain.lift(rewards) if isinstance(rewards, list) else jnp.ravel(rewards)
    mu = jaxent.stationary_distribution(chain)
    q = jaxent.q_values(chain, joint, discount=DISCOUNT)
    spread = jnp.sqrt(mu @ (q - mu @ q) ** 2)
    rows = []
    for k in range(1, n + 1):
        best = jaxent.fit_blocks(chain, rewards, k, discount=DISCOUNT, mu=mu).l2_error
        alone = jaxent.block_values(chain, rewards, k, discount=DISCOUNT, mu=mu).l2_error
        fitted = best
        if k < n:
            seen = jaxent.with_views(chain, list(combinations(range(n), k)))
            fit = jaxent.fit_additive(seen, joint, discount=DISCOUNT, mu=mu)
            fitted = jnp.sqrt(mu @ fit.error**2)
        rows.append(Row(name, number, n, k, *(x / spread for x in (best, fitted, alone))))
    return rows


def claims(rows: list[dict]) -> list[Claim]:
    """What the theory says, beside what was measured."""
    steps, last, factor, behind = [-np.inf], [0.0], [1.0], [np.inf]
    for row, after in pairwise(rows):
        if (row["case"], row["chain"]) == (after["case"], after["chain"]):
            steps.append(after["best"] - row["best"])
    for row in rows:
        if row["size"] == row["agents"]:
            last += [row["best"], row["alone"]]
        elif row["best"] > 1e-6:
            factor.append(row["joint"] / row["best"])
            behind.append(row["alone"] / row["best"])
    bound = 1 / np.sqrt(1 - DISCOUNT**2)
    found = [
        Claim("the best error never grows with k", f"by {max(steps):.1g}", max(steps) < 1e-10),
        Claim("k = N is exact", f"to {max(last):.1g}", max(last) < 1e-10),
        Claim(
            f"VDN on blocks is at most {bound:.3g} times the best",
            f"{max(factor):.3g} times",
            bool(max(factor) <= bound + 1e-6),
        ),
        Claim(
            "blocks alone are never better",
            f"at least {min(behind):.3g} times",
            bool(min(behind) >= 1 - 1e-6),
        ),
    ]
    pairs = [r["best"] for r in rows if r["case"] == "parity" and r["size"] == 2]
    if pairs:
        told = f"{pairs[0]:.6f}"
        found.append(
            Claim("parity: pairs are no better than a constant", told, pairs[0] > 1 - 1e-9)
        )
    return found


def figures(rows: list[dict], out: Path) -> list[Path]:
    """The errors along k, one panel a case; the median over random chains."""
    names = list(dict.fromkeys(row["case"] for row in rows))
    with plotting.style():
        figure = Figure(figsize=(1.9 * len(names) + 0.6, 2.8), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
        for axis, name in zip(axes, names, strict=True):
            own = [row for row in rows if row["case"] == name]
            sizes = sorted({row["size"] for row in own})
            for method, (label, color, marker) in METHODS.items():
                y = [np.median([r[method] for r in own if r["size"] == k]) for k in sizes]
                look = {"color": color, "label": label, "lw": 1}
                if method == "best":  # over the line of VDN, or it could not be seen
                    look |= {"ls": (0, (1, 3)), "zorder": 5, "lw": 1.5}
                axis.plot(sizes, y, marker=marker, **look)
            axis.set(title=name, xlabel="k", xticks=sizes)
        axes[0].set(ylabel="error / standard deviation of Q", ylim=(0, None))
        lines, labels = axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside upper center", ncols=len(METHODS))
        return command.save_figure(figure, out / "blocks")


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    known = [*CASES, "random"]
    if unknown := set(config.case) - set(known):
        raise ValueError(f"case: {sorted(unknown)[0]!r} is not one of {', '.join(known)}")
    if not 2 <= config.agents <= 5:
        raise ValueError("agents: from 2 to 5, the chain has 4^N entries")
    command.at_least(config, random=1)


def work(job: command.Job) -> command.Report:
    """Every chain that is not stored, and the figure."""
    rows = job.stored.get("rows", [])
    done = {(row["case"], row["chain"]) for row in rows}
    for name in job.config.case:
        for number, problem in enumerate(problems(name, job.config, job.seed)):
            if (name, number) not in done:
                rows += [command.plain(row) for row in measure(name, number, problem)]
                job.save({"rows": rows}, f"{len(rows)} rows are")
    table = [
        (r["case"], str(r["agents"]), str(r["size"]), *(f"{r[m]:.4f}" for m in METHODS))
        for r in rows
        if r["chain"] == 0
    ]
    heading = ("case", "N", "k", *(label for label, _, _ in METHODS.values()))
    return command.Report({"rows": rows}, claims(rows), figures(rows, job.out), heading, table)


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("blocks", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
