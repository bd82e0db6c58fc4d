r"""One agent of a factored MDP from its neighbor set alone (App. J.2).

However many agents there are, what moves one agent's pair is the pairs of a few. This file cuts
those few out as a chain of their own, for which everything that looks at one agent's rows works.
"""

import jax.numpy as jnp

from ..models.contracts import check_mdp, check_policy
from ..models.factored import FactoredMDP
from ..models.policies import LocalPolicies
from ..numerics.arrays import as_float
from .pair_chain import PairChain, pair_chain
from .views import with_views


def neighborhood(mdp: FactoredMDP, policy: LocalPolicies, *, agent: int) -> PairChain:
    r"""A small chain with the same rows P(x_i'|x) for one agent of a factored MDP, its only view.

    Agent i's next pair is P(s_i'|x_{Z_i}) π_i(a_i'|s_{W_i}'), so it depends on the pairs of
    R = ∪ Z_j over j = i and j in W_i, and on nothing else: for a policy that reads s_i alone, on
    those of its neighbors (App. J.2). The chain has the factors R. Agents of R outside W_i and i
    move with their pairs uniform; no row of agent i asks how they move.

    `entanglement_atv(neighborhood(...), agent=0)` is that of agent i in the whole chain wherever
    that visits every pair of R, and never less: a whole chain that leaves some out takes its
    maximum over fewer. Its stationary law is not that of the whole chain.

    Args:
        mdp: the factored MDP, however many agents it has.
        policy: what each agent reads and does.
        agent: i. Static.

    References:
        Chen and Peng, Multi-agent Markov Entanglement, App. J.2 (as corrected in docs/errata.md).
    """
    check_mdp(mdp)
    if not isinstance(policy, LocalPolicies):
        raise ValueError(
            "policy: wanted LocalPolicies; a joint table does not say whose states an agent reads"
        )
    check_policy(mdp, policy)
    if not 0 <= agent < len(mdp.rewards):
        raise ValueError(f"agent: {agent} is not one of the agents 0..{len(mdp.rewards) - 1}")
    acting = sorted({agent, *policy.scopes[agent]})
    inside = sorted(set(acting).union(*(mdp.neighbors[j] for j in acting)))
    place = {j: k for k, j in enumerate(inside)}

    def uniform(size):
        return jnp.full(size, 1 / size, as_float(policy.tables[agent]).dtype)

    transitions, neighbors, tables, scopes = [], [], [], []
    for j in inside:
        moves, decides = j in acting, j == agent
        states, actions = mdp.num_states[j], mdp.num_actions[j]
        transitions.append(mdp.transitions[j] if moves else uniform(states))
        neighbors.append(tuple(place[k] for k in mdp.neighbors[j]) if moves else ())
        tables.append(policy.tables[j] if decides else uniform(actions))
        scopes.append(tuple(place[k] for k in policy.scopes[j]) if decides else ())
    small = FactoredMDP(
        tuple(transitions), tuple(neighbors), tuple(mdp.rewards[j] for j in inside), mdp.discount
    )
    chain = pair_chain(small, LocalPolicies(tuple(tables), tuple(scopes)))
    return with_views(chain, [place[agent]])
