r"""Simulation of a restless bandit on counts.

Under an index policy homogeneous agents are exchangeable, so the counts n_s of agents per state are
a Markov chain of their own: n^a_s agents of state s take action a (Def. 13), and they spread over
the next states as Multinomial(n^a_s, P_a(s, .)). A step costs the same for 60 agents and for 1800.
A soft index policy draws n^1_s first (`SoftIndex.draw`), from a stream of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive_int, check_shape, concrete, refuse_gradient, renamed
from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex, draw_rounding
from ..numerics.arrays import einsum, ratio
from ..numerics.compiled import jit
from .activation import (
    IndexPolicy,
    action_law,
    action_probabilities,
    by_action,
    check_index_policy,
)
from .flow_sampling import FlowSampler, draw_flow, flow_sampler
from .sampling import random_words, seed_words

Array = jax.Array

Counts = Sequence[int] | np.ndarray | Array


@reads("{0.flow.shape[0]} epochs of counts in {0.counts.shape[1]} states")
class CountsTrajectory(NamedTuple):
    """A run of the counts chain.

    Attributes:
        counts: agents per state at epochs 0..T, `[T + 1, S]` int32.
        flow: agents that went from state s under action a to state s' between epochs t and t + 1,
            `[T, S, 2, S]` int32. Its sum over (s, a) is `counts[t + 1]`, over (a, s') `counts[t]`.
        policy: probability that an agent in state s takes action a at epoch t, given the counts,
            `[T + 1, S, 2]`.
    """

    counts: Array
    flow: Array
    policy: Array


@jit
def even_start(bandit: RestlessBandit) -> Array:
    """Counts as even as they can be, the first states one agent ahead, `[S]` int32."""
    num_agents = jnp.asarray(bandit.num_agents, jnp.int32)
    states = jnp.arange(bandit.num_states, dtype=jnp.int32)
    return num_agents // bandit.num_states + (states < num_agents % bandit.num_states)


def check_counts(counts: Counts, bandit: RestlessBandit) -> None:
    """Raise unless `counts` are whole agents per state that sum to num_agents."""
    check_shape("counts", counts, (bandit.num_states,))
    if not concrete(counts):
        return
    values = np.asarray(counts)
    for state, value in enumerate(values):
        if not (value >= 0 and float(value).is_integer()):
            raise ValueError(f"counts[{state}] = {value} is not a whole number of agents")
    if concrete(bandit.num_agents) and int(values.sum()) != int(bandit.num_agents):
        raise ValueError(
            f"counts sum to {int(values.sum())}, not to num_agents {bandit.num_agents}"
        )


def _largest_num_agents(bandit: RestlessBandit, max_agents: int | None) -> int:
    if max_agents is None:
        if not concrete(bandit.num_agents):
            raise ValueError(
                "max_agents: num_agents is traced, so the largest value it takes must be given "
                "as a Python int"
            )
        max_agents = int(bandit.num_agents)
    check_positive_int("max_agents", max_agents)
    if concrete(bandit.num_agents) and int(bandit.num_agents) > max_agents:
        raise ValueError(f"max_agents: {max_agents} is less than num_agents {bandit.num_agents}")
    return int(max_agents)


def draw_groups(
    seed: Array, t: Array, counts: Array, policy: Array | SoftIndex, budget: Array | int
) -> Array:
    """Agents per state and action at epoch t of a stream, `[S, 2]`: a soft policy draws them."""
    if not isinstance(policy, SoftIndex):
        return by_action(counts, policy, budget)
    # The complement of the seed starts a stream apart from that of the moves.
    uniform = (random_words(~seed, t, 1)[0].astype(float) + 0.5) / 2.0**32
    active = draw_rounding(uniform, policy, counts, budget)
    return jnp.stack([counts - active, active], axis=-1)


def step_counts(
    seed: Array,
    t: Array,
    counts: Array,
    bandit: RestlessBandit,
    policy: Array | SoftIndex,
    sampler: FlowSampler,
) -> tuple[Array, Array]:
    """Epoch t of a stream: next counts `[S]` and the flow `[S, 2, S]` that made them."""
    flow = draw_flow(seed, t, draw_groups(seed, t, counts, policy, bandit.budget), sampler)
    return flow.sum((0, 1), dtype=jnp.int32), flow


def prepare(
    bandit: RestlessBandit, policy: IndexPolicy, counts: Counts | None, max_agents: int | None
) -> tuple[Array | SoftIndex, Array, FlowSampler]:
    """Checked policy and start, and the sampler: what every simulation begins with."""
    check_bandit(bandit)
    checked = refuse_gradient(check_index_policy(policy, bandit.num_states))
    if counts is None:
        counts = even_start(bandit)
    else:
        check_counts(counts, bandit)
    kernel = bandit.kernel
    if concrete(bandit.passive, bandit.active):  # inside a trace too
        kernel = np.stack([np.asarray(bandit.passive), np.asarray(bandit.active)], axis=1)
    sampler = flow_sampler(kernel, _largest_num_agents(bandit, max_agents))
    return checked, jnp.asarray(counts, jnp.int32), sampler


@renamed(priority="policy")
def simulate_counts(
    key: Array,
    bandit: RestlessBandit,
    policy: IndexPolicy,
    *,
    num_steps: int,
    counts: Counts | None = None,
    max_agents: int | None = None,
) -> CountsTrajectory:
    r"""Simulate the counts chain under an index policy, hard or soft.

    $n_{t+1} = \sum_{s, a} \mathrm{Multinomial}(n^a_s, P_a(s, \cdot))$ with $n^a_s$ from Def. 13.
    The law is exact. Write for one run and let `vmap` batch over keys; `bandit.num_agents` and
    `bandit.budget` may be traced, so that one compilation serves a sweep over N.

    Args:
        key: of `jax.random.key`.
        bandit: the model. Kernels are best closed over: their sparsity is used where they are
            known.
        policy: states in the order served, `[S]`; or a `SoftIndex`, through which there is no
            gradient (asking for one is an error).
        num_steps: T. Static.
        counts: start, `[S]`; as even as can be if not given.
        max_agents: the largest num_agents that will be passed. Static; needed where num_agents is
            traced.

    Returns:
        The trajectory; its largest array, `flow`, has 8 T S^2 bytes.

    Raises:
        ValueError: for a bandit, policy or start that is not one, naming the place.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit, priority = jaxent.circulant_bandit(5), jaxent.CIRCULANT_PRIORITY
        >>> run = jaxent.simulate_counts(jax.random.key(0), bandit, priority, num_steps=3)
        >>> print(run.counts.sum(1))
        [5 5 5 5]

    References:
        Chen and Peng, Defs. 12 and 13, Appendix K.
    """
    check_positive_int("num_steps", num_steps)
    checked, start, sampler = prepare(bandit, policy, counts, max_agents)
    return _simulate(seed_words(key), bandit, checked, start, sampler, num_steps)


@jit(static_argnames=("num_steps",))
def _simulate(
    seed: Array,
    bandit: RestlessBandit,
    policy: Array | SoftIndex,
    counts: Array,
    sampler: FlowSampler,
    num_steps: int,
) -> CountsTrajectory:
    def step(counts: Array, t: Array) -> tuple[Array, tuple[Array, Array]]:
        after, flow = step_counts(seed, t, counts, bandit, policy, sampler)
        return after, (counts, flow)

    last, (before, flow) = jax.lax.scan(step, counts, jnp.arange(num_steps))
    counts = jnp.concatenate([before, last[None]])  # [T + 1, S]
    return CountsTrajectory(counts, flow, action_law(counts, policy, bandit.budget))


def pair_flow(
    trajectory: CountsTrajectory, weights: Array | None = None, *, kernel: Array | None = None
) -> Array:
    r"""Expected number of agents that go from pair x to pair x', `[X, X]`, with x = 2 s + a.

    $F(x, x') = \sum_t w_t\, f_t(s, a, s')\, \pi(a' \mid s', m_{t+1})$: given the counts flow, which
    agents of a state are active next is a uniform draw, so its expectation is taken (Rao-Blackwell)
    instead of one sample of it. With the kernel, moves too are expected ones: the sum of
    $w_t f_t(s, a, s')$ is replaced by its mean given the visits of (s, a), and only the policy
    after a move is left to the data.

    Args:
        trajectory: of `simulate_counts`.
        weights: of the transitions t -> t + 1, `[T]`; 1 if not given. 0 leaves an epoch out.
        kernel: of the bandit, `[S, 2, S]`, where it is known and may be used.
    """
    num_states = trajectory.counts.shape[-1]
    policy = trajectory.policy[1:]  # [T, S, 2]
    flow = trajectory.flow.astype(policy.dtype)
    if weights is not None:
        weights = jnp.broadcast_to(weights.astype(policy.dtype)[:, None, None, None], flow.shape)
        flow = flow * weights
    pairs = einsum("tsan,tnb->sanb", flow, policy)
    if kernel is not None:
        moved = flow.sum(0)[..., None]  # [S, 2, S, 1]
        expected = moved.sum(2, keepdims=True) * jnp.asarray(kernel, flow.dtype)[..., None]
        mean_policy = jnp.broadcast_to(action_probabilities(pairs.sum((0, 1))), pairs.shape)
        moved = jnp.broadcast_to(moved, pairs.shape)
        pairs = expected * ratio(pairs, moved, mean_policy)
    return pairs.reshape(2 * num_states, 2 * num_states)
