r"""Local values that are linear in what each agent observes, by least-squares temporal differences.

What `lstd_local_q` is for tables. With features phi of an agent's own observation and action

    sum_t phi_t (phi_t - discount phi_{t+1})' w = sum_t phi_t R_t,    Q_i = phi' w,

and the limit is the projection of the local Q-values of Eq. (2) on the features.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy
from numpy.typing import ArrayLike

from .._checks import check_discount, check_finite, check_shape
from .._reads import reads
from .local_learning import check_paid
from .local_limit import local_steps
from .observed import own_features, states_of_observations
from .team_features import as_numbers, team_features
from .trajectory import Trajectory, check_trajectory

Array = jax.Array


@reads("local values of {0.value.shape[1]} agents at {0.value.shape[0]} epochs")
class LinearQ(NamedTuple):
    r"""Local Q-values linear in features, along the log that taught them.

    Attributes:
        value: $Q_i = \phi_i^\top w_i$ at every epoch, `[T, N]`; 0 where an agent is absent.
        weights: $w$, `[K, d]`; for indicators of local pairs a table.
        features: $\phi$, `[T, N, d]`.
    """

    value: np.ndarray
    weights: np.ndarray
    features: np.ndarray


def linear_local_q(
    key: Array,
    trajectory: Trajectory,
    *,
    discount: float,
    features: ArrayLike | None = None,
    types: ArrayLike | None = None,
) -> LinearQ:
    r"""Local Q-values that are linear in features of what each agent observes and does.

    $Q_i = \phi^\top w$,
    $\sum_t \phi_t (\phi_t - \gamma \phi_{t+1})^\top w = \sum_t \phi_t r_t$.
    With an indicator for each local pair it is the table of `lstd_local_q`. In NumPy and double
    precision.

    Args:
        key: of `jax.random.key`, for waves of observations.
        trajectory: T epochs of N agents, with a reward of every agent.
        discount: $\gamma$ in [0, 1).
        features: $\phi$, `[T, N, d]`, in any unit; `learning.own_features` if not given. With
            `learning.joint_features` each agent knows what all observe and do.
        types: of every agent, `[N]`; agents of a type share the weights. Each is its own if not
            given.

    Raises:
        ValueError: for a shared reward, features of another shape or not finite, or a log too short
            for its observations.

    Examples:
        Two agents at places of their own, each paid for its place:

        >>> import jax, jax.numpy as jnp, jaxent
        >>> noise = jax.random.normal(jax.random.key(0), (2_000, 2))
        >>> _, z = jax.lax.scan(lambda z, w: (0.8 * z + 0.6 * w, z), jnp.zeros(2), noise)
        >>> still = jnp.zeros((2_000, 2), int)
        >>> log = jaxent.Trajectory.from_arrays(None, still, z, observations=z[:, :, None])
        >>> found = jaxent.learning.linear_local_q(jax.random.key(1), log, discount=0.9)
        >>> found.value.shape
        (2000, 2)

    References:
        Bradtke and Barto 1996; Chen and Peng, Meta Algorithm 1.
    """
    check_paid(trajectory, None)
    check_discount(discount)
    if features is None:
        columns = own_features(key, trajectory, types=types)
    else:
        columns = as_numbers("features", features)
        check_shape("features", columns, (*np.shape(trajectory.states), None))
        check_finite("features", columns)
    steps = local_steps(trajectory, float(discount), types, columns)
    told = steps.moments(slice(0, len(steps.follows)))
    learned = steps.learn(told, np.zeros(steps.shape))
    return LinearQ(steps.values(learned.weights), learned.weights, columns)


def joint_features(key: Array, trajectory: Trajectory) -> np.ndarray:
    """Features of what everyone observes and does, the same for every agent, as `features=`.

    A local value that is linear in them is one of the team, and nothing is wrong with the sum of
    such values but what the features miss. They are those by which `estimate_approximation_error`
    sees the team, with other waves for another key.

    Args:
        key: of `jax.random.key`, for waves of observations.
        trajectory: T epochs of N agents.

    Returns:
        `[T, N, d]`, read-only: one array for all agents.

    Raises:
        ValueError: for a log too short for so many agents, with the length that would do.
    """
    check_trajectory(trajectory)
    seen = states_of_observations(trajectory)
    made = team_features(key, seen, np.zeros(trajectory.num_epochs), of_states=False)
    if scipy.sparse.issparse(made):
        made = made.toarray()
    return np.broadcast_to(made[:, None], (*np.shape(trajectory.states), made.shape[1]))


def check_linear(trajectory: Trajectory, found: LinearQ) -> None:
    """Raise unless linear local values are of this log."""
    shape = np.shape(trajectory.states)
    check_shape("approximation.value", found.value, shape)
    check_shape("approximation.features", found.features, (*shape, None))
    check_finite("approximation.value", found.value)
    check_finite("approximation.features", found.features)
