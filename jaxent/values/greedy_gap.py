r"""What acting on local values costs: control, where the other files of this folder evaluate.

A sum of local values can fit the value of the policy that plays to a hair and still choose badly:
the error under a policy says nothing about actions that it does not take. So the greedy team, in
which each agent takes a_i = argmax Q_i(o_i, .), is played here, and its return from the start,

    J(π) = Σ_s ν(s) V^π(s),

is set beside the best that agents can do who decide on their own by what they see, and the best of
all joint policies. A mixture that is monotone in each Q_i has the same greedy team as the sum.

For each state IGM (individual-global-max) asks whether the greedy actions together are a best joint
action; where they are not, that state is a witness.
"""

from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_discount, check_positive_int, check_shape, check_stochastic, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, pair_chain
from ..models.contracts import ArrayLike, Scalar, TableModel, check_mdp
from ..models.parts import TablePolicy
from ..numerics.compiled import jit
from .bellman import Rewards, check_locals, joint_reward, solve_q
from .igm import IGMWitness, JointForm, LocalValues, local_values, rounding, witness

Array = jax.Array
_Tables = tuple[Array, ...]

# Rounds of policy iteration, and of best responses, before giving up.
_ROUNDS = 200


@reads("greedy agents return {0.greedy_return:.4g}, the best joint policy {0.joint_return:.4g}")
class GreedyGap(NamedTuple):
    r"""Returns J(π) from the start, of greedy agents and of the best there are.

    Attributes:
        greedy_return: of agents that are greedy by their local values.
        decentralized_lower: of the best found among agents that decide on their own, each by a
            fixed rule from what it sees.
        decentralized_upper: at least that of the best of these; equal to the lower one where all
            were tried.
        joint_return: of the best joint policy.
        tables: the greedy policy of each agent, `[O_i, A_i]`.
        decentralized_tables: of the best found that decide on their own.
        joint_actions: a best joint action in each state, int `[S, N]`.
        igm: where greedy actions fail by the best joint values $Q^*$.
        converged: whether policy iteration ended, so that `joint_return` is exact to rounding.
    """

    greedy_return: float
    decentralized_lower: float
    decentralized_upper: float
    joint_return: float
    tables: tuple[Array, ...]
    decentralized_tables: tuple[Array, ...]
    joint_actions: Array
    igm: IGMWitness
    converged: bool

    @property
    def lost(self) -> float:
        """What greedy agents lose to the best joint policy."""
        return self.joint_return - self.greedy_return

    @property
    def lost_alone(self) -> tuple[float, float]:
        """What they lose to the best agents that decide on their own: at least, at most."""
        return (
            self.decentralized_lower - self.greedy_return,
            self.decentralized_upper - self.greedy_return,
        )

    def __str__(self) -> str:
        """Returns and losses, on a few lines."""
        low, high = self.decentralized_lower, self.decentralized_upper
        between = f"{low:.6g}" if low == high else f"in [{low:.6g}, {high:.6g}]"
        return (
            f"return of greedy agents {self.greedy_return:.6g}, of the best on their own "
            f"{between}, of the best team {self.joint_return:.6g}\n"
            f"{self.igm}" + "\nnot converged" * (not self.converged)
        )


def greedy_gap(
    mdp: TableModel,
    values: LocalValues,
    *,
    rewards: Rewards | None = None,
    discount: Scalar | None = None,
    start: ArrayLike | None = None,
    max_profiles: int = 4096,
    num_starts: int = 4,
) -> GreedyGap:
    r"""What agents lose that are greedy by their local values, each by its own.

    The best joint policy is found by policy iteration. The best agents that decide on their own,
    each by a fixed rule a_i(o_i), are found by trying all Π_i A_i^O_i teams where these are at most
    `max_profiles`. Else they are bracketed: from below by best responses, agent after agent, from
    the greedy team, from what the best joint policy does on average and from teams drawn at random;
    from above by the best joint policy. (Where agents see less than the state, dice may help them
    beyond fixed rules.)

    Args:
        mdp: a model whose agents may decide on their own.
        values: Q_i of each agent, `[O_i, A_i]`; or a result that has `q_local`, of `fit_additive`,
            `fit_monotone` (only the order matters) or `decompose`. Of equal values the first
            counts.
        rewards: local ones or a joint one; the model's by default.
        discount: in [0, 1); the model's by default.
        start: law ν of the first joint state, `[S]`; the model's by default, uniform if it has
            none.
        max_profiles: teams that are tried. Static.
        num_starts: teams drawn at random, where not all are tried; 0 or more. Static.

    Returns:
        `GreedyGap`. Nothing in it is differentiable.

    Raises:
        ValueError: for wrong shapes, a model whose agents cannot decide on their own, and inside a
            trace.

    Examples:
        The sum of values fits the play of a team that avoids (1, 1), and is wrong about it:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[5.0, 0.0], [0.0, 6.0]]])  # [S, A_0, A_1]
        >>> stay = (jnp.zeros((1, 2, 2, 1), int), jnp.ones((1, 2, 2, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.9)
        >>> chain = jaxent.pair_chain(game, jnp.array([[[0.36, 0.24], [0.24, 0.16]]]))
        >>> print(jaxent.greedy_gap(game, jaxent.fit_additive(chain, pay, discount=0.9)))
        return of greedy agents 50, of the best on their own 60, of the best team 60
        IGM fails: in state 0 greedy agents play (0, 0), best is (1, 1), which loses 1

    References:
        Son et al., QTRAN, 2019 (IGM). Rashid et al., QMIX, 2018.
    """
    check_mdp(mdp)
    check_positive_int("max_profiles", max_profiles)
    if num_starts:
        check_positive_int("num_starts", num_starts)
    shapes = mdp.local_shapes()
    uniform = mdp.join([jnp.full(shape, 1 / shape[1]) for shape in shapes])
    chain = pair_chain(mdp, uniform)
    if not concrete(chain):
        raise ValueError("greedy_gap: searches for policies, so it is for known models, not traced")
    given: Any = mdp
    own_rewards = given.pair_reward if hasattr(given, "pair_reward") else given.rewards
    reward = joint_reward(chain, own_rewards if rewards is None else rewards)
    discount = given.discount if discount is None else discount
    check_discount(discount)
    law = _start(mdp, start, chain)
    team = _Team(mdp, chain, reward, jnp.asarray(discount, chain.dtype), law)
    local = check_locals(chain, local_values(values), "values")
    greedy = tuple(_fixed(q.reshape(shape)) for q, shape in zip(local, shapes, strict=True))

    best, q_best, converged = _policy_iteration(team)
    joint_return = float(np.asarray(law) @ np.asarray(q_best).max(-1))
    count = prod(a**o for o, a in shapes)
    if count <= max_profiles:
        returns = _returns(team, count)
        every = np.asarray(returns)
        own, lower = float(every[team.number(greedy)]), float(every.max())
        upper, tables = lower, team.rules(jnp.asarray(every.argmax()))
    else:
        own, lower, tables = _best_responses(team, greedy)
        rng = np.random.default_rng(0)  # a search: any starts will do, and always the same ones
        drawn = [tuple(_drawn(rng, s, greedy[0].dtype) for s in shapes) for _ in range(num_starts)]
        for begun in (_averaged(team, best), *drawn):
            _, more, other = _best_responses(team, begun)
            lower, tables = (more, other) if more > lower else (lower, tables)
        upper = max(joint_return, lower)
    greedy_joint = np.asarray(mdp.join(greedy)).reshape(len(law), -1).argmax(-1)
    return GreedyGap(
        greedy_return=own,
        decentralized_lower=lower,
        decentralized_upper=upper,
        joint_return=joint_return,
        tables=greedy,
        decentralized_tables=tables,
        joint_actions=jnp.asarray(
            np.stack(np.unravel_index(np.asarray(best), team.form.actions), -1)
        ),
        igm=witness(q_best, greedy_joint, team.form.actions),
        converged=converged,
    )


def _drawn(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
    """A fixed rule drawn at random, as probabilities."""
    return jax.nn.one_hot(rng.integers(shape[1], size=shape[0]), shape[1], dtype=dtype)


def _start(mdp: Any, start: ArrayLike | None, chain: PairChain) -> Array:
    """The law of the first joint state, `[S]`."""
    if start is None:
        start = getattr(mdp, "start", None)
    if start is None:
        return jnp.full(chain.num_states, 1 / chain.num_states, chain.dtype)
    check_shape("start", start, (chain.num_states,))
    check_stochastic("start", start)
    return jnp.asarray(start, chain.dtype)


@jit
def _fixed(table: Array) -> Array:
    """The rule that takes the first best action, as probabilities, of values `[.., A]`."""
    return jax.nn.one_hot(table.argmax(-1), table.shape[-1], dtype=table.dtype)


class _Played(NamedTuple):
    """A team that decides alone: its return, its values by pair, and how often states occur."""

    value: Array
    q: Array
    visits: Array


class _Team(NamedTuple):
    """What policies of a model are played in, with the law `[S]` of the first state."""

    mdp: Any
    chain: PairChain
    reward: Array
    discount: Array
    law: Array

    @property
    def form(self) -> JointForm:
        return JointForm.of(self.chain)

    def play(self, policy: Array, reward: Array) -> tuple[Array, Array]:
        """The return of a joint policy `[S, A]`, and its values Q, `[J]`."""
        part = TablePolicy(self.form.by_pair(policy))
        q = solve_q(replace(self.chain, policy=part), reward, discount=self.discount).value
        return self.law @ part.mv(q), q

    def joint(self, tables: _Tables) -> Array:
        """The joint policy of agents that decide alone, `[S, A]`."""
        return self.mdp.join(tables).reshape(len(self.law), -1)

    def sure(self, actions: Array) -> Array:
        """The joint policy that takes these joint actions `[S]`, `[S, A]`."""
        return jax.nn.one_hot(actions, prod(self.form.actions), dtype=self.chain.dtype)

    def rules(self, number: Array) -> _Tables:
        """Of all fixed rules of all agents, those with this number."""
        return _rules(number, self.mdp.local_shapes(), self.chain.dtype)

    def number(self, tables: _Tables) -> int:
        """The number of these fixed rules."""
        sizes = [table.shape for table in tables for _ in range(len(table))]
        digits = [int(a) for table in tables for a in np.asarray(table).argmax(-1)]
        return int(np.ravel_multi_index(digits, [a for _, a in sizes]))


@jit(static_argnames=("shapes", "dtype"))
def _rules(number: Array, shapes: tuple[tuple[int, int], ...], dtype: Any) -> _Tables:
    digits = jnp.stack(jnp.unravel_index(number, [a for o, a in shapes for _ in range(o)]))
    ends = np.cumsum([o for o, _ in shapes])[:-1].tolist()
    return tuple(
        jax.nn.one_hot(d, a, dtype=dtype)
        for d, (_, a) in zip(jnp.split(digits, ends), shapes, strict=True)
    )


@jit
def _evaluate(team: _Team, tables: _Tables) -> _Played:
    """The return is linear in the reward, so its slope is how often pairs occur."""
    play = jax.value_and_grad(lambda r: team.play(team.joint(tables), r), has_aux=True)
    (value, q), often = play(team.reward)
    return _Played(value, q, team.form.by_state(often).sum(-1))


@jit(static_argnames="count")
def _returns(team: _Team, count: int) -> Array:
    """Those of all teams in which each agent follows a fixed rule, `[count]`."""

    def value(number: Array) -> Array:
        return team.play(team.joint(team.rules(number)), team.reward)[0]

    return lax.map(value, jnp.arange(count), batch_size=64)


@jit
def _averaged(team: _Team, actions: Array) -> _Tables:
    """What each agent does most often, seen from what it sees, where all play `actions` `[S]`."""
    often = jax.grad(lambda r: team.play(team.sure(actions), r)[0])(team.reward)
    return tuple(
        _fixed(team.chain.view(i).project(often).reshape(shape))
        for i, shape in enumerate(team.mdp.local_shapes())
    )


@jit(static_argnames="agent")
def _answer(team: _Team, played: _Played, tables: _Tables, agent: int) -> _Tables:
    """The team in which one agent does what is worth most on average where it is asked."""
    free = tuple(jnp.ones_like(t) if i == agent else t for i, t in enumerate(tables))
    weight = played.visits[:, None] * team.joint(free)
    measure = team.form.by_pair(weight).reshape(-1) * played.q
    worth = team.chain.view(agent).project(measure).reshape(tables[agent].shape)
    return (*tables[:agent], _fixed(worth), *tables[agent + 1 :])


@jit
def _improved(team: _Team, actions: Array) -> tuple[Array, Array]:
    """Values `[S, A]` of joint actions `[S]`, and better ones where there are any."""
    q = team.form.by_state(team.play(team.sure(actions), team.reward)[1])
    now = jnp.take_along_axis(q, actions[:, None], 1)[:, 0]
    return q, jnp.where(q.max(-1) > now + rounding(q), q.argmax(-1), actions)


def _policy_iteration(team: _Team) -> tuple[Array, Array, bool]:
    """A best joint action in each state `[S]`, the values `[S, A]` of playing so, and whether
    nothing is better."""
    actions = jnp.asarray(np.asarray(team.form.by_state(team.reward)).argmax(-1))
    q = jnp.zeros(())
    for _ in range(_ROUNDS):
        q, after = _improved(team, actions)
        if np.array_equal(after, actions):
            return actions, q, bool(np.isfinite(q).all())
        actions = after
    return actions, q, False


def _best_responses(team: _Team, tables: _Tables) -> tuple[float, float, _Tables]:
    """The return of a team, and that of a team found from it that no agent betters by what it sees
    alone; and its rules."""
    played, waited, agent = _evaluate(team, tables), 0, 0
    begun = float(played.value)
    for _ in range(_ROUNDS * len(tables)):
        other = _answer(team, played, tables, agent)
        tried = _evaluate(team, other)
        q = np.asarray(played.q)
        better = float(tried.value) > float(played.value) + float(rounding(q))
        if better:
            tables, played = other, tried
        waited = 0 if better else waited + 1
        if waited == len(tables):
            break
        agent = (agent + 1) % len(tables)
    return begun, float(played.value), tables
