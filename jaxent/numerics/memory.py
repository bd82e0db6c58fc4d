"""How many bytes a computation may count on, known before it starts."""

import os
from typing import Protocol

import jax


class Device(Protocol):
    """What is asked of a `jax.Device`."""

    def memory_stats(self) -> dict[str, int] | None:
        """Bytes by what they are; None where nobody counts them."""


def host_memory() -> int:
    """Bytes of this machine that may be counted on: three quarters of them."""
    return 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def device_memory(device: Device | None = None) -> int:
    """Bytes of a device of this process (the first) that may be counted on: three quarters of them.

    A device without memory of its own has the host's, and shares it with others of the kind.
    """
    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    limit = stats.get("bytes_limit")
    return 3 * limit // 4 if limit else host_memory()


def check_memory(what: str, needed: float, remedy: str) -> None:
    """Raise unless so many bytes of this machine may be counted on."""
    limit = host_memory()
    if needed > limit:
        raise ValueError(
            f"{what} take about {needed / 2**30:.3g} GiB, and {limit / 2**30:.3g} may be counted "
            f"on; {remedy}"
        )
