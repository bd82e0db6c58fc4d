"""Properties of transfer entropy: its definition, and every inequality of the page about it."""

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT, by_precision

from .. import oracles_information as oracles
from .strategies import discounts, dtypes, eps, few, holds, kinds, laws, numbers, seeds
from .test_chains import chain_of

SIZES = ((2, 3), (2, 2, 2), (3, 1))
masses = st.sampled_from(["dense", "sparse", "tiny", "deterministic"])


def pairs_of(sizes):
    return np.unravel_index(np.arange(int(np.prod(sizes))), sizes)


@cache
def told(sizes):
    @jax.jit
    def tell(P, mu):
        chain = chain_of(P, sizes)
        agents = range(len(sizes))
        everything = [je.transfer_entropy(chain, mu, agent=i) for i in agents]
        one = [[je.transfer_entropy(chain, mu, agent=i, source=k) for k in agents] for i in agents]
        least = [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in agents]
        return everything, one, least

    return tell


def exactly(P, mu, own):
    """I, the largest, d, all in extended precision, and the largest p / P_i and smallest P_i."""
    P, mu = P.astype(np.longdouble), mu.astype(np.longdouble)
    rows, mean = oracles.rows_and_mean(P, mu, own)
    there = (mu > 0)[:, None] & (rows > 0)
    share = np.where(there, rows / np.where(there, mean, 1), 1)
    each = np.where(there, rows * np.log(share), 0).sum(1)
    apart = np.abs(rows - mean).sum(1) / 2
    visited = mu > 0
    least = mean[visited][mean[visited] > 0].min()
    return mu @ each, each[visited].max(), mu @ apart, share.max(), least


@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few(*SIZES), dtype=dtypes)
def test_what_it_is_and_both_ways_of_the_inequality(seed, kind, mass, sizes, dtype):
    """The definition; Pinsker, Bretagnolle-Huber; Fano, reverse Pinsker; one source and all."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, mu = laws(rng, kind, J, J, dtype=dtype), laws(rng, mass, J, dtype=dtype)
    everything, one, least = jax.tree.map(np.asarray, told(sizes)(P, mu))
    noise = 30 * J * eps(dtype)
    for i, own in enumerate(pairs_of(sizes)):
        found, seven, m = everything[i], least[i], sizes[i]
        assert isinstance(found, je.Information)
        assert found.value.dtype == dtype
        nats, largest, d, most, smallest = exactly(P, mu, own)
        np.testing.assert_allclose(found.value, nats, rtol=noise, atol=noise)
        np.testing.assert_allclose(found.distance, d, atol=noise)
        if largest < 80:  # beyond, numbers underflow
            np.testing.assert_allclose(found.largest, largest, rtol=1e3 * noise, atol=noise)
        assert found.value >= 0
        # From Eq. (7) to the information.
        assert seven.lower <= found.distance + noise <= 2 * seven.upper + 3 * noise
        assert found.distance <= found.mean_bound + noise
        assert 2 * d**2 <= nats + noise
        assert d**2 <= -np.expm1(-nats) + noise
        # And back.
        assert nats <= oracles.coin(d) + d * np.log(max(m - 1, 1)) + noise
        d_7 = min(2 * float(seven.upper) + noise, 1 - 1 / m)
        assert nats <= oracles.coin(d_7) + d_7 * np.log(max(m - 1, 1)) + noise
        rate = 1 if most <= 1 else most * np.log(most) / (most - 1)
        assert nats <= rate * d + noise
        assert nats <= np.log1p(2 * d / smallest) + noise
        # One other says no more than all; the laws that it leaves are no further apart.
        for k in range(len(sizes)):
            assert -noise <= one[i][k].value <= found.value + noise
            assert one[i][k].distance <= found.distance + noise
            both = own * max(sizes) + pairs_of(sizes)[k]
            if kind not in ("tiny", "lazy") and mass != "tiny":
                wanted = oracles.transfer_entropy(P, mu, own, both)
                np.testing.assert_allclose(one[i][k].value, wanted, rtol=noise, atol=noise)


@cache
def bracketed(sizes):
    @jax.jit
    def bracket(P, mu):
        chain = chain_of(P, sizes)
        agents = range(len(sizes))
        return [
            (
                je.transfer_entropy(chain, mu, agent=i),
                je.entanglement_atv(chain, agent=i, mu=mu),
                je.entanglement_mu_atv(chain, mu, agent=i),
            )
            for i in agents
        ]

    return bracket


@pytest.mark.slow
@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few((2, 3), (2, 2, 2), (1, 4)))
def test_it_bounds_definition_8_and_equation_5(seed, kind, mass, sizes):
    """Def. 8 by the mean, Eq. (5) by the largest; and the information by Def. 8 (Khinchine)."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, mu = laws(rng, kind, J, J), laws(rng, mass, J)
    for i, found in enumerate(jax.tree.map(np.asarray, bracketed(sizes)(P, mu))):
        said, atv, eight = found
        assert eight.lower <= said.mean_bound + 1e-10
        assert atv.lower <= said.sup_bound + 1e-10
        m = sizes[i]
        d = min(2 * np.sqrt(2 * m) * float(eight.upper) + 1e-12, 1 - 1 / m)
        assert said.value <= oracles.coin(d) + d * np.log(max(m - 1, 1)) + 1e-12


@cache
def erring(sizes):
    @jax.jit
    def err(P, rewards, discount):
        chain = chain_of(P, sizes)
        law = je.solve_law(chain)
        found = je.decompose(chain, rewards, discount=discount)
        square = je.bounds.information_l2(chain, rewards, discount=discount, mu=law.value)
        mean = je.bounds.projection_mu(chain, rewards, discount=discount, mu=law.value)
        return law, found.error, square, mean

    return err


@holds(4, seed=seeds, kind=kinds, sizes=few((2, 3), (2, 2, 2)), discount=discounts)
def test_it_bounds_the_root_mean_square_error(seed, kind, sizes, discount):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    rewards = [numbers(rng, 1, n) for n in sizes]
    law, error, square, mean = jax.tree.map(np.asarray, erring(sizes)(P, rewards, discount))
    if not law.converged:
        return
    noise = by_precision(1e-11, 1e-4) / (1 - discount)
    root = np.sqrt(law.value @ error**2)
    assert law.value @ np.abs(error) <= root + noise
    assert root <= square + noise
    assert mean <= square + noise


@holds(4, seed=seeds, kind=kinds, sizes=few((2, 3), (2, 2, 2)))
def test_something_is_told_exactly_where_some_reward_errs(seed, kind, sizes):
    """Rewards that are 1 in one pair of an agent: all have local values, or something is told."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    law = je.solve_law(chain_of(P, sizes))
    mu = np.asarray(law.value)
    if not law.converged or mu[mu > 0].min() < 1e-6:
        return
    everything = jax.tree.map(np.asarray, told(sizes)(P, mu)[0])
    for found, own in zip(everything, pairs_of(sizes)):
        Q = np.linalg.solve(np.eye(J) - 0.9 * P, np.eye(own.max() + 1)[own])
        one = np.eye(own.max() + 1)[own]
        mass = one.T @ mu
        mean = (one.T @ (mu[:, None] * Q)) / np.where(mass > 0, mass, 1)[:, None]
        error = np.abs(Q - mean[own])[mu > 0].max()
        # In float32 what is told is seen from a hundred million times as far.
        assert error < by_precision(1e-10, 1e-5) or found.value > by_precision(1e-26, 1e-14)
        assert error > by_precision(1e-10, 1e-5) or found.value < by_precision(1e-16, 1e-8)


@cache
def by_policy(states):
    @jax.jit
    def both(kernels, policy, mu):
        rewards = [np.zeros(k.shape[:2]) for k in kernels]
        mdp = je.WeaklyCoupledMDP(tuple(map(je.MDP, kernels, rewards)), 0.9)
        chain = je.pair_chain(mdp, policy)
        ahead = chain.vm(mu)  # what the policy is asked in, a step later
        return [
            (
                je.transfer_entropy(chain, mu, agent=i),
                je.policy_information(mdp, policy, ahead, agent=i),
                je.policy_entanglement(mdp, policy, ahead, agent=i),
            )
            for i in range(2)
        ]

    return both


@holds(4, seed=seeds, kind=kinds, states=few((2, 2), (1, 3)))
def test_a_policy_says_at_least_what_is_told(seed, kind, states):
    """Transfer entropy is at most I(A_i; S | S_i), which bounds what Prop. 1 does."""
    rng = np.random.default_rng(seed)
    kernels = [laws(rng, kind, s, 2, s) for s in states]
    policy = laws(rng, "sparse", int(np.prod(states)), 4).reshape(*states, 2, 2)
    mu = laws(rng, "tiny", 4 * int(np.prod(states)))
    for said, most, measured in by_policy(states)(kernels, policy, mu):
        assert said.value <= most.value + EXACT
        assert measured.lower <= most.mean_bound + by_precision(1e-10, 1e-5)


@cache
def coupled(actions):
    @jax.jit
    def couple(kernels, rewards, policy):
        mdp = je.WeaklyCoupledMDP(tuple(map(je.MDP, kernels, rewards)), 0.9)
        chain = je.pair_chain(mdp, policy)
        law = je.solve_law(chain)
        said = [je.transfer_entropy(chain, law.value, agent=i) for i in range(2)]
        return law, said, je.decompose(chain, rewards, discount=0.9).error

    return couple


@holds(4, seed=seeds, kind=kinds, coin=st.sampled_from(["dense", "sparse", "deterministic"]))
def test_shared_randomness_says_nothing(seed, kind, coin):
    """However the actions are coupled, if not by states: nothing is told, and values are a sum."""
    rng = np.random.default_rng(seed)
    kernels = [laws(rng, kind, 2, 2, 2) for _ in range(2)]
    rewards = [numbers(rng, 1, 2, 2) for _ in range(2)]
    actions = laws(rng, coin, 4).reshape(2, 2)
    policy = np.broadcast_to(actions, (2, 2, 2, 2))
    law, said, error = jax.tree.map(np.asarray, coupled(2)(kernels, rewards, policy))
    if not law.converged:
        return
    assert max(e.value for e in said) <= by_precision(1e-13, 1e-6)
    visited = law.value > 0
    assert np.abs(error[visited]).max() <= by_precision(1e-10, 1e-4)
