"""Constants are folded as the operator of the model's opset computes them, whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.ir.numeric import Unsupported, evaluate
from tests.rules.exact import same_bits
from tests.rules.helpers import build, compare, run


def _level(model: onnx.ModelProto, passes: str = "O1") -> onnx.ModelProto:
    result: onnx.ModelProto = graphopt.optimize(model, passes, verify=False).model
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_the_models_opset(op: str, opset: int) -> None:
    # Before opset 13 all axes from the given one on are normalized together.
    c = np.array([[[0, 1], [5, 3]], [[9, 2], [4, 8]]], np.float32)
    model = build("(float[2,2,2] x) => (float[2,2,2] y)", f"k = {op}(c) y = Add(x, k)", opset=opset, c=c)
    feeds = {"x": np.zeros((2, 2, 2), np.float32)}
    compare(run(model, feeds), run(_level(model, "O2"), feeds))


def test_clip_makes_the_lowest_number_of_minus_infinity() -> None:
    c = np.array([-np.inf, np.inf, 1], np.float32)
    model = build("(float[3] x) => (float[3] y)", "k = Clip(c, , top) n = Neg(k) y = Add(x, n)", c=c, top=0.0)
    feeds = {"x": np.zeros(3, np.float32)}
    same_bits(run(model, feeds), run(_level(model), feeds))


def test_a_sum_of_integers_that_does_not_fit_is_not_computed_here() -> None:
    with pytest.raises(Unsupported, match="may not fit"):
        evaluate("ReduceSumSquare", "", 12, [np.array([2**62, 1])], {})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_relu_keeps_the_sign_of_zero(dtype: Any) -> None:
    (result,) = evaluate("Relu", "", 18, [np.array([0, -0.0, np.nan, 1, -1], dtype)], {})
    same_bits([np.array([0, -0.0, np.nan, 1, 0], dtype)], [result])


def test_numpy_scalars_are_arrays() -> None:
    for op, inputs, attrs in (
        ("Max", [np.array(1, np.int32)], {}),
        ("Gather", [np.array([1.0, 2.0], np.float32), np.array(1)], {}),
        ("ReduceMax", [np.array([1, 2], np.int32)], {"keepdims": 0}),
        ("Cast", [np.array(1.5, np.float32)], {"to": onnx.TensorProto.INT32}),
        ("Where", [np.array(True), np.array(1), np.array(2)], {}),
    ):
        (result,) = evaluate(op, "", 18, inputs, attrs)
        assert type(result) is np.ndarray, op


def _sliced(starts: Any, ends: Any, axes: Any, opset: int = 10) -> onnx.ModelProto:
    dims = ["A", "A", "D"]
    info = [helper.make_tensor_value_info(n, 1, d) for n, d in (("x", dims), ("y", ["P", "Q", "R"]))]
    constants = [helper.make_tensor(n, 7, [len(v)], v) for n, v in (("s", starts), ("e", ends), ("a", axes))]
    node = helper.make_node("Slice", ["x", "s", "e", "a"], ["y"])
    graph = helper.make_graph([node], "g", info[:1], info[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [10, 11, 13])
def test_a_slice_of_a_symbolic_axis_is_no_noop(opset: int) -> None:
    # The inference of opset 10 in onnx says that the size stays.
    model = _sliced([0], [0], [1], opset)
    feeds = {"x": np.ones((2, 2, 3), np.float32)}
    same_bits(run(model, feeds), run(_level(model), feeds))


@pytest.mark.parametrize("name", ["s", "e", "a"])
def test_a_slice_by_what_a_caller_may_override(name: str) -> None:
    model = _sliced([0], [2**63 - 1], [0])
    model.graph.input.append(helper.make_tensor_value_info(name, 7, [1]))
    result = _level(model)
    for feeds in ({}, {name: np.array([1])}):
        feeds["x"] = np.ones((2, 2, 3), np.float32)
        same_bits(run(model, feeds), run(result, feeds))


def test_defaults_of_graph_inputs_are_no_constants_of_the_inference() -> None:
    axes = helper.make_tensor("axes", 7, [1], [0])
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("Shape", ["u"], ["shape"]),
        helper.make_node("Reshape", ["u", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [info("x", 1, [4, 3]), info("axes", 7, [1])], [info("y", 1, ["P", "Q", "R"])], [axes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    for passes in ("O1", "O2", "O3"):
        result = _level(model, passes)
        for given in ({}, {"axes": np.array([1])}):
            feeds = {"x": np.ones((4, 3), np.float32), **given}
            same_bits(run(model, feeds), run(result, feeds))


@pytest.mark.parametrize("op", ["Exp", "Tanh", "Sigmoid", "Erf", "Log", "Softplus"])
def test_where_no_bit_may_change_only_what_is_exact_is_computed(op: str) -> None:
    # Ours and ONNX Runtime's results differ in their last bits.
    c = np.linspace(0.1, 7, 48, dtype=np.float32)
    body = f"n = Neg(c) m = Neg(n) k = {op}(m) y = Mul(x, k)"
    model = build("(float[48] x) => (float[48] y)", body, c=c)
    feeds = {"x": np.linspace(-3, 5, 48, dtype=np.float32)}
    result = _level(model)
    assert [n.op_type for n in result.graph.node] == [op, "Mul"]
    same_bits(run(model, feeds), run(result, feeds))
    assert [n.op_type for n in _level(model, "O2").graph.node] == ["Mul"]
