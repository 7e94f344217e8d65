"""Measure rewrites on a target that runs here, and write its table: `python -m tests.measure [ort-cpu]`, `make measure`.

Each case is a small model that one rewrite applies to. It runs as it is, by the runtime alone with all of its own
optimizations, and in turns with that as it is after `-O3` for the target, under the same runtime. What the table says
so far does not count. The ratio is the median over blocks of runs, its spread the middle half of the blocks.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt.runtime.executor import executor
from graphopt.runtime.package import package
from graphopt.targets.measured import NOISE, Measured, read_measured
from tests.measure.cases import Case, cases

_BLOCKS = 9
_AGAIN = 3
_THREADS = 1  # of the runtime: what several gain depends on what else the machine does
_FOLDER = Path(graphopt.__file__).parent / "targets" / "measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", default="ort-cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each case")
    parser.add_argument("--only", default="", help="a part of the rewrites' names; the others keep their rows")
    options = parser.parse_args()
    target = replace(graphopt.load_target(options.target), measured={})
    path = _FOLDER / f"{options.target}.toml"
    known = read_measured(path) if options.only and path.is_file() else {}
    found: dict[str, list[Measured]] = {}
    for case in cases():
        if options.only not in case.rule:
            if case.rule in known:
                found[case.rule] = list(known[case.rule])
            continue
        measured = _compared(case, target, options.seconds)
        found.setdefault(case.rule, []).append(measured)
        print(f"{case.rule:40} {case.title:24} {measured.ratio:5.2f}x ({measured.low:.2f} to {measured.high:.2f})"
              f"{'  slower' if measured.slower else ''}", flush=True)
    path.write_text("\n".join(_lines(found)) + "\n", encoding="utf-8")
    print(f"written to {path}")


def _compared(case: Case, target: graphopt.Target, seconds: float) -> Measured:
    """What looks slower is measured again, and the best counts: other work on the machine only ever adds time."""
    found = _measure(case, target, seconds)
    for _ in range(_AGAIN):
        if not found.slower:
            break
        found = min(found, _measure(case, target, seconds), key=lambda m: m.ratio)
    return found


def _measure(case: Case, target: graphopt.Target, seconds: float) -> Measured:
    others = {name: reason for name, reason in target.avoid.items() if name != case.rule}
    result = graphopt.optimize(case.model, "O3", target=replace(target, avoid=others))
    made = {entry.rule for entry in result.journal.entries}
    if case.rule not in made:
        raise SystemExit(f"{case.rule} does not apply to its case {case.title!r}: {sorted(made)}")
    packages = [package(graphopt.load(model).ir) for model in (result.model, case.model)]
    times: Sequence[Sequence[float]] = executor().call(
        "graphopt.runtime.latency:time_here", packages, [_feeds(case.model)] * 2, seconds, _THREADS, timeout=600.0
    )
    blocks = min(_BLOCKS, len(times[0]))
    after, before = (np.array_split(np.asarray(t), blocks) for t in times)
    ratios = [float(np.median(a) / np.median(b)) for a, b in zip(after, before, strict=True)]
    low, ratio, high = (float(q) for q in np.percentile(ratios, [25, 50, 75]))
    return Measured(case.title, round(ratio, 3), round(low, 3), round(high, 3))


def _feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _lines(found: Mapping[str, Sequence[Measured]]) -> Iterator[str]:
    yield "# Written by `make measure`. Median latency after a rewrite over that of the runtime alone, and its middle half."
    yield f"# Rewrites that are slower in one of the cases, by more than {NOISE} and beyond the spread, are not made."
    yield f'runtime = "onnxruntime {version("onnxruntime")}, {_THREADS} thread"'
    yield f'processor = "{_processor()}"'
    for rule, measured in found.items():
        yield ""
        yield f'[rules."{rule}"]'
        yield "cases = ["
        for m in measured:
            yield f'    {{ case = "{m.case}", ratio = {m.ratio}, low = {m.low}, high = {m.high} }},'
        yield "]"


def _processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
