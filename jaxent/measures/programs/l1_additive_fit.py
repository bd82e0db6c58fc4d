r"""The sum of local functions nearest to a joint one in a weighted L1 norm.

    min_x sum_j w_j |f_j - (Lx)_j|,    Lx = sum_i x_i(view_i),

is a linear program in x and u = (f - Lx)_+, whose dual is

    max sum_j y_j f_j  s.t.  L'y = 0,  |y_j| <= w_j.

The interior-point step eliminates the joint entries, each a two by two block, and leaves a system
with one unknown for each local entry. Its null space (a constant may move from agent to agent, and
a function of a signal that both see) is met by a weight on the diagonal, the size of rounding. To
make a dual point exact its local sums L'y are solved away, and what then exceeds its weight is
scaled back.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...numerics.cholesky import inverse_cholesky, solve_factored
from ...numerics.interior_point import LinearProgram, Solution, solve_program

Array = jax.Array

# Weight on the diagonal, in rounding errors, and how often the error of a solve is solved for.
_RIDGE = 64.0
_REFINEMENTS = 3
# How much a dual entry at its bound may still move when local sums are solved away.
_GIVE = 1e-6
# Above so many numbers the rows of the small system are formed one by one.
_AT_ONCE = 2**22


@partial(jax.jit, static_argnames="max_steps")
def additive_fit(
    layout: Any, target: Array, weights: Array, *, tol: Any, max_steps: int
) -> Solution:
    """The local functions whose sum is nearest to a joint one, in the weighted L1 norm.

    Args:
        layout: with `sizes`, `views` and `lift`, as a chain has.
        target: f, `[J]`.
        weights: w, nonnegative, `[J]`; entries of weight 0 have no say.
        tol: stop when the bounds are this close.
        max_steps: at most so many interior-point steps. Static.

    Returns:
        A bracket of the minimum, with the local functions, a tuple of `[X_i]`, as primal (0 where
        nothing is said of them) and y `[J]` as dual.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eq. (14).
    """
    dtype = target.dtype
    shapes = [prod(layout.sizes[axis] for axis in view) for view in layout.views]
    ends = [sum(shapes[:i]) for i in range(1, len(shapes))]
    # Weights that span more than all digits cannot be centered. What is left out still counts in
    # the upper bound, and its dual entry is 0.
    there = weights > jnp.finfo(dtype).eps * weights.max()

    def lift(x):
        return layout.lift(jnp.split(x, ends))

    transpose = jax.linear_transpose(lift, jnp.zeros(sum(shapes), dtype))

    def sums(y):
        return transpose(y)[0]  # L'y

    def factor_small(omega):
        """Factor of L' diag(omega) L."""
        row = lambda x: sums(omega * lift(x))  # noqa: E731
        basis = jnp.eye(sum(shapes), dtype=dtype)
        together = basis.shape[0] * target.size <= _AT_ONCE
        matrix = jax.vmap(row)(basis) if together else lax.map(row, basis)
        scale = jnp.diagonal(matrix)
        smallest = _RIDGE * jnp.finfo(dtype).eps
        ridge = jnp.where(scale > 0, smallest * scale, 1)
        return inverse_cholesky(matrix + jnp.diag(ridge))

    def factor(theta):
        total = jnp.where(there, theta["under"] + theta["over"], 1)
        share = theta["over"] / total
        omega = theta["under"] * share
        small = factor_small(omega)

        def solve(pull):
            pushed = (theta["under"] * pull["over"] - theta["over"] * pull["under"]) / total

            def refine(_, x):
                return x + solve_factored(small, sums(pushed - omega * lift(x)))

            x = lax.fori_loop(0, _REFINEMENTS, refine, jnp.zeros(sum(shapes), dtype))
            moved = lift(x)
            under = (pull["under"] + pull["over"]) / total - share * moved
            dz = pushed - omega * moved
            return {"local": x, "under": under}, {"under": -dz, "over": dz}

        return solve

    def certify(x, _, z):
        apart = target - lift(x["local"])
        y = jnp.where(there, jnp.clip(z["over"] - weights, -weights, weights), 0)
        room = jnp.where(there, weights - jnp.abs(y) + _GIVE * weights, 0)
        small = factor_small(room)
        solve_away = lambda _, y: y - room * lift(solve_factored(small, sums(y)))  # noqa: E731
        y = lax.fori_loop(0, _REFINEMENTS, solve_away, y)
        over = jnp.abs(y) / jnp.where(there, weights, 1)
        y = y / jnp.maximum(over.max(), 1)
        return weights @ jnp.abs(apart), y @ target, x["local"], y

    def linear(x):
        return {"under": x["under"], "over": x["under"] + lift(x["local"])}

    scale = jnp.where(there, jnp.abs(target), 0).max()
    start = {
        "local": jnp.zeros(sum(shapes), dtype),
        "under": jnp.maximum(target, 0) + jnp.where(scale > 0, scale, 1),
    }
    z = {"under": weights, "over": weights}
    program = LinearProgram(
        linear=linear,
        offset={"under": jnp.zeros_like(target), "over": -target},
        present={"under": there, "over": there},
        factor=factor,
        certify=certify,
    )
    guess = (weights @ jnp.abs(target), 0 * scale, start["local"], 0 * target)
    bracket, steps, converged = solve_program(
        program, start, z, guess, tol=tol, max_steps=max_steps
    )
    locals_ = tuple(jnp.split(bracket.primal, ends))
    return Solution(bracket._replace(primal=locals_), steps, converged)
