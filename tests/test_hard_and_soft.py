"""A priority and a soft index by one mechanism: a priority is the case of one rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains.pair_chain import PairChain
from jaxent.restless.exchangeable import TaggedLayout, TaggedPolicy, budgets_left
from jaxent.restless.group_laws import rounded_kernel, tagged_rounded_kernel
from jaxent.restless.next_counts import next_counts
from jaxent.restless.rounded import others, rounded_priority, tagged

from .tolerances import EXACT, by_precision

PRIORITY = je.CIRCULANT_PRIORITY
ONE_ROUNDING = by_precision(1e-14, 1e-6)
TOL = by_precision(1e-8, 1e-4)  # of a measure that is traced
FOUR_ERRORS = 4


def random_team(num_states, num_agents, budget):
    rng = np.random.default_rng(num_agents)
    passive, active = rng.dirichlet(np.ones(num_states), (2, num_states))
    reward = rng.random((num_states, 2))
    bandit = je.RestlessBandit(passive, active, reward, num_agents, budget, 0.8)
    return bandit, je.SoftIndex(rng.normal(size=num_states), 0.5)


def test_priority_through_the_soft_machinery_is_the_hard_chain():
    """N = 5: policy, kernel and its transpose, and lift, wherever the rule ever goes."""
    bandit, rng = je.circulant_bandit(5), np.random.default_rng(0)
    hard = je.exchangeable_chain(bandit, PRIORITY)
    rounded = rounded_priority(5, bandit.budget, PRIORITY, jnp.result_type(float))
    split = others(rounded, 5)
    soft = PairChain(
        tagged_rounded_kernel(bandit.kernel, split, 4, budgets_left(5, bandit.budget)),
        TaggedPolicy(tagged(rounded, 5).table),
        TaggedLayout(split[..., 1], 5),
    )
    assert soft.sizes == hard.sizes == (8, 35)
    assert soft.views == hard.views
    f, v, mu = (jnp.asarray(rng.random(size)) for size in ((4, 2), 4 * 35, 4 * 35))
    taken = np.asarray(hard.policy.table).reshape(-1) > 0
    assert 0 < taken.sum() < taken.size  # some pairs are never taken

    @jax.jit
    def applied(chain, law):
        return chain.policy.vm(mu), chain.kernel.mv(v), chain.lift([f]), chain.kernel.vm(law)

    law = hard.policy.vm(mu)
    _, ahead, lifted, after = map(np.asarray, applied(hard, law))
    soft_law, soft_ahead, soft_lifted, soft_after = map(np.asarray, applied(soft, law))
    np.testing.assert_allclose(soft.policy.table, hard.policy.table, atol=ONE_ROUNDING)
    np.testing.assert_allclose(soft_law, law, atol=ONE_ROUNDING)
    np.testing.assert_allclose(soft_ahead[taken], ahead[taken], atol=ONE_ROUNDING)
    np.testing.assert_allclose(soft_after, after, atol=10 * ONE_ROUNDING)
    np.testing.assert_allclose(soft_lifted[taken], lifted[taken], atol=ONE_ROUNDING)


def test_priority_through_the_group_laws_is_the_walk():
    bandit = je.circulant_bandit(5)
    rounded = rounded_priority(5, bandit.budget, PRIORITY, jnp.result_type(float))
    walk = next_counts(bandit.kernel, num_agents=5, budget=bandit.budget, priority=PRIORITY)
    groups = rounded_kernel(bandit.kernel, rounded.split, 5, bandit.budget)
    v, mu = jnp.asarray(np.random.default_rng(1).random((2, 56)))
    applied = jax.jit(lambda op: (op.mv(v), op.vm(mu)))
    (ahead, after), (ahead_walk, after_walk) = applied(groups), applied(walk)
    np.testing.assert_allclose(ahead, ahead_walk, atol=ONE_ROUNDING)
    np.testing.assert_allclose(after, after_walk, atol=10 * ONE_ROUNDING)


@pytest.fixture(scope="module")
def team():
    """Three agents of three states, a soft policy, and what is exactly true of them."""
    bandit, policy = random_team(3, 3, 1)
    return bandit, policy, je.ground_truth(bandit, policy)


def test_soft_names_are_the_same_functions(team):
    bandit, policy, truth = team
    again = je.soft_ground_truth(bandit, policy)
    jax.tree.map(np.testing.assert_array_equal, truth, again)
    field = je.mean_field(bandit, policy)
    assert isinstance(field, je.SoftMeanField)
    assert isinstance(je.mean_field(bandit, (0, 1, 2)), je.MeanField)
    assert je.soft_exchangeable_chain(bandit, policy).sizes == (6, 18)
    assert je.exchangeable_chain(bandit, (0, 1, 2)).sizes == (6, 6)
    # phi(m*) = m*, by the step that every policy has.
    step = je.mean_field_step(bandit, policy, field.configuration)
    np.testing.assert_allclose(step, field.configuration, atol=EXACT)


@pytest.fixture(scope="module")
def estimate(team):
    """Values by Monte Carlo of many configurations: one compilation for every control."""
    bandit, policy, _ = team
    sizes = {"num_runs": 1000, "num_steps": 80}

    def one(key, n, control):
        return je.monte_carlo_q(key, bandit, policy, n, control=control, **sizes)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@pytest.mark.parametrize("control", [None, np.zeros(3), np.array([1.0, -1.0, 2.0])])
def test_monte_carlo_of_a_soft_index(team, estimate, control):
    """The mean of the exact joint value over the roundings at t = 0, within 4 standard errors."""
    _, policy, truth = team
    counts = je.configurations(3, 3)
    weights = np.stack([policy.roundings(n, 1).weights for n in counts])
    exact = (weights * np.asarray(truth.q_joint)).sum(1)
    keys = jax.random.split(jax.random.key(0), len(counts))
    found = estimate(keys, jnp.asarray(counts), control)
    assert (found.truncation < 1e-4 * found.standard_error).all()
    assert (np.abs(found.value - exact) < FOUR_ERRORS * found.standard_error).all()


def test_value_of_the_soft_mean_field_takes_the_noise_off():
    bandit, policy = je.circulant_bandit(300), je.SoftIndex(np.array([-0.25, 0.25, 0.4, -0.4]), 0.2)
    counts = je.circulant_start(300)
    key, sizes = jax.random.key(0), {"num_runs": 50, "num_steps": 30}
    found = je.monte_carlo_q(key, bandit, policy, counts, **sizes)
    assert 0 < found.standard_error < 0.1 * found.plain_deviation / np.sqrt(50)


def test_lemma_8_of_a_soft_index(team):
    bandit, policy, truth = team
    field = je.mean_field(bandit, policy)
    bound = je.deviation_bound(je.configurations(3, 3), truth.law, bandit, policy, field)
    assert 0 < truth.entanglement <= bound.policy_distance


@pytest.mark.parametrize(
    "num_agents", [pytest.param(n, marks=() if n == 3 else pytest.mark.slow) for n in (2, 3, 4)]
)
def test_tagged_entanglement_of_a_soft_index(num_agents):
    """Both measures equal those of the exact chain, whose rows they have without its kernel."""
    bandit, policy = random_team(2, num_agents, num_agents // 2)

    @jax.jit
    def measures(policy):
        chain = je.exchangeable_chain(bandit, policy)
        law = je.solve_law(chain).value
        upper = je.entanglement_mu_atv_upper(chain, law, agent=0)
        near = je.entanglement_mu_atv(chain, law, agent=0, tol=TOL)
        found = je.tagged_entanglement(bandit, policy, je.ground_truth(bandit, policy).law, tol=TOL)
        wanted = (upper.lower, upper.upper, near.lower, near.upper)
        return wanted, [(e.lower, e.upper) for e in found], found.mu_atv.converged

    wanted, found, converged = measures(policy)
    assert converged
    assert min(wanted) > 1e-4
    np.testing.assert_allclose(np.ravel(found), wanted, atol=TOL)


def test_tagged_entanglement_tells_what_does_not_fit():
    policy = je.SoftIndex(np.arange(4.0), 0.1)
    law = np.full(56, 1 / 56)
    with pytest.raises(ValueError, match="largest num_agents that fits is"):
        je.tagged_entanglement(je.circulant_bandit(5), policy, law, memory=2**20)
    with pytest.raises(ValueError, match=r"mu: wanted shape \[56\]"):
        je.tagged_entanglement(je.circulant_bandit(5), policy, law[1:])


def test_old_names_are_taken_with_a_warning():
    bandit, key = je.circulant_bandit(5), jax.random.key(0)
    with pytest.warns(DeprecationWarning, match="priority is now policy"):
        field = je.mean_field(bandit, priority=PRIORITY)
    with pytest.warns(DeprecationWarning, match="piece is now MeanField.linear"):
        np.testing.assert_array_equal(field.piece, field.linear)
    with pytest.warns(DeprecationWarning, match="priority is now policy"):
        je.simulate_counts(key, bandit, priority=PRIORITY, num_steps=3)
    with (
        pytest.warns(DeprecationWarning, match="law is now mu"),
        pytest.raises(ValueError, match="mu: wanted shape"),
    ):
        je.tagged_entanglement(bandit, PRIORITY, law=np.ones(3))
