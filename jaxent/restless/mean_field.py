r"""The mean field of a restless bandit under an index policy.

With m the fraction of agents per state, $\phi(m) = E[m_{t+1} \mid m_t = m]$ is continuous, and
affine on each piece Z_p, where p is the pivot: the state in which the budget runs out (Lemma 7).
On Z_p

    $\phi(m) = m K + \alpha (P_1(p) - P_0(p))$,  with rows
    $K(s) = P_1(s) - P_1(p) + P_0(p)$ for s served before p, and $P_0(s)$ for the others.

Everything else follows: the fixed point m*, its policy, the value of a configuration (affine on the
piece), the Gaussian limit of sqrt(N) (m - m*), and from it the constants of E_1 ~ c / sqrt(N) and
of the error of the value decomposition ~ c sqrt(N).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import check_permutation
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..numerics.arrays import relative
from ..numerics.elimination import discounted_solve
from .activation import action_probabilities, by_action

Array = jax.Array

_DOUBLINGS = 48
_HIGHEST = jax.lax.Precision.HIGHEST


class MeanField(NamedTuple):
    r"""Fixed point, affine piece, and Gaussian limit.

    Attributes:
        configuration: $m^*$, fraction of agents per state, `[S]`.
        policy: $\pi^*(a \mid s)$ at m*, `[S, 2]`.
        pivot: the state in which the budget runs out at m*.
        piece: $K$ at m*, `[S, S]`, rows "from".
        offset: $b$ of $\phi(m) = m K + b$, `[S]`.
        spectral_radius: of K on the tangent space of the simplex; below 1 is local stability (Lemma
            11).
        nondegenerate: some state has $0 < \pi^*(1 \mid s) < 1$ (Assumption 2).
        unique: no other piece has a fixed point.
        clearance: standard deviations of the limit between m* and the nearest border of its piece;
            at N agents it is $\sqrt N$ times that, and while it is below 2 or 3 the law reaches
            into other pieces and the limits below are not yet good.
        covariance: of the stationary limit of $\sqrt N (m - m^*)$, `[S, S]`.
        value_weights: $w$ of the value of counts n on the piece, $V(n) = w \cdot n + N c$, `[S]`.
        value_constant: $c$.
        local_q: limit of the local Q-values, `[S, 2]`.
        entanglement_limit: of $\sqrt N E_1$ (Eq. 15).
        mu_atv_limit: of $\sqrt N E_1$ by Eq. (7), and by Def. 8: only the pivot's chance to be
            active moves with the others, so that one sign vector serves both.
        mu_error_limit: of the mu-weighted decomposition error divided by $\sqrt N$.
        relative_error_limit: of $\sqrt N$ times the relative error.

    The covariance and the limits are NaN where they do not exist: no unique fixed point, an
    unstable or a degenerate one.
    """

    configuration: Array
    policy: Array
    pivot: Array
    piece: Array
    offset: Array
    spectral_radius: Array
    nondegenerate: Array
    unique: Array
    clearance: Array
    covariance: Array
    value_weights: Array
    value_constant: Array
    local_q: Array
    entanglement_limit: Array
    mu_atv_limit: Array
    mu_error_limit: Array
    relative_error_limit: Array


def mean_field_step(bandit: RestlessBandit, priority: Any, configuration: Array) -> Array:
    r"""$\phi(m) = E[m_{t+1} \mid m_t = m]$, `[S]`: exact for every N, not only in the limit."""
    kernel = bandit.kernel.astype(configuration.dtype)
    groups = by_action(configuration, jnp.asarray(priority), bandit.budget / bandit.num_agents)
    return jnp.einsum("sa,san->n", groups, kernel, precision=_HIGHEST)


class AffinePieces(NamedTuple):
    r"""$\phi$ piece by piece: $\phi(m) = m K_p + b_p$ where the budget runs out in state p.

    Attributes:
        served: whether s is served before the pivot p, bool `[p, s]`.
        linear: $K_p$, `[p, S, S]`, rows "from".
        offset: $b_p$, `[p, S]`.
    """

    served: Array
    linear: Array
    offset: Array


def affine_pieces(kernel: Array, priority: Array, share: Array) -> AffinePieces:
    """Every piece at once (Lemma 7); `share` is budget / num_agents, kernel `[S, 2, S]`."""
    num_states = kernel.shape[0]
    passive, active = kernel[:, 0], kernel[:, 1]
    place = jnp.zeros(num_states, int).at[priority].set(jnp.arange(num_states))
    served = place[None, :] < place[:, None]
    gain = active - passive  # [S, S]
    linear = jnp.where(served[:, :, None], active[None] - gain[:, None, :], passive[None])
    return AffinePieces(served, linear, share * gain)


def spectral_radius(A: Array) -> Array:
    """lim ||A^k||^(1/k) by repeated squaring, `k = 2^48`; runs on any device, unlike `eigvals`."""

    def square(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log_norm = carry  # A^k = exp(k log_norm) power, up to the last rescaling
        norm = jnp.linalg.norm(power)
        power = power / jnp.where(norm > 0, norm, 1)
        return jnp.matmul(power, power, precision=_HIGHEST), log_norm * 2 + 2 * jnp.log(norm)

    power, log_norm = jax.lax.fori_loop(0, _DOUBLINGS, square, (A, jnp.zeros((), A.dtype)))
    total = log_norm + jnp.log(jnp.linalg.norm(power))
    return jnp.exp(total / 2.0**_DOUBLINGS)


def lyapunov(A: Array, noise: Array) -> Array:
    """Sigma = A' Sigma A + noise by doubling; A must have spectral radius below 1."""

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        A, sigma = carry
        sigma = sigma + jnp.matmul(
            A.T, jnp.matmul(sigma, A, precision=_HIGHEST), precision=_HIGHEST
        )
        return jnp.matmul(A, A, precision=_HIGHEST), sigma

    return jax.lax.fori_loop(0, _DOUBLINGS, double, (A, noise))[1]


def mean_field(bandit: RestlessBandit, priority: Any) -> MeanField:
    r"""Mean field of an index policy: fixed point, stability, Gaussian limit and its constants.

    The fixed point of every affine piece is solved for and kept if it lies in its piece; by Brouwer
    there is at least one. With d the slope of value minus decomposition on the piece, g that of the
    activations in the pivot and Sigma the stationary covariance,
    $\Sigma = K^\top \Sigma K + \Gamma$,

        $\sqrt N E_1 \to \sqrt{2 g \Sigma g^\top / \pi}$ and
        $\|Q - \sum_i Q_i\|_\mu / \sqrt N \to \sqrt{2 d \Sigma d^\top / \pi}$.

    Args:
        bandit: the model; only budget / num_agents matters.
        priority: states in the order served, `[S]`.

    Returns:
        `MeanField`; one batched solve of 2 S systems of size S.

    Raises:
        ValueError: for a bandit or priority that is not one; naming the place.

    Examples:
        >>> import jaxent
        >>> field = jaxent.mean_field(jaxent.circulant_bandit(5), jaxent.CIRCULANT_PRIORITY)
        >>> print(field.configuration.round(3), f"{field.entanglement_limit:.4f}")
        [0.15 0.15 0.35 0.35] 0.2175

    References:
        Chen and Peng, Appendix I (Lemmas 7, 11; Assumptions 1, 2); the limits are this package's.
    """
    check_bandit(bandit)
    check_permutation("priority", priority, bandit.num_states)
    return _mean_field(bandit, jnp.asarray(priority))


@jax.jit
def _mean_field(bandit: RestlessBandit, priority: Array) -> MeanField:
    kernel = bandit.kernel
    dtype = jnp.result_type(kernel, bandit.reward, float)
    kernel = kernel.astype(dtype)
    reward = jnp.asarray(bandit.reward, dtype)
    passive, active = kernel[:, 0], kernel[:, 1]
    num_states = bandit.num_states
    share = jnp.asarray(bandit.budget / bandit.num_agents, dtype)
    discount = jnp.asarray(bandit.discount, dtype)
    tol = 1e3 * num_states * jnp.finfo(dtype).eps

    served, pieces, offsets = affine_pieces(kernel, priority, share)
    gain = active - passive  # [S, S]
    jumps = reward[:, 1] - reward[:, 0]
    slopes = jnp.where(served, reward[None, :, 1] - jumps[:, None], reward[None, :, 0])  # [p, S]
    # m (I - K) = b has rank S - 1; adding a multiple of sum(m) = 1 makes it regular.
    eye = jnp.eye(num_states, dtype=dtype)
    systems = jnp.concatenate(
        [jnp.swapaxes(eye[None] - pieces, 1, 2) + 1 / num_states, eye[None] - discount * pieces]
    )
    rights = jnp.concatenate([offsets + 1 / num_states, slopes])
    solved = jnp.linalg.solve(systems, rights[..., None])[..., 0]  # [2 S, S], one batched call
    fixed, weights = solved[:num_states], solved[num_states:]

    # Agents of the pivot that are served, as a fraction of all.
    spare = share - jnp.sum(jnp.where(served, fixed, 0), axis=1)  # [p]
    own = jnp.diagonal(fixed)
    inside = (fixed.min(1) >= -tol) & (spare >= -tol) & (spare <= own + tol)
    pivot = jnp.argmax(inside)
    found = inside[pivot]
    m = jnp.where(found, fixed[pivot], jnp.nan)
    apart = jnp.abs(fixed - m[None]).max(1) > jnp.sqrt(jnp.finfo(dtype).eps)
    unique = found & ~jnp.any(inside & apart)
    m = jnp.where(unique, jnp.clip(m, 0), m)
    K = pieces[pivot]
    groups = by_action(m, priority, share)
    policy = action_probabilities(groups)
    chance = policy[pivot, 1]
    nondegenerate = found & (chance > tol) & (chance < 1 - tol)

    # Fluctuations: on the tangent space K acts as K - 1 m*.
    tangent = K - m[None, :]
    radius = spectral_radius(tangent)
    spread = jnp.einsum("sa,sai->i", groups, kernel, precision=_HIGHEST)
    noise = jnp.diag(spread) - jnp.einsum(
        "sa,sai,saj->ij", groups, kernel, kernel, precision=_HIGHEST
    )
    # A radius that rounding could have put below 1 proves nothing.
    gaussian = unique & nondegenerate & (radius < 1 - tol)
    covariance = jnp.where(gaussian, lyapunov(tangent, noise), jnp.nan)

    # Values: V(n) = w.n + N c on the piece, against local values at the policy of m*.
    w = jnp.where(found, weights[pivot], jnp.nan)
    constant = share * (jumps[pivot] + discount * jnp.dot(gain[pivot], w, precision=_HIGHEST))
    constant = constant / (1 - discount)
    num_pairs = 2 * num_states
    local = (kernel[..., None] * policy[None, None]).reshape(num_pairs, num_pairs)
    q = discounted_solve(local, reward.reshape(-1), discount).reshape(num_states, 2)
    before = served[pivot]
    decomposed = jnp.where(before, q[:, 1] - (q[pivot, 1] - q[pivot, 0]), q[:, 0])
    activation = jnp.where(before, -1.0, 0.0).astype(dtype).at[pivot].set(-chance)

    def deviation(slope: Array) -> Array:
        variance = jnp.einsum("i,ij,j->", slope, covariance, slope, precision=_HIGHEST)
        return jnp.sqrt(jnp.maximum(variance, 0))

    def mean_size(slope: Array) -> Array:
        return jnp.sqrt(2 / jnp.pi) * deviation(slope)

    first = before.astype(dtype)
    borders = jnp.stack([spare[pivot], own[pivot] - spare[pivot]])
    spreads = jnp.stack([deviation(first), deviation(first.at[pivot].set(1))])
    # Nobody is served before the first state or after the last: no border there.
    real = spreads > tol
    clearance = jnp.where(real, borders / jnp.where(real, spreads, 1), jnp.inf).min()
    error_limit = mean_size(w - decomposed)
    value = jnp.abs(jnp.vdot(groups, reward)) / (1 - discount)
    return MeanField(
        configuration=m,
        policy=policy,
        pivot=pivot,
        piece=K,
        offset=offsets[pivot],
        spectral_radius=radius,
        nondegenerate=nondegenerate,
        unique=unique,
        clearance=jnp.where(gaussian, clearance, jnp.nan),
        covariance=covariance,
        value_weights=w,
        value_constant=constant,
        local_q=q,
        entanglement_limit=mean_size(activation),
        mu_atv_limit=mean_size(jnp.matmul(tangent, activation, precision=_HIGHEST)),
        mu_error_limit=error_limit,
        relative_error_limit=relative(error_limit, value),
    )
