r"""An environment as an exact model, found by asking it for steps; what is random is estimated.

An environment that only samples is asked for each step with several keys. Where all agree the step
is deterministic and the model has it exactly; where they do not, the model has the shares in which
its outcomes occurred, and `sampling_error` says what these leave open of a number computed from it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_discount, check_positive_int, is_key
from ..models.contracts import Scalar
from ..models.state_search import Expanded, clean, search
from ..models.tabulated import Tabulated, model_of
from .environment_protocols import (
    Environment,
    Observation,
    SingleAgentEnvironment,
    SpecifiedEnvironment,
)
from .environment_samplers import Sampler, environment_sampler, new_keys, without_keys

Array = jax.Array

# Steps that are computed together.
_AT_ONCE = 2**14


def tabulate_env(
    env: Environment[Observation]
    | SingleAgentEnvironment[Observation]
    | SpecifiedEnvironment[Observation],
    key: Array,
    *,
    num_keys: int,
    discount: Scalar = 0.99,
    params: object = None,
    encode: Callable[[Observation], object] | None = None,
    strip: Callable[..., object] | None = None,
    shared_reward: bool = False,
    max_states: int = 100_000,
) -> Tabulated:
    r"""An environment of JaxMARL, Jumanji or gymnax as a model of every state it can reach.

    Each step is taken with `num_keys` keys of its own. A step on which all agree is exact (an
    outcome of chance p is missed with chance (1 - p)^num_keys); of others the shares of what
    occurred are the probabilities, and `print` says how many these are. A game that ends starts
    anew by the law of `reset`, found in the same way. States are told apart by what they hold and
    by what agents see; a key in a state is no part of it.

    Args:
        env: an `Environment` as JaxMARL's are (with `agents`), a `SingleAgentEnvironment` as
            gymnax's (with `default_params`), or a `SpecifiedEnvironment` as Jumanji's (with
            `action_spec`), where agents see their rows of what has one for each, and all else.
        key: of `jax.random.key`; it may stand first.
        num_keys: n, at least 2.
        discount: of the model, in [0, 1).
        params: of a gymnax environment; its default ones if not given.
        encode: from an agent's observation to what is kept of it, a number or any pytree.
        strip: from a state of the environment to what tells it apart from others, as for
            `tabulate`; a clock that agents see is dropped by `encode` as well.
        shared_reward: whether the rewards are one, given to each agent alike.
        max_states: more are refused.

    Returns:
        `Tabulated`: `estimated` says whether anything in it was sampled, `samples` which pairs.

    Raises:
        ValueError: as `tabulate` does, for an environment of none of these kinds, and where
            `shared_reward` is asked for but rewards differ.

    References:
        Rutherford et al., JaxMARL, 2023. Lange, gymnax, 2022. Bonnet et al., Jumanji, 2023.
    """
    given: Any = env
    if is_key(env):
        given, key = key, given
    check_positive_int("num_keys", num_keys)
    if num_keys < 2:
        raise ValueError("num_keys: 1 key cannot tell whether a step is random; wanted 2 or more")
    check_discount(discount)
    check_positive_int("max_states", max_states)
    remedy = "tabulate takes the rules of a game as functions"
    game = environment_sampler(given, params, remedy)
    actions = np.array(list(np.ndindex(*game.num_actions)), np.int32)  # [A, N]
    keep, tell = encode or (lambda seen: seen), strip or (lambda state: state)

    def held(observations, state):
        return clean(without_keys(state)), tuple(clean(keep(seen)) for seen in observations)

    def told(both):
        return clean(tell(both[0])), both[1]

    def begin(key):
        both = held(*game.reset(key))
        return both, told(both)

    def one(both, number, place):
        own = jax.random.fold_in(jax.random.fold_in(step_key, number), place)

        def sample(key):
            key, inner = jax.random.split(key)
            before = new_keys(both[0], form, inner)
            step = game.step(key, before, jnp.asarray(actions)[place])
            after = held(step.observations, step.state)
            _check_form(both, after)
            after = jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), after, both)
            return after, told(after), step.rewards, step.ended

        after, keys, paid, ended = jax.vmap(sample)(jax.random.split(own, num_keys))
        return Expanded(after, keys, jnp.ones(num_keys), paid, ended)

    first_key, step_key = jax.random.split(key)
    first, first_keys = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(begin))(jax.random.split(first_key, num_keys))
    )
    if not jax.tree.leaves(first_keys):
        raise ValueError("strip, encode: leave nothing that tells states apart")
    form = jax.eval_shape(game.reset, first_key)[1]
    every = jax.jit(jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None)))

    def expand(states, numbers):
        out = every(states, numbers.astype(np.int32), np.arange(len(actions), dtype=np.int32))
        out = jax.tree.map(np.asarray, out)
        _check_paid(out.paid, numbers, actions)
        if shared_reward:
            _check_shared(out.paid, game, numbers, actions)
            out = out._replace(paid=out.paid[..., :1])
        return out

    found = search(
        first,
        first_keys,
        expand,
        chunk=max(1, min(1024, _AT_ONCE // (len(actions) * num_keys))),
        max_states=max_states,
        name=lambda a: f"actions {tuple(actions[a].tolist())}",
        sampled=True,
    )
    sure = found.weights.max(-1) == num_keys  # [S, A]
    begun = len(set(found.first.tolist())) > 1
    made = model_of(
        found._replace(weights=found.weights / num_keys),
        np.ones(num_keys),
        lambda both: both[1],
        game.num_actions,
        discount,
        np.where(sure, 0, num_keys).astype(np.int32),
        num_keys * begun,
    )
    return replace(made, states=made.states[0])


def _check_form(before: Any, after: Any) -> None:
    """Raise if a step gives other leaves than `reset`: where, and what."""
    names = ("the state", "observations")
    for name, old, new in zip(names, before, after, strict=True):
        if jax.tree.structure(old) != jax.tree.structure(new):
            raise ValueError(
                f"env: reset gives {name} as {jax.tree.structure(old)}, but step "
                f"{jax.tree.structure(new)}"
            )
        named = jax.tree_util.tree_flatten_with_path(old)[0]
        for (path, x), y in zip(named, jax.tree.leaves(new), strict=True):
            kinds = [np.dtype(z.dtype).kind.replace("u", "i") for z in (x, y)]
            if x.shape != y.shape or kinds[0] != kinds[1]:
                raise ValueError(
                    f"env: reset gives {name} with {jax.tree_util.keystr(path) or 'it'} of "
                    f"{x.dtype}{list(x.shape)}, but step {y.dtype}{list(y.shape)}"
                )


def _check_paid(paid: np.ndarray, numbers: np.ndarray, actions: np.ndarray) -> None:
    """Raise at the first step that pays a NaN or an infinity."""
    wrong = np.argwhere(~np.isfinite(paid).all((-1, -2)))
    if len(wrong):
        c, a = wrong[0]
        raise ValueError(
            f"env: a step from state {numbers[c]} under actions {tuple(actions[a].tolist())} pays "
            "a reward that is not finite"
        )


def _check_shared(
    paid: np.ndarray, game: Sampler, numbers: np.ndarray, actions: np.ndarray
) -> None:
    apart = np.argwhere((paid != paid[..., :1]).any((-1, -2)))
    if len(apart):
        c, a = apart[0]
        raise ValueError(
            f"shared_reward: in state {numbers[c]} under actions {tuple(actions[a].tolist())} the "
            f"agents {list(game.agents)} are paid different rewards; leave it out"
        )
