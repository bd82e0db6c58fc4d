"""The bracket of an approximation's error holds that of a dense solve, on every kind of chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.chains.pair_chain import PairChain
from jaxent.values.error_bracket import most

from . import oracles
from .tolerances import FD, STEP, by_precision

SIZES = (6, 6)
DISCOUNTS = (0.5, 0.9, 0.99, 0.999)


def dense(rng):
    return rng.dirichlet(np.full(36, 0.5), 36)


def sparse(rng):
    P = rng.random((36, 36)) * (rng.random((36, 36)) < 3 / 36)
    P[np.arange(36), rng.permutation(36)] += 0.1  # every state is left, and entered
    P += np.roll(np.eye(36), 1, 1) * 0.05
    return P / P.sum(1, keepdims=True)


def sticky(rng):
    return 0.95 * np.eye(36) + 0.05 * dense(rng)


def near_deterministic(rng):
    return 0.95 * np.eye(36)[rng.integers(0, 36, 36)] + 0.05 * dense(rng)


def near_periodic(rng):
    return 0.98 * np.roll(np.eye(36), 1, 1) + 0.02 * dense(rng)


FAMILIES = (dense, sparse, sticky, near_deterministic, near_periodic)


@pytest.fixture(params=["eliminated", "searched"])
def route(request, monkeypatch):
    """Both ways to find the function that the bracket is made of, on chains of one size."""
    if request.param == "searched":
        monkeypatch.setattr(PairChain, "is_small", property(lambda self: False))
    return request.param


def truth(P, mu, r, f, discount):
    e = oracles.q_values(P, r, discount) - f
    return mu @ np.abs(e), np.abs(e)[mu > 0].max(), e


def check(found, mean, largest):
    """The bracket is in order, holds its point, and holds the truth in both norms."""
    assert found.lower <= found.value <= found.upper
    assert found.sup_lower <= found.sup_upper
    assert found.lower <= mean <= found.upper
    assert found.sup_lower <= largest <= found.sup_upper


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_holds_the_error_of_local_values(family, dtype, route):
    rng = np.random.default_rng(0)
    P = family(rng)
    mu, r = oracles.stationary(P), [rng.normal(size=6) for _ in SIZES]
    chain = PairChain.from_matrix(jnp.array(P.astype(dtype)), sizes=SIZES)
    for discount in DISCOUNTS:
        local = je.local_q_values(chain, [x.astype(dtype) for x in r], discount=discount)
        mean, largest, e = truth(P, mu, oracles.lift(r), oracles.lift(local), discount)
        found = je.approximation_error(chain, r, local, discount=discount, max_matvecs=36)
        check(found, mean, largest)
        if chain.dtype == np.float64:
            assert found.converged
            assert found.upper <= 1.01 * found.lower
            np.testing.assert_allclose(found.error, e, atol=0.01 * largest)
            assert found.num_matvecs == 0 if route == "eliminated" else found.num_matvecs > 0


def test_any_joint_function_is_an_approximation(route):
    """A critic that is no sum, with a constant that a sum of local values would not have."""
    rng = np.random.default_rng(1)
    P, r = dense(rng), rng.normal(size=36)
    mu, f = oracles.stationary(P), rng.normal(size=36) + 40.0
    chain = PairChain.from_matrix(jnp.array(P), sizes=SIZES)
    mean, largest, e = truth(P, mu, r, f, 0.99)
    found = je.approximation_error(chain, r, f.reshape(SIZES), discount=0.99, mu=mu)
    check(found, mean, largest)
    np.testing.assert_allclose(found.error, e, rtol=0.01)
    worst = np.argsort(-mu * np.abs(e))[:10]
    assert set(np.asarray(found.where)) == set(worst)
    np.testing.assert_allclose(found.scale, mu @ np.abs(f - mu @ f))


def test_units_and_zeros(route):
    """Rewards and values times c give the bracket times c; a constant in both changes nothing."""
    rng = np.random.default_rng(2)
    P, r, f = dense(rng), rng.normal(size=36), rng.normal(size=36)
    chain = PairChain.from_matrix(jnp.array(P), sizes=SIZES)
    one = je.approximation_error(chain, r, f, discount=0.9)
    for c in (1e-12, 1e12):
        scaled = je.approximation_error(chain, c * r, c * f, discount=0.9)
        for a, b in zip(one[:5], scaled[:5], strict=True):
            np.testing.assert_allclose(b, c * a, rtol=1e-6)
        assert scaled.converged
    moved = je.approximation_error(chain, r + 100, f + 1000, discount=0.9)
    np.testing.assert_allclose(moved[:5], one[:5], rtol=0.01)


def test_nothing_is_wrong(route):
    """The exact value is 0 off, to rounding, and so is nothing at all, exactly."""
    rng = np.random.default_rng(3)
    P, r = dense(rng), rng.normal(size=36)
    chain = PairChain.from_matrix(jnp.array(P), sizes=SIZES)
    exact = je.approximation_error(chain, r, oracles.q_values(P, r, 0.99), discount=0.99)
    assert exact.converged
    assert exact.lower == 0
    assert exact.upper < by_precision(1e-9, 1e-2) * exact.scale
    nothing = je.approximation_error(chain, np.zeros(36), np.zeros(36), discount=0.99)
    assert nothing.converged
    assert nothing[:5] == (0, 0, 0, 0, 0)


def test_the_pairs_that_contribute_most_of_many():
    """By blocks, which is not seen: as a sort of everything has it."""
    x = np.random.default_rng(8).random(50_000) ** 3
    x[[7, 49_999]] = 2.0, 3.0
    np.testing.assert_array_equal(most(jnp.array(x), 10), np.argsort(-x)[:10])


def test_a_small_budget_says_so(monkeypatch):
    monkeypatch.setattr(PairChain, "is_small", property(lambda self: False))
    rng = np.random.default_rng(4)
    P, r, f = sticky(rng), rng.normal(size=36), rng.normal(size=36)
    chain = PairChain.from_matrix(jnp.array(P), sizes=SIZES)
    mean, largest, _ = truth(P, oracles.stationary(P), r, f, 0.99)
    widths = []
    for budget in (1, 3, 36):
        found = je.approximation_error(chain, r, f, discount=0.99, max_matvecs=budget)
        check(found, mean, largest)
        assert found.num_matvecs <= budget
        assert found.converged == (found.upper <= 1.01 * found.lower)
        widths.append(found.upper - found.lower)
    assert not je.approximation_error(chain, r, f, discount=0.99, max_matvecs=1).converged
    assert widths[2] < widths[1] < widths[0]


def test_pairs_never_visited_do_not_count(route):
    rng = np.random.default_rng(5)
    P = dense(rng)
    P[6:] = 0
    P[6:, :6] = oracles.random_stochastic(rng, 30, 6)
    P[:6] = 0
    P[:6, :6] = oracles.random_stochastic(rng, 6, 6)
    mu = np.append(oracles.stationary(P[:6, :6]), np.zeros(30))
    r, f = rng.normal(size=36), np.append(rng.normal(size=6), np.full(30, 1e6))
    chain = PairChain.from_matrix(jnp.array(P), sizes=SIZES)
    mean, largest, _ = truth(P, mu, r, f, 0.9)
    found = je.approximation_error(chain, r, f, discount=0.9)
    check(found, mean, largest)
    assert found.converged
    assert found.upper < 100
    np.testing.assert_array_equal(found.error[6:], 0)


def test_gradient_under_jit_and_vmap(route):
    rng = np.random.default_rng(6)
    P, Q, r, f = dense(rng), dense(rng), rng.normal(size=36), rng.normal(size=36)
    d = rng.normal(size=(2, 36))

    def error(t):
        chain = PairChain.from_matrix((1 - t) * P + t * Q, sizes=SIZES)
        return je.approximation_error(
            chain, r + t * d[0], f + t * d[1], discount=0.9 + 0.05 * t, tol=1e-9, max_matvecs=36
        )

    both = jax.jit(jax.vmap(jax.value_and_grad(lambda t: error(t).value)))
    value, slope = both(jnp.array([0.3, 0.3 + STEP, 0.3 - STEP]))
    np.testing.assert_allclose(slope[0], (value[1] - value[2]) / (2 * STEP), atol=FD)
    alone = error(0.3)
    np.testing.assert_allclose(alone.value, value[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"approximation": np.ones(35)},
            r"approximation: wanted .* got \[35\]",
        ),
        ({"approximation": np.full(36, np.nan)}, r"approximation\[0\] is nan"),
        ({"approximation": [np.ones(6)]}, r"approximation: wanted one for each of 2 views, got 1"),
        ({"approximation": [np.ones(6), np.ones(5)]}, r"approximation\[1\]: wanted 6 values"),
        ({"approximation": "a name"}, r"approximation: str is no function of joint pairs; wanted"),
        ({"approximation": None}, "approximation: NoneType is no function"),
        (
            {"approximation": je.Decomposition(*range(5))},
            "Decomposition is no .* one of its fields",
        ),
        ({"reward": {}}, "rewards: dict is no function"),
        ({"reward": np.ones(3)}, "rewards: wanted"),
        ({"discount": 1.0}, r"discount: 1 is outside \[0, 1\)"),
        ({"tol": 0.0}, "tol: 0 is not a finite number above 0"),
        ({"max_matvecs": 0}, "max_matvecs: 0 is not an integer of at least 1"),
    ],
)
def test_bad_input(change, message):
    chain = PairChain.from_matrix(jnp.full((36, 36), 1 / 36), sizes=SIZES)
    good = {"reward": np.ones(36), "approximation": np.ones(36), "discount": 0.9}
    with pytest.raises(ValueError, match=message):
        je.approximation_error(chain, **{**good, **change})


def test_no_law_is_an_error_or_nan(route):
    two = PairChain.from_matrix(jnp.eye(36), sizes=SIZES)
    r = np.ones(36)
    with pytest.raises(ValueError, match="stationary law"):
        je.approximation_error(two, r, r, discount=0.9)
    found = jax.jit(lambda c: je.approximation_error(c, r, r, discount=0.9))(two)
    assert jnp.isnan(found.value)
    assert not found.converged


def test_prints_on_a_few_lines():
    chain = PairChain.from_matrix(jnp.array(dense(np.random.default_rng(7))), sizes=SIZES)
    text = str(je.approximation_error(chain, np.arange(36.0), np.zeros(36), discount=0.9))
    assert text.startswith("mean |error| 183.75")
    assert text.count("\n") == 4  # three of numbers, two of what they do not say


def dense_chain(make, sizes):
    return lambda rng: PairChain.from_matrix(jnp.array(make(rng)), sizes=sizes)


def weakly_coupled(num_agents):
    def draw(rng):
        agents = tuple(
            je.MDP(oracles.random_stochastic(rng, 3, 2, 3), rng.normal(size=(3, 2)))
            for _ in range(num_agents)
        )
        policy = oracles.random_policy(rng, (3,) * num_agents, (2,) * num_agents)
        return je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), jnp.array(policy))

    return draw


def index_policy(num_agents):
    def draw(rng):
        kernel = oracles.random_stochastic(rng, 3, 2, 3)
        agents = (je.MDP(kernel, np.zeros((3, 2))),) * num_agents
        order = tuple(int(s) for s in rng.permutation(3))
        policy = je.index_policy(order, num_agents=num_agents, budget=1)
        return je.pair_chain(je.WeaklyCoupledMDP(agents, 0.9), policy)

    return draw


def exchangeable(num_agents, num_states):
    def draw(rng):
        passive, active = oracles.random_stochastic(rng, 2, num_states, num_states)
        reward = np.zeros((num_states, 2))
        bandit = je.RestlessBandit(passive, active, reward, num_agents, num_agents // 3, 0.9)
        return je.exchangeable_chain(bandit, tuple(int(s) for s in rng.permutation(num_states)))

    return draw


MIXING = {
    "dense, 2 agents": dense_chain(dense, SIZES),
    "dense, 3 agents": dense_chain(dense, (3, 4, 3)),
    "weakly coupled, 2 agents": weakly_coupled(2),
    "weakly coupled, 3 agents": weakly_coupled(3),
    "index policy, 2 agents": index_policy(2),
    "index policy, 3 agents": index_policy(3),
    "exchangeable, N = 10, 3 states": exchangeable(10, 3),
    "exchangeable, N = 60, 2 states": exchangeable(60, 2),
    "sticky": dense_chain(sticky, SIZES),
}
SLOW = {
    "sparse": dense_chain(sparse, SIZES),
    "near-deterministic": dense_chain(near_deterministic, SIZES),
    "near-periodic, period 36": dense_chain(near_periodic, SIZES),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MIXING, *SLOW])
def test_a_few_products_bracket_the_error(name, monkeypatch):
    """The table of docs/theory: products to a factor of 3 and to 1%, 20 draws a discount."""
    monkeypatch.setattr(PairChain, "is_small", property(lambda self: False))
    rng = np.random.default_rng(0)
    row = []
    for discount in DISCOUNTS:
        taken = []
        for _ in range(20):
            chain = {**MIXING, **SLOW}[name](rng)
            r = [rng.normal(size=n) for n in chain.view_sizes]
            P = np.asarray(chain.matrix())
            mu = np.asarray(je.stationary_distribution(chain))
            np.testing.assert_allclose(mu @ P, mu, atol=1e-12)
            local = je.local_q_values(chain, r, discount=discount, mu=mu)
            mean, largest, _ = truth(P, mu, chain.lift(r), chain.lift(local), discount)
            given = {"discount": discount, "mu": mu}
            found = [
                je.approximation_error(chain, r, local, tol=tol, max_matvecs=100, **given)
                for tol in (2.0, 0.01)
            ]
            for bracket in found:
                check(bracket, mean, largest)
                assert bracket.converged
            taken.append([int(bracket.num_matvecs) for bracket in found])
        row.append(np.median(taken, axis=0))
    print(name, [f"{three:g}, {percent:g}" for three, percent in row])
    if name in MIXING:
        assert np.max(row, axis=0)[0] <= 6
        assert np.max(row, axis=0)[1] <= 12
