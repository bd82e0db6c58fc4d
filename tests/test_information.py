"""Transfer entropy: its definition, what it bounds, what bounds it, and what it does not say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.numerics.simplex import relative_entropy
from tests import oracles
from tests import oracles_information as information
from tests.tolerances import EXACT, F32, FD, STEP, by_precision

LOG2 = np.log(2)


def made(P, sizes):
    chain = je.PairChain.from_matrix(P, sizes=sizes)
    return chain, np.asarray(je.stationary_distribution(chain))


def pairs_of(sizes):
    return np.unravel_index(np.arange(int(np.prod(sizes))), sizes)


def copying(chance, num_pairs=2, law=None):
    """Agent 0 draws by a law; agent 1 copies it with this chance, else goes to 0."""
    law = np.full(num_pairs, 1 / num_pairs) if law is None else law
    follow = chance * np.eye(num_pairs) + (1 - chance) * np.eye(num_pairs)[0]  # [X_0, X_1']
    P = np.einsum("k,al->akl", law, follow)[:, None] + np.zeros((1, num_pairs, 1, 1))
    return P.reshape(num_pairs**2, num_pairs**2)


def test_relative_entropy_is_relatively_accurate():
    """From laws that differ in the last digits to laws that share little."""
    rng = np.random.default_rng(0)
    for size in 10.0 ** np.arange(-12, 3):
        q = rng.dirichlet(np.ones(5))
        p = np.maximum(q * (1 + size * rng.normal(size=5)), 0)
        p, q = (np.asarray(jnp.asarray(x), float) for x in (p, q))  # as they are held
        u = (p.astype(np.longdouble) - q) / q
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(p > 0, q * (1 + u) * np.log1p(u), 0) - q * u
        k = np.arange(2, 40)[:, None]
        series = (q * (-u) ** k / (k * (k - 1))).sum(0)
        wanted = np.where(np.abs(u) < 0.1, series, terms).sum()
        np.testing.assert_allclose(
            relative_entropy(p, q), float(wanted), rtol=by_precision(1e-13, 1e-5)
        )
    assert relative_entropy(q, q) == 0
    only = jnp.array([1.0, 0.0])
    np.testing.assert_allclose(relative_entropy(only, jnp.array([0.25, 0.75])), np.log(4))
    low, high = by_precision((700, 710), (86, 89))
    assert low < relative_entropy(only, only[::-1]) < high  # where the smallest number stands in


@pytest.mark.parametrize("sizes", [(2, 3), (2, 3, 2)])
def test_against_the_definition(sizes):
    """For each agent, with everything known, with one other, and for blocks."""
    rng = np.random.default_rng(1)
    J = int(np.prod(sizes))
    P = rng.dirichlet(np.full(J, 0.5), J)
    P[:, 0] = 0  # some places are never visited
    P /= P.sum(1, keepdims=True)
    chain, mu = made(P, sizes)
    own, everything = pairs_of(sizes), np.arange(J)
    for i in range(len(sizes)):
        found = je.transfer_entropy(chain, mu, agent=i)
        wanted = information.transfer_entropy(P, mu, own[i], everything)
        np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
        rows, mean = information.rows_and_mean(P, mu, own[i])
        apart = np.abs(rows - mean).sum(1) / 2
        np.testing.assert_allclose(found.distance, mu @ apart, rtol=1e-12)
        there = mu > 0
        each = (rows * np.log(np.where(rows > 0, rows, 1) / np.where(mean > 0, mean, 1))).sum(1)
        np.testing.assert_allclose(found.largest, each[there].max(), rtol=1e-12)
        for k in range(len(sizes)):
            told = je.transfer_entropy(chain, mu, agent=i, source=k)
            wanted = information.transfer_entropy(P, mu, own[i], own[i] * 10 + own[k])
            np.testing.assert_allclose(told.value, wanted, atol=EXACT)
            assert (k == i) == (abs(told.value) < EXACT)
    block = je.transfer_entropy(chain, mu, agent=(0, 1), source=(1, len(sizes) - 1))
    both = own[0] * 10 + own[1]
    wanted = information.transfer_entropy(P, mu, both, everything) if len(sizes) == 3 else 0
    np.testing.assert_allclose(block.value, wanted, atol=EXACT)


def test_views_that_hide_something():
    """What nobody sees counts among what is known: the parity of three bits that move together."""
    rng = np.random.default_rng(2)
    P = rng.dirichlet(np.ones(8), 8)
    chain, mu = made(P, (2, 2, 2))
    parity = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    seen = je.with_views(chain, [parity, 0])
    for agent, code in enumerate((parity, pairs_of((2, 2, 2))[0])):
        found = je.transfer_entropy(seen, mu, agent=agent)
        wanted = information.transfer_entropy(P, mu, code, np.arange(8))
        np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
        other = je.transfer_entropy(seen, mu, agent=agent, source=1 - agent)
        both = parity * 2 + pairs_of((2, 2, 2))[0]
        wanted = information.transfer_entropy(P, mu, code, both)
        np.testing.assert_allclose(other.value, wanted, rtol=1e-12)
        assert other.value < found.value


def weakly_coupled(seed, states=(2, 3), actions=(2, 2)):
    rng = np.random.default_rng(seed)
    agents = tuple(
        je.MDP(rng.dirichlet(np.ones(s), (s, a)), rng.normal(size=(s, a)))
        for s, a in zip(states, actions)
    )
    return je.WeaklyCoupledMDP(agents, 0.9), oracles.random_policy(rng, states, actions)


def test_a_structured_chain_and_its_policy():
    """Agents coupled by a policy: both numbers by their definitions, one at most the other."""
    mdp, policy = weakly_coupled(3)
    chain = je.pair_chain(mdp, policy)
    mu = np.asarray(je.stationary_distribution(chain))
    P = oracles.weakly_coupled_matrix([np.asarray(m.transition) for m in mdp.agents], policy)
    np.testing.assert_allclose(P, chain.matrix(), atol=EXACT)
    sizes = chain.view_sizes
    joint = mu.reshape(2, 2, 3, 2)
    for i in range(2):
        found = je.transfer_entropy(chain, mu, agent=i)
        wanted = information.transfer_entropy(P, mu, pairs_of(sizes)[i], np.arange(len(P)))
        np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
        by_policy = je.policy_information(mdp, policy, mu, agent=i)
        table = joint.sum(3 if i == 0 else 1)  # [s_0, a_0, s_1] or [s_0, s_1, a_1]
        table = table.transpose(1, 2, 0) if i == 0 else table.transpose(2, 0, 1)
        wanted = information.conditional_information(table)
        np.testing.assert_allclose(by_policy.value, wanted, rtol=1e-12)
        assert found.value <= by_policy.value
        measured = je.policy_entanglement(mdp, policy, mu, agent=i)
        assert measured.upper <= by_policy.mean_bound


def test_agents_that_share_a_signal():
    """Their policy's information given (s_i, z), by its definition; and it is the larger again."""
    rng = np.random.default_rng(8)
    kernels = tuple(rng.dirichlet(np.ones(2), (2, 2, 2)) for _ in range(2))  # [S, A, Z, S]
    rewards = tuple(rng.normal(size=(2, 2, 2)) for _ in range(2))
    policy = rng.dirichlet(np.full(4, 0.3), 8).reshape(2, 2, 2, 2, 2)  # [S, S, Z, A, A]
    mdp = je.ExogenousMDP(kernels, rewards, rng.dirichlet(np.ones(2), 2), 0.9)
    chain = je.pair_chain(mdp, policy)
    mu = np.asarray(je.stationary_distribution(chain))
    joint = mu.reshape(2, 2, 2, 2, 2)  # s_0, a_0, s_1, a_1, z
    for agent in range(2):
        by_policy = je.policy_information(mdp, policy, mu, agent=agent)
        table = joint.sum(3 - 2 * agent)  # without the other's action
        order = (1, 2, 0, 3) if agent == 0 else (2, 0, 1, 3)
        wanted = information.conditional_information(table.transpose(order).reshape(2, 2, 4))
        np.testing.assert_allclose(by_policy.value, wanted, rtol=1e-12)
        told = je.transfer_entropy(chain, mu, agent=agent)
        assert 1e-3 < told.value < by_policy.value


def test_a_noisy_copy_by_hand():
    """I = h(c / 2) - h(c) / 2 where agent 1 copies a coin with chance c and else goes to 0."""
    for chance in (0.1, 0.5, 1.0):
        chain, mu = made(copying(chance), (2, 2))
        found = je.transfer_entropy(chain, mu, agent=1)
        wanted = information.coin(chance / 2) - information.coin(chance) / 2
        np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
        np.testing.assert_allclose(found.distance, chance / 2, rtol=1e-12)
        assert abs(je.transfer_entropy(chain, mu, agent=0).value) < 1e-30


def test_no_factor_below_that_of_pinsker_will_do():
    """sqrt(I / 2) is Eq. (7), to first order, where agent 1 leans a little to where agent 0 was."""
    for lean in (1e-1, 1e-3, 1e-5):
        rows = 0.5 + lean * np.array([[1, -1], [-1, 1]])  # [x_0, x_1']
        P = np.einsum("k,al->akl", np.full(2, 0.5), rows)[:, None] + np.zeros((1, 2, 1, 1))
        chain, mu = made(P.reshape(4, 4), (2, 2))
        bound = je.transfer_entropy(chain, mu, agent=1).mean_bound
        least = je.entanglement_mu_atv_upper(chain, mu, agent=1)
        exact = je.entanglement_mu_atv(chain, mu, agent=1)
        np.testing.assert_allclose(least.value, lean, rtol=by_precision(1e-9, 1e-2))
        np.testing.assert_allclose(exact.value, lean, rtol=by_precision(1e-6, 1e-2))
        # In float32 the rows hold the lean to a share of this.
        held = by_precision(0, 1e-6) / lean
        assert 1 - held <= bound / lean < 1 + lean**2 + held


def test_the_converse_needs_the_number_of_pairs_and_no_line_will_do():
    """A rare signal says log(1 / chance) times its E, a copy of one of m about log m times."""
    ratios = []
    for rare in (1e-1, 1e-3, 1e-6):
        chain, mu = made(copying(1.0, law=np.array([1 - rare, rare])), (2, 2))
        found = je.transfer_entropy(chain, mu, agent=1)
        least = je.entanglement_mu_atv_upper(chain, mu, agent=1)
        np.testing.assert_allclose(least.value, rare, rtol=by_precision(1e-9, 1e-4))
        np.testing.assert_allclose(found.value, information.coin(rare), rtol=1e-9)
        ratios.append(found.value / least.value)
        assert ratios[-1] > np.log(1 / rare)
    assert np.all(np.diff(ratios) > 4)
    for num_pairs in (2, 4, 16):
        chain, mu = made(copying(0.1, num_pairs), (num_pairs, num_pairs))
        found = je.transfer_entropy(chain, mu, agent=1)
        assert je.entanglement_mu_atv_upper(chain, mu, agent=1).value <= 0.1
        some = 1 - 1 / num_pairs
        away = 0.1 * some * np.log(num_pairs - 1)
        wanted = information.coin(0.1 * some) + away - some * information.coin(0.1)
        np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
        assert found.value >= away  # and so grows with the number of pairs
        d = found.distance
        assert found.value <= information.coin(d) + d * np.log(num_pairs - 1) + EXACT


def exclusive_or():
    """Agents 1 and 2 are coins; agent 0 goes to where exactly one of them was 1."""
    P = np.zeros((2,) * 6)
    for x0, x1, x2, y1, y2 in np.ndindex(*(2,) * 5):
        P[x0, x1, x2, x1 ^ x2, y1, y2] = 0.25
    return P.reshape(8, 8)


def test_what_two_say_together_neither_says_alone():
    """Pairwise influence is 0, in both directions, and the sum of values errs by discount / 2."""
    chain, mu = made(exclusive_or(), (2, 2, 2))
    for i in range(3):
        for k in range(3):
            assert abs(je.transfer_entropy(chain, mu, agent=i, source=k).value) < EXACT
    found = je.transfer_entropy(chain, mu, agent=0)
    np.testing.assert_allclose(found.value, LOG2)
    np.testing.assert_allclose(
        found.value, je.transfer_entropy(chain, mu, agent=0, source=(1, 2)).value
    )
    rewards = [jnp.array([0.0, 1.0]), jnp.zeros(2), jnp.zeros(2)]
    error = je.decompose(chain, rewards, discount=0.9)
    np.testing.assert_allclose(error.mu_error, 0.45)


def test_a_longer_memory_explains_the_others_away():
    """A cycle of four: two own steps tell all that the other could, yet E = 1/2 and values err."""
    order = [0, 1, 3, 2]  # (0,0) -> (0,1) -> (1,1) -> (1,0)
    P = np.zeros((4, 4))
    P[order, np.roll(order, -1)] = 1
    chain, mu = made(P, (2, 2))
    path = np.array(order * 50)
    own, other = pairs_of((2, 2))[0][path], pairs_of((2, 2))[1][path]
    assert information.history_transfer(own, other, 1) > 0.99 * LOG2
    assert information.history_transfer(own, other, 2) < EXACT
    np.testing.assert_allclose(je.transfer_entropy(chain, mu, agent=0).value, LOG2)
    np.testing.assert_allclose(je.entanglement_mu_atv_upper(chain, mu, agent=0).value, 0.5)
    error = je.decompose(chain, [jnp.array([0.0, 1.0]), jnp.zeros(2)], discount=0.9)
    assert error.mu_error > 0.2


@pytest.mark.parametrize("agree", [0.0, 0.1, 0.25, 0.4, 0.5])
def test_coupling_of_actions_is_free_of_entanglement(agree):
    """Any coupling of two coins, from none to a bit: no transfer entropy, and values are a sum.

    `agree` is the chance that both are active; 0 is Example 1.
    """
    mdp, _ = je.example_1()
    free = je.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    actions = np.array([[agree, 0.5 - agree], [0.5 - agree, agree]])
    policy = np.broadcast_to(actions, (2, 2, 2, 2))
    chain = je.pair_chain(free, policy)
    mu = np.asarray(je.stationary_distribution(chain))
    law = mu.reshape(2, 2, 2, 2).sum((1, 3)).reshape(-1)
    social = information.influence(policy.reshape(4, 2, 2), law)
    np.testing.assert_allclose(social, LOG2 - information.coin(2 * agree), atol=EXACT)
    for agent in range(2):
        assert abs(je.transfer_entropy(chain, mu, agent=agent).value) < EXACT
        assert je.entanglement_atv(chain, agent=agent).upper < 1e-6
    error = je.decompose(chain, free.rewards, discount=0.9)
    assert np.abs(error.error).max() < EXACT


def reader(pays):
    """Agent 0 acts as agent 1 is, 4 times of 5, and is paid for that or not; no action matters."""
    slow = np.array([[0.9, 0.1], [0.1, 0.9]])
    rewards = np.zeros((2, 2, 2))
    rewards[0] = [[0, 1], [0, 1]] if pays else [[0, 0], [1, 1]]
    agents = tuple(je.MDP(np.repeat(slow[:, None], 2, 1), r) for r in rewards)
    policy = np.zeros((2, 2, 2, 2))
    for s0, s1, a0, a1 in np.ndindex(2, 2, 2, 2):
        policy[s0, s1, a0, a1] = (0.8 if a0 == s1 else 0.2) / 2
    return je.WeaklyCoupledMDP(agents, 0.9), policy


def test_information_is_no_scale_of_the_error():
    """One chain, and so the same that it says: one reward errs, another does not.

    Its actions are not coupled at all: social influence is 0 where entanglement is not.
    """
    errors = []
    for pays in (True, False):
        mdp, policy = reader(pays)
        chain = je.pair_chain(mdp, policy)
        mu = np.asarray(je.stationary_distribution(chain))
        law = mu.reshape(2, 2, 2, 2).sum((1, 3)).reshape(-1)
        assert abs(information.influence(policy.reshape(4, 2, 2), law)) < EXACT
        said = je.policy_information(mdp, policy, mu, agent=0)
        np.testing.assert_allclose(said.value, LOG2 - information.coin(0.2), rtol=1e-12)
        told = je.transfer_entropy(chain, mu, agent=0)
        assert 0.05 < told.value < said.value
        errors.append(float(je.decompose(chain, mdp.rewards, discount=0.9).mu_error))
    assert errors[0] > 0.3
    assert errors[1] < EXACT


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3, 2)])
def test_the_bound_on_the_root_mean_square(sizes):
    """Its formula by NumPy; above the error, and above the weighted bound of the mean error."""
    rng = np.random.default_rng(4)
    J = int(np.prod(sizes))
    P = rng.dirichlet(np.full(J, 0.3), J)
    chain, mu = made(P, sizes)
    rewards = [rng.normal(size=n) for n in sizes]
    wanted = 0.0
    for own, r in zip(pairs_of(sizes), rewards):
        mean = information.rows_and_mean(P, mu, own)[1]
        local = np.array([mean[own == x][0] for x in range(len(r))])
        said = information.transfer_entropy(P, mu, own, np.arange(J))
        wanted += 9 * np.sqrt(said / 2) * np.ptp(oracles.q_values(local, r, 0.9))
    found = je.bounds.information_l2(chain, rewards, discount=0.9)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    error = je.decompose(chain, rewards, discount=0.9).error
    assert np.sqrt(mu @ error**2) <= found
    assert je.bounds.projection_mu(chain, rewards, discount=0.9) <= found
    assert je.bounds.information_l2(chain, rewards, discount=0.0) == 0


def measured(P, mu, sizes=(2, 3)):
    chain = je.PairChain.from_matrix(P, sizes=sizes)
    return [je.transfer_entropy(chain, mu, agent=i) for i in range(len(sizes))]


def test_jit_vmap_and_gradient():
    """As called plainly; derivatives in the chain and in mu against differences."""
    rng = np.random.default_rng(5)
    P, mu = rng.dirichlet(np.ones(6), (3, 6)), rng.dirichlet(np.ones(6), 3)
    plain = [measured(p, m) for p, m in zip(P, mu)]
    batch = jax.jit(jax.vmap(measured))(P, mu)
    for k, found in enumerate(plain):
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a, b[k], rtol=1e-11), found, batch
        )

    def mixed(P, mu):
        first, second = measured(P, mu)
        return first.value + second.mean_bound + second.sup_bound

    slope = jax.jit(jax.grad(mixed, (0, 1)))(P[0], mu[0])
    steps = [rng.normal(size=(6, 6)), rng.normal(size=6)]
    steps = [1e-5 * (d - d.mean(-1, keepdims=True)) for d in steps]
    ahead, behind = (mixed(P[0] + sign * steps[0], mu[0] + sign * steps[1]) for sign in (1, -1))
    along = sum((g * d).sum() for g, d in zip(slope, steps))
    np.testing.assert_allclose(along, (ahead - behind) / 2, rtol=FD)


def test_gradient_in_a_policy():
    """Zeros of the chain stay: Example 1's kernel and logits of the joint policy."""
    mdp, _ = je.example_1()
    free = je.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    rng = np.random.default_rng(6)
    logits, step = rng.normal(size=(2, 2, 2, 2, 2))

    def told(logits):
        policy = je.softmax_policy(logits)
        chain = je.pair_chain(free, policy)
        mu = je.stationary_distribution(chain)
        by_policy = je.policy_information(free, policy, mu, agent=0)
        return je.transfer_entropy(chain, mu, agent=0).value + by_policy.value

    slope = jax.jit(jax.grad(told))(logits)
    apart = (told(logits + STEP * step) - told(logits - STEP * step)) / (2 * STEP)
    np.testing.assert_allclose((slope * step).sum(), apart, rtol=FD)


def test_where_nothing_is_said_derivatives_are_finite():
    alone = jnp.array([[0.9, 0.1], [0.2, 0.8]])

    def bounds(P):
        return sum(e.mean_bound + e.sup_bound for e in measured(P, jnp.full(4, 0.25), (2, 2)))

    assert np.isfinite(jax.grad(bounds)(jnp.eye(4))).all()
    assert bounds(jnp.kron(alone, alone)) < by_precision(1e-7, 1e-4)


def test_single_precision():
    """In its own dtype, and right where laws differ in the fourth digit."""
    rng = np.random.default_rng(7)
    for near in (1.0, 1e-3):
        P = (1 - near) * np.full((6, 6), 1 / 6) + near * rng.dirichlet(np.ones(6), 6)
        mu = rng.dirichlet(np.ones(6))
        single = measured(P.astype(np.float32), mu.astype(np.float32))
        P, mu = (x.astype(np.float32).astype(float) for x in (P, mu))
        P, mu = P / P.sum(1, keepdims=True), mu / mu.sum()
        for a, b in zip(single, measured(P, mu)):
            assert a.value.dtype == a.mean_bound.dtype == np.float32
            np.testing.assert_allclose(a.value, b.value, rtol=30 * F32)
            np.testing.assert_allclose(a.largest, b.largest, rtol=30 * F32)


def test_no_law_no_number():
    """A law that is NaN under jit, as where there are several, makes NaN of every field."""
    found = jax.jit(measured)(np.eye(6), np.full(6, np.nan))
    assert all(np.isnan(x) for x in jax.tree.leaves(found))


def test_bad_input():
    chain, mu = made(je.appendix_e(), (2, 2))
    with pytest.raises(ValueError, match="mu: wanted shape"):
        je.transfer_entropy(chain, mu[:3], agent=0)
    with pytest.raises(ValueError, match="mu"):
        je.transfer_entropy(chain, 2 * mu, agent=0)
    with pytest.raises(ValueError, match="agent"):
        je.transfer_entropy(chain, mu, agent=2)
    with pytest.raises(ValueError, match="agent"):
        je.transfer_entropy(chain, mu, agent=0, source=5)
    with pytest.raises(ValueError, match="chain: ndarray is not a PairChain"):
        je.transfer_entropy(np.eye(4), mu, agent=0)
    mdp, policy = je.example_1()
    law = je.stationary_distribution(je.pair_chain(mdp, policy))
    with pytest.raises(ValueError, match=r"agent: 2 is not one of the agents 0\.\.1"):
        je.policy_information(mdp, policy, law, agent=2)
    with pytest.raises(ValueError, match="mu"):
        je.policy_information(mdp, policy, law[:4], agent=0)


def test_agents_alike():
    """One tagged agent among counts is told what it is told in the joint chain."""
    bandit = je.circulant_bandit(5)
    chain = je.exchangeable_chain(bandit, je.CIRCULANT_PRIORITY)
    mu = je.stationary_distribution(chain)
    found = je.transfer_entropy(chain, mu, agent=0)
    least = je.entanglement_mu_atv_upper(chain, mu, agent=0)
    assert least.value <= found.distance <= found.mean_bound
    rows = np.asarray(je.view_transition(chain, agent=0))
    mean = np.asarray(chain.view(0).lift(je.local_transition(chain, mu, agent=0)))
    there = (np.asarray(mu)[:, None] > 0) & (rows > 0)
    logs = np.where(there, np.log(np.where(there, rows / np.where(there, mean, 1), 1)), 0)
    np.testing.assert_allclose(found.value, np.asarray(mu) @ (rows * logs).sum(1), rtol=1e-9)
