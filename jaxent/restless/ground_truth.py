r"""Exact answers of a restless bandit, from the counts of all N agents.

Everything that the N agents share is a function of (n, j), their configuration and its rounding
(`rounded`; a priority has one rounding): the stationary law μ(n) w_j(n) and the joint Q-value,
Q = r + discount K Π Q with r(n, j) = Σ_{s,a} n_{s,a} r(s, a). That is far fewer unknowns than the
chain with a tagged agent has, S times fewer under a priority, and one walk an iteration in place of
2 S. The tagged agent comes back in two steps:

    occupancy(s, a) = Σ_{n,j} μ(n) w_j(n) n_{s,a} / N,
    flow((s, a), (s', 1)) = P_a(s, s') Σ_{c,j} w_{s,a}(c, j) E[π_1(s', c') | s, a, c, j],

with w the joint law of its pair, the configuration c of the others and the rounding, and π_1 its
chance to be active. From the flow come its local transition (Eq. 2), local Q-values and the
decomposition error. `exchangeable_chain` gives the same numbers, and all other measures, through
the general functions; this is the short way to large N.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import renamed
from .._reads import reads
from ..chains.pair_chain import PairChain
from ..chains.stationary import LawSolution, law_direct, law_iterative
from ..chains.views import flow_rows
from ..models.layouts import product_layout
from ..models.parts import NoChoice, TablePolicy
from ..models.restless_bandit import RestlessBandit
from ..models.soft_index import SoftIndex
from ..numerics.arrays import einsum, ratio, relative
from ..numerics.compiled import jit
from ..numerics.elimination import discounted_solve
from ..numerics.simplex import weighted_median
from ..values.bellman import QSolution, solve_direct, solve_iterative
from .activation import IndexPolicy
from .exchangeability import exchangeable_at
from .exchangeable import (
    as_float_kernel,
    check_exchangeable,
    check_memory,
    check_soft_team,
    soft_team,
)
from .group_laws import rounded_kernel
from .next_counts import next_counts
from .rounded import Rounded, tagged, tagged_law, total
from .tagged import by_rank, place_by_rank, walk_ahead, walk_bytes

Array = jax.Array

# With at most this many configurations elimination is quicker than walking.
DENSE = 256


@reads(
    "the sum of local values is off by {0.mu_error:.4g} in the mean, "
    "{0.relative_error:.2%} of the value"
)
class GroundTruth(NamedTuple):
    r"""Exact answers; rows of `law`, `q_joint` and `error` are those of `configurations(N, S)`.

    Under a `SoftIndex`, `q_joint` and `error` have an axis of roundings, `[M, S]`: the value
    depends on how many agents of each state are active. A rounding that is never taken has weight
    0.

    Attributes:
        law: stationary law of the configurations, `[M]`.
        q_joint: joint Q-value, of all agents together, `[M]`.
        q_local: local Q-value of one agent, `[S, 2]`.
        error: $Q(n) - \sum_{s,a} n_{s,a} Q_1(s, a)$, `[M]`.
        occupancy: stationary law of one agent's pair, `[S, 2]`.
        local_transition: P_1 (Eq. 2), `[2 S, 2 S]`; a pair never visited is a self-loop.
        entanglement: E_1 by Eq. (15), the policy's entanglement; of the chances, which do not
            depend on how the budget is rounded.
        average_reward: mean reward a step of all agents.
        mu_error: $\sum_n \mu(n) |error(n)|$, over roundings too.
        relative_error: mu_error / $\sum_n \mu(n) |Q(n)|$; 0 where both are 0.
        residual: largest residual of the two solves.
        num_steps: walks they took; 0 where the chain is small enough to eliminate.
        exchangeable: 1 where every stationary law of the joint chain is shown to be exchangeable,
            so that `law` is that of every start; -1 where the joint chain has laws that tell agents
            apart, of which nothing here nor Lemma 8 speaks; 0 where neither is shown.
            `check_exchangeability` looks further.
        converged: whether both met their tolerance and the counts are unichain; NaN stands where
            not.
    """

    law: Array
    q_joint: Array
    q_local: Array
    error: Array
    occupancy: Array
    local_transition: Array
    entanglement: Array
    average_reward: Array
    mu_error: Array
    relative_error: Array
    residual: Array
    num_steps: Array
    exchangeable: Array
    converged: Array


@renamed(priority="policy")
def ground_truth(
    bandit: RestlessBandit, policy: IndexPolicy, *, memory: int | None = None
) -> GroundTruth:
    """Exact stationary law, values, decomposition error and entanglement under an index policy.

    The law is the exchangeable one, that of the counts; a joint chain with several closed classes
    has others (`exchangeable`).

    Differentiable in kernels, rewards and discount, and in index and temperature of a `SoftIndex`,
    by implicit differentiation and Danskin.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        policy: a priority, that is, a permutation of the states, first served first, static; or a
            `SoftIndex`, which may be traced.
        memory: bytes it may take; by default what the device has. Static.

    Raises:
        ValueError: for a bad bandit or policy, and before anything is allocated if the chain does
            not fit: the message has the count, the bytes and the largest N that fits.

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> found = jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY)
        >>> print(f"{found.entanglement:.4f} {found.mu_error:.4f}")
        0.0818 0.0430

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (2) and (15), Appendix K.
    """
    if isinstance(policy, SoftIndex):
        num_agents, budget = check_soft_team(bandit, policy, memory)
        found = _soft_answer(bandit, policy, num_agents, budget)
        return found._replace(exchangeable=exchangeable_at(bandit, policy))
    num_agents, budget, order = check_exchangeable(bandit, policy)
    itemsize = as_float_kernel(bandit).dtype.itemsize
    check_memory(num_agents, len(order), partial(walk_bytes, itemsize), memory)
    local, rounded = by_rank(bandit, num_agents, budget, order)
    discount = jnp.asarray(bandit.discount, local.dtype)
    reward = _served(jnp.asarray(bandit.reward, local.dtype), np.array(order))
    solved = _solve_joint(local, reward, discount, budget, rounded, num_agents=num_agents)
    ahead = walk_ahead(local, rounded, num_agents, budget)
    flow = _walked_flow(solved[0].value, ahead, rounded, num_agents)
    found = _answer(local, reward, discount, solved, rounded, flow)
    found = found._replace(exchangeable=exchangeable_at(bandit, order))
    return _rename(found, order, num_agents)


soft_ground_truth = ground_truth  # its first name for a soft index policy


@jit
def _served(reward: Array, order: Array) -> Array:
    """Rewards by the place of their state in the priority."""
    return reward[order]


_Solved = tuple[LawSolution, QSolution]


@jit(static_argnames="num_agents")
def _solve_joint(local, reward, discount, budget, rounded: Rounded, *, num_agents) -> _Solved:
    """Law and values under a priority."""
    ranks, size = tuple(range(len(local))), len(rounded.weights)
    op = next_counts(local, num_agents=num_agents, budget=budget, priority=ranks)
    chain = PairChain(op, NoChoice(size), product_layout([size]))
    return _solve(chain, total(rounded.split, reward).reshape(-1), discount)


def _solve(chain: PairChain, reward: Array, discount: Array) -> _Solved:
    """The law μ = μ K Π and values Q = r + discount K Π Q, on (n, j)."""
    if chain.num_states <= DENSE:
        return law_direct(chain), solve_direct(chain, reward, discount=discount)
    return law_iterative(chain), solve_iterative(chain, reward, discount=discount)


@jit(static_argnums=3)
def _walked_flow(law: Array, ahead: Array, rounded: Rounded, num_agents: int) -> Array:
    """Σ_c w_{s,a}(c) E[π_1(s', c') | s, a, c], `[S, 2, S']`, from what the walks found."""
    weights = tagged_law(law[:, None], rounded, num_agents)[..., 0]
    return einsum("sac,atc->sat", weights, ahead)


@jit(static_argnums=(2, 3))
def _soft_answer(bandit: RestlessBandit, policy: SoftIndex, num_agents: int, budget: int):
    local = as_float_kernel(bandit)
    reward = jnp.asarray(bandit.reward, local.dtype)
    discount = jnp.asarray(bandit.discount, local.dtype)
    rounded, team, _ = soft_team(local, policy, num_agents, budget)
    kernel = rounded_kernel(local, rounded.split, num_agents, budget)
    layout = product_layout([rounded.weights.size])
    chain = PairChain(kernel, TablePolicy(rounded.weights), layout)
    solved = _solve(chain, total(rounded.split, reward).reshape(-1), discount)
    weights = tagged_law(solved[0].value.reshape(rounded.weights.shape), rounded, num_agents)
    flow = team.mean_ahead(weights, tagged(rounded, num_agents).chances)
    return _answer(local, reward, discount, solved, rounded, flow)


@jit
def _answer(local, reward, discount, solved: _Solved, rounded: Rounded, served) -> GroundTruth:
    """All answers, from law and values and Σ_{c,j} w_{s,a}(c, j) E[π_1(s', c')], `[S, 2, S']`."""
    first, second = solved
    pairs, q_joint = (x.value.reshape(rounded.weights.shape) for x in solved)  # [M, J]
    law = pairs.sum(-1)
    counts = rounded.split[:, 0].sum(-1).astype(local.dtype)  # [M, S]
    num_agents = counts[0].sum()
    occupancy = einsum("mj,mjsa->sa", pairs, rounded.split.astype(pairs.dtype)) / num_agents
    # Where everyone is served, rounding alone would leave a chance below 0 to be idle.
    idle = jnp.maximum(occupancy[..., None] - served, 0)
    flow = local[..., None] * jnp.stack([idle, served], axis=-1)  # [S, 2, S', 2]
    transition = transition_of(flow.reshape(2 * len(local), -1), occupancy)
    q_local = discounted_solve(transition, reward.reshape(-1), discount).reshape(-1, 2)
    error = q_joint - total(rounded.split, q_local)
    mu_error = (pairs * jnp.abs(error)).sum()
    return GroundTruth(
        law=law,
        q_joint=q_joint,
        q_local=q_local,
        error=error,
        occupancy=occupancy,
        local_transition=transition,
        entanglement=median_entanglement(law, counts, rounded.chances),
        average_reward=num_agents * (occupancy * reward).sum(),
        mu_error=mu_error,
        relative_error=relative(mu_error, (pairs * jnp.abs(q_joint)).sum()),
        residual=jnp.maximum(first.residual, second.residual),
        num_steps=first.num_steps + second.num_steps,
        exchangeable=jnp.array(0),
        converged=first.converged & second.converged,
    )


def _rename(answer: GroundTruth, order: tuple[int, ...], num_agents: int) -> GroundTruth:
    """From places in the priority back to the states' own names, and without the one rounding."""
    return _renamed(answer, place_by_rank(num_agents, order), np.argsort(order))


@jit
def _renamed(answer: GroundTruth, place: Array, rank: Array) -> GroundTruth:
    pair = (2 * rank[:, None] + np.arange(2)[None]).reshape(-1)
    return answer._replace(
        law=answer.law[place],
        q_joint=answer.q_joint[place, 0],
        error=answer.error[place, 0],
        q_local=answer.q_local[rank],
        occupancy=answer.occupancy[rank],
        local_transition=answer.local_transition[pair[:, None], pair],
    )


def transition_of(flow: Array, occupancy: Array) -> Array:
    """Eq. (2) from the stationary flow between pairs `[X, X]`: a self-loop where nobody ever is.

    Nor does anyone go there: what rounding leaves of a chance would, with a discount near 1, add
    up in the self-loop.
    """
    visited = occupancy.reshape(-1) > 0
    return flow_rows(jnp.where(visited[:, None] & visited[None], flow, 0))


def median_entanglement(law: Array, counts: Array, chances: Array) -> Array:
    """Eq. (15) with two actions: Σ_s min_q Σ_n w_s(n) |p_s(n) - q|, where q is a weighted median.

    Args:
        law: of the configurations, `[M]`.
        counts: agents per state, `[M, S]`.
        chances: to be active, p_s(n), `[M, S]`.
    """
    weight = law[:, None] * counts / counts[0].sum()  # [M, S]
    fixed, mass = lax.stop_gradient((chances, weight))
    medians = jax.vmap(weighted_median, in_axes=1)(fixed, mass)[None]  # [1, S]
    # The dual: signs y with Σ_n w_s(n) y_s(n) = 0. Configurations at the median itself, which moves
    # with them, share what the others leave; so the gradient in the chances is right there too.
    side = jnp.sign(fixed - medians)
    tied = jnp.where(side == 0, mass, 0).sum(0)
    rest = -ratio((mass * side).sum(0), tied)
    side = jnp.where(side == 0, rest[None], side)
    return (weight * side * (chances - medians)).sum()
