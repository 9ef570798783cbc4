"""The direction of imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported_modules(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize(
    ("package", "other", "allowed"), [("mappo", "envs", set()), ("envs", "mappo", {"mappo.vec_env"})]
)
def test_dependencies_point_one_way(package: str, other: str, allowed: set[str]) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files, f"no sources found for {package}"
    for file in files:
        leaks = {name for name in imported_modules(file.read_text()) if name.split(".")[0] == other}
        assert leaks <= allowed, f"{file} imports {leaks - allowed}"
