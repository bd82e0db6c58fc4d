r"""What a tagged agent sees of the others, and how entangled it is by Eq. (7) and Def. 8.

From the tagged agent's pair (s, a), the configuration c of the others and its rounding j, the law
of its next pair is

    p(s', 1) = P_a(s, s') g(s'),  p(s', 0) = P_a(s, s') (1 - g(s')),

with g(s') = E[π_1(s', c') | s, a, c, j] its chance to be active once it is in s', which under a
priority is (T_{N-1,M-a} π_1(s', .))(c). These rows, weighted by the law of (s, a, c, j), are all
that the agent-wise measures compare. Eq. (7) is exact by
sorting. The sup of Def. 8 is over 2^(2S - 1) sign vectors; few of them matter: with p - q replaced
by ±(d(s', 1) - d(s', 0)) / 2 in each s', with d = p - q, it stays the difference of p and some q,
and the sup only falls. So the 2^(S-1) vectors (-y, y) suffice for `lower`, and for `upper` their
minimizer so shifted, as long as it is a law.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from .._checks import check_shape, check_stochastic, renamed
from .._reads import reads
from ..measures.distances import sign_vectors
from ..measures.row_measures import Entanglement, sign_entanglement, weighted_centers
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex
from ..numerics.compiled import jit
from ..numerics.simplex import project_simplex
from .activation import IndexPolicy
from .exchangeable import (
    VECTORS,
    as_float_kernel,
    budgets_left,
    check_counted,
    check_exchangeable,
    check_memory,
    check_soft_team,
    soft_team,
)
from .next_counts import (
    configuration_index,
    configurations,
    next_counts,
    num_configurations,
    walk_size,
)
from .rounded import Rounded, rounded_priority, tagged, tagged_law

Array = jax.Array

# Arrays `[signs, X, C J]` that the interior-point method holds at once, about.
_PROGRAM = 40


@reads("{0.mu_atv.value:.4g} by Def. 8, {0.mu_atv_upper.value:.4g} by Eq. (7)")
class TaggedEntanglement(NamedTuple):
    """Two measures of one agent's entanglement; both bracketed, with a gradient in `value`.

    Attributes:
        mu_atv_upper: the right-hand side of Eq. (7).
        mu_atv: Def. 8.
    """

    mu_atv_upper: Entanglement
    mu_atv: Entanglement


class TaggedRows(NamedTuple):
    """The rows that the agent-wise measures compare.

    Attributes:
        points: law of the next pair by pair, configuration of the others and rounding,
            `[2 S, C J, 2 S]`.
        weights: law of (pair, configuration of the others and rounding), `[2 S, C J]`.
    """

    points: Array
    weights: Array


@renamed(priority="policy", law="mu")
def tagged_entanglement(
    bandit: RestlessBandit,
    policy: IndexPolicy,
    mu: Array | np.ndarray,
    *,
    tol: float = 1e-6,
    max_steps: int = 60,
    memory: int | None = None,
) -> TaggedEntanglement:
    """Eq. (7) and Def. 8 of one of N exchangeable agents under an index policy.

    Equal to `entanglement_mu_atv_upper` and `entanglement_mu_atv` on `exchangeable_chain`, at the
    cost of one walk and without its kernel.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        policy: a priority, that is, a permutation of the states, first served first, static; or a
            `SoftIndex`, which may be traced.
        mu: stationary law of the configurations, `ground_truth(...).law`, `[M]`.
        tol: gap to certify for Def. 8; `converged` says whether it was.
        max_steps: interior-point steps at most.
        memory: bytes it may take; by default what the device has. Static.

    Raises:
        ValueError: for a bad bandit, policy or law, and before anything is allocated if it does
            not fit: the message has the count, the bytes and the largest N that fits.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eq. (7) and Def. 8.
    """
    check_bandit(bandit)
    num_states = bandit.num_states
    if isinstance(policy, SoftIndex):
        num_agents, roundings = check_soft_team(bandit, policy, memory)[0], num_states
    else:
        num_agents, roundings = check_exchangeable(bandit, policy)[0], 1
    itemsize = as_float_kernel(bandit).dtype.itemsize
    check_memory(num_agents, num_states, partial(_rows_bytes, itemsize, roundings), memory)
    points, weights = tagged_rows(bandit, policy, mu)
    half = sign_vectors(num_states)  # [2^(S - 1), S]
    signs = np.stack([-half, half], axis=-1).reshape(len(half), -1)
    total = points[:, 0].reshape(len(points), -1, 2).sum(-1)  # [X, S], P_a(s, s')
    return TaggedEntanglement(
        weighted_centers(points, weights, tol=tol),
        sign_entanglement(
            points, weights, signs=signs, mend=Partial(_shift, total), tol=tol, max_steps=max_steps
        ),
    )


def tagged_rows(bandit: RestlessBandit, policy: IndexPolicy, mu: Array | np.ndarray) -> TaggedRows:
    """The rows of the tagged agent's view; arguments as of `tagged_entanglement`."""
    num_agents, budget = check_counted(bandit)
    check_shape("mu", mu, (num_configurations(num_agents, bandit.num_states),))
    check_stochastic("mu", mu)
    law = jnp.asarray(mu, as_float_kernel(bandit).dtype)
    if isinstance(policy, SoftIndex):
        return _soft_rows(as_float_kernel(bandit), law, policy, num_agents, budget)
    _, _, order = check_exchangeable(bandit, policy)
    local, rounded = by_rank(bandit, num_agents, budget, order)
    ahead = walk_ahead(local, rounded, num_agents, budget)
    law = law[np.argsort(place_by_rank(num_agents, order))]
    ahead = jnp.moveaxis(ahead, 1, -1)[None, :, :, None]  # [1, 2, C, 1, S']
    return _rows(local, law, ahead, rounded, np.argsort(order), num_agents)


def by_rank(
    bandit: RestlessBandit, num_agents: int, budget: int, order: tuple[int, ...]
) -> tuple[Array, Rounded]:
    """Local kernel and what the agents do, states being named by their place in the priority.

    What depends on the budget is an array, so that one compilation for each N and S serves every
    priority.
    """
    local = _reordered(as_float_kernel(bandit), np.array(order))
    return local, rounded_priority(num_agents, budget, tuple(range(len(order))), local.dtype)


@jit
def _reordered(local: Array, served: Array) -> Array:
    return local[served][:, :, served]


def walk_ahead(local: Array, rounded: Rounded, num_agents: int, budget: int) -> Array:
    """E[π_1(s', c') | a, c] by the walk, `[2, S', C]`."""
    left = jnp.array(budgets_left(num_agents, budget))
    return next_chances(local, left, tagged(rounded, num_agents).chances, num_agents=num_agents - 1)


@jit(static_argnums=(3, 4))
def _soft_rows(local, law, policy: SoftIndex, num_agents: int, budget: int) -> TaggedRows:
    rounded, team, _ = soft_team(local, policy, num_agents, budget)
    ahead = team.ahead(tagged(rounded, num_agents).chances)  # [S, 2, C, J, S']
    return _rows(local, law, ahead, rounded, np.arange(len(local)), num_agents)


@jit(static_argnums=5)
def _rows(local, law, ahead, rounded: Rounded, rank, num_agents: int) -> TaggedRows:
    moves = local[:, :, None, None]  # [S, 2, 1, 1, S']
    served = moves * ahead
    # Where everyone is served, rounding alone would leave a chance below 0 to be idle.
    points = jnp.stack([jnp.maximum(moves - served, 0), served], axis=-1)
    points = points[rank][..., rank, :]  # [S, 2, C, J, S', 2]
    pairs = law[:, None] * rounded.weights
    size = 2 * len(local)
    weights = tagged_law(pairs, rounded, num_agents)[rank].reshape(size, -1)
    return TaggedRows(points.reshape(*weights.shape, size), weights)


@jit(static_argnames="num_agents")
def next_chances(local: Array, budgets: Array, chance: Array, *, num_agents: int) -> Array:
    """E[f(s', c')] of functions `[S, C]` of the others' next counts, either budget: `[2, S, C]`.

    States are named by their place in the priority, so that one compilation serves every priority.
    """
    ranks = tuple(range(len(local)))

    def expect(budget: Array) -> Array:
        others = next_counts(local, num_agents=num_agents, budget=budget, priority=ranks)
        return others.mv(chance)

    # One after the other, so that only one walk's tables are held at a time.
    return lax.map(expect, budgets)


def place_by_rank(num_agents: int, order: tuple[int, ...]) -> np.ndarray:
    """Where each configuration stands once states are named by their place in the priority."""
    return configuration_index(configurations(num_agents, len(order))[:, order])


def walk_bytes(itemsize: int, num_agents: int, num_states: int) -> int:
    """What a solve on configurations holds, about."""
    vectors = VECTORS * num_configurations(num_agents, num_states)
    return (vectors + walk_size(num_agents, num_states, num_states)) * itemsize


def _rows_bytes(itemsize: int, roundings: int, num_agents: int, num_states: int) -> int:
    """What `tagged_entanglement` holds, about: the walk, then the program of Def. 8."""
    rows = 2 * num_states * num_configurations(num_agents - 1, num_states) * roundings
    program = _PROGRAM * (2 ** (num_states - 1) + 2 * num_states) * rows * itemsize
    return max(program, walk_bytes(itemsize, num_agents, num_states))


def _shift(total: Array, q: Array) -> Array:
    """Laws q `[X, 2 S]` with what q(s', 1) - q(s', 0) is, and q(s', .) adding up to `total`."""
    parts = q.reshape(*total.shape, 2)
    half = (parts[..., 1] - parts[..., 0]) / 2
    return project_simplex(jnp.stack([total / 2 - half, total / 2 + half], -1).reshape(q.shape))
