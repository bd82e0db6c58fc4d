r"""Exact chains and answers of N exchangeable agents under a soft index policy.

A `SoftIndex` draws, in configuration n, one of J = S roundings: K_j(n) active agents per state,
with probability w_j(n). Given the rounding the agents move independently (`GroupLaws`), so that two
small chains are exact:

- (n, j), the configuration and its rounding, on which the joint value lives: the counts of agents
  by state and action are a function of it;
- (x, c, j), with one agent tagged in pair x = (s, a) and c the configuration of the others; in the
  rounding of n = c + e_s it is active with probability K_j(n)_s / n_s.

Nothing is drawn, so every number is differentiable in index and temperature as well as in kernels
and rewards.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import stochastic
from ..chains.pair_chain import PairChain
from ..chains.stationary import law_direct, law_iterative
from ..models.contracts import Agents
from ..models.layouts import Views, product_layout, view_of
from ..models.parts import TablePolicy
from ..models.restless_bandit import RestlessBandit
from ..models.soft_index import SoftIndex, check_soft
from ..numerics.arrays import relative
from ..numerics.elimination import discounted_solve
from ..values.bellman import solve_direct, solve_iterative
from .exchangeable import (
    VECTORS,
    as_float_kernel,
    budgets_left,
    check_counted,
    check_memory,
)
from .ground_truth import DENSE, GroundTruth, median_entanglement, transition_of
from .groups import GroupLaws, group_laws, place
from .next_counts import configuration_index, configurations, num_configurations

Array = jax.Array


class Rounded(NamedTuple):
    """What a soft policy does in every configuration.

    Attributes:
        chances: p_s(n), `[C, S]`.
        active: K_j(n), int `[C, J, S]`.
        weights: w_j(n), `[C, J]`.
    """

    chances: Array
    active: Array
    weights: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RoundedKernel:
    """K: functions of the next configuration, `[C]`, to functions of (n, j), `[C * J]`.

    Attributes:
        groups: laws of the active and the idle agents.
        places: of the active and of the idle counts of (n, j) among theirs, `[C, J]` each.
    """

    groups: GroupLaws
    places: tuple[Array, Array]

    def mv(self, v: Array) -> Array:
        """K v."""
        return self.groups.expect(v)[self.places].reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next configuration, mu K."""
        split = jnp.zeros(_split_shape(self.groups), mu.dtype)
        return self.groups.push(split.at[self.places].add(mu.reshape(self.places[0].shape)))

    def matrix(self) -> Array:
        """K itself, for few agents."""
        size = num_configurations(sum(self.groups.sizes), self.groups.num_states)
        return jax.vmap(self.mv, out_axes=-1)(jnp.eye(size, dtype=self.groups.active.dtype))

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return self.groups.stochastic()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedRoundedKernel:
    """K: functions of the next (s', c'), `[S * C]`, to functions of (s, a, c, j).

    Attributes:
        local: local kernel of the tagged agent, `[S, 2, S]`.
        groups: laws of the others where the tagged agent is idle, and where it is active.
        places: of the others' active and idle counts, `[S, C, J]`, likewise.
    """

    local: Array
    groups: tuple[GroupLaws, GroupLaws]
    places: tuple[tuple[Array, Array], tuple[Array, Array]]

    def mv(self, v: Array) -> Array:
        """K v."""
        v = v.reshape(len(self.local), -1)  # [S, C]
        rows = []
        for action, (groups, places) in enumerate(zip(self.groups, self.places, strict=True)):
            ahead = _einsum("st,tkl->skl", self.local[:, action], groups.expect(v))
            rows.append(jax.vmap(lambda f, k, u: f[k, u])(ahead, *places))  # [S, C, J]
        return jnp.stack(rows, axis=1).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next (tagged state, configuration), mu K."""
        mu = mu.reshape(len(self.local), 2, *self.places[0][0].shape[1:])
        total = jnp.zeros((), mu.dtype)
        for action, (groups, places) in enumerate(zip(self.groups, self.places, strict=True)):
            split = jnp.zeros(_split_shape(groups), mu.dtype)
            split = jax.vmap(lambda m, k, u, zero=split: zero.at[k, u].add(m))(
                mu[:, action], *places
            )
            total = total + groups.push(_einsum("st,skl->tkl", self.local[:, action], split))
        return total.reshape(-1)

    def matrix(self) -> Array:
        """K itself, for few agents."""
        others = sum(self.groups[0].sizes)
        size = len(self.local) * num_configurations(others, len(self.local))
        return jax.vmap(self.mv, out_axes=-1)(jnp.eye(size, dtype=self.local.dtype))

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        groups = self.groups[0].stochastic() & self.groups[1].stochastic()
        return stochastic(self.local) & groups


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedRoundedPolicy:
    """Π: a rounding is drawn, then fairly who is active.

    Attributes:
        table: probability of (a, j) in (s, c), `[S, 2, C, J]`.
    """

    table: Array

    @property
    def num_states(self) -> int:
        """Number of (tagged state, configuration)."""
        return self.table.shape[0] * self.table.shape[2]

    def mv(self, f: Array) -> Array:
        """The mean over actions and roundings, `[S * 2 * C * J, ...]` to `[S * C, ...]`."""
        mean = _einsum("sacj,sacjk->sck", self.table, f.reshape(*self.table.shape, -1))
        return mean.reshape(self.num_states, *f.shape[1:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair, `[S * C]` to `[S * 2 * C * J]`."""
        num_states, _, size, _ = self.table.shape
        return (self.table * mu.reshape(num_states, 1, size, 1)).reshape(-1)

    def stochastic(self) -> Array:
        """Whether the actions in every state have probabilities."""
        rows = jnp.moveaxis(self.table, 1, 2)
        return stochastic(rows.reshape(self.num_states, -1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TaggedRoundedLayout:
    """Factors (X, (c, j)); the one view is the tagged pair.

    Attributes:
        split: idle and active agents of each state, all N, where the tagged agent is in s: `[S, C,
            J, S, 2]`. It does not read the tagged agent's action, which matters for pairs of
            weight 0 only.
    """

    split: Array

    @property
    def sizes(self) -> tuple[int, ...]:
        """(2 S, C J)."""
        num_states, size, roundings = self.split.shape[:3]
        return 2 * num_states, size * roundings

    @property
    def views(self) -> Views:
        """The tagged pair."""
        return ((0,),)

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of the tagged pair, `[2 S]`."""
        return view_of(self, agent).project(measure)

    def lift(self, functions: Any) -> Array:
        """Sum over all N agents of one function of the pair, `[2 S * C * J]`."""
        f = functions[0].reshape(-1, 2)
        total = _einsum("scjtb,tb->scj", self.split.astype(f.dtype), f)
        return jnp.stack([total, total], axis=1).reshape(-1)


def soft_exchangeable_chain(
    bandit: RestlessBandit, policy: SoftIndex, *, memory: int | None = None
) -> PairChain:
    """The exact chain of (tagged agent's pair, configuration of the others and rounding).

    Differentiable in kernels, index and temperature. The largest arrays are the law of the idle
    group, `[C_l, C_l]` with C_l = C(N - M + S - 1, S - 1), and vectors of 2 S C(N + S - 2, S - 1) S
    pairs.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        policy: a `SoftIndex`; may be traced.
        memory: bytes it may take; by default what the device has. Static.

    Returns:
        `PairChain` of factors (2 S, C(N + S - 2, S - 1) S) with one view, the tagged pair. `lift`
        takes one function of the pair and sums it over all N agents.

    Raises:
        ValueError: for a bad bandit or policy, and before anything is allocated if the chain does
            not fit: the message has the count, the bytes and the largest N that fits.
    """
    num_agents, budget = _check(bandit, policy, memory)
    return _tagged_chain(bandit, policy, num_agents, budget)


def soft_ground_truth(
    bandit: RestlessBandit, policy: SoftIndex, *, memory: int | None = None
) -> GroundTruth:
    """Exact stationary law, values, decomposition error and entanglement under a soft policy.

    Differentiable in kernels, rewards, discount, index and temperature, by implicit differentiation
    and Danskin. The entanglement is that of the chances (Eq. 15), which do not depend on how the
    budget is rounded; the rest is exact for this rounding.

    Args:
        bandit: `num_agents` and `budget` must be known ints, they fix shapes.
        policy: a `SoftIndex`; may be traced.
        memory: bytes it may take; by default what the device has. Static.

    Returns:
        As of `ground_truth`, with an axis of roundings in `q_joint` and `error`, `[M, S]`: the
        value depends on how many agents of each state are active. Of weight 0 are roundings that
        are never taken.

    Raises:
        ValueError: as of `soft_exchangeable_chain`.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, Eqs. (2) and (15).
    """
    num_agents, budget = _check(bandit, policy, memory)
    return _answer(bandit, policy, num_agents, budget)


@partial(jax.jit, static_argnums=(2, 3))
def _tagged_chain(bandit: RestlessBandit, policy: SoftIndex, num_agents: int, budget: int):
    local = as_float_kernel(bandit)
    num_states = len(local)
    counts = configurations(num_agents, num_states)
    rounded = _round(policy, counts, budget)
    where = _with_tagged(num_agents, num_states)  # [S, C]
    split = _split(counts, rounded.active)[where]  # [S, C, J, S, 2]
    state = np.arange(num_states)
    own = split[state, :, :, state]  # [S, C, J, 2]
    present = counts[where, state[:, None]]  # [S, C]
    chance = own / jnp.asarray(present, local.dtype)[..., None, None]
    table = jnp.moveaxis(rounded.weights[where][..., None] * chance, -1, 1)  # [S, 2, C, J]
    groups = _others(local, num_agents, budget)
    by_state = jnp.moveaxis(split, 0, 2)  # [C, J, S, S, 2]
    idle, active = (
        _places(laws, jnp.moveaxis(_without(by_state, action), 2, 0))
        for action, laws in enumerate(groups)
    )
    return PairChain(
        TaggedRoundedKernel(local, groups, (idle, active)),
        TaggedRoundedPolicy(table),
        TaggedRoundedLayout(split),
    )


@partial(jax.jit, static_argnums=(2, 3))
def _answer(bandit: RestlessBandit, policy: SoftIndex, num_agents: int, budget: int):
    local = as_float_kernel(bandit)
    dtype = local.dtype
    reward = jnp.asarray(bandit.reward, dtype)
    discount = jnp.asarray(bandit.discount, dtype)
    known = configurations(num_agents, bandit.num_states)
    rounded = _round(policy, known, budget)
    counts = jnp.asarray(known, dtype)
    split = _split(known, rounded.active)  # [M, J, S, 2]
    groups = group_laws(local, budget, num_agents - budget)
    size = rounded.weights.size
    chain = PairChain(
        RoundedKernel(groups, _places(groups, split)),
        TablePolicy(rounded.weights),
        product_layout([size]),
    )
    total = _total(split, reward).reshape(-1)
    if len(known) <= DENSE:
        first, second = law_direct(chain), solve_direct(chain, total, discount=discount)
    else:
        first, second = law_iterative(chain), solve_iterative(chain, total, discount=discount)
    pairs, q_joint = (x.value.reshape(rounded.weights.shape) for x in (first, second))  # [M, J]
    law = pairs.sum(-1)
    occupancy = _einsum("mj,mjsa->sa", pairs, split.astype(dtype)) / num_agents
    flow = _tagged_flow(local, pairs, rounded.chances, split, num_agents, budget)
    transition = transition_of(flow, occupancy)
    q_local = discounted_solve(transition, reward.reshape(-1), discount).reshape(-1, 2)
    error = q_joint - _total(split, q_local)
    mu_error = (pairs * jnp.abs(error)).sum()
    return GroundTruth(
        law=law,
        q_joint=q_joint,
        q_local=q_local,
        error=error,
        occupancy=occupancy,
        local_transition=transition,
        entanglement=median_entanglement(law, counts, rounded.chances),
        average_reward=num_agents * (occupancy * reward).sum(),
        mu_error=mu_error,
        relative_error=relative(mu_error, (pairs * jnp.abs(q_joint)).sum()),
        residual=jnp.maximum(first.residual, second.residual),
        num_steps=first.num_steps + second.num_steps,
        converged=first.converged & second.converged,
    )


def _tagged_flow(local, pairs, chances, split, num_agents: int, budget: int) -> Array:
    """Stationary flow between the pairs of a tagged agent, `[2 S, 2 S]`, of total 1."""
    num_states = len(local)
    where = _with_tagged(num_agents, num_states)
    state = np.arange(num_states)
    ahead = chances[where, state[:, None]]  # [S', C], to be active once in s'
    rows = []
    for action, groups in enumerate(_others(local, num_agents, budget)):
        weight = pairs[..., None] * split[..., action] / num_agents  # [M, J, S]
        places = _places(groups, _without(split[:, :, None], action))  # [M, J, S]
        grid = jnp.zeros((num_states, *_split_shape(groups)), pairs.dtype)
        grid = grid.at[jnp.broadcast_to(state, weight.shape), *places].add(weight)
        served = _einsum("skl,tkl->st", grid, groups.expect(ahead))
        # Where everyone is served, rounding alone would leave a chance below 0 to be idle.
        idle = jnp.maximum(grid.sum((1, 2))[:, None] - served, 0)
        flow = local[:, action, :, None] * jnp.stack([idle, served], axis=-1)
        rows.append(flow.reshape(num_states, -1))
    return jnp.stack(rows, axis=1).reshape(2 * num_states, -1)


def _round(policy: SoftIndex, counts: np.ndarray, budget: int) -> Rounded:
    def one(counts: Array) -> Rounded:
        return Rounded(policy.chances(counts, budget), *policy.roundings(counts, budget))

    return jax.vmap(one)(jnp.asarray(counts))


def _split(counts: np.ndarray, active: Array) -> Array:
    """Idle and active agents per state, `[M, J, S, 2]`."""
    everyone = jnp.broadcast_to(jnp.asarray(counts)[:, None], active.shape)
    return jnp.stack([everyone - active, active], axis=-1)


def _without(split: Array, action: int) -> Array:
    """The others, where the tagged agent takes this action in s: `[.., S, S, 2]`, s first."""
    num_states = split.shape[-2]
    tagged = np.zeros((num_states, num_states, 2), int)
    tagged[np.arange(num_states), np.arange(num_states), action] = 1
    return split - jnp.broadcast_to(tagged, (*split.shape[:-3], *tagged.shape))


def _places(groups: GroupLaws, split: Array) -> tuple[Array, Array]:
    """Places of the active and of the idle counts among those of their group."""
    active, idle = groups.sizes
    return place(split[..., 1], active), place(split[..., 0], idle)


def _others(local: Array, num_agents: int, budget: int) -> tuple[GroupLaws, GroupLaws]:
    """Laws of the others where the tagged agent is idle, and where it is active."""
    left = budgets_left(num_agents, budget)
    idle, active = (group_laws(local, m, num_agents - 1 - m) for m in left)
    return idle, active


def _with_tagged(num_agents: int, num_states: int) -> np.ndarray:
    """Place of c + e_s among the configurations of N agents, `[S, C]`."""
    others = configurations(num_agents - 1, num_states)
    unit = np.eye(num_states, dtype=np.int64)
    return configuration_index(others[None] + unit[:, None])


def _split_shape(groups: GroupLaws) -> tuple[int, int]:
    return len(groups.active), len(groups.idle)


def _total(split: Array, f: Array) -> Array:
    """Sum over all agents of a function of the pair `[S, 2]`: `[M, J]`."""
    return _einsum("mjsa,sa->mj", split.astype(f.dtype), f)


def _check(bandit: RestlessBandit, policy: SoftIndex, memory: int | None) -> tuple[int, int]:
    """N and M, after every check."""
    num_agents, budget = check_counted(bandit)
    check_soft(policy, bandit.num_states)
    itemsize = as_float_kernel(bandit).dtype.itemsize
    check_memory(
        num_agents, bandit.num_states, partial(_bytes, itemsize, budget / num_agents), memory
    )
    return num_agents, budget


def _bytes(itemsize: int, share: float, num_agents: int, num_states: int) -> int:
    """What the laws of the groups and a solve hold, about."""
    active = num_configurations(round(share * num_agents), num_states)
    idle = num_configurations(num_agents - round(share * num_agents), num_states)
    pairs = 2 * num_states**2 * num_configurations(num_agents - 1, num_states)
    laws = 2 * (active**2 + idle**2) + 4 * num_states * active * idle
    return (laws + VECTORS * pairs) * itemsize


def _einsum(spec: str, *operands: Any) -> Array:
    return jnp.einsum(spec, *operands, precision=lax.Precision.HIGHEST)
