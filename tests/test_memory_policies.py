"""Policies with a memory: against exact chains, plain NumPy agent by agent, and the bound."""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.in_turn import agents_of, drawn

from . import oracles_agents as oracles
from .oracles_population import random_population
from .test_population import population_of
from .tolerances import F32, SOLVE, STANDARD_ERRORS

MAKERS = {
    "id": je.id_policy,
    "virtual": je.virtual_advice_policy,
    "two_set": je.two_set_policy,
}


def batch_means(rewards, batches=20):
    """Mean and standard error of a run without its first tenth, or of several."""
    runs = np.atleast_2d(np.asarray(rewards))
    runs = runs[:, runs.shape[1] // 10 :]
    size = runs.shape[1] // batches
    means = runs[:, : size * batches].reshape(-1, size).mean(1)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


def agree(ours, theirs):
    (a, da), (b, db) = ours, theirs
    assert abs(a - b) <= STANDARD_ERRORS * np.hypot(da, db)


def simulated(population, policy, num_steps, seed=0):
    """Rewards of one run, all budgets kept."""
    run = je.simulate_population(jax.random.key(seed), population, policy, num_steps=num_steps)
    assert bool(run.kept)
    return np.asarray(run.reward)


@cache
def two_types(equality=(), counts=(3, 2), seed=4):
    """Two types, S = 3 and 2, A = 2 and 3, two budgets; costs rise with the action."""
    sizes = ((3, 2), (2, 3))
    types, counts, _, discount = random_population(seed, sizes, counts, 2)
    uses = (np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0], [2, 1]]))
    types = [
        (P, r, np.broadcast_to(d.astype(float), (*r.shape, 2)))
        for (P, r, _), d in zip(types, uses, strict=True)
    ]
    budgets = [(3.0, 0 in equality), (2.0, False)]
    kinds = [k for k, n in enumerate(counts) for _ in range(n)]
    rng = np.random.default_rng(seed)
    tables = [rng.dirichlet(np.ones(A), S) for S, A in sizes]
    population = population_of(types, counts, budgets, discount)
    limits = np.array([b for b, _ in budgets])
    exact = tuple(e for _, e in budgets)
    return population, oracles.Case(types, kinds, limits, exact, tables)


def bandit_of(name, number):
    """A bandit, its relaxation, and the same for the oracle."""
    bandit = je.named_bandit(name, number).bandit
    fluid = je.fluid_policy(bandit)
    parts = (np.asarray(x) for x in (bandit.passive, bandit.active, bandit.reward))
    case = oracles.bandit_case(*parts, number, int(bandit.budget), fluid.policy[0])
    return bandit, fluid, case


@pytest.mark.parametrize("equality", [(), (0,)])
def test_served_one_after_another(equality):
    """Who is given what, against a loop over agents, for 200 states, wants and orders."""
    population, case = two_types(equality, (6, 5))
    agents = agents_of(population)
    case = case._replace(kinds=[0] * 6 + [1] * 5)
    given = jax.jit(agents.given, static_argnames="stop")
    rng = np.random.default_rng(0)
    for _ in range(200):
        states = np.array([rng.integers(len(case.types[k][1])) for k in case.kinds])
        wanted = np.array([rng.integers(case.types[k][1].shape[1]) for k in case.kinds])
        order = rng.permutation(11)
        for stop in (False, True):
            found = given(states.astype(np.int32), wanted.astype(np.int32), order, stop=stop)
            want = oracles.serve(case, states, wanted, order, order[::-1], stop)
            np.testing.assert_array_equal(found, want)


def test_impossible_outcomes_are_not_drawn():
    """Laws with zeros whose sums round, at the ends of the unit interval."""
    rows = np.array([[0.0, 0.1, 0.0, 0.9, 0.0], [0.3, 0.7 - 1e-16, 0.0, 0.0, 0.0]])
    for u, want in ((0.0, [1, 0]), (1 - 2**-53, [3, 1]), (0.1, [3, 0])):
        np.testing.assert_array_equal(drawn(jnp.full(2, u), jnp.asarray(rows)), want)


@pytest.mark.parametrize("stop", [True, False])
def test_the_exact_chain_of_the_id_policy(stop):
    """Three agents of two types and an order: the joint chain by dense NumPy."""
    population, case = two_types(counts=(2, 1))
    case = case._replace(limits=np.array([1.0, 1.0]), kinds=[0, 0, 1])
    budgets = [je.Budget(1.0), je.Budget(1.0)]
    population = je.WeaklyCoupledPopulation(population.types, (2, 1), budgets, 0.9)
    order = [2, 0, 1]
    P, r = oracles.id_chain(case, order, stop)
    np.testing.assert_allclose(P.sum(1), 1, atol=SOLVE)
    policy = je.id_policy(population, case.tables, order=order, stop=stop)
    mean, error = batch_means(simulated(population, policy, 40_000), 40)
    assert abs(mean - oracles.average(P, r)) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("name", ["healthcare", "two_types"])
def test_the_exact_chain_of_virtual_advice(name):
    """Two agents and their virtual states, ties by all orders; a budget met and two limits."""
    if name == "healthcare":
        bandit = je.named_bandit(name, 5).bandit
        parts = (np.asarray(x) for x in (bandit.passive, bandit.active, bandit.reward))
        table = np.array([[0.4, 0.6], [0.7, 0.3]])
        case = oracles.bandit_case(*parts, 2, 1, table)
        population = je.RestlessBandit(bandit.passive, bandit.active, bandit.reward, 2, 1, 0.9)
    else:
        _, case = two_types()
        types = [case.types[1]] * 2
        case = case._replace(types=types, kinds=[0, 1], tables=[case.tables[1]] * 2)
        case = case._replace(limits=np.array([2.0, 1.0]))
        population = population_of(types, (1, 1), [(2.0, False), (1.0, False)], 0.9)
    P, r = oracles.virtual_chain(case)
    np.testing.assert_allclose(P.sum(1), 1, atol=SOLVE)
    policy = je.virtual_advice_policy(population, case.tables)
    mean, error = batch_means(simulated(population, policy, 40_000), 40)
    assert abs(mean - oracles.average(P, r)) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("name", ["dirichlet", "circulant"])
@pytest.mark.parametrize("policy", ["id", "virtual"])
def test_bandits_against_plain_numpy(policy, name):
    """Averages of 20 arms."""
    bandit, fluid, case = bandit_of(name, 20)
    if policy == "id":
        made = je.id_policy(bandit, fluid, order=range(20))
        theirs = oracles.run_id(case, list(range(20)), 3000, 0)
    else:
        made = je.virtual_advice_policy(bandit, fluid)
        theirs = oracles.run_virtual(case, 3000, 0)
    agree(batch_means(simulated(bandit, made, 20_000)), batch_means(theirs))


@pytest.mark.parametrize("equality", [(), (0,)])
@pytest.mark.parametrize("policy", ["id", "virtual"])
def test_several_types_and_budgets_against_plain_numpy(policy, equality):
    """Averages of two types with three actions, one budget that must be met or none."""
    population, case = two_types(equality, (6, 5))
    order = list(range(10, -1, -1))
    if policy == "id":
        made = je.id_policy(population, case.tables, order=order)
        theirs = oracles.run_id(case, order, 4000, 0)
    else:
        made = je.virtual_advice_policy(population, case.tables)
        theirs = oracles.run_virtual(case, 4000, 0)
    run = je.simulate_population(jax.random.key(0), population, made, num_steps=20_000)
    agree(batch_means(run.reward), batch_means(theirs))
    for n, counts, splits in zip((6, 5), run.counts, run.splits, strict=True):
        np.testing.assert_array_equal(counts.sum(1), n)
        np.testing.assert_array_equal(splits.sum(2), counts[:-1])


@pytest.mark.parametrize(("name", "number"), [("dirichlet", 60), ("circulant", 100)])
def test_two_sets_against_plain_numpy(name, number):
    """Averages, and norm and reach by other means."""
    bandit, fluid, case = bandit_of(name, number)
    policy = je.two_set_policy(bandit, fluid)
    assert policy.stable
    known = oracles.two_sets(case, fluid.occupancy[0] / number)
    np.testing.assert_allclose(policy.norm, known.norm, rtol=1e-6)
    np.testing.assert_allclose(policy.reach, known.reach, rtol=1e-5)
    np.testing.assert_allclose(policy.margin, known.margin, rtol=1e-6)
    rewards, sizes = oracles.run_two_sets(case, known, 1000, 0)
    agree(batch_means(simulated(bandit, policy, 10_000)), batch_means(rewards))
    first, full = _first_sets(bandit, policy, 1000)
    assert full == pytest.approx((sizes == number).mean(), abs=0.1)
    assert first == pytest.approx(sizes.mean() / number, abs=0.1)


def _first_sets(bandit, policy, steps):
    """Mean share of the first set, and how often it is all, in a run of the process itself."""
    from jaxent.restless.agents_process import agents_process

    population = je.WeaklyCoupledPopulation.from_bandit(bandit)
    number = int(bandit.num_agents)
    process = agents_process(population, policy, (number,))

    def step(state, key):
        _, acted = process.act(key, state)
        return process.move(jax.random.fold_in(key, 1), acted), acted[2][0].sum()

    begin = process.begin(jax.random.key(0), jnp.zeros(number, jnp.int32))
    _, sizes = jax.lax.scan(step, begin, jax.random.split(jax.random.key(1), steps))
    return float(sizes.mean()) / number, float((sizes == number).mean())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TakesTurns:
    """A policy of a user: the agent whose turn it is acts, the memory is whose."""

    number: jax.Array

    def start(self, key, states):
        del key, states
        return jnp.zeros((), jnp.int32)

    def act(self, key, states, memory):
        del key
        return (jnp.arange(len(states)) == memory).astype(jnp.int32), memory

    def after(self, key, states, actions, memory, then):
        del key, states, actions, then
        return (memory + 1) % self.number


def test_a_policy_of_ones_own():
    """Anything with start, act and after is simulated agent by agent, and budgets are looked at."""
    bandit = je.named_bandit("healthcare", 5).bandit
    policy = TakesTurns(jnp.asarray(5))
    assert isinstance(policy, je.AgentsPolicy)
    assert not isinstance(je.fluid_policy(bandit), je.AgentsPolicy)
    run = je.simulate_population(jax.random.key(0), bandit, policy, num_steps=10)
    np.testing.assert_array_equal(run.spent, 1)
    assert bool(run.kept)
    two = je.RestlessBandit(bandit.passive, bandit.active, bandit.reward, 5, 2, 0.9)
    assert not bool(je.simulate_population(jax.random.key(0), two, policy, num_steps=10).kept)


def test_agents_begin_in_random_order():
    """Counts of the start are kept, and who of a type is where depends on the key."""
    bandit, fluid, _ = bandit_of("circulant", 10)
    policy = je.virtual_advice_policy(bandit, fluid)
    start = [np.array([4, 3, 2, 1])]
    orders = set()
    for seed in range(3):
        key = jax.random.key(seed)
        run = je.simulate_population(key, bandit, policy, num_steps=1, start=start)
        np.testing.assert_array_equal(run.counts[0][0], start[0])
        orders.add(tuple(np.asarray(run.counts[0][1]).tolist()))
    assert len(orders) > 1


def test_keys_are_batched_and_float32_stays():
    """vmap over keys equals one run after another; rewards in the dtype of the model."""
    bandit, _, _ = bandit_of("circulant", 10)
    parts = (jnp.asarray(x, jnp.float32) for x in (bandit.passive, bandit.active, bandit.reward))
    narrow = je.RestlessBandit(*parts, 10, 2, 0.9)
    policy = je.id_policy(narrow, je.fluid_policy(narrow))

    def one(key):
        return je.simulate_population(key, narrow, policy, num_steps=4).reward

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(one))(keys)
    assert both.dtype == jnp.float32
    np.testing.assert_allclose(both, [one(key) for key in keys], rtol=F32)


def test_the_order_of_ids_holds_every_share():
    """Every beginning of the order has each type by its share, to two agents."""
    population, case = two_types(counts=(30, 10))
    policy = je.id_policy(population, case.tables)
    assert isinstance(policy, je.IDPolicy)
    first = np.asarray(policy.agents.kind)[np.asarray(policy.order)] == 0
    np.testing.assert_array_equal(np.sort(policy.order), np.arange(40))
    assert np.abs(np.cumsum(first) - 0.75 * np.arange(1, 41)).max() <= 2


def conveyor(number):
    """Eight states in a ring, the first four to be left by acting, the others by resting.

    Wrong actions lead back, the less the further on, so that a priority that follows the gains
    keeps all arms in the first states. Reward 1 for each time round: with half of the arms acting
    the bound is 1/80 an arm (Hong et al. 2023, the counterexample with eight states).
    """
    S = 8
    back = 0.5 - 0.01 * np.arange(S)
    back[:2] = 0, 1
    P = np.zeros((S, 2, S))
    for s in range(S):
        right = int(s < 4)
        P[s, right, (s + 1) % S] = 0.1
        P[s, right, s] = 0.9
        P[s, 1 - right, max(s - 1, 0)] += back[s]
        P[s, 1 - right, s] += 1 - back[s]
    reward = np.zeros((S, 2))
    reward[-1, 0] = 0.1
    return je.RestlessBandit(P[:, 0], P[:, 1], reward, number, number // 2, 0.9)


@pytest.mark.slow
def test_memory_helps_where_a_priority_is_stuck():
    """Without a global attractor the LP priority earns nothing, the others near the bound."""
    shares = {name: [] for name in MAKERS}
    for number in (100, 400, 1600):
        bandit = conveyor(number)
        fluid = je.fluid_policy(bandit)
        np.testing.assert_allclose(fluid.value, number / 80)
        stuck = simulated(bandit, fluid, 10_000)
        assert stuck[2500:].mean() <= 0.01 * fluid.value
        for name, make in MAKERS.items():
            rewards = simulated(bandit, make(bandit, fluid), 20_000)
            shares[name].append(rewards[5000:].mean() / fluid.value)
    for found in shares.values():
        assert found[0] < found[1] < found[2] < 1
        assert found[2] > 0.96
        # The gap falls as 1 / sqrt(N): by 4 over 16 times the arms.
        assert (1 - found[2]) < (1 - found[0]) / 2


def test_a_priority_is_stuck_where_memory_helps():
    """The same for 200 arms and fewer steps."""
    bandit = conveyor(200)
    fluid = je.fluid_policy(bandit)
    assert simulated(bandit, fluid, 2000)[1000:].mean() <= 0.01 * fluid.value
    for make in (je.id_policy, je.virtual_advice_policy):
        assert simulated(bandit, make(bandit, fluid), 2000)[1000:].mean() > 0.75 * fluid.value


def test_two_sets_without_a_first_set():
    """No neutral state or an unstable one: said, and the budget is spent all the same."""
    bandit = conveyor(20)
    policy = je.two_set_policy(bandit, je.fluid_policy(bandit))
    assert isinstance(policy, je.TwoSetPolicy)
    assert not policy.stable
    np.testing.assert_array_equal(
        je.simulate_population(jax.random.key(0), bandit, policy, num_steps=20).spent, 10
    )


def test_bad_input_is_refused():
    """Each in one line that names the argument and the remedy."""
    bandit, fluid, _ = bandit_of("circulant", 10)
    population, case = two_types()
    other = je.named_bandit("healthcare", 10).bandit
    limit = je.WeaklyCoupledPopulation.from_bandit(bandit)
    limit = je.WeaklyCoupledPopulation(limit.types, limit.counts, [je.Budget(2)], 0.9)
    key = jax.random.key(0)
    policy = je.id_policy(bandit, fluid)
    discounted = je.fluid_policy(bandit, start=[np.array([10, 0, 0, 0])])
    many = je.RestlessBandit(bandit.passive, bandit.active, bandit.reward, 10**12, 5, 0.9)

    def traced(n):
        types = je.WeaklyCoupledPopulation.from_bandit(bandit).types
        one = je.WeaklyCoupledPopulation(types, (n,), [je.Budget(2, equality=True)], 0.9)
        return je.simulate_population(key, one, policy, num_steps=1).reward

    for call, match in (
        (lambda: je.id_policy(bandit, fluid, order=[0, 1]), r"order: wanted shape \[10\]"),
        (lambda: je.id_policy(bandit, fluid, order=[0] * 10), "order: agent 0 is in it 10 times"),
        (lambda: je.id_policy(population, case.tables[:1]), "tables: wanted one for each of 2"),
        (lambda: je.id_policy(bandit, [np.ones((4, 2))]), r"tables\[0\]: row"),
        (
            lambda: je.id_policy(bandit, [np.ones((3, 2)) / 2]),
            r"tables\[0\]: wanted shape \[4, 2\]",
        ),
        (lambda: je.virtual_advice_policy(bandit, fluid.priority), "tables: wanted a FluidPolicy"),
        (lambda: je.virtual_advice_policy(many, fluid), "counts: .* agents one by one need"),
        (lambda: je.two_set_policy(population, fluid), "population: the two-set policy is for one"),
        (lambda: je.two_set_policy(limit, fluid), "population: the two-set policy is for one"),
        (lambda: je.two_set_policy(other, fluid), "fluid: wanted the FluidPolicy of this"),
        (lambda: je.two_set_policy(bandit_of("circulant", 20)[0], fluid), "fluid: its occupancy"),
        (lambda: je.two_set_policy(bandit, discounted), "fluid: its law is not stationary"),
        (
            lambda: je.simulate_population(key, bandit_of("circulant", 5)[0], policy, num_steps=1),
            "policy: it was made for 10 agents, not for 5",
        ),
        (lambda: je.exchangeable_chain(bandit, policy), "policy: IDPolicy goes agent by agent"),
        (lambda: jax.jit(traced)(10), "population: under a policy that goes agent by agent"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
