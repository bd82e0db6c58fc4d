"""What a rollout refuses, in one line that names the step, the agent or the argument."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je

from .relays import KEY, NAMES, Bits, ParallelRing, Ring, at_random


def act(**actions):
    return lambda key, observations: {"a": 0, "b": 0, "c": 0} | actions


def with_law(**laws):
    def policy(key, observations):
        fair = {a: np.full(n, 1 / n) for a, n in zip(NAMES, (2, 3, 2))}
        return je.Acted(dict.fromkeys(observations, 0), fair | laws)

    return policy


def with_carry(carry):
    following = carry
    return lambda key, seen, carry: je.Acted(dict.fromkeys(seen, 0), carry=following)


def too_far(key, seen):
    """b goes on by 2 from field 1."""
    place = seen["b"]["place"] if isinstance(seen["b"], dict) else seen["b"][1]
    return dict.fromkeys(seen, 0) | {"b": 1 + (place == 1)}


class Masked(Ring):
    def __init__(self, masks):
        self.masks = masks

    def get_avail_actions(self, state):
        return self.masks


class Nan(Ring):
    """What a sees has a NaN from step 3 on."""

    def step_env(self, key, state, actions):
        seen, state, *rest = super().step_env(key, state, actions)
        return self.spoiled(seen, state), state, *rest

    def reset(self, key):
        return self.spoiled(*super().reset(key)), super().reset(key)[1]

    def spoiled(self, seen, state):
        return seen | {"a": jnp.where(state[2] >= 3, jnp.nan, seen["a"])}


@pytest.mark.parametrize(
    ("env", "policy", "options", "match"),
    [
        (object(), act(), {}, "env: object has neither `agents`.* nor `possible_agents`"),
        ("MPE_simple_v3", act(), {}, "env: str has neither .*; an environment by name"),
        (Ring(), act(), {"num_envs": 0}, "num_envs: 0 is not"),
        (Ring(), act(), {"time_limit": 0}, "time_limit: 0 is not"),
        (Ring(), act(), {"time_limit": 2.5}, "time_limit: 2.5 is not"),
        (Ring(), act(), {"team": ("a", "d")}, "team: 'd' does not name agents"),
        (Ring(), act(), {"team": ()}, "team: .* does not name agents"),
        (Ring(), act(), {"team": ("a", "a")}, r"team: \['a', 'a'\] does not"),
        (Ring(), act(), {"others": act()}, "others: say who is in the team, team="),
        (Ring(), act(b=3), {}, r"actions\[0, 1\] is 3: .* agent b at step 0, who has 0 to 2"),
        (Ring(), act(a=2), {"num_envs": 2}, r"agent a at step 0 of environment 0, who has 0 to 1"),
        (Ring(), act(c=-1), {}, r"actions\[0, 2\] is -1"),
        (Ring(), act(c=0.5), {}, "agent c an action of float(32|64), wanted an int"),
        (Ring(), act(c=jnp.zeros(2)), {}, r"policy: gives agent c an action of shape \[2\]"),
        (Ring(), lambda key, seen: jnp.zeros(3), {}, r"policy: wanted a dict .* of shape \[3\]"),
        (Ring(), lambda key, seen: (act()(0, 0), 1), {}, "policy: wanted a dict .* got tuple"),
        (Ring(), act(d=0), {}, r"policy: wanted a dict .* got one for \['a', 'b', 'c', 'd'\]"),
        (Ring(), lambda key, seen, mask: {}, {}, r"policy: takes \(key, seen, mask\); wanted poli"),
        (Ring(), lambda key, seen, carry: {}, {}, "policy: takes a carry; pass the first one as"),
        (Ring(), act(), {"carry": 0}, "carry: the policy has no parameter of this name; wanted"),
        (Bits(), at_random, {}, "policy: takes masks, but the environment has none"),
        (Ring(), with_carry(None), {"carry": 0}, "policy: gives no carry"),
        (
            Ring(),
            with_carry(jnp.zeros(2)),
            {"carry": 0},
            r"a carry of float(32|64)\[2\], wanted int(32|64)\[\]",
        ),
        (
            Ring(),
            too_far,
            {},
            "policy: at step 1 agent b chooses action 2, which its mask forbids",
        ),
        (
            Masked({"a": jnp.ones(2), "b": jnp.ones(2), "c": 1}),
            act(),
            {},
            r"mask of agent b has shape \[2\], wanted \[3\]",
        ),
        (Masked({"a": jnp.ones(2)}), act(), {}, "get_avail_actions gives no mask of agent b"),
        (Ring(), with_law(b=np.ones(2) / 2), {}, r"agent b a law of shape \[2\], wanted \[3\]"),
        (Ring(), with_law(a=np.ones(2)), {}, "law of agent a at step 0 is no law: its sum is 2"),
        (Ring(), with_law(a=np.array([2, -1])), {}, "is no law: its sum is 1, its least entry -1"),
        (Ring(), with_law(a=np.array([np.nan, 1])), {}, "law of agent a at step 0 is no law"),
        (
            Ring(),
            with_law(a=np.array([0, 1])),
            {},
            "gives the action that was chosen, 0, no chance",
        ),
        (Ring(), lambda key, seen: je.Acted(act()(0, 0), {"a": 1}), {}, r"law of shape \[\]"),
        (
            Ring(),
            lambda key, seen: je.Acted(act()(0, 0), {"b": np.ones(3) / 3}),
            {},
            "no law of agent a",
        ),
        (
            Ring(),
            lambda key, seen: je.Acted(act()(0, 0), np.ones(3)),
            {},
            "laws as ndarray of shape",
        ),
        (Nan(), act(), {}, r"observations\[3, 0, 0\] is nan: what agent a sees at step 3; every"),
        (
            Nan(),
            act(),
            {"features": True, "num_envs": 2},
            r"features\[3, 0, 0\] is nan: .* at step 3 of environment 0",
        ),
        (Ring(), act(), {"signal": lambda state: state[0]}, r"signal: wanted one integer .* \[3\]"),
        (Ring(), act(), {"signal": lambda state: 0.5}, "signal: wanted one integer"),
        (Ring(), act(), {"encode": lambda agent, seen: 0.5}, "encode: wanted one integer"),
        (
            Ring(),
            act(a=1),
            {"signal": lambda s: s[2], "max_states": 5, "features": True},
            "signal: 40 different",
        ),
        (ParallelRing(5), act(), {"num_envs": 2}, "num_envs: ParallelRing is played in Python"),
        (ParallelRing(5), too_far, {}, "policy: at step 1 agent b chooses action 2, which its"),
        (ParallelRing(5), act(a=9), {}, r"actions\[0, 0\] is 9"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(env, policy, options, match):
    with pytest.raises(ValueError, match=match) as raised:
        je.rollout(KEY, env, policy, **{"num_steps": 40, **options})
    assert "\n" not in str(raised.value)


def broken(where, change):
    """The ring of PettingZoo with one thing of what `reset` or `step` gives changed."""

    class Broken(ParallelRing):
        def reset(self, seed=None):
            given = super().reset(seed)
            return change(given) if where == "reset" else given

        def step(self, actions):
            given = super().step(actions)
            return change(given) if where == "step" else given

    return Broken(9)


def without_c(given, part):
    return (*given[:part], {a: x for a, x in given[part].items() if a != "c"}, *given[part + 1 :])


@pytest.mark.parametrize(
    ("where", "change", "match"),
    [
        ("reset", lambda given: given[0], "env: reset gives dict, wanted what is seen, and infos"),
        ("reset", lambda given: ([1, 2], {}), "env: gives observations as list, wanted a dict"),
        ("reset", lambda given: ({"d": 0}, {}), r"env: agent d is none of its possible_agents"),
        ("step", lambda given: given[:4], "env: step gives 4 of them, wanted five dicts"),
        (
            "step",
            lambda given: (given[0], 1.0, *given[2:]),
            "gives rewards as float, wanted a dict",
        ),
        ("step", lambda given: without_c(given, 0), "step gives no observation of agent c, who"),
        ("step", lambda given: without_c(given, 1), "step gives no reward of agent c, who"),
        ("step", lambda given: without_c(given, 2), "step gives no termination of agent c, who"),
        ("step", lambda given: without_c(given, 3), "step gives no truncation of agent c, who"),
    ],
)
def test_a_broken_contract_of_pettingzoo_is_named(where, change, match):
    stays = lambda key, seen: dict.fromkeys(seen, 0)  # noqa: E731
    with pytest.raises(ValueError, match=match) as raised:
        je.rollout(KEY, broken(where, change), stays, num_steps=20)
    assert "\n" not in str(raised.value)


def test_laws_at_some_steps_alone_are_refused():
    def policy(key, observations, carry):
        acted = with_law()(key, observations)
        laws = {a: acted.laws[a] for a in observations} if carry < 1024 else None
        return je.Acted(acted.actions, laws, carry + 1)

    with pytest.raises(ValueError, match="policy: gives laws at some steps and at others none"):
        je.rollout(KEY, ParallelRing(10**6), policy, num_steps=1100, carry=0)
