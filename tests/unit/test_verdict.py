"""Which model is kept after quantization. Nothing here looks at a clock: the times are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.engine.goals import Goals
from graphopt.errors import GateError, UsageError
from graphopt.ir.save import to_bytes
from graphopt.quant import verdict as verdicts
from graphopt.quant.verdict import judge
from graphopt.report.json import to_json
from graphopt.report.table import to_text
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.latency import Latency
from graphopt.runtime.package import Package
from graphopt.runtime.speedup import Speedup, speedup, summarise
from tests.unit.engine import model

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = FIXTURES / "models" / "residual_cnn.onnx"
EMPTY = Package(b"", (), (), ())


def times(ratio: float, low: float, high: float) -> Speedup:
    after = 2e-3
    return Speedup(
        Latency(after * ratio, after * low, after * high, 20), Latency(after, after, after, 20), ratio, low, high
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Speedup | Exception]:
    """What the next measurements find, in order."""
    found: list[Speedup | Exception] = []

    def measure(*_: Any, **__: Any) -> Speedup:
        result = found.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(verdicts, "speedup", measure)
    return found


SURE, UNSURE, SLOWER = times(2.5, 2.4, 2.6), times(1.2, 0.9, 1.5), times(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("found", "force", "kept", "faster", "forced"),
    [
        (SURE, False, "quantized", True, False),
        (SURE, True, "quantized", True, False),
        (UNSURE, False, "float", False, False),
        (SLOWER, False, "float", False, False),
        (SLOWER, True, "quantized", False, True),
        (times(1.02, 1.01, 1.03), False, "float", False, False),
    ],
)
def test_what_is_kept(
    clock: list[Any], found: Speedup, force: bool, kept: str, faster: bool, forced: bool
) -> None:
    clock.append(found)
    verdict = judge(EMPTY, EMPTY, {"x": np.zeros((2, 3))}, Goals(force=force))
    assert (verdict.kept, verdict.faster, verdict.forced) == (kept, faster, forced)
    assert verdict.shapes == {"x": (2, 3)}


def test_what_cannot_be_timed_is_kept(clock: list[Any]) -> None:
    clock.append(ExecutorError("there is no such kernel"))
    verdict = judge(EMPTY, EMPTY, {}, Goals())
    assert (verdict.kept, verdict.speedup, verdict.reason) == ("quantized", None, "there is no such kernel")
    assert verdict.misses(None) is None
    assert verdict.misses(1.5) == "a speedup of 1.5 was asked for, and none could be measured: there is no such kernel"


def run(**options: Any) -> graphopt.Result:
    return graphopt.optimize(CNN, "fuse,quant", target="ort-cpu", data=FIXTURES / "data/digits_calib.npz", **options)


def ops(found: Any) -> set[str]:
    return {node.op_type for node in found.ir.graph}


def shown(found: graphopt.Model) -> tuple[Any, ...]:
    """Nodes and constants, without what is noted on them."""
    proto = onnx.load_from_string(to_bytes(found.ir))
    nodes = [(n.op_type, tuple(n.input), tuple(n.output), str(n.attribute)) for n in proto.graph.node]
    constants = {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in proto.graph.initializer}
    return nodes, constants, str(proto.graph.input), str(proto.graph.output), str(proto.opset_import)


def test_a_faster_model_is_kept(clock: list[Any]) -> None:
    clock.append(SURE)
    result = run()
    assert "QuantizeLinear" in ops(result.model)
    assert result.report.verdict.kept == "quantized"
    assert result.report.coverage.integer == 10
    assert "verdict    the quantized model is faster" in str(result.report)
    assert "5.00 ms in float, 2.00 ms quantized: 2.50× (2.40 … 2.60), 20 runs each" in str(result.report)


def test_the_float_model_is_put_back(clock: list[Any]) -> None:
    clock.append(SLOWER)
    result = run()
    fused = graphopt.optimize(CNN, "fuse", target="ort-cpu")
    assert shown(result.model) == shown(fused.model)
    report = result.report
    assert (report.verdict.kept, report.calibration, report.coverage) == ("float", None, None)
    assert report.verification is not None and report.verification.accuracy == "close"
    assert result.journal.entries[-1].rule == "quant.taken_back"
    quant = next(item for item in report.passes if item.name == "quant")
    assert quant.nodes_added == 0
    assert quant.fired["quant.taken_back"] == 1
    assert quant.notes[0] == "10 operators quantized, from 4 batches; then the float model was put back"
    assert "NOT FASTER: kept float" in to_text(report) and "corrected" not in to_text(report)
    assert "--force keeps the quantized one" in to_text(report)
    read = json.loads(json.dumps(to_json(report)))["verdict"]
    assert (read["kept"], read["faster"], read["speedup"]["ratio"]) == ("float", False, 0.5)
    assert read["speedup"]["after"] == {"median": 2.0, "low": 2.0, "high": 2.0, "runs": 20}


def test_the_float_model_says_nothing_of_made_up_ranges(clock: list[Any]) -> None:
    clock.append(SLOWER)
    result = graphopt.optimize(CNN, "quant", target="ort-cpu")
    assert "graphopt.calibration" not in result.model.metadata


def test_the_report_tells_what_is_in_the_model_when_a_pass_may_not_do_all_of_its_work() -> None:
    """Pairs without a stored weight gain nothing: with a budget, they are taken out again."""
    options = {"target": "ort-cpu", "max_drop": 50.0, "force": True, "as_": "proto"}
    done = graphopt.optimize(CNN, "quant", ignore=["quant.weight"], **options)  # type: ignore[arg-type]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in done.model.graph.node}
    assert (done.report.calibration, done.report.coverage, done.report.quantized) == (None, None, [])
    assert not [gain for gain in done.report.gains if "bias" in str(gain)]
    assert not done.model.metadata_props


@pytest.mark.parametrize(("stop", "guess"), [(0, False), (3, True), (100, True)])
def test_guesses_are_flagged_wherever_a_run_ends(stop: int, guess: bool) -> None:
    first = graphopt.optimize(CNN, "fuse,layout", target="ort-cpu", as_="proto").model
    done = graphopt.optimize(first, "quant{correct=none}", target="ort-cpu", stop_after=stop, as_="proto", verify=False)
    pairs = "QuantizeLinear" in {n.op_type for n in done.model.graph.node}
    assert ("graphopt.calibration" in {p.key for p in done.model.metadata_props}) is pairs is guess


def test_forced(clock: list[Any]) -> None:
    clock.append(SLOWER)
    result = run(force=True)
    assert "QuantizeLinear" in ops(result.model)
    assert "NOT FASTER, but quantized all the same" in str(result.report)


def test_taking_back_can_be_ignored(clock: list[Any]) -> None:
    clock.append(SLOWER)
    result = run(ignore=["quant.taken_back"])
    assert "QuantizeLinear" in ops(result.model)
    assert result.report.verdict.kept == "quantized"
    assert "the float model could not be put back: it is ignored" in str(result.report)


def test_the_gate(clock: list[Any]) -> None:
    clock += [times(1.4, 1.3, 1.5), times(1.6, 1.55, 1.7)]
    with pytest.raises(GateError, match=r"the quantized model is 1\.40 times as fast as the float one, not 1\.5 times"):
        run(min_speedup=1.5)
    assert run(min_speedup=1.5).report.verdict.faster


def test_the_gate_needs_something_quantized() -> None:
    with pytest.raises(GateError, match="nothing was quantized") as missed:
        graphopt.optimize(CNN, "fuse", min_speedup=1.1)
    assert missed.value.report.source == str(CNN)


@pytest.mark.parametrize("least", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gate_that_makes_no_sense(least: float) -> None:
    with pytest.raises(UsageError, match="min_speedup is "):
        graphopt.optimize(CNN, "fuse", min_speedup=least)


def test_a_run_that_is_to_end_early_is_not_timed(clock: list[Any]) -> None:
    result = run(stop_after=60)
    assert result.report.verdict.reason == "the run is to end at rewrite 60"
    assert "verdict    not timed: the run is to end at rewrite 60" in str(result.report)


def test_a_target_that_does_not_run_here_is_not_timed(clock: list[Any]) -> None:
    result = graphopt.optimize(CNN, "fuse,quant", target="tensorrt-rtx", verify=False)
    assert result.report.verdict.kept == "quantized"
    assert result.report.verdict.reason == "the runtime of tensorrt-rtx is not timed here"


def test_a_model_without_anything_to_quantize_is_not_timed(clock: list[Any]) -> None:
    small = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert graphopt.optimize(small, "quant", target="ort-cpu").report.verdict is None


def test_bisecting_takes_the_same_course_each_time(clock: list[Any]) -> None:
    graphopt.bisect(CNN, "fuse,quant", target="ort-cpu", data=FIXTURES / "data/digits_calib.npz")
    assert not clock


def test_pairs_of_times() -> None:
    found = summarise([3.0, 6.0, 4.0, 2.0, 8.0], [1.0, 2.0, 2.0, 1.0, 2.0])
    assert (found.ratio, found.low, found.high) == (3.0, 2.0, 4.0)
    assert (found.before.median, found.after.median, found.after.runs) == (4.0, 2.0, 5)
    many = summarise([2.0] * 99 + [50.0], [1.0] * 100)
    assert (many.low, many.high) == (2.0, 2.0), "an outlier is no news"


def test_timing_two_models() -> None:
    """One Relu against a product of large matrices."""
    node = helper.make_node("Relu", ["x"], ["y"])
    slow = [helper.make_node("MatMul", ["x", "x"], ["a"]), helper.make_node("MatMul", ["a", "x"], ["y"])]
    found = speedup(_package(slow), _package([node]), {"x": np.ones((64, 64), np.float32)}, seconds=0.0)
    assert found.before.runs == found.after.runs == 5
    assert found.low <= found.ratio <= found.high


def _package(nodes: list[onnx.NodeProto]) -> Package:
    from graphopt.runtime.package import package

    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, 64]) for name in "xy"]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return package(graphopt.load(proto).ir)
