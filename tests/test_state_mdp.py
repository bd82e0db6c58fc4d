"""Agents that observe one joint state: a product of states as before, and hidden state."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains.views import product_form

from . import oracles, oracles_measures
from .tolerances import EXACT, FD, STEP, by_precision

NEAR = by_precision(1e-10, 1e-5)  # against dense NumPy and HiGHS


def product_model(states, actions, seed=0):
    """A joint kernel on a product of states, and the same as outcomes."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(states))
    kernel = rng.dirichlet(np.full(size, 0.3), (*states, *actions))
    rewards = tuple(jnp.array(rng.normal(size=shape)) for shape in zip(states, actions))
    policy = oracles.random_policy(rng, states, actions)
    joint = je.JointMDP(jnp.array(kernel.reshape(*states, *actions, *states)), rewards, 0.9)
    outcomes = np.broadcast_to(np.arange(size), (size, *actions, size))
    chances = kernel.reshape(size, *actions, size)
    seen = np.unravel_index(np.arange(size), states)
    model = je.StateMDP((jnp.array(outcomes), jnp.array(chances)), seen, rewards, 0.9)
    return joint, jnp.array(policy), model, jnp.array(policy.reshape(size, *actions))


def hidden_model(seed=0):
    """Two agents that see a position each of a state with a bit that nobody sees: S = 12."""
    rng = np.random.default_rng(seed)
    _, left, right = np.unravel_index(np.arange(12), (2, 2, 3))
    outcomes = rng.integers(0, 12, (12, 2, 2, 4))
    chances = rng.dirichlet(np.ones(4), (12, 2, 2))
    rewards = (jnp.array(rng.normal(size=(2, 2))), jnp.array(rng.normal(size=(3, 2))))
    policy = rng.dirichlet(np.ones(4), 12).reshape(12, 2, 2)
    mdp = je.StateMDP((jnp.array(outcomes), jnp.array(chances)), (left, right), rewards, 0.8)
    return mdp, jnp.array(policy)


def dense(mdp, policy):
    """The matrix on joint pairs, by loops, and each agent's code of every pair."""
    outcomes, chances, policy = map(np.asarray, (*mdp.transition, policy))
    states, actions = mdp.num_states, mdp.num_actions
    pairs = [(s, *a) for s in range(states) for a in np.ndindex(*actions)]
    P = np.zeros((len(pairs), len(pairs)))
    for j, (s, *a) in enumerate(pairs):
        for target, chance in zip(outcomes[(s, *a)], chances[(s, *a)]):
            for k, (t, *b) in enumerate(pairs):
                P[j, k] += chance * policy[(t, *b)] * (t == target)
    codes = [
        np.array([mdp.observations[i][s] * actions[i] + a[i] for s, *a in pairs])
        for i in range(len(actions))
    ]
    return P, codes


def figures(chain, rewards, blocks):
    """All but the measures, in one compilation."""

    @jax.jit
    def of(kernel, policy, rewards):
        # The layout is known: views that are maps may not be traced.
        return traced_figures(replace(chain, kernel=kernel, policy=policy), rewards, blocks)

    return of(chain.kernel, chain.policy, rewards)


def traced_figures(chain, rewards, blocks):
    """What is one number or local, and what has an entry for each joint pair."""
    mu = je.stationary_distribution(chain)
    after = je.bounds.a_posteriori(chain, rewards, discount=0.9, mu=mu)
    merged, parts = je.merge_agents(chain, blocks), je.merge_rewards(chain, rewards, blocks)
    alone = {
        "map": je.entanglement_map(chain, mu),
        "violation": je.separability_witness(chain).violation,
        "mu_bound": after.mu_bound,
        "sup_bound": after.sup_bound,
        "merged": je.decomposition_error(merged, parts, discount=0.9, mu=mu),
        "local": [je.local_transition(chain, mu, agent=i) for i in range(len(rewards))],
    }
    found = je.decompose(chain, rewards, discount=0.9, mu=mu)
    pairs = {
        "mu": mu,
        "q_joint": found.q_joint,
        "error": found.error,
        "q_total": je.fit_additive(chain, rewards, discount=0.9, mu=mu).q_total,
        "rows": [je.view_transition(chain, agent=i) for i in range(len(rewards))],
    }
    return alone | {"q_local": found.q_local}, pairs


@pytest.mark.parametrize(("states", "actions"), [((2, 3), (2, 2)), ((2, 2, 2), (2, 1, 2))])
def test_a_product_state_space_is_the_joint_model(states, actions):
    joint, policy, model, table = product_model(states, actions)
    chain, other = je.pair_chain(joint, policy), je.pair_chain(model, table)
    form = product_form(other)
    assert form.sizes == chain.sizes

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)

    same(form.matrix(other), chain.matrix())
    blocks = ((1, 0), *((i,) for i in range(2, len(states))))
    alone, pairs = figures(chain, joint.rewards, blocks)
    alone_other, pairs_other = figures(other, model.rewards, blocks)
    jax.tree.map(same, alone_other, alone)
    jax.tree.map(same, jax.tree.map(form.pairs, pairs_other), pairs)
    mu, mu_other = pairs["mu"], pairs_other["mu"]
    both = (chain, mu), (other, mu_other)
    for i in range(len(states)):
        for measure in (je.entanglement_mu_atv, je.entanglement_mu_atv_upper):
            same(measure(other, mu_other, agent=i).value, measure(chain, mu, agent=i).value)
        atv, atv_other = (je.entanglement_atv(c, agent=i, mu=m).value for c, m in both)
        same(atv_other, atv)
    if len(states) == 2:
        same(*(je.entanglement_tv(c, mu=m).value for c, m in both))
        same(je.entanglement_mu_tv(other, mu_other).value, je.entanglement_mu_tv(chain, mu).value)


def test_a_hidden_bit_against_dense_numpy():
    mdp, policy = hidden_model()
    assert len(set(zip(*mdp.observations))) < mdp.num_states  # something is hidden
    chain = je.pair_chain(mdp, policy)
    P, codes = dense(mdp, policy)
    np.testing.assert_allclose(chain.matrix(), P, atol=EXACT)
    mu = oracles.stationary(P)
    np.testing.assert_allclose(je.stationary_distribution(chain), mu, atol=NEAR)
    lifts = [np.eye(code.max() + 1)[code] for code in codes]  # [J, X_i]
    reward = sum(L @ np.ravel(r) for L, r in zip(lifts, mdp.rewards))
    Q = np.linalg.solve(np.eye(len(P)) - 0.8 * P, reward)
    found = je.decompose(chain, mdp.rewards, discount=0.8)
    np.testing.assert_allclose(found.q_joint, Q, atol=NEAR)
    total, ahead, bound, mean_bound = 0, 0, 0, 0
    for i, (L, r) in enumerate(zip(lifts, mdp.rewards)):
        share = mu @ L
        local = (L.T * mu) @ P @ L / share[:, None]  # Eq. (2)
        np.testing.assert_allclose(
            je.local_transition(chain, jnp.array(mu), agent=i), local, atol=NEAR
        )
        q = np.linalg.solve(np.eye(len(local)) - 0.8 * local, np.ravel(r))
        np.testing.assert_allclose(found.q_local[i], q, atol=NEAR)
        total, ahead = total + L @ q, ahead + L @ local @ q
        rows = P @ L  # [J, X_i]
        points = np.stack([rows[codes[i] == x] for x in range(L.shape[1])])
        weights = np.stack([mu[codes[i] == x] for x in range(L.shape[1])])
        programs = (
            oracles_measures.agentwise(points),
            oracles_measures.mu_agentwise(points, weights),
        )
        exact = [oracles_measures.solve(program) for program in programs]
        ours = je.entanglement_atv(chain, agent=i)
        mu_atv = je.entanglement_mu_atv(chain, jnp.array(mu), agent=i)
        np.testing.assert_allclose(ours.value, exact[0], atol=NEAR)
        np.testing.assert_allclose(mu_atv.value, exact[1], atol=NEAR)
        largest = np.abs(r).max()
        bound, mean_bound = bound + exact[0] * largest, mean_bound + exact[1] * largest
    np.testing.assert_allclose(found.error, Q - total, atol=NEAR)
    np.testing.assert_allclose(found.mu_error, mu @ abs(Q - total), atol=NEAR)
    rate = 4 * 0.8 / 0.2**2
    for function, exact in ((je.bounds.theorem_4, bound), (je.bounds.theorem_5, mean_bound)):
        np.testing.assert_allclose(
            function(chain, mdp.rewards, discount=0.8), rate * exact, rtol=NEAR
        )
    after = je.bounds.a_posteriori(chain, mdp.rewards, discount=0.8)
    np.testing.assert_allclose(after.residual, P @ total - ahead, atol=NEAR)
    assert found.mu_error <= after.mu_bound
    assert found.sup_error <= after.sup_bound
    # What is hidden shows in no view: agents alone tell the state no better than together.
    report = je.bounds.report(chain, mdp.rewards, discount=0.8)
    assert "Theorem 3 (TV)" not in report.sup_bounds
    with pytest.raises(ValueError, match="wanted two agents whose pairs make up the joint pair"):
        je.entanglement_tv(chain)
    with pytest.raises(ValueError, match="do not make up the joint pair"):
        je.entanglement_map(chain, jnp.array(mu))


def test_values_of_a_shared_reward_and_monotone_fit():
    mdp, policy = hidden_model(1)
    chain = je.pair_chain(mdp, policy)
    P, _ = dense(mdp, policy)
    shared = np.random.default_rng(2).normal(size=mdp.policy_shape)
    exact = np.linalg.solve(np.eye(len(P)) - 0.8 * P, shared.ravel())
    np.testing.assert_allclose(je.q_values(chain, shared, discount=0.8), exact, atol=NEAR)
    asked = je.StateMDP(mdp.transition, mdp.observations, shared, 0.8)
    assert asked.num_observations == mdp.num_observations
    je.pair_chain(asked, policy)
    mu = je.stationary_distribution(chain)
    split = je.reward_entanglement(chain, shared, mu, tol=by_precision(1e-9, 1e-4))
    assert split.converged
    np.testing.assert_allclose(
        mu @ abs(shared.ravel() - chain.lift(split.minimizer)), split.value, atol=NEAR
    )
    fit = je.fit_monotone(jax.random.key(0), chain, shared, discount=0.8, num_targets=3)
    assert np.isfinite(fit.mu_error)


def test_large_models_form_no_matrix():
    """10,000 states, 4 joint actions, 3 outcomes: the law and values by applying the kernel."""
    rng = np.random.default_rng(0)
    size = 10_000
    outcomes = rng.integers(0, size, (size, 2, 2, 3))
    chances = rng.dirichlet(np.ones(3), (size, 2, 2))
    seen = (rng.integers(0, 5, size), rng.integers(0, 7, size))
    rewards = (jnp.array(rng.normal(size=(5, 2))), jnp.array(rng.normal(size=(7, 2))))
    mdp = je.StateMDP((outcomes, chances), seen, rewards, 0.9)
    policy = mdp.join([jnp.full((5, 2), 0.5), jnp.full((7, 2), 0.5)])
    chain = je.pair_chain(mdp, policy)
    assert not chain.is_small
    found = je.decompose(chain, mdp.rewards, discount=0.9)
    Q = found.q_joint
    bellman = chain.lift(mdp.rewards) + 0.9 * chain.mv(Q) - Q
    assert jnp.abs(bellman).max() < EXACT * jnp.abs(Q).max()
    np.testing.assert_allclose(chain.vm(found.mu), found.mu, atol=EXACT)


def test_gradient_in_decentralized_logits():
    mdp, _ = hidden_model(3)
    family = je.product_softmax(mdp)
    logits = family.init(jax.random.key(1))
    assert [x.shape for x in logits] == [(2, 2), (3, 2)]

    def error(logits):
        chain = je.pair_chain(mdp, family.apply(logits))
        return je.decomposition_error(chain, mdp.rewards, discount=0.8)

    error = jax.jit(jax.value_and_grad(error))
    _, slope = error(logits)
    move = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), logits
    )
    step = STEP
    ahead, back = (jax.tree.map(lambda x, d, h=h: x + h * d, logits, move) for h in (step, -step))
    inner = sum(jnp.vdot(a, b) for a, b in zip(slope, move))
    assert abs(inner - (error(ahead)[0] - error(back)[0]) / (2 * step)) < FD
    joint = je.joint_softmax(mdp)
    assert joint.apply(joint.init(jax.random.key(0))).shape == mdp.policy_shape


def test_compiled_batched_and_in_single_precision():
    mdp, policy = hidden_model()

    def error(mdp, policy):
        return je.decomposition_error(je.pair_chain(mdp, policy), mdp.rewards, discount=0.8)

    plain = error(mdp, policy)
    np.testing.assert_allclose(jax.jit(error)(mdp, policy), plain, atol=EXACT)
    many = jax.vmap(error, in_axes=(None, 0))(mdp, jnp.stack([policy, policy]))
    np.testing.assert_allclose(many, [plain, plain], atol=EXACT)
    single = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32) if jnp.issubdtype(jnp.result_type(x), float) else x,
        (mdp, policy),
    )
    np.testing.assert_allclose(error(*single), plain, rtol=1e-4)


def outcomes_of(change):
    mdp, policy = hidden_model()
    states, chances = (np.array(x) for x in mdp.transition)
    seen, rewards = [list(o) for o in mdp.observations], list(mdp.rewards)
    parts = {"states": states, "chances": chances, "seen": seen, "rewards": rewards}
    change(parts)
    seen = tuple(np.array(o) for o in parts["seen"])
    transition = (parts["states"], parts["chances"])
    return je.StateMDP(transition, seen, tuple(parts["rewards"]), 0.8), policy


def set_entry(name, place, value):
    def change(parts):
        target = parts[name]
        for k in place[:-1]:
            target = target[k]
        target[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry("seen", (1, 4), 3), r"observations\[1\]\[4\] is 3, outside 0..2"),
        (set_entry("seen", (0, 2), -1), r"observations\[0\]\[2\] is -1, outside 0..1"),
        (set_entry("seen", (0,), [0.5] * 12), r"observations\[0\]: wanted integers, got float64"),
        (set_entry("seen", (0,), [0] * 5), r"observations\[0\]: wanted shape \[12\], got \[5\]"),
        (
            set_entry("states", (3, 1, 0, 2), 12),
            r"transition\[0\]\[3, 1, 0, 2\] is 12, outside 0..11",
        ),
        (set_entry("chances", (3, 1, 0, 2), 2.0), r"transition\[1\]: row \[3, 1, 0\] sums to"),
        (set_entry("rewards", (0,), jnp.zeros((2, 3))), r"transition\[0\]: wanted \[12, 3, 2\]"),
        (lambda parts: parts["rewards"].pop(), r"rewards: wanted one for each of 2 observations"),
    ],
)
def test_bad_input(change, message):
    mdp, policy = outcomes_of(change)
    with pytest.raises(ValueError, match=message):
        je.pair_chain(mdp, policy)
    with pytest.raises(ValueError, match=message):
        je.check_mdp(mdp)


def test_bad_policies_and_traced_observations():
    mdp, policy = hidden_model()
    with pytest.raises(ValueError, match=r"policy: wanted shape \[12, 2, 2\], got \[12, 4\]"):
        je.pair_chain(mdp, policy.reshape(12, 4))
    with pytest.raises(ValueError, match="StateMDP has no kernel for each agent"):
        je.policy_entanglement(mdp, policy, jnp.full(48, 1 / 48), agent=0)
    with pytest.raises(ValueError, match="observations: fix shapes"):
        jax.jit(lambda o: je.StateMDP(mdp.transition, (o,), mdp.rewards, 0.8).num_states)(
            jnp.zeros(12, int)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 1, 1)), ([0, 1],)), "transition: wanted a pair"),
        (((np.zeros((2, 1, 1), int), np.ones((2, 1, 1))), [0, 1]), "observations: wanted a tuple"),
        (((np.zeros((2, 1, 1), int), np.ones((2, 1, 1))), None), "observations: wanted a tuple"),
    ],
)
def test_parts_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        je.StateMDP(*arguments, (np.zeros((2, 1)),), 0.5)


def test_views_too_uneven_for_a_table(monkeypatch):
    """Where one local pair holds most joint pairs values go on; what sorts by pairs says so."""
    mdp, policy = hidden_model()
    chain = je.pair_chain(mdp, policy)
    wanted = je.decomposition_error(chain, mdp.rewards, discount=0.8)
    monkeypatch.setattr("jaxent.models.layouts._MOST_MEMBERS", 10)
    chain = je.pair_chain(mdp, policy)
    assert chain.view_sizes == (4, 6)
    found = je.decomposition_error(chain, mdp.rewards, discount=0.8)
    np.testing.assert_allclose(found, wanted, atol=EXACT)
    with pytest.raises(ValueError, match="agent: some of its 4 local pairs hold so many of the 48"):
        je.entanglement_atv(chain, agent=0)


def test_games_that_start_anew():
    """An outcome S is an end, followed by the law of the start, as if that were listed."""
    mdp, policy = hidden_model()
    states, chances = (np.array(x) for x in mdp.transition)
    start = np.random.default_rng(5).dirichlet(np.ones(12))
    states[2:5, :, 0, 1] = 12
    ends = states == 12
    listed = np.concatenate(
        [np.where(ends, 0, states), np.broadcast_to(np.arange(12), (12, 2, 2, 12))], -1
    )
    weight = (chances * ends).sum(-1, keepdims=True)
    law = np.concatenate([np.where(ends, 0, chances), weight * start], -1)
    plain = je.StateMDP((listed, law), mdp.observations, mdp.rewards, 0.8)
    anew = je.StateMDP((states, chances), mdp.observations, mdp.rewards, 0.8, start)
    P, Q = (je.pair_chain(m, policy) for m in (anew, plain))
    np.testing.assert_allclose(P.matrix(), Q.matrix(), atol=EXACT)
    v = jnp.cos(jnp.arange(48.0))
    np.testing.assert_allclose(P.mv(v), Q.mv(v), atol=EXACT)
    np.testing.assert_allclose(P.vm(v), Q.vm(v), atol=EXACT)
    with pytest.raises(ValueError, match=r"transition\[0\]\[2, 0, 0, 1\] is 12, outside 0..11"):
        je.check_mdp(je.StateMDP((states, chances), mdp.observations, mdp.rewards, 0.8))
    with pytest.raises(ValueError, match="start: it sums to"):
        je.check_mdp(replace(anew, start=2 * start))
    with pytest.raises(ValueError, match=r"start: wanted shape \[12\], got \[3\]"):
        je.check_mdp(replace(anew, start=np.ones(3) / 3))
