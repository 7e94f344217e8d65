"""A part of a model as text: what it computes, with what it reads from outside."""

from __future__ import annotations

import onnx
import pytest

from graphopt.interop.convert import to_ir
from graphopt.ir.model import Model
from graphopt.ir.text import from_text, region, to_text

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
CHAIN = HEADER + """net (float[N,3] x, bool c) => (float[N,3] y, float[N,3] b)
    <float[3] w = {1, 2, 3}>
    {
       k = Constant <value = float {2}> ()
       a = Mul (x, w)
       b = Add (a, k)
       d = If (c) <then_branch = t () => (float[N,3] e) { e = Sub (b, w) }, else_branch = f () => (float[N,3] e) { e = Neg (a) }>
       y = Relu (d)
    }"""


def loaded(text: str) -> Model:
    return Model(*to_ir(from_text(text)))


def region_of(text: str, *outputs: str) -> str:
    model = loaded(text)
    nodes = [node for node in model.main.nodes if node.outputs[0].name in outputs]
    found = region(model, nodes)
    onnx.checker.check_model(found, full_check=True)
    return to_text(found, metadata=False, types=False).partition("\n")[2]


def test_a_region_has_types_constants_and_what_is_read_outside() -> None:
    assert region_of(CHAIN, "a", "b") == (
        "region (float[N,3] x) => (float[N,3] a, float[N,3] b)\n   <float[3] w = {1, 2, 3},\n    float k = {2}>\n"
        "{\n   a = Mul (x, w)\n   b = Add (a, k)\n}\n"
    )


def test_values_that_a_body_captures_are_inputs() -> None:
    text = region_of(CHAIN, "d")
    assert text.startswith("region (bool c, float[N,3] b, float[N,3] a) => (float[N,3] d)\n   <float[3] w = {1, 2, 3}>\n")


def test_a_region_whose_result_nobody_reads_has_outputs_all_the_same() -> None:
    text = HEADER + "net (float x) => (float y) { dead = Neg (x) y = Relu (x) }"
    assert region_of(text, "dead").startswith("region (float x) => (float dead)")


def test_a_region_brings_the_functions_that_it_calls() -> None:
    text = HEADER.replace("[", '["local" : 1, ') + """
        net (float[3] x) => (float[3] y) { a = local.f (x) y = Relu (a) }
        <domain: "local", opset_import: ["" : 21, "local" : 1]> f (a) => (b) { b = local.g (a) }
        <domain: "local", opset_import: ["" : 21]> g (a) => (b) { b = Neg (a) }
        <domain: "local", opset_import: ["" : 21]> h (a) => (b) { b = Abs (a) }"""
    model = loaded(text)
    found = region(model, [next(model.main.nodes)])
    assert [f.name for f in found.functions] == ["f", "g"]
    inside = region(model, list(next(g for g in model.graphs() if g.is_function).nodes))
    assert [n.op_type for n in inside.graph.node] == ["g"]


def test_regions_need_nodes_of_one_graph() -> None:
    model = loaded(CHAIN)
    with pytest.raises(ValueError, match="at least one node"):
        region(model, [])
    with pytest.raises(ValueError, match="stand in one graph"):
        region(model, [next(graph.nodes) for graph in model.graphs()][:2])
