r"""The audit: whether value decomposition can be trusted for the agents of a log, in words.

Local Q-values are learned from the log (Meta Algorithm 1, or 2 for a shared reward), every agent's
entanglement is estimated, and both meet in the bound on the error in mu-norm,

    2 discount / (1 - discount) sum_i E_i span(Q_i),

Theorem 6 with spans of local values for r_max / (1 - discount). The words are defined by numbers in
docs/audit.md.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_finite, check_positive_int, check_shape
from ..data.estimators import by_local, entanglement_interval, student
from ..data.local_learning import lstd_local_q
from ..data.log_entanglement import entanglement_from_logs
from ..data.reward_split import fit_local_rewards, with_rewards
from ..data.trajectory import Trajectory

# The numbers behind the words; docs/audit.md says them to the reader.
FALSE_DISCOVERY = 0.05
WEAK = 0.05
TRUSTED, CARE = 0.1, 0.5
ENOUGH = 0.5

# Agents estimated in one call, and calls at a time.
_CHUNK, _WORKERS = 10, 2
# Up to so many agents have a map of who moves whom.
_MAPPED = 8
_BATCHES = 20
_COLUMNS = ("entanglement", "lower", "upper", "p_value", "batches")


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
        entanglement: estimate of E_i, `[N]`; NaN where not enough data.
        lower: end of its 95% interval, `[N]`.
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
        scale: mean of |sum_i Q_i| over the log.
        influence: row i is moved by column j, `[N, N]`; `[0, 0]` for many agents or with a policy.
        reward_error: root mean square of a shared reward that no sum of local ones explains,
            relative to the reward; 0 for local rewards.
        notes: gaps and whatever else the reader should know.
    """

    verdict: str
    sentence: str
    source: str
    discount: float
    agents: tuple[Any, ...]
    words: tuple[str, ...]
    entanglement: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray
    share: np.ndarray
    pairs: tuple[tuple[Any, ...], ...]
    q_local: np.ndarray
    occupancy: np.ndarray
    theorem_6: float
    bound: float
    bound_upper: float
    scale: float
    influence: np.ndarray
    reward_error: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The report."""
        return "\n".join(_report(self))


def audit(
    trajectory: Trajectory,
    *,
    discount: float,
    policy: Any = None,
    features: Any = None,
    seed: int = 0,
    min_visits: int = 50,
    num_permutations: int = 199,
    notes: tuple[str, ...] = (),
    progress: Callable[[int], Any] | None = None,
) -> Audit:
    r"""Audit a log: local values, entanglement of every agent, bounds, and a verdict.

    Args:
        trajectory: of at least two agents and 50 epochs.
        discount: $\gamma$ in [0, 1).
        policy: $\pi_i(a \mid s^t)$ if it is known, `[T, N, A]`; entanglement is then that of Eq.
            (10), which bounds E_i for weakly coupled agents. From logs alone it is a lower estimate
            relative to features.
        features: of the others, `[T, N, d]`; how many of them are in each state if not given.
        seed: of the permutations.
        min_visits: a pair seen less often is reported as "not enough data".
        num_permutations: of the test of "no entanglement".
        notes: to be printed with the report, as gaps of the log.
        progress: called with a number of agents whenever so many more are done.

    Raises:
        ValueError: for one agent, fewer than 50 epochs, or a policy that does not fit.

    References:
        Chen and Peng, Section 7.2, Meta Algorithms 1 and 2, Theorem 6.
    """
    check_discount(discount)
    check_positive_int("min_visits", min_visits)
    num_agents = trajectory.num_agents
    if num_agents < 2:
        raise ValueError(
            f"column agent: every row is of {trajectory.labels.agents[0]!s}; "
            "entanglement is with others, so wanted at least 2 agents"
        )
    if trajectory.num_epochs < 50:
        raise ValueError(f"column t: {trajectory.num_epochs} epochs are too few; wanted 50")
    progress = (lambda _: None) if progress is None else progress

    reward_error = 0.0
    if trajectory.shares_reward:
        fit = fit_local_rewards(trajectory)
        if not fit.converged:
            notes += (f"the split of the shared reward is rough: residual {fit.residual:.2g}",)
        reward_error = float(fit.error / jnp.maximum(fit.scale, jnp.finfo(fit.scale.dtype).tiny))
        trajectory = with_rewards(trajectory, fit.reward)
    learned = jax.tree.map(np.asarray, lstd_local_q(_as_float(trajectory), discount=discount))
    visits = _visits(trajectory)
    known = visits >= min_visits  # [N, X]
    scale = _mean_total(trajectory, learned.value)

    influence = np.zeros((0, 0))
    if policy is None:
        found = _from_logs(trajectory, features, seed, min_visits, num_permutations, progress)
        if num_agents <= _MAPPED:
            influence = _map(trajectory, seed, min_visits, num_permutations)
    else:
        found = _from_policy(trajectory, policy, progress)
    share = np.where(known, visits, 0).sum(1) / np.maximum(visits.sum(1), 1)
    lacking = (share < ENOUGH) | np.isnan(found["entanglement"])
    batches = np.where(lacking[:, None], 0, found.pop("batches"))
    for name in ("entanglement", "lower", "upper", "p_value"):
        found[name] = np.where(lacking, np.nan, found[name])
    words = _words(found, lacking, from_logs=policy is None)

    q_local = np.where(known, learned.value, np.nan)
    filled = np.where(known, learned.value, learned.value[known].mean() if known.any() else 0)
    high = np.where(known, filled, -np.inf).max(1)
    span = np.where(known.any(1), high - np.where(known, filled, np.inf).min(1), 0)
    largest = np.abs(np.where(trajectory.present, trajectory.rewards, 0)).max(0)
    rate = 2 * discount / (1 - discount)
    total = float(rate * np.nansum(found["entanglement"] * span))
    # Agents err together, so it is the batches of their sum that tell how far it is off.
    error = rate * (batches * span[:, None]).sum(0).std(ddof=1) / np.sqrt(batches.shape[1])
    error = error * np.sqrt(2) if policy is None else error  # as for each agent: two folds
    bound = max(0.0, total)
    bound_upper = bound + student(0.95, batches.shape[1]) * float(error)
    theorem_6 = float(
        4 * discount / (1 - discount) ** 2 * np.nansum(np.minimum(found["upper"], 1) * largest)
    )
    verdict, sentence = _verdict(words, bound_upper, scale, num_agents, policy is None)
    return Audit(
        verdict=verdict,
        sentence=sentence,
        source="logs" if policy is None else "policy",
        discount=float(discount),
        agents=trajectory.labels.agents,
        words=words,
        **found,
        share=share,
        pairs=tuple(trajectory.pair_label(x) for x in range(trajectory.num_pairs)),
        q_local=q_local,
        occupancy=learned.occupancy,
        theorem_6=theorem_6,
        bound=bound,
        bound_upper=bound_upper,
        scale=scale,
        influence=influence,
        reward_error=reward_error,
        notes=notes,
    )


def _as_float(trajectory: Trajectory) -> Trajectory:
    """Rewards in JAX's default float, so that nothing is learned in more than it computes."""
    rewards = jnp.asarray(trajectory.rewards, float)
    names = ("states", "actions", "signal", "episode", "time", "present", "labels")
    return Trajectory(rewards=rewards, **{name: getattr(trajectory, name) for name in names})


def _visits(trajectory: Trajectory) -> np.ndarray:
    """Transitions from each local pair of each agent, `[N, X]`."""
    agent = np.broadcast_to(np.arange(trajectory.num_agents), trajectory.follows.shape)
    cell = agent * trajectory.num_pairs + np.asarray(trajectory.pairs)[:-1]
    size = trajectory.num_agents * trajectory.num_pairs
    return np.bincount(cell[np.asarray(trajectory.follows)], minlength=size).reshape(
        trajectory.num_agents, -1
    )


def _mean_total(trajectory: Trajectory, q: np.ndarray) -> float:
    """Mean over epochs of |sum_i Q_i(x_i)|."""
    each = q[np.arange(trajectory.num_agents), np.asarray(trajectory.pairs)]
    return float(np.abs(np.where(trajectory.present, each, 0).sum(1)).mean())


def _from_logs(trajectory, features, seed, min_visits, num_permutations, progress) -> dict:
    """Chunks of agents, two at a time: a chunk of one shape is compiled once."""
    agents = np.arange(trajectory.num_agents)
    size = min(_CHUNK, len(agents))
    chunks = [agents[k : k + size] for k in range(0, len(agents), size)]
    keys = jax.random.split(jax.random.key(seed), len(chunks))

    def estimate(key, chunk):
        padded = np.resize(chunk, size)
        found = entanglement_from_logs(
            key,
            trajectory,
            agents=padded,
            features=features,
            min_visits=min_visits,
            num_permutations=num_permutations,
        )
        progress(len(chunk))
        columns = (found.value, found.lower, found.upper, found.p_value, found.batches)
        return [np.asarray(x, float)[: len(chunk)] for x in columns]

    # The first alone, or two threads would compile the same.
    parts = [estimate(keys[0], chunks[0])]
    with ThreadPoolExecutor(_WORKERS) as pool:
        parts += pool.map(estimate, keys[1:], chunks[1:])
    columns = (np.concatenate(x) for x in zip(*parts, strict=True))
    return dict(zip(_COLUMNS, columns, strict=True))


def _from_policy(trajectory, policy, progress) -> dict:
    """Eq. (10), cross-fitted, for every agent."""
    laws = jnp.asarray(policy)
    check_shape("policy", laws, (*trajectory.states.shape, trajectory.num_actions))
    check_finite("policy", laws)
    local = trajectory.states * trajectory.num_signals + trajectory.signal[:, None]
    num_local = trajectory.num_states * trajectory.num_signals

    @jax.jit
    def one(laws, local, present):
        every, here = by_local(laws, local, num_local=num_local)
        return entanglement_interval(every, here * present[:, None], num_batches=_BATCHES)

    rows = []
    for i in range(trajectory.num_agents):
        present = jnp.asarray(trajectory.present[:, i], laws.dtype)
        found = one(laws[:, i], local[:, i], present)
        rows.append([found.value, found.lower, found.upper, np.nan, found.batches])
        progress(1)
    columns = (np.asarray(x, float) for x in zip(*rows, strict=True))
    return dict(zip(_COLUMNS, columns, strict=True))


def _map(trajectory, seed, min_visits, num_permutations) -> np.ndarray:
    """Lower estimate of each E_i relative to the state of one other agent, `[N, N]`."""
    num_agents = trajectory.num_agents
    states = np.asarray(trajectory.states)[..., None] == np.arange(trajectory.num_states)
    states = states & np.asarray(trajectory.present)[..., None]  # [T, N, S]
    keys = jax.random.split(jax.random.key(seed + 1), num_agents)
    table = np.zeros((num_agents, num_agents))
    for j in range(num_agents):
        found = entanglement_from_logs(
            keys[j],
            trajectory,
            features=np.repeat(states[:, j : j + 1], num_agents, axis=1).astype(int),
            min_visits=min_visits,
            num_permutations=num_permutations,
        )
        table[:, j] = np.maximum(np.asarray(found.value), 0)
    np.fill_diagonal(table, 0)
    return table


def _words(found: dict, lacking: np.ndarray, *, from_logs: bool) -> tuple[str, ...]:
    """One word for each agent."""
    if from_logs:
        p = np.sort(found["p_value"][~lacking])
        # Benjamini and Hochberg: of the agents called entangled so few are not.
        below = np.flatnonzero(p <= FALSE_DISCOVERY * np.arange(1, len(p) + 1) / max(len(p), 1))
        line = p[below[-1]] if len(below) else -1
        seen = found["p_value"] <= line
    else:
        seen = found["lower"] > 0
    words = np.where(seen, np.where(found["upper"] < WEAK, "weakly entangled", "entangled"), "")
    words = np.where(seen, words, "no entanglement seen")
    return tuple(np.where(lacking, "not enough data", words).tolist())


def _verdict(words, bound_upper, scale, num_agents, from_logs) -> tuple[str, str]:
    relative = bound_upper / scale if scale > 0 else np.inf
    entangled = sum(word in ("entangled", "weakly entangled") for word in words)
    far = " as far as the features of the others show" if from_logs else ""
    if words.count("not enough data") > num_agents / 2:
        return "not enough data", (
            f"{words.count('not enough data')} of {num_agents} agents have too few transitions "
            "from most of their pairs."
        )
    if relative <= TRUSTED:
        return "trust", (
            f"A sum of local values is within {relative:.1%} of the value of the team{far}."
        )
    if relative <= CARE:
        return "trust with care", (
            f"A sum of local values is within {relative:.0%} of the value of the team{far}: good "
            "enough to compare policies that differ by more."
        )
    if entangled:
        return "do not trust", (
            f"{entangled} of {num_agents} agents are moved by the others, and the bound on the "
            f"error of a sum of local values is {relative:.0%} of the value of the team."
        )
    return "undecided", (
        "No agent is seen to be moved by the others, but intervals are so wide that the bound on "
        f"the error is {relative:.0%} of the value of the team: more data is needed."
    )


def _report(a: Audit) -> list[str]:
    relative = a.bound_upper / a.scale if a.scale > 0 else np.inf
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
    order = np.argsort(-np.nan_to_num(a.entanglement, nan=-1), kind="stable")
    for i in order[:20]:
        if a.words[i] == "not enough data":
            lines.append(f"  {a.agents[i]!s:<16}{'':>37}  not enough data")
            continue
        p = "" if np.isnan(a.p_value[i]) else f"{a.p_value[i]:.3f}"
        interval = f"{a.lower[i]:.4f} .. {a.upper[i]:.4f}"
        lines.append(
            f"  {a.agents[i]!s:<16}{a.entanglement[i]:>9.4f}{interval:>20}{p:>8}  {a.words[i]}"
        )
    if len(order) > 20:
        lines.append(f"  ... and {len(order) - 20} more, in the JSON")
    lines += [f"  {a.words.count(word)} {word}" for word in dict.fromkeys(a.words)]
    lines += [
        "",
        "error of the sum of local values, in mu-norm",
        f"  {'bound by spans of local values, estimate':<44}{a.bound:>12.4g}",
        f"  {'upper end of its 95% interval':<44}{a.bound_upper:>12.4g}",
        f"  {'Theorem 6, with the upper ends of all E_i':<44}{a.theorem_6:>12.4g}",
        f"  {'mean size of the sum of local values':<44}{a.scale:>12.4g}",
        f"  {'upper end, relative':<44}{relative:>12.2%}",
    ]
    if a.reward_error:
        lines.append(f"  {'shared reward not explained, relative':<44}{a.reward_error:>12.2%}")
    rare = np.isnan(a.q_local) & (a.occupancy > 0)
    if rare.any():
        lines += [
            "",
            f"not enough data: {int(rare.sum())} local pairs of "
            f"{int(rare.any(1).sum())} agents were seen, but too seldom",
        ]
    return lines + ([""] + [f"note: {note}" for note in a.notes] if a.notes else [])


def to_dict(a: Audit) -> dict[str, Any]:
    """The audit as what JSON holds; NaN becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, float):
            return value if np.isfinite(value) else None
        return value if isinstance(value, (int, str, bool)) or value is None else str(value)

    return {name: plain(value) for name, value in a._asdict().items()}
