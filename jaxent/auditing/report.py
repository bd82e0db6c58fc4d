r"""The audit: whether value decomposition can be trusted for the agents of a log, in words.

Local Q-values are learned from the log (Meta Algorithm 1, or 2 for a shared reward), every agent's
entanglement is estimated (agent_estimates.py), and both meet in the bound on the error in mu-norm,

    2 discount / (1 - discount) sum_i E_i span(Q_i),

Theorem 6 with spans of local values for r_max / (1 - discount). It is for the values of an endless
log; how far sampling moves those of this one is learned_sum.py's to say. What both come to for the
team is put into words by verdict.py.
"""

import warnings
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from .._checks import check_discount, check_positive_int
from ..data.estimators import student
from ..data.local_pairs import check_few_pairs
from ..data.log_columns import show_step
from ..data.log_table import escaped, printable
from ..data.reward_split import fit_local_rewards, with_rewards
from ..data.tables import Log, count_gaps, read_log
from ..data.trajectory import Trajectory
from ..numerics.arrays import relative
from .agent_estimates import AgentEstimates, from_logs, from_policy, influence_map
from .learned_sum import learned_sum
from .verdict import ENOUGH, Errors, agent_words, footnotes, team_verdict

if TYPE_CHECKING:
    import pandas as pd

Array = jax.Array

# Gaps that a report lists one by one.
_LISTED = 20
# A p-value is a multiple of 1 / (1 + this).
_MOST_PERMUTATIONS = 1_000_000


class Audit(NamedTuple):
    """What an audit found; printing it shows the report.

    Attributes:
        verdict: on the team: "trust", "trust with care", "do not trust", "undecided" or "not enough
            data".
        sentence: what the verdict means, in one sentence.
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
        theorem_6: 4 discount sum_i E_i r_max_i / (1 - discount)^2, with the upper ends.
        bound: 2 discount / (1 - discount) sum_i E_i span(Q_i).
        bound_upper: upper end of the 95% interval of the bound, from the batches of all agents
            together.
        unexplained: what no sum of local rewards explains of a shared reward, as a bound on the
            error of values (Prop. 4): its root mean square over 1 - discount; 0 for local rewards.
        scale: mean of |sum_i Q_i| over the log.
        spread: mean of |sum_i Q_i - level| over the log, what the errors are compared with.
        level: mean of sum_i Q_i over the log.
        level_lower: end of its 95% interval, by how far sampling moves the learned values.
        level_upper: end of its 95% interval.
        sampling: how far sampling moves the learned sum beside its level: mean over the log of half
            of the 95% interval.
        influence: row i is moved by column j, `[N, N]`; `[0, 0]` for many agents or with a policy.
        reward_error: root mean square of a shared reward that no sum of local ones explains,
            relative to the reward; 0 for local rewards.
        notes: gaps and whatever else the reader should know.
    """

    verdict: str
    sentence: str
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
    notes: tuple[str, ...]

    @property
    def errors(self) -> Errors:
        """What the verdict is made of, as shares of the spread."""
        return Errors.relative(self.bound_upper, self.unexplained, self.sampling, self.spread)

    def __str__(self) -> str:
        """The report."""
        return "\n".join(_report(self))


def audit(
    trajectory: "Trajectory | Log | pd.DataFrame | Path | str",
    *,
    discount: float,
    policy: Array | np.ndarray | None = None,
    features: Array | np.ndarray | None = None,
    key: Array | None = None,
    min_visits: int = 50,
    num_permutations: int = 199,
    notes: tuple[str, ...] = (),
    progress: Callable[[int], object] | None = None,
    seed: int | None = None,
) -> Audit:
    r"""Audit a log: local values, entanglement of every agent, bounds, and a verdict.

    Args:
        trajectory: of at least two agents and 50 epochs; or a log, or the table or the path of one,
            as `read_log` takes it.
        discount: $\gamma$ in [0, 1).
        policy: $\pi_i(a \mid s^t)$ if it is known, `[T, N, A]`; entanglement is then that of Eq.
            (10), which bounds E_i for weakly coupled agents. From logs alone it is a lower estimate
            relative to features.
        features: of the others, `[T, N, d]`; how many of them are in each state if not given.
        key: of `jax.random.key`, for the permutations; `jax.random.key(0)` if not given.
        min_visits: a pair seen less often is reported as "not enough data".
        num_permutations: of the test of "no entanglement".
        notes: to be printed with the report, after those on gaps and steps of the log.
        progress: called with the number of agents that were finished since its last call.
        seed: what `key=jax.random.key(seed)` was until 0.2; goes with 0.3.

    Raises:
        ValueError: for one agent, fewer than 50 epochs, a continuous column, more than 1023 local
            pairs without a policy, a policy that does not fit, or a log as `read_log` refuses it.

    References:
        Chen and Peng, Section 7.2, Meta Algorithms 1 and 2, Theorem 6.
    """
    key = _key(key, seed)
    log = read_log(trajectory)
    trajectory, notes = log.trajectory, _log_notes(log) + notes
    check_discount(discount)
    _check_count("min_visits", min_visits, 2**31 - 1)
    _check_count("num_permutations", num_permutations, _MOST_PERMUTATIONS)
    _check_log(trajectory, known_policy=policy is not None)
    trajectory, unit = _in_units(trajectory)
    trajectory, left, reward_error, rough = _own_rewards(trajectory)
    unexplained = left / (1 - float(discount))
    learned = learned_sum(trajectory, float(discount))
    visits = _visits(trajectory)
    known = visits >= min_visits  # [N, X]
    progress = (lambda _: None) if progress is None else progress
    if policy is None:
        found = from_logs(key, trajectory, features, min_visits, num_permutations, progress)
        influence = influence_map(key, trajectory, min_visits)
    else:
        found = from_policy(trajectory, policy, progress)
        influence = np.zeros((0, 0))
    share = np.where(known, visits, 0).sum(1) / np.maximum(visits.sum(1), 1)
    lacking = (share < ENOUGH) | np.isnan(found.entanglement)
    found = found.without(lacking)
    num_folds = 2 if policy is None else 1
    bounds = _bounds(found, trajectory, learned.apart, known, discount, num_folds)
    found = found.from_zero()
    words, reasons = agent_words(found._asdict(), lacking, from_logs=policy is None)
    upper = bounds["bound_upper"]
    errors = Errors.relative(upper, unexplained, learned.sampling, learned.spread)
    verdict, sentence = team_verdict(words, errors, from_logs=policy is None)
    return Audit(
        verdict=verdict,
        sentence=sentence,
        source="logs" if policy is None else "policy",
        discount=float(discount),
        agents=trajectory.labels.agents,
        words=words,
        reasons=reasons,
        entanglement=found.entanglement,
        lower=found.lower,
        upper=found.upper,
        p_value=found.p_value,
        share=share,
        pairs=tuple(trajectory.pair_label(x) for x in range(trajectory.num_pairs)),
        q_local=np.where(known, learned.q_local, np.nan) * unit,
        occupancy=learned.occupancy,
        **{name: bound * unit for name, bound in bounds.items()},
        unexplained=unexplained * unit,
        scale=learned.scale * unit,
        spread=learned.spread * unit,
        level=learned.level * unit,
        level_lower=(learned.level - learned.level_error) * unit,
        level_upper=(learned.level + learned.level_error) * unit,
        sampling=learned.sampling * unit,
        influence=influence,
        reward_error=reward_error,
        notes=notes + rough,
    )


def _key(key: Array | None, seed: int | None) -> Array:
    """The key, that of a deprecated seed, or the one that stands for neither."""
    if seed is None:
        return jax.random.key(0) if key is None else key
    moved = "audit: the argument seed is now key=jax.random.key(seed)"
    warnings.warn(f"{moved}; the old way goes with 0.3", DeprecationWarning, stacklevel=3)
    return jax.random.key(seed)


def _check_count(name: str, value: int, most: int) -> None:
    check_positive_int(name, value)
    if value > most:
        raise ValueError(f"{name}: {value} is more than {most}")


def _log_notes(log: Log) -> tuple[str, ...]:
    """The first gaps, how many there are, and the step of t."""
    notes = log.gaps[:_LISTED]
    if len(log.gaps) > _LISTED:
        notes += (f"{len(log.gaps) - _LISTED} more gaps",)
    if log.gaps:
        notes += (f"epochs without rows: {count_gaps(log.trajectory)}",)
    if log.trajectory.step != 1:
        step = show_step(log.trajectory.step, log.trajectory.unit)
        notes += (f"from one epoch to the next t goes by {step}; step= (--step) gives another",)
    return notes


def _check_log(trajectory: Trajectory, *, known_policy: bool) -> None:
    if trajectory.num_agents < 2:
        raise ValueError(
            f"column agent: every row is of {printable(trajectory.labels.agents[0])}; "
            "entanglement is with others, so wanted at least 2 agents"
        )
    if trajectory.num_epochs < 50:
        raise ValueError(f"column t: {trajectory.num_epochs} epochs are too few; wanted 50")
    check_few_pairs(trajectory, limited=not known_policy)


def _in_units(trajectory: Trajectory) -> tuple[Trajectory, float]:
    """Rewards of size 1, and the power of 2 that they are in: in float32 1e39 would be infinite."""
    rewards = np.asarray(trajectory.rewards, np.float64)
    paid = rewards if trajectory.shares_reward else np.where(trajectory.present, rewards, 0)
    largest = np.abs(paid).max(initial=0)
    unit = float(np.ldexp(1.0, np.frexp(largest)[1] - 1)) if largest > 0 else 1.0
    return replace(trajectory, rewards=rewards / unit), unit


def _own_rewards(trajectory: Trajectory) -> tuple[Trajectory, float, float, tuple[str, ...]]:
    """With a reward for each agent; what a split of a shared one leaves, as it is and relative to
    the reward; a note if the split is rough."""
    if not trajectory.shares_reward:
        return trajectory, 0.0, 0.0, ()
    fit = fit_local_rewards(trajectory)
    rough = f"the split of the shared reward is rough: residual {fit.residual:.2g}"
    notes = () if fit.converged else (rough,)
    share = float(relative(fit.error, fit.scale))
    return with_rewards(trajectory, fit.reward), float(fit.error), share, notes


def _visits(trajectory: Trajectory) -> np.ndarray:
    """Transitions from each local pair of each agent, `[N, X]`."""
    agent = np.broadcast_to(np.arange(trajectory.num_agents), trajectory.follows.shape)
    cell = agent * trajectory.num_pairs + np.asarray(trajectory.pairs)[:-1]
    size = trajectory.num_agents * trajectory.num_pairs
    return np.bincount(cell[np.asarray(trajectory.follows)], minlength=size).reshape(
        trajectory.num_agents, -1
    )


def _bounds(
    found: AgentEstimates,
    trajectory: Trajectory,
    value: np.ndarray,
    known: np.ndarray,
    discount: float,
    num_folds: int,
) -> dict[str, float]:
    """The bound by spans of local values, the upper end of its interval, and that of Theorem 6."""
    high, low = np.where(known, value, -np.inf).max(1), np.where(known, value, np.inf).min(1)
    span = np.where(known.any(1), high - low, 0)
    rate = 2 * discount / (1 - discount)
    bound = max(0.0, float(rate * np.nansum(found.entanglement * span)))
    # Agents err together, so it is the batches of their sum that tell how far it is off.
    num_batches = found.batches.shape[1]
    error = rate * (found.batches * span[:, None]).sum(0).std(ddof=1) / np.sqrt(num_batches)
    # What one fold is judged on another learns from: errors of two may add up, as for each agent.
    error = error * np.sqrt(num_folds)
    largest = np.abs(np.where(trajectory.present, trajectory.rewards, 0)).max(0)
    upper = np.nansum(np.minimum(found.from_zero().upper, 1) * largest)
    return {
        "theorem_6": float(4 * discount / (1 - discount) ** 2 * upper),
        "bound": bound,
        "bound_upper": bound + student(0.95, num_batches) * float(error),
    }


def _report(a: Audit) -> list[str]:
    source = (
        "from logs alone: lower estimates relative to the features of the others"
        if a.source == "logs"
        else "from the policy, Eq. (10)"
    )
    lines = [
        f"verdict: {a.verdict}",
        a.sentence,
        "",
        f"entanglement {source}",
        f"  {'agent':<16}{'E_i':>9}{'95% interval':>20}{'p':>8}  word",
    ]
    marks = footnotes(a.reasons)
    order = np.argsort(-np.nan_to_num(a.entanglement, nan=-1), kind="stable")
    for i in order[:20]:
        agent = printable(a.agents[i], 40)
        if a.words[i] == "not enough data":
            lines.append(f"  {agent:<16}{'':>37}  not enough data")
            continue
        p = "" if np.isnan(a.p_value[i]) else f"{a.p_value[i]:.3f}"
        interval = f"{a.lower[i]:.4f} .. {a.upper[i]:.4f}"
        lines.append(
            f"  {agent:<16}{a.entanglement[i]:>9.4f}{interval:>20}{p:>8}  {a.words[i]}"
            + marks.get(a.reasons[i], "")
        )
    if len(order) > 20:
        lines.append(f"  ... and {len(order) - 20} more, in the JSON")
    lines += [f"  {a.words.count(word)} {word}" for word in dict.fromkeys(a.words)]
    lines += [f"  {mark} {reason}" for reason, mark in marks.items()]
    level = f"{a.level_lower:.4g} .. {a.level_upper:.4g}"
    lines += [
        "",
        "error of the sum of local values, in mu-norm, in the limit of data",
        f"  {'bound by spans of local values, estimate':<44}{a.bound:>12.4g}",
        f"  {'upper end of its 95% interval':<44}{a.bound_upper:>12.4g}",
        f"  {'Theorem 6, with the upper ends of all E_i':<44}{a.theorem_6:>12.4g}",
    ]
    if a.reward_error:
        lines += [
            f"  {'shared reward not explained, relative':<44}{a.reward_error:>12.2%}",
            f"  {'what that adds at most':<44}{a.unexplained:>12.4g}",
        ]
    lines += [
        f"  {'spread of the sum of local values':<44}{a.spread:>12.4g}",
        f"  {'upper end, relative to the spread':<44}{a.errors.limit:>12.2%}",
        "",
        "what this log has taught of it; sampling is in no bound above",
        f"  {'moved by sampling, 95%, beside the level':<44}{a.sampling:>12.4g}",
        f"  {'the same, relative to the spread':<44}{a.errors.sampling:>12.2%}",
        f"  {'level (mean) of the learned sum':<44}{a.level:>12.4g}",
        f"  {'its 95% interval':<44}{level:>24}",
        f"  {'mean size of the learned sum':<44}{a.scale:>12.4g}",
    ]
    rare = np.isnan(a.q_local) & (a.occupancy > 0)
    if rare.any():
        lines += [
            "",
            f"not enough data: {int(rare.sum())} local pairs of "
            f"{int(rare.any(1).sum())} agents were seen, but too seldom",
        ]
    return lines + ([""] + [f"note: {escaped(note)}" for note in a.notes] if a.notes else [])


def to_dict(a: Audit) -> dict[str, object]:
    """The audit as what JSON holds; NaN becomes null."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, float):
            return value if np.isfinite(value) else None
        return value if isinstance(value, (int, str, bool)) or value is None else str(value)

    return {name: plain(value) for name, value in a._asdict().items()}
