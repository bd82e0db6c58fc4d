"""What the policies of a comparison are, and what is measured of each: exactly and by runs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

import jaxent
from experiments.sum_from_runs import measure_runs
from jaxent import plotting


class Sizes(Protocol):
    """The sizes of simulations in an experiment's config."""

    @property
    def runs(self) -> int:
        """Independent runs."""
        ...

    @property
    def steps(self) -> int:
        """Epochs of a run that count."""
        ...

    @property
    def horizon(self) -> int:
        """Epochs of a continuation."""
        ...

    @property
    def branches(self) -> int:
        """Continuations from the end of each run."""
        ...


BURN_IN = 30
# Splits of all configurations that an exact value may list.
_SPLITS = 2_000_000


class Entrant(NamedTuple):
    """A policy in the comparison.

    Attributes:
        make: from a population and its `FluidPolicy`.
        label: in pictures.
        exact: whether it goes by counts, so that small populations have an exact chain.
        stride: of the numbers of agents every `stride`-th is simulated, as steps cost more,
        most: and at most this number; 0 for exact values alone.
        color: in pictures.
        marker: in pictures.
    """

    make: Callable[[Any, Any], Any]
    label: str
    exact: bool
    stride: int
    most: int
    color: str
    marker: str


POLICIES = {
    "priority": Entrant(
        lambda p, fluid: jaxent.priority_policy(p, fluid.priority),
        "fluid priority", True, 1, 10**6, plotting.GREEN, "s",
    ),
    "lagrange": Entrant(
        lambda p, fluid: jaxent.randomized_policy(p, fluid),
        "optimal Lagrange", True, 1, 10**6, "#8a5fb5", "v",
    ),
    "random": Entrant(
        lambda p, fluid: jaxent.random_policy(p), "random", True, 1, 0, plotting.GRAY, "x"
    ),
    "id": Entrant(jaxent.id_policy, "ID", False, 2, 160, plotting.BLUE, "o"),
    "ftva": Entrant(
        jaxent.virtual_advice_policy, "virtual advice", False, 2, 160, plotting.RED, "^"
    ),
    "two-set": Entrant(jaxent.two_set_policy, "two sets", False, 2, 160, "#b07d12", "D"),
    "mpc": Entrant(lambda p, fluid: jaxent.mpc_policy(p), "MPC", True, 2, 40, "#111111", "*"),
}  # fmt: skip
# Runs, at most, of policies that solve a program for each new configuration.
PROGRAMS = 12


def fits(name: str, num_agents: int) -> bool:
    """Whether the problem takes this number of agents."""
    try:
        jaxent.named_population(name, num_agents)
    except ValueError:
        return False
    return True


def solvable(name: str, num_agents: int) -> bool:
    """Whether the problem takes this number of agents, and has few enough splits to list."""
    if not fits(name, num_agents):
        return False
    population = jaxent.named_population(name, num_agents)
    pairs = zip(population.counts, population.sizes, strict=True)
    return math.prod(math.comb(n + S * A - 1, n) for n, (S, A) in pairs) <= _SPLITS


def same_as_priority(population: jaxent.WeaklyCoupledPopulation) -> bool:
    """Whether what the agents draw changes nothing: every budget is spent in the same order."""
    return all(budget.equality for budget in population.budgets)


def entrants(name: str, policies: Sequence[str]) -> list[str]:
    """The policies that the problem takes, each once."""
    population = jaxent.named_population(name, 20)
    alike = len(population.types) == 1 and population.sizes[0][1] == 2
    left_out = {"lagrange"} if same_as_priority(population) else set()
    left_out |= set() if alike and same_as_priority(population) else {"two-set"}
    return [policy for policy in policies if policy not in left_out]


def exact_sizes(name: str, policy: str, sizes: Sequence[int]) -> list[int]:
    """Numbers of agents at which the policy is solved exactly.

    With more than one type or two actions the random policy has thousands of splits in a
    configuration of ten agents.
    """
    if not POLICIES[policy].exact:
        return []
    simple = list(jaxent.named_population(name, 20).sizes)
    many = policy == "random" and (len(simple) > 1 or simple[0][1] > 2)
    return [n for n in sizes if solvable(name, n) and not (many and n > 5)]


def own_entanglement(
    chain: jaxent.PairChain, mu: jax.Array, population: jaxent.WeaklyCoupledPopulation
) -> float:
    """E_1 by Eq. 15: what an agent's policy depends on besides its state, mean over the agents."""
    types = len(population.types)
    part: Any = chain.policy
    table = np.asarray(part.table)  # [S_1, A_1, .., C, J]
    law = np.asarray(mu).reshape(table.shape)
    total = 0.0
    for k, n in enumerate(population.counts):
        others = tuple(2 * i + 1 for i in range(types) if i != k)
        rows, mass = table.sum((*others, -1)), law.sum((*others, 2 * k + 1, -1))
        rows = np.moveaxis(rows, (k, k + 1), (-2, -1))
        mass = np.moveaxis(mass, k, -1)
        rows, mass = rows.reshape(-1, *rows.shape[-2:]), mass.reshape(-1, mass.shape[-1])
        total += n * float(jaxent.estimate_entanglement(rows, mass).value)
    return total / population.num_agents


def exactly(name: str, policy: str, num_agents: int) -> dict[str, float]:
    """Gap an agent, error of the sum and E_1, exact."""
    population = jaxent.named_population(name, num_agents)
    fluid = jaxent.fluid_policy(population)
    chain = jaxent.exchangeable_chain(population, POLICIES[policy].make(population, fluid))
    rewards = [kind.mdp.reward for kind in population.types]
    mu = jaxent.stationary_distribution(chain)
    found = jaxent.decompose(chain, rewards, discount=population.discount, mu=mu)
    gap = fluid.value - float(mu @ chain.lift([np.asarray(r).reshape(-1) for r in rewards]))
    return {
        "size": num_agents,
        "gap": gap / num_agents,
        "rms_error": float(np.sqrt(mu @ found.error**2)),
        "mu_error": float(found.mu_error),
        "entanglement": own_entanglement(chain, mu, population),
    }


def simulated(key: jax.Array, name: str, policy: str, num_agents: int, config: Sizes) -> dict:
    """Gap and error of the sum, by runs."""
    population = jaxent.named_population(name, num_agents)
    made = POLICIES[policy].make(population, jaxent.fluid_policy(population))
    few = policy == "mpc"
    found = measure_runs(
        key, population, made,
        num_runs=min(config.runs, PROGRAMS) if few else config.runs,
        burn_in=BURN_IN // 3 if few else BURN_IN,
        num_steps=min(config.steps, 10) if few else config.steps,
        horizon=min(config.horizon, 20) if few else config.horizon,
        branches=min(config.branches, 6) if few else config.branches,
    )  # fmt: skip
    return {"size": num_agents, **found._asdict()}


def limits(name: str) -> dict[str, Any]:
    """What the mean field under the priority of the fluid program says; None where it has none."""
    population = jaxent.named_population(name, 20)
    field: Any = jaxent.mean_field(population, jaxent.fluid_policy(population).priority)
    parts = np.array(population.counts) / population.num_agents
    found = {
        "rms_error": field.mu_error_limit * np.sqrt(np.pi / 2),  # the limit is normal
        "entanglement": parts @ np.asarray(field.entanglement_limit),
        "spectral_radius": field.spectral_radius,
    }
    return {key: float(value) if np.isfinite(value) else None for key, value in found.items()}


def best(name: str, num_agents: int) -> dict[str, float]:
    """The gap of the true optimum, an agent."""
    population = jaxent.named_population(name, num_agents)
    bound = jaxent.fluid_policy(population).value
    return {
        "size": num_agents,
        "gap": (bound - jaxent.optimal_policy(population).value) / num_agents,
    }
