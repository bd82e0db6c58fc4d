"""A sweep in a process of its own, for `test_sweep`: more devices, several processes, sudden death.

python -m tests.sweep_worker OPTIONS    a JSON object, the keyword arguments of `main`
"""

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.sweeps import files

NUM_STEPS = 6 * 1800


def small(key, point):
    """Arithmetic that rounds differently when it is reordered, such as a sum by several threads."""
    x = jax.random.normal(key, (5, 5)) * point["scale"]
    path = jax.lax.fori_loop(0, point["steps"], lambda _, y: jnp.tanh(x @ y) + 0.1, jnp.ones(5))
    long = jnp.cos(jnp.arange(40_000) * point["scale"]).sum()
    return {"path": path, "fit": (long, jnp.linalg.norm(x))}


def circulant(key, point):
    """E_1 of the circulant bandit (Eq. 15) from one run of Appendix K's length, N traced."""
    size = point["size"]
    bandit = jaxent.circulant_bandit(5)._replace(num_agents=size, budget=size // 5)
    trajectory = jaxent.simulate_counts(
        jax.random.fold_in(key, point["seed"]),
        bandit,
        jaxent.CIRCULANT_PRIORITY,
        num_steps=NUM_STEPS,
        counts=jnp.stack([size // 6, size // 3, size // 2, jnp.zeros_like(size)]),
        max_agents=1800,
    )
    epoch = jnp.arange(NUM_STEPS)
    used = (epoch >= size) & (epoch < 6 * size)
    share = trajectory.counts[:-1] * used[:, None] / size
    estimate = jaxent.estimate_entanglement(trajectory.policy[:-1], share)
    return {"entanglement": estimate.value, "held_out": estimate.held_out}


EXPERIMENTS = {
    "small": (small, jaxent.product_grid(scale=np.linspace(0.1, 2, 25), steps=[3, 5, 9, 9]), 8),
    "circulant": (
        circulant,
        jaxent.product_grid(size=[*range(60, 1801, 116)], seed=range(4)),
        None,
    ),
}


def run(experiment, **options):
    """One of the experiments, always with the same key."""
    function, grid, chunk = EXPERIMENTS[experiment]
    return jaxent.sweep(jax.random.key(7), function, grid, chunk=chunk, **options)


def die_while_saving(number):
    """Kill -9 by its own hand, the new table written and not yet in its place."""
    replace, left = os.replace, [number]

    def replace_or_die(source, target):
        left[0] -= Path(target).suffix == ".npz"
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    files.os.replace = replace_or_die


def insist(call):
    """Once more whenever another run is at work in the folder."""
    while True:
        try:
            return call()
        except BlockingIOError:
            time.sleep(0.05)


def main(
    experiment, out, folder=None, process=None, address=None, die_at=None, die_after=None, pause=0.0
):
    """Sweep, with a pause after each round, and write the table to `out`."""
    if "JAX_ENABLE_X64" not in os.environ:
        jax.config.update("jax_enable_x64", True)
    if address is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, num_processes=2, process_id=process)
    if die_at is not None:
        die_while_saving(die_at)
    if die_after is not None:
        death = threading.Timer(die_after, os.kill, (os.getpid(), signal.SIGKILL))
        death.daemon = True
        death.start()
    call = partial(run, experiment, folder=folder, progress=lambda _: time.sleep(pause))
    np.savez(out, devices=jax.device_count(), **insist(call))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
