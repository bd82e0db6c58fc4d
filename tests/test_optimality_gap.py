"""The gap to the bound: its identity, against exact chains, and how little noise it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.restless.fluid import known_data
from jaxent.restless.optimality_gap import fluid_losses

from . import oracles_population as oracles
from .test_gap_rates import on_the_border
from .test_population import population_of
from .test_population_chain import MOVES, average_of, case
from .tolerances import SOLVE, STANDARD_ERRORS, by_precision

START = [np.array([2, 0, 0]), np.array([1, 1])]


@pytest.mark.parametrize("seed", range(30))
def test_losses_are_what_lies_between_bound_and_reward(seed):
    """Of any split, by plain sums, average and discounted; losses are >= 0, and 0 where in use."""
    rng = np.random.default_rng(seed)
    sizes = tuple((int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(2))
    counts = tuple(rng.integers(1, 9, 2).tolist())
    equality = (0,) if seed % 3 == 0 else ()
    plain = oracles.random_population(seed, sizes, counts, 1 + seed % 2, 0.9, equality)
    if equality:  # so little that it can always be spent, with no other budget in the way
        dearest = [
            n * d[..., 0].max(1).min() for n, (_, _, d) in zip(counts, plain[0], strict=True)
        ]
        plain[2][0] = (min(plain[2][0][0], sum(dearest)), True)
        plain[2][1:] = [(limit + 4.0 * sum(counts), False) for limit, _ in plain[2][1:]]
    population = population_of(*plain)
    start, discount, before = None, 1.0, 0.0
    if seed % 4 > 1:
        start = [
            rng.multinomial(n, np.ones(S) / S) for n, (S, _) in zip(counts, sizes, strict=True)
        ]
        discount = 0.9
    fluid = je.fluid_policy(population, start=start)
    found = fluid_losses(known_data(population), fluid, start)
    np.testing.assert_allclose(found.bound, fluid.value, atol=SOLVE * (1 + abs(fluid.value)))
    limits = np.array([limit for limit, _ in plain[2]])
    if start is not None:
        before = sum(n @ h for n, h in zip(start, fluid.values, strict=True))
    for _ in range(5):
        lost = fluid.prices @ limits
        left = found.bound if start is None else (1 - discount) * (found.bound - before)
        for n, (P, r, d), h, loss in zip(counts, plain[0], fluid.values, found.loss, strict=True):
            y = n * rng.dirichlet(np.ones(r.size)).reshape(r.shape)
            lost += (y * (loss - d @ fluid.prices)).sum()
            left += y.sum(1) @ h - (y * r).sum() - discount * np.einsum("sa,sat,t", y, P, h)
        np.testing.assert_allclose(lost, left, atol=SOLVE * (1 + abs(found.bound)))
    for loss, y in zip(found.loss, fluid.occupancy, strict=True):
        assert loss.min() >= -SOLVE
        assert np.abs(loss[y > SOLVE]).max(initial=0) < SOLVE


def test_the_exact_gap_is_bound_less_reward():
    """Of four agents of two types: a priority, agents that draw, the optimum; from a start too."""
    population, _, plain = case((2, 2))
    rewards = [r for _, r, _ in plain[0]]
    for start in (None, START):
        fluid = je.fluid_policy(population, start=start)
        best = je.optimal_policy(population, start=start)
        for policy in (MOVES, je.randomized_policy(population, fluid), best):
            gap = je.exact_gap(population, policy, start=start, fluid=fluid)
            chain = je.exchangeable_chain(population, policy)
            if start is None:
                earned = average_of(chain, rewards)
            else:
                Q = je.q_values(chain, rewards, discount=population.discount)
                V = np.asarray(chain.policy.mv(Q)).reshape(3, 2, -1)
                others = je.configurations(1, 3), je.configurations(1, 2)
                at = [
                    int((c == want).all(1).argmax()) for c, want in zip(others, ([1, 0, 0], [0, 1]))
                ]
                earned = V[0, 0, 2 * at[0] + at[1]]
            np.testing.assert_allclose(gap, fluid.value - earned, atol=SOLVE)
            assert gap >= 0
        np.testing.assert_allclose(fluid.value - gap, best.value, atol=1e-7)


@pytest.mark.parametrize("start", [None, START])
def test_the_estimate_is_within_its_error(start):
    """Simulated against exact: a bad priority, far from the bound, and agents that draw."""
    population, _, _ = case((2, 2))
    fluid = je.fluid_policy(population, start=start)
    steps = {"num_steps": 2000} if start is None else {"num_steps": 80, "num_runs": 200}
    for policy in (je.priority_policy(population, MOVES), je.randomized_policy(population, fluid)):
        found = je.optimality_gap(
            jax.random.key(0), population, policy, **steps, start=start, fluid=fluid
        )
        want = je.exact_gap(population, policy, start=start, fluid=fluid)
        assert isinstance(found, je.OptimalityGap)
        assert bool(found.kept)
        assert abs(found.gap - want) <= STANDARD_ERRORS * found.standard_error + found.truncation
        np.testing.assert_allclose(found.bound, fluid.value, rtol=SOLVE)
        np.testing.assert_allclose(found.reward, found.bound - found.gap, rtol=SOLVE)
        assert found.truncation < 1e-5


def test_standard_errors_are_those_of_many_estimates():
    """60 estimates of 8 runs: their spread is what they say, and their mean is the exact gap."""
    population, _, _ = case((2, 2))
    fluid = je.fluid_policy(population)
    want = je.exact_gap(population, MOVES, fluid=fluid)
    found = [
        je.optimality_gap(key, population, MOVES, num_steps=150, fluid=fluid)
        for key in jax.random.split(jax.random.key(1), 60)
    ]
    gaps, said = (np.array([getattr(f, name) for f in found]) for name in ("gap", "standard_error"))
    assert abs(gaps.mean() - want) <= STANDARD_ERRORS * gaps.std(ddof=1) / np.sqrt(60)
    # The variance of 60 normal numbers has a standard error of 18%.
    ratio = np.mean(said**2) / gaps.var(ddof=1)
    assert abs(np.log(ratio)) <= STANDARD_ERRORS * np.sqrt(2 / 59)


def test_a_gap_far_below_the_noise_of_the_reward():
    """At N = 4000 the fluid priority is told from the bound, which its reward cannot do.

    Non-degenerate: it loses nothing unless the agents leave the piece of the limit, which they
    hardly do.
    """
    bandit = je.circulant_bandit(4000)
    none = je.optimality_gap(jax.random.key(0), bandit, je.fluid_policy(bandit), num_steps=500)
    assert abs(none.gap) < 1e-10 * none.bound
    assert none.plain_standard_error > 1e-4 * none.bound


def test_a_gap_on_a_border():
    """Degenerate, 1 / sqrt(N) an agent: here 9 of 800, which is noise of its own.

    Of kernels that no rounding moves. The degenerate bandit of one paper is on a border too, but
    there acting gains as much in either state, so that nothing is lost by a priority.
    """
    border, few = (on_the_border(n) for n in (4000, 10))
    order = (1, 0)  # acting helps in state 1 alone
    found = je.optimality_gap(jax.random.key(0), border, order, num_steps=500)
    assert found.gap > 20 * found.standard_error
    assert found.gap > 1e-4 * found.bound  # which no rounding is
    assert found.standard_error < 0.75 * found.plain_standard_error
    named, _ = je.named_bandit("degenerate", 4000)
    none = je.optimality_gap(jax.random.key(0), named, order, num_steps=500)
    assert abs(none.gap) < by_precision(1e-10, 1e-5) * none.bound
    found = je.optimality_gap(jax.random.key(0), few, order, num_steps=3000)
    want = je.exact_gap(few, order)
    assert abs(found.gap - want) <= STANDARD_ERRORS * found.standard_error


def test_single_precision_and_a_broken_budget():
    """float32 gives float32; a function that breaks a budget is said, and may seem to be better."""
    population, _, plain = case((2, 2))
    kinds = [
        je.AgentType(je.MDP(P.astype(np.float32), r.astype(np.float32)), d) for P, r, d in plain[0]
    ]
    single = je.WeaklyCoupledPopulation(kinds, (2, 2), population.budgets, 0.8)
    found = je.optimality_gap(jax.random.key(0), single, MOVES, num_steps=1000)
    assert found.gap.dtype == jnp.float32
    want = je.exact_gap(population, MOVES)
    assert abs(found.gap - want) <= STANDARD_ERRORS * found.standard_error

    def all_act(counts):
        return tuple(
            jnp.outer(n, jnp.eye(A, dtype=int)[A - 1]) for n, A in zip(counts, (2, 3), strict=True)
        )

    broken = je.optimality_gap(jax.random.key(0), population, all_act, num_steps=50)
    assert not bool(broken.kept)


def test_what_is_refused():
    population, _, _ = case((2, 2))
    key, fluid = jax.random.key(0), je.fluid_policy(population)
    with pytest.raises(ValueError, match="num_runs: 1 is not at least 2"):
        je.optimality_gap(key, population, MOVES, num_steps=5, num_runs=1)
    with pytest.raises(ValueError, match="burn_in: 3 steps cannot be left out"):
        je.optimality_gap(key, population, MOVES, num_steps=5, burn_in=3, start=START)
    with pytest.raises(ValueError, match=r"fluid: its values and prices prove .* of another start"):
        je.optimality_gap(key, population, MOVES, num_steps=5, start=START, fluid=fluid)
    with pytest.raises(ValueError, match="fluid: is not the fluid_policy of this population"):
        je.exact_gap(je.circulant_bandit(5), je.CIRCULANT_PRIORITY, fluid=fluid)
    with pytest.raises(ValueError, match=r"start\[0\]: .* sum to counts\[0\] = 2"):
        je.exact_gap(population, MOVES, start=[[1, 0, 0], [1, 1]])
