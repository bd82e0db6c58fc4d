"""The environments of the rows that are estimated: how each is made, its budget, a rule of thumb.

All are the smallest of their kind. Overcooked pays the shaped reward of its package as well, for
short training finds no soup without it; searchers choose among nine pairs of a turn and a push.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

MARL = "Rutherford et al., JaxMARL, 2024"
JUMANJI = "Bonnet et al., Jumanji, 2024"


class Sampled(NamedTuple):
    """A row of the atlas that is estimated.

    Attributes:
        name: of it.
        package: that has it.
        source: who made it.
        make: makes the environment.
        updates: of each network, each of `networks.GAMES` stretches of `networks.STEPS` steps.
        steps: of each log.
        rule: of thumb, from what all agents see `[N, width]` to what each does `[N]`.
        discount: of returns.
    """

    name: str
    package: str
    source: str
    make: Callable[[], Any]
    updates: int = 800
    steps: int = 16_000
    rule: Callable[[Array], Array] | None = None
    discount: float = 0.9


class Shaped:
    """An environment of JaxMARL whose reward has the shaped one added."""

    def __init__(self, inner: Any) -> None:
        """Of the environment that tells its shaped reward."""
        self.inner = inner
        self.agents = inner.agents
        self.action_space = inner.action_space
        self.reset = inner.reset

    def step_env(self, key: Array, state: Any, actions: dict[str, Array]) -> Any:
        """A step, without a new start."""
        seen, state, rewards, ends, told = self.inner.step_env(key, state, actions)
        more = told["shaped_reward"]
        return seen, state, {a: rewards[a] + more[a] for a in self.agents}, ends, told


class Turned:
    """Jumanji's SearchAndRescue with nine actions: a turn by a third number, a push by the rest."""

    def __init__(self, inner: Any) -> None:
        """Of the environment with an angle and an acceleration for each agent."""
        self.inner = inner
        self.action_spec = SimpleNamespace(num_values=jnp.full(inner.num_agents, 9))
        self.reset = inner.reset

    def step(self, state: Any, actions: Array) -> Any:
        """Action 3 t + p is turn t - 1 and push p - 1, each from -1 to 1."""
        chosen = jnp.stack([actions // 3 - 1, actions % 3 - 1], 1)
        return self.inner.step(state, chosen.astype(jnp.float32))


def _jaxmarl(name: str, **options: Any) -> Any:
    import jaxmarl  # type: ignore[import-not-found]

    return jaxmarl.make(name, **options)


def _overcooked() -> Any:
    from jaxmarl.environments.overcooked import (  # type: ignore[import-not-found]
        overcooked_layouts,
    )

    return Shaped(_jaxmarl("overcooked", layout=overcooked_layouts["cramped_room"]))


def _smax() -> Any:
    from jaxmarl.environments.smax.smax_env import Scenario  # type: ignore[import-not-found]

    two = Scenario(jnp.zeros(4, jnp.uint8), 2, 2, False, False)
    return _jaxmarl("HeuristicEnemySMAX", scenario=two)


def _hanabi() -> Any:
    return _jaxmarl(
        "hanabi", num_colors=2, num_ranks=2, hand_size=2, max_info_tokens=3,
        num_cards_of_rank=jnp.array([3, 2]),
    )  # fmt: skip


def _jumanji(name: str, **options: Any) -> Any:
    import jumanji  # type: ignore[import-not-found]

    return jumanji.make(name, **options)


def _warehouse() -> Any:
    from jumanji.environments.routing.robot_warehouse import (  # type: ignore[import-not-found]
        generator,
    )

    small = generator.RandomGenerator(
        shelf_rows=1, shelf_columns=3, column_height=2, num_agents=2, sensor_range=1,
        request_queue_size=4,
    )  # fmt: skip
    return _jumanji("RobotWarehouse-v0", generator=small, time_limit=100)


def _foraging() -> Any:
    from jumanji.environments.routing.lbf import generator  # type: ignore[import-not-found]

    small = generator.RandomGenerator(
        grid_size=5, fov=5, num_agents=2, num_food=1, force_coop=True, max_agent_level=2
    )
    return _jumanji("LevelBasedForaging-v0", generator=small, time_limit=50)


def _search() -> Any:
    from jumanji.environments.swarms.search_and_rescue import (  # type: ignore[import-not-found]
        generator,
        observations,
    )

    view = observations.AgentAndTargetObservationFn(
        num_vision=16, searcher_vision_range=0.4, target_vision_range=0.2, view_angle=0.4,
        agent_radius=0.05, env_size=1.0,
    )  # fmt: skip
    small = generator.RandomGenerator(num_targets=10, num_searchers=2)
    return Turned(
        _jumanji(
            "SearchAndRescue-v0", generator=small, observation=view, target_contact_range=0.05,
            time_limit=100,
        )
    )  # fmt: skip


def to_own_coin(seen: Array) -> Array:
    """Along the shorter way round the 3 x 3 torus to the coin of the own color."""
    cells = seen[:, :36].reshape(-1, 9, 4)
    here, coin = cells[..., 0].argmax(1), cells[..., 2].argmax(1)
    down, right = (coin // 3 - here // 3) % 3, (coin % 3 - here % 3) % 3
    across = jnp.where(right == 1, 0, 1)
    along = jnp.where(down == 1, 2, 3)
    return jnp.where(right != 0, across, jnp.where(down != 0, along, 4))


def to_nearest(seen: Array) -> Array:
    """Towards the landmark that is nearest, slowed by the speed that there is."""
    away = seen[:, 4 : 4 + 2 * len(seen)].reshape(len(seen), -1, 2)
    goal = away[jnp.arange(len(seen)), (away**2).sum(2).argmin(1)]
    x, y = (goal - 0.3 * seen[:, :2]).T
    along = jnp.where(jnp.abs(x) > jnp.abs(y), jnp.where(x > 0, 2, 1), jnp.where(y > 0, 4, 3))
    return jnp.where(jnp.maximum(jnp.abs(x), jnp.abs(y)) < 0.05, 0, along)


SAMPLED: dict[str, Sampled] = {
    s.name: s
    for s in (
        Sampled("coin_game", "jaxmarl", MARL, partial(_jaxmarl, "coin_game"), rule=to_own_coin),
        Sampled(
            "mpe_spread", "jaxmarl", MARL, partial(_jaxmarl, "MPE_simple_spread_v3"),
            rule=to_nearest,
        ),
        Sampled(
            "mpe_speaker", "jaxmarl", MARL, partial(_jaxmarl, "MPE_simple_speaker_listener_v4")
        ),
        Sampled("overcooked", "jaxmarl", MARL, _overcooked, updates=500),
        Sampled("smax_2v2", "jaxmarl", MARL, _smax, updates=400),
        Sampled("hanabi_2x2", "jaxmarl", MARL, _hanabi),
        Sampled("robot_warehouse", "jumanji", JUMANJI, _warehouse, updates=500),
        Sampled("foraging_sampled", "jumanji", JUMANJI, _foraging),
        Sampled("search_rescue", "jumanji", JUMANJI, _search, updates=400),
    )
}  # fmt: skip
