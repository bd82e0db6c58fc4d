r"""Randomized activation: every agent draws its action, and those that the budgets allow get it.

Each agent of type k in state s wants action a with probability π_k(a|s), on its own: the wants of a
state are multinomial. All begin with the cheapest action of their state; then, in the order of a
list of moves, as many as the budgets allow are given what they want. Where a budget must be met
exactly, what is left of it is then given away in the same order. With π of `fluid_policy` few wants
are refused when N is large.

References:
    Zhang and Frazier (2021), Restless bandits with many arms: beating the central limit theorem.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_shape, check_stochastic
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from .fluid import FluidPolicy, Start, fluid_policy
from .priority_policy import Move, PriorityPolicy, priority_policy
from .splits import Rules, SplitLaw, all_splits, collected

Array = jax.Array


@reads("agents draw actions, within the budgets")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomizedPolicy:
    """Agents that draw their actions, and who is served first among those that want something.

    Attributes:
        tables: π_k(a|s) of each type, `[S_k, A_k]`.
        moves: the order in which wants are met.
        fill: whether what is left of the budgets is given away. Static.
    """

    tables: tuple[ArrayLike, ...]
    moves: PriorityPolicy
    fill: bool = field(metadata={"static": True})

    def draw(self, key: Array, counts: Sequence[Array]) -> tuple[Array, ...]:
        """A split of the counts of each type, `[S_k, A_k]` each."""
        most = max(A for _, A in self.moves.sizes)
        rows = [jnp.pad(jnp.asarray(t), ((0, 0), (0, most - np.shape(t)[1]))) for t in self.tables]
        agents = jnp.concatenate([jnp.asarray(n, jnp.int32) for n in counts])
        drawn = draw_multinomial(key, agents, chances_in_turn(jnp.concatenate(rows)))  # [ΣS_k, A]
        first, wanted = 0, []
        for S, A in self.moves.sizes:
            wanted.append(drawn[first : first + S, :A])
            first += S
        split = self.granted(jnp.concatenate([part.reshape(-1) for part in wanted]))
        ends = np.cumsum([S * A for S, A in self.moves.sizes])[:-1]
        parts = zip(jnp.split(split, ends), self.moves.sizes, strict=True)
        return tuple(part.reshape(size) for part, size in parts)

    def granted(self, wanted: Array) -> Array:
        """The split `[ΣX_k]` of agents who want these actions, `[ΣX_k]` int32."""
        moves = self.moves
        state = np.concatenate([[]] + [np.repeat(np.arange(S), A) for S, A in moves.sizes])
        first = np.cumsum([0] + [S for S, _ in moves.sizes])
        offset = np.repeat(first[:-1], [S * A for S, A in moves.sizes])
        state = (state + offset).astype(np.int32)  # of each pair, among all
        counts = jnp.zeros(first[-1], jnp.int32).at[state].add(wanted)
        split = jnp.zeros_like(wanted).at[jnp.asarray(moves.base)].set(counts)
        base = jnp.asarray(moves.base)[jnp.asarray(state)[moves.target]]
        split = moves.serve(split, base, wanted)
        return moves.serve(split, moves.source) if self.fill else split

    def law(self, rules: Rules) -> SplitLaw:
        """The law of the split in every configuration, all wants being listed."""
        wanted = all_splits(rules)
        with np.errstate(divide="ignore"):
            logs = [np.log(np.asarray(table, np.float64)) for table in self.tables]
        chance = np.zeros(len(wanted))
        for part, log in zip(rules.pairs_by_type(wanted), logs, strict=True):
            told = np.where(part > 0, part * np.where(part > 0, log, 0), 0)
            ways = _log_factorials(part.sum(-1)).sum(-1) - _log_factorials(part).sum((-2, -1))
            chance = chance + told.sum((-2, -1)) + ways
        possible = np.isfinite(chance)
        wanted, chance = wanted[possible], np.exp(chance[possible])
        granted = np.asarray(_grant_all(self, wanted.astype(np.int32))).astype(np.int64)
        return collected(rules, granted, chance)


@jit
def _grant_all(policy: RandomizedPolicy, wanted: Array) -> Array:
    return jax.vmap(policy.granted)(wanted)


def _log_factorials(n: np.ndarray) -> np.ndarray:
    table = np.cumsum(np.log(np.maximum(np.arange(n.max() + 1), 1)))
    return table[n]


def randomized_policy(
    population: RestlessBandit | WeaklyCoupledPopulation,
    tables: FluidPolicy | Sequence[ArrayLike],
    *,
    order: Sequence[Move] | None = None,
) -> RandomizedPolicy:
    r"""Every agent draws its action from a table; those that the budgets allow get it.

    Args:
        population: or a `RestlessBandit`; costs, counts and budgets must be known.
        tables: π_k(a|s) of each type, `[S_k, A_k]`; or a `FluidPolicy`, which has them and an
            order.
        order: moves (k, s, a), the first met first; those not listed come after. By type, state
            and action if not given.

    Raises:
        ValueError: for a bad population, table or order.

    References:
        Zhang and Frazier (2021).
    """
    checked = as_population(population)
    if isinstance(tables, FluidPolicy):
        order = tables.priority if order is None else order
        tables = tables.policy
    if len(tables) != len(checked.types):
        raise ValueError(f"tables: wanted one for each of {len(checked.types)} types")
    for k, (table, size) in enumerate(zip(tables, checked.sizes, strict=True)):
        check_shape(f"tables[{k}]", table, size)
        check_stochastic(f"tables[{k}]", table)
    listed = [] if order is None else [(int(k), int(s), int(a)) for k, s, a in order]
    cheapest = priority_policy(checked, listed)  # checks what is listed
    free = set(np.asarray(cheapest.base).tolist())
    first, rest = 0, []
    for k, (S, A) in enumerate(checked.sizes):
        pairs = [(first + s * A + a, (k, s, a)) for s in range(S) for a in range(A)]
        rest += [move for pair, move in pairs if pair not in free and move not in listed]
        first += S * A
    fill = any(budget.equality for budget in checked.budgets)
    return RandomizedPolicy(tuple(tables), priority_policy(checked, [*listed, *rest]), fill)


def optimal_lagrange_policy(
    population: RestlessBandit | WeaklyCoupledPopulation, *, start: Start | None = None
) -> RandomizedPolicy:
    r"""The index policy of the relaxation at its best prices, ties by the mixture that it makes.

    At the prices λ of `fluid_policy` each agent has a best action; where several are best, agents
    draw one of them as the relaxed law mixes them, on their own. Those that would gain most,
    $Q_k(s, a) - Q_k(s, a_0)$ with $a_0$ the cheapest action, are served first. It is
    `randomized_policy(population, fluid_policy(population, start=start))`.

    Args:
        population: or a `RestlessBandit`; all its values must be known.
        start: agents per state of each type, `[S_k]` each, for the prices of the discounted reward
            from there; without it those of the average reward.

    Raises:
        ValueError: for a bad population or start, or if no law keeps the budgets on average.

    References:
        Brown and Smith (2020), Index policies and performance bounds for dynamic selection
        problems; Brown and Zhang (2022), Dynamic programs with shared resources and signals.
    """
    return randomized_policy(population, fluid_policy(population, start=start))


def chances_in_turn(rows: Array) -> Array:
    """The chance of each outcome given none before it, of laws `[X, m]`: `[m - 1, X]`."""
    remaining = jnp.cumsum(rows[:, ::-1], axis=1)[:, ::-1]
    return jnp.minimum(ratio(rows, remaining), 1)[:, :-1].T


def draw_multinomial(key: Array, agents: Array, chances: Array) -> Array:
    """Agents `[X]` over next states `[X, S]`, one binomial after another; exact for any number.

    Args:
        key: of this step.
        agents: int32.
        chances: of each next state given none before it, `[S - 1, X]`.
    """

    def draw(left: Array, drawn: tuple[Array, Array]) -> tuple[Array, Array]:
        key, chance = drawn
        moved = jax.random.binomial(key, left.astype(chance.dtype), chance)
        # Certain and impossible moves need no draw.
        moved = jnp.where(chance >= 1, left, jnp.where(chance <= 0, 0, moved.astype(jnp.int32)))
        return left - moved, moved

    keys = jax.random.split(key, len(chances))
    left, moved = lax.scan(draw, agents, (keys, chances))
    return jnp.concatenate([moved, left[None]]).T
