"""Arms on their own at given prices: the best average reward of each, by policy iteration."""

from typing import Any, NamedTuple

import numpy as np

# Arms that are solved together: their kernels stay in a cache.
_BLOCK = 2048
# Sums of rewards and values may miss by this share of them.
_NOISE = 1e-12
# Changes of policy, at most: far more than policy iteration needs.
_CHANGES = 200
# Where a chain falls into several, it starts again anywhere with this probability; and numbers
# this large against the rewards say that it does.
_AGAIN, _APART = 1e-8, 1e9


class Alone(NamedTuple):
    """The best policies of N arms at given prices.

    Attributes:
        chosen: the actions, `[N, S]` int16.
        reward: of each arm a step, prices not paid, `[N]`.
        spent: of each resource a step, `[N, K]`.
        upper: no policy of the arm earns more a step, prices paid, `[N]`.
        index: Q(s, a) - max_a Q(s, a), `[N, S, A]`.
    """

    chosen: np.ndarray
    reward: np.ndarray
    spent: np.ndarray
    upper: Any
    index: Any


def alone(
    kernel: np.ndarray,
    reward: np.ndarray,
    costs: np.ndarray,
    prices: np.ndarray,
    chosen: np.ndarray | None,
) -> Alone:
    """The best policies at these prices, from others on."""
    parts = []
    for block in _blocks(len(reward)):
        parts.append(
            _solve(
                kernel[block],
                reward[block],
                costs[block],
                prices,
                None if chosen is None else chosen[block],
            )
        )
    return Alone(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _solve(kernel, reward, costs, prices, chosen) -> Alone:
    """A block of arms; those whose policy is the best are left alone."""
    left = reward - costs @ prices  # [n, S, A]
    chosen = left.argmax(2) if chosen is None else chosen.astype(np.intp)
    index = np.empty_like(left)
    upper = np.empty(len(left))
    busy = np.arange(len(left))
    for _ in range(_CHANGES):
        P, paid = kernel[busy], left[busy]
        now = chosen[busy]
        h = _relative(_of(P, now), _of(paid, now))
        Q = paid + (P.reshape(len(P), -1, P.shape[-1]) @ h[..., None]).reshape(paid.shape)
        size = np.abs(paid).max((1, 2)) + np.abs(h).max(1)
        best = Q.max(2)
        better = best > _of(Q, now) + _NOISE * size[:, None]
        upper[busy] = (best - h).max(1)
        index[busy] = Q - best[..., None]
        chosen[busy] = np.where(better, Q.argmax(2), now)
        busy = busy[better.any(1)]
        if len(busy) == 0:
            break
    return follow(kernel, reward, costs, chosen)._replace(upper=upper, index=index)


def follow(kernel: np.ndarray, reward: np.ndarray, costs: np.ndarray, chosen: np.ndarray) -> Alone:
    """What arms earn and use by these actions `[N, S]`, whether or not they are the best."""
    laws = [_laws(_of(kernel[b], chosen[b])) for b in _blocks(len(chosen))]
    law = np.concatenate(laws)  # [N, S]
    earned = (law * _of(reward, chosen)).sum(1)
    spent = (law[..., None] * _of(costs, chosen)).sum(1)
    return Alone(chosen.astype(np.int16), earned, spent, None, None)


def _blocks(number: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, number, _BLOCK)]


def occupancy(kernel: np.ndarray, chosen: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Laws of (s, a) of some arms under these actions, `[n, S, A]`."""
    parts = [arms[b] for b in _blocks(len(arms))]
    laws = np.concatenate([_laws(_of(kernel[part], chosen[part])) for part in parts])
    return laws[..., None] * (chosen[arms][..., None] == np.arange(kernel.shape[2]))


def stationary_laws(kernel: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Laws of the states of arms `[N, S, A, S]` under policies `[N, S, A]`, `[N, S]`."""
    return _laws((tables[..., None] * kernel).sum(2))


def _of(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Entries of chosen actions: `[n, S, A, ..]` at `[n, S]`."""
    n, S = chosen.shape
    return table[np.arange(n)[:, None], np.arange(S), chosen]


def _relative(P: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Relative values h with h - P h = r - g and mean g, `[n, S]`."""
    S = P.shape[-1]
    h = _solved(np.eye(S) - P + 1 / S, reward)
    apart = ~(np.abs(h).max(1) <= _APART * np.maximum(np.abs(reward).max(1), 1e-300))
    if apart.any():
        # A policy with several recurrent classes: nearly undiscounted values instead.
        again = np.eye(S) - (1 - _AGAIN) * P[apart]
        h[apart] = _solved(again, reward[apart])
    return h


def _laws(P: np.ndarray) -> np.ndarray:
    """Stationary laws, `[n, S]`."""
    S = P.shape[-1]
    start = np.full((len(P), S), 1 / S)
    laws = _solved((np.eye(S) - P + 1 / S).swapaxes(1, 2), start)
    apart = ~(np.abs(laws.sum(1) - 1) < 1e-6) | (laws.min(1) < -1e-6)
    if apart.any():
        again = (np.eye(S) - (1 - _AGAIN) * P[apart]).swapaxes(1, 2)
        laws[apart] = _solved(again, _AGAIN * start[apart])
    laws = np.maximum(laws, 0)
    return laws / laws.sum(1, keepdims=True)


def _solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions `[n, S]`; infinite where a matrix of the block is singular."""
    try:
        return np.linalg.solve(matrices, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return np.array([_one(A, b) for A, b in zip(matrices, right, strict=True)])


def _one(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full(right.shape, np.inf)
