"""An index learned by gradient ascent on the return, against Whittle, fluid and myopic priorities.

The policy is a soft index policy whose temperature falls along the way. At few agents the gradient
is that of the exact chain; at many it is that of the mean field with its Gaussian correction, whose
cost does not depend on N. Cold, the limit cannot tell orders apart that serve the same states fully
at m*: each attains the fluid bound, and what they differ by is of rare excursions. So more starts
are taken there, and a short simulation chooses among the orders that they end on. The learned index
is then served as a hard priority, like its rivals: exactly at few agents, next to every other order
of the states; by a simulation of its own at many, where each return carries its standard error.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxent
from experiments import command
from jaxent import plotting

Array = jax.Array


class Config(NamedTuple):
    """What is learned.

    Attributes:
        bandit: names, of `jaxent.BANDITS`.
        few: N of the exact chain.
        many: N of the mean field.
        starts: random indices to start from, four times as many in the limit.
        steps: gradient steps.
        epochs: of each of the simulated runs at many agents.
        runs: simulated runs.
    """

    bandit: tuple[str, ...] = tuple(sorted(jaxent.BANDITS))
    few: int = 10
    many: int = 100
    starts: int = 4
    steps: int = 80
    epochs: int = 20_000
    runs: int = 8


QUICK = Config(("circulant", "healthcare"), starts=2, steps=40, epochs=4000)

HELP = {
    "bandit": f"which bandits, of {', '.join(sorted(jaxent.BANDITS))}",
    "few": "number of agents of the exact chain, a multiple of 10",
    "many": "number of agents of the mean field, a multiple of 10",
    "starts": "random indices to start from, four times as many in the limit",
    "steps": "gradient steps",
    "epochs": "epochs of a simulated run",
    "runs": "simulated runs at many agents",
}

_WARM, _COLD = 0.5, 0.02  # temperatures, in units of the index, which starts with deviation 1
_RATE = 0.15
_LARGEST = 2048  # agents that the simulation has tables for
_MORE = 4  # starts in the limit for each in the exact chain
_TOLERANCE = 1e-3


class Climb(NamedTuple):
    """Gradient ascent from several starts.

    Attributes:
        index: last index of each start, `[K, S]`.
        path: the objective at every step, `[K, T]`.
    """

    index: Array
    path: Array


class Served(NamedTuple):
    """Priorities by name with their return an agent and step; `error` is 0 where it is exact."""

    priority: dict[str, list[int]]
    reward: dict[str, float]
    error: dict[str, float]


@partial(jax.jit, static_argnums=(0, 2))
def climb(objective: Callable[[Array, Array], Array], starts: Array, steps: int) -> Climb:
    """Adam on objective(index, temperature), the temperature falling from warm to cold.

    A step whose gradient is not finite (no stable fixed point there) is not taken.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
    temperatures = _WARM * (_COLD / _WARM) ** (jnp.arange(steps) / max(steps - 1, 1))

    def step(carry: tuple[Array, Any], temperature: Array) -> tuple[tuple[Array, Any], Array]:
        index, state = carry
        value, gradient = jax.value_and_grad(objective)(index, temperature)
        updates, after = optimizer.update(-gradient, state)
        fine = jnp.isfinite(gradient).all()
        index = jnp.where(fine, index + jnp.asarray(updates), index)
        state = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, state)
        return (index, state), value

    def one(start: Array) -> Climb:
        (index, _), path = jax.lax.scan(step, (start, optimizer.init(start)), temperatures)
        return Climb(index, path)

    return jax.lax.map(one, starts)


def exact_return(bandit: jaxent.RestlessBandit) -> Callable[[Array, Array], Array]:
    """Average reward of one agent in the exact chain."""

    def value(index: Array, temperature: Array) -> Array:
        truth = jaxent.soft_ground_truth(bandit, jaxent.SoftIndex(index, temperature))
        return truth.average_reward / bandit.num_agents

    return value


def limit_return(bandit: jaxent.RestlessBandit) -> Callable[[Array, Array], Array]:
    """Average reward of one agent in the mean field, with its 1 / N correction."""

    def value(index: Array, temperature: Array) -> Array:
        field = jaxent.soft_mean_field(bandit, jaxent.SoftIndex(index, temperature))
        return field.average_reward + field.average_reward_correction / bandit.num_agents

    return value


def rivals(bandit: jaxent.RestlessBandit) -> dict[str, list[int]]:
    """The priorities that people use; Whittle's where the bandit is indexable."""
    known = {
        "fluid": jaxent.fluid_priority(bandit).priority,
        "myopic": jaxent.myopic_priority(bandit),
    }
    for name, index in (
        ("Whittle", jaxent.whittle_index(bandit)),
        ("Whittle, average", jaxent.average_whittle_index(bandit)),
    ):
        if index.indexable:
            known[name] = jaxent.index_priority(index.index)
    return {name: [int(s) for s in order] for name, order in known.items()}


def learned_orders(learned: Climb) -> list[list[int]]:
    """The priorities that the starts ended on, each once."""
    orders = [jaxent.index_priority(index).tolist() for index in np.asarray(learned.index)]
    return [list(order) for order in dict.fromkeys(map(tuple, orders))]


def serve_exactly(bandit: jaxent.RestlessBandit, learned: Climb) -> tuple[Served, list[float]]:
    """Exact returns of the learned priority and its rivals, and those of all orders."""
    returns = {}
    for order in itertools.permutations(range(bandit.num_states)):
        truth = jaxent.ground_truth(bandit, order)
        returns[order] = float(truth.average_reward) / bandit.num_agents
    named = rivals(bandit)
    named["learned"] = max(learned_orders(learned), key=lambda order: returns[tuple(order)])
    reward = {name: returns[tuple(order)] for name, order in named.items()}
    return Served(named, reward, dict.fromkeys(named, 0.0)), sorted(returns.values())


@partial(jax.jit, static_argnums=(3, 4))
def simulated_returns(
    key: Array, bandit: jaxent.RestlessBandit, priority: Array, runs: int, epochs: int
) -> Array:
    """Mean reward of one agent in each run, its first tenth left out, `[runs]`."""

    def one(key: Array) -> Array:
        moved = jaxent.simulate_counts(
            key, bandit, priority, num_steps=epochs, max_agents=_LARGEST
        ).flow[epochs // 10 :]
        return (moved.sum(-1) * bandit.reward[None]).sum((1, 2)).mean() / bandit.num_agents

    return jax.vmap(one)(jax.random.split(key, runs))


def serve_many(key: Array, bandit: jaxent.RestlessBandit, learned: Climb, config: Config) -> Served:
    """Simulated returns of the learned priority and its rivals, under common random numbers.

    The learned one is chosen by other random numbers, so that it is not favored.
    """
    key_choice, key = jax.random.split(key)

    def chosen_by(order: list[int]) -> float:
        paid = simulated_returns(key_choice, bandit, jnp.array(order), config.runs, config.epochs)
        return float(paid.mean())

    named = rivals(bandit)
    named["learned"] = max(learned_orders(learned), key=chosen_by)
    reward, error = {}, {}
    for name, order in named.items():
        paid = simulated_returns(key, bandit, jnp.array(order), config.runs, config.epochs)
        reward[name] = float(paid.mean())
        error[name] = float(paid.std(ddof=1) / np.sqrt(config.runs))
    return Served(named, reward, error)


def learn(key: Array, name: str, config: Config) -> dict[str, Any]:
    """Everything of one bandit."""
    few, _ = jaxent.named_bandit(name, config.few)
    many, _ = jaxent.named_bandit(name, config.many)
    key_starts, key_runs = jax.random.split(key)
    starts = jax.random.normal(key_starts, (_MORE * config.starts, few.num_states))
    exact = climb(exact_return(few), starts[: config.starts], config.steps)
    limit = climb(limit_return(many), starts, config.steps)
    served, orders = serve_exactly(few, exact)
    return {
        "few": served,
        "orders": orders,
        "path": exact.path,
        "index": exact.index,
        "many": serve_many(key_runs, many, limit, config),
        "limit_path": limit.path,
        "limit_index": limit.index,
        "fluid_bound": jaxent.fluid_priority(many).value,
    }


def run(
    key: Array, config: Config, done: dict[str, Any], save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Every bandit in turn, by name, saved one by one; those that are done stay as they are."""
    pieces = [[k] for k, name in enumerate(config.bandit) if name not in done]
    for [k] in command.progress(pieces, "bandit"):
        name = config.bandit[k]
        own = jax.random.fold_in(key, sorted(jaxent.BANDITS).index(name))
        done = done | {name: command.plain(learn(own, name, config))}
        save(done)
    return {name: done[name] for name in config.bandit}


def shortfall(served: dict[str, Any], name: str) -> float:
    """How much less than the best of all the others a priority earns, an agent and step."""
    others = [value for rival, value in served["reward"].items() if rival != name]
    return max(others) - served["reward"][name]


def claims(results: dict[str, Any], config: Config) -> list[command.Claim]:
    """What was to be shown, and what is added."""
    few = {name: config.few * shortfall(r["few"], "learned") for name, r in results.items()}
    worst = max(few, key=lambda name: few[name])
    first = {
        n: config.few * (r["orders"][-1] - r["few"]["reward"]["learned"])
        for n, r in results.items()
    }
    best = max(first, key=lambda name: first[name])
    scores = {}
    for name, r in results.items():
        rival = max((k for k in r["many"]["reward"] if k != "learned"), key=r["many"]["reward"].get)
        both = np.hypot(r["many"]["error"]["learned"], r["many"]["error"][rival])
        scores[name] = shortfall(r["many"], "learned") / max(both, 1e-12)
    behind = max(scores, key=lambda name: scores[name])
    return [
        command.Claim(
            f"N = {config.few}: learned index at least as good as Whittle, fluid, myopic (1e-3)",
            f"{worst} is {few[worst]:+.2g} short, all agents together",
            few[worst] <= _TOLERANCE,
        ),
        command.Claim(
            f"N = {config.few}: ... and as the best of all orders of the states (1e-3)",
            f"{best} is {first[best]:+.2g} short",
            first[best] <= _TOLERANCE,
        ),
        command.Claim(
            f"N = {config.many}: learned in the mean field, not behind by 3 standard errors",
            f"{behind} is {scores[behind]:+.1f} s.e. behind",
            scores[behind] <= 3,
        ),
    ]


_MARKS = {"Whittle": "s", "Whittle, average": "D", "fluid": "^", "myopic": "v", "learned": "o"}


def figures(results: dict[str, Any], config: Config, out: Path) -> list[Path]:
    """Return of each priority, from the worst order to the best; and what the climbs look like."""
    names = list(results)
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.1), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
        for row, name in enumerate(names):
            result = results[name]
            low, high = result["orders"][0], result["orders"][-1]
            span = high - low
            if span < _TOLERANCE / config.few:  # all orders are worth the same
                low, span = high - 1, 1.0
            scale = abs(result["fluid_bound"]) / 100
            left.plot([0, 1], [row, row], color=plotting.GRAY, lw=0.5, zorder=0)
            for kind, mark in _MARKS.items():
                look = _look(kind, mark)
                if kind in result["few"]["reward"]:
                    left.plot((result["few"]["reward"][kind] - low) / span, row, **look)
                if kind in result["many"]["reward"]:
                    gap = result["fluid_bound"] - result["many"]["reward"][kind]
                    error = 2 * result["many"]["error"][kind]
                    middle.errorbar(gap / scale, row, xerr=error / scale, lw=0.8, **look)
        for axis in (left, middle):
            axis.set_yticks(range(len(names)), names if axis is left else [""] * len(names))
            axis.set_ylim(len(names) - 0.5, -0.5)
        left.set_xticks([0, 1], ["worst order", "best order"])
        left.set_xlabel(f"return, $N={config.few}$ (exact)")
        left.set_xlim(-0.1, 1.25)
        middle.set_xlabel(f"% short of the fluid bound, $N={config.many}$")
        for kind, mark in _MARKS.items():
            middle.plot([], [], label=kind, **_look(kind, mark))
        middle.set_xscale("symlog", linthresh=1, linscale=0.7)
        middle.set_xticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
        middle.minorticks_off()
        middle.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
        shown = "circulant" if "circulant" in results else names[0]
        for path in results[shown]["path"]:
            right.plot(path, color=plotting.BLUE, lw=0.9)
        for path in results[shown]["limit_path"][: config.starts]:
            right.plot(path, color=plotting.RED, lw=0.9, ls="--")
        right.plot([], [], color=plotting.BLUE, lw=0.9, label=f"exact, $N={config.few}$")
        right.plot([], [], color=plotting.RED, lw=0.9, ls="--", label=f"limit, $N={config.many}$")
        right.set(xlabel=f"gradient step ({shown})", ylabel="return, an agent and step")
        right.legend(loc="lower right")
        return command.save_figure(figure, out / "learned_index")


def _look(kind: str, mark: str) -> dict[str, Any]:
    learned = kind == "learned"
    color = plotting.RED if learned else plotting.BLUE
    return {
        "marker": mark,
        "ls": "",
        "color": color,
        "markerfacecolor": "none" if learned else color,
        "markersize": 7 if learned else 3.5,
    }


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    command.check_bandits(config.bandit, config.few, config.many)
    if config.many > _LARGEST:
        raise ValueError(f"many: {config.many} is more than {_LARGEST}, the most simulated")
    command.at_least(config, starts=1, steps=1, runs=2, epochs=10)


def work(job: command.Job) -> command.Report:
    """Learn an index for every bandit that is not stored, and draw."""
    config, key = job.config, jax.random.key(job.seed)
    done = job.stored.get("bandits", {})
    save = lambda done: job.save({"bandits": done}, f"{len(done)} bandits are")  # noqa: E731
    results = run(key, config, done, save)
    drawn = figures(results, config, job.out)
    return command.Report({"bandits": results}, claims(results, config), drawn)


def main(argv: list[str] | None = None) -> int:
    """Learn, draw and print; 0 if every claim holds."""
    return command.run(
        "learned_index", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("bandit",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
