r"""Agents that share a signal z which none of them moves (App. J.1).

The signal is one more factor of the joint pair, a state without an action that moves on its own;
every agent sees (x_i, z).
"""

from math import prod
from typing import NamedTuple, NoReturn

import jax
import numpy as np

from .._checks import check_discount, check_shape, check_stochastic
from .._reads import reads
from ..numerics.arrays import as_float, takes_arrays
from ..numerics.kron import pair_order
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import FactorLayout, FactorView
from .parts import DenseKernel, FactoredKernel, TablePolicy, by_pair
from .policies import check_each, check_table
from .product_tables import check_kernel, check_rewards

Array = jax.Array


@takes_arrays("signal", each=("transition", "rewards"))
@reads("agents that share a signal, discount {0.discount}")
class ExogenousMDP(NamedTuple):
    r"""Agents that share a signal z, which moves on its own (App. J.1).

    Attributes:
        transition: $P_i(s_i' \mid s_i, a_i, z)$ of each agent, a tuple of `[S_i, A_i, Z, S_i]`; or
            any joint kernel $P(s' \mid s, a, z)$, one array `[S_0.., A_0.., Z, S_0..]`.
        rewards: $r_i(s_i, a_i, z)$ of each agent, `[S_i, A_i, Z]` each.
        signal: $P(z' \mid z)$, `[Z, Z]`.
        discount: $\gamma$ in [0, 1).
    """

    transition: tuple[Array, ...] | Array
    rewards: tuple[Array, ...]
    signal: Array
    discount: Scalar

    num_states = product_tables.num_states
    num_actions = product_tables.num_actions

    @property
    def num_signals(self) -> int:
        """Z."""
        return self.signal.shape[-1]

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """`(S_0, .., Z, A_0, ..)`."""
        return (*self.num_states, self.num_signals, *self.num_actions)

    feasible = product_tables.feasible
    join = product_tables.join

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        check_shape("signal", self.signal, (None, None))
        num_signals = np.shape(self.signal)[0]
        check_shape("signal", self.signal, (num_signals, num_signals))
        check_stochastic("signal", self.signal)
        check_rewards(self.rewards, (num_signals,))
        states, actions = self.num_states, self.num_actions
        if isinstance(self.transition, tuple):
            check_each("transition", self.transition, len(states))
            for i, (table, s, a) in enumerate(zip(self.transition, states, actions, strict=True)):
                check_shape(f"transition[{i}]", table, (s, a, num_signals, s))
                check_stochastic(f"transition[{i}]", table)
        else:
            check_kernel(self.transition, states, actions, (num_signals,))
        check_discount(self.discount)

    def check_policy(self, policy: ArrayLike) -> None:
        """Raise a ValueError unless it is a table `[S_0.., Z, A_0..]` of probabilities."""
        check_table(policy, (*self.num_states, self.num_signals), self.num_actions)

    def parts(
        self, policy: ArrayLike
    ) -> tuple[FactoredKernel | DenseKernel, TablePolicy, FactorLayout]:
        """Factors x_0, .., x_{N-1}, z; agent i sees (x_i, z)."""
        n, num_signals = len(self.rewards), self.num_signals
        local = tuple(s * a for s, a in zip(self.num_states, self.num_actions, strict=True))
        signal = as_float(self.signal)
        if isinstance(self.transition, tuple):
            tables = [as_float(P).reshape(-1, num_signals, P.shape[-1]) for P in self.transition]
            scopes = (*((i, n) for i in range(n)), (n,))
            kernel = FactoredKernel((*tables, signal), scopes, (*local, num_signals))
        else:
            rows = by_pair(as_float(self.transition), n).reshape(prod(local), num_signals, -1, 1)
            moved = rows * signal[None, :, None]  # [J, Z, S, Z]
            kernel = DenseKernel(moved.reshape(prod(local) * num_signals, -1))
        layout = FactorLayout((*local, num_signals), tuple((i, n) for i in range(n)))
        return kernel, TablePolicy(pair_order(as_float(policy)[..., None])), layout

    def local_shapes(self) -> NoReturn:
        """Tables `[S_i, A_i]` do not read the signal."""
        raise ValueError("mdp: has a signal that independent tables do not read; see joint_softmax")

    def policy_view(self, agent: int) -> FactorView:
        """An agent's own state and the signal (Prop. 3)."""
        if not isinstance(self.transition, tuple):
            raise ValueError("mdp: Prop. 3 wants a kernel for each agent, and this one is joint")
        return FactorView((agent, len(self.rewards)), (*self.num_states, self.num_signals))
