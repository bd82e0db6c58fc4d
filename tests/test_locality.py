"""The order of locality, where it is known by construction, and gaps by linear programs."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from tests.tolerances import EXACT, by_precision

from . import oracles, oracles_ladder, oracles_measures


def chain_of(P, sizes):
    return je.PairChain.from_matrix(jnp.asarray(P), sizes=sizes)


def check_witness(P, sizes, gap, discount=0.9):
    """The reward is on the block, and dense least squares leaves what is said of its value."""
    reward = oracles_ladder.lifted(sizes, gap.block) @ gap.reward
    np.testing.assert_allclose(np.abs(reward).max(), 1)
    Q = oracles.q_values(P, reward, discount)
    left = np.linalg.norm(oracles_ladder.left_by(sizes, gap.block, Q[:, None]))
    np.testing.assert_allclose(left, gap.violation, rtol=by_precision(1e-9, 1e-5), atol=EXACT)


def grouped(P, sizes, block):
    """Laws of a block's next pair, by its current pair and the rest, `[X, C, X]`."""
    rows = P @ oracles_ladder.lifted(sizes, block)
    rest = [i for i in range(len(sizes)) if i not in block]
    grid = rows.reshape(*sizes, -1).transpose(*block, *rest, len(sizes))
    return grid.reshape(rows.shape[1], -1, rows.shape[1])


@pytest.mark.parametrize(("num_agents", "order"), [(n, k) for n in (3, 4, 5) for k in range(n)])
def test_the_family_is_local_up_to_its_order(num_agents, order):
    """U^(⊗N) + c (ε e') ⊗ (e ε')^(⊗ k + 1) ⊗ (e e')^(⊗ rest) is of order k, its gap c 2^(N - 1)."""
    sizes, strength = (2,) * num_agents, 0.6
    P = np.full((2**num_agents,) * 2, 2.0**-num_agents)
    if order < num_agents - 1:
        P = oracles_ladder.family(num_agents, order, strength)
    assert (P >= 0).all()
    np.testing.assert_allclose(P.sum(1), 1)
    assert oracles_ladder.order_of(P, sizes) == order
    found = je.locality_order(chain_of(P, sizes))
    assert found.order == order
    assert found.complete
    assert all(gap.holds and gap.upper < by_precision(1e-14, 2e-6) for gap in found.gaps[:order])
    if order < num_agents - 1:
        gap = found.gaps[-1]
        assert gap.block == tuple(range(1, order + 2))
        for end in (gap.atv.lower, gap.upper, gap.mu_atv.lower, gap.mu_atv.upper):
            np.testing.assert_allclose(end, strength / 2, atol=EXACT)
        # Q = r + discount P r, and P r = ± strength by the pair of agent 0.
        norm = 0.9 * strength * 2 ** (num_agents / 2)
        np.testing.assert_allclose(gap.violation, norm, rtol=by_precision(1e-7, 1e-5))
        check_witness(P, sizes, gap)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2, 2)])
def test_random_chains_have_the_order_they_were_made_with(sizes):
    """50 of each shape: order, witness above 1e-3, and the bracket of the worst block."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        order = int(rng.integers(len(sizes) - 1))
        P = oracles_ladder.chain_of_order(rng, sizes, order)
        found = je.locality_order(chain_of(P, sizes))
        assert found.order == order
        assert len(found.gaps) == order + 1
        gap = found.gaps[-1]
        assert gap.violation > 1e-3
        check_witness(P, sizes, gap)
        assert gap.upper <= 2 * gap.atv.lower + EXACT
        assert gap.mu_atv.upper <= 2 * gap.mu_atv.lower + EXACT
        assert gap.mu_atv.lower <= gap.upper


@pytest.mark.slow
def test_certified_gaps_are_those_of_linear_programs():
    """E of every block by HiGHS: the largest is in the bracket, which is narrow if asked for."""
    sizes = (2, 3, 2)
    for seed in range(3):
        P = oracles.random_stochastic(np.random.default_rng(seed), 12, 12)
        chain = chain_of(P, sizes)
        rough = je.locality_order(chain, every=True)
        fine = je.locality_order(chain, every=True, certify=True)
        assert rough.order == fine.order == 0
        for a, b in zip(rough.gaps, fine.gaps, strict=True):
            exact = [
                oracles_measures.solve(oracles_measures.agentwise(grouped(P, sizes, block)))
                for block in combinations(range(3), a.order)
            ]
            for gap, spare in ((a, 1e-8), (b, 1e-6)):
                assert gap.atv.lower - 1e-8 <= max(exact) <= gap.upper + spare
            assert b.upper - b.atv.lower <= 2e-6
            np.testing.assert_allclose(
                exact[list(combinations(range(3), a.order)).index(b.block)], max(exact), atol=1e-6
            )
            assert b.mu_atv.upper - b.mu_atv.lower <= 2e-6
            assert a.mu_atv.lower - 1e-6 <= b.mu_atv.upper <= a.mu_atv.upper + 1e-6


def test_without_all_pairs_a_higher_order_may_hold():
    """Agents 1 and 2 always agree, agent 0 repeats them: any two agents see all, one does not."""
    P = np.zeros((2,) * 6)
    for a, b, c, new in np.ndindex(2, 2, 2, 2):
        P[a, b, c, b, new, new] = 0.5
    found = je.locality_order(chain_of(P.reshape(8, 8), (2, 2, 2)), every=True)
    assert found.order == 0
    assert [gap.holds for gap in found.gaps] == [False, True]


def test_structured_chains_without_a_matrix():
    """Five agents with kernels of their own, J = 1024: policies may be local."""
    rng = np.random.default_rng(0)
    agents = tuple(
        je.MDP(jnp.asarray(rng.dirichlet(np.ones(2), (2, 2))), jnp.zeros((2, 2))) for _ in range(5)
    )
    mdp = je.WeaklyCoupledMDP(agents, 0.9)
    free = je.product_policy([jnp.full((2, 2), 0.5)] * 5)
    found = je.locality_order(je.pair_chain(mdp, free), max_order=2)
    assert found.order == 2
    assert not found.complete
    assert max(gap.upper for gap in found.gaps) < EXACT
    # All act unless somebody's state is 0.
    table = np.zeros((2,) * 10)
    for states in np.ndindex((2,) * 5):
        table[states + (min(states),) * 5] = 1
    table = 0.5 * table + 0.5 * np.asarray(free)
    found = je.locality_order(je.pair_chain(mdp, jnp.asarray(table)))
    assert found.order == 0
    assert found.gaps[0].violation > 1e-3


def test_views_that_hide_something():
    """Views that share agent 2 are blocks; without agent 0, even both views together fail."""
    P = oracles_ladder.family(3, 1)
    chain = chain_of(P, (2, 2, 2))
    seen = je.locality_order(je.with_views(chain, [(0, 2), (1, 2)]))
    assert seen.order == 0
    assert seen.gaps[0].block == (1,)
    hidden = je.locality_order(je.with_views(chain, [1, 2]), every=True)
    assert hidden.order == 1
    assert [gap.holds for gap in hidden.gaps] == [True, False]
    assert hidden.complete


def test_tolerance_decides():
    P = oracles_ladder.family(3, 1, strength=1e-3)
    chain = chain_of(P, (2, 2, 2))
    assert je.locality_order(chain).order == 1
    assert je.locality_order(chain, tol=1e-2).order == 2
    single = chain_of(jnp.asarray(P, jnp.float32), (2, 2, 2))
    found = je.locality_order(single)
    assert found.order == 1
    assert found.gaps[-1].atv.value.dtype == jnp.float32


@pytest.mark.slow
def test_a_tolerance_inside_the_rough_bracket_is_decided_by_the_program():
    P = oracles.random_stochastic(np.random.default_rng(0), 16, 16)
    chain = chain_of(P, (4, 4))
    (rough,) = je.locality_order(chain).gaps
    exact = max(
        oracles_measures.solve(oracles_measures.agentwise(grouped(P, (4, 4), (i,))))
        for i in range(2)
    )
    assert rough.atv.lower - 1e-8 <= exact < exact + 1e-2 < rough.upper
    assert je.locality_order(chain, tol=exact + 1e-2).order == 1
    assert je.locality_order(chain, tol=exact - 1e-3).order == 0


def test_several_classes_have_no_mean_gap():
    P = np.eye(8)
    found = je.locality_order(chain_of(P, (2, 2, 2)))
    assert found.order == 2
    assert np.isnan(found.gaps[0].mu_atv.value)
    assert not found.gaps[0].mu_atv.converged


def test_refusals():
    chain = chain_of(je.three_agents(), (2, 2, 2))
    with pytest.raises(ValueError, match="tol: -1 is not positive"):
        je.locality_order(chain, tol=-1)
    with pytest.raises(ValueError, match="discount"):
        je.locality_order(chain, discount=0)
    with pytest.raises(ValueError, match="max_order"):
        je.locality_order(chain, max_order=0)
    with pytest.raises(ValueError, match="must be known, not traced"):
        jax.jit(lambda P: je.locality_order(chain_of(P, (2, 2, 2))).gaps[0].upper)(chain.matrix())
    bandit = je.circulant_bandit(5)
    counts = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
    with pytest.raises(ValueError, match="known only by their counts"):
        je.locality_order(counts)
