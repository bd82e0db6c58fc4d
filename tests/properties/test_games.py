"""Properties of games as models, and of control by local values."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je

from .strategies import discounts, eps, holds, kinds, laws, numbers, scales, seeds

SEEN = ((0, 0, 1, 1, 0, 1), (0, 1, 2, 2, 1, 0))


def game_of(rng, kind, scale):
    """Next states, chances, and rewards of two agents, of six states."""
    to = rng.integers(0, 6, (6, 2, 2, 3))
    return to, laws(rng, kind, 6, 2, 2, 3), numbers(rng, scale, 6, 2, 2, 2)


@holds(0.5, seed=seeds, kind=kinds, scale=scales)
def test_a_model_as_a_game_is_the_model(seed, kind, scale):
    """Tabulated from its own outcomes it has the states that can be reached, and their values."""
    rng = np.random.default_rng(seed)
    to, chances, paid = game_of(rng, kind, scale)
    seen = np.array(SEEN).T
    arrays = [jnp.asarray(x) for x in (to, chances, paid, seen)]

    def outcomes(s, a):
        return tuple(x[s, a[0], a[1]] for x in arrays[:3])

    mdp = je.tabulate(0, outcomes, lambda s: arrays[3][s], num_actions=(2, 2), discount=0.9)
    assert isinstance(mdp, je.Tabulated)
    assert isinstance(mdp, je.StateMDP)
    je.check_mdp(mdp)
    states = np.asarray(mdp.states)
    reached = {0}
    while True:
        more = {int(t) for s in reached for t in to[s][chances[s] > 0]}
        if more <= reached:
            break
        reached |= more
    assert set(states.tolist()) == reached
    assert not mdp.estimated
    whole = je.StateMDP((to, chances), SEEN, paid.sum(-1), 0.9)
    policy = np.asarray(laws(rng, "dense", 6, 4)).reshape(6, 2, 2)
    q = je.q_values(je.pair_chain(whole, policy), whole.rewards, discount=0.9)
    chain = je.pair_chain(mdp, policy[states])
    ours = je.q_values(chain, mdp.rewards, discount=0.9)
    noise = 1e4 * eps(np.float64) * np.abs(paid).max()
    np.testing.assert_allclose(ours, q.reshape(6, 4)[states].reshape(-1), atol=noise)
    own = [np.asarray(mdp.seen[i])[list(mdp.observations[i])] for i in range(2)]
    np.testing.assert_array_equal(np.stack(own, 1), seen[states])


@holds(0.5, seed=seeds, discount=st.sampled_from([0.0, 0.9]), number=st.integers(10, 10**6))
def test_standard_errors_scale(seed, discount, number):
    """With the unit of the reward, and with one over the root of the number of keys."""
    rng = np.random.default_rng(seed)
    to, chances, paid = (jnp.asarray(x) for x in game_of(rng, "dense", 1.0))
    mdp = je.tabulate(
        0,
        lambda s, a: tuple(x[s, a[0], a[1]] for x in (to, chances, paid)),
        lambda s: jnp.asarray(SEEN)[:, s],
        num_actions=(2, 2),
        discount=discount,
    )
    sampled = replace(mdp, samples=jnp.full(mdp.policy_shape, number))
    twice = replace(mdp, samples=jnp.full(mdp.policy_shape, 4 * number - 3))
    start = jnp.eye(mdp.num_states)[0]
    policy = mdp.join([jnp.full(shape, 0.5) for shape in mdp.local_shapes()])

    def value(model):
        chain = je.pair_chain(model, policy)
        return start @ je.state_values(chain, 7.0 * model.rewards, discount=discount)

    found = je.sampling_error(sampled, value)
    assert found.standard_error >= 0
    more = je.sampling_error(twice, value)
    np.testing.assert_allclose(found.standard_error, 2 * more.standard_error, atol=1e-9)
    assert je.sampling_error(mdp, value).standard_error == 0
    if discount == 0:  # nothing that follows matters
        np.testing.assert_allclose(found.standard_error, 0, atol=1e-9)


@holds(seed=seeds, kind=kinds, discount=discounts, scale=scales)
def test_greedy_agents_are_no_better_than_the_best(seed, kind, discount, scale):
    """Greedy, best alone, best together are in this order; local values by state are greedy."""
    rng = np.random.default_rng(seed)
    to, chances, paid = game_of(rng, kind, scale)
    start = jnp.asarray(laws(rng, "dense", 6))
    mdp = je.StateMDP((to, chances), SEEN, paid.sum(-1), float(discount), start)
    local = [numbers(rng, 1.0, n, 2) for n in mdp.num_observations]
    found = je.greedy_gap(mdp, local, max_profiles=32)
    noise = 1e6 * eps(np.float64) * np.abs(paid).max() / (1 - discount)
    assert found.greedy_return <= found.decentralized_lower
    assert found.decentralized_lower == found.decentralized_upper
    assert found.decentralized_upper <= found.joint_return + noise
    assert found.igm.loss >= 0
    assert found.igm.loss <= (found.igm.losses).max()
    assert found.lost >= -noise
    chain = je.pair_chain(mdp, mdp.join([jnp.full((n, 2), 0.5) for n in mdp.num_observations]))
    assert je.igm_witness(chain, local, local).holds  # by the sum itself nothing is lost
    shifted = [q + k for k, q in enumerate(local)]
    again = je.igm_witness(chain, shifted, local)
    np.testing.assert_allclose(again.losses, 0, atol=1e-9)
