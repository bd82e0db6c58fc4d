"""Policies side by side: estimates from runs against exact values; the experiment at toy size."""

import json

import jax
import numpy as np
import pytest

import jaxent as je
from experiments import policies, policy_measures, sum_from_runs
from jaxent.restless.fluid import known_data

from .tolerances import EXACT, SOLVE


def test_local_values_by_hand():
    """Two pairs that follow each other: Q = r + discount Q of the other."""
    flow = np.array([[0.0, 3.0], [3.0, 0.0]])
    found = sum_from_runs.local_values(flow, np.array([1.0, 0.0]), 0.5)
    np.testing.assert_allclose(found, [4 / 3, 2 / 3], atol=EXACT)


def test_team_values_of_agents_on_their_own():
    """Where every agent acts by its state alone the linear value is that of one agent."""
    population = je.named_population("clinic", 8)
    data = known_data(population)
    rng = np.random.default_rng(0)
    tables = [rng.dirichlet(np.ones(A), S) for S, A in data.sizes]
    counts = [rng.multinomial(n, np.ones(S) / S, 50) for n, (S, _) in zip((4, 4), data.sizes)]
    splits = np.concatenate(
        [(m[:, :, None] * table).reshape(50, -1) for m, table in zip(counts, tables, strict=True)],
        axis=1,
    )
    state, gain = sum_from_runs.team_values(splits.T @ splits, data)
    alone = []
    for P, r, table in zip(data.kernels, data.rewards, tables, strict=True):
        own = np.einsum("sa,sat->st", table, P.reshape(*table.shape, -1))
        paid = (table * r.reshape(table.shape)).sum(1)
        alone.append(np.linalg.solve(np.eye(len(own)) - data.discount * own, paid))
    # A constant may go from one type to the other, as numbers of agents do not change.
    begins = np.cumsum([0, *(len(v) for v in alone)])
    for v, first, last in zip(alone, begins, begins[1:], strict=False):
        np.testing.assert_allclose(np.ptp(state[first:last] - v), 0, atol=1e-6)
    want = sum(m @ v for m, v in zip(counts, alone, strict=True))
    np.testing.assert_allclose(np.concatenate(counts, axis=1) @ state, want, rtol=1e-6)
    np.testing.assert_allclose(splits @ gain, want, rtol=1e-6)


def row(size, error):
    return {
        "size": size,
        "gap": 1 / size,
        "gap_error": 0.01 / size,
        "rms_error": error,
        "rms_standard_error": 0.01 * error,
    }


def test_slopes_and_what_is_told():
    """A power has its exponent; one point says nothing, noise is left out."""
    result = {"exact": [], "simulated": [row(n, 3 * n**0.5) for n in (10, 40, 160)]}
    power, half = policies.slope(result, "rms_error", "rms_standard_error")
    assert abs(power - 0.5) < SOLVE
    assert 0 < half < 0.02
    assert policies.told(result, "gap", "gap_error").startswith("-1.00")
    result["simulated"] = result["simulated"][:1]
    assert policies.told(result, "gap", "gap_error") == "lost in the noise"
    result["exact"] = [{"size": n, "rms_error": 0.0} for n in (5, 10)]
    assert policies.told(result, "rms_error", "rms_standard_error") == "0"


def test_who_enters():
    """Two sets for one type of two actions; no second name for the priority."""
    everyone = policies.Config().policy
    assert "two-set" in policy_measures.entrants("circulant", everyone)
    assert "lagrange" not in policy_measures.entrants("workshop", everyone)
    assert {"lagrange", "mpc"} <= set(policy_measures.entrants("supermarket", everyone))
    assert "two-set" not in policy_measures.entrants("supermarket", everyone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy", "size"),
    [("three-states", "priority", 10), ("supermarket", "lagrange", 5)],
)
def test_runs_find_the_exact_values(name, policy, size):
    exact = policy_measures.exactly(name, policy, size)
    population = je.named_population(name, size)
    made = policy_measures.POLICIES[policy].make(population, je.fluid_policy(population))
    found = sum_from_runs.measure_runs(
        jax.random.key(0),
        population,
        made,
        num_runs=100,
        burn_in=30,
        num_steps=60,
        horizon=60,
        branches=24,
    )
    assert abs(found.gap - exact["gap"]) < 5 * found.gap_error
    assert abs(found.rms_error - exact["rms_error"]) < 5 * found.rms_standard_error
    assert found.rms_standard_error < 0.2 * exact["rms_error"]


@pytest.mark.slow
def test_agents_that_do_not_meet_have_no_error():
    """With more of everything than all could use, a policy with a memory is a sum."""
    poor = je.named_population("supermarket", 10)
    rich = je.WeaklyCoupledPopulation(poor.types, poor.counts, [100.0, 100.0], poor.discount)
    found = sum_from_runs.measure_runs(
        jax.random.key(0),
        rich,
        je.id_policy(rich, je.fluid_policy(rich)),
        num_runs=100,
        burn_in=20,
        num_steps=40,
        horizon=40,
        branches=4,
    )
    assert found.rms_error < 5 * found.rms_standard_error + 1e-3
    assert abs(found.gap) < SOLVE


@pytest.mark.slow
def test_the_experiment_draws_its_figure(tmp_path):
    argv = ["--population", "three-states", "--policy", "priority", "two-set", "--exact", "5"]
    argv += [
        "--sizes",
        "5",
        "10",
        "--runs",
        "8",
        "--steps",
        "5",
        "--horizon",
        "8",
        "--branches",
        "3",
    ]
    policies.main([*argv, "--out", str(tmp_path)])
    assert (tmp_path / "policies.png").stat().st_size > 1000
    found = json.loads((tmp_path / "results.json").read_text())
    stored = found["populations"]["three-states"]
    assert [r["size"] for r in stored["priority"]["simulated"]] == [5, 10]
    assert stored["optimum"][0]["gap"] <= stored["priority"]["exact"][0]["gap"]
    # Nothing is left to do, and nothing changes.
    policies.main([*argv, "--out", str(tmp_path), "--resume"])
    assert json.loads((tmp_path / "results.json").read_text()) == found


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--population", "ring"], "--population: 'ring' is not one of age"),
        (["--policy", "best"], "--policy: 'best' is not one of ftva"),
        (["--sizes", "7"], "--sizes: circulant takes none of them"),
        (["--runs", "1"], "--runs: at least 2"),
    ],
)
def test_bad_options_end_with_one_line(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        policies.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err


def test_what_has_too_many_splits_is_not_solved():
    """Ten agents of eight states have 3 million splits; a number that does not fit has none."""
    assert policy_measures.exact_sizes("conveyor", "priority", (4, 5, 10)) == [4]
    assert policy_measures.fits("conveyor", 10)
    assert not policy_measures.fits("conveyor", 5)
