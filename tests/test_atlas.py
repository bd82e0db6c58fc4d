"""The atlas: rules by hand-worked returns, statistics by enumeration, a run that goes on."""

import csv
import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxent as je
from experiments.atlas import (
    diagnosing,
    environments,
    measuring,
    networks,
    sampled,
    study,
    training,
)
from experiments.atlas.problems import PROBLEMS, heuristic, model, uniform
from tests.tolerances import by_precision

SHORT = ["--quick", "--targets", "10", "--steps", "30", "--renewals", "5", "--starts", "1"]

NEAR = by_precision(1e-9, 1e-4)  # returns


def test_names_are_unique_and_every_problem_says_where_it_is_from():
    assert len(PROBLEMS) >= 25
    assert all(name == p.name and p.source and p.family for name, p in PROBLEMS.items())
    assert {p.quick for p in PROBLEMS.values()} == {True, False}


@pytest.mark.parametrize(
    ("name", "states", "best", "random"),
    [
        ("climbing", 1, 110.0, -310 / 9),  # 11 / (1 - 0.9), and the mean of the table
        ("penalty", 1, 100.0, -780 / 9),
        ("two_step", 3, 0.9 * 8 / (1 - 0.81), 22.5),
        ("tiger", 10, 200.0, None),  # who sees the tiger opens the other door: 20 an epoch
        ("signals", 12, 0.9 / (1 - 0.81), 0.3 / (1 - 0.81)),
    ],
)  # fmt: skip
def test_returns_worked_by_hand(name, states, best, random):
    """The best joint policy and random play return what the rules of the problem say."""
    game, _ = model(PROBLEMS[name])
    assert game.num_states == states
    chain = je.pair_chain(game, uniform(game))
    reward = np.ravel(np.asarray(game.rewards))
    found = je.greedy_gap(game, je.fit_additive(chain, reward, discount=0.9))
    np.testing.assert_allclose(found.joint_return, best, rtol=NEAR)
    if random is not None:
        value = measuring.returned_by(game, reward, uniform(game))
        np.testing.assert_allclose(value, random, rtol=NEAR)


def test_the_rule_of_thumb_of_the_two_step_game_is_best():
    game, rules = model(PROBLEMS["two_step"])
    policy = heuristic(game, rules.heuristic, 0.0)
    value = measuring.returned_by(game, np.ravel(np.asarray(game.rewards)), policy)
    np.testing.assert_allclose(value, 0.9 * 8 / (1 - 0.81), rtol=NEAR)


def test_training_finds_the_best_where_nothing_is_shared_and_a_worse_one_where_all_is():
    """Against all teams of fixed rules: additive is solved by all three, climbing by none."""
    for name, solved in (("additive", True), ("climbing", False)):
        game, _ = model(PROBLEMS[name])
        pay = np.asarray(game.rewards)[0]
        every = [pay[a] / 0.1 for a in itertools.product(range(3), repeat=2)]
        key = jax.random.key(0)
        made = [training.independent(key, game, num_seeds=1, num_steps=100)]
        made += [
            training.learned(key, game, mixed=mixed, num_seeds=1, num_targets=60)
            for mixed in (False, True)
        ]
        for tables in made:
            value = training.returned(game, training.greedy(tuple(t[0] for t in tables)))
            assert np.min(np.abs(np.array(every) - value)) < NEAR
            assert (value > max(every) - NEAR) == solved


def test_rank_statistics_against_scipy_and_enumeration():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 40)).astype(float)
    np.testing.assert_allclose(diagnosing.spearman(x, y), stats.spearmanr(x, y).statistic)
    fails = y > 2
    pairs = [np.sign(a - b) / 2 + 0.5 for a in x[fails] for b in x[~fails]]
    np.testing.assert_allclose(diagnosing.auc(x, fails), np.mean(pairs))
    assert np.isnan(diagnosing.auc(x, y > 9))
    assert diagnosing.lost(10.0, 0.0, 4.0) == 0.6
    assert diagnosing.lost(3.0, 3.0, 3.0) == 0


def test_an_interval_holds_its_value_and_draws_whole_problems():
    groups = np.repeat(np.arange(10), 3)
    x = np.repeat(np.arange(10.0), 3)
    value, low, high = diagnosing.interval(np.mean, groups, x, seed=0, draws=200)
    assert low < value < high
    # Were rows drawn by themselves, the mean of 30 would vary by a factor of sqrt(3) less.
    assert high - low > 2 * 1.96 * x.std() / np.sqrt(30) * 1.2


def test_a_diagnostic_that_no_problem_has_ranks_nothing():
    """A problem so large that E_i, reward entanglement and QMIX are left out, alone."""
    trained = {"best": 2.0, "uniform": 1.0, "returns": {"vdn": [1.5], "qmix": [2.0]}}
    trained["kind"] = "exact"
    known = {"sum_error": 0.1, "vdn_error": 0.1, "vdn_gap": 0.5, "qmix_gap": None}
    row = {**dict.fromkeys(diagnosing.DIAGNOSTICS), **known, "problem": "a", "policy": "uniform"}
    found = diagnosing.rank([{"trained": trained, "rows": [row]}], 0, 10)
    numbers = {(r.question, r.method, r.diagnostic): r.number for r in found}
    assert numbers["before training", "vdn", "vdn_error"] == 1
    assert numbers["before training", "vdn", "reward"] == 0
    assert all(np.isnan(r.auc[0]) for r in found)


def test_estimated_rows_are_ranked_apart():
    """Three exact problems rank a loss perfectly; an estimated one counts only among all."""
    found = []
    for k, kind in enumerate(("exact", "exact", "exact", "estimated")):
        error = 0.1 * k if kind == "exact" else 0.0
        returns = {"vdn": [1 - 0.1 * k], "qmix": [1.0]}
        trained = {"problem": str(k), "best": 1.0, "uniform": 0.0, "returns": returns, "kind": kind}
        row = dict.fromkeys(diagnosing.DIAGNOSTICS, error) | {"vdn_gap": None, "qmix_gap": None}
        found.append({"trained": trained, "rows": [row | {"problem": str(k), "policy": "uniform"}]})
    told = {r.rows: r for r in diagnosing.rank(found, 0, 10) if r.diagnostic == "sum_error"
            and (r.question, r.method) == ("before training", "vdn")}  # fmt: skip
    assert (told["exact"].number, told["all"].number) == (3, 4)
    np.testing.assert_allclose(told["exact"].spearman[0], 1)
    assert told["all"].spearman[0] < 0.3
    assert {r.rows for r in diagnosing.rank(found[:3], 0, 10)} == {"exact"}


def test_what_wraps_an_environment():
    """Nine actions are the grid of a turn and a push; a shaped reward comes to the reward."""
    inner = SimpleNamespace(num_agents=9, reset=None, step=lambda state, actions: actions)
    turned = environments.Turned(inner)
    assert turned.action_spec.num_values.shape == (9,)
    np.testing.assert_array_equal(
        turned.step(None, jnp.arange(9)), list(itertools.product((-1, 0, 1), repeat=2))
    )
    given = {}, None, {"a": 1.0, "b": 0.0}, {}, {"shaped_reward": {"a": 0.5, "b": 2.0}}
    cook = SimpleNamespace(
        agents=["a", "b"], action_space=None, reset=None, step_env=lambda *_: given
    )
    assert environments.Shaped(cook).step_env(None, None, {})[2] == {"a": 1.5, "b": 2.0}


def test_many_numbers_are_seen_by_their_leading_components():
    """Sixty numbers that three explain: forty are kept, and distances are as before."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(100, 2, 3)) @ rng.normal(size=(3, 60))
    actions = np.zeros((100, 2), int)
    log = je.Trajectory.from_arrays(None, actions, np.zeros((100, 2)), observations=seen)
    short = np.asarray(sampled._shorter(log).observations)
    assert short.shape == (100, 2, sampled.KEPT)
    apart = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (seen, short)]
    np.testing.assert_allclose(apart[1], apart[0], atol=1e-4 * apart[0].max())


def test_a_killed_run_goes_on(tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second problem keeps the first; the table, the CSV and the picture follow."""
    argv = [*SHORT, "--draws", "20", "--only", "climbing", "additive", "--out", str(tmp_path)]
    once, seen = study.measure, []

    def stopped(name, *rest):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return once(name, *rest)

    monkeypatch.setattr(study, "measure", stopped)
    assert study.main(argv) == 130
    assert "1 problems are kept" in capsys.readouterr().err
    assert study.main([*argv, "--resume"]) == 0
    assert seen == ["climbing", "additive", "additive"]
    stored = json.loads((tmp_path / "results.json").read_text())
    climbing, additive = stored["found"]
    assert climbing["trained"]["certain"]
    assert diagnosing.regret(climbing["trained"], "vdn") > 0.2
    assert diagnosing.regret(additive["trained"], "vdn") == 0
    first = climbing["rows"][0]
    assert first["policy"] == "uniform"
    assert first["entanglement"] == 0  # one state: nothing to be entangled in
    pay = np.array([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]])
    rest = pay - pay.mean(0) - pay.mean(1, keepdims=True) + pay.mean()
    share = np.abs(rest).mean() / np.abs(pay - pay.mean()).mean()
    np.testing.assert_allclose(first["vdn_error"], share, rtol=1e-6)
    with (tmp_path / "atlas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["problem"], r["policy"]) for r in rows} >= {
        ("climbing", "qmix"),
        ("additive", "vdn"),
    }
    assert (tmp_path / "atlas.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("argv", "match"),
    [(["--only", "ludo"], "--only: 'ludo' is not one of climbing"), (["--seeds", "0"], "--seeds")],
)
def test_bad_options_of_the_atlas(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        study.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err


def test_an_environment_that_is_not_there_is_left_out_with_a_reason(tmp_path, monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("no", name="jaxmarl")

    entry = sampled.SAMPLED["coin_game"]._replace(make=missing)
    monkeypatch.setitem(sampled.SAMPLED, "coin_game", entry)
    found = sampled.measure("coin_game", 0)
    assert isinstance(found, sampled.Skipped)
    assert found.reason
    with pytest.raises(SystemExit):
        study.main(["--only", "coin_game", "--out", str(tmp_path)])
    told = capsys.readouterr()
    assert f"coin_game: left out, {found.reason}" in told.out
    assert "none of these can be measured here" in told.err


def pay_for_actions():
    """A game of one step that pays for each agent's action, of which the last is forbidden."""
    pay = jnp.array([[0.0, 1.0, 0.3], [0.5, 0.0, 2.0]])

    def reset(key):
        return (jnp.zeros(1), jnp.zeros(1)), jnp.zeros(())

    def step(key, state, actions):
        seen, state = reset(key)
        paid = jnp.broadcast_to(pay[jnp.arange(2), actions].sum(), (2,))
        return SimpleNamespace(observations=seen, state=state, rewards=paid, ended=jnp.array(True))

    masks = (jnp.ones(3, bool), jnp.array([True, True, False]))
    return SimpleNamespace(
        agents=("a", "b"), num_actions=(3, 3), reset=reset, step=step, masks=lambda *_: masks
    )


@pytest.mark.parametrize("kind", ["gradient", "vdn", "qmix"])
def test_networks_learn_what_is_paid_apart_and_never_do_what_is_forbidden(kind, monkeypatch):
    """The best allowed actions are 1 and 0: 1.5, where the forbidden one would make it 3."""
    for name, value in {"GAMES": 8, "STEPS": 8, "LONG": 10, "HIDDEN": 16, "RATE": 0.02}.items():
        monkeypatch.setattr(networks, name, value)
    with jax.numpy_rank_promotion("allow"):  # as where it is used
        team = networks.Team.of(pay_for_actions(), 0.9)
        train_key, play_key = jax.random.split(jax.random.key(0))
        if kind == "gradient":
            weights, choose = networks.gradient(train_key, team, 60)
        else:
            weights, choose = networks.values(train_key, team, kind == "qmix", 60)
        np.testing.assert_allclose(networks.earned(team, play_key, choose, weights, 0.0), 1.5)
        explored = networks.earned(team, play_key, choose, weights, 1.0)
        assert (explored <= 1.5 + 1e-6).all()
        assert explored.mean() < 1.4
