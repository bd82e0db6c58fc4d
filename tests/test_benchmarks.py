"""Every benchmark's answer agrees with its peers', at toy size."""

import importlib

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import counts, race, solvers
from benchmarks.protocol import model

WHY = "a peer of the benchmarks extra"


def run(name, config=None):
    module = importlib.import_module(f"benchmarks.{name}")
    rows = module.run(config or module.QUICK, 0)
    for row in rows:
        assert set(row.apart) == set(row.seconds) - {race.OURS}
        assert row.agrees, row
    return rows


@pytest.mark.needs_x64(reason="its table is of float64, and says how near the peers are there")
def test_joint_evaluation():
    pytest.importorskip("quantecon", reason=WHY)
    from benchmarks.evaluation import Config

    (row,) = run("evaluation", Config(agents=(2,), rounds=1))
    assert len(row.seconds) == 5


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.needs_x64(reason="its table is of float64, and says how near the peers are there")
def test_kronecker_product():
    pytest.importorskip("cola", reason=WHY)
    pytest.importorskip("pykronecker", reason=WHY)
    from benchmarks.kronecker import Config

    (row,) = run("kronecker", Config(sizes=((3, 3),), rounds=1))
    assert "% of its speed" in row.note


def test_peers_on_counts_agree():
    """Counts and agents, both in NumPy, have the same long-run shares, and the same E_1."""
    rng, start, bandit = np.random.default_rng(0), np.array([[2, 2, 3, 3]] * 20), model(10)
    shares = []
    for simulate in (counts.simulate_numpy, counts.simulate_agents):
        seen, moves = simulate(rng, bandit, start, 300)
        np.testing.assert_array_equal(moves.sum((2, 3)), seen[1:])
        np.testing.assert_array_equal(moves.sum((3, 4)), seen[:-1])
        np.testing.assert_array_equal(moves.sum((2, 4))[..., 1], np.full((300, 20), 2))
        shares.append(seen[50:].mean(0))
    a, b = shares
    error = np.hypot(a.std(0, ddof=1), b.std(0, ddof=1)) / np.sqrt(20)
    assert (np.abs(a.mean(0) - b.mean(0)) <= 5 * error).all()


def test_median_is_the_convex_optimum():
    pytest.importorskip("cvxpy", reason=WHY)
    seen, _ = counts.simulate_numpy(
        np.random.default_rng(1), model(10), np.full((1, 4), [1, 2, 3, 4]), 40
    )
    convex = counts.entanglement_convex(model(10), seen[:-1, 0])
    assert abs(counts.entanglement_median(model(10), seen[:-1, 0]) - convex) < 1e-7


def test_a_wrong_answer_shows(tmp_path):
    row = race.race(
        "two numbers",
        {race.OURS: lambda: 1.0, "peer": lambda: 2.0, "close": lambda: 1.0},
        apart=lambda a, b: abs(a - b),
        within=0.5,
        rounds=2,
        scale={"peer": lambda answer: 1e9 * answer},
        absent={"big": "n/a"},
    )
    assert not row.agrees
    assert row.best_peer == "close"
    text = race.table([row])
    assert "1 (0.5) DISAGREES" in text
    assert "n/a" in text
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- begin tables -->\nold\n<!-- end tables -->\nb\n")
    command.write_between(text, "tables", file)
    assert file.read_text() == f"a\n<!-- begin tables -->\n{text}\n<!-- end tables -->\nb\n"


@pytest.mark.slow  # minutes of compilation
@pytest.mark.parametrize("name", command.NAMES)
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_toy_size(name):
    if missing := command.missing():
        pytest.skip(f"peers of the benchmarks extra are not installed: {missing}")
    run(name)


@pytest.mark.slow
def test_growth(tmp_path):
    from benchmarks import growth

    assert growth.main(["--quick", "--only", "joint_N", "devices", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "growth.png").exists()
    assert (tmp_path / "growth.json").exists()


def test_scaling_says_what_is_off():
    """A difference from one device, or more memory than was estimated."""
    from benchmarks import scaling

    point = {"size": 7, "devices": 8, "pairs": 8**7, "away": 1e-15, "estimate": 4}
    point |= {"given": 1, "found": 1, "working": 2}
    assert scaling.agrees(point)
    assert not scaling.agrees(point | {"away": 1e-11})
    assert not scaling.agrees(point | {"away": float("nan")})
    assert not scaling.agrees(point | {"estimate": 3})
    *_, line = scaling.markdown({"strong": [point | {"estimate": 2**20}]}).splitlines()
    assert line.startswith("| 7 agents of 8 pairs | 2,097,152 | 8 | ")
    assert line.endswith(" | 1 | 1e-15 |")


@pytest.mark.slow
def test_scaling(tmp_path):
    from benchmarks import scaling

    assert scaling.main(["--quick", "--only", "strong", "typed", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "scaling.json").exists()


def test_first_calls_are_timed_in_fresh_processes():
    from benchmarks import first_call

    (row,) = first_call.rows_of(["whittle_index"], lines=False)
    assert {"first", "cpu", "again"} <= set(row)
    assert min(row["first"], row["again"]) > 0
    assert first_call.line(row).startswith("| `whittle_index` | ")


def test_what_comes_before_any_call_is_set_against_jax(monkeypatch):
    from benchmarks import first_call

    monkeypatch.setattr(first_call, "AGAIN", 1)
    busy = "sum(range(10**7))"
    quick = {"import jax": busy, "import jaxent": f"{busy}; import jaxent"}
    monkeypatch.setattr(first_call, "STARTS", quick)
    head, _, jax, ours = (line.strip("| ").split(" | ") for line in first_call.starts())
    assert head[0] == "before any call"
    assert jax[0] == "`import jax`"
    assert float(jax[2]) == 1
    assert float(ours[1]) > 0


@np.errstate()  # which the peer changes as it is imported
def test_indices_agree():
    pytest.importorskip("markovianbandit", reason=WHY)
    (row,) = run("indices")
    assert row.best_peer == "markovianbandit"


@pytest.mark.needs_x64(reason="its table is of float32 and of float64, side by side")
def test_two_ways_to_solve_a_chain_agree(monkeypatch):
    """Elimination and applying, alone and in a batch; a line of the table for each task."""
    monkeypatch.setattr(solvers, "LONG", 0.0)
    rows = [
        solvers.compare("slow", 64, "law", dtype, batch, 0)
        for dtype in ("float32", "float64")
        for batch in (1, 2)
    ]
    for row in rows:
        assert row.converged
        assert row.apart < (1e-3 if row.dtype == "float32" else 1e-10)
    heading, _, line = solvers.table(rows).split("\n")
    assert heading.count("at once") == 4
    assert line.startswith("| slow | 64 | law |")
