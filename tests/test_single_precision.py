"""JAX as it comes, without x64: every answer is float32, and near that of float64.

Warnings are errors, so nothing may ask for float64 either. Draws differ between the precisions, so
a sampler is compared by what its run must satisfy.
"""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

ROOT = Path(__file__).parents[1]
DISCOUNT = 0.9
NEAR = {"measures": 0.01}  # of the largest entry; 1e-4 otherwise
HOST = ("separability", "limits", "indices", "learned")  # some of it is NumPy's, in float64


def team(num_agents=2):
    """Differing agents with one joint budget, their policy and their rewards."""
    rng = np.random.default_rng(0)
    agents = tuple(
        je.MDP(rng.dirichlet(np.ones(2), (2, 2)), rng.uniform(size=(2, 2)))
        for _ in range(num_agents)
    )
    mdp = je.WeaklyCoupledMDP(agents, DISCOUNT)
    policy = je.softmax_policy(jnp.asarray(rng.normal(size=(2,) * 2 * num_agents)))
    chain = je.pair_chain(mdp, policy)
    return mdp, policy, chain, tuple(jnp.asarray(a.reward) for a in agents)


def values():
    _, _, chain, rewards = team(3)
    law = je.stationary_distribution(chain)
    return {
        "law": law,
        "solution": je.solve_q(chain, rewards, discount=DISCOUNT)[:1],
        "local": je.local_q_values(chain, rewards, discount=DISCOUNT),
        "average": je.average_reward(chain, rewards),
        "error": je.decompose(chain, rewards, discount=DISCOUNT).error,
        "transition": je.local_transition(chain, law, agent=(0, 2)),
    }


def gradients():
    mdp, _, _, rewards = team()
    family = je.joint_softmax(mdp)
    theta = jnp.sin(jnp.arange(16.0) ** 2).reshape(2, 2, 2, 2)

    def error(theta):
        chain = je.pair_chain(mdp, family.apply(theta))
        return je.decomposition_error(chain, rewards, discount=DISCOUNT)

    return jax.jit(jax.value_and_grad(error))(theta)


def measures():
    mdp, policy, chain, _ = team()

    @jax.jit
    def all_of(chain):
        mu = je.stationary_distribution(chain)
        found = {
            "tv": je.entanglement_tv(chain, tol=2e-3),
            "mu_tv": je.entanglement_mu_tv(chain, mu, tol=2e-3),
            "atv": je.entanglement_atv(chain, agent=0, tol=2e-3),
            "mu_atv": je.entanglement_mu_atv(chain, mu, agent=0, tol=2e-3),
            "eq7": je.entanglement_mu_atv_upper(chain, mu, agent=0, tol=2e-3),
            "policy": je.policy_entanglement(mdp, policy, mu, agent=0, tol=2e-3),
        }
        # What is certified is the bracket; its upper end is within `tol` of the minimum.
        return {name: (m.value, m.lower <= m.value, m.converged) for name, m in found.items()}

    return all_of(chain)


def all_bounds():
    _, _, chain, rewards = team()
    return {
        "paper": je.bounds.theorem_6(chain, rewards, discount=DISCOUNT),
        "after": je.bounds.a_posteriori(chain, rewards, discount=DISCOUNT).mu_bound,
    }


def separability():
    rng = np.random.default_rng(1)
    kernels = rng.dirichlet(np.ones(3), (2, 2, 3))
    mixed = np.tensordot([0.3, 0.7], [np.kron(*pair) for pair in kernels], 1)
    chain = je.PairChain.from_matrix(mixed, sizes=(3, 3))
    box = je.PairChain.from_matrix(je.pr_box(), sizes=(2, 2))
    terms = je.separable_decomposition(chain)
    total = sum(w * np.kron(*pair) for w, *pair in zip(terms.weights, *terms.factors))
    return {
        "are": (je.is_separable(chain), je.is_separable(box), je.is_agentwise_separable(chain)),
        "sum": total,
    }


def influence():
    _, _, chain, rewards = team(3)
    mu = je.stationary_distribution(chain)
    return je.entanglement_map(chain, mu), je.best_merge(chain, rewards, discount=DISCOUNT).bound


def descent():
    _, _, chain, _ = team()
    target = jnp.asarray(chain.matrix())

    def distance(factors):
        return jnp.abs(target - jnp.kron(*factors)).sum()

    rows = jnp.full((4, 4), 0.25, target.dtype)
    found = je.minimize_entanglement(distance, (rows, rows), num_steps=200)
    return jnp.round(found.value, 1)


def extensions():
    rng = np.random.default_rng(2)
    signal = rng.dirichlet(np.ones(2), 2)
    moves = tuple(rng.dirichlet(np.ones(2), (2, 2, 2)) for _ in range(2))
    rewards = tuple(rng.uniform(size=(2, 2, 2)) for _ in range(2))
    mdp = je.ExogenousMDP(moves, rewards, signal, DISCOUNT)
    policy = je.softmax_policy(jnp.asarray(rng.normal(size=(2, 2, 2, 2, 2))))
    chain = je.pair_chain(mdp, policy)
    flat = [jnp.asarray(r).reshape(-1) for r in rewards]
    mu = je.stationary_distribution(chain)
    joint = jnp.sin(jnp.arange(chain.num_pairs) ** 2.0)  # no sum of local ones
    return {
        "error": je.decompose(chain, flat, discount=DISCOUNT).error,
        "reward": je.reward_entanglement(chain, joint, mu, tol=1e-4).value,
    }


def named(num_agents=10):
    found = je.named_bandit("circulant", num_agents)
    return found.bandit, tuple(int(s) for s in found.priority)


def limits():
    bandit, priority = named()
    field = je.mean_field(bandit, priority)
    verdict = je.check_attractor(bandit, priority)
    return {
        "field": (field.configuration, field.policy, field.covariance, field.local_q),
        "limits": (field.entanglement_limit, field.mu_error_limit, field.relative_error_limit),
        "attractor": (int(verdict.verdict), verdict.configuration, verdict.contraction),
    }


def exact():
    bandit, priority = named()
    truth = je.ground_truth(bandit, priority)
    return truth.law, truth.mu_error, truth.entanglement, truth.q_local


def indices():
    bandit, _ = named()
    return {
        "whittle": je.whittle_index(bandit).index,
        "average": je.average_whittle_index(bandit).index,
        "fluid": je.fluid_priority(bandit).value,
        "lipschitz": je.lipschitz_constant(bandit, named()[1]),
    }


def soft():
    bandit, _ = named(5)
    index = jnp.array([0.3, 0.1, -0.2, 0.4])

    def measure(index):
        truth = je.soft_ground_truth(bandit, je.SoftIndex(index, 0.2))
        return truth.entanglement + truth.mu_error

    field = je.soft_mean_field(bandit, je.SoftIndex(index, 0.2))
    return jax.value_and_grad(measure)(index), field.entanglement_limit, field.configuration


def simulated():
    bandit, priority = named(60)
    start = je.circulant_start(60)
    run = je.simulate_counts(
        jax.random.key(0), bandit, jnp.array(priority), num_steps=200, counts=start
    )
    flow = je.pair_flow(run)
    q = je.monte_carlo_q(
        jax.random.key(0), bandit, jnp.array(priority), start, num_runs=4, num_steps=20
    )
    return {
        "agents": run.counts.sum(1),
        "flow": flow.sum(),
        "finite": jnp.isfinite(q.value).all(),
    }


def learned():
    _, _, _, rewards = team()
    # The same run for both precisions.
    rng = np.random.default_rng(0)
    states, actions = rng.integers(2, size=(2, 2000, 2))
    paid = np.stack([np.asarray(r)[states[:, i], actions[:, i]] for i, r in enumerate(rewards)], 1)
    run = je.Trajectory.from_arrays(states, actions, jnp.asarray(paid))
    found = je.audit(run, discount=DISCOUNT, num_permutations=9)
    laws = np.full((*states.shape, 2), 0.5)
    told = je.audit(run, discount=DISCOUNT, policy=laws)
    return {
        "lstd": je.lstd_local_q(run, discount=DISCOUNT).value,
        "returns": je.monte_carlo_local_q(run, discount=DISCOUNT).value,
        "split": je.fit_local_rewards(dataclasses.replace(run, rewards=paid.sum(1))).reward,
        "audit": np.isfinite(found.lower).all(),
        "policy": told.entanglement,
    }


def mixed():
    _, _, chain, rewards = team()
    return je.fit_additive(chain, rewards, discount=DISCOUNT).q_joint


def swept():
    bandit, priority = named(10)

    def point(key, at):
        model = bandit._replace(num_agents=at["agents"], budget=at["agents"] // 5)
        field = je.mean_field(model, jnp.array(priority))
        return {"limit": field.entanglement_limit, "priced": at["scale"] * field.mu_error_limit}

    grid = je.product_grid(agents=[10, 20], scale=[0.5, 1.5])
    return je.sweep(jax.random.key(0), point, grid)


JOBS = (values, gradients, measures, all_bounds, separability, influence, descent, extensions)
JOBS += (limits, exact, indices, soft, simulated, learned, mixed, swept)


def answers(names):
    """What the jobs give, as lists of NumPy arrays by name."""
    return {
        job.__name__: [np.asarray(leaf) for leaf in jax.tree.leaves(job())]
        for job in JOBS
        if job.__name__ in names
    }


@pytest.fixture(scope="module")
def single(request, tmp_path_factory):
    """Answers of a process without x64, where warnings are errors too."""
    names = {item.callspec.params["name"] for item in request.session.items if is_here(item)}
    path = tmp_path_factory.mktemp("single") / "answers.pickle"
    command = [sys.executable, "-W", "error", "-m", __name__, str(path), *names]
    env = os.environ | {"JAX_ENABLE_X64": "0"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pickle.loads(path.read_bytes())


def is_here(item):
    return item.module.__name__ == __name__


QUICK = ("values", "gradients", "limits", "indices", "mixed")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(job.__name__, marks=() if job.__name__ in QUICK else pytest.mark.slow)
        for job in JOBS
    ],
)
def test_float32_is_near_float64(name, single):
    found, wanted = single[name], answers([name])[name]
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype != np.float64 or name in HOST
        if np.issubdtype(want.dtype, np.floating):
            scale = np.abs(want).max()
            np.testing.assert_allclose(got, want, atol=NEAR.get(name, 1e-4) * scale, rtol=0)
        else:
            np.testing.assert_array_equal(got, want)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(pickle.dumps(answers(sys.argv[2:])))
