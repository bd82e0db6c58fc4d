"""(c) A Kronecker product of N factors applied to a vector, against a copy of the same array.

A pass over one factor reads and writes the array once, so the time of a copy is what it costs at
least; `passes` is the share of the copy's speed that a pass over one factor reaches.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.race import AT_ONCE, OURS, Row, race, timed
from jaxent.numerics.kron import kron_mv

TITLE = "Kronecker matvec, N square factors, float64"


class Config(NamedTuple):
    """Sizes (S, N): vectors of S^N numbers."""

    sizes: tuple[tuple[int, int], ...] = ((4, 8), (8, 6), (8, 7))
    rounds: int = 25


QUICK = Config(sizes=((4, 6), (8, 5)), rounds=5)


def ways(factors: list[np.ndarray], v: np.ndarray) -> dict[str, Any]:
    """Everyone who can apply the product."""
    from cola.ops import Dense, Kronecker
    from pykronecker import KroneckerProduct

    shape = tuple(len(factor) for factor in factors)
    ours = jax.jit(kron_mv)
    arrays, vector = tuple(jnp.asarray(f) for f in factors), jnp.asarray(v)
    lazy = Kronecker(*(Dense(factor) for factor in factors))
    lazy_jax = Kronecker(*(Dense(factor) for factor in arrays))
    lazy_apply = jax.jit(lambda v: lazy_jax @ v)
    product = KroneckerProduct(list(arrays))

    def by_tensordot() -> np.ndarray:
        x = v.reshape(shape)
        for factor in factors:
            x = np.tensordot(x, factor, axes=(0, 1))
        return x.reshape(-1)

    return {
        OURS: lambda: ours(arrays, vector),
        "NumPy tensordot": by_tensordot,
        "CoLA, NumPy": lambda: lazy @ v,
        "CoLA, JAX": lambda: lazy_apply(vector),
        "PyKronecker, JAX": lambda: product @ vector,
    }


def run(config: Config, seed: int) -> list[Row]:
    """One row a size."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, number in config.sizes:
        factors = list(rng.dirichlet(np.ones(size), (number, size)))
        v = rng.normal(size=size**number)
        into = np.empty_like(v)

        def copy(v=v, into=into) -> None:
            np.copyto(into, v)

        every = ways(factors, v)
        row = race(
            f"{size}^{number}",
            every,
            apart=lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
            within=1e-12,
            rounds=config.rounds,
            compiled=("CoLA, NumPy",),  # it loads JAX at its first call
        )
        # Again beside a copy, both the fastest of a few in every round.
        pairs = [
            [min(timed(way)[0] for _ in range(AT_ONCE)) for way in (copy, every[OURS])]
            for _ in range(config.rounds)
        ]
        bare, product = np.median(pairs, axis=0)
        share = number * bare / product
        speed = 16 * v.size / bare / 1e9
        rows.append(
            row._replace(
                note=f"{size}^{number}: a copy of the array takes {bare * 1e3:.3g} ms "
                f"({speed:.3g} GB/s read and written); a pass over one factor goes at "
                f"{share:.0%} of its speed."
            )
        )
    return rows
