"""Each experiment at toy size, and its command: resume, interruption, bad options."""

import json
import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    circulant,
    command,
    disentangle,
    ground_truth,
    sensitivity,
    theorem7,
    tradeoff,
)
from jaxent.sweeps import lock

TOY = [
    "--sizes", "60", "90", "120",
    "--runs", "3",
    "--test-states", "6",
    "--value-runs", "4",
    "--data-size", "60",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def two_sizes_at_once():
    """So that three sizes are two pieces, one of them padded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(circulant, "SIZES_AT_ONCE", 2)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("circulant")
    code = circulant.main([*TOY, "--out", str(out)])
    return out, code


def test_leaves_figures_and_results(finished):
    out, code = finished
    assert code in (0, 1)  # three runs are too few to hold the paper to
    for number in (1, 2, 3):
        assert (out / f"figure{number}.png").stat().st_size > 10_000
        assert (out / f"figure{number}.pdf").stat().st_size > 5_000
    results = json.loads((out / "results.json").read_text())
    assert results["seed"] == 0
    assert results["config"]["runs"] == 3
    assert {"jax", "jaxent", "numpy", "python"} <= set(results["versions"])
    assert [row["size"] for row in results["sizes"]] == [60, 90, 120]
    for row in results["sizes"]:
        assert 0.15 < np.sqrt(row["size"]) * row["entanglement"] < 0.28
        assert row["held_out"] >= row["entanglement"]
        assert 0 < row["relative_error"] < 0.03
        assert row["noise"] < row["plain_noise"] / 20
    assert {"claim", "measured", "holds"} == set(results["claims"][0])
    figures = {f"figure{k}.{kind}" for k in (1, 2, 3) for kind in ("png", "pdf")}
    # Nothing half-written; the lock's file stays.
    assert {path.name for path in out.iterdir()} == figures | {"results.json", "results.lock"}


def test_interrupted_run_goes_on(finished, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second piece keeps the first; resuming ends at the same numbers."""
    once = circulant.run_sizes
    calls = []

    def interrupted(key, sizes, config):
        calls.append(sizes)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(key, sizes, config)

    monkeypatch.setattr(circulant, "run_sizes", interrupted)
    assert circulant.main([*TOY, "--out", str(tmp_path)]) == 130
    assert "2 of 3 sizes are kept" in capsys.readouterr().err
    monkeypatch.setattr(circulant, "run_sizes", once)
    circulant.main([*TOY, "--out", str(tmp_path), "--resume"])
    stored = [json.loads((d / "results.json").read_text()) for d in (finished[0], tmp_path)]
    for a, b in zip(stored[0]["sizes"], stored[1]["sizes"], strict=True):
        np.testing.assert_allclose(a["mu_error"], b["mu_error"], rtol=1e-12)
        np.testing.assert_allclose(a["entanglement"], b["entanglement"], rtol=1e-12)


def stops(capsys, argv, match):
    """One line on standard error, exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        circulant.main(argv)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert match in lines[0]


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--runs", "many"], "invalid int value: 'many'"),
        (["--sizes", "60", "100"], "100 agents"),
        (["--sizes", "60"], "at least two"),
        (["--data-size", "45"], "45 agents"),
        (["--runs", "1"], "--runs: at least 2"),
        (["--value-steps", "0"], "--value-steps"),
    ],
)
def test_bad_options_end_with_one_line(capsys, tmp_path, argv, match):
    out = tmp_path / "new"
    stops(capsys, [*argv, "--out", str(out)], match)
    assert not out.exists()


def test_folder_that_cannot_be_written(capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    stops(capsys, [*TOY, "--out", str(blocked / "below")], "cannot write there")
    if os.geteuid() != 0:  # root writes anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        stops(capsys, [*TOY, "--out", str(closed)], "cannot write there")


def test_resume_needs_results_of_this_run(capsys, finished, tmp_path):
    stops(capsys, [*TOY, "--out", str(tmp_path), "--resume"], "does not exist")
    (tmp_path / "results.json").write_text("{ not json")
    stops(capsys, [*TOY, "--out", str(tmp_path), "--resume"], "cannot be read")
    assert (tmp_path / "results.json").read_text() == "{ not json"
    argv = [*TOY, "--seed", "1", "--out", str(finished[0]), "--resume"]
    stops(capsys, argv, "another run (seed 0 there, 1 here)")


def test_results_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    command.save_json(path, {"a": np.arange(3)})
    with pytest.raises(TypeError):
        command.save_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [0, 1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_slope_of_a_power_law():
    sizes = np.array([60.0, 120, 240, 480])
    power, half = circulant.slope(sizes, 3 * sizes**0.4, 0.01 * np.ones(4))
    assert abs(power - 0.4) < 1e-12
    assert 0 < half < 0.02


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        circulant.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--sizes", "--runs", "--quick", "--seed", "--out", "--resume", "--data-size"):
        assert option in text


@pytest.mark.slow
def test_ground_truth_leaves_figures_and_results(tmp_path, capsys):
    small = ["--exact", "5", "10", "--simulated", "10", "--runs", "2", "--epochs", "50"]
    small += ["--test-states", "2", "--value-runs", "2", "--value-steps", "5"]
    small += ["--bandit", "healthcare", "--out", str(tmp_path)]
    ground_truth.main(small)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"ground_truth.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    found = stored["bandits"]["healthcare"]
    assert [r["size"] for r in found["exact"]] == [5, 10]
    assert 0 < found["exact"][1]["entanglement"] < found["exact"][1]["deviation_bound"]
    # Nothing is left to do, and nothing changes.
    ground_truth.main([*small, "--resume"])
    assert json.loads((tmp_path / "results.json").read_text()) == stored
    assert "relative error simulated at N = 10" in capsys.readouterr().out


def test_a_folder_in_use_is_left(finished, capsys):
    """The second run of an experiment in a folder ends with one line that names the first."""
    out, _ = finished
    before = (out / "results.json").read_bytes()
    with lock.hold(out, "results"), pytest.raises(SystemExit) as stop:
        circulant.main([*TOY, "--out", str(out)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"in use by process {os.getpid()} on {platform.node()} since" in line
    assert line.startswith("error: --out: ")
    assert (out / "results.json").read_bytes() == before


def test_ctrl_c_while_a_command_starts():
    """While Python imports there is no `run` yet that could catch anything."""
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "sys.argv = ['-m']; import experiments; os.kill(os.getpid(), signal.SIGINT)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (130, "\nstopped; nothing was begun\n")


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "header", interrupt)
    assert theorem7.main(["--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nstopped; nothing was finished\n"


@pytest.mark.parametrize("module", [tradeoff, disentangle, sensitivity], ids=lambda m: m.__name__)
def test_a_study_keeps_its_pieces(module, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second piece keeps the first, and resuming begins with the second."""
    seen = []

    def run(key, *which):
        seen.append(which)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return {"piece": 1}

    monkeypatch.setattr(module, "run", run)
    argv = ["--quick", "--out", str(tmp_path)]
    assert module.main(argv) == 130
    assert "stopped; 1 of 2" in capsys.readouterr().err
    before = (tmp_path / "results.json").read_bytes()
    assert module.main([*argv, "--resume"]) == 130
    assert "stopped; what was finished before is kept" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before
    first, second, again = seen
    assert first != second == again


def test_the_precision_of_the_process_is_given_back():
    """Whoever calls a command goes on in the precision that it had, also after an error."""
    before = jax.config.jax_enable_x64

    def fails(double):
        with command.double_precision(double):
            assert jnp.ones(1).dtype == (jnp.float64 if double else jnp.float32)
            raise KeyError

    for double in (True, False):
        with pytest.raises(KeyError):
            fails(double)
        assert jax.config.jax_enable_x64 == before


@pytest.mark.slow
def test_theorem_7_names_the_conditions(tmp_path):
    bandits = ["healthcare", "degenerate"]
    code = theorem7.main(["--bandit", *bandits, "--sizes", "5", "10", "--out", str(tmp_path)])
    assert code == 0
    assert (tmp_path / "theorem7.png").stat().st_size > 1000
    found = json.loads((tmp_path / "results.json").read_text())["bandits"]
    assert found["healthcare"]["attractor"] == "holds"
    assert not found["degenerate"]["nondegenerate"]


@pytest.mark.parametrize(
    ("main", "argv", "match"),
    [
        (ground_truth.main, ["--bandit", "ring"], "--bandit: 'ring' is not one of age"),
        (ground_truth.main, ["--exact", "7"], "--exact: no N makes the budget of circulant"),
        (ground_truth.main, ["--bandit", "cyclic"], "cyclic has no limit"),
        (ground_truth.main, ["--runs", "1"], "--runs: at least 2"),
        (theorem7.main, ["--sizes", "5"], "--sizes: at least two"),
        (theorem7.main, ["--bandit", "ring"], "'ring' is not one of"),
    ],
)
def test_exact_experiments_end_with_one_line(main, argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err
