"""The package's own examples and bandits as teams: each agent asks, and what is short is shared.

A restless bandit says who is active; as a team each agent asks to be, and of those that ask the
first few by their numbers are, so that asking too much takes from others.
"""

import jax.numpy as jnp
import numpy as np

import jaxent
from experiments import dispatch, servers, warehouse

from .rules import Problem, Rules


def _walks(laws: jnp.ndarray, agents: int) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Next states `[S^N, N]` and their probabilities, by the law of each agent, `[N, S]`."""
    every = np.array(list(np.ndindex(*(laws.shape[1],) * agents)))
    return jnp.asarray(every), laws[jnp.arange(agents), every].prod(1)


def requests(name: str, agents: int, budget: int) -> Rules:
    """A named bandit: the first `budget` agents that ask are active."""
    made = jaxent.named_bandit(name, 5)  # any size: one agent of it is what is used
    passive, active, reward = map(np.asarray, made.bandit[:3])

    def outcomes(state, actions):
        served = (actions == 1) & (jnp.cumsum(actions) <= budget)
        laws = jnp.where(served[:, None], jnp.asarray(active)[state], jnp.asarray(passive)[state])
        paid = jnp.asarray(reward)[state, served.astype(int)]
        return *_walks(laws, agents), paid

    rank = np.argsort(np.array(made.priority))

    def rule(state):  # who is among the first
        mine = jnp.asarray(rank)[state] + jnp.arange(agents) / agents
        return (jnp.argsort(jnp.argsort(mine)) < budget).astype(int)

    return Rules(np.zeros(agents, int), outcomes, lambda state: state, (2,) * agents, rule)


def independent() -> Rules:
    """The two agents of Example 1, with no budget."""
    agents = jaxent.examples.example_1()[0].agents
    laws = np.stack([np.asarray(a.transition) for a in agents])  # [N, S, A, S]
    reward = np.stack([np.asarray(a.reward) for a in agents])

    def outcomes(state, actions):
        who = jnp.arange(2)
        every, weights = _walks(jnp.asarray(laws)[who, state, actions], 2)
        return every, weights, jnp.asarray(reward)[who, state, actions]

    return Rules(np.zeros(2, int), outcomes, lambda state: state, (2, 2))


def ring(size: int = 3) -> Rules:
    """Servers on a ring; each may pass a job to the next (experiments.servers)."""
    table, reward = servers.kernel(), servers.rewards()

    def outcomes(queue, actions):
        laws = jnp.asarray(table)[queue, jnp.roll(queue, 1), actions, jnp.roll(actions, 1)]
        return *_walks(laws, size), jnp.asarray(reward)[queue, actions]

    def rule(queue):  # to a shorter queue
        return (queue > jnp.roll(queue, -1)).astype(int)

    return Rules(np.zeros(size, int), outcomes, lambda queue: queue, (2,) * size, rule)


def robots(congestion: float = 0.25) -> Rules:
    """Two robots on a loop and the task of the moment, one reward (experiments.warehouse)."""
    kernel, tasks = warehouse.robot(), warehouse.tasks()
    stations = warehouse.STATIONS
    every = np.array(list(np.ndindex(stations, stations, stations)))

    def outcomes(state, actions):
        z = state["task"]
        laws = jnp.asarray(kernel)[state["at"], actions, z]  # [2, S]
        weights = laws[0, every[:, 0]] * laws[1, every[:, 1]] * jnp.asarray(tasks)[z, every[:, 2]]
        done = (state["at"] == z).any()
        meet = state["at"][0] == state["at"][1]
        following = {"at": jnp.asarray(every[:, :2]), "task": jnp.asarray(every[:, 2])}
        return following, weights, done - congestion * meet

    def see(state):
        return tuple((at, state["task"]) for at in state["at"])

    def rule(state):  # the nearest goes
        away = (state["task"] - state["at"]) % stations
        return jnp.where(away[0] <= away[1], jnp.array([1, 0]), jnp.array([0, 1])) * (away > 0)

    first = {"at": np.array([0, 2]), "task": 0}
    return Rules(first, outcomes, see, (2, 2), rule)


def drivers() -> Rules:
    """Two drivers and the order of the moment; of two that take it the nearer one has it
    (experiments.dispatch), and the other drives there for nothing."""
    kernel, reward = dispatch.driver()
    orders = dispatch.orders()
    zones, kinds = kernel.shape[0], len(orders)
    origins = np.array([0 if o is None else o[0] for o in dispatch.ORDERS])
    every = np.array(list(np.ndindex(zones, zones, kinds)))

    def outcomes(state, actions):
        z = state["order"]
        start = jnp.asarray(origins)[z]
        far = jnp.asarray(dispatch.DISTANCE)[state["at"], start]
        both = actions.all() & (z > 0)
        loser = jnp.where(far[0] <= far[1], jnp.array([False, True]), jnp.array([True, False]))
        lost = both & loser
        laws = jnp.asarray(kernel)[state["at"], actions, z]
        there = jnp.eye(zones)[start]
        laws = jnp.where(lost[:, None], there, laws)
        paid = jnp.asarray(reward)[state["at"], actions, z]
        paid = jnp.where(lost, -dispatch.PICKUP * far, paid)
        weights = laws[0, every[:, 0]] * laws[1, every[:, 1]] * jnp.asarray(orders)[z, every[:, 2]]
        following = {"at": jnp.asarray(every[:, :2]), "order": jnp.asarray(every[:, 2])}
        return following, weights, paid

    def see(state):
        return tuple((at, state["order"]) for at in state["at"])

    def rule(state):
        far = jnp.asarray(dispatch.DISTANCE)[state["at"], jnp.asarray(origins)[state["order"]]]
        return jnp.where(far[0] <= far[1], jnp.array([1, 0]), jnp.array([0, 1]))

    first = {"at": np.array([0, 1]), "order": 0}
    return Rules(first, outcomes, see, (2, 2), rule)


BANDIT = "named bandit of this package, asked for by its agents"

DOMAINS = (
    Problem("independent", "domain", "Example 1, no budget", independent),
    Problem("circulant", "domain", BANDIT, lambda: requests("circulant", 3, 1)),
    Problem("machines", "domain", BANDIT, lambda: requests("machines", 3, 1)),
    Problem("healthcare", "domain", BANDIT, lambda: requests("healthcare", 4, 1)),
    Problem("queue", "domain", BANDIT, lambda: requests("queue", 3, 1)),
    Problem("age", "domain", BANDIT, lambda: requests("age", 3, 1)),
    Problem("ring", "domain", "experiments.servers", ring),
    Problem("robots", "domain", "experiments.warehouse", robots),
    Problem("drivers", "domain", "experiments.dispatch", drivers),
)
