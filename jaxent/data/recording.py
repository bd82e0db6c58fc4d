"""From rows that were played to a trajectory: what does not fit is named by its step and agent."""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import ROW_EPS, check_finite
from .acting import Cast
from .local_pairs import MOST_PAIRS
from .play import Played
from .seeing import Eye
from .trajectory import Labels, Trajectory


def record(
    stretches: Iterable[Played],
    cast: Cast,
    eye: Eye,
    *,
    num_steps: int,
    shared_reward: bool,
    separate_episodes: bool,
    max_states: int,
) -> Trajectory:
    """The log of all that was played, looked at stretch by stretch."""
    tables, parts, played = _Table(eye, max_states), [], 0
    for rows in stretches:
        left = num_steps - played
        rows = jax.tree.map(lambda x, left=left: x[:, :left], rows)
        _check_rows(rows, cast, played)
        played += rows.ended.shape[1]
        seen = np.where(rows.present[..., None], rows.kept.seen, 0)
        codes = tables.codes(seen, rows.present, played)
        parts.append(rows._replace(kept=rows.kept._replace(seen=codes)))
    if len({part.laws is None for part in parts}) > 1:
        raise ValueError("policy: gives laws at some steps and at others none")
    rows = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
    del parts
    states, codes = tables.numbered(rows.kept.seen.reshape(-1, len(cast.team)))
    signals, signal = np.unique(rows.kept.signal.reshape(-1), return_inverse=True)
    if len(signals) > max_states:
        raise ValueError(
            f"signal: {len(signals)} different values, wanted at most {max_states}; let it tell "
            "fewer apart, or raise max_states"
        )
    present = _flat(rows.present)
    sizes = max(cast.num_actions)
    numbers = Labels.numbers(
        agents=len(cast.team), states=len(states), actions=sizes, signals=len(signals)
    )
    recorded = Trajectory.from_arrays(
        np.where(present, codes, 0),
        np.where(present, _flat(rows.actions), 0),
        _rewards(rows, cast, shared_reward),
        signal=signal,
        episode=_episodes(rows, separate_episodes),
        labels=numbers,
    )
    features, laws = rows.kept.features, rows.laws
    labels = numbers._replace(
        agents=tuple(cast.agents[i] for i in cast.team),
        states=states,
        signals=tuple(signals.tolist()),
    )
    return replace(
        recorded,
        labels=labels,
        present=present,
        observations=None if features is None else _at(present, features),
        last_seen=_flat(rows.last_seen) if rows.last_seen.any() else None,
        action_laws=None if laws is None else _at(present, laws),
    )


class _Table:
    """The different things that are seen, numbered when all is known."""

    def __init__(self, eye: Eye, most: int):
        self.eye, self.most = eye, most
        self.every, self.tables, self.offset = None, [], 0

    def codes(self, seen: np.ndarray, present: np.ndarray, steps: int) -> np.ndarray:
        """Numbers among all rows of all tables, in the shape of `present`."""
        table, codes = _unique(seen.reshape(-1, seen.shape[-1]))
        self.tables.append(table)
        here = table[np.unique(codes[present.reshape(-1)])]
        every = here if self.every is None else np.concatenate([self.every, here])
        self.every = np.unique(every, axis=0)
        self._check(steps)
        codes, self.offset = self.offset + codes.reshape(present.shape), self.offset + len(table)
        return codes

    def numbered(self, codes: np.ndarray) -> tuple[tuple[Hashable, ...], np.ndarray]:
        """Labels of the states that occurred, and the state of every code."""
        table = np.concatenate(self.tables)
        every = self.every if self.every is not None and len(self.every) else table[:1]
        both, place = np.unique(np.concatenate([every, table]), axis=0, return_inverse=True)
        number = np.zeros(len(both), np.int64)
        number[place[: len(every)]] = np.arange(len(every))
        return _state_labels(every), number[place[len(every) :]][codes]

    def _check(self, steps: int) -> None:
        if self.every is not None and len(self.every) > self.most:
            remedy = (
                "pass encode= that makes a small integer of an observation (what the agent needs "
                "to know of it), or features=True that keeps them as numbers"
                if self.eye.encode is None
                else "let encode= tell fewer apart"
            )
            raise ValueError(
                f"observations: {len(self.every)} different ones in {steps} steps, wanted at most "
                f"{self.most}; {remedy}, or raise max_states (an audit takes {MOST_PAIRS} pairs of "
                "state and action)"
            )


def _unique(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different rows in order, and which of them each is; single numbers take much less time."""
    if rows.shape[1] == 1:
        table, codes = np.unique(rows[:, 0], return_inverse=True)
        return table[:, None], codes
    return np.unique(rows, axis=0, return_inverse=True)


def _check_rows(rows: Played, cast: Cast, before: int) -> None:
    """Raise at the first observation, action or law that does not fit."""
    names = [cast.agents[i] for i in cast.team]

    def at(place: np.ndarray) -> str:
        e, t = int(place[0]), before + int(place[1])
        return f"at step {t}" + (f" of environment {e}" if len(rows.ended) > 1 else "")

    for name, values in (("observations", rows.kept.seen), ("features", rows.kept.features)):
        if values is not None and not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values) & rows.present[..., None])
            if len(bad):
                e, t, i, k = bad[0]
                raise ValueError(
                    f"{name}[{before + t}, {i}, {k}] is {values[e, t, i, k]}: what agent "
                    f"{names[i]} sees {at(bad[0])}; every number must be finite"
                )
    sizes = np.asarray(cast.num_actions)
    chosen = rows.chosen
    wrong = np.argwhere((chosen < 0) | (chosen >= sizes))
    if len(wrong):
        e, t, i = wrong[0]
        raise ValueError(
            f"actions[{before + t}, {i}] is {chosen[e, t, i]}: the policy's for agent "
            f"{cast.agents[i]} {at(wrong[0])}, who has 0 to {sizes[i] - 1}"
        )
    wrong = np.argwhere(rows.forbidden)
    if len(wrong):
        e, t, i = wrong[0]
        raise ValueError(
            f"policy: {at(wrong[0])} agent {cast.agents[i]} chooses action {chosen[e, t, i]}, "
            "which its mask forbids; let the policy take masks= and choose among them"
        )
    if rows.laws is not None:
        _check_laws(rows, names, at)


def _check_laws(rows: Played, names: list[Hashable], at: Any) -> None:
    laws = rows.laws.astype(np.float64)
    # Added up to 1 in the numbers that the policy computes with.
    slack = ROW_EPS * laws.shape[-1] * float(jnp.finfo(rows.laws.dtype).eps)
    kept = ~(np.abs(laws.sum(-1) - 1) <= slack) | ~(laws >= 0).all(-1)
    actions = np.minimum(rows.actions, laws.shape[-1] - 1)
    own = np.take_along_axis(laws, actions[..., None], -1)[..., 0]
    for wrong, what in (
        (kept, "is no law: its sum is {total:g}, its least entry {least:g}"),
        (own == 0, "gives the action that was chosen, {action}, no chance"),
    ):
        bad = np.argwhere(wrong & rows.present)
        if len(bad):
            place = tuple(bad[0])
            said = what.format(
                total=laws[place].sum(), least=laws[place].min(), action=actions[place]
            )
            raise ValueError(f"policy: the law of agent {names[place[2]]} {at(bad[0])} {said}")


def _rewards(rows: Played, cast: Cast, shared_reward: bool) -> np.ndarray:
    """`[T, N]`, 0 for who is out; or one for all `[T]`."""
    paid, there = _flat(rows.rewards), _flat(rows.present)
    acts = there & ~_flat(rows.last_seen)
    if paid.shape == acts.shape:  # what is said of who is out counts where nobody is there
        paid = np.where(acts | ~there.any(1, keepdims=True), paid, 0)
    check_finite("rewards", paid)
    if paid.shape[-1] == 1 < len(cast.team):
        return paid[:, 0]
    if not shared_reward:
        return np.where(acts, paid, 0)
    first = np.where(acts.any(1), acts.argmax(1), 0)
    one = np.take_along_axis(paid, first[:, None], 1)
    apart = np.argwhere((paid != one) & acts)
    if len(apart):
        t, i = apart[0]
        names = [cast.agents[k] for k in cast.team]
        raise ValueError(
            f"shared_reward: at step {t} agent {names[i]} is paid {paid[t, i]:g} and agent "
            f"{names[first[t]]} {one[t, 0]:g}; leave it out"
        )
    return one[:, 0]


def _episodes(rows: Played, separate: bool) -> np.ndarray:
    """Numbers of episodes. A row belongs to the game before the one that its own end starts."""
    last = rows.cut | rows.ended if separate else rows.cut.copy()
    last[:, -1] = True
    last = last.reshape(-1)
    return np.cumsum(last) - last


def _flat(x: np.ndarray) -> np.ndarray:
    """Environments one after another, `[E T, ..]`."""
    return x.reshape(-1, *x.shape[2:])


def _at(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of those who are there, 0 of others."""
    flat = _flat(values)
    return flat if present.all() else np.where(present[..., None], flat, np.zeros((), flat.dtype))


def _state_labels(table: np.ndarray) -> tuple[Hashable, ...]:
    """One number, or a tuple of them, for each row; whole ones as integers."""
    whole = table.astype(np.int64)
    rows = (whole if (whole == table).all() else table).tolist()
    return tuple(row[0] if len(row) == 1 else tuple(row) for row in rows)
