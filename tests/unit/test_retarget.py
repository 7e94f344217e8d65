"""Quantized models on their way to another runtime: scales and integers are kept, and placed as the target wants."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphopt_passes.quant import Quant
from onnx import numpy_helper

import graphopt
from fixtures.accuracy import accuracy
from graphopt.quant.coverage import coverage
from tests.unit.engine import model

FIXTURES = Path(__file__).parents[2] / "fixtures"
DATA = FIXTURES / "data" / "digits_calib.npz"
NET = FIXTURES / "models" / "residual_cnn.onnx"


def quantized(source: Any, target: str, existing: str = "keep", data: Any = DATA) -> graphopt.Result:
    item = Quant(existing=existing, rest="float32")  # type: ignore[arg-type]
    return graphopt.optimize(source, [item], target=target, data=data, as_="proto")


def stored(proto: onnx.ModelProto, dtype: Any = np.int8) -> set[bytes]:
    """The bits of all weights, which have more than one axis."""
    arrays = [numpy_helper.to_array(t) for t in proto.graph.initializer]
    return {a.tobytes() for a in arrays if a.dtype == dtype and a.ndim > 1}


def scales(proto: onnx.ModelProto) -> set[float]:
    """The scales of all activations."""
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    return {float(found[n.input[1]]) for n in proto.graph.node if n.op_type == "QuantizeLinear"}


def zero_points(proto: onnx.ModelProto) -> set[tuple[str, int]]:
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    points = [found[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    return {(str(p.dtype), int(p)) for p in points}


def largest(proto: onnx.ModelProto) -> set[float]:
    """The largest magnitudes that activations can have."""
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    pairs = [(found[n.input[1]], int(found[n.input[2]])) for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    return {round(float(scale) * max(zero, 255 - zero), 4) for scale, zero in pairs}


def notes(result: graphopt.Result) -> str:
    return "\n".join(note for item in result.report.passes for note in item.notes)


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, feeds)  # type: ignore[no-any-return]


def top1(proto: onnx.ModelProto) -> float:
    return accuracy(lambda feeds: {"logits": run(proto, **feeds)[0]})


def test_to_the_same_target_nothing_changes() -> None:
    first = quantized(NET, "ort-cpu").model
    again = quantized(first, "ort-cpu", "retarget", None)
    images = np.load(DATA)
    np.testing.assert_array_equal(run(first, **images)[0], run(again.model, **images)[0])
    assert Counter(n.op_type for n in first.graph.node) == Counter(n.op_type for n in again.model.graph.node)
    assert (stored(first), scales(first)) == (stored(again.model), scales(again.model))
    assert again.report.calibration == "model"


def test_from_onnx_runtime_to_tensorrt() -> None:
    """uint8 behind a Relu becomes symmetric int8 of the same range, in steps of twice the size; weights stay."""
    first = quantized(NET, "ort-cpu").model
    there = quantized(first, "tensorrt-rtx", "retarget", None)
    assert zero_points(there.model) == {("int8", 0)}
    assert stored(there.model) <= stored(first) and len(stored(there.model)) >= 9
    assert {round(127 * s, 4) for s in scales(there.model)} <= largest(first)
    assert "keep their range in coarser steps, of up to 2.01 times the size" in notes(there)
    assert top1(there.model) > 98.0


def test_to_arm_all_is_kept_in_signed_integers() -> None:
    first = quantized(NET, "ort-cpu").model
    there = quantized(first, "ort-arm", "retarget", None)
    assert zero_points(there.model) == {("int8", zero - 128) for _, zero in zero_points(first)}
    assert scales(there.model) == scales(first) and "coarser" not in notes(there)


def test_from_tensorrt_to_onnx_runtime() -> None:
    """No pair stands on outputs there: their ranges are those of the inputs that come of them, or are calibrated."""
    first = quantized(NET, "tensorrt-rtx").model
    there = quantized(first, "ort-cpu", "retarget")
    found = coverage(graphopt.load(there.model))
    assert stored(there.model) == stored(first)
    assert found.integer == len(stored(first))
    assert {kind for kind, _ in zero_points(there.model)} == {"uint8"}
    assert top1(there.model) > 98.0


def test_without_data_what_has_no_range_stays_float() -> None:
    first = quantized(NET, "tensorrt-rtx").model
    there = quantized(first, "ort-cpu", "retarget", None)
    assert "had no scale in the model as it came: give data to calibrate it" in notes(there)
    found = coverage(graphopt.load(there.model))
    assert 0 < found.integer < len(stored(first))
    assert top1(there.model) > 98.0


CONV = """g (float[1,16,6,6] x) => (float[1,16,4,4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    c = Conv(d, wd)
    cq = QuantizeLinear(c, t, z)
    y = DequantizeLinear(cq, t, z)
}"""


def conv(weight_zero: np.ndarray, zero: np.ndarray, text: str = CONV) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    low = -127 if weight_zero.dtype == np.int8 else 1
    proto: onnx.ModelProto = graphopt.optimize(
        model(
            text, s=np.array(0.02, np.float32), t=np.array(0.5, np.float32), z=zero, wz=weight_zero,
            w=rng.integers(low, low + 255, (16, 16, 3, 3)).astype(weight_zero.dtype),
            ws=np.full(weight_zero.shape, 0.01, np.float32),
        ), [], as_="proto",
    ).model  # fmt: skip
    return proto


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt-rtx"])
def test_a_shift_by_128_is_another_spelling(target: str) -> None:
    """uint8 around 128 and int8 around 0 are the same numbers: every result is equal bit for bit."""
    first = conv(np.full(16, 128, np.uint8), np.array(128, np.uint8))
    there = quantized(first, target, "retarget", None).model
    x = np.random.default_rng(1).normal(size=(1, 16, 6, 6)).astype(np.float32)
    given = numpy_helper.to_array(next(t for t in first.graph.initializer if len(t.dims) == 4))
    assert stored(there) == {(given.astype(np.int16) - 128).astype(np.int8).tobytes()}
    assert scales(there) <= {np.float32(0.02), np.float32(0.5)}
    if target == "ort-cpu":
        np.testing.assert_array_equal(run(first, x=x)[0], run(there, x=x)[0])


def test_weights_that_the_target_cannot_store_are_rounded_again() -> None:
    first = conv(np.arange(100, 116).astype(np.uint8), np.array(128, np.uint8))
    there = quantized(first, "tensorrt-rtx", "retarget", None)
    assert "1 weights are rounded again" in notes(there)
    x = np.random.default_rng(1).normal(size=(1, 16, 6, 6)).astype(np.float32)
    before, after = run(first, x=x)[0], run(there.model, x=x)[0]
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 25


def test_what_was_float_stays_float() -> None:
    text = CONV.replace("float[1,16,4,4] y", "float[1,16,2,2] y").replace("y = Deq", "e = Deq").replace(
        "(cq, t, z)\n", "(cq, t, z)\n y = Conv(e, v)\n"
    ).replace("{", "<float[16,16,3,3] v = {" + ", ".join(["0.5"] * 2304) + "}> {", 1)
    first = conv(np.zeros(16, np.int8), np.array(128, np.uint8), text)
    there = quantized(first, "ort-cpu", "retarget", None)
    assert "it was float in the model as it came" in notes(there)
    assert len(stored(there.model)) == 1


def test_weights_that_were_stored_alone_stay_so() -> None:
    text = """g (float[2,32] x) => (float[2,16] y) {
        d = DequantizeLinear<axis=1>(w, ws)
        y = MatMul(x, d)
    }"""
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (32, 16)).astype(np.int8)
    first = model(text, w=integers, ws=np.full(16, 0.01, np.float32))
    there = quantized(first, "ort-cpu", "retarget", None).model
    assert [n.op_type for n in there.graph.node] == ["DequantizeLinear", "MatMul"]
    assert stored(there) == {integers.tobytes()}


def test_a_range_is_handed_back_through_what_only_moves() -> None:
    """TensorRT's style has the pair behind the MaxPool only; the Conv in front of it needs one of its own."""
    text = """g (float[1,16,8,8] x) => (float[1,16,1,1] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        wd = DequantizeLinear<axis=0>(w, ws, wz)
        c = Conv(d, wd)
        r = Relu(c)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        pq = QuantizeLinear(p, t, z)
        pd = DequantizeLinear(pq, t, z)
        vd = DequantizeLinear<axis=0>(w, ws, wz)
        y = Conv(pd, vd)
    }"""
    first = conv(np.zeros(16, np.int8), np.array(0, np.int8), text)
    there = quantized(first, "ort-cpu", "retarget", None).model
    assert coverage(graphopt.load(there)).integer == 1  # the last has no range for its output
    found = scales(there)
    assert any(abs(255 * s - 127 * 0.5) < 1e-3 for s in found), found


def test_a_target_without_a_placement() -> None:
    first = conv(np.zeros(16, np.int8), np.array(0, np.int8))
    with pytest.raises(graphopt.TargetError):
        quantized(first, dataclasses.replace(graphopt.load_target("onnx"), quant=None), "retarget", None)


def test_what_is_quantized_at_run_time_has_no_scales_to_place() -> None:
    first = conv(np.zeros(16, np.int8), np.array(0, np.int8))
    with pytest.raises(graphopt.UsageError, match="places calibrated scales"):
        graphopt.optimize(first, [Quant(existing="retarget", kind="dynamic")], target="ort-cpu")
