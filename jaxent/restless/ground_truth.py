r"""Exact answers of a restless bandit, from the counts of all N agents.

Everything that the N agents share is a function of their configuration n: the stationary law μ(n),
and, because a priority rule fixes who is active, the joint Q-value, Q = r + discount T Q with
r(n) = Σ_{s,a} n_{s,a} r(s, a). That is S times fewer unknowns than the chain with a tagged agent
has, and one walk an iteration in place of 2 S. The tagged agent comes back in two steps:

    occupancy(s, a) = Σ_n μ(n) n_{s,a} / N,
    flow((s, a), (s', 1)) = P_a(s, s') Σ_c w_{s,a}(c) (T_{N-1,M-a} π_1(s', .))(c),

with w the joint law of its pair and the configuration c of the others, and π_1(s', c') its chance
to be active. From the flow come its local transition (Eq. 2), local Q-values and the decomposition
error. `exchangeable_chain` gives the same numbers, and all other measures, through the general
functions; this is the short way to large N.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..chains.pair_chain import PairChain
from ..chains.stationary import LawSolution, law_direct, law_iterative
from ..chains.views import flow_rows
from ..models.layouts import product_layout
from ..models.parts import NoChoice
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import relative
from ..numerics.elimination import discounted_solve
from ..numerics.simplex import weighted_median
from ..values.bellman import QSolution, solve_direct, solve_iterative
from .exchangeable import (
    active_counts,
    budgets_left,
    check_exchangeable,
    check_memory,
    tagged_counts,
)
from .next_counts import configurations, next_counts
from .tagged import next_chances, place_by_rank, tagged_law, walk_bytes

Array = jax.Array

# Up to so many configurations elimination is quicker than walking.
DENSE = 256


class GroundTruth(NamedTuple):
    r"""Exact answers; rows of `law`, `q_joint` and `error` are those of `configurations(N, S)`.

    Attributes:
        law: stationary law of the configurations, `[M]`.
        q_joint: joint Q-value, of all agents together, `[M]`.
        q_local: local Q-value of one agent, `[S, 2]`.
        error: $Q(n) - \sum_{s,a} n_{s,a} Q_1(s, a)$, `[M]`.
        occupancy: stationary law of one agent's pair, `[S, 2]`.
        local_transition: P_1 (Eq. 2), `[2 S, 2 S]`; a pair never visited is a self-loop.
        entanglement: E_1 by Eq. (15), the policy's entanglement.
        average_reward: mean reward a step of all agents.
        mu_error: $\sum_n \mu(n) |error(n)|$.
        relative_error: mu_error / $\sum_n \mu(n) |Q(n)|$; 0 where both are 0.
        residual: largest residual of the two solves.
        num_steps: walks they took; 0 where the chain is small enough to eliminate.
        converged: whether both met their tolerance and the chain is unichain; NaN stands where not.
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
    converged: Array


def ground_truth(
    bandit: RestlessBandit, priority: Sequence[int] | Array, *, memory: int | None = None
) -> GroundTruth:
    """Exact stationary law, values, decomposition error and entanglement under a priority rule.

    Differentiable in kernels, rewards and discount, by implicit differentiation and Danskin.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        priority: permutation of the states, first served first. Static.
        memory: bytes it may take; by default what the device has. Static.

    Raises:
        ValueError: for a bad bandit or priority, and before anything is allocated if the chain
            does not fit: the message has the count, the bytes and the largest N that fits.

    Examples:
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(5)
        >>> found = jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY)
        >>> print(f"{found.entanglement:.4f} {found.mu_error:.4f}")
        0.0818 0.0430

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (2) and (15), Appendix K.
    """
    num_agents, budget, order = check_exchangeable(bandit, priority)
    local = bandit.kernel.astype(jnp.promote_types(bandit.kernel.dtype, jnp.float32))
    check_memory(num_agents, len(order), partial(walk_bytes, local.dtype.itemsize), memory)
    discount = jnp.asarray(bandit.discount, local.dtype)
    # States are renamed by their place in the priority, and what depends on the budget is passed as
    # arrays, so that one compilation for each N and S serves every index policy.
    served = np.array(order)
    local = local[served][:, :, served]
    reward = jnp.asarray(bandit.reward, local.dtype)[served]
    ranks = tuple(range(len(order)))
    split = _split(num_agents, budget, ranks, local.dtype)
    where, own, active = tagged_counts(num_agents, budget, ranks)
    own, active = (jnp.asarray(x, local.dtype) for x in (own, active))
    solved = _solve_joint(local, reward, discount, budget, split, num_agents=num_agents)
    left = jnp.array(budgets_left(num_agents, budget))
    ahead = next_chances(local, left, active / own, num_agents=num_agents - 1)
    answer = _answer(local, reward, discount, solved, ahead, split, (where, own, active))
    return _rename(answer, order, num_agents)


_Solved = tuple[LawSolution, QSolution]


@partial(jax.jit, static_argnames="num_agents")
def _solve_joint(local, reward, discount, budget, split, *, num_agents) -> _Solved:
    """The law μ = μ T and values Q = r + discount T Q, on configurations."""
    ranks = tuple(range(len(local)))
    op = next_counts(local, num_agents=num_agents, budget=budget, priority=ranks)
    chain = PairChain(op, NoChoice(len(split)), product_layout([len(split)]))
    if len(split) <= DENSE:
        return law_direct(chain), solve_direct(chain, _total(split, reward), discount=discount)
    return law_iterative(chain), solve_iterative(chain, _total(split, reward), discount=discount)


@jax.jit
def _answer(local, reward, discount, solved: _Solved, ahead, split, tagged) -> GroundTruth:
    first, second = solved
    law, q_joint = first.value, second.value
    num_agents = split[0].sum()
    occupancy = jnp.einsum("n,nsa->sa", law, split, precision=lax.Precision.HIGHEST) / num_agents
    transition = _local_transition(local, law, occupancy, ahead, num_agents, tagged)
    q_local = discounted_solve(transition, reward.reshape(-1), discount).reshape(-1, 2)
    error = q_joint - _total(split, q_local)
    counts = split.sum(-1)  # [M, S]
    mu_error, scale = law @ jnp.abs(error), law @ jnp.abs(q_joint)
    return GroundTruth(
        law=law,
        q_joint=q_joint,
        q_local=q_local,
        error=error,
        occupancy=occupancy,
        local_transition=transition,
        entanglement=median_entanglement(law, counts, split[..., 1] / jnp.maximum(counts, 1)),
        average_reward=num_agents * (occupancy * reward).sum(),
        mu_error=mu_error,
        relative_error=relative(mu_error, scale),
        residual=jnp.maximum(first.residual, second.residual),
        num_steps=first.num_steps + second.num_steps,
        converged=first.converged & second.converged,
    )


def _rename(answer: GroundTruth, order: tuple[int, ...], num_agents: int) -> GroundTruth:
    """From places in the priority back to the states' own names."""
    place = place_by_rank(num_agents, order)
    rank = np.argsort(order)
    pair = (2 * rank[:, None] + np.arange(2)).reshape(-1)
    return answer._replace(
        law=answer.law[place],
        q_joint=answer.q_joint[place],
        error=answer.error[place],
        q_local=answer.q_local[rank],
        occupancy=answer.occupancy[rank],
        local_transition=answer.local_transition[pair[:, None], pair],
    )


def _split(num_agents, budget, priority, dtype) -> Array:
    """How many agents hold each pair, n_{s,a}: `[M, S, 2]`."""
    counts = configurations(num_agents, len(priority))
    active = active_counts(counts, budget, priority)
    return jnp.asarray(np.stack([counts - active, active], axis=-1), dtype)


def _total(split: Array, f: Array) -> Array:
    """Sum over all agents of a function of the pair `[S, 2]`: `[M]`."""
    return jnp.einsum("nsa,sa->n", split, f, precision=lax.Precision.HIGHEST)


def _local_transition(local, law, occupancy, ahead, num_agents, tagged) -> Array:
    """Eq. (2) for a tagged agent, from what it expects of the others."""
    weights = tagged_law(law, num_agents, tagged)
    rows = []
    for action in range(2):
        taken = weights[:, action]  # [S, C]
        served = jnp.matmul(taken, ahead[action].T, precision=lax.Precision.HIGHEST)  # [S, S']
        total = taken.sum(-1, keepdims=True)
        # Where everyone is served, rounding alone would leave a chance below 0 to be idle.
        idle = jnp.maximum(total - served, 0)
        flow = local[:, action, :, None] * jnp.stack([idle, served], axis=-1)
        rows.append(flow.reshape(len(local), -1))  # [S, 2 S]
    flow = jnp.stack(rows, axis=1).reshape(2 * len(local), -1)  # [X, X]
    return transition_of(flow, occupancy)


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
    rest = -(mass * side).sum(0) / jnp.where(tied > 0, tied, 1)
    side = jnp.where(side == 0, rest[None], side)
    return (weight * side * (chances - medians)).sum()
