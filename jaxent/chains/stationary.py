r"""The stationary law of a chain.

The law is found on joint states, ν = ν Π K, and that of the pairs is ν Π. Transient states are
allowed and get exactly 0; periodic chains are fine; several recurrent classes are an error outside
a trace and NaN inside one, since then the law depends on where the chain starts.

`law_direct` eliminates (small chains, entry by entry accurate); `law_iterative` only applies the
chain. `stationary_distribution` picks by size: a few hundred states are applied first, which is
many times quicker, and eliminated where that leaves an entry of the law uncertain.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax

from .._checks import check_shape, check_stochastic, concrete, stochastic
from .._reads import reads
from ..models.contracts import ArrayLike
from ..numerics.arrays import dot, nan_unless
from ..numerics.compiled import jit
from ..numerics.elimination import (
    Eliminated,
    eliminate,
    implicit_law,
    law_of,
    law_system,
    where_needed,
)
from ..numerics.krylov import CYCLES, FEW_CYCLES, gmres
from .pair_chain import PairChain, check_chain

Array = jax.Array


_FINER = ", which float64 may do: jax.config.update('jax_enable_x64', True)"


@reads("solved to a residual of {0.residual:.2g}")
class LawSolution(NamedTuple):
    """A stationary law, and how good it is.

    Attributes:
        value: mu over joint pairs, `[J]`; NaN where not converged.
        residual: max |ν Π K - ν| over joint states.
        num_steps: how often the chain was applied; 0 for elimination.
        converged: false if the chain is not stochastic, not unichain, or the solve fell short.
    """

    value: Array
    residual: Array
    num_steps: Array
    converged: Array


def stationary_distribution(chain: PairChain | ArrayLike) -> Array:
    r"""Stationary law of a unichain over joint pairs, μ P = μ, `[J]`.

    Differentiable (implicitly) in every array of the chain. Pairs never visited hold exactly 0.

    Args:
        chain: any chain, or a matrix of one. Up to 1024 joint states every entry of the law is
            right, by elimination where need be; more are only applied, and entries are right as
            shares of the largest.

    Raises:
        ValueError: outside a trace, if the chain has several recurrent classes (naming their
            states) or the solve does not converge. Inside a trace the law is NaN then.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
        >>> print(jaxent.stationary_distribution(chain).round(3))
        [0.333 0.167 0.167 0.333]
    """
    if _is_matrix(chain):
        matrix: Any = chain
        chain = PairChain.from_matrix(matrix, sizes=np.shape(matrix)[:1])
    check_chain(chain)
    assert isinstance(chain, PairChain)
    solution = solve_law(chain)
    if concrete(chain, solution) and not bool(solution.converged):
        raise ValueError(_explain(chain, solution))
    return solution.value


def _is_matrix(chain: object) -> bool:
    """Whether this is an array, a data frame or a list or tuple of rows."""
    if isinstance(chain, tuple):
        return {type(row) for row in chain} <= {list, tuple}
    return isinstance(chain, list) or hasattr(chain, "__array__")


def known_law(chain: PairChain, mu: ArrayLike | None) -> Array:
    """The law that is given, `[J]` in the chain's dtype, or the stationary one where none is."""
    check_chain(chain)
    if mu is None:
        return stationary_distribution(chain)
    check_shape("mu", mu, (chain.num_pairs,))
    return jnp.asarray(mu).astype(chain.dtype)


def law_of_pairs(chain: PairChain, mu: ArrayLike | None, law: ArrayLike | None) -> Array:
    """The law that errors are weighed by, `[J]`: `law`, of a team that explores, or the policy's.

    Raises:
        ValueError: where both are given, or `law` is none, or the policy leaves what `law` visits;
            inside a trace the law is NaN for the latter two.
    """
    if law is None:
        return known_law(chain, mu)
    if mu is not None:
        raise ValueError("mu: errors are weighed by law, so no stationary law is asked; leave out")
    check_chain(chain)
    check_shape("law", law, (chain.num_pairs,))
    check_stochastic("law", law)
    law = jnp.asarray(law).astype(chain.dtype)
    if concrete(chain, law):
        gone = np.flatnonzero((np.asarray(chain.vm(law)) > 0) & ~(np.asarray(law) > 0))
        if len(gone):
            raise ValueError(
                f"law[{gone[0]}] is 0, but the policy of the chain goes there: its worth would be "
                "a guess; explore more (the stationary law of uniform_policy has every pair)"
            )
    kept = ~((chain.vm(law) > 0) & ~(law > 0)).any()
    return nan_unless(stochastic(law[None]) & kept, law)


def solve_law(chain: PairChain) -> LawSolution:
    """The stationary law with its residual and flag; never raises on values."""
    check_chain(chain)
    if chain.is_tiny:
        return law_direct(chain)
    return law_iterative(chain, chain.is_small)


def law_direct(chain: PairChain) -> LawSolution:
    """By elimination on the matrix of joint states, for small chains."""
    frozen = lax.stop_gradient(chain)
    found = eliminated(frozen, np.ones((), chain.dtype))
    law, solution = _law_of(frozen, found)
    if concrete(chain):
        return solution
    return solution._replace(value=_implicit(chain, law, found, solution.converged))


@jit
def eliminated(chain: PairChain, rate: Array) -> Eliminated:
    """The joint states eliminated, of a small chain that goes on at this rate, else is killed."""
    return eliminate(chain.state_matrix(), rate)


@jit
def _law_of(chain: PairChain, found: Eliminated) -> tuple[Array, LawSolution]:
    P = chain.state_matrix()
    law = law_of(P, found)
    residual = jnp.abs(dot(law, P) - law).max()
    return law, _on_pairs(chain, law, residual, jnp.array(0), ~jnp.isnan(law).any())


@jit
def _implicit(chain: PairChain, law: Array, found: Eliminated, converged: Array) -> Array:
    law = implicit_law(chain.state_matrix(), law, found)
    return nan_unless(converged, chain.policy_vm(law))


@jit(static_argnums=1)
def law_iterative(chain: PairChain, rescue: bool = False) -> LawSolution:
    r"""By applying the chain only: GMRES on ν (I - ΠK) + (Σν) w = w, with w uniform.

    The support is settled exactly: what can be reached from the likeliest state is its recurrent
    class, and the chain is unichain if and only if every state can reach that class.

    In a chain that is nearly decomposable a wrong law has no residual either: what is missing moves
    by rounding. So the same system is solved for a start in the first state, whose law takes as
    long to forget it as the chain takes to mix; that, times what rounding leaves, is the error. Of
    that time the first digits do, as long as a slow part, which may be 1 / S in each of S states,
    is not taken for solved.

    Args:
        chain: any chain.
        rescue: whether states are eliminated where GMRES falls short, or leaves an entry of the law
            that may not be right to half its digits. Static.
    """
    eps = float(jnp.finfo(chain.dtype).eps)
    tol = 64 * eps
    uniform = jnp.full(chain.num_states, 1 / chain.num_states, chain.dtype)
    frozen = lax.stop_gradient(chain)
    search = partial(gmres, max_cycles=FEW_CYCLES if rescue else CYCLES)

    def step(law):
        return chain.states_vm(law)

    def rescued(y, sound, b, transposed):
        if not rescue:
            return y
        exact = where_needed(~sound, partial(_eliminated, transposed), frozen, uniform, b)
        return jnp.where(sound, y, exact)

    def solve(operator, b):
        both = jnp.stack([b, uniform.at[0].add(-1)]), jnp.array([tol, max(tol, 0.05 / len(b))])
        solution = lax.map(lambda given: search(operator, given[0], tol=given[1]), both)
        y, mixing = solution.value[0], jnp.abs(solution.value[1]).sum()
        converged, steps = solution.converged.all(), solution.num_steps.sum()
        if not rescue:
            return y, (steps, converged, mixing)
        error = mixing * (jnp.abs(operator(y) - b).sum() + eps)
        sizes = jnp.abs(y)
        least = jnp.where((b == uniform).all(), sizes.min(), sizes.sum())
        sound = converged & (error <= eps**0.5 * least)
        return rescued(y, sound, b, False), (steps, converged | ~sound, jnp.where(sound, mixing, 0))

    def solve_transposed(operator, b):
        found = search(operator, b, tol=tol)
        x = rescued(found.value, found.converged, b, True)
        return x, (found.num_steps, found.converged, jnp.zeros_like(b[0]))

    law, (steps, converged, mixing) = lax.custom_linear_solve(
        lambda law: law - step(law) + law.sum() * uniform,
        uniform,
        solve=solve,
        transpose_solve=solve_transposed,
        has_aux=True,
    )

    # Rounding leaves specks of either sign on transient states; the residual is taken without.
    def cleaned(law, recurrent):
        kept = jnp.where(recurrent & (law > 0), law, 0)
        return kept / kept.sum()

    found = lax.stop_gradient(law)
    likeliest = jnp.arange(chain.num_states) == found.argmax()
    recurrent, moved = _closure(frozen.states_vm, likeliest, partial(cleaned, found))
    attracted, _ = _closure(frozen.states_mv, recurrent, lambda _: found)
    clean = cleaned(found, recurrent)
    law = clean + (law - found)  # its slope is that of the solution, transient states' too
    left = jnp.abs(moved - clean)
    near = left.max() <= 4 * tol * clean.max()
    near &= mixing * (left.sum() + eps) <= eps**0.5
    return _on_pairs(chain, law, left.max(), steps, converged & near & attracted.all())


def _eliminated(transposed: bool, chain: PairChain, uniform: Array, b: Array) -> Array:
    return law_system(chain.state_matrix(), uniform, b)[transposed]


def _on_pairs(chain, law, residual, steps, converged) -> LawSolution:
    converged = converged & chain.stochastic()
    return LawSolution(nan_unless(converged, chain.policy_vm(law)), residual, steps, converged)


def _closure(
    step: Callable[[Array], Array], start: Array, last: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Every state that positive entries of `step` connect to the start, bool `[S]`.

    Then the same loop, so that `step` stands in the program once, applies it to what `last` makes
    of those states.
    """

    def grow(carry):
        found, asked, _, phase = carry
        image = step(asked)
        more = found | ((image > 0) & (phase == 0))
        phase = phase + (more == found).all()
        return more, jnp.where(phase == 1, last(more), more.astype(asked.dtype)), image, phase

    asked = start.astype(last(start).dtype)
    carry = (start, asked, jnp.zeros_like(asked), jnp.array(0))
    found, _, image, _ = lax.while_loop(lambda carry: carry[3] < 2, grow, carry)
    return found, image


def _explain(chain: PairChain, solution: LawSolution) -> str:
    """Why there is no law, for a person."""
    if not bool(chain.stochastic()):
        return "chain: a row of its kernel or of its policy is not a probability vector"
    if not chain.is_small:
        return (
            f"chain: no unique stationary law found (residual {float(solution.residual):.3g} after "
            f"{int(solution.num_steps)} steps); either some states cannot reach the others' "
            "recurrent class, or the chain mixes too slowly"
        )
    P = np.asarray(chain.state_matrix())
    edges = scipy.sparse.csr_array(P > 0)
    _, label = scipy.sparse.csgraph.connected_components(edges, connection="strong")
    leaves = {label[i] for i, j in np.argwhere(P > 0) if label[i] != label[j]}
    classes = [np.flatnonzero(label == c).tolist() for c in np.unique(label) if c not in leaves]
    if len(classes) < 2:
        return (
            "chain: its probabilities span too many decades for elimination in "
            f"{np.dtype(chain.dtype).name}" + _FINER * (chain.dtype == np.float32)
        )
    shown = " and ".join(
        str(states[:8])[:-1] + (", ...]" if len(states) > 8 else "]") for states in classes[:4]
    )
    return (
        f"chain: has {len(classes)} recurrent classes, so its stationary law is not unique; "
        f"they hold the joint states {shown}"
    )
