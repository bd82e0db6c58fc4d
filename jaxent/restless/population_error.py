r"""The error of the sum of local values of a population, from runs, at any N.

With y the split of the agents, f = Σ y q the sum of local values and e = Q - f its error, a run
that goes on from y gives

$$\hat e = \sum_{t < H} \gamma^t r_t + \gamma^H f(y_H) - f(y_0)
  - \sum_{t \le H} \gamma^t h \cdot (n_t - E[n_t | y_{t-1}]),$$

whose mean is $e - \gamma^H E[e(y_H)]$ for any h: the last sum is a martingale, and with h the slope
of the value in the counts it is most of the noise. (Where a policy draws, so is what it drew less
the mean of a few more draws.) Two runs go on from each pair on their own: the mean of the product
of both is that of e², without a bias. Both are runs of the population as well, of which the local
values come: an agent goes from x = (s, a) to s' by its kernel, and there takes a' with the share
y'(s', a') / n'(s') that it meets, in the mean over the agents that went from x to s'.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_positive_int
from .._reads import NOT_SAID, reads
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from .fluid import Data, fluid_policy, known_data
from .gaussian_limit import parts_of, states_of_pairs
from .optimality_gap import start_near
from .population_process import CountsProcess, DrawnPolicy, Splits, process_of
from .population_runs import Ahead, go_on
from .priority_policy import Move

Array = jax.Array

# What a horizon leaves out of the error, and groups of runs whose spread is the standard error.
_LEFT_OUT = 1e-3
_GROUPS = 16
# Directions in which counts move less than this share of the most are left out of h.
_STILL = 1e-6


@reads(
    "the sum of local values is off by {0.error:.4g} in root mean square, "
    "{0.relative_error:.2%} of Q, standard error {0.standard_error:.2g}",
    note=NOT_SAID,
)
class PopulationError(NamedTuple):
    r"""The error e = Q - Σ_i Q_i under the stationary law, estimated from runs.

    Attributes:
        mean_square: the mean of e², without a bias; noise may bring it below 0.
        mean_square_error: its standard error, from the spread over groups of runs.
        error: root mean square of e: the root of `mean_square`, or 0.
        standard_error: of `error`.
        relative_error: `error` over the root mean square of Q.
        relative_standard_error: of `relative_error`, that of Q's size being far smaller.
        share_of_spread: `error` over the standard deviation of Q: 1 if the sum of local values
            tells no more of where Q is large than a constant does.
        mu_error_lower: the mean of ê_1 sign(ê_2), at most the mean |e| of `decompose`.
        mu_error_upper: the mean of |ê_1 + ê_2| / 2, at least that mean.
        q_mean: the mean of Q.
        q_local: local values of each type, `[S_k, A_k]`.
        entanglement: E_1 of an agent of each type (Eq. 15), `[T]`. Of a policy that draws it is
            for many agents: the mean of a few draws stands for the chances of the actions, and its
            noise is taken off as if it were normal.
        entanglement_error: its standard error, `[T]`.
        truncation: $\gamma^H$: by that share of itself `error` may be off beyond its standard
            error.
        num_pairs: from which runs went on.
    """

    mean_square: Array
    mean_square_error: Array
    error: Array
    standard_error: Array
    relative_error: Array
    relative_standard_error: Array
    share_of_spread: Array
    mu_error_lower: Array
    mu_error_upper: Array
    q_mean: Array
    q_local: tuple[Array, ...]
    entanglement: Array
    entanglement_error: Array
    truncation: float
    num_pairs: int


def population_error(
    key: Array,
    population: RestlessBandit | WeaklyCoupledPopulation,
    policy: DrawnPolicy | Sequence[Move] | Splits,
    *,
    num_pairs: int = 1024,
    num_runs: int = 64,
    horizon: int | None = None,
    burn_in: int | None = None,
) -> PopulationError:
    r"""How wrong the sum of local values is, from runs of any number of agents.

    A small error along this play says nothing about actions that it hardly takes, hence not whether
    the policy is good: ask optimality_gap.

    Args:
        key: of `jax.random.key`.
        population: or a `RestlessBandit`; its values must be known.
        policy: one that goes by counts, as for `simulate_population`.
        num_pairs: from each of which two runs go on; rounded up to a multiple of `num_runs`.
        num_runs: runs side by side, at least 16. Static.
        horizon: H, steps that each goes on; if not given, such that $\gamma^H \le 0.001$. Static.
        burn_in: steps before the first pair, rounded up to a multiple of the horizon; 4 horizons
            if not given. Runs begin near the relaxation's law.

    Returns:
        Estimates with standard errors. They agree with `decompose` of `exchangeable_chain`, whose
        `error` has the root mean square $\sqrt{\mu \cdot e^2}$, and with the limits of `mean_field`
        (of normal e the root mean square is $\sqrt{\pi / 2}$ times the mean size).

    Raises:
        ValueError: for a bad population, policy or number, or a policy that keeps a memory.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(100)
        >>> order = jaxent.lagrange_index(bandit)
        >>> found = jaxent.population_error(jax.random.key(0), bandit, order, num_pairs=512)
        >>> bool(found.standard_error < 0.1 * found.error)
        True

    References:
        Chen and Peng, Eqs. (1), (2) and (15); Henderson and Glynn (2002).
    """
    check_positive_int("num_pairs", num_pairs)
    check_positive_int("num_runs", num_runs)
    if num_runs < _GROUPS:
        raise ValueError(f"num_runs: {num_runs} is not at least {_GROUPS}, for a standard error")
    data, checked = known_data(population), as_population(population)
    if horizon is None:
        steps = np.log(_LEFT_OUT) / np.log(data.discount) if data.discount > 0 else 1
        horizon = max(1, int(np.ceil(steps)))
    check_positive_int("horizon", horizon)
    process = process_of(checked, policy)
    if not isinstance(process, CountsProcess):
        raise ValueError(
            f"policy: {type(policy).__name__} keeps a memory: counts do not say what follows"
        )
    counts = start_near(fluid_policy(checked), data.counts)
    splits = tuple(
        jnp.asarray(np.broadcast_to(n[:, None] * np.eye(A)[0], (num_runs, len(n), A)), jnp.int32)
        for n, (_, A) in zip(counts, data.sizes, strict=True)
    )
    ahead = partial(go_on, process=process, num_steps=horizon)
    dtype = jnp.result_type(*(kind.mdp.transition for kind in checked.types), jnp.float32)
    kernel = _blocks(data.kernels).astype(dtype)  # the precision of all that follows
    numbers = kernel, np.concatenate(data.rewards), np.asarray(data.discount)
    rounds = -(-num_pairs // num_runs)
    skipped = 4 if burn_in is None else -(-burn_in // horizon)
    center = np.concatenate(counts) / data.counts.sum()
    before = []
    for i in range(max(skipped, 1)):
        splits, found = ahead(jax.random.fold_in(key, i), splits, *numbers, center)
        before.append(found)
    center = _counted(np.asarray(before[-1].seen), data).mean((0, 1, 2)) / data.counts.sum()
    both: list[tuple[Ahead, Ahead]] = []
    for i in range(rounds):
        one, two = (jax.random.fold_in(key, skipped + 2 * i + j + 1) for j in range(2))
        _, other = ahead(two, splits, *numbers, center)
        splits, found = ahead(one, splits, *numbers, center)
        both.append(tuple(jax.tree.map(np.asarray, (found, other))))
    return _estimated(data, both, horizon)


def _estimated(data: Data, both: list[tuple[Ahead, Ahead]], horizon: int) -> PopulationError:
    """Everything from the runs, in float64."""
    every = [one for pair in both for one in pair]
    num_runs = len(every[0].returned)
    groups = np.array_split(np.arange(num_runs), _GROUPS)
    flow = np.asarray(np.sum([one.flow for one in every], axis=0, dtype=np.float64))
    q = np.stack([_local_q(data, flow[group].sum(0)) for group in groups])  # [G, X]
    h = _slope(data, every)
    ahead_worth = np.concatenate(data.rewards) + data.discount * _blocks(data.kernels) @ h
    left = data.discount**horizon
    errors, sizes = ([], [])
    for ahead in zip(*both, strict=True):  # the first of each pair's runs, then the second
        first, last, surprise, drawn, returned = (
            np.stack([np.asarray(getattr(one, name), np.float64) for one in ahead])
            for name in ("first", "last", "surprise", "drawn", "returned")
        )
        worth = returned - surprise @ h - drawn @ ahead_worth  # [rounds, R]
        # The local values of a group of runs for the one, of the next group for the other.
        own = np.roll(q, -len(errors), axis=0)
        found = np.empty((2, *worth.shape))
        for group, values in zip(groups, own, strict=True):
            found[0][:, group] = worth[:, group] + left * last[:, group] @ values
            found[1][:, group] = found[0][:, group] - first[:, group] @ values
        sizes.append(found[0])
        errors.append(found[1])
    (e, e2), (Q, Q2) = errors, sizes
    mean = (Q.mean() + Q2.mean()) / 2
    square = np.array([(e * e2)[:, group].mean() for group in groups])
    error = np.sqrt(max(square.mean(), 0.0))
    spread = square.std(ddof=1) / np.sqrt(_GROUPS)
    # Of the root; where the mean of squares is not told from 0, the root of what it may be.
    standard = min(spread / (2 * error) if error > 0 else np.inf, np.sqrt(spread))
    size = np.sqrt(max((Q * Q2).mean(), 0.0))
    deviation = np.sqrt(max(((Q - mean) * (Q2 - mean)).mean(), 0.0))
    entanglement, doubt = _entanglement(data, np.concatenate([one.seen for one in every]), groups)
    dtype = both[0][0].returned.dtype
    numbers = [
        *(square.mean(), spread, error, standard),
        *((x / size if size > 0 else 0.0) for x in (error, standard)),
        error / deviation if deviation > 0 else np.inf * error if error > 0 else 0.0,
        (e * np.sign(e2) + e2 * np.sign(e)).mean() / 2,
        np.abs(e + e2).mean() / 2,
        mean,
    ]
    values = _local_q(data, flow.sum(0))
    parts = [values[part] for part in parts_of([S * A for S, A in data.sizes])]
    tables = zip(parts, data.sizes, strict=True)
    return PopulationError(
        *(jnp.asarray(x, dtype) for x in numbers),
        q_local=tuple(jnp.asarray(part.reshape(size), dtype) for part, size in tables),
        entanglement=jnp.asarray(entanglement, dtype),
        entanglement_error=jnp.asarray(doubt, dtype),
        truncation=left,
        num_pairs=e.size,
    )


def _blocks(kernels: list[np.ndarray]) -> np.ndarray:
    """Next states of each pair, types one after another, `[X, S]`."""
    out = np.zeros([sum(P.shape[i] for P in kernels) for i in range(2)])
    rows, columns = (parts_of([P.shape[i] for P in kernels]) for i in range(2))
    for P, row, column in zip(kernels, rows, columns, strict=True):
        out[row, column] = P
    return out


def _counted(splits: np.ndarray, data: Data) -> np.ndarray:
    """Agents by state of splits, `[.., X]` to `[.., S]`."""
    state = states_of_pairs(data.sizes)
    return splits.astype(np.float64) @ (state[:, None] == np.arange(state[-1] + 1))


def _local_q(data: Data, flow: np.ndarray) -> np.ndarray:
    """Local values `[X]` where so many go from pairs to next states and actions, `[X, S', A']`."""
    values = []
    for k, part in enumerate(parts_of([S * A for S, A in data.sizes])):
        S, A = data.sizes[k]
        seen = flow[part, :S, :A]
        law = np.broadcast_to(np.eye(A)[0], seen.shape).copy()
        # What those do who came from x; where none did, what anyone does there.
        for some in (np.broadcast_to(seen.sum(0), seen.shape), seen):
            total = np.broadcast_to(some.sum(2, keepdims=True), seen.shape)
            law = np.divide(some, total, where=total > 0, out=law)
        local = (data.kernels[k][:, :, None] * law).reshape(S * A, S * A)
        system = np.eye(S * A) - data.discount * local
        values.append(np.linalg.solve(system, data.rewards[k]))
    return np.concatenate(values)


def _slope(data: Data, every: list[Ahead]) -> np.ndarray:
    """Weights of the counts whose value is nearest to its own next one (least squares), `[S]`."""
    slope, pull, mean = (
        np.sum([getattr(one, name) for one in every], axis=0, dtype=np.float64)
        for name in ("slope", "pull", "mean")
    )
    paid = np.concatenate(data.rewards)
    average = np.mean([one.seen.astype(np.float64).mean((0, 1, 2)) @ paid for one in every])
    root = np.sqrt(data.counts.sum())
    return root * np.linalg.lstsq(slope, pull - mean * average / root**2, rcond=_STILL)[0]


def _entanglement(data: Data, seen: np.ndarray, groups: list[np.ndarray]):
    """Eq. (15) of each type from splits `[T, R, 2, X]`, and its standard error, `[types]` each.

    The mean of D draws is further from the center than the mean of all, by noise whose square is
    1 / D: what either half of them says is taken off.
    """
    values, doubts = [], []
    for k, part in enumerate(parts_of([S * A for S, A in data.sizes])):
        S, A = data.sizes[k]
        split = seen[..., part].reshape(*seen.shape[:3], S, A).astype(np.float64)
        weight = split[:, :, 0].sum(-1) / data.counts[k]  # [T, R, S]
        total, means = 0.0, np.zeros(len(groups))
        for s in range(S):
            here = weight[..., s]
            there = np.broadcast_to((here > 0)[..., None, None], split[..., s, :].shape)
            law = np.zeros_like(split[..., s, :])  # [T, R, 2, A]
            sums = np.broadcast_to(split[..., s, :].sum(-1, keepdims=True), law.shape)
            np.divide(split[..., s, :], sums, where=there, out=law)
            center = _tv_center(law.mean(2).reshape(-1, A), here.reshape(-1))
            full = here * np.abs(law.mean(2) - center).sum(-1) / 2  # [T, R]
            half = here * np.abs(law - center).sum(-1).mean(2) / 2
            total += _without_noise(full.mean(), half.mean())
            means += [_without_noise(full[:, g].mean(), half[:, g].mean()) for g in groups]
        values.append(total)
        doubts.append(means.std(ddof=1) / np.sqrt(len(groups)))
    return values, doubts


def _without_noise(full: np.ndarray, half: np.ndarray) -> float:
    """A mean distance, of its value with some noise and with noise of twice the variance."""
    return float(np.sqrt(max(2 * full**2 - half**2, 0)))


def _tv_center(laws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The law nearest to `[M, A]` in the weighted mean of total variation.

    Each entry is a quantile of its column, at one level for all, such that they sum to 1.
    """
    if not weights.sum() > 0:
        return laws[0]
    order = laws.argsort(0)
    columns = np.take_along_axis(laws, order, 0)
    reached = np.cumsum(weights[order], axis=0) / weights.sum()  # [M, A]

    def quantiles(level: float) -> np.ndarray:
        at = np.minimum([np.searchsorted(c, level) for c in reached.T], len(columns) - 1)
        return columns[at, np.arange(columns.shape[1])]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if quantiles(middle).sum() < 1 else (low, middle)
    below, above = quantiles(low), quantiles(high)
    rise = above.sum() - below.sum()
    return below + (above - below) * ((1 - below.sum()) / rise if rise > 0 else 0)
