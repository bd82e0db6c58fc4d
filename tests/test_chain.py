import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.numerics.kron import kron

from . import oracles
from .tolerances import EXACT

SHAPES = [((3, 2), (2, 3)), ((2, 3, 2), (2, 1, 3)), ((2, 2, 3, 2), (1, 2, 2, 2))]


def weakly_coupled(states, actions, seed=0, discount=0.9):
    rng = np.random.default_rng(seed)
    agents = tuple(
        je.MDP(
            jnp.array(oracles.random_stochastic(rng, s, a, s)), jnp.array(rng.normal(size=(s, a)))
        )
        for s, a in zip(states, actions)
    )
    policy = jnp.array(oracles.random_policy(rng, states, actions))
    return je.WeaklyCoupledMDP(agents, discount), policy


def joint(mdp):
    """The same model, its kernel as one table."""
    n = len(mdp.agents)
    table = 1.0
    for i, agent in enumerate(mdp.agents):
        shape = [1] * (3 * n)
        shape[i], shape[n + i], shape[2 * n + i] = agent.transition.shape
        table = table * agent.transition.reshape(shape)
    return je.JointMDP(table, mdp.rewards, mdp.discount)


@jax.jit
def applied(chain, v):
    return chain.matrix(), chain.mv(v), chain.vm(v)


@pytest.mark.parametrize(("states", "actions"), SHAPES)
def test_structured_equals_dense(states, actions):
    mdp, policy = weakly_coupled(states, actions)
    chain, dense = je.pair_chain(mdp, policy), je.pair_chain(joint(mdp), policy)
    P = oracles.weakly_coupled_matrix([a.transition for a in mdp.agents], np.array(policy))
    given = je.PairChain.from_matrix(jnp.array(P), sizes=chain.sizes)
    rng = np.random.default_rng(1)
    v = jnp.array(rng.normal(size=chain.num_pairs))
    r = oracles.lift([np.ravel(a.reward) for a in mdp.agents])
    exact_q = oracles.q_values(P, r, 0.9)
    same_q = EXACT * np.abs(exact_q).max()
    here = {
        i: je.local_transition(chain, je.stationary_distribution(chain), agent=i)
        for i in {0, len(states) - 1}
    }
    for other in (chain, dense) if len(states) > 2 else (chain, dense, given):
        assert other.sizes == tuple(s * a for s, a in zip(states, actions))
        matrix, ahead, back = applied(other, v)
        np.testing.assert_allclose(matrix, P, atol=EXACT)
        np.testing.assert_allclose(ahead, P @ v, atol=EXACT)
        np.testing.assert_allclose(back, v @ P, atol=EXACT)
        mu = je.stationary_distribution(other)
        np.testing.assert_allclose(mu, oracles.stationary(P), atol=EXACT)
        q = je.q_values(other, mdp.rewards, discount=0.9)
        np.testing.assert_allclose(q, exact_q, rtol=0, atol=same_q)
        for i, local in here.items():
            np.testing.assert_allclose(
                je.local_transition(other, mu, agent=i), local, rtol=0, atol=EXACT
            )


def test_no_joint_matrix_is_formed():
    mdp, policy = weakly_coupled((4,) * 5, (2,) * 5)
    chain = je.pair_chain(mdp, policy)
    assert max(x.size for x in jax.tree.leaves(chain)) == chain.num_pairs
    jaxpr = str(jax.make_jaxpr(lambda c: je.q_values(c, mdp.rewards, discount=0.9))(chain))
    assert f"[{chain.num_pairs},{chain.num_states}]" not in jaxpr.replace("f64", "")


def test_lift_is_the_papers_sum():
    chain = je.PairChain.from_matrix(jnp.full((6, 6), 1 / 6), sizes=(2, 3))
    r_A, r_B = jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0, 30.0])
    expected = jnp.kron(r_A, jnp.ones(3)) + jnp.kron(jnp.ones(2), r_B)
    np.testing.assert_allclose(chain.lift([r_A, r_B]), expected)


def test_one_agent_and_tracing():
    rng = np.random.default_rng(0)
    R = rng.normal(size=(5, 3, 4))
    T = np.moveaxis(oracles.random_stochastic(rng, 5, 4, 3, 3), 1, 2)  # [B, S, A, S]
    pi = oracles.random_stochastic(rng, 5, 3, 4)

    def solve(T, R, pi):
        chain = je.pair_chain(je.MDP(T, R), pi)
        return je.q_values(chain, [R], discount=0.8), je.stationary_distribution(chain)

    q, mu = jax.jit(jax.vmap(solve))(*map(jnp.array, (T, R, pi)))
    for b in range(5):
        P = oracles.weakly_coupled_matrix([T[b]], pi[b])
        np.testing.assert_allclose(q[b], oracles.q_values(P, R[b].ravel(), 0.8), atol=1e-11)
        np.testing.assert_allclose(mu[b], oracles.stationary(P), atol=EXACT)


def test_from_matrix_of_kron_factors():
    rng = np.random.default_rng(0)
    A, B = (jnp.array(oracles.random_stochastic(rng, n, n)) for n in (2, 3))
    chain = je.PairChain.from_matrix(kron([A, B]), sizes=(2, 3))
    mu = je.stationary_distribution(chain)
    np.testing.assert_allclose(je.local_transition(chain, mu, agent=0), A, atol=EXACT)
    np.testing.assert_allclose(je.local_transition(chain, mu, agent=1), B, atol=EXACT)


def test_bad_input():
    mdp, policy = weakly_coupled((3, 2), (2, 2))
    half = jnp.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"policy: wanted shape \[3, 2, 2, 2\], got \[3, 2, 2\]"):
        je.pair_chain(mdp, policy[..., 0])
    with pytest.raises(ValueError, match=r"policy: row \[2, 1\] sums to 2"):
        je.pair_chain(mdp, policy.at[2, 1].multiply(2))
    bad = mdp.agents[1]._replace(transition=mdp.agents[1].transition.at[1, 0].multiply(0.5))
    with pytest.raises(ValueError, match=r"agents\[1\].transition: row \[1, 0\] sums to 0.5"):
        je.pair_chain(mdp._replace(agents=(mdp.agents[0], bad)), policy)
    with pytest.raises(ValueError, match=r"agents\[0\].reward: wanted shape \[3, 2\]"):
        je.check_mdp(mdp._replace(agents=(mdp.agents[0]._replace(reward=half), bad)))
    with pytest.raises(ValueError, match=r"discount: 1 is outside \[0, 1\)"):
        je.check_mdp(mdp._replace(discount=1.0))
    with pytest.raises(ValueError, match=r"P: wanted shape \[6, 6\], got \[4, 4\]"):
        je.PairChain.from_matrix(jnp.eye(4), sizes=(2, 3))
    with pytest.raises(ValueError, match=r"P: row \[3\] sums to 0.9"):
        je.PairChain.from_matrix(jnp.full((4, 4), 0.25).at[3, 0].add(-0.1), sizes=(2, 2))
    chain = je.PairChain.from_matrix(jnp.full((4, 4), 0.25), sizes=(2, 2))
    with pytest.raises(ValueError, match="functions: wanted one for each of 2 views, got 1"):
        chain.lift([jnp.ones(2)])
    with pytest.raises(ValueError, match=r"functions\[1\]: wanted 2 values"):
        chain.lift([jnp.ones(2), jnp.ones(3)])
    with pytest.raises(ValueError, match="agent: 2 is not one of the views"):
        je.marginal(chain, jnp.full(4, 0.25), agent=2)


def test_a_model_and_a_policy_of_two_precisions():
    """Rows that are laws in float32 alone are refused, with what to do."""
    with jax.enable_x64(True):
        double, policy = weakly_coupled((3, 2), (2, 2))
        single = double._replace(
            agents=jax.tree.map(lambda x: x.astype(jnp.float32), double.agents)
        )
        with pytest.raises(ValueError, match="float32 and float64, and rows that sum to 1 in"):
            je.pair_chain(single, policy)
        solve = jax.jit(
            lambda p: je.solve_q(je.pair_chain(single, p), double.rewards, discount=0.9)
        )
        assert not solve(policy).converged
        sure = jnp.zeros(policy.shape, jnp.float32).at[..., 0, 0].set(1)
        for model in (single, double):  # rows that are laws in both serve
            found = je.q_values(je.pair_chain(model, sure), model.rewards, discount=0.9)
            assert found.dtype == model.rewards[0].dtype
            assert jnp.isfinite(found).all()


def test_a_bad_policy_inside_jit_gives_nan():
    mdp, policy = weakly_coupled((3, 2), (2, 2))

    @jax.jit
    def solve(policy):
        chain = je.pair_chain(mdp, policy)
        q = je.solve_q(chain, mdp.rewards, discount=0.9)
        return q, je.solve_law(chain)

    for bad in (policy.at[0, 0].multiply(1.1), policy.at[1, 1, 0, 0].set(jnp.nan)):
        for solution in solve(bad):
            assert jnp.isnan(solution.value).all()
            assert not solution.converged
    for solution in solve(policy):
        assert solution.converged
