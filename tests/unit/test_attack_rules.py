"""Rules as people write them who do not know what the language expects, and patterns that are easily matched wrong."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt import Attr, Node, Rule, RuleError, Tensor, approx, many, op, product, rule
from graphopt.check.golden import run_cases
from graphopt.check.golden_find import find_cases
from graphopt.engine.rules_file import load_rules_file
from graphopt.errors import UsageError
from graphopt.ir.interval import interval
from graphopt.rules.trace import trace
from tests.unit.engine import drive, model, ops

F = np.float32
CELL = "<ipython-input-1-abc>"


def defined(source: str, *, future: bool) -> dict[str, Any]:
    """What a module defines, with annotations that are evaluated or are not."""
    head = "from __future__ import annotations\n" if future else ""
    head += "from collections.abc import Sequence\nfrom typing import Any, Optional, Union\n"
    head += "from graphopt import Attr, Const, Const as C, Tensor, op, rule\n"
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(head + source, CELL, "exec", dont_inherit=True), scope)
    return scope


class TestWhatStandsAtSeveralPlaces:
    """A choice that failed is not tried again, but only if the next one makes no difference to the rest."""

    @pytest.mark.parametrize("operands", ["x, z", "z, x"])
    def test_a_parameter_of_two_outputs(self, operands: str) -> None:
        @rule(lambda a, b: (a * b, op.Abs(b)))
        def pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return a, b

        m = model(f"g (float[2] x, float[2] z) => (float[2] y, float[2] w) {{ y = Mul({operands}) w = Abs(z) }}")
        assert drive(m, pair)[0] == 1

    @pytest.mark.parametrize("operands", ["x, z", "z, x"])
    def test_a_parameter_inside_of_a_class_of_operators(self, operands: str) -> None:
        @rule(lambda a, b: op.Neg(op.any("Add", "Mul")(a, b) * b))
        def any_sum(a: Tensor, b: Tensor) -> Tensor:
            return op.Sub(a, b)

        m = model(f"g (float[2] x, float[2] z) => (float[2] y) {{ s = Mul({operands}) p = Mul(s, z) y = Neg(p) }}")
        assert drive(m, any_sum)[0] == 1

    @pytest.mark.parametrize("operands", ["x, z", "z, x"])
    def test_alternatives_as_a_whole(self, operands: str) -> None:
        def twice(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            either = a | op.Neg(b)
            return (either + c) * op.Exp(either)

        @rule(twice)
        def shared(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return op.Sub(a, c)

        m = model(f"g (float[2] x, float[2] z) => (float[2] y) {{ s = Add({operands}) e = Exp(z) y = Mul(s, e) }}")
        assert drive(m, shared)[0] == 1

    def test_an_outer_expression_in_each_operand_of_many(self) -> None:
        def differences(xs: list[Tensor], c: Tensor) -> Tensor:
            e = op.Exp(c)
            return op.Sum(*many(xs, each=lambda x: x - e)) * e

        @rule(differences)
        def outer(xs: list[Tensor], c: Tensor) -> Tensor:
            return op.Sum(*xs)

        text = """g (float[2] a, float[2] b, float[2] c) => (float[2] y) {{
            e = Exp(c) f = Exp(a) p = Sub(a, e) q = Sub(b, {0}) s = Sum(p, q) y = Mul({1}, s) }}"""
        assert [drive(model(text.format(*names)), outer)[0] for names in (("e", "e"), ("f", "e"), ("e", "f"))] == [1, 0, 0]


class TestOperatorsThatArriveLate:
    """A rule that needs an operator which only another rule makes is not forgotten, however that makes it."""

    @pytest.mark.parametrize("make", [
        lambda x: functools.reduce(operator.add, [x, x]),
        lambda x: getattr(op, "".join(["A", "dd"]))(x, x),
        lambda x: operator.iadd(x, 1),
    ])  # fmt: skip
    def test_in_one_run(self, make: Callable[[Tensor], Tensor]) -> None:
        @rule(lambda x: op.Neg(op.Exp(op.Neg(x))))
        def first(x: Tensor) -> Tensor:
            return make(x)

        @rule(lambda x, y: op.Relu(x + y))
        def second(x: Tensor, y: Tensor) -> Tensor:
            return x

        m = model("g (float[2] x) => (float[2] y) { a = Neg(x) b = Exp(a) c = Neg(b) d = Relu(c) y = Abs(d) }")
        assert drive(m, first, second)[0] == 2
        assert ops(m) == ["Abs"]
        assert drive(m, first, second)[0] == 0


class TestAnnotations:
    @pytest.mark.parametrize("future", [True, False])
    @pytest.mark.parametrize(("note", "const", "optional"), [
        ("Const", True, False), ("Const | None", True, True), ('"Const | None"', True, True), ("Optional[Const]", True, True),
        ("Union[Const, None]", True, True), ("C", True, False), ("C | None", True, True), ("list[C]", True, False),
        ("Tensor", False, False), ("Tensor | None", False, True), ("Optional[Tensor]", False, True), ("Any", False, False),
        ("Sequence[Tensor]", False, False),
    ])  # fmt: skip
    def test_of_tensors(self, note: str, const: bool, optional: bool, future: bool) -> None:
        made: Rule[Any] = defined(f"def p(x, a: {note}): return op.Relu(op.Clip(x, a))\n"
                                  f"@rule(p)\ndef r(x, a): return op.Clip(x, 0.0)\n", future=future)["r"]  # fmt: skip
        assert made.where == f"r ({CELL}:{5 + future})"
        m = model("g (float[2] x, float c) => (float[2] y) { a = Clip(x, c) y = Relu(a) }")
        assert drive(m, made)[0] == (not const)
        assert drive(model("g (float[2] x) => (float[2] y) { a = Clip(x) y = Relu(a) }"), made)[0] == optional

    @pytest.mark.parametrize("future", [True, False])
    @pytest.mark.parametrize("note", [
        "Attr[list[int]]", "Attr[list[int] | None]", "Attr[Sequence[int]]", "Attr[tuple[int, ...]]", "Attr[Any]",
        "Attr[list[int]] | None", '"Attr[list[int]]"',
    ])  # fmt: skip
    def test_of_attributes(self, note: str, future: bool) -> None:
        source = f"def p(x, a: {note}): return op.Relu(op.Transpose(x, perm=a))\nseen = []\n"
        source += "@rule(p)\ndef r(x, a):\n    seen.append(a)\n    return op.Transpose(x, perm=a)\n"
        scope = defined(source, future=future)
        m = model("g (float[2,3] x) => (float[3,2] y) { t = Transpose<perm=[1, 0]>(x) y = Relu(t) }")
        assert drive(m, scope["r"])[0] == 1
        assert scope["seen"][-1] == ([1, 0] if "list" in note else (1, 0))

    def test_an_attribute_of_another_type_is_still_refused(self) -> None:
        with pytest.raises(RuleError, match="'axis' of Softmax is an int, not the parameter 'a' captures str"):
            defined("def p(x, a: Attr[str | None]): return op.Relu(op.Softmax(x, axis=a))\n@rule(p)\ndef r(x, a): return x", future=False)


def _bound_twice(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.Relu(n.bind(op.Neg(x))))


def _either(x: Tensor, n: Node) -> Tensor:
    return op.Exp(n.bind(op.Relu(x)) | n.bind(op.Neg(x)))


class TestDefinitionsThatCannotWork:
    @pytest.mark.parametrize(("pattern", "what"), [
        (lambda x, k=2: op.Neg(op.Neg(x)) * k, "the parameter 'k' has a default, which would never be used"),
        (lambda *xs: op.Neg(op.Neg(xs[0])), "the parameter '\\*xs' is not a plain one"),
        (lambda **xs: op.Neg(op.Neg(xs[0])), "the parameter '\\*\\*xs' is not a plain one"),
        (lambda x, *, k: op.Neg(op.Neg(x)) * k, "the parameter 'k' is not a plain one"),
        (lambda x: (), "a pattern must have an output"),
        (lambda x: op.Split(x, nout=0), "nout is the number of outputs, and not 0"),
        (lambda x: op.Relu(x | None), "None is no alternative"),
        (lambda x: op.Relu(None | x), "None is no alternative"),
        (lambda x: op.any()(x), "needs the names of operators"),
        (lambda x: product(), "product\\(\\) needs operands"),
        (lambda x: op.Relu(x * approx(0.5, rtol=-1)), "approx\\(\\) takes a number and a tolerance"),
        (_bound_twice, "the parameter 'n' is bound at two places of one match"),
        (lambda xs: op.Max(*many(xs)) + op.Min(*many(xs)), "the parameter 'xs' is bound at two places of one match"),
        (lambda xs: op.Max(*many(xs)) + xs, "the parameter 'xs' is bound at two places of one match"),
    ])  # fmt: skip
    def test_are_refused(self, pattern: Any, what: str) -> None:
        with pytest.raises(RuleError, match=what):
            trace(pattern)

    @pytest.mark.parametrize("given", [3, "Relu", map])
    def test_a_pattern_that_is_no_function(self, given: Any) -> None:
        with pytest.raises(RuleError, match="a pattern is a function whose parameters can be seen"):
            rule(given)(lambda x: x)

    @pytest.mark.parametrize("given", [3, functools.partial(lambda x, k: x, k=2), rule(lambda x: x * 1)(lambda x: x)])
    def test_a_replacement_that_is_no_function(self, given: Any) -> None:
        with pytest.raises(RuleError, match="@rule decorates a function, which"):
            rule(lambda x: x * 1)(given)

    def test_a_node_bound_in_two_alternatives_is_fine(self) -> None:
        @rule(_either)
        def r(x: Tensor, n: Node) -> Tensor:
            return op.Abs(x) if n.op == "Neg" else op.Sqrt(x)

        texts = (f"g (float[2] x) => (float[2] y) {{ a = {name}(x) y = Exp(a) }}" for name in ("Neg", "Relu"))
        found = [model(text) for text in texts]
        assert [drive(m, r)[0] for m in found] == [1, 1]
        assert [ops(m) for m in found] == [["Abs"], ["Sqrt"]]


def test_an_array_times_a_tensor_is_an_expression() -> None:
    @rule(lambda x: op.Neg(op.Exp(op.Neg(x))))
    def scaled(x: Tensor) -> Tensor:
        return np.array([2, 3], np.float32) * x

    m = model("g (float[2] x) => (float[2] y) { a = Neg(x) b = Exp(a) y = Neg(b) }")
    assert drive(m, scaled)[0] == 1
    assert ops(m) == ["Mul"]


class TestRanges:
    @pytest.mark.parametrize(("text", "bounds"), [
        ("g (float[2] x, float h) => (float[2] y) { s = Sigmoid(h) y = Clip(x, half, s) }", (0, 1)),
        ("g (float[2] x, float h) => (float[2] y) { s = Exp(h) t = Tanh(x) y = Clip(t, s) }", (0, np.inf)),
        ("g (float[2] x) => (float[2] y) { y = Clip(x, half, two) }", (0.5, 2)),
        ("g (float[2] x) => (float[2] y) { y = Clip(x, two, half) }", (0.5, 0.5)),
        ("g (int32[2] x) => (int32[2] y) { y = Abs(x) }", (-np.inf, np.inf)),
        ("g (uint8[2] x) => (uint8[2] y) { y = Abs(x) }", (0, np.inf)),
    ])  # fmt: skip
    def test_bounds_that_are_computed(self, text: str, bounds: tuple[float, float]) -> None:
        m = model(text, half=F(0.5), two=F(2))
        assert interval(list(m.main.nodes)[-1].outputs[0]) == bounds

    def test_many_ways_back_cost_no_more_than_one(self) -> None:
        body = "x1 = Relu(x0) " + " ".join(f"x{i + 1} = Concat<axis=0>(x{i}, x{i}, x{i}, x{i})" for i in range(1, 15))
        m = model(f"g (float[2] x0) => (float[N] x15) {{ {body} }}")
        assert interval(list(m.main.nodes)[-1].outputs[0]) == (0, np.inf)


def test_an_attribute_without_default_is_none() -> None:
    def p(x: Tensor, a: Attr[list[int]]) -> Tensor:
        return op.Relu(op.Transpose(x, perm=a))

    @rule(p)
    def r(x: Tensor, a: list[int] | None) -> Tensor:
        return op.Transpose(x) if a is None else op.Transpose(x, perm=sorted(a))

    m = model("g (float[2,3] x) => (float[3,2] y) { t = Transpose(x) y = Relu(t) }")
    assert drive(m, r)[0] == 1


class TestFiles:
    HEAD = "from graphopt import Tensor, op, rule\n\n@rule(lambda x: op.Neg(op.Neg(x)))\ndef twice(x):\n    return x\n"

    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.py"
        path.write_text(self.HEAD + text)
        return path

    def test_a_rule_without_a_pattern_is_not_passed_over(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "@rule\ndef forgotten(x):\n    return x\n")
        with pytest.raises(RuleError, match="'forgotten' is no rule: @rule needs a pattern") as found:
            load_rules_file(path)
        assert found.value.where == f"{path}:6"

    def test_a_decorator_that_is_kept_is_fine(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "kept = rule(lambda x: x * 1)\n")
        assert [r.name for r in load_rules_file(path).rules()] == ["twice"]

    def test_what_a_file_prints_is_no_result(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        load_rules_file(self.write(tmp_path, "print('hello')\n"))
        assert capsys.readouterr() == ("", "hello\n")

    def test_a_replacement_that_exits_is_a_rule_all_the_same(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "@rule(lambda x: x * 1)\ndef leaves(x):\n    raise SystemExit(0)\n")
        assert [r.name for r in load_rules_file(path).rules()] == ["twice", "leaves"]

    def test_a_golden_case_of_a_rule_that_is_gone_is_not_passed_over(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "")
        case = """# rule: mine.{0}
            # case: {0}
            # before
            <ir_version: 10, opset_import: ["" : 18]>
            g (float[2] x) => (float[2] y) {{ y = Neg (x) }}
            # unchanged: no match
            """
        text = "".join(case.format(name) for name in ("twice", "renamed"))
        path.with_suffix(".onnxtxt").write_text("\n".join(line.strip() for line in text.splitlines()))
        with pytest.raises(UsageError, match=r"there is no rule 'mine\.renamed'"):
            run_cases(find_cases(str(path)).cases, [path])
