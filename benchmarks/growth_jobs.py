"""The core jobs whose growth is measured, each as a function of one size.

A model is drawn at random, the same in every process that asks for it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent


class Job(NamedTuple):
    """One core job against one size.

    Attributes:
        title: what is computed.
        axis: what grows.
        sizes: how far, and toy sizes.
        build: size to (function, arguments): a jitted function where it is one program.
        volume: size to what time is fitted against, named by `unit`.
        unit: of the volume.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    build: Callable[[int], tuple[Callable, tuple]]
    volume: Callable[[int], float] = float
    unit: str = ""


def bandit(num_states: int, num_agents: int) -> jaxent.RestlessBandit:
    """A random bandit, a fifth of whose agents act."""
    rng = np.random.default_rng(0)
    idle, active = rng.dirichlet(np.ones(num_states), (2, num_states))
    reward = rng.normal(size=(num_states, 2))
    return jaxent.RestlessBandit(idle, active, reward, num_agents, num_agents // 5, 0.9)


def simulation(model: jaxent.RestlessBandit, runs: int = 16) -> tuple[Callable, tuple]:
    """Independent runs of 2000 epochs."""
    order = np.arange(model.num_states)

    @jax.jit
    @jax.vmap
    def simulate(key):
        return jaxent.simulate_counts(key, model, order, num_steps=2000).counts

    return simulate, (jax.random.split(jax.random.key(0), runs),)


def sharded(devices: int) -> tuple[Callable, tuple]:
    """The same, 64 runs spread over devices."""
    simulate, (keys,) = simulation(jaxent.circulant_bandit(1000), 64)
    mesh = jax.make_mesh((devices,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))
    return simulate, (jax.device_put(keys, spread),)


def exact(model: jaxent.RestlessBandit) -> tuple[Callable, tuple]:
    """Exact law, values, error and entanglement of a priority rule."""
    return lambda: jaxent.ground_truth(model, np.arange(model.num_states)), ()


def coupled(number: int, states: int) -> tuple[jaxent.WeaklyCoupledMDP, jax.Array]:
    """Coupled agents with two actions, under any joint policy."""
    rng = np.random.default_rng(0)
    agents = tuple(
        jaxent.MDP(
            jnp.asarray(rng.dirichlet(np.ones(states), (states, 2))),
            jnp.asarray(rng.normal(size=(states, 2))),
        )
        for _ in range(number)
    )
    policy = rng.dirichlet(np.ones(2**number), states**number)
    policy = jnp.asarray(policy.reshape((states,) * number + (2,) * number))
    return jaxent.WeaklyCoupledMDP(agents, 0.9), policy


def joint(number: int, states: int) -> tuple[Callable, tuple]:
    """Joint Q-values of coupled agents with two actions."""

    @jax.jit
    def evaluate(mdp, policy):
        chain = jaxent.pair_chain(mdp, policy)
        return jaxent.solve_q(chain, mdp.rewards, discount=0.9).value

    return evaluate, coupled(number, states)


def joint_error(number: int, states: int) -> tuple[Callable, tuple]:
    """The chain, its law, local values, and a bracket of 1% of the error of their sum."""

    def evaluate(mdp, policy):
        chain = jaxent.pair_chain(mdp, policy)
        mu = jaxent.stationary_distribution(chain)
        local = jaxent.local_q_values(chain, mdp.rewards, discount=0.9, mu=mu)
        found = jaxent.approximation_error(chain, mdp.rewards, local, discount=0.9, mu=mu)
        assert found.upper <= 1.01 * found.lower
        return found

    return evaluate, coupled(number, states)


def measure(pairs: int) -> tuple[Callable, tuple]:
    """The certified TV measure of a random chain of two agents."""
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.dirichlet(np.ones(pairs**2), pairs**2))
    chain = jaxent.PairChain.from_matrix(matrix, sizes=(pairs, pairs))
    return jax.jit(lambda chain: jaxent.entanglement_tv(chain).value), (chain,)


def soft(model: jaxent.RestlessBandit) -> tuple[Callable, tuple]:
    """Gradient of the exact mu-error in the index of a soft policy."""

    def error(index):
        return jaxent.ground_truth(model, jaxent.SoftIndex(index, 0.1)).mu_error

    return jax.jit(jax.grad(error)), (jnp.linspace(1.0, 0.0, model.num_states),)


def gradients(policies: int) -> tuple[Callable, tuple]:
    """Gradients of the decomposition error of many policies, two agents of 8 pairs each."""
    mdp, _ = coupled(2, 4)

    def error(logits):
        chain = jaxent.pair_chain(mdp, jaxent.softmax_policy(logits))
        return jaxent.decomposition_error(chain, mdp.rewards, discount=0.9)

    logits = np.random.default_rng(0).normal(size=(policies, 4, 4, 2, 2))
    return jax.jit(jax.vmap(jax.grad(error))), (jnp.asarray(logits),)


def configurations(agents: int, states: int) -> float:
    """Number of configurations."""
    return float(np.prod([(agents + k) / k for k in range(1, states)]))


JOBS: dict[str, Job] = {
    "counts_N": Job(
        "counts simulation, 16 runs",
        "N",
        (100, 400, 1600, 6400, 25600),
        (10, 20),
        lambda n: simulation(jaxent.circulant_bandit(n // 5 * 5)),
    ),
    "counts_S": Job(
        "counts simulation, N = 1000, 16 runs",
        "S",
        (2, 4, 8, 16, 32),
        (2, 3),
        lambda s: simulation(bandit(s, 1000)),
    ),
    "exact_N": Job(
        "exact ground truth, S = 4",
        "N",
        (10, 20, 30, 40),
        (5, 10),
        lambda n: exact(jaxent.circulant_bandit(n)),
        lambda n: configurations(n, 4),
        "configurations",
    ),
    "exact_S": Job(
        "exact ground truth, N = 10",
        "S",
        (2, 3, 4, 5),
        (2, 3),
        lambda s: exact(bandit(s, 10)),
        lambda s: configurations(10, s),
        "configurations",
    ),
    "joint_N": Job(
        "joint values, 8 pairs an agent",
        "N",
        (4, 5, 6, 7, 8, 9),
        (2, 3),
        lambda n: joint(n, 4),
        lambda n: 8.0**n,
        "joint pairs",
    ),
    "error_N": Job(
        "bracket of the error, law and local values too, 8 pairs an agent",
        "N",
        (4, 5, 6, 7, 8, 9),
        (2, 3),
        lambda n: joint_error(n, 4),
        lambda n: 8.0**n,
        "joint pairs",
    ),
    "joint_S": Job(
        "joint values, 4 agents of 2 S pairs",
        "S",
        (4, 6, 8, 12, 16),
        (2, 3),
        lambda s: joint(4, s),
        lambda s: (2.0 * s) ** 4,
        "joint pairs",
    ),
    "tv_X": Job(
        "TV measure, X pairs an agent",
        "X",
        (4, 6, 8, 12, 16),
        (2, 3),
        measure,
    ),
    "soft_N": Job(
        "soft chain, gradient, S = 4",
        "N",
        (5, 10, 15, 20),
        (5, 10),
        lambda n: soft(jaxent.circulant_bandit(n)),
        lambda n: configurations(n, 4),
        "configurations",
    ),
    "soft_S": Job(
        "soft chain, gradient, N = 10",
        "S",
        (2, 3, 4),
        (2, 3),
        lambda s: soft(bandit(s, 10)),
        lambda s: configurations(10, s),
        "configurations",
    ),
    "policies": Job(
        "gradients of the error, 8 x 8 pairs",
        "policies",
        (16, 64, 256, 1024),
        (2, 4),
        gradients,
    ),
    "devices": Job(
        "counts simulation, N = 1000, 64 runs",
        "devices",
        (1, 2, 4, 8),
        (1, 2),
        sharded,
    ),
}
