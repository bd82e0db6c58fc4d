"""How often the 95% interval of the cross-fitted estimate holds the exact value: 300 runs each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.data.chain_log import _sample_path
from tests.reference import cases

RUNS, STEPS = 300, 2_000


def covered(one, exact, seed):
    keys = jax.random.split(jax.random.key(seed), RUNS)
    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(keys)
    rate = np.mean((found.lower <= exact) & (exact <= found.upper))
    off, inside = np.mean(found.value) - exact, np.mean(found.in_sample) - exact
    claimed, seen = np.mean(found.standard_error), np.std(found.value)
    print(
        f"exact {exact:.5f}, mean estimate {off:+.5f} off, in sample {inside:+.5f}, "
        f"standard error {claimed:.5f} claimed, {seen:.5f} seen, coverage {rate:.1%}"
    )
    return rate


@pytest.mark.slow
def test_circulant_bandit_of_20_agents():
    """Eq. (15), from counts."""
    case = next(c for c in cases("circulant") if c["n_agents"] == 20)
    bandit = jaxent.circulant_bandit(20)

    def one(key):
        run = jaxent.simulate_counts(key, bandit, jaxent.CIRCULANT_PRIORITY, num_steps=STEPS + 50)
        return jaxent.entanglement_interval(run.policy[50:-1], run.counts[50:-1] / 20)

    assert 0.9 <= covered(one, case["entanglement_eq15"], 0) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("index", "equation"), [(0, 10), (1, 10), (1, 9)])
def test_weakly_coupled_agents(index, equation):
    """Eqs. (10) and (9) for agent 0, from its own path among the others."""
    case = cases("weakly_coupled")[index]
    kernels = np.array(case["transitions"]).transpose(0, 2, 1, 3)
    agents = tuple(map(jaxent.MDP, kernels, np.array(case["rewards"])))
    policy = np.array(case["policy"])
    chain = jaxent.pair_chain(jaxent.WeaklyCoupledMDP(agents, case["gamma"]), jnp.array(policy))
    P, mu = chain.matrix(), jaxent.stationary_distribution(chain)
    num_states = kernels.shape[1]
    acts = jnp.array(policy.sum(-1)).reshape(-1, 2)  # by joint state
    ahead = jaxent.view_transition(chain, agent=0)

    def one(key):
        path = _sample_path(key, P, mu, STEPS)
        x0, x1 = jnp.unravel_index(path, chain.sizes)
        if equation == 9:
            return jaxent.entanglement_interval(
                *jaxent.by_local(ahead[path], x0, num_local=2 * num_states)
            )
        laws = acts[(x0 // 2) * num_states + x1 // 2]
        return jaxent.entanglement_interval(*jaxent.by_local(laws, x0 // 2, num_local=num_states))

    exact = case["proposition1" if equation == 10 else "mu_atv_eq7"][0]
    assert 0.9 <= covered(one, exact, 1 + index) <= 0.99
