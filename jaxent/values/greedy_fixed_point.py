r"""Fits that learn about their own greedy play, as Q-learning with a mixture of local values does.

Evaluation asks what a policy is worth; control asks for a policy that is greedy by the fit of its
own values. With the law d of a team that explores (a replay buffer), the fixed point is

    g = greedy(fit of Q^g in L2(d)),    d the stationary law of the exploring team,

and it is searched for as policy iteration does, from uniform play: evaluate, fit, be greedy. With
`fit_additive` it is VDN's (target r + discount P^g Q_tot), with `fit_isotonic` QMIX's, with
`fit_weighted` weighted QMIX's, with `fit_igm` QPLEX's. Where agents see the joint state the last is
as good as the best team, and the others need not be. Where the search goes in circles no fixed
point is near, and a training would not stand still either.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive_int, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, pair_chain
from ..chains.stationary import stationary_distribution
from ..models.contracts import ArrayLike, Scalar, TableModel, check_mdp
from .bellman import Rewards, joint_reward
from .exploration import epsilon_greedy, uniform_policy
from .greedy_gap import GreedyGap, greedy_gap
from .value_factorization import ValueFit

Array = jax.Array


class Fit(Protocol):
    """A fit of the values of the policy of a chain, from samples of another law."""

    def __call__(
        self, chain: PairChain, rewards: Rewards, /, *, discount: Scalar, law: ArrayLike
    ) -> ValueFit:
        """As `fit_additive`."""
        ...


@reads(
    "greedy by their own fit agents return {0.gap.greedy_return:.4g}, the best on their own "
    "{0.gap.decentralized_upper:.4g} at most"
)
class GreedyFixedPoint(NamedTuple):
    r"""A team that is greedy by a fit of its own values.

    Attributes:
        fit: of the values of the greedy team, under the law of the exploring one.
        gap: what the greedy team returns, and the best there are.
        policy: the greedy joint policy, a table.
        changed: observations of an agent at which the last fit changed the action; 0 at a fixed
            point.
        num_steps: policies that were evaluated.
        converged: whether `changed` is 0 and the fit converged.
    """

    fit: ValueFit
    gap: GreedyGap
    policy: Array
    changed: int
    num_steps: int
    converged: bool


def greedy_fixed_point(
    mdp: TableModel,
    fit: Fit,
    *,
    rewards: Rewards | None = None,
    discount: Scalar | None = None,
    epsilon: float = 1.0,
    start: ArrayLike | None = None,
    max_steps: int = 50,
    max_profiles: int = 4096,
) -> GreedyFixedPoint:
    r"""Agents that are greedy by a fit of their own values, where exploring tells the samples.

    Args:
        mdp: a model whose agents may decide on their own.
        fit: `fit_additive`, `fit_isotonic`, `fit_weighted` or `fit_igm`, or what is called like
            them: `functools.partial(fit_weighted, alpha=0.01)`, `partial(fit_monotone, key)`.
        rewards: local ones or a joint one; the model's by default.
        discount: in [0, 1); the model's by default.
        epsilon: chance of each agent to act at random instead of greedily, in (0, 1]; at 1 samples
            are of uniform play, whatever is learned.
        start: law of the first joint state, as for `greedy_gap`; plays no part in the fit.
        max_steps: policies that are evaluated at most. Static.
        max_profiles: as for `greedy_gap`. Static.

    Returns:
        `GreedyFixedPoint`. Nothing in it is differentiable.

    Raises:
        ValueError: for a model whose agents cannot decide on their own, epsilon outside (0, 1], and
            inside a trace; and as `fit`, `stationary_distribution` and `greedy_gap` do.

    Examples:
        The climbing game: a sum of values settles for 5 a step, the class of QPLEX finds 11:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]]])  # [S, A_0, A_1]
        >>> stay = (jnp.zeros((1, 3, 3, 1), int), jnp.ones((1, 3, 3, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.9)
        >>> for fit in (jaxent.fit_additive, jaxent.fit_igm):
        ...     found = jaxent.greedy_fixed_point(game, fit)
        ...     print(f"{found.gap.greedy_return:.1f} {found.converged}")
        50.0 True
        110.0 True

    References:
        Sunehag et al., VDN, 2018. Rashid et al., QMIX, 2018, and Weighted QMIX, 2020. Wang et al.,
        QPLEX, 2021.
    """
    check_mdp(mdp)
    check_positive_int("max_steps", max_steps)
    if not concrete(epsilon) or not 0 < float(epsilon) <= 1:
        raise ValueError(f"epsilon: {epsilon} is not a number in (0, 1]; 0 would explore nothing")
    policy = uniform_policy(mdp)
    chain = pair_chain(mdp, policy)
    if not concrete(chain):
        raise ValueError("greedy_fixed_point: searches for a policy, so nothing may be traced")
    given: Any = mdp
    own = given.pair_reward if hasattr(given, "pair_reward") else given.rewards
    reward = joint_reward(chain, own if rewards is None else rewards)
    rate: Scalar = given.discount if discount is None else discount
    law = stationary_distribution(chain)
    actions, changed, steps = None, 0, 0
    while True:
        found = fit(chain, reward, discount=rate, law=law)
        after = _actions(mdp, found)
        steps += 1
        changed = -1 if actions is None else int((actions != after).sum())
        if changed == 0 or steps == max_steps:
            break
        actions = after
        policy = epsilon_greedy(mdp, found, epsilon=0.0)
        if epsilon < 1:
            exploring = epsilon_greedy(mdp, found, epsilon=epsilon)
            law = stationary_distribution(pair_chain(mdp, exploring))
        chain = pair_chain(mdp, policy)
    gap = greedy_gap(
        mdp, found, rewards=reward, discount=rate, start=start, max_profiles=max_profiles
    )
    whole = int(sum(o for o, _ in mdp.local_shapes()))
    return GreedyFixedPoint(
        fit=found,
        gap=gap,
        policy=epsilon_greedy(mdp, found, epsilon=0.0),
        changed=whole if changed < 0 else changed,
        num_steps=steps,
        converged=changed == 0 and bool(found.converged),
    )


def _actions(mdp: TableModel, found: ValueFit) -> np.ndarray:
    """What each agent does by what it sees, all in one row."""
    shapes = mdp.local_shapes()
    tables = zip(found.q_local, shapes, strict=True)
    return np.concatenate([np.asarray(jnp.reshape(q, s)).argmax(-1) for q, s in tables])
