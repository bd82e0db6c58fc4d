r"""Agents one by one who want actions: they are given them in turn, while the budgets last.

All begin with the cheapest action of their state. In the order of a list each is given what it
wants if what is left of every budget allows, and is refused if not; at the first who is refused, so
are all later ones who want what is no longer left. Where a budget must be spent exactly, what is
left of it is then given away, the last of the list first, from the dearest action down. With two
actions, of which one costs 1, that is: the first M who want to act do; if they are fewer, the last
of those who do not want to are made to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..models.heterogeneous_arms import HeterogeneousArms
from ..models.population import WeaklyCoupledPopulation
from ..numerics.arrays import as_float
from ..numerics.memory import device_memory
from .priority_policy import base_pairs, check_base
from .splits import Rules, cheapest, rules_of

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Agents:
    """N agents one by one, what their actions cost, and the budgets.

    Types are padded to the same S and A: a state or an action that a type has not is never taken.

    Attributes:
        kind: row of each agent in the tables below, `[N]` int32.
        costs: d(s, a), `[T, S, A, K]`.
        ladder: the actions of each state from the cheapest to the dearest, `[T, S, A]` int32; one
            that a type has not is its cheapest.
        limits: b, `[K]`.
        equality: which budgets must be spent exactly. Static.
    """

    kind: Array
    costs: Array
    ladder: Array
    limits: Array
    equality: tuple[bool, ...] = field(metadata={"static": True})

    def check(self, states: Array) -> None:
        """Raise unless there is a state for each agent."""
        if jnp.shape(states) != self.kind.shape:
            raise ValueError(
                f"policy: it was made for {len(self.kind)} agents, not for {jnp.shape(states)[0]}; "
                "make one for this population"
            )

    def given(self, states: Array, wanted: Array, order: Array, *, stop: bool = False) -> Array:
        """Actions `[N]` of agents in these states who want these actions, served in this order.

        Args:
            states: `[N]`.
            wanted: actions, `[N]`.
            order: agents, the first served first, `[N]`; what is left is given away in reverse.
            stop: whether nobody is served after the first who is refused. Static.
        """
        cheap = self.ladder[self.kind, states, 0]
        left = self.left(states, cheap)
        actions, left = self.climb(states, cheap, wanted, order, left, stop=stop)
        return self.filled(states, actions, order[::-1], left)

    def left(self, states: Array, actions: Array) -> Array:
        """What is left of the budgets, `[K]`."""
        return self.limits - self.costs[self.kind, states, actions].sum(0)

    def climb(
        self,
        states: Array,
        actions: Array,
        wanted: Array,
        order: Array,
        left: Array,
        *,
        stop: bool = False,
    ) -> tuple[Array, Array]:
        """Actions after those who want another are given it in turn, and what is then left."""
        kind, at = self.kind[order], states[order]
        now, then = actions[order], wanted[order]
        more = self.costs[kind, at, then] - self.costs[kind, at, now]  # [N, K]
        served = in_turn(left, more, then != now, self._rounding(), stop=stop)
        after = actions.at[order].set(jnp.where(served, then, now))
        return after, left - jnp.where(served[:, None], more, 0).sum(0)

    def filled(self, states: Array, actions: Array, order: Array, left: Array) -> Array:
        """Actions after what is left of budgets that must be met is given away in this order."""
        exact = np.flatnonzero(self.equality)
        if len(exact) == 0:
            return actions
        kind, at = self.kind[order], states[order]

        def give(state: tuple[Array, Array], rank: Array):
            now, left = state
            then = self.ladder[kind, at, rank]
            more = self.costs[kind, at, then] - self.costs[kind, at, now]
            helps = (more[:, exact] >= 0).all(1) & (more[:, exact] > 0).any(1)
            served = in_turn(left, more, helps, self._rounding())
            left = left - jnp.where(served[:, None], more, 0).sum(0)
            return (jnp.where(served, then, now), left), None

        ranks = jnp.arange(self.ladder.shape[2] - 1, 0, -1)
        (now, _), _ = lax.scan(give, (actions[order], left), ranks)
        return actions.at[order].set(now)

    def _rounding(self) -> Array:
        """This much of one agent's cost is rounding, `[K]`: agents are not divisible."""
        eps = float(jnp.finfo(self.costs.dtype).eps) ** 0.5
        return eps * jnp.abs(self.costs).max((0, 1, 2))


def in_turn(left: Array, more: Array, asks: Array, rounding: Array, *, stop: bool = False) -> Array:
    """Who of those that ask is given what it asks, one after another, bool `[N]`.

    Args:
        left: of each budget, `[K]`.
        more: what each uses more of them, `[N, K]`.
        asks: bool `[N]`.
        rounding: what a sum may miss, `[K]`.
        stop: whether nobody is served after the first who is refused. Static.
    """
    place = jnp.arange(len(asks))

    def refuse(state: tuple[Array, Array]) -> tuple[Array, Array]:
        """Refuse the first who passes a budget, and all later ones who want what is not left."""
        asks, _ = state
        use = jnp.where(asks[:, None], more, 0)
        total = jnp.cumsum(use, axis=0)
        over = ((total > (left + rounding)[None]) & (use > 0)).any(1)
        first = jnp.where(over.any(), jnp.argmax(over), len(asks))
        rest = left - jnp.where(first > 0, total[first - 1], 0)
        beyond = ((more > (rest + rounding)[None]) & (more > 0)).any(1) | stop
        return asks & (place != first) & ~((place > first) & beyond), over.any()

    return lax.while_loop(lambda state: state[1], refuse, (asks, jnp.array(True)))[0]


def agents_of(population: WeaklyCoupledPopulation) -> Agents:
    """The agents of a checked population, those of type 0 first; its values must be known.

    Raises:
        ValueError: if costs, counts or budgets are traced, if the cheapest actions break a budget
            somewhere, or for more agents than memory.
    """
    rules = rules_of(population)
    check_base(rules, base_pairs(rules))
    _check_fits(rules)
    S, A = (max(sizes) for sizes in zip(*rules.sizes, strict=True))
    num_budgets = len(rules.limits)
    flat = np.split(rules.costs, np.cumsum([s * a for s, a in rules.sizes])[:-1])
    base = cheapest(flat, rules.sizes, rules.limits)
    dtype = jnp.result_type(*(kind.mdp.transition for kind in population.types), jnp.float32)
    costs = np.zeros((len(rules.sizes), S, A, num_budgets))
    own = np.zeros((len(rules.sizes), S, A), np.int32)
    for k, (part, (s, a)) in enumerate(zip(flat, rules.sizes, strict=True)):
        costs[k, :s, :a] = part.reshape(s, a, num_budgets)
        own[k, :s, :a] = ladder(costs[k, :s, :a], base[k], rules.equality)
        own[k, :s, a:] = base[k][:, None]
    kind = np.repeat(np.arange(len(rules.sizes), dtype=np.int32), rules.counts)
    return Agents(
        kind=jnp.asarray(kind),
        costs=jnp.asarray(costs, dtype),
        ladder=jnp.asarray(own),
        limits=jnp.asarray(rules.limits, dtype),
        equality=tuple(bool(x) for x in rules.equality),
    )


def agents_of_arms(arms: HeterogeneousArms) -> Agents:
    """Arms as agents; their values must be known.

    Raises:
        ValueError: if the cheapest actions break a budget in some states.
    """
    costs = np.asarray(arms.costs, np.float64)
    limits = np.array([float(limit) for limit in arms.limits])
    N, S, A, K = costs.shape
    (base,) = cheapest([costs.reshape(-1, K)], [(N * S, A)], limits)
    base = base.reshape(N, S)
    least = np.take_along_axis(costs, base[..., None, None], axis=2)[:, :, 0]  # [N, S, K]
    used = least.max(1).sum(0)
    over = np.flatnonzero(used > limits + 1e-9 * np.maximum(np.abs(limits), np.abs(used)))
    if len(over):
        k = over[0]
        raise ValueError(
            f"budgets[{k}]: no action is the cheapest for all budgets at once, and beginning with "
            f"those of least sum up to {used[k]:.6g} is used of {limits[k]:.6g}; give every state "
            "an action that is cheap in all"
        )
    equality = np.array([budget.equality for budget in arms.budgets])
    dtype = jnp.result_type(as_float(arms.kernel), jnp.float32)
    return Agents(
        kind=jnp.arange(N, dtype=jnp.int32),
        costs=jnp.asarray(costs, dtype),
        ladder=jnp.asarray(ladder(costs, base, equality)),
        limits=jnp.asarray(limits, dtype),
        equality=tuple(bool(x) for x in equality),
    )


def _check_fits(rules: Rules) -> None:
    """Raise before allocation if the agents one by one are more than memory holds."""
    # Of each agent: its states and actions, what it asks, rows of laws, and what they are cut to.
    each = 8 * (16 + 4 * len(rules.limits) + 3 * max(max(size) for size in rules.sizes))
    agents, limit = sum(rules.counts), device_memory()
    if each * agents > limit:
        raise ValueError(
            f"counts: {agents} agents one by one need {each * agents} bytes, of {limit}; the "
            f"largest number that fits is {limit // each}; a policy that goes by counts needs none"
        )


def ladder(costs: np.ndarray, base: np.ndarray, equality: np.ndarray) -> np.ndarray:
    """Actions `[.., A]` from the base up, by what they use of the budgets that must be met.

    Args:
        costs: `[.., A, K]`.
        base: the cheapest actions, `[..]`.
        equality: which budgets must be met, bool `[K]`.
    """
    unit = np.abs(costs).reshape(-1, costs.shape[-1]).max(0)
    use = (costs / np.where(unit > 0, unit, 1))[..., equality].sum(-1)  # [.., A]
    first = base[..., None] == np.arange(costs.shape[-2])
    return np.argsort(np.where(first, -np.inf, use), axis=-1, kind="stable").astype(np.int32)


def padded_laws(tables: Sequence[Any], shape: tuple[int, ...]) -> Array:
    """Laws on the last axis of several types in one array, `[T, *shape]`.

    A row that a type has not is all at entry 0.
    """
    every = []
    for table in map(as_float, tables):
        room = [(0, n - m) for n, m in zip(shape, table.shape, strict=True)]
        wide = jnp.pad(table, room)
        empty = (wide.sum(-1) == 0).astype(wide.dtype)
        every.append(wide.at[..., 0].add(empty))
    return jnp.stack(jnp.broadcast_arrays(*every))


def drawn(chances: Array, rows: Array) -> Array:
    """Outcomes of laws `[N, m]` at uniform numbers `[N]`, `[N]` int32.

    Summed one after another, so that an outcome of chance 0 leaves the sum as it is: whatever the
    rounding, it is not drawn.
    """

    def add(state: tuple[Array, Array, Array], column: tuple[Array, Array]):
        total, passed, last = state
        chance, y = column
        total = total + chance
        return (total, passed + (chances >= total), jnp.where(chance > 0, y, last)), None

    number = jnp.zeros(chances.shape, jnp.int32)
    columns = rows.T, jnp.arange(rows.shape[1], dtype=jnp.int32)
    begin = (jnp.zeros(chances.shape, rows.dtype), number, number)
    (_, passed, last), _ = lax.scan(add, begin, columns)
    return jnp.minimum(passed, last)


def fair_order(key: Array, last: Array) -> Array:
    """All agents at random, those of `last` (bool `[N]`) behind the others, `[N]`."""
    bits = jax.random.bits(key, last.shape, jnp.uint32) >> 1
    return jnp.argsort(bits | (last.astype(jnp.uint32) << 31))
