"""Weights alone in integers for TensorRT: int4 in blocks, int8 by column, what is refused, and that the builder takes it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.emit.emitter import EmitOptions
from graphopt.emit.tensorrt import TensorRTEmitter
from graphopt.errors import TargetError
from graphopt.ir.model import Model
from tests.unit.kinds import decibels, ops, proto, quantized, reasons, weight

LINEAR = "(float[M, 256] x) => (float[M, 48] y)"
TWO = "h = MatMul(x, u) s = Relu(h) y = Gemm(s, w, b)"
W = {"w": weight(256, 48)}
BOTH = {**W, "u": weight(256, 256), "b": weight(48)}
TARGETS = ("tensorrt", "tensorrt-rtx")


def dequantizers(m: Model) -> list[dict[str, Any]]:
    """What each DequantizeLinear reads: type, shape, scales, and in which blocks of which axis."""
    return [
        {"type": n.inputs[0].dtype.name, "shape": n.inputs[0].shape, "scales": n.inputs[1].shape, "axis": n.attr("axis", 1),  # type: ignore[union-attr]
         "block": n.attr("block_size", 0), "zeros": len(n.inputs) > 2 and n.inputs[2] is not None}
        for n in m.main.find("DequantizeLinear")
    ]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_int4_has_blocks_of_128_rows_and_no_zero_points(target: str) -> None:
    source = proto(LINEAR, TWO, **BOTH)
    m, done = quantized(source, target, kind="weights", weight="int4")
    assert done.kinds == {"weights": 2} and ops(m) == ["DequantizeLinear", "MatMul", "Relu", "DequantizeLinear", "Gemm"]
    common = {"type": "INT4", "axis": 0, "block": 128, "zeros": False}
    assert dequantizers(m) == [
        {**common, "shape": (256, 256), "scales": (2, 256)}, {**common, "shape": (256, 48), "scales": (2, 48)}
    ]  # fmt: skip
    assert decibels(source, m) > 13


def test_blocks_divide_the_rows() -> None:
    for rows, block in ((384, 128), (192, 64), (64, 64)):
        source = proto(f"(float[4, {rows}] x) => (float[4, 48] y)", "y = MatMul(x, w)", w=weight(rows, 48))
        m, _ = quantized(source, "tensorrt", kind="weights", weight="int4")
        assert [(d["block"], d["scales"]) for d in dequantizers(m)] == [(block, (rows // block, 48))]
    for rows in (200, 48):
        source = proto(f"(float[4, {rows}] x) => (float[4, 48] y)", "y = MatMul(x, w)", w=weight(rows, 48))
        m, done = quantized(source, "tensorrt", kind="weights", weight="int4")
        assert ops(m) == ["MatMul"]
        assert reasons(done) == {"MatMul": f"its weight has {rows} rows, and they are no multiple of 64"}


def test_int8_has_a_scale_for_each_column() -> None:
    m, _ = quantized(proto(LINEAR, "y = MatMul(x, w)", **W), "tensorrt", kind="weights")
    assert [(d["type"], d["scales"], d["block"]) for d in dequantizers(m)] == [("INT8", (48,), 0)]


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("tensorrt", {"weight": "uint4"}, "its parser refuses uint4\n  weights alone can be int8, int4"),
        ("tensorrt-rtx", {"weight": "uint8"}, "its parser refuses uint8"),
        ("tensorrt", {"weight": "int4", "block": 32}, "no weights of int4 with block=32\n  it has 128, 64"),
        ("tensorrt", {"weight": "int4", "block": 0}, "no weights of int4 with block=0"),
        ("tensorrt", {"block": 128}, "no weights of int8 with block=128\n  it has whole columns"),
        ("tensorrt", {"kind": "auto", "weight": "uint4"}, "its parser refuses uint4"),
        ("ort-cpu", {"block": 8}, "no weights of int8 with block=8"),
    ],
)
def test_types_and_blocks_that_a_target_has_not(target: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(TargetError) as caught:
        quantized(proto(LINEAR, "y = MatMul(x, w)", **W), target, **{"kind": "weights", **options})
    assert error in str(caught.value) and caught.value.exit_code == 6


def test_embeddings_and_recurrent_layers_stay_float_with_the_reason() -> None:
    table = proto("(int64[2, 5] i) => (float[2, 5, 48] y)", "y = Gather(t, i)", 13, t=weight(200, 48))
    m, done = quantized(table, "tensorrt", kind="weights", weight="int4")
    assert ops(m) == ["Gather"] and "in front of DequantizeLinear only" in reasons(done)["Gather"]
    assert m.opset() == 13, "nothing needs a newer one"
    lstm = proto("(float[5, 1, 16] x) => (float[5, 1, 1, 8] y)", "y = LSTM<hidden_size = 8>(x, w, r)", w=weight(1, 32, 16),
                 r=weight(1, 32, 8))  # fmt: skip
    assert reasons(quantized(lstm, "tensorrt", kind="weights")[1]) == {"LSTM": "recurrent layers take no Q/DQ"}
    m, _ = quantized(table, "onnx", kind="weights")
    assert ops(m) == ["Gather", "Cast", "Gather", "Mul"], "elsewhere it is stored"


@pytest.mark.parametrize(("opset", "weight_type", "needed"), [(13, "int4", 21), (17, "int4", 21), (13, "int8", 19)])
def test_an_older_model_is_lifted(opset: int, weight_type: str, needed: int) -> None:
    m, done = quantized(proto(LINEAR, TWO, opset, **BOTH), "tensorrt", kind="weights", weight=weight_type)
    assert m.opset() == needed and done.kinds == {"weights": 2}
    assert f"opset {opset} became {needed}, which quantization needs" in done.notes


def test_auto_lifts_for_the_type_that_was_asked_for() -> None:
    source = proto("(float[1, 256] x) => (float[1, 48] y)", "y = MatMul(x, w)", 17, **W)
    m, _ = quantized(source, "onnx", kind="auto", weight="int4")
    assert m.opset() == 21


@pytest.mark.parametrize("target", TARGETS)
def test_the_rest_is_half(target: str) -> None:
    source = proto(LINEAR, TWO, 17, **BOTH)
    done = graphopt.optimize(source, "quant{kind=weights,weight=int4}", target=target)
    m = graphopt.load(done.model)
    assert Counter(ops(m)) == {"Cast": 2, "DequantizeLinear": 2, "MatMul": 1, "Relu": 1, "Gemm": 1}
    assert {v.dtype.name for n in m.main.find("DequantizeLinear") for v in (*n.inputs, *n.outputs) if v is not None and v.dtype} == {
        "INT4", "FLOAT16"
    }  # fmt: skip
    assert {v.dtype.name for n in m.main.find("MatMul", "Gemm") for v in n.inputs if v is not None and v.dtype} == {"FLOAT16"}
    assert m.opset() == 21 and decibels(source, m) > 13
    left = graphopt.optimize(source, "quant{kind=weights,weight=int4,rest=float32}", target=target)
    assert not list(graphopt.load(left.model).main.find("Cast"))


needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra [tensorrt] is not installed"
)


@needs_tensorrt
@pytest.mark.parametrize("rest", ["float16", "float32"])
@pytest.mark.parametrize("weight_type", ["int4", "int8"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, weight_type: str, rest: str) -> None:
    source = proto("(float[4, 256] x) => (float[4, 48] y)", TWO, **BOTH)
    passes = f"quant{{kind=weights,weight={weight_type},rest={rest}}}"
    m = graphopt.load(graphopt.optimize(source, passes, target="tensorrt-rtx").model)
    assert np.array_equal([d["type"] for d in dequantizers(m)], [weight_type.upper()] * 2)
    assert TensorRTEmitter().emit(m, tmp_path / "m.engine", EmitOptions(sm=(86,))).bytes > 1000
