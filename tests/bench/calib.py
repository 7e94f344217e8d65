"""Calibration: peak memory over the number of batches, time against plain runs, and against ONNX Runtime's quantizer.

`python -m tests.bench.calib MODEL.onnx [--batches 8,128] [--rows 1] [--samples 32]`. Inputs are made up: what is
measured does not depend on their values. Everything runs with the same threads, in turns, and each figure says what
was done; the goals were: memory at most 5 % more from 8 to 128 batches, and time to quantize five times less than
`quantize_static` needs for the same samples.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import graphopt
from graphopt.quant import goals
from graphopt.quant.calibrate import calibrate
from graphopt.quant.place import plan
from graphopt.runtime.executor import executor
from graphopt.runtime.package import package
from graphopt.runtime.run import open_session
from graphopt.verify.feeds import plans, synthesize

Feeds = dict[str, "np.ndarray[Any, Any]"]
METHODS = ("MinMax", "Entropy", "Percentile")


def prepared(path: Path, target: str = "ort-cpu") -> graphopt.Model:
    """The model as `quant` finds it."""
    model: graphopt.Model = graphopt.optimize(path, "fuse,layout", target=target, verify=False).model
    return model


def batches(model: graphopt.Model, count: int, rows: int) -> Iterator[Feeds]:
    """Made-up inputs, `rows` of them in each batch where the model leaves that open."""
    made = plans(model.ir)[0]
    for seed in range(count):
        yield synthesize(model.ir, model.facts, seed=seed, plan=replace(made, batch=rows))


def watched(model: graphopt.Model, target: str = "ort-cpu") -> list[str]:
    """The values whose ranges a placement for the target needs."""
    return [v.name for v in plan(model, graphopt.load_target(target).require_quant()).calibrated]


def peak_memory(path: Path, counts: tuple[int, ...] = (8, 128), rows: int = 1) -> dict[int, int]:
    """Bytes that the process which runs the model holds at most, by the number of batches; each in a new process."""
    model = prepared(path)
    names = watched(model)
    found = {}
    for count in counts:
        executor().close()
        calibrate(model, names, batches(model, count, rows))
        status = Path(f"/proc/{executor().pid}/status").read_text()
        found[count] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    executor().close()
    return found


def against_inference(path: Path, count: int = 8, rows: int = 1) -> float:
    """Time of a calibrated batch over that of a plain run of the same session, medians of runs in turns."""
    model = prepared(path)
    names = watched(model)
    data = list(batches(model, count, rows))
    ratios = []
    with open_session(package(model.ir), repeated=True) as session:
        session.run(data[0])
        for feeds in data:
            start = time.perf_counter()
            session.run(feeds)
            plain = time.perf_counter() - start
            stamps: list[float] = []
            calibrate(model, names, [feeds] * 3, progress=lambda *_, to=stamps: to.append(time.perf_counter()))
            ratios.append(min(b - a for a, b in itertools.pairwise(stamps)) / plain)
    return statistics.median(ratios)


def against_ort(
    path: Path, samples: int = 32, method: str = "MinMax", rounds: int = 3
) -> tuple[float, float, float]:
    """Seconds to quantize, from file to file: graphopt's, those of `quantize_static`, and those that the float model
    alone takes for the samples, which no calibration with all of them can do without; the best of rounds in turns.

    The latency of the result is not measured here, as ONNX Runtime's quantizer does not. Both get the same samples,
    one at a time as ONNX Runtime's readers give them. Here they are merged to batches where the model allows it, which
    is part of what is measured.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

    model = graphopt.load(path)
    data = list(batches(model, samples, 1))

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(data)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    ours, theirs, alone = [], [], []
    stacked: Any = data
    if all(v.shape and not isinstance(v.shape[0], int) for v in model.main.inputs if not v.is_initializer):
        stacked = {name: np.concatenate([d[name] for d in data]) for name in data[0]}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            start = time.perf_counter()
            with mock.patch.object(goals._Work, "verdict", lambda *_: goals.unmeasured("not asked here")):
                result = graphopt.optimize(path, "fuse,quant", target="ort-cpu", data=stacked, verify=False, force=True)
            result.save(Path(folder) / "ours.onnx")
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            quantize_static(
                path, Path(folder) / "theirs.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                calibrate_method=getattr(CalibrationMethod, method),
            )  # fmt: skip
            theirs.append(time.perf_counter() - start)
            with open_session(package(model.ir), repeated=True) as session:
                session.run(data[0])
                start = time.perf_counter()
                for feeds in data:
                    session.run(feeds)
                alone.append(time.perf_counter() - start)
    return min(ours), min(theirs), min(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batches", default="8,128")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    counts = tuple(map(int, asked.batches.split(",")))
    peaks = peak_memory(asked.model, counts, asked.rows)
    low, high = peaks[counts[0]], peaks[counts[-1]]
    print(f"memory   {low / 2**20:.0f} MiB at {counts[0]} batches, {high / 2**20:.0f} at {counts[-1]}: {high / low - 1:+.1%}")
    print(f"run      a calibrated batch takes {against_inference(asked.model, rows=asked.rows):.2f} of a plain run")
    for method in METHODS:
        ours, theirs, alone = against_ort(asked.model, asked.samples, method, asked.rounds)
        print(f"quantize {ours:.2f} s; quantize_static with {method} {theirs:.2f} s: {theirs / ours:.1f} times as fast; "
              f"the float model alone takes {alone:.2f} s, so it could be {theirs / alone:.1f} times")


if __name__ == "__main__":
    main()
