"""What Hypothesis draws: sizes from a few, which compile once each, and values by seed and kind."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import by_precision

THOROUGH = settings().max_examples > 100
KINDS = ("dense", "sparse", "deterministic", "tiny", "lazy", "identical")

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)
discounts = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.99999]), st.floats(0, 0.99999))
scales = st.sampled_from([0.0, 1e-6, 1.0, 1.0, 1.0, 1e6])

examples_run = 0


def few(*options):
    """All options in a thorough run, the first alone otherwise: each of them is compiled."""
    return st.sampled_from(options if THOROUGH else options[:1])


FLOAT = by_precision(np.float64, np.float32)
dtypes = few(np.float64, np.float32) if np.float64 == FLOAT else st.just(FLOAT)


def holds(part=1.0, /, **drawn):
    """A property of everything drawn, looked at on this part of the profile's examples."""

    def wrap(test):
        @functools.wraps(test)
        def counted(**values):
            global examples_run
            examples_run += 1
            test(**values)

        number = max(3, round(part * settings().max_examples))
        return settings(max_examples=number)(given(**drawn)(counted))

    return wrap


def laws(rng, kind, *shape, dtype=FLOAT):
    """Laws on the last axis, `shape`, of one kind."""
    size = shape[-1]
    if kind == "deterministic":
        rows = np.eye(size)[rng.integers(size, size=shape[:-1])]
    elif kind == "identical":
        rows = np.broadcast_to(rng.dirichlet(np.ones(size)), shape)
    else:
        rows = rng.dirichlet(np.ones(size), shape[:-1])
        some = rng.random(shape) < 0.5
        some |= np.arange(size) == rng.integers(size, size=shape[:-1])[..., None]
        if kind == "sparse":
            rows = np.where(some, rows + 1e-3, 0)
        elif kind == "tiny":
            rows = np.where(some, rows + 1e-3, 1e-300)
        elif kind == "lazy":  # nearly decomposable where the shape is that of a kernel
            stay = np.eye(size)[np.arange(shape[0]) % size].reshape(
                -1, *[1] * (len(shape) - 2), size
            )
            rows = 1e-9 * rows + (1 - 1e-9) * np.broadcast_to(stay, shape)
    return normal(rows, dtype)


def normal(rows, dtype=FLOAT):
    """Rows that sum to 1 in their own dtype."""
    rows = np.asarray(rows, dtype)
    return rows / rows.sum(-1, keepdims=True)


def numbers(rng, scale, *shape, dtype=FLOAT):
    return (scale * rng.normal(size=shape)).astype(dtype)


def eps(dtype):
    return float(np.finfo(dtype).eps)


def recurrent_classes(P):
    """Closed classes of a chain by reachability, as bool rows."""
    reach = (np.asarray(P) > 0) | np.eye(len(P), dtype=bool)
    for k in range(len(P)):
        reach = reach | (reach[:, k : k + 1] & reach[k : k + 1])
    closed = [row for i, row in enumerate(reach) if reach[row][:, i].all()]
    return np.unique(np.array(closed), axis=0)


def finite(tree):
    import jax

    return all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
