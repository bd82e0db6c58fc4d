"""Properties of how entanglement composes: mixed, step after step, side by side, seen coarser."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT

from .strategies import few, holds, kinds, laws, seeds
from .test_chains import chain_of
from .test_information import pairs_of

SIZES = ((3, 2), (2, 2, 2), (4, 2))
masses = st.sampled_from(["dense", "sparse", "tiny"])
# From the pairs of agent 0 to coarser ones.
COARSE = {3: np.array([0, 1, 1]), 2: np.array([0, 0]), 4: np.array([0, 1, 1, 0])}
NOISE = EXACT
SOLVED = 3e-6  # of what a program certifies to 1e-6


def mean_measures(chain, mu, agent=0):
    seven = je.entanglement_mu_atv_upper(chain, mu, agent=agent)
    said = je.transfer_entropy(chain, mu, agent=agent)
    return seven.upper, said.value, said.distance


def solved_measures(chain, mu, agent=0):
    """Eq. (5) over all pairs, and Def. 8."""
    everywhere = jnp.ones_like(mu) / len(mu)
    five = je.entanglement_atv(chain, agent=agent, mu=everywhere)
    return five.upper, je.entanglement_mu_atv(chain, mu, agent=agent).upper


def three(sizes, measures):
    """Of P under mu, of R under mu and under mu P, of their mixture and of P R under mu."""

    @jax.jit
    def measure(P, R, mu, share):
        P, R = jnp.asarray(P), jnp.asarray(R)
        ahead = mu @ P
        cases = ((P, mu), (R, mu), (R, ahead / ahead.sum()))
        cases += ((share * P + (1 - share) * R, mu), (P @ R, mu))
        return [jnp.stack(measures(chain_of(M, sizes), law)) for M, law in cases]

    return measure


mean_three = cache(lambda sizes: three(sizes, mean_measures))
solved_three = cache(lambda sizes: three(sizes, solved_measures))


def drawn(seed, kind, mass, sizes):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, R = laws(rng, kind, J, J), laws(rng, kind, J, J)
    return P, R, laws(rng, mass, J), rng.random()


@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few(*SIZES))
def test_mixtures_and_steps_in_the_mean(seed, kind, mass, sizes):
    """Eq. (7), transfer entropy and d are convex; Eq. (7) adds up at most along two steps."""
    P, R, mu, share = drawn(seed, kind, mass, sizes)
    first, second, after, mixed, both = map(np.asarray, mean_three(sizes)(P, R, mu, share))
    assert (mixed <= share * first + (1 - share) * second + NOISE).all()
    assert both[0] <= first[0] + after[0] + NOISE


@pytest.mark.slow
@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few((3, 2), (2, 2, 2)))
def test_mixtures_and_steps_by_programs(seed, kind, mass, sizes):
    """The same of Eq. (5) and of Def. 8."""
    P, R, mu, share = drawn(seed, kind, mass, sizes)
    first, second, after, mixed, both = map(np.asarray, solved_three(sizes)(P, R, mu, share))
    assert (mixed <= share * first + (1 - share) * second + SOLVED).all()
    assert (both <= first + after + SOLVED).all()
    assert abs(second - after)[1] <= np.abs(mu - mu @ P).sum() / 2 + SOLVED


@cache
def discounted(sizes):
    @jax.jit
    def measure(P, rate):
        chain = chain_of(P, sizes)
        law = je.solve_law(chain)
        ahead = (1 - rate) * jnp.linalg.solve(jnp.eye(len(P)) - rate * P, P)
        ahead = ahead / ahead.sum(1, keepdims=True)
        one = je.entanglement_mu_atv_upper(chain, law.value, agent=0)
        return law, one, je.entanglement_mu_atv_upper(chain_of(ahead, sizes), law.value, agent=0)

    return measure


@holds(4, seed=seeds, kind=kinds, sizes=few(*SIZES), rate=st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_a_discounted_sum_of_steps(seed, kind, sizes, rate):
    """Under the stationary law, at most 1 / (1 - discount) times the entanglement of a step."""
    P = drawn(seed, kind, "dense", sizes)[0]
    law, one, ahead = jax.tree.map(np.asarray, discounted(sizes)(P, rate))
    if law.converged:
        assert ahead.lower <= one.upper / (1 - rate) + NOISE / (1 - rate)


@cache
def laws_apart(sizes):
    @jax.jit
    def measure(P, mu, nu):
        chain = chain_of(P, sizes)
        return [jnp.stack(mean_measures(chain, law)) for law in (mu, nu)]

    return measure


@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few(*SIZES))
def test_under_another_law(seed, kind, mass, sizes):
    """Eq. (7) under two laws differs by at most their total variation."""
    P, _, mu, _ = drawn(seed, kind, mass, sizes)
    nu = drawn(seed + 1, kind, mass, sizes)[2]
    one, two = map(np.asarray, laws_apart(sizes)(P, mu, nu))
    assert abs(one[0] - two[0]) <= np.abs(mu - nu).sum() / 2 + NOISE


@cache
def beside(sizes):
    @jax.jit
    def measure(P, R, mu, nu):
        whole = chain_of(jnp.kron(P, R), (*sizes, *sizes))
        law = jnp.kron(mu, nu)
        n = len(sizes)
        return (
            jnp.stack(mean_measures(chain_of(P, sizes), mu)),
            jnp.stack(mean_measures(chain_of(R, sizes), nu)),
            jnp.stack(mean_measures(whole, law)),
            jnp.stack(mean_measures(whole, law, (0, n))),
        )

    return measure


@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few((3, 2), (2, 3)))
def test_side_by_side(seed, kind, mass, sizes):
    """Systems that know nothing of each other: an agent has its own E; of a block they add up."""
    P, R, mu, _ = drawn(seed, kind, mass, sizes)
    nu = drawn(seed + 1, kind, mass, sizes)[2]
    one, two, alone, block = map(np.asarray, beside(sizes)(P, R, mu, nu))
    np.testing.assert_allclose(alone, one, atol=NOISE)
    assert block[0] <= one[0] + two[0] + NOISE
    np.testing.assert_allclose(block[1], one[1] + two[1], rtol=1e-9, atol=NOISE)
    assert max(one[2], two[2]) - NOISE <= block[2] <= one[2] + two[2] + NOISE


def coarse(sizes, measures, transition):
    """Of agent 0, of its coarser view, and of that view in a chain of its own pairs alone."""
    lump = COARSE[sizes[0]]

    @jax.jit
    def measure(P, mu):
        chain = chain_of(P, sizes)
        seen = je.with_views(chain, [lump[pairs_of(sizes)[0]]])
        local = je.PairChain.from_matrix(transition(chain, mu), sizes=sizes[:1])
        local = je.with_views(local, [lump])
        law = je.marginal(chain, mu, agent=0)
        cases = ((chain, mu), (seen, mu), (local, law))
        return [jnp.stack(measures(made, weights)) for made, weights in cases]

    return measure


def nearest(chain, mu):
    return je.entanglement_mu_atv_upper(chain, mu, agent=0).minimizer


def limit(chain, mu):
    return je.local_transition(chain, mu, agent=0)


def nearest_5(chain, mu):
    return je.entanglement_atv(chain, agent=0, mu=jnp.ones_like(mu) / len(mu)).minimizer


def nearest_8(chain, mu):
    return je.entanglement_mu_atv(chain, mu, agent=0).minimizer


coarse_7 = cache(lambda sizes: coarse(sizes, mean_measures, nearest))
coarse_2 = cache(lambda sizes: coarse(sizes, mean_measures, limit))
coarse_5 = cache(lambda sizes: coarse(sizes, solved_measures, nearest_5))
coarse_8 = cache(lambda sizes: coarse(sizes, solved_measures, nearest_8))


@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few(*SIZES))
def test_coarser_views(seed, kind, mass, sizes):
    """At most what the agent has and what its own chain loses; information says what of each."""
    P, _, mu, _ = drawn(seed, kind, mass, sizes)
    fine, seen, lost = map(np.asarray, coarse_7(sizes)(P, mu))
    assert seen[0] <= fine[0] + lost[0] + NOISE
    fine, seen, lost = map(np.asarray, coarse_2(sizes)(P, mu))
    assert lost[1] - NOISE <= seen[1] <= fine[1] + lost[1] + NOISE
    assert lost[2] - NOISE <= seen[2] <= fine[2] + lost[2] + NOISE
    # The chain rule, by the definition of each part: of the laws of the coarser next pair.
    own, lump = pairs_of(sizes)[0], COARSE[sizes[0]]
    rows = P @ np.eye(lump.max() + 1)[lump[own]]  # [J, coarse]
    mass_of = np.bincount(own, mu)
    means = np.stack([np.bincount(own, mu * r) for r in rows.T], 1)
    means = (means / np.where(mass_of > 0, mass_of, 1)[:, None])[own]
    share = np.where(means > 0, rows / np.where(means > 0, means, 1), 1)
    beyond = mu @ (rows * np.log(np.where(share > 0, share, 1))).sum(1)
    np.testing.assert_allclose(seen[1], lost[1] + beyond, rtol=1e-9, atol=NOISE)


@pytest.mark.slow
@holds(4, seed=seeds, kind=kinds, mass=masses, sizes=few((3, 2), (4, 2)))
def test_coarser_views_by_programs(seed, kind, mass, sizes):
    """Eq. (5) of a coarser view, over all pairs, and Def. 8."""
    P, _, mu, _ = drawn(seed, kind, mass, sizes)
    fine, seen, lost = map(np.asarray, coarse_5(sizes)(P, mu))
    assert seen[0] <= fine[0] + lost[0] + SOLVED
    fine, seen, lost = map(np.asarray, coarse_8(sizes)(P, mu))
    assert seen[1] <= fine[1] + lost[1] + SOLVED
