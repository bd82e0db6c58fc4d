r"""Local values from data, by the paper's Meta Algorithm 1.

Each agent fits Q_i to its own (x, r, x'), as if these came from a Markov chain. The learners here
need no more than how often x was followed by x' (`local_flow`), per agent or pooled over agents of
a type; those that need the order of things are in td_learning.py. A reward that the agents share is
split first (reward_split.py).

The learners do not all have one limit. TD(0) and LSTD, in a table or in features, tend to the local
Q-values $(I - \gamma P_i)^{-1} r_i$ of Eq. (2). TD(lambda) looks further along the true trajectory
and first-visit Monte Carlo to its end, $E[\text{return} \mid x_i]$. Where agents are not
entangled these agree, otherwise they need not.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from .._checks import check_discount, check_finite, check_positive_int, check_shape, key_first
from .._reads import Frame, frame, reads
from ..chains.views import flow_rows
from ..numerics.arrays import dot, ratio, takes_arrays
from ..numerics.compiled import jit
from ..numerics.elimination import discounted_solve
from .trajectory import Trajectory, agent_types, check_trajectory

Array = jax.Array


@reads("{0.value.shape[0]} agents of {0.value.shape[1]} local pairs")
class LocalQ(NamedTuple):
    r"""Local Q-values learned from data; from a `Trajectory` with a leading axis of K types.

    Attributes:
        value: $Q_i(x)$, `[X]`; a pair never seen holds $r(x) / (1 - \gamma)$ and plays no part.
        occupancy: share of the transitions that start in x, `[X]`.
    """

    value: Array
    occupancy: Array

    @property
    def visited(self) -> Array:
        """Pairs that were seen, `[X]`."""
        return self.occupancy > 0

    def to_frame(self) -> Frame:
        """A row a local pair of each type of agent."""
        value, occupancy = np.atleast_2d(self.value), np.atleast_2d(self.occupancy)
        agent, pair = np.indices(value.shape)
        columns = {"agent": agent, "pair": pair, "value": value, "occupancy": occupancy}
        return frame({name: column.ravel() for name, column in columns.items()})


@reads("counts of {0.flow.shape[0]} agents of {0.flow.shape[1]} local pairs")
class LocalFlow(NamedTuple):
    """What an agent of each type saw.

    Attributes:
        flow: how many transitions went from pair x to pair x', `[K, X, X]`.
        reward: mean reward in pair x, `[K, X]`; 0 where never seen, and for a shared reward.
    """

    flow: Array
    reward: Array


def local_flow(trajectory: Trajectory, *, types: ArrayLike | None = None) -> LocalFlow:
    """Count the transitions between local pairs, per agent or pooled over types.

    Args:
        trajectory: T epochs of N agents.
        types: of every agent, in 0..K - 1, `[N]`; each agent is its own if not given.
    """
    types, num_types = agent_types(trajectory, types)
    shared = trajectory.shares_reward
    rewards = jnp.zeros_like(trajectory.pairs, float) if shared else trajectory.rewards
    return _count(
        jnp.asarray(trajectory.pairs),
        jnp.asarray(rewards),
        jnp.asarray(trajectory.follows),
        jnp.asarray(trajectory.paid),
        types,
        num_types,
        trajectory.num_pairs,
    )


@jit(static_argnames=("num_types", "num_pairs"))
def _count(pairs, rewards, follows, paid, types, num_types, num_pairs) -> LocalFlow:
    assert pairs.shape == rewards.shape == paid.shape  # [T, N]
    group = jnp.broadcast_to(types[None], pairs.shape)
    one = follows.astype(rewards.dtype)
    flow = jnp.zeros((num_types, num_pairs, num_pairs), rewards.dtype)
    flow = flow.at[group[1:], pairs[:-1], pairs[1:]].add(one)
    seen, total = (
        jnp.zeros((num_types, num_pairs), rewards.dtype).at[group, pairs].add(x)
        for x in (paid.astype(rewards.dtype), jnp.where(paid, rewards, 0))
    )
    return LocalFlow(flow, ratio(total, seen))


@takes_arrays("flow", "reward", "features", "types")
def lstd_local_q(
    flow: Array | np.ndarray | Trajectory,
    reward: Array | np.ndarray | None = None,
    *,
    discount: Array | float,
    features: Array | np.ndarray | None = None,
    types: ArrayLike | None = None,
) -> LocalQ:
    r"""Local Q-values by least-squares temporal differences (LSTD).

    $Q = (I - \gamma \hat P)^{-1} r$ with $\hat P(x, x') = F(x, x') / \sum_{x'} F(x, x')$: the
    limit of TD(0) on the same transitions, without a step size. With features $\Phi$ it is
    $Q = \Phi w$, $\Phi^\top (D - \gamma F) \Phi w = \Phi^\top D r$, D the visits.

    Args:
        flow: how many transitions went from pair x to pair x', `[X, X]`; expected numbers will do.
            Or a `Trajectory`, which brings its rewards.
        reward: $r(x)$, `[X]`; left out for a trajectory.
        discount: $\gamma$ in [0, 1).
        features: $\phi(x)$, `[X, d]`; a table if not given.
        types: of every agent of a trajectory, `[N]`; each is its own if not given.

    Returns:
        `LocalQ`, for a trajectory with a leading axis of K types.

    References:
        Chen and Peng, Meta Algorithm 1; Bradtke and Barto 1996.
    """
    check_discount(discount)
    if features is not None:
        check_shape("features", features, (None, None))
        check_finite("features", features)
    counts, paid, solve = _each_type(flow, reward, types, _lstd)
    check_flow(counts, paid)
    if features is not None:
        check_shape("features", features, (jnp.shape(counts)[-1], None))
    return solve(counts, paid, discount, features)


def _lstd(flow: Array, reward: Array, discount: Array | float, features: Array | None) -> LocalQ:
    transition, visits = flow_rows(flow), flow.sum(1)
    if features is None:
        value = discounted_solve(transition, reward, discount)
    else:
        phi = jnp.asarray(features, flow.dtype)
        share = share_of(visits)
        A = dot(phi.T, share[:, None] * (phi - discount * dot(transition, phi)))
        value = dot(phi, jnp.linalg.lstsq(A, dot(phi.T, share * reward))[0])
    return LocalQ(value, share_of(visits))


def share_of(visits: Array) -> Array:
    """Visits as shares of all, `[..., X]`; 0 where there were none."""
    total = visits.sum(-1, keepdims=True)
    # Not `ratio`, which would make 0 of a NaN.
    return visits / jnp.where(total > 0, total, 1)


@key_first
@takes_arrays("flow", "reward", "features", "types")
def network_local_q(
    key: Array,
    flow: Array | np.ndarray | Trajectory,
    reward: Array | np.ndarray | None = None,
    *,
    discount: Array | float,
    features: Array | np.ndarray | None = None,
    types: ArrayLike | None = None,
    hidden: tuple[int, ...] = (32, 32),
    num_steps: int = 3000,
    learning_rate: float = 3e-3,
) -> LocalQ:
    r"""Local Q-values by a small neural network, trained by semi-gradient TD.

    Adam descends $\sum_x D(x) (Q_\theta(x) - r(x) - \gamma \sum_{x'} \hat P(x, x')
    \bar Q(x'))^2$, with $\bar Q = Q_\theta$ held fixed: the expected TD(0) update on the same
    transitions as `lstd_local_q`, whose limit it shares if the network can express it.

    Args:
        key: of `jax.random.key`, for the first weights.
        flow: `[X, X]`, or a `Trajectory`.
        reward: $r(x)$, `[X]`; left out for a trajectory.
        discount: $\gamma$ in [0, 1).
        features: $\phi(x)$, the inputs, `[X, d]`; one for each pair if not given.
        types: of every agent of a trajectory, `[N]`; each is its own if not given.
        hidden: units of the hidden layers. Static.
        num_steps: of Adam, whose rate falls to 0 like a cosine. Static.
        learning_rate: at the start. Static.

    Returns:
        `LocalQ`, for a trajectory with a leading axis of K types.
    """
    check_discount(discount)
    check_positive_int("num_steps", num_steps)
    fit = partial(_network, hidden=hidden, num_steps=num_steps, learning_rate=learning_rate)
    counts, paid, solve = _each_type(flow, reward, types, fit, key)
    check_flow(counts, paid)
    if features is None:
        features = jnp.eye(jnp.shape(counts)[-1], dtype=jnp.result_type(paid, float))
    check_shape("features", features, (jnp.shape(counts)[-1], None))
    check_finite("features", features)
    return solve(counts, paid, discount, features)


@jit(static_argnames=("hidden", "num_steps", "learning_rate"))
def _network(flow, reward, discount, features, key, *, hidden, num_steps, learning_rate) -> LocalQ:
    transition, visits = flow_rows(flow), flow.sum(1)
    share = share_of(visits)
    features = jnp.asarray(features, flow.dtype)
    sizes = (features.shape[1], *hidden, 1)
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        (jax.random.normal(k, (m, n), flow.dtype) / np.sqrt(m), jnp.zeros(n, flow.dtype))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    # Outputs are in units of the spread of the rewards, over 1 - discount, as values are.
    mean = share @ reward
    spread = jnp.sqrt(share @ (reward - mean) ** 2)
    unit = jnp.where(spread > 0, spread, 1) / (1 - discount)

    def q(layers) -> Array:
        x = features
        for weight, bias in layers[:-1]:
            x = jnp.tanh(x @ weight + bias[None])
        weight, bias = layers[-1]
        return unit * (x @ weight + bias[None])[:, 0]

    def loss(layers) -> Array:
        value = q(layers)
        target = reward - mean + discount * (transition @ lax.stop_gradient(value))
        return share @ ((value - target) / unit) ** 2

    import optax  # slow to import, and few ask for it

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def step(carry, _):
        layers, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(layers), state)
            return (optax.apply_updates(layers, updates), state), None

    (layers, _), _ = lax.scan(step, (layers, optimizer.init(layers)), None, length=num_steps)
    return LocalQ(q(layers) + mean / (1 - discount), share)


def check_paid(trajectory: Trajectory, reward: Array | np.ndarray | None) -> None:
    """Raise unless every agent of the trajectory has its own reward, and no other is given."""
    check_trajectory(trajectory)
    if reward is not None:
        raise ValueError("reward: a trajectory brings its own; see with_rewards to replace them")
    if trajectory.shares_reward:
        raise ValueError(
            "trajectory: agents share one reward; split it first (fit_local_rewards, with_rewards)"
        )


def _each_type(
    flow: Array | np.ndarray | Trajectory,
    reward: Array | np.ndarray | None,
    types: ArrayLike | None,
    solve: Callable[..., LocalQ],
    key: Array | None = None,
) -> tuple[Array, Array, Callable[..., LocalQ]]:
    """Flow, reward and a solver for one flow as given, or for all types of a trajectory."""
    extra = () if key is None else (key,)
    if isinstance(flow, Trajectory):
        check_paid(flow, reward)
        counted = local_flow(flow, types=types)
        extra = tuple(jax.random.split(k, len(counted.flow)) for k in extra)
        many = jax.vmap(solve, in_axes=(0, 0, None, None, *(0 for _ in extra)))
        return counted.flow, counted.reward, lambda *args: many(*args, *extra)
    if not isinstance(flow, (Array, np.ndarray, list)):
        check_trajectory(flow, "flow")
    if reward is None or types is not None:
        raise ValueError("reward: a flow needs one, and has no types")
    check_shape("flow", flow, (None, jnp.shape(flow)[0]))
    flow = jnp.asarray(flow, jnp.result_type(flow, reward, float))
    reward = jnp.asarray(reward, flow.dtype)
    return flow, reward, lambda *args: solve(*args, *extra)


def check_flow(flow: Array | np.ndarray, reward: Array | np.ndarray) -> None:
    """Raise unless flows `[..., X, X]` and rewards `[..., X]` fit and are finite."""
    check_shape("reward", reward, (*jnp.shape(flow)[: jnp.ndim(reward) - 1], jnp.shape(flow)[-1]))
    check_finite("flow", flow)
    check_finite("reward", reward)
