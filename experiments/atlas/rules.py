"""How a problem of the atlas is written down: its rules, where they are from, and an entry for it.

A problem is one `Problem` in the tuple of a file beside this one (games, talk, benchmarks, grids,
domains); its rules are functions of a state, as `jaxent.tabulate` takes them.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Rules(NamedTuple):
    """A game by its rules.

    Attributes:
        initial: the state in which it starts, or states with leaves `[L, ..]` and their law `[L]`.
        outcomes: (state, actions) to (next states, probabilities, rewards[, ends]).
        observe: state to what each agent sees.
        num_actions: A_i.
        heuristic: state to an action of each agent, `[N]`, by a rule of thumb; None if there is no
            obvious one.
    """

    initial: Any
    outcomes: Callable[..., Any]
    observe: Callable[[Any], Any]
    num_actions: tuple[int, ...]
    heuristic: Callable[[Any], Array] | None = None


class Problem(NamedTuple):
    """A row of the atlas.

    Attributes:
        name: of it.
        family: of problems like it.
        source: where its rules are from.
        rules: makes them.
        discount: of returns.
        quick: whether `--quick` has it.
        large: whether it has so many joint pairs that some columns are left out.
    """

    name: str
    family: str
    source: str
    rules: Callable[[], Rules]
    discount: float = 0.9
    quick: bool = False
    large: bool = False


def chances(*parts: Sequence[tuple[Any, Any]]) -> tuple[list[tuple[Any, ...]], Array]:
    """Every combination of independent events (what happens, its probability)."""
    every = list(product(*parts))
    weights = [np.prod(np.array([p for _, p in each], object)) for each in every]
    return [tuple(what for what, _ in each) for each in every], jnp.stack(
        [jnp.asarray(w, float) for w in weights]
    )


def stacked(states: Sequence[Any]) -> Any:
    """States as one, leaves `[K, ..]`."""
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *states)


def matrix_game(pay: Any, best: tuple[int, ...] | None = None) -> Rules:
    """The same game over and over, paid to the team, `[A_0, ..]`; `best` is the heuristic."""
    pay = np.asarray(pay, float)

    def outcomes(state: Array, actions: Array) -> Any:
        return state[None], jnp.ones(1), jnp.asarray(pay)[tuple(actions)]

    rule = None if best is None else lambda state: jnp.array(best) + 0 * state
    return Rules(0, outcomes, lambda state: (state,) * pay.ndim, pay.shape, rule)


def dec_pomdp(
    moves: np.ndarray,
    pay: np.ndarray,
    hears: Sequence[np.ndarray],
    start: np.ndarray,
    *,
    memory: int = 1,
    acts: Callable[[Array], Array] | None = None,
) -> Rules:
    """A finite Dec-POMDP by its tables; an agent sees what it last heard, `memory` of these.

    Args:
        moves: P(w' | w, a), `[W, A_0, .., W]`.
        pay: r(w, a), `[W, A_0, ..]`.
        hears: P(o_i | a, w') of each agent, `[A_0, .., W, O_i]`.
        start: law of the first world, `[W]`.
        memory: how many of its observations an agent remembers.
        acts: observations `[N, memory]` to actions, a rule of thumb; code O_i is nothing heard yet.
    """
    agents, worlds = len(hears), len(start)
    sizes = [table.shape[-1] for table in hears]
    every = np.array(list(np.ndindex(worlds, *sizes)))  # [K, 1 + N]
    blank = np.repeat(np.array(sizes)[:, None], memory, 1)

    def outcomes(state: Any, actions: Array) -> Any:
        a = tuple(actions)
        chance = jnp.asarray(moves)[(state["world"], *a)][every[:, 0]]
        for i, table in enumerate(hears):
            chance *= jnp.asarray(table)[(*a, every[:, 0], every[:, i + 1])]
        kept = jnp.broadcast_to(state["heard"][:, 1:], (len(every), agents, memory - 1))
        heard = jnp.concatenate([kept, jnp.asarray(every[:, 1:, None])], 2)
        following = {"world": jnp.asarray(every[:, 0]), "heard": heard}
        return following, chance, jnp.asarray(pay)[(state["world"], *a)]

    kept = np.flatnonzero(start)
    first = {"world": kept, "heard": np.repeat(blank[None], len(kept), 0)}
    rule = None if acts is None else lambda state: acts(state["heard"])
    return Rules(
        (first, np.asarray(start, float)[kept]),
        outcomes,
        lambda state: tuple(state["heard"]),
        pay.shape[1:],
        rule,
    )
