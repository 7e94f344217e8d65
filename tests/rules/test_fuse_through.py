"""Constants per channel behind moved axes, and several products or convolutions of one tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, positive, weight

FUSE = Fuse()
BATCH = "(float[B,S,5] x) => (float[B,P,Q,R] y)"


def bn(channels: int) -> dict[str, np.ndarray]:
    names = {"gamma": weight(channels, seed=1), "beta": weight(channels, seed=2), "mean": weight(channels, seed=3)}
    return {**names, "var": positive(channels, seed=4)}


HEADS = "m = MatMul(x, w) a = Add(m, b) r = Reshape(a, shape) t = Transpose<perm=[0,2,1,3]>(r) "


@pytest.mark.parametrize(
    ("last", "k"),
    [
        ("y = Mul(t, k)", np.float32(0.125)),
        ("y = Div(t, k)", np.float32([8.0])),
        ("y = Mul(t, k)", positive(6)),  # per element of a head
        ("y = Mul(k, t)", positive(2, 1, 1)),  # per head
        ("y = Mul(k, t)", positive(2, 1, 6)),
    ],
)
def test_factor_behind_heads(last: str, k: np.ndarray) -> None:
    model = build(BATCH, HEADS + last, w=weight(5, 12), b=weight(12), shape=np.array([0, 0, 2, 6]), k=k)
    outcome = fires(FUSE, model, "before_moves", ["MatMul", "Add", "Reshape", "Transpose"], dims={"B": 2, "S": 3})
    assert outcome.fired["matmul_bias_scale"] == 1


@pytest.mark.parametrize(
    ("last", "k", "reason"),
    [
        ("y = Mul(t, k)", positive(3, 1), "other axes than the channels"),  # per position
        ("y = Add(t, k)", positive(4, 1, 1, 1), "raises the size"),
        ("y = Mul(t, k)", np.float32(np.inf), "not finite"),
        ("y = Mul(t, k) z = Neg(w)", np.float32(2), "the weights have other readers"),
    ],
)
def test_constant_behind_heads_that_stays(last: str, k: np.ndarray, reason: str) -> None:
    signature = "(float[1,3,5] x) => (float[A,2,3,6] y)"
    if "Neg" in last:
        signature = signature.replace("y)", "y, float[5,12] z)")
    model = build(signature, HEADS + last, w=weight(5, 12), b=weight(12), shape=np.array([0, 0, 2, 6]), k=k)
    declines(FUSE, model, "before_moves", reason)


def test_factor_of_a_product_without_bias() -> None:
    body = "m = MatMul(x, w) r = Reshape(m, shape) y = Mul(r, k)"
    model = build(BATCH, body, w=weight(5, 12), shape=np.array([0, 0, 2, 6]), k=np.float32(0.5))
    fires(FUSE, model, "before_moves", ["MatMul", "Reshape"], dims={"B": 2, "S": 3})
    added = build(
        BATCH, body.replace("Mul(r", "Add(r"), w=weight(5, 12), shape=np.array([0, 0, 2, 6]), k=np.float32(0.5)
    )
    declines(FUSE, added, "before_moves", "a product of batches has no bias")


@pytest.mark.parametrize("product", ["a = MatMul(x, w)", "m = MatMul(x, w) a = Add(m, b)"])
def test_bn_behind_a_transposed_product(product: str) -> None:
    body = f"{product} t = Transpose<perm=[0,2,1]>(a) y = BatchNormalization(t, gamma, beta, mean, var)"
    model = build("(float[B,S,5] x) => (float[B,4,S] y)", body, w=weight(5, 4), b=weight(4), **bn(4))
    fires(FUSE, model, "before_moves", dims={"B": 2, "S": 3})


def test_bn_behind_a_reshaped_convolution() -> None:
    body = "c = Conv(x, w, b) r = Reshape(c, shape) y = BatchNormalization(r, gamma, beta, mean, var)"
    model = build("(float[N,2,7,7] x) => (float[N,P,Q] y)", body, w=weight(4, 2, 3, 3), b=weight(4),
                  shape=np.array([0, 4, -1]), **bn(4))  # fmt: skip
    fires(FUSE, model, "before_moves", ["Conv", "Reshape"], special=True)


def test_bn_of_other_axes_than_the_channels() -> None:
    body = "c = Conv(x, w, b) r = Transpose<perm=[0,2,3,1]>(c) y = BatchNormalization(r, gamma, beta, mean, var)"
    model = build("(float[N,2,7,7] x) => (float[N,5,5,4] y)", body, w=weight(4, 2, 3, 3), b=weight(4), **bn(5))
    declines(FUSE, model, "before_moves", "other axes than the channels")


def test_factor_per_channel_behind_channels_last() -> None:
    body = "c = Conv(x, w, b) t = Transpose<perm=[0,2,3,1]>(c) s = Mul(t, k) y = Add(s, k)"
    model = build("(float[N,2,7,7] x) => (float[N,5,5,4] y)", body, w=weight(4, 2, 3, 3), b=weight(4), k=positive(4))
    outcome = fires(FUSE, model, "before_moves", ["Conv", "Transpose"])
    assert outcome.fired["before_moves"] == 2


CONVS = "(float[N,3,8,8] x) => (float[N,K,P,Q] y)"
TWO = "a = Conv{0}(x, v, b) c = Conv{0}(x, w{1}) "


@pytest.mark.parametrize("attrs", ["", "<pads=[1,1,1,1], strides=[2,2]>", '<auto_pad="SAME_UPPER">'])
@pytest.mark.parametrize("bias", ["", ", d"])
@pytest.mark.parametrize(("then", "left"), [("y = Concat<axis=1>(a, c)", []), (
    "p = Relu(a) q = Relu(c) y = Concat<axis=-3>(p, q)", ["Relu"])])  # fmt: skip
def test_convolutions_that_are_joined(attrs: str, bias: str, then: str, left: list[str]) -> None:
    constants: dict[str, Any] = {"v": weight(2, 3, 3, 3), "w": weight(4, 3, 3, 3, seed=1), "b": weight(2)}
    if bias:
        constants["d"] = weight(4)
    fires(FUSE, build(CONVS, TWO.format(attrs, bias) + then, **constants), "joined_products", ["Conv", *left])


def test_some_of_the_joined() -> None:
    body = "n = Neg(x) " + TWO.format("", "") + "e = Conv(n, u) y = Concat<axis=1>(e, a, c)"
    model = build(CONVS, body, u=weight(1, 3, 3, 3), v=weight(2, 3, 3, 3), w=weight(4, 3, 3, 3), b=weight(2))
    fires(FUSE, model, "joined_products", ["Conv", "Conv", "Concat", "Neg"])


@pytest.mark.parametrize(("body", "left"), [
    ("a = MatMul(x, v) c = MatMul(x, w) y = Concat<axis=-1>(a, c)", ["MatMul"]),
    ("a = Gemm(x, v, b) c = Gemm(x, w) y = Concat<axis=1>(a, c)", ["Gemm"]),
])  # fmt: skip
def test_products_that_are_joined(body: str, left: list[str]) -> None:
    model = build("(float[N,3] x) => (float[N,6] y)", body, v=weight(3, 2), w=weight(3, 4), b=weight(2))
    fires(FUSE, model, "joined_products", left)


@pytest.mark.parametrize(
    ("body", "k"),
    [
        ("a = Conv(x, v) c = Conv(x, w) y = Concat<axis=1>(a, c)", (4, 3, 1, 1)),  # another kernel: shapes differ
        ("a = Conv<pads=[1,1,1,1]>(x, v) c = Conv<pads=[0,0,2,2]>(x, w) y = Concat<axis=1>(a, c)", (4, 3, 3, 3)),
        ("a = Conv(x, v) c = Conv(x, w) p = Relu(a) q = Tanh(c) y = Concat<axis=1>(p, q)", (4, 3, 3, 3)),
        (
            "a = Conv(x, v) c = Conv(x, w) p = LeakyRelu(a) q = LeakyRelu<alpha=0.3>(c) y = Concat<axis=1>(p, q)",
            (4, 3, 3, 3),
        ),
        ("n = Neg(x) a = Conv(n, v) c = Conv(x, w) y = Concat<axis=1>(a, c)", (4, 3, 3, 3)),
        ("a = Conv(x, v) c = Conv(x, v) y = Concat<axis=1>(a, c)", (4, 3, 3, 3)),  # weights that are shared
    ],
)
def test_convolutions_that_stay_apart(body: str, k: tuple[int, ...]) -> None:
    small = k[2] == 1
    if small:
        body = body.replace("Conv(x, w)", "Conv<pads=[0,0,0,0], strides=[1,1]>(z, w)")
    signature = CONVS.replace("x)", "x, float[N,3,6,6] z)") if small else CONVS
    outcome = declines(FUSE, build(signature, body, v=weight(2, 3, 3, 3), w=weight(*k)), "joined_products", None)
    assert outcome.ops.count("Conv") == 2


def test_convolutions_joined_along_another_axis() -> None:
    model = build("(float[N,3,8,8] x) => (float[N,2,P,Q] y)", "a = Conv(x, v) c = Conv(x, w) y = Concat<axis=2>(a, c)",
                  v=weight(2, 3, 3, 3), w=weight(2, 3, 3, 3, seed=1))  # fmt: skip
    declines(FUSE, model, "joined_products", "along their channels")


QKV = (
    "a = MatMul(x, v) b = MatMul(x, w) c = MatMul(x, u) p = Relu(a) q = Tanh(b) r = Abs(c) y = Concat<axis=-1>(p, q, r)"
)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("shape", ["1,3", "2,4,3", "3"])
def test_products_of_few_rows(opset: int, shape: str) -> None:
    model = build(
        f"(float[{shape}] x) => (float[{shape[:-1]}9] y)",
        QKV,
        opset=opset,
        v=weight(3, 2),
        w=weight(3, 4),
        u=weight(3, 3),
    )
    fires(FUSE, model, "parallel_matmul", ["MatMul", "Split", "Relu", "Tanh", "Abs", "Concat"])


@pytest.mark.parametrize(("shape", "reason"), [("N,3", "not known"), ("64,3", "many rows"), ("0,3", "many rows")])
def test_products_of_many_rows(shape: str, reason: str) -> None:
    model = build(
        f"(float[{shape}] x) => (float[{shape[:-1]}9] y)", QKV, v=weight(3, 2), w=weight(3, 4), u=weight(3, 3)
    )
    declines(FUSE, model, "parallel_matmul", reason)
