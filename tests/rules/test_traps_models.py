"""Small models in which other graph optimizers are known to compute something else, at every level.

Each stands at the graph's boundary and inside of a graph; -O1 must not change a bit, the other levels nothing
but what their accuracy allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from tests.rules.exact import same_bits
from tests.rules.helpers import build, compare, feeds_for, interior, positive, run, weight


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


V = "(float[4,6] x) => (float[4,6] y)"
X3 = "(float[2,3,4] x) => (float[N,M,K] y)"
X4 = "(float[1,3,4,4] x) => (float[N,C,H,W] y)"
NORM = (
    "m = ReduceMean(x, ax) d = Sub(x, m) s = Pow(d, p) v = ReduceMean(s, ax) e = Add(v, eps) r = Sqrt(e) y = Div(d, r)"
)
QDQ = (
    "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) "
    "c = QuantizeLinear(b, t, z) y = DequantizeLinear(c, t, z)"
)
BN = positive(3)

TRAPS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "shape_start": ("(float[N,3,4] x) => (int64[1] y)", "y = Shape<start=1, end=2>(x)", 18, {}),
    "shape_start_of_constant": (
        "(int64[2] x) => (int64[2] y)",
        "s = Shape<start=1>(c) y = Add(x, s)",
        18,
        {"c": weight(2, 3, 4)},
    ),
    "clip_above_clip": (V, "t = Clip(x, zero, one) y = Clip(t, three, four)", 18,
                        {"zero": 0.0, "one": 1.0, "three": 3.0, "four": 4.0}),
    "nearly_one": (V, "y = Mul(x, c)", 18, {"c": 1.000001}),
    "nearly_zero": (V, "y = Add(x, c)", 18, {"c": 1e-6}),
    "plus_zero": (V, "y = Add(x, c)", 18, {"c": 0.0}),
    "log_before_argmax": ("(float[4,6] x) => (int64[4] y)", "t = Log(x) y = ArgMax<axis=1, keepdims=0>(t)", 18, {}),
    "log_of_softmax": (V, "t = Softmax(x) y = Log(t)", 18, {}),
    "zero_pad_into_max_pool": (
        X4,
        "t = Pad(x, p) y = MaxPool<kernel_shape=[2,2]>(t)",
        18,
        {"p": i(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "zero_pad_into_average_pool": (
        X4, "t = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(t)", 18, {"p": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "div_mul_of_integers": (
        "(int64[3] x, int64[3] z) => (int64[3] y)",
        "c = Constant<value=int64 {1}>() p = Mul(x, x) q = Add(p, c) t = Div(c, q) y = Mul(t, z)",
        18,
        {},
    ),
    "double_qdq": (V, QDQ, 18, {"s": 0.1, "t": 0.07, "z": np.int8(0)}),
    "dropout_in_training": (V, "t = Dropout(x, r, on) y = Mul(t, z)", 18, {"r": 0.0, "on": np.array(True), "z": 2.0}),
    "zeros_of_both_signs": (
        "(float[2] x) => (float[2] y, float[2] z)",
        "y = Div(x, a) z = Div(x, b)",
        18,
        {"a": 0.0, "b": -0.0},
    ),
    "channels_on_the_last_axis": (
        "(float[1,3,4,4] x) => (float[1,4,4,4] y)", "t = Conv(x, w) y = Mul(t, c)", 18,
        {"w": weight(4, 3, 1, 1), "c": positive(4)}),
    "squeeze_negative_axes": (
        "(float[1,3,1] x) => (float[3] y)",
        "t = Squeeze(x, a) y = Squeeze(t, b)",
        18,
        {"a": i(-1), "b": i(-2)},
    ),
    "unsqueeze_negative_axes": (
        "(float[3] x) => (float[N,M,K] y)", "t = Unsqueeze(x, a) y = Unsqueeze(t, b)", 18, {"a": i(-1), "b": i(-2)}),
    "reshape_copies": (X3, "t = Reshape(x, a) y = Reshape(t, b)", 18, {"a": i(4, 3, 2), "b": i(0, 2, -1)}),
    "reshape_copies_then_not": (X3, "t = Reshape(x, a) y = Reshape(t, b)", 18, {"a": i(0, -1), "b": i(4, 3, 2)}),
    "reshape_allowzero": (
        "(float[0,3] x) => (float[N,M] y)", "t = Reshape<allowzero=1>(x, a) y = Reshape<allowzero=1>(t, b)", 18,
        {"a": i(3, 0), "b": i(0, 3)}),
    "layer_norm_with_power_4": (V, NORM, 18, {"ax": i(-1), "p": 4.0, "eps": 1e-5}),
    "layer_norm_of_the_first_axis": (V, NORM, 18, {"ax": i(0), "p": 2.0, "eps": 1e-5}),
    "gemm_bias_of_rank_3": (
        "(float[4,6] x) => (float[N,M,K] y)", "t = MatMul(x, w) y = Add(t, b)", 18,
        {"w": weight(6, 3), "b": weight(1, 4, 3)}),
    "gemm_bias_per_row": (
        "(float[3,6] x) => (float[3,3] y)",
        "t = MatMul(x, w) y = Add(t, b)",
        18,
        {"w": weight(6, 3), "b": weight(3, 1)},
    ),
    "three_products_of_an_input": (
        "(float[4,6] x) => (float[4,3] y, float[4,3] z, float[4,3] u)",
        "y = MatMul(x, a) z = MatMul(x, b) u = MatMul(x, c)", 18,
        {"a": weight(6, 3), "b": weight(6, 3, seed=1), "c": weight(6, 3, seed=2)}),
    "softmax_of_opset_11": (X3, "y = Softmax(x)", 11, {}),
    "cast_through_a_narrow_type": (V, "t = Cast<to=10>(x) y = Cast<to=1>(t)", 18, {}),
    "where_that_broadcasts": ("(bool[4,6] c, float[6] x) => (float[4,6] y)", "y = Where(c, x, x)", 18, {}),
    "expand_that_keeps_ones": ("(float[4,6] x) => (float[N,M] y)", "y = Expand(x, s)", 18, {"s": i(1, 6)}),
    "loop_never_entered": (V, "t = Loop(n, , x) <body = b (int64 k, bool c, float[4,6] s) => (bool d, float[4,6] o) "
                              "{ d = Identity(c) o = Mul(s, s) }> y = Neg(t)", 18, {"n": np.array(0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str) -> None:
    signature, body, opset, constants = TRAPS[name]
    model = build(signature, body, opset=opset, **constants)
    for placed in (model, interior(model)):
        for passes in ("O1", "O2", "O3"):
            result = graphopt.optimize(placed, passes, verify=False).model
            onnx.checker.check_model(result, full_check=True)
            assert [v.name for v in result.graph.output] == [v.name for v in placed.graph.output]
            for special in (False, True):
                if special and passes == "O3":
                    continue  # it may take for granted that numbers are finite
                feeds = feeds_for(placed, special=special)
                (same_bits if passes == "O1" else compare)(run(placed, feeds), run(result, feeds))


@pytest.mark.parametrize("passes", ["O1", "O2", "O3"])
def test_random_numbers_are_not_merged(passes: str) -> None:
    body = "a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)"
    result = graphopt.optimize(build("(float[4,6] x) => (float[4,6] y)", body), passes, verify=False).model
    assert [n.op_type for n in result.graph.node].count("RandomNormalLike") == 2


@pytest.mark.parametrize("passes", ["O1", "O2", "O3"])
def test_bn_in_training_stays(passes: str) -> None:
    body = "t = Conv(x, w) y, m, v = BatchNormalization<training_mode=1>(t, a, b, c, d)"
    signature = "(float[2,3,4,4] x) => (float[2,3,4,4] y, float[3] m, float[3] v)"
    constants = {"w": weight(3, 3, 1, 1), "a": BN, "b": BN + 1, "c": BN + 2, "d": BN + 3}
    model = build(signature, body, opset=15, **constants)
    result = graphopt.optimize(model, passes, verify=False).model
    assert [n.op_type for n in result.graph.node] == ["Conv", "BatchNormalization"]
    feeds = feeds_for(model)
    same_bits(run(model, feeds), run(result, feeds))


@pytest.mark.parametrize("passes", ["O1", "O2", "O3"])
def test_unused_inputs_and_overridable_initializers_stay(passes: str) -> None:
    signature = "(float[3] x, float[3] unused, float[3] c) => (float[3] y)"
    model = build(signature, "y = Mul(x, c)", c=np.ones(3, np.float32))
    result = graphopt.optimize(model, passes, verify=False).model
    assert [v.name for v in result.graph.input] == ["x", "unused", "c"]
    feeds = {"x": np.arange(3, dtype=np.float32), "unused": np.zeros(3, np.float32)}
    for c in ({}, {"c": np.full(3, 5, np.float32)}):
        same_bits(run(model, feeds | c), run(result, feeds | c))
