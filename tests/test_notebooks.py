"""The rules of the notebooks, read from their cells; that they run is for nbmake (`.ci/run`)."""

import ast
import importlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import jaxent

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_CELLS = 40

INSTALL = """\
# On a hosted notebook: install from the checkout that holds this file. Elsewhere this does nothing.
import importlib.util

if importlib.util.find_spec("jaxent") is None:
    %pip install -q "..{}\""""
# What a machine leaves in an output: its folders, how long it took, how hot it was.
OF_A_MACHINE = re.compile(r"/(?:home|root|tmp|usr|var|work)/|site-packages|0x[0-9a-f]{6,}")


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def code(path):
    """Every code cell but the install line as one tree, its magics left out."""
    lines = "\n".join(source(c) for c in cells(path, "code")[1:]).splitlines()
    return ast.parse("\n".join(line for line in lines if not line.startswith("%")))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_the_stories_are_there():
    numbers = [path.name[:2] for path in NOTEBOOKS if path.name[:2].isdigit()]
    assert numbers == ["00", "01", "02", "03", "04", "05", "06", "07"]


def test_outputs_are_those_of_one_run_from_top_to_bottom(notebook):
    """And hold no complaint, no trace of a machine, and no more than a repository bears."""
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output
        shown = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        assert not OF_A_MACHINE.search(json.dumps([shown, output.get("text", "")]))
    assert all(cell["metadata"] == {} for cell in code)
    assert notebook.stat().st_size < 1_000_000


def test_the_first_code_cell_installs(notebook):
    """All that the notebook asks for: the wheel, and the flights where they are told of."""
    extra = "[audit,flights]" if notebook.stem == "flights" else "[audit]"
    assert source(cells(notebook, "code")[0]) == INSTALL.format(extra)


def test_it_says_when_to_switch_to_double_precision(notebook):
    assert any("jax_enable_x64" in source(cell) for cell in cells(notebook, "code"))


def test_nothing_is_defined(notebook):
    """Nor is a lambda more than one expression of ten lines."""
    for node in ast.walk(code(notebook)):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if isinstance(node, ast.Lambda):
            assert node.end_lineno - node.lineno <= 10


def test_imports_resolve(notebook):
    for node in ast.walk(code(notebook)):
        if isinstance(node, ast.Import):
            assert all(find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jaxent":
            for alias in node.names:
                module = importlib.import_module(node.module)
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.ImportFrom):
            assert find_spec(node.module)


def test_it_needs_nothing_that_the_wheel_lacks(notebook):
    assert not re.search(
        r"\b(?:import|from) (?:experiments|benchmarks|tests)\b", notebook.read_text()
    )


def test_names_of_the_package_exist(notebook):
    """`jaxent.NAME` and `jaxent.NAME.NAME`, in code and in the text."""
    every = cells(notebook, "code") + cells(notebook, "markdown")
    used = set(re.findall(r"\bjaxent\.(\w+(?:\.\w+)?)", "\n".join(source(c) for c in every)))
    assert used
    for name in used:
        head, _, tail = name.partition(".")
        found = getattr(jaxent, head, None) or importlib.import_module(f"jaxent.{head}")
        assert not tail or hasattr(found, tail), name


def test_links_lead_somewhere(notebook):
    text = "\n".join(source(cell) for cell in cells(notebook, "markdown"))
    assert "What to read next" in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (notebook.parent / target).exists(), target
    for path in re.findall(r"`((?:docs|experiments)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_it_is_short(notebook):
    assert len(json.loads(notebook.read_text())["cells"]) <= MOST_CELLS
