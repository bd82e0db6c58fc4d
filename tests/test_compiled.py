"""The library's own jit: what is traced becomes part of the program around it, the rest is run."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxent.numerics import compiled


@compiled.jit(static_argnames="power")
def area(x, power=2):
    """A function of one argument and a static one."""
    return (x**power).sum()


X = np.array([1.0, 2.0, 3.0])


def test_equals_jax_jit_under_every_transformation():
    plain = jax.jit(lambda x: (x**2).sum())
    for transform in (lambda f: f, jax.jit, jax.grad, jax.hessian, jax.jacfwd):
        np.testing.assert_array_equal(transform(area)(X), transform(plain)(X))
    rows = np.stack([X, 2 * X])
    np.testing.assert_array_equal(jax.vmap(area)(rows), jax.vmap(plain)(rows))
    assert area(X, power=3) == 36.0


def test_is_compiled_once_a_shape():
    compiled_for = area.outermost()
    area(jnp.ones(7))
    before = compiled_for._cache_size()
    area(2 * jnp.ones(7))
    assert compiled_for._cache_size() == before


def test_known_arguments_are_evaluated_while_another_function_is_traced():
    seen = []

    @jax.jit
    def outer(y):
        known = area(X)
        seen.append(float(known))  # it has a value here
        return known + y + area(y * X)

    assert outer(2.0) == 14 + 2 + 4 * 14
    assert seen == [14.0]


def test_loops_and_maps_may_call_it():
    total = jax.lax.fori_loop(0, 3, lambda i, t: t + area(X) + area(i * X), 0.0)
    assert total == 3 * 14 + 14 * (0 + 1 + 4)


def test_what_the_flags_say_stands(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert "xla_backend_optimization_level" not in compiled._options()
    monkeypatch.setenv("XLA_FLAGS", "")
    assert compiled._options()["xla_backend_optimization_level"] == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled._options() is None  # these options are those of a CPU
