"""Properties of models, policies, chains, laws and values."""

from functools import cache, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxent as je
from jaxent.numerics.elimination import stationary_distribution

from .strategies import (
    discounts,
    dtypes,
    eps,
    few,
    finite,
    holds,
    kinds,
    laws,
    numbers,
    recurrent_classes,
    scales,
    seeds,
)

SIZES = ((2, 3), (1, 3), (2, 2, 2))
PAIRS = ((2, 2), (2, 3), (1, 2))
TINY = 1e-290


def chain_of(P, sizes):
    return je.PairChain.from_matrix(P, sizes=sizes)


@cache
def solved(sizes):
    @jax.jit
    def solve(P, rewards, discount):
        chain = chain_of(P, sizes)
        law = je.solve_law(chain)
        q = je.solve_q(chain, rewards, discount=discount)
        found = je.decompose(chain, rewards, discount=discount)
        after = je.bounds.a_posteriori(chain, rewards, discount=discount)
        agents = range(len(sizes))
        return {
            "law": law,
            "q": q,
            "found": found,
            "errors": (found.sup_error, found.mu_error, found.relative_error),
            "after": after,
            "bracket": je.approximation_error(chain, rewards, found.q_local, discount=discount),
            "local": [je.local_transition(chain, law.value, agent=i) for i in agents],
            "marginal": [je.marginal(chain, law.value, agent=i) for i in agents],
            "rows": [je.view_transition(chain, agent=i) for i in agents],
            "same": je.decomposition_error(chain, rewards, discount=discount),
            "V": je.state_values(chain, chain.lift(rewards), discount=discount),
            "Q": je.q_values(chain, rewards, discount=discount),
            "mu": je.stationary_distribution(chain),
            "Q_local": je.local_q_values(chain, rewards, discount=discount),
            "separable": (je.is_separable(chain), je.is_agentwise_separable(chain)),
            "map": je.entanglement_map(chain, jnp.full(len(P), 1 / len(P), P.dtype)),
        }

    return solve


@holds(2, seed=seeds, kind=kinds, sizes=few(*SIZES), dtype=dtypes, discount=discounts, scale=scales)
def test_laws_values_and_their_gap(seed, kind, sizes, dtype, discount, scale):
    """The law is one, values solve Bellman's equation, the gap is bounded by its residual."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J, dtype=dtype)
    rewards = [numbers(rng, scale, n, dtype=dtype) for n in sizes]
    out = jax.tree.map(np.asarray, solved(sizes)(P, rewards, dtype(discount)))
    assert all(x.dtype == dtype for x in jax.tree.leaves((out["found"].error, out["Q"], out["mu"])))
    law, found, noise = out["law"], out["found"], 200 * J * eps(dtype)
    size = sum(np.abs(r).max() for r in rewards) / (1 - dtype(discount))

    assert out["q"].converged
    Q = out["q"].value
    joint = reduce(np.add.outer, rewards).reshape(-1)
    np.testing.assert_allclose(joint + dtype(discount) * (P @ Q), Q, atol=noise * size)
    assert np.abs(Q).max() <= size * (1 + noise)
    np.testing.assert_array_equal(out["Q"], Q)
    np.testing.assert_array_equal(out["V"], Q)  # the pair is the state
    separable, agentwise = out["separable"]
    assert agentwise or not separable
    assert (np.diag(out["map"]) == 0).all()
    assert (out["map"] >= 0).all()
    assert (out["map"] <= 1 + noise).all()
    for rows in out["rows"]:
        np.testing.assert_allclose(rows.sum(1), 1, atol=noise)

    classes = recurrent_classes(P)
    if len(classes) > 1:
        assert not law.converged
        assert np.isnan(law.value).all()
        assert np.isnan(found.error).all()
        return
    if not law.converged:
        assert np.isnan(law.value).all()
        assert P[P > 0].min() < TINY  # elimination may overflow
        return
    mu = law.value
    assert finite([v for k, v in out.items() if k != "law"])
    assert (mu >= 0).all()
    assert (mu[~classes[0]] == 0).all()
    np.testing.assert_allclose(mu.sum(), 1, atol=noise)
    np.testing.assert_allclose(mu @ P, mu, atol=noise)
    for P_i, mu_i in zip(out["local"], out["marginal"]):
        np.testing.assert_allclose(P_i.sum(1), 1, atol=noise)
        np.testing.assert_allclose(mu_i @ P_i, mu_i, atol=noise)
        assert (P_i >= 0).all()
    sup, mean, relative = out["errors"]
    assert mean <= sup * (1 + noise)
    assert mean <= out["after"].mu_bound + noise * size
    assert sup <= out["after"].sup_bound + noise * size
    assert relative >= 0
    bracket = out["bracket"]
    assert 0 <= bracket.lower <= bracket.value <= bracket.upper
    assert bracket.lower - noise * size <= mean <= bracket.upper + noise * size
    assert bracket.sup_lower - noise * size <= sup <= bracket.sup_upper + noise * size
    np.testing.assert_array_equal(out["same"], mean)
    np.testing.assert_array_equal(np.hstack(out["Q_local"]), np.hstack(found.q_local))
    if separable:
        assert sup <= noise * size / (1 - discount)  # Theorem 1, up to a tolerance of 64 eps


@cache
def spread():
    """A chain as it is, and over one device, which takes it piece by piece."""

    @jax.jit
    def solve(kernels, policy, f, v):
        agents = tuple(je.MDP(P, jnp.zeros(P.shape[:2], P.dtype)) for P in kernels)
        chain = je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), policy)
        chains = chain, je.shard(chain, jax.devices()[:1])
        return [(c.mv(f), c.vm(f), c.states_mv(v), c.states_vm(v), c.stochastic()) for c in chains]

    return solve


@holds(2, seed=seeds, kind=kinds, dtype=dtypes, scale=scales)
def test_a_chain_that_is_spread_is_the_same_operator(seed, kind, dtype, scale):
    rng = np.random.default_rng(seed)
    kernels = [laws(rng, kind, s, a, s, dtype=dtype) for s, a in ((2, 2), (3, 1))]
    policy = laws(rng, kind, 6, 2, dtype=dtype).reshape(2, 3, 2, 1)
    f, v = numbers(rng, scale, 12, dtype=dtype), numbers(rng, scale, 6, dtype=dtype)
    whole, cut = jax.tree.map(np.asarray, spread()(kernels, policy, f, v))
    for x, y, given in zip(whole[:4], cut[:4], (f, f, v, v), strict=True):
        noise = 200 * eps(dtype) * np.abs(given).sum()
        np.testing.assert_allclose(y, x, atol=noise, rtol=0)
    assert whole[4] == cut[4]


@cache
def fitted(sizes):
    @jax.jit
    def fit(P, rewards, discount):
        chain = chain_of(P, sizes)
        joint = je.fit_additive(chain, rewards, discount=discount)
        nearest = je.fit_additive(chain, joint.q_joint, discount=0.0)
        split = chain.lift(je.split_reward(chain, joint.q_joint))
        return joint, nearest, je.average_reward(chain, rewards), split

    return fit


@pytest.mark.slow
@holds(
    0.2, seed=seeds, kind=kinds, sizes=few((2, 2), (2, 2, 2)), discount=st.sampled_from([0.0, 0.9])
)
def test_additive_fit_is_near_the_nearest_sum(seed, kind, sizes, discount):
    """In L2(mu) joint TD misses at most 1/sqrt(1 - discount^2) times what any sum must."""
    rng = np.random.default_rng(seed)
    J = int(np.prod(sizes))
    P = laws(rng, kind, J, J)
    if len(recurrent_classes(P)) > 1:
        return
    rewards = [numbers(rng, 1.0, n) for n in sizes]
    joint, nearest, mean, split = jax.tree.map(np.asarray, fitted(sizes)(P, rewards, discount))
    if not (joint.converged and nearest.converged):
        assert np.isnan(joint.error).all() or np.isnan(nearest.error).all()
        return
    reward = reduce(np.add.outer, rewards).reshape(-1)
    np.testing.assert_allclose(mean, joint.mu @ reward, atol=1e-12)
    missed, least = (np.sqrt(fit.mu @ fit.error**2) for fit in (joint, nearest))
    assert missed <= least / np.sqrt(1 - discount**2) + 1e-8
    np.testing.assert_array_equal(split, nearest.q_total)
    size = np.abs(joint.q_joint).max() + 1e-300
    np.testing.assert_allclose(joint.mu @ split, joint.mu @ joint.q_joint, atol=1e-9 * size)


@cache
def models(states):
    """The same agents and policy in every kind of model: one chain."""

    @jax.jit
    def chains(kernels, rewards, policy, v):
        n = len(states)
        agents = tuple(je.MDP(P, r) for P, r in zip(kernels, rewards))
        wide = [k.reshape(k.shape[0], k.shape[1], 1, k.shape[2]) for k in kernels]
        joint = reduce(lambda f, g: jnp.tensordot(f, g, axes=0), kernels)
        joint = joint.transpose([3 * i + k for k in range(3) for i in range(n)])
        total = reduce(
            lambda f, g: (
                jnp.tensordot(f, jnp.ones_like(g), axes=0)
                + jnp.tensordot(jnp.ones_like(f), g, axes=0)
            ),
            rewards,
        )
        total = total.transpose([2 * i + k for k in range(2) for i in range(n)])
        one = jnp.ones((1, 1), policy.dtype)
        with_signal = policy.reshape(*policy.shape[:n], 1, *policy.shape[n:])
        own = tuple((i,) for i in range(n))
        made = [
            je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), policy),
            je.pair_chain(je.JointMDP(joint, tuple(rewards), 0.9), policy),
            je.pair_chain(je.CooperativeGame(joint, total, 0.9), policy),
            je.pair_chain(
                je.ExogenousMDP(tuple(wide), tuple(r[..., None] for r in rewards), one, 0.9),
                with_signal,
            ),
            je.pair_chain(je.FactoredMDP(tuple(kernels), own, tuple(rewards), 0.9), policy),
        ]
        return [(c.matrix(), c.mv(v), c.vm(v), c.lift(rewards), c.stochastic()) for c in made]

    return chains


@holds(seed=seeds, kind=kinds, states=few((2, 2), (1, 3)), dtype=dtypes)
def test_every_model_of_the_same_agents_is_one_chain(seed, kind, states, dtype):
    rng = np.random.default_rng(seed)
    kernels = [laws(rng, kind, s, 2, s, dtype=dtype) for s in states]
    rewards = [numbers(rng, 1, s, 2, dtype=dtype) for s in states]
    table = laws(rng, kind, int(np.prod(states)), 4, dtype=dtype).reshape(*states, 2, 2)
    J = 4 * int(np.prod(states))
    v = rng.random(J).astype(dtype)
    je.check_mdp(je.WeaklyCoupledMDP(tuple(map(je.MDP, kernels, rewards)), 0.9))
    je.check_policy(je.MDP(kernels[0], rewards[0]), laws(rng, kind, states[0], 2))
    made = [list(map(np.asarray, c)) for c in models(states)(kernels, rewards, table, v)]
    # By hand: P((s, a), (t, b)) = Π P_i(t_i | s_i, a_i) π(b | t).
    K = np.einsum("sat,cdu->sacdtu", *kernels)
    P = np.einsum("sacdtu,tubf->sacdtbuf", K, table).reshape(J, J)
    noise = 30 * J * eps(dtype)
    for matrix, mv, vm, lifted, good in made:
        assert matrix.dtype == dtype
        assert good
        np.testing.assert_allclose(matrix, P, atol=noise)
        np.testing.assert_allclose(mv, P @ v, atol=noise)
        np.testing.assert_allclose(vm, v @ P, atol=noise * J)
        np.testing.assert_allclose(
            lifted, np.add.outer(*(r.reshape(-1) for r in rewards)).reshape(-1), atol=noise
        )


SHARES = ((2, 2), (3, 2), (2, 3), (1, 3))


@pytest.mark.slow
@holds(
    seed=seeds,
    shape=few(*SHARES),
    share=st.floats(0, 1),
    cold=st.sampled_from([1e-300, 1e-3, 0.3, 50.0]),
)
def test_policies_of_a_budget_spend_it(seed, shape, share, cold):
    """Index, soft and shared policies are laws on the actions that activate exactly M agents."""
    rng = np.random.default_rng(seed)
    num_states, num_agents = shape
    budget = round(share * num_agents)
    priority = rng.permutation(num_states)
    index = np.empty(num_states)
    index[priority] = -np.arange(num_states) + rng.random() / 4
    costs = (np.array([[0.0, 1.0]] * num_states),) * num_agents
    idle = je.MDP(laws(rng, "dense", num_states, 2, num_states), np.zeros((num_states, 2)))
    coupled = je.WeaklyCoupledMDP((idle,) * num_agents, 0.9, (je.Coupling(costs, budget),))
    options = {"num_agents": num_agents, "budget": budget}
    hard = je.index_policy(priority, **options)
    soft = je.soft_index_policy(index, cold, **options)
    shared = je.shared_randomness((num_states,) * num_agents, budget)
    actions = np.indices((2,) * num_agents).sum(0)
    for table in (hard, soft, shared):
        je.check_policy(coupled, table)
        table = np.asarray(table).reshape(-1, 2**num_agents)
        np.testing.assert_allclose(table.sum(1), 1, atol=1e-13)
        assert (table >= 0).all()
        assert (table[:, actions.ravel() != budget] == 0).all()
    if cold < 1e-2:
        np.testing.assert_allclose(soft, hard, atol=1e-12)
    feasible = np.asarray(je.feasible_actions(coupled))
    np.testing.assert_array_equal(feasible, np.broadcast_to(actions <= budget, feasible.shape))


@holds(0.5, seed=seeds, kind=kinds, scale=scales)
def test_policies_of_parameters_are_laws(seed, kind, scale):
    rng = np.random.default_rng(seed)
    tables = [laws(rng, kind, 2, 2), laws(rng, kind, 3, 2)]
    joint = np.asarray(je.product_policy(tables))
    np.testing.assert_allclose(joint, np.einsum("sa,tb->stab", *tables), atol=1e-15)
    soft = np.asarray(je.softmax_policy(numbers(rng, scale, 2, 3, 2, 2)))
    np.testing.assert_allclose(soft.sum((2, 3)), 1, atol=1e-13)
    assert (soft >= 0).all()


@pytest.mark.slow
@holds(0.1, seed=seeds)
def test_families_make_policies(seed):
    rng = np.random.default_rng(seed)
    key = jax.random.key(seed)
    agents = tuple(je.MDP(laws(rng, "dense", s, 2, s), numbers(rng, 1, s, 2)) for s in (2, 3))
    mdp = je.WeaklyCoupledMDP(agents, 0.9)
    for family in (je.joint_softmax(mdp), je.product_softmax(mdp)):
        assert isinstance(family, je.PolicyFamily)
        je.check_policy(mdp, family.apply(family.init(key)))
    features = numbers(rng, 1, 3, 2)
    for family in (je.soft_index(3, 0.1), je.neural_index(features, 0.1, hidden=(4,))):
        policy = family.apply(family.init(key))
        chances = np.asarray(policy.chances(np.array([2, 0, 1]), 2))
        np.testing.assert_allclose(chances @ np.array([2, 0, 1]), 2, atol=1e-12)


@cache
def eliminated(size):
    return jax.jit(
        lambda P, r, discount: (stationary_distribution(P), je.discounted_solve(P, r, discount))
    )


@holds(2, seed=seeds, kind=kinds, size=few(5, 1, 9), dtype=dtypes, discount=discounts)
def test_elimination(seed, kind, size, dtype, discount):
    """Laws and values of one sign are entrywise close to a solve with 40 digits."""
    rng = np.random.default_rng(seed)
    P = laws(rng, kind, size, size, dtype=dtype)
    r = rng.random(size).astype(dtype)
    law, x = map(np.asarray, eliminated(size)(P, r, dtype(discount)))
    assert law.dtype == x.dtype == dtype
    assert (x >= 0).all()
    left = r + dtype(discount) * (P @ x) - x
    assert np.abs(left).max() <= 50 * size * eps(dtype) * max(x.max(), 1e-300)
    if len(recurrent_classes(P)) > 1:
        assert np.isnan(law).all()
    elif not np.isnan(law).any():
        np.testing.assert_allclose(law @ P, law, atol=50 * size * eps(dtype))
    else:
        assert P[P > 0].min() < TINY


@pytest.mark.slow
@holds(0.3, seed=seeds, kind=kinds, hidden=st.booleans())
def test_a_neighborhood_has_the_rows_of_the_whole(seed, kind, hidden):
    """Agent 0 of a line of three reads its neighbor: the cut-out chain has its rows."""
    rng = np.random.default_rng(seed)
    neighbors = ((0, 1), (0, 1, 2), (1, 2))
    shapes = [(2,) * (2 * len(z)) + (2,) for z in neighbors]
    kernels = tuple(laws(rng, kind, *shape) for shape in shapes)
    scopes = ((0,), (1,), (2,)) if hidden else ((0, 1), (1,), (2,))
    tables = tuple(laws(rng, kind, *(2,) * len(w), 2) for w in scopes)
    rewards = tuple(numbers(rng, 1, 2, 2) for _ in range(3))
    mdp = je.FactoredMDP(kernels, neighbors, rewards, 0.9)
    policy = je.LocalPolicies(tables, scopes)
    small = je.neighborhood(mdp, policy, agent=0)
    whole = je.pair_chain(mdp, policy)
    own = np.asarray(je.view_transition(small, agent=0)).reshape(*small.sizes, 4)
    rows = np.asarray(je.view_transition(whole, agent=0)).reshape(*whole.sizes, 4)
    inside = len(small.sizes)
    own = own.reshape(*own.shape[:inside], *(1,) * (3 - inside), 4)
    np.testing.assert_allclose(np.broadcast_to(own, rows.shape), rows, atol=1e-13)
