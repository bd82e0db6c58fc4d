"""Exact chains and optima of populations against the joint chain and plain NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import oracles_population as oracles
from .test_exchangeable import random_bandit
from .test_population import population_of
from .tolerances import EXACT, F32, FD, SOLVE, STEP, by_precision

SIZES = ((3, 2), (2, 3))
MOVES = [(0, 1, 1), (1, 0, 2), (1, 1, 1), (0, 2, 1), (1, 1, 2), (0, 0, 1), (1, 0, 1)]
MEASURE = 1e-8  # to which the measures are minimized here


def case(counts, seed=3):
    """A population, its policy as a table of the joint model, and the plain numbers."""
    types, _, _, discount = oracles.random_population(seed, SIZES, counts, 2)
    uses = (np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0], [1, 2]]))
    types = [
        (P, r, np.broadcast_to(d.astype(float), (*r.shape, 2)))
        for (P, r, _), d in zip(types, uses, strict=True)
    ]
    budgets = [(max(1, sum(counts) // 2), False), (max(2, sum(counts) // 2 + 1), False)]
    plain = types, counts, budgets, discount
    costs, limits = [d for _, _, d in plain[0]], [limit for limit, _ in plain[2]]

    def split_of(now):
        return [(1.0, oracles.serve_in_order(costs, limits, now, MOVES))]

    return population_of(*plain), oracles.joint_table(SIZES, counts, split_of), plain


@partial(jax.jit, static_argnums=2)
def answers(chain, rewards, seen, discount):
    """What the general functions say, of the views of one agent of each type."""
    found = je.decompose(chain, rewards, discount=discount)
    local = [je.local_transition(chain, found.mu, agent=i) for i in seen]
    return (
        [found.q_local[i] for i in seen],
        local,
        [je.marginal(chain, found.mu, agent=i) for i in seen],
        [found.mu_error, found.relative_error, found.sup_error, found.mu @ found.q_joint],
    )


@partial(jax.jit, static_argnums=1)
def measures(chain, seen, mu):
    """Every measure of one view, and how far its bracket is, `[views, 3, 2]`."""
    found = [
        (
            je.entanglement_atv(chain, agent=i, tol=MEASURE),
            je.entanglement_mu_atv(chain, mu, agent=i, tol=MEASURE),
            je.entanglement_mu_atv_upper(chain, mu, agent=i),
        )
        for i in seen
    ]
    return jnp.array([[[m.lower, m.upper] for m in each] for each in found])


FEW = [(1, 1), pytest.param((2, 1), marks=pytest.mark.slow)]
FEW += [pytest.param((1, 3), marks=pytest.mark.slow), pytest.param((2, 2), marks=pytest.mark.slow)]


@pytest.mark.parametrize("counts", FEW)
def test_chain_equals_the_joint_chain(counts):
    """Two types, two budgets: values, errors, laws, brackets and bounds to 1e-10."""
    population, table, plain = case(counts)
    joint_model = population.joint()
    joint = je.pair_chain(joint_model, table)  # it keeps the budgets, says the model
    chain = je.exchangeable_chain(population, MOVES)
    assert chain.view_sizes == (6, 6)
    assert chain.num_alike == counts
    every, one = list(joint_model.rewards), [r for _, r, _ in plain[0]]
    seen = (0, counts[0])
    found, want = (
        answers(c, rewards, which, 0.8)
        for c, rewards, which in ((chain, one, (0, 1)), (joint, every, seen))
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), found, want)
    assert float(want[3][0]) > 1e-3
    # The certified brackets of the error of another approximation than the sum of local values.
    other = [
        [0.5 * q for q in want[0]],
        [0.5 * want[0][k] for k, n in enumerate(counts) for _ in range(n)],
    ]
    brackets = [
        je.approximation_error(c, rewards, f, discount=0.8, tol=1e-11)
        for c, rewards, f in ((chain, one, other[0]), (joint, every, other[1]))
    ]
    for name in ("lower", "upper", "sup_lower", "sup_upper", "scale"):
        np.testing.assert_allclose(*(getattr(b, name) for b in brackets), atol=1e-10)
    for bound in (je.bounds.projection_sup, je.bounds.projection_mu):
        np.testing.assert_allclose(
            bound(chain, one, discount=0.8), bound(joint, every, discount=0.8), atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1)])
def test_measures_and_bounds_equal_those_of_the_joint_chain(counts):
    """Brackets of the same minimum, and bounds that count every agent of a type."""
    population, table, plain = case(counts)
    joint = je.pair_chain(population.joint(), table)
    chain = je.exchangeable_chain(population, MOVES)
    mus = [je.stationary_distribution(c) for c in (chain, joint)]
    found, want = measures(chain, (0, 1), mus[0]), measures(joint, (0, counts[0]), mus[1])
    assert (np.diff(want, axis=-1) <= 2 * MEASURE).all()
    assert float(want[..., 1].max()) > 1e-2
    np.testing.assert_allclose(found, want, atol=2 * MEASURE)
    every, one = list(population.joint().rewards), [r for _, r, _ in plain[0]]
    # Spans are of values at a minimizer, which near the minimum is any of many.
    paper, spans = (
        (je.bounds.theorem_6, je.bounds.theorem_8),
        (je.bounds.span_mu, je.bounds.span_sup),
    )
    for bounds, rtol in ((paper, 1e-5), (spans, 1e-3)):
        for bound in bounds:
            np.testing.assert_allclose(
                bound(chain, one, discount=0.8), bound(joint, every, discount=0.8), rtol=rtol
            )


def test_bounds_of_a_bandit_count_every_agent():
    """The view of a tagged agent stands for all N: bounds are N times its own term."""
    bandit, priority = random_bandit(9, 2, 4, 2)
    chain = je.exchangeable_chain(bandit, priority)
    model = je.WeaklyCoupledMDP((je.MDP(bandit.kernel, bandit.reward),) * 4, bandit.discount)
    joint = je.pair_chain(model, je.index_policy(priority, num_agents=4, budget=2))
    for bound in (je.bounds.projection_mu, je.bounds.projection_sup):
        one = bound(chain, [bandit.reward], discount=0.8)
        every = bound(joint, [bandit.reward] * 4, discount=0.8)
        np.testing.assert_allclose(one, every, rtol=SOLVE)


@pytest.mark.parametrize("budget", [0, 2, 4])
def test_a_bandit_has_the_same_chain_either_way(budget):
    """One type, two actions, one budget: rows that are visited, law and lift, to rounding."""
    bandit, priority = random_bandit(0, 3, 4, budget)
    old = je.exchangeable_chain(bandit, priority)
    new = je.exchangeable_chain(je.WeaklyCoupledPopulation.from_bandit(bandit), priority)
    assert new.sizes == old.sizes
    mu = stationary(old)
    np.testing.assert_allclose(stationary(new), mu, atol=EXACT)
    visited = mu > EXACT
    assert visited.any()
    matrices = [np.asarray(c.matrix())[visited] for c in (new, old)]
    np.testing.assert_allclose(*matrices, atol=EXACT)
    lifts = [np.asarray(c.lift([bandit.reward]))[visited] for c in (new, old)]
    np.testing.assert_allclose(*lifts, atol=EXACT)


def test_operator_is_its_matrix():
    """`mv`, `vm` and the matrix agree, rows are laws, and unvisited rows too."""
    population, _, _ = case((2, 2))
    chain = je.exchangeable_chain(population, MOVES)
    rng = np.random.default_rng(0)
    v, mu = rng.standard_normal(chain.num_states), rng.random(chain.num_pairs)
    matrix = np.asarray(chain.kernel.matrix())
    np.testing.assert_allclose(matrix.sum(1), 1, atol=EXACT)
    np.testing.assert_allclose(chain.kernel.mv(v), matrix @ v, atol=EXACT)
    np.testing.assert_allclose(chain.kernel.vm(mu), mu @ matrix, atol=EXACT)
    assert bool(chain.stochastic())


def test_random_policy_as_a_function_of_counts():
    """Several splits with chances: who acts is drawn uniformly, as in the joint model."""
    bandit, _ = random_bandit(5, 2, 3, 1)
    population = je.WeaklyCoupledPopulation.from_bandit(bandit)

    def anyone(counts):
        (n,) = counts
        return [(n[s] / 3, (np.stack([n - np.eye(2, dtype=int)[s], np.eye(2, dtype=int)[s]], 1),))
                for s in range(2) if n[s]]  # fmt: skip

    chain = je.exchangeable_chain(population, anyone)
    table = oracles.joint_table(((2, 2),), (3,), anyone)
    joint = je.pair_chain(population.joint(), table)
    found = je.decompose(chain, [bandit.reward], discount=0.8)
    want = je.decompose(joint, [bandit.reward] * 3, discount=0.8)
    np.testing.assert_allclose(found.mu_error, want.mu_error, atol=by_precision(1e-10, 1e-5))
    np.testing.assert_allclose(found.q_local[0], want.q_local[0], atol=1e-10)


def test_priority_serves_one_after_another():
    """Against a loop over agents, for many counts; traced counts give the same."""
    traced = jax.jit(lambda p, n: p(n))
    for seed in range(8):
        counts = (3, 4)
        plain = oracles.random_population(seed, SIZES, counts, 2)
        population = population_of(*plain)
        rng = np.random.default_rng(seed)
        moves = [MOVES[i] for i in rng.permutation(len(MOVES))]
        policy = je.priority_policy(population, moves)
        assert isinstance(policy, je.PriorityPolicy)
        for _ in range(10):
            now = [
                rng.multinomial(n, np.ones(S) / S) for n, (S, _) in zip(counts, SIZES, strict=True)
            ]
            costs, limits = [d for _, _, d in plain[0]], [limit for limit, _ in plain[2]]
            want = oracles.serve_in_order(costs, limits, now, moves)
            for split in (policy(now), traced(policy, now)):
                for x, y in zip(split, want, strict=True):
                    np.testing.assert_array_equal(x, y)


def test_optimum_equals_value_iteration_on_joint_states():
    """Discounted, from every start of a population of two types."""
    plain = oracles.random_population(1, ((2, 2), (2, 3)), (2, 1), 2, discount=0.7)
    population = population_of(*plain)
    states, V = oracles.joint_optimum(*plain, steps=150)
    for s, want in zip(states, V, strict=True):
        start = [np.bincount(s[:2], minlength=2), np.bincount(s[2:], minlength=2)]
        best = je.optimal_policy(population, start=start)
        assert best.converged
        np.testing.assert_allclose(best.value, want, atol=SOLVE)
    split = best(start)
    assert [part.sum() for part in split] == [2, 1]


@pytest.mark.parametrize("seed", range(12))
def test_bound_above_optimum_above_policies(seed):
    """LP bound >= optimum >= a priority and a random rule, average and discounted."""
    rng = np.random.default_rng(seed)
    counts = ((2, 1), (1, 2), (2, 2))[seed % 3]
    plain = oracles.random_population(50 + seed, SIZES, counts, 1 + seed % 2)
    population = population_of(*plain)
    moves = [MOVES[i] for i in rng.permutation(len(MOVES))]
    rewards = [r for _, r, _ in plain[0]]
    start = [rng.multinomial(n, np.ones(S) / S) for n, (S, _) in zip(counts, SIZES, strict=True)]
    best, bound = je.optimal_policy(population), je.fluid_policy(population)
    discounted = je.optimal_policy(population, start=start)
    assert best.converged
    assert best.lower <= best.value <= best.upper
    assert best.lower <= bound.value + SOLVE
    assert discounted.value <= je.fluid_policy(population, start=start).value + SOLVE
    for policy in (moves, best, discounted):
        earned = average_of(je.exchangeable_chain(population, policy), rewards)
        assert earned <= best.upper + SOLVE
        if policy is best:
            np.testing.assert_allclose(earned, best.value, atol=by_precision(1e-7, 1e-5))


def stationary(chain):
    """The law of the joint pairs, by plain NumPy from the chain's parts."""
    T = np.asarray(chain.state_matrix())
    system = np.vstack([T.T - np.eye(len(T)), np.ones(len(T))])
    law = np.linalg.lstsq(system, np.append(np.zeros(len(T)), 1), rcond=None)[0]
    return np.asarray(chain.policy.vm(jnp.asarray(law)))


def average_of(chain, rewards):
    """Average reward of all agents."""
    return float(stationary(chain) @ np.asarray(chain.lift(rewards)))


def test_optimum_of_the_circulant_bandit_is_above_its_index():
    """Five agents: the Whittle index is not optimal there, the fluid bound is not reached."""
    bandit = je.circulant_bandit(5)
    index = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
    index = average_of(index, [bandit.reward])
    best = je.optimal_policy(bandit)
    assert isinstance(best, je.OptimalPolicy)
    assert index + 1e-3 < best.value < je.fluid_policy(bandit).value
    chain = je.exchangeable_chain(bandit, best)
    np.testing.assert_allclose(average_of(chain, [bandit.reward]), best.value, atol=1e-8)


def test_gradient_in_kernel_and_reward():
    """The error is differentiable through the typed chain: against central differences."""
    population, _, plain = case((1, 1))
    toward = np.random.default_rng(1).dirichlet(np.ones(3), (3, 2))

    @jax.jit
    @jax.value_and_grad
    def error(step):
        P = (1 - step) * plain[0][0][0] + step * toward
        kinds = [(je.MDP(P, plain[0][0][1] * (1 + step)), plain[0][0][2]), population.types[1]]
        moved = je.WeaklyCoupledPopulation(kinds, (1, 1), population.budgets, 0.8)
        chain = je.exchangeable_chain(moved, MOVES)
        rewards = [kind.mdp.reward for kind in moved.types]
        return je.decomposition_error(chain, rewards, discount=0.8)

    h = STEP
    want = float(error(0.3 + h)[0] - error(0.3 - h)[0]) / (2 * h)
    assert abs(want) > 1e-3
    np.testing.assert_allclose(error(0.3)[1], want, rtol=by_precision(1e-5, FD))


def test_refusals():
    population, _, _ = case((2, 2))
    with pytest.raises(ValueError, match=r"the exact chain of .* the largest num_agents that fits"):
        je.exchangeable_chain(population, MOVES, memory=10_000)
    with pytest.raises(ValueError, match=r"the optimum of .* the largest num_agents that fits"):
        je.optimal_policy(population, memory=1000)
    with pytest.raises(ValueError, match="chain: WeaklyCoupledPopulation is not a PairChain; exch"):
        je.stationary_distribution(population)
    with pytest.raises(ValueError, match=r"not one of the models .* exchangeable_chain"):
        je.pair_chain(population, MOVES)
    with pytest.raises(ValueError, match=r"not a RestlessBandit.* lagrange_index"):
        je.whittle_index(population)
    with pytest.raises(ValueError, match=r"order\[0\]: there is no state 3 of a type 0"):
        je.exchangeable_chain(population, [(0, 3, 1)])
    with pytest.raises(ValueError, match=r"order\[1\]: the move \(0, 1, 1\) is listed twice"):
        je.priority_policy(population, [(0, 1, 1), (0, 1, 1)])
    with pytest.raises(ValueError, match=r"order\[0\]: 1 is not a move"):
        je.priority_policy(population, [1])
    dear = [np.eye(A, dtype=int)[-1] for _, A in SIZES]
    with pytest.raises(ValueError, match=r"policy: in configuration .* breaks a budget"):
        je.exchangeable_chain(
            population, lambda n: tuple(np.outer(x, d) for x, d in zip(n, dear, strict=True))
        )
    with pytest.raises(ValueError, match=r"policy: in .* does not split the agents"):
        je.exchangeable_chain(population, lambda n: (np.zeros((3, 2)), np.zeros((2, 3))))
    with pytest.raises(ValueError, match="start: must be of whole agents"):
        je.optimal_policy(population, start=[[0.5, 1.5, 0], [1, 1]])
    bandit, _ = random_bandit(0, 3, 4, 2)
    with pytest.raises(ValueError, match=r"policy: in configuration .* breaks a budget"):
        je.exchangeable_chain(bandit, je.priority_policy(bandit, [0]))
    # A budget that must be met exactly, and costs that cannot add up to it.
    P = np.full((1, 2, 1), 1.0)
    odd = je.AgentType(je.MDP(P, np.zeros((1, 2))), np.array([[[0.0], [2.0]]]))
    three = je.WeaklyCoupledPopulation((odd,), (3,), (je.Budget(3, equality=True),), 0.9)
    with pytest.raises(ValueError, match=r"no split of configuration \[\[3\]\] keeps"):
        je.optimal_policy(three)


def test_float32():
    """The dtype follows the kernels; values are those of float64 to its precision."""
    population, _, plain = case((2, 2))
    kinds = [
        (je.MDP(jnp.asarray(P, jnp.float32), jnp.asarray(r, jnp.float32)), d)
        for P, r, d in plain[0]
    ]
    narrow = je.WeaklyCoupledPopulation(kinds, (2, 2), population.budgets, 0.8)
    chain, wide = (je.exchangeable_chain(p, MOVES) for p in (narrow, population))
    assert chain.dtype == jnp.float32
    found, want = (
        answers(c, [kind.mdp.reward for kind in p.types], (0, 1), 0.8)
        for c, p in ((chain, narrow), (wide, population))
    )
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=F32), found, want)


@pytest.mark.slow
def test_three_types_of_a_few_agents():
    """Three views; agents that have no choice, or one state, are types like any other."""
    sizes = ((2, 2), (1, 2), (3, 1))
    plain = oracles.random_population(8, sizes, (2, 1, 1), 1)
    population = population_of(plain[0], plain[1], [(1.0, False)], 0.8)
    moves = [(0, 1, 1), (1, 0, 1), (0, 0, 1)]
    costs = [d for _, _, d in plain[0]]

    def split_of(now):
        return [(1.0, oracles.serve_in_order(costs, [1.0], now, moves))]

    joint = je.pair_chain(population.joint(), oracles.joint_table(sizes, (2, 1, 1), split_of))
    chain = je.exchangeable_chain(population, moves)
    assert chain.view_sizes == (4, 2, 3)
    rewards = [r for _, r, _ in plain[0]]
    found = je.decompose(chain, rewards, discount=0.8)
    want = je.decompose(joint, [rewards[0], *rewards], discount=0.8)
    np.testing.assert_allclose(found.mu_error, want.mu_error, atol=by_precision(1e-10, 1e-5))
    for mine, theirs in zip(found.q_local, want.q_local[1:], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_the_same_numbers_of_agents_in_both_precisions():
    """What is kept from one program serves in the next, of the other precision."""
    found = []
    for x64 in (True, False, True):
        with jax.enable_x64(x64):
            bandit = je.circulant_bandit(10)
            found.append(float(je.exact_gap(bandit, je.CIRCULANT_PRIORITY)))
    assert found[0] == found[2]
    np.testing.assert_allclose(found[1], found[0], rtol=F32)
