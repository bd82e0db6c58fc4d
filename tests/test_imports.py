"""What is imported when: each case in a process of its own, for here others have imported all."""

import subprocess
import sys

import pytest

HEAVY = {"jax", "numpy", "scipy", "optax", "chex", "matplotlib", "pandas", "pyarrow"}
# What JAX brings itself; `import scipy` is its empty front, whose parts load when they are used.
LIGHT = {"jax", "numpy", "scipy"}
PARTS = {f"scipy.{part}" for part in ("optimize", "sparse", "linalg", "special", "stats")}


def loaded(code):
    """Top names, and parts of SciPy, of the modules that some code leaves imported."""
    told = "import sys; print(*sys.modules)"
    call = [sys.executable, "-W", "error", "-c", f"{code}\n{told}"]
    found = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
    return {name.split(".")[0] for name in found} | set(found)


def quietly(argv):
    """Code that calls the command, its output thrown away."""
    return (
        "import contextlib, io\nfrom jaxent.reporting.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({argv})"
    )


def test_the_package_alone_imports_nothing():
    code = "import jaxent; assert jaxent.__version__; assert not hasattr(jaxent, '_ipython')"
    assert not loaded(code) & HEAVY


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["audit", "--help"], ["adit"]])
def test_a_word_on_the_command_line_imports_nothing(argv):
    pytest.importorskip("tyro")
    assert not loaded(quietly(argv)) & HEAVY


@pytest.mark.parametrize(
    "first", ["jaxent.MDP", "from jaxent import *; pair_chain", "jaxent.data.tables", "dir(jaxent)"]
)
def test_the_first_name_imports_no_more_than_jax(first):
    """Whatever that name is: `jaxent.data.tables` is a module in a folder that nobody imported."""
    found = loaded(f"import jaxent; {first}")
    assert {"jax", "jaxent._public"} <= found
    assert not found & ((HEAVY - LIGHT) | PARTS)


def test_an_import_in_a_trace_leaves_no_tracer_behind():
    """The first call of a function that needs optax may stand inside of another program."""
    code = """
import jax, jaxent, sys
jax.jit(jaxent.project_simplex)(jax.numpy.ones((2, 3)))
held = [(m, n) for m, x in list(sys.modules.items()) for n, v in list(vars(x).items())
        if isinstance(v, jax.core.Tracer)]
assert not held, held
"""
    assert "optax" in loaded(code)
