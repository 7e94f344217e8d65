"""Each row of the placement for OpenVINO: the pairs that it gives, and the kernels that OpenVINO makes of them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import graphopt
from graphopt.engine.goals import Goals
from graphopt.errors import TargetError
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.quant import QuantOptions
from graphopt.quant.coverage_openvino import openvino_coverage, read_layers
from graphopt.quant.goals import quantize_to_goals
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.latency import Latency
from graphopt.runtime.openvino import Layer, layers, openvino_speedup
from graphopt.runtime.speedup import Speedup
from graphopt.targets.target import load_target
from tests.unit.placing import net, pairs, placed, quantized, reasons, run, samples, snr

W = {"w": (16, 16, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "p": (16, 16, 1, 1), "u": (16, 32, 1, 1), "m": (16, 64),
     "h": (64, 64), "c": (64,), "dw": (16, 1, 3, 3), "t": (16, 8, 3, 3)}  # fmt: skip
FIRST = "a = Relu(x) k = Conv<pads=[1,1,1,1]>(a, w, b)"
SIDES = {"e": np.array([0, 0, 0, 0], np.int64), "f": np.array([1, 16, 4, 4], np.int64)}
SHAPE = {"sh": np.array([-1, 64], np.int64)}

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra [openvino] is not installed"
)


def small(body: str, inputs: str = "float[1,16,8,8] x", outputs: str = "y") -> Model:
    known = {**W, **SIDES, **SHAPE}
    used = {n: w for n, w in known.items() if f" {n})" in body or f" {n}," in body}
    return net(body, inputs, outputs, used)


def shown(body: str, **more: str) -> dict[str, str]:
    return pairs(placed(small(body, **more), "openvino"))


# Each case: the graph, its pairs, and the layers with integers (of weights, pools, sums) that come of it, by type.
CASES = {
    "Conv, and Relu in its kernel": (f"{FIRST} r = Relu(k) y = Conv(r, p, b)", {"a": "k", "r": "y"},
        {"Convolution u8": 2}),
    "SiLU in its kernel": (f"{FIRST} g = Sigmoid(k) s = Mul(k, g) y = Conv(s, p, b)", {"a": "k", "s": "y"},
        {"Convolution u8": 2}),
    "depthwise": ("a = Relu(x) k = Conv<group=16>(a, dw, b) r = Clip(k) y = Conv(r, p, b)", {"a": "k", "r": "y"},
        {"Convolution u8": 2}),
    "ConvTranspose behind Relu": ("a = Relu(x) k = ConvTranspose(a, w, b) r = Relu(k) y = Conv(r, p, b)",
        {"a": "k", "r": "y"}, {"Deconvolution u8": 1, "Convolution u8": 1}),
    "ConvTranspose of signed data": ("k = ConvTranspose(x, w, b) r = Relu(k) y = Conv(r, p, b)",
        {"x": "k", "r": "y"}, {"Deconvolution i8": 1, "Convolution u8": 1}),
    "the sum behind a Conv": (f"{FIRST} r = Relu(k) d = Conv<pads=[1,1,1,1]>(r, v, b) s = Add(d, a) "
        "z = Relu(s) y = Conv(z, p, b)", {"a": "k s", "r": "d", "d": "s", "z": "y"}, {"Convolution u8": 3}),
    "MaxPool": (f"{FIRST} m = MaxPool<kernel_shape=[2,2]>(k) y = Conv(m, p, b)", {"a": "k", "k": "m"},
        {"Convolution u8": 2, "Pooling u8": 1}),
    "AveragePool": (f"{FIRST} m = AveragePool<kernel_shape=[2,2]>(k) y = Conv(m, p, b)",
        {"a": "k", "k": "m", "m": "y"}, {"Convolution u8": 2, "Pooling u8": 1}),
    "GlobalAveragePool": (f"{FIRST} r = Relu(k) g = GlobalAveragePool(r) f1 = Flatten(g) y = MatMul(f1, m)",
        {"a": "k", "r": "g", "g": "f1"}, {"Convolution u8": 1, "Reduce u8": 1, "FullyConnected u8": 1}),
    "Concat": ("a = Relu(x) k = Conv<pads=[1,1,1,1]>(a, w, b) r = Relu(k) j = Concat<axis=1>(a, r) y = Conv(j, u, b)",
        {"a": "k", "j": "y"}, {"Convolution u8": 2, "Concatenation u8": 1}),
    "Gemm, and Relu in its kernel": ("q = Gemm(x, h, c) r = Relu(q) y = Gemm<transB=1>(r, h, c)",
        {"x": "q", "r": "y"}, {"FullyConnected u8": 2}),
    "MatMul and bias": ("q = MatMul(x, h) r = Add(q, c) s = HardSwish(r) z = MatMul(s, h) o = Add(x, z) "
        "y = MatMul(o, h)", {"x": "q", "s": "z", "o": "y"}, {"FullyConnected u8": 3}),
}  # fmt: skip


INPUTS = {"Gemm, and Relu in its kernel": "float[64,64] x", "MatMul and bias": "float[2,32,64] x"}


def case_model(case: str) -> Model:
    return small(CASES[case][0], INPUTS.get(case, "float[1,16,8,8] x"))


@pytest.mark.parametrize("case", CASES)
def test_pairs(case: str) -> None:
    found = placed(case_model(case), "openvino")
    assert pairs(found) == CASES[case][1]
    assert all(len(pair.reason.split()) > 6 for pair in found.pairs), "every pair names its rule"


@needs_openvino
@pytest.mark.parametrize("case", CASES)
def test_kernels(case: str) -> None:
    m, expected = case_model(case), CASES[case][2]
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "openvino")
    assert snr(exact, run(m, feeds)) > 25
    kinds = {name.split()[0] for name in expected}
    found: dict[str, int] = {}
    for layer in layers(m):
        if layer.type in kinds:
            name = f"{layer.type} {layer.precision}"
            found[name] = found.get(name, 0) + 1
    assert found == expected


@needs_openvino
def test_the_bias_as_int32_lets_activation_and_q_into_the_kernel() -> None:
    m = small(CASES["the sum behind a Conv"][0])
    quantized(m, "openvino")
    found = layers(m)
    sums = [layer for layer in found if layer.type == "Convolution" and "s" in layer.originals]
    assert len(sums) == 1, "the sum is part of a convolution"
    assert not any(layer.type in ("Eltwise", "Subgraph") and layer.precision == "f32" and "k" in layer.originals
                   for layer in found)  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        f"{FIRST} g = GlobalAveragePool(a) s = Add(k, g) y = Exp(s)",
        f"{FIRST} e1 = Exp(a) s = Add(e1, a) z = Exp(s) y = Mul(z, k)",
    ],
)
def test_sums_that_are_no_part_of_a_conv_get_no_pair(body: str) -> None:
    assert not any("s" in readers.split() for readers in shown(body).values())


def test_squeeze_and_excite_stays_float_but_for_its_convolutions() -> None:
    body = (f"{FIRST} d = HardSwish(k) g = GlobalAveragePool(d) e1 = Conv(g, p, b) r = Relu(e1) f1 = Conv(r, p, b) "
            "o = HardSigmoid(f1) j = Mul(d, o) y = Conv(j, p, b)")  # fmt: skip
    assert shown(body) == {"a": "k", "g": "e1", "r": "f1", "j": "y"}


def test_normalization_softmax_and_gelu_stay_float() -> None:
    body = "n = LayerNormalization(x, c, c) q = MatMul(n, h) s = Softmax(q) z = MatMul(s, h) y = Erf(z)"
    assert shown(body, inputs="float[2,32,64] x") == {"n": "q", "s": "z"}


def attention() -> Model:
    sizes = "float[1,4,64,32] q, float[1,4,32,64] k, float[1,4,64,32] v"
    return net("s = MatMul(q, k) t = Mul(s, f) o = Softmax(t) r = MatMul(o, v) y = Exp(r)", sizes, "y",
               {"f": np.array(0.2, np.float32)})  # fmt: skip


@needs_openvino
def test_scores_are_products_of_integers_with_zero_point_0_and_probabilities_stay_float() -> None:
    m = attention()
    p = placed(m, "openvino")
    assert pairs(p) == {"q": "s", "k": "s"} and {pair.dtype for pair in p.pairs} == {"int8"}
    assert "too coarse" in reasons(p)["r"]
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "openvino")
    assert snr(exact, run(m, feeds)) > 30
    assert any(layer.precision == "i8" and {"t", "o"} & set(layer.originals) for layer in layers(m))


def test_two_types_of_one_value_are_two_pairs() -> None:
    m = net("s = MatMul(q, k) z = MatMul(q, h) y = Exp(s) o = Exp(z)", "float[1,64,64] q, float[1,64,64] k", "y o",
            {"h": (64, 64)})  # fmt: skip
    p = placed(m, "openvino")
    assert {(pair.value.name, pair.dtype) for pair in p.pairs} == {("q", "int8"), ("k", "int8"), ("q", "uint8")}


def test_a_grouped_transposed_convolution_has_one_scale_and_its_bias_one_per_channel() -> None:
    m = small("a = Relu(x) k = ConvTranspose<group=2>(a, t, b) y = Exp(k)")
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "openvino")
    assert snr(exact, run(m, feeds)) > 25
    assert next(v.array() for v in m.main.initializers if v.name == "b_int32").shape == (16,)


# Coverage and latency


@needs_openvino
def test_the_report_says_which_kernels_run() -> None:
    m = small(f"{FIRST} r = Relu(k) y = Conv(r, p, b)")
    found = openvino_coverage(m)
    assert (found.integer, found.float) == (0, 2) and {op.name for op in found.left} == {"k", "y"}
    quantized(m, "openvino")
    found = openvino_coverage(m)
    assert (found.integer, found.float, found.kernels) == (2, 0, {"Convolution u8": 2})
    assert str(found) == "int8 kernels: 2 of 2 heavy operators"


def test_products_inside_of_merged_layers_are_counted_by_name() -> None:
    found = read_layers(
        [Layer("Subgraph", "f32", "", ("q/WithoutBiases", "q", "r", "z_original")), Layer("MatMul", "f32", "", ("s",)),
         Layer("FullyConnected", "u8", "", ("f/DequantizationMultiply",))], frozenset(["q", "z", "s"]),
    )  # fmt: skip
    assert found.kernels == {"Subgraph f32": 2, "FullyConnected u8": 1}
    assert [op.name for op in found.left] == ["q", "z"] and found.integer == 1


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.runtime.openvino.find_spec", lambda name: None)
    with pytest.raises(TargetError) as e:
        layers(small("y = Relu(x)"))
    assert str(e.value) == 'OpenVINO is not installed\n  install it: pip install "graphopt[openvino]"'


@needs_openvino
def test_a_model_that_openvino_refuses() -> None:
    m = net("y = Conv(x, w)", "float[1,3,8,8] x", "y", {"w": (4, 3, 3, 3)})
    m.ir.graph.node(0).op_type = "NoSuchOperator"
    with pytest.raises(ExecutorError) as e:
        layers(m)
    assert "OpenVINO refuses the model" in str(e.value)


@needs_openvino
def test_a_model_is_as_fast_as_itself_to_within_a_factor() -> None:
    m = small("y = Conv(x, w, b)")
    found = openvino_speedup(m.ir, m.ir, samples(m)[0], (1.0,), seconds=0.1)
    assert found.before.runs == found.after.runs >= 5 and 0 < found.low <= found.ratio <= found.high


@needs_openvino
def test_the_verdict_is_that_of_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    m = small(CASES["the sum behind a Conv"][0])
    asked = []
    half = Speedup(Latency.of([1.0] * 5), Latency.of([2.0] * 5), 0.5, 0.4, 0.6)
    monkeypatch.setattr("graphopt.quant.goals.openvino_speedup", lambda *args: asked.append(args) or half)
    done = quantize_to_goals(m, Editor(m), load_target("openvino"), QuantOptions(), samples(m), Goals())
    assert done.verdict is not None and done.verdict.kept == "float" and len(asked) == 1
    assert not list(m.main.find("QuantizeLinear"))


@needs_openvino
def test_quantizing_for_openvino_from_end_to_end() -> None:
    done = graphopt.optimize(
        "fixtures/models/residual_cnn.onnx", "fuse,quant", target="openvino", data="fixtures/data/digits_calib.npz", force=True
    )
    assert (done.report.coverage.integer, done.report.coverage.float) == (10, 0)
