import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains import views
from jaxent.models.layouts import MapLayout

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
    for traced in (views.transition_of_view, views.next_view):
        traced.outermost().clear_cache()  # of the traces for rows together
    assert "scan" in str(jax.make_jaxpr(lambda c: je.view_transition(c, agent=0))(chain))
    np.testing.assert_allclose(je.local_transition(chain, mu, agent=0), local, atol=EXACT)
    np.testing.assert_allclose(je.view_transition(chain, agent=0), rows, atol=EXACT)


def test_bad_input():
    chain = je.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
    with pytest.raises(ValueError, match=r"mu: wanted shape \[4\], got \[2\]"):
        je.local_transition(chain, jnp.ones(2), agent=0)


def test_other_views_of_the_same_chain():
    """Overlapping blocks and maps: laws and joint values stay, local ones are those of the view."""
    mdp, policy = weakly_coupled((3, 2, 2), (1, 2, 2))
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    blocks = je.with_views(chain, [(0, 1), (1, 2), 2])
    assert blocks.view_sizes == (12, 16, 4)
    for i, block in enumerate([(0, 1), (1, 2), 2]):
        np.testing.assert_array_equal(
            je.local_transition(blocks, mu, agent=i), je.local_transition(chain, mu, agent=block)
        )
    # The same views as maps: gathers and segment sums in the place of broadcasts and sums.
    codes = [np.asarray(blocks.view(i).lift(jnp.arange(n))) for i, n in enumerate((12, 16, 4))]
    maps = je.with_views(chain, codes)
    assert isinstance(maps.layout, MapLayout)
    f = [jnp.arange(float(n)) for n in maps.view_sizes]
    np.testing.assert_allclose(maps.lift(f), blocks.lift(f), atol=EXACT)
    table = jnp.stack([mu, 2 * mu], axis=1)
    for i in range(3):
        for of in (je.local_transition, je.marginal):
            np.testing.assert_allclose(of(maps, mu, agent=i), of(blocks, mu, agent=i), atol=EXACT)
        np.testing.assert_allclose(
            je.view_transition(maps, agent=i), je.view_transition(blocks, agent=i), atol=EXACT
        )
        one, other = maps.view(i), blocks.view(i)
        np.testing.assert_allclose(one.project(table), other.project(table), atol=EXACT)
        np.testing.assert_allclose(one.mass(mu).sum(1), other.mass(mu).sum(1), atol=EXACT)
        np.testing.assert_array_equal(one.lift(table[: one.size]), other.lift(table[: one.size]))
    mixed = je.with_views(chain, [codes[0], 2])
    np.testing.assert_allclose(
        mixed.lift([f[0], f[2]]), je.with_views(chain, [(0, 1), 2]).lift([f[0], f[2]])
    )
    both = maps.view((0, 2))
    np.testing.assert_array_equal(both.code, codes[0] * 4 + codes[2])


def test_maps_of_uneven_size():
    """A local pair that one joint pair has, one that many have, and one that none has."""
    P = oracles.random_stochastic(np.random.default_rng(0), 6, 6)
    chain = je.with_views(
        je.PairChain.from_matrix(jnp.array(P), sizes=(6,)), [np.array([3, 1, 1, 1, 0, 0])]
    )
    view = chain.view(0)
    assert (view.size, view.members.shape) == (4, (4, 3))
    mu = je.stationary_distribution(chain)
    np.testing.assert_allclose(view.mass(mu).sum(1), view.project(mu), atol=EXACT)
    assert view.project(mu)[2] == 0
    local = je.local_transition(chain, mu, agent=0)
    np.testing.assert_array_equal(local[2], np.eye(4)[2])  # never visited: a self-loop
    rows = np.array(je.view_transition(chain, agent=0))
    parts = (np.array(s) for s in ([0], [1, 2, 3], [4, 5]))
    by_hand = [je.tv_center(jnp.array(rows[s]), mu[s]).upper for s in parts]
    found = je.entanglement_mu_atv_upper(chain, mu, agent=0)
    np.testing.assert_allclose(found.value, sum(by_hand), atol=EXACT)
    assert not je.is_agentwise_separable(chain)
    whole = je.with_views(chain, [np.arange(6)])
    assert je.is_agentwise_separable(whole)


@pytest.mark.parametrize(
    ("views_", "message"),
    [
        ([], "views: is empty"),
        ([7], r"agent: 7 is not one of the views 0\.\.1"),
        ([np.zeros(3, int)], r"views\[0\]: wanted shape \[4\], got \[3\]"),
        ([0, np.array([0, -2, 1, 1])], r"views\[1\]\[1\]: is -2; a view is a map"),
        ([np.array([0.5, 1, 1, 1])], r"views\[0\]: is of float64; a view is a map"),
    ],
)
def test_a_view_that_is_no_map(views_, message):
    chain = je.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
    with pytest.raises(ValueError, match=message):
        je.with_views(chain, views_)


def test_counted_agents_have_no_other_views():
    chain = je.exchangeable_chain(je.circulant_bandit(5), je.CIRCULANT_PRIORITY)
    with pytest.raises(ValueError, match="known only by their counts"):
        je.with_views(chain, [0])


def test_a_model_has_no_views_yet_and_a_law_has_one_entry_a_pair():
    mdp, policy = weakly_coupled((2, 2), (1, 2))
    with pytest.raises(ValueError, match="chain: WeaklyCoupledMDP is not a PairChain; pair_chain"):
        je.with_views(mdp, [0])
    with pytest.raises(ValueError, match=r"mu: wanted shape \[8\], got \[3\]"):
        je.entanglement_atv(je.pair_chain(mdp, policy), agent=0, mu=jnp.ones(3) / 3)
