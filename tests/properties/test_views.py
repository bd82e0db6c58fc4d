"""Properties of models with hidden state and of views that are maps."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je

from .strategies import (
    discounts,
    dtypes,
    eps,
    few,
    holds,
    kinds,
    laws,
    numbers,
    recurrent_classes,
    scales,
    seeds,
)


@cache
def observed(seen, actions):
    """Chain, values and gap of a model with these observations, compiled."""

    @jax.jit
    def solve(outcomes, chances, rewards, policy, discount):
        mdp = je.StateMDP((outcomes, chances), seen, rewards, discount)
        chain = je.pair_chain(mdp, policy)
        mu = je.stationary_distribution(chain)
        return {
            "P": chain.matrix(),
            "mu": mu,
            "found": je.decompose(chain, rewards, discount=discount, mu=mu),
            "after": je.bounds.a_posteriori(chain, rewards, discount=discount, mu=mu),
            "local": [je.local_transition(chain, mu, agent=i) for i in range(len(actions))],
            "marginal": [je.marginal(chain, mu, agent=i) for i in range(len(actions))],
        }

    return solve


SEEN = [((0, 0, 1, 1, 0, 1), (0, 1, 2, 2, 1, 0)), ((0, 1, 2, 3, 0, 1), (0, 0, 0, 0, 0, 0))]


@holds(
    0.5,
    seed=seeds,
    kind=kinds,
    seen=few(*SEEN),
    dtype=dtypes,
    discount=discounts,
    scale=scales,
)
def test_hidden_state(seed, kind, seen, dtype, discount, scale):
    """Local laws are marginals of the joint one, and the residual bounds the gap."""
    rng = np.random.default_rng(seed)
    size, actions = len(seen[0]), (2, 2)
    chances = laws(rng, kind, size, *actions, 3, dtype=dtype)
    outcomes = rng.integers(0, size, chances.shape)
    rewards = tuple(numbers(rng, scale, max(o) + 1, a, dtype=dtype) for o, a in zip(seen, actions))
    policy = laws(rng, kind, size, 4, dtype=dtype).reshape(size, 2, 2)
    mdp = je.StateMDP((outcomes, chances), seen, rewards, float(discount))
    assert isinstance(mdp, je.Model)
    je.check_mdp(mdp)
    je.check_policy(mdp, policy)
    out = jax.tree.map(
        np.asarray, observed(seen, actions)(outcomes, chances, rewards, policy, dtype(discount))
    )
    noise = 400 * size * eps(dtype)
    bound = sum(np.abs(r).max() for r in rewards) / (1 - dtype(discount))
    np.testing.assert_allclose(out["P"].sum(1), 1, atol=noise)
    if len(recurrent_classes(out["P"])) > 1 or np.isnan(out["mu"]).any():
        assert np.isnan(out["mu"]).all()
        return
    found, mu = out["found"], out["mu"]
    for P_i, mu_i in zip(out["local"], out["marginal"]):
        np.testing.assert_allclose(P_i.sum(1), 1, atol=noise)
        np.testing.assert_allclose(mu_i @ P_i, mu_i, atol=noise)
    assert mu @ np.abs(found.error) <= out["after"].mu_bound + noise * bound
    assert np.abs(found.error).max() <= out["after"].sup_bound + noise * bound


@holds(0.5, seed=seeds, kind=kinds, width=st.integers(1, 6))
def test_views_as_maps_are_views(seed, kind, width):
    """A block by factors and the same as a map; and a coarser view sees the sum of a finer one."""
    rng = np.random.default_rng(seed)
    P = laws(rng, kind, 6, 6)
    chain = je.PairChain.from_matrix(P, sizes=(2, 3))
    law = jnp.asarray(laws(rng, "dense", 6))
    blocks = je.with_views(chain, [(0, 1), 1])
    codes = [np.asarray(blocks.view(i).lift(jnp.arange(n))) for i, n in enumerate((6, 3))]
    maps = je.with_views(chain, codes)
    assert maps.view_sizes == blocks.view_sizes
    coarse = rng.integers(0, width, 3)
    seen = je.with_views(chain, [coarse[codes[1]], codes[1]])
    rows, fine = je.view_transition(seen, agent=0), je.view_transition(seen, agent=1)
    for i in range(2):
        a, b = (je.local_transition(c, law, agent=i) for c in (maps, blocks))
        np.testing.assert_allclose(a, b, atol=1e-12)
    merged = np.zeros(rows.shape)
    for x, y in enumerate(coarse):
        merged[:, y] += np.asarray(fine)[:, x]
    np.testing.assert_allclose(rows, merged, atol=1e-12)
