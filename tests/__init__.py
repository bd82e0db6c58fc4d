"""Tests, and what holds for them and for every process that they start."""

import os
import sys
from importlib.metadata import version

# A program needs no Python stack for each of its operations: that is a tenth of a test's time. XLA
# of jaxlib 0.11 takes two parts of a program for one where neither says from where it comes.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS"] = "0"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# A process reads the modules that an earlier one has compiled, which takes seconds off its start,
# also where the shell asks that they not be kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The cores are the workers': threads of NumPy's that wait for each other there cost ten times the
# work that they share.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
