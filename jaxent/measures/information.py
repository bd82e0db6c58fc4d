r"""Transfer entropy: how much the others say about an agent's next pair, in nats.

With p(. | x) the law of agent i's next pair given the joint pair x, and P_i its transition of
Eq. (2), the mean of these laws given x_i,

    I_i = I(X_i'; X | X_i) = Σ_x mu(x) KL( p(. | x) || P_i(. | x_i) ).

It is 0 exactly where the entanglement of Eq. (7) is, and bounds it: with d_i the mean total
variation of the same laws, Def. 8 <= Eq. (7) <= d_i <= 2 Eq. (7), and

    2 d_i^2 <= I_i,    d_i^2 <= 1 - exp(-I_i),    I_i <= h(d_i) + d_i log(X_i - 1),

h the entropy of a coin (Pinsker; Bretagnolle and Huber; Fano). `docs/theory` has the proofs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape, check_stochastic, concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.views import next_view
from ..models.contracts import Agents, ArrayLike, TableModel, View
from ..numerics.arrays import nan_unless, ratio, takes_arrays
from ..numerics.compiled import jit
from ..numerics.simplex import relative_entropy, total_variation
from .row_measures import policy_rows

Array = jax.Array


@reads("{0.value:.4g} nats: laws are apart by {0.distance:.4g} in the mean")
class Information(NamedTuple):
    """What is said about an agent's next step beyond what it sees itself.

    Attributes:
        value: I, the mean relative entropy of the laws to their mean, in nats.
        largest: the largest relative entropy, over what is visited.
        distance: d, the mean total variation of the same laws to their mean.
        mean_bound: min(sqrt(I / 2), sqrt(1 - exp(-I))), at least d.
        sup_bound: the same of `largest`, at least the largest total variation.
    """

    value: Array
    largest: Array
    distance: Array
    mean_bound: Array
    sup_bound: Array


def transfer_entropy(
    chain: PairChain, mu: ArrayLike, *, agent: Agents, source: Agents | None = None
) -> Information:
    r"""Conditional mutual information I(X_i'; X | X_i), exact: one step ahead, one step remembered.

    With `source` only the pairs of these agents are known beside one's own, I(X_i'; X_k | X_i). It
    is at most what all know, and may be 0 while that is not: what two others say together, neither
    need say alone.

    Matrix-free; it holds the laws of the next view, `[J, X_i]`. It has a derivative in the chain
    and in mu, along directions that keep probabilities of 0 where they are.

    Args:
        chain: any chain with views.
        mu: law of the joint pair, `[J]`.
        agent: whose view, or a block of agents as one view. Static.
        source: an agent, or a block of them; by default the whole joint pair is known, also what
            nobody sees. Static.

    Returns:
        `Information`. With the whole joint pair known, `mean_bound` is an upper bound of Def. 8 and
        of Eq. (7) for the agent, and `sup_bound` of Eq. (5).

    Raises:
        ValueError: if there is no such view, mu is not a law, or the chain is not stochastic.

    Examples:
        Agent 1 repeats what agent 0 was at, so that it is told a bit, log 2:

        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> mu = jaxent.stationary_distribution(chain)
        >>> for agent in range(2):
        ...     found = jaxent.transfer_entropy(chain, mu, agent=agent)
        ...     print(f"{found.value:.3f} nats, Eq. (7) <= {found.mean_bound:.3f}")
        0.000 nats, Eq. (7) <= 0.000
        0.693 nats, Eq. (7) <= 0.589

    References:
        Schreiber, Measuring information transfer, Phys. Rev. Lett. 85 (2000).
    """
    check_chain(chain)
    if concrete(chain) and not bool(chain.stochastic()):
        raise ValueError("chain: a row of its kernel or of its policy is no probability vector")
    check_shape("mu", mu, (chain.num_pairs,))
    check_stochastic("mu", mu)
    own = chain.view(agent)
    more = None if source is None else chain.view(_together(agent, source))
    return _information(next_view(chain, own), jnp.asarray(mu).astype(chain.dtype), own, more)


@takes_arrays("policy", "mu")
def policy_information(mdp: TableModel, policy: ArrayLike, mu: Array, *, agent: int) -> Information:
    r"""I(A_i; S | S_i): how much the joint state says about an agent's action beyond its own state.

    Agents with kernels of their own are coupled by the policy alone, and their transfer entropy is
    at most this, as Prop. 1 bounds their entanglement by that of the policy: `mean_bound` bounds
    Def. 8, Eq. (7) and Prop. 1 if mu is stationary. With a signal all of it is given (s_i, z).

    Args:
        mdp: agents with kernels of their own, with or without a signal.
        policy: joint table `[S_0.., A_0..]` or `[S_0.., Z, A_0..]`.
        mu: law of the joint pair, `[J]`.
        agent: which agent. Static.

    Raises:
        ValueError: if there is no such agent, agents have no kernels of their own, or mu is not a
            law on joint pairs.

    Examples:
        One of two agents is active, whatever their states: nobody is told anything.

        >>> import jaxent
        >>> mdp, policy = jaxent.example_1()
        >>> mu = jaxent.stationary_distribution(jaxent.pair_chain(mdp, policy))
        >>> print(f"{jaxent.policy_information(mdp, policy, mu, agent=0).value:.3f}")
        0.000
    """
    own, law, view = policy_rows(mdp, policy, mu, agent)
    return _information(own, law, view, None)


def _together(agent: Agents, source: Agents) -> tuple[int, ...]:
    """Agents whose pairs are known: the agent's own and those of the source, each once."""
    named = [(k,) if isinstance(k, (int, np.integer)) else tuple(k) for k in (agent, source)]
    return tuple(dict.fromkeys(int(k) for block in named for k in block))


@jit
def _information(rows: Array, mu: Array, own: View, more: View | None) -> Information:
    """Of laws `[J, m]` averaged over what `more` hides, against their mean given the own pair."""
    mean = own.lift(_mean_law(rows, mu, own))
    told = rows if more is None else more.lift(_mean_law(rows, mu, more))
    there = mu > 0
    apart = jnp.where(there, relative_entropy(told, mean), 0)
    valid = ~jnp.isnan(mu).any()
    value, largest = nan_unless(valid, mu @ apart), nan_unless(valid, apart.max())
    distance = nan_unless(valid, mu @ jnp.where(there, total_variation(told, mean), 0))
    return Information(value, largest, distance, _tv_bound(value), _tv_bound(largest))


def _mean_law(rows: Array, mu: Array, view: View) -> Array:
    """The mean of laws `[J, m]` given what a view sees, `[X, m]`."""
    # Of a local pair that is hardly ever visited, mu times the rows would underflow.
    given = ratio(mu, view.lift(view.project(mu)), jnp.zeros_like(mu))
    return view.project(given[:, None] * rows)


def _tv_bound(information: Array) -> Array:
    """The largest total variation that a relative entropy allows, by the better of two bounds."""
    some = information > jnp.finfo(information.dtype).tiny
    nats = jnp.where(some, information, 1)  # with a derivative of 0 where nothing is said
    bound = jnp.minimum(jnp.sqrt(nats / 2), jnp.sqrt(-jnp.expm1(-nats)))
    return jnp.where(some, bound, 0 * information)
