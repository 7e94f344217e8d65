"""Which tool optimizes which micro-model: `python -m tests.bench micro`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

import graphopt
from tests.bench.micro import all_cases
from tests.bench.micro.case import Case
from tests.bench.micro.peer import PEERS

ROOT = Path(__file__).parents[3]
SOUND_AND_NOT = {True: "✔", False: "–", None: "✘"}


def micro() -> None:
    """Print the table of all cases."""
    print("\n== micro-models: which tool fires ==")
    table(all_cases())


def table(cases: Sequence[Case]) -> None:
    """Print which tool fired on which case. A tool fires if it does on the plain or on the wrapped model.

    A model that the tool refuses is ✘. Cases whose rewrite is not sound are marked, and are not counted.
    """
    tools = ("graphopt", *PEERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, case in enumerate(cases):
            for wrapped in (False, True):
                onnx.save(case.build(wrapped), folder / _file(i, wrapped))
        for tool in PEERS:
            command = [sys.executable, "-m", "tests.bench.micro.peer", tool, name]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        print(f"  {'row':>3} {'case':52} " + " ".join(f"{t:>12}" for t in tools))
        hits = dict.fromkeys(tools, 0)
        for i, case in enumerate(cases):
            found = {"graphopt": _own(case), **{t: _peer(case, folder / t, i) for t in PEERS}}
            for tool, fired in found.items():
                hits[tool] += bool(fired) and not case.unsound
            marks = " ".join(f"{SOUND_AND_NOT[found[t]]:>12}" for t in tools)
            print(f"  {case.row:3} {case.name:52} {marks}" + (f"  unsound: {case.unsound}" if case.unsound else ""))
    sound = sum(not c.unsound for c in cases)
    print(f"  fired, of {sound} sound cases: " + ", ".join(f"{t} {hits[t]}" for t in tools))


def _file(index: int, wrapped: bool) -> str:
    return f"{index:04}{'w' if wrapped else ''}.onnx"


def _own(case: Case) -> bool | None:
    try:
        models = [
            graphopt.optimize(case.build(wrapped), case.level, target=case.target, verify=False).model
            for wrapped in (False, True)
        ]
    except graphopt.GraphoptError:
        return None
    return all(case.fired(m) for m in models)


def _peer(case: Case, folder: Path, index: int) -> bool | None:
    made = [folder / _file(index, wrapped) for wrapped in (False, True)]
    if not any(path.exists() for path in made):
        return None
    return any(case.fired(onnx.load(path)) for path in made if path.exists())
