r"""What agents were seen to do: joint states, actions and rewards, epoch after epoch.

Row t holds (s_t, a_t, r_t) of all agents, and the signal z_t where there is one. Episodes lie one
after another on the same axis; `follows` says where a row is the next epoch of the row before it.
What agent i sees is its local pair, x = (s A + a) Z + z, and everything learned or estimated from
data starts from these codes, so an exogenous signal is never a case of its own.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_finite, check_shape, concrete
from .._reads import reads

Array = jax.Array


@reads("what the numbers of agents, states and actions stand for")
class Labels(NamedTuple):
    """What the codes 0, 1, ... stand for.

    Attributes:
        agents: of the N columns.
        states: S of them.
        actions: A of them.
        signals: Z of them; one where there is no signal.
    """

    agents: tuple[Hashable, ...]
    states: tuple[Hashable, ...]
    actions: tuple[Hashable, ...]
    signals: tuple[Hashable, ...] = (0,)

    @classmethod
    def numbers(cls, *, agents: int, states: int, actions: int, signals: int = 1) -> "Labels":
        """Codes that stand for themselves."""
        sizes = (agents, states, actions, signals)
        return cls(*(tuple(range(n)) for n in sizes))


@reads("{0.states.shape[0]} epochs of {0.states.shape[1]} agents")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """A run, or several, of N agents.

    Attributes:
        states: `[T, N]` int32.
        actions: `[T, N]` int32.
        rewards: of every agent `[T, N]`, or one that they share `[T]`.
        signal: z, `[T]` int32; 0 where there is none.
        episode: number of the episode, `[T]` int32, not decreasing.
        time: within the episode, as the log has it, `[T]`; int32, or int64 where it needs that.
            JAX keeps the latter only with `jax_enable_x64`, NumPy always.
        present: whether there is a row for the agent, `[T, N]`; codes are 0 where there is none.
        labels: what the codes stand for. Static.
        step: of time from one epoch to the next. Static.
        unit: "ns" where time is nanoseconds since 1970 (timestamps), else "". Static.
        observations: what each agent sees, in numbers, `[T, N, d]`; 0 beyond what it has. None
            where the states say it.
        action_laws: probability of each action where it was chosen, `[T, N, A]`; None where it was
            not recorded.
        last_seen: whether the row only tells what the agent saw, and would have done, as the clock
            ended its game, `[T, N]`: nothing is paid there. None where there are no such rows.
    """

    states: Array | np.ndarray
    actions: Array | np.ndarray
    rewards: Array | np.ndarray
    signal: Array | np.ndarray
    episode: Array | np.ndarray
    time: Array | np.ndarray
    present: Array | np.ndarray
    labels: Labels = field(metadata={"static": True})
    step: int = field(default=1, metadata={"static": True})
    unit: str = field(default="", metadata={"static": True})
    observations: Array | np.ndarray | None = None
    action_laws: Array | np.ndarray | None = None
    last_seen: Array | np.ndarray | None = None

    @classmethod
    def from_arrays(
        cls,
        states: ArrayLike | None,
        actions: ArrayLike,
        rewards: ArrayLike,
        *,
        signal: ArrayLike | None = None,
        episode: ArrayLike | None = None,
        labels: Labels | None = None,
        observations: ArrayLike | None = None,
    ) -> "Trajectory":
        """A trajectory of NumPy arrays of labels of any kind.

        Args:
            states: `[T, N]`, or `[E, T, N]` for E episodes of T epochs. None where observations say
                it all: every agent is then in state 0.
            actions: the same shape.
            rewards: the same shape, or without its last axis for a reward that is shared.
            signal: `[T]` or `[E, T]`.
            episode: `[T]`, whichever numbers not decreasing; all one by default.
            labels: what codes stand for; those that occur, sorted, if not given.
            observations: what each agent sees in numbers, `[T, N, d]` or `[E, T, N, d]`; 0 beyond
                what it has.

        Raises:
            ValueError: for shapes that differ, a label that is not one, or a reward or an
                observation that is not finite, naming the place.
        """
        actions = _labels_of("actions", actions)
        if states is None and observations is None:
            raise ValueError("states: leave them out only where observations= stand for them")
        states = np.zeros_like(actions, int) if states is None else _labels_of("states", states)
        rewards = np.asarray(rewards)
        if states.ndim not in (2, 3) or 0 in states.shape:
            raise ValueError(f"states: wanted shape [T, N] or [E, T, N], got {list(states.shape)}")
        check_shape("actions", actions, states.shape)
        epochs, num_agents = states.shape[:-1], states.shape[-1]
        shared = rewards.ndim == len(epochs)
        check_shape("rewards", rewards, epochs if shared else states.shape)
        check_finite("rewards", rewards)
        signal = np.zeros(epochs, int) if signal is None else _labels_of("signal", signal)
        check_shape("signal", signal, epochs)
        if observations is not None:
            observations = _observations(observations, states.shape)
        if states.ndim == 3:
            if episode is not None:
                raise ValueError("episode: leave it out where states has an axis of episodes")
            episode = np.repeat(np.arange(epochs[0]), epochs[1])
        episode = np.zeros(epochs, int) if episode is None else np.asarray(episode)
        states, actions = states.reshape(-1, num_agents), actions.reshape(-1, num_agents)
        rewards = rewards.reshape(-1) if shared else rewards.reshape(-1, num_agents)
        signal = signal.reshape(-1)
        check_shape("episode", episode, (len(states),))
        number, time = _times(episode)
        if labels is None:
            kinds = [tuple(np.unique(x).tolist()) for x in (states, actions, signal)]
            labels = Labels(tuple(range(num_agents)), *kinds)
        elif len(labels.agents) != num_agents:
            raise ValueError(
                f"labels.agents: wanted one for each of {num_agents} columns of states, "
                f"got {len(labels.agents)}"
            )
        return cls(
            states=encode("states", states, labels.states),
            actions=encode("actions", actions, labels.actions),
            rewards=rewards.astype(np.result_type(rewards, np.float32)),
            signal=encode("signal", signal, labels.signals),
            episode=number,
            time=time,
            present=np.ones(states.shape, bool),
            labels=labels,
            observations=observations,
        )

    @property
    def num_epochs(self) -> int:
        """T, over all episodes."""
        return self.states.shape[0]

    @property
    def num_agents(self) -> int:
        """N."""
        return self.states.shape[1]

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.labels.states)

    @property
    def num_actions(self) -> int:
        """A."""
        return len(self.labels.actions)

    @property
    def num_signals(self) -> int:
        """Z, 1 where there is no signal."""
        return len(self.labels.signals)

    @property
    def num_pairs(self) -> int:
        """X = S A Z, the local pairs of an agent, with the signal where there is one."""
        return self.num_states * self.num_actions * self.num_signals

    @property
    def shares_reward(self) -> bool:
        """Whether there is one reward for all."""
        return self.rewards.ndim == 1

    @property
    def pairs(self) -> Array | np.ndarray:
        """Local pair of every agent, (s A + a) Z + z, `[T, N]`."""
        own = self.states * self.num_actions + self.actions
        return own * self.num_signals + self.signal[:, None]

    @property
    def follows(self) -> Array | np.ndarray:
        """Whether row t + 1 is the epoch after row t and has the agent in both, `[T - 1, N]`."""
        ahead = self.time[:-1] + self.step
        next_one = (self.episode[1:] == self.episode[:-1]) & (self.time[1:] == ahead)
        return next_one[:, None] & self.present[1:] & self.present[:-1]

    @property
    def paid(self) -> Array | np.ndarray:
        """Whether the row has a reward of the agent, `[T, N]`: it is there, its game goes on."""
        return self.present if self.last_seen is None else self.present & ~self.last_seen

    def pair_label(self, pair: int) -> tuple[Hashable, ...]:
        """Labels (state, action) of a local pair, with the signal where there is one."""
        own, signal = divmod(pair, self.num_signals)
        state, action = divmod(own, self.num_actions)
        label = (self.labels.states[state], self.labels.actions[action])
        return label + ((self.labels.signals[signal],) if self.num_signals > 1 else ())


def _labels_of(name: str, values: ArrayLike) -> np.ndarray:
    """An array of labels; lists of text and numbers would all become text, so they are refused."""
    try:
        made = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: rows have different lengths; wanted [T, N]") from None
    if made.dtype.kind in "OSU" and not isinstance(values, (np.ndarray, jax.Array)):
        made = np.asarray(values, object)
    if made.dtype.kind == "O":
        kinds = sorted({type(v).__name__ for v in made.ravel()})
        if len(kinds) > 1:
            raise ValueError(f"{name}: labels are of several types ({', '.join(kinds)}); make one")
        made = np.asarray(made.tolist())
    return made


def _observations(values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """As floats `[T, N, d]`, in the precision that they have."""
    made = np.asarray(values)
    check_shape("observations", made, (*shape, None))
    if made.dtype.kind not in "biuf" or not made.shape[-1]:
        raise ValueError(f"observations: wanted numbers, got {made.dtype} {list(made.shape)}")
    check_finite("observations", made)
    return made.reshape(-1, *made.shape[-2:]).astype(np.result_type(made, np.float32))


def _times(episode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Episodes numbered from 0, and the epoch within its episode of every row."""
    if (np.diff(episode) < 0).any():
        row = int(np.argmax(np.diff(episode) < 0)) + 1
        raise ValueError(f"episode[{row}] is lower than the one before; sort rows by episode")
    first = np.concatenate([[True], episode[1:] != episode[:-1]])
    row = np.arange(len(episode))
    started = np.maximum.accumulate(np.where(first, row, 0))
    return np.cumsum(first, dtype=np.int32) - 1, (row - started).astype(np.int32)


def encode(name: str, values: np.ndarray, labels: Sequence[Hashable]) -> np.ndarray:
    """Codes of labels, int32 in the shape of `values`.

    Raises:
        ValueError: at the first value that is not a label, naming its place.
    """
    table = np.asarray(labels)
    order = np.argsort(table)
    place = np.searchsorted(table, values, sorter=order)
    codes = order[np.minimum(place, len(table) - 1)]
    unknown = np.argwhere(table[codes] != values)
    if len(unknown):
        at = tuple(unknown[0])
        raise ValueError(
            f"{name}[{', '.join(map(str, at))}] is {values[at]!s}, which is none of the "
            f"{len(table)} labels"
        )
    return codes.astype(np.int32)


def check_trajectory(trajectory: object, name: str = "trajectory") -> None:
    """Raise a ValueError that names what makes a trajectory of what was given, unless it is one."""
    if isinstance(trajectory, Trajectory):
        return
    if hasattr(trajectory, "trajectory"):
        door = "its .trajectory is one"
    elif isinstance(trajectory, (str, PathLike)) or hasattr(trajectory, "columns"):
        door = "read_log(..).trajectory is one"
    else:
        door = (
            "Trajectory.from_arrays makes one of arrays, agent_trajectory one of a run of "
            "simulate_agents"
        )
    raise ValueError(f"{name}: {type(trajectory).__name__} is not a Trajectory; {door}")


def agent_types(trajectory: Trajectory, types: ArrayLike | None) -> tuple[Array, int]:
    """Type of every agent, each its own if not given, and how many types there are."""
    check_trajectory(trajectory)
    if types is None:
        return jnp.arange(trajectory.num_agents), trajectory.num_agents
    if not concrete(types):
        raise ValueError("types: fix a shape, so they must be known numbers, not traced")
    types = np.asarray(types)
    check_shape("types", types, (trajectory.num_agents,))
    present = np.unique(types)
    if not np.array_equal(present, np.arange(len(present))):
        raise ValueError(f"types: {present.tolist()} are not 0, 1, ..., with an agent each")
    return jnp.asarray(types), len(present)
