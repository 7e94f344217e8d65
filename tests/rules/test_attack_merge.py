"""Computations that only look alike are not merged, and rules emit only what runtimes take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from tests.rules.exact import same_bits
from tests.rules.helpers import build, run

INF = np.array([np.inf, -np.inf, 0.0, -0.0, 1, -1], np.float32)


def _optimized(model: onnx.ModelProto, passes: str = "O1") -> onnx.ModelProto:
    result: onnx.ModelProto = graphopt.optimize(model, passes, verify=False).model
    onnx.checker.check_model(result, full_check=True)
    return result


def test_attributes_0_and_minus_0_differ() -> None:
    model = build("(float[6] x) => (float[6] a, float[6] b)", "a = LeakyRelu<alpha=0.0>(x) b = LeakyRelu<alpha=0.0>(x)")
    model.graph.node[1].attribute[0].f = -0.0
    result = _optimized(model)
    assert [n.op_type for n in result.graph.node] == ["LeakyRelu", "LeakyRelu"]
    same_bits(run(model, {"x": INF}), run(result, {"x": INF}))


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_max_and_min_of_zeros_depend_on_the_order(op: str) -> None:
    model = build("(float[2] x, float[2] y) => (float[2] a, float[2] b)", f"a = {op}(x, y) b = {op}(y, x)")
    feeds = {"x": np.array([0, -0.0], np.float32), "y": np.array([-0.0, 0], np.float32)}
    same_bits(run(model, feeds), run(_optimized(model), feeds))


def test_a_sum_depends_on_the_order() -> None:
    model = build("(float x, float y, float z) => (float a, float b)", "a = Sum(x, y, z) b = Sum(z, y, x)")
    feeds = {n: np.array(v, np.float32) for n, v in (("x", 1e8), ("y", -1e8), ("z", 1))}
    same_bits(run(model, feeds), run(_optimized(model), feeds))


def test_a_sum_of_two_does_not() -> None:
    model = build("(float[6] x, float[6] y) => (float[6] a, float[6] b)", "a = Add(x, y) t = Add(y, x) b = Neg(t)")
    assert sorted(n.op_type for n in _optimized(model).graph.node) == ["Add", "Neg"]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_pool_along_one_axis_loses_infinities_and_zeros(op: str) -> None:
    model = build("(float[1,1,6] x) => (float[1,1,6] y)", f"y = {op}<kernel_shape=[1]>(x)")
    feeds = {"x": INF.reshape(1, 1, 6)}
    same_bits(run(model, feeds), run(_optimized(model), feeds))


def test_clip_bounds_in_order_before_opset_11() -> None:
    body = "r = Relu(x) y = Clip<min=-3.0,max=-1.0>(r)"
    for opset in (10, 13):
        model = build("(float[6] x) => (float[6] y)", body if opset < 11 else "r = Relu(x) y = Clip(r, lo, hi)",
                      opset=opset, **({} if opset < 11 else {"lo": -3.0, "hi": -1.0}))
        same_bits(run(model, {"x": INF}), run(_optimized(model), {"x": INF}))


@pytest.mark.parametrize("body", ["t = Mul(x, c) y = Max(x, t)", "t = Mul(x, c) p = Greater(x, z) y = Where(p, x, t)"])
def test_no_leaky_relu_for_double(body: str) -> None:
    model = build("(double[6] x) => (double[6] y)", body, c=np.float64(0.25), z=np.float64(0))
    feeds = {"x": INF.astype(np.float64)}
    same_bits(run(model, feeds), run(_optimized(model, "O2"), feeds))
