"""Variants of one model in ONNX Runtime, in one process: what they give for the test samples, and how fast.

`python -m tests.bench.quant.judge ORIGINAL SAMPLES.npz ROUNDS OUT NAME=FILE …` prints JSON: for each variant its `sqnr` (dB,
against the original without optimizations) and `seconds` of each round, or its `error`; its outputs go to OUT.NAME.npz. The
variants take turns within a round, with ONNX Runtime's default optimizations and one thread.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from tests.bench.quant.quantizers import batches_of
from tests.bench.timing import measure, session


def outputs_of(opened: Any, batches: list[dict[str, Any]]) -> list[Any]:
    """All outputs, the batches of each put one behind the other."""
    parts = [opened.run(None, feeds) for feeds in batches]
    return [np.concatenate([np.atleast_1d(p[i]) for p in parts]) for i in range(len(parts[0]))]


def sqnr(expected: list[Any], found: list[Any]) -> float:
    """Signal to noise in dB over all float outputs, each weighing the same: the mean of their noise shares."""
    shares = []
    for a, b in zip(expected, found, strict=True):
        if a.dtype.kind != "f":
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        if x.shape != y.shape or not np.isfinite(y).all():
            return -np.inf
        shares.append(np.sum((x - y) ** 2) / max(np.sum(x * x), 1e-30))
    return float(-10 * np.log10(max(np.mean(shares), 1e-20))) if shares else np.nan


def main() -> None:
    original, samples, rounds, reference = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    batches = batches_of(original, samples)
    expected = outputs_of(session(original, optimized=False), batches)
    found: dict[str, dict[str, Any]] = {}
    sessions: dict[str, Any] = {}
    for item in [f"original={original}", *sys.argv[5:]]:
        name, path = item.split("=", 1)
        try:
            opened = session(path, optimized=True)
            outputs = outputs_of(opened, batches)
            np.savez(f"{reference}.{name}.npz", *outputs)
            found[name] = {"sqnr": sqnr(expected, outputs)}
            sessions[name] = opened
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if rounds:
        first = {name: array[:1] for name, array in batches[0].items()} if _open_batch(sessions) else batches[0]
        measure(sessions, first, rounds, found)
    print(json.dumps(found))


def _open_batch(sessions: dict[str, Any]) -> bool:
    """Whether a single sample can be fed."""
    return all(not isinstance(i.shape[0], int) for i in sessions["original"].get_inputs() if i.shape)


if __name__ == "__main__":
    main()
