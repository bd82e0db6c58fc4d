r"""The mean field of a population of several types, actions and budgets.

m(s) is the share of all agents that are in state s, types one after another, so that those of type
k sum to $w_k = n_k / N$. A policy splits them, y(s, a), and $\phi(m) = \sum_x y_x(m) P_x$ is the
mean of the next shares. What holds for a restless bandit (`mean_field`) holds on the product of the
simplices: a fixed point m*, the slope K of $\phi$ there, and if K contracts the differences
$\sqrt N (m - m^*)$ tend to a normal law of covariance $\Sigma = K^\top \Sigma K + \Gamma$. Where
agents draw what they want, $\Gamma$ holds that draw as well as the moves. Then, with $q_k$ the
limits of the local values, w the slope of the value and $\pi_k$ what an agent does at m*,

    $\sqrt N E_1^{(k)} \to \frac{1}{2 w_k} \sum_{s \in k} \sum_a
        \sqrt{2 g_{sa} \Sigma g_{sa}^\top / \pi}$, $g_{sa} = m^*_s\, \partial \pi_k(a | s)$, and
    $\|Q - \sum_i Q_i\|_\mu / \sqrt N \to \sqrt{2 (d \Sigma d^\top + u C u^\top) / \pi}$,

d the slope of value less local values and u C u' the variance that the draw of the actions adds,
$u = r + \gamma P w - q$.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import concrete
from .._reads import reads
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import as_float, dot, nan_unless, ratio
from ..numerics.compiled import jit
from .fluid import fluid_policy
from .gaussian_limit import (
    Moments,
    gaussian_limit,
    parts_of,
    resolvent,
    root,
    spectral_radius,
    states_of_pairs,
    variance,
)
from .priority_policy import Move, PriorityPolicy
from .randomized_policy import RandomizedPolicy
from .share_splits import ShareFunction, ShareRule, share_rule

Array = jax.Array
SharePolicy = PriorityPolicy | RandomizedPolicy | Sequence[Move] | ShareFunction

# With this many standard deviations to the border of its piece the limits are taken to hold.
CLEAR = 2.0
# Damped steps from a start at most, Newton's after them, and starts in corners.
_STEPS = 2000
_NEWTON = 16
_CORNERS = 16


@reads(
    "average reward {0.average_reward:.6g} an agent, {0.gap:.3g} below the bound; relative error "
    "{0.relative_error_limit:.4g} / sqrt(N)"
)
class PopulationMeanField(NamedTuple):
    r"""Fixed point, its slope, and Gaussian limit.

    Attributes:
        configuration: $m^*$ of each type, shares of all agents, `[S_k]`.
        policy: $\pi_k(a | s)$ at m*, `[S_k, A_k]`; where nobody is, what the first to come does.
        linear: $K_{ij} = \partial \phi_j / \partial m_i$ at m*, `[ΣS_k, ΣS_k]`, rows "from".
        spectral_radius: of K on the tangent space of the simplices; below 1 is local stability.
        residual: max |phi(m*) - m*|.
        converged: whether that is rounding.
        nondegenerate: whether m* is on no border of its piece; true of a function, of which no
            borders are known.
        unique: whether every start tried ended at m*: even shares, and up to 16 corners, where all
            agents of a type are in one state. Not a proof that there is no other fixed point.
        clearance: standard deviations of the limit between m* and the nearest border of its piece,
            at one agent; at N it is $\sqrt N$ times that. inf without a border, NaN of a function.
        limit_holds_from: the N from which it is 2; NaN where there is no limit.
        covariance: of the stationary limit of $\sqrt N (m - m^*)$, `[ΣS_k, ΣS_k]`.
        value_weights: $w$ of the value of counts n on the piece, $V(n) = w \cdot n + N c$, `[S_k]`.
        value_constant: $c$.
        local_q: limit of the local Q-values of each type, `[S_k, A_k]`.
        entanglement_limit: of $\sqrt N E_1$ of an agent of each type (Eq. 15), `[T]`.
        mu_error_limit: of the mu-weighted decomposition error divided by $\sqrt N$.
        relative_error_limit: of $\sqrt N$ times the relative error.
        average_reward: of one agent and step, in the limit.
        bound: what no policy's average reward passes, an agent (`fluid_policy`); NaN where the
            population is traced.

    The covariance and the limits are NaN where m* was not found, is not stable, is on a border or
    is not the only one found. That its law is exchangeable and that m* attracts all starts is not
    looked at.
    """

    configuration: tuple[Array, ...]
    policy: tuple[Array, ...]
    linear: Array
    spectral_radius: Array
    residual: Array
    converged: Array
    nondegenerate: Array
    unique: Array
    clearance: Array
    limit_holds_from: Array
    covariance: Array
    value_weights: tuple[Array, ...]
    value_constant: Array
    local_q: tuple[Array, ...]
    entanglement_limit: Array
    mu_error_limit: Array
    relative_error_limit: Array
    average_reward: Array
    bound: Array

    @property
    def gap(self) -> Array:
        """What an agent earns less than the bound, a step, in the limit."""
        return self.bound - self.average_reward

    def limit_holds(self, num_agents: Array | int) -> Array:
        """Whether so many agents are enough for the limits: N >= `limit_holds_from`."""
        return jnp.asarray(num_agents) >= self.limit_holds_from


def population_mean_field(
    population: RestlessBandit | WeaklyCoupledPopulation, policy: SharePolicy
) -> PopulationMeanField:
    """The mean field of a population; see `mean_field`, which takes populations too."""
    checked = as_population(population)
    kernels = [as_float(kind.mdp.transition) for kind in checked.types]
    dtype = jnp.result_type(*kernels, *(kind.mdp.reward for kind in checked.types), float)
    rule = share_rule(checked, policy, dtype)
    bound = jnp.nan
    if concrete(checked):
        bound = fluid_policy(checked).value / float(checked.num_agents)
    rewards = [jnp.asarray(kind.mdp.reward, dtype) for kind in checked.types]
    shares = [jnp.asarray(n / checked.num_agents, dtype) for n in checked.counts]
    numbers = jnp.asarray(checked.discount, dtype), jnp.asarray(bound, dtype)
    return _mean_field(kernels, rewards, shares, rule, *numbers)


@jit
def _mean_field(
    kernels: list[Array],
    rewards: list[Array],
    shares: list[Array],
    rule: ShareRule,
    discount: Array,
    bound: Array,
) -> PopulationMeanField:
    sizes = rule.sizes
    states, pairs = ([S for S, _ in sizes], [S * A for S, A in sizes])
    reward = jnp.concatenate([r.reshape(-1) for r in rewards])
    dtype = reward.dtype
    blocks = [P.reshape(-1, P.shape[-1]).astype(dtype) for P in kernels]
    kernel = jax.scipy.linalg.block_diag(*blocks)  # [X, S]
    share = jnp.concatenate([jnp.full(S, w) for S, w in zip(states, shares, strict=True)])
    tol = 1e3 * len(share) * jnp.finfo(dtype).eps

    def phi(m: Array) -> Array:
        return dot(rule.split(m).groups, kernel)

    ends, residuals = lax.map(
        partial(_fixed_point, phi, states), jnp.asarray(_starts(states), dtype) * share[None]
    )
    found = residuals <= tol
    best = jnp.argmax(found)
    m, converged = jnp.clip(ends[best], 0), found[best]
    apart = jnp.abs(ends - m[None]).max(1) > jnp.sqrt(jnp.finfo(dtype).eps)
    unique = (found & ~apart).all()
    at, margins, deviations = _moments(rule, m)
    linear = at.slope(kernel)
    tangent = _tangent(linear, m, states)
    radius = spectral_radius(tangent)
    weights = dot(resolvent(discount * linear), at.slope(reward))
    # A radius that rounding could have put below 1 proves nothing.
    stable = converged & unique & (radius < 1 - tol)
    limit = gaussian_limit(kernel, reward, discount, at, tangent, weights, stable)
    spreads = deviations(limit.covariance)
    clearance = ratio(margins, jnp.where(spreads > tol, spreads, 0), jnp.inf).min(initial=jnp.inf)
    nondegenerate = ~((margins <= tol) & (spreads > tol)).any()
    valid = stable & nondegenerate
    from_on = jnp.maximum(jnp.ceil((CLEAR / clearance) ** 2 * (1 - tol)), 1)
    if rule.moves is None:
        clearance, from_on = jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype)
    average = (at.groups * reward).sum()

    def by_type(flat: Array, parts: list[int]) -> tuple[Array, ...]:
        return tuple(flat[part] for part in parts_of(parts))

    def tables(flat: Array) -> tuple[Array, ...]:
        both = zip(by_type(flat, pairs), sizes, strict=True)
        return tuple(part.reshape(size) for part, size in both)

    return PopulationMeanField(
        configuration=by_type(nan_unless(converged, m), states),
        policy=tables(at.policy),
        linear=linear,
        spectral_radius=radius,
        residual=residuals[best],
        converged=converged,
        nondegenerate=nondegenerate,
        unique=unique,
        clearance=nan_unless(valid, clearance),
        limit_holds_from=nan_unless(valid, from_on),
        covariance=nan_unless(valid, limit.covariance),
        value_weights=by_type(weights, states),
        value_constant=average / (1 - discount) - dot(weights, m),
        local_q=tables(limit.local_q),
        entanglement_limit=nan_unless(valid, limit.entanglement_limit),
        mu_error_limit=nan_unless(valid, limit.mu_error_limit),
        relative_error_limit=nan_unless(valid, limit.relative_error_limit),
        average_reward=nan_unless(converged, average),
        bound=bound,
    )


def _starts(states: Sequence[int]) -> np.ndarray:
    """Laws of each type's states: even ones, then corners, `[n, ΣS_k]`."""
    rows = [np.concatenate([np.full(S, 1 / S) for S in states])]
    if prod(states) <= _CORNERS:
        corners = list(product(*map(range, states)))
    else:  # each state of each type stands in some
        corners = [tuple(i % S for S in states) for i in range(min(_CORNERS, max(states)))]
    for corner in corners:
        rows.append(np.concatenate([np.eye(S)[s] for S, s in zip(states, corner, strict=True)]))
    return np.stack(rows)


def _tangent(linear: Array, m: Array, states: Sequence[int]) -> Array:
    """K where each type's shares keep their sum, and 0 across: K - 1 m* / w of each type."""
    out = linear
    for part in parts_of(states):
        out = out.at[part, part].add(-(m[part] / m[part].sum())[None, :])
    return out


def _fixed_point(phi: Any, states: Sequence[int], start: Array) -> tuple[Array, Array]:
    """Where damped steps from a start end, then Newton's; and max |phi(m) - m| there."""
    close = jnp.sqrt(jnp.finfo(start.dtype).eps)
    parts = parts_of(states)
    totals = [start[part].sum() for part in parts]

    def damped(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        m, _, step = carry
        after = phi(m)
        return (m + after) / 2, jnp.abs(after - m).max(), step + 1

    def going(carry: tuple[Array, Array, Array]) -> Array:
        _, moved, step = carry
        return (moved > close) & (step < _STEPS)

    def newton(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        m, best, least = carry
        after, push = jax.linearize(phi, m)
        linear = jax.vmap(push)(eye)  # rows "from"
        size = jnp.abs(after - m).max()
        better = size < least  # false where it is no number
        best, least = jnp.where(better, m, best), jnp.where(better, size, least)
        system = eye - _tangent(linear, m, states)
        new = jnp.maximum(m + jnp.linalg.solve(system.T, after - m), 0)
        both = zip(parts, totals, strict=True)
        new = jnp.concatenate([new[part] * ratio(w, new[part].sum()) for part, w in both])
        return new, best, least

    eye = jnp.eye(len(start), dtype=start.dtype)
    never = jnp.full((), jnp.inf, start.dtype)
    m, _, _ = lax.while_loop(going, damped, (start, never, jnp.zeros((), int)))
    _, best, least = lax.fori_loop(0, _NEWTON, newton, (m, m, never))
    return best, least


def _moments(rule: ShareRule, m: Array):
    """The slopes of the split at m, the distances of m from borders, and their deviations."""
    state = states_of_pairs(rule.sizes)
    (groups, margins), push = jax.linearize(rule.split, m)
    rows = jax.vmap(push)(jnp.eye(len(m), dtype=m.dtype))
    slopes, border = rows.groups.T, rows.margins.T  # [X, S], [B, S]
    own = jnp.zeros_like(slopes).at[jnp.arange(len(state)), state].set(1) * slopes
    policy = ratio(groups, m[state], own.sum(1))
    moved = slopes - jnp.zeros_like(slopes).at[jnp.arange(len(state)), state].set(policy)
    drawn, wants = None, rule.wants(m)
    if wants is not None:
        zero = jnp.zeros_like(groups)
        given, aside = jax.jacfwd(rule.split, argnums=1)(m, zero)  # [X, X], [B, X]
        drawn = dot(given, dot(wants, given.T))
    at = Moments(m, policy, moved, rule.sizes, drawn)
    states = [S for S, _ in rule.sizes]

    def deviations(covariance: Array) -> Array:
        """Of the margins, `[B]`; of one that nothing moves, rounding alone."""
        own = jax.vmap(lambda row: variance(covariance, row, states))(border)
        if wants is not None:
            own = own + jnp.einsum("bx,xy,by->b", aside, wants, aside)
        return root(own)

    return at, margins, deviations
