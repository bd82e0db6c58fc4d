"""Appendix J: agents with a signal, with neighbors, with one shared reward."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxent as je
from jaxent import PairChain, bounds
from jaxent.models.layouts import FactorLayout
from tests.reference import cases
from tests.tolerances import EXACT, FD, SOLVE, STEP, by_precision

CLOSE = by_precision(1e-7, 1e-4)  # the reference's own programs are good to about 1e-8


def exogenous(case):
    """The model of the reference and its policy, `[z, s, a, s']` there."""
    kernels = (np.moveaxis(np.array(case[f"kernel_{i}"]), 0, 2) for i in "ab")
    rewards = tuple(np.array(case[f"reward_{i}"]) for i in "ab")
    signal, policy = np.array(case["kernel_z"]), np.array(case["policy"])
    return je.ExogenousMDP(tuple(kernels), rewards, signal, case["gamma"]), policy


def exogenous_matrix(mdp, policy):
    """P(x', z' | x, z) of two agents, by loops over what is printed in J.1."""
    (S, A, Z, _), (T, B, _, _) = (P.shape for P in mdp.transition)
    P = np.zeros((S, A, T, B, Z) * 2)
    for s, a, t, b, z, s1, t1, z1 in np.ndindex(S, A, T, B, Z, S, T, Z):
        moved = mdp.transition[0][s, a, z, s1] * mdp.transition[1][t, b, z, t1] * mdp.signal[z, z1]
        P[s, a, t, b, z, s1, :, t1, :, z1] = moved * policy[s1, t1, z1]
    return P.reshape(S * A * T * B * Z, -1)


def test_a_joint_kernel_with_a_signal_is_the_same_chain():
    mdp, policy = exogenous(cases("exogenous")[0])
    joint = np.einsum("sazp,tbzq->stabzpq", *mdp.transition)
    chain, dense = (je.pair_chain(m, policy) for m in (mdp, mdp._replace(transition=joint)))
    v = np.random.default_rng(0).normal(size=chain.num_pairs)
    P = exogenous_matrix(mdp, policy)
    for each in (chain, dense):
        assert each.sizes == (4, 4, 2)
        assert each.views == ((0, 2), (1, 2))
        np.testing.assert_allclose(each.matrix(), P, atol=EXACT)
        np.testing.assert_allclose(each.mv(v), P @ v, atol=EXACT)
        np.testing.assert_allclose(each.vm(v), v @ P, atol=EXACT)
    with pytest.raises(ValueError, match="wants a kernel for each agent"):
        je.policy_entanglement(mdp._replace(transition=joint), policy, v, agent=0)


def random_exogenous(rng, number, separable):
    """Two agents, two signals; if separable, a coin that both see says which rule each follows."""
    kernels = rng.dirichlet(np.full(2, 0.4), (number, 2, 2, 2, 2))  # [B, agent, s, a, z, s']
    signal = rng.dirichlet(np.ones(2), (number, 2))
    rewards = rng.normal(size=(number, 2, 2, 2, 2))
    if not separable:
        policy = rng.dirichlet(np.full(4, 0.3), (number, 2, 2, 2)).reshape(number, *(2,) * 5)
    else:
        coin = rng.dirichlet(np.ones(2), (number, 2))  # [B, z, coin]
        rules = rng.dirichlet(np.full(2, 0.3), (number, 2, 2, 2, 2))  # [B, agent, coin, s, z, a]
        policy = np.einsum("nzc,ncsza,nctzb->nstzab", coin, rules[:, 0], rules[:, 1])
    return kernels, signal, rewards, policy


def measure_exogenous(kernels, signal, rewards, policy):
    mdp = je.ExogenousMDP(tuple(kernels), tuple(rewards), signal, 0.9)
    chain = je.pair_chain(mdp, policy)
    found = je.decompose(chain, mdp.rewards, discount=0.9)
    atv, eq7, local = [], [], []
    for i in range(2):
        atv.append(je.entanglement_atv(chain, agent=i, tol=by_precision(1e-6, 1e-5)))
        eq7.append(je.entanglement_mu_atv_upper(chain, found.mu, agent=i))
        local.append(je.local_transition(chain, found.mu, agent=i))
    policies = [je.policy_entanglement(mdp, policy, found.mu, agent=i) for i in range(2)]
    return {
        "q_joint": found.q_joint,
        "q_local": jnp.stack(found.q_local),
        "sup_error": found.sup_error,
        "mu_error": found.mu_error,
        "atv": jnp.stack([e.upper for e in atv]),
        "converged": jnp.stack([e.converged for e in atv]),
        "eq7": jnp.stack([e.value for e in eq7]),
        "apart": jnp.stack([abs(P - e.minimizer).sum(-1).max() for P, e in zip(local, atv)]),
        "theorem_9": bounds.theorem_9(chain, mdp.rewards, discount=0.9, measured=atv),
        "proposition_3": jnp.stack([e.upper for e in policies]),
    }


@pytest.fixture(scope="module")
def measured():
    """The reference case, 200 random systems, 200 agent-wise separable ones: one compilation."""
    (case,) = cases("exogenous")
    mdp, policy = exogenous(case)
    given = (np.stack(mdp.transition), mdp.signal, np.stack(mdp.rewards), policy)
    rng = np.random.default_rng(1)
    parts = [[x[None] for x in given], *(random_exogenous(rng, 200, sep) for sep in (False, True))]
    found = jax.jit(jax.vmap(measure_exogenous))(*map(np.concatenate, zip(*parts)))
    pieces = np.s_[:1], np.s_[1:201], np.s_[201:]
    found = {name: np.asarray(v) for name, v in found.items()}
    return [{name: v[piece] for name, v in found.items()} for piece in pieces]


def test_exogenous_reference(measured):
    (case,) = cases("exogenous")
    found = {name: value[0] for name, value in measured[0].items()}
    assert found["converged"].all()
    np.testing.assert_allclose(found["q_joint"], np.ravel(case["q_joint"]), atol=SOLVE)
    wanted = [np.ravel(case["q_a"]), np.ravel(case["q_b"])]
    np.testing.assert_allclose(found["q_local"], wanted, atol=SOLVE)
    np.testing.assert_allclose(found["eq7"], case["mu_atv_eq7"], atol=CLOSE)
    np.testing.assert_allclose(found["atv"], case["atv"], atol=CLOSE)
    np.testing.assert_allclose(found["sup_error"], case["sup_error"], atol=CLOSE)
    np.testing.assert_allclose(found["mu_error"], case["mu_error"], atol=CLOSE)
    largest = [np.abs(case[f"reward_{i}"]).max() for i in "ab"]
    np.testing.assert_allclose(found["theorem_9"], 360 * found["atv"] @ largest, rtol=1e-12)


def test_theorem_9(measured):
    found = measured[1]
    assert (found["atv"] > 1e-3).all()
    assert (found["sup_error"] <= found["theorem_9"] + SOLVE).all()
    assert (found["apart"] <= 2 * found["atv"] + SOLVE).all()


def test_proposition_2(measured):
    """Nothing is entangled and Q is a sum, though the agents' actions agree."""
    found = measured[2]
    for name in ("atv", "eq7", "proposition_3"):
        assert (found[name] < 1e-5).all(), name
    assert (found["sup_error"] < by_precision(1e-8, 1e-4)).all()


def test_proposition_3(measured):
    """Of the right-hand side of Eq. (7), which is at least the distance of Def. 8."""
    found = measured[1]
    assert (found["eq7"] <= found["proposition_3"] + EXACT).all()
    assert (found["eq7"] > 1e-4).all()


@pytest.mark.slow
def test_report_names_theorem_9():
    mdp, policy = exogenous(cases("exogenous")[0])
    report = bounds.report(je.pair_chain(mdp, policy), mdp.rewards, discount=0.9)
    assert report.sup_error <= report.sup_bounds["Theorem 9 (ATV)"]


def test_a_signal_that_all_read_does_not_entangle():
    """Eq. (12) as printed fails though every E_i = 0: other agents' next pairs may read z."""
    kernels, signal, rewards, policy = (
        x[0] for x in random_exogenous(np.random.default_rng(2), 1, True)
    )
    mdp = je.ExogenousMDP(tuple(kernels), tuple(rewards), signal, 0.9)
    P = exogenous_matrix(mdp, policy).reshape(4, 4, 2, 4, 4, 2)
    after_a, after_b = P.sum(4), P.sum(3)  # [x_A, x_B, z, x_i', z']
    assert np.ptp(after_a, axis=1).max() < EXACT
    assert np.ptp(after_b, axis=0).max() < EXACT
    # What Eq. (12) would have: agent B's next pair depends on x_B alone.
    assert np.ptp(after_b.sum(-1), axis=2).max() > 0.1


def ring(rng, num_servers, reads):
    """Two states and two actions each; a server reads its pair and those on either side."""
    n = num_servers
    neighbors = tuple((i, (i - 1) % n, (i + 1) % n) for i in range(n))
    transitions = tuple(rng.dirichlet(np.ones(2), (2,) * 6) for _ in range(n))
    rewards = tuple(rng.normal(size=(2, 2)) for _ in range(n))
    scopes = tuple(tuple((i + k) % n for k in range(reads)) for i in range(n))
    tables = tuple(rng.dirichlet(np.ones(2), (2,) * reads) for _ in range(n))
    return je.FactoredMDP(transitions, neighbors, rewards, 0.9), je.LocalPolicies(tables, scopes)


def factored_matrices(mdp, policy):
    """K `[J, S]` and Π `[S, J]` by loops over Def. 15, for agents of two states and actions."""
    n = len(mdp.rewards)
    K, Pi = np.ones((4**n, 2**n)), np.zeros((2**n, 4**n))
    states = list(np.ndindex(*(2,) * n))
    for x, pair in enumerate(np.ndindex(*(4,) * n)):
        s, a = [k // 2 for k in pair], [k % 2 for k in pair]
        for i, (table, seen) in enumerate(zip(mdp.transitions, mdp.neighbors)):
            law = table[(*(s[j] for j in seen), *(a[j] for j in seen))]
            K[x] *= [law[state[i]] for state in states]
        chance = [
            t[(*(s[j] for j in w), a[i])]
            for i, (t, w) in enumerate(zip(policy.tables, policy.scopes))
        ]
        Pi[states.index(tuple(s)), x] = np.prod(chance)
    return K, Pi


def test_factored_chain_against_loops():
    """Neighbors in any order, an agent that does not read itself, one that nobody reads."""
    rng = np.random.default_rng(3)
    neighbors, scopes = ((1, 0), (), (1, 0)), ((0,), (1, 0), ())
    mdp = je.FactoredMDP(
        tuple(rng.dirichlet(np.ones(2), (2,) * (2 * len(seen))) for seen in neighbors),
        neighbors,
        tuple(rng.normal(size=(2, 2)) for _ in range(3)),
        0.9,
    )
    policy = je.LocalPolicies(
        tuple(rng.dirichlet(np.ones(2), (2,) * len(scope)) for scope in scopes), scopes
    )
    K, Pi = factored_matrices(mdp, policy)
    table = Pi.reshape(8, 64)[np.arange(8)[:, None], :]  # [S, 1, J]
    chain = je.pair_chain(mdp, policy)
    v, w = rng.normal(size=64), rng.normal(size=8)
    np.testing.assert_allclose(chain.mv(v), K @ Pi @ v, atol=EXACT)
    np.testing.assert_allclose(chain.vm(v), v @ K @ Pi, atol=EXACT)
    np.testing.assert_allclose(chain.matrix(), K @ Pi, atol=EXACT)
    np.testing.assert_allclose(chain.state_matrix(), Pi @ K, atol=EXACT)
    np.testing.assert_allclose(chain.kernel.mv(w), K @ w, atol=EXACT)
    joint = np.zeros((2,) * 6)
    for x, pair in enumerate(np.ndindex(4, 4, 4)):
        s, a = tuple(k // 2 for k in pair), tuple(k % 2 for k in pair)
        joint[s + a] = table[np.ravel_multi_index(s, (2, 2, 2)), 0, x]
    np.testing.assert_allclose(je.pair_chain(mdp, joint).mv(v), K @ Pi @ v, atol=EXACT)


def rows_of(chain, agent):
    """P(x_i' | x) with an axis for each factor."""
    return np.asarray(je.view_transition(chain, agent=agent)).reshape(*chain.sizes, -1)


@pytest.mark.parametrize("reads", [1, 2])
def test_a_neighbor_set_has_the_rows_of_the_whole(reads):
    mdp, policy = ring(np.random.default_rng(4), 6, reads)
    chain, near = je.pair_chain(mdp, policy), je.neighborhood(mdp, policy, agent=4)
    assert max(x.size for x in jax.tree.leaves(chain)) <= 128  # no joint table
    inside = {1: (3, 4, 5), 2: (0, 3, 4, 5)}[reads]
    assert near.sizes == (4,) * len(inside)
    assert near.views == ((inside.index(4),),)
    whole = rows_of(chain, 4).transpose(*inside, *(j for j in range(6) if j not in inside), 6)
    beyond = whole.reshape(*near.sizes, -1, 4)
    assert np.ptp(beyond, axis=-2).max() < EXACT
    np.testing.assert_allclose(rows_of(near, 0), beyond[..., 0, :], atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("reads", [1, 2])
def test_six_servers_on_a_ring(reads):
    """The entanglement from the neighbor set alone is that of the whole."""
    mdp, policy = ring(np.random.default_rng(4), 6, reads)
    chain = je.pair_chain(mdp, policy)
    assert bool((je.stationary_distribution(chain) > 0).all())
    for i in range(6):
        whole = je.entanglement_atv(chain, agent=i, tol=1e-8)
        found = je.entanglement_atv(je.neighborhood(mdp, policy, agent=i), agent=0, tol=1e-8)
        assert whole.converged
        assert found.converged
        assert whole.value > 0.05
        assert abs(found.value - whole.value) < 1e-9


def test_a_policy_that_reads_others_widens_the_neighbor_set():
    """J.2 prints that the rows depend on x_{Z_i}; with a policy that reads W_i it is ∪ Z_j."""
    mdp, policy = ring(np.random.default_rng(4), 6, 2)
    P = rows_of(je.pair_chain(mdp, policy), 0)
    moved = [np.ptp(P, axis=j).max() for j in range(6)]
    # Z_0 = {5, 0, 1}; agent 0 reads the next state of agent 1, which reads agent 2.
    assert moved[2] > 0.01
    assert max(moved[3], moved[4]) < EXACT
    own = je.LocalPolicies(tuple(t.mean(1) for t in policy.tables), tuple((i,) for i in range(6)))
    P = rows_of(je.pair_chain(mdp, own), 0)
    assert max(np.ptp(P, axis=j).max() for j in (2, 3, 4)) < EXACT


@pytest.mark.slow
def test_ten_servers_are_solved():
    """A million joint pairs: local rows still sum to 1, so local values are numbers."""
    mdp, policy = ring(np.random.default_rng(4), 10, 2)
    chain = je.pair_chain(mdp, policy)
    found = je.decompose(chain, mdp.rewards, discount=0.9)
    for i, q in enumerate(found.q_local):
        P = je.local_transition(chain, found.mu, agent=i)
        np.testing.assert_allclose(P.sum(1), 1, atol=1e-15)
        np.testing.assert_allclose(q, mdp.rewards[i].ravel() + 0.9 * P @ q, atol=SOLVE)
    assert 0 < found.relative_error < 1


def test_a_hundred_servers():
    mdp, policy = ring(np.random.default_rng(4), 100, 2)
    near = je.neighborhood(mdp, policy, agent=57)
    assert near.num_pairs == 256
    np.testing.assert_allclose(near.matrix().sum(1), 1, atol=EXACT)


@pytest.mark.slow
def test_models_under_jit_vmap_and_grad():
    """The error of a ring and of agents with a signal, in their policies and kernels."""
    rng = np.random.default_rng(10)
    mdp, policy = ring(rng, 3, 2)
    other, _ = ring(rng, 3, 2)
    signal, rules = exogenous(cases("exogenous")[0])
    logits = rng.normal(size=rules.shape)

    def cluster(step):
        mixed = jax.tree.map(lambda a, b: (1 - step) * a + step * b, mdp, other)
        chain = je.pair_chain(mixed, policy)
        return je.decomposition_error(chain, mixed.rewards, discount=0.9)

    def drivers(step):
        chosen = jnp.exp(step * logits) * rules
        chain = je.pair_chain(signal, chosen / chosen.sum((3, 4), keepdims=True))
        return je.decomposition_error(chain, signal.rewards, discount=0.9)

    h = 1e-5
    for value in (cluster, drivers):
        both = jax.jit(jax.vmap(jax.value_and_grad(value)))
        values, slopes = both(0.5 + h * np.array([-1.0, 0, 1]))
        np.testing.assert_allclose(values[1], value(0.5), atol=SOLVE)
        slope = slopes[1]
        assert abs(slope - (values[2] - values[0]) / (2 * h)) < FD * abs(slope) + 1e-8
        assert abs(slope) > 1e-4


def test_a_bad_row_inside_jit_is_told():
    mdp, policy = ring(np.random.default_rng(11), 3, 1)

    @jax.jit
    def flags(tables):
        return je.pair_chain(mdp, replace(policy, tables=tables)).stochastic()

    assert flags(policy.tables)
    assert not flags((1.1 * policy.tables[0], *policy.tables[1:]))
    assert not flags((*policy.tables[:2], np.nan * policy.tables[2]))


def lifts():
    """The lift of two agents of three pairs as a matrix, `[9, 6]`."""
    return np.concatenate([np.repeat(np.eye(3), 3, 0), np.tile(np.eye(3), (3, 1))], 1)


def nearest_sum(lift, reward, mu):
    """Eq. (14) as the dual linear program: max y'r, |y| <= mu, no local sum of y."""
    zero = np.zeros(lift.shape[1])
    return -linprog(-reward, A_eq=lift.T, b_eq=zero, bounds=np.stack([-mu, mu], 1)).fun


def random_games(rng, number):
    """Two agents of two states and actions, and a shared reward of any kind."""
    kernels = rng.dirichlet(np.full(4, 0.3), (number, 2, 2, 2, 2)).reshape(number, *(2,) * 6)
    policies = rng.dirichlet(np.full(4, 0.3), (number, 2, 2)).reshape(number, *(2,) * 4)
    return kernels, rng.normal(size=(number, 2, 2, 2, 2)), policies


def test_a_game_is_a_joint_chain_with_one_reward():
    kernel, reward, policy = (x[0] for x in random_games(np.random.default_rng(5), 1))
    game = je.CooperativeGame(kernel, reward, 0.9)
    joint = je.JointMDP(kernel, (np.zeros((2, 2)),) * 2, 0.9)
    chains = [je.pair_chain(mdp, policy) for mdp in (game, joint)]
    np.testing.assert_array_equal(*(chain.matrix() for chain in chains))
    for s, t, a, b in np.ndindex(2, 2, 2, 2):
        assert game.pair_reward[4 * (2 * s + a) + 2 * t + b] == reward[s, t, a, b]


def measure_cooperative(P, reward):
    chain = PairChain.from_matrix(P, sizes=(3, 3))
    mu = je.stationary_distribution(chain)
    fit = je.reward_entanglement(chain, reward, mu, tol=by_precision(1e-9, 1e-3))
    found = je.decompose(chain, fit.minimizer, discount=0.9, shared=reward)
    bound = bounds.proposition_4(chain, reward, discount=0.9, fit=fit)
    return {"mu": mu, "fit": fit._asdict(), "error": found.mu_error, "bound": bound}


@pytest.fixture(scope="module")
def games():
    """The reference; 200 random games, 20 of independent agents; an additive one, one that tells L1
    from least squares, one that is NaN."""
    (case,) = cases("cooperative")
    rng = np.random.default_rng(6)
    P, rewards = rng.dirichlet(np.full(9, 0.3), (204, 9)), rng.normal(size=(204, 9))
    P[0], rewards[0] = case["pair_transition"], np.ravel(case["reward"])
    A, B = rng.dirichlet(np.ones(3), (2, 20, 3))
    P[1:21] = np.einsum("nik,njl->nijkl", A, B).reshape(20, 9, 9)
    rewards[201] = np.add.outer([1.0, 2.0, 4.0], [0.0, -3.0, 5.0]).ravel()
    P[202], rewards[202] = [0.1, 0.3, 0, 0.3, 0.3, 0, 0, 0, 0], np.eye(9)[0]
    rewards[203] = np.nan
    return P, rewards, jax.tree.map(np.asarray, jax.vmap(measure_cooperative)(P, rewards))


def test_cooperative_reference(games):
    (case,) = cases("cooperative")
    _, rewards, found = games
    fit, wanted = found["fit"], case["reward_entanglement"]
    assert abs(fit["value"][0] - wanted) < CLOSE
    assert fit["lower"][0] - SOLVE <= wanted <= fit["upper"][0] + SOLVE
    r_A, r_B = fit["minimizer"]
    left = np.abs(rewards - (r_A[:, :, None] + r_B[:, None]).reshape(-1, 9))
    np.testing.assert_allclose((found["mu"] * left).sum(1), fit["upper"], atol=EXACT)
    assert fit["converged"][:203].all()
    # A sum of local rewards has none, and they come back up to a constant.
    assert fit["upper"][201] < by_precision(1e-9, 1e-4)
    np.testing.assert_allclose(np.diff(r_B[201]), [-3.0, 8.0], atol=by_precision(1e-6, 1e-3))
    assert np.isnan(fit["value"][203])
    assert not fit["converged"][203]


def test_proposition_4(games):
    _, _, found = games
    error, bound = found["error"][1:201], found["bound"][1:201]
    lower, upper = found["fit"]["lower"][1:201], found["fit"]["upper"][1:201]
    assert (error <= bound + SOLVE).all()
    assert (lower > 1e-4).all()
    # Independent agents: only e(r) / (1 - discount) is left, and it is of the error's own size.
    np.testing.assert_allclose(bound[:20], 10 * upper[:20], rtol=by_precision(1e-3, 1e-2))
    assert (error[:20] > bound[:20] / 50).all()


def test_proposition_4_is_not_of_meta_algorithm_2(games):
    """Its bound is for the L1 optimum of Eq. (14), but the algorithm learns least squares."""
    P, rewards, found = games
    mu, reward, e = P[202, 0], rewards[202], found["fit"]["upper"][202]
    np.testing.assert_allclose(found["mu"][202], mu, atol=EXACT)
    np.testing.assert_allclose(e, 0.1, atol=SOLVE)  # all 0, and the odd one out is lost
    root, lift = np.sqrt(mu), lifts()
    squares = np.linalg.lstsq(root[:, None] * lift, root * reward, rcond=None)[0]
    # Nothing is entangled. At discount 0 the error is what the local rewards leave.
    assert mu @ np.abs(reward - lift @ squares) > e + 0.01


def test_reward_entanglement_against_linear_programs(games):
    _, rewards, found = games
    fit = found["fit"]
    for k in range(1, 30):
        wanted = nearest_sum(lifts(), rewards[k], found["mu"][k])
        assert fit["lower"][k] - CLOSE < wanted < fit["upper"][k] + CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("views", [((0,), (1,), (2,)), ((0, 2), (1, 2)), ((0,), (2,))])
def test_views_of_any_kind_against_linear_programs(views):
    """Three agents, agents with a signal, a factor nobody sees; a third of the pairs unvisited."""
    rng = np.random.default_rng(6)
    chain = PairChain.from_matrix(np.full((24, 24), 1 / 24), sizes=(2, 3, 4))
    chain = replace(chain, layout=FactorLayout(chain.sizes, views))
    measure = jax.jit(lambda r, mu: je.reward_entanglement(chain, r, mu)[:3])
    sizes = [np.prod([chain.sizes[k] for k in view]) for view in views]
    basis = np.eye(sum(sizes))
    lift = np.stack([chain.lift(np.split(x, np.cumsum(sizes)[:-1])) for x in basis], 1)
    for _ in range(10):
        reward, mu = rng.normal(size=24), rng.dirichlet(np.full(24, 0.3))
        mu[rng.uniform(size=24) < 1 / 3] = 0
        mu /= mu.sum()
        value, lower, upper = measure(reward, mu)
        assert abs(value - nearest_sum(lift, reward, mu)) < CLOSE
        assert -EXACT <= upper - lower < 1e-9


def test_gradients_of_reward_entanglement(games):
    """In the reward and, through the stationary law, in the chain."""
    P, rewards, _ = games
    inner = 0.9 * P[30] + 0.1 / 9

    def value(step):
        chain = PairChain.from_matrix(inner + step[0] * (P[31] - inner), sizes=(3, 3))
        mu = je.stationary_distribution(chain)
        return je.reward_entanglement(chain, rewards[30] + step[1] * rewards[31], mu).value

    h = by_precision(1e-4, STEP)
    steps = np.zeros((204, 2))  # as many as there are games: nothing is compiled anew
    steps[:4] = h * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    values, slopes = map(np.asarray, jax.vmap(jax.value_and_grad(value))(steps))
    slope = slopes[4]
    wanted = (values[[0, 2]] - values[[1, 3]]) / (2 * h)
    np.testing.assert_allclose(slope, wanted, atol=FD)
    assert (np.abs(slope) > 1e-2).all()


@pytest.mark.slow
def test_float32():
    (case,) = cases("cooperative")
    with jax.enable_x64(False):
        P = np.array(case["pair_transition"], np.float32)
        chain = PairChain.from_matrix(P, sizes=(3, 3))
        mu = je.stationary_distribution(chain)
        found = je.reward_entanglement(chain, np.array(case["reward"], np.float32), mu, tol=1e-4)
        assert found.value.dtype == np.float32
        assert found.converged
        assert abs(found.value - case["reward_entanglement"]) < 1e-4


def test_bad_exogenous_input():
    mdp, policy = exogenous(cases("exogenous")[0])
    for change, match in (
        ({"signal": np.ones((2, 3))}, r"signal: wanted shape \[2, 2\], got \[2, 3\]"),
        ({"signal": np.ones((2, 2))}, r"signal: row \[0\] sums to 2"),
        ({"rewards": (mdp.rewards[0], np.ones((2, 2)))}, r"rewards\[1\]: wanted shape"),
        ({"rewards": (mdp.rewards[0], np.full((2, 2, 2), np.nan))}, r"rewards\[1\]\[0, 0, 0\]"),
        ({"rewards": ()}, "rewards: is empty"),
        ({"transition": mdp.transition[:1]}, "transition: wanted a tuple .* got 1"),
        ({"transition": (mdp.transition[0], np.ones((2, 2, 2)))}, r"transition\[1\]: wanted shape"),
        ({"transition": (2 * mdp.transition[0], mdp.transition[1])}, "sums to 2"),
        ({"transition": np.ones((2, 2, 2, 2, 2, 2))}, "transition: wanted shape"),
        ({"discount": 1.0}, "discount: 1 is outside"),
    ):
        with pytest.raises(ValueError, match=match):
            je.pair_chain(mdp._replace(**change), policy)
    with pytest.raises(ValueError, match=r"policy: wanted shape \[2, 2, 2, 2, 2\]"):
        je.pair_chain(mdp, policy[:, :, 0])
    bad = policy * np.where(np.arange(2) == 1, 1.5, 1)[:, None, None]
    with pytest.raises(ValueError, match=r"policy: row .* sums to"):
        je.pair_chain(mdp, bad)


def test_bad_factored_input():
    mdp, policy = ring(np.random.default_rng(8), 3, 1)
    for change, match in (
        ({"neighbors": ((0, 1, 2), (0, 1, 2), (0, 1, 3))}, r"neighbors\[2\]: .* agents 0..2"),
        ({"neighbors": ((0, 1, 1), (0, 1, 2), (0, 1, 2))}, r"neighbors\[0\]: .* none of them tw"),
        ({"neighbors": ([0, 1, 2], (0, 1, 2), (0, 1, 2))}, r"neighbors\[0\]: .* tuple of ints"),
        ({"neighbors": ((0, 1, 2),)}, "neighbors: wanted a tuple .* got 1"),
        ({"neighbors": ((0, 1), (1, 0, 2), (2, 0, 1))}, r"transitions\[0\]: wanted shape"),
        ({"transitions": (2 * mdp.transitions[0], *mdp.transitions[1:])}, "sums to 2"),
        ({"rewards": ()}, "rewards: is empty"),
    ):
        with pytest.raises(ValueError, match=match):
            je.pair_chain(replace(mdp, **change), policy)
    with pytest.raises(ValueError, match=r"policy.scopes\[0\]"):
        je.pair_chain(mdp, replace(policy, scopes=((4,), (1,), (2,))))
    with pytest.raises(ValueError, match=r"policy.tables\[1\]: wanted shape \[2, 2\]"):
        je.pair_chain(mdp, replace(policy, tables=(policy.tables[0],) + (np.ones(2) / 2,) * 2))
    with pytest.raises(ValueError, match=r"policy.tables: wanted one for each"):
        je.pair_chain(mdp, replace(policy, tables=policy.tables[:2]))
    with pytest.raises(ValueError, match="LocalPolicies are for a FactoredMDP"):
        je.pair_chain(je.MDP(np.ones((1, 1, 1)), np.ones((1, 1))), policy)
    with pytest.raises(ValueError, match=r"agent: 3 is not one of the agents 0..2"):
        je.neighborhood(mdp, policy, agent=3)
    with pytest.raises(ValueError, match="policy: wanted LocalPolicies"):
        je.neighborhood(mdp, np.full((2,) * 6, 0.125), agent=0)


def test_bad_cooperative_input():
    kernel, reward, policy = (x[0] for x in random_games(np.random.default_rng(9), 1))
    game = je.CooperativeGame(kernel, reward, 0.9)
    with pytest.raises(ValueError, match=r"reward: wanted .S_0.., A_0...,"):
        je.pair_chain(game._replace(reward=reward[0]), policy)
    with pytest.raises(ValueError, match="transition: wanted shape"):
        je.pair_chain(game._replace(transition=kernel[..., :1]), policy)
    with pytest.raises(ValueError, match="every entry must be finite"):
        je.pair_chain(game._replace(reward=reward * np.inf), policy)
    with pytest.raises(ValueError, match="mdp: ndarray is not one of the models"):
        je.pair_chain(kernel, policy)
    chain, mu = je.pair_chain(game, policy), np.full(16, 1 / 16)
    with pytest.raises(ValueError, match="tol: 0 is not positive"):
        je.reward_entanglement(chain, game.pair_reward, mu, tol=0)
    with pytest.raises(ValueError, match="mu: it sums to 2"):
        je.reward_entanglement(chain, game.pair_reward, 2 * mu)
    with pytest.raises(ValueError, match="rewards: wanted a sequence of 2 local rewards, or a joi"):
        je.reward_entanglement(chain, reward[0], mu)
    with pytest.raises(ValueError, match="reward: is a sequence"):
        je.reward_entanglement(chain, [np.ones(4)] * 2, mu)
