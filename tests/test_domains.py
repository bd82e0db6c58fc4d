"""The domain examples: their models by hand, their commands at toy size, bad options."""

import json

import numpy as np
import pytest

import jaxent as je
from experiments import dispatch, servers, warehouse
from tests.tolerances import EXACT


def test_models_are_models():
    for policy in ("own", "balance"):
        je.pair_chain(*servers.cluster(policy, 2, 4))
    kernel, reward = dispatch.driver()
    drivers = je.ExogenousMDP((kernel,) * 3, (reward,) * 3, dispatch.orders(), 0.9)
    je.pair_chain(drivers, dispatch.dispatch(3, 0.4))
    nothing = (np.zeros((4, 2, 4)),) * 2
    robots = je.ExogenousMDP((warehouse.robot(),) * 2, nothing, warehouse.tasks(), 0.9)
    for policy in warehouse.POLICIES:
        je.pair_chain(robots, warehouse.schedule(policy, 2))


def test_servers_by_hand():
    law = servers.kernel()
    # Empty, its left neighbor sends one: that job, and an arrival 35% of the time.
    np.testing.assert_allclose(law[0, 2, 0, 1], [0, 0.65, 0.35], atol=EXACT)
    # An empty neighbor sends nothing.
    np.testing.assert_allclose(law[0, 0, 0, 1], [0.65, 0.35, 0], atol=EXACT)
    # One job, passed on: as if empty.
    np.testing.assert_allclose(law[1, 0, 1, 0], law[0, 0, 0, 0], atol=EXACT)
    np.testing.assert_allclose(servers.rewards(), [[0, 0], [-1, -1.3], [-2, -2.3]], atol=EXACT)


def test_dispatch_by_hand():
    rules = dispatch.dispatch(2, 1.0)
    # Nobody goes without an order; from the center the driver who stands there goes; ties are even.
    assert rules[1, 2, 0, 0, 0] == 1
    assert rules[0, 2, 1, 1, 0] == 1
    np.testing.assert_allclose(rules[1, 2, 1], [[0, 0.5], [0.5, 0]])
    assert dispatch.dispatch(2, 0.0)[1, 2, 2, 0, 1] == 1  # zone 1 is the second driver's
    kernel, reward = dispatch.driver()
    assert kernel[3, 1, 1, 1] == 1
    np.testing.assert_allclose(reward[[0, 1, 2], 1, 2], [2 - 0.8, 2, 2 - 1.6], atol=EXACT)
    assert (reward[:, 0] == 0).all()


def test_warehouse_by_hand():
    reward = warehouse.shared_reward(2, 0.25)
    assert reward[2, 4, 1] == 1  # stations 1 and 2, task at 1
    assert reward[2, 3, 1] == 0.75  # both at 1
    assert reward[2, 3, 0] == -0.25
    rules = warehouse.schedule("nearest", 2)
    assert rules[0, 2, 3, 0, 1] == 1  # one step to go against three
    assert rules[1, 3, 3, 0, 0] == 1  # already there
    np.testing.assert_allclose(rules[1, 1, 3], [[0, 0.5], [0.5, 0]])


TOY = {
    servers: ["--sizes", "3", "4", "--sharpness", "0", "2", "--epochs", "1000"],
    dispatch: ["--drivers", "1", "2", "--nearest", "0", "100", "--epochs", "5000"],
    warehouse: ["--policy", "split", "all", "--congestion", "0", "100", "--epochs", "20000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("module", TOY, ids=lambda m: m.__name__)
def test_leaves_figures_and_results(module, tmp_path, capsys):
    name = module.__name__.split(".")[-1]
    assert module.main([*TOY[module], "--out", str(tmp_path)]) == 0
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"{name}.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["rows"]
    assert "holds" in capsys.readouterr().out
    # Nothing is left to do, and nothing changes.
    assert module.main([*TOY[module], "--resume", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == stored


@pytest.mark.parametrize(
    ("module", "argv", "match"),
    [
        (servers, ["--policy", "mine"], "--policy: 'mine' is not one of own, balance"),
        (servers, ["--sizes", "2"], "--sizes: from 3 to 7"),
        (servers, ["--ring", "3"], "--ring: at least 4"),
        (servers, ["--ring", "6"], "--ring: 6 is one of the sizes"),
        (servers, ["--sharpness", "-1"], "--sharpness: is at least 0"),
        (servers, ["--epochs", "5"], "--epochs: at least 100"),
        (dispatch, ["--drivers", "9"], "--drivers: from 1 to 4"),
        (dispatch, ["--nearest", "120"], "--nearest: from 0 to 100"),
        (dispatch, ["--epochs", "5"], "--epochs: at least 100"),
        (dispatch, ["--epochs", "x"], "invalid int value: 'x'"),
        (warehouse, ["--policy", "mine"], "--policy: 'mine' is not one of split, nearest, all"),
        (warehouse, ["--robots", "5"], "--robots: 2 or 3"),
        (warehouse, ["--congestion", "-5"], "--congestion: is at least 0"),
        (warehouse, ["--epochs", "5"], "--epochs: at least 1000"),
    ],
)
def test_bad_options_end_with_one_line(module, argv, match, tmp_path, capsys):
    out = tmp_path / "new"
    with pytest.raises(SystemExit) as stop:
        module.main([*argv, "--out", str(out)])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert match in lines[0]
    assert not out.exists()
