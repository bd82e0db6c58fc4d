r"""Priorities over types, states and actions: who is given more first, while the budgets last.

Everyone begins with the cheapest action of its state. Then, in the order of the list, agents of
type k in state s are moved to action a, as many as what is left of every budget allows. With one
type and two actions this is the index policy of Def. 13; with more actions a state may stand in the
list several times, once for each step up (Hodge and Glazebrook 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.compiled import jit
from .splits import Rules, SplitLaw, all_counts, cheapest, rules_of

Array = jax.Array
Move = tuple[int, int, int]


@reads("moves in the order served")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PriorityPolicy:
    """Moves up from the cheapest actions, the first served first.

    Attributes:
        base: the pair that an agent of each state begins with, `[ΣS_k]`.
        source: the pair that each move is from, `[L]`.
        target: the pair that it leads to, `[L]`.
        costs: of each pair, `[ΣX_k, K]`.
        limits: b, `[K]`; may be traced.
        sizes: (S_k, A_k) of each type. Static.
    """

    base: ArrayLike
    source: ArrayLike
    target: ArrayLike
    costs: ArrayLike
    limits: ArrayLike
    sizes: tuple[tuple[int, int], ...] = field(metadata={"static": True})

    def __call__(self, counts: Sequence[ArrayLike | Sequence[int]]) -> tuple[Array, ...]:
        """The split of counts `[S_k]` of each type, `[S_k, A_k]` each; they may be traced."""
        parts = _split(self, jnp.concatenate([jnp.asarray(part) for part in counts]))
        ends = np.cumsum([S * A for S, A in self.sizes])[:-1]
        parts = zip(jnp.split(parts, ends), self.sizes, strict=True)
        return tuple(part.reshape(size) for part, size in parts)

    def draw(self, key: Array, counts: Sequence[Array]) -> tuple[Array, ...]:
        """The split; nothing is drawn."""
        del key
        return self(counts)

    def split(self, counts: Array) -> Array:
        """The split `[ΣX_k]` of a configuration `[ΣS_k]`, both int32."""
        counts = counts.astype(jnp.int32)
        split = jnp.zeros(len(self.costs), jnp.int32).at[self.base].set(counts)
        return self.serve(split, self.source)

    def serve(self, split: Array, source: ArrayLike, wanted: Array | None = None) -> Array:
        """The moves, from a split on: as many as there are, or as are wanted of each target."""
        costs = jnp.asarray(self.costs)
        left = jnp.asarray(self.limits) - (split[:, None] * costs).sum(0)
        more = costs[self.target] - costs[source]  # [L, K]
        # An agent is not divisible; this much of one is rounding.
        rounding = float(jnp.finfo(more.dtype).eps) ** 0.5
        most = jnp.iinfo(jnp.int32).max if wanted is None else wanted[self.target]
        most = jnp.broadcast_to(jnp.asarray(most, jnp.int32), len(more))
        # Rows of ones in the place of indices: a batch of runs needs no scatter in the loop.
        pairs = jnp.arange(len(costs))[None]
        change = (pairs == jnp.asarray(self.target)[:, None]).astype(jnp.int32)  # [L, ΣX_k]
        change = change - (pairs == jnp.asarray(source)[:, None])
        number = jnp.arange(len(more))

        def first(split: Array, left: Array, begin: Array | int) -> Array:
            """The first move from one on that agents can make, L if there is none."""
            fits = (more <= 0) | (more * (1 - rounding) <= left[None])
            can = (split[source] > 0) & (most > 0) & fits.all(1) & (number >= begin)
            return jnp.where(can, number, len(more)).min(initial=len(more))

        def move(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            at, split, left = state
            paid = more[at] > 0
            room = jnp.where(paid, left / jnp.where(paid, more[at], 1) + rounding, jnp.inf)
            there = jnp.minimum(split[source[at]], most[at])
            room = jnp.clip(jnp.floor(room.min()), 0, there.astype(more.dtype))
            moved = jnp.minimum(room.astype(jnp.int32), there)
            split, left = split + moved * change[at], left - moved * more[at]
            return first(split, left, at + 1), split, left

        source = jnp.asarray(source)
        begun = (first(split, left, 0), split, left)
        return lax.while_loop(lambda state: state[0] < len(more), move, begun)[1]

    def law(self, rules: Rules) -> SplitLaw:
        """The split in every configuration."""
        counts = all_counts(rules)
        splits = np.asarray(_split_all(self, counts))
        return SplitLaw(splits[:, None].astype(np.int64), np.ones((len(counts), 1)))


@jit
def _split(policy: PriorityPolicy, counts: Array) -> Array:
    return policy.split(counts)


@jit
def _split_all(policy: PriorityPolicy, counts: Array) -> Array:
    return jax.vmap(policy.split)(counts)


def priority_policy(
    population: RestlessBandit | WeaklyCoupledPopulation, order: Sequence[Move | int]
) -> PriorityPolicy:
    r"""The policy that serves in this order.

    Args:
        population: costs, counts and budgets must be known, other values may be traced.
        order: moves (k, s, a), the first served first: agents of type k in state s are given action
            a, from the cheapest action of the state, or from the last action listed before that
            uses no more of anything. With one type of two actions the states s alone. What is not
            listed keeps the cheapest action.

    Raises:
        ValueError: for a bad population, a move that is not one or is listed twice, or if the
            cheapest actions break a budget in some configuration.

    References:
        Chen and Peng, Def. 13; Hodge and Glazebrook (2015), On the asymptotic optimality of greedy
        index heuristics for multi-action restless bandits.
    """
    checked = as_population(population)
    rules = rules_of(checked)
    moves = _moves(rules, order)
    base = base_pairs(rules)
    check_base(rules, base)
    states = np.cumsum([0] + [S for S, _ in rules.sizes])
    pairs = np.cumsum([0] + [S * A for S, A in rules.sizes])
    listed: dict[int, list[int]] = {}
    source, target = [], []
    for k, s, a in moves:
        at = int(states[k]) + s
        pair = int(pairs[k]) + s * rules.sizes[k][1] + a
        before = [x for x in listed.get(at, []) if (rules.costs[x] <= rules.costs[pair]).all()]
        source.append(before[-1] if before else int(base[at]))
        target.append(pair)
        listed.setdefault(at, []).append(pair)
    dtype = jnp.result_type(*(kind.mdp.transition for kind in checked.types), jnp.float32)
    return PriorityPolicy(
        # NumPy arrays: they stay known where the policy is made in a trace.
        base=base.astype(np.int32),
        source=np.array(source, np.int32),
        target=np.array(target, np.int32),
        costs=rules.costs.astype(dtype),
        limits=rules.limits.astype(dtype),
        sizes=rules.sizes,
    )


def _moves(rules: Rules, order: Sequence[Move | int]) -> list[Move]:
    """The moves, checked."""
    if isinstance(order, str) or not np.iterable(order):
        raise ValueError(
            f"order: {type(order).__name__} is no list of moves (type, state, action), nor a policy"
        )
    moves: list[Move] = []
    for i, move in enumerate(order):
        if np.ndim(move) == 0 and rules.sizes[0][1] == 2 and len(rules.sizes) == 1:
            move = (0, move, 1)  # type: ignore[assignment]
        if np.shape(move) != (3,):
            raise ValueError(f"order[{i}]: {move} is not a move (type, state, action)")
        k, s, a = (int(x) for x in move)  # type: ignore[union-attr]
        if not 0 <= k < len(rules.sizes) or not 0 <= s < rules.sizes[k][0]:
            raise ValueError(f"order[{i}]: there is no state {s} of a type {k}")
        if not 0 <= a < rules.sizes[k][1]:
            raise ValueError(f"order[{i}]: there is no action {a} of type {k}")
        if (k, s, a) in moves:
            raise ValueError(f"order[{i}]: the move {(k, s, a)} is listed twice")
        moves.append((k, s, a))
    return moves


def base_pairs(rules: Rules) -> np.ndarray:
    """The pair that an agent of each state begins with, `[ΣS_k]`."""
    ends = np.cumsum([0] + [S * A for S, A in rules.sizes])
    actions = cheapest(np.split(rules.costs, ends[1:-1]), rules.sizes, rules.limits)
    pairs = zip(ends, actions, rules.sizes, strict=False)
    return np.concatenate([first + np.arange(S) * A + a for first, a, (S, A) in pairs])


def check_base(rules: Rules, base: np.ndarray) -> None:
    """Raise unless the cheapest actions keep the budgets wherever the agents are."""
    ends = np.cumsum([0] + [S for S, _ in rules.sizes])
    used = np.zeros(len(rules.limits))
    for n, first, last in zip(rules.counts, ends, ends[1:], strict=False):
        used = used + n * rules.costs[base[first:last]].max(0)
    over = np.flatnonzero(used > rules.limits + rules.slack)
    if len(over):
        k = over[0]
        raise ValueError(
            f"budgets[{k}]: no action is the cheapest for all budgets at once, and beginning with "
            f"those of least sum up to {used[k]:.6g} is used of {rules.limits[k]:.6g}; a function "
            "of the counts can be a policy too"
        )
