import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from benchmarks.growth import rss
from jaxent.values.bellman import solve_direct, solve_iterative

from . import oracles
from .test_chain import weakly_coupled
from .tolerances import F32, FD, SOLVE, by_precision


def test_joint_reward_or_a_sequence():
    mdp, policy = weakly_coupled((3, 2), (2, 2))
    chain = je.pair_chain(mdp, policy)
    q = je.q_values(chain, mdp.rewards, discount=0.9)
    total = chain.lift(mdp.rewards)
    for reward in (total, total.reshape(chain.sizes)):
        np.testing.assert_allclose(je.q_values(chain, reward, discount=0.9), q)
    flat = [r.ravel() for r in mdp.rewards]
    np.testing.assert_allclose(je.q_values(chain, flat, discount=0.9), q)


def test_matrix_free_equals_elimination():
    mdp, policy = weakly_coupled((3, 2, 2), (2, 2, 2))
    chain = je.pair_chain(mdp, policy)
    for discount in (0.0, 0.9, 0.999):
        direct = solve_direct(chain, mdp.rewards, discount=discount)
        free = solve_iterative(chain, mdp.rewards, discount=discount)
        assert direct.converged
        assert free.converged
        np.testing.assert_allclose(free.value, direct.value, rtol=SOLVE, atol=SOLVE)


def test_an_unmet_tolerance_is_no_answer():
    mdp, policy = weakly_coupled((3, 2, 2), (2, 2, 2))
    chain = je.pair_chain(mdp, policy)
    solution = solve_iterative(chain, mdp.rewards, discount=0.9, tol=1e-40)
    assert not solution.converged
    assert jnp.isnan(solution.value).all()
    assert solution.residual < SOLVE


def test_appendix_b_state_values_need_state_rewards():
    """V is additive where rewards depend on states alone, and not where they read actions.

    The policy activates agent 0 in joint states of even sum and agent 1 in the others, each moves
    on its own whatever the action: the state chain is a product, so values decompose if Π r does.
    """
    S = 2
    rng = np.random.default_rng(0)
    kernels = [np.repeat(oracles.random_stochastic(rng, S, 1, S), 2, 1) for _ in range(2)]
    policy = np.zeros((S, S, 2, 2))
    for s in np.ndindex(S, S):
        policy[s][(1, 0) if sum(s) % 2 == 0 else (0, 1)] = 1
    state_only = [np.repeat(rng.normal(size=(S, 1)), 2, 1) for _ in range(2)]
    with_action = [r + np.array([[0.0, d]]) for r, d in zip(state_only, (1, -1))]

    def gap(rewards):
        agents = tuple(je.MDP(jnp.array(k), jnp.array(r)) for k, r in zip(kernels, rewards))
        chain = je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), jnp.array(policy))
        V = je.state_values(chain, tuple(a.reward for a in agents), discount=0.9)
        V = np.array(V).reshape(S, S)
        return np.abs(V - V.mean(0) - V.mean(1, keepdims=True) + V.mean()).max()

    assert gap(state_only) < SOLVE
    assert gap(with_action) > 0.1


@pytest.mark.slow  # time and memory want optimized code and a process of their own
def test_eight_agents_matrix_free():
    """65,536 joint states and 16.7 million pairs: 3 GiB, residual 1e-8."""
    # The memory of a process is its most ever, so it has one of its own.
    code = "import tests.conftest, tests.test_bellman as t; t.eight_agents()"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    residual, memory = map(float, done.stdout.split())
    assert residual < 1e-8
    assert memory < 3 * 2**30


def eight_agents():
    """Prints the residual of Q, and the most bytes held, drawing the policy included."""
    mdp, policy = weakly_coupled((4,) * 8, (2,) * 8, discount=0.95)
    chain = je.pair_chain(mdp, policy)
    solution = jax.jit(lambda c: je.solve_q(c, mdp.rewards, discount=0.95))(chain)
    assert solution.converged
    q = solution.value
    residual = jnp.abs(chain.lift(mdp.rewards) + 0.95 * chain.mv(q) - q).max()
    print(residual, rss())


def thousand(batch=1000, num_states=20, num_actions=4, seed=0):
    rng = np.random.default_rng(seed)
    T = oracles.random_stochastic(rng, batch, num_states, num_actions, num_states)
    R = rng.normal(size=(batch, num_states, num_actions))
    return T, R, oracles.random_stochastic(rng, batch, num_states, num_actions)


@jax.jit
@jax.vmap
def evaluate(T, R, pi):
    chain = je.pair_chain(je.MDP(T, R), pi)
    return je.q_values(chain, [R], discount=0.95), je.stationary_distribution(chain)


def evaluate_numpy(T, R, pi):
    P, r = np.einsum("bsa,bsat->bst", pi, T), np.einsum("bsa,bsa->bs", pi, R)
    eye = np.eye(T.shape[1])
    V = np.linalg.solve(eye - 0.95 * P, r[..., None])[..., 0]
    A = eye - np.swapaxes(P, 1, 2)
    A[:, -1] = 1
    b = np.zeros((len(T), len(eye), 1))
    b[:, -1] = 1
    mu = np.linalg.solve(A, b)[..., 0]
    return R + 0.95 * np.einsum("bsat,bt->bsa", T, V), mu[..., None] * pi


@pytest.mark.slow
def test_a_thousand_problems_at_once():
    """The answers of NumPy's batched solver; `benchmarks.batches` sets the times side by side."""
    problems = thousand()
    for ours, theirs in zip(evaluate(*map(jnp.array, problems)), evaluate_numpy(*problems)):
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=SOLVE)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_three_thousand_calls_do_not_hang():
    """Batched LAPACK deadlocks now and then: there is none in the program, forward or backward."""
    arrays = tuple(map(jnp.array, thousand(batch=64)))

    def loss(T, R, pi):
        q, mu = evaluate(T, R, pi)
        return (q * mu).sum()

    for f in (evaluate, jax.jit(jax.grad(loss, argnums=(0, 2)))):
        program = f.lower(*arrays).compile().as_text()
        assert "custom-call" not in program or "lapack" not in program
    for _ in range(3000):
        jax.block_until_ready(evaluate(*arrays))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_three_thousand_calls_of_a_thousand_do_not_hang():
    arrays = tuple(map(jnp.array, thousand()))
    for _ in range(3000):
        jax.block_until_ready(evaluate(*arrays))


def test_gradients():
    mdp, policy = weakly_coupled((2, 3), (2, 2))
    rng = np.random.default_rng(0)
    d, w = jnp.array(rng.normal(size=policy.shape)), jnp.array(rng.normal(size=24))

    def value(t, solve):
        chain = je.pair_chain(mdp, je.softmax_policy(jnp.log(policy) + t * d))
        rewards = tuple(r * (1 + t) for r in mdp.rewards)
        return w @ solve(chain, rewards, discount=0.9 + 0.01 * t).value

    both = jax.jit(jax.value_and_grad(value), static_argnums=1)
    for solve in (solve_direct, solve_iterative):
        difference = (both(1e-5, solve)[0] - both(-1e-5, solve)[0]) / 2e-5
        np.testing.assert_allclose(both(0.0, solve)[1], difference, rtol=FD, atol=FD)


def test_float32_stays_float32():
    mdp, policy = weakly_coupled((3, 2), (2, 2))
    small = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), mdp)
    chain = je.pair_chain(small, policy.astype(jnp.float32))
    wide = je.q_values(je.pair_chain(mdp, policy), mdp.rewards, discount=0.9)
    for solve in (solve_direct, solve_iterative):
        q = solve(chain, small.rewards, discount=0.9).value
        assert q.dtype == jnp.float32
        np.testing.assert_allclose(q, wide, rtol=F32, atol=F32 * np.abs(wide).max())


def test_bad_input():
    mdp, policy = weakly_coupled((3, 2), (2, 2))
    chain = je.pair_chain(mdp, policy)
    for solve in (je.q_values, je.solve_q, je.local_q_values, je.decompose):
        with pytest.raises(ValueError, match=r"discount: 1 is outside \[0, 1\)"):
            solve(chain, mdp.rewards, discount=1.0)
    assert jnp.isnan(jax.jit(lambda g: je.q_values(chain, mdp.rewards, discount=g))(1.0)).all()
    with pytest.raises(ValueError, match="rewards: wanted one for each of 2 views, got 1"):
        je.q_values(chain, mdp.rewards[:1], discount=0.9)
    with pytest.raises(ValueError, match=r"rewards\[1\]: wanted 4 values"):
        je.q_values(chain, (mdp.rewards[0], jnp.ones(3)), discount=0.9)
    with pytest.raises(ValueError, match=r"rewards: wanted a sequence of 2 local rewards"):
        je.q_values(chain, jnp.ones(5), discount=0.9)
    with pytest.raises(ValueError, match=r"rewards\[0\]\[1, 0\] is nan"):
        je.q_values(chain, (mdp.rewards[0].at[1, 0].set(jnp.nan), mdp.rewards[1]), discount=0.9)


@pytest.mark.parametrize("discount", [0.9, 0.99999])
def test_nearly_decomposable_chains_entry_by_entry(discount):
    discount, near = float(jnp.asarray(discount)), by_precision(1e-10, 2e-6)  # as it is held
    rng = np.random.default_rng(5)
    exact = oracles.nearly_decomposable(rng, 2, 3, Fraction(1, 10**12))
    P = jnp.array([[float(p) for p in row] for row in exact])
    chain = je.PairChain.from_matrix(P, sizes=(2, 3))
    rewards = [[Fraction(int(k), 8) for k in rng.integers(1, 99, n)] for n in (2, 3)]
    joint = [a + b for a in rewards[0] for b in rewards[1]]
    values = [float(v) for v in oracles.exact_values(exact, joint, Fraction(discount))]
    local = [jnp.array([float(r) for r in reward]) for reward in rewards]
    found = np.asarray(je.q_values(chain, local, discount=discount), float)
    np.testing.assert_allclose(found, values, rtol=near)
    law = [float(p) for p in oracles.exact_law(exact)]
    np.testing.assert_allclose(np.asarray(je.stationary_distribution(chain), float), law, rtol=near)
