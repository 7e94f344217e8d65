"""The rule language: operands in any number, several outputs, alternatives within both, matching in bodies."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt import ANY, Attr, Const, Node, Rule, RuleError, Tensor, many, op, product, require, rule, rules_in
from tests.unit.engine import check_uses, drive, model, ops, reasons

F = np.float32


def relu_of_each(xs: list[Tensor], a: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, each=op.Relu), axis=a)


@rule(relu_of_each, bounded=True)
def relu_after_concat(xs: list[Tensor], a: int) -> Tensor:
    """Relu of each operand of a Concat is Relu of the Concat."""
    return op.Relu(op.Concat(*xs, axis=a))


class TestMany:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_binds_a_list_of_any_length(self, count: int) -> None:
        body = " ".join(f"r{i} = Relu(x{i})" for i in range(count))
        inputs = ", ".join(f"float[2] x{i}" for i in range(count))
        m = model(f"g ({inputs}) => (float[N] y) {{ {body} y = Concat<axis=0>({', '.join(f'r{i}' for i in range(count))}) }}")
        assert drive(m, relu_after_concat)[0] == 1
        assert ops(m) == ["Concat", "Relu"]
        concat = next(iter(m.main.nodes))
        assert [v.name for v in concat.inputs if v] == [f"x{i}" for i in range(count)]
        assert concat.attr("axis") == 0
        check_uses(m)

    def test_an_operand_that_stands_there_twice_is_bound_twice(self) -> None:
        m = model("g (float[2] x, float[2] z) => (float[6] y) { a = Relu(x) b = Relu(z) y = Concat<axis=0>(a, b, a) }")
        assert drive(m, relu_after_concat)[0] == 1
        concat = next(iter(m.main.find("Concat")))
        assert [v.name for v in concat.inputs if v] == ["x", "z", "x"]
        check_uses(m)

    def test_every_operand_must_match(self) -> None:
        m = model("g (float[2] x, float[2] z) => (float[4] y) { a = Relu(x) b = Abs(z) y = Concat<axis=0>(a, b) }")
        assert drive(m, relu_after_concat)[0] == 0

    def test_an_interior_value_with_another_reader_declines(self) -> None:
        m = model("g (float[2] x, float[2] z) => (float[4] y, float[2] b) { a = Relu(x) b = Relu(z) y = Concat<axis=0>(a, b) }")
        count, stats = drive(m, relu_after_concat)
        assert count == 0
        assert reasons(stats) == ["an interior value has other readers"]

    def test_several_lists_run_in_parallel(self) -> None:
        def scaled_terms(xs: list[Tensor], cs: list[Const]) -> Tensor:
            return op.Sum(*many(xs, cs, each=lambda x, c: x * c))

        @rule(scaled_terms, bounded=True)
        def scaled_sum(xs: list[Tensor], cs: list[Tensor]) -> Tensor:
            """A sum of scaled terms with one scale is a scaled sum."""
            require(len({c.scalar for c in cs}) == 1, "the scales differ")
            return op.Sum(*xs) * cs[0]

        text = "g (float[2] x, float[2] z) => (float[2] y) { a = Mul(x, p) b = Mul(q, z) y = Sum(a, b) }"
        m = model(text, p=F(2), q=F(2))
        assert drive(m, scaled_sum)[0] == 1
        assert ops(m) == ["Sum", "Mul"]
        assert reasons(drive(model(text, p=F(2), q=F(3)), scaled_sum)[1]) == ["the scales differ"]

    def test_another_variable_of_the_pattern_is_the_same_for_all(self) -> None:
        def shifted(xs: list[Tensor], s: Tensor) -> Tensor:
            return op.Max(*many(xs, each=lambda x: x + s))

        @rule(shifted)
        def max_shift(xs: list[Tensor], s: Tensor) -> Tensor:
            """The largest of shifted values is the shifted largest."""
            return op.Max(*xs) + s

        text = "g (float[2] x, float[2] z, float[2] s, float[2] t) => (float[2] y) {{ a = Add(x, s) b = Add({}, z) y = Max(a, b) }}"
        assert drive(model(text.format("s")), max_shift)[0] == 1
        assert drive(model(text.format("t")), max_shift)[0] == 0

    def test_backtracking_reaches_through_the_list(self) -> None:
        """The order that was right for the first operand alone is not right for both."""

        def with_common(xs: list[Tensor], s: Tensor) -> Tensor:
            return op.Max(*many(xs, each=lambda x: op.Mul(s, x)))

        @rule(with_common, single_use=False)
        def common(xs: list[Tensor], s: Tensor) -> Tensor:
            """Shows what was bound."""
            return op.Concat(s, axis=0)

        m = model("g (float[2] p, float[2] q, float[2] r) => (float[2] y) { a = Mul(p, q) b = Mul(r, q) y = Max(a, b) }")
        drive(m, common)
        assert [v.name for v in next(iter(m.main.nodes)).inputs if v] == ["q"]

    def test_after_fixed_operands_with_captured_nodes_and_attributes(self) -> None:
        def first_is_constant(c: Const, xs: list[Tensor], ns: list[Node], to: list[Attr[int]], a: Attr[int]) -> Tensor:
            cast = lambda x, n, t: n.bind(op.Cast(x, to=t))  # noqa: E731
            return op.Concat(c, *many(xs, ns, to, each=cast), axis=a)

        seen: list[Any] = []

        @rule(first_is_constant)
        def shown(c: Tensor, xs: list[Tensor], ns: list[Node], to: list[int], a: int) -> Tensor:
            """Shows what was bound."""
            seen.append((c.scalar, [x.name for x in xs], [n.op for n in ns], to, a))
            require(False, "enough")
            return c

        text = "g (int32[1] x, int64[1] z) => (float[3] y) { a = Cast<to=1>(x) b = Cast<to=1>(z) y = Concat<axis=0>(c, a, b) }"
        drive(model(text, c=np.array([7], F)), shown)
        assert seen == [(7.0, ["x", "z"], ["Cast", "Cast"], [1, 1], 0)]

    def test_an_operator_without_operands_there_does_not_match(self) -> None:
        @rule(lambda x, xs: op.Concat(x, *many(xs), axis=0))
        def joined(x: Tensor, xs: list[Tensor]) -> Tensor:
            """Never for a single operand."""
            return x

        assert drive(model("g (float[2] x) => (float[2] y) { y = Concat<axis=0>(x) }"), joined)[0] == 0

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            (lambda xs, y: op.Concat(*many(xs), y, axis=0), "many(…) stands for all further operands, so it must be the last one"),
            (lambda xs, y: op.Concat(*many(xs, y), axis=0), "many() of more than one list needs each=…"),
            (lambda xs, y: op.Concat(*many(xs, each=lambda: y), axis=0), "must be a function of 1 variables"),
            (lambda xs, y: op.Concat(*many(xs, each=lambda x: 3), axis=0), "must return one tensor expression"),
            (lambda xs, y: op.Concat(*many(xs * y), axis=0), "takes parameters of the pattern"),
            (lambda xs, y: op.Concat(*many(), axis=0), "needs a parameter of the pattern"),
        ],
    )
    def test_misuse_is_an_error_at_once(self, pattern: Any, text: str) -> None:
        with pytest.raises(RuleError) as caught:
            rule(pattern)(lambda xs, y: y)
        assert text in str(caught.value)
        assert "test_language.py:" in str(caught.value)


class TestDefinition:
    """What is wrong with a rule is said when it is defined."""

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            (lambda x: op.Softmax(x, axis="1"), "the attribute 'axis' of Softmax is an int, not '1'"),
            (lambda x: op.Softmax(x, axis=1.5), "the attribute 'axis' of Softmax is an int, not 1.5"),
            (lambda x: op.Transpose(x, perm=1), "the attribute 'perm' of Transpose is a list of ints, not 1"),
            (lambda x: op.LeakyRelu(x, alpha="a"), "the attribute 'alpha' of LeakyRelu is a float, not 'a'"),
            (lambda x: op.Gelu(x, approximate=1), "the attribute 'approximate' of Gelu is a str, not 1"),
            (lambda x: op.Softmax(x, axes=1), "Softmax has no attribute 'axes'"),
            (lambda x: op.Softmx(x), "there is no operator 'Softmx'"),
        ],
    )
    def test_attributes_and_operators_of_the_pattern(self, pattern: Any, text: str) -> None:
        with pytest.raises(RuleError) as caught:
            rule(pattern)(lambda x: x)
        assert text in str(caught.value)

    def test_the_annotation_of_a_captured_attribute(self) -> None:
        def pattern(x: Tensor, eps: Attr[str]) -> Tensor:
            return op.InstanceNormalization(x, x, x, epsilon=eps)

        with pytest.raises(RuleError, match="'epsilon' of InstanceNormalization is a float, not the parameter 'eps' captures str"):
            rule(pattern)(lambda x, eps: x)

    def test_attributes_and_operators_of_the_replacement(self) -> None:
        with pytest.raises(RuleError, match="Softmax has no attribute 'axes'"):
            rule(lambda x: op.Exp(x))(lambda x: op.Softmax(x, axes=1))

        def asks_for_facts(x: Tensor) -> Tensor:
            require(x.rank == 2, "no matrix")
            return op.Rleu(x)

        with pytest.raises(RuleError, match="there is no operator 'Rleu'\n  did you mean 'Relu'"):
            rule(lambda x: op.Exp(x))(asks_for_facts)

    @pytest.mark.parametrize(
        ("pattern", "replacement"),
        [
            (lambda x, y: x + y, lambda x, y: y + x),
            (lambda x, y, z: x + y + z, lambda x, y, z: x + (y + z)),
            (lambda x: op.Relu(x), lambda x: op.Relu(op.Relu(x))),
            (lambda x: op.Softmax(x, axis=1), lambda x: op.Neg(op.Softmax(op.Neg(x), axis=1))),
            (lambda x: op.Abs(x) | op.Neg(x), lambda x: op.Neg(x)),
        ],
    )
    def test_a_replacement_that_its_own_pattern_matches(self, pattern: Any, replacement: Any) -> None:
        with pytest.raises(RuleError, match="the pattern matches its own replacement again, so rewriting would not end"):
            rule(pattern)(replacement)
        assert isinstance(rule(pattern, once=True)(replacement), Rule)
        assert isinstance(rule(pattern, bounded=True)(replacement), Rule)

    @pytest.mark.parametrize(
        ("pattern", "replacement"),
        [
            (lambda x: op.Relu(op.Relu(x)), lambda x: op.Relu(x)),
            (lambda x: op.Exp(op.Softmax(x, axis=1)), lambda x: op.Softmax(x, axis=2)),
            (lambda x: op.Neg(x * 2), lambda x: x * 3),
        ],
    )
    def test_a_replacement_that_it_does_not_match(self, pattern: Any, replacement: Any) -> None:
        assert isinstance(rule(pattern)(replacement), Rule)

    def test_a_replacement_of_as_many_operators_would_never_be_applied(self) -> None:
        with pytest.raises(RuleError, match="the replacement has as many operators as the pattern"):
            rule(lambda x, y: x - y)(lambda x, y: x + -y)
        assert isinstance(rule(lambda x, y: x - y, bounded=True)(lambda x, y: x + -y), Rule)

    def test_once_applies_to_each_node_once(self) -> None:
        @rule(lambda x, y: op.Mul(x, y), once=True)
        def turned(x: Tensor, y: Tensor) -> Tensor:
            """A product is the same the other way round."""
            return op.Mul(y, x)

        m = model("g (float[2] x, float[2] z) => (float[2] y) { a = Mul(x, z) y = Mul(a, z) }")
        assert drive(m, turned)[0] == 2
        assert [[v.name for v in n.inputs if v] for n in m.main.nodes] == [["z", "x"], ["z", "a"]]

    def test_hints_of_something_that_is_no_parameter(self) -> None:
        with pytest.raises(RuleError, match="shapes= speaks of 'w', which is no parameter"):
            rule(lambda x: op.Exp(x), shapes={"w": "N"})(lambda x: op.Abs(x))

    def test_an_unknown_accuracy(self) -> None:
        with pytest.raises(RuleError, match="there is no accuracy class 'exakt'\n  did you mean 'exact'"):
            rule(lambda x: op.Exp(x), accuracy="exakt")(lambda x: op.Abs(x))  # type: ignore[arg-type]

    def test_left_sides_with_different_numbers_of_outputs(self) -> None:
        with pytest.raises(RuleError, match="its patterns have 1 and 2 outputs"):
            rule(lambda x: op.Exp(x), lambda x: (op.Sin(x), op.Cos(x)))(lambda x: op.Abs(x))

    def test_a_product_with_too_many_associations(self) -> None:
        with pytest.raises(RuleError, match=r"product\(\) of 7 operands has too many associations"):
            rule(lambda a, b, c, d, e, f, g: product(a, b, c, d, e, f, g))(lambda a, b, c, d, e, f, g: a)

    def test_a_pattern_that_raises(self) -> None:
        with pytest.raises(RuleError, match=r"<lambda> \(test_language.py:\d+\): the pattern raised NameError: name 'nope'"):
            rule(lambda x: nope(x))(lambda x: x)  # type: ignore[name-defined]  # noqa: F821

    def test_two_rules_of_one_name_in_a_module(self, tmp_path: Path) -> None:
        import importlib.util

        source = '''
            from graphopt import op, rule

            @rule(lambda x: op.Abs(op.Abs(x)))
            def again(x):
                """Abs twice is Abs."""
                return op.Abs(x)

            @rule(lambda x: op.Relu(op.Relu(x)))
            def again(x):
                """Relu twice is Relu."""
                return op.Relu(x)
        '''
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.raises(RuleError, match=r"two rules are called 'again': again \(mine.py:4\) and again \(mine.py:9\)"):
            spec.loader.exec_module(module)
        path.write_text(textwrap.dedent(source).replace("def again(x):\n    \"\"\"Relu", "def other(x):\n    \"\"\"Relu"))
        spec.loader.exec_module(module)  # executed again, with other lines, the module is fine
        assert [r.name for r in rules_in(module)] == ["again", "other"]

    def test_any_attribute_and_optional_operand(self) -> None:
        def pattern(x: Tensor, low: Const | None) -> Tensor:
            return op.Relu(op.Clip(x, low))

        @rule(pattern)
        def clipped(x: Tensor, low: Tensor | None) -> Tensor:
            """Relu after Clip from below."""
            return op.Clip(x, 0.0 if low is None else low)

        assert drive(model("g (float[2] x) => (float[2] y) { c = Clip(x) y = Relu(c) }"), clipped)[0] == 1
        m = model("g (float[2] x) => (float[2] y) { c = Clip(x, l) y = Relu(c) }", l=F(1))
        assert drive(m, clipped)[0] == 1
        m = model("g (float[2] x) => (float[2] y) { c = Clip(x, l, h) y = Relu(c) }", l=F(1), h=F(2))
        assert drive(m, clipped)[0] == 0
        assert isinstance(rule(lambda x: op.Abs(op.Softmax(x, axis=ANY)))(lambda x: op.Exp(x)), Rule)
