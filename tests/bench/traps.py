"""The traps of tests/traps for graphopt and for its peers, each at its own defaults."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from graphopt.rules.rule import Accuracy
from tests.bench.worker import Worker
from tests.traps.fall import placed, wrong
from tests.traps.read import Trap, traps

_TOOLS = ("graphopt-O1", "graphopt-O2", "graphopt-O3", "onnxsim", "onnxslim", "onnxscript", "ort-basic", "ort-extended")
_SECONDS = 30.0
_ACCURACY = {"graphopt-O1": Accuracy.EXACT, "graphopt-O3": Accuracy.FAST}


def fallen() -> None:
    """A table of how many traps catch each tool, and what the traps were."""
    every = traps()
    print(f"\n== {len(every)} traps, at the edge of a graph and inside ==")
    print("  judged as -O2 is: NaN and infinities in place, numbers within rounding; graphopt -O1 by equal bits")
    with tempfile.TemporaryDirectory() as name:
        for tool in _TOOLS:
            found = _of(tool, every, Path(name))
            print(f"  {tool:14} {len({trap for trap, _ in found}):4} of {len(every)}", flush=True)
            for title, why in found:
                print(f"      {title}: {why[:150]}")


def _of(tool: str, every: list[Trap], folder: Path) -> list[tuple[str, str]]:
    """The traps that a tool falls into, once each, with what is wrong."""
    source, output = folder / "trap.onnx", folder / "result.onnx"
    found: dict[str, str] = {}
    with Worker(tool, timeout=_SECONDS) as worker:
        for trap in every:
            for where, model, feeds in placed(trap):
                onnx.save(model, source)
                answer = worker.optimize(source, output)
                if "error" in answer:
                    found.setdefault(trap.name, f"{where}: it fails: {answer['error']}")
                    continue
                why = wrong(trap, model, onnx.load(output), feeds, _ACCURACY.get(tool, Accuracy.CLOSE))
                if why is not None:
                    found.setdefault(trap.name, f"{where}: {why}")
    return list(found.items())
