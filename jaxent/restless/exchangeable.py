r"""The exact chain of N exchangeable agents: one of them tagged, the others counted.

Under an index policy with fair ties (Def. 13) a homogeneous bandit does not tell its agents apart,
so (tagged agent's pair x = (s, a), configuration c of the other N - 1, rounding j) is a Markov
chain, with 2 S C(N + S - 2, S - 1) J elements in place of (2 S)^N, and the tagged agent moves in it
as in the joint chain. In the rounding of n = c + e_s it is active with probability K_j(n)_s / n_s
(`rounded`). It is a `PairChain` of factors (X, (c, j)) whose only view is the tagged pair.

A priority (J = 1) and a `SoftIndex` (J = S) differ in the kernel alone. Under a priority the others
are served in the same order with what is left of the budget, M - a, so that

    (K V)(s, a, c) = Σ_s' P_a(s, s') (T_{N-1, M-a} V(s', .))(c)

with T the operator of `next_counts`, which walks a tree. Under a soft index any split of the others
may occur, so that their laws stand in two matrices (`group_laws`), and nothing is drawn: every
number is differentiable in index and temperature as well as in the local kernel. A pair that the
rule never takes (say, idle where everyone is served) has weight 0 and keeps the kernel of a
priority; under a soft index its row is of no use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from .._checks import check_positive_int, concrete, renamed, stochastic
from ..chains.pair_chain import PairChain
from ..models.contracts import Agents
from ..models.layouts import Views, view_of
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex, check_soft
from ..numerics.arrays import einsum
from ..numerics.compiled import jit
from ..numerics.memory import device_memory
from .activation import IndexPolicy, Priority, active_counts, check_priority
from .agents_process import AgentsPolicy
from .group_laws import TaggedRoundedKernel, tagged_rounded_kernel
from .next_counts import NextCounts, configurations, next_counts, num_configurations, walk_size
from .population_chain import PopulationPolicy, goes_by_counts, population_chain
from .rounded import Rounded, others, rounded_priority, rounded_soft, tagged

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
        ahead = lax.map(lambda op: op.mv(v), self.others)  # [2, S', C]
        return einsum("sat,atc->sac", self.local, ahead).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next (tagged state, configuration), mu K."""
        mu = mu.reshape(*self.local.shape[:2], -1)  # [S, 2, C]
        moved = einsum("sac,sat->atc", mu, self.local)  # [2, S, C]
        laws = lax.map(lambda both: both[0].vm(both[1]), (self.others, moved))
        return laws.sum(0).reshape(-1)

    def matrix(self) -> Array:
        """K itself, for few agents."""
        ahead = lax.map(lambda op: op.matrix(), self.others)  # [2, C, C]
        rows = einsum("sat,acd->sactd", self.local, ahead)
        return rows.reshape(2 * self.local.shape[0] * ahead.shape[1], -1)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.local)

    def spread_over(
        self, axes: Sequence[str], number: int
    ) -> tuple["TaggedKernel", "TaggedKernel"]:
        """K for so many devices, and how it lies on them: the laws of the others are cut."""
        walks, spec = self.others.spread(axes, number)
        whole: Any = PartitionSpec()
        return TaggedKernel(self.local, walks), TaggedKernel(whole, spec)

    def at_work(self, number: int) -> int:
        """Numbers that a product takes on each of so many devices, about: half the laws, a walk."""
        agents, states = self.others.num_agents, len(self.local)
        walk = walk_size(agents, states, 2 * states) - walk_size(agents, states, 0)
        return sum(law.size for law in self.others.tails) // 2 // number + walk


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedPolicy:
    """Π: a rounding is drawn, then fairly who of the agents of a state is active.

    Attributes:
        table: probability of (a, j) in (s, c), `[S, 2, C, J]`.
    """

    table: Array

    @property
    def num_states(self) -> int:
        """Number of (tagged state, configuration)."""
        return self.table.shape[0] * self.table.shape[2]

    def mv(self, f: Array) -> Array:
        """The mean over actions and roundings, `[S * 2 * C * J, ...]` to `[S * C, ...]`."""
        mean = (self.table[..., None] * f.reshape(*self.table.shape, -1)).sum((1, 3))
        return mean.reshape(self.num_states, *f.shape[1:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair, `[S * C]` to `[S * 2 * C * J]`."""
        num_states, _, size, _ = self.table.shape
        return (self.table * mu.reshape(num_states, 1, size, 1)).reshape(-1)

    def stochastic(self) -> Array:
        """Whether the actions in every state have probabilities."""
        return stochastic(jnp.moveaxis(self.table, 1, 2).reshape(self.num_states, -1))

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """(S, 2, C, J)."""
        return self.table.shape

    def spread(self, axes: Sequence[str]) -> "TaggedPolicy":
        """How the table lies on a mesh of devices: its first axes along those of the mesh."""
        spec: Any = PartitionSpec(*axes)
        return TaggedPolicy(spec)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedLayout:
    """Factors (X, (c, j)); the one view is the tagged pair.

    Attributes:
        active: active agents of each state among the others, by the tagged agent's action and
            state, `[2, S, C, J, S]`. Under a priority the tagged agent's state does not matter:
            `[2, 1, C, 1, S]`.
        num_agents: N. Static.
    """

    active: Array
    num_agents: int = field(metadata={"static": True})

    @property
    def sizes(self) -> tuple[int, ...]:
        """(2 S, C J)."""
        _, _, size, roundings, num_states = self.active.shape
        return 2 * num_states, size * roundings

    @property
    def views(self) -> Views:
        """The tagged pair."""
        return ((0,),)

    @property
    def num_alike(self) -> tuple[int, ...]:
        """The view of one agent stands for all N."""
        return (self.num_agents,)

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of the tagged pair, `[2 S * C * J]` to `[2 S]`."""
        return view_of(self, agent).project(measure)

    def lift(self, functions: Sequence[Array]) -> Array:
        """f(x_1) + Σ over the others of f: one function, weighted by counts, `[2 S * C * J]`."""
        f = functions[0].reshape(-1, 2)  # [S, 2]
        counts = configurations(self.num_agents - 1, len(f))
        idle = einsum("ct,t->c", jnp.asarray(counts, f.dtype), f[:, 0])
        gain = einsum("ascjt,t->sacj", self.active.astype(f.dtype), f[:, 1] - f[:, 0])
        return (f[:, :, None, None] + (idle[None, None, :, None] + gain)).reshape(-1)

    def spread(self, axes: Sequence[str]) -> "TaggedLayout":
        """How it lies on a mesh along (s, a, c, j), where the tagged agent's state matters."""
        first, second = (*axes, None)[:2]
        return replace(self, active=PartitionSpec(second, first, *axes[2:]))


@renamed(priority="policy")
def exchangeable_chain(
    bandit: RestlessBandit | WeaklyCoupledPopulation,
    policy: IndexPolicy | PopulationPolicy,
    *,
    memory: int | None = None,
) -> PairChain:
    """The exact chain of (tagged agent's pair, configuration of the others and rounding).

    Its stationary law is the exchangeable one of the joint chain of all agents, which has others
    where it has several closed classes (`check_exchangeability`).

    Of a population of several types one agent of each is tagged: the chain has one view a type, and
    `lift` takes a function of the pair for each. It is for few agents, its policy may be anything
    that goes by counts (`population_chain`).

    Differentiable in the kernels, and in index and temperature of a `SoftIndex`. The largest arrays
    are, under a priority, the laws of the last-served states, see `NextCounts`: 0.6 GB for N = 60,
    S = 4, in float64. Under a soft index they are the law of the idle group, `[C_l, C_l]` with
    C_l = C(N - M + S - 1, S - 1), and vectors of 2 S C(N + S - 2, S - 1) S elements.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes. Or a population, of
            which counts, costs and budgets must be known.
        policy: a priority, that is, a permutation of the states, first served first, static; or a
            `SoftIndex`, which may be traced. Of a population a list of moves `(type, state,
            action)`. Of either a policy that knows its law (`PriorityPolicy`, `RandomizedPolicy`,
            `ReplanningPolicy`, `RandomPolicy`, `OptimalPolicy`), or a function that takes the
            counts of each type, `[S_k]`, to how many take each action, `[S_k, A_k]`, or to several
            such splits with their chances, `[(chance, split), ..]`.
        memory: bytes it may take; by default what the device has. Static.

    Returns:
        `PairChain` of factors (2 S, C(N + S - 2, S - 1) J) with one view, the tagged pair. `lift`
        takes one function of the pair and sums it over all N agents.

    Raises:
        ValueError: for a bad bandit or policy, and before anything is allocated if the chain does
            not fit: the message has the count, the bytes and the largest N that fits.
    """
    if isinstance(policy, AgentsPolicy):
        raise ValueError(
            f"policy: {type(policy).__name__} goes agent by agent, so that counts are no chain; "
            "simulate_population runs it"
        )
    if isinstance(bandit, WeaklyCoupledPopulation) or goes_by_counts(policy):
        return population_chain(bandit, policy, memory)
    if isinstance(policy, SoftIndex):
        num_agents, budget = check_soft_team(bandit, policy, memory)
        return _soft_chain(bandit, policy, num_agents, budget)
    priority: Any = policy
    num_agents, budget, order = check_exchangeable(bandit, priority)
    local = as_float_kernel(bandit)
    check_memory(num_agents, len(order), partial(_chain_bytes, local.dtype.itemsize), memory)
    left = budgets_left(num_agents, budget)
    walks = _prepare_both(local, jnp.array(left), num_agents=num_agents - 1, priority=order)
    counts = configurations(num_agents - 1, len(order))
    active = np.stack([active_counts(counts, each, order) for each in left])
    rounded = rounded_priority(num_agents, budget, order, local.dtype)
    return PairChain(
        TaggedKernel(local, walks),
        TaggedPolicy(tagged(rounded, num_agents).table),
        TaggedLayout(jnp.asarray(active[:, None, :, None], jnp.int32), num_agents),
    )


soft_exchangeable_chain = exchangeable_chain  # its first name for a soft index policy


@jit(static_argnums=(2, 3))
def _soft_chain(bandit: RestlessBandit, policy: SoftIndex, num_agents: int, budget: int):
    rounded, kernel, split = soft_team(as_float_kernel(bandit), policy, num_agents, budget)
    part = TaggedPolicy(tagged(rounded, num_agents).table)
    return PairChain(kernel, part, TaggedLayout(split[..., 1], num_agents))


def soft_team(
    local: Array, policy: SoftIndex, num_agents: int, budget: int
) -> tuple[Rounded, TaggedRoundedKernel, Array]:
    """Roundings, the kernel of a tagged agent and the others, and the others' `split`."""
    rounded = rounded_soft(num_agents, budget, policy)
    split = others(rounded, num_agents)
    left = budgets_left(num_agents, budget)
    return rounded, tagged_rounded_kernel(local, split, num_agents - 1, left), split


def check_exchangeable(
    bandit: RestlessBandit, priority: Priority
) -> tuple[int, int, tuple[int, ...]]:
    """N, M and the priority as Python ints, or a ValueError that names what is wrong."""
    num_agents, budget = check_counted(bandit)
    if not concrete(priority):
        raise ValueError("priority: it must be known here, not a traced value")
    order = check_priority(priority, bandit.num_states)
    return num_agents, budget, tuple(int(s) for s in np.asarray(order))


def check_counted(bandit: RestlessBandit) -> tuple[int, int]:
    """N and M as Python ints, or a ValueError that names what is wrong."""
    check_bandit(bandit)
    check_positive_int("num_agents", bandit.num_agents)
    if not concrete(bandit.budget):
        raise ValueError("budget: it must be a Python int here, not a traced value")
    return int(bandit.num_agents), int(bandit.budget)


def check_soft_team(
    bandit: RestlessBandit, policy: SoftIndex, memory: int | None
) -> tuple[int, int]:
    """N and M, after every check of an exact answer under a soft index policy."""
    num_agents, budget = check_counted(bandit)
    check_soft(policy, bandit.num_states)
    itemsize = as_float_kernel(bandit).dtype.itemsize
    needed = partial(soft_bytes, itemsize, budget / num_agents)
    check_memory(num_agents, bandit.num_states, needed, memory)
    return num_agents, budget


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


def soft_bytes(itemsize: int, share: float, num_agents: int, num_states: int) -> int:
    """What the laws of the groups and a solve hold under a soft index policy, about."""
    active = num_configurations(round(share * num_agents), num_states)
    idle = num_configurations(num_agents - round(share * num_agents), num_states)
    pairs = 2 * num_states**2 * num_configurations(num_agents - 1, num_states)
    laws = 2 * (active**2 + idle**2) + 4 * num_states * active * idle
    return (laws + VECTORS * pairs) * itemsize


@jit(static_argnames=("num_agents", "priority"))
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
