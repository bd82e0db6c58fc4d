r"""A monotone mixture of local functions, fitted on the Bellman error of the team (QMIX).

What is fitted and in which limit stands in value_factorization.py, beside the additive fit.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import check_discount, check_positive_int, renamed
from ..chains.pair_chain import PairChain, check_chain
from ..chains.stationary import law_of_pairs
from ..models.contracts import ArrayLike, Scalar
from ..models.parts import TablePolicy
from ..numerics.compiled import jit
from .bellman import Rewards, joint_reward, q_values
from .value_factorization import ValueFit, value_fit

Array = jax.Array

# Starts that are trained to the end, and the share of the targets after which
# the others are given up.
_KEPT, _TRIED = 8, 0.1
# Spread of the local values that a start draws. Rewards have spread 1 there.
_DRAWN = 2.0


@renamed(tolerance="tol")
def fit_monotone(
    key: Array,
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    mu: ArrayLike | None = None,
    law: ArrayLike | None = None,
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

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Args:
        key: of `jax.random.key`, for the starts; vmap it for several fits.
        chain: of a joint policy table.
        rewards: as for `fit_additive`.
        discount: in [0, 1).
        mu: the stationary law, `[J]`, where it is known already.
        law: of a team that explores, `[J]`, to take samples from instead; E_mu is then under it.
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
    mu = law_of_pairs(chain, mu, law)
    rates = {"learning_rate": float(learning_rate), "tol": float(tol)}
    total, *rest = _monotone(key, chain, reward, discount, mu, **sizes, **rates)
    return value_fit(chain, reward, discount, mu, q_joint, total, *rest, own=law is None)


_STATIC = ("num_starts", "hidden", "num_targets", "steps_per_target", "learning_rate", "tol")


@jit(static_argnames=_STATIC)
def _monotone(
    key, chain, reward, discount, mu, *, num_starts, hidden, num_targets, steps_per_target,
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
    return q_total, q_local, residual, steps, residual <= tol


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
