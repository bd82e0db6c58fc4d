r"""The price of separability: the most that two agents can earn at a given entanglement.

Random pairs of agents of whom at most one acts, though acting pays in every state. Logits of the
joint policy climb J - λ E, with J the long-run average reward μ·r and E the sum of Eq. (7) over the
agents, for every λ and many starts at once. Eq. (7) is taken, not Prop. 1, because it is what
Theorem 5 bounds the error by and it vanishes wherever the values decompose: Prop. 1 also charges
for reading another agent's state where the chain makes no use of it.

Two points are known without a gradient. The optimum is a linear program over occupations. The best
policy under which neither agent reads the other's state draws by shared randomness who may act,
agent A with chance t, so it is worth max over t of J_A(t) + J_B(1 - t), where J_i(t) is the most
that agent i earns if it acts at most so often in each state: linear programs again.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from scipy.optimize import linprog

import jaxent
from experiments import command, studies
from experiments.command import Claim
from jaxent import plotting

Array = jax.Array


class Config(NamedTuple):
    """What is computed.

    Attributes:
        price: the λ, none below 0.
        models: random pairs of agents.
        starts: random policies from which each λ is climbed.
        steps: of Adam.
        states: S of each agent.
    """

    price: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
    models: int = 3
    starts: int = 6
    steps: int = 600
    states: int = 3


QUICK = Config(price=(0.0, 0.3, 0.6, 1.0, 2.0, 4.0), models=2, starts=4, steps=300)

HELP = {
    "price": "prices of entanglement, the lambdas",
    "models": "number of random models",
    "starts": "random policies to start from, for each price",
    "steps": "steps of Adam",
    "states": "states of each agent",
}

RATE = 0.2
SHARES = np.linspace(0, 1, 101)


class Reference(NamedTuple):
    """What is known of a model without a gradient.

    Attributes:
        optimum: the largest J.
        separable: the largest J of shared randomness.
        share: the chance t with which agent A may act in it.
        measured: of that policy, by the package.
    """

    optimum: float
    separable: float
    share: float
    measured: studies.Measured


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    for price in config.price:
        if not 0 <= price < np.inf:
            raise ValueError(
                f"price: {price:g} is not a price; a λ below 0 would pay for entanglement, give 0 "
                "or more"
            )
    if len(set(config.price)) < 2:
        raise ValueError("price: at least two, for a front")
    command.at_least(config, models=1, starts=1, steps=1)
    studies.check_states(config.states)


def model(key: Array, num_states: int) -> jaxent.WeaklyCoupledMDP:
    """Two agents of whom one may act; rewards in [0, 1/2] at rest and in [1/2, 1] in action."""
    pair = studies.random_pair(key, num_states, 1)
    pays = jnp.array([0, 0.5])[None]
    agents = tuple(agent._replace(reward=agent.reward / 2 + pays) for agent in pair.agents)
    return pair._replace(agents=agents)


@partial(jax.jit, static_argnums=3)
def climb(key: Array, number: Any, price: Array, config: Config) -> tuple[Any, studies.Measured]:
    """The model of this number, and what was reached from every start: `[prices, starts]`."""
    key_models, key_starts = jax.random.split(key)
    mdp = model(jax.random.split(key_models, config.models)[number], config.states)

    def one(price, key):
        def loss(logits):
            chain = studies.chain_of(mdp, logits)
            mu = jaxent.stationary_distribution(chain)
            entanglement = sum(e.value for e in studies.entanglements(chain, mu))
            return price * entanglement - jaxent.average_reward(chain, mdp.rewards)

        start = jaxent.joint_softmax(mdp).init(key)
        (reached,) = studies.descend(loss, start, steps=config.steps, rate=RATE)
        return studies.measure(mdp, studies.chain_of(mdp, reached))

    starts = jax.vmap(one, in_axes=(None, 0))
    prices = jax.vmap(starts, in_axes=(0, None))
    return mdp, prices(price, jax.random.split(key_starts, config.starts))


def best_average(
    kernel: np.ndarray, reward: np.ndarray, share: float = 1.0
) -> tuple[float, np.ndarray]:
    """The largest average reward if the last action is taken at most so often in every state.

    Args:
        kernel: `[S, A, S]`.
        reward: `[S, A]`.
        share: in [0, 1].

    Returns:
        The reward, and the occupation that earns it, `[S, A]`.
    """
    num_states, num_actions = reward.shape
    leaves = np.repeat(np.eye(num_states), num_actions, axis=0) - kernel.reshape(-1, num_states)
    last = np.arange(num_actions) == num_actions - 1
    found = linprog(
        -reward.reshape(-1),
        A_eq=np.vstack([leaves.T, np.ones(num_states * num_actions)]),
        b_eq=np.append(np.zeros(num_states), 1),
        A_ub=np.kron(np.eye(num_states), last - share),
        b_ub=np.zeros(num_states),
    )
    return -found.fun, found.x.reshape(num_states, num_actions)


def optimum(mdp: jaxent.WeaklyCoupledMDP) -> float:
    """The largest average reward of any policy that the coupling allows."""
    (P, r), (R, q) = [(np.asarray(a.transition), np.asarray(a.reward)) for a in mdp.agents]
    actions = [(0, 0), (1, 0), (0, 1)]
    size = len(P) * len(R)
    kernel = [np.einsum("sx,ty->stxy", P[:, a], R[:, b]).reshape(size, -1) for a, b in actions]
    reward = [(r[:, a, None] + q[None, :, b]).reshape(-1) for a, b in actions]
    return best_average(np.stack(kernel, 1), np.stack(reward, 1))[0]


def separable(mdp: jaxent.WeaklyCoupledMDP) -> tuple[float, float, Array]:
    """The best shared randomness: its reward, A's share, and its table `[S, S, 2, 2]`."""
    alone = [
        [best_average(np.asarray(a.transition), np.asarray(a.reward), t) for t in shares]
        for a, shares in zip(mdp.agents, (SHARES, 1 - SHARES), strict=True)
    ]
    worth = np.array([[value for value, _ in each] for each in alone]).sum(0)
    best = int(worth.argmax())
    p, q = (each[best][1][:, 1] / each[best][1].sum(1) for each in alone)
    table = np.zeros((len(p), len(q), 2, 2))
    table[..., 1, 0], table[..., 0, 1] = p[:, None], q[None]
    table[..., 0, 0] = 1 - p[:, None] - q[None]
    return float(worth[best]), float(SHARES[best]), jnp.asarray(np.maximum(table, 0))


def reference(mdp: jaxent.WeaklyCoupledMDP) -> Reference:
    """The optimum and the best shared randomness of one model."""
    worth, share, table = separable(mdp)
    measured = studies.measure(mdp, jaxent.pair_chain(mdp, table))
    return Reference(optimum(mdp), worth, share, measured)


def run(key: Array, config: Config, number: int) -> dict[str, Any]:
    """The references of one model, and everything reached.

    Raises:
        ValueError: for a config that makes no sense, a λ below 0 among them.
    """
    check(config)
    mdp, reached = climb(key, number, jnp.asarray(config.price), config)
    return command.plain({"reference": reference(mdp), "reached": reached})


def best_starts(result: dict, price: tuple[float, ...]) -> studies.Measured:
    """Of all starts the one with the largest J - λ E, for each λ."""
    found = studies.Measured(*(np.array(result["reached"][f]) for f in studies.Measured._fields))
    worth = found.average_reward - np.array(price)[:, None] * found.entanglement
    best = worth.argmax(1)[:, None]
    return studies.Measured(*(np.take_along_axis(x, best, 1)[:, 0] for x in found))


def front(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points to whose left no other is as high, from left to right."""
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    ahead = y > np.append(-np.inf, np.maximum.accumulate(y)[:-1])
    return x[ahead], y[ahead]


def hull(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the least concave curve above a front: all that J - λ E can single out."""
    corners: list[tuple[float, float]] = []
    for point in zip(x, y, strict=True):
        while len(corners) > 1 and _below(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    across, up = zip(*corners, strict=True)
    return np.array(across), np.array(up)


def _below(left: tuple, middle: tuple, right: tuple) -> bool:
    rise = (middle[1] - left[1]) * (right[0] - left[0])
    return rise <= (right[1] - left[1]) * (middle[0] - left[0])


def figures(results: list[dict], price: tuple[float, ...], out: Path) -> list[Path]:
    """Return against entanglement, and against decomposition error, a column a model."""
    with plotting.style():
        figure = Figure(figsize=(2.4 * len(results), 4.4), layout="constrained")
        axes = figure.subplots(2, len(results), squeeze=False)
        colors = colormaps["viridis_r"](np.linspace(0.1, 1, len(price)))
        for column, result in zip(axes.T, results, strict=True):
            known, every = result["reference"], result["reached"]
            best = best_starts(result, price)
            y = np.array(every["average_reward"])
            for axis, quantity in zip(column, ("entanglement", "error"), strict=True):
                x = np.array(every[quantity])
                ahead = front(np.append(x, 0), np.append(y, known["separable"]))
                axis.axhline(known["optimum"], color=plotting.GRAY, lw=0.8, ls=":")
                axis.scatter(x, y, s=3, color=np.repeat(colors, x.shape[1], axis=0), alpha=0.6)
                axis.step(*ahead, where="post", color="black", lw=0.8)
                axis.plot(*hull(*ahead), color=plotting.GRAY, lw=0.8, ls="--")
                axis.scatter(
                    getattr(best, quantity), best.average_reward, s=22, color=colors,
                    edgecolors="black", linewidths=0.4, zorder=3,
                )  # fmt: skip
                axis.scatter(
                    0, known["separable"], s=60, marker="*", color=plotting.RED, zorder=4,
                    edgecolors="black", linewidths=0.4, clip_on=False,
                )  # fmt: skip
                low = min(best.average_reward.min(), known["separable"])
                axis.set_ylim(1.15 * low - 0.15 * known["optimum"], None)
                axis.set_xlim(0, 1.15 * getattr(best, quantity).max())
        for k, axis in enumerate(axes[0]):
            axis.set(title=f"model {k + 1}", xlabel="entanglement, Eq. (7)")
        for axis in axes[1]:
            axis.set(xlabel="decomposition error")
        for axis in axes[:, 0]:
            axis.set(ylabel=r"average reward $J$")
        drawn = axes[0, 0]
        drawn.plot([], [], color=plotting.GRAY, lw=0.8, ls=":", label="optimum")
        drawn.plot([], [], color="black", lw=0.8, label="front")
        drawn.plot([], [], color=plotting.GRAY, lw=0.8, ls="--", label="its concave hull")
        drawn.scatter([], [], s=22, color=colors[len(price) // 2], ec="black", lw=0.4,
                      label=r"best start of each $\lambda$")  # fmt: skip
        drawn.scatter([], [], s=60, marker="*", color=plotting.RED, ec="black", lw=0.4,
                      label="best shared randomness")  # fmt: skip
        figure.legend(loc="outside upper center", ncols=5)
        shades = ScalarMappable(BoundaryNorm(np.arange(len(price) + 1) - 0.5, len(price)))
        shades.set_cmap(ListedColormap(colors))
        bar = figure.colorbar(shades, ax=axes, ticks=range(len(price)), aspect=40, pad=0.01)
        bar.minorticks_off()
        bar.set_ticklabels([f"{p:g}" for p in price], fontsize=7)
        bar.set_label(r"price of entanglement $\lambda$")
        return command.save_figure(figure, out / "tradeoff")


def claims(results: list[dict], price: tuple[float, ...]) -> list[Claim]:
    """What should hold, what came out, and whether it holds."""
    best = [best_starts(r, price) for r in results]
    known = [r["reference"] for r in results]
    short = max(1 - b.average_reward[0] / r["optimum"] for b, r in zip(best, known, strict=True))
    over = max(np.max(r["reached"]["average_reward"]) - r["reference"]["optimum"] for r in results)
    exact = max(max(r["measured"]["entanglement"], r["measured"]["error"]) for r in known)
    rise = max(np.diff(b.entanglement).max() / b.entanglement[0] for b in best)
    gain, left = [], []
    for r, b in zip(results, best, strict=True):
        found = {f: np.array(x) for f, x in r["reached"].items()}
        low = found["entanglement"] <= b.entanglement[0] / 10
        top = np.where(low, found["average_reward"], -np.inf).argmax()
        gain.append(found["average_reward"].flat[top] / r["reference"]["separable"] - 1)
        left.append(found["error"].flat[top] / b.error[0])
    return [
        Claim("λ = 0 reaches the optimum to 0.2%", f"to {short:.2%}", short < 2e-3),
        Claim("no policy earns more", f"by {over:.1g} at most", over < 1e-9),
        Claim("shared randomness: E = error = 0", f"{exact:.1g}", exact < 1e-12),
        Claim("E falls as λ grows", f"rises by {rise:.1%} of E(0) at most", rise < 0.05),
        Claim(
            "a tenth of E costs no more than shared randomness does",
            f"J {min(gain):+.1%} to {max(gain):+.1%} of its",
            min(gain) > -5e-3,
        ),
        Claim("the error falls with it, fivefold", f"{1 / max(left):.1f} times", max(left) < 0.2),
    ]


def work(job: command.Job) -> command.Report:
    """Climb from every start for every price in the models that are not stored, and draw."""
    price, number = job.config.price, job.config.models
    models = job.stored.get("models", [])
    for k in range(len(models), number):
        models.append(run(jax.random.key(job.seed), job.config, k))
        job.save({"models": models}, f"{k + 1} of {number} models are")
    table = []
    for k, result in enumerate(models):
        known, best = result["reference"], best_starts(result, price)
        rows = [("optimum", known["optimum"], None, None)]
        rows += [(f"λ = {p:g}", *each) for p, *each in zip(price, *best, strict=True)]
        rows += [("shared randomness", known["separable"], 0, 0)]
        for who, *numbers in rows:
            told = ["" if x is None else f"{x:.4f}" for x in numbers]
            table.append((str(k + 1), who, *told))
    return command.Report(
        {"models": models},
        claims(models, price),
        figures(models, price, job.out),
        ("model", "policy", "J", "E", "error"),
        table,
    )


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run("tradeoff", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
