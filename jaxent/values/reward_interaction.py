r"""How much of a reward no sum of local rewards explains, where every action is tried.

Under the law d of a team that explores,

    1 - R^2 = min over r_i of E_d (r(x) - Σ_i r_i(x_i))^2 / Var_d r,

with x_i what agent i observes and does: 0 for a sum, 1 where local rewards explain nothing. Under a
policy's own law the same number says only how its own play is paid. `reward_entanglement` (Eq. 14)
is the same in L1; a share of squares has no unit and can be estimated from logs
(data/log_interaction.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._reads import reads
from ..chains.pair_chain import pair_chain
from ..chains.stationary import stationary_distribution
from ..models.contracts import ArrayLike, TableModel
from ..numerics.arrays import ratio
from .bellman import Rewards, joint_reward
from .exploration import uniform_policy
from .value_factorization import split_reward

Array = jax.Array


@reads("{0.share:.2%} of the variance of the reward is in no sum of local rewards")
class RewardInteraction(NamedTuple):
    r"""What a sum of local rewards leaves of a reward.

    Attributes:
        share: of its variance, in [0, 1].
        error: root mean square of what is left.
        scale: standard deviation of the reward.
        rewards: the local rewards, `[X_i]` each.
        left: r less their sum, `[J]`; 0 where never visited.
        law: of the joint pairs, `[J]`.
    """

    share: Array
    error: Array
    scale: Array
    rewards: tuple[Array, ...]
    left: Array
    law: Array


def reward_interaction(
    mdp: TableModel, rewards: Rewards | None = None, *, policy: ArrayLike | None = None
) -> RewardInteraction:
    r"""The share of a reward's variance that is in no sum of local rewards. Differentiable.

    Args:
        mdp: a model whose agents may decide on their own, or any, where a policy is given.
        rewards: local ones or a joint one; the model's by default.
        policy: of the team that explores, a joint table; uniform play by default.

    Raises:
        ValueError: as `uniform_policy`, `pair_chain` and `stationary_distribution` do.

    Examples:
        Two agents paid for doing the same, and for what each does:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> stay = (jnp.zeros((1, 2, 2, 1), int), jnp.ones((1, 2, 2, 1)))
        >>> same, each = jnp.array([[[1.0, 0], [0, 1]]]), jnp.array([[[2.0, 1], [1, 0]]])
        >>> for pay in (same, each):
        ...     game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.9)
        ...     print(f"{jaxent.reward_interaction(game).share:.2f}")
        1.00
        0.00
    """
    chain = pair_chain(mdp, uniform_policy(mdp) if policy is None else policy)
    given: Any = mdp
    if rewards is None:
        rewards = given.pair_reward if hasattr(given, "pair_reward") else given.rewards
    reward = joint_reward(chain, rewards)  # type: ignore[arg-type]
    law = stationary_distribution(chain)
    local = split_reward(chain, reward, mu=law)
    left = jnp.where(law > 0, reward - chain.lift(local), 0)
    error, variance = law @ left**2, law @ (reward - law @ reward) ** 2
    noise = (64 * jnp.finfo(law.dtype).eps * jnp.abs(reward).max()) ** 2
    # 0 where the reward is a constant, NaN where there is no law.
    share = jnp.where(variance > noise, ratio(error, variance), 0 * variance)
    return RewardInteraction(share, jnp.sqrt(error), jnp.sqrt(variance), local, left, law)
