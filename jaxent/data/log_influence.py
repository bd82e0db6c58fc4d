r"""Who moves whom, from a log alone: each agent's entanglement relative to one other's state.

The lower estimate of log_entanglement.py with one feature, the state z of another agent. Then a law
for each local pair x and each z is a table of counts, and nothing is fitted step by step: with
n(x, z, y) transitions to y in one half of the log and m(x, z, y) in the other,

    p(y | x, z) = (n(x, z, y) + p(y | x)) / (n(x, z) + 1),    h = 1 where p(y | x, z) > q(y | x),
    sum_{x, z, y} m(x, z, y) (h(x, z, y) - sum_y' h(x, z, y') q(y' | x)),

q the weighted TV center of p(. | x, z) over z, and the same with the halves exchanged.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive_int
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from .log_entanglement import SAME, center_and_edge, check_estimable
from .trajectory import Trajectory

Array = jax.Array

# Cells (x, z, y) of a half that are compared at a time.
_CELLS = 2**21


def influence_from_logs(trajectory: Trajectory, *, min_visits: int = 50) -> np.ndarray:
    """Lower estimate of every E_i relative to the state of one other agent, `[N, N]`.

    Row i is moved by column j. Not below 0, and 0 on the diagonal; NaN for an agent without data.

    Args:
        trajectory: T epochs of N agents.
        min_visits: a local pair with fewer transitions is left out.

    Raises:
        ValueError: as `entanglement_from_logs` does.
    """
    check_estimable(trajectory)
    check_positive_int("min_visits", min_visits)
    pairs, follows = np.asarray(trajectory.pairs), np.asarray(trajectory.follows)
    # Where an agent is absent it is in a state of its own.
    absent = trajectory.num_states
    states = np.where(np.asarray(trajectory.present), np.asarray(trajectory.states), absent)
    agents = range(trajectory.num_agents)
    found = np.zeros((len(agents), len(agents)))
    for i in agents:
        here = np.flatnonzero(follows[:, i])
        here = here[_often(pairs[here, i], trajectory.num_pairs, min_visits)]
        if not len(here):
            found[i] = np.nan
            continue
        half = np.arange(len(here)) * 2 // len(here)
        order = np.argsort(pairs[here, i], kind="stable")
        here, half = here[order], half[order]
        x, y = pairs[here, i], pairs[here + 1, i]
        for j in agents:
            if j != i:
                gain = _gain(half, x, states[here, j], y, trajectory.num_pairs, absent + 1)
                found[i, j] = max(gain / len(here), 0)
    np.fill_diagonal(found, 0)
    return found


def _often(x: np.ndarray, num_pairs: int, min_visits: int) -> np.ndarray:
    return np.bincount(x, minlength=num_pairs)[x] >= min_visits


def _gain(
    half: np.ndarray, x: np.ndarray, z: np.ndarray, y: np.ndarray, num_pairs: int, num_others: int
) -> float:
    """What the two halves gain, rows sorted by x; as many x at a time as memory should hold."""
    size = num_others * num_pairs
    some = min(max(_CELLS // size, 1), num_pairs)
    total = 0.0
    for first in range(0, num_pairs, some):
        rows = slice(*np.searchsorted(x, (first, first + some)))
        cell = (half[rows] * some + x[rows] - first) * size + z[rows] * num_pairs + y[rows]
        counts = np.bincount(cell, minlength=2 * some * size)
        total += float(_both(counts.reshape(2, some, num_others, num_pairs)))
    return total


@jit
def _both(counts: Array) -> Array:
    """Gain of both halves, `[2, X, Z, Y]`, each judged by what the other shows."""
    counts = jnp.asarray(counts, float)
    return jax.vmap(_judged)(counts, counts[::-1]).sum()


def _judged(train: Array, judged: Array) -> Array:
    number = train.sum(2)  # [X, Z]
    own = ratio(train.sum(1), number.sum(1, keepdims=True))  # [X, Y]
    laws = (train + own[:, None]) / (number[..., None] + 1)
    q, edge = jax.vmap(center_and_edge)(laws, number)
    apart = laws - q[:, None]
    h = jnp.where(jnp.abs(apart) <= SAME, edge[:, None], (apart > 0).astype(laws.dtype))
    h = jnp.where(own[:, None] > 0, h, 0)  # of what was not seen nothing is told
    return (judged * h).sum() - (judged.sum(2) * (h * q[:, None]).sum(2)).sum()
