"""The rule checker's judge: what two executors say of a model and its result, and when they are believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.check.judge import judge
from graphopt.rules.rule import Accuracy
from graphopt.runtime.distrust import distrusted, mistaken
from graphopt.runtime.trial import Outcome
from tests.unit.checking import ONE, TWO, F, model

EXACT, CLOSE, FAST, APPROX = Accuracy


def said(ort: Any, reference: Any) -> dict[Any, Outcome]:
    """What the executors make of a model with one output: an array, or a message instead."""
    pairs = (("onnxruntime", ort), ("reference", reference))
    return {name: Outcome(error=x) if isinstance(x, str) else Outcome({"y": np.asarray(x)}) for name, x in pairs}


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
