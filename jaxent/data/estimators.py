r"""Entanglement from data: the exact minimizer of Eqs. (9), (10) and (15), with an interval.

What a simulator or a log gives is the same few numbers: for every epoch and local state, how the
agent's next step was distributed and how much weight that local state had. Where the next law is
known only where the agent is (one agent, Eqs. 9 and 10), `by_local` brings it to that form.

The minimum in the sample is biased low, for the fitted law has seen what it is judged by. The
cross-fitted estimate is judged on a batch of epochs with a law fitted on all other batches, and
batches are long enough to be nearly independent of each other, so that their spread says how far
off it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import scipy
from jax import lax

from .._checks import check_finite, check_positive_int, check_shape
from .._reads import reads
from ..numerics.arrays import ratio, takes_arrays
from ..numerics.compiled import jit
from ..numerics.simplex import total_variation, tv_center, weighted_median

Array = jax.Array


@reads("{0.value:.4g} in sample, {0.held_out:.4g} held out")
class EntanglementEstimate(NamedTuple):
    r"""Weighted distance of what the agent did from what its local state alone explains.

    Attributes:
        value: $\min_q \sum_{t, l} w_{tl} D_{TV}(p_{tl}, q_l) / \sum w$, in sample: biased low.
        held_out: the same with q fitted on one half of the epochs and evaluated on the other, both
            ways: biased high, so the truth lies between, up to noise.
        minimizer: q, `[L, m]`.
    """

    value: Array
    held_out: Array
    minimizer: Array


@reads("{0.value:.4g}, with its interval from {0.lower:.4g} to {0.upper:.4g}")
class EntanglementInterval(NamedTuple):
    r"""An estimate with its uncertainty.

    Attributes:
        value: cross-fitted, every batch judged by the law fitted on the others.
        in_sample: the minimum over the whole sample, biased low.
        standard_error: of `value`, by the spread over K batches.
        lower: end of the interval, not below 0.
        upper: end of the interval, by the quantile of Student's t with K - 1 degrees of freedom.
        batches: the estimate in each batch, `[K]`.
    """

    value: Array
    in_sample: Array
    standard_error: Array
    lower: Array
    upper: Array
    batches: Array


@takes_arrays("probabilities", "weights")
def estimate_entanglement(probabilities: Array, weights: Array) -> EntanglementEstimate:
    r"""Monte Carlo estimate of the entanglement of one agent.

    $\min_q \sum_{t, l} w_{tl} D_{TV}(p_{tl}, q_l) / \sum w$ (Eqs. 9, 10, 15). Exact: for each local
    state l the minimizer is a weighted center of total variation, with two actions a weighted
    median. The halves of `held_out` are the epochs before and after half of the weight, so epochs
    of weight 0 (burn-in, padding) do no harm.

    Args:
        probabilities: of the agent's actions (or next pairs) in epoch t were it in local state l,
            `[T, L, m]`.
        weights: of local state l in epoch t, not negative, `[T, L]`: an indicator for one agent,
            the share of agents in l for exchangeable ones.

    Returns:
        `EntanglementEstimate`. The derivative of `value` is exact where the minimizer is unique
        (with two actions the median is one of the probabilities and moves with it), a subgradient
        elsewhere; with more than two actions `held_out` has none.

    Examples:
        A weighted median for each local state:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> policy = jnp.array([[[0.8, 0.2]], [[0.6, 0.4]], [[0.1, 0.9]]])  # [T, S, A]
        >>> print(f"{jaxent.estimate_entanglement(policy, jnp.ones((3, 1))).value:.3f}")
        0.233

    References:
        Chen and Peng, Proposition 1, Eqs. (9), (10) and (15).
    """
    _check_laws(probabilities, weights)
    probabilities = jnp.asarray(probabilities)
    weights = jnp.asarray(weights, probabilities.dtype)
    total = weights.sum()
    reached = jnp.cumsum(weights.sum(1))
    early = weights * (reached <= 0.5 * total)[:, None]
    late = weights - early
    if probabilities.shape[-1] == 2:
        return _two_actions(probabilities[..., 1], weights, early, late, total)

    def one(laws: Array, parts: Array) -> tuple[Array, Array, Array]:
        """Of one local state: laws `[T, m]`, parts `[3, T]`."""
        frozen = lax.stop_gradient(laws)
        whole, first, second = parts
        center = jax.vmap(tv_center, in_axes=(None, 0))(frozen, lax.stop_gradient(parts))
        near, from_first, from_second = total_variation(frozen[None], center.point[:, None])
        # Danskin: the minimum has slope w_k y_k in the laws and the distances in the weights.
        inner = (whole[:, None] * center.slopes[0] * (laws - frozen)).sum()
        crossed = lax.stop_gradient(second @ from_first + first @ from_second)
        return whole @ near + inner, crossed, center.point[0]

    value, held_out, point = lax.map(
        lambda both: one(*both),
        (jnp.moveaxis(probabilities, 1, 0), jnp.moveaxis(jnp.stack([weights, early, late]), 2, 0)),
    )
    return EntanglementEstimate(value.sum() / total, held_out.sum() / total, point)


def _two_actions(
    active: Array, weights: Array, early: Array, late: Array, total: Array
) -> EntanglementEstimate:
    """One sort of each local state serves the whole and both halves."""
    medians = jax.vmap(weighted_median, in_axes=(1, 2), out_axes=1)
    fitted, from_early, from_late = medians(active, jnp.stack([weights, early, late]))  # [3, L]

    def distance(fitted: Array, weights: Array) -> Array:
        return jnp.sum(weights * jnp.abs(active - fitted[None])) / total

    return EntanglementEstimate(
        value=distance(fitted, weights),
        held_out=distance(from_early, late) + distance(from_late, early),
        minimizer=jnp.stack([1 - fitted, fitted], axis=-1),
    )


@takes_arrays("laws", "local")
def by_local(laws: Array, local: Array, *, num_local: int) -> tuple[Array, Array]:
    """Laws known where the agent is, as `estimate_entanglement` takes them.

    Args:
        laws: of the agent's action or next pair at epoch t, given all agents, `[T, m]`.
        local: its local state or pair at epoch t, `[T]`.
        num_local: L. Static.

    Returns:
        `[T, L, m]`, the laws for every local state, and their weights `[T, L]`, 1 where it is.
    """
    check_shape("laws", laws, (None, None))
    check_shape("local", local, (jnp.shape(laws)[0],))
    laws = jnp.asarray(laws)
    here = jnp.asarray(local)[:, None] == jnp.arange(num_local)[None]
    every = jnp.broadcast_to(laws[:, None], (len(laws), num_local, laws.shape[1]))
    return every, here.astype(laws.dtype)


@takes_arrays("probabilities", "weights")
def entanglement_interval(
    probabilities: Array, weights: Array, *, num_batches: int = 20, confidence: float = 0.95
) -> EntanglementInterval:
    r"""Cross-fitted estimate of the entanglement of one agent, with a confidence interval.

    Batches of consecutive epochs have equal weight. With $q^{(-k)}$ fitted on all but batch k the
    estimate is $\sum_k \sum_{t \in k, l} w_{tl} D_{TV}(p_{tl}, q^{(-k)}_l) / \sum w$, and the
    interval is that of batch means, for dependent epochs: valid where a batch is much longer than
    the chain remembers.

    Args:
        probabilities: `[T, L, m]`, as for `estimate_entanglement`.
        weights: `[T, L]`.
        num_batches: K, at least 2 and at most T. Static.
        confidence: of the interval, in (0, 1). Static.

    Raises:
        ValueError: for laws, weights, batches or a confidence that are none.

    References:
        Chen and Peng, Eqs. (9), (10) and (15); Chernozhukov et al. 2018 (cross-fitting); Asmussen
        and Glynn 2007, IV.5 (batch means).
    """
    _check_laws(probabilities, weights)
    check_positive_int("num_batches", num_batches)
    if not 2 <= num_batches <= jnp.shape(weights)[0]:
        raise ValueError(
            f"num_batches: {num_batches} is outside 2..{jnp.shape(weights)[0]} (the epochs)"
        )
    return _interval(probabilities, weights, num_batches, student(confidence, num_batches))


def student(confidence: float, num_batches: int) -> float:
    """Quantile that makes a two-sided interval of batch means.

    Raises:
        ValueError: if the confidence is not inside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is outside (0, 1)")
    return float(scipy.special.stdtrit(num_batches - 1, 0.5 + confidence / 2))


def _check_laws(probabilities: Array, weights: Array) -> None:
    check_shape("probabilities", probabilities, (None, None, None))
    check_shape("weights", weights, jnp.shape(probabilities)[:2])
    if jnp.shape(probabilities)[2] < 2:
        raise ValueError("probabilities: of one action only; there is nothing to choose")
    check_finite("probabilities", probabilities)
    check_finite("weights", weights)


@jit(static_argnums=2)
def _interval(
    probabilities: Array, weights: Array, num_batches: int, quantile: float
) -> EntanglementInterval:
    probabilities = jnp.asarray(probabilities)
    weights = jnp.asarray(weights, probabilities.dtype)
    batch = batch_of(weights.sum(1), num_batches)  # [T]
    inside = (batch[None] == jnp.arange(num_batches)[:, None]).astype(weights.dtype)  # [K, T]
    fits = jnp.concatenate([1 - inside, jnp.ones_like(inside[:1])])  # the last one is the whole

    def one(laws: Array, w: Array) -> tuple[Array, Array]:
        """Of one local state: cost in every batch, and in sample."""
        if laws.shape[-1] == 2:
            active = weighted_median(laws[:, 1], fits * w[None])  # [K + 1]
            points = jnp.stack([1 - active, active], axis=-1)
        else:
            points = lax.map(lambda fit: tv_center(laws, fit * w).point, fits)  # [K + 1, m]
        cost = jax.vmap(lambda q: w * total_variation(laws, q[None]))(points)  # [K + 1, T]
        return (cost[:-1] * inside).sum(1), cost[-1].sum()

    cost, whole = lax.map(lambda x: one(*x), (jnp.moveaxis(probabilities, 1, 0), weights.T))
    mass = inside @ weights.sum(1)
    return batch_means(cost.sum(0), mass, quantile, in_sample=whole.sum() / weights.sum())


def batch_of(weights: Array, num_batches: int) -> Array:
    """Batch of every epoch, so that batches of consecutive epochs have equal weight, `[T]`."""
    reached = jnp.cumsum(weights) - weights / 2
    share = reached * num_batches / weights.sum()
    return jnp.clip(share.astype(jnp.int32), 0, num_batches - 1)


def batch_means(
    cost: Array, mass: Array, quantile: Array | float, *, in_sample: Array
) -> EntanglementInterval:
    """Ratio of sums over batches, with the interval of batch means: `EntanglementInterval`."""
    assert cost.shape == mass.shape  # [K]
    num_batches = len(cost)
    value = cost.sum() / mass.sum()
    apart = (cost - value * mass) / mass.mean()
    error = jnp.sqrt((apart**2).sum() / (num_batches * (num_batches - 1)))
    return EntanglementInterval(
        value,
        in_sample,
        error,
        jnp.maximum(value - quantile * error, 0),
        value + quantile * error,
        ratio(cost, mass),
    )
