"""Quantized types: their limits, and arithmetic that agrees with ONNX and with ONNX Runtime bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.load import read_model
from graphopt.quant.types import BLOCK_OPSET, QTYPES, QuantParams, dequantize, qtype, quantize
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model

ENUM = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
    "uint4": TensorProto.UINT4,
    "int4": TensorProto.INT4,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8e5m2": TensorProto.FLOAT8E5M2,
}
CASES = [("tensor", None, 0), ("channel", 1, 0), ("block", 1, 4)]


def values() -> np.ndarray:
    """[3, 10]: ordinary values, ties, zeros of both signs, and values far outside."""
    rng = np.random.default_rng(0)
    ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0, -0.0, 1e30, -1e30])
    near = np.array([7.5, -8.5, 127.5, -128.5, 255.5, 448.0, 464.0, -465.0, 57344.0, 61441.0])
    return np.stack([ties, near, rng.normal(size=10) * 40]).astype(np.float32)


def params(name: str, axis: int | None, block: int) -> QuantParams:
    rng = np.random.default_rng(1)
    shape = () if axis is None else (3, 3) if block else (10,)
    scale = rng.choice(np.array([0.25, 0.5, 1.0, 0.37], np.float32), shape)
    kind = qtype(name)
    low, high = int(max(kind.low, -100)), int(min(kind.high, 100))
    zero = np.zeros(shape) if kind.is_float else rng.integers(low, high + 1, shape)
    return QuantParams(np.asarray(scale, np.float32), np.asarray(zero).astype(kind.dtype))


def graph(name: str, p: QuantParams, axis: int | None, block: int, *, opset: int = 21) -> onnx.ModelProto:
    """x → QuantizeLinear → q → DequantizeLinear → y."""
    attrs: dict[str, Any] = {} if axis is None else {"axis": axis, **({"block_size": block} if block else {})}
    zero = helper.make_tensor("z", ENUM[name], p.zero_point.shape, p.zero_point.astype(np.float32).reshape(-1).tolist())
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 10])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 10])],
            [numpy_helper.from_array(p.scale, "s"), zero],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


@pytest.mark.parametrize(("axis", "block"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("name", sorted(ENUM))
def test_as_the_reference_evaluator(name: str, axis: int | None, block: int) -> None:
    p, x = params(name, axis, block), values()
    x[np.abs(x) > 1e6] = 1e6  # beyond, the reference's own cast to int32 overflows
    proto = graph(name, p, axis, block)
    proto.graph.output.append(helper.make_tensor_value_info("q", ENUM[name], [3, 10]))
    expected, stored = map(np.asarray, ReferenceEvaluator(proto).run(None, {"x": x}))
    mine = quantize(x, p, axis, block)
    assert mine.dtype == qtype(name).dtype and np.array_equal(mine.astype(np.float64), stored.astype(np.float64))
    back = dequantize(mine, p, axis, block)
    assert back.dtype == np.float32 and np.array_equal(back, expected)


@pytest.mark.parametrize(("axis", "block"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("name", sorted(ENUM))
def test_as_onnxruntime(name: str, axis: int | None, block: int) -> None:
    p, x = params(name, axis, block), values()
    if qtype(name).bits == 4:
        x = np.clip(x, -1e8, 1e8)  # ONNX Runtime 1.31 casts to int32 first, and 1e30 becomes the smallest integer
    model = read_model(graph(name, p, axis, block).SerializeToString())[0]
    found = run_model(package(model), {"x": x})["y"]
    assert np.array_equal(dequantize(quantize(x, p, axis, block), p, axis, block), found)


def test_int32_is_dequantized_as_the_reference_does() -> None:
    stored = np.array([0, 5, -7, 2**31 - 1, -(2**31), 16_777_217], np.int32)
    p = QuantParams(np.array(0.1, np.float32), np.array(0, np.int32))
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["y"])]
    ins = [helper.make_tensor_value_info("q", TensorProto.INT32, [6])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])]
    g = helper.make_graph(nodes, "g", ins, outs, [numpy_helper.from_array(p.scale, "s")])
    proto = helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (expected,) = ReferenceEvaluator(proto).run(None, {"q": stored})
    assert np.array_equal(dequantize(stored, p), expected)
    assert quantize(np.array([3e9, -3e9, 0.25], np.float32), p).tolist() == [2**31 - 1, -(2**31), 2]


@pytest.mark.parametrize(
    ("name", "low", "high", "opsets"),
    [
        ("uint8", 0, 255, (10, 13, 21)),
        ("int8", -128, 127, (10, 13, 21)),
        ("uint16", 0, 65535, (21, 21, 21)),
        ("int16", -32768, 32767, (21, 21, 21)),
        ("uint4", 0, 15, (21, 21, 21)),
        ("int4", -8, 7, (21, 21, 21)),
        ("float8e4m3fn", -448, 448, (19, 19, 21)),
        ("float8e5m2", -57344, 57344, (19, 19, 21)),
        ("int32", -(2**31), 2**31 - 1, (10, 13, 21)),
    ],
)
def test_limits_and_opsets(name: str, low: float, high: float, opsets: tuple[int, int, int]) -> None:
    kind = qtype(name)
    assert (kind.low, kind.high) == (low, high) and qtype(kind.dtype) is kind
    assert (kind.opset, kind.opset_channel, BLOCK_OPSET) == opsets
    if name in ENUM:  # the operator's own schema agrees
        stored = next(k for k, v in TensorProto.DataType.items() if v == ENUM[name]).lower()
        schema = onnx.defs.get_schema("QuantizeLinear", opsets[0], "")
        assert any(stored in t for c in schema.type_constraints for t in c.allowed_type_strs)
        older = onnx.defs.get_schema("QuantizeLinear", opsets[0] - 1, "") if opsets[0] > 10 else None
        assert older is None or not any(f"({stored})" in t for c in older.type_constraints for t in c.allowed_type_strs)


def test_every_type_is_listed_above() -> None:
    assert set(QTYPES) == {*ENUM, "int32"}


def test_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        qtype("int88")


def test_blocks_need_not_divide_the_axis() -> None:
    x = np.arange(10, dtype=np.float32).reshape(10, 1)
    scale = np.array([[1.0], [2.0], [4.0]], np.float32)
    p = QuantParams(scale, np.zeros((3, 1), np.int8))
    assert quantize(x, p, 0, 4).reshape(-1).tolist() == [0, 1, 2, 3, 2, 2, 3, 4, 2, 2]


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_four_bits_are_packed_in_a_file_and_come_back(name: str, tmp_path: Path) -> None:
    kind = qtype(name)
    integers = np.arange(kind.low, kind.high + 1).astype(kind.dtype).reshape(16)
    bits = [int(v) & 15 for v in integers.astype(np.int64)]
    packed = bytes(a | b << 4 for a, b in zip(bits[::2], bits[1::2], strict=True))
    stored = onnx.TensorProto(name="w", data_type=ENUM[name], dims=[16], raw_data=packed)
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"])
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16])]
    g = helper.make_graph([node], "g", [], outs, [stored, scale])
    proto = helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    graphopt.save(graphopt.load(proto.SerializeToString()), tmp_path / "m.onnx")
    (weight,) = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.name == "w"]
    assert weight.raw_data == packed
    model = graphopt.load(tmp_path / "m.onnx")
    (value,) = [v for v in model.main.initializers if v.name == "w"]
    array = value.array()
    assert array is not None and array.dtype == kind.dtype and np.array_equal(array, integers)


def test_a_new_int4_constant_is_saved_packed(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Identity(x) }'
    )
    model = graphopt.Model(*read_model(proto.SerializeToString()))
    edit = graphopt.Editor(model)
    node = next(iter(model.main.nodes))
    with edit.rewrite("t", at=node) as rw:
        stored = rw.constant(np.array([-8, 7], ml_dtypes.int4), like="w")
        (dq,) = rw.node("DequantizeLinear", [stored, rw.constant(np.array(1.0, np.float32))])
        rw.replace(node.outputs[0], rw.node("Add", [node.inputs[0], dq])[0])
    graphopt.save(model, tmp_path / "m.onnx")
    (weight,) = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.data_type == TensorProto.INT4]
    assert weight.raw_data == bytes([0x78]) and list(weight.dims) == [2]
