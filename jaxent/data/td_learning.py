r"""Local values from the order of things: TD(lambda), and first-visit Monte Carlo at its end.

TD(lambda) corrects Q(x) by the difference $\delta = r + \gamma Q(x') - Q(x)$ and, with traces
$\gamma \lambda$ an epoch, the pairs before x as well. Monte Carlo averages the discounted returns
$\sum_k \gamma^k r_{t+k}$ after first visits of x. With lambda = 0 the limit is that of LSTD, the
local Q-values of Eq. (2); otherwise both look along the true trajectory of all agents, towards
$E[\text{return} \mid x_i]$.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from .._checks import check_discount, check_positive_int, check_shape, concrete, renamed
from .._reads import Frame, frame, reads
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from .local_learning import LocalQ, check_flow, check_paid, share_of
from .trajectory import Trajectory, agent_types, check_trajectory

Array = jax.Array


@reads("mean returns of {0.visits.shape[0]} agents")
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

    def to_frame(self) -> Frame:
        """A row a local pair of each type of agent."""
        agent, pair = np.indices(np.shape(self.value))
        columns = {"agent": agent, "pair": pair, **self._asdict()}
        return frame({name: np.ravel(column) for name, column in columns.items()})


def td_local_q(
    flows: Array | np.ndarray | Trajectory,
    reward: Array | np.ndarray | None = None,
    *,
    discount: Array | float,
    trace: Array | float = 0.0,
    types: ArrayLike | None = None,
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
        check_paid(flows, reward)
        types, num_types = agent_types(flows, types)
        shape = (num_types, flows.num_pairs)
        data = (flows.pairs, flows.rewards, flows.follows)
        return _td_lambda(*map(jnp.asarray, data), types, discount, trace, shape)
    if not isinstance(flows, (Array, np.ndarray, list)):
        check_trajectory(flows, "flows")
    if not concrete(trace) or float(trace) != 0:
        raise ValueError("trace: flows do not say which agent moved; pass a Trajectory or trace 0")
    check_shape("flows", flows, (None, None, jnp.shape(flows)[-1]))
    if reward is None or types is not None:
        raise ValueError("reward: flows need one, and have no types")
    check_flow(flows, reward)
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
    return LocalQ(value, share_of(visits))


def _step(slow: Array, now: Array, until_now: Array) -> Array:
    """The rescaled linear step for a sum of differences."""
    return ratio(1 + slow, slow * now + until_now)


@jit(static_argnames="shape")
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
    nothing = jnp.zeros(shape, dtype)
    traces = jnp.zeros((pairs.shape[1], shape[1]), dtype)
    start = (slow * ratio(paid, seen), nothing, nothing, traces)
    epochs = (pairs[:-1], pairs[1:], rewards[:-1], follows)
    (value, _, visits, _), _ = lax.scan(update, start, epochs)
    return LocalQ(value, share_of(visits))


@renamed(tolerance="tol")
def monte_carlo_local_q(
    trajectory: Trajectory,
    *,
    discount: Array | float,
    types: ArrayLike | None = None,
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
    check_paid(trajectory, None)
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
    data = (trajectory.pairs, trajectory.rewards, trajectory.follows, trajectory.paid)
    needed = 0 if ends else horizon
    return _first_visits(*map(jnp.asarray, data), types, rate, segment, needed, shape)


@jit(static_argnames="shape")
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
        # Segment in which each pair was last seen, present segment, epoch in the episode.
        last, part, age = carry
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
    mean = ratio(total, visits)
    apart = one * (returns - mean[types[None], pairs]) ** 2
    squares = jnp.zeros(shape, rewards.dtype).at[types[None], pairs].add(apart)
    error = jnp.sqrt(ratio(squares, visits * (visits - 1)))
    return LocalReturns(mean, error, visits)
