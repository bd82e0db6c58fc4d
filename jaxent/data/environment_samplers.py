"""Environments of three packages by one set of methods: a step from any state, as often as asked.

JaxMARL and gymnax start a game that has ended anew by themselves, so their `step_env` is asked
where there is one: it shows what was seen last. In Jumanji a state holds the key of what is random.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .environment_contract import agents_of, by_agent, ends_of, number_of, parts_of

Array = jax.Array


class Stepped(NamedTuple):
    """What a step gives.

    Attributes:
        observations: one for each agent.
        state: of the environment.
        rewards: `[N]`, or `[1]` for one that the team shares.
        ended: whether the game is over.
        truncated: whether only the clock ended it; None where the environment does not tell.
        out: whether an agent takes no further part, `[N]`.
    """

    observations: tuple[Any, ...]
    state: Any
    rewards: Array
    ended: Array
    truncated: Array | None
    out: Array


class Sampler(NamedTuple):
    """What the packages have in common; observations are one for each agent.

    Attributes:
        agents: their names.
        num_actions: of each.
        reset: key to observations and state.
        step: key, state and actions `[N]` to `Stepped`.
        masks: observations and state to which actions each agent may choose, or to None where
            nothing is forbidden.
        restarts: whether a game that has ended starts anew by itself, so that what a step shows
            then is the start.
    """

    agents: tuple[Hashable, ...]
    num_actions: tuple[int, ...]
    reset: Callable[..., Any]
    step: Callable[..., Stepped]
    masks: Callable[..., tuple[Array, ...] | None]
    restarts: bool = False


def environment_sampler(env: Any, params: object, remedy: str) -> Sampler:
    """The environment by the methods of its package; `remedy` says what else there is."""
    if hasattr(env, "agents"):
        return _of_jaxmarl(env)
    if hasattr(env, "default_params"):
        return _of_gymnax(env, env.default_params if params is None else params)
    if hasattr(env, "action_spec"):
        return _of_jumanji(env)
    raise ValueError(
        f"env: {type(env).__name__} has neither `agents` (JaxMARL), `default_params` (gymnax) nor "
        f"`action_spec` (Jumanji); {remedy}"
    )


def _of_jaxmarl(env: Any) -> Sampler:
    agents = agents_of(env)
    sizes = tuple(finite(a, env.action_space(a)) for a in agents)
    inner = _steps_alone(env)
    one_step = env.step_env if inner else env.step

    def reset(key):
        two = "two things: what is seen, and the state"
        observations, state = parts_of(env.reset(key), "reset", two, 2, 2)
        return by_agent(observations, agents, "reset", "observation"), state

    def step(key, state, actions):
        named = dict(zip(agents, actions, strict=True))
        five = "five things: what is seen, the state, rewards, ends, anything else"
        given = parts_of(one_step(key, state, named), "step", five, 5, 5)
        observations, state, rewards, ends, _ = given
        each = zip(agents, by_agent(rewards, agents, "step", "reward"), strict=True)
        paid = jnp.stack([number_of(r, a, "env: step", "a reward").astype(float) for a, r in each])
        seen = by_agent(observations, agents, "step", "observation")
        ended, out = ends_of(ends, agents)
        return Stepped(seen, state, paid, ended, None, out)

    return Sampler(agents, sizes, reset, step, _masks_by_name(env, agents), restarts=not inner)


def _steps_alone(env: Any) -> bool:
    """Whether the environment has a `step_env` of its own, below its own `step`.

    A wrapper that lends the methods of what it wraps has another state; a class whose `step` is
    newer than its `step_env` does more in the former.
    """
    if "step_env" in vars(env):
        return True
    found = {
        name: next((k for k, c in enumerate(type(env).__mro__) if name in vars(c)), None)
        for name in ("step", "step_env")
    }
    if found["step_env"] is None:
        return False
    return found["step"] is None or found["step_env"] <= found["step"]


def _masks_by_name(env: Any, agents: tuple[Any, ...]) -> Callable[..., Any]:
    def masks(observations, state):
        for name in ("get_avail_actions", "get_legal_moves"):
            # Not what a wrapper lends: it takes the state of what is wrapped.
            if name in vars(env) or hasattr(type(env), name):
                try:
                    given = getattr(env, name)(state)
                except NotImplementedError:  # of JaxMARL's base class
                    continue
                return by_agent(given, agents, name, "mask")
        return None

    return masks


def _of_gymnax(env: Any, params: Any) -> Sampler:
    size = finite(0, env.action_space(params))
    inner = _steps_alone(env) and hasattr(env, "is_truncated")

    def reset(key):
        two = "two things: what is seen, and the state"
        observation, state = parts_of(env.reset(key, params), "reset", two, 2, 2)
        return (observation,), state

    def step(key, state, actions):
        # Before version 1 there is one flag for the end, then one for each way to end.
        five = "five things: what is seen, the state, a reward, one or more ends, anything else"
        given = (env.step_env if inner else env.step)(key, state, actions[0], params)
        given = parts_of(given, "step", five, 5, None)
        observation, state, reward, *ends, _ = given
        if inner:
            ends = [ends[0], env.is_truncated(state, params)]
        ends = [number_of(x, 0, "env: step", "an end").astype(bool) for x in ends]
        terminated, ended = ends[0], jnp.stack(ends).any()
        paid = number_of(reward, 0, "env: step", "a reward").astype(float)
        still = jnp.zeros(1, bool)
        return Stepped((observation,), state, paid.reshape(1), ended, ended & ~terminated, still)

    return Sampler((0,), (size,), reset, step, lambda *_: None, restarts=not inner)


def _of_jumanji(env: Any) -> Sampler:
    named = getattr(env.action_spec, "num_values", None)
    values = np.zeros((0, 0), int) if named is None else np.asarray(named)
    if values.ndim > 1:
        finite(0, env.action_spec)
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
        ended = jnp.asarray(after.last()).reshape(())
        truncated, out = None, jnp.zeros(len(agents), bool)
        if hasattr(after, "discount"):
            over = jnp.asarray(after.discount).reshape(-1) == 0  # for good
            truncated = ended & ~over.all()
            out = over if len(over) == len(agents) > 1 else out
        return Stepped(rows(after.observation), state, paid, ended, truncated, out)

    def masks(observations, state):
        if not hasattr(observations[0], "action_mask"):
            return None
        return tuple(x.action_mask for x in observations)

    return Sampler(agents, sizes, reset, step, masks)


def finite(agent: Hashable, space: Any) -> int:
    """A_i, or a ValueError if it is no number."""
    size = getattr(space, "n", None)
    if size is None or np.ndim(size):
        kind = f" ({type(space).__name__})" if space is not None else ""
        raise ValueError(
            f"env: the actions of agent {agent} are no finite set{kind}; wanted a Discrete "
            "space, so wrap the environment in one that has a few actions"
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
