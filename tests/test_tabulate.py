"""Games by their rules as exact models: each against dense NumPy, and what is refused."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import games, oracles
from .tolerances import EXACT, FD, by_precision

NEAR = by_precision(1e-10, 1e-5)  # against dense NumPy


@cache
def grid():
    """Two agents that walk on 3 x 3 cells, each seeing its own."""
    return je.tabulate(
        games.grid_start(),
        games.walk_on_grid,
        lambda state: state["place"],
        num_actions=(5, 5),
        discount=0.9,
    )


@cache
def grid_chain():
    mdp = grid()
    rng = np.random.default_rng(0)
    tables = [jnp.array(oracles.random_stochastic(rng, *shape)) for shape in mdp.local_shapes()]
    policy = mdp.join(tables)
    chain = je.pair_chain(mdp, policy)
    return chain, policy, je.stationary_distribution(chain)


CELLS = [(x, y) for x in np.ndindex(3, 3) for y in np.ndindex(3, 3) if x != y]


def dense_grid():
    """The same game by loops over cells, in the order of CELLS: K and rewards."""
    states = CELLS
    moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
    number = {s: k for k, s in enumerate(states)}

    def moved(cell, move):
        return tuple(min(2, max(0, x + d)) for x, d in zip(cell, move))

    pairs = [(s, a, b) for s in states for a in range(5) for b in range(5)]
    K = np.zeros((len(pairs), len(states)))
    paid = np.zeros((len(pairs), 2))
    for j, (s, a, b) in enumerate(pairs):
        to = (moved(s[0], moves[a]), moved(s[1], moves[b]))
        if to[0] == to[1] or to == (s[1], s[0]):
            to = s
        K[j, number[to]] += 0.9
        K[j, number[s]] += 0.1
        paid[j] = s[0] == (2, 2), s[1] == (0, 0)
    return K, paid


def test_the_grid_is_that_of_dense_numpy():
    """72 states; chain, rewards, law, values and error of the sum as a loop over cells has them."""
    mdp, (chain, policy, mu) = grid(), grid_chain()
    assert mdp.num_states == 72
    assert not mdp.estimated
    assert mdp.num_observations == (9, 9)
    assert "72 states, 1800 joint pairs, exact" in str(mdp)
    je.check_mdp(mdp)
    places = [tuple(map(tuple, place.tolist())) for place in mdp.states["place"]]
    states = CELLS
    order = [places.index(s) for s in states]  # ours, in the order of theirs
    K, paid = dense_grid()
    play = np.asarray(policy)[order].reshape(72, 25)
    P = (K[:, :, None] * play).reshape(1800, 1800)
    pair = (25 * np.array(order)[:, None] + np.arange(25)).reshape(-1)
    np.testing.assert_allclose(chain.matrix()[np.ix_(pair, pair)], P, atol=EXACT)
    np.testing.assert_array_equal(chain.lift(mdp.rewards)[pair], paid.sum(1))
    for i in range(2):
        np.testing.assert_array_equal(
            chain.view(i).lift(mdp.rewards[i].reshape(-1))[pair], paid[:, i]
        )
        seen = mdp.seen[i][np.array(mdp.observations[i])]
        np.testing.assert_array_equal(seen, mdp.states["place"][:, i])
    T = np.einsum("sa,sat->st", play, K.reshape(72, 25, 72))
    law = np.linalg.solve(np.eye(72) - T.T + 1, np.ones(72))
    law = (law[:, None] * play).reshape(-1)
    np.testing.assert_allclose(mu[pair], law, atol=NEAR)
    V = np.linalg.solve(np.eye(72) - 0.9 * T, (play * paid.sum(1).reshape(72, 25)).sum(1))
    Q = paid.sum(1) + 0.9 * K @ V
    found = je.decompose(chain, mdp.rewards, discount=0.9, mu=mu)
    np.testing.assert_allclose(found.q_joint[pair], Q, atol=NEAR)
    total = 0
    for i in range(2):
        code = np.asarray(chain.view(i).code)[pair]
        L = np.eye(45)[code]
        share = law @ L
        local = (L.T * law) @ P @ L / share[:, None]
        total = total + L @ np.linalg.solve(np.eye(45) - 0.9 * local, np.ravel(mdp.rewards[i]))
    np.testing.assert_allclose(found.mu_error, law @ abs(Q - total), atol=NEAR)


@pytest.mark.slow
def test_the_measure_on_the_grid_lies_below_its_bound():
    chain, _, mu = grid_chain()
    upper = je.entanglement_mu_atv_upper(chain, mu, agent=0).value
    found = je.entanglement_mu_atv(chain, mu, agent=0, tol=1e-3)
    assert found.converged
    assert 0 < found.value <= upper + NEAR


def test_measures_on_the_grid():
    """They do not walk apart, and the a posteriori bound holds."""
    mdp, (chain, _, mu) = grid(), grid_chain()
    assert je.entanglement_mu_atv_upper(chain, mu, agent=0).value > 0.01
    assert not je.is_agentwise_separable(chain)
    bound = je.bounds.a_posteriori(chain, mdp.rewards, discount=0.9, mu=mu)
    assert je.decomposition_error(chain, mdp.rewards, discount=0.9, mu=mu) <= bound.mu_bound


def test_fits_and_errors_on_the_grid():
    """VDN and QMIX: the exact error is in the bracket, and the mixture no worse than half of it."""
    mdp, (chain, _, mu) = grid(), grid_chain()
    for fit in (
        je.fit_additive(chain, mdp.rewards, discount=0.9, mu=mu),
        je.fit_monotone(
            jax.random.key(0), chain, mdp.rewards, discount=0.9, mu=mu, num_starts=1, num_targets=2
        ),
    ):
        found = je.approximation_error(chain, mdp.rewards, fit.q_total, discount=0.9, mu=mu)
        assert found.lower <= fit.mu_error * (1 + NEAR)
        assert fit.mu_error <= found.upper * (1 + NEAR)


def test_gradient_in_logits_on_the_grid():
    mdp = grid()
    family = je.product_softmax(mdp)
    logits = family.init(jax.random.key(1))

    def error(logits):
        chain = je.pair_chain(mdp, family.apply(logits))
        return je.decomposition_error(chain, mdp.rewards, discount=0.9)

    error = jax.jit(jax.value_and_grad(error))
    _, slope = error(logits)
    move = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), logits
    )
    ahead, back = (jax.tree.map(lambda x, d, h=h: x + h * d, logits, move) for h in (1e-5, -1e-5))
    inner = sum(jnp.vdot(a, b) for a, b in zip(slope, move))
    assert abs(inner - (error(ahead)[0] - error(back)[0]) / 2e-5) < FD


@cache
def riddle():
    return je.tabulate(
        games.riddle_start(), games.riddle, games.riddle_seen, num_actions=(3, 3, 3), discount=0.9
    )


def test_the_switch_riddle_has_183_states():
    """The law of starts is what follows an end; who always tells is paid -1 at once."""
    mdp = riddle()
    assert mdp.num_states == 183
    np.testing.assert_allclose(mdp.start[:3], 1 / 3, atol=EXACT)
    ends = np.asarray(mdp.transition[0]) == 183
    assert ends[np.arange(183), 2, 2, 2].all()
    assert mdp.seen[0].tolist() == [[0, 0], [1, 0], [1, 1]]
    tell = jnp.array([[0.0, 0.0, 1.0]] * 3)
    chain = je.pair_chain(mdp, mdp.join([tell] * 3))
    np.testing.assert_allclose(chain.matrix().sum(1), 1, atol=EXACT)
    mu = je.stationary_distribution(chain)
    np.testing.assert_allclose(chain.policy.mv(mu * 0 + 1), 1, atol=EXACT)
    np.testing.assert_allclose(je.average_reward(chain, mdp.rewards, mu=mu), -1, atol=EXACT)
    # One number for the team: each has a third of it.
    np.testing.assert_allclose(mdp.mean_rewards(mu)[1][:, 2].min(), -1 / 3, atol=EXACT)


def test_an_end_by_a_law_is_a_row_of_the_matrix():
    """The kernel that knows ends equals one whose outcomes list every first state."""
    mdp = riddle()
    states, chances = map(np.asarray, mdp.transition)
    dense = np.zeros((183 * 27, 184))
    rows = np.arange(183 * 27)[:, None]
    np.add.at(dense, (rows, states.reshape(-1, 3)), chances.reshape(-1, 3))
    dense = dense[:, :-1] + dense[:, -1:] * np.asarray(mdp.start)
    policy = mdp.join([jnp.full((3, 3), 1 / 3)] * 3)
    kernel = je.pair_chain(mdp, policy).kernel
    np.testing.assert_allclose(kernel.matrix(), dense, atol=EXACT)
    v = jnp.cos(jnp.arange(183.0))
    mu = jnp.full(183 * 27, 1 / (183 * 27))
    np.testing.assert_allclose(kernel.mv(v), dense @ v, atol=EXACT)
    np.testing.assert_allclose(kernel.vm(mu), mu @ dense, atol=EXACT)


def without_clock(state):
    return {name: value for name, value in state.items() if name != "step"}


def test_strip_merges_what_a_clock_tells_apart():
    """Without a limit the clock counts for ever; without the clock there are 45 states."""

    def endless(state, actions):
        return games.riddle(state, actions, steps=1000)

    begun = games.riddle_start()
    options = {"num_actions": (3, 3, 3), "max_states": 400}
    with pytest.raises(ValueError, match=r"max_states: \d+ states met after \d+ were .*'step'\]"):
        je.tabulate(begun, lambda s, a: endless(s, jnp.minimum(a, 1)), games.riddle_seen, **options)
    mdp = je.tabulate(begun, endless, games.riddle_seen, strip=without_clock, **options)
    assert mdp.num_states == 45
    # With the limit of 6 the clock matters, where no state is first met.
    with pytest.raises(ValueError, match=r"strip: drops what matters: state \d+ .*'step'"):
        je.tabulate(begun, games.riddle, games.riddle_seen, strip=without_clock, **options)
    with pytest.raises(ValueError, match="strip: drops what agent 0 sees"):
        je.tabulate(begun, endless, lambda s: (s["step"],) * 3, strip=without_clock, **options)


def coin(state, actions):
    return (1 - state)[None], jnp.ones(1), state - 0.5 * actions


def one_coin(outcomes=coin, initial=0, observe=lambda s: (s, s), **options):
    return je.tabulate(initial, outcomes, observe, **{"num_actions": (2, 3), **options})


def test_outcomes_of_no_chance_are_not_states():
    """An outcome of chance 0 is not met, and the same next state twice is one outcome."""

    def outcomes(state, actions):
        return (
            jnp.stack([1 - state, state + 7, 1 - state]),
            jnp.array([0.25, 0, 0.75]),
            coin(state, actions)[2],
        )

    mdp = one_coin(outcomes)
    assert mdp.num_states == 2
    assert mdp.transition[0].shape == (2, 2, 3, 1)
    np.testing.assert_array_equal(mdp.transition[1], 1)
    assert mdp.rewards[1].shape == (2, 3)
    np.testing.assert_allclose(mdp.rewards[1], [[0, -0.5, -1], [1, 0.5, 0]])


def test_rewards_that_depend_on_the_outcome_are_averaged():
    def outcomes(state, actions):
        paid = jnp.array([[4.0, 0.0], [0.0, 8.0]]) + actions[0] * actions[1]
        return jnp.stack([1 - state, state]), jnp.array([0.25, 0.75]), paid

    mdp = one_coin(outcomes)  # 1 + a b and 6 + a b: no function of a pair, so one reward of all
    a, b = np.indices((2, 3))
    np.testing.assert_allclose(mdp.rewards, np.stack([7 + 2.0 * a * b] * 2))


def test_a_zero_with_a_sign_is_zero_and_types_stay():
    """0.0 and -0.0 are one state; keys and small integers are states as well."""

    def outcomes(state, actions):
        key, x = state
        return (key[None], -x[None]), jnp.ones(1), 0.0

    # It has the form of a law, but what follows says that it is a state.
    mdp = je.tabulate((jax.random.key(0), jnp.zeros(2)), outcomes, lambda s: (0,), num_actions=(1,))
    assert mdp.num_states == 1


@pytest.mark.parametrize(
    ("dtype", "x64"), [(np.float32, False), (np.float32, True), (np.float64, True)]
)
def test_single_precision(dtype, x64):
    """The model has the precision of its probabilities."""

    def outcomes(state, actions):
        return jnp.stack([1 - state, state]), jnp.array([0.3, 0.7], dtype), dtype(1) * state

    with jax.enable_x64(x64):
        mdp = je.tabulate(0, outcomes, lambda s: (s, s), num_actions=(2, 2))
        assert mdp.transition[1].dtype == dtype
        je.check_mdp(mdp)
        chain = je.pair_chain(mdp, mdp.join([jnp.full((2, 2), 0.5, dtype)] * 2))
        q = je.q_values(chain, mdp.rewards, discount=0.5)
    assert q.dtype == dtype
    np.testing.assert_allclose(np.asarray(q) @ np.ones(8) / 8, 1, rtol=1e-5)


def changed(part, value):
    def outcomes(state, actions):
        given = list(coin(state, actions))
        given[part] = value(state, actions)
        return tuple(given)

    return outcomes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"outcomes": changed(1, lambda s, a: jnp.where(s * a[1] == 2, 0.5, 1.0)[None])},
            r"outcomes: state 1 \(1\) under actions \(0, 2\) has outcomes .* sum to 0.5, not 1",
        ),
        (
            {
                "outcomes": lambda s, a: (
                    jnp.stack([s, 1 - s]),
                    jnp.array([1.5, -0.5]),
                    jnp.zeros(2),
                )
            },
            r"state 0 \(0\) under actions \(0, 0\) has an outcome of probability -0.5",
        ),
        (
            {"outcomes": changed(2, lambda s, a: jnp.where(a == 1, jnp.nan, 0.0))},
            r"state 0 \(0\) under actions \(0, 1\) pays \[0.0, nan\]",
        ),
        (
            {"outcomes": changed(2, lambda s, a: jnp.zeros(3))},
            r"outcomes: gives rewards of shape \[3\], wanted \[2\]",
        ),
        ({"outcomes": changed(1, lambda s, a: 1.0)}, r"probabilities of shape \[\], wanted \[K\]"),
        (
            {"outcomes": changed(0, lambda s, a: 1 - s)},
            r"next states with it of .*, wanted .*\[1\]",
        ),
        ({"outcomes": changed(0, lambda s, a: (s[None],))}, "gives next states as PyTreeDef"),
        ({"outcomes": lambda s, a: (s[None], jnp.ones(1))}, "outcomes: gives 2 things, wanted"),
        ({"outcomes": lambda s, a: (*coin(s, a), jnp.ones(2, bool))}, r"ends of shape \[2\]"),
        ({"observe": lambda s: (s,)}, "observe: gives 1 observations, wanted one for each of 2"),
        ({"observe": lambda s: jnp.zeros(3)}, r"arrays of shapes \[\[3\]\], wanted one"),
        ({"num_actions": 3}, "num_actions: wanted one number for each agent"),
        ({"num_actions": (2, 0)}, r"num_actions\[1\]: 0 is not an integer of at least 1"),
        ({"max_states": 0}, "max_states: 0 is not"),
        ({"strip": lambda s: ()}, "strip: leaves nothing of a state"),
        ({"max_states": 1}, "max_states: 2 states met after 1 were looked into, wanted at most 1"),
        ({"discount": 1.0}, "discount: 1 is outside"),
        ({"initial": ()}, "initial: holds no numbers"),
        ({"initial": (np.arange(2), np.array([0.5, 0.6]))}, r"initial\[1\]: it sums to 1.1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, match):
    with pytest.raises(ValueError, match=match) as raised:
        one_coin(**options)
    assert "\n" not in str(raised.value)


def test_a_state_with_a_nan_is_named():
    def outcomes(state, actions):
        x = state["x"] + actions.sum()
        return {"x": jnp.where(x > 2, jnp.nan, x)[None]}, jnp.ones(1), jnp.zeros(2)

    with pytest.raises(
        ValueError, match=r"a next state of state 0 under .*\(1, 2\) has a NaN in .*x"
    ):
        one_coin(outcomes, {"x": jnp.array(0.0)}, lambda s: (s["x"], 0))
    with pytest.raises(ValueError, match=r"states: initial\[0\] has a NaN in it"):
        one_coin(initial=jnp.nan)


@pytest.mark.slow
def test_foraging_of_three_on_four_by_four():
    """10^4 states and 216 joint actions; the law is one, and the bracket holds the error."""
    mdp = je.tabulate(
        games.forage_start(), games.forage, games.forage_seen, num_actions=(6, 6, 6), discount=0.9
    )
    assert 10_000 <= mdp.num_states <= 100_000
    policy = mdp.join([jnp.full(shape, 1 / 6) for shape in mdp.local_shapes()])
    chain = je.pair_chain(mdp, policy)
    mu = je.stationary_distribution(chain)
    np.testing.assert_allclose(chain.vm(mu), mu, atol=NEAR)
    fit = je.fit_additive(chain, mdp.rewards, discount=0.9, mu=mu)
    found = je.approximation_error(chain, mdp.rewards, fit.q_local, discount=0.9, mu=mu)
    assert found.lower <= fit.mu_error <= found.upper
