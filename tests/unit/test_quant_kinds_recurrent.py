"""LSTM and GRU: the quantized LSTM of ONNX Runtime, stored weights, and its quantized attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt.ir.save import to_bytes
from graphopt.quant import coverage
from tests.unit.kinds import decibels, ops, proto, quantized, reasons, weight

FIXTURES = Path(__file__).parents[2] / "fixtures"
S, B, WIDTH, H = 7, 2, 24, 32
OUTPUTS = "=> (float[S, D, B, 32] y, float[D, B, 32] h, float[D, B, 32] c)"


def lstm(attrs: str = "", inputs: str = "b", d: int = 1, more: str = "", outputs: str = "y, h, c", op: str = "LSTM") -> onnx.ModelProto:
    """A model with one recurrent layer; `inputs` behind its weights, `more` inputs of the model."""
    gates = 4 if op == "LSTM" else 3
    way = ', direction = "bidirectional"' if d == 2 else ""
    known = ", ".join({"y": "float[S, D, B, 32] y", "h": "float[D, B, 32] h", "c": "float[D, B, 32] c"}[o] for o in outputs.split(", ") if o != "none")
    body = f"{outputs} = {op}<hidden_size = {H}{way}{attrs}>(x, w, r, {inputs})"
    constants = {
        "w": np.stack([weight(gates * H, WIDTH, seed=i) for i in range(d)]) * np.float32(np.sqrt(gates * H / WIDTH)),
        "r": np.stack([weight(gates * H, H, seed=i) for i in range(d)]) * np.float32(np.sqrt(gates)),
        "b": weight(d, 2 * gates * H) * np.float32(0.1),
        "p": weight(d, 3 * H),
    }
    used = {k: v for k, v in constants.items() if k in "wr" or k in inputs.split(", ")}
    return without(proto(f"(float[{S}, {B}, {WIDTH}] x{more}) => ({known})", body, 17, **used))


def without(made: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs called `none` are left out."""
    for names in (made.graph.node[0].input, made.graph.node[0].output):
        for i, name in enumerate(names):
            names[i] = "" if name == "none" else name
    return made


STATES = f", float[{{d}}, {B}, {H}] h0, float[{{d}}, {B}, {H}] c0"
CASES = {
    "plain": lstm(),
    "no bias": lstm(inputs="none"),
    "bidirectional": lstm(d=2),
    "reverse": lstm(', direction = "reverse"'),
    "clip": lstm(", clip = 0.5"),
    "states": lstm(inputs="b, none, h0, c0", more=STATES.format(d=1)),
    "states of both directions": lstm(inputs="b, none, h0, c0", d=2, more=STATES.format(d=2)),
    "lengths": lstm(inputs="b, n", more=f", int32[{B}] n"),
    "other activations": lstm(', activations = ["HardSigmoid", "Relu", "Tanh"], activation_alpha = [0.3, 0.0, 0.0], activation_beta = [0.4, 0.0, 0.0]'),
    "only the last state": lstm(outputs="none, h"),
    "only the sequence": lstm(outputs="y"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_lstm_runs_on_integers(case: str) -> None:
    source = CASES[case]
    one, _ = quantized(source, "ort-cpu", kind="dynamic", per_channel=False)
    assert ops(one) == ["DynamicQuantizeLSTM"] and (case == "lengths" or decibels(source, one) > 25)
    m, done = quantized(source, "ort-cpu", kind="dynamic")
    assert ops(m) == ["DynamicQuantizeLSTM"] and done.kinds == {"dynamic": 1}
    found = coverage(m)
    assert (dict(found.kernels), found.float) == ({"DynamicQuantizeLSTM": 1}, 0)
    if case != "lengths":
        assert decibels(source, m) > 28
    else:
        feeds = {"x": weight(S, B, WIDTH), "n": np.array([3, 7], np.int32)}
        a, b = (run_all(d, feeds) for d in (source.SerializeToString(), to_bytes(m.ir)))
        assert all(np.abs(u - v).max() < 0.05 for u, v in zip(a, b, strict=True)) and not b[0][3:, :, 0].any()


def run_all(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    found = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)
    return [np.asarray(f) for f in found]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (lstm(inputs="b, none, none, none, p"), "peepholes"),
        (lstm(", layout = 1", outputs="y"), "layout"),
        (lstm(", input_forget = 1"), "coupled"),
    ],
)
def test_lstm_that_no_kernel_takes(source: onnx.ModelProto, reason: str) -> None:
    m, done = quantized(source, "ort-cpu", kind="dynamic")
    assert ops(m) == ["LSTM"] and reason in reasons(done)["LSTM"]


def test_recurrent_layers_elsewhere_stay_float() -> None:
    m, done = quantized(CASES["plain"], "onnx", kind="dynamic")
    assert ops(m) == ["LSTM"] and "no quantized LSTM" in reasons(done)["LSTM"]
    gru = lstm(op="GRU", outputs="y, h")
    for target in ("onnx", "ort-cpu"):
        m, done = quantized(gru, target, kind="dynamic")
        assert ops(m) == ["GRU"] and "GRU" in reasons(done)["GRU"]


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("d", [1, 2])
def test_weights_are_stored_as_integers(op: str, d: int) -> None:
    source = lstm(op=op, outputs="y, h", d=d)
    m, done = quantized(source, "onnx", kind="weights")
    assert ops(m) == ["DequantizeLinear", "DequantizeLinear", op] and done.kinds == {"weights": 1}
    assert decibels(source, m) > 34
    before = sum(len(t.raw_data) for t in source.graph.initializer)
    assert sum(v.nbytes or 0 for v in m.main.initializers) < 0.4 * before


def test_weights_that_are_not_finite_stay() -> None:
    source = lstm()
    bad = np.full((1, 4 * H, H), np.nan, np.float32)
    source.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bad, "r"))
    for kind in ("dynamic", "weights"):
        m, done = quantized(source, "ort-cpu", kind=kind)
        assert ops(m) == ["LSTM"] and "NaN" in reasons(done)["LSTM"]


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_the_trained_lstm_keeps_its_accuracy(kind: str) -> None:
    path = FIXTURES / "models" / "bilstm.onnx"
    done = graphopt.optimize(path, f"fuse,quant{{kind={kind}}}", target="ort-cpu", verify=False)
    found = coverage(done.model)
    if kind == "dynamic":
        assert found.float == 0 and found.kernels["DynamicQuantizeLSTM"] >= 1
    assert accuracy(to_bytes(done.model.ir)) >= accuracy(path.read_bytes()) - 0.005


def accuracy(data: bytes) -> float:
    images = np.load(FIXTURES / "data" / "digits_test.npz")["image"]
    (logits,) = run_all(data, {"image": images})
    return float((logits.argmax(1) == np.load(FIXTURES / "data" / "digits_labels.npy")).mean())


ATTENTION = "(float[2, 6, 32] x{more}) => (float[2, 6, 32] y)"


def attention(inputs: str = "b", attrs: str = "", more: str = "") -> onnx.ModelProto:
    body = f"y = com.microsoft.Attention<num_heads = 4{attrs}>(x, w, {inputs})"
    return without(proto(ATTENTION.format(more=more), body, 17, w=weight(32, 96), b=weight(96)))


@pytest.mark.parametrize(
    "source",
    [attention(), attention(attrs=", unidirectional = 1"), attention("b, m", more=", int32[2, 6] m")],
    ids=["plain", "causal", "mask"],
)  # fmt: skip
def test_attention_runs_on_integers(source: onnx.ModelProto) -> None:
    m, done = quantized(source, "ort-cpu", kind="dynamic")
    assert ops(m) == ["DynamicQuantizeLinear", "QAttention"] and not done.declined
    assert coverage(m).kernels["QAttention"] == 1
    if len(source.graph.input) == 1:
        assert decibels(source, m) > 30
    else:
        feeds = {"x": weight(2, 6, 32) * np.float32(3), "m": np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], np.int32)}
        a, b = (run_all(d, feeds)[0] for d in (source.SerializeToString(), to_bytes(m.ir)))
        assert np.abs(a - b).max() < 0.04 * np.abs(a).max()


def test_attention_that_is_declined() -> None:
    source = attention("b, none, none, a", more=", float[2, 4, 6, 6] a")
    m, done = quantized(source, "ort-cpu", kind="dynamic")
    assert ops(m) == ["Attention"] and "attention bias" in reasons(done)["Attention"]
    computed = proto(ATTENTION.format(more=", float[32, 96] w"), "y = com.microsoft.Attention<num_heads = 4>(x, w, b)", 17, b=weight(96))
    assert "run time" in reasons(quantized(computed, "ort-cpu", kind="dynamic")[1])["Attention"]
