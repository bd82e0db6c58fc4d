r"""Teams trained by small networks where there are samples only: gradients, VDN and QMIX.

Agents share weights and see their number beside what they observe. Many games are played at once
(`GAMES`, stretches of `STEPS` steps), and each stretch is learned from four times, then dropped:
PPO with a clipped ratio for gradients, and for Q-learning targets by TD(lambda) without a buffer
(Gallici et al., Simplifying deep temporal difference learning, 2024), the sum of local values for
VDN and for QMIX a mixture with hypernetworks that read what all agents see.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

Array = jax.Array
Weights = Any

GAMES, STEPS, PASSES = 32, 16, 4
HIDDEN, MIXED = 64, 16
TRACE, CLIP, ENTROPY, RATE, LEFT = 0.9, 0.2, 0.01, 1e-3, 0.05
# Steps of a game whose rewards tell what a team returns, and as many before them.
LONG = 200
# What an action that is not allowed is worth.
_NEVER = -1e9


class Team(NamedTuple):
    """A game by what its agents see as numbers.

    Attributes:
        sampler: of the environment (jaxent.data.environment_samplers).
        width: numbers that an agent sees, its own among all agents beside them.
        actions: the most that an agent has.
        discount: of returns.
    """

    sampler: Any
    width: int
    actions: int
    discount: float

    @classmethod
    def of(cls, sampler: Any, discount: float) -> "Team":
        """That of a sampler."""
        seen, _ = jax.eval_shape(sampler.reset, jax.random.key(0))
        sizes = [sum(x.size for x in jax.tree.leaves(each)) for each in seen]
        return cls(sampler, max(sizes) + len(sizes), max(sampler.num_actions), discount)

    def see(self, observations: Any) -> Array:
        """What each agent sees as numbers, `[N, width]`."""
        rows = []
        for each in observations:
            x = jnp.concatenate([jnp.ravel(x).astype(float) for x in jax.tree.leaves(each)])
            rows.append(jnp.pad(x, (0, self.width - len(observations) - len(x))))
        return jnp.concatenate([jnp.stack(rows), jnp.eye(len(rows))], 1)

    def allowed(self, masks: Any) -> Array:
        """Which actions each agent may choose, `[N, actions]`."""
        have = jnp.arange(self.actions) < jnp.array(self.sampler.num_actions)[:, None]
        if masks is None:
            return have
        rows = [jnp.pad(jnp.ravel(m).astype(bool), (0, self.actions - jnp.size(m))) for m in masks]
        return have & jnp.stack(rows)


class Steps(NamedTuple):
    """A stretch of all games: `[STEPS, GAMES, ..]`."""

    seen: Array
    allowed: Array
    actions: Array
    told: Array
    paid: Array
    ended: Array


def network(key: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Weights of a perceptron, small in the last layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [1.0] * (len(sizes) - 2) + [0.1]
    return [
        (c * jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n))
        for k, m, n, c in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    ]


def applied(weights: list[tuple[Array, Array]], x: Array) -> Array:
    """The perceptron, with ReLU between its layers."""
    for matrix, level in weights[:-1]:
        x = jax.nn.relu(x @ matrix + level)
    matrix, level = weights[-1]
    return x @ matrix + level


def _advance(team: Team, choose: Callable[..., Any], weights: Weights, key: Array, games: Any):
    """One step of all games."""

    def one(key: Array, game: Any) -> Any:
        observations, state = game
        act_key, step_key, reset_key = jax.random.split(key, 3)
        seen = team.see(observations)
        allowed = team.allowed(team.sampler.masks(observations, state))
        actions, told = choose(weights, act_key, seen, allowed)
        out = team.sampler.step(step_key, state, actions.astype(jnp.int32))
        fresh = team.sampler.reset(reset_key)
        ended = jnp.asarray(out.ended)
        following = jax.tree.map(
            lambda a, b: jnp.where(ended, a, jnp.asarray(b, jnp.asarray(a).dtype)),
            fresh,
            (out.observations, out.state),
        )
        paid = out.rewards.mean()
        return following, Steps(seen, allowed, actions, told, paid, ended)

    return jax.vmap(one)(jax.random.split(key, GAMES), games)


def _train(
    team: Team, key: Array, weights: Weights, choose: Any, loss: Any, updates: int
) -> Weights:
    """Play and learn, `updates` times; `loss(weights, steps, seen after, allowed after)`."""
    reset_key, play_key = jax.random.split(key)
    games = jax.vmap(team.sampler.reset)(jax.random.split(reset_key, GAMES))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.linear_schedule(RATE, 0.0, updates * PASSES)),
    )

    def look(game: Any) -> tuple[Array, Array]:
        return team.see(game[0]), team.allowed(team.sampler.masks(*game))

    def update(carry: Any, part: Any) -> tuple[Any, None]:
        weights, state, games = carry
        key, done = part
        act = partial(choose, explored=jnp.maximum(LEFT, 1 - 2 * done))

        def step(games: Any, key: Array) -> Any:
            return _advance(team, act, weights, key, games)

        games, steps = lax.scan(step, games, jax.random.split(key, STEPS))
        last = jax.vmap(look)(games)
        target = loss(weights, steps, last)

        def descend(carry: Any, _: None) -> Any:
            weights, state = carry
            updates, state = optimizer.update(jax.grad(target)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        with jax.numpy_dtype_promotion("standard"):
            (weights, state), _ = lax.scan(descend, (weights, state), length=PASSES)
        return (weights, state, games), None

    keys = jax.random.split(play_key, updates)
    carry = (weights, optimizer.init(weights), games)
    carry, _ = lax.scan(update, carry, (keys, jnp.arange(updates) / updates))
    return carry[0]


def _returns(team: Team, steps: Steps, now: Array, last: Array) -> Array:
    """Targets of values by TD(lambda), `[STEPS, GAMES]`; `now` are values after each step."""
    after = jnp.concatenate([now[1:], last[None]])

    def back(carry: Array, part: Any) -> tuple[Array, Array]:
        paid, ended, value = part
        mixed = (1 - TRACE) * value + TRACE * carry
        total = paid + team.discount * jnp.where(ended, 0.0, mixed)
        return total, total

    return lax.scan(back, last, (steps.paid, steps.ended, after), reverse=True)[1]


def gradient(key: Array, team: Team, updates: int) -> tuple[Weights, Any]:
    """PPO of independent agents with shared weights, and how they choose, the likeliest action."""
    act_key, value_key, key = jax.random.split(key, 3)
    weights = (
        network(act_key, (team.width, HIDDEN, HIDDEN, team.actions)),
        network(value_key, (team.width, HIDDEN, HIDDEN, 1)),
    )

    def law(weights: Weights, seen: Array, allowed: Array) -> Array:
        return jax.nn.log_softmax(jnp.where(allowed, applied(weights[0], seen), _NEVER))

    def choose(
        weights: Weights, key: Array, seen: Array, allowed: Array, explored: Any, learning: bool
    ) -> Any:
        any_key, toss_key, key = jax.random.split(key, 3)
        logs = law(weights, seen, allowed)
        actions = jax.random.categorical(key, logs)
        if not learning:
            other = jax.random.categorical(any_key, jnp.where(allowed, 0.0, _NEVER))
            toss = jax.random.uniform(toss_key, other.shape) < explored
            actions = jnp.where(toss, other, logs.argmax(-1))
        return actions, jnp.take_along_axis(logs, actions[:, None], 1)[:, 0]

    def value(weights: Weights, seen: Array) -> Array:
        return applied(weights[1], seen)[..., 0].mean(-1)

    def loss(weights: Weights, steps: Steps, last: Any) -> Any:
        now = value(weights, steps.seen)
        goal = _returns(team, steps, now, value(weights, last[0]))
        gain = goal - now
        gain = ((gain - gain.mean()) / (gain.std() + 1e-8))[..., None]
        scale = goal.std() + 1e-8

        def of(weights: Weights) -> Array:
            logs = law(weights, steps.seen, steps.allowed)
            own = jnp.take_along_axis(logs, steps.actions[..., None], -1)[..., 0]
            ratio = jnp.exp(own - steps.told)
            gained = jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * gain).mean()
            spread = -jnp.where(steps.allowed, jnp.exp(logs) * logs, 0).sum(-1).mean()
            off = (((value(weights, steps.seen) - goal) / scale) ** 2).mean()
            return 0.5 * off - gained - ENTROPY * spread

        return of

    weights = _train(team, key, weights, partial(choose, learning=True), loss, updates)
    return weights, partial(choose, learning=False)


def values(key: Array, team: Team, mixed: bool, updates: int) -> tuple[Weights, Any]:
    """Q-learning on the sum of local values or on a mixture, and how agents choose."""
    agents = len(team.sampler.num_actions)
    joint = agents * team.width
    local_key, into_key, out_key, level_key, key = jax.random.split(key, 5)
    weights = {
        "local": network(local_key, (team.width, HIDDEN, HIDDEN, team.actions)),
        "into": network(into_key, (joint, agents * MIXED + MIXED)),
        "out": network(out_key, (joint, MIXED)),
        "level": network(level_key, (joint, MIXED, 1)),
    }

    def local(weights: Weights, seen: Array, allowed: Array) -> Array:
        return jnp.where(allowed, applied(weights["local"], seen), _NEVER)

    def total(weights: Weights, seen: Array, own: Array) -> Array:
        """The joint value `[..]` of local ones `[.., N]`."""
        if not mixed:
            return own.sum(-1)
        all_seen = seen.reshape(*seen.shape[:-2], joint)
        into = applied(weights["into"], all_seen)
        rows = jnp.abs(into[..., : agents * MIXED]).reshape(*own.shape, MIXED)
        units = jax.nn.elu((own[..., None] * rows).sum(-2) + into[..., agents * MIXED :])
        out = (units * jnp.abs(applied(weights["out"], all_seen))).sum(-1)
        return out + applied(weights["level"], all_seen)[..., 0]

    def choose(weights: Weights, key: Array, seen: Array, allowed: Array, explored: Any = 0) -> Any:
        any_key, toss_key = jax.random.split(key)
        other = jax.random.categorical(any_key, jnp.where(allowed, 0.0, _NEVER))
        best = local(weights, seen, allowed).argmax(-1)
        toss = jax.random.uniform(toss_key, best.shape) < explored
        return jnp.where(toss, other, best), jnp.zeros(best.shape)

    def loss(weights: Weights, steps: Steps, last: Any) -> Any:
        def most(seen: Array, allowed: Array) -> Array:
            return total(weights, seen, local(weights, seen, allowed).max(-1))

        now = most(steps.seen, steps.allowed)
        goal = _returns(team, steps, now, most(*last))
        scale = goal.std() + 1e-8

        def of(weights: Weights) -> Array:
            q = local(weights, steps.seen, steps.allowed)
            own = jnp.take_along_axis(q, steps.actions[..., None], -1)[..., 0]
            return (((total(weights, steps.seen, own) - goal) / scale) ** 2).mean()

        return of

    return _train(team, key, weights, choose, loss, updates), choose


def earned(team: Team, key: Array, choose: Any, weights: Weights, explored: float) -> Array:
    """Mean reward of a step of all games played for a while, after as long a while, `[GAMES]`."""
    reset_key, play_key = jax.random.split(key)
    games = jax.vmap(team.sampler.reset)(jax.random.split(reset_key, GAMES))
    act = partial(choose, explored=explored)

    def step(games: Any, key: Array) -> Any:
        games, steps = _advance(team, act, weights, key, games)
        return games, steps.paid

    paid = lax.scan(step, games, jax.random.split(play_key, 2 * LONG))[1]
    return paid[LONG:].mean(0)


def at_random(weights: Weights, key: Array, seen: Array, allowed: Array, explored: Any = 1) -> Any:
    """Any action that is allowed, chosen as the others choose."""
    actions = jax.random.categorical(key, jnp.where(allowed, 0.0, _NEVER))
    return actions, jnp.zeros(actions.shape)


def ruled(rule: Callable[[Array], Array]) -> Any:
    """A rule of thumb that chooses as the others do, but never what is forbidden."""

    def choose(weights: Weights, key: Array, seen: Array, allowed: Array, explored: Any = 0) -> Any:
        toss_key, key = jax.random.split(key)
        other, told = at_random(weights, key, seen, allowed)
        best = rule(seen)
        may = jnp.take_along_axis(allowed, best[:, None], 1)[:, 0]
        toss = jax.random.uniform(toss_key, best.shape) < explored
        return jnp.where(toss | ~may, other, best), told

    return choose
