r"""What a tagged agent sees of the others, and how entangled it is by Eq. (7) and Def. 8.

From the tagged agent's pair (s, a) and the configuration c of the others, the law of its next pair
is

    p(s', 1) = P_a(s, s') g_a(s', c),  p(s', 0) = P_a(s, s') (1 - g_a(s', c)),

with g_a(s', c) = (T_{N-1,M-a} π_1(s', .))(c) its chance to be active once it is in s'. These rows,
weighted by the law of (s, a, c), are all that the agent-wise measures compare. Eq. (7) is exact by
sorting. The sup of Def. 8 is over 2^(2S - 1) sign vectors; few of them matter: with p - q replaced
by ±(d(s', 1) - d(s', 0)) / 2 in each s', with d = p - q, it stays the difference of p and some q,
and the sup only falls. So the 2^(S-1) vectors (-y, y) suffice for `lower`, and for `upper` their
minimizer so shifted, as long as it is a law.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_shape, check_stochastic
from ..measures.distances import sign_vectors
from ..measures.row_measures import Entanglement, sign_entanglement, weighted_centers
from ..models.restless_bandit import RestlessBandit
from ..numerics.simplex import project_simplex
from .exchangeable import (
    VECTORS,
    budgets_left,
    check_exchangeable,
    check_memory,
    tagged_counts,
)
from .next_counts import (
    configuration_index,
    configurations,
    next_counts,
    num_configurations,
    walk_size,
)

Array = jax.Array

# Arrays `[signs, X, C]` that the interior-point method holds at once, about.
_PROGRAM = 40


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
        points: law of the next pair by pair and configuration of the others, `[2 S, C, 2 S]`.
        weights: law of (pair, configuration of the others), `[2 S, C]`.
    """

    points: Array
    weights: Array


def tagged_entanglement(
    bandit: RestlessBandit,
    priority: Sequence[int] | Array,
    law: Array,
    *,
    tol: float = 1e-6,
    max_steps: int = 60,
    memory: int | None = None,
) -> TaggedEntanglement:
    """Eq. (7) and Def. 8 of one of N exchangeable agents under a priority rule.

    Equal to `entanglement_mu_atv_upper` and `entanglement_mu_atv` on `exchangeable_chain`, at the
    cost of one walk and without its kernel.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        priority: permutation of the states, first served first. Static.
        law: stationary law of the configurations, `ground_truth(...).law`, `[M]`.
        tol: gap to certify for Def. 8; `converged` says whether it was.
        max_steps: at most so many interior-point steps. Static.
        memory: bytes it may take; by default what the device has. Static.

    Raises:
        ValueError: for a bad bandit, priority or law, and before anything is allocated if it does
            not fit: the message has the count, the bytes and the largest N that fits.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eq. (7) and Def. 8.
    """
    num_agents, _, order = check_exchangeable(bandit, priority)
    itemsize = jnp.promote_types(bandit.kernel.dtype, jnp.float32).itemsize
    check_memory(num_agents, len(order), partial(_rows_bytes, itemsize), memory)
    points, weights = tagged_rows(bandit, order, law)
    half = sign_vectors(len(order))  # [2^(S - 1), S]
    signs = np.stack([-half, half], axis=-1).reshape(len(half), -1)
    total = points[:, 0].reshape(len(points), -1, 2).sum(-1)  # [X, S], P_a(s, s')
    return TaggedEntanglement(
        weighted_centers(points, weights, tol),
        sign_entanglement(
            points, weights, signs=signs, mend=partial(_shift, total), tol=tol, max_steps=max_steps
        ),
    )


def tagged_rows(bandit: RestlessBandit, priority: Sequence[int] | Array, law: Array) -> TaggedRows:
    """The rows of the tagged agent's view; arguments as of `tagged_entanglement`."""
    num_agents, budget, order = check_exchangeable(bandit, priority)
    check_shape("law", law, (num_configurations(num_agents, len(order)),))
    check_stochastic("law", law)
    local = bandit.kernel.astype(jnp.promote_types(bandit.kernel.dtype, jnp.float32))
    # States are renamed by their place in the priority, as in `ground_truth`.
    served, ranks = np.array(order), tuple(range(len(order)))
    local = local[served][:, :, served]
    place = place_by_rank(num_agents, order)
    law = jnp.asarray(law, local.dtype)[np.argsort(place)]
    where, own, active = tagged_counts(num_agents, budget, ranks)
    own, active = (jnp.asarray(x, local.dtype) for x in (own, active))
    left = jnp.array(budgets_left(num_agents, budget))
    ahead = next_chances(local, left, active / own, num_agents=num_agents - 1)
    rank = np.argsort(order)
    return _rows(local, law, ahead, num_agents, (where, own, active), rank)


@jax.jit
def _rows(local, law, ahead, num_agents, tagged, rank) -> TaggedRows:
    served = jnp.einsum("sat,atc->satc", local, ahead, precision=lax.Precision.HIGHEST)
    # Where everyone is served, rounding alone would leave a chance below 0 to be idle.
    idle = jnp.maximum(local[:, :, :, None] - served, 0)
    points = jnp.stack([idle, served], axis=-1)[rank][:, :, rank]  # [S, 2, S', C, 2]
    points = jnp.moveaxis(points, 3, 2)  # [S, 2, C, S', 2]
    size = 2 * len(local)
    weights = tagged_law(law, num_agents, tagged)[rank]
    return TaggedRows(points.reshape(size, -1, size), weights.reshape(size, -1))


@partial(jax.jit, static_argnames="num_agents")
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


def tagged_law(law: Array, num_agents: Any, tagged: tuple[Array, Array, Array]) -> Array:
    """Law of (tagged pair, configuration of the others), `[S, 2, C]`, of `tagged_counts`."""
    where, own, active = tagged
    weight = law[where] / num_agents  # [S, C]
    return jnp.stack([weight * (own - active), weight * active], axis=1)


def place_by_rank(num_agents: int, order: tuple[int, ...]) -> np.ndarray:
    """Where each configuration stands once states are named by their place in the priority."""
    return configuration_index(configurations(num_agents, len(order))[:, order])


def walk_bytes(itemsize: int, num_agents: int, num_states: int) -> int:
    """What a solve on configurations holds, about."""
    vectors = VECTORS * num_configurations(num_agents, num_states)
    return (vectors + walk_size(num_agents, num_states, num_states)) * itemsize


def _rows_bytes(itemsize: int, num_agents: int, num_states: int) -> int:
    """What `tagged_entanglement` holds, about: the walk, then the program of Def. 8."""
    rows = 2 * num_states * num_configurations(num_agents - 1, num_states)
    program = _PROGRAM * (2 ** (num_states - 1) + 2 * num_states) * rows * itemsize
    return max(program, walk_bytes(itemsize, num_agents, num_states))


def _shift(total: Array, q: Array) -> Array:
    """Laws q `[X, 2 S]` with what q(s', 1) - q(s', 0) is, and q(s', .) adding up to `total`."""
    parts = q.reshape(*total.shape, 2)
    half = (parts[..., 1] - parts[..., 0]) / 2
    return project_simplex(jnp.stack([total / 2 - half, total / 2 + half], -1).reshape(q.shape))
