"""The public face: every name of 0.1.0 is still there, and old spellings warn."""

import sys
import types
from pathlib import Path

import jax.numpy as jnp
import pytest

import jaxent

# What `from jaxent import X` gave in 0.1.0.
NAMES = (Path(__file__).parent / "names_0_1_0.txt").read_text().split()
RENAMED = {"neighbourhood", "stationary_law", "tv_centre"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_0_1_0_is_still_there(name):
    if name in RENAMED:
        with pytest.warns(DeprecationWarning, match=f"jaxent.{name} is now"):
            assert callable(getattr(jaxent, name))
    else:
        assert hasattr(jaxent, name)
        assert name in jaxent.__all__


def test_the_list_is_whole():
    assert len(jaxent.__all__) == len(set(jaxent.__all__))
    inside = {
        name
        for name, value in vars(jaxent).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("jaxent")
    }
    assert inside <= set(jaxent.__all__)
    assert set(jaxent.__all__) <= set(dir(jaxent))
    with pytest.raises(AttributeError, match="has no attribute 'entanglment'"):
        _ = jaxent.entanglment
    with pytest.raises(AttributeError, match="has no attribute '__wrapped__'"):
        _ = jaxent.__wrapped__


@pytest.mark.parametrize(
    "group", ["agents", "bandits", "bounds", "distances", "examples", "learning", "lemmas"]
)
def test_groups_are_modules(group):
    assert isinstance(getattr(jaxent, group), types.ModuleType)
    assert group in jaxent.__all__


def test_no_function_stands_where_a_module_does():
    root = Path(jaxent.__file__).parent
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            continue
        package = sys.modules.get(".".join(["jaxent", *parts[:-1]]))
        found = getattr(package, parts[-1], None)
        assert found is None or isinstance(found, types.ModuleType), path


def test_functions_carry_their_own_names():
    for number in range(3, 10):
        if number != 7:
            assert getattr(jaxent.bounds, f"theorem_{number}").__name__ == f"theorem_{number}"


def test_old_spellings_of_arguments_warn_and_give_the_same():
    chain = jaxent.PairChain.from_matrix(jaxent.pr_box(), sizes=(2, 2))
    for function in (jaxent.is_separable, jaxent.is_agentwise_separable):
        with pytest.warns(DeprecationWarning, match="the argument tolerance is now tol"):
            assert function(chain, tolerance=1e-9) == function(chain, tol=1e-9)
    with pytest.warns(DeprecationWarning, match="separable_decomposition: .*tolerance is now tol"):
        jaxent.separable_decomposition(chain, tolerance=1e-9)
    with pytest.warns(DeprecationWarning, match="is_convexly_separable: .*tolerance is now tol"):
        assert not jaxent.is_convexly_separable(chain, tolerance=1e-8)
    one = jaxent.MDP(jnp.full((2, 1, 2), 0.5), jnp.zeros((2, 1)))
    parts = ((one.transition,), ((0,),), (one.reward,), 0.9)
    with pytest.warns(DeprecationWarning, match="neighbours is now neighbors"):
        old = jaxent.FactoredMDP(parts[0], neighbours=parts[1], rewards=parts[2], discount=0.9)
    with pytest.warns(DeprecationWarning, match=r"FactoredMDP\.neighbours is now"):
        assert old.neighbours == jaxent.FactoredMDP(*parts).neighbors
    for function in (jaxent.fit_monotone, jaxent.monte_carlo_local_q):
        with (
            pytest.warns(DeprecationWarning, match="the argument tolerance is now tol"),
            pytest.raises(TypeError, match="missing"),
        ):
            function(tolerance=1e-3)
