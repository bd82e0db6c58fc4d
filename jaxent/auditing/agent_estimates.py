"""The entanglement of every agent of a log: from the log alone, or from its policy.

From the log alone it is a lower estimate of E_i relative to features of the others, with a test of
"no entanglement"; with the policy it is Eq. (10), which bounds E_i for weakly coupled agents.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_shape
from ..data.estimators import by_local, entanglement_interval
from ..data.log_entanglement import agents_estimator
from ..data.log_influence import influence_from_logs
from ..data.trajectory import Trajectory
from ..numerics.arrays import as_float

Array = jax.Array

# Agents estimated in one call, and calls at a time.
_CHUNK, _WORKERS = 10, 2
# With more agents than this there is no map of who moves whom.
_MAPPED = 30
# Batches of consecutive epochs, whose spread makes the interval.
_BATCHES = 20
# Laws of actions that are this many rounding errors apart are the same.
_ROUNDING = 64


class AgentEstimates(NamedTuple):
    """Of N agents.

    Attributes:
        entanglement: estimate of E_i, `[N]`; below 0 only by chance.
        lower: end of its 95% interval, `[N]`.
        upper: end of its 95% interval, `[N]`.
        p_value: of "no entanglement", `[N]`; NaN with a policy, which needs no test.
        batches: the estimate in each batch of epochs, `[N, 20]`.
        placebo: the estimate with features of another time, `[N]`; NaN, one or for each agent,
            where laws are tables.
    """

    entanglement: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray
    batches: np.ndarray
    placebo: np.ndarray | np.float64 = np.float64(np.nan)

    def without(self, lacking: np.ndarray) -> "AgentEstimates":
        """NaN, and batches of 0, for the agents that lack data."""
        numbers = np.where(lacking, np.nan, self[:4])
        batches = np.where(lacking[:, None], 0, self.batches)
        return AgentEstimates._make([*numbers, batches, np.where(lacking, np.nan, self.placebo)])

    def from_zero(self) -> "AgentEstimates":
        """No E_i is below 0: an estimate that came out there is 0, with an upper end as far off."""
        value = np.maximum(self.entanglement, 0)
        upper = value + (self.upper - self.entanglement)
        return self._replace(entanglement=value, lower=np.maximum(self.lower, 0), upper=upper)


def from_logs(
    key: Array,
    trajectory: Trajectory,
    features: Array | np.ndarray | None,
    min_visits: int,
    num_permutations: int,
    progress: Callable[[int], object],
) -> AgentEstimates:
    """Chunks of agents, two at a time: a chunk of one shape is compiled once."""
    agents = np.arange(trajectory.num_agents)
    size = math.ceil(len(agents) / math.ceil(len(agents) / _CHUNK))  # or the last is mostly padding
    chunks = [agents[k : k + size] for k in range(0, len(agents), size)]
    keys = jax.random.split(key, len(chunks))
    some = agents_estimator(
        trajectory,
        features=features,
        min_visits=min_visits,
        num_permutations=num_permutations,
        at_once=min(_WORKERS, len(chunks)),
    )

    def estimate(key, chunk):
        found = some(jax.random.split(key, size), np.resize(chunk, size))
        progress(len(chunk))
        columns = (
            *(found.value, found.lower, found.upper),
            *(found.p_value, found.batches, found.placebo),
        )
        return [np.asarray(x, float)[: len(chunk)] for x in columns]

    # The first alone, or two threads would compile the same.
    parts = [estimate(keys[0], chunks[0])]
    with ThreadPoolExecutor(_WORKERS) as pool:
        parts += pool.map(estimate, keys[1:], chunks[1:])
    return AgentEstimates(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def from_policy(
    trajectory: Trajectory, policy: Array | np.ndarray, progress: Callable[[int], object]
) -> AgentEstimates:
    """Eq. (10), cross-fitted, for every agent."""
    laws = as_float(policy)
    check_shape("policy", laws, (*trajectory.states.shape, trajectory.num_actions))
    check_finite("policy", laws)
    local = trajectory.states * trajectory.num_signals + trajectory.signal[:, None]
    num_local = trajectory.num_states * trajectory.num_signals

    @jax.jit
    def one(laws, local, present):
        every, here = by_local(laws, local, num_local=num_local)
        return entanglement_interval(every, here * present[:, None], num_batches=_BATCHES)

    rows = []
    for i in range(trajectory.num_agents):
        present = jnp.asarray(trajectory.present[:, i], laws.dtype)
        found = one(laws[:, i], local[:, i], present)
        rows.append([found.value, found.lower, found.upper, np.nan, found.batches, np.nan])
        progress(1)
    found = AgentEstimates(*(np.asarray(x, float) for x in zip(*rows, strict=True)))
    # Laws that are one but for rounding are one.
    same = found.upper <= _ROUNDING * float(jnp.finfo(laws.dtype).eps)
    return found._replace(
        entanglement=np.where(same, 0, found.entanglement),
        lower=np.where(same, 0, found.lower),
        upper=np.where(same, 0, found.upper),
        batches=np.where(same[:, None], 0, found.batches),
    )


def influence_map(trajectory: Trajectory, min_visits: int) -> np.ndarray:
    """Lower estimate of each E_i relative to one other's state, `[N, N]`.

    `[0, 0]` for many agents, and for those that see numbers.
    """
    if trajectory.num_agents > _MAPPED or trajectory.observations is not None:
        return np.zeros((0, 0))
    return influence_from_logs(trajectory, min_visits=min_visits)
