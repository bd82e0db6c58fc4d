r"""Classes of functions of a joint state and a joint action that a team of choices singles out.

Agents choose, each by what it sees, an action (`Largest`: Q_tot(s, .) is largest where all do what
they chose) or an order of their actions (`Monotone`: Q_tot(s, .) does not fall along the orders).
Once they have chosen, each joint state is by itself, and its nearest function is order_cones.py's.
"""

from dataclasses import dataclass, field
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..chains.pair_chain import PairChain
from ..numerics.compiled import jit
from .igm import JointForm
from .order_cones import Nearest, largest_at, nearest_monotone

Array = jax.Array

# Renewals of the target in one go.
_TARGETS = 20_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Largest:
    """Functions that are largest at a joint action, which is what a team chooses.

    Attributes:
        choices: of each agent. Static.
    """

    choices: tuple[int, ...] = field(metadata={"static": True})

    def tried(self, target: Array, weight: Array, enough: Array) -> Nearest:
        """What each choice leaves in each state, `[S, A]`; no value."""
        found = jax.vmap(largest_at)(target, weight)
        return found._replace(value=jnp.zeros(()))

    def nearest(self, target: Array, weight: Array, chosen: Array, enough: Array) -> Array:
        """The nearest functions of these choices, `[S, A]`."""
        found = jax.vmap(largest_at)(target, weight)
        return found.value[jnp.arange(len(target)), chosen]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Monotone:
    """Functions that do not fall along an order of each agent's actions, which a team chooses.

    Attributes:
        index: joint actions in each order, along each axis the worst first, `[M, A]`.
        alpha: weight of joint actions that are not better than the last, the greedy one.
        actions: A_i of each agent. Static.
        choices: orders of each agent. Static.
    """

    index: Array
    alpha: Array
    actions: tuple[int, ...] = field(metadata={"static": True})
    choices: tuple[int, ...] = field(metadata={"static": True})

    def tried(self, target: Array, weight: Array, enough: Array) -> Nearest:
        """What each order leaves in each state, `[S, M]`; no value."""

        def of(index: Array) -> Nearest:
            found = jax.vmap(lambda t, w: self._one(t, w, index, enough))(target, weight)
            return found._replace(value=jnp.zeros(()))

        found = lax.map(of, self.index, batch_size=64)
        return Nearest(found.value, found.loss.T, found.lower.T)

    def nearest(self, target: Array, weight: Array, chosen: Array, enough: Array) -> Array:
        """The nearest functions of these orders, `[S, A]`."""

        def of(t: Array, w: Array, index: Array) -> Array:
            found = self._one(t, w, index, enough)
            return jnp.zeros_like(t).at[index].set(found.value.reshape(-1))

        return jax.vmap(of)(target, weight, self.index[chosen])

    def _one(self, target: Array, weight: Array, index: Array, enough: Array) -> Nearest:
        target, weight = target[index], weight[index]
        good = (target > target[-1]).at[-1].set(True)
        weight = weight * jnp.where(good, 1, self.alpha)
        return nearest_monotone(target.reshape(self.actions), weight.reshape(self.actions), enough)


def monotone(
    actions: tuple[int, ...], alpha: float, dtype: np.dtype
) -> tuple[Monotone, list[np.ndarray]]:
    """The class of all orders of these actions, and the orders of each agent, the worst first."""
    orders = [np.array(list(permutations(range(n)))) for n in actions]
    index = [
        np.ravel_multi_index(np.meshgrid(*each, indexing="ij"), actions).reshape(-1)
        for each in product(*orders)
    ]
    rate = jnp.asarray(alpha, dtype)
    return Monotone(jnp.asarray(np.stack(index)), rate, actions, tuple(map(len, orders))), orders


Class = Largest | Monotone


@jit
def tried(of: Class, target: Array, weight: Array, enough: Array) -> Nearest:
    """What each choice leaves in each state, and a bound from below."""
    return of.tried(target, weight, enough)


@jit
def nearest(of: Class, target: Array, weight: Array, chosen: Array, enough: Array) -> Array:
    """The nearest functions of these choices, `[S, A]`."""
    return of.nearest(target, weight, chosen, enough)


@jit(static_argnames="form")
def renewed(
    of: Class, chain: PairChain, form: JointForm, reward: Array, discount: Array, total: Array,
    weight: Array, chosen: Array, enough: Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Q_tot of these choices, its target, what the last renewal moved, and how many there were."""

    def target(total: Array) -> Array:
        return reward + discount * chain.mv(total)

    def step(carry):
        total, _, count = carry
        after = of.nearest(form.by_state(target(total)), weight, chosen, enough)
        after = form.by_pair(after).reshape(-1)
        return after, jnp.abs(after - total).max(), count + 1

    def going(carry):
        _, moved, count = carry
        return (moved > jnp.sqrt(enough)) & (count < _TARGETS)

    start = total, jnp.asarray(jnp.inf, total.dtype), jnp.array(0)
    total, moved, count = lax.while_loop(going, step, start)
    return total, target(total), moved, count
