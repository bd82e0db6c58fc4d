"""How entanglement composes: what does not hold, by hand."""

import jax.numpy as jnp
import numpy as np

import jaxent as je
from tests.tolerances import EXACT


def seldom(share):
    """Agent 1 sends the team to state (0, 0) or (0, 1); sent to (0, 0) from (0, 1), agent 0 slips.

    `share` is how often it sends to (0, 0); at 0 and at 1 nothing of that is ever seen.
    """
    kernel = np.zeros((2, 2, 1, 2, 2, 2))  # s_0, s_1, a_0, a_1 and the next
    kernel[:, :, 0, 0, 0, 0] = 1
    kernel[:, :, 0, 1, 0, 1] = 1
    kernel[0, 1, 0, 0] = [[0, 0], [1, 0]]
    rewards = jnp.zeros((2, 1)), jnp.zeros((2, 2))
    mdp = je.JointMDP(jnp.asarray(kernel), rewards, 0.9)
    policy = np.broadcast_to(np.array([share, 1 - share]), (2, 2, 1, 2))
    return je.pair_chain(mdp, policy)


def test_each_policy_free_of_entanglement_and_their_mixture_not():
    """Under laws of their own: each never meets what the other would do to it."""
    found, met = [], []
    for share in (0.0, 0.5, 1.0):
        chain = seldom(share)
        mu = je.stationary_distribution(chain)
        found.append(float(je.entanglement_mu_atv_upper(chain, mu, agent=0).value))
        assert (float(je.entanglement_atv(chain, agent=0, mu=mu).upper) > 1e-3) == (share == 0.5)
        # Under a law that meets everything each is entangled, and by as much.
        law = np.full(chain.num_pairs, 1 / chain.num_pairs)
        met.append(float(je.entanglement_mu_atv_upper(chain, law, agent=0).value))
    np.testing.assert_allclose(found, [0, found[1], 0], atol=EXACT)
    assert found[1] > 0.05
    np.testing.assert_allclose(met, met[0])


def test_coarser_may_be_more_and_may_be_less():
    """An agent alone whose view hides a state is entangled with it; a view of nothing is not."""
    alone = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    chain = je.PairChain.from_matrix(alone, sizes=(3,))
    law = np.full(3, 1 / 3)
    hidden = je.with_views(chain, [np.array([0, 0, 1])])
    assert je.entanglement_mu_atv_upper(chain, law, agent=0).value == 0
    np.testing.assert_allclose(
        je.entanglement_mu_atv_upper(hidden, law, agent=0).value, 1 / 3, atol=EXACT
    )
    copy = je.PairChain.from_matrix(je.appendix_e(), sizes=(2, 2))
    law = np.full(4, 0.25)
    nothing = je.with_views(copy, [np.zeros(4, int)])
    np.testing.assert_allclose(je.entanglement_mu_atv_upper(copy, law, agent=1).value, 0.5)
    assert je.entanglement_mu_atv_upper(nothing, law, agent=0).value < EXACT


def test_policies_that_are_mixed_mix_chains():
    rng = np.random.default_rng(0)
    mdp, _ = je.example_1()
    free = je.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    first, second = rng.dirichlet(np.ones(4), (2, 4)).reshape(2, 2, 2, 2, 2)
    P, R, mixed = (
        je.pair_chain(free, policy).matrix()
        for policy in (first, second, 0.3 * first + 0.7 * second)
    )
    np.testing.assert_allclose(mixed, 0.3 * P + 0.7 * R, atol=EXACT)


def test_exploring_alone_is_less_entangled():
    """A local policy a tenth of the time leaves nine tenths, under the law of the mixture."""
    mdp, _ = je.example_1()
    free = je.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    greedy = np.asarray(je.index_policy((0, 1), num_agents=2, budget=1))
    exploring = je.pair_chain(free, 0.9 * greedy + 0.1 * np.full((2, 2, 2, 2), 0.25))
    mu = je.stationary_distribution(exploring)
    for agent in range(2):
        before, after = (
            je.entanglement_mu_atv_upper(chain, mu, agent=agent)
            for chain in (je.pair_chain(free, greedy), exploring)
        )
        assert after.value > 0.01
        assert after.value <= 0.9 * before.value + EXACT


def test_the_local_chain_is_a_chain():
    """The minimizer of a measure, as it comes, with a view of its own."""
    P = np.random.default_rng(1).dirichlet(np.ones(6), 6)
    chain = je.PairChain.from_matrix(P, sizes=(3, 2))
    mu = je.stationary_distribution(chain)
    found = je.entanglement_mu_atv_upper(chain, mu, agent=0)
    local = je.PairChain.from_matrix(found.minimizer, sizes=(3,))
    local = je.with_views(local, [np.array([0, 1, 1])])
    law = je.marginal(chain, mu, agent=0)
    lost = je.entanglement_mu_atv_upper(local, law, agent=0)
    lump = np.array([0, 1, 1])[np.arange(6) // 2]
    seen = je.entanglement_mu_atv_upper(je.with_views(chain, [lump]), mu, agent=0)
    assert 0 < seen.value <= found.value + lost.value
