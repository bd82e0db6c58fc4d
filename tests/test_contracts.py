"""What a type checker is told: the contracts, and no argument that takes just anything."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

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
    one = je.MDP(jnp.full((2, 2, 2), 0.5), jnp.zeros((2, 2)))
    joint = jnp.full((2, 2, 2, 2, 2, 2), 0.25)
    local, reward = jnp.full((2, 2, 1, 2), 0.5), jnp.zeros((2, 2, 1))
    states = np.zeros((4, 2, 2, 1), int)
    table = jnp.full((2, 2, 2, 2), 0.25)
    yield one, jnp.full((2, 2), 0.5)
    yield je.WeaklyCoupledMDP((one, one), 0.9), table
    yield je.JointMDP(joint, (one.reward, one.reward), 0.9), table
    yield je.CooperativeGame(joint, jnp.zeros((2, 2, 2, 2)), 0.9), table
    exogenous = je.ExogenousMDP((local, local), (reward, reward), jnp.ones((1, 1)), 0.9)
    yield exogenous, table.reshape(2, 2, 1, 2, 2)
    yield (
        je.FactoredMDP((one.transition,) * 2, ((0,), (1,)), (one.reward, one.reward), 0.9),
        je.LocalPolicies((jnp.full((2, 2), 0.5),) * 2, ((0,), (1,))),
    )
    chances = jnp.ones((4, 2, 2, 1))
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


def test_other_models_are_no_bandits():
    with pytest.raises(ValueError, match=r"WeaklyCoupledMDP is not a RestlessBandit.*check_mdp"):
        je.check_bandit(je.example_1()[0])
    with pytest.raises(ValueError, match=r"\['first'\] is not the number of an agent"):
        je.marginal(je.pair_chain(*je.example_1()), jnp.full(16, 1 / 16), agent=["first"])
