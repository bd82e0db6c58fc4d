r"""The reward that shows a chain to be entangled (Thm 2, for any number of agents).

Let V_A be the functions of the pairs of the agents in A. Every reward in V_A has a value in V_A if
and only if P maps V_A into itself. A chain is separable if and only if that holds for every A that
leaves out one agent (`docs/theory/ladder.md`); so for an entangled chain some A fails, and the
smallest such A say most. They show where each agent's functions are split into the constant and
the rest: joint functions are then a sum of spaces W_B, one for each set B of agents, V_A is the sum
of W_B over B ⊂ A, and A fails at its own W_A if no smaller set does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount
from .._reads import reads
from ..chains.pair_chain import PairChain
from ..chains.views import ProductForm
from ..models.contracts import Scalar
from ..models.layouts import FactorView
from ..numerics.arrays import dot
from ..numerics.compiled import jit
from ..numerics.elimination import discounted_solve
from ..numerics.kron import kron_mv
from .separability import NOISE_EPS, product_of_agents

Array = jax.Array


@reads("a reward whose value no functions of the same agents give: {0.violation:.4g} is missed")
class Witness(NamedTuple):
    r"""A reward on some agents' pairs whose value is no function of these (Thm 2).

    Attributes:
        rewards: one `[X_i]` an agent: the reward where one agent alone is paid (zero for the rest,
            largest entry 1); zero for all where the reward is on several agents' pairs.
        violation: $\min_q \|Q - q\|_2$ over functions q of the pairs of the agents that are paid.
        reward: the joint reward, `[J]`, largest entry 1.
        agents: whose pairs the reward depends on, bool `[N]`.
        agent: the agent not among them on whose pair the value depends most.
        order: how many agents are paid: the least number for which there is such a reward.
    """

    rewards: tuple[Array, ...]
    violation: Array
    reward: Array
    agents: Array
    agent: Array
    order: Array


def separability_witness(chain: PairChain, *, discount: Scalar = 0.9) -> Witness:
    r"""The reward on few agents' pairs whose value is least a function of these pairs (Thm 2).

    Suppose local functions Q_i(r_i) that see only their own reward fit Q for every reward. With all
    rewards 0 they add up to 0, so each Q_k(0) is a constant. So with a reward v for agent i and 0
    for the others, Q = (I - discount P)^-1 (e ⊗ v ⊗ e) must be a function of x_i alone. The witness
    is the v that violates this most: the largest singular vector of v -> Q - mean of Q given x_i.

    Differentiable; a reward on several agents' pairs is held fixed.

    Three agents or more may pass this and be entangled. Then the reward is on the pairs of the
    fewest agents for which some value depends on the pair of another. What is below the machine
    epsilon to the power 2/3, beside the largest violation of any order, counts as none there.

    Args:
        chain: of agents whose pairs make up the joint pair; its matrix is formed.
        discount: in (0, 1).

    Returns:
        The reward, and the 2-norm over joint pairs of what the best function of the paid agents'
        pairs leaves of Q. It is rounding if and only if the chain is separable.

    Examples:
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> found = jaxent.separability_witness(chain)
        >>> print(f"{found.violation:.3f}")
        1.800
        >>> chain = jaxent.PairChain.from_matrix(jaxent.three_agents(), sizes=(2, 2, 2))
        >>> found = jaxent.separability_witness(chain)
        >>> print(found.order, found.agents, found.agent, f"{found.violation:.3f}")
        2 [ True  True False] 2 2.546
    """
    form = product_of_agents(chain)
    sizes, order = form
    check_discount(discount)
    gaps, grams = _gaps(chain, order, discount, sizes)
    several = None
    if len(sizes) > 2:
        gap, gram, agents, lowest = _of_several(chain, order, discount, sizes)
        vector = jnp.linalg.eigh(jax.lax.stop_gradient(gram))[1][:, -1]
        several = _on_pairs(gap, vector, agents, sizes)
        # Where it is not asked, an eigenvector of rounding has no derivative, not even times 0.
        spare = (jnp.diag(jnp.arange(len(gram), dtype=gram.dtype)) for gram in grams)
        grams = [jnp.where(lowest == 1, a, b) for a, b in zip(grams, spare, strict=True)]
    # Right singular vectors by the small Gram matrix, one call of LAPACK in a program.
    found = _worst_of_one(gaps, [jnp.linalg.eigh(gram)[1][:, -1] for gram in grams], sizes)
    if several is not None:
        found = jax.tree.map(lambda a, b: jnp.where(lowest == 1, a, b), found, several)
    if order is not None:
        found = found._replace(reward=found.reward[np.argsort(order)])
    return found


@jit(static_argnums=3)
def _gaps(
    chain: PairChain, order: Array | None, discount: Scalar, sizes: tuple[int, ...]
) -> tuple[list[Array], list[Array]]:
    """What values of agent i's rewards are beyond functions of x_i, `[J, X_i]`; Gram matrices."""
    P = ProductForm(sizes, order).matrix(chain)
    gaps = []
    for i, size in enumerate(sizes):
        view = FactorView((i,), sizes)
        q = discounted_solve(P, view.lift(jnp.eye(size, dtype=P.dtype)), discount)  # of e ⊗ v ⊗ e
        gaps.append(q - view.lift(view.project(q) * size / len(P)))
    return gaps, [dot(gap.T, gap) for gap in gaps]


@jit(static_argnums=2)
def _worst_of_one(gaps: list[Array], vectors: list[Array], sizes: tuple[int, ...]) -> Witness:
    """The agent whose own reward violates most, and that reward."""
    n, tried = len(sizes), []
    for i, (gap, v) in enumerate(zip(gaps, vectors, strict=True)):
        v = v / jnp.abs(v).max()
        rewards = tuple(v if k == i else jnp.zeros_like(vectors[k]) for k in range(n))
        tried.append((dot(gap, v), rewards, FactorView((i,), sizes).lift(v)))
    worst = jnp.stack([_length(left) for left, _, _ in tried]).argmax()
    left, rewards, reward = jax.tree.map(lambda *each: jnp.stack(each)[worst], *tried)
    return _witness(rewards, reward, left, jnp.arange(n) == worst, sizes)


@jit(static_argnums=3)
def _of_several(
    chain: PairChain, order: Array | None, discount: Scalar, sizes: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """By components: what values of rewards in W_A are beyond V_A, `[J, J]`, its Gram matrix, A.

    A is the set with the largest violations (as a sum of squares) of those of the lowest order.
    """
    P = ProductForm(sizes, order).matrix(chain)
    values = discounted_solve(P, jnp.eye(len(P), dtype=P.dtype), discount)
    basis = [jnp.asarray(contrasts(size), P.dtype) for size in sizes]
    for _ in range(2):  # the output, then the input
        values = jax.vmap(lambda column: kron_mv(basis, column), 1)(values)  # transposed
    support = supports(sizes)  # [J, N]
    leaves = (support[:, None] & ~support[None]).any(-1)  # [J, J], of an input set
    left = jnp.where(leaves, values, 0)
    paid = support.sum(1)
    by_input = (left**2).sum(0)
    n, orders = len(sizes), np.arange(1, len(sizes))
    missed = jnp.sqrt(jnp.stack([jnp.where(paid == k, by_input, 0).sum() for k in orders]))
    eps = float(jnp.finfo(P.dtype).eps)
    noise = NOISE_EPS * eps * jnp.linalg.norm(values)
    found = missed > jnp.maximum(noise, eps ** (2 / 3) * missed.max())
    lowest = 1 + found.argmax()  # 1 if none is
    code = support @ (1 << np.arange(n))
    by_set = jax.ops.segment_sum(by_input, jnp.asarray(code), num_segments=2**n)
    sets = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    chosen = jnp.where(sets.sum(1) == lowest, by_set, -1).argmax()
    gap = jnp.where(code == chosen, left, 0)
    return gap, dot(gap.T, gap), jnp.asarray(sets == 1)[chosen], lowest


@jit(static_argnums=3)
def _on_pairs(gap: Array, vector: Array, agents: Array, sizes: tuple[int, ...]) -> Witness:
    """The witness of a reward and a gap by components."""
    back = [jnp.asarray(contrasts(size).T, gap.dtype) for size in sizes]
    reward, left = (kron_mv(back, x) for x in (vector, dot(gap, vector)))
    largest = jnp.abs(reward).max()
    nothing = tuple(jnp.zeros(size, gap.dtype) for size in sizes)
    return _witness(nothing, reward / largest, left / largest, agents, sizes)


def _witness(
    rewards: tuple[Array, ...], reward: Array, left: Array, agents: Array, sizes: tuple[int, ...]
) -> Witness:
    grid = left.reshape(sizes)
    moved = jnp.stack(
        [jnp.linalg.norm(grid - grid.mean(i, keepdims=True)) for i in range(len(sizes))]
    )
    agent = jnp.where(agents, -1, moved).argmax()
    return Witness(rewards, _length(left), reward, agents, agent, agents.sum())


def _length(x: Array) -> Array:
    """The 2-norm, with derivative 0 at 0."""
    square = (x**2).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def contrasts(size: int) -> np.ndarray:
    """An orthonormal basis of functions of a pair, in rows: the constant first."""
    columns = np.eye(size)
    columns[:, 0] = 1
    basis = np.linalg.qr(columns)[0].T
    return basis * np.where(basis.sum(1, keepdims=True) < 0, -1, 1)


def supports(sizes: tuple[int, ...]) -> np.ndarray:
    """Of each component of a joint function, the agents that it depends on, bool `[J, N]`."""
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), -1) > 0
