"""What the README says is what runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxent
from experiments import command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def named(name: str) -> bool:
    """Whether jaxent exports it."""
    module = jaxent.bounds if name.startswith("bounds.") else jaxent
    return hasattr(module, name.removeprefix("bounds."))


def test_ci_runs_the_test_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


def test_figures_need_no_development_package():
    assert (
        "pip install uv && uv run --no-dev --extra experiments python -m experiments.circulant\n"
    ) in README
    hidden = "import sys; sys.modules |= dict.fromkeys(('numba', 'pandas', 'pytest', 'tyro')); "
    code = f"{hidden} import experiments.circulant"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_examples_print_what_they_say(capsys):
    pairs = re.findall(r"```python\n(.*?)\n```\n\n```text\n(.*?)\n```", README, flags=re.DOTALL)
    assert len(pairs) == 1
    for code, output in pairs:
        with command.double_precision():  # which it asks for, and which nobody after it should have
            exec(code, {})
        assert capsys.readouterr().out.strip() == output.strip()


def test_every_function_named_exists():
    tables = README.split("## What is exact, certified, estimated")[1]
    names = set(re.findall(r"`((?:bounds\.)?[A-Za-z_0-9]+)`", tables))
    assert names
    assert not [name for name in names if not named(name)]


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {jaxent.__version__}" in citation
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"license: {project['license']}" in citation
