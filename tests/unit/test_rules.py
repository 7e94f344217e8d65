"""The rule language: what patterns match, what replacements become, and what is refused at import."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt import (
    ANY,
    Attr,
    Const,
    Domain,
    Node,
    Tensor,
    approx,
    op,
    product,
    require,
    rule,
    scaled,
    total,
)
from tests.unit.engine import check_uses, drive, model, ops, reasons

F = np.float32


@rule(lambda x: x * 1, accuracy="exact", single_use=False)
def mul_one(x: Tensor) -> Tensor:
    """Multiplying by one changes nothing."""
    return x


@rule(lambda x: product(x, 0.5, 1 + op.Erf(scaled(x, 1 / math.sqrt(2)))))
def gelu_erf(x: Tensor) -> Tensor:
    """The erf form of GELU is the Gelu operator."""
    return op.Gelu(x)


def conv_then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const, eps: Attr[float], conv: Node
) -> Tensor:
    return op.BatchNormalization(conv.bind(op.Conv(x, w, b, ...)), gamma, beta, mean, var, epsilon=eps, momentum=ANY)


@rule(conv_then_bn)
def conv_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const, eps: Attr[float], conv: Node
) -> Tensor:
    """BatchNormalization after Conv is a per-channel affine map: fold it into the weights."""
    k = gamma / op.Sqrt(var + eps)
    per_channel = op.Reshape(k, [-1] + [1] * (w.rank - 1))
    bias = beta - mean * k if b is None else (b - mean) * k + beta
    return op.Conv(x, w * per_channel, bias, **conv.attrs)


class TestLiterals:
    @pytest.mark.parametrize("one", [F(1), np.ones(1, F), np.ones((1, 1), F)])
    def test_any_splat_of_the_number_matches(self, one: Any) -> None:
        m = model("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Mul(one, a) y = Neg(b) }", one=np.asarray(one))
        assert drive(m, mul_one)[0] == 1
        assert ops(m) == ["Neg", "Neg"]
        check_uses(m)

    @pytest.mark.parametrize("almost", [1.000001, -1.0, math.nan])
    def test_another_number_does_not(self, almost: float) -> None:
        m = model("g (float[N,4] x) => (float[N,4] y) { y = Mul(x, c) }", c=np.array(almost, F))
        assert drive(m, mul_one)[0] == 0

    def test_minus_zero_is_not_zero(self) -> None:
        @rule(lambda x: x + 0.0)
        def add_zero(x: Tensor) -> Tensor:
            """Adding zero changes nothing but the sign of a zero."""
            return x

        m = model("g (float[4] x) => (float[4] y) { y = Add(x, c) }", c=np.array(-0.0, F))
        assert drive(m, add_zero)[0] == 0

    def test_a_literal_is_rounded_to_the_dtype(self) -> None:
        @rule(lambda x: x * 0.1, bounded=True)
        def tenth(x: Tensor) -> Tensor:
            """A tenth."""
            return op.Neg(x)

        for dtype, name in ((np.float16, "float16"), (np.float32, "float"), (np.float64, "double")):
            m = model(f"g ({name}[4] x) => ({name}[4] y) {{ a = Mul(x, c) y = Abs(a) }}", c=np.array(0.1, dtype))
            assert drive(m, tenth)[0] == 1

    def test_approx_must_be_asked_for(self) -> None:
        @rule(lambda x: x * approx(1.4142, rtol=1e-4))
        def root(x: Tensor) -> Tensor:
            """Times about the root of two is gone, which is wrong, but a test of matching."""
            return x

        m = model("g (float[4] x) => (float[4] y) { y = Mul(x, c) }", c=np.array(math.sqrt(2), F))
        assert drive(m, root)[0] == 1

    def test_an_integer_literal_never_matches_a_fraction(self) -> None:
        @rule(lambda x: x * 1.5)
        def half_more(x: Tensor) -> Tensor:
            """Half as much again."""
            return x

        m = model("g (int64[4] x) => (int64[4] y) { y = Mul(x, c) }", c=np.array(1, np.int64))
        assert drive(m, half_more)[0] == 0


class TestContracts:
    def test_type_broadcasting_declines(self) -> None:
        m = model("g (float[1,4] x) => (float[3,4] y) { y = Mul(x, c) }", c=np.ones((3, 4), F))
        count, stats = drive(m, mul_one)
        assert count == 0
        assert reasons(stats) == ["the shape of the replacement is not provably the same: [3, 4] becomes [1, 4]"]

    def test_type_symbolic_dims_are_compared_by_name(self) -> None:
        m = model("g (float[N,1] x) => (float[N,1] y) { a = Mul(x, c) y = Neg(a) }", c=np.ones((1, 1), F))
        assert drive(m, mul_one)[0] == 1

    def test_fan_out_declines(self) -> None:
        text = """g (float[4] x) => (float[4] y, float[4] z) {
            s = Div(x, r) e = Erf(s) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) z = Neg(e) }"""
        m = model(text, r=F(math.sqrt(2)), one=F(1), half=F(0.5))
        count, stats = drive(m, gelu_erf)
        assert count == 0
        assert reasons(stats) == ["an interior value has other readers"]

    def test_an_interior_graph_output_declines(self) -> None:
        text = """g (float[4] x) => (float[4] y, float[4] a) {
            s = Div(x, r) e = Erf(s) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) }"""
        m = model(text, r=F(math.sqrt(2)), one=F(1), half=F(0.5))
        assert reasons(drive(m, gelu_erf)[1]) == ["an interior value has other readers"]

    def test_opset_declines(self) -> None:
        text = """g (float[4] x) => (float[4] y) {
            s = Div(x, r) e = Erf(s) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) }"""
        m = model(text, opset=17, r=F(math.sqrt(2)), one=F(1), half=F(0.5))
        count, stats = drive(m, gelu_erf)
        assert count == 0
        assert reasons(stats) == ["Gelu does not exist at opset 17 of the model; it came with 20"]
        assert ops(m) == ["Div", "Erf", "Add", "Mul", "Mul"]

    def test_attributes_not_mentioned_must_have_their_default(self) -> None:
        @rule(lambda x: op.Softmax(x), bounded=True)
        def softmax(x: Tensor) -> Tensor:
            """Something with the default axis."""
            return op.LogSoftmax(x)

        m = model("g (float[2,4] x) => (float[2,4] y) { y = Softmax<axis=0>(x) }")
        assert drive(m, softmax)[0] == 0
        m = model("g (float[2,4] x) => (float[2,4] y) { y = Softmax<axis=-1>(x) }")
        assert drive(m, softmax)[0] == 1

    def test_a_domain_that_the_target_does_not_take_declines(self) -> None:
        ms = Domain("com.microsoft")

        @rule(lambda x: op.Gelu(x), bounded=True)
        def contrib(x: Tensor) -> Tensor:
            """Gelu is also an operator of another domain."""
            return ms.Gelu(x)

        m = model("g (float[4] x) => (float[4] y) { y = Gelu(x) }")
        from graphopt.engine.driver import Driver, RuleStats
        from graphopt.ir.edit import Editor

        stats = RuleStats()
        assert Driver([("contrib", contrib)], Editor(m), domains=frozenset([""]), stats=stats).run() == 0
        assert reasons(stats) == ["the target does not take operators of 'com.microsoft'"]

    def test_a_rule_must_lower_the_cost(self) -> None:
        @rule(lambda x: op.Neg(x))
        def neg_to_sub(x: Tensor) -> Tensor:
            """Negation is subtraction from zero."""
            require(x.rank == 1, "no vector")
            return 0.0 - x

        count, stats = drive(model("g (float[4] x) => (float[4] y) { y = Neg(x) }"), neg_to_sub)
        assert (count, reasons(stats)) == (0, ["the replacement would not be cheaper"])

    def test_a_local_function_of_the_same_name_is_no_operator(self) -> None:
        text = """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
        g (float[4] x) => (float[4] y) { y = local.Relu(x) }
        <opset_import: ["" : 20], domain: "local"> Relu (a) => (b) { b = Neg(a) }"""
        from onnx import parser

        @rule(lambda x: op.Relu(x), bounded=True)
        def relu(x: Tensor) -> Tensor:
            """ONNX's Relu."""
            return op.Abs(x)

        m = graphopt.load(parser.parse_model(text))
        assert drive(m, relu)[0] == 0


class TestMatching:
    def test_every_association_and_order_of_gelu(self) -> None:
        bodies = [
            "p = Mul(x, a) y = Mul(p, half)",
            "p = Mul(half, x) y = Mul(p, a)",
            "p = Mul(a, half) y = Mul(p, x)",
            "p = Mul(a, x) y = Mul(half, p)",
        ]
        for scale, constant in (("Div(x, r)", math.sqrt(2)), ("Mul(r, x)", 1 / math.sqrt(2))):
            for body in bodies:
                m = model(
                    f"g (float[4] x) => (float[4] y) {{ s = {scale} e = Erf(s) a = Add(one, e) {body} }}",
                    r=F(constant), one=F(1), half=F(0.5),
                )  # fmt: skip
                assert drive(m, gelu_erf)[0] == 1, (scale, body)
                assert ops(m) == ["Gelu"]

    def test_total_adds_associations(self) -> None:
        @rule(lambda a, b, c: total(op.Sin(a), op.Cos(b), op.Tan(c)))
        def three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            """Three terms are one Sum."""
            return op.Sum(a, b, c)

        for body in ("t = Add(s, c) y = Add(t, n)", "t = Add(n, c) y = Add(s, t)", "t = Add(n, s) y = Add(c, t)"):
            m = model(f"g (float[4] x) => (float[4] y) {{ s = Sin(x) c = Cos(x) n = Tan(x) {body} }}")
            assert drive(m, three)[0] == 1

    def test_a_repeated_variable_is_the_same_value(self) -> None:
        @rule(lambda x: x + x, bounded=True)
        def double(x: Tensor) -> Tensor:
            """A sum of equals is a product."""
            return x * 2

        assert drive(model("g (float[4] x, float[4] z) => (float[4] y) { y = Add(x, z) }"), double)[0] == 0
        m = model("g (float[4] x) => (float[4] y) { y = Add(x, x) }")
        assert drive(m, double)[0] == 1
        (value,) = (v for v in m.main.initializers)
        assert value.dtype == graphopt.DType.FLOAT
        assert value.array() == 2

    def test_backtracking_reaches_into_alternatives(self) -> None:
        @rule(lambda x, y: (op.Neg(x) | x) + op.Neg(y))
        def sum_of(x: Tensor, y: Tensor) -> Tensor:
            """Only the second alternative of the first operand fits."""
            return x - y

        m = model("g (float[4] x, float[4] z) => (float[4] y) { n = Neg(x) y = Add(n, z) }")
        assert drive(m, sum_of)[0] == 1
        assert [(n.op, [v.name for v in n.inputs if v]) for n in m.main.nodes] == [("Sub", ["z", "x"])]

    def test_what_only_the_other_branch_binds_is_none(self) -> None:
        @rule(lambda x, c: op.Relu(x * c | x), bounded=True)
        def relu(x: Tensor, c: Const) -> Tensor:
            """A relu, scaled or not."""
            return op.Abs(x) if c is None else op.Neg(x)

        m = model("g (float[4] x) => (float[4] y) { y = Relu(x) }")
        assert drive(m, relu)[0] == 1
        assert ops(m) == ["Abs"]

    def test_const_refuses_an_overridable_initializer(self) -> None:
        @rule(lambda x, c: x * c)
        def drop(x: Tensor, c: Const) -> Tensor:
            """Wrong, but a test of Const."""
            return x

        def pattern(x: Tensor, c: Const) -> Tensor:
            return x * c

        @rule(pattern)
        def drop_const(x: Tensor, c: Const) -> Tensor:
            """Wrong, but a test of Const."""
            return x

        text = "g (float[4] x, float[4] c) => (float[4] y) { y = Mul(x, c) }"
        assert drive(model(text, c=np.ones(4, F)), drop_const)[0] == 0
        assert drive(model(text.replace(", float[4] c", ""), c=np.ones(4, F)), drop_const)[0] == 1

    def test_several_left_sides(self) -> None:
        @rule(lambda x: op.Neg(op.Neg(x)), lambda x: op.Not(op.Not(x)), accuracy="exact")
        def involution(x: Tensor) -> Tensor:
            """Twice is never."""
            return x

        m = model("g (float[4] x, bool[4] p) => (float[4] y, bool[4] q) "
                  "{ a = Neg(x) b = Neg(a) y = Abs(b) c = Not(p) d = Not(c) q = And(d, d) }")
        assert drive(m, involution)[0] == 2
        assert ops(m) == ["Abs", "And"]

    def test_several_outputs_are_found_forward(self) -> None:
        @rule(lambda x, a, b: (x @ a, x @ b), single_use=False, bounded=True)
        def wide(x: Tensor, a: Tensor, b: Tensor) -> Any:
            """Two products with one operand are one wider product."""
            for w in (a, b):
                require(w.is_const and w.rank == 2, "the weights must be constant matrices")
            return op.Split(x @ op.Concat(a, b, axis=1), [3, 5], axis=-1, nout=2)

        m = model("g (float[2,4] x) => (float[2,3] y, float[2,5] z) { y = MatMul(x, a) z = MatMul(x, b) }",
                  a=np.ones((4, 3), F), b=np.ones((4, 5), F))
        assert drive(m, wide)[0] == 1
        assert ops(m) == ["MatMul", "Split"]
        assert [o.name for o in m.main.outputs] == ["y", "z"]
        check_uses(m)

    def test_outputs_of_one_operator(self) -> None:
        @rule(lambda x: op.Split(x, [2, 2], nout=2), bounded=True)
        def split(x: Tensor) -> Any:
            """Not a real rule."""
            return op.Split(x, [2, 2], axis=0, nout=2)

        def pattern(x: Tensor, s: Const) -> Any:
            return op.Split(x, s, nout=2, axis=0)

        @rule(pattern, once=True)
        def halves(x: Tensor, s: Const) -> Any:
            """Halves are swapped, which is wrong, but a test of matching."""
            a, b = op.Split(x, s, axis=0, nout=2)
            return b, a

        m = model("g (float[4] x) => (float[2] y, float[2] z) { y, z = Split<axis=0>(x, s) }", s=np.array([2, 2]))

        assert drive(m, halves)[0] == 1
        assert [o.index for o in m.main.outputs] == [1, 0]


class TestLowering:
    def test_constants_are_computed_and_the_bias_appears(self) -> None:
        rng = np.random.default_rng(0)
        constants = {
            "w": rng.standard_normal((6, 3, 3, 3)).astype(F), "g": rng.standard_normal(6).astype(F),
            "b": rng.standard_normal(6).astype(F), "m": rng.standard_normal(6).astype(F),
            "v": np.abs(rng.standard_normal(6)).astype(F) + F(0.1),
        }  # fmt: skip
        m = model("g (float[N,3,8,8] x) => (float[N,6,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) "
                  "y = BatchNormalization<epsilon=0.01>(c, g, b, m, v) }", **constants)
        assert drive(m, conv_bn)[0] == 1
        assert ops(m) == ["Conv"]
        (conv,) = m.main.nodes
        assert conv.attrs["pads"] == [1, 1, 1, 1] or tuple(conv.attrs["pads"]) == (1, 1, 1, 1)
        k = constants["g"].astype(np.float64) / np.sqrt(constants["v"].astype(np.float64) + F(0.01))
        weight, bias = conv.inputs[1], conv.inputs[2]
        assert weight is not None and bias is not None
        np.testing.assert_allclose(weight.array(), constants["w"] * k.reshape(-1, 1, 1, 1), rtol=1e-6)
        np.testing.assert_allclose(bias.array(), constants["b"] - constants["m"] * k, rtol=1e-5, atol=1e-6)
        assert {v.name for v in m.main.initializers} == {weight.name, bias.name}, "the old constants are gone"

    def test_provenance(self) -> None:
        m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Neg(a) }")

        @rule(lambda x: op.Neg(op.Neg(x)), bounded=True)
        def twice(x: Tensor) -> Tensor:
            """Not a real rule."""
            return op.Abs(x)

        for i, node in enumerate(m.main.nodes):
            node._raw.name = f"n{i}"
            node._raw.metadata_props["pkg"] = f"p{i}"
        drive(m, twice)
        (node,) = m.main.nodes
        assert dict(node.metadata) == {"pkg": "p1, p0", "graphopt.rule": "twice", "graphopt.from": "n1, n0"}

    def test_undefined_arithmetic_declines(self) -> None:
        def pattern(x: Tensor, c: Const) -> Tensor:
            return op.Div(op.Div(x, c), c)

        @rule(pattern)
        def div(x: Tensor, c: Const) -> Tensor:
            """Not a real rule."""
            return op.Mul(x, op.Div(c, 0))

        m = model("g (int64[4] x) => (int64[4] y) { a = Div(x, c) y = Div(a, c) }", c=np.array(2, np.int64))
        count, stats = drive(m, div)
        assert count == 0
        assert reasons(stats)[0].startswith("Div of constants: ")
