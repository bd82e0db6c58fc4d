r"""The relaxation of arms that all differ: budgets on average, by prices (Lagrangian dual).

At prices $\lambda$ every arm is on its own, and

$$g(\lambda) = \sum_i \max_\pi E_\pi[r_i - \lambda \cdot d_i] + \lambda \cdot b$$

bounds every policy of the average reward. The arms are solved together by policy iteration, and
the least bound is found by columns: what groups of arms earn and use at the prices tried so far is
mixed by a linear program so that the budgets hold, which gives the next prices (Dantzig and Wolfe
1960). The mixture is a law of the relaxation, so its reward bounds the least bound from below.

For any numbers h the gain of an arm is at most $\max_{s, a} r - \lambda d + P h - h$, so that the
bound holds whether or not policy iteration has ended.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy

from .._checks import check_finite, check_positive_int, check_shape, concrete
from .._reads import reads
from ..models.heterogeneous_arms import HeterogeneousArms
from ..numerics.memory import host_memory
from .arms_alone import Alone, alone, follow, occupancy
from .linear_program import polished, refined_program

Array = jax.Array

# Groups of arms that are mixed on their own, at most; a few arms have one each.
_GROUPS = 32
# The first price that nothing is worth, against the largest reward a cost; and by how much it grows
# where the budgets are not met yet, how often.
_DEAR, _DEARER, _RAISES = 1e2, 1e3, 3


@reads("no policy earns more than {0.upper:.9g} a step")
class ArmsRelaxation(NamedTuple):
    r"""Solution of the relaxation of arms in which the budgets hold on average.

    Attributes:
        upper: at least what any policy earns a step on average; certified at `prices`.
        value: what `occupancy` earns a step, at most the least bound.
        prices: $\lambda$, of one more unit of each resource at every step, `[K]`.
        occupancy: $y_i(s, a)$, `[N, S, A]`: it sums to 1 for each arm, and keeps the budgets.
        index: $Q_i(s, a) - \max_a Q_i(s, a)$ at these prices, at most 0, `[N, S, A]`.
        spent: what is used of each resource a step, `[K]`.
        num_steps: prices tried.
        converged: whether `gap` is at most `tol` of what is paid.
    """

    upper: float
    value: float
    prices: np.ndarray
    occupancy: np.ndarray
    index: np.ndarray
    spent: np.ndarray
    num_steps: int
    converged: bool

    @property
    def gap(self) -> float:
        """By how much the bound may be too high."""
        return self.upper - self.value

    @property
    def policy(self) -> np.ndarray:
        """π_i(a|s), `[N, S, A]`; the best action where an arm never is."""
        visits = self.occupancy.sum(2, keepdims=True)
        best = self.index.argmax(2)[..., None] == np.arange(self.index.shape[2])
        used = np.broadcast_to(visits > 0, best.shape)
        return np.divide(self.occupancy, visits, where=used, out=best.astype(np.float64))


def arms_relaxation(
    arms: HeterogeneousArms, *, tol: float = 1e-7, max_steps: int = 100, memory: int | None = None
) -> ArmsRelaxation:
    r"""The relaxation in which the budgets hold on average, arm by arm at common prices.

    Args:
        arms: its values must be known. An arm should have one recurrent class under every policy;
            where it has several, the bound holds and `converged` may be false.
        tol: the gap that ends it, as a share of the sum of the largest rewards.
        max_steps: prices to try, at most.
        memory: bytes that it may count on; three quarters of the machine's if not given.

    Returns:
        `upper` holds at any end; `converged` says whether the gap is closed.

    Raises:
        ValueError: for bad arms, more of them than memory, or budgets that no law keeps on average.

    References:
        Hawkins (2003); Adelman and Mersereau (2008); Zhang, Hong and Wang (2025).
    """
    if not isinstance(arms, HeterogeneousArms):
        raise ValueError(f"arms: {type(arms).__name__} is no HeterogeneousArms")
    if not concrete(arms):
        raise ValueError("arms: their values must be known here, not traced")
    arms.check()
    check_positive_int("max_steps", max_steps)
    check_shape("tol", tol, ())
    check_finite("tol", tol)
    _check_fits(arms, memory)
    return _solve(_data(arms), tol, max_steps)


class _Data(NamedTuple):
    """Arms in NumPy: `[N, S, A, S]`, `[N, S, A]`, `[N, S, A, K]`, `[K]`, bool `[K]`."""

    kernel: np.ndarray
    reward: np.ndarray
    costs: np.ndarray
    limits: np.ndarray
    equality: np.ndarray


def _data(arms: HeterogeneousArms) -> _Data:
    return _Data(
        np.asarray(arms.kernel, np.float64),
        np.asarray(arms.reward, np.float64),
        np.asarray(arms.costs, np.float64),
        np.array([float(limit) for limit in arms.limits]),
        np.array([budget.equality for budget in arms.budgets]),
    )


def _solve(data: _Data, tol: float, max_steps: int) -> ArmsRelaxation:
    """Prices and mixtures in turn, until they meet."""
    number = len(data.reward)
    group = np.arange(number) % min(number, _GROUPS)
    paid = np.ptp(data.reward, axis=(1, 2)).sum()
    scale = paid if paid > 0 else 1.0
    master = _Master(data, group, scale)
    for chosen in _extremes(data):
        master.add(follow(data.kernel, data.reward, data.costs, chosen))
    prices, chosen = np.zeros(len(data.limits)), None
    upper, best, mixed = np.inf, None, None
    size = max(scale, np.abs(data.reward).max((1, 2)).sum())
    step = 0
    while step < max_steps:
        step += 1
        found = alone(data.kernel, data.reward, data.costs, prices, chosen)
        chosen = found.chosen
        bound = found.upper.sum() + prices @ data.limits
        if bound < upper:
            upper, best = bound, (prices, found)
        master.add(found)
        mixed = master.solve()
        if upper - mixed.value <= tol * size and not mixed.short:
            break
        prices = mixed.prices
    assert best is not None
    assert mixed is not None
    if mixed.short:
        raise ValueError(
            f"budgets: no law of the arms was found that keeps them on average, at {step} prices; "
            "if there is one it takes more of them (max_steps)"
        )
    law = master.occupancy(mixed)
    return ArmsRelaxation(
        upper=float(upper),
        value=float((law * data.reward).sum()),
        prices=best[0],
        occupancy=law,
        index=best[1].index,
        spent=np.einsum("nsa,nsak->k", law, data.costs),
        num_steps=step,
        converged=bool(upper - mixed.value <= tol * size),
    )


def _extremes(data: _Data) -> list[np.ndarray]:
    """Policies that use little and, where a budget must be met, much: `[N, S]` each."""
    unit = np.where(data.limits > 0, data.limits, np.abs(data.costs).max((0, 1, 2)))
    use = data.costs / np.where(unit > 0, unit, 1)
    if not data.equality.any():
        return [use.sum(3).argmin(2)]
    return [use.sum(3).argmin(2), use[..., data.equality].sum(3).argmax(2)]


class _Mixed(NamedTuple):
    """Shares `[J, G]` of what was found, the prices they give, and whether they fall short."""

    shares: np.ndarray
    prices: np.ndarray
    value: float
    short: bool


class _Master:
    """What groups of arms earn and use at the prices tried, to be mixed."""

    def __init__(self, data: _Data, group: np.ndarray, scale: float) -> None:
        """No columns yet; a budget may be missed at a price that is dear."""
        self.data, self.group, self.scale = data, group, scale
        used = np.abs(data.costs)
        least = np.where(used > 0, used, np.inf).min((0, 1, 2))  # [K]
        most = np.abs(data.reward).max() / np.where(np.isfinite(least), least, 1)
        self.dear, self.raises = _DEAR * np.where(most > 0, most, 1.0), 0
        self.unit = np.maximum(np.abs(data.costs).max((1, 2)).sum(0), np.abs(data.limits))
        self.unit = np.where(self.unit > 0, self.unit, 1)
        self.found: list[Alone] = []
        self.rewards: list[np.ndarray] = []  # [G] each
        self.uses: list[np.ndarray] = []  # [G, K] each

    def add(self, found: Alone) -> None:
        """One more profile of policies."""
        size = self.group.max() + 1
        self.found.append(found._replace(index=None, upper=None))
        self.rewards.append(np.bincount(self.group, found.reward, size))
        uses = [np.bincount(self.group, part, size) for part in found.spent.T]
        self.uses.append(np.stack(uses, axis=1))

    def solve(self) -> _Mixed:
        """The best mixture that keeps the budgets; what it must miss is paid for dearly."""
        while True:
            mixed = self._solve_once()
            if not mixed.short or self.raises == _RAISES:
                return mixed
            if (np.abs(mixed.prices) < 0.99 * self.dear).all():
                return mixed
            self.dear, self.raises = self.dear * _DEARER, self.raises + 1

    def _solve_once(self) -> _Mixed:
        rewards, uses = np.stack(self.rewards), np.stack(self.uses)  # [J, G], [J, G, K]
        J, G = rewards.shape
        K = len(self.unit)
        member = scipy.sparse.hstack([scipy.sparse.eye_array(G)] * J)
        spent = (uses / self.unit).reshape(J * G, K).T
        spare = np.eye(K)[:, ~self.data.equality]  # what is left of a limit
        miss = np.concatenate([np.eye(K)[:, self.data.equality], -np.eye(K)], axis=1)
        extra = np.concatenate([spare, miss], axis=1)
        rows = scipy.sparse.vstack(
            [
                scipy.sparse.hstack([member, scipy.sparse.csr_array((G, extra.shape[1]))]),
                scipy.sparse.csr_array(np.concatenate([spent, extra], axis=1)),
            ]
        )
        right = np.concatenate([np.ones(G), self.data.limits / self.unit])
        per = self.dear * self.unit / self.scale
        dear = np.concatenate([per[self.data.equality], per])
        cost = np.concatenate([-rewards.ravel() / self.scale, np.zeros(spare.shape[1]), dear])
        rows = scipy.sparse.csr_array(rows)
        # Prices need not be exact: the bound is certified where they are tried.
        answer = refined_program(rows, right, cost)
        assert answer is not None  # a budget may be missed
        value = polished(rows, right, answer.value)
        prices = -answer.price[G:] * self.scale / self.unit
        prices = np.where(self.data.equality, prices, np.maximum(prices, 0))
        missed = value[J * G + spare.shape[1] :].sum()
        shares = value[: J * G].reshape(J, G)
        return _Mixed(shares, prices, float((shares * rewards).sum()), bool(missed > 1e-9))

    def occupancy(self, mixed: _Mixed) -> np.ndarray:
        """The mixture arm by arm, `[N, S, A]`."""
        law = np.zeros(self.data.reward.shape)
        for shares, found in zip(mixed.shares, self.found, strict=True):
            arms = np.flatnonzero(shares[self.group] > 0)
            if len(arms) > 0:
                part = occupancy(self.data.kernel, found.chosen, arms)
                law[arms] += shares[self.group[arms], None, None] * part
        return law


def _check_fits(arms: HeterogeneousArms, memory: int | None) -> None:
    """Raise before allocation if kernels in float64, laws and indices do not fit in memory."""
    N, S, A = np.shape(arms.reward)
    each = 8 * S * A * (S + 6 + len(arms.budgets))
    limit = host_memory() if memory is None else memory
    if N * each > limit:
        raise ValueError(
            f"arms: {N} of {S} states and {A} actions need {N * each} bytes, of {limit}; the "
            f"largest number that fits is {limit // each}"
        )
