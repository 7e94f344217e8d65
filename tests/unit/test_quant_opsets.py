"""Old models are lifted to the opset that quantization needs, or left as they are, with a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphopt
from graphopt import QuantOptions, quantize_graph
from graphopt.engine.tools import Tool, ToolError
from graphopt.ir.edit import Editor
from graphopt.quant import lift
from graphopt.quant.lift import lift_opset
from graphopt.targets.target import load_target
from tests.unit.outcome import CLASSIFIER, TARGETS, Outcome, classifier, floats, model, quantized


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("opset", range(7, 13))
def test_old_models_get_the_opset_that_a_scale_per_channel_needs(opset: int, target: str) -> None:
    done = Outcome(classifier(opset), target)
    assert done.model.opset_import[0].version == 13
    assert done.noted(f"opset {opset} became 13") and done.integer == 2 and done.snr > 30
    scales = {n.input[1] for n in done.model.graph.node if n.op_type == "DequantizeLinear"}
    assert {tuple(t.dims) for t in done.model.graph.initializer if t.name in scales} >= {(8,), (10,)}


def test_a_model_with_nothing_to_quantize_keeps_its_opset() -> None:
    text = "g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }"
    done = Outcome(model(text, 11), "ort-cpu")
    assert done.model.opset_import[0].version == 11 and done.noted("its weight is computed at run time")
    old = Outcome(model(text, 9), "ort-cpu")  # the reason is not that it is old: that was left so on purpose
    assert old.model.opset_import[0].version == 9 and old.noted("its weight is computed at run time")


def test_one_scale_per_weight_needs_no_opset_13() -> None:
    found = graphopt.load(classifier(10))
    quantize_graph(found, Editor(found), load_target("onnx"), QuantOptions(per_channel=False), None)
    assert found.opset() == 10


@pytest.mark.parametrize(("opset", "operators"), [(11, 2), (8, 0)])
def test_a_converter_that_fails_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch, opset: int, operators: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ToolError("onnx does not know how")

    monkeypatch.setattr(Tool, "run", fail)
    found, done, told = quantized(classifier(opset))
    assert (found.opset(), done.operators) == (opset, operators)
    why = f"opset {opset} stays, though 13 is better: onnx does not know how"
    assert told == [why] and why in done.notes


def test_a_conversion_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = graphopt.load(model(CLASSIFIER, 13, w=floats(8, 3, 3, 3), b=floats(8), v=floats(8, 10), d=-floats(10)))
    monkeypatch.setattr(Tool, "run", lambda *_, **__: wrong.ir)
    found, _, told = quantized(classifier(11))
    assert found.opset() == 11 and "the converted model computes something else" in told[0]


def test_no_conversion_to_what_the_target_does_not_take() -> None:
    found = graphopt.load(classifier(11))
    target = replace(load_target("onnx"), domains={"": 12})
    told: list[str] = []
    note = lift.lift_opset(found, Editor(found), target, 13, decline=lambda *what: told.append(what[2]))
    assert told == [note] == ["opset 11 stays, though 13 is better: the target does not take opset 13"]


def test_a_conversion_is_checked_on_the_data_and_not_taken_unchecked() -> None:
    text = "g (float[N] x) => (float[2,4,6,6] y) { r = Reshape(x, s) y = Conv(r, w) }"
    old = model(text, 11, w=floats(4, 3, 3, 3), s=np.array([2, 3, 8, 8]))  # which N it takes, nobody can guess
    found, done, _ = quantized(old, x=floats(384))
    assert found.opset() == 13 and done.operators == 1
    loaded, told = graphopt.load(old), []
    lift_opset(loaded, Editor(loaded), load_target("onnx"), 13, decline=lambda *what: told.append(what[2]))
    assert loaded.opset() == 11 and "it cannot be checked that the converted model computes the same" in told[0]


def test_a_pad_that_repeats_its_input_is_converted_with_a_filler() -> None:
    pad = 'p = Pad<mode="reflect", pads=[0,0,1,1,0,0,1,1], value=0.0>(x)'
    text = f"g (float[1,3,8,8] x) => (float[1,4,8,8] y) {{ {pad} y = Conv(p, w) }}"
    done = Outcome(model(text, 10, w=floats(4, 3, 3, 3)), "ort-cpu")
    assert done.model.opset_import[0].version == 13 and done.integer == 1 and done.snr > 30
