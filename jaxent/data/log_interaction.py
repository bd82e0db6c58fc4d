r"""How much of a team's reward no sum of local rewards explains, under uniform play, from a log.

The play that is recorded weighs actions by its policy. With weights w_t = Π_i 1 / (A_i π_i(a_i)),
an average over the log is one of uniform play in the same states, each action of each agent as
often as any other, and

    share = min over r_i of E_w (R - Σ_i r_i(x_i))^2 / Var_w R

is what no split of the reward explains there (values/reward_interaction.py has it of a model).
Joint actions that a log lacks altogether no weight brings back. As weights have mean 1 over all
play, their mean over the log tells how much of uniform play is there (`covered`); what is found is
about that part, and where it is small, the rest may be anything.

Local rewards are fitted by weighted least squares. In the sample the share is too small, on folds
that the fit has not seen too large: the point is halfway, the lower end is the first less its
deviation, the upper end the second with its own, by batch means of

    psi_t = w_t ((e_t^2 - n_t) - share (d_t^2 - n_t)) / E_w (d^2 - n),

e what is left, d the reward less its mean, and n how far the reward is from its mean at the same
joint pair, squared, for chance is no interaction. It takes a joint pair that comes twice to tell
(`repeated`); elsewhere n is 0, and the share is an upper one. (By least squares, moving the fit
changes the mean of e^2 in second order only.)
"""

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from .._checks import check_finite, check_positive_int, check_shape
from .._reads import reads
from .estimators import student
from .trajectory import Trajectory, check_trajectory

# Joint pairs that come so often on average have their own share of uniform play.
_OFTEN = 20
# Steps in a fold and in a batch, at least.
_STEPS = 10
# Relative to what least squares start from.
_ROUNDING = 1e-12


@reads(
    "{0.share:.2%} ({0.lower:.2%} to {0.upper:.2%}) of the variance of the reward is in no sum of "
    "local rewards, by uniform play, of which the log has {0.covered:.0%}"
)
class InteractionEstimate(NamedTuple):
    r"""What a sum of local rewards leaves of a team's reward, from a log.

    Attributes:
        share: of its variance by uniform play, in [0, 1].
        lower: end of its interval, not below 0.
        upper: end of its interval, not above 1.
        in_sample: the share in the sample, biased low.
        held_out: on folds that the fit has not seen, biased high.
        standard_error: of `in_sample`, by batch means.
        covered: share of uniform play that the log has: the mean weight, not above 1. It is about
            actions that each agent was seen to take at what it sees, or may by its recorded law.
        repeated: weight of the joint pairs that come twice or more; of others chance is not told
            from interaction.
        num_effective: as many steps of equal weight would tell as much, (Σ w)^2 / Σ w^2.
        source: of the weights: "given", "laws" that were recorded, "joint counts" or "local
            counts" of what was done.
    """

    share: np.float64
    lower: np.float64
    upper: np.float64
    in_sample: np.float64
    held_out: np.float64
    standard_error: np.float64
    covered: np.float64
    repeated: np.float64
    num_effective: np.float64
    source: str


def reward_interaction_from_log(
    trajectory: Trajectory,
    *,
    weights: ArrayLike | None = None,
    num_folds: int = 5,
    num_batches: int = 20,
    confidence: float = 0.95,
) -> InteractionEstimate:
    r"""The share of a team's reward that no sum of local rewards explains, under uniform play.

    Weights are those of recorded action laws, if there are any, taken as laws of agents that decide
    independently of each other, each by what it saw; else by what was done: 1 over how often the
    joint action was taken in the joint state, where joint pairs come 20 times on average, else the
    product of the same for each agent by itself. States are as often as in the log. In NumPy and
    double precision, whatever JAX's default.

    Args:
        trajectory: T epochs of N agents. Rewards of agents are added up.
        weights: of each epoch, not negative, `[T]`: chance under the play that is asked about over
            that under the play recorded, up to a factor.
        num_folds: blocks of time, judged in turn by what the others teach. Static.
        num_batches: of consecutive epochs, whose means tell the standard errors. Static.
        confidence: of the interval. Static.

    Raises:
        ValueError: for a log of fewer than 10 epochs a fold or batch, weights that do not fit or
            are all 0, an action that its recorded law excludes, and a confidence outside (0, 1).

    Examples:
        Agents that mostly do the same, and are paid for it:

        >>> import numpy as np
        >>> import jaxent
        >>> rng = np.random.default_rng(0)
        >>> first = rng.integers(0, 2, 2000)
        >>> both = np.stack([first, np.where(rng.random(2000) < 0.8, first, 1 - first)], 1)
        >>> log = jaxent.Trajectory.from_arrays(0 * both, both, (both[:, 0] == both[:, 1]) * 1.0)
        >>> found = jaxent.reward_interaction_from_log(log)
        >>> print(f"{found.share:.2f} {found.source}")
        1.00 joint counts
    """
    check_trajectory(trajectory)
    for name, number in (("num_folds", num_folds), ("num_batches", num_batches)):
        check_positive_int(name, number)
        if number < 2 or trajectory.num_epochs < _STEPS * number:
            raise ValueError(
                f"{name}: {number} of at least {_STEPS} epochs each, 2 or more, do not fit into "
                f"{trajectory.num_epochs} epochs"
            )
    quantile = student(confidence, num_batches)
    present = np.asarray(trajectory.present)
    reward = np.asarray(trajectory.rewards, float)
    reward = reward if trajectory.shares_reward else np.where(present, reward, 0).sum(1)
    joint = _joint_pairs(trajectory)
    w, source = _weights(trajectory, joint, weights)
    covered = 1.0 if weights is not None else min(1.0, float(w.mean()))
    w = w / w.mean()
    offset = reward - w @ reward / w.sum()
    largest = np.abs(offset).max()
    unit = largest if largest > _ROUNDING * np.abs(reward).max(initial=0) else np.inf
    offset = offset / unit  # 0 where the reward is one number, whatever its unit
    noise, twice = _noise(joint, offset)
    design = _design(trajectory)
    fold = np.arange(len(w)) * num_folds // len(w)
    inside = offset - design @ _fitted(design, w, offset)
    outside = np.empty_like(inside)
    for k in range(num_folds):
        judged = fold == k
        local = _fitted(design, np.where(judged, 0, w), offset)
        outside[judged] = offset[judged] - design[judged] @ local
    batch = np.arange(len(w)) * num_batches // len(w)
    found = [_share(w, e, offset, noise, batch, num_batches) for e in (inside, outside)]
    (low, deviation), (high, other) = found
    high = max(low, high)
    return InteractionEstimate(
        share=np.float64((low + high) / 2),
        lower=np.float64(max(0.0, low - quantile * deviation)),
        upper=np.float64(min(1.0, high + quantile * other)),
        in_sample=np.float64(low),
        held_out=np.float64(high),
        standard_error=np.float64(deviation),
        covered=np.float64(covered),
        repeated=np.float64(w @ twice / w.sum()),
        num_effective=np.float64(w.sum() ** 2 / (w**2).sum()),
        source=source,
    )


class _Codes(NamedTuple):
    """The joint state and the joint pair of each epoch, numbered, and how many there are."""

    state: np.ndarray
    pair: np.ndarray


def _joint_pairs(trajectory: Trajectory) -> _Codes:
    present = np.asarray(trajectory.present)
    states, actions = (np.asarray(x) for x in (trajectory.states, trajectory.actions))
    signal = np.asarray(trajectory.signal)[:, None]
    seen = np.concatenate([np.where(present, states, -1), signal], 1)
    taken = np.where(present, actions, -1)
    state = _numbered(seen)
    return _Codes(state, _numbered(np.column_stack([state, taken])))


def _numbered(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for rows that are equal."""
    rows = np.ascontiguousarray(rows)
    # Rows as one item each: a sort of columns one by one takes N times as long.
    items = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(items, return_inverse=True)[1].reshape(-1)


def _weights(
    trajectory: Trajectory, joint: _Codes, given: ArrayLike | None
) -> tuple[np.ndarray, str]:
    """How much each epoch counts, up to a factor, and where that is from."""
    if given is not None:
        w = np.asarray(given, float)
        check_shape("weights", w, (trajectory.num_epochs,))
        check_finite("weights", w)
        if (w < 0).any() or not (w > 0).any():
            raise ValueError("weights: must not be negative, nor all 0")
        return w, "given"
    present = np.asarray(trajectory.present)
    if trajectory.action_laws is not None:
        laws = np.asarray(trajectory.action_laws, float)
        actions = np.asarray(trajectory.actions)
        chance = np.take_along_axis(laws, actions[..., None], 2)[..., 0]  # [T, N]
        wrong = np.argwhere(present & (chance <= 0))
        if len(wrong):
            t, i = wrong[0]
            raise ValueError(
                f"trajectory: action_laws[{t}, {i}, {actions[t, i]}] is 0, but that action was "
                "taken"
            )
        possible = (laws > 0).sum(2)
        return 1 / np.where(present, chance * possible, 1).prod(1), "laws"
    pairs = np.bincount(joint.pair)
    if len(joint.pair) >= _OFTEN * len(pairs):
        often = np.bincount(joint.state)[joint.state] / pairs[joint.pair]
        kinds = np.stack([kinds for _, kinds in _of_agents(trajectory)])
        return often / kinds.prod(0), "joint counts"
    return np.stack([often / kinds for often, kinds in _of_agents(trajectory)]).prod(0), (
        "local counts"
    )


def _of_agents(trajectory: Trajectory) -> "list[tuple[np.ndarray, np.ndarray]]":
    """For each agent at each epoch: one over how often it did, at what it saw, what it did then;
    and how many actions it was seen to take there; 1 where it is not there."""
    codes, present = np.asarray(trajectory.pairs), np.asarray(trajectory.present)
    Z, A = trajectory.num_signals, trajectory.num_actions
    seen = codes // (A * Z) * Z + codes % Z
    found = []
    for i, there in enumerate(present.T):
        taken = np.bincount(codes[there, i], minlength=trajectory.num_pairs)
        often = np.bincount(seen[there, i], minlength=trajectory.num_states * Z)
        kinds = (taken.reshape(-1, A, Z) > 0).sum(1).reshape(-1)[seen[:, i]]
        share = often[seen[:, i]] / np.maximum(taken[codes[:, i]], 1)
        found.append((np.where(there, share, 1.0), np.where(there, kinds, 1)))
    return found


def _noise(joint: _Codes, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What of the square of the reward is chance, 0 where its joint pair comes once; and whether
    that comes twice."""
    count = np.bincount(joint.pair)
    apart = reward - (np.bincount(joint.pair, reward) / count)[joint.pair]
    return apart**2 * (count / np.maximum(count - 1, 1))[joint.pair], (count > 1)[joint.pair]


def _design(trajectory: Trajectory) -> "scipy.sparse.csr_array":
    """Indicators of local pairs, `[T, N X]`."""
    import scipy.sparse  # slow to import, and few ask for it

    present, codes = np.asarray(trajectory.present), np.asarray(trajectory.pairs)
    num_agents, size = trajectory.num_agents, trajectory.num_pairs
    columns = (codes + size * np.arange(num_agents))[present]
    rows = np.nonzero(present)[0]
    shape = (trajectory.num_epochs, num_agents * size)
    return scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _fitted(
    design: "scipy.sparse.csr_array", weights: np.ndarray, reward: np.ndarray
) -> np.ndarray:
    """Local rewards by weighted least squares, the smallest; 0 at pairs without weight."""
    import scipy.sparse.linalg

    root = np.sqrt(weights)
    mass = weights @ design
    scale = np.where(mass > 0, 1 / np.sqrt(np.where(mass > 0, mass, 1)), 0)
    rows = scipy.sparse.diags_array(root) @ design @ scipy.sparse.diags_array(scale)
    steps = 4 * len(scale) + 100
    options = {"atol": _ROUNDING, "btol": _ROUNDING, "conlim": 0, "iter_lim": steps}
    return scale * scipy.sparse.linalg.lsqr(rows, root * reward, **options)[0]


def _share(
    w: np.ndarray, left: np.ndarray, offset: np.ndarray, noise: np.ndarray,
    batch: np.ndarray, num_batches: int,
) -> tuple[float, float]:  # fmt: skip
    """The share that is left, in [0, 1], and its standard error by batch means."""
    e, d = w * (left**2 - noise), w * (offset**2 - noise)
    total = d.mean()
    if total <= _ROUNDING * (w * offset**2).mean():
        return 0.0, 0.0
    share = e.mean() / total
    if share <= _ROUNDING:
        return 0.0, 0.0
    psi = (e - share * d) / total
    means = np.bincount(batch, psi, num_batches) / np.bincount(batch, minlength=num_batches)
    return float(np.clip(share, 0, 1)), float(means.std(ddof=1) / np.sqrt(num_batches))
