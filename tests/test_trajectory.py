"""Trajectories from arrays, tables and simulators: codes, labels, and problems by row."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxent
from jaxent.restless.agents import agent_trajectory
from tests.oracles import stationary

pd = pytest.importorskip("pandas")

ROWS = {
    "episode": ["a", "a", "a", "a", "b", "b"],
    "t": [0, 0, 1, 1, 0, 0],
    "agent": ["x", "y", "y", "x", "x", "y"],
    "state": ["up", "down", "up", "up", "down", "down"],
    "action": [1, 0, 1, 0, 0, 1],
    "reward": [0.5, 1.0, -1.0, 0.0, 2.0, 3.0],
    "signal": ["sun", "sun", "rain", "rain", "sun", "sun"],
}


def test_a_table_by_hand():
    run, gaps = jaxent.read_log(pd.DataFrame(ROWS))
    assert gaps == ()
    assert run.labels == jaxent.Labels(("x", "y"), ("down", "up"), (0, 1), ("rain", "sun"))
    np.testing.assert_array_equal(run.states, [[1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(run.rewards, [[0.5, 1], [0, -1], [2, 3]])
    np.testing.assert_array_equal(run.follows, [[True, True], [False, False]])
    # (s A + a) Z + z: up, 1, sun is (1 * 2 + 1) * 2 + 1.
    assert run.pairs[0, 0] == 7
    assert run.pair_label(7) == ("up", 1, "sun")
    assert run.num_pairs == 8


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_and_back(tmp_path, suffix):
    run = jaxent.read_log(pd.DataFrame(ROWS)).trajectory
    path = tmp_path / f"log.{suffix}"
    frame = jaxent.to_frame(run)
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    # A text file has labels of text, unless they are given.
    known = {"action": (0, 1)} if suffix == "csv" else None
    again = jaxent.read_log(path, known=known).trajectory
    assert again.labels == run.labels
    for name in ("states", "actions", "rewards", "signal", "episode", "time", "present"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))


def long_log(states, tail=""):
    """CSV of agents a and b, their states going round."""
    lines = [f"{k // 2},{'ab'[k % 2]},{states[k % len(states)]},x,1" for k in range(140_000 - 1)]
    return "\n".join(["t,agent,state,action,reward", *lines, f"69999,b,{tail or states[0]},x,1"])


def test_the_last_row_does_not_change_the_others(tmp_path):
    """140,000 rows of 0, 1 and 2, and "dead" in the very last: four labels."""
    path = tmp_path / "log.csv"
    path.write_text(long_log("012", "dead"))
    run = jaxent.read_log(path).trajectory
    assert run.labels.states == ("0", "1", "2", "dead")
    assert run.states[-1, 1] == 3
    np.testing.assert_array_equal(run.states.ravel()[:-1], np.arange(139_999) % 3)
    guessed = pd.read_csv(path, low_memory=True, dtype={"state": object})
    guessed.loc[:99_999, "state"] = guessed.loc[:99_999, "state"].astype(int)
    with pytest.raises(
        ValueError, match=r"row 100000, column state: 1 is of type str here and int"
    ):
        jaxent.read_log(guessed)


@pytest.mark.parametrize("labels", [("1.1", "1.10", "1.2"), ("01", "1"), ("EU", "NA", "null")])
def test_labels_of_a_text_file_are_as_written(tmp_path, labels):
    path = tmp_path / "log.csv"
    path.write_text(long_log(labels))
    run = jaxent.read_log(path).trajectory
    assert sorted(run.labels.states) == sorted(labels)
    back = jaxent.to_frame(run)["state"].tolist()
    assert back[:6] == [labels[k % len(labels)] for k in range(6)]


def test_text_is_what_the_caller_says(tmp_path):
    """Integers that are given stand for the text they are written as, and for no other."""
    path = tmp_path / "log.csv"
    path.write_text(long_log(("0", "1")))
    run = jaxent.read_log(path, known={"state": (1, 0)}).trajectory
    assert run.labels.states == (1, 0)
    assert run.states[0].tolist() == [1, 0]
    path.write_text(long_log(("00", "1")))
    with pytest.raises(ValueError, match="row 2, column state: 00 is none of the 2 labels"):
        jaxent.read_log(path, known={"state": (1, 0)})


def test_numbers_in_text_are_in_the_order_of_numbers():
    frame = pd.DataFrame(ROWS).assign(state=["10", "9", "-1", "1e1", "2", "2.0"])
    assert jaxent.read_log(frame).trajectory.labels.states == ("-1", "2", "2.0", "9", "10", "1e1")


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ([0, "0"] * 3, r"row 1, column state: 0 is of type str here and int before"),
        ([1, True] * 3, "row 1, column state: True is of type bool, and its equal"),
        ([1, 1.0] * 3, "row 1, column state: 1.0 is of type float, and its equal"),
        ([{"x": 1}] * 6, r"row 0, column state: \{'x': 1\} is no label"),
        ([(np.nan, 1)] * 6, r"row 0, column state: \(nan, 1\) holds NaN"),
        ([None, "a"] * 3, "row 0, column state: is empty"),
        (["", "a"] * 3, "row 0, column state: is empty"),
    ],
)
def test_frames_of_several_types(states, match):
    frame = pd.DataFrame(ROWS).assign(state=np.array([*states, None], object)[:-1])
    with pytest.raises(ValueError, match=match):
        jaxent.read_log(frame)


def test_lists_in_frames_are_tuples():
    frame = pd.DataFrame(ROWS).assign(state=[[0, 1], (0, 1), np.array([1, 0])] * 2)
    assert jaxent.read_log(frame).trajectory.labels.states == ((0, 1), (1, 0))


def test_frames_that_are_none():
    frame = pd.DataFrame(ROWS)
    for table, match in (
        (np.zeros(3), "got numpy.ndarray; Trajectory.from_arrays takes arrays"),
        (SimpleNamespace(to_pandas=None), "pass what its to_pandas"),
        (frame.set_index(["t", "agent"]), r"t is the index, not a column"),
        (pd.concat([frame, frame[["state"]]], axis=1), "column 'state' is there twice"),
    ):
        with pytest.raises(ValueError, match=match):
            jaxent.read_log(table)


def test_what_has_been_read_is_read():
    log = jaxent.read_log(pd.DataFrame(ROWS).drop(index=2), allow_gaps=True)
    assert jaxent.read_log(log) is log
    again = jaxent.read_log(log.trajectory)
    assert again.trajectory is log.trajectory
    assert len(again.gaps) == 1
    assert again.gaps[0].startswith("epoch 0: y has no rows after this one from t = 1")
    with pytest.raises(ValueError, match="has been read already"):
        jaxent.read_log(log, allow_gaps=True)


def test_milliseconds_since_1970():
    start, minute = 1_700_000_000_000, 60_000
    when = [start, start, start + minute, start + minute, 9 * start, 9 * start]
    run = jaxent.read_log(pd.DataFrame(ROWS).assign(t=when)).trajectory
    assert run.time.dtype == np.int64
    assert run.time.tolist() == [start, start + minute, 9 * start]
    assert run.step == minute
    np.testing.assert_array_equal(run.follows, [[True, True], [False, False]])
    assert sorted(jaxent.to_frame(run)["t"]) == when


def test_timestamps_and_back():
    when = pd.to_datetime(["2024-05-31T12:00:00", "2024-05-31T12:00:30", "1969-12-31T00:00:00"])
    frame = pd.DataFrame(ROWS).assign(t=when.repeat(2))
    run = jaxent.read_log(frame).trajectory
    assert (run.step, run.unit) == (30 * 10**9, "ns")
    back = jaxent.to_frame(run)
    assert back["t"].tolist() == frame["t"].tolist()
    again = jaxent.read_log(back).trajectory
    np.testing.assert_array_equal(again.time, run.time)


def test_episodes_need_not_keep_step_with_each_other():
    """What is inferred is the step within episodes."""
    run = jaxent.read_log(pd.DataFrame(ROWS).assign(t=[0, 0, 10, 10, 5, 5])).trajectory
    assert run.step == 10


def test_agents_and_epochs_that_hardly_meet():
    """A column of row numbers as agents would make a table of 3.6 billion cells."""
    frame = pd.DataFrame({"t": np.arange(60_000), "agent": np.arange(60_000), "state": 0})
    with pytest.raises(ValueError, match="60000 agents and 60000 epochs, but only 60000 rows"):
        jaxent.read_log(frame.assign(action=0, reward=0.0), allow_gaps=True)


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ([["a", 1], ["a", "a"]], r"states: labels are of several types \(int, str\)"),
        ([["a", None], ["a", "a"]], r"states: labels are of several types \(NoneType, str\)"),
        ([["a"], ["a", "a"]], "states: rows have different lengths"),
    ],
)
def test_lists_of_several_types(states, match):
    """NumPy makes text of all: 1 and "1" would be one label."""
    with pytest.raises(ValueError, match=match):
        jaxent.Trajectory.from_arrays(states, np.zeros((2, 2)), np.zeros((2, 2)))


def spoil(column, row, value):
    rows = {k: list(v) for k, v in ROWS.items()}
    rows[column][row] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ({k: v for k, v in ROWS.items() if k != "state"}, r"log\.csv: column state is missing"),
        (spoil("t", 3, -1), r"log\.csv: row 5, column t: -1 is negative"),
        (spoil("t", 2, 0.5), r"row 4, column t: 0\.5 is not an integer"),
        (spoil("t", 2, "now"), r"row 4, column t: 'now' is not a number"),
        (spoil("agent", 1, "x"), r"row 3, column agent: x has a row for t = 0 already, row 2"),
        (spoil("reward", 4, np.nan), r"row 6, column reward: is empty or not a number"),
        (spoil("reward", 4, np.inf), r"row 6, column reward: inf is not finite"),
        (spoil("state", 2, "left"), r"row 4, column state: left is none of the 2 labels"),
        (spoil("state", 2, None), r"row 4, column state: is empty"),
        (spoil("signal", 1, "rain"), r"column signal: .* differs from that of another agent"),
        (spoil("episode", 5, "c"), r"row 6, column agent: x has no rows after"),
        (spoil("t", 3, 5), r"column t: no rows between 1 and 5"),
        ({k: [] for k in ROWS}, "has no rows"),
    ],
)
def test_problems_are_named_by_row(tmp_path, rows, match):
    path = tmp_path / "log.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    with pytest.raises(ValueError, match=match):
        jaxent.read_log(path, known={"state": ("down", "up")})


def test_known_labels_are_in_their_order():
    run = jaxent.read_log(pd.DataFrame(ROWS), known={"state": ("up", "side", "down")}).trajectory
    assert run.labels.states == ("up", "side", "down")
    assert run.states[0, 1] == 2
    for known, match in (
        ({"mood": ("up",)}, "known: mood is none of"),
        ({"state": "up"}, r"known\['state'\] \(--states\): wanted a list of labels, got 'up'"),
        ({"agent": ("x", "y", "x")}, r"known\['agent'\]: x is there twice"),
        ({"agent": ()}, r"known\['agent'\]: has no labels"),
        ({"agent": ([],)}, r"known\['agent'\]: \[\] is no label"),
    ):
        with pytest.raises(ValueError, match=match):
            jaxent.read_log(pd.DataFrame(ROWS), known=known)


def test_gaps_are_kept_and_named():
    frame = pd.DataFrame(ROWS).drop(index=2)
    run, gaps = jaxent.read_log(frame, allow_gaps=True)
    assert len(gaps) == 1
    assert gaps[0].startswith("row 1, column agent: y has no rows after this one from t = 1")
    np.testing.assert_array_equal(run.present, [[True, True], [True, False], [True, True]])
    np.testing.assert_array_equal(run.follows, [[True, False], [False, False]])
    assert len(jaxent.to_frame(run)) == 5


def test_one_reward_for_all():
    frame = pd.DataFrame(ROWS)
    with pytest.raises(ValueError, match=r"column reward: .* differs"):
        jaxent.read_log(frame, shared_reward=True)
    frame["reward"] = [1, 1, 2, 2, 3, 3]
    run = jaxent.read_log(frame, shared_reward=True).trajectory
    assert run.shares_reward
    np.testing.assert_array_equal(run.rewards, [1, 2, 3])


@pytest.mark.parametrize(
    ("path", "match"),
    [("none.csv", "none.csv: cannot be read"), ("log.xls", "log.xls: wanted a file that ends")],
)
def test_files_that_are_none(tmp_path, path, match):
    with pytest.raises(ValueError, match=match):
        jaxent.read_log(tmp_path / path)


def test_arrays_of_labels_and_episodes():
    states = np.array([[["up", "down"], ["up", "up"]], [["down", "down"], ["up", "down"]]])
    actions = np.zeros((2, 2, 2), int)
    run = jaxent.Trajectory.from_arrays(states, actions, np.arange(4.0).reshape(2, 2))
    assert run.labels.states == ("down", "up")
    np.testing.assert_array_equal(run.states, [[1, 0], [1, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(run.episode, [0, 0, 1, 1])
    np.testing.assert_array_equal(run.time, [0, 1, 0, 1])
    assert run.shares_reward
    np.testing.assert_array_equal(run.follows[:, 0], [True, False, True])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"states": np.zeros(3)}, r"states: wanted shape \[T, N\]"),
        ({"actions": np.zeros((3, 1), int)}, "actions: wanted shape"),
        ({"rewards": np.zeros((3, 1))}, "rewards: wanted shape"),
        ({"rewards": np.full((3, 2), np.nan)}, r"rewards\[0, 0\] is nan"),
        ({"signal": np.zeros(2)}, "signal: wanted shape"),
        ({"episode": [0, 1, 0]}, r"episode\[2\] is lower"),
        ({"labels": jaxent.Labels.numbers(agents=2, states=1, actions=1)}, r"states\[0, 1\] is 1"),
        ({"labels": jaxent.Labels.numbers(agents=3, states=2, actions=1)}, "labels.agents"),
    ],
)
def test_bad_arrays(change, match):
    given = {
        "states": np.array([[0, 1], [1, 0], [0, 0]]),
        "actions": np.zeros((3, 2), int),
        "rewards": np.zeros((3, 2)),
    } | change
    with pytest.raises(ValueError, match=match):
        jaxent.Trajectory.from_arrays(**given)


def test_simulated_chain_follows_its_matrix():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(8), 8)
    chain = jaxent.PairChain.from_matrix(P, sizes=(2, 4))
    rewards = (np.arange(2.0), np.arange(4.0).reshape(2, 2))
    run = jaxent.chain_trajectory(
        jax.random.key(0), chain, rewards, num_steps=20_000, num_actions=2
    )
    pairs = np.asarray(run.pairs)
    np.testing.assert_array_equal(run.rewards, pairs)
    place = pairs @ [4, 1]
    seen = np.zeros((8, 8))
    np.add.at(seen, (place[:-1], place[1:]), 1)
    visits = seen.sum(1, keepdims=True)
    assert (np.abs(seen - visits * P) <= 5 * np.sqrt(visits * P * (1 - P)) + 5).all()
    np.testing.assert_allclose(visits[:, 0] / 19_999, stationary(P), atol=0.03)


def test_from_agents_that_were_simulated():
    kernel = np.random.default_rng(0).dirichlet(np.ones(3), (2, 3, 2))
    run = jaxent.simulate_agents(
        jax.random.key(0), kernel, np.arange(6.0).reshape(2, 3), budget=1, num_steps=9
    )
    reward = np.arange(12.0).reshape(2, 3, 2)
    log = agent_trajectory(run, reward)
    np.testing.assert_array_equal(log.states, run.states[:-1])
    np.testing.assert_array_equal(log.rewards, np.asarray(log.pairs) + np.array([[0, 6]]))
    assert log.num_pairs == 6
