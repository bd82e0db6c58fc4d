r"""The paper's examples and named models.

The circulant bandit (Appendix K; Avrachenkov and Borkar 2022, Fu et al. 2019) walks a ring of four
states, backward when idle and forward when active, each with probability 1/2 of staying.

Instances hold NumPy arrays: they are known wherever they are made, inside a trace too.
"""

import numpy as np

from .mdp import RestlessBandit

# State 2 is served first: the paper's index policy, which is also the Whittle order.
CIRCULANT_PRIORITY = (2, 1, 0, 3)


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
