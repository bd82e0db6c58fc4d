"""Logs of small chains, many at a time, and what is true of them: NumPy alone, for statistics."""

from typing import NamedTuple

import numpy as np

import jaxent as je

from . import oracles


class Game(NamedTuple):
    """A chain, what every agent sees of it, and what it is paid for that.

    Attributes:
        P: `[J, J]`.
        mu: its law, `[J]`.
        views: of every agent, `[J]` of codes.
        rewards: by code, `[X]` each.
    """

    P: np.ndarray
    mu: np.ndarray
    views: list[np.ndarray]
    rewards: list[np.ndarray]

    @classmethod
    def of(cls, P, views, rewards):
        return cls(P, oracles.stationary(P), views, rewards)

    def lift(self, tables):
        return sum(q[view] for q, view in zip(tables, self.views, strict=True))

    def limit(self, discount):
        """The local values of Eq. (2)."""
        found = []
        for view, r in zip(self.views, self.rewards, strict=True):
            one = np.eye(len(r))[view]
            flow = one.T @ (self.mu[:, None] * self.P) @ one
            found.append(oracles.q_values(flow / flow.sum(1, keepdims=True), r, discount))
        return found

    def error(self, f, discount):
        """Q - f, `[J]`."""
        return oracles.q_values(self.P, self.lift(self.rewards), discount) - f

    def paths(self, seed, num_steps, num_logs):
        """Joint pairs, `[T, R]`."""
        rng = np.random.default_rng(seed)
        beyond = np.cumsum(self.P, 1)
        beyond[:, -1] = 2
        x = rng.choice(len(self.mu), num_logs, p=self.mu / self.mu.sum())
        found = np.empty((num_steps, num_logs), int)
        for t, draw in enumerate(rng.random((num_steps, num_logs, 1))):
            found[t] = x
            x = (draw >= beyond[x]).sum(1)
        return found

    def log(self, path, **options):
        """What the agents see on one path, codes as states."""
        states = np.stack([view[path] for view in self.views], 1)
        paid = np.stack([r[x] for r, x in zip(self.rewards, states.T, strict=True)], 1)
        size = max(len(r) for r in self.rewards)
        labels = je.Labels.numbers(agents=len(self.views), states=size, actions=1)
        return je.Trajectory.from_arrays(
            states, np.zeros_like(states), paid, labels=labels, **options
        )

    def learned(self, path, discount):
        """The tables of LSTD, `[N, X]`."""
        tables = []
        for view, r in zip(self.views, self.rewards, strict=True):
            x = view[path]
            flow = np.zeros((len(r), len(r)))
            np.add.at(flow, (x[:-1], x[1:]), 1)
            visits = flow.sum(1)
            A = np.diag(np.where(visits > 0, visits, 1)) - discount * flow
            tables.append(np.linalg.solve(A, visits * r))
        return np.array(tables)


def each_own(num_agents, size):
    """Views of agents that each see a factor of the joint pair."""
    return list(np.unravel_index(np.arange(size**num_agents), (size,) * num_agents))


def dense(seed=0):
    """Two agents of two states and two actions, any joint kernel."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(16, 0.5), 16)
    return Game.of(P, each_own(2, 4), [rng.normal(size=4) for _ in range(2)])


def weakly_coupled(seed=100, num_agents=3):
    """Agents of two states and two actions that only their policy couples."""
    rng = np.random.default_rng(seed)
    kernels = [rng.dirichlet(np.ones(2), (2, 2)) for _ in range(num_agents)]
    rewards = [rng.normal(size=4) for _ in range(num_agents)]
    shape = (2,) * num_agents
    policy = rng.dirichlet(np.full(2**num_agents, 0.3), 2**num_agents)
    P = oracles.weakly_coupled_matrix(
        [k.transpose(1, 0, 2) for k in kernels], policy.reshape(*shape, *shape)
    )
    return Game.of(P, each_own(num_agents, 4), rewards)


def exogenous(seed=200):
    """Two agents of two states and two actions that see a signal of two values."""
    rng = np.random.default_rng(seed)
    kernels = [rng.dirichlet(np.ones(2), (2, 2, 2)) for _ in range(2)]  # [S, A, Z, S]
    rewards = [rng.normal(size=8) for _ in range(2)]
    signal = rng.dirichlet(np.ones(2), 2)
    policy = rng.dirichlet(np.full(4, 0.3), 8).reshape(2, 2, 2, 2, 2)  # [S, S, Z, A, A]
    P = np.einsum("iazk,jbzl,zy,klycd->iajbzkcldy", *kernels, signal, policy).reshape(32, 32)
    own = np.indices((2, 2, 2, 2, 2)).reshape(5, 32)  # s_0, a_0, s_1, a_1, z
    views = [4 * own[2 * i] + 2 * own[2 * i + 1] + own[4] for i in range(2)]
    return Game.of(P, views, rewards)


def separable(seed=300, num_agents=2):
    """Agents of four pairs that move on their own."""
    rng = np.random.default_rng(seed)
    P = np.ones((1, 1))
    for _ in range(num_agents):
        P = np.kron(P, rng.dirichlet(np.full(4, 0.7), 4))
    return Game.of(P, each_own(num_agents, 4), [rng.normal(size=4) for _ in range(num_agents)])


def circulant_log(seed, num_steps, num_agents):
    """The bandit of Appendix K, a fifth of the agents served, from where it is stationary."""
    rng = np.random.default_rng(seed)
    bandit = je.circulant_bandit(num_agents)
    beyond = np.cumsum(np.stack([bandit.passive, bandit.active], 1), -1)  # [S, 2, S]
    beyond[..., -1] = 2
    rank = np.argsort(je.CIRCULANT_PRIORITY)
    s = rng.integers(4, size=num_agents)
    early = 100
    states, actions = np.zeros((2, early + num_steps, num_agents), int)
    for t in range(early + num_steps):
        first = np.argsort(rank[s] + rng.random(num_agents))[: bandit.budget]
        states[t], actions[t, first] = s, 1
        s = (rng.random((num_agents, 1)) >= beyond[s, actions[t]]).sum(1)
    states, actions = states[early:], actions[early:]
    labels = je.Labels.numbers(agents=num_agents, states=4, actions=2)
    return je.Trajectory.from_arrays(
        states, actions, np.asarray(bandit.reward)[states, actions], labels=labels
    )
