"""Rows on the simplex."""

import jax
import jax.numpy as jnp

Array = jax.Array


def weighted_median(values: Array, weights: Array) -> Array:
    r"""A minimiser of $\sum_k w_k |v_k - q|$ over q: the value at which half the weight is reached.

    Exact, by one sort. Values of weight 0 play no part, but must be finite; if all weights are 0
    the smallest value is returned.

    Args:
        values: `[K]`.
        weights: not negative, `[K]`.

    Returns:
        A scalar, one of the values. Where the minimisers are an interval, its lower end.
    """
    order = jnp.argsort(values)
    reached = jnp.cumsum(weights[order])
    return values[order][jnp.searchsorted(reached, 0.5 * reached[-1], side="left")]
