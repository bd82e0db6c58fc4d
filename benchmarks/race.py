"""What all comparisons share: who runs, how it is timed, and what a row of a table holds.

Every way to solve a problem is a function without arguments that ends when its answer is there. The
ways run in turn, round after round, so that other work on the machine meets all of them, with a
pause before each, because the threads of NumPy's BLAS keep a core busy for some 20 ms after their
work is done. A round of a short one is the fastest of a few calls, and the median is over rounds.
The first call of each is apart: what it takes beyond the median is compilation. A way whose first
call is slow is not run again.
"""

import statistics
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax

OURS = "jaxent"
PATIENCE = 5.0  # seconds that all later rounds of one way may take together
SHORT, AT_ONCE = 0.05, 4  # a call shorter than this is repeated so often, the fastest counts
PAUSE = 0.1  # seconds before every way in every round


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        problem: what was solved.
        seconds: median time of each way that ran.
        compile: what the first call took beyond that.
        apart: how far each way's answer is from jaxent's, in the unit of `within`.
        within: how far it may be.
        absent: why a way did not run.
        note: what a reader must know.
    """

    problem: str
    seconds: dict[str, float]
    compile: dict[str, float]
    apart: dict[str, float]
    within: float
    absent: dict[str, str]
    note: str

    @property
    def agrees(self) -> bool:
        """Whether every answer is close enough."""
        return all(apart <= self.within for apart in self.apart.values())

    @property
    def best_peer(self) -> str:
        """The fastest of the peers that ran."""
        return min((who for who in self.seconds if who != OURS), key=self.seconds.__getitem__)

    @property
    def ratio(self) -> float:
        """How many times jaxent's time the best peer takes."""
        return self.seconds[self.best_peer] / self.seconds[OURS]


def race(
    problem: str,
    ways: dict[str, Callable[[], Any]],
    *,
    apart: Callable[[Any, Any], float],
    within: float,
    rounds: int,
    compiled: Collection[str] = (),
    scale: dict[str, Callable[[Any], float]] | None = None,
    absent: dict[str, str] | None = None,
    note: str = "",
) -> Row:
    """Run every way in turn and compare its answer with jaxent's.

    Args:
        problem: what is solved.
        ways: by name, jaxent's under `OURS`; each is called without arguments.
        apart: distance of (jaxent's answer, a peer's answer).
        within: how large it may be.
        rounds: calls of each way after the first, at most.
        compiled: peers whose first call compiles too, so that it never counts.
        scale: factor on the time of a way, from its answer, where it does a known share of the
            work.
        absent: why a way that a reader would look for is not among them.
        note: for the table.
    """
    first, times, answers = {}, {}, {}
    for who, way in ways.items():
        first[who], answers[who] = timed(way)
        times[who] = []
    for _ in range(rounds):
        for who, way in ways.items():
            again = first[who] < PATIENCE or who == OURS or who in compiled
            if again and sum(times[who]) < PATIENCE:
                time.sleep(PAUSE)
                took, answers[who] = timed(way)
                more = AT_ONCE if took < SHORT else 0
                times[who].append(min([took, *(timed(way)[0] for _ in range(more))]))
    seconds = {who: statistics.median(times[who] or [first[who]]) for who in ways}
    scale = scale or {}
    return Row(
        problem,
        {
            who: seconds[who] * scale[who](answers[who]) if who in scale else seconds[who]
            for who in ways
        },
        {who: max(first[who] - seconds[who], 0.0) for who in ways},
        {who: float(apart(answers[OURS], answers[who])) for who in ways if who != OURS},
        within,
        absent or {},
        note,
    )


def timed(way: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its answer."""
    start = time.perf_counter()
    answer = jax.block_until_ready(way())
    return time.perf_counter() - start, answer


def table(rows: list[Row]) -> str:
    """Rows as a table in Markdown, one column a way."""
    ways = list(dict.fromkeys(who for row in rows for who in (*row.seconds, *row.absent)))
    ways.sort(key=lambda who: who != OURS)
    heading = ["problem", *(f"{who}, s" for who in ways), "best peer / jaxent", "compile, s"]
    lines = [[*heading, "apart (allowed)"]]
    for row in rows:
        cells = [
            f"{row.seconds[who]:.3g}" if who in row.seconds else row.absent.get(who, "-")
            for who in ways
        ]
        worst = max(row.apart.values(), default=0.0)
        verdict = "" if row.agrees else " DISAGREES"
        lines.append(
            [
                row.problem,
                *cells,
                f"{row.ratio:.3g}" + (" (behind)" if row.ratio < 1 else ""),
                f"{row.compile[OURS]:.2g}",
                f"{worst:.1g} ({row.within:.1g}){verdict}",
            ]
        )
    lines.insert(1, ["---"] * len(lines[0]))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    return "\n\n".join([text, *notes])
