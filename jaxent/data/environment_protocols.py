"""What is asked of an environment, package by package: any object with these methods will do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax

Array = jax.Array

# What an agent sees: an array, or a pytree of arrays.
Observation = TypeVar("Observation")
_Seen = TypeVar("_Seen", covariant=True)


class Environment(Protocol[_Seen]):
    """A game of several agents, as JaxMARL's are; one that has ended starts anew by itself.

    Two methods are used where there are any: `step_env`, a step that does not start anew, with
    arguments and results of `step`; and `get_avail_actions(state)` (or `get_legal_moves`), by name
    which of its actions an agent may choose.
    """

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
    """A game of one agent, as gymnax's are; one that has ended starts anew by itself.

    `step_env`, a step that does not start anew, is used where there is one, and with it
    `is_truncated(state, params)`: whether the clock ends the game.
    """

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


class TimeStep(Protocol[_Seen]):
    """What a step of a `SpecifiedEnvironment` gives beside the state; it has a `reward` as well.

    A `discount` that is not 0 where the game has ended says that the clock ended it.
    """

    @property
    def observation(self) -> _Seen:
        """What is seen: of several agents, leaves with a row for each, and what all see."""
        ...

    def last(self) -> Any:
        """Whether the game has ended."""
        ...


class SpecifiedEnvironment(Protocol[_Seen]):
    """A game as Jumanji's are: a state holds the key of what is random.

    An observation that has an `action_mask`, `[N, A]`, says which actions may be chosen.
    """

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


class ParallelEnvironment(Protocol[_Seen]):
    """A game of several agents who act at once, as PettingZoo's are; it is played in Python.

    An "action_mask" in what an agent sees (a dict) or in its info says what it may choose.
    """

    @property
    def possible_agents(self) -> Sequence[Any]:
        """Names of all who may take part."""
        ...

    def action_space(self, agent: Any) -> object:
        """What an agent may do; a finite set has their number, `n`."""
        ...

    def reset(self, seed: int | None = None) -> tuple[Mapping[Any, _Seen], Mapping[Any, Any]]:
        """What each agent sees at the start, by name, and infos."""
        ...

    def step(self, actions: dict[Any, Any]) -> tuple[Mapping[Any, Any], ...]:
        """By name: what is seen next, rewards, terminations, truncations, infos."""
        ...
