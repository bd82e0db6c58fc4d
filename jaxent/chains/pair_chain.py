r"""The chain of joint pairs, as a linear operator.

A model and a policy give the chain P^π = K Π on joint state-action pairs. The kernel K takes a
function of the next state to its expectation at each pair, `[S] -> [J]`; the policy Π averages a
function of the pair over the actions taken in each state, `[J] -> [S]`. A `PairChain` holds three
parts, each a small pytree that knows one thing:

- `kernel`, with `mv` ([S] -> [J]), `vm` ([J] -> [S]), `matrix()` ([J, S]) and `stochastic()`;
- `policy`, with `mv` ([J] -> [S], or columns [J, k] -> [S, k]), `vm` ([S] -> [J]), `num_states`
  and `stochastic()`;
- `layout`, with `sizes` (the factors of the joint pair), `views` (the factors that each agent
  sees) and `lift` (the joint function Σ_i f_i(view_i)).

A new model is a new part and nothing else: whatever asks a chain for `mv`, `vm`, `sizes`, `views`
and `lift` works with it (`factored` holds parts whose tables read a few factors each). Values and
laws are found on the S states (V = Π(r + discount K V), then Q = r + discount K V), fewer than the
J pairs by the number of joint actions. An exogenous signal is a further factor that every view
shares, `views = ((0, 2), (1, 2))`; an exchangeable chain is a layout of its own whose `lift`
weights one function by counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_shape, check_stochastic, concrete, stochastic
from ..models.factored_parts import FactoredKernel, FactoredPolicy
from ..models.mdp import (
    CooperativeGame,
    ExogenousMDP,
    FactoredMDP,
    JointMDP,
    WeaklyCoupledMDP,
    check_mdp,
    feasible_actions,
)
from ..models.policies import LocalPolicies, check_policy
from ..numerics.arrays import as_float
from ..numerics.kron import kron, kron_mv, kron_vm, pair_order

Array = jax.Array
Views = tuple[tuple[int, ...], ...]

# A chain is solved by elimination up to so many joint states and entries of K.
_SMALL_STATES = 1024
_SMALL_KERNEL = 2**23


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseKernel:
    """Any kernel, as its matrix `[J, S]`."""

    table: Array

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        return jnp.matmul(self.table, v, precision=lax.Precision.HIGHEST)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        return jnp.matmul(mu, self.table, precision=lax.Precision.HIGHEST)

    def matrix(self) -> Array:
        """K itself."""
        return self.table

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        return stochastic(self.table)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KroneckerKernel:
    """Independent agents, K = ⊗ P_i with P_i `[X_i, S_i]`, applied factor by factor."""

    factors: tuple[Array, ...]

    def mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        return kron_mv(self.factors, v)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K, `[J]` to `[S]`."""
        return kron_vm(self.factors, mu)

    def matrix(self) -> Array:
        """K `[J, S]`, for small chains."""
        return kron(self.factors)

    def stochastic(self) -> Array:
        """Whether every row of every factor is a probability vector."""
        return jnp.stack([stochastic(factor) for factor in self.factors]).all()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TablePolicy:
    """A joint policy table, its axes in the order of pairs: `[S_0, A_0, S_1, A_1, ...]`."""

    table: Array

    @property
    def num_states(self) -> int:
        """Number of joint states."""
        return prod(self.table.shape[::2])

    def mv(self, f: Array) -> Array:
        """The mean over actions in each state, Π f, `[J]` to `[S]` or `[J, k]` to `[S, k]`."""
        states, actions = (tuple(range(k, self.table.ndim, 2)) for k in (0, 1))
        mean = lax.dot_general(
            self.table,
            f.reshape(*self.table.shape, *f.shape[1:]),
            ((actions, actions), (states, states)),
            precision=lax.Precision.HIGHEST,
        )
        return mean.reshape(-1, *f.shape[1:])

    def vm(self, mu: Array) -> Array:
        """The law of the pair where the state has law mu, `[S]` to `[J]`."""
        shape = [n if axis % 2 == 0 else 1 for axis, n in enumerate(self.table.shape)]
        return (self.table * mu.reshape(shape)).reshape(-1)

    def stochastic(self) -> Array:
        """Whether the actions in every state have probabilities."""
        actions = tuple(range(1, self.table.ndim, 2))
        rows = jnp.moveaxis(self.table, actions, range(-len(actions), 0))
        return stochastic(rows.reshape(self.num_states, -1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoChoice:
    """Π of a chain given as a matrix: the pair is the state."""

    num_states: int = field(metadata={"static": True})

    def mv(self, f: Array) -> Array:
        """The function itself."""
        return f

    def vm(self, mu: Array) -> Array:
        """The law itself."""
        return mu

    def stochastic(self) -> Array:
        """Always."""
        return jnp.array(True)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layout:
    """Factors of the joint pair, and which of them each agent sees."""

    sizes: tuple[int, ...] = field(metadata={"static": True})
    views: Views = field(metadata={"static": True})

    def lift(self, functions: Sequence[Array]) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`."""
        total = jnp.zeros((), jnp.result_type(*functions))
        for function, axes in zip(functions, self.views, strict=True):
            total = total + broadcast_view(function, axes, self.sizes)
        return total.reshape(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairChain:
    """A chain on joint pairs, P = K Π, with the views of its agents.

    Attributes:
        kernel: K, from functions of the next state to functions of the pair.
        policy: Π, from functions of the pair to functions of the state.
        layout: the factors of a joint pair, what each agent sees of it, and the lift.
    """

    kernel: Any
    policy: Any
    layout: Any

    @classmethod
    def from_matrix(cls, P: Array, *, sizes: Sequence[int]) -> "PairChain":
        """A chain given as a row-stochastic matrix `[J, J]`, with one view a factor in `sizes`.

        Raises:
            ValueError: if P is not square, not of size Π sizes, or (outside a trace) a row of it is
                no probability vector.
        """
        sizes = tuple(int(n) for n in sizes)
        check_shape("P", P, (prod(sizes), prod(sizes)))
        check_stochastic("P", P)
        views = tuple((i,) for i in range(len(sizes)))
        return cls(DenseKernel(as_float(P)), NoChoice(prod(sizes)), Layout(sizes, views))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the factors of a joint pair."""
        return self.layout.sizes

    @property
    def views(self) -> Views:
        """The factors that each agent sees."""
        return self.layout.views

    @property
    def num_pairs(self) -> int:
        """J."""
        return prod(self.sizes)

    @property
    def num_states(self) -> int:
        """Number of joint states, on which values and laws are solved."""
        return self.policy.num_states

    @property
    def is_small(self) -> bool:
        """Whether the matrix of joint states is worth forming: small, and K small too."""
        states = self.num_states
        return states <= _SMALL_STATES and states * self.num_pairs <= _SMALL_KERNEL

    @property
    def dtype(self) -> Any:
        """The dtype of its arrays."""
        return jnp.result_type(*jax.tree.leaves((self.kernel, self.policy)))

    def mv(self, v: Array) -> Array:
        """P v, the expected value of a function of the next pair: `[J]` to `[J]`."""
        return self.kernel.mv(self.policy.mv(v))

    def vm(self, mu: Array) -> Array:
        """The law of the next pair, mu P: `[J]` to `[J]`."""
        return self.policy.vm(self.kernel.vm(mu))

    def matrix(self) -> Array:
        """P itself, `[J, J]`: for small chains."""
        return jax.vmap(self.policy.vm)(self.kernel.matrix())

    def state_matrix(self) -> Array:
        """Π K, the chain on joint states, `[S, S]`: for small chains."""
        return self.policy.mv(self.kernel.matrix())

    def lift(self, functions: Sequence[Array]) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`, of an `[X_i]` or `[S_i, A_i]` for each view.

        Raises:
            ValueError: if there is not one function of the right size for each view.
        """
        if len(functions) != len(self.views):
            raise ValueError(
                f"functions: wanted one for each of {len(self.views)} views, got {len(functions)}"
            )
        flat = []
        for i, function in enumerate(functions):
            size = view_size(self, self.views[i])
            if jnp.size(function) != size:
                raise ValueError(
                    f"functions[{i}]: wanted {size} values, one for each pair that agent {i} sees, "
                    f"got shape {list(jnp.shape(function))}"
                )
            flat.append(jnp.ravel(as_float(function)))
        return self.layout.lift(flat)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector, as a flag that may be traced."""
        return self.kernel.stochastic() & self.policy.stochastic()


def pair_chain(mdp: Any, policy: Any) -> PairChain:
    r"""The chain on joint pairs that a policy makes of a model, P^π(x'|x) = P(s'|s, a) π(a'|s').

    | model | factors | views |
    |---|---|---|
    | `MDP`, `WeaklyCoupledMDP`, `JointMDP`, `FactoredMDP`, `CooperativeGame` | x_i | x_i |
    | `ExogenousMDP` | x_i, then z | (x_i, z) |

    A joint matrix is formed for joint kernels only.

    Args:
        mdp: one of these models.
        policy: joint table `[S_0.., A_0..]`, with z a last state in `[S_0.., Z, A_0..]`; `[S, A]`
            of one agent; or `LocalPolicies` of a factored MDP.

    Raises:
        ValueError: for wrong shapes and, outside a trace, for rows that are no probabilities and
            for mass on a joint action that a coupling constraint forbids. Inside a trace the
            chain's values are NaN.

    Examples:
        >>> import jaxent
        >>> mdp, policy = jaxent.example_1()
        >>> chain = jaxent.pair_chain(mdp, policy)
        >>> chain.sizes, chain.views
        ((4, 4), ((0,), (1,)))
    """
    check_mdp(mdp)
    check_policy(mdp, policy)
    if isinstance(mdp, FactoredMDP):
        return _factored_chain(mdp, policy)
    policy = as_float(policy)
    if isinstance(mdp, ExogenousMDP):
        return _exogenous_chain(mdp, policy)
    if isinstance(mdp, WeaklyCoupledMDP):
        if mdp.couplings and not concrete(mdp, policy):
            allowed = jnp.where(feasible_actions(mdp), True, policy == 0).all()
            policy = jnp.where(allowed, policy, jnp.nan)
        kernels = [as_float(agent.transition) for agent in mdp.agents]
        kernel = KroneckerKernel(tuple(P.reshape(-1, P.shape[-1]) for P in kernels))
    elif isinstance(mdp, (JointMDP, CooperativeGame)):
        rows = as_float(mdp.transition).reshape(*mdp.num_states, *mdp.num_actions, -1)
        kernel = DenseKernel(_by_pair(rows, len(mdp.num_states)).reshape(-1, rows.shape[-1]))
    else:
        P = as_float(mdp.transition)
        kernel = DenseKernel(P.reshape(-1, P.shape[-1]))
    table = pair_order(policy)
    sizes = tuple(s * a for s, a in zip(table.shape[::2], table.shape[1::2], strict=True))
    views = tuple((i,) for i in range(len(sizes)))
    return PairChain(kernel, TablePolicy(table), Layout(sizes, views))


def _exogenous_chain(mdp: ExogenousMDP, policy: Array) -> PairChain:
    """The signal is one more factor: a state without an action, that moves on its own."""
    n, num_signals = len(mdp.rewards), mdp.num_signals
    local = tuple(s * a for s, a in zip(mdp.num_states, mdp.num_actions, strict=True))
    signal = as_float(mdp.signal)
    if isinstance(mdp.transition, tuple):
        tables = [as_float(P).reshape(-1, num_signals, P.shape[-1]) for P in mdp.transition]
        scopes = (*((i, n) for i in range(n)), (n,))
        kernel = FactoredKernel((*tables, signal), scopes, (*local, num_signals))
    else:
        rows = _by_pair(as_float(mdp.transition), n).reshape(prod(local), num_signals, -1, 1)
        moved = rows * signal[None, :, None]  # [J, Z, S, Z]
        kernel = DenseKernel(moved.reshape(prod(local) * num_signals, -1))
    views = tuple((i, n) for i in range(n))
    return PairChain(
        kernel, TablePolicy(pair_order(policy[..., None])), Layout((*local, num_signals), views)
    )


def _factored_chain(mdp: FactoredMDP, policy: Any) -> PairChain:
    sizes = tuple(s * a for s, a in zip(mdp.num_states, mdp.num_actions, strict=True))
    tables = []
    for table, seen in zip(mdp.transitions, mdp.neighbors, strict=True):
        rows = _by_pair(as_float(table), len(seen))
        tables.append(rows.reshape(*(sizes[j] for j in seen), rows.shape[-1]))
    kernel = FactoredKernel(tuple(tables), mdp.neighbors, sizes)
    if isinstance(policy, LocalPolicies):
        local = tuple(as_float(table) for table in policy.tables)
        part = FactoredPolicy(local, policy.scopes, mdp.num_states)
    else:
        part = TablePolicy(pair_order(as_float(policy)))
    return PairChain(kernel, part, Layout(sizes, tuple((i,) for i in range(len(sizes)))))


def _by_pair(table: Array, num_agents: int) -> Array:
    """The leading axes `[S_0.., A_0.., ..]` in the order of pairs, `[S_0, A_0, S_1, .., ..]`."""
    order = [k for i in range(num_agents) for k in (i, num_agents + i)]
    return table.transpose(*order, *range(2 * num_agents, table.ndim))


def view_axes(chain: PairChain, agent: int | Sequence[int]) -> tuple[int, ...]:
    """The factors that one agent, or a block of agents together, sees."""
    agents = (agent,) if isinstance(agent, int) else tuple(agent)
    for i in agents:
        if not 0 <= i < len(chain.views):
            raise ValueError(f"agent: {i} is not one of the views 0..{len(chain.views) - 1}")
    if not agents or len(set(agents)) < len(agents):
        raise ValueError(f"agent: {agents} must name at least one agent, and none twice")
    return tuple(dict.fromkeys(axis for i in agents for axis in chain.views[i]))


def view_size(chain: PairChain, axes: Sequence[int]) -> int:
    """Number of local pairs in a view."""
    return prod(chain.sizes[axis] for axis in axes)


def broadcast_view(function: Array, axes: Sequence[int], sizes: Sequence[int]) -> Array:
    """A function of the factors `axes`, `[X]`, as one of all factors: `[X_0, 1, ..]`."""
    order = sorted(range(len(axes)), key=lambda k: axes[k])
    f = function.reshape([sizes[axis] for axis in axes]).transpose(order)
    f = f.reshape([n if axis in axes else 1 for axis, n in enumerate(sizes)])
    return jnp.broadcast_to(f, tuple(sizes))
