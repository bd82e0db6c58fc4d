r"""Teams trained on an exact model: independent gradients, VDN and QMIX, in the limit of data.

Expectations are exact, nothing is sampled, so what is lost is lost by the method and not by noise.

- `independent`: each agent steps along its own natural policy gradient, which IPPO and MAPPO
  approach with large batches: logits_i += rate * A_i(o, a), with A_i the advantage of its action
  averaged over where it is asked and what the others do, all agents at once.
- `learned`: Q-learning on a joint function made of local ones with a target network, a replay
  buffer (a running mean of the laws of past behaviors) and exploration that falls from always to
  one epoch in twenty. The function is the sum of local values (VDN), or a mixture monotone in them
  whose weights are a table of the joint state (QMIX with a hypernetwork that is linear in s).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import jaxent
from jaxent.models.tabulated import Tabulated

from .problems import team_reward, uniform

Array = jax.Array
Tables = tuple[Array, ...]

# Sweeps of values and of visits for each step of a policy, and how far a step goes: advantages are
# in units of their largest.
_SWEEPS, _RATE = 10, 0.5
# Spread of what training starts from.
_NOISE = 0.1
# How often the target is renewed, the steps for each, Adam's first rate, the units of the mixture,
# the part of the buffer that is renewed with the target, and the exploration that is left.
_STEPS, _ADAM, _HIDDEN, _RENEWED, _LEFT = 20, 0.05, 8, 0.1, 0.05
# Joint pairs beyond which a step of Q-learning sees some of the states only.
_BATCH = 60_000


class Model(NamedTuple):
    """What training reads of a game: the kernel by pairs, rewards `[S A]`, the first law, codes."""

    kernel: Any
    reward: Array
    start: Array
    codes: tuple[Array, ...]
    discount: Array

    @classmethod
    def of(cls, game: Tabulated) -> "Model":
        """That of a game."""
        chain = jaxent.pair_chain(game, uniform(game))
        codes = tuple(jnp.asarray(code) for code in game.observations)
        start = jnp.asarray(game.start)
        return cls(chain.kernel, team_reward(game), start, codes, jnp.asarray(game.discount))

    def joint(self, tables: Tables) -> Array:
        """The policy of agents that decide alone, `[S, A]`."""
        policy = jnp.ones((len(self.start), 1))
        for table, code in zip(tables, self.codes, strict=True):
            policy = (policy[:, :, None] * table[code][:, None]).reshape(len(policy), -1)
        return policy

    def own(self, measure: Array, sizes: tuple[int, ...], agent: int, count: int) -> Array:
        """A measure `[S, A]` by what one agent sees and does, `[O, A_i]`."""
        others = tuple(k + 1 for k in range(len(sizes)) if k != agent)
        by_state = measure.reshape(-1, *sizes).sum(others)
        return jax.ops.segment_sum(by_state, self.codes[agent], num_segments=count)


def independent(key: Array, game: Tabulated, *, num_seeds: int, num_steps: int) -> Tables:
    """Policies of agents that each climb the return of the team, `[seeds, O_i, A_i]`."""
    keys = jax.random.split(key, num_seeds)
    return _independent(keys, Model.of(game), game.local_shapes(), num_steps)


@partial(jax.jit, static_argnames=("shapes", "num_steps"))
def _independent(
    keys: Array, model: Model, shapes: tuple[tuple[int, int], ...], num_steps: int
) -> Tables:
    sizes = tuple(a for _, a in shapes)
    count = len(model.start)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        logits, values, visits = carry
        tables = tuple(jax.nn.softmax(x) for x in logits)
        policy = model.joint(tables)

        def sweep(pair: Any, _: None) -> tuple[Any, None]:
            v, d = pair
            q = (model.reward + model.discount * model.kernel.mv(v)).reshape(count, -1)
            moved = model.kernel.vm((d[:, None] * policy).reshape(-1))
            d = (1 - model.discount) * model.start + model.discount * moved
            return ((policy * q).sum(-1), d), None

        (values, visits), _ = lax.scan(sweep, (values, visits), length=_SWEEPS)
        q = (model.reward + model.discount * model.kernel.mv(values)).reshape(count, -1)
        gain = visits[:, None] * policy * (q - values[:, None])
        moves = []
        for i, seen in enumerate(o for o, _ in shapes):
            weight = model.own(visits[:, None] * policy, sizes, i, seen)
            own = model.own(gain, sizes, i, seen)
            own = own / jnp.where(weight > 0, weight, 1)
            moves.append(own - (tables[i] * own).sum(-1, keepdims=True))
        unit = jnp.stack([jnp.abs(m).max() for m in moves]).max()
        rate = _RATE / jnp.where(unit > 0, unit, 1)
        logits = tuple(
            jnp.clip(x + rate * m - (x + rate * m).max(-1, keepdims=True), -20)
            for x, m in zip(logits, moves, strict=True)
        )
        return (logits, values, visits), None

    def one(key: Array) -> Tables:
        own = jax.random.split(key, len(shapes))
        logits = tuple(
            _NOISE * jax.random.normal(k, shape) for k, shape in zip(own, shapes, strict=True)
        )
        start = (logits, jnp.zeros(count), model.start)
        (logits, _, _), _ = lax.scan(step, start, length=num_steps)
        return tuple(jax.nn.softmax(x) for x in logits)

    return lax.map(one, keys)


def learned(
    key: Array, game: Tabulated, *, mixed: bool, num_seeds: int, num_targets: int
) -> Tables:
    """Local values by Q-learning on their sum or on a monotone mixture, `[seeds, O_i, A_i]`."""
    model, shapes = Model.of(game), game.local_shapes()
    pairs = len(model.reward)
    states = len(model.start)
    batch = states if pairs <= _BATCH else max(64, _BATCH * states // pairs)
    keys = jax.random.split(key, num_seeds)
    return _learned(keys, model, shapes, mixed, num_targets, batch)


def _first(
    key: Array, shapes: tuple[tuple[int, int], ...], states: int, mixed: bool
) -> dict[str, Any]:
    """Weights near 0; of a mixture those for each state too."""
    local, into, out = jax.random.split(key, 3)
    keys = jax.random.split(local, len(shapes))
    weights: dict[str, Any] = {
        "local": tuple(
            _NOISE * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
        )
    }
    if mixed:
        agents = len(shapes)
        weights |= {
            "into": jax.random.normal(into, (states, _HIDDEN, agents)) / agents**0.5,
            "bias": jnp.zeros((states, _HIDDEN)),
            "out": jax.random.normal(out, (states, _HIDDEN)) / _HIDDEN,
            "constant": jnp.zeros(states),
        }
    return weights


def _total(weights: dict[str, Any], codes: Tables, which: Array) -> Array:
    """The joint function on some states, `[B, A]`."""
    own = [q[code[which]] for q, code in zip(weights["local"], codes, strict=True)]  # [B, A_i]
    if "into" not in weights:
        total = jnp.zeros((len(which), 1))
        for q in own:
            total = (total[:, :, None] + q[:, None]).reshape(len(which), -1)
        return total
    units = weights["bias"][which][:, :, None]  # [B, H, A]
    for i, q in enumerate(own):
        part = jnp.abs(weights["into"][which, :, i])[:, :, None] * q[:, None]
        units = (units[..., None] + part[:, :, None]).reshape(len(which), _HIDDEN, -1)
    mixed = (jnp.abs(weights["out"][which])[:, :, None] * jax.nn.elu(units)).sum(1)
    return mixed + weights["constant"][which][:, None]


@partial(jax.jit, static_argnames=("shapes", "mixed", "num_targets", "batch"))
def _learned(
    keys: Array,
    model: Model,
    shapes: tuple[tuple[int, int], ...],
    mixed: bool,
    num_targets: int,
    batch: int,
) -> Tables:
    states = len(model.start)
    mean, spread = model.reward.mean(), model.reward.std()
    reward = (model.reward - mean) / jnp.where(spread > 0, spread, 1)
    every = jnp.arange(states)
    rate = optax.cosine_decay_schedule(_ADAM, num_targets * _STEPS)
    optimizer = optax.adam(rate)

    def one(key: Array) -> Tables:
        key, first = jax.random.split(key)
        weights = _first(first, shapes, states, mixed)

        def renew(carry: Any, done: Array) -> tuple[Any, None]:
            key, weights, state, law, buffer = carry
            best = _most(model, weights, shapes)
            target = (reward + model.discount * model.kernel.mv(best)).reshape(states, -1)
            explored = jnp.maximum(_LEFT, 1 - 2 * done)
            tables = tuple(
                (1 - explored) * jax.nn.one_hot(q.argmax(-1), q.shape[1]) + explored / q.shape[1]
                for q in weights["local"]
            )
            policy = model.joint(tables)

            def sweep(law: Array, _: None) -> tuple[Array, None]:  # half a step: no period
                return (law + model.kernel.vm((law[:, None] * policy).reshape(-1))) / 2, None

            law, _ = lax.scan(sweep, law, length=_SWEEPS)
            buffer = (1 - _RENEWED) * buffer + _RENEWED * law[:, None] * policy

            def loss(weights: Any, which: Array) -> Array:
                part = buffer[which]
                off = _total(weights, model.codes, which) - target[which]
                return (part * off**2).sum() / part.sum()

            def step(carry: Any, key: Array) -> tuple[Any, None]:
                weights, state = carry
                which = every if batch == states else jax.random.randint(key, (batch,), 0, states)
                with jax.numpy_dtype_promotion("standard"):
                    updates, state = optimizer.update(jax.grad(loss)(weights, which), state)
                    return (optax.apply_updates(weights, updates), state), None

            key, own = jax.random.split(key)
            (weights, state), _ = lax.scan(step, (weights, state), jax.random.split(own, _STEPS))
            return (key, weights, state, law, buffer), None

        law = jnp.full(states, 1 / states)
        begun = jnp.full((states, len(model.reward) // states), 1 / len(model.reward))
        carry = (key, weights, optimizer.init(weights), law, begun)
        (_, weights, *_), _ = lax.scan(renew, carry, jnp.arange(num_targets) / num_targets)
        return weights["local"]

    return lax.map(one, keys)


def _most(model: Model, weights: dict[str, Any], shapes: tuple[tuple[int, int], ...]) -> Array:
    """The joint function at the greedy actions, `[S]`: there it is largest, being monotone."""
    every = jnp.arange(len(model.start))
    best = {**weights, "local": tuple(q.max(-1, keepdims=True) for q in weights["local"])}
    return _total(best, model.codes, every)[:, 0]


def greedy(local: Tables) -> Tables:
    """The rules that take the first best action, as probabilities."""
    return tuple(jax.nn.one_hot(q.argmax(-1), q.shape[-1]) for q in local)


def returned(game: Tabulated, tables: Tables) -> float:
    """The return from the start of agents that decide alone."""
    chain = jaxent.pair_chain(game, game.join(tables))
    values = jaxent.state_values(chain, team_reward(game), discount=game.discount)
    return float(jnp.asarray(game.start) @ values)
