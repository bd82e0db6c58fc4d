"""Environments of three packages by one set of methods: a step from any state, as often as asked.

JaxMARL and gymnax start a game that has ended anew by themselves and say that it has ended; in
Jumanji a state holds the key of what is random.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .environment_contract import agents_of, by_agent, end_of_all, number_of, parts_of

Array = jax.Array
_Seen = TypeVar("_Seen", covariant=True)


class TimeStep(Protocol[_Seen]):
    """What a step of a `SpecifiedEnvironment` gives beside the state; it has a `reward` as well."""

    @property
    def observation(self) -> _Seen:
        """What is seen: of several agents, leaves with a row for each, and what all see."""
        ...

    def last(self) -> Any:
        """Whether the game has ended."""
        ...


class SpecifiedEnvironment(Protocol[_Seen]):
    """A game as Jumanji's are: a state holds the key of what is random."""

    @property
    def action_spec(self) -> Any:
        """What may be done; it has `num_values`, one number for each agent."""
        ...

    def reset(self, key: Array) -> tuple[Any, TimeStep[_Seen]]:
        """The first state, and what is seen there."""
        ...

    def step(self, state: Any, action: Any) -> tuple[Any, TimeStep[_Seen]]:
        """The next state, and what is seen there."""
        ...


class Sampler(NamedTuple):
    """What the packages have in common; observations are one for each agent.

    Attributes:
        agents: their names.
        num_actions: of each.
        reset: key to observations and state.
        step: key, state and actions `[N]` to observations, state, rewards `[N]` or `[1]`, the end.
    """

    agents: tuple[Hashable, ...]
    num_actions: tuple[int, ...]
    reset: Callable[..., Any]
    step: Callable[..., Any]


def environment_sampler(env: Any, params: object) -> Sampler:
    """The environment by the methods that its package gives it."""
    if hasattr(env, "agents"):
        return _of_jaxmarl(env)
    if hasattr(env, "default_params"):
        return _of_gymnax(env, env.default_params if params is None else params)
    if hasattr(env, "action_spec"):
        return _of_jumanji(env)
    raise ValueError(
        f"env: {type(env).__name__} has neither `agents` (JaxMARL), `default_params` (gymnax) nor "
        "`action_spec` (Jumanji); tabulate takes the rules of a game as functions"
    )


def _of_jaxmarl(env: Any) -> Sampler:
    agents = agents_of(env)
    sizes = tuple(_finite(a, getattr(env.action_space(a), "n", None)) for a in agents)
    return Sampler(agents, sizes, *jaxmarl_steps(env, agents))


def jaxmarl_steps(env: Any, agents: tuple[Any, ...]) -> tuple[Callable[..., Any], ...]:
    """`reset` and `step` of a `Sampler`, from the methods of a JaxMARL environment."""

    def reset(key):
        two = "two things: what is seen, and the state"
        observations, state = parts_of(env.reset(key), "reset", two, 2, 2)
        return by_agent(observations, agents, "reset", "observation"), state

    def step(key, state, actions):
        named = dict(zip(agents, actions, strict=True))
        five = "five things: what is seen, the state, rewards, ends, anything else"
        given = parts_of(env.step(key, state, named), "step", five, 5, 5)
        observations, state, rewards, ends, _ = given
        each = zip(agents, by_agent(rewards, agents, "step", "reward"), strict=True)
        paid = jnp.stack([number_of(r, a, "env: step", "a reward").astype(float) for a, r in each])
        return by_agent(observations, agents, "step", "observation"), state, paid, end_of_all(ends)

    return reset, step


def _of_gymnax(env: Any, params: Any) -> Sampler:
    size = _finite(0, getattr(env.action_space(params), "n", None))
    return Sampler((0,), (size,), *gymnax_steps(env, params))


def gymnax_steps(env: Any, params: Any) -> tuple[Callable[..., Any], ...]:
    """`reset` and `step` of a `Sampler`, from the methods of a gymnax environment."""

    def reset(key):
        two = "two things: what is seen, and the state"
        observation, state = parts_of(env.reset(key, params), "reset", two, 2, 2)
        return (observation,), state

    def step(key, state, actions):
        # Before version 1 there is one flag for the end, then one for each way to end.
        five = "five things: what is seen, the state, a reward, one or more ends, anything else"
        given = parts_of(env.step(key, state, actions[0], params), "step", five, 5, None)
        observation, state, reward, *ends, _ = given
        end = jnp.stack([number_of(x, 0, "env: step", "an end").astype(bool) for x in ends]).any()
        paid = number_of(reward, 0, "env: step", "a reward").astype(float)
        return (observation,), state, paid.reshape(1), end

    return reset, step


def _of_jumanji(env: Any) -> Sampler:
    named = getattr(env.action_spec, "num_values", None)
    values = np.zeros((0, 0), int) if named is None else np.asarray(named)
    if values.ndim > 1:
        _finite(0, None)
    one = np.ndim(values) == 0
    sizes = tuple(int(n) for n in np.atleast_1d(values))
    agents = tuple(range(len(sizes)))

    def rows(observation):
        if one:
            return (observation,)
        shared = [np.shape(x)[:1] != (len(agents),) for x in jax.tree.leaves(observation)]
        form = jax.tree.structure(observation)
        leaves = jax.tree.leaves(observation)
        return tuple(
            jax.tree.unflatten(
                form, [x if s else x[i] for x, s in zip(leaves, shared, strict=True)]
            )
            for i in agents
        )

    def reset(key):
        state, step = parts_of(env.reset(key), "reset", "a state and a time step", 2, 2)
        return rows(step.observation), state

    def step(key, state, actions):
        given = env.step(state, actions[0] if one else actions)
        state, after = parts_of(given, "step", "a state and a time step", 2, 2)
        paid = jnp.asarray(after.reward, float).reshape(-1)
        if paid.shape not in ((1,), (len(agents),)):
            raise ValueError(f"env: step gives a reward of shape {list(after.reward.shape)}")
        return rows(after.observation), state, paid, jnp.asarray(after.last()).reshape(())

    return Sampler(agents, sizes, reset, step)


def _finite(agent: Hashable, size: Any) -> int:
    """A_i, or a ValueError if it is no number."""
    if size is None or np.ndim(size):
        raise ValueError(
            f"env: the actions of agent {agent} are no finite set; wanted a Discrete space, so "
            "wrap the environment in one that has a few actions"
        )
    return int(size)


def _is_key(path: Any, leaf: Any) -> bool:
    """Whether a leaf of a state is what its randomness comes from."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return True
    named = bool(path) and getattr(path[-1], "name", getattr(path[-1], "key", None)) == "key"
    return named and leaf.dtype == jnp.uint32 and leaf.shape == (2,)


def without_keys(state: Any) -> Any:
    """A state with numbers 0 in the place of its keys."""

    def leaf(path: Any, x: Any) -> Array:
        x = jnp.asarray(x)
        if not _is_key(path, x):
            return x
        data = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return jnp.zeros_like(data)

    return jax.tree_util.tree_map_with_path(leaf, state)


def new_keys(state: Any, form: Any, key: Array) -> Any:
    """A state with this key in the place of its keys; `form` says of what type they are."""

    def leaf(path: Any, x: Array, like: Any) -> Array:
        if not _is_key(path, like):
            return x
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(key, like.shape)
        return jax.random.key_data(key)

    return jax.tree_util.tree_map_with_path(leaf, state, form)
