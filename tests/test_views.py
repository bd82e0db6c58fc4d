import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains import views

from . import oracles
from .test_chain import weakly_coupled
from .tolerances import EXACT


def test_against_loops():
    mdp, policy = weakly_coupled((3, 2, 2), (1, 2, 2))
    chain = je.pair_chain(mdp, policy)
    P = np.array(chain.matrix())
    mu = je.stationary_distribution(chain)
    for i in range(3):
        local = je.local_transition(chain, mu, agent=i)
        np.testing.assert_allclose(
            local, oracles.local_transition(P, np.array(mu), chain.sizes, i), atol=EXACT
        )
        marginal = je.marginal(chain, mu, agent=i)
        np.testing.assert_allclose(marginal @ local, marginal, atol=EXACT)
        others = tuple(k for k in range(3) if k != i)
        rows = P.reshape(-1, *chain.sizes).sum(tuple(k + 1 for k in others))
        np.testing.assert_allclose(je.view_transition(chain, agent=i), rows, atol=EXACT)


def test_blocks_of_agents():
    mdp, policy = weakly_coupled((3, 2, 2), (1, 2, 2))
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    whole = je.local_transition(chain, mu, agent=(0, 1, 2))
    np.testing.assert_allclose(whole, chain.matrix(), atol=EXACT)
    block = je.local_transition(chain, mu, agent=(0, 2))
    swapped = je.local_transition(chain, mu, agent=(2, 0))
    grid = block.reshape(3, 4, 3, 4).transpose(1, 0, 3, 2).reshape(12, 12)
    np.testing.assert_allclose(swapped, grid, atol=EXACT)
    joint = je.marginal(chain, mu, agent=(2, 0)).reshape(4, 3)
    np.testing.assert_allclose(joint.sum(0), je.marginal(chain, mu, agent=0), atol=EXACT)
    with pytest.raises(ValueError, match=r"agent: \(1, 1\) must name"):
        je.marginal(chain, mu, agent=(1, 1))


def test_one_by_one_equals_together(monkeypatch):
    mdp, policy = weakly_coupled((3, 2), (2, 2), seed=3)
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    local, rows = je.local_transition(chain, mu, agent=0), je.view_transition(chain, agent=0)
    monkeypatch.setattr(views, "_AT_ONCE", 0)
    jax.clear_caches()
    np.testing.assert_allclose(je.local_transition(chain, mu, agent=0), local, atol=EXACT)
    np.testing.assert_allclose(je.view_transition(chain, agent=0), rows, atol=EXACT)


def test_bad_input():
    chain = je.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
    with pytest.raises(ValueError, match=r"mu: wanted shape \[4\], got \[2\]"):
        je.local_transition(chain, jnp.ones(2), agent=0)
