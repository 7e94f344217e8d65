"""onnxscript's rules as a pass: each application is a rewrite of ours, with all that this means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import GraphoptError, OnnxscriptRules, RuleError, UsageError, VerificationError
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.selection import Selection
from graphopt.engine.spec import parse
from tests.unit.engine import check_uses, model, ops

pattern = pytest.importorskip("onnxscript.rewriter.pattern")

F = np.float32
CHAIN = "g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Neg(a) c = Exp(b) d = Neg(c) y = Neg(d) }"


def rule(target: Any, replacement: Any, condition: Any = None, name: str | None = "two_negs", **options: Any) -> Any:
    return pattern.RewriteRule(target, replacement, condition, name=name, **options)


def two_negs(op: Any, x: Any) -> Any:
    return op.Neg(op.Neg(x))


GOOD = rule(two_negs, lambda op, x: op.Identity(x))
WRONG = rule(lambda op, x: op.Exp(x), lambda op, x: op.Abs(x), name="exp_to_abs")


def run(m: graphopt.Model, *rules: Any, target: str = "onnx", **options: Any) -> Any:
    journal = Pipeline([OnnxscriptRules(rules)], graphopt.load_target(target), **options).run(m)
    check_uses(m)
    return journal


class TestJournal:
    def test_each_application_is_a_rewrite(self) -> None:
        m = model(CHAIN)
        journal = run(m, GOOD)
        assert [(e.ordinal, e.rule, len(e.removed), len(e.added)) for e in journal.entries] == [
            (1, "onnxscript.two_negs", 2, 1), (2, "onnxscript.two_negs", 2, 1),
        ]  # fmt: skip
        assert ops(m) == ["Identity", "Exp", "Identity"]
        first = next(iter(m.ir.graph))
        assert first.metadata_props["graphopt.rule"] == "onnxscript.two_negs"
        assert journal.records["onnxscript"].stats.fired == {"onnxscript.two_negs": 2}

    def test_stop_after_replays_the_beginning(self) -> None:
        for last, left in ((0, ["Neg", "Neg", "Exp", "Neg", "Neg"]), (1, ["Identity", "Exp", "Neg", "Neg"])):
            m = model(CHAIN)
            journal = run(m, GOOD, stop_after=last)
            assert journal.stopped
            assert ops(m) == left

    def test_ignored_rules_are_not_applied(self) -> None:
        m = model(CHAIN)
        journal = run(m, GOOD, WRONG, selection=Selection(ignore=("onnxscript.exp_*",)))
        assert {e.rule for e in journal.entries} == {"onnxscript.two_negs"}

    def test_what_is_protected_stays(self) -> None:
        m = model(CHAIN)
        journal = run(m, GOOD, WRONG, selection=Selection(protect=("op:Exp",)))
        assert ops(m) == ["Identity", "Exp", "Identity"]
        assert journal.records["onnxscript"].declined == {"onnxscript.exp_to_abs": {"'op:Exp' is protected": 1}}

    def test_a_second_run_changes_nothing(self) -> None:
        m = model(CHAIN)
        run(m, GOOD)
        assert run(m, GOOD).entries == []


class TestVerification:
    def test_a_wrong_rule_is_caught(self) -> None:
        with pytest.raises(VerificationError, match="does not compute what the original computes"):
            graphopt.optimize(model(CHAIN), [GOOD, WRONG])

    def test_a_rewrite_of_another_type_is_declined(self) -> None:
        m = model(CHAIN)
        journal = run(m, rule(lambda op, x: op.Exp(x), lambda op, x: op.Shape(x), name="shape"))
        assert ops(m) == ["Neg", "Neg", "Exp", "Neg", "Neg"]
        reason = "the dtype of the replacement is not provably the same: float becomes int64"
        assert journal.records["onnxscript"].declined == {"onnxscript.shape": {reason: 1}}

    def test_operators_that_the_target_does_not_take_are_declined(self) -> None:
        gelu = rule(lambda op, x: op.Exp(x), lambda op, x: op.Gelu(x, _domain="com.microsoft"), name="gelu")
        m = model(CHAIN)
        journal = run(m, gelu)
        reason = "it uses Gelu of com.microsoft, which the target does not take"
        assert journal.records["onnxscript"].declined == {"onnxscript.gelu": {reason: 1}}
        assert dict(m.ir.opset_imports) == {"": 20}
        run(m, gelu, target="ort-cpu")
        assert ops(m) == ["Neg", "Neg", "Gelu", "Neg", "Neg"]
        assert dict(m.ir.opset_imports) == {"": 20, "com.microsoft": 1}


class TestWhatRulesSee:
    def test_inferred_types_and_shapes(self) -> None:
        seen: list[Any] = []

        def look(context: Any, x: Any) -> bool:
            seen.append((x.dtype.name, [str(d) for d in x.shape]))
            return False

        m = model("g (float[N, 4] x) => (float[4, N] y) { a = Transpose(x) b = Cast<to = 10>(a) c = Exp(b) y = Cast<to = 1>(c) }")
        run(m, rule(lambda op, x: op.Exp(x), lambda op, x: op.Abs(x), look))
        assert seen == [("FLOAT16", ["4", "N"])]
        for node in m.ir.graph:
            if not node.outputs[0].is_graph_output():
                assert node.outputs[0].type is None
                assert node.outputs[0].shape is None

    def test_a_new_value_is_declared_as_the_old_one_was(self) -> None:
        m = model("g (float[N, 4] x) => (float[N, 4] y) <float[N, 4] b> { a = Neg(x) b = Neg(a) c = Exp(b) y = Neg(c) }")
        run(m, GOOD)
        assert ops(m) == ["Identity", "Exp", "Neg"]
        first, second, _ = m.ir.graph
        assert first.outputs[0].name == "b"
        assert [str(d) for d in first.outputs[0].shape or ()] == ["N", "4"]
        assert second.outputs[0].shape is None

    def test_constants_but_none_that_a_caller_may_override(self) -> None:
        seen: dict[str, bool] = {}

        def look(context: Any, x: Any, w: Any) -> bool:
            seen[w.name] = w.const_value is not None
            return False

        m = model(
            """g (float[4] x, float[4] open) => (float[4] y) {
                c = Constant<value = float[4] {1, 2, 3, 4}>() p = Mul(x, c) q = Mul(p, w) y = Mul(q, open) }""",
            w=np.arange(4, dtype=F), open=np.arange(4, dtype=F),
        )  # fmt: skip
        run(m, rule(lambda op, x, w: op.Mul(x, w), lambda op, x, w: op.Add(x, w), look))
        assert seen == {"c": True, "w": True, "open": False}
        assert m.ir.graph.initializers["open"].const_value is not None
        assert next(iter(m.ir.graph)).outputs[0].const_value is None

    def test_new_constants_get_names_of_their_own(self) -> None:
        import onnx_ir as oir

        def double(op: Any, x: Any) -> Any:
            return op.Mul(x, op.initializer(oir.tensor(np.array(2, F)), name="w"))

        m = model("g (float[4] x) => (float[4] y) { a = Exp(x) b = Mul(a, w) y = Exp(b) }", w=np.arange(4, dtype=F))
        run(m, rule(lambda op, x: op.Exp(x), lambda op, x: op.Abs(double(op, x)), name="double"))
        assert sorted(m.ir.graph.initializers) == ["w", "w_1", "w_2"]
        assert ops(m) == ["Mul", "Abs", "Mul", "Mul", "Abs"]

    def test_bodies_and_functions(self) -> None:
        m = graphopt.load(onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
            g (bool c, float[4] x) => (float[4] y) {
                a = If (c) <then_branch = t () => (float[4] b) { p = Neg(x) q = Neg(p) b = Exp(q) },
                            else_branch = e () => (float[4] d) { d = Exp(x) }>
                y = my.f(a) }
            <domain: "my", opset_import: ["" : 20]> f (p) => (q) { r = Neg(p) s = Neg(r) q = Exp(s) }"""))
        journal = run(m, GOOD)
        names = {g.name: [n.op for n in g.nodes] for g in m.graphs()}
        assert names["t"] == ["Identity", "Exp"]
        assert names["e"] == ["Exp"]
        assert names[""] == ["Identity", "Exp"]
        assert len(journal.entries) == 2


class TestShapesOfRules:
    def test_two_outputs(self) -> None:
        def both(op: Any, x: Any) -> Any:
            return op.Neg(x), op.Exp(x)

        m = model("g (float[4] x) => (float[4] y) { a = Sqrt(x) b = Neg(a) c = Exp(a) d = Mul(b, c) y = Neg(d) }")
        journal = run(m, rule(both, lambda op, x: (op.Abs(x), op.Tanh(x)), name="both"))
        assert [(e.rule, e.removed) for e in journal.entries] == [("onnxscript.both", ("Exp", "Neg"))]
        assert sorted(ops(m)) == ["Abs", "Mul", "Neg", "Sqrt", "Tanh"]
        product = next(n for n in m.main.nodes if n.op == "Mul")
        assert [v.producer.op for v in product.inputs if v is not None and v.producer is not None] == ["Abs", "Tanh"]

    def test_a_replacement_that_is_an_operand(self) -> None:
        m = model(CHAIN)
        run(m, rule(two_negs, lambda op, x: x))
        assert ops(m) == ["Exp"]
        assert [v.name for v in m.main.outputs] == ["y"]

    def test_rules_that_make_functions_are_declined(self) -> None:
        m = model(CHAIN)
        journal = run(m, rule(two_negs, lambda op, x: op.Twice(x, _domain="my"), name="twice", as_function=True))
        reason = "rules that make local functions (as_function) are not supported"
        assert journal.records["onnxscript"].declined == {"onnxscript.twice": {reason: 2}}
        assert dict(m.ir.opset_imports) == {"": 20}


class TestErrors:
    def test_a_rule_that_raises_is_named_with_the_node(self) -> None:
        def broken(op: Any, x: Any) -> Any:
            op.Neg(x)
            raise TypeError("no such thing")

        m = model(CHAIN)
        list(m.ir.graph)[2].name = "/head/Exp"
        with pytest.raises(RuleError) as caught:
            run(m, rule(lambda op, x: op.Exp(x), broken, name="broken"))
        assert caught.value.what == "raised TypeError at the node '/head/Exp': no such thing"
        assert caught.value.where == "onnxscript.broken"
        assert ops(m) == ["Neg", "Neg", "Exp", "Neg", "Neg"]
        check_uses(m)

    def test_going_on_without_it(self) -> None:
        broken = rule(lambda op, x: op.Exp(x), lambda op, x: x.no_such_attribute, name="broken")
        m = model(CHAIN)
        journal = run(m, broken, GOOD, selection=Selection(keep_going=True))
        assert ops(m) == ["Identity", "Exp", "Identity"]
        (note,) = journal.records["onnxscript"].notes
        assert re.fullmatch(r"onnxscript.broken raised AttributeError at the node 'Exp': .*; it was switched off", note)

    def test_a_rule_that_gives_up_leaves_nothing_behind(self) -> None:
        def give_up(op: Any, x: Any) -> None:
            op.Abs(op.Neg(x))

        m = model(CHAIN)
        journal = run(m, rule(two_negs, give_up, name="gives_up"), GOOD)
        assert ops(m) == ["Identity", "Exp", "Identity"]
        reason = "the replacement function gave no replacement"
        assert journal.records["onnxscript"].declined["onnxscript.gives_up"] == {reason: 2}
        assert [v.use_count for v in m.main.inputs] == [1]

    def test_what_is_no_value_is_refused(self) -> None:
        m = model(CHAIN)
        with pytest.raises(RuleError, match="gave something that is no value"):
            run(m, rule(two_negs, lambda op, x: "x", name="text"))
        assert ops(m) == ["Neg", "Neg", "Exp", "Neg", "Neg"]

    def test_rules_that_undo_each_other_end(self) -> None:
        there = rule(lambda op, x: op.Exp(x), lambda op, x: op.Abs(x), name="there")
        back = rule(lambda op, x: op.Abs(x), lambda op, x: op.Exp(x), name="back")
        with pytest.raises(RuleError, match="rules rewrite each other's results without end"):
            run(model(CHAIN), there, back)

    def test_reasons_of_conditions_are_counted(self) -> None:
        def check(context: Any, x: Any) -> Any:
            from onnxscript.rewriter import MatchResult

            return MatchResult().fail("x is not what it should be")

        journal = run(model(CHAIN), rule(two_negs, lambda op, x: op.Identity(x), check))
        assert journal.records["onnxscript"].declined == {"onnxscript.two_negs": {"x is not what it should be": 2}}
        assert journal.records["onnxscript"].stats.tried == {"onnxscript.two_negs": 2}


class TestSources:
    def test_default_rules(self) -> None:
        rng = np.random.default_rng(0)
        constants = {name: rng.random(4).astype(F) + 0.5 for name in "somv"} | {"w": rng.random((4, 3, 3, 3)).astype(F)}
        m = model("""g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            one = Constant<value = float {1.0}>() e = Mul(x, one)
            a = Conv(e, w) b = BatchNormalization(a, s, o, m, v) c = Relu(b) y = Relu(c) }""", **constants)
        result = graphopt.optimize(m, "onnxscript")
        assert ops(result.model) == ["Identity", "Conv", "Relu"]
        assert [e.rule.removeprefix("onnxscript.") for e in result.journal.entries] == [
            "mul_by_1_rule", "FuseBatchNormIntoConv", "FuseSuccessiveRelu",
        ]  # fmt: skip
        assert graphopt.optimize(result.model, "onnxscript").journal.entries == []

    @pytest.mark.parametrize("give", [
        lambda: [pattern.RewriteRuleSet([GOOD])], lambda: [GOOD], lambda: pattern.RewriteRuleSet([GOOD]),
        lambda: ["cleanup", GOOD, "cleanup"], lambda: [OnnxscriptRules([GOOD])],
    ])  # fmt: skip
    def test_objects(self, give: Any) -> None:
        result = graphopt.optimize(model(CHAIN), give())
        assert [e.rule for e in result.journal.entries][:2] == ["onnxscript.two_negs"] * 2

    def test_rules_in_a_row_are_one_pass(self) -> None:
        result = graphopt.optimize(model(CHAIN), [GOOD, WRONG], verify=False)
        assert [p.spelling for p in result.report.passes] == ["onnxscript{rules=<2 from Python>}"]

    def test_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "negs_of_my_own.py").write_text(
            "from onnxscript.rewriter import pattern\n"
            "no_negs = pattern.RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x))\n"
            "class Exps(pattern.RewriteRuleClassBase):\n"
            "    def pattern(self, op, x):\n        return op.Exp(x)\n"
            "    def rewrite(self, op, x):\n        return op.Exp(op.Identity(x))\n"
            "RULES = [no_negs, Exps]\nNOTHING = []\nNUMBER = 3\n"
        )
        monkeypatch.chdir(tmp_path)
        for text in ("onnxscript{rules=negs_of_my_own.py:no_negs}", f"onnxscript{{rules={tmp_path / 'negs_of_my_own.py'}:no_negs}}"):
            result = graphopt.optimize(model(CHAIN), text)
            assert [e.rule for e in result.journal.entries] == ["onnxscript.no_negs"] * 2
            assert result.report.passes[0].spelling == text
        for text, what in (
            ("negs_of_my_own.py:NOTHING", "onnxscript.rules: there is no rule in it"),
            ("negs_of_my_own.py:RULE", "onnxscript.rules: there is no 'RULE' in negs_of_my_own.py\n  did you mean 'RULES'?"),
            ("negs_of_my_own.py:NUMBER", "onnxscript.rules: a builtins.int is no rule of onnxscript\n  give a RewriteRuleSet"),
            ("negs_of_my_own.py", "onnxscript.rules: cannot read 'negs_of_my_own.py'\n  write module:NAME or file.py:NAME"),
            ("negs_of_my_own:RULES", "onnxscript.rules: cannot import 'negs_of_my_own': No module named 'negs_of_my_own'\n  write negs_of_my_own.py:RULES"),
            ("other.py:RULES", "other.py: there is no such file of rules"),
        ):
            with pytest.raises(UsageError) as caught:
                graphopt.optimize(model(CHAIN), f"onnxscript{{rules={text}}}")
            assert str(caught.value).startswith(what)

    def test_a_module(self) -> None:
        text = "onnxscript{rules=onnxscript.rewriter.rules.common:successive_relu_rule}"
        result = graphopt.optimize(model("g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }"), text)
        assert [e.rule for e in result.journal.entries] == ["onnxscript.FuseSuccessiveRelu"]
        assert parse(text)[0].spelling() == text

    def test_what_is_no_rule_is_refused(self) -> None:
        with pytest.raises(GraphoptError):
            graphopt.optimize(model(CHAIN), [object()])  # type: ignore[list-item]
