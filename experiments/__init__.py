"""One file a figure: a config, a pure run, a command."""

import os
from importlib.metadata import version

# On a CPU these runs mostly compile, and half of that time XLA spends on what does not make them
# faster. What XLA_FLAGS says already stands, and a flag is set only where it is known: one that
# jaxlib does not know ends the process.
_FLAGS = {"--xla_backend_optimization_level": "1"}
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
_said = os.environ.get("XLA_FLAGS", "")
_more = [f"{name}={value}" for name, value in _FLAGS.items() if name not in _said]
os.environ["XLA_FLAGS"] = " ".join([_said, *_more]).strip()
