"""Weights that a processor without VNNI multiplies exactly: their scales are only as large as that takes.

x86 before VNNI multiplies bytes with VPMADDUBSW: it adds the products of two neighbours, each of an unsigned byte of up
to 255 with a signed weight, in 16 bits, and what does not fit is cut off. That happens where two weights of one sign,
which stand next to each other along the sum, exceed 128 together (255 × 128 = 32640, and 32767 fits). The usual cure
is 7-bit weights throughout (`reduce_range`). Here a channel's scale grows until its largest two neighbours fit, which
for most channels is far less than by a factor of two, and for some not at all.

Neighbours are as ONNX Runtime packs them: along K of a matrix from its start, and of a convolution's kernel first along
the input channels, then along the window (mlas, `MlasGemmPackB` and `QLinearConv::ReorderFilter`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["EXACT", "exact_scale", "neighbours"]

EXACT = 128
"""The largest magnitude of the sum of two neighbouring weights of one sign that fits, times 255, into 16 bits."""

_FITS = 127.0  # because rounding may add a half to each of the two

Array = np.ndarray[Any, Any]


def exact_scale(weight: Array, op: str, channels: int | None, *, per_channel: bool) -> Array:
    """The smallest scales, float32, of shape [C] or [], with which no sum of two products leaves 16 bits.

    `channels`: the axis of output channels, None for a vector. They say nothing about a single weight, which has to
    fit its type. A weight without elements or with zeros only needs none: 0.
    """
    sums = neighbours(weight, op, channels)
    found = sums if per_channel and channels is not None else sums.max(initial=0.0)
    return np.asarray(found / _FITS, np.float32)


def neighbours(weight: Array, op: str, channels: int | None) -> Array:
    """The largest magnitude of the sum of two neighbours of one sign, for each output channel: float64 [C], or [1]."""
    rows = _rows(weight, op, channels)
    first, second = rows[..., 0::2], rows[..., 1::2]
    if first.shape[-1] > second.shape[-1]:  # the last one stands alone
        second = np.concatenate([second, np.zeros((*second.shape[:-1], 1), second.dtype)], axis=-1)
    above = np.maximum(first, 0.0) + np.maximum(second, 0.0)
    below = np.minimum(first, 0.0) + np.minimum(second, 0.0)
    return np.asarray(np.maximum(above, -below).max(axis=(1, 2), initial=0.0), np.float64)


def _rows(weight: Array, op: str, channels: int | None) -> Array:
    """[C, B, K]: all that is summed for each channel, in the order of the kernel; B where a weight has batches."""
    if channels is None:
        return weight.reshape(1, 1, -1)
    first = np.moveaxis(weight, channels, 0)
    if op in ("Conv", "ConvTranspose"):
        return np.moveaxis(first, 1, -1).reshape(len(first), 1, math.prod(first.shape[1:]))
    return first.reshape(len(first), math.prod(first.shape[1:-1]), first.shape[-1])
