"""Patterns of several outputs, choices between matches, and details of what matches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as oir
import pytest

import graphopt
from graphopt import Domain, RuleError, Tensor, op, require, rule
from tests.unit.engine import check_uses, drive, model, ops, reasons

F = np.float32


class TestSeveralOutputs:
    def test_unpacking(self) -> None:
        a, b = op.Split(op.Relu(1), nout=2)
        assert isinstance(a, Tensor)
        assert op.Split(a, nout=3)[2] is not b

    def test_an_operand_must_be_one_tensor(self) -> None:
        with pytest.raises(TypeError, match="the operand has 2 outputs: unpack it"):
            op.Relu(op.Split(op.Relu(1), nout=2))
        with pytest.raises(TypeError, match="this is one tensor, and nothing to unpack"):
            _, _ = op.Relu(1)

    def test_a_further_output_is_found_behind_several_operators(self) -> None:
        @rule(lambda x: (op.Sin(x), op.Neg(op.Abs(op.Cos(x)))))
        def far(x: Tensor) -> tuple[Tensor, Tensor]:
            """Two outputs, three operators apart."""
            return op.Sinh(x), op.Cosh(x)

        m = model("g (float[2] x) => (float[2] y, float[2] z) { c = Cos(x) a = Abs(c) y = Sin(x) z = Neg(a) }")
        assert drive(m, far)[0] == 1
        assert sorted(ops(m)) == ["Cosh", "Sinh"]
        check_uses(m)

    def test_outputs_may_share_an_inner_operator(self) -> None:
        def pattern(x: Tensor) -> tuple[Tensor, Tensor]:
            h = op.Exp(x)
            return op.Sin(h), op.Cos(h)

        @rule(pattern)
        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            """Sine and cosine of one exponential."""
            return op.Sinh(x), op.Cosh(x)

        shared = "g (float[2] x) => (float[2] y, float[2] z) { h = Exp(x) y = Sin(h) z = Cos(h) }"
        twice = "g (float[2] x) => (float[2] y, float[2] z) { h = Exp(x) i = Exp(x) y = Sin(h) z = Cos(i) }"
        assert drive(model(shared), both)[0] == 1
        assert drive(model(twice), both)[0] == 0

    @pytest.mark.parametrize("last", ["Cos", "Tan"])
    def test_a_further_output_may_have_alternatives(self, last: str) -> None:
        @rule(lambda x: (op.Sin(x), op.Cos(x) | op.Neg(op.Tan(x)) | op.Tan(x)), bounded=True)
        def either(x: Tensor) -> tuple[Tensor, Tensor]:
            """The second output in three forms."""
            return op.Sinh(x), op.Cosh(x)

        m = model(f"g (float[2] x) => (float[2] y, float[2] z) {{ y = Sin(x) z = {last}(x) }}")
        assert drive(m, either)[0] == 1
        assert sorted(ops(m)) == ["Cosh", "Sinh"]

    def test_an_alternative_that_is_not_connected_is_an_error(self) -> None:
        with pytest.raises(RuleError, match="the outputs of the pattern are not connected"):
            rule(lambda x, z: (op.Sin(x), op.Cos(x) | op.Cos(z)))(lambda x, z: (x, z))

    def test_three_projections_share_a_product(self) -> None:
        @rule(lambda x, a, b, c: (x @ a, x @ b, x @ c), single_use=False, bounded=True)
        def one_product(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Three products with one left factor are parts of one."""
            for w in (a, b, c):
                require(w.is_const and w.rank == 2, "the weights are no constant matrices")
            p, q, r = op.Split(x @ op.Concat(a, b, c, axis=1), [2, 2, 2], axis=-1, nout=3)
            return p, q, r

        w = {k: np.ones((4, 2), F) for k in "abc"}
        m = model(
            "g (float[3,4] x) => (float[3,2] p, float[3,2] q, float[3,2] r)"
            " { p = MatMul(x, a) q = MatMul(x, b) r = MatMul(x, c) }", **w,
        )  # fmt: skip
        assert drive(m, one_product)[0] == 1
        assert ops(m) == ["MatMul", "Split"]


class TestChoice:
    def test_a_match_that_is_declined_gives_way_to_the_next(self) -> None:
        """Either operand may be x; `require` says which."""

        @rule(lambda x, y: x * y)
        def squared(x: Tensor, y: Tensor) -> Tensor:
            """A product with a vector of one element."""
            require(y.rank == 0, "y is no scalar")
            return op.Identity(x)

        for body in ("y = Mul(x, s)", "y = Mul(s, x)"):
            m = model(f"g (float[2] x, float s) => (float[2] y) {{ {body} }}")
            assert drive(m, squared)[0] == 1, body
            assert [v.name for v in next(iter(m.main.nodes)).inputs if v] == ["x"]

    def test_one_reason_is_counted_for_a_root(self) -> None:
        @rule(lambda x, y: x * y)
        def never(x: Tensor, y: Tensor) -> Tensor:
            """Never applies."""
            require(False, "no")
            return x

        _, stats = drive(model("g (float[2] x, float[2] z) => (float[2] y) { y = Mul(x, z) }"), never)
        assert stats.declined == {"never": {"no": 1}}

    def test_in_a_body_captured_values_are_leaves_and_not_interior(self) -> None:
        @rule(lambda x: op.Neg(op.Neg(x)), single_use=False)
        def twice(x: Tensor) -> Tensor:
            """Twice negated is as before."""
            return x

        m = model(
            """g (bool c, float[2] x) => (float[2] y) {
              n = Neg(x)
              y = If (c) <then_branch = t () => (float[2] a) { a = Neg(n) },
                          else_branch = e () => (float[2] b) { p = Neg(n) q = Neg(p) b = Abs(q) }>
            }"""
        )
        assert drive(m, twice)[0] == 1  # within the else branch, of the captured n; never across its border
        assert [sorted(n.op for n in g.nodes) for g in m.graphs()] == [["If", "Neg"], ["Neg"], ["Abs"]]
        inner = list(m.graphs())[2]
        assert [v.name for v in next(iter(inner.nodes)).inputs if v] == ["n"]

    def test_another_domain_only_for_targets_that_take_it(self) -> None:
        @rule(lambda x: Domain("com.microsoft").FastGelu(x), bounded=True)
        def fast(x: Tensor) -> Tensor:
            """A pattern of another domain."""
            return op.Gelu(x, approximate="tanh")

        assert fast.patterns[0].roots == {("com.microsoft", "FastGelu")}


class TestMatchingDetails:
    @pytest.mark.parametrize(
        ("axes", "fires"),
        [
            (np.array([2]), True),
            (np.array([2], np.int32), True),
            (np.array([1]), False),
            (np.array(2), False),
            (np.array([2, 2]), False),
            (np.array([True]), False),
        ],
    )
    def test_a_list_matches_a_constant_of_these_elements(self, axes: Any, fires: bool) -> None:
        @rule(lambda x: op.Neg(op.Concat(x, [2], axis=0)))
        def listed(x: Tensor) -> Tensor:
            """Only to see whether it matches."""
            require(False, "matched")
            return x

        m = graphopt.load(onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (int64[N] x) => (int64[M] y) { y = Neg(x) }'))
        constant = oir.Value(name="c", const_value=oir.tensor(axes))
        constant.type = oir.TensorType(oir.DataType.from_numpy(axes.dtype))
        concat = oir.node("Concat", [m.ir.graph.inputs[0], constant], {"axis": 0})
        neg = next(iter(m.ir.graph))
        m.ir.graph.register_initializer(constant)
        m.ir.graph.insert_before(neg, concat)
        neg.replace_input_with(0, concat.outputs[0])
        stats = drive(graphopt.Model(m.ir), listed)[1]
        assert reasons(stats) == (["matched"] if fires else [])

    @pytest.mark.parametrize("body", ["y = Mul(q, r)", "y = Mul(r, q)"])
    def test_two_outputs_of_one_operator_as_operands(self, body: str) -> None:
        def pattern(x: Tensor) -> Tensor:
            q, r = op.Split(x, [2, 2], nout=2, axis=0)
            return op.Neg(q * r)

        @rule(pattern)
        def halves(x: Tensor) -> Tensor:
            """Only to see whether it matches."""
            require(False, "matched")
            return x

        m = model(f"g (float[4] x) => (float[2] z) {{ q, r = Split<axis=0>(x, s) {body} z = Neg(y) }}", s=np.array([2, 2]))
        assert reasons(drive(m, halves)[1]) == ["matched"]


class TestExactness:
    @pytest.mark.parametrize(("accuracy", "left"), [("exact", ["Exp", "Neg"]), ("close", [])])
    def test_what_is_constant_by_chance_is_not_computed_by_an_exact_rule(self, accuracy: Any, left: list[str]) -> None:
        @rule(lambda x: op.Neg(op.Neg(op.Neg(op.Exp(x)))), accuracy=accuracy)
        def odd(x: Tensor) -> Tensor:
            """Three times negated is negated once."""
            return op.Neg(op.Exp(x))

        m = model("g (float[2] z) => (float[2] y) { e = Exp(c) p = Neg(e) q = Neg(p) r = Neg(q) y = Add(r, z) }", c=np.ones(2, F))
        assert drive(m, odd)[0] == 1
        assert ops(m) == [*left, "Add"]
