r"""What a model is to the rest: the contracts that a type checker reads.

A model is one file of this folder. Whatever it is inside, the rest asks of it only this:

- is it well formed (`check`), and is this a policy of it (`check_policy`)?
- the three `parts` of the chain that it makes with a policy, P = K Π: a `Kernel` K from functions
  of the next state to functions of the joint pair, a `PolicyPart` Π from functions of the pair to
  functions of the state, and a `Layout`, which says what each agent sees of a pair.

A function of the joint state is `[S]`, of the joint pair `[J]`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np

from ..numerics.arrays import ArrayLike as ArrayLike
from ..numerics.arrays import Scalar as Scalar

Array = jax.Array
Agents: TypeAlias = int | Sequence[int]


@runtime_checkable
class Kernel(Protocol):
    """K: the law of the next joint state from each joint pair."""

    def mv(self, v: Array, /) -> Array:
        """K v, `[S]` to `[J]`."""
        ...

    def vm(self, mu: Array, /) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        ...

    def matrix(self) -> Array:
        """K itself, `[J, S]`, for small chains."""
        ...

    def stochastic(self) -> Array:
        """Whether every row is a probability vector, as a flag that may be traced."""
        ...


@runtime_checkable
class PolicyPart(Protocol):
    """Π: the law of the joint pair in each joint state."""

    @property
    def num_states(self) -> int:
        """Number of joint states."""
        ...

    def mv(self, f: Array, /) -> Array:
        """The mean over actions in each state, `[J]` to `[S]` or `[J, k]` to `[S, k]`."""
        ...

    def vm(self, mu: Array, /) -> Array:
        """The law of the pair where the state has law mu, `[S]` to `[J]`."""
        ...

    def stochastic(self) -> Array:
        """Whether the actions in every state have probabilities."""
        ...


@runtime_checkable
class View(Protocol):
    """What one learner sees of a joint pair: a map from J pairs to X local ones."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the factors of a local pair; their product is X."""
        ...

    @property
    def size(self) -> int:
        """X."""
        ...

    def lift(self, function: Array, /) -> Array:
        """A function of the local pair as one of the joint pair, `[X, ..]` to `[J, ..]`."""
        ...

    def project(self, measure: Array, /) -> Array:
        """A measure of joint pairs as one of local pairs, `[J, ..]` to `[X, ..]`."""
        ...

    def rows(self, array: Array, /) -> Array:
        """What belongs to each local pair, `[J, ..]` to `[X, C, ..]`."""
        ...

    def mass(self, measure: Array, /) -> Array:
        """The measure of what `rows` holds, `[J]` to `[X, C]`; 0 or false in empty places."""
        ...


@runtime_checkable
class Layout(Protocol):
    """The joint pairs, and what each agent sees of them."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the factors of a joint pair; their product is J."""
        ...

    @property
    def views(self) -> tuple[Any, ...]:
        """One for each agent: the factors that it sees, or a map."""
        ...

    def lift(self, functions: Sequence[Array], /) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`, of one `[X_i]` a view."""
        ...

    def project(self, measure: Array, agent: Agents, /) -> Array:
        """A measure of joint pairs as one of the pairs that an agent sees, `[J]` to `[X_i]`."""
        ...


@runtime_checkable
class Model(Protocol):
    """Agents, their transitions and their rewards."""

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        ...

    def check_policy(self, policy: Any, /) -> None:
        """Raise a ValueError unless this is a policy of it."""
        ...

    def parts(self, policy: Any, /) -> tuple[Kernel, PolicyPart, Layout]:
        """What `pair_chain` is made of; the arguments have been checked."""
        ...


@runtime_checkable
class TableModel(Model, Protocol):
    """A model whose policies are tables `[states.., A_0..]` that a gradient may move."""

    @property
    def num_actions(self) -> Any:
        """A_i of each agent."""
        ...

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """Shape of a joint policy table."""
        ...

    def feasible(self) -> Array:
        """Which joint actions may be taken in each state, bool, broadcastable to the table."""
        ...

    def local_shapes(self) -> tuple[tuple[int, int], ...]:
        """What each agent reads and does when it decides on its own, `(seen, A_i)`.

        Raises a ValueError if agents of this model cannot.
        """
        ...

    def join(self, tables: Sequence[Array], /) -> Array:
        """The joint table of agents that decide on their own, from one of `local_shapes` each."""
        ...

    def policy_view(self, agent: int, /) -> View:
        """What the policy of one agent may read of the joint state (Props. 1 and 3).

        Raises a ValueError if the agents of this model have no kernels of their own.
        """
        ...


@runtime_checkable
class Ranking(Protocol):
    """What ranks states: a `FluidPriority`, a `WhittleIndex`."""

    @property
    def priority(self) -> np.ndarray:
        """States in the order served, the first first, `[S]`."""
        ...


def known_priority(policy: Any) -> Any:
    """The priority of what ranks states; anything else as it is."""
    # Asked of the type: an instance may have a reason to refuse, which is then an error here.
    return policy.priority if hasattr(type(policy), "priority") else policy


def check_mdp(mdp: Model) -> None:
    """Raise a ValueError that names the argument and the place if the model is not one.

    Shapes are always checked, values wherever they are known (outside a trace).
    """
    if not isinstance(mdp, Model):
        raise ValueError(
            f"mdp: {type(mdp).__name__} is not one of the models (MDP, WeaklyCoupledMDP, ..); a "
            "RestlessBandit has check_bandit, and exchangeable_chain(bandit, priority) for its "
            "chain, which is for a WeaklyCoupledPopulation as well"
        )
    mdp.check()


def check_policy(mdp: Model, policy: object) -> None:
    """Raise a ValueError unless `policy` is one of the model that respects its couplings.

    Most models take a joint table `[S_0.., A_0..]`. The shape is always checked, values wherever
    they are known (outside a trace).
    """
    if not isinstance(mdp, Model):
        check_mdp(mdp)
    mdp.check_policy(policy)
