r"""The reward for which the sum of local values is furthest off, and how far that can be.

Any function v of a view's pair is its local value under the reward r = (I - discount P_i) v. With
that reward alone the sum of local values is v, and the error is the value of the residual

    b = discount D v,  D v = P lift(v) - lift(P_i v),  Q - lift(v) = (I - discount P)^-1 b.

P grows no function in the sup-norm over visited pairs, nor in the mu-norm, so that
|b| <= (1 + discount) |Q - lift(v)| and (1 - discount) |Q - lift(v)| <= |b| in both. The largest
|D v| over v with max - min = 1 is the distance d of the chain from P_i, ATV or mu-ATV. So

    discount / (1 + discount) d <= the error of the worst reward <= discount / (1 - discount) d

and d is between E_i and 2 E_i. The error is linear in v, so the worst v is found: in the sup-norm
by the signs of one row of G = discount (I - discount P)^-1 D, in the mu-norm as `mu_inf_norm` does.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_discount
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import known_law
from ..chains.views import local_transitions
from ..measures.distances import SignNorm, mu_inf_norm
from ..models.contracts import ArrayLike, Scalar
from ..numerics.arrays import dot
from ..numerics.compiled import jit
from .bellman import solve_direct, solve_iterative

Array = jax.Array


@reads("an error of {0.error:.4g} at least, of [{0.lower:.4g}, {0.upper:.4g}] by the distance")
class WorstReward(NamedTuple):
    r"""A reward of one view, and the error that the sum of local values has under it.

    Attributes:
        reward: $r_i = (I - \gamma P_i)\, v$, `[X_i]`.
        local_value: $v$, its local value, max - min 1, `[X_i]`; all 0 where nothing is missed.
        error: of $v$ as the joint value of that reward, in the norm asked for.
        largest: at least the error under any reward of this view whose local value has max - min 1;
            `error` itself in the sup-norm, and in the mu-norm up to 16 pairs.
        lower: $\gamma d / (1 + \gamma)$: `error` is no less.
        upper: $\gamma d / (1 - \gamma)$: `largest` is no more, but for its own slack.
        distance: $d$, of the chain from $P_i$: between the view's entanglement and twice that.
        converged: whether the joint values met their tolerance; NaN stands where not.
    """

    reward: Array
    local_value: Array
    error: Array
    largest: Array
    lower: Array
    upper: Array
    distance: Array
    converged: Array


def worst_reward_sup(
    chain: PairChain, *, discount: Scalar, agent: int = 0, mu: ArrayLike | None = None
) -> WorstReward:
    r"""The reward of one view under which the largest error over visited pairs is largest.

    $\frac{\gamma}{1 + \gamma} E_i \le$ error $\le \frac{2 \gamma}{1 - \gamma} E_i$ with E_i of
    Eq. (5). Nothing is searched for: the error is linear in the local value.

    Args:
        chain: any unichain; as many joint values are solved for as the view has pairs.
        discount: in [0, 1).
        agent: which view; one that stands for several agents pays all of them. Static.
        mu: the stationary law, `[J]`, where it is known already.

    Raises:
        ValueError: for a view there is not, a discount outside [0, 1), or a chain without a unique
            stationary law.

    Examples:
        Agent B's next pair is agent A's current one:

        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> worst = jaxent.worst_reward_sup(chain, discount=0.9, agent=1)
        >>> print(f"{worst.lower:.3f} {worst.error:.3f} {worst.upper:.3f}")
        0.237 0.450 4.500

    References:
        Beyond Chen and Peng, Theorem 4: `docs/theory/worst-reward.md`.
    """
    return _worst(chain, discount, agent, mu, _sup)


def worst_reward_mu(
    chain: PairChain, *, discount: Scalar, agent: int = 0, mu: ArrayLike | None = None
) -> WorstReward:
    r"""The reward of one view under which the mean error is largest.

    As `worst_reward_sup`, with E_i of Def. 8. Up to 16 local pairs all sign vectors are tried;
    beyond that it is the best of a search, and `largest` is from above.

    References:
        Beyond Chen and Peng, Theorems 5 and 6: `docs/theory/worst-reward.md`.
    """
    return _worst(chain, discount, agent, mu, mu_inf_norm)


def _sup(matrix: Array, mu: Array) -> SignNorm:
    """sup of max |M x| over visited rows and |x_k| <= 1."""
    size = jnp.where(mu > 0, jnp.abs(matrix).sum(1), 0)
    row = size.argmax()
    return SignNorm(
        size[row], size[row], jnp.where(matrix[row] > 0, 1.0, -1.0).astype(matrix.dtype)
    )


def _worst(
    chain: PairChain,
    discount: Scalar,
    agent: int,
    mu: ArrayLike | None,
    norm: Callable[[Array, Array], SignNorm],
) -> WorstReward:
    check_chain(chain)
    check_discount(discount)
    if int(agent) != agent or not 0 <= agent < len(chain.views):
        raise ValueError(f"agent: {agent} is none of the {len(chain.views)} views")
    law = known_law(chain, mu)
    local = local_transitions(chain, law)[agent]
    residual = _residuals(chain, local, law, int(agent))
    if chain.is_small:  # eliminated once for all
        solved = jax.vmap(lambda b: solve_direct(chain, b, discount=discount))(residual.T)
    else:
        solved = lax.map(lambda b: solve_iterative(chain, b, discount=discount), residual.T)
    rate = jnp.asarray(discount, chain.dtype)
    return _answer(local, residual, rate * solved.value.T, law, rate, solved.converged.all(), norm)


@jit(static_argnums=3)
def _residuals(chain: PairChain, local: Array, mu: Array, agent: int) -> Array:
    """D, `[J, X_i]`; 0 where not visited."""
    zeros = [jnp.zeros(size, chain.dtype) for size in chain.view_sizes]

    def lift(f: Array) -> Array:
        return chain.lift([*zeros[:agent], f, *zeros[agent + 1 :]])

    def column(f: Array, ahead: Array) -> Array:
        return jnp.where(mu > 0, chain.mv(lift(f)) - lift(ahead), 0)

    units = jnp.eye(len(local), dtype=chain.dtype)
    return lax.map(lambda both: column(*both), (units, local.T)).T


@jit(static_argnums=6)
def _answer(
    local: Array,
    residual: Array,
    errors: Array,
    mu: Array,
    rate: Array,
    converged: Array,
    norm: Callable[[Array, Array], SignNorm],
) -> WorstReward:
    apart, found = norm(residual, mu), norm(errors, mu)
    # A search over many signs may miss what those of the residual already reach.
    tried = jnp.stack([found.signs, apart.signs])
    sizes = jnp.stack([norm(dot(errors, x)[:, None], mu).lower for x in tried]) / 2
    # A constant misses nothing: where the signs are all one, rounding was all there was.
    sizes = jnp.where(jnp.abs(tried.sum(1)) < tried.shape[1], sizes, 0)
    best = sizes.argmax()
    value = jnp.where(sizes[best] > 0, (1 + tried[best]) / 2, 0)
    valid = jnp.where(converged, 1, jnp.nan)
    return WorstReward(
        reward=value - rate * dot(local, value),
        local_value=value,
        error=sizes[best] * valid,
        largest=jnp.maximum(found.upper / 2, sizes[best]) * valid,
        lower=rate / (1 + rate) * apart.lower / 2,
        upper=rate / (1 - rate) * apart.upper / 2,
        distance=apart.upper / 2,
        converged=converged,
    )
