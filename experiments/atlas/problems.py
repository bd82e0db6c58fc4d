"""All problems of the atlas by name, and a problem as an exact model."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxent
from jaxent.models.tabulated import Tabulated

from .benchmarks import BENCHMARKS
from .domains import DOMAINS
from .games import GAMES
from .grids import GRIDS
from .rules import Problem, Rules
from .talk import TALK

Array = jax.Array

PROBLEMS: dict[str, Problem] = {p.name: p for p in (*GAMES, *TALK, *BENCHMARKS, *GRIDS, *DOMAINS)}


def model(problem: Problem) -> tuple[Tabulated, Rules]:
    """The exact model of a problem, and its rules."""
    rules = problem.rules()
    game = jaxent.tabulate(
        rules.initial,
        rules.outcomes,
        rules.observe,
        num_actions=rules.num_actions,
        discount=problem.discount,
    )
    return game, rules


def team_reward(game: Tabulated) -> Array:
    """What the team is paid, `[S A]`."""
    chain = jaxent.pair_chain(game, uniform(game))
    rewards = game.rewards
    return chain.lift(rewards) if isinstance(rewards, tuple) else jnp.ravel(jnp.asarray(rewards))


def uniform(game: Tabulated) -> Array:
    """Everybody plays anything, `[S, A_0, ..]`."""
    return game.join([jnp.full(shape, 1 / shape[1]) for shape in game.local_shapes()])


def exploring(game: Tabulated, tables: Sequence[Array], share: float) -> Array:
    """Each agent by its table `[O_i, A_i]`, but in a share of the epochs by chance alone."""
    return game.join([(1 - share) * t + share / t.shape[1] for t in tables])


def heuristic(game: Tabulated, rule: Callable[[Any], Array], share: float) -> Array:
    """The rule of thumb as a joint policy, each agent by chance in a share of the epochs."""
    actions = jax.vmap(rule)(game.states)  # [S, N]
    policy = jnp.ones((game.num_states, 1))
    for i, size in enumerate(game.num_actions):
        own = (1 - share) * jax.nn.one_hot(actions[:, i], size) + share / size
        policy = (policy[:, :, None] * own[:, None]).reshape(game.num_states, -1)
    return policy.reshape(game.policy_shape)
