"""The normal form in which golden tests compare graphs."""

from __future__ import annotations

import onnx

from graphopt.check.normal import inside, normal_text
from graphopt.ir.text import from_text
from tests.unit.golden import HEADER


def model(body: str, signature: str = "(float[N] x, float[N] z) => (float[N] y)", constants: str = "") -> onnx.ModelProto:
    return from_text(f"{HEADER} g {signature} {constants} {{ {body} }}")


def test_equal_graphs_have_one_normal_form() -> None:
    one = model("a = Mul (x, k) b = Neg (z) y = Add (a, b)", constants="<float k = {2}, float[3] unused = {1, 2, 3}>")
    two = model("[n] q = Neg (z) [m] p = Mul (x, w) y = Add (p, q)", constants="<float w = {2.0000001}>")
    assert normal_text(one) == normal_text(two)
    swapped = model("b = Neg (z) a = Mul (x, k) y = Add (b, a)", constants="<float k = {2}>")
    assert normal_text(one) != normal_text(swapped)


def test_bodies_are_normalized_too() -> None:
    signature = "(bool c, float[N] x) => (float[N] y)"
    text = "o = Neg (x) y = If (c) <then_branch = t () => (float[N] {0}) {{ {1} = Abs (x) {0} = Add ({1}, o) }}, else_branch = e () => (float[N] q) {{ q = Neg (x) }}>"
    assert normal_text(model(text.format("a", "b"), signature)) == normal_text(model(text.format("u", "v"), signature))
    assert normal_text(model(text.format("a", "b"), signature)) != normal_text(
        model(text.format("a", "b").replace("Abs", "Neg"), signature)
    )


def test_a_graph_inside_of_identities_is_the_same_but_for_them() -> None:
    text = "a = Neg (x) y = If (c) <then_branch = t () => (float[N] b) { b = Add (x, a) }, else_branch = e () => (float[N] d) { d = Neg (a) }>"
    plain = model(text, "(bool c, float[N] x) => (float[N] y, float[N] a)")
    wrapped = inside(plain)
    onnx.checker.check_model(wrapped, full_check=True)
    assert sum(node.op_type == "Identity" for node in wrapped.graph.node) == 4
    assert normal_text(wrapped) != normal_text(plain)
    assert normal_text(wrapped, without_identity=True) == normal_text(plain, without_identity=True)
    through = model("a = Identity (x) y = Identity (a) b = Relu (y)", "(float[N] x) => (float[N] y, float[N] b)")
    direct = model("y = Identity (x) b = Relu (x)", "(float[N] x) => (float[N] y, float[N] b)")
    assert normal_text(through, without_identity=True) == normal_text(direct, without_identity=True)
