"""Ride-hailing with exogenous orders: the simulator against its rules, and the two audits."""

import json

import jax
import numpy as np
import pytest

from experiments import dispatch
from tests.tolerances import STANDARD_ERRORS


def test_simulator_keeps_its_rules():
    config = dispatch.Config(drivers=6, sent=2, zones=4, steps=4_000)
    where, sent, busy = map(np.asarray, dispatch.simulate(jax.random.key(0), config))
    assert (sent.sum(1) == 2).all()
    gap = np.abs(where - busy[:, None])
    distance = np.minimum(gap, 4 - gap)
    # Nobody who is sent is farther than one who is not.
    far, near = np.where(sent, distance, -1).max(1), np.where(sent, 9, distance).min(1)
    assert (far <= near).all()
    moved = where[1:] != where[:-1]

    def holds(chance, among):
        return abs(among.mean() - chance) <= STANDARD_ERRORS * np.sqrt(
            chance * (1 - chance) / among.size
        )

    # Idle: moves with chance 1/4. Sent from the zone itself: anywhere. The busy zone: 1/4 * 3/4.
    assert holds(0.25, moved[~sent[:-1]])
    assert holds(0.75, moved[sent[:-1] & (distance[:-1] == 0)])
    assert holds(0.75 * 0.5, moved[sent[:-1] & (distance[:-1] == 2)])
    assert holds(3 / 16, busy[1:] != busy[:-1])


@pytest.mark.slow
def test_who_sees_the_orders_is_less_entangled(tmp_path, capsys):
    assert dispatch.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "with the busy zone" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    seen, unseen = (results[name] for name in ("with the busy zone", "without"))
    assert np.nanmean(np.array(seen["entanglement"], float)) < np.nanmean(
        np.array(unseen["entanglement"], float)
    )


@pytest.mark.parametrize("options", [["--sent", "20"], ["--zones", "2"], ["--resume"]])
def test_bad_options(options, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        dispatch.main([*options, "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --")
