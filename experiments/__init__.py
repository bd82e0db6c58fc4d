"""One file a figure: a config, a pure run, a command."""

import os
import signal
import sys
from importlib.metadata import version
from types import FrameType


def stop(_: int, __: FrameType | None) -> None:
    """End with one line: Ctrl-C while a command starts, which takes seconds and has nothing yet."""
    os.write(2, b"\nstopped; nothing was begun\n")
    os._exit(130)


# So it is from the first import of `python -m` on, until `command.run` gets to work.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)

# On a CPU these runs mostly compile, and XLA's fusion emitters double that time without making
# the runs faster. What XLA_FLAGS says already stands, and the flag is set only where it is known:
# one that jaxlib does not know ends the process. The optimization level, which `numerics/compiled`
# lowers on a CPU, is left alone here: it would hold for a GPU too.
_FLAG, _said = "--xla_cpu_use_fusion_emitters", os.environ.get("XLA_FLAGS", "")
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10) and _FLAG not in _said:
    os.environ["XLA_FLAGS"] = f"{_said} {_FLAG}=false".strip()
