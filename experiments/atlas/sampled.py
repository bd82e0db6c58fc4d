"""Problems that only give samples: environments of JaxMARL and Jumanji, their numbers estimated.

Nothing is exact here. E_i is a lower estimate relative to features of what agents see, the error of
the sum an estimate with its interval, and what a team loses is relative to the best team that was
trained or goes by a rule. Of what agents see the estimators are given few numbers, the networks
all. Errors of trained critics are left out: these value a game to its end, while in a log the next
game follows. A package that is missing is said, and so is an environment that cannot be played by
agents with finitely many actions.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.data.environment_samplers import environment_sampler

from . import networks
from .environments import SAMPLED, Sampled
from .measuring import EXPLORED, Row, Trained

Array = jax.Array

# Of what an agent sees no more numbers than this are given to the estimators.
KEPT = 40


class Skipped(NamedTuple):
    """A row that there is not, and why."""

    problem: str
    reason: str


def measure(
    name: str, seed: int, *, updates: int | None = None, steps: int | None = None
) -> dict[str, Any] | Skipped:
    """All rows of an environment, or why there are none.

    Args:
        name: of `SAMPLED`.
        seed: of everything.
        updates: of each network, each of `networks.GAMES` stretches of `networks.STEPS` steps;
            those of the entry if not given.
        steps: of each log; those of the entry if not given.
    """
    # Environments are written for single precision, in which networks are trained as well.
    with jax.enable_x64(False):
        entry = SAMPLED[name]
        return _measure(entry, seed, updates or entry.updates, steps or entry.steps)


def _measure(entry: Sampled, seed: int, updates: int, steps: int) -> dict[str, Any] | Skipped:
    name = entry.name
    try:
        env = entry.make()
    except ImportError as error:
        return Skipped(name, f"{error.name} is missing; pip install 'jaxent[envs]'")
    try:
        sampler = environment_sampler(env, None, "nor is it of another package")
        jax.eval_shape(sampler.reset, jax.random.key(0))
    except ValueError as error:
        return Skipped(name, str(error))
    team = networks.Team.of(sampler, entry.discount)
    own = jax.random.fold_in(jax.random.key(seed), crc32(name.encode()))
    train, vdn_key, qmix_key, play = jax.random.split(own, 4)
    gradient = _compiled(networks.gradient, team, updates)(train)
    vdn = _compiled(networks.values, team, False, updates)(vdn_key)
    qmix = _compiled(networks.values, team, True, updates)(qmix_key)
    teams = {
        "uniform": (None, networks.at_random),
        **({} if entry.rule is None else {"heuristic": (None, networks.ruled(entry.rule))}),
        "independent": gradient,
        "vdn": vdn,
        "qmix": qmix,
    }
    earned, rows = {}, []
    errors = {}
    for k, (policy, (weights, choose)) in enumerate(teams.items()):
        play_key, log_key, told_key = jax.random.split(jax.random.fold_in(play, k), 3)
        earn = jax.jit(partial(networks.earned, team, choose=choose, explored=0.0))
        each = np.asarray(earn(play_key, weights=weights), float)
        earned[policy], errors[policy] = each.mean(), each.std(ddof=1) / len(each) ** 0.5
        log = _played(log_key, env, team, choose, weights, steps)
        row = _row(told_key, name, policy, log, team.discount)
        rows.append(row._replace(value=earned[policy], value_error=errors[policy]))
    if not any(earned.values()):
        return Skipped(name, f"no team is ever paid; it was trained by {updates} updates")
    best = max(earned.values())
    trained = Trained(
        problem=name,
        family=entry.package,
        states=0,
        pairs=0,
        agents=len(sampler.agents),
        discount=entry.discount,
        uniform=earned["uniform"],
        best=best,
        certain=False,
        joint=None,
        returns={k: [earned[k]] for k in ("independent", "vdn", "qmix")},
        kind="estimated",
    )
    return {"trained": trained, "rows": rows}


def _compiled(function: Any, team: networks.Team, *options: Any) -> Any:
    """A training, its weights compiled; what it gives beside them are functions."""

    def run(key: Array) -> Any:
        functions = []

        def weights(key: Array) -> Any:
            found, *rest = function(key, team, *options)
            functions[:] = rest
            return found

        found = jax.jit(weights)(key)
        return (found, *functions)

    return run


def _played(
    key: Array, env: Any, team: networks.Team, choose: Any, weights: Any, steps: int
) -> jaxent.Trajectory:
    """A log of a team that in a share of the epochs plays anything."""
    names = team.sampler.agents

    def policy(key: Array, observations: Any, masks: Any = None) -> Any:
        seen = team.see(tuple(observations[a] for a in names))
        allowed = team.allowed(None if masks is None else tuple(masks[a] for a in names))
        actions, _ = choose(weights, key, seen, allowed, explored=EXPLORED)
        return dict(zip(names, actions.astype(jnp.int32), strict=True))

    log = jaxent.rollout(key, env, policy, num_steps=steps // 16, num_envs=16, features=True)
    if log.shares_reward:  # each is paid what the team is, as elsewhere
        log = dataclasses.replace(log, rewards=np.stack([log.rewards] * len(names), 1))
    return log


def _row(key: Array, name: str, policy: str, log: jaxent.Trajectory, discount: float) -> Row:
    """What a log tells."""
    own_key, sum_key, error_key, _ = jax.random.split(key, 4)
    log = _shorter(log)
    found = jaxent.entanglement_from_logs(own_key, log, num_permutations=1)
    values = jaxent.learning.linear_local_q(sum_key, log, discount=discount)
    told = jaxent.estimate_approximation_error(error_key, log, values, discount=discount)
    own = np.maximum(np.asarray(found.value), 0)
    sum_error, low, high = _shares(told)
    return Row(
        problem=name,
        policy=policy,
        value=np.nan,
        entanglement=float(np.nanmax(own)),
        entanglement_sum=float(np.nansum(own)),
        reward=None,
        sum_error=sum_error,
        vdn_error=None,
        vdn_share=None,
        qmix_error=None,
        vdn_gap=None,
        qmix_gap=None,
        kind="estimated",
        sum_lower=low,
        sum_upper=high,
    )


def _shorter(log: jaxent.Trajectory) -> jaxent.Trajectory:
    """The log with what agents see in `KEPT` numbers each: the leading principal components."""
    seen = np.asarray(log.observations, float)  # [T, N, d]
    if seen.shape[2] <= KEPT:
        return log
    away = seen - seen.mean(0)
    parts = []
    for own in away.transpose(1, 0, 2):
        _, axes = np.linalg.eigh(own.T @ own)
        parts.append(own @ axes[:, -KEPT:])
    return dataclasses.replace(log, observations=np.stack(parts, 1))


def _shares(told: jaxent.ErrorEstimate) -> tuple[float, float, float]:
    """mean |error less its mean| over the spread of values, with the ends of its interval."""
    if not told.spread > 0:
        return 0.0, 0.0, 0.0
    value, low, high, _ = (float(x / told.spread) for x in told.centered)
    return value, low, high
