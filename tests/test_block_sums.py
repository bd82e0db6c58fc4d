"""Sums over blocks of agents against dense NumPy: best in hindsight, learned, and on a graph."""

import json
from functools import reduce
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from experiments import blocks as experiment
from tests.tolerances import SOLVE, by_precision

from . import oracles, oracles_ladder
from .test_decomposition import separable


def chain_of(P, sizes):
    return je.PairChain.from_matrix(jnp.asarray(P), sizes=sizes)


def best_sum(q, mu, sizes, blocks):
    """The error that weighted least squares over sums of functions of blocks leaves, in L2(mu)."""
    design = np.concatenate([oracles_ladder.lifted(sizes, block) for block in blocks], 1)
    root = np.sqrt(mu)[:, None]
    return np.linalg.norm(oracles_ladder.fit_leaves(root * design, root * q[:, None]))


def any_chain(seed, sizes):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = oracles.random_stochastic(rng, J, J)
    return P, oracles.stationary(P), [rng.normal(size=n) for n in sizes], rng.normal(size=J)


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 2, 2, 2)])
def test_best_sums_never_grow_with_k(sizes):
    """Least squares of NumPy gives the same error; it falls with k, and all together are exact."""
    for seed in range(3):
        P, mu, _, reward = any_chain(seed, sizes)
        q = oracles.q_values(P, reward, 0.9)
        chain = chain_of(P, sizes)
        before = np.inf
        for k in range(1, len(sizes) + 1):
            found = je.fit_blocks(chain, jnp.asarray(reward), k, discount=0.9)
            blocks = list(combinations(range(len(sizes)), k))
            assert found.blocks == tuple(blocks)
            np.testing.assert_allclose(
                found.l2_error, best_sum(q, mu, sizes, blocks), rtol=1e-9, atol=1e-11
            )
            assert found.l2_error <= before + 1e-12
            assert found.error.lower <= mu @ np.abs(q - found.q_total) * (1 + 1e-9) + 1e-12
            assert found.error.upper >= mu @ np.abs(q - found.q_total) * (1 - 1e-9)
            before = found.l2_error
        np.testing.assert_allclose(found.q_total, q, atol=1e-10)


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_blocks_learn_by_themselves(sizes, shared):
    """Möbius sums over all subsets of blocks, term by term; k = 1 is Meta Algorithm 1, N is Q."""
    P, mu, rewards, reward = any_chain(0, sizes)
    n, J = len(sizes), int(np.prod(sizes))
    joint = reward if shared else oracles.lift(rewards)
    q = oracles.q_values(P, joint, 0.9)

    def alone(block):
        if not block:
            return np.full(J, mu @ joint / 0.1 if shared else 0.0)
        B = oracles_ladder.lifted(sizes, block)
        flow = B.T @ (mu[:, None] * P) @ B
        P_A = flow / flow.sum(1, keepdims=True)
        if shared:
            paid = B.T @ (mu * joint) / (B.T @ mu)
        else:
            total = sum(oracles_ladder.lifted(sizes, (i,)) @ rewards[i] for i in block)
            paid = B.T @ total / B.sum(0)
        return B @ oracles.q_values(P_A, paid, 0.9)

    chain = chain_of(P, sizes)
    given = jnp.asarray(reward) if shared else [jnp.asarray(r) for r in rewards]
    for k in range(1, n + 1):
        expected = np.zeros(J)
        for size in range(k + 1):
            for outer in combinations(range(n), size):
                for inner in range(size + 1):
                    sign = (-1) ** (size - inner)
                    for block in combinations(outer, inner):
                        expected += sign * alone(block)
        found = je.block_values(chain, given, k, discount=0.9)
        np.testing.assert_allclose(found.q_total, expected, atol=SOLVE)
        left = q - expected
        np.testing.assert_allclose(found.l2_error, np.sqrt(mu @ left**2), atol=SOLVE)
        # The functions add up to the total.
        total = sum(
            oracles_ladder.lifted(sizes, block) @ np.asarray(f)
            for block, f in zip(found.blocks, found.q_blocks, strict=True)
        )
        np.testing.assert_allclose(total, found.q_total, atol=SOLVE)
        if k == 1 and not shared:
            plain = je.decompose(chain, given, discount=0.9)
            np.testing.assert_allclose(found.error.value, plain.mu_error, rtol=1e-9)
    np.testing.assert_allclose(found.q_total, q, atol=1e-10)


def test_a_chain_of_order_k_is_exact_from_its_blocks():
    """Where rewards on two agents stay theirs, pairs learn the values of pairwise rewards."""
    sizes = (2, 2, 2, 2)
    P = oracles_ladder.chain_of_order(np.random.default_rng(1), sizes, 2)
    rng = np.random.default_rng(2)
    pairs = list(combinations(range(4), 2))
    reward = sum(oracles_ladder.lifted(sizes, pair) @ rng.normal(size=4) for pair in pairs)
    chain = chain_of(P, sizes)
    assert je.locality_order(chain).order == 2
    found = je.fit_blocks(chain, jnp.asarray(reward), 2, discount=0.9)
    assert found.l2_error < by_precision(1e-10, 1e-5)
    assert je.fit_blocks(chain, jnp.asarray(reward), 1, discount=0.9).l2_error > 0.01


def test_three_body_games_where_pairs_fail():
    """Parity of three: nothing pairwise sees it; local moves keep it a function of all three."""
    rng = np.random.default_rng(0)
    P, _ = separable(rng, (2, 2, 2))
    parity = reduce(np.kron, [np.array([1.0, -1.0])] * 3)
    uniform = chain_of(np.full((8, 8), 1 / 8), (2, 2, 2))
    for k, expected in ((1, 1), (2, 1), (3, 0)):
        found = je.fit_blocks(uniform, jnp.asarray(parity), k, discount=0.9)
        np.testing.assert_allclose(found.l2_error, expected, atol=1e-12)
    learned = je.block_values(uniform, jnp.asarray(parity), 2, discount=0.9)
    np.testing.assert_allclose(learned.l2_error, 1, atol=1e-12)
    chain = chain_of(P, (2, 2, 2))
    pairs, triple = (je.fit_blocks(chain, jnp.asarray(parity), k, discount=0.9) for k in (2, 3))
    assert pairs.l2_error > 0.1
    assert triple.l2_error < 1e-10


def test_bounds_by_the_entanglement_of_blocks():
    """Rewards spread over overlapping pairs: the sup bound of the pairs' views holds, and for the
    best sum too."""
    sizes = (2, 2, 2)
    blocks = [(0, 1), (1, 2)]
    for seed in range(3):
        P, _, rewards, _ = any_chain(seed, sizes)
        P = 0.8 / 8 + 0.2 * P
        chain = chain_of(P, sizes)
        paired = je.with_views(chain, blocks)
        spread = je.spread_rewards(chain, rewards, blocks)
        np.testing.assert_allclose(paired.lift(spread), chain.lift(rewards), atol=1e-12)
        bound = je.bounds.span_sup(paired, spread, discount=0.9)
        found = je.decompose(paired, spread, discount=0.9)
        best = je.fit_blocks(chain, rewards, blocks, discount=0.9)
        assert found.sup_error <= bound + 1e-9
        assert best.l2_error <= found.sup_error + 1e-9
        vdn = je.fit_additive(paired, chain.lift(rewards), discount=0.9)
        fitted = np.sqrt(vdn.mu @ np.asarray(vdn.error) ** 2)
        assert best.l2_error - 1e-9 <= fitted <= best.l2_error / np.sqrt(1 - 0.81) + 1e-9


def test_best_graph_finds_the_pairs_that_are_paid():
    """Of six pairs two are paid; the budget of two finds them, and one the larger of these."""
    sizes = (2, 2, 2, 2)
    rng = np.random.default_rng(0)
    P = reduce(np.kron, [oracles.random_stochastic(rng, 2, 2) for _ in sizes])
    chain = chain_of(P, sizes)
    alike = np.array([1.0, 0, 0, 1])
    lift = oracles_ladder.lifted
    reward = 2 * lift(sizes, (0, 3)) @ alike + lift(sizes, (1, 2)) @ alike
    found = je.best_graph(chain, jnp.asarray(reward), num_pairs=2, discount=0.9)
    assert isinstance(found, je.Graph)
    assert found.exact
    assert set(found.pairs) == {(0, 3), (1, 2)}
    assert found.errors[-1] < by_precision(1e-10, 1e-5)
    assert (np.diff(found.errors) < 0).all()
    q, mu = oracles.q_values(P, reward, 0.9), oracles.stationary(P)
    singles = [(i,) for i in range(4)]
    for k in range(3):
        blocks = [*singles, *found.pairs[:k]]
        np.testing.assert_allclose(found.errors[k], best_sum(q, mu, sizes, blocks), atol=SOLVE)
    one = je.best_graph(chain, jnp.asarray(reward), num_pairs=1, discount=0.9)
    tried = [best_sum(q, mu, sizes, [*singles, pair]) for pair in combinations(range(4), 2)]
    np.testing.assert_allclose(one.errors[1], min(tried), atol=SOLVE)


def test_large_problems_are_not_written_down(monkeypatch):
    """LSQR gives what dense least squares gives."""
    P, _, _, reward = any_chain(0, (2, 3, 2))
    chain = chain_of(P, (2, 3, 2))
    dense = je.fit_blocks(chain, jnp.asarray(reward), 2, discount=0.9)
    monkeypatch.setattr("jaxent.values.block_sums._WRITTEN", 0)
    found = je.fit_blocks(chain, jnp.asarray(reward), 2, discount=0.9)
    np.testing.assert_allclose(found.q_total, dense.q_total, atol=1e-9)


def test_units_and_precision():
    P, _, _, reward = any_chain(0, (2, 2, 2))
    chain = chain_of(P, (2, 2, 2))
    one = je.fit_blocks(chain, jnp.asarray(reward), 2, discount=0.9)
    for scale in (1e-12, 1e12):
        found = je.fit_blocks(chain, jnp.asarray(scale * reward), 2, discount=0.9)
        np.testing.assert_allclose(found.l2_error, scale * one.l2_error, rtol=1e-9)
    single = chain_of(np.asarray(P, np.float32), (2, 2, 2))
    found = je.fit_blocks(single, jnp.asarray(reward, jnp.float32), 2, discount=0.9)
    assert found.q_total.dtype == found.l2_error.dtype == jnp.float32
    np.testing.assert_allclose(found.l2_error, one.l2_error, rtol=1e-3)


def test_refusals():
    chain = chain_of(je.three_agents(), (2, 2, 2))
    reward = jnp.zeros(8)
    with pytest.raises(ValueError, match="blocks: 4 is not a number of agents"):
        je.fit_blocks(chain, reward, 4, discount=0.9)
    with pytest.raises(ValueError, match=r"blocks\[0\]: \(0, 3\) is no block of the agents 0..2"):
        je.fit_blocks(chain, reward, [(0, 3)], discount=0.9)
    with pytest.raises(ValueError, match="num_pairs: 4 is more than the 3 of 3 agents"):
        je.best_graph(chain, reward, num_pairs=4, discount=0.9)
    with pytest.raises(ValueError, match="agent 2 is in none"):
        je.spread_rewards(chain, [jnp.zeros(2)] * 3, [(0, 1)])
    with pytest.raises(ValueError, match="something is traced"):
        jax.jit(lambda r: je.fit_blocks(chain, r, 1, discount=0.9).l2_error)(reward)


@pytest.mark.slow
def test_experiment(tmp_path):
    toy = ["--case", "parity", "random", "--random", "1", "--agents", "2", "--out", str(tmp_path)]
    assert experiment.main(toy) == 0
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"blocks.{suffix}").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [row["size"] for row in stored["rows"]] == [1, 2, 3, 1, 2]
    experiment.main([*toy, "--resume"])
    assert json.loads((tmp_path / "results.json").read_text()) == stored


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--case", "ring"], "--case: 'ring' is not one of parity"),
        (["--agents", "6"], "--agents: from 2 to 5"),
        (["--random", "0"], "--random: at least 1"),
    ],
)
def test_experiment_refuses(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        experiment.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err
