r"""What the programs of total variation have in common: the mass w that laws p share with others.

TV(p, q) = 1 - sum w for the largest w with 0 <= w <= p and w <= q. Where the laws q are unknowns y
that several p are compared with, the constraints are

    w >= 0,    p - w >= 0,    E y - B w + h >= 0,

with B the sums of w that are compared, and E the copies of y that they are compared with. The
interior-point step asks for dz + theta G dx = pull, G'dz = 0. Let v be the inverse of the first two
weights together, T the weights of the last constraints, -f the change of their multipliers, and rho
the difference of the first two pulls. Then

    w = v (rho + B'f),    (f + pull) / T = E y - B w,    E'f = 0,

so that f = N (E y - pull / T - B v rho) with N = (1/T + B diag(v) B')^{-1}, a small matrix for each
law p, and what is left is a system in y with the matrix E'N E.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ...numerics.arrays import both_signs, ratio
from ...numerics.interior_point import Solver, Vector

Array = jax.Array
# A function of one vector that holds its matrices as a pytree does, a `Partial`.
Function = Callable[[Array], Array]
# From v and 1/T: the function f -> N f, and the solver of E'N E y = right.
Elimination = Callable[[Array, Array], tuple[Function, Function]]


class Compared(NamedTuple):
    """The constraints E y - B w + h >= 0, an array of them for each law p: B, B', E and E'."""

    sums: Callable[[Array], Array]
    spread: Callable[[Array], Array]
    copies: Callable[[Array], Array]
    gather: Callable[[Array], Array]


def kept_slacks(x: Vector, compared: Compared) -> Vector:
    """G x; in x, w has the name "kept" and y the name "shared"."""
    w, y = x["kept"], x["shared"]
    return {"bounds": both_signs(w), "rows": compared.copies(y) - compared.sums(w)}


def kept_solver(
    theta: Vector, compared: Compared, eliminate: Elimination, *, num_solves: int
) -> Solver:
    """The solver of dz + theta G dx = pull, G'dz = 0, by eliminating w and then f.

    Args:
        theta: weights of the constraints: "bounds", w >= 0 and p - w >= 0 one after the other, and
            "rows".
        compared: the constraints of the rows; f has an entry for each.
        eliminate: what makes N and the system in y.
        num_solves: the first solve, and those of what rounding left of the equations. Static.
    """
    below, above = theta["bounds"]
    v, slack = ratio(1, below + above), ratio(1, theta["rows"])
    apply, settle = eliminate(v, slack)
    solve = partial(_solve, compared, num_solves)
    return Partial(solve, theta, v, slack, apply, settle)


def _solve(
    compared: Compared,
    num_solves: int,
    theta: Vector,
    v: Array,
    slack: Array,
    apply: Function,
    settle: Function,
    pull: Vector,
    exact: Array,
) -> tuple[Vector, Vector]:
    sums, spread, copies, gather = compared
    rho, g = pull["bounds"][0] - pull["bounds"][1], pull["rows"]

    def kept(f):
        return v * (rho + spread(f))

    def correct(_, found):
        """From y and f, by what they miss of f + pull = T (E y - B w) and of E'f = 0."""
        y, f = found
        missed = apply(copies(y) - sums(kept(f)) - slack * (f + g))
        dy = settle(-gather(f + missed))
        return y + dy, f + missed + apply(copies(dy))

    f = jnp.zeros_like(g)
    y = jnp.zeros_like(jax.eval_shape(gather, f))
    y, f = lax.fori_loop(0, jnp.where(exact, num_solves, 1), correct, (y, f))
    w = kept(f)
    bounds = pull["bounds"] - theta["bounds"] * both_signs(w)
    return {"kept": w, "shared": y}, {"bounds": bounds, "rows": -f}
