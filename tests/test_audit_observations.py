"""Audits of agents that see numbers: the error with its interval first, who is entangled, files."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.auditing.learned_features import learned_by_features
from jaxent.auditing.learned_sum import learned_sum
from jaxent.auditing.preparation import own_rewards
from jaxent.reporting.cli import main

from . import logs_of_chains as games
from .test_error_estimate import inside
from .test_observations import DISCOUNT, GAUSS, KEY, embedding, seen_as


@pytest.fixture(scope="module")
def audited():
    """Of two agents whose places move each other."""
    log = GAUSS.log(0, 4_000)
    return log, je.audit(log, discount=DISCOUNT, num_permutations=49)


def test_the_report(audited):
    """The interval holds the exact error; both agents are entangled; nothing is said of states."""
    _, found = audited
    assert inside(found.sum_error.limit, GAUSS.error(DISCOUNT))
    assert found.words == ("entangled", "entangled")
    assert found.verdict == "trust with care"
    assert found.influence.shape == (0, 0)
    assert not found.sum_error.by_pairs
    assert found.pairs == ((0, 0), (0, 1))
    text = str(found)
    assert text.startswith("The sum of local values misses the true value of the team by")
    for line in ("features of the team", "merge: 0 and 1: learn the values of what both observe"):
        assert line in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_shared_reward_is_split_by_features(audited):
    """A sum of two local rewards comes apart again, but for a constant."""
    log, own = audited
    shared = replace(log, rewards=log.rewards.sum(1))
    split, _, share, notes = own_rewards(shared, KEY)
    assert share < 0.01
    assert not notes
    apart = split.rewards - log.rewards
    np.testing.assert_allclose(apart.std(0) / log.rewards.std(0), 0, atol=0.02)
    found = je.audit(shared, discount=DISCOUNT, num_permutations=9)
    np.testing.assert_allclose(
        found.sum_error.differences.value, own.sum_error.differences.value, rtol=0.3
    )


def test_a_linear_critic_is_one(audited):
    """Local values given as a critic are judged as given."""
    log, _ = audited
    values = je.learning.linear_local_q(KEY, log, discount=DISCOUNT)
    found = je.audit(log, discount=DISCOUNT, critic=values, num_permutations=9)
    assert found.error.name == "critic"
    assert found.error.differences.lower > 0
    with pytest.raises(ValueError, match=r"approximation.value: wanted shape \[4000, 2\]"):
        je.audit(log, discount=DISCOUNT, critic=values._replace(value=values.value[1:]))


def test_observations_that_come_again_are_audited_as_states():
    """Word for word."""
    game = games.dense()
    log = game.log(game.paths(0, 3_000, 1)[:, 0])
    numbers = seen_as(log, embedding(0, 2, 4)[:1].repeat(2, 0))
    one, other = (je.audit(x, discount=DISCOUNT, num_permutations=9) for x in (log, numbers))
    assert one.headline == other.headline
    assert one.words == other.words
    np.testing.assert_allclose(one.entanglement, other.entanglement, atol=1e-6)


def test_what_is_learned_is_what_tables_teach():
    """By indicators of local pairs: values, their sum, and how far sampling moves it."""
    game = games.dense()
    log = game.log(game.paths(0, 2_000, 1)[:, 0])
    table = learned_sum(log, DISCOUNT)
    linear = learned_by_features(KEY, log, DISCOUNT)
    for name in ("scale", "spread", "level", "level_error", "sampling", "q_local", "occupancy"):
        np.testing.assert_allclose(
            getattr(linear, name), getattr(table, name), rtol=0.01, err_msg=name
        )


def test_a_file_with_columns_of_numbers(tmp_path, capsys):
    """Read, written, read again; and audited from the command line."""
    log = GAUSS.log(0, 1_500)
    wide = np.concatenate([log.observations, log.observations**2], axis=2)
    frame = je.to_frame(replace(log, observations=wide)).drop(columns="state")
    path = tmp_path / "log.csv"
    frame.to_csv(path, index=False)
    headings = ["observation_1", "observation_0"]
    back = je.read_log(path, observations=headings).trajectory
    np.testing.assert_allclose(back.observations, wide[:, :, ::-1], rtol=1e-15)
    assert back.num_states == 1
    options = ["--observations", *headings, "--num-permutations", "9", "--out", str(tmp_path / "a")]
    assert main(["audit", str(path), *options]) == 0
    assert "features of the team" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_one_column_may_be_two_things(ending, tmp_path):
    """A number that is the state may be what an agent sees as well."""
    state = np.arange(40) % 3
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"t": np.repeat(range(20), 2), "agent": list("ab") * 20, "state": state})
    table = table.assign(action="none", reward=1.0)
    path = tmp_path / f"log.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    read = je.read_log(path, observations=["state"]).trajectory
    np.testing.assert_array_equal(read.observations[:, :, 0], state.reshape(20, 2))
    assert [int(label) for label in read.labels.states] == [0, 1, 2]


def test_gaps_and_states_beside_observations():
    """Where an agent is absent it sees nothing; states that are there are kept."""
    log = GAUSS.log(0, 300)
    frame = je.to_frame(log)
    frame["state"] = np.arange(len(frame)) % 3
    frame = frame.drop(index=7)
    read = je.read_log(frame, observations=["observation_0"], allow_gaps=True).trajectory
    assert read.num_states == 3
    assert not read.present[3, 1]
    assert read.observations[3, 1, 0] == 0


def test_says_what_is_wrong():
    log = GAUSS.log(0, 300)
    frame = je.to_frame(log)
    cases = [
        (lambda: je.read_log(frame, observations=["nix"]), "column nix of observations is missing"),
        (lambda: je.read_log(frame, observations="nix"), "observations: wanted a list"),
        (lambda: je.read_log(frame, observations=["t", "t"]), "observations: 't' is there twice"),
        (lambda: je.read_log(log, observations=["t"]), "table: has been read already"),
        (
            lambda: je.read_log(frame.assign(x=["a"] * 600), observations=["x"]),
            "row 0, column x: 'a' is not a number",
        ),
        (
            lambda: je.audit(log, discount=0.9, policy=np.full((300, 2, 2), 0.5)),
            "policy: is compared by local states",
        ),
        (
            lambda: je.audit(frame.assign(state=frame.observation_0), discount=0.9),
            "keep them as numbers that agents see: read_log",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as told:
            call()
        assert "\n" not in str(told.value)


def test_the_key_moves_waves_and_little_else(audited):
    log, found = audited
    other = je.audit(log, discount=DISCOUNT, num_permutations=9, key=jax.random.key(5))
    np.testing.assert_allclose(other.sum_error.limit.value, found.sum_error.limit.value, rtol=0.1)


def test_rows_of_what_is_seen_last():
    """They are of no agent's pay: whatever is written there is not read, and all goes through."""
    log = GAUSS.log(0, 1_200)
    last = np.zeros((1_200, 2), bool)
    last[24::25] = True
    episode = np.arange(1_200) // 25

    def audited_with(paid):
        made = replace(
            log,
            episode=episode,
            last_seen=last,
            rewards=np.where(last[:, 0], paid, log.rewards.sum(1)),
        )
        return je.audit(made, discount=DISCOUNT, num_permutations=9)

    one, other = audited_with(0.0), audited_with(1e3)
    assert one.sum_error.num_steps == 1_200 - 48
    np.testing.assert_allclose(one.entanglement, other.entanglement, rtol=1e-6)
    np.testing.assert_allclose(
        one.sum_error.differences.value, other.sum_error.differences.value, rtol=1e-6
    )
