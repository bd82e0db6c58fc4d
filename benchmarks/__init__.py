"""Timings against peers, compiled as JAX compiles for everyone.

The experiments, which share their command line with these, trade speed for compile time.
"""

import os

os.environ.setdefault("XLA_FLAGS", "")
