r"""What sampling a model leaves open of a number that is computed from it: the delta method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._reads import reads
from ..models.tabulated import Tabulated
from ..numerics.compiled import jit

Array = jax.Array


@reads("{0.value:.4g}, with a standard error of {0.standard_error:.2g}")
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

    the same for the law of the first state. It holds for many keys and where f is smooth. An error
    is a mean of absolute values, which sampling makes larger: on a model of 4 states the value was
    too large by one standard error at 60 keys and by 0.7 of it at 400, so that 1.96 standard errors
    held the truth in 89% and 93% of cases; of a return in 95%. Chances of outcomes that never
    occurred are not in it.

    Args:
        mdp: of `tabulate_env`.
        statistic: from such a model to a scalar, differentiable in its probabilities: anything
            computed from `pair_chain(mdp, policy)`, as the `value` of `approximation_error`.

    Raises:
        ValueError: if the statistic is no scalar.

    Examples:
        A coin that one player tosses anew, and what is open of how often it shows heads:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> import jaxent
        >>> class Coin:
        ...     agents = ("one", "other")
        ...     def action_space(self, agent):
        ...         return SimpleNamespace(n=2)
        ...     def reset(self, key):
        ...         return {"one": 0, "other": 0}, jnp.array(0)
        ...     def step(self, key, state, actions):
        ...         tossed = jax.random.bernoulli(key, 0.5).astype(int)
        ...         state = jnp.where(actions["one"] == 1, tossed, state)
        ...         paid = {"one": state, "other": 0 * state}
        ...         return {"one": state, "other": state}, state, paid, {"__all__": False}, {}
        >>> game = jaxent.tabulate_env(Coin(), jax.random.key(0), num_keys=1000)
        >>> def heads(game):
        ...     policy = game.join([jnp.full((2, 2), 0.5)] * 2)
        ...     return jaxent.average_reward(jaxent.pair_chain(game, policy), game.rewards)
        >>> print(game)
        Tabulated: 2 states, 8 joint pairs, estimated: 4 of 8 pairs from 1000 keys each
          actions (2, 2), observations (2, 2)
          at most 2 outcomes of a pair; rewards: one of all
        >>> print(f"{jaxent.sampling_error(game, heads).standard_error:.3f}")  # 0.5 / sqrt(4000)
        0.008
    """
    chances, start = jnp.asarray(mdp.transition[1]), jnp.asarray(mdp.start)

    def of(chances, start):
        value = jnp.asarray(statistic(mdp.with_chances(chances, start)))
        if value.shape != ():
            raise ValueError(f"statistic: gives shape {list(value.shape)}, wanted one number")
        return value

    value, (slope, start_slope) = jax.value_and_grad(of, (0, 1))(chances, start)
    slopes = (slope, start_slope)
    samples = (jnp.asarray(mdp.samples), mdp.start_samples)
    return SampledValue(value, _standard_error((chances, start), slopes, samples))


@jit
def _standard_error(laws: Any, slopes: Any, samples: Any) -> Array:
    """Of the laws of pairs and of the start; a law of no samples is exact."""
    pairs, start = (_spread(law, slope) for law, slope in zip(laws, slopes, strict=True))
    of_pairs, of_start = samples
    spread = (pairs / jnp.maximum(of_pairs - 1, 1)).sum(where=of_pairs > 0)
    return jnp.sqrt(spread + jnp.where(of_start > 0, start / jnp.maximum(of_start - 1, 1), 0))


def _spread(law: Array, slope: Array) -> Array:
    """The variance of the slopes under a law, on the last axis."""
    mean = (law * slope).sum(-1, keepdims=True)
    return (law * (slope - mean) ** 2).sum(-1)
