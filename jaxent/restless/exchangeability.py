r"""Is every stationary law of the joint chain exchangeable? What Lemma 8 takes for granted.

Agents that are alike move by one rule, so a permutation of the agents takes a stationary law of the
joint chain to another. If there is one law only, it is exchangeable: it does not tell agents apart,
and the law of the counts stands for it. A joint chain with several closed classes has other laws
too, in which one agent may be entangled far beyond the average, and of these Lemma 8 says nothing.

Two agents that are in the same state are interchangeable from there on. So if any two agents can
meet from anywhere, exchanging them in the past changes nothing in the long run: every stationary
law is exchangeable. Three tests rest on that, each of positive chances alone:

- by the kernel, for every N at once: no pair of states from which some choice of actions that the
  policy allows keeps two agents apart for ever;
- by the chain of two tagged agents and the counts of the others, for this N: in every closed class
  the two meet. If some closed class is not the same with the two exchanged, it has a law that is
  not exchangeable;
- by the joint chain itself, for few agents, where that leaves it open.
"""

from enum import IntEnum
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from .._checks import check_positive_int, concrete
from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex
from ..numerics.compiled import jit
from .activation import IndexPolicy, active_counts, check_index_policy
from .next_counts import configuration_index, configurations, num_configurations

Array = jax.Array

# Steps of a tagged chain that are looked at one by one, at most.
MAX_STEPS = 8_000_000
# The same inside other functions, which look only where it costs next to nothing.
BRIEF = 100_000


class Verdict(IntEnum):
    """What is known of a hypothesis."""

    FAILS = -1
    UNDECIDED = 0
    HOLDS = 1


@reads("that every stationary law is exchangeable: {0.verdict.name}")
class Exchangeability(NamedTuple):
    """Whether stationary laws of the joint chain tell agents apart; NumPy, not for a trace.

    Attributes:
        verdict: HOLDS: every stationary law is exchangeable. FAILS: one is not.
        by_kernel: HOLDS is by the kernel, and so for every N that leaves room for both actions.
        num_laws: closed classes of the counts, that is, exchangeable laws that are not mixtures of
            others; 0 where there are too many counts to look at. The joint chain has one
            stationary law if and only if this is 1 and `verdict` is HOLDS.
        example: where FAILS, states of the N agents, `[N]`, in a closed class that does not hold
            the same with agents `pair` exchanged; empty otherwise.
        pair: where FAILS, those two agents; otherwise two states that the kernel does not show to
            meet; empty where `by_kernel`.
    """

    verdict: Verdict
    by_kernel: bool
    num_laws: int
    example: np.ndarray
    pair: np.ndarray


def check_exchangeability(bandit: RestlessBandit, policy: IndexPolicy) -> Exchangeability:
    r"""Decide whether every stationary law of N agents is exchangeable, or say it is undecided.

    Lemma 8 bounds the entanglement of each agent only under such a law. Theorem 7 and Corollary 1
    need it no further than that: under their two assumptions it holds from some N on
    (`docs/theory/theorem-7.md`).

    Args:
        bandit: `num_agents` and `budget` are ints. Not traced.
        policy: a priority, that is, states in the order served, `[S]`; or a `SoftIndex`.

    Returns:
        `Exchangeability`; UNDECIDED only where the kernel does not show it and the chain of two
        tagged agents is too large to look at, or leaves it open and the joint chain is too large.

    Raises:
        ValueError: for a bandit or policy that is not one, naming the place, or is traced.

    Examples:
        Whoever is served stays in state 0, whoever is not in state 1. Two agents, one served:

        >>> import jaxent
        >>> still = [[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]
        >>> bandit = jaxent.RestlessBandit(*still, [[0.0, 1.0], [0.0, 0.0]], 2, 1, 0.9)
        >>> found = jaxent.check_exchangeability(bandit, (0, 1))
        >>> print(found.verdict.name, found.num_laws, sorted(found.example.tolist()))
        FAILS 1 [0, 1]

    References:
        Chen and Peng, the proof of Lemma 8, where agents change places.
    """
    check_bandit(bandit)
    check_positive_int("num_agents", bandit.num_agents)
    policy = check_index_policy(policy, bandit.num_states)
    if not concrete(bandit, policy):
        raise ValueError("bandit: its arrays must be known here, not traced values")
    return _look(bandit, policy, MAX_STEPS)


def exchangeable_at(bandit: RestlessBandit, policy: Any) -> Array:
    """The verdict as an int array: by the kernel, and where all is known and small by the chain."""
    kernel, rank = jnp.asarray(bandit.kernel), jnp.asarray(ranks(policy, bandit.num_states))
    shown = met_by_kernel(kernel, bandit.num_agents, bandit.budget, rank)
    if not concrete(bandit, policy, shown) or bool(shown) or not _whole(bandit):
        return shown.astype(int)
    return jnp.array(int(_look(bandit, policy, BRIEF).verdict))


def _whole(bandit: RestlessBandit) -> bool:
    """Whether agents and budget are whole numbers, as those of a mean field need not be."""
    return all(float(x) == int(x) for x in (bandit.num_agents, bandit.budget))


def ranks(policy: IndexPolicy, num_states: int) -> Array | np.ndarray:
    """Places of the states in the priority, `[S]`; all 0 for a policy without an order."""
    if isinstance(policy, SoftIndex):
        return np.zeros(num_states, int)
    return jnp.argsort(jnp.asarray(policy))


def met_by_kernel(kernel: Array, num_agents: Any, budget: Any, rank: Array) -> Array:
    """Whether any two agents can meet from anywhere, by the kernel `[S, 2, S]` alone."""
    return ~apart_for_ever(kernel, num_agents, budget, rank).any()


@jit
def apart_for_ever(kernel: Array, num_agents: Any, budget: Any, rank: Array) -> Array:
    """Pairs of states that two agents can hold apart by some actions for ever, bool `[S, S]`.

    Actions are those that the budget leaves room for and, of two agents whose states have places in
    an order, those in which the one served later is not active alone.
    """
    num_states = kernel.shape[0]
    edges = (lax.stop_gradient(kernel) > 0).astype(jnp.float32)  # [S, A, S]
    idle = num_agents - budget
    # Two agents can be both idle, one of each, both active: [A, A].
    one = (budget >= 1) & (idle >= 1)
    room = jnp.array([[idle >= 2, one], [one, budget >= 2]])
    before = rank[:, None] < rank[None]  # [S, S]
    jumps = np.eye(2, dtype=bool)[None, None, 0, :, None] & np.eye(2, dtype=bool)[None, None, 1]
    later, sooner = before[:, :, None, None] & jumps, before.T[:, :, None, None] & jumps.mT
    allowed = room[None, None] & ~later & ~sooner  # [S, S, A, A]

    def shrink(carry):
        apart, _ = carry
        met = 1 - apart.astype(jnp.float32)
        meets = jnp.einsum("sap,pq,tbq->stab", edges, met, edges) > 0
        left = apart & (allowed & ~meets).any((-1, -2))
        return left, (left != apart).any()

    start = ~jnp.eye(num_states, dtype=bool) & (num_agents >= 2)
    return lax.while_loop(lambda carry: carry[1], shrink, (start, jnp.array(True)))[0]


def _look(bandit: RestlessBandit, policy: Any, limit: int) -> Exchangeability:
    num_agents, num_states = int(bandit.num_agents), bandit.num_states
    rank = ranks(policy, num_states)
    kernel = np.asarray(bandit.kernel)
    apart = np.asarray(
        apart_for_ever(jnp.asarray(kernel), num_agents, int(bandit.budget), jnp.asarray(rank))
    )
    nothing = np.zeros(0, int)
    unmet = np.argwhere(apart)[0] if apart.any() else nothing
    chain = _Tagged(kernel > 0, num_agents, int(bandit.budget), policy)
    num_laws = len(chain.closed(0)[1]) if 4 * chain.size(0) <= limit else 0
    if not apart.any():
        return Exchangeability(Verdict.HOLDS, True, num_laws, nothing, nothing)
    for tagged in sorted({2, num_agents}):
        if chain.size(tagged) > limit:
            break
        found = chain.look(tagged)
        if found.verdict != Verdict.UNDECIDED:
            pair = found.pair if found.verdict == Verdict.FAILS else unmet
            return found._replace(num_laws=num_laws, pair=pair)
    return Exchangeability(Verdict.UNDECIDED, False, num_laws, nothing, unmet)


class _Tagged:
    """The chain of k tagged agents' states and the counts of the others, by what is possible."""

    def __init__(self, edges: np.ndarray, num_agents: int, budget: int, policy: Any):
        self.edges, self.num_agents, self.budget = edges, num_agents, budget
        self.num_states, self.policy = len(edges), policy
        self.roundings = lru_cache(maxsize=None)(self._roundings)
        self.reached = lru_cache(maxsize=None)(self._reached)
        self.spread = lru_cache(maxsize=None)(self._spread)

    def size(self, tagged: int) -> int:
        """Steps of the chain, at most: from each state, by what tagged agents may do at once."""
        counts = num_configurations(self.num_agents - tagged, self.num_states)
        return int(self.edges.sum()) ** tagged * counts**2

    def closed(self, tagged: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The class of every state, and the states of each class that nothing leaves."""
        counts = configurations(self.num_agents - tagged, self.num_states)
        states = list(product(range(self.num_states), repeat=tagged))
        rows, columns = [], []
        for i, (own, others) in enumerate(product(states, counts)):
            ahead = self.ahead(own, tuple(map(int, others)))
            rows.append(np.full(len(ahead), i))
            columns.append(ahead)
        row, column = np.concatenate(rows), np.concatenate(columns)
        size = len(states) * len(counts)
        edges = scipy.sparse.csr_array((np.ones(len(row)), (row, column)), (size, size))
        number, label = scipy.sparse.csgraph.connected_components(edges, connection="strong")
        left = np.zeros(number, bool)
        left[label[row[label[row] != label[column]]]] = True
        return label, [np.flatnonzero(label == k) for k in np.flatnonzero(~left)]

    def look(self, tagged: int) -> Exchangeability:
        """What k >= 2 tagged agents show."""
        label, classes = self.closed(tagged)
        counts = configurations(self.num_agents - tagged, self.num_states)
        shape = (self.num_states,) * tagged
        nothing, meet = np.zeros(0, int), True
        for members in classes:
            own = np.stack(np.unravel_index(members // len(counts), shape), -1)  # [K, k]
            for i in range(tagged - 1):
                changed = own.copy()
                changed[:, [i, i + 1]] = own[:, [i + 1, i]]
                place = np.ravel_multi_index(tuple(changed.T), shape)
                same = label[place * len(counts) + members % len(counts)] == label[members[0]]
                if not same.all():
                    first = members[~same][0]
                    others = np.repeat(np.arange(self.num_states), counts[first % len(counts)])
                    example = np.concatenate([own[~same][0], others])
                    pair = np.array([i, i + 1])
                    return Exchangeability(Verdict.FAILS, False, 0, example, pair)
            meet &= bool((own[:, 0] == own[:, 1]).any())
        # With all agents tagged, exchanges leave the law of a class alone if they leave the class.
        holds = meet or tagged == self.num_agents
        verdict = Verdict.HOLDS if holds else Verdict.UNDECIDED
        return Exchangeability(verdict, False, 0, nothing, nothing)

    def ahead(self, own: tuple[int, ...], others: tuple[int, ...]) -> np.ndarray:
        """The states that can follow, by number."""
        tagged = len(own)
        size = num_configurations(self.num_agents - tagged, self.num_states)
        found = []
        together = np.array(others, int)
        np.add.at(together, list(own), 1)
        for active in self.roundings(tuple(map(int, together))):
            split = np.stack([together - active, active], -1)  # [S, 2]
            for actions in product(range(2), repeat=tagged):
                left = split.copy()
                np.subtract.at(left, (list(own), list(actions)), 1)
                if left.min() < 0:
                    continue  # a fair draw never does this
                counts = self.reached(tuple(map(int, left.reshape(-1))))
                next_own = np.zeros(1, int)
                for s, a in zip(own, actions, strict=True):
                    there = np.flatnonzero(self.edges[s, a])
                    next_own = (next_own[:, None] * self.num_states + there).reshape(-1)
                found.append((next_own[:, None] * size + counts).reshape(-1))
        return np.unique(np.concatenate(found))

    def _roundings(self, counts: tuple[int, ...]) -> np.ndarray:
        """Active counts that are possible, `[K, S]`."""
        if not isinstance(self.policy, SoftIndex):
            order = tuple(int(s) for s in np.asarray(self.policy))
            return active_counts(np.array(counts), self.budget, order)[None]
        found = self.policy.roundings(jnp.asarray(counts), self.budget)
        return np.unique(np.asarray(found.active)[np.asarray(found.weights) > 0], axis=0)

    def _reached(self, split: tuple[int, ...]) -> np.ndarray:
        """Next counts of agents of which so many are in each state and action, by number."""
        by_support: dict[bytes, int] = {}
        for group, number in enumerate(split):
            if number:
                support = self.edges[group // 2, group % 2].tobytes()
                by_support[support] = by_support.get(support, 0) + number
        return self.spread(tuple(sorted(by_support.items())))

    def _spread(self, groups: tuple[tuple[bytes, int], ...]) -> np.ndarray:
        """Ways in which so many agents spread over each of these sets of states, by number."""
        if not groups:
            return np.zeros(1, int)
        *rest, (support, number) = groups
        there = np.flatnonzero(np.frombuffer(support, bool))
        some = configurations(number, len(there))
        more = np.zeros((len(some), self.num_states), int)
        more[:, there] = some
        others = sum(n for _, n in rest)
        before = configurations(others, self.num_states)[self.spread(tuple(rest))]
        return np.unique(
            configuration_index((before[:, None] + more[None]).reshape(-1, self.num_states))
        )
