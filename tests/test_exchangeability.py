"""Which stationary laws the joint chain of a bandit has, and what Lemma 8 is without its own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import RestlessBandit, Verdict, check_exchangeability
from tests import oracles_restless
from tests.tolerances import EXACT

# Whoever is served is in state 0 next, whoever is not in state 1: agents keep what they have.
KEEPERS = RestlessBandit(
    np.array([[0.0, 1.0], [0.0, 1.0]]),
    np.array([[1.0, 0.0], [1.0, 0.0]]),
    np.array([[0.0, 1.0], [0.0, 0.0]]),
    2,
    1,
    0.9,
)


def sparse_bandit(rng, num_states, num_agents):
    """Rows of one or two successors, so that joint chains often have several closed classes."""
    kernel = np.zeros((2, num_states, num_states))
    for row in kernel.reshape(-1, num_states):
        there = rng.choice(num_states, min(num_states, 1 + (rng.random() < 0.4)), replace=False)
        row[there] = rng.dirichlet(np.ones(len(there)))
    budget = int(rng.integers(num_agents + 1))
    return RestlessBandit(*kernel, np.zeros((num_states, 2)), num_agents, budget, 0.9)


@pytest.mark.parametrize("seed", range(12))
def test_verdicts_are_those_of_the_joint_chain(seed):
    """All closed classes of all permutations, listed, for up to four agents."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        S, N = int(rng.integers(2, 4)), int(rng.integers(2, 5))
        bandit = sparse_bandit(rng, S, N)
        priority = tuple(rng.permutation(S).tolist())
        found = check_exchangeability(bandit, priority)
        kernel = np.asarray(bandit.kernel)
        keeps, laws = oracles_restless.permuted_classes(kernel, N, bandit.budget, priority)
        assert found.verdict == (Verdict.HOLDS if keeps else Verdict.FAILS)
        assert found.num_laws == laws
        assert int(jaxent.ground_truth(bandit, priority).exchangeable) == found.verdict


def test_agents_that_keep_their_places():
    """Two agents, one served: (0, 1) and (1, 0) are closed, and the counts know of one law."""
    found = check_exchangeability(KEEPERS, (0, 1))
    assert found.verdict == Verdict.FAILS
    assert (found.num_laws, found.by_kernel) == (1, False)
    assert sorted(found.example) == [0, 1]
    assert found.pair.tolist() == [0, 1]
    exact = jaxent.ground_truth(KEEPERS, (0, 1))
    assert exact.converged
    assert exact.exchangeable == Verdict.FAILS
    assert jaxent.check_attractor(KEEPERS, (0, 1)).exchangeable == Verdict.FAILS
    assert not jaxent.mean_field(KEEPERS, (0, 1)).exchangeable


def test_several_laws_of_the_counts_are_counted():
    """Agents that never move: every configuration is a law of its own, and none is the law."""
    still = KEEPERS._replace(passive=np.eye(2), active=np.eye(2), num_agents=3)
    found = check_exchangeability(still, (0, 1))
    assert found.num_laws == 4
    assert found.verdict == Verdict.FAILS
    exact = jaxent.ground_truth(still, (0, 1))
    assert not exact.converged
    assert np.isnan(exact.mu_error)


def test_by_kernel_for_every_number_of_agents():
    """A common successor brings any two agents together; and so the flag survives a trace."""
    rng = np.random.default_rng(0)
    kernel = rng.dirichlet(np.ones(3), (2, 3))
    bandit = RestlessBandit(*kernel, np.zeros((3, 2)), 1000, 300, 0.9)
    assert check_exchangeability(bandit, (0, 1, 2)).by_kernel
    assert jaxent.mean_field(bandit, (0, 1, 2)).exchangeable
    soft = jaxent.SoftIndex(np.arange(3.0), 0.5)
    assert check_exchangeability(bandit, soft).by_kernel
    small = bandit._replace(num_agents=3, budget=1)
    seen = jax.jit(lambda P: jaxent.ground_truth(small._replace(active=P), soft).exchangeable)
    assert seen(kernel[1]) == Verdict.HOLDS


def test_order_and_budget_narrow_what_may_keep_agents_apart():
    """State 1 is never served while state 0 is not: without that the two would never meet."""
    passive = np.array([[1.0, 0.0], [1.0, 0.0]])
    active = np.array([[1.0, 0.0], [0.0, 1.0]])
    bandit = RestlessBandit(passive, active, np.zeros((2, 2)), 5, 1, 0.9)
    assert check_exchangeability(bandit, (0, 1)).by_kernel
    found = check_exchangeability(bandit, (1, 0))
    assert not found.by_kernel
    assert found.verdict == Verdict.FAILS


def test_soft_policies_are_looked_at_too():
    """Served or not, an agent of a soft policy may be either: keepers change places."""
    soft = jaxent.SoftIndex(np.array([1.0, 0.0]), 1.0)
    found = check_exchangeability(KEEPERS, soft)
    assert found.verdict == Verdict.HOLDS
    assert not found.by_kernel
    assert jaxent.ground_truth(KEEPERS, soft).exchangeable == Verdict.HOLDS


def trapped(num_agents):
    """States: x served first, the trap p, y, z. Agents go from x to y and back 9 times in 10."""
    flip = np.eye(4)
    flip[np.ix_([0, 2], [0, 2])] = [[0.1, 0.9], [0.9, 0.1]]
    return RestlessBandit(flip, flip, np.zeros((4, 2)), num_agents, 1, 0.9), (0, 1, 2, 3)


def test_lemma_8_needs_an_exchangeable_law():
    """Agent 0 is in p for ever, two agents flip between x and y, the others rest in z.

    Agent 0 is served where both flippers are in y. Its own action does not tell one of them in x
    from two, so that it is entangled by 0.18 whatever N; what the counts move falls like 1 / N.
    """
    bandit, priority = trapped(5)
    found = check_exchangeability(bandit, priority)
    assert found.verdict == Verdict.FAILS
    N = 50
    # Joint states of the flippers, 0 in x and 1 in y; all else stands still.
    states = list(itertools.product(range(2), repeat=2))
    one = np.array([[0.1, 0.9], [0.9, 0.1]])
    chain = jaxent.PairChain.from_matrix(np.kron(one, one), sizes=(4,))
    served = np.array([int(a + b == 2) for a, b in states])  # the pair (p, a) of agent 0
    seen = jaxent.with_views(chain, [jnp.asarray(served)])
    law = jaxent.stationary_distribution(seen)
    np.testing.assert_allclose(law, 0.25, atol=EXACT)
    measured = jaxent.entanglement_mu_atv(seen, law, agent=0)
    np.testing.assert_allclose(measured.lower, 0.25 * (0.81 - 0.09), atol=1e-6)
    counts = np.array([[2 - a - b, 1, a + b, N - 3] for a, b in states])
    for state, n in zip(states, counts, strict=True):  # the policy is the bandit's
        active = oracles_restless.served(n, bandit.budget, priority)
        assert active[1] == (state == (1, 1))
    best = np.inf
    for share in np.linspace(0, 2, 41):  # any m* that has one agent in p
        star = np.array([share, 1, 2 - share, N - 3]) / N
        best = min(best, 4**2 * np.asarray(law) @ np.abs(counts / N - star).max(1))
    np.testing.assert_allclose(best, 8 / N, atol=EXACT)
    assert measured.lower > best
    assert jaxent.entanglement_mu_atv(seen, law, agent=0).lower > 8 / (2 * N)  # the more, the worse


def test_bad_input():
    with pytest.raises(ValueError, match="bandit: its arrays must be known"):
        jax.jit(lambda P: check_exchangeability(KEEPERS._replace(active=P), (0, 1)).pair)(
            KEEPERS.active
        )
    with pytest.raises(ValueError, match="priority"):
        check_exchangeability(KEEPERS, (0, 0))
    with pytest.raises(ValueError, match="num_agents"):
        check_exchangeability(KEEPERS._replace(num_agents=0), (0, 1))
