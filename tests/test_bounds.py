"""Bounds, the entanglement map and merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain, bounds
from jaxent.chains import stationary, views
from jaxent.chains.views import rows_by_view
from jaxent.measures import entanglement, row_measures
from jaxent.values import agent_blocks
from jaxent.values.a_posteriori import coefficients
from tests import oracles, oracles_measures
from tests.tolerances import EXACT, SOLVE, by_precision


def random_case(key, J=(2, 2), concentration=0.5):
    keys = jax.random.split(key, 1 + len(J))
    n = int(np.prod(J))
    P = jax.random.dirichlet(keys[0], jnp.full(n, concentration), (n,))
    rewards = [jax.random.normal(k, (m,)) for k, m in zip(keys[1:], J, strict=True)]
    return P, rewards


compiled_case = jax.jit(random_case)


def test_every_theorem_holds_on_a_thousand_chains():
    sizes = (2, 2)

    def measured(P, mu):
        chain = PairChain.from_matrix(P, sizes=sizes)
        return (
            jaxent.entanglement_atv(chain, agent=1, mu=mu),
            jaxent.entanglement_mu_atv(chain, mu, agent=1),
        )

    def both(key):
        P, rewards = random_case(key, sizes)
        chain = PairChain.from_matrix(P, sizes=sizes)
        mu = jaxent.stationary_distribution(chain)
        given = {"discount": 0.9, "mu": mu}
        atv, mu_atv = jax.vmap(measured)(*oracles.either_way(P, mu))
        atv, mu_atv = (
            [jax.tree.map(lambda x, i=i: x[i], e) for i in (0, 1)] for e in (atv, mu_atv)
        )
        exact = jaxent.decompose(chain, rewards, **given)
        after = bounds.a_posteriori(chain, rewards, **given)
        sup = [
            bounds.theorem_3(chain, rewards, **given),
            bounds.theorem_4(chain, rewards, **given, measured=atv),
            bounds.span_sup(chain, rewards, **given, measured=atv),
            bounds.projection_sup(chain, rewards, **given),
            after.sup_bound,
        ]
        mean = [
            bounds.theorem_5(chain, rewards, **given, measured=mu_atv),
            bounds.span_mu(chain, rewards, **given, measured=mu_atv),
            bounds.projection_mu(chain, rewards, **given),
            after.mu_bound,
        ]
        return exact.sup_error, exact.mu_error, jnp.stack(sup), jnp.stack(mean)

    found = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 1000))
    sup_error, mu_error, sup, mean = map(np.asarray, found)
    assert (sup_error[:, None] <= sup + SOLVE).all()
    assert (mu_error[:, None] <= mean + SOLVE).all()
    assert (sup[:, 1] <= sup[:, 0] * (1 + 1e-5)).all()  # ATV is finer than TV
    assert (sup[:, 2] <= sup[:, 1] * (1 + 1e-9)).all()  # spans are at most 2 r_max / (1 - discount)


def dense_of(rng):
    P = rng.dirichlet(np.full(36, 0.5), 36)
    return PairChain.from_matrix(jnp.array(P), sizes=(6, 6)), [rng.normal(size=6) for _ in "ab"]


def weakly_coupled_of(rng, N):
    agents = tuple(
        jaxent.MDP(rng.dirichlet(np.full(3, 0.5), (3, 2)), rng.normal(size=(3, 2)))
        for _ in range(N)
    )
    policy = rng.dirichlet(np.full(2**N, 0.5), 3**N).reshape((3,) * N + (2,) * N)
    mdp = jaxent.WeaklyCoupledMDP(agents, 0.9)
    return jaxent.pair_chain(mdp, policy), list(mdp.rewards)


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (dense_of, 3),
        (lambda rng: weakly_coupled_of(rng, 2), 3),
        (lambda r: weakly_coupled_of(r, 3), 4),
    ],
    ids=["dense", "two agents", "three agents"],
)
def test_a_posteriori_is_a_few_times_the_error_at_every_discount(draw, most):
    """Medians of bound / error where nothing is minimized, and with two more products."""
    rng = np.random.default_rng(0)
    slack, closer = [], []
    for _ in range(5):
        chain, rewards = draw(rng)
        mu = jaxent.stationary_distribution(chain)
        for discount in (0.5, 0.9, 0.99, 0.999):
            given = {"discount": discount, "mu": mu}
            error = jaxent.decompose(chain, rewards, **given)
            for matvecs, seen in ((0, slack), (2, closer)):
                after = bounds.a_posteriori(chain, rewards, matvecs=matvecs, **given)
                # Errors are differences of values: these are what float32 rounds.
                noise = by_precision(0, SOLVE) * np.abs(error.q_joint).max()
                assert after.mu_bound >= error.mu_error * (1 - SOLVE) - noise
                assert after.sup_bound >= error.sup_error * (1 - SOLVE) - noise
                seen.append(after.mu_bound / error.mu_error)
    assert (np.median(np.reshape(slack, (5, 4)), 0) <= most).all()
    assert np.max(closer) <= 1.3
    assert 0 <= after.rho <= 1
    assert 0 <= after.reversed_dobrushin <= 1


def test_coefficients_contract():
    """tau* is the L1 norm on functions of mean 0, attained by two states; rho is that in L2."""
    rng = np.random.default_rng(1)
    chain, rewards = dense_of(rng)
    P, nu = np.asarray(chain.matrix()), np.asarray(jaxent.stationary_distribution(chain))
    after = bounds.a_posteriori(chain, rewards, discount=0.9)
    ratios = []
    for s in range(36):
        for t in range(s):
            f = np.zeros(36)
            f[s], f[t] = 1 / nu[s], -1 / nu[t]
            ratios.append(nu @ np.abs(P @ f) / 2)
    np.testing.assert_allclose(after.reversed_dobrushin, max(ratios), rtol=1e-9)
    root = np.sqrt(nu)
    whitened = root[:, None] * P / root[None] - np.outer(root, root)
    rho = np.linalg.norm(whitened, 2)
    assert rho <= after.rho <= 1.001 * rho


def test_views_of_uneven_size_share_a_program():
    """Agents of 2, 3 and 4 pairs: one program a measure, and each agent's own minimum by HiGHS."""
    rng, sizes = np.random.default_rng(0), (2, 3, 4)
    chain = PairChain.from_matrix(rng.dirichlet(np.full(24, 0.3), 24), sizes=sizes)
    mu = jaxent.stationary_distribution(chain)
    programs = row_measures.minimax_entanglement, row_measures.sign_entanglement
    before = [program.outermost()._cache_size() for program in programs]
    atv, mu_atv = bounds._measured(chain, mu)
    after = [program.outermost()._cache_size() for program in programs]
    assert np.subtract(after, before).max() <= 1
    for agent, size in enumerate(sizes):
        points, weights = map(np.asarray, rows_by_view(chain, mu, agent=agent))
        for found, known in (
            (atv[agent], oracles_measures.agentwise(points)),
            (mu_atv[agent], oracles_measures.mu_agentwise(points, weights)),
        ):
            optimum = oracles_measures.solve(known)
            assert found.lower - 1e-9 <= optimum <= found.upper + 1e-9
            assert found.converged
            assert found.minimizer.shape == (size, size)
            np.testing.assert_allclose(found.minimizer.sum(1), 1, atol=1e-12)
        apart = np.abs(points - np.asarray(atv[agent].minimizer)[:, None]).sum(2) / 2
        assert apart.max() <= atv[agent].upper + 1e-12


@pytest.mark.parametrize("dtype", by_precision([np.float32, np.float64], [np.float32]))
def test_rho_is_from_above_to_the_last_bit(dtype):
    """Of random chains, those all of whose modes fade at one rate, and one that forgets at once."""
    rng = np.random.default_rng(0)
    laws = rng.dirichlet(np.ones(6), 20)
    drawn = [rng.dirichlet(np.ones(6), 6) for _ in laws]
    alike = [keep * np.eye(6) + (1 - keep) * law for keep, law in zip(np.arange(20) / 20, laws)]
    T = np.stack(drawn + alike).astype(dtype)
    nu = np.stack([oracles.stationary(P.astype(float)) for P in T]).astype(dtype)

    @jax.jit
    @jax.vmap
    def of(T, nu):
        chain = PairChain.from_matrix(T, sizes=(6,))
        return coefficients(chain, nu)[2]

    found = np.asarray(of(T, nu))
    assert found.dtype == dtype
    root = np.sqrt(nu.astype(float))
    apart = root[:, :, None] * T / root[:, None] - root[:, :, None] * root[:, None]
    exact = np.linalg.norm(apart, 2, axis=(1, 2))
    assert (exact <= found).all()
    assert (found <= 1.001 * exact + 1e3 * np.finfo(dtype).eps).all()


@pytest.mark.slow
def test_a_posteriori_is_ten_times_tighter_than_theorem_5():
    def found(key, discount):
        P, rewards = random_case(key, (3, 3), 1.0)
        chain = PairChain.from_matrix(P, sizes=(3, 3))
        after = bounds.a_posteriori(chain, rewards, discount=discount)
        paper = bounds.theorem_5(chain, rewards, discount=discount)
        error = jaxent.decomposition_error(chain, rewards, discount=discount)
        return paper / after.mu_bound, after.mu_bound / error

    keys = jnp.repeat(jax.random.split(jax.random.key(1), 100), 2)
    gain, slack = jax.jit(jax.vmap(found))(keys, jnp.tile(jnp.array([0.9, 0.99]), 100))
    assert gain[::2].min() >= 10
    assert jnp.median(slack[1::2]) <= 20


def test_report_reads():
    P, rewards = compiled_case(jax.random.key(2))
    table = bounds.report(PairChain.from_matrix(P, sizes=(2, 2)), rewards, discount=0.9)
    text = str(table)
    for word in ("true error", "Theorem 3", "Theorem 4", "Theorem 5", "a posteriori", "visited"):
        assert word in text
    assert min(table.sup_bounds.values()) >= table.sup_error
    assert table.mu_bracket[0] <= table.mu_error * (1 + SOLVE)
    assert table.mu_error <= table.mu_bracket[1] * (1 + SOLVE)
    html = table._repr_html_()
    assert html.count("<tr>") == text.count("\n") + 1 - len(table.checks)
    assert min(table.mu_bounds.values()) >= table.mu_error


def pair_and_loner():
    """Agents 0 and 1 move together, agent 2 alone: sizes (2, 2, 2)."""
    P, _ = compiled_case(jax.random.key(3))
    Q = np.random.default_rng(4).dirichlet(np.ones(2), 2)
    return PairChain.from_matrix(np.kron(P, Q), sizes=(2, 2, 2))


def test_map_and_merge_find_the_pair():
    chain = pair_and_loner()
    mu = jaxent.stationary_distribution(chain)
    table = np.asarray(jaxent.entanglement_map(chain, mu))
    coupled = np.zeros((3, 3), bool)
    coupled[0, 1] = coupled[1, 0] = True
    assert (table[coupled] > 1e-3).all()
    np.testing.assert_allclose(table[~coupled], 0, atol=EXACT)
    rewards = [jnp.array([0.0, 1.0])] * 3
    found = jaxent.best_merge(chain, rewards, discount=0.9)
    assert found.pair == (0, 1)
    assert found.bound < by_precision(1e-6, 1e-3)
    assert found.before > 1e-2


def test_no_merge_is_named_that_does_not_help():
    """To learn two of three as one doubles the largest reward, and may raise the bound; a separable
    chain has nothing to gain, whatever rounding says."""
    rng = np.random.default_rng(4)
    rewards = [jnp.array([0.0, 1.0])] * 3
    chain = PairChain.from_matrix(rng.dirichlet(np.ones(8), 8), sizes=(2, 2, 2))
    found = jaxent.best_merge(chain, rewards, discount=0.9)
    assert found.pair is None
    assert found.bound == found.before
    np.testing.assert_allclose(found.before, bounds.theorem_6(chain, rewards, discount=0.9))
    assert min(found.bounds.values()) > found.before
    assert str(found).startswith("merge none: Theorem 6 is ")
    alone = [rng.dirichlet(np.ones(2), 2) for _ in range(3)]
    separable = PairChain.from_matrix(np.kron(np.kron(*alone[:2]), alone[2]), sizes=(2, 2, 2))
    assert jaxent.best_merge(separable, rewards, discount=0.9).pair is None


def test_a_large_block_needs_no_program():
    """Three agents of 6 pairs each: blocks of 36 are measured at two transitions, and what that
    gives is an upper end that is near the program's for the single agents."""
    rng = np.random.default_rng(1)
    P = np.kron(rng.dirichlet(np.ones(36), 36), rng.dirichlet(np.ones(6), 6))
    chain = PairChain.from_matrix(P, sizes=(6, 6, 6))
    mu = jaxent.stationary_distribution(chain)
    for i in range(2):
        exact = jaxent.entanglement_mu_atv(chain, mu, agent=i)
        rows = rows_by_view(chain, mu, agent=i)
        near = agent_blocks._near(*rows, jaxent.local_transition(chain, mu, agent=i))
        assert exact.lower <= near <= 1.1 * exact.upper
    found = jaxent.best_merge(chain, [jnp.arange(6.0)] * 3, discount=0.5)
    assert found.pair == (0, 1)  # they move together, agent 2 alone
    assert found.bound < by_precision(1e-9, 1e-4) * found.before
    assert found.before < found.bounds[0, 2]


@pytest.mark.parametrize(
    "bound",
    [
        *(bounds.theorem_3, bounds.theorem_4, bounds.theorem_5, bounds.span_sup, bounds.span_mu),
        *(bounds.a_posteriori, bounds.report, jaxent.best_merge, jaxent.decompose),
    ],
)
def test_rewards_are_checked_before_anything_is_solved(bound):
    """On a chain with two recurrent classes, where to solve for the law is an error."""
    chain = PairChain.from_matrix(np.eye(4), sizes=(2, 2))
    with pytest.raises(ValueError, match=r"rewards\[1\]: wanted 2 values"):
        bound(chain, [jnp.zeros(2), jnp.zeros(3)], discount=0.9)
    with pytest.raises(ValueError, match="discount: 1 is outside"):
        bound(chain, [jnp.zeros(2)] * 2, discount=1.0)


def test_merged_rewards_add_up():
    chain = pair_and_loner()
    rewards = list(np.random.default_rng(5).normal(size=(3, 2)))
    blocks = ((2, 0), (1,))
    merged = jaxent.merge_agents(chain, blocks)
    parts = jaxent.merge_rewards(chain, rewards, blocks)
    np.testing.assert_allclose(merged.lift(parts), chain.lift(rewards), atol=1e-14)


def test_bad_input():
    chain = pair_and_loner()
    with pytest.raises(ValueError, match="blocks"):
        jaxent.merge_agents(chain, ((0, 1),))
    with pytest.raises(ValueError, match="discount"):
        bounds.theorem_5(chain, [jnp.zeros(2)] * 3, discount=1.0)


def test_map_is_drawn():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    from jaxent.plotting import plot_entanglement_map

    ax = plot_entanglement_map(jnp.array([[0.0, 0.2], [0.1, 0.0]]))
    assert [text.get_text() for text in ax.texts] == ["0.20", "0.10"]
    plt.close(ax.figure)
    with pytest.raises(ValueError, match="square"):
        plot_entanglement_map(jnp.zeros((2, 3)))


def test_the_report_solves_for_the_law_once_and_finds_the_rows_of_a_view_once(monkeypatch):
    calls = {"solve_law": 0, "view_transition": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for module in (stationary, views, entanglement, bounds):
        for name in set(calls) & set(vars(module)):
            monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    chain, rewards = pair_and_loner(), [jnp.array([0.0, 1.0])] * 3
    report = bounds.report(chain, rewards, discount=0.9)
    assert calls == {"solve_law": 1, "view_transition": 3}
    # The same numbers as one by one, each of which solves for what it needs.
    alone = bounds.theorem_8(chain, rewards, discount=0.9)
    np.testing.assert_allclose(report.sup_bounds["Theorem 8 (ATV)"], alone, rtol=1e-6)
    known = jaxent.stationary_distribution(chain)
    calls["solve_law"] = 0
    for function in (bounds.theorem_6, bounds.span_sup, bounds.span_mu):
        function(chain, rewards, discount=0.9, mu=known)
    bounds.a_posteriori(chain, rewards, discount=0.9, mu=known)
    jaxent.decompose(chain, rewards, discount=0.9, mu=known)
    jaxent.fit_additive(chain, rewards, discount=0.9, mu=known)
    assert calls["solve_law"] == 0
