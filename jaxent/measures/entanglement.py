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
good whatever the iteration did, and rounded outward. In single precision, where no argument is
traced, they are found in float64 on the host; under `jit`, `vmap` or a gradient in float32 (1e-5).
`value` is `upper` before that rounding, and differentiable in the chain (and through it in a
policy) and in mu by Danskin: its derivative is that of the Lagrangian at the saddle point. Where
the saddle point is not unique that is a subgradient. It is as accurate as the saddle point, so a
gradient may want a smaller `tol` than a value.

A joint pair that the chain never visits has no say in a maximum (the paper's footnote 1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_positive_int, check_shape, check_stochastic, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import solve_law
from ..chains.views import ProductForm, product_form, rows_by_view
from ..models.contracts import Agents, ArrayLike, Scalar, TableModel
from ..numerics.arrays import takes_arrays
from ..numerics.compiled import jit
from ..numerics.interior_point import Solution
from .double import in_double
from .programs.tv_nearest_separable import nearest_separable
from .row_measures import (
    MAX_STEPS,
    TOL,
    Entanglement,
    certified,
    check_tolerance,
    left_of,
    minimax_entanglement,
    policy_rows,
    sign_entanglement,
    weighted_centers,
)

Array = jax.Array


@reads("the nearest separable chain, of {0.matrix.shape[0]} joint pairs")
class SeparableChain(NamedTuple):
    """The nearest separable chain, `[J, J]`, and its local transitions (or its signed product)."""

    local: Any
    matrix: Array


def entanglement_tv(
    chain: PairChain, *, mu: ArrayLike | None = None, tol: Scalar = TOL, max_steps: int = MAX_STEPS
) -> Entanglement:
    r"""Distance to the separable chains in total variation, E(P) of Eq. (4) with Def. 4.

    Args:
        chain: two agents whose pairs make up the joint pair; for more there is
            `entanglement_tv_signed`.
        mu: the stationary law, `[J]`, where it is known already: it says which pairs are visited.
        tol: gap to certify. `converged` says whether it was.
        max_steps: interior-point steps at most.

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
    sizes, order = _two_agents(chain)
    joint, rows = _by_pairs(chain, order, visited(chain, mu), sizes=sizes)
    return _tv(joint, rows, tol=tol, max_steps=max_steps)


@jit(static_argnames="sizes")
def _by_pairs(chain: PairChain, order: Array | None, law: Array, *, sizes) -> tuple[Array, Array]:
    """The chain `[A, B, K, L]` and a function of joint pairs `[A, B]` by the two agents' pairs.

    Apart from the measure, which is then compiled for these shapes and not for a kind of chain.
    """
    form = ProductForm(sizes, order)
    return form.matrix(chain).reshape(*sizes, *sizes), form.pairs(law).reshape(sizes)


@in_double
@jit
def _tv(joint, rows, *, tol, max_steps) -> Entanglement:
    found = _nearest(joint, rows, True, tol, max_steps)
    return _two_agent_result(found, tol, (joint, _carried(found)))


def entanglement_mu_tv(
    chain: PairChain, mu: ArrayLike, *, tol: Scalar = TOL, max_steps: int = MAX_STEPS
) -> Entanglement:
    r"""Distance to the separable chains in mu-weighted total variation (Eq. 4 with Def. 7).

    Args:
        chain: two agents whose pairs make up the joint pair.
        mu: law of the joint pair, `[J]`.
        tol: gap to certify.
        max_steps: interior-point steps at most.

    Raises:
        ValueError: as `entanglement_tv`, and if mu is not a law on the joint pairs.
    """
    _check(chain, tol, max_steps, mu)
    sizes, order = _two_agents(chain)
    joint, mu = _by_pairs(chain, order, jnp.asarray(mu).astype(chain.dtype), sizes=sizes)
    return _mu_tv(joint, mu, tol=tol, max_steps=max_steps)


@in_double
@jit
def _mu_tv(joint, mu, *, tol, max_steps) -> Entanglement:
    found = _nearest(joint, mu, False, tol, max_steps)
    lost = 1 - found.bracket.primal.kept.sum((2, 3))
    return _two_agent_result(found, tol, (joint, _carried(found)), (mu, lost))


def entanglement_atv(
    chain: PairChain,
    *,
    agent: Agents,
    mu: ArrayLike | None = None,
    tol: Scalar = TOL,
    max_steps: int = MAX_STEPS,
) -> Entanglement:
    r"""Agent-wise entanglement E_i of Eq. (5) (and Eq. 13): min over P_i of the largest TV.

    Rows of the minimizer are as good as the maximum asks: the worst one is optimal, the others are
    no worse than it.

    Args:
        chain: any chain with views.
        agent: whose view, or a block of agents as one view. Static.
        mu: the stationary law, `[J]`, where it is known already: it says which pairs are visited.
        tol: gap to certify.
        max_steps: interior-point steps at most.

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
    points, present = rows_by_view(chain, visited(chain, mu), agent=agent)
    return minimax_entanglement(points, present, tol=tol, max_steps=max_steps)


def entanglement_mu_atv_upper(
    chain: PairChain, mu: ArrayLike, *, agent: Agents, tol: Scalar = TOL
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
    points, weights = rows_by_view(chain, jnp.asarray(mu).astype(chain.dtype), agent=agent)
    return weighted_centers(points, weights, tol=tol)


@takes_arrays("policy", "mu")
def policy_entanglement(
    mdp: TableModel, policy: ArrayLike, mu: Array, *, agent: int, tol: Scalar = TOL
) -> Entanglement:
    r"""The bound of Prop. 1: min over pi' of 1/2 sum_s mu(s) sum_a |pi(a|s) - pi'(a|s_i)|, exactly.

    With a signal it is that of Prop. 3, s including z and the local policy reading (s_i, z).

    Args:
        mdp: agents with kernels of their own, with or without a signal.
        policy: joint table `[S_0.., A_0..]` or `[S_0.., Z, A_0..]`.
        mu: law of the joint pair, `[J]`.
        agent: which agent. Static.
        tol: gap to certify; the answer is exact, so only rounding could miss it.

    Raises:
        ValueError: if there is no such agent, agents have no kernels of their own, mu is not a law
            on joint pairs, or tol <= 0.

    Examples:
        Nobody's action depends on another's state:

        >>> import jaxent
        >>> mdp, policy = jaxent.example_1()
        >>> chain = jaxent.pair_chain(mdp, policy)
        >>> mu = jaxent.stationary_distribution(chain)
        >>> print(f"{jaxent.policy_entanglement(mdp, policy, mu, agent=0).value:.3f}")
        0.000
    """
    check_tolerance(tol)
    own, law, view = policy_rows(mdp, policy, mu, agent)
    points = view.rows(own)  # [X, C, A_i]
    found = weighted_centers(points, view.mass(law), tol=tol)
    return found._replace(minimizer=found.minimizer.reshape(*view.shape, -1))


def entanglement_mu_atv(
    chain: PairChain,
    mu: ArrayLike,
    *,
    agent: Agents,
    tol: Scalar = TOL,
    max_steps: int = MAX_STEPS,
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
        max_steps: interior-point steps at most.

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
    points, weights = rows_by_view(chain, jnp.asarray(mu).astype(chain.dtype), agent=agent)
    return sign_entanglement(points, weights, tol=tol, max_steps=max_steps)


def visited(chain: PairChain, mu: ArrayLike | None = None) -> Array:
    """Which joint pairs the chain visits, bool `[J]`; all where the law is not unique.

    It solves for the law where that is not given.
    """
    if mu is None:
        return _positive(solve_law(jax.lax.stop_gradient(chain)).value)
    check_shape("mu", mu, (chain.num_pairs,))
    return _positive(jnp.asarray(mu))


@jit
def _positive(law: Array) -> Array:
    law = jax.lax.stop_gradient(law)
    return jnp.isnan(law) | (law > 0)


def _nearest(
    joint: Array, rows: Array, minimax: bool, tol: Scalar, max_steps: int | Array
) -> Solution:
    joint, rows = jax.lax.stop_gradient((joint, rows))
    gap = left_of(tol, joint.dtype, joint.size)
    return nearest_separable(joint, rows, minimax=minimax, tol=gap, max_steps=max_steps)


def _carried(found: Solution) -> Array:
    """Derivative of the two-agent measures in the chain."""
    weight, alpha, beta = found.bracket.dual
    return -jnp.maximum(weight[..., None, None] - alpha[..., None] - beta[..., None, :], 0)


def _two_agent_result(found: Solution, tol: Scalar, *slopes: tuple[Array, Array]) -> Entanglement:
    bracket, steps, _ = found
    primal = bracket.primal
    nearest = SeparableChain(primal.local, primal.chain())
    terms = primal.kept.size
    return certified(bracket.upper, bracket.lower, nearest, steps, tol, terms, *slopes)


def _two_agents(chain: PairChain) -> ProductForm:
    """The joint pair as two agents' pairs, or an error where it is not."""
    form = product_form(chain)
    if form is None or len(form.sizes) != 2:
        raise ValueError(
            f"chain: wanted two agents whose pairs make up the joint pair, got views of "
            f"{chain.view_sizes} local pairs over {chain.num_pairs} joint ones; see "
            "entanglement_tv_signed and the agent-wise measures"
        )
    return form


def _check(chain: PairChain, tol: Scalar, max_steps: Any, mu: Any = None) -> None:
    check_chain(chain)
    check_tolerance(tol)
    check_positive_int("max_steps", max_steps)
    if concrete(chain) and not bool(chain.stochastic()):
        raise ValueError("chain: a row of its kernel or of its policy is no probability vector")
    if mu is not None:
        check_shape("mu", mu, (chain.num_pairs,))
        check_stochastic("mu", mu)
