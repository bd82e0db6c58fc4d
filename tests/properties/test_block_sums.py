"""Properties of sums of functions of blocks of agents."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT, by_precision

from .. import oracles_ladder as oracles
from .strategies import few, holds, kinds, laws, numbers, scales, seeds
from .test_chains import chain_of

NEAR = by_precision(1e-9, 1e-4)  # of a value
NOTHING = by_precision(1e-10, 1e-4)
STEADY = by_precision(1e-11, 1e-5)

SIZES = ((2, 2, 2), (3, 2, 2), (2, 2, 2, 2))


def solved(seed, kind, sizes, scale):
    """A chain with its law, local rewards, a joint one, or None where the law is not unique."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    law = je.solve_law(chain_of(P, sizes))
    rewards = [numbers(rng, scale, n) for n in sizes]
    return (P, np.asarray(law.value), rewards, numbers(rng, scale, J)) if law.converged else None


@holds(
    4, seed=seeds, kind=kinds, sizes=few(*SIZES), scale=scales, discount=st.sampled_from([0.5, 0.9])
)
def test_best_sums_never_grow_with_their_blocks(seed, kind, sizes, scale, discount):
    """In L2(mu), for k = 1, .., N and along any graph; no learned sum is better; N is exact."""
    made = solved(seed, kind, sizes, scale)
    if made is None:
        return
    P, mu, _, reward = made
    n, chain = len(sizes), chain_of(P, sizes)
    q = np.linalg.solve(np.eye(len(P)) - discount * P, reward)
    options = {"discount": discount, "mu": mu}
    unit = scale / (1 - discount)
    errors = []
    for k in range(1, n + 1):
        found = je.fit_blocks(chain, reward, k, **options)
        assert isinstance(found, je.BlockSum)
        errors.append(float(found.l2_error))
        left = np.sqrt(mu @ (q - np.asarray(found.q_total)) ** 2)
        np.testing.assert_allclose(errors[-1], left, atol=NEAR * unit)
    assert (np.diff(errors) <= STEADY * unit).all()
    assert errors[-1] <= NOTHING * unit
    seen = mu > 0
    np.testing.assert_allclose(np.asarray(found.q_total)[seen], q[seen], atol=NOTHING * unit)
    rng = np.random.default_rng(seed)
    pairs = list(combinations(range(n), 2))
    graph = [pairs[i] for i in rng.permutation(len(pairs))[:2]]
    steps = [je.fit_blocks(chain, reward, graph[:m], **options).l2_error for m in range(3)]
    assert (np.diff(steps) <= STEADY * unit).all()
    assert errors[1] - STEADY * unit <= steps[2]
    np.testing.assert_allclose(steps[0], errors[0], atol=STEADY * unit)
    best = je.best_graph(chain, reward, num_pairs=2, **options)
    assert isinstance(best, je.Graph)
    assert best.exact
    assert (np.diff(best.errors) <= STEADY * unit).all()
    assert best.errors[2] <= steps[2] + STEADY * unit
    np.testing.assert_allclose(best.errors[2], best.fit.l2_error, atol=NEAR * unit)


@holds(
    4, seed=seeds, kind=kinds, sizes=few(*SIZES), scale=scales, discount=st.sampled_from([0.5, 0.9])
)
def test_what_blocks_learn_is_bounded_by_how_far_they_are_from_moving_alone(
    seed, kind, sizes, scale, discount
):
    """Statement 3 of the page, term by term in NumPy; N is exact; spread rewards add up."""
    made = solved(seed, kind, sizes, scale)
    if made is None:
        return
    P, mu, rewards, _ = made
    n, chain, seen = len(sizes), chain_of(P, sizes), mu > 0
    joint = sum(oracles.lifted(sizes, (i,)) @ r for i, r in enumerate(rewards))
    q = np.linalg.solve(np.eye(len(P)) - discount * P, joint)
    unit = scale / (1 - discount)
    options = {"discount": discount, "mu": mu}
    for k in range(1, n + 1):
        found = je.block_values(chain, rewards, k, **options)
        bound = 0
        for block, function in zip(found.blocks, found.q_blocks):
            B = oracles.lifted(sizes, block)
            flow = B.T @ (mu[:, None] * P) @ B
            out = flow.sum(1, keepdims=True)
            alone = np.where(out > 0, flow / np.where(out > 0, out, 1), np.eye(len(flow)))
            far = (np.abs(P @ B - B @ alone).sum(1) / 2)[seen].max()
            values = np.asarray(function)[(B.T @ mu) > 0]
            bound += discount / (1 - discount) * far * np.ptp(values)
        error = np.abs(q - np.asarray(found.q_total))[seen].max()
        assert error <= bound + NEAR * unit
        assert found.error.sup_lower <= error + NEAR * unit
        best = je.fit_blocks(chain, jnp.asarray(joint), k, **options)
        assert best.l2_error <= found.l2_error + NEAR * unit
    assert error <= NOTHING * unit
    pairs = list(combinations(range(n), 2))
    spread = je.spread_rewards(chain, rewards, pairs)
    total = je.with_views(chain, pairs).lift(spread)
    np.testing.assert_allclose(total, joint, atol=EXACT * max(scale, 1e-300))
