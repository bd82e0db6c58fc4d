"""Machines in a line, run by SimPy and audited: who is blocked by whom, and may losses be added up?

Five machines pass parts on through small buffers. A machine waits when the buffer before it is
empty, is blocked when the one behind it is full, and fails now and then. Epochs are minutes; a
machine's state is what it is doing, its reward the parts that it finished. The structure is known:
a machine feels its neighbors through the buffers, and others only through these.

The control of the audit itself: the same machines with endless supply and room, each by itself.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxent
from experiments import command
from experiments.command import Claim
from experiments.engines import audited
from jaxent import plotting

MACHINES = 5
DISCOUNT = 0.9
# Minutes: of a part, between failures, of a repair, and until the line is full.
PART, RUNS, REPAIR, WARM = 1.5, 40.0, 6.0, 200
STATES = ("waits", "works", "blocked", "down")


class Config(NamedTuple):
    """What is simulated.

    Attributes:
        buffer: places between machines; 0 for machines that are each alone.
        minutes: of every log.
        permutations: of the test of no entanglement.
    """

    buffer: tuple[int, ...] = (0, 1, 3, 10)
    minutes: int = 20_000
    permutations: int = 199


QUICK = Config(buffer=(0, 1), minutes=2000, permutations=49)

HELP = {
    "buffer": "places between machines; 0 for machines that are each alone",
    "minutes": "of every log",
    "permutations": "of the test of no entanglement",
}


def check(config: Config) -> None:
    """Raise a ValueError that names the option that is out of range."""
    command.at_least(config, minutes=500, permutations=19)
    if not all(0 <= places <= 1000 for places in config.buffer):
        raise ValueError("buffer: wanted 0 to 1000 places")


class Machine:
    """One machine as a process of SimPy."""

    def __init__(self, env: Any, draw: np.random.Generator, before: Any, behind: Any) -> None:
        """Start it; a buffer that is None never runs out."""
        self.env, self.draw, self.before, self.behind = env, draw, before, behind
        self.doing, self.finished = "waits", 0
        env.process(self.run())

    def run(self) -> Iterator[Any]:
        """Take, work, fail now and then, pass on."""
        left = self.draw.exponential(RUNS)
        while True:
            self.doing = "waits"
            if self.before is not None:
                yield self.before.get(1)
            needs = self.draw.exponential(PART)
            while needs > left:
                self.doing = "works"
                yield self.env.timeout(left)
                needs -= left
                self.doing = "down"
                yield self.env.timeout(self.draw.exponential(REPAIR))
                left = self.draw.exponential(RUNS)
            self.doing = "works"
            yield self.env.timeout(needs)
            left -= needs
            self.finished += 1
            self.doing = "blocked"
            if self.behind is not None:
                yield self.behind.put(1)


def log_of(places: int, minutes: int, seed: int) -> jaxent.Trajectory:
    """The log of five machines with so many places between them."""
    if find_spec("simpy") is None:
        command.fail("SimPy is missing: pip install simpy (the extra `line`)")
    simpy: Any = import_module("simpy")
    env = simpy.Environment()
    draws = np.random.default_rng(seed).spawn(MACHINES)
    between = [simpy.Container(env, places) if places else None for _ in range(MACHINES - 1)]
    buffers = [None, *between, None]
    machines = [
        Machine(env, draw, buffers[k], buffers[k + 1]) for k, draw in enumerate(draws)
    ]  # fmt: skip
    states, finished = [], []
    for minute in range(WARM + minutes + 1):
        env.run(until=minute + 1)
        states.append([machine.doing for machine in machines])
        finished.append([machine.finished for machine in machines])
    paid = np.diff(np.array(finished, float), axis=0)[WARM:]
    return jaxent.Trajectory.from_arrays(
        np.array(states)[WARM:-1], np.full(paid.shape, "none"), paid
    )  # fmt: skip


def measure(places: int, config: Config, seed: int) -> dict[str, Any]:
    """The audit of one log, and how much of it is between neighbors."""
    log = log_of(places, config.minutes, seed)
    near = np.abs(np.subtract.outer(range(MACHINES), range(MACHINES))) == 1
    return {
        "places": places,
        "parts": float(np.asarray(log.rewards)[:, -1].mean()),
        **audited(log, near, discount=DISCOUNT, permutations=config.permutations, seed=seed),
    }


def figures(rows: list[dict[str, Any]], out: Path) -> list[Path]:
    """Who moves whom with the smallest buffer, and entanglement and error by buffer."""
    linked = [row for row in rows if row["places"]] or rows
    with plotting.style():
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        plotting.plot_entanglement_map(np.array(linked[0]["influence"]), ax=left)
        left.set_title(f"places between: {linked[0]['places']}", fontsize="medium")
        for at, row in enumerate(rows):
            middle.plot([at] * MACHINES, row["entanglement"], "o", color=plotting.BLUE, alpha=0.6)
            value, lower, upper = row["error"]
            reach = np.maximum([[value - lower], [upper - value]], 0)
            right.errorbar(at, value, reach, fmt="o", color=plotting.RED, lw=0.8, capsize=1.5)
        for axis, label in ((middle, "lower estimate of $E_i$"), (right, "error, of the spread")):
            axis.set_xticks(range(len(rows)), [row["places"] or "alone" for row in rows])
            axis.axhline(0, color=plotting.GRAY, lw=0.5)
            axis.set(xlabel="places between machines", ylabel=label)
        return command.save_figure(figure, out / "line")


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What is known beforehand, beside what was found."""
    told = []
    for row in rows:
        found = f"{row['moved']} of {MACHINES}"
        if not row["places"]:
            told.append(Claim("alone: at most one seems to be moved", found, row["moved"] <= 1))
            continue
        what = f"{row['places']} places: neighbors move a machine more than others do"
        told.append(
            Claim(what, f"{row['near']:.4f} and {row['far']:.4f}", row["near"] > row["far"])
        )
    return told


def work(job: command.Job) -> command.Report:
    """Simulate, audit, draw."""
    rows = list(job.stored.get("rows", []))
    for places in tqdm(job.config.buffer[len(rows) :], unit="log", disable=None):
        rows.append(command.plain(measure(places, job.config, job.seed)))
        job.save({"rows": rows}, f"{len(rows)} of {len(job.config.buffer)} logs are")
    table = [
        (
            str(row["places"] or "alone"),
            f"{row['parts']:.3f}",
            f"{row['moved']} of {MACHINES}",
            "{:.1%} ({:.1%} to {:.1%})".format(*row["error"]),
            row["verdict"],
        )
        for row in rows
    ]
    heading = ("places between", "parts a minute", "moved", "error of the spread", "verdict")
    return command.Report({"rows": rows}, claims(rows), figures(rows, job.out), heading, table)


def main(argv: list[str] | None = None) -> int:
    """Simulate, audit, draw and print; 0 if every claim holds."""
    return command.run("line", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
