"""What models have in common whose agents have a state each: policy tables `[S_0.., A_0..]`.

A model takes these functions as its methods where they fit.
"""

from collections.abc import Sequence
from typing import NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_shape, check_stochastic
from ..numerics.arrays import as_float
from .contracts import ArrayLike
from .layouts import FactorLayout
from .parts import DenseKernel, TablePolicy, by_pair, product_parts
from .policies import check_table, product_policy

Array = jax.Array


class Sized(Protocol):
    """Agents with a state and an action each."""

    @property
    def num_states(self) -> tuple[int, ...]:
        """S_i of each agent."""
        ...

    @property
    def num_actions(self) -> tuple[int, ...]:
        """A_i of each agent."""
        ...


class HasRewards(Protocol):
    """Agents with a local reward each."""

    @property
    def rewards(self) -> tuple[Array, ...]:
        """`[S_i, A_i]` of each agent, and perhaps more axes."""
        ...


@property
def num_states(mdp: HasRewards) -> tuple[int, ...]:
    """S_i of each agent."""
    return tuple(np.shape(reward)[0] for reward in mdp.rewards)


@property
def num_actions(mdp: HasRewards) -> tuple[int, ...]:
    """A_i of each agent."""
    return tuple(np.shape(reward)[1] for reward in mdp.rewards)


@property
def policy_shape(mdp: Sized) -> tuple[int, ...]:
    """`(S_0, .., A_0, ..)`."""
    return (*mdp.num_states, *mdp.num_actions)


def check_policy(mdp: Sized, policy: ArrayLike) -> None:
    """Raise a ValueError unless it is a joint table `[S_0.., A_0..]` of probabilities."""
    check_table(policy, mdp.num_states, mdp.num_actions)


def feasible(mdp: object) -> Array:
    """Every joint action may be taken."""
    return jnp.array(True)


def local_shapes(mdp: Sized) -> tuple[tuple[int, int], ...]:
    """(S_i, A_i) of each agent."""
    return tuple(zip(mdp.num_states, mdp.num_actions, strict=True))


def join(mdp: Sized, tables: Sequence[Array]) -> Array:
    """π(a|s) = Π π_i(a_i|s_i)."""
    return product_policy(tables)


def no_policy_view(mdp: object, agent: int) -> NoReturn:
    """Props. 1 and 3 are about agents with kernels of their own."""
    raise ValueError(
        f"mdp: {type(mdp).__name__} has no kernel for each agent, which Props. 1 and 3 want"
    )


class HasKernel(Sized, Protocol):
    """Agents with one joint kernel."""

    @property
    def transition(self) -> Array:
        """P(s' | s, a), `[S_0.., A_0.., S_0..]`."""
        ...


def joint_parts(mdp: HasKernel, policy: ArrayLike) -> tuple[DenseKernel, TablePolicy, FactorLayout]:
    """K is the joint kernel by joint pair, `[J, S]`."""
    rows = as_float(mdp.transition).reshape(*mdp.num_states, *mdp.num_actions, -1)
    table = by_pair(rows, len(mdp.num_states)).reshape(-1, rows.shape[-1])
    return product_parts(DenseKernel(table), as_float(policy))


def check_kernel(kernel: Array, states: tuple, actions: tuple, between: tuple = ()) -> None:
    """Raise unless this is a joint kernel `[S_0.., A_0.., *between, S_0..]`."""
    check_shape("transition", kernel, (*states, *actions, *between, *states))
    check_stochastic("transition", jnp.reshape(kernel, (*states, *actions, *between, -1)))


def check_rewards(rewards: tuple[Array, ...], last: tuple[int, ...]) -> None:
    """Raise unless there is one table `[S_i, A_i, *last]` for each agent."""
    if not rewards:
        raise ValueError("rewards: is empty; a model has at least one agent")
    for i, reward in enumerate(rewards):
        check_shape(f"rewards[{i}]", reward, (None, None, *last))
        check_finite(f"rewards[{i}]", reward)
