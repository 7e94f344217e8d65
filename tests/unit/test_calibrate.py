"""Calibration in the child process."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import optimize
from graphopt.errors import DataError, TargetError, UsageError
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant import QuantOptions, quantize_graph
from graphopt.quant.calibrate import Calibration, Watch, calibrate
from graphopt.runtime.executor import Executor
from graphopt.targets.target import load_target

RESIDUAL_CNN = Path(__file__).parents[2] / "fixtures" / "models" / "residual_cnn.onnx"


def model() -> Model:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x, float[N,2] z) => (float[N,2] y) '
        "<float[2,2] w = {1, 2, 3, 4}> { a = MatMul(x, w)  b = Sqrt(z)  y = Add(a, b) }"
    )
    return Model(*read_model(proto.SerializeToString()))


def batches(*values: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((3, 2), v, np.float32), "z": np.full((3, 2), 4.0, np.float32)} for v in values]


def test_statistics_of_inputs_and_inner_values() -> None:
    seen: list[int] = []
    found = calibrate(model(), ["x", "a", "y"], batches(1.0, -2.0), progress=lambda n, _: seen.append(n))
    assert (found.batches, found.synthetic, found.warnings) == (2, False, ()) and seen == [1, 2]
    s = found.statistics
    assert (s["x"].minimum, s["x"].maximum, s["x"].count) == (-2.0, 1.0, 12)
    assert (s["a"].minimum, s["a"].maximum) == (-12.0, 6.0)
    assert (s["y"].minimum, s["y"].maximum) == (-10.0, 8.0)


def test_data_may_be_a_generator_and_nothing_of_it_is_kept() -> None:
    alive: list[int] = []

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for i in range(6):
            (feeds,) = batches(i)
            alive.append(i)
            weakref.finalize(feeds["x"], alive.remove, i)
            assert len(alive) <= 2
            yield feeds
            del feeds

    assert calibrate(model(), ["a"], stream()).statistics["a"].maximum == 30.0


def test_nan_and_inf_are_reported_and_left_out() -> None:
    feeds = batches(1.0)
    feeds[0]["z"][:] = -1.0
    feeds[0]["z"][0, 0] = 9.0
    found = calibrate(model(), ["b"], feeds)
    assert found.warnings == (
        "'b' held 5 NaN and 0 Inf during calibration; its range comes from the 1 finite elements",
    )
    assert found.statistics["b"].maximum == 3.0


def test_an_activation_without_finite_elements_is_reported() -> None:
    feeds = batches(1.0)
    feeds[0]["z"][:] = -1.0
    warnings = calibrate(model(), ["b"], feeds).warnings
    assert warnings[-1] == "1 activations had no finite element, such as 'b': they are taken to reach 1"


def test_no_batch_is_an_error() -> None:
    with pytest.raises(DataError) as e:
        calibrate(model(), ["a"], [])
    assert str(e.value) == "there is no calibration data\n  give at least one batch"


def test_a_batch_that_does_not_fit_is_told_in_the_runtimes_words() -> None:
    with pytest.raises(DataError, match="the model cannot be run for calibration: Got invalid dimensions for input: x"):
        calibrate(model(), ["a"], [{"x": np.zeros((3, 5), np.float32), "z": np.zeros((3, 2), np.float32)}])
    assert calibrate(model(), ["a"], batches(1.0)).batches == 1


def quantized(data: object, **options: object) -> tuple[Model, object]:
    m = model()
    done = quantize_graph(m, Editor(m), load_target("ort-cpu"), QuantOptions(**options), data)  # type: ignore[arg-type]
    return m, done


def test_invented_data_is_flagged_in_the_model() -> None:
    m, done = quantized(None)
    assert done.synthetic and m.metadata["graphopt.calibration"] == "synthetic"  # type: ignore[attr-defined]
    m, done = quantized(batches(1.0, 2.0))
    assert not done.synthetic and "graphopt.calibration" not in m.metadata  # type: ignore[attr-defined]


def test_what_was_placed_is_told_with_its_reason() -> None:
    _, done = quantized(batches(1.0, 2.0))
    assert [(p.kind, p.name, p.dtype, p.channels, p.reason) for p in done.placed] == [  # type: ignore[attr-defined]
        ("activation", "x", "uint8", 1, "input of MatMul"),
        ("activation", "a", "uint8", 1, "output of MatMul, which would fall back to float without"),
        ("weight", "w", "int8", 2, "weight of MatMul"),
    ]


def test_seven_bits_on_request() -> None:
    m, done = quantized(batches(1.0), reduce_range=True)
    stored = next(v for v in m.main.initializers if v.name == "w_int8").array()
    pairs = stored.reshape(-1, 2, stored.shape[-1]).astype(int)  # neighbours along K
    assert done.weight_bits == 7 and 64 < np.abs(pairs.sum(1)).max() <= 128  # type: ignore[attr-defined]


def test_wrong_options_are_told_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="unknown calibration method 'entropie'"):
        quantized(batches(1.0), method="entropie")
    m = model()
    target = dataclasses.replace(load_target("onnx"), quant=None)
    with pytest.raises(TargetError, match="int8 placement is not described for this target"):
        quantize_graph(m, Editor(m), target, QuantOptions(), None)
    assert [n.op for n in m.main.nodes] == ["MatMul", "Sqrt", "Add"]


def test_a_weight_in_a_file_is_not_loaded_for_good(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }'
    )
    w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    m = Model(*read_model(path))
    quantize_graph(m, Editor(m), load_target("onnx"), QuantOptions(), [{"x": np.ones((2, 64), np.float32)}])
    assert sorted(v.name for v in m.main.initializers) == [
        "w_int8",
        "w_scale",
        "w_zero_point",
        "x_scale",
        "x_zero_point",
    ]


def test_operators_that_the_target_does_not_quantize_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        optimize(RESIDUAL_CNN, "quant{ops=Cnv}", target="ort-cpu", verify=False)
    assert str(caught.value).startswith("quant.ops cannot be 'Cnv'\n  did you mean 'Conv'?")


def test_channels_and_products_of_pairs_are_those_of_all_data_together() -> None:
    rng = np.random.default_rng(0)
    data = [{n: rng.normal(size=(5, 2)).astype(np.float32) ** 2 for n in "xz"} for _ in range(3)]
    found = calibrate(model(), [Watch("a", channels=1), Watch("x", gram=-1), "a", Watch("a", channels=0)], data)
    x = np.concatenate([d["x"] for d in data]).astype(np.float64)
    a = x @ np.array([[1.0, 2.0], [3.0, 4.0]])
    assert list(found.statistics) == ["a", "x"] and list(found.grams) == ["x"]
    assert set(found.along) == {("a", 1), ("x", -1), ("a", 0)} and found.channels["a"] is found.along["a", 1]
    np.testing.assert_allclose(found.grams["x"], x.T @ x, rtol=1e-6)
    np.testing.assert_allclose(found.channels["x"].mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.channels["a"].peak, a.max(0), rtol=1e-6)
    assert found.channels["a"].count.tolist() == [15, 15]


def test_channels_that_cannot_be_kept_are_missing_and_said() -> None:
    data = [*batches(1.0), {"x": np.ones((4, 2), np.float32), "z": np.ones((4, 2), np.float32)}]
    found = calibrate(model(), [Watch("a", gram=0), Watch("y", channels=3)], data)
    assert not found.channels and not found.grams and found.statistics["a"].count == 14
    assert found.warnings == (
        "'a' is not corrected by channel: it had 3 channels along axis 0, and then 4",
        "'y' is not corrected by channel: a tensor of rank 2 has no axis 3",
    )


def test_a_batch_without_an_input_and_one_that_is_no_dict() -> None:
    with pytest.raises(DataError) as e:
        calibrate(model(), ["a"], [{"x": np.ones((3, 2), np.float32), "zz": np.ones((3, 2), np.float32)}])
    assert str(e.value) == "batch 0: no array for the input 'z'\n  did you mean 'zz'? Known: x, zz"
    with pytest.raises(DataError) as e:
        calibrate(model(), ["a"], [*batches(1.0), 3])  # type: ignore[list-item]
    assert str(e.value) == "batch 1: is int, not a dict of arrays"


def test_what_is_no_input_is_left_alone() -> None:
    assert calibrate(model(), ["a"], [{**batches(1.0)[0], "label": np.ones(3)}]).batches == 1


def test_nothing_is_left_open_when_the_data_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Iterator[dict[str, np.ndarray]]:
        yield from batches(1.0)
        raise OSError("disk")

    called: list[str] = []
    call = Executor.call

    def told(self: Executor, function: str, *args: object, **options: object) -> object:
        called.append(function.partition(":")[2])
        return call(self, function, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Executor, "call", told)
    with pytest.raises(OSError, match="disk"):
        calibrate(model(), ["a"], failing())
    assert called == ["begin", "add", "go_on", "drop"]


def test_an_input_with_a_default_is_taken_at_its_default() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x, float[2] w = {1, -2}) => (float[N,2] y) { y = Mul(x, w) }'
    )
    if not proto.graph.initializer:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, -2], np.float32), "w"))
    m = Model(*read_model(proto.SerializeToString()))
    found = calibrate(m, ["w", "y"], [{"x": np.ones((3, 2), np.float32)}])
    assert (found.statistics["w"].minimum, found.statistics["y"].maximum) == (-2, 1)


def test_two_calibrations_make_one_as_if_all_had_been_run_at_once() -> None:
    rng = np.random.default_rng(1)
    data = [{n: rng.normal(size=(5, 2)).astype(np.float32) for n in "xz"} for _ in range(4)]
    watches = [Watch("a", channels=1), Watch("x", gram=-1), Watch("y", channels=3)]
    both = calibrate(model(), watches, data[:1]).merged(calibrate(model(), watches, data[1:]))
    whole = calibrate(model(), watches, data)
    assert both.batches == 4 and both.warnings == whole.warnings and both.along.keys() == whole.along.keys()
    for name, found in whole.statistics.items():
        assert both.statistics[name].bins.tolist() == found.bins.tolist()
    np.testing.assert_allclose(both.grams["x"], whole.grams["x"])
    ours, theirs = both.channels["a"], whole.channels["a"]
    for field in ("minimum", "maximum", "total", "squares", "count"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field))


def test_channels_that_differ_between_two_calibrations_are_missing_and_said() -> None:
    def seen(rows: int) -> Calibration:
        data = [{n: np.ones((rows, 2), np.float32) for n in "xz"}]
        return calibrate(model(), [Watch("a", gram=0)], data)

    both = seen(3).merged(seen(4))
    assert not both.channels and not both.grams and both.statistics["a"].count == 14
    assert both.warnings == ("'a' is not corrected by channel: it had 3 channels along axis 0, and then 4",)


def test_what_was_watched_is_known_by_value_and_axis() -> None:
    found = calibrate(model(), [Watch("a", channels=1), Watch("x", gram=-1), Watch("y", channels=3)], batches(1.0))
    assert found.has(["a", "x", "y", Watch("a", channels=1), Watch("x", gram=-1), Watch("x", channels=-1)])
    assert found.has([Watch("y", channels=3)])  # it has no such axis, and will not have
    for watch in ("b", Watch("a", channels=0), Watch("a", gram=1), Watch("y", channels=1)):
        assert not found.has([watch])
