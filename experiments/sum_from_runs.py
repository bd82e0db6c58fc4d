r"""Gap and error of a sum of local values from runs, whatever the policy keeps in mind.

An agent's own chain of pairs x = (s, a) is what it looks like from outside (Eq. 2): from runs its
flow from pair to pair is counted, for each type, and its local values are Q = r + discount P Q. The
error of their sum in a team state is e = E[return] - Σ_i Q(x_i). With any values h(s) of the states

    e = Σ_x y_0 (g - Q) + E Σ_{t>0} discount^t [Σ_x y_t g - Σ_s n_t h],  g = r + discount P h,

with n the counts and y the splits: the noise of moves is gone, as E[Σ n_{t+1} h | y_t] is known. h
is the linear value that the runs themselves suggest (LSTD), so that the later terms are small where
the play is nearly linear in the counts. The first term is squared at every step of the runs; for
the others some continuations go on independently from where each run ends, so that the mean of
their products in pairs is E[e^2], without a bias. As E[e] = 0, what the noise of Q shifts all e by
is taken off.

The gap to the bound is the mean of what the actions of the same runs lose by the relaxation
(`jaxent.optimality_gap`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.linalg import block_diag

import jaxent
from jaxent.restless.agents_process import AgentsProcess
from jaxent.restless.fluid import Data, known_data
from jaxent.restless.optimality_gap import fluid_losses, start_near
from jaxent.restless.population_process import Process, process_of

Array = jax.Array
ByType = tuple[Array, ...]

# Groups of runs, for standard errors.
GROUPS = 12


class Measured(NamedTuple):
    """What runs of a policy at one N give.

    Attributes:
        gap: bound less reward, an agent and step.
        gap_error: its standard error.
        rms_error: sqrt(E[e^2]).
        rms_standard_error: of that.
    """

    gap: float
    gap_error: float
    rms_error: float
    rms_standard_error: float


def measure_runs(
    key: Array,
    population: jaxent.WeaklyCoupledPopulation,
    policy: Any,
    *,
    num_runs: int,
    burn_in: int,
    num_steps: int,
    horizon: int,
    branches: int,
) -> Measured:
    """Gap and error of the sum of local values, root mean square, by simulation at any N.

    Args:
        key: of `jax.random.key`.
        population: all its values known.
        policy: as for `simulate_population`.
        num_runs: R, each giving one state to continue from.
        burn_in: steps before those that count.
        num_steps: T, steps of each run that count for the gap and the local values.
        horizon: steps of a continuation.
        branches: continuations of each run, at least 2.
    """
    data, fluid = known_data(population), jaxent.fluid_policy(population)
    counts = tuple(jnp.asarray(n, jnp.int32) for n in start_near(fluid, data.counts))
    process = process_of(population, policy)
    ran, branched = jax.random.split(key)
    flows, moments, acted, first = _runs(ran, process, counts, sizes=(num_runs, burn_in, num_steps))
    flows = [np.asarray(flow, np.float64) for flow in flows]  # [R, X_k, X_k]
    moments = np.asarray(moments, np.float64)  # [R, X, X]
    discount = data.discount
    state, gain = team_values(moments.sum(0), data)
    errors = _errors(branched, process, acted, gain, state, discount, sizes=(branches, horizon))
    later = np.asarray(errors, np.float64)
    ends = np.concatenate([np.reshape(part, (num_runs, -1)) for part in first], axis=1)
    parts = flows, moments / num_steps, ends, later
    square = mean_square(data, gain, *parts)
    # Local values are of all runs, so that the spread is over what groups of runs leave out.
    group = np.arange(num_runs) % min(GROUPS, num_runs)
    without = [
        mean_square(
            data, gain, [flow[group != g] for flow in flows], *(x[group != g] for x in parts[1:])
        )
        for g in range(group.max() + 1)
    ]
    half = np.sqrt(np.var(without) * group.max())
    root = np.sqrt(max(square, 0.0))
    half = half / (2 * root) if root > 0 else np.sqrt(half)
    losses = fluid_losses(data, fluid, None).by_agent(data)
    lost = sum(
        flow.sum(-1) @ loss.reshape(-1) for flow, loss in zip(flows, losses, strict=True)
    ) / (num_steps * data.counts.sum())
    spread = np.std(lost, ddof=1) / np.sqrt(num_runs)
    return Measured(float(np.mean(lost)), float(spread), float(root), float(half))


def mean_square(
    data: Data,
    gain: np.ndarray,
    flows: list[np.ndarray],
    moments: np.ndarray,
    ends: np.ndarray,
    later: np.ndarray,
) -> float:
    """E[e^2] by some runs: their flows `[R, X_k, X_k]`, E[y y'], last splits and later terms."""
    own = [
        local_values(flow.sum(0), r, data.discount)
        for flow, r in zip(flows, data.rewards, strict=True)
    ]
    off = gain - np.concatenate(own)
    out = np.concatenate([flow.sum((0, 2)) for flow in flows])
    steps = flows[0].sum() / data.counts[0]
    linear = off @ moments.mean(0) @ off - (out @ off / steps) ** 2
    begin = ends @ off
    both = later + begin[:, None]
    begin, both = begin - begin.mean(), both - both.mean()
    branches = later.shape[1]
    pairs = (both.sum(1) ** 2 - (both**2).sum(1)) / (branches * (branches - 1))
    return float(linear + (pairs - begin**2).mean())


def local_values(flow: np.ndarray, reward: np.ndarray, discount: float) -> np.ndarray:
    """Q of the pairs `[X]` from their flow `[X, X]`; a pair that is never met is paid once."""
    out = flow.sum(1)
    P = np.where(out[:, None] > 0, flow / np.where(out > 0, out, 1)[:, None], 0)
    return np.linalg.solve(np.eye(len(flow)) - discount * P, reward)


def team_values(moments: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """h of the states `[S]` and r + discount P h `[X]`, by LSTD from E[y y'], `[X, X]`."""
    here = block_diag(*(np.repeat(np.eye(S), A, axis=0).T for S, A in data.sizes))  # [S, X]
    P, reward = block_diag(*data.kernels), np.concatenate(data.rewards)
    seen = here @ moments  # E[n y']
    state = np.linalg.lstsq(seen @ (here.T - data.discount * P), seen @ reward, rcond=1e-10)[0]
    return state, reward + data.discount * P @ state


@partial(jax.jit, static_argnames="sizes")
def _runs(key: Array, process: Process, counts: ByType, *, sizes: tuple[int, int, int]):
    """Of each run the flow of each type `[R, X_k, X_k]`, Σ y y' and what is done at its end."""
    num_runs, burn_in, num_steps = sizes

    def run(key: Array):
        begin, ahead = jax.random.split(key)
        splits, acted = process.act(begin, process.start(begin, counts))

        def step(carry, drawn):
            (splits, acted), flow, moments = carry
            key, counted = drawn
            acts, moves = jax.random.split(key)
            state, before = _moved(process, moves, splits, acted)
            splits, acted = process.act(acts, state)
            added = _added(process, flow, before, splits, acted)
            flow = jax.tree.map(lambda new, old: jnp.where(counted, new, old), added, flow)
            y = _flat(splits).astype(float)
            return ((splits, acted), flow, moments + counted * jnp.outer(y, y)), None

        pairs = [len(part.reshape(-1)) for part in splits]
        flow = tuple(jnp.zeros((X, X)) for X in pairs)
        empty = jnp.zeros((sum(pairs), sum(pairs)))
        keys = jax.random.split(ahead, burn_in + num_steps)
        counted = jnp.arange(len(keys)) >= burn_in
        ((splits, acted), flow, moments), _ = lax.scan(
            step, ((splits, acted), flow, empty), (keys, counted)
        )
        return flow, moments, acted, splits

    return jax.vmap(run)(jax.random.split(key, num_runs))


def _flat(parts: ByType) -> Array:
    return jnp.concatenate([part.reshape(-1) for part in parts])


def _moved(process: Any, key: Array, splits: ByType, acted: Any):
    """The next state, and who came from where: `[X_k, S_k]` a type, or the pairs of the agents."""
    if isinstance(process, AgentsProcess):
        states, actions, _ = acted
        return process.move(key, acted), (states, actions)
    moved = process.flow(key, splits)
    ends = np.cumsum([S * A for S, A in process.sizes])[:-1]
    parts = [m[:, :S] for m, (S, _) in zip(jnp.split(moved, ends), process.sizes, strict=True)]
    return process.arrived(moved), tuple(parts)


def _added(process: Any, flow: ByType, before: Any, splits: ByType, acted: Any) -> ByType:
    """With the pairs that follow; on counts agents of a type and state are alike."""
    added = []
    if isinstance(process, AgentsProcess):
        (states, actions), (then, does, _) = before, acted
        for k, (part, (_, A)) in enumerate(zip(flow, process.sizes, strict=True)):
            mine = (process.kind == k).astype(part.dtype)
            added.append(part.at[states * A + actions, then * A + does].add(mine, mode="drop"))
        return tuple(added)
    for part, moved, split in zip(flow, before, splits, strict=True):
        here = split.sum(1, keepdims=True)
        chance = split / jnp.where(here > 0, here, 1)  # [S, A]
        added.append(part + (moved[:, :, None] * chance[None]).reshape(part.shape))
    return tuple(added)


@partial(jax.jit, static_argnames="sizes")
def _errors(key, process, acted, gain, state, discount, *, sizes: tuple[int, int]) -> Array:
    """The later terms of e of some continuations of each run, `[R, B]`."""
    branches, horizon = sizes

    def one(key: Array, acted: Any) -> Array:
        def step(acted: Any, keys: Array):
            moves, acts = jax.random.split(keys)
            splits, acted = process.act(acts, process.move(moves, acted))
            counts = tuple(part.sum(1) for part in splits)
            return acted, (_flat(splits) * gain).sum() - (_flat(counts) * state).sum()

        _, later = lax.scan(step, acted, jax.random.split(key, horizon))
        return (discount ** jnp.arange(1, horizon + 1) * later).sum()

    pair = jax.vmap(one, in_axes=(0, None))
    return jax.vmap(pair)(jax.random.split(key, (len(jax.tree.leaves(acted)[0]), branches)), acted)
