"""Quantization; Dropout, which does nothing."""

from __future__ import annotations

import numpy as np

from graphopt import Attr, Const, DType, Tensor, op, rule

_SCALAR = {"q": "u8:N C", "s": "+", "z": "u8:"}


def _relu_between(q: Tensor, s: Const, z: Const) -> Tensor:
    return op.QuantizeLinear(op.Relu(op.DequantizeLinear(q, s, z)), s, z)


@rule(_relu_between, accuracy="exact", shapes={"q": "i8:N C", "s": "+", "z": "i8:"})
def relu_below_the_zero_point(q: Tensor, s: Const, z: Const) -> Tensor:
    """What is negative is what lies below the zero point, not below zero."""
    return op.Max(q, np.zeros((), np.int8))


def _zero_point_ignored(q: Tensor, s: Const, z: Const) -> Tensor:
    return op.DequantizeLinear(q, s, z)


@rule(_zero_point_ignored, bounded=True, shapes=_SCALAR)
def zero_point_ignored(q: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """The zero point is lost."""
    return op.Cast(q, to=DType.FLOAT.value) * s


def _quantized_and_back(x: Tensor, s: Const, z: Const) -> Tensor:
    return op.DequantizeLinear(op.QuantizeLinear(x, s, z), s, z)


@rule(_quantized_and_back, shapes={"x": "N C", "s": "+", "z": "u8:"})
def quantized_and_back(x: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """It is rounded and clipped in between."""
    return x


def _channels(q: Tensor, s: Const, axis: Attr[int]) -> Tensor:
    return op.DequantizeLinear(q, s, axis=axis)


@rule(_channels, bounded=True, shapes={"q": "i8:N N", "s": "+N"}, attrs={"axis": [0, 1]})
def scales_along_the_last_axis(q: Tensor, s: Const, axis: int) -> Tensor:
    """The axis is lost."""
    return op.Cast(q, to=DType.FLOAT.value) * s


def _dropout_that_scales(x: Tensor, ratio: Const) -> Tensor:
    return op.Dropout(x, ratio)


@rule(_dropout_that_scales, bounded=True, shapes={"x": "N C", "ratio": ""})
def dropout_that_scales(x: Tensor, ratio: Tensor) -> Tensor:
    """In inference, Dropout does nothing at all."""
    return x * (1 - ratio)
