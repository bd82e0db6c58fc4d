"""Programs for an accelerator, made without one: nothing in them runs on a CPU alone."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain, bounds
from jaxent.models.parts import TablePolicy
from jaxent.models.population import as_population

LU = {"cusolver_getrf_ffi", "cu_lu_pivots_to_permutation"}


def chain_of(P):
    return PairChain.from_matrix(P, sizes=(2, 2))


def single(x):
    return jnp.asarray(x, jnp.float32)


REWARDS = [single([0.0, 1.0]), single([1.0, 0.0])]
MU = jnp.full(4, 0.25, jnp.float32)
BANDIT = jaxent.circulant_bandit(10)
BANDIT = BANDIT._replace(
    **{name: single(getattr(BANDIT, name)) for name in ("passive", "active", "reward")}
)
PRIORITY = jaxent.CIRCULANT_PRIORITY
POPULATION = as_population(BANDIT)  # its costs must be known, and are not in a trace
LARGE = BANDIT._replace(num_agents=15, budget=3)  # too many configurations to eliminate
RATE = {"discount": 0.9}
PAIR_REWARDS = [single([0.0, 1.0, 2.0, 4.0])] * 3
PAIR_LAW = jnp.full(64, 1 / 64, jnp.float32)
MESH = jax.make_mesh((1,), ("devices",))

ON_CHAINS = {
    "entanglement_tv": lambda chain: jaxent.entanglement_tv(chain),
    "entanglement_mu_tv": lambda chain: jaxent.entanglement_mu_tv(chain, MU),
    "entanglement_atv": lambda chain: jaxent.entanglement_atv(chain, agent=0),
    "entanglement_mu_atv": lambda chain: jaxent.entanglement_mu_atv(chain, MU, agent=0),
    "entanglement_mu_atv_upper": lambda chain: jaxent.entanglement_mu_atv_upper(chain, MU, agent=0),
    "stationary_distribution": jaxent.stationary_distribution,
    "decompose": lambda chain: jaxent.decompose(chain, REWARDS, **RATE),
    "approximation_error": lambda chain: jaxent.approximation_error(
        chain, REWARDS, REWARDS, **RATE
    ),
    "a_posteriori": lambda chain: bounds.a_posteriori(chain, REWARDS, **RATE),
    "fit_additive": lambda chain: jaxent.fit_additive(chain, REWARDS, **RATE),
    "q_values": lambda chain: jaxent.q_values(chain, REWARDS, **RATE),
    "local_q_values": lambda chain: jaxent.local_q_values(chain, REWARDS, **RATE),
    "reward_entanglement": lambda chain: jaxent.reward_entanglement(
        chain, single([0.0, 1.0, 2.0, 4.0]), MU
    ),
    "entanglement_map": lambda chain: jaxent.entanglement_map(chain, MU),
}
# Programs of a chain in pieces, on a mesh of devices.
ON_PIECES = {
    "law in pieces": jaxent.stationary_distribution,
    "values in pieces": lambda chain: jaxent.q_values(chain, PAIR_REWARDS, **RATE),
    "local values in pieces": lambda chain: jaxent.local_q_values(
        chain, PAIR_REWARDS, mu=PAIR_LAW, **RATE
    ),
    "error in pieces": lambda chain: jaxent.approximation_error(
        chain, PAIR_REWARDS, PAIR_REWARDS, mu=PAIR_LAW, **RATE
    ),
}
ON_REWARDS = {
    "mean_field": lambda r: jaxent.mean_field(BANDIT._replace(reward=r), PRIORITY),
    "ground_truth": lambda r: jaxent.ground_truth(BANDIT._replace(reward=r), PRIORITY),
}
# The exact chain and simulations of a population, in the reward or in a key.
ON_REWARDS["exchangeable_chain"] = lambda r: jaxent.q_values(
    jaxent.exchangeable_chain(BANDIT._replace(passive=BANDIT.passive + 0 * r[0, 0]), PRIORITY),
    [r],
    **RATE,
)
ON_REWARDS["a large exchangeable chain"] = lambda r: jaxent.q_values(
    jaxent.exchangeable_chain(LARGE, PRIORITY), [r], **RATE
)
MOVES = [(0, int(s), 1) for s in PRIORITY]
ON_KEYS = {
    "simulate_counts": lambda key: jaxent.simulate_counts(key, BANDIT, PRIORITY, num_steps=5),
    "simulate_population": lambda key: jaxent.simulate_population(
        key, POPULATION, MOVES, num_steps=5
    ),
}
# Chances to act are in double precision where JAX has it: a priority is no array of floats.
IN_DOUBLE = {"simulate_counts", "simulate_population"}


def program(name):
    if name in ON_CHAINS:
        return lambda P: ON_CHAINS[name](chain_of(P)), single(jaxent.appendix_e())
    if name in ON_REWARDS:
        return ON_REWARDS[name], BANDIT.reward
    if name == "gradient":
        return jax.grad(lambda P: jaxent.decomposition_error(chain_of(P), REWARDS, **RATE)), single(
            jaxent.appendix_e()
        )
    if name in ON_PIECES:
        function = ON_PIECES[name]
        return lambda table: function(in_pieces(table)), single(np.full((2,) * 6, 0.25))
    return ON_KEYS[name], jax.random.key(0)


def in_pieces(table):
    """Three agents of two states and two actions, on a mesh of devices."""
    agent = jaxent.MDP(single(np.full((2, 2, 2), 0.5)), single(np.ones((2, 2))))
    mdp = jaxent.WeaklyCoupledMDP((agent,) * 3, 0.9)
    chain = jaxent.shard(jaxent.pair_chain(mdp, np.full((2,) * 6, 1 / 8, np.float32)), MESH)
    return replace(chain, policy=TablePolicy(table / 2))


@pytest.mark.parametrize("name", [*ON_CHAINS, *ON_PIECES, *ON_REWARDS, "gradient", *ON_KEYS])
def test_programs_are_made_for_a_gpu(name):
    """No call of LAPACK or of Python, no arrays of float64 from float32 (scalars aside)."""
    function, argument = program(name)
    lowered = jax.jit(function).trace(argument).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    calls = set(re.findall(r"custom_call @(\w+)", text))
    assert calls <= (LU if name == "mean_field" else set())
    shapes = re.findall(r"tensor<([\dx]+)xf64>", text)
    large = [shape for shape in shapes if np.prod([*map(int, shape.split("x"))]) > 8]
    assert not large or name in IN_DOUBLE
