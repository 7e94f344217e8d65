"""Kernel coverage, read off ONNX Runtime's own graph: the placement rules of `ort-cpu`, each checked."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import QuantOptions, coverage, quantize_graph
from graphopt.quant.coverage import read_coverage
from graphopt.runtime.compiled import CompiledGraph, CompiledNode
from graphopt.targets.target import load_target

WEIGHTS = {
    "w": (8, 8, 3, 3),
    "dw": (8, 1, 3, 3),
    "b": (8,),
    "m": (8, 8),
    "m16": (16, 16),
    "lo": np.array(0, np.float32),
    "six": np.array(6, np.float32),
}


def model(body: str, shape: str, opset: int = 17) -> Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}'
    )
    used = {name for node in proto.graph.node for name in node.input}
    rng = np.random.default_rng(0)
    for name, w in WEIGHTS.items():
        if name in used:
            array = w if isinstance(w, np.ndarray) else rng.normal(size=w).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return Model(*read_model(proto.SerializeToString()))


def kernels(body: str, shape: str, target: str = "ort-cpu", opset: int = 17) -> tuple[dict[str, int], int]:
    m = model(body, shape, opset)
    sizes = [int(d) if d.isdigit() else 2 for d in shape.split(",")]
    data = [{"x": np.random.default_rng(1).normal(size=sizes).astype(np.float32)}]
    quantize_graph(m, Editor(m), load_target(target), QuantOptions(), data)
    found = coverage(m)
    return dict(found.kernels), found.float


CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b)"
GEMM = "a = Gemm(x, m, b)"
LINEAR = "p = MatMul(x, m) a = Add(p, b)"


@pytest.mark.parametrize(
    ("body", "kernel"),
    [
        (f"{CONV} y = Relu(c)", "QLinearConv"),
        (f"{CONV} y = Clip(c, lo, six)", "QLinearConv"),
        (f"{CONV} y = HardSwish(c)", "QLinearConv"),
        (f"{CONV} s = Sigmoid(c) y = Mul(c, s)", "QLinearConv"),
        (f"{CONV} y = Identity(c)", "QLinearConv"),
        ("c = Conv<group=8, pads=[1,1,1,1]>(x, dw) y = Relu(c)", "QLinearConv"),
        (f"{CONV} r = Relu(c) y = Add(r, c)", "QLinearConv"),
    ],
)
@pytest.mark.parametrize("opset", [14, 17])
def test_conv(body: str, kernel: str, opset: int) -> None:
    assert kernels(body, "N,8,6,6", opset=opset) == ({kernel: 1}, 0)


@pytest.mark.parametrize(
    ("body", "shape", "kernel"),
    [
        (f"{GEMM} y = Relu(a)", "4,8", "QGemm"),
        (f"{GEMM} y = Clip(a, lo, six)", "4,8", "QGemm"),
        (f"{GEMM} y = Sigmoid(a)", "N,8", "QGemm"),
        (f"{GEMM} y = Identity(a)", "N,8", "QGemm"),
        ("a = Gemm<transB=1>(x, m) y = Relu(a)", "4,8", "QGemm"),
        (f"{LINEAR} y = Erf(a)", "2,4,8", "QGemm"),
        (f"{LINEAR} y = Relu(a)", "2,4,8", "QGemm"),
        (f"{LINEAR} y = Relu(a)", "4,8", "QGemm"),
        (f"{LINEAR} y = Add(x, a)", "4,8", "QGemm"),
        (f"{LINEAR} y = Erf(a)", "N,4,8", "MatMulIntegerToFloat"),
        ("p = MatMul(x, m) y = Erf(p)", "4,8", "MatMulIntegerToFloat"),
        ("p = MatMul(x, m) y = Add(p, x)", "4,8", "QLinearMatMul"),
        ("p = MatMul(x, m) y = Relu(p)", "2,4,8", "QLinearMatMul"),
    ],
)
def test_gemm_and_matmul(body: str, shape: str, kernel: str) -> None:
    assert kernels(body, shape) == ({kernel: 1}, 0)


def test_a_chain_of_dense_layers_with_relu() -> None:
    body = "a = Gemm(x, m, b) r = Relu(a) c = Gemm(r, m, b) s = Relu(c) y = Gemm(s, m, b)"
    assert kernels(body, "N,8") == ({"QGemm": 3}, 0)


def test_per_channel_before_opset_13() -> None:
    body = f"{CONV} r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w, b) e = Add(d, r) y = Relu(e)"
    for opset in (10, 11, 12):
        for target in ("ort-cpu", "onnx"):
            assert kernels(body, "2,8,6,6", target, opset) == ({"QLinearConv": 2}, 0)


@pytest.mark.parametrize("between", ["d = AveragePool<kernel_shape=[2,2], dilations=[1,1]>(r)", "d = Relu(p)"])
def test_average_pool_with_dilations_does_not_break_the_model(between: str) -> None:
    if "p" in between[-3:]:
        between = "p = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(r) " + between
    found, left = kernels(f"{CONV} r = Relu(c) {between} y = Conv(d, w, b)", "2,8,8,8", opset=19)
    assert found["QLinearConv"] == 1 and left == 1


def test_attention_written_out_runs_on_integers_throughout() -> None:
    body = (
        "q = MatMul(x, m16) k = MatMul(x, m16) v = MatMul(x, m16) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) "
        "p = Softmax(s) o = MatMul(p, v) r = Transpose<perm=[1,0,2]>(o) y = MatMul(r, m16)"
    )
    assert kernels(body, "2,32,16") == ({"QLinearMatMul": 4, "MatMulIntegerToFloat": 2}, 0)


def test_arm_placement_becomes_integer_kernels_where_signed_data_is_allowed() -> None:
    body = f"{CONV} r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w, b) e = Add(d, r) f = Relu(e) y = Conv(f, w, b)"
    m = model(body, "2,8,6,6")
    data = [{"x": np.random.default_rng(1).normal(size=(2, 8, 6, 6)).astype(np.float32)}]
    quantize_graph(m, Editor(m), load_target("ort-arm"), QuantOptions(), data)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # the default on ARM
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        ort.InferenceSession(to_bytes(m.ir), options, providers=["CPUExecutionProvider"])
        found = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    assert (found["QLinearConv"], found["QLinearAdd"], found["Conv"], found["Relu"]) == (3, 1, 0, 0)


def test_tensorrts_placement_is_not_for_this_runtime() -> None:
    assert kernels(f"{CONV} y = Relu(c)", "2,8,6,6", "tensorrt-rtx") == ({"FusedConv": 1}, 1)


def test_a_float_model_is_counted_as_float() -> None:
    found = coverage(model(f"{CONV} d = MatMul(c, c) y = Relu(d)", "2,8,6,6"))
    assert found.integer == 0 and found.float == 2
    assert [(op.op, bool(op.name)) for op in found.left] == [("Conv", True), ("MatMul", True)]
    assert found.remarks()[0].endswith("stayed float: the runtime chose Conv")


FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(("name", "weighted"), [("residual_cnn", 10), ("vit", 20), ("depthwise_se", 24)])
def test_real_networks_run_on_integers_within_one_percent(name: str, weighted: int) -> None:
    path = FIXTURES / "models" / f"{name}.onnx"
    calibration = FIXTURES / "data" / "digits_calib.npz"
    done = graphopt.optimize(path, "fuse,quant", target="ort-cpu", data=calibration, verify=False, force=True)
    found = done.report.coverage
    assert found.integer == weighted
    assert {op.reason for op in found.left} <= {"there is no integer kernel for Attention with calibrated scales"}
    assert accuracy(to_bytes(done.model.ir)) >= accuracy(path.read_bytes()) - 0.01


def accuracy(data: bytes) -> float:
    images = np.load(FIXTURES / "data" / "digits_test.npz")["image"]
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return float((logits.argmax(1) == np.load(FIXTURES / "data" / "digits_labels.npy")).mean())


def test_the_reason_is_found_in_the_layout_of_blocked_channels() -> None:
    """There a convolution is called as its output, with a mark behind it."""
    conv = CompiledNode("c_nchwc", "Conv", "com.microsoft.nchwc", ("x", "w"), ("reorder",), (None, None))
    found = read_coverage(CompiledGraph((conv,)), {"c": "it was left out"})
    assert [op.reason for op in found.left] == ["it was left out"]
