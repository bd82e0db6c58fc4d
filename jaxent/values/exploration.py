r"""Policies that explore: every agent for itself, by chance or greedily with chance between.

What a sum of local values gets wrong about actions shows only where these are taken. The stationary
law of a policy that explores is the `law=` of fits and errors.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_shape, concrete
from ..models.contracts import ArrayLike, Scalar, TableModel, check_mdp
from ..numerics.arrays import as_array, as_float
from .igm import LocalValues, local_values

Array = jax.Array


def uniform_policy(mdp: TableModel) -> Array:
    """All agents draw each of their actions as often, whatever they see: a joint table.

    Args:
        mdp: a model whose agents may decide on their own.

    Raises:
        ValueError: for no model, or one whose agents cannot decide on their own.

    Examples:
        >>> import jaxent
        >>> mdp = jaxent.WeaklyCoupledMDP(jaxent.example_1()[0].agents, 0.9)
        >>> print(jaxent.uniform_policy(mdp)[0, 0])
        [[0.25 0.25]
         [0.25 0.25]]
    """
    check_mdp(mdp)
    return mdp.join([jnp.full(shape, 1 / shape[1]) for shape in mdp.local_shapes()])


def epsilon_greedy(mdp: TableModel, values: LocalValues, *, epsilon: Scalar) -> Array:
    r"""Each agent takes its best action, and any action with probability epsilon: a joint table.

    $\pi_i(a | o) = (1 - \varepsilon) 1[a = \operatorname{argmax} Q_i(o, .)] + \varepsilon / A_i$,
    each agent with dice of its own. Of equal values the first counts.

    Args:
        mdp: a model whose agents may decide on their own.
        values: Q_i of each agent, `[O_i, A_i]` or `[X_i]`; or a result that has `q_local`.
        epsilon: in [0, 1]; 0 is the greedy team.

    Raises:
        ValueError: as `uniform_policy`, for values that do not fit, and for epsilon outside [0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> mdp = jaxent.WeaklyCoupledMDP(jaxent.example_1()[0].agents, 0.9)
        >>> values = [jnp.array([[0.0, 1.0], [1.0, 0.0]])] * 2
        >>> print(jaxent.epsilon_greedy(mdp, values, epsilon=0.2)[0, 1].round(2))
        [[0.09 0.01]
         [0.81 0.09]]
    """
    check_mdp(mdp)
    if concrete(epsilon) and not 0 <= float(epsilon) <= 1:
        raise ValueError(f"epsilon: {float(epsilon):.9g} is outside [0, 1]")
    shapes, given = mdp.local_shapes(), local_values(values)
    if len(given) != len(shapes):
        raise ValueError(f"values: wanted one for each of {len(shapes)} agents, got {len(given)}")
    pairs = enumerate(zip(given, shapes, strict=True))
    return mdp.join([_table(f"values[{i}]", q, shape, epsilon) for i, (q, shape) in pairs])


def _table(name: str, values: ArrayLike, shape: tuple[int, int], epsilon: Any) -> Array:
    q = as_float(as_array(name, values))
    if jnp.size(q) != shape[0] * shape[1]:
        check_shape(name, q, shape)
    q = q.reshape(shape)
    best = jax.nn.one_hot(q.argmax(-1), shape[1], dtype=q.dtype)
    return (1 - epsilon) * best + epsilon / shape[1]
