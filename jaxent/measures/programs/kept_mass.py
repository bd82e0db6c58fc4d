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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...numerics.arrays import ratio
from ...numerics.interior_point import Solver, Vector

Array = jax.Array
# From v and 1/T: the function f -> N f, and the solver of E'N E y = right.
Elimination = Callable[
    [Array, Vector], tuple[Callable[[Vector], Vector], Callable[[Vector], Vector]]
]


class Row(NamedTuple):
    """One kind of constraint E y - B w + h >= 0: which unknown is compared, B, B', E and E'."""

    unknown: str
    sums: Callable[[Array], Array]
    spread: Callable[[Array], Array]
    copies: Callable[[Array], Array]
    gather: Callable[[Array], Array]


def kept_slacks(x: Vector, rows: dict[str, Row]) -> Vector:
    """G x; in x, w stands beside y under the name "kept"."""
    w = x["kept"]
    compared = {name: row.copies(x[row.unknown]) - row.sums(w) for name, row in rows.items()}
    return {"zero": w, "cap": -w} | compared


def kept_solver(
    theta: Vector, rows: dict[str, Row], eliminate: Elimination, *, num_solves: int
) -> Solver:
    """The solver of dz + theta G dx = pull, G'dz = 0, by eliminating w and then f.

    Args:
        theta: weights of the constraints "zero", "cap" and of the rows.
        rows: the constraints that compare w with y; f has an entry for each.
        eliminate: what makes N and the system in y.
        num_solves: the first solve, and those of what rounding left of the equations. Static.
    """
    v = ratio(1, theta["zero"] + theta["cap"])
    slack = {name: ratio(1, theta[name]) for name in rows}
    apply, settle = eliminate(v, slack)

    def kept(rho, f):
        """w = v (rho + B'f)."""
        return v * sum((row.spread(f[name]) for name, row in rows.items()), rho)

    def gather(f):
        return {row.unknown: row.gather(f[name]) for name, row in rows.items()}

    def meet(g, right):
        """y and f = N (E y + g) with E'f = right."""
        y = settle(jax.tree.map(jnp.subtract, right, gather(apply(g))))
        return y, apply({name: row.copies(y[row.unknown]) + g[name] for name, row in rows.items()})

    def solve(pull):
        rho = pull["zero"] - pull["cap"]

        def correct(_, found):
            y, f = found
            w = kept(rho, f)
            missed = {
                name: slack[name] * (f[name] + pull[name])
                + row.sums(w)
                - row.copies(y[row.unknown])
                for name, row in rows.items()
            }
            change = meet(missed, jax.tree.map(jnp.negative, gather(f)))
            return jax.tree.map(jnp.subtract, found, change)

        f = {name: jnp.zeros_like(pull[name]) for name in rows}
        y = jax.tree.map(jnp.zeros_like, jax.eval_shape(gather, f))
        y, f = lax.fori_loop(0, num_solves, correct, (y, f))
        w = kept(rho, f)
        first = {"zero": pull["zero"] - theta["zero"] * w, "cap": pull["cap"] + theta["cap"] * w}
        return y | {"kept": w}, first | jax.tree.map(jnp.negative, f)

    return solve
