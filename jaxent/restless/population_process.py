r"""A population under a policy as a chain that is stepped: who acts, then who moves where.

`simulate_population` and the estimates from runs ask this of it, whatever the policy keeps in mind:
what is drawn first is a split of the agents of each state among the actions, then the next states.
Given the split, the y(s, a) agents of a type that take action a in state s spread over the next
states as Multinomial(y(s, a), P(. | s, a)). A policy that goes by counts is stepped on counts: all
pairs of all types are drawn at once, types with fewer states padded by chances of 0, so that a step
costs the same for 100 agents and for 1,000,000.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete
from ..models.contracts import known_priority
from ..models.population import WeaklyCoupledPopulation
from ..numerics.arrays import as_float
from ..numerics.compiled import jit
from .agents_process import AgentsPolicy, agents_process
from .flow_sampling import FlowSampler, draw_flow, flow_sampler, sampler_bytes
from .priority_policy import Move, priority_policy
from .randomized_policy import chances_in_turn, draw_multinomial
from .sampling import MAX_COUNT

Array = jax.Array
ByType: TypeAlias = tuple[Array, ...]
Splits = Callable[[ByType], Sequence[Array]]

# Bytes that tables of binomials may take.
_TABLES = 2**26


@runtime_checkable
class DrawnPolicy(Protocol):
    """A policy that goes by counts and may draw: `PriorityPolicy`, `RandomizedPolicy`, .."""

    def draw(self, key: Array, counts: Sequence[Array], /) -> Sequence[Array]:
        """How many take each action, `[S_k, A_k]`, given the counts `[S_k]` of each type."""
        ...


class Process(Protocol):
    """What is stepped: a pytree; all that follows may be traced."""

    def start(self, key: Array, counts: ByType) -> Any:
        """The state in which agents of each type are by these counts, `[S_k]` each."""
        ...

    def counts(self, state: Any) -> ByType:
        """Agents of each type by state, `[S_k]` int32 each."""
        ...

    def act(self, key: Array, state: Any) -> tuple[ByType, Any]:
        """How many take each action, `[S_k, A_k]` int32 each, and what `move` needs to know."""
        ...

    def move(self, key: Array, acted: Any) -> Any:
        """The next state."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CountsProcess:
    """The process of a policy that goes by counts: its states are the counts.

    Attributes:
        policy: a policy with `draw(key, counts)`, or None where there is a function.
        sampler: tables to draw the next states of all pairs from, where they are small; otherwise
            the chances of each next state given none before it, `[S - 1, ΣX_k]`.
        function: of the counts, that JAX can trace. Static.
        sizes: (S_k, A_k) of each type. Static.
    """

    policy: DrawnPolicy | None
    sampler: FlowSampler | Array
    function: Splits | None = field(metadata={"static": True})
    sizes: tuple[tuple[int, int], ...] = field(metadata={"static": True})

    def start(self, key: Array, counts: ByType) -> ByType:
        """The counts themselves."""
        del key
        return counts

    def counts(self, state: ByType) -> ByType:
        """The state itself."""
        return state

    def act(self, key: Array, state: ByType) -> tuple[ByType, ByType]:
        """The split, twice: it is all that `move` needs."""
        if self.policy is not None:
            given = self.policy.draw(key, state)
        else:
            assert self.function is not None
            given = self.function(state)
        splits = tuple(jnp.asarray(part, jnp.int32) for part in given)
        return splits, splits

    def move(self, key: Array, acted: ByType) -> ByType:
        """The counts after a flow."""
        return self.arrived(self.flow(key, acted))

    def flow(self, key: Array, acted: ByType) -> Array:
        """Multinomial moves of all pairs at once: agents by pair and next state, `[ΣX_k, S]`."""
        flat = jnp.concatenate([part.reshape(-1) for part in acted])  # [ΣX_k]
        if isinstance(self.sampler, FlowSampler):
            seed = jax.random.key_data(key)[:2]  # the key is used for nothing else
            return draw_flow(seed, jnp.uint32(0), flat, self.sampler)  # [ΣX_k, S]
        return draw_multinomial(key, flat, self.sampler)

    def arrived(self, moved: Array) -> ByType:
        """Agents of each type by state after this flow."""
        ends = np.cumsum([S * A for S, A in self.sizes])[:-1]
        parts = zip(jnp.split(moved, ends), self.sizes, strict=True)
        return tuple(part[:, :S].sum(0, dtype=jnp.int32) for part, (S, _) in parts)


def counts_process(
    population: WeaklyCoupledPopulation, policy: DrawnPolicy | Splits
) -> CountsProcess:
    """The process of a policy that goes by counts; numbers may be traced."""
    sampler = _sampler(population)
    if isinstance(policy, DrawnPolicy):
        return CountsProcess(policy, sampler, None, population.sizes)
    return CountsProcess(None, sampler, policy, population.sizes)


def _sampler(population: WeaklyCoupledPopulation) -> FlowSampler | Array:
    """Tables where kernels and counts are known and few bytes are enough, or chances."""
    kernels = [kind.mdp.transition for kind in population.types]
    widest = max(S for S, _ in population.sizes)
    if concrete(kernels, population.counts):
        dtype = jnp.result_type(*kernels, jnp.float32)
        known = [np.asarray(P, dtype).reshape(-1, P.shape[-1]) for P in kernels]
        rows = np.concatenate([np.pad(P, ((0, 0), (0, widest - P.shape[1]))) for P in known])
        most = max(int(n) for n in population.counts)
        if most <= MAX_COUNT and sampler_bytes(rows, most) <= _TABLES:
            return flow_sampler(rows, most)
    return _chances([as_float(P) for P in kernels])


@jit
def _chances(kernels: Sequence[Array]) -> Array:
    """Of each next state given none before it, types with fewer states being padded by 0."""
    widest = max(P.shape[-1] for P in kernels)
    rows = [P.reshape(-1, P.shape[-1]) for P in kernels]
    rows = [jnp.pad(P, ((0, 0), (0, widest - P.shape[-1]))) for P in rows]
    return chances_in_turn(jnp.concatenate(rows))


def process_of(
    population: WeaklyCoupledPopulation,
    policy: DrawnPolicy | AgentsPolicy | Sequence[Move] | Splits,
) -> Process:
    """The process of a policy of any kind: the one place where a policy becomes one.

    Args:
        population: a checked one.
        policy: a list of moves or what has one (`LagrangeIndex`, `FluidPolicy`), what has
            `draw(key, counts)`, a function of the counts, or one that keeps a memory, which goes
            agent by agent.

    Raises:
        ValueError: if numbers of agents are traced under a policy that goes agent by agent.
    """
    given: Any = known_priority(policy)
    if isinstance(given, AgentsPolicy):
        if not concrete(population.counts):
            raise ValueError(
                "population: under a policy that goes agent by agent the numbers of agents must be "
                "known, not traced"
            )
        return agents_process(population, given, tuple(int(n) for n in population.counts))
    if not isinstance(given, DrawnPolicy) and not callable(given):
        given = priority_policy(population, given)
    known: Any = given
    return counts_process(population, known)
