r"""Value decomposition as practiced: local functions fitted together on the global Bellman error.

Meta Algorithm 1 lets each agent solve its own equation (Eq. 2) and sums. Deep multi-agent learning
fits one joint function of the local ones on the error of the team,

| function | Q_tot(s, a) | after |
|---|---|---|
| `fit_additive` | Σ_i Q_i(x_i) | VDN (Sunehag et al. 2018) |
| `fit_monotone` | f_s(Q_1(x_1), .., Q_N(x_N)), f_s monotone | QMIX (Rashid et al. 2018) |

with x_i the local pair and f_s not decreasing in any Q_i (monotone_fit.py). Both are for the policy
that the chain follows, and in the limit of data: expectations under its stationary law mu are
exact, nothing is sampled. What is fitted is semi-gradient TD, the target r + discount P Q_tot held
fixed:

    minimize E_mu (Q_tot - target)^2 over the class,    target <- r + discount P Q_tot.

On the additive functions, a linear space, the minimum is a projection Π in L2(mu), P is no
expansion there because mu P = mu, and so Π(r + discount P Q) contracts: there is one fixed point,
with (Tsitsiklis and Van Roy 1997)

    ||Q - Q_tot||_2,mu <= ||Q - Π Q||_2,mu / sqrt(1 - discount^2).

Under another law than that of the policy (`law=`, of a team that explores) neither need hold.
Monotone functions are no convex set: there may be several fixed points or none, and what is
returned says whether it is near one. order_fits.py has classes that are found exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._reads import NOT_SAID, reads
from ..chains.pair_chain import PairChain
from ..chains.pieces import Joint
from ..chains.stationary import known_law, law_of_pairs
from ..chains.views import marginal
from ..models.contracts import ArrayLike, Scalar
from ..numerics.compiled import jit
from ..numerics.krylov import gmres
from .approximation_error import bracket, under_any_law
from .bellman import Rewards, joint_reward, q_values, shared_reward
from .decomposition import Decomposition
from .error_bracket import ErrorBracket

Array = jax.Array

# Rounding errors to which the linear system of the additive fit is solved.
_ROUNDING = 256


@reads("off by {0.mu_error:.4g} in the mean and {0.sup_error:.4g} at most", note=NOT_SAID)
class ValueFit(NamedTuple):
    r"""A joint function made of local ones, and how far it is from the true values.

    Attributes:
        q_joint: $Q$, exact, `[J]`.
        q_total: $Q_{tot}$, the fit, `[J]`; what it says where not visited is arbitrary.
        q_local: $Q_i$ of each view, `[X_i]` each. In a monotone fit they only order.
        mu: the law it was fitted under, `[J]`: the stationary one, or that of a team that explores.
        visited: `mu > 0`, bool `[J]`.
        error: $Q - Q_{tot}$, `[J]`; 0 where not visited.
        bracket: what `approximation_error` certifies of the mean and of the largest |error|.
        residual: of the condition for a fixed point; what it measures is said by each function.
        num_steps: of the iteration.
        converged: whether the residual met `tol`.
    """

    q_joint: Array
    q_total: Array
    q_local: tuple[Array, ...]
    mu: Array
    visited: Array
    error: Array
    bracket: ErrorBracket
    residual: Array
    num_steps: Array
    converged: Array

    sup_error = Decomposition.sup_error
    mu_error = Decomposition.mu_error
    relative_error = Decomposition.relative_error


def fit_additive(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
    law: ArrayLike | None = None,
) -> ValueFit:
    r"""The sum of local functions at which joint TD stops (VDN). Differentiable.

    With L the lift from local functions and D = diag(mu), it solves the projected Bellman equation

        L' D (I - discount P) L q = L' D r.

    Joint pairs never visited have no say. Where several q have the same sum on those that are (a
    constant may move from agent to agent, for one), q is the smallest in Σ_i E_mu Q_i(x_i)^2: a
    local pair never visited has 0, and disjoint views share the mean equally.

    At discount 0 it is the projection in L2(mu): `fit_additive(chain, q, discount=0)` for a joint
    function q is the best sum of local ones in hindsight.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Args:
        chain: any unichain; only `mv` and `lift` are asked of it.
        rewards: a sequence of local rewards, `[X_i]` or `[S_i, A_i]` a view, or one joint reward,
            `[J]` or `[X_0, ..]`: only the joint one is learned from.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.
        law: of a team that explores, `[J]`, to take samples from instead, as a replay buffer has
            them. The chain's policy is still what is evaluated, D is the diagonal of this law, and
            the norm in which the fit is nearest is L2 of it. P may stretch that norm: the bound
            above is lost, and for some discounts there may be no solution.

    Returns:
        `ValueFit`, whose residual is the largest entry of what the equation leaves, each row over
        the root of its local pair's occupancy. NaN where not converged.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do.

    References:
        Sunehag et al., Value-Decomposition Networks for Cooperative Multi-Agent Learning, 2018.
        Tsitsiklis and Van Roy, An analysis of temporal-difference learning, 1997.
    """
    reward = joint_reward(chain, rewards)
    q_joint = q_values(chain, reward, discount=discount)
    weights = law_of_pairs(chain, mu, law)
    solved = _additive(chain, reward, discount, weights)
    return value_fit(chain, reward, discount, weights, q_joint, *solved, own=law is None)


def split_reward(
    chain: PairChain, reward: ArrayLike, *, mu: ArrayLike | None = None
) -> tuple[Array, ...]:
    r"""A shared reward as local ones, by least squares: Meta Algorithm 2's split with no noise.

    The r_i that minimize E_mu (r(x) - Σ_i r_i(x_i))^2; a constant that may move from agent to agent
    is shared equally. Their sum has the mean of r, hence Σ_i Q_i that of Q, for every discount. The
    L1 split of `reward_entanglement` is a median where this is a mean: a reward that is mostly 0
    it splits into zeros. Differentiable.

    Args:
        chain: any unichain.
        reward: the shared reward, `[J]` or `[X_0, ..]` (`CooperativeGame.pair_reward`).
        mu: the stationary law, `[J]`, where it is known already.

    Returns:
        One `[X_i]` a view, 0 where never visited. `decompose(chain, split, discount=discount,
        shared=reward)` is the error that is left.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do, and for a sequence of rewards.

    Examples:
        "Both or none" pays 1 in half of the pairs, and which half no agent can tell:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
        >>> for r in jaxent.split_reward(chain, jnp.array([1.0, 0.0, 0.0, 1.0])):
        ...     print(r.round(3))
        [0.25 0.25]
        [0.25 0.25]

    References:
        Chen and Peng, Meta Algorithm 2, App. J.3.
    """
    return _additive(chain, shared_reward(chain, reward), 0.0, known_law(chain, mu))[1]


@jit
def _additive(
    chain: PairChain, reward: Array, discount: Scalar, mu: Array
) -> tuple[Array, tuple[Array, ...], Array, Array, Array]:
    """The sum, local functions, the residual, steps, and whether it converged."""
    shares = [marginal(chain, mu, agent=i) for i in range(len(chain.views))]
    occupancy = jnp.concatenate(shares)
    ends = [sum(len(x) for x in shares[:i]) for i in range(1, len(shares))]
    # Without this, rare local pairs would be solved worse than others.
    weight = jnp.where(occupancy > 0, lax.rsqrt(jnp.where(occupancy > 0, occupancy, 1)), 0)

    def lift(x):
        return chain.lift(jnp.split(weight * x, ends))

    transpose = jax.linear_transpose(lift, occupancy)

    def sums(f):
        return transpose(mu * f)[0]

    def solve(operator, b):
        # Singular but consistent, and its null space is that of its transpose: from 0, Krylov
        # spaces stay in the range, where the smallest solution is.
        found = gmres(operator, b, tol=_ROUNDING * float(jnp.finfo(b.dtype).eps))
        return found.value, found[1:]

    def operator(x):
        f = lift(x)
        return sums(f - discount * chain.mv(f))

    x, (residual, steps, converged) = lax.custom_linear_solve(
        operator, sums(reward), solve=solve, transpose_solve=solve, has_aux=True
    )
    x = x * jnp.where(converged, 1.0, jnp.nan).astype(x.dtype)
    q_local = tuple(jnp.split(weight * x, ends))
    return chain.lift(q_local), q_local, residual, steps, converged


def value_fit(
    chain: PairChain,
    reward: Array,
    discount: Scalar,
    mu: Array,
    q_joint: Array,
    q_total: Array,
    q_local: tuple[Array, ...],
    residual: Array,
    num_steps: Array,
    converged: Array,
    *,
    own: bool = True,
) -> ValueFit:
    """A fit beside the true values; `own` where the law is that of the chain's policy."""
    found = bracket(chain, Joint(None, reward), Joint(None, q_total), mu, discount, own=own)
    return ValueFit(
        q_joint=q_joint,
        q_total=q_total,
        q_local=q_local,
        mu=mu,
        visited=mu > 0,
        error=_apart(q_joint, q_total, mu),
        bracket=found if own else under_any_law(found),
        residual=residual,
        num_steps=num_steps,
        converged=converged,
    )


@jit
def _apart(q_joint: Array, q_total: Array, mu: Array) -> Array:
    # NaN > 0 is false: without the sum a chain with no law would show no error.
    return jnp.where(mu > 0, q_joint - q_total, 0) + 0 * mu.sum()
