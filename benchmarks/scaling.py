"""One chain over 1, 2, 4 and 8 devices: the same answers, and what each device holds.

    python -m benchmarks.scaling [--quick] [--only NAME ..] [--out DIR] [--write-readme]

The devices are forced on the host (`xla_force_host_platform_device_count`): they share its cores
and its memory, so that nothing is said of speed. Every point is a process of its own. It finds the
stationary law and the joint values in one program, spread over the devices, and again on one device
that is left as it is. `memory_analysis` of the compiled program says what a device holds: what is
given (chain, rewards), what comes out (a law, values), and what comes and goes. Writes
`scaling.json`. Ends with 1 if an answer differs by more than 1e-12 of the largest, or if a device
holds more than was estimated before anything was placed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from benchmarks.__main__ import versions, write_between
from benchmarks.growth_jobs import coupled
from experiments import command
from jaxent.chains import sharding
from jaxent.chains.stationary import solve_law

MIB = 2**20
DISCOUNT = 0.9
AGREES = 1e-12

Made = tuple[jaxent.PairChain, tuple[Any, ...]]


class Job(NamedTuple):
    """One chain on more and more devices.

    Attributes:
        title: what the chain is of; `{}` is the size.
        build: size to (chain, local rewards).
        points: (size, devices).
        quick: likewise, at toy size.
    """

    title: str
    build: Callable[[int], Made]
    points: tuple[tuple[int, int], ...]
    quick: tuple[tuple[int, int], ...]


def joint(agents: int) -> Made:
    """Agents of 4 states and 2 actions under any joint policy."""
    mdp, policy = coupled(agents, 4)
    return jaxent.pair_chain(mdp, policy), mdp.rewards


def exchangeable(agents: int) -> Made:
    """The circulant bandit under its priority."""
    bandit = jaxent.circulant_bandit(agents)
    return jaxent.exchangeable_chain(bandit, jaxent.CIRCULANT_PRIORITY), (bandit.reward,)


def soft(agents: int) -> Made:
    """The same under a soft index."""
    bandit = jaxent.circulant_bandit(agents)
    policy = jaxent.SoftIndex(jnp.linspace(1.0, 0.0, 4), 0.1)
    return jaxent.exchangeable_chain(bandit, policy), (bandit.reward,)


def typed(agents: int) -> Made:
    """Two types of so many agents each, with two states and two actions, of which one costs 1."""
    rng = np.random.default_rng(0)
    mdps = [
        jaxent.MDP(
            jnp.asarray(rng.dirichlet(np.ones(2), (2, 2))), jnp.asarray(rng.normal(size=(2, 2)))
        )
        for _ in range(2)
    ]
    costs = np.tile([[[0.0], [1.0]]], (2, 1, 1))
    population = jaxent.WeaklyCoupledPopulation(
        [(mdp, costs) for mdp in mdps], (agents, agents), [2 * agents // 3], DISCOUNT
    )
    moves = [(0, 1, 1), (1, 0, 1), (1, 1, 1), (0, 0, 1)]
    return jaxent.exchangeable_chain(population, moves), tuple(mdp.reward for mdp in mdps)


def strong(size: int) -> tuple[tuple[int, int], ...]:
    """One size on 1, 2, 4 and 8 devices."""
    return tuple((size, devices) for devices in (1, 2, 4, 8))


JOBS = {
    "strong": Job("{} agents of 8 pairs", joint, strong(7), ((5, 1), (5, 2))),
    "weak": Job("{} agents of 8 pairs, as many pairs a device", joint, ((6, 1), (7, 8)), ((5, 1),)),
    "exchangeable": Job(
        "{} exchangeable agents of 4 states under a priority",
        exchangeable,
        strong(30),
        ((15, 1), (15, 2)),
    ),
    "soft": Job("{} of them under a soft index", soft, strong(30), ((15, 1), (15, 2))),
    "typed": Job("two types of {} agents of 2 states", typed, strong(30), ((20, 1), (20, 2))),
}


@jax.jit
def law_and_values(chain: jaxent.PairChain, rewards: tuple[Any, ...]) -> tuple[jax.Array, ...]:
    """Both over joint pairs."""
    values = jaxent.solve_q(chain, rewards, discount=DISCOUNT)
    return solve_law(chain).value, values.value


def measure_point(name: str, size: int, devices: int) -> dict[str, Any]:
    """What a device holds, and how far answers are from those of one device."""
    jax.config.update("jax_enable_x64", True)
    chain, rewards = JOBS[name].build(size)
    spread = jaxent.shard(chain, jax.devices()[:devices])
    program = law_and_values.lower(spread, rewards).compile()
    plan: Any = program.memory_analysis()
    away = 0.0
    found, wanted = program(spread, rewards), law_and_values(chain, rewards)
    for x, y in zip(found, wanted, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        away = max(away, float(np.abs(x - y).max() / np.abs(y).max()))  # NaN is seen below
    return {
        "size": size,
        "devices": devices,
        "pairs": chain.num_pairs,
        "given": plan.argument_size_in_bytes,
        "found": plan.output_size_in_bytes,
        "working": plan.temp_size_in_bytes,
        "estimate": sharding.bytes_needed(chain, devices, "cpu"),
        "away": away if np.isfinite(found[0]).all() and np.isfinite(found[1]).all() else np.inf,
    }


def in_process(name: str, size: int, devices: int) -> dict[str, Any]:
    """The same in a process of its own, with so many devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    run = [sys.executable, "-m", "benchmarks.scaling", "--point", name, str(size), str(devices)]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        command.fail(f"{name} {size} on {devices} devices: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def held(point: dict[str, Any]) -> int:
    """Bytes of a device."""
    return point["given"] + point["found"] + point["working"]


def agrees(point: dict[str, Any]) -> bool:
    """Whether answers are those of one device, and memory is within the estimate."""
    return point["away"] <= AGREES and held(point) <= point["estimate"]


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table."""
    lines = [
        "| chain | joint pairs | devices | given | found | comes and goes | all | estimated | "
        "away from one device |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, points in results.items():
        for point in points:
            parts = [point[key] for key in ("given", "found", "working")]
            cells = [f"{x / MIB:.3g}" for x in (*parts, held(point), point["estimate"])]
            lines.append(
                f"| {JOBS[name].title.format(point['size'])} | {point['pairs']:,} | "
                f"{point['devices']} | {' | '.join(cells)} | {point['away']:.1g} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure every point, print the table; 0 if all answers agree."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=about)
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that all works")
    parser.add_argument("--only", nargs="+", choices=tuple(JOBS), default=tuple(JOBS))
    parser.add_argument("--out", type=Path, default=Path("results") / "benchmarks")
    parser.add_argument("--write-readme", action="store_true", help="put the table in the README")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.point:
        name, size, devices = options.point
        print(json.dumps(measure_point(name, int(size), int(devices))))
        return 0
    command.open_folder(options.out)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.only:
        results[name] = []
        for size, devices in JOBS[name].quick if options.quick else JOBS[name].points:
            point = in_process(name, size, devices)
            results[name].append(point)
            print(
                f"{name} {size} on {devices}: {held(point) / MIB:.3g} MiB a device, away by "
                f"{point['away']:.1g}",
                flush=True,
            )
            stored = {"versions": versions(), "quick": options.quick, "points": results}
            command.save_json(options.out / "scaling.json", stored)
    text = markdown(results)
    print("\n" + text)
    if options.write_readme:
        write_between(text, "scaling")
    return 0 if all(agrees(point) for points in results.values() for point in points) else 1


if __name__ == "__main__":
    sys.exit(main())
