"""(a) The paper's protocol (Appendix K) on the circulant bandit.

Ten runs of 6 N epochs, Eq. (15) and local Q-values from the last 5 N, and their error against the
true value of 50 states.

The peers take the true values as the paper does, from 3 N plain runs of 30 epochs each; jaxent from
32 runs with a control variate, whose noise is smaller. What takes a peer too long is done in part
and its time scaled up: by how many of the 50 states and of the sizes it did, and simulation in
proportion to epochs (and agents, where they are simulated one by one).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from benchmarks import counts
from benchmarks.race import OURS, Row, race
from experiments import circulant

TITLE = "The paper's protocol"
STEPS = 30  # horizon of the true values


class Config(NamedTuple):
    """One N, the sizes of the sweep, and those of them that peers run."""

    size: int = 900
    sweep: tuple[int, ...] = tuple(range(60, 1801, 30))
    sample: tuple[int, ...] = (300, 900, 1500)
    runs: int = 10
    tests: int = 50
    rounds: int = 3


QUICK = Config(size=60, sweep=(60, 90, 120), sample=(60, 120), runs=4, tests=4, rounds=1)


class Peer(NamedTuple):
    """How a peer does it: the simulator, the returns, Eq. (15), and how many test states it runs.

    `per_agent` says whether its time grows with the agents too.
    """

    simulate: Callable
    returns: Callable
    entanglement: Callable
    tests: int
    per_agent: bool = False


PEERS = {
    "agents in NumPy + CVXPY": Peer(
        counts.simulate_agents,
        partial(counts.returns, counts.simulate_agents),
        counts.entanglement_convex,
        1,
        True,
    ),
    "counts in NumPy": Peer(
        counts.simulate_numpy,
        partial(counts.returns, counts.simulate_numpy),
        counts.entanglement_median,
        4,
    ),
    "counts in numba": Peer(
        counts.simulate_numba, counts.returns_numba, counts.entanglement_median, 10
    ),
}


class Outcome(NamedTuple):
    """E_1 of every run, |error| at every test state, and the seconds of each part, for each N."""

    entanglement: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray


def model(size: int) -> counts.Model:
    """The circulant bandit in NumPy."""
    bandit = jaxent.circulant_bandit(size)
    kernel, reward = np.asarray(bandit.kernel), np.asarray(bandit.reward)
    return counts.Model(kernel, reward, 0.5, jaxent.CIRCULANT_PRIORITY, size, size // 5)


def follow(peer: Peer, rng: np.random.Generator, size: int, runs: int, tests: int) -> Outcome:
    """The protocol for one N as a peer does it."""
    clock = [time.perf_counter()]
    bandit = model(size)
    start = np.tile([size // 6, size // 3, size // 2, 0], (runs, 1))
    seen, moves = peer.simulate(rng, bandit, start, 6 * size)
    clock.append(time.perf_counter())
    late, moved = seen[size:], moves[size:]
    entanglement = [peer.entanglement(bandit, late[:-1, k]) for k in range(runs)]
    q = np.mean([counts.local_q(bandit, late[:, k], moved[:, k]) for k in range(runs)], axis=0)
    clock.append(time.perf_counter())
    where = np.linspace(0, len(late) - 1, min(tests, peer.tests) + 2).astype(int)[1:-1]
    errors = []
    for k, t in enumerate(where):
        now = late[t, k % runs]
        true = peer.returns(rng, bandit, np.tile(now, (3 * size, 1)), STEPS).mean()
        errors.append(abs(true - (counts.split(bandit, now) * q).sum()))
    clock.append(time.perf_counter())
    return Outcome(np.array(entanglement), np.array(errors), np.diff(clock))


def scale(peer: Peer, config: Config, sizes: tuple[int, ...], outcomes: list[Outcome]) -> float:
    """Time of all sizes and test states over the time of those that the peer ran."""
    ran = config.sample if len(sizes) > 1 else sizes
    power = 2 if peer.per_agent else 1
    grow = sum(n**power for n in sizes) / sum(n**power for n in ran)
    simulate, estimate, truth = np.sum([o.seconds for o in outcomes], axis=0)
    whole = simulate * grow + estimate * sum(sizes) / sum(ran)
    whole += truth * grow * config.tests / min(config.tests, peer.tests)
    return float(whole / (simulate + estimate + truth))


def apart(ours: dict[int, Any], theirs: dict[int, Outcome]) -> float:
    """Largest difference of E_1, and of the mu-error from 10 states or more, in standard errors."""
    scores = []
    for size, found in theirs.items():
        mine = ours[size]
        runs = len(found.entanglement)
        spread = float(mine.entanglement_se) * np.sqrt(2)
        scores.append(abs(float(mine.entanglement) - found.entanglement.mean()) / spread)
        assert runs > 1
        if len(found.errors) >= 10:
            error = found.errors.std(ddof=1) / np.sqrt(len(found.errors))
            error = np.hypot(error, float(mine.mu_error_se))
            scores.append(abs(float(mine.mu_error) - found.errors.mean()) / error)
    return max(scores)


def run(config: Config, seed: int) -> list[Row]:
    """Simulation alone, one N, and a whole sweep."""
    note = f"Peers run {', '.join(f'{p.tests} ({who})' for who, p in PEERS.items())} of the "
    note += f"{config.tests} test states and {len(config.sample)} of {len(config.sweep)} sizes; "
    note += "their times are scaled to the whole."
    return [
        simulation(config, seed),
        whole(f"all of it, N = {config.size}", config, (config.size,), seed),
        whole(
            f"all of it, {len(config.sweep)} sizes, N = {config.sweep[0]}..{config.sweep[-1]}",
            config,
            config.sweep,
            seed,
        )._replace(note=note),
    ]


def simulation(config: Config, seed: int) -> Row:
    """Runs alone, with the mean counts of their last epochs as the check."""
    size, runs = config.size, config.runs
    bandit, start = jaxent.circulant_bandit(size), [size // 6, size // 3, size // 2, 0]
    simulate = jax.jit(
        jax.vmap(
            lambda key: jaxent.simulate_counts(
                key,
                bandit,
                jaxent.CIRCULANT_PRIORITY,
                num_steps=6 * size,
                counts=jnp.array(start),
            )
        )
    )
    keys = jax.random.split(jax.random.key(seed), runs)
    rng = np.random.default_rng(seed)

    def mine() -> Any:
        return simulate(keys).counts

    def theirs(peer: Peer) -> Any:
        seen = peer.simulate(rng, model(size), np.tile(start, (runs, 1)), 6 * size)[0]
        return np.swapaxes(seen, 0, 1)

    def score(a: Any, b: Any) -> float:
        # The long-run shares of the states, run by run.
        a, b = (np.asarray(x)[:, size:].mean(1) / size for x in (a, b))
        error = np.hypot(a.std(0, ddof=1), b.std(0, ddof=1)) / np.sqrt(runs)
        return float((np.abs(a.mean(0) - b.mean(0)) / error).max())

    return race(
        f"{runs} runs of 6 N epochs, N = {size}",
        {OURS: mine} | {who: partial(theirs, peer) for who, peer in PEERS.items()},
        apart=score,
        within=6.0,
        rounds=config.rounds,
        compiled=("counts in numba",),
    )


def whole(name: str, config: Config, sizes: tuple[int, ...], seed: int) -> Row:
    """The whole protocol for one or many N."""
    ran = config.sample if len(sizes) > 1 else sizes
    rng = np.random.default_rng(seed)
    ours = circulant.Config(sizes=sizes, runs=config.runs, test_states=config.tests)
    one = partial(circulant.measure, config=ours, max_agents=max(sizes))

    def mine() -> dict[int, Any]:
        key = jax.random.key(seed)
        if len(sizes) == 1:
            control = circulant.control_values(jaxent.circulant_bandit(30), circulant.PRIORITY)
            return {sizes[0]: jax.device_get(one(key, jnp.asarray(sizes[0]), control))}
        found = {}
        for k in range(0, len(sizes), circulant.SIZES_AT_ONCE):
            piece = list(sizes[k : k + circulant.SIZES_AT_ONCE])
            found |= dict(zip(piece, circulant.run_sizes(key, piece, ours), strict=True))
        return found

    def theirs(peer: Peer) -> dict[int, Outcome]:
        return {n: follow(peer, rng, n, config.runs, config.tests) for n in ran}

    return race(
        name,
        {OURS: mine} | {who: partial(theirs, peer) for who, peer in PEERS.items()},
        apart=apart,
        within=6.0,
        rounds=config.rounds,
        compiled=("counts in numba",),
        scale={
            who: lambda found, peer=peer: scale(peer, config, sizes, list(found.values()))
            for who, peer in PEERS.items()
        },
    )
