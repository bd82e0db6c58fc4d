import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains import pair_chain as chains

from . import oracles
from .reference import cases
from .test_chain import weakly_coupled
from .tolerances import FD, SOLVE, STEP, by_precision

WIDE = (jnp.float64, {"rtol": 0, "atol": 1e-10})
NARROW = (jnp.float32, {"rtol": 1e-4, "atol": 1e-6})
PRECISIONS = by_precision([WIDE, NARROW], [NARROW])


def close(given, wanted, tolerance):
    given, wanted = np.asarray(given), np.asarray(wanted)
    scale = {**tolerance, "atol": tolerance["atol"] * max(1, np.abs(wanted).max())}
    np.testing.assert_allclose(given, wanted, **scale)


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_two_agent_reference(case, dtype, tolerance):
    case = cases("two_agent")[case]
    P = np.array(case["pair_transition"], dtype)
    m = len(case["reward_a"])
    chain = je.PairChain.from_matrix(P, sizes=(m, m))
    rewards = [np.array(case[f"reward_{k}"], dtype) for k in "ab"]
    result = je.decompose(chain, rewards, discount=case["gamma"])
    assert result.error.dtype == dtype
    close(result.mu, case["stationary"], tolerance)
    close(result.q_joint, case["q_joint"], tolerance)
    for i, k in enumerate("ab"):
        close(je.local_transition(chain, result.mu, agent=i), case[f"local_{k}"], tolerance)
        close(result.q_local[i], case[f"q_{k}"], tolerance)
    # Errors are differences of values, so in float32 their scale is that of the values.
    slack = tolerance["rtol"] * np.abs(case["q_joint"]).max() + tolerance["atol"]
    assert abs(float(result.sup_error) - case["sup_error"]) < slack
    assert abs(float(result.mu_error) - case["mu_error"]) < slack


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_weakly_coupled_reference(case, dtype, tolerance):
    case = cases("weakly_coupled")[case]
    kernels = np.moveaxis(np.array(case["transitions"], dtype), 1, 2)  # [N, S, A, S]
    agents = tuple(je.MDP(k, np.array(r, dtype)) for k, r in zip(kernels, case["rewards"]))
    mdp = je.WeaklyCoupledMDP(agents, case["gamma"])
    chain = je.pair_chain(mdp, np.array(case["policy"], dtype))
    result = je.decompose(chain, mdp.rewards, discount=case["gamma"])
    close(result.mu, case["stationary"], tolerance)
    close(result.q_joint, case["q_joint"], tolerance)
    close(np.stack(result.q_local), case["q_local"], tolerance)
    for i, wanted in enumerate(case["local_transitions"]):
        close(je.local_transition(chain, result.mu, agent=i), wanted, tolerance)
    slack = tolerance["rtol"] * np.abs(case["q_joint"]).max() + tolerance["atol"]
    assert abs(float(result.sup_error) - case["sup_error"]) < slack
    assert abs(float(result.mu_error) - case["mu_error"]) < slack
    assert abs(float(result.relative_error) - case["relative_error"]) < slack


def separable(rng, sizes):
    """A random separable matrix with a negative weight, and its local transitions."""
    terms = [[oracles.random_stochastic(rng, n, n) for n in sizes] for _ in range(4)]
    products = []
    for factors in terms:
        P = factors[0]
        for factor in factors[1:]:
            P = np.kron(P, factor)
        products.append(P)
    convex = sum(products[:3]) / 3
    t = 0.9 * (convex / products[3]).min()  # as much of the last as may be taken off
    weights = np.array([1 / 3, 1 / 3, 1 / 3, -t]) / (1 - t)
    P = sum(w * p for w, p in zip(weights, products))
    local = [sum(w * f[i] for w, f in zip(weights, terms)) for i in range(len(sizes))]
    return P / P.sum(1, keepdims=True), local


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (4, 3), (2, 3, 2)])
def test_theorem_1(sizes):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        P, local = separable(rng, sizes)
        chain = je.PairChain.from_matrix(jnp.array(P), sizes=sizes)
        rewards = [jnp.array(rng.normal(size=n)) for n in sizes]
        result = je.decompose(chain, rewards, discount=0.95)
        assert result.sup_error < by_precision(1e-10, 2e-5)
        for i, wanted in enumerate(local):
            given = je.local_transition(chain, result.mu, agent=i)
            np.testing.assert_allclose(given, wanted, atol=SOLVE)


@pytest.mark.parametrize("route", ["dense", "matrix-free"])
def test_gradients_are_finite_differences(route, monkeypatch):
    if route == "matrix-free":
        monkeypatch.setattr(chains, "_SMALL_STATES", 0)
    mdp, policy = weakly_coupled((2, 3), (2, 2))
    rng = np.random.default_rng(1)
    point = {
        "logits": jnp.log(policy),
        "kernels": tuple(jnp.log(a.transition) for a in mdp.agents),
        "rewards": mdp.rewards,
    }

    @jax.jit
    @jax.value_and_grad
    def error(point):
        agents = tuple(
            je.MDP(jax.nn.softmax(k, axis=-1), r)
            for k, r in zip(point["kernels"], point["rewards"])
        )
        chain = je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), je.softmax_policy(point["logits"]))
        return je.decomposition_error(chain, point["rewards"], discount=0.9)

    # A new function each time, so no trace of the other route is taken for this one.
    assert ("law_iterative" in str(error.trace(point).jaxpr)) == (route == "matrix-free")
    point = jax.tree.map(np.asarray, point)
    gradient = jax.tree.map(np.asarray, error(point)[1])
    for part in point:
        zero = jax.tree.map(np.zeros_like, point)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), point[part])
        direction = {**zero, part: direction}

        def along(t, direction=direction):
            return error(jax.tree.map(lambda x, d: x + t * d, point, direction))[0]

        wanted = (along(STEP) - along(-STEP)) / (2 * STEP)
        given = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
        np.testing.assert_allclose(given, wanted, atol=FD)


def test_jit_and_vmap_agree():
    mdp, policy = weakly_coupled((2, 2), (2, 2))
    other = je.softmax_policy(jnp.arange(16.0).reshape(2, 2, 2, 2) % 5)

    def error(policy):
        return je.decomposition_error(je.pair_chain(mdp, policy), mdp.rewards, discount=0.9)

    batch = jax.jit(jax.vmap(error))(jnp.stack([policy, other]))
    np.testing.assert_allclose(batch, [error(policy), error(other)], atol=SOLVE)
