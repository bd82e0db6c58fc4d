"""A population agent by agent, for policies that keep a memory: who did what is not in the counts.

A policy has a memory of its own, made from the states at the beginning, shown the states to choose
the actions, and told the next states. The agents of type 0 come first; at the beginning those of a
type stand in random order, as nothing tells them apart.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ..models.population import WeaklyCoupledPopulation
from .in_turn import drawn, padded_laws

Array = jax.Array
ByType = tuple[Array, ...]


@runtime_checkable
class AgentsPolicy(Protocol):
    """A policy that goes agent by agent: a pytree, and all that it does can be traced.

    `IDPolicy`, `VirtualAdvicePolicy`, `TwoSetPolicy`, `ArmsPriority`, or one of your own.
    """

    def start(self, key: Array, states: Array, /) -> Any:
        """The memory where the agents begin in these states, `[N]` int32."""
        ...

    def act(self, key: Array, states: Array, memory: Any, /) -> tuple[Array, Any]:
        """Actions `[N]` int32 in these states, and the memory with what they were meant to be."""
        ...

    def after(self, key: Array, states: Array, actions: Array, memory: Any, then: Array, /) -> Any:
        """The memory once the agents went from `states` by `actions` to `then`, `[N]` each."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AgentsProcess:
    """N agents under a policy with a memory; a state is their states and the memory.

    Attributes:
        policy: with a memory.
        kernel: P(s' | s, a), padded, `[T, S, A, S]`.
        kind: row of each agent in it, `[N]`.
        sizes: (S_k, A_k) of each type. Static.
        numbers: agents of each type, those of type 0 first. Static.
    """

    policy: AgentsPolicy
    kernel: Array
    kind: Array
    sizes: tuple[tuple[int, int], ...] = field(metadata={"static": True})
    numbers: tuple[int, ...] = field(metadata={"static": True})

    def start(self, key: Array, counts: ByType) -> tuple[Array, Any]:
        """Agents of each type in random order, and the policy's first memory."""
        mixed, own = jax.random.split(key)
        parts = []
        for k, (part, n) in enumerate(zip(counts, self.numbers, strict=True)):
            states = jnp.repeat(jnp.arange(len(part)), part, total_repeat_length=n)
            parts.append(jax.random.permutation(jax.random.fold_in(mixed, k), states))
        return self.begin(own, jnp.concatenate(parts).astype(jnp.int32))

    def begin(self, key: Array, states: Array) -> tuple[Array, Any]:
        """Agents in these states."""
        return states, self.policy.start(key, states)

    def counts(self, state: tuple[Array, Any]) -> ByType:
        """Agents of each type by state."""
        every = jnp.zeros(self.kernel.shape[:2], jnp.int32).at[self.kind, state[0]].add(1)
        return tuple(every[k, :S] for k, (S, _) in enumerate(self.sizes))

    def act(self, key: Array, state: tuple[Array, Any]) -> tuple[ByType, tuple[Array, Array, Any]]:
        """The split; states, actions and memory."""
        states, actions, memory = self.choose(key, state)
        every = jnp.zeros(self.kernel.shape[:3], jnp.int32)
        every = every.at[self.kind, states, actions].add(1)
        splits = tuple(every[k, :S, :A] for k, (S, A) in enumerate(self.sizes))
        return splits, (states, actions, memory)

    def choose(self, key: Array, state: tuple[Array, Any]) -> tuple[Array, Array, Any]:
        """States, actions and memory."""
        states, memory = state
        actions, memory = self.policy.act(key, states, memory)
        return states, jnp.asarray(actions, jnp.int32), memory

    def move(self, key: Array, acted: tuple[Array, Array, Any]) -> tuple[Array, Any]:
        """Each agent moves on its own; then the policy is told."""
        states, actions, memory = acted
        moves, own = jax.random.split(key)
        rows = self.kernel[self.kind, states, actions]  # [N, S]
        then = drawn(jax.random.uniform(moves, states.shape, rows.dtype), rows)
        return then, self.policy.after(own, states, actions, memory, then)


def agents_process(
    population: WeaklyCoupledPopulation, policy: AgentsPolicy, numbers: tuple[int, ...]
) -> AgentsProcess:
    """The process of a policy with a memory; kernels may be traced, numbers of agents not."""
    tables = [kind.mdp.transition for kind in population.types]
    S, A = (max(sizes) for sizes in zip(*population.sizes, strict=True))
    kind = jnp.asarray(np.repeat(np.arange(len(numbers), dtype=np.int32), numbers))
    kernel = padded_laws(tables, (S, A, S))
    return AgentsProcess(policy, kernel, kind, population.sizes, numbers)
