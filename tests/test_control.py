"""Control by fits of local values under exploration, against dense NumPy."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from experiments import control as experiment

from .test_order_fits import GAMES, chain_of, matrix_game, played, team_of
from .tolerances import EXACT, SOLVE, STEP, by_precision

FITS = {
    "vdn": je.fit_additive,
    "qmix": je.fit_isotonic,
    "weighted": partial(je.fit_weighted, alpha=0.01),
    "qplex": je.fit_igm,
}
SEES_ALL = ((0, 1, 2),) * 2


def two_steps():
    """Agent 0 chooses between two matrix games: 7 whatever is done, or one that pays 0, 1 or 8.

    A game ends after two steps and starts anew (Rashid et al. 2018, Table 1).
    """
    to = np.array([[1, 1], [2, 2]])[None].repeat(3, 0)
    to[1:] = 3
    pay = np.array([np.zeros((2, 2)), np.full((2, 2), 7.0), [[0, 1], [1, 8]]])
    start = jnp.array([1.0, 0, 0])
    return je.StateMDP((to[..., None], np.ones((3, 2, 2, 1))), SEES_ALL, jnp.array(pay), 0.9, start)


def test_the_two_step_game():
    """VDN takes the safe 7, QMIX and the others the 8; returns by hand, 0.9 v / (1 - 0.81)."""
    mdp = two_steps()
    returns = {}
    for name, fit in FITS.items():
        found = je.greedy_fixed_point(mdp, fit)
        assert found.converged
        assert found.changed == 0
        returns[name] = found.gap.greedy_return
        np.testing.assert_allclose(found.policy.reshape(3, 4).sum(1), 1)
    wanted = {name: 0.9 * (7 if name == "vdn" else 8) / 0.19 for name in FITS}
    assert returns == pytest.approx(wanted, rel=by_precision(1e-9, 1e-5))


@pytest.mark.parametrize("name", GAMES)
def test_matrix_games(name):
    """What greedy agents of each fixed point are paid a step, of the most there is."""
    best = np.max(GAMES[name])
    mdp = matrix_game(GAMES[name], discount=0.9)
    paid = {k: je.greedy_fixed_point(mdp, fit).gap.greedy_return / 10 for k, fit in FITS.items()}
    assert paid["vdn"] < best
    np.testing.assert_allclose([paid["weighted"], paid["qplex"]], best, rtol=SOLVE)


def test_additive_fit_under_exploration_by_dense_numpy():
    """L'D(I - discount P)L q = L'D r with P of the policy and D of uniform play."""
    mdp, K = team_of(0, ((0, 0, 1, 1), (0, 1, 1, 0)))
    chain, policy, law = played(mdp, 0)
    found = je.fit_additive(chain, mdp.rewards, discount=0.8, law=law)
    assert found.converged
    P = K @ (np.eye(4)[:, :, None] * policy[:, None]).reshape(4, 24)
    L = np.zeros((24, 10))
    for s, a, b in np.ndindex(4, 2, 3):
        row = 6 * s + 3 * a + b
        L[row, 2 * mdp.observations[0][s] + a] = 1
        L[row, 4 + 3 * mdp.observations[1][s] + b] = 1
    D, r = np.diag(np.asarray(law)), np.ravel(mdp.rewards)
    q = np.linalg.lstsq(L.T @ D @ (np.eye(24) - 0.8 * P) @ L, L.T @ D @ r, rcond=1e-10)[0]
    np.testing.assert_allclose(found.q_total, L @ q, atol=1e-8)
    true = np.linalg.solve(np.eye(24) - 0.8 * P, r)
    off = np.asarray(law) @ np.abs(true - L @ q)
    np.testing.assert_allclose(found.mu_error, off, rtol=1e-7)
    assert found.bracket.lower <= off * (1 + 1e-9)
    assert off <= found.bracket.upper * (1 + 1e-9)
    assert found.bracket.converged
    own = je.fit_additive(chain, mdp.rewards, discount=0.8)
    assert np.abs(np.asarray(own.q_total) - L @ q).max() > 0.01  # the law matters


def test_the_error_under_exploration_is_certified():
    """Direct and by products with the chain: both brackets hold the dense error."""
    mdp, K = team_of(1, ((0, 1, 2, 3),) * 2)
    chain, policy, law = played(mdp, 1)
    f = np.random.default_rng(1).normal(size=24)
    P = K @ (np.eye(4)[:, :, None] * policy[:, None]).reshape(4, 24)
    true = np.linalg.solve(np.eye(24) - 0.8 * P, np.ravel(mdp.rewards))
    off = np.asarray(law) @ np.abs(true - f)
    found = je.approximation_error(chain, mdp.rewards, f, discount=0.8, law=law)
    np.testing.assert_allclose(found.value, off, rtol=1e-9)
    assert found.lower <= off <= found.upper
    assert found.converged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(je.PairChain, "is_small", property(lambda self: False))
        loose = je.approximation_error(chain, mdp.rewards, f, discount=0.8, law=law, tol=0.5)
        tight = je.approximation_error(chain, mdp.rewards, f, discount=0.8, law=law, tol=1e-6)
    for bracket in (loose, tight):
        assert bracket.num_matvecs > 0
        assert bracket.lower <= off <= bracket.upper
    assert tight.upper - tight.lower < loose.upper - loose.lower


def test_a_law_that_will_not_do_is_nan_inside_a_trace():
    """No law, or one that the policy leaves: NaN and a flag; a good one as outside."""
    mdp, _ = team_of(0, ((0, 0, 1, 1), (0, 1, 1, 0)))
    chain, _, law = played(mdp, 0)

    @jax.jit
    def look(law):
        fit = je.fit_additive(chain, mdp.rewards, discount=0.8, law=law)
        bracket = je.approximation_error(chain, mdp.rewards, jnp.ones(24), discount=0.8, law=law)
        return fit.q_total, fit.converged, bracket.value, bracket.converged

    outside = je.fit_additive(chain, mdp.rewards, discount=0.8, law=law)
    total, converged, _, narrow = look(law)
    np.testing.assert_allclose(total, outside.q_total, atol=1e-9)
    assert converged
    assert narrow
    for wrong in (2 * law, jnp.eye(24)[0]):
        total, converged, value, narrow = look(wrong)
        assert not converged
        assert not narrow
        assert jnp.isnan(total).all()
        assert jnp.isnan(value)


def test_a_trained_mixture_under_exploration():
    """On a policy that is sure, a replay of uniform play shows what the policy never does."""
    pay = np.array(GAMES["qtran"])
    mdp = matrix_game(pay)
    sure = je.pair_chain(mdp, jnp.zeros((1, 3, 3)).at[0, 1, 1].set(1))
    options = {"discount": 0.0, "num_starts": 8, "num_targets": 60}
    found = je.fit_monotone(jax.random.key(0), sure, pay.ravel(), law=jnp.ones(9) / 9, **options)
    assert found.visited.all()
    assert found.mu @ found.error**2 < 40


def test_exploring_policies():
    mdp, _ = team_of(0, ((0, 0, 1, 1), (0, 1, 1, 0)))
    uniform = je.uniform_policy(mdp)
    np.testing.assert_allclose(uniform, 1 / 6, rtol=EXACT)
    rng = np.random.default_rng(0)
    values = [jnp.array(rng.normal(size=(2, a))) for a in (2, 3)]
    np.testing.assert_allclose(je.epsilon_greedy(mdp, values, epsilon=1.0), uniform, rtol=EXACT)
    table = np.asarray(je.epsilon_greedy(mdp, values, epsilon=0.3))
    best = [np.asarray(q).argmax(1) for q in values]
    for s in range(4):
        own = [np.full(a, 0.3 / a) for a in (2, 3)]
        for i in range(2):
            own[i][best[i][mdp.observations[i][s]]] += 0.7
        np.testing.assert_allclose(table[s], np.outer(*own), rtol=EXACT)
    flat = [jnp.ravel(q) for q in values]
    np.testing.assert_array_equal(je.epsilon_greedy(mdp, flat, epsilon=0.3), table)


def test_reward_interaction_by_dense_numpy():
    """1 - R^2 of a regression on indicators of local pairs, weighted by uniform play."""
    mdp, _ = team_of(2, ((0, 0, 1, 1), (0, 1, 1, 0)))
    found = je.reward_interaction(mdp)
    law = np.asarray(je.stationary_distribution(chain_of(mdp)))
    L = np.zeros((24, 10))
    for s, a, b in np.ndindex(4, 2, 3):
        L[6 * s + 3 * a + b, 2 * mdp.observations[0][s] + a] = 1
        L[6 * s + 3 * a + b, 4 + 3 * mdp.observations[1][s] + b] = 1
    r, root = np.ravel(mdp.rewards), np.sqrt(law)
    left = r - L @ np.linalg.lstsq(root[:, None] * L, root * r, rcond=None)[0]
    variance = law @ (r - law @ r) ** 2
    np.testing.assert_allclose(found.share, law @ left**2 / variance, rtol=1e-9)
    np.testing.assert_allclose(found.left, left, atol=1e-9)
    np.testing.assert_allclose(found.error, np.sqrt(law @ left**2), rtol=1e-9)
    own = je.reward_interaction(mdp, [jnp.ones((2, 2)), jnp.arange(6.0).reshape(2, 3)])
    assert own.share < EXACT
    assert je.reward_interaction(mdp, jnp.full((4, 2, 3), 0.1)).share == 0
    scaled = je.reward_interaction(mdp, 1e-9 * mdp.rewards)
    np.testing.assert_allclose(scaled.share, found.share, rtol=1e-9)
    grad = jax.grad(lambda x: je.reward_interaction(mdp, x).share)(mdp.rewards)
    step = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)))
    ends = [je.reward_interaction(mdp, mdp.rewards + h * step).share for h in (STEP, -STEP)]
    slope = (ends[0] - ends[1]) / (2 * STEP)
    np.testing.assert_allclose((grad * step).sum(), slope, rtol=by_precision(1e-5, 1e-2))


def test_going_in_circles_is_said():
    """A fit that prefers whatever is not played has no fixed point."""
    mdp = matrix_game(GAMES["qtran"], discount=0.5)

    def contrary(chain, rewards, *, discount, law):
        played = chain.policy.table.reshape(3, 3)
        fit = je.fit_additive(chain, rewards, discount=discount, law=law)
        return fit._replace(q_local=(-played.sum(1), -played.sum(0)))

    found = je.greedy_fixed_point(mdp, contrary, max_steps=5)
    assert not found.converged
    assert found.changed > 0
    assert found.num_steps == 5
    assert "not converged" in " ".join(str(found).split())
    once = je.greedy_fixed_point(mdp, je.fit_additive, max_steps=1)
    assert (once.converged, once.changed) == (False, 2)


def test_exploring_around_what_is_learned():
    """With little chance about it, VDN stays at what it found by it; the class of QPLEX does not
    mind."""
    mdp = matrix_game(GAMES["climbing"], discount=0.9)
    for epsilon in (1.0, 0.3):
        found = je.greedy_fixed_point(mdp, je.fit_igm, epsilon=epsilon)
        assert found.converged
        np.testing.assert_allclose(found.gap.greedy_return, 110, rtol=SOLVE)
    found = je.greedy_fixed_point(mdp, je.fit_additive, epsilon=0.1)
    assert found.gap.lost > 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epsilon": 0.0}, r"epsilon: 0.0 is not a number in \(0, 1\]"),
        ({"epsilon": 1.5}, "epsilon: 1.5"),
        ({"max_steps": 0}, "max_steps: 0"),
        ({"discount": 1.0}, "discount: 1 is outside"),
        ({"rewards": jnp.zeros(5)}, "rewards: wanted"),
        ({"start": jnp.ones(2)}, r"start: wanted shape \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    mdp = matrix_game(GAMES["qtran"], discount=0.5)
    with pytest.raises(ValueError, match=match):
        je.greedy_fixed_point(mdp, je.fit_additive, **change)


def test_what_explores_nothing_is_refused():
    mdp = matrix_game(GAMES["qtran"], discount=0.5)
    values = [jnp.zeros((1, 3))] * 2
    with pytest.raises(ValueError, match=r"epsilon: 2 is outside \[0, 1\]"):
        je.epsilon_greedy(mdp, values, epsilon=2.0)
    with pytest.raises(ValueError, match="values: wanted one for each of 2 agents, got 1"):
        je.epsilon_greedy(mdp, values[:1], epsilon=0.1)
    with pytest.raises(ValueError, match=r"values\[0\]: wanted shape \[1, 3\]"):
        je.epsilon_greedy(mdp, [jnp.zeros(4)] * 2, epsilon=0.1)
    with pytest.raises(ValueError, match="couples its agents' actions"):
        je.uniform_policy(je.example_1()[0])
    chain = chain_of(mdp)
    law = jnp.ones(9) / 9
    with pytest.raises(ValueError, match="mu: errors are weighed by law"):
        je.fit_additive(chain, jnp.zeros(9), discount=0.5, mu=law, law=law)
    with pytest.raises(ValueError, match=r"law: wanted shape \[9\]"):
        je.approximation_error(chain, jnp.zeros(9), jnp.zeros(9), discount=0.5, law=law[1:])
    with pytest.raises(ValueError, match="greedy_fixed_point: searches for a policy"):
        jax.jit(lambda p: je.greedy_fixed_point(p, je.fit_additive).gap.lost)(mdp)


def test_how_well_a_number_warns():
    """All pairs of a game that fails and one that does not; ties, and rounding, count half."""
    rng = np.random.default_rng(0)
    score, fails = rng.integers(0, 4, 30) / 3, rng.random(30) < 0.4
    pairs = [np.sign(a - b) / 2 + 0.5 for a in score[fails] for b in score[~fails]]
    np.testing.assert_allclose(experiment.ranked(score, fails), np.mean(pairs), rtol=EXACT)
    noisy = score + 1e-13 * rng.normal(size=30)
    np.testing.assert_allclose(experiment.ranked(noisy, fails), np.mean(pairs), rtol=EXACT)
    assert np.isnan(experiment.ranked(score, np.zeros(30, bool)))


def test_games_of_the_experiment():
    """All are models; the same seed gives the same ones."""
    games, again = (experiment.games(3, experiment.Config(games=1)) for _ in range(2))
    assert len(games) == len(experiment.MATRIX) + 2 + len(experiment.FAMILIES)
    for name, mdp in games.items():
        je.check_mdp(mdp)
        np.testing.assert_array_equal(mdp.rewards, again[name].rewards)


@pytest.mark.slow
def test_experiment(tmp_path):
    toy = ["--games", "1", "--states", "3", "--out", str(tmp_path)]
    assert experiment.main(toy) in (0, 1)  # too few games to hold the claims to
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"control.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    for row in stored["games"]:
        if "half seen" not in row["game"]:
            assert row["regret"]["QPLEX"] < 1e-6
        if row["game"].startswith("sum, alone"):
            assert max(row["regret"].values()) < 1e-6
    experiment.main([*toy, "--resume"])
    assert json.loads((tmp_path / "results.json").read_text()) == stored


@pytest.mark.parametrize(
    ("argv", "match"),
    [(["--games", "0"], "--games: at least 1"), (["--states", "9"], "--states: 9 is more than 8")],
)
def test_experiment_ends_with_one_line(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        experiment.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err
