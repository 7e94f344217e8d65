"""Quantizing within a budget, on a network of which one layer breaks in 8 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.errors import GateError, UsageError
from graphopt.ir.save import to_bytes
from graphopt.report.json import dumps, to_json

FIXTURES = Path(__file__).parents[2] / "fixtures"
CALIBRATION = FIXTURES / "data" / "digits_calib.npz"
IMAGES = np.load(FIXTURES / "data" / "digits_test.npz")["image"]
LABELS = np.load(FIXTURES / "data" / "digits_labels.npy")


def accuracy(run: Any) -> float:
    return float((run({"image": IMAGES})["logits"].argmax(1) == LABELS).mean())


class Counted:
    """A metric that counts how often it is asked."""

    def __init__(self, metric: Callable[[Any], float] = accuracy) -> None:
        self.metric = metric
        self.calls = 0

    def __call__(self, run: Any) -> float:
        self.calls += 1
        return self.metric(run)


def spoilt(*changes: tuple[int, int, Any, float]) -> tuple[onnx.ModelProto, str, str]:
    """The fixture's network, fused, with other weights, and the names of the two convolutions that they belong to.

    `changes`: which of the two, input, where in it, and the value.
    """
    path = FIXTURES / "models" / "residual_cnn.onnx"
    fused = graphopt.optimize(path, "fuse", target="ort-cpu", verify=False).model
    proto = onnx.load_from_string(to_bytes(fused.ir))
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    pair = [node for node in proto.graph.node if node.op_type == "Conv"][3:5]
    for conv, index, where, value in changes:
        name = pair[conv].input[index]
        array = numpy_helper.to_array(tensors[name]).copy()
        array[where] = value
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return proto, pair[0].name, pair[1].name


@pytest.fixture(scope="module")
def seeded() -> tuple[onnx.ModelProto, str]:
    """A convolution with large weights on a channel that is always zero: nothing is left of the others in 8 bits.

    Its name, too.
    """
    proto, _, second = spoilt((0, 1, 0, 0.0), (0, 2, 0, -1.0), (1, 1, (slice(None), 0), 1e4))
    return proto, second


def quantize(model: Any, **options: Any) -> graphopt.Result:
    return graphopt.optimize(model, "quant{correct=bias}", target="ort-cpu", data=CALIBRATION, verify=False, **options)


def dequantized(result: graphopt.Result) -> set[str]:
    """Names of convolutions and products that read a stored weight."""
    return {
        n.name for n in result.model.graph.node
        if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in _by(result, "DequantizeLinear")
    }  # fmt: skip


def _by(result: graphopt.Result, op: str) -> set[str]:
    return {n.output[0] for n in result.model.graph.node if n.op_type == op}


def test_the_layer_that_breaks_is_found_and_kept_float(seeded: tuple[onnx.ModelProto, str]) -> None:
    proto, broken = seeded
    metric = Counted()
    result = quantize(proto, evaluate=metric)
    budget = result.report.budget
    assert [item.name for item in budget.kept] == [broken]
    assert budget.kept[0].state == "float" and budget.kept[0].why.startswith("weight, ")
    assert dequantized(result) == {n.name for n in proto.graph.node if n.op_type in ("Conv", "Gemm")} - {broken}
    assert budget.probes <= 2 + math.log2(budget.candidates)
    assert metric.calls == budget.probes + 4, "of the float model twice, of the original and of the result once"
    assert budget.max_drop == 1.0, "the default where there is a metric"
    assert result.report.metric_after == budget.after >= budget.least


def test_without_a_metric_the_outputs_have_to_agree(seeded: tuple[onnx.ModelProto, str]) -> None:
    proto, broken = seeded
    result = quantize(proto, max_drop=1.0)
    budget = result.report.budget
    assert (budget.metric, budget.before) == ("agreement", 100.0)
    assert [item.name for item in budget.kept] == [broken]
    assert 99.0 <= budget.after < 100.0
    assert "agreement 100 → 99.98" in str(result.report)


def test_what_is_good_enough_is_asked_once(seeded: tuple[onnx.ModelProto, str]) -> None:
    metric = Counted()
    result = quantize(FIXTURES / "models" / "residual_cnn.onnx", evaluate=metric)
    budget = result.report.budget
    assert (budget.probes, budget.kept, budget.met) == (1, (), True)
    assert result.report.sensitivity is None


def test_a_budget_that_nothing_meets_leaves_the_float_model() -> None:
    """The metric is 1 for the float model only."""
    path = FIXTURES / "models" / "residual_cnn.onnx"
    exact = graphopt.optimize(path, "fuse", target="ort-cpu", verify=False).model
    from graphopt.runtime.package import package
    from graphopt.runtime.run import run_model

    wanted = run_model(package(exact.ir), {"image": IMAGES}, optimized=True)["logits"]

    def same(run: Any) -> float:
        return float(np.abs(run({"image": IMAGES})["logits"] - wanted).max() < 1e-3)

    result = graphopt.optimize(path, "quant", target="ort-cpu", data=CALIBRATION, evaluate=same)
    report = result.report
    assert not report.budget.met
    assert report.budget.probes <= 2 + math.log2(report.budget.candidates)
    assert (report.metric_before, report.metric_after, report.verdict) == (1.0, 1.0, None)
    assert "QuantizeLinear" not in {n.op for n in result.model.main.nodes}
    assert "NOT MET by any quantized model: kept float" in str(report)


def test_the_search_goes_on_where_it_ended(seeded: tuple[onnx.ModelProto, str], tmp_path: Path) -> None:
    proto, broken = seeded
    notes = tmp_path / "search.json"

    def interrupted(run: Any) -> float:
        if first.calls == 5:
            raise KeyboardInterrupt
        return accuracy(run)

    first = Counted(interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize(proto, evaluate=first, resume=notes)
    known = json.loads(notes.read_text())["sections"]
    assert len(known["float"]) == 2 and len(known["probes"]) == 2
    metric = Counted()
    budget = quantize(proto, evaluate=metric, resume=notes).report.budget
    assert [item.name for item in budget.kept] == [broken]
    assert metric.calls == budget.probes - 2 + 2
    again = Counted()
    quantize(proto, evaluate=again, resume=notes)
    assert again.calls == 2, "the original and the result only"
    other = Counted()
    quantize(proto, evaluate=other, resume=notes, max_drop=2.0)
    assert other.calls > 4, "another budget is another search"


def test_the_record_of_another_metric_or_of_other_data_is_not_used(tmp_path: Path) -> None:
    """The agreement of outputs is 100 for the float model; the share of right answers is not."""
    path, notes = FIXTURES / "models" / "residual_cnn.onnx", tmp_path / "notes.json"
    marks = []
    for options in ({}, {"evaluate": accuracy}, {"evaluate": Counted()}, {"data": None}):
        given = {"data": CALIBRATION, "max_drop": 1.0, "resume": notes, **options}
        done = graphopt.optimize(path, "quant{correct=bias}", target="ort-cpu", verify=False, force=True, **given)
        marks.append(json.loads(notes.read_text())["fingerprint"])
        assert done.report.budget.before == (pytest.approx(accuracy_of_float()) if "evaluate" in options else 100.0)
    assert len(set(marks)) == 4


def accuracy_of_float() -> float:
    from graphopt.ir.load import read_model
    from graphopt.runtime.package import package
    from graphopt.runtime.run import run_model

    ir, _ = read_model((FIXTURES / "models" / "residual_cnn.onnx").read_bytes())
    return accuracy(lambda feeds: run_model(package(ir), feeds))


@pytest.mark.parametrize(
    ("passes", "kinds"),
    [("quant{kind=weights,weight=int4,block=16}", {"max_drop": 50.0}), ("quant{kind=dynamic}", {"sensitivity": True})],
)
def test_a_budget_changes_nothing_of_what_is_quantized_at_run_time(passes: str, kinds: dict[str, Any]) -> None:
    """Its layers are not equalized, and its weights are corrected all the same."""
    path = FIXTURES / "models" / "vit.onnx"
    plain, searched = (
        graphopt.optimize(path, passes, target="ort-cpu", data=CALIBRATION, verify=False, force=True, as_="proto", **more)
        for more in ({}, kinds)
    )
    arrays = [{t.name: numpy_helper.to_array(t) for t in r.model.graph.initializer} for r in (plain, searched)]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(np.array_equal(a, arrays[1][name]) for name, a in arrays[0].items())


def test_what_is_no_record_is_not_overwritten(seeded: tuple[onnx.ModelProto, str], tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text in ("{}", "no json", '{"schema": "graphopt.report/1"}'):
        file.write_text(text)
        with pytest.raises(UsageError, match="is no record of a search"):
            quantize(seeded[0], max_drop=1.0, resume=file)
        assert file.read_text() == text


def raising(_: Any) -> float:
    raise ValueError("no labels")


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        (raising, "the metric raised ValueError: no labels"),
        (lambda _: float("nan"), "the metric returned nan, which is no measure"),
        (lambda _: float("inf"), "the metric returned inf, which is no measure"),
        (lambda _: None, "the metric returned NoneType, which is no number"),
        (lambda _: "good", "the metric returned str, which is no number"),
        (lambda _: np.ones(3), "the metric returned ndarray, which is no number"),
    ],
)
def test_a_bad_metric(metric: Any, what: str) -> None:
    for passes in ("quant", "cleanup"):
        with pytest.raises(UsageError) as error:
            graphopt.optimize(
                FIXTURES / "models" / "vit.onnx", passes, target="ort-cpu", data=CALIBRATION, evaluate=metric
            )
        assert error.value.what == what


def wavering(by: float) -> Callable[[Any], float]:
    values = iter([1.0, 1.0 - by])
    return lambda _: next(values, 1.0)


def test_a_metric_that_does_not_repeat_itself() -> None:
    path = FIXTURES / "models" / "residual_cnn.onnx"
    with pytest.raises(UsageError) as error:
        quantize(path, evaluate=wavering(0.02))
    assert error.value.what == (
        "the metric gives 1 and then 0.98 for the same model, which is more than the 1 % that it may fall"
    )
    assert error.value.hint == "seed what is random in it, or evaluate more samples"
    result = quantize(path, evaluate=wavering(0.005))
    assert "the metric gives 1 and then 0.995 for the same float model" in str(result.report)


def test_the_gate_is_there_without_quant_only_if_asked_for() -> None:
    values = iter([1.0, 0.5, 1.0, 0.5])
    path = FIXTURES / "models" / "residual_cnn.onnx"
    assert graphopt.optimize(path, "cleanup", evaluate=lambda _: next(values)).report.metric_after == 0.5
    with pytest.raises(GateError, match="the metric falls from 1 to 0") as missed:
        graphopt.optimize(path, "cleanup", evaluate=lambda _: next(values), max_drop=1.0)
    assert missed.value.report.metric_after == 0.5
    with pytest.raises(UsageError, match="max_drop needs a metric"):
        graphopt.optimize(path, "cleanup", max_drop=1.0)
    with pytest.raises(UsageError, match="nothing is quantized whose sensitivity could be measured"):
        graphopt.optimize(path, "cleanup", sensitivity=True)


def test_the_ranking(seeded: tuple[onnx.ModelProto, str]) -> None:
    proto, broken = seeded
    report = quantize(proto, sensitivity=True).report
    found = report.sensitivity
    worst = found.worst()[0]
    assert worst.name == broken
    assert found.carrier(worst)[0] == "weight"
    rest = found.worst()[1:]
    assert found.of(worst) > 1000 * found.of(rest[0])
    assert len(found.operators) == 10
    assert "layer" in str(report) and "weight, " in str(report)
    read = json.loads(dumps(to_json(report)))["sensitivity"]
    assert read["operators"][0]["name"] == broken
    assert (read["operators"][0]["carrier"], read["operators"][0]["value"]) == ("weight", None)


@pytest.mark.parametrize("passes", ["quant{kind=weights}", "quant{kind=dynamic}", "quant{skip=*}"])
def test_a_ranking_that_there_cannot_be_is_not_left_out_in_silence(passes: str) -> None:
    path = FIXTURES / "models" / "residual_cnn.onnx"
    done = graphopt.optimize(path, passes, target="ort-cpu", data=CALIBRATION, verify=False, sensitivity=True)
    assert done.report.sensitivity is None
    assert any("no sensitivity: " in note for item in done.report.passes for note in item.notes)


def test_an_activation_that_breaks_is_found() -> None:
    """A bias of 1e5 on one channel, which the product behind it ignores: the others vanish in its range."""
    proto, first, second = spoilt((0, 2, 0, 1e5), (1, 1, (slice(None), 0), 0.0))
    report = quantize(proto, evaluate=accuracy, sensitivity=True).report
    found = report.sensitivity
    worst = max(found.tensors, key=lambda tensor: tensor.noise)
    assert [found.operators[i].name for i in worst.readers] == [second]
    assert [found.operators[i].name for i in worst.writers] == [first]
    names = {item.name for item in report.budget.kept}
    assert {first, second} <= names
    assert report.budget.probes <= 2 + math.log2(report.budget.candidates)
