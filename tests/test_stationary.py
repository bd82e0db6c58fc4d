import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains.stationary import law_direct, law_iterative
from jaxent.models.layouts import product_layout
from jaxent.models.parts import DenseKernel, NoChoice

from . import oracles
from .test_chain import weakly_coupled
from .tolerances import FD, SOLVE


def unchecked(P):
    """A chain as a trace would see it."""
    return je.PairChain(DenseKernel(P), NoChoice(len(P)), product_layout([len(P)]))


@pytest.mark.parametrize("law", [law_direct, law_iterative])
def test_unichain_with_transient_states(law):
    rng = np.random.default_rng(0)
    P = np.zeros((9, 9))
    P[:4, 2:6] = oracles.random_stochastic(rng, 4, 4)  # 0 and 1 are never entered
    P[4:, 4:] = oracles.random_stochastic(rng, 5, 5)
    solution = law(unchecked(jnp.array(P)))
    assert solution.converged
    np.testing.assert_array_equal(solution.value[:4], 0)
    np.testing.assert_allclose(solution.value, oracles.stationary(P), atol=SOLVE)


@pytest.mark.parametrize("law", [law_direct, law_iterative])
def test_periodic_is_fine_and_several_classes_are_not(law):
    cycle = jnp.roll(jnp.eye(5), 1, axis=1)
    np.testing.assert_allclose(law(unchecked(cycle)).value, 0.2, atol=SOLVE)
    two = jnp.eye(5).at[2].set(0.2)
    solution = jax.jit(law)(unchecked(two))
    assert not solution.converged
    assert jnp.isnan(solution.value).all()
    bad = law(unchecked(cycle.at[3].multiply(0.5)))
    assert not bad.converged
    assert jnp.isnan(bad.value).all()


def test_names_the_classes():
    P = jnp.array([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]])
    chain = je.PairChain.from_matrix(P, sizes=(2, 2))
    with pytest.raises(ValueError, match=r"2 recurrent classes.*\[0, 1\] and \[3\]"):
        je.stationary_distribution(chain)
    assert jnp.isnan(jax.jit(je.stationary_distribution)(chain)).all()
    with pytest.raises(ValueError, match="recurrent classes"):
        je.decompose(chain, [jnp.ones(2), jnp.ones(2)], discount=0.9)


def test_never_visited_pairs():
    mdp, policy = weakly_coupled((2, 2), (2, 2))
    policy = jnp.zeros_like(policy).at[:, :, 0, 1].set(1.0)  # agent 0 idle, agent 1 active
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    assert (mu.reshape(2, 2, 2, 2)[:, 1] == 0).all()
    local = je.local_transition(chain, mu, agent=0)
    np.testing.assert_array_equal(local[1], [0, 1, 0, 0])
    result = je.decompose(chain, mdp.rewards, discount=0.9)
    assert result.visited.sum() == 4
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(result))
    assert (result.error[~result.visited] == 0).all()


def test_matrix_free_equals_elimination_and_differentiates():
    mdp, policy = weakly_coupled((3, 2, 2), (2, 2, 2))
    logits = jnp.log(policy)
    d = jnp.array(np.random.default_rng(0).normal(size=logits.shape))

    def mean(t, law):
        chain = je.pair_chain(mdp, je.softmax_policy(logits + t * d))
        return law(chain).value @ chain.lift(mdp.rewards)

    both = jax.jit(jax.value_and_grad(mean), static_argnums=1)
    for law in (law_direct, law_iterative):
        difference = (both(1e-5, law)[0] - both(-1e-5, law)[0]) / 2e-5
        np.testing.assert_allclose(both(0.0, law)[1], difference, atol=FD)
    np.testing.assert_allclose(both(0.0, law_direct)[0], both(0.0, law_iterative)[0], atol=SOLVE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_law_without_a_matrix_is_right_or_none(dtype):
    """Two blocks that hardly ever change places: any mixture of both has no residual."""
    rng, known = np.random.default_rng(0), []
    blocks = rng.dirichlet(np.ones(20), (2, 20))
    for rare in 10.0 ** -np.arange(2, 16, 2):
        P = np.kron([[1 - rare, rare], [3 * rare, 1 - 3 * rare]], np.ones((20, 20)) / 20)
        P[:20, :20], P[20:, 20:] = (1 - rare) * blocks[0], (1 - 3 * rare) * blocks[1]
        P = P.astype(dtype)
        P[np.arange(40), np.arange(40)] += 1 - P.sum(1)
        chain = je.PairChain.from_matrix(P, sizes=(40,))
        wanted, found = law_direct(chain), law_iterative(chain)
        assert wanted.converged
        np.testing.assert_allclose(wanted.value[:20].sum(), 0.75, rtol=1e-5)
        known.append(bool(found.converged))
        if found.converged:
            np.testing.assert_allclose(found.value, wanted.value, atol=np.sqrt(np.finfo(dtype).eps))
    assert known[0]
    assert not any(known[3:])
