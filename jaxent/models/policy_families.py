r"""Policies as functions of parameters: what a gradient-based study moves.

A family is a pair of pure functions in the manner of optax: `init(key)` draws a pytree of
parameters, `apply(parameters)` makes a policy of it. That of agents in general is a joint table for
`pair_chain`; that of exchangeable agents a `SoftIndex`, for `soft_exchangeable_chain`,
`soft_ground_truth` and `soft_mean_field`, or by `soft_index_policy` a joint table too. Gradients of
returns, errors and entanglement go through `apply` exactly, because no action is ever drawn.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_positive, check_positive_int, check_shape
from .._reads import reads
from ..numerics.arrays import dot
from .contracts import ArrayLike, TableModel, check_mdp
from .policies import softmax_policy
from .soft_index import SoftIndex

Array = jax.Array


@reads("init makes parameters, apply the policy that they stand for")
class PolicyFamily(NamedTuple):
    """Policies π_θ.

    Attributes:
        init: a key to parameters θ, a pytree of floats; vmap it for many.
        apply: θ to the policy. Differentiable.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any], Any]


def joint_softmax(mdp: TableModel, *, scale: float = 1.0) -> PolicyFamily:
    """Every joint policy that takes each feasible action: θ are logits `[S_0.., A_0..]`.

    Args:
        mdp: any model; coupling constraints are met by construction.
        scale: standard deviation of the logits that `init` draws. Static.
    """
    check_mdp(mdp)
    feasible, shape = mdp.feasible(), mdp.policy_shape

    def apply(logits: Array) -> Array:
        return softmax_policy(logits, num_agents=int(np.size(mdp.num_actions)), feasible=feasible)

    return PolicyFamily(lambda key: scale * jax.random.normal(key, shape), apply)


def product_softmax(mdp: TableModel, *, scale: float = 1.0) -> PolicyFamily:
    """Agents that decide on their own: θ are logits, one array an agent, `[S_i, A_i]`.

    In a `StateMDP` an agent reads its observation, and they are `[O_i, A_i]`.

    Raises:
        ValueError: if the model couples the actions, which independent agents cannot respect.
    """
    check_mdp(mdp)
    shapes = mdp.local_shapes()

    def init(key: Array) -> tuple[Array, ...]:
        keys = jax.random.split(key, len(shapes))
        return tuple(
            scale * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
        )

    def apply(logits: tuple[Array, ...]) -> Array:
        return mdp.join([jax.nn.softmax(table) for table in logits])

    return PolicyFamily(init, apply)


def soft_index(num_states: int, temperature: float, *, scale: float = 1.0) -> PolicyFamily:
    """Soft index policies of exchangeable agents: θ is the index of each state, `[S]`.

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    check_positive_int("num_states", num_states)
    check_positive("temperature", temperature)
    return PolicyFamily(
        lambda key: scale * jax.random.normal(key, (num_states,)),
        lambda index: SoftIndex(index, temperature),
    )


def neural_index(
    features: ArrayLike, temperature: float, *, hidden: Sequence[int] = (16,)
) -> PolicyFamily:
    """Soft index policies whose index is a network of state features, with tanh between layers.

    Args:
        features: of each state, `[S, F]`.
        temperature: in the unit of the index.
        hidden: widths of the hidden layers. Static.

    Returns:
        The family; θ is a tuple of layers `{"weight": [I, O], "bias": [O]}`.

    Raises:
        ValueError: for features that are not finite or a temperature that is not above 0.
    """
    check_shape("features", features, (None, None))
    check_finite("features", features)
    check_positive("temperature", temperature)
    widths = (jnp.shape(features)[1], *hidden, 1)

    def init(key: Array) -> tuple[dict[str, Array], ...]:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(
            {"weight": jax.random.normal(k, (i, o)) / i**0.5, "bias": jnp.zeros(o)}
            for k, (i, o) in zip(keys, pairwise(widths), strict=True)
        )

    def apply(layers: tuple[dict[str, Array], ...]) -> SoftIndex:
        x = jnp.asarray(features, layers[0]["weight"].dtype)
        for depth, layer in enumerate(layers):
            x = jnp.tanh(x) if depth else x
            x = dot(x, layer["weight"]) + layer["bias"][None]
        return SoftIndex(x[:, 0], temperature)

    return PolicyFamily(init, apply)
