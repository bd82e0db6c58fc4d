"""Problems that only give samples: environments of JaxMARL and Jumanji, their numbers estimated.

Nothing is exact here. E_i is a lower estimate relative to features of what agents see, the error of
the sum an estimate with its interval, that of VDN and QMIX is that of the trained critic on its own
play, and what a team loses is relative to the best team that was trained. A package that is missing
is said, and so is an environment that cannot be played by agents with finitely many actions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.data.environment_samplers import environment_sampler

from . import networks
from .measuring import EXPLORED, Row, Trained, lost

Array = jax.Array


# Stretches of play that a network learns from, and steps of a log.
UPDATES, LOGGED = 500, 20_000


class Sampled(NamedTuple):
    """A row of the atlas that is estimated.

    Attributes:
        name: of it.
        package: that has it.
        source: who made it.
        make: makes the environment.
        discount: of returns.
    """

    name: str
    package: str
    source: str
    make: Callable[[], Any]
    discount: float = 0.9


def _jaxmarl(name: str, **options: Any) -> Any:
    import jaxmarl  # type: ignore[import-not-found]

    return jaxmarl.make(name, **options)


def _overcooked() -> Any:
    from jaxmarl.environments.overcooked import (  # type: ignore[import-not-found]
        overcooked_layouts,
    )

    return _jaxmarl("overcooked", layout=overcooked_layouts["cramped_room"])


def _smax() -> Any:
    from jaxmarl.environments.smax.smax_env import Scenario  # type: ignore[import-not-found]

    two = Scenario(jnp.zeros(4, jnp.uint8), 2, 2, False, False)
    return _jaxmarl("HeuristicEnemySMAX", scenario=two)


def _jumanji(name: str, **options: Any) -> Any:
    import jumanji  # type: ignore[import-not-found]

    return jumanji.make(name, **options)


def _warehouse() -> Any:
    from jumanji.environments.routing.robot_warehouse import (  # type: ignore[import-not-found]
        generator,
    )

    small = generator.RandomGenerator(
        shelf_rows=1, shelf_columns=1, column_height=2, num_agents=2, sensor_range=1,
        request_queue_size=2,
    )  # fmt: skip
    return _jumanji("RobotWarehouse-v0", generator=small, time_limit=100)


def _foraging() -> Any:
    from jumanji.environments.routing.lbf import generator  # type: ignore[import-not-found]

    small = generator.RandomGenerator(
        grid_size=5, fov=5, num_agents=2, num_food=1, force_coop=True, max_agent_level=2
    )
    return _jumanji("LevelBasedForaging-v0", generator=small, time_limit=50)


MARL = "Rutherford et al., JaxMARL, 2024"
JUMANJI = "Bonnet et al., Jumanji, 2024"
_SMALLEST = {"num_colors": 2, "num_ranks": 2, "hand_size": 2, "max_info_tokens": 3}

SAMPLED: dict[str, Sampled] = {
    s.name: s
    for s in (
        Sampled("coin_game", "jaxmarl", MARL, partial(_jaxmarl, "coin_game")),
        Sampled("mpe_spread", "jaxmarl", MARL, partial(_jaxmarl, "MPE_simple_spread_v3")),
        Sampled(
            "mpe_speaker", "jaxmarl", MARL, partial(_jaxmarl, "MPE_simple_speaker_listener_v4")
        ),
        Sampled("overcooked", "jaxmarl", MARL, _overcooked),
        Sampled("smax_2v2", "jaxmarl", MARL, _smax),
        Sampled("hanabi_2x2", "jaxmarl", MARL, partial(_jaxmarl, "hanabi", **_SMALLEST)),
        Sampled("robot_warehouse", "jumanji", JUMANJI, _warehouse),
        Sampled("foraging_sampled", "jumanji", JUMANJI, _foraging),
        Sampled("search_rescue", "jumanji", JUMANJI, partial(_jumanji, "SearchAndRescue-v0")),
    )
}


class Skipped(NamedTuple):
    """A row that there is not, and why."""

    problem: str
    reason: str


def measure(
    name: str, seed: int, *, updates: int = UPDATES, steps: int = LOGGED
) -> dict[str, Any] | Skipped:
    """All rows of an environment, or why there are none.

    Args:
        name: of `SAMPLED`.
        seed: of everything.
        updates: of each network, each of `networks.GAMES` stretches of `networks.STEPS` steps.
        steps: of each log.
    """
    # Environments are written for single precision, in which networks are trained as well.
    with jax.enable_x64(False):
        return _measure(SAMPLED[name], seed, updates, steps)


def _measure(entry: Sampled, seed: int, updates: int, steps: int) -> dict[str, Any] | Skipped:
    name = entry.name
    if not hasattr(jaxent, "rollout"):
        return Skipped(name, "this version of jaxent plays no environment with features")
    try:
        env = entry.make()
    except ImportError as error:
        return Skipped(name, f"{error.name} is missing; pip install 'jaxent[envs]'")
    try:
        make: Any = environment_sampler
        sampler = make(env, None, "nor is it of another package")
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
        "uniform": (None, networks.at_random, None),
        "independent": (*gradient, None),
        "vdn": vdn,
        "qmix": qmix,
    }
    earned, rows = {}, []
    for k, (policy, (weights, choose, critic)) in enumerate(teams.items()):
        play_key, log_key, told_key = jax.random.split(jax.random.fold_in(play, k), 3)
        earn = jax.jit(partial(networks.earned, team, choose=choose, explored=0.0))
        earned[policy] = float(earn(play_key, weights=weights).mean())
        log = _played(log_key, env, team, choose, weights, steps)
        rows.append(_row(told_key, name, policy, earned[policy], log, team, critic, weights))
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
    gap = {k: lost(best, earned["uniform"], earned[k]) for k in ("vdn", "qmix")}
    rows = [r._replace(vdn_gap=gap["vdn"], qmix_gap=gap["qmix"]) for r in rows]
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
) -> Any:
    """A log of a team that in a share of the epochs plays anything."""
    names = team.sampler.agents

    def policy(key: Array, observations: Any, masks: Any = None) -> Any:
        seen = team.see(tuple(observations[a] for a in names))
        allowed = team.allowed(None if masks is None else tuple(masks[a] for a in names))
        actions, _ = choose(weights, key, seen, allowed, explored=EXPLORED)
        return dict(zip(names, actions.astype(jnp.int32), strict=True))

    given: Any = jaxent
    return given.rollout(key, env, policy, num_steps=steps // 16, num_envs=16, features=True)


def _row(
    key: Array, name: str, policy: str, value: float, log: Any, team: networks.Team,
    critic: Any, weights: Any,
) -> Row:  # fmt: skip
    """What a log tells."""
    own_key, sum_key, error_key, critic_key = jax.random.split(key, 4)
    learning: Any = jaxent.learning
    found = jaxent.entanglement_from_logs(own_key, log, num_permutations=9)
    values = learning.linear_local_q(sum_key, log, discount=team.discount)
    told = jaxent.estimate_approximation_error(error_key, log, values, discount=team.discount)
    off = None
    if critic is not None:
        seen = jnp.asarray(log.observations, float)
        agents = seen.shape[1]
        number = jnp.broadcast_to(jnp.eye(agents), (len(seen), agents, agents))
        seen = jnp.concatenate([seen, number], 2)
        # The critic's reward is the mean of the agents', that of a log their sum.
        q = agents * critic(weights, seen, jnp.asarray(log.actions))
        error = jaxent.estimate_approximation_error(
            critic_key, log, np.asarray(q), discount=team.discount
        )
        off = float(error.centered.value / error.spread)
    own = np.maximum(np.asarray(found.value), 0)
    return Row(
        problem=name,
        policy=policy,
        value=value,
        entanglement=float(np.nanmax(own)),
        entanglement_sum=float(np.nansum(own)),
        reward=None,
        sum_error=float(told.centered.value / told.spread),
        vdn_error=off if policy == "vdn" else None,
        vdn_share=None,
        qmix_error=off if policy == "qmix" else None,
        vdn_gap=0.0,
        qmix_gap=0.0,
        kind="estimated",
    )
