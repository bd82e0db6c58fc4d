"""Playing in Python: rows of a log from environments that are no programs of JAX, as PettingZoo's.

Here each agent has ends of its own. One that is terminated is out; one that is truncated has one
row more, of what it saw last, in which it does nothing; the game is over when nobody plays on.
"""

from collections.abc import Hashable, Iterator, Mapping
from itertools import islice
from typing import Any

import jax
import numpy as np

from .acting import Cast, Chosen
from .environment_contract import parts_of
from .environment_samplers import finite
from .play import Played
from .seeing import Eye, Kept

Array = jax.Array

_STRETCH = 1024
_FIVE = "five dicts: what is seen, rewards, terminations, truncations, infos"


class ParallelGame:
    """A PettingZoo environment, or a gymnasium one as a game of agent 0.

    Attributes:
        env: what was given.
        agents: names of all who may take part.
        num_actions: of each.
        masked: whether the first game says which actions may be chosen.
    """

    def __init__(self, env: Any, key: Array):
        """Start the first game, by a seed; others go on from there, as is the custom."""
        self.env, self.single = env, not hasattr(env, "possible_agents")
        if hasattr(type(env), "agent_iter"):
            raise ValueError(
                f"env: in {type(env).__name__} agents act by turns; wanted one in which all act at "
                "once (pettingzoo.utils.aec_to_parallel makes one where that is possible)"
            )
        self.agents = (0,) if self.single else tuple(env.possible_agents)
        spaces = [env.action_space if self.single else env.action_space(a) for a in self.agents]
        self.num_actions = tuple(finite(a, x) for a, x in zip(self.agents, spaces, strict=True))
        self.first = self.reset(seed=int(jax.random.randint(key, (), 0, 2**31 - 1)))
        self.masked = any(_mask(*self.first, a) is not None for a in self.first[0])

    def reset(self, **seed: int) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        """What is seen at the start, and infos."""
        seen, infos = parts_of(self.env.reset(**seed), "reset", "what is seen, and infos", 2, 2)
        return ({0: seen}, {0: infos}) if self.single else (_named(seen, "observation"), infos)

    def step(self, actions: dict[Any, Any]) -> list[Mapping[Any, Any]]:
        """What is seen, rewards, terminations, truncations, infos."""
        given = self.env.step(actions[0] if self.single else actions)
        given = parts_of(given, "step", _FIVE, 5, 5)
        if self.single:
            return [{0: x} for x in given]
        kinds = ("observation", "reward", "termination", "truncation")
        return [_named(x, kind) for x, kind in zip(given, kinds, strict=False)] + [given[4]]

    def masks(self, seen: Mapping[Any, Any], infos: Mapping[Any, Any]) -> dict[Any, Any] | None:
        """By name which actions may be chosen."""
        if not self.masked:
            return None
        found = {}
        for agent in seen:
            mask, size = _mask(seen, infos, agent), self.num_actions[self.agents.index(agent)]
            found[agent] = np.ones(size, bool) if mask is None else np.asarray(mask)
            if found[agent].shape != (size,):
                raise ValueError(
                    f"env: the mask of agent {agent} has shape {list(found[agent].shape)}, "
                    f"wanted [{size}]"
                )
        return found


def _named(given: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"env: gives {what}s as {type(given).__name__}, wanted a dict by agent name"
        )
    return given


def _mask(seen: Mapping[Any, Any], infos: Any, agent: Hashable) -> Any:
    for told in (seen[agent], infos.get(agent) if isinstance(infos, Mapping) else None):
        if isinstance(told, Mapping) and "action_mask" in told:
            return told["action_mask"]
    return None


def host_stretches(
    key: Array,
    game: ParallelGame,
    cast: Cast,
    eye: Eye,
    carry: Any,
    *,
    num_steps: int,
    time_limit: int | None,
) -> Iterator[Played]:
    """NumPy arrays of one environment, `[1, L, ..]`."""
    rows = _rows(key, game, cast, eye, carry, time_limit)
    played = 0
    while played < num_steps:
        length = min(_STRETCH, num_steps - played)
        played += length
        yield _stack(list(islice(rows, length)), cast)


def _rows(
    key: Array,
    game: ParallelGame,
    cast: Cast,
    eye: Eye,
    first_carry: Any,
    time_limit: int | None,
) -> Iterator[dict[str, Any]]:
    """Row after row; the last one is that of an action which no environment takes, if any is."""
    (seen, infos), carry, clock, stretch = game.first, first_carry, 0, 0
    leaving: set[Any] = set()  # whose row is the last one: they are truncated
    gone: set[Any] = set()  # who is out of this game for good
    while True:
        for own_key in jax.random.split(jax.random.fold_in(key, stretch), _STRETCH):
            masks = game.masks(seen, infos)
            made = _act(cast, own_key, seen, masks, carry)
            row = _row(cast, eye, seen, game.env, made, masks)
            playing = [a for a in seen if a not in leaving]
            row["last_seen"] = [cast.agents[i] in leaving for i in cast.team]
            row["rewards"] = [0.0] * len(cast.team)
            row["ended"], row["cut"] = False, not playing
            if row["wrong"]:
                yield row
                return
            if playing:
                actions = {a: made.actions[a] for a in playing}
                after, rewards, terminated, truncated, infos = game.step(actions)
                for place, i in enumerate(cast.team):
                    if cast.agents[i] in playing:
                        row["rewards"][place] = _of("reward", rewards, cast.agents[i])
                clock += 1
                late = time_limit is not None and clock >= time_limit
                left, gone = leaving, gone | leaving
                seen, leaving = _go_on(after, playing, gone, terminated, truncated, late)
                gone |= set(playing) - set(seen)
                carry = made.carry
                # Who left in this row saw the last of it; a new game is no next epoch of theirs.
                row["ended"], row["cut"] = not seen and not left, not seen and bool(left)
            yield row
            if not playing or not seen:
                (seen, infos), carry, clock = game.reset(), first_carry, 0
                leaving, gone = set(), set()
        stretch += 1


def _go_on(
    after: Mapping[Any, Any],
    playing: list[Any],
    gone: set[Any],
    terminated: Mapping[Any, Any],
    truncated: Mapping[Any, Any],
    late: bool,
) -> tuple[dict[Any, Any], set[Any]]:
    """Who has a next row and what is seen there, and for whom that is the last one."""
    seen, leaving = {}, set()
    # Where all end as the time is up, it is the clock's end.
    clocks = late and all(_of("termination", terminated, a) for a in playing)
    for agent in [*playing, *(a for a in after if a not in playing and a not in gone)]:
        if agent in playing:
            over = [bool(_of(k, x, agent)) for k, x in _ends(terminated, truncated)]
        else:  # newly there
            over = [bool(x.get(agent, False)) for _, x in _ends(terminated, truncated)]
        if over[0] and not clocks:
            continue
        seen[agent] = _of("observation", after, agent)
        if over[1] or late:
            leaving.add(agent)
    return seen, leaving


def _ends(terminated: Any, truncated: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("termination", terminated), ("truncation", truncated)


def _of(what: str, given: Mapping[Any, Any], agent: Hashable) -> Any:
    if agent not in given:
        raise ValueError(f"env: step gives no {what} of agent {agent}, who has acted")
    return given[agent]


def _act(cast: Cast, key: Array, seen: Mapping[Any, Any], masks: Any, carry: Any) -> Chosen:
    """What is chosen by those who are there, by name."""
    unknown = [a for a in seen if a not in cast.agents]
    if unknown:
        raise ValueError(f"env: agent {unknown[0]} is none of its possible_agents {cast.agents}")
    keys = [key] if len(cast.actors) == 1 else list(jax.random.split(key))
    actions, laws, after = {}, None, carry
    for k, (own_key, one) in enumerate(zip(keys, cast.actors, strict=True)):
        own = {a: seen[a] for a in one.players if a in seen}
        if not own:
            continue
        may = None if masks is None else {a: masks[a] for a in own}
        made = one(own_key, own, may, carry)
        actions |= {a: _number(made.actions[a], a) for a in own}
        if k == 0:
            laws = cast.team_laws(made)
            after = made.carry if "carry" in one.extras else carry
    return Chosen(actions, laws, after)


def _number(given: Any, agent: Hashable) -> int:
    value = np.asarray(given)
    if value.size != 1:
        raise ValueError(
            f"policy: gives agent {agent} an action of shape {list(value.shape)}, wanted one number"
        )
    if value.dtype.kind not in "iub":
        raise ValueError(
            f"policy: gives agent {agent} an action of {value.dtype}, wanted an integer"
        )
    return int(value.reshape(()))


def _row(
    cast: Cast, eye: Eye, seen: Mapping[Any, Any], state: Any, made: Any, masks: Any
) -> dict[str, Any]:
    """What is known of an epoch before the step; None of those who are out."""
    team = [cast.agents[i] for i in cast.team]
    kept = [eye.one(a, seen[a], np) if a in seen else (None, None) for a in team]
    chosen = [made.actions.get(a, 0) for a in cast.agents]
    beyond, forbidden = False, []
    for agent, action, size in zip(cast.agents, chosen, cast.num_actions, strict=True):
        inside = 0 <= action < size
        beyond |= not inside
        forbidden.append(
            inside and masks is not None and agent in seen and not masks[agent][action]
        )
    return {
        "wrong": beyond or any(forbidden),
        "seen": [x for x, _ in kept],
        "features": [x for _, x in kept],
        "signal": eye.told(state, np),
        "present": [a in seen for a in team],
        "chosen": chosen,
        "forbidden": forbidden,
        "laws": made.laws,
    }


def _stack(rows: list[dict[str, Any]], cast: Cast) -> Played:
    """Rows as arrays, 0 where there is nothing."""

    def table(name: str) -> Any:
        return np.array([row[name] for row in rows])[None]

    def padded(name: str, least: int = 0) -> Any:
        widths = [len(x) for row in rows for x in row[name] if x is not None]
        kinds = {np.asarray(x).dtype for row in rows for x in row[name] if x is not None}
        shape = (1, len(rows), len(cast.team), max([least, *widths]))
        out = np.zeros(shape, np.result_type(*kinds) if kinds else np.int32)
        for t, row in enumerate(rows):
            for i, x in enumerate(row[name]):
                if x is not None:
                    out[0, t, i, : len(x)] = x
        return out

    with_laws = [row["laws"] is not None for row in rows]
    laws = None
    if any(with_laws):
        none = (None,) * len(cast.team)
        rows = [{**row, "laws": none if row["laws"] is None else row["laws"]} for row in rows]
        laws = padded("laws", max(cast.num_actions))
    features = (
        padded("features") if any(x is not None for r in rows for x in r["features"]) else None
    )
    chosen = table("chosen")
    return Played(
        kept=Kept(padded("seen", 1), features, table("signal")),
        actions=chosen[..., np.asarray(cast.team)],
        laws=laws,
        rewards=table("rewards").astype(float),
        present=table("present"),
        last_seen=table("last_seen"),
        ended=table("ended"),
        cut=table("cut"),
        forbidden=table("forbidden"),
        chosen=chosen,
    )
