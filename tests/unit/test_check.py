"""The rule checker's judge, its shrinking, and what it says of rules that fail otherwise than by wrong numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import parser

import graphopt
from graphopt import Domain, Rule, Tensor, op, rule
from graphopt.check import attempt as attempts
from graphopt.check.attempt import attempt
from graphopt.check.execute import run_pairs
from graphopt.check.finding import Example, Finding, examine
from graphopt.check.judge import judge
from graphopt.check.modest import tame, tame_constants
from graphopt.check.report import literal
from graphopt.check.shrink import shrink
from graphopt.check.widen import widen
from graphopt.ir.text import from_text, to_text
from graphopt.rules.rule import Accuracy
from graphopt.runtime.distrust import distrusted, mistaken
from graphopt.runtime.trial import Outcome

F = np.float32
EXACT, CLOSE, FAST, APPROX = Accuracy


def model(signature: str, body: str, opset: int = 18, more: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {signature} {more} {{ {body} }}')


def said(ort: Any, reference: Any) -> dict[Any, Outcome]:
    """What the executors make of a model with one output: an array, or a message instead."""
    pairs = (("onnxruntime", ort), ("reference", reference))
    return {name: Outcome(error=x) if isinstance(x, str) else Outcome({"y": np.asarray(x)}) for name, x in pairs}


ONE, TWO = F([1, 1]), F([1, 2])


# -- the judge ------------------------------------------------------------------------------------


def test_equal_is_the_same() -> None:
    assert judge(said(ONE, ONE), said(ONE, ONE), EXACT).kind == "same"


def test_a_difference_names_output_element_and_executor() -> None:
    verdict = judge(said(ONE, ONE), said(TWO, TWO), CLOSE)
    assert verdict.kind == "different"
    assert verdict.reason == (
        "output 'y' under ONNX Runtime: relative error 0.5 exceeds 2e-05; y[1] is 2.0, expected 1.0"
    )
    assert [m.executor for m in verdict.mismatches] == ["onnxruntime", "reference"]


@pytest.mark.parametrize("accuracy", [CLOSE, EXACT])
def test_a_difference_that_only_onnx_runtime_sees_counts(accuracy: Accuracy) -> None:
    assert judge(said(ONE, ONE), said(TWO, ONE), accuracy).kind == "different"


def test_a_difference_that_only_the_reference_evaluator_sees_is_a_dispute() -> None:
    verdict = judge(said(ONE, ONE), said(ONE, TWO), CLOSE)
    assert verdict.kind == "same"
    assert verdict.reason.startswith("output 'y' under the reference evaluator: relative error")


@pytest.mark.parametrize("able", ["onnxruntime", "reference"])
def test_one_executor_is_enough(able: str) -> None:
    def only(array: Any) -> dict[Any, Outcome]:
        return said(array, "no kernel") if able == "onnxruntime" else said("no kernel", array)

    assert judge(only(ONE), only(TWO), CLOSE).kind == "different"
    assert judge(only(ONE), only(ONE), CLOSE).kind == "same"


def test_an_original_that_nobody_runs_is_no_example() -> None:
    verdict = judge(said("no kernel", "not there"), said(ONE, ONE), CLOSE)
    assert (verdict.kind, verdict.reason) == ("unknown", "ONNX Runtime: no kernel; the reference evaluator: not there")


def test_a_result_that_onnx_runtime_refuses_counts() -> None:
    verdict = judge(said(ONE, ONE), said("no kernel", ONE), CLOSE)
    assert (verdict.kind, verdict.reason) == (
        "refused", "ONNX Runtime runs the original, but not the result: no kernel"
    )


def test_a_result_that_the_reference_evaluator_refuses_counts_only_if_it_is_alone() -> None:
    assert judge(said(ONE, ONE), said(ONE, "not there"), CLOSE).kind == "same"
    assert judge(said("no kernel", ONE), said("no kernel", "not there"), CLOSE).kind == "refused"


def test_a_result_that_ends_the_process_is_named_as_such() -> None:
    after = {"onnxruntime": Outcome(error="killed", died=True), "reference": Outcome({"y": ONE})}
    assert judge(said(ONE, ONE), after, CLOSE).kind == "dies"  # type: ignore[arg-type]


def test_exact_means_all_bits_but_those_of_nan() -> None:
    nan, other = F([np.nan]), np.array([0xFFC00001], np.uint32).view(F)
    assert judge(said(nan, nan), said(other, other), EXACT).kind == "same"
    zero, negative = F([0.0]), F([-0.0])
    assert judge(said(zero, zero), said(negative, negative), EXACT).kind == "different"
    assert judge(said(zero, zero), said(negative, negative), CLOSE).kind == "same"


def test_bits_that_only_one_executor_sees_differ_are_its_own() -> None:
    near = np.nextafter(ONE, TWO)
    assert judge(said(ONE, ONE), said(near, near), EXACT).kind == "different"
    assert judge(said(ONE, ONE), said(near, ONE), EXACT).kind == "same"
    assert judge(said(ONE, "no kernel"), said(near, "no kernel"), EXACT).kind == "same"
    assert judge(said(ONE, ONE), said(ONE * F(1.001), ONE), EXACT).kind == "different"


def test_close_keeps_nan_and_infinities_in_their_places() -> None:
    special = F([1, np.inf, np.nan])
    for other in (F([1, -np.inf, np.nan]), F([1, np.inf, np.inf]), F([np.nan, np.inf, np.nan])):
        assert judge(said(special, special), said(other, other), CLOSE).kind == "different"


def test_fast_answers_for_finite_numbers_only() -> None:
    special, finite = F([1, np.inf, np.nan]), F([1, 3, 4])
    assert judge(said(special, special), said(finite, finite), FAST).kind == "same"
    assert judge(said(finite, finite), said(special, special), FAST).kind == "different"


def test_a_wrong_third_digit_is_caught_and_roundings_are_not() -> None:
    x = np.random.default_rng(0).standard_normal(20).astype(F)
    wrong, rounded = x * F(1.001), x * F(1 + 4e-7)
    assert judge(said(x, x), said(wrong, wrong), CLOSE).kind == "different"
    assert judge(said(x, x), said(rounded, rounded), CLOSE).kind == "same"
    half = x.astype(np.float16)
    assert judge(said(half, half), said(half * np.float16(1.1), half * np.float16(1.1)), CLOSE).kind == "different"


def test_a_difference_as_large_as_that_between_the_executors_is_rounding() -> None:
    x = F([1, 2, 3])
    noisy = x * F(1 + 1e-4)
    assert judge(said(x, noisy), said(noisy, x), CLOSE).kind == "same"
    far = x * F(1.1)
    assert judge(said(x, far), said(far, x), CLOSE).kind == "different", "so far apart, their word counts for nothing"


def test_nan_is_never_rounding() -> None:
    x, nan = F([1, 2]), F([1, np.nan])
    assert judge(said(x, x), said(nan, nan), CLOSE).kind == "different"


def test_approx_looks_at_shape_dtype_and_signal_only() -> None:
    x = np.random.default_rng(0).standard_normal(50).astype(F)
    rough = np.round(x * 4) / F(4)
    assert judge(said(x, x), said(rough, rough), APPROX).kind == "same"
    assert judge(said(x, x), said(-x, -x), APPROX).kind == "different"
    assert judge(said(x, x), said(x[1:], x[1:]), APPROX).kind == "different"


def test_other_dtypes_and_shapes_have_no_element() -> None:
    verdict = judge(said(ONE, ONE), said(ONE.astype(np.float64), ONE), EXACT)
    assert verdict.reason == "output 'y' under ONNX Runtime: dtype is float64, not float32"


def test_onnx_runtime_alone_is_not_believed_where_it_is_known_to_err() -> None:
    assert judge(said(ONE, ONE), said(TWO, ONE), CLOSE, doubtful=True).kind == "same"
    assert judge(said(ONE, ONE), said(TWO, TWO), CLOSE, doubtful=True).kind == "different"
    assert judge(said(ONE, "no kernel"), said(TWO, "no kernel"), CLOSE, doubtful=True).kind == "different"


@pytest.mark.parametrize(
    ("body", "opset", "why"),
    [
        ("y = Softmax (x)", 12, "it does not know Softmax of opset 12"),
        ("y = Softmax (x)", 13, None),
        ("y = BatchNormalization (x, s, s, s, s)", 9, "it does not know BatchNormalization of opset 9"),
        ("y = ConvTranspose <group = 2> (x, x)", 18, "its ConvTranspose knows no groups"),
        ("y = ConvTranspose (x, x)", 18, None),
        ("y = Resize (x, , s)", 18, "its Resize knows no infinities"),
        ("y = If (c) <then_branch = a () => (float[2] z) { z = Resize (x, , s) }, "
         "else_branch = b () => (float[2] z) { z = Resize (x, , s) }>", 18, "its Resize knows no infinities"),
    ],
)  # fmt: skip
def test_the_reference_evaluator_is_not_asked_what_it_gets_wrong(body: str, opset: int, why: str | None) -> None:
    assert distrusted(model("(float[2] x, float[2] s, bool c) => (float[2] y)", body, opset)) == why


def test_it_is_not_asked_about_gemm_of_integers() -> None:
    body = "y = Gemm (a, b)"
    whole = model("(int64[1,1] a, int64[1,1] b) => (int64[1,1] y)", body)
    assert distrusted(whole) == "its Gemm of integers rounds"
    assert distrusted(model("(float[1,1] a, float[1,1] b) => (float[1,1] y)", body)) is None


def test_onnx_runtime_is_not_asked_to_gather_words() -> None:
    body = "y = Gather(x, i)"
    assert mistaken(model("(string[2,2] x, int64[1] i) => (string[1,2] y)", body)) is not None
    assert mistaken(model("(float[2,2] x, int64[1] i) => (float[1,2] y)", body)) is None


def test_what_it_gets_wrong_is_wrong() -> None:
    """So that the list is looked at again when onnx has been repaired."""
    softmax = model("(float[2,2,2] x) => (float[2,2,2] y)", "y = Softmax <axis = 1> (x)", 12)
    x = np.arange(8, dtype=F).reshape(2, 2, 2)
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(softmax).run(None, {"x": x})
    whole = np.exp(x.reshape(2, 4)) / np.exp(x.reshape(2, 4)).sum(axis=1, keepdims=True)
    assert not np.allclose(found, whole.reshape(2, 2, 2))


# -- running --------------------------------------------------------------------------------------


GOOD = model("(float[2] x) => (float[2] y)", "y = Neg (x)")
DEADLY = model("(int32[1] x, int32[1] z) => (int32[1] y)", "y = Div (x, z)")
LEAST = {"x": np.int32([-(2**31)]), "z": np.int32([-1])}


def test_a_crash_is_an_outcome_and_spares_the_others() -> None:
    fine, dead, again = run_pairs([(GOOD, GOOD, {"x": ONE}), (DEADLY, DEADLY, LEAST), (GOOD, GOOD, {"x": ONE})])
    assert fine[0]["onnxruntime"].arrays is not None and again[1]["reference"].arrays is not None
    assert dead[0]["onnxruntime"].died and "killed by SIGFPE" in str(dead[0]["onnxruntime"].error)
    assert not dead[0]["reference"].died and dead[1]["reference"].arrays is not None
    assert str(dead[1]["onnxruntime"].error).startswith("the other model does not run")


def test_the_reference_evaluator_is_interrupted_when_it_is_slow() -> None:
    conv = model("(float[1,8,64,64] x, float[8,8,5,5] w) => (float[1,8,68,68] y)", "y = ConvTranspose (x, w)")
    feeds = {"x": np.ones((1, 8, 64, 64), F), "w": np.ones((8, 8, 5, 5), F)}
    (slow, quick) = run_pairs([(conv, conv, feeds), (GOOD, GOOD, {"x": ONE})])
    assert slow[0]["reference"].error == "it takes too long" and slow[1]["onnxruntime"].arrays is not None
    assert quick[0]["reference"].arrays is not None


def test_onnx_runtime_is_not_asked_what_hangs_it() -> None:
    conv = model("(float[1,0,4,4] x, float[1,0,3,3] w) => (float[1,1,2,2] y)", "y = Conv (x, w)")
    feeds = {"x": np.ones((1, 0, 4, 4), F), "w": np.ones((1, 0, 3, 3), F)}
    ((before, _),) = run_pairs([(conv, conv, feeds)])
    assert before["onnxruntime"].error == "its Conv hangs on tensors without channels"


def test_behind_a_result_that_crashes_nothing_is_run() -> None:
    copied = model("(int32[1] x, int32[1] z) => (int32[1] y)", "y = Add (x, z)")
    (first, second) = run_pairs([(GOOD, GOOD, {"x": ONE}), (copied, DEADLY, LEAST), (GOOD, GOOD, {"x": ONE})])
    assert first[1]["onnxruntime"].arrays is not None
    assert second[0]["onnxruntime"].arrays is not None and second[1]["onnxruntime"].died


# -- one attempt ----------------------------------------------------------------------------------


NEG_NEG = model("(float[2] x) => (float[2] y)", "a = Neg (x) y = Neg (a)")


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x: Tensor) -> Tensor:
    """Right."""
    return x


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def raising(x: Tensor) -> Tensor:
    """Raises."""
    return x + [][0]


@rule(lambda x: op.Neg(x), bounded=True)
def looping(x: Tensor) -> Tensor:
    """Its result matches again."""
    return op.Neg(op.Identity(x))


@rule(lambda x: op.Neg(x), bounded=True, once=True)
def once(x: Tensor) -> Tensor:
    """Its result matches again, but is left alone."""
    return op.Neg(op.Abs(x))


def test_a_rule_that_raises_fails_with_the_sample() -> None:
    found = attempt(raising, "raising", NEG_NEG)
    assert found.fault is not None and found.fault.kind == "raises"
    assert "rule 'raising' raised IndexError: list index out of range" in found.fault.text
    report = graphopt.check_rule(raising, quick=True)
    assert report.failure is not None and report.failure.kind == "raises" and report.failure.after is None
    assert "raised IndexError" in report.text()


def test_a_rule_that_loops_fails() -> None:
    found = attempt(looping, "looping", model("(float[2] x) => (float[2] y)", "y = Neg (x)"))
    assert found.fault is not None and found.fault.kind == "loops"


def test_a_rule_that_is_applied_once_may_match_its_own_result() -> None:
    found = attempt(once, "once", model("(float[2] x) => (float[2] y)", "y = Neg (x)"))
    assert found.fault is None and found.fired == 1


def test_a_rule_that_goes_on_run_after_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(attempts.Driver):
        def run(self, since: Any = None) -> int:
            return 1

    monkeypatch.setattr(attempts, "Driver", Stubborn)
    found = attempt(twice, "twice", NEG_NEG)
    assert found.fault is not None
    assert found.fault.text == "the rule still fires on its own result after 4 more runs"


@pytest.mark.parametrize(
    ("signature", "body", "kind", "text"),
    [
        ("(float[2] x) => (float[2] y)", "y = Reshape (x, x)", "invalid", "the result is no valid model: "),
        ("(float[2] x) => (float[2] y)", "y = Sigmoid (z)", "invalid", "the result is no valid model: "),
        ("(float[2] x) => (float[2] z)", "z = Neg (x)", "interface",
         "the graph's output was 'y', float[2], and is 'z', float[2]"),
        ("(float[2] x) => (int32[2] y)", "y = Cast <to = 6> (x)", "interface",
         "the graph's output was 'y', float[2], and is 'y', int32[2]"),
        ("(float[2] x) => (float[2] y, float[2] z)", "y = Neg (x) z = Neg (x)", "interface",
         "the graph had 1 outputs, and has 2"),
        ("(float[2] w) => (float[2] y)", "y = Neg (w)", "interface", "the graph has other inputs than before"),
    ],
)  # fmt: skip
def test_a_result_with_another_face_fails(
    monkeypatch: pytest.MonkeyPatch, signature: str, body: str, kind: str, text: str
) -> None:
    monkeypatch.setattr(attempts, "from_ir", lambda *_: model(signature, body))
    fault = attempt(twice, "twice", NEG_NEG).fault
    assert fault is not None and fault.kind == kind and fault.text.startswith(text)


def test_the_reason_of_a_decline_is_counted() -> None:
    @rule(lambda x: op.Neg(op.Neg(x)))
    def shy(x: Tensor) -> Tensor:
        """Always declines."""
        graphopt.require(False, "not today")
        return x

    found = attempt(shy, "shy", NEG_NEG)
    assert (found.fired, found.after, dict(found.declined)) == (0, None, {"not today": 1})
    report = graphopt.check_rule(shy)
    assert report.verdict == "never fired" and report.samples == 240 and report.declined["not today"] > 200
    text = report.text()
    assert "declined" in text and "not today" in text and "tried dtypes: " in text


# -- shrinking ------------------------------------------------------------------------------------


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


def test_numbers_are_tamed_and_the_rest_is_kept() -> None:
    feeds = {"x": F([1, 1e30, np.inf, np.nan]), "i": np.int32([1000])}
    assert str(tame(feeds)["x"].tolist()) == "[1.0, 100.0, inf, nan]" and tame(feeds)["i"] is feeds["i"]
    assert str(tame(feeds, infinite=True)["x"].tolist()) == "[1.0, 100.0, 100.0, 1.0]"
    plain = {"x": F([1])}
    assert tame(plain) is plain
    huge = model("(float[1] x) => (float[1] y)", "y = Mul (x, c)", more="<float c = {1e30}>")
    assert onnx.numpy_helper.to_array(tame_constants(huge).graph.initializer[0]) == 100
    assert tame_constants(NEG_NEG) is NEG_NEG


def test_cancellation_of_huge_numbers_is_no_mistake() -> None:
    @rule(lambda x, y, z: x + y + z, bounded=True, once=True)
    def reordered(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Right, up to rounding."""
        return x + (y + z)

    three = model("(float[1] x, float[1] y, float[1] z) => (float[1] s)", "a = Add (x, y) s = Add (a, z)")
    feeds = {"x": F([1e30]), "y": F([-1e30]), "z": F([1])}
    (found,) = examine(reordered, "reordered", [Example(three, feeds)])
    assert found.status == "same" and "relative error" in found.reason
    (small,) = examine(reordered, "reordered", [Example(three, {n: F([1.0]) for n in "xyz"})])
    assert (small.status, small.reason) == ("same", "")


def test_rounding_of_half_precision_is_no_mistake() -> None:
    """A product in bfloat16 has an error of some thousandths, and the exponential makes much of it."""

    def steep(x: Tensor, a: graphopt.Const, b: graphopt.Const) -> Tensor:
        return op.Exp(x * a * b)

    @rule(steep, bounded=True, shapes={"a": "", "b": ""})
    def together(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Right, up to rounding."""
        return op.Exp(x * (a * b))

    body = "m = Mul (x, a) n = Mul (m, b) y = Exp (n)"
    narrow = model("(bfloat16[40] x) => (bfloat16[40] y)", body, more="<bfloat16 a = {16450}, bfloat16 b = {16468}>")
    x = np.linspace(2, 5, 40).astype(ml_dtypes.bfloat16)
    (found,) = examine(together, "together", [Example(narrow, {"x": x})])
    assert found.status == "same" and "exceeds 0.06" in found.reason


def test_a_model_in_half_precision_is_widened_throughout() -> None:
    body = "a = Cast <to = 16> (x) y = If (c) <then_branch = t () => (bfloat16[1] z) { z = Neg (a) }, " \
        "else_branch = e () => (bfloat16[1] z) { z = Constant <value = bfloat16[1] {16256}> () }>"
    narrow = model("(float16[1] x, bool c) => (bfloat16[1] y)", body)
    wide, feeds = widen(narrow, {"x": np.float16([0.5]), "c": np.array(True)})
    onnx.checker.check_model(wide, full_check=True)
    assert "float16" not in to_text(wide) and feeds["x"].dtype == F and feeds["x"] == 0.5
    assert widen(wide, feeds) == (wide, feeds)


# -- draws ----------------------------------------------------------------------------------------


def test_samples_and_seed_determine_the_outcome() -> None:
    first, again = (graphopt.check_rule(twice, samples=20, seed=5) for _ in range(2))
    assert first.ok and (first.fired, first.declined, first.traits) == (again.fired, again.declined, again.traits)
    assert graphopt.check_rule(twice, samples=20, seed=6).traits != first.traits


def test_quick_draws_fewer_but_enough() -> None:
    assert graphopt.check_rule(twice, quick=True).samples == 16
    assert graphopt.check_rule(twice).samples == 60
    assert graphopt.check_rule(twice, samples=7).samples == 7


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(graphopt.UsageError, match="is no rule"):
        graphopt.check_rule(len)  # type: ignore[arg-type]
    with pytest.raises(graphopt.UsageError, match="cannot draw 0 samples"):
        graphopt.check_rule(twice, samples=0)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    graphopt.check_rule(twice, samples=40, progress=lambda done, of: told.append((done, of)))
    assert told == [(20, 40), (40, 40)]


def test_fast_rules_are_not_asked_about_infinities() -> None:
    @rule(lambda x: op.Log(1 + op.Exp(x)), accuracy="fast")
    def softplus(x: Tensor) -> Tensor:
        """Where Exp does not overflow."""
        graphopt.require(x.dtype.is_floating_point() and x.dtype.name != "DOUBLE", "no kernel")
        return op.Softplus(x)

    assert graphopt.check_rule(softplus).ok


def test_a_rule_that_ends_the_process_is_caught() -> None:
    @rule(lambda x, y: op.Max(op.Min(x, y), y), accuracy="exact", bounded=True, shapes={"x": "i32:N C", "y": "i32:N C"})
    def fatal(x: Tensor, y: Tensor) -> Tensor:
        """Divides the smallest integer by -1."""
        nothing = x * 0
        return op.Div(nothing - 2**31, nothing - 1)

    report = graphopt.check_rule(fatal)
    assert report.failure is not None and report.failure.kind == "dies"
    assert "SIGFPE" in report.failure.what


def test_a_result_of_unknown_operators_is_never_fine() -> None:
    foreign = Domain("no.such.domain")

    @rule(lambda x: op.Neg(op.Neg(x)))
    def plugin(x: Tensor) -> Tensor:
        """Nobody here runs the result."""
        return foreign.Twice(x)

    report = graphopt.check_rule(plugin, quick=True)
    assert report.verdict in ("wrong", "never fired")
