r"""How entangled agents are: the distance to the nearest separable chain, certified (Eqs. 4 to 8).

| function | distance | minimized over |
|---|---|---|
| `entanglement_tv` | TV (Def. 4) | separable two-agent chains |
| `entanglement_mu_tv` | mu-TV (Def. 7) | separable two-agent chains |
| `entanglement_atv` | ATV (Eq. 5) | local transitions of one view |
| `entanglement_mu_atv` | mu-ATV (Def. 8) | local transitions of one view |
| `entanglement_mu_atv_upper` | the right-hand side of Eq. 7 | local transitions of one view |
| `policy_entanglement` | the right-hand side of Props. 1 and 3 | local policies of one agent |

Every minimum comes with a point that attains `upper` and a dual point that proves `lower`, both
good up to rounding whatever the iteration did. `value` is `upper`, and differentiable in the chain
(and through it in a policy) and in mu by Danskin: its derivative is that of the Lagrangian at the
saddle point. Where the saddle point is not unique that is a subgradient. It is as accurate as the
saddle point, so a gradient may want a smaller `tol` than a value.

A joint pair that the chain never visits has no say in a maximum (the paper's footnote 1).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive_int, check_shape, check_stochastic, concrete
from ..chains.pair_chain import PairChain
from ..chains.stationary import solve_law
from ..chains.views import view_transition
from ..models.mdp import ExogenousMDP, WeaklyCoupledMDP
from ..models.policies import check_policy
from ..numerics.arrays import as_float
from ..numerics.interior_point import Solution
from ..numerics.simplex import total_variation, tv_center
from .distances import MAX_ENUMERATED, by_view, mu_inf_norm, sign_vectors
from .programs.minimax_tv_center import minimax_center
from .programs.mu_atv_center import sign_center
from .programs.tv_nearest_separable import nearest_separable

Array = jax.Array

# Up to so many numbers |(p_j - q) x| the program of Def. 8 lists every sign vector.
_LISTED = 2**19
_SIGNS = 64


class Entanglement(NamedTuple):
    """A minimum, bracketed: lower <= minimum <= upper up to rounding.

    Attributes:
        value: `upper`, with a gradient.
        lower: what the dual solution proves.
        upper: what `minimizer` attains.
        minimizer: the nearest local transition `[X_i, X_i]` (for Prop. 1 the local policy
            `[S_i, A_i]`, for Prop. 3 `[S_i, Z, A_i]`), or for the two-agent measures a
            `SeparableChain`; for Eq. (14) the local rewards, `[X_i]` each.
        num_steps: interior-point steps; 0 where the answer is exact.
        converged: whether upper - lower <= tol.
    """

    value: Array
    lower: Array
    upper: Array
    minimizer: Any
    num_steps: Array
    converged: Array


class SeparableChain(NamedTuple):
    """The nearest separable chain, `[J, J]`, and its local transitions (or its signed product)."""

    local: Any
    matrix: Array


def entanglement_tv(chain: PairChain, *, tol: float = 1e-6, max_steps: int = 60) -> Entanglement:
    r"""Distance to the separable chains in total variation, E(P) of Eq. (4) with Def. 4.

    Args:
        chain: two agents, each its own factor; for more there is `entanglement_tv_signed`.
        tol: gap to certify. `converged` says whether it was.
        max_steps: at most so many interior-point steps. Static.

    Raises:
        ValueError: if there are not two agents, tol <= 0, or the chain is not stochastic.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> found = jaxent.entanglement_tv(chain, tol=1e-3)
        >>> print(f"{found.lower:.3f} to {found.upper:.3f}")
        0.500 to 0.500
    """
    _check(chain, tol, max_steps)
    joint = _two_agents(chain)
    rows = visited(chain).reshape(joint.shape[:2])
    found = _nearest(joint, rows, True, tol, max_steps)
    return _two_agent_result(found, (joint, _carried(found)))


def entanglement_mu_tv(
    chain: PairChain, mu: Array, *, tol: float = 1e-6, max_steps: int = 60
) -> Entanglement:
    r"""Distance to the separable chains in mu-weighted total variation (Eq. 4 with Def. 7).

    Args:
        chain: two agents, each its own factor.
        mu: law of the joint pair, `[J]`.
        tol: gap to certify.
        max_steps: at most so many interior-point steps. Static.

    Raises:
        ValueError: as `entanglement_tv`, and if mu is not a law on the joint pairs.
    """
    _check(chain, tol, max_steps, mu)
    joint = _two_agents(chain)
    mu = jnp.asarray(mu).astype(joint.dtype).reshape(joint.shape[:2])
    found = _nearest(joint, mu, False, tol, max_steps)
    lost = 1 - found.bracket.primal.kept.sum((2, 3))
    return _two_agent_result(found, (joint, _carried(found)), (mu, lost))


def entanglement_atv(
    chain: PairChain, *, agent: int | Sequence[int], tol: float = 1e-6, max_steps: int = 60
) -> Entanglement:
    r"""Agent-wise entanglement E_i of Eq. (5) (and Eq. 13): min over P_i of the largest TV.

    Rows of the minimizer are as good as the maximum asks: the worst one is optimal, the others are
    no worse than it.

    Args:
        chain: any chain with views.
        agent: whose view, or a block of agents as one view. Static.
        tol: gap to certify.
        max_steps: at most so many interior-point steps. Static.

    Raises:
        ValueError: if there is no such view, tol <= 0, or the chain is not stochastic.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> for agent in range(2):
        ...     print(f"{jaxent.entanglement_atv(chain, agent=agent, tol=1e-3).value:.3f}")
        0.000
        0.500
    """
    _check(chain, tol, max_steps)
    points = by_view(chain, view_transition(chain, agent=agent), agent=agent)  # [X, C, X]
    rows = by_view(chain, visited(chain), agent=agent)  # [X, C]
    fixed = jax.lax.stop_gradient(points)
    # Only the worst local pair matters: those seen to be better are left unfinished.
    solve = partial(minimax_center, tol=tol, max_steps=max_steps, rivals="pairs")
    bracket, steps, _ = jax.vmap(solve, axis_name="pairs")(fixed, rows)
    upper, lower = bracket.upper.max(), bracket.lower.max()
    weight, alpha = bracket.dual
    worst = jnp.arange(len(fixed)) == bracket.upper.argmax()
    carried = -jnp.maximum(weight[..., None] - alpha, 0) * worst[:, None, None]
    return certified(upper, lower, bracket.primal, steps.max(), tol, (points, carried))


def entanglement_mu_atv_upper(
    chain: PairChain, mu: Array, *, agent: int | Sequence[int], tol: float = 1e-6
) -> Entanglement:
    r"""The right-hand side of Eq. (7), min over P_i of the mu-weighted mean TV, exactly.

    Args:
        chain: any chain with views.
        mu: law of the joint pair, `[J]`.
        agent: whose view, or a block of agents as one view. Static.
        tol: gap to certify; the answer is exact, so only rounding could miss it.

    Raises:
        ValueError: if there is no such view, mu is not a law, or tol <= 0.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> for agent in range(2):
        ...     print(f"{jaxent.entanglement_mu_atv_upper(chain, mu, agent=agent).value:.3f}")
        0.000
        0.500
    """
    _check(chain, tol, 1, mu)
    points = by_view(chain, view_transition(chain, agent=agent), agent=agent)  # [X, C, X]
    weights = by_view(chain, jnp.asarray(mu).astype(points.dtype), agent=agent)  # [X, C]
    return weighted_centers(points, weights, tol)


def policy_entanglement(
    mdp: WeaklyCoupledMDP | ExogenousMDP,
    policy: Array,
    mu: Array,
    *,
    agent: int,
    tol: float = 1e-6,
) -> Entanglement:
    r"""The bound of Prop. 1: min over pi' of 1/2 sum_s mu(s) sum_a |pi(a|s) - pi'(a|s_i)|, exactly.

    With a signal it is that of Prop. 3, s including z and the local policy reading (s_i, z).

    Args:
        mdp: weakly coupled agents, with or without a signal.
        policy: joint table `[S_0.., A_0..]` or `[S_0.., Z, A_0..]`.
        mu: law of the joint pair, `[J]`.
        agent: which agent. Static.
        tol: gap to certify; the answer is exact, so only rounding could miss it.

    Raises:
        ValueError: if there is no such agent, the agents' kernel is a joint one, mu is not a law on
            joint pairs, or tol <= 0.

    Examples:
        Nobody's action depends on another's state:

        >>> import jaxent
        >>> mdp, policy = jaxent.example_1()
        >>> chain = jaxent.pair_chain(mdp, policy)
        >>> mu = jaxent.stationary_distribution(chain)
        >>> print(f"{jaxent.policy_entanglement(mdp, policy, mu, agent=0).value:.3f}")
        0.000
    """
    check_policy(mdp, policy)
    policy = as_float(policy)
    n = len(mdp.num_actions)
    if not 0 <= agent < n:
        raise ValueError(f"agent: {agent} is not one of the agents 0..{n - 1}")
    if isinstance(mdp, ExogenousMDP) and not isinstance(mdp.transition, tuple):
        raise ValueError("mdp: Prop. 3 wants a kernel for each agent, and this one is joint")
    check_tolerance(tol)
    states = policy.shape[:-n]  # of the agents, then of the signal if there is one
    seen = (agent, *range(n, len(states)))
    sizes = [k for i in range(n) for k in (states[i], policy.shape[i - n])]
    sizes += states[n:]
    check_shape("mu", mu, (int(np.prod(sizes)),))
    check_stochastic("mu", mu)
    law = jnp.asarray(mu).astype(policy.dtype).reshape(sizes).sum(tuple(range(1, 2 * n, 2)))
    others = tuple(k for k in range(-n, 0) if k != agent - n)
    marginal = policy.sum(others)  # [S_0.., A_i]
    local = [states[k] for k in seen]
    rows, front = int(np.prod(local)), range(len(seen))
    points = jnp.moveaxis(marginal, seen, front).reshape(rows, -1, marginal.shape[-1])
    weights = jnp.moveaxis(law, seen, front).reshape(rows, -1)
    found = weighted_centers(points, weights, tol)
    return found._replace(minimizer=found.minimizer.reshape(*local, -1))


def entanglement_mu_atv(
    chain: PairChain,
    mu: Array,
    *,
    agent: int | Sequence[int],
    tol: float = 1e-6,
    max_steps: int = 60,
) -> Entanglement:
    r"""Agent-wise entanglement in the mu-weighted ATV distance of Def. 8, the true one.

    A linear program over all sign vectors while these are few. Beyond that `lower` rests on a part
    of them, `upper` on the minimizer for these or that of Eq. (7), whichever is better, and
    `converged` is true only if they meet.

    Args:
        chain: any chain with views.
        mu: law of the joint pair, `[J]`.
        agent: whose view, or a block of agents as one view. Static.
        tol: gap to certify.
        max_steps: at most so many interior-point steps. Static.

    Raises:
        ValueError: if there is no such view, mu is not a law, or tol <= 0.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> found = jaxent.entanglement_mu_atv(chain, mu, agent=1, tol=1e-3)
        >>> print(f"{found.lower:.3f} to {found.upper:.3f}")
        0.500 to 0.500
    """
    _check(chain, tol, max_steps, mu)
    points = by_view(chain, view_transition(chain, agent=agent), agent=agent)  # [X, C, m]
    weights = by_view(chain, jnp.asarray(mu).astype(points.dtype), agent=agent)  # [X, C]
    return sign_entanglement(points, weights, tol=tol, max_steps=max_steps)


def sign_entanglement(
    points: Array,
    weights: Array,
    *,
    signs: np.ndarray | None = None,
    mend: Callable[[Array], Array] = lambda q: q,
    tol: Any,
    max_steps: int,
) -> Entanglement:
    """Def. 8 from the rows of a view, on all sign vectors where they are few.

    Args:
        points: P(x' | joint pair) by local pair and the rest, `[X, C, m]`.
        weights: law of the joint pair, `[X, C]`.
        signs: where not all sign vectors are listed, those that `lower` rests on, `[R, m]`; by
            default the likely ones.
        mend: takes the minimizer for these to one for all, `[X, m]` to `[X, m]`.
        tol: gap to certify.
        max_steps: at most so many interior-point steps. Static.
    """
    p, w = jax.lax.stop_gradient((points, weights))
    m = points.shape[-1]
    whole = m <= MAX_ENUMERATED and 2 ** (m - 1) * w.size <= _LISTED
    if whole:
        # The first vector, all +1, sees no difference between laws.
        listed = jnp.asarray(sign_vectors(m)[1:] if m > 1 else sign_vectors(m), p.dtype)
    else:
        coarse = jax.vmap(tv_center)(p, w)
        listed = _likely_signs(p - coarse.point[:, None], w) if signs is None else signs
        listed = jnp.asarray(listed, p.dtype)
    bracket, steps, _ = sign_center(p, w, listed, tol=tol, max_steps=max_steps)
    upper, q = bracket.upper, bracket.primal
    if not whole:
        q = mend(q)
        apart = (p - q[:, None]).reshape(-1, m)
        upper = mu_inf_norm(apart, w.reshape(-1)).upper / 2
        better = upper <= coarse.upper.sum()
        q = jnp.where(better, q, coarse.point)
        upper = jnp.minimum(upper, coarse.upper.sum())
    force = bracket.dual.force
    return certified(
        upper,
        bracket.lower,
        q,
        steps,
        tol,
        (points, w[..., None] / 2 * force),
        (weights, ((p - q[:, None]) * force).sum(-1) / 2),
    )


def _likely_signs(apart: Array, weights: Array) -> Array:
    """Signs of the largest differences, and the best that a search finds, `[R, m]`."""
    apart, weights = apart.reshape(-1, apart.shape[-1]), weights.reshape(-1)
    rows = jnp.argsort(weights * jnp.abs(apart).sum(1))[-_SIGNS:]
    return jnp.concatenate(
        [jnp.where(apart[rows] >= 0, 1, -1), mu_inf_norm(apart, weights).signs[None]]
    )


def visited(chain: PairChain) -> Array:
    """Which joint pairs the chain visits, bool `[J]`; all where the law is not unique."""
    law = jax.lax.stop_gradient(solve_law(jax.lax.stop_gradient(chain)).value)
    return jnp.isnan(law) | (law > 0)


def weighted_centers(points: Array, weights: Array, tol: Any) -> Entanglement:
    """Eq. (7) from the rows of a view `[X, C, m]` and their law `[X, C]`: a center a local pair."""
    centers = jax.vmap(tv_center)(*jax.lax.stop_gradient((points, weights)))
    apart = total_variation(jax.lax.stop_gradient(points), centers.point[:, None])
    moved = centers.weights[..., None] * centers.slopes
    upper, lower = centers.upper.sum(), centers.lower.sum()
    return certified(upper, lower, centers.point, 0, tol, (points, moved), (weights, apart))


def _nearest(joint: Array, rows: Array, minimax: bool, tol: Any, max_steps: int) -> Solution:
    joint, rows = jax.lax.stop_gradient((joint, rows))
    return nearest_separable(joint, rows, minimax=minimax, tol=tol, max_steps=max_steps)


def _carried(found: Solution) -> Array:
    """Derivative of the two-agent measures in the chain."""
    weight, alpha, beta = found.bracket.dual
    return -jnp.maximum(weight[..., None, None] - alpha[..., None] - beta[..., None, :], 0)


def _two_agent_result(found: Solution, *slopes: tuple[Array, Array]) -> Entanglement:
    bracket, steps, converged = found
    primal = bracket.primal
    result = certified(bracket.upper, bracket.lower, None, steps, jnp.inf, *slopes)
    nearest = SeparableChain(primal.local, primal.chain())
    return result._replace(minimizer=nearest, converged=converged)


def certified(
    upper: Array, lower: Array, minimizer: Any, steps: Any, tol: Any, *slopes: tuple[Array, Array]
) -> Entanglement:
    """The result, its value moving with each argument as the slope beside it says."""
    value = upper
    for argument, slope in slopes:
        move = argument - jax.lax.stop_gradient(argument)  # 0, with derivative 1
        value = value + jnp.sum(jax.lax.stop_gradient(slope) * move)
    converged = jnp.abs(upper - lower) <= tol
    return Entanglement(value, lower, upper, minimizer, jnp.asarray(steps), converged)


def _two_agents(chain: PairChain) -> Array:
    """The chain by pairs of pairs, `[A, B, K, L]`."""
    if chain.views != ((0,), (1,)) or len(chain.sizes) != 2:
        raise ValueError(
            f"chain: wanted two agents with a factor each, got views {chain.views} of factors of "
            f"sizes {chain.sizes}; see entanglement_tv_signed and the agent-wise measures"
        )
    return chain.matrix().reshape(*chain.sizes, *chain.sizes)


def _check(chain: PairChain, tol: Any, max_steps: Any, mu: Any = None) -> None:
    check_tolerance(tol)
    check_positive_int("max_steps", max_steps)
    if concrete(chain) and not bool(chain.stochastic()):
        raise ValueError("chain: a row of its kernel or of its policy is no probability vector")
    if mu is not None:
        check_shape("mu", mu, (chain.num_pairs,))
        check_stochastic("mu", mu)


def check_tolerance(tol: Any) -> None:
    """Raise unless tol > 0."""
    if concrete(tol) and not float(tol) > 0:
        raise ValueError(f"tol: {float(tol):.9g} is not positive")
