"""The square-root law of soft index policies, by exact laws of the counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from experiments import soft_law

SIZES = (20, 40, 80, 160)


@pytest.mark.needs_x64(reason="chances at 160 agents span more decades than float32 has")
@pytest.mark.parametrize(
    ("name", "temperature"),
    [("healthcare", 1.0), ("healthcare", 0.02), ("degenerate", 1.0)],
)
def test_entanglement_and_error_follow_the_square_root(name, temperature):
    """Slopes go to -1/2 and 1/2 and values to their limits, from one doubling to the next."""
    found = [soft_law.measure(name, temperature, n) for n in SIZES]
    limit = soft_law.limits(name, temperature)
    assert limit["converged"]
    entanglement, error = (np.array([r[k] for r in found]) for k in ("entanglement", "mu_error"))
    root = np.sqrt(SIZES)
    for values, exponent in ((entanglement, -0.5), (error, 0.5)):
        slopes = np.diff(np.log(values)) / np.log(2)
        assert (np.diff(np.abs(slopes - exponent)) < 0).all()
        assert abs(slopes[-1] - exponent) < 0.025
    apart = np.abs(entanglement * root / limit["entanglement_limit"] - 1)
    assert (np.diff(apart) < 0).all()
    assert apart[-1] < 0.01
    apart = np.abs(error / root / limit["mu_error_limit"] - 1)
    assert (np.diff(apart) < 0).all()
    bounds = np.array([r["half_distance"] for r in found])
    assert (entanglement <= bounds).all()


@pytest.mark.slow
def test_where_the_fixed_point_is_not_stable_there_is_no_such_law():
    """The cold cyclic bandit: no limit is given, and sqrt(N) E_1 grows."""
    assert not soft_law.limits("cyclic", 0.1)["converged"]
    few, more = (soft_law.measure("cyclic", 0.1, n)["entanglement"] for n in (10, 20))
    assert more * np.sqrt(20) > 1.2 * few * np.sqrt(10)


def contracting(rng, num_states, num_agents):
    """A bandit whose rows are near each other, its index, and how much phi contracts in L1."""
    common = rng.dirichlet(np.ones(num_states))
    kernel = 0.25 * rng.dirichlet(np.ones(num_states), (2, num_states)) + 0.75 * common
    budget = int(rng.integers(1, num_agents))
    reward = rng.normal(size=(num_states, 2))
    return jaxent.RestlessBandit(*kernel, reward, num_agents, budget, 0.9)


@pytest.mark.slow
def test_a_contraction_bounds_every_number_of_agents():
    """E_1 <= (sqrt(S / N) + 2 S / N) / (2 (1 - rho)), rho = 1/2 whatever the policy.

    |phi(m) - phi(m')|_1: agents that stay alike differ by a quarter at most, those whose action
    changes likewise, and these are no more.
    """
    rng = np.random.default_rng(0)
    for num_agents in (2, 3, 6, 12):
        bandit = contracting(rng, 3, num_agents)
        soft = jaxent.SoftIndex(rng.normal(size=3), 0.3)
        rho = 0.5
        step = jax.vmap(lambda m, b=bandit, p=soft: jaxent.mean_field_step(b, p, m))
        m = rng.dirichlet(np.ones(3) * 0.5, 40)
        ahead = np.asarray(step(jnp.asarray(m)))
        apart = np.abs(ahead[:20] - ahead[20:]).sum(1)
        assert (apart <= rho * np.abs(m[:20] - m[20:]).sum(1) + 1e-12).all()
        root = np.sqrt(3 / num_agents)
        exact = jaxent.ground_truth(bandit, soft)
        assert exact.entanglement <= (root + 6 / num_agents) / (2 * (1 - rho))
        hard = jaxent.ground_truth(bandit, tuple(rng.permutation(3).tolist()))
        assert hard.entanglement <= root / (2 * (1 - rho))


@pytest.mark.slow
def test_the_experiment_draws_its_figure(tmp_path):
    argv = ["--case", "healthcare-warm", "--sizes", "10", "20", "40", "--large", "20", "40"]
    code = soft_law.main([*argv, "--steps", "400", "--runs", "4", "--out", str(tmp_path)])
    assert code == 0
    assert (tmp_path / "soft_law.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--case", "ring-warm"], "--case: 'ring-warm' is not one of"),
        (["--sizes", "10"], "--sizes: at least two"),
        (["--large", "10", "15"], "--large: at least two, multiples of 10"),
        (["--runs", "1"], "--runs: at least 2"),
    ],
)
def test_bad_options_end_with_one_line(argv, match, capsys):
    with pytest.raises(SystemExit) as stop:
        soft_law.main(argv)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err


def test_slopes_have_intervals():
    """Exact powers have their exponent and no width; two points have no interval."""
    sizes = np.array([10, 20, 40])
    found, half = soft_law.slope(sizes, 3 * sizes**-0.5)
    assert abs(found + 0.5) < 1e-12
    assert half < 1e-6
    assert np.isnan(soft_law.slope(sizes[:2], [1.0, 2.0])[1])
