r"""Measures of entanglement from the rows of one view, and what every measure returns.

The agent-wise measures ask a chain for nothing but the rows P(x' | joint pair) of a view, sorted by
local pair: points `[X, C, m]`, C what else a joint pair may be, with weights or a mask `[X, C]`.
Every minimum comes with a point that attains `upper` and a dual point that proves `lower`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape, check_stochastic, concrete
from .._reads import reads
from ..models.contracts import ArrayLike, Scalar, TableModel, View, check_policy
from ..models.parts import TablePolicy
from ..numerics.arrays import as_float, rounding
from ..numerics.compiled import jit
from ..numerics.simplex import total_variation, tv_center
from .distances import MAX_ENUMERATED, mu_inf_norm, sign_vectors
from .double import in_double
from .programs.minimax_tv_center import minimax_center
from .programs.mu_atv_center import sign_center

Array = jax.Array

# What every measure certifies, and the steps it takes for that, if nothing else is asked for.
TOL, MAX_STEPS = 1e-6, 60
# The program of Def. 8 lists every sign vector x as long as it then compares no more than 2^19
# numbers |(p_j - q) x|; else 64 likely ones.
_LISTED = 2**19
_SIGNS = 64


@reads("{0.value:.4g}, certified between {0.lower:.9g} and {0.upper:.9g}")
class Entanglement(NamedTuple):
    """A minimum, bracketed: lower <= minimum <= upper, rounded outward.

    In single precision the bracket is that of float64 on the host where no argument is traced, and
    within 1e-6 of it; under `jit`, `vmap` or a gradient it is that of float32, and 1e-5 is what it
    certifies: ask for no smaller `tol` there.

    Attributes:
        value: what `minimizer` attains as it was computed, with a gradient.
        lower: what the dual solution proves.
        upper: that, and what rounding may have done to it.
        minimizer: the nearest local transition `[X_i, X_i]` (for Prop. 1 the local policy
            `[S_i, A_i]`, for Prop. 3 `[S_i, Z, A_i]`), or for the two-agent measures a
            `SeparableChain`; for Eq. (14) the local rewards, `[X_i]` each.
        num_steps: interior-point steps; 0 where the answer is exact.
        converged: whether upper - lower <= tol.
    """

    value: Array
    lower: Array
    upper: Array
    minimizer: Any
    num_steps: Array
    converged: Array


@in_double
@jit
def minimax_entanglement(
    points: Array, present: Array, *, tol: Scalar, max_steps: int | Array
) -> Entanglement:
    """Eq. (5) from the rows of a view.

    Args:
        points: P(x' | joint pair) by local pair and the rest, `[X, C, X]`.
        present: which of them are visited, bool `[X, C]`.
        tol: gap to certify.
        max_steps: interior-point steps at most.
    """
    fixed, terms = jax.lax.stop_gradient(points), points[0].size
    # Only the worst local pair matters: those seen to be better are left unfinished.
    gap = left_of(tol, points.dtype, terms)
    solve = partial(minimax_center, tol=gap, max_steps=max_steps, rivals="pairs")
    bracket, steps, _ = jax.vmap(solve, axis_name="pairs")(fixed, present)
    # XLA on a CPU may take NaN for the least number in the maxima of many problems at once.
    upper = jnp.where(jnp.isnan(fixed).any(), jnp.nan, bracket.upper.max())
    lower = bracket.lower.max()
    weight, alpha = bracket.dual
    worst = jnp.arange(len(fixed)) == bracket.upper.argmax()
    carried = -jnp.maximum(weight[..., None] - alpha, 0) * worst[:, None, None]
    return certified(upper, lower, bracket.primal, steps.max(), tol, terms, (points, carried))


@in_double
@jit
def sign_entanglement(
    points: Array,
    weights: Array,
    *,
    signs: np.ndarray | None = None,
    mend: Callable[[Array], Array] | None = None,
    tol: Scalar,
    max_steps: int | Array,
) -> Entanglement:
    """Def. 8 from the rows of a view, on all sign vectors where they are few.

    Args:
        points: P(x' | joint pair) by local pair and the rest, `[X, C, m]`.
        weights: law of the joint pair, `[X, C]`.
        signs: where not all sign vectors are listed, those that `lower` rests on, `[R, m]`; by
            default the likely ones.
        mend: takes the minimizer for these to one for all, `[X, m]` to `[X, m]`; a
            `jax.tree_util.Partial`.
        tol: gap to certify.
        max_steps: interior-point steps at most.
    """
    p, w = jax.lax.stop_gradient((points, weights))
    m = points.shape[-1]
    whole = _lists_all_signs(m, w.size)
    if whole:
        # The first vector, all +1, sees no difference between laws.
        listed = jnp.asarray(sign_vectors(m)[1:] if m > 1 else sign_vectors(m), p.dtype)
    else:
        coarse = jax.vmap(tv_center)(p, w)
        listed = _likely_signs(p - coarse.point[:, None], w) if signs is None else signs
        listed = jnp.asarray(listed, p.dtype)
    terms = points.size * len(listed)
    gap = left_of(tol, p.dtype, terms)
    bracket, steps, _ = sign_center(p, w, listed, tol=gap, max_steps=max_steps)
    upper, q = bracket.upper, bracket.primal
    if not whole:
        q = q if mend is None else mend(q)
        apart = (p - q[:, None]).reshape(-1, m)
        upper = mu_inf_norm(apart, w.reshape(-1)).upper / 2
        better = upper <= coarse.upper.sum()
        q = jnp.where(better, q, coarse.point)
        upper = jnp.minimum(upper, coarse.upper.sum())
    force = bracket.dual.force
    return certified(
        upper,
        bracket.lower,
        q,
        steps,
        tol,
        terms,
        (points, w[..., None] / 2 * force),
        (weights, ((p - q[:, None]) * force).sum(-1) / 2),
    )


def _lists_all_signs(m: int, rows: int) -> bool:
    """Whether so many rows are compared on every sign vector of m entries."""
    return m <= MAX_ENUMERATED and 2 ** (m - 1) * rows <= _LISTED


def _likely_signs(apart: Array, weights: Array) -> Array:
    """Signs of the largest differences, and the best that a search finds, `[R, m]`."""
    apart, weights = apart.reshape(-1, apart.shape[-1]), weights.reshape(-1)
    rows = jnp.argsort(weights * jnp.abs(apart).sum(1))[-_SIGNS:]
    return jnp.concatenate(
        [jnp.where(apart[rows] >= 0, 1, -1), mu_inf_norm(apart, weights).signs[None]]
    )


@in_double
@jit
def weighted_centers(points: Array, weights: Array, *, tol: Scalar) -> Entanglement:
    """Eq. (7) from the rows of a view `[X, C, m]` and their law `[X, C]`: a center a local pair."""
    centers = jax.vmap(tv_center)(*jax.lax.stop_gradient((points, weights)))
    apart = total_variation(jax.lax.stop_gradient(points), centers.point[:, None])
    moved = centers.weights[..., None] * centers.slopes
    upper, lower = centers.upper.sum(), centers.lower.sum()
    slopes = (points, moved), (weights, apart)
    return certified(upper, lower, centers.point, 0, tol, points.size, *slopes)


def same_shape(views: Sequence[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Points and weights of several views, filled up to the same shape where they are small.

    Then one program is compiled for them all. Added local pairs and rows weigh nothing, and added
    next pairs have no probability, so that no minimum changes; `of_view` cuts a result to size.
    """
    shapes = {weights.shape for _, weights in views}
    num, rest = (max(n) for n in zip(*shapes, strict=True))
    if len(shapes) == 1 or not _lists_all_signs(num, num * rest):
        return list(views)
    return [(_filled(p, (num, rest, num)), _filled(w, (num, rest))) for p, w in views]


@jit(static_argnames="shape")
def _filled(array: Array, shape: tuple[int, ...]) -> Array:
    return jnp.pad(array, [(0, n - k) for n, k in zip(shape, array.shape, strict=True)])


def of_view(found: Entanglement, size: int) -> Entanglement:
    """A result of `same_shape` for a view of this many local pairs.

    What the minimizer has on added next pairs goes to the first pair, as far from every law or
    nearer: a sign vector that sees the two together is one of those that were listed.
    """
    if len(found.minimizer) == size:
        return found
    kept = found.minimizer[:size, :size]
    return found._replace(minimizer=kept.at[:, 0].add(found.minimizer[:size, size:].sum(1)))


def left_of(tol: Scalar, dtype: Any, terms: int) -> Array:
    """The gap that a program is to close, so that what `certified` adds to it leaves `tol`.

    Where next to nothing is left `tol` cannot be had, and its steps end at that themselves.
    """
    left = tol - 2 * rounding(dtype, terms)
    return jnp.where(left > tol / 4, left, tol)


def certified(
    upper: Array,
    lower: Array,
    minimizer: Any,
    steps: Any,
    tol: Scalar,
    terms: int,
    *slopes: tuple[Array, Array],
    size: Scalar = 1.0,
) -> Entanglement:
    """The result, its value moving with each argument as the slope beside it says.

    The bracket is rounded outward: each side adds up so many terms, of that absolute sum at most. A
    minimum of exactly 0 stays that: no term of it was rounded.
    """
    slack = size * rounding(upper.dtype, terms)
    value = upper
    upper = jnp.where(upper == 0, upper, upper + slack)
    lower = jnp.maximum(lower - slack, 0)
    for argument, slope in slopes:
        move = argument - jax.lax.stop_gradient(argument)  # 0, with derivative 1
        value = value + jnp.sum(jax.lax.stop_gradient(slope) * move)
    converged = jnp.abs(upper - lower) <= tol
    return Entanglement(value, lower, upper, minimizer, jnp.asarray(steps), converged)


def policy_rows(
    mdp: TableModel, policy: ArrayLike, mu: ArrayLike, agent: int
) -> tuple[Array, Array, View]:
    """An agent's laws of actions by joint state, `[S, A_i]`, their law `[S]`, and what it sees.

    Raises:
        ValueError: if there is no such agent, agents have no kernels of their own, or mu is not a
            law on joint pairs.
    """
    check_policy(mdp, policy)
    n = int(np.size(mdp.num_actions))
    if not 0 <= agent < n:
        raise ValueError(f"agent: {agent} is not one of the agents 0..{n - 1}")
    view = mdp.policy_view(agent)
    policy = as_float(policy)
    part = mdp.parts(policy)[1]
    assert isinstance(part, TablePolicy)
    check_shape("mu", mu, (part.table.size,))
    check_stochastic("mu", mu)
    # With ones for chances the mean over actions is the sum: the law of the joint states.
    law = TablePolicy(jnp.ones_like(part.table)).mv(jnp.asarray(mu).astype(policy.dtype))
    others = tuple(k for k in range(-n, 0) if k != agent - n)
    own = policy.sum(others)  # [S_0.., A_i]
    return own.reshape(-1, own.shape[-1]), law, view


def check_tolerance(tol: Scalar) -> None:
    """Raise unless tol > 0."""
    if concrete(tol) and not float(tol) > 0:
        raise ValueError(f"tol: {float(tol):.9g} is not positive")
