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
        weights: not negative, `[..., K]`; one sort serves them all.

    Returns:
        `[...]`, each one of the values. Where the minimisers are an interval, its lower end.
    """
    order = jnp.argsort(values)
    reached = jnp.cumsum(weights[..., order], axis=-1)
    below = reached < 0.5 * reached[..., -1:]
    return values[order][below.sum(-1)]
