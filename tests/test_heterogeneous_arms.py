"""Arms that all differ: the relaxation against linear programs, runs against populations."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from .oracles_population import fluid_value
from .test_memory_policies import agree, batch_means
from .tolerances import F32, STANDARD_ERRORS


@cache
def arms_of(number, actions, num_budgets, equality=(), seed=0, states=3):
    """Random arms: action 0 is free, budgets are shares of what could be used."""
    rng = np.random.default_rng(seed)
    shape = (number, states, actions)
    kernel, reward = rng.dirichlet(np.ones(states), shape), rng.random(shape)
    costs = np.cumsum(rng.integers(0, 2, (*shape, num_budgets)), axis=2).astype(float)
    if equality:
        costs = np.broadcast_to(np.arange(actions)[:, None], (*shape, num_budgets)).astype(float)
    costs[:, :, 0] = 0
    budgets = [
        je.Budget(float(number * (actions - 1) // (3 + k)), equality=k in equality)
        for k in range(num_budgets)
    ]
    return je.HeterogeneousArms(kernel, reward, costs, budgets)


CASES = [(6, 2, 1, ()), (6, 4, 1, ()), (6, 3, 2, ()), (7, 2, 1, (0,)), (40, 3, 2, ())]


@pytest.mark.parametrize(("number", "actions", "num_budgets", "equality"), CASES)
def test_the_bound_is_that_of_a_population(number, actions, num_budgets, equality):
    """Against the fluid program of one agent a type, and a plain program of the tests."""
    arms = arms_of(number, actions, num_budgets, equality)
    found = je.arms_relaxation(arms, tol=1e-10)
    assert isinstance(found, je.ArmsRelaxation)
    assert found.converged
    types = list(zip(arms.kernel, arms.reward, arms.costs, strict=True))
    budgets = [(b.limit, b.equality) for b in arms.budgets]
    want = fluid_value(types, [1] * number, budgets)
    fluid = je.fluid_policy(arms.population(0.9))
    np.testing.assert_allclose([found.upper, found.value], want, rtol=1e-8)
    np.testing.assert_allclose(found.upper, fluid.value, rtol=1e-8)
    # A certificate of its own: the Lagrangian bound at these prices.
    bound = je.lagrangian_bound(arms.population(0.9), found.prices)
    np.testing.assert_allclose(found.upper, bound, rtol=1e-8)
    if num_budgets == 1 and fluid.unique and fluid.nondegenerate:
        np.testing.assert_allclose(found.prices, fluid.prices, rtol=1e-6)


@pytest.mark.parametrize(("number", "actions", "num_budgets", "equality"), CASES)
def test_the_law_is_one_of_the_relaxation(number, actions, num_budgets, equality):
    """Each arm's law is stationary, and together they keep the budgets."""
    arms = arms_of(number, actions, num_budgets, equality)
    found = je.arms_relaxation(arms)
    y = found.occupancy
    np.testing.assert_allclose(y.sum((1, 2)), 1)
    np.testing.assert_allclose(np.einsum("nsa,nsat->nt", y, arms.kernel), y.sum(2), atol=1e-12)
    np.testing.assert_allclose(found.spent, np.einsum("nsa,nsak->k", y, arms.costs))
    assert (found.spent <= np.array(arms.limits) * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.value, (y * arms.reward).sum())
    assert found.value <= found.upper * (1 + 1e-12)
    assert found.index.max() <= 0
    np.testing.assert_allclose(found.policy.sum(2), 1)


@pytest.mark.parametrize("max_steps", [1, 2])
def test_any_end_gives_a_bound(max_steps):
    """Few prices tried: the bound holds, and says whether it is closed."""
    arms = arms_of(40, 3, 2)
    best = je.arms_relaxation(arms).upper
    found = je.arms_relaxation(arms, max_steps=max_steps)
    assert found.upper >= best - 1e-9 * best
    assert found.num_steps == max_steps
    assert not found.converged
    assert found.gap > 0


def test_arms_that_fall_apart():
    """A state that is never left under one action: the bound is still one, and here exact."""
    P = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    reward = np.array([[0.0, 0.0], [1.0, 0.5]])
    costs = np.array([[[0.0], [1.0]], [[0.0], [1.0]]])
    arms = je.HeterogeneousArms(
        np.stack([P] * 3), np.stack([reward] * 3), np.stack([costs] * 3), [1]
    )
    found = je.arms_relaxation(arms)
    want = fluid_value([(P, reward, costs)], [3], [(1.0, False)])
    assert found.upper >= want - 1e-6
    assert found.upper <= want + 1e-5


def population_run(arms, policy, steps, seed=1):
    population = arms.population(0.9)
    run = je.simulate_population(jax.random.key(seed), population, policy, num_steps=steps)
    assert bool(run.kept)
    return batch_means(run.reward)


@pytest.mark.parametrize("maker", [je.id_policy, je.virtual_advice_policy])
@pytest.mark.parametrize("equality", [(), (0,)])
def test_runs_agree_with_a_population_of_one_agent_a_type(maker, equality):
    """The same policy by both routes."""
    arms = arms_of(7, 2, 1, equality)
    found = je.arms_relaxation(arms)
    policy = maker(arms, found)
    run = je.simulate_arms(jax.random.key(0), arms, policy, num_steps=8000)
    assert isinstance(run, je.ArmsTrajectory)
    assert bool(run.kept)
    same = maker(arms.population(0.9), found.policy)
    if maker is je.id_policy:
        np.testing.assert_array_equal(policy.order, same.order)
    agree(batch_means(run.reward), population_run(arms, same, 8000))


def test_the_priority_agrees_with_that_of_a_population():
    """Moves by their gain at the prices, two actions, one budget that must be met."""
    arms = arms_of(7, 2, 1, (0,))
    found = je.arms_relaxation(arms)
    policy = je.arms_priority(arms, found)
    assert isinstance(policy, je.ArmsPriority)
    run = je.simulate_arms(jax.random.key(0), arms, policy, num_steps=8000)
    assert bool(run.kept)
    gain = found.index[..., 1] - found.index[..., 0]
    order = np.dstack(np.unravel_index(np.argsort(-gain, axis=None), gain.shape))[0]
    moves = [(int(i), int(s), 1) for i, s in order]
    agree(batch_means(run.reward), population_run(arms, moves, 8000))


def test_the_priority_agrees_with_simulate_agents():
    """M of the largest index act, ties at random: the same law by both functions."""
    rng = np.random.default_rng(1)
    kernel, index = rng.dirichlet(np.ones(3), (8, 3, 2)), rng.integers(0, 3, (8, 3)).astype(float)
    reward = rng.random((8, 3, 2))
    costs = np.zeros((8, 3, 2, 1))
    costs[:, :, 1] = 1
    arms = je.HeterogeneousArms(kernel, reward, costs, [je.Budget(3, equality=True)])
    policy = je.arms_priority(arms, np.stack([np.zeros_like(index), index], axis=2))
    run = je.simulate_arms(jax.random.key(0), arms, policy, num_steps=8000)
    assert bool(run.kept)
    np.testing.assert_array_equal(run.spent, 3)
    other = je.simulate_agents(jax.random.key(1), kernel, index, budget=3, num_steps=8000)
    states, actions = np.asarray(other.states[:-1]), np.asarray(other.actions)
    agree(batch_means(run.reward), batch_means(reward[np.arange(8), states, actions].sum(1)))


def test_a_step_of_the_priority():
    """Four actions and two budgets, by a loop over arms and their next best actions."""
    arms = arms_of(30, 4, 2, seed=3)
    found = je.arms_relaxation(arms)
    policy = je.arms_priority(arms, found)
    act = jax.jit(policy.act)
    rng = np.random.default_rng(0)
    for _ in range(20):
        states = rng.integers(0, 3, 30)
        actions, _ = act(jax.random.key(0), jnp.asarray(states, jnp.int32), ())
        index, costs = found.index[np.arange(30), states], arms.costs[np.arange(30), states]
        gain = index - index[:, :1]
        want, left = np.zeros(30, int), np.array(arms.limits, float)
        for rank in range(3):
            best = np.argsort(-gain, axis=1, kind="stable")[:, rank]
            most = gain[np.arange(30), best]
            for i in np.argsort(-most, kind="stable"):
                more = costs[i, best[i]]
                if want[i] == 0 and most[i] > 0 and (more <= left + 1e-9).all():
                    want[i] = best[i]
                    left -= more
        np.testing.assert_array_equal(actions, want)


def test_a_run_goes_on():
    """States at the end begin another run; float32 stays float32, and jit and vmap agree."""
    arms = arms_of(6, 2, 1)
    narrow = je.HeterogeneousArms(
        arms.kernel.astype(np.float32),
        arms.reward.astype(np.float32),
        arms.costs.astype(np.float32),
        arms.budgets,
    )
    found = je.arms_relaxation(narrow)
    np.testing.assert_allclose(found.upper, je.arms_relaxation(arms).upper, rtol=F32)
    policy = je.id_policy(narrow, found)
    key = jax.random.key(0)
    run = je.simulate_arms(key, narrow, policy, num_steps=5)
    assert run.reward.dtype == jnp.float32
    again = je.simulate_arms(key, narrow, policy, num_steps=5, states=run.states)
    assert bool(again.kept)
    both = jax.vmap(lambda k: je.simulate_arms(k, narrow, policy, num_steps=5).reward)(key[None])
    np.testing.assert_allclose(both[0], run.reward, rtol=F32)


def test_many_arms_come_near_the_bound():
    """300 arms: every policy within the bound, and near it."""
    arms = arms_of(300, 3, 2, seed=5)
    found = je.arms_relaxation(arms)
    for policy in (je.arms_priority(arms, found), je.id_policy(arms, found)):
        run = je.simulate_arms(jax.random.key(0), arms, policy, num_steps=300)
        assert bool(run.kept)
        mean, error = batch_means(run.reward)
        assert mean <= found.upper + STANDARD_ERRORS * error
        assert mean >= 0.97 * found.upper


@pytest.mark.slow
@pytest.mark.parametrize(("actions", "num_budgets", "whole"), [(2, 1, True), (4, 2, False)])
def test_a_hundred_thousand_arms(actions, num_budgets, whole):
    """Every budget is kept, and what is earned is within a thousandth of the bound."""
    rng = np.random.default_rng(0)
    shape = (100_000, 10, actions)
    costs = np.zeros((*shape, num_budgets))
    if whole:
        costs[:, :, 1:] = np.arange(1, actions)[:, None]
    else:
        costs[:, :, 1:] = rng.random((100_000, 1, actions - 1, num_budgets))
    kernel = rng.dirichlet(np.ones(10), shape)
    budgets = [je.Budget(0.2, per_agent=True)] * num_budgets
    arms = je.HeterogeneousArms(kernel, rng.random(shape), costs, budgets)
    found = je.arms_relaxation(arms)
    assert found.converged
    policy = je.arms_priority(arms, found)
    run = je.simulate_arms(jax.random.key(0), arms, policy, num_steps=100)
    assert bool(run.kept)
    assert 0.999 * found.upper <= run.reward[50:].mean() <= 1.0005 * found.upper


def good():
    kernel = np.full((2, 2, 2, 2), 0.5)
    costs = np.zeros((2, 2, 2, 1))
    costs[:, :, 1] = 1
    return {"kernel": kernel, "reward": np.zeros((2, 2, 2)), "costs": costs, "budgets": [1]}


BAD = [
    ({"kernel": np.full((2, 2, 2), 0.5)}, r"kernel: wanted shape \[any, any, any, any\]"),
    ({"kernel": np.full((2, 2, 2, 3), 1 / 3)}, r"kernel: wanted shape \[2, 2, 2, 2\]"),
    ({"kernel": np.full((2, 2, 2, 2), 0.4)}, "kernel: row .* sums to 0.8"),
    ({"kernel": np.zeros((0, 2, 2, 2))}, "kernel: there is nothing"),
    ({"reward": np.zeros((2, 2))}, r"reward: wanted shape \[2, 2, 2\]"),
    ({"reward": np.full((2, 2, 2), np.nan)}, r"reward\[0, 0, 0\] is nan"),
    ({"costs": np.zeros((2, 2, 2, 2))}, r"costs: wanted shape \[2, 2, 2, 1\]"),
    ({"budgets": []}, "budgets: wanted at least one"),
    ({"budgets": [None]}, r"budgets\[0\]: NoneType is no Budget"),
    ({"budgets": [-1]}, r"budgets\[0\]: -1 cannot be kept"),
    ({"budgets": [je.Budget(3, equality=True)]}, r"budgets\[0\]: 3 cannot be spent exactly"),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_bad_arms_are_refused(change, match):
    arms = je.HeterogeneousArms(**{**good(), **change})
    with pytest.raises(ValueError, match=match):
        je.arms_relaxation(arms)


def test_bad_calls_are_refused():
    """Each in one line that names the argument."""
    arms = je.HeterogeneousArms(**good())
    found = je.arms_relaxation(arms)
    policy = je.arms_priority(arms, found)
    key = jax.random.key(0)
    three = arms_of(3, 2, 1)
    # Each budget alone can be spent, both together cannot.
    both = je.HeterogeneousArms(
        **{
            **good(),
            "costs": np.repeat(arms.costs, 2, axis=3),
            "budgets": [je.Budget(1, equality=True), je.Budget(2, equality=True)],
        }
    )
    for call, match in (
        (lambda: je.arms_relaxation(both, max_steps=20), "budgets: no law of the arms was found"),
        (lambda: je.arms_relaxation(je.circulant_bandit(5)), "arms: RestlessBandit is no Het"),
        (lambda: je.arms_relaxation(arms, memory=10), "arms: 2 of 2 states .* fits is 0"),
        (lambda: je.arms_relaxation(arms, max_steps=0), "max_steps"),
        (lambda: jax.jit(je.arms_relaxation)(arms), "arms: their values must be known"),
        (lambda: je.arms_priority(arms, np.zeros((2, 2))), r"index: wanted shape \[2, 2, 2\]"),
        (lambda: je.id_policy(arms, np.zeros((2, 2, 2))), "tables: row"),
        (lambda: je.id_policy(arms, np.ones((2, 2))), r"tables: wanted shape \[2, 2, 2\]"),
        (lambda: je.simulate_arms(key, arms, found, num_steps=1), "policy: ArmsRelaxation does"),
        (lambda: je.simulate_arms(key, arms, policy, num_steps=0), "num_steps"),
        (
            lambda: je.simulate_arms(key, arms, policy, num_steps=1, states=[0, 2]),
            r"states\[1\]: 2",
        ),
        (lambda: je.simulate_arms(key, arms, policy, num_steps=1, states=[0]), "states: wanted"),
        (lambda: je.simulate_arms(key, three, policy, num_steps=1), "policy: it was made for 2"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_no_action_is_the_cheapest_in_all():
    """The start of every policy would break a budget."""
    costs = np.zeros((2, 2, 2, 2))
    costs[:, :, 0, 0] = costs[:, :, 1, 1] = 1
    arms = je.HeterogeneousArms(**{**good(), "costs": costs, "budgets": [1, 1]})
    with pytest.raises(ValueError, match=r"budgets\[0\]: no action is the cheapest for all"):
        je.id_policy(arms, np.full((2, 2, 2), 0.5))
