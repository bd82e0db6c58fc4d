"""Folders are floors: imports point to an earlier floor, or to a file of the same folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxent"

# From the ground up. Floors in one row do not know each other; `sweeps` asks for little.
FLOORS = [
    {"_checks", "_reads"},
    {"numerics"},
    {"models"},
    {"chains"},
    {"measures", "data"},
    {"values"},
    {"restless"},
    {"sweeps"},
    {"auditing"},
    {"plotting"},
    {"reporting"},
    {"_public"},
]
ONLY = {"sweeps": {"_checks", "_reads", "numerics"}}
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
MOST_LINES = 400


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for p in sorted(ROOT.rglob("*.py")) if module_name(p)}


def imported(path: Path) -> set[str]:
    """Modules of jaxent that a file imports anywhere in it, relative or absolute."""
    package = ["jaxent", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            if module[:1] == ["jaxent"]:
                inner = ".".join(module[1:])
                for alias in node.names:
                    deeper = f"{inner}.{alias.name}".strip(".")
                    found.add(deeper if deeper in FILES else inner)
        elif isinstance(node, ast.Import):
            found |= {a.name[7:] for a in node.names if a.name.startswith("jaxent.")}
    return found - {""}


def floor(module: str) -> str:
    return module.split(".")[0]


def test_every_folder_has_a_floor():
    assert {floor(name) for name in FILES} == set(RANK)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    for other in imported(FILES[name]):
        if floor(other) != floor(name):
            assert RANK[floor(other)] < RANK[floor(name)], f"{name} imports {other}, not below it"
            allowed = ONLY.get(floor(name))
            assert allowed is None or floor(other) in allowed, f"{name} imports {other}"


def test_no_circles():
    graph = {name: imported(path) for name, path in FILES.items()}
    while graph:
        free = {name for name, needs in graph.items() if not needs & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_room(name):
    assert len(FILES[name].read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", FILES)
def test_one_floor_draws(name):
    if floor(name) != "plotting":
        assert "matplotlib" not in FILES[name].read_text()
