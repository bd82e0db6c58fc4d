r"""Soft index policies: an index policy that is smooth in its index.

An agent in state s is active with probability

    p_s = σ((index_s - t) / temperature),  t such that Σ_s n_s p_s = M,

so that the budget holds in expectation; temperature -> 0 gives the index policy with fair ties
(Def. 13). That exactly M are active is the matter of a fixed-size design with these probabilities:
systematic rounding. With C_s = Σ_{s' <= s} n_{s'} p_{s'} and one uniform U in (0, 1),

    c_s = ⌈C_s - U⌉,  K_s = c_s - c_{s-1}

agents of state s are active, drawn fairly among the n_s. Then E[K_s] = n_s p_s, every sum of
neighboring K_s is within one of its mean, and K takes at most S values, with probabilities that
are piecewise linear in C: whoever averages over them has the exact policy and its exact gradient.
The states keep their own order in this, whatever the index, so that nothing jumps where two
indices cross.

Gradients: `chances`, `roundings` and `log_probability` are differentiable in index and temperature
(the threshold by the implicit function theorem). `draw` is a sample, and refuses to be
differentiated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import (
    check_finite,
    check_positive,
    check_positive_int,
    check_shape,
    refuse_gradient,
)
from .._reads import reads
from ..numerics.arrays import nan_unless, ratio, takes_arrays
from ..numerics.compiled import jit
from .policies import check_budget

Array = jax.Array


@reads("{0.active.shape[0]} ways to round")
class Roundings(NamedTuple):
    """The values that the active counts take, and how often.

    Attributes:
        active: K, active agents per state, int `[J, S]` with J = S.
        weights: their probabilities, `[J]`; 0 where fewer than J values are taken.
    """

    active: Array
    weights: Array


@takes_arrays("index")
@reads("an index policy at temperature {0.temperature}")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SoftIndex:
    """A soft index policy of exchangeable agents. Methods take counts of one `[S]`; vmap for more.

    Attributes:
        index: of each state, the higher the earlier served, `[S]`.
        temperature: in the unit of the index, above 0; where it is not, chances are NaN.
    """

    index: Array | np.ndarray
    temperature: Array | float

    @takes_arrays("counts", "active")
    def chances(self, counts: Array, budget: Array | float) -> Array:
        """p_s of an agent in state s, `[S]`; counts and budget may be fractions of N."""
        return _policy_chances(self, counts, budget)

    @takes_arrays("counts", "active")
    def roundings(self, counts: Array, budget: Array | int) -> Roundings:
        """Every value of the active counts with its probability, of whole counts `[S]`."""
        return _policy_roundings(self, counts, budget)

    @takes_arrays("counts", "active")
    def log_probability(self, counts: Array, active: Array, budget: Array | int) -> Array:
        """Log of the probability of active counts `[S]`, for score-function estimators.

        -inf where they are never taken.
        """
        served = jnp.cumsum(jnp.asarray(active))
        chance = _overlap(_cumulative(self, jnp.asarray(counts), budget), served)
        taken = (chance > 0) & (served[-1] == budget)
        return jnp.where(taken, jnp.log(jnp.where(taken, chance, 1)), -jnp.inf)

    @takes_arrays("counts", "active")
    def draw(self, key: Array, counts: Array, budget: Array | int) -> Array:
        """Active counts of one draw, int `[S]`; it has no gradient and says so."""
        return draw_rounding(jax.random.uniform(key), refuse_gradient(self), counts, budget)

    @takes_arrays("states")
    def draw_agents(self, key: Array, states: Array, budget: Array | int) -> Array:
        """Which of the agents in `states` `[N]` are active, bool `[N]`: M of them, exactly."""
        states = jnp.asarray(states)
        num_states = jnp.shape(self.index)[-1]
        counts = jnp.zeros(num_states, int).at[states].add(1)
        key_counts, key_agents = jax.random.split(key)
        active = self.draw(key_counts, counts, budget)
        order = jnp.lexsort((jax.random.uniform(key_agents, states.shape), states))
        place = jnp.zeros_like(states).at[order].set(jnp.arange(len(states), dtype=states.dtype))
        return place - (jnp.cumsum(counts) - counts)[states] < active[states]


def check_soft(policy: SoftIndex, num_states: int | None = None) -> None:
    """Raise a ValueError unless this is a soft index policy, over `num_states` states if given."""
    if not isinstance(policy, SoftIndex):
        raise ValueError(
            f"policy: {type(policy).__name__} is not a SoftIndex; SoftIndex(index, temperature) is "
            "one, and functions without soft in their name take a priority"
        )
    check_shape("index", policy.index, (num_states,))
    check_finite("index", policy.index)
    check_positive("temperature", policy.temperature)


def draw_rounding(uniform: Array, policy: SoftIndex, counts: Array, budget: Array | int) -> Array:
    """The active counts that one uniform number in [0, 1) chooses, int `[S]`."""
    listed = policy.roundings(counts, budget)
    chosen = jnp.searchsorted(jnp.cumsum(listed.weights), uniform, side="right")
    last = jnp.argmax(listed.weights)  # where rounding leaves the weights' sum below `uniform`
    chosen = jnp.where(chosen < len(listed.weights), chosen, last)
    return listed.active[chosen]


def soft_index_policy(
    index: Array | Sequence[Array],
    temperature: Array | float,
    *,
    num_agents: int,
    budget: int,
) -> Array:
    r"""Activate M agents, those of high index more often: the joint table of a `SoftIndex`.

    π(a|s) = P(K = k) / Π_s C(n_s, k_s) where a activates k_s of the n_s agents in state s.
    Differentiable in index and temperature; tends to `index_policy` as temperature -> 0.

    Args:
        index: of each state of one agent, `[S]`; or one array `[S_i]` for each of N differing
            agents, of which each is then a class of its own in the design.
        temperature: above 0, in the unit of the index.
        num_agents: N; the table has Π 2 S_i entries. Static.
        budget: M. Static.

    Raises:
        ValueError: for an index that is not finite, a temperature that is not above 0, an M
            outside 0..N.
    """
    check_positive_int("num_agents", num_agents)
    check_budget("budget", budget, num_agents)
    check_positive("temperature", temperature)
    if isinstance(index, (tuple, list)) and index and np.ndim(index[0]):
        if len(index) != num_agents:
            raise ValueError(f"index: wanted one for each of {num_agents} agents, got {len(index)}")
        for i, own in enumerate(index):
            check_shape(f"index[{i}]", own, (None,))
            check_finite(f"index[{i}]", own)
        return _differing_table(index, temperature, budget)
    policy = SoftIndex(jnp.asarray(index), temperature)
    check_soft(policy)
    return _exchangeable_table(policy, num_agents, budget)


@jit(static_argnums=(1, 2))
def _exchangeable_table(policy: SoftIndex, num_agents: int, budget: int) -> Array:
    num_states = len(policy.index)
    states = np.array(list(product(range(num_states), repeat=num_agents)))  # [S^N, N]
    actions = np.array(list(product(range(2), repeat=num_agents)))  # [2^N, N]
    present = np.eye(num_states, dtype=int)[states]  # [S^N, N, S]
    counts, row = np.unique(present.sum(1), axis=0, return_inverse=True)
    active = np.einsum("bi,jis->jbs", actions, present)  # [S^N, 2^N, S]
    choose = np.array([[comb(n, k) for k in range(num_agents + 1)] for n in range(num_agents + 1)])
    ways = choose[counts[row][:, None], active].prod(-1)
    allowed = (active.sum(-1) == budget) & (ways > 0)
    cumulative = jax.vmap(lambda n: _cumulative(policy, n, budget))(jnp.asarray(counts))
    cumulative = cumulative[row.reshape(-1)]  # [S^N, S]
    chance = _overlap(cumulative[:, None], jnp.cumsum(jnp.asarray(active), axis=-1))
    table = jnp.where(allowed, chance / np.where(allowed, ways, 1), 0)
    return table.reshape((num_states,) * num_agents + (2,) * num_agents)


@jit(static_argnums=2)
def _differing_table(index: Sequence[Array], temperature: Array | float, budget: int) -> Array:
    num_states = tuple(len(own) for own in index)
    states = np.indices(num_states).reshape(len(index), -1)  # [N, J]
    actions = np.array(list(product(range(2), repeat=len(index))))  # [2^N, N]
    own = jnp.stack([jnp.asarray(f)[s] for f, s in zip(index, states, strict=True)], axis=-1)
    counts = jnp.ones(len(index), int)

    def row(own: Array) -> Array:
        cumulative = _cumulative(SoftIndex(own, temperature), counts, budget)
        return _overlap(cumulative[None], jnp.cumsum(jnp.asarray(actions), axis=-1))

    table = jnp.where(actions.sum(-1) == budget, jax.vmap(row)(own), 0)
    return table.reshape(num_states + (2,) * len(index))


@jit
def _policy_chances(policy: SoftIndex, counts: Array, budget: Array | float) -> Array:
    dtype = jnp.result_type(policy.index, policy.temperature, float)
    index, counts, budget = (jnp.asarray(x, dtype) for x in (policy.index, counts, budget))
    temperature = jnp.asarray(policy.temperature, dtype)
    temperature = jnp.where(temperature > 0, temperature, jnp.nan)
    # Scores are taken from that of the state in which the budget runs out: the threshold is then a
    # small number where it matters, and keeps its digits at any temperature. Not a difference of
    # quotients: a fused multiply and add leaves their rounding where two are equal.
    order = jnp.argsort(-index)
    pivot = order[jnp.argmax(jnp.cumsum(counts[order]) >= budget)]
    return _chances((index - index[pivot]) / temperature, counts, budget)


def _cumulative(policy: SoftIndex, counts: Array, budget: Array | int) -> Array:
    """C, `[S]`; the last is the budget itself."""
    chances = policy.chances(counts, budget)
    return jnp.cumsum(counts.astype(chances.dtype) * chances).at[-1].set(budget)


def _overlap(cumulative: Array, served: Array) -> Array:
    """P(⌈C_s - U⌉ = c_s for all s), the length of the common part of [C_s - c_s, C_s - c_s + 1)."""
    offset = (cumulative - served)[..., :-1]
    upper = 1 + offset.min(-1, initial=0)
    return jnp.maximum(upper - offset.max(-1, initial=0), 0)


@jit
def _policy_roundings(policy: SoftIndex, counts: Array, budget: Array | int) -> Roundings:
    counts = jnp.asarray(counts)
    cumulative = _cumulative(policy, counts, budget)
    whole = jnp.floor(lax.stop_gradient(cumulative))
    part = (cumulative - whole).at[-1].set(0)  # C_S = M is whole
    starts = jnp.sort(part)  # U from here to the next start: one value of K
    weights = jnp.diff(starts, append=1)
    served = whole[None] + (part[None] > starts[:, None])  # [J, S]
    active = jnp.diff(served, axis=-1, prepend=0).astype(int)
    # Rounding errors of C can leave a sliver in which some K_s is no number of agents.
    possible = ((active >= 0) & (active <= counts[None])).all(-1)
    weights = jnp.where(possible, weights, 0)
    active = jnp.where(possible[:, None], active, active[None, jnp.argmax(weights)])
    return Roundings(active, jnp.where(jnp.isnan(cumulative[0]), jnp.nan, weights))


@jax.custom_jvp
def _chances(scores: Array, counts: Array, budget: Array) -> Array:
    """σ(scores - t) with Σ counts σ(scores - t) = budget, by bisection."""
    total = counts.sum()
    present = counts > 0
    inside = (budget > 0) & (budget < total)
    share = jnp.where(inside, budget / total, 0.5)
    logit = jnp.log(share) - jnp.log1p(-share)
    low = jnp.where(present, scores, jnp.inf).min() - logit
    high = jnp.where(present, scores, -jnp.inf).max() - logit

    def halve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = carry
        middle = low + (high - low) / 2
        over = (counts * jax.nn.sigmoid(scores - middle)).sum() > budget
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    def apart(carry: tuple[Array, Array]) -> Array:
        low, high = carry
        middle = low + (high - low) / 2
        # A threshold at 0 has neighbors closer than any chance can tell.
        return (middle > low) & (middle < high) & (high - low > jnp.finfo(scores.dtype).eps)

    low, high = lax.while_loop(apart, halve, (low, high))
    # Between two neighboring numbers a chance may still go from 0 to 1 where scores are large: the
    # mixture of both ends that spends the budget.
    most, least = jax.nn.sigmoid(scores - low), jax.nn.sigmoid(scores - high)
    spent = (counts * least).sum()
    more = (counts * (most - least)).sum()
    part = ratio(budget - spent, more, 0.5)
    chances = least + jnp.clip(part, 0, 1) * (most - least)
    edge = jnp.where(budget <= 0, 0.0, 1.0).astype(chances.dtype)
    chances = jnp.where(inside, chances, edge)
    valid = (budget >= 0) & (budget <= total) & jnp.isfinite(scores).all()
    return nan_unless(valid, chances)


@_chances.defjvp
def _chances_jvp(primals, tangents):
    """From Σ n p = M: dp = q (ds - dt) with q = p (1 - p), and dt the mean of ds that keeps M."""
    scores, counts, budget = primals
    d_scores, d_counts, d_budget = tangents
    chances = _chances(scores, counts, budget)
    slope = chances * (1 - chances)
    total = (counts * slope).sum()
    weight = ratio(slope, total)
    excess = (counts * slope * d_scores).sum() + (chances * d_counts).sum() - d_budget
    return chances, slope * d_scores - weight * excess
