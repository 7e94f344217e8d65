"""Scaling and moving channels between layers: the model computes the same, and integers lose less."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt import QuantOptions, quantize_graph
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import stages
from graphopt.quant.calibrate import Calibration, calibrate
from graphopt.quant.channels import ChannelStatistics
from graphopt.quant.correct.equalize import Equalizer, fold_scale
from graphopt.quant.correct.links import Link, find_links
from graphopt.quant.correct.migrate import Steps, migration
from graphopt.targets.target import load_target

Array = np.ndarray
STEPS = Steps()


def floats(*shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(sum(shape)).normal(size=shape) * scale).astype(np.float32)


def model(text: str, opset: int = 17, **weights: Array) -> Model:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    onnx.checker.check_model(proto, full_check=True)
    return graphopt.load(proto)


def nothing(_: object) -> bool:
    return False


def links(found: Model) -> list[Link]:
    return list(find_links(found, nothing))


def run(found: Model, feeds: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(to_bytes(found.ir), options).run(None, feeds)


def feeds_of(found: Model) -> dict[str, Array]:
    return {v.name: floats(*(d if isinstance(d, int) else 3 for d in v.shape or ())) for v in found.main.inputs}


def assert_same(before: list[Array], found: Model, feeds: dict[str, Array]) -> None:
    for want, have in zip(before, run(found, feeds), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5 * float(np.abs(want).max()))


IMAGE = "g (float[N,3,8,8] x) => (float[N,5,M,K] y)"
A, B = floats(8, 3, 3, 3), floats(5, 8, 3, 3)
FOLDED = {
    "conv": (f"{IMAGE} {{ c = Conv(x, a, p) r = Relu(c) y = Conv(r, b) }}", {"a": A, "p": floats(8), "b": B}),
    "leaky": (f"{IMAGE} {{ c = Conv(x, a) r = LeakyRelu<alpha=0.1>(c) y = Conv<pads=[1,1,1,1]>(r, b) }}",
              {"a": A, "b": B}),
    "prelu": (f"{IMAGE} {{ c = Conv(x, a) r = PRelu(c, s) y = Conv(r, b) }}",
              {"a": A, "b": B, "s": floats(8, 1, 1)}),
    "clip from below": (f"{IMAGE} {{ c = Conv(x, a) r = Clip(c, lo) y = Conv(r, b) }}",
                        {"a": A, "b": B, "lo": np.float32(0)}),
    "depthwise": (f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) d = Conv<group=8>(r, w, p) q = Relu(d) y = Conv(q, b) }}",
                  {"a": A, "b": B, "w": floats(8, 1, 3, 3), "p": floats(8)}),
    "groups": (f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) y = Conv<group=5>(r, b) }}",
               {"a": floats(10, 3, 3, 3), "b": floats(5, 2, 3, 3)}),
    "pooling": (f"{IMAGE} {{ c = Conv(x, a) m = MaxPool<kernel_shape=[2,2]>(c) v = AveragePool<kernel_shape=[2,2]>(m) "
                "n = Pad(v, w) y = Conv(n, b) }", {"a": A, "b": B, "w": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "two readers": (f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) d = Conv(r, b) e = Conv(r, b) y = Add(d, e) }}",
                    {"a": A, "b": B}),
    "bias behind": (f"{IMAGE} {{ c = Conv(x, a) s = Add(c, p) r = Relu(s) y = Conv(r, b) }}",
                    {"a": A, "b": B, "p": floats(8, 1, 1)}),
    "one number": (f"{IMAGE} {{ c = Conv(x, a) s = Sub(c, p) r = Relu(s) y = Conv(r, b) }}",
                   {"a": A, "b": B, "p": np.float32(0.5)}),
    "gate": (f"{IMAGE} {{ c = Conv(x, a) h = GlobalAveragePool(c) i = Conv(h, w) s = Sigmoid(i) m = Mul(c, s) "
             "y = Conv(m, b) }", {"a": A, "b": B, "w": floats(8, 8, 1, 1)}),
    "resized": (f'{IMAGE} {{ c = Conv(x, a) r = Resize<mode="linear">(c, , w) y = Conv(r, b) }}',
                {"a": A, "b": B, "w": np.array([1, 1, 2, 2], np.float32)}),
}  # fmt: skip
ROWS = "g (float[N,4,16] x) => (float[N,4,5] y)"
FOLDED |= {
    "transposed conv": ("g (float[N,4,4,4] x) => (float[N,5,5,5] y) { c = ConvTranspose<group=2>(x, a, p) r = Relu(c) "
                        "y = ConvTranspose(r, b) }",
                        {"a": floats(4, 3, 2, 2), "p": floats(6), "b": floats(6, 5, 1, 1)}),
    "flattened": ("g (float[N,3,4,4] x) => (float[N,5] y) { c = Conv(x, a, p) r = Relu(c) f = Flatten(r) "
                  "y = Gemm<transB=1>(f, b, q) }",
                  {"a": A, "p": floats(8), "b": floats(5, 32), "q": floats(1, 5)}),
    "gemm": ("g (float[N,16] x) => (float[N,5] y) { c = Gemm(x, a, p) r = Relu(c) y = Gemm(r, b) }",
             {"a": floats(16, 8), "p": np.float32(0.3), "b": floats(8, 5)}),
    "norm": (f"{ROWS} {{ n = LayerNormalization(x, s, t) y = MatMul(n, b) }}",
             {"s": floats(16), "t": floats(16), "b": floats(16, 5)}),
    "norm of batches": ("g (float[N,3,8,8] x) => (float[N,5,6,6] y) { n = BatchNormalization(x, s, t, m, v) "
                        "y = Conv(n, b) }",
                        {"s": floats(3), "t": floats(3), "m": floats(3), "v": np.abs(floats(3)), "b": floats(5, 3, 3, 3)}),
    "norm with three readers": (f"{ROWS} {{ n = LayerNormalization(x, s) q = MatMul(n, a) k = MatMul(n, b) "
                                "l = MatMul(n, b) w = Add(q, k) y = Add(w, l) }",
                                {"s": floats(16), "a": floats(16, 5), "b": floats(16, 5)}),
    "written out": (f"{ROWS} {{ n = Mul(x, s) m = Add(n, t) y = MatMul(m, b) }}",
                    {"s": floats(16), "t": floats(16), "b": floats(16, 5)}),
    "heads": (f"{ROWS} {{ v = MatMul(x, a) h = Reshape(v, i) t = Transpose<perm=[0,2,1,3]>(h) "
              "z = Reshape(x, k) w = Transpose<perm=[0,2,1,3]>(z) u = Transpose<perm=[0,1,3,2]>(w) q = MatMul(w, u) "
              "p = Softmax(q) o = MatMul(p, t) e = Transpose<perm=[0,2,1,3]>(o) f = Reshape(e, j) y = MatMul(f, b) }",
              {"a": floats(16, 12), "b": floats(12, 5), "i": np.array([0, 4, 2, 6]), "k": np.array([0, 4, 2, 8]),
               "j": np.array([0, 4, 12])}),
    "up and down": (f"{ROWS} {{ u = MatMul(x, a) g = MatMul(x, c) s = Sigmoid(g) m = Mul(s, u) y = MatMul(m, b) }}",
                    {"a": floats(16, 12), "c": floats(16, 12), "b": floats(12, 5)}),
    "first token": ("g (float[N,4,16] x) => (float[N,5] y) { n = LayerNormalization(x, s, t) f = Gather<axis=1>(n, i) "
                    "y = Gemm(f, b, p) }",
                    {"s": floats(16), "t": floats(16), "b": floats(16, 5), "p": floats(5), "i": np.int64(0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_a_model_computes_the_same_when_its_channels_are_scaled(name: str) -> None:
    text, weights = FOLDED[name]
    found = model(text, **weights)
    feeds = feeds_of(found)
    before = run(found, feeds)
    edit, all_links = Editor(found), links(found)
    assert all_links
    rng = np.random.default_rng(7)
    for link in all_links:
        fold_scale(link, np.exp2(rng.uniform(-3, 3, link.count)), edit, "quant.cle")
    assert_same(before, found, feeds)
    unread = [v.name for v in found.main.initializers if not v.use_count]
    assert not unread


BLOCKED = {
    "an upper bound": ("c = Conv(x, a) r = Clip(c, lo, hi) y = Conv(r, b)",
                       {"lo": np.float32(0), "hi": np.float32(6)}),
    "another activation": ("c = Conv(x, a) r = Sigmoid(c) y = Conv(r, b)", {}),
    "a residual branch": ("c = Conv(x, a) d = Conv<pads=[1,1,1,1]>(c, w) s = Add(c, d) y = Conv(s, b)",
                          {"w": floats(8, 8, 3, 3)}),
    "padding with a number": ("c = Conv(x, a) r = Pad(c, w, v) y = Conv(r, b)",
                              {"w": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float32(1)}),
    "a square": ("c = Conv(x, a) r = Mul(c, c) y = Conv(r, b)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKED)
def test_what_does_not_commute_with_scaling_is_left_alone(name: str) -> None:
    text, weights = BLOCKED[name]
    found = model(f"{IMAGE} {{ {text} }}", a=A, b=B, **weights)
    assert [link.maker.outputs[0].name for link in links(found) if link.maker.outputs[0].name == "c"] == []


def test_a_graph_output_is_left_alone() -> None:
    text = "g (float[N,3,8,8] x) => (float[N,5,4,4] y, float[N,8,6,6] r) { c = Conv(x, a) r = Relu(c) y = Conv(r, b) }"
    assert links(model(text, a=A, b=B)) == []


def test_weights_that_a_caller_may_set_are_left_alone() -> None:
    text = "g (float[N,3,8,8] x, float[5,8,3,3] b) => (float[N,5,4,4] y) { c = Conv(x, a) r = Relu(c) y = Conv(r, b) }"
    assert links(model(text, a=A, b=B)) == []


def test_what_is_protected_is_left_alone() -> None:
    found = model(f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) y = Conv(r, b) }}", a=A, b=B)
    assert list(find_links(found, lambda item: getattr(item, "op", "") == "Relu")) == []


def test_a_weight_that_others_read_stays_for_them() -> None:
    found = model(f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) d = Conv(r, b) k = ReduceSum(b) y = Add(d, k) }}", a=A, b=B)
    feeds = feeds_of(found)
    before = run(found, feeds)
    (link,) = links(found)
    fold_scale(link, np.exp2(np.arange(8.0)), Editor(found), "quant.cle")
    assert_same(before, found, feeds)


def statistics(array: Array, axis: int) -> ChannelStatistics:
    found = ChannelStatistics(axis)
    found.update(array)
    return found


def equalized(found: Model, *wanted: str, data: list[dict[str, Array]], steps: Steps = STEPS) -> Equalizer:
    edit = Editor(found)
    layers = [n for n in found.main.nodes if n.op in ("Conv", "MatMul", "Gemm") and n.inputs[1].is_const]
    equal = Equalizer(found, layers, wanted, nothing)
    equal.apply(edit, calibrate(found, equal.watches, data), steps)
    return equal


UNEVEN = np.exp2(np.linspace(-6, 0, 16)).astype(np.float32)
NORM = f"{ROWS} {{ n = LayerNormalization(x, s, t) m = MatMul(n, b) y = Add(m, p) }}"


def norm(offset: float = 0.0) -> Model:
    shift = floats(16) * offset
    return model(NORM, s=UNEVEN, t=shift, b=floats(16, 5), p=floats(5))


def rows() -> list[dict[str, Array]]:
    return [{"x": np.random.default_rng(i).normal(size=(64, 4, 16)).astype(np.float32)} for i in range(4)]


@pytest.mark.parametrize("wanted", ["smooth", "reparam"])
def test_channels_behind_a_normalization_get_a_common_reach(wanted: str) -> None:
    found = norm(8.0 if wanted == "reparam" else 0.0)
    data = rows()
    before = run(found, data[0])
    equal = equalized(found, wanted, data=data)
    assert_same(before, found, data[0])
    (gain,) = equal.gains
    assert gain.name == wanted and gain.decibels > 3 and list(equal.changed) == ["n"]
    seen = calibrate(found, equal.watches, data).along["n", 2]
    middle = (seen.minimum + seen.maximum) / 2
    assert np.all(np.abs(middle) < 1e-3 * seen.peak) == (wanted == "reparam")


def test_nothing_is_moved_where_it_was_not_asked_for() -> None:
    found = norm(8.0)
    equal = equalized(found, "cle", data=rows())
    assert equal.links == [] and equal.watches == []


def test_a_high_bias_is_absorbed_behind_a_relu() -> None:
    text = "g (float[N,16] x) => (float[N,5] y) { c = Gemm(x, a, p) r = Relu(c) y = Gemm(r, b, q) }"
    found = model(text, a=floats(16, 8, scale=0.1), p=np.linspace(5, 50, 8).astype(np.float32), b=floats(8, 5), q=floats(5))
    data = [{"x": np.clip(floats(64, 16), -2, 2)}]
    before = run(found, data[0])
    equal = equalized(found, "cle", data=data)
    assert_same(before, found, data[0])
    assert equal.gains[0].decibels > 3
    assert float(calibrate(found, ["r"], data).statistics["r"].minimum) < 0.1


def test_a_padded_convolution_absorbs_nothing() -> None:
    text = f"{IMAGE} {{ c = Conv(x, a, p) r = Relu(c) y = Conv<pads=[1,1,1,1]>(r, b, q) }}"
    (link,) = links(model(text, a=A, p=floats(8), b=B, q=floats(5)))
    assert link.offsets is None


def test_cross_layer_equalization_of_weights_with_one_scale() -> None:
    spread = np.exp2(np.linspace(-5, 5, 8)).astype(np.float32)
    weights = {"a": A * spread[:, None, None, None], "b": B / spread[None, :, None, None]}
    found = model(f"{IMAGE} {{ c = Conv(x, a) r = Relu(c) y = Conv(r, b) }}", **weights)
    data = [feeds_of(found)]
    before = run(found, data[0])
    equal = equalized(found, "cle", data=data, steps=Steps(per_channel=False))
    assert_same(before, found, data[0])
    assert equal.gains[0].decibels > 10
    peaks = np.abs(next(iter(found.main.nodes)).inputs[1].array()).max((1, 2, 3))
    assert peaks.max() / peaks.min() < 8


def test_even_channels_are_left_as_they_are() -> None:
    found = model(f"{ROWS} {{ n = LayerNormalization(x, s) y = MatMul(n, b) }}", s=np.ones(16, np.float32), b=floats(16, 5))
    assert equalized(found, "smooth", data=rows()).gains == []


@pytest.mark.parametrize("low", [np.nan, np.inf])
def test_statistics_that_are_not_finite_decide_nothing(low: float) -> None:
    (link,) = links(norm())
    found = statistics(np.zeros((2, 4, 16), np.float32), 2)
    found.minimum = np.full(16, low)
    assert migration(link, [(link.layers[0], found)], STEPS) is None


def test_dead_channels_and_zero_weights_do_no_harm() -> None:
    weight = floats(16, 5)
    weight[3] = 0
    gamma = UNEVEN.copy()
    gamma[5] = 0
    found = model(NORM, s=gamma, t=np.zeros(16, np.float32), b=weight, p=floats(5))
    data = rows()
    before = run(found, data[0])
    assert equalized(found, "smooth", data=data).gains
    assert_same(before, found, data[0])


def test_one_large_output_does_not_drown_the_others() -> None:
    """Its noise is most of all noise, and what it reads would get most of the steps."""
    weight = floats(8, 8) * np.float32(0.3)
    weight[0], weight[:, 0] = 0, 0
    weight[0, 0] = 50
    text = "g (float[N,8] x) => (float[N,8] y) { c = Gemm(x, a) r = Relu(c) y = MatMul(r, b) }"
    found = model(text, a=floats(8, 8), b=weight)
    data = [{"x": floats(4096, 8)}]
    (watch,) = equalized(found, "cle", data=data).watches
    reach = calibrate(found, [watch], data).along["r", 1].maximum
    assert reach.max() / np.median(reach) < 2


@pytest.mark.parametrize("target", ["ort-cpu", "onnx"])
def test_equalization_helps_the_whole_model(target: str) -> None:
    def snr(*wanted: str) -> float:
        found = norm(8.0)
        data = rows()
        before = run(found, data[0])
        done = quantize_graph(found, Editor(found), load_target(target), QuantOptions(corrections=wanted), data)
        assert bool(done.gains) == bool(wanted)
        after = run(found, data[0])
        return float(10 * np.log10(np.square(before[0]).sum() / np.square(before[0] - after[0]).sum()))

    assert snr("smooth", "reparam") > snr() + 2


@pytest.mark.parametrize(("samples", "counts"), [(128, [1, 1, 39]), (6, [3, 19, 22, 18])])
def test_the_first_samples_decide_and_the_others_are_run_once(
    monkeypatch: pytest.MonkeyPatch, samples: int, counts: list[int]
) -> None:
    found: list[int] = []

    def counted(*args: object, batches: object, **rest: object) -> Calibration:
        found.append(len(given := list(batches)))
        return calibrate(*args, batches=given, **rest)

    monkeypatch.setattr(stages, "calibrate", counted)
    net = norm(8.0)
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(samples, 4, 16)).astype(np.float32)} for _ in range(40)]
    before = run(net, data[9])[0]
    done = quantize_graph(net, Editor(net), load_target("ort-cpu"), QuantOptions(corrections=("smooth",)), data)
    assert found == counts and done.gains
    assert done.calibration.batches == 40 and done.calibration.statistics["n"].count == 40 * samples * 4 * 16
    noise = run(net, data[9])[0] - before
    assert 20 * np.log10(np.linalg.norm(before) / np.linalg.norm(noise)) > 25
