"""(e) A thousand small MDPs at once: Q-values and the stationary law of a given policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from benchmarks.race import OURS, Row, race

TITLE = "Batches of MDPs: Q-values and stationary law, 20 states, 4 actions, discount 0.95"
DISCOUNT = 0.95


class Config(NamedTuple):
    """Batch sizes."""

    batches: tuple[int, ...] = (1000,)
    num_states: int = 20
    num_actions: int = 4
    rounds: int = 25


QUICK = Config(batches=(16,), num_states=5, num_actions=2, rounds=3)


def problems(rng: np.random.Generator, config: Config, batch: int) -> tuple[np.ndarray, ...]:
    """Kernels `[B, S, A, S]`, rewards `[B, S, A]`, policies `[B, S, A]`."""
    S, A = config.num_states, config.num_actions
    return (
        rng.dirichlet(np.ones(S), (batch, S, A)),
        rng.normal(size=(batch, S, A)),
        rng.dirichlet(np.ones(A), (batch, S)),
    )


@jax.jit
@jax.vmap
def ours(T, R, pi):
    """Q-values and law of the pair of one MDP, batched."""
    chain = jaxent.pair_chain(jaxent.MDP(T, R), pi)
    law = jaxent.stationary_distribution(chain)
    return jaxent.q_values(chain, [R], discount=DISCOUNT), law


def by_numpy(T, R, pi):
    """LAPACK on the stack of state matrices."""
    P, r = np.einsum("bsa,bsat->bst", pi, T), np.einsum("bsa,bsa->bs", pi, R)
    eye = np.eye(T.shape[1])
    V = np.linalg.solve(eye - DISCOUNT * P, r[..., None])[..., 0]
    A = eye - np.swapaxes(P, 1, 2)
    A[:, -1] = 1
    b = np.zeros((len(T), len(eye), 1))
    b[:, -1] = 1
    mu = np.linalg.solve(A, b)[..., 0]
    q = R + DISCOUNT * np.einsum("bsat,bt->bsa", T, V)
    return q.reshape(len(T), -1), (mu[..., None] * pi).reshape(len(T), -1)


def by_quantecon(T, R, pi):
    """One by one. QuantEcon evaluates deterministic policies, so the policy is made the only
    action."""
    from quantecon.markov import DiscreteDP
    from quantecon.markov.gth_solve import gth_solve

    values, laws = [], []
    only = np.zeros(T.shape[1], int)
    for kernel, reward, policy in zip(T, R, pi, strict=True):
        P, r = np.einsum("sa,sat->st", policy, kernel), (policy * reward).sum(1)
        V = DiscreteDP(r[:, None], P[:, None], DISCOUNT).evaluate_policy(only)
        values.append((reward + DISCOUNT * kernel @ V).ravel())
        laws.append((gth_solve(P)[:, None] * policy).ravel())
    return np.stack(values), np.stack(laws)


def run(config: Config, seed: int) -> list[Row]:
    """One row a batch size."""
    rng = np.random.default_rng(seed)
    rows = []
    for batch in config.batches:
        given = problems(rng, config, batch)
        arrays = tuple(jnp.asarray(x) for x in given)

        def apart(a: Any, b: Any) -> float:
            return max(float(np.abs(np.asarray(x) - y).max()) for x, y in zip(a, b, strict=True))

        rows.append(
            race(
                f"{batch} MDPs",
                {
                    OURS: lambda arrays=arrays: ours(*arrays),
                    "NumPy, batched": lambda given=given: by_numpy(*given),
                    "QuantEcon, one by one": lambda given=given: by_quantecon(*given),
                },
                apart=apart,
                within=1e-9,
                rounds=config.rounds,
                compiled=("QuantEcon, one by one",),
            )
        )
    return rows
