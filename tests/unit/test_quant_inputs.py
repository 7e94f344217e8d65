"""Models that quantizers stumble over, from end to end: each is quantized, or left float with a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt import Quantized, QuantOptions, quantize_graph
from graphopt.engine.tools import Tool, ToolError
from graphopt.ir.edit import Editor
from graphopt.quant import lift
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
        self.snr = _snr(before, self.model, feeds or _made_up(before))

    @property
    def integer(self) -> int:
        return 0 if self.coverage is None else self.coverage.integer

    def noted(self, words: str) -> bool:
        return any(words in note for note in self.notes)


def _made_up(proto: onnx.ModelProto) -> dict[str, Array]:
    from graphopt.verify.feeds import synthesize

    found = graphopt.load(proto)
    return synthesize(found.ir, found.facts, seed=5)


def _snr(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array]) -> float:
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
    return min(found)


GEMM = "g (float[N,16] x) => (float[N,8] y) { y = Gemm(x, w, b) }"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(8,), (1, 8), (), (1,), (1, 1)])
def test_gemm_biases_of_every_shape(shape: tuple[int, ...], target: str) -> None:
    done = Outcome(model(GEMM, w=floats(16, 8), b=floats(*shape)), target)
    assert done.integer == 1 and done.snr > 30


@pytest.mark.parametrize("shape", [(4, 8), (4, 1)])
def test_a_gemm_that_adds_something_else_to_each_row_stays_float(shape: tuple[int, ...]) -> None:
    text = "g (float[4,16] x) => (float[4,8] y) { y = Gemm(x, w, b) }"
    done = Outcome(model(text, w=floats(16, 8), b=floats(*shape)), "ort-cpu")
    assert done.integer == 0 and done.noted("no constant bias with one value per channel")


CLASSIFIER = """g (float[1,3,8,8] x) => (float[1,10] y) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  p = GlobalAveragePool(r)  s = Flatten(p)
    z = Gemm(s, v, d)  y = Softmax(z) }"""


def classifier(opset: int) -> onnx.ModelProto:
    return model(CLASSIFIER, opset, w=floats(8, 3, 3, 3), b=floats(8), v=floats(8, 10), d=floats(10))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("opset", range(7, 13))
def test_old_models_get_the_opset_that_a_scale_per_channel_needs(opset: int, target: str) -> None:
    done = Outcome(classifier(opset), target)
    assert done.model.opset_import[0].version == 13
    assert done.noted(f"opset {opset} became 13") and done.integer == 2 and done.snr > 30
    scales = {n.input[1] for n in done.model.graph.node if n.op_type == "DequantizeLinear"}
    assert {tuple(t.dims) for t in done.model.graph.initializer if t.name in scales} >= {(8,), (10,)}


def test_a_model_with_nothing_to_quantize_keeps_its_opset() -> None:
    text = "g (float[N,16] x, float[16,8] w) => (float[N,8] y) { y = MatMul(x, w) }"
    done = Outcome(model(text, 11), "ort-cpu")
    assert done.model.opset_import[0].version == 11 and done.noted("both operands are activations")


def quantized(proto: onnx.ModelProto, target: str = "onnx") -> tuple[graphopt.Model, Quantized, list[str]]:
    found, told = graphopt.load(proto), []
    done = quantize_graph(
        found, Editor(found), load_target(target), QuantOptions(), None, decline=lambda *what: told.append(what[2])
    )
    return found, done, told


def test_one_scale_per_weight_needs_no_opset_13() -> None:
    found = graphopt.load(classifier(10))
    quantize_graph(found, Editor(found), load_target("onnx"), QuantOptions(per_channel=False), None)
    assert found.opset() == 10


@pytest.mark.parametrize(("opset", "operators"), [(11, 2), (8, 0)])
def test_a_converter_that_fails_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch, opset: int, operators: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ToolError("onnx does not know how")

    monkeypatch.setattr(Tool, "run", fail)
    found, done, told = quantized(classifier(opset))
    assert (found.opset(), done.operators) == (opset, operators)
    assert told == [f"opset {opset} stays, though 13 is better: onnx does not know how"]


def test_a_conversion_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = graphopt.load(model(CLASSIFIER, 13, w=floats(8, 3, 3, 3), b=floats(8), v=floats(8, 10), d=-floats(10)))
    monkeypatch.setattr(Tool, "run", lambda *_, **__: wrong.ir)
    found, _, told = quantized(classifier(11))
    assert found.opset() == 11 and "the converted model computes something else" in told[0]


def test_no_conversion_to_what_the_target_does_not_take() -> None:
    found = graphopt.load(classifier(11))
    target = replace(load_target("onnx"), domains={"": 12})
    told: list[str] = []
    assert lift.lift_opset(found, Editor(found), target, 13, decline=lambda *what: told.append(what[2])) is None
    assert told == ["opset 11 stays, though 13 is better: the target does not take opset 13"]
