"""What a type checker is told: the contracts, and no argument that takes just anything."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent as je
from jaxent.models.contracts import Kernel, Layout, Model, PolicyPart, TableModel, View

ROOT = Path(__file__).parents[1]
REFUSED = ROOT / "tests" / "typed" / "refused.py"


def test_pyright_refuses_what_does_not_fit_and_nothing_else():
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--outputjson"]
    command += ["--pythonpath", sys.executable, str(REFUSED)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = {
        entry["range"]["start"]["line"]
        for entry in json.loads(found.stdout)["generalDiagnostics"]
        if entry["severity"] == "error"
    }
    marked = {k for k, line in enumerate(REFUSED.read_text().split("\n")) if "# refused" in line}
    assert errors == marked


def models():
    one = je.MDP(np.full((2, 2, 2), 0.5), np.zeros((2, 2)))
    joint = np.full((2, 2, 2, 2, 2, 2), 0.25)
    local, reward = np.full((2, 2, 1, 2), 0.5), np.zeros((2, 2, 1))
    states = np.zeros((4, 2, 2, 1), int)
    table = np.full((2, 2, 2, 2), 0.25)
    yield one, np.full((2, 2), 0.5)
    yield je.WeaklyCoupledMDP((one, one), 0.9), table
    yield je.JointMDP(joint, (one.reward, one.reward), 0.9), table
    yield je.CooperativeGame(joint, np.zeros((2, 2, 2, 2)), 0.9), table
    exogenous = je.ExogenousMDP((local, local), (reward, reward), np.ones((1, 1)), 0.9)
    yield exogenous, table.reshape(2, 2, 1, 2, 2)
    yield (
        je.FactoredMDP((one.transition,) * 2, ((0,), (1,)), (one.reward, one.reward), 0.9),
        je.LocalPolicies((np.full((2, 2), 0.5),) * 2, ((0,), (1,))),
    )
    chances = np.ones((4, 2, 2, 1))
    seen = ((0, 0, 1, 1), (0, 1, 0, 1))
    yield (
        je.StateMDP((states, chances), seen, (one.reward, one.reward), 0.9),
        table.reshape(4, 2, 2),
    )


@pytest.mark.parametrize("case", list(models()), ids=lambda case: type(case[0]).__name__)
def test_every_model_keeps_its_contract(case):
    mdp, policy = case
    assert isinstance(mdp, Model)
    assert isinstance(mdp, TableModel)
    je.check_mdp(mdp)
    je.check_policy(mdp, policy)
    kernel, part, layout = mdp.parts(policy)
    assert isinstance(kernel, Kernel)
    assert isinstance(part, PolicyPart)
    assert isinstance(layout, Layout)
    chain = je.pair_chain(mdp, policy)
    rng = np.random.default_rng(0)
    v, mu = rng.random(chain.num_states), rng.random(chain.num_pairs)
    K = np.array(kernel.matrix())
    assert K.shape == (chain.num_pairs, chain.num_states)
    views = [chain.view(i) for i in range(len(chain.view_sizes))]
    local = [rng.random(size) for size in chain.view_sizes]

    @jax.jit
    def applied(kernel, part, v, mu, local):
        lifted = [view.lift(f) for view, f in zip(views, local)]
        projected = [layout.project(mu, i) for i in range(len(views))]
        return kernel.mv(v), kernel.vm(mu), part.vm(v), part.mv(mu), lifted, projected

    found = jax.tree.map(np.asarray, applied(kernel, part, v, mu, local))
    ahead, after, there, back, lifted, projected = found
    np.testing.assert_allclose(ahead, K @ v, atol=1e-14)
    np.testing.assert_allclose(after, mu @ K, atol=1e-14)
    # Π and its transpose; lift and project likewise.
    np.testing.assert_allclose(there @ mu, back @ v, atol=1e-14)
    for view, f, up, down in zip(views, local, lifted, projected):
        assert isinstance(view, View)
        np.testing.assert_allclose(up @ mu, down @ f, atol=1e-14)


def public():
    """Functions by name, those of the groups too."""
    entries = [getattr(je, name) for name in je.__all__]
    for group in (entry for entry in entries if inspect.ismodule(entry)):
        own = (x for x in vars(group).values() if getattr(x, "__module__", "") == group.__name__)
        entries += own
    return sorted({f for f in entries if inspect.isfunction(f)}, key=lambda f: f.__qualname__)


@pytest.mark.parametrize("function", public(), ids=lambda function: function.__qualname__)
def test_no_public_argument_takes_anything(function):
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    definition = ast.parse(source).body[0]
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg) and not definition.name.startswith("_"):
            assert argument.annotation is not None, argument.arg
            names = {x.id for x in ast.walk(argument.annotation) if isinstance(x, ast.Name)}
            assert "Any" not in names, argument.arg


@pytest.mark.parametrize("give", [je.check_mdp, lambda bandit: je.pair_chain(bandit, jnp.ones(4))])
def test_a_bandit_is_shown_the_right_door(give):
    with pytest.raises(ValueError, match=r"RestlessBandit.*check_bandit.*exchangeable_chain"):
        give(je.circulant_bandit(5))


def taking(*names):
    """Public functions that take an argument of one of these names."""
    return [
        f
        for f in public()
        if not f.__name__.startswith("_") and {*names} & {*inspect.signature(f).parameters}
    ]


TAKE_A_CHAIN, TAKE_A_BANDIT = taking("chain", "other"), taking("bandit")


def call(function, **given):
    """With what is given, and for every other argument something that is never looked at."""
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            arguments[name] = given[name]
        elif parameter.default is inspect.Parameter.empty:
            harmless = {"key": jax.random.key(0)}
            arguments[name] = harmless.get(name, 2 if name.startswith("num_") else 0.5)
    return function(**arguments)


def test_there_are_such_functions():
    names = {f.__qualname__ for f in (*TAKE_A_CHAIN, *TAKE_A_BANDIT)}
    assert {"q_values", "theorem_6", "best_merge", "mean_field", "whittle_index"} <= names


@pytest.mark.parametrize("function", TAKE_A_CHAIN, ids=lambda function: function.__qualname__)
def test_a_model_in_the_place_of_a_chain(function):
    """One line that names what makes a chain of it."""
    model, policy = je.example_1()
    chain = je.pair_chain(model, policy)
    doors = {
        r"WeaklyCoupledMDP is not a PairChain; pair_chain\(model, policy\) makes one": model,
        r"tuple is not a PairChain; pair_chain\(model, policy\)": (model, policy),
        r"RestlessBandit is not a PairChain; exchangeable_chain\(": je.circulant_bandit(5),
    }
    if function is not je.stationary_distribution:  # which takes a matrix too
        doors[r"ndarray is not a PairChain; PairChain.from_matrix\("] = np.eye(4)
    for match, given in doors.items():
        with pytest.raises(ValueError, match=rf"^chain: {match}"):
            call(function, chain=given, other=chain)
        if "other" in inspect.signature(function).parameters:
            with pytest.raises(ValueError, match=rf"^other: {match}"):
                call(function, chain=chain, other=given)


@pytest.mark.parametrize(
    "function",
    [f for f in taking("trajectory", "flow", "flows") if f.__module__.startswith("jaxent.data")],
    ids=lambda function: function.__qualname__,
)
def test_a_log_in_the_place_of_a_trajectory(function):
    log = je.Log(None, ())
    with pytest.raises(ValueError, match=r"^\w+: Log is not a Trajectory; its .trajectory is one"):
        call(function, trajectory=log, flow=log, flows=log)
    with pytest.raises(ValueError, match=r"^\w+: str is not a Trajectory; read_log\(..\)"):
        call(function, trajectory="log.csv", flow="log.csv", flows="log.csv")


@pytest.mark.parametrize("function", TAKE_A_BANDIT, ids=lambda function: function.__qualname__)
def test_a_model_in_the_place_of_a_bandit(function):
    model = je.example_1()[0]
    run = SimpleNamespace(counts=np.ones((2, 4)))
    match = r"is not a RestlessBandit; agents alike, .*pair_chain"
    for given in (model, je.named_bandit("machines", 10), je.pair_chain(*je.example_1())):
        with pytest.raises(ValueError, match=match):
            call(function, bandit=given, trajectory=run)


BANDIT = je.named_bandit("machines", 10).bandit
RANKED = {
    "fluid": je.fluid_priority(BANDIT),
    "whittle": je.whittle_index(BANDIT),
    "named": je.named_bandit("machines", 10),
}
KEY = jax.random.key(0)
START = np.array([4, 3, 2, 1])
TAKE_A_PRIORITY = {
    "mean_field": lambda p: je.mean_field(BANDIT, p),
    "mean_field_step": lambda p: je.mean_field_step(BANDIT, p, jnp.array(START / 10)),
    "ground_truth": lambda p: je.ground_truth(BANDIT._replace(num_agents=5, budget=1), p),
    "exchangeable_chain": lambda p: je.exchangeable_chain(
        BANDIT._replace(num_agents=5, budget=1), p
    ).kernel.matrix(),
    "tagged_entanglement": lambda p: je.tagged_entanglement(
        BANDIT._replace(num_agents=2, budget=1), p, np.full(10, 0.1)
    ),
    "simulate_counts": lambda p: je.simulate_counts(KEY, BANDIT, p, num_steps=3, counts=START),
    "monte_carlo_q": lambda p: je.monte_carlo_q(KEY, BANDIT, p, START, num_runs=2, num_steps=3),
    "check_attractor": lambda p: je.check_attractor(BANDIT, p, num_starts=2, num_steps=50),
    "lipschitz_constant": lambda p: je.lipschitz_constant(BANDIT, p),
    "deviation_bound": lambda p: je.deviation_bound(
        START[None], np.ones(1), BANDIT, p, je.mean_field(BANDIT, RANKED["fluid"].priority)
    ),
    "index_policy": lambda p: je.index_policy(p, num_agents=2, budget=1),
    "index_priority": lambda p: je.index_priority(p),
}


@pytest.mark.parametrize("ranked", RANKED)
@pytest.mark.parametrize("name", TAKE_A_PRIORITY)
def test_what_ranks_states_is_a_priority(name, ranked):
    order = np.asarray(RANKED[ranked].priority)
    if name == "index_priority":
        np.testing.assert_array_equal(je.index_priority(RANKED[ranked]), order)
        return
    given, wanted = (TAKE_A_PRIORITY[name](p) for p in (RANKED[ranked], order))
    jax.tree.map(np.testing.assert_array_equal, given, wanted)


def test_what_ranks_nothing_says_so():
    rng = np.random.default_rng(0)
    while True:
        kernels = rng.dirichlet([0.3] * 3, (2, 3))
        bandit = je.RestlessBandit(*kernels, rng.random((3, 2)), 10, 5, 0.95)
        index = je.whittle_index(bandit)
        if not index.indexable:
            break
    with pytest.raises(ValueError, match=r"^priority: the bandit is not indexable \(state \d"):
        je.mean_field(bandit, index)
    soft = je.SoftIndex(jnp.arange(3.0), 0.1)
    with pytest.raises(ValueError, match="priority: a SoftIndex has chances and no order"):
        je.check_attractor(bandit, soft)
    with pytest.raises(ValueError, match="index: WhittleIndex is not an array; it holds index, "):
        je.mean_field(bandit, je.SoftIndex(index, 0.1))
    with pytest.raises(ValueError, match="policy: tuple is not a SoftIndex"):
        je.soft_mean_field(bandit, (0, 1, 2))
    chain = je.pair_chain(*je.example_1())
    with pytest.raises(ValueError, match="mdp: is a PairChain already"):
        je.pair_chain(chain, jnp.ones(4))


def test_other_models_are_no_bandits():
    with pytest.raises(ValueError, match=r"WeaklyCoupledMDP is not a RestlessBandit.*check_mdp"):
        je.check_bandit(je.example_1()[0])
    with pytest.raises(ValueError, match=r"\['first'\] is not the number of an agent"):
        je.marginal(je.pair_chain(*je.example_1()), jnp.full(16, 1 / 16), agent=["first"])
