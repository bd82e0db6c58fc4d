"""What a log shows of an agent and of the others: counts of these, as features."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .trajectory import Trajectory, check_trajectory

Array = jax.Array


def state_counts(trajectory: Trajectory) -> np.ndarray:
    """How many of the other agents are in each state, `[T, N, S]`."""
    check_trajectory(trajectory)
    return _others(trajectory, np.asarray(trajectory.states), trajectory.num_states)


def pair_counts(trajectory: Trajectory) -> np.ndarray:
    """How many of the other agents are in each state and take each action, `[T, N, S A]`."""
    check_trajectory(trajectory)
    own = np.asarray(trajectory.states) * trajectory.num_actions + np.asarray(trajectory.actions)
    return _others(trajectory, own, trajectory.num_states * trajectory.num_actions)


def _others(trajectory: Trajectory, codes: np.ndarray, size: int) -> np.ndarray:
    present = np.asarray(trajectory.present)
    own = (codes[..., None] == np.arange(size)) & present[..., None]
    return _all(codes, present, size)[:, None] - own


def _all(codes: np.ndarray, present: np.ndarray, size: int) -> np.ndarray:
    """How many agents are at each code, `[T, size]`."""
    cell = np.arange(len(codes))[:, None] * size + codes
    number = np.bincount(cell[present], minlength=len(codes) * size)
    return number.reshape(-1, size).astype(np.int32)


Rows = Callable[[np.ndarray], tuple[Array, Array, Array, Array]]


def agent_rows(trajectory: Trajectory, features: Array | np.ndarray | None) -> tuple[Rows, int]:
    """What makes pairs, those in the next epoch, features `[K, T - 1, d]` and follows of K agents.

    And d. Where no features are given they are state counts, without the last state where all
    agents are present: it is the rest.
    """
    dtype = jnp.result_type(float)
    pairs, follows = np.asarray(trajectory.pairs), np.asarray(trajectory.follows)
    states, present = np.asarray(trajectory.states)[:-1], np.asarray(trajectory.present)[:-1]
    if features is not None:
        given = np.asarray(features)[:-1]
        number, made = given.shape[-1], lambda agents: given[:, agents]
    else:
        known = np.asarray(trajectory.present).all() and trajectory.num_states > 1
        number = trajectory.num_states - 1 if known else trajectory.num_states
        total = _all(states, present, trajectory.num_states)[:, :number]

        def made(agents: np.ndarray) -> np.ndarray:
            own = states[:, agents, None] == np.arange(number)
            return total[:, None] - (own & present[:, agents, None])

    def rows(agents: np.ndarray) -> tuple[Array, Array, Array, Array]:
        return (
            jnp.asarray(pairs[:-1].T[agents]),
            jnp.asarray(pairs[1:].T[agents]),
            jnp.asarray(np.moveaxis(made(agents), 1, 0), dtype),
            jnp.asarray(follows.T[agents], dtype),
        )

    return rows, number
