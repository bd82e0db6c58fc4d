"""The core jobs, checked and timed on whatever device there is.

    python -m benchmarks.accelerator [--quick] [--out FILE]

In float32 and in float64: a Kronecker matvec against the bandwidth of a copy of the same vector, a
joint solve, the matvec of the exact exchangeable chain, certified measures of a batch of chains,
and a sweep over N. Every job says how far its answer is from what it must be and whether that is
near enough; the exit code is 1 if one is not. Compilation is not timed; times are medians.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.numerics.kron import kron_mv
from jaxent.sweeps.files import save_json
from tests.sweep_worker import circulant

REPEATS = 7


class Sizes(NamedTuple):
    """How large the jobs are.

    Attributes:
        factors: of the Kronecker product, 8 x 8 each.
        agents: of the joint solve, 3 states and 2 actions each.
        exchangeable: agents of the exact chain.
        chains: in the batch, two agents of 4 pairs each.
        points: of the sweep.
    """

    factors: int = 7
    agents: int = 7
    exchangeable: int = 60
    chains: int = 256
    points: int = 64


QUICK = Sizes(factors=5, agents=4, exchangeable=20, chains=16, points=8)


class Row(NamedTuple):
    """One job.

    Attributes:
        job: what was done.
        seconds: a call, median.
        rate: in units that the job names.
        error: distance from what the answer must be.
        allowed: what it may be.
    """

    job: str
    seconds: float
    rate: str
    error: float
    allowed: float


def timed(*calls: Callable[[], Any]) -> list[tuple[float, Any]]:
    """Median seconds and answer of each call, compiled beforehand; in turn, to be compared."""
    answers = [jax.block_until_ready(call()) for call in calls]
    times = [[] for _ in calls]
    for _ in range(REPEATS):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            kept.append(time.perf_counter() - start)
    return list(zip(map(statistics.median, times), answers, strict=True))


def kronecker(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """The copy, then the matvec: each factor reads and writes the vector once."""
    size = 8**sizes.factors
    matrices = rng.dirichlet(np.ones(8), (sizes.factors, 8))
    vector = rng.standard_normal(size)
    expected = vector
    for matrix in matrices:
        expected = np.tensordot(matrix, expected.reshape(8, -1), axes=(1, 0)).T
    expected = expected.reshape(-1)
    v, factors = jnp.asarray(vector, dtype), tuple(jnp.asarray(matrices, dtype))
    moved = 2 * v.nbytes
    copying = jax.jit(lambda v: 2 * v)  # a product, as XLA leaves out a mere copy
    (copy_seconds, copied), (seconds, product) = timed(
        partial(copying, v), partial(jax.jit(kron_mv), factors, v)
    )
    speed, per_pass = moved / copy_seconds, sizes.factors * moved / seconds
    eps = float(jnp.finfo(dtype).eps)
    return [
        Row(
            f"copy of 8^{sizes.factors}",
            copy_seconds,
            f"{speed / 1e9:.4g} GB/s",
            float(np.abs(np.asarray(copied) - 2 * np.asarray(v)).max()),
            0.0,
        ),
        Row(
            f"Kronecker matvec 8^{sizes.factors}",
            seconds,
            f"{per_pass / 1e9:.4g} GB/s a factor pass, {per_pass / speed:.0%} of the copy",
            float(np.abs(np.asarray(product, np.float64) - expected).max()),
            100 * sizes.factors * eps,
        ),
    ]


def joint_solve(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """Q of weakly coupled agents under an index policy; the Bellman equation is the check."""
    n = sizes.agents
    agent = jaxent.MDP(
        jnp.asarray(rng.dirichlet(np.ones(3), (3, 2)), dtype),
        jnp.asarray(rng.random((3, 2)), dtype),
    )
    mdp = jaxent.WeaklyCoupledMDP((agent,) * n, discount=0.9)
    policy = jaxent.index_policy((2, 0, 1), num_agents=n, budget=n // 2)
    chain = jaxent.pair_chain(mdp, policy.astype(dtype))
    rewards = [agent.reward] * n
    # The chain is an argument: as a constant it would be worked on while compiling.
    solving = jax.jit(lambda chain, rewards: jaxent.q_values(chain, rewards, discount=0.9))
    [(seconds, q)] = timed(partial(solving, chain, rewards))
    residual = jax.jit(lambda c, q, r: jnp.abs(c.lift(r) + 0.9 * c.mv(q) - q).max() / q.max())
    return [
        Row(
            f"joint solve, {n} agents, {chain.num_pairs} pairs",
            seconds,
            f"{chain.num_pairs / seconds:.3g} values/s",
            float(residual(chain, q, rewards)),
            200 * float(jnp.finfo(dtype).eps),
        )
    ]


def exchangeable(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """P v and mu P of the exact chain of the circulant bandit: one is the other's transpose."""
    bandit = jaxent.circulant_bandit(sizes.exchangeable)
    bandit = bandit._replace(
        passive=bandit.passive.astype(dtype),
        active=bandit.active.astype(dtype),
        reward=bandit.reward.astype(dtype),
    )
    chain = jaxent.exchangeable_chain(bandit, jaxent.CIRCULANT_PRIORITY)
    v = jnp.asarray(rng.random(chain.num_pairs), dtype)
    mu = jnp.asarray(rng.dirichlet(np.ones(chain.num_pairs)), dtype)
    rows = []
    forward, back = timed(
        partial(jax.jit(lambda chain, v: chain.mv(v)), chain, v),
        partial(jax.jit(lambda chain, mu: chain.vm(mu)), chain, mu),
    )
    one, other = (
        np.asarray(a, np.float64) @ np.asarray(b, np.float64)
        for a, b in ((mu, forward[1]), (back[1], v))
    )
    for name, (seconds, _) in (("P v", forward), ("mu P", back)):
        rows.append(
            Row(
                f"{name}, {sizes.exchangeable} exchangeable agents, {chain.num_pairs} pairs",
                seconds,
                f"{chain.num_pairs / seconds:.3g} pairs/s",
                float(abs(one / other - 1)),
                200 * float(jnp.finfo(dtype).eps),
            )
        )
    return rows


def measures(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """The agent-wise measure of a batch of chains, certified; the gap is the check."""
    chains = jnp.asarray(rng.dirichlet(np.ones(16), (sizes.chains, 16)), dtype)
    tol = 1e-6 if dtype == jnp.float64 else 1e-3  # float32 stalls at gaps up to 3e-4

    def one(P: jax.Array) -> tuple[jax.Array, jax.Array]:
        chain = jaxent.PairChain.from_matrix(P, sizes=(4, 4))
        found = jaxent.entanglement_atv(chain, agent=0, tol=tol)
        return found.lower, found.upper

    [(seconds, (lower, upper))] = timed(partial(jax.jit(jax.vmap(one)), chains))
    return [
        Row(
            f"entanglement_atv of {sizes.chains} chains, 4 x 4 pairs",
            seconds,
            f"{sizes.chains / seconds:.3g} chains/s",
            float((upper - lower).max()),
            tol,
        )
    ]


def sweeping(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """E_1 of the circulant bandit over N; sqrt(N) E_1 must have the limit of the mean field."""
    del rng, dtype  # a simulation has its own key, and the precision that is switched on
    several = max(sizes.points // 16, 1)
    grid = jaxent.product_grid(
        size=np.linspace(600, 1800, sizes.points // several).astype(int) // 30 * 30,
        seed=range(several),
    )
    call = partial(jaxent.sweep, jax.random.key(0), circulant, grid)
    [(seconds, table)] = timed(call)
    scaled = np.sqrt(table["size"]) * np.asarray(table["entanglement"], np.float64)
    field = jaxent.mean_field(jaxent.circulant_bandit(30), jaxent.CIRCULANT_PRIORITY)
    steps = 6 * 1800 * len(scaled)
    return [
        Row(
            f"sweep of {len(scaled)} points on {jax.device_count()} device(s), N = 600..1800",
            seconds,
            f"{steps / seconds:.3g} epochs/s",
            float(abs(scaled.mean() - float(field.entanglement_limit))),
            float(3 * scaled.std(ddof=1) / np.sqrt(len(scaled))),
        )
    ]


JOBS = (kronecker, joint_solve, exchangeable, measures, sweeping)


def main(argv: list[str] | None = None) -> int:
    """Print and save one row a job; 0 if all answers are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look on a CPU")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="the results")
    options = parser.parse_args(argv)
    sizes = QUICK if options.quick else Sizes()
    device = jax.devices()[0]
    rows = []
    for dtype in (jnp.float32, jnp.float64):
        jax.config.update("jax_enable_x64", dtype == jnp.float64)
        for job in JOBS:
            for row in job(sizes, np.random.default_rng(0), dtype):
                right = row.error <= row.allowed
                rows.append(row._asdict() | {"dtype": jnp.dtype(dtype).name, "right": right})
                verdict = "" if right else f"  WRONG by {row.error:.2g}, allowed {row.allowed:.2g}"
                print(
                    f"{jnp.dtype(dtype).name}  {row.job}: {row.seconds:.3g} s, {row.rate}{verdict}"
                )
    about = {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "jaxent": jaxent.__version__,
        "sizes": sizes._asdict(),
    }
    save_json(options.out, about | {"rows": rows})
    print(json.dumps(about))
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
