"""Measure what each kind of quantization takes of the time of float, by size: `python -m tests.measure.kinds [ort-cpu]`.

Products: four layers, each a MatMul with a square weight and a bias, on one thread; static is calibrated on the input
that is timed. Recurrent layers: one LSTM. The variants are what `quant` makes of them, and run in turns; the fastest run of
each counts, in time of the processor, for other work on the machine only ever adds to it. The table is what
`quant{kind=auto}` reads.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

import graphopt
from tests.measure.__main__ import _processor

ROWS, SIZES = (1, 8, 32, 128, 512), (64, 128, 256, 512, 1024, 2048)
STEPS, BATCHES, WIDTHS = (1, 10, 100), (1, 16), (32, 64, 128, 256, 512)
_LAYERS = 4
_LEAST_ROUNDS = 5
_LARGEST = 2 * 10**9  # multiply-accumulates of one run
_FOLDER = Path(graphopt.__file__).parent / "targets" / "measured"
_PRODUCTS = {
    "static": "quant",
    "dynamic": "quant{kind=dynamic}",
    "int8": "quant{kind=weights}",
    "int4": "quant{kind=weights,weight=int4}",
}
_RECURRENT = {"dynamic": "quant{kind=dynamic}"}

Feeds = dict[str, np.ndarray]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("target", nargs="?", default="ort-cpu")
    options.add_argument("--seconds", type=float, default=2.0, help="of timing for each size")
    asked = options.parse_args()
    path = _FOLDER / f"{asked.target}-kinds.toml"
    path.write_text("\n".join(_lines(asked.target, asked.seconds)) + "\n", encoding="utf-8")
    print(f"written to {path}")


def _lines(target: str, seconds: float) -> Iterator[str]:
    yield "# Written by `make measure`. Time of the processor in the fastest run of each kind over that of float, by size: see docs/quantization-kinds.md."
    yield f'runtime = "onnxruntime {version("onnxruntime")}, 1 thread"'
    yield f'processor = "{_processor()}"'
    yield "product = ["
    for m in ROWS:
        for n in SIZES:
            if _LAYERS * m * n * n <= _LARGEST:
                size = {"m": m, "k": n, "n": n}
                yield _row(size, _ratios(*_product(m, n), _PRODUCTS, target, seconds))
    yield "]"
    yield "lstm = ["
    for steps in STEPS:
        for batch in BATCHES:
            for width in WIDTHS:
                if steps * batch * width * width * 8 <= _LARGEST:
                    size = {"steps": steps, "batch": batch, "width": width}
                    yield _row(size, _ratios(*_lstm(steps, batch, width), _RECURRENT, target, seconds / 2))
    yield "]"


def _row(size: Mapping[str, int], ratios: Mapping[str, float]) -> str:
    row = "    { " + ", ".join(f"{k} = {v}" for k, v in {**size, **ratios}.items()) + " },"
    print(row, flush=True)
    return row


def _ratios(
    model: onnx.ModelProto, feeds: Feeds, variants: Mapping[str, str], target: str, seconds: float
) -> dict[str, float]:
    made = [model]
    for passes in variants.values():
        data = [feeds] if passes == "quant" else None
        made.append(graphopt.optimize(model, passes, target=target, data=data, verify=False).model)
    fastest = _fastest([m.SerializeToString() for m in made], feeds, seconds)
    return {name: round(t / fastest[0], 2) for name, t in zip(variants, fastest[1:], strict=True)}


def _fastest(models: Sequence[bytes], feeds: Feeds, seconds: float) -> list[float]:
    """Seconds of the processor for the fastest run of each, in turns; waiting for the processor does not count."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # the thread that calls
    sessions = [ort.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in models]
    for session in sessions:
        session.run(None, feeds)  # the first run allocates
    found = [math.inf] * len(models)
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < _LEAST_ROUNDS or time.perf_counter() < end:
        for i, session in enumerate(sessions):
            start = time.thread_time()
            session.run(None, feeds)
            found[i] = min(found[i], time.thread_time() - start)
        rounds += 1
    return found


def _model(signature: str, body: str, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {signature} {{ {body} }}')
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return made


def _drawn(*shape: int) -> np.ndarray:
    drawn: Any = np.random.default_rng(sum(shape)).standard_normal(shape)
    return (drawn / np.sqrt(shape[-1])).astype(np.float32)


def _product(m: int, n: int) -> tuple[onnx.ModelProto, Feeds]:
    names = ["x", *[f"h{i}" for i in range(1, _LAYERS)], "y"]
    layers = [f"p{i} = MatMul({names[i]}, w{i}) {names[i + 1]} = Add(p{i}, b{i})" for i in range(_LAYERS)]
    weights = {f"w{i}": _drawn(n + i, n)[i:] for i in range(_LAYERS)}
    biases = {f"b{i}": _drawn(n) for i in range(_LAYERS)}
    model = _model(f"(float[1, {m}, {n}] x) => (float[1, {m}, {n}] y)", " ".join(layers), {**weights, **biases})
    return model, {"x": _drawn(1, m, n)}


def _lstm(steps: int, batch: int, width: int) -> tuple[onnx.ModelProto, Feeds]:
    shape = f"{steps}, {batch}, {width}"
    signature = f"(float[{shape}] x) => (float[{steps}, 1, {batch}, {width}] y)"
    weights = {"w": _drawn(1, 4 * width, width), "r": _drawn(1, 4 * width + 1, width)[:, 1:]}
    body = f"y = LSTM<hidden_size = {width}>(x, w, r)"
    return _model(signature, body, weights), {"x": _drawn(steps, batch, width)}


if __name__ == "__main__":
    main()
