"""8-bit floats for TensorRT: the pairs of each row, what stays float and why, numbers, and that the runtime builds it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import graphopt
from graphopt.emit.emitter import EmitOptions
from graphopt.emit.tensorrt import TensorRTEmitter
from graphopt.errors import TargetError, UsageError
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import Plan, QuantOptions, plan
from graphopt.quant.typed import table_of
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.targets.target import load_target
from tests.unit.placing import net, pairs, quantized, reasons, run, samples, snr

E4M3 = "float8e4m3fn"
IMAGE = "float[1,32,8,8] x"
ROWS = "float[4,64] x"
W = {"w": (32, 32, 3, 3), "b": (32,), "p": (32, 32, 1, 1), "m": (64, 64), "n": (64, 48), "t": (48, 64), "c": (48,)}
LINEAR = "d = MatMul(x, m) r = Relu(d) y = Gemm(r, n, c) z = Exp(y)"


def of(body: str, inputs: str = ROWS, output: str = "z", opset: int = 19, **more: object) -> Model:
    known = {**W, **more}
    used = {n: w for n, w in known.items() if f" {n})" in body or f" {n}," in body}
    return net(body, inputs, output, used, opset=opset)  # type: ignore[arg-type]


def placed(m: Model, target: str = "tensorrt") -> Plan:
    return plan(m, table_of(load_target(target), QuantOptions(activation=E4M3)))


ARRAYS: dict[str, np.ndarray] = {v.name: v.array() for v in of(LINEAR).main.initializers}  # type: ignore[misc]


def test_scales_are_per_tensor_and_per_channel_and_biases_stay_float() -> None:
    m = of(LINEAR)
    done = quantized(m, "tensorrt", activation=E4M3)
    found = {v.name: v.array() for v in m.main.initializers}
    assert found["x_scale"].shape == () and found["m_scale"].shape == (64,) and found["n_scale"].shape == (48,)
    assert found["m_float8e4m3fn"].dtype == ml_dtypes.float8_e4m3fn and found["c"].dtype == np.float32
    zeros = [a for n, a in found.items() if n.endswith("zero_point")]
    assert zeros and all(a.dtype == ml_dtypes.float8_e4m3fn and (a == 0).all() for a in zeros)
    assert {p.dtype for p in done.placed} == {E4M3}
    weight = np.abs(ARRAYS["m"]).max(axis=0)
    np.testing.assert_allclose(found["m_scale"], weight / 448, rtol=1e-6)


# Rows


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "ort-cuda"])
def test_products_of_matrices_on_every_target(target: str) -> None:
    assert pairs(placed(of(LINEAR), target)) == {"x": "d", "r": "y"}
    turned = of("y = Gemm<transB=1>(x, t) z = Exp(y)")
    assert pairs(placed(turned, target)) == {"x": "y"} and placed(turned, target).heavy[0].axis == 0


def test_convolutions_and_residual_sums_on_tensorrt_alone() -> None:
    m = of("r = Relu(x) k = Conv<pads=[1,1,1,1]>(r, w, b) s = Add(k, r) y = Conv(s, p, b)", IMAGE, "y")
    assert pairs(placed(m)) == {"r": "k s", "s": "y"}
    p = placed(m, "tensorrt-rtx")
    assert pairs(p) == {} and set(reasons(p).values()) == {
        "TensorRT for RTX multiplies 8-bit floats in Gemm and MatMul alone"
    }


@pytest.mark.parametrize(
    ("weight", "group", "fits"),
    [
        ((32, 32, 3, 3), 1, True),
        ((17, 17, 5, 5), 1, True),
        ((32, 16, 3, 3), 1, False),
        ((16, 32, 3, 3), 1, False),
        ((64, 3, 3, 3), 1, False),  # as int8, a first layer would do
        ((32, 1, 3, 3), 32, False),  # and so would a depthwise one
        ((32, 32, 7, 7), 1, False),
        ((32, 32, 1, 32), 1, True),
        ((32, 32, 3, 11), 1, False),
    ],
)
def test_channels_and_windows_of_a_conv(weight: tuple[int, ...], group: int, fits: bool) -> None:
    m = net(f"k = Conv<group={group}>(x, w) y = Exp(k)", f"float[1,{weight[1] * group},40,40] x", "y", {"w": weight})
    p = placed(m)
    assert (pairs(p) == {"x": "k"}) is fits and (fits or "half precision is faster" in reasons(p)["k"])


def test_what_has_no_kernel_for_8_bit_floats_gets_none() -> None:
    p = placed(of("k = ConvTranspose(x, w) y = Relu(k)", IMAGE, "y"))
    assert pairs(p) == {} and "Conv, Gemm and MatMul" in reasons(p)["k"]
    pool = of("k = Conv(x, p, b) g = GlobalAveragePool(k) y = Conv(g, p, b)", IMAGE, "y")
    assert pairs(placed(pool)) == {"x": "k", "g": "y"}, "no pair in front of the pool"
    norm = of("k = Conv(x, p, b) t = Transpose<perm=[0,2,3,1]>(k) y = LayerNormalization(t, b, b)", IMAGE, "y")
    assert pairs(placed(norm)) == {"x": "k"}, "none in front of the normalization"


CHAIN = "s = MatMul(q, k) {} o = Softmax({}) r = MatMul(o, v) y = Exp(r)"
FACTOR = {"f": np.array(0.2, np.float32)}


def attention(length: int | str, head: int | str, between: str = "u = Mul(s, f)", last: str = "u") -> Model:
    rows = f"float[1,2,{length},{head}]"
    inputs = f"{rows} q, float[1,2,{head},{length}] k, {rows} v, float[1,1,1,{length}] a, bool[1,1,1,{length}] h"
    return net(CHAIN.format(between, last), inputs, "y", FACTOR)


@pytest.mark.parametrize("length", [32, 513, "L"])
@pytest.mark.parametrize(
    ("between", "last"),
    [("", "s"), ("u = Mul(s, f)", "u"), ("t = Div(s, f) u = Add(a, t)", "u"), ("u = Add(s, a)", "u")],
)
def test_attention_of_any_length_with_a_factor_and_a_mask(length: int | str, between: str, last: str) -> None:
    assert pairs(placed(attention(length, 32, between, last))) == {"q": "s", "k": "s", "o": "r", "v": "r"}


def test_attention_that_is_not_fused_stays_float_as_a_whole() -> None:
    why = {
        "heads of 272, and the fused kernel takes 9 to 256": attention(32, 272),
        "heads of H": attention(32, "H"),
        "more than a factor and a mask": attention(32, 32, "t = Add(s, a) u = Mul(t, f)", "u"),
        "is not fused": attention(32, 32, "u = Where(h, s, f)", "u"),
    }
    for reason, m in why.items():
        p = placed(m)
        assert pairs(p) == {} and len(reasons(p)) == 2 and all(reason in text for text in reasons(p).values())


@pytest.mark.parametrize(("shape", "weight"), [("1,64", (64, 64)), ("4,8", (8, 32)), ("4,64", (64, 8))])
def test_small_products_stay_float(shape: str, weight: tuple[int, ...]) -> None:
    p = placed(net("d = MatMul(x, w) y = Exp(d)", f"float[{shape}] x", "y", {"w": weight}))
    assert pairs(p) == {} and len(reasons(p)) == 1


# What is asked for


@pytest.mark.parametrize("options", [{"activation": E4M3}, {"weight": E4M3}, {"activation": E4M3, "weight": E4M3}])
def test_either_option_gives_both(options: dict[str, str]) -> None:
    assert table_of(load_target("tensorrt"), QuantOptions(**options)).activation == E4M3  # type: ignore[arg-type]


def test_the_targets_own_types_may_be_named() -> None:
    for target, activation in (("tensorrt", "int8"), ("ort-cpu", "uint8")):
        found = load_target(target)
        assert table_of(found, QuantOptions(activation=activation, weight="int8")) == found.quant


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("tensorrt", {"activation": "float8e5m2"}, "TensorRT's 8-bit float is float8e4m3fn"),
        ("tensorrt-rtx", {"weight": "float8e5m2"}, "TensorRT's 8-bit float is float8e4m3fn"),
        ("tensorrt", {"activation": "uint8"}, "TensorRT's integers are symmetric"),
        ("ort-cpu", {"activation": E4M3}, "not quantized to float8e4m3fn here\n  it takes uint8"),
        ("tensorrt", {"weight": "int4"}, "it takes int8, float8e4m3fn; weights alone can be int4 with kind=weights"),
        ("qnn", {"activation": "int16"}, "not quantized to int16 here"),
    ],
)
def test_types_that_a_target_has_not(target: str, options: dict[str, str], error: str) -> None:
    with pytest.raises(TargetError) as caught:
        quantized(of(LINEAR), target, **options)
    assert error in str(caught.value) and caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"activation": E4M3, "weight": "int8"}, "activations of float8e4m3fn go with weights of float8e4m3fn"),
        ({"activation": "int8", "weight": E4M3}, "activations of float8e4m3fn go with weights of float8e4m3fn"),
        ({"kind": "weights", "weight": E4M3}, "quant.weight cannot be 'float8e4m3fn'"),
        ({"kind": "weights", "activation": E4M3}, "activations are not stored with kind=weights"),
        ({"activation": "float8"}, "quant.activation cannot be 'float8'"),
        ({"activation": "int32"}, "quant.activation cannot be 'int32'"),
    ],
)
def test_types_that_do_not_go_together(options: dict[str, str], error: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantized(of(LINEAR), "tensorrt", **options)
    assert error in str(caught.value)


def test_a_target_of_the_users_own_with_the_other_8_bit_float(tmp_path: Path) -> None:
    path = tmp_path / "wide.toml"
    path.write_text('extends = "tensorrt"\nname = "wide"\ntitle = "t"\n[quant.types.float8e5m2]\nweight = "float8e5m2"\n')
    m = of(LINEAR, opset=17)
    feeds = samples(m)[0]
    exact = run(m, feeds)
    done = quantized(m, str(path), activation="float8e5m2")
    assert {p.dtype for p in done.placed} == {"float8e5m2"} and m.opset() == 19
    assert snr(exact, run(m, feeds)) > 14


# Numbers


def test_it_computes_what_onnx_runtime_computes_with_8_bit_floats() -> None:
    m = of(LINEAR)
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "tensorrt", activation=E4M3, method="minmax")
    found = run(m, feeds)
    assert 20 < snr(exact, found) < 35, "three bits of mantissa"
    held = {v.name: v.array() for v in m.main.initializers}

    def rounded(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale).astype(np.float32)

    d = rounded(feeds["x"], held["x_scale"]) @ rounded(ARRAYS["m"], held["m_scale"])
    y = rounded(np.maximum(d, 0), held["r_scale"]) @ rounded(ARRAYS["n"], held["n_scale"]) + ARRAYS["c"]
    np.testing.assert_allclose(found["z"], np.exp(y), rtol=2e-3)


def test_onnx_runtime_optimizes_it_without_harm() -> None:
    """Left to itself, it makes QLinearConv of 8-bit floats, which it refuses, and drops the Relu in front of a Q."""
    m = of("k = Conv(x, w, b) r = Relu(k) z = Conv(r, p, b)", IMAGE)
    quantized(m, "tensorrt", activation=E4M3)
    feeds = samples(m)[0]
    found = run_model(package(m.ir), feeds, optimized=True)
    assert snr(run(m, feeds), found) > 50
    assert not package(of(LINEAR).ir).float8


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_ranges_of_all_sizes_keep_their_precision(factor: float) -> None:
    m = of("d = MatMul(x, m) y = Relu(d)", output="y", m=(factor * ARRAYS["m"]).astype(np.float32))
    feeds = samples(m)[0]
    exact = run(m, feeds)
    assert quantized(m, "tensorrt", activation=E4M3).operators == 1
    assert 25 < snr(exact, run(m, feeds)) < 40


def test_scales_are_what_a_half_holds_where_that_costs_nothing() -> None:
    """448 times the smallest normal half is 0.027; below, the scale stays there, and the elements become smaller."""
    factors = {0.02: True, 0.001: True, 1e-5: False}
    for peak, held in factors.items():
        matrix = (ARRAYS["m"] * (peak / np.abs(ARRAYS["m"]).max(axis=0))).astype(np.float32)
        m = of("d = MatMul(x, m) y = Relu(d)", output="y", m=matrix)
        feeds = samples(m)[0]
        exact = run(m, feeds)
        quantized(m, "tensorrt", activation=E4M3)
        scales = {v.name: v.array() for v in m.main.initializers}["m_scale"]
        assert scales is not None and (scales == 2.0**-14).all() == held
        assert 25 < snr(exact, run(m, feeds)) < 40
    m = of("d = MatMul(x, m) y = Relu(d)", output="y", m=ARRAYS["m"] * 0.01)
    quantized(m, "tensorrt")
    integers = {v.name: v.array() for v in m.main.initializers}["m_scale"]
    np.testing.assert_allclose(integers, np.abs(ARRAYS["m"] * 0.01).max(axis=0) / 127, rtol=1e-5)


# Older models, and models that are quantized already


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_an_older_model_gets_opset_19(opset: int) -> None:
    m = of(LINEAR, opset=opset)
    done = quantized(m, "tensorrt", activation=E4M3)
    assert m.opset() == 19 and done.operators == 2
    assert f"opset {opset} became 19, which quantization needs" in done.notes


def test_a_model_with_products_of_activations_alone_gets_it_too() -> None:
    m = net("d = MatMul(x, w) y = Exp(d)", "float[4,64] x, float[64,32] w", "y", opset=13)
    assert quantized(m, "tensorrt", activation=E4M3).operators == 1 and m.opset() == 19


def test_a_target_that_does_not_take_opset_19_says_so(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text('extends = "tensorrt"\nname = "old"\ntitle = "t"\n[domains]\n"" = 17\n')
    with pytest.raises(TargetError) as caught:
        quantized(of(LINEAR, opset=13), str(path), activation=E4M3)
    assert str(caught.value) == (
        "float8e4m3fn needs opset 19, and the model has 13\n"
        "  opset 13 stays, though 19 is better: the target does not take opset 19"
    )


def test_a_model_without_anything_to_quantize_needs_no_opset() -> None:
    m = of("y = Exp(x)", output="y", opset=13)
    assert not quantized(m, "tensorrt", activation=E4M3).placed and m.opset() == 13


def test_quantized_once_more_and_back_in_floats() -> None:
    m = of(LINEAR)
    feeds = samples(m)[0]
    quantized(m, "tensorrt", activation=E4M3)
    first, bits = run(m, feeds), {v.name: v.array() for v in m.main.initializers}["m_float8e4m3fn"]
    again = quantized(m, "tensorrt", activation=E4M3)
    assert not again.placed and "already quantized" in again.notes[0]
    kept = quantized(m, "tensorrt", activation=E4M3, existing="retarget")
    assert kept.operators == 2 and not any("rounded again" in note for note in kept.notes)
    stored = [a for v in m.main.initializers if (a := v.array()) is not None and a.dtype == bits.dtype and a.shape == (64, 64)]
    assert np.array_equal(stored[0].astype(np.float32), bits.astype(np.float32))
    assert snr(first, run(m, feeds)) > 60, "scales and weights were kept"
    graphopt.dequantize_graph(m, Editor(m))
    assert [n.op for n in m.main.nodes] == ["MatMul", "Relu", "Gemm", "Exp"]


def test_equalization_is_left_out_and_says_so_if_it_was_asked_for() -> None:
    assert not any("was not used" in n for n in quantized(of(LINEAR), "tensorrt", activation=E4M3).notes)
    done = quantized(of(LINEAR), "tensorrt", activation=E4M3, corrections=("cle", "clip"))
    assert [n for n in done.notes if "was not used" in n] == [
        "cle was not used: the steps of float8e4m3fn are as fine as numbers are small"
    ]


def test_seven_bit_weights_are_for_integers() -> None:
    m = of(LINEAR)
    quantized(m, "tensorrt", activation=E4M3, reduce_range=True)
    assert {v.name: v.array() for v in m.main.initializers}["m_scale"].max() < np.abs(ARRAYS["m"]).max() / 400


# The runtime

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra [tensorrt] is not installed"
)
BUILT = {
    "products": (of(LINEAR), "tensorrt-rtx"),
    "attention": (attention(32, 32), "tensorrt-rtx"),
    "convolutions": (
        of("k = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(k) s = Conv<pads=[1,1,1,1]>(r, w, b) t = Add(s, r) y = Conv(t, p, b)",
           IMAGE, "y"), "tensorrt",
    ),
}  # fmt: skip


@needs_tensorrt
@pytest.mark.parametrize("case", BUILT)
@pytest.mark.parametrize("rest", ["float16", "float32"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, case: str, rest: str) -> None:
    source, target = BUILT[case]
    passes = f"quant{{activation=float8e4m3fn,rest={rest}}}"
    feeds = [{k: v if k != "h" else v > 0 for k, v in feed.items()} for feed in samples(source)]
    done = graphopt.optimize(to_bytes(source.ir), passes, target=target, data=feeds, max_drop=None, verify=False)
    m = graphopt.load(done.model)
    assert {v.dtype.name for n in m.main.find("QuantizeLinear") for v in n.outputs if v.dtype} == {"FLOAT8E4M3FN"}
    scales = {n.inputs[1].dtype.name for n in m.main.find("QuantizeLinear", "DequantizeLinear")}  # type: ignore[union-attr]
    assert scales == {rest.upper().replace("FLOAT32", "FLOAT")}
    assert TensorRTEmitter().emit(m, tmp_path / "m.engine", EmitOptions(sm=(89,))).bytes > 1000
    with pytest.raises(TargetError, match="fp8_e4m3") as caught:
        TensorRTEmitter().emit(m, tmp_path / "m.engine", EmitOptions(sm=(86,)))
    assert "fp8 needs 89 or later" in str(caught.value)
