"""Models as text, and what becomes of one that is quantized from end to end."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

import graphopt
from graphopt import Quantized, QuantOptions, quantize_graph
from graphopt.ir.edit import Editor
from graphopt.targets.target import load_target

Array = np.ndarray
TARGETS = ("ort-cpu", "onnx")


def floats(*shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(shape or 1).normal(size=shape) * scale).astype(np.float32)


def model(text: str, opset: int = 17, **weights: Array) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    return proto


class Outcome:
    """What a model became, run as users run it: by ONNX Runtime with its default optimizations."""

    def __init__(self, before: onnx.ModelProto, target: str, **feeds: Array) -> None:
        data = [feeds] if feeds else None
        result = graphopt.optimize(before, "fuse,quant", target=target, force=True, data=data)
        self.model: onnx.ModelProto = result.model
        onnx.checker.check_model(self.model, full_check=True)
        self.coverage = result.report.coverage
        record = next(p for p in result.report.passes if p.name == "quant")
        self.notes = record.notes
        self.snr = snr(before, self.model, feeds or _made_up(before))

    @property
    def integer(self) -> int:
        return 0 if self.coverage is None else self.coverage.integer

    def noted(self, words: str) -> bool:
        return any(words in note for note in self.notes)


def _made_up(proto: onnx.ModelProto) -> dict[str, Array]:
    from graphopt.verify.feeds import synthesize

    found = graphopt.load(proto)
    return synthesize(found.ir, found.facts, seed=5)


def snr(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array]) -> float:
    """The smallest signal-to-noise ratio (dB) of an output; integer outputs must be equal."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    a, b = (ort.InferenceSession(p.SerializeToString(), options) for p in (before, after))
    found = []
    for want, have in zip(a.run(None, feeds), b.run(None, feeds), strict=True):
        if want.dtype.kind != "f":
            assert np.array_equal(want, have)
            continue
        with np.errstate(invalid="ignore"):
            noise = float(np.square(want.astype(np.float64) - have).sum())
        found.append(10 * np.log10(float(np.square(want.astype(np.float64)).sum()) / noise) if noise else np.inf)
    return min(found, default=np.inf)


GEMM = "g (float[N,16] x) => (float[N,8] y) { y = Gemm(x, w, b) }"


CLASSIFIER = """g (float[1,3,8,8] x) => (float[1,10] y) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  p = GlobalAveragePool(r)  s = Flatten(p)
    z = Gemm(s, v, d)  y = Softmax(z) }"""


def classifier(opset: int) -> onnx.ModelProto:
    return model(CLASSIFIER, opset, w=floats(8, 3, 3, 3), b=floats(8), v=floats(8, 10), d=floats(10))


def quantized(
    proto: onnx.ModelProto, target: str = "onnx", **feeds: Array
) -> tuple[graphopt.Model, Quantized, list[str]]:
    found, told = graphopt.load(proto), []
    data = [feeds] if feeds else None
    done = quantize_graph(
        found, Editor(found), load_target(target), QuantOptions(), data, decline=lambda *what: told.append(what[2])
    )
    return found, done, told
