"""Properties of distances, measures, bounds and separability."""

from functools import cache, partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import by_precision

from .strategies import (
    discounts,
    dtypes,
    eps,
    few,
    holds,
    kinds,
    laws,
    normal,
    numbers,
    scales,
    seeds,
)
from .test_chains import PAIRS, SIZES, chain_of


def mixtures(rng, kind, sizes, *, terms=2):
    """A convex mixture of products, with a weight that may be small."""
    weights = rng.dirichlet(np.full(terms, 0.3))
    parts = (reduce(np.kron, [laws(rng, kind, n, n) for n in sizes]) for _ in weights)
    return normal(sum(w * part for w, part in zip(weights, parts)))


@cache
def exact_measures(sizes):
    @jax.jit
    def measure(P, mu):
        chain = chain_of(P, sizes)
        eq7 = [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(len(sizes))]
        local = [je.local_transition(chain, mu, agent=i) for i in range(len(sizes))]
        rows = [je.view_transition(chain, agent=i) for i in range(len(sizes))]
        return eq7, local, rows

    return measure


@pytest.mark.slow
@holds(seed=seeds, kind=kinds, sizes=few(*SIZES), dtype=dtypes, blank=st.booleans())
def test_equation_7_is_attained_and_proved(seed, kind, sizes, dtype, blank):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J, dtype=dtype)
    mu = laws(rng, "sparse" if blank else "tiny", J, dtype=dtype)
    found, local, rows = jax.tree.map(np.asarray, exact_measures(sizes)(P, mu))
    noise = 30 * J * eps(dtype)
    for i, e in enumerate(found):
        assert e.value.dtype == dtype
        assert abs(e.upper - e.lower) <= noise
        assert -noise <= e.value <= 1 - 1 / sizes[i] + noise
        np.testing.assert_allclose(e.minimizer.sum(1), 1, atol=noise)
        assert (e.minimizer >= -noise).all()
        own = np.unravel_index(np.arange(J), sizes)[i]
        for q in (e.minimizer, local[i]):
            attained = mu @ np.abs(rows[i] - q[own]).sum(1) / 2
            assert attained >= e.lower - noise
        np.testing.assert_allclose(
            mu @ np.abs(rows[i] - e.minimizer[own]).sum(1) / 2, e.upper, atol=noise
        )


@cache
def all_measures(sizes):
    @jax.jit
    def measure(P, rewards, reward, mu, discount):
        chain = chain_of(P, sizes)
        atv = [je.entanglement_atv(chain, agent=i) for i in range(2)]
        mu_atv = [je.entanglement_mu_atv(chain, mu, agent=i) for i in range(2)]
        fit = je.reward_entanglement(chain, reward, mu)
        options = {"discount": discount}
        nearest = chain_of(jnp.kron(*(e.minimizer for e in atv)), sizes)
        return {
            "tv": je.entanglement_tv(chain),
            "mu_tv": je.entanglement_mu_tv(chain, mu),
            "atv": atv,
            "mu_atv": mu_atv,
            "eq7": [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(2)],
            "fit": fit,
            "found": je.decompose(chain, rewards, **options),
            "shared": je.decompose(chain, fit.minimizer, shared=reward, **options),
            "bounds": {
                "3": je.bounds.theorem_3(chain, rewards, **options),
                "4": je.bounds.theorem_4(chain, rewards, measured=atv, **options),
                "5": je.bounds.theorem_5(chain, rewards, **options),
                "sup": je.bounds.span_sup(chain, rewards, measured=atv, **options),
                "mu": je.bounds.span_mu(chain, rewards, **options),
                "p4": je.bounds.proposition_4(chain, reward, fit=fit, **options),
            },
            "distances": [je.atv_distance(chain, nearest, agent=i) for i in range(2)],
        }

    return measure


@pytest.mark.slow
@holds(seed=seeds, kind=kinds, sizes=few(*PAIRS), discount=discounts, mixed=st.booleans())
def test_measures_are_ordered_and_bound_errors(seed, kind, sizes, discount, mixed):
    """Brackets close, no measure beats a finer one, and Theorems 3 to 5 and Prop. 4 hold."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = mixtures(rng, kind, sizes) if mixed else laws(rng, kind, J, J)
    law = je.solve_law(chain_of(P, sizes))
    if not law.converged:
        return
    mu = np.asarray(law.value)
    rewards = [numbers(rng, 1, n) for n in sizes]
    reward = numbers(rng, 1, J)
    out = jax.tree.map(np.asarray, all_measures(sizes)(P, rewards, reward, mu, discount))
    close = 1e-6 + 1e-9
    for name in ("tv", "mu_tv", "fit"):
        assert out[name].converged, name
        assert -1e-10 <= out[name].upper - out[name].lower <= close
    for i in range(2):
        atv, mu_atv, eq7 = (out[name][i] for name in ("atv", "mu_atv", "eq7"))
        assert atv.converged
        assert mu_atv.converged
        assert mu_atv.lower <= eq7.upper + 1e-10
        assert eq7.lower <= atv.upper + 1e-10
        assert atv.lower <= out["tv"].upper + 1e-10
        assert eq7.lower <= out["mu_tv"].upper + 1e-10
        assert out["distances"][i] >= atv.lower - 1e-10
    assert out["mu_tv"].lower <= out["tv"].upper + 1e-10
    if mixed:
        assert out["tv"].upper <= close
    found, shared, bounds = out["found"], out["shared"], out["bounds"]
    noise = 1e-11 / (1 - discount)
    sup = np.abs(found.error).max()
    mean = mu @ np.abs(found.error)
    for name in ("3", "4", "sup"):
        assert sup <= bounds[name] + noise, name
    for name in ("5", "mu"):
        assert mean <= bounds[name] + noise, name
    assert mu @ np.abs(shared.error) <= bounds["p4"] + noise


@cache
def apart(sizes):
    @jax.jit
    def distances(P, Q, R, mu):
        chains = [chain_of(M, sizes) for M in (P, Q, R)]
        pairs = ((0, 1), (1, 2), (0, 2), (0, 0))
        rows = []
        for a, b in pairs:
            c, d = chains[a], chains[b]
            eight = je.mu_atv_distance(c, d, mu, agent=0)
            tv, mean = je.tv_distance(c, d), je.mu_tv_distance(c, d, mu)
            rows.append(
                jnp.stack([tv, mean, je.atv_distance(c, d, agent=0), eight.upper, eight.lower])
            )
        norm = je.mu_inf_norm(P - Q, mu)
        return jnp.stack(rows), norm, je.mu_norm((P - Q) @ norm.signs, mu)

    return distances


@holds(seed=seeds, kind=kinds, sizes=few(*PAIRS), dtype=dtypes)
def test_distances_are_metrics_and_ordered(seed, kind, sizes, dtype):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, Q, R = (laws(rng, kind, J, J, dtype=dtype) for _ in range(3))
    mu = laws(rng, "tiny", J, dtype=dtype)
    rows, norm, attained = jax.tree.map(np.asarray, apart(sizes)(P, Q, R, mu))
    noise = 30 * J * eps(dtype)
    first, second, both, none = rows
    assert rows.dtype == dtype
    assert (rows >= 0).all()
    assert (rows <= 1 + noise).all()
    assert (none == 0).all()
    assert (both <= first + second + noise).all()
    tv, mean, atv, eight, lower = first
    assert eight <= mean + noise <= tv + 2 * noise
    assert atv <= tv + noise
    assert eight == lower
    np.testing.assert_allclose(attained, norm.lower, atol=noise)


@cache
def simplex_of(points, size):
    @jax.jit
    def center(laws, weights, loose):
        near = je.project_simplex(loose)
        return je.tv_center(laws, weights), near, je.total_variation(laws[:1], laws)

    return center


@holds(2, seed=seeds, kind=kinds, shape=few((5, 3), (40, 2), (1, 4)), dtype=dtypes, scale=scales)
def test_the_simplex(seed, kind, shape, dtype, scale):
    """Projections are on it and not beaten; a center is a law whose bracket closes."""
    rng = np.random.default_rng(seed)
    points = laws(rng, kind, *shape, dtype=dtype)
    weights = (rng.random(shape[0]) * (rng.random(shape[0]) < 0.7)).astype(dtype)
    loose = numbers(rng, scale, *shape, dtype=dtype)
    found, near, tv = jax.tree.map(np.asarray, simplex_of(*shape)(points, weights, loose))
    noise = 30 * shape[0] * shape[1] * eps(dtype)
    assert found.point.dtype == near.dtype == dtype
    np.testing.assert_allclose(found.point.sum(), 1, atol=noise)
    assert (found.point >= 0).all()
    assert abs(found.upper - found.lower) <= noise * max(weights.sum(), 1e-30)
    np.testing.assert_allclose(near.sum(1), 1, atol=noise * max(scale, 1))
    assert (near >= 0).all()
    rival = laws(rng, "dense", *shape)
    spare = noise * max(scale, 1) ** 2
    assert (((near - loose) ** 2).sum(1) <= ((rival - loose) ** 2).sum(1) + spare).all()
    np.testing.assert_allclose(tv, np.abs(points[:1] - points).sum(1) / 2, atol=noise)


@cache
def first_proposition(states):
    @jax.jit
    def both(kernels, rewards, policy, mu):
        mdp = je.WeaklyCoupledMDP(tuple(map(je.MDP, kernels, rewards)), 0.9)
        chain = je.pair_chain(mdp, policy)
        upper = [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(2)]
        # Prop. 1 looks at the states after a step.
        ahead = chain.vm(mu)
        return upper, [je.policy_entanglement(mdp, policy, ahead, agent=i) for i in range(2)]

    return both


@pytest.mark.slow
@holds(seed=seeds, kind=kinds, states=few((2, 2), (1, 3)))
def test_proposition_1_bounds_equation_7(seed, kind, states):
    rng = np.random.default_rng(seed)
    kernels = [laws(rng, kind, s, 2, s) for s in states]
    rewards = [numbers(rng, 1, s, 2) for s in states]
    policy = laws(rng, "sparse", int(np.prod(states)), 4).reshape(*states, 2, 2)
    mdp = je.WeaklyCoupledMDP(tuple(map(je.MDP, kernels, rewards)), 0.9)
    law = je.solve_law(je.pair_chain(mdp, policy))
    if not law.converged:
        return
    upper, bound = first_proposition(states)(kernels, rewards, policy, law.value)
    for a, b in zip(upper, bound):
        assert a.lower <= b.upper + 1e-10
        assert abs(b.upper - b.lower) <= 1e-10


MIXED = ((2, 2), (2, 3), (2, 2, 2))


@cache
def separability_of(sizes):
    @jax.jit
    def look(P, discount):
        chain = chain_of(P, sizes)
        witness = je.separability_witness(chain, discount=discount)
        return (
            je.is_separable(chain),
            je.is_agentwise_separable(chain),
            witness,
            je.q_values(chain, witness.rewards, discount=discount),
        )

    return look


@holds(
    seed=seeds,
    kind=kinds,
    sizes=few(*MIXED),
    mixed=st.booleans(),
    discount=st.sampled_from([0.5, 0.9, 0.999]),
)
def test_mixtures_of_products_come_apart(seed, kind, sizes, mixed, discount):
    """Separable chains decompose and have no witness, others are refused and have one."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = mixtures(rng, kind, sizes) if mixed else laws(rng, kind, J, J)
    chain = chain_of(P, sizes)
    separable, agentwise, witness, Q = jax.tree.map(np.asarray, separability_of(sizes)(P, discount))
    left = Q.reshape(sizes)
    np.testing.assert_allclose(max(np.abs(r).max() for r in witness.rewards), 1)
    worst = min(
        np.linalg.norm(
            left - left.mean(tuple(k for k in range(len(sizes)) if k != i), keepdims=True)
        )
        for i in range(len(sizes))
    )
    assert worst <= witness.violation + by_precision(1e-9, 1e-4) / (1 - discount)
    if mixed:
        assert separable
        assert agentwise
    if separable:
        assert witness.violation <= by_precision(1e-9, 1e-4) / (1 - discount)
        found = je.separable_decomposition(chain)
        made = sum(w * reduce(np.kron, f) for w, *f in zip(found.weights, *found.factors))
        np.testing.assert_allclose(made, P, atol=1e-12 * max(1, np.abs(found.weights).max()))
        for factor in found.factors:
            np.testing.assert_allclose(factor.sum(-1), 1, atol=1e-12)
            assert (factor >= 0).all()
    else:
        with pytest.raises(ValueError, match="not separable"):
            je.separable_decomposition(chain)


@holds(0.5, seed=seeds, kind=kinds, mixed=st.booleans())
def test_convex_mixtures_are_convexly_separable(seed, kind, mixed):
    rng = np.random.default_rng(seed)
    P = mixtures(rng, kind, (2, 2)) if mixed else laws(rng, kind, 4, 4)
    chain = chain_of(P, (2, 2))
    found = je.convex_separation(chain)
    assert isinstance(found, je.ConvexSeparation)
    made = sum(w * np.kron(a, b) for w, a, b in zip(found.weights, *found.factors))
    np.testing.assert_allclose(np.abs(made - P).sum(), found.distance, atol=2e-6)
    assert (found.inequality * P).sum() >= found.bound + found.distance - 2e-6
    if mixed:
        assert je.is_convexly_separable(chain)


@pytest.mark.slow
@holds(0.2, seed=seeds, kind=kinds)
def test_merging_agents(seed, kind):
    """A block's view says no less than its members', and rewards add up to the same."""
    rng = np.random.default_rng(seed)
    P = laws(rng, kind, 8, 8)
    chain = chain_of(P, (2, 2, 2))
    rewards = [numbers(rng, 1, 2) for _ in range(3)]
    blocks = ((0, 2), (1,))
    merged = je.merge_agents(chain, blocks)
    parts = je.merge_rewards(chain, rewards, blocks)
    np.testing.assert_allclose(merged.lift(parts), chain.lift(rewards), atol=1e-12)
    if not je.solve_law(chain).converged:
        return
    best = je.best_merge(chain, rewards, discount=0.9)
    assert isinstance(best, je.Merge)
    least = min(best.bounds.values())
    left_open = 1e-6 * sum(np.abs(r).max() for r in rewards) * 4 * 0.9 / (1 - 0.9) ** 2
    if best.pair is None:
        assert best.bound == best.before <= least + left_open
    else:
        assert best.bound == best.bounds[best.pair] == least < best.before
    found = je.decompose(merged, parts, discount=0.9)
    assert found.mu_error <= best.bounds[0, 2] + 1e-9


@cache
def descended(sizes):
    @partial(jax.jit, static_argnums=2)
    def descend(P, key, steps):
        chain = chain_of(P, sizes)
        found = je.entanglement_tv_signed(key, chain, num_terms=2, num_steps=steps)
        own = je.minimize_entanglement(
            lambda q: je.total_variation(P, q).max(), jnp.full_like(P, 1 / len(P)), num_steps=steps
        )
        return found, own

    return descend


@pytest.mark.slow
@holds(0.2, seed=seeds, kind=kinds, sizes=few((2, 2), (2, 2, 2)))
def test_descent_is_bracketed(seed, kind, sizes):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    if not je.solve_law(chain_of(P, sizes)).converged:
        return
    found, own = descended(sizes)(P, jax.random.key(seed), 20)
    assert isinstance(own, je.Descent)
    assert found.lower <= found.upper + 1e-9
    matrix = np.asarray(found.minimizer.matrix)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-9)
    assert bool(je.is_separable(chain_of(normal(matrix), sizes), tol=1e-9))
    assert own.value == own.history.min()
