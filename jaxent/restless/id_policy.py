r"""The ID policy: agents draw what the relaxation would do, and stand in one order for ever.

Every agent draws an action from the policy of the relaxation in its state, and agents are given
what they drew in the order of their IDs, while the budgets last. As the order never changes, the
first agents nearly always do what they would do alone, and their law comes near the optimal one;
they leave budget for the next ones, and so on: the policy is asymptotically optimal for aperiodic
chains of one class, without a global attractor.

References:
    Hong, Xie, Chen and Wang (2024), Unichain and aperiodicity are sufficient for asymptotic
    optimality of average-reward restless bandits; Zhang, Hong and Wang (2025), Projection-based
    Lyapunov method for fully heterogeneous weakly-coupled MDPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.heterogeneous_arms import HeterogeneousArms
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit
from .in_turn import Agents, drawn
from .relaxed import Relaxed, Tables, relaxed

Array = jax.Array


@reads("actions drawn by {0.order.shape[0]} agents, given in the order of their IDs")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IDPolicy:
    """Agents that draw their actions, and are given them in an order that never changes.

    It keeps nothing in memory; agents are not exchangeable, so it goes agent by agent.

    Attributes:
        agents: N of them, their costs and budgets.
        table: π(a|s), padded, `[T, S, A]`.
        order: agents, the first served first, `[N]`.
        stop: whether nobody is served after the first who is refused. Static.
    """

    agents: Agents
    table: Array
    order: Array
    stop: bool = field(metadata={"static": True})

    def start(self, key: Array, states: Array) -> tuple[()]:
        """Nothing to remember."""
        del key
        self.agents.check(states)
        return ()

    def act(self, key: Array, states: Array, memory: tuple[()]) -> tuple[Array, tuple[()]]:
        """Actions `[N]`."""
        rows = self.table[self.agents.kind, states]
        wanted = drawn(jax.random.uniform(key, states.shape, rows.dtype), rows)
        return self.agents.given(states, wanted, self.order, stop=self.stop), memory

    def after(
        self, key: Array, states: Array, actions: Array, memory: tuple[()], then: Array
    ) -> tuple[()]:
        """Nothing to remember."""
        del key, states, actions, then
        return memory


def id_policy(
    population: RestlessBandit | WeaklyCoupledPopulation | HeterogeneousArms,
    tables: Tables,
    *,
    order: ArrayLike | Sequence[int] | None = None,
    stop: bool = True,
) -> IDPolicy:
    r"""Agents draw the actions of the relaxation, and are given them in the order of fixed IDs.

    An agent that is refused takes the cheapest action of its state. What is left of budgets that
    must be spent exactly is given away to the last ones first. All of it is spent where there is
    one budget and the costs of a state are consecutive whole numbers, as for a bandit; elsewhere
    `kept` of a run says so.

    Args:
        population: or a `RestlessBandit`, or `HeterogeneousArms`; its values must be known.
        tables: a `FluidPolicy` (of arms an `ArmsRelaxation`), or π_k(a|s) of each type,
            `[S_k, A_k]` (of arms `[N, S, A]`).
        order: all agents once, the first served first, `[N]`; those of type 0 come first in the
            numbering. If not given, the types take turns by their shares, and arms stand so that
            every beginning of the order uses its share of the budgets on average.
        stop: whether all agents after the first who is refused are refused too, as in the paper;
            False serves those whose wants still fit, which earns more where costs differ. Static.

    Raises:
        ValueError: for a bad population, table or order, or more agents than memory.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(100)
        >>> policy = jaxent.id_policy(bandit, jaxent.fluid_policy(bandit))
        >>> run = jaxent.simulate_population(jax.random.key(0), bandit, policy, num_steps=5)
        >>> print(run.spent[:, 0], run.kept)
        [20. 20. 20. 20. 20.] True

    References:
        Hong, Xie, Chen and Wang (2024); Zhang, Hong and Wang (2025).
    """
    made = relaxed(population, tables)
    number = len(made.agents.kind)
    if order is None:
        return IDPolicy(made.agents, made.table, jnp.asarray(_spread(made)), stop)
    check_shape("order", order, (number,))
    places = np.asarray(order)
    seen = np.bincount(places[(places >= 0) & (places < number)].astype(int), minlength=number)
    if (seen != 1).any():
        raise ValueError(
            f"order: agent {int(np.flatnonzero(seen != 1)[0])} is in it "
            f"{int(seen[seen != 1][0])} times; each of 0..{number - 1} must be in it once"
        )
    return IDPolicy(made.agents, made.table, jnp.asarray(places, jnp.int32), stop)


def _spread(made: Relaxed) -> np.ndarray:
    """An order in which every beginning holds its share of each type and of what is used.

    Ranked by what they use, the agents are taken in turn at steps of the golden ratio.
    """
    kind = np.asarray(made.agents.kind)
    limits = np.abs(np.asarray(made.agents.limits))
    unit = np.where(limits > 0, limits, 1)
    use = (made.used / unit).sum(-1)  # [T], of all budgets as shares of them
    ranked = np.lexsort((kind, use[kind]))
    turn = np.arange(len(kind)) * ((5**0.5 - 1) / 2) % 1
    return ranked[np.argsort(turn)].astype(np.int32)
