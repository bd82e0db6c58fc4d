r"""Named restless bandits, each with a priority: the benchmarks of the experiments.

A builder takes the number of agents and gives a `NamedBandit`. The structure of each is its
source's; the numbers, where the source has none of this size, are ours and stand in the builder.
The share of agents that act is fixed, so that one bandit stays the same along N, and N must make
it an integer.
`named_bandit("circulant", 30)` looks one up.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .._reads import reads
from .examples import CIRCULANT_PRIORITY, circulant_bandit
from .restless_bandit import RestlessBandit


@reads("a bandit of {0.bandit.reward.shape[0]} states with its own priority")
class NamedBandit(NamedTuple):
    """A bandit and who is served first in it.

    Attributes:
        bandit: the model.
        priority: states, first served first.
    """

    bandit: RestlessBandit
    priority: tuple[int, ...]


def named_bandit(name: str, num_agents: int) -> NamedBandit:
    """The bandit of this name with N agents.

    Raises:
        ValueError: for a name that is not in `BANDITS`, or an N at which the budget is no integer.
    """
    if name not in BANDITS:
        raise ValueError(f"name: {name!r} is not one of {', '.join(sorted(BANDITS))}")
    return BANDITS[name](num_agents)


def circulant(num_agents: int) -> NamedBandit:
    """The paper's benchmark: Appendix K; Avrachenkov and Borkar (2022), Fu et al. (2019)."""
    return NamedBandit(circulant_bandit(num_agents), CIRCULANT_PRIORITY)


def machine_maintenance(num_agents: int) -> NamedBandit:
    """Machines that wear, few repairmen: S = 4 levels of wear, a fifth repaired, Whittle order.

    Left alone a machine wears by one level with probability 0.3 and yields less the more it is
    worn; a repair costs the step's yield and more, and restores it with probability 0.9.

    References:
        Glazebrook, Mitchell and Ansell (2005), Index policies for the maintenance of a collection
        of machines by a set of repairmen.
    """
    wear = 0.7 * np.eye(4) + 0.3 * np.eye(4, k=1)
    wear[3, 3] = 1
    repair = 0.1 * np.eye(4)
    repair[:, 0] += 0.9
    reward = np.stack([[1.0, 0.9, 0.6, 0.0], [-0.3, -0.3, -0.3, -0.3]], axis=1)
    return _build(wear, repair, reward, num_agents, Fraction(1, 5), 0.9, (3, 2, 1, 0))


def healthcare_intervention(num_agents: int) -> NamedBandit:
    """Patients who drift from engaged (1) to not (0): S = 2, a fifth called, Whittle order.

    A call lifts the chance that a disengaged patient comes back from 0.1 to 0.5, and that an
    engaged one stays from 0.7 to 0.85; an engaged patient is worth 1 a step.

    References:
        Baek, Boutilier, Farias, Jonasson and Yoeli (2023), Policy optimization for personalized
        interventions in behavioral health; Mate et al. (2022), Field study in deploying restless
        multi-armed bandits (ARMMAN).
    """
    idle = np.array([[0.9, 0.1], [0.3, 0.7]])
    called = np.array([[0.5, 0.5], [0.15, 0.85]])
    reward = np.array([[0.0, 0.0], [1.0, 1.0]])
    return _build(idle, called, reward, num_agents, Fraction(1, 5), 0.9, (0, 1))


def age_of_information(num_agents: int) -> NamedBandit:
    """Sources whose news ages: ages 1..5 (then capped), two fifths sent, oldest first.

    A transmission succeeds with probability 0.8 and sets the age to 1; otherwise it grows by one.
    A step costs the age.

    References:
        Kadota, Uysal-Biyikoglu, Singh and Modiano (2016), Minimizing the age of information in
        broadcast wireless networks, where oldest first is Whittle's order for equal sources.
    """
    older = np.eye(5, k=1)
    older[4, 4] = 1
    sent = 0.2 * older
    sent[:, 0] += 0.8
    age = np.arange(1.0, 6.0)
    reward = -np.stack([age, age], axis=1)
    return _build(older, sent, reward, num_agents, Fraction(2, 5), 0.9, (4, 3, 2, 1, 0))


def queue(num_agents: int) -> NamedBandit:
    """Queues of at most 3 jobs, few servers: S = 4, two fifths served, Whittle order.

    A job arrives with probability 0.25 and is lost if the queue is full; a server finishes one with
    probability 0.7. A step costs the square of the length. A full queue is served after shorter
    ones: it loses arrivals, so a job done there gains less.

    References:
        Ansell, Glazebrook, Nino-Mora and O'Keeffe (2003), Whittle's index policy for a multi-class
        queueing system with convex holding costs.
    """
    arrive = 0.75 * np.eye(4) + 0.25 * np.eye(4, k=1)
    arrive[3, 3] = 1
    leave = 0.3 * np.eye(4) + 0.7 * np.eye(4, k=-1)
    leave[0, 0] = 1
    cost = np.arange(4.0) ** 2
    reward = -np.stack([cost, cost], axis=1)
    return _build(arrive, leave @ arrive, reward, num_agents, Fraction(2, 5), 0.9, (2, 1, 3, 0))


def random_dirichlet(num_agents: int, *, num_states: int = 4, seed: int = 0) -> NamedBandit:
    """Rows uniform on the simplex, rewards uniform, half active, served in the order of states.

    The seed fixes the bandit; half of the agents act, so N must be even.

    References:
        The usual null model, e.g. Gast, Gaujal and Yan (2023), Sec. 5.
    """
    rng = np.random.default_rng(seed)
    idle, active = rng.dirichlet(np.ones(num_states), (2, num_states))
    reward = rng.random((num_states, 2))
    order = tuple(range(num_states))
    return _build(idle, active, reward, num_agents, Fraction(1, 2), 0.9, order)


def cyclic(num_agents: int) -> NamedBandit:
    """A bandit without a global attractor: its mean field swings between two points for ever.

    From almost every start the fractions end on an orbit of period 2 whose points differ by 0.7,
    so UGAP (Assumption 1) fails. Two fifths act. Found by search over kernels in tenths; Gast,
    Gaujal and Yan (2023), Sec. 5, show that such bandits exist.
    """
    idle = np.array([[0.1, 0.9, 0.0], [0.5, 0.0, 0.5], [0.1, 0.9, 0.0]])
    active = np.array([[0.0, 0.9, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    reward = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    return _build(idle, active, reward, num_agents, Fraction(2, 5), 0.5, (0, 2, 1))


def degenerate(num_agents: int) -> NamedBandit:
    """A bandit with a global attractor on the border of two pieces: no state is randomized in m*.

    State 1 is served first and holds, in the mean field, exactly the fifth of the agents that act:
    m* = (0.8, 0.2), so Assumption 2 (Gast, Gaujal and Yan 2023) fails.
    """
    idle = np.array([[0.9, 0.1], [0.6, 0.4]])
    active = np.array([[0.7, 0.3], [0.4, 0.6]])
    reward = np.array([[0.0, 0.0], [1.0, 1.0]])
    return _build(idle, active, reward, num_agents, Fraction(1, 5), 0.5, (1, 0))


BANDITS: dict[str, Callable[[int], NamedBandit]] = {
    "age": age_of_information,
    "circulant": circulant,
    "cyclic": cyclic,
    "degenerate": degenerate,
    "dirichlet": random_dirichlet,
    "healthcare": healthcare_intervention,
    "machines": machine_maintenance,
    "queue": queue,
}
"""What makes the bandit of each name, with N agents."""


def _build(
    passive: np.ndarray,
    active: np.ndarray,
    reward: np.ndarray,
    num_agents: int,
    share: Fraction,
    discount: float,
    priority: tuple[int, ...],
) -> NamedBandit:
    budget = share * num_agents
    if num_agents < 1 or budget.denominator != 1:
        raise ValueError(
            f"num_agents: {num_agents} is not a positive multiple of {share.denominator}; the "
            f"budget is {share.numerator}N/{share.denominator}"
        )
    kernels = jnp.asarray(passive), jnp.asarray(active)
    bandit = RestlessBandit(*kernels, jnp.asarray(reward), num_agents, int(budget), discount)
    return NamedBandit(bandit, priority)
