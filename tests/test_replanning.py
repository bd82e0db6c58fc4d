"""Policies that plan anew: their programs, their whole splits, and what they earn, exactly."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.splits import all_counts, counts_place, rules_of, split_law

from . import oracles_population as oracles
from .test_population import population_of
from .tolerances import EXACT, F32, SOLVE, STANDARD_ERRORS

SIZES = ((3, 2), (2, 3))


def plain_case(seed, counts=(2, 3), equality=False):
    """Two types of different sizes, two budgets; with equality the second is met exactly.

    Action 1 of either type uses one of the second resource there, so that it can be.
    """
    types, counts, budgets, discount = oracles.random_population(seed, SIZES, counts, 2)
    if equality:
        for _, _, d in types:
            d[..., 1] = 0
            d[:, 1, 1] = 1
            d[:, 1, 0] = 0
        budgets = [budgets[0], (float(sum(counts) // 2), True)]
    return types, counts, budgets, discount


def zeros():
    return [np.zeros(S) for S, _ in SIZES]


@pytest.mark.parametrize("equality", [False, True])
@pytest.mark.parametrize("horizon", [1, 4])
def test_the_program_equals_a_plain_one(equality, horizon):
    """Its value to 1e-9, from 60 random populations; and its first step can be continued to it."""
    for seed in range(15):
        plain = plain_case(seed, equality=equality)
        population = population_of(*plain)
        rng = np.random.default_rng(seed)
        terminal = [rng.standard_normal(S) for S, _ in SIZES]
        now = [
            rng.multinomial(n, np.ones(S) / S) for n, (S, _) in zip(plain[1], SIZES, strict=True)
        ]
        for make, discount in ((je.lp_update_policy, plain[3]), (je.mpc_policy, 1.0)):
            plan = make(population, horizon=horizon, terminal=terminal).plan(now)
            case = plain[0], now, plain[2], horizon, discount, terminal
            want = oracles.horizon_program(*case)
            np.testing.assert_allclose(plan.value, want, atol=SOLVE * (1 + abs(want)))
            again = oracles.horizon_program(*case, first=plan.occupancy)
            np.testing.assert_allclose(again, want, atol=SOLVE * (1 + abs(want)))
            for y, n in zip(plan.occupancy, now, strict=True):
                assert (y >= 0).all()
                np.testing.assert_allclose(y.sum(1), n, atol=EXACT)


@pytest.mark.parametrize("equality", [False, True])
def test_budgets_are_kept_everywhere(equality):
    """By every whole split of every configuration, also where the first step was no whole one."""
    rounded = 0
    for seed in range(6):
        population = population_of(*plain_case(seed, equality=equality))
        rules = rules_of(population)
        policy = je.mpc_policy(population, horizon=3)
        assert isinstance(policy, je.ReplanningPolicy)
        law = split_law(rules, policy.law(rules))  # it refuses a broken budget
        np.testing.assert_allclose(law.weights.sum(1), 1, atol=EXACT)
        for m, counts in enumerate(all_counts(rules)):
            plan = policy.plan(rules.by_type(counts))
            amounts = np.concatenate([y.ravel() for y in plan.occupancy])
            used = law.weights[m] > 0
            near = np.abs(law.splits[m][used] - amounts) < 1
            if near.all() and used.sum() > 1:
                rounded += 1
    assert rounded


def test_a_rounding_has_the_mean_of_the_amounts():
    """Random amounts: all agents are there, each number is next to its amount, the mean is exact.

    Where those that act sum to a whole number, as with a budget of agents, as many act.
    """
    bandit = je.circulant_bandit(10)
    for case, population in enumerate((population_of(*plain_case(0)), bandit)):
        programs = je.mpc_policy(population, horizon=1).programs
        rules = programs.rules
        for seed in range(40):
            rng = np.random.default_rng(seed)
            amounts = []
            for n, (S, A) in zip(rules.counts, rules.sizes, strict=True):
                present = rng.multinomial(n, np.ones(S) / S)
                part = present[:, None] * rng.dirichlet(np.full(A, 0.5), S)
                if case:
                    part[:, 1] *= np.floor(part[:, 1].sum()) / part[:, 1].sum()
                    part[:, 0] = present - part[:, 1]
                amounts.append(part)
            flat = np.concatenate([part.ravel() for part in amounts])
            ends = programs.turns(flat)
            middles = (ends + np.append(0, ends[:-1])) / 2
            splits = np.array([programs.rounded(flat, u) for u in middles])
            np.testing.assert_allclose(np.diff(ends, prepend=0) @ splits, flat, atol=1e-8)
            assert (np.abs(splits - flat) < 1).all()
            np.testing.assert_allclose(rules.counted(splits) - rules.counted(flat), 0, atol=EXACT)
            if case:
                np.testing.assert_allclose(splits[:, 1::2].sum(1), flat[1::2].sum(), atol=SOLVE)


@cache
def drawn_case():
    population = population_of(*plain_case(5))
    policy = je.lp_update_policy(population, horizon=3)
    rules = rules_of(population)
    return policy, rules, policy.law(rules), jax.jit(jax.vmap(policy.draw, (0, None)))


def test_draws_have_the_law():
    """The draws of 500 keys in the configurations of most splits, split by split."""
    _, rules, law, draws = drawn_case()
    several = np.argsort(-(law.weights > 0).sum(1), kind="stable")[:3]
    assert (law.weights[several[0]] > 0).sum() > 1
    for m in several:
        counts = [jnp.asarray(n) for n in rules.by_type(all_counts(rules)[m])]
        drawn = draws(jax.random.split(jax.random.key(0), 500), counts)
        flat = np.concatenate([np.asarray(part).reshape(500, -1) for part in drawn], axis=1)
        total = 0
        for split, chance in zip(law.splits[m], law.weights[m], strict=True):
            if chance == 0:
                continue
            share = (flat == split).all(1).mean()
            total += share
            assert abs(share - chance) <= STANDARD_ERRORS * np.sqrt(chance * (1 - chance) / 500)
        np.testing.assert_allclose(total, 1, atol=EXACT)


@pytest.mark.parametrize("make", [je.lp_update_policy, je.mpc_policy])
def test_its_chain_equals_the_joint_chain(make):
    """Average reward: the exact chain, and the agents one by one in plain NumPy."""
    plain = plain_case(5, (2, 2))
    population = population_of(*plain)
    policy = make(population, horizon=3)
    rules = rules_of(population)
    law = policy.law(rules)

    def split_of(now):
        m = int(counts_place(rules, np.concatenate(now)))
        pairs = zip(law.weights[m], law.splits[m], strict=True)
        return [(w, rules.pairs_by_type(split)) for w, split in pairs if w > 0]

    want = oracles.joint_average(plain[0], plain[1], oracles.joint_table(SIZES, plain[1], split_of))
    chain = je.exchangeable_chain(population, policy)
    found = je.stationary_distribution(chain) @ chain.lift([r for _, r, _ in plain[0]])
    np.testing.assert_allclose(found, want, atol=SOLVE)
    assert want <= je.optimal_policy(population).upper + SOLVE


def test_a_plan_is_a_bound_that_falls_with_the_horizon():
    """With what agents are worth at the prices: above the optimum from everywhere."""
    for seed in range(5):
        population = population_of(*plain_case(seed, (2, 2)))
        rules = rules_of(population)
        plans = [je.lp_update_policy(population, horizon=horizon) for horizon in (1, 3, 8)]
        for counts in all_counts(rules)[::3]:
            start = rules.by_type(counts)
            values = [policy.plan(start).value for policy in plans]
            best = je.optimal_policy(population, start=start).value
            noise = SOLVE * (1 + abs(best))
            assert values[0] >= values[1] - noise
            assert values[1] >= values[2] - noise
            assert values[2] >= best - noise


def test_a_short_horizon_does_with_values_and_not_without():
    """A long plan without values and a short one with them agree, on the circulant bandit."""
    bandit = je.circulant_bandit(5)
    earned = {}
    for name, horizon, terminal in (
        ("short", 1, None),
        ("longer", 5, None),
        ("short, 0", 1, [np.zeros(4)]),
        ("long, 0", 20, [np.zeros(4)]),
    ):
        policy = je.mpc_policy(bandit, horizon=horizon, terminal=terminal)
        chain = je.exchangeable_chain(bandit, policy)
        mu = je.stationary_distribution(chain)
        earned[name] = float(mu @ chain.lift([bandit.reward]))
    best = je.optimal_policy(bandit).value
    assert max(earned.values()) <= best + SOLVE
    assert earned["short, 0"] < 0.5 * best
    for name in ("short", "longer", "long, 0"):
        assert earned[name] > 0.9 * best


def test_several_plans_that_are_as_good_are_said():
    """Where a plan is unique, no other first step does; of equal rewards any plan is as good."""
    settled = 0
    for seed in range(12):
        plain = plain_case(seed)
        population = population_of(*plain)
        policy = je.mpc_policy(population, horizon=3, terminal=zeros())
        now = [np.array([1, 1, 0]), np.array([1, 2])]
        plan = policy.plan(now)
        case = plain[0], now, plain[2], 3, 1.0, zeros()
        other = [y.copy() for y in plan.occupancy]
        s, a = np.argwhere(other[0] > 0)[0]
        other[0][s, a] -= 1e-3
        other[0][s, 1 - a] += 1e-3
        moved = oracles.horizon_program(*case, first=other)
        if plan.unique:
            settled += 1
            assert moved is None or moved < plan.value - 1e-7
    assert settled > 3
    bandit = je.circulant_bandit(5)._replace(reward=np.zeros((4, 2)))
    assert not je.mpc_policy(bandit, horizon=2).plan([(2, 1, 1, 1)]).unique


def test_runs_keep_the_budgets_and_agree_with_the_chain():
    """200 agents: near the bound of the relaxation. Four agents: 5 standard errors of exact."""
    plain = plain_case(5, (2, 2))
    population = population_of(*plain)
    policy = je.mpc_policy(population, horizon=3)
    chain = je.exchangeable_chain(population, policy)
    exact = je.stationary_distribution(chain) @ chain.lift([r for _, r, _ in plain[0]])
    run = je.simulate_population(jax.random.key(0), population, policy, num_steps=5000)
    assert bool(run.kept)
    batches = np.asarray(run.reward).reshape(50, -1).mean(1)
    assert abs(batches.mean() - exact) <= STANDARD_ERRORS * batches.std() / np.sqrt(50)
    bandit = je.circulant_bandit(200)
    policy = je.mpc_policy(bandit, horizon=5)
    run = je.simulate_population(jax.random.key(1), bandit, policy, num_steps=60)
    assert bool(run.kept)
    assert float(run.reward[20:].mean()) > 0.95 * je.fluid_policy(bandit).value


def test_single_precision():
    """Kernels and draws in float32: the same plan, budgets kept."""
    bandit = je.named_bandit("machines", 20).bandit
    want = je.mpc_policy(bandit, horizon=4).plan([(12, 6, 2, 0)])
    with jax.enable_x64(False):
        single = je.named_bandit("machines", 20).bandit
        assert single.passive.dtype == np.float32
        policy = je.mpc_policy(single, horizon=4)
        plan = policy.plan([(12, 6, 2, 0)])
        for one in (policy, je.lp_update_policy(single, horizon=4), je.random_policy(single)):
            assert bool(je.simulate_population(jax.random.key(0), single, one, num_steps=5).kept)
    np.testing.assert_allclose(plan.value, want.value, rtol=F32)


def uneven(limit, counts=(2,)):
    """Action 1 uses two of a resource that must be met exactly."""
    P = np.full((2, 2, 2), 0.5)
    kind = je.AgentType(je.MDP(P, np.eye(2)), np.array([[[0.0], [2]], [[0], [2]]]))
    return je.WeaklyCoupledPopulation((kind,), counts, (je.Budget(limit, equality=True),), 0.9)


def test_whole_agents_meet_what_must_be_met():
    """Half an agent to a resource at a time becomes a whole one: the budget is met exactly."""
    policy = je.mpc_policy(uneven(2.0, (3,)), horizon=2)
    for counts in ((3, 0), (1, 2), (0, 3)):
        law = policy.law(rules_of(uneven(2.0, (3,))))
        assert (law.splits @ [0, 2, 0, 2] == 2).all()
        assert policy.plan([counts]).occupancy[0].sum() == 3


def test_bad_arguments_are_refused():
    bandit = je.circulant_bandit(5)
    for make in (je.lp_update_policy, je.mpc_policy):
        with pytest.raises(ValueError, match="horizon"):
            make(bandit, horizon=0)
        with pytest.raises(ValueError, match="horizon"):
            make(bandit, horizon=2.5)
        with pytest.raises(ValueError, match="population: its values must be known here"):
            jax.jit(lambda b, make=make: make(b).plan([(2, 1, 1, 1)]).value)(bandit)
        with pytest.raises(ValueError, match=r"terminal\[0\]: wanted shape \[4\]"):
            make(bandit, terminal=[np.zeros(3)])
        with pytest.raises(ValueError, match="terminal: wanted values of the states of each of 1"):
            make(bandit, terminal=[])
        with pytest.raises(ValueError, match=r"budgets\[0\]: 8 cannot be spent exactly"):
            make(uneven(8.0))
        policy = make(bandit, horizon=2)
        with pytest.raises(ValueError, match=r"counts\[0\]: .* are not whole agents that sum to 5"):
            policy.plan([(2, 1, 1, 0)])
        with pytest.raises(ValueError, match="policy: plans for another population"):
            je.exchangeable_chain(je.circulant_bandit(10), policy)


def test_a_configuration_without_a_plan_is_named():
    """An odd budget of pairs: no whole split. Budgets that exclude each other: no plan.

    Inside a simulation the same line is in the error of the host call.
    """
    policy = je.mpc_policy(uneven(1.0, (1,)), horizon=1)
    match = r"budgets: no whole split of configuration \[\[0, 1\]\] keeps all of them"
    with pytest.raises(ValueError, match=match):
        je.exchangeable_chain(uneven(1.0, (1,)), policy)
    with pytest.raises(Exception, match="no whole split of configuration"):
        je.simulate_population(jax.random.key(0), uneven(1.0, (1,)), policy, num_steps=1)
    # So many types that the corners of the configurations are not looked at beforehand.
    either = np.array([[[1.0, 0], [0, 1]]] * 2)
    kind = je.AgentType(je.MDP(np.full((2, 2, 2), 0.5), np.zeros((2, 2))), either)
    population = je.WeaklyCoupledPopulation([kind] * 7, [1] * 7, [3.0, 3.0], 0.9)
    match = r"budgets: no plan of 2 steps keeps all of them from configuration \[\[1, 0\], \[0, 1\]"
    policy = je.mpc_policy(population, horizon=2, terminal=[np.zeros(2)] * 7)
    with pytest.raises(ValueError, match=match):
        policy.plan([(1, 0)] + [(0, 1)] * 6)
