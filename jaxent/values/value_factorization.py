r"""Value decomposition as practiced: local functions fitted together on the global Bellman error.

Meta Algorithm 1 lets each agent solve its own equation (Eq. 2) and sums. Deep multi-agent learning
fits one joint function of the local ones on the error of the team,

| function | Q_tot(s, a) | after |
|---|---|---|
| `fit_additive` | Σ_i Q_i(x_i) | VDN (Sunehag et al. 2018) |
| `fit_monotone` | f_s(Q_1(x_1), .., Q_N(x_N)), f_s monotone | QMIX (Rashid et al. 2018) |

with x_i the local pair and f_s not decreasing in any Q_i. Both are here for the policy that the
chain follows, and in the limit of data: expectations under its stationary law mu are exact, nothing
is sampled. What is fitted is semi-gradient TD, the target r + discount P Q_tot held fixed:

    minimize E_mu (Q_tot - target)^2 over the class,    target <- r + discount P Q_tot.

On the additive functions, a linear space, the minimum is a projection Π in L2(mu), P is no
expansion there because mu P = mu, and so Π(r + discount P Q) contracts: there is one fixed point,
with (Tsitsiklis and Van Roy 1997)

    ||Q - Q_tot||_2,mu <= ||Q - Π Q||_2,mu / sqrt(1 - discount^2).

Under another law than that of the policy neither need hold. Monotone functions are no convex set:
there may be several fixed points or none, and what is returned says whether it is near one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_discount, check_positive_int, renamed
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import known_law
from ..chains.views import marginal
from ..models.contracts import ArrayLike, Scalar
from ..models.parts import TablePolicy
from ..numerics.compiled import jit
from ..numerics.krylov import gmres
from .bellman import Rewards, joint_reward, q_values, shared_reward
from .decomposition import Decomposition

Array = jax.Array

# Rounding errors to which the linear system of the additive fit is solved.
_ROUNDING = 256
# Starts of the monotone fit that are trained to the end, and the share of the targets after which
# the others are given up.
_KEPT, _TRIED = 8, 0.1
# Spread of the local values that a start draws. Rewards have spread 1 there.
_DRAWN = 2.0


@reads("off by {0.mu_error:.4g} in the mean and {0.sup_error:.4g} at most")
class ValueFit(NamedTuple):
    r"""A joint function made of local ones, and how far it is from the true values.

    Attributes:
        q_joint: $Q$, exact, `[J]`.
        q_total: $Q_{tot}$, the fit, `[J]`; what it says where not visited is arbitrary.
        q_local: $Q_i$ of each view, `[X_i]` each. In a monotone fit they only order.
        mu: the stationary law, `[J]`.
        visited: `mu > 0`, bool `[J]`.
        error: $Q - Q_{tot}$, `[J]`; 0 where not visited.
        residual: of the condition for a fixed point; what it measures is said by each function.
        num_steps: of the iteration.
        converged: whether the residual met `tol`.
    """

    q_joint: Array
    q_total: Array
    q_local: tuple[Array, ...]
    mu: Array
    visited: Array
    error: Array
    residual: Array
    num_steps: Array
    converged: Array

    sup_error = Decomposition.sup_error
    mu_error = Decomposition.mu_error
    relative_error = Decomposition.relative_error


def fit_additive(
    chain: PairChain, rewards: Rewards, *, discount: Scalar, mu: ArrayLike | None = None
) -> ValueFit:
    r"""The sum of local functions at which joint TD stops (VDN). Differentiable.

    With L the lift from local functions and D = diag(mu), it solves the projected Bellman equation

        L' D (I - discount P) L q = L' D r.

    Joint pairs never visited have no say. Where several q have the same sum on those that are (a
    constant may move from agent to agent, for one), q is the smallest in Σ_i E_mu Q_i(x_i)^2: a
    local pair never visited has 0, and disjoint views share the mean equally.

    At discount 0 it is the projection in L2(mu): `fit_additive(chain, q, discount=0)` for a joint
    function q is the best sum of local ones in hindsight.

    Args:
        chain: any unichain; only `mv` and `lift` are asked of it.
        rewards: a sequence of local rewards, `[X_i]` or `[S_i, A_i]` a view, or one joint reward,
            `[J]` or `[X_0, ..]`: only the joint one is learned from.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.

    Returns:
        `ValueFit`, whose residual is the largest entry of what the equation leaves, each row over
        the root of its local pair's occupancy. NaN where not converged.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do.

    References:
        Sunehag et al., Value-Decomposition Networks for Cooperative Multi-Agent Learning, 2018.
        Tsitsiklis and Van Roy, An analysis of temporal-difference learning, 1997.
    """
    reward = joint_reward(chain, rewards)
    q_joint = q_values(chain, reward, discount=discount)
    mu = known_law(chain, mu)
    return _additive(chain, reward, discount, mu, q_joint)


def split_reward(
    chain: PairChain, reward: ArrayLike, *, mu: ArrayLike | None = None
) -> tuple[Array, ...]:
    r"""A shared reward as local ones, by least squares: Meta Algorithm 2's split with no noise.

    The r_i that minimize E_mu (r(x) - Σ_i r_i(x_i))^2; a constant that may move from agent to agent
    is shared equally. Their sum has the mean of r, hence Σ_i Q_i that of Q, for every discount. The
    L1 split of `reward_entanglement` is a median where this is a mean: a reward that is mostly 0
    it splits into zeros. Differentiable.

    Args:
        chain: any unichain.
        reward: the shared reward, `[J]` or `[X_0, ..]` (`CooperativeGame.pair_reward`).
        mu: the stationary law, `[J]`, where it is known already.

    Returns:
        One `[X_i]` a view, 0 where never visited. `decompose(chain, split, discount=discount,
        shared=reward)` is the error that is left.

    Raises:
        ValueError: as `q_values` and `stationary_distribution` do, and for a sequence of rewards.

    Examples:
        "Both or none" pays 1 in half of the pairs, and which half no agent can tell:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
        >>> for r in jaxent.split_reward(chain, jnp.array([1.0, 0.0, 0.0, 1.0])):
        ...     print(r.round(3))
        [0.25 0.25]
        [0.25 0.25]

    References:
        Chen and Peng, Meta Algorithm 2, App. J.3.
    """
    return fit_additive(chain, shared_reward(chain, reward), discount=0.0, mu=mu).q_local


@jit
def _additive(chain: PairChain, reward: Array, discount: Scalar, mu: Array, q_joint: Array):
    shares = [marginal(chain, mu, agent=i) for i in range(len(chain.views))]
    occupancy = jnp.concatenate(shares)
    ends = [sum(len(x) for x in shares[:i]) for i in range(1, len(shares))]
    # Without this, rare local pairs would be solved worse than others.
    weight = jnp.where(occupancy > 0, lax.rsqrt(jnp.where(occupancy > 0, occupancy, 1)), 0)

    def lift(x):
        return chain.lift(jnp.split(weight * x, ends))

    transpose = jax.linear_transpose(lift, occupancy)

    def sums(f):
        return transpose(mu * f)[0]

    def solve(operator, b):
        # Singular but consistent, and its null space is that of its transpose: from 0, Krylov
        # spaces stay in the range, where the smallest solution is.
        found = gmres(operator, b, tol=_ROUNDING * float(jnp.finfo(b.dtype).eps))
        return found.value, found[1:]

    def operator(x):
        f = lift(x)
        return sums(f - discount * chain.mv(f))

    x, (residual, steps, converged) = lax.custom_linear_solve(
        operator, sums(reward), solve=solve, transpose_solve=solve, has_aux=True
    )
    x = x * jnp.where(converged, 1.0, jnp.nan).astype(x.dtype)
    q_local = tuple(jnp.split(weight * x, ends))
    return _fit(q_joint, chain.lift(q_local), q_local, mu, residual, steps, converged)


@renamed(tolerance="tol")
def fit_monotone(
    key: Array,
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
    num_starts: int = 64,
    hidden: int = 8,
    num_targets: int = 100,
    steps_per_target: int = 30,
    learning_rate: float = 0.1,
    tol: float = 1e-3,
) -> ValueFit:
    r"""A monotone mixture of local functions, fitted by TD with a target network (QMIX).

        Q_tot(s, a) = w_s' elu(W_s (Q_1(x_1), .., Q_N(x_N)) + b_s) + c_s,    W_s, w_s >= 0.

    The joint state is known to the mixture: its hypernetwork, linear in the indicator of s, is a
    table of W_s = |..|, w_s = |..|, b_s and c_s for each s. Adam takes `steps_per_target` steps on
    the exact E_mu (Q_tot - target)^2, then the target is renewed; the rate falls to 0 like a
    cosine.

    Training hardly ever changes the order of the local values once they have one, and a wrong order
    keeps a poor fit. So there are several starts. One has all local values 0, as networks nearly
    have; the first gradient orders them, badly where a good joint action is spoiled by the other
    agents' usual ones (the climbing game). The others draw them at random. All are trained for a
    tenth of the targets, the best 8 to the end, and of these the one with the least
    E_mu (Q_tot - r - discount P Q_tot)^2 is returned: its root over 1 - discount bounds the error
    in L2(mu).

    Args:
        key: of `jax.random.key`, for the starts; vmap it for several fits.
        chain: of a joint policy table.
        rewards: as for `fit_additive`.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.
        num_starts: how many there are; 1 is a single training from local values 0. Static.
        hidden: units of the mixture. Static.
        num_targets: how often the target is renewed. Static.
        steps_per_target: of Adam. Static.
        learning_rate: at the start. Static.
        tol: of `converged`. Static.

    Returns:
        `ValueFit`, whose residual is the norm of the gradient of E_mu (Q_tot - target)^2 / 2 at the
        last weights, the target renewed, with values in units of the spread of the reward. Small,
        it tells that TD stands still there, not that no better fit exists: more starts may find
        one. What is fitted is returned converged or not.

    Raises:
        ValueError: for a chain without a joint policy table, a number that is not positive, and as
            `q_values` and `stationary_distribution` do.

    References:
        Rashid et al., QMIX: Monotonic Value Function Factorisation, 2018.
    """
    check_chain(chain)
    if not isinstance(chain.policy, TablePolicy):
        raise ValueError(
            "chain: has no joint policy table, so joint states and actions cannot be told apart; "
            "make it with pair_chain(mdp, policy) and a policy [S_0.., A_0..]"
        )
    sizes = {
        "num_starts": num_starts,
        "hidden": hidden,
        "num_targets": num_targets,
        "steps_per_target": steps_per_target,
    }
    for name, value in sizes.items():
        check_positive_int(name, value)
    for name, value in (("learning_rate", learning_rate), ("tol", tol)):
        if not value > 0:
            raise ValueError(f"{name}: {value} is not positive")
    check_discount(discount)
    reward = joint_reward(chain, rewards)
    q_joint = q_values(chain, reward, discount=discount)
    mu = known_law(chain, mu)
    rates = {"learning_rate": float(learning_rate), "tol": float(tol)}
    return _monotone(key, chain, reward, discount, mu, q_joint, **sizes, **rates)


_STATIC = ("num_starts", "hidden", "num_targets", "steps_per_target", "learning_rate", "tol")


@jit(static_argnames=_STATIC)
def _monotone(
    key, chain, reward, discount, mu, q_joint, *, num_starts, hidden, num_targets, steps_per_target,
    learning_rate, tol,
):  # fmt: skip
    # Values of about 1, whatever the unit of the reward; the mean needs no learning.
    mean = mu @ reward
    spread = jnp.sqrt(mu @ (reward - mean) ** 2)
    unit = jnp.where(spread > 0, spread, 1)

    def renew(weights):
        return (reward - mean) / unit + discount * chain.mv(_mixture(chain, weights))

    def loss(weights, target):
        return mu @ (_mixture(chain, weights) - target) ** 2 / 2

    import optax  # slow to import, and few ask for it

    def train(starts: dict[str, Any], num_targets: int) -> tuple[dict[str, Any], Array]:
        """Trained weights, and what they leave of the Bellman equation."""
        rate = optax.cosine_decay_schedule(learning_rate, num_targets * steps_per_target)
        optimizer = optax.adam(rate)

        def follow(carry, _):
            target = renew(carry[0])

            def step(carry, _):
                weights, state = carry
                with jax.numpy_dtype_promotion("standard"):
                    updates, state = optimizer.update(jax.grad(loss)(weights, target), state)
                    return (optax.apply_updates(weights, updates), state), None

            return lax.scan(step, carry, None, length=steps_per_target)

        def one(weights):
            start = (weights, optimizer.init(weights))
            weights = lax.scan(follow, start, None, length=num_targets)[0][0]
            left = loss(weights, renew(weights))
            return weights, jnp.where(jnp.isnan(left), jnp.inf, left)

        # Several at a time, but not all: each holds the units of all joint pairs.
        return lax.map(one, starts, batch_size=_KEPT)

    weights = _starts(key, chain, hidden, reward.dtype, num_starts)
    if num_starts > _KEPT:
        _, left = train(weights, max(1, round(_TRIED * num_targets)))
        best = jnp.argsort(left.at[0].set(-1))[:_KEPT]  # the first is kept in any case
        weights = jax.tree.map(lambda x: x[best], weights)
    weights, left = train(weights, num_targets)
    weights = jax.tree.map(lambda x: x[left.argmin()], weights)
    slopes = jax.tree.leaves(jax.grad(loss)(weights, renew(weights)))
    residual = jnp.sqrt(jnp.stack([(slope**2).sum() for slope in slopes]).sum())
    q_total = unit * _mixture(chain, weights) + mean / (1 - discount)
    q_local = tuple(unit * q for q in weights["local"])
    steps = jnp.array(num_targets * steps_per_target)
    return _fit(q_joint, q_total, q_local, mu, residual, steps, residual <= tol)


def _starts(
    key: Array, chain: PairChain, hidden: int, dtype: Any, num_starts: int
) -> dict[str, Any]:
    """Local functions and, for each joint state, the weights of the mixture, of all starts."""
    agents, states, sizes = len(chain.views), chain.num_states, chain.view_sizes

    def one(key: Array, drawn: Array) -> dict[str, Any]:
        into, out, local = jax.random.split(key, 3)
        values = drawn * jax.random.normal(local, (sum(sizes),), dtype)
        return {
            "local": jnp.split(values, [sum(sizes[:i]) for i in range(1, agents)]),
            "into": jax.random.normal(into, (states, agents, hidden), dtype) / agents**0.5,
            "bias": jnp.zeros((states, hidden), dtype),
            "out": jax.random.normal(out, (states, hidden), dtype) / hidden,
            "constant": jnp.zeros(states, dtype),
        }

    keys = key[None] if num_starts == 1 else jax.random.split(key, num_starts)
    return jax.vmap(one)(keys, jnp.full(num_starts, _DRAWN, dtype).at[0].set(0))


def _mixture(chain: PairChain, weights: dict[str, Any]) -> Array:
    """Q_tot, `[J]`, from local functions and the tables of each joint state."""
    assert isinstance(chain.policy, TablePolicy)
    shape = chain.policy.table.shape  # [S_0, A_0, S_1, A_1, ..]
    order = (*range(0, len(shape), 2), *range(1, len(shape), 2))

    def by_state(i: int, q: Array) -> Array:
        joint = chain.view(i).lift(q).reshape(shape)
        return joint.transpose(order).reshape(chain.num_states, -1)  # [S, U]

    local = jnp.stack([by_state(i, q) for i, q in enumerate(weights["local"])], axis=1)  # [S, N, U]
    into = jnp.swapaxes(jnp.abs(weights["into"]), 1, 2)  # [S, hidden, N]
    units = jax.nn.elu(jnp.matmul(into, local) + weights["bias"][..., None])  # [S, hidden, U]
    total = (jnp.abs(weights["out"])[..., None] * units).sum(1) + weights["constant"][:, None]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return total.reshape([shape[k] for k in order]).transpose(inverse).reshape(-1)


def _fit(q_joint, q_total, q_local: Sequence[Array], mu, residual, steps, converged) -> ValueFit:
    visited = mu > 0
    # NaN > 0 is false: without the sum a chain with no law would show no error.
    error = jnp.where(visited, q_joint - q_total, 0) + 0 * mu.sum()
    return ValueFit(
        q_joint, q_total, tuple(q_local), mu, visited, error, residual, steps, converged
    )
