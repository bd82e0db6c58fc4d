"""(f) The exact chain of exchangeable agents against Monte Carlo at equal accuracy.

The exact answer has every value, the stationary law, E_1 and the decomposition error at once, to
rounding. Monte Carlo estimates one number; its time for a relative error of 1e-6 (one standard
error) is its time here times (its relative standard error here / 1e-6)^2, runs being independent.
`Q` is the joint value where agents are spread as in the mean field, E_1 is Eq. (15). "with control"
is jaxent's own Monte Carlo with the martingale of the mean field taken off.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxent
from benchmarks import counts
from benchmarks.protocol import model
from benchmarks.race import OURS, Row, race
from jaxent.restless.next_counts import configuration_index

TITLE = "Exact exchangeable chain against Monte Carlo at a relative error of 1e-6"
WANTED = 1e-6
STEPS = 50  # a value at discount 0.5 has 1e-15 of it left after these epochs


class Config(NamedTuple):
    """Numbers of agents, and the runs of Monte Carlo before extrapolation."""

    agents: tuple[int, ...] = (10, 20, 40)
    value_runs: int = 20_000
    runs: int = 40
    epochs: int = 20_000
    rounds: int = 5


QUICK = Config(agents=(5,), value_runs=500, runs=10, epochs=2000, rounds=1)


def typical(model: counts.Model) -> np.ndarray:
    """Counts next to the mean field's fixed point, (.15, .15, .35, .35) of the agents."""
    start = (model.num_agents * np.array([3, 3, 7, 7])) // 20
    start[3] += model.num_agents - start.sum()
    return start


def run(config: Config, seed: int) -> list[Row]:
    """Two rows a number of agents."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in config.agents:
        bandit, numbers = jaxent.circulant_bandit(number), model(number)
        start = typical(numbers)
        place = int(configuration_index(start))

        def truth(bandit: Any = bandit) -> Any:
            return jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY)

        def plain(numbers=numbers, start=start) -> tuple[float, float]:
            many = np.tile(start, (config.value_runs, 1))
            found = counts.returns_numba(rng, numbers, many, STEPS)
            return found.mean(), found.std(ddof=1) / np.sqrt(len(found))

        estimate = jax.jit(
            partial(
                jaxent.monte_carlo_q,
                bandit=bandit,
                policy=np.array(jaxent.CIRCULANT_PRIORITY),
                counts=start,
                num_runs=config.value_runs,
                num_steps=STEPS,
            )
        )

        def controlled(estimate: Any = estimate) -> tuple[float, float]:
            found = jax.block_until_ready(estimate(jax.random.key(seed)))
            return float(found.value), float(found.standard_error)

        def entanglement(numbers=numbers, start=start) -> tuple[float, float]:
            many = np.tile(start, (config.runs, 1))
            seen = counts.simulate_numba(rng, numbers, many, config.epochs)[0][100:-1]
            found = np.array(
                [counts.entanglement_median(numbers, seen[:, k]) for k in range(config.runs)]
            )
            return found.mean(), found.std(ddof=1) / np.sqrt(config.runs)

        rows += [
            _against(
                f"Q, N = {number}",
                truth,
                {"Monte Carlo, numba": plain, "Monte Carlo with control": controlled},
                lambda exact, place=place: float(exact.q_joint[place]),
                config.rounds,
            ),
            _against(
                f"E_1, N = {number}",
                truth,
                {"Monte Carlo, numba": entanglement},
                lambda exact: float(exact.entanglement),
                config.rounds,
            ),
        ]
    return rows


def _against(name: str, truth: Any, peers: dict, read: Any, rounds: int) -> Row:
    """Race in which a peer's time is that of the runs that the wanted accuracy needs."""

    def needed(found: tuple[float, float]) -> float:
        mean, error = found
        return (error / abs(mean) / WANTED) ** 2

    def score(exact: Any, found: tuple[float, float]) -> float:
        return abs(read(exact) - found[0]) / found[1]

    return race(
        name,
        {OURS: truth} | peers,
        apart=score,
        within=5.0,
        rounds=rounds,
        compiled=tuple(peers),
        scale=dict.fromkeys(peers, needed),
    )
