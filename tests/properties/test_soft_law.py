"""Properties behind the square-root law of soft index policies."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je

from .strategies import few, holds, kinds, laws, seeds


@cache
def teams(num_states, num_agents, budget):
    @jax.jit
    def look(passive, active, index, temperature, counts):
        reward = jnp.zeros((num_states, 2))
        bandit = je.RestlessBandit(passive, active, reward, num_agents, budget, 0.5)
        policy = je.SoftIndex(index, temperature)
        m = counts / num_agents
        return {
            "truth": je.ground_truth(bandit, policy).entanglement,
            "hard": je.ground_truth(bandit, tuple(range(num_states))).entanglement,
            "rounded": policy.roundings(counts, budget),
            "chances": policy.chances(m, budget / num_agents),
            "slope": jax.jacfwd(lambda m: policy.chances(m, budget / num_agents))(m),
            "converged": je.ground_truth(bandit, policy).converged,
        }

    return look


@holds(
    4,
    seed=seeds,
    kind=kinds,
    team=few((3, 3, 1), (2, 4, 2), (3, 2, 1)),
    cold=st.floats(0.05, 50),
    near=st.floats(0, 0.45),
)
def test_a_contraction_bounds_entanglement(seed, kind, team, cold, near):
    """E_1 <= (sqrt(S / N) + 2 S / N) / (2 (1 - rho)) with rho = 2 near, and the pieces of it.

    Rows are a share `near` of their own: groups of agents by state and action differ by at most
    twice what configurations do, so that phi contracts by twice that share.
    """
    rng = np.random.default_rng(seed)
    S, N, _ = team
    kernel = near * laws(rng, kind, 2, S, S) + (1 - near) * rng.dirichlet(np.ones(S))
    index, counts = rng.normal(size=S), rng.multinomial(N, rng.dirichlet(np.ones(S)))
    found = jax.tree.map(np.asarray, teams(*team)(*kernel, index, cold, counts))
    assert found["converged"]
    root, rho = np.sqrt(S / N), 2 * near
    assert found["truth"] <= (root + 2 * S / N) / (2 * (1 - rho)) + 1e-9
    assert found["hard"] <= root / (2 * (1 - rho)) + 1e-9
    # The rounding: its mean is that of the chances, and it is within one of it in each state.
    active, weights = found["rounded"]
    mean = N * counts / N * found["chances"]
    np.testing.assert_allclose(weights @ active, mean, atol=1e-7)
    assert np.abs(active - mean)[weights > 1e-12].max() < 1 + 1e-7
    # The slope of the chances, by the formula.
    p, m = found["chances"], counts / N
    spread = p * (1 - p)
    want = -spread[:, None] * p[None] / (m @ spread)
    np.testing.assert_allclose(found["slope"], want, atol=1e-6)
