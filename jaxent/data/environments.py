r"""Trajectories from environments: a policy played in JaxMARL or gymnax, as `audit` reads it.

What an agent sees is its local state, so the states are the distinct observations that occur, or
the integers that `encode` makes of them. Many finite games declare a continuous space, so it is the
play that is asked, not the space: whoever sees more than `max_states` different things is refused
after the first stretch of it, before anything long has run.

A game that ends starts anew. That jump is part of the chain, by which a team that plays again and
again has a stationary law and a reward at the end is followed by something; `separate_episodes`
marks the ends instead, and then the last row of an episode, which nothing follows, teaches nothing.

Both packages are optional: `pip install jaxent[envs]`. Nothing of them is imported for an
environment that is passed as an object, which needs only the methods named below.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_finite, check_positive_int
from .trajectory import Labels, Trajectory

Array = jax.Array

# Steps that are played before observations are looked at.
_STRETCH = 1024


class _Game(NamedTuple):
    """What the adapters have in common; observations and actions are one for each agent.

    Attributes:
        agents: their names.
        num_actions: of each.
        reset: key to observations and state.
        step: key, state and actions to observations, state, rewards `[N]`, and whether it ended.
        act: key and observations to actions.
    """

    agents: tuple[Any, ...]
    num_actions: tuple[int, ...]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    act: Callable[..., Any]


def from_jaxmarl(
    env: Any,
    policy: Callable[[Array, dict[Any, Any]], dict[Any, Any]],
    key: Array,
    *,
    num_steps: int,
    encode: Callable[[Any], Any] | None = None,
    shared_reward: bool = False,
    separate_episodes: bool = False,
    max_states: int = 256,
) -> Trajectory:
    """Play a policy in a JaxMARL environment and record it.

    Args:
        env: with `agents`, `action_space(agent)`, `reset(key)` and `step(key, state, actions)` that
            starts anew where it ended, as JaxMARL's are; or the name of one of them.
        policy: from a key and the observation of each agent, by name, to its action, by name. Its
            own choice of what to read: an agent that reads the others' is entangled with them.
        key: of `jax.random.key`.
        num_steps: T. Static.
        encode: from one agent's observation to a nonnegative integer, its local state; the
            observation itself is the state if not given.
        shared_reward: whether the reward is one for all agents.
        separate_episodes: whether a game that starts anew is another episode.
        max_states: so many local states are enough for an audit of any length.

    Returns:
        A trajectory of T epochs, its labels the names of the agents, the observations (or what
        `encode` made of them) and the numbers of the actions.

    Raises:
        ImportError: for a name, if JaxMARL is not installed.
        ValueError: for actions that are no finite set, more than `max_states` observations,
            observations of several sizes or not finite, an `encode` or a policy that gives
            something else, rewards that differ though shared.

    References:
        Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, 2024.
    """
    if isinstance(env, str):
        try:
            import jaxmarl  # pyright: ignore[reportMissingImports]
        except ImportError:
            _missing("JaxMARL")
        env = jaxmarl.make(env)
    agents = tuple(env.agents)

    def reset(key):
        observations, state = env.reset(key)
        return tuple(observations[a] for a in agents), state

    def step(key, state, actions):
        named = dict(zip(agents, actions, strict=True))
        observations, state, rewards, ends, _ = env.step(key, state, named)
        paid = jnp.stack([jnp.asarray(rewards[a], float) for a in agents])
        return tuple(observations[a] for a in agents), state, paid, ends["__all__"]

    def act(key, observations):
        actions = policy(key, dict(zip(agents, observations, strict=True)))
        if not isinstance(actions, dict) or set(actions) != set(agents):
            raise ValueError(f"policy: wanted a dict with an action for each of {list(agents)}")
        return tuple(actions[a] for a in agents)

    sizes = tuple(_num_actions(a, env.action_space(a)) for a in agents)
    game = _Game(agents, sizes, reset, step, act)
    options = (num_steps, encode, shared_reward, separate_episodes, max_states)
    return _record(game, key, *options)


def from_gymnax(
    env: Any,
    policy: Callable[[Array, Any], Any],
    key: Array,
    *,
    num_steps: int,
    params: Any = None,
    encode: Callable[[Any], Any] | None = None,
    separate_episodes: bool = False,
    max_states: int = 256,
) -> Trajectory:
    """Play a policy in a gymnax environment, of one agent, and record it.

    One agent has local values to learn (`lstd_local_q`) and nobody to be entangled with, so `audit`
    asks for more.

    Args:
        env: with `default_params`, `action_space(params)`, `reset(key, params)` and
            `step(key, state, action, params)`, as gymnax's are; or the name of one of them.
        policy: from a key and the observation to the action.
        key: of `jax.random.key`.
        num_steps: T. Static.
        params: of the environment; its default ones if not given.
        encode: as for `from_jaxmarl`.
        separate_episodes: as for `from_jaxmarl`.
        max_states: as for `from_jaxmarl`.

    Raises:
        ImportError: for a name, if gymnax is not installed.
        ValueError: as `from_jaxmarl` does.

    References:
        Lange, gymnax: A JAX-based Reinforcement Learning Environment Library, 2022.
    """
    if isinstance(env, str):
        try:
            import gymnax  # pyright: ignore[reportMissingImports]
        except ImportError:
            _missing("gymnax")
        env, _ = gymnax.make(env)
    params = env.default_params if params is None else params

    def reset(key):
        observation, state = env.reset(key, params)
        return (observation,), state

    def step(key, state, actions):
        # Before version 1 there is one flag for the end, then one for each way to end.
        observation, state, reward, *ends, _ = env.step(key, state, actions[0], params)
        end = jnp.stack([jnp.asarray(x, bool) for x in ends]).any()
        return (observation,), state, jnp.asarray(reward, float).reshape(1), end

    def act(key, observations):
        return (policy(key, observations[0]),)

    game = _Game((0,), (_num_actions(0, env.action_space(params)),), reset, step, act)
    return _record(game, key, num_steps, encode, False, separate_episodes, max_states)


def _missing(name: str) -> NoReturn:
    raise ImportError(f"an environment by name needs {name}: pip install 'jaxent[envs]'") from None


def _num_actions(agent: Any, space: Any) -> int:
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
    encode: Callable[[Any], Any] | None,
    shared_reward: bool,
    separate_episodes: bool,
    max_states: int,
) -> Trajectory:
    """Play stretch by stretch, and number what is seen."""
    check_positive_int("num_steps", num_steps)
    check_positive_int("max_states", max_states)
    see = _seer(game, key, encode)
    length = min(num_steps, _STRETCH)

    def step(carry, key):
        observations, state = carry
        act_key, step_key = jax.random.split(key)
        actions = game.act(act_key, observations)
        after, state, rewards, ended = game.step(step_key, state, actions)
        chosen = jnp.stack([jnp.asarray(a).reshape(()) for a in actions])
        return (after, state), (see(observations), chosen, rewards, ended)

    @jax.jit
    def play(carry, key):
        return lax.scan(step, carry, jax.random.split(key, length))

    reset_key, play_key = jax.random.split(key)
    carry = jax.jit(game.reset)(reset_key)
    tables, parts, offset = [], [], 0
    for k in range(-(-num_steps // length)):
        carry, (seen, *rest) = play(carry, jax.random.fold_in(play_key, k))
        seen = np.asarray(seen)  # [length, N, d]
        check_finite("observations", seen)
        table, codes = np.unique(seen.reshape(-1, seen.shape[-1]), axis=0, return_inverse=True)
        tables.append(table)
        parts.append([offset + codes.reshape(seen.shape[:2]), *map(np.asarray, rest)])
        offset += len(table)
        if k == 0:  # the rest may only tell more of them
            _check_few(len(table), length, max_states, encode)
    table, place = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    _check_few(len(table), num_steps, max_states, encode)
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


def _seer(game: _Game, key: Array, encode: Callable[[Any], Any] | None) -> Callable[..., Array]:
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


def _check_few(found: int, steps: int, max_states: int, encode: Any) -> None:
    if found > max_states:
        remedy = (
            "pass encode= that makes a small integer of an observation (what the agent needs to "
            "know of it)"
            if encode is None
            else "let encode= tell fewer apart"
        )
        raise ValueError(
            f"observations: {found} different ones in {steps} steps, wanted at most "
            f"{max_states}; {remedy}, or raise max_states"
        )


def _one_for_all(rewards: np.ndarray, agents: tuple[Any, ...]) -> np.ndarray:
    apart = np.argwhere(rewards != rewards[:, :1])
    if len(apart):
        t, i = apart[0]
        raise ValueError(
            f"shared_reward: at step {t} agent {agents[i]} is paid {rewards[t, i]:g} and agent "
            f"{agents[0]} {rewards[t, 0]:g}; leave it out"
        )
    return rewards[:, 0]


def _state_labels(table: np.ndarray) -> tuple[Any, ...]:
    """One number, or a tuple of them, for each row; whole ones as integers."""
    whole = table.astype(np.int64)
    rows = (whole if (whole == table).all() else table).tolist()
    return tuple(row[0] if len(row) == 1 else tuple(row) for row in rows)
