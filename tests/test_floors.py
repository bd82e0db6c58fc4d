"""Imports point down, or to a file before it on the same floor."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxent"

FLOORS = [
    [
        "_checks",
        "files",
        "memory",
        "cholesky",
        "interior",
        "simplex",
        "minimax",
        "additive",
        "signs",
        "nearest",
        "kron",
        "elimination",
        "krylov",
    ],
    ["mdp", "policies", "soft", "families", "instances", "bandits"],
    ["factored", "chain", "neighbourhood", "stationary", "views"],
    ["bellman", "distances", "separability"],
    ["entanglement", "decomposition", "mixing", "bounds", "descent", "influence"],
    [
        "restless.activation",
        "restless.sampling",
        "restless.simulate",
        "restless.mean_field",
        "restless.monte_carlo",
        "restless.next_counts",
        "restless.exchangeable",
        "restless.tagged",
        "restless.ground_truth",
        "restless.groups",
        "restless.soft_chain",
        "restless.soft_mean_field",
        "restless.concentration",
        "restless.attractor",
        "restless.indices",
        "restless",
        "trajectory",
        "tables",
        "environments",
        "estimators",
        "reward_split",
        "learning",
        "logs",
        "restless.agents",
    ],
    ["sweep", "audit", "plotting", "cli"],
]
ORDER = [(floor, name) for floor, names in enumerate(FLOORS) for name in names]
RANK = {name: rank for rank, (_, name) in enumerate(ORDER)}
TOP = len(FLOORS) - 1


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for p in sorted(ROOT.rglob("*.py")) if module_name(p)}


def imported(path: Path) -> set[str]:
    """Names of jaxent modules that a file imports, relative or absolute."""
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


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    assert name in RANK, f"{name} has no floor: add it to FLOORS"
    above = {m for m in imported(FILES[name]) if RANK[m] >= RANK[name]}
    assert not above, f"{name} imports {above}, which stand higher or after it"


@pytest.mark.parametrize("name", FILES)
def test_only_the_top_floor_draws(name):
    top = {n for floor, n in ORDER if floor == TOP}
    if name not in top:
        assert "matplotlib" not in FILES[name].read_text()
