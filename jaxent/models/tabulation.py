r"""A game as an exact model: every state that can be reached, found by its rules.

The rules are pure functions of a state, which is any pytree. They are compiled once and applied to
chunks of states, breadth-first from where a game starts; states are told apart by their bytes. What
is found is a `StateMDP`, on which values, measures, errors, fits and gradients are exact. A game
that ends starts anew by its first law, so that a team which plays again and again has a stationary
law.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_positive_int, check_stochastic
from ..numerics.arrays import as_float
from .contracts import Scalar
from .state_search import Expanded, clean, search, shown
from .tabulated import Tabulated, model_of

Array = jax.Array

# Outcomes that are computed together, and states.
_AT_ONCE, _STATES_AT_ONCE = 2**14, 1024


def tabulate(
    initial: object,
    outcomes: Callable[..., tuple[object, ...]],
    observe: Callable[..., object],
    *,
    num_actions: Sequence[int],
    discount: Scalar = 0.99,
    max_states: int = 100_000,
    strip: Callable[..., object] | None = None,
) -> Tabulated:
    r"""A game by its rules as an exact model of every state that can be reached.

    Args:
        initial: the state in which a game starts, a pytree of numbers; or a law, the pair (states
            with leaves `[L, ..]`, their probabilities `[L]`).
        outcomes: from a state and the actions, int `[N]`, to what may follow: (next states with
            leaves `[K, ..]`, their probabilities `[K]`, rewards), and where games end a fourth
            thing, bool `[K]`: whether this outcome ends the game, which then starts anew by
            `initial`. Rewards are one for each agent, `[N]`, or one number paid to the team; if
            they depend on what follows, `[K, N]` or `[K, 1]`, whose mean is taken. An outcome of
            probability 0 stands for none.
        observe: from a state to what each agent sees of it: a tuple or a dict of N things, or
            arrays `[N, ..]`. Local states are the different things that each sees, in the order
            of their numbers.
        num_actions: A_i of each agent; joint actions are in C order.
        discount: of the model, in [0, 1).
        max_states: more are refused.
        strip: from a state to what tells it apart from others, a state without its clock for one.
            States that differ elsewhere are one, the one met first. Each is compared with the form
            of it met last: if the two lead elsewhere, pay otherwise or look different, that is an
            error. It is a check of one form a state, no proof for all of them.

    Returns:
        `Tabulated`, exact. State 0 is where a game starts, or 0 to L - 1.

    Raises:
        ValueError: for more than `max_states` states (with the field that has most values), a state
            with a NaN, outcomes that are no probabilities, parts of the wrong shape, and what
            `strip` drops in error, each with the state and the actions.

    Examples:
        A coin on the table is turned if both players say so; each pays to see heads:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> def outcomes(coin, actions):
        ...     turned = jnp.where(actions.sum() == 2, 1 - coin, coin)
        ...     return turned[None], jnp.ones(1), coin - 0.1 * actions
        >>> game = jaxent.tabulate(0, outcomes, lambda coin: (coin, coin), num_actions=(2, 2))
        >>> print(game)
        Tabulated: 2 states, 8 joint pairs, exact
          actions (2, 2), observations (2, 2)
          at most 1 outcomes of a pair; rewards: of each agent's pair
        >>> print(game.transition[0][..., 0].tolist())
        [[[0, 0], [0, 1]], [[1, 1], [1, 0]]]
    """
    sizes = checked_sizes(num_actions)
    check_discount(discount)
    check_positive_int("max_states", max_states)
    actions = np.array(list(np.ndindex(*sizes)), np.int32).reshape(-1, len(sizes))  # [A, N]
    first, law = _initial(initial, lambda state: outcomes(state, jnp.asarray(actions[0])))
    width = _check_outcomes(outcomes, first, actions[0])
    key_of = strip or (lambda state: state)
    keyed = jax.jit(jax.vmap(lambda state: clean(key_of(state))))

    def one(state, action):
        following, chances, paid, *ended = outcomes(state, action)
        following = clean(jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), following, state))
        chances, paid = as_float(chances), jnp.asarray(paid, jnp.result_type(float))
        paid = jnp.atleast_1d(paid)
        if paid.ndim == 2:
            held = (chances > 0)[:, None]
            paid = (chances[:, None] * jnp.where(held, paid, 0)).sum(0)
        ended = jnp.asarray(ended[0]) if ended else jnp.zeros(chances.shape, bool)
        keys = jax.vmap(lambda state: clean(key_of(state)))(following)
        return Expanded(following, keys, chances, paid[None], ended.astype(bool))

    every = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))

    def expand(states, numbers):
        out = jax.tree.map(np.asarray, every(states, actions))
        _check_chances(out, states, numbers, actions)
        return out

    first_keys = jax.tree.map(np.asarray, keyed(first))
    if not jax.tree.leaves(first_keys):
        raise ValueError("strip: leaves nothing of a state; wanted what tells it apart from others")
    found = search(
        first,
        first_keys,
        expand,
        chunk=max(1, min(_STATES_AT_ONCE, _AT_ONCE // (len(actions) * width))),
        max_states=max_states,
        name=lambda a: f"actions {tuple(actions[a].tolist())}",
    )
    samples = np.zeros((len(found.to), len(actions)), np.int32)
    return model_of(found, law, observe, sizes, discount, samples, 0)


def checked_sizes(num_actions: Sequence[int]) -> tuple[int, ...]:
    """A_i of each agent."""
    if np.ndim(num_actions) != 1 or not len(num_actions):
        raise ValueError(f"num_actions: wanted one number for each agent, got {num_actions}")
    for i, size in enumerate(num_actions):
        check_positive_int(f"num_actions[{i}]", size)
    return tuple(int(size) for size in num_actions)


def _initial(initial: Any, outcomes: Callable[[Any], Any]) -> tuple[Any, np.ndarray]:
    """First states, leaves `[L, ..]`, and their law `[L]`."""
    if type(initial) is tuple and len(initial) == 2 and not _is_state(initial, outcomes):
        states, law = initial
        shapes = [np.shape(x) for x in jax.tree.leaves(clean(states))]
        probabilities = np.ndim(law) == 1 and np.asarray(law).dtype.kind == "f"
        if probabilities and shapes and all(s[:1] == np.shape(law) for s in shapes):
            check_stochastic("initial[1]", law)
            law = np.asarray(law, jnp.result_type(float))
            kept = law > 0
            states = jax.tree.map(lambda x: np.asarray(x)[kept], clean(states))
            return states, law[kept]
    if not jax.tree.leaves(initial):
        raise ValueError("initial: holds no numbers; wanted a state, or states and probabilities")
    one = jax.tree.map(lambda x: np.asarray(x)[None], clean(initial))
    return one, np.ones(1, jnp.result_type(float))


def _is_state(pair: Any, outcomes: Callable[[Any], Any]) -> bool:
    """Whether a pair is a state: what follows it is such a pair."""
    try:
        following = jax.eval_shape(outcomes, clean(pair))[0]
    except Exception:  # whatever the rules of a game say of what is no state of it
        return False
    return jax.tree.structure(following) == jax.tree.structure(pair)


def _check_outcomes(outcomes: Callable[..., Any], first: Any, action: np.ndarray) -> int:
    """K, or a ValueError that names the part of what `outcomes` gives that has another form."""
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), first)
    given = jax.eval_shape(outcomes, state, jax.ShapeDtypeStruct(action.shape, action.dtype))
    if not isinstance(given, (tuple, list)) or len(given) not in (3, 4):
        number = len(given) if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(
            f"outcomes: gives {number} things, wanted next states, probabilities, rewards, and "
            "where games end whether each outcome is an end"
        )
    following, chances, paid, *ended = given
    if chances.ndim != 1 or not chances.size:
        raise ValueError(
            f"outcomes: gives probabilities of shape {list(chances.shape)}, wanted [K]"
        )
    width, agents = chances.shape[0], len(action)
    if jax.tree.structure(following) != jax.tree.structure(state):
        raise ValueError(
            f"outcomes: gives next states as {jax.tree.structure(following)}, but a state is "
            f"{jax.tree.structure(state)}"
        )
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, leaf), after in zip(named, jax.tree.leaves(following), strict=True):
        field = jax.tree_util.keystr(path) or "it"
        kinds = [np.dtype(x.dtype).kind.replace("u", "i") for x in (leaf, after)]
        if after.shape != (width, *leaf.shape) or kinds[0] != kinds[1]:
            raise ValueError(
                f"outcomes: gives next states with {field} of {after.dtype}{list(after.shape)}, "
                f"wanted {leaf.dtype}{[width, *leaf.shape]}, one for each of {width} outcomes"
            )
    if paid.shape not in ((), (1,), (agents,), (width, agents), (width, 1)):
        raise ValueError(
            f"outcomes: gives rewards of shape {list(paid.shape)}, wanted [{agents}], one for each "
            f"agent, or one number; or [{width}, {agents}] where they depend on the outcome"
        )
    if ended and ended[0].shape != (width,):
        raise ValueError(
            f"outcomes: gives ends of shape {list(ended[0].shape)}, wanted [{width}], whether each "
            "outcome ends the game"
        )
    return width


def _check_chances(out: Expanded, states: Any, numbers: np.ndarray, actions: np.ndarray) -> None:
    """Raise at the first pair whose outcomes are no law, or that pays no finite reward."""
    eps = 64 * np.finfo(out.weights.dtype).eps * out.weights.shape[-1]
    total = out.weights.sum(-1)
    least = out.weights.min(-1)
    wrong = ~(np.abs(total - 1) <= eps) | ~(least >= 0)
    unpaid = ~np.isfinite(out.paid).all((-1, -2))
    if not (wrong | unpaid).any():
        return
    c, a = np.argwhere(wrong | unpaid)[0]
    told = (
        f"pays {out.paid[c, a].reshape(-1).tolist()}"
        if unpaid[c, a]
        else f"has an outcome of probability {least[c, a]:g}"
        if not least[c, a] >= 0
        else f"has outcomes whose probabilities sum to {total[c, a]:.9g}, not 1"
    )
    raise ValueError(
        f"outcomes: state {numbers[c]} ({shown(states, c)}) under actions "
        f"{tuple(actions[a].tolist())} {told}"
    )
