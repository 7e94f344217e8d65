"""The look ahead: rules are not tried where what their pattern reads cannot be, and are wherever it can."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import parser

import graphopt
from graphopt import Const, Rule, Tensor, rule
from graphopt.engine.driver import Driver, RuleStats
from graphopt.ir.edit import Editor
from graphopt.ir.value import nodes_of


def load(body: str) -> graphopt.Model:
    text = f"""
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[2] x, float[2] z) => (float[2] y)
        <float[2] two = {{2.0, 2.0}}, float[2] other = {{2.0, 3.0}}, float[1] three = {{3.0}}>
        {{ {body} }}
    """
    return graphopt.load(parser.parse_model(text))


@rule(lambda x: x + 2.0, bounded=True)
def plus_two(x: Tensor) -> Tensor:
    """A sum with 2 is a difference to -2."""
    return x - (-2.0)


def _summed(x: Tensor, c: Const) -> Tensor:
    return x + c


@rule(_summed, bounded=True)
def plus_constant(x: Tensor, c: Tensor) -> Tensor:
    """A sum with a constant is the difference to its opposite."""
    return x - (-c)


@pytest.mark.parametrize(
    ("body", "numbers", "constants"),
    [
        ("y = Add(x, two)", (1, 1), (1, 1)),
        ("y = Add(two, x)", (1, 1), (1, 1)),
        ("c = Constant <value_float = 2.0> () y = Add(x, c)", (1, 1), (1, 1)),
        ("y = Add(x, three)", (1, 0), (1, 1)),
        ("y = Add(x, other)", (0, 0), (1, 1)),
        ("y = Add(x, z)", (0, 0), (1, 0)),  # an input is told from a constant only by the match itself
        ("c = Relu(z) d = Relu(x) y = Add(c, d)", (0, 0), (0, 0)),
    ],
)
def test_constants_and_numbers(body: str, numbers: tuple[int, int], constants: tuple[int, int]) -> None:
    assert run(load(body), plus_two) == numbers
    assert run(load(body), plus_constant) == constants


def run(model: graphopt.Model, only: Rule[Any]) -> tuple[int, int]:
    """How often a rule is tried and applied."""
    stats = RuleStats()
    Driver([(only.name, only)], Editor(model), stats=stats).run()
    return stats.tried[only.name], stats.fired[only.name]


def test_nodes_are_given_in_order_while_they_change() -> None:
    model = load("a = Relu(x) b = Exp(a) c = Log(b) y = Neg(c)")
    editor = Editor(model)
    seen = []
    for node in nodes_of(model.ir.graph):
        seen.append(node.op_type)
        if node.op_type == "Exp":  # the one that is looked at goes, and what takes its place comes before the next
            (exp,) = [n for n in model.main.nodes if n.op == "Exp"]
            with editor.rewrite("test", at=exp) as rewrite:
                rewrite.replace(exp.outputs[0], rewrite.node("Abs", [exp.inputs[0]])[0])
    assert seen == ["Relu", "Exp", "Log", "Neg"]
    assert [n.op_type for n in nodes_of(model.ir.graph)] == [n.op_type for n in model.ir.graph]
