"""The simplex's tools against their definitions, with and without jit."""

import chex
import jax.numpy as jnp
import numpy as np

from jaxent.numerics.simplex import project_simplex, total_variation, tv_center, weighted_median

from .tolerances import EXACT


class SimplexTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.loose = rng.normal(size=(4, 5))  # rows to project
        self.laws = rng.dirichlet(np.ones(5), 4)
        self.weights = rng.random(4) * np.array([1, 0, 1, 1])

    @chex.variants(with_jit=True, without_jit=True)
    def test_projection_lowers_a_row_by_one_level_down_to_zero(self):
        found = np.array(self.variant(project_simplex)(jnp.array(self.loose)))
        np.testing.assert_allclose(found.sum(-1), 1, atol=EXACT)
        level = (self.loose - found).max(-1, where=found > 0, initial=-np.inf)
        np.testing.assert_allclose(found, np.maximum(self.loose - level[:, None], 0), atol=EXACT)

    @chex.variants(with_jit=True, without_jit=True)
    def test_total_variation_is_the_largest_difference_of_an_event(self):
        p, q = self.laws[:2]
        found = self.variant(total_variation)(jnp.array(p), jnp.array(q))
        np.testing.assert_allclose(found, (p - q)[p > q].sum(), atol=EXACT)

    @chex.variants(with_jit=True, without_jit=True)
    def test_center_is_proved_and_no_law_near_it_is_better(self):
        found = self.variant(tv_center)(jnp.array(self.laws), jnp.array(self.weights))
        np.testing.assert_allclose(found.upper, found.lower, atol=EXACT)
        chex.assert_tree_all_finite(found)
        point = np.array(found.point)
        others = point + 0.01 * (self.laws - point)
        costs = [self.weights @ np.abs(self.laws - q).sum(-1) / 2 for q in others]
        assert min(costs) >= found.upper - EXACT

    @chex.variants(with_jit=True, without_jit=True)
    def test_median_costs_no_more_than_any_value(self):
        values = self.loose[:, 0]
        found = self.variant(weighted_median)(jnp.array(values), jnp.array(self.weights))
        cost = np.abs(values - np.append(values, found)[:, None]) @ self.weights
        np.testing.assert_allclose(cost[-1], cost.min(), atol=EXACT)
