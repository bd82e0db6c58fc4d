r"""Disentangling: a random policy made decomposable by gradient, its return held.

Random pairs of agents with rewards in [0, 1], where both may act or at most one, under random
policies that are nearly deterministic and so highly entangled. Adam follows the gradient of

    ||error||_2 / ||error at the start||_1 + κ max(0, 0.96 - J / J at the start) + pull mean(θ²),

norms under the stationary law: the decomposition error (squared inside, or its kinks hold the path
up), an exact penalty on lost return, and a pull on the logits. J is the long-run average reward
μ·r, that is (1 - discount) times the mean joint value; it may rise but not fall by more than 4%,
give or take a step. The pull keeps a softmax that is nearly deterministic from staying so for want
of gradient; it leads to the uniform policy, which is separable, so how much it does is measured by
`--pull 0`.

Along the path stand the error, what bounds it (Theorem 5 and its refinement by spans, both with
Eq. (7) for the entanglement, and the a posteriori bound), the entanglement, and the return.
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
from experiments import command, studies
from experiments.command import Claim
from jaxent import bounds, plotting

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        seeds: random models of each kind, with a random policy each.
        steps: of Adam.
        states: S of each agent.
        scale: standard deviation of the logits at the start.
        pull: weight of the mean squared logit.
    """

    seeds: int = 20
    steps: int = 1000
    states: int = 3
    scale: float = 3.0
    pull: float = 0.1


QUICK = Config(seeds=8, steps=400)

HELP = {
    "seeds": "random models of each kind",
    "steps": "steps of Adam, a multiple of 20",
    "states": "states of each agent",
    "scale": "standard deviation of the logits at the start",
    "pull": "weight of the mean squared logit, which draws to the uniform policy",
}

KINDS = {"both may act": 2.0, "at most one acts": 1.0}
RATE, KEPT = 0.1, 20
HELD, PENALTY = 0.96, 50.0
# What is claimed: the error falls at least tenfold, and the return by no more than 5%.
WANTED, ALLOWED = 10, 0.05


class Point(NamedTuple):
    """A policy on the way.

    Attributes:
        measured: its return, entanglement and error.
        theorem_5: bound on the error, from the entanglement.
        spans: the same with spans of local values.
        a_posteriori: bound on the error, from local values.
    """

    measured: studies.Measured
    theorem_5: Any
    spans: Any
    a_posteriori: Any


def look(mdp: jaxent.WeaklyCoupledMDP, logits: Array) -> Point:
    """What a policy is worth, how entangled, and its error with bounds."""
    chain = studies.chain_of(mdp, logits)
    given = {"chain": chain, "rewards": mdp.rewards, "discount": mdp.discount}
    measured = studies.entanglements(chain, jaxent.stationary_distribution(chain))
    return Point(
        studies.measure(mdp, chain),
        bounds.theorem_5(**given, measured=measured),
        bounds.span_mu(**given, measured=measured),
        bounds.a_posteriori(**given).mu_bound,
    )


def disentangle(key: Array, limit: Array, config: Config) -> Point:
    """The path of one random model and policy, `[1 + KEPT]`."""
    key_model, key_policy = jax.random.split(key)
    mdp = studies.random_pair(key_model, config.states, limit)
    start = jaxent.joint_softmax(mdp, scale=config.scale).init(key_policy)

    first = studies.measure(mdp, studies.chain_of(mdp, start))

    def loss(logits):
        chain = studies.chain_of(mdp, logits)
        exact = jaxent.decompose(chain, mdp.rewards, discount=mdp.discount)
        error = jnp.sqrt(exact.mu @ exact.error**2) / first.error
        earned = jaxent.average_reward(chain, mdp.rewards) / first.average_reward
        lost = jnp.maximum(0, HELD - earned)
        return error + PENALTY * lost + config.pull * jnp.mean(logits**2)

    path = studies.descend(loss, start, steps=config.steps, rate=RATE, kept=KEPT)
    return jax.vmap(partial(look, mdp))(jnp.concatenate([start[None], path]))


@partial(jax.jit, static_argnums=2)
def run(key: Array, number: Any, config: Config) -> Point:
    """Every path of the kind of this number, `[seeds, 1 + KEPT]`."""
    keys = jax.random.split(key, (len(KINDS), config.seeds))[number]
    limit = jnp.array(list(KINDS.values()))[number]
    return jax.vmap(partial(disentangle, config=config), in_axes=(0, None))(keys, limit)


def paths(found: dict) -> dict[str, np.ndarray]:
    """Every quantity along the paths of one kind, `[seeds, 1 + KEPT]`."""
    flat = {k: v for k, v in found.items() if k != "measured"} | found["measured"]
    return {name: np.array(values) for name, values in flat.items()}


def succeeded(found: dict) -> np.ndarray:
    """Which seeds end with the error reduced as wanted and the return held."""
    path = paths(found)
    gain = path["error"][:, 0] >= WANTED * path["error"][:, -1]
    return gain & (path["average_reward"][:, -1] >= (1 - ALLOWED) * path["average_reward"][:, 0])


def figures(results: dict[str, dict], steps: int, out: Path) -> list[Path]:
    """Error with its bounds, entanglement and return along the paths, a row a kind."""
    at = np.linspace(0, steps, 1 + KEPT)
    shown = {
        "error": ("error", plotting.BLUE, "-"),
        "a_posteriori": ("a posteriori bound", plotting.GREEN, "--"),
        "spans": ("Theorem 5 with spans", plotting.RED, "-."),
        "theorem_5": ("Theorem 5", plotting.GRAY, ":"),
    }
    with plotting.style():
        figure = Figure(figsize=(7.0, 2.1 * len(results) + 0.3), layout="constrained")
        axes = figure.subplots(len(results), 3, squeeze=False)
        for row, (kind, found) in zip(axes, results.items(), strict=True):
            path = paths(found)
            for name, (label, color, line) in shown.items():
                _band(row[0], at, path[name], color, line, label)
            _band(row[1], at, path["entanglement"], plotting.BLUE, "-", "")
            held = path["average_reward"] / path["average_reward"][:, :1]
            _band(row[2], at, held, plotting.BLUE, "-", "")
            row[2].axhline(1 - ALLOWED, color="black", lw=0.8, ls=":", label="5% less")
            row[0].set(yscale="log", ylabel=kind)
            row[1].set(ylim=(0, None))
        for axis, title in zip(
            axes[0],
            (
                "decomposition error and bounds",
                "entanglement, Eq. (7)",
                "return over that at the start",
            ),
            strict=True,
        ):
            axis.set_title(title, fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("step")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        axes[0, 2].legend(loc="center right")
        return command.save_figure(figure, out / "disentangle")


def _band(axis: Any, x: np.ndarray, y: np.ndarray, color: str, line: str, label: str) -> None:
    """The median of the seeds over a band from the least to the largest."""
    axis.fill_between(x, y.min(0), y.max(0), color=color, alpha=0.15, lw=0)
    axis.plot(x, np.median(y, 0), color=color, ls=line, lw=1.2, label=label)


def claims(results: dict[str, dict]) -> list[Claim]:
    """What should hold, what came out, and whether it holds."""
    told = []
    for kind, found in results.items():
        done = succeeded(found)
        told.append(
            Claim(
                f"{kind}: error 10 times less, return at most 5% less (9 of 10)",
                f"{done.sum()} of {len(done)} seeds",
                bool(done.mean() >= 0.9),
            )
        )
    every = [paths(found) for found in results.values()]
    slack = {
        name: min((p[name] / p["error"]).min() for p in every)
        for name in ("a_posteriori", "spans", "theorem_5")
    }
    drop = max((p["entanglement"][:, -1] / p["entanglement"][:, 0]).max() for p in every)
    return [
        *told,
        Claim(
            "a posteriori, spans, Theorem 5 bound the error all along",
            ", ".join(f"{x:.3g}" for x in slack.values()) + " times at least",
            min(slack.values()) >= 1 - 1e-9,
        ),
        Claim("so does the entanglement fall", f"to {drop:.0%} at most", drop < 1),
    ]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    command.at_least(config, seeds=1)
    if config.steps < 1 or config.steps % KEPT:
        raise ValueError(f"steps: {config.steps} is not a positive multiple of {KEPT}")
    studies.check_states(config.states)
    if not (0 < config.scale < np.inf and 0 <= config.pull < np.inf):
        raise ValueError("scale, pull: a scale above 0, a pull of at least 0")


def work(job: command.Job) -> command.Report:
    """Compute the paths of the kinds that are not stored, and draw."""
    found = job.stored.get("kinds", {})
    for k, kind in list(enumerate(KINDS))[len(found) :]:
        found[kind] = command.plain(run(jax.random.key(job.seed), k, job.config))
        job.save({"kinds": found}, f"{k + 1} of {len(KINDS)} kinds are")
    table = []
    for kind, result in found.items():
        for name, values in paths(result).items():
            ends = values[:, 0], values[:, -1], values[:, -1] / values[:, 0]
            told = [f"{np.median(x):.4g}" for x in ends]
            table.append((kind, name.replace("_", " "), *told, f"{ends[2].max():.4g}"))
    return command.Report(
        {"kinds": found},
        claims(found),
        figures(found, job.config.steps, job.out),
        ("pairs", "median over seeds", "start", "end", "ratio", "worst"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("disentangle", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
