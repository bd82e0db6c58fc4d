"""Rollouts in environments of JaxMARL and of gymnax, also by their names.

Both packages are optional: `pip install jaxent[envs]`. Nothing of them is imported for an
environment that is passed as an object.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .._checks import key_first
from .environment_contract import agents_of, optional_package
from .environment_protocols import Environment as Environment
from .environment_protocols import Observation as Observation
from .environment_protocols import SingleAgentEnvironment as SingleAgentEnvironment
from .rollouts import rollout
from .trajectory import Trajectory

Array = jax.Array


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
    """Play a policy in a JaxMARL environment and record it: `rollout`, with fewer options.

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
        `encode` made of them) and the numbers of the actions. An agent that is done before the
        others is not `present` to the end of the game.

    Raises:
        ImportError: for a name, if JaxMARL or a module that it needs is not installed.
        ValueError: for an environment that gives no observation or reward of an agent, no
            "__all__" among its ends, or other shapes in `step` than in `reset`; for actions that
            are no finite set, more observations than `max_states` or one not finite, an `encode` or
            a policy that gives something else, rewards that differ though shared.

    References:
        Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, 2024.
    """
    game = optional_package("jaxmarl", "JaxMARL").make(env) if isinstance(env, str) else env
    agents_of(game)
    return rollout(
        key,
        game,
        policy,
        num_steps=num_steps,
        encode=encode,
        shared_reward=shared_reward,
        separate_episodes=separate_episodes,
        max_states=max_states,
    )


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
    """Play a policy in a gymnax environment, of one agent, and record it: `rollout`, for one.

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

    Returns:
        A trajectory as of `from_jaxmarl`. What is seen last in a game that only the clock has ended
        is a row of its own (`Trajectory.last_seen`).

    Raises:
        ImportError: for a name, if gymnax or a module that it needs is not installed.
        ValueError: as `from_jaxmarl` does.

    References:
        Lange, gymnax: A JAX-based Reinforcement Learning Environment Library, 2022.
    """
    game = optional_package("gymnax", "gymnax").make(env)[0] if isinstance(env, str) else env

    def act(key: Array, seen: dict[Any, Any]) -> dict[Any, Array | int]:
        return {0: policy(key, seen[0])}

    return rollout(
        key,
        game,
        act,
        num_steps=num_steps,
        params=params,
        encode=encode,
        separate_episodes=separate_episodes,
        max_states=max_states,
    )
