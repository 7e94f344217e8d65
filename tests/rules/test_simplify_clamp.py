"""Relu, Clip, Max and Min in a row."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tests.rules.exact import SIMPLIFY, fires, stays
from tests.rules.helpers import Outcome, build, rewrite

X = "(float[N,20] x) => (float[N,20] y)"
I64 = "(int64[N,20] x) => (int64[N,20] y)"
INF = float("inf")


def bounds(outcome: Outcome) -> list[float | None]:
    """The bounds of the one Clip, None for one that is left out."""
    tensors = {t.name: numpy_helper.to_array(t).item() for t in outcome.after.graph.initializer}
    names = [*outcome.node("Clip").input[1:], "", ""][:2]
    return [tensors.get(name) for name in names]


def test_clip_without_bounds() -> None:
    fires("clip_integers_noop", I64, "y = Clip(x)", "")
    stays("clip_integers_noop", "infinite float", X, "y = Clip(x)")
    stays("clip_integers_noop", "there is a bound", I64, "y = Clip(x, a)", a=3)
    stays("clip_floats_noop", None, X, "y = Clip(x)", accuracy="close")


@pytest.mark.parametrize("opset", [6, 11, 18])
def test_clip_without_bounds_for_finite_floats(opset: int) -> None:
    outcome = rewrite(build(X, "y = Clip(x)", opset=opset), SIMPLIFY, "fast")
    assert outcome.fired["clip_floats_noop"] == 1 and outcome.ops == ["Identity"]


@pytest.mark.parametrize(
    ("rule", "body", "constants", "wanted"),
    [
        ("relu_clip", "r = Relu(x) y = Clip(r, a, b)", {"a": 0.0, "b": 6.0}, [0, 6]),
        ("relu_clip", "r = Relu(x) y = Clip(r, a, b)", {"a": -3.0, "b": 2.5}, [0, 2.5]),
        ("relu_clip", "r = Relu(x) y = Clip(r, a, b)", {"a": 1.0, "b": 2.5}, [1, 2.5]),
        ("relu_clip", "r = Relu(x) y = Clip(r, a, b)", {"a": -3.0, "b": -1.0}, [0, -1]),
        ("relu_clip", "r = Relu(x) y = Clip(r, , b)", {"b": 6.0}, [0, 6]),
        ("relu_clip", "r = Relu(x) y = Clip(r, a)", {"a": 0.5}, [0.5, None]),
        ("relu_clip", "r = Relu(x) y = Clip(r)", {}, [0, None]),
        ("clip_relu", "r = Clip(x, a, b) y = Relu(r)", {"a": -3.0, "b": 3.0}, [0, 3]),
        ("clip_relu", "r = Clip(x, a, b) y = Relu(r)", {"a": -3.0, "b": 0.0}, [0, 0]),
        ("clip_relu", "r = Clip(x, a, b) y = Relu(r)", {"a": 3.0, "b": 1.0}, [3, 1]),
        ("clip_relu", "r = Clip(x, , b) y = Relu(r)", {"b": 1.0}, [0, 1]),
        ("clip_clip", "r = Clip(x, a, b) y = Clip(r, c, d)", {"a": 0.0, "b": 1.0, "c": 3.0, "d": 4.0}, [3, 3]),
        ("clip_clip", "r = Clip(x, a, b) y = Clip(r, c, d)", {"a": 0.0, "b": 6.0, "c": -1.0, "d": 5.0}, [0, 5]),
        ("clip_clip", "r = Clip(x, a, b) y = Clip(r, c, d)", {"a": 3.0, "b": 4.0, "c": 0.0, "d": 1.0}, [1, 1]),
        ("clip_clip", "r = Clip(x, a, b) y = Clip(r, c, d)", {"a": 3.0, "b": 1.0, "c": 0.0, "d": 5.0}, [3, 1]),
        ("clip_clip", "r = Clip(x, a, b) y = Clip(r, c, d)", {"a": 0.0, "b": 6.0, "c": 4.0, "d": 1.0}, [1, 1]),
        ("clip_clip", "r = Clip(x, a) y = Clip(r, , d)", {"a": 0.5, "d": 6.0}, [0.5, 6]),
        ("clip_clip", "r = Clip(x, , b) y = Clip(r, c)", {"b": 1.0, "c": 3.0}, [3, 3]),
        ("clip_clip", "r = Clip(x, a) y = Clip(r, , d)", {"a": 6.0, "d": 0.5}, [0.5, 0.5]),
        ("clip_clip", "r = Clip(x, , b) y = Clip(r)", {"b": 1.0}, [None, 1]),
    ],
)
def test_clamps(rule: str, body: str, constants: dict[str, float], wanted: list[float | None]) -> None:
    outcome = fires(rule, X, body, "Clip", **constants)
    assert bounds(outcome) == wanted


def test_clamps_before_opset_11() -> None:
    outcome = fires("relu_clip", X, "r = Relu(x) y = Clip<max=6.0>(r)", "Clip", opset=9)
    assert outcome.attrs("Clip") == {"min": 0.0, "max": 6.0}
    outcome = fires("clip_clip", X, "r = Clip<min=-1.0,max=1.0>(x) y = Clip<min=0.0,max=6.0>(r)", "Clip", opset=6)
    assert outcome.attrs("Clip") == {"min": 0.0, "max": 1.0}


def test_integer_clamps() -> None:
    a, b, c, d = (np.array(n, np.int64) for n in (-(2**63), 2**62 + 1, 1, 2**63 - 1))
    outcome = fires("clip_clip", I64, "r = Clip(x, a, b) y = Clip(r, c, d)", "Clip", a=a, b=b, c=c, d=d)
    assert bounds(outcome) == [1, 2**62 + 1]


@pytest.mark.parametrize(
    ("rule", "reason", "signature", "body", "constants"),
    [
        (
            "relu_clip",
            "other readers",
            "(float[5] x) => (float[5] y, float[5] r)",
            "r = Relu(x) y = Clip(r, a, b)",
            {"a": 0.0, "b": 6.0},
        ),
        ("relu_clip", None, "(float[5] x, float b) => (float[5] y)", "r = Relu(x) y = Clip(r, a, b)", {"a": 0.0}),
        ("relu_clip", "NaN", X, "r = Relu(x) y = Clip(r, a)", {"a": float("nan")}),
        ("clip_relu", "zero may get", X, "r = Clip(x, a, b) y = Relu(r)", {"a": -3.0, "b": -1.0}),
        ("clip_clip", "zero may get", X, "r = Clip(x, a, b) y = Clip(r, z)", {"a": -3.0, "b": -1.0, "z": 0.0}),
        ("clip_relu", "−0", X, "r = Clip(x, a) y = Relu(r)", {"a": -0.0}),
    ],
)
def test_clamps_stay(rule: str, reason: str | None, signature: str, body: str, constants: dict[str, float]) -> None:
    stays(rule, reason, signature, body, **constants)


@pytest.mark.parametrize("body", ["m = Min(x, b) y = Max(a, m)", "m = Max(x, a) y = Min(m, b)"])
def test_max_min(body: str) -> None:
    outcome = fires("max_min", X, body, "Clip", accuracy="close", a=-1.0, b=6.0)
    assert bounds(outcome) == [-1, 6]
    fires("max_min", I64, body, "Clip", accuracy="close", a=-1, b=6)
    stays("max_min", None, X, body, accuracy="exact", a=-1.0, b=6.0)
    stays("max_min", "not in order", X, body, accuracy="close", a=6.0, b=-1.0)
    stays("max_min", "one value", X, body, accuracy="close", a=np.arange(20, dtype=np.float32), b=99.0)


def test_max_zero() -> None:
    fires("max_zero", X, "y = Max(x, a)", "Relu", accuracy="close", a=0.0)
    stays("max_zero", "for floats", I64, "y = Max(x, a)", accuracy="close", a=0)
    stays("max_zero", None, X, "y = Max(x, a)", accuracy="exact", a=0.0)
    stays("max_zero", None, X, "y = Max(x, a)", accuracy="close", a=1e-6)
    stays("max_zero", None, "(float[5] x, float[5] z) => (float[5] y)", "y = Max(x, a, z)", accuracy="close", a=0.0)
    stays(
        "max_zero",
        "shape of the replacement",
        "(float[1] x) => (float[5] y)",
        "y = Max(x, a)",
        accuracy="close",
        a=np.zeros(5, np.float32),
    )
