"""Properties of joint chains of bandits: which stationary laws they have, and what these obey."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT, by_precision

from .. import oracles_restless
from .strategies import few, holds, kinds, seeds
from .test_counts import bandit_of

NEAR = by_precision(1e-9, 1e-5)

TEAMS = ((2, 3), (3, 3), (2, 4), (3, 2), (4, 2), (1, 3))
shares = st.floats(0, 1)


@holds(4, seed=seeds, kind=kinds, team=few(*TEAMS), share=shares)
def test_exchangeable_exactly_where_every_closed_class_is(seed, kind, team, share):
    """The verdict is that of the joint chain of all agents, with every closed class listed."""
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, team, share)
    priority = rng.permutation(team[0])
    found = je.check_exchangeability(bandit, priority)
    assert isinstance(found, je.Exchangeability)
    keeps, laws = oracles_restless.permuted_classes(
        np.asarray(bandit.kernel), team[1], bandit.budget, priority
    )
    assert found.verdict == (je.Verdict.HOLDS if keeps else je.Verdict.FAILS)
    assert found.num_laws == laws
    if found.verdict == je.Verdict.FAILS:
        assert len(found.example) == team[1]
        i, j = found.pair
        assert found.example[i] != found.example[j]


@holds(4, seed=seeds, kind=kinds, num_states=few(3, 2, 4), share=shares)
def test_at_a_stable_fixed_point_two_agents_meet(seed, kind, num_states, share):
    """Where the limit exists, one agent's chain there has one closed class and no period.

    So under the assumptions of Theorem 7 every stationary law is exchangeable from some N on. The
    radius is that of the tangent space, which adding c' to every row of K does not move.
    """
    rng = np.random.default_rng(seed)
    bandit = bandit_of(rng, kind, (num_states, 20), share)
    priority = rng.permutation(num_states)
    field = je.mean_field(bandit, priority)
    K = np.asarray(field.linear)
    if np.isnan(field.clearance):
        assert np.isnan(field.limit_holds_from)
        return
    assert field.limit_holds_from >= 1
    N = float(field.limit_holds_from)
    if np.isfinite(N):
        assert field.clearance * np.sqrt(N) >= 2 * (1 - 1e-12)
        assert N == 1 or field.clearance * np.sqrt(N - 1) < 2
        assert field.limit_holds(N)
        assert not field.limit_holds(N - 1)
    chance = np.zeros(num_states)  # by the piece of m*, also where nobody is
    before = priority[: int(np.flatnonzero(priority == field.pivot)[0])]
    chance[before], chance[field.pivot] = 1, field.policy[field.pivot, 1]
    policy = np.stack([1 - chance, chance], 1)
    local = np.einsum("sa,sat->st", policy, np.asarray(bandit.kernel))
    step = (local > 1e-200).astype(float)
    for _ in range(7):  # the support of 128 steps
        step = (step @ step > 0).astype(float)
    assert step.all(0).any()
    other = K + jnp.asarray(rng.normal(size=(1, num_states)))  # the same map of the simplex
    basis = np.linalg.qr(np.c_[np.ones(num_states), np.eye(num_states)[:, 1:]])[0][:, 1:]
    radii = [np.abs(np.linalg.eigvals(basis.T @ A @ basis)).max(initial=0) for A in (K, other)]
    np.testing.assert_allclose(radii, float(field.spectral_radius), atol=by_precision(1e-4, 1e-3))


@cache
def chances_of(num_states, num_agents):
    @jax.jit
    def look(counts, index, temperature, budget):
        policy = je.SoftIndex(index, temperature)
        return jax.vmap(lambda n: policy.chances(n, budget))(counts)

    return look


@holds(4, seed=seeds, team=few((3, 7), (2, 5), (4, 6)), share=shares, cold=st.floats(1e-3, 50))
def test_between_two_configurations_all_chances_move_one_way(seed, team, share, cold):
    """So the mean change of a policy is that of one number, at most half of |m - m*|_1.

    Lemma 8 with 1/2 in the L1 norm, for priorities and soft index policies, and any m*.
    """
    rng = np.random.default_rng(seed)
    S, N = team
    n, star = (rng.multinomial(N, rng.dirichlet(np.ones(S) * 0.7)) for _ in range(2))
    budget = round(share * N)
    order = rng.permutation(S)
    # A priority: of a state where nobody is, the chance is that of its place in the order.
    chances = []
    for m in (n, star):
        before, p = 0, np.zeros(S)
        for s in order:
            p[s] = np.clip((budget - before) / m[s], 0, 1) if m[s] else float(before < budget)
            before += m[s]
        served = np.asarray(je.restless.activate(jnp.asarray(m), jnp.asarray(order), budget))
        np.testing.assert_allclose(p * m, served, atol=EXACT)
        chances.append(p)
    soft = chances_of(S, N)(np.stack([n, star]), rng.normal(size=S), cold, budget)
    for p, p_star in (chances, np.asarray(soft)):
        moved = p - p_star
        here = n > 0
        assert (moved[here] >= -NEAR).all() or (moved[here] <= NEAR).all()
        mean = n @ np.abs(moved) / N
        np.testing.assert_allclose(mean, np.abs((n - star) @ p_star) / N, atol=NEAR)
        assert mean <= np.abs(n - star).sum() / (2 * N) + NEAR
