r"""Theorem 7 piece by piece: why E_1 of an index policy falls like 1 / sqrt(N) (Appendix I).

The proof goes from the measure to the configuration, from one step to many, and from many to m*:

    $E_1 \le \frac12 E\|m - m^*\|_1 \le |S|^2\, E\|m - m^*\|_\infty$     (sharper; Lemmas 2 and 8)
    $E[\|m_1 - \phi(m_0)\|_1 \mid m_0] \le \sqrt{|S| / N}$                    (Lemma 9)
    $P(\|m_t - \Phi_t(m_0)\|_\infty \ge (1 + K + ... + K^t)\, \delta) \le t |S| e^{-2 N \delta^2}$
                                                                          (Lemma 10)

Lemma 10 says that some K will do. Hoeffding's inequality for each state, sign and step gives, for
every K from the Lipschitz constant of $\phi$ on,

    $2 t |S| e^{-2 N \rho^2 \delta^2}$,  $\rho = (1 + ... + K^t) / (1 + ... + K^{t-1}) > K$:

at most what is printed where that is below 1 and $\rho^2 \ge 2$, so always for
$K \ge \sqrt 2$. The function here is this one, which is proved for smaller K too.

and ends at m* because $\Phi_t(m_0) \to m^*$. Both sides of each are functions here. The last, the
uniform global attractor, is in `attractor`; local stability and non-degeneracy are fields of
`mean_field`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite, check_positive_int, check_shape, renamed
from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from .activation import IndexPolicy, Priority, action_law, check_index_policy, check_priority
from .mean_field import MeanField, affine_pieces, mean_field_step
from .simulate import CountsTrajectory
from .soft_mean_field import SoftMeanField

Array = jax.Array


@reads("{0.policy_distance:.4g} of Eq. (15), at most {0.bound:.4g} by Lemma 8")
class DeviationBound(NamedTuple):
    r"""$E_1 \le$ `policy_distance` $\le$ `half_distance` $\le$ `bound`: Lemma 8, and sharper.

    Attributes:
        deviation: $E \|m - m^*\|_\infty$.
        policy_distance: $E \sum_s m_s |\pi(1 \mid s, m) - \pi^*(1 \mid s)|$, Eq. (15) at the policy
            of the mean field in place of the best one.
        bound: $|S|^2$ `deviation`.
        half_distance: $\frac12 E \|m - m^*\|_1$, which is at most $\frac{|S|}{2}$ `deviation`.
            Between two configurations the chances to be active all move one way, so that what they
            move by in the mean is what the configurations' own activations differ by.
    """

    deviation: Array
    policy_distance: Array
    bound: Array
    half_distance: Array


@reads("beyond {0.radius:.4g} with probability at most {0.probability:.4g}")
class MultiStepBound(NamedTuple):
    r"""$P(\|m_t - \Phi_t(m)\|_\infty \ge$ `radius` $) \le$ `probability`: Lemma 10, see the head.

    Attributes:
        radius: $(1 + K + ... + K^t)\, \delta$.
        probability: $2 t |S| e^{-2 N \rho^2 \delta^2}$; above 1 it says nothing.
    """

    radius: Array
    probability: Array


@renamed(priority="policy")
def deviation_bound(
    counts: Array | np.ndarray,
    weights: Array | np.ndarray,
    bandit: RestlessBandit,
    policy: IndexPolicy,
    field: MeanField | SoftMeanField,
) -> DeviationBound:
    r"""Lemma 8 under any exchangeable law, given as that of configurations, and a sharper bound.

    With `configurations(N, S)` and `ground_truth(...).law` it is exact; with the counts of a run
    and equal weights it is an estimate.

    Args:
        counts: configurations, `[K, S]`.
        weights: of the configurations, not negative; normalized here, `[K]`.
        bandit: the model.
        policy: states in the order served, `[S]`; or a `SoftIndex`.
        field: `mean_field(bandit, policy)`; NaN where it has no unique fixed point.

    References:
        Chen and Peng, Lemmas 2 and 8; `docs/theory/lemmas.md` for `half_distance`.
    """
    check_bandit(bandit)
    policy = check_index_policy(policy, bandit.num_states)
    check_shape("counts", counts, (None, bandit.num_states))
    check_shape("weights", weights, (jnp.shape(counts)[0],))
    check_finite("weights", weights)
    star = field.configuration
    weights = jnp.asarray(weights, star.dtype)
    weights = weights / weights.sum()
    counts = jnp.asarray(counts)
    m = counts.astype(star.dtype) / bandit.num_agents
    chance = action_law(counts, policy, bandit.budget)[..., 1]  # [K, S]
    apart = jnp.abs(chance - _chances_at(field, policy)[None])
    deviation = weights @ jnp.abs(m - star[None]).max(1)
    return DeviationBound(
        deviation=deviation,
        policy_distance=weights @ (m * apart).sum(1),
        bound=bandit.num_states**2 * deviation,
        half_distance=weights @ jnp.abs(m - star[None]).sum(1) / 2,
    )


def _chances_at(field: MeanField | SoftMeanField, policy: IndexPolicy) -> Array:
    """Chances to be active at m*, `[S]`; of a state where nobody is, by its place in the order."""
    chance = field.policy[:, 1]
    if isinstance(field, SoftMeanField):
        return chance
    place = jnp.argsort(jnp.asarray(policy))
    other = (place < place[field.pivot]).astype(chance.dtype)
    return jnp.where(jnp.arange(len(chance)) == field.pivot, chance, other)


def one_step_bound(bandit: RestlessBandit) -> Array:
    r"""$\sqrt{|S| / N}$, the right-hand side of Lemma 9."""
    check_bandit(bandit)
    return jnp.sqrt(bandit.num_states / jnp.asarray(bandit.num_agents, float))


@renamed(priority="policy")
def one_step_deviation(
    trajectory: CountsTrajectory, bandit: RestlessBandit, policy: IndexPolicy
) -> Array:
    r"""$\|m_{t+1} - \phi(m_t)\|_1$ of every epoch of a run, `[T]`.

    Its mean given m_t is the left-hand side of Lemma 9: average over runs that start there.
    """
    check_bandit(bandit)
    m = trajectory.counts / jnp.asarray(bandit.num_agents, float)
    ahead = jax.vmap(lambda m: mean_field_step(bandit, policy, m))(m[:-1])
    return jnp.abs(m[1:] - ahead).sum(1)


@renamed(priority="policy")
def multi_step_deviation(
    trajectory: CountsTrajectory, bandit: RestlessBandit, policy: IndexPolicy
) -> Array:
    r"""$\|m_t - \Phi_t(m_0)\|_\infty$ of a run, t = 0..T, `[T + 1]`: what Lemma 10 bounds."""
    check_bandit(bandit)
    m = trajectory.counts / jnp.asarray(bandit.num_agents, float)

    def step(ahead: Array, now: Array) -> tuple[Array, Array]:
        return mean_field_step(bandit, policy, ahead), jnp.abs(now - ahead).max()

    return jax.lax.scan(step, m[0], m)[1]


def lipschitz_constant(bandit: RestlessBandit, priority: Priority) -> Array:
    r"""K of Lemma 10: the Lipschitz constant of $\phi$ in the sup norm.

    $K = \max_p \max_j \sum_s |K_p(s, j) - \mathrm{med}_s K_p(s, j)|$. Differences of configurations
    sum to 0, and $\max \{d \cdot k : \sum d = 0, |d_s| \le 1\}$ is the distance of k from its
    median. Exact for 0 < M < N, when every piece has an interior.
    """
    check_bandit(bandit)
    order = check_priority(priority, bandit.num_states)
    kernel = bandit.kernel.astype(jnp.result_type(bandit.kernel, float))
    share = jnp.asarray(bandit.budget / bandit.num_agents, kernel.dtype)
    linear = affine_pieces(kernel, jnp.asarray(order), share).linear
    return tangent_norm(linear).max()


def tangent_norm(linear: Array) -> Array:
    r"""$\max \|d K\|_\infty$ over $\sum d = 0$, $\|d\|_\infty \le 1$, `[..., S, S]` to `[...]`."""
    centered = linear - jnp.median(linear, axis=-2, keepdims=True)
    return jnp.abs(centered).sum(-2).max(-1)


def multi_step_bound(
    bandit: RestlessBandit,
    lipschitz: Array | float,
    *,
    num_steps: int,
    delta: Array | np.ndarray | float,
) -> MultiStepBound:
    r"""The two sides of Lemma 10 for `num_steps` = t and any $\delta > 0$, as in the head.

    Args:
        bandit: the model.
        lipschitz: K, of `lipschitz_constant` or any larger number.
        num_steps: t. Static.
        delta: $\delta$, `[...]`.
    """
    check_bandit(bandit)
    check_positive_int("num_steps", num_steps)
    delta = jnp.asarray(delta, float)
    powers = jnp.asarray(lipschitz) ** jnp.arange(num_steps + 1)
    radius = powers.sum() * delta
    # The errors of the t steps add up to this many times the largest of them.
    step = radius / powers[:-1].sum()
    chance = 2 * num_steps * bandit.num_states * jnp.exp(-2 * bandit.num_agents * step**2)
    return MultiStepBound(radius, chance)
