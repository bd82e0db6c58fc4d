"""The bracket of an error of a single-precision chain, from double precision on the host.

What float32 rounds away is multiplied by 1 / (1 - discount). Where no argument is traced and the
chain is not too large, the float32 numbers are taken as they are, each row of the kernel and of the
policy divided by its sum, and the equation is solved for them in float64. What is left is what
rounding them to float32 may have done. A row whose probabilities are off by shares of at most d,
and whose sum stays 1, makes an expectation P v off by at most d sd(v), with the standard deviation
that v has in the next step. That is in the bracket, and so is rounding its ends outward to float32.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete
from ..chains.pair_chain import PairChain
from ..chains.stationary import solve_law
from ..models.contracts import Kernel, PolicyPart
from ..numerics.compiled import jit
from ..numerics.double import SINGLE_EPS, cast, down, is_single, up
from .error_bracket import ErrorBracket

Array = jax.Array

# Chains with so many pairs take a fraction of a second in float64 on a CPU.
_MOST_PAIRS = 2**18


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Divided:
    """A kernel or a policy whose rows are divided by what they sum to."""

    part: Any
    total: Array

    @property
    def num_states(self) -> int:
        """Number of joint states, of a policy."""
        return self.part.num_states

    def mv(self, v: Array) -> Array:
        """The expectation in each row."""
        ahead = self.part.mv(v)
        return ahead / self.total.reshape(-1, *(1,) * (ahead.ndim - 1))

    def vm(self, mu: Array) -> Array:
        """The law after a step from this one."""
        return self.part.vm(mu / self.total)

    def matrix(self) -> Array:
        """The rows, of a kernel."""
        return self.part.matrix() / self.total[:, None]

    def stochastic(self) -> Array:
        """Whether the rows are laws, which in float32 they were before they were divided."""
        return (self.total > 0).all()


def can_be_known(chain: PairChain, *others: Any) -> bool:
    """Whether the chain is float32, small, a chain, and here, and all arguments have values."""
    known = chain.cut is None and concrete(chain, others) and is_single((chain, others))
    if not known or chain.num_pairs > _MOST_PAIRS:
        return False
    arrays = [x for x in jax.tree.leaves((chain, others)) if isinstance(x, jax.Array)]
    return all(x.is_fully_addressable for x in arrays) and bool(chain.stochastic())


def lost_by(chain: PairChain) -> float:
    """What rounding the chain's probabilities may have done to P v, as a share of sd(v).

    Half an epsilon for each of the factors that a joint probability has, one an agent and one of
    the policy, were v to depend on that factor alone. The factors are independent, so the variances
    of what v owes to each add up to no more than its own, and the shares like roots.
    """
    return SINGLE_EPS / 2 * sqrt(1 + sum(chain.num_alike))


def doubled(chain: PairChain) -> PairChain:
    """The chain in float64, its rows divided by their sums."""
    return _divided(cast(np.float64, chain))


@jit
def _divided(chain: PairChain) -> PairChain:
    kernel, policy = chain.kernel, chain.policy
    states = jnp.ones(chain.num_states, chain.dtype)
    rows: Kernel = Divided(kernel, kernel.mv(states))
    chosen: PolicyPart = Divided(policy, policy.mv(jnp.ones(chain.num_pairs, chain.dtype)))
    return PairChain(rows, chosen, chain.layout)


def own_law(chain: PairChain, mu: Array) -> Array:
    """The stationary law of a doubled chain, `[J]`; what was given where it cannot be found."""
    found = solve_law(chain)
    return found.value if bool(found.converged) else cast(np.float64, mu)


def rounded_outward(found: ErrorBracket) -> ErrorBracket:
    """The bracket in float32, no narrower."""
    narrow = cast(np.float32, found)
    return narrow._replace(
        lower=jnp.asarray(down(found.lower)),
        upper=jnp.asarray(up(found.upper)),
        sup_lower=jnp.asarray(down(found.sup_lower)),
        sup_upper=jnp.asarray(up(found.sup_upper)),
        where=jnp.asarray(np.asarray(found.where), np.int32),
        num_matvecs=jnp.asarray(np.asarray(found.num_matvecs), np.int32),
        converged=jnp.asarray(np.asarray(found.converged)),
    )
