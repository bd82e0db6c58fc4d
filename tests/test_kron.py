import jax.numpy as jnp
import numpy as np

from jaxent.numerics.arrays import pairwise_sum, rounding
from jaxent.numerics.kron import kron, kron_mv, kron_sum, kron_vm, pair_order, state_order

from . import oracles
from .tolerances import EXACT


def test_products_factor_by_factor():
    rng = np.random.default_rng(0)
    matrices = [jnp.array(rng.normal(size=shape)) for shape in ((4, 2), (3, 3), (2, 5))]
    v, mu = jnp.array(rng.normal(size=30)), jnp.array(rng.normal(size=24))
    np.testing.assert_allclose(kron_mv(matrices, v), kron(matrices) @ v, atol=EXACT)
    np.testing.assert_allclose(kron_vm(matrices, mu), mu @ kron(matrices), atol=EXACT)


def test_orders():
    table = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # [S_0, S_1, A_0, A_1]
    pairs = pair_order(table)
    assert pairs.shape == (2, 4, 3, 5)
    assert pairs[1, 2, 0, 3] == table[1, 0, 2, 3]
    np.testing.assert_array_equal(state_order(pairs), table)


def test_sum():
    functions = [np.arange(3.0), np.arange(2.0) * 10, np.arange(2.0) * 100]
    np.testing.assert_allclose(kron_sum(list(map(jnp.array, functions))), oracles.lift(functions))


def test_a_pairwise_sum_errs_no_more_than_it_says():
    """Of 1 to 4,000 terms of either sign and any size, in float32, over two axes at once."""
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (3, 5), (7, 13), (40, 100)):
        x = (rng.normal(size=(2, *shape)) * 10.0 ** rng.integers(-3, 4, shape)).astype(np.float32)
        found = np.asarray(pairwise_sum(jnp.asarray(x), 2))
        assert found.shape == (2,)
        assert found.dtype == np.float32
        wide = x.astype(float)
        least = rounding(np.float32, x[0].size) * np.abs(wide).sum((1, 2))
        assert (np.abs(found - wide.sum((1, 2))) <= least).all()
