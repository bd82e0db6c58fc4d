"""Audits of a trained critic: from arrays, frames and files, and one line where it does not match.

VDN and QMIX tables, trained by Q-learning with replay, have their true error in the interval.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.auditing import report
from jaxent.auditing.agent_estimates import AgentEstimates
from jaxent.auditing.critic import critic_along
from tests.tolerances import by_precision

from . import logs_of_chains as games
from .test_error_estimate import trained

pd = pytest.importorskip("pandas")
main = pytest.importorskip("jaxent.reporting.cli").main

DISCOUNT = 0.9
GAME = games.dense()
PATH = GAME.paths(0, 1_000, 1)[:, 0]
LOG = GAME.log(PATH)


@pytest.fixture
def quick(monkeypatch):
    """Entanglement is taken as known, for it does not enter the error."""

    def estimates(key, trajectory, *rest):
        one = np.ones(trajectory.num_agents)
        return AgentEstimates(0.1 * one, 0 * one, 0.2 * one, one, np.full((len(one), 20), 0.1))

    monkeypatch.setattr(report, "from_logs", estimates)
    monkeypatch.setattr(report, "influence_map", lambda *rest: np.zeros((0, 0)))


def own_values(num_steps=1_000, num_agents=2):
    """A value of every agent at every epoch."""
    return np.random.default_rng(0).normal(size=(num_steps, num_agents))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the log, whose epochs begin at 10 and are 5 apart, and its agents."""
    monkeypatch.chdir(tmp_path)
    frame = je.to_frame(LOG)
    frame["t"] = 10 + 5 * frame["t"]
    frame["agent"] = frame["agent"].map({0: "ann", 1: "bob"})
    frame.to_csv("log.csv", index=False)
    return tmp_path


def told(arguments, capsys):
    """What the command says on refusing."""
    with pytest.raises(SystemExit) as ended:
        main(["audit", "log.csv", "--discount", "0.9", *arguments])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("jaxent audit: ")
    return message


def test_all_doors_give_one_value(tmp_path):
    """Arrays, a frame, files by order or by t, wide or long: the same sum of the agents' values."""
    own = own_values()
    team = own.sum(1)
    time = np.asarray(LOG.time)
    wide = pd.DataFrame(own, columns=["0", "1"])
    long = pd.DataFrame(
        {"t": np.repeat(time, 2), "agent": np.tile([0, 1], len(time)), "value": own.ravel()}
    )
    mixed = np.random.default_rng(1).permutation(len(time))
    given = [
        own,
        team,
        team[:, None],
        jnp.asarray(own),
        own.tolist(),
        wide,
        wide[["1", "0"]],
        wide.rename(columns={"0": "first", "1": "second"}),
        pd.DataFrame(own),  # columns that are numbered have no names
        pd.DataFrame(team),
        pd.Series(team),
        pd.DataFrame({"q": team}),
        pd.DataFrame({"t": time, "q": team}).iloc[mixed],
        wide.assign(t=time, episode=3).iloc[mixed],
        long.sample(frac=1, random_state=0),
    ]
    for k, critic in enumerate(given):
        np.testing.assert_allclose(
            critic_along(critic, LOG), team, atol=by_precision(1e-12, 1e-6), err_msg=str(k)
        )
    named = [x for x in given if isinstance(x, pd.DataFrame) and isinstance(x.columns[0], str)]
    assert len(named) == 7
    for k, frame in enumerate(named):
        for path in (tmp_path / f"{k}.csv", tmp_path / f"{k}.csv.gz", tmp_path / f"{k}.parquet"):
            if path.suffix == ".parquet":
                frame.to_parquet(path)
            else:
                frame.to_csv(path, index=bool(k % 2))  # row numbers with an empty heading, or none
            np.testing.assert_allclose(critic_along(path, LOG), team, atol=1e-12)
            np.testing.assert_allclose(critic_along(str(path), LOG), team, atol=1e-12)
    tables = je.LocalQ(np.arange(8.0).reshape(2, 4), np.ones((2, 4)))
    pairs = np.asarray(LOG.pairs)
    np.testing.assert_allclose(critic_along(tables, LOG), pairs[:, 0] + 4.0 + pairs[:, 1])


def test_episodes_and_agents_that_come_and_go():
    """Times that are in several episodes need the episode, or the log's order; a cell of an agent
    that is not there may be empty, and does not count."""
    states = np.zeros((3, 30, 2), int)
    log = je.Trajectory.from_arrays(states, states, states)
    team = np.arange(90.0)
    frame = pd.DataFrame({"t": np.tile(np.arange(30), 3), "value": team})
    np.testing.assert_array_equal(critic_along(frame, log), team)
    keyed = frame.assign(episode=np.repeat(["a", "b", "c"], 30)).iloc[::-1]
    np.testing.assert_array_equal(critic_along(keyed, log), team)
    with pytest.raises(ValueError, match="column episode is missing: the log has 3 episodes"):
        critic_along(frame.iloc[::-1], log)
    with pytest.raises(ValueError, match="column episode: has 1 episodes, and the log 3"):
        critic_along(frame.assign(episode=0), log)

    table = je.to_frame(LOG)
    gaps = table[(table["agent"] == 0) | (table["t"] < 990)]
    run = je.read_log(gaps, allow_gaps=True).trajectory
    own = own_values()
    own[990:, 1] = np.nan
    wanted = np.where(np.isnan(own), 0, own).sum(1)
    for critic in (own, pd.DataFrame(own, columns=["0", "1"])):
        np.testing.assert_allclose(critic_along(critic, run), wanted, atol=1e-12)
    own[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"critic\[5, 1\] is nan"):
        critic_along(own, run)
    with pytest.raises(ValueError, match="row 5, column 1: is empty or not a number"):
        critic_along(pd.DataFrame(own, columns=["0", "1"]), run)


TIMES = 10 + 5 * np.arange(1_000)


def of(**columns):
    return pd.DataFrame(columns)


VALUE = np.linspace(0, 1, 1_000)
BAD = {
    "too few rows": (of(q=VALUE[:-1]), "the file has 999 rows, the log 1000 epochs (2000 rows)"),
    "a row for each row": (of(q=np.repeat(VALUE, 2)), "the file has 2000 rows, the log 1000"),
    "a time too few": (
        of(t=TIMES[:-1], q=VALUE[:-1]),
        "has no row for t = 5005 of the log; the file has 999 rows, the log 1000 epochs",
    ),
    "another time": (
        of(t=TIMES + (TIMES == 30), q=VALUE),
        "row 6, column t: 31 is no epoch of the log; the file has 1000 rows",
    ),
    "a time twice": (
        of(t=np.where(TIMES == 30, 25, TIMES), q=VALUE),
        "row 6, column t: 25 has a row already, row 5; the file has 1000 rows",
    ),
    "no time": (of(t=["x"] * 1_000, q=VALUE), "row 2, column t: 'x' is not a number"),
    "timestamps": (
        of(t=pd.date_range("2024-01-01", periods=1_000), q=VALUE),
        "row 2, column t: has timestamps, where the log has numbers",
    ),
    "another agent": (of(ann=VALUE, eve=VALUE), "column 'eve' is no agent of the log"),
    "three agents": (of(a=VALUE, b=VALUE, c=VALUE), "one for each of 2 agents, got 3"),
    "one agent": (of(ann=VALUE), "agent bob has no column; wanted one column of the team or one"),
    "no values": (of(t=TIMES), "has no column of values"),
    "no number": (of(q=[*VALUE[:-1], "many"]), "row 1001, column q: 'many' is not a number"),
    "empty": (of(ann=VALUE, bob=[None, *VALUE[1:]]), "row 2, column bob: is empty"),
    "not finite": (of(q=[np.inf, *VALUE[1:]]), "row 2, column q: inf is not finite"),
    "a long file lacks one": (
        of(t=np.repeat(TIMES, 2)[1:], agent=["bob", *["ann", "bob"] * 999], q=np.zeros(1_999)),
        "has no row of ann for t = 10; the file has 1999 rows, the log 2000",
    ),
    "a long file of others": (
        of(t=np.repeat(TIMES, 2), agent=["eve", "bob"] * 1_000, q=np.zeros(2_000)),
        "row 2, column agent: eve is none of the 2 labels",
    ),
    "a long file has one twice": (
        of(t=np.repeat(TIMES, 2), agent=["ann", "ann"] * 1_000, q=np.zeros(2_000)),
        "row 3, column agent: ann has a row for this t already, row 2",
    ),
    "a long file without t": (
        of(agent=["ann", "bob"] * 1_000, q=np.zeros(2_000)),
        "has a column agent; wanted t and one column of values beside it, got q",
    ),
    "no rows": (of(t=[], q=[]), "the file has 0 rows, the log 1000 epochs"),
    "no heading": (
        pd.DataFrame(np.zeros((1_000, 2)), columns=["0.5", "0.7"]),
        "the first row is the heading, and '0.5' is no agent; name the columns",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_match_is_refused(name, folder, capsys):
    frame, message = BAD[name]
    frame.to_csv("critic.csv", index=False)
    said = told(["--critic", "critic.csv"], capsys)
    assert said.startswith("jaxent audit: critic.csv: ")
    assert message in said
    assert sorted(path.name for path in folder.iterdir()) == ["critic.csv", "log.csv"]


def test_no_file(folder, capsys):
    assert "none.csv: cannot be read" in told(["--critic", "none.csv"], capsys)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (np.zeros(999), r"critic: wanted shape \[1000\] of the team or \[1000, 2\] of the agents"),
        (np.zeros((1_000, 3)), r"got \[1000, 3\]"),
        (np.full(1_000, np.nan), r"critic\[0\] is nan; wanted a finite number"),
        (["a"] * 1_000, "critic: wanted an array of numbers"),
        (je.LocalQ(np.zeros((2, 3)), np.zeros((2, 3))), r"wanted shape \[2, 4\]"),
    ],
)
def test_arrays_that_do_not_match(critic, message, monkeypatch):
    monkeypatch.delattr(report, "learned_sum")  # said before anything is learned
    with pytest.raises(ValueError, match=message) as told:
        je.audit(LOG, discount=DISCOUNT, critic=critic)
    assert "\n" not in str(told.value)


def test_command(folder, quick, capsys):
    """From the command line what Python says; other headings go for both files."""
    f = 1.2 * GAME.error(0, DISCOUNT)[PATH]
    of(t=TIMES, value=f).to_csv("critic.csv", index=False)
    assert main(["audit", "log.csv", "--critic", "critic.csv", "--discount", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The critic misses the true value of the team by ")
    assert "\nerror of the critic " in printed
    assert "\nerror of the sum of local values " in printed
    content = json.loads((folder / "audit-log" / "audit.json").read_text())
    found = je.audit("log.csv", discount=0.9, critic="critic.csv")
    assert str(found) in printed
    assert [error["name"] for error in content["errors"]] == ["critic", "sum of local values"]
    assert content["headline"] == found.headline
    sizes = content["errors"][0]["value"]
    np.testing.assert_allclose(sizes["upper"], found.error.value.upper, rtol=1e-9)
    assert (folder / "audit-log" / "audit.png").stat().st_size > 10_000

    pd.read_csv("log.csv").rename(columns={"t": "when"}).to_csv("log.csv", index=False, sep=";")
    of(when=TIMES, value=f).iloc[::-1].to_csv("critic.csv", index=False, sep=";")
    options = ["--critic", "critic.csv", "--discount", "0.9", "--columns", "t=when", "--sep", ";"]
    assert main(["audit", "log.csv", *options]) == 0
    assert capsys.readouterr().out.split("\n")[0] == found.headline


def test_a_critic_off_by_a_constant_or_a_slope(quick):
    """A constant is told as such and does not touch the verdict; a slope is a difference."""
    Q = GAME.error(0, DISCOUNT)
    spread = GAME.mu @ abs(Q - GAME.mu @ Q)
    exact, off, steep = (
        je.audit(LOG, discount=DISCOUNT, critic=f[PATH]) for f in (Q, Q + 50, 1.5 * Q)
    )
    assert exact.error.differences.lower == off.error.differences.lower == 0
    np.testing.assert_allclose(off.error.differences, exact.error.differences, atol=1e-9)
    assert off.verdict == exact.verdict
    assert off.error.bias.lower <= -50 <= off.error.bias.upper
    assert "level, a constant, may be off" in off.sentence
    assert steep.error.differences.lower <= 0.5 * spread <= steep.error.differences.upper
    np.testing.assert_allclose(off.error.spread, exact.error.spread, rtol=1e-9)
    assert off.error.scale > 40
    # The sum of local values is judged beside it, and is what it is.
    for found in (exact, off, steep):
        assert found.sum_error.value == exact.sum_error.value
        assert found.error.name == "critic"


def test_units_of_the_reward(quick):
    """Rewards and critic times c: the same words, errors times c."""
    f = 1.5 * GAME.error(0, DISCOUNT)[PATH]
    plain = je.audit(LOG, discount=DISCOUNT, critic=f)
    for c in (1e-12, 1e12):
        rewards = np.asarray(LOG.rewards, float) * c
        log = je.Trajectory.from_arrays(LOG.states, LOG.actions, rewards, labels=LOG.labels)
        found = je.audit(log, discount=DISCOUNT, critic=c * f)
        assert (found.headline, found.sentence) == (plain.headline, plain.sentence)
        np.testing.assert_allclose(found.error.value, np.multiply(plain.error.value, c), rtol=1e-6)


def test_what_to_do_about_a_critic(quick):
    """The sum where it is better, else more training where it is worst; a good one is used."""
    rng = np.random.default_rng(3)
    independent = games.separable()
    path = independent.paths(0, 3_000, 1)[:, 0]
    noise = je.audit(independent.log(path), discount=0.9, critic=3 * rng.normal(size=16)[path])
    assert noise.verdict == "do not trust"
    assert [step.rule for step in noise.next_steps] == ["take the sum"]
    Q = independent.error(0, 0.9)
    good = je.audit(independent.log(path), discount=0.9, critic=Q[path])
    assert good.verdict == "trust"
    assert [step.text.split(",")[0] for step in good.next_steps] == ["the critic"]

    # Where agent 0 is in pair 2 the critic knows nothing, and the sum is worse still.
    coupled = games.Game.of(
        np.asarray(je.appendix_e()), games.each_own(2, 2), [np.array([0, 9.0]), np.array([9.0, 0])]
    )
    path = coupled.paths(0, 3_000, 1)[:, 0]
    Q = coupled.error(0, 0.9)
    half = np.where(coupled.views[0] == 1, Q, coupled.mu @ Q)
    found = je.audit(coupled.log(path), discount=0.9, critic=half[path])
    assert [step.rule for step in found.next_steps][-1] == "train on"
    assert "worst while" in found.next_steps[-1].text


def test_a_critic_that_is_the_same_everywhere(quick):
    """It has no spread: the error is told in units, and zero rewards leave none."""
    found = je.audit(LOG, discount=DISCOUNT, critic=np.zeros(1_000))
    assert found.verdict == "do not trust"
    assert found.headline.endswith("it has no spread")
    assert "inf" not in str(found)
    nothing = je.Trajectory.from_arrays(LOG.states, LOG.actions, np.zeros((1_000, 2)))
    for constant in (0.0, 79_680.0):
        paid = np.full((1_000, 2), constant * (1 - DISCOUNT) / 2)
        log = je.Trajectory.from_arrays(nothing.states, nothing.actions, paid)
        found = je.audit(log, discount=DISCOUNT, critic=np.full(1_000, constant))
        assert found.verdict == "trust"
        assert found.error.value == (0, 0, 0, 0)


KINDS = {"dense": games.dense, "weakly coupled": games.weakly_coupled, "exogenous": games.exogenous}


@pytest.mark.parametrize("mixture", [False, True], ids=["VDN", "QMIX"])
@pytest.mark.parametrize("kind", KINDS)
def test_trained_critics(kind, mixture, quick):
    """Whatever quality training leaves them in: exact error by the chain, interval by the log."""
    inside_of(kind, mixture, seeds=[5])


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [False, True], ids=["VDN", "QMIX"])
@pytest.mark.parametrize("kind", KINDS)
def test_trained_critics_of_many_seeds(kind, mixture, quick):
    inside_of(kind, mixture, seeds=range(20))


def inside_of(kind, mixture, seeds):
    """Most of the intervals hold the exact error of the chain."""
    game = KINDS[kind]()
    chain = je.PairChain.from_matrix(game.P, sizes=(len(game.P),))
    reward = game.lift(game.rewards)
    held = []
    for seed in seeds:
        path = game.paths(seed, 5_000, 1)[:, 0]
        f = trained(game, path, mixture, seed=seed, num_steps=1_500 + 500 * (seed % 10))
        exact = je.approximation_error(chain, reward, f, discount=DISCOUNT)
        e = game.error(f, DISCOUNT)
        np.testing.assert_allclose(exact.value, game.mu @ abs(e), rtol=0.02)
        found = je.audit(game.log(path), discount=DISCOUNT, critic=f[path])
        centered = game.mu @ abs(e - game.mu @ e)
        value, differences = found.error.value, found.error.differences
        held.append(
            (
                value.lower <= exact.upper and exact.lower <= value.upper,
                differences.lower <= centered <= differences.upper,
            )
        )
    print(kind, mixture, np.mean(held, 0))
    assert np.mean(held, 0).min() >= 0.85  # 95% wanted


def test_the_key_moves_the_placebo_alone(quick):
    f = GAME.error(0, DISCOUNT)[PATH]
    one, other = (je.audit(LOG, discount=DISCOUNT, critic=f, key=jax.random.key(k)) for k in (1, 2))
    assert one.error.placebo != other.error.placebo
    assert one.error.value == other.error.value
