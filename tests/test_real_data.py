"""Logs of real engines are what the engines did: SimPy's line of machines, SUMO's signals."""

import numpy as np
import pytest

from experiments import line, signals


def test_parts_are_neither_lost_nor_made():
    """What a machine has finished lies in the buffer behind it, in the next machine, or beyond."""
    pytest.importorskip("simpy", reason="a line is run by SimPy (dev group)")
    for places in (1, 3):
        log = line.log_of(places, 600, seed=1)
        made = np.cumsum(log.rewards, axis=0)
        # Since the first minute, from wherever the line was then: buffer, both machines' hands.
        ahead = made[:, :-1] - made[:, 1:]
        assert np.ptp(ahead, axis=0).max() <= places + 2
        names = np.array(log.labels.states)[log.states]
        assert {"works", "down", "blocked", "waits"} == set(names.ravel())
        assert "waits" not in names[:, 0]  # supply never ends
        assert "blocked" not in names[:, -1]  # nor does room
        # Blocked all minute: nothing was finished but what was in hand.
        stuck = (names[:-1] == "blocked") & (names[1:] == "blocked")
        assert log.rewards[:-1][stuck].mean() < log.rewards.mean()


def test_machines_alone_never_wait():
    pytest.importorskip("simpy", reason="a line is run by SimPy (dev group)")
    log = line.log_of(0, 400, seed=1)
    names = np.array(log.labels.states)[log.states]
    assert set(names.ravel()) == {"works", "down"}
    # As many parts as the rates say: each takes 1.5 minutes, and 6 of 46 minutes are repair.
    rate = (line.RUNS / (line.RUNS + line.REPAIR)) / line.PART
    error = log.rewards.mean(0).std() / line.MACHINES**0.5
    assert abs(log.rewards.mean() - rate) < 5 * error


def test_signals_are_those_of_the_grid():
    pytest.importorskip("libsumo", reason="signals are SUMO's: pip install 'jaxent[signals]'")
    log = signals.log_of("clock", 250, 120, seed=1)
    assert log.states.shape == (120, signals.SIGNALS)
    assert log.num_signals == signals.ROUND
    assert (log.rewards <= 0).all()
    green = np.array([label[:2] for label in log.labels.states])[log.states]
    # One clock: all are green the same way, and come round in 90 seconds.
    assert (green == green[:, :1]).all()
    np.testing.assert_array_equal(green[signals.ROUND :], green[: -signals.ROUND])
    grid = signals.neighbors()
    assert grid.sum() == 24
    assert (grid == grid.T).all()


@pytest.mark.parametrize("module", [line, signals])
def test_bad_options_are_named(module, capsys):
    bad = {"line": ["--minutes", "3"], "signals": ["--control", "nobody"]}
    name = module.__name__.split(".")[1]
    with pytest.raises(SystemExit) as ended:
        module.main(bad[name])
    assert ended.value.code == 2
    assert bad[name][0][2:] in capsys.readouterr().err
