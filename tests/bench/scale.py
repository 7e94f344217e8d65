"""Time to optimize a decomposed transformer of 8 000 nodes, against peers in turns."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx

from tests.bench.worker import Worker

QUICK = ("graphopt-O2", "onnxsim", "ort-extended")
SLOW = ("onnxslim", "onnxscript")  # minutes for each run, so they have one turn


def scale(folder: Path, generate: Any, rounds: int) -> None:
    """`generate`: the module of `fixtures/generate.py`."""
    for dynamic in (True, False):
        path = generate.transformer(folder / "layers.onnx", 1, layers=75 if dynamic else 130, dynamic=dynamic)
        nodes = len(onnx.load(path).graph.node)
        print(f"\n== {nodes} nodes, {'dynamic' if dynamic else 'static'} shapes, file to file, {rounds} rounds in turns ==")
        seconds = _measure(path, folder / "made.onnx", rounds)
        ours = statistics.median(seconds["graphopt-O2"])
        for tool, found in seconds.items():
            if not found:
                print(f"  {tool:16} failed")
                continue
            middle = statistics.median(found)
            print(f"  {tool:16} {middle:8.2f} s ({min(found):.2f} to {max(found):.2f}), {middle / nodes * 1e3:.3f} ms per node, "
                  f"{middle / ours:.2f} times ours")
        print("  (goals: ours at most 0.2 ms per node, Python peers at least 10 times ours, onnxsim at least 1)")


def _measure(path: Path, output: Path, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {tool: [] for tool in (*QUICK, *SLOW)}
    with ExitStack() as stack:
        workers = {tool: stack.enter_context(Worker(tool, timeout=600)) for tool in seconds}
        for turn in range(rounds):
            for tool in (*QUICK, *SLOW) if turn == 0 else QUICK:
                answer = workers[tool].optimize(path, output)
                if "seconds" in answer:
                    seconds[tool].append(answer["seconds"])
                output.unlink(missing_ok=True)
    return seconds
