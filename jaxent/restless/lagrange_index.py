r"""The index of every action of every type: Whittle's for several actions, with its verdict.

One resource has a price λ. An agent on its own then maximizes r - λ d - (what the others cost), and
as the price rises it goes over to actions that use less. An agent type is indexable if in no state
it ever goes back to one that uses more; the index of (s, a) is the price up to which it is optimal
in s to use at least as much as a does. For two actions of costs 0 and 1 that is Whittle's index,
with λ the subsidy for resting.

Under a policy the value is affine in λ, V = u - λ w, so every advantage is too,

    b(s, a; λ) = [r(s, a) + discount P u - u(s)] - λ [d(s, a) + discount P w - w(s)] = α - λ β.

The path from λ = -∞, where the most is used, to +∞ goes from one price to the next at which some
b(s, a) < 0 reaches 0; all that tie there are settled before the path goes on.

References:
    Weber (2007), Comments on: Dynamic priority allocation via restless bandit marginal productivity
    indices; Hodge and Glazebrook (2015), On the asymptotic optimality of greedy index heuristics
    for multi-action restless bandits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._checks import check_finite, check_shape
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit
from .fluid import Data, known_data

# A number this small against the terms that it is summed from is 0.
_ROUNDING = 1e-12
# Changes of policy that a path may have, for each pair.
_CHANGES = 50


@reads("indexable: {0.indexable}; a NaN has no index")
class LagrangeIndex(NamedTuple):
    """Indices of all pairs and the verdict.

    Attributes:
        index: the price up to which at least as much as d(s, a) is used in s, of each type,
            `[S_k, A_k]`: infinite for an action that uses least, less the more an action uses. All
            NaN for a type that is not indexable.
        indexable: whether every type is.
        place: (type, state) that first goes back to using more; (-1, -1) if indexable.
        price: where it does; NaN if indexable.
        used: whether the action is the last before its state goes over to using less, of each
            type, bool `[S_k, A_k]`: the others are never best, or use least.
    """

    index: tuple[np.ndarray, ...]
    indexable: bool
    place: tuple[int, int]
    price: float
    used: tuple[np.ndarray, ...]

    @property
    def priority(self) -> list[tuple[int, int, int]]:
        """Moves (type, state, action) by falling index, for `priority_policy`.

        Equal indices go by type and state. Actions that are never best are not listed.

        Raises:
            ValueError: if a type is not indexable.
        """
        if not self.indexable:
            k, s = self.place
            raise ValueError(
                f"priority: type {k} is not indexable (state {s} goes back to using more at a "
                f"price of {self.price:.6g}), so no index orders its moves"
            )
        moves = [
            (-self.index[k][s, a], k, s, a)
            for k in range(len(self.index))
            for s, a in np.argwhere(self.used[k]).tolist()
        ]
        return [(k, s, a) for _, k, s, a in sorted(moves)]


def lagrange_index(
    population: RestlessBandit | WeaklyCoupledPopulation,
    *,
    budget: int = 0,
    prices: ArrayLike | Sequence[float] | None = None,
) -> LagrangeIndex:
    """Indices of every pair for the discounted reward, exact, with the verdict on indexability.

    Args:
        population: or a `RestlessBandit`; counts and limits do not matter.
        budget: the resource whose price moves.
        prices: of all resources, `[K]`, where there are several: those of the others stay, say at
            `fluid_policy(..).prices`; 0 if not given.

    Raises:
        ValueError: for a bad population, budget or price. Not being indexable is a result.

    Examples:
        >>> import jaxent
        >>> found = jaxent.lagrange_index(jaxent.circulant_bandit(5))
        >>> print(found.index[0][:, 1].round(3), found.indexable)
        [-0.25  0.25  0.4  -0.4 ] True
        >>> found.priority[0]  # type, state, action
        (0, 2, 1)

    References:
        Weber (2007); Hodge and Glazebrook (2015); for two actions Whittle (1988).
    """
    data = known_data(population)
    num_budgets = len(data.limits)
    if not 0 <= budget < num_budgets:
        raise ValueError(f"budget: {budget} is not one of the budgets 0..{num_budgets - 1}")
    others = np.zeros(num_budgets)
    if prices is not None:
        check_shape("prices", prices, (num_budgets,))
        check_finite("prices", prices)
        others = np.array(prices, np.float64)
    others[budget] = 0
    indices, used = [], []
    place, price = (-1, -1), float("nan")
    for k in range(len(data.sizes)):
        index, last, state, where = _follow(*_agent(data, k, budget, others), data.discount)
        if state >= 0 and place[0] < 0:
            place, price = (k, state), where
        indices.append(index)
        used.append(last)
    return LagrangeIndex(tuple(indices), place[0] < 0, place, price, tuple(used))


def _agent(data: Data, k: int, budget: int, others: np.ndarray):
    """Kernel `[S, A, S]`, reward less what the other resources cost, and d `[S, A]`."""
    size = data.sizes[k]
    reward = (data.rewards[k] - data.costs[k] @ others).reshape(size)
    return data.kernels[k].reshape(*size, -1), reward, data.costs[k][:, budget].reshape(size)


def _follow(P, reward, cost, discount) -> tuple[np.ndarray, np.ndarray, int, float]:
    """The path of optimal policies: indices, `used`, the state that goes back or -1, and where."""
    states = np.arange(len(reward))
    # A constant in the reward or in the cost moves no advantage.
    reward = reward - np.median(reward)
    chosen = _most_used(P, reward, cost, discount)
    index = np.full(reward.shape, np.nan)
    used = np.zeros(reward.shape, bool)
    before = chosen.copy()  # on the last interval of prices
    now = -np.inf
    for _ in range(_CHANGES * reward.size):
        alpha, beta, doubt = _advantages(P, reward, cost, discount, chosen)
        # Going to an action lowers what is used in all where β < 0; it is optimal from α / β on.
        leads = (beta < 0) | ((beta == 0) & (alpha == 0) & (cost < cost[states, chosen][:, None]))
        leads[states, chosen] = False
        meets = np.where(beta < 0, _ratio(alpha, beta), -np.inf)
        meets = np.maximum(np.where(leads, meets, np.inf), now)
        s, a = np.unravel_index(meets.argmin(), meets.shape)
        then = meets[s, a]
        if then > now + doubt[s, a]:
            # The policy is optimal on an interval: it must not use more than on the one before.
            level, last = cost[states, chosen], cost[states, before]
            more = np.flatnonzero(level > last)
            if len(more):
                nothing = np.full(reward.shape, np.nan)
                return nothing, np.zeros(reward.shape, bool), int(more[0]), float(now)
            index = np.where(np.isnan(index) & (cost > level[:, None]), now, index)
            less = level < last
            used[states[less], before[less]] = True
            before = chosen.copy()
            if then == np.inf:
                break
            now = then
        chosen[s] = a
    else:
        raise ValueError("population: too many actions tie at one price to be told apart")
    return np.where(np.isnan(index), np.inf, index), used, -1, float("nan")


def _advantages(P, reward, cost, discount, chosen):
    """α and β of every pair under a policy, and what rounding may move α / β by, `[S, A]` each.

    A number that may be nothing but rounding is 0.
    """
    states = np.arange(len(reward))
    # The last term shifts all values alike, which no advantage sees, and keeps the inverse small.
    system = np.eye(len(states)) - discount * P[states, chosen] + 1 / len(states)
    inverse = np.linalg.inv(system)
    paid = np.stack([reward, cost], axis=-1)  # [S, A, 2]
    mine = paid[states, chosen]
    value = inverse @ mine
    change = discount * (P - P[states, chosen][:, None])
    lines = paid - mine[:, None] + change @ value
    size = np.abs(inverse) @ np.abs(mine)
    noise = np.abs(paid) + np.abs(mine)[:, None] + np.abs(change) @ size
    noise = _ROUNDING * noise
    lines = np.where(np.abs(lines) > noise, lines, 0)
    alpha, beta = lines[..., 0], lines[..., 1]
    meets = _ratio(alpha, beta)
    doubt = noise[..., 0] + np.abs(np.where(np.isinf(meets), 0, meets)) * noise[..., 1]
    return alpha, beta, _ratio(doubt, np.abs(beta))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, infinite where that is beyond all numbers, 0 where b is 0."""
    with np.errstate(over="ignore"):
        return np.divide(a, b, where=b != 0, out=np.zeros_like(a))


def _most_used(P, reward, cost, discount) -> np.ndarray:
    """The policy that is optimal as the price goes to -∞: most is used, then most is earned."""
    states = np.arange(len(reward))
    chosen = cost.argmax(1)
    for _ in range(_CHANGES * reward.size):
        alpha, beta, _ = _advantages(P, reward, cost, discount, chosen)
        alpha[states, chosen] = beta[states, chosen] = 0
        best = np.where((beta > 0).any(), beta, np.where(beta == 0, alpha, 0))
        s, a = np.unravel_index(best.argmax(), best.shape)
        if best[s, a] <= 0:
            break
        chosen[s] = a
    return chosen
