"""Random Fourier features: a smooth function of continuous observations, nearly linear in them."""

import jax
import jax.numpy as jnp

from .._checks import check_finite, check_positive, check_positive_int, check_shape, concrete
from ..numerics.arrays import takes_arrays
from ..numerics.compiled import jit

Array = jax.Array

# Observations whose distances make the bandwidth, at most.
_COMPARED = 500


@takes_arrays("observations")
def fourier_features(
    key: Array,
    observations: Array,
    *,
    num_features: int = 100,
    bandwidth: Array | float | None = None,
) -> Array:
    r"""Cosines of random waves, in which smooth functions of observations are nearly linear.

    sqrt(2 / d) cos(w_k' z_t + b_k), with z the observations, each column with mean 0 and variance
    1, w_k normal with standard deviation 1 / bandwidth and b_k uniform in [0, 2 pi). Their inner
    products tend to the Gaussian kernel exp(-|z - z'|^2 / (2 bandwidth^2)).

    As `features=` of `estimate_approximation_error` they stand for states that are continuous.

    Args:
        key: of `jax.random.key`.
        observations: of the team, `[T, p]`; a column that is constant adds nothing.
        num_features: d; an estimate from T epochs takes at most T/20. Static.
        bandwidth: the distance over which the function may turn, in standard deviations; the median
            distance of 500 observations if not given.

    Returns:
        `[T, d]`.

    Raises:
        ValueError: for observations of another shape, not finite or all alike, num_features < 1 or
            a bandwidth that is not above 0.

    Examples:
        >>> import jax, jaxent
        >>> observed = jax.random.normal(jax.random.key(0), (1_000, 3))
        >>> jaxent.learning.fourier_features(jax.random.key(1), observed, num_features=40).shape
        (1000, 40)

    References:
        Rahimi and Recht, Random Features for Large-Scale Kernel Machines, 2007.
    """
    check_shape("observations", observations, (None, None))
    check_finite("observations", observations)
    check_positive_int("num_features", num_features)
    if bandwidth is not None:
        check_positive("bandwidth", bandwidth)
    z = _standard(jnp.asarray(observations, jnp.result_type(observations, float)))
    if concrete(z) and not bool((z != 0).any()):
        raise ValueError("observations: are all alike; there is nothing to tell them apart")
    if bandwidth is None:
        bandwidth = _median_distance(z)
    return _waves(key, z, jnp.asarray(bandwidth, z.dtype), int(num_features))


@jit
def _standard(values: Array) -> Array:
    """Columns with mean 0 and variance 1; 0 where a column is constant."""
    apart = values - values.mean(0, keepdims=True)
    size = jnp.sqrt((apart**2).mean(0, keepdims=True))
    there = (values != values[:1]).any(0, keepdims=True)
    return jnp.where(there, apart / jnp.where(there, size, 1), 0)


@jit
def _median_distance(z: Array) -> Array:
    """Of observations evenly spaced in time, those that are alike left out."""
    number = min(_COMPARED, len(z))
    some = z[jnp.arange(number) * len(z) // number]
    square = ((some[:, None] - some[None]) ** 2).sum(-1)
    return jnp.sqrt(jnp.nanmedian(jnp.where(square > 0, square, jnp.nan)))


@jit(static_argnums=3)
def _waves(key: Array, z: Array, bandwidth: Array, num_features: int) -> Array:
    turn, start = jax.random.split(key)
    w = jax.random.normal(turn, (z.shape[1], num_features), z.dtype) / bandwidth
    b = jax.random.uniform(start, (num_features,), z.dtype, maxval=2 * jnp.pi)
    return jnp.cos(z @ w + b[None]) * (2 / num_features) ** 0.5
