"""Every test runs in float64, with implicit rank promotion and warnings as errors."""

import jax

import experiments  # noqa: F401  it makes XLA compile faster, which is most of a test's time

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
