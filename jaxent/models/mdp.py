r"""The models: what the agents are, before anybody says who acts.

An agent on its own is an `MDP`. Agents whose transitions are independent given the actions make a
`WeaklyCoupledMDP` (Def. 11), P(s'|s, a) = Π P_i(s_i'|s_i, a_i), coupled by who may act together;
any other kernel is a `JointMDP`. Three more come from Appendix J: an `ExogenousMDP`, whose agents
share a signal that none of them moves; a `FactoredMDP`, whose agents read a few neighbors each; a
`CooperativeGame`, whose one reward need be no sum of local ones. Each comes with a check that names
the argument and the place.

A restless bandit (Def. 12) has N homogeneous agents with states 0..S-1 and actions 0 (idle) and 1
(active), of which exactly M are active at every step. Kernels are `[S, S]` with rows "from",
rewards `[S, A]`.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite, check_shape, check_stochastic, concrete
from ..numerics.kron import kron_sum, pair_order, state_order

Array = jax.Array


class MDP(NamedTuple):
    r"""One agent.

    Attributes:
        transition: $P(s' \mid s, a)$, `[S, A, S]`.
        reward: $r(s, a)$, `[S, A]`.
    """

    transition: Array
    reward: Array

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[-2]


class Coupling(NamedTuple):
    r"""One constraint on joint actions, $\sum_i d_i(s_i, a_i) \le b$ (Def. 11).

    Attributes:
        costs: $d_i$ of each agent, `[S_i, A_i]` each.
        budget: b, a number.
    """

    costs: tuple[Array, ...]
    budget: Any


class WeaklyCoupledMDP(NamedTuple):
    r"""Agents with transitions of their own, coupled by their actions (Def. 11).

    Attributes:
        agents: one `MDP` each; states, actions, kernels and rewards may differ.
        discount: $\gamma$ in [0, 1).
        couplings: the constraints that a joint action must meet; empty if any may be taken.
    """

    agents: tuple[MDP, ...]
    discount: Any
    couplings: tuple[Coupling, ...] = ()

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return tuple(agent.num_states for agent in self.agents)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return tuple(agent.num_actions for agent in self.agents)

    @property
    def rewards(self) -> tuple[Array, ...]:
        """r_i of each agent, `[S_i, A_i]` each."""
        return tuple(agent.reward for agent in self.agents)


class JointMDP(NamedTuple):
    r"""Agents with any joint kernel.

    Attributes:
        transition: $P(s' \mid s, a)$, `[S_0.., A_0.., S_0..]`.
        rewards: $r_i(s_i, a_i)$ of each agent, `[S_i, A_i]` each.
        discount: $\gamma$ in [0, 1).
    """

    transition: Array
    rewards: tuple[Array, ...]
    discount: Any

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return self.transition.shape[: len(self.rewards)]

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return self.transition.shape[len(self.rewards) : 2 * len(self.rewards)]


class ExogenousMDP(NamedTuple):
    r"""Agents that share a signal z, which moves on its own (App. J.1).

    Attributes:
        transition: $P_i(s_i' \mid s_i, a_i, z)$ of each agent, a tuple of `[S_i, A_i, Z, S_i]`; or
            any joint kernel $P(s' \mid s, a, z)$, one array `[S_0.., A_0.., Z, S_0..]`.
        rewards: $r_i(s_i, a_i, z)$ of each agent, `[S_i, A_i, Z]` each.
        signal: $P(z' \mid z)$, `[Z, Z]`.
        discount: $\gamma$ in [0, 1).
    """

    transition: tuple[Array, ...] | Array
    rewards: tuple[Array, ...]
    signal: Array
    discount: Any

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return tuple(np.shape(reward)[0] for reward in self.rewards)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return tuple(np.shape(reward)[1] for reward in self.rewards)

    @property
    def num_signals(self) -> int:
        """Z."""
        return self.signal.shape[-1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredMDP:
    r"""Agents that read their neighbors only (Def. 15), $P(s'|s, a) = \prod_i P_i(s_i'|x_{Z_i})$.

    Attributes:
        transitions: $P_i(s_i' \mid s_{Z_i}, a_{Z_i})$ of each agent, `[S_j.., A_j.., S_i]` with j
            over `neighbors[i]` in the order given there.
        neighbors: $Z_i$ of each agent, itself among them if it reads its own pair. Static.
        rewards: $r_i(s_i, a_i)$ of each agent, `[S_i, A_i]` each.
        discount: $\gamma$ in [0, 1).
    """

    transitions: tuple[Array, ...]
    neighbors: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    rewards: tuple[Array, ...]
    discount: Any

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return tuple(np.shape(reward)[0] for reward in self.rewards)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return tuple(np.shape(reward)[1] for reward in self.rewards)


class CooperativeGame(NamedTuple):
    r"""Agents with one shared reward, which need be no sum of local ones (App. J.3).

    Attributes:
        transition: $P(s' \mid s, a)$, `[S_0.., A_0.., S_0..]`.
        reward: $r(s, a)$, `[S_0.., A_0..]`.
        discount: $\gamma$ in [0, 1).
    """

    transition: Array
    reward: Array
    discount: Any

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        return np.shape(self.reward)[: np.ndim(self.reward) // 2]

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        return np.shape(self.reward)[np.ndim(self.reward) // 2 :]

    @property
    def pair_reward(self) -> Array:
        """The shared reward by joint pair, `[J]`."""
        return pair_order(jnp.asarray(self.reward)).reshape(-1)


class RestlessBandit(NamedTuple):
    r"""Homogeneous restless bandit with a budget (Chen and Peng, Def. 12).

    Attributes:
        passive: $P(s' \mid s, a = 0)$, `[S, S]`.
        active: $P(s' \mid s, a = 1)$, `[S, S]`.
        reward: $r(s, a)$ of one agent, `[S, 2]`.
        num_agents: N. May be traced where only counts are simulated.
        budget: M, agents activated per step, 0 <= M <= N. May be traced likewise.
        discount: $\gamma$ in [0, 1).
    """

    passive: Array | np.ndarray
    active: Array | np.ndarray
    reward: Array | np.ndarray
    num_agents: Any
    budget: Any
    discount: Any

    @property
    def num_states(self) -> int:
        """S."""
        return self.passive.shape[-1]

    @property
    def kernel(self) -> Array:
        """Both kernels as one local kernel `[S, A, S]`."""
        return jnp.stack([jnp.asarray(self.passive), jnp.asarray(self.active)], axis=1)


def check_bandit(bandit: RestlessBandit) -> None:
    """Raise a ValueError that names the argument and the place if the bandit is not one.

    Shapes are always checked, values wherever they are known (outside a trace).
    """
    check_shape("passive", bandit.passive, (None, None))
    num_states = np.shape(bandit.passive)[0]
    check_shape("passive", bandit.passive, (num_states, num_states))
    check_shape("active", bandit.active, (num_states, num_states))
    check_shape("reward", bandit.reward, (num_states, 2))
    check_stochastic("passive", bandit.passive)
    check_stochastic("active", bandit.active)
    check_finite("reward", bandit.reward)
    check_discount(bandit.discount)
    for name, value in (("num_agents", bandit.num_agents), ("budget", bandit.budget)):
        check_shape(name, value, ())
        if concrete(value) and not float(value).is_integer():
            raise ValueError(f"{name}: {value} is not an integer")
    if concrete(bandit.num_agents) and int(bandit.num_agents) < 1:
        raise ValueError(f"num_agents: {int(bandit.num_agents)} is not at least 1")
    if concrete(bandit.num_agents, bandit.budget) and not (
        0 <= int(bandit.budget) <= int(bandit.num_agents)
    ):
        raise ValueError(
            f"budget: {int(bandit.budget)} is outside 0..{int(bandit.num_agents)} (num_agents)"
        )


def feasible_actions(mdp: WeaklyCoupledMDP) -> Array:
    """Which joint actions meet every coupling constraint, bool `[S_0.., A_0..]`."""
    mask = jnp.ones((*mdp.num_states, *mdp.num_actions), bool)
    for coupling in mdp.couplings:
        total = kron_sum([jnp.ravel(jnp.asarray(cost)) for cost in coupling.costs])
        sizes = [n for pair in zip(mdp.num_states, mdp.num_actions, strict=True) for n in pair]
        mask &= state_order(total.reshape(sizes)) <= coupling.budget
    return mask


def check_mdp(mdp: Any) -> None:
    """Raise a ValueError that names the argument and the place if the model is not one.

    Shapes are always checked, values wherever they are known (outside a trace).
    """
    if isinstance(mdp, MDP):
        _check_agent("", mdp)
    elif isinstance(mdp, WeaklyCoupledMDP):
        _check_weakly_coupled(mdp)
    elif isinstance(mdp, JointMDP):
        _check_joint(mdp)
    elif isinstance(mdp, ExogenousMDP):
        _check_exogenous(mdp)
    elif isinstance(mdp, FactoredMDP):
        _check_factored(mdp)
    elif isinstance(mdp, CooperativeGame):
        _check_cooperative(mdp)
    else:
        raise ValueError(f"mdp: {type(mdp).__name__} is not one of the models")
    if not isinstance(mdp, MDP):
        check_discount(mdp.discount)


def _check_weakly_coupled(mdp: WeaklyCoupledMDP) -> None:
    if not mdp.agents:
        raise ValueError("agents: is empty; a model has at least one agent")
    for i, agent in enumerate(mdp.agents):
        _check_agent(f"agents[{i}].", agent)
    for k, coupling in enumerate(mdp.couplings):
        if len(coupling.costs) != len(mdp.agents):
            raise ValueError(
                f"couplings[{k}].costs: wanted one table for each of {len(mdp.agents)} agents, "
                f"got {len(coupling.costs)}"
            )
        for i, (cost, agent) in enumerate(zip(coupling.costs, mdp.agents, strict=True)):
            check_shape(f"couplings[{k}].costs[{i}]", cost, np.shape(agent.reward))
            check_finite(f"couplings[{k}].costs[{i}]", cost)
        check_shape(f"couplings[{k}].budget", coupling.budget, ())


def _check_agent(prefix: str, mdp: MDP) -> None:
    check_shape(f"{prefix}transition", mdp.transition, (None, None, None))
    num_states, num_actions = np.shape(mdp.transition)[:2]
    check_shape(f"{prefix}transition", mdp.transition, (num_states, num_actions, num_states))
    check_shape(f"{prefix}reward", mdp.reward, (num_states, num_actions))
    check_stochastic(f"{prefix}transition", mdp.transition)
    check_finite(f"{prefix}reward", mdp.reward)


def _check_joint(mdp: JointMDP) -> None:
    num_agents = len(mdp.rewards)
    if not num_agents or np.ndim(mdp.transition) != 3 * num_agents:
        raise ValueError(
            f"transition: wanted 3 axes for each of {num_agents} agents (one table in rewards "
            f"each), got shape {list(np.shape(mdp.transition))}"
        )
    _check_kernel(mdp.transition, mdp.num_states, mdp.num_actions)
    for i, reward in enumerate(mdp.rewards):
        check_shape(f"rewards[{i}]", reward, (mdp.num_states[i], mdp.num_actions[i]))
        check_finite(f"rewards[{i}]", reward)


def _check_kernel(kernel: Array, states: tuple, actions: tuple, between: tuple = ()) -> None:
    """A joint kernel `[S_0.., A_0.., *between, S_0..]`."""
    check_shape("transition", kernel, (*states, *actions, *between, *states))
    check_stochastic("transition", jnp.reshape(kernel, (*states, *actions, *between, -1)))


def _check_cooperative(mdp: CooperativeGame) -> None:
    if not np.ndim(mdp.reward) or np.ndim(mdp.reward) % 2:
        raise ValueError(
            "reward: wanted [S_0.., A_0..], two axes for each agent, got shape "
            f"{list(np.shape(mdp.reward))}"
        )
    _check_kernel(mdp.transition, mdp.num_states, mdp.num_actions)
    check_finite("reward", mdp.reward)


def _check_exogenous(mdp: ExogenousMDP) -> None:
    check_shape("signal", mdp.signal, (None, None))
    num_signals = np.shape(mdp.signal)[0]
    check_shape("signal", mdp.signal, (num_signals, num_signals))
    check_stochastic("signal", mdp.signal)
    _check_rewards(mdp.rewards, (num_signals,))
    states, actions = mdp.num_states, mdp.num_actions
    if not isinstance(mdp.transition, tuple):
        _check_kernel(mdp.transition, states, actions, (num_signals,))
        return
    _check_count("transition", mdp.transition, len(states))
    for i, (table, s, a) in enumerate(zip(mdp.transition, states, actions, strict=True)):
        check_shape(f"transition[{i}]", table, (s, a, num_signals, s))
        check_stochastic(f"transition[{i}]", table)


def _check_factored(mdp: FactoredMDP) -> None:
    _check_rewards(mdp.rewards, ())
    states, actions = mdp.num_states, mdp.num_actions
    _check_count("transitions", mdp.transitions, len(states))
    check_scopes("neighbors", mdp.neighbors, len(states))
    for i, (table, seen) in enumerate(zip(mdp.transitions, mdp.neighbors, strict=True)):
        wanted = (*(states[j] for j in seen), *(actions[j] for j in seen), states[i])
        check_shape(f"transitions[{i}]", table, wanted)
        check_stochastic(f"transitions[{i}]", table)


def check_scopes(name: str, scopes: Any, num_agents: int) -> None:
    """Raise unless there is one tuple of agents for each agent, none named twice."""
    _check_count(name, scopes, num_agents)
    for i, scope in enumerate(scopes):
        if not isinstance(scope, tuple) or not all(isinstance(j, int) for j in scope):
            raise ValueError(f"{name}[{i}]: {scope!r} is not a tuple of ints, which is static")
        wrong = [j for j in scope if not 0 <= j < num_agents]
        if wrong or len(set(scope)) < len(scope):
            raise ValueError(
                f"{name}[{i}]: {scope} must name agents 0..{num_agents - 1}, none of them twice"
            )


def _check_rewards(rewards: tuple[Array, ...], last: tuple[int, ...]) -> None:
    if not rewards:
        raise ValueError("rewards: is empty; a model has at least one agent")
    for i, reward in enumerate(rewards):
        check_shape(f"rewards[{i}]", reward, (None, None, *last))
        check_finite(f"rewards[{i}]", reward)


def _check_count(name: str, tables: Any, num_agents: int) -> None:
    if not isinstance(tables, tuple) or len(tables) != num_agents:
        given = len(tables) if isinstance(tables, tuple) else type(tables).__name__
        raise ValueError(
            f"{name}: wanted a tuple with one entry for each of {num_agents} agents (one table in "
            f"rewards each), got {given}"
        )
