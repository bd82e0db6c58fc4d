r"""Agents that read their neighbors only (App. J.2).

Agent i's next state depends on the pairs of the agents in Z_i, and on nothing else given them. A
policy is a joint table, or `LocalPolicies`, which say whose states each agent reads.
"""

import warnings
from dataclasses import dataclass, field

import jax

from .._checks import check_discount, check_shape, check_stochastic, renamed
from .._reads import reads
from ..numerics.arrays import as_float, takes_arrays
from ..numerics.kron import pair_order
from . import product_tables
from .contracts import ArrayLike, Scalar
from .layouts import FactorLayout, product_layout
from .parts import FactoredKernel, FactoredPolicy, TablePolicy, by_pair
from .policies import LocalPolicies, check_each, check_scopes, check_table
from .product_tables import check_rewards

Array = jax.Array


@takes_arrays(each=("transitions", "rewards"))
@reads("agents that read their neighbors, discount {0.discount}")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FactoredMDP:
    r"""Agents that read their neighbors only (Def. 15), $P(s'|s, a) = \prod_i P_i(s_i'|x_{Z_i})$.

    Attributes:
        transitions: $P_i(s_i' \mid s_{Z_i}, a_{Z_i})$ of each agent, `[S_j.., A_j.., S_i]` with j
            over `neighbors[i]` in the order given there.
        neighbors: $Z_i$ of each agent, itself among them if it reads its own pair. Static.
        rewards: $r_i(s_i, a_i)$ of each agent, `[S_i, A_i]` each.
        discount: $\gamma$ in [0, 1).
    """

    transitions: tuple[Array, ...]
    neighbors: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    rewards: tuple[Array, ...]
    discount: Scalar

    num_states = product_tables.num_states
    num_actions = product_tables.num_actions

    @property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The old name of `neighbors`."""
        message = "FactoredMDP.neighbours is now FactoredMDP.neighbors; the old way goes with 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.neighbors

    policy_shape = product_tables.policy_shape
    feasible = product_tables.feasible
    local_shapes = product_tables.local_shapes
    join = product_tables.join
    policy_view = product_tables.no_policy_view

    def check(self) -> None:
        """Raise a ValueError that names the argument and the place if it is no such model."""
        check_rewards(self.rewards, ())
        states, actions = self.num_states, self.num_actions
        check_each("transitions", self.transitions, len(states))
        check_scopes("neighbors", self.neighbors, len(states))
        for i, (table, seen) in enumerate(zip(self.transitions, self.neighbors, strict=True)):
            wanted = (*(states[j] for j in seen), *(actions[j] for j in seen), states[i])
            check_shape(f"transitions[{i}]", table, wanted)
            check_stochastic(f"transitions[{i}]", table)
        check_discount(self.discount)

    def check_policy(self, policy: ArrayLike | LocalPolicies) -> None:
        """Raise a ValueError unless it is a table `[S_0.., A_0..]`, or `LocalPolicies`."""
        if not isinstance(policy, LocalPolicies):
            check_table(policy, self.num_states, self.num_actions)
            return
        states, actions = self.num_states, self.num_actions
        check_scopes("policy.scopes", policy.scopes, len(states))
        if len(policy.tables) != len(states):
            raise ValueError(
                f"policy.tables: wanted one for each of {len(states)} agents, "
                f"got {len(policy.tables)}"
            )
        for i, (table, scope) in enumerate(zip(policy.tables, policy.scopes, strict=True)):
            check_shape(f"policy.tables[{i}]", table, (*(states[j] for j in scope), actions[i]))
            check_stochastic(f"policy.tables[{i}]", table)

    def parts(
        self, policy: ArrayLike | LocalPolicies
    ) -> tuple[FactoredKernel, FactoredPolicy | TablePolicy, FactorLayout]:
        """K and, where agents decide by themselves, Π are products of tables that read a few."""
        sizes = tuple(s * a for s, a in zip(self.num_states, self.num_actions, strict=True))
        tables = []
        for table, seen in zip(self.transitions, self.neighbors, strict=True):
            rows = by_pair(as_float(table), len(seen))
            tables.append(rows.reshape(*(sizes[j] for j in seen), rows.shape[-1]))
        kernel = FactoredKernel(tuple(tables), self.neighbors, sizes)
        if isinstance(policy, LocalPolicies):
            local = tuple(as_float(table) for table in policy.tables)
            part = FactoredPolicy(local, policy.scopes, self.num_states)
        else:
            part = TablePolicy(pair_order(as_float(policy)))
        return kernel, part, product_layout(sizes)


# The name of the field before 0.2.
FactoredMDP.__init__ = renamed(neighbours="neighbors")(FactoredMDP.__init__)
