"""Agents that see numbers: how wrong the sum of their values is in JaxMARL's MPE simple_spread.

Three agents are to cover three landmarks. Policies at random, two by rule and one trained here
(independent PPO with shared weights) are played, and from each log alone it is estimated how far
the sum of local values is from the value of the team: of agents that do not see each other, that
see what the game shows them, and that each see everything. The game starts anew every 25 steps, as
a part of the chain, and the clock is one of the things that agents see.

Needs jaxmarl (pip install 'jaxent[envs,experiments]').
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxent
from experiments import command
from experiments.spread_training import trained_policy

ACTIONS, EPISODE = 5, 25
# An observation begins with the agent's velocity and its place; landmarks follow, then the others.
_OWN = 4
_NOISE = 0.1


class Config(NamedTuple):
    """What is computed.

    Attributes:
        policies: by name.
        steps: of each log.
        updates: of the trained policy, each of 64 episodes.
        discount: of the values.
    """

    policies: tuple[str, ...] = ("random", "nearest", "assigned", "trained")
    steps: int = 50_000
    updates: int = 1_000
    discount: float = 0.9


QUICK = Config(policies=("random", "assigned"), steps=20_000, updates=5)
HELP = {
    "policies": "of random, nearest, assigned, trained",
    "steps": "of each log",
    "updates": "of the trained policy, 64 episodes each",
    "discount": "of the values",
}
# What agents see of the game.
BLIND, SHOWN, EVERYTHING = "not each other", "as the game shows", "everything"

Policy = Callable[[jax.Array, jax.Array], jax.Array]


def make_game(num_agents: int = 3) -> Any:
    """The game with so many agents, and as many landmarks."""
    import jaxmarl  # type: ignore[import-not-found]

    return jaxmarl.make("MPE_simple_spread_v3", num_agents=num_agents, num_landmarks=num_agents)


def at_random(key: jax.Array, seen: jax.Array) -> jax.Array:
    """Any of five actions."""
    return jax.random.randint(key, seen.shape[:1], 0, ACTIONS)


def by_rule(key: jax.Array, seen: jax.Array, *, assigned: bool) -> jax.Array:
    """Towards the landmark that is nearest, or of the agent's own number; one in ten at random."""
    away = seen[:, _OWN : _OWN + 2 * len(seen)].reshape(len(seen), -1, 2)
    agent = jnp.arange(len(seen))
    goal = away[agent, agent if assigned else (away**2).sum(2).argmin(1)]
    x, y = (goal - 0.3 * seen[:, :2]).T
    far = jnp.abs(x) > jnp.abs(y)
    step = jnp.where(far, jnp.where(x > 0, 2, 1), jnp.where(y > 0, 4, 3))
    step = jnp.where(jnp.maximum(jnp.abs(x), jnp.abs(y)) < 0.05, 0, step)
    noise_key, any_key = jax.random.split(key)
    other = jax.random.uniform(noise_key, agent.shape) < _NOISE
    return jnp.where(other, at_random(any_key, seen), step)


def play(key: jax.Array, game: Any, policy: Policy, num_steps: int) -> jaxent.Trajectory:
    """A log of T steps, games one after another; the last observation is the clock."""

    def step(carry, key):
        observed, state = carry
        act_key, step_key = jax.random.split(key)
        seen = jnp.stack([observed[a] for a in game.agents])
        actions = policy(act_key, seen)
        clock = jnp.full((len(seen), 1), state.step / EPISODE)
        chosen = dict(zip(game.agents, actions, strict=True))
        observed, state, paid, *_ = game.step(step_key, state, chosen)
        paid = jnp.stack([paid[a] for a in game.agents])
        return (observed, state), (jnp.concatenate([seen, clock], axis=1), actions, paid)

    start_key, play_key = jax.random.split(key)
    keys = jax.random.split(play_key, num_steps)
    _, played = jax.jit(lambda start: lax.scan(step, start, keys))(game.reset(start_key))
    seen, actions, paid = map(np.asarray, played)
    numbers = jaxent.Labels.numbers(agents=len(game.agents), states=1, actions=ACTIONS)
    return jaxent.Trajectory.from_arrays(None, actions, paid, observations=seen, labels=numbers)


class Found(NamedTuple):
    """One log, seen in one way.

    Attributes:
        policy: by name.
        seen: by the agents.
        paid: mean reward of the team in a game.
        spread: of the sum of local values.
        error: mean |error| less its mean, with its interval, as shares of the spread.
        placebo: the same with features of another time.
        features: of an agent, and of the team.
    """

    policy: str
    seen: str
    paid: float
    spread: float
    error: tuple[float, float, float]
    placebo: tuple[float, float, float]
    features: tuple[int, int]


def measure(key: jax.Array, log: jaxent.Trajectory, name: str, discount: float) -> list[Found]:
    """The error of the sum of local values that the log teaches, by what agents see of it."""
    found = []
    observations = np.asarray(log.observations)
    alone = [*range(_OWN + 2 * log.num_agents), -1]  # with the clock
    for seen in (BLIND, SHOWN, EVERYTHING):
        value_key, waves_key, error_key = jax.random.split(key, 3)
        if seen == EVERYTHING:
            features = jaxent.learning.joint_features(waves_key, log)
        else:
            shown = observations[:, :, alone] if seen == BLIND else observations
            features = jaxent.learning.own_features(waves_key, replace(log, observations=shown))
        values = jaxent.learning.linear_local_q(
            value_key, log, discount=discount, features=features
        )
        told = jaxent.estimate_approximation_error(error_key, log, values, discount=discount)
        found.append(
            Found(
                name,
                seen,
                paid=float(np.asarray(log.rewards).sum(1).mean()) * EPISODE,
                spread=float(told.spread),
                error=_share(told.centered, told.spread),
                placebo=_share(told.placebo, told.spread),
                features=(features.shape[2], told.num_features),
            )
        )
    return found


def _share(part: jaxent.ErrorInterval, spread: np.float64) -> tuple[float, float, float]:
    value, lower, upper = (float(x / spread) for x in part[:3])
    return value, lower, upper


def check(config: Config) -> None:
    """Raise where the config makes no sense."""
    command.at_least(config, steps=5_000, updates=1)
    unknown = set(config.policies) - {"random", "nearest", "assigned", "trained"}
    if unknown:
        raise ValueError(f"policies: {unknown.pop()} is none of random, nearest, assigned, trained")
    if not 0 <= config.discount < 1:
        raise ValueError("discount: outside [0, 1)")


def work(job: command.Job) -> command.Report:
    """Play, measure and say what was found."""
    config, game = job.config, make_game()
    made = {
        "random": lambda: at_random,
        "nearest": lambda: partial(by_rule, assigned=False),
        "assigned": lambda: partial(by_rule, assigned=True),
        "trained": lambda: trained_policy(jax.random.key(job.seed), game, config.updates),
    }
    found = [Found(*row) for row in job.stored.get("found", [])]
    for k, name in enumerate(config.policies):
        if name in {row.policy for row in found}:
            continue
        play_key, key = jax.random.split(jax.random.fold_in(jax.random.key(job.seed), k))
        log = play(play_key, game, made[name](), config.steps)
        found += measure(key, log, name, config.discount)
        job.save({"found": [list(row) for row in found]}, f"{len(found)} rows are")
    by = {(row.policy, row.seen): row for row in found}
    better = [by[n, EVERYTHING].error[2] < by[n, BLIND].error[1] for n in config.policies]
    quiet = max(row.placebo[1] for row in found)
    claims = [
        command.Claim(
            "agents that see everything are less wrong than agents that do not see each other",
            f"{sum(better)} of {len(better)} policies, intervals apart",
            all(better),
        ),
        command.Claim("the placebo shows nothing", f"lower ends up to {quiet:.1%}", quiet < 0.05),
    ]
    rows = [
        (r.policy, f"{r.paid:.1f}", r.seen, f"{r.spread:.2f}", _shown(r.error), _shown(r.placebo))
        for r in found
    ]
    heading = ("policy", "paid", "agents see", "spread", "error of the spread", "placebo")
    content = {"found": [list(row) for row in found]}
    return command.Report(content, claims, [], heading, rows)


def _shown(share: tuple[float, float, float]) -> str:
    return f"{share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})"


def main(argv: list[str] | None = None) -> int:
    """Read the options, compute, print."""
    return command.run("spread", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
