"""What the docs say is what is: examples run, and what a page names exists."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import jaxent
from experiments import command
from tests.tolerances import EXACT, SINGLE, SOLVE

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Code with its output right below. (The coin game of audit.md needs other packages, and has none.)
EXAMPLE = re.compile(r"```python\n((?:(?!```).)*)\n```\n\n```text\n(.*?)\n```", flags=re.DOTALL)
RUN = [page for page in PAGES if EXAMPLE.search(page.read_text())]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "jaxent").rglob("*.py")
    if ">>>" in path.read_text()
)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


class Checker(doctest.OutputChecker):
    """What is printed is what the page says; in float32 its numbers may differ by rounding."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags) or not SINGLE:
            return super().check_output(want, got, optionflags)
        words = ["".join(NUMBER.sub("", text).split()) for text in (want, got)]
        numbers = [[float(x) for x in NUMBER.findall(text)] for text in (want, got)]
        same = words[0] == words[1] and len(numbers[0]) == len(numbers[1])
        return same and np.allclose(*numbers, rtol=SOLVE, atol=EXACT)


# Seconds of compilation each.
DEAR = {
    "jaxent.values.bounds",
    "jaxent.measures.entanglement",
    "jaxent.restless.ground_truth",
    "jaxent.restless.mean_field",
    "jaxent.restless.simulate",
}


@pytest.mark.parametrize(
    "name", [pytest.param(m, marks=pytest.mark.slow) if m in DEAR else m for m in MODULES]
)
def test_docstring_examples(name):
    runner = doctest.DocTestRunner(checker=Checker())
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test)
    assert runner.tries
    assert not runner.failures


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_examples_of_pages_print_what_they_say(page, capsys):
    text = page.read_text()
    for code, output in EXAMPLE.findall(text):
        with command.double_precision():  # some ask for it, and nobody after them should have it
            exec(code, {})
        assert capsys.readouterr().out.strip() == output.strip()


def test_every_exported_name_is_on_one_page_of_the_api():
    """And no page lists what is not there."""
    listed = []
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for block in re.findall(r"^```\{api\}\n(.*?)^```", page.read_text(), re.M | re.S):
            listed += block.split()
    assert len(listed) == len(set(listed))
    for name in listed:
        head, _, tail = name.partition(".")
        assert hasattr(getattr(jaxent, head), tail) if tail else hasattr(jaxent, name), name
    exported = {n for n in jaxent.__all__ if not inspect.ismodule(getattr(jaxent, n))}
    assert exported <= set(listed)


def test_every_test_named_exists():
    defined = {
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    for page in PAGES:
        named = re.findall(r"`(tests/\w+\.py::\w+)`", page.read_text())
        assert not set(named) - defined, page.name


def test_every_statement_of_the_paper_has_a_page_with_its_tests():
    statements = [f"theorem-{k}" for k in range(1, 10)] + [f"proposition-{k}" for k in range(1, 5)]
    for name in statements:
        assert "`tests/test_" in (ROOT / "docs" / "theory" / f"{name}.md").read_text()
