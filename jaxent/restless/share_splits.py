r"""What a policy does with shares of the agents, in place of whole ones: a split that has slopes.

Each rule takes the shares m(s) of all agents to the shares y(s, a) that take each action, types one
after another, `[ΣS_k]` to `[ΣX_k]`. Served in an order the split is piecewise affine in m: of the
amounts that may end a move (who is there, who wants it, what is left of each budget) the least
does. How far the others are from it is how far m is from the borders of its piece. Where agents
draw what they want, m gives the mean of the wants, and their fluctuations come on top.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..models.contracts import ArrayLike, known_priority
from ..models.population import WeaklyCoupledPopulation
from .agents_process import AgentsPolicy
from .gaussian_limit import parts_of, states_of_pairs
from .optimal import OptimalPolicy
from .population_process import DrawnPolicy
from .priority_policy import Move, PriorityPolicy, priority_policy
from .randomized_policy import RandomizedPolicy

Array = jax.Array
Shares: TypeAlias = tuple[Array, ...]
ShareFunction = Callable[[Shares], Sequence[Array]]


class ShareSplit(NamedTuple):
    """A split of shares.

    Attributes:
        groups: y, `[ΣX_k]`.
        margins: amounts that did not end a move, less the one that did, `[B]`; m is on a border
            where one that moves is 0.
    """

    groups: Array
    margins: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShareRule:
    """A policy on shares.

    Attributes:
        moves: the order of a `PriorityPolicy` or of a `RandomizedPolicy`, or None.
        limits: b / N, `[K]`.
        tables: π of a `RandomizedPolicy`, `[ΣX_k]`, or None.
        function: of the shares of each type, or None. Static.
        fill: whether what is left is given away. Static.
        sizes: (S_k, A_k) of each type. Static.
    """

    moves: PriorityPolicy | None
    limits: Array
    tables: Array | None
    function: ShareFunction | None = field(metadata={"static": True})
    fill: bool = field(metadata={"static": True})
    sizes: tuple[tuple[int, int], ...] = field(metadata={"static": True})

    def wants(self, shares: Array) -> Array | None:
        """The covariance of √N times what is wanted, `[ΣX_k, ΣX_k]`, or None: nothing is drawn."""
        if self.tables is None:
            return None
        state = states_of_pairs(self.sizes)
        weights = shares[state] * self.tables
        same = jnp.asarray(state[:, None] == state[None])
        return jnp.diag(weights) - jnp.where(same, weights[:, None] * self.tables[None], 0)

    def split(self, shares: Array, more: Array | None = None) -> ShareSplit:
        """The split, where so much `more` is wanted than on average, `[ΣX_k]`."""
        if self.moves is None:
            assert self.function is not None
            parts = tuple(shares[part] for part in parts_of([S for S, _ in self.sizes]))
            flat = [jnp.reshape(part, -1) for part in self.function(parts)]
            return ShareSplit(
                jnp.concatenate(flat).astype(shares.dtype), jnp.zeros(0, shares.dtype)
            )
        base = jnp.asarray(self.moves.base)
        begin = jnp.zeros(len(self.moves.costs), shares.dtype).at[base].set(shares)
        if self.tables is None:
            return self._served(begin, self.moves.source, None)
        state = states_of_pairs(self.sizes)
        wanted = shares[state] * self.tables
        wanted = wanted if more is None else wanted + more
        own = base[jnp.asarray(state)[self.moves.target]]
        found = self._served(begin, own, wanted)
        if not self.fill:
            return found
        groups, margins = self._served(found.groups, self.moves.source, None)
        return ShareSplit(groups, jnp.concatenate([found.margins, margins]))

    def _served(self, split: Array, source: ArrayLike, wanted: Array | None) -> ShareSplit:
        """`PriorityPolicy.serve` of shares."""
        assert self.moves is not None
        costs = jnp.asarray(self.moves.costs, split.dtype)
        left = self.limits - (split[:, None] * costs).sum(0)
        more = costs[self.moves.target] - costs[source]  # [L, K]
        # Where a budget is spent nobody is moved, from an empty state either: its slope counts.
        first = jnp.arange(len(self.limits) + 1 + (wanted is not None)) < len(self.limits)
        ahead = jnp.where(first, 16 * jnp.finfo(split.dtype).eps, 0)

        def move(state: tuple[Array, Array], step: tuple[Array, Array, Array]):
            split, left = state
            source, target, more = step
            room = jnp.where(more > 0, left / jnp.where(more > 0, more, 1), jnp.inf)
            ends = [room, split[source][None]]
            ends = jnp.concatenate(ends if wanted is None else [*ends, wanted[target][None]])
            least = ends[jnp.argmin(ends - ahead)]
            moved = jnp.where(least < 0, 0, least)  # at 0 with the slope of what ended it
            margins = jnp.append(ends - least, room.min())
            split = split.at[source].add(-moved).at[target].add(moved)
            return (split, left - moved * more), margins

        steps = (jnp.asarray(source), jnp.asarray(self.moves.target), more)
        (split, _), margins = lax.scan(move, (split, left), steps)
        return ShareSplit(split, margins.reshape(-1))


def share_rule(
    population: WeaklyCoupledPopulation,
    policy: PriorityPolicy | RandomizedPolicy | Sequence[Move] | ShareFunction,
    dtype: Any,
) -> ShareRule:
    """What this policy does with shares of the agents of a checked population.

    Raises:
        ValueError: for a policy that has no such rule.
    """
    given: Any = known_priority(policy)
    sizes, total = population.sizes, population.num_agents
    known = isinstance(given, (PriorityPolicy, RandomizedPolicy))
    silent: bool = isinstance(policy, (OptimalPolicy, AgentsPolicy, DrawnPolicy))
    if silent and not known:
        raise ValueError(
            f"policy: {type(given).__name__} says nothing of shares of the agents; a list of "
            "moves, a PriorityPolicy, a RandomizedPolicy or a function of the shares does"
        )
    if callable(given) and not known:
        function: Any = given
        return ShareRule(None, jnp.zeros(0, dtype), None, function, False, sizes)
    if not known:
        given = priority_policy(population, given)
    moves = given if isinstance(given, PriorityPolicy) else given.moves
    if moves.sizes != sizes:
        raise ValueError(f"policy: is for types of sizes {moves.sizes}, not {sizes}")
    limits = jnp.asarray(moves.limits, dtype) / total
    if isinstance(given, PriorityPolicy):
        return ShareRule(moves, limits, None, None, False, sizes)
    tables = [np.reshape(table, -1) for table in given.tables]
    return ShareRule(
        moves, limits, jnp.asarray(np.concatenate(tables), dtype), None, given.fill, sizes
    )
