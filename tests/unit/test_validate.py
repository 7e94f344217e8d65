"""Verification: agreement, failure, disputes that are settled, and models of which nothing can be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.runtime.run import Session
from graphopt.verify import validate as module
from graphopt.verify.validate import verify


def model(
    body: str, signature: str = "(float[n, 4] x) => (float[n, 4] y)", more: str = "", opset: str = ""
) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 9, opset_import: ["": 18{opset}]> g {signature} {more} {{ {body} }}')


NEG = model("y = Neg(x)")
TWICE = model("a = Neg(x) b = Neg(a) y = Neg(b)")


def test_equal_models_are_ok() -> None:
    found = verify(NEG, TWICE, accuracy="exact", samples=3)
    assert (found.status, found.reason, found.executor, found.feeds) == ("ok", None, "onnxruntime", "synthetic")
    assert found.samples == 3 and found.seconds > 0 and found.outputs[0].identical


def test_the_samples_may_be_given() -> None:
    data = [{"x": np.full((1, 4), value, np.float32)} for value in range(5)]
    found = verify(NEG, TWICE, data=data, samples=2)
    assert (found.status, found.feeds, found.samples) == ("ok", "data", 2)


def test_of_samples_that_agree_the_one_that_varies_is_told() -> None:
    dead, alive = {"x": np.zeros((1, 4), np.float32)}, {"x": np.float32([[1, 2, 3, 4]])}
    assert verify(NEG, TWICE, data=[dead, dead], samples=2).outputs[0].uniform
    assert not verify(NEG, TWICE, data=[dead, alive, dead], samples=3).outputs[0].uniform


def test_a_difference_fails_and_names_the_worst_output() -> None:
    signature = "(float[n, 4] x) => (float[n, 4] y, float[n, 4] z)"
    original = model("y = Neg(x) z = Exp(x)", signature)
    result = model("y = Neg(x) a = Exp(x) z = Mul(a, c)", signature, "<float c = {1.01}>")
    found = verify(original, result)
    assert found.status == "failed" and found.executor == "onnxruntime"
    assert found.reason is not None and found.reason.startswith("output 'z': relative error 0.00")
    assert [output.ok for output in found.outputs] == [True, False]
    assert found.worst is found.outputs[1]
    assert verify(original, result, tolerance=0.1).status == "ok"
    assert verify(original, result, accuracy="approx").status == "ok"


def test_nan_out_of_place_is_never_taken_for_noise() -> None:
    result = model("l = Log(x) n = Mul(l, zero) y = Add(x, n)", more="<float zero = {0}>")  # x, or NaN below 0
    data = [{"x": np.float32([[1, 2, -3, 4]])}]
    found = verify(model("y = Identity(x)"), result, data=data)
    assert (found.status, found.reason) == ("failed", "output 'y': 1 values are NaN on one side only")


def test_the_worst_sample_counts() -> None:
    result = model("y = Abs(x)")
    original = model("y = Identity(x)")
    data = [{"x": np.float32([[value] * 4])} for value in (1, -1, 2)]
    assert verify(original, result, data=data[:1], samples=3).status == "ok"
    assert verify(original, result, data=data, samples=3).outputs[0].max_abs == 2


def test_a_result_that_does_not_run_fails() -> None:
    found = verify(NEG, model("y = Reshape(x, s)", more="<int64[2] s = {5, 7}>"))
    assert found.status == "failed" and found.reason is not None
    assert found.reason.startswith("ONNX Runtime runs the original, but not the result: ")
    found = verify(NEG, model("y = Nope(x)"))
    assert "No Op registered for Nope" in str(found.reason)


def test_a_missing_output_fails() -> None:
    found = verify(NEG, model("z = Neg(x)", "(float[n, 4] x) => (float[n, 4] z)"))
    assert (found.status, found.reason) == ("failed", "output 'y': the result has no such output")


def test_what_nothing_runs_is_skipped() -> None:
    local = ', "mine": 1'
    unknown = model("y = mine.What(x)", opset=local)
    found = verify(unknown, unknown)
    assert found.status == "skipped" and found.executor == "none"
    assert str(found.reason).startswith("nothing here runs the model. ONNX Runtime: ")


@pytest.mark.parametrize("op", ["RandomNormalLike(x)", "RandomUniformLike(x)", "Bernoulli(p)"])
def test_random_outputs_are_left_out(op: str) -> None:
    body = f"p = Sigmoid(x) y = {op}"
    signature = "(float[n, 400] x) => (float[n, 400] y)"  # two draws of few elements may be equal
    found = verify(model(body, signature), model(body, signature))
    assert (found.status, found.reason) == ("skipped", "the model is random: no output is the same twice")
    signature = "(float[n, 400] x) => (float[n, 400] y, float[n, 400] z)"
    found = verify(model(body + " z = Neg(x)", signature), model(body + " z = Neg(x)", signature))
    assert (found.status, found.left_out) == ("ok", ("y",))
    assert [output.name for output in found.outputs] == ["z"]


def test_inputs_that_cannot_be_made_up_skip() -> None:
    sequence = model("y = ConcatFromSequence<axis=0>(x)", "(seq(float[n]) x) => (float[m] y)")
    found = verify(sequence, sequence)
    assert found.status == "skipped" and "input 'x' is not a tensor" in str(found.reason)


def test_the_reference_evaluator_settles_a_bug_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    _break_second_session(monkeypatch, 0.5)
    found = verify(NEG, TWICE)
    assert (found.status, found.executor) == ("ok", "reference")
    assert str(found.reason).startswith("settled by the reference evaluator; under ONNX Runtime, output 'y': relative")


def test_a_difference_like_that_between_the_executors_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    _break_second_session(monkeypatch, 1e-3)
    noisy = iter([1 + 1e-3, 1 - 1e-3])
    original = module.Original.reference

    def reference(self: Any, packed: Any) -> Any:
        factor = np.float32(next(noisy))
        return [{name: array * factor for name, array in sample.items()} for sample in original(self, packed)]

    monkeypatch.setattr(module.Original, "reference", reference)
    found = verify(NEG, TWICE)
    assert found.status == "ok" and str(found.reason).endswith("but two executors differ as much on the original")


def test_a_wrong_result_is_not_settled() -> None:
    found = verify(model("y = Abs(x)"), model("y = Neg(x)"))
    assert found.status == "failed" and found.executor == "onnxruntime"


def test_a_model_that_kills_the_runtime_is_survived() -> None:
    divide = model("y = Div(a, b)", "(int32[1] a, int32[1] b) => (int32[1] y)")
    deadly = [{"a": np.int32([-(2**31)]), "b": np.int32([-1])}]
    found = verify(divide, divide, data=deadly)
    assert found.status == "ok" and found.executor == "reference"
    assert "killed by SIGFPE" in str(found.reason)


def test_an_endless_model_is_skipped() -> None:
    loop = model(
        "m = Constant<value_int=9223372036854775807>() g = Constant<value_int=1>() c = Cast<to=9>(g)"
        " y = Loop(m, c, x) <body = b (int64 i, bool k, float v) => (bool d, float w)"
        " { d = Identity(k) w = Identity(v) }>",
        "(float x) => (float y)",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_REFERENCE_TIMEOUT", 0.5)
        found = verify(loop, loop, timeout=0.5)
    assert found.status == "skipped" and "stopped after 0.5 s without a result" in str(found.reason)


def _break_second_session(monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    """Make ONNX Runtime wrong, as its bugs do: from its second session on, results are off by a factor."""
    run, seen = Session.run, []

    def broken(session: Session, *args: Any) -> dict[str, Any]:
        if session not in seen:
            seen.append(session)
        factor = np.float32(1 + offset if len(seen) > 2 else 1)  # the first session only tries sizes
        return {name: array * factor for name, array in run(session, *args).items()}

    monkeypatch.setattr(Session, "run", broken)
