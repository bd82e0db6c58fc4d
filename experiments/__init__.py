"""One file a figure: a config, a pure run, a command."""

import os
from importlib.metadata import version

# On a CPU these runs mostly compile, and XLA's fusion emitters double that time without making
# the runs faster. Set only where the flag is known: one that jaxlib does not know ends the process.
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
