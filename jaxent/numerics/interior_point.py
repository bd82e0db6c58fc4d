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
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Vector = dict[str, Array]
# The solver of dz + theta G dx = pull, G'dz = 0: from the pull, and whether the answer is to be
# exact, to (dx, dz).
Solver = Callable[[Vector, Array], tuple[Vector, Vector]]

# How close a step may come to the boundary, as a share of the way.
_BACK_OFF = 0.995
# The iteration aims at this share of `tol`.
_AIM = 0.1
# A step makes progress if it narrows the bracket to this share or less. The iteration ends at the
# first step without once upper - lower <= tol, and before that after some of them in a row.
_PROGRESS = 0.8

# How many steps in a row may make no progress, and how often the vertex is solved for after them.
_PATIENCE = 20
_POLISHES = 3
# The weight of a constraint that does not look active, against one that does.
_FAINT = 1e-6


class Bracket(NamedTuple):
    """The best bounds met on the way, and what attains them: lower <= optimum <= upper."""

    upper: Array
    lower: Array
    primal: Any
    dual: Any


class Point(NamedTuple):
    """Unknowns, slacks and multipliers."""

    x: Vector
    s: Vector
    z: Vector


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
    max_steps: int | Array,
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
        max_steps: the most iterations.
        rivals: the name of a vmapped axis of which only the largest optimum is wanted: what is seen
            to be below another stops. Static.

    Returns:
        `converged` only if upper - lower <= tol.
    """

    def unfinished(state):
        gap = state.bracket.upper - state.bracket.lower
        going = (gap > tol * _AIM) & ((gap > tol) | (state.idle < 1))
        return going & (state.idle < _PATIENCE) & (state.steps < max_steps) & state.alive

    def unpolished(state):
        return state.polishes < _POLISHES

    def in_play(bracket):
        """Whether this optimum may be the largest of its rivals."""
        return True if rivals is None else bracket.upper >= lax.pmax(bracket.lower, rivals)

    def iterate(polish, state):
        point, alive = _step(program, polish, state.point)
        found = program.certify(point.x, jax.tree.map(lambda z: jnp.maximum(z, 0), point.z))
        old, new = state.bracket, _tighten(state.bracket, found)
        gap = found.upper - found.lower
        best = _pick(gap < state.least, point, state.best)
        better = new.upper - new.lower < _PROGRESS * (old.upper - old.lower)
        return _State(
            point=point,
            best=best,
            least=jnp.minimum(gap, state.least),
            bracket=new,
            steps=state.steps + ~polish,
            polishes=state.polishes + polish,
            idle=jnp.where(better, 0, state.idle + 1),
            alive=alive & in_play(new),
        )

    def stage(number, state):
        """First the steps; then, from the best point, the polish. One loop, compiled once."""
        polish = number > 0
        return lax.while_loop(
            lambda state: jnp.where(polish, unpolished(state), unfinished(state)),
            partial(iterate, polish),
            state._replace(point=state.best),
        )

    slack = _slack(program, x)
    assert jax.tree.map(jnp.shape, slack) == jax.tree.map(jnp.shape, z)
    assert jax.tree.map(jnp.shape, z) == jax.tree.map(jnp.shape, program.present)
    start, zero = Point(x, slack, z), jnp.zeros((), jnp.int32)
    state = _State(start, start, guess.upper + jnp.inf, guess, zero, zero, zero, jnp.array(True))
    state = lax.fori_loop(0, 2, stage, state)
    bracket = state.bracket
    return Solution(bracket, state.steps, jnp.abs(bracket.upper - bracket.lower) <= tol)


class _State(NamedTuple):
    """Where the iteration stands.

    Attributes:
        point: where it is.
        best: the point with the narrowest bracket of its own.
        least: the width of that.
        bracket: the best bounds met.
        steps: how many were taken.
        polishes: how often the vertex was solved for.
        idle: how many of the last steps made no progress.
        alive: whether the last one was a step, and the optimum may be wanted.
    """

    point: Point
    best: Point
    least: Array
    bracket: Bracket
    steps: Array
    polishes: Array
    idle: Array
    alive: Array


def _slack(program: LinearProgram, x: Vector) -> Vector:
    """Gx + h, and 1 where there is no constraint."""
    there = program.present
    return jax.tree.map(
        lambda g, h, t: jnp.where(t, g + h, 1), program.linear(x), program.offset, there
    )


def _step(program: LinearProgram, polish: Array, point: Point) -> tuple[Point, Array]:
    """One predictor and corrector; or, to polish, the vertex that the iteration was heading for.

    s is kept beside x, not computed from it: near the optimum Gx + h has lost all its digits.

    To polish, the constraints that look active are made so, the multipliers of the others are made
    0: least squares with weights that differ by a fixed factor, where those of the iteration by
    then differ by its square or more. Repeated, it takes another guess at what is active, and
    solves for what rounding left. A wrong guess does no harm, since a bracket only narrows.

    Returns:
        The point; and False, with no step, once it is no longer a number.
    """
    x, s, z = point
    there, slack = program.present, _slack(program, x)

    def weigh(s, z, gx, t):
        held = jnp.where(gx < z, jnp.ones_like(s), _FAINT)
        return jnp.where(t, jnp.where(polish, held, z / s), 0)

    theta = jax.tree.map(weigh, s, z, slack, there)
    solve = program.factor(theta)
    count = sum(t.sum() for t in jax.tree.leaves(there))
    total = _total(jax.tree.map(jnp.multiply, s, z))

    def turn(number, found):
        """First the predictor, from no step at all; then the corrector, from the predictor."""
        _, ds, dz, *reach = found
        reach_s, reach_z = jnp.minimum(1, jnp.stack(reach))
        ahead = jax.tree.map(
            lambda a, da, b, db: (a + reach_s * da) * (b + reach_z * db), s, ds, z, dz
        )
        center = number * (total / count) * (_total(ahead) / total) ** 3
        # What s z is to change by, to first order.
        target = jax.tree.map(lambda a, da, b, db: center - a * b - da * db, s, ds, z, dz)

        def pull(r, s, z, th, gx, t):
            held = jnp.where(gx < z, -gx, -z)
            return jnp.where(t, jnp.where(polish, held, r / s - th * (gx - s)), 0)

        # A predictor need not be exact.
        last = polish | (number > 0)
        dx, dz = solve(jax.tree.map(pull, target, s, z, theta, slack, there), last)
        ds = jax.tree.map(
            lambda r, s, z, d, t: jnp.where(t, (r - s * d) / jnp.where(t, z, 1), 0),
            target, s, z, dz, there,
        )  # fmt: skip
        return dx, ds, dz, _reach(s, ds), _reach(z, dz)

    one = jnp.ones_like(total)
    nothing = (*jax.tree.map(jnp.zeros_like, (x, s, z)), one, one)
    *step, reach_s, reach_z = lax.fori_loop(0, jnp.where(polish, 1, 2), turn, nothing)
    reach_s, reach_z = (
        jnp.where(polish, 1, jnp.minimum(1, _BACK_OFF * reach)) for reach in (reach_s, reach_z)
    )
    new = Point(*map(_move, point, step, (reach_s, reach_s, reach_z)))
    alive = jnp.isfinite(_total(new))
    return _pick(alive, new, point), alive


def _move(values: Vector, change: Vector, length: Array) -> Vector:
    return jax.tree.map(lambda a, d: a + length * d, values, change)


def _reach(values: Vector, change: Vector) -> Array:
    """The longest step, at most 1 / _BACK_OFF, that keeps every value nonnegative."""
    leaves = zip(jax.tree.leaves(values), jax.tree.leaves(change), strict=True)
    pace = [jnp.max(-d / jnp.where(v > 0, v, 1), initial=_BACK_OFF) for v, d in leaves]
    return 1 / reduce(jnp.maximum, pace)


def _total(tree: Any) -> Array:
    return reduce(jnp.add, [leaf.sum() for leaf in jax.tree.leaves(tree)])


def _pick(first: Array, a: Any, b: Any) -> Any:
    """Every leaf of a, or every leaf of b."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), a, b)


def _tighten(old: Bracket, found: Bracket) -> Bracket:
    """Keep the better of either side; a NaN never replaces a number."""
    better, higher = found.upper < old.upper, found.lower > old.lower
    return Bracket(*map(_pick, (better, higher, better, higher), found, old))
