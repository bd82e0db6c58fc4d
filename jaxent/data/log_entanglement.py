r"""Entanglement from logs alone, where neither the policy nor the kernel is known.

What is seen of P(x_i' | x) are single draws x_i'. A model of x_i' given x_i and features f of the
others, fitted on one part of the log, says which next pairs are likelier than agent i's own law
q(. | x_i) explains; on the other part it is counted whether they are,

    E[ h(x_i, f, x_i') - sum_y h(x_i, f, y) q(y | x_i) ],    0 <= h <= 1.

No h gets above E[ TV(P(. | x_i, f), q) ], however wrong the model, and features never tell more
than the joint pair, so this is a lower estimate of the right-hand side of Eq. (7), *relative to
those features*: with q the weighted TV center it misses no more than a term of order 1/T. That it
is small does not prove that E_i is small: other features may show more.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from .._checks import check_finite, check_positive_int, check_shape
from .._reads import Frame, frame, reads
from ..numerics.arrays import ratio
from ..numerics.compiled import jit
from ..numerics.simplex import total_variation, tv_center
from .estimators import batch_means, batch_of, student
from .feature_entanglement import Rules, estimate_by_features
from .local_pairs import FEW_PAIRS, check_few_pairs, check_room
from .observed import states_of_observations
from .other_agents import agent_rows
from .pair_blocks import PairBlocks, logistic_laws, pair_blocks
from .trajectory import Trajectory, check_trajectory

Array = jax.Array

_BATCHES = 20
# Epochs of a local pair whose fitted laws the center is computed from.
_CENTER_POINTS = 256
# Fitted probabilities that differ by less than this count as equal: those of equal features may
# differ by rounding.
SAME = 1e-5


@reads("lower estimates for {0.value.shape[0]} agents")
class LogsEstimate(NamedTuple):
    """Lower estimates relative to features, one for each agent asked for.

    Attributes:
        value: held-out lower estimate of E_i, `[K]`; below 0 only by chance. NaN without data.
        standard_error: by batch means over the held-out epochs, folds taken as dependent, `[K]`.
        lower: end of the interval; below 0 wherever chance may have taken the value there, `[K]`.
        upper: end of the interval, which is one for the lower estimate, not for E_i, `[K]`.
        plug_in: mean distance of the fitted laws from their center, `[K]`; overfitting raises it.
        p_value: of the permutation test of "no entanglement", `[K]`.
        minimizer: fitted own law q, `[K, X, X]`; uniform where there is not enough data.
        visits: transitions from each local pair, `[K, X]`.
        enough: whether they are at least `min_visits`; other pairs are left out, `[K, X]`.
        batches: the estimate in each of 20 batches of consecutive epochs, `[K, 20]`.
        placebo: of agents that see numbers, the estimate with features of another time; not near 0
            where the model of the own law is wrong. NaN where local pairs are few, `[K]`.
    """

    value: Array
    standard_error: Array
    lower: Array
    upper: Array
    plug_in: Array
    p_value: Array
    minimizer: Array
    visits: Array
    enough: Array
    batches: Array
    placebo: Array

    def to_frame(self) -> Frame:
        """A row an agent that was asked for."""
        columns = "value", "standard_error", "lower", "upper", "plug_in", "p_value"
        return frame({name: getattr(self, name) for name in columns})

    @property
    def share(self) -> Array:
        """Share of the transitions that start in a pair with enough data, `[K]`."""
        kept = jnp.where(self.enough, self.visits, 0).sum(-1)
        return kept / jnp.maximum(self.visits.sum(-1), 1)


def entanglement_from_logs(
    key: Array,
    trajectory: Trajectory,
    *,
    agents: ArrayLike | None = None,
    features: Array | np.ndarray | None = None,
    num_folds: int = 2,
    min_visits: int = 50,
    num_permutations: int = 99,
    confidence: float = 0.95,
) -> LogsEstimate:
    r"""Lower estimate of every agent's entanglement, and a test of none.

    The model is a multinomial logistic regression of the next local pair on the features, with
    coefficients of its own for every local pair, fitted by Adam on all folds but the one judged.

    The test's null hypothesis is that given its local pair, an agent's next pair does not depend on
    the past of anybody else (E_i = 0). Then next pairs that follow the same local pair are draws
    of one law, whatever the features at the time, and are permuted among these epochs. Features
    may depend on the agent's past in any way: each next pair is new given all that was before it,
    so the statistic $\sum_{x, y} |S_{xy}|^2 / n_{xy}$, with $S_{xy}$ the sum of features (centered
    and whitened for each x) at the $n_{xy}$ transitions from x to y, is one of martingale
    differences and has the same chi-squared limit in the data as under permutation. The level is
    exact where features do not depend on the agent's past, and holds for long runs otherwise. It is
    not a test that the agents' paths are independent. The agent's own law must not change in time:
    a drift that features share is taken for entanglement.

    Agents that see numbers (`Trajectory.observations`) have no local pairs that come again. Their
    own law is a linear one in features of their own, and the test is one of random signs
    (feature_entanglement.py); `placebo` shows what such a model gets wrong.

    Args:
        key: of `jax.random.key`, for permutations.
        trajectory: T epochs of N agents.
        agents: which, `[K]`; all if not given.
        features: of the others, `[T, N, d]`; `state_counts`, or what they observe and do, if not
            given.
        num_folds: consecutive parts of the run, judged in turn. Static.
        min_visits: a local pair with fewer transitions is left out.
        num_permutations: of the test; p-values are multiples of 1 / (1 + this). Static.
        confidence: of the intervals. Static.

    Raises:
        ValueError: for one agent only, too few epochs, or features that do not fit.
    """
    estimate = agents_estimator(
        trajectory,
        features=features,
        num_folds=num_folds,
        min_visits=min_visits,
        num_permutations=num_permutations,
        confidence=confidence,
    )
    agents = np.arange(trajectory.num_agents) if agents is None else np.asarray(agents)
    check_shape("agents", agents, (None,))
    return estimate(jax.random.split(key, len(agents)), agents)


def agents_estimator(
    trajectory: Trajectory,
    *,
    features: Array | np.ndarray | None,
    num_folds: int = 2,
    min_visits: int,
    num_permutations: int,
    confidence: float = 0.95,
    at_once: int = 1,
) -> Callable[[Array, np.ndarray], LogsEstimate]:
    """`entanglement_from_logs` of some agents at a time, by a key for each.

    What all agents share is checked and counted once; memory has to do for `at_once` such calls.
    """
    check_trajectory(trajectory)
    trajectory = states_of_observations(trajectory)
    check_estimable(trajectory)
    for name, value in (("min_visits", min_visits), ("num_permutations", num_permutations)):
        check_positive_int(name, value)
    if not 2 <= num_folds <= _BATCHES:
        raise ValueError(f"num_folds: {num_folds} is outside 2..{_BATCHES}")
    if features is not None:
        check_shape("features", features, (*np.shape(trajectory.states), None))
        check_finite("features", features)
    if trajectory.observations is not None:
        rules = Rules(num_folds, min_visits, num_permutations, confidence)
        given = None if features is None else np.asarray(features)
        return lambda keys, agents: _by_features(keys, trajectory, agents, given, rules)
    rows, number = agent_rows(trajectory, features)
    check_room(trajectory, num_features=number, at_once=at_once)
    return lambda keys, agents: estimate_paths(
        keys,
        *rows(agents),
        num_pairs=trajectory.num_pairs,
        num_folds=num_folds,
        min_visits=min_visits,
        num_permutations=num_permutations,
        quantile=student(confidence, _BATCHES),
    )


def _by_features(
    keys: Array, trajectory: Trajectory, agents: np.ndarray, given: np.ndarray | None, rules: Rules
) -> LogsEstimate:
    """The estimate for agents that see numbers, one after another."""
    found = [
        estimate_by_features(key, trajectory, int(agent), given, rules)
        for key, agent in zip(keys, agents, strict=True)
    ]
    columns = {name: jnp.asarray([row[name] for row in found]) for name in LogsEstimate._fields}
    return LogsEstimate(**columns)


def check_estimable(trajectory: Trajectory) -> None:
    """Raise unless there are other agents, enough epochs, and few local pairs."""
    check_trajectory(trajectory)
    check_few_pairs(trajectory)
    if trajectory.num_agents < 2:
        raise ValueError("trajectory: has one agent; entanglement is with others")
    if trajectory.num_epochs <= _BATCHES:
        raise ValueError(
            f"trajectory: {trajectory.num_epochs} epochs are too few; wanted more than {_BATCHES}"
        )


@jit(static_argnames=("num_pairs", "num_folds", "num_permutations"))
def estimate_paths(
    keys: Array,
    pairs: Array,
    ahead: Array,
    features: Array,
    follows: Array,
    *,
    num_pairs: int,
    num_folds: int,
    min_visits: Array | int,
    num_permutations: int,
    quantile: Array | float,
) -> LogsEstimate:
    """The estimate for K agents one after another.

    Args:
        keys: for the permutations, `[K]`.
        pairs: local pair in every epoch, `[K, T]`.
        ahead: in the next epoch, `[K, T]`.
        features: of the others, `[K, T, d]`.
        follows: 1 where there is a transition, else 0, `[K, T]`.
        num_pairs: X. Static.
        num_folds: as for `entanglement_from_logs`. Static.
        min_visits: as for `entanglement_from_logs`.
        num_permutations: as for `entanglement_from_logs`. Static.
        quantile: of Student's t, for the interval.
    """
    assert pairs.shape == ahead.shape == follows.shape == features.shape[:-1]

    def one(data) -> LogsEstimate:
        key, x, y, f, weight = data
        visits = jnp.zeros(num_pairs, weight.dtype).at[x].add(weight)
        enough = visits >= min_visits
        weight = weight * enough[x]
        flow = jnp.zeros((num_pairs, num_pairs), weight.dtype).at[x, y].add(weight)
        batch = batch_of(weight, _BATCHES)
        blocks = pair_blocks(x, num_pairs)
        g = _standard(blocks, f, weight)
        p_value = _permutation_test(key, g, x, y, weight, flow, num_permutations)
        gain, apart, q = _held_out(
            blocks, g, x, y, weight, flow, batch * num_folds // _BATCHES, num_folds
        )
        cost, mass = (jnp.zeros(_BATCHES, weight.dtype).at[batch].add(v) for v in (gain, weight))
        found = batch_means(cost, mass, quantile, in_sample=apart.sum() / weight.sum())
        # What one fold is judged on another learns from, so at worst the errors of folds add up.
        error = jnp.sqrt(float(num_folds)) * found.standard_error
        return LogsEstimate(
            found.value,
            error,
            found.value - quantile * error,
            found.value + quantile * error,
            found.in_sample,
            jnp.where(weight.sum() > 0, p_value, jnp.nan),
            q,
            visits,
            enough,
            found.batches,
            jnp.full_like(found.value, jnp.nan),
        )

    return lax.map(one, (keys, pairs, ahead, features, follows))


def _standard(blocks: PairBlocks, f: Array, weight: Array) -> Array:
    """Features centered and whitened for each local pair, `[T, d]`; 0 in directions that lack.

    By Gram and Schmidt, one column after another: plain JAX, for agents are done in threads and
    batched LAPACK calls of two threads may wait for each other.
    """
    f, weight = blocks.spread(f), blocks.spread(weight)[..., None]
    visits = jnp.maximum(blocks.sums(weight.sum(1)), 1)  # [X, 1]

    def mean(values: Array) -> Array:
        return blocks.sums((weight * values).sum(1)) / visits  # [X, d]

    def here(values: Array) -> Array:
        return values[blocks.pair][:, None]  # [B, 1, d]

    f = (f - here(mean(f))) * (weight > 0)
    small = 1e-4 * mean(f**2)
    later = jnp.arange(f.shape[2])

    def column(j: Array, f: Array) -> Array:
        # What earlier columns do not explain.
        own = lax.dynamic_slice_in_dim(f, j, 1, 2)  # [B, 32, 1]
        size, least = mean(own**2), lax.dynamic_slice_in_dim(small, j, 1, 1)
        scale = jnp.where(size > least, 1 / jnp.sqrt(jnp.where(size > least, size, 1)), 0)
        own = own * here(scale)
        rest = f - own * here(jnp.where((later > j)[None], mean(own * f), 0))
        return lax.dynamic_update_slice_in_dim(rest, own, j, 2)

    return blocks.back(lax.fori_loop(0, f.shape[2], column, f))


def _permutation_test(key, g, x, y, weight, flow, num_permutations) -> Array:
    """Share of permutations, with the data itself, whose statistic is no less than the data's."""
    num_pairs = len(flow)
    # Epochs that do not count come last, and meet each other only.
    group = jnp.where(weight > 0, x, num_pairs).astype(jnp.uint32)
    order = jnp.argsort(group, stable=True)
    place = group[order].astype(jnp.int32) * num_pairs
    g = g[order]
    inverse = ratio(1.0, flow).reshape(-1, 1)
    # One word, group, random bits, outcome: a sort of single words is ten times faster on a CPU.
    low, high = (num_pairs - 1).bit_length(), 32 - num_pairs.bit_length()
    fixed = (group << high) | y.astype(jnp.uint32)
    free = jnp.uint32((1 << high) - (1 << low))

    # A scatter costs as much as a product with about 20 columns; few pairs are summed by one.
    few = num_pairs <= FEW_PAIRS
    if few:
        here = (place[:, None] == num_pairs * jnp.arange(num_pairs)[None]).astype(g.dtype)
        spread = (here[:, :, None] * g[:, None]).reshape(len(g), -1).T  # [X d, T]
        inverse = jnp.repeat(inverse.reshape(num_pairs, -1), g.shape[1], axis=0)  # [X d, m]

    def statistic(outcome: Array) -> Array:
        if few:
            return (
                (spread @ jax.nn.one_hot(outcome, num_pairs, dtype=g.dtype)) ** 2 * inverse
            ).sum()
        total = jnp.zeros(((num_pairs + 1) * num_pairs, g.shape[1]), g.dtype)
        total = total.at[place + outcome].add(g)[: num_pairs**2]
        return (total**2 * inverse).sum()

    def permuted(key: Array) -> Array:
        words = jnp.sort(fixed | (jax.random.bits(key, group.shape, jnp.uint32) & free))
        return statistic((words & jnp.uint32((1 << low) - 1)).astype(jnp.int32))

    keys = jax.random.split(key, num_permutations)
    data = statistic(y[order]) * (1 - 1e-5)  # ties count, whatever the order of sums
    return (1 + (lax.map(permuted, keys) >= data).sum()) / (1 + num_permutations)


def _held_out(blocks, g, x, y, weight, flow, fold, num_folds):
    """What the witness gains at every epoch, how far the fitted laws are from q, and mean q."""
    num_pairs = len(flow)
    target = jax.nn.one_hot(y, num_pairs, dtype=g.dtype)
    judged = fold[None] == jnp.arange(num_folds)[:, None]  # [F, T]
    fits = jnp.where(judged, 0, weight[None])

    def fit(train: Array) -> tuple[Array, Array, Array]:
        count = jnp.zeros_like(flow).at[x, y].add(train)
        laws = logistic_laws(blocks, g, y, train, count)
        points, edge = _centers(laws, x, train, num_pairs)
        q = points[x]
        apart = laws - q
        # At the center itself the best h lies between 0 and 1, the same for all such epochs.
        h = jnp.where(jnp.abs(apart) <= SAME, edge[x], (apart > 0).astype(g.dtype))
        gain = (h * (target - q)).sum(1)
        return gain, total_variation(laws, q), points

    gain, apart, points = lax.map(fit, fits)
    take = judged * weight[None]
    seen = (flow.sum(1) > 0)[:, None]
    q = jnp.where(seen, points.mean(0), 1 / num_pairs)
    return (gain * take).sum(0), (apart * take).sum(0), q


def _centers(laws: Array, x: Array, train: Array, num_pairs: int) -> tuple[Array, Array]:
    """TV center of the fitted laws of every local pair, and h at it: `[X, m]` twice.

    From the laws at 256 epochs of the pair, evenly spaced. The mean distance is flat at its
    minimum, so a center that is a little off costs the lower estimate next to nothing.
    """
    group = jnp.where(train > 0, x, num_pairs)
    order = jnp.argsort(group, stable=True)
    number = jnp.zeros(num_pairs + 1, jnp.int32).at[group].add(1)
    first = jnp.cumsum(number) - number

    def one(pair: Array) -> tuple[Array, Array]:
        spaced = (jnp.arange(_CENTER_POINTS) + 0.5) / _CENTER_POINTS * number[pair]
        some = laws[order[first[pair] + spaced.astype(jnp.int32)]]
        return center_and_edge(some, jnp.ones_like(some[:, 0]))

    return lax.map(one, jnp.arange(num_pairs))


def center_and_edge(laws: Array, weights: Array) -> tuple[Array, Array]:
    """TV center of laws `[K, m]`, and the best h where a law is the center itself, `[m]` each."""
    center = tv_center(laws, weights)
    at = (jnp.abs(laws - center.point[None]) <= SAME) & (weights > 0)[:, None]
    return center.point, jnp.where(at, center.slopes, -0.5).max(0) + 0.5
