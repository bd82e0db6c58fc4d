r"""Playing: rows of a log, stretch by stretch, from environments that JAX can compile.

Each step of the loop makes one row. Where only the clock has ended a game, what is seen then has a
row of its own: the policy is asked once more, nothing is paid, and the next row is another game.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .acting import Cast, check_masks
from .environment_contract import explain_change
from .environment_samplers import Sampler
from .seeing import Eye, Kept

Array = jax.Array

# Steps that are played before they are looked at; of many environments fewer each.
_STRETCH, _LEAST = 1024, 64


class Played(NamedTuple):
    """Rows of E environments, `[E, L, ..]`; agents are those who are recorded.

    Attributes:
        kept: of observations, `[.., N, w]` and `[.., N, d]`, and of the state `[..]`.
        actions: `[.., N]`.
        laws: that actions were drawn from, `[.., N, A]`, 0 beyond what an agent has; or None.
        rewards: `[.., N]`, or `[.., 1]` of the team.
        present: whether the agent takes part, `[.., N]`.
        last_seen: whether the row is only of what it sees as the clock has ended its game,
            `[.., N]`.
        ended: whether the game ends for good with this row.
        cut: whether another game is in the next row, of which nothing here tells.
        forbidden: whether the action is none that the agent may choose, of all agents,
            `[.., agents]`.
        chosen: actions of all agents, `[.., agents]`.
    """

    kept: Kept
    actions: Any
    laws: Any
    rewards: Any
    present: Any
    last_seen: Any
    ended: Any
    cut: Any
    forbidden: Any
    chosen: Any


class _Now(NamedTuple):
    """Where a game is.

    Attributes:
        observations: one for each agent.
        state: of the environment.
        carry: of the policy.
        out: who takes no further part, `[agents]`.
        closing: whether the game is over by the clock, and this is what is seen last.
        clock: steps that were played.
    """

    observations: Any
    state: Any
    carry: Any
    out: Array
    closing: Array
    clock: Array


def is_masked(game: Sampler, key: Array) -> bool:
    """Whether the environment says which actions may be chosen."""

    def found(key):
        masks = game.masks(*game.reset(key))
        if masks is not None:
            check_masks(masks, game.agents, game.num_actions)
        return masks

    return jax.eval_shape(found, key) is not None


def stretches(
    key: Array,
    game: Sampler,
    cast: Cast,
    eye: Eye,
    carry: Any,
    *,
    num_steps: int,
    num_envs: int,
    time_limit: int | None,
) -> Iterator[Played]:
    """NumPy arrays of L steps of every environment, until T steps or more are played."""
    length = min(num_steps, max(_LEAST, _STRETCH // num_envs))
    step = partial(_step, game, cast, eye, carry, time_limit)

    def start(key):
        reset_key, play_key = jax.random.split(key)
        observations, state = game.reset(reset_key)
        none = jnp.zeros(len(game.agents), bool)
        now = _Now(observations, state, carry, none, none[0], jnp.zeros((), jnp.int32))
        return now, play_key

    def play(now, key, k):
        return lax.scan(step, now, jax.random.split(jax.random.fold_in(key, k), length))

    # One environment is played as it is, by the key that it is given.
    many = num_envs > 1
    if many:
        begin = jax.jit(lambda key: jax.vmap(start)(jax.random.split(key, num_envs)))
        play = jax.jit(jax.vmap(play, (0, 0, None)))
    else:
        begin, play = jax.jit(start), jax.jit(play)
    now, keys = begin(key)
    for k in range(-(-num_steps // length)):
        try:
            now, rows = play(now, keys, k)
        except (TypeError, ValueError):  # of JAX, which does not know agents
            change = _change(game, key)
            if change is None:
                raise
            raise ValueError(change) from None
        yield jax.tree.map(lambda x: np.asarray(x) if many else np.asarray(x)[None], rows)


def _step(
    game: Sampler,
    cast: Cast,
    eye: Eye,
    first_carry: Any,
    time_limit: int | None,
    now: _Now,
    key: Array,
) -> tuple[_Now, Played]:
    act_key, step_key = jax.random.split(key)
    masks = game.masks(now.observations, now.state)
    chosen = cast.act(act_key, now.observations, masks, now.carry)
    # As JaxMARL and gymnax split it where they start anew by themselves.
    step_key, restart_key = (step_key, step_key) if game.restarts else jax.random.split(step_key)
    after = game.step(step_key, now.state, chosen.actions)
    ended, truncated = _ends(after.ended, after.truncated, now.clock + 1, time_limit)
    # The last observation is lost where the environment has started anew.
    lost = after.ended if game.restarts else jnp.zeros((), bool)
    closes = truncated & ~lost & ~now.closing
    renews = now.closing | (ended & ~closes)
    goes_on = _Now(
        after.observations,
        after.state,
        chosen.carry,
        _out(now.out, after.out, closes),
        closes,
        now.clock + 1,
    )
    none = jnp.zeros_like(now.out)
    anew = goes_on._replace(carry=first_carry, out=none, closing=none[0], clock=now.clock * 0)
    if not game.restarts or time_limit is not None:
        fresh = game.reset(restart_key)
        by_itself = lost & ~now.closing
        for name, made in zip(("observations", "state"), fresh, strict=True):
            anew = anew._replace(**{name: _where(by_itself, getattr(anew, name), made)})
    team = np.asarray(cast.team)
    own = [now.observations[i] for i in cast.team]
    rewards = jnp.where(now.closing, 0, after.rewards)
    row = Played(
        eye.keep(own, now.state),
        chosen.actions[team],
        None if chosen.laws is None else _laws(chosen.laws, max(cast.num_actions)),
        rewards if len(rewards) == 1 else rewards[team],
        ~now.out[team],
        now.closing & ~now.out[team],
        ended & ~truncated & ~now.closing,
        now.closing | (truncated & lost),
        _forbidden(masks, chosen.actions) & ~now.out,
        chosen.actions,
    )
    return _where(renews, anew, goes_on), row


def _ends(
    ended: Array, truncated: Array | None, clock: Array, time_limit: int | None
) -> tuple[Array, Array]:
    """Whether the game is over, and whether only by the clock."""
    # An end when the time is up is taken for the clock's, whatever the environment says.
    due = jnp.zeros((), bool) if time_limit is None else clock >= time_limit
    return ended | due, due if truncated is None else truncated | due


def _out(before: Array, told: Array, closes: Array) -> Array:
    """Who is out from now on. At an end by the clock those are in who were, if all are told out."""
    after = before | told
    return jnp.where(closes & after.all(), before, after)


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)


def _forbidden(masks: tuple[Array, ...] | None, actions: Array) -> Array:
    if masks is None:
        return jnp.zeros(len(actions), bool)
    return jnp.stack([mask[a] == 0 for mask, a in zip(masks, actions, strict=True)])


def _laws(laws: tuple[Array, ...], width: int) -> Array:
    arrays = map(jnp.asarray, laws)
    rows = [x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float) for x in arrays]
    return jnp.stack([jnp.pad(row, (0, width - len(row))) for row in rows])


def _change(game: Sampler, key: Array) -> str | None:
    """What of an environment's form a step changes, if it does."""
    try:
        before = jax.eval_shape(game.reset, key)
        actions = jnp.zeros(len(game.agents), jnp.int32)
        after = jax.eval_shape(game.step, key, before[1], actions)
    except (TypeError, ValueError):
        return None
    return explain_change(game.agents, before, (after.observations, after.state))
