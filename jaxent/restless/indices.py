r"""Index policies: whom to serve first.

Whittle (1988) pays a subsidy λ for being idle. Under a policy with passive set D the value is
affine in λ, so the advantage of acting is affine too,

    b_s(λ) = r(s, 1) - r(s, 0) - λ + discount (P_1 - P_0)(s) . V_λ = α_s - λ β_s.

From λ = -∞, where everyone acts, the optimal policy changes where some b_s reaches 0. The bandit is
indexable if states only ever turn idle; the λ at which a state does, the least at which idling is
optimal, is its index. One state changes at a time, so the inverse Z of I - discount P + e e' / S
(the last term moves all values alike, which no advantage sees) changes by rank one, and following
the path to λ = +∞ costs O(S^3) in all, with no guess of λ and no bisection.

The average reward is the limit of discounts to 1. With ρ = (1 - discount) / discount the advantage
is a series,

    b(λ) = r(., 1) - r(., 0) - λ + (P_1 - P_0) (Z - ρ Z² + ρ² Z³ - ..) (r + λ idle),

whose first term is what gain and bias say. Where that is 0 on a whole interval of λ, as it is for
states that either action leaves for good, acting and idling tie and the average reward settles no
index. The next term does: the index is the limit of the discounted ones.

The fluid index comes from the linear program in which the budget holds on average. All of these
are computed once, in NumPy and in float64; a priority is a permutation of the states, the first to
be served first.

References:
    Whittle (1988), Restless bandits; Gast, Gaujal and Khun (2023), Testing indexability and
    computing Whittle and Gittins index in subcubic time (the same path, with updates in blocks).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy

from .._checks import check_finite, check_shape, concrete
from .._reads import Frame, frame, reads
from ..models.contracts import Ranking, known_priority
from ..models.restless_bandit import RestlessBandit, check_bandit
from .linear_program import ROUNDING, ranks, solve_program

Array = jax.Array

# Rank-one updates between two fresh inverses, so that rounding does not pile up.
_REFRESH = 64
# How often a state may switch, on average: once, but for ties.
_SWITCHES = 4
# How many powers of 1 - discount tell average-reward ties apart.
_ORDERS = 4

_MULTICHAIN = "{} has several recurrent classes and so no single average reward"


@reads("indexable: {0.indexable}; a NaN has no index")
class WhittleIndex(NamedTuple):
    """Whittle indices and the verdict.

    Attributes:
        index: the subsidy at which each state turns idle, `[S]`; all NaN if not indexable.
        indexable: whether the passive set grows with the subsidy.
        state: the first state that turns active again as the subsidy grows; -1 if indexable.
        subsidy: where it does; NaN if indexable.
    """

    index: np.ndarray
    indexable: bool
    state: int
    subsidy: float

    @property
    def priority(self) -> np.ndarray:
        """States by falling index, the first to be served first, ties by number: `[S]`.

        Raises:
            ValueError: if the bandit is not indexable.
        """
        if not self.indexable:
            raise ValueError(
                f"priority: the bandit is not indexable (state {self.state} turns active again at "
                f"a subsidy of {self.subsidy:.6g}), so no index orders its states; fluid_priority "
                "and myopic_priority always do"
            )
        return index_priority(self.index)

    def to_frame(self) -> Frame:
        """A row a state."""
        return frame({"state": np.arange(len(self.index)), "index": self.index})


@reads("the fluid program is worth {0.value:.9g} an agent")
class FluidPriority(NamedTuple):
    """Solution of the relaxation in which the budget holds on average.

    Attributes:
        value: its average reward an agent and step, an upper bound for every policy.
        occupancy: its optimal y(s, a), `[S, 2]`.
        index: advantage of acting at the multiplier of the budget, `[S]`.
        priority: states by index, ties by the share that acts; first served first, `[S]`.
    """

    value: float
    occupancy: np.ndarray
    index: np.ndarray
    priority: np.ndarray

    def to_frame(self) -> Frame:
        """A row a state; rank 0 is served first."""
        idle, active = np.asarray(self.occupancy).T
        columns = {"state": np.arange(len(self.index)), "rank": np.argsort(self.priority)}
        return frame({**columns, "index": self.index, "idle": idle, "active": active})


def whittle_index(bandit: RestlessBandit) -> WhittleIndex:
    """Whittle indices for the discounted reward, exact, with the indexability verdict.

    Args:
        bandit: discount in [0, 1); number of agents and budget do not matter.

    Raises:
        ValueError: for a bad bandit. Not being indexable is a result, not an error.

    Examples:
        >>> import jaxent
        >>> found = jaxent.whittle_index(jaxent.circulant_bandit(5))
        >>> print(found.index.round(3), found.indexable)
        [-0.25  0.25  0.4  -0.4 ] True
    """
    passive, active, gap, reward = _arrays(bandit)
    return _follow(passive, active, gap, reward, float(bandit.discount))


def average_whittle_index(bandit: RestlessBandit) -> WhittleIndex:
    """Whittle indices for the average reward, exact, with the indexability verdict.

    Where acting and resting earn the same average on a whole interval of subsidies, the index is
    the limit of the discounted indices as the discount goes to 1. So is the verdict, for subsidies
    that stay apart in the limit.

    Args:
        bandit: its discount does not matter. The policies on the path must be unichain.

    Raises:
        ValueError: for a bad bandit, or where a policy on the path has several recurrent classes
            and so no single average reward; it names the state whose switch makes it so.
    """
    passive, active, gap, reward = _arrays(bandit)
    return _follow(passive, active, gap, reward, 1.0)


def _arrays(bandit: RestlessBandit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    check_bandit(bandit)
    if not concrete(bandit.passive, bandit.active, bandit.reward, bandit.discount):
        raise ValueError("bandit: indices are computed outside a trace")
    passive, active, reward = (
        np.asarray(x, np.float64) for x in (bandit.passive, bandit.active, bandit.reward)
    )
    return passive, active, reward[:, 1] - reward[:, 0], reward


def _follow(passive, active, gap, reward, discount) -> WhittleIndex:
    """Follow the optimal policy from λ = -∞ to +∞."""
    num_states = len(gap)
    change = discount * (active - passive)  # [S, S]
    reach, largest = np.abs(change), np.empty_like(change)
    idle = np.zeros(num_states, bool)
    index = np.full(num_states, np.nan)
    now = -np.inf
    inverse = _inverse(active, discount)
    if inverse is None:
        raise ValueError(_MULTICHAIN.format("active: the chain of always acting"))
    orders = 1 if discount < 1 else min(num_states, _ORDERS)
    for step in range(_SWITCHES * num_states):
        paid = np.stack([np.where(idle, reward[:, 0], reward[:, 1]), idle], axis=1)  # [S, 2]
        np.abs(inverse, out=largest)
        for some in (1, orders):
            lines = _advantages(change, reach, gap, inverse, largest, paid, some)
            meets, falls, doubt = _crossings(*lines)
            meets = np.maximum(meets, now)
            turns_idle = np.where(~idle & (falls > 0), meets, np.inf)
            turns_active = np.where(idle & (falls < 0), meets, np.inf)
            (s, *rest), back = _first(turns_idle, doubt, lines[0]), int(turns_active.argmin())
            if not rest and lines[0][0, :, 1].all():
                break  # no tie, so higher orders have no say
        if turns_active[back] + doubt[back] < turns_idle[s] - doubt[s]:
            if turns_active[back] - doubt[back] > index[back]:
                return _not_indexable(num_states, back, turns_active[back])
            s = back  # it tied with others and was taken before its turn
        elif turns_idle[s] == np.inf:
            raise ValueError(_MULTICHAIN.format("passive: the chain of some policy"))
        else:
            # States that tie have the same index, to the last bit.
            now = now if turns_idle[s] - doubt[s] <= now else turns_idle[s]
        idle[s] = not idle[s]
        index[s] = now if idle[s] else np.nan
        if idle.all():
            return WhittleIndex(index, True, -1, float("nan"))

        if (step + 1) % _REFRESH == 0:
            inverse = _inverse(np.where(idle[:, None], passive, active), discount)
        else:
            inverse = _replace_row(inverse, s, change[s] if idle[s] else -change[s])
        if inverse is None:
            raise ValueError(_MULTICHAIN.format(f"passive: when state {s} turns idle, the chain"))
    raise ValueError("bandit: too many states tie at one subsidy to be told apart by rounding")


def _advantages(
    change, reach, gap, inverse, largest, paid, orders
) -> tuple[np.ndarray, np.ndarray]:
    """α and β of every state `[orders, S, 2]`, and the size of their rounding errors.

    `reach` and `largest` are the absolute values of `change` and of the inverse. A number that may
    be nothing but rounding is 0. For the average reward there is one order for each power of
    (1 - discount) / discount, from 0 on.
    """
    # A constant reward moves no advantage. Without the usual one, rounding is that of the rest.
    x = paid - [np.median(paid[:, 0]), 0]  # [S, 2]
    size = np.abs(x)
    lines, doubts = np.zeros((2, orders, len(gap), 2))
    lines[0] = np.stack([gap, np.full(len(gap), -1.0)], axis=1)
    doubts[0] = np.abs(lines[0])
    for k in range(orders):
        x, size = _times(inverse, x), _times(largest, size)
        lines[k] += (-1) ** k * _times(change, x)
        doubts[k] += _times(reach, size)
    lines, doubts = lines * [1, -1], ROUNDING * doubts
    return np.where(np.abs(lines) > doubts, lines, 0), doubts


def _times(matrix, columns) -> np.ndarray:
    """matrix @ columns for few columns, one by one: BLAS takes twice as long for two at once."""
    return np.stack([matrix @ np.ascontiguousarray(column) for column in columns.T], axis=1)


def _crossings(lines, doubts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each advantage is 0, whether it falls (> 0) or rises there, and the error, `[S]`.

    The first order that a subsidy moves decides, unless a lower one holds the advantage off 0.
    """
    moved = (lines[..., 1] != 0).argmax(0)
    state = np.arange(len(moved))
    (alpha, beta), (a, b) = lines[moved, state].T, doubts[moved, state].T
    lower = np.arange(len(lines))[:, None] < moved
    held = ((lines[..., 0] != 0) & (lower | (beta == 0))).any(0)
    beta = np.where(held, 0, beta)
    # An advantage of 0 at any subsidy: idling is as good from here on.
    meets = np.divide(alpha, beta, where=beta != 0, out=np.where(held, np.inf, -np.inf))
    doubt = np.divide(a + np.abs(meets) * b, np.abs(beta), where=beta != 0, out=np.zeros(len(beta)))
    return meets, np.where((beta == 0) & ~held, 1, beta), doubt


def _first(meets, doubt, lines) -> list[int]:
    """What turns idle first: several states if they tie, in their order just below discount 1."""
    s = int(meets.argmin())
    ties = np.flatnonzero(meets - doubt <= meets[s] + doubt[s])
    if len(ties) == 1 or meets[s] == np.inf:
        return [s]
    moved = (lines[:, ties, 1] != 0).argmax(0)
    after = lines[np.minimum(moved + 1, len(lines) - 1), ties]
    beta = lines[moved, ties, 1]
    late = after[:, 0] - meets[s] * after[:, 1]
    slope = np.divide(late, beta, where=beta != 0, out=np.full(len(ties), -np.inf))
    return ties[slope.argsort()].tolist()


def _not_indexable(num_states: int, state: int, subsidy: float) -> WhittleIndex:
    return WhittleIndex(np.full(num_states, np.nan), False, state, float(subsidy))


def _inverse(P: np.ndarray, discount: float) -> np.ndarray | None:
    """Inverse of I - discount P + e e' / S, or None if it is singular.

    The last term shifts all values alike, which no advantage sees, and keeps the inverse small
    however close to 1 the discount.
    """
    system = np.eye(len(P)) - discount * P + 1 / len(P)
    if discount == 1 and np.linalg.cond(system, 1) > 1e13:
        return None
    return np.linalg.inv(system)


def _replace_row(inverse: np.ndarray, s: int, row: np.ndarray) -> np.ndarray | None:
    """Inverse, in place, after `row` is added to row s of the matrix (Sherman and Morrison)."""
    column, weights = inverse[:, s].copy(), row @ inverse
    pivot = 1 + weights[s]  # a ratio of determinants of M-matrices: positive unless singular
    if pivot < 1e-13 * (1 + np.abs(row) @ np.abs(column)):
        return None
    # In the order of Fortran, in which this BLAS works in place, it is the transpose.
    scipy.linalg.blas.dger(-1, weights, column / pivot, a=inverse.T, overwrite_a=True)
    return inverse


def fluid_priority(bandit: RestlessBandit) -> FluidPriority:
    r"""Priority from the relaxation in which M agents are active on average.

    max Σ y(s, a) r(s, a) over stationary laws y of one agent with Σ_s y(s, 1) = M / N. At the
    multiplier of the budget, the advantage of acting orders the states: those that always act stand
    first, the one that sometimes does next, the others last.

    Raises:
        ValueError: for a bad bandit, if no stationary law spends exactly the budget, or if rewards
            span so many decades that the program cannot be solved for them.

    References:
        Verloop (2016), Asymptotically optimal priority policies; Gast, Gaujal and Yan (2023).
    """
    passive, active, _, reward = _arrays(bandit)
    num_states = len(reward)
    kernel = np.stack([passive, active], axis=1)  # [S, 2, S]
    flow = np.repeat(np.eye(num_states), 2, axis=0) - kernel.reshape(-1, num_states)
    constraints = np.vstack([flow.T, np.ones(2 * num_states), np.tile([0.0, 1.0], num_states)])
    share = float(bandit.budget) / float(bandit.num_agents)
    right = np.concatenate([np.zeros(num_states), [1.0, share]])
    usual = np.median(reward)  # a constant in the reward moves the value alone
    cost = (usual - reward).reshape(-1)
    found = solve_program(scipy.sparse.csr_array(constraints), right, cost)
    if found is None:
        raise ValueError(f"budget: no stationary law spends exactly {share:.6g}")
    occupancy, slack = found.value.reshape(-1, 2), found.slack.reshape(-1, 2)
    doubt = np.maximum(found.rounding, found.wrong.max()).reshape(-1, 2)
    index = slack[:, 0] - slack[:, 1]
    visits = occupancy.sum(1)
    acts = np.divide(occupancy[:, 1], visits, where=visits > 0, out=np.zeros(num_states))
    priority = np.lexsort((-acts, ranks(index, doubt.sum(1))))
    return FluidPriority(float(usual - right @ found.price), occupancy, index, priority)


def index_priority(index: Array | np.ndarray | Sequence[float] | Ranking) -> np.ndarray:
    """States by falling index, the first to be served first, ties by number: `[S]`.

    Args:
        index: `[S]`; or a `WhittleIndex` or `FluidPriority`, which have a priority.

    Raises:
        ValueError: for a NaN, which is what `whittle_index` gives where there is no index.
    """
    if hasattr(type(index), "priority"):
        return np.asarray(known_priority(index))
    check_shape("index", index, (None,))
    check_finite("index", index)
    return np.argsort(-np.asarray(index), kind="stable")


def myopic_priority(bandit: RestlessBandit) -> np.ndarray:
    """States by what acting gains at once, r(s, 1) - r(s, 0); ties by number: `[S]`."""
    _, _, gap, reward = _arrays(bandit)
    return np.argsort(ranks(gap, ROUNDING * np.abs(reward).sum(1)), kind="stable")


def random_priority(key: Array, num_states: int) -> np.ndarray:
    """A priority drawn uniformly: `[S]`."""
    return np.asarray(jax.random.permutation(key, num_states))
