"""What an audit found, and how it is told on one screen: 40 lines of 100 columns."""

from collections.abc import Hashable
from textwrap import wrap
from typing import NamedTuple

import numpy as np

from .._reads import Frame, frame, reads
from ..data.log_table import escaped, printable
from ..data.td_error_fit import ErrorInterval
from .exploration import Exploration
from .next_steps import Step
from .team_error import Share, TeamError
from .verdict import footnotes, percent, ranged

# The screen; agents that have a line each in any case; notes that are printed; letters of a label.
_HEIGHT, _WIDTH = 40, 100
_AGENTS, _NOTES, _LABEL = 3, 3, 32


@reads("{0.headline}")
class Audit(NamedTuple):
    """What an audit found; printing it shows the report.

    Attributes:
        headline: how far what is judged misses the true value of the team, in one sentence.
        verdict: on what is judged: "trust", "trust with care", "do not trust", "undecided" or "not
            enough data".
        sentence: what the verdict means, in one sentence.
        more_steps: about how many more steps would decide; 0 where it is decided, infinite where no
            number can be told.
        next_steps: what to do, the first thing first.
        errors: how far the approximations miss the true value of the team: the critic, if one is
            audited, and the sum of local values. The first is judged.
        source: "logs", lower estimates relative to features, or "policy", estimates of Eq. (10).
        discount: as given.
        agents: labels, N of them.
        words: for each agent: "entangled", "weakly entangled", "no entanglement seen" or "not
            enough data".
        reasons: for each agent why its word is another than its interval suggests, or "".
        entanglement: estimate of E_i, `[N]`, 0 where it came out below; NaN where not enough data.
        lower: end of its 95% interval, not below 0, `[N]`.
        upper: end of its 95% interval, `[N]`.
        p_value: of "no entanglement", `[N]`; NaN where a policy was given, which needs no test.
        share: share of the transitions that start in a pair with enough data, `[N]`.
        pairs: label of every local pair, X of them.
        q_local: learned local Q-values, `[N, X]`; NaN where not enough data.
        occupancy: share of each local pair in each agent's transitions, `[N, X]`.
        theorem_6: 4 discount sum_i E_i r_max_i / (1 - discount)^2, with the upper ends: for the
            worst case, as the next two.
        bound: 2 discount / (1 - discount) sum_i E_i span(Q_i).
        bound_upper: upper end of the 95% interval of the bound, from the batches of all agents
            together.
        unexplained: what no sum of local rewards explains of a shared reward, as a bound on the
            error of values (Prop. 4): its root mean square over 1 - discount; 0 for local rewards.
        scale: mean of |sum_i Q_i| over the log.
        spread: mean of |sum_i Q_i - level| over the log.
        level: mean of sum_i Q_i over the log.
        level_lower: end of its 95% interval, by how far sampling moves the learned values.
        level_upper: end of its 95% interval.
        sampling: how far sampling moves the learned sum beside its level: mean over the log of half
            of the 95% interval.
        influence: row i is moved by column j, `[N, N]`; `[0, 0]` for many agents or with a policy.
        reward_error: root mean square of a shared reward that no sum of local ones explains,
            relative to the reward; 0 for local rewards.
        explored: what the log shows of actions, and how the reward is made where all are tried.
        not_said: what a small error does not say, in one sentence.
        notes: gaps and whatever else the reader should know.
    """

    headline: str
    verdict: str
    sentence: str
    more_steps: float
    next_steps: tuple[Step, ...]
    errors: tuple[TeamError, ...]
    source: str
    discount: float
    agents: tuple[Hashable, ...]
    words: tuple[str, ...]
    reasons: tuple[str, ...]
    entanglement: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray
    share: np.ndarray
    pairs: tuple[tuple[Hashable, ...], ...]
    q_local: np.ndarray
    occupancy: np.ndarray
    theorem_6: float
    bound: float
    bound_upper: float
    unexplained: float
    scale: float
    spread: float
    level: float
    level_lower: float
    level_upper: float
    sampling: float
    influence: np.ndarray
    reward_error: float
    explored: Exploration
    not_said: str
    notes: tuple[str, ...]

    @property
    def error(self) -> TeamError:
        """Of what is judged: the critic, if one is audited, else the sum of local values."""
        return self.errors[0]

    @property
    def sum_error(self) -> TeamError:
        """Of the sum of local values."""
        return self.errors[-1]

    def __str__(self) -> str:
        """The report, on one screen."""
        return "\n".join(_report(self))

    def to_frame(self) -> Frame:
        """Who is entangled, a row an agent."""
        names = ("entanglement", "lower", "upper", "p_value", "share")
        columns = {name: getattr(self, name) for name in names}
        agents = np.array([str(agent) for agent in self.agents])
        return frame({"agent": agents, **columns, "word": self.words})


def _report(a: Audit) -> list[str]:
    above = [*_wrapped(a.headline), f"verdict: {a.verdict}", *_wrapped(a.sentence)]
    for step in a.next_steps:
        above += _wrapped(f"next: {step.rule}: {step.text}", indent="  ")
    for error in a.errors:
        if error.is_told:
            above += ["", *_error(error)]
    if a.reward_error:
        above += [f"  the split of the shared reward leaves {percent(a.reward_error)} unexplained"]
    above += [*_wrapped(a.not_said), *a.explored.lines()]
    report: list[str] = []
    for num_notes in range(_NOTES, -1, -1):  # as many as leave the rest its room
        below = ["", *_worst_case(a), *_rare(a), *_notes(a, num_notes)]
        report = [*above, "", *_agents(a, _HEIGHT - len(above) - len(below) - 1), *below]
        if len(report) <= _HEIGHT:
            break
    return report


def _rare(a: Audit) -> list[str]:
    rare = np.isnan(a.q_local) & (a.occupancy > 0)
    if not rare.any():
        return []
    return [
        f"not enough data: {int(rare.sum())} local pairs of "
        f"{int(rare.any(1).sum())} agents were seen, but too seldom"
    ]


def _notes(a: Audit, number: int) -> list[str]:
    """The first notes, and how many more there are."""
    told = []
    for note in a.notes[:number]:
        told += _wrapped(f"note: {escaped(note)}", indent="  ")
    if len(a.notes) > number:
        told.append(f"note: {len(a.notes) - number} more notes, in the JSON")
    return told


def _wrapped(text: str, indent: str = "") -> list[str]:
    return wrap(
        text, _WIDTH, subsequent_indent=indent, replace_whitespace=False, break_on_hyphens=False
    )


def _error(error: TeamError) -> list[str]:
    """What an approximation misses, number by number."""
    heading = f"error of the {error.name}"
    lines = [f"{heading:<40}{'size':>10}{'of its spread':>26}{'of its mean size':>24}"]
    for what, part in error_rows(error):
        spread, size = _short(error.of_spread(part), 26), _short(error.of_scale(part), 24)
        lines.append(f"  {what:<38}{part.value:>10.4g}{spread:>26}{size:>24}".rstrip())
    seen = "joint pairs" if error.by_pairs else "features of the team"
    lines.append(
        f"  its spread {error.spread:.4g}, its mean size {error.scale:.4g}; "
        f"told by {error.num_steps:,} steps, {error.num_features} {seen}"
    )
    if error.of_spread(error.placebo).lower > _PLACEBO:
        ends = f"{error.placebo.lower:.4g} .. {error.placebo.upper:.4g}"
        lines.append(f"  features of another time show {ends}: the log drifts or has a rhythm")
    return lines


def error_rows(error: TeamError) -> list[tuple[str, ErrorInterval]]:
    """What the numbers of an error are, and their intervals."""
    is_sum = error.name != "critic"
    rows = [("as learned from this log" if is_sum else "as given", error.value)]
    if is_sum:
        rows.append(("differences, as learned from this log", error.differences))
        rows.append(("differences, in the limit of data", error.limit))
    else:
        rows.append(("differences", error.differences))
    bias = error.bias
    if abs(bias.value) < 1e-2 * (bias.upper - bias.lower):
        bias = bias._replace(value=np.float64(0))  # of what this log has taught, but for rounding
    return [*rows, ("a constant off (mean error)", bias)]


# Of the spread, from which on what the placebo shows is worth a line.
_PLACEBO = 0.01


def _short(share: Share, width: int) -> str:
    """In less than a column; of no size nothing."""
    if not np.isfinite(share).all():
        return ""
    text = ranged(share)
    return text if len(text) < width else f"{share.value:.2g} times"


def _agents(a: Audit, room: int) -> list[str]:
    """Who is entangled, the most first, in so many lines if it can be."""
    source = (
        "who is entangled, from logs alone: lower estimates relative to features of the others"
        if a.source == "logs"
        else "who is entangled, from the policy, Eq. (10)"
    )
    heading = [source, f"  {'agent':<16}{'E_i':>9}{'95% interval':>20}{'p':>8}  word"]
    marks = footnotes(a.reasons)
    counted = [f"{a.words.count(word)} {word}" for word in dict.fromkeys(a.words)]
    below = _wrapped(f"  {', '.join(counted)}", indent="  ")
    for reason, mark in marks.items():
        below += _wrapped(f"  {mark} {reason}", indent="    ")
    order = np.argsort(-np.nan_to_num(a.entanglement, nan=-1), kind="stable")
    room = max(room - len(heading) - len(below), _AGENTS + 1)
    lines = [_agent(a, i) + marks.get(a.reasons[i], "") for i in order]
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  ... and {len(lines) - room + 1} more, in the JSON"]
    return heading + lines + below


def _agent(a: Audit, i: int) -> str:
    agent = printable(a.agents[i], _LABEL)
    if a.words[i] == "not enough data":
        return f"  {agent:<16}{'':>37}  not enough data"
    p = "" if np.isnan(a.p_value[i]) else f"{a.p_value[i]:.3f}"
    interval = f"{a.lower[i]:.4f} .. {a.upper[i]:.4f}"
    return f"  {agent:<16}{a.entanglement[i]:>9.4f}{interval:>20}{p:>8}  {a.words[i]}"


def _worst_case(a: Audit) -> list[str]:
    """What the entanglement allows, which is seldom what is."""
    lacking = a.words.count("not enough data")
    if lacking == len(a.agents):
        return ["the worst case that entanglement allows is not known"]
    known = f" (of {len(a.agents) - lacking} agents)" if lacking else ""
    lines = [
        f"the worst case that this entanglement allows{known}, no verdict: {a.bound:.4g}, "
        f"at most {a.bound_upper:.4g}",
        f"  (2 discount / (1 - discount) sum_i E_i span(Q_i)); by Theorem 6 {a.theorem_6:.4g}",
    ]
    if a.reward_error:
        lines.append(f"  and by what the split leaves unexplained at most {a.unexplained:.4g} more")
    return lines


def to_dict(a: Audit) -> dict[str, object]:
    """The audit as what JSON holds; NaN becomes null."""

    def plain(value: object) -> object:
        if hasattr(value, "_asdict"):
            return {name: plain(part) for name, part in value._asdict().items()}  # type: ignore
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, float):
            return value if np.isfinite(value) else None
        return value if isinstance(value, (int, str, bool)) or value is None else str(value)

    return {name: plain(value) for name, value in a._asdict().items()}
