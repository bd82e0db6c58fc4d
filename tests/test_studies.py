"""The gradient-based studies: their parts by hand, their commands at toy size, bad options."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from experiments import disentangle, sensitivity, tradeoff

from . import oracles
from .tolerances import EXACT, SOLVE, by_precision


def pair(seed: int, states: int = 2) -> je.WeaklyCoupledMDP:
    rng = np.random.default_rng(seed)
    return je.WeaklyCoupledMDP(
        tuple(
            je.MDP(oracles.random_stochastic(rng, states, 2, states), rng.random((states, 2)))
            for _ in range(2)
        ),
        0.9,
    )


def law(P: np.ndarray) -> np.ndarray:
    """By solving the balance equations with the sum."""
    n = len(P)
    return np.linalg.lstsq(np.vstack([P.T - np.eye(n), np.ones(n)]), np.eye(n + 1)[n])[0]


@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_all_deterministic_policies(seed):
    """Some deterministic policy is optimal, and here there are 3^4 of them."""
    mdp = pair(seed)
    (P, r), (R, q) = mdp.agents
    states = list(itertools.product(range(2), repeat=2))
    found = []
    for chosen in itertools.product([(0, 0), (1, 0), (0, 1)], repeat=4):
        rows = [np.kron(P[s, a], R[t, b]) for (s, t), (a, b) in zip(states, chosen)]
        reward = [r[s, a] + q[t, b] for (s, t), (a, b) in zip(states, chosen)]
        found.append(law(np.array(rows)) @ np.array(reward))
    assert abs(tradeoff.optimum(mdp) - max(found)) < SOLVE


def test_shared_randomness_is_best_among_its_own():
    mdp = pair(1)
    worth, share, table = tradeoff.separable(mdp)
    table = np.asarray(table)
    assert (table[..., 1, 1] == 0).all()
    np.testing.assert_allclose(table.sum((2, 3)), 1, rtol=0, atol=EXACT)
    acts = table[..., 1, 0][:, 0], table[..., 0, 1][0]
    np.testing.assert_allclose(table[..., 1, 0], np.tile(acts[0][:, None], (1, 2)))
    assert acts[0].max() <= share + SOLVE
    assert acts[1].max() <= 1 - share + SOLVE

    def earned(agent, p):
        P, r = agent
        mixed = (1 - p)[:, None] * P[:, 0] + p[:, None] * P[:, 1]
        return law(mixed) @ ((1 - p) * r[:, 0] + p * r[:, 1])

    assert abs(sum(map(earned, mdp.agents, acts)) - worth) < SOLVE
    rng = np.random.default_rng(0)
    for _ in range(200):
        t = rng.choice(tradeoff.SHARES)
        tried = [rng.choice([0, 1], 2) * cap for cap in (t, 1 - t)]
        assert sum(map(earned, mdp.agents, tried)) < worth + SOLVE


def test_front_and_its_hull_by_hand():
    x, y = np.array([3.0, 0, 1, 2, 1, 4]), np.array([5.0, 1, 0, 2, 1.4, 4])
    ahead = tradeoff.front(x, y)
    np.testing.assert_array_equal(ahead, [[0, 1, 2, 3], [1, 1.4, 2, 5]])
    np.testing.assert_array_equal(tradeoff.hull(*ahead), [[0, 3], [1, 5]])


def test_sensitivity_moves_along_the_simplex():
    kernel = np.array([[0.2, 0.8, 0.0]])
    slope = sensitivity.tangent(jnp.array([[1.0, 2.0, 5.0]]), jnp.asarray(kernel))
    np.testing.assert_allclose(slope, [[-0.8, 0.2, 3.2]], rtol=0, atol=EXACT)
    after = sensitivity.moved(kernel, np.array([0, 2]), 0.1)
    np.testing.assert_allclose(after, [[0.18, 0.72, 0.1]], rtol=0, atol=EXACT)
    # A cubic along the row, also one-sided at the entry of 0.
    for y, wanted in ((0, -0.8 * 3 * 0.2**2 * 1.0), (2, -0.2 * 3 * 0.2**2)):
        got = sensitivity.difference(lambda P: P[0, 0] ** 3, kernel, np.array([0, y]))
        sign = -1 if y == 0 else 1
        assert abs(got - sign * wanted) < by_precision(1e-9, 1e-3)


def test_a_price_below_zero_runs_nothing():
    with pytest.raises(ValueError, match=r"price: -0\.5 is not a price; .* give 0 or more"):
        tradeoff.run(None, tradeoff.Config(price=(-0.5, 1.0)), 0)


@pytest.mark.parametrize(
    ("module", "argv", "match"),
    [
        (tradeoff, ["--price", "0", "-1"], "--price: -1 is not a price"),
        (tradeoff, ["--price", "0", "nan"], "--price: nan is not a price"),
        (tradeoff, ["--price", "1"], "--price: at least two"),
        (tradeoff, ["--states", "9"], "--states: 2 to 6"),
        (disentangle, ["--steps", "30"], "--steps: 30 is not a positive multiple of 20"),
        (disentangle, ["--scale", "0"], "--scale, pull: a scale above 0"),
        (sensitivity, ["--bandit", "ring"], "--bandit ring: name: 'ring' is not one of"),
        (sensitivity, ["--size", "7", "--bandit", "machines"], "7 is not a positive multiple of 5"),
    ],
)
def test_bad_options_end_with_one_line(module, argv, match, tmp_path, capsys):
    out = tmp_path / "new"
    with pytest.raises(SystemExit) as stopped:
        module.main([*argv, "--out", str(out)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not out.exists()


TOY = {
    tradeoff: ["--price", "0", "3", "--models", "1", "--starts", "2", "--steps", "100"],
    disentangle: ["--seeds", "3", "--steps", "400"],
    sensitivity: ["--bandit", "healthcare", "--size", "5", "--states", "2", "--checked", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("module", TOY, ids=lambda m: m.__name__)
def test_leaves_figures_and_results(module, tmp_path, capsys):
    name = module.__name__.split(".")[-1]
    code = module.main([*TOY[module], "--out", str(tmp_path)])
    assert code in ((0, 1) if module is tradeoff else (0,))  # a hundred steps are few for its front
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"{name}.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    assert {"claims", "config", "seed", "versions"} < set(stored)
    assert "holds" in capsys.readouterr().out
    # Nothing is left to do, and nothing changes.
    assert module.main([*TOY[module], "--resume", "--out", str(tmp_path)]) == code
    assert json.loads((tmp_path / "results.json").read_text()) == stored
