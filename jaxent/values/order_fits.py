r"""Best mixtures of local values, found exactly: QMIX's class, weighted QMIX and QPLEX's class.

Where the mixture knows the joint state, only the order of each agent's actions is left of its local
values. So the classes that are used for control are unions of cones, one for each choice of the
agents, and small ones are searched through:

| function | Q_tot(s, .) | choice of agent i, by what it sees | after |
|---|---|---|---|
| `fit_isotonic` | monotone in every agent's action | an order of its actions | QMIX |
| `fit_weighted` | the same, worse actions count α < 1 | the same | weighted QMIX |
| `fit_igm` | largest where each does what it chose | an action | QPLEX |

In each joint state and for each choice the nearest function is found with a certificate
(order_cones.py); the choices are those of a team that shares no more than it sees
(team_choice.py). Nothing is trained, so what is left is the fault of the class.

QPLEX's duplex dueling, Q_tot = Σ_i V_i + Σ_i λ_i(s, a) (Q_i - V_i) with V_i = max Q_i and λ_i > 0,
gives exactly the functions whose largest value is where each agent is greedy (IGM), whatever they
are elsewhere (Wang et al. 2021, Prop. 2); its closure is `fit_igm`'s class. Agents that all see the
joint state lose nothing by it: the fit is Q itself.

A fit under a policy's own law is blind where that policy does not go: an action never taken may be
called the best at no cost. So every joint action must have weight in every state that occurs: use
`law`, of a team that explores (`uniform_policy`, `epsilon_greedy`).
"""

from math import factorial, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_positive_int, concrete
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import law_of_pairs
from ..models.contracts import ArrayLike, Scalar
from .bellman import Rewards, joint_reward, q_values
from .igm import JointForm
from .order_classes import Class, Largest, monotone, nearest, renewed, tried
from .team_choice import Choice, cheapest
from .value_factorization import ValueFit, value_fit

Array = jax.Array

# A gap of the loss that is rounding, in machine epsilons of the variance of the values.
_ROUNDING = 2**9
# Renewals of the choices.
_ROUNDS = 20


def fit_isotonic(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    law: ArrayLike | None = None,
    max_orders: int = 4096,
) -> ValueFit:
    r"""The best monotone mixture of local values: where QMIX would stop, were it trained perfectly.

        Q_tot(s, a) = f_s(Q_1(o_1, a_1), .., Q_N(o_N, a_N)),    f_s any monotone function,

    at a fixed point of Q_tot <- nearest in L2(law) to r + discount P Q_tot. All orders of each
    agent's actions are tried, and for each the nearest function is an isotonic regression. QMIX's
    mixtures are some of these functions; `fit_monotone` trains them.

    Args:
        chain: of a joint policy table, the policy that is evaluated; small, and known.
        rewards: as for `fit_additive`. With discount 0 they are what is fitted: the best monotone
            mixture of a joint function in hindsight.
        discount: in [0, 1).
        law: to take samples from, `[J]`; the policy's own if not given. Every joint action must
            have some weight in each state that has any.
        max_orders: Π_i A_i! at most. Static.

    Returns:
        `ValueFit`. Its local values only tell the order of actions, 0 the worst. Its residual is
        the share of the variance of Q by which another function of the class may be nearer to the
        target, plus what the last renewal moved, as a share of the spread of Q; both are rounding
        where converged. A fixed point need not exist: then orders lead to each other in circles,
        and the residual tells by how much the last is beaten. Where agents see less than the state
        and not all choices could be tried, the first is what could not be ruled out.

    Raises:
        ValueError: inside a trace, for a chain without a joint policy table or whose views are not
            (what the agent observes, its action), more orders than `max_orders`, a joint action
            without weight, and as `fit_additive` does.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]]])  # [S, A_0, A_1]
        >>> stay = (jnp.zeros((1, 3, 3, 1), int), jnp.ones((1, 3, 3, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.0)
        >>> chain = jaxent.pair_chain(game, jaxent.uniform_policy(game))
        >>> fit = jaxent.fit_isotonic(chain, pay, discount=0.0)
        >>> print(fit.q_total.reshape(3, 3).round(3))
        [[ 8. -6. -6.]
         [-6. -6. -6.]
         [-6. -6. -6.]]

    References:
        Rashid et al., QMIX, 2018. Dykstra and Robertson, An algorithm for isotonic regression for
        two or more independent variables, 1982.
    """
    return _fit_orders("fit_isotonic", chain, rewards, discount, law, max_orders, None)


def fit_weighted(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    alpha: float = 0.1,
    law: ArrayLike | None = None,
    max_orders: int = 4096,
) -> ValueFit:
    r"""The best monotone mixture where only good joint actions count in full (weighted QMIX).

    minimize Σ_x law(x) w(x) (Q(x) - Q_tot(x))^2 over monotone mixtures and their orders, with

        w(s, a) = 1 where a = g(s) or Q(s, a) > Q(s, g(s)), else α,

    g(s) what agents do that are greedy in these orders: the paper's central weights. As weighted
    QMIX keeps a free critic beside the mixture and learns from it, the target is the true Q of the
    policy. For agents that see the joint state and α small, the best joint action a* is greedy: if
    it is, all else costs O(α); if another g is, Q_tot(a*) <= Q_tot(g), and with both weights 1 that
    costs at least half of (Q(a*) - Q(g))^2 times the smaller weight.

    Args:
        chain: as for `fit_isotonic`.
        rewards: as for `fit_additive`.
        discount: in [0, 1).
        alpha: in (0, 1]; 1 is the unweighted fit of Q. Static.
        law: as for `fit_isotonic`.
        max_orders: Π_i A_i! at most. Static.

    Returns:
        `ValueFit`, as `fit_isotonic` does; no target is renewed.

    Raises:
        ValueError: as `fit_isotonic`, and for alpha outside (0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]]])  # the climbing game
        >>> stay = (jnp.zeros((1, 3, 3, 1), int), jnp.ones((1, 3, 3, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.0)
        >>> chain = jaxent.pair_chain(game, jaxent.uniform_policy(game))
        >>> for alpha in (1.0, 0.01):
        ...     fit = jaxent.fit_weighted(chain, pay, discount=0.0, alpha=alpha)
        ...     print(jaxent.igm_witness(chain, fit, pay.reshape(-1)))
        IGM fails: in state 0 greedy agents play (2, 2), best is (0, 0), which loses 6
        IGM holds in every state

    References:
        Rashid et al., Weighted QMIX, 2020 (CW-QMIX).
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: {alpha} is outside (0, 1]")
    return _fit_orders("fit_weighted", chain, rewards, discount, law, max_orders, float(alpha))


def fit_igm(
    chain: PairChain, rewards: Rewards, *, discount: Scalar, law: ArrayLike | None = None
) -> ValueFit:
    r"""The best function that is largest where each agent is greedy (IGM): QPLEX's class.

    Each agent chooses an action g_i(o_i) by what it sees, and Q_tot(s, .) is any function that is
    largest at g(s); at a fixed point of Q_tot <- nearest in L2(law) to r + discount P Q_tot. Agents
    that see the joint state lose nothing: Q_tot is Q. Else this is what no mixture can mend.

    Args:
        chain: as for `fit_isotonic`, of any number of actions.
        rewards: as for `fit_additive`.
        discount: in [0, 1).
        law: as for `fit_isotonic`.

    Returns:
        `ValueFit`, as `fit_isotonic` does. Local values are 1 for the action chosen, else 0.

    Raises:
        ValueError: as `fit_isotonic`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]]])  # the climbing game
        >>> stay = (jnp.zeros((1, 3, 3, 1), int), jnp.ones((1, 3, 3, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.9)
        >>> chain = jaxent.pair_chain(game, jaxent.uniform_policy(game))
        >>> fit = jaxent.fit_igm(chain, pay, discount=0.9)
        >>> print(f"{fit.mu_error:.3f}")
        0.000

    References:
        Wang et al., QPLEX: Duplex Dueling Multi-Agent Q-Learning, 2021. Son et al., QTRAN, 2019.
    """
    team = _team("fit_igm", chain, rewards, discount, law)
    solved = _fixed_point(team, Largest(team.form.actions))
    return _result(team, solved, [np.eye(n) for n in team.form.actions])


class _Team(NamedTuple):
    """What is fitted, checked, by joint state and joint action.

    Attributes:
        chain: of the policy.
        form: of its pairs.
        seen: what each agent sees in each state, int `[S]`.
        reward: `[J]`.
        discount: in [0, 1).
        law: `[J]`.
        own: whether it is the policy's.
        q_joint: true values, `[J]`.
        share: of each state, `[S]`.
        weight: of joint actions in each state, `[S, A]`, rows of sum 1; 1/A where none occurs.
        variance: of Q under the law; 1 where it is 0.
    """

    chain: PairChain
    form: JointForm
    seen: tuple[np.ndarray, ...]
    reward: Array
    discount: Array
    law: Array
    own: bool
    q_joint: Array
    share: np.ndarray
    weight: Array
    variance: float

    @property
    def enough(self) -> float:
        """A gap that is rounding."""
        return _ROUNDING * float(jnp.finfo(self.chain.dtype).eps) * self.variance


def _team(
    name: str, chain: PairChain, rewards: Rewards, discount: Scalar, law: ArrayLike | None
) -> _Team:
    check_chain(chain)
    check_discount(discount)
    form = JointForm.of(chain)
    if not concrete(chain, rewards, discount, law):
        raise ValueError(f"{name}: searches for orders of actions, so nothing may be traced")
    seen = form.seen(chain)
    reward = joint_reward(chain, rewards)
    pairs = law_of_pairs(chain, None, law)
    by_state = np.asarray(form.by_state(pairs))
    share = by_state.sum(1)
    lacking = np.argwhere((by_state <= 0) & (share > 0)[:, None])
    if len(lacking):
        state, action = lacking[0]
        named = tuple(int(a) for a in np.unravel_index(action, form.actions))
        raise ValueError(
            f"law: joint action {named} is never taken in state {state}, so it may be called the "
            "best there at no cost; give law= of a team that explores (uniform_policy, "
            "epsilon_greedy)"
        )
    weight = np.where(share[:, None] > 0, by_state, 1)
    weight = weight / weight.sum(1, keepdims=True)
    q_joint = q_values(chain, reward, discount=discount)
    mean = pairs @ q_joint
    variance = float(pairs @ (q_joint - mean) ** 2)
    return _Team(
        chain, form, seen, reward, jnp.asarray(discount, chain.dtype), pairs, law is None, q_joint,
        share, jnp.asarray(weight, chain.dtype), variance if variance > 0 else 1.0,
    )  # fmt: skip


class _Solved(NamedTuple):
    """Q_tot `[J]`, what the agents chose, and how good it is."""

    total: Array
    choice: Choice
    residual: float
    num_steps: int
    converged: bool


def _fit_orders(
    name: str,
    chain: PairChain,
    rewards: Rewards,
    discount: Scalar,
    law: ArrayLike | None,
    max_orders: int,
    alpha: float | None,
) -> ValueFit:
    """A monotone fit: of renewed targets, or of Q itself where there is an alpha."""
    check_positive_int("max_orders", max_orders)
    team = _team(name, chain, rewards, discount, law)
    actions = team.form.actions
    count = prod(factorial(n) for n in actions)
    if count > max_orders:
        raise ValueError(
            f"chain: {count} orders of actions {list(actions)} are more than max_orders "
            f"{max_orders}; raise it, or train with fit_monotone"
        )
    of, orders = monotone(actions, 1.0 if alpha is None else alpha, chain.dtype)
    solved = _fixed_point(team, of) if alpha is None else _hindsight(team, of)
    return _result(team, solved, [np.argsort(order) for order in orders])


class _Searched(NamedTuple):
    """The cheapest choices for a target, and what is known of the present ones.

    Attributes:
        choice: the cheapest that were found.
        gap: by how much others may be cheaper than the present ones, than these where there are
            none.
        kept: whether nothing was found that is cheaper than the present ones.
    """

    choice: Choice
    gap: float
    kept: bool


def _search(
    team: _Team, of: Class, target: Array, weight: Array, present: Choice | None
) -> _Searched:
    enough = jnp.asarray(team.enough, team.chain.dtype)
    found = tried(of, target, weight, enough)
    share = team.share[:, None]
    loss, lower = (np.asarray(x, np.float64) * share for x in (found.loss, found.lower))
    choice = cheapest(loss, team.seen, of.choices)
    least = cheapest(lower, team.seen, of.choices).lower
    place = np.arange(len(loss)), (choice if present is None else present).by_state
    now, sure = float(loss[place].sum()), float(lower[place].sum())
    kept = present is not None and sure - choice.cost <= team.enough
    return _Searched(choice, max(now - least, 0.0), kept)


def _fixed_point(team: _Team, of: Class) -> _Solved:
    """Choices that are the cheapest for the target that they lead to, or the last that were tried:
    there need be none, and then two or more lead to each other."""
    target = total = team.q_joint
    chosen, moved, steps, left = None, 0.0, 0, _ROUNDS
    enough = jnp.asarray(team.enough, team.chain.dtype)
    while True:
        found = _search(team, of, team.form.by_state(target), team.weight, chosen)
        if chosen is not None and (found.kept or left == 0):
            return _solved(team, total, chosen, found.gap, moved, steps)
        chosen, left = found.choice, left - 1
        total, target, change, more = renewed(
            of,
            team.chain,
            team.form,
            team.reward,
            team.discount,
            total,
            team.weight,
            jnp.asarray(chosen.by_state),
            enough,
        )
        moved, steps = float(change), steps + int(more)


def _hindsight(team: _Team, of: Class) -> _Solved:
    """The cheapest choices for the true values."""
    target = team.form.by_state(team.q_joint)
    found = _search(team, of, target, team.weight, None)
    chosen, enough = found.choice, jnp.asarray(team.enough, target.dtype)
    total = nearest(of, target, team.weight, jnp.asarray(chosen.by_state), enough)
    return _solved(team, team.form.by_pair(total).reshape(-1), chosen, found.gap, 0.0, 0)


def _solved(
    team: _Team, total: Array, chosen: Choice, gap: float, moved: float, steps: int
) -> _Solved:
    residual = gap / team.variance + moved / team.variance**0.5
    good = gap <= 8 * team.enough and moved <= (8 * team.enough) ** 0.5
    return _Solved(total, chosen, residual, steps, bool(good))


def _result(team: _Team, solved: _Solved, ranks: list[np.ndarray]) -> ValueFit:
    """The fit, with local values from those of each choice of each agent, `[M_i, A_i]`."""
    local = []
    for i, (rank, chosen) in enumerate(zip(ranks, solved.choice.by_agent, strict=True)):
        table = np.zeros((team.chain.view_sizes[i] // rank.shape[1], rank.shape[1]))
        table[: len(chosen)] = rank[chosen]  # what is never seen is beyond, or has a first choice
        local.append(jnp.asarray(table.reshape(-1), team.chain.dtype))
    return value_fit(
        team.chain,
        team.reward,
        team.discount,
        team.law,
        team.q_joint,
        solved.total,
        tuple(local),
        jnp.asarray(solved.residual, team.chain.dtype),
        jnp.asarray(solved.num_steps),
        jnp.asarray(solved.converged),
        own=team.own,
    )
