"""What arrays may come as: lists, tuples, data frames, integers, any order in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxent as je
from jaxent.numerics.arrays import as_array

RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(4), 4)
MU = np.full(4, 0.25)
KERNEL = RNG.dirichlet(np.ones(2), (2, 2))
REWARD = RNG.integers(0, 3, (2, 2))
POLICY = RNG.dirichlet(np.ones(2), 2)
JOINT = RNG.dirichlet(np.ones(4), (2, 2, 2, 2)).reshape((2,) * 6)
TABLE = RNG.dirichlet(np.ones(4), (2, 2)).reshape((2,) * 4)


def nested(x):
    return tuple(map(nested, x)) if isinstance(x, list) else x


def frame(x):
    return {1: pd.Series, 2: pd.DataFrame}.get(np.ndim(x), np.asarray)(x)


FORMS = {
    "list": lambda x: np.asarray(x).tolist(),
    "tuple": lambda x: nested(np.asarray(x).tolist()),
    "frame": frame,
    "Fortran": np.asfortranarray,
}


def chain(form):
    return je.PairChain.from_matrix(form(P), sizes=(2, 2))


def coupled(form):
    return je.WeaklyCoupledMDP((je.MDP(form(KERNEL), form(REWARD)),) * 2, 0.9)


def bandit(form):
    return je.RestlessBandit(form(KERNEL[0]), form(KERNEL[1]), form(REWARD), 4, 2, 0.9)


CASES = {
    "a chain": lambda form: chain(form).matrix(),
    "a law": lambda form: je.stationary_distribution(form(P)),
    "values": lambda form: je.q_values(
        chain(form), tuple(form(x) for x in REWARD), discount=0.9
    ),
    "a joint reward": lambda form: je.q_values(chain(form), form(MU), discount=0.9),
    "a view": lambda form: je.local_transition(chain(form), form(MU), agent=0),
    "a solve": lambda form: je.discounted_solve(form(P), form(MU), 0.9),
    "centers": lambda form: je.tv_center(form(P), form(MU)).point,
    "simplex": lambda form: (je.project_simplex(form(P)), je.total_variation(form(P), form(P))),
    "norms": lambda form: (je.mu_norm(form(MU), form(MU)), je.mu_inf_norm(form(P), form(MU))),
    "coupled agents": lambda form: je.pair_chain(coupled(form), form(TABLE)).matrix(),
    "one agent": lambda form: je.pair_chain(coupled(form).agents[0], form(POLICY)).matrix(),
    "joint": lambda form: je.pair_chain(
        je.JointMDP(form(JOINT), (form(REWARD), form(REWARD)), 0.9), form(TABLE)
    ).matrix(),
    "a game": lambda form: je.CooperativeGame(form(JOINT), form(TABLE), 0.9).pair_reward,
    "a signal": lambda form: je.pair_chain(
        je.ExogenousMDP(
            (form(KERNEL[:, :, None]),) * 2,
            (form(REWARD[..., None]),) * 2,
            form(np.ones((1, 1), int)),
            0.9,
        ),
        form(TABLE[:, :, None]),
    ).matrix(),
    "neighbors": lambda form: je.pair_chain(
        je.FactoredMDP((form(KERNEL),) * 2, ((0,), (1,)), (form(REWARD),) * 2, 0.9),
        je.LocalPolicies((form(POLICY),) * 2, ((0,), (1,))),
    ).matrix(),
    "policies": lambda form: je.product_policy([form(POLICY)] * 2),
    "logits": lambda form: je.softmax_policy(form(TABLE)),
    "a budget": lambda form: je.feasible_actions(
        coupled(form)._replace(couplings=(je.Coupling((form(REWARD),) * 2, 1),))
    ),
    "indices": lambda form: je.whittle_index(bandit(form)).index,
    "a field": lambda form: je.mean_field_step(bandit(form), form([1, 0]), form([0.5, 0.5])),
    "chances": lambda form: je.SoftIndex(form([1, 0]), 0.3).chances(form([2, 2]), 2),
    "learning": lambda form: je.lstd_local_q(form(P), form(MU), discount=0.9).value,
    "estimates": lambda form: je.estimate_entanglement(form(JOINT[0, 0, 0]), form(POLICY)).value,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_lists_frames_and_any_order_in_memory(name):
    wanted = CASES[name](np.asarray)
    for form in FORMS.values():
        for a, b in zip(*map(jax.tree.leaves, (CASES[name](form), wanted)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_whole_numbers_are_a_kernel():
    """A deterministic chain is written in integers."""
    swap = [[0, 1], [1, 0]]
    np.testing.assert_allclose(je.stationary_distribution(swap), [0.5, 0.5])
    np.testing.assert_allclose(je.discounted_solve(swap, [1, 0], 0.5), [4 / 3, 2 / 3])
    agent = je.MDP([swap, swap], [[0, 1], [1, 0]])
    chain = je.pair_chain(agent, [[1, 0], [0, 1]])
    assert jnp.issubdtype(chain.dtype, jnp.floating)
    assert je.average_reward(chain, [agent.reward]) == 0
    found = je.whittle_index(je.RestlessBandit(swap, swap, [[0, 1], [0, 2]], 2, 1, 0.5))
    np.testing.assert_allclose(found.index, [1, 2])
    replaced = bandit(np.asarray)._replace(reward=[[0, 1], [0, 2]])
    np.testing.assert_array_equal(replaced.reward, [[0, 1], [0, 2]])


def test_what_is_no_array_is_named():
    with pytest.raises(ValueError, match="transition: is no array of numbers"):
        je.MDP([[[1.0], [0.5, 0.5]]], [[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"rewards\[1\]: is no array of numbers"):
        je.JointMDP(JOINT, (REWARD, [["a", "b"]]), 0.9)
    with pytest.raises(ValueError, match="P: is no array of numbers"):
        je.discounted_solve(pd.DataFrame([["x"]]), [1.0], 0.9)


def test_a_traced_list_stays_traced():
    slope = jax.grad(lambda x: as_array("x", [x, 2 * x]).sum())(1.0)
    assert slope == 3
    swapped = jax.jit(partial(je.MDP, reward=[[1.0], [2.0]]))(np.ones((2, 1, 2)) / 2)
    np.testing.assert_array_equal(swapped.reward, [[1], [2]])
