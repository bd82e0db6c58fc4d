"""Properties of fits for control: classes within each other, and what no unit changes."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import by_precision

from .strategies import FLOAT, eps, holds, kinds, laws, numbers, scales, seeds

NEAR = by_precision(1e-9, 1e-4)  # as a share

SEEN = {"all": ((0, 1, 2, 3),) * 2, "some": ((0, 0, 1, 1), (0, 1, 1, 0))}


def game_of(seed, kind, scale, seen, discount=0.9):
    """Two agents of two actions in four states."""
    rng = np.random.default_rng(seed)
    to = rng.integers(0, 4, (4, 2, 2, 3))
    to[..., 0] = 0  # one class, whatever is played
    chances = 0.7 * np.asarray(laws(rng, kind, 4, 2, 2, 3)) + 0.1
    return je.StateMDP((to, chances), seen, numbers(rng, scale, 4, 2, 2), discount)


@holds(0.5, seed=seeds, kind=kinds, scale=scales, seen=st.sampled_from(sorted(SEEN)))
def test_a_larger_class_is_nearer(seed, kind, scale, seen):
    """Sums are monotone mixtures, and these are largest where agents are greedy."""
    mdp = game_of(seed, kind, scale, SEEN[seen])
    chain = je.pair_chain(mdp, je.uniform_policy(mdp))
    target = np.random.default_rng(seed).normal(size=16) * scale
    fits = [
        fit(chain, target, discount=0.0) for fit in (je.fit_igm, je.fit_isotonic, je.fit_additive)
    ]
    assert all(bool(fit.converged) for fit in fits)
    losses = [float(fit.mu @ fit.error**2) for fit in fits]
    noise = 1e5 * eps(FLOAT) * scale**2
    assert losses[0] <= losses[1] + noise
    assert losses[1] <= losses[2] + noise
    same = je.fit_weighted(chain, target, discount=0.0, alpha=1.0)
    np.testing.assert_allclose(same.mu @ same.error**2, losses[1], rtol=NEAR, atol=noise)
    if seen == "all":
        assert losses[0] <= noise


@holds(0.3, seed=seeds, kind=kinds, scale=scales, epsilon=st.sampled_from([0.2, 1.0]))
def test_the_largest_class_loses_nothing(seed, kind, scale, epsilon):
    """Agents that see the joint state, greedy by their own fit, are as good as the best team."""
    mdp = game_of(seed, kind, scale, SEEN["all"])
    found = je.greedy_fixed_point(mdp, je.fit_igm, epsilon=epsilon)
    size = float(np.abs(mdp.rewards).max()) / 0.1
    assert found.converged
    assert found.gap.lost <= by_precision(1e-8, 1e-4) * size
    np.testing.assert_allclose(found.policy.reshape(4, 4).max(1), 1)
    again = je.epsilon_greedy(mdp, found.fit, epsilon=0.0)
    np.testing.assert_array_equal(again, found.policy)
    explored = je.epsilon_greedy(mdp, found.fit, epsilon=1.0)
    np.testing.assert_allclose(explored, je.uniform_policy(mdp), rtol=1e-12)


@holds(0.5, seed=seeds, kind=kinds, scale=scales, seen=st.sampled_from(sorted(SEEN)))
def test_interaction_is_a_share_without_a_unit(seed, kind, scale, seen):
    """Of a model and of a log; what local rewards add changes what is left in nothing."""
    mdp = game_of(seed, kind, scale, SEEN[seen])
    found = je.reward_interaction(mdp)
    assert -1e-9 <= found.share <= 1 + 1e-9
    larger = je.reward_interaction(mdp, 1e3 * mdp.rewards)
    np.testing.assert_allclose(larger.share, found.share, atol=1e-9)
    chain = je.pair_chain(mdp, je.uniform_policy(mdp))
    rng = np.random.default_rng(seed)
    local = [scale * jnp.asarray(rng.normal(size=(n, 2))) for n in mdp.num_observations]
    added = mdp.rewards + chain.lift([jnp.ravel(r) for r in local]).reshape(4, 2, 2)
    more = je.reward_interaction(mdp, added)
    np.testing.assert_allclose(more.error, found.error, atol=1e-7 * scale)

    states = rng.integers(0, 4, 400)
    actions = rng.integers(0, 2, (400, 2))
    paid = np.asarray(mdp.rewards)[states, actions[:, 0], actions[:, 1]]
    seen_by = np.stack([np.array(o)[states] for o in mdp.observations], 1)
    log = je.reward_interaction_from_log(je.Trajectory.from_arrays(seen_by, actions, paid))
    assert 0 <= log.lower <= log.share <= log.upper <= 1
    other = je.reward_interaction_from_log(
        je.Trajectory.from_arrays(seen_by, actions, 7 * paid + 2 * scale)
    )
    np.testing.assert_allclose(other.share, log.share, atol=1e-6)
