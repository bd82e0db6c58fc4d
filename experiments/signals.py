"""Traffic signals in SUMO, audited: who is moved by whom, and may their delays be added up?

Agents are the nine signals of a 3 x 3 grid, epochs are fifteen seconds, in which a vehicle gets
from one to the next. A signal's state is which way is green and how long the queues of both ways
are; its action is to keep or to switch; its reward is minus the vehicles that stand. Who decides: a
fixed plan, SUMO's actuated one, or one plan for all that switches when a crowd stands at red in the
whole grid. The last makes every signal depend on all by its rule; the others only by the traffic
they send each other.

Two controls of the audit itself. Nine actuated crossings, each alone in a world of its own with the
same traffic: nothing links them, so nothing should be found. And the fixed plan with its clock as a
signal that all see: all signals follow one clock, which an audit without it takes for influence.
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from subprocess import run as call
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxent
from experiments import command
from experiments.command import Claim
from experiments.engines import audited
from jaxent import plotting

# Which way is green, and the queue of each way as none, a few, many.
WAYS = ("ns", "ew")
CONTROLS = ("fixed", "clock", "actuated", "shared", "alone")
# A vehicle takes fifteen seconds from one signal to the next, and so long is an epoch.
EPOCH, WARM = 15, 40
# Epochs in which the fixed plan comes round.
ROUND = 6
DISCOUNT = 0.9
SIGNALS = 9
# Vehicles that stand: up to so many are a few; with so many in the grid the shared plan switches.
FEW, CROWD = 3, 18


class Config(NamedTuple):
    """What is simulated.

    Attributes:
        control: who decides: fixed, clock (fixed, and the clock is a signal), actuated, shared, or
            alone (actuated crossings in worlds of their own).
        traffic: vehicles an hour that enter at each of the twelve ends of the grid.
        epochs: of fifteen seconds each, of every log.
        permutations: of the test of no entanglement.
    """

    control: tuple[str, ...] = CONTROLS
    traffic: tuple[int, ...] = (100, 200)
    epochs: int = 4000
    permutations: int = 199


QUICK = Config(control=("shared", "alone"), traffic=(150,), epochs=2000, permutations=49)

HELP = {
    "control": f"who decides, of {', '.join(CONTROLS)}",
    "traffic": "vehicles an hour that enter at each end of the grid",
    "epochs": "of fifteen seconds each, of every log",
    "permutations": "of the test of no entanglement",
}


def check(config: Config) -> None:
    """Raise a ValueError that names the option that is out of range."""
    unknown = set(config.control) - set(CONTROLS)
    if unknown:
        raise ValueError(f"control: {', '.join(sorted(unknown))} is none of {', '.join(CONTROLS)}")
    command.at_least(config, epochs=200, permutations=19)
    if not all(0 < rate <= 1000 for rate in config.traffic):
        raise ValueError("traffic: wanted 1 to 1000 vehicles an hour")


def tool(name: str) -> str:
    """A program of SUMO, or one line that says what to install."""
    found = find_spec("sumo")
    if find_spec("libsumo") is None or found is None or not found.submodule_search_locations:
        command.fail("SUMO is missing: pip install libsumo eclipse-sumo (the extra `signals`)")
    return str(Path(found.submodule_search_locations[0]) / "bin" / name)


def build(folder: Path, side: int, actuated: bool) -> Path:
    """A grid of side x side crossings with roads of 200 m, and a road's end on every side."""
    path = folder / f"grid{side}{'a' * actuated}.net.xml"
    kind = "actuated" if actuated else "static"
    options = ["--grid", f"--grid.number={side}", "--grid.length=200", "--grid.attach-length=200"]
    options += ["-j", "traffic_light", f"--tls.default-type={kind}", "--tls.yellow.time=3"]
    call([tool("netgenerate"), *options, "-o", str(path)], check=True, capture_output=True)
    return path


def trips(
    folder: Path, ends: tuple[list[str], list[str]], rate: int, seconds: int, seed: int
) -> Path:
    """Vehicles that enter at random times at each end and leave at another, uniformly."""
    enter, leave = ends
    draw = np.random.default_rng(seed)
    number = draw.poisson(rate * seconds / 3600, len(enter))
    start = np.repeat(np.arange(len(enter)), number)
    depart = np.sort(draw.uniform(0, seconds, len(start)))
    start = draw.permutation(start)
    goal = (start + draw.integers(1, len(leave), len(start))) % len(leave)
    lines = [
        f'<trip id="{k}" depart="{t:.1f}" from="{enter[a]}" to="{leave[b]}" departLane="best"/>'
        for k, (t, a, b) in enumerate(zip(depart, start, goal, strict=True))
    ]
    path = folder / "trips.xml"
    path.write_text("<routes>" + "\n".join(lines) + "</routes>")
    return path


class Signal:
    """One signal of a running simulation: its two green phases, and the lanes of both ways."""

    def __init__(self, sumo: Any, name: str) -> None:
        """Ask the simulation which way each phase serves."""
        self.sumo, self.name = sumo, name
        links = sumo.trafficlight.getControlledLinks(name)
        lanes = [link[0][0] if link else "" for link in links]
        (x0, y0), self.lanes = sumo.junction.getPosition(name), {way: set() for way in WAYS}
        for lane in set(lanes) - {""}:
            x, y = sumo.lane.getShape(lane)[0]
            self.lanes["ns" if abs(y - y0) > abs(x - x0) else "ew"].add(lane)
        program = sumo.trafficlight.getAllProgramLogics(name)[0]
        self.green = []  # way of each phase
        for phase in program.phases:
            served = {lane for lane, s in zip(lanes, phase.state, strict=True) if s in "Gg"}
            self.green.append(max(WAYS, key=lambda way: len(served & self.lanes[way])))

    def way(self) -> str:
        """Which way is green now, or was last."""
        return self.green[self.sumo.trafficlight.getPhase(self.name)]

    def standing(self, way: str) -> int:
        """Vehicles that stand on the lanes of a way."""
        return sum(self.sumo.lane.getLastStepHaltingNumber(lane) for lane in self.lanes[way])

    def state(self) -> str:
        """The label: who is green, and both queues."""
        queues = (self.standing(way) for way in WAYS)
        return self.way() + "".join("0" if not n else "1" if n <= FEW else "2" for n in queues)

    def keep(self) -> None:
        """Hold the phase for this epoch."""
        self.sumo.trafficlight.setPhaseDuration(self.name, 2 * EPOCH)

    def switch(self) -> None:
        """End the green phase; yellow and the other way follow by themselves."""
        self.sumo.trafficlight.setPhaseDuration(self.name, 0)


def played(
    net: Path, folder: Path, control: str, rate: int, epochs: int, seed: int
) -> Iterator[Any]:
    """States and rewards of all signals, epoch by epoch."""
    tool("sumo")  # says what to install
    sumo: Any = import_module("libsumo")

    seconds = (epochs + WARM) * EPOCH
    start = [tool("sumo"), "-n", str(net), "--no-step-log", "--no-warnings", "--seed", str(seed)]
    sumo.start(start)  # to ask for the ends of the net
    edges = [e for e in sumo.edge.getIDList() if not e.startswith(":")]
    # The end of a road has a signal too, for the one road that it has.
    signals = {
        name
        for name in sumo.trafficlight.getIDList()
        if len({lane.rsplit("_", 1)[0] for lane in sumo.trafficlight.getControlledLanes(name)}) > 1
    }
    enter = sorted(e for e in edges if sumo.edge.getFromJunction(e) not in signals)
    leave = sorted(e for e in edges if sumo.edge.getToJunction(e) not in signals)
    sumo.close()
    file = trips(folder, (enter, leave), rate, seconds, seed)
    sumo.start([*start, "-r", str(file), "--time-to-teleport", "120"])
    try:
        every = [Signal(sumo, name) for name in sorted(signals)]
        for epoch in range(epochs + WARM):
            states = [signal.state() for signal in every]
            if control == "shared":
                total = {way: sum(s.standing(way) for s in every) for way in WAYS}
                for signal in every:
                    waiting = total[WAYS[1 - WAYS.index(signal.way())]]
                    signal.switch() if waiting >= CROWD else signal.keep()
            paid = np.zeros(len(every))
            for _ in range(EPOCH):
                sumo.simulationStep()
                paid -= [sum(s.standing(way) for way in WAYS) / EPOCH for s in every]
            if epoch >= WARM:
                yield states, paid
    finally:
        sumo.close()


def log_of(control: str, rate: int, epochs: int, seed: int) -> jaxent.Trajectory:
    """The log of nine signals; alone, each is a run of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if control == "alone":
            net = build(folder, 1, True)
            parts = [
                list(played(net, folder, control, rate, epochs, 100 * seed + k))
                for k in range(SIGNALS)
            ]
            rows = [
                ([p[t][0][0] for p in parts], np.array([p[t][1][0] for p in parts]))
                for t in range(epochs)
            ]
        else:
            net = build(folder, 3, control == "actuated")
            rows = list(played(net, folder, control, rate, epochs, seed))
    states = np.array([row[0] for row in rows])
    green = np.array([[label[:2] for label in row[0]] for row in rows])
    switched = np.vstack([green[1:] != green[:-1], np.zeros((1, SIGNALS), bool)])
    clock = np.arange(WARM, WARM + epochs) % ROUND
    return jaxent.Trajectory.from_arrays(
        states,
        np.where(switched, "switch", "keep"),
        np.stack([row[1] for row in rows]),
        signal=clock if control == "clock" else None,
    )


def neighbors() -> np.ndarray:
    """Whether two signals of the grid are next to each other, `[9, 9]`."""
    place = np.array([(k // 3, k % 3) for k in range(SIGNALS)])
    return np.abs(place[:, None] - place[None]).sum(-1) == 1


def measure(control: str, rate: int, config: Config, seed: int) -> dict[str, Any]:
    """The audit of one log, and how much of it is between neighbors."""
    log = log_of(control, rate, config.epochs, seed)
    return {
        "control": control,
        "traffic": rate,
        "standing": float(-np.asarray(log.rewards).mean()),
        **audited(log, neighbors(), discount=DISCOUNT, permutations=config.permutations, seed=seed),
    }


def figures(rows: list[dict[str, Any]], out: Path) -> list[Path]:
    """Entanglement of every signal, by who decides and how much traffic; the errors."""
    with plotting.style():
        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        rates = sorted({row["traffic"] for row in rows})
        for rate, color in zip(rates, (plotting.BLUE, plotting.RED, plotting.GREEN), strict=False):
            some = [row for row in rows if row["traffic"] == rate]
            for row in some:
                at = CONTROLS.index(row["control"]) + 0.25 * rates.index(rate)
                left.plot(np.full(SIGNALS, at), row["entanglement"], "o", color=color, alpha=0.6)
                value, lower, upper = row["error"]
                reach = np.maximum([[value - lower], [upper - value]], 0)
                right.errorbar(at, value, reach, fmt="o", color=color, lw=0.8, capsize=1.5)
            left.plot([], [], "o", color=color, label=f"{rate} vehicles an hour at each end")
        for axis, label in (
            (left, "lower estimate of $E_i$"),
            (right, "error, share of the spread"),
        ):
            axis.set_xticks(np.arange(len(CONTROLS)) + 0.12, CONTROLS)
            axis.axhline(0, color=plotting.GRAY, lw=0.5)
            axis.set(ylabel=label)
        figure.legend(loc="outside upper left", ncols=len(rates))
        return command.save_figure(figure, out / "signals")


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What is known beforehand, beside what was found."""
    by = {(row["control"], row["traffic"]): row for row in rows}
    told = []
    for (control, rate), row in by.items():
        found = f"{row['moved']} of {SIGNALS}"
        if control == "alone":
            claim = f"alone, {rate}: hardly any seems to be moved"
            told.append(Claim(claim, found, row["moved"] <= 2))
        if control == "shared":
            claim = f"shared, {rate}: all are moved"
            told.append(Claim(claim, found, row["moved"] == SIGNALS))
        if control == "actuated":
            claim = f"actuated, {rate}: neighbors move a signal more than others do"
            measured = f"{row['near']:.4f} and {row['far']:.4f}"
            told.append(Claim(claim, measured, row["near"] > row["far"]))
    return told


def work(job: command.Job) -> command.Report:
    """Simulate, audit, draw."""
    rows = list(job.stored.get("rows", []))
    cases = [(c, rate) for c in job.config.control for rate in job.config.traffic]
    for control, rate in tqdm(cases[len(rows) :], unit="log", disable=None):
        rows.append(command.plain(measure(control, rate, job.config, job.seed)))
        job.save({"rows": rows}, f"{len(rows)} of {len(cases)} logs are")
    table = [
        (
            f"{row['control']}, {row['traffic']}",
            f"{row['standing']:.1f}",
            f"{row['moved']} of {SIGNALS}",
            "{:.1%} ({:.1%} to {:.1%})".format(*row["error"]),
            row["verdict"],
        )
        for row in rows
    ]
    heading = ("who decides, traffic", "standing", "moved", "error of the spread", "verdict")
    return command.Report({"rows": rows}, claims(rows), figures(rows, job.out), heading, table)


def main(argv: list[str] | None = None) -> int:
    """Simulate, audit, draw and print; 0 if every claim holds."""
    return command.run("signals", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
