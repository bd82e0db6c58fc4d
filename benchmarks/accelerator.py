"""The core jobs, checked and timed on whatever device there is.

    python -m benchmarks.accelerator [--quick] [--out FILE] [--minutes M] [--only JOB ..]

In float32 and in float64: a Kronecker matvec against the bandwidth of a copy of the same vector, a
joint solve, brackets of the error of joint chains of 9 and 10 agents of 8 pairs, the matvec of the
exact exchangeable chain, the ground truth at N = 150, certified measures of batches of chains, the
circulant protocol, and a sweep over N. Before them, in processes of their own, first calls on this
device. Every job says how far its answer is from what it must be and whether that is near enough;
the exit code is 1 if one is not, or if one fails. Compilation is told apart; times are medians. The
file is written after each job, and what would begin after M minutes (15) is left out.
"""

import argparse
import json
import os
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
from benchmarks import first_call
from experiments import circulant as study
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
        brackets: agents of 8 pairs each, whose error is bracketed.
        truth: agents of the ground truth.
        protocol: agents, runs and test states of the circulant protocol.
        first: the functions whose first call is timed.
    """

    factors: int = 7
    agents: int = 7
    exchangeable: int = 60
    chains: int = 256
    points: int = 64
    brackets: tuple[int, ...] = (9, 10)
    truth: int = 150
    protocol: tuple[int, int, int] = (900, 10, 50)
    first: tuple[str, ...] = ("stationary_distribution", "q_values", "entanglement_tv")


QUICK = Sizes(
    factors=5,
    agents=4,
    exchangeable=20,
    chains=16,
    points=8,
    brackets=(5,),
    truth=10,
    protocol=(60, 4, 4),
    first=("q_values",),
)


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
    bandit = single(jaxent.circulant_bandit(sizes.exchangeable), dtype)
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


def brackets(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """The error of a sum of local values, of coupled agents under any joint policy."""
    return [_bracket(number, rng, dtype) for number in sizes.brackets]


def _bracket(number: int, rng: np.random.Generator, dtype: Any) -> Row:
    agents = tuple(
        jaxent.MDP(
            jnp.asarray(rng.dirichlet(np.ones(4), (4, 2)), dtype),
            jnp.asarray(rng.normal(size=(4, 2)), dtype),
        )
        for _ in range(number)
    )
    mdp = jaxent.WeaklyCoupledMDP(agents, 0.9)

    @jax.jit  # made on the device: traced, so that no table is brought to the host to be checked
    def make(key: jax.Array, mdp: jaxent.WeaklyCoupledMDP) -> jaxent.PairChain:
        shape = (4,) * number + (2,) * number
        table = jax.random.exponential(key, shape, dtype)
        table = table / table.sum(tuple(range(number, 2 * number)), keepdims=True)
        return jaxent.pair_chain(mdp, table)

    chain = make(jax.random.key(0), mdp)
    mu = jaxent.stationary_distribution(chain)
    local = jaxent.local_q_values(chain, mdp.rewards, discount=0.9, mu=mu)

    def call() -> jaxent.ErrorBracket:
        return jaxent.approximation_error(chain, mdp.rewards, local, discount=0.9, mu=mu)

    [(seconds, found)] = timed(call)
    inside = bool(found.lower <= found.value <= found.upper)
    width = float((found.upper - found.lower) / found.value)
    # In float32 rounding alone, as bounded, is more than the error of so many agents.
    wanted = 0.01 if dtype == jnp.float64 else float("inf")
    return Row(
        f"bracket of the error, {number} agents, {chain.num_pairs} pairs",
        seconds,
        f"{float(found.value):.6g} in [{float(found.lower):.6g}, {float(found.upper):.6g}], "
        f"{width:.2%} wide, {int(found.num_matvecs)} products",
        0.0 if inside and width <= wanted else width,
        0.0,
    )


def truth(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """The exact answers of the circulant bandit; mu Q is the average reward over 1 - discount."""
    del rng
    bandit = single(jaxent.circulant_bandit(sizes.truth), dtype)
    [(seconds, found)] = timed(lambda: jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY))
    mean = float(found.law @ found.q_joint) * (1 - float(bandit.discount))
    reward = float(found.average_reward)
    return [
        Row(
            f"ground truth, N = {sizes.truth}, {len(found.law)} configurations",
            seconds,
            f"relative error {float(found.relative_error):.6g}, "
            f"E_1 {float(found.entanglement):.6g}",
            abs(mean / reward - 1) if bool(found.converged) else float("inf"),
            1e4 * float(jnp.finfo(dtype).eps),
        )
    ]


def single(bandit: jaxent.RestlessBandit, dtype: Any) -> jaxent.RestlessBandit:
    """The bandit in that precision."""
    given = {name: getattr(bandit, name) for name in ("passive", "active", "reward")}
    return bandit._replace(**{name: x.astype(dtype) for name, x in given.items()})


def measures(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """Every measure of a batch of chains, certified; the gap is the check."""
    chains = jnp.asarray(rng.dirichlet(np.ones(16), (sizes.chains, 16)), dtype)
    laws = jnp.full((sizes.chains, 16), 1 / 16, dtype)
    tol = 1e-6 if dtype == jnp.float64 else 1e-3  # float32 stalls at gaps up to 3e-4
    kinds: dict[str, Callable[..., Any]] = {
        "entanglement_atv": lambda c, mu: jaxent.entanglement_atv(c, agent=0, tol=tol),
        "entanglement_mu_atv": lambda c, mu: jaxent.entanglement_mu_atv(c, mu, agent=0, tol=tol),
        "entanglement_tv": lambda c, mu: jaxent.entanglement_tv(c, tol=tol),
        "entanglement_mu_tv": lambda c, mu: jaxent.entanglement_mu_tv(c, mu, tol=tol),
    }
    rows = []
    for name, measure in kinds.items():

        def one(P: jax.Array, mu: jax.Array, measure=measure) -> tuple[jax.Array, jax.Array]:
            found = measure(jaxent.PairChain.from_matrix(P, sizes=(4, 4)), mu)
            return found.lower, found.upper

        [(seconds, (lower, upper))] = timed(partial(jax.jit(jax.vmap(one)), chains, laws))
        rows.append(
            Row(
                f"{name} of {sizes.chains} chains, 4 x 4 pairs",
                seconds,
                f"{sizes.chains / seconds:.3g} chains/s",
                float((upper - lower).max()),
                tol,
            )
        )
    return rows


def protocol(sizes: Sizes, rng: np.random.Generator, dtype: Any) -> list[Row]:
    """The paper's Appendix K for one N: runs, E_1, local values, their error at test states."""
    del rng, dtype  # a simulation has its own key, and the precision that is switched on
    size, runs, tests = sizes.protocol
    config = study.Config(sizes=(size,), runs=runs, test_states=tests)
    control = study.control_values(jaxent.circulant_bandit(30), study.PRIORITY)
    one = partial(study.measure, config=config, max_agents=size)
    [(seconds, found)] = timed(partial(one, jax.random.key(0), jnp.asarray(size), control))
    field = jaxent.mean_field(jaxent.circulant_bandit(30), jaxent.CIRCULANT_PRIORITY)
    scaled = float(np.sqrt(size) * float(found.entanglement))
    return [
        Row(
            f"circulant protocol, N = {size}, {runs} runs, {tests} test states",
            seconds,
            f"sqrt(N) E_1 = {scaled:.4g}, mu-error {float(found.mu_error):.4g}",
            abs(scaled - float(field.entanglement_limit)),
            # Standard errors of the runs, and what a finite N is from the limit.
            float(np.sqrt(size) * 6 * float(found.entanglement_se) + 1 / np.sqrt(size)),
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


JOBS = {
    "kronecker": kronecker,
    "joint_solve": joint_solve,
    "exchangeable": exchangeable,
    "measures": measures,
    "brackets": brackets,
    "truth": truth,
    "protocol": protocol,
    "sweep": sweeping,
}


def first_calls(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Of each function in a process of its own, before this one takes the device."""
    platform = os.environ.get("JAX_PLATFORMS", "")
    first_call.FRESH["JAX_PLATFORMS"] = platform
    return first_call.rows_of(list(names), lines=False)


def main(argv: list[str] | None = None) -> int:
    """Print and save one row a job; 0 if all answers are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look on a CPU")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="the results")
    parser.add_argument("--minutes", type=float, default=15, help="nothing begins after so many")
    parser.add_argument("--only", nargs="+", choices=tuple(JOBS), default=tuple(JOBS))
    options = parser.parse_args(argv)
    sizes = QUICK if options.quick else Sizes()
    end = time.monotonic() + 60 * options.minutes
    first = first_calls(sizes.first)
    device = jax.devices()[0]
    about = {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "jaxent": jaxent.__version__,
        "sizes": sizes._asdict(),
        "first_call": first,
    }
    rows: list[dict[str, Any]] = []
    left_out = []
    for dtype in (jnp.float32, jnp.float64):
        jax.config.update("jax_enable_x64", dtype == jnp.float64)
        precision = jnp.dtype(dtype).name
        for name in options.only:
            if time.monotonic() > end:
                left_out.append(f"{name} in {precision}")
                continue
            start = time.perf_counter()
            try:
                found = JOBS[name](sizes, np.random.default_rng(0), dtype)
            except Exception as problem:  # out of memory, say: the others still count
                found = [Row(f"{name}: {problem!r:.200}", 0.0, "failed", float("inf"), 0.0)]
            took = time.perf_counter() - start
            for row in found:
                right = bool(row.error <= row.allowed)
                rows.append(row._asdict() | {"dtype": precision, "right": right, "took": took})
                verdict = "" if right else f"  WRONG by {row.error:.2g}, allowed {row.allowed:.2g}"
                print(f"{precision}  {row.job}: {row.seconds:.3g} s, {row.rate}{verdict}")
            save_json(options.out, about | {"rows": rows, "left_out": left_out})
    print(json.dumps(about), f"left out: {', '.join(left_out) or 'nothing'}")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
