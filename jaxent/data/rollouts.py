r"""Trajectories from environments: a policy is played, and what it does is a log.

What an agent sees is its local state, so the states are the distinct observations that occur, or
the integers that `encode` makes of them. Many finite games declare a continuous space, so it is the
play that is asked, not the space: whoever sees more than `max_states` different things is refused
after the first stretch of it, before anything long has run; `features=True` keeps numbers as they
are.

A game that ends starts anew. That jump is part of the chain, by which a team that plays again and
again has a stationary law and a reward at the end is followed by something; `separate_episodes`
marks the ends instead, and then the last row of an episode, which nothing follows, teaches nothing.
A game that only the clock has ended is another matter: it would have gone on, so what was seen last
is kept as a row, and nothing follows that.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from .._checks import check_positive_int
from .acting import Acted, cast
from .environment_protocols import (
    Environment,
    Observation,
    ParallelEnvironment,
    SingleAgentEnvironment,
    SpecifiedEnvironment,
)
from .environment_samplers import environment_sampler
from .host_play import ParallelGame, host_stretches
from .local_pairs import MOST_PAIRS
from .play import is_masked, stretches
from .recording import record
from .seeing import Eye
from .trajectory import Trajectory

Array = jax.Array

_REMEDY = (
    "nor `possible_agents` (PettingZoo); an environment by name is made by its package, or by "
    "from_jaxmarl and from_gymnax"
)


def rollout(
    key: Array,
    env: Environment[Observation]
    | SingleAgentEnvironment[Observation]
    | SpecifiedEnvironment[Observation]
    | ParallelEnvironment[Observation],
    policy: Callable[..., Mapping[str, ArrayLike] | Mapping[int, ArrayLike] | Acted],
    *,
    num_steps: int,
    num_envs: int = 1,
    carry: object = None,
    team: Sequence[Hashable] | None = None,
    others: Callable[..., Mapping[str, ArrayLike] | Mapping[int, ArrayLike] | Acted] | None = None,
    params: object = None,
    encode: Callable[..., ArrayLike] | None = None,
    features: bool | Callable[..., ArrayLike] = False,
    signal: Callable[..., ArrayLike] | None = None,
    shared_reward: bool = False,
    separate_episodes: bool = False,
    time_limit: int | None = None,
    max_states: int | None = None,
) -> Trajectory:
    r"""Play a policy in an environment of JaxMARL, Jumanji, gymnax or PettingZoo and record it.

    Agents go by the names that the environment gives them; those of Jumanji are 0, 1, .., and that
    of gymnax or gymnasium is 0. JAX compiles the play, but for PettingZoo and gymnasium, which are
    played in Python: the policy sees what they give (NumPy), of those agents who are there.

    An agent that is out (JaxMARL's `done` of it, a discount of 0 in Jumanji, termination in
    PettingZoo) is not `present` from the next row to the end of its game, and what it is paid there
    is left out, unless `shared_reward`.

    Args:
        key: of `jax.random.key`.
        env: an `Environment` as JaxMARL's are (with `agents`), a `SpecifiedEnvironment` as
            Jumanji's (`action_spec`), a `SingleAgentEnvironment` as gymnax's (`default_params`), a
            `ParallelEnvironment` as PettingZoo's (`possible_agents`), or one of gymnasium.
        policy: `policy(key, observations)`, from what each agent sees, by name, to its action, by
            name. It is also given `masks`, by name which actions an agent may choose, and `carry`,
            if it has parameters of these names; and it gives `Acted` if it has more to say: `laws`
            (recorded as `action_laws`, for `audit(log, policy=log.action_laws)`) and its next
            carry. What it reads is its own choice: an agent that reads what others see is
            entangled with them.
        num_steps: T, rows of the log for each environment. Static.
        num_envs: E environments at once, each with a key of its own (`jax.random.split(key, E)`).
            Their rows come one environment after another, each its own episodes. The log takes
            about E T N (14 + 4 d + 4 A) bytes in float32, d of them only with features and A only
            with laws; twice that while it is made, and 64 steps of each environment on the
            device. Static.
        carry: of a recurrent policy, the first one of a game, for one environment.
        team: names of those who are recorded; all if not given. Others play as well.
        others: their policy, which sees what they see; `policy` then plays for the team alone.
            Without it, `policy` plays for all. It may take `masks`, but no carry.
        params: of a gymnax environment; its default ones if not given.
        encode: `encode(observation)` or `encode(agent, observation)`, a nonnegative integer that is
            the local state; the observation itself is the state if not given, with 0 beyond what
            an agent sees where others see more.
        features: whether to keep what agents see in numbers, `Trajectory.observations`, flattened
            and with 0 beyond what an agent has; or a function of an observation, or of an agent and
            it, that says what to keep. States are then all one, unless `encode` tells them.
        signal: from the state of the environment (for PettingZoo the environment itself) to an
            integer that all see.
        shared_reward: whether the reward is one for all agents.
        separate_episodes: whether a game that starts anew is another episode.
        time_limit: steps after which a game is ended by the clock. An end at this very step is
            taken for the clock's, so where an environment does not tell its clock from an end for
            good (JaxMARL; RobotWarehouse of Jumanji), say here what its clock is.
        max_states: more local states than this are refused; what an audit takes if not given,
            1023 pairs of state and action.

    Returns:
        A trajectory of E T epochs, its labels the names of the agents, the observations (or what
        `encode` made of them) and the numbers of the actions. A game that only the clock has ended
        (also by gymnax's and Jumanji's word) has a last row of what was seen then: the action there
        is drawn, nothing is paid, nothing follows. Only an environment that starts anew within
        `step`, and has no `step_env`, does not show it.

    Raises:
        ValueError: for an environment of none of these kinds, or one that breaks its contract (no
            observation or reward of an agent, no "__all__" among its ends, other shapes in `step`
            than in `reset`); for actions that are no finite set; for more observations than
            `max_states`, or one not finite; for an `encode`, a `signal` or a policy that gives
            something else; for an action that a mask forbids, naming the step and the agent; for a
            law that is none; for rewards that differ though shared.

    References:
        Rutherford et al., JaxMARL, 2024. Bonnet et al., Jumanji, 2023. Lange, gymnax, 2022. Terry
        et al., PettingZoo, 2021.
    """
    for name, number in (("num_steps", num_steps), ("num_envs", num_envs)):
        check_positive_int(name, number)
    if time_limit is not None:
        check_positive_int("time_limit", time_limit)
    if max_states is not None:
        check_positive_int("max_states", max_states)
    host = hasattr(env, "possible_agents") or _is_gymnasium(env)
    if host and num_envs > 1:
        raise ValueError(
            f"num_envs: {type(env).__name__} is played in Python, one game at a time; wanted 1, "
            "and a call with another key for each more"
        )
    play_key = key
    if host:
        first_key, play_key = jax.random.split(key)
        game = ParallelGame(env, first_key)
        masked = game.masked
    else:
        game = environment_sampler(env, params, _REMEDY)
        masked = is_masked(game, key)
    players = cast(
        game.agents,
        game.num_actions,
        policy,
        others,
        team,
        masked=masked,
        recurrent=carry is not None,
    )
    eye = Eye(tuple(game.agents[i] for i in players.team), encode, features, signal)
    if isinstance(game, ParallelGame):
        rows = host_stretches(
            play_key, game, players, eye, carry, num_steps=num_steps, time_limit=time_limit
        )
    else:
        rows = stretches(
            play_key,
            game,
            players,
            eye,
            jax.tree.map(jnp.asarray, carry),
            num_steps=num_steps,
            num_envs=num_envs,
            time_limit=time_limit,
        )
    return record(
        rows,
        players,
        eye,
        num_steps=num_steps,
        shared_reward=shared_reward,
        separate_episodes=separate_episodes,
        max_states=max_states or max(1, MOST_PAIRS // max(game.num_actions)),
    )


def _is_gymnasium(env: Any) -> bool:
    """Whether this is an environment of one agent with spaces as attributes."""
    if any(hasattr(env, name) for name in ("agents", "default_params", "action_spec")):
        return False
    space = getattr(env, "action_space", None)
    return space is not None and not callable(space) and hasattr(env, "observation_space")
