"""Policies of parameters: feasible, and their gradients those of finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxent as je
from experiments import studies

from . import oracles
from .tolerances import EXACT, FD, SOLVE, STEP, by_precision

STATES = (3, 2)


def model(*, coupled: bool) -> je.WeaklyCoupledMDP:
    rng = np.random.default_rng(3)
    agents = tuple(
        je.MDP(
            jnp.asarray(oracles.random_stochastic(rng, s, 2, s)), jnp.asarray(rng.random((s, 2)))
        )
        for s in STATES
    )
    costs = tuple(jnp.asarray(np.tile([0.0, 1.0], (s, 1))) for s in STATES)
    couplings = (je.Coupling(costs, 1.0),) if coupled else ()
    return je.WeaklyCoupledMDP(agents, 0.9, couplings)


def kernel() -> je.JointMDP:
    """Any joint kernel: under it even agents that decide on their own are entangled."""
    rng = np.random.default_rng(4)
    transition = oracles.random_stochastic(rng, *STATES, 2, 2, 6).reshape(*STATES, 2, 2, *STATES)
    rewards = tuple(jnp.asarray(rng.random((s, 2))) for s in STATES)
    return je.JointMDP(jnp.asarray(transition), rewards, 0.9)


@jax.jit
@jax.vmap
def measured(policy):
    """Average reward, entanglement and error, and how they move with the policy's entries."""

    def measure(policy):
        found = jnp.stack(studies.measure(kernel(), je.pair_chain(kernel(), policy)))
        return found, found

    slopes, found = jax.jacrev(measure, has_aux=True)(policy)
    return found, slopes


@pytest.mark.parametrize("make", [je.joint_softmax, je.product_softmax])
def test_gradients_are_those_of_finite_differences(make):
    """Of the decomposition error, Eq. (7) and the average reward, in every parameter."""
    family = make(kernel())
    start, unravel = ravel_pytree(family.init(jax.random.key(1)))
    step = STEP
    moves = step * np.eye(24)[:, : len(start)]  # some are idle, so that both families share a shape
    at = np.asarray(start)[None] + np.concatenate([0 * moves[:1], moves, -moves])
    policies = jax.jit(jax.vmap(lambda flat: family.apply(unravel(flat))))(at)
    moved = jax.jit(jax.jacfwd(lambda flat: family.apply(unravel(flat))))(start)
    found, slopes = measured(policies)
    up, down = np.asarray(found)[1:].reshape(2, 24, 3)
    differences = (up - down)[: len(start)].T / (2 * step)  # [3, parameters]
    given = np.einsum("mijkl,ijklp->mp", slopes[0], moved)
    scale = np.abs(differences).max(1, keepdims=True)
    assert scale.min() > 1e-3
    assert (np.abs(given - differences) / scale).max() < by_precision(1e-5, FD)


def test_joint_softmax_meets_the_coupling():
    mdp = model(coupled=True)
    family = je.joint_softmax(mdp, scale=2.0)
    logits = family.init(jax.random.key(0))
    policy = np.asarray(family.apply(logits))
    assert logits.shape == policy.shape == (3, 2, 2, 2)
    assert (policy[..., 1, 1] == 0).all()
    assert (policy[..., 0, :] > 0).all()
    np.testing.assert_allclose(policy.sum((2, 3)), 1, rtol=0, atol=EXACT)
    by_hand = (
        np.exp(logits[0, 1, 1, 0]) / np.exp(np.asarray(logits)[0, 1, [0, 0, 1], [0, 1, 0]]).sum()
    )
    assert abs(policy[0, 1, 1, 0] - by_hand) < EXACT


def test_independent_agents_cannot_respect_a_coupling():
    with pytest.raises(ValueError, match="couples its agents' actions"):
        je.product_softmax(model(coupled=True))
    with pytest.raises(ValueError, match="is not one of the models"):
        je.joint_softmax(3)


def test_average_reward_is_the_mean_value():
    mdp = model(coupled=False)
    chain = je.pair_chain(mdp, oracles.random_policy(np.random.default_rng(0), STATES, (2, 2)))
    value = je.q_values(chain, mdp.rewards, discount=0.9)
    wanted = 0.1 * np.asarray(je.stationary_distribution(chain)) @ np.asarray(value)
    assert abs(je.average_reward(chain, mdp.rewards) - wanted) < SOLVE


@pytest.mark.slow
def test_a_thousand_policies_with_gradients_in_one_call():
    """1024 policies, two agents of 8 pairs each: error, entanglement, return and gradients."""
    number = 1024
    keys = jax.random.split(jax.random.key(0), number)
    mdp = studies.random_pair(keys[0], 4, 1.0)
    family = je.joint_softmax(mdp)

    def objective(logits):
        found = studies.measure(mdp, studies.chain_of(mdp, logits))
        return sum(found), found

    one = jax.value_and_grad(objective, has_aux=True)
    logits = jax.vmap(family.init)(keys)
    (_, found), slopes = jax.jit(jax.vmap(one))(logits)
    assert all(jnp.isfinite(x).all() for x in (*found, slopes))
    (_, alone), slope = jax.jit(one)(logits[7])
    np.testing.assert_allclose(slopes[7], slope, rtol=0, atol=SOLVE)
    np.testing.assert_allclose([x[7] for x in found], alone, rtol=0, atol=SOLVE)
