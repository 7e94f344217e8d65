"""Networks with channels at the end come out without Transposes in between."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphopt_passes.layout import Layout
from graphopt_passes.simplify import Simplify

from tests.rules.helpers import Outcome, assert_same, build, rewrite, weight

_TO = "Transpose<perm=[0,3,1,2]>"
_BACK = "Transpose<perm=[0,2,3,1]>"
_IMAGE = "float[1,8,8,4]"
_CONV = weight(4, 4, 3, 3, seed=1)
_SMALL = weight(4, 4, 1, 1, seed=2)


def conv(result: str, x: str, w: str = "w") -> str:
    """A convolution as an exporter writes it whose tensors have their channels at the end."""
    pads = ", pads=[1,1,1,1]" if w == "w" else ""
    return (f"{result}_t = {_TO}({x}) {result}_c = Conv<group=1{pads}>({result}_t, {w}) "
            f"{result} = {_BACK}({result}_c) ")  # fmt: skip


def network(body: str, result: str = _IMAGE, **constants: object) -> onnx.ModelProto:
    """A network between two convolutions."""
    text = conv("first", "x") + body + " " + conv("y", "last")
    if "v)" in text:
        constants["v"] = _SMALL
    return build(f"({_IMAGE} x) => ({result} y)", text, w=_CONV, **constants)


def check(model: onnx.ModelProto, left: int = 2) -> Outcome:
    outcome = rewrite(rewrite(model, Simplify()).after, Layout())  # two Transposes in a row are for the former
    assert outcome.ops.count("Transpose") == left, onnx.printer.to_text(outcome.after.graph)
    assert len(outcome.after.graph.node) <= len(outcome.before.graph.node)
    assert_same(outcome, by="ort")
    assert outcome.ops.count("Transpose") <= _left_by_ort(model)
    return outcome


def _left_by_ort(model: onnx.ModelProto) -> int:
    """Transposes that ONNX Runtime's own optimizer leaves at its level `basic`."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "ort.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(options.optimized_model_filepath)
    return sum(node.op_type == "Transpose" for node in found.graph.node)


NETWORKS = {
    "activations": "a = Sigmoid(first) last = Mul(first, a)",
    "batch normalization as arithmetic": "a = Mul(first, k) b = Add(a, k) last = Relu(b)",
    "a residual connection": conv("a", "first") + "b = Relu(a) " + conv("d", "b", "v") + "last = Add(d, first)",
    "a border": "last = Pad(first, pads)",
    "channels joined and cut apart": "a = Concat<axis=3>(first, first) b, c = Split<axis=3>(a, parts) last = Add(b, c)",
    "channels cut out": "a = Concat<axis=-1>(first, first) last = Slice(a, start, end, axis)",
    "nearest neighbours": 'last = Resize<mode="nearest">(first, , scales)',
    "an interpolation in the other order": (
        f'a = {_TO}(first) b = Resize<mode="linear">(a, , nchw) c = {_BACK}(b) last = Relu(c)'
    ),
    "excitation by mean and matrices": (
        "a = ReduceMean<keepdims=0>(first, image) b = MatMul(a, m) c = Sigmoid(b) e = Reshape(c, one) last = Mul(first, e)"
    ),
    "excitation by convolutions": (
        "a = ReduceMean<keepdims=1>(first, image) " + conv("b", "a", "v") + "c = Sigmoid(b) last = Mul(first, c)"
    ),
    "softmax over channels": "last = Softmax<axis=3>(first)",
    "a clipped activation": "a = Clip(first, zero, six) last = PRelu(a, k)",
    "quantized": "q = QuantizeLinear(first, s, z) last = DequantizeLinear(q, s, z)",
}
CONSTANTS = {
    "k": weight(4, seed=3), "m": weight(4, 4, seed=4), "zero": np.float32(0), "six": np.float32(6),
    "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]), "parts": np.array([4, 4]), "start": np.array([2]), "end": np.array([6]),
    "axis": np.array([3]), "scales": np.array([1, 2, 2, 1], np.float32), "nchw": np.array([1, 1, 2, 2], np.float32),
    "image": np.array([1, 2]), "one": np.array([1, 1, 1, 4]), "s": np.float32(0.1), "z": np.uint8(128),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_ends_are_left(name: str) -> None:
    body = NETWORKS[name]
    used = {k: v for k, v in CONSTANTS.items() if re.search(rf"\b{k}\b", body)}
    check(network(body, "float[N,H,W,C]", **used))


def test_a_mean_at_the_end_leaves_none_behind() -> None:
    text = conv("first", "x") + "a = ReduceMean<keepdims=0>(first, image) y = MatMul(a, m)"
    check(build(f"({_IMAGE} x) => (float[1,4] y)", text, w=_CONV, image=CONSTANTS["image"], m=CONSTANTS["m"]), left=1)


def test_sizes_that_are_open() -> None:
    text = conv("a", "x") + "b = Mul(a, k) c = Add(b, x) " + conv("y", "c")
    model = build("(float[N,H,W,4] x) => (float[N,H2,W2,4] y)", text, w=_CONV, k=CONSTANTS["k"])
    outcome = check(model)
    assert_same(outcome, {"N": 2, "H": 5, "W": 3}, by="ort")


def test_the_size_of_an_image_is_read_and_the_image_is_used() -> None:
    text = (
        conv("first", "x")
        + "s = Shape(first) h = Slice(s, i, j) n = ReduceProd<keepdims=0>(h) f = Cast<to=1>(n) e = Relu(first) "
        + "last = Mul(e, f) "
        + conv("y", "last")
    )
    signature = "(float[1,H,W,4] x) => (float[1,A,B,4] y)"
    model = build(signature, text, w=_CONV, i=np.array([1]), j=np.array([3]))
    outcome = rewrite(model, Layout())
    assert outcome.ops.count("Transpose") == 2
    assert_same(outcome, {"H": 5, "W": 3}, by="ort")
