"""Properties of the error from below: the worst reward, and bounds with Eq. (2)'s transitions."""

from functools import cache
from itertools import product

import jax
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT, by_precision

from .strategies import few, holds, kinds, laws, numbers, seeds
from .test_chains import chain_of

NEAR = by_precision(1e-9, 1e-5)

SIZES = ((3, 2), (2, 2), (4, 3), (2, 2, 2))
rates = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.floats(0, 0.99))


@cache
def worst(sizes):
    @jax.jit
    def look(P, mu, discount):
        chain = chain_of(P, sizes)
        given = {"discount": discount, "agent": 0, "mu": mu}
        return (
            je.worst_reward_sup(chain, **given),
            je.worst_reward_mu(chain, **given),
            je.entanglement_atv(chain, agent=0, mu=mu),
            je.entanglement_mu_atv(chain, mu, agent=0),
            je.local_transition(chain, mu, agent=0),
        )

    return look


@holds(4, seed=seeds, kind=kinds, sizes=few(*SIZES), discount=rates)
def test_the_worst_reward_is_between_two_multiples_of_entanglement(seed, kind, sizes, discount):
    """Between discount / (1 + discount) E and 2 discount / (1 - discount) E; all v are tried."""
    rng = np.random.default_rng(seed)
    J, X = int(np.prod(sizes)), sizes[0]
    P = laws(rng, kind, J, J)
    law = je.solve_law(chain_of(P, sizes))
    if not law.converged:
        return
    mu = np.asarray(law.value)
    sup, mean, atv, mu_atv, local = jax.tree.map(np.asarray, worst(sizes)(P, mu, discount))
    there, lift = mu > 0, np.repeat(np.eye(X), J // X, 0)
    errors = []
    for v in product((0.0, 1.0), repeat=X):
        v = np.array(v)
        b = np.where(there, discount * (P @ lift @ v - lift @ (local @ v)), 0)
        errors.append(np.where(there, np.linalg.solve(np.eye(J) - discount * P, b), 0))
    errors = np.abs(errors)
    noise = by_precision(1e-10, 1e-4) / (1 - discount)
    for found, largest, measured, of in (
        (sup, errors.max(), atv, lambda e: np.abs(e).max()),
        (mean, (errors @ mu).max(), mu_atv, lambda e: mu @ np.abs(e)),
    ):
        assert isinstance(found, je.WorstReward)
        assert found.converged
        np.testing.assert_allclose(found.error, largest, atol=noise)
        np.testing.assert_allclose(found.largest, found.error, atol=noise)
        assert found.lower - noise <= found.error <= found.upper + noise
        assert measured.lower - NEAR <= found.distance <= 2 * measured.upper + NEAR
        # The reward is what it is said to be, and its sum of local values errs by that much.
        Q_local = np.linalg.solve(np.eye(X) - discount * local, found.reward)
        np.testing.assert_allclose(Q_local, found.local_value, atol=noise)
        Q = np.linalg.solve(np.eye(J) - discount * P, lift @ found.reward)
        missed = np.where(there, Q - lift @ found.local_value, 0)
        np.testing.assert_allclose(of(missed), found.error, atol=noise)
        if found.error > 0:
            assert np.ptp(found.local_value) == 1
            # A constant takes the reward to within this size: the bound by r_max.
            assert np.ptp(found.reward) / 2 <= (1 + discount) / 2 + EXACT


@cache
def shared_bounds(sizes):
    @jax.jit
    def look(P, reward, rewards, mu, discount):
        chain = chain_of(P, sizes)
        given = {"discount": discount, "mu": mu}
        fit = je.reward_entanglement(chain, reward, mu)
        return {
            "any": je.bounds.projection_shared(chain, reward, rewards, **given),
            "best": je.bounds.projection_shared(chain, reward, **given),
            "sup": je.bounds.projection_sup(chain, rewards, **given),
            "mu": je.bounds.projection_mu(chain, rewards, **given),
            "printed": je.bounds.proposition_4(chain, reward, fit=fit, **given),
            "fit": fit.minimizer,
            "Q": je.q_values(chain, reward, discount=discount),
            "Q_sum": je.q_values(chain, rewards, discount=discount),
        }

    return look


@holds(4, seed=seeds, kind=kinds, sizes=few(*SIZES[:3]), discount=rates)
def test_the_transitions_of_equation_2_bound_errors(seed, kind, sizes, discount):
    """For local rewards in both norms, and for any split of a shared one; below Prop. 4."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    law = je.solve_law(chain_of(P, sizes))
    if not law.converged:
        return
    mu = np.asarray(law.value)
    rewards, reward = [numbers(rng, 1, n) for n in sizes], numbers(rng, 1, J)
    out = jax.tree.map(np.asarray, shared_bounds(sizes)(P, reward, rewards, mu, discount))
    chain, noise = chain_of(P, sizes), by_precision(1e-9, 1e-4) / (1 - discount)

    def summed(rewards):
        return np.asarray(chain.lift(je.local_q_values(chain, rewards, discount=discount, mu=mu)))

    ours, fitted = summed(rewards), summed(out["fit"])
    apart = np.where(mu > 0, np.abs(out["Q_sum"] - ours), 0)
    assert apart.max() <= out["sup"] + noise
    assert mu @ apart <= out["mu"] + noise
    assert mu @ np.abs(out["Q"] - ours) <= out["any"] + noise
    assert mu @ np.abs(out["Q"] - fitted) <= out["best"] + noise
    assert out["best"] <= out["printed"] + noise
