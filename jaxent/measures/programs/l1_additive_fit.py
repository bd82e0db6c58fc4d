r"""The sum of local functions nearest to a joint one in a weighted L1 norm.

    min_x sum_j w_j |f_j - (Lx)_j|,    Lx = sum_i x_i(view_i),

is a linear program in x and u = (f - Lx)_+, whose dual is

    max sum_j y_j f_j  s.t.  L'y = 0,  |y_j| <= w_j.

The interior-point step eliminates the joint entries, each a two by two block, and leaves a system
with one unknown for each local entry. Its null space (a constant may move from agent to agent, and
a function of a signal that both see) is met by a weight on the diagonal, the size of rounding. To
make a dual point exact its local sums L'y are solved away, and what then exceeds its weight is
scaled back; the lower bound is less by what rounding leaves of L'y.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ...numerics.arrays import both_signs
from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.compiled import jit
from ...numerics.interior_point import (
    Bracket,
    LinearProgram,
    Solution,
    Solver,
    Vector,
    solve_program,
)
from ...numerics.twofold import in_twofold, unit_roundoff

Array = jax.Array

# The small system is singular: its diagonal is raised by this many of its own rounding errors.
_RIDGE = 64.0
# Solves of one system: the first, and two of what rounding and that weight left of it.
_NUM_SOLVES = 3
# How far a dual entry at its bound may still move when local sums are solved away, as a share.
_GIVE = 1e-6
# The rows of the small system are formed together if that takes no more than this many numbers.
_AT_ONCE = 2**22


class Lift(Protocol):
    """What is asked of a layout."""

    def lift(self, functions: Sequence[Array], /) -> Array:
        """The joint function of local ones, sum_i x_i(view_i), `[J]`."""
        ...


class _Sum(NamedTuple):
    """L and L', from local entries, one view after another, `[n]`, to joint ones `[J]` and back."""

    size: int
    lift: Callable[[Array], Array]
    sums: Callable[[Array], Array]


@jit(static_argnames="shapes")
def additive_fit(
    layout: Lift,
    shapes: tuple[int, ...],
    target: Array,
    weights: Array,
    *,
    tol: float | Array,
    max_steps: int | Array,
) -> Solution:
    """The local functions whose sum is nearest to a joint one, in the weighted L1 norm.

    Args:
        layout: a pytree with `lift`, as a chain's layout.
        shapes: number of local pairs of each view. Static.
        target: f, `[J]`.
        weights: w, nonnegative, `[J]`; entries of weight 0 have no say.
        tol: stop when the bounds are this close, as a share of the mean distance of f from its
            mean, so that neither its unit nor a constant in it matters (up to rounding of f).
        max_steps: the most interior-point steps.

    Returns:
        A bracket of the minimum, with the local functions, a tuple of `[X_i]`, as primal (equal
        constants where nothing is said of them) and y `[J]` as dual.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eq. (14).
    """
    size, ends = sum(shapes), [sum(shapes[:i]) for i in range(1, len(shapes))]
    lift = lambda x: layout.lift(jnp.split(x, ends))  # noqa: E731
    local = jnp.zeros(size, target.dtype)
    transpose = jax.linear_transpose(lift, local)
    assert target.shape == weights.shape == jax.eval_shape(lift, local).shape
    wanted, total = target, weights.sum()
    mean = weights @ wanted / total
    spread = weights @ jnp.abs(wanted - mean) / total
    # A spread below the rounding of f is none: what rare entries add to it is not to be fitted.
    unit = jnp.maximum(spread, jnp.finfo(target.dtype).eps * (weights @ jnp.abs(wanted)) / total)
    unit = jnp.where(unit > 0, unit, 1)
    target = (wanted - mean) / unit
    program = _program(_Sum(size, lift, lambda y: transpose(y)[0]), target, weights)
    scale = jnp.where(program.present["sides"][0], jnp.abs(target), 0).max()
    x = {"local": local, "under": jnp.maximum(target, 0) + jnp.where(scale > 0, scale, 1)}
    z = {"sides": jnp.stack([weights, weights])}
    guess = Bracket(weights @ jnp.abs(target), 0 * scale, local, 0 * target)
    bracket, steps, converged = solve_program(program, x, z, guess, tol=tol, max_steps=max_steps)
    locals_ = tuple(jnp.split(unit * bracket.primal + mean / len(shapes), ends))
    bounds = Bracket(unit * bracket.upper, unit * bracket.lower, locals_, bracket.dual)
    return Solution(bounds, steps, converged)


def _program(local: _Sum, target: Array, weights: Array) -> LinearProgram:
    # Weights below the rounding error of the largest spoil the interior-point steps. What is left
    # out still counts in the upper bound, and its dual entry is 0.
    there = weights > jnp.finfo(target.dtype).eps * weights.max()

    def linear(x):
        under = x["under"]
        return {"sides": jnp.stack([under, under + local.lift(x["local"])])}

    def certify(x, z):
        apart = target - local.lift(x["local"])
        y = jnp.where(there, jnp.clip(z["sides"][1] - weights, -weights, weights), 0)
        y = _without_sums(local, y, jnp.where(there, weights - jnp.abs(y) + _GIVE * weights, 0))
        over = jnp.abs(y) / jnp.where(there, weights, 1)
        y = y / jnp.maximum(over.max(), 1)
        # What rounding leaves of the local sums costs as much as a local function can be large.
        large = 2 * jnp.abs(x["local"]).max() + jnp.where(there, jnp.abs(target), 0).max()
        lower = y @ target - jnp.abs(local.sums(y)).sum() * large
        return Bracket(weights @ jnp.abs(apart), lower, x["local"], y)

    return LinearProgram(
        linear=linear,
        offset={"sides": jnp.stack([jnp.zeros_like(target), -target])},
        present={"sides": jnp.stack([there, there])},
        factor=in_twofold(partial(_factor, local, there)),
        certify=certify,
    )


def _without_sums(local: _Sum, y: Array, room: Array) -> Array:
    """y with L'y = 0, moved least where there is least room."""
    small = _factor_local(local, room)
    solve_away = lambda _, y: y - room * local.lift(solve_factored(small, local.sums(y)))  # noqa: E731
    return lax.fori_loop(0, _NUM_SOLVES, solve_away, y)


def _factor_local(local: _Sum, omega: Array) -> Array:
    """Factor of L' diag(omega) L."""
    row = lambda x: local.sums(omega * local.lift(x))  # noqa: E731
    basis = jnp.eye(local.size, dtype=omega.dtype)
    together = local.size * omega.size <= _AT_ONCE
    matrix = jax.vmap(row)(basis) if together else lax.map(row, basis)
    scale = jnp.diagonal(matrix)
    smallest = _RIDGE * unit_roundoff(omega)
    return inverse_cholesky(matrix + jnp.diag(jnp.where(scale > 0, smallest * scale, 1)))


class _Joint(NamedTuple):
    """What is left once the joint entries are eliminated.

    Attributes:
        weights: those of both constraints of an entry, `[2, J]`.
        total: their sum, 1 where there is no entry, `[J]`.
        omega: the weight of Lx, `[J]`.
        small: the factored system in x.
    """

    weights: Array
    total: Array
    omega: Array
    small: Array


def _factor(local: _Sum, there: Array, theta: Vector) -> Solver:
    """Solver of dz + theta G dx = pull, G'dz = 0: the joint entries first, then the local ones."""
    below, above = theta["sides"]
    total = jnp.where(there, below + above, 1)
    omega = below * (above / total)
    joint = _Joint(theta["sides"], total, omega, _factor_local(local, omega))
    return Partial(partial(_solve, local), joint)


def _solve(local: _Sum, joint: _Joint, pull: Vector, exact: Array) -> tuple[Vector, Vector]:
    (below, above), total, omega, small = joint
    under, over = pull["sides"]
    pushed = (below * over - above * under) / total

    def correct(_, x):
        return x + solve_factored(small, local.sums(pushed - omega * local.lift(x)))

    turns = jnp.where(exact, _NUM_SOLVES, 1)
    x = lax.fori_loop(0, turns, correct, jnp.zeros(local.size, omega.dtype))
    moved = local.lift(x)
    dz = pushed - omega * moved
    dx = {"local": x, "under": (under + over) / total - above / total * moved}
    return dx, {"sides": -both_signs(dz)}
