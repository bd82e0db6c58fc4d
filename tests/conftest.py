"""Every test runs in float64, with implicit rank promotion and warnings as errors.

With JAX_ENABLE_X64=0 in the environment they run in float32 instead, as JAX comes.
"""

import gc
import itertools
import os
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

import experiments  # noqa: F401  it makes XLA compile faster, which is most of a test's time

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)
from . import tolerances  # those of the precision set above

if tolerances.SINGLE:
    np.testing.assert_allclose = tolerances.assert_close
jax.config.update("jax_numpy_rank_promotion", "raise")
# No compilation is kept for another run, so that none needs a key; no program is looked at, so that
# none needs to say from which lines it comes.
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_traceback_in_locations_limit", 0)


def renewed_every(uses, make):
    """`make`, whose answer serves so many calls before it is made anew."""
    count, made = itertools.count(), []

    def call():
        if next(count) % uses == 0:
            made[:] = [make()]
        return made[0]

    return call


# JAX makes a context of MLIR, with all its dialects, for each program: a quarter of what one small
# program costs. Programs may share it; what it keeps of their constants goes with it.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = renewed_every(100, mlir.make_ir_context)
# Tracing makes many objects and little garbage.
gc.freeze()
gc.set_threshold(200_000, 20, 1000)

# Few examples, always the same ones; `--hypothesis-profile=thorough -m "slow or not slow"
# tests/properties` looks at more than 10,000.
LIMITS = {"deadline": None, "database": None, "print_blob": False}
LIMITS["suppress_health_check"] = list(hypothesis.HealthCheck)
LIMITS["phases"] = [p for p in hypothesis.Phase if p is not hypothesis.Phase.explain]
hypothesis.settings.register_profile("few", max_examples=8, derandomize=True, **LIMITS)
hypothesis.settings.register_profile("thorough", max_examples=250, **LIMITS)
hypothesis.settings.load_profile("few")


def pytest_configure(config):
    """Unless slow tests are to run, XLA need not optimize: it would take longer than it saves.

    Nor need it cut a program into parts to compile at once: each costs, and the cores are busy.
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
    if config.option.markexpr == "not slow":
        flags += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = flags


# The files that compile most, in the order of what they cost: workers begin with them, so that all
# end together.
DEAR = ("state_mdp", "entanglement", "soft", "hard_and_soft", "exchangeable", "bounds")
DEAR += ("decomposition", "extensions", "sweep", "single_precision")
PLACE = {f"test_{name}.py": place for place, name in enumerate(DEAR)}


def pytest_collection_modifyitems(items):
    for item in items:
        mark = item.get_closest_marker("needs_x64")
        if mark and tolerances.SINGLE:
            item.add_marker(pytest.mark.skip(reason=mark.kwargs["reason"]))
    items.sort(key=lambda item: PLACE.get(item.path.name, len(DEAR)))


def shared():
    """What a test must leave as it was, since those after it on the same worker have it too."""
    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_default_matmul_precision")
    return {**{name: getattr(jax.config, name) for name in names}, **np.geterr()}


ASKED = shared()


# Linux gives a process 65,530 regions of memory, of which each compiled program takes a few. Where
# there are none left XLA crashes, as it did after 2,000 tests with jaxlib 0.11.
REGIONS, MAPS = 40_000, Path("/proc/self/maps")
TESTS = itertools.count(1)


def make_room():
    """Let programs go before there is no room for another; looked at after every 50 tests."""
    if next(TESTS) % 50 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > REGIONS:
        jax.clear_caches()
        gc.collect()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item):
    """A test that changes the precision of the process is the one that fails."""
    result = yield
    make_room()
    left = shared()
    if left != ASKED:
        jax.config.update("jax_enable_x64", ASKED["jax_enable_x64"])
        np.seterr(**{name: ASKED[name] for name in np.geterr()})
        pytest.fail(f"the process is left with {left}; it was {ASKED}")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Count the examples of a property."""
    if "properties" not in item.path.parts:
        return (yield)
    from .properties import strategies

    before = strategies.examples_run
    try:
        return (yield)
    finally:
        item.user_properties.append(("examples", strategies.examples_run - before))


def pytest_terminal_summary(terminalreporter):
    """How many examples of properties were looked at."""
    reports = [r for rs in terminalreporter.stats.values() for r in rs if hasattr(r, "when")]
    counts = [
        v for r in reports if r.when == "call" for k, v in r.user_properties if k == "examples"
    ]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} examples of {len(counts)} properties")
