"""Chains whose order of locality is known by how they are made, and dense NumPy that tells it.

A term ⊗_i f_i ν_i' takes a function of the next pair to one of the current pair: f_i is centered
where agent i is in `out` and constant elsewhere, ν_i has sum 0 where agent i is in `into` and is a
law elsewhere. It is 0 on functions of the pairs of A unless `into` is in A, and then the result
depends on the pairs of `out`. So a term whose `out` is not in `into` takes rewards on fewer than
|into| agents to 0, and some on |into| agents to what is no function of these. Products of
transitions leave every function where it is.
"""

from functools import reduce
from itertools import combinations, product

import numpy as np


def family(num_agents, order, strength=1.0):
    """U^(⊗N) + c (ε e') ⊗ (e ε')^(⊗ order + 1) ⊗ (e e')^(⊗ rest), c = strength 2^-N."""
    e, eps = np.ones((2, 1)), np.array([[1.0], [-1.0]])
    parts = [eps @ e.T] + [e @ eps.T] * (order + 1) + [e @ e.T] * (num_agents - order - 2)
    return (1 + strength * reduce(np.kron, parts)) / 2**num_agents


def product_chain(rng, sizes):
    """A weighted sum of products near uniform, one weight negative."""
    products = [
        reduce(np.kron, [0.6 / n + 0.4 * rng.dirichlet(np.ones(n), n) for n in sizes])
        for _ in range(3)
    ]
    mixed = (products[0] + products[1]) / 2
    weight = 0.5 * (mixed / products[2]).min()
    return (mixed - weight * products[2]) / (1 - weight)


def term(rng, sizes, out, into):
    """One term, its largest entry 1."""
    parts = []
    for i, n in enumerate(sizes):
        f, nu = rng.normal(size=n), rng.normal(size=n)
        f = f - f.mean() if i in out else np.ones(n)
        nu = nu - nu.mean() if i in into else rng.dirichlet(np.full(n, 5.0))
        parts.append(np.outer(f / np.abs(f).max(), nu / np.abs(nu).max()))
    return reduce(np.kron, parts)


def chain_of_order(rng, sizes, order):
    """A random chain on which rewards of up to `order` agents stay theirs, and no more do."""
    n = len(sizes)
    P = product_chain(rng, sizes)
    if order == n - 1:
        return P
    terms = []
    for size in range(order + 1, n):
        into = rng.permutation(n)[:size]
        out = {rng.choice(np.setdiff1d(np.arange(n), into))}
        out |= {i for i in range(n) if rng.random() < 0.3}
        if size == order + 1 or rng.random() < 0.5:
            terms.append(term(rng, sizes, out, into))
    T = np.sum([t * rng.uniform(0.5, 1) for t in terms], 0)
    return P + 0.95 * (P[T < 0] / -T[T < 0]).min() * T


def lifted(sizes, block):
    """Indicators of the pairs of a block as joint functions, `[J, X]`."""
    parts = [np.eye(n) if i in block else np.ones((n, 1)) for i, n in enumerate(sizes)]
    return reduce(np.kron, parts)


def left_by(sizes, block, functions):
    """What the functions of the pairs of a block leave of joint functions, `[J, m]`."""
    return fit_leaves(lifted(sizes, block), functions)


def order_of(P, sizes, tol=1e-9, there=None):
    """The order of locality by least squares, one block after another, on these joint pairs."""
    n = len(sizes)
    there = np.full(len(P), True) if there is None else there
    for size in range(1, n):
        for block in combinations(range(n), size):
            B = lifted(sizes, block)
            if np.abs(fit_leaves(B[there], (P @ B)[there])).max() > tol:
                return size - 1
    return n - 1


def fit_leaves(design, functions):
    """What least squares on the columns of a design leave of functions, `[J, m]`."""
    return functions - design @ np.linalg.lstsq(design, functions, rcond=None)[0]


def span_of_products(sizes):
    """An orthonormal basis of what products of transitions span, `[J * J, rank]`."""
    maps = [[np.eye(n)[list(m)] for m in product(range(n), repeat=n)] for n in sizes]
    products = np.stack([reduce(np.kron, p).ravel() for p in product(*maps)], 1)
    left, size, _ = np.linalg.svd(products, full_matrices=False)
    return left[:, size > 1e-9 * size[0]]
