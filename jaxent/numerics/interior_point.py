r"""Linear programs by a primal-dual interior-point method that knows its structure.

The program and its dual are

    min c'x  s.t.  s = Gx + h >= 0,        max -h'z  s.t.  G'z = c, z >= 0.

Mehrotra's predictor-corrector follows s z = constant down to zero. The caller gives G as a function
and a solver of G' diag(z/s) G dx = rhs, which is where structure pays, and a certificate that turns
any iterate into numbers on both sides of the optimum. The iteration ends when those meet, so the
answer never rests on the iterates being feasible. Unknowns, slacks and multipliers are dicts, an
array for each kind of unknown and of constraint.

References:
    Mehrotra, On the implementation of a primal-dual interior point method, SIAM J. Optim. 1992.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Vector = dict[str, Array]
Point = tuple[Vector, Vector, Vector]  # x, s, z
# The solver of dz + theta G dx = pull, G'dz = 0: from the pull to (dx, dz).
Solver = Callable[[Vector], tuple[Vector, Vector]]

# How close a step may come to the boundary, as a share of the way.
_BACK_OFF = 0.995
# The iteration aims at this share of `tol`.
_AIM = 0.1
# A step makes progress if it narrows the bracket to this share or less. The iteration ends at the
# first step without once upper - lower <= tol, and before that after this many of them in a row.
_PROGRESS = 0.8
_PATIENCE = 20
# Polishing: the weight of an inactive constraint against an active one, and the number of solves.
_FAINT = 1e-6
_POLISHES = 4


class Bracket(NamedTuple):
    """The best bounds met on the way, and what attains them: lower <= optimum <= upper."""

    upper: Array
    lower: Array
    primal: Any
    dual: Any


class LinearProgram(NamedTuple):
    """min c'x subject to Gx + h >= 0, with what is needed to solve it; c is G'z of the start.

    Attributes:
        linear: x -> Gx, the slacks less h.
        offset: h, in the shape of the slacks.
        present: which constraints there are, booleans in the shape of the slacks.
        factor: theta = z/s (0 where absent) -> the solver of dz + theta G dx = pull, G'dz = 0.
        certify: x, z -> a bracket, rigorous for any x and z.
    """

    linear: Callable[[Vector], Vector]
    offset: Vector
    present: Vector
    factor: Callable[[Vector], Solver]
    certify: Callable[[Vector, Vector], Bracket]


class Solution(NamedTuple):
    """A bracket of the optimum and how it was reached."""

    bracket: Bracket
    num_steps: Array
    converged: Array


def solve_program(
    program: LinearProgram,
    x: Vector,
    z: Vector,
    guess: Bracket,
    *,
    tol: float | Array,
    max_steps: int,
    rivals: str | None = None,
) -> Solution:
    """Solve a linear program from a strictly feasible x and z > 0.

    Args:
        program: the program.
        x: a start with every present slack positive.
        z: positive multipliers with G'z = c, 0 where there is no constraint.
        guess: the first bracket.
        tol: the promise. Steps are taken until the bracket is ten times narrower, or until
            it no longer narrows, since the last steps cost little and gain much.
        max_steps: the most iterations. Static.
        rivals: the name of a vmapped axis of which only the largest optimum is wanted: what is seen
            to be below another stops. Static.

    Returns:
        `converged` only if upper - lower <= tol.
    """

    def unfinished(state):
        _, _, bracket, steps, idle, alive = state
        gap = bracket.upper - bracket.lower
        going = (gap > tol * _AIM) & ((gap > tol) | (idle < 1))
        return going & (idle < _PATIENCE) & (steps < max_steps) & alive

    def in_play(bracket):
        """Whether this optimum may be the largest of its rivals."""
        return True if rivals is None else bracket.upper >= lax.pmax(bracket.lower, rivals)

    def iterate(state):
        point, (best, least), old, steps, idle, _ = state
        point, alive = _step(program, point)
        x, _, z = point
        found = program.certify(x, z)
        new = _tighten(old, found)
        gap = found.upper - found.lower
        best = jax.tree.map(lambda a, b: jnp.where(gap < least, a, b), point, best)
        better = new.upper - new.lower < _PROGRESS * (old.upper - old.lower)
        idle = jnp.where(better, 0, idle + 1)
        alive = alive & in_play(new)
        return point, (best, jnp.minimum(gap, least)), new, steps + 1, idle, alive

    zero = jnp.zeros((), jnp.int32)
    point = (x, _slack(program, x), z)
    chex.assert_trees_all_equal_shapes_and_dtypes(*point[1:])
    chex.assert_trees_all_equal_shapes(z, program.present)
    best = (point, guess.upper + jnp.inf)
    state = (point, best, guess, zero, zero, jnp.array(True))
    _, (point, _), bracket, steps, _, _ = lax.while_loop(unfinished, iterate, state)
    bracket = _polish(program, point, bracket)
    return Solution(bracket, steps, jnp.abs(bracket.upper - bracket.lower) <= tol)


def _slack(program: LinearProgram, x: Vector) -> Vector:
    """Gx + h, and 1 where there is no constraint."""
    there = program.present
    return jax.tree.map(
        lambda g, h, t: jnp.where(t, g + h, 1), program.linear(x), program.offset, there
    )


def _step(program: LinearProgram, point: Point) -> tuple[Point, Array]:
    """One predictor and corrector; False, and no step, once it is no longer a number.

    s is kept beside x, not computed from it: near the optimum Gx + h has lost all its digits.
    """
    x, s, z = point
    there = program.present
    theta = jax.tree.map(lambda zi, si, t: jnp.where(t, zi / si, 0), z, s, there)
    miss = jax.tree.map(jnp.subtract, _slack(program, x), s)
    solve = program.factor(theta)
    count = sum(t.sum() for t in jax.tree.leaves(there))

    def direction(target):
        """The step that changes s z by `target` to first order and meets every equation."""
        pull = jax.tree.map(
            lambda r, si, th, m, t: jnp.where(t, r / si - th * m, 0), target, s, theta, miss, there
        )
        dx, dz = solve(pull)
        ds = jax.tree.map(
            lambda r, si, zi, d, t: jnp.where(t, (r - si * d) / jnp.where(t, zi, 1), 0),
            target, s, z, dz, there,
        )  # fmt: skip
        return dx, ds, dz

    product = jax.tree.map(jnp.multiply, s, z)
    gap = _total(product) / count

    def correct(turn, found):
        """First the predictor, from no step at all; then the corrector, from the predictor."""
        _, ds, dz = found
        reach_s, reach_z = jnp.minimum(1, _reach(s, ds)), jnp.minimum(1, _reach(z, dz))
        ahead = jax.tree.map(
            lambda a, da, b, db: (a + reach_s * da) * (b + reach_z * db), s, ds, z, dz
        )
        center = turn * gap * (_total(ahead) / (count * gap)) ** 3
        return direction(jax.tree.map(lambda p, a, b: center - p - a * b, product, ds, dz))

    nothing = jax.tree.map(jnp.zeros_like, (x, s, z))
    dx, ds, dz = lax.fori_loop(0, 2, correct, nothing)
    reach_s = jnp.minimum(1, _BACK_OFF * _reach(s, ds))
    reach_z = jnp.minimum(1, _BACK_OFF * _reach(z, dz))
    new = (_move(x, dx, reach_s), _move(s, ds, reach_s), _move(z, dz, reach_z))
    alive = jnp.isfinite(_total(new))
    return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, point), alive


def _polish(program: LinearProgram, point: Point, bracket: Bracket) -> Bracket:
    """The vertex that the iteration was heading for.

    The constraints that look active are made so, the multipliers of the others are made 0: least
    squares with weights that differ by a fixed factor, where those of the iteration by then differ
    by its square or more. A wrong guess does no harm, since a bracket only narrows.
    """
    x, s, z = point
    active = jax.tree.map(lambda a, b, t: t & (a < b), s, z, program.present)
    theta = jax.tree.map(
        lambda a, b, t: jnp.where(t, jnp.where(a, 1, _FAINT), 0).astype(b.dtype),
        active, s, program.present,
    )  # fmt: skip
    solve = program.factor(theta)

    def improve(_, state):
        x, z, bracket = state
        pull = jax.tree.map(
            lambda a, b, c, t: jnp.where(t, jnp.where(a, -b, -c), 0),
            active, _slack(program, x), z, program.present,
        )  # fmt: skip
        dx, dz = solve(pull)
        x, z = jax.tree.map(jnp.add, (x, z), (dx, dz))
        inside = jax.tree.map(lambda a: jnp.maximum(a, 0), z)
        return x, z, _tighten(bracket, program.certify(x, inside))

    return lax.fori_loop(0, _POLISHES, improve, (x, z, bracket))[-1]


def _move(values: Vector, change: Vector, length: Array) -> Vector:
    return jax.tree.map(lambda a, d: a + length * d, values, change)


def _reach(values: Vector, change: Vector) -> Array:
    """The longest step, at most 1 / _BACK_OFF, that keeps every value nonnegative."""
    leaves = zip(jax.tree.leaves(values), jax.tree.leaves(change), strict=True)
    pace = [jnp.max(-d / jnp.where(v > 0, v, 1), initial=_BACK_OFF) for v, d in leaves]
    return 1 / jnp.max(jnp.stack(pace))


def _total(tree: Vector | Point) -> Array:
    return jnp.stack([leaf.sum() for leaf in jax.tree.leaves(tree)]).sum()


def _tighten(old: Bracket, found: Bracket) -> Bracket:
    """Keep the better of either side; a NaN never replaces a number."""
    better, higher = found.upper < old.upper, found.lower > old.lower
    pick = lambda keep, a, b: jax.tree.map(lambda a, b: jnp.where(keep, a, b), a, b)  # noqa: E731
    return Bracket(*map(pick, (better, higher, better, higher), found, old))
