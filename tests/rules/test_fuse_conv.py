"""What follows a convolution: BatchNormalization and constants per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import Outcome, build, declines, fires, positive, rewrite, weight

FUSE = Fuse()
X = "(float[N,4,7,7] x) => (float[N,K,P,Q] y)"


def bn_parameters(channels: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    return {
        "gamma": weight(channels, seed=1, dtype=dtype),
        "beta": weight(channels, seed=2, dtype=dtype),
        "mean": weight(channels, seed=3, dtype=dtype),
        "var": positive(channels, seed=4, dtype=dtype),
    }


BN = "y = BatchNormalization(c, gamma, beta, mean, var)"


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 22])
def test_bn_after_conv(opset: int) -> None:
    model = build(X, f"c = Conv(x, w) {BN}", opset=opset, w=weight(6, 4, 3, 3), **bn_parameters(6))
    # The reference evaluator takes BatchNormalization before opset 14 for training.
    outcome = fires(FUSE, model, "conv_bn", ["Conv"], special=True, by="ort, reference" if opset >= 14 else "ort")
    assert len(outcome.node("Conv").input) == 3


@pytest.mark.parametrize(
    ("conv", "w"),
    [
        ("Conv<group=2, strides=[2,2], pads=[1,0,1,2]>", (6, 2, 3, 3)),
        ("Conv<group=4, dilations=[2,2]>", (8, 1, 2, 2)),
        ("Conv<auto_pad=\"SAME_UPPER\">", (5, 4, 2, 3)),
        ("ConvTranspose", (4, 6, 3, 3)),
        ("ConvTranspose<group=2, strides=[2,2], output_padding=[1,1], pads=[1,1,0,0]>", (4, 3, 3, 3)),
        ("ConvTranspose<group=4>", (4, 1, 2, 2)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_bn_after_any_convolution(conv: str, w: tuple[int, ...], bias: bool) -> None:
    groups = int(conv.split("group=")[1][0]) if "group=" in conv else 1
    channels = w[0] if conv.startswith("Conv<") else w[1] * groups
    given = "x, w, b" if bias else "x, w"
    model = build(
        X, f"c = {conv}({given}) y = BatchNormalization<epsilon=0.01>(c, gamma, beta, mean, var)",
        w=weight(*w), **({"b": weight(channels, seed=9)} if bias else {}), **bn_parameters(channels),
    )
    # The reference evaluator knows no groups of ConvTranspose.
    outcome = fires(FUSE, model, "conv_bn", [conv.split("<")[0]], by="ort")
    before = {a.name for a in model.graph.node[0].attribute}
    assert set(outcome.attrs(conv.split("<")[0])) == before


def test_bn_after_conv_of_one_dimension_and_three() -> None:
    for given, kernel, made in (("N,4,9", (3,), "N,6,7"), ("N,4,5,5,5", (2, 2, 2), "N,6,4,4,4")):
        signature = f"(float[{given}] x) => (float[{made}] y)"
        model = build(signature, f"c = Conv(x, w) {BN}", w=weight(6, 4, *kernel), **bn_parameters(6))
        fires(FUSE, model, "conv_bn", ["Conv"])


@pytest.mark.parametrize(
    ("name", "dtype", "by"), [("float16", np.float16, "ort"), ("double", np.float64, "reference")]
)
def test_bn_in_other_dtypes(name: str, dtype: Any, by: str) -> None:
    model = build(
        X.replace("float[", f"{name}["), f"c = Conv(x, w) {BN}", w=weight(6, 4, 3, 3, dtype=dtype) / dtype(6),
        **bn_parameters(6, dtype),
    )
    fires(FUSE, model, "conv_bn", ["Conv"], by=by)


def test_bn_of_training_is_no_affine_map() -> None:
    model = build(
        X, "c = Conv(x, w) y, m, v = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var)",
        w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    declines(FUSE, model, "conv_bn", None)


def test_bn_that_gives_its_statistics() -> None:
    model = build(
        X, "c = Conv(x, w) y, m, v, sm, sv = BatchNormalization(c, gamma, beta, mean, var)",
        opset=9, w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    declines(FUSE, model, "conv_bn", "also gives its statistics")


def test_bn_with_computed_parameters() -> None:
    parameters = bn_parameters(6)
    del parameters["gamma"]
    model = build(
        "(float[N,4,7,7] x, float[6] gamma) => (float[N,6,5,5] y)", f"c = Conv(x, w) {BN}",
        w=weight(6, 4, 3, 3), **parameters,
    )
    declines(FUSE, model, "conv_bn", None)


def test_bn_with_an_overridable_parameter() -> None:
    model = build(
        "(float[N,4,7,7] x, float[6] gamma) => (float[N,6,5,5] y)", f"c = Conv(x, w) {BN}",
        w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    declines(FUSE, model, "conv_bn", None)


def test_conv_that_something_else_reads() -> None:
    model = build(
        "(float[N,4,7,7] x) => (float[N,6,5,5] y, float[N,6,5,5] z)", f"c = Conv(x, w) {BN} z = Relu(c)",
        w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    declines(FUSE, model, "conv_bn", "an interior value has other readers")


def test_conv_that_is_an_output() -> None:
    model = build(
        "(float[N,4,7,7] x) => (float[N,6,5,5] y, float[N,6,5,5] c)", f"c = Conv(x, w) {BN}",
        w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    declines(FUSE, model, "conv_bn", "an interior value has other readers")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"var": np.full(6, -1, np.float32)}, "Sqrt of finite constants is not finite"),
        ({"var": np.full(6, -1e-5, np.float32)}, "not finite"),
        ({"mean": np.full(6, np.inf, np.float32)}, "a constant is not finite"),
        ({"gamma": np.full(6, 3e38, np.float32)}, "too large for float"),
    ],
)
def test_bn_whose_numbers_do_not_fold(changed: dict[str, np.ndarray], reason: str) -> None:
    model = build(X, f"c = Conv(x, w) {BN}", w=weight(6, 4, 3, 3), **{**bn_parameters(6), **changed})
    declines(FUSE, model, "conv_bn", reason)


def test_weights_that_two_convolutions_share() -> None:
    model = build(
        "(float[N,4,7,7] x, float[N,4,7,7] u) => (float[N,6,5,5] y, float[N,6,5,5] v)",
        f"c = Conv(x, w) {BN} v = Conv(u, w)", w=weight(6, 4, 3, 3), **bn_parameters(6),
    )
    fires(FUSE, model, "conv_bn", ["Conv", "Conv"])


def test_a_local_function_called_conv_is_no_convolution() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>
    g (float[N,6,5,5] x) => (float[N,6,5,5] y) {
      c = mine.Conv(x, x) y = BatchNormalization(c, gamma, beta, mean, var)
    }
    <domain: "mine", opset_import: ["" : 18]> Conv (a, b) => (r) { r = Mul(a, b) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in bn_parameters(6).items())
    declines(FUSE, model, "conv_bn", None)


def test_inside_a_branch_and_inside_a_function() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>
    g (float[N,4,7,7] x, bool p) => (float[N,6,5,5] y) {
      y = If(p) <
        then_branch = a () => (float[N,6,5,5] t) {
          c = Conv(x, w) t = BatchNormalization(c, gamma, beta, mean, var)
        },
        else_branch = e () => (float[N,6,5,5] f) { c = Conv(x, w) d = mine.Twice(c) f = Relu(d) }>
    }
    <domain: "mine", opset_import: ["" : 18]> Twice (a) => (r) {
      k = Constant<value = float[6,6,1,1] {%s}>()
      two = Constant<value = float {2.0}>()
      b = Conv(a, k)
      r = Mul(b, two)
    }"""
    model = onnx.parser.parse_model(text % ", ".join(["0.5"] * 36))
    constants = {"w": weight(6, 4, 3, 3), **bn_parameters(6)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    fires(FUSE, model, "conv_bn")
    assert rewrite(model, FUSE).fired["conv_scale"] == 1


# -- constants ------------------------------------------------------------------------------------


def after(expression: str, **changes: Any) -> onnx.ModelProto:
    given = {"w": weight(6, 4, 3, 3), "b": weight(6, seed=5), "k": positive(6, 1, 1, seed=6), **changes}
    conv = "Conv(x, w, b)" if given["b"] is not None else "Conv(x, w)"
    return build(X, f"c = {conv} y = {expression}", **{k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize("bias", [None, weight(6, seed=5)])
@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("Mul(c, k)", "conv_scale"),
        ("Mul(k, c)", "conv_scale"),
        ("Div(c, k)", "conv_scale"),
        ("Add(c, k)", "conv_shift"),
        ("Add(k, c)", "conv_shift"),
        ("Sub(c, k)", "conv_shift"),
        ("Sub(k, c)", "conv_shift"),
    ],
)
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (), (1,), (1, 1, 1, 1)])
def test_constant_after_conv(bias: Any, expression: str, rule: str, shape: tuple[int, ...]) -> None:
    fires(FUSE, after(expression, b=bias, k=positive(*shape, seed=6)), rule, ["Conv"], special=True)


@pytest.mark.parametrize("expression", ["Mul(c, k)", "Div(c, k)", "Add(c, k)", "Sub(k, c)"])
@pytest.mark.parametrize("group", [1, 2])
def test_constant_after_conv_transpose(expression: str, group: int) -> None:
    model = build(
        X, f"c = ConvTranspose<group={group}, strides=[2,2]>(x, w, b) y = {expression}",
        w=weight(4, 6, 3, 3), b=weight(6 * group, seed=5), k=positive(6 * group, 1, 1, seed=6),
    )
    fires(FUSE, model, "conv_scale" if expression[0] in "MD" else "conv_shift", ["ConvTranspose"], by="ort")


def test_a_chain_of_constants_folds_into_one_conv() -> None:
    model = build(
        X, "c = Conv(x, w) d = Sub(c, k) e = Div(d, k) f = Mul(e, s) y = Add(f, k)",
        w=weight(6, 4, 3, 3), k=positive(6, 1, 1), s=2.0,
    )
    outcome = fires(FUSE, model, "conv_shift", ["Conv"])
    assert outcome.fired == {"conv_shift": 2, "conv_scale": 2}


def rejected(rule: str, model: onnx.ModelProto, reason: str | None) -> Outcome:
    return declines(FUSE, model, rule, reason)


def test_constant_along_the_width() -> None:
    model = after("Mul(c, k)", w=weight(5, 4, 3, 3), b=None, k=positive(5))
    rejected("conv_scale", model, "varies along other axes than the channels")


def test_constant_that_adds_channels() -> None:
    model = after("Mul(c, k)", w=weight(1, 4, 3, 3), b=None, k=positive(3, 1, 1))
    rejected("conv_scale", model, "another number of channels")


def test_constant_that_adds_an_axis() -> None:
    model = build(
        "(float[N,4,7,7] x) => (float[M,N,K,P,Q] y)", "c = Conv(x, w) y = Mul(c, k)",
        w=weight(6, 4, 3, 3), k=positive(1, 1, 6, 1, 1),
    )
    rejected("conv_scale", model, "varies along other axes than the channels")


def test_divisor_of_zero() -> None:
    rejected("conv_scale", after("Div(c, k)", k=0.0), "Reciprocal of finite constants is not finite")


@pytest.mark.parametrize("expression", ["Mul(c, k)", "Div(c, k)", "Add(c, k)"])
def test_constant_that_is_not_finite(expression: str) -> None:
    rule = "conv_shift" if expression.startswith("Add") else "conv_scale"
    rejected(rule, after(expression, k=float("inf")), "a constant is not finite")


def test_constant_divided_by_conv() -> None:
    rejected("conv_scale", after("Div(k, c)"), None)


def test_weights_that_would_overflow() -> None:
    signature, w = X.replace("float[", "float16["), weight(6, 4, 3, 3, dtype=np.float16)
    model = build(signature, "c = Conv(x, w) y = Mul(c, k)", w=w, k=np.float16(6e4))
    rejected("conv_scale", model, "too large for float16")


def test_operand_that_is_no_constant() -> None:
    signature = "(float[N,4,7,7] x, float[6,1,1] k) => (float[N,6,5,5] y)"
    model = build(signature, "c = Conv(x, w) y = Mul(c, k)", w=weight(6, 4, 3, 3))
    rejected("conv_scale", model, None)


def test_bias_that_is_no_constant() -> None:
    model = build(
        "(float[N,4,7,7] x, float[6] b) => (float[N,6,5,5] y)", "c = Conv(x, w, b) y = Mul(c, k)",
        w=weight(6, 4, 3, 3), k=2.0,
    )
    rejected("conv_scale", model, None)


def test_under_exact_nothing_fires() -> None:
    assert not rewrite(after("Mul(c, k)"), FUSE, accuracy="exact").fired
