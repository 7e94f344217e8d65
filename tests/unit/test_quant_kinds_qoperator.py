"""QOperator: the same integers as ONNX Runtime computes from Q/DQ, in operators of the file."""

from __future__ import annotations

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
from graphopt.quant.qoperator import to_qoperators
from tests.unit.kinds import feeds_of, ops, proto, quantized, run, weight

FIXTURES = Path(__file__).parents[2] / "fixtures"
IMAGE = "(float[N, 8, 8, 8] x)"
C = {"w": weight(8, 8, 3, 3) * np.float32(0.4), "b": weight(8)}
D = {"m": weight(16, 16), "b": weight(16)}
CONV = "c = Conv<pads = [1, 1, 1, 1]>(x, w, b)"
END = "z = Conv<pads = [1, 1, 1, 1]>(i, w, b)"
CASES = {
    "conv, relu": (IMAGE, f"{CONV} i = Relu(c) {END} y = Exp(z)", C, 17),
    "conv without bias": (IMAGE, "c = Conv<pads = [1, 1, 1, 1]>(x, w) i = Relu(c) z = Conv(i, w) y = Exp(z)", {"w": C["w"]}, 17),
    "depthwise": (IMAGE, "c = Conv<group = 8>(x, d, b) y = Exp(c)", {"d": weight(8, 1, 3, 3) * np.float32(0.4), "b": C["b"]}, 17),
    "conv, clip": (IMAGE, f"{CONV} i = Clip(c, lo, hi) {END} y = Exp(z)", {**C, "lo": np.float32(0), "hi": np.float32(0.5)}, 17),
    "add": (IMAGE, f"{CONV} r = Relu(c) e = Conv<pads = [1, 1, 1, 1]>(r, w, b) s = Add(e, r) i = Relu(s) {END} y = Exp(z)", C, 17),
    "mul, sigmoid": (IMAGE, f"{CONV} g = Sigmoid(c) i = Mul(c, g) {END} y = Exp(z)", C, 17),
    "leaky relu": (IMAGE, f"{CONV} i = LeakyRelu<alpha = 0.2>(c) {END} y = Exp(z)", C, 17),
    "leaky relu, default": (IMAGE, f"{CONV} i = LeakyRelu(c) {END} y = Exp(z)", C, 17),
    "concat": (IMAGE, f"{CONV} r = Relu(c) e = Conv<pads = [1, 1, 1, 1]>(r, w, b) k = Concat<axis = 1>(e, r) z = Conv(k, v) y = Exp(z)", {**C, "v": weight(4, 16, 1, 1)}, 17),
    "pools": (
        IMAGE,
        f"{CONV} r = Relu(c) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) i = AveragePool<kernel_shape = [2, 2]>(p) "
        f"{END} g = GlobalAveragePool(z) f = Conv<pads = [1, 1, 1, 1]>(g, w, b) y = Exp(f)", C, 17,
    ),
    "movement": (
        IMAGE, f"{CONV} t = Transpose<perm = [0, 1, 3, 2]>(c) i = Slice(t, one, six, two) {END} y = Exp(z)",
        {**C, "one": np.array([1]), "six": np.array([6]), "two": np.array([2])}, 17,
    ),
    "gemm": ("(float[N, 16] x)", "a = Gemm(x, m, b) r = Relu(a) c = Gemm<transB = 1>(r, m, b) y = Exp(c)", D, 17),
    "gemm without bias": ("(float[N, 16] x)", "a = Gemm(x, m) y = Exp(a)", {"m": D["m"]}, 17),
    "matmul": ("(float[2, 4, 16] x)", "a = MatMul(x, m) r = Relu(a) c = MatMul(r, m) y = Exp(c)", {"m": D["m"]}, 17),
    "matmul and bias": ("(float[N, 4, 16] x)", "p = MatMul(x, m) a = Add(p, b) y = Exp(a)", D, 17),
    "per tensor before opset 13": (IMAGE, f"{CONV} i = Relu(c) {END} y = Exp(z)", C, 11),
}  # fmt: skip


def both(case: str, target: str) -> tuple[onnx.ModelProto, Model, Model, list[str]]:
    signature, body, constants, opset = CASES[case]
    sizes = ", ".join(f"y{i}" for i in range(2 if "gemm" in case else 3 if "matmul" in case else 4))
    source = proto(f"{signature} => (float[{sizes}] y)", body, opset, **constants)
    data = [feeds_of(source, seed=s) for s in range(3)]
    qdq, _ = quantized(source, target, data)
    qop, done = quantized(source, target, data, format="qoperator")
    return source, qdq, qop, list(done.notes)


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_integers_as_the_runtime_fuses(case: str, target: str) -> None:
    source, qdq, qop, _ = both(case, target)
    feeds = feeds_of(source, seed=5)
    (fused,), (written,) = run(to_bytes(qdq.ir), feeds), run(to_bytes(qop.ir), feeds)
    (plain,) = run(to_bytes(qop.ir), feeds, plain=True)
    step = 1e-6 if case != "matmul and bias" else 1e-5
    assert np.allclose(fused, written, rtol=step, atol=step) and np.allclose(written, plain, rtol=step, atol=step)
    made = set(ops(qop))
    if target == "ort-cpu":
        assert not made & {"Conv", "Gemm", "MatMul", "Sigmoid", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Concat", "Mul", "Relu", "Clip"}
    else:
        assert all(node.domain == "" for node in qop.main.nodes) and "Conv" not in made


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("conv, relu", ["QuantizeLinear", "QLinearConv", "QLinearConv", "DequantizeLinear", "Exp"]),
        ("add", ["QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearAdd", "QLinearConv", "DequantizeLinear", "Exp"]),
        ("gemm", ["QuantizeLinear", "QGemm", "QGemm", "Exp"]),
        ("matmul", ["QuantizeLinear", "QLinearMatMul", "MatMulIntegerToFloat", "Exp"]),
        ("movement", ["QuantizeLinear", "QLinearConv", "Transpose", "Slice", "QLinearConv", "DequantizeLinear", "Exp"]),
    ],
)
def test_what_becomes_of_them(case: str, kinds: list[str]) -> None:
    assert ops(both(case, "ort-cpu")[2]) == kinds


def test_standard_operators_leave_the_rest_between_q_and_dq() -> None:
    _, _, m, notes = both("mul, sigmoid", "onnx")
    assert ops(m).count("QLinearConv") == 2 and "Sigmoid" in ops(m)
    assert any("ONNX has no integer form of Sigmoid" in note for note in notes)
    assert "2 operators read and write integers" in notes


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "openvino", "ort-cuda"])
def test_targets_that_take_no_qoperators(target: str) -> None:
    with pytest.raises(graphopt.TargetError) as caught:
        quantized(proto("(float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y)", "y = Conv<pads = [1, 1, 1, 1]>(x, w, b)", **C), target, format="qoperator")
    assert caught.value.hint


def converted(body: str, **constants: np.ndarray) -> tuple[Model, list[str]]:
    scales = {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.uint8(3), "o": np.uint8(0)}
    used = {k: np.asarray(v) for k, v in {**scales, **constants}.items()}
    m = Model(*read_model(proto("(uint8[2, 8] q) => (float[a, b] y)", body, 17, **used).SerializeToString()))
    _, declined = to_qoperators(Editor(m), "com.microsoft")
    onnx.checker.check_model(onnx.load_from_string(to_bytes(m.ir)))
    return m, [reason for _, _, reason in declined]


DQ = "x = DequantizeLinear(q, s, z)"
OUT = "y = DequantizeLinear(k, t, o)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{DQ} a = Transpose(x) k = QuantizeLinear(a, t, o) {OUT}", "different scales"),
        (f"{DQ} a = Transpose(x) y = Exp(a)", "not both quantized"),
        (f"{DQ} f = Exp(x) a = Add(x, f) k = QuantizeLinear(a, t, o) {OUT}", "not all of its inputs"),
        (f"{DQ} y = Add(x, x)", "output is not quantized"),
        (f"{DQ} a = Add(x, x) r = Relu(a) k = QuantizeLinear(r, t, z) y = DequantizeLinear(k, t, z)", "does more than the limits"),
    ],
)
def test_groups_that_are_none(body: str, reason: str) -> None:
    m, reasons = converted(body)
    assert not any(op.startswith("QLinear") for op in ops(m)) and reason in reasons[0]


def test_what_gives_elements_of_its_input_moves_integers() -> None:
    body = f"{DQ} a = GatherND(x, i) k = QuantizeLinear(a, s, z) y = DequantizeLinear(k, s, z)"
    m, reasons = converted(body, i=np.array([[1], [0]]))
    assert ops(m) == ["GatherND", "DequantizeLinear"] and not reasons
    q = np.arange(16, dtype=np.uint8).reshape(2, 8)
    assert np.allclose(run(to_bytes(m.ir), {"q": q})[0], (q[::-1].astype(int) - 3) * np.float32(0.1))


def test_a_zero_point_that_is_left_out_is_0() -> None:
    m, reasons = converted("x = DequantizeLinear(q, s) a = Add(x, x) k = QuantizeLinear(a, t) y = DequantizeLinear(k, t)")
    assert ops(m) == ["QLinearAdd", "DequantizeLinear"] and not reasons
    q = np.arange(16, dtype=np.uint8).reshape(2, 8)
    assert np.allclose(run(to_bytes(m.ir), {"q": q})[0], np.clip(np.rint(q * np.float32(0.1) * 2 / 0.2), 0, 255) * 0.2)


def test_a_model_that_has_q_and_dq_already() -> None:
    body = "x = DequantizeLinear(q, s) a = Add(x, x) k = QuantizeLinear(a, t) y = DequantizeLinear(k, t)"
    source = proto("(uint8[2, 8] q) => (float[2, 8] y)", body, 17, s=np.float32(0.1), t=np.float32(0.2))
    m, done = quantized(source, "ort-cpu", format="qoperator")
    assert ops(m) == ["QLinearAdd", "DequantizeLinear"] and any("already quantized" in note for note in done.notes)


@pytest.mark.parametrize("name", ["residual_cnn", "depthwise_se", "vit"])
def test_trained_networks_answer_the_same(name: str) -> None:
    path, data = FIXTURES / "models" / f"{name}.onnx", FIXTURES / "data" / "digits_calib.npz"
    answers = []
    for options in ("", "{format=qoperator}"):
        done = graphopt.optimize(path, f"fuse,quant{options}", target="ort-cpu", data=data, verify=False)
        session = ort.InferenceSession(to_bytes(done.model.ir), providers=["CPUExecutionProvider"])
        images = np.load(FIXTURES / "data" / "digits_test.npz")["image"]
        answers.append(session.run(None, {"image": images})[0])
    assert (answers[0].argmax(1) == answers[1].argmax(1)).mean() >= 0.999
    assert numpy_helper.from_array(answers[0]).dims == numpy_helper.from_array(answers[1]).dims
