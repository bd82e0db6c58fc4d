"""`jit` for what a person calls and waits for.

A small problem is solved in a millisecond and compiled in seconds, so XLA is asked for code that is
as fast and takes half as long to make: fewer passes of LLVM, and no fusion emitters where these can
be turned off. JAX takes such options for outermost programs only. A call whose arguments all have
values is one, wherever it stands: it is evaluated there and then, also while another function is
traced. A call with a traced argument becomes part of the program around it, as with `jax.jit`. The
function itself must close over nothing that is traced.
"""

import os
from collections.abc import Callable
from functools import cache, partial, wraps
from importlib.metadata import version
from typing import Any

import jax
from jax.core import eval_context

from .._checks import concrete


def jit(function: Callable[..., Any] | None = None, **static: Any) -> Callable[..., Any]:
    """`jax.jit(function, **static)`, compiled quickly on a CPU where no argument is traced."""
    if function is None:
        return partial(jit, **static)
    inside = jax.jit(function, **static)

    @cache
    def outermost():
        return jax.jit(function, **static, compiler_options=_options())

    @wraps(function)
    def call(*args, **kwargs):
        if not concrete(args, kwargs):
            return inside(*args, **kwargs)
        with eval_context():
            return outermost()(*args, **kwargs)

    made: Any = call
    made.outermost = outermost  # there one can see how often it was compiled
    return made


def _options() -> dict[str, Any] | None:
    """Options for a CPU, where warm calls are as fast with them. What XLA_FLAGS says stands."""
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_backend_optimization_level": 1}
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later ones do not know it
        options["xla_cpu_use_fusion_emitters"] = False
    said = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in said}
