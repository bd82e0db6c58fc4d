r"""The chain of joint pairs, as a linear operator.

A model and a policy give the chain P^π = K Π on joint state-action pairs. The kernel K takes a
function of the next state to its expectation at each pair, `[S] -> [J]`; the policy Π averages a
function of the pair over the actions taken in each state, `[J] -> [S]`. A `PairChain` holds these
two and a layout, each a small pytree that knows one thing (`models.contracts` says what is asked of
each). The model makes them: whatever asks a chain for `mv`, `vm`, `sizes`, `views` and `lift` works
with every model.

Values and laws are found on the S states (V = Π(r + discount K V), then Q = r + discount K V),
fewer than the J pairs by the number of joint actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape, check_stochastic, concrete
from .._reads import reads
from ..models.contracts import (
    Agents,
    ArrayLike,
    Kernel,
    Layout,
    Model,
    PolicyPart,
    View,
    check_mdp,
)
from ..models.layouts import product_layout, view_of
from ..models.parts import DenseKernel, NoChoice
from ..models.policies import LocalPolicies
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import as_float, takes_arrays
from ..numerics.compiled import jit
from . import pieces
from .pieces import Cut, Joint, cut_of

Array = jax.Array

# Up to this many joint states are eliminated outright. Beyond, applying the chain is many times
# quicker (benchmarks/README.md), where it gets there.
_FEW_STATES = 256
# Elimination forms the matrix of joint states: there is that way out up to 1024 of them, as long as
# the kernel that this is made from has no more than 2^23 entries (64 MB in float64).
_SMALL_STATES = 1024
_SMALL_KERNEL = 2**23


@reads("{0.num_pairs} joint pairs, views of {0.view_sizes} local ones")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairChain:
    """A chain on joint pairs, P = K Π, with the views of its agents.

    Attributes:
        kernel: K, from functions of the next state to functions of the pair.
        policy: Π, from functions of the pair to functions of the state.
        layout: the factors of a joint pair, what each agent sees of it, and the lift.
        cut: how the pairs are cut into pieces that are worked on one after another or on several
            devices (`shard`); None where they are worked on all at once. Static.
    """

    kernel: Kernel
    policy: PolicyPart
    layout: Layout
    cut: Cut | None = field(default=None, metadata={"static": True})

    @classmethod
    def from_matrix(cls, P: ArrayLike, *, sizes: Sequence[int]) -> "PairChain":
        """A chain given as a row-stochastic matrix `[J, J]`, with one view a factor in `sizes`.

        Raises:
            ValueError: if P is not square, not of size Π sizes, or (outside a trace) a row of it is
                no probability vector.
        """
        sizes = tuple(int(n) for n in sizes)
        check_shape("P", P, (prod(sizes), prod(sizes)))
        check_stochastic("P", P)
        return cls(DenseKernel(as_float(P)), NoChoice(prod(sizes)), product_layout(sizes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the factors of a joint pair."""
        return self.layout.sizes

    @property
    def views(self) -> tuple[Any, ...]:
        """The factors that each agent sees, or a map for each agent."""
        return self.layout.views

    @property
    def view_sizes(self) -> tuple[int, ...]:
        """X_i, number of local pairs of each view."""
        return tuple(self.view(i).size for i in range(len(self.views)))

    @property
    def num_alike(self) -> tuple[int, ...]:
        """How many agents each view stands for: one, unless its layout counts agents alike."""
        return getattr(self.layout, "num_alike", (1,) * len(self.views))

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
        return (
            self.cut is None
            and states <= _SMALL_STATES
            and states * self.num_pairs <= _SMALL_KERNEL
        )

    @property
    def is_tiny(self) -> bool:
        """Whether elimination is as quick as applying the chain, to compile and to run."""
        return self.is_small and self.num_states <= _FEW_STATES

    @property
    def dtype(self) -> Any:
        """The dtype of its arrays."""
        return jnp.result_type(*jax.tree.leaves((self.kernel, self.policy)))

    def view(self, agent: Agents) -> View:
        """What one agent, or a block of agents together, sees of a joint pair."""
        return view_of(self.layout, agent)

    def mv(self, v: Array) -> Array:
        """P v, the expected value of a function of the next pair: `[J]` to `[J]`."""
        return self.kernel_mv(self.policy_mv(Joint(None, v)))

    def vm(self, mu: Array) -> Array:
        """The law of the next pair, mu P: `[J]` to `[J]`."""
        return self.policy_vm(self.kernel_vm(mu))

    def states_mv(self, v: Array) -> Array:
        """Π K v, the expected value of a function of the next joint state: `[S]` to `[S]`."""
        return pieces.states_mv(self, v) if self.cut else self.policy.mv(self.kernel.mv(v))

    def states_vm(self, law: Array) -> Array:
        """The law of the next joint state, ν Π K: `[S]` to `[S]`."""
        return pieces.states_vm(self, law) if self.cut else self.kernel.vm(self.policy.vm(law))

    def kernel_mv(self, v: Array) -> Array:
        """K v, `[S]` to `[J]`."""
        return pieces.kernel_mv(self, v) if self.cut else self.kernel.mv(v)

    def kernel_vm(self, mu: Array) -> Array:
        """mu K, `[J]` to `[S]`."""
        return pieces.kernel_vm(self, mu) if self.cut else self.kernel.vm(mu)

    def policy_mv(self, f: Joint) -> Array:
        """Π f, `[S]`, of a function of the joint pair."""
        return pieces.mean(self, f) if self.cut else self.policy.mv(self.whole(f))

    def policy_vm(self, law: Array) -> Array:
        """ν Π, `[S]` to `[J]`."""
        return pieces.policy_vm(self, law) if self.cut else self.policy.vm(law)

    def whole(self, f: Joint) -> Array:
        """A function of the joint pair as an array, `[J]`."""
        return f.whole if f.whole is not None else _lift(self, f.local)

    def matrix(self) -> Array:
        """P itself, `[J, J]`: for small chains."""
        return jax.vmap(self.policy.vm)(self.kernel.matrix())

    def state_matrix(self) -> Array:
        """Π K, the chain on joint states, `[S, S]`: for small chains."""
        return self.policy.mv(self.kernel.matrix())

    def lift(self, functions: Sequence[ArrayLike]) -> Array:
        """The joint function Σ_i f_i(view_i), `[J]`, of an `[X_i]` or `[S_i, A_i]` for each view.

        Raises:
            ValueError: if there is not one function of the right size for each view.
        """
        if len(functions) != len(self.views):
            raise ValueError(
                f"functions: wanted one for each of {len(self.views)} views, got {len(functions)}"
            )
        flat = []
        for i, (function, size) in enumerate(zip(functions, self.view_sizes, strict=True)):
            if jnp.size(function) != size:
                raise ValueError(
                    f"functions[{i}]: wanted {size} values, one for each pair that agent {i} sees, "
                    f"got shape {list(jnp.shape(function))}"
                )
            flat.append(jnp.ravel(as_float(function)))
        return _lift(self, flat)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector, as a flag that may be traced."""
        return _stochastic(self)


@jit
def _lift(chain: PairChain, functions: Sequence[Array]) -> Array:
    if chain.cut and pieces.can_lift(chain):
        return pieces.lift(chain, functions)
    return chain.layout.lift(functions)


def _dtypes(chain: PairChain) -> set[Any]:
    """Of the arrays of probabilities that it is made of."""
    leaves = jax.tree.leaves((chain.kernel, chain.policy))
    kinds = {jnp.result_type(x) for x in leaves}
    return {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)}


def _as_one(chain: PairChain) -> PairChain:
    """With arrays of one dtype, in which its laws and values are solved for."""
    wide = chain.dtype
    if _dtypes(chain) <= {wide}:
        return chain

    def cast(x):
        return x.astype(wide) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    kernel, policy = jax.tree.map(cast, (chain.kernel, chain.policy))
    return replace(chain, kernel=kernel, policy=policy)


@jit
def _stochastic(chain: PairChain) -> Array:
    chain = _as_one(chain)
    if chain.cut:
        return chain.kernel.stochastic() & pieces.policy_stochastic(chain)
    return chain.kernel.stochastic() & chain.policy.stochastic()


def check_chain(chain: object, name: str = "chain") -> None:
    """Raise a ValueError that names what makes a chain of what was given, unless it is one."""
    if isinstance(chain, PairChain):
        return
    if isinstance(chain, (RestlessBandit, WeaklyCoupledPopulation)):
        door = "exchangeable_chain(bandit, priority) makes one of it"
    elif isinstance(chain, (jax.Array, np.ndarray, list)):
        door = "PairChain.from_matrix(P, sizes=...) makes one of a matrix"
    else:
        door = "pair_chain(model, policy) makes one of a model and its policy"
    raise ValueError(f"{name}: {type(chain).__name__} is not a PairChain; {door}")


@takes_arrays("policy")
def pair_chain(mdp: Model, policy: ArrayLike | LocalPolicies) -> PairChain:
    r"""The chain on joint pairs that a policy makes of a model, P^π(x'|x) = P(s'|s, a) π(a'|s').

    | model | factors | views |
    |---|---|---|
    | `MDP`, `WeaklyCoupledMDP`, `JointMDP`, `FactoredMDP`, `CooperativeGame` | x_i | x_i |
    | `ExogenousMDP` | x_i, then z | (x_i, z) |
    | `StateMDP` | s, then a_i | maps to (o_i, a_i) |

    A joint matrix is formed for joint kernels only.

    Args:
        mdp: a model: it checks itself and the policy, and makes the parts of the chain.
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
    if isinstance(mdp, PairChain):
        raise ValueError("mdp: is a PairChain already, which has its policy in it")
    check_mdp(mdp)
    mdp.check_policy(policy)
    parts = mdp.parts(policy)
    chain = PairChain(*parts, cut=cut_of(*parts))
    kinds = sorted(map(str, _dtypes(chain)))
    if len(kinds) > 1 and concrete(chain) and not bool(chain.stochastic()):
        raise ValueError(
            f"policy: the arrays of it and of the model are {' and '.join(kinds)}, and rows that "
            f"sum to 1 in {kinds[0]} do not in {kinds[-1]}; give both one dtype, or switch "
            "jax_enable_x64 on before the first array"
        )
    return chain
