r"""The random policy: agents in a random order take actions at random, as the budgets allow.

Everyone begins with the cheapest action of its state. In a random order each agent wants one of the
actions of its state, all with the same chance, and gets it if what is left of the budgets allows;
an action that was refused once is not given any more at this step. Where a budget must be met
exactly, those that have the cheapest action are asked again, in a random order, for one of the
others. All agents are alike in this, whatever their type and state: for a bandit the M that act are
any M of the N with the same chance.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._reads import reads
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.compiled import jit
from .priority_policy import PriorityPolicy, priority_policy
from .splits import Rules, SplitLaw, all_counts, collected, rules_of

Array = jax.Array
# What was given so far, how many of each state were not asked yet, which pairs were refused.
_Asked = tuple[tuple[int, ...], tuple[int, ...], int]


@reads("agents in a random order take actions at random")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomPolicy:
    """Agents in a random order that take actions at random.

    Attributes:
        moves: from the cheapest action of each state to each other one.
        num_agents: N. Static.
        fill: whether what is left of the budgets is given away. Static.
    """

    moves: PriorityPolicy
    num_agents: int = field(metadata={"static": True})
    fill: bool = field(metadata={"static": True})

    def draw(self, key: Array, counts: Sequence[Array]) -> tuple[Array, ...]:
        """A split of the counts of each type, `[S_k, A_k]` each."""
        order, *tries = jax.random.split(key, 3)
        present = jnp.concatenate([jnp.asarray(part, jnp.int32) for part in counts])
        first, actions = _pairs(self.moves.sizes)
        state = jnp.repeat(jnp.arange(len(first)), present, total_repeat_length=self.num_agents)
        state = jax.random.permutation(order, state)  # [N]
        base, number = jnp.asarray(self.moves.base)[state], jnp.asarray(actions)[state]
        begin = jnp.asarray(first)[state]
        pair = self._asked(base, begin + _uniform(tries[0], number))
        if self.fill:
            # One of the others, the pairs of the state without the cheapest.
            other = begin + _uniform(tries[1], jnp.maximum(number - 1, 1))
            other = jnp.where(number > 1, other + (other >= base), base)
            pair = self._asked(pair, jnp.where(pair == base, other, pair))
        split = jnp.zeros(len(self.moves.costs), jnp.int32).at[pair].add(1)
        split = self._completed(split)
        ends = np.cumsum([S * A for S, A in self.moves.sizes])[:-1]
        parts = zip(jnp.split(split, ends), self.moves.sizes, strict=True)
        return tuple(part.reshape(size) for part, size in parts)

    def _asked(self, pair: Array, wanted: Array) -> Array:
        """The pairs `[N]` of agents who one after another want others, `[N]`."""
        costs = jnp.asarray(self.moves.costs)
        left = jnp.asarray(self.moves.limits) - costs[pair].sum(0)
        more = costs[wanted] - costs[pair]  # [N, K]
        most = left[None] + _rounding(costs.dtype) * more
        place = jnp.arange(len(pair))

        def refused(given: Array) -> Array:
            used = jnp.cumsum(jnp.where(given[:, None], more, 0), axis=0)
            return ((used > most) & (more > 0)).any(1) & given

        def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
            given, over = state
            i = over.argmax()  # from the first that is refused on nobody is given this
            given = given & ~((wanted == wanted[i]) & (place >= i))
            return given, refused(given)

        every = jnp.ones(len(pair), bool)
        given, _ = lax.while_loop(lambda state: state[1].any(), step, (every, refused(every)))
        return jnp.where(given, wanted, pair)

    def _completed(self, split: Array) -> Array:
        """What is left after all were asked twice, in the order of the pairs."""
        return self.moves.serve(split, self.moves.source) if self.fill else split

    def law(self, rules: Rules) -> SplitLaw:
        """The law of the split in every configuration, whoever is asked first."""
        base, costs = np.asarray(self.moves.base), np.asarray(self.moves.costs, np.float64)
        limits = np.asarray(self.moves.limits, np.float64)
        first, actions = _pairs(rules.sizes)
        all_of = [list(range(f, f + a)) for f, a in zip(first, actions, strict=True)]
        others = [[x for x in pairs if x != b] for pairs, b in zip(all_of, base, strict=True)]
        splits, chances = [], []
        for counts in all_counts(rules):
            split = np.zeros(len(costs), np.int64)
            split[base] = counts
            law = {tuple(split.tolist()): 1.0}
            for options in [all_of, others][: 1 + self.fill]:
                law = _law_of_asking(law, base, options, costs, limits)
            splits += list(law)
            chances += list(law.values())
        listed = np.array(splits, np.int32)
        final = np.asarray(_complete_all(self, listed)).astype(np.int64)
        return collected(rules, final, np.array(chances))


@jit
def _complete_all(policy: RandomPolicy, splits: Array) -> Array:
    return jax.vmap(policy._completed)(splits)


def random_policy(population: RestlessBandit | WeaklyCoupledPopulation) -> RandomPolicy:
    """Agents in a random order take actions at random, as far as the budgets allow: the null model.

    A step sorts the N agents: about a second for a million of them. Where a budget must be
    met exactly and costs are of several sizes, being asked twice may not meet it: a simulation says
    so (`kept`), and the exact chain is refused.

    Args:
        population: or a `RestlessBandit`; costs, counts and budgets must be known.

    Returns:
        A policy for `exchangeable_chain` and `simulate_population`.

    Raises:
        ValueError: for a bad population, or if the cheapest actions break a budget in some
            configuration.
    """
    checked = as_population(population)
    rules = rules_of(checked)
    base = set(np.asarray(priority_policy(checked, []).base).tolist())
    first, moves = 0, []
    for k, (S, A) in enumerate(rules.sizes):
        pairs = [(first + s * A + a, (k, s, a)) for s in range(S) for a in range(A)]
        moves += [move for pair, move in pairs if pair not in base]
        first += S * A
    return RandomPolicy(
        priority_policy(checked, moves), sum(rules.counts), bool(rules.equality.any())
    )


def _pairs(sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The first pair of each state and its number of actions, `[ΣS_k]` each."""
    actions = np.concatenate([np.full(S, A, np.int32) for S, A in sizes])
    return np.append(0, np.cumsum(actions)[:-1]).astype(np.int32), actions


def _uniform(key: Array, number: Array) -> Array:
    """One of 0, .., number - 1, `[N]`."""
    drawn = jax.random.uniform(key, number.shape) * number
    return jnp.minimum(drawn.astype(jnp.int32), number - 1)


def _rounding(dtype) -> float:
    """An agent is not divisible; this much of one is rounding."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def _law_of_asking(
    law: dict[tuple[int, ...], float],
    base: np.ndarray,
    options: list[list[int]],
    costs: np.ndarray,
    limits: np.ndarray,
) -> dict[tuple[int, ...], float]:
    """The law of the split after all that have the cheapest action were asked for one of these."""
    asked: dict[_Asked, float] = defaultdict(float)
    for split, chance in law.items():
        waiting = tuple(
            split[b] if own else 0 for b, own in zip(base.tolist(), options, strict=True)
        )
        asked[split, waiting, 0] += chance
    done: dict[tuple[int, ...], float] = defaultdict(float)
    while asked:
        after: dict[_Asked, float] = defaultdict(float)
        for (split, waiting, gone), chance in asked.items():
            total = sum(waiting)
            if total == 0:
                done[split] += chance
                continue
            left = limits - np.array(split) @ costs
            for s, n in enumerate(waiting):
                if n == 0:
                    continue
                fewer = (*waiting[:s], n - 1, *waiting[s + 1 :])
                for x in options[s]:
                    each = chance * n / total / len(options[s])
                    more = costs[x] - costs[base[s]]
                    fits = (left + _rounding(costs.dtype) >= more) | (more <= 0)
                    if gone >> x & 1 or not fits.all():
                        after[split, fewer, gone | 1 << x] += each
                        continue
                    moved = list(split)
                    moved[base[s]] -= 1
                    moved[x] += 1
                    after[tuple(moved), fewer, gone] += each
        asked = after
    return done
