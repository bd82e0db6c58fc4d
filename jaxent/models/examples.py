r"""The paper's examples and named models.

The circulant bandit (Appendix K; Avrachenkov and Borkar 2022, Fu et al. 2019) walks a ring of four
states, backward when idle and forward when active, each with probability 1/2 of staying.

A bandit here holds NumPy arrays, known wherever it is made, inside a trace too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .mdp import MDP
from .policies import shared_randomness
from .restless_bandit import RestlessBandit
from .weakly_coupled import Coupling, WeaklyCoupledMDP

Array = jax.Array

CIRCULANT_PRIORITY = (2, 1, 0, 3)
"""State 2 is served first: the paper's index policy, which is also the Whittle order."""


def circulant_bandit(num_agents: int) -> RestlessBandit:
    """Circulant restless bandit of Appendix K: S = 4, discount 1/2, a fifth of the agents active.

    Args:
        num_agents: N, a multiple of 5 so that the budget N/5 is an integer.

    Raises:
        ValueError: if N is not a positive multiple of 5.
    """
    if num_agents < 1 or num_agents % 5:
        raise ValueError(
            f"num_agents: {num_agents} is not a positive multiple of 5; the budget is N/5"
        )
    stay = 0.5 * np.eye(4)
    back = 0.5 * np.roll(np.eye(4), -1, axis=1)
    forward = 0.5 * np.roll(np.eye(4), 1, axis=1)
    state_reward = np.array([-1.0, 0.0, 0.0, 1.0])
    return RestlessBandit(
        passive=stay + back,
        active=stay + forward,
        reward=np.stack([state_reward, state_reward], axis=1),
        num_agents=num_agents,
        budget=num_agents // 5,
        discount=0.5,
    )


def circulant_start(num_agents: int) -> np.ndarray:
    """Initial counts of Appendix K, `[4]`: N/6 agents in state 0, N/3 in state 1, N/2 in state 2.

    Raises:
        ValueError: if N is not a positive multiple of 6.
    """
    if num_agents < 1 or num_agents % 6:
        raise ValueError(
            f"num_agents: {num_agents} is not a positive multiple of 6, which the start "
            "(N/6, N/3, N/2, 0) of Appendix K needs"
        )
    return np.array([num_agents // 6, num_agents // 3, num_agents // 2, 0])


def example_1(num_agents: int = 2, num_active: int = 1) -> tuple[WeaklyCoupledMDP, Array]:
    """Example 1, shared randomness: agents coupled by a budget, yet not entangled.

    Each agent has two states and a kernel of its own; the policy activates `num_active` of them at
    random. The coupling says that no more than these may act, Σ_i a_i <= M.

    Returns:
        The model and the policy `[2, .., 2]`.
    """
    agents = []
    for i in range(num_agents):
        up, down = 0.1 + 0.5 / (i + 1), 0.7 - 0.4 / (i + 2)
        idle = [[0.9, 0.1], [down, 1 - down]]
        active = [[1 - up, up], [0.2, 0.8]]
        reward = [[0.0, -0.5], [1.0, 0.5 + i]]
        agents.append(MDP(jnp.asarray(np.stack([idle, active], 1)), jnp.asarray(reward)))
    costs = tuple(jnp.asarray([[0.0, 1.0], [0.0, 1.0]]) for _ in agents)
    mdp = WeaklyCoupledMDP(tuple(agents), 0.9, (Coupling(costs, num_active),))
    return mdp, shared_randomness((2,) * num_agents, num_active)


def pr_box() -> Array:
    """Appendix C, `[4, 4]`: separable, but only with a negative weight.

    It is the Popescu-Rohrlich box: the next pairs are uniform and agree, unless both current pairs
    are 1, when they differ. Neither agent signals; no convex mixture of products does this.
    """
    agree, differ = [0.5, 0.0, 0.0, 0.5], [0.0, 0.5, 0.5, 0.0]
    return jnp.asarray([agree, agree, agree, differ])


def appendix_e(delta: float = 0.25) -> Array:
    r"""Appendix E as corrected, `[4, 4]`: entangled, yet Q is additive for every pair of rewards.

    P = (1/4) (ee') ⊗ (ee') + delta (εe') ⊗ (eε') with e = (1, 1), ε = (1, -1). Agent B's next pair
    reads agent A's current one, so P^k = (1/4)(ee') ⊗ (ee') from k = 2 on and

        Q = L_A + L_B with L_A(x_A) = r_A + ... + 2 delta discount (ε'r_B) ε(x_A),

    in which L_A depends on both rewards. The printed P has row sums 1 ± 4 delta.

    Raises:
        ValueError: if |delta| > 1/4, beyond which entries are negative.
    """
    if not abs(delta) <= 0.25:
        raise ValueError(f"delta: {delta} is outside [-1/4, 1/4]")
    e, eps = np.ones((2, 1)), np.array([[1.0], [-1.0]])
    return jnp.asarray(np.kron(e @ e.T, e @ e.T) / 4 + delta * np.kron(eps @ e.T, e @ eps.T))


def three_agents() -> Array:
    """Three agents of two pairs, every E_i = 0, yet not separable, `[8, 8]`.

    Each next pair is uniform whatever the current ones. But the parity of the next pairs of agents
    0 and 1 is the current pair of agent 2, so without agent 2's next pair its current one shows.
    """
    P = np.zeros((2,) * 6)
    for x0, x1, x2, y0, y2 in np.ndindex(2, 2, 2, 2, 2):
        P[x0, x1, x2, y0, y0 ^ x2, y2] = 0.25
    return jnp.asarray(P.reshape(8, 8))
