r"""What sampling a model leaves open of a number that is computed from it: the delta method."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..models.tabulated import Tabulated

Array = jax.Array


class SampledValue(NamedTuple):
    """A number computed from a model that was sampled.

    Attributes:
        value: of the model as it is.
        standard_error: how far sampling moves it, by the delta method; 0 where all is exact.
    """

    value: Array
    standard_error: Array

    def __str__(self) -> str:
        """Both, on a line."""
        return f"{float(self.value):.6g} ± {float(self.standard_error):.2g} (standard error)"


def sampling_error(mdp: Tabulated, statistic: Callable[[Tabulated], Array]) -> SampledValue:
    r"""A number computed from a sampled model, and its standard error by the delta method.

    Pairs are sampled with keys of their own, so their shares are independent multinomials, and

        Var f = Σ_(s,a) [Σ_k p_k g_k^2 - (Σ_k p_k g_k)^2] / (n - 1),    g = ∂f/∂p,

    the same for the law of the first state. It holds for many keys and where f is smooth; near a
    kink (an error that is nearly 0 everywhere) f is too large on average and its spread is not
    normal. Chances of outcomes that never occurred are not in it.

    Args:
        mdp: of `tabulate_env`.
        statistic: from such a model to a scalar, differentiable in its probabilities: anything
            computed from `pair_chain(mdp, policy)`, as the `value` of `approximation_error`.

    Raises:
        ValueError: if the statistic is no scalar.

    Examples:
        >>> import jaxent
        >>> def error(mdp):
        ...     chain = jaxent.pair_chain(mdp, policy)
        ...     fit = jaxent.fit_additive(chain, mdp.rewards, discount=0.9)
        ...     return jaxent.approximation_error(
        ...         chain, mdp.rewards, fit.q_local, discount=0.9
        ...     ).value
        >>> # print(jaxent.sampling_error(mdp, error))
    """
    chances, start = jnp.asarray(mdp.transition[1]), jnp.asarray(mdp.start)

    def of(chances, start):
        value = jnp.asarray(statistic(mdp.with_chances(chances, start)))
        if value.shape != ():
            raise ValueError(f"statistic: gives shape {list(value.shape)}, wanted one number")
        return value

    value, (slope, start_slope) = jax.value_and_grad(of, (0, 1))(chances, start)
    samples = jnp.asarray(mdp.samples)
    spread = (_spread(chances, slope) / jnp.maximum(samples - 1, 1)).sum(where=samples > 0)
    if mdp.start_samples:
        spread += _spread(start, start_slope) / (mdp.start_samples - 1)
    return SampledValue(value, jnp.sqrt(spread))


def _spread(law: Array, slope: Array) -> Array:
    """The variance of the slopes under a law, on the last axis."""
    mean = (law * slope).sum(-1, keepdims=True)
    return (law * (slope - mean) ** 2).sum(-1)
