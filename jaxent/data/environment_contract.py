"""What is asked of an environment while it is played, and one line for what it breaks.

An environment is traced, so the first step stands for all: what an agent lacks there it never gets.
"""

from collections.abc import Hashable, Mapping, Sequence
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def optional_package(module: str, name: str) -> Any:
    """An optional package, or an ImportError that names the module that is missing: it or one of
    its own."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            remedy = f"an environment by name needs {name}: pip install 'jaxent[envs]'"
        else:
            remedy = (
                f"{name} is installed, but lacks the module {error.name}; install what has it "
                f"(pip install {(error.name or '').split('.')[0]})"
            )
        raise ImportError(remedy, name=error.name) from None
    except ImportError as error:
        raise ImportError(f"{name} is installed, but cannot be imported: {error}") from error


def agents_of(env: Any) -> tuple[str, ...]:
    """The names of the agents."""
    agents = getattr(env, "agents", None)
    if agents is None or isinstance(agents, str) or not len(agents):
        raise ValueError(
            f"env: {type(env).__name__} does not list its agents; wanted an environment as "
            "JaxMARL's are, with `agents`, `action_space`, `reset` and `step`"
        )
    return tuple(agents)


def parts_of(given: Any, when: str, wanted: str, least: int, most: int | None) -> tuple[Any, ...]:
    """What `reset` or `step` gave, which has so many parts."""
    number = len(given) if isinstance(given, (tuple, list)) else 0
    if number < least or (most is not None and number > most):
        got = f"{number} of them" if number else type(given).__name__
        raise ValueError(f"env: {when} gives {got}, wanted {wanted}")
    return tuple(given)


def by_agent(given: Any, agents: Sequence[Hashable], when: str, what: str) -> tuple[Any, ...]:
    """What belongs to each agent, in their order."""
    names = ", ".join(map(str, agents))
    if not isinstance(given, Mapping):
        shape = f" of shape {list(jnp.shape(given))}" if hasattr(given, "shape") else ""
        raise ValueError(
            f"env: {when} gives {what}s as {type(given).__name__}{shape}, wanted a dict with one "
            f"for each agent ({names})"
        )
    for agent in agents:
        if agent not in given:
            raise ValueError(
                f"env: {when} gives no {what} of agent {agent}; an agent that is out goes on being "
                f"there, with what it saw last and reward 0 (agents: {names})"
            )
    return tuple(given[agent] for agent in agents)


def number_of(given: Any, agent: Hashable, when: str, what: str) -> Array:
    """A single number."""
    value = jnp.asarray(given)
    if value.size != 1:
        raise ValueError(
            f"{when} gives agent {agent} {what} of shape {list(value.shape)}, wanted one number"
        )
    return value.reshape(())


def ends_of(given: Any, agents: Sequence[Hashable]) -> tuple[Array, Array]:
    """Whether the game has ended, and which agents are out, `[N]`."""
    if not isinstance(given, Mapping) or "__all__" not in given:
        has = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f'env: step says whether each agent is done ({has}), but not "__all__": whether the '
            "game has ended and starts anew"
        )
    # An agent of which nothing is said plays on.
    ends = [
        number_of(given.get(a, False), a, "env: step", "an end").astype(bool)
        for a in ("__all__", *agents)
    ]
    return ends[0], jnp.stack(ends[1:])


def explain_change(agents: Sequence[Hashable], before: Any, after: Any) -> str | None:
    """Which agent's observation, or that the state, changes from `reset` to `step`, if any does."""

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    def told(tree: Any) -> str:
        leaves = jax.tree.leaves(tree)
        return ", ".join(f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves)

    for agent, old, new in zip(agents, before[0], after[0], strict=True):
        if form(old) != form(new):
            return (
                f"env: reset shows agent {agent} {told(old)}, but step {told(new)}; every "
                "observation of an agent has one shape and type"
            )
    if form(before[1]) != form(after[1]):
        return "env: the state that step gives has other shapes or types than that of reset"
    return None
