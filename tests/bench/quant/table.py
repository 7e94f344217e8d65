"""Quantizers side by side: accuracy, kernels, latency and time, for each model. `python -m tests.bench quant`."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.quant.cases import ROOT, Case, fixtures, full_size, photographs, zoo

TOOLS = ("float", "graphopt", "ort-default", "ort-best", "ort-best-transformer", "onnxsim", "onnxsim-full", "nncf",
         "nncf-transformer")  # fmt: skip
_TRANSFORMER = ("ort-best-transformer", "nncf-transformer")
_TIMEOUT = 1200


def quant(
    tools: Iterable[str] = TOOLS,
    only: Iterable[str] = (),
    folder: Path | None = None,
    rounds: int = 15,
    keep: Path | None = None,
) -> None:
    print("\n== int8 for ONNX Runtime on this CPU, one thread; SQNR against the original float model ==")
    with tempfile.TemporaryDirectory() as name:
        place = (keep or Path(name)).resolve()
        for case in _cases(place, folder, set(only)):
            wanted = [t for t in tools if case.transformer or t not in _TRANSFORMER]
            show(case, compare(case, wanted, place, rounds))


def _cases(place: Path, folder: Path | None, only: set[str]) -> Iterator[Case]:
    found = chain(fixtures(), full_size(place, only), *([zoo(folder), photographs(folder, only)] if folder else []))
    return (case for case in found if not only or case.name in only)


def compare(case: Case, tools: Iterable[str], place: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """What each tool made of a model: seconds and peak bytes of its own, then how its result does."""
    calibration, test = place / "calibration.npz", place / "test.npz"
    np.savez(calibration, **case.calibration)
    np.savez(test, **case.test)
    rows: dict[str, dict[str, Any]] = {"original": {}}
    files = []
    for tool in tools:
        output = place / f"{case.name}.{tool}.onnx"
        rows[tool] = _child(place, "quantizers", tool, case.model, calibration, output)
        if "error" not in rows[tool]:
            files.append(f"{tool}={output}")
    judged = _child(place, "judge", case.model, test, rounds, place / "out", *files)
    for tool, row in rows.items():
        row.update(judged.get(tool, judged if "error" in judged else {}))
        made = place / f"out.{tool}.npz"
        if "error" not in row:
            if case.points is not None:
                with np.load(made) as arrays:
                    row["points"] = case.points([arrays[n] for n in arrays.files])
            row["kernels"] = kernels(case.model if tool == "original" else place / f"{case.name}.{tool}.onnx")
        made.unlink(missing_ok=True)
    return rows


def kernels(path: Path) -> str:
    from graphopt import load
    from graphopt.quant import coverage

    found = coverage(load(path))
    return f"{found.integer}/{found.integer + found.float}"


def _child(place: Path, module: str, *words: object) -> dict[str, Any]:
    """What a program of this package answers. It runs in `place`, for some tools leave files where they are."""
    command = [sys.executable, "-m", f"tests.bench.quant.{module}", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {_TIMEOUT} s"}
    if done.returncode:
        return {"error": (done.stderr or done.stdout).strip().splitlines()[-1][:150] if done.stderr else "failed"}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def show(case: Case, rows: dict[str, dict[str, Any]]) -> None:
    """A line per tool. `speed`: how many times as fast as the original, with the quartiles of its rounds."""
    print(f"\n{case.name}")
    base = rows["original"].get("seconds", [])
    for tool, row in rows.items():
        if "error" in row:
            print(f"  {tool:21} {row['error']}")
            continue
        points = f"{row['points']:7.2f} %" if "points" in row else " " * 9
        decibels = f"{row['sqnr']:6.1f} dB" if math.isfinite(row["sqnr"]) else "  exact  " if row["sqnr"] > 0 else "   none  "
        times = row["seconds"] if isinstance(row.get("seconds"), list) else []
        ratios = sorted(a / b for a, b in zip(base, times, strict=True)) if times else []
        speed = f"{statistics.median(ratios):5.2f}x ({_at(ratios, 0.25):.2f}-{_at(ratios, 0.75):.2f})" if ratios else ""
        made = f"{row['made']:6.1f} s" if "made" in row else ""
        print(f"  {tool:21} {points} {decibels}  {row['kernels']:>8} integer  {speed:18} {made}")


def _at(values: list[float], share: float) -> float:
    return values[round(share * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="names of models; all by default")
    parser.add_argument("--zoo", type=Path, help="a folder with models and data")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="a folder for the files, which are else thrown away")
    options = parser.parse_args()
    quant(options.tools.split(","), options.only, options.zoo and options.zoo.resolve(), options.rounds, options.keep)


if __name__ == "__main__":
    main()
