"""No result knows the unit of a reward, nor its zero where theory says that nothing depends on it.

Rewards times c, c from 1e-12 to 1e12, give values, indices, errors and bounds times c, and the same
verdicts, laws and priorities; a constant added to the reward moves values by what it is worth.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import by_precision

from .strategies import few, holds, kinds, laws, numbers, recurrent_classes, seeds

GAMMA = 0.9
NOISE = by_precision(1e-9, 1e-4)

units = st.floats(-12, 12).map(lambda power: 10.0**power)
constants = st.sampled_from([0.0, 1.0, -30.0, 1e3])


def same(found, plain, *, unit=1.0, moved=0.0, size=1.0):
    """`found` is unit * (plain + moved), to rounding of numbers of this size."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        wanted = np.asarray(b) + moved
        np.testing.assert_allclose(np.asarray(a) / unit, wanted, rtol=NOISE, atol=NOISE * size)


def equal(found, plain):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def chain_of(P, sizes):
    return je.PairChain.from_matrix(P, sizes=sizes)


@cache
def on_chain(sizes):
    """What scales, what does not, and what a constant leaves alone, of everything on a chain."""

    @jax.jit
    def look(P, mu, rewards):
        chain, rate = chain_of(P, sizes), {"discount": GAMMA}
        found = je.decompose(chain, rewards, **rate, mu=mu)
        solved = je.solve_q(chain, rewards, **rate)
        fit = je.fit_additive(chain, rewards, **rate, mu=mu)
        shared = chain.lift(rewards)
        atv = [je.entanglement_atv(chain, agent=i, mu=mu) for i in range(len(sizes))]
        after = je.bounds.a_posteriori(chain, rewards, **rate, mu=mu)
        values = {
            "q": je.q_values(chain, rewards, **rate),
            "solve_q": solved.value,
            "v": je.state_values(chain, shared, **rate),
        }
        free = {
            "error": found.error,
            "mean": je.decomposition_error(chain, rewards, **rate, mu=mu),
            "fit": (fit.error, fit.mu_error, fit.sup_error),
            "after": (after.mu_bound, after.sup_bound, after.residual),
            "span": je.bounds.span_sup(chain, rewards, **rate, measured=atv, mu=mu),
        }
        linear = {
            "average": je.average_reward(chain, rewards),
            "local": je.local_q_values(chain, rewards, **rate, mu=mu),
            "found": (found.q_joint, found.q_local, found.sup_error),
            "theorem": je.bounds.theorem_8(chain, rewards, **rate, measured=atv, mu=mu),
            "merged": je.merge_rewards(chain, rewards, (tuple(range(len(sizes))),)),
        }
        verdicts = solved.converged, fit.converged
        return values, free, linear, found.relative_error, verdicts

    return look


@holds(2, seed=seeds, kind=kinds, sizes=few((2, 3), (2, 2, 2)), unit=units, constant=constants)
def test_values_errors_and_bounds(seed, kind, sizes, unit, constant):
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    if len(recurrent_classes(P)) > 1:
        return
    mu = je.solve_law(chain_of(P, sizes)).value
    if np.isnan(mu).any():
        return
    rewards = [numbers(rng, 1.0, n) for n in sizes]
    look = on_chain(sizes)
    values, free, linear, relative, verdicts = look(P, mu, rewards)
    size = 1 / (1 - GAMMA) ** 2
    found = look(P, mu, [unit * r for r in rewards])
    same(found[:3], (values, free, linear), unit=unit, size=size)
    np.testing.assert_allclose(found[3], relative, atol=NOISE * size)
    equal(found[4], verdicts)
    found = look(P, mu, [unit * (r + constant) for r in rewards])
    worth = len(sizes) * constant / (1 - GAMMA)
    same(found[0], values, unit=unit, moved=worth, size=size * (1 + abs(constant)))
    same(found[1], free, unit=unit, size=size * (1 + abs(constant)))
    equal(found[4], verdicts)


@cache
def shared(sizes):
    @jax.jit
    def look(P, mu, reward):
        chain = chain_of(P, sizes)
        split = je.reward_entanglement(chain, reward, mu)
        left = mu @ jnp.abs(reward - chain.lift(split.minimizer))
        return (split.value, split.lower, split.upper, left), split

    @jax.jit
    def bound(P, mu, reward, split, unit):
        # The nearest sum need not be the only one, so it is given.
        split = split._replace(
            upper=unit * split.upper, minimizer=[unit * r for r in split.minimizer]
        )
        chain, rate = chain_of(P, sizes), {"discount": GAMMA}
        measured = [je.entanglement_mu_atv_upper(chain, mu, agent=i) for i in range(len(sizes))]
        return je.bounds.proposition_4(chain, reward, **rate, fit=split, measured=measured, mu=mu)

    return look, bound


@pytest.mark.slow
@holds(2, seed=seeds, kind=kinds, sizes=few((2, 2), (2, 3)), unit=units, constant=constants)
def test_a_shared_reward(seed, kind, sizes, unit, constant):
    """The nearest sum is as near, whatever the unit, and a constant is a sum already."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, mu, reward = laws(rng, "dense", J, J), laws(rng, kind, 1, J)[0], numbers(rng, 1, J)
    look, bound = shared(sizes)
    plain, split = look(P, mu, reward)
    for other, noise in ((reward, 1), (reward + constant, 1 + abs(constant))):
        found, again = look(P, mu, unit * other)
        # The minimum is certified to 1e-9 of the spread of the reward.
        same(found, plain, unit=unit, size=10 * noise)
        equal(again.converged, split.converged)
    found = bound(P, mu, unit * reward, split, unit)
    same(found, bound(P, mu, reward, split, 1.0), unit=unit, size=1 / (1 - GAMMA) ** 2)


# (S, N)
TEAMS = ((3, 3), (2, 4))


def bandit_of(rng, kind, team):
    num_states, num_agents = team
    kernels = laws(rng, kind, num_states, 2, num_states).transpose(1, 0, 2)
    budget = int(rng.integers(1, num_agents))
    return je.RestlessBandit(*kernels, numbers(rng, 1.0, num_states, 2), num_agents, budget, GAMMA)


def paid(bandit, unit, constant=0.0):
    return bandit._replace(reward=unit * (bandit.reward + constant))


@pytest.mark.parametrize("solve", [je.whittle_index, je.average_whittle_index])
@holds(2, seed=seeds, kind=kinds, num_states=st.integers(2, 6), unit=units, constant=constants)
def test_whittle_indices(solve, seed, kind, num_states, unit, constant):
    """Index and verdict; a constant in the reward is paid whether one acts or rests."""
    bandit = bandit_of(np.random.default_rng(seed), kind, (num_states, 3))
    try:
        plain = solve(bandit)
    except ValueError as refusal:
        with pytest.raises(ValueError, match=str(refusal)[:20]):
            solve(paid(bandit, unit))
        return
    found, moved = solve(paid(bandit, unit)), solve(paid(bandit, unit, constant))
    spread = 1 + np.abs(plain.index).max(initial=0, where=~np.isnan(plain.index))
    for other, noise in ((found, 1), (moved, 1 + abs(constant))):
        assert (other.indexable, other.state) == (plain.indexable, plain.state)
        same(
            (other.index, other.subsidy),
            (plain.index, plain.subsidy),
            unit=unit,
            size=noise * spread,
        )


@holds(2, seed=seeds, kind=kinds, num_states=st.integers(2, 6), unit=units, constant=constants)
def test_priorities(seed, kind, num_states, unit, constant):
    bandit = bandit_of(np.random.default_rng(seed), kind, (num_states, 3))
    for other in (paid(bandit, unit), paid(bandit, unit, constant)):
        equal(je.myopic_priority(other), je.myopic_priority(bandit))
    try:
        plain = je.fluid_priority(bandit)
    except ValueError:
        with pytest.raises(ValueError, match="no stationary law"):
            je.fluid_priority(paid(bandit, unit))
        return
    found, moved = (
        je.fluid_priority(paid(bandit, unit)),
        je.fluid_priority(paid(bandit, unit, constant)),
    )
    same(found.value, plain.value, unit=unit)
    same(moved.value, plain.value, unit=unit, moved=constant, size=1 + abs(constant))
    equal(found.priority, plain.priority)
    same(found.index, plain.index, unit=unit)
    same(found.occupancy, plain.occupancy)


@cache
def on_counts(team):
    num_states, num_agents = team

    def look(bandit, priority, key):
        truth = je.ground_truth(bandit, priority)
        field = je.mean_field(bandit, priority)
        soft_policy = je.SoftIndex(np.linspace(0, 1, num_states), 0.3)
        soft = je.soft_mean_field(bandit, soft_policy)
        start = np.full(num_states, 0)
        start[0] = num_agents
        # The mean field of a deterministic bandit may have no fixed point.
        control = np.nan_to_num(field.value_weights)
        played = je.monte_carlo_q(
            key, bandit, priority, start, num_runs=2, num_steps=5, control=control
        )
        free = {
            "truth": (truth.error, truth.mu_error),
            "field": (field.mu_error_limit, soft.mu_error_limit),
        }
        linear = {
            "truth": (truth.q_joint, truth.q_local, truth.average_reward),
            "field": (field.value_weights, field.value_constant, field.local_q),
            "played": (played.value, played.truncation),
            "noise": (played.standard_error, played.plain_deviation),
        }
        laws = {
            "truth": (truth.law, truth.occupancy, truth.local_transition, truth.entanglement),
            "field": (field.configuration, field.unique, field.spectral_radius, field.covariance),
            "limit": (field.entanglement_limit, field.mu_atv_limit, soft.configuration),
        }
        relative = truth.relative_error, field.relative_error_limit, soft.relative_error_limit
        return free, linear, laws, relative, (truth.converged, soft.converged)

    return look


@pytest.mark.slow
@holds(2, seed=seeds, kind=kinds, team=few(*TEAMS), unit=units, constant=constants)
def test_teams_of_bandits(seed, kind, team, unit, constant):
    rng = np.random.default_rng(seed)
    bandit, priority = bandit_of(rng, kind, team), rng.permutation(team[0])
    key, look = jax.random.key(seed), on_counts(team)
    free, linear, laws_, relative, good = look(bandit, priority, key)
    size = team[1] / (1 - GAMMA) ** 2
    found = look(paid(bandit, unit), priority, key)
    same(found[:2], (free, linear), unit=unit, size=size)
    equal(found[2], laws_)
    equal(found[4], good)
    same(found[3], relative, size=size)
    found = look(paid(bandit, unit, constant), priority, key)
    same(found[0], free, unit=unit, size=size * (1 + abs(constant)))
    equal(found[2], laws_)
    equal(found[4], good)


@pytest.mark.slow
@holds(1, seed=seeds, kind=kinds, unit=units)
def test_merges_and_reports(seed, kind, unit):
    rng = np.random.default_rng(seed)
    P = laws(rng, kind, 8, 8)
    if len(recurrent_classes(P)) > 1 or np.isnan(je.solve_law(chain_of(P, (2, 2, 2))).value).any():
        return
    chain, rewards = chain_of(P, (2, 2, 2)), [numbers(rng, 1, 2) for _ in range(3)]
    other, size = [unit * r for r in rewards], 1 / (1 - GAMMA) ** 2
    plain, found = (je.best_merge(chain, r, discount=GAMMA) for r in (rewards, other))
    same((found.before, found.bounds), (plain.before, plain.bounds), unit=unit, size=size)
    plain, found = (je.bounds.report(chain, r, discount=GAMMA) for r in (rewards, other))
    same(found[:4], plain[:4], unit=unit, size=size)


def log_of(rng, rewards):
    states, actions = rng.integers(2, size=(2, 60, 2))
    labels = je.Labels.numbers(agents=2, states=2, actions=2)
    return je.Trajectory.from_arrays(states, actions, rewards, labels=labels)


@pytest.mark.slow
@holds(2, seed=seeds, unit=units, constant=constants)
def test_what_is_learned_from_a_log(seed, unit, constant):
    """A log in which everyone is always there, so that a constant is a sum of local rewards."""
    rewards = numbers(np.random.default_rng(seed), 1, 60, 2)

    def look(rewards):
        rng = np.random.default_rng(seed)
        log, together = log_of(rng, rewards), log_of(np.random.default_rng(seed), rewards[:, 0])
        rate = {"discount": GAMMA}
        found = je.monte_carlo_local_q(log, **rate, ends=True)
        split = je.fit_local_rewards(together)
        flow = je.local_flow(log)
        free = found.standard_error, split.error, je.audit(log, **rate, num_permutations=9).bound
        values = (
            je.lstd_local_q(log, **rate).value,
            je.lstd_local_q(flow.flow[0], flow.reward[0], **rate).value,
        )
        linear = {
            "values": values,
            "flow": flow.reward,
            "td": je.td_local_q(log, **rate).value,
            "walked": found.value,
            "split": (split.reward, split.scale),
            "paid": je.with_rewards(together, split.reward).rewards,
        }
        return free, values, linear, split.converged

    plain, found, moved = map(look, (rewards, unit * rewards, unit * (rewards + constant)))
    size = 1 / (1 - GAMMA)
    same((found[0], found[2]), (plain[0], plain[2]), unit=unit, size=size)
    same(moved[0], plain[0], unit=unit, size=size * (1 + abs(constant)))
    worth = constant / (1 - GAMMA)
    same(moved[1], plain[1], unit=unit, moved=worth, size=size * (1 + abs(constant)))
    assert found[3]
    assert moved[3]


@pytest.mark.slow
@holds(0.3, seed=seeds, unit=units)
def test_what_is_trained_and_what_is_said(seed, unit):
    """Networks, monotone mixtures and audits: the same path of training, the same words."""
    rng = np.random.default_rng(seed)
    rewards, key = numbers(rng, 1, 60, 2), jax.random.key(seed)
    mdp = je.MDP(laws(rng, "dense", 2, 2, 2), numbers(rng, 1, 2, 2))
    policy = laws(rng, "dense", 2, 2)

    def look(unit):
        log = log_of(np.random.default_rng(seed), unit * rewards)
        learned = je.network_local_q(key, log, discount=GAMMA, num_steps=20)
        game = je.WeaklyCoupledMDP((mdp,) * 2, GAMMA)
        chain = je.pair_chain(game, je.product_policy([policy] * 2))
        options = {"num_targets": 2, "steps_per_target": 3}
        mixed = je.fit_monotone(key, chain, [unit * mdp.reward] * 2, discount=GAMMA, **options)
        said = je.audit(log, discount=GAMMA, num_permutations=9)
        numbers_ = learned.value, mixed.q_total, said.q_local, said.theorem_6, said.bound_upper
        return numbers_, (mixed.converged,), (said.verdict, said.sentence, said.words)

    plain, found = look(1.0), look(unit)
    same(found[0], plain[0], unit=unit, size=1 / (1 - GAMMA) ** 2)
    equal(found[1], plain[1])
    assert found[2] == plain[2]
