"""What precedes a convolution: constants per channel, BatchNormalization, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, positive, weight

FUSE = Fuse()
X = "(float[N,4,7,7] x) => (float[N,K,P,Q] y)"


def before(expression: str, conv: str = "Conv", signature: str = X, **changes: Any) -> onnx.ModelProto:
    given = {"w": weight(6, 4, 3, 3), "b": weight(6, seed=5), "k": positive(4, 1, 1, seed=6), **changes}
    operands = "d, w, b" if given["b"] is not None else "d, w"
    body = f"d = {expression} y = {conv}({operands})"
    return build(signature, body, **{k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize("bias", [None, weight(6, seed=5)])
@pytest.mark.parametrize("expression", ["Mul(x, k)", "Mul(k, x)", "Div(x, k)"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (), (1, 1)])
@pytest.mark.parametrize("conv", ["Conv", "Conv<pads=[1,2,0,1]>", 'Conv<auto_pad="SAME_LOWER">'])
def test_factor_before_conv(bias: Any, expression: str, shape: tuple[int, ...], conv: str) -> None:
    fires(FUSE, before(expression, conv, b=bias, k=positive(*shape, seed=6)), "scale_conv", ["Conv"])


@pytest.mark.parametrize(
    ("conv", "w"),
    [
        ("Conv<group=2, pads=[1,1,1,1]>", (6, 2, 3, 3)),
        ("Conv<group=4>", (8, 1, 3, 3)),
        ("ConvTranspose<strides=[2,2], pads=[1,0,0,1]>", (4, 6, 3, 3)),
        ("ConvTranspose<group=2>", (4, 3, 3, 3)),
    ],
)
def test_factor_before_groups_and_conv_transpose(conv: str, w: tuple[int, ...]) -> None:
    fires(FUSE, before("Mul(x, k)", conv, w=weight(*w), b=None), "scale_conv", [conv.split("<")[0]], by="ort")


def test_factor_before_conv_whose_bias_is_computed() -> None:
    signature = "(float[N,4,7,7] x, float[6] b) => (float[N,6,5,5] y)"
    model = build(signature, "d = Mul(x, k) y = Conv(d, w, b)", w=weight(6, 4, 3, 3), k=positive(4, 1, 1))
    fires(FUSE, model, "scale_conv", ["Conv"])


@pytest.mark.parametrize("bias", [None, weight(6, seed=5)])
@pytest.mark.parametrize("expression", ["Add(x, k)", "Add(k, x)", "Sub(x, k)", "Sub(k, x)"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1,)])
@pytest.mark.parametrize(
    "conv", ["Conv", 'Conv<auto_pad="VALID">', "Conv<pads=[0,0,0,0], strides=[2,1], dilations=[1,2]>"]
)
def test_summand_before_conv(bias: Any, expression: str, shape: tuple[int, ...], conv: str) -> None:
    fires(FUSE, before(expression, conv, b=bias, k=positive(*shape, seed=6)), "shift_conv", ["Conv"])


def test_summand_before_groups() -> None:
    fires(FUSE, before("Add(x, k)", "Conv<group=2>", w=weight(6, 2, 3, 3)), "shift_conv", ["Conv"])


def test_normalised_pixels() -> None:
    signature = "(float[N,3,8,8] x) => (float[N,6,4,4] y)"
    model = build(
        signature, "a = Div(x, s) c = Sub(a, m) d = Div(c, k) y = Conv<strides=[2,2], kernel_shape=[2,2]>(d, w)",
        w=weight(6, 3, 2, 2), s=255.0, m=positive(3, 1, 1), k=positive(1, 3, 1, 1, seed=1),
    )
    outcome = fires(FUSE, model, "shift_conv", ["Conv"])
    assert outcome.fired == {"scale_conv": 2, "shift_conv": 1}


@pytest.mark.parametrize(
    ("expression", "changes", "rule", "reason"),
    [
        ("Mul(x, k)", {"k": positive(7)}, "scale_conv", "varies along other axes"),
        ("Mul(x, k)", {"k": float("inf")}, "scale_conv", "a constant is not finite"),
        ("Div(x, k)", {"k": np.zeros((4, 1, 1), np.float32)}, "scale_conv", "Reciprocal of finite constants"),
        ("Div(k, x)", {}, "scale_conv", None),
        ("Add(x, k)", {"conv": "Conv<pads=[0,0,0,1]>"}, "shift_conv", "pads with zeros"),
        ("Add(x, k)", {"conv": 'Conv<auto_pad="SAME_UPPER">'}, "shift_conv", "auto_pad"),
        ("Add(x, k)", {"conv": "ConvTranspose", "w": weight(4, 6, 3, 3)}, "shift_conv", None),
        ("Add(x, k)", {"k": positive(1, 7, 7)}, "shift_conv", "varies along other axes"),
        ("Mul(x, k)", {"signature": "(float[N,1,7,7] x) => (float[N,6,5,5] y)"}, "scale_conv", "raise the number"),
        ("Add(x, k)", {"signature": "(float[N,1,7,7] x) => (float[N,6,5,5] y)"}, "shift_conv", "raise the number"),
        ("Mul(x, k)", {"signature": "(float[N,C,7,7] x) => (float[N,6,5,5] y)"}, "scale_conv", "raise the number"),
        ("Mul(x, k)", {"signature": "(float[4,7,7] x) => (float[1,6,5,5] y)", "k": positive(1, 4, 1, 1)},
         "scale_conv", "raises the rank"),
    ],
)  # fmt: skip
def test_what_does_not_fold(expression: str, changes: dict[str, Any], rule: str, reason: str | None) -> None:
    declines(FUSE, before(expression, **changes), rule, reason)


def test_scaled_input_that_something_else_reads() -> None:
    signature = "(float[N,4,7,7] x) => (float[N,6,5,5] y, float[N,4,7,7] z)"
    model = build(signature, "d = Mul(x, k) y = Conv(d, w) z = Relu(d)", w=weight(6, 4, 3, 3), k=positive(4, 1, 1))
    declines(FUSE, model, "scale_conv", "an interior value has other readers")


# -- BatchNormalization ---------------------------------------------------------------------------


def bn_first(conv: str = "Conv", w: tuple[int, ...] = (6, 4, 3, 3)) -> onnx.ModelProto:
    return build(
        X, f"d = BatchNormalization(x, gamma, beta, mean, var) y = {conv}(d, w)", w=weight(*w),
        gamma=weight(4, seed=1), beta=weight(4, seed=2), mean=weight(4, seed=3), var=positive(4, seed=4),
    )


@pytest.mark.parametrize(("conv", "w"), [("Conv", (6, 4, 3, 3)), ("Conv<group=2>", (6, 2, 3, 3))])
def test_bn_before_conv(conv: str, w: tuple[int, ...]) -> None:
    fires(FUSE, bn_first(conv, w), "bn_conv", ["Conv"], special=True)


def test_bn_before_conv_that_pads() -> None:
    declines(FUSE, bn_first("Conv<pads=[1,1,1,1]>"), "bn_conv", "pads with zeros")


# -- padding --------------------------------------------------------------------------------------


def padded(pad: str, conv: str = "Conv", opset: int = 18, **changes: Any) -> onnx.ModelProto:
    given = {"w": weight(6, 4, 3, 3), "p": np.array([0, 0, 1, 2, 0, 0, 0, 3]), **changes}
    return build(X, f"d = {pad} y = {conv}(d, w)", opset=opset, **given)


@pytest.mark.parametrize(
    ("pad", "opset", "changes"),
    [
        ("Pad(x, p)", 11, {}),
        ("Pad(x, p, z)", 13, {"z": 0.0}),
        ("Pad(x, p, z)", 18, {"z": np.float32(-0.0)}),
        ("Pad(x, p, , a)", 18, {"p": np.array([1, 2, 0, 3]), "a": np.array([2, 3])}),
        ("Pad(x, p, , a)", 19, {"p": np.array([2, 1, 3, 0]), "a": np.array([-1, -2])}),
        ("Pad(x, p, , a)", 21, {"p": np.array([2, 3]), "a": np.array([3])}),
        ("Pad<pads=[0,0,1,2,0,0,0,3]>(x)", 10, {}),
    ],
)
@pytest.mark.parametrize("conv", ["Conv", "Conv<pads=[1,0,2,0], strides=[2,2]>", 'Conv<auto_pad="VALID">'])
def test_pad_before_conv(pad: str, opset: int, changes: dict[str, Any], conv: str) -> None:
    outcome = fires(FUSE, padded(pad, conv, opset, **changes), "pad_conv", ["Conv"], by="ort")
    own = [1, 0, 2, 0] if "pads" in conv else [0, 0, 0, 0]
    extra = [0, 2, 0, 3] if changes.get("p", np.zeros(0)).shape == (2,) else [1, 2, 0, 3]
    assert outcome.attrs("Conv")["pads"] == [p + q for p, q in zip(own, extra, strict=True)]


def test_pad_before_conv_with_computed_weights() -> None:
    signature = "(float[N,4,7,7] x, float[6,4,3,3] w) => (float[N,6,5,5] y)"
    model = build(signature, "d = Pad(x, p) y = Conv<pads=[0,0,0,0]>(d, w)", p=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 7
    fires(FUSE, model, "pad_conv", ["Conv"])


@pytest.mark.parametrize(
    ("pad", "conv", "changes", "reason"),
    [
        ("Pad(x, p, z)", "Conv", {"z": 1.0}, "does not pad with zeros"),
        ('Pad<mode="reflect">(x, p)', "Conv", {}, None),
        ("Pad(x, p)", "Conv", {"p": np.array([0, 0, -1, 0, 0, 0, 1, 1])}, "the padding crops"),
        ("Pad(x, p)", "Conv<group=1>", {"p": np.array([0, 1, 0, 0, 0, 0, 1, 1]), "w": weight(6, 5, 3, 3)},
         "pads batch or channels"),
        ("Pad(x, p)", 'Conv<auto_pad="SAME_UPPER">', {}, "auto_pad"),
        ("Pad(x, p)", "ConvTranspose", {"w": weight(4, 6, 3, 3)}, None),
    ],
)  # fmt: skip
def test_padding_that_stays(pad: str, conv: str, changes: dict[str, Any], reason: str | None) -> None:
    declines(FUSE, padded(pad, conv, **changes), "pad_conv", reason)


def test_padding_by_a_computed_amount() -> None:
    signature = "(float[N,4,7,7] x, int64[8] p) => (float[N,6,P,Q] y)"
    declines(FUSE, build(signature, "d = Pad(x, p) y = Conv(d, w)", w=weight(6, 4, 3, 3)), "pad_conv", None)


def test_padding_that_two_convolutions_read() -> None:
    signature = "(float[N,4,7,7] x) => (float[N,6,P,Q] y, float[N,6,P,Q] z)"
    model = build(
        signature, "d = Pad(x, p) y = Conv(d, w) z = Conv(d, w)", w=weight(6, 4, 3, 3),
        p=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    declines(FUSE, model, "pad_conv", "an interior value has other readers")
