"""Populations of several types: what they are, their relaxations, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.fluid import best_values

from . import oracles_population as oracles
from .tolerances import EXACT, F32, SOLVE


def population_of(types, counts, budgets, discount):
    """The public type from the oracles' plain arrays."""
    return je.WeaklyCoupledPopulation(
        types=[(je.MDP(P, r), d) for P, r, d in types],
        counts=counts,
        budgets=[je.Budget(limit, equality=equality) for limit, equality in budgets],
        discount=discount,
    )


def small(seed=0, **change):
    """Two types of different sizes, two budgets."""
    plain = oracles.random_population(seed, ((3, 2), (2, 3)), (2, 3), 2)
    return plain, population_of(*plain)


def test_fluid_value_equals_a_plain_program():
    """Average and discounted, limits and equalities, on 100 random populations or more."""
    solved = 0
    for seed in range(125):
        rng = np.random.default_rng(1000 + seed)
        sizes = tuple((int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(2))
        counts = tuple(rng.integers(1, 9, 2).tolist())
        equality = (0,) if seed % 3 == 0 else ()
        plain = oracles.random_population(seed, sizes, counts, 1 + seed % 2, 0.9, equality)
        start = None
        if seed % 2:
            start = [n * rng.dirichlet(np.ones(s)) for n, (s, _) in zip(counts, sizes, strict=True)]
        want = oracles.fluid_value(*plain[:3], plain[3], start)
        population = population_of(*plain)
        poorest = sum(
            n * d[..., 0].max(1).min() for n, (_, _, d) in zip(counts, plain[0], strict=True)
        )
        if equality and poorest < plain[2][0][0]:
            with pytest.raises(ValueError, match="cannot be spent exactly"):
                population.check()
            continue
        found = je.fluid_policy(population, start=start)
        solved += 1
        np.testing.assert_allclose(found.value, want, atol=SOLVE * (1 + abs(want)))
        # The multipliers prove it: the agents on their own earn no more at these prices.
        bound = je.lagrangian_bound(population, found.prices, start=start)
        np.testing.assert_allclose(bound, found.value, atol=SOLVE * (1 + abs(want)))
        dearer = found.prices + rng.random(len(found.prices))
        assert je.lagrangian_bound(population, dearer, start=start) > want - SOLVE
        paid = sum((y * r).sum() for y, (_, r, _) in zip(found.occupancy, plain[0], strict=True))
        scale = 1 if start is None else 1 - plain[3]
        np.testing.assert_allclose(paid / scale, want, atol=SOLVE * (1 + abs(want)))
        spent = sum(
            np.einsum("sa,sak->k", y, d)
            for y, (_, _, d) in zip(found.occupancy, plain[0], strict=True)
        )
        np.testing.assert_allclose(found.spent, spent, atol=SOLVE)
        for k, (limit, equal) in enumerate(plain[2]):
            assert spent[k] <= limit + SOLVE
            assert found.active[k] == (abs(spent[k] - limit) < SOLVE)
            assert found.active[k] or found.prices[k] == 0
            assert equal or found.prices[k] >= 0
    assert solved >= 100


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_fluid_answers_scale_with_the_rewards(scale):
    """No unit of reward is known: values, prices and indices times c."""
    plain, population = small()
    types = [(P, scale * r, d) for P, r, d in plain[0]]
    for start in (None, [np.array([1.0, 1, 0]), np.array([1.5, 1.5])]):
        one = je.fluid_policy(population, start=start)
        other = je.fluid_policy(population_of(types, *plain[1:]), start=start)
        np.testing.assert_allclose(other.value, scale * one.value, rtol=SOLVE)
        np.testing.assert_allclose(other.prices, scale * one.prices, rtol=SOLVE)
        for mine, theirs in zip(other.occupancy, one.occupancy, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=SOLVE)
        for mine, theirs in zip(other.index, one.index, strict=True):
            np.testing.assert_allclose(mine, scale * theirs, atol=scale * SOLVE)
        for mine, theirs in zip(other.values, one.values, strict=True):
            np.testing.assert_allclose(mine, scale * theirs, atol=scale * SOLVE)
        assert other[7:] == one[7:]


def test_kernels_of_single_precision_have_rows_that_sum_to_one():
    """The bound at any prices, and at the best ones the relaxation, of kernels held in float32."""
    for name in ("machines", "circulant", "age"):
        bandit = je.named_bandit(name, 20).bandit
        single = jax.tree.map(lambda x: np.asarray(x, np.float32), bandit)
        single = single._replace(num_agents=20, budget=bandit.budget, discount=bandit.discount)
        prices = je.fluid_policy(single).prices
        for at in (np.zeros(1), prices):
            bounds = [je.lagrangian_bound(b, at) for b in (single, bandit)]
            np.testing.assert_allclose(bounds[0], bounds[1], rtol=F32)
        np.testing.assert_allclose(bounds[0], je.fluid_policy(single).value, rtol=SOLVE)


def test_a_bandit_is_a_population_of_one_type():
    """Value, occupancy, index: those of `fluid_priority`, with which it shares its solver."""
    for name in ("circulant", "machines", "age"):
        bandit = je.named_bandit(name, 10).bandit
        found, known = je.fluid_policy(bandit), je.fluid_priority(bandit)
        np.testing.assert_allclose(found.value, 10 * known.value, rtol=EXACT)
        np.testing.assert_allclose(found.occupancy[0], 10 * known.occupancy, atol=SOLVE)
        gain = found.index[0][:, 1] - found.index[0][:, 0]
        np.testing.assert_allclose(gain, known.index, atol=SOLVE)
        assert found.active.all()


@pytest.mark.needs_x64(reason="rounding its kernel to float32 makes the border case regular")
def test_degeneracy_is_said():
    """A mixed state for each budget that binds is the regular case; `degenerate` has none."""
    regular = je.fluid_policy(je.circulant_bandit(10))
    assert regular.nondegenerate
    assert regular.unique
    assert regular.randomized == 1
    border = je.fluid_policy(je.named_bandit("degenerate", 10).bandit)
    assert border.randomized == 0
    assert not border.nondegenerate
    same = je.circulant_bandit(10)._replace(reward=np.zeros((4, 2)))
    assert not je.fluid_policy(same).unique
    np.testing.assert_allclose(regular.policy[0].sum(1), 1, atol=EXACT)


def test_best_values_equal_value_iteration():
    """Policy iteration of one agent, against plain value iteration."""
    rng = np.random.default_rng(0)
    P, r = rng.dirichlet(np.ones(4), (4, 3)), rng.standard_normal((4, 3))
    V = np.zeros(4)
    for _ in range(400):
        V = (r + 0.9 * P @ V).max(1)
    np.testing.assert_allclose(best_values(P, r, 0.9), V, atol=SOLVE)


def test_lists_and_shares_are_taken():
    """Plain numbers are limits, a share is of N, a pair is a type; a population is a pytree."""
    plain, population = small()
    (P, r, d), counts = plain[0][0], [4]
    one = je.WeaklyCoupledPopulation([(je.MDP(P.tolist(), r.tolist()), d)], counts, [3, 2.0], 0.8)
    assert one.budgets == (je.Budget(3), je.Budget(2.0))
    assert one.counts == (4,)
    assert one.num_agents == 4
    share = je.WeaklyCoupledPopulation(one.types, (4,), (je.Budget(0.75, per_agent=True), 2.0), 0.8)
    assert share.limits == (3.0, 2.0)
    assert je.fluid_policy(share).value == je.fluid_policy(one).value
    again = jax.tree.map(jnp.asarray, population)
    assert again.sizes == population.sizes == ((3, 2), (2, 3))
    again.check()
    jax.jit(lambda p: p.check())(population)
    joint = population.joint()
    assert joint.num_states == (3, 3, 2, 2, 2)
    assert len(joint.couplings) == 2
    with pytest.raises(ValueError, match="must be known here"):
        jax.jit(lambda p: je.fluid_policy(p).value)(population)


def two(budgets, costs=None, counts=(2, 1)):
    """Two types of two states and actions; action 1 of state s costs 1 + s."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(2), (2, 2))
    if costs is None:
        costs = np.array([[[0.0], [1]], [[0], [2]]])
    kind = je.AgentType(je.MDP(P, np.zeros((2, 2))), costs)
    return je.WeaklyCoupledPopulation((kind, kind), counts, budgets, 0.9)


NEVER_FREE = np.array([[[1.0], [2]], [[3], [4]]])
EITHER = np.array([[[1.0, 0], [0, 1]], [[1, 0], [0, 1]]])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (
            lambda: two((8.5,), NEVER_FREE),
            r"budgets\[0\]: 8.5 .* type 0 in state 1, type 1 in .* 9 is used",
        ),
        (
            lambda: two((je.Budget(3.5, equality=True),)),
            r"budgets\[0\]: 3.5 cannot be spent exactly.* at most 3",
        ),
        (lambda: two((1, 1), EITHER), "budgets: cannot all be kept at once.* type 0 in state 0"),
        (lambda: two((1, 1)), r"types\[0\].costs: wanted shape \[2, 2, 2\]"),
        (lambda: two((-1,)), r"budgets\[0\]: -1 cannot be kept"),
        (lambda: two((np.nan,)), r"budgets\[0\].limit"),
        (lambda: two(()), "budgets: wanted at least one"),
        (lambda: two((1,), counts=(2, 0)), r"counts\[1\]: type 1 has no agents"),
        (lambda: two((1,), counts=(2, 1.5)), r"counts\[1\]: 1.5 is not a whole number"),
        (lambda: two((1,), counts=(2,)), "counts: wanted one for each of 2 types"),
        (lambda: je.WeaklyCoupledPopulation((), (), (1,), 0.9), "types: wanted at least one"),
        (lambda: je.WeaklyCoupledPopulation((3,), (1,), (1,), 0.9), r"types\[0\]: int is not"),
    ],
)  # fmt: skip
def test_bad_populations_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match) as refusal:
        wrong().check()
    assert "\n" not in str(refusal.value)


def test_bad_arguments_are_refused():
    _, population = small()
    with pytest.raises(ValueError, match=r"start\[1\]: .* sum to counts\[1\] = 3"):
        je.fluid_policy(population, start=[[1, 1, 0], [1, 1]])
    with pytest.raises(ValueError, match="start: wanted agents per state of each of 2 types"):
        je.fluid_policy(population, start=[[1, 1, 0]])
    with pytest.raises(ValueError, match=r"prices\[1\]: -1 is below 0"):
        je.lagrangian_bound(population, [0, -1])
    with pytest.raises(ValueError, match="population: MDP is neither"):
        je.fluid_policy(population.types[0].mdp)


def test_priority_of_the_relaxation():
    """Of a bandit that of `fluid_priority`; of limits only what gains."""
    for name in ("circulant", "machines", "age", "queue"):
        bandit = je.named_bandit(name, 20).bandit
        moves = je.fluid_policy(bandit).priority
        assert [s for _, s, _ in moves] == je.fluid_priority(bandit).priority.tolist()
    _, population = small()
    found = je.fluid_policy(population)
    gains = [found.index[k][s, a] - found.index[k][s, 0] for k, s, a in found.priority]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) >= -SOLVE
    bandit = je.circulant_bandit(20)
    chains = [
        je.exchangeable_chain(je.circulant_bandit(5), je.priority_policy(je.circulant_bandit(5), p))
        for p in (je.fluid_policy(bandit).priority, je.fluid_priority(bandit).priority)
    ]
    np.testing.assert_array_equal(chains[0].policy.table, chains[1].policy.table)
