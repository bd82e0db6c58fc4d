"""What the logs of real engines share: an audit, and how much of it is between neighbors."""

from typing import Any

import jax
import numpy as np

import jaxent
from jaxent.auditing.result import to_dict


def audited(
    log: jaxent.Trajectory, near: np.ndarray, *, discount: float, permutations: int, seed: int
) -> dict[str, Any]:
    """What `results.json` keeps of one log.

    Args:
        log: of N agents.
        near: whether two agents are neighbors, `[N, N]`.
        discount: in [0, 1).
        permutations: of the test of no entanglement.
        seed: of these.
    """
    key = jax.random.key(seed)
    found = jaxent.audit(log, discount=discount, key=key, num_permutations=permutations)
    share = found.error.of_spread(found.error.limit)
    return {
        "verdict": found.verdict,
        "error": [float(share.value), float(share.lower), float(share.upper)],
        "entanglement": found.entanglement,
        "moved": sum("entangled" in word for word in found.words),
        "influence": found.influence,
        "near": float(np.nanmean(found.influence[near])),
        "far": float(np.nanmean(found.influence[~near & ~np.eye(len(near), dtype=bool)])),
        "audit": to_dict(found),
    }
