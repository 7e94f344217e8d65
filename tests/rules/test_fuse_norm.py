"""LayerNormalization and RMSNormalization from primitive operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, positive, rewrite, weight

FUSE = Fuse()
X = "(float[N,4,6] x) => (float[N,4,6] y)"
AXES = np.array([-1])

ROOTS = {
    "d/√v": "r = Sqrt(e) {y} = Div({d}, r)",
    "d·Reciprocal(√v)": "r = Sqrt(e) i = Reciprocal(r) {y} = Mul({d}, i)",
    "d·(1/√v)": "r = Sqrt(e) i = Div(one, r) {y} = Mul(i, {d})",
}
SQUARES = {"d·d": "s = Mul({d}, {d})", "d²": "s = Pow({d}, two)"}


def norm(
    root: str = ROOTS["d/√v"], square: str = SQUARES["d²"], tail: str = "", opset: int = 18, *,
    rms: bool = False, signature: str = X, axes: Any = AXES, axes2: Any = None, keep: int = 1, **constants: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A normalization; its result is called `y`, or `n` if a `tail` follows."""

    def mean(out: str, of: str, over: Any, name: str) -> str:
        if opset >= 18:
            return f"{out} = ReduceMean<keepdims={keep}>({of}, {name})"
        return f"{out} = ReduceMean<axes={np.ravel(over).tolist()}, keepdims={keep}>({of})"

    axes2 = axes if axes2 is None else axes2
    d, y = "x" if rms else "d", "n" if tail else "y"
    head = "" if rms else mean("m", "x", axes, "axes") + " d = Sub(x, m)"
    body = " ".join(
        [head, square.format(d=d), mean("v", "s", axes2, "axes2"), "e = Add(v, eps)", root.format(d=d, y=y), tail]
    )
    given = {"eps": 1e-5, "one": 1.0, "two": 2.0, "axes": axes, "axes2": axes2, **constants}
    used = {k: v for k, v in given.items() if f", {k})" in body or f"({k}, " in body}
    return build(signature, body, opset=opset, **used)


# -- LayerNormalization ---------------------------------------------------------------------------


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
@pytest.mark.parametrize("square", SQUARES.values(), ids=SQUARES)
@pytest.mark.parametrize("opset", [17, 18])
def test_layer_norm(root: str, square: str, opset: int) -> None:
    outcome = fires(FUSE, norm(root, square, opset=opset), "layer_norm", ["LayerNormalization"])
    attrs = outcome.attrs("LayerNormalization")
    assert attrs == {"axis": -1, "epsilon": pytest.approx(1e-5)}


@pytest.mark.parametrize("axes", [[1, 2], [-1, -2], [2, 1], [0, 1, 2], [2]])
@pytest.mark.parametrize("opset", [17, 21])
def test_layer_norm_over_the_last_axes(axes: list[int], opset: int) -> None:
    signature = X.replace("N", "3")
    model = norm(axes=np.array(axes), axes2=np.array([a % 3 for a in axes]), opset=opset, signature=signature)
    outcome = fires(FUSE, model, "layer_norm", ["LayerNormalization"])
    assert outcome.attrs("LayerNormalization")["axis"] == -len(axes)


@pytest.mark.parametrize(
    ("tail", "rules"),
    [
        ("y = Mul(n, a)", {"layer_norm", "layer_norm_scale"}),
        ("y = Mul(a, n)", {"layer_norm", "layer_norm_scale"}),
        ("y = Add(n, b)", {"layer_norm", "layer_norm_shift"}),
        ("y = Sub(n, b)", {"layer_norm", "layer_norm_shift"}),
        ("o = Mul(n, a) y = Add(b, o)", {"layer_norm", "layer_norm_scale", "layer_norm_shift"}),
        ("o = Add(n, b) p = Mul(o, a) q = Add(p, b) y = Mul(q, a)",
         {"layer_norm", "layer_norm_scale", "layer_norm_shift"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (), (1,)])
def test_scale_and_bias(tail: str, rules: set[str], shape: tuple[int, ...]) -> None:
    model = norm(tail=tail, a=positive(*shape, seed=1), b=weight(*shape, seed=2))
    outcome = fires(FUSE, model, sorted(rules)[-1], ["LayerNormalization"])
    assert set(outcome.fired) == rules
    shapes = {tuple(i.dims) for i in outcome.after.graph.initializer}
    assert shapes == {(6,)}


def test_scale_of_two_normalized_axes() -> None:
    model = norm(axes=np.array([1, 2]), tail="o = Mul(n, a) y = Add(o, b)", a=positive(4, 6), b=weight(4, 1))
    fires(FUSE, model, "layer_norm_shift", ["LayerNormalization"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axes": np.array([1])}, "the axes are not the last ones"),
        ({"axes": np.array([0, 2]), "signature": X.replace("N", "3")}, "the axes are not the last ones"),
        ({"axes": np.array([-1]), "axes2": np.array([1, 2])}, "over different axes"),
        ({"two": 4.0}, None),
        ({"keep": 0, "signature": X.replace("N,4,6", "6,6,6")}, None),
        ({"eps": np.full(6, 1e-5, np.float32) * np.arange(6, dtype=np.float32)}, "not a constant with one value"),
        ({"eps": float("inf")}, "a constant is not finite"),
        ({"signature": X.replace("6", "D")}, "the size that is normalized is not known"),
        ({"opset": 16}, "LayerNormalization does not exist at opset 16"),
        ({"signature": X.replace("float", "double"), "eps": np.float64(1e-5), "two": np.float64(2)},
         "not computed in float32"),
        ({"signature": X.replace("float", "float16"), "eps": np.float16(1e-3), "two": np.float16(2)},
         "not computed in float32"),
        ({"signature": "(float[N,4,6] x) => (float[N,4,6] y, float[N,4,6] d)"}, "has other readers"),
    ],
)  # fmt: skip
def test_layer_norm_that_stays(changes: dict[str, Any], reason: str | None) -> None:
    declines(FUSE, norm(**changes), "layer_norm", reason)


def test_mean_over_everything() -> None:
    body = "m = ReduceMean(x) d = Sub(x, m) s = Mul(d, d) v = ReduceMean(s) e = Add(v, eps) r = Sqrt(e) y = Div(d, r)"
    for opset in (17, 18):
        model = build("(float[4,6] x) => (float[4,6] y)", body, opset=opset, eps=1e-5)
        declines(FUSE, model, "layer_norm", "the axes are not named")


@pytest.mark.parametrize(
    ("tail", "rule", "constants", "reason"),
    [
        ("y = Mul(n, a)", "layer_norm_scale", {"a": positive(4, 1)}, "varies along other axes"),
        ("y = Mul(n, a)", "layer_norm_scale", {"a": positive(4, 6)}, "varies along other axes"),
        ("y = Add(n, a)", "layer_norm_shift", {"a": positive(1, 1, 1, 6)}, "raises the rank"),
        ("y = Mul(n, a)", "layer_norm_scale", {"a": float("nan")}, "a constant is not finite"),
    ],
)
def test_scale_that_stays(tail: str, rule: str, constants: dict[str, Any], reason: str) -> None:
    signature = X
    if np.ndim(constants["a"]) == 4:
        signature = X.replace("float[N,4,6] y", "float[1,N,4,6] y")
    declines(FUSE, norm(tail=tail, signature=signature, **constants), rule, reason)


def test_scale_that_would_overflow() -> None:
    outcome = rewrite(norm(tail="o = Mul(n, a) y = Mul(o, a)", a=3e38), FUSE)
    assert outcome.fired["layer_norm_scale"] == 1
    assert "a computed constant is too large for float" in outcome.declined["layer_norm_scale"]


def test_layer_norm_whose_mean_is_read() -> None:
    model = build(
        "(float[N,6] x) => (float[N,6] y, float[N,1] m)",
        "n, m = LayerNormalization(x, g) y = Mul(n, a)", g=positive(6), a=positive(6),
    )  # fmt: skip
    declines(FUSE, model, "layer_norm_scale", "has other readers")


# -- RMSNormalization -----------------------------------------------------------------------------


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
@pytest.mark.parametrize("square", SQUARES.values(), ids=SQUARES)
def test_rms_norm(root: str, square: str) -> None:
    fires(FUSE, norm(root, square, rms=True, opset=23), "rms_norm", ["RMSNormalization"])


@pytest.mark.parametrize("tail", ["y = Mul(n, a)", "y = Mul(a, n)"])
def test_scale_of_rms_norm(tail: str) -> None:
    model = norm(rms=True, opset=23, tail=tail, a=positive(6))
    fires(FUSE, model, "rms_norm_scale", ["RMSNormalization"])


def test_layer_norm_goes_before_rms_norm() -> None:
    outcome = fires(FUSE, norm(opset=23), "layer_norm", ["LayerNormalization"])
    assert not outcome.fired["rms_norm"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"opset": 22}, "RMSNormalization does not exist at opset 22"),
        ({"opset": 23, "axes": np.array([1])}, "the axes are not the last ones"),
        ({"opset": 23, "two": 3.0}, None),
    ],
)
def test_rms_norm_that_stays(changes: dict[str, Any], reason: str | None) -> None:
    declines(FUSE, norm(rms=True, **changes), "rms_norm", reason)


# -- half precision -------------------------------------------------------------------------------


def half(rms: bool, scale: str = "c = Cast<to=10>(n) y = Mul(c, a)", **constants: Any) -> onnx.ModelProto:
    """The usual half-precision form: cast to float32, normalize, cast back, scale."""
    centre, d = ("", "w") if rms else ("m = ReduceMean(w, axes) d = Sub(w, m)", "d")
    spread = f"s = Mul({d}, {d}) v = ReduceMean(s, axes) e = Add(v, eps) r = Sqrt(e) n = Div({d}, r)"
    given = {"axes": AXES, "eps": 1e-5, "a": positive(6, dtype=np.float16), **constants}
    body = f"w = Cast<to=1>(x) {centre} {spread} {scale}"
    return build("(float16[N,6] x) => (float16[N,6] y)", body, opset=23, **given)


@pytest.mark.parametrize(("rms", "op"), [(False, "LayerNormalization"), (True, "RMSNormalization")])
def test_half_precision_normalized_in_float32(rms: bool, op: str) -> None:
    outcome = fires(FUSE, half(rms), "norm_casts", [op])
    assert outcome.fired["rms_norm_scale" if rms else "layer_norm_scale"] == 1


@pytest.mark.parametrize(("rms", "op"), [(False, "LayerNormalization"), (True, "RMSNormalization")])
def test_half_precision_scaled_in_float32(rms: bool, op: str) -> None:
    fires(FUSE, half(rms, "c = Mul(n, a) y = Cast<to=10>(c)", a=positive(6)), "norm_casts", [op])


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_half_precision_whose_scale_does_not_fit(scale: float) -> None:
    model = half(True, "c = Mul(n, a) y = Cast<to=10>(c)", a=np.full(6, scale, np.float32))
    declines(FUSE, model, "norm_casts", "does not fit into half precision")
