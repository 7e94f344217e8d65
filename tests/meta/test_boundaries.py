"""Dependencies point one way, and built-in passes have no privileges."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphopt

ROOT = Path(__file__).parents[2]

# Each layer may import itself and what stands before it.
LAYERS = [
    {"errors", "gc"},
    {"targets"},
    {"ir"},
    {"runtime"},
    {"rules"},
    {"engine"},
    {"verify", "quant", "half", "emit", "report", "interop"},
    {"check"},
    {"compile"},
    {"api", "culprit", "bisection", "dropin_options", "dropin"},
    {"cli"},
]
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, those under TYPE_CHECKING left out: types bind nothing at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("graphopt"), ids=lambda p: str(p.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT / "graphopt")
    layer = relative.parts[0].removesuffix(".py")
    if layer.startswith("__"):
        return
    for name in imports(path):
        assert not name.startswith("graphopt_passes"), "the engine finds passes through entry points only"
        parts = name.split(".")
        if parts[0] == "graphopt" and len(parts) > 1:
            assert RANK[parts[1]] <= RANK[layer], f"{layer} must not import {name}"


@pytest.mark.parametrize("path", files("passes"), ids=lambda p: str(p.relative_to(ROOT)))
def test_passes_use_the_public_api_only(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top != "graphopt" or name == "graphopt", f"{path.name} imports {name}"
        assert top not in ("onnx", "onnx_ir", "onnxruntime"), f"{path.name} imports {name}"


def test_public_names_are_exactly_all() -> None:
    assert len(graphopt.__all__) == len(set(graphopt.__all__))  # ruff sees to their order
    assert set(graphopt._HOME) == set(graphopt.__all__)
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        graphopt.optimise  # noqa: B018 - the access is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import graphopt, sys; print([m for m in ('onnx', 'onnx_ir', 'onnxruntime', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*files("graphopt"), *files("passes")], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_has_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (200 if path.is_relative_to(ROOT / "passes") else 400), "split it"
