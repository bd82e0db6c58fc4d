"""Properties of the ladder of locality: which rewards have values on the pairs of their agents."""

from functools import cache, reduce

import jax
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT, by_precision

from .. import oracles_ladder as oracles
from .strategies import few, holds, kinds, laws, seeds
from .test_chains import chain_of
from .test_measures import mixtures

NEAR = by_precision(1e-5, 1e-2)  # as a share
NOTHING = by_precision(1e-10, 1e-4)
NO_GAP = by_precision(1e-15, 2e-6)  # a measure of 0, as it is certified
A_GAP = by_precision(1e-10, 1e-3)

SIZES = ((2, 2, 2), (2, 2), (3, 2), (3, 2, 2), (2, 2, 2, 2))
span_of_products = cache(oracles.span_of_products)


@cache
def witness_of(sizes):
    @jax.jit
    def look(P):
        chain = chain_of(P, sizes)
        return je.is_separable(chain), je.separability_witness(chain, discount=0.9)

    return look


@holds(
    4, seed=seeds, kind=kinds, sizes=few(*SIZES), how=st.sampled_from(["ladder", "mixed", "any"])
)
def test_entangled_exactly_where_a_reward_that_ignores_an_agent_shows_it(seed, kind, sizes, how):
    """Membership of the span of products, by least squares, against the test and the witness."""
    rng = np.random.default_rng(seed)
    n, J = len(sizes), int(np.prod(sizes))
    if how == "ladder":
        P = oracles.chain_of_order(rng, sizes, int(rng.integers(n)))
    else:
        P = mixtures(rng, kind, sizes) if how == "mixed" else laws(rng, kind, J, J)
    basis = span_of_products(sizes)
    left = np.abs(P.ravel() - basis @ (basis.T @ P.ravel())).max()
    separable, found = jax.tree.map(np.asarray, witness_of(sizes)(P))
    if by_precision(1e-13, 1e-6) < left < by_precision(1e-11, 1e-4):
        return
    assert separable == (left <= by_precision(1e-13, 1e-6))
    block = np.flatnonzero(found.agents)
    assert found.order == len(block)
    assert found.agent not in block
    np.testing.assert_allclose(np.abs(found.reward).max(), 1)
    if separable:
        assert found.violation <= NOTHING
        return
    assert found.violation > 1e-4 * left
    Q = np.linalg.solve(np.eye(J) - 0.9 * P, found.reward)
    reward, value = (oracles.left_by(sizes, block, f[:, None]) for f in (found.reward, Q))
    assert np.abs(reward).max() < by_precision(1e-9, 1e-4)
    np.testing.assert_allclose(np.linalg.norm(value), found.violation, rtol=NEAR, atol=EXACT)
    # It depends on the pair of the agent that is named.
    others = [i for i in range(n) if i != found.agent]
    assert np.linalg.norm(oracles.left_by(sizes, others, Q[:, None])) > 0.1 * found.violation / n
    if how == "ladder":
        assert found.order == 1 + oracles.order_of(P, sizes)


@holds(seed=seeds, kind=kinds, sizes=few((2, 2), (3, 2), (2, 2, 2)))
def test_the_span_of_products_is_no_signaling(seed, kind, sizes):
    """Products lie in the span that the oracle makes, whatever their factors and weights."""
    rng = np.random.default_rng(seed)
    basis = span_of_products(sizes)
    P = reduce(np.kron, [laws(rng, kind, n, n) for n in sizes]).ravel()
    np.testing.assert_allclose(basis @ (basis.T @ P), P, atol=EXACT)


LADDERS = ((2, 2, 2), (3, 2, 2), (2, 2, 2, 2))


@holds(
    4, seed=seeds, kind=kinds, sizes=few(*LADDERS), how=st.sampled_from(["ladder", "mixed", "any"])
)
def test_the_order_of_locality(seed, kind, sizes, how):
    """The order is that of dense least squares, and gaps of neighboring orders obey Statement 3."""
    rng = np.random.default_rng(seed)
    n, J = len(sizes), int(np.prod(sizes))
    if how == "ladder":
        P = oracles.chain_of_order(rng, sizes, int(rng.integers(n)))
    else:
        P = mixtures(rng, kind, sizes) if how == "mixed" else laws(rng, kind, J, J)
    chain = chain_of(P, sizes)
    law = np.asarray(je.solve_law(chain).value)
    there = np.isnan(law) | (law > 0)
    found = je.locality_order(chain, every=True, mu=law)
    assert isinstance(found, je.LocalityOrder)
    assert [gap.order for gap in found.gaps] == list(range(1, n))
    for gap in found.gaps:
        assert isinstance(gap, je.OrderGap)
        assert gap.atv.lower <= gap.upper <= 2 * gap.atv.lower + by_precision(1e-14, 1e-5)
        reward = (oracles.lifted(sizes, gap.block) @ gap.reward)[:, None]
        Q = np.linalg.solve(np.eye(J) - 0.9 * P, reward)
        B = oracles.lifted(sizes, gap.block)[there]
        left = np.linalg.norm(oracles.fit_leaves(B, Q[there]))
        np.testing.assert_allclose(left, gap.violation, rtol=NEAR, atol=NOTHING)
        if gap.upper <= NO_GAP:
            assert gap.violation <= NOTHING
    if there.all():
        for low, high in zip(found.gaps, found.gaps[1:]):
            assert low.atv.lower <= 3 * high.upper + by_precision(1e-14, 1e-5)
    if not any(NO_GAP < gap.upper < A_GAP for gap in found.gaps):
        assert found.order == oracles.order_of(P, sizes, by_precision(1e-12, 1e-5), there)
    if how == "mixed":
        assert found.order == n - 1 or not there.all()
