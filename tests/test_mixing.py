"""Additive and monotone fits, on one small model of three unlike agents."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from experiments import mixing as experiment
from jaxent.values import monotone_fit

from . import oracles
from .test_chain import weakly_coupled
from .tolerances import EXACT, FD, SINGLE, SOLVE

STATES, ACTIONS = (2, 3, 2), (2, 1, 2)
SIZES = (4, 3, 4)
DISCOUNT = 0.9

MDP, _ = weakly_coupled(STATES, ACTIONS)
KERNELS = [np.array(a.transition) for a in MDP.agents]
REWARD = oracles.lift([np.ravel(a.reward) for a in MDP.agents])
LIFT = np.concatenate(
    [np.eye(n)[[x[i] for x in itertools.product(*map(range, SIZES))]] for i, n in enumerate(SIZES)],
    axis=1,
)  # [J, sum X_i]


def policies():
    """A random one, one that leaves pairs out, and one in which each agent decides alone."""
    rng = np.random.default_rng(3)
    rows = np.zeros((12, 4))
    rows[np.arange(12), rng.integers(0, 4, 12)] = 1
    alone = [oracles.random_stochastic(rng, s, a) for s, a in zip(STATES, ACTIONS)]
    return {
        "random": oracles.random_policy(rng, STATES, ACTIONS),
        "deterministic": rows.reshape(*STATES, *ACTIONS),
        "separable": np.array(je.product_policy(alone)),
    }


POLICIES = policies()


@jax.jit
def additive(policy, reward, discount):
    chain = je.pair_chain(MDP, policy)
    return je.fit_additive(chain, reward, discount=discount)


@jax.jit
def monotone(key, policy):
    chain = je.pair_chain(MDP, policy)
    options = {"discount": DISCOUNT, "num_starts": 4, "num_targets": 60}
    return je.fit_monotone(key, chain, MDP.rewards, **options)


def projected_bellman(P, mu, reward, discount):
    """q smallest in sum_i E Q_i^2, by a pseudoinverse in the basis where that is its length."""
    root = np.sqrt(LIFT.T @ mu)
    B = LIFT / np.where(root > 0, root, np.inf)
    A = B.T @ (mu[:, None] * (B - discount * P @ B))
    x = np.linalg.pinv(A, rcond=1e-11) @ (B.T @ (mu * reward))
    return np.where(root > 0, x / np.where(root > 0, root, 1), 0)


@pytest.mark.parametrize("name", POLICIES)
def test_additive_is_the_smallest_solution(name):
    P = oracles.weakly_coupled_matrix(KERNELS, POLICIES[name])
    fit = additive(POLICIES[name], jnp.array(REWARD), DISCOUNT)
    mu = np.where(fit.visited, oracles.stationary(P), 0)
    assert fit.converged
    assert fit.residual < EXACT
    assert bool(fit.visited.all()) == (name != "deterministic")
    wanted = projected_bellman(P, mu, REWARD, DISCOUNT)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(np.concatenate(fit.q_local), wanted, atol=SOLVE * scale)
    np.testing.assert_allclose(fit.q_total, LIFT @ wanted, atol=SOLVE * scale)
    q = oracles.q_values(P, REWARD, DISCOUNT)
    error = np.where(mu > 0, q - LIFT @ wanted, 0)
    np.testing.assert_allclose(fit.error, error, atol=SOLVE * scale)
    np.testing.assert_allclose(fit.mu_error, mu @ np.abs(error), atol=SOLVE * scale)
    np.testing.assert_allclose(fit.sup_error, np.abs(error).max(), atol=SOLVE * scale)
    relative = mu @ np.abs(error) / (mu @ np.abs(q))
    np.testing.assert_allclose(fit.relative_error, relative, atol=SOLVE)
    holds(fit.bracket, mu, error)
    np.testing.assert_allclose(fit.bracket.error, error, atol=SOLVE * scale)


def holds(bracket, mu, error):
    """In both norms, and narrow, so far as float32 can tell the error from rounding."""
    assert bracket.converged or SINGLE
    assert bracket.lower <= mu @ np.abs(error) <= bracket.upper
    assert bracket.sup_lower <= np.abs(error).max() <= bracket.sup_upper


def test_the_bracket_of_a_chain_that_is_only_applied(monkeypatch):
    """And of a fit with no error, whose bracket is rounding."""
    monkeypatch.setattr(je.PairChain, "is_small", property(lambda self: False))
    for name in ("random", "separable"):
        P = oracles.weakly_coupled_matrix(KERNELS, POLICIES[name])
        mu = oracles.stationary(P)
        wanted = LIFT @ projected_bellman(P, mu, REWARD, DISCOUNT)
        fit = je.fit_additive(je.pair_chain(MDP, POLICIES[name]), REWARD, discount=DISCOUNT)
        holds(fit.bracket, mu, oracles.q_values(P, REWARD, DISCOUNT) - wanted)
        assert (fit.bracket.lower == 0) == (name == "separable")


def test_additive_against_hindsight():
    """Exact where agents decide alone; else within the bound of Tsitsiklis and Van Roy."""
    exact = additive(POLICIES["separable"], jnp.array(REWARD), DISCOUNT)
    assert exact.sup_error < SOLVE
    for i, reward in enumerate(MDP.rewards):
        own = POLICIES["separable"].sum(tuple(3 + k for k in range(3) if k != i))
        own = own[tuple(slice(None) if k == i else 0 for k in range(3))]
        P = oracles.weakly_coupled_matrix([KERNELS[i]], own)
        q = oracles.q_values(P, np.ravel(reward), DISCOUNT)
        difference = exact.q_local[i] - q
        np.testing.assert_allclose(difference - difference[0], 0, atol=SOLVE)
    for name in ("random", "deterministic"):
        fit = additive(POLICIES[name], jnp.array(REWARD), DISCOUNT)
        nearest = additive(POLICIES[name], fit.q_joint, 0.0)
        root = np.sqrt(fit.mu)
        least = np.linalg.lstsq(root[:, None] * LIFT, root * fit.q_joint, rcond=None)[0]
        off, best = fit.mu @ fit.error**2, fit.mu @ (fit.q_joint - LIFT @ least) ** 2
        np.testing.assert_allclose(fit.mu @ nearest.error**2, best, rtol=1e-6, atol=1e-14)
        assert best * (1 - EXACT) <= off <= best / (1 - DISCOUNT**2)
        assert off > 1e-6  # there is an error to speak of


def test_additive_learns_from_a_shared_reward():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=REWARD.shape)
    P = oracles.weakly_coupled_matrix(KERNELS, POLICIES["random"])
    fit = additive(POLICIES["random"], jnp.array(shared), DISCOUNT)
    wanted = projected_bellman(P, oracles.stationary(P), shared, DISCOUNT)
    np.testing.assert_allclose(fit.q_total, LIFT @ wanted, atol=1e-7)


def test_two_splits_of_a_sparse_reward():
    """Three agents in three cells who are paid when all meet: a median of that is 0."""
    walk = np.full((3, 2, 3), 0.1)
    for s in range(3):
        walk[s, 0, s], walk[s, 1, (s + 1) % 3] = 0.8, 0.8
    walk[0, :] = [[0.9, 0.05, 0.05], [0.5, 0.45, 0.05]]  # the first cell holds them
    kernel = np.einsum("iau,jbv,kcw->ijkabcuvw", walk, walk, walk)
    meet = np.array([len({i, j, k}) == 1 for i, j, k in np.ndindex(3, 3, 3)], float)
    reward = np.broadcast_to(meet.reshape(3, 3, 3, 1, 1, 1), (3, 3, 3, 2, 2, 2))
    game = je.CooperativeGame(jnp.array(kernel), jnp.array(reward), 0.9)
    chain = je.pair_chain(game, jnp.full((3, 3, 3, 2, 2, 2), 1 / 8))
    mu = je.stationary_distribution(chain)
    shared = game.pair_reward
    mean = je.split_reward(chain, shared, mu=mu)
    lift = np.stack([chain.lift([e[:6], e[6:12], e[12:]]) for e in np.eye(18)], axis=1)
    root = np.sqrt(np.array(mu))
    wanted = np.linalg.lstsq(root[:, None] * lift, root * np.array(shared), rcond=None)[0]
    np.testing.assert_allclose(chain.lift(mean), lift @ wanted, atol=SOLVE)
    median = je.reward_entanglement(chain, shared, mu).minimizer
    errors = [
        je.decompose(chain, split, discount=0.9, shared=shared, mu=mu).relative_error
        for split in (median, mean)
    ]
    joint = je.fit_additive(chain, shared, discount=0.9, mu=mu)
    np.testing.assert_allclose(errors[0], 1, atol=1e-6)
    assert errors[1] < 0.5
    # Nothing is entangled, so the values of the split are the nearest sum to the team's.
    np.testing.assert_allclose(errors[1], joint.relative_error, atol=SOLVE)
    with pytest.raises(ValueError, match="reward: is a sequence"):
        je.split_reward(chain, list(mean))


@pytest.mark.slow
def test_additive_gradient():
    @jax.jit
    def error(logits):
        chain = je.pair_chain(MDP, je.softmax_policy(logits))
        fit = je.fit_additive(chain, jnp.array(REWARD), discount=DISCOUNT)
        return fit.mu @ fit.error**2

    logits = np.log(POLICIES["random"])
    direction = np.random.default_rng(0).normal(size=logits.shape)
    given = np.vdot(jax.jit(jax.grad(error))(logits), direction)
    wanted = (error(logits + 1e-5 * direction) - error(logits - 1e-5 * direction)) / 2e-5
    assert abs(wanted) > 1e-4
    np.testing.assert_allclose(given, wanted, atol=FD)


def test_broken_chain_is_nan_inside_a_trace():
    fit = additive(0.5 * POLICIES["random"], jnp.array(REWARD), DISCOUNT)
    assert np.isnan(fit.mu_error)
    assert not fit.converged


def test_mixture_is_the_network():
    rng = np.random.default_rng(0)
    chain = je.pair_chain(MDP, POLICIES["random"])
    weights = {
        "local": [rng.normal(size=n) for n in SIZES],
        "into": rng.normal(size=(12, 3, 5)),
        "bias": rng.normal(size=(12, 5)),
        "out": rng.normal(size=(12, 5)),
        "constant": rng.normal(size=12),
    }
    given = jax.jit(monotone_fit._mixture)(chain, weights)
    for j, pair in enumerate(itertools.product(*map(range, SIZES))):
        split = [divmod(x, a) for x, a in zip(pair, ACTIONS)]
        s = np.ravel_multi_index([state for state, _ in split], STATES)
        q = np.array([f[x] for f, x in zip(weights["local"], pair)])
        units = q @ np.abs(weights["into"][s]) + weights["bias"][s]
        units = np.where(units > 0, units, np.expm1(units))
        wanted = units @ np.abs(weights["out"][s]) + weights["constant"][s]
        np.testing.assert_allclose(given[j], wanted, atol=EXACT)


def test_monotone_fit():
    key = jax.random.key(0)
    alone = monotone(key, POLICIES["separable"])
    spread = np.sqrt(alone.mu @ (alone.q_joint - alone.mu @ alone.q_joint) ** 2)
    assert alone.converged
    assert np.sqrt(alone.mu @ alone.error**2) < 0.01 * spread
    fit = monotone(key, POLICIES["random"])
    nearest = additive(POLICIES["random"], fit.q_joint, 0.0)
    # The mixture knows the joint state, which no sum of local functions does.
    assert fit.mu @ fit.error**2 < 0.5 * (nearest.mu @ nearest.error**2)
    np.testing.assert_allclose(fit.error, fit.q_joint - fit.q_total, atol=EXACT)
    holds(fit.bracket, fit.mu, fit.error)
    # In every state, what an agent ranks higher is better, whatever the others do.
    order = (0, 2, 4, 1, 3, 5)
    shape = [n for pair in zip(STATES, ACTIONS) for n in pair]
    total = np.reshape(fit.q_total, shape).transpose(order)
    for agent in (0, 2):
        local = np.reshape(fit.q_local[agent], (2, 2))
        gain = np.diff(np.moveaxis(total, (agent, 3 + agent), (0, -1)), axis=-1)[..., 0]
        up = np.sign(np.diff(local, axis=-1)[:, 0])
        assert (up[:, None] * gain.reshape(2, -1) >= -EXACT).all()


GAMES = {  # rewards of two agents, and a mean squared error that monotone fits have
    "climbing": ([[11, -30, 0], [-30, 7, 6], [0, 0, 5]], 152.33),
    "penalty": ([[-100, 0, 10], [0, 2, 0], [10, 0, -100]], 1284.6),
    "one good, four fair": ([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]], 32.0),
}


@jax.jit
def one_shot(keys, rewards):
    """Monotone fits of a game with one state, played uniformly, from each key."""
    shape = rewards.shape
    game = je.CooperativeGame(jnp.ones((1, 1, *shape, 1, 1)), rewards[None, None], 0.0)
    chain = je.pair_chain(game, jnp.full((1, 1, *shape), 1 / rewards.size))

    def fit(key):
        found = je.fit_monotone(key, chain, game.pair_reward, discount=0.0)
        return found.mu @ found.error**2

    return jax.lax.map(fit, keys)


@pytest.mark.parametrize("name", GAMES)
def test_monotone_leaves_a_wrong_order(name):
    """From local values 0 the first gradient orders the actions wrongly, and training stays there:
    175.1 in the climbing game from every key."""
    rewards, reached = GAMES[name]
    found = one_shot(jax.random.split(jax.random.key(0), 6), jnp.array(rewards, float))
    assert (found < 1.002 * reached).all()


def test_one_start_is_a_single_training():
    rewards = jnp.array(GAMES["climbing"][0], float)
    game = je.CooperativeGame(jnp.ones((1, 1, 3, 3, 1, 1)), rewards[None, None], 0.0)
    chain = je.pair_chain(game, jnp.full((1, 1, 3, 3), 1 / 9))
    options = {"discount": 0.0, "num_starts": 1}
    fit = je.fit_monotone(jax.random.key(0), chain, game.pair_reward, **options)
    assert fit.converged  # TD stands still there, and yet there is a better fit
    np.testing.assert_allclose(fit.mu @ fit.error**2, 175.0864, atol=1e-3)


def test_too_few_steps_are_not_converged():
    chain = je.pair_chain(MDP, POLICIES["random"])
    fit = je.fit_monotone(
        jax.random.key(0), chain, MDP.rewards, discount=DISCOUNT, num_targets=1, steps_per_target=1
    )
    assert not fit.converged
    assert fit.residual > 0.01
    assert fit.num_steps == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_starts": 0}, "num_starts: 0 is not an integer of at least 1"),
        ({"hidden": 0}, "hidden: 0 is not an integer of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not positive"),
        ({"tol": -1.0}, "tol: -1.0 is not positive"),
        ({"discount": 1.0}, "discount: 1 is outside"),
    ],
)
def test_bad_numbers(change, match):
    chain = je.pair_chain(MDP, POLICIES["random"])
    with pytest.raises(ValueError, match=match):
        je.fit_monotone(jax.random.key(0), chain, MDP.rewards, **{"discount": 0.9, **change})


def test_monotone_needs_a_policy_table():
    chain = je.PairChain.from_matrix(np.eye(4)[[1, 2, 3, 0]], sizes=(2, 2))
    with pytest.raises(ValueError, match="chain: has no joint policy table"):
        je.fit_monotone(jax.random.key(0), chain, [np.ones(2)] * 2, discount=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["signal", "exchangeable"])
def test_other_views(model):
    """Views that share a factor, and one function for all agents: the same projected equation."""
    rng = np.random.default_rng(0)
    if model == "signal":
        kernels = tuple(jnp.array(oracles.random_stochastic(rng, 2, 2, 3, 2)) for _ in range(2))
        rewards = tuple(jnp.array(rng.normal(size=(2, 2, 3))) for _ in range(2))
        signal = jnp.array(oracles.random_stochastic(rng, 3, 3))
        mdp = je.ExogenousMDP(kernels, rewards, signal, 0.9)
        policy = jnp.array(oracles.random_policy(rng, (2, 2, 3), (2, 2)))
        chain, rewards = je.pair_chain(mdp, policy), list(rewards)
    else:
        bandit = je.circulant_bandit(10)
        chain = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
        rewards = [jnp.asarray(bandit.reward)]
    fit = je.fit_additive(chain, rewards, discount=0.9)
    assert fit.converged
    target = chain.lift(rewards) + 0.9 * chain.mv(fit.q_total)
    (sums,) = jax.linear_transpose(chain.lift, fit.q_local)(fit.mu * (fit.q_total - target))
    for part in sums:
        np.testing.assert_allclose(part, 0, atol=1e-10)
    local = je.decompose(chain, rewards, discount=0.9)
    nearest = je.fit_additive(chain, fit.q_joint, discount=0.0)
    off, best = (fit.mu @ x.error**2 for x in (fit, nearest))
    assert 0 < best <= off <= best / (1 - 0.9**2)
    assert best <= local.mu @ local.error**2


@pytest.mark.slow
def test_experiment(tmp_path):
    toy = ["--agents", "2", "--models", "3", "--levels", "2", "--out", str(tmp_path)]
    assert experiment.main(toy) in (0, 1)  # three models are too few to hold the claims to
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"mixing.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    found = {k: np.array(v) for k, v in stored["by_agents"]["2"].items()}
    assert found["converged"].all()
    assert found["local"][:, 0].max() < SOLVE
    assert (found["entanglement"][:, 1] > 0.01).all()
    assert (found["nearest"] <= found["additive"] + SOLVE).all()
    experiment.main([*toy, "--resume"])
    assert json.loads((tmp_path / "results.json").read_text()) == stored


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--agents", "1"], "--agents: (1,) are not all"),
        (["--levels", "1"], "--levels: 1 is fewer"),
    ],
)
def test_experiment_ends_with_one_line(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        experiment.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err
