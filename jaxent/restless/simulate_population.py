"""Simulation of a population under a policy: counts of agents by type and state."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_positive_int, check_shape, concrete
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import dot
from ..numerics.compiled import jit
from .agents_process import AgentsPolicy
from .population_process import DrawnPolicy, Process, Splits, process_of
from .priority_policy import Move

Array = jax.Array


@reads("{0.reward.shape[0]} epochs; budgets kept: {0.kept}")
class PopulationTrajectory(NamedTuple):
    """A run of a population on counts.

    Attributes:
        counts: agents of each type by state at epochs 0..T, `[T + 1, S_k]` int32 each.
        splits: those that take each action at epochs 0..T - 1, `[T, S_k, A_k]` int32 each.
        reward: of the whole population at epochs 0..T - 1, `[T]`.
        spent: of each resource at epochs 0..T - 1, `[T, K]`.
        kept: whether every budget was kept and every agent given one action, at all epochs.
    """

    counts: tuple[Array, ...]
    splits: tuple[Array, ...]
    reward: Array
    spent: Array
    kept: Array


def simulate_population(
    key: Array,
    population: RestlessBandit | WeaklyCoupledPopulation,
    policy: DrawnPolicy | AgentsPolicy | Sequence[Move] | Splits,
    *,
    num_steps: int,
    start: Sequence[ArrayLike | Sequence[int]] | None = None,
) -> PopulationTrajectory:
    r"""Simulate the counts of a population under a policy of the counts, or one with a memory.

    Args:
        key: of `jax.random.key`.
        population: or a `RestlessBandit`. Counts and limits may be traced where the policy is a
            function, so that one compilation serves a sweep over N.
        policy: a list of moves or what has one (`LagrangeIndex`, `FluidPolicy`), any policy with
            `draw(key, counts)` (`PriorityPolicy`, `RandomizedPolicy`, `RandomPolicy`,
            `ReplanningPolicy`); or a function of the counts of each type, `[S_k]`, that JAX can
            trace, to how many take each action, `[S_k, A_k]` each. Static if a function. One that
            keeps a memory (`IDPolicy`, `VirtualAdvicePolicy`, `TwoSetPolicy`, any `AgentsPolicy`)
            is simulated agent by agent.
        num_steps: T. Static.
        start: agents of each type by state; as even as can be if not given.

    Returns:
        The trajectory. `kept` is false where a policy breaks a budget or loses an agent.

    Raises:
        ValueError: for a population, policy or start that is not one.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> population = jaxent.circulant_bandit(1000)
        >>> moves = jaxent.lagrange_index(population)
        >>> run = jaxent.simulate_population(jax.random.key(0), population, moves, num_steps=3)
        >>> print(run.counts[0].sum(1), run.spent[:, 0], run.kept)
        [1000 1000 1000 1000] [200. 200. 200.] True
    """
    check_positive_int("num_steps", num_steps)
    checked = as_population(population)
    if start is None:
        start = _even(checked)
    else:
        check_counts(start, checked)
    counts = tuple(jnp.asarray(part, jnp.int32) for part in start)
    return _simulate(key, checked, process_of(checked, policy), counts, num_steps=num_steps)


@partial(jit, static_argnames=("num_steps",))
def _simulate(
    key: Array,
    population: WeaklyCoupledPopulation,
    process: Process,
    counts: tuple[Array, ...],
    *,
    num_steps: int,
) -> PopulationTrajectory:
    paid, used, keeps = ledger(population)

    def step(state, keys: Array):
        splits, acted = process.act(keys[1], state)
        return process.move(keys[0], acted), (process.counts(state), splits)

    begin = process.start(jax.random.fold_in(key, num_steps), counts)
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_steps))  # [T, 2], at once
    last, (before, splits) = lax.scan(step, begin, keys)
    agents = jnp.concatenate([part.reshape(num_steps, -1) for part in splits], axis=1)  # [T, ΣX_k]
    agents = agents.astype(paid.dtype)
    spent = dot(agents, used)
    kept = jax.vmap(keeps)(spent).all()
    for part, n in zip(splits, before, strict=True):
        kept &= (part.sum(2) == n).all() & (part >= 0).all()
    every = tuple(
        jnp.concatenate([part, end[None]])
        for part, end in zip(before, process.counts(last), strict=True)
    )
    return PopulationTrajectory(every, splits, dot(agents, paid), spent, kept)


def ledger(
    population: WeaklyCoupledPopulation,
) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Reward `[ΣX_k]` and costs `[ΣX_k, K]` of all pairs, and whether what is spent is allowed."""
    kinds = population.types
    dtype = jnp.result_type(*(kind.mdp.transition for kind in kinds), float)
    reward = jnp.concatenate([jnp.ravel(jnp.asarray(kind.mdp.reward, dtype)) for kind in kinds])
    used = [jnp.asarray(k.costs, dtype).reshape(-1, len(population.budgets)) for k in kinds]
    costs = jnp.concatenate(used)
    limits = jnp.stack([jnp.asarray(limit, dtype) for limit in population.limits])
    equality = np.array([budget.equality for budget in population.budgets])
    size = jnp.asarray(population.num_agents, dtype) * jnp.abs(costs).max(0)
    slack = float(jnp.finfo(dtype).eps) ** 0.5 * jnp.maximum(jnp.abs(limits), size)

    def keeps(spent: Array) -> Array:
        return ~((spent > limits + slack) | (equality & (spent < limits - slack))).any()

    return reward, costs, keeps


def _even(population: WeaklyCoupledPopulation) -> tuple[Array, ...]:
    """Counts as even as they can be, the first states one agent ahead."""
    parts = []
    for n, (S, _) in zip(population.counts, population.sizes, strict=True):
        n = np.asarray(n, np.int32) if concrete(n) else jnp.asarray(n, jnp.int32)
        parts.append(n // S + (np.arange(S, dtype=np.int32) < n % S))
    return tuple(parts)


def check_counts(start: Sequence[Any], population: WeaklyCoupledPopulation) -> None:
    """Raise a ValueError unless these are whole agents of each type by state."""
    if len(start) != len(population.sizes):
        raise ValueError(f"start: wanted agents per state of each of {len(population.sizes)} types")
    for k, (part, n, (S, _)) in enumerate(
        zip(start, population.counts, population.sizes, strict=True)
    ):
        check_shape(f"start[{k}]", part, (S,))
        if not concrete(part, n):
            continue
        agents = np.asarray(part)
        if (agents < 0).any() or (agents != np.round(agents)).any() or agents.sum() != int(n):
            raise ValueError(
                f"start[{k}]: {agents.tolist()} are not whole agents that sum to counts[{k}] = {n}"
            )
