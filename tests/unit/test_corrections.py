"""Corrections of weighted operators, from the inputs' statistics to the emitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant import Quantized, QuantOptions, quantize_graph
from graphopt.quant.correct.bias import conv_means, mean_error, tap_shares
from graphopt.report.json import to_json
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.targets.target import load_target

Feeds = list[dict[str, np.ndarray]]

CONV = "y = Conv<pads = [1, 2, 0, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)"
GROUPED = "y = Conv<group = 2>(x, w, b)"
MATMUL = "m = MatMul(x, w)  y = Add(m, b)"
GEMM = "y = Gemm<transB = 1>(x, w, b)"
NETS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int]] = {
    "conv": (CONV, (4, 6, 9, 8), (5, 6, 3, 2), 5),
    "grouped": (GROUPED, (4, 6, 5, 5), (4, 3, 3, 3), 4),
    "matmul": (MATMUL, (8, 3, 16), (16, 5), 5),
    "gemm": (GEMM, (40, 16), (5, 16), 5),
}


def net(name: str) -> tuple[Model, Feeds]:
    """One layer, and four batches of inputs whose channels have means of their own."""
    body, x_shape, w_shape, channels = NETS[name]
    sizes = ["N", *map(str, x_shape[1:])]
    ranks = {"w": list(w_shape), "b": [channels]}
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{",".join(sizes)}] x) => (float[] y) {{ {body} }}'
    )
    rng = np.random.default_rng(4)
    for key, shape in ranks.items():
        values = rng.standard_t(3, size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, key))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    axis = len(x_shape) - 1 if name in ("matmul", "gemm") else 1
    view = [1] * len(x_shape)
    view[axis] = x_shape[axis]
    means = rng.normal(size=view) * 3.0
    feeds = [{"x": (rng.normal(size=x_shape) + means).astype(np.float32)} for _ in range(4)]
    return Model(*read_model(proto.SerializeToString())), feeds


def quantized(name: str, *corrections: str, **options: Any) -> tuple[Quantized, Model]:
    model, feeds = net(name)
    done = quantize_graph(
        model, Editor(model), load_target("onnx"), QuantOptions(corrections=corrections, **options), feeds
    )
    return done, model


def outputs(model: Model, feeds: Feeds) -> np.ndarray:
    packed = package(model.ir)
    return np.concatenate([run_model(packed, f)["y"] for f in feeds])


def shift(name: str, *corrections: str, **options: Any) -> float:
    """The largest mean error of an output channel, with weights rounded and inputs as they were."""
    _, model = quantized(name, *corrections, **options)
    original, feeds = net(name)
    for node in list(model.main.find("QuantizeLinear")):
        edit = Editor(model)
        (reader, _), *_ = node.outputs[0].uses()
        source = node.inputs[0]
        assert source is not None
        with edit.rewrite("t", at=reader) as rw:
            rw.replace(reader.outputs[0], source)
    off = outputs(model, feeds).astype(np.float64) - outputs(original, feeds)
    axis = 1 if name in ("conv", "grouped") else off.ndim - 1
    means = off.mean(axis=tuple(i for i in range(off.ndim) if i != axis))
    return float(np.abs(means).max())


@pytest.mark.parametrize("name", NETS)
def test_bias_correction_takes_the_mean_error_away(name: str) -> None:
    before, after = shift(name), shift(name, "bias")
    assert after < 0.2 * before


def mean_errors(name: str, *corrections: str) -> tuple[Quantized, float]:
    """The summed squares of the mean errors of all output channels, on the data of the calibration."""
    done, model = quantized(name, *corrections, method="percentile", percentile=97.0)
    original, feeds = net(name)
    off = outputs(model, feeds).astype(np.float64) - outputs(original, feeds)
    axis = 1 if name in ("conv", "grouped") else off.ndim - 1
    return done, float(np.square(off.mean(axis=tuple(i for i in range(off.ndim) if i != axis))).sum())


@pytest.mark.parametrize("name", NETS)
def test_measured_bias_correction_finds_what_clipping_does_to_means(name: str) -> None:
    """Which the analytic one does not see: it knows of the weight's rounding only."""
    _, before = mean_errors(name)
    _, analytic = mean_errors(name, "bias")
    done, after = mean_errors(name, "empirical")
    (gain,) = done.gains
    assert gain.name == "empirical" and gain.after > gain.before
    if name in ("matmul", "gemm"):  # a Conv has a Q on its output, which is clipped after its bias
        assert after < 0.02 * min(before, analytic)


def test_measuring_needs_data() -> None:
    model, _ = net("gemm")
    done = quantize_graph(model, Editor(model), load_target("onnx"), QuantOptions(corrections=("empirical",)), None)
    assert not done.gains and done.operators == 1


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("corrections", [("clip",), ("gptq",), ("hqq",), ("clip", "gptq", "bias")])
def test_gains_are_recorded_and_never_negative(name: str, corrections: tuple[str, ...]) -> None:
    done, _ = quantized(name, *corrections)
    assert all(gain.after > gain.before and gain.name in corrections for gain in done.gains)


@pytest.mark.parametrize("name", ["matmul", "gemm"])
def test_gptq_is_used_where_the_second_moments_say_it_all(name: str) -> None:
    done, _ = quantized(name, "gptq")
    assert [gain.name for gain in done.gains] == ["gptq"] and not done.notes


def test_gptq_says_where_it_was_not_used() -> None:
    done, _ = quantized("conv", "gptq")
    assert not done.gains
    assert [note.partition(": ")[2] for note in done.notes] == [
        "gptq was not used: the second moments of its input were not kept"
    ]


def test_without_corrections_nothing_is_watched_or_gained() -> None:
    done, _ = quantized("matmul")
    assert not done.gains and done.calibration is not None and not done.calibration.along


@pytest.mark.parametrize("name", NETS)
def test_a_scale_for_the_whole_weight_is_corrected_as_far_as_possible(name: str) -> None:
    done, model = quantized(name, "clip", "gptq", "bias", per_channel=False)
    assert all(gain.after > gain.before for gain in done.gains)
    assert np.isfinite(outputs(model, net(name)[1])).all()


def test_unknown_corrections_are_told() -> None:
    with pytest.raises(UsageError) as e:
        quantized("matmul", "biass")
    assert str(e.value) == "unknown correction 'biass'\n  did you mean 'bias'? Known: auto, awq, bias, cle, clip, empirical, gptq, hqq, refit, reparam, smooth"


def test_tap_shares_count_what_meets_the_input() -> None:
    sizes, kernel, strides, pads, dilations = (7, 5), (3, 2), (2, 1), (1, 0, 2, 1), (2, 1)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,7,5] x, float[6,1,3,2] w) => (float[] y) '
        "{ y = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [2, 1]>(x, w) }"
    )
    model = Model(*read_model(proto.SerializeToString()))
    one_tap = np.eye(6, dtype=np.float32).reshape(6, 1, 3, 2)
    y = run_model(package(model.ir), {"x": np.ones((1, 1, 7, 5), np.float32), "w": one_tap})["y"]
    assert np.allclose(tap_shares(sizes, kernel, strides, pads, dilations), y.mean((0, 2, 3)).reshape(3, 2))


def test_means_of_a_grouped_conv_reach_its_own_rows() -> None:
    means = np.arange(4.0)
    spread = conv_means(means, 2, 6, np.ones((1, 2)))
    assert spread.tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 3
    assert mean_error(np.ones((6, 4)), spread).tolist() == [2.0] * 3 + [10.0] * 3


def test_the_report_says_what_each_correction_gained() -> None:
    model, feeds = net("matmul")
    result = graphopt.optimize(model, "quant{correct=gptq|bias}", target="onnx", data=feeds, verify=False)
    gains = to_json(result.report)["corrections"]
    assert {g["name"] for g in gains} == {"gptq", "bias"} and all(g["after"] > g["before"] for g in gains)
    text = str(result.report)
    assert "corrected" in text and "gptq: 1 place, +" in text
    result = graphopt.optimize(model, "quant{correct=none}", target="onnx", data=feeds, verify=False)
    assert to_json(result.report)["corrections"] == [] and "corrected" not in str(result.report)


def stored_only(data: Feeds | None, *corrections: str, **options: Any) -> tuple[Quantized, float, Model]:
    """A product with 4-bit weights, and the power of its output's error."""
    model, feeds = net("matmul")
    given = QuantOptions(kind="weights", weight="int4", block=8, corrections=corrections or ("auto",), **options)
    lifted = graphopt.optimize(model, "opset{to=21}", verify=False).model
    done = quantize_graph(lifted, Editor(lifted), load_target("onnx"), given, data)
    off = outputs(lifted, feeds).astype(np.float64) - outputs(model, feeds)
    return done, float(np.mean(off**2)), lifted


def test_four_bit_weights_are_rounded_for_the_inputs_that_they_meet() -> None:
    _, feeds = net("matmul")
    found, gptq, _ = stored_only(feeds)
    clipped, clip, _ = stored_only(None)
    _, nearest, _ = stored_only(None, "bias")
    assert [g.name for g in found.gains] == ["gptq"] and [g.name for g in clipped.gains] == ["clip"]
    assert gptq < 0.7 * clip and clip < nearest


def test_eight_bit_weights_alone_need_no_data() -> None:
    _, feeds = net("matmul")
    assert QuantOptions(kind="weights").corrections_for("weights") == ()
    assert QuantOptions(corrections=("auto", "clip")).corrections_for("static")[-2:] == ("bias", "clip")
    done, _, _ = stored_only(feeds, "hqq")
    assert done.calibration is None and all(g.name == "hqq" for g in done.gains)


NORMED = """
  n = LayerNormalization<axis = -1>(x, scale, shift)
  a = MatMul(n, w)
  c = MatMul(n, v)
  y = Concat<axis = -1>(a, c)
"""


def test_awq_scales_go_into_the_normalization_in_front() -> None:
    """Two products read one normalization, of which a few channels are strong."""
    rng = np.random.default_rng(6)
    scale = np.where(np.arange(32) % 16 == 3, 20.0, 1.0)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,32] x) => (float[N,24] y) {{ {NORMED} }}'
    )
    values = {
        "scale": scale,
        "shift": rng.normal(size=32),
        "w": rng.normal(size=(32, 16)),
        "v": rng.normal(size=(32, 8)),
    }
    for name, array in values.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    feeds = [{"x": rng.normal(size=(200, 32)).astype(np.float32)} for _ in range(2)]

    def error(*corrections: str) -> tuple[list[str], float]:
        model = Model(*read_model(proto.SerializeToString()))
        expected = outputs(model, feeds).astype(np.float64)
        given = QuantOptions(kind="weights", weight="int4", block=16, corrections=corrections)
        done = quantize_graph(model, Editor(model), load_target("onnx"), given, feeds)
        assert all(gain.after > gain.before for gain in done.gains)
        return [g.name for g in done.gains], float(np.mean((outputs(model, feeds) - expected) ** 2))

    names, protected = error("awq")
    both, best = error("awq", "gptq")
    _, nearest = error()
    assert names == ["awq"] and protected < 0.6 * nearest
    assert both == ["awq", "gptq", "gptq"] and best < protected


def test_weights_that_integers_hold_exactly_have_nothing_to_gain() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4,8] x) => (float[4,3] y) { y = Gemm(x, w, b) }'
    )
    exact = np.array([127, 64, -32, 1, 0, -127, 5, 9], np.float32)[:, None] * np.float32(2.0) ** np.arange(3)
    arrays = {"w": exact.astype(np.float32), "b": np.ones(3, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    found = Model(read_model(proto.SerializeToString())[0])
    done = quantize_graph(found, Editor(found), load_target("onnx"), QuantOptions(corrections=("bias",)), None)
    assert done.operators == 1 and not done.gains


def test_what_needs_data_says_so_without() -> None:
    path = Path(__file__).parents[2] / "fixtures" / "models" / "residual_cnn.onnx"
    done = graphopt.optimize(path, "quant{correct=empirical}", target="ort-cpu", verify=False, force=True)
    assert any("empirical was not used: " in note for item in done.report.passes for note in item.notes)
