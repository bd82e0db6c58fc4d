"""Multi-agent Markov entanglement in JAX.

Everything public is here by name. What belongs together and is asked for more rarely is also a
group: `agents` (bandits agent by agent), `bandits` (named ones), `bounds`, `distances`, `examples`
(the paper's), `learning` (local values from logs), `lemmas` (the proof of Theorem 7), `populations`
(named ones) and, loaded when it is asked for, `plotting`.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import plotting as plotting
    from ._public import *  # noqa: F403

__version__ = "0.2.0.dev0"

# Spellings of 0.1.0, taken for one release.
_RENAMED = {
    "neighbourhood": ("chains.subchain", "neighborhood"),
    "stationary_law": ("numerics.elimination", "stationary_distribution"),
    "tv_centre": ("numerics.simplex", "tv_center"),
}


def _load() -> None:
    """Put all public names here, and their list."""
    public = vars(import_module("._public", __name__))
    names = sorted(name for name in public if not name.startswith("_"))
    globals().update({name: public[name] for name in names}, __all__=names)


# For a type checker a name that is not on the list is an error.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A name that is not here yet: the first one loads them all, and JAX with them."""
        if name in _RENAMED:
            module, new = _RENAMED[name]
            message = f"jaxent.{name} is now jaxent.{new}; the old name goes with 0.3"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return getattr(import_module(f".{module}", __name__), new)
        if name == "plotting":
            return import_module(".plotting", __name__)
        if name == "__all__" or not name.startswith("_"):
            _load()
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module 'jaxent' has no attribute {name!r}")

    def __dir__() -> list[str]:
        _load()
        return sorted(globals())
