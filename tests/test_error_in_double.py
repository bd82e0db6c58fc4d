"""Brackets of single-precision chains hold the error in float64, known and traced, and are narrow.

Where nothing is traced they are made in float64 on the host: as wide as rounding the chain asks.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from . import oracles
from .test_approximation_error import MIXING, dense, sticky, truth
from .test_extensions import random_exogenous, ring
from .test_state_mdp import hidden_model

SIZES = (6, 6)


def cast(dtype, tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), tree)


@partial(jax.jit, static_argnames="discount")
def traced(chain, rewards, local, discount):
    return je.approximation_error(chain, rewards, local, discount=discount)


def both(chain, rewards, local, discount):
    """The bracket where nothing is traced, and the one of a trace, of float32."""
    known = je.approximation_error(chain, rewards, local, discount=discount)
    return known, traced(chain, rewards, local, discount=discount)


def holds(found, mean, largest):
    assert found.value.dtype == found.upper.dtype == found.error.dtype == np.float32
    assert found.lower <= mean <= found.upper
    assert found.sup_lower <= largest <= found.sup_upper


def width(found):
    return float((found.upper - found.lower) / found.value)


def many(draws):
    """Shares of the error: half widths of known and traced brackets, by discount."""
    widths = {discount: [] for discount in (0.9, 0.99, 0.999)}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        P = (dense if seed % 2 else sticky)(rng)
        mu, r = oracles.stationary(P), [rng.normal(size=6) for _ in SIZES]
        with jax.enable_x64(False):
            chain = je.PairChain.from_matrix(jnp.asarray(P, np.float32), sizes=SIZES)
            for discount, found in widths.items():
                local = je.local_q_values(chain, cast(np.float32, r), discount=discount)
                brackets = both(chain, cast(np.float32, r), local, discount)
                plain = [np.asarray(q, float) for q in local]
                mean, largest, _ = truth(P, mu, oracles.lift(r), oracles.lift(plain), discount)
                for bracket in brackets:
                    holds(bracket, mean, largest)
                found.append([width(bracket) / 2 for bracket in brackets])
    return {discount: np.median(found, axis=0) for discount, found in widths.items()}


def test_brackets_hold_and_are_narrow():
    """12 random and sticky chains: known ones within 1% of the error at a discount of 0.999."""
    found = many(12)
    for discount, (known, inside) in found.items():
        assert known < 1e-5 / (1 - discount)
        assert 5 * known < inside < 1e-4 / (1 - discount)


@pytest.mark.slow
def test_many_brackets_hold():
    """400 chains."""
    print(many(400))


def signal(rng):
    kernels, chain, rewards, policy = random_exogenous(rng, 1, False)
    mdp = je.ExogenousMDP(tuple(kernels[0]), tuple(rewards[0]), chain[0], 0.9)
    return je.pair_chain(mdp, policy[0])


KINDS = {name: MIXING[name] for name in MIXING if "dense" not in name} | {
    "signal": signal,
    "neighbors": lambda rng: je.pair_chain(*ring(rng, 3, 2)),
    "hidden": lambda rng: je.pair_chain(*hidden_model()),
}
QUICK = {"weakly coupled, 3 agents", "exchangeable, N = 10, 3 states", "neighbors", "hidden"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in KINDS]
)
def test_every_kind_of_chain_in_one_process(name):
    """Traced in float32, then certified in float64: no table of one is in the way of the other."""
    with jax.enable_x64(True):
        wide = KINDS[name](np.random.default_rng(0))
        P = np.asarray(wide.matrix())
        r = [np.random.default_rng(1).normal(size=n) for n in wide.view_sizes]
        joint = np.asarray(wide.lift(r))
        mu = np.asarray(je.stationary_distribution(wide))
    with jax.enable_x64(False):
        chain, rewards = KINDS[name](np.random.default_rng(0)), cast(np.float32, r)
        local = je.local_q_values(chain, rewards, discount=0.9)
        brackets = both(chain, rewards, local, 0.9)
    with jax.enable_x64(True):
        f = np.asarray(wide.lift(cast(np.float64, local)))
    mean, largest, _ = truth(P, mu, joint, f, 0.9)
    for bracket in brackets:
        holds(bracket, mean, largest)
    assert width(brackets[0]) <= width(brackets[1])
    assert brackets[0].converged


def test_under_the_law_of_another_team_and_of_a_fit():
    """The norm is the one that was asked for."""
    rng = np.random.default_rng(2)
    P, r, f = dense(rng), rng.normal(size=36), rng.normal(size=36)
    law = rng.dirichlet(np.ones(36))
    with jax.enable_x64(False):
        chain = je.PairChain.from_matrix(P, sizes=SIZES)
        found = je.approximation_error(chain, r, f, discount=0.9, law=law)
        fit = je.fit_additive(chain, r, discount=0.99)
    mean, largest, _ = truth(P, law, r, f, 0.9)
    holds(found, mean, largest)
    total = np.asarray(fit.q_total, float)
    holds(fit.bracket, *truth(P, oracles.stationary(P), r, total, 0.99)[:2])
    assert found.converged
    assert fit.bracket.converged
    assert width(fit.bracket) < 0.01
