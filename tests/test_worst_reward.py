"""The reward that shows how wrong a sum of local values can be, against all rewards tried."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from tests import oracles
from tests.tolerances import EXACT, SOLVE

BOTH = (jaxent.worst_reward_sup, jaxent.worst_reward_mu)


def worst_by_hand(P, mu, size, discount):
    """Errors of all local values that are 0 or 1, of the first view: sup and mean."""
    J = len(P)
    lift = np.repeat(np.eye(size), J // size, 0)
    local = oracles.local_transition(P, mu, (size, J // size), 0)
    residual = P @ lift - lift @ local
    values = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    errors = np.abs(discount * np.linalg.solve(np.eye(J) - discount * P, residual @ values.T))
    return errors.max(), (mu @ errors).max()


@pytest.mark.parametrize("find", BOTH)
def test_appendix_e(find):
    """B's next pair is A's pair: D v = +-(v_1 - v_0) / 2 whatever B's, gone a step later."""
    chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
    found = find(chain, discount=0.9, agent=1)
    np.testing.assert_allclose(found.distance, 0.5, atol=EXACT)
    np.testing.assert_allclose(found.error, 0.45, atol=EXACT)
    np.testing.assert_allclose(found.lower, 0.45 / 1.9, atol=EXACT)
    np.testing.assert_allclose(found.upper, 4.5, atol=EXACT)
    nothing = find(chain, discount=0.9, agent=0)
    assert float(nothing.error) == float(nothing.lower) == 0
    np.testing.assert_array_equal(nothing.local_value, 0)


@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_all_rewards_are_tried(discount):
    rng = np.random.default_rng(0)
    for _ in range(5):
        P = rng.dirichlet(np.full(12, 0.3), 12)
        mu = oracles.stationary(P)
        chain = jaxent.PairChain.from_matrix(P, sizes=(4, 3))
        want = worst_by_hand(P, mu, 4, discount)
        for find, largest in zip(BOTH, want, strict=True):
            found = find(chain, discount=discount)
            np.testing.assert_allclose(found.error, largest, rtol=SOLVE)
            assert found.lower < found.error < found.upper
            # `decompose` says the same of the reward that is found.
            exact = jaxent.decompose(chain, [found.reward, np.zeros(3)], discount=discount)
            size = exact.sup_error if find is BOTH[0] else exact.mu_error
            np.testing.assert_allclose(size, found.error, rtol=SOLVE)


def test_both_ends_are_needed():
    """A chain that repeats itself is near the lower end, one that hardly moves near the upper."""
    # A's pair alternates, but for a tenth of the time; B's next is A's.
    for stay, near in ((0.01, "lower"), (0.99, "upper")):
        flip = np.array([[stay, 1 - stay], [1 - stay, stay]])
        P = np.zeros((2, 2, 2, 2))
        for a in range(2):
            for b in range(2):
                P[a, b] = np.outer(flip[a], 0.98 * np.eye(2)[a] + 0.01)
        chain = jaxent.PairChain.from_matrix(P.reshape(4, 4), sizes=(2, 2))
        found = jaxent.worst_reward_mu(chain, discount=0.9, agent=1)
        assert found.lower <= found.error <= found.upper
        share = np.log(found.error / found.lower) / np.log(found.upper / found.lower)
        assert share < 0.35 if near == "lower" else share > 0.1


@pytest.mark.slow
def test_many_pairs_and_many_states():
    """17 pairs are too many to try all signs; 1122 states too many to eliminate."""
    rng = np.random.default_rng(1)
    P = rng.dirichlet(np.full(34, 0.3), 34)
    chain = jaxent.PairChain.from_matrix(P, sizes=(17, 2))
    found = jaxent.worst_reward_mu(chain, discount=0.9)
    assert found.lower <= found.error <= found.largest
    assert found.largest <= found.upper * (1 + 1e-9)
    P = np.repeat(rng.dirichlet(np.full(6, 0.5), 6), 187, 0).repeat(187, 1) / 187
    large = jaxent.PairChain.from_matrix(P, sizes=(2, 561))
    small = jaxent.PairChain.from_matrix(P[::187, ::187] * 187, sizes=(2, 3))
    assert not large.is_small
    for find in BOTH:
        a, b = find(large, discount=0.9), find(small, discount=0.9)
        assert a.converged
        np.testing.assert_allclose(a.error, b.error, rtol=1e-8)


def test_agents_that_are_alike_are_paid_alike():
    """The one view of a counted chain stands for all: the same as the worst over all rewards."""
    bandit = jaxent.circulant_bandit(5)
    chain = jaxent.exchangeable_chain(bandit, jaxent.CIRCULANT_PRIORITY)
    found = jaxent.worst_reward_mu(chain, discount=0.9)
    exact = jaxent.ground_truth(
        bandit._replace(reward=found.reward.reshape(4, 2), discount=0.9), jaxent.CIRCULANT_PRIORITY
    )
    np.testing.assert_allclose(exact.mu_error, found.error, rtol=1e-8)
    assert exact.mu_error > jaxent.ground_truth(bandit, jaxent.CIRCULANT_PRIORITY).mu_error


def test_single_precision_and_batches():
    rng = np.random.default_rng(2)
    P = rng.dirichlet(np.ones(6), (3, 6))

    def look(P):
        return jaxent.worst_reward_sup(jaxent.PairChain.from_matrix(P, sizes=(3, 2)), discount=0.9)

    exact = [look(jnp.asarray(p)) for p in P]
    batch = jax.jit(jax.vmap(look))(jnp.asarray(P, jnp.float32))
    assert batch.error.dtype == jnp.float32
    np.testing.assert_allclose(batch.error, [x.error for x in exact], rtol=1e-4)


def test_bad_input():
    chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
    for find in BOTH:
        with pytest.raises(ValueError, match="agent: 2 is none of the 2 views"):
            find(chain, discount=0.9, agent=2)
        with pytest.raises(ValueError, match="discount"):
            find(chain, discount=1.0)
    two = jaxent.PairChain.from_matrix(np.eye(4), sizes=(2, 2))
    with pytest.raises(ValueError, match="recurrent classes"):
        jaxent.worst_reward_sup(two, discount=0.9)
