"""The audit and its command: numbers, words, files, and one line for bad input."""

import errno
import io
import json
import os
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxent
from jaxent import plotting
from jaxent.auditing import report
from jaxent.auditing.agent_estimates import AgentEstimates
from jaxent.auditing.learned_sum import learned_sum
from jaxent.auditing.report import to_dict
from jaxent.auditing.verdict import agent_words
from tests.reference import cases
from tests.tolerances import EXACT, SOLVE, by_precision

pd = pytest.importorskip("pandas")
main = pytest.importorskip("jaxent.reporting.cli").main

STEPS = 1_500
BATCHES = np.random.default_rng(0).uniform(0.1, 0.2, (2, 20))


@pytest.fixture(scope="module")
def log():
    """Two entangled agents of the reference, their policy, and the exact answers."""
    case = cases("weakly_coupled")[1]
    kernels = np.array(case["transitions"]).transpose(0, 2, 1, 3)
    agents = tuple(map(jaxent.MDP, kernels, np.array(case["rewards"])))
    chain = jaxent.pair_chain(
        jaxent.WeaklyCoupledMDP(agents, case["gamma"]), jnp.array(case["policy"])
    )
    run = jaxent.chain_trajectory(
        jax.random.key(0), chain, case["rewards"], num_steps=STEPS, num_actions=2
    )
    table, states = np.array(case["policy"]), np.asarray(run.states)
    laws = [table.sum(3)[tuple(states.T)], table.sum(2)[tuple(states.T)]]
    return run, np.stack(laws, axis=1), case


@pytest.fixture(scope="module")
def found(log):
    return jaxent.audit(log[0], discount=0.8, num_permutations=39)


def test_numbers(log, found):
    run, _, case = log
    assert found.words == ("entangled", "entangled")
    np.testing.assert_allclose(found.p_value, 1 / 40, atol=EXACT)
    assert (found.lower < found.entanglement).all()
    assert (found.entanglement < found.upper).all()
    assert (found.lower < np.array(case["mu_atv_eq7"])).all()
    np.testing.assert_allclose(found.q_local, case["q_local"], atol=0.5)
    span = np.ptp(found.q_local, axis=1)
    np.testing.assert_allclose(found.bound, 8 * found.entanglement @ span, rtol=SOLVE)
    largest = np.abs(np.asarray(run.rewards)).max(0)
    np.testing.assert_allclose(found.theorem_6, 80 * found.upper @ largest, rtol=SOLVE)
    total = sum(q[x] for q, x in zip(found.q_local, np.asarray(run.pairs).T))
    np.testing.assert_allclose(found.scale, np.abs(total).mean(), rtol=SOLVE)
    np.testing.assert_allclose(found.level, total.mean(), rtol=SOLVE)
    np.testing.assert_allclose(found.spread, np.abs(total - total.mean()).mean(), rtol=SOLVE)
    assert found.level_lower < found.level < found.level_upper
    np.testing.assert_array_equal(np.diag(found.influence), 0)
    # With two agents the one other's state is what the features count.
    off = found.influence[[0, 1], [1, 0]]
    np.testing.assert_allclose(off, found.entanglement, atol=0.02)
    report = str(found)
    assert report.startswith("The sum of local values misses the true value of the team by ")
    assert f"\nverdict: {found.verdict}\n" in report
    assert f"{found.entanglement[0]:.4f}" in report


def test_key_and_the_seed_of_old(log, found):
    """`seed=0` gives what no key gives, and `seed=3` what its key does."""
    told = partial(jaxent.audit, log[0], discount=0.8, num_permutations=39)
    with pytest.warns(DeprecationWarning, match="audit: the argument seed is now key="):
        assert str(told(seed=0)) == str(found)
    with pytest.warns(DeprecationWarning, match="seed"):
        old = told(seed=3)
    new = told(key=jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_with_the_policy(log):
    run, laws, case = log
    found = jaxent.audit(run, discount=0.8, policy=laws)
    exact = np.array(case["proposition1"])
    assert (found.lower <= exact).all()
    assert (exact <= found.upper).all()
    assert found.words == ("entangled", "entangled")
    assert found.influence.size == 0
    for i in range(2):
        every, here = jaxent.by_local(laws[:, i], run.states[:, i], num_local=3)
        one = jaxent.entanglement_interval(every, here)
        np.testing.assert_allclose(found.entanglement[i], one.value, rtol=SOLVE)
    with pytest.raises(ValueError, match="policy: wanted shape"):
        jaxent.audit(run, discount=0.8, policy=laws[:-1])


def test_command(log, found, tmp_path, capsys):
    path, out = tmp_path / "log.csv", tmp_path / "out"
    jaxent.to_frame(log[0]).to_csv(path, index=False)
    options = ["--discount", "0.8", "--num-permutations", "39", "--out", str(out)]
    assert main(["audit", str(path), *options]) == 0
    printed = capsys.readouterr().out
    assert str(found) in printed
    content = json.loads((out / "audit.json").read_text())
    assert content["file"] == str(path)
    assert content["verdict"] == found.verdict
    np.testing.assert_allclose(content["entanglement"], found.entanglement, rtol=SOLVE)
    assert (out / "audit.png").stat().st_size > 10_000


def test_gaps_are_left_out_and_listed(log, tmp_path, capsys):
    frame = jaxent.to_frame(log[0])
    path, out = tmp_path / "log.csv", tmp_path / "out"
    frame[(frame["agent"] != 1) | (frame["t"] < 1400)].to_csv(path, index=False)
    options = ["--num-permutations", "39", "--out", str(out)]
    assert main(["audit", str(path), "--allow-gaps", *options]) == 0
    printed = capsys.readouterr().out
    assert "note: row 2801, column agent: 1 has no rows after this one from t = 1400" in printed
    content = json.loads((out / "audit.json").read_text())
    assert np.isfinite(content["entanglement"]).all()


def no_room(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def quick(found, monkeypatch, tmp_path):
    """The command in a folder of its own, with a log; the audit gives what it gave above."""
    monkeypatch.setattr(report, "audit", lambda *args, **options: found)
    monkeypatch.setattr(plotting, "plot_audit", lambda found: Figure((1, 1)))
    monkeypatch.chdir(tmp_path)
    spoiled("", 0).to_csv("log.csv", index=False)
    return tmp_path


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_folders_are_named_after_the_whole_name(quick, capsys):
    for name in ("run.2024.05.csv", "run.2024.06.csv", "run.2024.07.parquet"):
        frame = spoiled("", 0)
        frame.to_csv(name, index=False) if "csv" in name else frame.astype(int).to_parquet(name)
        assert main(["audit", name]) == 0
    folders = sorted(path.name for path in quick.iterdir() if path.is_dir())
    assert folders == ["audit-run.2024.05", "audit-run.2024.06", "audit-run.2024.07"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_both_files_have_the_mode_of_any_file(quick, mask):
    before = os.umask(mask)
    try:
        assert main(["audit", "log.csv"]) == 0
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (quick / "audit-log").iterdir()]
    assert modes == [0o666 & ~mask] * 2


def test_a_full_disk_leaves_nothing(quick, capsys, monkeypatch):
    monkeypatch.setattr(json, "dump", no_room)
    said = refusal(capsys, "log.csv", "--out", "a/b")
    assert said == "jaxent audit: a/b/audit.json: cannot be written (No space left on device)\n"
    assert left(quick) == ["log.csv"]


def test_numbers_are_kept_where_the_picture_has_no_room(quick, capsys, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_room)
    said = refusal(capsys, "log.csv")
    assert said.endswith(
        "audit.png: cannot be written (No space left on device); audit.json is written\n"
    )
    assert left(quick) == ["audit-log", "audit-log/audit.json", "log.csv"]
    assert json.loads((quick / "audit-log" / "audit.json").read_text())["file"] == "log.csv"


@pytest.mark.parametrize("name", ["audit.json", "audit.png"])
def test_a_folder_in_the_place_of_a_file(quick, capsys, name):
    (quick / "audit-log" / name).mkdir(parents=True)
    assert f"--out audit-log: {name} is a folder there" in refusal(capsys, "log.csv")
    assert left(quick) == ["audit-log", f"audit-log/{name}", "log.csv"]


def test_a_refusal_takes_away_only_what_it_made(quick, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(quick)
    (quick / "kept").mkdir()
    assert "discount" in refusal(capsys, "log.csv", "--discount", "2", "--out", "kept/a/b")
    assert left(quick) == ["kept", "log.csv"]


def test_interrupted(quick, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "audit", stop)
    assert main(["audit", "log.csv"]) == 130
    assert capsys.readouterr().err == "jaxent audit: interrupted\n"
    assert left(quick) == ["log.csv"]


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("ascii", "\\xe9")])
def test_whatever_the_terminal_shows(quick, monkeypatch, found, encoding, shown):
    names = ("é", "\x1b[2J\u202e")
    monkeypatch.setattr(report, "audit", lambda *args, **options: found._replace(agents=names))
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["audit", "log.csv"]) == 0
    printed = screen.buffer.getvalue().decode(encoding)
    assert f"\n  {shown} " in printed
    assert "\n  \\x1b[2J\\u202e " in printed
    assert all(line.isprintable() for line in printed.split("\n"))
    content = json.loads((quick / "audit-log" / "audit.json").read_text())
    assert content["agents"] == list(names)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EPIPE])
def test_nobody_reads_what_is_printed(quick, capsys, monkeypatch, error):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(sys, "stdout", Closed())
    if error == errno.EPIPE:  # `jaxent audit log.csv | head -1`
        assert main(["audit", "log.csv"]) == 0
    else:
        assert "standard output: cannot be written (No space left" in refusal(capsys, "log.csv")
    assert (quick / "audit-log" / "audit.png").exists()


def test_a_path_a_frame_a_log_and_a_trajectory(tmp_path, found, monkeypatch):
    heard = []

    def estimates(key, trajectory, *rest):
        heard.append(trajectory)
        numbers = (found.entanglement, found.lower, found.upper, found.p_value)
        return AgentEstimates(*numbers, BATCHES)

    monkeypatch.setattr(report, "from_logs", estimates)
    monkeypatch.setattr(report, "influence_map", lambda *rest: found.influence)
    frame = spoiled("", 0).astype({"t": int, "agent": int, "state": int, "reward": float})
    path = tmp_path / "log.parquet"
    frame.astype({"action": int}).to_parquet(path)
    told = partial(jaxent.audit, discount=0.8, num_permutations=9, min_visits=5)
    first = str(told(path))
    log = jaxent.read_log(frame)
    for given in (str(path), frame, log, log.trajectory):
        assert str(told(given)) == first
        jax.tree.map(np.testing.assert_array_equal, heard[-1], heard[0])
    with pytest.raises(ValueError, match=r"Trajectory\.from_arrays takes arrays"):
        told(np.zeros((60, 2)))
    with pytest.raises(ValueError, match=r"none\.csv: cannot be read"):
        told("none.csv")


@pytest.mark.parametrize("policy", [None, np.ones((60, 2, 1))])
def test_continuous_columns_are_refused_before_anything_is_learned(policy, monkeypatch):
    monkeypatch.delattr(report, "learned_sum")
    states = np.random.default_rng(0).normal(size=(60, 2))
    run = jaxent.Trajectory.from_arrays(states, np.zeros((60, 2), int), np.ones((60, 2)))
    with pytest.raises(ValueError, match="column state: is continuous: 120 different numbers"):
        jaxent.audit(run, discount=0.9, policy=policy)
    with pytest.raises(ValueError, match="column state: is continuous"):
        jaxent.entanglement_from_logs(jax.random.key(0), run)


def test_rewards_of_any_size_in_single_precision(log, found, monkeypatch):
    """In float32 1e-60 would be 0 and 1e300 infinite; the audit is the same but for the scale."""
    run = log[0]
    # Entanglement does not ask for rewards.
    known = AgentEstimates(found.entanglement, found.lower, found.upper, found.p_value, BATCHES)
    monkeypatch.setattr(report, "from_logs", lambda *rest: known)
    monkeypatch.setattr(report, "influence_map", lambda *rest: found.influence)
    paid = np.asarray(run.rewards, np.float64)
    with jax.enable_x64(False):
        one, *others = (
            jaxent.audit(replace(run, rewards=paid * c), discount=0.8, num_permutations=1)
            for c in (1.0, 1e-60, 1e300)
        )
    for found, scale in zip(others, (1e-60, 1e300)):
        assert found.verdict == one.verdict
        for name in ("q_local", "bound", "bound_upper", "theorem_6", "scale"):
            ratio = getattr(found, name) / getattr(one, name)
            np.testing.assert_allclose(ratio, scale, rtol=1e-4)


def test_too_many_pairs_are_refused_before_anything_is_learned(monkeypatch):
    monkeypatch.delattr(report, "learned_sum")
    labels = jaxent.Labels.numbers(agents=2, states=400, actions=3)
    zero = np.zeros((60, 2), int)
    run = jaxent.Trajectory.from_arrays(zero, zero, zero, labels=labels)
    match = "column state: 400 labels are too many: 400 states and 3 actions are 1200 local pairs"
    with pytest.raises(ValueError, match=match):
        jaxent.audit(run, discount=0.9)
    with pytest.raises(ValueError, match=match):
        jaxent.entanglement_from_logs(jax.random.key(0), run)


def spoiled(column, value):
    """A log of 60 epochs and two agents with one entry of row 5 changed."""
    frame = pd.DataFrame(
        {
            "t": np.repeat(np.arange(60), 2),
            "agent": np.tile([0, 1], 60),
            "state": np.tile([0, 1, 1], 40),
            "action": 0,
            "reward": 1.0,
        }
    ).astype(object)
    if column:
        frame.loc[3, column] = value
    return frame


LOGS = {
    "no reward": (spoiled("", 0).drop(columns="reward"), "column reward is missing"),
    "negative time": (spoiled("t", -1), "row 5, column t: -1 is negative"),
    "twice": (spoiled("agent", 0), "row 5, column agent: 0 has a row for t = 1 already, row 4"),
    "no state": (spoiled("state", None), "row 5, column state: is empty"),
    "no number": (spoiled("reward", "much"), "row 5, column reward: 'much' is not a number"),
    "NaN": (spoiled("reward", np.nan), "row 5, column reward: is empty or not a number"),
    "one agent": (spoiled("", 0).query("agent == 0"), "column agent: every row is of 0"),
    "T = 1": (spoiled("", 0).query("t == 0"), "column t: 1 epochs are too few"),
    "gap": (spoiled("", 0).drop(index=3), "row 3, column agent: 1 has no rows after this one"),
}


@pytest.mark.parametrize("name", LOGS)
def test_bad_logs_end_with_one_line(name, tmp_path, capsys):
    frame, problem = LOGS[name]
    path = tmp_path / "log.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"jaxent audit: {path}: {problem}")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["audit", "none.csv"], "none.csv: cannot be read"),
        (["audit", "{log}", "--states", "0"], "log.csv: row 3, column state: 1 is none of the 1"),
        (["audit", "{log}", "--discount", "1"], "discount: 1 is outside"),
        (["audit", "{log}", "--out", "{log}"], "cannot write there"),
        (["audit"], ""),
        (["audit", "{log}", "--fast"], ""),
    ],
)
def test_bad_options(arguments, problem, tmp_path, capsys):
    path = tmp_path / "log.csv"
    spoiled("", 0).to_csv(path, index=False)
    arguments = [a.format(log=path) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_usage(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "usage: jaxent audit FILE" in capsys.readouterr().out


def test_a_shared_reward_is_split(log):
    run = log[0]
    arrays = (np.asarray(run.states), np.asarray(run.actions))
    total = np.asarray(run.rewards).sum(1)
    shared = jaxent.Trajectory.from_arrays(*arrays, total)
    found = jaxent.audit(shared, discount=0.8, num_permutations=39)
    assert found.reward_error < 1e-6
    noise = np.random.default_rng(0).normal(size=STEPS)
    noisy = jaxent.Trajectory.from_arrays(*arrays, total + noise)
    found = jaxent.audit(noisy, discount=0.8, num_permutations=39)
    np.testing.assert_allclose(
        found.reward_error, 1 / np.sqrt(np.mean((total + noise) ** 2)), rtol=0.1
    )
    assert f"shared reward leaves {found.reward_error:.1%} unexplained" in str(found)


def test_words_are_the_numbers_of_the_docs():
    found = {
        "p_value": np.array([0.01, 0.012, 0.04, 0.9, 0.001]),
        "lower": np.array([0.01, 0.0, 0.01, 0.0, 0.01]),
        "upper": np.array([0.04, 0.06, 0.2, 0.2, 0.2]),
    }
    lacking = np.array([False, False, False, False, True])
    words, reasons = agent_words(found, lacking, from_logs=True)
    # Benjamini and Hochberg: p <= .05 k / 4 holds for .01 and .012, not for .04.
    nothing = "no entanglement seen"
    assert words == ("weakly entangled", "entangled", nothing, nothing, "not enough data")
    # A word that the interval contradicts says why.
    assert [bool(reason) for reason in reasons] == [False, True, True, False, False]
    assert reasons[1].startswith("the interval holds 0, but the permutation test tells it from 0")
    assert reasons[2].startswith("the interval leaves 0 out, but the permutation test does not")
    assert all("false discovery rate of 5% over 4 agents" in reasons[i] for i in (1, 2))
    known = {"lower": np.array([0.0, 0.01]), "upper": np.array([0.02, 0.05])}
    words, reasons = agent_words(known, np.zeros(2, bool), from_logs=False)
    assert words == (nothing, "entangled")
    assert reasons == ("", "")


def test_a_contradicted_word_is_printed_with_its_reason(found):
    reason = "the interval leaves 0 out; and so on"
    told = found._replace(reasons=("", reason), words=("entangled", "no entanglement seen"))
    assert "no entanglement seen*\n" in str(told)
    assert f"\n  * {reason}\n" in str(told)
    assert to_dict(told)["reasons"] == ["", reason]
    assert "*" not in str(found)


def test_points_lie_in_their_intervals():
    """Example 1 has E = 0, so that estimates come out on either side of it."""
    mdp, policy = jaxent.example_1()
    chain = jaxent.pair_chain(mdp, policy)
    below = 0
    for seed in range(3):
        run = jaxent.chain_trajectory(
            jax.random.key(seed), chain, mdp.rewards, num_steps=1000, num_actions=2
        )
        raw = jaxent.entanglement_from_logs(jax.random.key(0), run, num_permutations=19)
        assert (raw.lower <= raw.value).all()
        assert (raw.value <= raw.upper).all()
        below += int((raw.value < 0).sum())
        found = jaxent.audit(run, discount=0.9, num_permutations=19)
        assert (found.lower >= 0).all()
        assert (found.lower <= found.entanglement).all()
        assert (found.entanglement < found.upper).all()
        # The upper end of one that came out below 0 is as far from 0 as it was from the estimate.
        reach = np.asarray(raw.upper - raw.value)
        np.testing.assert_allclose(found.upper - found.entanglement, reach, atol=1e-12)
    assert below > 0


def shifted(run, times, plus):
    return replace(run, rewards=np.asarray(run.rewards) * times + plus)


def test_no_reward_no_error(log):
    """A reward of 0, or the same everywhere, leaves nothing to be wrong about."""
    for constant in (0.0, 0.1, -7968.0):
        told = jaxent.audit(shifted(log[0], 0, constant), discount=0.8, num_permutations=39)
        assert told.verdict == "trust"
        for part in (told.error.value, told.error.differences, told.error.limit, told.error.bias):
            assert told.error.of_spread(part) == told.error.of_scale(part) == (0, 0, 0)
        assert told.headline.endswith("by 0.0% (0.0% to 0.0%) of its spread")
        assert told.level_lower == told.level == told.level_upper
        np.testing.assert_allclose(told.level, 2 * constant / 0.2, rtol=SOLVE)
        assert "inf" not in str(told)
        assert "nan" not in str(told)


def test_a_reward_that_no_split_explains_is_no_trust(log):
    """Paid by the toss of a coin: no sum explains it, and the bound has what that may cost."""
    run = log[0]
    arrays = (np.asarray(run.states), np.asarray(run.actions))
    team = np.random.default_rng(0).choice([-1.0, 1.0], STEPS)
    found = jaxent.audit(
        jaxent.Trajectory.from_arrays(*arrays, team), discount=0.8, num_permutations=39
    )
    assert found.reward_error > 0.95
    np.testing.assert_allclose(found.unexplained, 5 * found.reward_error, rtol=SOLVE)
    assert f"leaves {found.reward_error:.1%} unexplained" in str(found)
    assert found.verdict not in ("trust", "trust with care")


@pytest.mark.parametrize("times", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("plus", [0.0, 1e3])
def test_neither_a_unit_nor_a_constant_moves_the_verdict(log, found, times, plus):
    """The verdict speaks of differences, which a constant in all rewards leaves as they are."""
    told = jaxent.audit(shifted(log[0], times, plus * times), discount=0.8, num_permutations=39)
    assert told.verdict == found.verdict
    assert told.words == found.words
    for name in ("value", "differences", "limit"):
        shares = [x.error.of_spread(getattr(x.error, name)) for x in (told, found)]
        np.testing.assert_allclose(*shares, rtol=by_precision(1e-6, 1e-3))
    assert told.headline == found.headline
    np.testing.assert_allclose(told.spread, times * found.spread, rtol=by_precision(1e-6, 1e-4))
    level = times * (found.level + 2 * plus / 0.2)
    np.testing.assert_allclose(told.level, level, rtol=by_precision(1e-6, 1e-4))


def independent(discount):
    """Two agents that have nothing to do with each other, and their local values."""
    rng = np.random.default_rng(1)
    agents = tuple(
        jaxent.MDP(jnp.array(rng.dirichlet(np.ones(3), (3, 2))), jnp.array(rng.normal(size=(3, 2))))
        for _ in range(2)
    )
    mdp = jaxent.WeaklyCoupledMDP(agents, discount)
    own = [rng.dirichlet(np.ones(2), 3) for _ in range(2)]
    chain = jaxent.pair_chain(mdp, jaxent.product_policy([jnp.array(pi) for pi in own]))
    exact = jaxent.decompose(chain, mdp.rewards, discount=discount)
    return mdp, chain, own, [np.asarray(q) for q in exact.q_local]


def test_what_was_learned_has_an_interval():
    """Independent agents, their policy known: nothing is wrong in the limit, and in 1000 epochs at
    discount .99 the learned sum is far off. Its interval says so, and holds the truth."""
    mdp, chain, own, q = independent(0.99)
    level, beside, off = [], [], []
    for seed in range(30):
        run = jaxent.chain_trajectory(
            jax.random.key(seed), chain, mdp.rewards, num_steps=1000, num_actions=2
        )
        pairs = np.asarray(run.pairs).T
        true = sum(table[x] for table, x in zip(q, pairs))
        found = learned_sum(run, 0.99)
        apart = sum(table[x] for table, x in zip(found.q_local, pairs)) - true
        level.append(abs(apart.mean()) <= found.level_error)
        beside.append(np.abs(apart - apart.mean()).mean() <= found.sampling)
        off.append(abs(apart.mean()))
    assert np.mean(level) >= 0.8  # 95% wanted, 30 logs
    assert np.mean(beside) >= 0.9
    assert np.median(off) > 1  # of a true level of 2.2
    laws = np.stack([pi[np.asarray(run.states)[:, i]] for i, pi in enumerate(own)], axis=1)
    told = jaxent.audit(run, discount=0.99, policy=laws)
    assert told.words == ("no entanglement seen",) * 2
    assert told.bound_upper == 0
    assert told.verdict == "trust with care"
    assert "level, a constant, may be off" in told.sentence
    assert told.level_upper - told.level_lower > 5


def test_nothing_known_is_null_in_json(log):
    found = jaxent.audit(log[0], discount=0.8, num_permutations=39, min_visits=2 * STEPS)
    assert found.verdict == "not enough data"
    assert found.words == ("not enough data",) * 2
    content = json.loads(json.dumps(to_dict(found), allow_nan=False))
    assert content["entanglement"] == [None, None]
    assert "not enough data" in str(found)
