"""Chains that break floating point, against exact rational answers and linear programs."""

from fractions import Fraction
from functools import partial

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.data.chain_log import survival
from tests.tolerances import EXACT, by_precision

from . import oracles, oracles_measures, oracles_restless

# In float32 what is held of a number is another number, and the smallest another.
TINY = by_precision(1e-300, 1e-30)
held = by_precision(np.float64, np.float32)


def exactly(x):
    """The number as it is held, as a fraction."""
    return Fraction(float(held(x)))


def nearly(matrix, coupling):
    """A chain that is the given one but for steps to anywhere of this size."""
    matrix = np.asarray(matrix, float)
    return (1 - len(matrix) * coupling) * matrix + coupling


def dense(seed, *shape):
    return oracles.random_stochastic(np.random.default_rng(seed), *shape)


CYCLE = np.roll(np.eye(4), 1, axis=1)
CHAINS = {
    "dense": dense(0, 4, 4),
    "nearly decomposable": nearly(np.kron(np.eye(2), dense(1, 2, 2)), 1e-12),
    "two worlds": nearly(np.eye(4), 1e-15),
    "nearly periodic": nearly(CYCLE, by_precision(1e-9, 2.0**-20)),  # what stays must be held
    "deterministic": CYCLE,
    "zero occupancy": np.array(
        [[0.5, 0, 0, 0.5], [0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.2, 0.2], [1, 0, 0, 0]]
    ),
    "one recurrent pair": np.array(
        [[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]]
    ),
    "tiny": np.array(
        [[1, TINY, 0, TINY], [0.5, 0.25, 0.25, TINY], [TINY, 0, 0.5, 0.5], [0, TINY, 1, 0]]
    ),
    "rarely left": np.array([[1, TINY, 0, 0], [1, 0, TINY, 0], [0.5, 0, 0, 0.5], [0.5, 0.5, 0, 0]]),
    "pr box": np.asarray(je.pr_box()),
    "appendix e": np.asarray(je.appendix_e()),
}
CHAINS["identical agents"] = np.kron(dense(2, 2, 2), dense(2, 2, 2))
REWARDS = np.array([[1.0, 3.0], [2.0, 0.5]])
DISCOUNTS = (0.0, 0.9, 0.99999)


def rational(P):
    """The chain whose steps elsewhere are these floats, and which stays for the rest."""
    exact = [[exactly(p) for p in row] for row in P]
    for i, row in enumerate(exact):
        row[i] = 1 - sum(p for j, p in enumerate(row) if j != i)
    return exact


def exact_law(P):
    """By elimination on the one recurrent class, the others hold 0."""
    n = len(P)
    reach = [[P[i][j] > 0 or i == j for j in range(n)] for i in range(n)]
    for k in range(n):
        reach = [[reach[i][j] or (reach[i][k] and reach[k][j]) for j in range(n)] for i in range(n)]
    inside = [i for i in range(n) if all(reach[j][i] for j in range(n))]
    law = oracles.exact_law([[P[i][j] for j in inside] for i in inside])
    return [dict(zip(inside, law)).get(i, Fraction(0)) for i in range(n)]


def exact_local(P, law, agent):
    """Eq. (2) of one of two agents of two pairs; a self-loop where it never is."""
    own = [divmod(j, 2)[agent] for j in range(4)]
    flow = [[Fraction(0)] * 2 for _ in range(2)]
    for i in range(4):
        for j in range(4):
            flow[own[i]][own[j]] += law[i] * P[i][j]
    return [
        [f / sum(row) for f in row] if sum(row) else [Fraction(int(x == y)) for y in range(2)]
        for x, row in enumerate(flow)
    ]


@jax.jit
def decomposed(P, rewards, discount):
    chain = je.PairChain.from_matrix(P, sizes=(2, 2))
    found = je.decompose(chain, tuple(rewards), discount=discount)
    local = [je.local_transition(chain, found.mu, agent=i) for i in range(2)]
    return found, local, je.bounds.a_posteriori(chain, tuple(rewards), discount=discount)


def plainly(tree):
    """In float64 whatever they were, so that nothing but what is asked is allowed."""
    return jax.tree.map(lambda x: np.asarray(x, float), tree)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_laws_values_and_errors_are_exact_entry_by_entry(name, discount):
    P, near = CHAINS[name], by_precision(1e-11, 5e-6)
    found, local, after = plainly(decomposed(P, REWARDS, discount))
    exact = rational(P)
    # What no float holds is never visited.
    law = [p if held(float(p)) else Fraction(0) for p in exact_law(exact)]
    np.testing.assert_allclose(
        found.mu, [float(p) for p in law], rtol=by_precision(1e-12, 2e-6), atol=0
    )
    joint = [Fraction(a) + Fraction(b) for a in REWARDS[0] for b in REWARDS[1]]
    rate = exactly(discount)
    q = oracles.exact_values(exact, joint, rate)
    np.testing.assert_allclose(found.q_joint, [float(x) for x in q], rtol=near)
    q_local = []
    for i in range(2):
        P_i = exact_local(exact, law, i)
        for wanted, row in zip(P_i, local[i]):
            np.testing.assert_allclose(row, [float(p) for p in wanted], rtol=near, atol=1e-4 * near)
        q_local.append(oracles.exact_values(P_i, [Fraction(r) for r in REWARDS[i]], rate))
        np.testing.assert_allclose(found.q_local[i], [float(x) for x in q_local[i]], rtol=near)
    error = [
        float(q[j] - q_local[0][j // 2] - q_local[1][j % 2]) if law[j] else 0.0 for j in range(4)
    ]
    noise = near * np.abs(found.q_joint).max()
    np.testing.assert_allclose(found.error, error, atol=noise)
    assert np.abs(error).max() <= after.sup_bound + noise
    assert sum(float(p) * abs(e) for p, e in zip(law, error)) <= after.mu_bound + noise


@jax.jit
def measured(P, mu):
    chain = je.PairChain.from_matrix(P, sizes=(2, 2))
    return {
        "tv": je.entanglement_tv(chain),
        "mu_tv": je.entanglement_mu_tv(chain, mu),
        "atv": [je.entanglement_atv(chain, agent=i) for i in range(2)],
        "eq7": [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(2)],
        "mu_atv": [je.entanglement_mu_atv(chain, mu, agent=i) for i in range(2)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_measures_against_linear_programs(name):
    P = CHAINS[name]
    law = np.array([float(p) for p in exact_law(rational(P))])
    joint, mu = P.reshape(2, 2, 2, 2), law.reshape(2, 2)
    found = jax.tree.map(np.asarray, measured(P, law))

    def meets(e, program, close=1e-6):
        wanted = oracles_measures.solve(program)
        assert e.converged
        assert e.lower - 1e-9 <= wanted <= e.upper + 1e-9
        assert e.upper - e.lower <= close

    if (law > 0).all():  # the program knows no footnote 1
        meets(found["tv"], oracles_measures.nearest_separable(joint))
    meets(found["mu_tv"], oracles_measures.nearest_separable(joint, mu))
    for i, points in enumerate((joint.sum(3), joint.sum(2).swapaxes(0, 1))):
        weights = mu if i == 0 else mu.T
        if (law > 0).all():
            meets(found["atv"][i], oracles_measures.agentwise(points))
        meets(found["eq7"][i], oracles_measures.agentwise(points, weights), 1e-12)
        meets(found["mu_atv"][i], oracles_measures.mu_agentwise(points, weights))


STAY, SWAP = np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])
MIX = np.array([[0.7, 0.3], [0.2, 0.8]])
BANDITS = {
    "dense": (MIX, MIX[::-1], 1),
    "identical actions": (MIX, MIX, 1),
    "nobody acts": (MIX, SWAP, 0),
    "all act": (SWAP, MIX, 3),
    "nearly decomposable": (nearly(STAY, 1e-9), nearly(STAY, 1e-10), 1),
    "nearly periodic": (nearly(SWAP, 1e-9), nearly(SWAP, 1e-8), 2),
    "deterministic": (np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]), 1),
    "tiny": (np.array([[1.0, TINY], [0.5, 0.5]]), np.array([[0.5, 0.5], [1.0, TINY]]), 1),
}


@pytest.mark.parametrize("name", BANDITS)
def test_teams_are_exact_entry_by_entry(name):
    """Law and values of 3 agents against rationals on a chain made agent by agent."""
    passive, active, budget = BANDITS[name]
    reward = np.array([[1.0, 0.5], [0.25, 2.0]])
    kernel = np.stack([passive, active], 1)
    priority = (1, 0)
    counts, P = oracles_restless.next_counts_matrix(kernel, 3, budget, priority)
    served = np.array([oracles_restless.served(n, budget, priority) for n in counts])
    total = (np.array(counts) - served) @ reward[:, 0] + served @ reward[:, 1]
    exact = rational(P)
    law = exact_law(exact)
    for discount in DISCOUNTS:
        bandit = je.RestlessBandit(passive, active, reward, 3, budget, discount)
        found = plainly(je.ground_truth(bandit, priority))
        assert found.converged
        near = by_precision(1e-7, 1e-5)
        np.testing.assert_allclose(found.law, [float(p) for p in law], rtol=near, atol=0)
        q = oracles.exact_values(exact, [Fraction(r) for r in total], exactly(discount))
        wanted, near = [float(x) for x in q], by_precision(1e-9, 1e-5)
        np.testing.assert_allclose(found.q_joint, wanted, rtol=near)
        mean = float(sum(p * Fraction(r) for p, r in zip(law, total)))
        np.testing.assert_allclose(found.average_reward, mean, rtol=by_precision(1e-7, 1e-5))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("budget", [0, 3])
def test_agents_that_all_do_the_same_are_worth_their_sum(budget):
    """They are independent. A rounded chance to do otherwise would never be left again."""
    for seed in (1, 2):
        passive, active, reward = dense(seed, 3, 2, 2)
        bandit = je.RestlessBandit(passive, active, reward, 3, budget, 0.99999)
        soft = je.SoftIndex(np.array([0.0, 1.0]), 1e-5)
        for found in (je.ground_truth(bandit, (0, 1)), je.soft_ground_truth(bandit, soft)):
            assert (
                np.abs(found.error).max() < by_precision(1e-14, 1e-6) * np.abs(found.q_joint).max()
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", BANDITS)
def test_soft_policies_of_teams_near_the_hard_ones(name):
    """As the temperature falls the soft policy's answers are those of the priority."""
    passive, active, budget = BANDITS[name]
    reward = np.array([[1.0, 0.5], [0.25, 2.0]])
    bandit = je.RestlessBandit(passive, active, reward, 3, budget, 0.99999)
    hard = je.ground_truth(bandit, (1, 0))
    soft = je.soft_ground_truth(bandit, je.SoftIndex(np.array([0.0, 1.0]), 1e-5))
    assert soft.converged
    np.testing.assert_allclose(soft.law, hard.law, atol=1e-9)
    # Roundings have their weights to eps of 1: rarer pairs have rows of rounding.
    often = np.asarray(hard.occupancy) > 1e-9
    np.testing.assert_allclose(soft.q_local[often], hard.q_local[often], rtol=1e-9)
    np.testing.assert_allclose(soft.mu_error, hard.mu_error, atol=1e-4)
    np.testing.assert_allclose(soft.entanglement, hard.entanglement, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "actions"), [((1, 1), (1, 1)), ((1, 3), (2, 1)), ((3, 2), (1, 1))]
)
def test_agents_of_one_state_or_one_action(states, actions):
    """Nothing to be in or nothing to do: every measure is there, and 0 where it must be."""
    agents = tuple(
        je.MDP(dense(k, s, a, s), dense(k + 5, s, a))
        for k, (s, a) in enumerate(zip(states, actions))
    )
    mdp = je.WeaklyCoupledMDP(agents, 0.99999)
    policy = dense(3, *states, np.prod(actions)).reshape(*states, *actions)
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    found = je.decompose(chain, mdp.rewards, discount=mdp.discount)
    measures = [
        je.entanglement_tv(chain),
        je.entanglement_mu_tv(chain, mu),
        je.reward_entanglement(chain, chain.lift(mdp.rewards), mu),
    ]
    for i in range(2):
        measures += [
            je.entanglement_atv(chain, agent=i),
            je.entanglement_mu_atv(chain, mu, agent=i),
            je.entanglement_mu_atv_upper(chain, mu, agent=i),
            je.policy_entanglement(mdp, policy, mu, agent=i),
        ]
    assert all(e.converged for e in measures)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, measures)))
    if actions == (1, 1):
        assert all(e.upper <= 1e-6 for e in measures)
        assert found.sup_error <= 1e-9 / (1 - 0.99999)
    assert je.is_separable(chain) == (actions == (1, 1) or bool(measures[0].upper <= 1e-9))
    report = je.bounds.report(chain, mdp.rewards, discount=mdp.discount)
    assert report.mu_error <= min(report.mu_bounds.values()) + 1e-6


def law_of_long_sums(seed, dtype):
    rng = np.random.default_rng(seed)
    points = rng.dirichlet(np.ones(3) * 0.7, 2000)
    weights = rng.random(2000) * 10.0 ** rng.integers(-8, 1, 2000)
    return points.astype(dtype), np.where(rng.random(2000) < 0.6, 0, weights).astype(dtype)


def test_the_center_of_many_laws_is_a_law():
    """Long sums are rounded in pieces: levels out of order once cost float32 1e-3 of the law."""
    center = jax.jit(jax.vmap(je.tv_center))
    points, weights = map(np.stack, zip(*(law_of_long_sums(s, np.float32) for s in range(20))))
    found = jax.tree.map(np.asarray, center(points, weights))
    np.testing.assert_allclose(found.point.sum(1), 1, atol=1e-6)
    assert np.abs(found.upper - found.lower).max() <= 1e-5 * weights.sum(1).max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_by_inversion_never_meet_probability_0(dtype):
    rng = np.random.default_rng(0)
    for size in (3, 400, 1000):
        laws = rng.dirichlet(np.full(size, 0.5), 300)
        kept = rng.random(laws.shape) < 0.5
        kept[:, 1] = True
        laws = np.where(kept, laws, 0)
        laws = (laws / laws.sum(1, keepdims=True)).astype(dtype)
        beyond = np.asarray(jax.jit(survival)(laws))
        edges = np.concatenate([np.ones((300, 1)), beyond, np.zeros((300, 1))], 1)
        width = -np.diff(edges)
        assert (width >= 0).all()
        assert (width[laws == 0] == 0).all()
        np.testing.assert_allclose(width, laws, atol=2 * size * np.finfo(dtype).eps)


@pytest.mark.parametrize("sizes", [(2, 3), (2, 2, 2)])
def test_a_faint_term_is_decomposed(sizes):
    """Mixtures of which one term is faint make a nearly dependent basis."""
    kron = partial(products, sizes)
    for seed, faint in enumerate((1e-3, 1e-5, 1e-7, 1e-10, 1e-14)):
        P = (1 - faint) * kron(seed) + faint * kron(seed + 50)
        found = je.separable_decomposition(
            je.PairChain.from_matrix(P / P.sum(1, keepdims=True), sizes=sizes)
        )
        made = sum(w * kron_of([f[k] for f in found.factors]) for k, w in enumerate(found.weights))
        np.testing.assert_allclose(made, P, atol=EXACT)


def products(sizes, seed):
    return kron_of([dense(10 * seed + k, n, n) for k, n in enumerate(sizes)])


def kron_of(factors):
    out = np.ones((1, 1))
    for factor in factors:
        out = np.kron(out, factor)
    return out
