"""Activation functions, in the spellings of the exporters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, rewrite, weight

FUSE = Fuse()
X = "(float[N,20] x) => (float[N,20] y)"

HALVES = {
    "(x·½)·z": "h = Mul(x, half) y = Mul(h, z)",
    "z·(½·x)": "h = Mul(half, x) y = Mul(z, h)",
    "(x·z)·½": "h = Mul(x, z) y = Mul(h, half)",
    "½·(z·x)": "h = Mul(z, x) y = Mul(half, h)",
    "x·(½·z)": "h = Mul(half, z) y = Mul(x, h)",
    "(x·z)/2": "h = Mul(x, z) y = Div(h, two)",
    "x·(z/2)": "h = Div(z, two) y = Mul(x, h)",
    "(x/2)·z": "h = Div(x, two) y = Mul(h, z)",
}
CONSTANTS = {"half": 0.5, "two": 2.0, "one": 1.0}


def activation(body: str, opset: int = 20, signature: str = X, **constants: Any) -> onnx.ModelProto:
    used = {k: v for k, v in {**CONSTANTS, **constants}.items() if f"({k}" in body or f", {k}" in body}
    return build(signature, body, opset=opset, **used)


# -- Gelu -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("inner", ["s = Div(x, c)", "s = Mul(x, d)", "s = Mul(d, x)"])
@pytest.mark.parametrize("plus", ["z = Add(e, one)", "z = Add(one, e)"])
def test_gelu_erf(half: str, inner: str, plus: str) -> None:
    model = activation(f"{inner} e = Erf(s) {plus} {half}", c=math.sqrt(2), d=math.sqrt(0.5))
    outcome = fires(FUSE, model, "gelu_erf", ["Gelu"], special=True)
    assert outcome.attrs("Gelu") == {}


def test_gelu_erf_distributed() -> None:
    model = activation("s = Div(x, c) e = Erf(s) h = Mul(e, half) z = Add(h, half) y = Mul(x, z)", c=math.sqrt(2))
    fires(FUSE, model, "gelu_erf", ["Gelu"], special=True)


@pytest.mark.parametrize(
    "constant", [1.4142135381698608, 1.41421356, 1.4142135], ids=["float32", "eight decimals", "seven decimals"]
)
def test_gelu_erf_with_the_constant_as_exporters_round_it(constant: float) -> None:
    fires(FUSE, activation(f"s = Div(x, c) e = Erf(s) z = Add(e, one) {HALVES['(x·½)·z']}", c=constant), "gelu_erf")


def test_gelu_of_half_precision() -> None:
    half = {k: np.float16(v) for k, v in {**CONSTANTS, "c": math.sqrt(2)}.items()}
    body = f"s = Div(x, c) e = Erf(s) z = Add(e, one) {HALVES['(x·½)·z']}"
    model = activation(body, signature=X.replace("float", "float16"), **half)
    fires(FUSE, model, "gelu_erf", ["Gelu"], by="ort")


def test_gelu_with_an_unknown_rank() -> None:
    body = f"x = Reshape(u, n) s = Div(x, c) e = Erf(s) z = Add(e, one) {HALVES['(x·½)·z']}"
    model = activation(body, signature="(float[N,20] u, int64[K] n) => (float[N,20] y)", c=math.sqrt(2))
    declines(FUSE, model, "gelu_erf", "the shape of the replacement is not provably the same")


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        ("s = Div(x, c) e = Erf(s) z = Add(e, one) h = Mul(x, half) y = Mul(h, z)", {"c": 1.5}, None),
        ("s = Div(x, c) e = Erf(s) z = Add(e, one) h = Mul(x, half) y = Mul(h, z)", {"half": 0.500001}, None),
        ("s = Div(x, c) e = Erf(s) z = Add(e, one) h = Mul(x, half) y = Mul(h, z)", {"one": 1.0000001}, None),
        ("s = Div(x, c) e = Erf(s) z = Add(e, one) h = Mul(u, half) y = Mul(h, z)", {"u": weight(20)}, None),
        ("s = Div(x, c) e = Erf(s) z = Add(e, one) h = Mul(x, half) y = Mul(h, z)",
         {"half": np.full((1, 1, 1), 0.5, np.float32)}, "the shape of the replacement"),
    ],
)  # fmt: skip
def test_gelu_with_something_changed(body: str, constants: dict[str, Any], reason: str | None) -> None:
    constants = {"c": math.sqrt(2), **constants}
    signature = X.replace("float[N,20] y", "float[1,N,20] y") if reason else X
    declines(FUSE, activation(body, signature=signature, **constants), "gelu_erf", reason)


def test_gelu_before_its_opset() -> None:
    model = activation(f"s = Div(x, c) e = Erf(s) z = Add(e, one) {HALVES['(x·½)·z']}", opset=19, c=math.sqrt(2))
    declines(FUSE, model, "gelu_erf", "ONNX Runtime fuses the whole that it is part of")


def test_gelu_whose_inside_is_read() -> None:
    signature = "(float[N,20] x) => (float[N,20] y, float[N,20] e)"
    body = f"s = Div(x, c) e = Erf(s) z = Add(e, one) {HALVES['(x·½)·z']}"
    declines(FUSE, activation(body, signature=signature, c=math.sqrt(2)), "gelu_erf", "has other readers")


CUBES = {
    "a·x³": "p = Pow(x, three) q = Mul(a, p)",
    "a·(x·(x·x))": "o = Mul(x, x) p = Mul(x, o) q = Mul(p, a)",
    "x·(x·(x·a))": "o = Mul(a, x) p = Mul(x, o) q = Mul(x, p)",
    "(x·x)·(a·x)": "o = Mul(x, x) p = Mul(a, x) q = Mul(o, p)",
    "x·(a·x²)": "o = Pow(x, two) p = Mul(a, o) q = Mul(p, x)",
}
TANH = {"a": 0.044715, "three": 3.0, "k": math.sqrt(2 / math.pi)}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("cube", CUBES.values(), ids=CUBES)
def test_gelu_tanh(half: str, cube: str) -> None:
    model = activation(f"{cube} r = Add(x, q) s = Mul(r, k) e = Tanh(s) z = Add(one, e) {half}", **TANH)
    outcome = fires(FUSE, model, "gelu_tanh", ["Gelu"])
    assert outcome.attrs("Gelu") == {"approximate": b"tanh"}


@pytest.mark.parametrize(
    "inner",
    [
        "m = Mul(x, k) o = Mul(x, x) p = Mul(o, a) q = Add(p, one) s = Mul(m, q)",
        "m = Mul(x, k) o = Mul(x, a) p = Mul(o, x) q = Add(one, p) s = Mul(m, q)",
        "o = Pow(x, two) p = Mul(o, a) q = Add(p, one) m = Mul(k, q) s = Mul(x, m)",
    ],
)
def test_gelu_tanh_factored(inner: str) -> None:
    fires(FUSE, activation(f"{inner} e = Tanh(s) z = Add(one, e) {HALVES['(x·½)·z']}", **TANH), "gelu_tanh", ["Gelu"])


@pytest.mark.parametrize("changed", [{"a": 0.0447}, {"three": 2.0}, {"k": 0.8}])
def test_gelu_tanh_with_something_changed(changed: dict[str, float]) -> None:
    body = f"{CUBES['a·x³']} r = Add(x, q) s = Mul(r, k) e = Tanh(s) z = Add(one, e) {HALVES['(x·½)·z']}"
    declines(FUSE, activation(body, **{**TANH, **changed}), "gelu_tanh", None)


# -- the sigmoid's relatives ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "alpha"),
    [
        ("s = Sigmoid(x) y = Mul(x, s)", 1.0),
        ("s = Sigmoid(x) y = Mul(s, x)", 1.0),
        ("q = Mul(x, a) s = Sigmoid(q) y = Mul(s, x)", 1.702),
    ],
)
def test_swish(body: str, alpha: float) -> None:
    outcome = fires(FUSE, activation(body, opset=24, a=1.702), "swish", ["Swish"], special=True)
    assert outcome.attrs("Swish")["alpha"] == pytest.approx(alpha)


def test_swish_before_its_opset() -> None:
    declines(FUSE, activation("s = Sigmoid(x) y = Mul(x, s)", opset=23), "swish", "Swish does not exist at opset 23")


def test_swish_with_several_slopes() -> None:
    body = "q = Mul(x, a) s = Sigmoid(q) y = Mul(s, x)"
    declines(FUSE, activation(body, opset=24, a=weight(20)), "swish", "not a constant with one value throughout")


def test_mish() -> None:
    fires(FUSE, activation("p = Softplus(x) t = Tanh(p) y = Mul(x, t)", opset=18), "mish", ["Mish"], special=True)


def test_mish_before_its_opset() -> None:
    declines(FUSE, activation("p = Softplus(x) t = Tanh(p) y = Mul(x, t)", opset=17), "mish", "does not exist")


@pytest.mark.parametrize("plus", ["Add(e, one)", "Add(one, e)"])
def test_softplus(plus: str) -> None:
    model = activation(f"e = Exp(x) p = {plus} y = Log(p)")
    fires(FUSE, model, "softplus", ["Softplus"], accuracy="fast")
    assert not rewrite(model, FUSE).fired, "it overflows, so it is for finite inputs only"


HARD_SIGMOIDS = [
    ("p = Add(x, three) c = Clip(p, zero, six) y = Div(c, six)", 11),
    ("p = Add(three, x) c = Clip(p, zero, six) y = Mul(c, sixth)", 13),
    ("p = Add(x, three) c = Clip<min=0.0, max=6.0>(p) y = Div(c, six)", 9),
    ("m = Mul(x, sixth) p = Add(m, half) y = Clip(p, zero, one)", 13),
    ("m = Mul(x, half) p = Add(m, half) y = Clip<min=0.0, max=1.0>(p)", 9),
]
HARD = {"zero": 0.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6}


@pytest.mark.parametrize(("body", "opset"), HARD_SIGMOIDS)
def test_hard_sigmoid(body: str, opset: int) -> None:
    outcome = fires(FUSE, activation(body, opset, **HARD), "hard_sigmoid", ["HardSigmoid"], special=True)
    alpha = 0.5 if "Mul(x, half)" in body else 1 / 6
    assert outcome.attrs("HardSigmoid")["alpha"] == pytest.approx(alpha)


@pytest.mark.parametrize("changed", [{"three": 2.0}, {"six": 5.0}, {"zero": -1.0}])
def test_hard_sigmoid_with_something_changed(changed: dict[str, float]) -> None:
    declines(FUSE, activation(HARD_SIGMOIDS[0][0], 13, **{**HARD, **changed}), "hard_sigmoid", None)


def test_hard_sigmoid_of_double() -> None:
    constants = {k: np.float64(v) for k, v in HARD.items()}
    model = activation(HARD_SIGMOIDS[0][0], 13, X.replace("float", "double"), **constants)
    declines(FUSE, model, "hard_sigmoid", "no kernel of the operator for the dtype")


HARD_SWISHES = [
    "p = Add(x, three) c = Clip(p, zero, six) m = Mul(x, c) y = Div(m, six)",
    "p = Add(x, three) c = Clip(p, zero, six) m = Mul(c, x) y = Mul(m, sixth)",
    "p = Add(x, three) c = Clip(p, zero, six) m = Div(c, six) y = Mul(x, m)",
    "p = Add(x, three) c = Clip(p, zero, six) m = Mul(c, sixth) y = Mul(m, x)",
    "p = Add(x, three) c = Clip(p, zero, six) m = Div(x, six) y = Mul(m, c)",
]


@pytest.mark.parametrize("body", HARD_SWISHES)
@pytest.mark.parametrize(("opset", "ops"), [(14, ["HardSwish"]), (22, ["HardSwish"]), (13, ["HardSigmoid", "Mul"])])
def test_hard_swish(body: str, opset: int, ops: list[str]) -> None:
    model = activation(body, opset, **HARD)
    outcome = rewrite(model, FUSE)
    rule = "hard_swish" if outcome.fired["hard_swish"] else "hard_sigmoid"
    fires(FUSE, model, rule, ops, special=True)


def test_hard_swish_from_hard_sigmoid() -> None:
    body = "s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(s, x)"
    fires(FUSE, activation(body, 14), "hard_swish", ["HardSwish"], special=True)
    declines(FUSE, activation(body, 13), "hard_swish", "HardSwish does not exist at opset 13")
    declines(FUSE, activation("s = HardSigmoid(x) y = Mul(s, x)", 14), "hard_swish", None)


# -- LeakyRelu and PRelu --------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["m = Mul(x, a) y = Max(x, m)", "m = Mul(a, x) y = Max(m, x)"])
def test_leaky_relu_from_max(body: str) -> None:
    outcome = fires(FUSE, activation(body, a=0.1), "leaky_relu", ["LeakyRelu"], special=True)
    assert outcome.attrs("LeakyRelu")["alpha"] == pytest.approx(0.1)


@pytest.mark.parametrize("slope", [0.0, -0.5, 1.5])
def test_slope_that_max_does_not_allow(slope: float) -> None:
    declines(FUSE, activation("m = Mul(x, a) y = Max(x, m)", a=slope), "leaky_relu", "not between zero and one")


def test_max_of_three() -> None:
    declines(FUSE, activation("m = Mul(x, a) y = Max(x, m, half)", a=0.1), "leaky_relu", None)


@pytest.mark.parametrize(
    "body",
    [
        "p = Greater(x, zero) m = Mul(x, a) y = Where(p, x, m)",
        "p = GreaterOrEqual(x, zero) m = Mul(a, x) y = Where(p, x, m)",
        "p = Less(x, zero) m = Mul(x, a) y = Where(p, m, x)",
        "p = LessOrEqual(x, zero) m = Mul(x, a) y = Where(p, m, x)",
    ],
)
@pytest.mark.parametrize(("slope", "op"), [(-1.5, "LeakyRelu"), (weight(20), "PRelu"), (weight(1, 20), "PRelu")])
def test_choice_by_sign(body: str, slope: Any, op: str) -> None:
    model = activation(body, 16, a=slope, zero=0.0)
    rule = "leaky_relu_where" if op == "LeakyRelu" else "prelu_where"
    fires(FUSE, model, rule, [op], special=op == "LeakyRelu")


@pytest.mark.parametrize(
    ("body", "slope", "reason"),
    [
        ("p = Less(x, zero) m = Mul(x, a) y = Where(p, x, m)", 0.1, None),
        ("p = Greater(x, half) m = Mul(x, a) y = Where(p, x, m)", 0.1, None),
        ("p = Greater(x, zero) m = Mul(x, a) y = Where(p, x, m)", float("inf"), "a slope is not finite"),
        ("p = Greater(x, zero) m = Mul(x, a) y = Where(p, x, m)", weight(3, 1, 1), "may raise the size"),
    ],
)
def test_choice_that_stays(body: str, slope: Any, reason: str | None) -> None:
    signature = X.replace("float[N,20] y", "float[3,N,20] y") if np.ndim(slope) == 3 else X
    rule = "leaky_relu_where" if np.ndim(slope) == 0 else "prelu_where"
    declines(FUSE, activation(body, 16, signature, a=slope, zero=0.0), rule, reason)
