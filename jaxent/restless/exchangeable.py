r"""The exact chain of N exchangeable agents: one of them tagged, the others counted.

Under a priority rule with fair ties (Def. 13) a homogeneous bandit does not tell its agents apart,
so (tagged agent's pair, configuration of the other N - 1) is a Markov chain, with 2 S C(N + S - 2,
S - 1) pairs in place of (2 S)^N, and the tagged agent moves in it as in the joint chain. With n the
counts of all N agents and α_s(n) how many of them are active in state s, the tagged agent is active
with probability α_s(n) / n_s; given its action a, the others are served in the same order with what
is left of the budget, M - a. So the kernel is

    (K V)(s, a, c) = Σ_s' P_a(s, s') (T_{N-1, M-a} V(s', .))(c)

with T the operator of `next_counts`, and the chain is a `PairChain` of factors (X, configurations)
whose only view is the tagged pair. A pair that the rule never takes (say, idle where everyone is
served) has weight 0 and keeps this kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_permutation, check_positive_int, concrete, stochastic
from ..chains.pair_chain import PairChain
from ..models.contracts import Agents
from ..models.layouts import Views, view_of
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..numerics.memory import device_memory
from .next_counts import (
    NextCounts,
    configuration_index,
    configurations,
    next_counts,
    num_configurations,
    walk_size,
)

Array = jax.Array

# Vectors over pairs that a solve holds at once: Krylov basis, laws, values.
VECTORS = 40


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedKernel:
    """K: functions `[S * C]` of (tagged state, configuration) to functions `[S * 2 * C]` of pairs.

    Attributes:
        local: local kernel of the tagged agent, `[S, 2, S]`.
        others: T of the other agents when the tagged one is idle, and when it is active: one
            pytree whose leaves have a leading axis of 2.
    """

    local: Array
    others: NextCounts

    def mv(self, v: Array) -> Array:
        """K v."""
        v = v.reshape(self.local.shape[-1], -1)  # [S, C]
        ahead = lax.map(lambda op: op.mv(v), self.others)  # [2, S, C]
        return _einsum("sat,atc->sac", self.local, ahead).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next (tagged state, configuration), mu K."""
        mu = mu.reshape(*self.local.shape[:2], -1)  # [S, 2, C]
        moved = _einsum("sac,sat->atc", mu, self.local)  # [2, S, C]
        laws = lax.map(lambda both: both[0].vm(both[1]), (self.others, moved))
        return laws.sum(0).reshape(-1)

    def matrix(self) -> Array:
        """K itself, for few agents."""
        ahead = lax.map(lambda op: op.matrix(), self.others)  # [2, C, C]
        rows = _einsum("sat,acd->sactd", self.local, ahead)
        return rows.reshape(2 * self.local.shape[0] * ahead.shape[1], -1)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.local)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedPolicy:
    """Π: who is active is drawn fairly among the agents of a state.

    Attributes:
        active: probability that the tagged agent is active, `[S, C]`.
    """

    active: Array

    @property
    def num_states(self) -> int:
        """Number of (tagged state, configuration)."""
        return self.active.size

    def mv(self, f: Array) -> Array:
        """The mean over the tagged agent's actions, `[S * 2 * C, ...]` to `[S * C, ...]`."""
        num_states, num_configurations = self.active.shape
        f = f.reshape(num_states, 2, num_configurations, *f.shape[1:])
        active = self.active.reshape(*self.active.shape, *(1,) * (f.ndim - 3))
        mean = (1 - active) * f[:, 0] + active * f[:, 1]
        return mean.reshape(-1, *f.shape[3:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair, `[S * C]` to `[S * 2 * C]`."""
        mu = mu.reshape(self.active.shape)
        return jnp.stack([(1 - self.active) * mu, self.active * mu], axis=1).reshape(-1)

    def stochastic(self) -> Array:
        """Always."""
        return jnp.array(True)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedLayout:
    """Factors (X, configurations of the others); the one view is the tagged pair."""

    num_agents: int = field(metadata={"static": True})
    budget: int = field(metadata={"static": True})
    priority: tuple[int, ...] = field(metadata={"static": True})

    @property
    def sizes(self) -> tuple[int, ...]:
        """(2 S, C)."""
        num_states = len(self.priority)
        return 2 * num_states, num_configurations(self.num_agents - 1, num_states)

    @property
    def views(self) -> Views:
        """The tagged pair."""
        return ((0,),)

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of the tagged pair, `[2 S]`."""
        return view_of(self, agent).project(measure)

    def lift(self, functions: Sequence[Array]) -> Array:
        """f(x_1) + Σ over the others of f: one function, weighted by counts, `[2 S * C]`."""
        f = functions[0].reshape(-1, 2)  # [S, 2]
        counts = configurations(self.num_agents - 1, len(self.priority))
        others = []
        for budget in budgets_left(self.num_agents, self.budget):
            active = active_counts(counts, budget, self.priority)
            split = jnp.asarray(np.stack([counts - active, active], axis=-1), f.dtype)
            others.append(_einsum("csa,sa->c", split, f))
        return (f[:, :, None] + jnp.stack(others)[None]).reshape(-1)


def exchangeable_chain(
    bandit: RestlessBandit, priority: Sequence[int] | Array, *, memory: int | None = None
) -> PairChain:
    """The exact chain of (tagged agent's pair, configuration of the others) under a priority rule.

    Differentiable in the kernels. The largest arrays are the laws of the last-served states, see
    `NextCounts`: 0.6 GB for N = 60, S = 4, in float64.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        priority: permutation of the states, first served first. Static.
        memory: bytes it may take; by default what the device has. Static.

    Returns:
        `PairChain` of factors (2 S, C(N + S - 2, S - 1)) with one view, the tagged pair. `lift`
        takes one function of the pair and sums it over all N agents.

    Raises:
        ValueError: for a bad bandit or priority, and before anything is allocated if the chain
            does not fit: the message has the count, the bytes and the largest N that fits.
    """
    num_agents, budget, order = check_exchangeable(bandit, priority)
    local = as_float_kernel(bandit)
    check_memory(num_agents, len(order), partial(_chain_bytes, local.dtype.itemsize), memory)
    left = jnp.array(budgets_left(num_agents, budget))
    others = _prepare_both(local, left, num_agents=num_agents - 1, priority=order)
    _, own, active = tagged_counts(num_agents, budget, order)
    return PairChain(
        TaggedKernel(local, others),
        TaggedPolicy(jnp.asarray(active / own, local.dtype)),
        TaggedLayout(num_agents, budget, order),
    )


def active_counts(counts: np.ndarray, budget: float, priority: Sequence[int]) -> np.ndarray:
    """How many agents of each state are active, α(n): `[..., S]`; or which share, of shares."""
    counts = np.asarray(counts)
    active = np.zeros_like(counts)
    left = np.full(counts.shape[:-1], budget)
    for s in priority:
        active[..., s] = np.minimum(counts[..., s], left)
        left = left - active[..., s]
    return active


def tagged_counts(
    num_agents: int, budget: int, priority: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a tagged agent in s and configurations c of the others, with n = c + e_s, `[S, C]` each.

    The place of n among `configurations(N, S)`, n_s, and how many of those n_s are active.
    """
    num_states = len(priority)
    others = configurations(num_agents - 1, num_states)
    everyone = others[None] + np.eye(num_states, dtype=np.int64)[:, None]  # [S, C, S]
    active = active_counts(everyone, budget, priority)
    state = np.arange(num_states)
    return configuration_index(everyone), everyone[state, :, state], active[state, :, state]


def check_exchangeable(
    bandit: RestlessBandit, priority: Sequence[int] | Array
) -> tuple[int, int, tuple[int, ...]]:
    """N, M and the priority as Python ints, or a ValueError that names what is wrong."""
    num_agents, budget = check_counted(bandit)
    if not concrete(priority):
        raise ValueError("priority: it must be known here, not a traced value")
    check_permutation("priority", priority, bandit.num_states)
    return num_agents, budget, tuple(int(s) for s in np.asarray(priority))


def check_counted(bandit: RestlessBandit) -> tuple[int, int]:
    """N and M as Python ints, or a ValueError that names what is wrong."""
    check_bandit(bandit)
    check_positive_int("num_agents", bandit.num_agents)
    if not concrete(bandit.budget):
        raise ValueError("budget: it must be a Python int here, not a traced value")
    return int(bandit.num_agents), int(bandit.budget)


def check_memory(
    num_agents: int, num_states: int, needed: Callable[[int, int], int], memory: int | None
) -> None:
    """Raise before allocation if `needed(num_agents, num_states)` bytes exceed `memory`."""
    limit = device_memory() if memory is None else memory
    if needed(num_agents, num_states) <= limit:
        return
    fits, beyond = 0, 1
    while needed(beyond, num_states) <= limit:
        fits, beyond = beyond, 2 * beyond
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        within = needed(middle, num_states) <= limit
        fits, beyond = (middle, beyond) if within else (fits, middle)
    count = num_configurations(num_agents, num_states)
    raise ValueError(
        f"num_agents: {num_agents} agents over {num_states} states have {count} configurations and "
        f"need {needed(num_agents, num_states)} bytes, of {limit}; the largest num_agents that "
        f"fits is {fits}"
    )


def _chain_bytes(itemsize: int, num_agents: int, num_states: int) -> int:
    """What the chain and a solve with it hold, about."""
    others = num_agents - 1
    pairs = 2 * num_states * num_configurations(others, num_states)
    return (VECTORS * pairs + 2 * walk_size(others, num_states, num_states)) * itemsize


@partial(jax.jit, static_argnames=("num_agents", "priority"))
def _prepare_both(local: Array, left: Array, *, num_agents: int, priority: tuple[int, ...]):
    return lax.map(
        lambda budget: next_counts(local, num_agents=num_agents, budget=budget, priority=priority),
        left,
    )


def budgets_left(num_agents: int, budget: int) -> tuple[int, int]:
    """What is left for the others when the tagged agent is idle, and when it is active."""
    return min(budget, num_agents - 1), max(budget - 1, 0)


def as_float_kernel(bandit: RestlessBandit) -> Array:
    """The local kernel `[S, 2, S]` in its own float dtype, float32 at least."""
    kernel = bandit.kernel
    return kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))


def _einsum(spec: str, *operands: Any) -> Array:
    return jnp.einsum(spec, *operands, precision=lax.Precision.HIGHEST)
