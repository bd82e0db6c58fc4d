r"""What the gradient-based studies share: two agents, what is measured of a policy, and descent.

Policies are logits of `jaxent.joint_softmax`. Nothing is sampled: the return, the decomposition
error and the entanglement are exact, and so are their gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxent

Array = jax.Array

AGENTS = 2


class Measured(NamedTuple):
    r"""A policy, measured.

    Attributes:
        average_reward: $J = \mu \cdot r$, long-run average reward of both agents.
        entanglement: $E = E_A + E_B$, each by Eq. (7).
        error: mean |Q - Q_A - Q_B| under the stationary law.
    """

    average_reward: Any
    entanglement: Any
    error: Any


def check_states(num_states: int) -> None:
    """Raise a ValueError unless so small a pair of agents is computed in seconds."""
    if not 2 <= num_states <= 6:
        raise ValueError("states: 2 to 6, the joint policy has 4 entries for each pair of states")


def limited(agents: tuple[jaxent.MDP, ...], discount: Any, limit: Any) -> jaxent.WeaklyCoupledMDP:
    """Agents of whom at most `limit` act at once; it may be traced."""
    costs = tuple(jnp.zeros_like(agent.reward).at[:, 1].set(1) for agent in agents)
    return jaxent.WeaklyCoupledMDP(agents, discount, (jaxent.Coupling(costs, limit),))


def random_pair(key: Array, num_states: int, limit: Any) -> jaxent.WeaklyCoupledMDP:
    """Two agents with rows uniform on the simplex and rewards uniform in [0, 1], discount 0.9."""
    agents = []
    for each in jax.random.split(key, AGENTS):
        key_kernel, key_reward = jax.random.split(each)
        kernel = jax.random.exponential(key_kernel, (num_states, 2, num_states))
        kernel /= kernel.sum(-1, keepdims=True)
        agents.append(jaxent.MDP(kernel, jax.random.uniform(key_reward, (num_states, 2))))
    return limited(tuple(agents), 0.9, limit)


def chain_of(mdp: jaxent.WeaklyCoupledMDP, logits: Array) -> jaxent.PairChain:
    """The chain under the softmax policy of these logits."""
    return jaxent.pair_chain(mdp, jaxent.joint_softmax(mdp).apply(logits))


def entanglements(chain: jaxent.PairChain, mu: Array) -> list[jaxent.Entanglement]:
    """Eq. (7) of each agent."""
    return [jaxent.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(AGENTS)]


def measure(mdp: jaxent.WeaklyCoupledMDP, chain: jaxent.PairChain) -> Measured:
    """Return, entanglement and decomposition error; all differentiable."""
    mu = jaxent.stationary_distribution(chain)
    return Measured(
        jaxent.average_reward(chain, mdp.rewards),
        sum(e.value for e in entanglements(chain, mu)),
        jaxent.decomposition_error(chain, mdp.rewards, discount=mdp.discount),
    )


def descend(
    loss: Callable[[Array], Array], start: Array, *, steps: int, rate: float, kept: int = 1
) -> Any:
    """Adam with a cosine schedule, the whole path in one scan.

    Args:
        loss: of the parameters, a scalar.
        start: parameters.
        steps: gradient steps, a multiple of `kept`. Static.
        rate: first step length. Static.
        kept: how many points of the path are kept, evenly spaced, the last one among them. Static.

    Returns:
        The kept parameters, `[kept, ..]`.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state = carry
        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    def stretch(carry: Any, _: None) -> tuple[Any, Array]:
        carry, _ = jax.lax.scan(step, carry, length=steps // kept)
        return carry, carry[0]

    return jax.lax.scan(stretch, (start, optimizer.init(start)), length=kept)[1]
