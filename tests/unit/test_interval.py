"""Bounds of values, which rules see as `x.range`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from graphopt import Tensor, op, require, rule
from graphopt.ir.interval import interval
from tests.unit.engine import drive, model, ops

F = np.float32
INF = math.inf


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Identity(x)", (-INF, INF)),
        ("y = Sigmoid(x)", (0, 1)),
        ("a = Tanh(x) b = Transpose(a) y = Reshape(b, s)", (-1, 1)),
        ("y = Clip(x, l, h)", (-2, 3)),
        ("y = Clip(x, , h)", (-INF, 3)),
        ("a = Relu(x) y = Clip(a, l, h)", (0, 3)),
        ("a = Sigmoid(x) y = Clip(a, h)", (3, 3)),
        ("a = Sigmoid(x) b = Tanh(x) y = Concat<axis=0>(a, b)", (-1, 1)),
        ("a = Sigmoid(x) y = Max(a, l)", (0, 1)),
        ("a = Sigmoid(x) y = Min(a, l)", (-2, -2)),
        ("a = Exp(x) y = Add(a, a)", (0, INF)),
        ("a = Sigmoid(x) y = Mul(a, l)", (-2, 0)),
        ("a = Tanh(x) y = Sub(a, h)", (-4, -2)),
        ("a = Tanh(x) b = Exp(x) y = Sub(a, b)", (-INF, 1)),
        ("a = Exp(x) y = Sub(a, a)", (-INF, INF)),
        ("y = Mul(x, z)", (0, 0)),
        ("y = Div(h, x)", (-INF, INF)),
        ("a = Sigmoid(x) b = Tanh(x) c = Greater(x, h) y = Where(c, a, b)", (-1, 1)),
        ("c = Greater(x, h) y = Where(c, l, z)", (-2, 0)),
        ("c = Greater(x, h) y = Cast<to=1>(c)", (0, 1)),
        ("c = Greater(x, h) a = Cast<to=1>(c) b = Sub(h, a) y = Mul(b, w)", (-INF, INF)),
        ("a = Sigmoid(x) y = Trilu(a)", (0, 1)),
        ("a = Clip(x, h) y = Trilu(a)", (0, INF)),
        ("a = Shape(x) y = ConstantOfShape(a)", (0, 0)),
        ("y = Identity(h)", (3, 3)),
    ],
)
def test_bounds_that_operators_give(body: str, expected: tuple[float, float]) -> None:
    constants = {"l": F(-2), "h": F(3), "s": np.array([2, 2]), "z": F(0), "w": np.array([-3e38, 3e38], F)}
    m = model(f"g (float[2,2] x) => (float[N,M] y) {{ {body} }}", **constants)
    assert interval(m.main.outputs[0]) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([3, -1, 2], F), (-1, 3)),
        (np.array([math.nan, 2], F), (2, 2)),
        (np.array([math.nan], F), (-INF, INF)),
        (np.zeros(0, F), (-INF, INF)),
        (np.array([-INF, 1], F), (-INF, 1)),
    ],
)
def test_bounds_of_constants(array: Any, expected: tuple[float, float]) -> None:
    m = model("g (float[1] x) => (float[N] y) { y = Add(x, c) }", c=array)
    constant = next(iter(m.main.nodes)).inputs[1]
    assert constant is not None
    assert interval(constant) == expected


def test_bounds_of_rounded_results() -> None:
    m = model("g (float[2] x) => (float[N] y) { a = Sigmoid(x) y = Add(a, c) }", c=F(2**24 - 0.0))
    low, high = interval(m.main.outputs[0])
    assert low == 2**24 and high > 2**24 + 1  # 2^24 + 1 is no float32, so the bound is a step wider


def test_bounds_of_integers_that_wrap_around() -> None:
    m = model("g (uint8[2] x) => (int8[2] y) { a = Clip(x, l, h) y = Cast<to=3>(a) }", l=np.uint8(100), h=np.uint8(200))
    assert interval(m.main.outputs[0]) == (-INF, INF)


def test_bounds_of_unsigned_integers() -> None:
    m = model("g (uint8[2] x) => (uint8[2] y) { y = Add(x, x) }")
    assert interval(m.main.outputs[0]) == (0, INF)


def test_a_rule_may_ask() -> None:
    @rule(lambda x: op.Relu(x), single_use=False)
    def needless(x: Tensor) -> Tensor:
        """Relu of what is never negative changes nothing."""
        require(x.range[0] >= 0, "x may be negative")
        return x

    m = model("g (float[2] x) => (float[2] y, float[2] z) { a = Softplus(x) y = Relu(a) z = Relu(x) }")
    assert drive(m, needless)[0] == 1
    assert sorted(ops(m)) == ["Relu", "Softplus"]


@pytest.mark.parametrize("number", [2**53 + 1, 2**53 + 3, 2**63 - 1, -(2**53) - 1, -(2**63), 5])
def test_integers_that_a_double_does_not_hold_are_within_the_bounds(number: int) -> None:
    m = model("g (int64[1] x) => (int64[N] y) { y = Add(x, c) }", c=np.array([number], np.int64))
    constant = next(iter(m.main.nodes)).inputs[1]
    assert constant is not None
    low, high = interval(constant)
    assert low <= number <= high
    assert high - low <= 2048
