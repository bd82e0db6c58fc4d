"""The gallery: every picture of `jaxent.plotting`, on light and on dark ground, of small models."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxent
from experiments import command, studies
from experiments.command import Claim
from jaxent import plotting

Array = jax.Array
Picture = Callable[[Axes], Any]


class Config(NamedTuple):
    """What is computed.

    Attributes:
        size: numbers of agents of the bandit.
        steps: epochs of the log, and of each simulation.
        policies: of the front.
        updates: of the index that is learned.
    """

    size: tuple[int, ...] = (10, 20, 40, 60)
    steps: int = 5000
    policies: int = 60
    updates: int = 100


QUICK = Config(size=(10, 20), steps=1000, policies=10, updates=3)

HELP = {
    "size": "numbers of agents of the bandit",
    "steps": "epochs of the log, and of each simulation",
    "policies": "random policies of the front",
    "updates": "gradient steps of the index that is learned",
}

DISCOUNT = 0.9
MATVECS = (1, 2, 3, 4, 6, 8, 12)
# Under a policy that is softer the index is better told, and the gradient larger.
TEMPERATURE = 0.2


def check(config: Config) -> None:
    """Raise a ValueError that names the option that is out of range."""
    command.at_least(config, steps=400, policies=2, updates=1)
    command.check_bandits(("circulant", "machines"), *config.size)


def two_agents(key: Array) -> tuple[jaxent.WeaklyCoupledMDP, jaxent.PairChain]:
    """Two random agents, one of whom acts at a time, by a random policy."""
    mdp = studies.random_pair(key, 3, 1.0)
    return mdp, studies.chain_of(mdp, 2 * jax.random.normal(key, mdp.policy_shape))


def two_machines() -> tuple[jaxent.WeaklyCoupledMDP, jaxent.PairChain]:
    """Two machines that wear out, and a mechanic who repairs the worse one: the README's team."""
    wear = jnp.array([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]])
    repair = jnp.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    earns = jnp.array([[1.0, 0.5], [0.6, 0.1], [0.0, -0.5]])
    machine = jaxent.MDP(jnp.stack([wear, repair], axis=1), earns)
    team = studies.limited((machine, machine), DISCOUNT, 1)
    return team, jaxent.pair_chain(team, jaxent.index_policy((2, 1, 0), num_agents=2, budget=1))


def question(exact: dict[int, jaxent.GroundTruth], limit: jaxent.MeanField, out: Path) -> Path:
    """How wrong is this sum of values? For a team of two, and as the team grows."""
    team, chain = two_machines()
    found = jaxent.decompose(chain, team.rewards, discount=DISCOUNT)
    seen = np.asarray(found.visited)
    joint = np.asarray(found.q_joint)[seen]
    total = joint - np.asarray(found.error)[seen]
    with plotting.style():
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        ends = [min(joint.min(), total.min()), max(joint.max(), total.max())]
        left.plot(ends, ends, color=plotting.GRAY, lw=1, ls=":")
        left.vlines(joint, joint, total, color=plotting.RED, lw=1)
        left.scatter(joint, total, s=8 + 300 * np.asarray(found.mu)[seen], color=plotting.BLUE)
        left.set(xlabel="true value of two machines", ylabel="sum of their local values")
        left.set_title("how wrong is this sum of values?", fontsize="medium")
        plotting.plot_over_agents("relative error", exact=exact, limit=limit, ax=right)
        right.set_title("... of an index policy's agents?", fontsize="medium")
        figure.savefig(out / "question.png", dpi=200)
    return out / "question.png"


def four_servers() -> jaxent.PairChain:
    """Four agents of two pairs; the next one of each is pushed by its left neighbor's."""
    n = 4
    states = np.indices((2,) * n).reshape(n, -1)
    P = np.ones((2**n, 2**n))
    for i in range(n):
        up = 0.2 + 0.2 * states[i] + (0.1 + 0.1 * i) * states[i - 1]
        P *= np.where(states[i][None], up[:, None], 1 - up[:, None])
    return jaxent.PairChain.from_matrix(P, sizes=(2,) * n)


def of_two_agents(key: Array, config: Config) -> dict[str, Picture]:
    """Where the error is, what bounds it, what policies cost, and an audit of their log."""
    mdp, chain = two_agents(key)
    found = jaxent.decompose(chain, mdp.rewards, discount=DISCOUNT)
    report = jaxent.bounds.report(chain, mdp.rewards, discount=DISCOUNT)
    keys = jax.random.split(key, config.policies)
    logits = jax.vmap(lambda k: 3 * jax.random.normal(k, mdp.policy_shape))(keys)
    front = jax.jit(jax.vmap(lambda x: studies.measure(mdp, studies.chain_of(mdp, x))))(logits)
    log = jaxent.chain_trajectory(
        key, chain, mdp.rewards, num_steps=config.steps, num_actions=2
    )  # fmt: skip
    audit = jaxent.audit(log, discount=DISCOUNT)
    tables = jaxent.lstd_local_q(log, discount=DISCOUNT)
    estimate = jaxent.estimate_approximation_error(key, log, tables, discount=DISCOUNT)
    return {
        "error_by_pair": lambda ax: plotting.plot_error_by_pair(found, sizes=chain.sizes, ax=ax),
        "error_in_a_log": lambda ax: plotting.plot_error_by_pair(estimate, ax=ax),
        "bounds": lambda ax: plotting.plot_bounds(report, ax=ax),
        "front": lambda ax: plotting.plot_front(front.error, front.average_reward, ax=ax),
        "audit_errors": lambda ax: plotting.plot_audit_errors(audit, ax=ax),
        "audit_agents": lambda ax: plotting.plot_audit_agents(audit, ax=ax),
    }


def of_four_servers() -> dict[str, Picture]:
    """Who moves whom, where the error is, and the bracket as it closes."""
    chain = four_servers()
    mu = jaxent.stationary_distribution(chain)
    table = jaxent.entanglement_map(chain, mu)
    rewards = [jnp.array([0.0, 1.0])] * len(chain.sizes)
    found = jaxent.decompose(chain, rewards, discount=DISCOUNT)
    return {
        "entanglement_map": lambda ax: plotting.plot_entanglement_map(table, ax=ax),
        "largest_errors": lambda ax: plotting.plot_error_by_pair(found, sizes=chain.sizes, ax=ax),
    }


def of_many_states(key: Array) -> dict[str, Picture]:
    """The bracket of the error as it closes, of a chain too large to eliminate."""
    agents = []
    for each in jax.random.split(key, 2):
        kernel = jax.random.exponential(each, (48, 2, 48))
        agents.append(
            jaxent.MDP(kernel / kernel.sum(-1, keepdims=True), jax.random.uniform(each, (48, 2)))
        )
    mdp = studies.limited(tuple(agents), DISCOUNT, 1.0)
    chain = studies.chain_of(mdp, 3 * jax.random.normal(key, mdp.policy_shape))
    local = jaxent.local_q_values(chain, mdp.rewards, discount=DISCOUNT)
    ask = partial(jaxent.approximation_error, chain, mdp.rewards, local, discount=DISCOUNT)
    found = [ask(max_matvecs=many) for many in MATVECS]
    return {"brackets": lambda ax: plotting.plot_brackets(found, ax=ax)}


def of_bandits(key: Array, config: Config, out: Path) -> tuple[dict[str, Picture], Path]:
    """Entanglement over N, a learned index beside Whittle's, and the question of the README."""
    exact, simulated = {}, {}
    for size in config.size:
        bandit = jaxent.circulant_bandit(size)
        exact[size] = jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY)
        run = jaxent.simulate_counts(
            jax.random.fold_in(key, size), bandit, jaxent.CIRCULANT_PRIORITY,
            num_steps=config.steps,
        )  # fmt: skip
        share = run.counts[:-1] / size
        simulated[size] = jaxent.entanglement_interval(run.policy[:-1], share)
    limit = jaxent.mean_field(bandit, jaxent.CIRCULANT_PRIORITY)
    few = jaxent.named_bandit("machines", config.size[0]).bandit
    learned = learn(few, config.updates)
    whittle = jaxent.whittle_index(few)
    pictures: dict[str, Picture] = {
        "over_agents": lambda ax: plotting.plot_over_agents(
            "entanglement", exact=exact, simulated=simulated, limit=limit, ax=ax
        ),
        "indices": lambda ax: plotting.plot_indices(learned, whittle, ax=ax),
    }
    return pictures, question(exact, limit, out)


def learn(bandit: jaxent.RestlessBandit, updates: int) -> Array:
    """The index of a soft policy that pays best, by gradient."""
    family = jaxent.soft_index(bandit.num_states, TEMPERATURE)

    def loss(index: Array) -> Array:
        return -jaxent.ground_truth(bandit, family.apply(index)).average_reward / bandit.num_agents

    optimizer = optax.adam(0.1)
    slope = jax.jit(jax.grad(loss))
    index: Any = jnp.zeros(bandit.num_states)
    state = optimizer.init(index)
    for _ in range(updates):
        change, state = optimizer.update(slope(index), state)
        index = optax.apply_updates(index, change)
    return index


def draw(pictures: dict[str, Picture], out: Path) -> list[Path]:
    """Each on light and on dark ground."""
    files = []
    for dark in (False, True):
        with plotting.style(dark=dark):
            for name, picture in pictures.items():
                figure = Figure(figsize=(3.6, 2.8), layout="constrained")
                picture(figure.add_subplot())
                files.append(out / f"{name}{'_dark' * dark}.png")
                figure.savefig(files[-1], dpi=150)
    return files


def work(job: command.Job) -> command.Report:
    """Compute and draw."""
    key = jax.random.key(job.seed)
    pictures = of_two_agents(key, job.config) | of_four_servers() | of_many_states(key)
    more, first = of_bandits(key, job.config, job.out)
    pictures |= more
    files = [first, *draw(pictures, job.out)]
    drawn = Claim("every picture on both grounds", f"{len(files)} files", len(files) == 23)
    return command.Report({"pictures": list(pictures)}, [drawn], files)


def main(argv: list[str] | None = None) -> int:
    """Compute and draw; 0 if every picture was."""
    return command.run("gallery", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
