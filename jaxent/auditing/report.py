r"""The audit: how wrong the sum of a log's local values is, or a trained critic, in words.

Local Q-values are learned from the log (learned_sum.py; Meta Algorithm 1, or 2 for a shared
reward). How far their sum misses the true value of the team is estimated with an interval
(team_error.py), and the verdict follows that interval (verdict.py). Beside it stand who is
entangled (agent_estimates.py), what to do next (next_steps.py), and a bound for the worst case in
mu-norm,

    2 discount / (1 - discount) sum_i E_i span(Q_i),

Theorem 6 with spans of local values for r_max / (1 - discount). What it comes to, and how it is
put on one screen, is result.py's.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_discount, check_positive_int
from .._reads import NOT_SAID
from ..data.estimators import student
from ..data.local_learning import LocalQ
from ..data.local_pairs import check_few_pairs
from ..data.log_columns import show_step
from ..data.log_table import printable
from ..data.observed import states_of_observations
from ..data.tables import Log, count_gaps, read_log
from ..data.trajectory import Trajectory
from .agent_estimates import AgentEstimates, from_logs, from_policy, influence_map
from .critic import critic_along
from .exploration import exploration
from .learned_features import learned_by_features
from .learned_sum import LearnedSum, learned_sum
from .next_steps import Findings, next_steps
from .preparation import count_visits, in_units, own_rewards
from .result import Audit
from .result import to_dict as to_dict
from .team_error import TeamError, error_of_critic, error_of_sum
from .verdict import ENOUGH, MOVED, agent_words, headline, team_verdict

if TYPE_CHECKING:
    import pandas as pd

Array = jax.Array

# Gaps that a report lists one by one.
_LISTED = 20
# A p-value is a multiple of 1 / (1 + this).
_MOST_PERMUTATIONS = 1_000_000


def audit(
    trajectory: "Trajectory | Log | pd.DataFrame | Path | str",
    *,
    discount: float,
    critic: "LocalQ | ArrayLike | pd.DataFrame | Path | None" = None,
    policy: Array | np.ndarray | None = None,
    features: Array | np.ndarray | None = None,
    key: Array | None = None,
    min_visits: int = 50,
    num_permutations: int = 199,
    notes: tuple[str, ...] = (),
    progress: Callable[[int], object] | None = None,
    seed: int | None = None,
) -> Audit:
    r"""How wrong a log's sum of local values is, or a critic; who is entangled; what to do next.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask greedy_gap, or audit a log that explores.

    Where the log explores, or says how likely each action was, the report tells besides how much of
    the reward no sum of local rewards explains by uniform play (`reward_interaction_from_log`).

    Args:
        trajectory: of at least two agents and 50 epochs; or a log, or the table or the path of one,
            as `read_log` takes it. With observations local values are linear in features of these.
        discount: $\gamma$ in [0, 1).
        critic: to be judged in the place of the sum of local values: its value of the team at every
            epoch, `[T]`, or that of every agent, `[T, N]`, which are added up; a frame or the path
            of a file with one row an epoch, in order or with a column t, or one an agent and epoch;
            or local values, `LocalQ` of `[N, X]` or `LinearQ`.
        policy: $\pi_i(a \mid s^t)$ if it is known, `[T, N, A]`; entanglement is then that of Eq.
            (10), which bounds E_i for weakly coupled agents. From logs alone it is a lower estimate
            relative to features.
        features: of the others, `[T, N, d]`; how many of them are in each state, or what they
            observe and do, if not given.
        key: of `jax.random.key`, for permutations and placebo; `jax.random.key(0)` if not given.
        min_visits: a pair seen less often is reported as "not enough data".
        num_permutations: of the test of "no entanglement".
        notes: to be printed with the report, after those on gaps and steps of the log.
        progress: called with the number of agents that were finished since its last call.
        seed: what `key=jax.random.key(seed)` was until 0.2; goes with 0.3.

    Raises:
        ValueError: for one agent, fewer than 50 epochs, a continuous column, more than 1023 local
            pairs without a policy, a policy that does not fit, a critic that does not match the
            log's rows, or a log as `read_log` refuses it.

    References:
        Chen and Peng, Section 7.2, Meta Algorithms 1 and 2, Theorem 6.
    """
    key = _key(key, seed)
    log = read_log(trajectory)
    trajectory, notes = states_of_observations(log.trajectory), _log_notes(log) + notes
    check_discount(discount)
    _check_count("min_visits", min_visits, 2**31 - 1)
    _check_count("num_permutations", num_permutations, _MOST_PERMUTATIONS)
    _check_log(trajectory, known_policy=policy is not None)
    values = None if critic is None else critic_along(critic, trajectory)
    trajectory, unit = in_units(trajectory)
    paid = trajectory
    trajectory, left, reward_error, rough = own_rewards(trajectory, key)
    unexplained = left / (1 - float(discount))
    learned = _learned(key, trajectory, float(discount))
    visits = count_visits(trajectory)
    known = visits >= min_visits  # [N, X]
    progress = (lambda _: None) if progress is None else progress
    placebo_key = jax.random.fold_in(key, trajectory.num_agents)
    with ThreadPoolExecutor(1) as beside:  # while JAX compiles the other estimates
        waiting = beside.submit(_errors, placebo_key, paid, learned, values, unit, float(discount))
        if policy is None:
            found = from_logs(key, trajectory, features, min_visits, num_permutations, progress)
            influence = influence_map(trajectory, min_visits)
        else:
            found = from_policy(trajectory, policy, progress)
            influence = np.zeros((0, 0))
        errors = waiting.result()
    share = np.where(known, visits, 0).sum(1) / np.maximum(visits.sum(1), 1)
    lacking = (share < ENOUGH) | np.isnan(found.entanglement)
    found = found.without(lacking)
    num_folds = 2 if policy is None else 1
    bounds = _bounds(found, trajectory, learned.spans(known), discount, num_folds)
    found = found.from_zero()
    words, reasons = agent_words(found._asdict(), lacking, from_logs=policy is None)
    verdict = team_verdict(words, errors[0])
    steps = next_steps(
        Findings(
            trajectory=paid,
            discount=float(discount),
            verdict=verdict,
            error=errors[0],
            of_sum=errors[-1],
            local=learned.apart,
            moved=np.isin(words, MOVED),
            entanglement=found.entanglement,
            influence=influence,
            visits=visits,
            min_visits=min_visits,
            reward_error=reward_error,
            key=placebo_key,
        )
    )
    return Audit(
        headline=headline(errors[0]),
        verdict=verdict.word,
        sentence=verdict.sentence,
        more_steps=verdict.more_steps,
        next_steps=steps,
        errors=tuple(error.times(unit) for error in errors),
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
        explored=exploration(paid, visits, min_visits),
        not_said=NOT_SAID,
        notes=notes + rough + _placebo(found, trajectory),
    )


def _errors(
    key: Array,
    trajectory: Trajectory,
    learned: LearnedSum,
    critic: np.ndarray | None,
    unit: float,
    discount: float,
) -> tuple[TeamError, ...]:
    """Of the critic, if there is one, and of the sum of local values."""
    of_sum = error_of_sum(key, trajectory, learned, discount)
    if critic is None:
        return (of_sum,)
    return error_of_critic(key, trajectory, critic / unit, discount), of_sum


def _learned(key: Array, trajectory: Trajectory, discount: float) -> LearnedSum:
    """In tables, or by features of what agents observe."""
    if trajectory.observations is None:
        return learned_sum(trajectory, discount)
    return learned_by_features(jax.random.fold_in(key, 1), trajectory, discount)


def _placebo(found: AgentEstimates, trajectory: Trajectory) -> tuple[str, ...]:
    """Agents for whom features of another time seem to matter as well."""
    seen = np.nan_to_num(found.placebo) > (found.upper - found.lower) / 2
    if not seen.any():
        return ()
    told = ", ".join(
        f"{printable(trajectory.labels.agents[i])} {np.ravel(found.placebo)[i]:.3f}"
        for i in np.flatnonzero(seen)[:_LISTED]
    )
    return (
        f"features of another time show entanglement as well ({told}): what observations tell of "
        "the next step is not all in the model",
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
    if known_policy and trajectory.observations is not None:
        raise ValueError("policy: is compared by local states; of agents that see numbers leave it")
    check_few_pairs(trajectory, limited=not known_policy)


def _bounds(
    found: AgentEstimates,
    trajectory: Trajectory,
    span: np.ndarray,
    discount: float,
    num_folds: int,
) -> dict[str, float]:
    """The bound by spans of local values, the upper end of its interval, and that of Theorem 6."""
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
