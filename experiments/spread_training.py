"""A policy for JaxMARL's MPE simple_spread by independent PPO, small enough for a CPU.

Agents share the weights of two networks, of the policy and of its value, and see their own number
beside their observation. An update takes 64 games of 25 steps, four times over in four parts each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

GAMES, STEPS, EPOCHS, PARTS = 64, 25, 4, 4
DISCOUNT, TRACE, CLIP, ENTROPY, RATE = 0.95, 0.95, 0.2, 0.01, 1e-3
# A value's squared error beside the policy's gain, which is of size 1.
VALUE_SHARE = 0.025
HIDDEN, ACTIONS = (64, 64), 5


class Steps(NamedTuple):
    """Of every game, step and agent.

    Attributes:
        seen: observation and number.
        action: chosen.
        chance: logarithm of its probability.
        gain: what it was better than expected.
        back: what the value should be.
    """

    seen: jax.Array
    action: jax.Array
    chance: jax.Array
    gain: jax.Array
    back: jax.Array


def network(weights: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """A perceptron with tanh between its layers."""
    for matrix, level in weights[:-1]:
        x = jnp.tanh(x @ matrix + level)
    matrix, level = weights[-1]
    return x @ matrix + level


def first_weights(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Normal ones, small in the last layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [1.0] * (len(sizes) - 2) + [0.01]
    return [
        (c * jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n))
        for k, m, n, c in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    ]


def with_number(seen: jax.Array) -> jax.Array:
    """Observations of all agents, with the number of each."""
    return jnp.concatenate([seen, jnp.eye(len(seen))], axis=1)


def trained_policy(
    key: jax.Array, game: Any, num_updates: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """From a key and what all agents see to their actions, after so many updates.

    Args:
        key: of `jax.random.key`.
        game: of JaxMARL, with five actions for each agent.
        num_updates: of 64 games each.
    """
    import optax

    agents = game.agents
    start_key, update_key = jax.random.split(key)
    observed, _ = jax.eval_shape(game.reset, start_key)
    width = observed[agents[0]].shape[0] + len(agents)
    act_key, value_key = jax.random.split(start_key)
    weights = (
        first_weights(act_key, (width, *HIDDEN, ACTIONS)),
        first_weights(value_key, (width, *HIDDEN, 1)),
    )
    rate = optax.linear_schedule(RATE, 0.0, num_updates * EPOCHS * PARTS)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate))

    def stacked(by_agent: dict[str, jax.Array]) -> jax.Array:
        return jnp.stack([by_agent[a] for a in agents])

    def play(weights: Any, key: jax.Array) -> Steps:
        """One game."""

        def step(carry, key):
            observed, state = carry
            act_key, step_key = jax.random.split(key)
            seen = with_number(stacked(observed))
            odds = network(weights[0], seen)
            action = jax.random.categorical(act_key, odds)
            chance = jax.nn.log_softmax(odds)[jnp.arange(len(agents)), action]
            chosen = dict(zip(agents, action, strict=True))
            observed, state, paid, *_ = game.step_env(step_key, state, chosen)
            value = network(weights[1], seen)[:, 0]
            return (observed, state), (seen, action, chance, value, stacked(paid))

        reset_key, play_key = jax.random.split(key)
        (observed, _), played = lax.scan(
            step, game.reset(reset_key), jax.random.split(play_key, STEPS)
        )
        seen, action, chance, value, paid = played
        last = network(weights[1], with_number(stacked(observed)))[:, 0]
        after = jnp.concatenate([value[1:], last[None]])

        def back(gain, now):
            gain = now + DISCOUNT * TRACE * gain
            return gain, gain

        _, gain = lax.scan(
            back, jnp.zeros(len(agents)), paid + DISCOUNT * after - value, reverse=True
        )
        return Steps(seen, action, chance, gain, gain + value)

    def loss(weights: Any, some: Steps) -> jax.Array:
        laws = jax.nn.log_softmax(network(weights[0], some.seen))
        ratio = jnp.exp(laws[jnp.arange(len(laws)), some.action] - some.chance)
        gain = (some.gain - some.gain.mean()) / (some.gain.std() + 1e-8)
        gained = jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * gain).mean()
        spread = -(jnp.exp(laws) * laws).sum(1).mean()
        off = ((network(weights[1], some.seen)[:, 0] - some.back) ** 2).mean()
        return VALUE_SHARE * off - gained - ENTROPY * spread

    def update(carry, key):
        play_key, order_key = jax.random.split(key)
        games = jax.vmap(lambda k: play(carry[0], k))(jax.random.split(play_key, GAMES))
        every = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), games)
        orders = [
            jax.random.permutation(k, len(every.gain)) for k in jax.random.split(order_key, EPOCHS)
        ]

        def descend(carry, rows):
            weights, state = carry
            slope = jax.grad(loss)(weights, jax.tree.map(lambda x: x[rows], every))
            move, state = optimizer.update(slope, state, weights)
            return (optax.apply_updates(weights, move), state), None

        return lax.scan(descend, carry, jnp.concatenate(orders).reshape(EPOCHS * PARTS, -1))

    keys = jax.random.split(update_key, num_updates)
    start = (weights, optimizer.init(weights))
    (weights, _), _ = jax.jit(lambda start: lax.scan(update, start, keys))(start)

    def policy(key: jax.Array, seen: jax.Array) -> jax.Array:
        return jax.random.categorical(key, network(weights[0], with_number(seen)))

    return policy
