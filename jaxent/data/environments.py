r"""Trajectories from environments: a policy played in JaxMARL or gymnax, as `audit` reads it.

What an agent sees is its local state, so the states are the distinct observations that occur, or
the integers that `encode` makes of them. Many finite games declare a continuous space, so it is the
play that is asked, not the space: whoever sees more than `max_states` different things is refused
after the first stretch of it, before anything long has run.

A game that ends starts anew. That jump is part of the chain, by which a team that plays again and
again has a stationary law and a reward at the end is followed by something; `separate_episodes`
marks the ends instead, and then the last row of an episode, which nothing follows, teaches nothing.

Both packages are optional: `pip install jaxent[envs]`. Nothing of them is imported for an
environment that is passed as an object, which needs only the methods of `Environment` or
`SingleAgentEnvironment`.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_finite, check_positive_int, key_first
from .environment_contract import (
    agents_of,
    explain_change,
    number_of,
    optional_package,
)
from .environment_samplers import gymnax_steps, jaxmarl_steps
from .local_pairs import MOST_PAIRS
from .trajectory import Labels, Trajectory

Array = jax.Array

# What an agent sees: an array, or a pytree of arrays.
Observation = TypeVar("Observation")
_Seen = TypeVar("_Seen", covariant=True)

# Steps that are played before observations are looked at.
_STRETCH = 1024


class Environment(Protocol[_Seen]):
    """A game of several agents, as JaxMARL's are; one that has ended starts anew by itself."""

    @property
    def agents(self) -> Sequence[str]:
        """Their names."""
        ...

    def action_space(self, agent: str) -> object:
        """What an agent may do; a finite set has their number, `n`."""
        ...

    def reset(self, key: Array) -> tuple[Mapping[str, _Seen], Any]:
        """What each agent sees at the start, by name, and the state."""
        ...

    def step(
        self, key: Array, state: Any, actions: dict[str, Any]
    ) -> tuple[Mapping[str, _Seen], Any, Mapping[str, Any], Mapping[str, Any], Any]:
        """What is seen next, the next state, rewards, ends (with "__all__"), anything else."""
        ...


class SingleAgentEnvironment(Protocol[_Seen]):
    """A game of one agent, as gymnax's are; one that has ended starts anew by itself."""

    @property
    def default_params(self) -> Any:
        """Parameters of the game."""
        ...

    def action_space(self, params: Any) -> object:
        """What the agent may do; a finite set has their number, `n`."""
        ...

    def reset(self, key: Array, params: Any) -> tuple[_Seen, Any]:
        """What is seen at the start, and the state."""
        ...

    def step(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """What is seen next, the next state, the reward, one or more ends, anything else."""
        ...


class _Game(NamedTuple):
    """What the adapters have in common; observations and actions are one for each agent.

    Attributes:
        agents: their names.
        num_actions: of each.
        reset: key to observations and state.
        step: key, state and actions to observations, state, rewards `[N]`, and whether it ended.
        act: key and observations to actions.
    """

    agents: tuple[Hashable, ...]
    num_actions: tuple[int, ...]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    act: Callable[..., Any]


@key_first
def from_jaxmarl(
    key: Array,
    env: Environment[Observation] | str,
    policy: Callable[[Array, dict[str, Observation]], Mapping[str, Array | int]],
    *,
    num_steps: int,
    encode: Callable[[Observation], Array | int] | None = None,
    shared_reward: bool = False,
    separate_episodes: bool = False,
    max_states: int | None = None,
) -> Trajectory:
    """Play a policy in a JaxMARL environment and record it.

    Args:
        key: of `jax.random.key`.
        env: an `Environment`, as JaxMARL's are; or the name of one of them.
        policy: from a key and the observation of each agent, by name, to its action, by name. Its
            own choice of what to read: an agent that reads the others' is entangled with them.
        num_steps: T. Static.
        encode: from one agent's observation to a nonnegative integer, its local state; the
            observation itself is the state if not given.
        shared_reward: whether the reward is one for all agents.
        separate_episodes: whether a game that starts anew is another episode.
        max_states: more local states than this are refused; what an audit takes if not given,
            1023 pairs of state and action.

    Returns:
        A trajectory of T epochs, its labels the names of the agents, the observations (or what
        `encode` made of them) and the numbers of the actions.

    Raises:
        ImportError: for a name, if JaxMARL or a module that it needs is not installed.
        ValueError: for an environment that gives no observation or reward of an agent, no
            "__all__" among its ends, or other shapes in `step` than in `reset`; for actions that
            are no finite set, more observations than `max_states`,
            observations of several sizes or not finite, an `encode` or a policy that gives
            something else, rewards that differ though shared.

    References:
        Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, 2024.
    """
    game = optional_package("jaxmarl", "JaxMARL").make(env) if isinstance(env, str) else env
    agents: tuple[str, ...] = agents_of(game)

    reset, step = jaxmarl_steps(game, agents)

    def act(key, observations):
        seen: dict[Any, Any] = dict(zip(agents, observations, strict=True))
        actions = policy(key, seen)
        if not isinstance(actions, dict) or set(actions) != set(agents):
            raise ValueError(f"policy: wanted a dict with an action for each of {list(agents)}")
        return tuple(actions[a] for a in agents)

    sizes = tuple(_num_actions(a, game.action_space(a)) for a in agents)
    adapted = _Game(agents, sizes, reset, step, act)
    options = (num_steps, encode, shared_reward, separate_episodes, max_states)
    return _record(adapted, key, *options)


@key_first
def from_gymnax(
    key: Array,
    env: SingleAgentEnvironment[Observation] | str,
    policy: Callable[[Array, Observation], Array | int],
    *,
    num_steps: int,
    params: object = None,
    encode: Callable[[Observation], Array | int] | None = None,
    separate_episodes: bool = False,
    max_states: int | None = None,
) -> Trajectory:
    """Play a policy in a gymnax environment, of one agent, and record it.

    One agent has local values to learn (`lstd_local_q`) and nobody to be entangled with, so `audit`
    asks for more.

    Args:
        key: of `jax.random.key`.
        env: a `SingleAgentEnvironment`, as gymnax's are; or the name of one of them.
        policy: from a key and the observation to the action.
        num_steps: T. Static.
        params: of the environment; its default ones if not given.
        encode: from an observation to a nonnegative integer, the local state; the observation
            itself is the state if not given.
        separate_episodes: whether a game that starts anew is another episode.
        max_states: more local states than this are refused; 1023 pairs of state and action if not
            given.

    Raises:
        ImportError: for a name, if gymnax or a module that it needs is not installed.
        ValueError: as `from_jaxmarl` does.

    References:
        Lange, gymnax: A JAX-based Reinforcement Learning Environment Library, 2022.
    """
    game = optional_package("gymnax", "gymnax").make(env)[0] if isinstance(env, str) else env
    params = game.default_params if params is None else params

    reset, step = gymnax_steps(game, params)

    def act(key, observations):
        return (policy(key, observations[0]),)

    adapted = _Game((0,), (_num_actions(0, game.action_space(params)),), reset, step, act)
    return _record(adapted, key, num_steps, encode, False, separate_episodes, max_states)


def _num_actions(agent: Hashable, space: object) -> int:
    size = getattr(space, "n", None)
    if size is None or np.ndim(size):
        raise ValueError(
            f"env: the actions of agent {agent} are {type(space).__name__}, not a finite set; an "
            "audit needs a Discrete space, so wrap the environment in one that has a few actions"
        )
    return int(size)


def _record(
    game: _Game,
    key: Array,
    num_steps: int,
    encode: Callable[..., Array | int] | None,
    shared_reward: bool,
    separate_episodes: bool,
    max_states: int | None,
) -> Trajectory:
    """Play stretch by stretch, and number what is seen."""
    check_positive_int("num_steps", num_steps)
    if max_states is None:
        max_states = max(1, MOST_PAIRS // max(game.num_actions))
    check_positive_int("max_states", max_states)
    see = _seer(game, key, encode)
    every, tables, parts, offset = None, [], [], 0
    for seen, *rest in _stretches(game, see, key, num_steps):
        check_finite("observations", seen)
        table, codes = np.unique(seen.reshape(-1, seen.shape[-1]), axis=0, return_inverse=True)
        tables.append(table)
        every = table if every is None else np.unique(np.concatenate([every, table]), axis=0)
        _check_few(len(every), min(num_steps, len(tables) * len(seen)), max_states, encode)
        parts.append([offset + codes.reshape(seen.shape[:2]), *rest])
        offset += len(table)
    table, place = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    codes, actions, rewards, ended = (
        np.concatenate(x)[:num_steps] for x in zip(*parts, strict=True)
    )
    if shared_reward:
        rewards = _one_for_all(rewards, game.agents)
    # A row belongs to the game before the one that its own end starts.
    episode = np.cumsum(ended) - ended if separate_episodes else None
    numbers = Labels.numbers(
        agents=len(game.agents), states=len(table), actions=max(game.num_actions)
    )
    recorded = Trajectory.from_arrays(
        place.reshape(-1)[codes], actions, rewards, episode=episode, labels=numbers
    )
    return replace(
        recorded, labels=numbers._replace(agents=game.agents, states=_state_labels(table))
    )


def _stretches(
    game: _Game, see: Callable[..., Array], key: Array, num_steps: int
) -> Iterator[list[np.ndarray]]:
    """Seen `[L, N, d]`, chosen and paid `[L, N]`, ended `[L]`, until T steps or more are played."""
    length = min(num_steps, _STRETCH)

    def step(carry, key):
        observations, state = carry
        act_key, step_key = jax.random.split(key)
        actions = game.act(act_key, observations)
        each = zip(game.agents, actions, strict=True)
        chosen = jnp.stack([number_of(x, agent, "policy:", "an action") for agent, x in each])
        after, state, rewards, ended = game.step(step_key, state, actions)
        return (after, state), (see(observations), chosen, rewards, ended)

    @jax.jit
    def play(carry, key):
        return lax.scan(step, carry, jax.random.split(key, length))

    reset_key, play_key = jax.random.split(key)
    carry = jax.jit(game.reset)(reset_key)
    for k in range(-(-num_steps // length)):
        try:
            carry, played = play(carry, jax.random.fold_in(play_key, k))
        except TypeError:  # of the scan, whose carry has changed; it does not know agents
            change = explain_change(game.agents, step, carry, play_key)
            if change is None:
                raise
            raise ValueError(change) from None
        yield [np.asarray(x) for x in played]


def _seer(
    game: _Game, key: Array, encode: Callable[..., Array | int] | None
) -> Callable[..., Array]:
    """From the observations of all agents to rows of numbers, `[N, d]`."""
    if encode is not None:
        one = encode

        def integer(observation):
            code = jnp.asarray(one(observation))
            if code.shape != () or not jnp.issubdtype(code.dtype, jnp.integer):
                raise ValueError(
                    "encode: wanted one integer for an observation, got shape "
                    f"{list(code.shape)} of {code.dtype}"
                )
            return code.reshape(1)

        return lambda observations: jnp.stack([integer(x) for x in observations])

    def row(observation):
        leaves = [jnp.ravel(jnp.asarray(x)) for x in jax.tree.leaves(observation)]
        return jnp.concatenate(leaves)

    sizes = [len(x) for x in jax.eval_shape(lambda k: [row(o) for o in game.reset(k)[0]], key)]
    if len(set(sizes)) > 1:
        told = ", ".join(f"{a}: {n}" for a, n in zip(game.agents, sizes, strict=True))
        raise ValueError(
            f"observations: agents see different numbers of things ({told}); pass encode= that "
            "makes one integer of each observation"
        )
    return lambda observations: jnp.stack([row(x) for x in observations])


def _check_few(found: int, steps: int, max_states: int, encode: Callable | None) -> None:
    if found > max_states:
        remedy = (
            "pass encode= that makes a small integer of an observation (what the agent needs to "
            "know of it)"
            if encode is None
            else "let encode= tell fewer apart"
        )
        raise ValueError(
            f"observations: {found} different ones in {steps} steps, wanted at most "
            f"{max_states}; {remedy}, or raise max_states (an audit takes {MOST_PAIRS} pairs of "
            "state and action)"
        )


def _one_for_all(rewards: np.ndarray, agents: tuple[Hashable, ...]) -> np.ndarray:
    apart = np.argwhere(rewards != rewards[:, :1])
    if len(apart):
        t, i = apart[0]
        raise ValueError(
            f"shared_reward: at step {t} agent {agents[i]} is paid {rewards[t, i]:g} and agent "
            f"{agents[0]} {rewards[t, 0]:g}; leave it out"
        )
    return rewards[:, 0]


def _state_labels(table: np.ndarray) -> tuple[Hashable, ...]:
    """One number, or a tuple of them, for each row; whole ones as integers."""
    whole = table.astype(np.int64)
    rows = (whole if (whole == table).all() else table).tolist()
    return tuple(row[0] if len(row) == 1 else tuple(row) for row in rows)
