"""Entanglement measures: the reference, orderings, gradients, edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain
from tests import oracles_measures as oracles
from tests.oracles import either_way
from tests.reference import cases
from tests.tolerances import EXACT, FD, STEP, by_precision

# What float32 certifies where it is traced.
TRACED = by_precision(1e-6, 1e-3)
CLOSE = by_precision(1e-7, 1e-6)  # the reference's own programs are good to about 1e-8


def two_agent_chain(case):
    P = np.array(case["pair_transition"])
    m = round(len(P) ** 0.5)
    return PairChain.from_matrix(P, sizes=(m, m)), np.array(case["stationary"])


def coupled_mdp(case):
    agents = tuple(
        jaxent.MDP(np.moveaxis(np.array(P), 0, 1), np.array(r))
        for P, r in zip(case["transitions"], case["rewards"], strict=True)
    )
    return jaxent.WeaklyCoupledMDP(agents, case["gamma"]), np.array(case["policy"])


def agrees(found, wanted, gap):
    assert found.converged
    assert abs(found.value - wanted) < CLOSE
    assert found.lower - CLOSE / 10 <= wanted <= found.upper + CLOSE / 10
    assert -1e-12 <= found.upper - found.lower <= max(gap, by_precision(0, 1e-6))


def sized(kind):
    """The cases of one kind; those of the smallest size are quick: each compiles its own solver."""
    sizes = [len(case["stationary"]) for case in cases(kind)]
    return [
        pytest.param(case, id=str(n), marks=pytest.mark.slow if n > min(sizes) else ())
        for case, n in zip(cases(kind), sizes)
    ]


@pytest.mark.parametrize("case", sized("two_agent"))
def test_two_agent_reference(case):
    chain, mu = two_agent_chain(case)
    agrees(jaxent.entanglement_tv(chain), case["tv"], 1e-6)
    agrees(jaxent.entanglement_mu_tv(chain, mu), case["mu_tv"], 1e-6)
    for i in range(2):
        agrees(jaxent.entanglement_atv(chain, agent=i), case["atv"][i], 1e-6)
        upper = jaxent.entanglement_mu_atv_upper(chain, mu, agent=i)
        agrees(upper, case["mu_atv_eq7"][i], 1e-10)
        agrees(jaxent.entanglement_mu_atv(chain, mu, agent=i), case["mu_atv_exact"][i], 1e-6)


@pytest.mark.parametrize("case", sized("weakly_coupled"))
def test_weakly_coupled_reference(case):
    mdp, policy = coupled_mdp(case)
    chain = jaxent.pair_chain(mdp, policy)
    mu = jaxent.stationary_distribution(chain)
    for i in range(len(mdp.agents)):
        upper = jaxent.entanglement_mu_atv_upper(chain, mu, agent=i)
        agrees(upper, case["mu_atv_eq7"][i], 1e-10)
        bound = jaxent.policy_entanglement(mdp, policy, mu, agent=i)
        agrees(bound, case["proposition1"][i], 1e-10)
        exact = jaxent.entanglement_mu_atv(chain, mu, agent=i)
        assert exact.converged
        assert exact.lower <= upper.upper <= bound.upper + 1e-12


def random_chains(seed, number, sizes, concentration=1.0):
    J = int(np.prod(sizes))
    return np.random.default_rng(seed).dirichlet(np.full(J, concentration), (number, J))


def by_agents(P, sizes):
    """Laws of either agent's next pair, `[X, C, X]` each."""
    joint = np.asarray(P).reshape(*sizes, *sizes)
    return joint.sum(3), joint.sum(2).swapaxes(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("concentration", [1.0, 0.1])
def test_against_linear_programs(concentration):
    sizes = (3, 2)
    P = random_chains(1, 1, sizes, concentration)[0]
    chain = PairChain.from_matrix(P, sizes=sizes)
    mu = jaxent.stationary_distribution(chain)
    joint, law = np.asarray(P).reshape(*sizes, *sizes), np.asarray(mu).reshape(sizes)

    def brackets(found, program):
        wanted = oracles.solve(program)
        assert found.converged
        assert found.lower - 1e-8 <= wanted <= found.upper + 1e-8

    brackets(jaxent.entanglement_tv(chain), oracles.nearest_separable(joint))
    brackets(jaxent.entanglement_mu_tv(chain, mu), oracles.nearest_separable(joint, law))
    for i, points in enumerate(by_agents(P, sizes)):
        weights = law if i == 0 else law.T
        brackets(jaxent.entanglement_atv(chain, agent=i), oracles.agentwise(points))
        eq7 = jaxent.entanglement_mu_atv_upper(chain, mu, agent=i)
        brackets(eq7, oracles.agentwise(points, weights))
        exact = jaxent.entanglement_mu_atv(chain, mu, agent=i)
        brackets(exact, oracles.mu_agentwise(points, weights))


def test_minimizers_attain_the_upper_bounds():
    P = random_chains(2, 1, (3, 2))[0]
    chain = PairChain.from_matrix(P, sizes=(3, 2))
    mu = jaxent.stationary_distribution(chain)
    for found, distance in (
        (jaxent.entanglement_tv(chain), jaxent.tv_distance),
        (jaxent.entanglement_mu_tv(chain, mu), lambda a, b: jaxent.mu_tv_distance(a, b, mu)),
    ):
        nearest = PairChain.from_matrix(found.minimizer.matrix, sizes=(3, 2))
        assert jaxent.is_separable(nearest, tol=by_precision(1e-9, 1e-6))
        np.testing.assert_allclose(distance(chain, nearest), found.upper, atol=EXACT)
        product = jaxent.PairChain.from_matrix(jnp.kron(*found.minimizer.local), sizes=(3, 2))
        for i in range(2):
            rows = jaxent.view_transition(product, agent=i)
            np.testing.assert_allclose(
                rows, jaxent.view_transition(nearest, agent=i), atol=by_precision(1e-9, 1e-6)
            )


def everything(P):
    chain = PairChain.from_matrix(P, sizes=(2, 2))
    mu = jaxent.stationary_distribution(chain)
    out = {
        "tv": jaxent.entanglement_tv(chain, mu=mu, tol=TRACED),
        "mu_tv": jaxent.entanglement_mu_tv(chain, mu, tol=TRACED),
    }
    each = jax.vmap(one_view)(*either_way(P, mu))
    for name, e in each.items():
        out |= {f"{name}{i}": jax.tree.map(lambda x, i=i: x[i], e) for i in range(2)}
    return {name: (e.upper, e.lower, e.converged) for name, e in out.items()}


def one_view(P, mu):
    """The measures of the last agent; of the first, once the two have changed places."""
    chain = PairChain.from_matrix(P, sizes=(2, 2))
    return {
        "atv": jaxent.entanglement_atv(chain, agent=1, mu=mu, tol=TRACED),
        "eq7": jaxent.entanglement_mu_atv_upper(chain, mu, agent=1, tol=TRACED),
        "mu_atv": jaxent.entanglement_mu_atv(chain, mu, agent=1, tol=TRACED),
    }


@pytest.fixture(scope="module")
def many():
    """Every measure, in one compiled batch: separable chains, one that is none, random ones."""
    A, B = np.random.default_rng(4).dirichlet(np.ones(2), (2, 2, 2))
    box = np.asarray(jaxent.pr_box())
    product = np.stack([np.kron(A[0], B[0]), np.kron(A[1], B[1])]).mean(0)
    special = np.stack([product, box, 0.5 * box + 0.125, np.full((4, 4), np.nan)])
    drawn = random_chains(3, 1000, (2, 2), 0.5)
    found = jax.jit(jax.vmap(everything))(np.concatenate([special, drawn]))
    return jax.tree.map(np.asarray, found)


def test_orderings_on_a_thousand_chains(many):
    upper, lower, converged = ({name: v[k][4:] for name, v in many.items()} for k in range(3))
    for name in many:
        assert converged[name].all(), name
        assert (upper[name] - lower[name] > -1e-12).all()
    for i in range(2):
        # A lower end above the other's upper end would refute the order.
        assert (lower[f"mu_atv{i}"] <= upper[f"eq7{i}"] + EXACT).all()
        assert (lower[f"mu_atv{i}"] <= upper["mu_tv"] + EXACT).all()
        assert (lower[f"eq7{i}"] <= upper[f"atv{i}"] + EXACT).all()
        assert (lower[f"atv{i}"] <= upper["tv"] + EXACT).all()


def test_orderings_of_a_thousand_weakly_coupled_policies():
    rng = np.random.default_rng(0)
    kernels = rng.dirichlet(np.ones(2), (1000, 2, 2, 2))  # [1000, agent, S, A, S]
    policies = rng.dirichlet(np.full(4, 0.5), (1000, 2, 2)).reshape(1000, 2, 2, 2, 2)

    @jax.jit
    @jax.vmap
    def measured(kernels, policy):
        agents = tuple(jaxent.MDP(kernel, jnp.zeros((2, 2))) for kernel in kernels)
        mdp = jaxent.WeaklyCoupledMDP(agents, 0.9)
        chain = jaxent.pair_chain(mdp, policy)
        mu = jaxent.stationary_distribution(chain)
        exact = jaxent.entanglement_mu_atv(chain, mu, agent=0)
        eq7 = jaxent.entanglement_mu_atv_upper(chain, mu, agent=0)
        return exact.lower, eq7.upper, jaxent.policy_entanglement(mdp, policy, mu, agent=0).upper

    exact, eq7, policy = measured(kernels, policies)
    assert (exact <= eq7 + EXACT).all()
    assert (eq7 <= policy + EXACT).all()
    assert eq7.min() > 0


def test_separable_chains_have_none(many):
    for name, (upper, _, converged) in many.items():
        assert (upper[:3] < by_precision(1e-9, 2e-6)).all(), name
        assert converged[:3].all()


def test_nan_inside_jit(many):
    for upper, _, converged in many.values():
        assert np.isnan(upper[3])
        assert not converged[3]


MEASURES = {
    "tv": lambda chain, mu: jaxent.entanglement_tv(chain, tol=1e-9),
    "mu_tv": lambda chain, mu: jaxent.entanglement_mu_tv(chain, mu, tol=1e-9),
    "atv": lambda chain, mu: jaxent.entanglement_atv(chain, agent=1, tol=1e-9),
    "eq7": lambda chain, mu: jaxent.entanglement_mu_atv_upper(chain, mu, agent=1),
    "mu_atv": lambda chain, mu: jaxent.entanglement_mu_atv(chain, mu, agent=1, tol=1e-9),
}


@pytest.mark.parametrize("name", MEASURES)
def test_gradients_against_differences(name):
    P, Q = random_chains(5, 2, (2, 2))

    @jax.jit
    @jax.value_and_grad
    def both(step):
        chain = PairChain.from_matrix(P + step * (Q - P), sizes=(2, 2))
        return MEASURES[name](chain, jaxent.stationary_distribution(chain)).value

    h = by_precision(1e-3, STEP)
    wanted = (both(h)[0] - both(-h)[0]) / (2 * h)
    assert abs(both(0.0)[1] - wanted) < by_precision(1e-5, FD)


@pytest.mark.slow
def test_gradients_over_256_policies():
    case = cases("weakly_coupled")[0]
    mdp, policy = coupled_mdp(case)
    logits = jax.random.normal(jax.random.key(6), (256, *policy.shape))

    def value(x):
        policy = jaxent.softmax_policy(x)
        chain = jaxent.pair_chain(mdp, policy)
        mu = jaxent.stationary_distribution(chain)
        measured = [measure(chain, mu).value for measure in MEASURES.values()]
        return sum(measured) + jaxent.policy_entanglement(mdp, policy, mu, agent=1).value

    slopes = jax.jit(jax.vmap(jax.grad(value)))(logits)
    assert jnp.isfinite(slopes).all()
    assert (jnp.abs(slopes).max((1, 2, 3, 4)) > 0).all()


def test_unvisited_pairs_have_no_say():
    """A third pair that agent 0 leaves for good moves no maximum, whatever its rows say."""
    P = np.zeros((6, 6))
    P[:4, :4] = random_chains(7, 1, (2, 2))[0]
    P[4] = np.eye(6)[0]
    P[5] = np.eye(6)[3]
    big, small = PairChain.from_matrix(P, sizes=(3, 2)), P[:4, :4]
    small = PairChain.from_matrix(small, sizes=(2, 2))
    assert abs(jaxent.entanglement_tv(big).value - jaxent.entanglement_tv(small).value) < 1e-6
    for i in range(2):
        pair = (jaxent.entanglement_atv(chain, agent=i).value for chain in (big, small))
        assert abs(np.subtract(*pair)) < 1e-6


def test_float32():
    P = random_chains(8, 1, (2, 2))[0]
    with jax.enable_x64(False):
        chain = PairChain.from_matrix(np.asarray(P, np.float32), sizes=(2, 2))
        mu = jaxent.stationary_distribution(chain)
        single = [measure_32(chain, mu) for measure_32 in MEASURES_32]
    chain = PairChain.from_matrix(P, sizes=(2, 2))
    mu = jaxent.stationary_distribution(chain)
    for found, measure in zip(single, MEASURES_32, strict=True):
        assert found.value.dtype == np.float32
        assert found.converged
        assert abs(float(found.value) - float(measure(chain, mu).value)) < 2e-3


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_float32_holds_the_minimum_of_float64(size):
    """Certified on the host to 1e-6; traced, a bracket that holds as well, whatever its width."""
    P = random_chains(11, 60 // size**2, (size, size))
    P[::2] = 0.98 * np.eye(size**2) + 0.02 * P[::2]  # nearly separable
    mu = np.random.default_rng(12).dirichlet(np.ones(size**2), len(P))

    def measured(P, mu):
        chain = PairChain.from_matrix(P, sizes=(size, size))
        return jnp.stack([jnp.stack(measure(chain, mu)[1:3]) for measure in MEASURES.values()])

    exact = np.stack([measured(*case) for case in zip(P, mu, strict=True)])  # [chains, 5, 2]
    with jax.enable_x64(False):
        single = jnp.asarray(P, np.float32), jnp.asarray(mu, np.float32)
        known = np.stack([measured(*case) for case in zip(*single)])
        traced = np.asarray(jax.jit(jax.vmap(measured))(*single))
    for found in (known, traced):
        assert found.dtype == np.float32
        assert (found[..., 0] <= exact[..., 1]).all()
        assert (exact[..., 0] <= found[..., 1]).all()
    assert (np.ptp(known, axis=-1) <= 1e-6).all()


@pytest.mark.parametrize("size", [4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["tv", "mu_tv", "atv", "mu_atv"])
def test_traced_float32_certifies(name, size):
    """Traced and of many chains at once, nearly all brackets are 1e-5 wide, and all hold."""
    P = random_chains(13, 320 // size**2, (size, size))
    mu = np.random.default_rng(14).dirichlet(np.ones(size**2), len(P))
    measure = {
        "tv": lambda chain, mu, tol: jaxent.entanglement_tv(chain, mu=mu, tol=tol),
        "mu_tv": lambda chain, mu, tol: jaxent.entanglement_mu_tv(chain, mu, tol=tol),
        "atv": lambda chain, mu, tol: jaxent.entanglement_atv(chain, mu=mu, agent=0, tol=tol),
        "mu_atv": lambda chain, mu, tol: jaxent.entanglement_mu_atv(chain, mu, agent=0, tol=tol),
    }[name]

    @partial(jax.jit, static_argnums=2)
    @partial(jax.vmap, in_axes=(0, 0, None))
    def measured(P, mu, tol):
        found = measure(PairChain.from_matrix(P, sizes=(size, size)), mu, tol)
        return found.lower, found.upper, found.converged

    # The same chains in both precisions, but for the rounding that a bracket allows for.
    narrow = np.float32(P), np.float32(mu)
    with jax.enable_x64(True):
        lower, upper, _ = map(np.asarray, measured(P, mu, 1e-9))
    with jax.enable_x64(False):
        low, high, converged = map(np.asarray, measured(*narrow, 1e-5))
    assert high.dtype == np.float32
    assert (low <= upper).all()
    assert (lower <= high).all()
    assert converged.mean() >= 0.95
    np.testing.assert_array_equal(converged, high - low <= 1e-5)


MEASURES_32 = [
    lambda chain, mu: jaxent.entanglement_tv(chain, tol=1e-3),
    lambda chain, mu: jaxent.entanglement_atv(chain, agent=0, tol=1e-3),
    lambda chain, mu: jaxent.entanglement_mu_atv_upper(chain, mu, agent=0, tol=1e-5),
    lambda chain, mu: jaxent.entanglement_mu_atv(chain, mu, agent=0, tol=1e-3),
]


def test_bad_input():
    P = random_chains(9, 1, (2, 2))[0]
    chain = PairChain.from_matrix(P, sizes=(2, 2))
    mu = jaxent.stationary_distribution(chain)
    with pytest.raises(ValueError, match="tol: 0 is not positive"):
        jaxent.entanglement_tv(chain, tol=0)
    with pytest.raises(ValueError, match="tol"):
        jaxent.entanglement_atv(chain, agent=0, tol=-1.0)
    with pytest.raises(ValueError, match="agent: 2 is not one of the views"):
        jaxent.entanglement_atv(chain, agent=2)
    with pytest.raises(ValueError, match=r"mu: wanted shape \[4\]"):
        jaxent.entanglement_mu_atv(chain, mu[:3], agent=0)
    with pytest.raises(ValueError, match=r"mu: it sums to (2|1\.99999)"):
        jaxent.entanglement_mu_tv(chain, 2 * mu)
    with pytest.raises(ValueError, match="mu"):
        jaxent.entanglement_mu_atv_upper(chain, mu.at[0].set(jnp.nan), agent=0)
    broken = jax.tree.map(lambda x: x * jnp.nan, chain)
    with pytest.raises(ValueError, match="no probability vector"):
        jaxent.entanglement_tv(broken)
    with pytest.raises(ValueError, match="wanted two agents"):
        jaxent.entanglement_tv(PairChain.from_matrix(np.eye(8), sizes=(2, 2, 2)))


def test_a_gap_is_not_hidden():
    P = random_chains(10, 1, (2, 2))[0]
    found = jaxent.entanglement_tv(PairChain.from_matrix(P, sizes=(2, 2)), max_steps=1)
    assert not found.converged
    assert found.upper - found.lower > 1e-3


def test_views_that_share_a_signal():
    """Eq. (13), the exogenous case of the reference, through blocks of factors."""
    case = cases("exogenous")[0]
    kernel_a, kernel_b, kernel_z, policy = (
        np.array(case[k]) for k in ("kernel_a", "kernel_b", "kernel_z", "policy")
    )
    P = np.einsum("zsat,zubv,zy,tvycd->saubztcvdy", kernel_a, kernel_b, kernel_z, policy)
    chain = PairChain.from_matrix(P.reshape(32, 32), sizes=(4, 4, 2))
    mu = jaxent.stationary_distribution(chain)
    for i in range(2):
        view = (i, 2)
        agrees(jaxent.entanglement_atv(chain, agent=view), case["atv"][i], 1e-6)
        eq7 = jaxent.entanglement_mu_atv_upper(chain, mu, agent=view)
        agrees(eq7, case["mu_atv_eq7"][i], 1e-10)
