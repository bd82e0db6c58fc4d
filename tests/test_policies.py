import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from .test_chain import weakly_coupled
from .tolerances import EXACT


def test_product_policy():
    a, b = jnp.array([[0.25, 0.75], [1.0, 0.0]]), jnp.array([[0.1, 0.2, 0.7]])
    table = je.product_policy([a, b])
    assert table.shape == (2, 1, 2, 3)
    np.testing.assert_allclose(table[0, 0], np.outer([0.25, 0.75], [0.1, 0.2, 0.7]))


def test_shared_randomness_is_example_1():
    table = je.shared_randomness((3, 2))
    for state in np.ndindex(3, 2):
        np.testing.assert_allclose(table[state], [[0, 0.5], [0.5, 0]])
    three = je.shared_randomness((1, 1, 1), 2)[0, 0, 0]
    assert three[1, 1, 0] == three[0, 1, 1] == three[1, 0, 1]
    np.testing.assert_allclose(three.sum(), 1)


def test_index_policy_breaks_ties_uniformly():
    table = je.index_policy((2, 0, 1), num_agents=3, budget=2)  # state 2 first, then 0, then 1
    np.testing.assert_allclose(table[2, 1, 0], np.eye(8)[0b101].reshape(2, 2, 2))
    tie = np.zeros((2, 2, 2))
    tie[1, 0, 1] = tie[1, 1, 0] = 0.5  # agent 0 in state 2, agents 1 and 2 tied in state 1
    np.testing.assert_allclose(table[2, 1, 1], tie)
    np.testing.assert_allclose(table.sum((3, 4, 5)), 1)
    for budget in (0, 3):
        all_or_none = je.index_policy((0, 1), num_agents=3, budget=budget)
        np.testing.assert_array_equal(all_or_none[..., *([int(budget == 3)] * 3)], 1)


def test_softmax_policy():
    mdp, _ = weakly_coupled((2, 3), (2, 2))
    costs = tuple(jnp.array([[0.0, 1.0]] * s) for s in (2, 3))
    mdp = mdp._replace(couplings=(je.Coupling(costs, 1.0),))
    mask = je.feasible_actions(mdp)
    np.testing.assert_array_equal(
        mask, np.broadcast_to([[True, True], [True, False]], (2, 3, 2, 2))
    )
    logits = jnp.array(np.random.default_rng(0).normal(size=(2, 3, 2, 2)))
    table = je.softmax_policy(logits, feasible=mask)
    np.testing.assert_allclose(table.sum((2, 3)), 1, atol=EXACT)
    assert (table[..., 1, 1] == 0).all()
    je.pair_chain(mdp, table)
    gradient = jax.grad(lambda x: je.softmax_policy(x, feasible=mask)[0, 0, 0, 1])(logits)
    assert jnp.isfinite(gradient).all()
    assert gradient[0, 0, 0, 1] > 0


def test_infeasible_policies_are_refused():
    mdp, policy = je.example_1()
    je.pair_chain(mdp, policy)
    both = jnp.zeros_like(policy).at[..., 1, 1].set(1.0)
    message = r"policy: puts probability 1 on action \[1, 1\] in state \[0, 0\]"
    with pytest.raises(ValueError, match=message):
        je.pair_chain(mdp, both)
    solve = jax.jit(lambda pi: je.solve_law(je.pair_chain(mdp, pi)))
    assert not solve(both).converged
    assert jnp.isnan(solve(both).value).all()
    assert solve(policy).converged


def test_bad_input():
    with pytest.raises(ValueError, match=r"priority: \[0, 0\] is not a permutation"):
        je.index_policy((0, 0), num_agents=2, budget=1)
    with pytest.raises(ValueError, match=r"budget: 3 is not an integer in 0..2"):
        je.index_policy((0, 1), num_agents=2, budget=3)
    with pytest.raises(ValueError, match=r"policies\[1\]: row \[0\] sums to 2"):
        je.product_policy([jnp.eye(2), jnp.ones((1, 2))])
    mdp, _ = je.example_1()
    short = mdp._replace(couplings=(je.Coupling(mdp.couplings[0].costs[:1], 1),))
    with pytest.raises(ValueError, match=r"couplings\[0\].costs: wanted one table for each of 2"):
        je.check_mdp(short)
