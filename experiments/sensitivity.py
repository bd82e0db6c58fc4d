r"""Which transition matters: the derivative of the decomposition error in every kernel entry.

A row of a kernel lies on the simplex, so an entry cannot move alone. With G = d error / d P(y|s, a)
the heat maps show

    S(s, a, y) = Σ_s' G(s, a, s') (1[s' = y] - P(s'|s, a)),

the derivative as the row moves towards state y: (1 - h) P + h e_y. It is tangent (rows of P weight
it to 0), and unlike the gradient less its plain mean the move it stands for stays on the simplex
where the row has zeros, as those of the named bandits do. Divided by the error it is the relative
change: 1 means that 1% of the row's mass moved to y adds 1% to the error.

Two agents of whom one acts, random, under a random softmax policy: both local kernels, through the
dense chain. Named restless bandits under their priority: the kernel that all N agents share,
through the exact counts.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command, studies
from experiments.command import Claim
from jaxent import plotting

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        bandit: names, of `jaxent.BANDITS`.
        size: N of these.
        states: S of each agent of the pair.
        checked: entries of each kernel held against finite differences.
    """

    bandit: tuple[str, ...] = ("circulant", "machines")
    size: int = 20
    states: int = 4
    checked: int = 6


QUICK = Config(bandit=("healthcare",), size=10, checked=3)

HELP = {
    "bandit": f"which bandits, of {', '.join(sorted(jaxent.BANDITS))}",
    "size": "number of agents of the bandits",
    "states": "states of each agent of the random pair",
    "checked": "entries of each kernel to hold against finite differences",
}

STEP, PAIR = 1e-5, "pair"
ACTIONS = ("idle", "active")


class Sensitivity(NamedTuple):
    """One model.

    Attributes:
        name: of the model.
        error: the decomposition error (mu-norm).
        kernel: `[K, S, 2, S]`, of each of K kernels.
        slope: S(s, a, y) / error, `[K, S, 2, S]`.
        places: entries checked, `[C, 4]`.
        differences: the finite differences there, over the error.
    """

    name: str
    error: Any
    kernel: Any
    slope: Any
    places: Any
    differences: Any


def tangent(gradient: Array, kernel: Array) -> Array:
    """The derivative along moves towards each state: G less its mean under the row."""
    return gradient - (gradient * kernel).sum(-1, keepdims=True)


def moved(kernel: np.ndarray, place: np.ndarray, h: float) -> np.ndarray:
    """The kernel with the share h of one row's mass moved to one state (from it if h < 0)."""
    out = kernel.copy()
    out[tuple(place[:-1])] *= 1 - h
    out[tuple(place)] += h
    return out


def difference(error: Callable, kernel: np.ndarray, place: np.ndarray) -> float:
    """The same derivative by finite differences of fourth order, one-sided at an entry of 0."""
    central = kernel[tuple(place)] > 4 * STEP
    weights = (
        {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
        if central
        else {0: -25 / 12, 1: 4, 2: -3, 3: 4 / 3, 4: -1 / 4}
    )
    moves = {k: moved(kernel, place, k * STEP) for k in weights}
    return sum(w * float(error(jnp.asarray(moves[k]))) for k, w in weights.items()) / STEP


def sensitivity(name: str, error: Callable, kernel: np.ndarray, checked: int) -> Sensitivity:
    """Gradient of the error in the kernels, and the entries that matter most held against it."""
    value, gradient = jax.value_and_grad(error)(jnp.asarray(kernel))
    slope = np.asarray(tangent(gradient, jnp.asarray(kernel)) / value)
    # The most and the least important entries, so that no large one is wrong and no small one lost.
    order = np.argsort(-np.abs(slope), axis=None)
    chosen = np.concatenate([order[: -(-checked // 2)], order[len(order) - checked // 2 :]])
    places = np.stack(np.unravel_index(chosen, slope.shape), -1)
    found = np.array([difference(error, kernel, place) for place in places]) / float(value)
    return Sensitivity(name, float(value), kernel, slope, places, found)


def random_pair(key: Array, num_states: int) -> tuple[Callable, np.ndarray]:
    """The error of a random pair as a function of its kernels `[2, S, 2, S]`, and these."""
    key_model, key_policy = jax.random.split(key)
    mdp = studies.random_pair(key_model, num_states, 1)
    family = jaxent.joint_softmax(mdp, scale=2.0)
    policy = family.apply(family.init(key_policy))

    @jax.jit
    def error(kernels):
        agents = tuple(a._replace(transition=P) for a, P in zip(mdp.agents, kernels, strict=True))
        chain = jaxent.pair_chain(mdp._replace(agents=agents), policy)
        return jaxent.decomposition_error(chain, mdp.rewards, discount=mdp.discount)

    return error, np.stack([a.transition for a in mdp.agents])


def bandit(name: str, size: int) -> tuple[Callable, np.ndarray]:
    """The error of a named bandit as a function of its kernel `[1, S, 2, S]`, and this."""
    found, priority = jaxent.named_bandit(name, size)

    # Not jitted as a whole: the parts of `ground_truth` are, once for all bandits of S states.
    def error(kernels):
        changed = found._replace(passive=kernels[0, :, 0], active=kernels[0, :, 1])
        return jaxent.ground_truth(changed, priority).mu_error

    return error, np.asarray(found.kernel)[None]


def run(key: Array, name: str, config: Config) -> Sensitivity:
    """One model: the pair, or the bandit of this name."""
    model = random_pair(key, config.states) if name == PAIR else bandit(name, config.size)
    return sensitivity(name, *model, config.checked)


def figures(results: list[dict], out: Path) -> list[Path]:
    """A heat map for each kernel and action; the pair's two agents stand side by side."""
    panels = []
    for result in results:
        for k, (slope, kernel) in enumerate(zip(result["slope"], result["kernel"], strict=True)):
            agent = f" {'AB'[k]}" if len(result["slope"]) > 1 else ""
            for action, told in enumerate(ACTIONS):
                rows = np.array(slope)[:, action], np.array(kernel)[:, action]
                panels.append((f"{result['name']}{agent}: {told}", *rows))
    with plotting.style():
        columns = 4
        height = -(-len(panels) // columns)
        figure = Figure(figsize=(7.0, 2.0 * height + 0.2), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        top = max(np.abs(slope).max() for _, slope, _ in panels)
        drawn: Any = None
        for axis, (title, slope, kernel) in zip(axes.flat, panels, strict=False):
            drawn = axis.imshow(slope, cmap="RdBu_r", vmin=-top, vmax=top)
            for place in np.argwhere(kernel == 0):
                axis.plot(*place[::-1], marker=".", color="black", ms=2)
            axis.set_title(title, fontsize=7.5)
            axis.set_xticks(range(slope.shape[1]))
            axis.set_yticks(range(slope.shape[0]))
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
        for axis in axes[:, 0]:
            axis.set_ylabel("from state")
        for axis in axes[-1]:
            axis.set_xlabel("to state")
        bar = figure.colorbar(drawn, ax=axes, aspect=30, pad=0.01)
        bar.set_label("relative change of the error per mass moved", fontsize=8)
        figure.supxlabel("a dot: a transition of probability 0", fontsize=7.5)
        return command.save_figure(figure, out / "sensitivity")


def named(result: dict, place: Any) -> str:
    """A transition in words."""
    kernel, state, action, target = place
    agent = f"agent {'AB'[kernel]}, " if len(result["slope"]) > 1 else ""
    return f"{agent}{ACTIONS[action]}, {state} -> {target}"


def claims(results: list[dict]) -> list[Claim]:
    """What should hold, what came out, and whether it holds."""
    apart, level = 0.0, 0.0
    for result in results:
        slope, kernel = np.array(result["slope"]), np.array(result["kernel"])
        at = slope[tuple(np.array(result["places"]).T)]
        far = np.abs(at - np.array(result["differences"])).max() / np.abs(slope).max()
        apart = max(apart, float(far))
        level = max(level, float(np.abs((slope * kernel).sum(-1)).max()))
    return [
        Claim("gradients meet finite differences to 1e-5", f"{apart:.1g}", apart < 1e-5),
        Claim("staying as it is changes nothing", f"{level:.1g}", level < 1e-9),
    ]


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    command.at_least(config, checked=1)
    studies.check_states(config.states)
    command.check_bandits(config.bandit, config.size)


def work(job: command.Job) -> command.Report:
    """Differentiate the error of every model that is not stored, and draw."""
    names, models = (PAIR, *job.config.bandit), job.stored.get("models", [])
    for name in names[len(models) :]:
        models.append(command.plain(run(jax.random.key(job.seed), name, job.config)))
        job.save({"models": models}, f"{len(models)} of {len(names)} models are")
    table = []
    for result in models:
        slope = np.array(result["slope"])
        for entry in np.argsort(-np.abs(slope), axis=None)[:3]:
            place = np.unravel_index(entry, slope.shape)
            change = f"{slope[place]:+.3f}"
            table.append((result["name"], f"{result['error']:.5f}", named(result, place), change))
    return command.Report(
        {"models": models},
        claims(models),
        figures(models, job.out),
        ("model", "error", "matters most", "change per mass moved"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("sensitivity", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
