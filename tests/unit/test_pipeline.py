"""Passes by name, their order and options, rounds, the journal, and stopping after a rewrite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import graphopt
from graphopt import Context, GraphoptError, Pass, UsageError
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.spec import parse, with_prerequisites
from tests.unit.engine import model, ops

F = np.float32
TEXT = """g (float[4] x) => (float[4] y) {
    a = Identity(x) b = Neg(a) c = Neg(x) d = Add(b, c) e = Identity(d) one = Constant<value = float {1.0}>()
    f = Mul(e, one) y = Exp(f) }"""


def names(text: str) -> list[str]:
    return [p.spelling() for p in parse(text)]


class TestSpec:
    def test_commas_spaces_and_options(self) -> None:
        assert names("cleanup, fold") == ["cleanup", "fold"]
        assert names("cleanup fold{slack=10,timeout=2.5}") == ["cleanup", "fold{slack=10,timeout=2.5}"]

    def test_presets(self) -> None:
        assert names("O2") == ["cleanup", "fold", "simplify", "fuse", "layout"]
        assert names("O0") == []

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("foldd", "there is no pass 'foldd'\n  did you mean 'fold'?"),
            ("fold{slak=1}", "the pass 'fold' has no option 'slak'\n  did you mean 'slack'?"),
            ("fold{slack=many}", "fold.slack cannot be 'many'\n  it takes a value of type int"),
            ("cleanup{x=1}", "the pass 'cleanup' has no option 'x'\n  the pass 'cleanup' has no options"),
            ("fold{slack=1", "cannot read the passes"),
        ],
    )
    def test_errors(self, text: str, what: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert str(caught.value).startswith(what)
        assert caught.value.exit_code == 2

    def test_prerequisites_are_added_once_and_named(self) -> None:
        passes, added = with_prerequisites(parse("fuse"))
        assert [p.name for p in passes][-1] == "fuse"
        assert added == [p.name for p in passes][:-1]
        assert "cleanup" in added


class TestRuns:
    def run(self, m: graphopt.Model, passes: str, **options: object) -> object:
        return Pipeline(parse(passes), graphopt.load_target("onnx"), **options).run(m)  # type: ignore[arg-type]

    def test_ordinals_are_stable(self) -> None:
        whole = self.run(model(TEXT), "cleanup")
        again = self.run(model(TEXT), "cleanup")
        assert whole.entries == again.entries  # type: ignore[attr-defined]
        assert [e.ordinal for e in whole.entries] == list(range(1, len(whole.entries) + 1))  # type: ignore[attr-defined]

    def test_stop_after_replays_the_beginning(self) -> None:
        whole = self.run(model(TEXT), "cleanup")
        for k in range(len(whole.entries) + 1):  # type: ignore[attr-defined]
            m = model(TEXT)
            journal = self.run(m, "cleanup", stop_after=k)
            assert journal.entries == whole.entries[:k]  # type: ignore[attr-defined]
        assert ops(m) == ["Neg", "Add", "Mul", "Exp"]

    def test_a_second_run_changes_nothing(self) -> None:
        m = model(TEXT)
        self.run(m, "cleanup,fold")
        assert self.run(m, "cleanup,fold").entries == []  # type: ignore[attr-defined]

    def test_passes_that_undo_each_other_are_an_error(self) -> None:
        @dataclass(frozen=True)
        class Flip(Pass):
            """Abs becomes Neg and the other way round."""

            name = "flip"

            def run(self, ctx: Context) -> None:
                for node in ctx.model.main.nodes:
                    if node.op in ("Abs", "Neg"):
                        with ctx.edit.rewrite("flip", at=node) as rewrite:
                            (new,) = rewrite.node("Neg" if node.op == "Abs" else "Abs", node.inputs)
                            rewrite.replace(node.outputs[0], new)

        m = model("g (float[4] x) => (float[4] y) { y = Abs(x) }")
        with pytest.raises(GraphoptError, match="the passes flip still change the model after 8 rounds"):
            Pipeline([Flip()], graphopt.load_target("onnx")).run(m)


class TestFold:
    def fold(self, m: graphopt.Model, options: str = "") -> object:
        return Pipeline(parse(f"cleanup,fold{options}"), graphopt.load_target("onnx")).run(m)

    def test_a_region_is_one_constant_per_result(self) -> None:
        m = model("g (float[4] x) => (float[4] y) { a = Exp(c) b = Sin(a) d = Add(a, b) y = Mul(x, d) }", c=np.arange(4, dtype=F))
        self.fold(m)
        assert ops(m) == ["Mul"]
        (value,) = m.main.initializers
        c = np.arange(4, dtype=F)
        np.testing.assert_allclose(value.array(), np.exp(c) + np.sin(np.exp(c)), rtol=1e-6)

    def test_the_executor_computes_what_the_kernels_do_not(self) -> None:
        m = model("g (float[1,1,4,4] x) => (float[1,1,4,4] y) { a = Conv<pads=[1,1,1,1]>(c, w) y = Mul(x, a) }",
                  c=np.ones((1, 1, 4, 4), F), w=np.ones((1, 1, 3, 3), F))
        self.fold(m)
        assert ops(m) == ["Mul"]
        value = next(v for v in m.main.initializers)
        assert value.array()[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]

    @pytest.mark.parametrize("op", ["Div", "Mod"])
    @pytest.mark.parametrize("divisor", [-1, 0])
    def test_integer_division_cannot_kill(self, op: str, divisor: int) -> None:
        low = np.array([np.iinfo(np.int32).min], np.int32)
        m = model(f"g (int32[1] x) => (int32[1] y) {{ a = {op}(c, d) y = Add(x, a) }}", c=low, d=np.array([divisor], np.int32))
        journal = self.fold(m)
        assert ops(m) == [op, "Add"]
        assert journal.records["fold"].declined["evaluate"]  # type: ignore[attr-defined]

    def test_division_truncates(self) -> None:
        m = model("g (int32[2] x) => (int32[2] y) { a = Div(c, d) y = Add(x, a) }",
                  c=np.array([-7, 7], np.int32), d=np.array([2, -2], np.int32))
        self.fold(m)
        assert next(v for v in m.main.initializers).array().tolist() == [-3, -3]

    def test_a_weights_dequantize_stays(self) -> None:
        m = model("g (float[2,4] x) => (float[2,4] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
                  q=np.ones((4, 4), np.int8), s=F(0.1))
        self.fold(m)
        assert ops(m) == ["DequantizeLinear", "MatMul"]

    def test_random_numbers_are_not_constants(self) -> None:
        m = model("g (float[4] x) => (float[4] y) { r = RandomNormalLike(c) y = Add(x, r) }", c=np.ones(4, F))
        self.fold(m)
        assert ops(m) == ["RandomNormalLike", "Add"]

    def test_the_file_must_not_grow(self) -> None:
        m = model("g (float[2000,2000] x) => (float[2000,2000] y) { a = Expand(c, s) y = Add(x, a) }",
                  c=F(1), s=np.array([2000, 2000]))
        journal = self.fold(m)
        assert ops(m) == ["Expand", "Add"]
        assert journal.records["fold"].declined["fold"] == {"the file would grow by more than the slack": 1}  # type: ignore[attr-defined]
        self.fold(m, "{slack=20000000}")
        assert ops(m) == ["Add"]
