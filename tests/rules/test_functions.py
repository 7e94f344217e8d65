"""Local functions that are kept are optimized as well: rules, folding, merging and control flow in their bodies."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, parser

import graphopt
from tests.rules.helpers import compare, run

HEAD = """<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
g (float[4] x) => (float[4] y) { a = my.f (x)  b = my.f (a)  y = Neg (b) }
<domain: "my", opset_import: ["" : 18]> f (x) => (y) { %s }"""


def optimized(body: str) -> list[str]:
    """The operators that a function's body is left with, in order; the model computes the same and is valid."""
    model = parser.parse_model(HEAD % body)
    result = graphopt.optimize(model).model
    onnx.checker.check_model(result, full_check=True)
    feeds = {"x": np.array([-2, -0.5, 0, 3], np.float32)}
    compare(run(model, feeds), run(result, feeds))
    (function,) = result.functions
    assert [n.op_type for n in result.graph.node] == ["f", "f", "Neg"]
    return [n.op_type for n in function.node]


def test_rules_apply() -> None:
    assert optimized("one = Constant<value_float=1.0>() a = Mul(x, one) b = Relu(a) y = Relu(b)") == ["Relu"]


def test_constants_are_computed_before_they_are_read() -> None:
    body = "two = Constant<value_float=2.0>() s = Sin(two) a = Mul(x, s) y = Exp(a)"
    assert optimized(body) == ["Constant", "Mul", "Exp"]


def test_equal_operators_are_merged() -> None:
    assert optimized("a = Sin(x) b = Sin(x) c = Exp(a) d = Exp(b) y = Add(c, d)") == ["Sin", "Exp", "Add"]


def test_branches_are_inlined() -> None:
    body = (
        "k = Constant<value=bool {1}>() one = Constant<value_float=1.5>() a = Add(x, one) "
        "y = If(k) <then_branch = t () => (float[4] p) { h = Constant<value_float=2.5>() p = Mul(a, h) }, "
        "else_branch = e () => (float[4] q) { q = Abs(a) }>"
    )
    assert sorted(optimized(body)) == ["Add", "Constant", "Constant", "Mul"]


def test_attributes_of_the_caller_stay() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[4] x) => (float[4] y) { a = my.f <s = 0.5> (x)  y = my.f <s = 0.25> (a) }
        <domain: "my", opset_import: ["" : 18]> f <s> (x) => (y) { a = LeakyRelu <alpha: float = @s> (x)
          b = LeakyRelu <alpha: float = @s> (x)  i = Identity (b)  y = Add (a, i) }"""
    )
    result = graphopt.optimize(model).model
    leaky = next(n for n in result.functions[0].node if n.op_type == "LeakyRelu")
    assert leaky.attribute[0].ref_attr_name == "s"
    assert helper.get_node_attr_value(result.graph.node[0], "s") == 0.5
    feeds = {"x": np.array([-2, -0.5, 0, 3], np.float32)}
    compare(run(model, feeds), run(result, feeds))
