"""How a policy is asked, and what it may answer.

A policy is called as `policy(key, observations)`, by agent name, and gives an action of each agent.
What else there is it gets by name, if it has a parameter of that name, `masks` or `carry`; what
else it has to say it gives in `Acted`. So the plain case stays plain, and a policy that is
recurrent, masked and tells its laws differs from it by a word each.
"""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._reads import reads
from .environment_contract import number_of

Array = jax.Array

_WANTED = "wanted policy(key, observations), with masks= and carry= if it needs them"


@reads("what each of {0.actions} was chosen with")
class Acted(NamedTuple):
    """What a policy gives where it has more to say than actions.

    Attributes:
        actions: the number of its action, by agent name.
        laws: the probability of each of its actions, `[A_i]`, by agent name.
        carry: of a recurrent policy, for its next call; of the form of the first one.
    """

    actions: Mapping[Any, Any]
    laws: Mapping[Any, Any] | None = None
    carry: Any = None


class Chosen(NamedTuple):
    """Of all agents, in their order or by name; laws of those who are recorded."""

    actions: Any
    laws: tuple[Array, ...] | None
    carry: Any


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        p.kind is inspect.Parameter.VAR_KEYWORD or (p.name == name and p.kind in kinds)
        for p in _parameters(function)
    )


def num_required(function: Callable[..., Any], *but: str) -> int:
    """How many arguments without names a function needs, beside these."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(
        p.kind in kinds and p.default is inspect.Parameter.empty and p.name not in but
        for p in _parameters(function)
    )


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        return ()


class Actor(NamedTuple):
    """A policy and those for whom it decides.

    Attributes:
        policy: as `rollout` takes it.
        players: the names that it sees and decides for.
        extras: which of `masks` and `carry` it is given.
        name: of the argument, for errors.
    """

    policy: Callable[..., Any]
    players: tuple[Hashable, ...]
    extras: tuple[str, ...]
    name: str = "policy"

    def __call__(self, key: Any, seen: dict[Any, Any], masks: Any, carry: Any) -> Acted:
        """Ask the policy; what it gives has an action for each player."""
        extras = {"masks": masks, "carry": carry}
        given = self.policy(key, seen, **{name: extras[name] for name in self.extras})
        made = given if isinstance(given, Acted) else Acted(given)
        there = set(made.actions) if isinstance(made.actions, Mapping) else set()
        # What is said of who is out does no harm.
        if not set(seen) <= there <= set(self.players):
            raise ValueError(
                f"{self.name}: wanted a dict with an action for each of {list(seen)}, or Acted of "
                f"one, got {_told(made.actions)}"
            )
        if "carry" in self.extras and made.carry is None:
            raise ValueError(
                f"{self.name}: gives no carry; wanted Acted(actions, carry=..) with the next one"
            )
        return made


def actor(
    policy: Callable[..., Any],
    players: tuple[Hashable, ...],
    *,
    masked: bool,
    recurrent: bool,
    name: str = "policy",
) -> Actor:
    """A policy with what it asks for.

    Raises:
        ValueError: if it asks for what there is not, or has other parameters.
    """
    there = {"masks": masked, "carry": recurrent}
    extras = tuple(k for k in there if takes(policy, k) and there[k])
    needs = [p.name for p in _parameters(policy) if p.default is inspect.Parameter.empty]
    if "carry" in needs and not recurrent:
        raise ValueError(f"{name}: takes a carry; pass the first one as carry=")
    if "masks" in needs and not masked:
        raise ValueError(
            f"{name}: takes masks, but the environment has none (get_avail_actions of JaxMARL, "
            "action_mask of a Jumanji observation, an action_mask of PettingZoo)"
        )
    if recurrent and "carry" not in extras:
        raise ValueError(f"carry: the {name} has no parameter of this name; {_WANTED}")
    if _parameters(policy) and num_required(policy, *there) > 2:
        raise ValueError(f"{name}: takes ({', '.join(needs)}); {_WANTED}")
    return Actor(policy, players, extras, name)


class Cast(NamedTuple):
    """Everybody who plays, and whom the log is of.

    Attributes:
        agents: names of all.
        num_actions: of each.
        actors: one policy, or that of the team and that of the others.
        team: places of those who are recorded.
    """

    agents: tuple[Hashable, ...]
    num_actions: tuple[int, ...]
    actors: tuple[Actor, ...]
    team: tuple[int, ...]

    def act(self, key: Array, observations: Sequence[Any], masks: Any, carry: Any) -> Chosen:
        """Ask every policy, inside a program."""
        keys = [key] if len(self.actors) == 1 else list(jax.random.split(key))
        seen = dict(zip(self.agents, observations, strict=True))
        allowed = None if masks is None else dict(zip(self.agents, masks, strict=True))
        actions, laws, after = {}, None, carry
        for k, (own_key, one) in enumerate(zip(keys, self.actors, strict=True)):
            own = {a: seen[a] for a in one.players}
            may = None if allowed is None else {a: allowed[a] for a in one.players}
            made = one(own_key, own, may, carry)
            actions |= made.actions
            if k == 0:
                laws = self.team_laws(made)
                after = made.carry if "carry" in one.extras else carry
        numbers = [_action(a, actions[a]) for a in self.agents]
        _check_carry(carry, after)
        return Chosen(jnp.stack(numbers), laws, after)

    def team_laws(self, made: Acted) -> tuple[Any, ...] | None:
        """The laws of those who are recorded, of their shapes."""
        if made.laws is None:
            return None
        if not isinstance(made.laws, Mapping):
            raise ValueError(
                f"policy: gives laws as {_told(made.laws)}, wanted a dict by agent name"
            )
        found = []
        for i in self.team:
            agent, size = self.agents[i], self.num_actions[i]
            if agent not in made.laws and agent in made.actions:
                raise ValueError(f"policy: gives no law of agent {agent}, but of others")
            law = made.laws.get(agent)
            if law is not None and np.shape(law) != (size,):
                raise ValueError(
                    f"policy: gives agent {agent} a law of shape {list(np.shape(law))}, wanted "
                    f"[{size}], a probability for each of its actions"
                )
            found.append(law)
        return tuple(found)


def cast(
    agents: tuple[Hashable, ...],
    num_actions: tuple[int, ...],
    policy: Callable[..., Any],
    others: Callable[..., Any] | None,
    team: Sequence[Hashable] | None,
    *,
    masked: bool,
    recurrent: bool,
) -> Cast:
    """Who plays for whom."""
    if team is None:
        if others is not None:
            raise ValueError("others: say who is in the team, team=")
        places = tuple(range(len(agents)))
    else:
        team = (team,) if isinstance(team, str) else tuple(team)
        unknown = [a for a in team if a not in agents]
        if unknown or not team or len(set(team)) < len(team):
            raise ValueError(
                f"team: {unknown[0] if unknown else list(team)!r} does not name agents, each once; "
                f"they are {list(agents)}"
            )
        places = tuple(agents.index(a) for a in team)
    if others is None:
        actors = (actor(policy, agents, masked=masked, recurrent=recurrent),)
    else:
        rest = tuple(a for k, a in enumerate(agents) if k not in places)
        own = tuple(agents[k] for k in places)
        actors = (
            actor(policy, own, masked=masked, recurrent=recurrent),
            actor(others, rest, masked=masked, recurrent=False, name="others"),
        )
    return Cast(agents, num_actions, actors, places)


def check_masks(masks: Sequence[Any], agents: Sequence[Hashable], sizes: Sequence[int]) -> None:
    """Raise unless there is one entry for each action of every agent."""
    for agent, mask, size in zip(agents, masks, sizes, strict=True):
        if np.shape(mask) != (size,):
            raise ValueError(
                f"env: the mask of agent {agent} has shape {list(np.shape(mask))}, wanted [{size}]"
            )


def _action(agent: Hashable, given: Any) -> Array:
    number = number_of(given, agent, "policy:", "an action")
    if not jnp.issubdtype(number.dtype, jnp.integer) and number.dtype != bool:
        raise ValueError(
            f"policy: gives agent {agent} an action of {number.dtype}, wanted an integer"
        )
    return number.astype(jnp.int32)


def _check_carry(before: Any, after: Any) -> None:
    def form(tree: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    if form(before) != form(after):
        told = [
            ", ".join(f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in jax.tree.leaves(tree))
            for tree in (before, after)
        ]
        raise ValueError(
            f"policy: gives a carry of {told[1] or 'nothing'}, wanted {told[0] or 'nothing'}, the "
            "form of the first one, carry="
        )


def _told(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"one for {list(given)}"
    return type(given).__name__ + (
        f" of shape {list(given.shape)}" if hasattr(given, "shape") else ""
    )
