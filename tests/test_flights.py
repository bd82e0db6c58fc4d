"""The audit of real flights, end to end: the panel against the raw table, and the notebook."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxent
from experiments import command, flights

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "flights.ipynb"


def test_panel_against_the_raw_table():
    raw = flights.load()
    table = flights.panel(raw, 5)
    run, gaps = jaxent.read_log(table)
    assert gaps == ()
    assert run.num_epochs == 365
    assert run.num_agents == 5
    # Aircraft by aircraft and row by row, for one in the middle.
    agent = run.labels.agents[2]
    own = raw[raw["tailnum"] == agent]
    day = np.array([np.datetime64(f"2013-{m:02}-{d:02}") for m, d in zip(own.month, own.day)])
    day = (day - np.datetime64("2013-01-01")).astype(int)
    delay, left = own["dep_delay"].to_numpy(), own["dep_time"].notna().to_numpy()
    for t in range(365):
        here = day == t
        late = (~left[here] | (delay[here] >= 15)).any()
        want = "idle" if not here.any() else "late" if late else "on time"
        assert run.labels.states[run.states[t, 2]] == want
        behind = np.nansum(np.maximum(delay[here], 0)) / 60
        np.testing.assert_allclose(run.rewards[t, 2], -behind, atol=1e-12)
    # No other aircraft flew on more days.
    days = raw.dropna(subset=["tailnum"]).groupby("tailnum")[["month", "day"]]
    most = days.apply(lambda rows: len(rows.drop_duplicates())).nlargest(5)
    flown = (np.asarray(run.states) != run.labels.states.index("idle")).sum(0)
    assert sorted(flown) == sorted(most)


@pytest.mark.slow
def test_notebook_runs():
    """Every cell in order, but the install line; what it finds is a finite audit of 20 aircraft."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict = {}
    with command.double_precision():  # which it asks for, and which nobody after it should have
        for cell in [cell for cell in cells if cell["cell_type"] == "code"][1:]:
            exec("".join(cell["source"]), names)
    found = names["found"]
    assert len(found.agents) == 20
    assert np.isfinite(found.entanglement).all()
    assert found.bound <= found.bound_upper
    assert found.verdict in ("trust", "trust with care", "do not trust", "undecided")


def test_bad_options(tmp_path, capsys):
    for options in (["--aircraft", "1"], ["--permutations", "3"], ["--resume"]):
        with pytest.raises(SystemExit) as ended:
            flights.main([*options, "--out", str(tmp_path)])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: --")
