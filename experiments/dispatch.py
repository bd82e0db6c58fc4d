"""Ride-hailing: drivers on a ring of zones, orders nobody controls, and what a driver must see.

Which zone is busy is a Markov chain of its own, the exogenous signal z of Appendix J.1. Every epoch
the M drivers nearest to the busy zone are sent to a ride from there, and paid more when they are in
it; the others drift. The audit is made twice, with z in what a driver sees and without: a driver
who does not see z takes for his own chance what the places of the others give away.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxent
from experiments import command
from jaxent.audit import to_dict
from jaxent.plotting import plot_audit

ABOUT = __doc__.split("\n\n")[0] if __doc__ else ""


class Config(NamedTuple):
    """The town.

    Attributes:
        drivers: N.
        sent: M, drivers sent at every epoch.
        zones: on the ring.
        steps: T.
        permutations: of the test of no entanglement.
    """

    drivers: int = 20
    sent: int = 6
    zones: int = 4
    steps: int = 10_000
    permutations: int = 199


QUICK = Config(steps=2_000, permutations=39)

HELP = {
    "drivers": "how many",
    "sent": "how many of them are sent at every epoch",
    "zones": "of the ring, at least 3",
    "steps": "epochs, at least 200",
    "permutations": "of the test of no entanglement",
}


@partial(jax.jit, static_argnames="config")
def simulate(key: jax.Array, config: Config) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Zones and whether sent, `[T, N]`, and the busy zone, `[T]`."""
    zones = config.zones

    def step(carry, key):
        where, busy = carry
        tie, arrive, drift, demand = jax.random.split(key, 4)
        gap = jnp.abs(where - busy)
        distance = jnp.minimum(gap, zones - gap)  # [N]
        rank = distance + jax.random.uniform(tie, where.shape)
        sent = rank <= jnp.sort(rank)[config.sent - 1]
        # A ride ends anywhere; the far ones are still on their way with chance 1/4 a zone.
        reached = jax.random.uniform(arrive, where.shape) > distance / 4
        anywhere = jax.random.randint(drift, where.shape, 0, 2 * zones, jnp.int32)
        # Idle, a driver moves on with chance 1/4.
        idle = jnp.where(anywhere < zones // 2, (where + 1) % zones, where)
        after = jnp.where(sent & reached, anywhere % zones, jnp.where(sent, where, idle))
        # The busy zone stays with chance 3/4, else it is any.
        draw = jax.random.randint(demand, (), 0, 4 * zones, jnp.int32)
        return (after, jnp.where(draw < zones, draw, busy)), (where, sent, busy)

    start = (jnp.arange(config.drivers, dtype=jnp.int32) % zones, jnp.zeros((), jnp.int32))
    return lax.scan(step, start, jax.random.split(key, config.steps))[1]


def run(config: Config, seed: int) -> dict[str, jaxent.Audit]:
    """The two audits, of one run."""
    where, sent, busy = map(np.asarray, simulate(jax.random.key(seed), config))
    gap = np.abs(where - busy[:, None])
    near = np.minimum(gap, config.zones - gap) == 0
    paid = np.where(sent & near, 1.0, np.where(sent, 0.5, 0.0))
    found = {}
    for name, signal in (("with the busy zone", busy), ("without", None)):
        log = jaxent.Trajectory.from_arrays(where, sent.astype(int), paid, signal=signal)
        found[name] = jaxent.audit(
            log, discount=0.8, seed=seed, num_permutations=config.permutations
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Simulate, audit twice, draw and print; 0 if seeing the orders lowers the bound."""
    options = command.parse("dispatch", ABOUT, Config(), QUICK, HELP, argv)
    config = options.config
    if options.resume:
        command.fail("--resume: two audits take seconds; run them again")
    if not 1 <= config.sent < config.drivers:
        command.fail("--sent: at least 1, and fewer than --drivers")
    if config.zones < 3 or config.steps < 200 or config.permutations < 19:
        command.fail("--zones: at least 3, --steps: at least 200, --permutations: at least 19")
    command.open_folder(options.out)
    jax.config.update("jax_enable_x64", True)
    found = run(config, options.seed)
    rows, paths = [], []
    for name, audit in found.items():
        known = audit.entanglement[~np.isnan(audit.entanglement)]
        rows.append(
            (
                name,
                f"{known.mean():.4f}" if len(known) else "-",
                f"{sum('entangled' in word for word in audit.words)} of {config.drivers}",
                f"{audit.bound / audit.scale:.1%}",
                f"{audit.bound_upper / audit.scale:.1%}",
                audit.verdict,
            )
        )
        file = "dispatch_" + name.replace(" ", "_")
        paths += command.save_figure(plot_audit(audit), options.out / file)
    path = options.out / "results.json"
    content: dict[str, Any] = {name: to_dict(audit) for name, audit in found.items()}
    command.save_json(path, command.header(config, options.seed) | content)
    heading = ("a driver's log", "mean E_i", "entangled", "bound", "upper end", "verdict")
    command.print_table(rows, heading)
    each: list[Path] = [path, *paths]
    print("\n" + "\n".join(map(str, each)))
    seen, unseen = found.values()
    return 0 if seen.bound / seen.scale < unseen.bound / unseen.scale else 1


if __name__ == "__main__":
    sys.exit(main())
