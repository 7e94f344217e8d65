"""Pairs with which ONNX Runtime's own optimizations break a valid model are found and taken out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.protect import protect
from graphopt.ir.save import to_bytes
from graphopt.quant.sound import place_around

FEEDS = {"x": np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)}
SHARE = np.float32(0.3 / 255)  # a Softmax whose shares were below 0.3 during calibration, and are not now


def pair(given: str, made: str, scale: str = "s", zero: str = "z") -> str:
    return f"{made}_q = QuantizeLinear({given}, {scale}, {zero}) {made} = DequantizeLinear({made}_q, {scale}, {zero}) "


def model(body: str, opset: int = 19) -> Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[2,4,8,8] x) => (float[2,4,A,B] y) {{ {body} }}'
    )
    constants = {"s": np.float32(0.03), "z": np.uint8(128), "t": SHARE, "zero": np.uint8(0)}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return Model(*read_model(proto.SerializeToString()))


def run(m: Model, *, optimized: bool) -> np.ndarray:
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    (found,) = ort.InferenceSession(to_bytes(m.ir), options, providers=["CPUExecutionProvider"]).run(None, FEEDS)
    return np.asarray(found)


SOFTMAX = pair("x", "a") + "p = Softmax<axis=1>(a) " + pair("p", "b", "t", "zero") + "c = Relu(b) " + pair("c", "y")
POOL = (
    pair("x", "a") + "m = MaxPool<kernel_shape=[1,1]>(a) " + pair("m", "n")
    + "p = AveragePool<kernel_shape=[2,2], dilations=[1,1]>(n) " + pair("p", "b") + "c = Relu(b) " + pair("c", "y")
)  # fmt: skip


broken_softmax = pytest.mark.skipif(
    tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32), reason="ONNX Runtime 1.32 mended its integer Softmax"
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(SOFTMAX, "with its Q and DQ ONNX Runtime's optimizations give something else than the model says", marks=broken_softmax),
        (POOL, "with its Q and DQ ONNX Runtime's optimizations break the model: "),
    ],
)
def test_the_pair_to_blame_is_found_and_the_others_stay(body: str, why: str) -> None:
    m = model(body)
    pairs = len(list(m.main.find("QuantizeLinear")))
    remarks = place_around(m, Editor(m), FEEDS)
    assert len(remarks) == 1 and remarks[0].startswith("'p' is left float, because ") and why in remarks[0]
    onnx.checker.check_model(onnx.load_from_string(to_bytes(m.ir)), full_check=True)
    left = [len(list(m.main.find(op))) for op in ("QuantizeLinear", "DequantizeLinear")]
    assert left == [pairs - 1, pairs - 1]
    assert np.abs(run(m, optimized=True) - run(m, optimized=False)).max() < 0.04  # one step
    assert place_around(m, Editor(m), FEEDS) == []


@broken_softmax
def test_two_that_break_it_are_both_taken_out() -> None:
    body = pair("x", "a") + "p = Softmax<axis=1>(a) " + pair("p", "b", "t", "zero")
    body += "n = Neg(a) " + pair("n", "o") + "g = Softmax<axis=1>(o) " + pair("g", "h", "t", "zero") + "y = Sub(b, h)"
    m = model(body)
    remarks = place_around(m, Editor(m), FEEDS)
    assert [r.split()[0] for r in remarks] == ["'p'", "'g'"]
    assert np.abs(run(m, optimized=True) - run(m, optimized=False)).max() < 0.04


def test_a_sound_model_is_not_touched() -> None:
    m = model(pair("x", "a") + "r = Relu(a) " + pair("r", "y"))
    before = to_bytes(m.ir)
    assert place_around(m, Editor(m), FEEDS) == [] and to_bytes(m.ir) == before


@broken_softmax
def test_a_protected_pair_stays_and_the_remark_says_so() -> None:
    m = model(SOFTMAX)
    (remark,) = place_around(m, Editor(m, protection=protect(m, ("b",))), FEEDS)
    assert "because 'p' is quantized, which stays: " in remark and "b" in {v.name for n in m.main.nodes for v in n.outputs}
