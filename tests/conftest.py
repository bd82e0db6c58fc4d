"""Every test runs in float64, with implicit rank promotion and warnings as errors."""

import os

import jax

import experiments  # noqa: F401  it makes XLA compile faster, which is most of a test's time

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Unless slow tests are to run, XLA need not optimise: it would take longer than it saves."""
    if config.option.markexpr == "not slow":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
