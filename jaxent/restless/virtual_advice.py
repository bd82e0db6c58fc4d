r"""Follow the virtual advice (FTVA): agents are steered to where they would be if they were alone.

Each agent has a virtual state that moves by the policy of the relaxation as if there were no
others, and that policy's action there is its advice. As many as the budgets allow follow the
advice, those first whose real state is the virtual one, ties at random. If state and action are
the virtual ones, the virtual state moves with the real one, and elsewhere on its own; so the
virtual states have the optimal law whatever happens, and an agent once there stays there mostly.

References:
    Hong, Xie, Chen and Wang (2023), Restless bandits with average reward: breaking the uniform
    global attractor assumption.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .._reads import reads
from ..models.heterogeneous_arms import HeterogeneousArms
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit
from .in_turn import Agents, drawn, fair_order
from .relaxed import Tables, relaxed

Array = jax.Array


@reads("{0.agents.kind.shape[0]} agents that follow virtual ones, within the budgets")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VirtualAdvicePolicy:
    """Agents that follow the actions of virtual states.

    The memory is the virtual state of every agent and, once it acts, its virtual action.

    Attributes:
        agents: N of them, their costs and budgets.
        kernel: P(s' | s, a), padded, `[T, S, A, S]`.
        table: π(a|s), `[T, S, A]`.
        law: of the virtual states at the beginning, `[T, S]`.
    """

    agents: Agents
    kernel: Array
    table: Array
    law: Array

    def start(self, key: Array, states: Array) -> tuple[Array, Array]:
        """Virtual states by the law of the relaxation, whatever the real ones are."""
        self.agents.check(states)
        rows = self.law[self.agents.kind]
        virtual = drawn(jax.random.uniform(key, states.shape, rows.dtype), rows)
        return virtual, jnp.zeros_like(virtual)

    def act(
        self, key: Array, states: Array, memory: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Actions `[N]`, and the virtual states and actions."""
        virtual, _ = memory
        advice, ties = jax.random.split(key)
        rows = self.table[self.agents.kind, virtual]
        wanted = drawn(jax.random.uniform(advice, states.shape, rows.dtype), rows)
        order = fair_order(ties, states != virtual)
        return self.agents.given(states, wanted, order), (virtual, wanted)

    def after(
        self,
        key: Array,
        states: Array,
        actions: Array,
        memory: tuple[Array, Array],
        then: Array,
    ) -> tuple[Array, Array]:
        """Virtual states move with the real ones, or on their own."""
        virtual, wanted = memory
        rows = self.kernel[self.agents.kind, virtual, wanted]
        alone = drawn(jax.random.uniform(key, states.shape, rows.dtype), rows)
        together = (states == virtual) & (actions == wanted)
        return jnp.where(together, then, alone), wanted


def virtual_advice_policy(
    population: RestlessBandit | WeaklyCoupledPopulation | HeterogeneousArms, tables: Tables
) -> VirtualAdvicePolicy:
    r"""Follow the virtual advice (FTVA), for any number of types, actions and budgets.

    The advice is the virtual action, taken in the real state; an agent that is refused takes the
    cheapest action of its state. What is left of budgets that must be spent exactly is given away,
    first to those whose real state is not the virtual one. All of it is spent where there is one
    budget and the costs of a state are consecutive whole numbers, as for a bandit; elsewhere
    `kept` of a run says so.

    Args:
        population: or a `RestlessBandit`, or `HeterogeneousArms`; its values must be known.
        tables: a `FluidPolicy` (of arms an `ArmsRelaxation`), or π_k(a|s) of each type,
            `[S_k, A_k]` (of arms `[N, S, A]`).

    Raises:
        ValueError: for a bad population or table, or more agents than memory.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(100)
        >>> policy = jaxent.virtual_advice_policy(bandit, jaxent.fluid_policy(bandit))
        >>> run = jaxent.simulate_population(jax.random.key(0), bandit, policy, num_steps=5)
        >>> print(run.spent[:, 0], run.kept)
        [20. 20. 20. 20. 20.] True

    References:
        Hong, Xie, Chen and Wang (2023).
    """
    made = relaxed(population, tables)
    law = jnp.asarray(made.law, made.table.dtype)
    return VirtualAdvicePolicy(made.agents, made.kernel, made.table, law)
