"""Programs for an accelerator, made without one: nothing in them runs on a CPU alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain, bounds

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
RATE = {"discount": 0.9}

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
}
ON_REWARDS = {
    "mean_field": lambda r: jaxent.mean_field(BANDIT._replace(reward=r), PRIORITY),
    "ground_truth": lambda r: jaxent.ground_truth(BANDIT._replace(reward=r), PRIORITY),
}
# Chances to act are in double precision where JAX has it: a priority is no array of floats.
IN_DOUBLE = {"simulate_counts"}


def program(name):
    if name in ON_CHAINS:
        return lambda P: ON_CHAINS[name](chain_of(P)), single(jaxent.appendix_e())
    if name in ON_REWARDS:
        return ON_REWARDS[name], BANDIT.reward
    if name == "gradient":
        return jax.grad(lambda P: jaxent.decomposition_error(chain_of(P), REWARDS, **RATE)), single(
            jaxent.appendix_e()
        )
    return (
        lambda key: jaxent.simulate_counts(key, BANDIT, PRIORITY, num_steps=5),
        jax.random.key(0),
    )


@pytest.mark.parametrize("name", [*ON_CHAINS, *ON_REWARDS, "gradient", "simulate_counts"])
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
