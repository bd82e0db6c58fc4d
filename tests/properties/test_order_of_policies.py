"""The bound, the optimum and every policy, in this order, on random small populations."""

import jax
import numpy as np
import pytest

import jaxent as je

from ..tolerances import SOLVE

# (S, A) of each type: limits of two resources; one budget of agents met exactly; costs 0, 1 and 2
# of a budget met exactly, which only a policy that plans keeps in every configuration.
LIMITS = (((3, 2),), ((2, 2), (2, 3)))
EXACTLY = (((3, 2),), ((2, 2), (3, 2)))
UNEVEN = (((2, 3),), ((2, 3), (2, 2)))
KINDS = ("limits", "exactly", "uneven")


def small_population(seed):
    """Dense kernels, so that every policy has one average; and which kind it is."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % 3]
    shapes = {"limits": LIMITS, "exactly": EXACTLY, "uneven": UNEVEN}[kind]
    sizes = shapes[rng.integers(len(shapes))]
    counts = (3,) if len(sizes) == 1 else (2, int(rng.integers(1, 3)))
    types = []
    for S, A in sizes:
        if kind == "limits":
            costs = rng.integers(0, 3, (S, A, 2)).astype(float)
            costs[:, 0] = 0
        else:
            costs = np.broadcast_to(np.arange(float(A))[None, :, None], (S, A, 1))
        mdp = je.MDP(rng.dirichlet(np.ones(S), (S, A)), rng.standard_normal((S, A)))
        types.append(je.AgentType(mdp, costs))
    most = sum(n * (A - 1) for n, (_, A) in zip(counts, sizes, strict=True))
    if kind == "limits":
        budgets = [je.Budget(float(rng.integers(0, most + 2))) for _ in range(2)]
    else:
        budgets = [je.Budget(float(rng.integers(0, most + 1)), equality=True)]
    discount = float(rng.choice([0.0, 0.5, 0.9, 0.99]))
    return kind, je.WeaklyCoupledPopulation(types, counts, budgets, discount)


def policies(kind, population, fluid):
    """Name and policy of each; those that go by a list of moves do not keep uneven budgets."""
    yield "lp_update", je.lp_update_policy(population, horizon=2)
    yield "mpc", je.mpc_policy(population, horizon=3)
    zeros = [np.zeros(S) for S, _ in population.sizes]
    yield "mpc, 0", je.mpc_policy(population, horizon=2, terminal=zeros)
    if kind == "uneven":
        return
    yield "priority", je.priority_policy(population, fluid.priority)
    yield "optimal Lagrange", je.optimal_lagrange_policy(population)
    yield "random", je.random_policy(population)
    rng = np.random.default_rng(0)
    tables = [rng.dirichlet(np.ones(A), S) for S, A in population.sizes]
    yield "randomized", je.randomized_policy(population, tables)
    index = je.lagrange_index(population, prices=fluid.prices)
    # What is not listed keeps the cheapest action, so of an exact budget all moves must be.
    if index.indexable and (
        kind == "limits" or sum(map(np.sum, index.used)) == len(fluid.priority)
    ):
        yield "Lagrange index", je.priority_policy(population, index.priority)


@jax.jit
def average(chain, rewards):
    """What the agents earn a step."""
    return je.stationary_distribution(chain) @ chain.lift(rewards)


def margins(seed):
    """By how much of the spread of rewards the order holds: bound, and each policy."""
    kind, population = small_population(seed)
    fluid, best = je.fluid_policy(population), je.optimal_policy(population)
    assert best.converged
    rewards = [one.mdp.reward for one in population.types]
    size = sum(n * np.abs(r).max() for n, r in zip(population.counts, rewards, strict=True))
    found = {"bound": (fluid.value - best.lower) / size}
    for name, policy in policies(kind, population, fluid):
        chain = je.exchangeable_chain(population, policy)
        found[name] = (best.upper - float(average(chain, rewards))) / size
    return found


@pytest.mark.parametrize("seed", range(15))
def test_bound_optimum_and_policies_are_in_order(seed):
    """No policy earns more than the optimum, which is not above the bound."""
    found = margins(seed)
    assert min(found.values()) >= -SOLVE, found


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_bound_optimum_and_policies_are_in_order_on_200(first):
    """The same on 200 populations; the optimum is reached by a plan on most of them."""
    found = [margins(seed) for seed in range(first, first + 25)]
    assert min(min(each.values()) for each in found) >= -SOLVE, found
    assert np.median([each["mpc"] for each in found]) < 1e-2
