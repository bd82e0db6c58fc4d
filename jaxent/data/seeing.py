"""What is kept of what agents see: a code, a row of numbers to be numbered, or features."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .acting import num_required

Array = jax.Array


class Kept(NamedTuple):
    """What is kept of an epoch, of those who are recorded.

    Attributes:
        seen: what the state is told by, `[N, w]`.
        features: in numbers, `[N, d]`; None where these are not kept.
        signal: `[]`.
    """

    seen: Any
    features: Any
    signal: Any


class Eye(NamedTuple):
    """How things are kept; it works with NumPy as with JAX.

    Attributes:
        agents: names of those who are recorded.
        encode: from an observation, or an agent's name and it, to the integer that is its state.
        features: whether to keep numbers; or a function from an observation, or a name and it.
        signal: from the state of the environment to an integer.
    """

    agents: tuple[Hashable, ...]
    encode: Callable[..., Any] | None
    features: bool | Callable[..., Any]
    signal: Callable[..., Any] | None

    @property
    def numbers(self) -> bool:
        """Whether features are kept."""
        return self.features is not False

    def keep(self, observations: Sequence[Any], state: Any) -> Kept:
        """Of one observation for each agent, inside a program."""
        each = zip(self.agents, observations, strict=True)
        seen, features = zip(*(self.one(a, x) for a, x in each), strict=True)
        rows = _padded(features) if self.numbers else None
        return Kept(_padded(seen), rows, self.told(state))

    def one(self, agent: Hashable, observation: Any, xp: Any = jnp) -> tuple[Any, Any]:
        """Rows `[w_i]` and `[d_i]` of one agent; `xp` is `jax.numpy` or `numpy`."""
        features = None
        if self.numbers:
            wanted = self.features
            features = _row(
                _call(wanted, agent, observation) if callable(wanted) else observation, xp
            )
            if not xp.issubdtype(features.dtype, np.floating):
                features = features.astype(float)
        if self.encode is not None:
            seen = _integer("encode", _call(self.encode, agent, observation), xp)[None]
        else:
            seen = xp.zeros(1, np.int32) if self.numbers else _row(observation, xp)
        return seen, features

    def told(self, state: Any, xp: Any = jnp) -> Any:
        """The signal, 0 where there is none."""
        if self.signal is None:
            return xp.zeros((), np.int32)
        return _integer("signal", self.signal(state), xp)


def _call(function: Callable[..., Any], agent: Hashable, observation: Any) -> Any:
    if num_required(function) == 2:
        return function(agent, observation)
    return function(observation)


def _integer(name: str, value: Any, xp: Any) -> Any:
    code = xp.asarray(value)
    if code.shape != () or not xp.issubdtype(code.dtype, np.integer):
        where = {"encode": "for an observation", "signal": "for a state"}[name]
        raise ValueError(
            f"{name}: wanted one integer {where}, got shape {list(code.shape)} of {code.dtype}"
        )
    return code


def _row(observation: Any, xp: Any) -> Any:
    """All numbers of an observation, one after another."""
    leaves = [xp.ravel(xp.asarray(x)) for x in jax.tree.leaves(observation)]
    return xp.concatenate(leaves) if leaves else xp.zeros(0, np.int32)


def _padded(rows: Sequence[Any]) -> Any:
    """Rows of one width, 0 beyond what an agent sees."""
    width = max(len(row) for row in rows)
    return jnp.stack([jnp.pad(row, (0, width - len(row))) for row in rows])
