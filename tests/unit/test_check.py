"""The rule checker: what it runs, one attempt of a rule, and rules that fail otherwise than by wrong numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import Domain, Tensor, op, rule
from graphopt.check import attempt as attempts
from graphopt.check.attempt import attempt
from graphopt.check.execute import run_pairs
from graphopt.check.finding import Example, examine
from graphopt.check.modest import tame, tame_constants
from graphopt.check.widen import widen
from graphopt.ir.text import to_text
from tests.unit.checking import NEG_NEG, ONE, F, model, twice

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
