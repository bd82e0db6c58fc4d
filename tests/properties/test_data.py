"""Properties of trajectories, logs, tables, learning and estimators."""

import csv
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from tests.tolerances import EXACT

from .strategies import discounts, few, finite, holds, kinds, laws, numbers, seeds

# (T, N, S, A)
RUNS = ((40, 3, 3, 2), (2, 1, 1, 1), (60, 2, 2, 3))


def trajectory_of(rng, shape, *, shared=False, gaps=False, scale=1.0):
    num_epochs, num_agents, num_states, num_actions = shape
    size = (num_epochs, num_agents)
    labels = je.Labels.numbers(agents=num_agents, states=num_states, actions=num_actions)
    made = je.Trajectory.from_arrays(
        rng.integers(num_states, size=size),
        rng.integers(num_actions, size=size),
        numbers(rng, scale, *(size[:1] if shared else size)),
        episode=np.sort(rng.integers(3, size=num_epochs)),
        labels=labels,
    )
    if not gaps:
        return made
    present = rng.random(size) < 0.8
    values = {name: np.where(present, getattr(made, name), 0) for name in ("states", "actions")}
    rest = {
        name: getattr(made, name) for name in ("rewards", "signal", "episode", "time", "labels")
    }
    return je.Trajectory(**values, **rest, present=present)


@holds(2, seed=seeds, shape=st.sampled_from(RUNS), gaps=st.booleans())
def test_tables_round_trip(seed, shape, gaps):
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, gaps=gaps)
    present = np.asarray(made.present)
    labels = made.labels
    known = {"agent": labels.agents, "state": labels.states, "action": labels.actions}
    frame = je.to_frame(made)
    assert len(frame) == present.sum()
    if not present.any():
        return
    log = je.read_log(frame.sample(frac=1, random_state=seed % 1000), known=known, allow_gaps=True)
    assert isinstance(log, je.Log)
    back = log.trajectory
    kept = present.any(1)
    for name in ("states", "actions", "rewards"):
        values = np.where(present, getattr(made, name), 0)[kept]
        np.testing.assert_array_equal(np.where(back.present, getattr(back, name), 0), values)
    np.testing.assert_array_equal(back.present, present[kept])
    assert bool(log.gaps) >= bool((~present[kept]).any())
    states, pairs = je.state_counts(made), je.pair_counts(made)
    others = present.sum(1, keepdims=True) - present
    np.testing.assert_array_equal(states.sum(2), others)
    np.testing.assert_array_equal(pairs.sum(2), others)
    assert (states >= 0).all()


# What CSV can hold: any text but the empty one. (A lone surrogate is no text.)
WRITTEN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@holds(4, labels=st.lists(WRITTEN, min_size=2, max_size=5, unique=True), sep=few(",", ";", "\t"))
def test_text_comes_back_as_it_was_written(labels, sep):
    """Whatever the labels look like, the log has these and no others."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=sep)
            writer.writerow(["t", "agent", "state", "action", "reward"])
            writer.writerows([t, "k", label, "a", 1] for t, label in enumerate(labels))
        run = je.read_log(path, sep=sep).trajectory
    assert [run.labels.states[k] for k in run.states[:, 0]] == labels


@pytest.mark.slow
@holds(
    2, seed=seeds, shape=few(*RUNS), gaps=st.booleans(), discount=discounts, trace=st.floats(0, 1)
)
def test_learned_values_are_between_the_worst_and_the_best(seed, shape, gaps, discount, trace):
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, gaps=gaps)
    flow = je.local_flow(made)
    assert isinstance(flow, je.LocalFlow)
    counts = np.asarray(flow.flow)
    np.testing.assert_array_equal(counts.sum((1, 2)), np.asarray(made.follows).sum(0))
    learned = je.lstd_local_q(made, discount=discount)
    assert isinstance(learned, je.LocalQ)
    assert finite(learned)
    walked = je.td_local_q(made, discount=discount, trace=trace)
    assert finite(walked)
    for found in (learned, walked):
        total = np.asarray(found.occupancy).sum(1)
        np.testing.assert_allclose(total, counts.sum((1, 2)) > 0, atol=EXACT)
    paid = np.where(made.present, made.rewards, 0)
    worst = np.minimum(paid.min(0), 0) / (1 - discount)
    best = np.maximum(paid.max(0), 0) / (1 - discount)
    spare = 1e-9 / (1 - discount)
    value = np.asarray(learned.value)
    assert (value >= worst[:, None] - spare).all()
    assert (value <= best[:, None] + spare).all()
    # The fixed point: Q = r + discount P Q where seen.
    visits = counts.sum(2)
    ahead = np.einsum("kxy,ky->kx", counts, value) / np.maximum(visits, 1)
    wanted = np.asarray(flow.reward) + discount * np.where(visits > 0, ahead, value)
    np.testing.assert_allclose(value, wanted, atol=spare)


@pytest.mark.slow
@holds(
    0.3,
    seed=seeds,
    shape=few(*RUNS),
    gaps=st.booleans(),
    discount=st.sampled_from([0.0, 0.5, 0.9]),
    ends=st.booleans(),
)
def test_returns_are_between_the_worst_and_the_best(seed, shape, gaps, discount, ends):
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, gaps=gaps)
    found = je.monte_carlo_local_q(made, discount=discount, ends=ends)
    assert isinstance(found, je.LocalReturns)
    assert finite(found)
    largest = np.abs(np.asarray(made.rewards)).max() / (1 - discount)
    assert np.abs(found.value).max() <= largest + 1e-9
    assert (np.asarray(found.visits) >= 0).all()


@pytest.mark.slow
@holds(
    0.5, seed=seeds, shape=few(*RUNS), gaps=st.booleans(), scale=st.sampled_from([0.0, 1.0, 1e6])
)
def test_a_shared_reward_is_split(seed, shape, gaps, scale):
    """The split leaves no more than nothing would, and paying by it gives the same table."""
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, shared=True, gaps=gaps, scale=scale)
    fit = je.fit_local_rewards(made)
    assert isinstance(fit, je.RewardFit)
    assert finite(fit)
    assert fit.converged
    assert fit.error <= fit.scale * (1 + 1e-9)
    paid = je.with_rewards(made, fit.reward)
    total = np.where(made.present, paid.rewards, 0).sum(1)
    left = np.sqrt(((np.asarray(made.rewards) - total) ** 2).mean())
    np.testing.assert_allclose(left, fit.error, atol=1e-9 * max(scale, 1))


@holds(
    1,
    seed=seeds,
    shape=few((240, 3, 3, 2), (300, 2, 2, 3)),
    shared=st.booleans(),
    gaps=st.booleans(),
    discount=discounts,
    scale=st.sampled_from([0.0, 1e-9, 1.0, 1e9]),
)
def test_an_estimated_error_is_in_its_interval(seed, shape, shared, gaps, discount, scale):
    """Whatever the log and the approximation; where both are 0, so is all that is told."""
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, shared=shared, gaps=gaps, scale=scale)
    X = shape[2] * shape[3]
    table = numbers(rng, scale, shape[1], X)
    found = je.estimate_approximation_error(
        jax.random.key(seed),
        made,
        je.LocalQ(table, np.ones_like(table)),
        discount=discount,
        features=rng.normal(size=(shape[0], 3)),
        num_batches=5,
    )
    assert isinstance(found, je.ErrorEstimate)
    assert isinstance(found.centered, je.ErrorInterval)
    assert finite(found._replace(ceiling=0))
    assert found.by_pair.shape == (shape[1], X)
    for part in (found, found.centered, found.bias, found.placebo):
        assert part.lower <= part.value <= part.upper
    if scale == 0:
        assert found.upper == 0


@holds(0.3, seed=seeds, shape=few((12, 2), (2, 1)), scale=st.sampled_from([1e-9, 1.0, 1e9]))
def test_fourier_features(seed, shape, scale):
    """Bounded and finite, whatever the unit of what was observed."""
    observed = numbers(np.random.default_rng(seed), scale, *shape)
    found = je.learning.fourier_features(jax.random.key(seed), observed, num_features=3)
    assert found.shape == (shape[0], 3)
    assert finite(found)
    assert (abs(found) <= (2 / 3) ** 0.5 * (1 + 1e-6)).all()


@cache
def estimated(num_actions):
    @jax.jit
    def estimate(laws, weights):
        return je.estimate_entanglement(laws, weights), je.entanglement_interval(
            laws, weights, num_batches=4
        )

    return estimate


@holds(2, seed=seeds, kind=kinds, num_actions=few(2, 3), blank=st.booleans())
def test_estimates_are_attained(seed, kind, num_actions, blank):
    """The minimizer attains the value, held out it does no better, and batches add up."""
    rng = np.random.default_rng(seed)
    T, L = 24, 2
    policy = laws(rng, kind, T, L, num_actions)
    weights = rng.random((T, L))
    if blank:
        weights *= rng.random((T, L)) < 0.5
        weights[0] = 1
    found, interval = jax.tree.map(np.asarray, estimated(num_actions)(policy, weights))
    tv = np.abs(policy - found.minimizer).sum(-1) / 2
    np.testing.assert_allclose(found.minimizer.sum(-1), 1, atol=EXACT)
    np.testing.assert_allclose((weights * tv).sum() / weights.sum(), found.value, atol=EXACT)
    assert -EXACT <= found.value <= found.held_out + EXACT
    np.testing.assert_allclose(interval.in_sample, found.value, atol=EXACT)
    assert interval.lower <= interval.value + EXACT <= interval.upper + 2 * EXACT
    rival = laws(rng, "dense", L, num_actions)
    beaten = (weights * np.abs(policy - rival).sum(-1) / 2).sum() / weights.sum()
    assert found.value <= beaten + EXACT


@holds(seed=seeds, kind=kinds)
def test_laws_by_local_state(seed, kind):
    rng = np.random.default_rng(seed)
    rows, local = laws(rng, kind, 6, 2), rng.integers(3, size=6)
    every, here = je.by_local(rows, local, num_local=3)
    np.testing.assert_array_equal(here, np.eye(3)[local])
    np.testing.assert_array_equal(every, np.repeat(rows[:, None], 3, 1))


@holds(2, seed=seeds, kind=kinds, sizes=few((2, 3), (1, 2)))
def test_sampled_paths_are_possible(seed, kind, sizes):
    """A path takes no step of probability 0, and its rewards are those of its pairs."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P, start = laws(rng, kind, J, J), laws(rng, "sparse", J)
    chain = je.PairChain.from_matrix(P, sizes=sizes)
    rewards = [numbers(rng, 1, n) for n in sizes]
    made = je.chain_trajectory(jax.random.key(seed), chain, rewards, num_steps=20, start=start)
    path = np.ravel_multi_index(np.asarray(made.pairs).T, (max(sizes),) * 2)
    states = np.asarray(made.states)
    path = np.ravel_multi_index(states.T, sizes)
    assert start[path[0]] > 0
    assert (P[path[:-1], path[1:]] > 0).all()
    np.testing.assert_array_equal(
        made.rewards, np.stack([r[x] for r, x in zip(rewards, states.T)], 1)
    )


@pytest.mark.slow
@holds(2, seed=seeds, kind=kinds, shape=few((4, 3), (2, 1), (1, 2)), share=st.floats(0, 1))
def test_agents_act_within_the_budget(seed, kind, shape, share):
    """Exactly M act, nobody below the threshold, and nobody goes where nobody can."""
    rng = np.random.default_rng(seed)
    num_agents, num_states = shape
    budget = max(1, round(share * num_agents))
    kernel = laws(rng, kind, num_agents, num_states, 2, num_states)
    index = np.round(numbers(rng, 1, num_agents, num_states), 0)  # with ties
    steps = 12
    run = je.simulate_agents(jax.random.key(seed), kernel, index, budget=budget, num_steps=steps)
    assert isinstance(run, je.AgentsTrajectory)
    states, actions = np.asarray(run.states), np.asarray(run.actions)
    assert (actions.sum(1) == budget).all()
    agent = np.arange(num_agents)
    assert (kernel[agent, states[:-1], actions, states[1:]] > 0).all()
    policy = np.asarray(je.agent_policy(run, index))
    np.testing.assert_allclose(policy.sum(1), budget, atol=1e-9)
    assert (policy[:-1][actions == 1] > 0).all()
    assert (policy[:-1][actions == 0] < 1).all()
    paid = je.agent_trajectory(run, np.zeros((num_agents, num_states, 2)))
    assert paid.num_epochs == steps


@pytest.mark.slow
@holds(0.3, seed=seeds, kind=kinds, shape=few((4, 3), (2, 1)))
def test_estimates_of_agents_and_types_agree(seed, kind, shape):
    """Types of one agent each are the agents themselves; flows count every step."""
    rng = np.random.default_rng(seed)
    num_agents, num_states = shape
    kernel = laws(rng, kind, num_agents, num_states, 2, num_states)
    index = numbers(rng, 1, num_agents, num_states)
    run = je.simulate_agents(jax.random.key(seed), kernel, index, budget=1, num_steps=12)
    agents = np.arange(num_agents)
    one = je.agent_entanglement(run, index, agents)
    same = je.type_entanglement(run, index, agents)
    assert isinstance(one, je.EntanglementEstimate)
    np.testing.assert_allclose(one.value, same.value, atol=EXACT)
    assert ((np.asarray(one.value) >= 0) & (np.asarray(one.value) <= 0.5)).all()
    flow = np.asarray(je.agent_flow(run, index, agents, num_types=num_agents))
    np.testing.assert_allclose(flow.sum((1, 2)), 12, atol=1e-9)


@holds(0.2, seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e6]), discount=st.floats(0, 0.99))
def test_values_of_numbers_that_agents_see(seed, scale, discount):
    """Of each agent's own observation or of everyone's: in any unit of these and of rewards."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(2, size=(900, 2))
    seen = rng.normal(size=(900, 2, 2)) + 0.5 * np.roll(actions, 1, 0)[..., None]
    paid = numbers(rng, 1.0, 900, 2)
    made = je.Trajectory.from_arrays(None, actions, paid, observations=seen)
    other = je.Trajectory.from_arrays(None, actions, scale * paid, observations=1e3 * seen - 7)
    key = jax.random.key(seed)
    own = je.learning.own_features(key, made)
    joint = je.learning.joint_features(key, made)
    assert own.shape[:2] == joint.shape[:2] == (900, 2)
    assert own.shape[2] <= 18
    for features in (own, joint):
        found = je.learning.linear_local_q(key, made, discount=discount, features=features)
        assert isinstance(found, je.learning.LinearQ)
        assert finite(found)
        told = (found.features * np.asarray(found.weights)[None]).sum(2)
        np.testing.assert_allclose(told, found.value, rtol=1e-9, atol=1e-9)
    one, two = (je.learning.linear_local_q(key, x, discount=discount) for x in (made, other))
    np.testing.assert_allclose(two.value / scale, one.value, rtol=1e-3, atol=1e-3)
    error = je.estimate_approximation_error(key, made, one, discount=discount)
    assert error.centered.lower <= error.centered.value <= error.centered.upper


@pytest.mark.slow
@holds(0.1, seed=seeds, shape=few((60, 3, 2, 2)), gaps=st.booleans())
def test_logs_and_audits_say_something_finite(seed, shape, gaps):
    rng = np.random.default_rng(seed)
    made = trajectory_of(rng, shape, gaps=gaps)
    found = je.entanglement_from_logs(jax.random.key(seed), made, min_visits=2, num_permutations=9)
    assert isinstance(found, je.LogsEstimate)
    value = np.asarray(found.value)
    known = np.asarray(found.enough).any(1)
    assert np.isfinite(value[known]).all()
    assert (np.asarray(found.lower)[known] <= value[known].clip(0) + 1e-9).all()
    p = np.asarray(found.p_value)[known]
    assert ((p > 0) & (p <= 1)).all()
    np.testing.assert_allclose(np.asarray(found.minimizer).sum(-1), 1, atol=1e-9)
    report = je.audit(made, discount=0.9, min_visits=2, num_permutations=9)
    assert isinstance(report, je.Audit)
    assert report.verdict in str(report).lower()


@pytest.mark.slow
@holds(0.1, seed=seeds, kind=kinds)
def test_networks_learn_finite_values(seed, kind):
    rng = np.random.default_rng(seed)
    flow = laws(rng, kind, 4, 4)
    reward = numbers(rng, 1, 4)
    found = je.network_local_q(
        jax.random.key(seed), flow, reward, discount=0.9, hidden=(4,), num_steps=20
    )
    assert finite(found)


@holds(0.5, num=st.integers(1, 60))
def test_named_models(num):
    """Every named model is one, at every number of agents that it takes."""
    for name in sorted(je.BANDITS):
        try:
            found = je.named_bandit(name, num)
        except ValueError as error:
            assert "num_agents" in str(error)  # noqa: PT017
            continue
        assert isinstance(found, je.NamedBandit)
        je.check_bandit(found.bandit)
        assert sorted(found.priority) == list(range(found.bandit.num_states))
    if num % 30 == 0:
        assert je.circulant_start(num).sum() == num == je.circulant_bandit(num).num_agents
        assert sorted(je.CIRCULANT_PRIORITY) == [0, 1, 2, 3]
    for P in (je.pr_box(), je.appendix_e(1 / (num + 4)), je.three_agents()):
        np.testing.assert_allclose(np.asarray(P).sum(1), 1, atol=1e-15)
    mdp, policy = je.example_1(2 + num % 2, 1)
    je.check_policy(mdp, policy)
