from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxent.numerics.krylov import gmres

from . import oracles
from .tolerances import SOLVE, by_precision


class DenseTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_equals_dense_across_restarts(self):
        rng = np.random.default_rng(0)
        P, b = jnp.array(oracles.random_stochastic(rng, 40, 40)), jnp.array(rng.normal(size=40))
        A = jnp.eye(40) - 0.999 * P + 0.3 * jnp.diag(jnp.arange(40.0))
        for restart in (3, 30):
            solve = partial(gmres, lambda x: A @ x, tol=by_precision(1e-13, 1e-5), restart=restart)
            solution = self.variant(solve)(b)
            assert solution.converged
            assert solution.residual == jnp.abs(b - A @ solution.value).max()
            np.testing.assert_allclose(solution.value, jnp.linalg.solve(A, b), atol=SOLVE)


def test_says_when_it_falls_short():
    shift = jnp.roll(jnp.eye(30), 1, axis=1)  # GMRES stagnates on a cyclic shift
    b = jnp.eye(30)[0]
    solution = gmres(lambda x: shift @ x, b, tol=1e-12, restart=5, max_cycles=4)
    assert not solution.converged
    assert solution.residual > 0.1


def test_vmap_and_zero():
    rng = np.random.default_rng(1)
    P = jnp.array(oracles.random_stochastic(rng, 4, 9, 9))
    b = jnp.array(rng.normal(size=(4, 9))).at[2].set(0)
    solve = jax.jit(
        jax.vmap(lambda P, b: gmres(lambda x: x - 0.9 * P @ x, b, tol=by_precision(1e-14, 1e-6)))
    )
    solution = solve(P, b)
    assert solution.converged.all()
    exact = [oracles.q_values(p, c, 0.9) for p, c in zip(P, b, strict=True)]
    np.testing.assert_allclose(solution.value, exact, atol=SOLVE)
