"""Value decomposition as practiced: how far each way is from the truth as agents get entangled.

On random weakly coupled models, a path of policies leads from agents that decide on their own to a
random joint policy, and along it the true error is measured of Meta Algorithm 1 (each agent learns
alone, then values are summed), of an additive function fitted to the team's Bellman error (VDN),
of a monotone mixture fitted to it (QMIX), and of the sum of local functions that is nearest to the
true values in hindsight, which no sum can beat. All in the limit of data, under the stationary law.

Errors are root mean squares under that law over the spread of the true values: 1 is no better than
a constant.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command
from jaxent import plotting

DISCOUNT = 0.9
# Standard deviation of the logits of joint policies and of kernels.
SHARPNESS = 2.0


class Config(NamedTuple):
    """What is computed.

    Attributes:
        agents: numbers of agents.
        models: random models for each.
        levels: policies on the path of a model.
        states: of every agent, which has two actions.
    """

    agents: tuple[int, ...] = (2, 3)
    models: int = 20
    levels: int = 7
    states: int = 3


QUICK = Config(agents=(2,), models=8, levels=4)

HELP = {
    "agents": "numbers of agents, from 2 to 4",
    "models": "random models for each number of agents",
    "levels": "policies from separable to entangled",
    "states": "states of every agent",
}

METHODS = {
    "local": ("Meta Algorithm 1", plotting.RED, "s"),
    "additive": ("VDN: additive, fitted jointly", plotting.BLUE, "o"),
    "nearest": ("nearest sum in hindsight", "black", ""),
    "monotone": ("QMIX: monotone mixture", plotting.GREEN, "^"),
}


class Errors(NamedTuple):
    """One policy of one model; `[models, levels]` each where stacked.

    Attributes:
        entanglement: mean over agents of E_i (the right-hand side of Eq. 7).
        local: relative error of Meta Algorithm 1.
        additive: of the additive fit (VDN).
        nearest: of the projection of the true values.
        monotone: of the monotone fit (QMIX).
        converged: whether the linear fits are solved.
        stationary: whether the monotone fit stands still.
    """

    entanglement: Any
    local: Any
    additive: Any
    nearest: Any
    monotone: Any
    converged: Any
    stationary: Any


def model(key: jax.Array, num_agents: int, num_states: int) -> tuple[Any, jax.Array, jax.Array]:
    """A random weakly coupled model, a product policy and a joint policy for it."""
    kernel_key, reward_key, own_key, joint_key = jax.random.split(key, 4)
    shape = (num_agents, num_states, 2)
    logits = SHARPNESS * jax.random.normal(kernel_key, (*shape, num_states))
    kernels = jax.nn.softmax(logits)
    rewards = jax.random.uniform(reward_key, shape)
    agents = tuple(jaxent.MDP(P, r) for P, r in zip(kernels, rewards, strict=True))
    mdp = jaxent.WeaklyCoupledMDP(agents, DISCOUNT)
    own = jaxent.product_softmax(mdp)
    joint = jaxent.joint_softmax(mdp, scale=SHARPNESS)
    return mdp, own.apply(own.init(own_key)), joint.apply(joint.init(joint_key))


def measure(key: jax.Array, level: jax.Array, num_agents: int, num_states: int) -> Errors:
    """The errors of one policy, `level` of the way from separable to entangled."""
    model_key, fit_key = jax.random.split(key)
    mdp, own, joint = model(model_key, num_agents, num_states)
    chain = jaxent.pair_chain(mdp, (1 - level) * own + level * joint)
    local = jaxent.decompose(chain, mdp.rewards, discount=DISCOUNT)
    additive = jaxent.fit_additive(chain, mdp.rewards, discount=DISCOUNT)
    nearest = jaxent.fit_additive(chain, local.q_joint, discount=0.0)
    # One training, as practiced: the best of many would be another question.
    monotone = jaxent.fit_monotone(fit_key, chain, mdp.rewards, discount=DISCOUNT, num_starts=1)
    measures = [
        jaxent.entanglement_mu_atv_upper(chain, local.mu, agent=i).value for i in range(num_agents)
    ]
    spread = local.mu @ (local.q_joint - local.mu @ local.q_joint) ** 2

    def relative(fit):
        return jnp.sqrt(fit.mu @ fit.error**2 / spread)

    return Errors(
        entanglement=jnp.stack(measures).mean(),
        local=relative(local),
        additive=relative(additive),
        nearest=relative(nearest),
        monotone=relative(monotone),
        converged=additive.converged & nearest.converged,
        stationary=monotone.converged,
    )


def run(key: jax.Array, num_agents: int, config: Config) -> Errors:
    """Every policy of every model, `[models, levels]`."""
    keys = jax.random.split(key, config.models)
    levels = jnp.linspace(0.0, 1.0, config.levels)

    @jax.jit
    def every(keys, levels):
        one = lambda key, level: measure(key, level, num_agents, config.states)  # noqa: E731
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, levels)

    return every(keys, levels)


def claims(results: dict[str, Errors]) -> list[command.Claim]:
    """What one learns, beside what was measured."""
    found = []
    bound = 1 / np.sqrt(1 - DISCOUNT**2)
    for name, e in results.items():
        told = f"{name} agents"
        exact = max(x[:, 0].max() for x in (e.local, e.additive, e.nearest))
        ratio = e.additive[:, 1:] / e.nearest[:, 1:]
        cost = e.local[:, 1:] / e.additive[:, 1:]
        medians = np.median(e.local, 0).tolist()
        last = {m: np.median(getattr(e, m)[:, -1]) for m in METHODS}
        spoilt = np.median(e.monotone[:, 0])
        found += [
            command.Claim(
                f"{told}: separable, Meta Algorithm 1 and VDN are exact",
                f"largest error {exact:.1g}",
                bool(exact < 1e-9),
            ),
            command.Claim(
                f"{told}: the error of Meta Algorithm 1 grows with entanglement, VDN's too",
                f"medians {medians[1]:.3f} to {last['local']:.3f}, "
                f"{np.median(e.additive, 0)[1]:.3f} to {last['additive']:.3f}",
                sorted(medians) == medians and bool(np.median(e.additive, 0)[1] < last["additive"]),
            ),
            command.Claim(
                f"{told}: VDN errs at most {bound:.2f} times as much as the nearest sum",
                f"{np.median(ratio):.3f} times in the median, {ratio.max():.3f} at most",
                bool(ratio.max() <= bound),
            ),
            command.Claim(
                f"{told}: learning alone costs more: Meta Algorithm 1 errs more than VDN",
                f"in {(cost > 1).mean():.1%} of policies, {np.median(cost):.1f} times as much",
                bool((cost > 1).mean() >= 0.95),
            ),
            command.Claim(
                f"{told}: most entangled, QMIX errs less than any sum",
                f"median {last['monotone']:.3f} against {last['nearest']:.3f}",
                bool(last["monotone"] < last["nearest"]),
            ),
            command.Claim(
                f"{told}: separable, QMIX is as good as its training, not exact",
                f"median error {spoilt:.1g}",
                bool(1e-9 < spoilt < 0.01),
            ),
            command.Claim(
                f"{told}: all linear fits are solved, QMIX stands still in 90%",
                f"{e.converged.mean():.1%}, {e.stationary.mean():.1%}",
                bool(e.converged.all() and e.stationary.mean() >= 0.9),
            ),
        ]
    return found


def figures(results: dict[str, Errors], out: Path) -> list[Path]:
    """Median and quartiles of every error along the path, one panel for each number of agents."""
    with plotting.style():
        figure = Figure(figsize=(3.5 * len(results), 3.0), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(results), sharey=True))
        for axis, (name, e) in zip(axes, results.items(), strict=True):
            x = np.median(e.entanglement, 0)
            for method, (label, color, marker) in METHODS.items():
                low, middle, high = np.quantile(getattr(e, method), (0.25, 0.5, 0.75), axis=0)
                look = {"color": color, "label": label}
                if method == "nearest":  # over the line of VDN, or it could not be seen
                    axis.plot(x, middle, lw=1.5, ls=(0, (1, 3)), zorder=5, **look)
                    continue
                axis.plot(x, middle, marker=marker, lw=1, **look)
                axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            axis.set(title=f"{name} agents", xlabel=r"entanglement, mean of $E_i$ (median model)")
        axes[0].set(ylabel="error / spread of the true values", ylim=(0, None))
        axes[0].legend(loc="upper left")
        return command.save_figure(figure, out / "mixing")


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if not all(2 <= n <= 4 for n in config.agents):
        raise ValueError(f"agents: {config.agents} are not all from 2 to 4")
    for name in ("models", "levels", "states"):
        if getattr(config, name) < 2:
            raise ValueError(f"{name}: {getattr(config, name)} is fewer than 2")


def work(job: command.Job) -> command.Report:
    """Every number of agents that is not stored, and the figure."""
    config = job.config
    done = job.stored.get("by_agents", {})
    for n in config.agents:
        if str(n) not in done:
            key = jax.random.fold_in(jax.random.key(job.seed), n)
            done[str(n)] = command.plain(run(key, n, config))
            job.save({"by_agents": done}, f"{len(done)} of {len(config.agents)} are")
    results = {
        str(n): Errors(**{k: np.array(v) for k, v in done[str(n)].items()}) for n in config.agents
    }
    return command.Report({"by_agents": done}, claims(results), figures(results, job.out))


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run(
        "mixing", __doc__, Config(), QUICK, HELP, argv,
        check=check, work=work, besides=("agents",),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
