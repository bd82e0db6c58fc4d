r"""Nearest functions of joint actions that are monotone, or largest where they are told to be.

For one joint state, a function of joint actions is a table `[A_0, A_1, ..]`. Two classes of them
are cones, and so a nearest one, in a weighted sum of squares, is unique and can be certified:

- **monotone** along every axis, once each agent's actions are put in an order. This is isotonic
  regression. Along one axis it is a formula, max over the start of min over the end of the mean of
  a run; along all, Dykstra's method takes the axes in turn, remembering what each has taken off.
- **largest at one joint action** g (IGM). Then only f(g) is to be found: what is larger is pooled
  with it, f(g) = m, f(a) = min(target, m), and m is the largest mean of g with some largest others.

What Dykstra's method has taken off, z, has Σ w z f <= 0 for every f of the cone, hence

    Σ w (target - f)^2 >= Σ w (2 z target - z^2),

and so each answer has a bracket.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# Rounds of Dykstra's method before giving up.
_SWEEPS = 4000


class Nearest(NamedTuple):
    """The nearest function, and what it leaves.

    Attributes:
        value: `[A_0, A_1, ..]`.
        loss: the weighted sum of squares that is left.
        lower: at most that of every function of the class.
    """

    value: Array
    loss: Array
    lower: Array


def largest_at(target: Array, weight: Array) -> Nearest:
    """For each joint action the nearest function that is largest there, `[A, A]`, exactly.

    Args:
        target: `[A]`.
        weight: `[A]`, positive.
    """
    order = jnp.argsort(-target)
    sorted_target, sorted_weight = target[order], weight[order]

    def at(g: Array) -> Nearest:
        others = jnp.where(order == g, 0, sorted_weight)
        mass = weight[g] + jnp.cumsum(others)
        means = (weight[g] * target[g] + jnp.cumsum(others * sorted_target)) / mass
        top = jnp.maximum(means.max(), target[g])
        value = jnp.minimum(target, top).at[g].set(top)
        loss = (weight * (target - value) ** 2).sum()
        return Nearest(value, loss, loss)

    return jax.vmap(at)(jnp.arange(len(target)))


def nearest_monotone(target: Array, weight: Array, enough: Array) -> Nearest:
    """The nearest function that does not fall along any axis.

    Args:
        target: `[A_0, A_1, ..]`.
        weight: the same, positive.
        enough: gap of the loss that will do.
    """
    mean = (weight * target).sum() / weight.sum()
    centered = target - mean  # so that sums round little

    def sweep(carry):
        value, taken, _, count = carry
        for axis in range(target.ndim):
            before = value + taken[axis]
            value = _isotonic(before, weight, axis)
            taken = taken.at[axis].set(before - value)
        fit = value
        for axis in range(target.ndim):
            fit = lax.cummax(fit, axis=axis)  # of the class now, whatever is left to do
        z = taken.sum(0)
        loss = (weight * (centered - fit) ** 2).sum()
        lower = (weight * (2 * z * centered - z**2)).sum()
        return value, taken, Nearest(fit, loss, lower), count + 1

    def going(carry):
        _, _, found, count = carry
        return (found.loss - found.lower > enough) & (count < _SWEEPS)

    none, zero = jnp.zeros((target.ndim, *target.shape), target.dtype), jnp.zeros_like(mean)
    start = sweep((centered, none, Nearest(centered, zero, zero), jnp.array(0)))
    found = lax.while_loop(going, sweep, start)[2]
    return found._replace(value=found.value + mean)


def _isotonic(target: Array, weight: Array, axis: int) -> Array:
    """The nearest that does not fall along one axis: max over starts of min over ends of means."""
    size = target.shape[axis]
    t, w = (jnp.moveaxis(x, axis, -1) for x in (target, weight))
    place = np.arange(size)
    # Runs from i to k, by membership of j, so that no sum is a difference of two larger ones.
    runs = (place[:, None, None] <= place) & (place <= place[None, :, None])  # [i, k, j]
    inside = jnp.asarray(runs, t.dtype)
    mass = jnp.einsum("ikj,...j->...ik", inside, w, precision="highest")
    total = jnp.einsum("ikj,...j->...ik", inside, w * t, precision="highest")
    empty = place[:, None] > place
    means = jnp.where(empty, 0, total / jnp.where(empty, 1, mass))
    over_ends = jnp.where(empty, jnp.inf, means)
    # At j: the least mean of the runs from i that reach j or beyond, then the largest of these.
    reach = lax.cummin(over_ends, axis=over_ends.ndim - 1, reverse=True)  # [.., i, j]
    reach = jnp.where(jnp.asarray(empty), -jnp.inf, reach)
    return jnp.moveaxis(reach.max(-2), -1, axis)
