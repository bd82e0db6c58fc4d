r"""Local values from data, by the paper's Meta Algorithm 1.

Each agent fits Q_i to its own (x, r, x'), as if these came from a Markov chain. What a fit needs is
how often x was followed by x' (`local_flow`) or, for those that learn on the way, the order of
things (a `Trajectory`); both are taken by the same functions, per agent or pooled over agents of a
type. A reward that the agents share is split first (`reward_split`).

They do not all learn the same. TD(0) and LSTD, in a table or in features, tend to the local
Q-values $(I - \gamma P_i)^{-1} r_i$ of Eq. (2). TD(lambda) looks further along the true trajectory
and first-visit Monte Carlo to its end, $E[\text{return} \mid x_i]$. Where agents are not
entangled these agree, otherwise they need not.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .._checks import check_discount, check_finite, check_positive_int, check_shape, concrete
from ..chains.views import flow_rows
from ..numerics.elimination import discounted_solve
from .trajectory import Trajectory, agent_types

Array = jax.Array


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


class LocalReturns(NamedTuple):
    """Mean discounted returns after first visits.

    Attributes:
        value: `[K, X]`; 0 for a pair without a first visit, which plays no part.
        standard_error: of `value`, by the spread of its returns, `[K, X]`; 0 below two visits.
        visits: first visits that count, `[K, X]`.
    """

    value: Array
    standard_error: Array
    visits: Array

    @property
    def visited(self) -> Array:
        """Pairs with a first visit, `[K, X]`."""
        return self.visits > 0


class LocalFlow(NamedTuple):
    """What an agent of each type saw.

    Attributes:
        flow: how many transitions went from pair x to pair x', `[K, X, X]`.
        reward: mean reward in pair x, `[K, X]`; 0 where never seen, and for a shared reward.
    """

    flow: Array
    reward: Array


def local_flow(trajectory: Trajectory, *, types: Any = None) -> LocalFlow:
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
        jnp.asarray(trajectory.present),
        types,
        num_types,
        trajectory.num_pairs,
    )


@partial(jax.jit, static_argnames=("num_types", "num_pairs"))
def _count(pairs, rewards, follows, present, types, num_types, num_pairs) -> LocalFlow:
    group = jnp.broadcast_to(types[None], pairs.shape)
    one = follows.astype(rewards.dtype)
    flow = jnp.zeros((num_types, num_pairs, num_pairs), rewards.dtype)
    flow = flow.at[group[1:], pairs[:-1], pairs[1:]].add(one)
    seen, paid = (
        jnp.zeros((num_types, num_pairs), rewards.dtype).at[group, pairs].add(x)
        for x in (present.astype(rewards.dtype), jnp.where(present, rewards, 0))
    )
    return LocalFlow(flow, paid / jnp.where(seen > 0, seen, 1))


def lstd_local_q(
    flow: Array | Trajectory,
    reward: Array | None = None,
    *,
    discount: Array | float,
    features: Array | None = None,
    types: Any = None,
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
    _check_flow(counts, paid)
    if features is not None:
        check_shape("features", features, (jnp.shape(counts)[-1], None))
    return solve(counts, paid, discount, features)


def _lstd(flow: Array, reward: Array, discount: Any, features: Array | None) -> LocalQ:
    flow = jnp.asarray(flow, jnp.result_type(flow, reward, float))
    reward = jnp.asarray(reward, flow.dtype)
    transition, visits = flow_rows(flow), flow.sum(1)
    if features is None:
        value = discounted_solve(transition, reward, discount)
    else:
        phi = jnp.asarray(features, flow.dtype)
        share = _share(visits)
        A = phi.T @ (share[:, None] * (phi - discount * transition @ phi))
        value = phi @ jnp.linalg.lstsq(A, phi.T @ (share * reward))[0]
    return LocalQ(value, _share(visits))


def _share(visits: Array) -> Array:
    """Visits as shares of all, `[..., X]`; 0 where there were none."""
    total = visits.sum(-1, keepdims=True)
    return visits / jnp.where(total > 0, total, 1)


def td_local_q(
    flows: Array | Trajectory,
    reward: Array | None = None,
    *,
    discount: Array | float,
    trace: Array | float = 0.0,
    types: Any = None,
) -> LocalQ:
    r"""Local Q-values by tabular TD(lambda), one update an epoch, as the paper learns them.

    $Q(x) \mathrel{+}= \alpha_t(x) \sum_i e_i(x) \delta_i$ with
    $\delta_i = r_i + \gamma Q(x_i') - Q(x_i)$ over the agents of a type, traces
    $e_i \leftarrow \gamma \lambda e_i + 1_{x_i}$ and the rescaled linear step
    $\alpha_t = (1 + H) / (H e_t + V_t)$, $e_t = \sum_i e_i$ now, $V_t$ until now,
    $H = 1 / (1 - \gamma)$: 1 at the first visit, and slow enough later for the error to fall like
    $t^{-1/2}$. TD(0), the default, tends to `lstd_local_q`. Given flows
    it takes the mean over an epoch's transitions, $\sum_i \delta_i =
    f_t(x) (r(x) - Q(x)) + \gamma \sum_{x'} F_t(x, x') Q(x')$.

    Args:
        flows: transitions in every epoch, `[T, X, X]`, or a `Trajectory`, which brings its rewards.
        reward: $r(x)$, `[X]`; left out for a trajectory.
        discount: $\gamma$ in [0, 1).
        trace: $\lambda$ in [0, 1]; flows do not say who moved, so they know 0 only.
        types: of every agent of a trajectory, `[N]`; each is its own if not given.

    Returns:
        `LocalQ` after the last epoch, for a trajectory with a leading axis of K types.

    References:
        Chen and Peng, Meta Algorithm 1; Sutton and Barto 2018, 12.2; Wainwright 2019 (the step).
    """
    check_discount(discount)
    check_shape("trace", trace, ())
    if concrete(trace) and not 0 <= float(trace) <= 1:
        raise ValueError(f"trace: {float(trace):.9g} is outside [0, 1]")
    if isinstance(flows, Trajectory):
        _check_paid(flows, reward)
        types, num_types = agent_types(flows, types)
        shape = (num_types, flows.num_pairs)
        data = (flows.pairs, flows.rewards, flows.follows)
        return _td_lambda(*map(jnp.asarray, data), types, discount, trace, shape)
    if not concrete(trace) or float(trace) != 0:
        raise ValueError("trace: flows do not say which agent moved; pass a Trajectory or trace 0")
    check_shape("flows", flows, (None, None, jnp.shape(flows)[-1]))
    if reward is None or types is not None:
        raise ValueError("reward: flows need one, and have no types")
    _check_flow(flows, reward)
    flows = jnp.asarray(flows, jnp.result_type(flows, reward, float))
    reward = jnp.asarray(reward, flows.dtype)
    slow = 1 / (1 - jnp.asarray(discount, flows.dtype))

    def update(carry: tuple[Array, Array], flow: Array) -> tuple[tuple[Array, Array], None]:
        q, visits = carry
        now = flow.sum(1)
        visits = visits + now
        moved = now * (reward - q) + discount * (flow @ q)
        return (q + _step(slow, now, visits) * moved, visits), None

    start = (reward * slow, jnp.zeros_like(reward))
    (value, visits), _ = lax.scan(update, start, flows)
    return LocalQ(value, _share(visits))


def _step(slow: Array, now: Array, until_now: Array) -> Array:
    """The rescaled linear step for a sum of differences."""
    return (1 + slow) / jnp.where(until_now > 0, slow * now + until_now, jnp.inf)


@partial(jax.jit, static_argnames="shape")
def _td_lambda(pairs, rewards, follows, types, discount, trace, shape) -> LocalQ:
    dtype = rewards.dtype
    slow = 1 / (1 - jnp.asarray(discount, dtype))
    agent = jnp.arange(pairs.shape[1])

    def update(carry, epoch):
        q, mass, visits, traces = carry
        before, after, reward, follow = epoch
        moves = follow.astype(dtype)
        # A trace that is not continued now belongs to an episode that is over.
        traces = (discount * trace * traces).at[agent, before].add(1) * moves[:, None]
        apart = reward + discount * q[types, after] - q[types, before]
        now, moved = (
            jnp.zeros(shape, dtype).at[types].add(x) for x in (traces, traces * apart[:, None])
        )
        mass = mass + now
        visits = visits.at[types, before].add(moves)
        return (q + _step(slow, now, mass) * moved, mass, visits, traces), None

    paid, seen = (
        jnp.zeros(shape, dtype).at[types[None], pairs].add(x)
        for x in (rewards, jnp.ones_like(rewards))
    )
    start = (slow * paid / jnp.where(seen > 0, seen, 1), *(jnp.zeros(shape, dtype),) * 2)
    start = (*start, jnp.zeros((pairs.shape[1], shape[1]), dtype))
    epochs = (pairs[:-1], pairs[1:], rewards[:-1], follows)
    (value, _, visits, _), _ = lax.scan(update, start, epochs)
    return LocalQ(value, _share(visits))


def monte_carlo_local_q(
    trajectory: Trajectory,
    *,
    discount: Array | float,
    types: Any = None,
    segment: int | None = None,
    tol: float = 1e-3,
    ends: bool = False,
) -> LocalReturns:
    r"""Local Q-values by first-visit Monte Carlo.

    The mean of $\sum_{k \ge 0} \gamma^k r_{t+k}$ over the first visits to x in every segment of an
    episode. It tends to $E[\text{return} \mid x_i]$ of the whole system, which is the local Q-value
    of Eq. (2) where the agents are not entangled. With segments longer than one epoch the others
    are averaged as they are at first visits, which is not quite their stationary law.

    Args:
        trajectory: with a reward of every agent.
        discount: $\gamma$ in [0, 1), a known number.
        types: of every agent, `[N]`; each is its own if not given.
        segment: epochs in which only the first visit counts, so that returns are nearly
            independent; those after which $\gamma^k$ is below `tol` if not given. Static.
        tol: visits with $\gamma^{\text{epochs left}}$ above it do not count. Static.
        ends: whether episodes end for good, so that nothing is left out. Static.

    References:
        Chen and Peng, Meta Algorithm 1; Sutton and Barto 2018, 5.1.
    """
    check_discount(discount)
    _check_paid(trajectory, None)
    if not concrete(discount):
        raise ValueError("discount: fixes how many epochs count, so it must be a known number")
    if not 0 < tol < 1:
        raise ValueError(f"tol: {tol} is outside (0, 1)")
    rate = float(discount)
    horizon = 1 if rate == 0 else max(1, int(np.ceil(np.log(tol) / np.log(rate))))
    segment = horizon if segment is None else segment
    check_positive_int("segment", segment)
    types, num_types = agent_types(trajectory, types)
    shape = (num_types, trajectory.num_pairs)
    data = (trajectory.pairs, trajectory.rewards, trajectory.follows, trajectory.present)
    needed = 0 if ends else horizon
    return _first_visits(*map(jnp.asarray, data), types, rate, segment, needed, shape)


@partial(jax.jit, static_argnames="shape")
def _first_visits(pairs, rewards, follows, present, types, discount, segment, needed, shape):
    num_agents = pairs.shape[1]
    agent = jnp.arange(num_agents)
    goes_on = jnp.concatenate([follows, jnp.zeros_like(follows[:1])])
    begins = jnp.concatenate([jnp.ones_like(follows[:1]), ~follows])

    def back(carry, epoch):
        ahead, left = carry
        reward, on = epoch
        ahead = reward + discount * jnp.where(on, ahead, 0)
        left = jnp.where(on, left + 1, 0)
        return (ahead, left), (ahead, left)

    nothing = (jnp.zeros(num_agents, rewards.dtype), jnp.zeros(num_agents, jnp.int32))
    _, (returns, left) = lax.scan(back, nothing, (rewards, goes_on), reverse=True)

    def forward(carry, epoch):
        last, part, age = carry  # the segment in which each pair was last seen, and the present one
        pair, begin = epoch
        age = jnp.where(begin, 0, age + 1)
        part = part + (begin | (age % segment == 0))
        first = last[agent, pair] != part
        return (last.at[agent, pair].set(part), part, age), first

    start = (jnp.zeros((num_agents, shape[1]), jnp.int32), *(jnp.zeros(num_agents, jnp.int32),) * 2)
    _, first = lax.scan(forward, start, (pairs, begins))
    one = (first & present & (left >= needed)).astype(rewards.dtype)
    visits, total = (
        jnp.zeros(shape, rewards.dtype).at[types[None], pairs].add(x) for x in (one, one * returns)
    )
    number = jnp.where(visits > 0, visits, 1)
    mean = total / number
    apart = one * (returns - mean[types[None], pairs]) ** 2
    squares = jnp.zeros(shape, rewards.dtype).at[types[None], pairs].add(apart)
    error = jnp.where(visits > 1, jnp.sqrt(squares / number / jnp.maximum(visits - 1, 1)), 0)
    return LocalReturns(mean, error, visits)


def network_local_q(
    flow: Array | Trajectory,
    reward: Array | None = None,
    *,
    discount: Array | float,
    key: Array,
    features: Array | None = None,
    types: Any = None,
    hidden: tuple[int, ...] = (32, 32),
    num_steps: int = 3000,
    learning_rate: float = 3e-3,
) -> LocalQ:
    r"""Local Q-values by a small neural network, trained by semi-gradient TD.

    Adam descends $\sum_x D(x) (Q_\theta(x) - r(x) - \gamma \sum_{x'} \hat P(x, x')
    \bar Q(x'))^2$, with $\bar Q = Q_\theta$ held fixed: the expected TD(0) update on the same
    transitions as `lstd_local_q`, whose limit it shares if the network can express it.

    Args:
        flow: `[X, X]`, or a `Trajectory`.
        reward: $r(x)$, `[X]`; left out for a trajectory.
        discount: $\gamma$ in [0, 1).
        key: of `jax.random.key`, for the first weights.
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
    _check_flow(counts, paid)
    if features is None:
        features = jnp.eye(jnp.shape(counts)[-1], dtype=jnp.result_type(paid, float))
    check_shape("features", features, (jnp.shape(counts)[-1], None))
    check_finite("features", features)
    return solve(counts, paid, discount, features)


@partial(jax.jit, static_argnames=("hidden", "num_steps", "learning_rate"))
def _network(flow, reward, discount, features, key, *, hidden, num_steps, learning_rate) -> LocalQ:
    flow = jnp.asarray(flow, jnp.result_type(flow, reward, float))
    transition, visits = flow_rows(flow), flow.sum(1)
    share = _share(visits)
    features = jnp.asarray(features, flow.dtype)
    sizes = (features.shape[1], *hidden, 1)
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        (jax.random.normal(k, (m, n), flow.dtype) / np.sqrt(m), jnp.zeros(n, flow.dtype))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    # Outputs of the size of what is learned, whatever the unit of the reward.
    mean = share @ reward
    unit = (jnp.sqrt(share @ (reward - mean) ** 2) + jnp.finfo(flow.dtype).tiny) / (1 - discount)

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

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def step(carry, _):
        layers, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(layers), state)
            return (optax.apply_updates(layers, updates), state), None

    (layers, _), _ = lax.scan(step, (layers, optimizer.init(layers)), None, length=num_steps)
    return LocalQ(q(layers) + mean / (1 - discount), share)


def _check_paid(trajectory: Trajectory, reward: Any) -> None:
    if reward is not None:
        raise ValueError("reward: a trajectory brings its own; see with_rewards to replace them")
    if trajectory.shares_reward:
        raise ValueError(
            "trajectory: agents share one reward; split it first (fit_local_rewards, with_rewards)"
        )


def _each_type(
    flow: Any, reward: Any, types: Any, solve: Any, key: Any = None
) -> tuple[Any, Any, Any]:
    """Flow, reward and a solver for one flow as given, or for all types of a trajectory."""
    extra = () if key is None else (key,)
    if isinstance(flow, Trajectory):
        _check_paid(flow, reward)
        counted = local_flow(flow, types=types)
        if key is not None:
            extra = (jax.random.split(key, len(counted.flow)),)
        axes = (0, 0, None, None, *(0 for _ in extra))
        many = jax.vmap(solve, in_axes=axes)
        return counted.flow, counted.reward, lambda *args: many(*args, *extra)
    if reward is None or types is not None:
        raise ValueError("reward: a flow needs one, and has no types")
    check_shape("flow", flow, (None, jnp.shape(flow)[0]))
    return flow, reward, lambda *args: solve(*args, *extra)


def _check_flow(flow: Array, reward: Array) -> None:
    check_shape("reward", reward, (*jnp.shape(flow)[: jnp.ndim(reward) - 1], jnp.shape(flow)[-1]))
    check_finite("flow", flow)
    check_finite("reward", reward)
