r"""Policies as functions of parameters: what a gradient-based study moves.

A family is a pair of pure functions in the manner of optax: `init(key)` draws a pytree of
parameters, `apply(parameters)` makes a policy of it that `pair_chain` takes. Gradients of returns,
errors and entanglement go through `apply` exactly, because no action is ever drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .mdp import ExogenousMDP, WeaklyCoupledMDP, check_mdp, feasible_actions
from .policies import product_policy, softmax_policy

Array = jax.Array


class PolicyFamily(NamedTuple):
    """Policies π_θ.

    Attributes:
        init: a key to parameters θ, a pytree of floats; vmap it for many.
        apply: θ to the policy. Differentiable.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any], Any]


def joint_softmax(mdp: Any, *, scale: float = 1.0) -> PolicyFamily:
    """Every joint policy that takes each feasible action: θ are logits `[S_0.., A_0..]`.

    Args:
        mdp: any model; coupling constraints are met by construction.
        scale: standard deviation of the logits that `init` draws. Static.
    """
    shape = (*_joint_states(mdp), *mdp.num_actions)
    coupled = isinstance(mdp, WeaklyCoupledMDP) and bool(mdp.couplings)
    feasible = feasible_actions(mdp) if coupled else jnp.ones(shape, bool)

    def apply(logits: Array) -> Array:
        return softmax_policy(logits, feasible=feasible)

    return PolicyFamily(lambda key: scale * jax.random.normal(key, shape), apply)


def product_softmax(mdp: Any, *, scale: float = 1.0) -> PolicyFamily:
    """Agents that decide on their own: θ are logits `[S_i, A_i]`, one array an agent.

    Raises:
        ValueError: if the model couples the actions, which independent agents cannot respect.
    """
    check_mdp(mdp)
    if isinstance(mdp, WeaklyCoupledMDP) and mdp.couplings:
        raise ValueError("mdp: couples its agents' actions, independent agents would break that")
    if isinstance(mdp, ExogenousMDP):
        raise ValueError("mdp: has a signal that independent tables do not read; see joint_softmax")
    shapes = tuple(zip(mdp.num_states, mdp.num_actions, strict=True))

    def init(key: Array) -> tuple[Array, ...]:
        keys = jax.random.split(key, len(shapes))
        return tuple(
            scale * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
        )

    def apply(logits: tuple[Array, ...]) -> Array:
        return product_policy([jax.nn.softmax(table) for table in logits])

    return PolicyFamily(init, apply)


def _joint_states(mdp: Any) -> tuple[int, ...]:
    check_mdp(mdp)
    signals = (mdp.num_signals,) if isinstance(mdp, ExogenousMDP) else ()
    return (*mdp.num_states, *signals)
