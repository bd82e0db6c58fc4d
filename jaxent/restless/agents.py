r"""Simulation agent by agent, for weakly coupled agents that differ.

Each agent has a kernel and an index of its own, as arrays padded over agents; at every step the M
agents of the largest index act, ties being broken at random. What an agent does depends on the
others through one number only, the M-th largest index $\tau$: above it an agent acts, below it
rests, and at it acts with probability (places left) / (agents there). So a trajectory that keeps
$\tau$ and that probability has every agent's policy, and entanglement (Eq. 10) and local values
follow from it, for each agent or for types of exchangeable agents together.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_finite, check_positive_int, check_shape, check_stochastic, concrete
from .._reads import reads
from ..data.chain_log import survival
from ..data.estimators import EntanglementEstimate, estimate_entanglement
from ..data.trajectory import Labels, Trajectory
from ..numerics.arrays import takes_arrays
from ..numerics.compiled import jit

Array = jax.Array


@reads("{0.actions.shape[0]} epochs of {0.actions.shape[1]} agents")
class AgentsTrajectory(NamedTuple):
    r"""A run of N agents.

    Attributes:
        states: at epochs 0..T, `[T + 1, N]` int32.
        actions: 0 idle, 1 active, at epochs 0..T - 1, `[T, N]` int8.
        threshold: $\tau$, the M-th largest index, `[T + 1]`.
        chance: to act of an agent whose index is $\tau$, `[T + 1]`.
    """

    states: Array
    actions: Array
    threshold: Array
    chance: Array


@takes_arrays("kernel", "index", "states")
def simulate_agents(
    key: Array,
    kernel: Array,
    index: Array,
    *,
    budget: int,
    num_steps: int,
    states: Array | None = None,
) -> AgentsTrajectory:
    r"""Simulate N different agents of which the M of the largest index act.

    Agents with fewer than S states are padded by self-loops, which nothing ever enters. With more
    actions, other costs or several budgets: `simulate_arms`.

    Args:
        key: of `jax.random.key`.
        kernel: $P_i(s' \mid s, a)$, `[N, S, 2, S]`.
        index: of agent i in state s, `[N, S]`; equal values are ties.
        budget: M in 1..N. Static.
        num_steps: T. Static.
        states: at epoch 0, `[N]`; 0 if not given.

    Returns:
        The trajectory; its largest arrays have 5 T N bytes.

    Raises:
        ValueError: for a kernel, index, budget or start that is not one, naming the place.

    References:
        Chen and Peng, Defs. 11 and 13.
    """
    check_shape("kernel", kernel, (None, None, 2, None))
    num_agents, num_states = jnp.shape(kernel)[:2]
    check_shape("kernel", kernel, (num_agents, num_states, 2, num_states))
    check_stochastic("kernel", kernel)
    check_shape("index", index, (num_agents, num_states))
    check_finite("index", index)
    check_positive_int("num_steps", num_steps)
    check_positive_int("budget", budget)
    if budget > num_agents:
        raise ValueError(f"budget: {budget} is outside 1..{num_agents} (the agents)")
    states = jnp.zeros(num_agents, jnp.int32) if states is None else jnp.asarray(states, jnp.int32)
    check_shape("states", states, (num_agents,))
    if concrete(states) and not bool(((states >= 0) & (states < num_states)).all()):
        raise ValueError(f"states: some are outside 0..{num_states - 1}")
    return _simulate(key, jnp.asarray(kernel), jnp.asarray(index), states, budget, num_steps)


@jit(static_argnames=("budget", "num_steps"))
def _simulate(key, kernel, index, states, budget, num_steps) -> AgentsTrajectory:
    agent = jnp.arange(len(kernel))
    beyond = survival(kernel).astype(jnp.float32)

    def rank(states: Array) -> tuple[Array, Array, Array, Array]:
        own = index[agent, states]
        threshold = lax.top_k(own, budget)[0][-1]
        above, level = own > threshold, own == threshold
        chance = (budget - above.sum()) / level.sum()
        return above, level, threshold, chance.astype(index.dtype)

    def step(states: Array, t: Array):
        above, level, threshold, chance = rank(states)
        ties, moves = jax.random.uniform(jax.random.fold_in(key, t), (2, len(agent)), jnp.float32)
        score = jnp.where(above, 2, jnp.where(level, ties, -1))
        served = lax.top_k(score, budget)[1]
        action = jnp.zeros(len(agent), jnp.int8).at[served].set(1)
        after = (moves[:, None] < beyond[agent, states, action]).sum(-1, dtype=jnp.int32)
        return after, (states, action, threshold, chance)

    last, (before, actions, threshold, chance) = lax.scan(step, states, jnp.arange(num_steps))
    _, _, final, final_chance = rank(last)
    return AgentsTrajectory(
        states=jnp.concatenate([before, last[None]]),
        actions=actions,
        threshold=jnp.append(threshold, final),
        chance=jnp.append(chance, final_chance),
    )


@takes_arrays("index", "agents", "types")
def agent_policy(trajectory: AgentsTrajectory, index: Array) -> Array:
    r"""$\pi_i(1 \mid s_{1:N})$ of every agent at every epoch, `[T + 1, N]`."""
    own = jnp.asarray(index)[jnp.arange(trajectory.states.shape[1]), trajectory.states]
    return _chance_to_act(trajectory, own)


def _chance_to_act(trajectory: AgentsTrajectory, own: Array) -> Array:
    """Of an agent with this index at every epoch, `[T + 1 or 1, K]` to `[T + 1, K]`."""
    level, chance = trajectory.threshold[:, None], trajectory.chance[:, None]
    return jnp.where(own > level, 1, jnp.where(own == level, chance, 0))


@takes_arrays("reward")
def agent_trajectory(trajectory: AgentsTrajectory, reward: Array) -> Trajectory:
    """What a log of the run would hold: epochs 0..T - 1.

    Args:
        trajectory: of `simulate_agents`.
        reward: of every agent, `[N, S, 2]`.
    """
    num_agents = trajectory.states.shape[1]
    check_shape("reward", reward, (num_agents, None, 2))
    states, actions = np.asarray(trajectory.states[:-1]), np.asarray(trajectory.actions)
    paid = np.asarray(reward)[np.arange(num_agents), states, actions]
    labels = Labels.numbers(agents=num_agents, states=np.shape(reward)[1], actions=2)
    return Trajectory.from_arrays(states, actions, paid, labels=labels)


@takes_arrays("index", "agents", "types")
def agent_entanglement(
    trajectory: AgentsTrajectory, index: Array, agents: Array
) -> EntanglementEstimate:
    """Eq. (10) for some agents, one after another.

    Args:
        trajectory: of `simulate_agents`.
        index: as simulated, `[N, S]`.
        agents: which, `[K]`.

    Returns:
        `EntanglementEstimate` with a leading axis of K.
    """
    index = jnp.asarray(index)
    num_states = index.shape[1]

    def one(agent: Array) -> EntanglementEstimate:
        states = trajectory.states[:, agent][:, None]  # [T + 1, 1]
        weights = (states == jnp.arange(num_states)[None]).astype(index.dtype)  # [T + 1, S]
        return _estimate(trajectory, index[agent], weights)

    return lax.map(one, jnp.asarray(agents))


@takes_arrays("index", "agents", "types")
def type_entanglement(
    trajectory: AgentsTrajectory, index: Array, types: Array
) -> EntanglementEstimate:
    """Eq. (15) for each type of agents that share kernel and index, from their counts.

    Args:
        trajectory: of `simulate_agents`.
        index: one row a type, `[K, S]`.
        types: of every agent, in 0..K - 1, `[N]`.

    Returns:
        `EntanglementEstimate` with a leading axis of K.
    """
    index = jnp.asarray(index)
    num_types, num_states = index.shape
    own = jnp.asarray(types)[None] * num_states + trajectory.states  # [T + 1, N]
    counts = jax.vmap(partial(jnp.bincount, length=num_types * num_states))(own)
    counts = counts.reshape(-1, num_types, num_states).astype(index.dtype)  # [T + 1, K, S]
    return lax.map(lambda both: _estimate(trajectory, *both), (index, jnp.moveaxis(counts, 1, 0)))


def _estimate(trajectory: AgentsTrajectory, index: Array, weights: Array) -> EntanglementEstimate:
    active = _chance_to_act(trajectory, index[None])  # [T + 1, S]
    return estimate_entanglement(jnp.stack([1 - active, active], axis=-1), weights)


@takes_arrays("index", "agents", "types")
def agent_flow(
    trajectory: AgentsTrajectory, index: Array, types: Array, *, num_types: int
) -> Array:
    r"""How many agents of each type go from pair x to pair x', `[K, X, X]`, with x = 2 s + a.

    The next action is taken by its probability, not by its sample. For `lstd_local_q`; with
    `types = arange(N)` each agent learns from its own run alone.

    Args:
        trajectory: of `simulate_agents`.
        index: as simulated, `[N, S]`.
        types: of every agent, in 0..K - 1, `[N]`.
        num_types: K. Static.
    """
    index = jnp.asarray(index)
    num_pairs = 2 * index.shape[1]
    policy = agent_policy(trajectory, index).astype(index.dtype)

    def add(flow: Array, t: Array) -> tuple[Array, None]:
        pair = 2 * trajectory.states[t] + trajectory.actions[t]
        ahead = 2 * trajectory.states[t + 1]
        active = policy[t + 1]
        flow = flow.at[types, pair, ahead].add(1 - active)
        return flow.at[types, pair, ahead + 1].add(active), None

    start = jnp.zeros((num_types, num_pairs, num_pairs), index.dtype)
    return lax.scan(add, start, jnp.arange(len(trajectory.actions)))[0]
