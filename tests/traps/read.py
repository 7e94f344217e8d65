"""The files of traps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.ir.text import from_text, tensor_from_text

FOLDER = Path(__file__).parent

_DIRECTIVE = re.compile(r"# (trap|opset|domain|feed|keeps|finite|zeros): (.*)")


@dataclass(frozen=True, eq=False)
class Trap:
    """One model. `feeds`: inputs that are given; `keeps`: how many nodes of an operator must be left; `finite`:
    whether all its numbers are finite for finite inputs, so that -O3 answers for it; `zeros`: whether it asks for the
    sign of a zero, for which -O1 alone answers where zero is added."""

    name: str
    place: str
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    keeps: dict[str, int] = field(default_factory=dict)
    finite: bool = True
    zeros: bool = False


def traps() -> list[Trap]:
    return [trap for path in sorted(FOLDER.glob("*.onnxtxt")) for trap in read(path)]


def read(path: Path) -> Iterator[Trap]:
    """The traps of one file. Raises `ModelError` for text that is no model."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# trap: ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield _trap(path, start, lines[start:end])


def _trap(path: Path, first: int, lines: list[str]) -> Trap:
    said: dict[str, list[str]] = {}
    body = 0
    while (match := _DIRECTIVE.match(lines[body])) is not None:
        said.setdefault(match[1], []).append(match[2])
        body += 1
    imports = [("", int(said.get("opset", ["18"])[0]))]
    imports += [(name, int(version)) for name, version in map(str.split, said.get("domain", []))]
    header = ", ".join(f'"{name}" : {version}' for name, version in imports)
    text = "\n".join([f"<ir_version: 10, opset_import: [{header}]>", *lines[body:]])
    feeds = dict(tensor_from_text(text, str(path), first + 1) for text in said.get("feed", []))
    keeps = {op: int(count) for op, count in map(str.split, said.get("keeps", []))}
    model = from_text(text, str(path), first + body)
    return Trap(said["trap"][0], f"{path.name}:{first + 1}", model, feeds, keeps, "finite" not in said, "zeros" in said)
