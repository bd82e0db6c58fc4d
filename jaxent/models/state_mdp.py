r"""Agents that each observe some of one joint state, which need be no product of states of theirs.

The joint state s is a number 0..S-1. Agent i observes o_i = `observations[i][s]`, so its local pair
is (o_i, a_i); what nobody observes is hidden. A joint action leads to a few outcomes, each a next
state with its probability,

    P(s' | s, a) = Σ_k p_k(s, a) [s' = s_k(s, a)],

which is what the kernel holds: to apply it is to gather, from the left a segment sum. It costs
S A K numbers, A the number of joint actions, and is never formed as a matrix where that is large.

A game that ends starts anew. Where its first state is drawn by a law, s_k = S stands for an end,
and what follows has that law: an end costs one number, however many states a game may start in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    check_discount,
    check_finite,
    check_shape,
    check_stochastic,
    concrete,
    stochastic,
)
from .._reads import reads
from ..numerics.arrays import as_float, dot, takes_arrays
from ..numerics.compiled import jit
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import MapLayout, MapView, map_view
from .parts import TablePolicy
from .policies import check_table

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OutcomeKernel:
    """A kernel by its outcomes.

    Attributes:
        states: the next state of each outcome, int `[J, K]`; S where a game ends and starts anew.
        chances: its probability, `[J, K]`.
        num_states: S. Static.
        start: the law of the first state of a game, `[S]`; None where no outcome is S.
    """

    states: Array
    chances: Array
    num_states: int = field(metadata={"static": True})
    start: Array | None = None

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        if self.start is not None:
            v = jnp.append(v, dot(self.start, v))
        return (self.chances * v[self.states]).sum(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        moved = (mu[:, None] * self.chances).reshape(-1)
        to, size = self.states.reshape(-1), self.num_states
        if self.start is None:
            return jax.ops.segment_sum(moved, to, num_segments=size)
        law = jax.ops.segment_sum(moved, to, num_segments=size + 1)
        return law[:-1] + law[-1] * self.start

    def matrix(self) -> Array:
        """K itself, `[J, S]`, for small chains."""
        return _dense(self)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        rows = stochastic(self.chances)
        return rows if self.start is None else rows & stochastic(self.start[None])


@takes_arrays("start", each=("transition",))
@reads("agents that observe one joint state, discount {0.discount}")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StateMDP:
    r"""Agents that observe one joint state.

    Attributes:
        transition: outcomes of each joint action, the next states, int `[S, A_0.., K]`, and their
            probabilities, `[S, A_0.., K]`. One axis for all actions, `[S, A, K]` in the order
            $a_0 A_1 \cdots + a_1 A_2 \cdots + \dots$, will do.
        observations: $o_i(s)$ of each agent, N times `[S]` codes 0..O_i - 1. Static.
        rewards: $r_i(o_i, a_i)$ of each agent, `[O_i, A_i]` each; or one reward of all,
            $r(s, a)$, `[S, A_0..]`.
        discount: $\gamma$ in [0, 1).
        start: law of the first state of a game, `[S]`. Given, a next state S is an end, after which
            a game starts anew by this law; without it there are none.
    """

    transition: tuple[ArrayLike, ArrayLike]
    observations: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    rewards: tuple[Array, ...] | ArrayLike
    discount: Scalar
    start: ArrayLike | None = None

    def __post_init__(self) -> None:
        """Observations become tuples of ints, which a compiled function can be told apart by."""
        if not isinstance(self.transition, tuple) or len(self.transition) != 2:
            raise ValueError("transition: wanted a pair, next states and their probabilities")
        seen = self.observations
        if not isinstance(seen, (tuple, list)) or not all(map(np.ndim, seen)):
            raise ValueError("observations: wanted a tuple, one array [S] of codes for each agent")
        if not concrete(*self.observations):
            raise ValueError("observations: fix shapes, so they must be known, not traced values")
        codes = tuple(o if isinstance(o, tuple) else tuple(np.asarray(o).tolist())
                      for o in self.observations)  # fmt: skip
        object.__setattr__(self, "observations", codes)

    @property
    def num_states(self) -> int:
        """S."""
        return np.shape(self.transition[0])[0]

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        if isinstance(self.rewards, (tuple, list)):
            return tuple(np.shape(reward)[1] for reward in self.rewards)
        return np.shape(self.rewards)[1:]

    @property
    def num_observations(self) -> tuple[int, ...]:
        """O_i of each agent."""
        if isinstance(self.rewards, (tuple, list)):
            return tuple(np.shape(reward)[0] for reward in self.rewards)
        return tuple(max(codes) + 1 for codes in self.observations)

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """`(S, A_0, ..)`."""
        return (self.num_states, *self.num_actions)

    feasible = product_tables.feasible
    policy_view = product_tables.no_policy_view

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        states, chances = self.transition
        check_shape("transition[1]", chances, np.shape(states))
        if not isinstance(self.rewards, (tuple, list)):
            check_shape(
                "rewards", self.rewards, (self.num_states, *[None] * len(self.observations))
            )
            check_finite("rewards", self.rewards)
        elif len(self.rewards) != len(self.observations):
            raise ValueError(
                f"rewards: wanted one for each of {len(self.observations)} observations, got "
                f"{len(self.rewards)}"
            )
        else:
            for i, reward in enumerate(self.rewards):
                check_shape(f"rewards[{i}]", reward, (None, None))
                check_finite(f"rewards[{i}]", reward)
        for i, size in enumerate(self.num_observations):
            check_shape(f"observations[{i}]", self.observations[i], (self.num_states,))
            _check_codes(f"observations[{i}]", self.observations[i], size)
        actions = np.shape(states)[1:-1]
        if actions not in (self.num_actions, (prod(self.num_actions),)):
            raise ValueError(
                f"transition[0]: wanted {list(self.policy_shape)} and an axis of outcomes, one row "
                f"for each joint action, got shape {list(np.shape(states))}"
            )
        _check_codes("transition[0]", states, self.num_states + (self.start is not None))
        check_stochastic("transition[1]", chances)
        if self.start is not None:
            check_shape("start", self.start, (self.num_states,))
            check_stochastic("start", self.start)
        check_discount(self.discount)

    def check_policy(self, policy: ArrayLike) -> None:
        """Raise a ValueError unless it is a joint table `[S, A_0..]` of probabilities."""
        check_table(policy, (self.num_states,), self.num_actions)

    def parts(self, policy: ArrayLike) -> tuple[OutcomeKernel, TablePolicy, MapLayout]:
        """Joint pairs (s, a_0, ..); agent i sees (o_i, a_i)."""
        states, chances = self.transition
        width = np.shape(states)[-1]
        kernel = OutcomeKernel(
            jnp.asarray(states).reshape(-1, width),
            as_float(chances).reshape(-1, width),
            self.num_states,
            None if self.start is None else as_float(self.start),
        )
        table = as_float(policy).reshape(self.num_states, -1)
        views = tuple(self._view(i) for i in range(len(self.observations)))
        return kernel, TablePolicy(table), MapLayout(self.policy_shape, views)

    def _view(self, agent: int) -> MapView:
        own = self.num_actions[agent]
        seen = np.asarray(self.observations[agent]) * own  # [S]
        acted = np.indices(self.num_actions)[agent].reshape(-1)  # [A]
        return map_view((seen[:, None] + acted).reshape(-1), self.num_observations[agent] * own)

    def local_shapes(self) -> tuple[tuple[int, int], ...]:
        """(O_i, A_i) of each agent."""
        return tuple(zip(self.num_observations, self.num_actions, strict=True))

    def join(self, tables: Sequence[Array]) -> Array:
        """π(a|s) = Π π_i(a_i|o_i(s)), `[S, A_0..]`, from tables `[O_i, A_i]`."""
        codes = [np.asarray(o, np.int32) for o in self.observations]
        return _joined(tuple(tables), tuple(codes), self.policy_shape)


@jit
def _dense(kernel: OutcomeKernel) -> Array:
    """The kernel as a matrix, `[J, S]`."""
    rows, size = jnp.arange(len(kernel.states))[:, None], kernel.num_states
    empty = jnp.zeros((len(rows), size + (kernel.start is not None)), kernel.chances.dtype)
    full = empty.at[rows, kernel.states].add(kernel.chances)
    return full if kernel.start is None else full[:, :-1] + full[:, -1:] * kernel.start[None]


@partial(jit, static_argnames="shape")
def _joined(tables: tuple[Array, ...], codes: tuple[Array, ...], shape: tuple[int, ...]) -> Array:
    """The product of the rows that agents see, in the shape of a policy."""
    rows = [table[code] for table, code in zip(tables, codes, strict=True)]
    joint = reduce(lambda f, g: (f[:, :, None] * g[:, None]).reshape(len(f), -1), rows)
    return joint.reshape(shape)


def _check_codes(name: str, codes: ArrayLike | tuple[int, ...], size: int) -> None:
    """Raise at the first entry that is no integer in 0..size - 1."""
    if not concrete(codes):
        return
    values = np.asarray(codes)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name}: wanted integers, got {values.dtype}")
    wrong = np.argwhere((values < 0) | (values >= size))
    if len(wrong):
        place = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{name}[{place}] is {values[tuple(wrong[0])]}, outside 0..{size - 1}")
