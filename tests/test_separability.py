from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import oracles, oracles_ladder
from .test_decomposition import separable
from .tolerances import EXACT, FD, STEP, by_precision

FAIR = by_precision(1e-9, 1e-3)  # of a violation, which is a difference of values
NOTHING = by_precision(1e-9, 1e-5)


def chain_of(P, sizes):
    return je.PairChain.from_matrix(jnp.asarray(P), sizes=sizes)


def recompose(terms):
    """Σ_k weights[k] ⊗_i factors[i][k]."""
    rows = zip(terms.weights, *terms.factors)
    return sum(w * reduce(np.kron, matrices) for w, *matrices in rows)


def schmidt_rank(P, m):
    rows = len(P) // m
    R = P.reshape(m, rows, m, rows).transpose(0, 2, 1, 3).reshape(m * m, rows * rows)
    return np.linalg.matrix_rank(R, tol=by_precision(1e-10, 1e-5))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (3, 4), (2, 2, 2), (3, 2, 2)])
def test_decomposition_of_separable_chains(sizes):
    for seed in range(3):
        P, _ = separable(np.random.default_rng(seed), sizes)
        chain = chain_of(P, sizes)
        assert je.is_separable(chain)
        assert jax.jit(je.is_separable)(chain)
        assert je.is_agentwise_separable(chain)
        terms = je.separable_decomposition(chain)
        np.testing.assert_allclose(recompose(terms), P, atol=EXACT)
        np.testing.assert_allclose(terms.weights.sum(), 1, atol=EXACT)
        for stack in terms.factors:
            assert (stack >= 0).all()
            np.testing.assert_allclose(stack.sum(-1), 1, atol=EXACT)
        if len(sizes) == 2:
            assert len(terms.weights) <= schmidt_rank(P, sizes[0]) + 1
            assert (terms.weights < 0).sum() <= 1


def test_product_has_one_term():
    rng = np.random.default_rng(0)
    A, B = oracles.random_stochastic(rng, 3, 3), oracles.random_stochastic(rng, 2, 2)
    terms = je.separable_decomposition(chain_of(np.kron(A, B), (3, 2)))
    np.testing.assert_allclose(terms.weights, [1], atol=EXACT)
    np.testing.assert_allclose(terms.factors[0][0], A, atol=EXACT)


def test_entangled_chains_are_refused():
    P = oracles.random_stochastic(np.random.default_rng(0), 6, 6)
    chain = chain_of(P, (2, 3))
    assert not je.is_separable(chain)
    assert not je.is_agentwise_separable(chain)
    with pytest.raises(ValueError, match="depend on the pair of agent"):
        je.separable_decomposition(chain)
    assert je.is_separable(chain, tol=1.0)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 2, 2)])
def test_convex_mixtures(sizes):
    rng = np.random.default_rng(1)
    products = [
        reduce(np.kron, [oracles.random_stochastic(rng, n, n) for n in sizes]) for _ in range(3)
    ]
    P = np.mean(products, 0)
    chain = chain_of(P, sizes)
    assert je.is_convexly_separable(chain)
    found = je.convex_separation(chain)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(recompose(found), P, atol=by_precision(1e-8, EXACT))


def test_bell_inequality_separates():
    """On entangled chains too: the dual bounds every product and is broken by the distance."""
    rng = np.random.default_rng(2)
    for P in (np.array(je.pr_box()), oracles.random_stochastic(rng, 4, 4)):
        found = je.convex_separation(chain_of(P, (2, 2)))
        assert found.distance > 0.1
        value = (found.inequality * P).sum()
        np.testing.assert_allclose(value, found.bound + found.distance, atol=1e-8)
        np.testing.assert_allclose(np.abs(P - recompose(found)).sum(), found.distance, atol=1e-8)
        for _ in range(200):
            A, B = (oracles.random_stochastic(rng, 2, 2).round() for _ in range(2))
            assert (found.inequality * np.kron(A, B)).sum() <= found.bound + 1e-9


def test_too_many_vertices():
    P = jnp.full((25, 25), 1 / 25)
    with pytest.raises(ValueError, match="9765625 products"):
        je.is_convexly_separable(chain_of(P, (5, 5)))


def best_fit(P, rewards, discount, sizes):
    """Least squares over local functions that see only their own reward, for r and -r.

    The agent with reward v fits q(v) and q(-v); the other, whose reward is 0 both times, has one
    function for both.
    """
    m, n = sizes
    active = int(np.abs(rewards[1]).max() > np.abs(rewards[0]).max())
    Q = oracles.q_values(P, oracles.lift(rewards), discount)
    seen = [np.kron(np.eye(m), np.ones((n, 1))), np.kron(np.ones((m, 1)), np.eye(n))]
    own, other = seen[active], seen[1 - active]
    zero = np.zeros_like(own)
    design = np.block([[own, zero, other], [zero, own, other]])
    target = np.concatenate([Q, -Q])
    left = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return np.linalg.norm(left[: m * n])


def test_theorem_2_on_random_entangled_chains():
    witness = jax.jit(lambda P: je.separability_witness(je.PairChain.from_matrix(P, sizes=(2, 3))))
    for seed in range(200):
        P = oracles.random_stochastic(np.random.default_rng(seed), 6, 6)
        found = witness(jnp.array(P))
        rewards, violation = [np.array(r) for r in found.rewards], found.violation
        assert found.order == 1
        np.testing.assert_allclose(oracles.lift(rewards), found.reward, atol=EXACT)
        np.testing.assert_allclose(max(np.abs(r).max() for r in rewards), 1)
        assert violation > 1e-3
        np.testing.assert_allclose(best_fit(P, rewards, 0.9, (2, 3)), violation, rtol=FAIR)


def test_no_witness_against_a_separable_chain():
    for sizes in ((2, 3), (2, 2, 2)):
        P, _ = separable(np.random.default_rng(0), sizes)
        assert je.separability_witness(chain_of(P, sizes)).violation < by_precision(1e-10, 1e-5)


def shown(P, sizes, found, discount=0.9):
    """What the best function of the paid agents' pairs leaves, by least squares."""
    block = np.flatnonzero(found.agents)
    reward = np.array(found.reward)
    assert len(block) == found.order
    assert found.agent not in block
    np.testing.assert_allclose(np.abs(reward).max(), 1)
    assert np.abs(oracles_ladder.left_by(sizes, block, reward[:, None])).max() < by_precision(
        1e-9, 1e-5
    )
    Q = oracles.q_values(np.asarray(P), reward, discount)
    return np.linalg.norm(oracles_ladder.left_by(sizes, block, Q[:, None]))


def test_witness_of_three_agents():
    """Agent-wise separable, entangled: a reward on two agents' pairs shows it, none on one does."""
    P = je.three_agents()
    found = je.separability_witness(chain_of(P, (2, 2, 2)))
    assert found.order == 2
    assert found.agent == 2
    np.testing.assert_array_equal(found.agents, [True, True, False])
    np.testing.assert_allclose(np.concatenate(found.rewards), 0, atol=EXACT)
    # Q = r + discount P r with P r = ±1 by agent 2's pair, and the mean given the others is r.
    np.testing.assert_allclose(found.violation, 0.9 * 8**0.5, atol=EXACT)


LADDER = ((2, 2, 2), (3, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2, 2))


@pytest.mark.parametrize("sizes", LADDER)
def test_n_agent_necessity_on_random_entangled_chains(sizes):
    """50 chains of a random order each: the witness fails by the right amount, at that order."""
    witness = jax.jit(lambda P: je.separability_witness(je.PairChain.from_matrix(P, sizes=sizes)))
    for seed in range(50):
        rng = np.random.default_rng(seed)
        order = rng.integers(0, len(sizes) - 1)
        P = oracles_ladder.chain_of_order(rng, sizes, order)
        found = witness(jnp.array(P))
        assert found.order == order + 1
        assert found.violation > 1e-3
        np.testing.assert_allclose(shown(P, sizes, found), found.violation, rtol=FAIR)
        if order:
            np.testing.assert_allclose(np.concatenate(found.rewards), 0, atol=NOTHING)
        else:
            np.testing.assert_allclose(oracles.lift(found.rewards), found.reward, atol=EXACT)


def test_witness_in_the_order_of_a_map():
    """Joint pairs numbered otherwise: the same witness, its reward numbered so too."""
    sizes = (2, 2, 2)
    P = oracles_ladder.chain_of_order(np.random.default_rng(3), sizes, 1)
    place = np.random.default_rng(0).permutation(8)
    moved = chain_of(P[np.ix_(place, place)], (8,))
    codes = np.stack(np.unravel_index(np.arange(8), sizes))[:, place]
    found = je.separability_witness(je.with_views(moved, list(codes)))
    plain = je.separability_witness(chain_of(P, sizes))
    np.testing.assert_allclose(found.violation, plain.violation, rtol=by_precision(1e-9, 1e-4))
    sign = np.sign(found.reward @ plain.reward[place])
    np.testing.assert_allclose(sign * found.reward, plain.reward[place], atol=1e-9)


@pytest.mark.parametrize("order", [0, 1])
def test_gradient_of_the_witness(order):
    """Against differences; on several agents' pairs the reward is held fixed."""
    sizes, h = (2, 2, 2), by_precision(1e-6, STEP)
    P = oracles_ladder.chain_of_order(np.random.default_rng(order), sizes, order)
    D = P @ np.diag(np.random.default_rng(9).uniform(0.5, 1.5, 8))
    D = D / D.sum(1, keepdims=True) - P
    witness = lambda t: je.separability_witness(chain_of(P + t * D, sizes))  # noqa: E731
    slope = jax.grad(lambda t: witness(t).violation)(0.0)
    assert np.isfinite(slope)
    if order == 0:
        far = [witness(t).violation for t in (-h, h)]
        np.testing.assert_allclose(slope, (far[1] - far[0]) / (2 * h), rtol=by_precision(1e-5, FD))
    if order == 1:
        found = witness(0.0)
        far = [shown(P + t * D, sizes, found) for t in (-h, h)]
        np.testing.assert_allclose(slope, (far[1] - far[0]) / (2 * h), rtol=by_precision(1e-5, FD))
