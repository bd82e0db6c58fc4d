"""(g) Whittle indices of random bandits, exact, with the verdict whether there are any."""

from typing import Any, NamedTuple

import numpy as np

import jaxent
from benchmarks.race import OURS, Row, race

TITLE = "Whittle indices, discount 0.9"


class Config(NamedTuple):
    """Numbers of states."""

    states: tuple[int, ...] = (50, 500)
    rounds: int = 5


QUICK = Config(states=(10,), rounds=1)


@np.errstate()  # the peer changes it for the whole process
def run(config: Config, seed: int) -> list[Row]:
    """One row a number of states."""
    import markovianbandit

    rng = np.random.default_rng(seed)
    rows = []
    for number in config.states:
        kernels = rng.dirichlet(np.ones(number), (2, number))
        bandit = jaxent.RestlessBandit(*kernels, rng.random((number, 2)), 10, 3, 0.9)
        parts = (*kernels, bandit.reward[:, 0], bandit.reward[:, 1])

        def ours(bandit: Any = bandit) -> np.ndarray:
            return jaxent.whittle_index(bandit).index

        def peer(parts: Any = parts) -> np.ndarray:
            model = markovianbandit.restless_bandit_from_P0P1_R0R1(*parts)
            return model.whittle_indices(discount=0.9)

        rows.append(
            race(
                f"{number} states",
                {OURS: ours, "markovianbandit": peer},
                apart=lambda a, b: float(np.abs(a - b).max()),
                within=1e-9,
                rounds=config.rounds,
                compiled=("markovianbandit",),
            )
        )
    return rows
