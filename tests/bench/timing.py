"""Variants of one model in ONNX Runtime, in one process: do they give the same, and how long do they take?

`python -m tests.bench.timing ORIGINAL ROUNDS NAME=FILE …` prints JSON: for each variant the `error` of its outputs
against those of the original without optimizations (the largest difference over |a| + rms(a); or why there is none),
and `seconds`, the time of each round. The variants take turns within a round, with ONNX Runtime's default
optimizations and one thread; a round of a quick model is several runs. The original itself is a variant.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from graphopt.verify.feeds import plans, synthesize

_ROUND = 0.02  # seconds


def session(path: str, *, optimized: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs(path: str) -> tuple[dict[str, Any], list[Any]]:
    """Values with which the original runs, and what it gives."""
    model, reference = ir.load(path), session(path, optimized=False)
    for plan in plans(model):
        feeds = synthesize(model, plan=plan)
        try:
            return feeds, reference.run(None, feeds)
        except Exception as error:
            problem = error
    raise problem


def difference(expected: list[Any], found: list[Any]) -> float:
    """The largest |a - b| over |a| + rms(a); infinite where shapes or NaN and infinities differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
            continue
        if a.shape != b.shape:
            return float("inf")
        x, y = a.astype(np.float64), b.astype(np.float64)
        if not np.array_equal(np.isnan(x), np.isnan(y)) or not np.array_equal(x[np.isinf(x)], y[np.isinf(x)]):
            return float("inf")
        finite = np.isfinite(x)
        if finite.any():
            x, y = x[finite], y[finite]
            worst = max(worst, float(np.max(np.abs(x - y) / (np.abs(x) + np.sqrt(np.mean(x * x)) + 1e-30))))
    return worst


def main() -> None:
    original, rounds = sys.argv[1], int(sys.argv[2])
    variants = {"original": original, **dict(item.split("=", 1) for item in sys.argv[3:])}
    feeds, expected = inputs(original)
    found: dict[str, dict[str, Any]] = {}
    sessions: dict[str, Any] = {}
    for name, path in variants.items():
        try:
            opened = session(path, optimized=True)
            found[name] = {"error": difference(expected, opened.run(None, feeds)), "bytes": Path(path).stat().st_size}
            sessions[name] = opened
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if rounds:
        measure(sessions, feeds, rounds, found)
    print(json.dumps(found))


def measure(sessions: dict[str, Any], feeds: dict[str, Any], rounds: int, found: dict[str, dict[str, Any]]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    start = time.perf_counter()
    for opened in sessions.values():
        opened.run(None, feeds)
    once = (time.perf_counter() - start) / len(sessions)
    times = max(1, int(_ROUND / max(once, 1e-9)))
    order = list(sessions)
    for i in range(rounds):
        for name in order[i % len(order):] + order[: i % len(order)]:
            opened = sessions[name]
            start = time.perf_counter()
            for _ in range(times):
                opened.run(None, feeds)
            seconds[name].append((time.perf_counter() - start) / times)
    for name, values in seconds.items():
        found[name]["seconds"] = values


if __name__ == "__main__":
    main()
