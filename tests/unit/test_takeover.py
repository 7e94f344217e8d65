"""Another graph in the place of the model's own: one rewrite, the same interface, and what is equal stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as oir
import pytest

import graphopt
from graphopt import Context, Decline, Pass
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.spec import parse
from graphopt.interop.clone import clone
from graphopt.ir.draft import StopRewriting
from graphopt.ir.edit import Editor
from graphopt.ir.protect import protect
from graphopt.ir.tensors import FileTensor
from tests.unit.engine import model, ops

F = np.float32
TEXT = "g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Exp(a) y = Mul(b, w) }"
W = np.arange(4, dtype=F)


def other(text: str, **constants: np.ndarray) -> oir.Model:
    return model(text, **constants).ir


def take(m: graphopt.Model, new: oir.Model) -> object:
    return Editor(m).replace_all("tool", lambda _: new)


class TestOneRewrite:
    def test_says_what_is_gone_and_what_is_new(self) -> None:
        m = model(TEXT, w=W)
        for node, name in zip(m.ir.graph, ("neg", "exp", "mul"), strict=True):
            node.name = name
        m.ir.graph[0].metadata_props["pkg.from"] = "here"
        seen = []
        editor = Editor(m, on_commit=seen.append)
        new = other("g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Tanh(a) y = Mul(b, w) }", w=W)
        change = editor.replace_all("tool", lambda _: new)
        assert seen == [change]
        assert change is not None
        assert (change.ordinal, change.by, change.at, change.removed, change.whole) == (1, "tool", "g", ("exp",), True)
        assert [n.op_type for n in change.added] == ["Tanh"]
        assert ops(m) == ["Neg", "Tanh", "Mul"]
        neg, tanh, mul = m.ir.graph
        assert (neg.name, mul.name) == ("neg", "mul")
        assert neg.metadata_props == {"pkg.from": "here"}
        assert tanh.metadata_props == {"graphopt.rule": "tool"}

    def test_facts_and_names_are_those_of_the_new_graph(self) -> None:
        m = model(TEXT, w=W)
        assert m.main.outputs[0].producer is not None
        editor = Editor(m)
        new = other("g (float[N, 4] x) => (float[N, 4] y) { c = Transpose(x) d = Transpose(c) y = Mul(d, w) }", w=W)
        editor.replace_all("tool", lambda _: new)
        first = next(iter(m.main.nodes)).outputs[0]
        assert [str(d) for d in first.shape or ()] == ["4", "N"]
        assert editor.fresh_name("c") == "c_1"
        with editor.rewrite("later", at=first.producer) as rewrite:  # type: ignore[arg-type]
            rewrite.replace(m.main.outputs[0].producer.inputs[0], m.main.inputs[0])  # type: ignore[union-attr, arg-type]
        assert ops(m) == ["Mul"]

    def test_the_same_model_is_no_rewrite(self) -> None:
        m = model(TEXT, w=W)
        editor = Editor(m)
        graph = m.ir.graph
        assert editor.replace_all("tool", clone) is None
        assert editor.ordinal == 0
        assert m.ir.graph is graph

    @pytest.mark.parametrize(
        "text",
        [
            "g (float[N, 4] x) => (float[N, 4] y) { a = Transpose<perm = [1, 0]>(x) b = Softmax<axis = -1>(a) y = Transpose(b) }",
            "g (float[N, 4] x) => (float[M, 4] y) { a = Transpose<perm = [1, 0]>(x) b = Softmax(a) y = Transpose(b) }",
        ],
        ids=["a default is spelled out", "a size has another name"],
    )
    def test_what_means_the_same_is_the_same(self, text: str) -> None:
        m = model("g (float[N, 4] x) => (float[N, 4] y) { a = Transpose<perm = [1, 0]>(x) b = Softmax(a) y = Transpose(b) }")
        assert take(m, other(text)) is None

    @pytest.mark.parametrize(
        ("text", "constants"),
        [
            (TEXT, {"w": W + 1}),
            (TEXT, {"w": W, "unused": W}),
            ("g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) b = Exp(a) y = Mul(w, b) }", {"w": W}),
        ],
        ids=["weight", "constant", "operands"],
    )
    def test_small_differences_are_seen(self, text: str, constants: dict[str, np.ndarray]) -> None:
        assert take(model(TEXT, w=W), other(text, **constants)) is not None

    def test_a_body_and_a_function_are_compared(self) -> None:
        text = """<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
            g (bool c, float[4] x) => (float[4] y) {
                a = If (c) <then_branch = t () => (float[4] b) { b = %s(x) }, else_branch = e () => (float[4] d) { d = Neg(x) }>
                y = my.f(a) }
            <domain: "my", opset_import: ["" : 20]> f (p) => (q) { q = %s(p) }"""
        def made(*names: str) -> graphopt.Model:
            return graphopt.load(onnx.parser.parse_model(text % names))

        assert take(made("Exp", "Abs"), made("Exp", "Abs").ir) is None
        m = made("Exp", "Abs")
        change = take(m, made("Tanh", "Relu").ir)
        assert sorted(change.removed) == ["Abs", "Exp"]  # type: ignore[attr-defined]
        assert sorted(n.op_type for n in change.added) == ["Relu", "Tanh"]  # type: ignore[attr-defined]

    def test_stop_after_comes_before_the_tool(self) -> None:
        m = model(TEXT, w=W)

        def never(_: oir.Model) -> oir.Model:
            raise AssertionError("the tool was called")

        with pytest.raises(StopRewriting):
            Editor(m, stop_after=0).replace_all("tool", never)
        assert ops(m) == ["Neg", "Exp", "Mul"]

    def test_weights_that_are_equal_stay_in_their_file(self, tmp_path: Path) -> None:
        big = np.random.default_rng(0).random((4, 1000), dtype=F)
        proto = model("g (float[N, 4] x) => (float[N, 1000] y) { a = Neg(x) b = MatMul(a, w) y = Mul(b, v) }", w=big, v=big[:1])
        graphopt.save(proto, tmp_path / "m.onnx")
        m = graphopt.load(tmp_path / "m.onnx")
        old = {name: value.const_value for name, value in m.ir.graph.initializers.items()}
        new = other("g (float[N, 4] x) => (float[N, 1000] y) { a = Abs(x) b = MatMul(a, w) y = Mul(b, v) }", w=big, v=big[1:2])
        assert take(m, new) is not None
        now = {name: value.const_value for name, value in m.ir.graph.initializers.items()}
        assert isinstance(now["w"], FileTensor)
        assert now["w"] is old["w"]
        assert now["v"] is not old["v"]
        assert m.source is not None
        assert m.source.path == tmp_path / "m.onnx"


class TestInterface:
    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("(float[N] x, float[N] z) => (float[N] y)", "(float[N] x) => (float[N] y)", "the graph input 'z' would be gone"),
            ("(float[N] x) => (float[N] y)", "(float[N] x, float[N] z) => (float[N] y)", "there would be a new graph input, 'z'"),
            ("(float[N] x, float[N] z) => (float[N] y)", "(float[N] z, float[N] x) => (float[N] y)", "the graph inputs would have another order: z, x"),
            ("(float[N] x) => (float[N] y)", "(double[N] x) => (double[N] y)", "the graph input 'x' would be of the type double instead of float"),
            ("(float[N] x) => (float[N] y)", "(float[1] x) => (float[1] y)", "the graph input 'x' would have the shape [1] instead of [N]"),
            ("(float[N] x) => (float[N] y)", "(float[N, 2] x) => (float[N, 2] y)", "the graph input 'x' would have the shape [N, 2] instead of [N]"),
            ("(float[4] x) => (float[4] y)", "(float[4] x) => (float[5] y)", "the graph output 'y' would have the shape [5] instead of [4]"),
            ("(float[] x) => (float[] y)", "(float[3] x) => (float[] y)", "the graph input 'x' would have the shape [3] instead of any"),
        ],
    )
    def test_declines(self, old: str, new: str, reason: str) -> None:
        m = model(f"g {old} {{ y = Neg(x) }}")
        graph = m.ir.graph
        with pytest.raises(Decline) as caught:
            take(m, other(f"g {new} {{ y = Exp(x) }}"))
        assert caught.value.reason == reason
        assert m.ir.graph is graph
        assert ops(m) == ["Neg"]

    def test_declines_another_output(self) -> None:
        with pytest.raises(Decline, match="the graph output 'y' would be gone"):
            take(model("g (float[N] x) => (float[N] y) { y = Neg(x) }"), other("g (float[N] x) => (float[N] z) { z = Neg(x) }"))

    def test_declines_to_drop_a_default(self) -> None:
        text = "g (float[4] x, float[4] w) => (float[4] y) { y = Mul(x, w) }"
        with pytest.raises(Decline, match="the default of the graph input 'w' would be gone"):
            take(model(text, w=W), other(text))

    def test_what_was_declared_stays(self) -> None:
        m = model("g (float[N, 4] x) => (float[N, K] y) { y = Neg(x) }")
        m.ir.graph.inputs[0].doc_string = "an image"
        new = other("h (float[batch, 4] x) => (float[batch, 4] y) { y = Exp(x) }")
        new.graph.opset_imports["com.example"] = 3
        take(m, new)
        graph = m.ir.graph
        assert graph.name == "g"
        assert [str(d) for d in graph.inputs[0].shape or ()] == ["N", "4"]
        assert [str(d) for d in graph.outputs[0].shape or ()] == ["N", "K"]
        assert graph.inputs[0].doc_string == "an image"
        assert dict(graph.opset_imports) == {"": 20}

    def test_what_a_tensor_means_may_be_dropped_and_stays(self) -> None:
        m = model("g (float[N, 4] x) => (float[N, 4] y) { y = Neg(x) }")
        image = oir.TensorType(oir.DataType.FLOAT, denotation="IMAGE")
        m.ir.graph.inputs[0].type = image
        assert take(m, other("g (float[N, 4] x) => (float[N, 4] y) { y = Exp(x) }")) is not None
        assert m.ir.graph.inputs[0].type == image

    def test_sequences_are_told_from_tensors(self) -> None:
        m = model("g (float[4] x) => (seq(float[4]) y) { y = SequenceConstruct(x) }")
        with pytest.raises(Decline, match="the graph output 'y' would be of the type"):
            take(m, other("g (float[4] x) => (float[4] y) { y = Exp(x) }"))

    def test_what_is_protected_stays(self) -> None:
        m = model(TEXT, w=W)
        list(m.ir.graph)[1].name = "exp"
        editor = Editor(m, protection=protect(m, ["exp", "w"]))
        for text, w in ((TEXT.replace("Exp", "Tanh"), W), (TEXT, W + 1)):
            with pytest.raises(Decline, match="is protected"):
                editor.replace_all("tool", lambda _, text=text, w=w: other(text, w=w))
        assert editor.replace_all("tool", lambda _: other(TEXT.replace("Neg", "Abs"), w=W)) is not None
        assert editor.protects(list(m.main.nodes)[1])
        with pytest.raises(Decline, match="is protected"):
            editor.replace_all("tool", lambda _: other(TEXT.replace("Neg", "Abs").replace("Exp", "Tanh"), w=W))


@dataclass(frozen=True)
class Undo(Pass):
    """Puts two Identities back in, once."""

    name: ClassVar[str] = "undo"
    settles: ClassVar[bool] = False

    def run(self, ctx: Context) -> None:
        text = "g (float[4] x) => (float[4] y) { a = Identity(x) b = Neg(a) c = Identity(b) y = Exp(c) }"
        ctx.replace_model("undo.all", lambda _: other(text))


def test_a_pass_behind_it_looks_at_everything() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Identity(x) b = Neg(a) y = Exp(b) }")
    cleanup = parse("cleanup")
    journal = Pipeline([*cleanup, Undo(), *cleanup], graphopt.load_target("onnx")).run(m)
    assert ops(m) == ["Neg", "Exp"]
    assert [e.rule for e in journal.entries] == ["cleanup.identity", "undo.all", "cleanup.identity", "cleanup.identity"]


def test_a_domain_that_the_target_does_not_take() -> None:
    @dataclass(frozen=True)
    class Foreign(Pass):
        """Uses an operator of another domain."""

        name: ClassVar[str] = "foreign"

        def run(self, ctx: Context) -> None:
            new = other("g (float[4] x) => (float[4] y) { y = Neg(x) }")
            next(iter(new.graph)).domain = "com.microsoft"
            ctx.replace_model("foreign", lambda _: new)

    def run(target: str) -> tuple[list[str], object]:
        m = model("g (float[4] x) => (float[4] y) { y = Abs(x) }")
        return ops(m), Pipeline([Foreign()], graphopt.load_target(target)).run(m)

    _, journal = run("onnx")
    assert journal.records["foreign"].declined == {  # type: ignore[attr-defined]
        "foreign": {"it uses Neg of com.microsoft, which the target does not take": 1}
    }
    _, journal = run("ort-cpu")
    assert [e.rule for e in journal.entries] == ["foreign"]  # type: ignore[attr-defined]
