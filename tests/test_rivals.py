"""Diagnostics of coupling by other packages, beside transfer entropy and the error of values."""

import importlib

import jax
import numpy as np
import pytest

import jaxent as je
from benchmarks import rivals
from tests import oracles_information as information
from tests.tolerances import EXACT, STANDARD_ERRORS, by_precision

WHY = "a peer of the benchmarks extra"
GAMES = {game.name: game for game in rivals.games()}
EXAMPLE_1 = "Example 1: one of the two acts, by a coin"
OR = "one is moved if just one of two acts"


@pytest.fixture
def pyinform():
    try:
        return importlib.import_module("pyinform")
    except (ImportError, OSError) as missing:  # its compiled part is not made for every machine
        pytest.skip(f"{WHY}: {missing}")


def draws(sizes, steps, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(n, size=steps) for n in sizes], 1)


@pytest.mark.parametrize("name", GAMES)
def test_games_are_what_the_table_says(name):
    """What is exact in it: information and entanglement are 0 together, errors as they may."""
    game = GAMES[name]
    mu = je.stationary_distribution(game.chain)
    agents = range(len(game.chain.views))
    said = [float(je.transfer_entropy(game.chain, mu, agent=i).value) for i in agents]
    least = [je.entanglement_mu_atv_upper(game.chain, mu, agent=i).value for i in agents]
    assert [x > EXACT for x in said] == [e > EXACT for e in least]
    error = je.decompose(game.chain, game.rewards, discount=rivals.DISCOUNT).mu_error
    told = "coin" not in name
    assert (max(said) > 0.01) == told
    alone = [
        je.transfer_entropy(game.chain, mu, agent=i, source=k).value for i in agents for k in agents
    ]
    assert (max(alone) > 0.01) == (told and name != OR)
    assert (error > 0.01) == (told and "own state" not in name)


@pytest.mark.parametrize("sizes", [(2, 3), (4, 2, 2)])
def test_the_same_counts_as_pyinform(pyinform, sizes):
    """Of any log, to rounding: it counts, jaxent takes the law that was counted."""
    pairs = draws(sizes, 300)
    seen, often = rivals.counted(pairs, sizes)
    for agent in range(len(sizes)):
        ours = je.transfer_entropy(seen, often, agent=agent).value
        np.testing.assert_allclose(ours, rivals.by_pyinform(pairs, sizes, agent), atol=EXACT)
        others = [k for k in range(len(sizes)) if k != agent]
        own, other = pairs[:, agent], rivals.code(pairs[:, others], [sizes[k] for k in others])
        for memory in (1, 2):
            found = rivals.by_pyinform(pairs, sizes, agent, memory=memory)
            wanted = information.history_transfer(own, other, memory)
            np.testing.assert_allclose(found, wanted, atol=EXACT)


def test_one_source_is_what_pyinform_calls_apparent(pyinform):
    sizes, pairs = (2, 3, 2), draws((2, 3, 2), 500, seed=1)
    seen, often = rivals.counted(pairs, sizes)
    for agent, source in ((0, 1), (1, 2), (2, 0)):
        ours = je.transfer_entropy(seen, often, agent=agent, source=source).value
        theirs = pyinform.transfer_entropy(pairs[:, source], pairs[:, agent], k=1) * np.log(2)
        np.testing.assert_allclose(ours, theirs, atol=EXACT)


def test_counts_of_independent_agents_are_off_by_their_bias(pyinform):
    """2 T times what is counted is chi-squared, with X (X - 1) (C - 1) degrees of freedom."""
    sizes, steps = (2, 3), 2000
    free = 2 * 1 * 2
    counted = [
        2 * (steps - 1) * rivals.by_pyinform(draws(sizes, steps, seed), sizes, 0)
        for seed in range(100)
    ]
    assert abs(np.mean(counted) - free) < STANDARD_ERRORS * np.sqrt(2 * free / 100)


@pytest.fixture
def played():
    pytest.importorskip("dec_pomdp_diagnostics", reason=WHY)
    pytest.importorskip("pyinform", reason=WHY)
    return lambda name, steps: rivals.play(GAMES[name], jax.random.key(0), steps)


@pytest.mark.filterwarnings("ignore")  # of the peer
def test_it_reports_coordination_where_values_are_a_sum(played):
    """Example 1: the coupling of actions is all that it could be, and the error is 0."""
    row = played(EXAMPLE_1, 800)
    value, null, says = row["diagnostics"]["AA"]
    assert says
    assert value > 0.8 > 0.2 > null  # 1 by its definition; neighbors smooth it
    assert row["error"] < EXACT
    assert max(row["told"]) < EXACT
    assert row["apart"] <= by_precision(rivals.SAME, 1e-6)
    assert row["interval"][0] == 0


@pytest.mark.filterwarnings("ignore")  # of the peer
def test_it_sees_nothing_where_values_err_most(played):
    """All act by coins, so that nothing tells an action; yet one agent's state is moved."""
    row = played(OR, 800)
    for value, null, _ in row["diagnostics"].values():
        assert value - null < 0.03  # 0 by definition; its verdict is by a margin of 0.01
    assert row["interval"][0] > 0.5 * row["spread"]
    np.testing.assert_allclose(row["error"], 0.45, rtol=by_precision(1e-7, 1e-5))
    np.testing.assert_allclose(row["told"], [np.log(2), 0, 0], atol=EXACT)
    assert row["apart"] <= by_precision(rivals.SAME, 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_the_command(played, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin rivals -->\n<!-- end rivals -->\n")
    monkeypatch.setattr(rivals, "PAGE", page)
    assert rivals.main(["--quick", "--out", str(tmp_path / "out"), "--write-page"]) == 0
    assert capsys.readouterr().out.strip() in page.read_text()
    assert (tmp_path / "out" / "rivals.json").exists()
