"""Real models through graphopt and its peers: nodes left, time to optimize, and latency in ONNX Runtime.

`python -m tests.bench.models FOLDER [--rounds N] [--tools …]`. A peer counts for a model if its result loads and gives
what the original gives. Peers that use operators of ONNX Runtime's own are compared with graphopt for that runtime.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from math import exp, log
from pathlib import Path
from typing import Any

import onnx

from tests.bench.worker import ROOT, Worker

OURS = ("graphopt-O2", "graphopt-O3-ort")
PEERS = ("onnxsim", "onnxslim", "onnxscript", "ort-basic", "ort-extended")
_RIGHT = 1e-2  # a peer whose outputs differ by more is not the best


def count_nodes(path: Path) -> tuple[int, bool]:
    """Nodes of all graphs but Constants, and whether all operators are standard ones."""
    model = onnx.load(path, load_external_data=False)
    nodes = [n for graph in (model.graph, *model.functions) for n in _nodes(graph)]
    own = {f.domain for f in model.functions}
    standard = all(n.domain in ("", "ai.onnx", "ai.onnx.ml", *own) for n in nodes)
    return sum(n.op_type != "Constant" for n in nodes), standard


def _nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def run(path: Path, folder: Path, workers: dict[str, Worker], rounds: int) -> dict[str, Any]:
    """What each tool made of one model."""
    found: dict[str, Any] = {"nodes": count_nodes(path)[0]}
    made: dict[str, Path] = {}
    for tool, worker in workers.items():
        output = folder / f"{path.stem}.{tool}.onnx"
        answer = worker.optimize(path, output)
        if output.exists() and "error" not in answer:
            answer["nodes"], answer["standard"] = count_nodes(output)
            made[tool] = output
        found[tool] = answer
    command = [sys.executable, "-m", "tests.bench.timing", str(path), str(rounds)]
    command += [f"{tool}={output}" for tool, output in made.items()]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        timing = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    except subprocess.TimeoutExpired:
        timing = {}
    found["original"] = timing.get("original", {})
    for tool in made:
        answer = timing.get(tool, {})
        found[tool]["difference"] = answer.get("error")
        found[tool]["latency"] = answer.get("seconds")
    for output in folder.iterdir():
        output.unlink()
    return found


def right(answer: dict[str, Any]) -> bool:
    difference = answer.get("difference")
    return "nodes" in answer and isinstance(difference, int | float) and difference <= _RIGHT


def ours_for(found: dict[str, Any], tool: str) -> str:
    """With what a peer is compared: standard operators with standard operators."""
    return OURS[0] if found[tool].get("standard") else OURS[1]


def report_nodes(results: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'model':34} {'before':>7} " + " ".join(f"{t[-15:]:>15}" for t in (*OURS, *PEERS)))
    ratios: list[float] = []
    more: list[str] = []
    for name, found in results.items():
        cells = [_cell(found.get(t, {})) for t in (*OURS, *PEERS)]
        print(f"{name[:34]:34} {found['nodes']:7} " + " ".join(f"{c:>15}" for c in cells))
        pairs = [(found[t]["nodes"], found[ours_for(found, t)], t) for t in PEERS if right(found.get(t, {}))]
        pairs = [(theirs, ours["nodes"], t) for theirs, ours, t in pairs if "nodes" in ours]
        if not pairs:
            continue
        theirs, ours, best = min(pairs, key=lambda p: p[0] / max(1, p[1]))
        ratios.append((ours + 1) / (theirs + 1))
        if ours > theirs:
            more.append(f"{name}: {ours} nodes, {best} {theirs}")
    print(f"\nnodes left against the best peer of each model: geometric mean {_mean(ratios):.3f} over {len(ratios)} models "
          f"(goal: at most 0.90); more than a peer on {len(more)} (goal: 0)")
    print("".join(f"  {line}\n" for line in more), end="")


def _cell(answer: dict[str, Any]) -> str:
    if "nodes" not in answer:
        return "-"
    mark = "" if right(answer) else "!"
    return f"{answer['nodes']}{'' if answer['standard'] else '*'}{mark}"


def _mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values)) if values else float("nan")


def report_latency(results: dict[str, dict[str, Any]]) -> None:
    print("\nlatency in ONNX Runtime with its default optimizations, graphopt -O3 -t ort-cpu over the other "
          "(median of the rounds' ratios)")
    columns = ("original", *(p for p in PEERS if any(p in found for found in results.values())))
    overall: dict[str, list[float]] = {c: [] for c in (*columns, "best")}
    for name, found in results.items():
        ours = found.get(OURS[1], {}).get("latency")
        if not ours:
            continue
        line: dict[str, float] = {}
        for column in columns:
            answer = found.get(column, {})
            theirs = answer.get("seconds" if column == "original" else "latency")
            if theirs and (column == "original" or right(answer)):
                line[column] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        line["best"] = max(line.values())
        for column, ratio in line.items():
            overall[column].append(ratio)
        spread = statistics.quantiles([a / b for a, b in zip(ours, found["original"]["seconds"], strict=True)], n=4)
        print(f"{name[:34]:34} {statistics.median(ours) * 1e3:9.3f} ms  "
              + "  ".join(f"{c} {line[c]:.2f}" for c in line) + f"  (original {spread[0]:.2f} to {spread[2]:.2f})")
    print("geometric means: " + ", ".join(f"{c} {_mean(v):.3f}" for c, v in overall.items() if v)
          + " (goal: best at most 0.95)")


def report_time(results: dict[str, dict[str, Any]]) -> None:
    print("\nseconds to optimize, all models that every one of these could do")
    tools = [t for t in (*OURS, *PEERS) if any("seconds" in found.get(t, {}) for found in results.values())]
    common = [f for f in results.values() if all("seconds" in f.get(t, {}) for t in tools)]
    for tool in tools:
        print(f"  {tool:16} {sum(f[tool]['seconds'] for f in common):8.2f} s for {len(common)} models")


def models(
    folder: Path, rounds: int, tools: tuple[str, ...] = (*OURS, *PEERS), only: str = "", keep: Path | None = None
) -> dict[str, Any]:
    """Run the comparison over the models of a folder, and print it; `keep` gets what is known after each model."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        workers = {t: stack.enter_context(Worker(t)) for t in tools}
        for path in sorted(folder.rglob("*.onnx")):
            if only in path.name:
                results[str(path.relative_to(folder))] = run(path, Path(scratch), workers, rounds)
                if keep is not None:
                    keep.write_text(json.dumps(results))
                print(".", end="", file=sys.stderr, flush=True)
    report_nodes(results)
    report_time(results)
    if rounds:
        report_latency(results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15, help="of latency; 0 for none")
    parser.add_argument("--tools", default=",".join((*OURS, *PEERS)))
    parser.add_argument("--only", default="", help="a part of the file names")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    options = parser.parse_args()
    models(options.folder, options.rounds, tuple(options.tools.split(",")), options.only, options.json)


if __name__ == "__main__":
    main()
