"""Pools, resizes and dropouts that let every element through."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rules.exact import fires, stays

X = "(float[N,2,3,5] x) => (float[N,2,P,Q] y)"
SAME = "(float[N,2,3,5] x) => (float[N,2,3,5] y)"


@pytest.mark.parametrize(
    ("body", "opset", "constants"),
    [
        ("y = Dropout(x)", 10, {}),
        ("y = Dropout<ratio=0.3>(x)", 7, {}),
        ("y = Dropout<is_test=1>(x)", 6, {}),
        ("y = Dropout(x)", 13, {}),
        ("y = Dropout(x, r)", 13, {"r": 0.3}),
        ("y, mask = Dropout(x, r, t)", 22, {"r": 0.3, "t": np.array(False)}),
    ],
)
def test_dropout(body: str, opset: int, constants: dict[str, object]) -> None:
    # ONNX Runtime has no kernel for the Dropout of opset 6.
    fires("dropout_inference", SAME, body, "", opset=opset, dims=({"N": 2},) if opset > 6 else (), **constants)


@pytest.mark.parametrize(
    ("reason", "signature", "body", "opset", "constants"),
    [
        ("in training", SAME, "y = Dropout(x, r, t)", 13, {"r": 0.3, "t": np.array(True)}),
        ("in training", "(float[4] x, bool t) => (float[4] y)", "y = Dropout(x, r, t)", 13, {"r": 0.3}),
        ("mask is used", "(float[4] x) => (float[4] y, bool[4] m)", "y, m = Dropout(x)", 13, {}),
        ("drops at random", SAME, "y = Dropout(x)", 6, {}),
    ],
)
def test_dropout_stays(reason: str, signature: str, body: str, opset: int, constants: dict[str, object]) -> None:
    stays("dropout_inference", reason, signature, body, opset=opset, **constants)


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(
    "attrs",
    ["kernel_shape=[1,1]", "kernel_shape=[1,1],strides=[1,1],pads=[0,0,0,0]", 'kernel_shape=[1,1],auto_pad="VALID"'],
)
def test_pool(op: str, attrs: str) -> None:
    fires("pool_of_one", SAME, f"y = {op}<{attrs}>(x)", "", dims=({"N": 2},), accuracy="fast")


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("larger than 1", "y = AveragePool<kernel_shape=[1,3],pads=[0,1,0,1]>(x)"),
        ("left out", "y = MaxPool<kernel_shape=[1,1],strides=[2,1]>(x)"),
        ("is padded", "y = AveragePool<kernel_shape=[1,1],pads=[0,0,0,1]>(x)"),
    ],
)
def test_pool_stays(reason: str, body: str) -> None:
    stays("pool_of_one", reason, X, body, accuracy="fast")


def test_pool_whose_indices_are_used_stays() -> None:
    stays(
        "pool_of_one",
        "indices are used",
        "(float[1,2,3,5] x) => (float[1,2,3,5] y, int64[1,2,3,5] k)",
        "y, k = MaxPool<kernel_shape=[1,1]>(x)",
        accuracy="fast",
    )


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Resize(x, , s)", {"s": np.ones(4, np.float32)}),
        ("y = Resize(x, , , z)", {"z": np.array([2, 2, 3, 5])}),
        (
            'y = Resize<coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , s)',
            {"s": np.ones(4, np.float32)},
        ),
        ("z = Shape(x) y = Resize(x, , , z)", {}),
    ],
)
@pytest.mark.parametrize("opset", [11, 13, 19])
def test_resize(body: str, constants: dict[str, np.ndarray], opset: int) -> None:
    signature = SAME.replace("N", "2") if "z" in constants else SAME
    if opset == 11:
        body, constants = body.replace("x, ,", "x, r,"), {**constants, "r": np.zeros(0, np.float32)}
        body = body.replace("r, , z", "r, e, z")
        constants |= {"e": np.zeros(0, np.float32)} if "e, z" in body else {}
    fires("resize_noop", signature, body, "", opset=opset, dims=({"N": 2},), **constants)


@pytest.mark.parametrize(
    ("reason", "body", "constants"),
    [
        ("infinite neighbour", 'y = Resize<mode="linear">(x, , s)', {"s": np.ones(4, np.float32)}),
        ("not all 1", "y = Resize(x, , s)", {"s": np.array([1, 1, 1.1, 1], np.float32)}),
        ("shape changes", "y = Resize(x, , s)", {"s": np.array([1, 1, 2, 1], np.float32)}),
        (
            "it crops",
            'y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
            {"s": np.ones(4, np.float32), "r": np.zeros(8, np.float32)},
        ),
    ],
)
def test_resize_stays(reason: str, body: str, constants: dict[str, np.ndarray]) -> None:
    stays("resize_noop", reason, X, body, **constants)
