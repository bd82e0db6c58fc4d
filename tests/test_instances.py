"""The paper's examples, and the mistakes in the paper that docs/errata.md lists."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from .tolerances import EXACT, SOLVE, by_precision

E = [np.array(e, float) for e in ([[1, 0], [1, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 0]])]
E11 = np.array([[0.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize(("num_agents", "num_active"), [(2, 1), (3, 1), (3, 2)])
def test_example_1_is_coupled_and_not_entangled(num_agents, num_active):
    mdp, policy = je.example_1(num_agents, num_active)
    chain = je.pair_chain(mdp, policy)
    assert je.is_separable(chain)
    result = je.decompose(chain, mdp.rewards, discount=mdp.discount)
    assert result.sup_error < SOLVE
    assert result.visited.sum() < chain.num_pairs  # the coupling leaves joint pairs out
    terms = je.separable_decomposition(chain)
    assert (terms.weights > 0).all()  # Eq. (3): one term for each set of active agents


def test_example_1_is_equation_3():
    mdp, policy = je.example_1()
    kernels = [np.array(agent.transition).reshape(4, 2) for agent in mdp.agents]
    fixed = [[np.kron(k, np.eye(2)[a]) for a in (0, 1)] for k in kernels]  # always take action a
    P = (np.kron(fixed[0][0], fixed[1][1]) + np.kron(fixed[0][1], fixed[1][0])) / 2
    np.testing.assert_allclose(je.pair_chain(mdp, policy).matrix(), P, atol=EXACT)


def test_appendix_c():
    P = np.array(je.pr_box())
    half = np.kron(E[0], E[0]) + np.kron(E[2], E11) + np.kron(E11, E[2]) - np.kron(E[2], E[2])
    np.testing.assert_allclose(P, half / 2, atol=EXACT)
    chain = je.PairChain.from_matrix(je.pr_box(), sizes=(2, 2))
    terms = je.separable_decomposition(chain)
    assert len(terms.weights) == 4
    assert terms.weights.min() < 0


def test_p_sep_plus_is_a_strict_subset_of_p_sep():
    """Sec. 3.3 prints that P_SEP+ is not a subset of P_SEP."""
    box = je.PairChain.from_matrix(je.pr_box(), sizes=(2, 2))
    assert je.is_separable(box)
    assert not je.is_convexly_separable(box)
    for f, g in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
        vertex = np.kron(np.eye(2)[list(f)], np.eye(2)[list(g)])
        assert je.is_separable(je.PairChain.from_matrix(jnp.array(vertex), sizes=(2, 2)))


def test_appendix_d_basis_of_stochastic_matrices():
    """Lemma 3 prints Z_ij whose rows sum to 2; the dimension it states is right."""
    m = 4
    printed = np.eye(m)
    printed[0, 1] = 1
    assert printed.sum(1).max() == 2
    basis = [np.eye(m)]
    for i, j in itertools.permutations(range(m), 2):
        Z = np.eye(m)
        Z[i] = np.eye(m)[j]
        basis.append(Z)
    stack = np.stack(basis).reshape(len(basis), -1)
    assert len(basis) == m * m - m + 1 == np.linalg.matrix_rank(stack)
    assert all((Z.sum(1) == 1).all() for Z in basis)
    random = np.random.default_rng(0).dirichlet(np.ones(m), size=m).ravel()
    assert np.linalg.matrix_rank(np.vstack([stack, random])) == len(basis)


def test_appendix_e_as_printed_is_not_stochastic():
    delta, e, eps = 0.2, np.ones((2, 1)), np.array([[1.0], [-1.0]])
    printed = np.kron(e @ e.T, e @ e.T) / 4 + delta * np.kron(eps @ e.T, eps @ e.T)
    np.testing.assert_allclose(np.unique(printed.sum(1).round(12)), [1 - 4 * delta, 1 + 4 * delta])


def test_appendix_e_is_entangled_yet_decomposable():
    delta, discount = 0.2, 0.9
    P = np.array(je.appendix_e(delta))
    chain = je.PairChain.from_matrix(je.appendix_e(delta), sizes=(2, 2))
    assert not je.is_separable(chain)
    uniform = np.full((4, 4), 0.25)
    np.testing.assert_allclose(P @ P, uniform, atol=EXACT)
    inverse = np.eye(4) + discount * P + discount**2 / (1 - discount) * uniform
    found = np.linalg.inv(np.eye(4) - discount * P)
    np.testing.assert_allclose(found, inverse, atol=by_precision(1e-11, 1e-5))
    rng = np.random.default_rng(0)
    r_A, r_B = rng.normal(size=(2, 2))
    Q = np.array(je.q_values(chain, [jnp.array(r_A), jnp.array(r_B)], discount=discount))
    Q = Q.reshape(2, 2)
    additive = Q.mean(0) + Q.mean(1, keepdims=True) - Q.mean()
    np.testing.assert_allclose(Q, additive, atol=1e-11)
    # The part of A's function that B's reward moves: 2 delta discount (ε'r_B) ε.
    own = r_A - r_A.mean()
    moved = 2 * delta * discount * (r_B[0] - r_B[1]) * np.array([1, -1])
    np.testing.assert_allclose(Q.mean(1) - Q.mean(), own + moved, atol=1e-11)
    assert je.separability_witness(chain, discount=discount).violation > 0.1
    with pytest.raises(ValueError, match=r"delta: 0\.3 is outside"):
        je.appendix_e(0.3)


def test_three_agents_agentwise_but_not_separable():
    """Theorem 2's necessity is for two agents: with three, every E_i = 0 already suffices."""
    chain = je.PairChain.from_matrix(je.three_agents(), sizes=(2, 2, 2))
    assert je.is_agentwise_separable(chain)
    assert not je.is_separable(chain)
    with pytest.raises(ValueError, match=r"pair of agent 2 by up to 0\.25"):
        je.separable_decomposition(chain)
    rng = np.random.default_rng(0)
    rewards = [jnp.array(rng.normal(size=2)) for _ in range(3)]
    assert je.decompose(chain, rewards, discount=0.9).sup_error < SOLVE
