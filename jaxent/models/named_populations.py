r"""Named populations: the problems on which papers compare policies, and some with several types.

A builder takes the number of agents and gives a `WeaklyCoupledPopulation`. The structure of each is
its source's; the numbers, where the source has none of this size, are ours and stand in the
builder. Budgets are shares of N, so that one problem stays the same along N, and N must make them
whole numbers, as well as the numbers of agents of each type. Every name of `BANDITS` is one too.
`named_population("supermarket", 20)` looks one up.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from .mdp import MDP
from .named_bandits import BANDITS
from .population import Budget, WeaklyCoupledPopulation


def named_population(name: str, num_agents: int) -> WeaklyCoupledPopulation:
    """The population of this name with N agents.

    Raises:
        ValueError: for a name that is not in `POPULATIONS`, or an N at which a budget or the number
            of agents of a type is no whole number.

    Examples:
        >>> import jaxent
        >>> shop = jaxent.named_population("supermarket", 20)
        >>> print(shop.sizes, shop.limits)
        ((4, 3),) (12.0, 8.0)

    References:
        In the docstring of each builder, `jaxent.populations.three_states` and so on.
    """
    if name not in POPULATIONS:
        raise ValueError(f"name: {name!r} is not one of {', '.join(sorted(POPULATIONS))}")
    return POPULATIONS[name](num_agents)


def three_states(num_agents: int) -> WeaklyCoupledPopulation:
    """The bandit on which Whittle's index fails: S = 3, two fifths act, the mean field swings.

    Whittle's order and that of the fluid program are the same, 0, 1, 2, and the mean field under it
    has no global attractor, so what it loses an agent does not fall with N. The bound is 0.1238 an
    agent; the discount, 0.9, is ours.

    References:
        Gast, Gaujal and Yan (2020), Exponential convergence rate for the asymptotic optimality of
        Whittle index policy, where it was found by search; Hong, Xie, Chen and Wang (2023),
        Restless bandits with average reward: breaking the uniform global attractor assumption.
    """
    idle = np.array(
        [
            [0.02232142, 0.10229283, 0.87538575],
            [0.03426605, 0.17175704, 0.79397691],
            [0.52324756, 0.45523298, 0.02151947],
        ]
    )
    active = np.array(
        [
            [0.14874601, 0.30435809, 0.54689589],
            [0.56845754, 0.41117331, 0.02036915],
            [0.25265570, 0.27310439, 0.47423990],
        ]
    )
    kernel = np.stack([idle, active], axis=1)
    kernel /= kernel.sum(-1, keepdims=True)  # printed to 8 digits
    reward = np.stack([[0.0, 0.0, 0.0], [0.37401552, 0.11740814, 0.07866135]], axis=1)
    return _one_type(kernel, reward, _acting(3, 2), num_agents, [Fraction(2, 5)], equality=True)


def conveyor(num_agents: int) -> WeaklyCoupledPopulation:
    """The bandit on which priorities fail far more: S = 8 places in a circle, half act.

    In places 0 to 3 an agent must act to move on, in places 4 to 7 rest, and does with probability
    0.1; the other choice moves it back, from place 1 surely, from the others with probability 0.5
    falling by 0.01 a place, from place 0 not at all. Only the step from place 7 back to 0 is paid.
    Half of the agents act, just enough for all to go round; under a priority they may gather in
    places that are not paid, and stay there. The bound is 0.0125 an agent: one of 80 steps is paid.
    The discount, 0.9, is ours.

    References:
        Hong, Xie, Chen and Wang (2023), Restless bandits with average reward: breaking the uniform
        global attractor assumption, the example of eight states; Hong, Xie, Chen and Wang (2024),
        Unichain and aperiodicity are sufficient for asymptotic optimality of average-reward
        restless bandits.
    """
    kernel = np.zeros((8, 2, 8))
    back = 0.5 - 0.01 * np.arange(8)
    back[:2] = 0, 1
    for place in range(8):
        right = int(place < 4)
        kernel[place, right, (place + 1) % 8] = 0.1
        kernel[place, right, place] = 0.9
        kernel[place, 1 - right, place - 1] += back[place]
        kernel[place, 1 - right, place] += 1 - back[place]
    reward = np.zeros((8, 2))
    reward[7, 0] = 0.1
    return _one_type(kernel, reward, _acting(8, 2), num_agents, [Fraction(1, 2)], equality=True)


def supermarket(num_agents: int) -> WeaklyCoupledPopulation:
    """Shelves that are filled up: S = 4 levels of stock, orders of 0, 1 or 2, two resources.

    An order arrives before the customers do, who want 0, 1 or 2 units with probabilities 0.4, 0.4
    and 0.2; what does not fit on a shelf of 3 is lost. A sale is worth 1, a unit left over costs
    0.1. Each unit takes a place in a truck, each order a worker; there are 3N/5 places and 2N/5
    workers, and both run out.

    References:
        A multi-period, multi-product inventory as a weakly coupled program: Adelman and Mersereau
        (2008), Relaxations of weakly coupled stochastic dynamic programs; the numbers are ours.
    """
    wanted = np.array([0.4, 0.4, 0.2])
    kernel, reward = np.zeros((4, 3, 4)), np.zeros((4, 3))
    for stock, order in np.ndindex(4, 3):
        shelf = min(stock + order, 3)
        for units, chance in enumerate(wanted):
            left = max(shelf - units, 0)
            kernel[stock, order, left] += chance
            reward[stock, order] += chance * (min(units, shelf) - 0.1 * left)
    costs = np.zeros((4, 3, 2))
    costs[..., 0] = np.arange(3)
    costs[:, 1:, 1] = 1
    return _one_type(kernel, reward, costs, num_agents, [Fraction(3, 5), Fraction(2, 5)])


def clinic(num_agents: int) -> WeaklyCoupledPopulation:
    """Machines and patients: types of different sizes, half of the agents each, two resources.

    A machine, of 3 levels of wear, is left or repaired; a patient, engaged or not, is left, called
    or visited. A repair, a call and a visit take one of N/2 people, a visit one of N/4 cars as
    well.

    References:
        The structures are those of `machine_maintenance` and `healthcare_intervention` in
        `BANDITS`, with their sources; the numbers are ours.
    """
    wear = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
    repair = np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.9, 0.0, 0.1]])
    machine = np.stack([wear, repair], axis=1), [[1.0, 0.8], [0.6, 0.4], [0.0, -0.2]]
    patient = (
        [[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]],
        [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
    )
    people = [np.zeros((3, 2, 2)), np.zeros((2, 3, 2))]
    people[0][:, 1, 0] = 1
    people[1][:, 1, 0] = 1
    people[1][:, 2] = 1, 1
    share = Fraction(1, 2)
    return _population(
        [machine, patient], people, [share, share], num_agents, [share, Fraction(1, 4)]
    )


def workshop(num_agents: int) -> WeaklyCoupledPopulation:
    """Two kinds of machines, half of the agents each, that share technicians: exactly N/5 work.

    A lathe, S = 4, wears by one level with probability 0.3 and is worth more than a press, S = 3,
    which does with 0.6. A repair costs the yield of the step and restores a lathe with probability
    0.8, a press with 0.9. Both are indexable, and Whittle's index orders the states of both.

    References:
        Glazebrook, Mitchell and Ansell (2005), Index policies for the maintenance of a collection
        of machines by a set of repairmen, where machines differ; the numbers are ours.
    """
    lathe = _worn(4, 0.3, 0.8), [[1.0, 0.0], [0.8, 0.0], [0.5, 0.0], [0.0, 0.0]]
    press = _worn(3, 0.6, 0.9), [[0.7, 0.0], [0.4, 0.0], [0.0, 0.0]]
    half = Fraction(1, 2)
    costs = [_acting(4, 2), _acting(3, 2)]
    return _population(
        [lathe, press], costs, [half, half], num_agents, [Fraction(1, 5)], equality=True
    )


def random_arms(
    num_agents: int,
    *,
    num_states: int = 3,
    num_actions: int = 3,
    num_resources: int = 2,
    seed: int = 0,
) -> WeaklyCoupledPopulation:
    """Agents that all differ: each is a type of its own, with random kernel, rewards and costs.

    Rows are uniform on the simplex, rewards and costs uniform in [0, 1], those of action 0 are 0;
    there is N/4 of each resource. The seed fixes arm i whatever N is, so that more agents are the
    same ones and others.

    References:
        Zhang, Hong and Wang (2025), Projection-based Lyapunov method for fully heterogeneous
        weakly-coupled MDPs, whose arms are drawn like this.
    """
    _check_whole(num_agents, [Fraction(1, 4)], "the budgets are")
    types = []
    for i in range(num_agents):
        rng = np.random.default_rng([seed, i])
        kernel = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
        reward = rng.random((num_states, num_actions))
        costs = rng.random((num_states, num_actions, num_resources))
        reward[:, 0] = costs[:, 0] = 0
        types.append((MDP(jnp.asarray(kernel), jnp.asarray(reward)), jnp.asarray(costs)))
    budgets = [Budget(0.25, per_agent=True)] * num_resources
    return WeaklyCoupledPopulation(types, [1] * num_agents, budgets, 0.9)


def _of_bandit(name: str) -> Callable[[int], WeaklyCoupledPopulation]:
    def build(num_agents: int) -> WeaklyCoupledPopulation:
        return WeaklyCoupledPopulation.from_bandit(BANDITS[name](num_agents).bandit)

    return build


POPULATIONS: dict[str, Callable[[int], WeaklyCoupledPopulation]] = {
    **{name: _of_bandit(name) for name in BANDITS},
    "arms": random_arms,
    "clinic": clinic,
    "conveyor": conveyor,
    "supermarket": supermarket,
    "three-states": three_states,
    "workshop": workshop,
}
"""What makes the population of each name, with N agents."""


def _acting(num_states: int, num_actions: int) -> np.ndarray:
    """Costs of one resource: 1 unless the action is 0."""
    costs = np.ones((num_states, num_actions, 1))
    costs[:, 0] = 0
    return costs


def _worn(num_states: int, wears: float, restored: float) -> np.ndarray:
    """Left alone a machine wears by one level, a repair restores it; `[S, 2, S]`."""
    left = (1 - wears) * np.eye(num_states) + wears * np.eye(num_states, k=1)
    left[-1, -1] = 1
    repaired = (1 - restored) * np.eye(num_states)
    repaired[:, 0] += restored
    return np.stack([left, repaired], axis=1)


def _one_type(kernel, reward, costs, num_agents, shares, *, equality: bool = False):
    one = [Fraction(1)]
    return _population([(kernel, reward)], [costs], one, num_agents, shares, equality=equality)


def _population(
    agents: Sequence[tuple],
    costs: Sequence[np.ndarray],
    parts: Sequence[Fraction],
    num_agents: int,
    shares: Sequence[Fraction],
    *,
    equality: bool = False,
) -> WeaklyCoupledPopulation:
    """Types in these parts of N, with budgets that are these shares of N."""
    _check_whole(num_agents, [*parts, *shares], "the budgets and the types are")
    types = [
        (MDP(jnp.asarray(kernel), jnp.asarray(reward)), jnp.asarray(cost))
        for (kernel, reward), cost in zip(agents, costs, strict=True)
    ]
    budgets = [Budget(float(share), per_agent=True, equality=equality) for share in shares]
    return WeaklyCoupledPopulation(types, [int(part * num_agents) for part in parts], budgets, 0.9)


def _check_whole(num_agents: int, shares: Sequence[Fraction], what: str) -> None:
    multiple = int(np.lcm.reduce([share.denominator for share in shares]))
    if num_agents < 1 or num_agents % multiple:
        told = ", ".join(f"{s.numerator}N/{s.denominator}" for s in shares if s.denominator > 1)
        raise ValueError(
            f"num_agents: {num_agents} is not a positive multiple of {multiple}; {what} {told}"
        )
