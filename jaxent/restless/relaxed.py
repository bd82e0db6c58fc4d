"""What a policy that follows the relaxation needs: agents one by one, and what each would do alone.

A population of types and arms that all differ are the same here: arms are types of one agent.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape, check_stochastic, concrete
from ..models.contracts import ArrayLike
from ..models.heterogeneous_arms import HeterogeneousArms
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from .arms_alone import stationary_laws
from .arms_relaxation import ArmsRelaxation
from .fluid import FluidPolicy
from .in_turn import Agents, agents_of, agents_of_arms, padded_laws

Array = jax.Array
Tables: TypeAlias = FluidPolicy | ArmsRelaxation | Sequence[ArrayLike] | ArrayLike


class Relaxed(NamedTuple):
    """Agents and the policy that each would follow alone.

    Attributes:
        agents: N of them.
        kernel: P(s' | s, a), padded, `[T, S, A, S]`.
        table: π(a|s), `[T, S, A]`.
        law: of the state under it, `[T, S]`.
        used: of each resource by one agent a step, `[T, K]`.
    """

    agents: Agents
    kernel: Array
    table: Array
    law: np.ndarray
    used: np.ndarray


def relaxed(
    population: RestlessBandit | WeaklyCoupledPopulation | HeterogeneousArms, tables: Any
) -> Relaxed:
    """The agents of a population or of arms, and tables of theirs, checked."""
    if isinstance(population, HeterogeneousArms):
        return _of_arms(population, tables)
    checked = as_population(population)
    if not concrete(checked):
        raise ValueError("population: its values must be known here, not traced")
    agents = agents_of(checked)
    if isinstance(tables, FluidPolicy):
        tables = tables.policy
    listed = hasattr(tables, "__len__") and len(tables) > 0  # an array is a list too
    if isinstance(tables, ArmsRelaxation) or not listed or np.ndim(tables[0]) != 2:
        raise ValueError("tables: wanted a FluidPolicy, or one table [S_k, A_k] for each type")
    if len(tables) != len(checked.sizes):
        raise ValueError(f"tables: wanted one for each of {len(checked.sizes)} types")
    for k, (table, size) in enumerate(zip(tables, checked.sizes, strict=True)):
        check_shape(f"tables[{k}]", table, size)
        check_stochastic(f"tables[{k}]", table)
    S, A = (max(sizes) for sizes in zip(*checked.sizes, strict=True))
    kernel = padded_laws([kind.mdp.transition for kind in checked.types], (S, A, S))
    return _with_laws(agents, kernel, padded_laws(tables, (S, A)))


def _of_arms(arms: HeterogeneousArms, tables: Any) -> Relaxed:
    arms.check()
    if not concrete(arms):
        raise ValueError("arms: their values must be known here, not traced")
    if isinstance(tables, FluidPolicy):
        raise ValueError("tables: arms want an ArmsRelaxation; call arms_relaxation(arms)")
    if isinstance(tables, ArmsRelaxation):
        tables = tables.policy
    check_shape("tables", tables, np.shape(arms.reward))
    check_stochastic("tables", tables)
    kernel = jnp.asarray(arms.kernel)
    return _with_laws(agents_of_arms(arms), kernel, jnp.asarray(tables, kernel.dtype))


def _with_laws(agents: Agents, kernel: Array, table: Array) -> Relaxed:
    """Laws of the states, and what is used, under the tables."""
    policies = np.asarray(table, np.float64)
    law = stationary_laws(np.asarray(kernel, np.float64), policies)
    costs = np.asarray(agents.costs, np.float64)
    used = np.einsum("ts,tsa,tsak->tk", law, policies, costs)
    return Relaxed(agents, kernel, table, law, used)
