r"""Entanglement by projected gradient descent over local simplices.

The general method: any distance, smooth or not, any optax optimizer. It knows no lower bound of its
own; the measures in `entanglement` do, and are what it is held against. In the paper's own form,

    P = sum_j x_j P_1^(j) (x) ... (x) P_N^(j),   sum_j x_j = 1,   P >= 0,

it also serves N agents, for whom the polytope of separable chains is too large to list. A signed
combination with a negative entry is mixed with the uniform chain until it has none: the mixture is
separable as well.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_positive_int, key_first
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import stationary_distribution
from ..chains.views import local_transition
from ..numerics.arrays import HIGHEST
from ..numerics.kron import kron
from ..numerics.simplex import project_simplex, total_variation
from .entanglement import SeparableChain, entanglement_atv, visited
from .row_measures import Entanglement

if TYPE_CHECKING:
    import optax

Array = jax.Array
Point = TypeVar("Point", bound="optax.Params")


@reads("distance {0.value:.4g} after {0.history.size} steps")
class Descent(NamedTuple, Generic[Point]):
    """The best point met in a descent.

    Attributes:
        value: the distance there.
        minimizer: the point.
        history: the distance at every step, `[num_steps]`.
    """

    value: Array
    minimizer: Point
    history: Array


def minimize_entanglement(
    distance: Callable[[Point], Array],
    start: Point,
    *,
    optimizer: "optax.GradientTransformation | None" = None,
    num_steps: int = 500,
    project: Callable[[Point], Point] | None = None,
) -> Descent[Point]:
    """Projected gradient descent on a distance of local transitions.

    Args:
        distance: from a pytree of row-stochastic arrays to a scalar, e.g.
            `lambda P_A: (mu * total_variation(rows, P_A[pair])).sum()`.
        start: the pytree to start from.
        optimizer: any optax optimizer; by default Adam with a cosine decay from 0.05.
        num_steps: how many steps. Static.
        project: back to the feasible set; by default every row of every leaf on its simplex.
    """
    import optax  # slow to import, and few ask for it

    check_positive_int("num_steps", num_steps)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.05, num_steps, 1e-3))
    if project is None:
        project = lambda point: jax.tree.map(project_simplex, point)  # noqa: E731

    def step(carry, _):
        point, state, best, value = carry
        found, slope = jax.value_and_grad(distance)(point)
        better = found < value
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), point, best)
        with jax.numpy_dtype_promotion("standard"):
            move, state = optimizer.update(slope, state, point)
            moved = project(cast(Point, optax.apply_updates(point, move)))
        return (moved, state, best, jnp.where(better, found, value)), found

    start = project(start)
    first = (start, optimizer.init(start), start, distance(start) + jnp.inf)
    (_, _, best, value), history = lax.scan(step, first, length=num_steps)
    return Descent(value, best, history)


@reads("a signed sum of {0.weights.size} products of local transitions")
class SignedProduct(NamedTuple):
    """sum_j x_j (x)_i P_i^(j): weights x `[K]`, factors P_i^(j) `[K, X_i, X_i]` of every agent."""

    weights: Array
    factors: tuple[Array, ...]

    def matrix(self) -> Array:
        """The combination, mixed with the uniform chain as far as a negative entry asks."""
        terms = jax.vmap(lambda *parts: kron(parts))(*self.factors)  # [K, J, J]
        total = jnp.tensordot(self.weights, terms, 1, precision=HIGHEST)
        uniform = 1 / total.shape[-1]
        worst = jnp.minimum(total.min(), 0)
        share = -worst / (uniform - worst)
        return jnp.maximum((1 - share) * total + share * uniform, 0)


@key_first
def entanglement_tv_signed(
    key: Array,
    chain: PairChain,
    *,
    num_terms: int = 4,
    num_steps: int = 2000,
    optimizer: "optax.GradientTransformation | None" = None,
    tol: float = 1e-6,
) -> Entanglement:
    r"""TV to the separable chains of N agents (Def. 10), from above by descent.

    The lower bound is the largest agent-wise E_i of Eq. (5), which no separable chain beats. The
    two meet only by luck or at 0: `converged` says so. The value has no gradient.

    Args:
        key: for the first terms.
        chain: N agents, each its own factor; its matrix is formed.
        num_terms: K. Static.
        num_steps: descent steps. Static.
        optimizer: any optax optimizer.
        tol: gap to certify.
    """
    check_chain(chain)
    chain = lax.stop_gradient(chain)
    P, rows = chain.matrix(), visited(chain)
    mu = stationary_distribution(chain)
    agents = range(len(chain.sizes))
    local = [local_transition(chain, mu, agent=i) for i in agents]
    keys = jax.random.split(key, len(local))
    factors = tuple(
        project_simplex(Q[None] + 0.1 * jax.random.normal(k, (num_terms, *Q.shape), Q.dtype))
        for k, Q in zip(keys, local, strict=True)
    )
    factors = tuple(f.at[0].set(Q) for f, Q in zip(factors, local, strict=True))
    start = SignedProduct(jnp.zeros(num_terms, P.dtype).at[0].set(1), factors)

    def project(point):
        weights = point.weights + (1 - point.weights.sum()) / num_terms
        return SignedProduct(weights, tuple(map(project_simplex, point.factors)))

    def distance(point):
        return jnp.where(rows, total_variation(P, point.matrix()), 0).max()

    found = minimize_entanglement(
        distance, start, optimizer=optimizer, num_steps=num_steps, project=project
    )
    lower = jnp.stack([entanglement_atv(chain, agent=i, tol=tol).lower for i in agents]).max()
    best = found.minimizer
    nearest = SeparableChain(best, best.matrix())
    gap = jnp.abs(found.value - lower)
    return Entanglement(found.value, lower, found.value, nearest, jnp.array(num_steps), gap <= tol)
