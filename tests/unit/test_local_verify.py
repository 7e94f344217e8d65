"""Verification after each pass and rewrite by rewrite: what is found, what is left alone, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import Context, Pass, UsageError, VerificationError, op, rule
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.spec import parse
from graphopt.rules.rule import Accuracy
from graphopt.verify.local import Local, check_locally
from graphopt.verify.record import Recorder
from graphopt.verify.validate import made_up_feeds
from tests.unit.engine import model

F = np.float32


def check(
    m: graphopt.Model, *passes: Pass, accuracy: Callable[[str], str] = lambda by: "close", feeds: Any = None
) -> Local:
    """Record a run of passes and judge each of its rewrites."""
    feeds = feeds or made_up_feeds(m.ir, facts=m.facts)
    recorders: list[Recorder] = []
    pipeline = Pipeline(
        list(passes), graphopt.load_target("onnx"), accuracy=Accuracy.FAST, watch=lambda e: recorders.append(Recorder(e))
    )
    pipeline.run(m)
    return check_locally(recorders[0], feeds, accuracy)  # type: ignore[arg-type]


def pack(*rules: Any) -> Pass:
    from graphopt.engine.rules_file import rule_pack

    return rule_pack("mine", rules, "Rules under test.")()


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x):  # type: ignore[no-untyped-def]
    """-(-x) = x"""
    return x


@rule(lambda x: op.Sin(op.Cos(x)))
def wrong(x):  # type: ignore[no-untyped-def]
    """Not true."""
    return op.Sin(x)


class TestLocal:
    def test_rules_that_hold(self) -> None:
        m = model("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Neg(a) c = Neg(b) d = Neg(c) y = Exp(d) }")
        found = check(m, pack(twice), accuracy=lambda by: "exact")
        assert found.wrong is None and found.compared == 2 and not found.skipped and not found.settled

    def test_the_wrong_one_is_found_and_not_those_behind_it(self) -> None:
        """What reads the wrong values computes the same from them before and after."""
        m = model("g (float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Neg(a) c = Cos(b) d = Sin(c) e = Neg(d) "
                  "f = Neg(e) y = Exp(f) }")
        found = check(m, pack(twice, wrong))
        assert found.wrong is not None and found.compared == 3
        step = found.wrong.step
        assert (step.by, step.ordinal) == ("mine.wrong", 2) and found.wrong.reason.startswith("output 'd': relative")
        # Both sides stand alone, with the names that the model had then.
        before, after = found.wrong.region.before, found.wrong.region.after
        assert [node.op_type for node in before.graph] == ["Cos", "Sin"]
        assert [node.op_type for node in after.graph] == ["Sin"]
        assert [v.name for v in before.graph.outputs] == [v.name for v in after.graph.outputs] == ["d"]
        assert [v.name for v in before.graph.inputs] == [v.name for v in after.graph.inputs] == ["x"]
        assert found.wrong.inputs[0]["x"].shape == (2, 4)

    def test_the_accuracy_class_decides(self) -> None:
        @rule(lambda x: op.Mul(op.Mul(x, 3.0), 5.0))
        def merged(x):  # type: ignore[no-untyped-def]
            """3x · 5 = 15x but for rounding."""
            return op.Mul(x, 15.0)

        def found(accuracy: str) -> Local:
            m = model("g (float[64] x) => (float[64] y) { a = Mul(x, c) b = Mul(a, d) y = Exp(b) }",
                      c=np.array(3, F), d=np.array(5, F))
            return check(m, pack(merged), accuracy=lambda by: accuracy)

        assert found("close").wrong is None
        exact = found("exact").wrong
        assert exact is not None and "not equal bit for bit" in exact.reason
        assert found("approx").skipped == {"it changes values by design": 1}

    def test_operands_are_those_that_occur(self) -> None:
        """Made-up ones would be negative for Log, beyond the table for Gather, and no shape for Reshape."""
        text = """g (float[N,3] x, int64[N] ids) => (float[M] y) {
            a = Abs(x) b = Neg(a) c = Neg(b) d = Log(c)
            e = Neg(ids) f = Neg(e) h = Gather(table, f)
            s = Shape(h) t = Neg(s) u = Neg(t) k = Reshape(h, u) l = Add(k, d) y = Reshape(l, flat) }"""
        m = model(text, table=np.ones((5, 3), F), flat=np.array([-1]))
        found = check(m, pack(twice), accuracy=lambda by: "exact")
        assert found.wrong is None and found.compared == 3 and not found.settled

    def test_random_operators_differ_and_are_not_wrong(self) -> None:
        @rule(lambda x: op.Neg(op.Neg(op.RandomNormalLike(x))))
        def noise(x):  # type: ignore[no-untyped-def]
            """- - noise = noise"""
            return op.RandomNormalLike(x)

        m = model("g (float[4] x) => (float[4] y) { a = RandomNormalLike(x) b = Neg(a) c = Neg(b) y = Add(c, x) }")
        found = check(m, pack(noise))
        assert found.wrong is None and [reason for _, reason in found.settled] == [
            "the model is random: no output is the same twice"
        ]

    def test_a_replacement_that_the_runtime_refuses(self) -> None:
        """That one region is no valid model does not keep others from being judged."""

        @dataclass(frozen=True)
        class Spoil(Pass):
            """Puts an operator there that nobody knows."""

            name = "spoil"

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op == "Exp":
                        with ctx.edit.rewrite("spoil", at=node) as rewrite:
                            (new,) = rewrite.node("Nonsense", node.inputs, domain="nowhere", assume=node.inputs[0])
                            rewrite.replace(node.outputs[0], new)

        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) c = Exp(b) d = Neg(c) e = Neg(d) y = Relu(e) }"
        found = check(model(text), pack(twice), Spoil())
        assert found.wrong is not None and found.wrong.step.by == "spoil" and found.compared == 3
        assert "not the result: " in found.wrong.reason

    def test_what_is_inside_of_a_body_is_left_out(self) -> None:
        text = """g (bool c, float[4] x) => (float[4] y) {
            y = If (c) <then_branch = t () => (float[4] u) { a = Neg(x) b = Neg(a) u = Exp(b) },
                        else_branch = e () => (float[4] v) { v = Exp(x) }> }"""
        found = check(model(text), pack(twice))
        assert found.wrong is None and found.skipped == {"it is inside a body": 1}

    def test_a_body_may_read_what_surrounds_it(self) -> None:
        text = """g (bool c, float[4] x) => (float[4] y) {
            z = Cos(x)
            w = If (c) <then_branch = t () => (float[4] u) { u = Exp(z) },
                        else_branch = e () => (float[4] v) { v = Sin(z) }>
            a = Neg(w) b = Neg(a) y = Exp(b) }"""

        @dataclass(frozen=True)
        class Moved(Pass):
            """Puts something wrong in the place of the If."""

            name = "moved"
            settles = False

            def run(self, ctx: Context) -> None:
                cosine, choice, *_ = ctx.model.main.nodes
                with ctx.edit.rewrite("moved", at=choice) as rewrite:
                    rewrite.replace(choice.outputs[0], *rewrite.node("Neg", cosine.outputs))

        found = check(model(text), Moved())
        assert found.wrong is not None and [v.name for v in found.wrong.region.before.graph.inputs] == ["c", "z"]

    def test_folding_is_compared_with_what_it_computes(self) -> None:
        m = model("g (float[4] x) => (float[4] y) { a = Exp(c) b = Sin(a) y = Mul(x, b) }", c=np.arange(4, dtype=F))
        found = check(m, *parse("fold"))
        assert found.wrong is None and found.compared == 1

    def test_a_node_that_reads_something_else(self) -> None:
        @dataclass(frozen=True)
        class Other(Pass):
            """Lets Exp read another constant."""

            name = "other"
            settles = False
            by: float = 1.0

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op == "Mul":
                        with ctx.edit.rewrite("other", at=node) as rewrite:
                            rewrite.set_input(node, 1, rewrite.constant(np.array(self.by, F)))

        text = "g (float[4] x) => (float[4] y) { a = Mul(x, one) y = Exp(a) }"
        assert check(model(text, one=np.array(1, F)), Other()).wrong is None
        found = check(model(text, one=np.array(1, F)), Other(by=2.0)).wrong
        assert found is not None and found.reason.startswith("output 'a'")

    def test_an_output_that_is_left_out_stays_out(self) -> None:

        @dataclass(frozen=True)
        class Shift(Pass):
            """Puts another LSTM in the place of the first."""

            name = "shift"
            settles = False

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op == "LSTM":
                        with ctx.edit.rewrite("shift", at=node) as rewrite:
                            attrs = {"hidden_size": node.attr("hidden_size")}
                            new = rewrite.node("LSTM", node.inputs, attrs, outputs=3)
                            rewrite.replace(node.outputs[1], new[1])

        graph = helper.make_graph(
            [helper.make_node("LSTM", ["x", "w", "r"], ["", "h", ""], hidden_size=3)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 4])],
            [helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 2, 3])],
            [numpy_helper.from_array(np.ones(s, F) / 9, n) for n, s in (("w", (1, 12, 4)), ("r", (1, 12, 3)))],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        found = check(graphopt.load(proto), Shift(), accuracy=lambda by: "exact")
        assert found.wrong is None and found.compared == 1 and not found.settled

    def test_a_tool_that_replaces_the_model_is_compared_as_a_whole(self) -> None:
        @dataclass(frozen=True)
        class Tool(Pass):
            """Makes Sin of Cos."""

            name = "tool"
            settles = False
            op: str = "Sin"

            def run(self, ctx: Context) -> None:
                def make(old: oir.Model) -> oir.Model:
                    return model(f"g (float[4] x) => (float[4] y) {{ y = {self.op}(x) }}").ir

                ctx.edit.replace_all("tool", make)

        text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) y = Cos(b) }"
        assert check(model(text), pack(twice), Tool(op="Cos")).wrong is None
        found = check(model(text), pack(twice), Tool()).wrong
        assert found is not None and found.step.by == "tool" and found.step.whole

    def test_rewrites_behind_a_replaced_model_are_judged(self) -> None:
        @dataclass(frozen=True)
        class Tool(Pass):
            """Puts another model in place that computes the same."""

            name = "tool"
            settles = False

            def run(self, ctx: Context) -> None:
                text = "g (float[4] x) => (float[4] y) { p = Neg(x) q = Neg(p) r = Cos(q) s = Sin(r) y = Neg(s) }"
                ctx.edit.replace_all("tool", lambda old: model(text).ir)

        text = "g (float[4] x) => (float[4] y) { a = Cos(x) b = Relu(a) c = Sin(a) y = Neg(c) }"
        found = check(model(text), Tool(), pack(twice, wrong)).wrong
        assert found is not None and (found.step.by, found.step.ordinal) == ("mine.wrong", 3)

    def test_nothing_is_said_where_the_original_does_not_run(self) -> None:
        m = model("g (float[4] x) => (float[4] y) { a = Reshape(x, s) b = Neg(a) c = Neg(b) y = Relu(c) }", s=np.array([3]))
        found = check(m, pack(twice), feeds=[{"x": np.zeros(4, F)}])
        assert found.compared == 0 and "ONNX Runtime does not run the original" in next(iter(found.skipped))


class TestModes:
    TEXT = "g (float[N,4] x) => (float[N,4] y) { a = Neg(x) b = Neg(a) c = Cos(b) d = Sin(c) y = Exp(d) }"

    def error(self, verify: str, *passes: Any) -> VerificationError:
        with pytest.raises(VerificationError) as caught:
            graphopt.optimize(model(self.TEXT), [*passes], verify=verify)  # type: ignore[arg-type]
        assert caught.value.exit_code == 4
        assert caught.value.hint is not None
        why = "make a test of it" if verify == "local" else "find the rewrite to blame"  # which is known then
        assert caught.value.hint.startswith(f"nothing was written; {why}: graphopt.bisect(model")
        return caught.value

    def test_end_says_that_something_is_wrong(self) -> None:
        assert self.error("end", twice, wrong).what.startswith("the result does not compute what the original computes")

    def test_pass_names_the_first_pass(self) -> None:
        from graphopt.engine.rules_file import rule_pack

        packs = [rule_pack(name, (r,), "One rule.")() for name, r in (("good", twice), ("bad", wrong))]
        what = self.error("pass", *packs).what
        assert what.startswith("the pass 'bad' (rewrite 2) changes what the model computes: output 'y': relative")

    def test_local_names_the_rewrite_and_shows_both_sides(self) -> None:
        what = self.error("local", twice, wrong).what.splitlines()
        assert what[0].startswith("rewrite 2, rules.wrong at ")
        assert "does not compute what it replaces: output 'd': relative error" in what[0]
        assert what[1] == "  before:" and "  after:" in what
        assert any("Cos" in line for line in what) and all(line.startswith("    ") for line in what[2:5])

    def test_local_counts_what_it_compared(self) -> None:
        found = graphopt.optimize(model(self.TEXT), [twice], verify="local")
        assert "1 rewrite compared one by one" in found.report.notes
        assert found.verification is not None and found.verification.status == "ok"

    def test_an_exact_run_stays_exact_behind_a_pass(self) -> None:
        """A pass that is close by its class does not make the comparison behind it coarser."""

        @dataclass(frozen=True)
        class Merge(Pass):
            """Rounds once instead of twice."""

            name = "merge"

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    producer = node.inputs[0].producer if node.inputs[0] else None
                    if node.op == "Mul" and producer is not None and producer.op == "Mul":
                        with ctx.edit.rewrite("merge", at=node) as rewrite:
                            new = rewrite.node("Mul", [producer.inputs[0], rewrite.constant(np.array(15, F))])
                            rewrite.replace(node.outputs[0], new[0])

        text = "g (float[64] x) => (float[64] y) { a = Mul(x, c) y = Mul(a, d) }"
        m = model(text, c=np.array(3, F), d=np.array(5, F))
        assert graphopt.optimize(m, [Merge()], verify="pass").verification is not None
        with pytest.raises(VerificationError, match="bit for bit"):
            graphopt.optimize(m, [Merge()], verify="pass", accuracy="exact")

    def test_an_unknown_mode(self) -> None:
        with pytest.raises(UsageError, match="verify cannot be 'often'"):
            graphopt.optimize(model(self.TEXT), [twice], verify="often")  # type: ignore[arg-type]

    def test_false_checks_nothing(self) -> None:
        assert graphopt.optimize(model(self.TEXT), [wrong], verify=False).verification is None
