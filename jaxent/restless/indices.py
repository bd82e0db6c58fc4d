r"""Index policies: whom to serve first.

Whittle (1988) pays a subsidy λ for being idle. Under a policy with passive set D the value is
affine in λ, so the advantage of acting is affine too,

    b_s(λ) = r(s, 1) - r(s, 0) - λ + discount (P_1 - P_0)(s) . V_λ = α_s - λ β_s.

From λ = -∞, where everyone acts, the optimal policy changes where some b_s reaches 0. The bandit is
indexable if states only ever turn idle; the λ at which a state does is its index. One state
changes at a time, so the inverse of I - discount P changes by rank one, and following the path to
λ = +∞ costs O(S^3) in all, with no guess of λ and no bisection. For the average reward stands
I - P + e e', whose solutions are a bias h with the gain e' h.

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
from ..models.contracts import Ranking, known_priority
from ..models.restless_bandit import RestlessBandit, check_bandit

Array = jax.Array

# Rank-one updates between two fresh inverses, so that rounding does not pile up.
_REFRESH = 64


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
    return _follow(passive, active, gap, reward, float(bandit.discount), 0.0)


def average_whittle_index(bandit: RestlessBandit) -> WhittleIndex:
    """Whittle indices for the average reward, exact, with the indexability verdict.

    Args:
        bandit: its discount does not matter. The policies on the path must be unichain.

    Raises:
        ValueError: for a bad bandit, or where a policy on the path has several recurrent classes
            and so no single average reward; it names the state whose switch makes it so.
    """
    passive, active, gap, reward = _arrays(bandit)
    return _follow(passive, active, gap, reward, 1.0, 1 / len(gap))


def _arrays(bandit: RestlessBandit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    check_bandit(bandit)
    if not concrete(bandit.passive, bandit.active, bandit.reward, bandit.discount):
        raise ValueError("bandit: indices are computed outside a trace")
    passive, active, reward = (
        np.asarray(x, np.float64) for x in (bandit.passive, bandit.active, bandit.reward)
    )
    return passive, active, reward[:, 1] - reward[:, 0], reward


def _follow(passive, active, gap, reward, discount, restart) -> WhittleIndex:
    """Follow the optimal policy from λ = -∞ to +∞."""
    num_states = len(gap)
    change = discount * (active - passive)  # [S, S]
    idle = np.zeros(num_states, bool)
    index = np.full(num_states, np.nan)
    eps = 1e-12 * max(1.0, np.abs(reward).max()) / (1 - discount if discount < 1 else 1)
    now = -np.inf
    inverse = _inverse(active, discount, restart)
    if inverse is None:
        raise ValueError("active: has several recurrent classes, so no single average reward")
    for step in range(num_states):
        rewards = np.where(idle, reward[:, 0], reward[:, 1])
        values = change @ (inverse @ np.stack([rewards, idle.astype(float)], axis=1))  # [S, 2]
        alpha, beta = gap + values[:, 0], 1 - values[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = np.maximum(alpha / beta, now)
        turns_idle = np.where(~idle & (beta > 0), meets, np.inf)
        turns_active = np.where(idle & (beta < -1e-12), meets, np.inf)
        s, back = int(turns_idle.argmin()), int(turns_active.argmin())
        if turns_active[back] < turns_idle[s] - eps:
            return _not_indexable(num_states, back, turns_active[back])
        now = turns_idle[s]
        index[s], idle[s] = now, True

        if (step + 1) % _REFRESH == 0:
            inverse = _inverse(np.where(idle[:, None], passive, active), discount, restart)
        else:
            inverse = _replace_row(inverse, s, change[s])
        if inverse is None:
            raise ValueError(
                f"passive: when state {s} turns idle, the chain has several recurrent classes and "
                "so no single average reward"
            )
    return WhittleIndex(index, True, -1, float("nan"))


def _not_indexable(num_states: int, state: int, subsidy: float) -> WhittleIndex:
    return WhittleIndex(np.full(num_states, np.nan), False, state, float(subsidy))


def _inverse(P: np.ndarray, discount: float, restart: float) -> np.ndarray | None:
    """Inverse of I - discount P + restart e e', or None if it is singular."""
    system = np.eye(len(P)) - discount * P + restart
    if restart and np.linalg.cond(system, 1) > 1e13:
        return None
    return np.linalg.inv(system)


def _replace_row(inverse: np.ndarray, s: int, row: np.ndarray) -> np.ndarray | None:
    """Inverse, in place, after `row` is added to row s of the matrix (Sherman and Morrison)."""
    column, weights = inverse[:, s].copy(), row @ inverse
    pivot = 1 + weights[s]  # a ratio of determinants of M-matrices: positive unless singular
    if pivot < 1e-13 * max(1.0, abs(weights[s])):
        return None
    inverse -= np.outer(column / pivot, weights)
    return inverse


def fluid_priority(bandit: RestlessBandit) -> FluidPriority:
    r"""Priority from the relaxation in which M agents are active on average.

    max Σ y(s, a) r(s, a) over stationary laws y of one agent with Σ_s y(s, 1) = M / N. At the
    multiplier of the budget, the advantage of acting orders the states: those that always act stand
    first, the one that sometimes does next, the others last.

    Raises:
        ValueError: for a bad bandit, or if no stationary law spends exactly the budget.

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
    program = scipy.sparse.csr_array(constraints)
    answer = scipy.optimize.linprog(-reward.reshape(-1), A_eq=program, b_eq=right, method="highs")
    if answer.status != 0:
        raise ValueError(f"budget: no stationary law spends exactly {share:.6g}: {answer.message}")
    occupancy = np.maximum(answer.x, 0).reshape(-1, 2)
    slack = answer.lower.marginals.reshape(-1, 2)  # V - Q(s, a) at the multiplier
    index = slack[:, 0] - slack[:, 1]
    visits = occupancy.sum(1)
    acts = np.divide(occupancy[:, 1], visits, where=visits > 0, out=np.zeros(num_states))
    digits = np.round(index / max(1.0, np.abs(reward).max()), 10)
    priority = np.lexsort((-acts, -digits))
    return FluidPriority(float(-answer.fun), occupancy, index, priority)


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
    return index_priority(_arrays(bandit)[2])


def random_priority(key: Array, num_states: int) -> np.ndarray:
    """A priority drawn uniformly: `[S]`."""
    return np.asarray(jax.random.permutation(key, num_states))
