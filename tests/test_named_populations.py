"""The named populations are what their docstrings say."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import oracles_population as oracles
from .tolerances import EXACT, F32, SOLVE

NUM = 20  # a multiple of all that any name asks for
SEVERAL = ("arms", "clinic", "conveyor", "supermarket", "three-states", "workshop")
# Bounds an agent: Hong et al. (2023) to 4 digits, and by hand.
BOUNDS = {"three-states": 0.1238, "conveyor": 1 / 80}


def plain(population):
    """What the oracles take: types, counts, budgets."""
    types = [
        (np.asarray(kind.mdp.transition), np.asarray(kind.mdp.reward), np.asarray(kind.costs))
        for kind in population.types
    ]
    budgets = [
        (limit, budget.equality)
        for limit, budget in zip(population.limits, population.budgets, strict=True)
    ]
    return types, population.counts, budgets, population.discount


@pytest.mark.parametrize("name", je.POPULATIONS)
def test_is_a_population_and_the_same_every_time(name):
    found, again = (je.named_population(name, NUM) for _ in range(2))
    found.check()
    assert found.num_agents == NUM
    assert all(float(limit).is_integer() for limit in found.limits)
    for (P, r, d), (P2, r2, d2) in zip(plain(found)[0], plain(again)[0], strict=True):
        np.testing.assert_allclose(P.sum(-1), 1, atol=EXACT)
        for a, b in ((P, P2), (r, r2), (d, d2)):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SEVERAL)
def test_grows_in_proportion(name):
    """Twice as many agents, types and budgets; but for arms that all differ, the same bound."""
    small, large = (je.named_population(name, n) for n in (NUM, 2 * NUM))
    assert large.limits == tuple(2 * limit for limit in small.limits)
    if name == "arms":
        assert large.counts == (1,) * 2 * NUM
        for a, b in zip(small.types, large.types, strict=False):
            np.testing.assert_array_equal(a.costs, b.costs)
            np.testing.assert_array_equal(a.mdp.reward, b.mdp.reward)
        return
    assert large.counts == tuple(2 * n for n in small.counts)
    np.testing.assert_allclose(
        je.fluid_policy(large).value, 2 * je.fluid_policy(small).value, rtol=SOLVE
    )
    with pytest.raises(ValueError, match="num_agents: 7 is not a positive multiple of"):
        je.named_population(name, 7)


@pytest.mark.parametrize("name", SEVERAL)
def test_bound_is_that_of_a_plain_program(name):
    population = je.named_population(name, NUM)
    found = je.fluid_policy(population)
    types, counts, budgets, discount = plain(population)
    # Rows of float32 miss 1 by rounding: with those a plain program has no solution at all.
    types = [(P / P.sum(-1, keepdims=True, dtype=float), r, d) for P, r, d in types]
    want = oracles.fluid_value(types, counts, budgets, discount, None)
    assert want is not None
    np.testing.assert_allclose(found.value, want, rtol=SOLVE)
    if name in BOUNDS:
        np.testing.assert_allclose(found.value / NUM, BOUNDS[name], atol=5e-5)


def test_bound_in_single_precision():
    """Rows of the conveyor sum to 1 to 1e-7 there, which loses no agents."""
    (kind,) = je.named_population("conveyor", NUM).types
    single = [jnp.asarray(x, jnp.float32) for x in (*kind.mdp, kind.costs)]
    half = [je.Budget(0.5, per_agent=True, equality=True)]
    population = je.WeaklyCoupledPopulation([(je.MDP(*single[:2]), single[2])], [NUM], half, 0.9)
    np.testing.assert_allclose(je.fluid_policy(population).value / NUM, 1 / 80, rtol=F32)


def test_a_shelf_by_hand():
    """One unit left, one ordered: 2 on the shelf meet demands of 0, 1, 2."""
    (kind,) = je.named_population("supermarket", 5).types
    np.testing.assert_allclose(kind.mdp.transition[1, 1], [0.2, 0.4, 0.4, 0], atol=EXACT)
    np.testing.assert_allclose(
        kind.mdp.reward[1, 1], 0.4 * (0 - 0.2) + 0.4 * (1 - 0.1) + 0.2 * 2, atol=EXACT
    )
    # A full shelf: what is ordered is lost.
    np.testing.assert_array_equal(kind.mdp.transition[3, 2], kind.mdp.transition[3, 0])
    np.testing.assert_array_equal(kind.costs[0], [[0, 0], [1, 1], [2, 1]])


def test_conveyor_goes_round_by_the_right_choices():
    """With them every place is left with probability 0.1, half of them acting, 1 in 80 paid."""
    (kind,) = je.named_population("conveyor", 2).types
    right = [1, 1, 1, 1, 0, 0, 0, 0]
    P = np.asarray(kind.mdp.transition)[np.arange(8), right]
    np.testing.assert_allclose(P, 0.9 * np.eye(8) + 0.1 * np.roll(np.eye(8), 1, 1), atol=EXACT)
    paid = np.asarray(kind.mdp.reward)[np.arange(8), right]
    np.testing.assert_allclose(paid.mean(), BOUNDS["conveyor"], atol=EXACT)


def test_priorities_that_fail():
    """The mean field swings for three states; on the conveyor it may stay where nothing is paid."""
    for name, num_agents, most in (("three-states", 5000, 0.95), ("conveyor", 5000, 0.01)):
        population = je.named_population(name, num_agents)
        (kind,) = population.types
        P, reward = np.asarray(kind.mdp.transition), np.asarray(kind.mdp.reward)
        fluid = je.fluid_policy(population)
        order = [s for _, s, _ in fluid.priority]
        share = population.limits[0] / num_agents
        m, earned = np.eye(len(P))[2], []
        for _ in range(2000):
            active, left = np.zeros(len(P)), share
            for s in order:
                active[s] = min(m[s], left)
                left -= active[s]
            y = np.stack([m - active, active], axis=1)
            earned.append((y * reward).sum())
            m = np.einsum("sa,sat->t", y, P)
        assert np.mean(earned[1000:]) < most * fluid.value / num_agents


@pytest.mark.parametrize(
    ("name", "settled", "indexable"),
    [
        ("three-states", True, True),
        ("conveyor", False, True),
        ("supermarket", True, True),
        ("clinic", True, True),
        ("workshop", True, True),
        ("arms", True, False),
    ],
)
def test_what_the_docstrings_say_of_the_program(name, settled, indexable):
    """Non-degenerate and unique or not; indexable at the prices of all resources or not."""
    population = je.named_population(name, NUM)
    fluid = je.fluid_policy(population)
    assert fluid.active.all()
    assert (fluid.nondegenerate and fluid.unique) == settled
    for k in range(len(population.budgets)):
        index = je.lagrange_index(population, budget=k, prices=fluid.prices)
        assert index.indexable == indexable


def test_unknown_name():
    with pytest.raises(ValueError, match="name: 'ring' is not one of age, arms, circulant"):
        je.named_population("ring", 10)
