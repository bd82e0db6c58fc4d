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

import warnings
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from .._checks import renamed
from .._reads import reads
from ..models.population import WeaklyCoupledPopulation
from ..models.restless_bandit import RestlessBandit, check_bandit
from ..models.soft_index import SoftIndex
from ..numerics.arrays import dot, einsum, nan_unless, ratio, takes_arrays
from ..numerics.compiled import jit
from .activation import IndexPolicy, Priority, action_law, by_action, check_index_policy
from .exchangeability import met_by_kernel
from .gaussian_limit import Moments, deviation, gaussian_limit, mean_size, spectral_radius
from .population_mean_field import PopulationMeanField, SharePolicy, population_mean_field
from .randomized_policy import RandomizedPolicy
from .soft_mean_field import SoftMeanField, soft_mean_field

Array = jax.Array

# With this many standard deviations to the border of its piece the limits are taken to hold.
CLEAR = 2.0


@reads(
    "relative error {0.relative_error_limit:.4g} / sqrt(N), E_1 "
    "{0.entanglement_limit:.4g} / sqrt(N), from N = {0.limit_holds_from:.0f} on"
)
class MeanField(NamedTuple):
    r"""Fixed point, affine piece, and Gaussian limit.

    Attributes:
        configuration: $m^*$, fraction of agents per state, `[S]`.
        policy: $\pi^*(a \mid s)$ at m*, `[S, 2]`.
        pivot: the state in which the budget runs out at m*.
        linear: $K$ at m*, `[S, S]`, rows "from".
        offset: $b$ of $\phi(m) = m K + b$, `[S]`.
        spectral_radius: of K on the tangent space of the simplex; below 1 is local stability (Lemma
            11).
        nondegenerate: some state has $0 < \pi^*(1 \mid s) < 1$ (Assumption 2).
        unique: no other piece has a fixed point.
        clearance: standard deviations of the limit between m* and the nearest border of its piece;
            at N agents it is $\sqrt N$ times that, and while it is below 2 the law reaches into
            other pieces and the limits below do not hold yet.
        limit_holds_from: the N from which it is 2; NaN where there is no limit.
        exchangeable: whether any two agents can meet from anywhere, by the kernel, at every N: then
            every stationary law is exchangeable, as Lemma 8 asks. Where the limits below exist and
            m* attracts, it holds from some N on whatever this says; `check_exchangeability` looks
            at one N.
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
    linear: Array
    offset: Array
    spectral_radius: Array
    nondegenerate: Array
    unique: Array
    clearance: Array
    limit_holds_from: Array
    exchangeable: Array
    covariance: Array
    value_weights: Array
    value_constant: Array
    local_q: Array
    entanglement_limit: Array
    mu_atv_limit: Array
    mu_error_limit: Array
    relative_error_limit: Array

    def limit_holds(self, num_agents: Array | int) -> Array:
        """Whether so many agents are enough for the limits: N >= `limit_holds_from`."""
        return jnp.asarray(num_agents) >= self.limit_holds_from

    @property
    def piece(self) -> Array:
        """The old name of `linear`."""
        message = "MeanField.piece is now MeanField.linear; the old way goes with 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.linear


@renamed(priority="policy")
@takes_arrays("configuration")
def mean_field_step(bandit: RestlessBandit, policy: IndexPolicy, configuration: Array) -> Array:
    r"""$\phi(m) = E[m_{t+1} \mid m_t = m]$, `[S]`: under a priority exact for every N.

    Under a `SoftIndex` too, but for rounding the budget to whole agents.
    """
    check_bandit(bandit)
    policy = check_index_policy(policy, bandit.num_states)
    configuration = jnp.asarray(configuration)
    groups = by_action(configuration, policy, bandit.budget / bandit.num_agents)
    return einsum("sa,san->n", groups, bandit.kernel.astype(configuration.dtype))


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


@overload
def mean_field(bandit: RestlessBandit, policy: SoftIndex) -> SoftMeanField: ...
@overload
def mean_field(bandit: RestlessBandit, policy: Priority) -> MeanField: ...
@overload
def mean_field(
    bandit: RestlessBandit | WeaklyCoupledPopulation, policy: SharePolicy
) -> PopulationMeanField: ...


@renamed(priority="policy")
def mean_field(
    bandit: RestlessBandit | WeaklyCoupledPopulation, policy: IndexPolicy | SharePolicy
) -> MeanField | SoftMeanField | PopulationMeanField:
    r"""Mean field of a policy: fixed point, stability, Gaussian limit and its constants.

    The fixed point of every affine piece is solved for and kept if it lies in its piece; by Brouwer
    there is at least one. With d the slope of value minus decomposition on the piece, g that of the
    activations in the pivot and Sigma the stationary covariance,
    $\Sigma = K^\top \Sigma K + \Gamma$,

        $\sqrt N E_1 \to \sqrt{2 g \Sigma g^\top / \pi}$ and
        $\|Q - \sum_i Q_i\|_\mu / \sqrt N \to \sqrt{2 d \Sigma d^\top / \pi}$.

    Args:
        bandit: the model; only budget / num_agents matters. The limits are for N that go to
            infinity: of its own N, ask `limit_holds`. Or a population, of which only the shares
            of the types and the budgets an agent matter.
        policy: states in the order served, `[S]`; or a `SoftIndex`. Of a population a list of
            moves `(type, state, action)`; of either a `PriorityPolicy`, a `RandomizedPolicy`, or a
            function that JAX can trace, of the shares of all agents in each state of each type,
            `[S_k]`, to the shares that take each action, `[S_k, A_k]`. Static if a function.

    Returns:
        `MeanField`; one batched solve of 2 S systems of size S. For a `SoftIndex` what
        `soft_mean_field` gives. For a population, and for policies of populations, a
        `PopulationMeanField`: its fixed point is found by steps from the even law and from corners.

    Raises:
        ValueError: for a bandit or policy that is not one; naming the place.

    Examples:
        >>> import jaxent
        >>> field = jaxent.mean_field(jaxent.circulant_bandit(5), jaxent.CIRCULANT_PRIORITY)
        >>> print(field.configuration.round(3), f"{field.entanglement_limit:.4f}")
        [0.15 0.15 0.35 0.35] 0.2175

    References:
        Chen and Peng, Appendix I (Lemmas 7, 11; Assumptions 1, 2); the limits are this package's.
    """
    if isinstance(policy, SoftIndex) and not isinstance(bandit, WeaklyCoupledPopulation):
        return soft_mean_field(bandit, policy)
    drawn = isinstance(policy, RandomizedPolicy)
    if isinstance(bandit, WeaklyCoupledPopulation) or drawn or callable(policy):
        shared: Any = policy
        return population_mean_field(bandit, shared)
    check_bandit(bandit)
    ranked: Any = policy
    return _mean_field(bandit, check_index_policy(ranked, bandit.num_states))


class _Fixed(NamedTuple):
    """What is known of the piece that m* lies in."""

    configuration: Array
    pivot: Array
    served: Array  # before the pivot, [S]
    linear: Array
    offset: Array
    value_weights: Array
    value_constant: Array
    borders: Array  # distances of the budget from both ends of the pivot, [2]
    found: Array
    unique: Array


@jit
def _mean_field(bandit: RestlessBandit, priority: Array) -> MeanField:
    dtype = jnp.result_type(bandit.kernel, bandit.reward, float)
    kernel = bandit.kernel.astype(dtype)
    reward, share, discount = (
        jnp.asarray(x, dtype)
        for x in (bandit.reward, bandit.budget / bandit.num_agents, bandit.discount)
    )
    tol = 1e3 * bandit.num_states * jnp.finfo(dtype).eps
    fixed = _fixed_point(kernel, reward, discount, priority, share, tol)
    m, pivot, linear = fixed.configuration, fixed.pivot, fixed.linear
    policy = action_law(m, priority, share)
    chance = policy[pivot, 1]
    nondegenerate = fixed.found & (chance > tol) & (chance < 1 - tol)
    # Only the pivot's chance moves with m: by what is served before it, and by its own size.
    active = -fixed.served.astype(dtype).at[pivot].set(chance)
    at = Moments.two_actions(m, policy, jnp.zeros_like(linear).at[pivot].set(active))
    # Fluctuations: on the tangent space K acts as K - 1 m*.
    tangent = linear - m[None, :]
    radius = spectral_radius(tangent)
    # A radius that rounding could have put below 1 proves nothing.
    gaussian = fixed.unique & nondegenerate & (radius < 1 - tol)
    flat = kernel.reshape(-1, len(kernel)), reward.reshape(-1)
    limit = gaussian_limit(*flat, discount, at, tangent, fixed.value_weights, gaussian)
    clearance = jnp.where(gaussian, _clearance(fixed, limit.covariance, tol), jnp.nan)
    from_on = jnp.maximum(jnp.ceil((CLEAR / clearance) ** 2), 1)  # a border at m* is never clear
    return MeanField(
        configuration=m,
        policy=policy,
        pivot=pivot,
        linear=linear,
        offset=fixed.offset,
        spectral_radius=radius,
        nondegenerate=nondegenerate,
        unique=fixed.unique,
        clearance=clearance,
        limit_holds_from=nan_unless(gaussian, from_on),
        # Room for both actions, unless nobody or everybody is active.
        exchangeable=met_by_kernel(
            kernel, 4, 2 * (share > 0).astype(int) + 2 * (share >= 1), jnp.argsort(priority)
        ),
        value_weights=fixed.value_weights,
        value_constant=fixed.value_constant,
        mu_atv_limit=jnp.where(
            gaussian, mean_size(limit.covariance, dot(tangent, active)), jnp.nan
        ),
        **{
            **limit._asdict(),
            "local_q": limit.local_q.reshape(reward.shape),
            "entanglement_limit": limit.entanglement_limit[0],
        },
    )


def _fixed_point(kernel, reward, discount, priority, share, tol) -> _Fixed:
    """The fixed point of every piece, and the first that lies in its own; NaN if there is none."""
    num_states, dtype = len(kernel), kernel.dtype
    served, pieces, offsets = affine_pieces(kernel, priority, share)
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
    # Values: V(n) = w.n + N c on the piece.
    w = jnp.where(found, weights[pivot], jnp.nan)
    gain = kernel[pivot, 1] - kernel[pivot, 0]
    return _Fixed(
        configuration=jnp.where(unique, jnp.clip(m, 0), m),
        pivot=pivot,
        served=served[pivot],
        linear=pieces[pivot],
        offset=offsets[pivot],
        value_weights=w,
        value_constant=share * (jumps[pivot] + discount * dot(gain, w)) / (1 - discount),
        borders=jnp.stack([spare[pivot], own[pivot] - spare[pivot]]),
        found=found,
        unique=unique,
    )


def _clearance(fixed: _Fixed, covariance: Array, tol) -> Array:
    """Standard deviations between m* and the nearest border of its piece."""
    first = fixed.served.astype(covariance.dtype)
    directions = (first, first.at[fixed.pivot].set(1))
    spreads = jnp.stack([deviation(covariance, each) for each in directions])
    # Nobody is served before the first state or after the last: no border there.
    return ratio(fixed.borders, jnp.where(spreads > tol, spreads, 0), jnp.inf).min()
