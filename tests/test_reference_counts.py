"""Simulation against the exact answers of the reference, on five bandits.

Every simulated number must lie within 5 standard errors of the exact one, and its standard error
must be below 1% of it. A run gives the value of every configuration it visits (every-visit Monte
Carlo with the martingale taken off); the mu-error weights them by how often it does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.models.restless_bandit import RestlessBandit
from jaxent.restless.activation import by_action
from tests.reference import cases
from tests.tolerances import STANDARD_ERRORS

RUNS, EDGE = 24, 400
# The error of the last bandit is 0.08% of its value: it takes longer runs to see 1% of that.
EPOCHS = (60_000, 60_000, 60_000, 60_000, 120_000)


def model(case):
    if "passive" not in case:
        return jaxent.circulant_bandit(case["n_agents"]), jaxent.CIRCULANT_PRIORITY
    reward = np.array(case["state_reward"])
    bandit = RestlessBandit(
        np.array(case["passive"]),
        np.array(case["active"]),
        np.stack([reward, reward], axis=1),
        case["n_agents"],
        case["budget"],
        case["gamma"],
    )
    return bandit, tuple(case["priority"])


# One of the five is enough for every run of the suite; all five with -m "slow or not slow".
NAMES = ("N=5", "N=10", "N=15", "N=20", "other")
CASES = [
    pytest.param(i, id=name, marks=pytest.mark.slow if name != "N=10" else ())
    for i, name in enumerate(NAMES)
]


@pytest.fixture(scope="module", params=CASES)
def simulated(request):
    """Case, model, and per-run estimates: Eq. 15, local Q, occupancy, counts."""
    case = (cases("circulant") + cases("restless"))[request.param]
    bandit, priority = model(case)
    epochs = EPOCHS[request.param]
    used = (jnp.arange(epochs) >= EDGE) & (jnp.arange(epochs) < epochs - EDGE)
    control = jaxent.mean_field(bandit, priority).value_weights

    def run(key):
        trajectory = jaxent.simulate_counts(key, bandit, priority, num_steps=epochs)
        weights = trajectory.counts[:-1] * used[:, None]
        entanglement = jaxent.estimate_entanglement(trajectory.policy[:-1], weights)
        flow = jaxent.pair_flow(trajectory, used, kernel=bandit.kernel)
        q = jaxent.lstd_local_q(flow, bandit.reward.reshape(-1), discount=bandit.discount)
        returns = jaxent.discounted_returns(trajectory, bandit, control=control)
        return entanglement, q, trajectory.counts[EDGE : -1 - EDGE], returns[EDGE:-EDGE]

    keys = jax.random.split(jax.random.key(request.param), RUNS)
    results = jax.jit(lambda keys: jax.lax.map(run, keys, batch_size=8))(keys)
    return case, bandit, priority, *results


def mean_and_error(samples):
    samples = np.asarray(samples)
    return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))


def test_entanglement(simulated):
    case, _, _, entanglement, *_ = simulated
    for samples in (entanglement.value, entanglement.held_out):
        mean, error = mean_and_error(samples)
        assert abs(mean - case["entanglement_eq15"]) < STANDARD_ERRORS * error
        assert error < 0.01 * case["entanglement_eq15"]


def test_local_q_and_occupancy(simulated):
    """Pairs of occupancy below 1e-4 are too rare for a standard error; they weigh nothing.

    One local value crosses zero (-0.006 to -0.016 where others reach 1.4): 1% of 0.02 for it.
    """
    case, _, _, _, q, *_ = simulated
    exact_q = np.array(case["q_local"]).reshape(-1)
    exact_occupancy = np.array(case["occupancy"]).reshape(-1)
    frequent = exact_occupancy > 1e-4
    mean, error = mean_and_error(q.value)
    assert (np.abs(mean - exact_q) < STANDARD_ERRORS * error)[frequent].all()
    assert (error < 0.01 * np.maximum(np.abs(exact_q), 0.02))[frequent].all()
    mean, error = mean_and_error(q.occupancy)
    assert (np.abs(mean - exact_occupancy) < STANDARD_ERRORS * error)[frequent].all()


def test_mu_error(simulated):
    case, bandit, priority, _, q, counts, returns = simulated
    digits = (bandit.num_agents + 1,) * bandit.num_states
    codes = np.ravel_multi_index(np.moveaxis(np.asarray(counts), -1, 0), digits)
    seen, place = np.unique(codes, return_inverse=True)
    states = np.stack(np.unravel_index(seen, digits), axis=-1)
    place = place.reshape(RUNS, -1)
    visits = np.stack([np.bincount(p, minlength=len(states)) for p in place])  # [runs, states]
    total = np.stack(
        [np.bincount(p, g, len(states)) for p, g in zip(place, np.asarray(returns), strict=True)]
    )
    groups = by_action(jnp.asarray(states), jnp.array(priority), bandit.budget)
    pairs = np.asarray(groups).reshape(len(states), -1)

    def from_runs(runs):
        """mu-error and mu-norm of the value from some of the runs."""
        seen = visits[runs].sum(0)
        value = total[runs].sum(0) / np.maximum(seen, 1)
        local = pairs @ np.asarray(q.value)[runs].mean(0)
        return np.array([seen @ np.abs(value - local), seen @ np.abs(value)]) / seen.sum()

    everyone = np.arange(RUNS)
    error, norm = from_runs(everyone)
    without = np.array([from_runs(np.delete(everyone, i)) for i in everyone])
    # The jackknife gives the standard error and the bias of |noisy|, which falls like 1 / runs.
    error += (RUNS - 1) * (error - without[:, 0].mean())
    spread = without[:, 0].std() * np.sqrt(RUNS - 1)
    assert abs(error - case["mu_error"]) < STANDARD_ERRORS * spread
    assert spread < 0.01 * case["mu_error"]
    relative = case["relative_error"]
    assert abs(error / norm - relative) < STANDARD_ERRORS * spread / norm
