r"""Joint and local values.

Q = r + discount P Q is solved on joint states: with P = K Π,

    V = Π (r + discount K V),    Q = r + discount K V.

`solve_direct` eliminates (entry by entry accurate, small chains), `solve_iterative` only applies
the chain; `solve_q` and `q_values` pick by size, and eliminate up to 1024 states where applying the
chain falls short. Local values solve the same equation for the local transition of Eq. (2).
Appendix B's state values are here too, with the reward Π r that need not be a sum even where r is.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_discount, check_finite, concrete
from .._reads import reads
from ..chains import pieces
from ..chains.pair_chain import PairChain, check_chain
from ..chains.pieces import Joint
from ..chains.stationary import eliminated, known_law
from ..chains.views import local_transitions
from ..models.contracts import ArrayLike, Scalar
from ..numerics.arrays import as_array, as_float, dot, nan_unless
from ..numerics.compiled import jit
from ..numerics.elimination import (
    Eliminated,
    discounted_solve,
    implicit_values,
    values_of,
    where_needed,
)
from ..numerics.krylov import CYCLES, FEW_CYCLES, gmres

Array = jax.Array
Rewards = ArrayLike | Sequence[ArrayLike]


@reads("solved to a residual of {0.residual:.2g}")
class QSolution(NamedTuple):
    """Joint values, and how good they are.

    Attributes:
        value: Q over joint pairs, `[J]`; NaN where not converged.
        residual: max |V - Π (r + discount K V)| over joint states.
        num_steps: how often the chain was applied; 0 for elimination.
        converged: false if the chain is not stochastic, the discount is not in [0, 1), or the
            solve fell short.
    """

    value: Array
    residual: Array
    num_steps: Array
    converged: Array


def q_values(chain: PairChain, rewards: Rewards, *, discount: Scalar) -> Array:
    r"""Joint values Q = (I - discount P)^-1 r, `[J]`.

    Differentiable (implicitly) in the chain, the rewards and the discount.

    Args:
        chain: any chain; those of up to 256 joint states are eliminated, others applied.
        rewards: a sequence of local rewards, `[X_i]` or `[S_i, A_i]` a view, or one joint reward,
            `[J]` or `[X_0, ..]`.
        discount: in [0, 1).

    Returns:
        `[J]`; inside a trace, NaN where the solve did not converge (`solve_q` has the flag).

    Raises:
        ValueError: for wrong shapes and, outside a trace, a discount outside [0, 1), rewards that
            are not finite, or a solve that does not converge.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> print(jaxent.q_values(chain, rewards, discount=0.5).round(3))
        [2. 1. 3. 2.]
    """
    solution = solve_q(chain, rewards, discount=discount)
    if concrete(chain, solution) and not bool(solution.converged):
        raise ValueError(
            "chain: a row of its kernel or of its policy is not a probability vector"
            if not bool(chain.stochastic())
            else f"q_values: not converged, residual {float(solution.residual):.3g} after "
            f"{int(solution.num_steps)} steps"
        )
    return solution.value


def solve_q(chain: PairChain, rewards: Rewards, *, discount: Scalar) -> QSolution:
    """Joint values with their residual and flag; raises on shapes and on the discount only."""
    check_chain(chain)
    if chain.is_tiny:
        return solve_direct(chain, rewards, discount=discount)
    return solve_iterative(chain, rewards, discount=discount, rescue=chain.is_small)


def solve_direct(chain: PairChain, rewards: Rewards, *, discount: Scalar) -> QSolution:
    """By elimination on the matrix of joint states, for small chains."""
    check_discount(discount)
    made = (chain, joint_reward(chain, rewards), jnp.asarray(discount, chain.dtype))
    frozen = lax.stop_gradient(made)
    found = eliminated(frozen[0], frozen[2])
    V, solution = _direct(*frozen, found)
    if concrete(made):
        return solution
    return solution._replace(value=_implicit(*made, V, found, solution.converged))


@jit
def _direct(
    chain: PairChain, reward: Array, discount: Array, found: Eliminated
) -> tuple[Array, QSolution]:
    P = chain.state_matrix()
    mean = chain.policy.mv(reward)
    V = values_of(P, mean, discount, found)
    residual = jnp.abs(mean + discount * dot(P, V) - V).max()
    joint = Joint(None, reward)
    return V, _on_pairs(chain, joint, discount, V, residual, jnp.array(0), jnp.array(True))


@jit
def _implicit(
    chain: PairChain, reward: Array, rate: Array, V: Array, found: Eliminated, converged: Array
) -> Array:
    V = implicit_values(chain.state_matrix(), chain.policy.mv(reward), rate, V, found)
    return nan_unless(converged, reward + rate * chain.kernel.mv(V))


def solve_iterative(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    tol: float | None = None,
    rescue: bool = False,
) -> QSolution:
    """By applying the chain only: restarted GMRES on the joint states.

    Args:
        chain: any chain.
        rewards: as for `q_values`.
        discount: in [0, 1).
        tol: relative to max |Π r| + 2 max |V|; 16 machine epsilons by default. Static.
        rescue: whether states are eliminated where that is not met. Static.
    """
    check_discount(discount)
    if tol is None:
        tol = 16 * float(jnp.finfo(chain.dtype).eps)
    reward = function_of_pairs(chain, "rewards", rewards)
    return _iterative(chain, reward, discount, tol, rescue)


@jit(static_argnums=(3, 4))
def _iterative(
    chain: PairChain, reward: Joint, discount: Array, tol: float, rescue: bool
) -> QSolution:
    def solve(operator, b, transposed):
        found = gmres(operator, b, tol=tol, max_cycles=FEW_CYCLES if rescue else CYCLES)
        if not rescue:
            return found.value, found[1:]
        short = ~found.converged
        rate = jnp.asarray(discount, chain.dtype)
        exact = where_needed(short, partial(_eliminated, transposed), chain, rate, b)
        x = jnp.where(short, exact, found.value)
        residual = jnp.where(short, jnp.abs(b - operator(x)).max(), found.residual)
        return x, (residual, found.num_steps, jnp.isfinite(x).all())

    V, (residual, steps, converged) = lax.custom_linear_solve(
        lambda v: v - discount * chain.states_mv(v),
        chain.policy_mv(reward),
        solve=partial(solve, transposed=False),
        transpose_solve=partial(solve, transposed=True),
        has_aux=True,
    )
    return _on_pairs(chain, reward, discount, V, residual, steps, converged)


def _eliminated(transposed: bool, chain: PairChain, rate: Array, b: Array) -> Array:
    visits = eliminated(chain, rate).visits
    return b + dot(visits.T if transposed else visits, b)


def _on_pairs(chain, reward, discount, V, residual, steps, converged) -> QSolution:
    finite = ~jnp.isnan(V).any()
    converged = converged & finite & chain.stochastic() & (discount >= 0) & (discount < 1)
    value = nan_unless(converged, _ahead(chain, reward, discount, V))
    return QSolution(value, residual, steps, converged)


def _ahead(chain: PairChain, reward: Joint, discount: Array, V: Array) -> Array:
    """r + discount K V, `[J]`."""
    if chain.cut:
        return pieces.kernel_mv(chain, V, reward, discount)
    return chain.whole(reward) + discount * chain.kernel.mv(V)


def local_q_values(
    chain: PairChain,
    rewards: Sequence[ArrayLike],
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
) -> tuple[Array, ...]:
    r"""Local values Q_i = (I - discount P_i)^-1 r_i with P_i of Eq. (2), `[X_i]` a view.

    Args:
        chain: any chain.
        rewards: one local reward a view, `[X_i]` or `[S_i, A_i]`.
        discount: in [0, 1).
        mu: the joint law to project with; the stationary one by default.

    Returns:
        One `[X_i]` a view. At a pair never visited it is r_i / (1 - discount), the value of the
        self-loop that stands there.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> for q in jaxent.local_q_values(chain, rewards, discount=0.5):
        ...     print(q.round(3))
        [0.5 1.5]
        [1.5 0.5]
    """
    check_discount(discount)
    locals_ = check_locals(chain, rewards)
    mu = known_law(chain, mu)
    return tuple(
        discounted_solve(P, reward, discount)
        for P, reward in zip(local_transitions(chain, mu), locals_, strict=True)
    )


def joint_reward(chain: PairChain, rewards: Rewards) -> Array:
    """A joint reward `[J]`, in the chain's dtype, from a sequence of local ones or a joint one."""
    return joint_function(chain, "rewards", rewards)


def joint_function(chain: PairChain, name: str, given: Rewards) -> Array:
    """A joint function `[J]`, in the chain's dtype: given so, or as local ones to be added up."""
    function = function_of_pairs(chain, name, given)  # looks first whether it is a chain
    return chain.whole(function).astype(chain.dtype)


def function_of_pairs(chain: PairChain, name: str, given: Rewards) -> Joint:
    """The same, and a sum of local ones as it is where a chain is worked on piece by piece."""
    check_chain(chain)
    named = hasattr(given, "_fields")  # a result
    if isinstance(given, (list, tuple)) and not named and not all(np.ndim(f) == 0 for f in given):
        local = tuple(check_locals(chain, given, name))
        if chain.cut and pieces.can_lift(chain):
            return Joint(local, None)
        return Joint(None, chain.lift(local).astype(chain.dtype))
    array = as_array(name, given)
    if not hasattr(array, "dtype") and not isinstance(array, (int, float)):
        raise ValueError(
            f"{name}: {type(given).__name__} is no function of joint pairs; wanted an array, or a "
            "sequence of one for each view (of a result, one of its fields)"
        )
    function = as_float(array)
    if function.shape not in ((chain.num_pairs,), chain.sizes):
        raise ValueError(
            f"{name}: wanted a sequence of {len(chain.views)} local {name}, or a joint one of "
            f"shape [{chain.num_pairs}] or {list(chain.sizes)}; got {list(function.shape)}"
        )
    check_finite(name, function)
    return Joint(None, function.reshape(-1).astype(chain.dtype))


def shared_reward(chain: PairChain, reward: ArrayLike) -> Array:
    """A joint reward `[J]`, in the chain's dtype, and no sequence of local ones."""
    if isinstance(reward, (list, tuple)) and any(
        np.ndim(r) and hasattr(r, "shape") for r in reward
    ):
        raise ValueError("reward: is a sequence; wanted one shared reward by joint pair")
    return joint_reward(chain, as_array("reward", reward))


def check_locals(
    chain: PairChain, rewards: Sequence[ArrayLike], name: str = "rewards"
) -> list[Array]:
    """The local functions, each `[X_i]`, or a ValueError that names the one that does not fit."""
    check_chain(chain)
    if len(rewards) != len(chain.views):
        raise ValueError(
            f"{name}: wanted one for each of {len(chain.views)} views, got {len(rewards)}"
        )
    flat = []
    for i, (reward, size) in enumerate(zip(rewards, chain.view_sizes, strict=True)):
        reward = as_array(f"{name}[{i}]", reward)
        if jnp.size(reward) != size:
            raise ValueError(
                f"{name}[{i}]: wanted {size} values, one for each pair that agent {i} sees, got "
                f"shape {list(jnp.shape(reward))}"
            )
        check_finite(f"{name}[{i}]", reward)
        flat.append(as_float(reward).reshape(-1).astype(chain.dtype))
    return flat


def average_reward(chain: PairChain, rewards: Rewards, *, mu: ArrayLike | None = None) -> Array:
    r"""Long-run average reward a step, J = Σ_x μ(x) r(x), a scalar. Differentiable.

    It is (1 - discount) times the mean of Q under μ, for every discount.

    Args:
        chain: any unichain.
        rewards: as for `q_values`.
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do.
    """
    reward = joint_reward(chain, rewards)
    return known_law(chain, mu) @ reward


def state_values(chain: PairChain, reward: Rewards, *, discount: Scalar) -> Array:
    r"""State values V = (I - discount ΠK)^-1 Π r of a joint reward (App. B), `[S]`.

    Even where r is a sum of local rewards, Π r is one only if r depends on the states alone.
    """
    q = q_values(chain, reward, discount=discount)
    return chain.policy_mv(Joint(None, q))
