"""The exact operator on configurations against agents that are moved one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxent.restless import next_counts as module
from jaxent.restless.next_counts import (
    configuration_index,
    configurations,
    next_counts,
    num_configurations,
)

from . import oracles_restless as oracles
from .tolerances import EXACT, F32, FD, STEP

SIZES = [
    (1, 3, 1),
    (2, 1, 1),
    (2, 7, 3),
    (3, 6, 2),
    (3, 4, 0),
    (4, 5, 5),
    (4, 9, 3),
    (5, 4, 2),
    (6, 3, 1),
]


@jax.jit
def applied(op, f):
    """The operator and its transpose."""
    return op.mv(f), op.vm(f)


def random_kernel(rng, num_states):
    return rng.dirichlet(np.ones(num_states), (num_states, 2))


@pytest.mark.parametrize(("num_agents", "num_states"), [(0, 3), (1, 1), (5, 2), (6, 4), (3, 6)])
def test_every_configuration_has_its_place(num_agents, num_states):
    counts = configurations(num_agents, num_states)
    assert counts.shape == (num_configurations(num_agents, num_states), num_states)
    assert {tuple(n) for n in counts} == set(oracles.all_configurations(num_agents, num_states))
    np.testing.assert_array_equal(configuration_index(counts), np.arange(len(counts)))


@pytest.mark.parametrize(("num_states", "num_agents", "budget"), SIZES)
def test_operator_equals_agents_moved_one_by_one(num_states, num_agents, budget):
    rng = np.random.default_rng(num_states)
    kernel = random_kernel(rng, num_states)
    priority = tuple(rng.permutation(num_states).tolist())
    listed, dense = oracles.next_counts_matrix(kernel, num_agents, budget, priority)
    order = configuration_index(np.array(listed))
    T = np.zeros_like(dense)
    T[np.ix_(order, order)] = dense
    f = rng.standard_normal((2, 3, len(T)))

    @jax.jit
    def both(kernel, f):
        op = next_counts(kernel, num_agents=num_agents, budget=budget, priority=priority)
        return op.mv(f), op.vm(f)

    pulled, pushed = both(kernel, f)
    np.testing.assert_allclose(pulled, f @ T.T, atol=EXACT)
    np.testing.assert_allclose(pushed, f @ T, atol=EXACT)


def test_many_loops_agree_with_one(monkeypatch):
    rng = np.random.default_rng(5)
    kernel = random_kernel(rng, 4)
    f = rng.standard_normal(num_configurations(5, 4))
    sizes = {"num_agents": 5, "budget": 2, "priority": (3, 0, 2, 1)}
    one = next_counts(kernel, **sizes)
    want = applied(one, f)
    monkeypatch.setattr(module, "_FREE", 0)
    module._plan.cache_clear()
    many = next_counts(kernel, **sizes)
    assert (len(one.tails), len(many.tails)) == (1, 5)
    for found, wanted in zip(applied(many, f), want, strict=True):
        np.testing.assert_allclose(found, wanted, atol=EXACT)
    module._plan.cache_clear()


def test_transposes_agree():
    rng = np.random.default_rng(0)
    op = next_counts(random_kernel(rng, 4), num_agents=7, budget=2, priority=(2, 0, 3, 1))
    f = jnp.asarray(rng.standard_normal(num_configurations(7, 4)))
    (pulled,) = jax.jit(lambda f: jax.linear_transpose(op.mv, f)(f))(f)
    np.testing.assert_allclose(applied(op, f)[1], pulled, atol=EXACT)


def test_kernel_gradient():
    rng = np.random.default_rng(1)
    kernel, towards = random_kernel(rng, 4), random_kernel(rng, 4)
    weights, f = rng.standard_normal((2, num_configurations(6, 4)))

    def value(step, transpose=False):
        moved = kernel + step * (towards - kernel)
        op = next_counts(moved, num_agents=6, budget=2, priority=(1, 3, 0, 2))
        return op.vm(weights) @ f if transpose else weights @ op.mv(f)

    h, plain = STEP, jax.jit(value)
    numeric = (plain(h) - plain(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.0), numeric, rtol=FD)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(value))(0.0), numeric, rtol=FD)
    backward = jax.jit(jax.grad(lambda step: value(step, transpose=True)))
    np.testing.assert_allclose(backward(0.0), numeric, rtol=FD)


def test_float32():
    rng = np.random.default_rng(2)
    kernel = random_kernel(rng, 4)
    f = rng.standard_normal(num_configurations(8, 4))
    sizes = {"num_agents": 8, "budget": 3, "priority": (0, 1, 2, 3)}
    mv = jax.jit(lambda kernel, f: next_counts(kernel, **sizes).mv(f))
    wide, narrow = (mv(*(jnp.asarray(x, t) for x in (kernel, f))) for t in (float, jnp.float32))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=F32)


def test_rows_sum_to_one_at_larger_sizes():
    rng = np.random.default_rng(3)
    kernel = random_kernel(rng, 4)
    op = next_counts(kernel, num_agents=25, budget=5, priority=(2, 1, 0, 3))
    ones = jnp.ones(num_configurations(25, 4))
    np.testing.assert_allclose(jax.jit(lambda op, f: op.mv(f))(op, ones), ones, atol=EXACT)
    # E[n'_t] = Σ_{s,a} n_{s,a} P_a(s, t), linear in the counts.
    counts = configurations(25, 4)
    active = np.array([oracles.served(n, 5, (2, 1, 0, 3)) for n in counts])
    mean = (counts - active) @ kernel[:, 0] + active @ kernel[:, 1]
    moved = jax.jit(lambda op, f: op.mv(f))(op, jnp.asarray(counts.T, float))
    np.testing.assert_allclose(moved, mean.T, atol=25 * EXACT)
