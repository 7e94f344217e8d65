"""What the rule checker makes of a failure: a small one, and a report that can be repeated."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import Rule, Tensor, op, rule
from graphopt.check import attempt as attempts
from graphopt.check.finding import Example, Finding, examine
from graphopt.check.report import literal
from graphopt.check.shrink import shrink
from graphopt.ir.text import from_text
from tests.unit.checking import F, model


@rule(lambda x: op.Sqrt(x * x), accuracy="close")
def root(x: Tensor) -> Tensor:
    """Wrong for negative numbers."""
    return x


LARGE = model(
    "(float[n,3,4] a, float[n,3,4] b) => (float[n,3,4] z, float[n,3,4] r)",
    "x = Neg (a) s = Mul (x, x) q = Sqrt (s) e = Exp (q) z = Abs (e) r = Add (b, c)",
    more="<float c = {1.0}>",
)
FEEDS = {name: np.random.default_rng(i).standard_normal((2, 3, 4)).astype(F) for i, name in enumerate("ab")}


def examiner(checked: Rule[Any]) -> Any:
    return lambda example: examine(checked, checked.name, [example])[0]


def test_a_failure_is_made_small() -> None:
    (found,) = examine(root, "root", [Example(LARGE, FEEDS)])
    assert found.status == "wrong"
    small = shrink(found, examiner(root))
    assert small.status == "wrong" and small.mismatches[0].executor == "onnxruntime"
    graph = small.example.model.graph
    assert [n.op_type for n in graph.node] == ["Mul", "Sqrt"]
    assert [v.name for v in graph.input] == ["x"] and len(graph.output) == 1 and not graph.initializer
    (x,) = small.example.feeds.values()
    assert x.size <= 2 and set(np.abs(x.reshape(-1)).tolist()) <= {1.0, 2.0}


def test_a_simpler_draw_is_begun_with() -> None:
    (found,) = examine(root, "root", [Example(LARGE, FEEDS)])
    right = Example(model("(float[1] x) => (float[1] y)", "y = Sqrt (x)"), {"x": F([4])})
    plain = Example(model("(float[1] x) => (float[1] y)", "s = Mul (x, x) y = Sqrt (s)"), {"x": F([-1])})
    seen = []

    def watched(example: Example) -> Finding:
        seen.append(example)
        return examiner(root)(example)  # type: ignore[no-any-return]

    small = shrink(found, watched, [None, right, plain, Example(LARGE, FEEDS)])
    assert seen[:2] == [right, plain] and Example(LARGE, FEEDS) not in seen
    assert len(small.example.model.graph.node) == 2


def test_shrinking_keeps_the_manner_of_the_failure() -> None:
    """A NaN out of place must not become a finite difference on the way."""

    @rule(lambda x: op.Exp(op.Log(x)))
    def inverse(x: Tensor) -> Tensor:
        """Wrong for negative numbers, where it was NaN."""
        return x

    example = Example(model("(float[4] x) => (float[4] y)", "a = Log (x) y = Exp (a)"), {"x": F([1, 2, -3, 4])})
    (found,) = examine(inverse, "inverse", [example])
    small = shrink(found, examiner(inverse))
    assert "NaN on one side" in small.mismatches[0].why and small.example.feeds["x"].size == 1


def test_a_wrong_value_does_not_become_a_zero_of_the_other_sign() -> None:
    @rule(lambda x: op.Abs(op.Neg(x)), accuracy="exact")
    def kept(x: Tensor) -> Tensor:
        """Wrong for negative numbers, and for -0."""
        return op.Identity(x)

    example = Example(model("(float[2] x) => (float[2] y)", "a = Neg (x) y = Abs (a)"), {"x": F([-3.7, 2.2])})
    (found,) = examine(kept, "kept", [example])
    worst = shrink(found, examiner(kept)).mismatches[0]
    assert (worst.expected, worst.got) == ("1.0", "-1.0")


def test_a_crash_is_shrunk_with_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def deadly(example: Example) -> Finding:
        calls.append(example)
        return found

    found = Finding("wrong", Example(LARGE, FEEDS), LARGE, fault=attempts.Fault("dies", "killed"))
    shrink(found, deadly)
    assert len(calls) <= 8


def test_the_report_has_all_that_is_needed_to_repeat_it() -> None:
    report = graphopt.check_rule(root, name="mine.root", seed=3)
    failure = report.failure
    assert report.verdict == "wrong" and not report.ok and failure is not None
    text = report.text("my_rules.py::root")
    assert f"again: graphopt rules check my_rules.py::root --seed 3 --sample {failure.sample}" in text
    for part in ("drawn as", "left side: 1 of 1", "before", "after", "Sqrt (", "inputs", "np.array([", "np.float32)"):
        assert part in text
    assert onnx.checker.check_model(failure.before) is None
    again = graphopt.check_rule(root, name="mine.root", seed=3, only=failure.sample)
    assert again.samples == 1 and again.failure is not None
    assert again.failure.what == failure.what and again.failure.before == failure.before


def test_the_printed_model_can_be_read_back() -> None:
    failure = graphopt.check_rule(root).failure
    assert failure is not None
    text = str(failure).split("\nbefore\n")[1].split("\n\nafter\n")[0]
    assert [n.op_type for n in from_text(text).graph.node] == ["Mul", "Sqrt"]


# -- reports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (F([[0.1, np.nan], [np.inf, -0.0]]), "np.array([[0.1, np.nan], [np.inf, -0.0]], np.float32)"),
        (np.array(3, np.int8), "np.array(3, np.int8)"),
        (np.array([True]), "np.array([True], np.bool_)"),
        (np.zeros((0, 3)), "np.array([], np.float64).reshape((0, 3))"),
        (np.array([1.5, -np.inf], ml_dtypes.bfloat16), "np.array([1.5, -np.inf], ml_dtypes.bfloat16)"),
        (np.zeros((20, 20), F), "...  # float32[20, 20], 400 elements"),
    ],
)
def test_inputs_are_written_as_python(array: Any, text: str) -> None:
    assert literal(array) == text
    if "..." not in text:
        made = eval(text, {"np": np, "ml_dtypes": ml_dtypes})
        assert made.dtype == array.dtype and made.shape == array.shape
        assert made.tobytes() == array.tobytes() or np.isnan(array).any()
