"""The public face: every name of 0.1.0 is still there, and old spellings warn."""

import sys
import types
from pathlib import Path

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
    with pytest.raises(AttributeError, match="has no attribute 'entanglment'"):
        _ = jaxent.entanglment


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
